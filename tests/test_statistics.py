"""The statistics against closed forms, SciPy, and simulated studies whose truth is known.

Every simulated study has 8 seeds. Seeds differ a hundred times as much as anything else, and rows
come in no order, so that whatever pairs values by anything but their seed is far off.
"""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reports import statistics
from reports.statistics import (
    below,
    burn_in,
    components,
    contrast,
    contrasts,
    crossing,
    fluctuation,
    holm,
    improvement,
    noise_variance,
    over_seeds,
    relapse_by_noise,
    shares,
    sign_flip,
    spearman,
)

GRID = {"norm": ["none", "batch"], "head": ["conv", "avgpool"], "batch": [128, 512]}
SEEDS = 8
SIMULATIONS = 1000
EFFECTS = [
    {factor: tuple(GRID[factor]) for factor in names}
    for size in (1, 2, 3)
    for names in itertools.combinations(GRID, size)
]
NAMES = [" × ".join(effect) for effect in EFFECTS]
TRUTH = dict(zip(NAMES, [0.3, 0.05, -0.1, 0.1, 0.0, -0.05, 0.02], strict=True))  # of the logarithm
NOISE = 0.05  # of one run's logarithm
EXAMPLE = np.array([0.31, -0.12, 0.44, 0.08, 0.27, 0.15, -0.03, 0.52])


def simulate(rng, studies, truth=TRUTH, draw=None):
    """A table of many studies, one below the other: study i has the seeds 8 i to 8 i + 7."""
    draw = draw or (lambda size: NOISE * rng.normal(size=size))
    seeds = np.arange(SEEDS * studies)
    luck = rng.normal(0, 100 * NOISE, len(seeds))
    parts = []
    for levels in itertools.product(*GRID.values()):
        sign = {x: 1 if level == GRID[x][1] else -1 for x, level in zip(GRID, levels, strict=True)}
        mean = sum(  # an interaction of k factors counts 2 to the 1 - k in a cell
            size * math.prod(sign[x] for x in name.split(" × ")) / 2 ** len(name.split(" × "))
            for name, size in truth.items()
        )
        part = pd.DataFrame({**dict(zip(GRID, levels, strict=True)), "seed": seeds})
        parts.append(part.assign(log=4.0 + luck + mean + draw(len(seeds))))
    return pd.concat(parts).sample(frac=1, random_state=rng.integers(2**32))


def per_study(table, effect):
    """The contrast of every seed of every simulated study (studies, seeds)."""
    return contrast(table, effect, "log", factors=list(GRID)).reshape(-1, SEEDS)


def random_grid(rng, seeds=range(SEEDS), grid=GRID):
    """One small study with a random value in every cell, in the order of the plan."""
    rows = [
        dict(zip([*grid, "seed"], cell, strict=True))
        for cell in itertools.product(*grid.values(), seeds)
    ]
    return pd.DataFrame(rows).assign(fd=rng.lognormal(4, 1, len(rows)))


# Estimates and tests ------------------------------------------------------------------------------


def test_the_interval_and_both_ps_over_seeds():
    estimate, oracle = over_seeds(EXAMPLE), stats.ttest_1samp(EXAMPLE, 0)
    want = (EXAMPLE.mean(), *oracle.confidence_interval(0.95), oracle.pvalue)
    got = (estimate.value, estimate.low, estimate.high, estimate.p)
    assert got == pytest.approx(want, rel=1e-9)
    assert estimate.p_flip == sign_flip(EXAMPLE) != estimate.p
    assert over_seeds(-EXAMPLE).p == estimate.p
    half_width = (estimate.high - estimate.low) / 2 / EXAMPLE.std(ddof=1)
    assert half_width == pytest.approx(0.84, abs=5e-3)


def test_missing_numbers_are_left_out_and_one_seed_has_no_interval():
    padded = np.insert(EXAMPLE, [0, 3, 8], [math.nan, math.inf, -math.inf])
    assert over_seeds(padded) == over_seeds(EXAMPLE)
    one = over_seeds([3.0, math.nan])
    assert (one.value, one.n) == (3.0, 1)
    assert np.isnan([one.low, one.high, one.p, one.p_flip, over_seeds([]).value]).all()


@pytest.mark.parametrize(("value", "p"), [(2.0, 2 / 2**7), (-0.1, 2 / 2**7), (0.0, 1.0)])
def test_seeds_without_any_spread(value, p):
    estimate = over_seeds([value] * 7)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((value, value, value))
    assert estimate.p == estimate.p_flip == p
    assert below([value] * 7, 1.0) == pytest.approx(float(value > 1.0), abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 11])
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
    assert sign_flip(np.full(20, 0.1)) == 2 / 2**20
    assert np.isnan([sign_flip(np.full(21, 0.1)), sign_flip([])]).all()


def test_holm_by_hand():
    # Scaled by 4, 3, 2, 1 in their order: 0.02, 0.03, 0.06, 0.04; the last one may not fall back.
    p = [0.01, 0.04, 0.03, 0.005]
    assert holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02], rel=1e-12)
    assert holm([0.7, 0.6]) == pytest.approx([1.0, 1.0], rel=1e-12)
    got = holm([math.nan, 0.04, math.nan, 0.03])
    assert got == pytest.approx([math.nan, 0.06, math.nan, 0.06], rel=1e-12, nan_ok=True)
    assert holm([]).shape == (0,)

    # Of four hypotheses no more than two can be true: scaled by 2, 2, 2, 1.
    assert holm(p, 2) == pytest.approx([0.02, 0.06, 0.06, 0.01], rel=1e-12)


def test_three_tests_of_each_effect_make_an_error_in_5_of_100_studies_at_most():
    """The tests of the ledger, at effects of nothing, of the margin, and on either side of it."""
    rng = np.random.default_rng(20)
    truth = np.array([0.0, 0.0, 1.0, -1.0, 2.0, 0.5])
    wrong, missed = 0, 0
    for _ in range(SIMULATIONS):
        x = truth + rng.normal(0, 0.5, (8, 6))
        p = np.array([[over_seeds(y).p, below(y, 1.0), below(-y, 1.0)] for y in x.T])
        none, above, low = (holm(p.ravel(), 6).reshape(p.shape) < 0.05).T
        sign = np.sign(x.mean(axis=0))
        errors = none & (sign != np.sign(truth)) | above & (truth >= 1) | low & (truth <= -1)
        wrong += errors.any()
        missed += not (none[4] and (above & low)[:2].any())
    assert 0.01 < wrong / SIMULATIONS < 0.06
    assert missed / SIMULATIONS < 0.2


def test_below_is_a_one_sided_test_and_two_of_them_show_equivalence():
    for bound in (-0.6, 0.1, 0.25, 0.6):
        want = stats.ttest_1samp(EXAMPLE, bound, alternative="less").pvalue
        assert below(EXAMPLE, bound) == pytest.approx(want, rel=1e-9)
    assert math.isnan(below([1.0], 2.0))
    assert [below([1.0, 1.0, 1.0], bound) for bound in (2, 1, 0)] == [0, 0.5, 1]

    # The larger p is 0.05 exactly where the 90 % interval touches the margin.
    edge = max(abs(end) for end in stats.ttest_1samp(EXAMPLE, 0).confidence_interval(0.90))
    assert max(below(x, edge) for x in (EXAMPLE, -EXAMPLE)) == pytest.approx(0.05, rel=1e-9)


def test_improvement_counts_pairs_and_halves_ties():
    assert improvement(np.array([1, 2]), np.array([2, 3])) == 3.5 / 4
    assert improvement(np.array([5]), np.array([2, 3, 4])) == 0
    cells = np.array([[1.0, 9.0], [2.0, 9.0]])  # the better one always, and never
    assert improvement(cells, np.full((3, 2), 5.0)) == 0.5


def test_spearman_is_scipys_and_leaves_out_what_is_missing():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=8), rng.integers(0, 4, 8).astype(float)
    want = stats.spearmanr(x, y).statistic
    gaps = [*x, math.nan, 3.0], [*y, 1.0, math.inf]
    assert spearman(x, y) == spearman(*gaps) == pytest.approx(want, rel=1e-12)
    assert spearman([1, 2, 3], [9, 4, 1]) == pytest.approx(-1.0)
    assert np.isnan([spearman([1, 2], [3, 4]), spearman([1, 2, 3], [4, 4, 4])]).all()


# Contrasts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "effect"), list(zip(NAMES, EFFECTS, strict=True)))
def test_a_contrast_is_the_difference_that_was_put_in(name, effect):
    table = simulate(np.random.default_rng(0), 1, draw=np.zeros)
    got = contrast(table, effect, "log", factors=list(GRID))
    assert got == pytest.approx(np.full(SEEDS, TRUTH[name]), abs=1e-12)
    turned = {factor: pair[::-1] for factor, pair in effect.items()}
    sign = (-1) ** len(effect)
    assert contrast(table, turned, "log", factors=list(GRID)) == pytest.approx(sign * got)


def test_contrasts_by_hand():
    rows = [("a", "x", 2.0), ("a", "y", 5.0), ("b", "x", 3.0), ("b", "y", 11.0)]
    table = pd.DataFrame(rows, columns=["one", "two", "fd"]).assign(seed=7)
    one, two = {"one": ("a", "b")}, {"two": ("x", "y")}
    for effect, want in ((one, 3.5), (two, 5.5), (one | two, 5.0)):
        assert contrast(table, effect, "fd", factors=["one", "two"]) == [want]


def test_values_are_paired_by_their_seed():
    # Two arms whose difference is the seed itself; one has lost a seed, the other another.
    luck = {seed: 1000.0 * (-1) ** seed for seed in range(7)}
    low = pd.DataFrame({"norm": "none", "seed": [4, 0, 1, 3, 6]})
    high = pd.DataFrame({"norm": "batch", "seed": [6, 4, 3, 2, 1]})
    low["fd"], high["fd"] = low["seed"].map(luck), high["seed"].map(luck) + high["seed"]
    table = pd.concat([low, high], ignore_index=True)
    got = contrast(table, {"norm": ("none", "batch")}, "fd", factors=["norm"])
    assert got.tolist() == [1.0, 3.0, 4.0, 6.0]


def test_a_seed_with_a_missing_cell_is_left_out_whole():
    table = random_grid(np.random.default_rng(0))
    lost = table["norm"].eq("batch") & table["batch"].eq(512)
    table.loc[lost & table["seed"].eq(2), "fd"] = math.nan
    table.loc[lost & table["seed"].eq(5), "fd"] = -math.inf
    table = table.drop(table[lost & table["seed"].eq(6)].index)
    rest = table[~table["seed"].isin([2, 5, 6])]
    for one, other in zip(*(contrasts(x, list(GRID), "fd") for x in (table, rest)), strict=True):
        assert (one.ratio, one.difference, one.p_holm) == pytest.approx(
            (other.ratio, other.difference, other.p_holm), nan_ok=True
        )
        assert (one.seeds, one.dropped, one.ratio.n) == ([0, 1, 3, 4, 7], [2, 5, 6], 5)


def test_of_three_levels_two_are_compared_and_the_mean_is_over_all():
    grid = {"norm": ["none", "batch"], "head": ["conv"], "batch": [128, 256, 512]}
    table = random_grid(np.random.default_rng(0), grid=grid)
    found = contrasts(table, list(grid), "fd")
    names = ["norm", "batch=256", "batch=512", "norm × batch=256", "norm × batch=512"]
    assert [one.name for one in found] == names
    assert found[2].effect == {"batch": (128, 512)}
    assert contrasts(table.iloc[:0], list(grid), "fd") == []

    spoiled = table.assign(fd=table["fd"].where(table["batch"] != 256))
    assert contrasts(spoiled, list(grid), "fd")[2].ratio == found[2].ratio
    means = table.groupby(["seed", "norm"])["fd"].mean().unstack()
    want = (means["batch"] - means["none"]).mean()
    assert found[0].difference.value == pytest.approx(want, rel=1e-12)
    assert contrasts(spoiled, list(grid), "fd")[0].difference.n == 0


def test_a_table_that_makes_no_pairs_is_refused():
    table = random_grid(np.random.default_rng(0))
    twice = pd.concat([table, table.iloc[[9]]])
    with pytest.raises(ValueError, match=r"two rows for seed, norm, head, batch = \(.*1.*512"):
        contrast(twice, {"norm": ("none", "batch")}, "fd", factors=list(GRID))
    with pytest.raises(ValueError, match="no norm=group"):
        contrast(table, {"norm": ("none", "group")}, "fd", factors=list(GRID))


def test_all_contrasts_of_a_grid():
    table = random_grid(np.random.default_rng(3))
    table.loc[table["norm"].eq("batch"), "fd"] *= 3
    found = contrasts(table, list(GRID), "fd")
    assert [one.effect for one in found] == EFFECTS
    assert [one.name for one in found] == NAMES

    # Each is what its parts give; Holm goes over the main effects, and takes the paired t's p.
    logs = table.assign(log=np.log(table["fd"]))
    adjusted = [*holm([one.p_t for one in found[:3]]), *[math.nan] * 4]
    for one, p_holm in zip(found, adjusted, strict=True):
        test = over_seeds(contrast(logs, one.effect, "log", factors=list(GRID)))
        ratio = np.log([one.ratio.value, one.ratio.low, one.ratio.high])
        assert ratio == pytest.approx([test.value, test.low, test.high], rel=1e-9)
        assert (one.p_t, one.p_flip) == (one.ratio.p, one.ratio.p_flip) == (test.p, test.p_flip)
        assert one.difference == over_seeds(contrast(table, one.effect, "fd", factors=list(GRID)))
        assert one.p_holm == pytest.approx(p_holm, rel=1e-12, nan_ok=True)
        assert math.isnan(one.improvement) == (len(one.effect) > 1)

    # How often a head is the better one is the mean over the four cells of norm and batch.
    heads = [table.loc[table["head"] == x, "fd"].to_numpy().reshape(4, -1) for x in GRID["head"]]
    cells = [np.mean(conv[:, None] > avgpool) for conv, avgpool in zip(*heads, strict=True)]
    assert found[1].improvement == pytest.approx(np.mean(cells), rel=1e-12)


def test_a_metric_that_is_not_positive_has_a_difference_and_no_ratio():
    table = random_grid(np.random.default_rng(0))
    table.loc[11, "fd"] = -0.5
    for one in contrasts(table, list(GRID), "fd"):
        assert np.isnan([one.ratio.value, one.ratio.low, one.ratio.high, one.ratio.p]).all()
        assert (one.p_t, one.p_flip) == (one.difference.p, one.difference.p_flip)
        assert one.seeds == list(range(SEEDS))


# Simulated studies --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def studies():
    return simulate(np.random.default_rng(20), SIMULATIONS)


@pytest.mark.parametrize(("name", "effect"), list(zip(NAMES, EFFECTS, strict=True)))
def test_intervals_cover_the_truth_in_95_of_100_studies(studies, name, effect):
    found = [over_seeds(x) for x in per_study(studies, effect)]
    assert 0.93 <= np.mean([x.low <= TRUTH[name] <= x.high for x in found]) <= 0.97

    # They are as narrow as the noise within pairs allows; a wrong pairing widens them 100 times.
    spread = NOISE * 2 ** len(effect) / math.sqrt(8)  # of one seed's number, a mean over cells
    shrunk = math.sqrt(2 / 7) * math.gamma(4) / math.gamma(3.5)  # E[s] / sigma of 8 normal numbers
    want = stats.t.ppf(0.975, 7) * shrunk * spread / math.sqrt(8)
    assert np.mean([(x.high - x.low) / 2 for x in found]) == pytest.approx(want, rel=0.03)


@pytest.mark.parametrize(
    ("noise", "norm"),
    [("normal", 0.0), ("heavy tails", 0.0), ("skew", 0.0), ("normal", 0.3)],
)
def test_a_grid_without_effects_shows_one_in_5_of_100_studies_at_most(noise, norm):
    """Beside an effect of norm too, which is then seen."""
    rng = np.random.default_rng(5)
    draw = {
        "normal": lambda size: NOISE * rng.normal(size=size),
        "heavy tails": lambda size: rng.standard_t(3, size),
        "skew": lambda size: rng.exponential(1, size),
    }[noise]
    table = simulate(rng, SIMULATIONS, dict.fromkeys(NAMES, 0.0) | {"norm": norm}, draw)
    p = np.array([[over_seeds(x).p for x in per_study(table, effect)] for effect in EFFECTS]).T
    significant = np.array([holm(one) for one in p]) < 0.05
    idle = significant[:, 1:] if norm else significant
    assert 0.03 <= idle.any(axis=1).mean() <= 0.06
    assert (significant[:, 0].mean() > 0.99) == bool(norm)
    assert (p[:, 1:].min(axis=1) < 0.05).mean() > 0.2  # without Holm


def test_the_sign_flip_keeps_its_level():
    rng = np.random.default_rng(7)
    p = np.array([sign_flip(x) for x in rng.standard_t(3, (4000, SEEDS))])
    for level in (6 / 128, 32 / 128):  # of the steps of 1 / 128 that 8 pairs can reach
        assert (p <= level).mean() == pytest.approx(level, abs=4 * math.sqrt(level / 4000))


# Fluctuation --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epochs", "runs"), [(8, 4000), (80, 400)])
@pytest.mark.parametrize("wander", [0.10, 0.0])
def test_fluctuation_is_recovered_from_under_its_noise(epochs, runs, wander):
    """A curve that goes down straight, goes up and down, and is measured on three sets."""
    rng = np.random.default_rng(9)
    curves = 5 - 0.2 * np.arange(epochs) + rng.normal(0, wander, (runs, epochs))
    eval_sets = curves[..., None] + rng.normal(0, 0.15, (runs, epochs, 3))
    noise = noise_variance(eval_sets)
    assert noise == pytest.approx(0.15**2, rel=0.03)
    start = burn_in(epochs)
    found = np.array([fluctuation(x, start).variance for x in eval_sets[..., 0]]) - noise
    assert found.mean() == pytest.approx(wander**2, abs=0.05 * (wander**2 + noise))
    if not wander:
        assert 0.4 < (found < 0).mean() < 0.8


def test_fluctuation_by_hand():
    # Changes -1, 2, -1 about their mean 0: squares 6, divisor 3 - 1/3, halved.
    found = fluctuation([9.0, 9.0, 4.0, 3.0, 5.0, 4.0], 2)
    assert found.variance == pytest.approx(6 / (8 / 3) / 2, rel=1e-12)
    assert (found.drawdown, found.regret, found.changes) == (2.0, 1.0, 3)
    assert [burn_in(epochs) for epochs in (1, 2, 4, 8, 30, 80)] == [0, 0, 0, 1, 9, 25]


def test_a_straight_trend_is_no_fluctuation_and_one_that_bends_adds_what_is_said():
    x = np.random.default_rng(12).normal(size=12)
    one, other = fluctuation(x, 3), fluctuation(x + 7 - 0.8 * np.arange(12), 3)
    assert other.variance == pytest.approx(one.variance, rel=1e-9)
    assert other.autocorrelation == pytest.approx(one.autocorrelation, rel=1e-9)
    assert math.isnan(fluctuation(np.arange(12.0), 3).autocorrelation)
    slope = np.linspace(-0.024, -0.008, 2001)  # an epoch
    found = fluctuation(np.concatenate([[0], np.cumsum(slope)]), 0).variance
    assert found == pytest.approx(0.016**2 / 24, rel=0.01)
    assert math.sqrt(found) == pytest.approx(0.0033, abs=0.00005)


def test_no_change_reaches_across_a_missing_epoch():
    found = fluctuation([0.0, 1.0, math.nan, 50.0, 52.0, 51.0], 0)
    # Changes 1, 2, -1 about 2/3: squares 14/3; two stretches: divisor 3 - 2/3.
    assert found.variance == pytest.approx(14 / 3 / (3 - 2 / 3) / 2, rel=1e-12)
    assert found.changes == 3

    # Without bias also then.
    runs = np.random.default_rng(14).normal(size=(4000, 8))
    runs[:, [2, 5]] = math.nan
    assert np.mean([fluctuation(x, 0).variance for x in runs]) == pytest.approx(1, rel=0.05)


def test_series_too_short_to_fluctuate():
    for x in ([], [1.0, 2.0], [1.0, 2.0, 3.0], [1.0, math.nan, 2.0, math.nan, 3.0]):
        assert math.isnan(fluctuation(x, 2).variance)
    diverged = fluctuation([3.0, 2.0, 4.0, 3.0, math.nan], 0)
    assert math.isnan(diverged.regret)
    assert (diverged.drawdown, diverged.changes) == (2.0, 3)


@pytest.mark.parametrize("memory", [0.0, 0.6, -0.4])
def test_autocorrelation_of_a_long_series(memory):
    x = [0.0]
    for step in np.random.default_rng(15).normal(size=5000):
        x.append(memory * x[-1] + step)
    found = fluctuation(x, 0)
    assert found.autocorrelation == pytest.approx(memory, abs=0.05)
    assert found.variance == pytest.approx((1 - memory) / (1 - memory**2), rel=0.1)


@pytest.mark.parametrize("epochs", [6, 12, 60])
def test_the_bias_of_a_short_autocorrelation_is_the_one_that_is_said(epochs):
    rng = np.random.default_rng(16)
    found = [fluctuation(rng.normal(size=epochs), 0).autocorrelation for _ in range(2000)]
    assert np.mean(found) == pytest.approx(-2 / epochs, abs=0.025)


@pytest.mark.parametrize("trend", [(3.0, 2.9, 2.8), (3.0, 3.0, 3.0), (3.0, 2.6, 2.7)])
@pytest.mark.parametrize("sd", [0.01, 0.2, 0.0])
def test_a_relapse_by_noise_is_as_likely_as_in_simulations(trend, sd):
    by = math.log(1.02)
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


def test_noise_variance_pools_within_cells():
    assert noise_variance([[1.0, 3.0], [10.0, 10.0]]) == pytest.approx(1.0)
    assert noise_variance([[[1.0, 2.0, 6.0]], [[5.0, math.nan, 7.0]]]) == pytest.approx(16 / 3)
    assert np.isnan([noise_variance([[1.0], [2.0]]), noise_variance(np.empty((0, 3)))]).all()


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_variance_components_are_recovered(scale):
    """Beside the four: luck that all arms of a seed share, and a trend that all runs share.

    Where there is nothing but evaluation noise, the others are below zero as often as above.
    """
    rng = np.random.default_rng(17)
    true = {"arm": 0.15 * scale, "seed": 0.10 * scale, "epoch": 0.08 * scale, "evaluation": 0.50}
    luck, trend = 0.20 * scale, scale * np.linspace(1, -1, 6)[:, None]
    shapes = [(6, 1, 1, 1), (6, SEEDS, 1, 1), (6, SEEDS, 6, 1), (6, SEEDS, 6, 3)]
    found = []
    for _ in range(1000):
        x = trend + rng.normal(0, math.sqrt(luck), (1, SEEDS, 1, 1))
        for variance, shape in zip(true.values(), shapes, strict=True):
            x = x + rng.normal(0, math.sqrt(variance), shape)
        found.append(components(x))
    true["seed"] += luck
    true["epoch"] += trend.var(ddof=1)
    frame = pd.DataFrame(found)
    assert frame.mean().to_dict() == pytest.approx(true, rel=0.10, abs=0.002)
    negative = (frame[["arm", "seed", "epoch"]] < 0).mean()
    assert negative.between(0.3, 0.7).all() == (scale == 0)


def test_components_by_hand():
    # Two arms, two seeds, two epochs, two sets that say the same: no noise at all.
    x = np.zeros((2, 2, 2, 2))
    x[1] += 4.0
    x[:, 1] += 2.0
    x[:, :, 1] += 6.0
    assert list(components(x).values()) == pytest.approx([8.0, 2.0, 18.0, 0.0])
    x[..., 1] += 1.0
    assert list(components(x).values()) == pytest.approx([8.0, 2.0, 17.75, 0.5])


def test_a_missing_value_takes_its_seed_out_of_every_arm():
    x = np.random.default_rng(19).normal(size=(3, SEEDS, 4, 3))
    gaps = x.copy()
    gaps[1, 4, 2, 0] = math.nan
    assert components(gaps) == pytest.approx(components(np.delete(x, 4, axis=1)), rel=1e-12)


@pytest.mark.parametrize(
    ("shape", "unknown"),
    [
        ((1, 8, 4, 3), {"arm"}),
        ((3, 1, 4, 3), {"arm", "seed"}),
        ((3, 8, 1, 3), {"seed", "epoch"}),
        ((3, 8, 4, 1), {"epoch", "evaluation"}),
        ((3, 0, 4, 3), {"arm", "seed", "epoch", "evaluation"}),
    ],
)
def test_components_that_cannot_be_told_apart_are_nan(shape, unknown):
    found = components(np.random.default_rng(21).normal(size=shape))
    assert {name for name, value in found.items() if math.isnan(value)} == unknown


def test_shares_are_of_the_clipped_sum():
    got = shares({"arm": 3.0, "seed": -1.0, "epoch": 0.5, "evaluation": 0.5})
    assert got == pytest.approx({"arm": 0.75, "seed": 0.0, "epoch": 0.125, "evaluation": 0.125})
    assert all(math.isnan(x) for x in shares({"arm": math.nan, "seed": 1.0}).values())
    assert all(math.isnan(x) for x in shares({"arm": -1.0, "seed": 0.0}).values())
