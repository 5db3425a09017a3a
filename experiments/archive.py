"""The records of a study as one file, for another machine: `pack` there, `merge` here.

A published study and an archive have the same files, those that `files` lists:

study.json, calibration.json, audit.json    what there is of them
<run>/run.json
<run>/epochs/0007/                  record.json, timing.json, SHA256SUMS, and samples.png for the
                                    lowest seed of an arm, or for all
<run>/banks/                        scores.json, SHA256SUMS: further evaluation sets
<run>/eval/                         results of python -m eval, and pictures as above where they show
                                    no image of the data set
generators.sha256                   of the last generator of each finished run, as coreutils has it
SHA256SUMS                          of all of the above

States, generators and whatever shows an image of the data set stay where they were made. So an
imported run is read like any other, and does not go on: `make ablation` skips it where it is
finished, and refuses it where it is not.

An archive is foreign. It is refused by name, before anything is written, for other files than
these, for more than these can be, for a file that is damaged or belongs to no committed epoch, and
where it contradicts what is there already.
"""

import hashlib
import io
import json
import math
import re
import shutil
import tempfile
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from dcgan import rundir
from dcgan.cli import BadInput
from dcgan.config import Config, fault
from dcgan.rundir import (
    BANK_SCORES,
    BANKS,
    CALIBRATION,
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
PICTURES = ("walks.png",)  # made of samples alone; the others show images of the data set
OF_STUDY = ("study.json", CALIBRATION, "audit.json")
DATA = ("data", "data_sha256")  # the fields of Config that say which images
MAY_LACK = (SAMPLES,)  # what a whole epoch may be without, once it has travelled
NAME = re.compile(
    r"(study\.json|calibration\.json|audit\.json|generators\.sha256|SHA256SUMS"
    r"|\w+=[\w.+-]+(,\w+=[\w.+-]+)*/seed=\d+/"
    r"(run\.json|epochs/\d{4,6}/(record\.json|timing\.json|samples\.png|SHA256SUMS)"
    r"|banks/(scores\.json|SHA256SUMS)|eval/\w+\.(json|png)))",
    re.ASCII,
)
MOST_NAME = 400  # characters
MOST_FILE_BYTES = 16 << 20
MOST_BYTES = 2 << 30  # of an archive, unpacked


class Info(BaseModel):
    """What a study.json has to have."""

    model_config = ConfigDict(strict=True, extra="allow")

    study: str
    scale: str
    data: dict[str, Any]
    factors: dict[str, list[Any]]
    arms: dict[str, dict[str, Any]] = {}
    seeds: list[int]
    settings: dict[str, Any]
    commit: str
    hardware: dict[str, Any]
    versions: dict[str, str]


@dataclass(frozen=True)
class Merged:
    """What an import did."""

    study: Path
    runs: int  # in the archive
    new_runs: int
    new_epochs: int


def files(
    study: Path,
    samples: str = "lowest",
    seeds: list[int] | None = None,
    sample_epochs: list[int] | None = None,
) -> Iterator[tuple[str, bytes]]:
    """Every file of a study that is published or packed, by name; raises Damaged.

    `samples`: "lowest", the pictures of the lowest seed of each arm, "all" or "none";
    `sample_epochs`: only those of these epochs. `seeds`: these alone; study.json then names no
    others. Of a study at work these are the epochs that are committed by now.
    """
    names, generators, pictured = [], {}, set[str]()
    for run in _runs(study):
        arm = run.parent.name
        shown = samples == "all" or (samples == "lowest" and arm not in pictured)
        if rundir.epoch_folder(run, 1).exists():
            pictured.add(arm)
        if seeds is None or _seed(run) in seeds:
            epochs = rundir.committed(run, MAY_LACK)
            chosen = epochs if sample_epochs is None else {*epochs} & {*sample_epochs}
            paths = _files_of(run, epochs, chosen if shown else ())
            names += [path.relative_to(study).as_posix() for path in paths if path.exists()]
            generators |= _last_generator(study, run, epochs)
    names += [name for name in OF_STUDY if (study / name).exists()]

    sums = {}
    for name in sorted(names):
        data = _read(study / name)
        if name == "study.json" and seeds is not None:
            data = rundir.seal(rundir.unseal(study / name) | {"seeds": sorted(seeds)})
        sums[name] = hashlib.sha256(data).hexdigest()
        yield name, data
    if generators:
        data = rundir.to_lines(dict(sorted(generators.items())))
        sums[GENERATORS] = hashlib.sha256(data).hexdigest()
        yield GENERATORS, data
    yield SUMS, rundir.to_lines(dict(sorted(sums.items())))


def pack(
    study: Path,
    path: Path,
    samples: str = "lowest",
    seeds: list[int] | None = None,
    sample_epochs: list[int] | None = None,
) -> None:
    """Write the archive of a study, or of these seeds: equal records give equal bytes.

    Raises Damaged, and BadInput where a seed is not whole.
    """
    if seeds is not None:
        _check_whole(study, seeds)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files(study, samples, seeds, sample_epochs):
            entry = zipfile.ZipInfo(name)  # its date is 1980-01-01
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, data)
    rundir.replace(path, buffer.getvalue())


def merge(path: Path, out: Path) -> Merged:
    """Add what is in an archive to the study of its name in `out`: its new runs and epochs.

    Raises BadInput for what the archive is, Differs and Damaged for what it meets here, and
    rundir.Busy; nothing has been written then. Where it is stopped, the same call goes on.
    """
    with tempfile.TemporaryDirectory() as scratch_dir:
        folder = Path(scratch_dir)
        try:
            _unpack(path, folder)
            study = _check_study(folder)
            _check_runs(folder, study)
            _check_files(folder)
        except (Damaged, grid.BadStudy) as error:
            raise BadInput(str(error).replace(scratch_dir, str(path))) from error

        # What it contradicts is looked for before there is as much as a lock.
        target = out / study.folder
        _check_against(folder, target)
        with rundir.owned(target):
            _check_against(folder, target)
            return _add(folder, target)


def _runs(study: Path) -> list[Path]:
    """The folders of all runs, the lowest seeds first."""
    runs = [path.parent for path in study.glob("*/seed=*/run.json")]
    return sorted(runs, key=lambda run: (_seed(run), run.parent.name))


def _seed(run: Path) -> int:
    return int(run.name.removeprefix("seed="))


def _files_of(run: Path, epochs: list[int], pictured: Collection[int]) -> Iterator[Path]:
    """What of a run may be in an archive, with the pictures of these epochs."""
    yield from (run / "run.json", run / BANKS / BANK_SCORES, run / BANKS / SUMS)
    for epoch in epochs:
        names = (RECORD, TIMING, SUMS, *([SAMPLES] if epoch in pictured else []))
        yield from (rundir.epoch_folder(run, epoch) / name for name in names)
    yield from (run / ANALYSES).glob("*.json")
    if pictured:
        yield from (run / ANALYSES / name for name in PICTURES)


def _last_generator(study: Path, run: Path, epochs: list[int]) -> dict[str, str]:
    """The name and the SHA-256 of a finished run's last generator, where it had one."""
    if not epochs or len(epochs) < rundir.read_config(run).epochs:
        return {}
    path = rundir.epoch_folder(run, epochs[-1]) / rundir.GENERATOR
    sums = rundir.read_sums(path.parent)
    return {path.relative_to(study).as_posix(): sums[path.name]} if path.name in sums else {}


def _read(path: Path) -> bytes:
    """The bytes of a file, compared with the SHA-256 that it was written with."""
    if path.name in (RECORD, TIMING, SAMPLES, BANK_SCORES):
        return rundir.read_from(path.parent, path.name)
    if path.name in ("study.json", "run.json", CALIBRATION):
        rundir.unseal(path)
    return path.read_bytes()


def _check_whole(study: Path, seeds: list[int]) -> None:
    """Whether every run of these seeds that the study planned is finished."""
    planned = [run for run in grid.runs(_check_study(study)) if run.config.seed in seeds]
    if absent := {*seeds} - {run.config.seed for run in planned}:
        raise BadInput(f"{study}: has no seed={min(absent)}")
    for run in planned:
        folder = study / run.folder
        due = rundir.read_config(folder).epochs if (folder / "run.json").exists() else 1
        if (done := len(rundir.committed(folder, MAY_LACK))) < due:
            raise BadInput(f"{folder}: {done} of its epochs are done; only whole seeds are packed")


# --- A foreign archive ----------------------------------------------------------------------------


def _unpack(path: Path, folder: Path) -> None:
    """Unpack an archive, once every name in it is that of a record; raises BadInput."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            for name, entry in entries.items():
                if len(name) > MOST_NAME or not NAME.fullmatch(name):
                    raise BadInput(f"{name[:MOST_NAME]!r} in {path}: is no record of a study")
                if entry.file_size > MOST_FILE_BYTES:
                    raise BadInput(f"{name!r} in {path}: is over {MOST_FILE_BYTES >> 20} MiB")
            if (size := sum(entry.file_size for entry in entries.values())) > MOST_BYTES:
                raise BadInput(f"{path}: {size:,} bytes unpacked, over {MOST_BYTES >> 30} GiB")
            for name, entry in entries.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as file:  # which gives no more than it says, and its CRC
                    (folder / name).write_bytes(file.read(MOST_FILE_BYTES))
    except (BadInput, OSError):
        raise
    except Exception as error:  # of the zip, of what packed it
        raise BadInput(f"{path}: not a whole zip: {' '.join(str(error).split())}") from error


def _check_study(folder: Path) -> grid.Study:
    """The study of a study.json, if it is known here with its levels and arms; raises Damaged."""
    path = folder / "study.json"
    try:
        info = Info.model_validate(rundir.unseal(path))
    except ValidationError as error:
        raise Damaged(f"{path}: {fault(error)}") from error
    known = grid.define(info.study, info.scale)
    for key, levels in known.factors.items():
        if strange := [level for level in info.factors.get(key, []) if level not in levels]:
            raise Damaged(f"{path}: {key}={strange[0]!r} is no level of {info.study} here")
    if info.factors.keys() != known.factors.keys() or info.arms != known.arms:
        raise Damaged(f"{path}: its factors or arms are not those of {info.study} here")
    data = (info.data.get("name"), info.data.get("sha256"))
    if data != tuple(map(info.settings.get, DATA)):
        raise Damaged(f"{path}: its data are not those of its settings")
    if (count := len(info.seeds) * math.prod(map(len, info.factors.values()))) > grid.MOST_RUNS:
        raise Damaged(f"{path}: {count:,} runs, over {grid.MOST_RUNS:,}")
    return replace(known, factors=info.factors, seeds=info.seeds, settings=info.settings)


def _check_runs(folder: Path, study: grid.Study) -> None:
    """Whether every run is one of the study, and what its folder says is its config."""
    planned = {run.folder: run.config for run in grid.runs(study)}
    fixed = {*study.factors, *chain(*study.arms.values()), *DATA, "seed"} - {"arm"}
    if not (runs := _runs(folder)):
        raise Damaged(f"{folder}: has no run")
    for run in runs:
        if (name := run.relative_to(folder).as_posix()) not in planned:
            raise Damaged(f"{run}: is no run of its study.json")
        path, stored = run / "run.json", rundir.unseal(run / "run.json")
        for part in ("config", "fingerprint", "identities"):
            if not isinstance(stored.get(part), dict):
                raise Damaged(f"{path}: has no {part}")
        config = rundir.read_config(run)
        for key in sorted(fixed):
            if (value := getattr(config, key)) != (due := getattr(planned[name], key)):
                raise Damaged(f"{path}: {key}={value}, not {key}={due}")


def _check_files(folder: Path) -> None:
    """Whether packing what was unpacked gives the same, and every epoch is where it belongs."""
    for path in folder.glob(f"*/seed=*/epochs/*/{SUMS}"):
        known = {RECORD, TIMING, SAMPLES, *rundir.PRUNABLE}
        if strange := rundir.read_sums(path.parent).keys() - known:
            raise Damaged(f"{path}: {min(strange)!r} is no file of an epoch")
    paths = (path for path in folder.rglob("*") if path.is_file())
    unpacked = {path.relative_to(folder).as_posix() for path in paths}
    whole = {
        name: name in unpacked and (folder / name).read_bytes() == data
        for name, data in files(folder, "all")
    }
    if strange := unpacked - whole.keys():
        raise Damaged(f"{folder / min(strange)}: belongs to no committed epoch")
    if wrong := [name for name, same in whole.items() if not same]:
        raise Damaged(f"{folder / wrong[0]}: is not what the other files make it")
    for path in _results(folder):
        _json(path)
    for run in _runs(folder):
        epochs, due = rundir.committed(run, MAY_LACK), rundir.read_config(run).epochs
        if len(epochs) > due:
            raise Damaged(f"{run}: has {len(epochs)} epochs, over epochs={due}")
        for epoch in epochs:
            record = rundir.read_json(run, epoch, RECORD)
            if not isinstance(record, dict) or record.get("epoch") != epoch:
                raise Damaged(f"{rundir.epoch_folder(run, epoch) / RECORD}: is of another epoch")


# --- What is here already -------------------------------------------------------------------------


def _results(folder: Path) -> list[Path]:
    """What was measured of finished runs: sets of scores, and results of python -m eval."""
    parts = "audit.json", f"*/seed=*/{BANKS}/{BANK_SCORES}", f"*/seed=*/{ANALYSES}/*.json"
    return sorted(chain.from_iterable(map(folder.glob, parts)))


def _check_against(folder: Path, target: Path) -> None:
    """Whether a study that is here can take what was unpacked; raises Differs and Damaged."""
    if (target / "study.json").exists():
        stored, added = (_settled(each) for each in (target, folder))
        if difference := _difference(stored, added):
            raise Differs(f"{target}: {difference}")

    other_length = set()
    for run in _runs(folder):
        here = target / run.relative_to(folder)
        if differences := rundir.compare(here, rundir.unseal(run / "run.json")):
            raise Differs(f"{here}: {'; '.join(differences)}")
        stored, added = (rundir.committed(each, MAY_LACK) for each in (here, run))
        for epoch in stored[: len(added)]:
            both = (rundir.read_json(each, epoch, RECORD) for each in (here, run))
            if difference := _difference(*both):
                raise Differs(f"{here}: epoch {epoch}: {difference}")
        if len(added) > len(stored):
            _check_end(here, len(stored), len(added))
        if len(added) != len(stored):
            other_length.add(run)  # of the two results the longer run's count

    for path in _results(folder):
        here = target / path.relative_to(folder)
        if path.parents[1] in other_length or not here.exists():
            continue
        if difference := _difference(_json(here), _json(path)):
            raise Differs(f"{here}: {difference}")


def _check_end(run: Path, stored: int, added: int) -> None:
    """Whether a run that is here can be lengthened by records alone."""
    if (later := rundir.epoch_folder(run, stored + 1)).exists():
        raise Damaged(f"{later}: is not as it was committed; remove the run to import it")
    if stored and not rundir.has_records_only(run):
        raise Differs(
            f"{run}: epochs={stored} are stored, with the state to go on from, epochs={added} are "
            "in the archive; finish the run here, or remove it to import it"
        )


def _add(folder: Path, target: Path) -> Merged:
    """Write what is not here yet, study.json first, each epoch by one rename."""
    # The sums of a published study are no longer those of its files: publishing writes them anew.
    (target / SUMS).unlink(missing_ok=True)
    if (target / "study.json").exists():
        stored, added = (rundir.unseal(each / "study.json") for each in (target, folder))
        if (merged := stored | grid.merge(stored, added)) != stored:
            rundir.replace(target / "study.json", rundir.seal(merged))
    for name in OF_STUDY:
        _copy(folder / name, target / name)

    new_runs = new_epochs = 0
    for run in _runs(folder):
        here = target / run.relative_to(folder)
        if (here / "run.json").exists():
            rundir.describe(here, rundir.unseal(run / "run.json"))
        else:
            new_runs += 1
            _copy(run / "run.json", here / "run.json")
        stored, added = (rundir.committed(each, MAY_LACK) for each in (here, run))
        results = [path.relative_to(run) for path in (run / ANALYSES).glob("*")]
        if len(added) > len(stored):  # what was measured of the shorter run makes way
            if (run / BANKS).exists():
                shutil.rmtree(here / BANKS, ignore_errors=True)
            for name in results:
                (here / name).unlink(missing_ok=True)
        for epoch in added[len(stored) :]:
            _copy_folder(*(rundir.epoch_folder(each, epoch) for each in (run, here)))
            new_epochs += 1
        _copy_folder(run / BANKS, here / BANKS)
        for name in results:
            _copy(run / name, here / name)
    return Merged(target, len(_runs(folder)), new_runs, new_epochs)


def _copy(path: Path, target: Path) -> None:
    """Write a file that is not there yet, if there is one to write."""
    if path.exists() and not target.exists():
        rundir.replace(target, path.read_bytes())


def _copy_folder(folder: Path, target: Path) -> None:
    """Commit a folder that is not there yet, with its SHA256SUMS, if there is one to commit."""
    if folder.exists() and not target.exists():
        rundir.place(target, {path.name: path.read_bytes() for path in sorted(folder.iterdir())})


def _settled(study: Path) -> dict[str, Any]:
    """What two parts of one study agree in: what its arms are, and what all runs share.

    Their lengths may differ, of which the longer is then planned.
    """
    info = rundir.unseal(study / "study.json")
    shared = Config.model_construct(**info["settings"]).model_dump(exclude={"epochs"})
    return {"arms": info.get("arms", {}), **shared}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path}: {error}") from error


def _difference(stored: Any, added: Any, key: str = "") -> str:
    """The first difference of two JSON values in words, or nothing."""
    if isinstance(stored, dict) and isinstance(added, dict):
        prefix = f"{key}." if key else ""
        inner = (
            _difference(stored.get(name), added.get(name), prefix + name)
            for name in dict.fromkeys([*stored, *added])
        )
        return next(filter(None, inner), "")
    if stored == added:
        return ""
    here, there = (
        text if len(text) <= 60 else f"{text[:60]}..." for text in (str(stored), str(added))
    )
    return f"{key}={here} is stored, {key}={there} is in the archive"
