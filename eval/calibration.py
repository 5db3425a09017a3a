"""What every metric says of images that no training made: the marks to read its numbers by.

The sets, in the order of metrics.CALIBRATION: real held-out images; draws from a Gaussian with the
mean and the covariance of the reference images' pixels; the held-out images reduced to 8x8 and
enlarged again; images of one colour; images of the untrained generator.
"""

import hashlib
from collections.abc import Iterator, Set
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dcgan.cli import BadInput
from dcgan.config import Config
from dcgan.data import Images, of_classes, resize, round_to_uint8
from dcgan.models import build, channels_last, seed_of
from dcgan.train import draw_latent, generate
from eval.metrics import CALIBRATION
from eval.score import Reference, identities, score

TEST, HALF = "test split", "second half"
LEAST = 10  # held-out images; no metric is defined on fewer
COARSE = 8  # pixels a side
AT_ONCE = 1024  # images in one matrix product


@dataclass(frozen=True)
class HeldOut:
    """Real images to be scored like generated ones."""

    pixels: np.ndarray  # (N, side, side, 3) uint8
    source: str  # TEST or HALF of the data set
    seen: int  # of these, training or reference images as well; 0 where avoidable
    sha256: str  # of the data set that they belong to


def held_out(images: Images, test: Images | None, config: Config, side: int) -> HeldOut:
    """The first `config.score_images` of `test` that no run sees, at `side` pixels a side.

    Without a test split they come from the second half of the data set, in its order, even where a
    run sees nearly all of that too. BadInput for a test split of another size, without these
    classes, or all of it among the images of the runs.
    """
    own = of_classes(images, config.classes)
    seen = {_digest(image) for image in own.pixels[: max(config.images, config.reference_images)]}
    source, chosen, start = HALF, own, len(own.pixels) // 2
    if test is not None:
        source, chosen, start = TEST, of_classes(test, config.classes), 0
        refused = f"{test.name} is no test split of {images.name}"
        if test.pixels.shape[1:] != images.pixels.shape[1:]:
            raise BadInput(f"{refused}: their sides differ")

    every = range(start, len(chosen.pixels))
    new = (row for row in every if _digest(chosen.pixels[row]) not in seen)
    rows = [*islice(new, config.score_images)]
    if len(rows) < LEAST:
        if source == TEST:
            few = f"{len(rows)} of its images are not among those of the runs"
            raise BadInput(f"{refused}: {few}, {LEAST} are needed")
        rows = [*every[: config.score_images]]
    picked = replace(chosen, pixels=np.asarray(chosen.pixels[rows]))
    repeated = sum(_digest(image) in seen for image in picked.pixels)
    return HeldOut(resize(picked, side).pixels, source, repeated, chosen.sha256)


def calibrate(
    references: list[Reference],
    real: np.ndarray,
    held: HeldOut,
    config: Config,
    others: dict[str, list[Reference]],
) -> dict[str, Any]:
    """The content of <study>/calibration.json.

    `real`: the reference images, uint8 (N, H, W, 3). `others`: the references of other arms, by
    their classes of images, where these are not those of `config`.
    """
    config, device = config.model_copy(update={"seed": 0}), references[0].extractor.device
    known: dict[str, Any] = {}
    for reference in references:
        known |= identities(reference, config.score_images, real.shape[1])
    drawn = sets(real, held, config, device)
    return {
        "held_out": held.source,
        "held_out_images": len(held.pixels),
        "held_out_seen": held.seen,
        "held_out_sha256": held.sha256,
        "images": config.score_images,  # in a set; of held-out ones no more than there are
        "identities": known,  # metric -> what it is a measure of, as in run.json
        "rows": {name: score(images, references) for name, images in drawn},  # set -> scores
        "untrained": {x: score(untrained(config, device), others[x]) for x in others},
    }


def is_current(
    stored: dict[str, Any], references: list[Reference], source: str, others: Set[str]
) -> bool:
    """Whether a stored calibration has these metrics, held-out images that are as good, and the
    untrained generator against images of the other classes."""
    wanted = {name for reference in references for name in reference.extractor.metrics}
    rows = stored.get("rows", {})
    same = [*rows] == [*CALIBRATION] and all(row.keys() == wanted for row in rows.values())
    kinds = stored.get("untrained", {}).keys()
    return same and stored.get("held_out") in (TEST, source) and others <= kinds


def sets(
    real: np.ndarray, held: HeldOut, config: Config, device: str
) -> Iterator[tuple[str, Tensor]]:
    """The name and the images of each set, uint8 (N, 3, H, W) on the CPU; G's have its own side."""
    count, side = config.score_images, real.shape[1]
    held_images = torch.from_numpy(held.pixels).permute(0, 3, 1, 2)
    yield "held-out", held_images
    yield "gaussian", torch.from_numpy(gaussian(real, count)).permute(0, 3, 1, 2)
    yield "8x8", coarse(held_images)
    yield "flat", flat(count, side)
    yield "untrained", untrained(config, device)


def untrained(config: Config, device: str) -> Tensor:
    """Images of the generator before training, uint8 (config.score_images, 3, side, side)."""
    G = channels_last(build(config)[0], device)
    return generate(G, draw_latent(config, "calibration", 0, config.score_images))


def gaussian(real: np.ndarray, count: int) -> np.ndarray:
    """Draws from the Gaussian fitted to the pixels of real images (N, H, W, 3), uint8 too.

    A draw is their mean plus their sum, each less the mean and times a weight from N(0, 1/(N-1)):
    its covariance is theirs, and no matrix of pixels x pixels is formed.
    """
    stream = np.random.default_rng(seed_of(0, "calibration gaussian"))
    pixels = real.reshape(len(real), -1)
    mean = pixels.mean(axis=0, dtype=np.float64)
    drawn = np.empty((count, pixels.shape[1]), np.uint8)
    for i in range(0, count, AT_ONCE):
        part = drawn[i : i + AT_ONCE]
        total = np.zeros(part.shape)
        for j in range(0, len(pixels), AT_ONCE):
            centred = pixels[j : j + AT_ONCE] - mean
            total += stream.standard_normal((len(part), len(centred))) @ centred
        part[:] = np.rint(mean + total / np.sqrt(len(pixels) - 1)).clip(0, 255)
    return drawn.reshape(count, *real.shape[1:])


def coarse(images: Tensor) -> Tensor:
    """Images (N, 3, H, W) uint8, reduced to 8x8 by averages over areas, enlarged bilinearly."""
    small = interpolate(images.float(), size=COARSE, mode="area")
    enlarged = interpolate(small, size=images.shape[-1], mode="bilinear")
    return round_to_uint8(enlarged)


def flat(count: int, side: int) -> Tensor:
    """Images of one uniformly random colour each, uint8 (count, 3, side, side)."""
    stream = np.random.default_rng(seed_of(0, "calibration flat"))
    colours = torch.from_numpy(stream.integers(256, size=(count, 3, 1, 1), dtype=np.uint8))
    return colours.expand(-1, -1, side, side).contiguous()


def _digest(image: np.ndarray) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()
