import contextlib
import errno
import fcntl
import itertools
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from threading import Timer

import pytest
from conftest import contents

from dcgan import rundir
from dcgan.rundir import GENERATOR, RECORD, SAMPLES, STATE, SUMS, TIMING, commit, committed

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


def content(epoch):
    return {
        RECORD: f'{{"epoch": {epoch}}}'.encode(),
        TIMING: b"{}",
        SAMPLES: b"png",
        GENERATOR: b"weights",
        STATE: f"state {epoch}".encode(),
    }


@pytest.fixture
def run(tmp_path):
    for epoch in (1, 2, 3, 4):
        commit(tmp_path, epoch, content(epoch))
        rundir.prune(tmp_path, epoch)
    return tmp_path


@pytest.mark.parametrize("name", [RECORD, TIMING, SAMPLES])
@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_a_damaged_record_ends_the_run_there(run, name, harm):
    path = rundir.epoch_folder(run, 3) / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] if harm == "truncate" else bytes([whole[0] ^ 32]) + whole[1:])
    if harm == "remove":
        path.unlink()
    assert committed(run) == [1, 2]
    with pytest.raises(rundir.Damaged, match=name):
        rundir.read(rundir.epoch_folder(run, 3), name)


def test_the_sums_are_what_coreutils_checks(run):
    command = ["sha256sum", "--check", SUMS]
    subprocess.run(command, cwd=rundir.epoch_folder(run, 4), capture_output=True, check=True)


def test_what_was_staged_and_not_renamed_is_not_there(run):
    staged = run / "epochs" / ".0005"
    staged.mkdir()
    (staged / RECORD).write_bytes(b"{}")
    assert committed(run) == [1, 2, 3, 4]
    commit(run, 5, content(5))
    assert committed(run) == [1, 2, 3, 4, 5]
    assert not staged.exists()


def test_another_config_is_an_error_that_names_the_key(tmp_path):
    stored = {"config": {"width": 32, "seed": 0}}
    rundir.describe(tmp_path, stored)
    rundir.describe(tmp_path, stored)
    with pytest.raises(rundir.Differs, match="width=32 is stored, width=64 is asked for"):
        rundir.describe(tmp_path, {"config": {"width": 64, "seed": 0}})
    assert rundir.unseal(tmp_path / "run.json") == stored


def test_a_copy_beside_the_epochs_is_no_epoch_and_stays(tmp_path):
    for epoch in (1, 2, 3):
        rundir.commit(tmp_path, epoch, content(epoch))
    shutil.copytree(rundir.epoch_folder(tmp_path, 3), copy := tmp_path / "epochs" / "0003 (copy)")
    rundir.rewind(tmp_path, 2)
    rundir.prune(tmp_path, 2)
    assert rundir.kept(tmp_path) == committed(tmp_path) == [1, 2]
    assert contents(copy).keys() == {*content(3), rundir.SUMS}


def test_how_long_a_run_goes_on_is_no_difference_and_the_longest_is_kept(tmp_path):
    stored = []
    for epochs in (4, 8, 3):
        description = {"config": {"width": 32, "epochs": epochs, "seed": 0}}
        rundir.describe(tmp_path, description)
        stored.append(rundir.unseal(tmp_path / "run.json")["config"])
    assert [config.pop("epochs") for config in stored] == [4, 8, 8]
    assert [list(config) for config in stored] == [["width", "seed"]] * 3


def test_a_finished_run_that_lost_its_states_is_known(run):
    (run / "run.json").write_bytes(rundir.seal({"config": {"epochs": 5}}))
    for path in run.glob(f"epochs/*/{STATE}"):
        path.unlink()
    assert not rundir.is_without_state(run, 4)  # half-done: it is made again from the beginning
    commit(run, 5, content(5))
    assert not rundir.is_without_state(run, 5)
    (rundir.epoch_folder(run, 5) / STATE).unlink()
    assert rundir.is_without_state(run, 5)


def test_epochs_without_their_description_are_not_taken_for_what_is_asked_for(run):
    said = "run.json: No such file or directory; remove the run to make it again"
    with pytest.raises(rundir.Damaged, match=f"{run}/{said}"):
        rundir.describe(run, {"config": {}})
    assert committed(run) == [1, 2, 3, 4]


def test_every_flipped_bit_and_every_cut_of_a_sealed_file_is_found(tmp_path):
    path, value = tmp_path / "study.json", {"a": {"sha256": "b"}, "c": [0.1], "d": {}}
    whole = rundir.seal(value)
    path.write_bytes(whole)
    assert rundir.unseal(path) == value
    flipped = [bytearray(whole) for _ in range(8 * len(whole))]
    for bit, data in enumerate(flipped):
        data[bit // 8] ^= 1 << bit % 8
    for harmed in [*flipped, *(whole[:length] for length in range(len(whole)))]:
        path.write_bytes(harmed)
        with pytest.raises(rundir.Damaged, match=r"study\.json"):
            rundir.unseal(path)


def test_what_cannot_be_read_just_now_is_no_damage(run, monkeypatch):
    # A file that is there and gives EIO may be whole: nothing is computed again because of it.
    def fail(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "read_bytes", fail)
    for function in (committed, lambda run: rundir.last_state(run, [1])):
        with pytest.raises(OSError, match="Input/output error"):
            function(run)


class Killed(BaseException):
    """What no code recovers from."""


def strike(monkeypatch, number, fault):
    """Let the `number`-th change to the disk from here on fail; returns the changes until then.

    Of a file that is being written, only half is on the disk then.
    """
    changes = []

    def watched(name, change):
        def call(target, *rest, **options):
            path = os.readlink(f"/proc/self/fd/{target}") if name == "fsync" else str(target)
            changes.append((name, path))
            if len(changes) == number:
                if os.path.isfile(path):
                    os.truncate(path, os.path.getsize(path) // 2)
                raise fault
            return change(target, *rest, **options)

        return call

    for owner, name in ((os, "fsync"), (Path, "rename"), (Path, "mkdir"), (Path, "unlink")):
        monkeypatch.setattr(owner, name, watched(name, getattr(owner, name)))
    return changes


def commit_and_prune(run, epoch):
    rundir.rewind(run, len(committed(run)))
    if epoch not in committed(run):
        commit(run, epoch, content(epoch))
    rundir.prune(run, epoch)


@linux
@pytest.mark.parametrize("fault", [Killed(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))])
def test_a_fault_at_any_change_to_the_disk_costs_no_committed_epoch(run, fault, tmp_path_factory):
    commit_and_prune(twin := Path(shutil.copytree(run, tmp_path_factory.mktemp("a") / "run")), 5)
    for number in itertools.count(1):
        copy = Path(shutil.copytree(run, tmp_path_factory.mktemp("b") / "run"))
        with pytest.MonkeyPatch.context() as patch:
            changes = strike(patch, number, fault)
            with contextlib.suppress(type(fault)):
                commit_and_prune(copy, 5)
        assert committed(copy) in ([1, 2, 3, 4], [1, 2, 3, 4, 5])
        last = len(committed(copy))
        assert rundir.last_state(copy, committed(copy)) == (last, content(last)[STATE])
        commit_and_prune(copy, 5)
        assert contents(copy) == contents(twin)
        if len(changes) < number:
            break
    assert number > len(content(5))


@linux
def test_an_epoch_is_on_the_disk_before_it_is_named_and_its_name_before_commit_returns(
    run, monkeypatch
):
    changes = strike(monkeypatch, 0, None)
    commit(run, 5, content(5))
    staged = run / "epochs" / ".0005"
    renamed = changes.index(("rename", str(staged)))
    synced = {path for name, path in changes[:renamed] if name == "fsync"}
    assert {str(staged / name) for name in (*content(5), SUMS)} | {str(staged)} <= synced
    assert changes[renamed + 1 :] == [("fsync", str(run / "epochs"))]


def test_a_folder_lasts_once_it_is_made(tmp_path, monkeypatch):
    # Every new entry is synced, from the top.
    synced, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino) or sync(fd))
    run = tmp_path / "study" / "arm" / "run"
    run.parents[1].mkdir()
    commit(run, 1, content(1))
    folders = [run.parents[1], run.parent, run]
    assert synced[:3] == [folder.stat().st_ino for folder in folders]
    assert synced[-1] == (run / "epochs").stat().st_ino


def test_a_folder_has_one_owner_who_is_named(tmp_path):
    other = (
        "import sys; from pathlib import Path; from dcgan.rundir import owned\n"
        "with owned(Path(sys.argv[1])): print('mine', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", other, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"mine\n"
    with pytest.raises(rundir.Busy, match=f"process {process.pid} on "), rundir.owned(tmp_path):
        pass

    # A killed owner leaves no lock behind.
    process.kill()
    process.wait()
    with rundir.owned(tmp_path):
        pass


def test_an_owner_is_seen_while_it_has_its_lock_and_whoever_asks_is_waited_for(tmp_path):
    assert rundir.owner_of(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    with rundir.owned(tmp_path):
        assert rundir.owner_of(tmp_path) == f"process {os.getpid()} on {socket.gethostname()}"
    assert f"process {os.getpid()} on " in (tmp_path / "lock").read_text()
    assert rundir.owner_of(tmp_path) is None
    with open(tmp_path / "lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        Timer(0.1, lambda: fcntl.flock(lock, fcntl.LOCK_UN)).start()
        with rundir.owned(tmp_path):
            assert rundir.owner_of(tmp_path)
