"""Do D's features carry over to a task that it was not trained for? A linear probe.

As Radford et al. (2015, arXiv 1511.06434, Section 5.1) do it: the activations of all of D's
convolutional layers, each max-pooled to 4x4, under a linear L2-SVM (squared hinge, one class
against the rest). The paper says nothing of scale; here every feature has mean 0 and variance 1
over the images that the SVM gets, divided by the root of the number of features, so that one C
suits all kinds of features.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import sklearn
import torch
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import nn
from torch.nn.functional import adaptive_max_pool2d

from dcgan.cli import BadInput
from dcgan.data import Images, resize, to_signed
from dcgan.models import MAP
from dcgan.train import matmul_precision, start
from eval.extractors import Extractor
from eval.finished import FinishedRun, Result

BATCH = 500  # images whose features are in memory at a time
COSTS = (0.01, 0.1, 1.0, 10.0)  # C of the SVM; held-out training labels choose one
HELD_OUT = 5  # the last fifth of each draw chooses C
STEPS = 20_000  # of the SVM's solver, at most

KINDS = {
    "trained": "D of the run",
    "untrained": "the same D with its initial weights, in which BatchNorm does nothing yet",
    "pixels": "the pixels",
    "classifier": "the network that scores every epoch, which saw the labels of its training set",
}
NOTES = [
    "Accuracy on all test images of a linear SVM on four kinds of features, with so many labels; "
    "mean and SD over draws of labelled images, which all kinds share.",
    *(f"{kind}: {text}." for kind, text in KINDS.items()),
    "gain: trained less untrained, draw by draw.",
]

Features = Callable[[np.ndarray], np.ndarray]  # uint8 (N, H, W, 3) -> float32 (N, D)


class Accuracy(NamedTuple):
    """What linear SVMs make of one kind of features."""

    rates: np.ndarray  # (draws,), the share of test images that are named rightly
    cost: float  # C
    size: int  # features


def analyse(run: FinishedRun, labels: int, draws: int) -> Result:
    """The accuracies of SVMs on the features of a run's D and of the controls; raises BadInput."""
    train, test, network = run.data, run.test_data, run.classifier()
    drawn = draw_labelled(train, test, labels, draws)
    sized = [resize(images, run.config.resolution) for images in (train, test)]
    networks = {"trained": run.discriminator(), "untrained": start(run.config, run.device).D}
    features = {kind: discriminator_features(D, run.device) for kind, D in networks.items()}
    measured = {kind: solve(seen, *sized, drawn) for kind, seen in features.items()}
    measured |= controls(network, train, test, labels, draws)
    result = to_result(measured, labels)
    result.about.update(test_images=len(test.labels), classifier_sha256=network.sha256)
    return result


@cache
def controls(
    network: Extractor, train: Images, test: Images, labels: int, draws: int
) -> dict[str, Accuracy]:
    """The accuracies of what all runs share: the pixels, and the features of the classifier."""

    def classifier_features(pixels: np.ndarray) -> np.ndarray:
        return network.extract(torch.from_numpy(pixels).permute(0, 3, 1, 2))[0].numpy()

    drawn = draw_labelled(train, test, labels, draws)
    kinds = {"pixels": pixel_features, "classifier": classifier_features}
    return {kind: solve(features, train, test, drawn) for kind, features in kinds.items()}


def draw_labelled(train: Images, test: Images, count: int, draws: int) -> list[np.ndarray]:
    """Seeded draws of `count` images, equally many of each class; BadInput where that cannot be."""
    for option, images in (("--data", train), ("--test", test)):
        if unknown := int((images.labels < 0).sum()):
            raise BadInput(f"{option} {images.name}: {unknown} of its images have no label")
    classes, sizes = np.unique(train.labels, return_counts=True)
    if {*test.labels.tolist()} != {*classes.tolist()}:
        raise BadInput(f"--test {test.name}: its classes are not those of --data")
    of_class, rest = divmod(count, len(classes))
    if rest or not 2 <= of_class <= sizes.min():
        equally = f"equally many of each of {len(classes)} classes, from 2 to {sizes.min()}"
        raise BadInput(f"--labels {count}: not {equally}")

    # The classes take turns: the last fifth of a draw is about as balanced as all of it.
    streams = map(np.random.default_rng, range(draws))
    members = [np.flatnonzero(train.labels == c) for c in classes]
    return [
        np.stack([rng.permutation(rows)[:of_class] for rows in members], axis=1).ravel()
        for rng in streams
    ]


def discriminator_features(D: nn.Module, device: str = "cpu") -> Features:
    """D's features of images at its resolution; D is convolutional, and left in eval mode."""
    D.eval()

    @torch.no_grad()
    @matmul_precision("fp32")
    def features(pixels: np.ndarray) -> np.ndarray:
        pooled = []
        for part in torch.from_numpy(pixels).permute(0, 3, 1, 2).split(BATCH):
            maps = [D.from_rgb(to_signed(part.to(device)))]
            for layer in D.down:
                maps.append(layer(maps[-1]))
            pooled.append(torch.cat([adaptive_max_pool2d(x, MAP).flatten(1) for x in maps], dim=1))
        return torch.cat(pooled).cpu().numpy()

    return features


def pixel_features(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(len(pixels), -1).astype(np.float32)


def solve(features: Features, train: Images, test: Images, draws: list[np.ndarray]) -> Accuracy:
    """How well SVMs do on one kind of features, one SVM for each draw of equally many labels.

    C is the smallest one of COSTS with the best accuracy on the last fifths of all draws, by SVMs
    that saw only the rest. The test images choose nothing.
    """
    labels = [train.labels[draw] for draw in draws]
    spans = [span(features(train.pixels[draw])) for draw in draws]
    right = dict.fromkeys(COSTS, 0.0)
    seen = len(labels[0]) - len(labels[0]) // HELD_OUT
    for (_, _, rows), y in zip(spans, labels, strict=True):
        for cost in COSTS:
            right[cost] += fit(rows[:seen], y[:seen], cost).score(rows[seen:], y[seen:])
    cost = max(COSTS, key=right.get)

    # All test images go by once, a few at a time, for all draws.
    machines = [machine(*spanned, y, cost) for spanned, y in zip(spans, labels, strict=True)]
    hits = np.zeros(len(draws))
    for i in range(0, len(test.pixels), BATCH):
        x, y = features(test.pixels[i : i + BATCH]), test.labels[i : i + BATCH]
        hits += [(svm.predict(x) == y).sum() for svm in machines]
    return Accuracy(hits / len(test.pixels), cost, x.shape[1])


def span(x: np.ndarray) -> tuple[StandardScaler, np.ndarray, np.ndarray]:
    """Features (N, D), standardised and divided by the root of D, in the space that they span.

    The scaler, an orthonormal basis (D, R) with R the smaller one of N and D, and the rows (N, R).
    A linear SVM depends on inner products alone: only its time changes, by D / N.
    """
    scaler = StandardScaler().fit(x)
    basis, rows = np.linalg.qr(scaler.transform(x).T / np.float32(np.sqrt(x.shape[1])))
    return scaler, basis, rows.T


def fit(rows: np.ndarray, labels: np.ndarray, cost: float) -> LinearSVC:
    """A linear L2-SVM, one class against the rest."""
    svm = LinearSVC(C=cost, dual="auto", max_iter=STEPS, random_state=0)
    return svm.fit(rows, labels)


def machine(
    scaler: StandardScaler, basis: np.ndarray, rows: np.ndarray, labels: np.ndarray, cost: float
) -> Pipeline:
    """What predicts the classes of features (N, D), fitted to the rows of a span."""
    svm = fit(rows, labels, cost)
    svm.coef_ = (basis @ svm.coef_.T / np.sqrt(len(basis))).T
    svm.n_features_in_ = len(basis)
    return make_pipeline(scaler, svm)


def to_result(measured: dict[str, Accuracy], count: int) -> Result:
    """The result of a run from what was measured for each of KINDS with so many labels."""
    values, titles = {}, {}
    rates = {kind: accuracy.rates for kind, accuracy in measured.items()}
    rates["gain"] = rates["trained"] - rates["untrained"]
    for kind, of_draws in rates.items():
        name, title = f"{kind}_{count}", f"{kind}, {count}"
        values[f"accuracy_{name}"], titles[f"accuracy_{name}"] = float(of_draws.mean()), title
        if len(of_draws) > 1:
            values[f"sd_{name}"], titles[f"sd_{name}"] = float(of_draws.std(ddof=1)), f"SD {title}"
    svm = {f"{kind}_{count}": {"C": x.cost, "features": x.size} for kind, x in measured.items()}
    about = {"scikit_learn": sklearn.__version__, "costs": list(COSTS), "svm": svm}
    return Result(values, titles, about, NOTES)
