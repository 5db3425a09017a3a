"""Whole studies from the command line, as a user starts them: nothing is imitated.

What stops, kills, doubles or damages one is in faults.processes.
"""

import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from conftest import ROOT, history, run_ablation
from faults import processes

from dcgan import rundir
from experiments import launch, plan, study
from experiments.__main__ import main

OF_CODE = ("commit", "claims")  # of study.json, which change with the checkout
NAME = "ablation-smoke-shapes"
ONE = ("head=conv", "batch=512", "norm=none")  # narrows the grid to one run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The whole grid at `smoke`, mirrored offline: its output, and the study's folder."""
    out = tmp_path_factory.mktemp("finished")
    done = run_ablation(out)
    assert done.returncode == 0, done.stdout + done.stderr
    return done, out / NAME


def test_one_command_makes_every_run_and_the_report_and_nothing_else(finished):
    done, folder = finished
    assert [rundir.committed(run) for run in folder.glob("*/seed=*")] == 8 * [[1, 2]]
    assert len([*folder.glob("wandb/offline-run-*,seed=*")]) == 8
    assert (folder / "report" / "index.html").stat().st_size > 10_000
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, "cache"}
    assert done.stderr == ""


def test_the_output_is_plain_lines_then_scores_then_commands_that_work(finished):
    done, folder = finished
    assert "\x1b" not in done.stdout
    assert sum(" epoch 1/2 " in line for line in done.stdout.splitlines()) == 8
    assert "[16/16 epochs, 0 s left]" in done.stdout
    assert "index.html" in done.stdout
    _, _, end = done.stdout.partition("Means at the last epoch")
    arms = ["none,conv,128", "batch,avgpool,512", "real, held out", "untrained G"]
    assert all(f"\n{name} " in end for name in arms)
    assert end.endswith(f"  make sync STUDY={folder}\n")
    assert f"  make dashboard STUDY={folder}\n" in end


def test_what_another_process_has_made_since_the_plan_is_not_run_again(finished, monkeypatch):
    make_plan, words = plan.make_plan, ["--scale", "smoke", "--data", "shapes", "--device", "cpu"]

    def make_stale_plan(*given):
        made = make_plan(*given)
        return replace(made, committed=dict.fromkeys(made.jobs, 0), missing=made.jobs)

    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(plan, "make_plan", make_stale_plan)
    monkeypatch.setattr(launch, "execute", lambda *_: pytest.fail("every run is finished"))
    monkeypatch.setattr(study, "_finish", lambda *_: 0)
    assert main(["ablation", *words, "--out", str(finished[1].parent)]) == 0


def test_every_number_has_its_identity(finished):
    _, folder = finished
    for run in folder.glob("*/seed=*"):
        identities = rundir.unseal(run / "run.json")["identities"]
        assert identities.keys() == rundir.read_json(run, 2, rundir.RECORD)["scores"].keys()
        assert not {"fid", "is", "kid"} & identities.keys()
        fd = identities["fd_cifar"]
        assert (fd["generated"], fd["reference"]) == (200, 400)


def settled(study):
    """What a study says of itself, and every byte of its runs that no clock has touched."""
    said = {"calibration": rundir.unseal(study / rundir.CALIBRATION)}
    said |= rundir.unseal(study / "study.json") | dict.fromkeys(OF_CODE)
    return said | processes.contents(study)


def mirrored(folder):
    """The id of each run that W&B has and its epochs."""
    return {
        path.name.split("-")[3]: [row["epoch"] for row in history(folder, path) if "epoch" in row]
        for path in folder.glob("wandb/offline-run-*,seed=*")
    }


def test_two_epochs_and_three_more_are_the_bytes_of_five(tmp_path):
    longer, twin = (tmp_path / name / NAME for name in ("longer", "twin"))
    for folder, lengths in ((longer, (2, 5)), (twin, (5,))):
        for epochs in lengths:
            done = run_ablation(folder.parent, *ONE, "--epochs", str(epochs))
            assert done.returncode == 0, done.stderr
            assert f"[{epochs}/{epochs} epochs, 0 s left]" in done.stdout
            assert len((folder / "report/records.csv").read_text().splitlines()) == 1 + epochs
        assert list(mirrored(folder).values()) == [[*range(1, 6)]]
    assert mirrored(longer).keys() == mirrored(twin).keys()
    got, wanted = settled(longer), settled(twin)
    assert len([name for name in wanted if name.endswith(".safetensors")]) == 2 + 3
    assert got.keys() == wanted.keys()
    assert [name for name in wanted if got[name] != wanted[name]] == []

    # Fewer epochs are there already, and what is planned stays planned. A state too many, as a run
    # leaves it that was killed after its last commit, goes.
    (run,) = longer.glob("*/seed=*")
    states = [rundir.epoch_folder(run, epoch) / rundir.STATE for epoch in (5, 3)]
    shutil.copy(*states)
    mirrors = {x: x.stat().st_mtime_ns for x in longer.rglob("offline-run-*,seed*/*.wandb")}
    done = run_ablation(longer.parent, *ONE, "--epochs", "3")
    assert done.returncode == 0, done.stderr
    assert "1 are done" in done.stdout
    assert "3 of 600 images; 3 are done" in done.stdout
    assert "images/s" not in done.stdout
    assert settled(longer) == got
    assert {path: path.stat().st_mtime_ns for path in mirrors} == mirrors != {}


def test_a_repository_around_the_project_is_not_the_projects(tmp_path, monkeypatch):
    known = re.fullmatch(r"[0-9a-f]{12}(\+changes)?", launch.git_commit())
    assert bool(known) == (ROOT / ".git").exists()
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "copy").mkdir()
    monkeypatch.setattr(launch, "ROOT", tmp_path / "copy")
    assert launch.git_commit() == "unknown"
