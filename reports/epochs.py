"""What happens from epoch to epoch: fluctuation, shares of variance, selection, losses.

All on the logarithm of the primary metric. The first quarter of the epochs is burn-in and does not
count, but for the choice of the best epoch, which anybody would make among all of them.
"""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from reports import statistics
from reports.effects import no_verdict
from reports.records import PRIMARY, Study, last_epochs
from reports.statistics import AXES, VERDICT_SEEDS
from reports.tables import DASH, Sheet, arm_name, count, decimals_of, interval, of_arm, rounded

LOSSES = {"d_loss": "D loss", "g_loss": "G loss"}
OWN, OTHER = 0, 1  # the bank that chooses an epoch, and the one that reports it


def fluctuation_table(study: Study) -> pd.DataFrame:
    """One row per run: how the logarithm of the primary metric goes up and down after burn-in.

    Columns: `run`, the factors, `seed`, `changes` (between epochs, that were measured); `variance`
    of the fluctuation with the measurement variance taken out (NaN without banks; it may be
    negative), `one_bank` (of the run's own scores, noise and all), `noise` (the measurement
    variance of one bank, pooled over the arm); `drawdown`, `regret`, `autocorrelation`.
    """
    banks = {run: part.droplevel("run") for run, part in _bank_logs(study).groupby(level="run")}
    planned, rows = study.plan.set_index("run")["planned"], []
    for arm in study.arms:
        runs = of_arm(study, study.frame, arm)
        measured = [banks[run].to_numpy() for run in runs["run"].unique() if run in banks]
        noise = statistics.bank_variance(np.vstack(measured)) if measured else math.nan
        for run, epochs in runs.groupby("run", sort=False):
            own, start = (
                statistics.logarithm(epochs[PRIMARY]).to_numpy(),
                statistics.burn_in(int(planned[run])),
            )
            crossed = run in banks and list(banks[run].index) == list(epochs["epoch"])
            series = banks[run].to_numpy() if crossed else own
            found = statistics.fluctuation(series, start, 0.0 if math.isnan(noise) else noise)
            key = epochs[["run", *study.factors, "seed"]].iloc[0].to_dict()
            rows.append(
                key
                | {
                    "changes": found.changes,
                    "variance": math.nan if math.isnan(noise) else found.variance,
                    "one_bank": statistics.fluctuation(own, start, 0.0).variance,
                    "noise": noise,
                    "drawdown": found.drawdown,
                    "regret": found.regret,
                    "autocorrelation": found.autocorrelation,
                }
            )
    return pd.DataFrame(rows)


def shares_table(study: Study) -> pd.DataFrame:
    """One row for all arms together and one for each: whose the variance of the logarithm is.

    Columns: `where`, `arms`, `seeds`, `epochs`, `banks` (the sizes of the crossed design), for each
    of arm, seed, epoch and evaluation its variance component, which may be negative, and
    `<axis>_share`, of the sum of those that are not. Empty where runs were not scored by at least
    two banks at the same epochs.
    """
    cube = _crossed(study)
    if cube is None:
        return pd.DataFrame()
    names = [arm_name(study, arm) for arm in study.arms]
    parts = {"all arms": cube} | {name: cube[[i]] for i, name in enumerate(names)}
    rows = []
    for where, values in parts.items() if len(names) > 1 else [(names[0], cube)]:
        found = statistics.components(values)
        told = {axis: part for axis, part in found.items() if math.isfinite(part)}
        shares = {f"{axis}_share": share for axis, share in statistics.shares(told).items()}
        sizes = dict(zip(("arms", "seeds", "epochs", "banks"), values.shape, strict=True))
        rows.append({"where": where} | sizes | found | shares)
    return pd.DataFrame(rows)


def selection_table(study: Study) -> pd.DataFrame:
    """One row per run: its best epoch, chosen on one bank and reported on another; and its last.

    Columns: `run`, the factors, `seed`, `epoch` (the best on bank 0, the run's own), `own` (its
    metric there on bank 0), `other` (the same epoch on bank 1), `last` (the last epoch on bank 1);
    `optimism` and `gain`: the logarithms of other / own and of last / other. Empty without banks.
    """
    banks, rows = _bank_logs(study), []
    if OTHER not in banks:
        return pd.DataFrame()
    last = last_epochs(study).set_index("run")
    for run, values in banks[[OWN, OTHER]].dropna().groupby("run", sort=False):
        values = values.droplevel("run")
        if run in last.index and last.loc[run, "epoch"] in values.index:
            best = int(values[OWN].idxmin())
            own, other = values.loc[best, [OWN, OTHER]]
            final = values.loc[last.loc[run, "epoch"], OTHER]
            row = {"run": run} | last.loc[run, [*study.factors, "seed"]].to_dict()
            row |= {"epoch": best, "own": np.exp(own), "other": np.exp(other)}
            row |= {"last": np.exp(final), "optimism": other - own, "gain": final - other}
            rows.append(row)
    return pd.DataFrame(rows)


def losses_rank_table(study: Study) -> pd.DataFrame:
    """One row per run: Spearman's correlation over its epochs of each loss with the primary metric.

    Columns: `run`, the factors, `seed`, `epochs` (finite ones), `d_loss`, `g_loss`.
    """
    rows = []
    for _, epochs in study.frame.groupby("run", sort=False):
        key = epochs[["run", *study.factors, "seed"]].iloc[0].to_dict()
        row = key | {"epochs": int(epochs[PRIMARY].notna().sum())}
        rows.append(
            row | {loss: statistics.spearman(epochs[loss], epochs[PRIMARY]) for loss in LOSSES}
        )
    return pd.DataFrame(rows)


def by_arm(study: Study, table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """One row per arm of a table of runs: `seeds`, and of each column the mean and its interval.

    An interval, `<column>_low` and `<column>_high`, is Student's t over seeds, and NaN below two. A
    run without a number is left out of that mean; an arm without a run is not there.
    """
    rows = []
    for arm in study.arms if len(table) else []:
        runs = of_arm(study, table, arm)
        row = dict(zip(study.factors, arm, strict=True)) | {"seeds": len(runs)}
        for column in columns:
            values = runs[column].dropna().to_numpy(dtype=float)
            found = statistics.over_seeds(values)
            row[column] = found.value if found.n > 1 else values[0] if len(values) else math.nan
            row |= {f"{column}_low": found.low, f"{column}_high": found.high}
        if len(runs):
            rows.append(row)
    return pd.DataFrame(rows)


def tables(study: Study) -> dict[str, pd.DataFrame]:
    """Each table as the page shows it, in full precision; those that have no rows are not there."""
    measures = ["variance", "one_bank", "noise", "drawdown", "regret", "autocorrelation"]
    chosen = ["own", "other", "last", "optimism", "gain"]
    found = {
        "fluctuation": by_arm(study, fluctuation_table(study), measures),
        "shares": shares_table(study),
        "selection": by_arm(study, selection_table(study), chosen),
        "ranks": by_arm(study, losses_rank_table(study), list(LOSSES)),
    }
    return {name: table for name, table in found.items() if len(table)}


def sheets(study: Study) -> list[Sheet]:
    """The same, rounded."""
    makers = {
        "fluctuation": _fluctuation_sheet,
        "shares": _shares_sheet,
        "selection": _selection_sheet,
        "ranks": _ranks_sheet,
    }
    return [makers[name](study, table) for name, table in tables(study).items()]


def percent_sd(variance: float) -> float:
    """A variance on the log scale as a standard deviation in percent; 0 where it is negative."""
    return 100 * math.sqrt(max(variance, 0.0)) if math.isfinite(variance) else math.nan


def percent_more(logarithm: float) -> float:
    """A difference of logarithms as a change in percent."""
    return 100 * math.expm1(logarithm)


def _percent_above(logarithm: float) -> float:
    """The same for what cannot be below 0, whatever the end of its interval is."""
    return percent_more(max(logarithm, 0.0))


def _correlation(value: float) -> float:
    return min(max(value, -1.0), 1.0)


def _fluctuation_sheet(study: Study, table: pd.DataFrame) -> Sheet:
    body = [
        [
            *_levels(study, row),
            _cell(row, "variance", 1, percent_sd),
            rounded(percent_sd(row["one_bank"]), 1),
            rounded(percent_sd(row["noise"]), 1),
            _cell(row, "drawdown", 1, _percent_above),
            _cell(row, "regret", 1, _percent_above),
            _cell(row, "autocorrelation", 2),
        ]
        for row in table.to_dict("records")
    ]
    epochs = int(study.plan["planned"].max())
    start = statistics.burn_in(epochs)
    notes = [
        f"After a burn-in of {count(start, 'epoch')}. SD: of the fluctuation of log {PRIMARY} "
        "between epochs, the root of half the variance of successive changes, less the measurement "
        "noise; 0 where noise explains all of it. One bank: the same for the run's own scores, "
        "noise and all. Noise: SD of one evaluation, from banks of fresh noise.",
        "Drawdown: largest rise above the best epoch until then. Last over best: what the last "
        "epoch is above the best one. Lag-1: autocorrelation of neighbouring epochs about a "
        f"straight line; without any memory about {-2 / max(1, epochs - start):.2f} is to be "
        "expected.",
        INTERVALS,
    ]
    if table["noise"].isna().all():
        notes.append("The generators were not scored again: noise is not known, and not taken out.")
    columns = ["SD, %", "one bank, %", "noise, %", "drawdown, %", "last over best, %", "lag-1"]
    title = f"Fluctuation of {PRIMARY} between epochs"
    return _sheet(study, "fluctuation", title, columns, body, notes)


def _shares_sheet(study: Study, table: pd.DataFrame) -> Sheet:
    body = []
    for row in table.to_dict("records"):
        shares = [row.get(f"{axis}_share", math.nan) for axis in AXES]
        sizes = " × ".join(str(row[name]) for name in ("arms", "seeds", "epochs", "banks"))
        total = sum(max(row[axis], 0.0) for axis in AXES if math.isfinite(row[axis]))
        texts = [f"{100 * share:.0f} %" if math.isfinite(share) else DASH for share in shares]
        body.append([row["where"], sizes, *texts, rounded(percent_sd(total), 1)])
    columns = ["where", "arms × seeds × epochs × banks", *AXES, "SD of all, %"]
    notes = [
        f"Shares of the variance of log {PRIMARY} after burn-in: between arms, between seeds of an "
        "arm, between epochs of a run (a trend is part of it), between evaluations of an epoch. "
        "Moment estimators of a crossed design; a negative one counts as 0."
    ]
    title = f"Whose the variance of {PRIMARY} is"
    return Sheet("shares", title, columns, body, notes, [PRIMARY])


def _selection_sheet(study: Study, table: pd.DataFrame) -> Sheet:
    decimals = decimals_of(PRIMARY, table["own"])
    body = [
        [
            *_levels(study, row),
            *(rounded(row[column], decimals) for column in ("own", "other", "last")),
            _cell(row, "optimism", 1, percent_more),
            _cell(row, "gain", 1, percent_more),
        ]
        for row in table.to_dict("records")
    ]
    notes = [
        f"The epoch with the best {PRIMARY} on a run's own evaluation bank, on that bank and on "
        "another one; and the last epoch, on the other one. Optimism: by how much the other bank's "
        "number is above that of the bank that chose. Last over best: on the other bank.",
        INTERVALS,
    ]
    columns = [
        "best, own bank", "best, other bank", "last, other bank", "optimism, %",
        "last over best, %",
    ]  # fmt: skip
    title = f"{PRIMARY} at the best epoch, chosen on one bank and reported on another"
    return _sheet(study, "selection", title, columns, body, notes)


def _ranks_sheet(study: Study, table: pd.DataFrame) -> Sheet:
    body = [
        [*_levels(study, row), *(_cell(row, loss, 2, _correlation) for loss in LOSSES)]
        for row in table.to_dict("records")
    ]
    notes = [
        f"Spearman's correlation, over the epochs of a run, of the epoch's mean loss with {PRIMARY}"
        ": 1 if the lowest loss is always at the best epoch, 0 if it says nothing, -1 if the "
        "highest is.",
        INTERVALS,
    ]
    title = f"Rank correlation of the losses with {PRIMARY}"
    return _sheet(study, "ranks", title, list(LOSSES.values()), body, notes)


INTERVALS = "Means over seeds with 95 % t intervals."


def _sheet(
    study: Study, name: str, title: str, columns: list[str], body: list[list[str]], notes: list[str]
) -> Sheet:
    seeds = study.plan["seed"].nunique()
    if seeds < VERDICT_SEEDS:
        notes = [note for note in notes if note != INTERVALS or seeds > 1] + [no_verdict(seeds)]
    return Sheet(name, title, [*study.factors, "seeds", *columns], body, notes, [PRIMARY])


def _levels(study: Study, row: dict) -> list[str]:
    return [*(str(row[factor]) for factor in study.factors), str(row["seeds"])]


def _cell(row: dict, column: str, decimals: int, scale: Callable[[float], float] = float) -> str:
    ends = (scale(row[name]) for name in (column, f"{column}_low", f"{column}_high"))
    return interval(*ends, decimals)


def _bank_logs(study: Study) -> pd.DataFrame:
    """log metric: a row per (run, epoch) that has banks, a column per bank."""
    if PRIMARY not in study.banks:
        return pd.DataFrame(index=pd.MultiIndex.from_arrays([[], []], names=["run", "epoch"]))
    banks = study.banks.assign(log=statistics.logarithm(study.banks[PRIMARY]))
    return banks.pivot(index=["run", "epoch"], columns="bank", values="log")


def _crossed(study: Study) -> np.ndarray | None:
    """log metric (arms, seeds, epochs, banks) after burn-in, of the seeds that have all of it."""
    banks = _bank_logs(study)
    if banks.shape[1] < 2:
        return None
    start = statistics.burn_in(int(study.plan["planned"].max()))
    epochs = sorted({epoch for _, epoch in banks.index if epoch > start})
    seeds = sorted(set(study.plan["seed"]))
    runs = study.plan.set_index([*study.factors, "seed"])["run"].to_dict()
    places = [
        (runs.get((*arm, seed)), epoch) for arm in study.arms for seed in seeds for epoch in epochs
    ]
    shape = (len(study.arms), len(seeds), len(epochs), banks.shape[1])
    cube = banks.reindex(places).to_numpy().reshape(shape)
    cube = cube[:, np.isfinite(cube).all(axis=(0, 2, 3))]
    return cube if cube.size else None
