"""Paired contrasts, intervals, fluctuation and variance components: pure functions of arrays.

The unit of replication is the training run, and runs that share a seed are pairs. Every estimate is
one number a seed, averaged over seeds, with Student's t interval; the p beside it is either the
paired t's or the exact sign-flip's, and both are given.

The paired t feeds Holm. The sign-flip assumes less, but with 8 seeds it cannot fall below
2 / 2^8 = 0.0078, and Holm over the seven effects of a 2 x 2 x 2 grid asks the smallest p for
0.05 / 7 = 0.0071: it would never find anything. Under no effect the two sides of a pair have the
same distribution, so that their difference is symmetric, and there the t test errs to the safe
side when tails are heavy.

A number that is not finite is missing. Metrics go in as logarithms where a ratio is wanted, and
lower is better: negate a metric of which more is better.
"""

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
MOST_FLIPS = 40  # seeds; above, the sign patterns are too many to go through
AXES = ("arm", "seed", "epoch", "evaluation")


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % t interval; all NaN below two seeds."""

    value: float
    low: float
    high: float
    p: float  # two-sided, of no effect
    n: int  # seeds


@dataclass(frozen=True)
class Contrast:
    """One effect of a grid, on the log scale and on the metric's own.

    The ps are those of the log scale; where a value is not positive there is no log scale, `ratio`
    is NaN, and they are those of `difference`.
    """

    name: str  # "norm", "norm × batch"; "batch=512" where batch has more than two levels
    effect: dict[str, tuple]  # factor -> (low, high)
    ratio: Estimate  # high / low; for an interaction the ratio of ratios; its p is the sign-flip's
    difference: Estimate  # high - low; for an interaction the difference of differences
    p_t: float
    p_flip: float
    p_holm: float  # of p_t over the family; NaN outside of it
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
    """The mean of one number a seed (n,), its t interval, and the exact sign-flip p of zero."""
    estimate = paired_t(values)
    return replace(estimate, p=sign_flip(values)) if estimate.n > 1 else estimate


def paired_t(differences: ArrayLike) -> Estimate:
    """The mean of one difference a pair (n,), its t interval, and the paired t test's p.

    Differences without any spread tell t nothing of their noise; p is then the sign-flip's.
    """
    x = _finite(differences)
    if len(x) < 2:
        return Estimate(math.nan, math.nan, math.nan, math.nan, len(x))
    mean, error = x.mean(), x.std(ddof=1) / math.sqrt(len(x))
    half = stdtrit(len(x) - 1, (1 + CONFIDENCE) / 2) * error
    spread = error > 1e-12 * abs(mean)  # more than rounding
    p = 2 * _tail(abs(mean), error, len(x) - 1) if spread else sign_flip(x)
    return Estimate(float(mean), float(mean - half), float(mean + half), p, len(x))


def sign_flip(differences: ArrayLike) -> float:
    """The exact two-sided p that differences (n,) add up to so much by their signs alone.

    The share of all 2^n sign patterns whose sum is at least as far from zero. NaN for n = 0 and
    above 40. Fisher, The Design of Experiments, section 21.
    """
    x = _finite(differences)
    if not 0 < len(x) <= MOST_FLIPS:
        return math.nan
    reach = abs(x.sum()) - 1e-12 * np.abs(x).sum()  # sums that differ by rounding are equal
    if reach <= 0:
        return 1.0

    # Every sum is one of the first half's plus one of the second half's.
    first, second = _signed_sums(x[: len(x) // 2]), _signed_sums(x[len(x) // 2 :])
    above = len(second) - np.searchsorted(np.sort(second), reach - first)
    return float(2 * above.sum() / 2.0 ** len(x))


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
    left = np.arange(len(order), 0, -1)
    scaled = p[order] * (left if most_true is None else np.minimum(left, most_true))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


def improvement(x: ArrayLike, y: ArrayLike) -> float:
    """P(X < Y) + P(X = Y) / 2 over all pairs of x (n,) and y (m,): how often x is the better.

    Agarwal et al. 2021, arXiv 2108.13264, where it is called the probability of improvement.
    """
    x, y = _finite(x)[:, None], _finite(y)[None, :]
    return float(np.mean((x < y) + (x == y) / 2)) if x.size and y.size else math.nan


def below(differences: ArrayLike, bound: float) -> float:
    """The p of a one-sided t test that the mean of (n,) is not below `bound`; NaN for n < 2.

    The larger one of below(x, margin) and below(-x, margin) is the p of two one-sided tests (TOST)
    that the mean lies outside of +-margin (Schuirmann 1987). Without any spread it is 0, 1/2 or 1.
    """
    x = _finite(differences)
    if len(x) < 2:
        return math.nan
    error = x.std(ddof=1) / math.sqrt(len(x))
    return _tail(bound - x.mean(), error, len(x) - 1)


def contrast(
    table: pd.DataFrame, effect: dict[str, tuple], value: str, *, factors: Sequence[str]
) -> np.ndarray:
    """One number for each seed, in their order: what a change of levels does to `value`.

    `table` has one row for each cell of the `factors` and each `seed`. For one factor of `effect`
    (factor -> (low, high)) it is the value at high less that at low, for two the difference of
    differences, for three the third difference; each is the mean over the cells of the other
    factors. A seed of which any of these cells is missing is left out whole. Values are found by
    their seed, never by where they stand. Raises ValueError on two rows for one cell and seed, and
    on a factor or level that the table does not have.
    """
    return _finite(_per_seed(_cube(table, factors, value), effect))


def contrasts(
    table: pd.DataFrame, factors: Sequence[str], value: str, family: Sequence[str]
) -> list[Contrast]:
    """All main effects, then all interactions, of the factors on a metric; see `contrast`.

    `value` is the metric itself, not its logarithm. The first level of a factor in the table is the
    low one; one with more than two levels gives an effect for each other level, a factor with one
    level none. Holm goes over the effects whose name is in `family`.
    """
    cube = _cube(table, factors, value)
    positive = not (cube.values <= 0).any()
    logs = replace(cube, values=np.log(cube.values)) if positive else cube
    found = []
    for effect in _effects(cube.levels):
        change = _per_seed(logs, effect)
        kept = np.isfinite(change)
        found.append(
            Contrast(
                name=" × ".join(_name(cube.levels, *part) for part in effect.items()),
                effect=effect,
                ratio=_exp(over_seeds(change if positive else [])),
                difference=over_seeds(_per_seed(cube, effect)),
                p_t=paired_t(change).p,
                p_flip=over_seeds(change).p,
                p_holm=math.nan,
                improvement=_improvement(cube, effect, kept),
                seeds=[seed for seed, keep in zip(cube.seeds, kept, strict=True) if keep],
                dropped=[seed for seed, keep in zip(cube.seeds, kept, strict=True) if not keep],
            )
        )
    confirmatory = [one.p_t if one.name in family else math.nan for one in found]
    adjusted = holm(confirmatory)
    return [replace(one, p_holm=float(p)) for one, p in zip(found, adjusted, strict=True)]


def fluctuation(series: ArrayLike, burn_in: int, noise: float) -> Fluctuation:
    """How a run goes up and down, from its log-metric (E epochs,) or (E, K evaluation banks).

    All of it is about the mean over banks, after the first `burn_in` epochs. `noise` is the
    measurement variance of one bank, `bank_variance`; its banks must be fresh at every epoch, or
    noise cancels in the changes and too much is taken out.

    `variance`: half the variance of successive changes, less noise / K. It is negative where there
    is less fluctuation than noise, by chance or for good; NaN below two changes. A straight trend
    does not count; one whose slope changes by s on the way adds s^2 / 24, which for a slope that
    goes from 2.4 % to 0.8 % an epoch is the variance of a fluctuation by 0.33 %. The divisor for n
    changes is n - 1 / n, not n - 1, which makes it unbiased where
    an epoch's deviation says nothing of the next one's: changes of such a series are correlated,
    and at n = 5 the common divisor would give a fifth too much. It gives n / (n + 1) of the truth
    for a random walk, and (1 - r) of the variance where neighbouring epochs correlate with r.

    `drawdown`: the largest rise above the best epoch until then. `regret`: last less best, NaN
    where the last epoch is missing. Both are logarithms of ratios, at least 0, and noise alone
    makes them positive.

    `autocorrelation`: of neighbouring epochs, about a straight line; NaN below four epochs. It is
    biased in a short series: of n epochs without any memory about -2 / n is to be expected (-1/3
    of 6), which it has to be compared with, and not with zero; noise draws it there too.

    An epoch that is missing ends a stretch: no change reaches across it.
    """
    banks = np.asarray(series, dtype=float)
    banks = banks[:, None] if banks.ndim == 1 else banks
    x = banks[burn_in:].mean(axis=1)
    x = np.where(np.isfinite(x), x, math.nan)
    present = x[np.isfinite(x)]
    if not len(present):
        return Fluctuation(math.nan, math.nan, math.nan, math.nan, 0)

    # Half the variance of the changes, which meet at their ends in each unbroken stretch.
    changes = np.diff(x)
    whole = np.isfinite(changes)
    stretches = int((np.diff(whole, prepend=False) & whole).sum())
    changes = changes[whole]
    n = len(changes)
    variance = math.nan
    if n > 1:
        squares = ((changes - changes.mean()) ** 2).sum()
        variance = squares / (n - stretches / n) / 2 - noise / banks.shape[1]

    return Fluctuation(
        variance=float(variance),
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


def bank_variance(values: ArrayLike) -> float:
    """The measurement variance of one bank: pooled within the cells of values (..., K banks).

    NaN where no cell has two banks.
    """
    x = np.asarray(values, dtype=float)
    present = np.isfinite(x)
    count = present.sum(axis=-1)
    x = np.where(present, x, 0.0)
    mean = x.sum(axis=-1, keepdims=True) / np.maximum(count, 1)[..., None]
    squares = np.where(present, (x - mean) ** 2, 0.0).sum()
    freedom = np.maximum(count - 1, 0).sum()
    return float(squares / freedom) if freedom else math.nan


def components(values: ArrayLike) -> dict[str, float]:
    """Variance components of values (A arms, S seeds, E epochs, K evaluation banks).

    `evaluation`: between banks of one epoch. `epoch`: between the epochs of one run, a trend
    included. `seed`: between the runs of one arm. `arm`: between the arms' means. They add up to
    the variance of one evaluation of any run at any epoch. Estimates may be negative.

    Moment estimators of the balanced random-effects analysis of variance (Searle, Casella and
    McCulloch, Variance Components, chapter 4). Arms share their seeds and runs their epochs, so
    what two seeds differ by is set against the interaction with epochs, and what two arms differ by
    against that with seeds: a seed that is easy for all arms, or a trend that all runs follow,
    would else be taken off the level above. A seed with a missing value in any arm is left out of
    all. A component is NaN where the axes have too few members to tell it apart.
    """
    x = np.asarray(values, dtype=float)
    x = x[:, np.isfinite(x).all(axis=(0, 2, 3))]
    arms, seeds, epochs, banks = x.shape
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
    evaluation = variance(x - cell, arms * seeds * epochs * (banks - 1))
    within_run = variance(cell - run, arms * seeds * (epochs - 1))
    unshared = variance(cell - curve - run + arm, arms * (seeds - 1) * (epochs - 1))
    within_arm = variance(run - arm, arms * (seeds - 1))
    unpaired = variance(run - arm - seed + grand, (arms - 1) * (seeds - 1))
    between_arms = variance(arm - grand, arms - 1)
    return {
        "arm": between_arms - unpaired / seeds,
        "seed": within_arm - unshared / epochs,
        "epoch": within_run - evaluation / banks,
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
    pairs = pairs[:, np.isfinite(pairs).all(axis=0)]
    ranks = pd.DataFrame(pairs.T).rank().to_numpy()
    if len(ranks) < 3 or (ranks == ranks[0]).all(axis=0).any():
        return math.nan
    return float(np.corrcoef(ranks.T)[0, 1])


@dataclass(frozen=True)
class _Cube:
    """A table as an array: values (seeds, levels of the first factor, of the second, ...)."""

    values: np.ndarray  # NaN where a row or its number is missing
    seeds: list[int]  # sorted
    levels: dict[str, list]  # factor -> its levels, in the order of the table


def _cube(table: pd.DataFrame, factors: Sequence[str], value: str) -> _Cube:
    absent = [name for name in (*factors, "seed", value) if name not in table]
    if absent:
        raise ValueError(f"the table has no column {absent[0]}")
    double = table.duplicated(["seed", *factors])
    if double.any():
        row = table[double].iloc[0]
        cell = ", ".join(f"{name}={row[name]}" for name in (*factors, "seed"))
        raise ValueError(f"the table has two rows for {cell}")

    # Every number goes to the place that its own seed and levels name.
    seeds = sorted(set(table["seed"].tolist()))
    levels = {name: list(dict.fromkeys(table[name].tolist())) for name in factors}
    axes = [("seed", seeds), *levels.items()]
    values = np.full([len(members) for _, members in axes], math.nan)
    places = []
    for name, members in axes:
        place = {member: i for i, member in enumerate(members)}
        places.append([place[member] for member in table[name].tolist()])
    numbers = table[value].to_numpy(dtype=float)
    values[tuple(places)] = np.where(np.isfinite(numbers), numbers, math.nan)
    return _Cube(values, seeds, levels)


def _per_seed(cube: _Cube, effect: dict[str, tuple]) -> np.ndarray:
    """The contrast of every seed (seeds,), NaN where a cell of it is missing."""
    for factor, pair in effect.items():
        for level in pair:
            if level not in cube.levels.get(factor, []):
                raise ValueError(f"the table has no {factor}={level}")
    numbers = cube.values
    for axis, (factor, levels) in reversed(list(enumerate(cube.levels.items(), start=1))):
        if factor in effect:
            low, high = (numbers.take(levels.index(level), axis) for level in effect[factor])
            numbers = high - low
        else:
            numbers = numbers.mean(axis)
    return numbers


def _improvement(cube: _Cube, effect: dict[str, tuple], kept: np.ndarray) -> float:
    """P(high < low) of a main effect in each cell of the other factors, and the mean of these."""
    if len(effect) > 1 or kept.sum() < 2:
        return math.nan
    ((factor, pair),) = effect.items()
    levels = cube.levels[factor]
    axis = 1 + list(cube.levels).index(factor)
    low, high = (
        cube.values[kept].take(levels.index(level), axis).reshape(kept.sum(), -1) for level in pair
    )
    return float(np.mean([improvement(x, y) for x, y in zip(high.T, low.T, strict=True)]))


def _effects(levels: dict[str, list]) -> list[dict[str, tuple]]:
    """Every main effect, then every two-way interaction, and so on."""
    pairs = {name: [(x[0], high) for high in x[1:]] for name, x in levels.items() if len(x) > 1}
    return [
        dict(zip(names, chosen, strict=True))
        for size in range(1, len(pairs) + 1)
        for names in itertools.combinations(pairs, size)
        for chosen in itertools.product(*(pairs[name] for name in names))
    ]


def _name(levels: dict[str, list], factor: str, pair: tuple) -> str:
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


def _signed_sums(x: np.ndarray) -> np.ndarray:
    """The 2^n sums of x (n,) under every pattern of signs."""
    sums = np.zeros(1)
    for value in x:
        sums = np.concatenate([sums + value, sums - value])
    return sums
