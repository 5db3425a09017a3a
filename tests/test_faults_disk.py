"""The disk fails, the power goes, the process is killed: see faults.disk."""

import errno
import os
import shutil
import subprocess
import time
from pathlib import Path
from random import Random

import pytest
from faults import Row, disk

from dcgan import rundir

pytestmark = pytest.mark.skipif(bool(disk.unavailable()), reason=disk.unavailable())


@pytest.mark.parametrize("row", disk.ROWS, ids=lambda row: row.trial.__name__)
def test_a_row_of_the_table_holds(row: Row, tmp_path: Path) -> None:
    rng, cases = Random(row.name), 0
    for trial in range(row.fast):
        (tmp_path / str(trial)).mkdir()
        cases += row.trial(rng, tmp_path / str(trial))
        if cases >= row.fast:
            break
    assert cases >= row.fast


def test_the_shim_sees_every_change(tmp_path: Path) -> None:
    # What strace would show: the recorded calls of a commit, in their order.
    grid = disk.Grid(tmp_path / "out", disk.ARMS[:1], 1)
    grid.out.mkdir()
    grid.make(watch=[str(grid.out), disk.RECORD, 0, 0, disk.CHANGES, str(tmp_path / "trace")])
    epochs = f"{grid.runs[0]}/epochs"
    calls = [
        (kind, Path(path).name)
        for kind, path, _, _ in disk.read_trace(tmp_path / "trace")
        if path.startswith(epochs) or kind == "!"
    ]
    content = (*disk.EXACT, rundir.TIMING, rundir.STATE, rundir.SUMS)
    assert {name for kind, name in calls if kind == "w"} == set(content)
    for name in content:
        kinds = [kind for kind, other in calls if other == name]
        assert (kinds[0], kinds[-1]) == ("o", "s")
        assert set(kinds[1:-1]) == {"w"}
    assert calls[:2] == [("m", "epochs"), ("m", ".0001")]
    assert calls[-4:-1] == [("s", ".0001"), ("n", ".0001"), ("s", "epochs")]
    assert calls[-1][0] == "!"


def test_a_call_is_refused_by_its_number(tmp_path: Path) -> None:
    grid = disk.Grid(tmp_path, disk.ARMS[:1], 1)
    for number in (1, 2, 9):
        watch = [str(tmp_path), disk.FAIL, number, errno.EIO, disk.CHANGES, None]
        names, text = grid.make(watch=watch)["result"]["error"]
        assert names[0] == "OSError"
        assert text.startswith(f"[Errno {errno.EIO}] ")
        assert str(tmp_path) in text


def test_a_study_on_a_full_disk_ends_with_words_and_goes_on(
    run_study, start_study, tmp_path
) -> None:
    out, full = tmp_path / "out", tmp_path / "full"
    preloaded = {"LD_PRELOAD": str(disk.shim()), "SHIM_ROOT": str(out), "SHIM_FLAG": str(full)}
    words = ("norm=none", "head=conv", "batch=512", "epochs=6")  # one run

    # The disk fills up after the first epoch.
    process = start_study(out, *words, WANDB_MODE="disabled", **preloaded)
    end = time.monotonic() + 300
    while not list(out.glob("*/*/seed=*/epochs/0001")) and process.poll() is None:
        assert time.monotonic() < end, "no epoch came"
        time.sleep(0.01)
    full.touch()
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode in (1, 2), stdout + stderr
    assert "Traceback" not in stdout + stderr
    assert os.strerror(errno.ENOSPC) in stdout + stderr
    assert "failed: norm=none,head=conv,batch=512 seed=0: OSError" in stdout

    # Nothing is lost, and nothing can begin.
    (run,) = out.glob("*/*/seed=*")
    before = rundir.committed(run)
    assert 1 <= len(before) < 6
    done = run_study(out, *words, WANDB_MODE="disabled", **preloaded)
    assert done.returncode in (1, 2)
    assert os.strerror(errno.ENOSPC) in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert rundir.committed(run) == before

    # There is room again.
    full.unlink()
    done = run_study(out, *words, WANDB_MODE="disabled", **preloaded)
    assert done.returncode == 0, done.stdout + done.stderr
    assert rundir.committed(run) == [1, 2, 3, 4, 5, 6]

    # A study.json that is not what was written is not written over.
    shutil.rmtree(rundir.epoch_folder(run, 6))
    path = run.parents[1] / "study.json"
    disk.flip(path, 1000)
    harmed = path.read_bytes()
    done = run_study(out, *words, WANDB_MODE="disabled")
    assert done.returncode == 2
    assert f"{path}: is not as it was written" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert path.read_bytes() == harmed


def test_what_safety_costs_is_printed() -> None:
    found = disk.ask(
        do="cost",
        config=disk.config(disk.ARMS[0], 1).model_dump(),
        folder=str(disk.shelf() / "cost"),
        steps=1,
        commits=3,
    )["result"]
    assert found["bytes"] > 5_000
    assert 0 < found["commit"] <= found["slowest"]
    assert found["epoch"] > 0


def test_without_a_preloaded_shim_nothing_changes(tmp_path: Path) -> None:
    command = ["sh", "-c", f"echo 1 > {tmp_path}/a && mv {tmp_path}/a {tmp_path}/b"]
    subprocess.run(command, env={**os.environ, "LD_PRELOAD": str(disk.shim())}, check=True)
    assert (tmp_path / "b").read_text() == "1\n"
