"""The run directory and its commit protocol. An epoch is committed by one rename.

<run>/run.json              the config, with the longest length that was ever asked for, the
                            fingerprint of the machine, the metrics' identities,
                            and last the SHA-256 of what stands before it
<run>/lock                  held by the one process that may write here
<run>/epochs/0007/          one committed epoch, never changed afterwards but for pruning:
    record.json             losses and scores: a function of the config alone
    timing.json             seconds and speeds, which no repetition reproduces
    samples.png             the same noise through the generator at every epoch
    generator.safetensors   kept at milestones and at the last epoch, to be scored again
    state.safetensors       all that the next epoch needs; only the last ones are kept
    SHA256SUMS              of the files above, as coreutils writes and checks it
<run>/banks/                once finished, if asked for: scores on further evaluation sets,
    scores.json             committed likewise, see experiments.resample

What is damaged or missing is computed again. What cannot be read just now (EIO, EACCES, EMFILE) is
an OSError: no committed epoch is given up because of it.
"""

import fcntl
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dcgan.cli import BadInput
from dcgan.config import Config, fault, is_milestone

RECORD, TIMING, SAMPLES = "record.json", "timing.json", "samples.png"
CLOCK = ("epoch", "images", "steps", "status")  # of a record, under these very names
STATE, GENERATOR, SUMS = "state.safetensors", "generator.safetensors", "SHA256SUMS"
EVAL_SETS, EVAL_SCORES = "banks", "scores.json"
ANALYSES = "eval"  # a run's folder of what `python -m eval` measured, see eval.finished
CALIBRATION = "calibration.json"  # beside study.json, see eval.calibration
PUBLISHED = Path(__file__).parents[1] / "reports" / "published"  # studies, some with generators
PRUNABLE = (STATE, GENERATOR)  # may be missing from a whole epoch
STATES_KEPT = 2
ATTEMPTS = 25  # to own a folder, in half a second
SEAL = ',\n "sha256": "{}"\n}}\n'  # the end of a sealed file


class Damaged(BadInput):
    """A committed file is missing or is not what was committed."""


class Busy(BadInput):
    """Another process owns this folder."""


class Differs(BadInput):
    """A stored run is not the run that was asked for."""


def to_json(value: Any) -> bytes:
    """The one way in which this project writes JSON: full precision, no NaN."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def seal(value: dict[str, Any]) -> bytes:
    """JSON whose last key is the SHA-256 of the bytes before it, for a file without SHA256SUMS."""
    body = to_json(value).removesuffix(b"\n}\n")
    return body + SEAL.format(hashlib.sha256(body).hexdigest()).encode()


def unseal(path: Path) -> dict[str, Any]:
    """The content of a sealed file, checked before it is parsed; raises Damaged."""
    data = _read(path)
    body = data[: -len(SEAL.format("0" * 64))]
    if body + SEAL.format(hashlib.sha256(body).hexdigest()).encode() != data:
        raise Damaged(f"{path}: is not as it was written")
    return {key: part for key, part in json.loads(data).items() if key != "sha256"}


def epoch_folder(run: Path, epoch: int) -> Path:
    return run / "epochs" / f"{epoch:04d}"


def commit(run: Path, epoch: int, files: dict[str, bytes]) -> None:
    """Commit one epoch: all of its files appear at once, or none does."""
    place(epoch_folder(run, epoch), files)


def place(target: Path, files: dict[str, bytes]) -> None:
    """Make a folder of these files, and of their SHA256SUMS, appear by one rename, and last."""
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    staged = target.with_name(f".{target.name}")
    shutil.rmtree(staged, ignore_errors=True)
    _make_folder(target.parent)
    staged.mkdir()

    for name, data in {**files, SUMS: files.get(SUMS) or to_lines(sums)}.items():
        _write(staged / name, data)
    _sync_folder(staged)

    staged.rename(target)
    _sync_folder(target.parent)


def replace(path: Path, data: bytes) -> None:
    """Write a file that is not part of an epoch: the old content stays until the new is on disk."""
    _make_folder(path.parent)
    staged = path.with_name(f".{path.name}")
    _write(staged, data)
    staged.rename(path)
    _sync_folder(path.parent)


def describe(run: Path, description: dict[str, dict[str, Any]]) -> None:
    """Write run.json, or add to it what it lacks; raises Differs."""
    check(run, description)
    path = run / "run.json"
    stored = unseal(path) if path.exists() else {}
    merged = stored | {part: said | stored.get(part, {}) for part, said in description.items()}

    # A stored config keeps the fields that it was stored with: its W&B id rests on them.
    if stored:
        was, now = (Config.model_validate(x["config"]).epochs for x in (stored, description))
        merged["config"] = stored["config"] | ({"epochs": now} if now > was else {})
    if merged != stored:
        replace(path, seal(merged))


def read_config(run: Path) -> Config:
    """The config in run.json, with defaults for what it lacks; Damaged if it has other fields."""
    path = run / "run.json"
    try:
        return Config.model_validate(unseal(path)["config"])
    except ValidationError as error:
        raise Damaged(f"{path}: {fault(error)}") from error


def check(run: Path, description: dict[str, dict[str, Any]]) -> None:
    """Raise Differs where a stored run.json says something else, with the keys and both values.

    Configs are compared with their defaults and without `epochs`, fingerprints in what both say,
    identities in the metrics that are stored. Raises Damaged where run.json cannot tell.
    """
    if not (run / "run.json").exists() and not epoch_folder(run, 1).exists():
        return  # there is no run
    try:
        stored = unseal(run / "run.json")
    except Damaged as error:
        raise Damaged(f"{error}; remove the run to make it again") from error
    differences = []
    for part, wanted in description.items():
        was = stored.get(part, {})
        if part == "config":
            both = read_config(run), Config.model_validate(wanted)
            was, wanted = (config.model_dump(exclude={"epochs"}) for config in both)
        differences += [
            f"{key}={value} is stored, {key}={wanted.get(key)} is asked for"
            for key, value in sorted(was.items())
            if value != wanted.get(key) and (part != "fingerprint" or key in wanted)
        ]
    if differences:
        raise Differs(f"{run}: {'; '.join(differences)}")


def read(folder: Path, name: str) -> bytes:
    """The bytes of a file of a folder with SHA256SUMS, checked against its sum; raises Damaged."""
    return _read_checked(folder / name, read_sums(folder))


def read_json(run: Path, epoch: int, name: str) -> Any:
    """The content of one committed JSON file; raises Damaged."""
    return json.loads(read(epoch_folder(run, epoch), name))


def read_sums(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file that a folder was committed with; raises Damaged."""
    data = _read(folder / SUMS)
    lines = data.decode(errors="replace").splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    if data != to_lines(sums):
        raise Damaged(f"{folder / SUMS}: is not as it was committed")
    return sums


def to_lines(sums: dict[str, str]) -> bytes:
    """The content of a SHA256SUMS."""
    return "".join(f"{digest}  {name}\n" for name, digest in sums.items()).encode()


def kept(run: Path, name: str = SUMS) -> list[int]:
    """The committed epochs that still have a file; nothing is read."""
    return [epoch for epoch in _numbers(run) if (epoch_folder(run, epoch) / name).exists()]


def _numbers(run: Path) -> list[int]:
    """The epochs that have a folder; what else lies there, such as a copy, is no epoch."""
    return sorted(int(path.name) for path in run.glob("epochs/*") if path.name.isdecimal())


def committed(run: Path) -> list[int]:
    """The epochs 1, 2, ... up to the first whose files are not as they were committed."""
    epochs: list[int] = []
    with suppress(Damaged):
        for epoch, _ in _checked_epochs(run):
            epochs.append(epoch)
    return epochs


def all_committed(run: Path) -> list[int]:
    """The epochs that are there; raises Damaged where one is not as it was committed."""
    return [epoch for epoch, _ in _checked_epochs(run)]


def records(run: Path) -> Iterator[tuple[Any, Any]]:
    """Record and timing of the epochs 1, 2, ...; Damaged at one that is not as it was committed."""
    for _, files in _checked_epochs(run):
        yield json.loads(files[RECORD]), json.loads(files[TIMING])


def _checked_epochs(run: Path) -> Iterator[tuple[int, dict[str, bytes]]]:
    """The epochs 1, 2, ... and their files; Damaged at one that is not as it was committed."""
    may_lack = (*PRUNABLE, SAMPLES) if has_records_only(run) else PRUNABLE  # imported: no pictures
    for epoch in range(1, max(_numbers(run), default=0) + 1):
        folder = epoch_folder(run, epoch)
        sums, files = read_sums(folder), {}
        for name in {**sums, RECORD: "", TIMING: "", SAMPLES: ""}:
            if name not in may_lack or (name == SAMPLES and (folder / name).exists()):
                files[name] = _read_checked(folder / name, sums)
        yield epoch, files


def last_state(run: Path, epochs: list[int]) -> tuple[int, bytes] | None:
    """The newest of these committed epochs whose state is whole, and that state."""
    for epoch in reversed(epochs):
        with suppress(Damaged):
            return epoch, read(epoch_folder(run, epoch), STATE)
    return None


def has_records_only(run: Path) -> bool:
    """Whether a run was imported or published: it has epochs, and no state or generator."""
    return epoch_folder(run, 1).exists() and not any(kept(run, name) for name in PRUNABLE)


def is_without_state(run: Path, epochs: int) -> bool:
    """Whether a run that has made all of its epochs, this many, has kept nothing to go on from."""
    return bool(epochs) and epochs >= read_config(run).epochs and not kept(run, STATE)


def rewind(run: Path, epoch: int) -> None:
    """Forget every epoch after this one, the last one first: they will be computed again."""
    for later in reversed(_numbers(run)):
        if later > epoch:
            shutil.rmtree(epoch_folder(run, later))


def prune(run: Path, epoch: int) -> None:
    """Drop the states and generators that the last epochs have made superfluous."""
    for made in _numbers(run):
        if made <= epoch - STATES_KEPT:
            (epoch_folder(run, made) / STATE).unlink(missing_ok=True)
        if made < epoch and not is_milestone(made):
            (epoch_folder(run, made) / GENERATOR).unlink(missing_ok=True)


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Own a folder while the block runs; raises Busy with the owner's name."""
    _make_folder(folder)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    with open(descriptor, "r+b", buffering=0) as lock:
        # A new owner has a moment to write its name, and `owner_of` may have the lock for one.
        for _ in range(ATTEMPTS):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.02)
        else:
            raise Busy(f"{folder} is in use by {lock.read().decode().strip()}")

        # One write, over the whole of an earlier name.
        lock.write(f"process {os.getpid()} on {socket.gethostname()}".ljust(300).encode())
        yield


def owner_of(folder: Path) -> str | None:
    """The process that owns a folder, by name, on any machine that sees the same file locks."""
    with suppress(OSError), open(folder / "lock", "rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return lock.read().decode().strip()
    return None


def _read(path: Path) -> bytes:
    """The bytes of a file; raises Damaged where it is missing, OSError where it is unreadable."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise Damaged(f"{path}: {error.strerror}") from error


def _read_checked(path: Path, sums: dict[str, str]) -> bytes:
    """The bytes of a file that has one of these sums; raises Damaged."""
    data = _read(path)
    if hashlib.sha256(data).hexdigest() != sums.get(path.name):
        raise Damaged(f"{path}: its SHA-256 is not the committed one")
    return data


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _make_folder(folder: Path) -> None:
    """Make a folder, and those above it, so that a power cut does not take it away again."""
    if not folder.exists():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
