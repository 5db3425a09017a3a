"""What an analysis measured in one run: <run>/eval/<name>.json, maybe a PNG beside it. No torch."""

import json
import math
import shutil
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dcgan import rundir
from dcgan.cli import aligned
from dcgan.pictures import png_grid

GAP = 2  # pixels between the images of a picture


@dataclass(frozen=True)
class Result:
    """What an analysis gives; its file begins with `tool` and `epoch`."""

    values: dict[str, float | None]  # by flat names; null in the file where not finite or unknown
    titles: dict[str, str]  # what people read for each name
    about: dict[str, Any]  # settings, counts, the SHA-256 of networks and data
    notes: list[str]  # sentences
    picture: bytes | None = None  # a PNG, in a file of its own


def write(run: Path, name: str, epoch: int, result: Result) -> dict[str, Any]:
    """Write the picture, if any, and then the numbers; returns the content of the JSON file."""
    content: dict[str, Any] = {"tool": name, "epoch": epoch, **vars(result)}
    picture = content.pop("picture")
    content["values"] = {
        key: None if x is None or not math.isfinite(x) else x for key, x in result.values.items()
    }
    path = run / rundir.ANALYSES / f"{name}.json"
    if picture:
        rundir.replace(path.with_suffix(".png"), picture)
    rundir.replace(path, rundir.to_json(content))
    return content


def stored(run: Path, name: str, epoch: int) -> dict[str, Any] | None:
    """What `write` wrote after this epoch; None where there is nothing of it, or it is damaged."""
    try:
        content = json.loads((run / rundir.ANALYSES / f"{name}.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return content if content["epoch"] == epoch else None


def to_text(results: dict[str, dict[str, Any]]) -> str:
    """The results of runs, as `write` returns them, for a terminal: runs, a table, the notes."""
    titles = {key: t for result in results.values() for key, t in result["titles"].items()}
    runs = [f"{i}  {x}, epoch {y['epoch']}" for i, (x, y) in enumerate(results.items(), 1)]
    values = [result["values"] for result in results.values()]
    rows = [[title, *(row.get(name) for row in values)] for name, title in titles.items()]
    table = [aligned(["run", *map(str, range(1, len(runs) + 1))], rows), ""] if rows else []
    notes = dict.fromkeys(note for result in results.values() for note in result["notes"])
    wrapped = [textwrap.fill(note, shutil.get_terminal_size().columns) for note in notes]
    return "\n".join([*runs, "", *table, *wrapped])


def draw(rows: list[np.ndarray]) -> bytes:
    """Rows of uint8 images (K, H, W, 3) of any length, on white -> one PNG."""
    columns = max(map(len, rows))
    white = np.full_like(rows[0], 255, shape=(columns, *rows[0].shape[1:]))
    cells = [part for row in rows for part in (row, white[len(row) :])]
    return png_grid(np.concatenate(cells), columns, GAP)
