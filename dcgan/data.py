"""One uint8 array in memory, and its cache; uint8 <-> [-1, 1]; batches. Rules: dcgan.sources.

<cache>/<sha256>-<side>.npy     pixels of one data set at one resolution, and in .json beside it the
                                labels and what else there is to know
<cache>/sources/<key>.json      which data set a source was, so that it is decoded only once
"""

import dataclasses
import errno
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dcgan import shapes as drawing
from dcgan import sources
from dcgan.sources import BadData

SHAPES = 12_000  # images that `load` draws

# Sets that are known by their SHA-256 keep these names, and no other set gets them.
NAMES = {
    "71cf71fbae196ade4d6be17c5e5db9925256c80e0a58a75dd926ae5584398f28": "cifar10",
    "a4aafc27636d8e02226a681bf1c1ec43d460cdfa84d750b31624dc6f5a02babc": "cifar10-test",
}

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@dataclass(frozen=True)
class Images:
    """A data set in memory, in its canonical order: by the SHA-256 of each image."""

    name: str  # [A-Za-z0-9_.-]{1,64}, for people
    kind: str  # cifar10, folder, zip, shapes; or array, where the caller gave the pixels
    pixels: np.ndarray  # (N, H, W, 3) uint8
    labels: np.ndarray  # (N,) int64, -1 where there is none
    sha256: str  # of the pixels, at their native resolution, and the labels, in this order
    lossy: bool = False  # some were stored with loss; see dcgan.sources
    key: str = ""  # of the source's bytes: where the cache looks first


def load(source: str | None, cache: Path) -> Images:
    """The images of a source, from `cache` where they are in it; raises BadData.

    None looks in data/, then tries torchvision's download (kept in `cache`, the only thing written
    here), and ends with shapes: `kind` says which. The word "shapes" asks for those; "./shapes" is
    a folder of that name.
    """
    try:
        kind, path = sources.find(source, cache)
        key = _key(kind, path)

        # A source that was kept before leads to its array, if that is still whole.
        try:
            sha256, side, lossy = json.loads((cache / "sources" / f"{key}.json").read_text())
            images = dataclasses.replace(_open(cache, sha256, side), lossy=lossy)
        except (OSError, ValueError, TypeError, BadData):
            images = read(kind, path) if path else shapes(SHAPES)

        # The name and the kind are those of the place it came from now.
        name = _name(path, images.sha256) if path else "shapes"
        return dataclasses.replace(images, name=name, kind=kind, key=key)
    except OSError as error:
        raise BadData(f"{error.filename or source}: {error.strerror or error}") from error


def keep(images: Images, cache: Path, resolution: int) -> None:
    """Put images into the cache, as they are and at one resolution; `load` finds them again."""
    native = images.pixels.shape[1]
    for side in {native, resolution}:
        try:
            part = dataclasses.replace(images, pixels=_open(cache, images.sha256, side).pixels)
        except BadData:
            part = resize(images, side)
            path = cache / f"{images.sha256}-{side}.npy"
            sources.write_file(path, lambda file, pixels=part.pixels: np.save(file, pixels))
        about = {"name": part.name, "kind": part.kind, "lossy": part.lossy, "sha256": part.sha256}
        about |= {"array": _digest(part.pixels, part.labels), "labels": part.labels.tolist()}
        _write_json(cache / f"{images.sha256}-{side}.json", about)
    if images.key:
        index = cache / "sources" / f"{images.key}.json"
        _write_json(index, [images.sha256, native, images.lossy])


def load_cached(cache: Path, sha256: str, resolution: int) -> Images:
    """What `keep` put into the cache; needs no source, and shares its memory with all who open it.

    Raises BadData where it is missing or damaged; `load` and `keep` mend that.
    """
    return _open(cache, sha256, resolution)


def of_classes(images: Images, classes: str) -> Images:
    """The images of one class, by its number or CIFAR-10's name for it; all of them for `all`.

    In their order, and under the SHA-256 of the whole set. BadData where there are none.
    """
    if classes == "all":
        return images
    named = CIFAR10 if images.sha256 in NAMES else []
    number = named.index(classes) if classes in named else classes
    chosen = images.labels.astype(str) == str(number)
    if not chosen.any():
        raise BadData(f"{images.name}: has no images of classes={classes}")
    return dataclasses.replace(images, pixels=images.pixels[chosen], labels=images.labels[chosen])


def resize(images: Images, resolution: int) -> Images:
    """Antialiased bilinear, rounded to uint8 once; order, labels and SHA-256 stay as they are."""
    side = images.pixels.shape[1]
    if resolution == side:
        return images
    if resolution not in sources.SIDES:
        raise BadData(f"{images.name}: cannot be resized to {resolution} pixels, only to 8 to 1024")
    pixels = np.empty((len(images.pixels), resolution, resolution, 3), np.uint8)
    step = max(1, (1 << 20) // max(side, resolution) ** 2)  # floats for the processor's cache
    for i in range(0, len(pixels), step):
        part = torch.from_numpy(images.pixels[i : i + step]).permute(0, 3, 1, 2).contiguous()
        part = interpolate(part.float(), size=resolution, mode="bilinear", antialias=True)
        pixels[i : i + step] = part.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return dataclasses.replace(images, pixels=pixels)


def to_signed(pixels: Tensor) -> Tensor:
    """uint8 in [0, 255] -> float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """float in [-1, 1] -> uint8, rounded to the nearest level; values outside are clipped."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def signed_batch(pixels: Tensor, index: Tensor) -> Tensor:
    """Rows of uint8 (N, H, W, 3) -> float32 (B, 3, H, W) in [-1, 1], channels last in memory."""
    return to_signed(pixels[index].permute(0, 3, 1, 2))


def shapes(count: int) -> Images:
    """Labelled 32x32 images of ten classes, drawn by the code."""
    return canonical("shapes", *drawing.draw(count), kind="shapes")


def read(kind: str, path: Path) -> Images:
    """Decode what lies at a path: `cifar10`, `folder` or `zip`; raises BadData."""
    readers = {"cifar10": sources.read_cifar10, "folder": sources.read_folder}
    pixels, labels, lossy = readers.get(kind, sources.read_zip)(path)
    return canonical(path.stem, pixels, labels, kind, lossy)


def canonical(
    name: str, pixels: np.ndarray, labels: np.ndarray, kind: str = "array", lossy: bool = False
) -> Images:
    """Sort by content, so that one data set is one array however it was stored.

    The first n images are therefore a random subset, the same whatever the source.
    """
    keys = [hashlib.sha256(image.tobytes()).digest() for image in pixels]
    order = np.array(sorted(range(len(keys)), key=lambda i: (keys[i], labels[i])), dtype=np.int64)
    pixels, labels = np.ascontiguousarray(pixels[order]), labels[order].astype(np.int64)
    return Images(name, kind, pixels, labels, _digest(pixels, labels), lossy)


def _digest(pixels: np.ndarray, labels: np.ndarray) -> str:
    digest = hashlib.sha256(str(pixels.shape).encode())
    digest.update(pixels)
    digest.update(labels)
    return digest.hexdigest()


def _name(path: Path, sha256: str) -> str:
    """A known set's own name; otherwise the path's, in the letters that a run's folder may have."""
    if sha256 in NAMES:
        return NAMES[sha256]
    stem = path.resolve().name if path.is_dir() else path.stem
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", stem)[:64].strip("-.") or "images"
    return f"{name}-{sha256[:8]}" if name in {"shapes", *NAMES.values()} else name


def _key(kind: str, path: Path | None) -> str:
    """The source's bytes and the code that reads them: new rules, or new drawings, decode anew."""
    code = b"".join(Path(module.__file__).read_bytes() for module in (sources, drawing))
    content = sources.content_hash(kind, path) if path else kind
    return hashlib.sha256(code + content.encode()).hexdigest()


def _open(cache: Path, sha256: str, side: int) -> Images:
    """Map one array of the cache into memory and check it; raises BadData."""
    path = cache / f"{sha256}-{side}.npy"
    try:
        about = json.loads(path.with_suffix(".json").read_text())
        # Pages are shared, writes stay in this process; np.load would also open other formats.
        pixels = np.lib.format.open_memmap(path, mode="c")
        labels = np.array(about["labels"], dtype=np.int64)
        images = Images(about["name"], about["kind"], pixels, labels, sha256, about["lossy"])
        whole = about["sha256"] == sha256 and about["array"] == _digest(pixels, labels)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            raise  # which says nothing about the file
        raise BadData(f"{path}: not in the cache; start again from the source") from error
    if not whole:
        raise BadData(f"{path}: damaged; start again from the source")
    return images


def _write_json(path: Path, value: object) -> None:
    sources.write_file(path, lambda file: file.write(json.dumps(value).encode()))
