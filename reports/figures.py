"""The figures. One factor, one visual channel, by the order of the factors, set here alone."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib import colors, ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image, ImageDraw, ImageFont, ImageOps

from dcgan import rundir
from eval.metrics import CALIBRATION
from reports import tables
from reports.analysis import LN2, Analysis, arm_name
from reports.records import LOWER_IS_BETTER, PRIMARY, calibrated
from reports.statistics import over_seeds, percent_sd

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

WIDTH, PANEL = 7.0, 2.0  # of a figure, and the height of a panel: inches
LEFT, RIGHT, BELOW, NAMES = 0.8, 0.2, 0.5, 1.5  # margins: numbers, nothing, an axis, names
ACROSS, DOWN = 0.3, 0.45  # between panels, without and with a title
ENTRIES, ENTRY = 4, 0.2  # of the legend: in a row, and the height of one
LETTER = 0.085  # inches, of a name or a number beside an axis: at most on average
LABEL = 0.4  # inches, of an axis' label
PIXELS, GAP, LINE = 1120, 64, 27  # of pictures: width, between two columns, height of a line
SMALL = 8.5  # points, of the names right of an axis
MARKED = 16  # epochs; beyond these a marker on each would hide the line
DASHED = (
    "Grey, dashed: sets of images for comparison, see the table of scores at the last epoch; an "
    "arrow points to one beyond the axis."
)
NO_REAL = " Real images are left out, because they are not ours to publish."
STYLE = ["default", Path(__file__).with_name("figures.mplstyle")]  # whatever the user's own is

Drawn = dict[str, tuple[Figure | Image.Image, str]]  # name -> figure or picture, and its caption


def draw(study: Analysis) -> Drawn:
    """Every figure that the records allow, in reading order."""
    moving = [x for x in study.measured if study.measured[x] > 1 and tables.table_of(x) == "last"]
    with matplotlib.style.context(STYLE):
        drawn: Drawn = {metric: metric_by_epoch(study, metric) for metric in moving}
        drawn |= samples(study)
        if PRIMARY in study.last_effects:
            drawn["effects"] = effect_sizes(study)
        if PRIMARY in moving:
            drawn["fluctuation"] = fluctuation(study)
        drawn["losses"] = losses(study)
    for name in study.analyses:
        drawn |= analysis_picture(study, name)
    return drawn


def save(drawn: Drawn, out: Path, *, pdf: bool = False) -> dict[str, tuple[Path, str]]:
    """Write each figure as SVG, on demand as PDF too, and each picture as PNG; none has a date.

    Returns the path of the SVG or PNG and the caption of each.
    """
    out.mkdir(parents=True, exist_ok=True)
    saved = {}
    with matplotlib.style.context(STYLE):
        for name, (figure, caption) in drawn.items():
            if isinstance(figure, Image.Image):
                path = out / f"{name}.png"
                figure.save(path)
            else:
                path = out / f"{name}.svg"
                figure.savefig(path, metadata={"Date": None, "Creator": None})
                if pdf:
                    figure.savefig(out / f"{name}.pdf", metadata={"CreationDate": None})
            saved[name] = path, caption
    return saved


# Lines against the epoch.


def metric_by_epoch(study: Analysis, metric: str) -> tuple[Figure, str]:
    """A metric after each epoch, with the images that no training made."""
    known = calibrated(study, metric)
    figure, axes = _by_epoch(study, {metric: ""}, NAMES if len(known) else RIGHT)
    name = tables.label(metric)
    axes[0, 0].set_ylabel(name)
    values = pd.concat([study.frame[metric], known.filter(["untrained"])])
    if LOWER_IS_BETTER[metric] and 0 < 4 * values.min() < values.max():
        axes[0, 0].set_yscale("log")
        _plain(axes[0, 0].yaxis, values)
    _fit_margins(figure, axes[0, 0], _calibrate(axes, known))
    better = "lower" if LOWER_IS_BETTER[metric] else "higher"
    number, whole = study.measured[metric], study.frame["epoch"].nunique()
    when = "each epoch" if number == whole else f"the {number} epochs at which it was measured"
    sentences = [f"{name} after {when}; {better} is better.", _seeds(study)]
    sentences += [tables.short_identity(study, metric), _channels(study)]
    if "diverged" in set(study.frame["status"]):
        sentences.append(f"A cross marks the last finite {name} of a run that diverged.")
    return figure, " ".join([*sentences, *[DASHED] * (len(known) > 0)])


def losses(study: Analysis) -> tuple[Figure, str]:
    """The losses of both networks, and ln 2 where D's cannot fall below it."""
    figure, axes = _by_epoch(study, tables.LOSSES, RIGHT)
    bounded = "batch" in set(study.frame["norm"])
    for axis in axes[:, 0] if bounded else []:
        axis.axhline(LN2, color=GREY, linewidth=1.2, linestyle=":", zorder=3)
        end = axis.get_yaxis_transform()
        axis.text(1, LN2, "ln 2", transform=end, ha="right", va="top", fontsize=10)
    _fit_margins(figure, axes[0, 0], [])
    bound = "Dotted: ln 2, below which D's loss cannot fall with output BatchNorm. " * bounded
    text = f"The losses of both networks, means over the steps of each epoch. {bound}"
    return figure, f"{text}{_seeds(study)} {_channels(study)}"


def _by_epoch(study: Analysis, columns: dict[str, str], right: float) -> tuple[Figure, np.ndarray]:
    """Columns of the records against the epoch, a panel for each part of `_panels_of`.

    `columns`: name -> title; `right`: the margin there, in inches. One column has its panels side
    by side, several have a row each.
    """
    panels = _panels_of(study)
    cells = [(part, column) for part in panels for column in columns]
    width = len(columns) if len(columns) > 1 else min(2, len(cells))
    height = math.ceil(len(cells) / width)
    sharey, across = ("col", LEFT) if len(columns) > 1 else (True, ACROSS)
    panel = PANEL if height < 3 else 0.75 * PANEL
    figure = _figure((LEFT, right), height * (panel + DOWN) - DOWN, _legend(study))
    wide = (WIDTH - LEFT - right + across) / width - across
    gaps = {"hspace": DOWN / panel, "wspace": across / wide}
    layout = {"sharex": True, "sharey": sharey, "squeeze": False, "gridspec_kw": gaps}
    axes = figure.subplots(height, width, **layout)
    for axis, (part, column) in zip(axes.flat, cells, strict=False):
        _lines(study, axis, panels[part], column)
        axis.set_title(", ".join(filter(None, [columns[column], part])))
        axis.grid(axis="y")
        axis.yaxis.set_major_locator(ticker.MaxNLocator(5))
        axis.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True, min_n_ticks=1))
    for axis in axes.flat[len(cells) :]:
        axis.set_axis_off()
    for column, axis in enumerate(axes[-1]):
        lowest = axis if axis.axison else axes[-2, column]
        lowest.set_xlabel("epoch")
        lowest.tick_params(labelbottom=True)
    return figure, axes


def _lines(study: Analysis, axis: Axes, table: pd.DataFrame, column: str) -> None:
    """Every seed thin, and over them the mean of each arm, as far as all of its seeds go.

    The only seed of an arm is its mean, and is drawn once.
    """
    lost = set(table.loc[table["status"] == "diverged", "run"])
    for levels, rows in study.rows_of_arms(table):
        if rows.empty:
            continue
        runs = rows.pivot(index="epoch", columns="run", values=column).dropna(how="all")
        colour, line, marker = look_of(study, tuple(levels.values()))
        look = {"color": colour, "linestyle": line}
        if runs.shape[1] > 1:
            axis.plot(runs.index, runs, linewidth=0.8, alpha=0.45, **look)
        for run in [x for x in runs if x in lost]:
            end = runs[run].dropna().tail(1)
            axis.plot(end.index, end, marker="x", markersize=9, markeredgewidth=2.5, **look)
        mean = runs.mean(axis=1, skipna=False).dropna()
        marks = {"marker": marker if len(mean) <= MARKED else "", "markersize": 5}
        axis.plot(mean.index, mean, linewidth=2, **look, **marks)


def _panels_of(study: Analysis) -> dict[str, pd.DataFrame]:
    """The rows of each panel: by the third and later factors, or a level beside the first one."""
    frame = study.frame
    if _against_first(study):
        factor = study.factors[0]
        first, *others = [x for x in study.levels[factor] if x in set(frame[factor])]
        beside = others or [first]
        return {tables.prose(factor, x): frame[frame[factor].isin([first, x])] for x in beside}
    apart = study.factors[2:]
    if not apart:
        return {"": frame}
    return {", ".join(map(tables.prose, apart, key)): rows for key, rows in frame.groupby(apart)}


def _fit_margins(figure: Figure, axis: Axes, names: Sequence[str]) -> None:
    """Wider margins, where long numbers left of an axis or long names right of it need them."""
    marks = axis.yaxis.get_major_formatter().format_ticks(axis.yaxis.get_majorticklocs())
    left = max(LEFT, LABEL + LETTER * max(map(len, marks)))
    figure.subplots_adjust(left=left / WIDTH)
    if names:
        right = max(NAMES, LABEL + LETTER * SMALL / 10 * max(map(len, names)))
        figure.subplots_adjust(right=1 - right / WIDTH)


def _calibrate(axes: np.ndarray, known: pd.Series) -> list[str]:
    """Faint lines at the scores of images that no training made, named right of the last column.

    `known`: set -> score. One beyond the axis has no line: its name has its score. Returns the
    names.
    """
    first, gap = axes[0, 0], 10 / (72 * PANEL)  # a line of text, in heights of a panel
    low, high = first.get_ylim()
    free, names = 1.0, []
    for name, value in known.sort_values(ascending=False, kind="stable").items():
        beyond = "↓" if value < low else "↑" if value > high else ""
        height = (first.transScale + first.transLimits).transform((0, value))[1]
        height = min(max(height, 0), free)
        free = height - gap
        text = CALIBRATION.get(name, name) + f" {tables.significant(value)} {beyond}" * bool(beyond)
        for axis in axes[:, -1]:
            axis.text(1.02, height, text, transform=axis.transAxes, va="center", fontsize=SMALL)
        for axis in axes.flat if not beyond else []:
            look = {"color": GREY, "linewidth": 0.7, "linestyle": (0, (5, 4)), "alpha": 0.7}
            axis.axhline(value, zorder=1, **look)
        names.append(text)
    return names


def _plain(axis: Axis, values: pd.Series | np.ndarray) -> None:
    """Plain numbers at a few round ticks of a logarithmic axis."""
    low, high = np.nanmin(values), np.nanmax(values)
    steps = [1, 2, 5] if high > 10 * low else [1, 1.5, 2, 3, 5, 7]
    wide = high > 2 * low
    axis.set_major_locator(ticker.LogLocator(10, steps) if wide else ticker.MaxNLocator(5))
    axis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(ticker.NullLocator())
    axis.set_minor_formatter(ticker.NullFormatter())


def _figure(sides: tuple[float, float], height: float, legend: Sequence[Line2D]) -> Figure:
    """A figure with margins left and right, and axes that are so high together: inches.

    The margins are given, for a layout that matplotlib finds has to be drawn first.
    """
    above = DOWN + ENTRY * math.ceil(len(legend) / ENTRIES) if legend else RIGHT
    whole = BELOW + height + above
    figure = Figure(figsize=(WIDTH, whole))
    edges = {"left": sides[0] / WIDTH, "right": 1 - sides[1] / WIDTH}
    figure.subplots_adjust(bottom=BELOW / whole, top=(BELOW + height) / whole, **edges)
    if legend:
        figure.legend(handles=legend, loc="upper left", ncols=ENTRIES)
    return figure


# Rows of dots and intervals.


def effect_sizes(study: Analysis) -> tuple[Figure, str]:
    """Every effect of the grid as a ratio with its interval, and batch at equal updates."""
    named = tables.effects_by_name(study)
    rows = {name.replace(", ", ",\n"): effect for name, (_, effect) in named.items()} | {
        f"{tables.effect_text(effect)},\nat equal updates": effect
        for effect in study.partial_effects["updates", "all"]
        if effect.factors == ["batch"]
    }
    figure, axis = _rows(list(rows), 0.42, 1.65)
    axis.axvline(1, color=GREY, linewidth=0.8)
    for y, effect in enumerate(rows.values()):
        ratio, main = effect.ratio, len(effect.factors) == 1
        axis.plot(effect.ratios, [y] * ratio.n, "o", color=GREY, ms=4, alpha=0.5, mew=0)
        axis.plot((ratio.low, ratio.high), (y, y), color=GREY, linewidth=2.4 if main else 1.2)
        face = GREY if main else "none"
        axis.plot(ratio.value, y, "D", color=GREY, markerfacecolor=face, markersize=7, mew=1.4)
        said = tables.interval(ratio.value, ratio.low, ratio.high, 2)
        axis.text(1.02, y, said, transform=axis.get_yaxis_transform(), va="center", fontsize=10)

    axis.set_xlabel(f"{PRIMARY}, ratio; above 1 is worse")
    axis.set_xscale("log")
    _plain(axis.xaxis, np.concatenate([line.get_xdata() for line in axis.lines]))
    seeds = len(next(iter(rows.values())).seeds)
    bars = "Bars: 95 % t intervals over seeds. " if seeds > 1 else "One seed has no interval. "
    if len(study.learnt) < len(study.arms):
        bars += "Where a level is named: of its arms alone; else also of arms that learnt nothing. "
    return figure, (
        f"The effect of each factor on {PRIMARY} at the last epoch, as the ratio of its second "
        "level to its first; of an interaction (hollow, exploratory) as a ratio of ratios. Dots: "
        f"n = {tables.count(seeds, 'seed')}, averaged over the other factors. {bars}"
        f"{tables.short_identity(study, PRIMARY)}"
    )


def fluctuation(study: Analysis) -> tuple[Figure, str]:
    """The fluctuation between epochs of every run, and the mean of each arm with its interval."""
    known = study.fluctuation["variance"].notna().any()
    column = "variance" if known else "with_noise"
    figure, axis = _rows([arm_name(study, x) for x in study.arms], 0.36, RIGHT, _legend(study))
    for y, (levels, runs) in enumerate(study.rows_of_arms(study.fluctuation)):
        colour, _, marker = look_of(study, tuple(levels.values()))
        dots = {"color": colour, "marker": marker, "linestyle": ""}
        values = runs[column].dropna().map(percent_sd)
        axis.plot(values, [y] * len(values), markersize=4.5, alpha=0.5, mew=0, **dots)
        if len(runs):
            mean = over_seeds(runs[column]).rescaled(percent_sd)
            axis.plot(mean.value, y, markersize=8.5, **dots)
            axis.plot((mean.low, mean.high), (y, y), linewidth=2, color=colour)
        noise = runs["noise"].dropna().head(1).map(percent_sd)
        axis.plot(noise, [y] * len(noise), "|", color=GREY, markersize=13, markeredgewidth=1.6)

    axis.set_xlim(left=0)
    axis.set_xlabel(f"SD of log {PRIMARY} between epochs, %")
    seeds = study.fluctuation["seed"].nunique()
    noise = (
        "with the measurement noise taken out; the short line is the SD of one evaluation"
        if known
        else "measurement noise and all, for no generator was scored on further evaluation sets"
    )
    mean = "small; large: the mean over them, bar: its 95 % t interval."
    return figure, (
        f"How far {PRIMARY} goes up and down from epoch to epoch after burn-in, {noise}. "
        + (f"n = {seeds} seeds, {mean} " if seeds > 1 else "n = 1 seed. ")
        + f"{tables.short_identity(study, PRIMARY)} {_channels(study)}"
    )


def _rows(
    names: list[str], height: float, right: float, legend: Sequence[Line2D] = ()
) -> tuple[Figure, Axes]:
    """A figure of named rows, the first on top; `height` of a row and `right` margin: inches."""
    longest = max(len(line) for name in names for line in name.splitlines())
    figure = _figure((RIGHT + LETTER * longest, right), height * len(names), legend)
    axis = figure.add_subplot()
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x")
    return figure, axis


# Pictures.


def samples(study: Analysis) -> Drawn:
    """The last samples of every arm, below real images, and a strip of the best arm's."""
    last = {arm: _last_picture(study, arm) for arm in study.arms}
    seeds = sorted({seed for seed, _, image in last.values() if image})
    if not seeds:
        return {}
    same = all(len(study.values[field]) == 1 for field in ("latent", "latent_size"))
    noise = ", the same noise for every arm" * same
    runs = f"n = 1 run of each arm, seed {', '.join(map(str, seeds))}{noise}"
    panels = []
    for arm, (_, text, image) in last.items():
        first, *others = map(tables.prose, study.factors, arm)
        panels.append(("\n".join(filter(None, [first, ", ".join(others), text])), image))
    what, real = "Samples", study.folder / "real.png"
    if real.is_file():
        what = "Real images, then samples"
        panels = [("real", _read(real)), ("", None), *panels]  # in a row of their own
    caption = f"{what} of every arm after its last epoch, not selected: {runs}, its score above it."
    caption += "" if real.is_file() else NO_REAL
    return {"samples": (_contact_sheet(panels, 2), caption)} | _strip(study, last, runs)


def _strip(study: Analysis, last: dict[tuple, tuple], which: str) -> Drawn:
    """Half of the last samples of the best arm, and of each arm that one level sets apart."""
    if study.last[PRIMARY].isna().all() or study.factors == ["arm"] or len(study.arms) == 1:
        return {}
    best, panels = study.arms[study.scores("last")[PRIMARY].argmin()], []
    if last[best][2] is None:  # it has no picture
        return {}
    for arm in [best, *(arm for arm in study.arms if arm != best)]:
        _, text, image = last[arm]
        levels = zip(study.factors, arm, best, strict=True)
        other = [tables.prose(factor, x) for factor, x, y in levels if x != y]
        if image and len(other) < 2:
            half = image.crop((0, 0, image.width // 2, image.height))
            panels.append((f"{''.join(other) or 'best arm'}\n{text}", half))
    name = ", ".join(map(tables.prose, study.factors, best))
    caption = (
        f"Samples of the best arm and its neighbours. Best by mean {PRIMARY}: {name}; the others "
        "differ in the level that is named; the score above each is that of the seed shown. After "
        f"the last epoch, not selected: {which}."
    )
    return {"strip": (_contact_sheet(panels, 4), caption)}


def _last_picture(study: Analysis, arm: tuple) -> tuple[int, str, Image.Image | None]:
    """The lowest seed of an arm that has samples, the last score that has any, and these."""
    for run in study.runs_of[arm]:
        if epochs := study.pictured(run):
            row = study.frame[(study.frame["run"] == run) & (study.frame["epoch"] == epochs[-1])]
            (seed, score), epoch = row[["seed", PRIMARY]].iloc[0], epochs[-1]
            text = "no score" if math.isnan(score) else f"{PRIMARY} {score:.1f}"
            when = "" if epoch == study.planned[run] else f", epoch {epoch}"
            path = rundir.epoch_folder(study.folder / run, epoch) / rundir.SAMPLES
            return int(seed), text + when, _read(path)
    return -1, "not yet", None


def _contact_sheet(panels: list[tuple[str, Image.Image | None]], columns: int) -> Image.Image:
    """Titled pictures in columns; a pixel becomes whole pixels: sharp, and small when packed."""
    gap = 2 * GAP // columns
    column = (PIXELS - (columns - 1) * gap) // columns
    some = next(image for _, image in panels if image)
    scale = max(1, column // some.width)
    above = LINE * (1 + max(title.count("\n") + 1 for title, _ in panels))
    height = above + scale * some.height
    sheet = Image.new("RGBA", (PIXELS, math.ceil(len(panels) / columns) * height))
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", 22)
    for i, (title, image) in enumerate(panels):
        x, y = i % columns * (column + gap), i // columns * height
        pen.text((x, y + above - 6), title, GREY, font, anchor="ld")
        if image:
            large = ImageOps.scale(image, scale, Image.Resampling.NEAREST)
            sheet.paste(large, (x, y + above))
    return sheet


def analysis_picture(study: Analysis, analysis: str) -> Drawn:
    """The picture that an analysis left in the lowest seed that has one, and what it shows."""
    for row in study.plan.sort_values("seed", kind="stable").to_dict("records"):
        path = study.folder / row["run"] / rundir.ANALYSES / f"{analysis}.png"
        if row["run"] in study.analyses[analysis] and path.is_file():
            arm = arm_name(study, tuple(row[x] for x in study.factors))
            seen = tables.TEXTS.get(analysis, {}).get("picture", "")
            text = f"{tables.analysis_title(analysis)}, in pictures. {seen} {arm}, seed "
            epoch = study.analyses[analysis][row["run"]]["epoch"]
            text += f"{row['seed']}, after epoch {epoch}; n = 1 run."
            return {analysis: (_read(path), text)}
    return {}


def _read(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


# What a colour, a line and a marker mean.


def look_of(study: Analysis, arm: tuple) -> tuple[str, Any, str]:
    """The colour, line style and marker of an arm, by the order of the factors and levels.

    Where one factor has more levels than there are hues, all but its first share the second.
    """
    known = [study.levels[factor] for factor in study.factors[:3]]
    hue, line, shade = [*(x.index(y) for x, y in zip(known, arm, strict=False)), 0, 0][:3]
    hue = min(hue, 1) if _against_first(study) else hue
    share = shade / max(1, len(known[2]) - 1) if len(known) > 2 else 0.0
    dark, light = (np.array(colors.to_rgb(end)) for end in HUES[hue])
    colour = colors.to_hex((1 - share) * dark + share * light)
    return colour, LINES[line % len(LINES)], MARKERS[line % len(MARKERS)]


def _against_first(study: Analysis) -> bool:
    """Whether each level is drawn against the first one: named arms, and more than have a hue."""
    return study.factors == ["arm"] or len(study.levels[study.factors[0]]) > len(HUES)


def _legend(study: Analysis) -> list[Line2D]:
    """What hue and line style mean; lightness is named by the panels."""
    first = [study.levels[factor][0] for factor in study.factors[:3]]
    hues = study.levels[study.factors[0]]
    names = [tables.prose(study.factors[0], level) for level in hues]
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
            handles.append(Line2D([], [], label=tables.prose(factor, level), **look))
    return handles


def _seeds(study: Analysis) -> str:
    if study.seeds == 1:
        return "n = 1 seed."
    return f"Thin: each of n = {study.seeds} seeds; thick: their mean."


def _channels(study: Analysis) -> str:
    """What hue, style and lightness stand for; of later factors a panel or a row has the name."""
    if _against_first(study):
        base = tables.prose(study.factors[0], study.levels[study.factors[0]][0])
        return f"Blue: {base}; orange: the arm that is named."
    channels = ["Colour: {}", "line and marker: {}", "lightness: {}, its first level darkest"]
    names = [tables.FACTORS.get(factor, factor) for factor in study.factors]
    parts = [text.format(name) for text, name in zip(channels, names, strict=False)]
    return "; ".join(parts) + "."
