"""Feature networks: the bundled CIFAR-10 classifier, and Inception 2015-12-05."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from dcgan.models import fill
from dcgan.train import products
from eval.classifier import FEATURES, NAME, Classifier, folded
from eval.fetch import INCEPTION_SHA256, NoWeights, find_inception, read_hashed, reason

WEIGHTS = Path(__file__).parent / "weights"  # the classifier's, committed with its card
SIDE = 32  # pixels, what the classifier was trained on
INCEPTION = "inception-2015-12-05"
BATCH = 100  # images in one pass of a network


@dataclass(frozen=True)
class Extractor:
    """A feature network, and all that the identity of its numbers needs."""

    name: str
    sha256: str  # of the weights file
    features: int
    resolution: int  # pixels a side that the network sees
    resizer: str  # how images of other sides get there
    suffix: str  # of its metrics' names; "" only for Inception with the published weights
    device: str
    # uint8 images (N, 3, H, W) -> features (N, features), logits (N, classes), float32 on the CPU
    extract: Callable[[Tensor], tuple[Tensor, Tensor]]


def classifier(device: str = "cpu", folder: Path = WEIGHTS) -> Extractor:
    """The bundled CIFAR-10 classifier; raises NoWeights where a file is not what its card says."""
    card, path = folder / f"{NAME}.json", folder / f"{NAME}.safetensors"
    try:
        sha256 = str(json.loads(card.read_bytes())["sha256"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise NoWeights(f"{card}: {reason(error)}") from error
    weights = read_hashed(path, sha256)

    # Built without weights, so that nothing is drawn from the global generator.
    with torch.device("meta"):
        net = Classifier()
    try:
        fill(net, load(weights))
    except (SafetensorError, ValueError) as error:
        raise NoWeights(f"{path}: {reason(error)}") from error
    net = folded(net.eval()).requires_grad_(False)
    net.to(device, memory_format=torch.channels_last)

    def forward(images: Tensor) -> tuple[Tensor, Tensor]:
        return net(resize(images, SIDE))

    extract = _in_batches(forward, device)
    resizer = "antialiased bilinear"
    return Extractor(NAME, sha256, FEATURES, SIDE, resizer, "_cifar", device, extract)


def inception(
    path: Path | None = None,
    device: str = "cpu",
    *,
    cache: Path | None = None,
    sha256: str = INCEPTION_SHA256,
) -> Extractor:
    """Inception 2015-12-05 as torch-fidelity builds it: pooled features and logits without bias.

    The weights: the file at `path` or at INCEPTION_WEIGHTS, if one is named; else from `cache` or
    torch hub's folder; else downloaded into `cache`, if there is one. Raises NoWeights. Other
    weights than the published ones need their `sha256`, and their metrics another name.
    """
    weights = find_inception(path, cache, sha256)
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # torch-fidelity unpickles what it is given: give it a file of our own with the same tensors.
    ours = io.BytesIO()
    torch.save(torch.load(io.BytesIO(weights), weights_only=True), ours)
    ours.seek(0)
    with torch.random.fork_rng(devices=[]):
        net = FeatureExtractorInceptionV3(
            INCEPTION, ["2048", "logits_unbiased"], feature_extractor_weights_path=ours
        ).to(device)

    extract = _in_batches(net, device)
    suffix = "" if sha256 == INCEPTION_SHA256 else "_unpublished"
    side, resizer = FeatureExtractorInceptionV3.INPUT_IMAGE_SIZE, "TensorFlow 1 bilinear"
    return Extractor(INCEPTION, sha256, 2048, side, resizer, suffix, device, extract)


def resize(images: Tensor, side: int) -> Tensor:
    """Images (N, 3, H, W) to side x side by antialiased bilinear interpolation, not rounded."""
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True)


def _in_batches(
    forward: Callable[[Tensor], tuple[Tensor, Tensor]], device: str
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A pass of a network over any number of images, in float32 whatever the process trains in."""

    @torch.no_grad()
    @products("fp32")
    def extract(images: Tensor) -> tuple[Tensor, Tensor]:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"images are uint8 (N, 3, H, W), not {images.dtype} {tuple(images.shape)}"
            )
        outputs = [forward(part.contiguous().to(device)) for part in images.split(BATCH)]
        features, logits = (torch.cat(parts).float().cpu() for parts in zip(*outputs, strict=True))
        return features, logits

    return extract
