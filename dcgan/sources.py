"""Where images come from, and what is read of them. Refusals are one line with the name (BadInput).

source   CIFAR-10 by its name or as torchvision's folder or archive (its pickles are opened after
         the MD5 check only), a folder of images, a zip of images, or "shapes"
files    .png .bmp .webp .jpg .jpeg .jpe .jfif, read by the rules of dcgan.pictures; all others and
         hidden ones are left out, by name
folders  linked ones are followed; a folder that is reached twice is refused. Of train/ beside test/
         (or val/) only train/ is read
labels   of NVlabs' dataset.json, where there is one; else the first folder below the root is the
         class, as in torchvision's ImageFolder. A folder that everything lies in is the root. -1
         for an image outside of any folder, and for all where dataset.json says null
zip      a backslash in a name is a slash; no name is there twice. Nothing is unpacked, and every
         damaged byte of an image is refused: a zip has a checksum of each file
"""

import hashlib
import http.client
import io
import os
import shutil
import tarfile
import tempfile
import urllib.request
import uuid
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from dcgan.cli import BadInput, one_line
from dcgan.config import fault
from dcgan.pictures import ENDINGS, error_context

HELD_OUT = {"test", "val", "valid", "validation"}  # folders beside train/
ARCHIVE, TREE = "cifar-10-python.tar.gz", "cifar-10-batches-py"
URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
MD5 = "c58f30108f718f92721af3b95e74349a"  # of the archive, as torchvision has it too
ANSWER_SECONDS = 10  # for each wait of the download

Source = str | Path | None  # what a user says of images


class DatasetJson(BaseModel):
    """NVlabs' dataset.json."""

    labels: list[tuple[str, Annotated[int, Field(ge=0, lt=1 << 31, strict=True)]]] | None


class NoCifar10(BadInput):
    """CIFAR-10 is neither here nor can be downloaded."""


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder or a zip, none of which is decoded yet."""

    names: list[str]  # in the source, sorted
    labels: np.ndarray  # (N,) int64, -1 where there is none
    labels_from: str  # "folders", "folders of train/", "dataset.json"; "" where there are no labels
    left_out: list[str]  # files that are not read
    read: Callable[[str], bytes]  # a picture by its name


def find(source: Source, downloads: Path) -> tuple[str, Path | None]:
    """The kind of a source (cifar10, folder, zip, shapes), and where it lies.

    None is what lies in data/, or else cifar10: torchvision's folder or archive in data/ or
    `downloads`, where it is downloaded to otherwise. "./shapes" is a folder.
    Raises BadInput, or NoCifar10.
    """
    if source == "shapes":
        return "shapes", None
    if source is None and (known := _identify(Path("data"))):
        return known
    if source is None or (source == "cifar10" and not Path(source).exists()):
        if here := _find_cifar10(Path("data")) or _find_cifar10(downloads):
            return "cifar10", here
        try:
            download(URL, downloads / ARCHIVE, "md5", MD5)
        except BadInput as error:
            raise NoCifar10(f"CIFAR-10 is not in data/, and {error}") from error
        return "cifar10", downloads / ARCHIVE

    path = Path(os.path.expanduser(source))
    if not path.exists():
        raise BadInput(f"{path}: no such file or folder")
    if known := _identify(path):
        return known
    pictures = f"a folder of images ({' '.join(ENDINGS)})"
    raise BadInput(f"{path}: neither {pictures}, nor a zip of one, nor {ARCHIVE}")


def _identify(path: Path) -> tuple[str, Path] | None:
    if path.is_file():
        if path.suffix.lower() == ".zip" or zipfile.is_zipfile(path):
            return "zip", path
        return ("cifar10", path) if path.name.lower().endswith((".tar.gz", ".tgz")) else None
    if not path.is_dir():
        return None

    # In a folder, CIFAR-10 comes before images, and images before a zip of them.
    if cifar10 := _find_cifar10(path):
        return "cifar10", cifar10
    if any(map(_is_picture, _walk(path))):
        return "folder", path
    zips = sorted(path.glob("*.zip"))
    if len(zips) > 1:
        raise BadInput(f"{path}: holds {len(zips)} zips, name one of them, such as {zips[0]}")
    return ("zip", zips[0]) if zips else None


def _find_cifar10(folder: Path) -> Path | None:
    """torchvision's tree or archive in a folder, which may be the tree itself."""
    for tree in (folder, folder / TREE):
        if (tree / "data_batch_1").is_file():
            return tree
    return folder / ARCHIVE if (folder / ARCHIVE).is_file() else None


@contextmanager
def opened(kind: str, path: Path | None) -> Iterator[Listing | None]:
    """List a folder or a zip, and read from it; None for the other kinds. Raises BadInput."""
    if kind == "folder":
        yield _list(path, [*_walk(path)], lambda name: (path / name).read_bytes())
    elif kind == "zip":
        try:
            with zipfile.ZipFile(path) as archive:
                files = [x for x in archive.infolist() if not x.filename.endswith("/")]
                entries = {entry.filename.replace("\\", "/"): entry for entry in files}
                if len(entries) < len(files):
                    raise BadInput(f"{path}: {len(files) - len(entries)} names are there twice")
                yield _list(path, [*entries], lambda name: archive.read(entries[name]))
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise BadInput(f"{path}: not a whole zip: {error}") from error
    else:
        yield None


def _walk(root: Path) -> Iterator[str]:
    """Every file below a folder, by its path from there."""

    def refuse(error: OSError) -> None:
        raise error

    seen = set()
    for here, folders, files in os.walk(root, followlinks=True, onerror=refuse):
        if (real := os.path.realpath(here)) in seen:
            raise BadInput(f"{here}: a link to a folder that is read already")
        seen.add(real)
        folders.sort()
        below = Path(here).relative_to(root)
        yield from ((below / name).as_posix() for name in files)


def _is_picture(name: str) -> bool:
    """By its ending; what is hidden or has an absolute path is none."""
    hidden = any(part.startswith(".") or part in ("", "__MACOSX") for part in name.split("/"))
    return name.lower().endswith(ENDINGS) and not hidden


def _list(source: Path, files: list[str], read: Callable[[str], bytes]) -> Listing:
    """Tell pictures from other files, and find their labels; raises BadInput."""
    names = sorted(filter(_is_picture, files))
    if not names:
        raise BadInput(f"{source}: no images in it ({' '.join(ENDINGS)})")

    # dataset.json goes before folders, and of train/ beside test/ only train/ is read.
    root, labelled = "", _find_dataset_json(files, names)
    if not labelled:
        root = _class_root(names)
        names = [name for name in names if name.startswith(root)]
        labelled = _find_dataset_json(files, names)
    if labelled:
        labels, labels_from = _listed_labels(source, labelled, names, read), "dataset.json"
    else:
        firsts = [name[len(root) :].rpartition("/")[0].partition("/")[0] for name in names]
        classes = {folder: i for i, folder in enumerate(sorted({*firsts} - {""}))}
        labels = np.array([classes.get(folder, -1) for folder in firsts], dtype=np.int64)
        labels_from = f"folders of {root}" if root else "folders"
    left_out = sorted({*files} - {*names, labelled})
    return Listing(names, labels, labels_from if labels.max() >= 0 else "", left_out, read)


def _find_dataset_json(files: list[str], names: list[str]) -> str:
    """The outermost dataset.json of a folder that all pictures lie in; "" where there is none."""
    for name in sorted(files, key=len):
        folder, slash, file = name.rpartition("/")
        if file == "dataset.json" and all(x.startswith(folder + slash) for x in names):
            return name
    return ""


def _class_root(names: list[str]) -> str:
    """The folder, "" or "name/", whose folders are the classes."""
    root, parts = "", [name.split("/") for name in names]
    while len({part[0] for part in parts}) == 1 and min(map(len, parts)) > 2:
        root += f"{parts[0][0]}/"
        parts = [part[1:] for part in parts]
    folders = {part[0].lower(): part[0] for part in parts if len(part) > 1}
    if "train" in folders and folders.keys() & HELD_OUT:
        root += f"{folders['train']}/"
    return root


def _listed_labels(
    source: Path, file: str, names: list[str], read: Callable[[str], bytes]
) -> np.ndarray:
    """The labels of {"labels": [["img.png", 3], ...]}, whose names begin beside the file."""
    root = file.removesuffix("dataset.json")
    with error_context(file, source):
        try:
            pairs = DatasetJson.model_validate_json(read(file)).labels
        except ValidationError as error:
            raise BadInput(fault(error)) from error
        if pairs is None:
            return np.full(len(names), -1)
        listed = {root + name.replace("\\", "/"): label for name, label in pairs}
        if len(listed) < len(pairs):
            raise BadInput(f"{len(pairs) - len(listed)} images are named twice")
        for name in sorted(listed.keys() ^ {*names}):
            raise BadInput(f"{name!r} {'has no label' if name in names else 'is no image there'}")
    return np.array([listed[name] for name in names], dtype=np.int64)


def read_cifar10(path: Path, split: str = "train") -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 32, 32, 3) uint8 and labels of torchvision's tree or archive; raises BadInput."""
    # torchvision compares files with their MD5s before it opens any: a pickle runs what it holds.
    from torchvision.datasets import CIFAR10  # about a second, and only needed here
    from torchvision.datasets.utils import check_integrity

    with tempfile.TemporaryDirectory() as scratch_dir:
        if path.is_dir():
            Path(scratch_dir, TREE).symlink_to(path.absolute())
        elif check_integrity(path, MD5):
            with tarfile.open(path) as archive:
                archive.extractall(scratch_dir, filter="data")
        try:
            with warnings.catch_warnings(action="ignore"):  # an old numpy wrote them
                images = CIFAR10(scratch_dir, train=split == "train")
        except RuntimeError as error:
            raise BadInput(f"{path}: not torchvision's CIFAR-10, by its MD5s") from error
    return images.data, np.array(images.targets)


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """A file, and the folders above it, that appear once the block has written all of it."""
    above = next(folder for folder in path.absolute().parents if folder.exists())
    staged = above / f".{path.name}.{uuid.uuid4().hex}"
    try:
        with open(staged, "wb") as file:
            yield file
        path.parent.mkdir(parents=True, exist_ok=True)
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def download(url: str, target: Path, algorithm: str, expected: str) -> None:
    """Fetch a file whose hash is known, with its progress on stderr; raises BadInput."""
    from rich.console import Console
    from rich.progress import wrap_file

    console, data = Console(stderr=True, highlight=False), io.BytesIO()
    console.print(f"{target.name} is fetched from {url}", markup=False, soft_wrap=True)
    request = urllib.request.Request(url, headers={"User-Agent": "Mozilla/5.0"})
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as response:
            size = int(response.headers.get("Content-Length") or 0)
            with wrap_file(response, size, description="download", console=console) as reader:
                shutil.copyfileobj(reader, data)
        actual = hashlib.new(algorithm, data.getbuffer(), usedforsecurity=False).hexdigest()
        if actual != expected:
            raise ValueError(f"its {algorithm} is {actual}, not {expected}")
        with new_file(target) as file:
            file.write(data.getbuffer())
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = one_line(getattr(error, "reason", error))
        raise BadInput(f"{target.name} cannot be fetched from {url}: {reason}") from error
