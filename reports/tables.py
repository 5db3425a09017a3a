"""The tables of scores, and how every number is rounded and written: here and nowhere else."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dcgan.config import Config
from reports.records import (
    OWN_CLASSES,
    PRIMARY,
    Study,
    best_epochs,
    calibrated,
    first_config,
    last_epochs,
    levels,
    measured,
    number_columns,
)

FID_METRICS = ["fid", "is", "kid", "fd_cifar", "cs_cifar", "kd_cifar"]
FIDELITY_METRICS = ["precision_cifar", "recall_cifar", "density_cifar", "coverage_cifar"]
INCEPTION = {"fid": "FID", "is": "IS", "kid": "KID"}  # these names mean Inception, nothing else
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
TEXT = {name for name, x in Config.model_fields.items() if x.annotation not in (int, float)}
LN2 = math.log(2)
ROUNDING = 1e-6  # relative; a float32 loss may lie this far from the true one
SPREAD = "Mean ± standard deviation over seeds."
LATEX_LINE = 36  # characters; longer cells become paragraphs
DASH = "–"


@dataclass(frozen=True)
class Sheet:
    """One table as a reader sees it: every cell is a rounded string."""

    name: str  # a word, for file names and anchors
    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str]
    metrics: list[str]  # whose identities belong under it
    words: tuple[str, ...] = ()  # columns set left, beside the first, norm and head
    apart: int = 0  # so many rows at the end are not of arms; each has its name over empty cells


def fid_table(study: Study) -> pd.DataFrame:
    """Scores of every arm, in full precision; see `score_table`."""
    return score_table(study, FID_METRICS)


def fidelity_table(study: Study) -> pd.DataFrame:
    """Precision, recall, density and coverage of every arm; see `score_table`."""
    return score_table(study, FIDELITY_METRICS)


def score_table(study: Study, metrics: list[str]) -> pd.DataFrame:
    """One row per (`at`, arm), where `at` is "last", "best" or a fixed epoch as a word.

    Columns: the factors, `at`, `epochs` (of each seed), `seeds` (runs that got there), `diverged`
    (of these), and for each metric its mean, `<metric>_sd` (NaN below two) and `<metric>_n`, the
    number of seeds with a finite value. A metric that was never measured is NaN with n = 0; so is,
    at "best", one that was not measured at the best epoch of every seed.
    """
    points = {"last": _reached(study, None), "best": _best(study)}
    points |= {str(epoch): _reached(study, epoch) for epoch in fixed_epochs(study)}
    rows = []
    for at, frame in points.items():
        for arm in study.arms:
            runs = of_arm(study, frame, arm)
            row = dict(zip(study.factors, arm, strict=True)) | {
                "at": at,
                "epochs": " ".join(str(epoch) for epoch in runs["epoch"].dropna().astype(int)),
                "seeds": len(runs),
                "diverged": int((runs["status"] == "diverged").sum()),
            }
            for metric in metrics:
                values = runs[metric].dropna() if metric in runs else pd.Series(dtype="float64")
                if at == "best" and len(values) < row["seeds"] - row["diverged"]:
                    values = values.iloc[:0]
                row |= {metric: values.mean(), f"{metric}_sd": values.std(ddof=1)}
                row[f"{metric}_n"] = len(values)
            rows.append(row)
    return pd.DataFrame(rows)


def losses_table(study: Study) -> pd.DataFrame:
    """One row per arm: losses at the last epoch (mean, SD over seeds), lowest D loss of any step.

    `bound` is ln 2 where norm=batch: there the logits of the real and of the fake batch have the
    same mean, so that by Jensen's inequality D's loss, the mean of two softplus terms, is no lower.
    """
    rows = []
    for arm in study.arms:
        named = dict(zip(study.factors, arm, strict=True))
        runs = of_arm(study, _reached(study, None), arm)
        steps = of_arm(study, study.frame, arm)["d_loss_min"]
        bound = LN2 if (of_arm(study, study.plan, arm)["norm"] == "batch").all() else math.nan
        row = named | {"seeds": len(runs)}
        for loss in ("d_loss", "g_loss"):
            row |= {loss: runs[loss].mean(), f"{loss}_sd": runs[loss].std(ddof=1)}
        rows.append(row | {"lowest": steps.min(), "bound": bound})
    return pd.DataFrame(rows)


def throughput_table(study: Study) -> pd.DataFrame:
    """One row per batch size: training images a second of both heads, and avgpool over conv.

    None where the head is no factor of the study.

    `conv` and `avgpool` are medians over the runs, each of them the median over its epochs. The
    ratio is the geometric mean over pairs of runs that differ in the head alone.
    """
    if "head" not in study.factors:
        return pd.DataFrame()
    speeds = run_speeds(study)
    ratios = paired_ratios(study, speeds, "head", "conv", "avgpool", "images_per_second").dropna()
    batches, rows = study.plan.set_index("run")["batch"], []
    apart = "batch" in study.factors
    for batch in levels(study, "batch") if apart else [batches.iloc[0]]:
        here = speeds[speeds["run"].map(batches) == batch]
        pairs = ratios[ratios.index.get_level_values("batch") == batch] if apart else ratios
        medians = here.groupby("head")["images_per_second"].median()
        rows.append(
            {
                "batch": batch,
                "conv": medians.get("conv", math.nan),
                "avgpool": medians.get("avgpool", math.nan),
                "pairs": len(pairs),
                "ratio": geometric_mean(pairs),
                "ratio_lowest": pairs.min(),
                "ratio_highest": pairs.max(),
            }
        )
    return pd.DataFrame(rows)


def fixed_epochs(study: Study) -> list[int]:
    """The epochs that every table shows: 1, a quarter, half, all; the blog's from 50 on."""
    epochs = int(study.plan["planned"].max())
    blog = [1, 20, 30, 40, 50, epochs]
    return blog if epochs > 50 else sorted({max(1, epochs // x) for x in (epochs, 4, 2, 1)})


def sheets(study: Study) -> list[Sheet]:
    """The tables of scores, losses and speeds in reading order, rounded."""
    fid, fidelity = fid_table(study), fidelity_table(study)
    scores = FID_METRICS
    if not measured(study, INCEPTION):  # FID alone then says so, behind what was measured
        scores = [metric for metric in FID_METRICS if metric not in INCEPTION] + ["fid"]
    chosen = (
        f"The best epoch is chosen for each run by {PRIMARY}, on the very samples that are scored: "
        "an optimistic number."
    )
    result = [
        _score_sheet(study, fid, "last", scores, "last", "Scores at the last epoch", [SPREAD]),
        _score_sheet(
            study, fid, "best", scores, "best", "Scores at the best epoch", [SPREAD, chosen]
        ),
    ]
    trajectories = [name for name in ("fid", PRIMARY) if _epochs_measured(study, name) > 1]
    result += [_epochs_sheet(study, fid, metric, [SPREAD]) for metric in trajectories]
    if measured(study, FIDELITY_METRICS):
        for at, notes in (("last", [SPREAD]), ("best", [SPREAD, chosen])):
            title = f"Precision, recall, density, coverage at the {at} epoch"
            result.append(
                _score_sheet(study, fidelity, at, FIDELITY_METRICS, f"fidelity-{at}", title, notes)
            )
    speeds = [_throughput_sheet(study)] if "head" in study.factors else []
    return [*result, _losses_sheet(study), *speeds, *_arms_sheets(study)]


def caption(study: Study, metrics: Iterable[str] | None = None) -> list[str]:
    """What stands under every table: data, runs, identities, code, hardware; a line for each.

    `metrics` are those whose identities are wanted; None: all.
    """
    metrics = [*FID_METRICS, *study.identities] if metrics is None else list(metrics)
    info, data = study.info, study.info["data"]
    drawn = ", images drawn by the code itself, not photographs" if data["kind"] == "shapes" else ""
    drawn += ", in part stored with loss, as decoded" if data.get("lossy") else ""
    training = first_config(study).images
    seeds = sorted(set(study.plan["seed"]))
    finished = len(study.plan) - len(study.missing)
    lines = [
        f"Data: {data['name']}{drawn}; {training:,} of {data['images']:,} images for training, "
        f"{data['resolution']}×{data['resolution']} (SHA-256 {data['sha256'][:12]}).",
        f"Study: {info['study']}, scale {info['scale']}; {count(len(study.arms), 'arm')}, "
        f"{count(len(seeds), 'seed')} ({ranges(seeds)}), "
        f"{count(study.plan['planned'].max(), 'epoch')}; "
        f"{finished} of {count(len(study.plan), 'run')} finished.",
        *missing_lines(study),
        *_identity_lines(study, metrics),
    ]

    # Where and with what the numbers were made.
    hardware = info["hardware"]
    lines.append(
        f"Code: commit {info['commit']}. Hardware: {hardware['processor']}, {hardware['device']}, "
        f"{count(hardware['cores'], 'core')}, {count(hardware['jobs'], 'run')} at a time, "
        f"{count(hardware['threads'], 'thread')} each. Versions: "
        + ", ".join(f"{name} {version}" for name, version in info["versions"].items())
        + "."
    )
    if len(study.machines) > 1:
        keys = dict.fromkeys(key for one in study.machines for key in one)
        values = {key: dict.fromkeys(str(one.get(key)) for one in study.machines) for key in keys}
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


def to_markdown(sheet: Sheet, caption: Iterable[str] = ()) -> str:
    """One table in GitHub's Markdown; every column but the factors is set right."""
    cells = [[escape_markdown(cell) for cell in row] for row in [sheet.columns, *sheet.rows]]
    rule = ["---:" if is_number(sheet, i) else "---" for i in range(len(sheet.columns))]
    lines = ["| " + " | ".join(row) + " |" for row in (cells[0], rule, *cells[1:])]
    text = [escape_markdown(line) for line in (*sheet.notes, *caption)]
    return "\n".join([f"**{escape_markdown(sheet.title)}**", "", *lines, "", *paragraphs(text)])


def to_latex(sheet: Sheet, caption: Iterable[str] = ()) -> str:
    """One table environment; the document needs \\usepackage{booktabs}."""
    alignment = "".join("r" if is_number(sheet, i) else "l" for i in range(len(sheet.columns)))
    rows = [_latex_row(sheet, number) for number in range(len(sheet.rows))]
    text = " ".join([f"{sheet.title}.", *sheet.notes, *caption])
    lines = [
        r"\begin{table}",
        r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{_escape_latex(text)}}}",
        rf"\label{{tab:{sheet.name}}}",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        " & ".join(_escape_latex(name) for name in sheet.columns) + r" \\",
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def name_span(sheet: Sheet, number: int) -> int:
    """How many columns the first cell of a row takes: its own, or the empty ones behind it too."""
    row = sheet.rows[number]
    if number < len(sheet.rows) - sheet.apart:
        return 1
    return next((i for i in range(1, len(row)) if row[i]), len(row))


def _latex_row(sheet: Sheet, number: int) -> str:
    """One line of a table, with a rule above the first that is of no arm."""
    cells = [_escape_latex(cell) for cell in sheet.rows[number]]
    if (span := name_span(sheet, number)) > 1:
        cells = [rf"\multicolumn{{{span}}}{{l}}{{{cells[0]}}}", *cells[span:]]
    first = sheet.apart and number == len(sheet.rows) - sheet.apart
    return (r"\midrule" + "\n" if first else "") + " & ".join(cells) + r" \\"


def _latex_column(sheet: Sheet, column: int) -> str:
    """Numbers right, words left, and sentences in a paragraph."""
    if is_number(sheet, column):
        return "r"
    return "l" if all(len(row[column]) <= LATEX_LINE for row in sheet.rows) else "p{3.4cm}"


def to_csv(table: pd.DataFrame) -> str:
    """A table of full-precision numbers with six significant digits; NaN is an empty cell."""
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def _reached(study: Study, epoch: int | None) -> pd.DataFrame:
    """The row of every run at an epoch (None: its last planned one).

    A run that diverged and stopped before is there too, without numbers, so that the runs which
    survived do not pass for all.
    """
    frame = study.frame
    there = last_epochs(study) if epoch is None else frame[frame["epoch"] == epoch]
    final = frame.groupby("run", sort=False).tail(1)
    planned = study.plan.set_index("run")["planned"]
    goal = final["run"].map(planned) if epoch is None else epoch
    stopped = final[(final["status"] == "diverged") & (final["epoch"] < goal)].copy()
    stopped[number_columns(study)] = math.nan
    return pd.concat([there, stopped]).sort_index() if len(stopped) else there


def _best(study: Study) -> pd.DataFrame:
    """The row of every run at its best epoch; a run without one is there too if it diverged."""
    best = best_epochs(study)
    others = study.frame[~study.frame["run"].isin(best["run"])]
    lost = others.groupby("run", sort=False).tail(1).query("status == 'diverged'")
    return pd.concat([best, lost.assign(epoch=math.nan)]).sort_index() if len(lost) else best


def of_arm(study: Study, frame: pd.DataFrame, arm: tuple) -> pd.DataFrame:
    chosen = np.ones(len(frame), dtype=bool)
    for factor, level in zip(study.factors, arm, strict=True):
        chosen &= (frame[factor] == level).to_numpy(dtype=bool)
    return frame[chosen]


def arm_name(study: Study, arm: tuple) -> str:
    """`norm=none, head=conv, batch=128`."""
    return ", ".join(f"{factor}={level}" for factor, level in zip(study.factors, arm, strict=True))


def run_speeds(study: Study) -> pd.DataFrame:
    """One row per run: its median training images a second."""
    keys = ["run", *study.factors, "seed"]
    return study.frame.groupby(keys, sort=False)["images_per_second"].median().reset_index()


def paired_ratios(
    study: Study, rows: pd.DataFrame, factor: str, low: object, high: object, column: str
) -> pd.Series:
    """Ratios high / low over all planned pairs of runs that differ in one factor alone.

    `rows` holds at most one row per run. A pair of which one number is not there is NaN.
    """
    plan = study.plan[study.plan[factor].isin([low, high])].copy()
    plan["value"] = plan["run"].map(rows.set_index("run")[column])
    plan["side"] = np.where(plan[factor] == low, "low", "high")
    shared = [name for name in [*study.factors, "seed"] if name != factor]
    low_side, high_side = (plan[plan["side"] == side].set_index(shared) for side in ("low", "high"))
    both = low_side.index.intersection(high_side.index, sort=False)
    return high_side["value"].reindex(both) / low_side["value"].reindex(both)


def geometric_mean(ratios: pd.Series) -> float:
    return float(np.exp(np.log(ratios.dropna()).mean()))


def _score_sheet(
    study: Study,
    table: pd.DataFrame,
    at: str,
    metrics: list[str],
    name: str,
    title: str,
    notes: list[str],
) -> Sheet:
    """The rows of one point of a score table, a column for each metric."""
    rows = table[table["at"] == at]
    decimals = {metric: decimals_of(metric, rows[metric]) for metric in metrics}
    best = at == "best"
    body = [
        [
            *_levels(study, row),
            str(row["seeds"]),
            *([row["epochs"].replace(" ", ", ") or DASH] if best else []),
            *(_score(study, row, metric, decimals[metric]) for metric in metrics),
        ]
        for row in rows.to_dict("records")
    ]
    columns = [*study.factors, "seeds", *(["epoch"] if best else []), *map(label, metrics)]
    below = _calibration_rows(study, len(columns), metrics, [decimals[x] for x in metrics])
    notes = _score_notes(rows, metrics, notes) + calibration_notes(study, below)
    return Sheet(name, title, columns, body + below, notes, metrics, apart=len(below))


def _epochs_sheet(study: Study, table: pd.DataFrame, metric: str, notes: list[str]) -> Sheet:
    """One metric at the fixed epochs, a column for each."""
    points = [str(epoch) for epoch in fixed_epochs(study)]
    rows = table[table["at"].isin(points)]
    decimals = decimals_of(metric, rows[metric])
    cells = {
        (tuple(row[x] for x in study.factors), row["at"]): row for row in rows.to_dict("records")
    }
    body = [
        [
            *map(str, arm),
            *(_score(study, cells[arm, point], metric, decimals) for point in points),
        ]
        for arm in study.arms
    ]
    columns = [*study.factors, *(f"epoch {point}" for point in points)]
    title = f"{label(metric)} at fixed epochs"
    same = len(points)  # what no training made is the same at each of them
    below = _calibration_rows(study, len(columns), [metric] * same, [decimals] * same)
    notes = _score_notes(rows, [metric], notes) + calibration_notes(study, below)
    name = f"epochs-{metric}"
    return Sheet(name, title, columns, body + below, notes, [metric], apart=len(below))


def _calibration_rows(
    study: Study, width: int, metrics: list[str], decimals: list[int]
) -> list[list[str]]:
    """A row for each set of images that no training made, with the last columns of a sheet."""
    known = [calibrated(study, metric) for metric in metrics]
    gap = [""] * (width - len(metrics) - 1)
    return [
        [words, *gap, *map(_calibrated_cell, [x.get(name) for x in known], metrics, decimals)]
        for name, words in CALIBRATION.items()
        if any(name in values for values in known)
    ]


def _calibrated_cell(value: float | None, metric: str, decimals: int) -> str:
    """As the column is rounded; with digits of its own where nothing but zeros would be left."""
    if value is None:
        return DASH
    if 0 < abs(value) < 0.5 * 10**-decimals:
        decimals = decimals_of(metric, pd.Series([value]))
    return rounded(value, decimals)


def calibration_notes(study: Study, rows: list[list[str]]) -> list[str]:
    """What the rows of the calibration are; nothing where there are none."""
    if not rows:
        return []
    about = study.calibration.attrs
    images, held, seen = (about[key] for key in ("images", "held_out_images", "held_out_seen"))
    source = f"of the {about['held_out']}"
    source += " of the data set" if about["held_out"] == "second half" else ""
    source += f", {seen:,} of them known to the runs" if seen else ""
    number = f"{held:,} " if held < images else ""
    kinds = OWN_CLASSES in {identity["split"] for identity in study.identities.values()}
    return [
        f"The last {len(rows)} rows are for comparison, {images:,} images each that no training "
        f"made: real ones ({number}{source}); draws from a Gaussian with the mean and covariance "
        "of the reference images' pixels; the real ones reduced to 8×8 pixels and enlarged again; "
        "a random colour an image; and the first arm's generator before training."
        + (" Real ones and reference are of the first arm's class." if kinds else "")
    ]


def _losses_sheet(study: Study) -> Sheet:
    table = losses_table(study)
    body = [
        [
            *_levels(study, row),
            str(row["seeds"]),
            *(spread(row[loss], row[f"{loss}_sd"], 4) for loss in ("d_loss", "g_loss")),
            rounded(row["lowest"], 4),
            rounded(row["bound"], 4),
        ]
        for row in table.to_dict("records")
    ]
    notes = [
        "D and G: mean over the steps of the last epoch, mean ± standard deviation over seeds.",
        "Lowest D step: over all steps of all epochs and seeds.",
    ]
    if table["bound"].notna().any():
        notes.append(
            "Bound: with norm=batch the real and the fake logits have the same mean, so that D's "
            f"loss cannot fall below ln 2 = {LN2:.4f}, the loss of chance (Jensen's inequality)."
        )
    columns = [*study.factors, "seeds", "D loss", "G loss", "lowest D step", "bound"]
    return Sheet("losses", "Losses", columns, body, notes, [])


def _arms_sheets(study: Study) -> list[Sheet]:
    """What each named arm sets."""
    rows = [
        [name, ", ".join(f"{key}={value}" for key, value in fields.items()) or "nothing"]
        for name, fields in study.info.get("arms", {}).items()
        if (name,) in study.arms
    ]
    notes = ["All else is as the study's settings have it, in every arm."]
    title = "What each arm changes"
    return [Sheet("arms", title, ["arm", "sets"], rows, notes, [], ("sets",))] if rows else []


def _throughput_sheet(study: Study) -> Sheet:
    body = []
    for row in throughput_table(study).to_dict("records"):
        ratio = rounded(row["ratio"], 3)
        if row["pairs"] > 1:
            ratio += f" ({span(row['ratio_lowest'], row['ratio_highest'], 3)})"
        speeds = [rounded(row[head], 0) for head in ("conv", "avgpool")]
        body.append([str(row["batch"]), *speeds, str(row["pairs"]), ratio])
    notes = [
        "Training images a second, without scoring: median over runs of the median over epochs.",
        "Ratio: geometric mean (lowest to highest) over pairs that differ in the head alone.",
    ]
    columns = ["batch", "conv", "avgpool", "pairs", "avgpool / conv"]
    return Sheet("throughput", "Throughput of the heads", columns, body, notes, [])


def _score_notes(rows: pd.DataFrame, metrics: list[str], notes: list[str]) -> list[str]:
    """The notes of a sheet, with those that its cells call for."""
    notes = list(notes)
    if (rows["seeds"] < 2).all():
        notes = [note for note in notes if note != SPREAD]
        notes.append("One seed: there is no standard deviation.")
    if any(metric in INCEPTION and rows[f"{metric}_n"].sum() == 0 for metric in metrics):
        notes.append("FID, IS and KID come from Inception alone; nothing else stands in for them.")
    counts = rows[[f"{metric}_n" for metric in metrics]]
    if (counts.gt(0) & counts.lt(rows["seeds"], axis=0)).any(axis=None):
        notes.append(
            "(k of n): k of n seeds have a number; the others diverged or were not scored by it."
        )
    return notes


def _score(study: Study, row: dict, metric: str, decimals: int) -> str:
    """One cell: a number with its spread, or why there is none."""
    finite, seeds = row[f"{metric}_n"], row["seeds"]
    if finite == 0:
        if metric not in study.frame:
            return "not measured"
        if row["diverged"]:
            return "diverged"
        return "not measured" if seeds else "not yet"
    text = spread(row[metric], row[f"{metric}_sd"], decimals)
    return text if finite == seeds else f"{text} ({finite} of {seeds})"


def _epochs_measured(study: Study, metric: str) -> int:
    if metric not in study.frame:
        return 0
    return study.frame.loc[study.frame[metric].notna(), "epoch"].nunique()


def _identity_lines(study: Study, metrics: list[str]) -> list[str]:
    """One line for all metrics that share an identity, and one for what was not measured."""
    groups: dict[str, list[str]] = {}
    for metric in dict.fromkeys(metrics):
        if metric in study.frame and metric in study.identities:
            groups.setdefault(_identity(study.identities[metric]), []).append(label(metric))
    lines = [f"{', '.join(names)}: {identity}." for identity, names in groups.items()]
    absent = [INCEPTION[x] for x in metrics if x in INCEPTION and x not in study.frame]
    if absent:
        lines.append(f"{', '.join(absent)}: not measured (without Inception's published weights).")
    return lines


def _identity(identity: dict) -> str:
    side, batchnorm = identity["resolution"], identity["batchnorm"]
    return (
        f"{identity['network']} (SHA-256 {identity['network_sha256'][:12]}), "
        f"{identity['generated']:,} generated against {identity['reference']:,} real images "
        f"({identity['split']} split, SHA-256 {identity['reference_sha256'][:12]}), {side}×{side}, "
        f"resizer: {identity['resizer']}, quantiser: {identity['quantiser']}, "
        f"BatchNorm of G: {batchnorm}, {identity['implementation']}"
    )


def short_identity(study: Study, metric: str) -> str:
    """What a metric is, in a sentence for a caption."""
    identity = study.identities[metric]
    return (
        f"{label(metric)}: on {identity['network']} (SHA-256 {identity['network_sha256'][:12]}), "
        f"{identity['generated']:,} generated against {identity['reference']:,} real images "
        f"({identity['split']} split), {identity['resolution']}×{identity['resolution']}."
    )


def label(metric: str) -> str:
    """The name of a metric as a reader knows it."""
    return INCEPTION.get(metric, metric)


def _levels(study: Study, row: dict) -> list[str]:
    return [str(row[factor]) for factor in study.factors]


def is_number(sheet: Sheet, column: int) -> bool:
    """Whether a column is set right."""
    return column > 0 and sheet.columns[column] not in TEXT | {*sheet.words}


def decimals_of(metric: str, values: pd.Series) -> int:
    """Decimals for a whole column: three digits of its smallest number, within the usual range."""
    least, most = DECIMALS.get(metric, (3, 3))
    sizes = values[values.notna() & (values != 0)].abs()
    wanted = 2 - math.floor(math.log10(sizes.min())) if len(sizes) else 0
    return min(most, max(least, wanted))


def digits(value: float) -> str:
    """Three significant digits, trailing zeros kept."""
    return f"{value:#.3g}".rstrip(".")


def rounded(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}" if math.isfinite(value) else DASH


def spread(mean: float, sd: float, decimals: int) -> str:
    """`12.3 ± 0.4`, or `12.3` where one seed has no standard deviation."""
    spread = f" ± {rounded(sd, decimals)}" if math.isfinite(sd) else ""
    return rounded(mean, decimals) + spread


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


def join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 5] -> "0 to 2, 5"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    spans = [[str(run[0])] if len(run) == 1 else [str(run[0]), str(run[-1])] for run in runs]
    return ", ".join(" to ".join(span) for span in spans)


def paragraphs(lines: Iterable[str]) -> list[str]:
    return [part for line in lines for part in (line, "")]


def escape_markdown(text: str) -> str:
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


def _escape_latex(text: str) -> str:
    """Every character that LaTeX would read as a command, and those beyond ASCII that we use."""
    return "".join(LATEX.get(character, character) for character in text)
