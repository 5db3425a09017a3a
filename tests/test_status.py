"""Where a study stands, on made-up studies whose every run is known."""

import hashlib
import os
import re
import socket

import pytest

from dcgan import rundir
from experiments import __main__ as command
from experiments import grid, status

ARMS = {"norm": ["none", "batch"], "head": ["conv"], "batch": [128]}
LATEST = ((0, 4), (1, 2), (3, 4))  # seeds of GOOD, and their last epochs
GOOD, BAD = "norm=none,head=conv,batch=128", "norm=batch,head=conv,batch=128"


@pytest.fixture
def study(make_study, tmp_path):
    """Eight runs of four epochs: of every state but `running` at least one."""
    few = {f"{GOOD}/seed=1": 2, f"{GOOD}/seed=2": 0, f"{BAD}/seed=1": 1, f"{BAD}/seed=3": 0}
    folder = make_study(tmp_path, range(4), 4, ARMS, committed=few, resolution=16, points=2)
    said = "Traceback:\n  f()\nValueError: [b]no[/b]\n\n"
    (folder / BAD / "seed=1" / "error.txt").write_text(said)
    path = folder / BAD / "seed=2" / "epochs/0004" / rundir.RECORD
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    return folder


def states(result):
    return {(run.arm, run.seed): (run.state, run.epoch) for run in result.runs}


def test_each_run_has_the_state_that_its_folder_shows(study):
    result = status.look(study)
    good = [("done", 4), ("stopped", 2), ("missing", 0), ("done", 4)]
    bad = [("done", 4), ("failed", 1), ("damaged", 3), ("missing", 0)]
    assert [states(result)[GOOD, seed] for seed in range(4)] == good
    assert [states(result)[BAD, seed] for seed in range(4)] == bad
    assert len(result.runs) == 8
    assert result.states == {"done": 3, "failed": 1, "damaged": 1, "stopped": 1, "missing": 2}
    assert (result.epochs, result.epochs_done, result.owner) == (32, 18, None)
    notes = {run.state: run.note for run in result.runs}
    assert notes["failed"] == "ValueError: [b]no[/b]"
    assert notes["damaged"] == "epochs/0004/record.json: its SHA-256 is not the committed one"
    (stopped,) = (run for run in result.runs if run.state == "stopped")
    record = rundir.read_json(study / GOOD / "seed=1", 2, rundir.RECORD)
    assert stopped.scores["fd_cifar"] == record["scores"]["fd_cifar"]


def test_a_run_is_at_work_while_its_lock_is_held_and_looking_changes_nothing(study):
    def times():
        return {path: path.stat().st_mtime_ns for path in [study, *study.rglob("*")]}

    run = study / GOOD / "seed=2"
    with rundir.owned(study), rundir.owned(run):
        before, result = times(), status.look(study)
        assert times() == before
        assert states(result)[GOOD, 2] == ("running", 0)
        assert result.owner == f"process {os.getpid()} on {socket.gethostname()}"
    assert (run / "lock").exists()
    assert states(status.look(study))[GOOD, 2] == ("missing", 0)
    assert status.look(study).owner is None


def test_the_time_left_is_that_of_the_remaining_epochs(study):
    for path in study.glob(f"*/seed=*/epochs/*/{rundir.SUMS}"):
        seconds = {GOOD: 2.0, BAD: 10.0}[path.parents[3].name]
        timing = rundir.to_json({"train_seconds": seconds - 1, "score_seconds": 1.0})
        (path.parent / rundir.TIMING).write_bytes(timing)
        sums = {rundir.TIMING: hashlib.sha256(timing).hexdigest()}
        path.write_bytes(rundir.to_lines(rundir.read_sums(path.parent) | sums))

    # Two runs at a time: GOOD lacks 2 + 4 epochs, BAD 3 + 1 + 4, of 6 s in the mean of six runs.
    assert status.look(study).seconds_left == pytest.approx(14 * 6 / 2)

    # The longest run takes its own time, however many go on at a time.
    info = rundir.unseal(study / "study.json")
    info["hardware"]["jobs"] = 100
    rundir.replace(study / "study.json", rundir.seal(info))
    assert status.look(study).seconds_left == pytest.approx(4 * 6)


def test_a_run_that_diverged_is_done_and_listed(make_study, tmp_path):
    lost = {f"{BAD}/seed=0": 2}
    folder = make_study(tmp_path, epochs=2, factors=ARMS, diverged=lost, resolution=16, points=2)
    result = status.look(folder)
    assert result.states == {"done": 2}
    assert [run.note for run in result.runs] == ["", "diverged"]
    assert status.to_text(result).endswith(f"done      2/2  {BAD} seed=0: diverged")


def test_a_damaged_run_is_shown_and_hides_no_other(study):
    (study / GOOD / "seed=0" / "run.json").write_bytes(b"{}")
    result = status.look(study)
    assert states(result)[GOOD, 0][0] == "damaged"
    assert result.states["done"] == 2


def test_a_run_that_is_planned_for_longer_is_not_done(study):
    run = study / GOOD / "seed=0"
    longer = rundir.unseal(run / "run.json")["config"] | {"epochs": 6}
    rundir.describe(run, {"config": longer})
    result = status.look(study)
    assert states(result)[GOOD, 0] == ("stopped", 4)
    assert (result.epochs, result.epochs_done) == (34, 18)


def test_the_text_has_an_arm_a_row_and_a_line_for_what_is_not_well(study, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = status.to_text(status.look(study))
    assert "3 of 8 runs done, 18 of 32 epochs" in text
    lines = text.splitlines()
    (heads,) = (line.split() for line in lines if line.startswith("norm,"))
    counted = ["done", "failed", "damaged", "stopped", "missing"]
    assert heads == ["norm,head,batch", *counted, "epochs", "fd_cifar"]
    for arm in (GOOD, BAD):
        (row,) = (line for line in lines if line.startswith(f"{grid.levels(arm)} "))
        assert re.search(r"/16 +\d+\.\d+$", row)
        assert len(row) <= 80
    damage = "epochs/0004/record.json: its SHA-256 is not the committed one"
    assert lines[-3:] == [
        f"failed    1/4  {BAD} seed=1: ValueError: [b]no[/b]",
        f"damaged   3/4  {BAD} seed=2: {damage}",
        f"stopped   2/4  {GOOD} seed=1",
    ]


def test_scores_stand_beside_the_calibration_in_80_columns(study, calibrate_study, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    calibrate_study(study)
    lines = status.scores_to_text(study).splitlines()
    assert max(map(len, lines)) <= 80
    rows = {line[:16].strip(): line[16:].split() for line in reversed(lines) if line}
    latest = [rundir.read_json(study / GOOD / f"seed={s}", e, rundir.RECORD) for s, e in LATEST]
    mean = sum(record["scores"]["fd_cifar"] for record in latest) / len(latest)
    assert {"none,conv,128", "batch,conv,128", "real, held out"} < rows.keys()
    assert rows["none,conv,128"][0] == f"{mean:.4g}"
    assert rows["flat colours"][0] == "83.5"


def test_the_command_takes_the_newest_study(study, capsys, tmp_path):
    assert command.main(["status", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith(f"{study}: 3 of 8 runs done")
