"""Does the generator repeat its training images? Distances to the nearest of them.

Generated images are compared with held-out ones, which are as new to the training images as an
image of that kind can be: a generator that memorised comes nearer. Distances are Euclidean, in the
features of the network that scores every epoch and in pixels.
"""

import numpy as np
from scipy.stats import mannwhitneyu
from sklearn.metrics import pairwise_distances_argmin
from torch import Tensor

from dcgan.cli import BadInput
from dcgan.data import round_to_uint8
from dcgan.train import generate
from eval import score
from eval.extractors import resize
from eval.finished import FinishedRun, Result, draw
from eval.score import Reference, reference

LOW = 0.01  # the quantile of held-out distances below which a generated image is suspicious
SHOWN = 8  # generated images of the picture
ENLARGED = 3  # times

TITLES = {
    "ratio_features": "ratio, features",
    "share_features": "below 1 %, features",
    "auc_features": "AUC, features",
    "ratio_pixels": "ratio, pixels",
    "share_pixels": "below 1 %, pixels",
    "auc_pixels": "AUC, pixels",
}
NOTES = [
    "Distances to the nearest training image, of generated images and of as many held-out ones.",
    "ratio: the median of the generated over that of the held-out. below 1 %: the share of "
    "generated images nearer than the first percentile of the held-out; 0.01 is expected without "
    "memorisation. AUC: the probability that a generated image is nearer than a held-out one; 0.5 "
    "is expected without, 1 from copies.",
    "Smooth images are near to everything in pixels: there, an AUC above 0.5 is no memorisation "
    "as long as the share is not above 0.01 in features too.",
]

# Images in the two spaces in which they can be near: features (N, D), pixels uint8 (N, S, S, 3).
Seen = dict[str, np.ndarray]


def analyse(run: FinishedRun, n: int) -> Result:
    """What is measured of `n` generated images, and the picture; BadInput on fewer to compare."""
    config, network, train, test = run.config, run.classifier(), run.train(), run.test()
    if (few := len(test.pixels)) < n:
        line = f"{few} images of classes={config.classes}, --n is {n}"
        raise BadInput(f"--test {run.test_data.name}: {line}")

    pixels = train.pixels[: config.images]
    real = reference(network, pixels, train.sha256, run.cache)
    held_out = reference(network, test.pixels, test.sha256, run.cache)
    values, picture = examine(
        see(generate(run.generator(), run.noise("neighbours", n)), real),
        {"features": real.features, "pixels": pixels},
        {"features": held_out.features, "pixels": test.pixels},
    )
    about = {"training": len(pixels), "side": run.side}
    about |= {"network": network.name, "network_sha256": network.sha256}
    return Result(values, TITLES, about, NOTES, picture)


def see(images: Tensor, real: Reference) -> Seen:
    """Generated images, uint8 (N, 3, H, W), as they meet real ones: in features, and in pixels."""
    small = round_to_uint8(resize(images, real.resolution)).permute(0, 2, 3, 1).numpy()
    return {"features": score.see(images, real).features, "pixels": small}


def examine(made: Seen, train: Seen, test: Seen) -> tuple[dict[str, float], bytes]:
    """What memorisation would change, beside as many held-out images, and the picture."""
    values: dict[str, float] = {}
    apart, index = {}, {}  # of each generated image and its nearest training image, by space
    for space in made:
        rows, real, known = (x[space].reshape(len(x[space]), -1) for x in (made, test, train))
        apart[space], index[space] = nearest(rows, known)
        compared = compare(apart[space], nearest(real[: len(rows)], known)[0])
        values |= {f"{name}_{space}": value for name, value in compared.items()}

    # The most suspicious images, above their neighbours in features and in pixels.
    shown = np.argsort(apart["features"], kind="stable")[:SHOWN]
    rows = [made["pixels"][shown], *(train["pixels"][nearby[shown]] for nearby in index.values())]
    return values, draw([row.repeat(ENLARGED, axis=1).repeat(ENLARGED, axis=2) for row in rows])


def nearest(queries: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The Euclidean distance of each row of (N, D) to the nearest one of (M, D), and its index."""
    # The search, in float32, expands the square, which loses the digits of small distances: they
    # are taken anew in float64, in which equal rows are 0 apart.
    index = pairwise_distances_argmin(*(x.astype(np.float32, copy=False) for x in (queries, known)))
    return np.linalg.norm(queries.astype(np.float64) - known[index], axis=1), index


def compare(generated: np.ndarray, held_out: np.ndarray) -> dict[str, float]:
    """Distances (N,) and (M,) to the nearest training image: ratio, share and auc (see NOTES)."""
    with np.errstate(divide="ignore", invalid="ignore"):  # where the median is 0
        ratio = np.median(generated) / np.median(held_out)
    pairs = len(generated) * len(held_out)
    return {
        "ratio": float(ratio),
        "share": float((generated < np.quantile(held_out, LOW)).mean()),
        # Ties count half (Mann and Whitney, 1947).
        "auc": float(mannwhitneyu(held_out, generated, method="asymptotic").statistic / pairs),
    }
