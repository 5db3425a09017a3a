"""The statistics against closed forms, SciPy, and simulated studies whose truth is known.

Every simulated study has 8 seeds. Seeds differ a hundred times as much as anything else, and rows
come in no order, so that whatever pairs values by anything but their seed is far off.
"""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import signal, stats

from reports import statistics
from reports.statistics import (
    below,
    burn_in,
    components,
    crossing,
    effects,
    fluctuation,
    holm,
    noise_variance,
    over_seeds,
    relapse_by_noise,
    sign_flip,
)

GRID = {"norm": ["none", "batch"], "head": ["conv", "avgpool"], "batch": [128, 512]}
SEEDS = 8
SIMULATIONS = 1000
CHOSEN = [
    {factor: tuple(GRID[factor]) for factor in names}
    for size in (1, 2, 3)
    for names in itertools.combinations(GRID, size)
]
SIZES = [0.3, 0.05, -0.1, 0.1, 0.0, -0.05, 0.02]  # of the effects on the logarithm
NOISE = 0.05  # of one run's logarithm
EXAMPLE = np.array([0.31, -0.12, 0.44, 0.08, 0.27, 0.15, -0.03, 0.52])


SIGNS = np.array([  # of each effect in each cell; an interaction of k factors counts 2 to the 1 - k
    [math.prod(-1 if level == GRID[x][0] else 1 for x, level in zip(GRID, cell, strict=True)
               if x in chosen) for cell in itertools.product(*GRID.values())]
    for chosen in CHOSEN
])  # fmt: skip


def simulate(rng, studies, sizes=SIZES, draw=None):
    """The logarithms of simulated studies (studies, seeds, cells)."""
    draw = draw or (lambda size: NOISE * rng.normal(size=size))
    mean = sum(x * s / 2 ** len(c) for x, s, c in zip(sizes, SIGNS, CHOSEN, strict=True))
    luck = rng.normal(0, 100 * NOISE, (studies, SEEDS, 1))
    return 4.0 + luck + mean + draw((studies, SEEDS, 8))


def table_of(logs):
    """The rows of one simulated study (seeds, cells), in no order but for the first of a level."""
    index = pd.MultiIndex.from_product([range(SEEDS), *GRID.values()], names=["seed", *GRID])
    table = pd.DataFrame({"fd": np.exp(logs.ravel())}, index=index).reset_index()
    return pd.concat([table[:8], table[8:].sample(frac=1, random_state=1)])


def test_the_interval_and_both_ps_over_seeds():
    estimate, oracle = over_seeds(EXAMPLE), stats.ttest_1samp(EXAMPLE, 0)
    want = (EXAMPLE.mean(), *oracle.confidence_interval(0.95), oracle.pvalue)
    got = (estimate.value, estimate.low, estimate.high, estimate.p)
    assert got == pytest.approx(want, rel=1e-9)
    assert estimate.p_flip == sign_flip(EXAMPLE) != estimate.p
    assert over_seeds(np.insert(EXAMPLE, [0, 8], [math.nan, math.inf])) == estimate
    one = over_seeds([3.0, math.nan])
    assert (one.value, one.n) == (3.0, 1)
    assert np.isnan([one.low, one.high, one.p, one.p_flip, over_seeds([]).value]).all()


@pytest.mark.parametrize(("value", "p"), [(2.0, 2 / 2**7), (-0.1, 2 / 2**7), (0.0, 1.0)])
def test_seeds_without_any_spread(value, p):
    estimate = over_seeds([value] * 7)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((value, value, value))
    assert estimate.p == estimate.p_flip == p
    assert below([value] * 7, 1.0) == (1 - 1 / 2**7 if value > 1.0 else 1 / 2**7)


@pytest.mark.parametrize("n", [1, 2, 7, 8])
def test_the_sign_flip_goes_through_all_patterns(n):
    rng = np.random.default_rng(n)
    for x in (rng.normal(0.5, 1, n), rng.integers(-2, 3, n).astype(float)):
        sums = np.abs(np.array(list(itertools.product([-1, 1], repeat=n))) @ x)
        assert sign_flip(x) == np.mean(sums >= abs(x.sum()) - 1e-9)


def test_how_small_a_sign_flip_p_can_be():
    least = {n: sign_flip(np.arange(1, n + 1)) for n in (5, 6, 8)}
    assert least == {5: 0.0625, 6: 0.03125, 8: 0.0078125}
    assert min(n for n, p in least.items() if p < 0.05) == statistics.VERDICT_SEEDS
    assert holm([least[8]] * 7).min() > 0.05 > holm([least[8]] * 6).min()  # why t feeds Holm
    assert np.isnan([sign_flip(np.full(21, 0.1)), sign_flip([])]).all()


def test_holm_by_hand():
    # Scaled by 4, 3, 2, 1 in their order: 0.02, 0.03, 0.06, 0.04; the last one may not fall back.
    p = [0.01, 0.04, 0.03, 0.005]
    assert holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02], rel=1e-12)
    assert holm([0.7, 0.6]) == pytest.approx([1.0, 1.0], rel=1e-12)
    got = holm([math.nan, 0.04, math.nan, 0.03])
    assert got == pytest.approx([math.nan, 0.06, math.nan, 0.06], rel=1e-12, nan_ok=True)

    # Of four hypotheses no more than two can be true: scaled by 2, 2, 2, 1.
    assert holm(p, 2) == pytest.approx([0.02, 0.06, 0.06, 0.01], rel=1e-12)


def test_three_tests_of_each_effect_make_an_error_in_5_of_100_studies_at_most():
    """The tests of the ledger, at effects of nothing, of the margin, and on either side of it."""
    rng = np.random.default_rng(20)
    truth = np.array([0.0, 0.0, 1.0, -1.0, 2.0, 0.5])
    wrong, missed, studies = 0, 0, SIMULATIONS // 2
    for _ in range(studies):
        x = truth + rng.normal(0, 0.5, (8, 6))
        p = np.array([[over_seeds(y).p, below(y, 1.0), below(-y, 1.0)] for y in x.T])
        none, above, low = (holm(p.ravel(), 6).reshape(p.shape) < 0.05).T
        sign = np.sign(x.mean(axis=0))
        errors = none & (sign != np.sign(truth)) | above & (truth >= 1) | low & (truth <= -1)
        wrong += errors.any()
        missed += not (none[4] and (above & low)[:2].any())
    assert 0.01 < wrong / studies < 0.06
    assert missed / studies < 0.2


def test_below_is_a_one_sided_test_and_two_of_them_show_equivalence():
    for bound in (-0.6, 0.1, 0.25, 0.6):
        want = stats.ttest_1samp(EXAMPLE, bound, alternative="less").pvalue
        assert below(EXAMPLE, bound) == pytest.approx(want, rel=1e-9)
    assert math.isnan(below([1.0], 2.0))
    assert below([1.0, 1.0, 1.0], 1.0) == 0.5

    # The larger p is 0.05 exactly where the 90 % interval touches the margin.
    edge = max(abs(end) for end in stats.ttest_1samp(EXAMPLE, 0).confidence_interval(0.90))
    assert max(below(x, edge) for x in (EXAMPLE, -EXAMPLE)) == pytest.approx(0.05, rel=1e-9)


# Effects ------------------------------------------------------------------------------------------


def test_every_effect_is_the_one_that_was_put_in():
    (logs,) = simulate(np.random.default_rng(0), 1, draw=np.zeros)
    result = effects(table_of(logs), list(GRID), "fd")
    assert [x.levels for x in result] == CHOSEN
    assert result[0].name == "norm=batch against none"
    assert [x.name for x in result[3:]] == [" × ".join(x) for x in CHOSEN[3:]]
    for effect, size in zip(result, SIZES, strict=True):
        assert np.log(effect.ratios) == pytest.approx(np.full(SEEDS, size), abs=1e-9)
        assert math.isnan(effect.p_holm) == (len(effect.levels) > 1)


def test_effects_by_hand():
    rows = [("a", "x", 2.0), ("a", "y", 5.0), ("b", "x", 3.0), ("b", "y", 11.0)]
    table = pd.DataFrame(rows, columns=["one", "two", "fd"]).assign(seed=7)
    result = effects(table, ["one", "two"], "fd")
    assert [x.difference.value for x in result] == [3.5, 5.5, 5.0]
    want = [math.sqrt(33 / 10), math.sqrt(55 / 6), (11 * 2) / (3 * 5)]
    assert [x.ratio.value for x in result] == pytest.approx(want, rel=1e-12)
    assert effects(table.iloc[:0], ["one", "two"], "fd") == []
    with pytest.raises(ValueError, match="non-unique"):
        effects(pd.concat([table, table]), ["one", "two"], "fd")


def test_pairs_are_found_by_their_seed_and_one_with_a_missing_cell_is_left_out_whole():
    table = table_of(simulate(np.random.default_rng(0), 1)[0])
    lost = table["norm"].eq("batch") & table["batch"].eq(512)
    table.loc[lost & table["seed"].eq(2), "fd"] = math.nan
    table.loc[lost & table["seed"].eq(5), "fd"] = math.inf
    table = table[~(lost & table["seed"].eq(6))]
    rest = table[~table["seed"].isin([2, 5, 6])].sort_values("head", kind="stable")
    for one, other in zip(*(effects(x, list(GRID), "fd") for x in (table, rest)), strict=True):
        assert (one.seeds, one.dropped, one.ratio.n) == ([0, 1, 3, 4, 7], [2, 5, 6], 5)
        if one.levels == other.levels:
            got, want = ((x.ratio.value, x.difference.p, x.p_holm) for x in (one, other))
            assert got == pytest.approx(want, nan_ok=True)


def test_of_three_levels_two_are_compared_and_the_mean_is_over_all():
    grid = {"norm": ["none", "batch"], "head": ["conv"], "batch": [128, 256, 512]}
    cells = [*itertools.product(*grid.values(), range(SEEDS))]
    fd = np.random.default_rng(0).lognormal(4, 1, len(cells))
    table = pd.DataFrame(cells, columns=[*grid, "seed"]).assign(fd=fd)
    result = effects(table, list(grid), "fd")
    assert [x.name for x in result] == [
        "norm=batch against none", "batch=256 against 128", "batch=512 against 128",
        "norm × batch=256", "norm × batch=512",
    ]  # fmt: skip
    means = table.groupby(["seed", "norm"])["fd"].mean().unstack()
    want = (means["batch"] - means["none"]).mean()
    assert result[0].difference.value == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize(("tails", "norm"), [("heavy", 0.0), ("normal", 0.3)])
def test_a_grid_without_effects_shows_one_in_5_of_100_studies_at_most(tails, norm):
    """Beside an effect of norm too, which is then seen."""
    rng = np.random.default_rng(5)
    draw = (lambda size: rng.standard_t(3, size)) if tails == "heavy" else None
    changes = simulate(rng, SIMULATIONS, [norm, 0, 0, 0, 0, 0, 0], draw) @ SIGNS.T
    p = np.array([[over_seeds(x).p for x in study.T] for study in changes])
    significant = np.array([holm(x) for x in p]) < 0.05
    idle = significant[:, 1:] if norm else significant
    assert 0.03 <= idle.any(axis=1).mean() <= 0.06
    assert (significant[:, 0].mean() > 0.99) == bool(norm)
    assert (p[:, 1:].min(axis=1) < 0.05).mean() > 0.2  # without Holm


# Fluctuation --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epochs", "runs"), [(8, 2000), (80, 200)])
@pytest.mark.parametrize("wander", [0.10, 0.0])
def test_fluctuation_is_recovered_from_under_its_noise(epochs, runs, wander):
    """A curve that goes down straight, goes up and down, and is measured on three sets."""
    rng = np.random.default_rng(9)
    curves = 5 - 0.2 * np.arange(epochs) + rng.normal(0, wander, (runs, epochs))
    sets = curves[..., None] + rng.normal(0, 0.15, (runs, epochs, 3))
    noise = noise_variance(sets)
    assert noise == pytest.approx(0.15**2, rel=0.03)
    own = sets[:, burn_in(epochs) :, 0]
    result = np.array([fluctuation(x)["with_noise"] for x in own]) - noise
    assert result.mean() == pytest.approx(wander**2, abs=0.05 * (wander**2 + noise))


def test_fluctuation_by_hand():
    # Changes -1, 2, -1 about their mean 0: squares 6, divisor 3 - 1/3, halved.
    result = fluctuation([4.0, 3.0, 5.0, 4.0])
    assert result["with_noise"] == pytest.approx(6 / (8 / 3) / 2, rel=1e-12)
    assert (result["drawdown"], result["regret"]) == (2.0, 1.0)
    assert [burn_in(epochs) for epochs in (1, 2, 4, 8, 30, 80)] == [0, 0, 0, 1, 9, 25]

    diverged = fluctuation([3.0, 2.0, 4.0, 3.0, math.nan])
    assert math.isnan(diverged["regret"])
    assert diverged["drawdown"] == 2.0
    for x in ([], [3.0], [2.0, math.nan, 3.0]):
        assert math.isnan(fluctuation(x)["with_noise"])


def test_a_straight_trend_is_no_fluctuation_and_one_that_bends_adds_what_is_said():
    x = np.random.default_rng(12).normal(size=12)
    one, other = fluctuation(x), fluctuation(x + 7 - 0.8 * np.arange(12))
    for key in ("with_noise", "autocorrelation"):
        assert other[key] == pytest.approx(one[key], rel=1e-9)
    assert math.isnan(fluctuation(np.arange(12.0))["autocorrelation"])
    slope = np.linspace(-0.024, -0.008, 2001)  # an epoch
    result = fluctuation(np.concatenate([[0], np.cumsum(slope)]))["with_noise"]
    assert result == pytest.approx(0.016**2 / 24, rel=0.01)


def test_autocorrelation_of_a_long_series_and_its_bias_in_a_short_one():
    rng = np.random.default_rng(15)
    for memory in (0.6, -0.4):
        x = signal.lfilter([1], [1, -memory], rng.normal(size=5000))
        assert fluctuation(x)["autocorrelation"] == pytest.approx(memory, abs=0.05)
    short = [fluctuation(rng.normal(size=6))["autocorrelation"] for _ in range(1000)]
    assert np.mean(short) == pytest.approx(-2 / 6, abs=0.03)


@pytest.mark.parametrize("trend", [(3.0, 2.9, 2.8), (3.0, 3.0, 3.0), (3.0, 2.6, 2.7)])
def test_a_relapse_by_noise_is_as_likely_as_in_simulations(trend):
    by, sd = math.log(1.02), 0.2
    first, second, third = (np.random.default_rng(17).normal(0, sd, (200_000, 3)) + trend).T
    want = np.mean((second - np.maximum(first, third) >= by) | (third - second >= by))
    assert relapse_by_noise(trend, sd**2, by) == pytest.approx(want, abs=0.005)
    assert math.isnan(relapse_by_noise(trend, math.nan, by))


def test_the_first_crossing_of_a_threshold():
    clock, values = [0, 10, 20, 30, 40], [9.0, 7.0, 4.0, 6.0, 1.0]
    assert crossing(clock, values, 5.0) == pytest.approx(10 + 10 * 2 / 3)
    assert crossing(clock, values, 4.0) == 20
    assert crossing(clock, values, 9.0) == crossing(clock, values, 10.0) == 0
    assert np.isnan([crossing(clock, values, 0.9), crossing([], [], 5.0)]).all()
    gap = [9.0, math.nan, 4.0, math.nan, 1.0]
    assert crossing(clock, gap, 5.0) == pytest.approx(20 * 4 / 5)


# Variance components ------------------------------------------------------------------------------


def test_noise_is_pooled_within_cells():
    assert noise_variance([[1.0, 3.0], [10.0, 10.0]]) == pytest.approx(1.0)
    assert noise_variance([[[1.0, 2.0, 6.0]], [[5.0, math.nan, 7.0]]]) == pytest.approx(16 / 3)
    assert np.isnan([noise_variance([[1.0], [2.0]]), noise_variance(np.empty((0, 3)))]).all()


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_variance_components_are_recovered(scale):
    """Beside the four: luck that all arms of a seed share, and a trend that all runs share."""
    rng = np.random.default_rng(17)
    true = {"arm": 0.15 * scale, "seed": 0.10 * scale, "epoch": 0.08 * scale, "evaluation": 0.50}
    luck, trend = 0.20 * scale, scale * np.linspace(1, -1, 6)[:, None]
    shapes = [(6, 1, 1, 1), (6, SEEDS, 1, 1), (6, SEEDS, 6, 1), (6, SEEDS, 6, 3)]
    result = []
    for _ in range(1000):
        x = trend + rng.normal(0, math.sqrt(luck), (1, SEEDS, 1, 1))
        for variance, shape in zip(true.values(), shapes, strict=True):
            x = x + rng.normal(0, math.sqrt(variance), shape)
        result.append(components(x))
    true["seed"] += luck
    true["epoch"] += trend.var(ddof=1)
    assert pd.DataFrame(result).mean().to_dict() == pytest.approx(true, rel=0.10, abs=0.002)


@pytest.mark.parametrize(
    ("shape", "unknown"),
    [
        ((1, 8, 4, 3), {"arm"}),
        ((3, 1, 4, 3), {"arm", "seed"}),
        ((3, 8, 1, 3), {"seed", "epoch"}),
        ((3, 8, 4, 1), {"epoch", "evaluation"}),
    ],
)
def test_components_that_cannot_be_told_apart_are_nan(shape, unknown):
    result = components(np.random.default_rng(21).normal(size=shape))
    assert {name for name, value in result.items() if math.isnan(value)} == unknown
