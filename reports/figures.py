"""The figures. One factor, one visual channel, by the order of the factors, set here alone."""

import io
import math
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib.colors
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    Locator,
    LogLocator,
    MaxNLocator,
    NullFormatter,
)
from PIL import Image

from dcgan import rundir
from reports import effects, epochs, statistics, tools
from reports.records import (
    LOWER_IS_BETTER,
    PRIMARY,
    Study,
    at_updates,
    calibrated,
    last_epochs,
    levels,
)
from reports.tables import LN2, arm_name, digits, label, of_arm, run_speeds, short_identity

# First factor = hue, second = line style and marker, third = lightness (the first level darkest),
# third and later ones = panel. The lightnesses of the first two hues interleave, so that four arms
# stay apart in greyscale; on white and on #111 each has a contrast of at least 2.2.
HUES = [
    ("#1c5fa8", "#4a98dc"),
    ("#c4551a", "#eb9a45"),
    ("#1f7a4d", "#4fb483"),
    ("#8a4fa3", "#bb8bd0"),
]
LINES = ["-", (0, (2.4, 1.2)), (0, (1, 1)), (0, (4, 1, 1, 1))]
MARKERS = ["o", "^", "s", "D"]
GREY = "#7a7a7a"  # text and axes: contrast 4.3 on white, 4.4 on #111

WIDTH = 7.0  # inches
DPI = 160  # of PNG files
WIDTH_PIXELS = round(WIDTH * DPI)
CURVE_POINTS = 32  # of one run's loss curve, at most; each the mean of its neighbours
CALIBRATION = {  # what is written at the lines of images that no training made
    "held-out": "held-out",
    "gaussian": "Gaussian",
    "8x8": "8×8",
    "flat": "flat colour",
    "untrained": "untrained",
}
LEAST_SHARE = 0.4  # of the axis, which the runs keep when these lines are on it
MARKED = 16  # epochs; beyond these a marker on each would hide the line
CHANGES = [  # the ticks where no change is by a larger factor than the first number
    (1.1, [0.92, 0.95, 0.98, 1, 1.02, 1.05, 1.08]),
    (1.6, [0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.4]),
    (5, [0.25, 0.35, 0.5, 0.7, 1, 1.4, 2, 2.8, 4]),
    (math.inf, [0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 100]),
]
SHARES = {  # an axis of the variance: face, hatch, ink; no hue, for that is norm's
    "arm": ("#4d4d4d", "", "#ffffff"),
    "seed": ("#8f8f8f", "//", "#000000"),
    "epoch": ("#c4c4c4", "", "#000000"),
    "evaluation": ("#f2f2f2", "..", "#000000"),
}
DASHED = (
    "Dashed: images that no training made, as under the tables; an arrow stands for a line that "
    "lies beyond the axis."
)
KINDS = {  # how each kind of file is written: no dates, no versions
    "svg": {"metadata": {"Date": None, "Creator": None}},
    "png": {"metadata": {"Software": None}, "facecolor": "white", "dpi": DPI},
    "pdf": {"metadata": {"CreationDate": None}, "facecolor": "white"},
}
STYLE = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10.5,
    "text.color": GREY,
    "axes.labelcolor": GREY,
    "axes.edgecolor": GREY,
    "axes.titlecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "path",
    "svg.hashsalt": "dcgan-ablation",
    "pdf.fonttype": 42,
}


def draw(study: Study) -> dict[str, tuple[Figure, str]]:
    """Every figure that the records allow, with its caption, in reading order."""
    with style():
        shown = [x for x in ("fid", PRIMARY, "cs_cifar") if _epochs_with(study, x) > 1]
        figures = {}
        if found := effects.contrasts(study, last_epochs(study)):
            figures["effects"] = effect_sizes(study, found)
        figures |= {metric: metric_by_epoch(study, metric) for metric in shown}
        if any(study.folder.glob(f"*/*/epochs/*/{rundir.SAMPLES}")):
            figures["samples"] = samples(study)
        if PRIMARY in shown and len(_changes(study, PRIMARY)):
            figures["change"] = epoch_change(study, PRIMARY)
        if PRIMARY in shown:
            figures["fluctuation"] = fluctuation(study)
        if len(table := epochs.shares_table(study)):
            figures["shares"] = variance_shares(table, study)
        if len(study.frame):
            figures["losses"] = losses(study)
        if len(study.frame):
            figures["throughput"] = throughput(study)

        for tool, picture in tools.pictures(study).items():
            figures[tool] = picture_of(picture), tools.caption(study, tool, picture)

        for figure, _ in figures.values():
            settle(figure)
    return figures


def save(figures: dict[str, tuple[Figure, str]], out: Path) -> list[Path]:
    """Write each figure as SVG, PNG and PDF, or as PNG alone where it is made of pictures.

    The same study gives the same bytes.
    """
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, (figure, _) in figures.items():
        if any(axis.images for axis in figure.axes):
            files = {"png": _render(figure, "png")}
        else:
            files = {kind: _render(figure, kind) for kind in KINDS}
            files["png"] = _in_a_palette(files["png"])
        for kind, data in files.items():
            paths.append(out / f"{name}.{kind}")
            paths[-1].write_bytes(data)
    return paths


def to_svg(figure: Figure) -> str:
    """The figure as SVG on a transparent ground, readable on white and on near-black."""
    return _render(figure, "svg").decode()


def settle(figure: Figure) -> None:
    """Lay a figure out once, in round numbers: the solver's last digits differ from run to run."""
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # "none" would lay it out at every rendering
    for axis in figure.axes:
        axis.set_position(np.round(axis.get_position(original=True).bounds, 4))
    for text in figure.texts:
        text.set_position(np.round(text.get_position(), 4))


def effect_sizes(study: Study, found: list[statistics.Contrast]) -> tuple[Figure, str]:
    """Every effect of the grid as a ratio with its interval, and batch at equal updates."""
    rows = [(effects.title(one), one, last_epochs(study)) for one in found]
    for one in effects.contrasts(study, at_updates(study)):
        if list(one.effect) == ["batch"]:
            rows.append((f"{effects.title(one)},\nat equal updates", one, at_updates(study)))
    figure = Figure(figsize=(WIDTH, 0.9 + 0.42 * len(rows)), layout="constrained")
    axis = figure.subplots()
    axis.axvline(1, color=GREY, linewidth=0.8)
    for y, (_, one, table) in enumerate(rows):
        logs = table.assign(log=np.log(table[PRIMARY].where(table[PRIMARY] > 0)))
        each = np.exp(statistics.contrast(logs, one.effect, "log", factors=study.factors))
        axis.plot(each, [y] * len(each), "o", color=GREY, markersize=4, alpha=0.5, mew=0)
        ends, main = (one.ratio.low, one.ratio.high), len(one.effect) == 1
        axis.plot(ends, (y, y), color=GREY, linewidth=2.4 if main else 1.2)
        face = GREY if main else "none"
        axis.plot(one.ratio.value, y, "D", color=GREY, markerfacecolor=face, markersize=7, mew=1.4)
        said = f"{one.ratio.value:.2f} ({ends[0]:.2f} to {ends[1]:.2f})"
        axis.annotate(
            said, (1.01, y), xycoords=axis.get_yaxis_transform(), va="center", fontsize=10
        )

    axis.set_yticks(range(len(rows)), [name for name, *_ in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel(f"{label(PRIMARY)}, ratio; above 1 is worse")
    axis.set_xscale("log")
    reach = max(max(line.get_xdata()) / 1 for line in axis.lines)
    reach = max(reach, max(1 / min(line.get_xdata()) for line in axis.lines))
    _plain(axis.xaxis, _ratios(reach))
    axis.grid(axis="x")
    return figure, (
        f"The effect of each factor on {label(PRIMARY)} at the last epoch, as the ratio of the "
        "second level to the first; of an interaction (hollow, exploratory) as a ratio of ratios. "
        f"n = {rows[0][1].ratio.n} seeds, a dot each: the mean over the other factors. Bars: 95 % "
        f"t intervals over seeds. {short_identity(study, PRIMARY)}"
    )


def fluctuation(study: Study) -> tuple[Figure, str]:
    """The fluctuation between epochs of every run, and the mean of each arm with its interval."""
    runs = epochs.fluctuation_table(study)
    known = runs["variance"].notna().any()
    column = "variance" if known else "one_bank"
    figure = Figure(figsize=(WIDTH, 1.3 + 0.36 * len(study.arms)), layout="constrained")
    axis = figure.subplots()
    for y, arm in enumerate(study.arms):
        here = of_arm(study, runs, arm)
        shade, _, marker = look_of(study, arm)
        look = {"color": shade, "marker": marker, "linestyle": ""}
        each = here[column].dropna().map(epochs.percent_sd)
        axis.plot(each, [y] * len(each), markersize=4.5, alpha=0.5, markeredgewidth=0, **look)
        for row in epochs.by_arm(study, here, [column]).to_dict("records"):
            value, *ends = (
                epochs.percent_sd(row[name]) for name in (column, f"{column}_low", f"{column}_high")
            )
            axis.plot(ends, (y, y), linewidth=2, **look | {"linestyle": "-", "marker": ""})
            axis.plot(value, y, markersize=8.5, **look)
        noise = here["noise"].dropna().head(1).map(epochs.percent_sd)
        axis.plot(noise, [y] * len(noise), "|", color=GREY, markersize=13, markeredgewidth=1.6)

    names = [arm_name(study, arm) for arm in study.arms]
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.set_xlim(left=0)
    axis.set_xlabel(f"standard deviation of log {label(PRIMARY)} between epochs, %")
    axis.grid(axis="x")
    _legend(study, figure)
    seeds = runs["seed"].nunique()
    band = (
        f"n = {seeds} seeds, small; large: the mean over them, bar: its 95 % t interval."
        if seeds > 1
        else "n = 1 seed; no band is drawn."
    )
    noise = (
        "with the measurement noise taken out; the stroke is the noise of one evaluation"
        if known
        else "measurement noise and all, for the generators were not scored by further banks"
    )
    return figure, (
        f"How far {label(PRIMARY)} goes up and down from epoch to epoch after burn-in, {noise}. "
        f"{band} {short_identity(study, PRIMARY)} {_channels(study)}"
    )


def variance_shares(table: pd.DataFrame, study: Study) -> tuple[Figure, str]:
    """Whose the variance is, a bar for all arms and one for each."""
    figure = Figure(figsize=(WIDTH, 0.9 + 0.36 * len(table)), layout="constrained")
    axis = figure.subplots()
    left = np.zeros(len(table))
    for name, (face, hatch, ink) in SHARES.items():
        share = 100 * table.get(f"{name}_share", pd.Series(0.0, table.index)).fillna(0.0)
        look = {"color": face, "edgecolor": GREY, "hatch": hatch, "linewidth": 0.6}
        axis.barh(range(len(table)), share, left=left, height=0.72, label=name, **look)
        for y, (start, size) in enumerate(zip(left, share, strict=True)):
            if size >= 7:
                box = {"facecolor": face, "edgecolor": "none", "pad": 1.2}
                axis.text(
                    start + size / 2, y, f"{size:.0f}", color=ink, bbox=box, ha="center",
                    va="center", fontsize=10,
                )  # fmt: skip
        left = left + share

    axis.set_yticks(range(len(table)), table["where"])
    axis.set_ylim(len(table) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.set_xlim(0, 100)
    axis.set_xlabel(f"share of the variance of log {label(PRIMARY)}, %")
    figure.legend(loc="outside upper left", ncols=4, frameon=False, borderpad=0.1)
    row = table.iloc[0]
    return figure, (
        f"Whose the variance of {label(PRIMARY)} after burn-in is: between arms, between seeds of "
        "an arm, between epochs of a run, between evaluations of an epoch. "
        f"n = {row['seeds']} seeds, {row['epochs']} epochs, {row['banks']} evaluations of each; "
        f"no band is drawn. {short_identity(study, PRIMARY)}"
    )


def metric_by_epoch(study: Study, metric: str) -> tuple[Figure, str]:
    """A metric against the epoch: panels by `_frames_by`, a line for each run."""
    panels = _frames_by(study, study.frame)
    rows, columns = math.ceil(len(panels) / 2), min(2, len(panels))
    height = 1.7 if rows > 2 else 3.1
    figure = Figure(figsize=(WIDTH, 0.5 + height * rows), layout="constrained")
    axes = _panels(figure, rows, columns, len(panels))
    for axis, (name, table) in zip(axes, panels.items(), strict=True):
        _lines(study, axis, table, "epoch", metric)
        axis.set_title(name, loc="left")
        axis.set_xlabel("epoch" if axis in axes[-columns:] else "")
        axis.xaxis.set_major_locator(
            MaxNLocator(5, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])
        )
        axis.grid(axis="y")

    # One scale for all panels.
    first = figure.axes[0]
    first.set_ylabel(label(metric))
    known = calibrated(study, metric)
    _scale(first, pd.concat([study.frame[metric], known.filter(["untrained"])]), metric)
    _calibrate(axes, columns, study.frame[metric].dropna(), known)
    _legend(study, figure)
    better = "lower" if LOWER_IS_BETTER[metric] else "higher"
    return figure, (
        f"{label(metric)} after each epoch; {better} is better. {_seeds(study)} "
        f"{short_identity(study, metric)} {_channels(study)}{_crosses(study, metric)}"
        + (f" {DASHED}" if len(known) else "")
    )


def epoch_change(study: Study, metric: str) -> tuple[Figure, str]:
    """The factor by which a metric changes from one epoch to the next, a panel for each arm."""
    frame = _changes(study, metric)
    present = set(frame[study.factors].itertuples(index=False, name=None))
    panels = [arm for arm in study.arms if arm in present]
    columns = min(2, len({arm[-1] for arm in panels}))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(WIDTH, 0.4 + 1.45 * rows), layout="constrained")

    for axis, arm in zip(_panels(figure, rows, columns, len(panels)), panels, strict=True):
        axis.axhline(1, color=GREY, linewidth=0.8)
        _lines(study, axis, of_arm(study, frame, arm), "epoch", "change", True)
        axis.set_title(arm_name(study, arm), loc="left", fontsize=10)
        axis.grid(axis="y")

    names = [arm_name(study, arm) for arm in study.arms if arm not in present]

    # The factor 2 and the factor 1/2 lie equally far from 1.
    _scale(figure.axes[0], frame["change"], "change", logarithmic=True)
    first = figure.axes[0]
    first.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    figure.supxlabel("epoch", fontsize=11, color=GREY)
    figure.supylabel(f"{label(metric)}, relative to the epoch before", fontsize=11, color=GREY)
    return figure, (
        f"{label(metric)} of each epoch divided by that of the epoch before, on a logarithmic "
        f"axis; above 1 is worse. {_seeds(study, 'geometric mean')} "
        f"{short_identity(study, metric)} {_channels(study)}"
        + (f" Without two finite epochs: {'; '.join(names)}." if names else "")
    )


def losses(study: Study) -> tuple[Figure, str]:
    """D's loss, G's loss and the metric on one clock, a row for each arm but for its line style."""
    apart = [*study.factors[:1], *study.factors[2:]]
    kinds = study.frame[apart].drop_duplicates().sort_values(
        apart, key=lambda column: column.map(levels(study, column.name).index)
    ).to_dict("records")  # fmt: skip
    scored = _epochs_with(study, PRIMARY) > 0
    columns = ["d_loss", "g_loss"] + ([PRIMARY] if scored else [])
    figure = Figure(figsize=(WIDTH, 0.8 + 1.6 * len(kinds)), layout="constrained")
    grid = figure.subplots(len(kinds), len(columns), sharex=True, sharey="col", squeeze=False)
    curves = _thinned(study.curves)
    curves, frame = (
        table.assign(thousands=table["images"] / 1000) for table in (curves, study.frame)
    )

    for row, kind in zip(grid, kinds, strict=True):
        for axis, column in zip(row, columns, strict=True):
            table = frame if column == PRIMARY else curves
            here = table[(table[list(kind)] == list(kind.values())).all(axis=1)]
            _lines(study, axis, here, "thousands", column, marked=column == PRIMARY)
            axis.grid(axis="y")
        names = [f"{key}={value}" for key, value in kind.items()]
        row[0].set_ylabel("\n".join(names).removeprefix("arm="), fontsize=10)
        if (frame[(frame[list(kind)] == list(kind.values())).all(axis=1)]["norm"] == "batch").all():
            row[0].axhline(LN2, color=GREY, linewidth=1.2, linestyle=":", zorder=3)
            row[0].annotate(
                "ln 2", (1, LN2), (0, -2), row[0].get_yaxis_transform(), "offset points",
                ha="right", va="top", fontsize=10,
            )  # fmt: skip

    # Titles on top, the clock below.
    for axis, name in zip(grid[0], ["D loss", "G loss", label(PRIMARY)], strict=False):
        axis.set_title(name, loc="left")
    for column, axis in zip(columns, grid[0], strict=True):
        if column == PRIMARY:
            _scale(axis, frame[PRIMARY], PRIMARY)
        else:
            axis.yaxis.set_major_locator(MaxNLocator(4))
        axis.xaxis.set_major_locator(MaxNLocator(4, min_n_ticks=2))
    figure.supxlabel("real images shown to D, thousands", fontsize=11, color=GREY)
    _legend(study, figure)
    bound = (
        " Dotted: ln 2, below which D's loss cannot fall with norm=batch."
        if "batch" in set(study.frame["norm"])
        else ""
    )
    return figure, (
        "The losses of both networks, averaged over neighbouring steps, beside "
        f"{label(PRIMARY)}.{bound} {_seeds(study)} "
        + (f"{short_identity(study, PRIMARY)} " if scored else "")
        + _channels(study)
    )


def throughput(study: Study) -> tuple[Figure, str]:
    """Training images a second of every run, a row for each arm."""
    speeds = run_speeds(study)
    figure = Figure(figsize=(WIDTH, 0.9 + 0.36 * len(study.arms)), layout="constrained")
    axis = figure.subplots()
    for y, arm in enumerate(study.arms):
        values = of_arm(study, speeds, arm)["images_per_second"]
        shade, _, marker = look_of(study, arm)
        look = {"color": shade, "marker": marker, "linestyle": ""}
        axis.plot(values, [y] * len(values), markersize=4.5, alpha=0.5, markeredgewidth=0, **look)
        axis.plot(values.median(), y, markersize=8.5, **look)

    # The rows read from top to bottom.
    axis.set_yticks(range(len(study.arms)), [arm_name(study, arm) for arm in study.arms])
    axis.set_ylim(len(study.arms) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.margins(x=0.06)
    axis.set_xlabel("training images a second, without scoring")
    axis.grid(axis="x")
    seeds = (
        "n = 1 seed: the median over epochs of each run"
        if study.frame["seed"].nunique() == 1
        else f"n = {study.frame['seed'].nunique()} seeds; small markers: the median over epochs of "
        "one run; large: the median over seeds"
    )
    return figure, (
        f"Training speed by the wall clock of {study.info['hardware']['processor']}, {seeds}; no "
        f"band is drawn. The axis does not begin at zero. {_channels(study)}"
    )


def samples(study: Study) -> tuple[Figure, str]:
    """Real images above the last samples of every arm at the lowest seed."""
    rows = study.frame[[has_picture(study, row.run, row.epoch) for row in study.frame.itertuples()]]
    rows = rows.sort_values("epoch").groupby("run", sort=False).tail(1)
    rows = rows.sort_values("seed").drop_duplicates(study.factors)
    by_arm = {tuple(row[x] for x in study.factors): row for row in rows.to_dict("records")}
    real = study.folder / "real.png"

    # The 4x8 real images in two rows over the full width, so that all images are of one size.
    above: list[np.ndarray] = []
    if real.is_file():
        pixels = np.asarray(Image.open(real).convert("RGB"))
        half = len(pixels) // 2
        above.append(np.hstack([pixels[:half], pixels[half:]]))

    # Each arm keeps its place, whether it has begun or not.
    last = set(last_epochs(study)[["run", "epoch"]].itertuples(index=False, name=None))
    places: list[tuple[str, np.ndarray | None]] = []
    for arm in study.arms:
        row, title = by_arm.get(arm), arm_name(study, arm)
        if row is None:
            places.append((title, None))
            continue
        data = rundir.read(study.folder / row["run"], row["epoch"], rundir.SAMPLES)
        title += "" if (row["run"], row["epoch"]) in last else f" (epoch {row['epoch']})"
        places.append((title, np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))))

    figure = _in_two_columns(above, places)
    seeds = sorted({row["seed"] for row in by_arm.values()})
    return figure, (
        ("Real images, then s" if above else "S")
        + "amples of every arm after its last epoch, not selected: n = 1 run of each arm, seed "
        + ", ".join(map(str, seeds))
        + ", the same noise for every arm; no metric, no band."
    )


def has_picture(study: Study, run: str, epoch: int) -> bool:
    """Whether an epoch's samples are here; a study may be published without them."""
    return (rundir.epoch_folder(study.folder / run, epoch) / rundir.SAMPLES).is_file()


def picture_of(picture: tools.Picture) -> Figure:
    """What a tool has drawn, as wide as whole multiples of its pixels can be."""
    pixels = np.asarray(Image.open(picture.path).convert("RGB"))
    size = np.array(pixels.shape[1::-1]) * max(1, WIDTH_PIXELS // pixels.shape[1])
    figure = Figure(figsize=tuple(size / DPI))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.imshow(pixels, interpolation="none")
    axis.set_axis_off()
    return figure


def _in_two_columns(above: list[np.ndarray], places: list[tuple[str, np.ndarray | None]]) -> Figure:
    """Real images over the full width, if any; under them titled pictures, all of one size.

    A pixel of a picture is a whole number of pixels of a PNG file: sharp, and small when packed.
    """
    gap, title = 64, 40
    column = (WIDTH_PIXELS - gap) // 2
    tile = next(pixels.shape for _, pixels in places if pixels is not None)
    height, width = np.array(tile[:2]) * max(1, column // tile[1])
    figure = Figure()

    def add(name: str, left: int, top: int, height: int, width: int) -> Axes:
        box = (
            left / WIDTH_PIXELS,
            1 - (top + height) / total,
            width / WIDTH_PIXELS,
            height / total,
        )
        axis = figure.add_axes(box)
        axis.set_axis_off()
        axis.set_title(name, loc="left", fontsize=10)
        return axis

    sizes = [np.array(each.shape[:2]) * max(1, WIDTH_PIXELS // each.shape[1]) for each in above]
    begin = sum(title + int(size[0]) for size in sizes)
    total = begin + math.ceil(len(places) / 2) * (title + height)
    figure.set_size_inches(WIDTH, total / DPI)
    for pixels, size in zip(above, sizes, strict=True):
        add("real", 0, title, *size).imshow(pixels, interpolation="none", aspect="auto")
    for i, (name, pixels) in enumerate(places):
        top = begin + i // 2 * (title + height) + title
        axis = add(name, i % 2 * (column + gap), top, height, width)
        if pixels is None:
            axis.text(0.5, 0.5, "not yet", ha="center", va="center", transform=axis.transAxes)
        else:
            axis.imshow(pixels, interpolation="none", aspect="auto")
    return figure


def look_of(study: Study, arm: tuple) -> tuple[str, Any, str]:
    """The colour, line style and marker of an arm, by the order of the factors and levels.

    Where one factor has more levels than there are hues, all but its first share the second.
    """
    known = [levels(study, factor) for factor in study.factors[:3]]
    hue, line, shade = [*(x.index(y) for x, y in zip(known, arm, strict=False)), 0, 0][:3]
    hue = min(hue, 1) if _against_first(study) else hue % len(HUES)
    share = shade / max(1, len(known[2]) - 1) if len(known) > 2 else 0.0
    dark, light = (matplotlib.colors.to_rgb(end) for end in HUES[hue])
    mixed = [(1 - share) * a + share * b for a, b in zip(dark, light, strict=True)]
    style = line % len(LINES)
    return matplotlib.colors.to_hex(mixed), LINES[style], MARKERS[style]


def _against_first(study: Study) -> bool:
    """Whether each level is drawn against the first one: named arms, and more than have a hue."""
    return study.baseline is not None or len(levels(study, study.factors[0])) > len(HUES)


def _lines(
    study: Study,
    axis: Axes,
    table: pd.DataFrame,
    x: str,
    y: str,
    geometric: bool = False,
    marked: bool = True,
) -> None:
    """Every seed thin, and over them the mean of each arm, as far as all of its seeds go.

    The only seed of an arm is its mean, and is drawn once.
    """
    for arm, runs in table.groupby(study.factors, sort=False):
        shade, line, marker = look_of(study, arm)
        look = {"color": shade, "linestyle": line}
        each_run = [run for _, run in runs.groupby("run", sort=False)]
        if len(each_run) > 1:
            for run in each_run:
                axis.plot(run[x], run[y], linewidth=0.8 if marked else 0.6, alpha=0.45, **look)
        if "status" in runs:
            for run in each_run:
                if (run["status"] == "diverged").any():
                    end = run.dropna(subset=[y]).tail(1)
                    axis.plot(end[x], end[y], marker="x", markersize=9, markeredgewidth=2.5, **look)

        # The mean, on the logarithm where a ratio is drawn.
        values = np.log(runs[y]) if geometric else runs[y]
        each = values.groupby(runs[x])
        mean = each.mean()[each.count() == len(each_run)]
        every = marked and len(mean) <= MARKED
        look |= {
            "marker": marker if every else "",
            "markersize": 5,
            "linewidth": 2 if marked else 1.4,
        }
        axis.plot(mean.index, np.exp(mean) if geometric else mean, **look)


def _frames_by(study: Study, frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each panel: by the third and later factors, or a level beside the first one."""
    if _against_first(study):
        factor = study.factors[0]
        first, *others = levels(study, factor)
        name = "" if factor == "arm" else f"{factor}="
        return {
            f"{name}{level}": frame[frame[factor].isin([first, level])]
            for level in others or [first]
            if (frame[factor] == level).any()
        } or {f"{name}{first}": frame}
    apart = study.factors[2:]
    if not apart:
        return {"": frame}
    return {
        ", ".join(f"{factor}={level}" for factor, level in zip(apart, key, strict=True)): rows
        for key, rows in frame.groupby(apart)
    }


def _changes(study: Study, metric: str) -> pd.DataFrame:
    """The rows that have an epoch before them, and by what factor the metric differs from it."""
    frame = study.frame.sort_values(["run", "epoch"])
    frame = frame.assign(change=frame[metric] / frame.groupby("run")[metric].shift())
    return frame.dropna(subset=["change"])


def _thinned(curves: pd.DataFrame) -> pd.DataFrame:
    """At most CURVE_POINTS points a run, each the mean of its neighbours."""
    position = curves.groupby("run").cumcount()
    length = curves.groupby("run")["images"].transform("size")
    block = position // np.ceil(length / CURVE_POINTS).astype(int)
    keys = [name for name in curves.columns if name not in ("images", "d_loss", "g_loss")]
    return curves.groupby([*keys, block.rename("block")], sort=False).mean().reset_index()


def _scale(axis: Axes, values: pd.Series, name: str, logarithmic: bool | None = None) -> None:
    """A logarithmic axis with plain numbers where a distance spans more than a factor of four."""
    values = values.dropna()
    positive = len(values) > 0 and values.min() > 0
    if logarithmic is None:
        logarithmic = positive and LOWER_IS_BETTER[name] and values.max() > 4 * values.min()
    if not logarithmic:
        axis.yaxis.set_major_locator(MaxNLocator(5))
        return

    # Three ticks a decade, or finer ones where there is less than a decade.
    axis.set_yscale("log")
    wide = values.max() > 10 * values.min()
    steps = [1, 2, 5] if wide else [1, 1.5, 2, 3, 5, 7]
    spread = max(values.max(), 1 / values.min())
    _plain(axis.yaxis, _ratios(spread) if name == "change" else LogLocator(10, steps))


def _calibrate(axes: list[Axes], columns: int, values: pd.Series, known: pd.Series) -> None:
    """Faint lines at the scores of images that no training made, named right of the last column.

    `known`: set -> score. A line that would squeeze the runs is not drawn: its name has its score.
    """
    if not len(known):
        return
    shown = _in_reach(values, known, axes[0].get_yscale() == "log")
    for axis in axes:
        for name in shown:
            look = {"color": GREY, "linewidth": 0.7, "linestyle": (0, (5, 4)), "alpha": 0.7}
            axis.axhline(known[name], zorder=1, **look)

    # The names, from the lowest to the highest, and apart.
    low, high = axes[0].get_ylim()
    row = axes[0].figure.get_figheight() * 72 / math.ceil(len(axes) / columns)  # points
    gap = 10 / (0.6 * row)  # of the axis, for a line of text
    marks = known.sort_values(kind="stable")
    ends = axes[0].transData.transform([(0, low), (0, high)])[:, 1]
    texts, places = [], []
    for name, value in marks.items():
        if name in shown:
            place = (axes[0].transData.transform((0, value))[1] - ends[0]) / (ends[1] - ends[0])
        else:
            place = 0.0 if value < low else 1.0
        arrow = "" if name in shown else f" {digits(value)} {'↓' if value < low else '↑'}"
        texts.append(CALIBRATION[name] + arrow)
        places.append(max(place, places[-1] + gap) if places else place)
    for i in reversed(range(len(places))):
        places[i] = min(places[i], places[i + 1] - gap if i + 1 < len(places) else 1.0)
    for axis in axes[columns - 1 :: columns]:
        for text, place in zip(texts, places, strict=True):
            axis.text(1.02, place, text, transform=axis.transAxes, va="center", fontsize=8.5)


def _in_reach(values: pd.Series, known: pd.Series, logarithmic: bool) -> list[str]:
    """The sets whose lines leave the runs their share of the axis; the untrained one always.

    The nearest to the runs come first. A logarithmic axis has no line at zero or below.
    """
    if logarithmic:
        values, known = np.log(values), np.log(known[known > 0])
    shown = [name for name in known.index if name == "untrained"]
    ends = [*values, *known[shown]]
    low, high = min(ends), max(ends)
    size = high - low
    for name in sorted(known.index, key=lambda name: max(low - known[name], known[name] - high)):
        lowest, highest = min(low, known[name]), max(high, known[name])
        if name not in shown and size >= LEAST_SHARE * (highest - lowest):
            low, high, shown = lowest, highest, [*shown, name]
    return shown


def _ratios(spread: float) -> Locator:
    """The ticks of a logarithmic axis of ratios, none further from 1 than the factor `spread`."""
    return FixedLocator(next(ticks for most, ticks in CHANGES if spread <= most))


def _plain(axis: Axis, ticks: Locator) -> None:
    """A logarithmic axis with plain numbers at these ticks and nothing between."""
    axis.set_major_locator(ticks)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(FixedLocator([]))


def _panels(figure: Figure, rows: int, columns: int, number: int) -> list[Axes]:
    """So many panels with common axes; the lowest of each column names its ticks."""
    axes = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axis in axes[number:]:
        axis.remove()
    for axis in axes[max(0, number - columns) : number]:
        axis.tick_params(labelbottom=True)
    return axes[:number]


def _legend(study: Study, figure: Figure) -> None:
    """What hue and line style mean; lightness is named by the panels."""
    hues = levels(study, study.factors[0])
    names = [f"{study.factors[0]}={level}".removeprefix("arm=") for level in hues]
    if _against_first(study):
        hues, names = hues[:2], [names[0], "the arm that is named"]
    rest = study.arms[0][1:3]
    first = [levels(study, factor)[0] for factor in study.factors[1:3]][: len(rest)]
    handles = [
        Line2D([], [], label=name, color=look_of(study, (hue, *first))[0], linewidth=3)
        for name, hue in zip(names, hues, strict=True)
    ]
    for factor in study.factors[1:2]:
        for level in levels(study, factor):
            _, line, marker = look_of(study, (hues[0], level, *first[1:]))
            name = f"{factor}={level}"
            handles.append(Line2D([], [], label=name, color=GREY, linestyle=line, marker=marker))
    figure.legend(
        handles=handles, loc="outside upper left", ncols=4, frameon=False, handlelength=2.6,
        columnspacing=1.4, borderpad=0.1,
    )  # fmt: skip


def _seeds(study: Study, mean: str = "mean") -> str:
    seeds = study.frame["seed"].nunique()
    if seeds == 1:
        return "n = 1 seed; no band is drawn."
    return f"n = {seeds} seeds, thin; thick: their {mean}; no band is drawn."


def _channels(study: Study) -> str:
    """What hue, style and lightness stand for; and the factors that share all three."""
    if _against_first(study):
        return f"Blue: {levels(study, study.factors[0])[0]}; orange: the arm that is named."
    channels = ["Hue: {}", "line and marker: {}", "lightness: {}, its first level darkest"]
    parts = [text.format(name) for text, name in zip(channels, study.factors, strict=False)]
    others = study.factors[3:]
    shared = f" Arms that differ only in {', '.join(others)} look alike." if others else ""
    return "; ".join(parts) + "." + shared


def _crosses(study: Study, metric: str) -> str:
    diverged = (study.frame["status"] == "diverged").any()
    return (
        f" A cross marks the last finite {label(metric)} of a run that diverged."
        if diverged
        else ""
    )


def _epochs_with(study: Study, metric: str) -> int:
    if metric not in study.frame:
        return 0
    return study.frame.loc[study.frame[metric].notna(), "epoch"].nunique()


def style() -> AbstractContextManager[None]:
    """The defaults of matplotlib, whatever the user's own are, and ours on top."""
    return matplotlib.style.context(["default", STYLE])


def _render(figure: Figure, kind: str) -> bytes:
    file = io.BytesIO()
    with style():
        figure.savefig(file, format=kind, **KINDS[kind])
    return file.getvalue()


def _in_a_palette(png: bytes) -> bytes:
    """A drawing of few colours in a third of the bytes."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        few = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        few.save(file, "PNG", optimize=True, dpi=image.info["dpi"])
    return file.getvalue()
