"""Scores as pure functions of finite feature arrays, in float64, and their table. No torch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

IMPLEMENTATION = "eval.metrics 2"  # part of a metric's identity; raise it when a number changes
NEIGHBOUR = 5  # k of precision, recall, density and coverage
NEIGHBOUR_METRICS = ("precision", "recall", "density", "coverage")
BLOCK = 1024  # rows of a distance or kernel matrix that are in memory at a time


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of a feature array, all that the Fréchet distance needs of it."""

    mean: np.ndarray  # (D,) float64
    factor: np.ndarray  # (R, D) float64 with R <= D; factor.T @ factor is the covariance


def moments(features: np.ndarray) -> Moments:
    """Mean and factored covariance (with N - 1) of features (N, D).

    The factor is the R of a QR decomposition of the centred rows over sqrt(N - 1), taken block by
    block, so that a covariance is never formed and its rank may be below D.
    """
    count, size = features.shape
    mean = features.mean(axis=0, dtype=np.float64)
    factor = np.empty((0, size))
    step = max(4 * size, BLOCK)
    for i in range(0, count, step):
        rows = features[i : i + step].astype(np.float64) - mean
        factor = np.linalg.qr(np.concatenate([factor, rows]), mode="r")
    return Moments(mean, np.ascontiguousarray(factor) / np.sqrt(count - 1))


def frechet_distance(x: Moments, y: Moments) -> float:
    """Squared Wasserstein-2 distance of two Gaussians: |m - n|^2 + tr(C + D - 2 (C D)^(1/2)).

    With C = A'A and D = B'B the trace of the root is the sum of the singular values of A B', which
    needs no matrix root and is exact for covariances of any rank. Rounding below zero is cut off
    at 0. Dowson and Landau, 1982; as a score of images: Heusel et al., 2017, arXiv 1706.08500.
    """
    offset = x.mean - y.mean
    root = np.linalg.svd(x.factor @ y.factor.T, compute_uv=False).sum()
    spread = np.square(x.factor).sum() + np.square(y.factor).sum()
    return max(0.0, float(offset @ offset + spread - 2 * root))


def score(logits: np.ndarray, splits: int = 1) -> float:
    """exp of the mean KL(p(y|x) || p(y)) over logits (N, K), averaged over the splits.

    From 1 (every image alike) to K (certain and balanced). The rows are split in their order into
    parts of N / splits; p(y) is each part's own. Salimans et al., 2016, arXiv 1606.03498.
    """
    from scipy.special import entr, log_softmax  # a third of a second

    count = len(logits)
    p = np.exp(log_softmax(logits.astype(np.float64), axis=1))
    parts = [p[i * count // splits : (i + 1) * count // splits] for i in range(splits)]

    # The mean divergence is the entropy of the mean less the mean entropy.
    scores = [np.exp(entr(x.mean(axis=0)).sum() - entr(x).sum(axis=1).mean()) for x in parts]
    return float(np.mean(scores))


def kid(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased squared MMD of features (N, D) and (M, D) with the kernel (x.y / D + 1)^3.

    It may fall below zero. Binkowski et al., 2018, arXiv 1801.01401, equations 3 and 4.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    n, m = len(x), len(y)
    within_x = (_kernel_sum(x, x) - _cubed(np.square(x).sum(axis=1), x).sum()) / (n * (n - 1))
    within_y = (_kernel_sum(y, y) - _cubed(np.square(y).sum(axis=1), y).sum()) / (m * (m - 1))
    return float(within_x + within_y - 2 * _kernel_sum(x, y) / (n * m))


def prdc(real: np.ndarray, fake: np.ndarray, k: int = NEIGHBOUR) -> dict[str, float]:
    """Precision, recall, density and coverage of features (N, D) and (M, D).

    A ball around each point reaches to its k-th nearest neighbour on its own side, rim included.
    Precision: the share of fakes in a real ball; recall: of reals in a fake ball; density: real
    balls that a fake lies in, over k; coverage: the share of real balls with a fake in them.
    Kynkäänniemi et al., 2019, arXiv 1904.06991; Naeem et al., 2020, arXiv 2002.09797.
    """
    real, fake = real.astype(np.float64), fake.astype(np.float64)
    real_radii, fake_radii = _squared_radii(real, k), _squared_radii(fake, k)

    # One pass over the distances between the sides, a block of reals at a time.
    balls = np.zeros(len(fake), dtype=np.int64)  # real balls that each fake lies in
    covered = recalled = 0
    for rows, squared in _squared_distances(real, fake):
        inside = squared <= real_radii[rows, None]
        balls += inside.sum(axis=0)
        covered += int(inside.any(axis=1).sum())
        recalled += int((squared <= fake_radii).any(axis=1).sum())

    return {
        "precision": float((balls > 0).mean()),
        "recall": recalled / len(real),
        "density": float(balls.mean() / k),
        "coverage": covered / len(real),
    }


def _kernel_sum(x: np.ndarray, y: np.ndarray) -> float:
    """Sum of the kernel over all pairs of rows."""
    return sum(_cubed(x[i : i + BLOCK] @ y.T, x).sum() for i in range(0, len(x), BLOCK))


def _cubed(inner: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The kernel of inner products of rows of x: (p / D + 1)^3."""
    base = inner / x.shape[1] + 1
    return base * base * base


def _squared_radii(x: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each row to its k-th nearest other row, (N,)."""
    blocks = [np.partition(squared, k, axis=1)[:, k] for _, squared in _squared_distances(x, x)]
    return np.concatenate(blocks)  # index 0 is the row itself


def _squared_distances(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of rows of the (N, M) matrix of squared distances."""
    y_norms = np.square(y).sum(axis=1)
    for i in range(0, len(x), BLOCK):
        rows = x[i : i + BLOCK]
        squared = np.square(rows).sum(axis=1)[:, None] + y_norms - 2 * (rows @ y.T)
        yield slice(i, i + BLOCK), np.maximum(squared, 0)


@dataclass(frozen=True)
class Sample:
    """Generated and real images as one network sees them: all that a metric needs."""

    features: np.ndarray  # (N, D), of the generated images
    logits: np.ndarray  # (N, K)
    real: np.ndarray  # (M, D), of the real ones
    real_moments: Moments
    splits: int  # of the score

    @property
    def as_many(self) -> np.ndarray:
        """The features of the first N real images."""
        return self.real[: len(self.features)]

    @cached_property
    def neighbours(self) -> dict[str, float]:
        """Precision, recall, density and coverage, which share their distances."""
        return prdc(self.as_many, self.features)


@dataclass(frozen=True)
class Metric:
    """One row of the table."""

    stem: str  # of its name, which a network completes
    inception: str | None  # its name with Inception's published weights; None: not measured there
    lower_is_better: bool
    real: Literal["all", "as many", "none"]  # the real images that it needs
    measure: Callable[[Sample], float]
    detail: str = ""  # of its parameters, as its identity has them


def _by_neighbours(name: str) -> Metric:
    return Metric(name, None, False, "as many", lambda x: x.neighbours[name], f", k = {NEIGHBOUR}")


def _frechet(x: Sample) -> float:
    return frechet_distance(moments(x.features), x.real_moments)


METRICS = (
    Metric("fd", "fid", True, "all", _frechet),
    Metric("cs", "is", False, "none", lambda x: score(x.logits, x.splits), ", splits = {splits}"),
    Metric("kd", "kid", True, "as many", lambda x: kid(x.features, x.as_many)),
    *map(_by_neighbours, NEIGHBOUR_METRICS),
)

# What each network of the study measures: *FID*, *IS* and *KID* mean Inception's published weights.
OF_INCEPTION = {metric.inception: metric for metric in METRICS if metric.inception}
OF_CLASSIFIER = {f"{metric.stem}_cifar": metric for metric in METRICS}  # fd_cifar, cs_cifar, ...
OF_LITE0 = {f"{metric.stem}_imagenet": metric for metric in METRICS if metric.stem == "kd"}
STUDIED = OF_INCEPTION | OF_CLASSIFIER | OF_LITE0  # in the order of columns
LOWER_IS_BETTER = {name: metric.lower_is_better for name, metric in STUDIED.items()}

CALIBRATION = {  # sets of images that no training made (eval.calibration), and what people read
    "held-out": "real, held out",
    "gaussian": "Gaussian pixels",
    "8x8": "real, at 8×8",
    "flat": "flat colours",
    "untrained": "untrained G",
}


def lower_is_better(name: str) -> bool:
    """The direction of a metric by its name, whatever network it is of."""
    stem = name.partition("_")[0]
    return any(m.lower_is_better for m in METRICS if stem in (m.stem, m.inception))
