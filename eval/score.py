"""From generators and real images to numbers, each of which has an identity."""

import copy
import hashlib
import json
import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load, save
from torch import Tensor, nn

from dcgan.config import Config
from dcgan.data import round_to_uint8
from dcgan.sources import new_file
from dcgan.train import draw_latent, generate, matmul_precision
from eval import finished, metrics
from eval.extractors import Extractor, resize
from eval.finished import FinishedRun
from eval.metrics import Moments, Sample

REESTIMATED = "_reestimated"  # end of a score's name whose images G made so, see `reestimated`


@dataclass(frozen=True)
class Reference:
    """The features of the real images that generated ones are compared with."""

    extractor: Extractor
    features: np.ndarray  # (N, D) float32, in the canonical order of the images
    moments: Moments
    resolution: int  # pixels a side of the real images
    sha256: str  # of the data set
    split: str


def reestimated(G: nn.Module, config: Config, count: int) -> nn.Module:
    """A copy of G whose BatchNorm has averages over new noise: `count` images or ten batches."""
    G, device = copy.deepcopy(G), next(G.parameters()).device
    for layer in G.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # each batch counts alike
    G.train()
    z = draw_latent(config, "statistics", 0, max(-(-count // config.batch), 10) * config.batch)
    with torch.no_grad(), matmul_precision("fp32"):
        for part in z.split(config.batch):
            G(part.to(device))
    return G.eval()


def reference(
    extractor: Extractor, pixels: np.ndarray, data_sha256: str, cache: Path, split: str = "train"
) -> Reference:
    """The features of real images (N, H, W, 3) uint8, computed once and kept in `cache`."""
    # The file is named after all that it depends on: images, network, the machine's arithmetic.
    count, resolution = pixels.shape[:2]
    content = hashlib.sha256(np.ascontiguousarray(pixels)).hexdigest()
    device = extractor.device
    chip = device if device == "cpu" else torch.cuda.get_device_name(device)
    key = [extractor.sha256, content, count, resolution, metrics.IMPLEMENTATION, torch.__version__]
    key += [chip, torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    path = cache / f"{extractor.name}-{digest[:32]}.features"

    # It begins with the hash of the rest; a damaged one is made again.
    data = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(data[32:]).digest() == data[:32]:
        arrays = load(data[32:])
    else:
        features = extractor.extract(torch.from_numpy(pixels).permute(0, 3, 1, 2))[0].numpy()
        moments = metrics.moments(features)
        arrays = {"features": features, "mean": moments.mean, "factor": moments.factor}
        data = save(arrays)
        with new_file(path) as file:
            file.write(hashlib.sha256(data).digest() + data)
    moments = Moments(arrays["mean"], arrays["factor"])
    return Reference(extractor, arrays["features"], moments, resolution, data_sha256, split)


def split_of(classes: str) -> str:
    """What the reference of runs on these classes is called: their own training images."""
    return "train" if classes == "all" else f"train, {classes}"


def score(images: Tensor, references: list[Reference]) -> dict[str, float | None]:
    """Every metric of generated images, uint8 (N, 3, H, W); None where it is not finite.

    Against all real images or the first N, as `Metric.real` says.
    """
    scores: dict[str, float | None] = {}
    for reference in references:
        sample = see(images[: reference.extractor.most], reference)
        seen = np.isfinite(sample.features).all() and np.isfinite(sample.logits).all()
        for name, metric in reference.extractor.metrics.items():
            value = metric.measure(sample) if seen else math.nan
            scores[name] = value if math.isfinite(value) else None
    return scores


def see(images: Tensor, reference: Reference) -> Sample:
    """Generated images, uint8 (N, 3, H, W), beside the real ones, as the network sees them."""
    # Images larger than real ones which the network would enlarge are reduced to their side.
    network, side = reference.extractor, _meeting_side(reference, images.shape[-1])
    if side != images.shape[-1]:
        images = round_to_uint8(resize(images, side))
    features, logits = (x.numpy() for x in network.extract(images))
    return Sample(features, logits, reference.features, reference.moments, network.splits)


def identities(
    reference: Reference, generated: int, resolution: int, batchnorm: str = "running"
) -> dict[str, dict[str, str | int]]:
    """What each metric of so many images is a measure of.

    `batchnorm`: whose statistics G had, "running" (training's averages) or "re-estimated".
    """
    network = reference.extractor
    generated = min(generated, network.most or generated)
    known = len(reference.features)
    real = {"all": known, "as many": min(generated, known), "none": 0}
    described, ending = {}, "" if batchnorm == "running" else REESTIMATED
    for name, metric in network.metrics.items():
        count, detail = real[metric.real], metric.detail.format(splits=network.splits)
        name += ending
        described[name] = {
            "metric": name,
            "network": network.name,
            "network_sha256": network.sha256,
            "generated": generated,
            "reference": count,
            "split": reference.split if count else "none",
            "reference_sha256": reference.sha256 if count else "",
            "resolution": resolution,
            "resizer": _resizer(reference, resolution, count),
            "quantiser": "round to nearest uint8",
            "batchnorm": batchnorm,
            "implementation": metrics.IMPLEMENTATION + detail,
        }
    return described


def rescore(run: FinishedRun, network: Extractor, count: int) -> dict[str, Any]:
    """The scores of `count` new images of a run and their identities; None where not finite."""
    config, images = run.config, None
    with suppress(FloatingPointError):
        images = generate(run.generator(), run.noise("rescore", count))  # which chose no epoch
    real = run.train()
    against = reference(network, real.pixels, real.sha256, run.cache, split_of(config.classes))
    scores = dict.fromkeys(network.metrics) if images is None else score(images, [against])
    about = identities(against, count, config.resolution)
    return {"run": str(run.folder), "epoch": run.epoch, "scores": scores, "identities": about}


def to_text(rows: list[dict[str, Any]]) -> str:
    """What `rescore` gave of each run, for a terminal: the numbers, then what they are."""
    shown = {}
    for row in rows:
        known_as = row["identities"].values()
        notes = [", ".join(f"{key} {x}" for key, x in identity.items()) for identity in known_as]
        about = {"titles": {name: name for name in row["scores"]}, "notes": notes}
        shown[row["run"]] = {"epoch": row["epoch"], "values": row["scores"]} | about
    return finished.to_text(shown)


def _meeting_side(reference: Reference, resolution: int) -> int:
    """Pixels a side at which generated images enter the network's own resizer."""
    enlarged = reference.resolution < reference.extractor.resolution
    return min(resolution, reference.resolution) if enlarged else resolution


def _resizer(reference: Reference, resolution: int, count: int) -> str:
    """How the pixels of both sides, or of one where `count` is 0, got to the network, in words."""
    network, real = reference.extractor, reference.resolution
    side = _meeting_side(reference, resolution)
    steps = [] if side == resolution else [f"antialiased bilinear {resolution} -> {side}, rounded"]
    if side != network.resolution:
        steps.append(f"{network.resizer} {side} -> {network.resolution}")
    if count and real != network.resolution:
        other = "too" if real == side else f"{real} -> {network.resolution}"
        steps.append(f"reference {other}")
    return ", ".join(steps) or "none"
