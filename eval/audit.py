"""Can the scores be trusted? The three questions of `python -m eval audit --help`.

The bias of a plug-in estimate is c / N to first order, with c a property of the generator, so that
two generators cannot be compared at one N: the limit is that of a straight line against 1 / N
through POINTS sizes, each with images of its own (Chong and Forsyth, 2020, arXiv 1911.07023).
"""

import copy
import itertools
import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import linregress
from torch import Tensor, nn

from dcgan.cli import BadInput
from dcgan.data import Images, of_classes, round_to_uint8, to_uint8
from dcgan.models import channels_last
from dcgan.train import AT_ONCE, matmul_precision
from eval.finished import FinishedRun
from eval.metrics import Sample
from eval.results import Result
from eval.score import BATCHNORM, Reference, reestimated, reference, see, split_of

SEED = 0  # of everything that is drawn here, z apart
FD = "fd_cifar"  # the metric that is asked about
POINTS = 15  # sizes at which the metrics are measured, from N / 10 to N
LEAST = 100  # held-out images
NOISE = (4, 8, 16, 32, 64)  # standard deviation, in grey levels of 255
BLUR = (0.5, 0.75, 1.0, 1.5, 2.0)  # standard deviation of the kernel, pixels
KEPT_CLASSES = (1.0, 0.8, 0.5, 0.2, 0.1)  # shares of all classes
REPEATS = (1, 2, 5, 10, 20)  # how often each image is there
QUANTISERS = {
    "round": "to the nearest level",
    "truncate": "to the level below",
    "stretch": "each image from its darkest to its brightest value, rounded",
}
NOTES = [
    *(f"BatchNorm {mode}: {text}." for mode, text in BATCHNORM.items()),
    *(f"{how}: {text}." for how, text in QUANTISERS.items()),
    "The noise is the same for all of these; the study's own scores are of the first kind.",
    f"at infinity: by a straight line against 1 / N through {POINTS} sizes (Chong and Forsyth, "
    "arXiv 1911.07023). The bias of the finite reference stays in it.",
    "noise: standard deviation in grey levels. blur: in pixels. missing classes: how many. "
    "repeated samples: how often each image is there. Each kind begins with as many clean held-out "
    "images, the floor; rises: 1 if every step is worse than the one before.",
]


def analyse(run: FinishedRun, n: int) -> Result:
    """The answers, from `n` generated images a number; BadInput for too few held-out images."""
    config, train = run.config, run.train(run.side)
    held_out = of_classes(run.test(run.side), "all", 2 * n)
    if (few := len(held_out.pixels)) < LEAST:
        raise BadInput(f"--test {run.test_data.name}: {few} images, {LEAST} are needed")
    pixels, split = train.pixels[: config.reference_images], split_of(config.classes)
    real = reference(run.classifier(), pixels, train.sha256, run.cache, split)
    G = channels_last(run.generator(), run.device)
    numbers = by_batchnorm(run, G, real, n) | by_size(run, G, real, n) | by_damage(held_out, real)
    titles = {re.sub(r"[^a-z0-9.]+", "_", title.lower()): title for title in numbers}
    about = {"held_out": len(held_out.pixels), "reference": len(real.features)}
    return Result(dict(zip(titles, numbers.values(), strict=True)), titles, about, NOTES)


def by_batchnorm(run: FinishedRun, G: nn.Module, real: Reference, n: int) -> dict[str, float]:
    """The same noise through every mode of BatchNorm and every quantiser."""
    z, numbers, measure = run.noise("audit", n), {}, real.extractor.metrics[FD].measure
    for mode in BATCHNORM:
        signed = signed_images(run, G, z, mode)
        for how in QUANTISERS:
            numbers[f"{FD}, BatchNorm {mode}, {how}"] = measure(see(quantise(signed, how), real))
    return numbers


def signed_images(run: FinishedRun, G: nn.Module, z: Tensor, mode: str = "running") -> Tensor:
    """Images of z (N, latent_size) by a mode of BATCHNORM: float32 (N, 3, H, W) in [-1, 1]."""
    G, size = copy.deepcopy(G).eval(), AT_ONCE
    if mode == "batch":
        G, size = G.train(), run.config.batch  # the last batch is filled up from the front of z
    elif mode == "re-estimated":
        G = reestimated(G, run.config, len(z))
    whole = -(-len(z) // size) * size
    filled = z.repeat(-(-whole // len(z)), 1)[:whole]
    with torch.no_grad(), matmul_precision("fp32"):
        return torch.cat([G(part).cpu() for part in filled.split(size)])[: len(z)]


def quantise(signed: Tensor, how: str) -> Tensor:
    """Images in [-1, 1], float (N, 3, H, W), to uint8; `how`: a key of QUANTISERS."""
    if how == "truncate":
        return ((signed + 1) * 127.5).clamp(0, 255).to(torch.uint8)
    if how == "stretch":
        low, high = (f(signed, dim=(1, 2, 3), keepdim=True) for f in (torch.amin, torch.amax))
        signed = (signed - low) / (high - low).clamp(min=1e-5) * 2 - 1
    return to_uint8(signed)


def by_size(run: FinishedRun, G: nn.Module, real: Reference, n: int) -> dict[str, float]:
    """The metrics of `n` images, and their limits from fewer of them."""
    sizes = np.linspace(max(n / 10, 20), n, POINTS).round().astype(int)
    samples = []
    for number, size in enumerate(sizes.tolist()):
        images = signed_images(run, G, run.noise(f"audit size {number}", size))
        samples.append(see(to_uint8(images), real))
    numbers = {}
    for name in (FD, "cs_cifar", "kd_cifar"):
        values = [real.extractor.metrics[name].measure(sample) for sample in samples]
        line = linregress(1 / sizes, values)
        numbers |= {f"{name} of {n}": values[-1], f"{name} at infinity": float(line.intercept)}
        numbers[f"{name} at infinity, standard error"] = float(line.intercept_stderr)
    return numbers


def by_damage(test: Images, real: Reference) -> dict[str, float]:
    """The distance of held-out images that get worse step by step, and whether it always rises."""
    numbers, by_kind = {}, {}
    for kind, level, sample in damaged(test, real):
        value = real.extractor.metrics[FD].measure(sample)
        numbers[f"{FD}, {kind} {level:g}"] = value
        by_kind.setdefault(kind, []).append(value)
    for kind, values in by_kind.items():
        rises = all(low < high for low, high in itertools.pairwise(values))
        numbers[f"rises with every step of {kind}"] = float(rises)
    return numbers


def damaged(test: Images, real: Reference) -> Iterator[tuple[str, float, Sample]]:
    """Kind of damage, level, images that have it; each kind starts with as many clean ones."""
    pixels = torch.from_numpy(test.pixels).permute(0, 3, 1, 2)
    sample, total = see(pixels, real), len(pixels)

    # The pixels are changed.
    for kind, damage, levels in (("noise", add_noise, NOISE), ("blur", blur, BLUR)):
        yield kind, 0, sample
        for level in levels:
            yield kind, level, see(damage(pixels, level), real)

    # Other images are chosen, as many as before; those without labels miss no class.
    def of(rows: np.ndarray) -> Sample:
        return replace(sample, features=sample.features[rows], logits=sample.logits[rows])

    rng = np.random.default_rng(SEED)
    classes = np.unique(test.labels[test.labels >= 0])
    if len(classes) > 1:
        order = rng.permutation(classes)
        kept = sorted({max(1, round(share * len(classes))) for share in KEPT_CLASSES})[::-1]
        members = {n: np.flatnonzero(np.isin(test.labels, order[:n])) for n in kept}
        size = min(map(len, members.values()))
        for n, rows in members.items():
            yield "missing classes", len(classes) - n, of(rng.permutation(rows)[:size])
    order = rng.permutation(total)
    for times in REPEATS:
        yield "repeated samples", times, of(np.resize(order[: max(1, total // times)], total))


def add_noise(pixels: Tensor, level: float) -> Tensor:
    """uint8 images with Gaussian noise of `level` grey levels, rounded and clipped; seeded."""
    stream = torch.Generator().manual_seed(SEED)
    noise = torch.empty(pixels.shape).normal_(0, level, generator=stream)
    return round_to_uint8(pixels.float() + noise)


def blur(pixels: Tensor, level: float) -> Tensor:
    """uint8 images (N, 3, H, W) under a Gaussian of `level` pixels, rounded."""
    blurred = gaussian_filter(pixels.float().numpy(), (0, 0, level, level), mode="reflect")
    return round_to_uint8(torch.from_numpy(blurred))
