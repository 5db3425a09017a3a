"""The audit of the scorer, as `python -m eval audit` left it beside study.json, for a reader."""

import json
import math
from typing import Any

import pandas as pd

from dcgan.rundir import Damaged
from reports.records import AUDIT, Study
from reports.tables import Sheet


def load(study: Study) -> dict[str, Any] | None:
    """The content of audit.json, None where there is none; raises Damaged."""
    path = study.folder / AUDIT
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_bytes())
        for table in found["tables"]:
            if any(len(row) != len(table["columns"]) for row in table["rows"]):
                raise KeyError(f"a column of {table['name']}")
        return found | {"answers": [(question, answer) for question, answer in found["answers"]]}
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{path}: lacks {error}") from error


def sheets(study: Study) -> list[Sheet]:
    """The answers, then each table of the audit, rounded; nothing where there was no audit."""
    found = load(study)
    if found is None:
        return []
    answers = [[question, answer] for question, answer in found["answers"]]
    notes = [f"{found['images']:,} images of {found['run']} after epoch {found['epoch']}."]
    title = "Whether the score measures what it should"
    first = Sheet("audit", title, ["question", "answer"], answers, notes, [], words=("answer",))
    return [first, *map(_sheet, found["tables"])]


def frames(study: Study) -> dict[str, pd.DataFrame]:
    """The tables of the audit in full precision, by the names of their sheets."""
    found = load(study)
    return {
        f"audit-{table['name']}": pd.DataFrame(table["rows"], columns=table["columns"])
        for table in (found["tables"] if found else [])
    }


def _sheet(table: dict[str, Any]) -> Sheet:
    columns = list(zip(*table["rows"], strict=True))
    words = [
        name
        for name, cells in zip(table["columns"], columns, strict=False)
        if all(isinstance(cell, str) for cell in cells)
    ]
    rows = [[significant(cell, table["digits"]) for cell in row] for row in table["rows"]]
    name = f"audit-{table['name']}"
    return Sheet(name, table["title"], table["columns"], rows, table["notes"], [], tuple(words))


def significant(cell: str | float | None, digits: int) -> str:
    """A cell with so many significant digits; very small numbers keep a power of ten."""
    if cell is None or isinstance(cell, str):
        return "not measured" if cell is None else cell
    if isinstance(cell, int) or not math.isfinite(cell):
        return f"{cell:,}"
    if 0 < abs(cell) < 1e-4:
        return f"{cell:.1e}"
    size = math.floor(math.log10(abs(cell))) if cell else 0
    return f"{cell:,.{max(0, digits - 1 - size)}f}"
