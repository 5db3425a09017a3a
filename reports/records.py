"""Committed epochs -> one DataFrame. Everything that a reader sees is made from it."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

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
LOWER_IS_BETTER = SCORES | {
    f"{metric}_reestimated": lower for metric, lower in SCORES.items() if "_" in metric
}
LOSSES = ["d_loss", "g_loss", "d_loss_min", "d_real", "d_fake"]
TIMES = ["images_per_second", "train_seconds", "score_seconds"]
CURVE = ["images", "d_loss", "g_loss"]
OWN_CLASSES = "train, of each run's own classes"
SETS = ("held_out", "held_out_images", "held_out_seen", "images")  # what a calibration is of
ALIKE = ("network_sha256", "reference_sha256", "reference", "generated", "implementation")
Results = dict[str, dict[str, dict[str, Any]]]  # analysis -> run -> what it left there


@dataclass(frozen=True)
class Study:
    """All committed epochs of one study, in frames whose rows begin with `run`, factors, `seed`.

    `frame` has a row per epoch: `epoch`, `images` (real ones shown to D), `steps`, `status`,
    losses, scores, times; a score that was not finite, or not measured there, is NaN, and a metric
    that was never measured has no column. `curves` has about 20 rows per epoch: `images`, `d_loss`,
    `g_loss`. `eval_sets` has a row per evaluation set of each epoch that was scored with more noise
    than its own (set 0): `epoch`, `eval_set`, scores. `calibration` has a row per set of images
    that no training made (see eval.calibration) and a column per metric that the study measured in
    the same way; its `attrs` say what the sets are.
    """

    folder: Path
    info: dict[str, Any]  # study.json
    frame: pd.DataFrame
    curves: pd.DataFrame
    eval_sets: pd.DataFrame
    calibration: pd.DataFrame
    identities: dict[str, dict[str, Any]]  # metric -> how it was measured
    factors: list[str]  # columns that tell the arms apart, in the order of the study
    arms: list[tuple]  # the levels of these, of every planned arm
    plan: pd.DataFrame  # a row per run: `planned`, `committed`, `status`
    machines: pd.DataFrame  # run -> its fingerprint, a text a key
    analyses: Results = field(default_factory=dict)

    def pictured(self, run: str) -> list[int]:
        """The epochs of a run that have samples, of those that were read: more may be there now."""
        last = self.frame.loc[self.frame["run"] == run, "epoch"].max()  # NaN where none was
        return [x for x in rundir.kept(self.folder / run, rundir.SAMPLES) if x <= last]

    @cached_property
    def missing(self) -> list[tuple]:
        """The planned runs whose last epoch is not committed: `run`, `committed`, `planned`, ..."""
        rows = self.plan[self.plan["committed"] < self.plan["planned"]]
        return list(rows[["run", "committed", "planned", "status"]].itertuples(index=False))


def load(folder: Path) -> Study:
    """Read a study folder; raises BadInput with one line that says where."""
    if not (folder / "study.json").is_file():
        raise BadInput(f"{folder}: no study here (study.json is missing)")
    info = rundir.unseal(folder / "study.json")
    runs = sorted(path.parent for path in folder.glob("*/*/run.json"))
    begun = {run.relative_to(folder).as_posix(): rundir.unseal(run / "run.json") for run in runs}
    path = folder / rundir.CALIBRATION
    calibration = rundir.unseal(path) if path.is_file() else None
    study = assemble(folder, info, begun, lambda run: rundir.records(folder / run), calibration)
    return replace(study, analyses=_analyses(study))


def assemble(
    folder: Path,
    info: dict[str, Any],
    begun: dict[str, dict[str, Any]],
    records: Callable[[str], Iterable[tuple[dict[str, Any], dict[str, Any]]]],
    calibration: dict[str, Any] | None = None,
) -> Study:
    """The study of these study.json, run.json by the run's folder, and calibration.json.

    `records`: a run's folder -> record and timing of each committed epoch. Raises as `load` does.
    """
    # What is planned, and what was begun of it, in the order of the plan.
    with _lacking(folder / "study.json or a run.json"):
        planned = _planned(info)
        begun = {name: begun[name] for name in planned if name in begun}
        stored = {name: _config(folder / name, run) for name, run in begun.items()}
        factors = ["arm"] if info.get("arms") else _factors(stored.values(), info["factors"])
        identities = _one_identity_each(begun)
        machines = {name: run["fingerprint"] for name, run in begun.items()}

    # One row per committed epoch, and the points of the loss curves.
    rows, points, eval_sets, plan = [], [], [], []
    for name, config in (planned | stored).items():
        key, own = _key(name, config, factors), {}
        status = "unfinished" if name in begun else "not begun"
        for epoch, (record, timing) in enumerate(records(name) if name in begun else [], 1):
            with _lacking(rundir.epoch_folder(folder / name, epoch) / rundir.RECORD):
                own[epoch] = key | _row(record, timing)
                points += [(*key.values(), *(point[x] for x in CURVE)) for point in record["curve"]]
        rows += own.values()
        eval_sets += [key | row for row in _eval_sets(folder / name, own)]
        if "diverged" in {row["status"] for row in own.values()}:
            status = "diverged"
        elif len(own) == config["epochs"]:
            status = "finished"
        plan.append(key | {"planned": config["epochs"], "committed": len(own), "status": status})

    columns = ["run", *dict.fromkeys(factors + ARM), "seed"]
    of_sets = [*columns, "epoch", "eval_set"]
    scores = _scores(rows, [*columns, *rundir.CLOCK, *LOSSES, *TIMES])
    return Study(
        folder=folder,
        info=info,
        frame=_frame(rows, [*columns, *rundir.CLOCK], [*LOSSES, *scores, *TIMES]),
        curves=_frame(points, [*columns, "images"], CURVE[1:]),
        eval_sets=_frame(eval_sets, of_sets, _scores(eval_sets, of_sets)),
        calibration=_calibration(folder / rundir.CALIBRATION, calibration, identities),
        identities=identities,
        factors=factors,
        arms=list(dict.fromkeys(tuple(row[x] for x in factors) for row in plan)),
        plan=pd.DataFrame(plan, columns=[*columns, "planned", "committed", "status"]),
        machines=pd.DataFrame.from_dict(machines, "index", dtype=str),
    )


def write(study: Study, out: Path) -> list[Path]:
    """Write records.csv and .parquet and what there is of eval_sets.csv, calibration.csv; paths."""
    out.mkdir(parents=True, exist_ok=True)
    tables = {"records": study.frame, "eval_sets": study.eval_sets}
    tables["calibration"] = study.calibration.rename_axis("images").reset_index()
    files = {out / f"{name}.csv": table for name, table in tables.items() if len(table)}
    for path, table in files.items():
        table.to_csv(path, index=False, lineterminator="\n")
    study.frame.to_parquet(out / "records.parquet", index=False, engine="pyarrow")
    return [*files, out / "records.parquet"]


def _planned(info: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Run folder -> its config, for every planned run, all seeds of an arm before the next arm."""
    runs = grid.runs(grid.stored(info))
    arms = list(dict.fromkeys(run.arm for run in runs))
    runs.sort(key=lambda run: arms.index(run.arm))
    return {run.folder: run.config.model_dump() for run in runs}


def _config(folder: Path, run: dict[str, Any]) -> dict[str, Any]:
    """A stored config with the defaults of the fields that it was stored without."""
    with _lacking(folder / "run.json"):
        return Config.model_validate(run["config"]).model_dump()


def _eval_sets(run: Path, own: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per epoch and set; `own`: the row of each epoch, whose scores are those of set 0."""
    folder, rows = run / rundir.EVAL_SETS, []
    if not folder.is_dir():
        return rows
    with _lacking(folder / rundir.EVAL_SCORES):
        scores = json.loads(rundir.read(folder, rundir.EVAL_SCORES))
        for epoch, others in scores["epochs"].items():
            first = {metric: own[int(epoch)][metric] for metric in others[0]}
            for number, values in enumerate([first, *others]):
                rows.append({"epoch": int(epoch), "eval_set": number} | values)
    return rows


def _calibration(
    path: Path, stored: dict[str, Any] | None, identities: dict[str, dict[str, Any]]
) -> pd.DataFrame:
    """The sets of a calibration.json, in the metrics that the study measured in the same way."""
    if stored is None:
        return pd.DataFrame()
    with _lacking(path):
        metrics = [
            metric
            for metric, identity in stored["identities"].items()
            if all(identities.get(metric, {}).get(key) == identity[key] for key in ALIKE)
        ]
        rows = {name: [row[x] for x in metrics] for name, row in stored["rows"].items()}
        frame = pd.DataFrame.from_dict(rows, "index", "float64", metrics)
        frame.attrs = {key: stored[key] for key in SETS}
        frame.attrs["untrained"] = stored.get("untrained", {})
    return frame


def calibrated(study: Study, metric: str) -> pd.Series:
    """What a metric is for each set of the calibration; empty where it was not measured on them.

    One with re-estimated statistics of BatchNorm is compared with the usual one.
    """
    known = study.calibration.get(metric.removesuffix("_reestimated"), pd.Series(dtype=float))
    return known.dropna()


def _analyses(study: Study) -> Results:
    """What each analysis left in each run: its epoch, numbers, their titles, notes.

    Of the last planned epoch, or of none (epoch 0): others are of another network.
    """
    analyses: Results = {}
    planned = study.plan.set_index("run")["planned"]
    for run in study.machines.index:
        for path in sorted((study.folder / run / rundir.ANALYSES).glob("*.json")):
            with _lacking(path):
                stored = json.loads(path.read_bytes())
                result = {key: stored[key] for key in ("epoch", "values", "titles", "notes")}
            if result["epoch"] in (0, planned[run]):
                analyses.setdefault(path.stem, {})[run] = result
    return analyses


@contextmanager
def _lacking(path: Path) -> Iterator[None]:
    """Whatever is wrong with the content of a file is one Damaged that names it."""
    try:
        yield
    except ValidationError as error:
        raise Damaged(f"{path}: {fault(error)}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"{path}: lacks {error}") from error


def _one_identity_each(begun: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The identity of each metric; raises BadInput where two runs disagree on one.

    Where runs are of different classes, each is compared with images of its own.
    """
    kinds = {run["config"].get("classes", "all") for run in begun.values()}
    own = {"split": OWN_CLASSES} if len(kinds) > 1 else {}
    first: dict[str, tuple[str, dict[str, Any]]] = {}
    for name, run in begun.items():
        for metric, identity in run["identities"].items():
            identity = identity | own
            seen, known = first.setdefault(metric, (name, identity))
            for key in known | identity:
                one, other = known.get(key), identity.get(key)
                if one != other:
                    differ = f"{key} is {one!r} in {seen} and {other!r} in {name}"
                    raise BadInput(f"{metric} is not one number: {differ}")
    ordered = sorted(first, key=[*LOWER_IS_BETTER, *first].index)
    return {metric: first[metric][1] for metric in ordered}


def _factors(configs: Collection[dict[str, Any]], planned: dict[str, list]) -> list[str]:
    """The columns that tell the arms apart: of the planned factors, then of others that differ.

    A planned factor of one level is left out, unless it is one of the ablation's.
    """
    fields = Config.model_fields
    differ = {key for key in fields if len({config[key] for config in configs}) > 1}
    differ |= {key for key, levels in planned.items() if len(levels) > 1 or key in ARM}
    shown = [key for key in {**planned, **fields} if key in differ - {"seed", "epochs"}]
    return [_column(key) for key in shown or planned]


def _key(name: str, config: dict[str, Any], factors: list[str]) -> dict[str, Any]:
    """The columns that name a run; a named arm stands in its folder's name."""
    known = {_column(key): value for key, value in config.items()}
    known["arm"] = name.partition("/")[0].removeprefix("arm=")
    return {"run": name} | {key: known[key] for key in [*factors, *ARM, "seed"]}


def _column(key: str) -> str:
    """The config's `images` would clash with the images shown."""
    return "training_images" if key == "images" else key


def _row(record: dict[str, Any], timing: dict[str, Any]) -> dict[str, Any]:
    clock = {key: record[key] for key in rundir.CLOCK}
    times = {key: timing[key] for key in TIMES}
    return clock | {key: record["losses"][key] for key in LOSSES} | record["scores"] | times


def _frame(rows: list, keys: list[str], numbers: list[str]) -> pd.DataFrame:
    """All rows with the columns in one fixed order, and the numbers as float64."""
    frame = pd.DataFrame(rows, columns=[*keys, *numbers])
    return frame.astype(dict.fromkeys(numbers, "float64"))


def _scores(rows: list[dict[str, Any]], others: list[str]) -> list[str]:
    """The metrics of some rows, known ones first; `others`: what is no metric."""
    names = dict.fromkeys(key for row in rows for key in row)
    known = [name for name in LOWER_IS_BETTER if name in names or name == PRIMARY]
    return known + [name for name in names if name not in {*known, *others}]
