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
from dataclasses import dataclass
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


def keep(run: Path, result: Result, figure: bytes | None = None) -> Result:
    """Write the figure, if there is one, and then the numbers: each appears at once.

    A value that is not finite becomes null. Returns what was written.
    """
    folder = run / "eval"
    values = {name: _finite(value) for name, value in result.values.items()}
    result = dataclasses.replace(result, values=values)
    if figure:
        write_file(folder / f"{result.tool}.png", lambda file: file.write(figure))
    text = json.dumps(dataclasses.asdict(result), indent=1, allow_nan=False) + "\n"
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
    rows = [["run", "epoch", *titles.values()]]
    for run, result in results.items():
        cells = [_cell(result.values.get(name)) for name in titles]
        rows.append([run, str(result.epoch), *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for run, *cells in rows:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([run.ljust(widths[0]), *padded]))
    notes = dict.fromkeys(note for result in results.values() for note in result.notes)
    return "\n".join([*lines, "", *notes] if notes else lines)


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
