"""Do D's features carry over to a task that it was not trained for? A linear probe.

As Radford et al. (2015, arXiv 1511.06434, Section 5.1) do it: the activations of all of D's
convolutional layers, each max-pooled to 4x4, flattened and concatenated, under a linear L2-SVM
(squared hinge, one class against the rest). D works with BatchNorm's running statistics. The paper
says nothing of scale; here every feature has mean 0 and variance 1 over the images that the SVM
gets, divided by the root of the number of features, so that one C suits all kinds of features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import sklearn
import torch
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d

from dcgan.cli import BadInput
from dcgan.data import Images, resize, to_signed
from dcgan.models import MAP
from dcgan.rundir import STATE
from dcgan.train import start
from eval.extractors import Extractor
from eval.finished import FinishedRun
from eval.results import Result

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
Sets = dict[int, list[np.ndarray]]  # number of labels -> draws, each of indices of images


@dataclass(frozen=True)
class Accuracy:
    """What linear SVMs make of one kind of features."""

    rates: np.ndarray  # (draws,), the share of test images that are named rightly
    cost: float | None  # C
    size: int | None  # features


@dataclass(frozen=True)
class Span:
    """Labelled images in the space that their features span, and the way there."""

    scaler: StandardScaler
    basis: np.ndarray  # (D, R) with orthonormal columns, R the smaller one of N and D
    rows: np.ndarray  # (N, R)


def choose_sets(train: Images, test: Images, count: int, draws: int, full: str | None) -> Sets:
    """The labelled images of every SVM; BadInput where the images do not give them.

    `full`: a number of labels, or `all`; see `label_sets`.
    """
    for option, images in (("--data", train), ("--test", test)):
        if unknown := int((images.labels < 0).sum()):
            raise BadInput(f"{option} {images.name}: {unknown} of its images have no label")
    if {*test.labels.tolist()} != {*train.labels.tolist()}:
        raise BadInput(f"--test {test.name}: its classes are not those of --data")
    most = len(train.labels) if full == "all" else full and int(full)
    try:
        return label_sets(train.labels, count, draws, most)
    except ValueError as error:
        raise BadInput(f"--data {train.name}: {error}") from error


def analyse(run: FinishedRun, extractor: Extractor, sets: Sets) -> Result:
    """The accuracies of SVMs on the features of a run's D and of the controls."""
    train, test, side = run.images.train, run.images.test, run.config.resolution
    sized = run.once(("probe", side), lambda: (resize(train, side), resize(test, side)))

    def classifier_features(pixels: np.ndarray) -> np.ndarray:
        return extractor.extract(torch.from_numpy(pixels).permute(0, 3, 1, 2))[0].numpy()

    kinds = {"pixels": pixel_features, "classifier": classifier_features}
    controls = run.once(
        "controls", lambda: {kind: solve(f, train, test, sets) for kind, f in kinds.items()}
    )

    untrained = start(run.config, run.device).D
    measured = controls | {
        kind: solve(discriminator_features(D, run.device), *sized, sets)
        for kind, D in (("trained", run.state().D), ("untrained", untrained))
    }
    (count, draws), *full = sets.items()
    about = {
        "labels": count,
        "draws": len(draws),
        "full": full[0][0] if full else None,
        "data_sha256": train.sha256,
        "test_sha256": test.sha256,
        "test_images": len(test.labels),
        "classifier_sha256": extractor.sha256,
        "state_sha256": run.sha256(STATE),
    }
    return to_result(run.epoch, measured, about)


def discriminator_features(D: nn.Module, device: str = "cpu") -> Features:
    """D's features of images at its resolution; FloatingPointError where one is not finite.

    D has to be convolutional, and is left in eval mode.
    """
    D.eval()

    @torch.no_grad()
    def pooled(images: Tensor) -> Tensor:
        maps = [D.from_rgb(images)]
        for layer in D.down:
            maps.append(layer(maps[-1]))
        return torch.cat([adaptive_max_pool2d(x, MAP).flatten(1) for x in maps], dim=1)

    def features(pixels: np.ndarray) -> np.ndarray:
        parts = torch.from_numpy(pixels).permute(0, 3, 1, 2).split(BATCH)
        rows = torch.cat([pooled(to_signed(part.to(device))) for part in parts])
        if not rows.isfinite().all():
            raise FloatingPointError("the discriminator's features are not finite")
        return rows.cpu().numpy()

    return features


def pixel_features(pixels: np.ndarray) -> np.ndarray:
    """The pixels, flattened."""
    return pixels.reshape(len(pixels), -1).astype(np.float32)


def label_sets(labels: np.ndarray, count: int, draws: int, full: int | None) -> Sets:
    """`draws` seeded choices of `count` labels, equally many of each class, and one of `full`.

    In a balanced draw the classes take turns, so that its last fifth is about as balanced as it
    is. ValueError where that many labels cannot be chosen.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    of_class, rest = divmod(count, len(classes))
    if rest or of_class < 2:
        raise ValueError(f"{count} labels are not equally many, and two, of {len(classes)} classes")
    if of_class > sizes.min():
        few = f"one has {sizes.min()} images"
        raise ValueError(f"{count} labels are {of_class} of a class, and {few}")
    if full is not None and not count < full <= len(labels):
        raise ValueError(f"all labels are to be more than {count} and at most {len(labels)}")
    sets: Sets = {count: []}
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        chosen = [rng.permutation(np.flatnonzero(labels == c))[:of_class] for c in classes]
        sets[count].append(np.stack(chosen, axis=1).ravel())
    if full is not None:
        sets[full] = [np.random.default_rng(draws).permutation(len(labels))[:full]]
    return sets


def solve(features: Features, train: Images, test: Images, sets: Sets) -> dict[int, Accuracy]:
    """How well SVMs do on one kind of features, by the number of labels.

    NaN where a feature is not finite.
    """
    try:
        return {count: _solve(features, train, test, draws) for count, draws in sets.items()}
    except FloatingPointError:
        nothing = {count: np.full(len(draws), np.nan) for count, draws in sets.items()}
        return {count: Accuracy(rates, None, None) for count, rates in nothing.items()}


def _solve(features: Features, train: Images, test: Images, draws: list[np.ndarray]) -> Accuracy:
    """One SVM for each draw.

    C is the smallest one of COSTS with the best accuracy on the last fifths of all draws, by SVMs
    that saw only the rest. The test images choose nothing.
    """
    labels = [train.labels[draw] for draw in draws]
    spans = [span(features(train.pixels[draw])) for draw in draws]
    right = dict.fromkeys(COSTS, 0.0)
    for rows, y in zip((spanned.rows for spanned in spans), labels, strict=True):
        seen = len(y) - len(y) // HELD_OUT
        for cost in COSTS:
            right[cost] += fit(rows[:seen], y[:seen], cost).score(rows[seen:], y[seen:])
    cost = max(COSTS, key=right.get)

    # All test images go by once, a few at a time, for all draws.
    machines = [fit(spanned.rows, y, cost) for spanned, y in zip(spans, labels, strict=True)]
    hits = np.zeros(len(draws))
    for i in range(0, len(test.pixels), BATCH):
        x, y = features(test.pixels[i : i + BATCH]), test.labels[i : i + BATCH]
        hits += [
            (predict(machine, spanned, x) == y).sum()
            for machine, spanned in zip(machines, spans, strict=True)
        ]
    return Accuracy(hits / len(test.pixels), cost, x.shape[1])


def span(x: np.ndarray) -> Span:
    """Rows of features (N, D), standardised and divided by the root of D.

    A linear SVM depends on their inner products alone, so that it is fitted in the space that they
    span: only its time changes, by D / N.
    """
    scaler = StandardScaler().fit(x)
    basis, rows = np.linalg.qr(scaler.transform(x).T / np.float32(np.sqrt(x.shape[1])))
    return Span(scaler, basis, rows.T)


def fit(rows: np.ndarray, labels: np.ndarray, cost: float) -> LinearSVC:
    """A linear L2-SVM, one class against the rest."""
    machine = LinearSVC(C=cost, dual="auto", max_iter=STEPS, random_state=0)
    return machine.fit(rows, labels)


def predict(machine: LinearSVC, spanned: Span, x: np.ndarray) -> np.ndarray:
    """The classes that a machine, fitted on the rows of a span, gives to features (N, D)."""
    weights = spanned.basis @ machine.coef_.T / np.sqrt(x.shape[1])
    scores = spanned.scaler.transform(x) @ weights + machine.intercept_
    if scores.shape[1] == 1:  # of the second of two classes
        scores = np.hstack([-scores, scores])
    return machine.classes_[scores.argmax(axis=1)]


def to_result(
    epoch: int, measured: dict[str, dict[int, Accuracy]], about: dict[str, Any]
) -> Result:
    """The result of a run from what was measured for each of KINDS."""
    values: dict[str, float | None] = {}
    titles: dict[str, str] = {}
    svm: dict[str, dict[str, float | None]] = {}
    for count in measured["trained"]:
        rates = {kind: measured[kind][count].rates for kind in KINDS}
        rates["gain"] = rates["trained"] - rates["untrained"]
        for kind, of_draws in rates.items():
            values[f"accuracy_{kind}_{count}"] = float(of_draws.mean())
            titles[f"accuracy_{kind}_{count}"] = f"{kind}, {count}"
            if len(of_draws) > 1:
                values[f"sd_{kind}_{count}"] = float(of_draws.std(ddof=1))
                titles[f"sd_{kind}_{count}"] = f"SD {kind}, {count}"
        for kind in KINDS:
            accuracy = measured[kind][count]
            svm[f"{kind}_{count}"] = {"C": accuracy.cost, "features": accuracy.size}
    about = about | {"scikit_learn": sklearn.__version__, "costs": list(COSTS), "svm": svm}
    return Result("probe", epoch, values, titles, about, NOTES)
