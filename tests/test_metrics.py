"""The metrics against closed forms, hand computation, and two other implementations."""

import itertools
from decimal import Decimal, getcontext

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from eval.metrics import BLOCK, Moments, frechet_distance, kid, moments, prdc, score

NAN = float("nan")


def gaussian(mean: np.ndarray, covariance: np.ndarray) -> Moments:
    return Moments(mean, scipy.linalg.sqrtm(covariance).real)


def whitened(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Rows whose mean is exactly 0 and whose covariance is exactly the identity, up to rounding."""
    rows = rng.normal(size=(count, size))
    rows -= rows.mean(axis=0)
    return np.linalg.qr(rows)[0] * np.sqrt(count - 1)


# --- Fréchet distance -----------------------------------------------------------------------------


def test_moments_are_mean_and_covariance() -> None:
    rng = np.random.default_rng(0)
    for count in (3, 40, 2 * BLOCK + 1):  # fewer rows than columns, more, more than one block
        x = rng.normal(size=(count, 7)) @ rng.normal(size=(7, 7)) + 5
        found = moments(x)
        np.testing.assert_allclose(found.mean, x.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(
            found.factor.T @ found.factor, np.cov(x, rowvar=False), rtol=1e-10, atol=1e-12
        )
        assert found.factor.shape == (min(count, 7), 7)


def test_moments_of_float32_are_taken_in_float64() -> None:
    x = np.random.default_rng(0).normal(1000, 1, (5000, 4)).astype(np.float32)
    np.testing.assert_allclose(moments(x).mean, x.astype(np.float64).mean(axis=0), rtol=1e-14)


def test_equal_covariances_leave_the_squared_difference_of_means() -> None:
    rng = np.random.default_rng(0)
    spread = np.cov(rng.normal(size=(30, 12)), rowvar=False)
    m, n = rng.normal(size=(2, 12))
    found = frechet_distance(gaussian(m, spread), gaussian(n, spread))
    assert found == pytest.approx(np.square(m - n).sum(), rel=1e-10)


def test_diagonal_covariances_have_a_closed_form() -> None:
    rng = np.random.default_rng(1)
    m, n = rng.normal(size=(2, 9))
    a, b = rng.uniform(0, 4, size=(2, 9))
    expected = np.square(m - n).sum() + np.square(np.sqrt(a) - np.sqrt(b)).sum()
    found = frechet_distance(gaussian(m, np.diag(a)), gaussian(n, np.diag(b)))
    assert found == pytest.approx(expected, rel=1e-12)


def test_samples_with_exact_moments_have_the_closed_form() -> None:
    rng = np.random.default_rng(2)
    a, b, shift = rng.uniform(0.1, 3, size=(3, 6))
    x, y = whitened(rng, 50, 6) * a, whitened(rng, 80, 6) * b + shift
    expected = np.square(shift).sum() + np.square(a - b).sum()
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(expected, rel=1e-12)


def test_a_shifted_copy_is_at_the_squared_shift() -> None:
    rng = np.random.default_rng(3)
    x, shift = rng.normal(size=(10, 20)), rng.normal(size=20)  # fewer rows than columns
    expected = np.square(shift).sum()
    assert frechet_distance(moments(x), moments(x + shift)) == pytest.approx(expected, rel=1e-10)


def test_a_set_is_at_zero_from_itself_and_never_below() -> None:
    rng = np.random.default_rng(4)
    for count, size in itertools.product((2, 5, 200), (1, 8, 64)):
        x = moments(rng.normal(size=(count, size)) + 10)
        assert 0 <= frechet_distance(x, x) < 1e-11


def test_distance_ignores_rotation_and_order_and_is_symmetric() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(50, 16)) * rng.uniform(0, 2, 16), rng.normal(size=(9, 16)) + 1
    rotation = np.linalg.qr(rng.normal(size=(16, 16)))[0]
    expected = frechet_distance(moments(x), moments(y))
    for a, b in [(y, x), (x @ rotation, y @ rotation), (rng.permutation(x), rng.permutation(y))]:
        assert frechet_distance(moments(a), moments(b)) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(moments(3 * x), moments(3 * y)) == pytest.approx(
        9 * expected, rel=1e-12
    )


def test_fewer_rows_than_columns_agree_with_fifty_digits() -> None:
    """Three rows a side in five columns: the root's trace from the 2x2 problem, in decimals."""
    getcontext().prec = 50
    rng = np.random.default_rng(6)
    x, y = rng.integers(-9, 10, size=(2, 3, 5))

    def centred(rows: np.ndarray) -> list[list[Decimal]]:
        table = [[Decimal(int(value)) for value in row] for row in rows]
        means = [sum(column) / 3 for column in zip(*table, strict=True)]
        return [[v - m for v, m in zip(row, means, strict=True)] for row in table]

    def dot(a: list[Decimal], b: list[Decimal]) -> Decimal:
        return sum((p * q for p, q in zip(a, b, strict=True)), Decimal(0))

    # Singular values s, t of the 3x3 cross product, whose rank is 2: with G = C C',
    # (s + t)^2 = tr G + 2 sqrt(sum of the principal 2x2 minors of G).
    a, b = centred(x), centred(y)
    cross = [[dot(p, q) / 2 for q in b] for p in a]
    g = [[dot(p, q) for q in cross] for p in cross]
    minors = sum(g[i][i] * g[j][j] - g[i][j] * g[j][i] for i, j in [(0, 1), (0, 2), (1, 2)])
    root = (sum(g[i][i] for i in range(3)) + 2 * minors.sqrt()).sqrt()
    spread = (sum(dot(p, p) for p in a) + sum(dot(q, q) for q in b)) / 2
    offset = [Decimal(int(p - q)) / 3 for p, q in zip(x.sum(axis=0), y.sum(axis=0), strict=True)]
    expected = float(dot(offset, offset) + spread - 2 * root)
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(expected, rel=1e-13)


def test_two_rows_give_a_number_and_one_is_refused() -> None:
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(2, 8)), rng.normal(size=(1000, 8))
    biased, fair = (frechet_distance(moments(rows), moments(y)) for rows in (x, y[:500]))
    assert np.isfinite(biased)
    assert biased > 10 * fair  # the same distribution, yet far away: bias
    with pytest.raises(ValueError, match="two rows of features at least, not 1"):
        moments(x[:1])


def test_a_row_that_is_not_finite_makes_the_distance_nan() -> None:
    x = np.random.default_rng(8).normal(size=(20, 4))
    for bad in (NAN, np.inf, -np.inf):
        y = x.copy()
        y[3, 1] = bad
        assert np.isnan(frechet_distance(moments(x), moments(y)))
        assert np.isnan(frechet_distance(moments(y), moments(x)))


# --- Score ----------------------------------------------------------------------------------------


def test_equal_predictions_score_one() -> None:
    logits = np.tile(np.random.default_rng(0).normal(size=10), (30, 1))
    assert score(np.zeros((30, 10))) == pytest.approx(1, abs=1e-14)
    assert score(logits, splits=3) == pytest.approx(1, abs=1e-14)


def test_certain_and_balanced_predictions_score_the_number_of_classes() -> None:
    for sure in (50.0, 1e4):  # probabilities that underflow must do no harm
        logits = sure * np.tile(np.eye(7), (4, 1))
        assert score(logits) == pytest.approx(7, rel=1e-12)
        assert score(logits, splits=4) == pytest.approx(7, rel=1e-12)
        assert score(logits[::7]) == pytest.approx(1, rel=1e-12)  # one class only


def test_score_of_two_rows_by_hand() -> None:
    rows = np.log(np.array([[0.75, 0.25], [0.25, 0.75]]))
    logits = rows + np.array([[5], [-3]])  # a constant a row changes nothing
    divergence = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert score(logits) == pytest.approx(np.exp(divergence), rel=1e-12)


def test_splits_are_taken_in_order() -> None:
    logits = np.random.default_rng(1).normal(size=(11, 5)) * 3
    parts = [score(logits[i * 11 // 3 : (i + 1) * 11 // 3]) for i in range(3)]
    assert score(logits, splits=3) == pytest.approx(np.mean(parts), rel=1e-14)
    for splits in (0, 12):
        with pytest.raises(ValueError, match=f"11 rows cannot be split into {splits} parts"):
            score(logits, splits)


def test_a_logit_that_is_not_finite_makes_the_score_nan() -> None:
    logits = np.zeros((6, 3))
    logits[2, 2] = np.inf
    assert np.isnan(score(logits))


# --- Kernel distance ------------------------------------------------------------------------------


def test_kid_by_hand() -> None:
    """D = 1: the kernel (xy + 1)^3 is 27 within x, 1 within y, and 1, 64, 1, 343 between them."""
    x, y = np.array([[1.0], [2.0]]), np.array([[0.0], [3.0]])
    expected = 27 + 1 - 2 * (1 + 64 + 1 + 343) / 4
    assert kid(x, y) == pytest.approx(expected, rel=1e-14)
    assert kid(y, x) == pytest.approx(expected, rel=1e-14)


def test_kid_agrees_with_a_loop_over_pairs_of_unequal_sets() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 4)), rng.normal(size=(9, 4))

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return (a @ b / 4 + 1) ** 3

    within = [
        np.mean([kernel(s[i], s[j]) for i, j in itertools.permutations(range(len(s)), 2)])
        for s in (x, y)
    ]
    between = np.mean([kernel(a, b) for a, b in itertools.product(x, y)])
    assert kid(x, y) == pytest.approx(sum(within) - 2 * between, rel=1e-12)


def test_kid_in_blocks_agrees_with_the_whole() -> None:
    rng = np.random.default_rng(1)
    count = BLOCK + 3
    x, y = rng.normal(size=(2, count, 3))
    kernels = [(a @ b.T / 3 + 1) ** 3 for a, b in [(x, x), (y, y), (x, y)]]
    within = sum((k.sum() - np.trace(k)) / (count * (count - 1)) for k in kernels[:2])
    assert kid(x, y) == pytest.approx(within - 2 * kernels[2].mean(), abs=1e-12)


def test_kid_of_one_distribution_is_zero_on_average() -> None:
    rng = np.random.default_rng(2)
    same = np.array([kid(*rng.normal(size=(2, 40, 5))) for _ in range(400)])
    error = same.std(ddof=1) / np.sqrt(len(same))
    assert abs(same.mean()) < 4 * error
    assert (same < 0).mean() > 0.3  # unbiased: below zero about as often as above

    other = np.array(
        [kid(rng.normal(size=(40, 5)), rng.normal(0.5, 1, (40, 5))) for _ in range(50)]
    )
    assert other.mean() > 10 * other.std(ddof=1) / np.sqrt(len(other))


# --- Precision, recall, density, coverage ---------------------------------------------------------

LINE = np.arange(4.0)[:, None] * 10  # 0, 10, 20, 30: with k = 1 every ball has radius 10


def test_neighbours_of_hand_made_points() -> None:
    """Fakes at 0, 1 and 2 have radius 1; reals at 0, 10, 20, 30 have radius 10."""
    fake = np.array([[0.0], [1.0], [2.0]])
    found = prdc(LINE, fake, k=1)
    assert found == {
        "precision": 1.0,  # all lie in the ball of 0
        "recall": 1 / 4,  # only the real 0 is within 1 of a fake
        "density": pytest.approx((2 + 2 + 2) / 3),  # 0, 1 and 2 lie in the balls of 0 and of 10
        "coverage": 2 / 4,  # the balls of 0 and of 10 hold fakes, rim included
    }


def test_far_fakes_have_none_of_it() -> None:
    assert set(prdc(LINE, LINE + 1000, k=2).values()) == {0.0}


def test_a_set_against_itself_has_all_of_it() -> None:
    x = np.random.default_rng(0).integers(0, 1000, size=(50, 3)).astype(float)
    found = prdc(x, x, k=3)
    assert (found["precision"], found["recall"], found["coverage"]) == (1, 1, 1)
    assert found["density"] == pytest.approx(4 / 3, abs=0.05)  # k neighbours and the point itself


def test_one_point_is_precise_but_covers_little() -> None:
    """A collapsed generator, the case that precision alone does not see."""
    rng = np.random.default_rng(1)
    real = rng.normal(size=(200, 4))
    found = prdc(real, np.tile(real.mean(axis=0), (200, 1)))
    assert found["precision"] == 1
    assert found["recall"] == 0
    assert found["coverage"] < 0.5


def test_neighbours_of_one_distribution() -> None:
    """Density and coverage have known expectations: 1, and 1 - (2N-1-k choose N) / (2N-1 choose N)
    for equally many points (Naeem et al., 2020, equations 7 and 9), about 1 - 2^-k."""
    rng = np.random.default_rng(2)
    repeats = [prdc(*rng.normal(size=(2, 300, 3))) for _ in range(20)]
    density, coverage = (
        np.array([each[name] for each in repeats]) for name in ("density", "coverage")
    )
    assert abs(density.mean() - 1) < 5 * density.std(ddof=1) / np.sqrt(20)
    expected = 1 - np.prod([(300 - 1 - i) / (600 - 1 - i) for i in range(5)])
    assert abs(coverage.mean() - expected) < 5 * coverage.std(ddof=1) / np.sqrt(20)


def test_neighbours_in_blocks_agree_with_plain_loops() -> None:
    rng = np.random.default_rng(3)
    real, fake = rng.normal(size=(BLOCK + 50, 2)), rng.normal(0.3, 0.8, (BLOCK + 9, 2))
    k = 4
    cross = np.linalg.norm(real[:, None] - fake[None], axis=2)
    radii = [
        np.sort(np.linalg.norm(x[:, None] - x[None], axis=2), axis=1)[:, k] for x in (real, fake)
    ]
    inside = cross <= radii[0][:, None]
    assert prdc(real, fake, k) == {
        "precision": inside.any(axis=0).mean(),
        "recall": (cross <= radii[1][None]).any(axis=1).mean(),
        "density": pytest.approx(inside.sum() / (k * len(fake)), rel=1e-12),
        "coverage": inside.any(axis=1).mean(),
    }


def test_neighbours_refuse_few_rows_and_say_nan() -> None:
    with pytest.raises(ValueError, match="neighbour 5 needs more rows than 4"):
        prdc(LINE, LINE)
    found = prdc(LINE, LINE * NAN, k=1)
    assert list(found) == ["precision", "recall", "density", "coverage"]
    assert np.isnan(list(found.values())).all()


# --- The same images and the same network, through torch-fidelity and torchmetrics ----------------


class Small(nn.Module):
    """A small random network; float64 features and logits, so that others lose nothing either."""

    num_features = 12

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.kernel = torch.randn(self.num_features, 3, 4, 4, generator=generator)
        self.linear = torch.randn(self.num_features, 10, generator=generator)

    def features(self, images: Tensor) -> Tensor:
        maps = nn.functional.conv2d(images.float() / 127.5 - 1, self.kernel, stride=2)
        return maps.relu().mean(dim=(2, 3)).double()

    def logits(self, images: Tensor) -> Tensor:
        return self.features(images) @ self.linear.double()


@pytest.fixture(scope="module")
def network() -> Small:
    return Small()


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    """Two sets of 80 images, uint8 (80, 3, 16, 16): a colour each, and noise."""
    generator = torch.Generator().manual_seed(1)
    colour = torch.randint(0, 192, (2, 80, 3, 1, 1), generator=generator)
    fine = torch.randint(0, 64, (2, 80, 3, 16, 16), generator=generator)
    real, fake = (colour + fine).to(torch.uint8)
    return real, fake // 2 + 30


@pytest.fixture(scope="module")
def ours(network: Small, images: tuple[Tensor, Tensor]) -> dict[str, float]:
    real, fake = (network.features(x).numpy() for x in images)
    neighbours = prdc(real, fake, k=3)
    return {
        "distance": frechet_distance(moments(fake), moments(real)),
        "kernel": kid(fake, real),
        "score": score(network.logits(images[1]).numpy()),
        "score of 4": score(network.logits(images[1]).numpy(), splits=4),
        "precision": neighbours["precision"],
        "recall": neighbours["recall"],
    }


def test_parity_with_torch_fidelity(
    network: Small, images: tuple[Tensor, Tensor], ours: dict[str, float]
) -> None:
    import torch_fidelity
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    class Extractor(FeatureExtractorBase):
        def __init__(self, name: str, features_list: list[str], **options: object) -> None:
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return "features", "logits"

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "logits" if metric == "isc" else "features"

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return tuple(getattr(network, name)(x) for name in self.features_list)

    class Listed(torch.utils.data.Dataset):
        def __init__(self, items: Tensor) -> None:
            self.items = items

        def __len__(self) -> int:
            return len(self.items)

        def __getitem__(self, i: int) -> Tensor:
            return self.items[i]

    torch_fidelity.register_feature_extractor("small", Extractor)
    real, fake = images
    options = {"feature_extractor": "small", "cuda": False, "save_cpu_ram": True, "verbose": False}
    theirs = torch_fidelity.calculate_metrics(
        input1=Listed(fake),
        input2=Listed(real),
        isc=True,
        fid=True,
        kid=True,
        prc=True,
        isc_splits=4,
        samples_shuffle=False,
        kid_subsets=1,
        kid_subset_size=len(real),
        prc_neighborhood=3,
        cache=False,
        **options,
    )
    assert ours["distance"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    assert ours["kernel"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)
    assert ours["score of 4"] == pytest.approx(theirs["inception_score_mean"], rel=1e-5)
    assert ours["precision"] == pytest.approx(theirs["precision"], rel=1e-6)
    assert ours["recall"] == pytest.approx(theirs["recall"], rel=1e-6)

    # The numbers are such that agreement means something.
    assert ours["distance"] > 1e-4
    assert abs(ours["kernel"]) > 1e-6
    assert 1.01 < ours["score of 4"] < 9.9
    assert 0 < ours["precision"] < 1


@pytest.mark.filterwarnings("ignore:Metric `", "ignore:std():UserWarning")
def test_parity_with_torchmetrics(
    network: Small, images: tuple[Tensor, Tensor], ours: dict[str, float]
) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.inception import InceptionScore
    from torchmetrics.image.kid import KernelInceptionDistance

    class Head(nn.Module):
        num_features = network.num_features

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: Tensor) -> Tensor:
            return getattr(network, self.name)(x)

    real, fake = images
    distance = FrechetInceptionDistance(feature=Head("features"))
    kernel = KernelInceptionDistance(feature=Head("features"), subsets=1, subset_size=len(real))
    for metric in (distance, kernel):
        metric.update(real, real=True)
        metric.update(fake, real=False)
    diversity = InceptionScore(feature=Head("logits"), splits=1)
    diversity.update(fake)

    assert ours["distance"] == pytest.approx(distance.compute().item(), rel=1e-6)
    with torch.random.fork_rng(devices=[]):  # both shuffle with the global generator
        assert ours["kernel"] == pytest.approx(kernel.compute()[0].item(), rel=1e-6)
        assert ours["score"] == pytest.approx(diversity.compute()[0].item(), rel=1e-5)
