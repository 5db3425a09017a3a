"""Files of weights: where they lie, how Inception's is fetched, and their hash. Knows no torch."""

import hashlib
import os
from pathlib import Path

from dcgan.cli import BadInput
from dcgan.sources import download

# The file of torch-fidelity's release v0.2.0, converted from the TensorFlow graph of 2015-12-05.
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_FILES = (  # as torch-fidelity and pytorch-fid name it
    "weights-inception-2015-12-05-6726825d.pth",
    "pt_inception-2015-12-05-6726825d.pth",
)


class NoWeights(BadInput):
    """A network's weights are not to be had, said in one line."""


def find_inception(path: Path | None, cache: Path) -> bytes:
    """Inception's weights, hashed and not opened; raises NoWeights.

    The file at `path` or at INCEPTION_WEIGHTS, if one is named; else from `cache` or torch hub's
    folder; else downloaded into `cache`.
    """
    if path:
        return read_hashed(path, INCEPTION_SHA256)
    if named := os.environ.get("INCEPTION_WEIGHTS"):
        return read_hashed(Path(named), INCEPTION_SHA256, "INCEPTION_WEIGHTS=")

    home = Path(os.environ.get("TORCH_HOME", "~/.cache/torch")).expanduser()
    cached = cache / INCEPTION_FILES[0]
    for file in (cached, *(home / "hub/checkpoints" / name for name in INCEPTION_FILES)):
        if file.exists():
            return read_hashed(file, INCEPTION_SHA256)

    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    try:
        download(URL_INCEPTION_V3, cached, "sha256", INCEPTION_SHA256)
    except BadInput as error:
        raise NoWeights(f"INCEPTION_WEIGHTS is not set, and {error}") from error
    return cached.read_bytes()


def read_hashed(path: Path, sha256: str, setting: str = "") -> bytes:
    """The bytes of a file that `setting` named, if they have this hash; raises NoWeights."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NoWeights(f"{setting}{path}: {error.strerror}") from error
    actual = hashlib.sha256(data).hexdigest()
    if actual != sha256:
        raise NoWeights(f"{setting}{path}: its SHA-256 is {actual[:12]}..., not {sha256[:12]}...")
    return data
