"""The run directory and its commit protocol. An epoch is committed by one rename.

<run>/run.json              the config, the fingerprint of the machine, the metrics' identities
<run>/lock                  held by the one process that may write here
<run>/epochs/0007/          one committed epoch, never changed afterwards but for pruning:
    record.json             losses and scores: a function of the config alone
    timing.json             seconds and speeds, which no repetition reproduces
    samples.png             the same noise through the generator at every epoch
    generator.safetensors   at milestones, so that a finished run can be scored again
    state.safetensors       all that the next epoch needs; only the last ones are kept
    SHA256SUMS              of the files above, as coreutils writes and checks it
"""

import fcntl
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RECORD, TIMING, SAMPLES = "record.json", "timing.json", "samples.png"
STATE, GENERATOR, SUMS = "state.safetensors", "generator.safetensors", "SHA256SUMS"
PRUNABLE = (STATE, GENERATOR)  # may be missing from a whole epoch
STATES_KEPT = 2


class Damaged(Exception):
    """A committed file is missing or is not what was committed."""


class Busy(Exception):
    """Another process owns this folder."""


class Differs(Exception):
    """A stored run is not the run that was asked for."""


def to_json(value: Any) -> bytes:
    """The one way in which this project writes JSON: full precision, no NaN."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def epoch_folder(run: Path, epoch: int) -> Path:
    return run / "epochs" / f"{epoch:04d}"


def commit(run: Path, epoch: int, files: dict[str, bytes]) -> None:
    """Commit one epoch: all of its files appear at once, or none does."""
    target = epoch_folder(run, epoch)
    staged = target.with_name(f".{target.name}")
    if staged.exists():
        shutil.rmtree(staged)
    staged.mkdir(parents=True)

    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
    for name, data in {**files, SUMS: sums.encode()}.items():
        _write(staged / name, data)
    _sync_folder(staged)

    staged.rename(target)
    _sync_folder(target.parent)


def replace(path: Path, data: bytes) -> None:
    """Write a file that is not part of an epoch: the old content stays until the new is on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}")
    _write(staged, data)
    staged.rename(path)
    _sync_folder(path.parent)


def describe(run: Path, description: dict[str, dict[str, Any]]) -> None:
    """Write run.json, or check it where it stands: raises Differs with the keys and both values."""
    if differences := compare(run, description):
        raise Differs(f"{run}: {'; '.join(differences)}")
    replace(run / "run.json", to_json(description))


def compare(run: Path, description: dict[str, dict[str, Any]]) -> list[str]:
    """What a stored run.json says differently, in words; nothing where there is none."""
    try:
        stored = json.loads((run / "run.json").read_bytes())
    except FileNotFoundError:
        return []
    except ValueError:
        return ["run.json is damaged; remove the run to make it again"]
    return [
        f"{key}={old} is stored, {key}={new} is asked for"
        for part, wanted in description.items()
        for key in sorted(stored[part].keys() | wanted.keys())
        if (old := stored[part].get(key)) != (new := wanted.get(key))
    ]


def read(run: Path, epoch: int, name: str) -> bytes:
    """The bytes of one committed file, checked against its sum; raises Damaged."""
    path = epoch_folder(run, epoch) / name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Damaged(f"{path}: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != _sums(path.parent).get(name):
        raise Damaged(f"{path}: its SHA-256 is not the committed one")
    return data


def read_json(run: Path, epoch: int, name: str) -> Any:
    return json.loads(read(run, epoch, name))


def committed(run: Path) -> list[int]:
    """The epochs 1, 2, ... up to the first whose files are not as they were committed."""
    epochs: list[int] = []
    while (folder := epoch_folder(run, len(epochs) + 1)).exists():
        try:
            for name in _sums(folder):
                if name not in PRUNABLE:
                    read(run, len(epochs) + 1, name)
        except Damaged:
            break
        epochs.append(len(epochs) + 1)
    return epochs


def last_state(run: Path) -> tuple[int, bytes] | None:
    """The newest committed epoch whose state is whole, and that state."""
    for epoch in reversed(committed(run)):
        try:
            return epoch, read(run, epoch, STATE)
        except Damaged:
            continue
    return None


def rewind(run: Path, epoch: int) -> None:
    """Forget what was staged and every epoch after this one: they will be computed again."""
    for folder in sorted((run / "epochs").glob("*"), reverse=True):
        if folder.name.startswith(".") or int(folder.name) > epoch:
            shutil.rmtree(folder)


def prune(run: Path, epoch: int) -> None:
    """Drop the state that the last epochs have made superfluous."""
    if epoch > STATES_KEPT:
        (epoch_folder(run, epoch - STATES_KEPT) / STATE).unlink(missing_ok=True)


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Own a folder while the block runs; raises Busy with the owner's name."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise Busy(
                f"{folder} is in use by {lock.read().strip() or 'another process'}"
            ) from error
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield


def _sums(folder: Path) -> dict[str, str]:
    try:
        lines = (folder / SUMS).read_text().splitlines()
        return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except (OSError, ValueError) as error:
        raise Damaged(f"{folder / SUMS}: {error}") from error


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
