"""The records of a study as one file, for another machine: `pack` there, `merge` here.

study.json, calibration.json, audit.json    those of them that the study has
<run>/run.json
<run>/epochs/0007/      record.json, timing.json, SHA256SUMS, and samples.png for the lowest seed
                        of an arm, or for all
<run>/banks/            scores.json, SHA256SUMS: scores on further evaluation sets
<run>/eval/             results of python -m eval, and pictures that show no image of the data set
generators.sha256       of the last generator of each finished run, as coreutils has it
SHA256SUMS              of all of the above

States, generators and whatever shows an image of the data set stay where they were made: an
imported run is read like any other, and cannot be continued. An archive that is damaged or
contradicts what is here is refused before anything is written: each epoch by the sums that it was
committed with, all else by zip's own.
"""

import hashlib
import io
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcgan import rundir
from dcgan.cli import BadInput
from dcgan.config import Config
from dcgan.rundir import (
    CALIBRATION,
    EVAL_SCORES,
    EVAL_SETS,
    RECORD,
    SAMPLES,
    SUMS,
    TIMING,
    Damaged,
    Differs,
)
from experiments import grid

GENERATORS = "generators.sha256"
ANALYSES = "eval"
PICTURE = "walks.png"  # made of samples alone; the others show images of the data set
OF_STUDY = ("study.json", CALIBRATION, "audit.json")
OF_EPOCH = (RECORD, TIMING, SAMPLES, SUMS)


@dataclass(frozen=True)
class Merged:
    """What an import did."""

    study: Path
    runs: int  # in the archive
    new_runs: int
    new_epochs: int


def pack(
    study: Path,
    path: Path,
    seeds: Collection[int] | None = None,
    sample_epochs: Collection[int] | None = None,
) -> None:
    """Write the archive of a study as far as it is committed; equal records give equal bytes.

    `seeds`: these alone, and study.json then names no others. `sample_epochs`: of each arm's lowest
    seed the pictures of these epochs alone. Raises Damaged.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in _content(study, seeds, sample_epochs).items():
            entry = zipfile.ZipInfo(name)  # dated 1980-01-01
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, data)
    rundir.replace(path, buffer.getvalue())


def merge(path: Path, out: Path) -> Merged:
    """Add the new runs and epochs of an archive to the study of its name in `out`.

    Raises BadInput for a fault of the archive, Differs and Damaged for what it meets here, and
    rundir.Busy; nothing has been written then. If it is interrupted, the same call continues.
    """
    with unpacked(path) as (folder, name), rundir.owned(out / name):
        return _add(folder, out / name, check_against(folder, out / name))


@contextmanager
def unpacked(path: Path) -> Iterator[tuple[Path, str]]:
    """A folder with the records of an archive while the block runs, and the name of their study.

    Raises BadInput for a fault of the archive.
    """
    with tempfile.TemporaryDirectory() as scratch_dir:
        folder = Path(scratch_dir)
        try:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder)  # which compares each file with its CRC
            name = _check_runs(folder).folder
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise BadInput(f"{path}: not a whole zip: {error}") from error
        except (Damaged, grid.BadStudy) as error:
            raise BadInput(str(error).replace(scratch_dir, str(path))) from error
        yield folder, name


def whole_seeds(study: Path) -> list[int]:
    """The seeds of which every planned run is finished; raises Damaged.

    Where runs of the study have evaluation sets, every run of a whole seed has them.
    """
    measured = any(study.glob(f"*/seed=*/{EVAL_SETS}"))
    planned = [(run.config.seed, study / run.folder) for run in grid.runs(_study(study))]
    unfinished = {
        seed
        for seed, run in planned
        if not _is_finished(run, rundir.committed(run))
        or (measured and not (run / EVAL_SETS).exists())
    }
    return sorted({seed for seed, _ in planned} - unfinished)


# --- The files of a study -------------------------------------------------------------------------


def _content(
    study: Path, seeds: Collection[int] | None, sample_epochs: Collection[int] | None
) -> dict[str, bytes]:
    """Every file that is packed, by name; see `pack`."""
    info = rundir.unseal(study / "study.json")
    if seeds is not None:
        info["seeds"] = sorted(seeds)
    paths = [study / name for name in OF_STUDY]
    generators: dict[str, str] = {}
    pictured: set[str] = set()
    for run in _runs(study):
        if seeds is None or _seed(run) in seeds:
            epochs, arm = rundir.committed(run), run.parent.name
            chosen = epochs if sample_epochs is None else {*epochs} & {*sample_epochs}
            paths += _files_of(run, epochs, () if arm in pictured else chosen)
            pictured |= {arm} if epochs else set()
            generators |= _last_generator(study, run, epochs)

    content = {path.relative_to(study).as_posix(): _read(path) for path in paths if path.exists()}
    content["study.json"] = rundir.seal(info)
    if generators:
        content[GENERATORS] = rundir.to_lines(dict(sorted(generators.items())))
    content = dict(sorted(content.items()))
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    return content | {SUMS: rundir.to_lines(sums)}


def _runs(study: Path) -> list[Path]:
    """The folders of all runs, the lowest seeds first."""
    runs = [path.parent for path in study.glob("*/seed=*/run.json")]
    return sorted(runs, key=lambda run: (_seed(run), run.parent.name))


def _seed(run: Path) -> int:
    return int(run.name.removeprefix("seed="))


def _is_finished(run: Path, epochs: list[int]) -> bool:
    return bool(epochs) and len(epochs) >= rundir.read_config(run).epochs


def _files_of(run: Path, epochs: list[int], pictured: Collection[int]) -> Iterator[Path]:
    """The files of a run that may be in an archive, with the pictures of these epochs."""
    yield from (run / "run.json", run / EVAL_SETS / EVAL_SCORES, run / EVAL_SETS / SUMS)
    for epoch in epochs:
        names = [name for name in OF_EPOCH if name != SAMPLES or epoch in pictured]
        yield from (rundir.epoch_folder(run, epoch) / name for name in names)
    yield from (run / ANALYSES).glob("*.json")
    if pictured:
        yield run / ANALYSES / PICTURE


def _last_generator(study: Path, run: Path, epochs: list[int]) -> dict[str, str]:
    """The name and the SHA-256 of a finished run's last generator, where it had one."""
    if not _is_finished(run, epochs):
        return {}
    path = rundir.epoch_folder(run, epochs[-1]) / rundir.GENERATOR
    sums = rundir.read_sums(path.parent)
    return {path.relative_to(study).as_posix(): sums[path.name]} if path.name in sums else {}


def _read(path: Path) -> bytes:
    """The bytes of a file, compared with the SHA-256 that it was written with, if it has one.

    Those of an epoch were, by `rundir.committed`.
    """
    if path.name == EVAL_SCORES:
        return rundir.read_from(path.parent, path.name)
    if path.name in ("study.json", "run.json", CALIBRATION):
        rundir.unseal(path)
    return path.read_bytes()


# --- Whether an archive fits what is here ---------------------------------------------------------


def _check_runs(folder: Path) -> grid.Study:
    """The study that was unpacked, if its runs are of its plan and whole; raises Damaged."""
    study = _study(folder)
    planned = {run.folder for run in grid.runs(study)}
    for run in _runs(folder):
        rundir.read_config(run)
        if run.relative_to(folder).as_posix() not in planned:
            raise Damaged(f"{run}: is no run of its study.json")
        rundir.all_committed(run)
    return study


def _study(folder: Path) -> grid.Study:
    """The study of a study.json, if it is known here with its levels; raises Damaged."""
    path = folder / "study.json"
    study = grid.stored(rundir.unseal(path))
    known = grid.define(study.name, study.scale).factors
    if any({*levels} - {*known.get(key, ())} for key, levels in study.factors.items()):
        raise Damaged(f"{path}: its factors or levels are not those of {study.name} here")
    return study


def check_against(folder: Path, target: Path) -> dict[Path, int]:
    """Whether a study that is here agrees with what was unpacked; raises Differs and Damaged.

    Returns how many epochs of each unpacked run are here.
    """
    if (target / "study.json").exists():
        _check_equal(target, _shared(target), _shared(folder))
    epochs = {}
    for run in _runs(folder):
        here = target / run.relative_to(folder)
        if differences := rundir.compare(here, rundir.unseal(run / "run.json")):
            raise Differs(f"{here}: {'; '.join(differences)}")
        stored, added = rundir.all_committed(here), rundir.kept(run)
        for epoch in stored[: len(added)]:
            records = [rundir.read_json(x, epoch, RECORD) for x in (here, run)]
            _check_equal(f"{here}: epoch {epoch}", *records)
        epochs[run] = len(stored)

        # Records alone lengthen a run that has no state to go on from.
        if stored and len(added) > len(stored) and not rundir.has_records_only(here):
            more = f"epochs={len(stored)} are stored, with the state to go on from, "
            more += f"epochs={len(added)} are in the archive"
            raise Differs(f"{here}: {more}; finish the run here, or remove it to import it")
    return epochs


def _shared(study: Path) -> dict[str, Any]:
    """What all parts of a study have in common: its arms, and the settings but for the length."""
    info = grid.stored(rundir.unseal(study / "study.json"))
    settings = Config.model_construct(**info.settings).model_dump(exclude={"epochs"})
    return {"arms": info.arms, **settings}


def _check_equal(what: Any, stored: Any, added: Any) -> None:
    """Compare two JSON values; raises Differs with the first key that differs."""
    stored, added = dict(rundir.flatten(stored)), dict(rundir.flatten(added))
    for key in stored | added:
        if (here := stored.get(key)) != (theirs := added.get(key)):
            raise Differs(f"{what}: {key}={here} is stored, {key}={theirs} is in the archive")


# --- Adding to it ---------------------------------------------------------------------------------


def _add(folder: Path, target: Path, stored: dict[Path, int]) -> Merged:
    """Write what is not here yet, study.json first, each epoch by one rename."""
    if (target / "study.json").exists():
        here, added = (rundir.unseal(study / "study.json") for study in (target, folder))
        rundir.replace(target / "study.json", rundir.seal(here | grid.merge(here, added)))
    for name in OF_STUDY:
        _copy(folder / name, target / name)

    runs = {run: target / run.relative_to(folder) for run in stored}
    new_runs = sum(not (here / "run.json").exists() for here in runs.values())
    new_epochs = sum(_add_run(run, here, stored[run]) for run, here in runs.items())
    return Merged(target, len(runs), new_runs, new_epochs)


def _add_run(run: Path, here: Path, stored: int) -> int:
    """Add a run, or its epochs after the stored ones; returns how many these are."""
    rundir.describe(here, rundir.unseal(run / "run.json"))
    new = rundir.kept(run)[stored:]
    results = [path.relative_to(run) for path in (run / ANALYSES).glob("*")]
    if new:  # what was measured of the shorter run is replaced
        if (run / EVAL_SETS).exists():
            shutil.rmtree(here / EVAL_SETS, ignore_errors=True)
        for name in results:
            (here / name).unlink(missing_ok=True)
    for name in [*(rundir.epoch_folder(Path(), epoch) for epoch in new), Path(EVAL_SETS)]:
        paths = [run / name / file for file in (*OF_EPOCH, EVAL_SCORES)]
        content = {path.name: path.read_bytes() for path in paths if path.exists()}
        if content and not (here / name).exists():
            rundir.place(here / name, content)
    for name in results:
        _copy(run / name, here / name)
    return len(new)


def _copy(path: Path, target: Path) -> None:
    """Write a file that is not there yet, if there is one to write."""
    if path.exists() and not target.exists():
        rundir.replace(target, path.read_bytes())
