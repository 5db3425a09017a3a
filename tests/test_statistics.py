"""The statistics against studies whose truth is known, and against closed forms.

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
    bank_variance,
    below,
    burn_in,
    components,
    contrast,
    contrasts,
    crossing,
    fluctuation,
    holm,
    improvement,
    over_seeds,
    paired_t,
    relapse_by_noise,
    shares,
    sign_flip,
    spearman,
)

GRID = {"norm": ["none", "batch"], "head": ["conv", "avgpool"], "batch": [128, 512]}
SEEDS = 8
SIMULATIONS = 2000
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
        sides = dict(zip(GRID, levels, strict=True))
        part = pd.DataFrame({**sides, "seed": seeds})
        part["log"] = 4.0 + luck + mean_of(sides, truth) + draw(len(seeds))
        parts.append(part)
    table = pd.concat(parts).sample(frac=1, random_state=rng.integers(2**32))
    return table.assign(fd=np.exp(table["log"]))


def mean_of(sides, truth):
    """What the effects add to one cell: an interaction of k factors counts 2 to the 1 - k."""
    total = 0.0
    for name, size in truth.items():
        factors = name.split(" × ")
        high = [1 if sides[factor] == GRID[factor][1] else -1 for factor in factors]
        total += size * math.prod(high) / 2 ** len(factors)
    return total


def in_studies(numbers):
    return numbers.reshape(-1, SEEDS)


def whole_grid(rng, seeds=range(SEEDS), grid=GRID):
    """One small study with a random value in every cell, in the order of the plan."""
    rows = [
        dict(zip([*grid, "seed"], cell, strict=True))
        for cell in itertools.product(*grid.values(), seeds)
    ]
    return pd.DataFrame(rows).assign(fd=rng.lognormal(4, 1, len(rows)))


# Estimates ----------------------------------------------------------------------------------------


def test_the_t_interval_and_p_are_scipys():
    estimate, oracle = paired_t(EXAMPLE), stats.ttest_1samp(EXAMPLE, 0)
    interval = oracle.confidence_interval(0.95)
    assert estimate.value == pytest.approx(EXAMPLE.mean(), rel=1e-12)
    assert (estimate.low, estimate.high) == pytest.approx(tuple(interval), rel=1e-9)
    assert estimate.p == pytest.approx(oracle.pvalue, rel=1e-9)
    assert paired_t(-EXAMPLE).p == pytest.approx(oracle.pvalue, rel=1e-9)
    assert estimate.n == 8


def test_the_interval_is_as_wide_as_reference_says():
    estimate = paired_t(EXAMPLE)
    assert (estimate.high - estimate.low) / 2 / EXAMPLE.std(ddof=1) == pytest.approx(0.84, abs=5e-3)


def test_over_seeds_is_the_t_interval_with_the_sign_flip_p():
    estimate, t = over_seeds(EXAMPLE), paired_t(EXAMPLE)
    assert (estimate.value, estimate.low, estimate.high) == (t.value, t.low, t.high)
    assert estimate.p == sign_flip(EXAMPLE) != t.p


@pytest.mark.parametrize("function", [paired_t, over_seeds])
def test_missing_numbers_are_left_out_and_one_seed_says_nothing(function):
    padded = np.insert(EXAMPLE, [0, 3, 8], [math.nan, math.inf, -math.inf])
    assert function(padded) == function(EXAMPLE)
    for few in ([], [3.0], [3.0, math.nan]):
        estimate = function(few)
        assert estimate.n == np.isfinite(few).sum()
        assert np.isnan([estimate.value, estimate.low, estimate.high, estimate.p]).all()


@pytest.mark.parametrize(("value", "p"), [(2.0, 2 / 2**7), (-0.1, 2 / 2**7), (0.0, 1.0)])
def test_seeds_without_any_spread(value, p):
    estimate = paired_t([value] * 7)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((value, value, value))
    assert estimate.p == p
    assert below([value] * 7, 1.0) == pytest.approx(float(value > 1.0), abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 11])
def test_the_sign_flip_goes_through_all_patterns(n):
    rng = np.random.default_rng(n)
    for x in (rng.normal(0.5, 1, n), rng.integers(-2, 3, n).astype(float)):
        patterns = np.array(list(itertools.product([-1, 1], repeat=n)))
        sums = np.abs(patterns @ x)
        assert sign_flip(x) == np.mean(sums >= abs(x.sum()) - 1e-9)


def test_the_sign_flip_of_many_seeds_is_still_exact():
    x = np.full(40, 0.1)
    assert sign_flip(x) == 2 / 2**40
    assert sign_flip([*x[:39], -0.1]) == (2 + 2 * 40) / 2**40
    assert math.isnan(sign_flip(np.full(41, 0.1)))
    assert math.isnan(sign_flip([]))
    assert over_seeds(np.arange(50)).low > 0


def test_how_small_a_sign_flip_p_can_be():
    least = {n: sign_flip(np.arange(1, n + 1)) for n in (5, 6, 8)}
    assert least == {5: 0.0625, 6: 0.03125, 8: 0.0078125}
    assert min(n for n, p in least.items() if p < 0.05) == statistics.VERDICT_SEEDS


def test_why_the_sign_flip_cannot_feed_holm_over_a_whole_grid():
    assert holm([2 / 2**8] * 7).min() > 0.05
    assert holm([2 / 2**8] * 6).min() < 0.05


def test_holm_by_hand():
    # Scaled by 4, 3, 2, 1 in their order: 0.02, 0.03, 0.06, 0.04; the last one may not fall back.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02], rel=1e-12)
    assert holm([0.7, 0.6]) == pytest.approx([1.0, 1.0], rel=1e-12)
    got = holm([math.nan, 0.04, math.nan, 0.03])
    assert got == pytest.approx([math.nan, 0.06, math.nan, 0.06], rel=1e-12, nan_ok=True)
    assert holm([]).shape == (0,)


def test_hypotheses_that_exclude_each_other_count_once():
    # Of four no more than two can be true: scaled by 2, 2, 2, 1.
    p = [0.01, 0.04, 0.03, 0.005]
    assert holm(p, 2) == pytest.approx([0.02, 0.06, 0.06, 0.01], rel=1e-12)
    assert holm(p, 4) == pytest.approx(holm(p), rel=1e-12)
    assert (holm(p, 3) <= holm(p)).all()


def test_three_tests_of_each_effect_make_an_error_in_5_of_100_studies_at_most():
    """The tests of the ledger, at effects of nothing, of the margin, and on either side of it."""
    rng = np.random.default_rng(20)
    truth = np.array([0.0, 0.0, 1.0, -1.0, 2.0, 0.5])
    wrong, missed = 0, 0
    for _ in range(1500):
        x = truth + rng.normal(0, 0.5, (8, 6))
        p = np.array([[paired_t(y).p, below(y, 1.0), below(-y, 1.0)] for y in x.T])
        none, above, low = (holm(p.ravel(), 6).reshape(p.shape) < 0.05).T
        sign = np.sign(x.mean(axis=0))
        errors = none & (sign != np.sign(truth)) | above & (truth >= 1) | low & (truth <= -1)
        wrong += errors.any()
        missed += not (none[4] and (above & low)[:2].any())
    assert 0.01 < wrong / 1500 < 0.06
    assert missed / 1500 < 0.2


def test_improvement_counts_pairs_and_halves_ties():
    assert improvement([1, 2], [2, 3]) == pytest.approx(3.5 / 4)
    assert improvement([1, 1], [2, 3, 4]) == 1.0
    assert improvement([5], [2, 3, 4]) == 0.0
    assert improvement([2, 2], [2]) == 0.5
    assert improvement([1, math.nan], [2]) == 1.0
    assert math.isnan(improvement([], [1]))


def test_below_is_scipys_one_sided_test():
    for bound in (-0.6, 0.1, 0.25, 0.6):
        want = stats.ttest_1samp(EXAMPLE, bound, alternative="less").pvalue
        assert below(EXAMPLE, bound) == pytest.approx(want, rel=1e-9)
        assert below(-EXAMPLE, -bound) == pytest.approx(1 - want, rel=1e-9)
    assert math.isnan(below([1.0], 2.0))
    assert [below([1.0, 1.0, 1.0], bound) for bound in (2, 1, 0)] == [0, 0.5, 1]


def test_equivalence_is_the_larger_of_two_one_sided_tests():
    """Below 0.05 exactly where the 90 % interval lies inside of the margin."""
    edge = max(abs(end) for end in stats.ttest_1samp(EXAMPLE, 0).confidence_interval(0.90))
    both = [below(sign * EXAMPLE, edge) for sign in (-1, 1)]
    assert max(both) == pytest.approx(0.05, rel=1e-9)
    assert min(both) < 0.05


def test_spearman_is_scipys_and_leaves_out_what_is_missing():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=8), rng.integers(0, 4, 8).astype(float)
    want = stats.spearmanr(x, y).statistic
    assert spearman(x, y) == pytest.approx(want, rel=1e-12)
    gaps = [*x, math.nan, 3.0], [*y, 1.0, math.inf]
    assert spearman(*gaps) == pytest.approx(want, rel=1e-12)
    assert spearman(x, np.exp(x)) == pytest.approx(1.0)
    assert spearman([1, 2, 3], [9, 4, 1]) == pytest.approx(-1.0)
    assert math.isnan(spearman([1, 2], [3, 4]))
    assert math.isnan(spearman([1, 2, 3], [4, 4, 4]))


# Contrasts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "effect"), list(zip(NAMES, EFFECTS, strict=True)))
def test_a_contrast_is_the_same_difference_that_was_put_in(name, effect):
    table = simulate(np.random.default_rng(0), 1, draw=np.zeros)
    got = contrast(table, effect, "log", factors=list(GRID))
    assert got == pytest.approx(np.full(SEEDS, TRUTH[name]), abs=1e-12)
    turned = {factor: pair[::-1] for factor, pair in effect.items()}
    sign = (-1) ** len(effect)
    assert contrast(table, turned, "log", factors=list(GRID)) == pytest.approx(sign * got)


def test_contrasts_by_hand():
    table = pd.DataFrame(
        [("a", "x", 2.0), ("a", "y", 5.0), ("b", "x", 3.0), ("b", "y", 11.0)],
        columns=["one", "two", "fd"],
    ).assign(seed=7)
    factors = ["one", "two"]
    pairs = {"one": ("a", "b"), "two": ("x", "y")}
    assert contrast(table, {"one": ("a", "b")}, "fd", factors=factors) == [3.5]
    assert contrast(table, {"two": ("x", "y")}, "fd", factors=factors) == [5.5]
    assert contrast(table, pairs, "fd", factors=factors) == [5.0]


def test_values_are_paired_by_their_seed():
    # Two arms whose difference is the seed itself; one has lost a seed, the other another.
    low = pd.DataFrame({"norm": "none", "seed": [4, 0, 1, 3, 6], "fd": 0.0})
    high = pd.DataFrame({"norm": "batch", "seed": [6, 4, 3, 2, 1]})
    luck = {seed: 1000.0 * (-1) ** seed for seed in range(7)}
    low["fd"] = low["seed"].map(luck)
    high["fd"] = high["seed"].map(luck) + high["seed"]
    table = pd.concat([low, high], ignore_index=True)
    got = contrast(table, {"norm": ("none", "batch")}, "fd", factors=["norm"])
    assert got.tolist() == [1.0, 3.0, 4.0, 6.0]


def test_a_seed_with_a_missing_cell_is_left_out_whole():
    table = whole_grid(np.random.default_rng(0))
    lost = table["norm"].eq("batch") & table["batch"].eq(512)
    table.loc[lost & table["seed"].eq(2), "fd"] = math.nan
    table.loc[lost & table["seed"].eq(5), "fd"] = -math.inf
    table = table.drop(table[lost & table["seed"].eq(6)].index)
    rest = table[~table["seed"].isin([2, 5, 6])]
    for effect in EFFECTS:
        got = contrast(table, effect, "fd", factors=list(GRID))
        assert got.tolist() == contrast(rest, effect, "fd", factors=list(GRID)).tolist()
        assert len(got) == 5
    for one in contrasts(table, list(GRID), "fd", NAMES):
        assert one.seeds == [0, 1, 3, 4, 7]
        assert one.dropped == [2, 5, 6]
        assert one.ratio.n == one.difference.n == 5


def test_other_levels_of_a_factor_do_not_enter():
    grid = {"norm": ["none", "batch"], "batch": [128, 256, 512]}
    table = whole_grid(np.random.default_rng(0), grid=grid)
    effect = {"batch": (128, 512)}
    got = contrast(table, effect, "fd", factors=list(grid))
    assert len(got) == SEEDS
    middle = table["batch"].eq(256)
    spoiled = table.assign(fd=table["fd"].where(~middle))
    assert contrast(spoiled, effect, "fd", factors=list(grid)).tolist() == got.tolist()

    # But the mean over the cells of batch has three of them.
    norm = {"norm": ("none", "batch")}
    assert len(contrast(spoiled, norm, "fd", factors=list(grid))) == 0
    means = table.groupby(["seed", "norm"])["fd"].mean().unstack()
    want = (means["batch"] - means["none"]).to_numpy()
    assert contrast(table, norm, "fd", factors=list(grid)) == pytest.approx(want, rel=1e-12)


def test_a_table_that_makes_no_pairs_is_refused():
    table = whole_grid(np.random.default_rng(0))
    twice = pd.concat([table, table.iloc[[9]]])
    with pytest.raises(ValueError, match=r"two rows for norm=none, head=conv, batch=512, seed=1$"):
        contrast(twice, {"norm": ("none", "batch")}, "fd", factors=list(GRID))
    with pytest.raises(ValueError, match="no norm=group"):
        contrast(table, {"norm": ("none", "group")}, "fd", factors=list(GRID))
    with pytest.raises(ValueError, match="no width=32"):
        contrast(table, {"width": (32, 64)}, "fd", factors=list(GRID))
    with pytest.raises(ValueError, match="no column fid"):
        contrast(table, {"norm": ("none", "batch")}, "fid", factors=list(GRID))


def test_all_contrasts_of_a_grid():
    table = whole_grid(np.random.default_rng(3))
    table.loc[table["norm"].eq("batch"), "fd"] *= 3
    family = ["norm", "head", "batch", "norm × batch"]
    found = contrasts(table, list(GRID), "fd", family)
    assert [one.name for one in found] == NAMES
    assert [one.effect for one in found] == EFFECTS

    # Each is what its parts give.
    logs = table.assign(log=np.log(table["fd"]))
    for one in found:
        log = contrast(logs, one.effect, "log", factors=list(GRID))
        ratio = np.log([one.ratio.value, one.ratio.low, one.ratio.high])
        t = paired_t(log)
        assert ratio == pytest.approx([t.value, t.low, t.high], rel=1e-9)
        assert one.ratio.p == one.p_flip == sign_flip(log)
        assert one.p_t == t.p
        difference = contrast(table, one.effect, "fd", factors=list(GRID))
        assert one.difference == over_seeds(difference)
        assert one.seeds == list(range(SEEDS))
        assert one.dropped == []

    # Holm goes over the family alone, and takes the paired t's p.
    assert found[0].p_holm == pytest.approx(4 * found[0].p_t, rel=1e-12)
    want = dict(zip(family, holm([x.p_t for x in found if x.name in family]), strict=True))
    for one in found:
        expected = want.get(one.name, math.nan)
        assert one.p_holm == pytest.approx(expected, rel=1e-12, nan_ok=True)


def test_improvement_of_a_factor_is_the_mean_over_the_other_cells():
    table = whole_grid(np.random.default_rng(4))
    found = {one.name: one.improvement for one in contrasts(table, list(GRID), "fd", [])}
    cells = [
        improvement(cell[cell["head"] == "avgpool"]["fd"], cell[cell["head"] == "conv"]["fd"])
        for _, cell in table.groupby(["norm", "batch"])
    ]
    assert found["head"] == pytest.approx(np.mean(cells), rel=1e-12)
    better = table.assign(fd=table["fd"].where(table["norm"] == "none", table["fd"] / 1e6))
    found = {one.name: one.improvement for one in contrasts(better, list(GRID), "fd", [])}
    assert found["norm"] == 1.0
    assert all(math.isnan(value) for name, value in found.items() if "×" in name)


def test_contrasts_of_factors_with_one_and_with_three_levels():
    grid = {"norm": ["none", "batch"], "head": ["conv"], "batch": [128, 256, 512]}
    table = whole_grid(np.random.default_rng(0), grid=grid)
    found = contrasts(table, list(grid), "fd", ["batch=512"])
    names = ["norm", "batch=256", "batch=512", "norm × batch=256", "norm × batch=512"]
    assert [one.name for one in found] == names
    assert found[2].effect == {"batch": (128, 512)}
    assert found[2].p_holm == found[2].p_t
    assert contrasts(table.iloc[:0], list(grid), "fd", []) == []


def test_a_metric_that_is_not_positive_has_a_difference_and_no_ratio():
    table = whole_grid(np.random.default_rng(0))
    table.loc[11, "fd"] = -0.5
    for one in contrasts(table, list(GRID), "fd", NAMES):
        difference = contrast(table, one.effect, "fd", factors=list(GRID))
        assert np.isnan([one.ratio.value, one.ratio.low, one.ratio.high, one.ratio.p]).all()
        assert one.difference == over_seeds(difference)
        assert (one.p_t, one.p_flip) == (paired_t(difference).p, sign_flip(difference))
        assert one.seeds == list(range(SEEDS))


def test_one_seed_gives_no_numbers():
    for one in contrasts(whole_grid(np.random.default_rng(0), [3]), list(GRID), "fd", NAMES):
        numbers = [one.ratio.value, one.difference.value, one.p_t, one.p_holm, one.improvement]
        assert np.isnan(numbers).all()
        assert one.seeds == [3]
        assert one.difference.n == 1


# Simulated studies --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def studies():
    return simulate(np.random.default_rng(20), SIMULATIONS)


@pytest.mark.parametrize(("name", "effect"), list(zip(NAMES, EFFECTS, strict=True)))
def test_intervals_hold_the_truth_in_95_of_100_studies(studies, name, effect):
    numbers = in_studies(contrast(studies, effect, "log", factors=list(GRID)))
    assert len(numbers) == SIMULATIONS
    found = [paired_t(x) for x in numbers]
    covered = np.mean([x.low <= TRUTH[name] <= x.high for x in found])
    assert 0.93 <= covered <= 0.97

    # They are as narrow as the noise within pairs allows; a wrong pairing widens them 100 times.
    spread = NOISE * 2 ** len(effect) / math.sqrt(8)  # of one seed's number, a mean over cells
    shrunk = math.sqrt(2 / 7) * math.gamma(4) / math.gamma(3.5)  # E[s] / sigma of 8 normal numbers
    want = stats.t.ppf(0.975, 7) * shrunk * spread / math.sqrt(8)
    assert np.mean([(x.high - x.low) / 2 for x in found]) == pytest.approx(want, rel=0.03)


def test_a_wrong_pairing_is_seen(studies):
    # The same numbers with the seeds of one arm dealt anew: right in the mean, and useless.
    rng = np.random.default_rng(0)
    moved = studies.copy()
    high = moved["norm"] == "batch"
    moved.loc[high, "seed"] = rng.permutation(SEEDS * SIMULATIONS)[moved.loc[high, "seed"]]
    cells = moved.groupby(["seed", *GRID], sort=False)["log"].mean().reset_index()
    right, wrong = (
        in_studies(contrast(table, EFFECTS[0], "log", factors=list(GRID))).std(axis=1, ddof=1)
        for table in (studies, cells)
    )
    assert wrong.mean() > 50 * right.mean()


def no_effect(noise, studies):
    """The paired-t ps of simulated studies without any effect (studies, seven contrasts)."""
    rng = np.random.default_rng(5)
    table = simulate(rng, studies, dict.fromkeys(NAMES, 0.0), lambda size: noise(rng, size))
    numbers = [in_studies(contrast(table, e, "log", factors=list(GRID))) for e in EFFECTS]
    return np.array([[paired_t(x).p for x in of_one_effect] for of_one_effect in numbers]).T


@pytest.mark.parametrize(
    ("noise", "studies"),
    [
        (lambda rng, size: rng.normal(size=size), 4000),
        (lambda rng, size: rng.standard_t(3, size), 2000),
        (lambda rng, size: rng.exponential(1, size), 2000),
    ],
    ids=["normal", "heavy tails", "skew"],
)
def test_a_grid_without_effects_shows_one_in_5_of_100_studies_at_most(noise, studies):
    p = no_effect(noise, studies)
    wrong = np.mean([holm(one).min() < 0.05 for one in p])
    assert 0.03 <= wrong <= 0.055
    assert 0.2 < (p.min(axis=1) < 0.05).mean() < 0.4  # without Holm


def test_holm_keeps_the_rate_beside_a_true_effect_and_finds_that(studies):
    truth = dict.fromkeys(NAMES, 0.0) | {"norm": 0.3}
    table = simulate(np.random.default_rng(6), SIMULATIONS, truth)
    numbers = [in_studies(contrast(table, e, "log", factors=list(GRID))) for e in EFFECTS]
    p = np.array([[paired_t(x).p for x in of_one_effect] for of_one_effect in numbers]).T
    adjusted = np.array([holm(one) for one in p])
    assert (adjusted[:, 0] < 0.05).mean() > 0.99
    assert 0.03 <= (adjusted[:, 1:].min(axis=1) < 0.05).mean() <= 0.055


def test_the_sign_flip_keeps_its_level():
    rng = np.random.default_rng(7)
    p = np.array([sign_flip(x) for x in rng.standard_t(3, (4000, SEEDS))])
    for level in (6 / 128, 32 / 128):  # of the steps of 1 / 128 that 8 pairs can reach
        assert (p <= level).mean() == pytest.approx(level, abs=4 * math.sqrt(level / 4000))


def test_improvement_of_a_known_shift():
    # P(X < Y) of two normals that differ by d standard deviations is Phi(d / sqrt 2).
    rng = np.random.default_rng(8)
    got = [improvement(rng.normal(0, 1, 8), rng.normal(1, 1, 8)) for _ in range(SIMULATIONS)]
    assert np.mean(got) == pytest.approx(stats.norm.cdf(1 / math.sqrt(2)), abs=0.01)


# Fluctuation --------------------------------------------------------------------------------------

WANDER, BANK = 0.10, 0.15  # standard deviations of an epoch and of one bank, on the log scale


def simulated_run(rng, epochs, banks, wander=WANDER):
    """A learning curve that goes down straight, goes up and down, and is measured with noise."""
    trend = 5 - 0.2 * np.arange(epochs)[:, None]
    steps = rng.normal(0, wander, (epochs, 1))
    return trend + steps + rng.normal(0, BANK, (epochs, banks))


@pytest.mark.parametrize(("epochs", "banks", "runs"), [(8, 3, 4000), (80, 3, 400), (8, 1, 4000)])
def test_fluctuation_is_recovered_from_under_its_noise(epochs, banks, runs):
    rng = np.random.default_rng(9)
    found = [
        fluctuation(simulated_run(rng, epochs, banks), burn_in(epochs), BANK**2)
        for _ in range(runs)
    ]
    assert np.mean([x.variance for x in found]) == pytest.approx(WANDER**2, rel=0.10)
    assert {x.changes for x in found} == {epochs - burn_in(epochs) - 1}


def test_its_noise_can_be_measured_on_the_same_banks():
    rng = np.random.default_rng(10)
    runs = np.array([simulated_run(rng, 8, 3) for _ in range(4000)])
    noise = bank_variance(runs)
    assert noise == pytest.approx(BANK**2, rel=0.02)
    found = np.mean([fluctuation(x, 2, noise).variance for x in runs])
    assert found == pytest.approx(WANDER**2, rel=0.10)


def test_a_run_that_does_not_fluctuate_is_as_often_below_zero():
    rng = np.random.default_rng(11)
    runs = [simulated_run(rng, 8, 3, wander=0.0) for _ in range(2000)]
    found = np.array([fluctuation(x, 2, BANK**2).variance for x in runs])
    assert abs(found.mean()) < 0.05 * BANK**2
    assert 0.4 < (found < 0).mean() < 0.8


def test_fluctuation_by_hand():
    # Changes -1, 2, -1 about their mean 0: squares 6, divisor 3 - 1/3, halved, less 0.5 / 1.
    x = [9.0, 9.0, 4.0, 3.0, 5.0, 4.0]
    found = fluctuation(x, 2, 0.5)
    assert found.variance == pytest.approx(6 / (8 / 3) / 2 - 0.5, rel=1e-12)
    assert found.drawdown == 2.0
    assert found.regret == 1.0
    assert found.changes == 3

    # Two banks whose mean is x: half the noise.
    banks = np.stack([np.array(x) - 1, np.array(x) + 1], axis=1)
    assert fluctuation(banks, 2, 0.5).variance == pytest.approx(found.variance + 0.25, rel=1e-12)
    assert fluctuation(banks, 2, 0.5).drawdown == pytest.approx(2.0)


def test_a_straight_trend_and_the_level_are_no_fluctuation():
    rng = np.random.default_rng(12)
    x = rng.normal(size=12)
    one, other = fluctuation(x, 3, 0.0), fluctuation(x + 7 - 0.8 * np.arange(12), 3, 0.0)
    assert other.variance == pytest.approx(one.variance, rel=1e-9)
    assert other.autocorrelation == pytest.approx(one.autocorrelation, rel=1e-9)
    assert fluctuation(np.arange(12.0), 3, 0.0).variance == pytest.approx(0, abs=1e-12)
    assert math.isnan(fluctuation(np.arange(12.0), 3, 0.0).autocorrelation)


def test_nothing_before_the_burn_in_matters():
    x = np.random.default_rng(13).normal(size=(8, 3))
    other = x.copy()
    other[:2] = 100.0
    assert fluctuation(x, 2, 0.1) == fluctuation(other, 2, 0.1)
    assert fluctuation(x, 1, 0.1) != fluctuation(other, 1, 0.1)
    assert [burn_in(epochs) for epochs in (1, 2, 4, 8, 30, 80)] == [0, 0, 0, 1, 9, 25]


def test_no_change_reaches_across_a_missing_epoch():
    gap = [0.0, 1.0, math.nan, 50.0, 52.0, 51.0]
    found = fluctuation(gap, 0, 0.0)
    # Changes 1, 2, -1 about 2/3: squares 14/3; two stretches: divisor 3 - 2/3.
    assert found.variance == pytest.approx(14 / 3 / (3 - 2 / 3) / 2, rel=1e-12)
    assert found.changes == 3

    # Without bias also then.
    rng = np.random.default_rng(14)
    runs = rng.normal(size=(4000, 8))
    runs[:, [2, 5]] = math.nan
    assert np.mean([fluctuation(x, 0, 0.0).variance for x in runs]) == pytest.approx(1, rel=0.05)


def test_series_too_short_to_fluctuate():
    assert fluctuation([], 0, 0.0).changes == 0
    for x in ([], [1.0, 2.0], [1.0, 2.0, 3.0], [1.0, math.nan, 2.0, math.nan, 3.0]):
        assert math.isnan(fluctuation(x, 2, 0.0).variance)
    diverged = fluctuation([3.0, 2.0, 4.0, 3.0, math.nan], 0, 0.0)
    assert math.isnan(diverged.regret)
    assert diverged.drawdown == 2.0
    assert diverged.changes == 3


@pytest.mark.parametrize("memory", [0.0, 0.6, -0.4])
def test_autocorrelation_of_a_long_series(memory):
    rng = np.random.default_rng(15)
    x = [0.0]
    for step in rng.normal(size=5000):
        x.append(memory * x[-1] + step)
    found = fluctuation(x, 0, 0.0)
    assert found.autocorrelation == pytest.approx(memory, abs=0.05)
    assert found.variance == pytest.approx((1 - memory) / (1 - memory**2), rel=0.1)


@pytest.mark.parametrize("epochs", [6, 12, 60])
def test_the_bias_of_a_short_autocorrelation_is_the_one_we_admit(epochs):
    rng = np.random.default_rng(16)
    found = [fluctuation(rng.normal(size=epochs), 0, 0.0).autocorrelation for _ in range(2000)]
    assert np.mean(found) == pytest.approx(-2 / epochs, abs=0.025)


# Variance components ------------------------------------------------------------------------------


def test_a_trend_that_bends_adds_what_we_admit():
    slope = np.linspace(-0.024, -0.008, 2001)  # an epoch
    found = fluctuation(np.concatenate([[0], np.cumsum(slope)]), 0, 0.0).variance
    assert found == pytest.approx(0.016**2 / 24, rel=0.01)
    assert math.sqrt(found) == pytest.approx(0.0033, abs=0.00005)


@pytest.mark.parametrize("trend", [(3.0, 2.9, 2.8), (3.0, 3.0, 3.0), (3.0, 2.6, 2.7)])
@pytest.mark.parametrize("sd", [0.01, 0.05, 0.2])
def test_a_relapse_by_noise_is_as_likely_as_in_simulations(trend, sd):
    by = math.log(1.05)
    x = np.array(trend) + np.random.default_rng(17).normal(0, sd, (200_000, 3))
    first, second, third = x.T
    want = np.mean((second - np.maximum(first, third) >= by) | (third - second >= by))
    assert relapse_by_noise(trend, sd**2, by) == pytest.approx(want, abs=0.005)


def test_a_relapse_without_noise_is_certain_or_impossible():
    assert relapse_by_noise((3, 2, 1), 0.0, 0.05) == 0
    for trend in ((3, 3.1, 3), (3, 2, 2.1)):
        assert relapse_by_noise(trend, 0.0, 0.05) == 1
    assert math.isnan(relapse_by_noise((3, 2, 1), math.nan, 0.05))


def test_the_first_crossing_of_a_threshold():
    clock, values = [0, 10, 20, 30, 40], [9.0, 7.0, 4.0, 6.0, 1.0]
    assert crossing(clock, values, 5.0) == pytest.approx(10 + 10 * 2 / 3)
    assert crossing(clock, values, 4.0) == 20
    assert crossing(clock, values, 9.0) == crossing(clock, values, 10.0) == 0
    assert math.isnan(crossing(clock, values, 0.9))
    assert math.isnan(crossing([], [], 5.0))
    gap = [9.0, math.nan, 4.0, math.nan, 1.0]
    assert crossing(clock, gap, 5.0) == pytest.approx(20 * 4 / 5)


def test_bank_variance_pools_within_cells():
    assert bank_variance([[1.0, 3.0], [10.0, 10.0]]) == pytest.approx(1.0)
    assert bank_variance([[[1.0, 2.0, 6.0]], [[5.0, math.nan, 7.0]]]) == pytest.approx(16 / 3)
    assert math.isnan(bank_variance([[1.0], [2.0]]))
    assert math.isnan(bank_variance(np.empty((0, 3))))


def test_variance_components_are_recovered():
    # Beside the four: luck that all arms of a seed share, and a trend that all runs share.
    rng = np.random.default_rng(17)
    true = {"arm": 0.15, "seed": 0.10, "epoch": 0.08, "evaluation": 0.50}
    luck, trend = 0.20, np.linspace(1, -1, 6)[:, None]
    found = []
    for _ in range(1000):
        x = rng.normal(0, math.sqrt(true["arm"]), (6, 1, 1, 1))
        x = x + rng.normal(0, math.sqrt(true["seed"]), (6, SEEDS, 1, 1))
        x = x + rng.normal(0, math.sqrt(luck), (1, SEEDS, 1, 1))
        x = x + rng.normal(0, math.sqrt(true["epoch"]), (6, SEEDS, 6, 1)) + trend
        found.append(components(x + rng.normal(0, math.sqrt(true["evaluation"]), (6, SEEDS, 6, 3))))
    true["seed"] += luck
    true["epoch"] += trend.var(ddof=1)
    mean = {name: np.mean([one[name] for one in found]) for name in found[0]}
    assert list(mean) == ["arm", "seed", "epoch", "evaluation"]
    assert mean == pytest.approx(true, rel=0.10)


def test_a_level_without_variance_is_as_often_below_zero():
    rng = np.random.default_rng(18)
    found = [components(rng.normal(size=(4, SEEDS, 6, 3))) for _ in range(500)]
    for name in ("arm", "seed", "epoch"):
        values = np.array([one[name] for one in found])
        assert abs(values.mean()) < 4 * values.std() / math.sqrt(500)
        assert 0.3 < (values < 0).mean() < 0.7
    assert np.mean([one["evaluation"] for one in found]) == pytest.approx(1, rel=0.02)


def test_components_by_hand():
    # Two arms, two seeds, two epochs, two banks that say the same: no noise at all.
    x = np.zeros((2, 2, 2, 2))
    x[1] += 4.0
    assert components(x) == pytest.approx(
        {"arm": 8.0, "seed": 0.0, "epoch": 0.0, "evaluation": 0.0}
    )
    x[:, 1] += 2.0
    assert components(x) == pytest.approx(
        {"arm": 8.0, "seed": 2.0, "epoch": 0.0, "evaluation": 0.0}
    )
    x[:, :, 1] += 6.0
    assert components(x) == pytest.approx(
        {"arm": 8.0, "seed": 2.0, "epoch": 18.0, "evaluation": 0.0}
    )
    x[..., 1] += 1.0
    assert components(x) == pytest.approx(
        {"arm": 8.0, "seed": 2.0, "epoch": 17.75, "evaluation": 0.5}
    )


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
