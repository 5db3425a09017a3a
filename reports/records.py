"""Committed epochs -> one DataFrame. Everything that a reader sees is made from it."""

import hashlib
import io
import itertools
import json
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from pydantic import ValidationError

from dcgan import rundir
from dcgan.cli import BadInput
from dcgan.config import Config, fault
from dcgan.rundir import Damaged
from eval.metrics import LOWER_IS_BETTER as SCORES
from experiments import grid

ARM = ["norm", "head", "batch"]
PRIMARY = "fd_cifar"  # always measured; chooses the best epoch
LOWER_IS_BETTER = dict(SCORES)
LOWER_IS_BETTER |= {
    f"{metric}_reestimated": lower for metric, lower in LOWER_IS_BETTER.items() if "_" in metric
}
LOSSES = ["d_loss", "g_loss", "d_loss_min", "d_real", "d_fake"]
TIMES = ["images_per_second", "train_seconds", "score_seconds"]
CURVE = ["images", "d_loss", "g_loss"]
AUDIT = "audit.json"  # of the scorer, beside study.json
OWN_CLASSES = "train, of each run's own classes"
SETS = ("held_out", "held_out_images", "held_out_seen", "images")  # what a calibration is of
ALIKE = ("network_sha256", "reference_sha256", "reference", "generated", "implementation")
UPDATES_APART = 0.05  # of the updates at which runs are compared; none is further away


class NoStudy(BadInput):
    """The folder holds no study."""


class Mixed(BadInput):
    """Two runs measured the same metric in different ways."""


class Missing(NamedTuple):
    """A planned run whose last epoch has not been committed."""

    run: str  # its folder, relative to the study's
    committed: int  # epochs
    planned: int
    status: str  # "not begun", "unfinished" or "diverged"


@dataclass(frozen=True)
class Study:
    """All committed epochs of one study.

    `frame` has one row per epoch: `run`, the factors, `seed`, `epoch`, `images` (real ones shown to
    D), `steps`, `status`, losses, scores, times. A score that was not finite, or not measured at
    that epoch, is NaN; a metric that was never measured has no column. `curves` has about 20 rows
    per epoch: `run`, the factors, `seed`, `images`, `d_loss`, `g_loss`. `banks` has one row per
    run, epoch and evaluation bank, where an epoch was scored with more noise than its own (bank 0):
    `run`, the factors, `seed`, `epoch`, `bank`, scores; it is empty where none was. `calibration`
    has one row for each set of images that no training made ("held-out", "gaussian", "8x8", "flat",
    "untrained"; see eval.calibration) and one column per metric that the study measured in the
    same way; it is empty where no set was scored, and its `attrs` say what the sets are.
    """

    folder: Path
    info: dict[str, Any]  # study.json
    frame: pd.DataFrame
    curves: pd.DataFrame
    banks: pd.DataFrame
    calibration: pd.DataFrame
    identities: dict[str, dict[str, Any]]  # metric -> how it was measured
    runs: list[Path]  # with at least a run.json
    missing: list[Missing]
    factors: list[str]  # columns that tell the arms apart, in the order of the study
    arms: list[tuple]  # the levels of these, of every arm that was begun or planned
    plan: pd.DataFrame  # one row per run: `run`, factors, `seed`, `planned`, `committed`, `status`
    machines: list[dict[str, Any]]  # the different fingerprints, usually one

    @property
    def baseline(self) -> str | None:
        """The named arm that the others are compared with; None where factors are crossed."""
        return self.arms[0][0] if self.factors == ["arm"] else None


def load(folder: Path) -> Study:
    """Read a study folder; raises NoStudy, Mixed or Damaged with one line that says where."""
    if not (folder / "study.json").is_file():
        raise NoStudy(f"{folder}: no study here (study.json is missing)")
    _check_sums(folder)
    info = rundir.unseal(folder / "study.json")
    there = sorted(path.parent for path in folder.glob("*/*/run.json"))
    begun = {run.relative_to(folder).as_posix(): rundir.unseal(run / "run.json") for run in there}
    path = folder / rundir.CALIBRATION
    calibration = rundir.unseal(path) if path.is_file() else None
    return assemble(folder, info, begun, lambda name: _records(folder / name), calibration)


def assemble(
    folder: Path,
    info: dict[str, Any],
    begun: dict[str, dict[str, Any]],
    records: Callable[[str], list[tuple[dict[str, Any], dict[str, Any]]]],
    calibration: dict[str, Any] | None = None,
) -> Study:
    """The study of these study.json, run.json by the run's folder, and calibration.json.

    `records`: a run's folder -> record and timing of each committed epoch. Raises as `load` does.
    """
    # Every run that is there or should be, in the order of the plan.
    try:
        cells = _cells(info)
        names = [name for name in cells if name in begun] + sorted(begun.keys() - cells.keys())
        begun = {name: begun[name] for name in names}
        configs = {name: _config(folder / name, run["config"]) for name, run in begun.items()}
        identities = _one_identity_each(_of_own_kinds(begun))
        machines = [run["fingerprint"] for run in begun.values()]
        factors = ["arm"] if info.get("arms") else _factors(configs.values(), info["factors"])
        keys = {name: _key(name, cell, factors) for name, cell in (cells | configs).items()}
        planned = {name: cell["epochs"] for name, cell in (cells | configs).items()}
    except (KeyError, TypeError) as error:
        raise Damaged(f"{folder}: its study.json or a run.json lacks {error}") from error

    # One row per committed epoch, and the points of the loss curves.
    rows, points, banks, plan = [], [], [], []
    for name, length in planned.items():
        epochs = records(name) if name in begun else []
        status = "unfinished" if name in begun else "not begun"
        for epoch, (record, timing) in enumerate(epochs, start=1):
            try:
                status = "diverged" if record["status"] == "diverged" else status
                rows.append(keys[name] | _row(record, timing))
                points += [keys[name] | {x: point[x] for x in CURVE} for point in record["curve"]]
            except (KeyError, TypeError) as error:
                path = rundir.epoch_folder(folder / name, epoch) / rundir.RECORD
                raise Damaged(f"{path}: lacks {error}") from error
        own = {row["epoch"]: row for row in rows[len(rows) - len(epochs) :]}
        banks += [keys[name] | row for row in _banks(folder / name, own)]
        if len(epochs) == length and status == "unfinished":
            status = "finished"
        plan.append(keys[name] | {"planned": length, "committed": len(epochs), "status": status})

    columns = list(dict.fromkeys(factors + ARM))
    return Study(
        folder=folder,
        info=info,
        frame=_frame(rows, columns),
        curves=_curves(points, columns),
        banks=_bank_frame(banks, columns),
        calibration=_calibration(folder / rundir.CALIBRATION, calibration, identities),
        identities=identities,
        runs=[folder / name for name in names],
        missing=[
            Missing(run["run"], run["committed"], run["planned"], run["status"])
            for run in plan
            if run["committed"] < run["planned"]
        ],
        factors=factors,
        arms=list(dict.fromkeys(tuple(key[x] for x in factors) for key in keys.values())),
        plan=pd.DataFrame(
            plan, columns=["run", *columns, "seed", "planned", "committed", "status"]
        ),
        machines=[one for i, one in enumerate(machines) if one not in machines[:i]],
    )


def write(study: Study, out: Path) -> list[Path]:
    """Write records.csv and records.parquet, banks.csv and calibration.csv where there are any.

    All in full precision; returns the paths.
    """
    out.mkdir(parents=True, exist_ok=True)
    parquet = io.BytesIO()
    study.frame.to_parquet(parquet, index=False, engine="pyarrow")
    files = {
        out / "records.csv": _csv(study.frame),
        out / "records.parquet": parquet.getvalue(),
    }
    if len(study.banks):
        files[out / "banks.csv"] = _csv(study.banks)
    if len(study.calibration):
        files[out / "calibration.csv"] = _csv(study.calibration.rename_axis("images").reset_index())
    for path, data in files.items():
        path.write_bytes(data)
    return list(files)


def _csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False, lineterminator="\n").encode()


def measured(study: Study, metrics: list[str] | None = None) -> list[str]:
    """The metrics that have at least one finite number, in the order of the tables."""
    names = list(LOWER_IS_BETTER) if metrics is None else metrics
    return [name for name in names if name in study.frame and study.frame[name].notna().any()]


def best_epochs(study: Study, metric: str = PRIMARY) -> pd.DataFrame:
    """For each run the row at which the metric is best; runs without a finite number are absent."""
    if metric not in measured(study):
        return study.frame.iloc[:0]
    runs = study.frame.dropna(subset=[metric]).groupby("run", sort=False)[metric]
    return study.frame.loc[runs.idxmin() if LOWER_IS_BETTER[metric] else runs.idxmax()]


def last_epochs(study: Study) -> pd.DataFrame:
    """For each run the row of its last planned epoch; a run that has not got there is absent."""
    planned = study.plan.set_index("run")["planned"]
    return study.frame[study.frame["epoch"] == study.frame["run"].map(planned)]


def at_updates(study: Study) -> pd.DataFrame:
    """For each run the row nearest in updates to the end of the arm that makes the fewest of them.

    A run that has no epoch within 5 % of that keeps its clock, and NaN for every number.
    """
    frame = study.frame
    planned = frame["run"].map(study.plan.set_index("run")["planned"])
    ends = (planned * frame["steps"] / frame["epoch"]).groupby([frame[x] for x in study.factors])
    goal = ends.max().min()
    gap = (frame["steps"] - goal).abs()
    rows = frame.loc[gap.groupby(frame["run"], sort=False).idxmin()].copy()
    rows.loc[gap[rows.index] > UPDATES_APART * goal, number_columns(study)] = math.nan
    return rows


def levels(study: Study, factor: str) -> list[Any]:
    """The planned levels of a factor, numbers from the smallest on."""
    found = list(dict.fromkeys(study.plan[factor]))
    return sorted(found) if pd.api.types.is_numeric_dtype(study.plan[factor]) else found


def number_columns(study: Study) -> list[str]:
    """The columns of the frame that are losses, scores and times."""
    return list(study.frame.columns[study.frame.columns.get_loc("status") + 1 :])


def first_config(study: Study) -> Config:
    """What the first arm runs with, defaults included; where arms have names, the baseline."""
    info = study.info
    cell = {factor: levels[0] for factor, levels in info["factors"].items()}
    return Config.model_construct(**info["settings"] | grid.fields(cell, info.get("arms", {})))


def _cells(info: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Run folder -> the config fields that study.json knows, for every planned run."""
    factors = info["factors"] | {"seed": info["seeds"]}
    levels = itertools.product(*factors.values())
    cells = [dict(zip(factors, values, strict=True)) for values in levels]
    arms = info.get("arms", {})
    return {
        _folder(cell): info["settings"] | grid.fields(cell, arms) | {"seed": cell["seed"]}
        for cell in cells
    }


def _folder(cell: dict[str, Any]) -> str:
    arm = ",".join(f"{key}={value}" for key, value in cell.items() if key != "seed")
    return f"{arm}/seed={cell['seed']}"


def _config(run: Path, stored: dict[str, Any]) -> dict[str, Any]:
    """A stored config with the defaults of the fields that it was stored without."""
    try:
        return Config.model_validate(stored).model_dump()
    except ValidationError as error:
        raise Damaged(f"{run / 'run.json'}: {fault(error)}") from error


def _records(run: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Record and timing of each committed epoch of a run."""
    return [
        (
            rundir.read_json(run, epoch, rundir.RECORD),
            rundir.read_json(run, epoch, rundir.TIMING),
        )
        for epoch in _epochs(run)
    ]


def _epochs(run: Path) -> list[int]:
    """The committed epochs of a run; raises Damaged where one is not as it was committed."""
    there = [path.name for path in (run / "epochs").glob("[0-9]*")]
    epochs = rundir.committed(run, may_lack=(rundir.SAMPLES,))
    if len(epochs) < len(there):
        epoch = len(epochs) + 1
        for name in (rundir.RECORD, rundir.TIMING, rundir.SAMPLES):
            rundir.read(run, epoch, name)
        raise Damaged(f"{rundir.epoch_folder(run, epoch)}: is not as it was committed")
    return epochs


def _banks(run: Path, own: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per epoch and bank; `own`: the row of each epoch, whose scores are those of bank 0."""
    folder = run / rundir.EVAL_SETS
    if not folder.is_dir():
        return []
    rows = []
    try:
        scores = json.loads(rundir.read_from(folder, rundir.EVAL_SCORES))
        for epoch, others in scores["epochs"].items():
            first = {metric: own[int(epoch)][metric] for metric in others[0]}
            rows += [
                {"epoch": int(epoch), "bank": bank} | values
                for bank, values in enumerate([first, *others])
            ]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise Damaged(f"{folder / rundir.EVAL_SCORES}: lacks {error}") from error
    return rows


def _calibration(
    path: Path, stored: dict[str, Any] | None, identities: dict[str, dict[str, Any]]
) -> pd.DataFrame:
    """The sets of a calibration.json, in the metrics that the study measured in the same way."""
    if stored is None:
        return pd.DataFrame()
    try:
        metrics = [
            metric
            for metric, identity in stored["identities"].items()
            if all(identities.get(metric, {}).get(key) == identity[key] for key in ALIKE)
        ]
        rows = {name: [row[x] for x in metrics] for name, row in stored["rows"].items()}
        frame = pd.DataFrame.from_dict(rows, "index", "float64", metrics)
        frame.attrs = {key: stored[key] for key in SETS}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"{path}: lacks {error}") from error
    return frame


def calibrated(study: Study, metric: str) -> pd.Series:
    """What a metric is for each set of the calibration; empty where it was not measured on them.

    How BatchNorm's statistics are come by is no matter of images that no training made: a metric
    of re-estimated ones is compared with that of the running ones.
    """
    metric = metric.removesuffix("_reestimated")
    if metric not in study.calibration:
        return pd.Series(dtype="float64")
    return study.calibration[metric].dropna()


def _check_sums(folder: Path) -> None:
    """Compare a published study with its SHA256SUMS; raises Damaged with the first that differs.

    A study that is still where it was made has none: its epochs have sums of their own.
    """
    sums = folder / rundir.SUMS
    lines = sums.read_text().splitlines() if sums.is_file() else []
    for line in lines:
        digest, _, name = line.partition("  ")
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise Damaged(f"{path}: is not as it was published (SHA256SUMS)")


def _of_own_kinds(begun: dict[str, dict[str, Any]]) -> dict[str, dict[str, dict]]:
    """The identities of each run; where runs are of different classes, against images of these."""
    if len({run["config"].get("classes", "all") for run in begun.values()}) < 2:
        return {name: run["identities"] for name, run in begun.items()}
    return {
        name: {x: identity | {"split": OWN_CLASSES} for x, identity in run["identities"].items()}
        for name, run in begun.items()
    }


def _one_identity_each(runs: dict[str, dict[str, dict]]) -> dict[str, dict[str, Any]]:
    """The identity of each metric; raises Mixed where two runs disagree on one."""
    identities: dict[str, dict[str, Any]] = {}
    first: dict[str, str] = {}
    for run, metrics in runs.items():
        for metric, identity in metrics.items():
            known = identities.setdefault(metric, identity)
            seen = first.setdefault(metric, run)
            for key in {**known, **identity}:
                if known.get(key) != identity.get(key):
                    raise Mixed(
                        f"{metric} is not one number: {key} is {known.get(key)!r} in {seen} "
                        f"and {identity.get(key)!r} in {run}"
                    )
    order = [*LOWER_IS_BETTER, *identities]
    return {metric: identities[metric] for metric in dict.fromkeys(order) if metric in identities}


def _factors(configs: Collection[dict[str, Any]], planned: dict[str, list]) -> list[str]:
    """The columns that tell the arms apart: of the planned factors, then of others that differ.

    A planned factor of one level is left out, unless it is one of the ablation's.
    """
    fields = dict.fromkeys(key for config in configs for key in config)
    differ = {key for key in fields if len({repr(config.get(key)) for config in configs}) > 1}
    differ |= {key for key, levels in planned.items() if len(levels) > 1 or key in ARM}
    shown = [key for key in {**planned, **fields} if key in differ - {"seed", "epochs"}]
    return [_column(key) for key in shown or planned]


def _key(name: str, config: dict[str, Any], factors: list[str]) -> dict[str, Any]:
    """The columns that name a run; a named arm stands in its folder's name."""
    known = {_column(key): value for key, value in config.items()}
    known["arm"] = name.partition("/")[0].removeprefix("arm=")
    return {"run": name} | {key: known.get(key) for key in [*factors, *ARM, "seed"]}


def _column(key: str) -> str:
    """The config's `images` would clash with the images shown."""
    return "training_images" if key == "images" else key


def _row(record: dict[str, Any], timing: dict[str, Any]) -> dict[str, Any]:
    clock = {key: record[key] for key in ("epoch", "images", "steps", "status")}
    times = {key: timing[key] for key in TIMES}
    return clock | {key: record["losses"][key] for key in LOSSES} | record["scores"] | times


def _frame(rows: list[dict[str, Any]], factors: list[str]) -> pd.DataFrame:
    """All rows with the columns in one fixed order, and the numbers as float64."""
    names = dict.fromkeys(key for row in rows for key in row)
    keys = ["run", *factors, "seed", "epoch", "images", "steps", "status"]
    known = [name for name in LOWER_IS_BETTER if name in names]
    scores = known + [name for name in names if name not in {*keys, *LOSSES, *known, *TIMES}]
    numbers = [*LOSSES, *scores, *TIMES]
    return pd.DataFrame(rows, columns=[*keys, *numbers]).astype(dict.fromkeys(numbers, "float64"))


def _bank_frame(rows: list[dict[str, Any]], factors: list[str]) -> pd.DataFrame:
    keys = ["run", *factors, "seed", "epoch", "bank"]
    scores = [name for name in LOWER_IS_BETTER if any(name in row for row in rows)]
    frame = pd.DataFrame(rows, columns=[*keys, *scores])
    return frame.astype(dict.fromkeys(scores, "float64"))


def _curves(points: list[dict[str, Any]], factors: list[str]) -> pd.DataFrame:
    columns = ["run", *factors, "seed", *CURVE]
    return pd.DataFrame(points, columns=columns).astype({"d_loss": "float64", "g_loss": "float64"})
