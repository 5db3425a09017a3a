"""From generators and real images to numbers, each of which has an identity."""

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

from dcgan.data import to_uint8
from dcgan.sources import write_file
from dcgan.train import products
from eval import metrics
from eval.extractors import Extractor, resize
from eval.metrics import Moments

BATCH = 500  # images that the generator makes at a time
NEIGHBOUR = 5  # k of precision, recall, density and coverage
SPLITS = 10  # of the Inception score, by convention


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
        features, logits = (x.numpy() for x in each.extractor.extract(at_side(images, each)))
        nearby = each.features[: len(features)]
        distance = metrics.frechet_distance(metrics.moments(features), each.moments)
        mean, _ = metrics.score(logits, _splits(each.extractor))
        kernel = metrics.kid(features, nearby)
        values = [distance, mean, kernel]
        if each.extractor.suffix:
            values += metrics.prdc(nearby, features, NEIGHBOUR).values()
        scores |= zip(names(each.extractor), values, strict=True)
    return {name: value if math.isfinite(value) else None for name, value in scores.items()}


def names(extractor: Extractor) -> list[str]:
    """The metrics that a network gives: *FID*, *IS* and *KID* are reserved to published weights."""
    if not extractor.suffix:
        return ["fid", "is", "kid"]
    stems = ["fd", "cs", "kd", "precision", "recall", "density", "coverage"]
    return [stem + extractor.suffix for stem in stems]


def identities(
    reference: Reference, generated: int, resolution: int
) -> dict[str, dict[str, str | int]]:
    """What each metric of `generated` images of `resolution` pixels a side is a measure of."""
    network = reference.extractor
    nearby = min(generated, reference.count)
    distance, diversity, *neighbours = names(network)
    details = {distance: (reference.count, ""), diversity: (0, f", splits = {_splits(network)}")}
    for name in neighbours:
        details[name] = nearby, "" if name.startswith("k") else f", k = {NEIGHBOUR}"
    return {
        name: {
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
            "batchnorm": "running",
            "implementation": metrics.IMPLEMENTATION + detail,
        }
        for name, (count, detail) in details.items()
    }


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
