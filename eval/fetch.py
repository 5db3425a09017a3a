"""Files of weights: where they lie, how Inception's is fetched, and their hash. Knows no torch."""

import hashlib
import http.client
import os
import urllib.request
from pathlib import Path

from dcgan.cli import BadInput, one_line
from dcgan.sources import new_file

# The file of torch-fidelity's release v0.2.0, converted from the TensorFlow graph of 2015-12-05.
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_FILES = (  # as torch-fidelity and pytorch-fid name it
    "weights-inception-2015-12-05-6726825d.pth",
    "pt_inception-2015-12-05-6726825d.pth",
)
TIMEOUT = 10  # seconds until a server has to answer


class NoWeights(BadInput):
    """A network's weights are not to be had, said in one line."""


def find_inception(path: Path | None = None, cache: Path | None = None) -> bytes:
    """Inception's weights, hashed and not opened; raises NoWeights.

    The file at `path` or at INCEPTION_WEIGHTS, if one is named; else from `cache` or torch hub's
    folder; else downloaded into `cache`, if there is one.
    """
    if path:
        return read_hashed(path, INCEPTION_SHA256)
    if named := os.environ.get("INCEPTION_WEIGHTS"):
        return read_hashed(Path(named), INCEPTION_SHA256, "INCEPTION_WEIGHTS=")

    home = Path(os.environ.get("TORCH_HOME", "~/.cache/torch")).expanduser()
    files = [home / "hub/checkpoints" / name for name in INCEPTION_FILES]
    if cache:
        files.insert(0, cache / INCEPTION_FILES[0])
    for file in files:
        if file.exists():
            return read_hashed(file, INCEPTION_SHA256)
    if cache:
        return _download(files[0])
    absent = f"there is no {' or '.join(map(str, files))}"
    raise NoWeights(f"no Inception weights: INCEPTION_WEIGHTS is not set, and {absent}")


def read_hashed(path: Path, sha256: str, setting: str = "") -> bytes:
    """The bytes of a file, once their hash is the expected one; raises NoWeights.

    `setting`: what named the file.
    """
    try:
        return _checked(path.read_bytes(), sha256, f"{setting}{path}")
    except OSError as error:
        raise NoWeights(f"{setting}{path}: {error.strerror}") from error


def _download(target: Path) -> bytes:
    """Fetch torch-fidelity's file and keep it, if it is the right one."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3 as URL

    try:
        with urllib.request.urlopen(URL, timeout=TIMEOUT) as answer:
            data = _checked(answer.read(), INCEPTION_SHA256, URL)
    except (OSError, http.client.HTTPException) as error:
        raise NoWeights(f"INCEPTION_WEIGHTS is not set, and {URL}: {one_line(error)}") from error
    with new_file(target) as file:
        file.write(data)
    return data


def _checked(data: bytes, sha256: str, name: str) -> bytes:
    actual = hashlib.sha256(data).hexdigest()
    if actual != sha256:
        raise NoWeights(f"{name}: its SHA-256 is {actual[:12]}..., not {sha256[:12]}...")
    return data
