"""Every table of a report, and how each number is rounded and written: here and nowhere else.

A table is a frame in full precision, columns that say how a row of it is shown, and notes. Each is
written as CSV, Markdown and LaTeX, and shown on the page.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from eval.metrics import NEIGHBOUR_METRICS
from reports import claims
from reports.analysis import (
    LEARNT,
    LN2,
    RELAPSE,
    THRESHOLDS,
    Analysis,
    arm_name,
    effect_numbers,
    no_verdict,
)
from reports.claims import Verdict
from reports.records import OWN_CLASSES, PRIMARY, Study, calibrated
from reports.statistics import AXES, VERDICT_SEEDS, Effect, Estimate, burn_in

INCEPTION = {"fid": "FID", "is": "IS", "kid": "KID"}  # these names mean Inception, nothing else
FID_METRICS = ["fid", "is", "kid", "fd_cifar", "cs_cifar", "kd_cifar"]
FIDELITY_METRICS = ["precision_cifar", "recall_cifar", "density_cifar", "coverage_cifar"]
DECIMALS = {  # least and most; the others have three
    "fid": (1, 2),
    "is": (2, 2),
    "kid": (3, 5),
    "fd_cifar": (1, 4),
    "cs_cifar": (2, 2),
    "kd_cifar": (3, 5),
}
CALIBRATION = {  # the sets of images that no training made, and what a reader calls them
    "held-out": "real held-out images",
    "gaussian": "Gaussian fitted to the pixels",
    "8x8": "real images at 8×8",
    "flat": "one flat colour an image",
    "untrained": "untrained generator",
}
ANALYSES = {  # titles of what `python -m eval` measures; another has its name
    "probe": "What D's features tell a linear classifier",
    "neighbours": "Samples, held-out images, and the nearest training image",
    "walks": "Walks and arithmetic in latent space",
    "filters": "What D's last features respond to",
    "heads": "A training step with either head, counted and timed",
    "constant": "Features of G that are nearly constant",
}
LOSSES = {"d_loss": "D loss", "g_loss": "G loss"}
CHOICES = {"last": "last", "best": "best", "random": "random", "d_loss": "highest D loss"}
CHOICES |= {"g_loss": "lowest G loss"}
PROSE = {  # levels as a reader knows them; `key` alone stands for every level of a factor
    "norm=batch": "output BatchNorm",
    "norm=none": "no output BatchNorm",
    "head=avgpool": "average-pool head",
    "head=conv": "convolutional head",
    "batch": "batch {}",
    "arm": "{}",
}
ROUNDING = 1e-6  # relative; a float32 loss may lie this far from the true one
SPREAD = "Mean ± standard deviation over seeds."
INTERVALS = "Means over seeds with 95 % t intervals."
DASH = "–"
LINE, LINES = 84, 45  # characters and lines of small print on a page of LaTeX


class Column(NamedTuple):
    """One column: its heading, how it shows a row of the frame, and how it is set."""

    heading: str
    cell: Callable[[dict], str]
    kind: str = "number"  # set right; "word": set left; "prose": sentences


@dataclass(frozen=True)
class Table:
    """One table: CSV has its frame, a reader sees its columns."""

    name: str  # a word, for file names and anchors
    title: str
    frame: pd.DataFrame
    columns: list[Column]
    notes: list[str]
    metrics: Sequence[str] = ()  # whose identities belong under it
    below: Sequence[list[str]] = ()  # rows of no arm: a name, then the last cells of the row
    folded: Sequence[Column] = ()  # what the page alone has, for those who open a row

    @property
    def headings(self) -> list[str]:
        return [column.heading for column in self.columns]

    @cached_property
    def rows(self) -> list[list[str]]:
        """Every cell as a reader sees it; those of `below` are not among them."""
        rows = self.frame.to_dict("records")
        return [[column.cell(row) for column in self.columns] for row in rows]

    @cached_property
    def details(self) -> list[list[tuple[str, str]]]:
        """For each row the folded columns: heading and text, where there is any."""
        rows = self.frame.to_dict("records") if self.folded else []
        cells = [[(column.heading, column.cell(row)) for column in self.folded] for row in rows]
        return [[(name, text) for name, text in row if text not in ("", DASH)] for row in cells]


def report(study: Analysis, verdicts: list[Verdict]) -> list[Table]:
    """Every table in reading order; those that have nothing to say are not there."""
    tables = [
        *_named_arms(study),
        *(_effects(study, metric) for metric in study.last_effects),
        _batches(study),
        *_scores(study),
        _losses(study),
        _throughput(study),
        ledger(study, verdicts),
        *_by_epochs(study),
        _shares(study),
        _reach(study),
        *_analyses(study),
        *_audit(study),
    ]
    return [table for table in tables if len(table.frame)]


def write(study: Analysis, tables: list[Table], out: Path) -> list[Path]:
    """Write tables.md, tables.tex and one CSV file per table; returns the paths."""
    out.mkdir(parents=True, exist_ok=True)
    latex = [to_latex(table, caption(study, table.metrics)) for table in tables]
    files = {
        "tables.md": "\n".join([*map(to_markdown, tables), *_paragraphs(caption(study))]),
        "tables.tex": "\n".join(["% Needs \\usepackage{booktabs,longtable}.\n", *latex]),
        **{f"{table.name}.csv": to_csv(table.frame) for table in tables},
    }
    for name, text in files.items():
        (out / name).write_text(text, encoding="utf-8")
    return [out / name for name in files]


# How a table is written.


def to_csv(frame: pd.DataFrame) -> str:
    """A frame of full-precision numbers with six significant digits; NaN is an empty cell."""
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def to_markdown(table: Table) -> str:
    """One table in GitHub's Markdown; numbers are set right."""
    gaps = [[name, *[""] * (_span(table, cells) - 1), *cells] for name, *cells in table.below]
    rule = ["---:" if column.kind == "number" else "---" for column in table.columns]
    rows = [[*map(_markdown, row)] for row in [table.headings, *table.rows, *gaps]]
    lines = ["| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:])]
    return "\n".join([f"**{_markdown(table.title)}**", "", *lines, "", *_paragraphs(table.notes)])


def to_latex(table: Table, caption: Iterable[str] = ()) -> str:
    """A table for a page 84 characters of small print wide; longer cells become paragraphs.

    The document needs booktabs, and longtable for those of more than a page.
    """
    widths, lines = _latex_widths(table)
    rows = [" & ".join(map(_latex, row)) for row in table.rows]
    below = [
        rf"\multicolumn{{{_span(table, cells)}}}{{l}}{{{_latex(name)}}} & "
        + " & ".join(map(_latex, cells))
        for name, *cells in table.below
    ]
    text = _latex(" ".join([f"{table.title}.", *table.notes, *caption]))
    head = " & ".join(map(_latex, table.headings)) + r" \\"
    label = rf"\caption{{{text}}}\label{{tab:{table.name}}}"
    body = [row + r" \\" for row in rows] + [r"\midrule"] * bool(below)
    body += [row + r" \\" for row in below]
    size = r"\footnotesize\setlength{\tabcolsep}{4pt}"
    if lines > LINES:
        begin = ["{" + size, rf"\begin{{longtable}}{{{widths}}}", label + r"\\", r"\toprule", head]
        parts = [*begin, r"\midrule\endhead", *body, r"\bottomrule", r"\end{longtable}", "}"]
    else:
        begin = [r"\begin{table}", r"\centering" + size, label, rf"\begin{{tabular}}{{{widths}}}"]
        begin += [r"\toprule", head, r"\midrule"]
        parts = [*begin, *body, r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(parts) + "\n"


def _latex_widths(table: Table) -> tuple[str, int]:
    """The columns of a tabular that fits the page, and how many lines it takes."""
    cells = [*zip(table.headings, *table.rows, strict=True)]
    sizes = np.array([max(map(len, column)) for column in cells])
    least = np.array(
        [max(len(x) for text in column for x in text.split() or [text]) for column in cells]
    )
    widths = [np.maximum(least, np.minimum(sizes, most)) for most in range(1, LINE)]
    fitting = [x for x in widths if x.sum() + 2 * len(sizes) <= LINE]
    chosen = (fitting or widths[:1])[-1]
    kinds = [
        rf"p{{{width / 2:g}em}}" if width < size else "r" if column.kind == "number" else "l"
        for width, size, column in zip(chosen, sizes, table.columns, strict=True)
    ]
    rows = [max(math.ceil(len(x) / y) for x, y in zip(row, chosen, strict=True) if y)
            for row in table.rows]  # fmt: skip
    return "".join(kinds), sum(rows) + len(table.below)


def _span(table: Table, cells: list[str]) -> int:
    """How many columns the name of a row of `below` takes."""
    return len(table.columns) - len(cells)


def _paragraphs(lines: Iterable[str]) -> list[str]:
    return [part for line in lines for part in (_markdown(line), "")]


def _markdown(text: str) -> str:
    """What Markdown would read as a command; an underscore within a word is none."""
    return "".join("\\" + character if character in "\\`*|<>" else character for character in text)


LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "_": r"\_",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    DASH: "--",
}


def _latex(text: str) -> str:
    """Every character that LaTeX would read as a command, and those beyond ASCII that we use."""
    return "".join(LATEX.get(character, character) for character in text)


# How a cell is written.


def rounded(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}" if math.isfinite(value) else DASH


def digits(value: float) -> str:
    """Three significant digits, trailing zeros kept."""
    return f"{value:#.3g}".rstrip(".")


def significant(value: str | float | None, number: int) -> str:
    """So many significant digits; very small numbers keep a power of ten."""
    if value is None or isinstance(value, str):
        return DASH if value is None else value
    if isinstance(value, int) or not math.isfinite(value):
        return f"{value:,}" if math.isfinite(value) else DASH
    return f"{value:.1e}" if 0 < abs(value) < 1e-4 else rounded(value, _decimals(value, number))


def spread(mean: float, sd: float, decimals: int) -> str:
    """`12.3 ± 0.4`, or `12.3` where one seed has no standard deviation."""
    return rounded(mean, decimals) + (f" ± {rounded(sd, decimals)}" if math.isfinite(sd) else "")


def interval(value: float, low: float, high: float, decimals: int) -> str:
    """`1.28 (1.22 to 1.35)`, or `1.28` where there is no interval."""
    if not math.isfinite(low):
        return rounded(value, decimals)
    return f"{rounded(value, decimals)} ({rounded(low, decimals)} to {rounded(high, decimals)})"


def p_value(p: float) -> str:
    """Three decimals, four below 0.01, and `<0.0001` where these would be zeros."""
    if not math.isfinite(p):
        return DASH
    return "<0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


def span(low: float, high: float, decimals: int) -> str:
    ends = [rounded(low, decimals), rounded(high, decimals)]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def ranges(numbers: Iterable[int]) -> str:
    """[0, 1, 2, 5] -> "0 to 2, 5"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    spans = [[str(run[0])] if len(run) == 1 else [str(run[0]), str(run[-1])] for run in runs]
    return ", ".join(" to ".join(span) for span in spans)


def prose(factor: str, level: object) -> str:
    """A level as a reader knows it, `factor=level` where nobody has named it."""
    text = PROSE.get(f"{factor}={level}") or PROSE.get(factor) or f"{factor}={level}"
    return text.format(level)


def table_of(metric: str) -> str:
    """The table of scores that a metric stands in."""
    if metric.endswith("_reestimated"):
        return "reestimated"
    return "fidelity" if metric.partition("_")[0] in NEIGHBOUR_METRICS else "last"


def effect_text(effect: Effect) -> str:
    """`output BatchNorm`, `batch 512 against 128`, `norm × batch`."""
    if len(effect.factors) > 1:
        return effect.name
    ((factor, (low, high)),) = effect.levels.items()
    text = prose(factor, high)
    return text if f"{factor}={high}" in PROSE else f"{text} against {low}"


def label(metric: str) -> str:
    """The name of a metric as a reader knows it."""
    return INCEPTION.get(metric, metric)


def decimals_of(metric: str, values: pd.Series) -> int:
    """Decimals for a whole column: three digits of its smallest number, within the usual range."""
    least, most = DECIMALS.get(metric, (3, 3))
    sizes = values[values.notna() & (values != 0)].abs()
    wanted = _decimals(sizes.min(), 3, least) if len(sizes) else 0
    return min(most, max(least, wanted))


def percent_sd(variance: float) -> float:
    """A variance on the log scale as a standard deviation in percent; 0 where it is negative."""
    return 100 * math.sqrt(max(variance, 0.0)) if math.isfinite(variance) else math.nan


def percent_more(logarithm: float) -> float:
    """A difference of logarithms as a change in percent."""
    return 100 * math.expm1(logarithm)


def _decimals(value: float, number: int, least: int = 0) -> int:
    """The decimals that show so many significant digits of a number."""
    return max(least, number - 1 - (math.floor(math.log10(abs(value))) if value else 0))


def _text(key: str, heading: str = "", kind: str = "word") -> Column:
    return Column(heading or key, lambda row: str(row[key]), kind)


def _number(heading: str, key: str, decimals: int = 0) -> Column:
    return Column(heading, lambda row: rounded(row[key], decimals))


def _interval(
    heading: str, key: str, decimals: int, scale: Callable[[float], float] = float
) -> Column:
    ends = (key, f"{key}_low", f"{key}_high")
    return Column(heading, lambda row: interval(*(scale(row[x]) for x in ends), decimals))


def _p(heading: str, key: str) -> Column:
    return Column(heading, lambda row: p_value(row[key]))


def _arm(study: Analysis, *, seeds: bool = True) -> list[Column]:
    """A column for each factor, and for the number of seeds."""
    numeric = [x for x in study.factors if pd.api.types.is_numeric_dtype(study.plan[x])]
    columns = [_text(x, kind="number" if x in numeric else "word") for x in study.factors]
    return [*columns, _text("seeds", kind="number")] if seeds else columns


# What stands under every table.


def caption(study: Analysis, metrics: Iterable[str] | None = None) -> list[str]:
    """What stands under every table: data, runs, identities, code, hardware; a line for each.

    `metrics` are those whose identities are wanted; None: all.
    """
    metrics = [*FID_METRICS, *study.identities] if metrics is None else list(metrics)
    info, data, hardware = study.info, study.info["data"], study.info["hardware"]
    drawn = ", images drawn by the code itself, not photographs" if data["kind"] == "shapes" else ""
    drawn += ", in part stored with loss, as decoded" if data.get("lossy") else ""
    seeds = set(study.plan["seed"])
    finished = len(study.plan) - len(study.missing)
    lines = [
        f"Data: {data['name']}{drawn}; {study.config.images:,} of {data['images']:,} images for "
        f"training, {data['resolution']}×{data['resolution']} (SHA-256 {data['sha256'][:12]}).",
        f"Study: {info['study']}, scale {info['scale']}; {count(len(study.arms), 'arm')}, "
        f"{count(len(seeds), 'seed')} ({ranges(seeds)}), "
        f"{count(study.plan['planned'].max(), 'epoch')}; "
        f"{finished} of {count(len(study.plan), 'run')} finished.",
        *missing_lines(study),
        *_identity_lines(study, metrics),
        f"Code: commit {info['commit']}. Hardware: {hardware['processor']}, {hardware['device']}, "
        f"{count(hardware['cores'], 'core')}, {count(hardware['jobs'], 'run')} at a time, "
        f"{count(hardware['threads'], 'thread')} each. Versions: "
        + ", ".join(f"{name} {version}" for name, version in info["versions"].items())
        + ".",
    ]
    if len(study.machines) > 1:
        keys = dict.fromkeys(key for machine in study.machines for key in machine)
        values = {key: dict.fromkeys(str(x.get(key)) for x in study.machines) for key in keys}
        differing = [f"{key}: {' or '.join(v)}" for key, v in values.items() if len(v) > 1]
        lines.append(f"The runs were not all made alike ({'; '.join(differing)}).")
    return lines


def missing_lines(study: Study) -> list[str]:
    """One sentence for each group of seeds of an arm that are not finished."""
    groups: dict[tuple, list[int]] = {}
    for run in study.missing:
        arm, seed = run.run.rsplit("/seed=", 1)
        groups.setdefault((arm, run.committed, run.planned, run.status), []).append(int(seed))
    return [
        f"Missing: {arm}, {'seed' if len(seeds) == 1 else 'seeds'} {ranges(seeds)}: {status}"
        + (f", {done} of {planned} epochs." if done else ".")
        for (arm, done, planned, status), seeds in groups.items()
    ]


def _identity_lines(study: Study, metrics: list[str]) -> list[str]:
    """One line for all metrics that share an identity, and one for what was not measured."""
    groups: dict[str, list[str]] = {}
    for metric in dict.fromkeys(metrics):
        if metric in study.frame and metric in study.identities:
            identity = study.identities[metric]
            text = (
                f"{_network(identity, identity['reference_sha256'])}, resizer: "
                f"{identity['resizer']}, quantiser: {identity['quantiser']}, BatchNorm of G: "
                f"{identity['batchnorm']}, {identity['implementation']}"
            )
            groups.setdefault(text, []).append(label(metric))
    lines = [f"{', '.join(names)}: {identity}." for identity, names in groups.items()]
    absent = [INCEPTION[x] for x in metrics if x in INCEPTION and x not in study.frame]
    if absent:
        lines.append(f"{', '.join(absent)}: not measured (without Inception's published weights).")
    return lines


def short_identity(study: Study, metric: str) -> str:
    """What a metric is, in a sentence for a caption."""
    return f"{label(metric)}: on {_network(study.identities[metric])}."


def _network(identity: dict, reference: str = "") -> str:
    split = f"{identity['split']} split" + (f", SHA-256 {reference[:12]}" if reference else "")
    return (
        f"{identity['network']} (SHA-256 {identity['network_sha256'][:12]}), "
        f"{identity['generated']:,} generated against {identity['reference']:,} real images "
        f"({split}), {identity['resolution']}×{identity['resolution']}"
    )


# The tables in reading order.


def _named_arms(study: Analysis) -> list[Table]:
    """What each named arm sets."""
    arms = study.info.get("arms") or {}
    rows = [
        {"arm": arm, "sets": ", ".join(f"{key}={x}" for key, x in arms[arm].items()) or "nothing"}
        for (arm,) in (study.arms if arms else [])
        if arm in arms
    ]
    notes = ["All else is as the study's settings have it, in every arm."]
    columns = [_text("arm"), _text("sets", kind="prose")]
    return [Table("arms", "What each arm changes", pd.DataFrame(rows), columns, notes)]


EFFECT_NOTES = [
    "Ratio: of the geometric means of the second and the first level, above 1 worse; difference: "
    "the same on the metric's own scale. Both are means over seeds of differences between paired "
    "runs, with 95 % t intervals; n counts seeds.",
    "p, t: paired t on the logarithm; p, flip: exact sign-flip, whose least is 2/2^n.",
    "P(better): that a run at the second level has the lower value, over all pairs of runs.",
]


def _effects(study: Analysis, metric: str) -> Table:
    frame = pd.DataFrame([effect_numbers(x) for x in study.last_effects[metric]])
    holm = _p("p, Holm", "p_holm")
    columns = [_text("effect"), *_effect_columns(study, metric, [holm])]
    notes = [
        *EFFECT_NOTES,
        "p, Holm: the t's, adjusted over the main effects. Interactions are exploratory: theirs is "
        "the ratio of ratios, and the difference of differences.",
        *_seed_notes(frame),
    ]
    name = "effects" if metric == PRIMARY else f"effects-{metric}"
    title = f"Effects on {label(metric)} at the last epoch"
    return Table(name, title, frame, columns, notes, [metric])


def _batches(study: Analysis) -> Table:
    frame = study.batch_effects
    columns = [
        Column("batch", lambda row: row["effect"].removeprefix("batch="), "word"),
        Column("at", lambda row: f"equal {row['at']}", "word"),
        _text("where", "arms"),
        Column("updates", lambda row: f"{row['updates_high']:.0f} and {row['updates_low']:.0f}"),
        *_effect_columns(study, PRIMARY, []),
    ]
    notes = [
        "At equal epochs the smaller batch makes more updates; at equal updates it has seen fewer "
        "images. Equal updates: each run at the epoch nearest in updates to the end of the arm "
        "that makes the fewest, no further than 5 % from it. Ratio, difference and ps: as above.",
        *_seed_notes(frame),
    ]
    title = f"Batch sizes: {PRIMARY} at equal epochs and at equal updates"
    return Table("batch", title, frame, columns, notes, [PRIMARY])


def _effect_columns(study: Analysis, metric: str, ps: list[Column]) -> list[Column]:
    decimals = decimals_of(metric, study.last[metric]) if metric in study.last else 0
    return [
        _interval("ratio (95 %)", "ratio", 3),
        _interval("difference (95 %)", "difference", decimals),
        _p("p, t", "p_t"),
        _p("p, flip", "p_flip"),
        *ps,
        _number("P(better)", "improvement", 2),
        _number("n", "n"),
    ]


def _seed_notes(frame: pd.DataFrame) -> list[str]:
    """Which seeds were left out, and why there is no verdict where they are too few."""
    if not len(frame):
        return []
    dropped = sorted({int(seed) for text in frame["dropped"] for seed in text.split()})
    why = "Left out whole, for some cell is not there or not finite: seed"
    notes = [f"{why} {join([*map(str, dropped)])}."] if dropped else []
    return notes + _few(int(frame["n"].min()))


def _few(seeds: int) -> list[str]:
    return [no_verdict(seeds)] if seeds < VERDICT_SEEDS else []


def _scores(study: Analysis) -> list[Table]:
    """Scores at the last, at the best and at fixed epochs; precision, recall and the like."""
    chosen = (
        f"The best epoch is chosen for each run by {PRIMARY}, on the very samples that are scored: "
        "an optimistic number."
    )
    ends = {"last": [SPREAD], "best": [SPREAD, chosen]}
    distances = [metric for metric in FID_METRICS if metric in study.measured]
    shares = [metric for metric in FIDELITY_METRICS if metric in study.measured]
    tables = [
        _score_table(study, at, distances or [PRIMARY], at, f"Scores at the {at} epoch", notes)
        for at, notes in ends.items()
    ]
    for metric in ("fid", PRIMARY):
        if study.measured.get(metric, 0) > 1:
            tables.append(_fixed_epochs(study, metric))
    title = "Precision, recall, density, coverage at the last epoch"
    fidelity = [_score_table(study, "last", shares, "fidelity", title, [SPREAD])]
    return [*tables, *fidelity] if shares else tables


def _score_table(
    study: Analysis, at: str, metrics: list[str], name: str, title: str, notes: list[str]
) -> Table:
    """A row for each arm, a column for each metric."""
    rows = study.scores(at)
    epochs = Column("epoch", lambda row: row["epochs"].replace(" ", ", ") or DASH)
    columns = [_score(study, metric, rows) for metric in metrics]
    below = _calibration_rows(study, {x: rows.get(x, pd.Series(dtype=float)) for x in metrics})
    notes = _score_notes(rows, metrics, notes) + calibration_note(study, len(below))
    kept = [x for x in rows if x.removesuffix("_sd").removesuffix("_n") not in study.measured]
    kept += [x + end for x in metrics if x in rows for end in ("", "_sd", "_n")]
    columns = [*_arm(study), *([epochs] if at == "best" else []), *columns]
    return Table(name, title, rows[kept], columns, notes, metrics, below)


def _fixed_epochs(study: Analysis, metric: str) -> Table:
    """A row for each arm, a column for each of the fixed epochs."""
    points = {epoch: study.scores(epoch) for epoch in study.fixed_epochs}
    ends = ["seeds", "diverged", metric, f"{metric}_sd", f"{metric}_n"]
    frame = pd.concat(
        [next(iter(points.values()))[study.factors]]
        + [rows[ends].add_suffix(f"_{epoch}") for epoch, rows in points.items()],
        axis="columns",
    )
    everything = pd.concat(points.values())
    below = _calibration_rows(study, {metric: everything[metric]}, len(points))
    notes = _score_notes(everything, [metric], [SPREAD]) + calibration_note(study, len(below))
    columns = [_score(study, metric, everything, f"_{epoch}") for epoch in points]
    columns = [x._replace(heading=f"epoch {y}") for x, y in zip(columns, points, strict=True)]
    name, title = f"epochs-{metric}", f"{label(metric)} at fixed epochs"
    return Table(name, title, frame, _arm(study, seeds=False) + columns, notes, [metric], below)


def _score(study: Analysis, metric: str, rows: pd.DataFrame, end: str = "") -> Column:
    """A number with its spread, or why there is none."""
    decimals = decimals_of(metric, rows[metric]) if metric in rows else 0

    def cell(row: dict) -> str:
        finite, seeds = row.get(f"{metric}_n{end}", 0), row[f"seeds{end}"]
        if finite:
            text = spread(row[f"{metric}{end}"], row[f"{metric}_sd{end}"], decimals)
            return text if finite == seeds else f"{text} ({finite} of {seeds})"
        if metric not in study.measured or not row[f"diverged{end}"]:
            return "not measured" if seeds or metric not in study.frame else "not yet"
        return "diverged"

    return Column(label(metric), cell)


def _score_notes(rows: pd.DataFrame, metrics: list[str], notes: list[str]) -> list[str]:
    """The notes of a table of scores, with those that its cells call for."""
    if (rows["seeds"] < 2).all():
        notes = [note for note in notes if note != SPREAD]
        notes = [*notes, "One seed: there is no standard deviation."]
    if not any(metric in INCEPTION for metric in metrics) and PRIMARY in metrics:
        notes = [*notes, "FID, IS and KID were not measured, and nothing stands in for them."]
    counts = rows.reindex(columns=[f"{metric}_n" for metric in metrics])
    if (counts.gt(0) & counts.lt(rows["seeds"], axis=0)).any(axis=None):
        text = "(k of n): k of n seeds have a number; the others diverged or were not scored by it."
        notes = [*notes, text]
    return notes


def _calibration_rows(
    study: Study, columns: dict[str, pd.Series], times: int = 1
) -> list[list[str]]:
    """A row for each set of images that no training made, rounded as the columns are."""
    known = {metric: calibrated(study, metric) for metric in columns}

    def cell(name: str, metric: str) -> str:
        value = known[metric].get(name)
        if value is None:
            return DASH
        decimals = decimals_of(metric, columns[metric])
        if 0 < abs(value) < 0.5 * 10**-decimals:  # nothing but zeros would be left
            decimals = decimals_of(metric, pd.Series([value]))
        return rounded(value, decimals)

    return [
        [text, *[cell(name, metric) for metric in columns] * times]
        for name, text in CALIBRATION.items()
        if any(name in values for values in known.values())
    ]


def calibration_note(study: Study, rows: int) -> list[str]:
    """What the rows of the calibration are; nothing where there are none."""
    if not rows:
        return []
    about = study.calibration.attrs
    images, real, seen = (about[key] for key in ("images", "held_out_images", "held_out_seen"))
    source = f"of the {about['held_out']}"
    source += " of the data set" if about["held_out"] == "second half" else ""
    source += f", {seen:,} of them known to the runs" if seen else ""
    number = f"{real:,} " if real < images else ""
    kinds = OWN_CLASSES in {identity["split"] for identity in study.identities.values()}
    return [
        f"The last {rows} rows are for comparison, {images:,} images each that no training "
        f"made: real ones ({number}{source}); draws from a Gaussian with the mean and covariance "
        "of the reference images' pixels; the real ones reduced to 8×8 pixels and enlarged again; "
        "a random colour an image; and the first arm's generator before training."
        + (" Real ones and reference are of the first arm's class." if kinds else "")
    ]


def _losses(study: Analysis) -> Table:
    frame = study.losses
    columns = [
        Column(text, lambda row, loss=loss: spread(row[loss], row[f"{loss}_sd"], 4))
        for loss, text in LOSSES.items()
    ]
    columns = [*_arm(study), *columns, _number("lowest D step", "lowest", 4)]
    notes = [
        "D and G: mean over the steps of the last epoch, mean ± standard deviation over seeds.",
        "Lowest D step: over all steps of all epochs and seeds.",
    ]
    if frame["bound"].notna().any():
        columns.append(_number("bound", "bound", 4))
        notes.append(
            "Bound: with norm=batch the real and the fake logits have the same mean, so that D's "
            f"loss cannot fall below ln 2 = {LN2:.4f}, the loss of chance (Jensen's inequality)."
        )
    return Table("losses", "Losses", frame, columns, notes)


def _throughput(study: Analysis) -> Table:
    frame = study.by_arm(study.speeds, ["images_per_second", "train_seconds", "score_seconds"])
    columns = [
        *_arm(study),
        _interval("images a second", "images_per_second", 0),
        _interval("training an epoch, s", "train_seconds", 1),
        _interval("scoring an epoch, s", "score_seconds", 1),
    ]
    notes = [f"By the wall clock; of each run the median over epochs. {INTERVALS}"]
    return Table("throughput", "Speed", frame, columns, notes)


PILOT_RUNS = (  # with their numbers at the top of claims.yaml
    "runs at width 32 on all 50,000 images of CIFAR-10, two without output BatchNorm "
    "(convolutional head, batch 128 and 512, 40 epochs, the first two of them at this scale's own "
    "settings), two with it (batch 128, either head, 9 epochs), and one microbenchmark of the heads"
)


def ledger(study: Analysis, verdicts: list[Verdict]) -> Table:
    """Every claim with its verdict."""
    by_id = {verdict.claim.id: verdict for verdict in verdicts}

    def column(heading: str, text: Callable[[Verdict], str], kind: str = "number") -> Column:
        return Column(heading, lambda row: text(by_id[row["id"]]), kind)

    columns = [
        column("id", lambda x: x.claim.id, "word"),
        column("claim", lambda x: x.claim.claim, "prose"),
        column("hypothesis", lambda x: x.claim.hypothesis, "prose"),
        column("estimate (95 % interval)", _claim_estimate),
        column("p", lambda x: p_value(x.decisive_p)),
        column("n", lambda x: str(x.n) if x.n else DASH),
        column("verdict", lambda x: f"{x.verdict}: {x.why}", "prose"),
    ]
    notes = [
        "Every verdict is computed from the records. Estimate: the mean over seeds with its 95 % t "
        "interval; n: seeds with every cell; p: of the test that the verdict stands on, after Holm "
        "over all tests of the confirmatory claims that this study has tested, those of "
        "equivalence among them.",
        "Supported: the interval excludes no effect, and the estimate reaches the smallest effect "
        "of interest, which claims.yaml gives with its reason. Equivalent: smaller than that. "
        "Inconclusive: neither shown nor ruled out. Not testable: what is compared has not learnt "
        f"({PRIMARY} is not below {LEARNT} times that of the untrained generator), or D has "
        "seen too few images.",
        *_claims_history(study, verdicts),
    ]
    exploratory = [
        x.claim.id
        for x in verdicts
        if x.claim.status == "exploratory" and not math.isnan(x.decisive_p)
    ]
    if exploratory:
        notes.append(f"Exploratory, their p not adjusted: {', '.join(exploratory)}.")
    metrics = dict.fromkeys(x.claim.metric for x in verdicts if x.identity)
    frame = pd.DataFrame([_ledger_row(x) for x in verdicts])
    return Table("ledger", "The claims and their verdicts", frame, columns, notes, list(metrics))


def _ledger_row(verdict: Verdict) -> dict[str, object]:
    """One claim in full precision, with the folders of its runs."""
    estimate = verdict.estimate or Estimate(*[math.nan] * 5, 0)
    return {
        "id": verdict.claim.id,
        "status": verdict.claim.status,
        "verdict": verdict.verdict,
        "why": verdict.why,
        "estimate": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "unit": verdict.unit,
        "p": verdict.p,
        "p_holm": verdict.p_holm,
        "p_flip": estimate.p_flip,
        "n": verdict.n,
        "expect": verdict.claim.expect,
        "smallest": verdict.claim.smallest,
        "metric": verdict.claim.metric,
        "network_sha256": (verdict.identity or {}).get("network_sha256"),
        "runs": " ".join(verdict.runs),
    }


def _claim_estimate(verdict: Verdict) -> str:
    """`1.280 (1.100 to 1.490) times`; a dash where there is no estimate."""
    estimate = verdict.estimate
    if estimate is None:
        return DASH
    decimals = claims.MEASURES[verdict.claim.measure].scale.decimals
    if verdict.claim.measure == "bound":
        return f"{span(estimate.low, estimate.high, decimals)}, {verdict.unit}"
    return f"{interval(estimate.value, estimate.low, estimate.high, decimals)} {verdict.unit}"


def _claims_history(study: Analysis, verdicts: list[Verdict]) -> list[str]:
    """What was known when the claims were written, and whether they are still those."""
    same, rows = claims.same_without(study, verdicts)
    again = f" Without seed {claims.PILOT} the verdict is the same in {same} of {rows} rows."
    pilot = (
        f"Looked at before the claims were written: {PILOT_RUNS}, all of seed {claims.PILOT}."
        + again * (rows > 0)
    )
    frozen = study.info.get("claims")
    if not frozen:
        return [pilot, "study.json names no commit of the claims."]
    digest = hashlib.sha256(claims.LEDGER.read_bytes()).hexdigest()
    kept = "that file" if digest == frozen["sha256"] else "another file than that"
    return [
        pilot,
        f"The claims that the study started with are those of commit {frozen['commit']} of "
        f"{frozen['date']} (claims.yaml, SHA-256 {frozen['sha256'][:12]}); the verdicts are by "
        f"{kept}.",
    ]


def _by_epochs(study: Analysis) -> list[Table]:
    """What happens from epoch to epoch, a row for each arm."""
    epochs = int(study.planned.max())
    start = burn_in(epochs)
    decimals = decimals_of(PRIMARY, study.last[PRIMARY]) if PRIMARY in study.last else 0
    fluctuation = {
        "variance": ("SD, %", 1, percent_sd),
        "with_noise": ("with noise, %", 1, percent_sd),
        "noise": ("noise, %", 1, percent_sd),
        "drawdown": ("drawdown, %", 1, _percent_above),
        "regret": ("last over best, %", 1, _percent_above),
        "autocorrelation": ("lag-1", 2, float),
    }
    about_fluctuation = [
        f"After a burn-in of {count(start, 'epoch')}. SD: of the fluctuation of log {PRIMARY} "
        "between epochs, the root of half the variance of successive changes, less the measurement "
        "noise; 0 where noise explains all of it. With noise: before it is taken out. Noise: SD of "
        "one evaluation, from the epochs that were scored on further noise.",
        "Drawdown: largest rise above the best epoch until then. Last over best: what the last "
        "epoch is above the best one. Lag-1: autocorrelation of neighbouring epochs about a "
        f"straight line; without any memory about {-2 / max(1, epochs - start):.2f} is to be "
        "expected.",
    ]
    if study.fluctuation["noise"].isna().all():
        text = "The generators were not scored again: noise is not known, and not taken out."
        about_fluctuation.append(text)
    selection = {
        "own": ("best, own set", decimals, float),
        "other": ("best, other set", decimals, float),
        "last": ("last, other set", decimals, float),
        "optimism": ("optimism, %", 1, percent_more),
        "gain": ("last over best, %", 1, percent_more),
    }
    about_selection = (
        f"The epoch with the best {PRIMARY} on a run's own evaluation set, on that set and on "
        "another one; and the last epoch, on the other one. Optimism: by how much the other set's "
        "number is above that of the set that chose. Last over best: on the other set."
    )
    about_ranks = (
        f"Spearman's correlation, after burn-in, of the changes from one epoch to the next of the "
        f"epoch's mean loss and of log {PRIMARY}: 1 if they always rise and fall together, 0 if "
        "one says nothing of the other."
    )
    about_regret = (
        f"{PRIMARY} of the epoch that one may choose after burn-in. Best: by the run's own scores, "
        "which flatters it. Random: the geometric mean over the epochs. Highest D loss: where D is "
        "deceived most; lowest G loss: where G deceives best. Means are geometric."
    )
    first, second, third = RELAPSE
    about_relapse = (
        f"Share of the runs in which {PRIMARY} is worse by 5 % at epoch {second} than at both "
        f"{first} and {third}, or at {third} than at {second}; and how many would be expected of "
        "runs that get steadily better and are measured with the noise of one evaluation."
    )
    ranks = {loss: (text, 2, _correlation) for loss, text in LOSSES.items()}
    regret = {choice: (text, decimals, np.exp) for choice, text in CHOICES.items()}
    relapse = {"relapse": ("runs", 2, float), "by_noise": ("by noise alone", 2, float)}
    titles = {
        "fluctuation": f"Fluctuation of {PRIMARY} between epochs",
        "selection": f"{PRIMARY} at the best epoch, chosen on one set and reported on another",
        "ranks": f"Rank correlation of the changes of the losses with those of {PRIMARY}",
        "regret": f"{PRIMARY} of the epoch that a loss would choose",
        "relapse": "Fine, bad, and fine again",
    }
    return [
        _per_arm(study, name, titles[name], columns, notes)
        for name, columns, notes in (
            ("fluctuation", fluctuation, about_fluctuation),
            ("selection", selection, [about_selection]),
            ("ranks", ranks, [about_ranks]),
            ("regret", regret, [about_regret]),
            ("relapse", relapse, [about_relapse]),
        )
    ]


def _shares(study: Analysis) -> Table:
    def share(row: dict, axis: str) -> str:
        value = 100 * row[f"{axis}_share"]
        return f"{value:.0f} %" if math.isfinite(value) else DASH

    def total(row: dict) -> str:
        parts = [max(row[axis], 0.0) for axis in AXES if math.isfinite(row[axis])]
        return rounded(percent_sd(sum(parts)), 1)

    sizes = ("arms", "seeds", "epochs", "eval_sets")
    columns = [
        _text("where"),
        Column(" × ".join(sizes), lambda row: " × ".join(str(row[name]) for name in sizes)),
        *(Column(axis, lambda row, axis=axis: share(row, axis)) for axis in AXES),
        Column("SD of all, %", total),
    ]
    notes = [
        f"Shares of the variance of log {PRIMARY} after burn-in: between arms, between seeds of an "
        "arm, between epochs of a run (a trend is part of it), between evaluations of an epoch. "
        "Moment estimators of a crossed design; a negative one counts as 0."
    ]
    title = f"Where the variance of {PRIMARY} lies"
    return Table("shares", title, study.shares, columns, notes, [PRIMARY])


def _reach(study: Analysis) -> Table:
    def mean(clock: str) -> Callable[[dict], str]:
        return lambda row: rounded(row[clock], 0) if row[clock] > 0 else DASH

    columns = [
        *_arm(study, seeds=False),
        _number(PRIMARY, "threshold"),
        Column("runs that reach it", lambda row: f"{row['reached']} of {row['runs']}"),
        Column("images", mean("images")),
        Column("updates", mean("steps")),
    ]
    notes = [
        f"Images shown to D, and updates, until {PRIMARY} first falls to a threshold "
        f"({join([*map(str, THRESHOLDS)])}): geometric means over seeds, linear between epochs in "
        "the logarithm. Where a run has not come so far by its last epoch there is no mean."
    ]
    title = f"How long it takes until {PRIMARY} falls to a threshold"
    return Table("reach", title, study.reach, columns, notes, [PRIMARY])


def _per_arm(
    study: Analysis, name: str, title: str, columns: dict[str, tuple], notes: list[str]
) -> Table:
    """Means over the seeds of each arm with their intervals; what was not measured is left out.

    `columns`: of the table of runs of that name -> heading, decimals and scale.
    """
    runs, seeds = getattr(study, name), study.plan["seed"].nunique()
    columns = {key: about for key, about in columns.items() if runs[key].notna().any()}
    frame = study.by_arm(runs.dropna(subset=[*columns], how="all"), list(columns))
    cells = [_interval(text, key, *how) for key, (text, *how) in columns.items()]
    notes = [*notes, *([INTERVALS] if seeds > 1 else []), *_few(seeds)]
    frame = frame if columns else frame[:0]
    return Table(name, title, frame, [*_arm(study), *cells], notes, [PRIMARY])


def _analyses(study: Analysis) -> list[Table]:
    """A table for each analysis of `python -m eval`: a row per number, a column per arm."""
    plan, tables = study.plan.set_index("run"), []
    for name in sorted(study.analyses, key=[*ANALYSES, *study.analyses].index):
        runs = study.analyses[name]
        titles = {key: text for result in runs.values() for key, text in result["titles"].items()}
        notes = [*dict.fromkeys(note for result in runs.values() for note in result["notes"])]
        numbers = pd.DataFrame({run: result["values"] for run, result in runs.items()})
        numbers = numbers.T.astype(float).assign(run=list(runs))
        arms = {arm: study.of_arm(numbers, arm) for arm in study.arms}
        arms = {arm: rows for arm, rows in arms.items() if len(rows)}
        frame = pd.DataFrame({"number": list(titles), "title": list(titles.values())})
        for arm, rows in arms.items():
            for end, part in {"": "mean", " sd": "std", " n": "count"}.items():
                values = getattr(rows[list(titles)], part)()
                frame[arm_name(study, arm) + end] = values.to_numpy()
        columns = [_text("title", "number", "word")]
        columns += [_result(arm_name(study, arm), len(rows)) for arm, rows in arms.items()]
        seeds = plan.loc[list(runs), "seed"].nunique()
        notes = [SPREAD, *notes] if seeds > 1 else notes
        tables.append(Table(name, ANALYSES.get(name, name), frame, columns, notes))
    return tables


def _result(arm: str, runs: int) -> Column:
    """The mean over seeds and its standard deviation, to four digits of the mean."""

    def cell(row: dict) -> str:
        mean, number = row[arm], row[f"{arm} n"]
        if not number:
            return DASH
        few = f" (n = {number})" if number < runs else ""
        return spread(mean, row[f"{arm} sd"], _decimals(mean, 4)) + few

    return Column(f"{arm} ({count(runs, 'seed')})", cell)


def _audit(study: Analysis) -> list[Table]:
    """The answers of the audit of the scorer, then each of its tables."""
    audit = study.audit
    if audit is None:
        return []
    notes = [f"{audit['images']:,} images of {audit['run']} after epoch {audit['epoch']}."]
    columns = [_text("question"), _text("answer", kind="prose")]
    title = "Whether the score measures what it should"
    tables = [Table("audit", title, audit["answers"], columns, notes)]
    for table in audit["tables"]:
        frame = table["frame"]
        columns = [_significant(frame, name, table["digits"]) for name in frame]
        name = f"audit-{table['name']}"
        tables.append(Table(name, table["title"], frame, columns, table["notes"]))
    return tables


def _significant(frame: pd.DataFrame, name: str, number: int) -> Column:
    """Cells with so many digits; a whole number stays one although its column has others."""
    strings = all(isinstance(cell, str) for cell in frame[name])
    return Column(name, lambda row: significant(row[name], number), "word" if strings else "number")


def _percent_above(logarithm: float) -> float:
    """A difference of logarithms in percent that cannot be below 0, whatever its interval says."""
    return percent_more(max(logarithm, 0.0))


def _correlation(value: float) -> float:
    return min(max(value, -1.0), 1.0)
