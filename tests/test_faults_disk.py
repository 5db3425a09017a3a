"""The disk fails, the power goes, the process is killed: see faults.disk."""

import errno
import os
from pathlib import Path
from random import Random

import pytest
from faults import Row, disk, processes

from dcgan import rundir

pytestmark = pytest.mark.skipif(bool(disk.unavailable()), reason=disk.unavailable())


@pytest.mark.parametrize("row", disk.ROWS, ids=lambda row: row.trial.__name__)
def test_a_row_of_the_table_holds(row: Row, tmp_path: Path) -> None:
    rng, cases = Random(row.trial.__name__), 0
    for trial in range(row.fast):
        (tmp_path / str(trial)).mkdir()
        cases += row.trial(rng, tmp_path / str(trial))
        if cases >= row.fast:
            break
    assert cases >= row.fast


def test_nothing_is_promised_that_a_power_cut_could_take(tmp_path: Path) -> None:
    grid = disk.Grid(tmp_path / "out", tuple(disk.ARMS[:1]), 3)
    grid.out.mkdir()
    grid.make(disk.RECORD, trace=str(tmp_path / "trace"))
    calls = list(disk.read_trace(tmp_path / "trace"))
    assert disk.check_synced(calls) == 3
    for missing in ("0001", ".0002", "epochs", rundir.STATE, ".run.json", "seed=0"):
        rest = [call for call in calls if (call[0], Path(call[1]).name) != ("s", missing)]
        if missing == "0001":
            assert len(rest) == len(calls)  # it is synced before it is renamed
            continue
        with pytest.raises(AssertionError, match=r"renamed|not synced"):
            disk.check_synced(rest)

    # All of an epoch is written.
    written = {Path(path).name for kind, path, *_ in calls if kind == "w" and ".0001/" in path}
    assert written == {*disk.EXACT, rundir.TIMING, rundir.STATE, rundir.SUMS}


def test_a_study_on_a_full_disk_ends_with_words_and_goes_on(
    run_study, start_study, tmp_path
) -> None:
    out, full = tmp_path / "out", tmp_path / "full"
    preloaded = {"LD_PRELOAD": str(disk.shim()), "SHIM_ROOT": str(out), "SHIM_FLAG": str(full)}
    words = ("norm=none", "head=conv", "batch=512", "epochs=6", *processes.GRID)  # one run

    # The disk fills up after the first epoch.
    process = start_study(out, *words, WANDB_MODE="disabled", **preloaded)
    processes.until(lambda: list(out.glob("*/*/seed=*/epochs/0001")), "an epoch")
    full.touch()
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode in (1, 2), stdout + stderr
    assert "Traceback" not in stdout + stderr
    assert os.strerror(errno.ENOSPC) in stdout + stderr
    assert "failed: norm=none,head=conv,batch=512 seed=0: OSError" in stdout
    (run,) = out.glob("*/*/seed=*")
    assert 1 <= len(rundir.committed(run)) < 6

    # There is space again.
    full.unlink()
    done = run_study(out, *words, WANDB_MODE="disabled")
    assert done.returncode == 0, done.stdout + done.stderr
    assert rundir.committed(run) == [1, 2, 3, 4, 5, 6]
