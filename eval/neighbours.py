"""Does the generator repeat its training images? Distances to the nearest one of them.

Generated images are compared with held-out ones, which are as new to the training images as an
image of that kind can be: a generator that memorised comes nearer. Near is meant in the features of
the network that scores every epoch (Euclidean) and in pixels (root mean square, grey levels).
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import mannwhitneyu
from sklearn.metrics import pairwise_distances_argmin
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from dcgan.cli import BadInput
from dcgan.rundir import GENERATOR
from dcgan.train import draw_latent
from eval import metrics
from eval.extractors import Extractor, resize
from eval.finished import FinishedRun
from eval.results import Result, picture
from eval.score import Reference, at_side, generate, reference

BLOCK = 1024  # rows of which exact distances are in memory at a time
LOW = 0.01  # the quantile of held-out distances below which a generated image is suspicious
NEAR = 8.0  # grey levels of 255, RMS: images that are no further apart are near duplicates
SKETCH = 8  # squares a side, whose means say which images may be near duplicates
SHOWN = 8  # generated images of the figure
ENLARGED = 3  # times

TITLES = {
    "ratio_features": "ratio, features",
    "share_features": "below 1 %, features",
    "auc_features": "AUC, features",
    "ratio_pixels": "ratio, pixels",
    "share_pixels": "below 1 %, pixels",
    "auc_pixels": "AUC, pixels",
    "fd_cifar_train": "fd_cifar, train",
    "fd_cifar_test": "fd_cifar, test",
    "fd_cifar_gap": "test - train",
    "duplicates_exact": "exact duplicates",
    "duplicates_near": "near duplicates",
}
NOTES = [
    "Distances to the nearest training image, of generated images and of as many held-out ones.",
    "ratio: the median of the generated over that of the held-out. below 1 %: the share of "
    "generated images nearer than the first percentile of the held-out; 0.01 is expected without "
    "memorisation. AUC: the probability that a generated image is nearer than a held-out one; 0.5 "
    "is expected without, 1 from copies.",
    "Smooth images are near to everything in pixels: there, an AUC above 0.5 is no memorisation "
    "as long as the share is not above 0.01 in features too.",
    "test - train: how much higher fd_cifar is against as many test images. The network learned "
    "from CIFAR-10's training images, and sees those and its test images a little differently even "
    "where G favours neither.",
    f"Near duplicates: training images at most {NEAR:g} grey levels (RMS) from an earlier one.",
]


@dataclass(frozen=True)
class Seen:
    """Images in the two spaces in which they can be near."""

    features: np.ndarray  # (N, D)
    pixels: np.ndarray  # uint8 (N, S, S, 3)


def check(run: FinishedRun, count: int) -> None:
    """Raise BadInput unless there are as many held-out images as are generated."""
    held_out = len(run.test(run.side).pixels)
    if held_out < count:
        line = f"{held_out} images of classes={run.config.classes}, --n is {count}"
        raise BadInput(f"--test {run.images.test.name}: {line}")


def analyse(run: FinishedRun, extractor: Extractor, count: int) -> Result:
    """What is measured of `count` generated images of a run; the figure has the nearest ones."""
    real, held_out, copies = run.once(
        ("neighbours", run.config.classes, run.config.images, run.side),
        lambda: _compared(run, extractor),
    )
    about = {
        "generated": count,
        "held_out": count,
        "training": real.count,
        "side": real.resolution,
        "network": extractor.name,
        "network_sha256": extractor.sha256,
        "generator_sha256": run.sha256(GENERATOR),
        "data_sha256": real.sha256,
        "test_sha256": held_out.sha256,
    }
    train = Seen(real.features, run.train(run.side).pixels[: real.count])
    test = Seen(held_out.features, run.test(run.side).pixels)
    z = draw_latent(run.config, "neighbours", run.epoch, count).to(run.device)
    try:
        values, figure = examine(see(generate(run.generator(), z), real), train, test)
    except FloatingPointError:
        values, figure = dict.fromkeys(TITLES), None
    values |= {"duplicates_exact": copies[0], "duplicates_near": copies[1]}
    return Result("neighbours", run.epoch, values, TITLES, about, NOTES, figure)


def _compared(
    run: FinishedRun, extractor: Extractor
) -> tuple[Reference, Reference, tuple[int, int]]:
    """The features of training and of held-out images, and the training images' duplicates."""
    train, test, cache = run.train(run.side), run.test(run.side), run.images.cache
    pixels = train.pixels[: run.config.images]
    return (
        reference(extractor, pixels, train.sha256, cache),
        reference(extractor, test.pixels, test.sha256, cache, "test"),
        duplicates(pixels),
    )


def see(images: Tensor, real: Reference) -> Seen:
    """Generated images, uint8 (N, 3, H, W), as they meet real ones: in features, and in pixels."""
    features = real.extractor.extract(at_side(images, real))[0].numpy()
    small = resize(images, real.resolution).round().clamp(0, 255).to(torch.uint8)
    return Seen(features, small.permute(0, 2, 3, 1).numpy())


def examine(made: Seen, train: Seen, test: Seen) -> tuple[dict[str, float], bytes]:
    """What memorisation would change in generated images, and the figure.

    The held-out ones are as many test images as there are generated ones; the Fréchet distances
    take equally many training and test images.
    """
    count = len(made.pixels)
    values: dict[str, float] = {}
    apart, index = {}, {}  # of each generated image and its nearest training image, by space
    for space in ("features", "pixels"):
        rows, real, known = (as_rows(getattr(images, space)) for images in (made, test, train))
        apart[space], index[space] = nearest(rows, known)
        compared = compare(apart[space], nearest(real[:count], known)[0])
        values |= {f"{name}_{space}": value for name, value in compared.items()}

    # How far the distribution is from images that trained the generator, and from others.
    moments, equal = metrics.moments(made.features), min(len(train.pixels), len(test.pixels))
    train_fd, test_fd = (
        metrics.frechet_distance(moments, metrics.moments(real.features[:equal]))
        for real in (train, test)
    )
    values |= {"fd_cifar_train": train_fd, "fd_cifar_test": test_fd}
    values["fd_cifar_gap"] = test_fd - train_fd

    # The most suspicious images, above their neighbours in features and in pixels.
    shown = np.argsort(apart["features"], kind="stable")[:SHOWN]
    rows = [made.pixels[shown], *(train.pixels[index[space][shown]] for space in index)]
    return values, picture([row.repeat(ENLARGED, axis=1).repeat(ENLARGED, axis=2) for row in rows])


def nearest(queries: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The Euclidean distance of each row of (N, D) to the nearest one of (M, D), and its index.

    Searched for in float32, measured in float64; equal rows are 0 apart.
    """
    # The search expands the square, which loses the digits of small distances: take them anew.
    index = pairwise_distances_argmin(*(x.astype(np.float32, copy=False) for x in (queries, known)))
    distances = np.empty(len(queries))
    for i in range(0, len(queries), BLOCK):
        rows = slice(i, i + BLOCK)
        apart = queries[rows].astype(np.float64) - known[index[rows]]
        distances[rows] = np.sqrt(np.square(apart).sum(axis=1))
    return distances, index


def compare(generated: np.ndarray, held_out: np.ndarray) -> dict[str, float]:
    """Distances (N,) and (M,) to the nearest training image: ratio, share and auc (see NOTES).

    Ties count half in auc (Mann and Whitney, 1947). The ratio is not finite where the median of the
    held-out distances is 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.median(generated) / np.median(held_out)
    pairs = len(generated) * len(held_out)
    return {
        "ratio": float(ratio),
        "share": float((generated < np.quantile(held_out, LOW)).mean()),
        "auc": float(mannwhitneyu(held_out, generated, method="asymptotic").statistic / pairs),
    }


def duplicates(pixels: np.ndarray) -> tuple[int, int]:
    """How many images of a set, uint8 (N, S, S, 3), repeat an earlier one: exactly, and nearly.

    Nearly: at most NEAR from an earlier one, and equal to none. Only pairs are looked at whose
    means over squares are near: those are never further apart than the pixels themselves.
    """
    first: dict[bytes, int] = {}
    for i, image in enumerate(pixels):
        first.setdefault(image.tobytes(), i)
    kept = pixels[list(first.values())]
    limit = NEAR * np.sqrt(kept[0].size) * (1 + 1e-6)
    sketches = NearestNeighbors(radius=limit, algorithm="brute").fit(_sketched(kept))
    near = 0
    for later, others in enumerate(sketches.radius_neighbors(return_distance=False)):
        near += any(rms(kept[later], kept[other]) <= NEAR for other in others if other < later)
    return len(pixels) - len(kept), near


def rms(x: np.ndarray, y: np.ndarray) -> float:
    """Root mean square difference of two images, in grey levels."""
    return float(np.sqrt(np.square(x.astype(np.float64) - y).mean()))


def as_rows(array: np.ndarray) -> np.ndarray:
    """Images (N, H, W, 3), or rows already, as rows (N, D)."""
    return array.reshape(len(array), -1)


def _sketched(pixels: np.ndarray) -> np.ndarray:
    """Images (N, S, S, 3) as rows of means over SKETCH x SKETCH squares, times a square's side.

    Two such rows are no further apart than the images (Cauchy and Schwarz, square by square).
    """
    count, side = pixels.shape[:2]
    square = side // SKETCH
    whole = pixels[:, : SKETCH * square, : SKETCH * square]
    cut = whole.reshape(count, SKETCH, square, SKETCH, square, 3)
    return as_rows(cut.mean(axis=(2, 4))) * square
