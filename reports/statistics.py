"""Paired effects, intervals, fluctuation and variance components: pure functions of arrays.

Runs that share a seed are pairs. Every estimate is one number a seed, averaged over seeds, with
Student's t interval and two p values: of the paired t test and of the exact sign-flip test. The t's
feeds Holm, for with 8 seeds a sign-flip p cannot fall below 2 / 2^8 = 0.0078, and Holm over the
seven effects of a 2 x 2 x 2 grid asks the smallest p for 0.05 / 7 = 0.0071. Under no effect the
difference of a pair is symmetric, and there the t test errs to the safe side when tails are heavy.

A number that is not finite is missing. Metrics go in as logarithms where a ratio is wanted, and
lower is better. Student's t is from `scipy.special`: `scipy.stats` is slow to import.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import ndtr, stdtr, stdtrit

CONFIDENCE = 0.95
VERDICT_SEEDS = 6  # the least at which a two-sided sign-flip p can be below 0.05
MAX_FLIPPED = 20  # seeds; with more of them the sign patterns are too many to go through
ROUNDING = 1e-9  # of a mean over seeds, in any unit here: what differs by less agrees
POINTS, WEIGHTS = np.polynomial.hermite_e.hermegauss(64)  # of an integral over normal noise


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds; with fewer than two of them it has neither an interval nor a p."""

    value: float
    low: float  # of the 95 % t interval
    high: float
    p: float  # of no effect, by the paired t test, two-sided
    p_flip: float  # the same by the exact sign-flip test
    n: int  # seeds

    def rescaled(self, scale: Callable[[float], float]) -> "Estimate":
        """Mean and interval on another scale, as exp makes ratios of logarithms."""
        return replace(self, **{x: scale(getattr(self, x)) for x in ("value", "low", "high")})


@dataclass(frozen=True)
class Effect:
    """One effect of a grid on a metric, paired by seed."""

    levels: dict[str, tuple]  # factor -> (low, high)
    name: str  # `norm=batch against none`, `norm × batch`
    ratio: Estimate  # high / low, of an interaction the ratio of ratios; p of the logarithm
    ratios: np.ndarray  # of each seed
    difference: Estimate  # high - low; of an interaction the difference of differences
    seeds: list[int]
    dropped: list[int]  # of which a cell is missing
    p_holm: float = math.nan  # of the ratio, over the main effects; NaN for an interaction

    @property
    def factors(self) -> list[str]:
        return list(self.levels)


def burn_in(epochs: int) -> int:
    """How many epochs at the start do not count: of 30 the first 9, so that 10 to 30 do."""
    return max(epochs // 3, 1) - 1


def logarithm(numbers: pd.Series) -> pd.Series:
    """Natural logarithms; NaN for what is not above 0."""
    return np.log(numbers.where(numbers > 0))


def percent_sd(variance: float) -> float:
    """A variance of logarithms as a standard deviation in percent: 0 below 0, NaN for NaN."""
    return 100 * math.sqrt(max(variance, 0.0))


def over_seeds(values: ArrayLike) -> Estimate:
    """The mean of one number a seed (n,), its interval, and how likely no effect gives as much."""
    x = _finite(values)
    if len(x) < 2:
        return Estimate(float(x[0]) if len(x) else math.nan, *[math.nan] * 4, len(x))
    mean, error = float(x.mean()), float(x.std(ddof=1)) / math.sqrt(len(x))
    half = float(stdtrit(len(x) - 1, (1 + CONFIDENCE) / 2)) * error
    p = 2 * _tail(abs(mean), error, len(x))
    return Estimate(mean, mean - half, mean + half, p, sign_flip(x), len(x))


def sign_flip(differences: ArrayLike) -> float:
    """The share of all 2^n sign patterns in which differences (n,) add up to as much or more.

    NaN for n = 0 and above 20. Fisher, The Design of Experiments, section 21.
    """
    x = _finite(differences)
    if not 0 < len(x) <= MAX_FLIPPED:
        return math.nan
    sums = functools.reduce(np.add.outer, np.stack([x, -x], axis=1))  # 2 x 2 x ...: every pattern
    rounding = max(1e-12 * np.abs(x).sum(), ROUNDING * len(x))
    return float((np.abs(sums) >= abs(x.sum()) - rounding).mean())


def below(differences: ArrayLike, bound: float) -> float:
    """The p of a one-sided t test that the mean of (n,) is not below `bound`; NaN for n < 2.

    The larger one of below(x, margin) and below(-x, margin) is the p of two one-sided tests (TOST)
    that the mean lies outside of +-margin (Schuirmann 1987).
    """
    x = _finite(differences)
    if len(x) < 2:
        return math.nan
    return _tail(bound - x.mean(), x.std(ddof=1) / math.sqrt(len(x)), len(x))


def holm(p_values: ArrayLike, most_true: int | None = None) -> np.ndarray:
    """Holm's adjusted p values (m,), in the order given; a NaN stays NaN and does not count.

    A p is multiplied by no more than `most_true`: how many of the null hypotheses can be true at
    once, where some exclude each other. Holm 1979, A Simple Sequentially Rejective Multiple Test
    Procedure; Shaffer 1986, procedure S1.
    """
    p = np.asarray(p_values, dtype=float)
    adjusted = np.full_like(p, math.nan)
    order = np.argsort(p)[: np.isfinite(p).sum()]  # NaN sorts last
    scaled = p[order] * np.arange(len(order), 0, -1).clip(0, most_true)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


def effects(table: pd.DataFrame, factors: Sequence[str], metric: str) -> list[Effect]:
    """All main effects, then all interactions, of the factors on a positive metric.

    `table` has a row for each cell of the factors and each `seed`; its first level of a factor is
    the low one. For one factor a seed gives the logarithm at high less that at low, for two the
    difference of differences, and so on, each a mean over the cells of the other factors. A seed
    that lacks one of these is left out whole; an effect without a seed is not there. Raises
    ValueError on two rows for one cell and seed.
    """
    seeds = np.sort(table["seed"].unique())
    levels = {name: table[name].unique().tolist() for name in factors}
    index = pd.MultiIndex.from_product([seeds, *levels.values()])
    cells = table.set_index(["seed", *factors])[metric].reindex(index).to_numpy(dtype=float)
    shape = [len(seeds), *map(len, levels.values())]
    values = np.where(np.isfinite(cells) & (cells > 0), cells, math.nan).reshape(shape)
    effects = []
    for chosen in _choices(levels):
        changes = _per_seed(np.log(values), levels, chosen)
        kept = np.isfinite(changes)
        effect = Effect(
            levels=chosen,
            name=_name(levels, chosen),
            ratio=over_seeds(changes).rescaled(np.exp),
            ratios=np.exp(changes[kept]),
            difference=over_seeds(_per_seed(values, levels, chosen)),
            seeds=seeds[kept].tolist(),
            dropped=seeds[~kept].tolist(),
        )
        effects += [effect] if effect.seeds else []
    adjusted = holm([x.ratio.p if len(x.factors) == 1 else math.nan for x in effects])
    return [replace(x, p_holm=float(p)) for x, p in zip(effects, adjusted, strict=True)]


def fluctuation(series: ArrayLike) -> dict[str, float]:
    """How a run goes up and down, from its log-metric after burn-in (E epochs,).

    `with_noise`: half the variance of the changes (successive epochs with a number each),
    measurement noise included; NaN below two. A straight trend does not count; one whose slope
    changes by s adds s^2 / 24. The divisor for n changes is n - 1 / n, unbiased where an epoch's
    deviation says nothing of the next one's, for their changes are correlated.

    `drawdown`: the largest rise above the best epoch until then. `regret`: last less best; noise
    alone makes both positive. `autocorrelation`: of neighbouring epochs, about a straight line; NaN
    below four. Of n epochs without any memory about -2 / n is to be expected, not 0.
    """
    x = np.asarray(series, dtype=float)
    present = _finite(x)
    changes = _finite(np.diff(x))
    n = len(changes)
    variance = ((changes - changes.mean()) ** 2).sum() / (n - 1 / n) if n > 1 else math.nan
    rises = present - np.minimum.accumulate(present)
    return {
        "with_noise": float(variance / 2),
        "drawdown": float(rises.max()) if len(present) else math.nan,
        "regret": float(x[-1] - present.min()) if len(present) else math.nan,
        "autocorrelation": _autocorrelation(x),
    }


def relapse_by_noise(trend: Sequence[float], noise: float, by: float) -> float:
    """How likely noise alone makes the second of three log-metrics worse than both others by `by`,
    or the third worse than the second; these exclude each other.

    `trend` (3,): without noise; `noise`: the variance of one measurement or NaN. The first event is
    an integral over the noise of the second log-metric, by Gauss-Hermite quadrature, 64 points.
    """
    first, second, third = trend
    if not noise > 0:
        return math.nan
    sd = math.sqrt(noise)
    level = second + sd * POINTS - by
    both = ndtr((level - first) / sd) * ndtr((level - third) / sd)
    middle = float(WEIGHTS @ both / math.sqrt(2 * math.pi))
    return middle + float(ndtr((third - second - by) / (sd * math.sqrt(2))))


def crossing(clock: ArrayLike, values: ArrayLike, threshold: float) -> float:
    """The clock (n,) at which values (n,) first fall to a threshold, linear between two of them.

    NaN where none does. A value that is not finite is left out; the first one may be there already.
    """
    x, y = np.asarray(clock, dtype=float), np.asarray(values, dtype=float)
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    reached = np.flatnonzero(y <= threshold)
    if not len(reached):
        return math.nan
    i = reached[0]
    return float(np.interp(threshold, y[[i, i - 1]], x[[i, i - 1]]) if i else x[0])


def noise_variance(values: ArrayLike) -> float:
    """The variance of one evaluation, pooled within the cells of values (..., K sets).

    NaN where no cell has two.
    """
    x = np.ma.masked_invalid(np.asarray(values, dtype=float))
    freedom = (x.count(axis=-1) - 1).clip(0).sum()
    squares = (x - x.mean(axis=-1, keepdims=True)) ** 2
    return float(squares.sum() / freedom) if freedom else math.nan


def components(values: ArrayLike) -> dict[str, float]:
    """Variance components of values (A arms, S seeds, E epochs, K evaluation sets).

    `arm`: between arms. `seed`: between the runs of one arm. `epoch`: between the epochs of one
    run, a trend included. `evaluation`: between the sets of one epoch. They add up to the variance
    of one evaluation of any run at any epoch, may be negative, and are NaN where an axis is short.

    Moment estimators of the balanced random-effects analysis of variance (Searle, Casella and
    McCulloch, Variance Components, chapter 4). Arms share their seeds and runs their epochs, so
    the error term of seeds is their interaction with epochs, and that of arms theirs with seeds.
    """
    x = np.asarray(values, dtype=float)
    arms, seeds, epochs, sets = x.shape

    # Means of an epoch of a run, of an epoch of an arm, of a run, of a seed, of an arm, of all.
    cell = x.mean(axis=3, keepdims=True)
    curve = cell.mean(axis=1, keepdims=True)
    run = cell.mean(axis=2, keepdims=True)
    seed = run.mean(axis=0, keepdims=True)
    arm = run.mean(axis=1, keepdims=True)
    grand = arm.mean(axis=0, keepdims=True)

    def variance(deviations: np.ndarray, freedom: int) -> float:
        return float((deviations**2).sum() / freedom) if freedom else math.nan

    # Variances of means; those of the levels below are part of each.
    evaluation = variance(x - cell, arms * seeds * epochs * (sets - 1))
    within_run = variance(cell - run, arms * seeds * (epochs - 1))
    unshared = variance(cell - curve - run + arm, arms * (seeds - 1) * (epochs - 1))
    within_arm = variance(run - arm, arms * (seeds - 1))
    unpaired = variance(run - arm - seed + grand, (arms - 1) * (seeds - 1))
    between_arms = variance(arm - grand, arms - 1)
    return {
        "arm": between_arms - unpaired / seeds,
        "seed": within_arm - unshared / epochs,
        "epoch": within_run - evaluation / sets,
        "evaluation": evaluation,
    }


def _choices(levels: dict[str, list]) -> list[dict[str, tuple]]:
    """The levels of every main effect, then of every two-way interaction, and so on."""
    pairs = {name: [(x[0], high) for high in x[1:]] for name, x in levels.items() if len(x) > 1}
    return [
        dict(zip(names, chosen, strict=True))
        for size in range(1, len(pairs) + 1)
        for names in itertools.combinations(pairs, size)
        for chosen in itertools.product(*(pairs[name] for name in names))
    ]


def _name(levels: dict[str, list], chosen: dict[str, tuple]) -> str:
    """The level is named in an interaction where its factor has more than two."""
    if len(chosen) == 1:
        ((factor, (low, high)),) = chosen.items()
        return f"{factor}={high} against {low}"
    return " × ".join(x if len(levels[x]) == 2 else f"{x}={pair[1]}" for x, pair in chosen.items())


def _per_seed(values: np.ndarray, levels: dict[str, list], chosen: dict[str, tuple]) -> np.ndarray:
    """The effect in every seed (seeds,), NaN where a cell of it is missing."""
    for axis, (factor, known) in reversed(list(enumerate(levels.items(), start=1))):
        if factor in chosen:
            low, high = (values.take(known.index(level), axis) for level in chosen[factor])
            values = high - low
        else:
            values = values.mean(axis)
    return values


def _autocorrelation(x: np.ndarray) -> float:
    """Lag-1 autocorrelation of (E,) about its least-squares line; NaN entries are left out."""
    known = np.isfinite(x)
    if known.sum() < 4:
        return math.nan
    epochs = np.arange(len(x))
    rest = x - np.polyval(np.polyfit(epochs[known], x[known], 1), epochs)
    squares = np.nansum(rest**2)
    straight = squares <= 1e-20 * np.nansum(x**2)  # nothing is left but rounding
    return math.nan if straight else float(np.nansum(rest[1:] * rest[:-1]) / squares)


def _finite(values: ArrayLike) -> np.ndarray:
    x = np.asarray(values, dtype=float)
    return x[np.isfinite(x)]


def _tail(distance: float, error: float, n: int) -> float:
    """P(T > distance / error) of Student's t for a mean of n.

    Values that agree tell t nothing of their noise. Theirs is the share of the 2^n sign patterns.
    """
    if error > ROUNDING:
        return float(stdtr(n - 1, -distance / error))
    if abs(distance) <= ROUNDING:
        return 0.5
    return 2.0**-n if distance > 0 else 1 - 2.0**-n
