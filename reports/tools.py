"""What the tools of `python -m eval` have measured in finished runs, for a reader.

Each leaves <run>/eval/<tool>.json, and a picture beside it: see eval.results.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from dcgan.rundir import Damaged
from reports.records import Study
from reports.tables import DASH, SPREAD, Sheet, arm_name, of_arm

FOLDER = "eval"  # of a run
TITLES = {
    "probe": "What D's features tell a linear classifier",
    "neighbours": "Samples, held-out images, and the nearest training image",
    "walks": "Walks and arithmetic in latent space",
    "filters": "What D's last features respond to",
    "heads": "A training step with either head, counted and timed",
    "constant": "Features of G that are nearly constant",
}
ROWS = {  # what stands where in a picture
    "neighbours": "Above, the samples that lie nearest to a training image; below each that image, "
    "in the classifier's features and then in pixels.",
    "walks": "Rows in pairs: a walk between two z, and a blend of the pixels of its ends. Below, a "
    "row for each trial of arithmetic: exemplars of a bright A, a dark A and a dark B, then what "
    "their means give, what one of each gives, the same shortened, and the placebo.",
    "filters": "Images, and under each the guided gradient of the unit that responds most to it: "
    "first of the trained D, then of the untrained one.",
}
DIGITS = 4  # significant ones that a reader needs


class Picture(NamedTuple):
    """A tool's picture of one run."""

    run: str
    epoch: int
    path: Path


def load(study: Study) -> dict[str, dict[str, dict[str, Any]]]:
    """Tool -> run -> what it left there, the tools in a fixed order; raises Damaged."""
    found: dict[str, dict[str, dict[str, Any]]] = {tool: {} for tool in TITLES}
    for run in study.runs:
        for path in sorted((run / FOLDER).glob("*.json")):
            name = run.relative_to(study.folder).as_posix()
            found.setdefault(path.stem, {})[name] = _read(path)
    return {tool: runs for tool, runs in found.items() if runs}


def values(study: Study) -> pd.DataFrame:
    """One row per run, a column `tool/name` for each number; NaN where a run has none."""
    rows: dict[str, dict[str, float]] = {name: {} for name in study.plan["run"]}
    for tool, runs in load(study).items():
        for run, found in runs.items():
            rows[run] |= {f"{tool}/{name}": value for name, value in found["values"].items()}
    return pd.DataFrame.from_dict(rows, orient="index").astype("float64")


def frames(study: Study) -> dict[str, pd.DataFrame]:
    """One table per tool in full precision: a row per run."""
    plan = study.plan.set_index("run")[[*study.factors, "seed"]]
    return {
        tool: plan.loc[list(runs)]
        .assign(epoch=[found["epoch"] for found in runs.values()])
        .join(pd.DataFrame({run: found["values"] for run, found in runs.items()}).T.astype(float))
        .reset_index(drop=True)
        for tool, runs in load(study).items()
    }


def sheets(study: Study) -> list[Sheet]:
    """One table per tool: a row per number, its mean over seeds in a column for each arm."""
    shown = []
    tables = frames(study)
    for tool, runs in load(study).items():
        titles, notes = {}, {}
        for found in runs.values():
            titles |= found["titles"]
            notes |= dict.fromkeys(found["notes"])
        measured = {arm: of_arm(study, tables[tool], arm) for arm in study.arms}
        measured = {arm: runs for arm, runs in measured.items() if len(runs)}
        rows = [["seeds", *(str(len(runs)) for runs in measured.values())]]
        rows += [
            [title, *(_cell(runs[name]) for runs in measured.values())]
            for name, title in titles.items()
        ]
        columns = ["number", *(arm_name(study, arm) for arm in measured)]
        notes = [SPREAD, *notes] if tables[tool]["seed"].nunique() > 1 else list(notes)
        shown.append(Sheet(tool, TITLES.get(tool, tool), columns, rows, notes, []))
    return shown


def pictures(study: Study) -> dict[str, Picture]:
    """The picture of each tool: the lowest seed of the first arm that has one."""
    chosen: dict[str, Picture] = {}
    order = study.plan.sort_values("seed", kind="stable")["run"]
    for tool, runs in load(study).items():
        for run in order:
            path = study.folder / run / FOLDER / f"{tool}.png"
            if run in runs and path.is_file():
                chosen[tool] = Picture(run, runs[run]["epoch"], path)
                break
    return chosen


def caption(study: Study, tool: str, picture: Picture) -> str:
    """What stands under a tool's picture."""
    row = study.plan.set_index("run").loc[picture.run]
    name = arm_name(study, tuple(row[x] for x in study.factors))
    where = f"{name}, seed {row['seed']}, after epoch {picture.epoch}; n = 1 run."
    return f"{TITLES.get(tool, tool)}. {ROWS.get(tool, '')} {where}"


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
        whole = found["values"].keys() == found["titles"].keys()
        numbers = all(x is None or type(x) in (int, float) for x in found["values"].values())
        words = [*found["titles"].values(), *found["notes"]]
        if not (whole and numbers and all(isinstance(x, str) for x in words)):
            raise TypeError("numbers with their titles")
        return {key: found[key] for key in ("epoch", "values", "titles", "notes")}
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise Damaged(f"{path}: lacks {error}") from error


def _cell(numbers: pd.Series) -> str:
    """The mean over seeds and its standard deviation to so many digits of the mean."""
    known = numbers.dropna()
    if known.empty:
        return DASH
    mean = known.mean()
    size = math.floor(math.log10(abs(mean))) if mean else 0
    decimals = max(0, DIGITS - 1 - size)
    spread = f" ± {known.std(ddof=1):.{decimals}f}" if len(known) > 1 else ""
    few = f" (n = {len(known)})" if len(known) < len(numbers) else ""
    return f"{mean:,.{decimals}f}{spread}{few}"
