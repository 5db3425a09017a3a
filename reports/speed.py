"""What `make bench` measured on a machine -> sentences, tables, figures, a page. No torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from dcgan import rundir
from reports import figures, page, tables
from reports.figures import ARM, BASELINE, GREY, WIDTH
from reports.tables import DASH, Sheet

TITLES = {  # of the parts of a record, in the order in which they are read
    "training": "Training, beside the plain loop of the tutorials on the same networks",
    "jobs": "Processes and threads that share the machine",
    "epoch": "Where the time of an epoch of small goes",
    "scoring": "Scoring, beside the loops of two libraries on the same network and images",
    "frechet": "The Fréchet distance, computed in three ways",
    "start": "What is waited for, and a worker's memory",
    "growth": "Growth: one thing at a time around small on 512 images",
}
NOTES = {
    "training": [
        "Of a matrix product: the arithmetic done in a second, over that of one product of two "
        "square matrices; a library's convolutions can be faster than its products."
    ],
    "start": ["The first epoch is one of smoke: from the command until it is committed."],
}
CASES = ("small", "cifar32", "blog64")  # of training, that sentences name
PLAIN = {"blog64": "the blog's networks", "paper, 64x64": "the paper's"}  # of the plain loop
Record = dict[str, Any]


class Aim(NamedTuple):
    """Something that the project aims at on two cores of a CPU."""

    text: str
    value: Callable[[Record], float]
    bound: float
    above: bool  # whether more is better
    unit: str = ""


def load(path: Path) -> Record:
    """A record as it was written; raises rundir.Damaged."""
    record = rundir.unseal(path)
    if not isinstance(record.get("parts"), dict) or not record["parts"]:
        raise rundir.Damaged(f"{path}: holds no part of a bench")
    return record


def write(path: Path, out: Path) -> tuple[list[str], list[Path]]:
    """Write page, tables and figures of a record; returns what was found, and the paths."""
    record = load(path)
    shown, drawn, said = sheets(record), draw(record), sentences(record)
    (out / "tables").mkdir(parents=True, exist_ok=True)
    files = {
        "tables.md": "\n".join(map(tables.to_markdown, shown)),
        "tables.tex": "\n".join(map(tables.to_latex, shown)),
        **{f"{name}.csv": tables.to_csv(_frame(record, name)) for name in record["parts"]},
    }
    for name, text in files.items():
        (out / "tables" / name).write_text(text, encoding="utf-8")
    paths = [out / "tables" / name for name in files] + figures.save(drawn, out / "figures")
    index = out / "index.html"
    index.write_text(_page(record, said, shown, drawn), encoding="utf-8")
    return said, [index, *paths]


# --- Numbers --------------------------------------------------------------------------------------


def rows(record: Record, part: str, **wanted: Any) -> list[dict[str, Any]]:
    """The rows of a part that have these values; none where it was not measured."""
    there = record["parts"].get(part, [])
    return [row for row in there if all(row[key] == value for key, value in wanted.items())]


def _one(record: Record, part: str, column: str, **wanted: Any) -> float:
    (row,) = rows(record, part, **wanted)
    return row[column]


def _share(record: Record, *pieces: str) -> float:
    return 100 * sum(_one(record, "epoch", "share", piece=piece) for piece in pieces)


def _percent(record: Record, piece: str) -> str:
    share = _share(record, piece)
    return f"{share:.1f} %" if share >= 0.05 else "under 0.1 %"


AIMS = [
    Aim(
        "training, the blog's networks, times the plain loop",
        lambda r: _one(r, "training", "ratio", networks="blog64"),
        1.5,
        True,
    ),
    Aim(
        "training, the paper's networks, times the plain loop",
        lambda r: _one(r, "training", "ratio", networks="paper, 64x64"),
        1.3,
        True,
    ),
    Aim(
        "two processes of one thread, times one of two",
        lambda r: _one(r, "jobs", "ratio", **{"processes x threads": "1 x 2"}),
        1.0,
        True,
    ),
    Aim(
        "Fréchet distance of 2,048 features, times torch-fidelity",
        lambda r: _one(r, "frechet", "ratio", D=2048, **{"computed by": "torch-fidelity"}),
        2.0,
        True,
    ),
    Aim("scoring, of an epoch at small", lambda r: _share(r, "scoring"), 15, False, " %"),
    Aim("commit and W&B, of an epoch", lambda r: _share(r, "commit", "W&B"), 2, False, " %"),
    Aim(
        "peak memory of a worker at small",
        lambda r: _one(r, "start", "median", what="worker at small") / 1000,
        1.5,
        False,
        " GB",
    ),
]


def sentences(record: Record) -> list[str]:
    """What was found, in a few sentences; of parts that were not measured there is none."""
    said, machine = [], record["hardware"]
    if rows(record, "training"):
        speeds = {row["networks"]: row["images/s"] for row in rows(record, "training")}
        shown = [f"{_rate(speed)} at {name}" for name, speed in speeds.items() if name in CASES]
        where = f"One thread of {machine['processor']}" if machine["device"] == "cpu" else "One GPU"
        said.append(f"{where} trains, in images a second, {tables.join(shown)}.")
        against = [
            f"{_ratio(row)} times as many on {name}"
            for row in rows(record, "training")
            if row["ratio"] and (name := PLAIN.get(row["networks"]))
        ]
        said.append(
            "That is, beside the plain loop of the tutorials, which takes turns with it, "
            f"{tables.join(against)}."
        )
    if rows(record, "jobs") and machine["device"] == "cpu":
        (row,) = rows(record, "jobs", **{"processes x threads": "1 x 2"})
        said.append(
            f"Two processes of one thread train {_ratio(row)} times as many images as one of two."
        )
    if rows(record, "epoch"):
        said.append(
            f"Scoring takes {_percent(record, 'scoring')} of an epoch at small, the commit "
            f"{_percent(record, 'commit')} and W&B {_percent(record, 'W&B')}."
        )
    if rows(record, "scoring"):
        by = {row["scored by"]: row for row in rows(record, "scoring")}
        said.append(
            f"{_rate(by['ours']['images/s'])} images are scored a second, "
            f"{_ratio(by['torchmetrics'])} times torchmetrics' and "
            f"{_ratio(by['torch-fidelity'])} times torch-fidelity's own loop."
        )
    if found := {row["computed by"]: row for row in rows(record, "frechet", D=2048)}:
        ours, theirs = found["ours"], found["torch-fidelity"]
        said.append(
            f"The Fréchet distance of 2,048 features takes {ours['s']:.1f} s with a relative error "
            f"of {ours['error']:.0e}; torch-fidelity's takes {theirs['ratio']:.2f} times as long, "
            f"with {theirs['error']:.0e}."
        )
        fewer = {
            str(row["D"]): f"{row['ratio']:.2f}"
            for row in rows(record, "frechet", **{"computed by": "torch-fidelity"})
            if row["D"] < 2048
        }
        said.append(
            f"With {tables.join([*fewer])} features it takes {tables.join([*fewer.values()])} "
            "times as long as ours."
        )
    if rows(record, "start"):
        first = _one(record, "start", "median", what="first epoch")
        peak = _one(record, "start", "median", what="worker at small")
        said.append(
            f"A first epoch is there after {first:.1f} s, and a worker at small peaks at "
            f"{peak:.0f} MB."
        )
    return said


def aims(record: Record) -> Sheet | None:
    """What is aimed at on a CPU, and whether it is reached; None on a GPU, or if parts lack."""
    if record["hardware"]["device"] != "cpu" or not {*TITLES} <= {*record["parts"]}:
        return None
    lines = []
    for aim in AIMS:
        value = aim.value(record)
        reached = value >= aim.bound if aim.above else value <= aim.bound
        wanted = f"at {'least' if aim.above else 'most'} {aim.bound:g}{aim.unit}"
        measured = f"{tables.digits(value)}{aim.unit}"
        lines.append([aim.text, wanted, measured, "yes" if reached else "no"])
    columns = ["what", "aim", "measured", "reached"]
    return Sheet("aims", "What is aimed at, and what is reached", columns, lines, [], [])


def sheets(record: Record) -> list[Sheet]:
    """A table for each part, and one of the aims."""
    found = [aims(record)]
    for part, title in TITLES.items():
        if part not in record["parts"]:
            continue
        frame = _frame(record, part)
        words = tuple(name for name in frame if frame[name].map(type).eq(str).any())
        cells = [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
        found.append(Sheet(part, title, [*frame], cells, NOTES.get(part, []), [], words))
    return [sheet for sheet in found if sheet]


def _frame(record: Record, part: str) -> pd.DataFrame:
    """The rows of a part, without the single measurements and columns that are empty."""
    plain = [
        {key: value for key, value in row.items() if not isinstance(value, list)}
        for row in record["parts"][part]
    ]
    return pd.DataFrame(plain, dtype=object).dropna(axis=1, how="all")


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return DASH
    return f"{value:,}" if isinstance(value, int) else _rate(value)


def _rate(value: float) -> str:
    """Three digits, or all of a whole number that has more."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else tables.digits(value)


def _ratio(row: dict[str, Any]) -> str:
    return tables.interval(row["ratio"], row["lowest"], row["highest"], 2)


# --- Figures --------------------------------------------------------------------------------------


def draw(record: Record) -> dict[str, tuple[Figure, str]]:
    """A figure for each part that was measured, with its caption."""
    made = {
        "training": _training,
        "jobs": _jobs,
        "epoch": _epoch,
        "scoring": _scoring,
        "frechet": _frechet,
        "start": _start,
        "growth": _growth,
    }
    with figures.style():
        drawn = {part: make(record) for part, make in made.items() if part in record["parts"]}
        for figure, _ in drawn.values():
            figures.settle(figure)
    return drawn


def _dots(axis: Axes, names: list[str], values: dict[str, list[list[float]]]) -> None:
    """Rows of dots, read from above: measurements small, their median large; a hue a series."""
    looks = [(BASELINE, "o"), (ARM, "^")]
    for (label, measured), (colour, marker) in zip(values.items(), looks, strict=False):
        look = {"color": colour, "marker": marker, "linestyle": ""}
        for y, single in enumerate(measured):
            axis.plot(single, [y] * len(single), markersize=4.5, alpha=0.5, **look)
        middles = [pd.Series(single, dtype=float).median() for single in measured]
        axis.plot(middles, range(len(names)), markersize=8.5, label=label, **look)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x")


def _numbers(axis: Axis) -> None:
    """Whole numbers on a logarithmic axis."""
    axis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.set_minor_locator(NullLocator())


def _panel(count: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, 1.0 + 0.42 * count), layout="constrained")
    return figure, figure.subplots()


def _training(record: Record) -> tuple[Figure, str]:
    measured = rows(record, "training")
    figure, axis = _panel(len(measured) + 1)
    ours = [[row["images"] / s for s in row["seconds"]] for row in measured]
    plain = [[row["images"] / s for s in row["plain seconds"] or []] for row in measured]
    _dots(axis, [row["networks"] for row in measured], {"this study": ours, "plain loop": plain})
    axis.set_xscale("log")
    _numbers(axis.xaxis)
    axis.set_xlabel("training images a second")
    figure.legend(loc="outside upper left", ncols=2, frameon=False)
    return figure, (
        "Training speed at each scale, and of the plain loop of the tutorials where it trains the "
        f"same networks. {_dots_are(record)} The axis is logarithmic."
    )


def _jobs(record: Record) -> tuple[Figure, str]:
    measured = rows(record, "jobs")
    figure, axis = _panel(len(measured))
    speeds = [[1 / s for s in row["seconds an image"]] for row in measured]
    _dots(axis, [row["processes x threads"] for row in measured], {"": speeds})
    axis.set_xlabel("training images a second, of all processes together")
    axis.set_xlim(left=0)
    return figure, f"Processes × threads on {_machine(record)}. {_dots_are(record)}"


def _epoch(record: Record) -> tuple[Figure, str]:
    pieces = [row for row in rows(record, "epoch") if row["piece"] not in ("epoch", "other")]
    figure, axis = _panel(len(pieces))
    shares = [100 * row["share"] for row in pieces]
    axis.barh([row["piece"] for row in pieces], shares, color=BASELINE)
    for y, share in enumerate(shares):
        axis.text(share + 0.7, y, f"{share:.1f}", va="center")
    axis.invert_yaxis()
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("% of the time of an epoch")
    whole = _one(record, "epoch", "s", piece="epoch")
    return figure, f"Where the {whole:.1f} s of an epoch at small go, on {_machine(record)}."


def _scoring(record: Record) -> tuple[Figure, str]:
    measured = rows(record, "scoring")
    figure, axis = _panel(len(measured))
    images = measured[0]["images/s"] * pd.Series(measured[0]["seconds"]).median()
    speeds = [[images / s for s in row["seconds"]] for row in measured]
    _dots(axis, [row["scored by"] for row in measured], {"": speeds})
    axis.set_xlabel("scored images a second")
    axis.set_xlim(left=0)
    return figure, f"From images to scores with one network. {_dots_are(record)}"


def _frechet(record: Record) -> tuple[Figure, str]:
    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    ways = dict.fromkeys(row["computed by"] for row in rows(record, "frechet"))
    looks = [(BASELINE, "o", "-"), (ARM, "^", "--"), (GREY, "s", ":")]
    for axis, column, title in zip(
        figure.subplots(1, 2), ("s", "error"), ("seconds", "relative error"), strict=True
    ):
        for way, (colour, marker, line) in zip(ways, looks, strict=False):
            found = rows(record, "frechet", **{"computed by": way})
            sizes, values = [row["D"] for row in found], [row[column] for row in found]
            axis.plot(sizes, values, color=colour, marker=marker, linestyle=line, label=way)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(sizes, map(str, sizes))
        axis.set_xlabel("features D")
        axis.set_title(title, loc="left")
        axis.grid(axis="y")
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3, frameon=False)
    return figure, (
        "The Fréchet distance of two sets of features whose distance is known, on "
        f"{_machine(record)}: time, median of the rounds, and error. Axes are logarithmic."
    )


def _start(record: Record) -> tuple[Figure, str]:
    measured = rows(record, "start", unit="s")
    figure, axis = _panel(len(measured))
    _dots(axis, [row["what"] for row in measured], {"": [row["measured"] for row in measured]})
    axis.set_xlabel("seconds")
    axis.set_xlim(left=0)
    peak = _one(record, "start", "median", what="worker at small")
    return figure, (
        f"What is waited for on {_machine(record)}. {_dots_are(record)} A worker at small peaks at "
        f"{peak:.0f} MB."
    )


def _growth(record: Record) -> tuple[Figure, str]:
    factors = list(dict.fromkeys(row["factor"] for row in rows(record, "growth")))
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    series = {"images/s": BASELINE, "peak MB": ARM}
    grid = figure.subplots(2, len(factors), sharey="row", squeeze=False)
    for column, factor in enumerate(factors):
        found = rows(record, "growth", factor=factor)
        for axis, (key, colour) in zip(grid[:, column], series.items(), strict=True):
            there = [(each["level"], each[key]) for each in found if each[key] is not None]
            levels, values = zip(*there, strict=True)
            axis.plot(range(len(there)), values, color=colour, marker="o", markersize=4.5)
            axis.set_xticks(range(len(there)), map(str, levels), fontsize=8.5)
            axis.set_yscale("log")
            _numbers(axis.yaxis)
            axis.grid(axis="y")
        grid[0, column].set_title(factor, loc="left")
    for axis, key in zip(grid[:, 0], series, strict=True):
        axis.set_ylabel(key)
    return figure, (
        "Training speed, and the peak memory of a process, as one thing grows around small; on "
        f"{_machine(record)}. The vertical axes are logarithmic and shared."
    )


def _dots_are(record: Record) -> str:
    return f"Small: single measurements on {_machine(record)}; large: their median."


def _machine(record: Record) -> str:
    hardware = record["hardware"]
    kind = hardware["processor"] if hardware["device"] == "cpu" else hardware["device"]
    return f"{kind}, {tables.count(hardware['cores'], 'core')}"


# --- The page -------------------------------------------------------------------------------------


def _page(
    record: Record, said: list[str], shown: list[Sheet], drawn: dict[str, tuple[Figure, str]]
) -> str:
    inline = {
        name: (page.inline_svg(figures.to_svg(figure), name), text)
        for name, (figure, text) in drawn.items()
    }
    return page.template("speed.html").render(
        record=record,
        machine=_machine(record),
        said=said,
        sheets={sheet.name: sheet for sheet in shown},
        titles=TITLES,
        figures=inline,
        numbers={name: i for i, name in enumerate(inline, start=1)},
        is_number=tables.is_number,
        name_span=tables.name_span,
    )
