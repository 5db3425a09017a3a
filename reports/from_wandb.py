"""A study as W&B has it -> the study that its records give.

Whole histories, row by row and never sampled, become the records that were mirrored; from there on
all is as with a study's folder. What W&B does not have (real images, evaluation samples, other
analyses) or what is not fetched from it (pictures) is absent, as from a study without them.
"""

import functools
import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dcgan import rundir
from dcgan.cli import BadInput, one_line
from dcgan.rundir import Damaged
from experiments import grid, tracking
from reports import records
from reports.records import Study

CUT_SHORT = "reached the end of an incomplete .wandb file"  # of a run that goes on, or was killed


class Mirror(NamedTuple):
    """One run in W&B."""

    label: str  # where it is, for people
    config: dict[str, Any]
    rows: list[dict[str, Any]]  # of its history
    files: dict[str, str]  # the text of each of tracking.FILES that it has


def offline(folder: Path) -> Iterator[Mirror]:
    """The offline runs in a folder, oldest first, by W&B's own reader; raises BadInput."""
    from wandb.util import get_core_path  # takes about a second

    paths = sorted(folder.glob("offline-run-*/run-*.wandb"))
    if not paths:
        raise BadInput(f"{folder}: no offline runs of W&B here (offline-run-*)")
    for path in paths:
        command = [get_core_path(), "leet", "inspect", "--no-observability", "--json"]
        command += ["--run-file", str(path.absolute()), str(folder.absolute())]
        done = subprocess.run(command, capture_output=True)
        said = done.stderr.decode(errors="replace").strip()
        if done.returncode or (said and CUT_SHORT not in said):
            raise Damaged(f"{path}: {said.splitlines()[-1]}")
        entries = [json.loads(line) for line in done.stdout.splitlines()]
        rows = [entry["history"]["item"] for entry in entries if entry["type"] == "history"]
        runs = [entry["run"] for entry in entries if entry["type"] == "run"]
        saved = [path.parent / "files" / name for name in tracking.FILES]
        files = {file.name: file.read_text() for file in saved if file.exists()}
        yield Mirror(str(path), runs[0]["config"]["update"] if runs else {}, rows, files)


def online(project: str) -> Iterator[Mirror]:
    """The runs of ENTITY/PROJECT on W&B's server, oldest first; raises BadInput."""
    if project.count("/") != 1:
        raise BadInput(f"{project} is not ENTITY/PROJECT")
    try:
        to = tracking.destination(WANDB_MODE="online")
        if not to.url:
            raise ValueError(to.why)  # as a client of W&B that asks nothing at a prompt
        import wandb

        with tempfile.TemporaryDirectory() as folder:
            os.environ["WANDB_CACHE_DIR"] = folder  # where W&B's service logs
            for run in wandb.Api().runs(project, order="+created_at", lazy=False):
                saved = [file for file in run.files() if file.name in tracking.FILES]
                files = {x.name: x.download(folder, replace=True).read() for x in saved}
                rows = list(run.scan_history(use_cache=False))
                yield Mirror(f"{project}/{run.id}", run.config, rows, files)
    except Exception as error:  # of W&B's service and of the network, which are of no common kind
        raise BadInput(f"{project}: W&B: {one_line(error)}") from error


def load(mirrors: Iterable[Mirror], place: str, name: str | None = None) -> Study:
    """The study that all of these runs are of, or those of them that are of the named one.

    Raises BadInput with one line.
    """
    runs: dict[str, Mirror] = {}
    for mirror in _of_one_study(list(mirrors), place, name):
        run = mirror.config["run"]
        if (twin := runs.setdefault(run, mirror)) is not mirror:
            raise BadInput(f"{run} is there twice: {twin.label} and {mirror.label}")

    # Each run knows the plan as it was when the run began; all of them together know it whole.
    try:
        plans = [json.loads(mirror.files["study.json"]) for mirror in runs.values()]
        plans = [plan for i, plan in enumerate(plans) if plan not in plans[:i]]
        info = functools.reduce(lambda old, new: new | grid.merge(old, new), plans)
        begun = {run: json.loads(mirror.files["run.json"]) for run, mirror in runs.items()}
        calibrations = [mirror.files.get(rundir.CALIBRATION, "null") for mirror in runs.values()]
        calibration = next(filter(None, map(json.loads, calibrations[::-1])), None)
    except (KeyError, TypeError, AttributeError, ValueError, grid.BadStudy) as error:
        raise Damaged(f"{place}: study.json or run.json of a run: {error}") from error
    return records.assemble(Path(place), info, begun, lambda run: _records(runs[run]), calibration)


def _of_one_study(mirrors: list[Mirror], place: str, name: str | None) -> list[Mirror]:
    """The runs of the named study; without a name there may be no others."""
    by_study: dict[str, list[Mirror]] = {}
    for mirror in mirrors:
        by_study.setdefault(_study_name(mirror), []).append(mirror)
    known = sorted(filter(None, by_study))
    if not known:
        raise BadInput(f"{place}: no run of a study is here")
    if name is None and len(by_study) == 1:
        return mirrors
    if name not in known:
        raise BadInput(f"{place}: choose one of its studies with --study: {', '.join(known)}")
    return by_study[name]


def _study_name(mirror: Mirror) -> str:
    """The name of a study's folder; an empty text for a run that is of no study."""
    config, names = mirror.config, mirror.config.keys() | mirror.files.keys()
    if not {"study", "scale", "data", "run", "study.json", "run.json"} <= names:
        return ""
    settings = {"data": config["data"]}
    return grid.Study(config["study"], config["scale"], {}, [], settings, {}).folder


def _records(mirror: Mirror) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Record and timing of each epoch, from the rows of a history; raises Damaged.

    Points of an epoch whose own row has not come yet are passed over.
    """
    epochs: dict[int, dict[str, Any]] = {}
    points: dict[int, dict[str, Any]] = {}
    try:
        for told in mirror.rows:
            # W&B's server fills up what a row lacks with null, and has NaN for a record's null.
            known = {name: x for name, x in told.items() if x is not None}
            row = {name: None if x == "NaN" or x != x else x for name, x in known.items()}
            table, key = (epochs, "epoch") if "epoch" in row else (points, "images")
            own = {name: row[name] for name in row if not name.startswith(("_", "samples"))}
            if table.setdefault(own[key], own) != own:
                raise Damaged(f"{mirror.label}: {key} {own[key]} is there twice, and differs")
        steps = {row["_step"] for row in mirror.rows}
        for what, numbers in {"step": steps, "epoch": {0, *epochs}}.items():
            if gaps := {*range(max(numbers, default=0))} - numbers:
                raise Damaged(f"{mirror.label}: {what} {min(gaps)} of its history is missing")

        made, shown = [], 0
        for _, row in sorted(epochs.items()):
            inside = [points[x] for x in sorted(points) if shown < x <= row["images"]]
            shown = row["images"]
            timing = {name: row[f"time/{name}"] for name in records.TIMES}
            made.append((_record(row, inside), timing))
    except KeyError as error:
        raise Damaged(f"{mirror.label}: a row of its history lacks {error}") from error
    return made


def _record(row: dict[str, Any], points: list[dict[str, Any]]) -> dict[str, Any]:
    names = {"images": "images", "d_loss": "train/d_loss", "g_loss": "train/g_loss"}
    return {key: row[key] for key in rundir.CLOCK} | {
        "losses": {name: row[f"losses/{name}"] for name in records.LOSSES},
        "curve": [{name: point[key] for name, key in names.items()} for point in points],
        "scores": {key[5:]: value for key, value in row.items() if key.startswith("eval/")},
    }
