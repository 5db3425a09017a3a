"""What happens from epoch to epoch: fluctuation, shares of variance, selection, losses, relapses.

All on the logarithm of the primary metric. The epochs before a third of the run are burn-in and do
not count, but for the choice of the best epoch on another bank, which anybody would make among all
that kept their generator, and for the time to a threshold. Only some epochs (milestones) have
further evaluation banks; every epoch has the run's own score, on noise of its own.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from reports import statistics
from reports.effects import no_verdict
from reports.records import PRIMARY, Study, last_epochs
from reports.statistics import AXES, VERDICT_SEEDS
from reports.tables import DASH, Sheet, arm_name, count, decimals_of, interval, of_arm, rounded

LOSSES = {"d_loss": "D loss", "g_loss": "G loss"}
OWN, OTHER = 0, 1  # the bank that chooses an epoch, and the one that reports it
CHOSEN_BY = {"d_loss": "highest D loss", "g_loss": "lowest G loss"}  # the epoch that each chooses
RELAPSE = (10, 20, 30)  # the epochs of which the blog post's author compares the images
WORSE = math.log(1.05)  # by which one of them has to be worse than another
THRESHOLDS = (50, 40, 30)  # of the primary metric, to which the time is measured
LEARNT = 0.8  # of the untrained generator's primary metric; what is not below has learnt nothing


def floor(study: Study) -> float:
    """What the primary metric of an arm that has learnt is below; NaN without a calibration."""
    known = study.calibration
    if PRIMARY not in known or "untrained" not in known.index:
        return math.nan
    return LEARNT * float(known.loc["untrained", PRIMARY])


def learners(study: Study) -> Study:
    """The study without the arms that have learnt nothing by their last epoch.

    By the geometric mean over seeds. All arms stay where there is no calibration, or where none
    has learnt anything; one that has not got there yet stays too.
    """
    logs = last_epochs(study).set_index("run")[PRIMARY].pipe(statistics.logarithm)
    level = math.log(floor(study)) if floor(study) > 0 else math.nan
    dead = [
        arm
        for arm in study.arms
        if logs.reindex(of_arm(study, study.plan, arm)["run"]).mean() >= level
    ]
    if not dead or len(dead) == len(study.arms):
        return study
    lost = pd.concat([of_arm(study, study.plan, arm)["run"] for arm in dead])
    frames = {name: getattr(study, name) for name in ("plan", "frame", "curves", "banks")}
    parts = {name: frame[~frame["run"].isin(lost)] for name, frame in frames.items()}
    return replace(study, arms=[arm for arm in study.arms if arm not in dead], **parts)


def fluctuation_table(study: Study) -> pd.DataFrame:
    """One row per run: how the logarithm of the primary metric goes up and down after burn-in.

    All of it is of the run's own scores, which draw fresh noise at every epoch. Columns: `run`, the
    factors, `seed`, `changes` (between epochs, that were measured); `one_bank` (half the variance
    of successive changes), `noise` (the measurement variance of one evaluation, from the banks at
    epochs after burn-in, pooled over the arm), `variance` (of the fluctuation: `one_bank` less
    `noise`; NaN without banks, and it may be negative); `drawdown`, `regret`, `autocorrelation`.
    """
    noise, planned, rows = _noise(study), study.plan.set_index("run")["planned"], []
    for run, epochs in study.frame.groupby("run", sort=False):
        own, start = statistics.logarithm(epochs[PRIMARY]), statistics.burn_in(int(planned[run]))
        found = statistics.fluctuation(own, start)
        rows.append(
            _key(study, epochs)
            | {
                "changes": found.changes,
                "variance": found.variance - noise[run],
                "one_bank": found.variance,
                "noise": noise[run],
                "drawdown": found.drawdown,
                "regret": found.regret,
                "autocorrelation": found.autocorrelation,
            }
        )
    numbers = ["changes", "variance", "one_bank", "noise", "drawdown", "regret", "autocorrelation"]
    return _per_run(study, rows, numbers)


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
    """One row per run: whether a loss moves with the primary metric from epoch to epoch.

    Spearman's correlation, after burn-in, of the changes between neighbouring epochs of each loss
    with those of the metric's logarithm: two curves that merely both go down have none. Columns:
    `run`, the factors, `seed`, `changes` (finite ones of the metric), `d_loss`, `g_loss`.
    """
    rows = []
    for epochs in _after_burn_in(study):
        moves = statistics.logarithm(epochs[PRIMARY]).diff()
        row = _key(study, epochs) | {"changes": int(moves.notna().sum())}
        found = {loss: statistics.spearman(epochs[loss].diff(), moves) for loss in LOSSES}
        rows.append(row | found)
    return _per_run(study, rows, ["changes", *LOSSES])


def regret_table(study: Study) -> pd.DataFrame:
    """One row per run that has ended: log primary metric of the epochs that one may choose.

    Columns: `run`, the factors, `seed`; of the epochs after burn-in the `last`, the `best`, a
    `random` one (the mean of the logarithms), that of the highest D loss (`d_loss`, where D is
    deceived most) and that of the lowest G loss (`g_loss`, where G deceives best).
    """
    ended, rows = set(last_epochs(study)["run"]), []
    for epochs in _after_burn_in(study):
        logs = statistics.logarithm(epochs[PRIMARY])
        if epochs["run"].iloc[0] in ended:
            row = {"last": logs.iloc[-1], "best": logs.min(), "random": logs.mean(skipna=False)}
            for loss, sign in (("d_loss", -1), ("g_loss", 1)):
                known = (sign * epochs[loss]).dropna()
                row[loss] = logs[known.idxmin()] if len(known) else math.nan
            rows.append(_key(study, epochs) | row)
    return _per_run(study, rows, ["last", "best", "random", *LOSSES])


def relapse_table(study: Study) -> pd.DataFrame:
    """One row per run: whether it is fine at one epoch, bad at another and fine again.

    `relapse` is 1 where the metric at epoch 20 is worse than at both 10 and 30 by 5 %, or at 30
    than at 20. `by_noise`: how likely that is of a run that gets steadily better, by a straight
    line in the logarithm fitted to its epochs 10 to 30, made level where it would rise, and that
    fluctuates by the noise of one evaluation alone. NaN where an epoch or the noise is missing.
    """
    noise, rows = _noise(study), []
    for run, epochs in study.frame.groupby("run", sort=False):
        logs = statistics.logarithm(epochs.set_index("epoch")[PRIMARY])
        first, second, third = logs.reindex(RELAPSE)
        row = {"relapse": math.nan, "by_noise": math.nan}
        if math.isfinite(first + second + third):
            worse = second - max(first, third) >= WORSE or third - second >= WORSE
            part = logs.loc[RELAPSE[0] : RELAPSE[-1]].dropna()
            slope = min(np.polyfit(part.index, part, 1)[0], 0.0)
            trend = [slope * epoch for epoch in RELAPSE]
            by_noise = statistics.relapse_by_noise(trend, noise[run], WORSE)
            row = {"relapse": float(worse), "by_noise": by_noise}
        rows.append(_key(study, epochs) | row)
    return _per_run(study, rows, ["relapse", "by_noise"])


def reached(study: Study, threshold: float) -> pd.DataFrame:
    """For each run (the index) the `images` shown to D and its `steps` at a primary metric.

    Where the metric first falls to the threshold, its logarithm taken as linear between two epochs,
    and before the first one from the untrained generator on. A run that never gets there has NaN:
    its time is longer than the study and not known.
    """
    start = study.calibration[PRIMARY].get("untrained") if PRIMARY in study.calibration else None
    begin = [] if start is None else [(0, start)]
    rows = {}
    for run, epochs in study.frame.groupby("run", sort=False):
        rows[run] = {
            clock: statistics.crossing(
                [x for x, _ in begin] + epochs[clock].to_list(),
                [math.log(y) for _, y in begin] + statistics.logarithm(epochs[PRIMARY]).to_list(),
                math.log(threshold),
            )
            for clock in ("images", "steps")
        }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["images", "steps"])


def reach_table(study: Study) -> pd.DataFrame:
    """One row per arm and threshold: how many runs reach it, and after how much.

    Columns: the factors, `threshold`, `runs` (that have ended), `reached` (of these), and the
    geometric means of `images` and `steps`, NaN unless all of them reach it after the start.
    """
    ended, rows = set(last_epochs(study)["run"]), []
    for threshold in THRESHOLDS:
        found = reached(study, threshold)
        for arm in study.arms:
            runs = [run for run in of_arm(study, study.plan, arm)["run"] if run in ended]
            part = found.reindex(runs)
            row = dict(zip(study.factors, arm, strict=True)) | {"threshold": threshold}
            row |= {"runs": len(runs), "reached": int(part["images"].notna().sum())}
            mean = (
                np.exp(part.apply(statistics.logarithm).mean(skipna=False)) if runs else part.mean()
            )
            rows.append(row | mean.to_dict())
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
            row |= {column: found.value, f"{column}_low": found.low, f"{column}_high": found.high}
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
        "regret": by_arm(study, regret_table(study), list(REGRETS)),
        "relapse": _relapses(study),
        "reach": _reaches(study),
    }
    return {name: table for name, table in found.items() if len(table)}


def sheets(study: Study) -> list[Sheet]:
    """The same, rounded."""
    makers = {
        "fluctuation": _fluctuation_sheet,
        "shares": _shares_sheet,
        "selection": _selection_sheet,
        "ranks": _ranks_sheet,
        "regret": _regret_sheet,
        "relapse": _relapse_sheet,
        "reach": _reach_sheet,
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
        "noise; 0 where noise explains all of it. One bank: noise and all. Noise: SD of one "
        "evaluation, from the epochs that were scored on further noise.",
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
        f"Spearman's correlation, after burn-in, of the changes from one epoch to the next of the "
        f"epoch's mean loss and of log {PRIMARY}: 1 if they always rise and fall together, 0 if "
        "one says nothing of the other.",
        INTERVALS,
    ]
    title = f"Rank correlation of the changes of the losses with those of {PRIMARY}"
    return _sheet(study, "ranks", title, list(LOSSES.values()), body, notes)


def _regret_sheet(study: Study, table: pd.DataFrame) -> Sheet:
    decimals = decimals_of(PRIMARY, np.exp(table["best"]))
    body = [
        [*_levels(study, row), *(_cell(row, column, decimals, np.exp) for column in REGRETS)]
        for row in table.to_dict("records")
    ]
    notes = [
        f"{PRIMARY} of the epoch that one may choose after burn-in. Best: by the run's own scores, "
        "which flatters it. Random: the geometric mean over the epochs. Highest D loss: where D is "
        "deceived most; lowest G loss: where G deceives best. Means are geometric.",
        INTERVALS,
    ]
    title = f"{PRIMARY} of the epoch that a loss would choose"
    return _sheet(study, "regret", title, list(REGRETS.values()), body, notes)


def _relapse_sheet(study: Study, table: pd.DataFrame) -> Sheet:
    body = [
        [*_levels(study, row), f"{row['relapses']:.0f}", rounded(row["by_noise"], 2)]
        for row in table.to_dict("records")
    ]
    first, second, third = RELAPSE
    notes = [
        f"Runs in which {PRIMARY} is worse by 5 % at epoch {second} than at both {first} and "
        f"{third}, or at {third} than at {second}; and how many would be expected of runs that get "
        "steadily better and are measured with the noise of one evaluation."
    ]
    title = "Fine, bad, and fine again"
    return _sheet(study, "relapse", title, ["runs", "by noise alone"], body, notes)


def _reach_sheet(study: Study, table: pd.DataFrame) -> Sheet:
    body = [
        [
            *(str(row[factor]) for factor in study.factors),
            str(row["threshold"]),
            f"{row['reached']} of {row['runs']}",
            *(f"{row[x]:,.0f}" if row[x] > 0 else DASH for x in ("images", "steps")),
        ]
        for row in table.to_dict("records")
    ]
    notes = [
        f"Images shown to D, and updates, until {PRIMARY} first falls to a threshold: geometric "
        "means over seeds, linear between epochs in the logarithm. Where a run has not come so far "
        "by its last epoch there is no mean."
    ]
    columns = [*study.factors, PRIMARY, "runs that reach it", "images", "updates"]
    title = f"How long it takes until {PRIMARY} falls to a threshold"
    return Sheet("reach", title, columns, body, notes, [PRIMARY])


REGRETS = {"last": "last", "best": "best", "random": "random", **CHOSEN_BY}
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


def _relapses(study: Study) -> pd.DataFrame:
    """One row per arm: `seeds` with the three epochs, `relapses` of them, the sum `by_noise`."""
    runs, rows = relapse_table(study).dropna(subset=["relapse"]), []
    for arm in study.arms:
        some = of_arm(study, runs, arm)
        if len(some):
            row = dict(zip(study.factors, arm, strict=True)) | {"seeds": len(some)}
            by_noise = some["by_noise"].sum(skipna=False)
            rows.append(row | {"relapses": some["relapse"].sum(), "by_noise": by_noise})
    return pd.DataFrame(rows)


def _reaches(study: Study) -> pd.DataFrame:
    """The rows of thresholds that any run reaches."""
    table = reach_table(study)
    return table[table.groupby("threshold")["reached"].transform("max") > 0]


def _key(study: Study, epochs: pd.DataFrame) -> dict:
    """The columns that name a run, from its epochs."""
    return epochs[["run", *study.factors, "seed"]].iloc[0].to_dict()


def _per_run(study: Study, rows: list[dict], numbers: list[str]) -> pd.DataFrame:
    """A table of runs, which has its columns even where there is no run yet."""
    return pd.DataFrame(rows, columns=["run", *study.factors, "seed", *numbers])


def _after_burn_in(study: Study) -> list[pd.DataFrame]:
    """The epochs of each run that count."""
    starts = study.plan.set_index("run")["planned"].map(statistics.burn_in)
    kept = study.frame[study.frame["epoch"] > study.frame["run"].map(starts)]
    return [epochs for _, epochs in kept.groupby("run", sort=False)]


def _noise(study: Study) -> dict[str, float]:
    """Run -> the measurement variance of one evaluation of its arm, after burn-in."""
    start = statistics.burn_in(int(study.plan["planned"].max()))
    banks = _bank_logs(study)
    banks = banks[banks.index.get_level_values("epoch") > start]
    found = {}
    for arm in study.arms:
        runs = of_arm(study, study.plan, arm)["run"]
        values = banks[banks.index.get_level_values("run").isin(runs)]
        found |= dict.fromkeys(runs, statistics.bank_variance(values) if len(values) else math.nan)
    return found


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
