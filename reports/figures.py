"""The figures. One factor, one visual channel, by the order of the factors, set here alone."""

import io
import math
from collections.abc import Sequence
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
from matplotlib.textpath import TextPath
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
from reports.analysis import Analysis, arm_name, effect_name
from reports.records import ANALYSES, LOWER_IS_BETTER, PRIMARY, Study, calibrated
from reports.tables import ANALYSES as TITLES
from reports.tables import LN2, LOSSES, count, digits, label, percent_sd, prose, short_identity

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
DPI = 160  # of pictures
WIDTH_PIXELS = round(WIDTH * DPI)
CURVE_POINTS = 32  # of one run's loss curve, at most; each the mean of its neighbours
CALIBRATION = {  # what is written at the lines of images that no training made
    "held-out": "held-out",
    "gaussian": "Gaussian",
    "8x8": "8×8",
    "flat": "flat colour",
    "untrained": "untrained",
}
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
PICTURES = {  # what stands where in the picture of an analysis
    "neighbours": "Above, the samples that lie nearest to a training image; below each that image, "
    "in the classifier's features and then in pixels.",
    "walks": "Rows in pairs: a walk between two z, and a blend of the pixels of its ends. Below, a "
    "row for each trial of arithmetic: exemplars of a bright A, a dark A and a dark B, then what "
    "their means give, what one of each gives, the same shortened, and the placebo.",
    "filters": "Images, and under each the guided gradient of the unit that responds most to it: "
    "first of the trained D, then of the untrained one.",
}
KINDS = {  # how each kind of file is written: no dates, no versions
    "svg": {"metadata": {"Date": None, "Creator": None}},
    "pdf": {"metadata": {"CreationDate": None}, "facecolor": "white"},
    "png": {"metadata": {"Software": None}, "facecolor": "white", "dpi": DPI},
}
LEGEND = {
    "loc": "upper left",
    "ncols": 4,
    "frameon": False,
    "handlelength": 1.8,
    "handletextpad": 0.5,
    "columnspacing": 0.9,
    "borderpad": 0.1,
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
    "legend.fontsize": 9,
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
}


def draw(study: Analysis) -> dict[str, tuple[Figure, str]]:
    """Every figure that the records allow, with its caption, in reading order."""
    if study.frame.empty:
        return {}
    with style():
        moving = [x for x in ("fid", PRIMARY, "cs_cifar") if study.measured.get(x, 0) > 1]
        figures = {}
        if effects := study.last_effects.get(PRIMARY):
            figures["effects"] = effect_sizes(study, effects)
        figures |= {metric: metric_by_epoch(study, metric) for metric in moving}
        if any(study.folder.glob(f"*/*/epochs/*/{rundir.SAMPLES}")):
            figures["samples"] = samples(study)
        if PRIMARY in moving:
            figures["fluctuation"] = fluctuation(study)
        if len(study.shares):
            figures["shares"] = variance_shares(study)
        figures["losses"] = losses(study)
        for analysis in study.analyses:
            if path := picture_of(study, analysis):
                figures[analysis] = _whole_picture(path), picture_caption(study, analysis, path)
    return figures


def save(figures: dict[str, tuple[Figure, str]], out: Path) -> dict[str, tuple[str, str]]:
    """Write each figure as SVG, PDF and PNG, or as PNG alone where it is made of pictures.

    Returns the text of each as SVG, and its caption. The same study gives the same bytes.
    """
    out.mkdir(parents=True, exist_ok=True)
    texts = {}
    for name, (figure, text) in figures.items():
        files = {kind: _render(figure, kind) for kind in KINDS}
        texts[name] = files["svg"].decode(), text
        if any(axis.images for axis in figure.axes):
            files = {"png": files["png"]}
        for kind, data in files.items():
            (out / f"{name}.{kind}").write_bytes(data)
    return texts


def effect_sizes(study: Analysis, effects: list) -> tuple[Figure, str]:
    """Every effect of the grid as a ratio with its interval, and batch at equal updates."""
    rows = [(effect_name(effect), effect) for effect in effects]
    rows += [
        (f"{effect_name(effect)},\nat equal updates", effect)
        for effect in study.partial_effects["updates", "all"]
        if effect.factors == ["batch"]
    ]
    figure, axis = _rows([name for name, _ in rows], 0.42, right=1.7)
    axis.axvline(1, color=GREY, linewidth=0.8)
    for y, (_, effect) in enumerate(rows):
        seeds, ratio, main = effect.seeds, effect.contrast.ratio, len(effect.factors) == 1
        axis.plot(seeds, [y] * len(seeds), "o", color=GREY, markersize=4, alpha=0.5, mew=0)
        said = f"{effect.ratio:.2f}"
        if ratio.n > 1:
            axis.plot((ratio.low, ratio.high), (y, y), color=GREY, linewidth=2.4 if main else 1.2)
            said += f" ({ratio.low:.2f} to {ratio.high:.2f})"
        face = GREY if main else "none"
        axis.plot(effect.ratio, y, "D", color=GREY, markerfacecolor=face, markersize=7, mew=1.4)
        place = (1.01, y), axis.get_yaxis_transform()
        axis.annotate(said, place[0], xycoords=place[1], va="center", fontsize=10)

    axis.set_xlabel(f"{label(PRIMARY)}, ratio; above 1 is worse")
    axis.set_xscale("log")
    ends = np.concatenate([np.asarray(line.get_xdata(), dtype=float) for line in axis.lines])
    _plain(axis.xaxis, _ratios(max(ends.max(), 1 / ends.min())))
    seeds = len(rows[0][1].seeds)
    bars = "Bars: 95 % t intervals over seeds. " if seeds > 1 else "One seed has no interval. "
    return figure, (
        f"The effect of each factor on {label(PRIMARY)} at the last epoch, as the ratio of the "
        "second level to the first; of an interaction (hollow, exploratory) as a ratio of ratios. "
        f"n = {count(seeds, 'seed')}, a dot each: the mean over the other factors. {bars}"
        f"{short_identity(study, PRIMARY)}"
    )


def fluctuation(study: Analysis) -> tuple[Figure, str]:
    """The fluctuation between epochs of every run, and the mean of each arm with its interval."""
    known = study.fluctuation["variance"].notna().any()
    column = "variance" if known else "with_noise"
    means = study.by_arm(study.fluctuation, [column])
    figure, axis = _rows([arm_name(study, arm) for arm in study.arms], 0.36, top=0.35)
    for y, arm in enumerate(study.arms):
        runs = study.of_arm(study.fluctuation, arm)
        values = runs[column].dropna().map(percent_sd)
        mean = means[(means[study.factors] == list(arm)).all(axis=1)]
        ends = [mean[name].map(percent_sd) for name in (f"{column}_low", f"{column}_high")]
        shade, _, marker = look_of(study, arm)
        look = {"color": shade, "marker": marker, "linestyle": ""}
        axis.plot(values, [y] * len(values), markersize=4.5, alpha=0.5, mew=0, **look)
        axis.plot(mean[column].map(percent_sd), [y] * len(mean), markersize=8.5, **look)
        axis.plot(ends, [[y] * len(mean)] * 2, linewidth=2, color=shade)
        noise = runs["noise"].dropna().head(1).map(percent_sd)
        axis.plot(noise, [y] * len(noise), "|", color=GREY, markersize=13, markeredgewidth=1.6)

    axis.set_xlim(left=0)
    axis.set_xlabel(f"SD of log {label(PRIMARY)} between epochs, %")
    _legend(study, figure)
    seeds = study.fluctuation["seed"].nunique()
    band = (
        f"n = {seeds} seeds, small; large: the mean over them, bar: its 95 % t interval."
        if seeds > 1
        else "n = 1 seed; no band is drawn."
    )
    noise = (
        "with the measurement noise taken out; the stroke is the noise of one evaluation"
        if known
        else "measurement noise and all, for no generator was scored on further evaluation sets"
    )
    return figure, (
        f"How far {label(PRIMARY)} goes up and down from epoch to epoch after burn-in, {noise}. "
        f"{band} {short_identity(study, PRIMARY)} {_channels(study)}"
    )


def variance_shares(study: Analysis) -> tuple[Figure, str]:
    """The shares of the variance, a bar for all arms and one for each."""
    table = study.shares
    figure, axis = _rows(list(table["where"]), 0.36, top=0.35)
    left = np.zeros(len(table))
    for name, (face, hatch, ink) in SHARES.items():
        share = 100 * table[f"{name}_share"].fillna(0.0)
        look = {"color": face, "edgecolor": GREY, "hatch": hatch, "linewidth": 0.6}
        axis.barh(range(len(table)), share, left=left, height=0.72, label=name, **look)
        for y, (start, size) in enumerate(zip(left, share, strict=True)):
            if size >= 7:
                look = {"ha": "center", "va": "center", "fontsize": 10, "color": ink}
                box = {"facecolor": face, "edgecolor": "none", "pad": 1.2}
                axis.text(start + size / 2, y, f"{size:.0f}", bbox=box, **look)
        left = left + share

    axis.set_xlim(0, 100)
    axis.grid(visible=False)
    axis.set_xlabel(f"share of the variance of log {label(PRIMARY)}, %")
    figure.legend(**LEGEND)
    row = table.iloc[0]
    return figure, (
        f"Where the variance of {label(PRIMARY)} after burn-in lies: between arms, between seeds "
        "of an arm, between epochs of a run, between evaluations of an epoch. "
        f"n = {row['seeds']} seeds, {row['epochs']} epochs, {row['eval_sets']} evaluations of "
        f"each; no band is drawn. {short_identity(study, PRIMARY)}"
    )


def metric_by_epoch(study: Analysis, metric: str) -> tuple[Figure, str]:
    """A metric against the epoch: panels by `_panels_of`, a line for each run."""
    panels, known = _panels_of(study, study.frame), calibrated(study, metric)
    rows, columns = math.ceil(len(panels) / 2), min(2, len(panels))
    height = 1.7 if rows > 2 else 2.7
    figure, axes = _grid(len(panels), columns, height, right=1.2 if len(known) else 0.1)
    for axis, (name, table) in zip(axes, panels.items(), strict=True):
        _lines(study, axis, table, "epoch", metric)
        axis.set_title(name, loc="left")
        axis.xaxis.set_major_locator(_whole_numbers(5))
    for axis in axes[-columns:]:
        axis.set_xlabel("epoch")
    axes[0].set_ylabel(label(metric))
    _scale(axes[0], pd.concat([study.frame[metric], known.filter(["untrained"])]), metric)
    _calibrate(axes, columns, known)
    _legend(study, figure)
    better = "lower" if LOWER_IS_BETTER[metric] else "higher"
    diverged = f" A cross marks the last finite {label(metric)} of a run that diverged."
    return figure, (
        f"{label(metric)} after each epoch; {better} is better. {_seeds(study)} "
        f"{short_identity(study, metric)} {_channels(study)}"
        + (diverged if (study.frame["status"] == "diverged").any() else "")
        + (f" {DASHED}" if len(known) else "")
    )


def losses(study: Analysis) -> tuple[Figure, str]:
    """D's loss, G's loss and the metric on one clock, a row for each arm but for its line style."""
    apart = [*study.factors[:1], *study.factors[2:]]
    kinds = study.frame[apart].drop_duplicates().sort_values(
        apart, key=lambda column: column.map(study.levels[column.name].index)
    ).to_dict("records")  # fmt: skip
    scored = PRIMARY in study.measured
    columns = LOSSES | ({PRIMARY: label(PRIMARY)} if scored else {})
    figure, axes = _grid(
        len(kinds) * len(columns), len(columns), 1.3, sharey="col", left=0.9, bottom=0.6
    )
    tables = dict.fromkeys(LOSSES, _thinned(study.curves)) | {PRIMARY: study.frame}
    tables = {x: frame.assign(thousands=frame["images"] / 1000) for x, frame in tables.items()}

    for i, kind in enumerate(kinds):
        row = axes[i * len(columns) :][: len(columns)]
        for axis, column in zip(row, columns, strict=True):
            rows = tables[column]
            rows = rows[(rows[list(kind)] == list(kind.values())).all(axis=1)]
            _lines(study, axis, rows, "thousands", column, marked=column == PRIMARY)
        names = [prose(factor, level) for factor, level in kind.items()]
        row[0].set_ylabel("\n".join(names), fontsize=9)
        if (rows["norm"] == "batch").all():
            row[0].axhline(LN2, color=GREY, linewidth=1.2, linestyle=":", zorder=3)
            place = (1, LN2), (0, -2), row[0].get_yaxis_transform(), "offset points"
            row[0].annotate("ln 2", *place, ha="right", va="top", fontsize=10)

    # Titles on top, the clock below.
    for axis, (column, name) in zip(axes, columns.items(), strict=False):
        axis.set_title(name, loc="left")
        axis.yaxis.set_major_locator(MaxNLocator(4))
        if column == PRIMARY:
            _scale(axis, study.frame[PRIMARY], PRIMARY)
        axis.xaxis.set_major_locator(MaxNLocator(4, min_n_ticks=2))
    text = "real images shown to D, thousands"
    figure.supxlabel(text, fontsize=11, color=GREY, y=0.1 / figure.get_figheight())
    _legend(study, figure)
    bounded = "batch" in set(study.frame["norm"])
    bound = " Dotted: ln 2, below which D's loss cannot fall with output BatchNorm." * bounded
    return figure, (
        "The losses of both networks, averaged over neighbouring steps, beside "
        f"{label(PRIMARY)}.{bound} {_seeds(study)} "
        + (f"{short_identity(study, PRIMARY)} " if scored else "")
        + _channels(study)
    )


def samples(study: Analysis) -> tuple[Figure, str]:
    """Real images above the last samples of every arm at the lowest seed."""
    rows = study.frame[[has_picture(study, row.run, row.epoch) for row in study.frame.itertuples()]]
    rows = rows.sort_values("epoch").groupby("run", sort=False).tail(1)
    rows = rows.sort_values("seed").drop_duplicates(study.factors)
    shown = {tuple(row[x] for x in study.factors): row for row in rows.to_dict("records")}

    # The 4x8 real images in two rows over the full width, so that all images are of one size.
    real = None
    if (study.folder / "real.png").is_file():
        real = _pixels(study.folder / "real.png")
        real = np.hstack([real[: len(real) // 2], real[len(real) // 2 :]])

    # An arm that has not begun keeps its panel.
    last, panels = set(zip(study.last["run"], study.last["epoch"], strict=True)), []
    for arm in study.arms:
        title, row = arm_name(study, arm), shown.get(arm)
        if row is not None and (row["run"], row["epoch"]) not in last:
            title += f" (epoch {row['epoch']})"
        path = row and rundir.epoch_folder(study.folder / row["run"], row["epoch"])
        panels.append((title, _pixels(path / rundir.SAMPLES) if path else None))
    seeds = sorted({row["seed"] for row in shown.values()})
    return _in_two_columns(real, panels), (
        ("S" if real is None else "Real images, then s")
        + "amples of every arm after its last epoch, not selected: n = 1 run of each arm, seed "
        + ", ".join(map(str, seeds))
        + ", the same noise for every arm; no metric, no band."
    )


def has_picture(study: Study, run: str, epoch: int) -> bool:
    """Whether an epoch's samples are here; a study may be published without them."""
    return (rundir.epoch_folder(study.folder / run, epoch) / rundir.SAMPLES).is_file()


def picture_of(study: Study, analysis: str) -> Path | None:
    """The picture of an analysis: that of the lowest seed of the first arm that has one."""
    runs = study.plan.sort_values("seed", kind="stable")["run"]
    paths = [study.folder / run / ANALYSES / f"{analysis}.png" for run in runs]
    return next((path for path in paths if path.is_file()), None)


def picture_caption(study: Study, analysis: str, path: Path) -> str:
    """What stands under the picture of an analysis."""
    run = path.parent.parent.relative_to(study.folder).as_posix()
    row = study.plan.set_index("run").loc[run]
    epoch = study.analyses[analysis][run]["epoch"]
    arm = arm_name(study, tuple(row[x] for x in study.factors))
    text = f"{TITLES.get(analysis, analysis)}. {PICTURES.get(analysis, '')} {arm}, seed "
    return f"{text}{row['seed']}, after epoch {epoch}; n = 1 run."


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _whole_picture(path: Path) -> Figure:
    """A picture as wide as whole multiples of its pixels can be."""
    pixels = _pixels(path)
    size = np.array(pixels.shape[1::-1]) * max(1, WIDTH_PIXELS // pixels.shape[1])
    figure = Figure(figsize=tuple(size / DPI))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.imshow(pixels, interpolation="none")
    axis.set_axis_off()
    return figure


def _in_two_columns(real: np.ndarray | None, panels: list[tuple[str, np.ndarray | None]]) -> Figure:
    """Real images over the full width, if any; under them titled pictures, all of one size.

    A pixel of a picture is a whole number of pixels of a PNG file: sharp, and small when packed.
    """
    gap, title = 64, 40
    column = (WIDTH_PIXELS - gap) // 2
    shape = next(pixels.shape for _, pixels in panels if pixels is not None)
    height, width = np.array(shape[:2]) * max(1, column // shape[1])
    top = 0
    boxes: list[tuple] = []
    if real is not None:
        size = np.array(real.shape[:2]) * max(1, WIDTH_PIXELS // real.shape[1])
        boxes, top = [("real", real, 0, title, *size)], title + size[0]
    for i, (name, pixels) in enumerate(panels):
        below = top + i // 2 * (title + height) + title
        boxes.append((name, pixels, i % 2 * (column + gap), below, height, width))
    total = top + math.ceil(len(panels) / 2) * (title + height)

    figure = Figure(figsize=(WIDTH, total / DPI))
    for name, pixels, left, above, height, width in boxes:
        corner = left / WIDTH_PIXELS, 1 - (above + height) / total
        axis = figure.add_axes((*corner, width / WIDTH_PIXELS, height / total))
        axis.set_axis_off()
        axis.set_title(name, loc="left", fontsize=10)
        if pixels is None:
            axis.text(0.5, 0.5, "not yet", ha="center", va="center", transform=axis.transAxes)
        else:
            axis.imshow(pixels, interpolation="none", aspect="auto")
    return figure


def look_of(study: Analysis, arm: tuple) -> tuple[str, Any, str]:
    """The colour, line style and marker of an arm, by the order of the factors and levels.

    Where one factor has more levels than there are hues, all but its first share the second.
    """
    known = [study.levels[factor] for factor in study.factors[:3]]
    hue, line, shade = [*(x.index(y) for x, y in zip(known, arm, strict=False)), 0, 0][:3]
    hue = min(hue, 1) if _against_first(study) else hue % len(HUES)
    share = shade / max(1, len(known[2]) - 1) if len(known) > 2 else 0.0
    dark, light = (matplotlib.colors.to_rgb(end) for end in HUES[hue])
    mixed = [(1 - share) * a + share * b for a, b in zip(dark, light, strict=True)]
    style = line % len(LINES)
    return matplotlib.colors.to_hex(mixed), LINES[style], MARKERS[style]


def _against_first(study: Analysis) -> bool:
    """Whether each level is drawn against the first one: named arms, and more than have a hue."""
    return study.factors == ["arm"] or len(study.levels[study.factors[0]]) > len(HUES)


def _panels_of(study: Analysis, frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each panel: by the third and later factors, or a level beside the first one."""
    if _against_first(study):
        factor = study.factors[0]
        first, *others = study.levels[factor]
        panels = {x: frame[frame[factor].isin([first, x])] for x in others or [first]}
        begun = set(frame[factor])
        return {prose(factor, x): rows for x, rows in panels.items() if x in begun} or {"": frame}
    apart = study.factors[2:]
    if not apart:
        return {"": frame}
    return {
        ", ".join(prose(factor, level) for factor, level in zip(apart, key, strict=True)): rows
        for key, rows in frame.groupby(apart)
    }


def _lines(
    study: Analysis,
    axis: Axes,
    table: pd.DataFrame,
    x: str,
    y: str,
    marked: bool = True,
) -> None:
    """Every seed thin, and over them the mean of each arm, as far as all of its seeds go.

    The only seed of an arm is its mean, and is drawn once.
    """
    for arm in study.arms:
        shade, line, marker = look_of(study, arm)
        look = {"color": shade, "linestyle": line}
        rows = study.of_arm(table, arm)
        runs = [run for _, run in rows.groupby("run", sort=False)]
        for run in runs if len(runs) > 1 else []:
            axis.plot(run[x], run[y], linewidth=0.8 if marked else 0.6, alpha=0.45, **look)
        for run in runs:
            if "status" in run and (run["status"] == "diverged").any():
                end = run.dropna(subset=[y]).tail(1)
                axis.plot(end[x], end[y], marker="x", markersize=9, markeredgewidth=2.5, **look)

        values = rows[y].groupby(rows[x])
        mean = values.mean()[values.count() == len(runs)]
        look |= {"marker": marker if marked and len(mean) <= MARKED else "", "markersize": 5}
        thick = {"linewidth": 2 if marked else 1.4}
        if len(runs):
            axis.plot(mean.index, mean, **look | thick)


def _thinned(curves: pd.DataFrame) -> pd.DataFrame:
    """At most CURVE_POINTS points a run, each the mean of its neighbours."""
    position = curves.groupby("run").cumcount()
    length = curves.groupby("run")["images"].transform("size")
    block = position // np.ceil(length / CURVE_POINTS).astype(int)
    keys = [name for name in curves.columns if name not in ("images", *LOSSES)]
    return curves.groupby([*keys, block.rename("block")], sort=False).mean().reset_index()


def _scale(axis: Axes, values: pd.Series, metric: str) -> None:
    """A logarithmic axis with plain numbers where a distance spans more than a factor of four."""
    low, high = values.min(), values.max()
    if not (LOWER_IS_BETTER[metric] and 0 < 4 * low < high):
        axis.yaxis.set_major_locator(MaxNLocator(5))
        return

    # Three ticks a decade, or finer ones where there is less than a decade.
    axis.set_yscale("log")
    _plain(axis.yaxis, LogLocator(10, [1, 2, 5] if high > 10 * low else [1, 1.5, 2, 3, 5, 7]))


def _calibrate(axes: list[Axes], columns: int, known: pd.Series) -> None:
    """Faint lines at the scores of images that no training made, named right of the last column.

    `known`: set -> score. One beyond the axis has no line: its name has its score.
    """
    low, high = axes[0].get_ylim()
    shown = known[(known >= low) & (known <= high)]
    for axis in axes:
        for value in shown:
            look = {"color": GREY, "linewidth": 0.7, "linestyle": (0, (5, 4)), "alpha": 0.7}
            axis.axhline(value, zorder=1, **look)

    # The names, from the lowest to the highest, and apart.
    gap = 10 / (72 * axes[0].get_window_extent().height / axes[0].figure.dpi)  # a line of text
    ends = axes[0].transData.transform([(0, low), (0, high)])[:, 1]
    texts, heights = [], []
    for name, value in known.sort_values(kind="stable").items():
        height = 0.0 if value < low else 1.0
        arrow = f" {digits(value)} {'↓' if value < low else '↑'}"
        if name in shown:
            arrow = ""
            height = (axes[0].transData.transform((0, value))[1] - ends[0]) / (ends[1] - ends[0])
        texts.append(CALIBRATION[name] + arrow)
        heights.append(max(height, heights[-1] + gap) if heights else height)
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], heights[i + 1] - gap if i + 1 < len(heights) else 1.0)
    for axis in axes[columns - 1 :: columns]:
        for text, height in zip(texts, heights, strict=True):
            axis.text(1.02, height, text, transform=axis.transAxes, va="center", fontsize=8.5)


def _ratios(spread: float) -> Locator:
    """The ticks of a logarithmic axis of ratios, none further from 1 than the factor `spread`."""
    return FixedLocator(next(ticks for most, ticks in CHANGES if spread <= most))


def _whole_numbers(ticks: int) -> Locator:
    return MaxNLocator(ticks, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])


def _plain(axis: Axis, ticks: Locator) -> None:
    """A logarithmic axis with plain numbers at these ticks and nothing between."""
    axis.set_major_locator(ticks)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(FixedLocator([]))


def _rows(
    names: Sequence[str], height: float, *, right: float = 0.15, top: float = 0.1
) -> tuple[Figure, Axes]:
    """A figure of named rows, the first on top; `height` of a row and margins in inches."""
    left = 0.2 + max(_width(line) for name in names for line in name.split("\n"))
    total = top + 0.6 + height * len(names)
    figure = Figure(figsize=(WIDTH, total))
    size = (WIDTH - left - right) / WIDTH, height * len(names) / total
    axis = figure.add_axes((left / WIDTH, 0.6 / total, *size))
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x")
    return figure, axis


def _grid(
    number: int,
    columns: int,
    height: float,
    *,
    sharey: bool | str = True,
    left: float = 0.75,
    right: float = 0.1,
    bottom: float = 0.55,
    top: float = 0.35,
) -> tuple[Figure, list[Axes]]:
    """So many panels with common axes; `height` of a panel and margins in inches.

    The lowest panel of each column names its ticks.
    """
    gap, rows = 0.35, max(1, math.ceil(number / columns))
    total = top + bottom + rows * (height + gap)
    figure = Figure(figsize=(WIDTH, total))
    width = (WIDTH - left - right) / columns
    edges = {"left": left / WIDTH, "right": 1 - right / WIDTH, "bottom": bottom / total}
    edges |= {"top": 1 - (top + gap) / total, "hspace": gap / height}
    edges |= {"wspace": 0.12 if sharey is True else 0.45 / (width - 0.45)}
    shared = {"sharex": True, "sharey": sharey, "squeeze": False}
    axes = list(figure.subplots(rows, columns, **shared, gridspec_kw=edges).flat)
    for axis in axes[number:]:
        axis.remove()
    for axis in axes[max(0, number - columns) : number]:
        axis.tick_params(labelbottom=True)
    for axis in axes:
        axis.grid(axis="y")
    return figure, axes[:number]


def _width(text: str) -> float:
    """Of a label of an axis, in inches."""
    return TextPath((0, 0), text, size=STYLE["ytick.labelsize"]).get_extents().width / 72


def _legend(study: Analysis, figure: Figure) -> None:
    """What hue and line style mean; lightness is named by the panels."""
    first = [study.levels[factor][0] for factor in study.factors[:3]]
    hues = study.levels[study.factors[0]]
    names = [prose(study.factors[0], level) for level in hues]
    if _against_first(study):
        hues, names = hues[:2], [names[0], "the arm that is named"]
    handles = [
        Line2D([], [], label=name, color=look_of(study, (hue, *first[1:]))[0], linewidth=3)
        for name, hue in zip(names, hues, strict=False)
    ]
    for factor in study.factors[1:2]:
        for level in study.levels[factor]:
            _, line, marker = look_of(study, (first[0], level, *first[2:]))
            look = {"color": GREY, "linestyle": line, "marker": marker}
            handles.append(Line2D([], [], label=prose(factor, level), **look))
    figure.legend(handles=handles, **LEGEND)


def _seeds(study: Study) -> str:
    seeds = study.frame["seed"].nunique()
    if seeds == 1:
        return "n = 1 seed; no band is drawn."
    return f"n = {seeds} seeds, thin; thick: their mean; no band is drawn."


def _channels(study: Analysis) -> str:
    """What hue, style and lightness stand for; and the factors that share all three."""
    if _against_first(study):
        base = prose(study.factors[0], study.levels[study.factors[0]][0])
        return f"Blue: {base}; orange: the arm that is named."
    channels = ["Hue: {}", "line and marker: {}", "lightness: {}, its first level darkest"]
    parts = [text.format(name) for text, name in zip(channels, study.factors, strict=False)]
    others = study.factors[3:]
    shared = f" Arms that differ only in {', '.join(others)} look alike." if others else ""
    return "; ".join(parts) + "." + shared


def style() -> AbstractContextManager[None]:
    """The defaults of matplotlib, whatever the user's own are, and ours on top."""
    return matplotlib.style.context(["default", STYLE])


def _render(figure: Figure, kind: str) -> bytes:
    file = io.BytesIO()
    with style():
        figure.savefig(file, format=kind, **KINDS[kind])
    return file.getvalue()
