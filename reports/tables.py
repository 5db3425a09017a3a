"""Every table of a report, and how each number is rounded and written: here and nowhere else.

A table is a frame in full precision, columns that say how a row of it is shown, and notes. Each is
written as CSV and LaTeX, and shown on the page and in README.md.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import yaml

from dcgan.layers import layers
from eval.metrics import CALIBRATION, NEIGHBOUR_METRICS
from reports import claims
from reports.analysis import LEARNT, RELAPSE, Analysis, arm_name, effect_numbers, no_verdict
from reports.claims import Verdict
from reports.records import PRIMARY, Study, calibrated
from reports.statistics import Effect, Estimate, burn_in, percent_sd

INCEPTION = {"fid": "FID", "is": "IS", "kid": "KID"}  # these names mean Inception, nothing else
SCORES = ("last", "fidelity", "reestimated")  # tables at the last epoch
LOSSES = {"d_loss": "D loss", "g_loss": "G loss"}
PROSE = {  # levels as a reader knows them; `key` alone stands for every level of a factor
    "norm=batch": "output BatchNorm",
    "norm=none": "no output BatchNorm",
    "head=avgpool": "average-pool head",
    "head=conv": "convolutional head",
    "batch": "batch {}",
    "arm": "{}",
}
FACTORS = {"norm": "output norm", "batch": "batch size"}  # as a heading has them
SPREAD = "Mean ± standard deviation over seeds."
OF_SOME_SEEDS = "(k of n): k of n seeds have a number; others diverged or have no score."
OF_DEAD_ARMS = (
    "Arms that have learnt nothing all score about the same. Means over them understate what the "
    "other factors do; a ratio to them, and an interaction with what kept them from learning, say "
    "how far the other arms have come."
)
DASH = "–"
TEXTS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
LINE = 80  # characters of small print on a line of LaTeX
PACKAGES = ("array", "booktabs", "longtable")  # of LaTeX that a table needs


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
    details: Sequence[dict[str, str]] = ()  # of each row, on the page alone, for those who open it
    legend: str = ""  # what the cells mean, to be read before the rows

    @property
    def headings(self) -> list[str]:
        return [column.heading for column in self.columns]

    @cached_property
    def rows(self) -> list[list[str]]:
        """Every cell as a reader sees it; those of `below` are not among them."""
        return [[x.cell(row) for x in self.columns] for row in self.frame.to_dict("records")]


def report(study: Analysis, verdicts: list[Verdict]) -> list[Table]:
    """Every table in reading order; those that have nothing to say are not there."""
    analyses = sorted(study.analyses, key=[*TEXTS, *study.analyses].index)
    tables = [
        _named_arms(study),
        *(_effects(study, metric) for metric in study.last_effects),
        _table(study, "batch", study.batch_effects, [], _seed_notes(study.batch_effects)),
        *_scores(study),
        _agreement(study),
        _table(study, "losses", study.losses, _arm(study)),
        ledger(study, verdicts),
        *(_per_arm(study, x) for x in ("fluctuation", "selection", "ranks", "regret", "relapse")),
        _table(study, "shares", study.shares),
        _table(study, "reach", study.reach, _arm(study, seeds=False)),
        *([_layers(study)] if study.config.model == "dcgan" else []),
        *(_analysis(study, name) for name in analyses),
    ]
    return [table for table in tables if len(table.frame)]


def _table(
    study: Analysis,
    name: str,
    frame: pd.DataFrame,
    columns: Sequence[Column] = (),
    notes: Iterable[str] = (),
    metric: str = PRIMARY,
    **more: Sequence,
) -> Table:
    """A table with title, first notes and last columns from tables.yaml.

    A column there of which the frame has nothing is left out.
    """
    epochs = int(study.planned.max())
    start = burn_in(epochs)
    facts = {"primary": PRIMARY, "metric": label(metric), "pilot": claims.PILOT}
    facts |= {"learnt": LEARNT, "relapse": RELAPSE, "alpha": claims.ALPHA}
    facts |= {"burn_in": count(start, "epoch"), "lag": -2 / max(1, epochs - start)}
    texts = TEXTS[name.removesuffix(f"-{metric}")]
    title, *first = (text.format(**facts) for text in (texts["title"], *texts["notes"]))
    usual = decimals_of(study.last.get(metric, pd.Series(dtype=float)))
    for key, (heading, kind, *how) in texts.get("columns", {}).items():
        if key in frame and frame[key].notna().any():
            how = [usual if x is None else x for x in how]
            columns = [*columns, column(key, heading.format(**facts), kind, *how)]
    said = [*first, *filter(None, notes)]
    more = {"metrics": [metric], "legend": texts.get("legend", "").format(**facts)} | more
    return Table(name, title, frame, columns, said, **more)


def write(study: Analysis, tables: list[Table], out: Path) -> list[Path]:
    """Write tables.tex and one CSV file per table; returns the paths."""
    out.mkdir(parents=True, exist_ok=True)
    as_csv = {"index": False, "float_format": "%.6g", "lineterminator": "\n"}
    machines = machine_lines(study)
    latex = [to_latex(table, caption(study, table.metrics) + machines) for table in tables]
    files = {
        "tables.tex": "\n".join([f"% Needs \\usepackage{{{','.join(PACKAGES)}}}.\n", *latex]),
        **{f"{table.name}.csv": table.frame.to_csv(**as_csv) for table in tables},
    }
    for name, text in files.items():
        (out / name).write_text(text, encoding="utf-8")
    return [out / name for name in files]


# How a table is written.


def to_markdown(table: Table) -> str:
    """The rows of a table in GitHub's Markdown; numbers are set right."""
    width = len(table.columns)
    below = [[name, *[""] * (width - 1 - len(cells)), *cells] for name, *cells in table.below]
    rule = ["---:" if column.kind == "number" else "---" for column in table.columns]
    head, *rows = [[*map(escape_markdown, row)] for row in [table.headings, *table.rows, *below]]
    lines = ["| " + " | ".join(row) + " |" for row in (head, rule, *rows)]
    return "\n".join(lines)


def escape_markdown(text: str) -> str:
    """What Markdown would read as a command; an underscore within a word is none."""
    return "".join("\\" + character if character in "\\`*|<>" else character for character in text)


def to_latex(table: Table, caption: Iterable[str] = ()) -> str:
    """A table that may go over several pages; the document needs PACKAGES."""
    width = len(table.columns)
    below = [
        rf"\multicolumn{{{width - len(cells)}}}{{l}}{{{_latex(name)}}} & {_latex_row(cells)}"
        for name, *cells in table.below
    ]
    parts = [
        r"{\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\begin{{longtable}}{{{_latex_columns(table)}}}",
        rf"\caption{{{_latex(table.title)}}}\label{{tab:{table.name}}}\\",
        r"\toprule",
        _latex_row(table.headings),
        r"\midrule\endhead",
        *map(_latex_row, table.rows),
        *[r"\midrule"] * bool(below),
        *below,
        r"\bottomrule",
        r"\end{longtable}",
        r"\par\smallskip\raggedright",
        _latex(" ".join(filter(None, [table.legend, *table.notes, *caption]))),
        r"\par}",
    ]
    return "\n".join(parts) + "\n"


def _latex_row(cells: list[str]) -> str:
    return " & ".join(map(_latex, cells)) + r" \\"


def _latex_columns(table: Table) -> str:
    """The columns of a table that fits the page: the widest become paragraphs, alike wide.

    None is narrower than its longest word, which LaTeX would print over the next column.
    """
    cells = [*zip(table.headings, *table.rows, strict=True)]
    sizes = np.array([max(map(len, column)) for column in cells])
    unbroken = [" ".join(column).replace("_", "_ ").split() for column in cells]
    words = np.array([max(map(len, x), default=0) + 1 for x in unbroken])  # 1: for wide letters
    options = [np.maximum(np.minimum(sizes, x), words) for x in range(sizes.max(), -1, -1)]
    fitting = (x for x in options if x.sum() <= LINE - 2 * len(sizes))
    widths = next(fitting, options[-1])
    parts = []
    for column, size, width in zip(table.columns, sizes, widths, strict=True):
        letter, side = ("r", "left") if column.kind == "number" else ("l", "right")
        wide = rf">{{\ragged{side}\arraybackslash}}p{{{width / 2:g}em}}"
        parts.append(letter if size <= width else wide)
    return "".join(parts)


LATEX = {character: f"\\{character}" for character in "{}%&#$"} | {
    "\\": r"\textbackslash{}",
    "_": r"\_\allowbreak{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    DASH: "--",
}


def _latex(text: str) -> str:
    """What LaTeX would read as a command, and what we use beyond ASCII, as LaTeX writes it."""
    return text.translate(str.maketrans(LATEX))


# How a cell is written.


def rounded(value: float, decimals: int) -> str:
    """`1,234.50`; a dash for what is not finite."""
    return f"{value:z,.{decimals}f}" if math.isfinite(value) else DASH


def decimals_for(value: float, digits: int = 3) -> int:
    """The decimals that show so many significant digits of a number."""
    exponent = f"{value:.{digits - 1}e}".partition("e")[2]
    return max(0, digits - 1 - int(exponent or 0))


def significant(value: float, digits: int = 3) -> str:
    """So many significant digits; very small numbers keep a power of ten."""
    tiny = 0 < abs(value) < 1e-4
    return f"{value:.1e}" if tiny else rounded(value, decimals_for(value, digits))


def spread(mean: float, sd: float, decimals: int) -> str:
    """`12.3 ± 0.4`, or `12.3` where one seed has no standard deviation."""
    return rounded(mean, decimals) + (f" ± {rounded(sd, decimals)}" if math.isfinite(sd) else "")


def interval(value: float, low: float, high: float, decimals: int, unit: str = "") -> str:
    """`1.28 (1.22 to 1.35)`, `4.8 % (4.4 to 5.2 %)`, or `1.28` where there is no interval."""
    ends = f" ({rounded(low, decimals)} to {rounded(high, decimals)}{unit})"
    return rounded(value, decimals) + unit + (ends if math.isfinite(low) else "")


def span(low: float, high: float, decimals: int) -> str:
    """`1.22 to 1.35`, or `1.22` where both ends are written alike."""
    return " to ".join(dict.fromkeys([rounded(low, decimals), rounded(high, decimals)]))


def p_value(p: float) -> str:
    """Three decimals, four below 0.01, and `< 0.0001` where these would be zeros."""
    return "< 0.0001" if p < 0.0001 else rounded(p, 4 if p < 0.01 else 3)


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def ranges(numbers: Iterable[int]) -> str:
    """[0, 1, 2, 5, 6] -> "0 to 2, 5, 6"."""
    numbers = pd.Series(sorted(numbers))
    runs = numbers.groupby(numbers - numbers.index)  # equal along a run of successive numbers
    parts = [[f"{x.min()} to {x.max()}"] if len(x) > 2 else x.astype(str) for _, x in runs]
    return ", ".join(itertools.chain(*parts))


def seeds_in_words(seeds: Sequence[int]) -> str:
    """`seed 3`, `seeds 0 to 2, 5`."""
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {ranges(seeds)}"


def prose(factor: str, level: object) -> str:
    """A level as a reader knows it, `factor=level` where nobody has named it."""
    name = f"{factor}={level}"
    return PROSE.get(name, PROSE.get(factor, name)).format(level)


def effect_text(effect: Effect) -> str:
    """`output BatchNorm`, `batch 512 against 128`, `output norm × batch size`."""
    if len(effect.factors) > 1:
        return " × ".join(FACTORS.get(x, x) for x in effect.name.split(" × "))
    ((factor, (low, high)),) = effect.levels.items()
    text = prose(factor, high)
    return text if f"{factor}={high}" in PROSE else f"{text} against {low}"


def label(metric: str) -> str:
    """The name of a metric as a reader knows it."""
    return INCEPTION.get(metric, metric)


def table_of(metric: str) -> str:
    """The table of scores that a metric stands in, one of SCORES; "" for the records alone."""
    of_neighbours = metric.partition("_")[0] in NEIGHBOUR_METRICS
    if metric.endswith("_reestimated"):
        return "" if of_neighbours else "reestimated"
    return "fidelity" if of_neighbours else "last"


def decimals_of(values: pd.Series) -> int:
    """Decimals for a whole column: three digits of its smallest number, from 1 to 4."""
    sizes = values[values != 0].abs()
    return min(4, max(1, decimals_for(sizes.min())))


def percent_more(logarithm: float) -> float:
    """A difference of logarithms as a change in percent."""
    return 100 * math.expm1(logarithm)


SCALES: dict[str, Callable[[float], float]] = {  # of a column in tables.yaml
    "plain": float,
    "percent": lambda x: 100 * x,
    "exponential": np.exp,
    "root": math.sqrt,
    "percent_sd": percent_sd,
    "percent_more": percent_more,
    "percent_above": lambda x: percent_more(max(x, 0.0)),  # a mean may be near 0, its interval not
    "correlation": lambda x: min(max(x, -1.0), 1.0),
}


def column(
    key: str, heading: str = "", kind: str = "word", how: int | str = 0, scale: str = "plain"
) -> Column:
    """A column that shows `key` of a row; see tables.yaml.

    `how`: the decimals, or a text with keys of the row in braces.
    """

    def scaled(row: dict, *ends: str) -> list[float]:
        return [SCALES[scale](row[key + end]) for end in ends]

    cells: dict[str, Callable[[dict], str]] = {
        "word": lambda row: str(row[key]),
        "prose": lambda row: str(row[key]),
        "number": lambda row: rounded(*scaled(row, ""), how),
        "interval": lambda row: interval(*scaled(row, "", "_low", "_high"), how),
        "spread": lambda row: spread(*scaled(row, "", "_sd"), how),
        "p": lambda row: p_value(row[key]),
    }
    cell = (lambda row: how.format(**row)) if isinstance(how, str) else cells[kind]
    return Column(heading or key, cell, kind if kind in ("word", "prose") else "number")


def _arm(study: Analysis, *, seeds: bool = True) -> list[Column]:
    """A column for each factor, and for the number of seeds."""
    numeric = [x for x in study.factors if pd.api.types.is_numeric_dtype(study.plan[x])]
    kinds = {x: "number" if x in numeric else "word" for x in study.factors}
    columns = [column(x, FACTORS.get(x, x), kind) for x, kind in kinds.items()]
    return [*columns, column("seeds", kind="number")] if seeds else columns


# What stands under every table.


def caption(study: Analysis, metrics: Iterable[str] | None = None) -> list[str]:
    """Lines on data, runs, identities (of `metrics`; None: of all), code and last machine."""
    info, data, hardware = study.info, study.info["data"], study.info["hardware"]
    drawn = ", images drawn by the code itself, not photographs" if data["kind"] == "shapes" else ""
    seeds, runs = set(study.plan["seed"]), len(study.plan)
    versions = ", ".join(f"{name} {version}" for name, version in info["versions"].items())
    return [
        f"Data: {data['name']}{drawn}; {study.config.images:,} of {data['images']:,} images for "
        f"training, {data['resolution']}×{data['resolution']} (SHA-256 {data['sha256'][:12]}).",
        f"Study: {info['study']}, scale {info['scale']}; {count(len(study.arms), 'arm')}, "
        f"{count(len(seeds), 'seed')} ({ranges(seeds)}), {count(study.planned.max(), 'epoch')}; "
        f"{runs - len(study.missing)} of {count(runs, 'run')} finished.",
        *missing_lines(study),
        *identity_lines(study, metrics),
        f"Code: commit {info['commit']}. "
        f"Last started on: {hardware['processor']}, {hardware['device']}, "
        f"{count(hardware['cores'], 'core')}, {count(hardware['jobs'], 'run')} at a time, "
        f"{count(hardware['threads'], 'thread')} each. Versions: {versions}.",
    ]


def machine_lines(study: Study) -> list[str]:
    """Where bits depend on what was not the same for all runs: what it was, and of which runs."""
    machines = study.machines.fillna("unknown")
    differing = machines.loc[:, machines.nunique() > 1]
    if differing.empty:
        return []
    parts = []
    for values, rows in differing.groupby(list(differing)):
        names = (f"{key} {value}" for key, value in zip(differing, values, strict=True))
        parts.append(f"{', '.join(names)}: {_which(study, rows.index)}")
    return [
        "Runs of this study differ in what the last bits of their numbers depend on: "
        f"{'; '.join(parts)}. Where a seed is divided, its pairs were not all made alike."
    ]


def _which(study: Study, runs: pd.Index) -> str:
    """`seeds 0, 2 to 7, seed 1 with norm=none`."""
    whole, parts = [], []
    for seed, rows in study.plan.groupby("seed"):
        own = rows[rows["run"].isin(runs)]
        shared = [x for x in study.factors if own[x].nunique() == 1 < rows[x].nunique()]
        if len(own) == len(rows):
            whole.append(seed)
        elif shared and len(own) == (rows[shared] == own[shared].iloc[0]).all(axis=1).sum():
            parts.append(f"seed {seed} with " + ", ".join(f"{x}={own[x].iloc[0]}" for x in shared))
        elif len(own):
            parts.append(f"seed {seed} in {len(own)} of {len(rows)} arms")
    return ", ".join([*([seeds_in_words(whole)] if whole else []), *parts])


def missing_lines(study: Study) -> list[str]:
    """One sentence for each group of seeds of an arm that are not finished."""
    groups: dict[tuple, list[int]] = {}
    for run, *state in study.missing:
        arm, seed = run.rsplit("/seed=", 1)
        groups.setdefault((arm, *state), []).append(int(seed))
    return [
        f"Missing: {arm}, {seeds_in_words(seeds)}: {status}"
        + (f", {done} of {planned} epochs." if done else ".")
        for (arm, done, planned, status), seeds in groups.items()
    ]


def identity_lines(study: Study, metrics: Iterable[str] | None = None) -> list[str]:
    """One line for all metrics that share an identity, and one for what was not measured."""
    wanted = dict.fromkeys([*INCEPTION, *study.identities] if metrics is None else metrics)
    alike: dict[tuple, list[str]] = {}
    for metric in wanted:
        if metric in study.frame and metric in study.identities:
            identity = study.identities[metric].items() - {("metric", metric)}
            alike.setdefault(tuple(sorted(identity)), []).append(label(metric))
    lines = []
    for identity, names in alike.items():
        x = dict(identity)
        network = _network(x, f", SHA-256 {x['reference_sha256'][:12]}")
        lines.append(
            f"{', '.join(names)}: {network}, resizer: {x['resizer']}, quantiser: "
            f"{x['quantiser']}, BatchNorm of G: {x['batchnorm']}, {x['implementation']}."
        )
    absent = [INCEPTION[x] for x in wanted if x in INCEPTION and x not in study.frame]
    if absent:
        lines.append(f"{', '.join(absent)}: not measured (without Inception's published weights).")
    return lines


def short_identity(study: Study, metric: str) -> str:
    """What a metric is, in a sentence for a caption."""
    return f"{label(metric)}: on {_network(study.identities[metric])}."


def _network(x: dict, of_split: str = "") -> str:
    """The network, and the two sets of images that a score compares."""
    against = f" against {x['reference']:,} real images ({x['split']} split{of_split})"
    return (
        f"{x['network']} (SHA-256 {x['network_sha256'][:12]}), "
        f"{x['generated']:,} generated{against if x['reference'] else ' images'}, "
        f"{x['resolution']}×{x['resolution']}"
    )


# The tables: effects.


def _named_arms(study: Analysis) -> Table:
    """What each named arm sets."""
    rows = [
        (arm, ", ".join(f"{key}={x}" for key, x in own.items()) or "nothing")
        for arm, own in study.info.get("arms", {}).items()
        if (arm,) in study.arms
    ]
    return _table(study, "arms", pd.DataFrame(rows, columns=["arm", "sets"]))


def _effects(study: Analysis, metric: str) -> Table:
    frame = pd.DataFrame(
        {"where": where, "name": name} | effect_numbers(effect)
        for name, (where, effect) in effects_by_name(study, metric).items()
    )
    name = "effects" if metric == PRIMARY else f"effects-{metric}"
    notes = [*[OF_DEAD_ARMS] * (len(study.learnt) < len(study.arms)), *_seed_notes(frame)]
    return _table(study, name, frame, [], notes, metric)


def effects_by_name(study: Analysis, metric: str = PRIMARY) -> dict[str, tuple[str, Effect]]:
    """The effects at the last epoch, by name, and of which arms: "all" or "norm=none".

    Main effects; of the primary metric also those of the arms with a level of the first factor that
    lets something be learnt, if another does not; interactions.
    """
    every = {effect_text(x): ("all", x) for x in study.last_effects[metric]}
    main = {name: named for name, named in every.items() if len(named[1].factors) == 1}
    first, partial = study.factors[0], {}
    alive = study.learning_levels if metric == PRIMARY else []
    for level in alive if len(alive) < len(study.levels[first]) else []:
        where = f"{first}={level}"
        partial |= {
            f"{effect_text(effect)}, {prose(first, level)}": (where, effect)
            for effect in study.partial_effects["epochs", where]
            if len(effect.factors) == 1
        }
    return main | partial | every


def _seed_notes(frame: pd.DataFrame) -> list[str]:
    """Which seeds were left out, and why there is no verdict where they are too few."""
    if not len(frame):
        return []
    dropped = sorted({int(seed) for text in frame["dropped"] for seed in text.split()})
    why = "Left out whole, for some cell is not there or not finite: seed"
    left_out = f"{why} {join([*map(str, dropped)])}." if dropped else ""
    return [left_out, no_verdict(int(frame["n"].min()))]


# The tables: scores.


def _scores(study: Analysis) -> list[Table]:
    """Scores at the last, at the best and at fixed epochs; precision, recall and the like."""
    last, best = study.scores("last"), study.scores("best")
    named = {name: [x for x in study.measured if table_of(x) == name] for name in SCORES}
    every = [x for x in named["last"] if study.measured[x] == study.measured.get(PRIMARY)]
    dates = Column("epoch", lambda row: row["epochs"].replace(" ", ", ") or DASH)
    moving = [x for x in ("fid", PRIMARY) if study.measured.get(x, 0) > 1]
    epochs, fixed = study.fixed_epochs, last[study.factors]
    for epoch in epochs if moving else []:
        fixed = fixed.join(study.scores(epoch).drop(columns=study.factors).add_suffix(f"_{epoch}"))
    return [
        _score_table(study, "last", last, named["last"]),
        _score_table(study, "best", best, every, [dates]),
        *(_score_table(study, f"epochs-{x}", fixed, [x], epochs=epochs) for x in moving),
        *(_score_table(study, x, last, named[x]) for x in SCORES[1:] if named[x]),
    ]


def _agreement(study: Analysis) -> Table:
    judges = study.agreement.get("metric", pd.Series(dtype=str))
    frame = study.agreement.assign(name=judges.map(label))
    return _table(study, "agreement", frame, metrics=[PRIMARY, *judges])


def _score_table(
    study: Analysis,
    name: str,
    scores: pd.DataFrame,
    metrics: list[str],
    more: Sequence[Column] = (),
    epochs: Sequence[int] = (),
) -> Table:
    """The metrics that any arm has, a row for each arm; below, images that no training made.

    `epochs`: of which `scores` has columns (`fd_cifar_20`); without them a metric has one.
    """
    ends = [f"_{epoch}" for epoch in epochs] or [""]
    metrics = [x for x in metrics if scores[[x + end for end in ends]].notna().any(axis=None)]
    metrics = metrics or [PRIMARY]
    own = ["seeds", "diverged", *["epochs"] * (not epochs)]
    own += [metric + moment for metric in metrics for moment in ("", "_sd", "_n")]
    frame = scores.reindex(columns=[*study.factors, *(x + end for end in ends for x in own)])

    cells = [(metric, end) for metric in metrics for end in ends]
    decimals = {x: decimals_of(frame[[x + end for end in ends]].stack()) for x in metrics}
    columns = [*_arm(study, seeds=not epochs), *more]
    columns += [_score_column(metric, end, decimals[metric]) for metric, end in cells]
    known = pd.DataFrame({metric: calibrated(study, metric) for metric in metrics})
    below = [
        [CALIBRATION[images], *(significant(row[metric]) for metric, _ in cells)]
        for images, row in known.reindex(CALIBRATION).dropna(how="all").iterrows()
    ]
    some = any((frame[f"{x}_n{end}"] < frame[f"seeds{end}"]).any() for x, end in cells)
    notes = [SPREAD, OF_SOME_SEEDS * some]
    if below:
        text = TEXTS["calibration" if name == SCORES[0] else "calibration again"]
        notes.append(text.format(rows=len(below), **study.calibration.attrs))
    return _table(study, name, frame, columns, notes, metrics[-1], below=below, metrics=metrics)


def _score_column(metric: str, end: str, decimals: int) -> Column:
    """A number with its spread, or why there is none."""

    def cell(row: dict) -> str:
        finite, seeds = row[f"{metric}_n{end}"], row[f"seeds{end}"]
        if finite > 0:
            text = spread(row[f"{metric}{end}"], row[f"{metric}_sd{end}"], decimals)
            return text if finite == seeds else f"{text} ({finite} of {seeds})"
        if row[f"diverged{end}"]:
            return "diverged"
        return "not measured" if seeds else "not yet"

    heading = f"epoch {end[1:]}" if end else label(metric).removesuffix("_reestimated")
    return Column(heading, cell)


# The tables: claims.


def ledger(study: Analysis, verdicts: list[Verdict]) -> Table:
    """Every claim with its verdict."""
    judged = {verdict.claim.id: verdict for verdict in verdicts}
    estimate = Column("estimate (95 % interval)", lambda row: _claim_estimate(judged[row["id"]]))
    p = Column("p", lambda row: _claim_p(judged[row["id"]]))
    columns = [column("id"), column("claim", kind="prose"), column("status"), column("verdict")]
    columns += [estimate, p] if any(_claim_p(x) != DASH for x in verdicts) else [estimate]
    details = [_claim_details(verdict) for verdict in verdicts]
    notes = _claims_history(study, verdicts)
    metrics = list(dict.fromkeys(x.claim.metric for x in verdicts if x.identity))
    frame = pd.DataFrame([_ledger_row(x) for x in verdicts])
    return _table(study, "ledger", frame, columns, notes, details=details, metrics=metrics)


def _ledger_row(verdict: Verdict) -> dict[str, object]:
    """One claim in full precision, with the folders of its runs."""
    own = ("id", "claim", "hypothesis", "status", "expect", "smallest", "metric")
    estimate = verdict.estimate or Estimate(*[math.nan] * 5, 0)
    return {
        **{key: getattr(verdict.claim, key) for key in own},
        "verdict": verdict.verdict,
        "why": verdict.why,
        "estimate": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "unit": verdict.scale.unit if verdict.estimate else "",
        "p": verdict.p,
        "p_holm": verdict.p_holm,
        "p_flip": estimate.p_flip,
        "n": verdict.n,
        "network_sha256": (verdict.identity or {}).get("network_sha256"),
        "runs": " ".join(verdict.runs),
    }


def _claim_details(verdict: Verdict) -> dict[str, str]:
    """What stands behind a verdict, as far as there is any."""
    claim = verdict.claim
    unit = "" if claim.measure == "bound" else f" {verdict.scale.unit}"
    details = {
        "source": claim.place,
        "hypothesis": claim.hypothesis,
        "smallest effect of interest": f"{claim.smallest:g}{unit}. {claim.reason}",
        "why this verdict": verdict.why,
        "p": _claim_p(verdict).strip(DASH),
        "seeds": str(verdict.n or ""),
    }
    return {heading: text for heading, text in details.items() if text}


def _claim_estimate(verdict: Verdict) -> str:
    """`1.28 (1.10 to 1.49) times`; `0.250 of runs` where all seeds agree; a dash for none."""
    x, unit, decimals = verdict.estimate, verdict.scale.unit, verdict.scale.decimals
    if x is None:
        return DASH
    if verdict.scale is claims.RATIO:
        decimals = decimals_for(x.value)
    if verdict.claim.measure == "bound":
        return f"{span(x.low, x.high, decimals)}, {unit}"
    low = math.nan if verdict.seeds_agree else x.low
    return f"{interval(x.value, low, x.high, decimals)} {unit}"


def _claim_p(verdict: Verdict) -> str:
    """The p that a verdict stands on; a dash where there is none or all seeds agree."""
    return DASH if verdict.seeds_agree else p_value(verdict.decisive_p)


def _claims_history(study: Analysis, verdicts: list[Verdict]) -> list[str]:
    """Whether the verdicts need the pilot's seed, and whether the claims are still those."""
    before, again = {x.claim.id: x.verdict for x in verdicts}, claims.without_pilot(study, verdicts)
    changed = [x for x in again if x.verdict != before[x.claim.id]]
    text = f"Without seed {claims.PILOT}, which had been looked at, the verdict is the same for "
    text += f"{len(again) - len(changed)} of the {len(again)} claims that were run."
    text += "".join(
        f" {x.claim.id} is then {x.verdict}, not {before[x.claim.id]}." for x in changed
    )
    decided = {*before.values()} & {*claims.DECIDED}
    if not (frozen := study.info.get("claims")):
        written = "study.json names no commit of the claims."
    else:
        added = claims.added_since(frozen["sha256"])
        used = "another one" if added is None else "that file"
        if added:
            used += f", at whose end {join(added)} came later"
        written = (
            f"The study started with the claims of commit {frozen['commit']}, {frozen['date']} "
            f"(claims.yaml, SHA-256 {frozen['sha256'][:12]}); the verdicts use {used}."
        )
    dead = OF_DEAD_ARMS * (len(study.learnt) < len(study.arms))
    return [dead, text * bool(again and decided), written]


# The tables: from epoch to epoch.


def _per_arm(study: Analysis, name: str) -> Table:
    """Means over the seeds of each arm with their intervals; what was not measured is left out."""
    runs, means = getattr(study, name), [*TEXTS[name]["columns"]]
    frame = study.by_arm(runs.dropna(subset=means, how="all"), means)
    return _table(study, name, frame, _arm(study), [no_verdict(study.plan["seed"].nunique())])


def _layers(study: Analysis) -> Table:
    """The layers of the first arm's networks, and how many parameters each network has."""
    frame = pd.DataFrame(layers(study.config))
    totals = frame.groupby("network", sort=False)["parameters"].sum()
    below = [[f"{name} in all", rounded(total, 0)] for name, total in totals.items()]
    return _table(study, "layers", frame, metrics=[], below=below)


# The tables: what `python -m eval` measured.


def analysis_title(name: str) -> str:
    """What an analysis is about; one that tables.yaml does not know has its name."""
    return TEXTS.get(name, {"title": name})["title"]


def _analysis(study: Analysis, name: str) -> Table:
    """A row for each number of an analysis, a column for each arm."""
    runs = study.analyses[name]
    titles = {key: text for result in runs.values() for key, text in result["titles"].items()}
    notes = [*dict.fromkeys(note for result in runs.values() for note in result["notes"])]
    numbers = study.results.loc[list(runs), [f"{name}/{key}" for key in titles]]
    frame = pd.DataFrame({"number": list(titles), "title": list(titles.values())})
    columns = [column("title", "quantity")]
    for arm in study.arms:
        rows = numbers[numbers.index.isin(study.runs_of[arm])]
        if len(rows):
            text = arm_name(study, arm)
            frame[text] = rows.mean().to_numpy()
            frame[f"{text} sd"] = rows.std().to_numpy()
            frame[f"{text} n"] = rows.count().to_numpy()
            columns.append(_result(text, len(rows)))
    return Table(name, analysis_title(name), frame, columns, [SPREAD, *notes])


def _result(arm: str, runs: int) -> Column:
    """The mean over seeds and its standard deviation, to two digits of that or four of the mean."""

    def cell(row: dict) -> str:
        mean, number = row[arm], row[f"{arm} n"]
        few = f" (n = {number})" if 0 < number < runs else ""
        sd = row[f"{arm} sd"]
        varies = sd > 1e-9 * abs(mean)
        return spread(mean, sd, decimals_for(sd, 2) if varies else decimals_for(mean, 4)) + few

    return Column(f"{arm} ({count(runs, 'seed')})", cell)
