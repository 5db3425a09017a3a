"""Every frame that is derived from the records of a study, each computed once.

What is said of epochs is about the logarithm of the primary metric after burn-in, a third of the
run. Every epoch has the run's own score, set 0; only milestones have further evaluation sets.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import pandas as pd
from pandas.api.typing import DataFrameGroupBy

from dcgan.config import Config
from eval.metrics import NEIGHBOUR_METRICS
from experiments import grid
from reports import statistics
from reports.records import LOWER_IS_BETTER, PRIMARY, Study, calibrated
from reports.statistics import VERDICT_SEEDS, Effect, burn_in, logarithm

FIRST_LOSSES = ("d_loss", "g_loss")
RELAPSE = (10, 20, 30)  # the epochs of which the blog post's author compares the images
WORSE = math.log(1.05)  # by which one of them has to be worse than another
THRESHOLDS = (50, 40, 30)  # of the primary metric, to which the time is measured
LN2 = math.log(2)  # the loss of chance
LEARNT = 0.8  # of the untrained generator's primary metric; what is not below has learnt nothing
UPDATES_APART = 0.02  # of the updates at which runs are compared; none is further away


@dataclass(frozen=True)
class Analysis(Study):
    """A study, and what follows from its records; `dataclasses.replace` starts afresh.

    A table of runs has the columns `run`, the factors and `seed`, then those that are named.
    """

    @cached_property
    def planned(self) -> pd.Series:
        """Run -> its last planned epoch."""
        return self.plan.set_index("run")["planned"]

    @cached_property
    def runs_of(self) -> dict[tuple, list[str]]:
        """Arm -> its planned runs, the lowest seed first."""
        plan = self.plan.sort_values("seed", kind="stable")
        arms = plan.groupby(self.factors, sort=False, dropna=False)["run"]
        return {arm: list(runs) for arm, runs in arms}

    @cached_property
    def levels(self) -> dict[str, list]:
        """Factor -> its planned levels, numbers from the smallest on."""
        levels = {factor: self.plan[factor].unique().tolist() for factor in self.factors}
        numeric = [x for x in levels if pd.api.types.is_numeric_dtype(self.plan[x])]
        return levels | {factor: sorted(levels[factor]) for factor in numeric}

    @cached_property
    def numbers(self) -> list[str]:
        """The columns of the frame that are losses, scores and times."""
        return list(self.frame.loc[:, "status":].columns[1:])

    @cached_property
    def measured(self) -> dict[str, int]:
        """Each metric that has a finite number -> the epochs at which one has."""
        known = self.frame[[x for x in self.numbers if x in LOWER_IS_BETTER]].notna()
        epochs = known.groupby(self.frame["epoch"]).any().sum()
        return {name: int(number) for name, number in epochs.items() if number}

    @cached_property
    def configs(self) -> dict[str, Config]:
        """Arm, as its folder is named -> what its first run is made with."""
        study = grid.stored(self.info)
        runs = grid.runs(replace(study, seeds=study.seeds[:1]))
        return {run.arm: run.config for run in runs}

    @property
    def config(self) -> Config:
        """That of the first arm."""
        return next(iter(self.configs.values()))

    @cached_property
    def values(self) -> dict[str, list]:
        """Field of Config -> its values in the arms, each once and in their order."""
        dumped = [config.model_dump() for config in self.configs.values()]
        return {field: [*dict.fromkeys(x[field] for x in dumped)] for field in Config.model_fields}

    def rows_of_arms(self, table: pd.DataFrame) -> Iterator[tuple[dict[str, object], pd.DataFrame]]:
        """The levels of each arm by factor, and its rows of a table."""
        for arm, (_, rows) in zip(self.arms, self._arm_groups(table), strict=True):
            yield dict(zip(self.factors, arm, strict=True)), rows

    def _arm_groups(self, table: pd.DataFrame) -> DataFrameGroupBy:
        """The rows of each arm, where it has any or not, in the order of `arms`."""
        arms = {run: i for i, arm in enumerate(self.arms) for run in self.runs_of[arm]}
        numbers = pd.Categorical(table["run"].map(arms), categories=range(len(self.arms)))
        return table.groupby(numbers, observed=False)

    @cached_property
    def last(self) -> pd.DataFrame:
        """The row of the last planned epoch of each run that has got there."""
        return self.frame[self.frame["epoch"] == self.frame["run"].map(self.planned)]

    @cached_property
    def best(self) -> pd.DataFrame:
        """The row of the best epoch of each run with a finite primary metric."""
        rows = self.frame.dropna(subset=[PRIMARY]).groupby("run", sort=False)[PRIMARY]
        return self.frame.loc[rows.idxmin()]

    @cached_property
    def update_goals(self) -> np.ndarray:
        """The numbers of updates after an epoch of the run that makes the fewest, to which every
        run has an epoch that is no further than 2 % away; of the last one where there is none."""
        updates = (self.frame["steps"] / self.frame["epoch"]).groupby(self.frame["run"]).first()
        slowest = (updates * self.planned.reindex(updates.index)).idxmin()
        goals = updates[slowest] * np.arange(1, self.planned[slowest] + 1)
        nearest = np.maximum(np.round(goals[:, None] / updates.to_numpy()), 1) * updates.to_numpy()
        near = (np.abs(nearest / goals[:, None] - 1) <= UPDATES_APART).all(axis=1)
        return goals[near] if near.any() else goals[-1:]

    def at_updates(self, goal: float) -> pd.DataFrame:
        """The row of each run that is nearest to so many updates; no numbers if over 2 % away."""
        gap = (self.frame["steps"] - goal).abs()
        rows = self.frame.loc[gap.groupby(self.frame["run"], sort=False).idxmin()].copy()
        rows.loc[gap[rows.index] > UPDATES_APART * goal, self.numbers] = math.nan
        return rows

    @property
    def seeds(self) -> int:
        """How many seeds have a committed epoch."""
        return self.frame["seed"].nunique()

    @cached_property
    def whole_seeds(self) -> int:
        """How many seeds have a finite last epoch of every arm."""
        arms = self.last.dropna(subset=[PRIMARY])["seed"].value_counts()
        return int((arms == len(self.arms)).sum())

    @cached_property
    def fixed_epochs(self) -> list[int]:
        """The epochs that tables show: some milestones and the last; of more than 50 the blog's."""
        epochs = int(self.planned.max())
        shown = (1, 20, 30, 40, 50) if epochs > 50 else (1, 2, 5, 10, 20, 30, 40)
        return [*(epoch for epoch in shown if epoch < epochs), epochs]

    def scores(self, at: str | int) -> pd.DataFrame:
        """The `_moments` of each metric at the "last" or "best" epoch of each run or a fixed one.

        With `diverged` (of the `seeds`) and `epochs` (of each seed).
        """
        rows = self._reached(at)
        arms = [runs for _, runs in self.rows_of_arms(rows)]
        return self._moments(rows, self.measured).assign(
            diverged=[int((runs["status"] == "diverged").sum()) for runs in arms],
            epochs=[" ".join(runs["epoch"].dropna().astype(int).astype(str)) for runs in arms],
        )

    def _moments(self, rows: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
        """A row per arm: the factors, `seeds` (its rows), and of each column the mean by its name,
        `<name>_sd`, and `<name>_n` (how many are finite)."""
        groups = self._arm_groups(rows)
        known = groups[[*columns]]
        parts = {"": known.mean(), "_sd": known.std(), "_n": known.count()}
        table = {name + end: part[name] for name in columns for end, part in parts.items()}
        arms = pd.DataFrame(self.arms, columns=self.factors)
        return arms.join(pd.DataFrame({"seeds": groups.size()} | table))

    def _reached(self, at: str | int) -> pd.DataFrame:
        """The row of every run at an epoch; one that diverged before is there without numbers."""
        known = {"last": self.last, "best": self.best}
        rows = known[at] if at in known else self.frame[self.frame["epoch"] == at]
        final = self.frame.groupby("run", sort=False).tail(1)
        lost = final[(final["status"] == "diverged") & ~final["run"].isin(rows["run"])].copy()
        lost[["epoch", *self.numbers]] = math.nan
        return pd.concat([rows, lost]).sort_index() if len(lost) else rows

    @cached_property
    def losses(self) -> pd.DataFrame:
        """The `_moments` of the losses at the last epoch, and the `lowest` D loss of any step.

        `bound` is ln 2 where norm=batch: real and fake logits have the same mean there, and by
        Jensen's inequality D's loss, the mean of two softplus terms, is no lower.
        """
        bounded = {*self.plan.loc[self.plan["norm"] == "batch", "run"]}
        return self._moments(self._reached("last"), FIRST_LOSSES).assign(
            lowest=self._arm_groups(self.frame)["d_loss_min"].min(),
            bound=[LN2 if {*self.runs_of[arm]} <= bounded else math.nan for arm in self.arms],
        )

    @cached_property
    def last_effects(self) -> dict[str, list[Effect]]:
        """The effects on the primary metric and on FID at the last epoch, where there are any."""
        metrics = [x for x in (PRIMARY, "fid") if x in self.last]
        effects = {x: statistics.effects(self.last, self.factors, x) for x in metrics}
        return {metric: some for metric, some in effects.items() if some}

    @cached_property
    def parts(self) -> dict[tuple[str, str], pd.DataFrame]:
        """("epochs" or "updates" that are equal, "all" or "factor=level") -> rows.

        Also, where something is learnt: ("392 updates", "factor=level" of the first factor).
        """
        *earlier, last = self.update_goals
        equal = {"epochs": self.last}
        equal |= {f"{goal:.0f} updates": self.at_updates(goal) for goal in earlier}
        equal["updates"] = self.at_updates(last)
        every = {factor: levels for factor, levels in self.levels.items() if len(levels) > 1}
        learning, parts = {self.factors[0]: self.learning_levels}, {}
        for at, rows in equal.items():
            whole = at in ("epochs", "updates")
            if whole:
                parts[at, "all"] = rows
            for factor, levels in (every if whole else learning).items():
                parts |= {(at, f"{factor}={x}"): rows[rows[factor] == x] for x in levels}
        return parts

    @cached_property
    def partial_effects(self) -> dict[tuple[str, str], list[Effect]]:
        """The effects on the primary metric in each of the `parts`."""
        return {
            key: statistics.effects(rows, self.factors, PRIMARY) for key, rows in self.parts.items()
        }

    @cached_property
    def batch_effects(self) -> pd.DataFrame:
        """The effects of batch, over all arms and at each level of the first factor."""
        table, conditions = [], ("all", self.factors[0])
        for (at, where), rows in self.parts.items():
            for effect in self.partial_effects[at, where]:
                if effect.factors == ["batch"] and where.partition("=")[0] in conditions:
                    steps = rows.groupby("batch")["steps"].median()
                    row = {"at": at.split()[-1], "where": where}
                    for end, level in zip(("low", "high"), effect.levels["batch"], strict=True):
                        row |= {end: level, f"updates_{end}": steps[level]}
                    table.append(row | effect_numbers(effect))
        return pd.DataFrame(table).drop(columns="p_holm", errors="ignore")

    @cached_property
    def agreement(self) -> pd.DataFrame:
        """One row per metric of quality: how far it ranks like the primary one.

        Spearman's correlation, 1 where both put the better first. Columns: `metric`; `epochs` (at
        which both are measured); `arms` (at the last epoch, mean over seeds); `learners` (of the
        arms that have learnt); `runs` (over the epochs of such a run, their mean) and `lowest` (of
        these).
        """
        judges = [x for x in self.measured if x.partition("_")[0] not in NEIGHBOUR_METRICS]
        table, learners = [], set(self.learners.plan["run"])
        for metric in [x for x in judges if x != PRIMARY]:
            other = self.frame[metric] * (1 if LOWER_IS_BETTER[metric] else -1)
            rows = self.frame[["run", "seed", PRIMARY]].assign(other=other).dropna()
            known = rows[rows["run"].isin(learners)]
            last, known_last = (x[x.index.isin(self.last.index)] for x in (rows, known))
            runs = _rank_correlations(known, "run")
            row = {"metric": metric, "epochs": self.measured[metric]}
            row["arms"] = _rank_correlations(last, "seed").mean()
            row["learners"] = _rank_correlations(known_last, "seed").mean()
            table.append(row | {"runs": runs.mean(), "lowest": runs.min()})
        return pd.DataFrame(table)

    @cached_property
    def untrained(self) -> float:
        """The primary metric of the untrained generator, against images of the first arm's classes.

        NaN where it was not measured; `untrained_of` has that of each run.
        """
        return calibrated(self, PRIMARY).get("untrained", math.nan)

    @cached_property
    def floor(self) -> float:
        """The primary metric below which the first arm has learnt; NaN without a calibration."""
        return LEARNT * self.untrained

    @cached_property
    def untrained_of(self) -> pd.Series:
        """Run -> the primary metric of the untrained generator against images of its classes."""
        others = self.calibration.attrs.get("untrained", {})
        known = {classes: scores[PRIMARY] for classes, scores in others.items()}
        known[self.config.classes] = self.untrained
        own = {run: self.configs[run.rpartition("/")[0]].classes for run in self.planned.index}
        return pd.Series(own).map(known)

    @cached_property
    def learnt(self) -> list[tuple]:
        """The arms that have learnt by their last epoch, by the geometric mean over seeds.

        All of them where there is no calibration.
        """
        if not self.floor > 0:
            return self.arms
        times = self.last.set_index("run")[PRIMARY] / self.untrained_of
        logs, level = logarithm(times), math.log(LEARNT)
        return [arm for arm in self.arms if logs.reindex(self.runs_of[arm]).mean() < level]

    @cached_property
    def learning_levels(self) -> list:
        """The levels of the first factor with which some arm has learnt; all where no arm has."""
        learnt = {arm[0] for arm in self.learnt}
        return [x for x in self.levels[self.factors[0]] if x in learnt or not learnt]

    @cached_property
    def learners(self) -> "Analysis":
        """The study of the arms that have learnt; of all where none has."""
        if len(self.learnt) in (0, len(self.arms)):
            return self
        runs = [run for arm in self.learnt for run in self.runs_of[arm]]
        frames = {name: getattr(self, name) for name in ("plan", "frame", "curves", "eval_sets")}
        kept = {name: frame[frame["run"].isin(runs)] for name, frame in frames.items()}
        return replace(self, arms=self.learnt, **kept)

    @cached_property
    def traces(self) -> dict[str, pd.DataFrame]:
        """Run -> its rows of the frame, with `log` of the primary metric."""
        table = self.frame.assign(log=logarithm(self.frame[PRIMARY]))
        return dict(iter(table.groupby("run", sort=False)))

    @cached_property
    def settled(self) -> dict[str, pd.DataFrame]:
        """The traces after burn-in."""
        starts = self.planned.map(burn_in)
        return {run: rows[rows["epoch"] > starts[run]] for run, rows in self.traces.items()}

    @cached_property
    def fluctuation(self) -> pd.DataFrame:
        """A table of runs: `statistics.fluctuation` of their own scores after burn-in.

        With `noise`, the variance of one evaluation of the arm, and `variance`: `with_noise` less
        that.
        """
        runs = {run: statistics.fluctuation(rows["log"]) for run, rows in self.settled.items()}
        table = pd.DataFrame(runs).T
        variance = table["with_noise"] - self.noise
        return self._per_run(table.assign(noise=self.noise, variance=variance))

    @cached_property
    def shares(self) -> pd.DataFrame:
        """The components of the variance of the logarithm: over all arms, and over those that have
        learnt if not all have; and in each arm.

        Columns: `where`; `arms`, `seeds`, `epochs`, `eval_sets` (the sizes of the crossed design);
        of each axis its component, which may be negative; `total`, the sum of those that are not;
        and of each axis `<axis>_share` of it. Empty without two sets at the same epochs.
        """
        cube = self._crossed()
        if not cube.size:
            return pd.DataFrame()
        parts = {"all arms": cube} if len(self.arms) > 1 else {}
        if 1 < len(self.learnt) < len(self.arms):
            parts["arms that have learnt"] = self.learners._crossed()
        parts |= {arm_name(self, arm): cube[[i]] for i, arm in enumerate(self.arms)}
        axes = ["arms", "seeds", "epochs", "eval_sets"]
        sizes = pd.DataFrame([x.shape for x in parts.values()], columns=axes)
        sizes.insert(0, "where", list(parts))
        variances = pd.DataFrame([statistics.components(x) for x in parts.values()])
        known = variances.clip(lower=0)
        total = known.sum(axis=1).rename("total")
        shares = known.div(total.where(total > 0), axis=0).add_suffix("_share")
        return sizes.join([variances, total, shares])

    def _crossed(self) -> np.ndarray:
        """log metric (arms, seeds, epochs, sets) after burn-in, of the seeds that have all."""
        logs = self._settled_set_logs
        epochs, seeds = sorted(set(logs.index.get_level_values("epoch"))), set(self.plan["seed"])
        cells = [(run, x) for arm in self.arms for run in self.runs_of[arm] for x in epochs]
        cube = logs.reindex(cells).to_numpy()
        cube = cube.reshape(len(self.arms), len(seeds), len(epochs), logs.shape[1])
        return cube[:, np.isfinite(cube).all(axis=(0, 2, 3))]

    @cached_property
    def selection(self) -> pd.DataFrame:
        """A table of ended runs: the best epoch, chosen on one set and reported on another.

        Columns: `own` (the metric of the best epoch on set 0, the run's own), `other` (of the same
        epoch on set 1), `last` (of the last epoch on set 1); `optimism` and `gain`: the logarithms
        of other / own and of last / other. All epochs with evaluation sets count.
        """
        known = self.set_logs.reindex(columns=[0, 1]).dropna().reset_index()
        best = known.loc[known.groupby("run")[0].idxmin()].set_index("run")
        last = known[known["epoch"] == known["run"].map(self.planned)].set_index("run")
        logs = pd.DataFrame({"own": best[0], "other": best[1], "last": last[1]}).dropna()
        optimism, gain = logs["other"] - logs["own"], logs["last"] - logs["other"]
        return self._per_run(np.exp(logs).assign(optimism=optimism, gain=gain))

    @cached_property
    def ranks(self) -> pd.DataFrame:
        """A table of runs: whether a loss moves with the primary metric from epoch to epoch.

        Spearman's correlation, after burn-in, of the changes of each loss with those of the metric:
        two curves that merely both go down have none. NaN below three changes of the metric.
        """
        rows = {}
        for run, trace in self.settled.items():
            changes = trace[["log", *FIRST_LOSSES]].diff()
            rows[run] = changes.corr("spearman", min_periods=3).loc["log", [*FIRST_LOSSES]]
        return self._per_run(pd.DataFrame(rows).T)

    @cached_property
    def regret(self) -> pd.DataFrame:
        """A table of ended runs: log primary metric of the epoch that one may choose after burn-in.

        The `last`, the `best`, a `random` one (the mean of all), that of the highest D loss
        (`d_loss`), that of the lowest G loss (`g_loss`).
        """
        rows = {}
        for run in self.last["run"]:
            trace = self.settled[run]
            logs = trace["log"]
            rows[run] = {
                "last": logs.iloc[-1],
                "best": logs.min(),
                "random": logs.mean(skipna=False),
                "d_loss": _where_least(-trace["d_loss"], logs),
                "g_loss": _where_least(trace["g_loss"], logs),
            }
        columns = ["last", "best", "random", *FIRST_LOSSES]
        return self._per_run(pd.DataFrame(rows, index=columns).T)

    @cached_property
    def relapse(self) -> pd.DataFrame:
        """A table of runs with these epochs: whether one is fine, then bad, and fine again.

        `relapse` is 1 where the metric at epoch 20 is worse than at both 10 and 30 by 5 %, or at 30
        than at 20. `by_noise`: how likely noise alone makes that of a run that gets steadily
        better, by the straight line through its epochs 10 to 30, made level where it would rise.
        """
        rows = {}
        for run, trace in self.traces.items():
            logs = trace.set_index("epoch")["log"]
            first, second, third = logs.reindex(RELAPSE)
            worse = second - max(first, third) >= WORSE or third - second >= WORSE
            if math.isfinite(first + second + third):
                part = logs.loc[RELAPSE[0] : RELAPSE[-1]].dropna()
                slope = min(np.polyfit(part.index, part, 1)[0], 0.0)
                trend = [slope * epoch for epoch in RELAPSE]
                by_noise = statistics.relapse_by_noise(trend, self.noise[run], WORSE)
                rows[run] = {"relapse": float(worse), "by_noise": by_noise}
        return self._per_run(pd.DataFrame(rows, index=["relapse", "by_noise"]).T)

    def reached(self, threshold: float) -> pd.DataFrame:
        """By run the `images` and `steps` at which the primary metric first falls to a threshold.

        Its logarithm is linear between epochs, from the untrained generator on. A run that never
        gets there has NaN.
        """
        rows, starts = {}, np.log(self.untrained_of)  # NaN, which is left out, where unknown
        for run, trace in self.traces.items():
            logs = [starts[run], *trace["log"]]
            rows[run] = [
                statistics.crossing([0, *trace[clock]], logs, math.log(threshold))
                for clock in ("images", "steps")
            ]
        return pd.DataFrame.from_dict(rows, orient="index", columns=["images", "steps"])

    @cached_property
    def reach(self) -> pd.DataFrame:
        """One row per arm and threshold that a run of it reaches: how many do, and after how much.

        `runs` (that have ended), `reached` (of these), and the geometric means of `images` and
        `steps`, NaN unless all of them reach it after the start.
        """
        rows = []
        for threshold in THRESHOLDS:
            times = self.reached(threshold)
            for row, runs in self.rows_of_arms(self.last):
                part = times.reindex(runs["run"])
                row |= {"threshold": threshold, "runs": len(part)}
                row["reached"] = part["images"].count()
                rows.append(row | dict(np.exp(part.apply(logarithm).mean(skipna=False))))
        table = pd.DataFrame(rows)
        return table[table["reached"] > 0].reset_index(drop=True)

    @cached_property
    def results(self) -> pd.DataFrame:
        """What `python -m eval` measured: a row per run, a column `analysis/name` per number."""
        rows: dict[str, dict[str, float]] = {run: {} for run in self.plan["run"]}
        for analysis, runs in self.analyses.items():
            for run, result in runs.items():
                values = result["values"].items()
                rows[run] |= {f"{analysis}/{name}": value for name, value in values}
        return pd.DataFrame.from_dict(rows, orient="index").astype("float64")

    def by_arm(self, table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
        """A row per arm of a table of runs: `seeds`; of each column the mean and its t interval."""
        rows = []
        for row, runs in self.rows_of_arms(table):
            row["seeds"] = len(runs)
            for column in columns:
                mean = statistics.over_seeds(runs[column])
                row |= {column: mean.value, f"{column}_low": mean.low, f"{column}_high": mean.high}
            rows += [row] if len(runs) else []
        return pd.DataFrame(rows)

    @cached_property
    def set_logs(self) -> pd.DataFrame:
        """log metric: a row per (run, epoch) that has evaluation sets, a column per set."""
        sets = self.eval_sets.assign(log=logarithm(self.eval_sets[PRIMARY]))
        return sets.pivot(index=["run", "epoch"], columns="eval_set", values="log")

    @cached_property
    def _settled_set_logs(self) -> pd.DataFrame:
        start = burn_in(int(self.planned.max()))
        return self.set_logs[self.set_logs.index.get_level_values("epoch") > start]

    @cached_property
    def noise(self) -> pd.Series:
        """Run -> the measurement variance of one evaluation of its arm, after burn-in."""
        noise = {}
        for runs in self.runs_of.values():
            values = self._settled_set_logs.reindex(runs, level="run")
            noise |= dict.fromkeys(runs, statistics.noise_variance(values))
        return pd.Series(noise)

    def _per_run(self, numbers: pd.DataFrame) -> pd.DataFrame:
        """A table of runs, in the order of the plan, of numbers by run."""
        keys = self.plan.set_index("run")[[*self.factors, "seed"]]
        return keys.join(numbers, how="inner").rename_axis("run").reset_index()


def analyse(study: Study) -> Analysis:
    return Analysis(**{field.name: getattr(study, field.name) for field in fields(study)})


def arm_name(study: Study, arm: tuple) -> str:
    """`norm=none, head=conv, batch=128`."""
    return ", ".join(f"{factor}={level}" for factor, level in zip(study.factors, arm, strict=True))


def effect_numbers(effect: Effect) -> dict[str, object]:
    """One row of a table of effects; `n`: seeds of which every cell is there."""
    row: dict[str, object] = {"effect": effect.name, "factors": len(effect.factors)}
    for name, x in {"ratio": effect.ratio, "difference": effect.difference}.items():
        row |= {name: x.value, f"{name}_low": x.low, f"{name}_high": x.high}
    return row | {
        "p_t": effect.ratio.p,
        "p_flip": effect.ratio.p_flip,
        "p_holm": effect.p_holm,
        "n": len(effect.seeds),
        "seeds": " ".join(map(str, effect.seeds)),
        "dropped": " ".join(map(str, effect.dropped)),
    }


def no_verdict(seeds: int) -> str:
    """Why so few seeds get numbers and no verdict; an empty text where they are enough."""
    if seeds >= VERDICT_SEEDS:
        return ""
    if seeds == 1:
        return "One seed gives neither an interval nor a verdict."
    return (
        f"Below {VERDICT_SEEDS} seeds no verdict is given: with {seeds}, the p of a two-sided "
        f"sign-flip test cannot be below {2.0 ** (1 - seeds):.4g}."
    )


def _where_least(values: pd.Series, logs: pd.Series) -> float:
    """The logarithm at the epoch whose value is lowest; NaN where none is known."""
    return logs[values.idxmin()] if values.notna().any() else math.nan


def _rank_correlations(rows: pd.DataFrame, by: str) -> pd.Series:
    """Spearman's correlation of the primary metric with `other`, of each run or seed."""
    groups = rows.groupby(by)[[PRIMARY, "other"]]
    values = [x.corr("spearman", min_periods=3).iloc[0, 1] for _, x in groups]
    return pd.Series(values, dtype=float)
