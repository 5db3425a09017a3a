"""Paired contrasts, intervals, fluctuation and variance components: pure functions of arrays.

The unit of replication is the training run, and runs that share a seed are pairs. Every estimate is
one number a seed, averaged over seeds, with Student's t interval and two p values: of the paired t
test and of the exact sign-flip test.

The paired t feeds Holm. The sign-flip assumes less, but with 8 seeds it cannot fall below
2 / 2^8 = 0.0078, and Holm over the seven effects of a 2 x 2 x 2 grid asks the smallest p for
0.05 / 7 = 0.0071: it would never find anything. Under no effect the two sides of a pair have the
same distribution, so that their difference is symmetric, and there the t test errs to the safe
side when tails are heavy.

A number that is not finite is missing. Metrics go in as logarithms where a ratio is wanted, and
lower is better: negate a metric of which more is better. Student's t is SciPy's, from
`scipy.special`: to import `scipy.stats` takes longer than to read a study.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import ndtr, stdtr, stdtrit

CONFIDENCE = 0.95
VERDICT_SEEDS = 6  # the least at which a two-sided sign-flip p can be below 0.05
MAX_FLIPPED = 20  # seeds; with more of them the sign patterns are too many to go through
AXES = ("arm", "seed", "epoch", "evaluation")

Levels = dict[str, list]  # of each factor, in the order of the table
Effect = dict[str, tuple]  # factor -> (low, high)


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds; with fewer than two of them it has neither an interval nor a p."""

    value: float
    low: float  # of the 95 % t interval
    high: float
    p: float  # of no effect, by the paired t test, two-sided
    p_flip: float  # the same by the exact sign-flip test
    n: int  # seeds


@dataclass(frozen=True)
class Contrast:
    """One effect of a grid, on the log scale and on the metric's own.

    Where a value is not positive there is no log scale; `ratio` is NaN, and the p values are those
    of `difference`.
    """

    name: str  # "norm", "norm × batch"; "batch=512" where batch has more than two levels
    effect: Effect
    ratio: Estimate  # high / low; for an interaction the ratio of ratios
    difference: Estimate  # high - low; for an interaction the difference of differences
    p_t: float  # both of the logarithms
    p_flip: float
    p_holm: float  # p_t adjusted over the main effects; NaN for an interaction
    improvement: float  # P(a run at high < a run at low), mean over the other cells; main effects
    seeds: list[int]
    dropped: list[int]  # of which a cell is missing


@dataclass(frozen=True)
class Fluctuation:
    """How one run goes up and down after its burn-in; see `fluctuation`."""

    variance: float
    drawdown: float
    regret: float
    autocorrelation: float
    changes: int  # successive pairs of epochs that it was measured on


def burn_in(epochs: int) -> int:
    """How many epochs at the start do not count: those before a third of the run, rounded down.

    Of 30 epochs the first 9 are left out, and 10 to 30 count.
    """
    return max(epochs // 3, 1) - 1


def over_seeds(values: ArrayLike) -> Estimate:
    """The mean of one number a seed (n,), its t interval, and how likely no effect gives as much.

    Values without any spread tell t nothing of their noise; `p` is then the sign-flip's.
    """
    x = _finite(values)
    if len(x) < 2:
        return Estimate(float(x[0]) if len(x) else math.nan, *[math.nan] * 4, len(x))
    mean, error = float(x.mean()), float(x.std(ddof=1)) / math.sqrt(len(x))
    half = stdtrit(len(x) - 1, (1 + CONFIDENCE) / 2) * error
    flip, spread = sign_flip(x), error > 1e-12 * abs(mean)  # more than rounding
    p = 2 * _tail(abs(mean), error, len(x) - 1) if spread else flip
    return Estimate(mean, float(mean - half), float(mean + half), p, flip, len(x))


def sign_flip(differences: ArrayLike) -> float:
    """The exact two-sided p that differences (n,) add up to so much by their signs alone.

    The share of all 2^n sign patterns whose sum is at least as far from zero. NaN for n = 0 and
    above 20. Fisher, The Design of Experiments, section 21.
    """
    x = _finite(differences)
    if not 0 < len(x) <= MAX_FLIPPED:
        return math.nan
    sums = functools.reduce(np.add.outer, np.stack([x, -x], axis=1))  # 2 x 2 x ...: every pattern
    rounding = 1e-12 * np.abs(x).sum()
    return float((np.abs(sums) >= abs(x.sum()) - rounding).mean())


def below(differences: ArrayLike, bound: float) -> float:
    """The p of a one-sided t test that the mean of (n,) is not below `bound`; NaN for n < 2.

    The larger one of below(x, margin) and below(-x, margin) is the p of two one-sided tests (TOST)
    that the mean lies outside of +-margin (Schuirmann 1987). Without any spread it is 0, 1/2 or 1.
    """
    x = _finite(differences)
    if len(x) < 2:
        return math.nan
    return _tail(bound - x.mean(), x.std(ddof=1) / math.sqrt(len(x)), len(x) - 1)


def holm(p_values: ArrayLike, most_true: int | None = None) -> np.ndarray:
    """Holm's adjusted p values (m,), in the order given; a NaN stays NaN and does not count.

    `most_true`: how many of the null hypotheses can be true at once, where some exclude each other
    (None: all of them). A p is then multiplied by no more than that. Holm 1979, A Simple
    Sequentially Rejective Multiple Test Procedure; Shaffer 1986, Modified Sequentially Rejective
    Multiple Test Procedures, procedure S1.
    """
    p = np.asarray(p_values, dtype=float)
    adjusted = np.full_like(p, math.nan)
    order = np.argsort(p)[: np.isfinite(p).sum()]  # NaN sorts last
    scaled = p[order] * np.arange(len(order), 0, -1).clip(0, most_true)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


def improvement(x: np.ndarray, y: np.ndarray) -> float:
    """P(X < Y) + P(X = Y) / 2 over all pairs of x (n, ...) and y (m, ...): how often x is better.

    Further axes are averaged. Agarwal et al. 2021, arXiv 2108.13264: probability of improvement.
    """
    return float(np.mean((x[:, None] < y[None]) + (x[:, None] == y[None]) / 2))


def contrast(
    table: pd.DataFrame, effect: Effect, value: str, *, factors: Sequence[str]
) -> np.ndarray:
    """One number for each seed, in their order: what a change of levels does to `value`.

    `table` has one row for each cell of the `factors` and each `seed`. For one factor of `effect`
    it is the value at high less that at low, for two the difference of differences, for three the
    third difference; each is the mean over the cells of the other factors. A seed of which any of
    these cells is missing is left out whole. Values are paired by their seed, never by their order.
    Raises ValueError on two rows for one cell and seed, and on a level that the table lacks.
    """
    values, _, levels = _grid(table, factors, value)
    return _finite(_per_seed(values, levels, effect))


def contrasts(table: pd.DataFrame, factors: Sequence[str], value: str) -> list[Contrast]:
    """All main effects, then all interactions, of the factors on a metric; see `contrast`.

    `value` is the metric itself, not its logarithm. The first level of a factor in the table is the
    low one; one with more than two levels gives an effect for each other level, a factor with one
    level none. Holm goes over the main effects.
    """
    values, seeds, levels = _grid(table, factors, value)
    positive = not (values <= 0).any()
    logs = np.log(values) if positive else values
    found = []
    for effect in _effects(levels):
        change = _per_seed(logs, levels, effect)
        kept, test = np.isfinite(change), over_seeds(change)
        found.append(
            Contrast(
                name=" × ".join(_name(levels, *part) for part in effect.items()),
                effect=effect,
                ratio=_exp(test if positive else over_seeds([])),
                difference=over_seeds(_per_seed(values, levels, effect)),
                p_t=test.p,
                p_flip=test.p_flip,
                p_holm=math.nan,
                improvement=_improvement(values[kept], levels, effect),
                seeds=seeds[kept].tolist(),
                dropped=seeds[~kept].tolist(),
            )
        )
    adjusted = holm([one.p_t if len(one.effect) == 1 else math.nan for one in found])
    return [replace(one, p_holm=float(p)) for one, p in zip(found, adjusted, strict=True)]


def fluctuation(series: ArrayLike, burn_in: int) -> Fluctuation:
    """How a run goes up and down, from its log-metric (E epochs,) after the first `burn_in`.

    `variance`: half the variance of successive changes; NaN below two of them. Measurement noise is
    in it, to be taken off by the caller (`noise_variance`); it must be drawn afresh at every epoch,
    or it cancels in the changes. A straight trend does not count; one whose slope changes by s adds
    s^2 / 24, which for a slope from 2.4 % to 0.8 % an epoch is the variance of a fluctuation by
    0.33 %. The divisor for n changes is n - 1 / n, which makes it unbiased where an epoch's
    deviation says nothing of the next one's: the changes of such a series are correlated, and at
    n = 5 the usual n - 1 would give a fifth too much. It gives n / (n + 1) of the truth for a
    random walk, and (1 - r) of the variance where neighbouring epochs correlate with r.

    `drawdown`: the largest rise above the best epoch until then. `regret`: last less best, NaN
    where the last epoch is missing. Both are logarithms of ratios, at least 0, and noise alone
    makes them positive.

    `autocorrelation`: of neighbouring epochs, about a straight line; NaN below four epochs. Of n
    epochs without any memory about -2 / n is to be expected, not 0.

    No change reaches across a missing epoch.
    """
    x = np.asarray(series, dtype=float)[burn_in:]
    x = np.where(np.isfinite(x), x, math.nan)
    present = x[np.isfinite(x)]
    if not len(present):
        return Fluctuation(*[math.nan] * 4, 0)

    # Half the variance of the changes, which meet at their ends in each unbroken stretch.
    changes = np.diff(x)
    whole = np.isfinite(changes)
    stretches = int((np.diff(whole, prepend=False) & whole).sum())
    changes = changes[whole]
    n = len(changes)
    squares = ((changes - changes.mean()) ** 2).sum() if n > 1 else math.nan
    return Fluctuation(
        variance=float(squares / (n - stretches / n) / 2) if n > 1 else math.nan,
        drawdown=float((present - np.minimum.accumulate(present)).max()),
        regret=float(x[-1] - present.min()),
        autocorrelation=_autocorrelation(x),
        changes=n,
    )


def relapse_by_noise(trend: Sequence[float], noise: float, by: float) -> float:
    """How likely noise alone makes the second of three log-metrics worse than both others, or the
    third worse than the second, by a logarithm of at least `by`.

    `trend` (3,): what they are without noise; `noise`: the variance of one measurement. The two
    events exclude each other. The first is an integral over the noise of the second one, by
    Gauss-Hermite quadrature with 64 points; NaN where the noise is not known.
    """
    first, second, third = trend
    if not noise > 0:
        relapse = second - max(first, third) >= by or third - second >= by
        return float(relapse) if noise == 0 else math.nan
    sd = math.sqrt(noise)
    points, weights = np.polynomial.hermite_e.hermegauss(64)
    level = second + sd * points - by
    both = ndtr((level - first) / sd) * ndtr((level - third) / sd)
    middle = float(weights @ both / math.sqrt(2 * math.pi))
    return middle + float(ndtr((third - second - by) / (sd * math.sqrt(2))))


def crossing(clock: ArrayLike, values: ArrayLike, threshold: float) -> float:
    """The clock (n,) at which values (n,) first fall to a threshold, linear between two of them.

    NaN where none does. A value that is not finite is left out; the first one may be there already.
    """
    x, y = np.asarray(clock, dtype=float), np.asarray(values, dtype=float)
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    there = np.flatnonzero(y <= threshold)
    if not len(there):
        return math.nan
    i = there[0]
    if i == 0:
        return float(x[0])
    return float(x[i - 1] + (x[i] - x[i - 1]) * (y[i - 1] - threshold) / (y[i - 1] - y[i]))


def noise_variance(values: ArrayLike) -> float:
    """The measurement variance of one evaluation: pooled within the cells of values (..., K).

    K: evaluation sets; NaN where no cell has two.
    """
    x = np.ma.masked_invalid(np.asarray(values, dtype=float))
    freedom = (x.count(axis=-1) - 1).clip(0).sum()
    squares = (x - x.mean(axis=-1, keepdims=True)) ** 2
    return float(squares.sum() / freedom) if freedom else math.nan


def components(values: ArrayLike) -> dict[str, float]:
    """Variance components of values (A arms, S seeds, E epochs, K evaluation sets).

    `evaluation`: between sets of one epoch. `epoch`: between the epochs of one run, a trend
    included. `seed`: between the runs of one arm. `arm`: between the arms' means. They add up to
    the variance of one evaluation of any run at any epoch. Estimates may be negative, and are NaN
    where an axis is too short. A seed with a missing value in any arm is left out of all.

    Moment estimators of the balanced random-effects analysis of variance (Searle, Casella and
    McCulloch, Variance Components, chapter 4). Arms share their seeds and runs their epochs, so
    the error term of seeds is their interaction with epochs, and that of arms theirs with seeds.
    """
    x = np.asarray(values, dtype=float)
    x = x[:, np.isfinite(x).all(axis=(0, 2, 3))]
    arms, seeds, epochs, eval_sets = x.shape
    if not x.size:
        return dict.fromkeys(AXES, math.nan)

    # Means of an epoch of a run, of an epoch of an arm, of a run, of a seed, of an arm, of all.
    cell = x.mean(axis=3, keepdims=True)
    curve = cell.mean(axis=1, keepdims=True)
    run = cell.mean(axis=2, keepdims=True)
    seed = run.mean(axis=0, keepdims=True)
    arm = run.mean(axis=1, keepdims=True)
    grand = arm.mean(axis=0, keepdims=True)

    def variance(deviations: np.ndarray, freedom: int) -> float:
        return float((deviations**2).sum() / freedom) if freedom else math.nan

    # Variances of means; each holds those of the levels below it.
    evaluation = variance(x - cell, arms * seeds * epochs * (eval_sets - 1))
    within_run = variance(cell - run, arms * seeds * (epochs - 1))
    unshared = variance(cell - curve - run + arm, arms * (seeds - 1) * (epochs - 1))
    within_arm = variance(run - arm, arms * (seeds - 1))
    unpaired = variance(run - arm - seed + grand, (arms - 1) * (seeds - 1))
    between_arms = variance(arm - grand, arms - 1)
    return {
        "arm": between_arms - unpaired / seeds,
        "seed": within_arm - unshared / epochs,
        "epoch": within_run - evaluation / eval_sets,
        "evaluation": evaluation,
    }


def shares(components: dict[str, float]) -> dict[str, float]:
    """Each component's part of their sum, a negative one taken as 0; all NaN where one is NaN."""
    clipped = np.maximum(list(components.values()), 0.0)  # a NaN stays one
    total = clipped.sum()
    parts = clipped / total if total else np.full_like(clipped, math.nan)
    return dict(zip(components, parts.tolist(), strict=True))


def logarithm(numbers: pd.Series) -> pd.Series:
    """Natural logarithms; NaN for what is not above 0."""
    return np.log(numbers.where(numbers > 0))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation of x and y (n,), ties by their mean rank; NaN below 3 pairs."""
    pairs = np.stack([np.asarray(x, dtype=float), np.asarray(y, dtype=float)])
    ranks = pd.DataFrame(pairs[:, np.isfinite(pairs).all(axis=0)].T).rank()
    if len(ranks) < 3 or (ranks.nunique() == 1).any():
        return math.nan
    return float(np.corrcoef(ranks.T)[0, 1])


def _grid(
    table: pd.DataFrame, factors: Sequence[str], value: str
) -> tuple[np.ndarray, np.ndarray, Levels]:
    """A table as an array (seeds, levels of the first factor, of the second, ...), and its axes.

    NaN where a row or its number is missing. Seeds are sorted.
    """
    seeds = np.sort(table["seed"].unique())
    levels = {name: table[name].unique().tolist() for name in factors}
    cells = table.set_index(["seed", *factors])[value]
    if cells.index.has_duplicates:
        double = cells.index[cells.index.duplicated()][0]
        raise ValueError(f"the table has two rows for seed, {', '.join(factors)} = {double}")
    index = pd.MultiIndex.from_product([seeds, *levels.values()], names=cells.index.names)
    numbers = cells.reindex(index).to_numpy(dtype=float)
    shape = [len(seeds), *map(len, levels.values())]
    return np.where(np.isfinite(numbers), numbers, math.nan).reshape(shape), seeds, levels


def _per_seed(values: np.ndarray, levels: Levels, effect: Effect) -> np.ndarray:
    """The contrast of every seed (seeds,), NaN where a cell of it is missing."""
    if absent := [(x, y) for x in effect for y in effect[x] if y not in levels.get(x, [])]:
        raise ValueError("the table has no {}={}".format(*absent[0]))
    for axis, (factor, known) in reversed(list(enumerate(levels.items(), start=1))):
        if factor in effect:
            low, high = (values.take(known.index(level), axis) for level in effect[factor])
            values = high - low
        else:
            values = values.mean(axis)
    return values


def _improvement(values: np.ndarray, levels: Levels, effect: Effect) -> float:
    """P(high < low) of a main effect in each cell of the other factors, and the mean of these."""
    if len(effect) > 1 or len(values) < 2:
        return math.nan
    ((factor, pair),) = effect.items()
    axis = 1 + list(levels).index(factor)
    low, high = (values.take(levels[factor].index(level), axis) for level in pair)
    return improvement(high, low)


def _effects(levels: Levels) -> list[Effect]:
    """Every main effect, then every two-way interaction, and so on."""
    pairs = {name: [(x[0], high) for high in x[1:]] for name, x in levels.items() if len(x) > 1}
    return [
        dict(zip(names, chosen, strict=True))
        for size in range(1, len(pairs) + 1)
        for names in itertools.combinations(pairs, size)
        for chosen in itertools.product(*(pairs[name] for name in names))
    ]


def _name(levels: Levels, factor: str, pair: tuple) -> str:
    return factor if len(levels[factor]) == 2 else f"{factor}={pair[1]}"


def _autocorrelation(x: np.ndarray) -> float:
    """Lag-1 autocorrelation of (E,) about its least-squares line; NaN entries are left out."""
    there = np.isfinite(x)
    if there.sum() < 4:
        return math.nan
    epochs = np.arange(len(x))
    rest = x - np.polyval(np.polyfit(epochs[there], x[there], 1), epochs)
    squares = np.nansum(rest**2)
    straight = squares <= 1e-20 * np.nansum(x**2)  # nothing is left but rounding
    return math.nan if straight else float(np.nansum(rest[1:] * rest[:-1]) / squares)


def _exp(estimate: Estimate) -> Estimate:
    with np.errstate(over="ignore"):  # two seeds can give an interval without an end
        value, low, high = np.exp([estimate.value, estimate.low, estimate.high]).tolist()
    return replace(estimate, value=value, low=low, high=high)


def _finite(values: ArrayLike) -> np.ndarray:
    x = np.asarray(values, dtype=float)
    return x[np.isfinite(x)]


def _tail(distance: float, error: float, freedom: int) -> float:
    """P(T > distance / error) of Student's t; without any spread 0, 1/2 or 1."""
    t = distance / error if error > 0 else math.copysign(math.inf, distance) if distance else 0.0
    return float(stdtr(freedom, -t))
