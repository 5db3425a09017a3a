"""Can these scores be trusted? One generator and held-out images, asked five questions.

`analyse` returns, and `python -m eval audit` writes as <study>/audit.json:

    run, epoch          whose generator was used, and after which epoch
    images              generated for each line of `batchnorm`
    identities          of the metrics, as in run.json; `generated` is `images`
    data, test          name, SHA-256 and number of the real images, `shared` of them in both
    fid                 whether a score of Inception here may be called FID; null: not asked
    answers             [[question, "yes" or "no"], ...]
    tables              each with name, title, columns, rows (text, a number in full precision, or
                        null where nothing was measured), digits (significant ones) and notes

The tables: `batchnorm` (where G's BatchNorm gets its statistics, and how floats become pixels),
`sizes` and `infinity` (metrics against 1 / N, and their limits), `parity` (torchmetrics and
torch-fidelity on the same images and network), `degraded` (real images made worse, step by step),
and where Inception's weights are here `constants` (published numbers).
"""

import copy
import dataclasses
import itertools
import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import linregress
from torch import Tensor, nn

from dcgan.cli import BadInput
from dcgan.config import Config
from dcgan.data import NAMES, Images, to_uint8
from dcgan.models import channels_last
from dcgan.sources import write_file
from dcgan.train import draw_latent
from eval import metrics
from eval.extractors import Extractor
from eval.finished import FinishedRun
from eval.metrics import METRICS, NEIGHBOUR, Sample
from eval.results import aligned
from eval.score import (
    BATCH,
    BATCHNORM,
    SPLITS,
    Reference,
    at_side,
    identities,
    measured,
    names,
    reestimated,
    reference,
    see,
    split_of,
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


def analyse(
    run: FinishedRun,
    network: Extractor,
    count: int,
    inception: Extractor | None,
    wanted: tuple[Constant, ...],
) -> dict[str, Any]:
    """The content of audit.json, but for `run`, from `count` generated images; raises BadInput.

    `wanted`: what `inception` has to give, where its weights are here.
    """
    config, train, test = run.config, run.images.train, run.images.test
    held_out = first(run.test(run.side), 2 * count)
    if len(held_out.pixels) < 100:
        few = len(held_out.pixels)
        raise BadInput(f"--test {test.name}: {few} images, 100 are needed")
    pixels = run.train(run.side).pixels[: config.reference_images]
    real = reference(network, pixels, train.sha256, run.images.cache, split_of(config.classes))
    G = channels_last(run.generator(), run.device)
    try:
        tables = [batchnorm_table(G, config, run.epoch, real, count)]
        tables += size_tables(G, config, run.epoch, real, count)
        tables.append(parity_table(draw(G, config, run.epoch, "parity", min(count, PARITY)), real))
    except FloatingPointError as error:
        raise BadInput(f"{run.folder}, epoch {run.epoch}: {error}") from error
    degraded, answers = degraded_table(held_out, real)
    tables.append(degraded)
    fid = None
    if inception:
        constants, fid = constants_table(inception, train, test, wanted)
        tables.append(constants)
    both = {row.tobytes() for row in train.pixels} & {row.tobytes() for row in test.pixels}
    return {
        **{
            name: {"name": images.name, "sha256": images.sha256, "images": len(images.pixels)}
            for name, images in (("data", train), ("test", test))
        },
        "shared": len(both),
        "epoch": run.epoch,
        "images": count,
        "identities": identities(real, count, config.resolution),
        "answers": answers,
        "tables": [dataclasses.asdict(table) for table in tables],
        "fid": fid,
    }


def save(study: Path, result: dict[str, Any]) -> Path:
    """Write audit.json beside a study's study.json."""
    path = study / "audit.json"
    content = json.dumps(result, indent=1, allow_nan=False) + "\n"
    write_file(path, lambda file: file.write(content.encode()))
    return path


def first(images: Images, count: int) -> Images:
    """The first images of a set, in its canonical order."""
    pixels, labels = images.pixels[:count], images.labels[:count]
    return dataclasses.replace(images, pixels=pixels, labels=labels)


def values(sample: Sample, count: int = 3) -> list[float]:
    """The first metrics: Fréchet distance, score, kernel distance."""
    return [metric.measure(sample) for metric in METRICS[:count]]


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


def draw(G: nn.Module, config: Config, epoch: int, stream: str, count: int) -> Tensor:
    """Images as the study scores them, of noise of their own: uint8 (count, 3, H, W)."""
    z = draw_latent(config, f"audit {stream}", epoch, count)
    return to_uint8(signed_images(G, z, "running", config))


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
            measures = values(see(quantise(signed, how), real))
            clean = rows[0][2] if rows else measures[0]
            rows.append([mode, how, *measures, measures[0] / clean])
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


# --- How many images ------------------------------------------------------------------------------


def extrapolate(sizes: list[int], measures: list[float]) -> tuple[float, float, float]:
    """A metric at infinitely many images, its standard error, and the slope against 1 / N.

    Least squares; each size needs images of its own. The bias of a plug-in estimate is c / N to
    first order, with c a property of the generator, so two generators cannot be compared at one N.
    Chong and Forsyth, 2020, arXiv 1911.07023.
    """
    line = linregress(1 / np.asarray(sizes, dtype=np.float64), measures)
    return float(line.intercept), float(line.intercept_stderr), float(line.slope)


def size_tables(
    G: nn.Module, config: Config, epoch: int, real: Reference, count: int
) -> list[Table]:
    """The metric at fifteen sizes, each on images of its own, and its limit."""
    sizes = np.linspace(max(count / SMALLEST, 20), count, POINTS).round().astype(int).tolist()
    rows = [
        [size, *values(see(draw(G, config, epoch, f"size {number}", size), real))]
        for number, size in enumerate(sizes)
    ]
    named = names(real.extractor)[:3]
    limits = []
    for column, name in enumerate(named, 1):
        limit, error, slope = extrapolate(sizes, [row[column] for row in rows])
        last = rows[-1][column]
        limits.append([name, limit, error, slope, last, last - limit])
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
    network = real.extractor
    sample = see(images, real)
    nearby = sample.as_many
    sample = dataclasses.replace(
        sample, real=nearby, real_moments=metrics.moments(nearby), splits=1
    )
    generated = at_side(images, real)
    others = [
        implementation(generated, nearby, network, torch.float64)
        for implementation in (by_torchmetrics, by_torch_fidelity)
    ]
    rows = []
    for name, metric in itertools.islice(measured(network).items(), 5):
        ours = metric.measure(sample)
        theirs = [each.get(metric.stem) for each in others]
        differences = [abs(x - ours) / max(abs(ours), 1e-12) for x in theirs if x is not None]
        rows.append([name, ours, *theirs, max(differences)])
    return Table(
        "parity",
        "Three implementations on the same images and network",
        ["metric", "ours", "torchmetrics", "torch-fidelity", "largest difference"],
        rows,
        [
            f"{len(nearby)} generated images, and as many of the reference's, as features in "
            "float64. The largest difference is relative to ours.",
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


def degraded_table(test: Images, real: Reference) -> tuple[Table, list[list[str]]]:
    """What the metric makes of held-out images that get worse step by step, and the answers."""
    name, diversity = names(real.extractor)[:2]
    kinds = damage_steps(test, real)
    rows, answers = [], []
    for kind, steps in kinds.items():
        clean, distances = steps[0][2], [step[2] for step in steps]
        rows += [
            [kind, level, size, distance, distance / clean, score]
            for level, size, distance, score in steps
        ]
        rises = all(low < high for low, high in itertools.pairwise(distances))
        answers.append(
            [f"does {name} rise with every step of {kind}?", "yes" if rises else "no"],
        )
    notes = [
        f"{name} of {len(test.pixels)} clean held-out images is {rows[0][3]:.4g}: the floor, for "
        "it is what real images themselves get.",
        "Noise: standard deviation in grey levels. Blur: standard deviation in pixels. Missing "
        "classes: how many of them. Repeated samples: how often each image is there.",
        f"Each kind begins with clean images, as many as in its other steps; the reference is "
        f"{real.count} training images.",
    ]
    if "missing classes" not in kinds:
        notes.append("Missing classes were not tried: the held-out images have no labels.")
    columns = ["damage", "level", "images", name, "of clean", diversity]
    title = f"{name} of real held-out images made worse"
    return Table("degraded", title, columns, rows, notes), answers


def damage_steps(test: Images, real: Reference) -> dict[str, list[list[Any]]]:
    """Kind of damage -> its steps: level, images, Fréchet distance, score.

    Each kind starts with clean images, as many as in its other steps, so that within a kind only
    the damage differs.
    """
    pixels = torch.from_numpy(test.pixels).permute(0, 3, 1, 2)
    sample, total = see(pixels, real), len(pixels)

    # The pixels are changed.
    kinds: dict[str, list[list[Any]]] = {}
    for kind, damage, levels in (("noise", add_noise, NOISE), ("blur", blur, BLUR)):
        kinds[kind] = [[0, total, *values(sample, 2)]]
        for level in levels:
            kinds[kind].append([level, total, *values(see(damage(pixels, level), real), 2)])

    # Other images are chosen, as many as before.
    def of(level: float, chosen: np.ndarray) -> list[Any]:
        rows = {"features": sample.features[chosen], "logits": sample.logits[chosen]}
        return [level, len(chosen), *values(dataclasses.replace(sample, **rows), 2)]

    rng = np.random.default_rng(SEED)
    classes = np.unique(test.labels[test.labels >= 0])
    if len(classes) > 1:
        order = rng.permutation(classes)
        kept = sorted({max(1, round(share * len(classes))) for share in KEPT_CLASSES})[::-1]
        members = {n: np.flatnonzero(np.isin(test.labels, order[:n])) for n in kept}
        size = min(map(len, members.values()))
        kinds["missing classes"] = [
            of(len(classes) - n, rng.permutation(members[n])[:size]) for n in kept
        ]
    order = rng.permutation(total)
    kinds["repeated samples"] = [
        of(times, np.resize(order[: max(1, total // times)], total)) for times in REPEATS
    ]
    return kinds


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


# --- Published constants --------------------------------------------------------------------------


def constants_table(
    network: Extractor, train: Images, test: Images, wanted: tuple[Constant, ...]
) -> tuple[Table, bool]:
    """What Inception gives on CIFAR-10, beside what is published; and whether that is FID.

    It is with the published weights, on CIFAR-10 itself, and with every constant within its
    tolerance.
    """
    (trained, logits), (held_out, _) = (
        _extract(network, images, max(getattr(c, part) for c in wanted))
        for images, part in ((train, "train"), (test, "test"))
    )
    rows, good = [], []
    for c in wanted:
        if c.metric == "fid":
            sides = (trained[: c.train], held_out[: c.test])
            value = metrics.frechet_distance(*map(metrics.moments, sides))
        else:
            value = metrics.score(logits[: c.train], SPLITS)
        good.append(abs(value - c.published) <= c.tolerance)
        answer = "yes" if good[-1] else "no"
        rows.append([c.metric, c.train, c.test, c.published, c.tolerance, value, answer, c.source])
    cifar = [NAMES.get(images.sha256) for images in (train, test)] == ["cifar10", "cifar10-test"]
    reasons = {
        "the weights are not the published ones": bool(network.suffix),
        "the images are not CIFAR-10": not cifar,
        "a constant is not the published one": not all(good),
    }
    why = ", ".join(reason for reason, applies in reasons.items() if applies)
    verdict = f"None of this is FID, IS or KID: {why}." if why else "These are FID, IS and KID."
    columns = ["metric", "training", "test", "published", "within", "here", "agrees", "of"]
    title = "Constants that a correct scorer gives"
    return Table("constants", title, columns, rows, [verdict]), not why


def _extract(network: Extractor, images: Images, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and logits of the first real images."""
    pixels = torch.from_numpy(images.pixels[:count]).permute(0, 3, 1, 2)
    features, logits = network.extract(pixels)
    return features.numpy(), logits.numpy()


# --- For reading ----------------------------------------------------------------------------------


def to_text(result: dict[str, Any]) -> str:
    """The tables and answers of an audit as a terminal shows them."""
    lines: list[str] = []
    for table in result["tables"]:
        rows = aligned(table["columns"], table["rows"], table["digits"])
        lines += [table["title"], rows, *table["notes"], ""]
    lines += [f"{question} {answer}" for question, answer in result["answers"]]
    return "\n".join(lines)
