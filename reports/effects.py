"""What each factor does to the last epoch, and batch sizes at equal epochs and equal updates."""

import pandas as pd

from reports import statistics
from reports.records import PRIMARY, Study, at_updates, last_epochs
from reports.statistics import VERDICT_SEEDS, Contrast, Estimate
from reports.tables import Sheet, count, decimals_of, interval, join, label, p_value, rounded


def metrics(study: Study) -> list[str]:
    """The distances that are compared: always the primary one, and FID where it was measured."""
    last = last_epochs(study)
    return [metric for metric in (PRIMARY, "fid") if metric in last and last[metric].notna().any()]


def contrasts(study: Study, rows: pd.DataFrame, metric: str = PRIMARY) -> list[Contrast]:
    """All effects of the grid on `rows`, one of a run; Holm goes over the main effects.

    Nothing where fewer than two seeds have a row for every cell.
    """
    found = statistics.contrasts(rows, study.factors, metric) if len(rows) else []
    return [one for one in found if one.ratio.n > 1]


def effects_table(study: Study) -> pd.DataFrame:
    """One row per metric and effect at the last epoch, paired by seed.

    `ratio` (of the metric at the second level to that at the first) and `difference` come with
    their 95 % t intervals; `p_t` and `p_flip` are those of the ratio, `p_holm` is `p_t` over the
    main effects, NaN elsewhere. `n`: seeds of which every cell is there; `dropped`: the others.
    """
    last = last_epochs(study)
    rows = [
        {"metric": metric} | _numbers(one)
        for metric in metrics(study)
        for one in contrasts(study, last, metric)
    ]
    return pd.DataFrame(rows)


def batch_table(study: Study) -> pd.DataFrame:
    """The batch sizes at equal epochs and at equal updates, over all arms and for each first level.

    The columns of `effects_table`, and before them `at` ("epochs" or "updates"), `where` ("all" or
    "norm=...", of the first factor), and the updates that both sides made.
    """
    rows = []
    for at, frame in {"epochs": last_epochs(study), "updates": at_updates(study)}.items():
        first = study.factors[0]
        parts = {"all": frame}
        if first != "batch" and frame[first].nunique() > 1:
            parts |= {f"{first}={x}": part for x, part in frame.groupby(first, sort=False)}
        for where, part in parts.items():
            for one in contrasts(study, part):
                if list(one.effect) == ["batch"]:
                    low, high = (
                        part.loc[part["batch"] == level, "steps"].median()
                        for level in one.effect["batch"]
                    )
                    names = {"at": at, "where": where, "updates_low": low, "updates_high": high}
                    rows.append(names | _numbers(one))
    return pd.DataFrame(rows).drop(columns="p_holm", errors="ignore")


def sheets(study: Study) -> list[Sheet]:
    """Both tables, rounded; none of what a single seed cannot answer."""
    shown, effects, batches = [], effects_table(study), batch_table(study)
    for metric in metrics(study):
        rows = effects[effects["metric"] == metric] if len(effects) else effects
        if len(rows):
            shown.append(_effects_sheet(study, rows, metric))
    return [*shown, _batch_sheet(study, batches)] if len(batches) else shown


def no_verdict(seeds: int) -> str:
    """Why so few seeds get numbers and no verdict."""
    least = 2.0 ** (1 - seeds)
    return (
        f"Below {VERDICT_SEEDS} seeds no verdict is given: the p of a two-sided sign-flip test of "
        f"{count(seeds, 'seed')} cannot be below {least:.4g}."
    )


def title(one: Contrast) -> str:
    """`norm=batch against none`, `norm × batch`."""
    if len(one.effect) > 1:
        return one.name
    ((factor, (low, high)),) = one.effect.items()
    return f"{factor}={high} against {low}"


def _numbers(one: Contrast) -> dict[str, object]:
    return {
        "effect": title(one),
        "factors": len(one.effect),
        **_estimate("ratio", one.ratio),
        **_estimate("difference", one.difference),
        "p_t": one.p_t,
        "p_flip": one.p_flip,
        "p_holm": one.p_holm,
        "improvement": one.improvement,
        "n": one.ratio.n,
        "seeds": " ".join(map(str, one.seeds)),
        "dropped": " ".join(map(str, one.dropped)),
    }


def _estimate(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


PS = {"p_t": "p, t", "p_flip": "p, flip", "p_holm": "p, Holm"}


def _columns(ps: list[str]) -> list[str]:
    return ["ratio (95 %)", "difference (95 %)", *(PS[p] for p in ps), "P(better)", "n"]


def _cells(row: dict, decimals: int, ps: list[str]) -> list[str]:
    ratio, difference = (
        interval(*(row[name + end] for end in ("", "_low", "_high")), digits)
        for name, digits in (("ratio", 3), ("difference", decimals))
    )
    better = rounded(row["improvement"], 2)
    return [ratio, difference, *(p_value(row[p]) for p in ps), better, str(row["n"])]


NOTES = [
    "Ratio: of the geometric means of the second and the first level, above 1 worse; difference: "
    "the same on the metric's own scale. Both are means over seeds of differences between paired "
    "runs, with 95 % t intervals; n counts seeds.",
    "p, t: paired t on the logarithm; p, flip: exact sign-flip, whose least is 2/2^n.",
    "P(better): that a run at the second level has the lower value, over all pairs of runs.",
]


def _effects_sheet(study: Study, rows: pd.DataFrame, metric: str) -> Sheet:
    decimals = decimals_of(metric, last_epochs(study)[metric])
    body = [[row["effect"], *_cells(row, decimals, list(PS))] for row in rows.to_dict("records")]
    notes = [
        *NOTES,
        "p, Holm: the t's, adjusted over the main effects. Interactions are exploratory: theirs is "
        "the ratio of ratios, and the difference of differences.",
        *_seeds_notes(rows),
    ]
    name = "effects" if metric == PRIMARY else f"effects-{metric}"
    title = f"Effects on {label(metric)} at the last epoch"
    return Sheet(name, title, ["effect", *_columns(list(PS))], body, notes, [metric])


def _batch_sheet(study: Study, rows: pd.DataFrame) -> Sheet:
    decimals = decimals_of(PRIMARY, last_epochs(study)[PRIMARY])
    body = []
    for row in rows.to_dict("records"):
        updates = f"{row['updates_high']:.0f} and {row['updates_low']:.0f}"
        names = [row["effect"].removeprefix("batch="), f"equal {row['at']}", row["where"], updates]
        body.append(names + _cells(row, decimals, ["p_t", "p_flip"]))
    notes = [
        "At equal epochs the smaller batch makes more updates; at equal updates it has seen fewer "
        "images. Equal updates: each run at the epoch nearest in updates to the end of the arm "
        "that makes the fewest, no further than 5 % from it. Ratio, difference and ps: as above.",
        *_seeds_notes(rows),
    ]
    title = f"Batch sizes: {PRIMARY} at equal epochs and at equal updates"
    columns = ["batch", "at", "arms", "updates", *_columns(["p_t", "p_flip"])]
    return Sheet("batch", title, columns, body, notes, [PRIMARY], words=("at", "arms"))


def _seeds_notes(rows: pd.DataFrame) -> list[str]:
    """Which seeds were left out, and why there is no verdict where they are too few."""
    dropped = sorted({int(seed) for text in rows["dropped"] for seed in text.split()})
    notes = []
    if dropped:
        notes.append(
            f"Left out whole, for some cell is not there or not finite: seed "
            f"{join([str(seed) for seed in dropped])}."
        )
    if rows["n"].min() < VERDICT_SEEDS:
        notes.append(no_verdict(int(rows["n"].min())))
    return notes
