"""Whole studies from the command line, as a user starts them: nothing is imitated."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dcgan import rundir
from experiments import launch
from reports import records

ROOT = Path(__file__).resolve().parents[1]
EXACT = (rundir.RECORD, rundir.SAMPLES, rundir.STATE, rundir.GENERATOR)
OF_CODE = ("commit", "claims", "sha256")  # of study.json, which change with the checkout
PAIR = ("head=conv", "batch=512")  # narrows the grid to two runs


def contents(folder):
    """Every byte of a study that must not depend on when and how it was run."""
    found = {}
    for path in sorted(folder.glob("*/seed=*/epochs/*/*")):
        if path.name in EXACT:
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def finished(run_study, tmp_path_factory):
    """The whole grid at `smoke`, mirrored offline: its output, and the study's folder."""
    out = tmp_path_factory.mktemp("finished")
    done = run_study(out)
    assert done.returncode == 0, done.stdout + done.stderr
    return done, out / "ablation-smoke-shapes"


def test_one_command_makes_every_run_and_the_report(finished):
    done, folder = finished
    runs = sorted(folder.glob("*/seed=*"))
    assert len(runs) == 8
    assert all(rundir.committed(run) == [1, 2] for run in runs)
    assert (folder / "report" / "index.html").stat().st_size > 10_000
    assert "index.html" in done.stdout
    assert done.stderr == ""

    # The end is a table of scores, then commands that work as they are printed.
    _, _, end = done.stdout.partition("Means at the last epoch")
    arms = ["none,conv,128", "batch,avgpool,512", "real, held out", "untrained G"]
    assert all(f"\n{name} " in end for name in arms)
    assert end.endswith(f"  make sync STUDY={folder}\n")
    assert f"  make dashboard STUDY={folder}\n" in end


def test_output_that_is_no_terminal_is_plain_lines(finished):
    done, _ = finished
    assert "\x1b" not in done.stdout
    assert sum(" epoch 1/2 " in line for line in done.stdout.splitlines()) == 8
    assert "[16/16 epochs, 0 s left]" in done.stdout


def test_wandbs_history_of_every_run_is_its_records(finished, wandb_history, expected_history):
    _, folder = finished
    mirrors = sorted(folder.glob("wandb/offline-run-*,seed=*"))
    assert len(mirrors) == 8
    assert len(list(folder.glob("wandb/offline-run-*-report"))) == 1
    wanted = [expected_history(run) for run in folder.glob("*/seed=*")]
    for mirror in mirrors:
        rows = [
            {name: value for name, value in row.items() if not name.startswith(("_", "samples"))}
            for row in wandb_history(folder, mirror)
        ]
        assert rows in wanted
    assert len({json.dumps(rows) for rows in wanted}) == 8


def test_nothing_is_written_outside_out(finished):
    _, folder = finished
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, "cache"}


def test_every_number_has_its_identity(finished):
    _, folder = finished
    for run in folder.glob("*/seed=*"):
        identities = json.loads((run / "run.json").read_bytes())["identities"]
        scores = rundir.read_json(run, 2, rundir.RECORD)["scores"]
        assert identities.keys() == scores.keys()
        assert not {"fid", "is", "kid"} & scores.keys()
        assert identities["fd_cifar"]["generated"] == 200
        assert identities["fd_cifar"]["reference"] == 400


def test_arms_are_paired(finished):
    # Before any training the arms agree; the first epoch's samples then differ with the batch.
    _, folder = finished
    images = {
        tuple(point["images"] for point in rundir.read_json(run, 1, rundir.RECORD)["curve"])
        for run in folder.glob("*batch=128/seed=0")
    }
    assert len(images) == 1
    assert (
        rundir.read_json(folder / "norm=none,head=conv,batch=512/seed=0", 1, rundir.RECORD)[
            "images"
        ]
        == images.pop()[-1]
    )


def test_a_second_start_starts_nothing(finished, run_study):
    _, folder = finished
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/seed=*/**/*")}
    mirrors = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    written = [path.stat().st_mtime_ns for path in mirrors]
    done = run_study(folder.parent)
    assert done.returncode == 0, done.stderr
    assert "8 are done" in done.stdout
    assert "images/s" not in done.stdout
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/seed=*/**/*")} == before
    assert [path.stat().st_mtime_ns for path in mirrors] == written


def strike(process, out, after, number):
    """Send a study a signal once `after` epochs are committed; its exit code, output, seconds."""
    end = time.monotonic() + 600
    while len(list(out.glob("*/*/seed=*/epochs/[0-9]*"))) < after and process.poll() is None:
        assert time.monotonic() < end, "no epoch came"
        time.sleep(0.05)
    began = time.monotonic()
    if number == signal.SIGINT:  # as a terminal does: to the whole group
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout + stderr, time.monotonic() - began


def test_interrupted_studies_end_with_the_same_bytes(finished, run_study, start_study, tmp_path):
    _, folder = finished
    words = ("head=conv", "batch=128", "--epochs", "20")
    struck, twin = tmp_path / "struck", tmp_path / "twin"
    for out in (struck, twin):
        shutil.copytree(folder.parent / "cache", out / "cache")

    def stop(after, number):
        process = start_study(struck, *words, "--jobs", "2", WANDB_MODE="disabled")
        return strike(process, struck, after, number)

    code, output, seconds = stop(1, signal.SIGINT)
    assert code == 130, output
    assert "the same command goes on" in output
    assert "Traceback" not in output
    assert seconds < 10

    code, _, _ = stop(8, signal.SIGKILL)
    assert code == -signal.SIGKILL
    code, output, seconds = stop(16, signal.SIGTERM)
    assert code == 143, output
    assert "Traceback" not in output
    assert seconds < 10

    # Other JOBS, too, are the same bytes.
    for out, jobs in ((struck, "1"), (twin, "2")):
        done = run_study(out, *words, "--jobs", jobs, WANDB_MODE="disabled")
        assert done.returncode == 0, done.stderr
    got, wanted = (contents(out / folder.name) for out in (struck, twin))
    assert len(wanted) > 80
    assert got.keys() == wanted.keys()
    assert [name for name in wanted if got[name] != wanted[name]] == []


def test_damage_is_found_and_the_same_bytes_come_again(finished, run_study, tmp_path):
    _, folder = finished
    shutil.copytree(folder.parent, tmp_path, dirs_exist_ok=True)
    copy = tmp_path / folder.name
    runs = [copy / f"norm={norm},head=conv,batch=512" / "seed=0" for norm in ("none", "batch")]
    for run, (epoch, name) in zip(runs, [(2, rundir.RECORD), (1, rundir.SAMPLES)], strict=True):
        path = rundir.epoch_folder(run, epoch) / name
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    done = run_study(tmp_path, *PAIR)
    assert done.returncode == 0, done.stdout + done.stderr
    assert contents(copy) == contents(folder)


def test_one_failed_run_does_not_stop_the_others(finished, run_study, tmp_path):
    _, folder = finished
    shutil.copytree(folder.parent / "cache", tmp_path / "cache")
    broken = tmp_path / folder.name / "norm=none,head=conv,batch=512" / "seed=0"
    broken.mkdir(parents=True)
    (broken / "epochs").write_text("a file where a folder should be")
    done = run_study(tmp_path, *PAIR, WANDB_MODE="disabled")
    assert done.returncode == 1
    assert "make dashboard" not in done.stdout
    assert "failed: norm=none,head=conv,batch=512 seed=0" in done.stdout
    other = tmp_path / folder.name / "norm=batch,head=conv,batch=512" / "seed=0"
    assert rundir.committed(other) == [1, 2]
    assert "epochs" in (broken / "error.txt").read_text()

    # Once the cause is gone, the same command finishes it.
    (broken / "epochs").unlink()
    done = run_study(tmp_path, *PAIR, WANDB_MODE="disabled")
    assert done.returncode == 0, done.stdout
    assert rundir.committed(broken) == [1, 2]
    assert not (broken / "error.txt").exists()


def test_a_narrowed_start_keeps_the_rest_of_the_study(finished, run_study, tmp_path):
    _, folder = finished
    shutil.copytree(folder.parent, tmp_path, dirs_exist_ok=True)
    copy = tmp_path / folder.name
    run = copy / "norm=none,head=conv,batch=512" / "seed=0"
    shutil.rmtree(rundir.epoch_folder(run, 2))
    assert run_study(tmp_path, *PAIR, WANDB_MODE="disabled").returncode == 0
    factors = [json.loads((f / "study.json").read_bytes())["factors"] for f in (copy, folder)]
    assert factors[0] == factors[1]


def test_two_starts_on_one_study_are_refused_by_the_owners_name(finished, run_study, tmp_path):
    _, folder = finished
    shutil.copytree(folder.parent / "cache", tmp_path / "cache")
    with rundir.owned(tmp_path / folder.name):
        done = run_study(tmp_path, *PAIR)
    assert done.returncode == 2
    assert f"in use by process {os.getpid()} on " in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_another_config_in_the_same_place_is_refused_by_key(finished, run_study):
    _, folder = finished
    done = run_study(folder.parent, "lr_g=1e-3")
    assert done.returncode == 2
    assert "lr_g=0.0002 is stored, lr_g=0.001 is asked for" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def settled(out):
    """Every byte below `out` that no clock and no commit of the code has touched."""
    clock = ("timing.json", "throughput", "tables.", "index.html", "records.parquet")
    found = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name = path.relative_to(out).as_posix()
        if not any(part in name for part in (*clock, "wandb", "lock", "cache")):
            lines = path.read_bytes().splitlines()
            found[name] = [line for line in lines if not line.endswith(b"  timing.json")]
            if path.name == "records.csv":
                times = set(records.TIMES)
                rows = csv.DictReader(path.read_text().splitlines())
                found[name] = [{k: v for k, v in row.items() if k not in times} for row in rows]
            if path.name == "study.json":
                stored = json.loads(path.read_bytes())
                found[name] = [(k, stored[k]) for k in stored if k not in OF_CODE]
    return found


def mirrored(folder, wandb_history):
    """The id of each run that W&B has and its epochs."""
    return {
        path.name.split("-")[3]: [
            row["epoch"] for row in wandb_history(folder, path) if "epoch" in row
        ]
        for path in folder.glob("wandb/offline-run-*,seed=*")
    }


def test_four_epochs_and_four_more_are_the_bytes_of_eight(
    finished, run_study, wandb_history, tmp_path
):
    _, folder = finished
    outs = longer, twin = tmp_path / "longer", tmp_path / "twin"
    for out in outs:
        shutil.copytree(folder.parent / "cache", out / "cache")
    for out, lengths in ((longer, (4, 8)), (twin, (8,))):
        for epochs in lengths:
            done = run_study(out, *PAIR, "--epochs", str(epochs))
            assert done.returncode == 0, done.stderr
            assert f"[{2 * epochs}/{2 * epochs} epochs, 0 s left]" in done.stdout
            ids = mirrored(out / folder.name, wandb_history)
            assert list(ids.values()) == [[*range(1, epochs + 1)]] * 2
    assert ids.keys() == mirrored(longer / folder.name, wandb_history).keys()
    got, wanted = map(settled, outs)
    assert len([name for name in wanted if name.endswith(".safetensors")]) == 2 * (2 + 4)
    assert got.keys() == wanted.keys()
    assert [name for name in wanted if got[name] != wanted[name]] == []

    # Fewer epochs are there already, and what is planned stays planned.
    done = run_study(longer, *PAIR, "--epochs", "3")
    assert done.returncode == 0, done.stderr
    assert "2 are done" in done.stdout
    assert "6 of 600 images; 6 are done" in done.stdout
    assert settled(longer) == got


def test_publishing_copies_records_and_rebuilds_the_report(finished, tmp_path):
    _, folder = finished
    for name in ("dcgan", "eval", "experiments", "reports"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("published"))
    done = subprocess.run(
        [sys.executable, "-m", "experiments", "publish", str(folder)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    target = tmp_path / "reports" / "published" / folder.name
    names = {path.name for path in target.glob("*/seed=*/epochs/*/*")}
    assert names == {rundir.RECORD, rundir.TIMING, rundir.SAMPLES, rundir.SUMS}
    for part in ("tables/last.csv", "tables/tables.tex", "figures/fd_cifar.svg"):
        assert (target / "report" / part).read_bytes() == (folder / "report" / part).read_bytes()


def test_a_repository_around_the_project_is_not_the_projects(tmp_path, monkeypatch):
    known = re.fullmatch(r"[0-9a-f]{12}(\+changes)?", launch.commit())
    assert bool(known) == (ROOT / ".git").exists()
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "copy").mkdir()
    monkeypatch.setattr(launch, "ROOT", tmp_path / "copy")
    assert launch.commit() == "unknown"
