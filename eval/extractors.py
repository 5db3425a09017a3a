"""Feature networks: the bundled CIFAR-10 classifier, and Inception 2015-12-05."""

import hashlib
import http.client
import io
import json
import os
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import Tensor

from eval.classifier import FEATURES, NAME, Classifier

WEIGHTS = Path(__file__).parent / "weights"  # the classifier's, committed with its card
SIDE = 32  # pixels, what the classifier was trained on
INCEPTION = "inception-2015-12-05"
# The file of torch-fidelity's release v0.2.0, converted from the TensorFlow graph of that date.
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_FILES = (  # as torch-fidelity and pytorch-fid name it
    "weights-inception-2015-12-05-6726825d.pth",
    "pt_inception-2015-12-05-6726825d.pth",
)
BATCH = 100  # images in one pass of a network
PATIENCE = 10  # seconds until a server has to answer


class NoWeights(Exception):
    """A network's weights are not to be had, said in one line."""


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
    try:
        card = json.loads((folder / f"{NAME}.json").read_bytes())
    except (OSError, ValueError) as error:
        raise NoWeights(f"{folder / f'{NAME}.json'}: {_reason(error)}") from error
    weights = _read(folder / f"{NAME}.safetensors", card["sha256"])

    # Built without weights, so that nothing is drawn from the global generator.
    with torch.device("meta"):
        net = Classifier()
    net.load_state_dict(load(weights), assign=True)
    net.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)

    def forward(images: Tensor) -> tuple[Tensor, Tensor]:
        return net(resize(images, SIDE))

    extract = _in_batches(forward, device)
    resizer = "antialiased bilinear"
    return Extractor(NAME, card["sha256"], FEATURES, SIDE, resizer, "_cifar", device, extract)


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
    weights = _find_inception(path, cache, sha256)
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


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is either absent or whole, whoever else writes the same one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    staged.write_bytes(data)
    staged.replace(path)


def _in_batches(
    forward: Callable[[Tensor], tuple[Tensor, Tensor]], device: str
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A pass of a network over any number of images."""

    @torch.no_grad()
    def extract(images: Tensor) -> tuple[Tensor, Tensor]:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"images are uint8 (N, 3, H, W), not {images.dtype} {tuple(images.shape)}"
            )
        outputs = [forward(part.contiguous().to(device)) for part in images.split(BATCH)]
        features, logits = (torch.cat(parts).float().cpu() for parts in zip(*outputs, strict=True))
        return features, logits

    return extract


def _find_inception(path: Path | None, cache: Path | None, sha256: str) -> bytes:
    # A file that the user names is the one, or it is an error.
    named = path or os.environ.get("INCEPTION_WEIGHTS")
    if named:
        return _read(Path(named), sha256)

    # Otherwise the first place that has it.
    tried = []
    places = [cache / INCEPTION_FILES[0]] if cache else []
    places += [Path(torch.hub.get_dir()) / "checkpoints" / name for name in INCEPTION_FILES]
    for place in places:
        try:
            return _read(place, sha256)
        except NoWeights as error:
            tried.append(str(error))
    if cache:
        try:
            return _download(places[0], sha256)
        except NoWeights as error:
            tried.append(str(error))
    raise NoWeights(f"no Inception weights: INCEPTION_WEIGHTS is not set; {'; '.join(tried)}")


def _download(target: Path, sha256: str) -> bytes:
    """Fetch torch-fidelity's file and keep it, if it is the right one."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3 as URL

    try:
        with urllib.request.urlopen(URL, timeout=PATIENCE) as answer:
            data = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise NoWeights(f"{URL}: {_reason(error)}") from error
    _check(data, sha256, URL)
    write_whole(target, data)
    return data


def _read(path: Path, sha256: str) -> bytes:
    """The bytes of a file, once their hash is the expected one."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NoWeights(f"{path}: {_reason(error)}") from error
    _check(data, sha256, str(path))
    return data


def _check(data: bytes, sha256: str, name: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise NoWeights(f"{name}: its SHA-256 is {found[:12]}..., not {sha256[:12]}...")


def _reason(error: Exception) -> str:
    """What went wrong, in a few words on one line."""
    cause = getattr(error, "strerror", None) or getattr(error, "reason", None) or error
    return " ".join(str(cause).split()) or type(error).__name__
