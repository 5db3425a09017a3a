"""Is the scorer to be trusted? One kept generator, real held-out images, and other people's code.

`audit` returns, and `python -m eval audit` writes as <study>/audit.json:

    run, epoch          whose generator was used, and after which epoch
    images              made by it for each line of `batchnorm`
    identities          of the metrics, as run.json has them; `generated` is `images`
    data, test          name, SHA-256 and number of the real images, `shared` of them in both
    fid                 whether anything here may be called FID, IS or KID; null: not looked at
    answers             [[question, "yes" or "no"], ...]
    tables              in the order in which they are to be read, each with
        name, title     a word, and a line
        columns, rows   a cell is text, a number in full precision, or null: not measured
        digits          significant ones that a reader needs
        notes           sentences

The tables: `batchnorm` (three ways for G's BatchNorm to get its statistics x three ways to get from
its floats to pixels), `sizes` and `infinity` (the metric against 1 / N, and where it leads),
`parity` (torchmetrics and torch-fidelity on the same images and network), `degraded` (real images
made worse, step by step), and where Inception's weights are here `constants` (published numbers)
and `inception` (the generated images).
"""

import copy
import dataclasses
import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import linregress
from torch import Tensor, nn

from dcgan.config import Config
from dcgan.data import NAMES, Images, to_uint8
from dcgan.train import draw_latent
from eval import metrics
from eval.extractors import Extractor
from eval.score import (
    BATCH,
    BATCHNORM,
    NEIGHBOUR,
    SPLITS,
    Reference,
    at_side,
    identities,
    names,
    reestimated,
)

SEED = 0  # of everything that is drawn here, z apart
POINTS = 15  # sizes at which the metric is measured, up to N (Chong and Forsyth, 2020)
SMALLEST = 10  # how many times smaller than N the first of them is
PARITY = 2_000  # images that the others' code sees, at most
NOISE = (4, 8, 16, 32, 64)  # standard deviation, in grey levels of 255
BLUR = (0.5, 0.75, 1.0, 1.5, 2.0)  # standard deviation of the kernel, pixels
KEPT_CLASSES = (1.0, 0.8, 0.5, 0.2, 0.1)  # shares of all classes
REPEATS = (1, 2, 5, 10, 20)  # how often each image is there
QUANTISERS = {
    "round": "to the nearest level",
    "truncate": "to the level below",
    "stretch": "each image from its darkest to its brightest value, rounded",
}


@dataclass(frozen=True)
class Table:
    """Numbers in full precision; see the top of this file."""

    name: str
    title: str
    columns: list[str]
    rows: list[list[Any]]
    notes: list[str] = field(default_factory=list)
    digits: int = 4


@dataclass(frozen=True)
class Constant:
    """A number that a correct scorer gives with Inception's published weights, on CIFAR-10."""

    metric: str  # fid or is
    train: int  # training images, the first ones in the canonical order
    test: int
    published: float
    tolerance: float
    source: str


QUICK = (Constant("fid", 2_000, 2_000, 30, 3, "two samples of 2,000: all of it is bias"),)
FULL = (
    *QUICK,
    Constant("fid", 50_000, 10_000, 3.15, 0.02, "training against test images"),
    Constant("is", 50_000, 0, 11.24, 0.05, "training images; torch-fidelity gives 11.237"),
)


def first(images: Images, count: int) -> Images:
    """The first images of a set, in its canonical order."""
    pixels, labels = images.pixels[:count], images.labels[:count]
    return dataclasses.replace(images, pixels=pixels, labels=labels)


def audit(
    G: nn.Module,
    config: Config,
    epoch: int,
    real: Reference,
    test: Images,
    count: int,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """All tables but that of the constants, from `count` generated images a line.

    `test`: held-out images at the side of the reference. FloatingPointError where the generator's
    images are not finite; ValueError on fewer than 100 of either.
    """
    if min(count, len(test.pixels)) < 100:
        raise ValueError("an audit needs 100 generated and 100 held-out images at least")
    say("batchnorm and quantisers")
    tables = [batchnorm_table(G, config, epoch, real, count)]
    say("sample sizes")
    tables += size_tables(G, config, epoch, real, count)
    say("torchmetrics and torch-fidelity")
    z = draw_latent(config, "audit parity", epoch, min(count, PARITY))
    tables.append(parity_table(quantise(signed_images(G, z, "running", config)), real))
    say("real images made worse")
    degraded, answers = degraded_tables(test, real)
    tables.append(degraded)
    return {
        "epoch": epoch,
        "images": count,
        "identities": identities(real, count, config.resolution),
        "answers": answers,
        "tables": [dataclasses.asdict(table) for table in tables],
    }


# --- How G's images are made ----------------------------------------------------------------------


def signed_images(G: nn.Module, z: Tensor, mode: str, config: Config) -> Tensor:
    """Images of z (N, latent_size) in [-1, 1], float32 (N, 3, H, W) on the CPU; G stays as it is.

    `mode`: where BatchNorm's statistics come from, a key of BATCHNORM. Batches have the size of the
    training's; the last one is filled up with noise from the front.
    """
    G, device = copy.deepcopy(G).eval(), next(G.parameters()).device
    size = config.batch if mode == "batch" else BATCH
    if mode == "batch":
        G.train()
    elif mode == "re-estimated":
        G = reestimated(G, config, len(z))
    elif mode != "running":
        raise ValueError(f"{mode!r} is not one of {', '.join(BATCHNORM)}")
    whole = -(-len(z) // size) * size
    filled = z.repeat(-(-whole // len(z)), 1)[:whole]
    with torch.no_grad():
        images = torch.cat([G(part.to(device)).cpu() for part in filled.split(size)])[: len(z)]
    if not images.isfinite().all():
        raise FloatingPointError("the generator's images are not finite")
    return images


def quantise(signed: Tensor, how: str = "round") -> Tensor:
    """Images in [-1, 1], float (N, 3, H, W), to uint8; `how`: a key of QUANTISERS."""
    if how == "round":
        return to_uint8(signed)
    if how == "truncate":
        return ((signed + 1) * 127.5).clamp(0, 255).to(torch.uint8)
    if how == "stretch":
        low, high = (f(signed, dim=(1, 2, 3), keepdim=True) for f in (torch.amin, torch.amax))
        return to_uint8((signed - low) / (high - low).clamp(min=1e-5) * 2 - 1)
    raise ValueError(f"{how!r} is not one of {', '.join(QUANTISERS)}")


def batchnorm_table(G: nn.Module, config: Config, epoch: int, real: Reference, count: int) -> Table:
    """The same noise through every mode of BatchNorm and every quantiser."""
    z = draw_latent(config, "audit", epoch, count)
    rows: list[list[Any]] = []
    for mode in BATCHNORM:
        signed = signed_images(G, z, mode, config)
        for how in QUANTISERS:
            values = measure(quantise(signed, how), real)
            first = rows[0][2] if rows else values[0]
            rows.append([mode, how, *values, values[0] / first])
    named = names(real.extractor)
    return Table(
        "batchnorm",
        f"{named[0]} by BatchNorm mode of G and by quantiser",
        ["BatchNorm", "quantiser", *named[:3], "of the first"],
        rows,
        [
            f"{count} images of the same noise in every row; the study's own scores are those of "
            "the first row's kind.",
            *(f"BatchNorm {mode}: {words}." for mode, words in BATCHNORM.items()),
            *(f"Quantiser {how}: {words}." for how, words in QUANTISERS.items()),
        ],
    )


def measure(images: Tensor, real: Reference) -> list[float]:
    """Fréchet distance, score and kernel distance of uint8 images (N, 3, H, W)."""
    return _measure(*_seen(images, real), real)


def _seen(images: Tensor, real: Reference) -> tuple[np.ndarray, np.ndarray]:
    features, logits = real.extractor.extract(at_side(images, real))
    return features.numpy(), logits.numpy()


def _measure(features: np.ndarray, logits: np.ndarray, real: Reference) -> list[float]:
    distance = metrics.frechet_distance(metrics.moments(features), real.moments)
    splits = 1 if real.extractor.suffix else SPLITS
    kernel = metrics.kid(features, real.features[: len(features)])
    return [distance, metrics.score(logits, splits)[0], kernel]


# --- How many images ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limit:
    """A straight line through values against 1 / N."""

    intercept: float  # the value at an infinite N
    error: float  # its standard error
    slope: float


def extrapolate(sizes: list[int], values: list[float]) -> Limit:
    """Least squares of values against 1 / N; the values must come of images of their own.

    The bias of a plug-in estimate is c / N to first order, with c a property of the generator, so
    two generators cannot be compared at an N however equal. Chong and Forsyth, 2020, arXiv
    1911.07023. ValueError on fewer than three sizes.
    """
    if len(set(sizes)) < 3:
        raise ValueError("a line and its error need three sizes at least")
    line = linregress(1 / np.asarray(sizes, dtype=np.float64), values)
    return Limit(float(line.intercept), float(line.intercept_stderr), float(line.slope))


def size_tables(
    G: nn.Module, config: Config, epoch: int, real: Reference, count: int
) -> list[Table]:
    """The metric at fifteen sizes, each on images of its own, and its limit."""
    sizes = np.linspace(max(count / SMALLEST, 20), count, POINTS).round().astype(int).tolist()
    rows = []
    for number, size in enumerate(sizes):
        z = draw_latent(config, f"audit size {number}", epoch, size)
        images = quantise(signed_images(G, z, "running", config))
        rows.append([size, *_measure(*_seen(images, real), real)])
    named = names(real.extractor)[:3]
    limits = []
    for column, name in enumerate(named, 1):
        line = extrapolate(sizes, [row[column] for row in rows])
        last = rows[-1][column]
        limits.append([name, line.intercept, line.error, line.slope, last, last - line.intercept])
    return [
        Table(
            "sizes",
            f"{named[0]} by the number of generated images",
            ["images", *named],
            rows,
            [f"Each row has images of its own; the reference is always the same {real.count}."],
        ),
        Table(
            "infinity",
            "Extrapolated to infinitely many generated images",
            ["metric", "at infinity", "standard error", "slope", f"at {sizes[-1]}", "bias there"],
            limits,
            [
                f"A straight line against 1 / N through the {POINTS} sizes of the table before "
                "(Chong and Forsyth, arXiv 1911.07023). The bias of the finite reference stays in "
                "it. The kernel distance has no bias to take out.",
            ],
        ),
    ]


# --- Other people's code --------------------------------------------------------------------------


class Borrowed(nn.Module):
    """Our feature network in the form that torchmetrics takes."""

    def __init__(self, extractor: Extractor, output: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.num_features = extractor.features
        self.extractor, self.output, self.dtype = extractor, output, dtype

    def forward(self, images: Tensor) -> Tensor:
        return self.extractor.extract(images)[self.output].to(self.dtype)


def parity_table(images: Tensor, real: Reference) -> Table:
    """Three implementations on the same images; the reference here is itself a few real images.

    The network and its input are ours, all behind it is theirs. `images`: uint8 (N, 3, H, W) as the
    network gets them; the other side are the reference's first N images, given as features.
    """
    generated = at_side(images, real)
    features, logits = (x.numpy() for x in real.extractor.extract(generated))
    nearby = real.features[: len(features)]
    named = names(real.extractor)
    ours = {
        named[0]: metrics.frechet_distance(metrics.moments(features), metrics.moments(nearby)),
        named[1]: metrics.score(logits)[0],
        named[2]: metrics.kid(features, nearby),
    }
    if real.extractor.suffix:
        neighbours = metrics.prdc(nearby, features, NEIGHBOUR)
        ours |= {named[3]: neighbours["precision"], named[4]: neighbours["recall"]}

    rows = []
    for dtype in (torch.float32, torch.float64):
        theirs = [
            by_torchmetrics(generated, nearby, real.extractor, dtype),
            by_torch_fidelity(generated, nearby, real.extractor, dtype),
        ]
        for name, stem in zip(ours, ("fd", "cs", "kd", "precision", "recall"), strict=False):
            found = [each.get(stem) for each in theirs]
            apart = [abs(x - ours[name]) / max(abs(ours[name]), 1e-12) for x in found if x]
            precision = str(dtype).removeprefix("torch.")
            rows.append([name, precision, ours[name], *found, max(apart, default=0.0)])
    return Table(
        "parity",
        "Three implementations on the same images and network",
        ["metric", "features as", "ours", "torchmetrics", "torch-fidelity", "largest difference"],
        rows,
        [
            f"{len(features)} generated images, and as many of the reference's. Ours computes in "
            "float64 whatever the features are stored in; the others compute in what they are "
            "given. The largest difference is relative to ours.",
            "torchmetrics has no precision and recall.",
        ],
        digits=9,
    )


def by_torchmetrics(
    images: Tensor, nearby: np.ndarray, extractor: Extractor, dtype: torch.dtype
) -> dict[str, float]:
    """fd, cs and kd by torchmetrics: images through `feature=`, the real side as features."""
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.inception import InceptionScore
    from torchmetrics.image.kid import KernelInceptionDistance

    real = torch.from_numpy(nearby).to(dtype)
    with warnings.catch_warnings(action="ignore"), torch.random.fork_rng(devices=[]):
        network = Borrowed(extractor, 0, dtype)
        distance = FrechetInceptionDistance(feature=network)
        kernel = KernelInceptionDistance(feature=network, subsets=1, subset_size=len(real))
        diversity = InceptionScore(feature=Borrowed(extractor, 1, dtype), splits=1)
        for metric in (distance, kernel):
            metric.update(images, real=False)
            metric.inception = nn.Identity()
            metric.update(real, real=True)
        diversity.update(images)
        return {
            "fd": distance.compute().item(),
            "cs": diversity.compute()[0].item(),
            "kd": kernel.compute()[0].item(),
        }


def by_torch_fidelity(
    images: Tensor, nearby: np.ndarray, extractor: Extractor, dtype: torch.dtype
) -> dict[str, float]:
    """All five by torch-fidelity: images through a feature extractor of its own kind."""
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric
    from torch_fidelity.utils import get_featuresdict_from_dataset

    class Network(FeatureExtractorBase):
        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return "features", "logits"

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return tuple(output.to(dtype) for output in extractor.extract(x))

    class Listed(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, i: int) -> Tensor:
            return images[i]

    with torch.random.fork_rng(devices=[]):
        network = Network("audit", ["features", "logits"])
        seen = get_featuresdict_from_dataset(Listed(), network, BATCH, False, True, False)
    features, real = seen["features"], torch.from_numpy(nearby).to(dtype)
    moments = [fid_features_to_statistics(x) for x in (features, real)]
    options = {"kid_subsets": 1, "kid_subset_size": len(real), "prc_neighborhood": NEIGHBOUR}
    options |= {"save_cpu_ram": False, "verbose": False}
    neighbours = prc_features_to_metric(features, real, **options)
    return {
        "fd": fid_statistics_to_metric(*moments, verbose=False)["frechet_inception_distance"],
        "cs": isc_features_to_metric(seen["logits"], splits=1)["inception_score_mean"],
        "kd": kid_features_to_metric(features, real, **options)["kernel_inception_distance_mean"],
        "precision": neighbours["precision"],
        "recall": neighbours["recall"],
    }


# --- Real images made worse -----------------------------------------------------------------------


def degraded_tables(test: Images, real: Reference) -> tuple[Table, list[list[str]]]:
    """What the metric makes of held-out images that get worse step by step, and the answers.

    Each kind of damage starts with clean images, as many as in its other steps, so that within a
    kind only the damage differs. All are compared with the whole reference.
    """
    rng = np.random.default_rng(SEED)
    pixels = torch.from_numpy(test.pixels).permute(0, 3, 1, 2)
    features, logits = _seen(pixels, real)
    clean = _fd_cs(features, logits, real)
    floor, total = clean[0], len(features)

    # The pixels suffer.
    kinds: dict[str, list[list[Any]]] = {
        "noise": [[0, total, *clean]],
        "blur": [[0, total, *clean]],
    }
    for level in NOISE:
        kinds["noise"].append([level, total, *_fd_cs(*_seen(add_noise(pixels, level), real), real)])
    for level in BLUR:
        kinds["blur"].append([level, total, *_fd_cs(*_seen(blur(pixels, level), real), real)])

    # The choice of images suffers; the number of them does not.
    classes = np.unique(test.labels[test.labels >= 0])
    notes = []
    if len(classes) > 1:
        kinds["missing classes"] = []
        order = rng.permutation(classes)
        kept = sorted({max(1, round(share * len(classes))) for share in KEPT_CLASSES})[::-1]
        size = min(int(np.isin(test.labels, order[:n]).sum()) for n in kept)
        for n in kept:
            chosen = rng.permutation(np.flatnonzero(np.isin(test.labels, order[:n])))[:size]
            values = _fd_cs(features[chosen], logits[chosen], real)
            kinds["missing classes"].append([len(classes) - n, size, *values])
    else:
        notes.append("Missing classes were not tried: the held-out images have no labels.")
    kinds["repeated samples"] = []
    order = rng.permutation(total)
    for times in REPEATS:
        chosen = np.resize(order[: max(1, total // times)], total)
        values = _fd_cs(features[chosen], logits[chosen], real)
        kinds["repeated samples"].append([times, total, *values])

    name, diversity = names(real.extractor)[:2]
    rows = [
        [kind, level, size, distance, distance / steps[0][2], score]
        for kind, steps in kinds.items()
        for level, size, distance, score in steps
    ]
    answers = [
        [f"does {name} rise with every step of {kind}?", rises([step[2] for step in steps])]
        for kind, steps in kinds.items()
    ]
    notes = [
        f"{name} of {total} clean held-out images is {floor:.4g}: the floor, for it is what "
        "real images themselves get.",
        "Noise: standard deviation in grey levels. Blur: standard deviation in pixels. Missing "
        "classes: how many of them. Repeated samples: how often each image is there.",
        "Each kind begins with clean images, as many as in its other steps.",
        f"The reference: {real.count} training images.",
        *notes,
    ]
    table = Table(
        "degraded",
        f"{name} of real held-out images made worse",
        ["damage", "level", "images", name, "of clean", diversity],
        rows,
        notes,
    )
    return table, [[question, "yes" if answer else "no"] for question, answer in answers]


def rises(values: list[float]) -> bool:
    """Whether each value is above the one before."""
    return all(low < high for low, high in itertools.pairwise(values))


def add_noise(pixels: Tensor, level: float) -> Tensor:
    """uint8 images with Gaussian noise of `level` grey levels, rounded and clipped; seeded."""
    noise = torch.empty(pixels.shape).normal_(
        0, level, generator=torch.Generator().manual_seed(SEED)
    )
    return (pixels.float() + noise).round().clamp(0, 255).to(torch.uint8)


def blur(pixels: Tensor, level: float) -> Tensor:
    """uint8 images (N, 3, H, W) under a Gaussian of `level` pixels, rounded."""
    blurred = gaussian_filter(pixels.float().numpy(), (0, 0, level, level), mode="reflect")
    return torch.from_numpy(blurred).round().clamp(0, 255).to(torch.uint8)


def _fd_cs(features: np.ndarray, logits: np.ndarray, real: Reference) -> list[float]:
    distance = metrics.frechet_distance(metrics.moments(features), real.moments)
    return [distance, metrics.score(logits, 1 if real.extractor.suffix else SPLITS)[0]]


# --- Published constants --------------------------------------------------------------------------


def constants_tables(
    network: Extractor, train: Images, test: Images, made: Tensor, wanted: tuple[Constant, ...]
) -> tuple[list[Table], bool]:
    """What Inception says of CIFAR-10, beside what is published; and then of generated images.

    The second value is whether that is FID: only with the published weights, on CIFAR-10 itself,
    and with every constant within its tolerance. Otherwise no name here says so. `made`: uint8
    (N, 3, 32, 32).
    """
    cifar = [NAMES.get(each.sha256) for each in (train, test)] == ["cifar10", "cifar10-test"]
    most = max((each.train for each in wanted), default=0), max(each.test for each in wanted)
    seen = [
        network.extract(torch.from_numpy(images.pixels[:count]).permute(0, 3, 1, 2))
        for images, count in zip((train, test), most, strict=True)
    ]
    features = [part[0].numpy() for part in seen]
    rows, good = [], []
    for each in wanted:
        real = features[0][: each.train]
        if each.metric == "fid":
            pair = metrics.moments(real), metrics.moments(features[1][: each.test])
            value = metrics.frechet_distance(*pair)
        else:
            value = metrics.score(seen[0][1][: each.train].numpy(), SPLITS)[0]
        good.append(abs(value - each.published) <= each.tolerance)
        answer = "yes" if good[-1] else "no"
        row = [each.metric, each.train, each.test, each.published, each.tolerance, value, answer]
        rows.append([*row, each.source])
    fid = cifar and not network.suffix and all(good)

    # Only now generated images, under the name that they have earned.
    named = ["fid", "is", "kid"] if fid else ["fd_inception", "cs_inception", "kd_inception"]
    found, logits = (x.numpy() for x in network.extract(made))
    nearby = features[0][: max(len(found), QUICK[0].train)]
    values = [
        metrics.frechet_distance(metrics.moments(found), metrics.moments(nearby)),
        metrics.score(logits, SPLITS)[0],
        metrics.kid(found, nearby[: len(found)]),
    ]
    reasons = {
        "the weights are not the published ones": bool(network.suffix),
        "the images are not CIFAR-10": not cifar,
        "a constant is not the published one": not all(good),
    }
    why = ", ".join(reason for reason, holds in reasons.items() if holds)
    verdict = "These are FID, IS and KID." if fid else f"None of this is FID, IS or KID: {why}."
    return [
        Table(
            "constants",
            "Constants that a correct scorer gives",
            ["metric", "training", "test", "published", "within", "here", "agrees", "of"],
            rows,
            [verdict],
        ),
        Table(
            "inception",
            "Generated images, seen by Inception",
            ["metric", "generated", "reference", "value"],
            [[name, len(found), len(nearby), x] for name, x in zip(named, values, strict=True)],
            [verdict],
        ),
    ], fid


# --- For reading ----------------------------------------------------------------------------------


def to_text(result: dict[str, Any]) -> str:
    """The tables and answers of an audit as a terminal shows them."""
    lines = []
    for table in result["tables"]:
        cells = [table["columns"]]
        cells += [[_cell(cell, table["digits"]) for cell in row] for row in table["rows"]]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        text = [isinstance(cell, str) for cell in table["rows"][0]]
        lines.append(table["title"])
        for row in cells:
            aligned = zip(row, widths, text, strict=True)
            lines.append("  ".join(c.ljust(w) if left else c.rjust(w) for c, w, left in aligned))
        lines += [*table["notes"], ""]
    lines += [f"{question} {answer}" for question, answer in result["answers"]]
    return "\n".join(line.rstrip() for line in lines)


def _cell(cell: Any, digits: int) -> str:
    if cell is None:
        return "–"
    return f"{cell:.{digits}g}" if isinstance(cell, float) else str(cell)
