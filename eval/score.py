"""From generators and real images to numbers, each of which has an identity."""

import copy
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors.numpy import save
from torch import Tensor, nn

from dcgan.config import Config
from dcgan.data import to_uint8
from dcgan.sources import write_file
from dcgan.train import draw_latent, products
from eval import metrics
from eval.extractors import Extractor, resize
from eval.metrics import Moments

BATCH = 500  # images that the generator makes at a time
NEIGHBOUR = 5  # k of precision, recall, density and coverage
SPLITS = 10  # of the Inception score, by convention
REESTIMATED = "_reestimated"  # end of a score's name whose images G made so, see `reestimated`
BATCHNORM = {  # where the statistics of G's BatchNorm come from when it makes images
    "running": "averages that training kept, which lag behind the weights",
    "batch": "each batch's own, as in training",
    "re-estimated": "averages over new noise, at these weights",
}


@dataclass(frozen=True)
class Reference:
    """The features of the real images that generated ones are compared with."""

    extractor: Extractor
    features: np.ndarray  # (count, D) float32, in the canonical order of the images
    moments: Moments
    count: int
    resolution: int  # pixels a side of the real images
    sha256: str  # of the data set
    split: str


def generate(generator: nn.Module, z: Tensor) -> Tensor:
    """Images of z (N, latent_size) on the generator's device: uint8 (N, 3, H, W) on the CPU.

    In eval mode, so with BatchNorm's running statistics, and in float32, whatever the training is
    in; every module's mode is put back, and neither buffers nor random streams are touched.
    FloatingPointError where an image is not finite.
    """
    modes = {module: module.training for module in generator.modules()}
    generator.eval()
    images = []
    try:
        with torch.no_grad(), products("fp32"):
            for part in z.split(BATCH):
                signed = generator(part)
                if not signed.isfinite().all():
                    raise FloatingPointError("the generator's images are not finite")
                images.append(to_uint8(signed).cpu())
    finally:
        for module, training in modes.items():
            module.training = training
    return torch.cat(images)


def reestimated(G: nn.Module, config: Config, count: int) -> nn.Module:
    """A copy of G whose BatchNorm has plain averages over at least `count` images of new noise.

    They are taken over whole batches of the training's size, and over ten of these at least.
    """
    G, device = copy.deepcopy(G), next(G.parameters()).device
    for layer in G.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # each batch counts alike
    G.train()
    z = draw_latent(config, "statistics", 0, max(-(-count // config.batch), 10) * config.batch)
    with torch.no_grad(), products("fp32"):
        for part in z.split(config.batch):
            G(part.to(device))
    return G.eval()


def reference(
    extractor: Extractor, pixels: np.ndarray, data_sha256: str, cache: Path, split: str = "train"
) -> Reference:
    """The features of real images (N, H, W, 3) uint8, computed once and kept in `cache`.

    The cached file is named after all that its content depends on: the images themselves, the
    network, and the machine's arithmetic. A damaged file is made again.
    """
    count, resolution = pixels.shape[:2]
    content = hashlib.sha256(np.ascontiguousarray(pixels)).hexdigest()
    key = [
        extractor.sha256,
        content,
        count,
        resolution,
        metrics.IMPLEMENTATION,
        *_arithmetic(extractor),
    ]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    path = cache / f"{extractor.name}-{digest[:32]}.safetensors"

    arrays = _load(path)
    if arrays is None:
        features = extractor.extract(torch.from_numpy(pixels).permute(0, 3, 1, 2))[0].numpy()
        moments = metrics.moments(features)
        arrays = {"features": features, "mean": moments.mean, "factor": moments.factor}
        content = save(arrays, {"sha256": _digest(arrays)})
        write_file(path, lambda file: file.write(content))
    moments = Moments(arrays["mean"], arrays["factor"])
    return Reference(extractor, arrays["features"], moments, count, resolution, data_sha256, split)


def split_of(classes: str) -> str:
    """What the reference of runs on these classes is called: their own training images."""
    return "train" if classes == "all" else f"train, {classes}"


def score(images: Tensor, references: list[Reference]) -> dict[str, float | None]:
    """Every metric of generated images, uint8 (N, 3, H, W); None where it is not finite.

    The Fréchet distance uses the whole reference; the kernel distance and the neighbours use its
    first N images. ValueError where there are too few images for a metric.
    """
    scores: dict[str, float] = {}
    for each in references:
        network = each.extractor
        seen = at_side(images[: network.most], each)
        features, logits = (x.numpy() for x in network.extract(seen))
        nearby = each.features[: len(features)]
        named, values = _named(network), dict[str, float]()
        if "fd" in named:
            values["fd"] = metrics.frechet_distance(metrics.moments(features), each.moments)
        if "cs" in named:
            values["cs"] = metrics.score(logits, _splits(network))[0]
        if "kd" in named:
            values["kd"] = metrics.kid(features, nearby)
        if "precision" in named:
            values |= metrics.prdc(nearby, features, NEIGHBOUR)
        scores |= {named[stem]: value for stem, value in values.items()}
    return {name: value if math.isfinite(value) else None for name, value in scores.items()}


def names(network: Extractor) -> list[str]:
    """The metrics that a network gives."""
    return list(_named(network).values())


def _named(network: Extractor) -> dict[str, str]:
    """Stem -> metric; *FID*, *IS* and *KID* are reserved to Inception's published weights."""
    if not network.suffix:
        return {"fd": "fid", "cs": "is", "kd": "kid"}
    return {stem: stem + network.suffix for stem in network.stems}


def identities(
    reference: Reference, generated: int, resolution: int, batchnorm: str = "running"
) -> dict[str, dict[str, str | int]]:
    """What each metric of `generated` images of `resolution` pixels a side is a measure of.

    `batchnorm`: where the statistics of G's BatchNorm come from, a key of BATCHNORM.
    """
    network = reference.extractor
    generated = min(generated, network.most or generated)
    nearby = min(generated, reference.count)
    found = {}
    for stem, metric in _named(network).items():
        count, detail = nearby, f", k = {NEIGHBOUR}"
        if stem == "fd":
            count, detail = reference.count, ""
        elif stem == "cs":
            count, detail = 0, f", splits = {_splits(network)}"
        elif stem == "kd":
            detail = ""
        metric += "" if batchnorm == "running" else REESTIMATED
        found[metric] = {
            "metric": metric,
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
    return found


def _splits(extractor: Extractor) -> int:
    return 1 if extractor.suffix else SPLITS


def at_side(images: Tensor, reference: Reference) -> Tensor:
    """Reduce images that are larger than real ones which the network would enlarge."""
    side = _meeting_side(reference, images.shape[-1])
    if side == images.shape[-1]:
        return images
    return resize(images, side).round().clamp(0, 255).to(torch.uint8)


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
        steps.append(
            "reference too" if real == side else f"reference {real} -> {network.resolution}"
        )
    return ", ".join(steps) or "none"


def _arithmetic(extractor: Extractor) -> list[str | int]:
    """What the last bits of a feature depend on beside the image and the weights."""
    capability = torch.backends.cpu.get_cpu_capability()
    device = extractor.device
    if device.startswith("cuda"):
        device = torch.cuda.get_device_name(device)
    return [torch.__version__, device, capability, torch.get_num_threads()]


def _load(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a cached file, if it is there and whole."""
    try:
        with safetensors.safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}
            whole = (file.metadata() or {}).get("sha256") == _digest(arrays)
    except (OSError, safetensors.SafetensorError):
        return None
    return arrays if whole else None


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]))
    return digest.hexdigest()
