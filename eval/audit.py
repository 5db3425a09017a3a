"""Can these scores be trusted? One generator and held-out images, asked three questions.

`analyse` returns, and `python -m eval audit` writes as <study>/audit.json:

    run, epoch          whose generator was used, and after which epoch
    images              generated for each line of `batchnorm`
    identities          of the metrics, as in run.json; `generated` is `images`
    data, test          name, SHA-256 and number of the real images
    answers             [[question, "yes" or "no"], ...]
    tables              each with name, title, columns, rows (text, a number in full precision, or
                        null where nothing was measured), digits (significant ones) and notes
"""

import copy
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import linregress
from torch import Tensor, nn

from dcgan.cli import BadInput, aligned
from dcgan.data import Images, of_classes, round_to_uint8, to_uint8
from dcgan.models import channels_last
from dcgan.train import AT_ONCE
from eval.finished import FinishedRun, find_study
from eval.metrics import Sample
from eval.score import BATCHNORM, Reference, identities, reestimated, reference, see, split_of

SEED = 0  # of everything that is drawn here, z apart
FD = "fd_cifar"  # the metric that is asked about
POINTS = 15  # sizes at which the metrics are measured, from N / 10 to N (Chong and Forsyth, 2020)
NOISE = (4, 8, 16, 32, 64)  # standard deviation, in grey levels of 255
BLUR = (0.5, 0.75, 1.0, 1.5, 2.0)  # standard deviation of the kernel, pixels
KEPT_CLASSES = (1.0, 0.8, 0.5, 0.2, 0.1)  # shares of all classes
REPEATS = (1, 2, 5, 10, 20)  # how often each image is there
QUANTISERS = {
    "round": "to the nearest level",
    "truncate": "to the level below",
    "stretch": "each image from its darkest to its brightest value, rounded",
}

Row = dict[str, Any]  # column -> cell


def analyse(run: FinishedRun, count: int) -> dict[str, Any]:
    """The content of audit.json from `count` generated images of a run; raises BadInput."""
    config, train, test = run.config, run.data, run.test_data
    held_out = of_classes(run.test(run.side), "all", 2 * count)
    if (few := len(held_out.pixels)) < 100:
        raise BadInput(f"--test {test.name}: {few} images, 100 are needed")
    pixels, split = run.train(run.side).pixels[: config.reference_images], split_of(config.classes)
    real = reference(run.classifier(), pixels, train.sha256, run.cache, split)
    try:
        G = channels_last(run.generator(), run.device)
        tables = [batchnorm_table(run, G, real, count), *size_tables(run, G, real, count)]
    except FloatingPointError as error:
        raise BadInput(f"{run.folder}, epoch {run.epoch}: {error}") from error
    degraded, answers = degraded_table(held_out, real)
    data, test_data = (
        {"name": images.name, "sha256": images.sha256, "images": len(images.pixels)}
        for images in (train, test)
    )
    return {
        "run": run.folder.resolve().relative_to(find_study(run.folder)).as_posix(),
        "data": data,
        "test": test_data,
        "epoch": run.epoch,
        "images": count,
        "identities": identities(real, count, config.resolution),
        "answers": answers,
        "tables": [*tables, degraded],
    }


def to_text(result: dict[str, Any]) -> str:
    """The tables and answers of an audit as a terminal shows them."""
    lines: list[str] = []
    for part in result["tables"]:
        rows = aligned(part["columns"], part["rows"])
        lines += [part["title"], rows, *part["notes"], ""]
    return "\n".join([*lines, *(" ".join(answer) for answer in result["answers"])])


def table(name: str, title: str, rows: list[Row], notes: list[str]) -> Row:
    """A table as audit.json has it; see the top of this file."""
    cells = {"columns": list(rows[0]), "rows": [list(row.values()) for row in rows]}
    return {"name": name, "title": title, **cells, "notes": notes, "digits": 4}


def measure(sample: Sample, real: Reference) -> dict[str, float]:
    """Fréchet distance, score and kernel distance of a sample."""
    return {
        name: real.extractor.metrics[name].measure(sample) for name in (FD, "cs_cifar", "kd_cifar")
    }


# --- How G's images are made ----------------------------------------------------------------------


def signed_images(run: FinishedRun, G: nn.Module, z: Tensor, mode: str = "running") -> Tensor:
    """Images of z (N, latent_size) in [-1, 1], float32 (N, 3, H, W) on the CPU; G stays as it is.

    `mode`: where BatchNorm's statistics come from, a key of BATCHNORM. In the mode "batch" batches
    have the training's size; the last one is filled up with noise from the front.
    """
    G, size = copy.deepcopy(G).eval(), AT_ONCE
    if mode == "batch":
        G, size = G.train(), run.config.batch
    elif mode == "re-estimated":
        G = reestimated(G, run.config, len(z))
    whole = -(-len(z) // size) * size
    filled = z.repeat(-(-whole // len(z)), 1)[:whole]
    with torch.no_grad():
        return torch.cat([G(part).cpu() for part in filled.split(size)])[: len(z)]


def quantise(signed: Tensor, how: str) -> Tensor:
    """Images in [-1, 1], float (N, 3, H, W), to uint8; `how`: a key of QUANTISERS."""
    if how == "truncate":
        return ((signed + 1) * 127.5).clamp(0, 255).to(torch.uint8)
    if how == "stretch":
        low, high = (f(signed, dim=(1, 2, 3), keepdim=True) for f in (torch.amin, torch.amax))
        signed = (signed - low) / (high - low).clamp(min=1e-5) * 2 - 1
    return to_uint8(signed)


def batchnorm_table(run: FinishedRun, G: nn.Module, real: Reference, count: int) -> Row:
    """The same noise through every mode of BatchNorm and every quantiser."""
    z, rows = run.noise("audit", count), []
    for mode in BATCHNORM:
        signed = signed_images(run, G, z, mode)
        for how in QUANTISERS:
            measures = measure(see(quantise(signed, how), real), real)
            rows.append({"BatchNorm": mode, "quantiser": how, **measures})
    for row in rows:
        row["of the first"] = row[FD] / rows[0][FD]
    notes = [
        f"{count} images of the same noise in every row; the study's own scores are those of "
        "the first row's kind.",
        *(f"BatchNorm {mode}: {text}." for mode, text in BATCHNORM.items()),
        *(f"Quantiser {how}: {text}." for how, text in QUANTISERS.items()),
    ]
    return table("batchnorm", f"{FD} by BatchNorm mode of G and by quantiser", rows, notes)


# --- How many images ------------------------------------------------------------------------------


def size_tables(run: FinishedRun, G: nn.Module, real: Reference, count: int) -> list[Row]:
    """The metrics at fifteen sizes, each on images of its own, and their limits.

    The bias of a plug-in estimate is c / N to first order, with c a property of the generator, so
    two generators cannot be compared at one N. Chong and Forsyth, 2020, arXiv 1911.07023.
    """
    sizes = np.linspace(max(count / 10, 20), count, POINTS).round().astype(int).tolist()
    measured = []
    for number, size in enumerate(sizes):
        images = signed_images(run, G, run.noise(f"audit size {number}", size))
        measured.append(measure(see(to_uint8(images), real), real))
    limits = []
    for name, last in measured[-1].items():
        line = linregress(1 / np.array(sizes), [row[name] for row in measured])
        row = {"metric": name, "at infinity": float(line.intercept)}
        row |= {"standard error": float(line.intercept_stderr), "slope": float(line.slope)}
        row |= {f"at {sizes[-1]}": last, "bias there": last - row["at infinity"]}
        limits.append(row)
    rows = [{"images": size, **row} for size, row in zip(sizes, measured, strict=True)]
    note = f"Each row has images of its own; the reference is always the same {len(real.features)}."
    limits_note = (
        f"A straight line against 1 / N through the {POINTS} sizes of the table before (Chong and "
        "Forsyth, arXiv 1911.07023). The bias of the finite reference stays in it. The kernel "
        "distance has no bias to take out."
    )
    return [
        table("sizes", f"{FD} by the number of generated images", rows, [note]),
        table(
            "infinity", "Extrapolated to infinitely many generated images", limits, [limits_note]
        ),
    ]


# --- Real images made worse -----------------------------------------------------------------------


def degraded_table(test: Images, real: Reference) -> tuple[Row, list[list[str]]]:
    """What the metric makes of held-out images that get worse step by step, and the answers."""
    rows, by_kind = [], {}
    for kind, level, sample in damaged(test, real):
        measures = measure(sample, real)
        steps = by_kind.setdefault(kind, [])
        steps.append(measures.pop(FD))
        row = {"damage": kind, "level": level, "images": len(sample.features)}
        rows.append({**row, FD: steps[-1], "of clean": steps[-1] / steps[0], **measures})
    answers = []
    for kind, steps in by_kind.items():
        rises = all(low < high for low, high in itertools.pairwise(steps))
        answers.append([f"does {FD} rise with every step of {kind}?", "yes" if rises else "no"])
    notes = [
        f"{FD} of {len(test.pixels)} clean held-out images is {rows[0][FD]:.4g}: the floor, "
        "for it is what real images themselves get.",
        "Noise: standard deviation in grey levels. Blur: standard deviation in pixels. Missing "
        "classes: how many of them. Repeated samples: how often each image is there.",
        f"Each kind begins with clean images, as many as in its other steps; the reference is "
        f"{len(real.features)} training images.",
    ]
    if "missing classes" not in by_kind:
        notes.append("Missing classes were not tried: the held-out images have no labels.")
    return table("degraded", f"{FD} of real held-out images made worse", rows, notes), answers


def damaged(test: Images, real: Reference) -> Iterator[tuple[str, float, Sample]]:
    """Kind of damage, level, images that have it; each kind starts with as many clean ones."""
    pixels = torch.from_numpy(test.pixels).permute(0, 3, 1, 2)
    sample, total = see(pixels, real), len(pixels)

    # The pixels are changed.
    for kind, damage, levels in (("noise", add_noise, NOISE), ("blur", blur, BLUR)):
        yield kind, 0, sample
        for level in levels:
            yield kind, level, see(damage(pixels, level), real)

    # Other images are chosen, as many as before.
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
