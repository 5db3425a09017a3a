"""The records of a study as one file, for another machine: `pack` there, `merge` here.

A published study and an archive hold the same files, those that `files` lists:

study.json, calibration.json, audit.json    what is there of them
<run>/run.json
<run>/epochs/0007/                  record.json, timing.json, SHA256SUMS, and samples.png for the
                                    lowest seed of an arm, or for all
<run>/banks/                        scores.json, SHA256SUMS
<run>/eval/                         what the tools of python -m eval found, and pictures as above
                                    where they show no image of the data set
generators.sha256                   of the last generator of each finished run, as coreutils has it
SHA256SUMS                          of all of the above

States, generators and whatever shows an image of the data set stay where they were made. So an
imported run is read like any other, and does not go on: `make ablation` skips it where it is
finished, and refuses it where it is not.

An archive is foreign. It is refused by name, before anything is written, for what dcgan.sources
refuses in any zip, for other files than these, for a file that is damaged or belongs to no
committed epoch, and where it contradicts what is there already.
"""

import hashlib
import json
import math
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from dcgan import rundir, sources
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
from dcgan.sources import BadData
from experiments import grid

GENERATORS = "generators.sha256"
TOOLS = "eval"
PICTURES = ("walks.png",)  # made of samples alone; the others show images of the data set
OF_STUDY = ("study.json", CALIBRATION, "audit.json")
DATA = ("data", "data_sha256")  # the fields of Config that say which images
LACK = (SAMPLES,)  # what a whole epoch may be without, once it has travelled
NAME = re.compile(
    r"(study\.json|calibration\.json|audit\.json|generators\.sha256|SHA256SUMS"
    r"|\w+=[\w.+-]+(,\w+=[\w.+-]+)*/seed=\d+/"
    r"(run\.json|epochs/\d{4,6}/(record\.json|timing\.json|samples\.png|SHA256SUMS)"
    r"|banks/(scores\.json|SHA256SUMS)|eval/\w+\.(json|png)))",
    re.ASCII,
)
MOST_NAME = 400  # characters
MOST_BYTES = 2 << 30  # of an archive, unpacked


class Data(BaseModel):
    """What a study.json has to say of its images."""

    model_config = ConfigDict(strict=True, extra="allow")

    name: str
    kind: str
    sha256: str
    images: int
    resolution: int


class Calibration(BaseModel):
    """What a calibration.json has to hold; see eval.calibration."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    held_out: str
    held_out_images: int
    held_out_seen: int
    images: int
    identities: dict[str, dict[str, Any]]
    rows: dict[str, dict[str, float | None]]


class Info(BaseModel):
    """What a study.json has to hold."""

    model_config = ConfigDict(strict=True, extra="allow")

    study: str
    scale: str
    data: Data
    factors: dict[str, list[Any]]
    arms: dict[str, dict[str, Any]] = {}
    seeds: list[int]
    settings: dict[str, Any]
    commit: str
    claims: dict[Literal["commit", "date", "sha256"], str] = {}
    hardware: dict[str, Any]
    versions: dict[str, str]


@dataclass(frozen=True)
class Merged:
    """What an import did."""

    study: Path
    runs: int  # in the archive
    new_runs: int
    new_epochs: int


def files(study: Path, samples: str = "lowest") -> Iterator[tuple[str, bytes]]:
    """Every file of a study that is published or packed, by name; raises Damaged.

    `samples`: "lowest", the pictures of the lowest seed of each arm, "all" or "none". Of a study at
    work these are the epochs that are committed by now.
    """
    names: list[str] = []
    generators: dict[str, str] = {}
    runs = _runs(study)
    pictured = {run.parent.name for run in runs} if samples == "none" else set()
    for run in runs:
        kept = (RECORD, TIMING, SUMS) + (() if run.parent.name in pictured else (SAMPLES,))
        folders = [rundir.epoch_folder(run, epoch) for epoch in rundir.committed(run, LACK)]
        there = [folder / name for folder in folders for name in kept]
        there += [run / "run.json", *(run / BANKS / name for name in (BANK_SCORES, SUMS))]
        there += (run / TOOLS).glob("*.json")
        there += [] if run.parent.name in pictured else [run / TOOLS / name for name in PICTURES]
        names += [path.relative_to(study).as_posix() for path in there if path.exists()]
        if folders and samples == "lowest":
            pictured.add(run.parent.name)
        generators |= _last_generator(study, run, folders)
    names += [name for name in OF_STUDY if (study / name).exists()]

    sums = {}
    for name in sorted(names):
        data = _read(study / name)
        sums[name] = hashlib.sha256(data).hexdigest()
        yield name, data
    if generators:
        data = rundir.to_lines(dict(sorted(generators.items())))
        sums[GENERATORS] = hashlib.sha256(data).hexdigest()
        yield GENERATORS, data
    yield SUMS, rundir.to_lines(dict(sorted(sums.items())))


def pack(study: Path, path: Path, samples: str = "lowest") -> None:
    """Write the archive of a study: equal records give equal bytes. Raises Damaged."""

    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files(study, samples):
                entry = zipfile.ZipInfo(name)  # its date is 1980-01-01
                entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                archive.writestr(entry, data)

    sources.write_file(path, write)


def merge(path: Path, out: Path) -> Merged:
    """Add what an archive holds to the study of its name in `out`: its new runs and epochs.

    Raises BadData for what the archive is, Differs and Damaged for what it meets here, and
    rundir.Busy; nothing has been written then. Where it is stopped, the same call goes on.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        try:
            _unpack(path, folder)
            _check_sums(folder)
            study = _check_study(folder)
            _check_runs(folder, study)
            _check_epochs(folder)
        except (Damaged, grid.BadStudy) as error:
            raise BadData(str(error).replace(place, str(path))) from error

        # What it contradicts is looked for before there is as much as a lock.
        target = out / study.folder
        _check_against(folder, target)
        with rundir.owned(target):
            _check_against(folder, target)
            return _add(folder, target)


def _runs(study: Path) -> list[Path]:
    """The folders of all runs, the lowest seeds first."""
    found = [path.parent for path in study.glob("*/seed=*/run.json")]
    return sorted(found, key=lambda run: (int(run.name.removeprefix("seed=")), run.parent.name))


def _last_generator(study: Path, run: Path, folders: list[Path]) -> dict[str, str]:
    """The name and the SHA-256 of a finished run's last generator, where it had one."""
    if not folders or len(folders) < rundir.read_config(run).epochs:
        return {}
    path, sums = folders[-1] / rundir.GENERATOR, rundir.read_sums(folders[-1])
    return {path.relative_to(study).as_posix(): sums[path.name]} if path.name in sums else {}


def _read(path: Path) -> bytes:
    """The bytes of a file, compared with the SHA-256 that it was written with."""
    if path.name in (RECORD, TIMING, SAMPLES, BANK_SCORES):
        return rundir.read_from(path.parent, path.name)
    if path.name in ("study.json", "run.json", CALIBRATION):
        rundir.unseal(path)
    return path.read_bytes()


# --- A foreign archive ----------------------------------------------------------------------------


def _unpack(path: Path, folder: Path) -> None:
    """Unpack an archive, once every name in it is that of a record; raises BadData."""
    with sources.opened(path) as archive:
        entries = archive.infolist()
        for entry in entries:
            name = entry.filename
            if len(name) > MOST_NAME or not NAME.fullmatch(name):
                raise BadData(f"{name[:MOST_NAME]!r} in {path}: is no record of a study")
            if entry.file_size > sources.MOST_FILE_BYTES:
                raise BadData(f"{name!r} in {path}: is over {sources.MOST_FILE_BYTES >> 20} MiB")
        if (size := sum(entry.file_size for entry in entries)) > MOST_BYTES:
            raise BadData(f"{path}: {size:,} bytes unpacked, over {MOST_BYTES >> 30} GiB")
        for entry in entries:
            target = folder / entry.filename
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                data = archive.read(entry)
            except Exception as error:  # of the zip, of what packed it
                reason = " ".join(str(error).split())
                raise BadData(f"{entry.filename!r} in {path}: damaged: {reason}") from error
            target.write_bytes(data)


def _check_sums(folder: Path) -> None:
    """Whether the files are those that were packed, and their sums name none outside of these."""
    for name, digest in rundir.read_sums(folder).items():
        path = folder / name
        if not NAME.fullmatch(name) or not path.exists():
            raise Damaged(f"{folder / SUMS}: {name!r} is not in the archive")
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise Damaged(f"{path}: its SHA-256 is not that of {SUMS}")
    for path in folder.glob(f"*/seed=*/epochs/*/{SUMS}"):
        known = {RECORD, TIMING, SAMPLES, *rundir.PRUNABLE}
        if strange := rundir.read_sums(path.parent).keys() - known:
            raise Damaged(f"{path}: {min(strange)!r} is no file of an epoch")


def _check_study(folder: Path) -> grid.Study:
    """Whether study.json is that of a study which is known here, with its levels and arms."""
    path = folder / "study.json"
    try:
        info = Info.model_validate(rundir.unseal(path))
    except ValidationError as error:
        raise Damaged(f"{path}: {fault(error)}") from error
    known = grid.define(info.study, info.scale)
    for key, levels in known.factors.items():
        if strange := [one for one in info.factors.get(key, []) if one not in levels]:
            raise Damaged(f"{path}: {key}={strange[0]!r} is no level of {info.study} here")
    if info.factors.keys() != known.factors.keys() or info.arms != known.arms:
        raise Damaged(f"{path}: its factors or arms are not those of {info.study} here")
    if (info.data.name, info.data.sha256) != tuple(map(info.settings.get, DATA)):
        raise Damaged(f"{path}: its data are not those of its settings")
    if (count := len(info.seeds) * math.prod(map(len, info.factors.values()))) > grid.MOST_RUNS:
        raise Damaged(f"{path}: {count:,} runs, over {grid.MOST_RUNS:,}")
    return replace(known, factors=info.factors, seeds=info.seeds, settings=info.settings)


def _check_runs(folder: Path, study: grid.Study) -> None:
    """Whether every run is one of the study, and what its folder says is its config."""
    planned = {run.folder: run.config for run in grid.runs(study)}
    fixed = {*study.factors, *chain(*study.arms.values()), *DATA, "seed"} - {"arm"}
    if not (runs := _runs(folder)):
        raise Damaged(f"{folder}: holds no run")
    for run in runs:
        if (name := run.relative_to(folder).as_posix()) not in planned:
            raise Damaged(f"{run}: is no run of its study.json")
        config = _config(run)
        for key in sorted(fixed):
            if (found := getattr(config, key)) != (due := getattr(planned[name], key)):
                raise Damaged(f"{run / 'run.json'}: {key}={found}, not {key}={due}")


def _config(run: Path) -> Config:
    path = run / "run.json"
    stored = rundir.unseal(path)
    for part in ("config", "fingerprint", "identities"):
        if not isinstance(stored.get(part), dict):
            raise Damaged(f"{path}: has no {part}")
    return rundir.read_config(run)


def _check_epochs(folder: Path) -> None:
    """Whether packing again what was unpacked gives the same, and every epoch is in its place."""
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    whole = {
        name: name in there and (folder / name).read_bytes() == data
        for name, data in files(folder, "all")
    }
    if strange := there - whole.keys():
        raise Damaged(f"{folder / min(strange)}: belongs to no committed epoch")
    if wrong := [name for name, same in whole.items() if not same]:
        raise Damaged(f"{folder / wrong[0]}: is not what the other files make it")
    if (path := folder / CALIBRATION).exists():
        try:
            Calibration.model_validate(rundir.unseal(path))
        except ValidationError as error:
            raise Damaged(f"{path}: {fault(error)}") from error
    parts = "audit.json", f"*/seed=*/{BANKS}/{BANK_SCORES}", f"*/seed=*/{TOOLS}/*.json"
    for path in chain.from_iterable(map(folder.glob, parts)):
        _json(path)
    for run in _runs(folder):
        epochs, planned = rundir.committed(run, LACK), _config(run).epochs
        if len(epochs) > planned:
            raise Damaged(f"{run}: has {len(epochs)} epochs, over epochs={planned}")
        for epoch in epochs:
            record = rundir.read_json(run, epoch, RECORD)
            if not isinstance(record, dict) or record.get("epoch") != epoch:
                raise Damaged(f"{rundir.epoch_folder(run, epoch) / RECORD}: is of another epoch")


# --- What is here already -------------------------------------------------------------------------


def _check_against(folder: Path, target: Path) -> None:
    """Whether a study that is here can take what was unpacked; raises Differs and Damaged."""
    if (target / "study.json").exists():
        stored, added = (_settled(each) for each in (target, folder))
        if found := _difference(stored, added):
            raise Differs(f"{target}: {found}")
    audits = [each / "audit.json" for each in (target, folder)]
    if all(path.exists() for path in audits) and (found := _difference(*map(_json, audits))):
        raise Differs(f"{audits[0]}: {found}")

    for run in _runs(folder):
        here = target / run.relative_to(folder)
        if differences := rundir.compare(here, rundir.unseal(run / "run.json")):
            raise Differs(f"{here}: {'; '.join(differences)}")
        stored, added = (rundir.committed(each, LACK) for each in (here, run))
        for epoch in stored[: len(added)]:
            if found := _difference(*(rundir.read_json(x, epoch, RECORD) for x in (here, run))):
                raise Differs(f"{here}: epoch {epoch}: {found}")
        if len(added) > len(stored):
            _check_end(here, len(stored), len(added))
        if len(added) != len(stored):
            continue  # of these two the longer run's count
        banks = [each / BANKS / BANK_SCORES for each in (here, run)]
        if all(path.exists() for path in banks) and (found := _difference(*map(_json, banks))):
            raise Differs(f"{here}: {found}")
        for path in (run / TOOLS).glob("*.json"):
            there = here / TOOLS / path.name
            if there.exists() and (found := _difference(_json(there), _json(path))):
                raise Differs(f"{there}: {found}")


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
        if (united := stored | grid.unite(stored, added)) != stored:
            rundir.replace(target / "study.json", rundir.seal(united))
    for name in OF_STUDY:
        if (folder / name).exists() and not (target / name).exists():
            rundir.replace(target / name, (folder / name).read_bytes())

    new_runs = new_epochs = 0
    for run in _runs(folder):
        here = target / run.relative_to(folder)
        if (here / "run.json").exists():
            rundir.describe(here, rundir.unseal(run / "run.json"))
        else:
            rundir.replace(here / "run.json", (run / "run.json").read_bytes())
            new_runs += 1
        stored, added = (rundir.committed(each, LACK) for each in (here, run))
        if len(added) > len(stored):
            _make_way(run, here)
        for epoch in added[len(stored) :]:
            content = _content(rundir.epoch_folder(run, epoch))
            rundir.place(rundir.epoch_folder(here, epoch), content)
            new_epochs += 1
        if (run / BANKS).exists() and not (here / BANKS).exists():
            rundir.place(here / BANKS, _content(run / BANKS))
        for path in (run / TOOLS).glob("*"):
            if not (here / TOOLS / path.name).exists():
                rundir.replace(here / TOOLS / path.name, path.read_bytes())
    return Merged(target, len(_runs(folder)), new_runs, new_epochs)


def _make_way(run: Path, here: Path) -> None:
    """Drop what was found in a run that was shorter, where the longer one has it as well."""
    if (run / BANKS).exists():
        shutil.rmtree(here / BANKS, ignore_errors=True)
    for path in (run / TOOLS).glob("*"):
        (here / TOOLS / path.name).unlink(missing_ok=True)


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


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
        each = (
            _difference(stored.get(name), added.get(name), prefix + name)
            for name in dict.fromkeys([*stored, *added])
        )
        return next(filter(None, each), "")
    if stored == added:
        return ""
    here, there = (
        text if len(text) <= 60 else f"{text[:60]}..." for text in (str(stored), str(added))
    )
    return f"{key}={here} is stored, {key}={there} is in the archive"
