"""What a tool finds in one run: <run>/eval/<tool>.json, and maybe a figure beside it. No torch.

tool, epoch   which tool, after which epoch of the run
values        {flat name: a number in full precision; null where it is not finite or unknown}
titles        {flat name: the words of a table's column}
about         settings, counts, the SHA-256 of networks and data
notes         sentences
"""

import dataclasses
import json
import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dcgan.sources import write_file


@dataclass(frozen=True)
class Result:
    """See the top of this file."""

    tool: str
    epoch: int
    values: dict[str, float | None]
    titles: dict[str, str]
    about: dict[str, Any]
    notes: list[str]
    figure: bytes | None = field(default=None, repr=False)  # a PNG, in a file of its own


def as_dict(result: Result) -> dict[str, Any]:
    """A result without its figure."""
    return {name: value for name, value in vars(result).items() if name != "figure"}


def keep(run: Path, result: Result) -> Result:
    """Write the figure, if there is one, and then the numbers: each appears at once.

    A value that is not finite becomes null. Returns what was written.
    """
    folder = run / "eval"
    values = {name: _finite(value) for name, value in result.values.items()}
    result = dataclasses.replace(result, values=values)
    if result.figure:
        write_file(folder / f"{result.tool}.png", lambda file: file.write(result.figure))
    text = json.dumps(as_dict(result), indent=1, allow_nan=False) + "\n"
    write_file(folder / f"{result.tool}.json", lambda file: file.write(text.encode()))
    return result


def stored(run: Path, tool: str) -> Result | None:
    """What `keep` wrote; None where it is missing or damaged."""
    try:
        content = json.loads((run / "eval" / f"{tool}.json").read_bytes())
        whole = {type(content[name]) for name in ("values", "titles", "about")} == {dict}
        return Result(**content) if whole else None
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None


def table(results: dict[str, Result]) -> str:
    """One line a run, one column a value, four digits; then the notes, each of them once."""
    titles: dict[str, str] = {}
    for result in results.values():
        titles |= result.titles
    rows = [
        [run, result.epoch, *(result.values.get(name) for name in titles)]
        for run, result in results.items()
    ]
    notes = dict.fromkeys(note for result in results.values() for note in result.notes)
    return "\n".join([aligned(["run", "epoch", *titles.values()], rows), "", *notes]).rstrip()


def aligned(columns: list[str], rows: list[list[Any]], digits: int = 4) -> str:
    """A table of text and numbers; columns that do not fit the terminal follow below."""
    cells = [columns, *([_cell(cell, digits) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    free = shutil.get_terminal_size().columns - widths[0]
    blocks: list[list[int]] = [[]]
    for column in range(1, len(widths)):
        if sum(widths[i] + 2 for i in (*blocks[-1], column)) > free and blocks[-1]:
            blocks.append([])
        blocks[-1].append(column)
    tables = [
        [[row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in block)] for row in cells]
        for block in blocks
    ]
    return "\n\n".join("\n".join("  ".join(row).rstrip() for row in table) for table in tables)


def _cell(cell: Any, digits: int) -> str:
    if cell is None:
        return "–"
    return f"{cell:.{digits}g}" if isinstance(cell, float) else str(cell)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
