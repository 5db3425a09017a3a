"""The records of a study as one file, for another machine: `pack` there, `merge` here.

study.json, calibration.json
<run>/run.json
<run>/epochs/0007/      record.json, timing.json, SHA256SUMS, and samples.png for the lowest seed
                        of an arm, or for all
<run>/banks/            scores.json, SHA256SUMS: scores on further evaluation sets
<run>/eval/             results of python -m eval, and pictures that show no image of the data set

States, generators and whatever shows an image of the data set stay behind: an imported run is read
like any other, and cannot be continued. An archive that is damaged (by its epochs' own sums, else
by zip's) or contradicts what is here is refused before anything is written.
"""

import io
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dcgan import rundir
from dcgan.cli import BadInput
from dcgan.rundir import ANALYSES, EVAL_SETS, RECORD, SUMS, Damaged, Differs
from experiments import grid


@dataclass(frozen=True)
class Merged:
    """What an import did."""

    study: Path
    runs: int  # in the archive
    new_runs: int
    new_epochs: int


def pack(
    study: Path, path: Path, seed: int | None = None, pictures: Collection[int] | None = None
) -> None:
    """Write the archive of a study as far as it is committed; equal records give equal bytes.

    `seed`: of this one alone, in study.json too. The lowest seed of each arm has its pictures, of
    all epochs or of those in `pictures`. Raises Damaged.
    """
    info = rundir.unseal(study / "study.json")
    info["seeds"] = info["seeds"] if seed is None else [seed]
    paths, pictured = [study / rundir.CALIBRATION], set()
    for run in runs_in(study, grid.stored(info)):
        folder = study / run.folder
        rundir.read_config(folder)  # or Damaged
        epochs = rundir.committed(folder)
        wanted = epochs if pictures is None else pictures
        paths += _files_of(folder, epochs, () if run.arm in pictured else wanted)
        pictured |= {run.arm} if epochs else set()
        if (folder / EVAL_SETS).exists():
            rundir.read(folder / EVAL_SETS, rundir.EVAL_SCORES)  # compares it with its sum

    content = {x.relative_to(study).as_posix(): x.read_bytes() for x in paths if x.exists()}
    content["study.json"] = rundir.seal(info)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in sorted(content.items()):
            entry = zipfile.ZipInfo(name)  # dated 1980-01-01
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    rundir.replace(path, buffer.getvalue())


def runs_in(folder: Path, study: grid.Study) -> list[grid.Run]:
    """The planned runs of a study that a folder has begun, the lowest seeds first."""
    return [run for run in grid.runs(study) if (folder / run.folder / "run.json").exists()]


def whole_seeds(folder: Path) -> list[int]:
    """The seeds of which every run is finished, with evaluation sets if any has; raises Damaged."""
    study = grid.stored(rundir.unseal(folder / "study.json"))
    measured = any(folder.glob(f"*/seed=*/{EVAL_SETS}"))
    whole = {*study.seeds}
    for run in grid.runs(study):
        path = folder / run.folder
        epochs = len(rundir.committed(path))
        finished = epochs and epochs >= rundir.read_config(path).epochs
        if not finished or (measured and not (path / EVAL_SETS).exists()):
            whole.discard(run.config.seed)
    return sorted(whole)


def _files_of(run: Path, epochs: list[int], pictured: Collection[int]) -> Iterator[Path]:
    """The files of a run that may be in an archive, with the pictures of these epochs."""
    yield from (run / "run.json", run / EVAL_SETS / rundir.EVAL_SCORES, run / EVAL_SETS / SUMS)
    for epoch in epochs:
        names = (RECORD, rundir.TIMING, SUMS, *([rundir.SAMPLES] if epoch in pictured else []))
        yield from (rundir.epoch_folder(run, epoch) / name for name in names)
    yield from (run / ANALYSES).glob("*.json")
    if pictured:
        yield run / ANALYSES / "walks.png"  # the other pictures show images of the data set


def merge(path: Path, out: Path) -> Merged:
    """Add the new runs and epochs of an archive to the study of its name in `out`.

    Raises BadInput, or Differs, Damaged and Busy for what it meets here; nothing has been written
    then. If it is interrupted, the same call continues.
    """
    with unpacked(path) as (folder, study), rundir.owned(target := out / study.folder):
        stored = check_against(folder, study, target)
        if (target / "study.json").exists():
            here, added = (rundir.unseal(x / "study.json") for x in (target, folder))
            rundir.replace(target / "study.json", rundir.seal(here | grid.merge(here, added)))
        for name in ("study.json", rundir.CALIBRATION):
            _copy(folder / name, target / name)
        new_runs = sum(not (target / run / "run.json").exists() for run in stored)
        new = [_add_run(folder / run, target / run, epochs) for run, epochs in stored.items()]
        return Merged(target, len(stored), new_runs, sum(new))


@contextmanager
def unpacked(path: Path) -> Iterator[tuple[Path, grid.Study]]:
    """While the block runs, a folder with an archive's records, and their study; or BadInput."""
    with tempfile.TemporaryDirectory() as scratch_dir:
        folder = Path(scratch_dir)
        try:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder)  # which compares each file with its CRC
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
            raise BadInput(f"{path}: not a whole zip: {error}") from error  # or an encrypted one
        try:
            study = grid.stored(rundir.unseal(folder / "study.json"))
            if grid.has_changed(study):
                raise Damaged(f"{folder}: its factors or levels are not those of {study.name} here")
            for run in runs_in(folder, study):
                rundir.read_config(folder / run.folder)
                rundir.all_committed(folder / run.folder)
        except (Damaged, grid.BadStudy) as error:
            raise BadInput(str(error).replace(scratch_dir, str(path))) from error
        yield folder, study


def check_against(folder: Path, study: grid.Study, target: Path) -> dict[str, int]:
    """How many epochs of each unpacked run are here; Damaged, or Differs where they differ."""
    # One study has one set of arms, and of settings but for the length.
    if (target / "study.json").exists():
        here = grid.stored(rundir.unseal(target / "study.json"))
        for key, value, other in grid.differences(here, study):
            raise Differs(f"{target}: {key}={value} is stored, {key}={other} is in the archive")

    stored = {}
    for run in runs_in(folder, study):
        here, added = target / run.folder, folder / run.folder
        rundir.check(here, rundir.unseal(added / "run.json"))
        epochs, in_archive = rundir.all_committed(here), len(rundir.kept(added))
        for epoch in epochs[:in_archive]:
            folders = (rundir.epoch_folder(x, epoch) for x in (here, added))
            if len({rundir.read_sums(x)[RECORD] for x in folders}) > 1:
                raise Differs(f"{here}: epoch {epoch} has another {RECORD} in the archive")
        stored[run.folder] = len(epochs)

        # Records alone lengthen a run that has no state to go on from.
        if 0 < len(epochs) < in_archive and not rundir.has_records_only(here):
            more = f"epochs={len(epochs)} are stored, with the state to go on from, "
            more += f"epochs={in_archive} are in the archive"
            raise Differs(f"{here}: {more}; finish the run here, or remove it to import it")
    return stored


def _add_run(run: Path, here: Path, stored: int) -> int:
    """Add a run, or its epochs after the stored ones; returns how many these are.

    What was measured of a run that is longer here takes the place of that of the shorter one.
    """
    rundir.describe(here, rundir.unseal(run / "run.json"))
    new = rundir.kept(run)[stored:]
    for path in (run / ANALYSES).glob("*"):
        _copy(path, here / ANALYSES / path.name, again=bool(new))
    if new and (run / EVAL_SETS).exists():
        shutil.rmtree(here / EVAL_SETS, ignore_errors=True)
    for path in [run / EVAL_SETS, *(rundir.epoch_folder(run, epoch) for epoch in new)]:
        target = here / path.relative_to(run)
        if path.exists() and not target.exists():
            rundir.place(target, {file.name: file.read_bytes() for file in path.iterdir()})
    return len(new)


def _copy(path: Path, target: Path, again: bool = False) -> None:
    """Write a file, if there is one to write, and none yet or a new one is wanted."""
    if path.exists() and (again or not target.exists()):
        rundir.replace(target, path.read_bytes())
