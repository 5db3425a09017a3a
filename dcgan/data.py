"""One uint8 array, mapped from its cache; uint8 <-> [-1, 1]; batches. Rules: dcgan.sources.

<cache>/<sha256>-<side>.npy     pixels of one data set at one resolution, and in .json beside it the
                                labels and what else there is to know
<cache>/sources/<key>.json      which data set a source was, so that it is decoded only once
"""

import dataclasses
import errno
import hashlib
import json
import mmap
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dcgan import shapes as drawing
from dcgan import sources
from dcgan.sources import BadData, Stored

SHAPES = 12_000  # images that `load` draws
AT_ONCE = 1 << 20  # pixels, where the images pass through memory: what a processor's cache holds

# Sets that are known by their SHA-256 keep these names, and no other set gets them.
NAMES = {
    "71cf71fbae196ade4d6be17c5e5db9925256c80e0a58a75dd926ae5584398f28": "cifar10",
    "a4aafc27636d8e02226a681bf1c1ec43d460cdfa84d750b31624dc6f5a02babc": "cifar10-test",
}

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@dataclass(frozen=True)
class Images:
    """A data set in its canonical order: by the SHA-256 of each image."""

    name: str  # [A-Za-z0-9_.-]{1,64}, for people
    kind: str  # cifar10, folder, zip, shapes; or array, where the caller gave the pixels
    pixels: np.ndarray  # (N, H, W, 3) uint8, in memory or mapped from a file
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
            images = read(kind, path, cache) if path else shapes(SHAPES)

        # The name and the kind are those of the place it came from now.
        name = _name(path, images.sha256) if path else "shapes"
        return dataclasses.replace(images, name=name, kind=kind, key=key)
    except OSError as error:
        raise BadData(f"{error.filename or source}: {error.strerror or error}") from error


def load_test(source: str | None, cache: Path) -> Images | None:
    """The test split that CIFAR-10's own tree or archive holds; None for any other source.

    A tree may lack it. Raises BadData.
    """
    kind, path = sources.find(source, cache)
    if kind != "cifar10" or (path.is_dir() and not (path / "test_batch").exists()):
        return None
    try:
        return canonical("cifar10-test", *sources.read_cifar10(path, "test"), kind)
    except OSError as error:
        raise BadData(f"{error.filename or path}: {error.strerror or error}") from error


def keep(images: Images, cache: Path, resolution: int) -> None:
    """Put images into the cache, as they are and at one resolution; `load` finds them again."""
    native = images.pixels.shape[1]
    for side in {native, resolution}:
        path = cache / f"{images.sha256}-{side}.npy"
        try:
            _open(cache, images.sha256, side)
            about = json.loads(path.with_suffix(".json").read_text())
        except BadData:
            about = {"array": _write_array(path, images, side), "labels": images.labels.tolist()}
        about |= {"name": images.name, "kind": images.kind, "lossy": images.lossy}
        _write_json(path.with_suffix(".json"), about | {"sha256": images.sha256})
    if images.key:
        index = cache / "sources" / f"{images.key}.json"
        _write_json(index, [images.sha256, native, images.lossy])


def load_cached(cache: Path, sha256: str, resolution: int) -> Images:
    """What `keep` put into the cache; needs no source, and shares its memory with all who open it.

    Raises BadData where it is missing or damaged; `load` and `keep` mend that.
    """
    return _open(cache, sha256, resolution)


def of_classes(images: Images, classes: str, count: int | None = None) -> Images:
    """The images of one class, by its number or CIFAR-10's name for it; all of them for `all`.

    In their order, the first `count` of them, and under the SHA-256 of the whole set. BadData where
    there are none.
    """
    if classes == "all" and count is None:
        return images
    rows = slice(count) if classes == "all" else rows_of(images, classes)[:count]
    return dataclasses.replace(images, pixels=images.pixels[rows], labels=images.labels[rows])


def rows_of(images: Images, classes: str) -> np.ndarray:
    """Where the images of one class, or of `all`, are: (N,) int64; BadData where there are none."""
    if classes == "all":
        return np.arange(len(images.labels))
    named = CIFAR10 if images.sha256 in NAMES else []
    number = named.index(classes) if classes in named else classes
    labels = {str(label): label for label in np.unique(images.labels).tolist()}
    if str(number) not in labels:
        raise BadData(f"{images.name}: has no images of classes={classes}")
    return np.flatnonzero(images.labels == labels[str(number)])


def resize(images: Images, resolution: int) -> Images:
    """Antialiased bilinear, rounded to uint8 once; order, labels and SHA-256 stay as they are."""
    if resolution == images.pixels.shape[1]:
        return images
    pixels, done = np.empty((len(images.pixels), resolution, resolution, 3), np.uint8), 0
    for part in _resized(images, resolution):
        pixels[done : done + len(part)] = part
        done += len(part)
    return dataclasses.replace(images, pixels=pixels)


def _resized(images: Images, resolution: int) -> Iterator[np.ndarray]:
    """The pixels at one resolution, a few images at a time."""
    pixels, side = images.pixels, images.pixels.shape[1]
    if resolution not in sources.SIDES:
        raise BadData(f"{images.name}: cannot be resized to {resolution} pixels, only to 8 to 1024")
    step = max(1, AT_ONCE // max(side, resolution) ** 2)
    for i in range(0, len(pixels), step):
        part = np.asarray(pixels[i : i + step])
        if side != resolution:
            x = torch.from_numpy(part).permute(0, 3, 1, 2).contiguous()
            x = interpolate(x.float(), size=resolution, mode="bilinear", antialias=True)
            x = x.round().clamp(0, 255).to(torch.uint8)
            part = x.permute(0, 2, 3, 1).contiguous().numpy()
        yield part

        # What was read of a mapped file would go on to count as memory of this process.
        if isinstance(pixels.base, mmap.mmap):
            pixels.base.madvise(mmap.MADV_DONTNEED)


def hold(images: Images, classes: str, count: int, device: str) -> Tensor | Stored:
    """The first `count` images of the cache that are of these classes, for `train_epoch`.

    A GPU holds them where they fit. Otherwise they stay in their file, from which every batch is
    read; so they do on a CPU, whose system keeps in free memory what was read, once for all
    processes. Results do not depend on it.
    """
    array = images.pixels
    if device != "cpu" and fits(count * array[0].nbytes, device):
        return torch.from_numpy(of_classes(images, classes, count).pixels).to(device)
    rows = rows_of(images, classes)[:count]
    return Stored(open(array.filename, "rb", buffering=0), array.offset, array.shape[1:], rows)


def fits(size: int, device: str) -> bool:
    """Whether so many bytes of images are at most half of the memory: what a GPU has free of it."""
    if device == "cpu":
        return size <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return size <= torch.cuda.mem_get_info(device)[0] // 2


def to_signed(pixels: Tensor) -> Tensor:
    """uint8 in [0, 255] -> float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """float in [-1, 1] -> uint8, rounded to the nearest level; values outside are clipped."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def signed_batches(
    pixels: Tensor | Stored, order: Tensor, batch: int, device: torch.device
) -> Iterator[Tensor]:
    """Images in this order -> float32 (B, 3, H, W) in [-1, 1], channels last in memory.

    A tensor of them, uint8 (N, H, W, 3), is on the device already.
    """
    if isinstance(pixels, Tensor):
        rows = (pixels[index] for index in order.to(device).split(batch))
    else:
        rows = _read_batches(pixels, order.split(batch), device)
    return (to_signed(each.permute(0, 3, 1, 2)) for each in rows)


def _read_batches(
    stored: Stored, batches: Sequence[Tensor], device: torch.device
) -> Iterator[Tensor]:
    """Rows of a file, uint8 (B, H, W, 3), on the device."""
    pinned = device.type == "cuda"  # neither waits for the other then
    for index in batches:
        rows = torch.empty((len(index), *stored.shape), dtype=torch.uint8, pin_memory=pinned)
        sources.read_rows(stored, index.numpy(), rows.numpy())
        yield rows.to(device, non_blocking=pinned)


def shapes(count: int) -> Images:
    """Labelled 32x32 images of ten classes, drawn by the code."""
    return canonical("shapes", *drawing.draw(count), kind="shapes")


def read(kind: str, path: Path, cache: Path) -> Images:
    """Decode what lies at a path: `cifar10`, `folder` or `zip`; raises BadData.

    The images of a folder or a zip go to a file without a name, on the disk that `cache` is on or
    will be, and from there in the canonical order to another one, which is mapped.
    """
    if kind == "cifar10":
        return canonical(path.stem, *sources.read_cifar10(path), kind)
    room = next(each for each in (cache, *cache.absolute().parents) if each.is_dir())
    decoded = (sources.read_folder if kind == "folder" else sources.read_zip)(path, room)
    order, stored = _order(decoded.keys, decoded.labels), decoded.images
    labels, shape = decoded.labels[order], (len(order), *stored.shape)
    digest, step = hashlib.sha256(str(shape).encode()), max(1, AT_ONCE // shape[1] ** 2)

    def parts() -> Iterator[np.ndarray]:
        for i in range(0, len(order), step):
            part = np.empty((len(order[i : i + step]), *stored.shape), np.uint8)
            sources.read_rows(stored, order[i : i + step], part)
            digest.update(part)
            yield part

    with stored.file, sources.write_nameless(room, parts()) as file:
        pixels = _map(file, 0, shape)
    digest.update(labels)
    return Images(path.stem, kind, pixels, labels, digest.hexdigest(), decoded.lossy)


def canonical(
    name: str, pixels: np.ndarray, labels: np.ndarray, kind: str = "array", lossy: bool = False
) -> Images:
    """Sort by content, so that one data set is one array however it was stored.

    The first n images are therefore a random subset, the same whatever the source.
    """
    keys = b"".join(hashlib.sha256(image.tobytes()).digest() for image in pixels)
    order = _order(keys, labels)
    pixels, labels = np.ascontiguousarray(pixels[order]), labels[order].astype(np.int64)
    digest = hashlib.sha256(str(pixels.shape).encode())
    digest.update(pixels)
    digest.update(labels)
    return Images(name, kind, pixels, labels, digest.hexdigest(), lossy)


def _order(keys: bytes, labels: np.ndarray) -> np.ndarray:
    """Images by their keys, 32 bytes each, and equal ones by their labels."""
    return np.lexsort((labels, np.frombuffer(keys, "S32")))


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
        found = np.lib.format.open_memmap(path, mode="r")  # np.load would also open other formats
        pixels = _map(path, found.offset, found.shape)
        labels = np.array(about["labels"], dtype=np.int64)
        images = Images(about["name"], about["kind"], pixels, labels, sha256, about["lossy"])
        whole = about["sha256"] == sha256 and about["array"] == _digest(path, pixels, labels)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            raise  # which says nothing about the file
        raise BadData(f"{path}: not in the cache; start again from the source") from error
    if not whole:
        raise BadData(f"{path}: damaged; start again from the source")
    return images


def _map(file: Path | IO[bytes], offset: int, shape: tuple[int, ...]) -> np.memmap:
    """Pages are shared, and writes stay in this process; over the machine's memory, read only."""
    try:
        return np.memmap(file, np.uint8, "c", offset, shape)
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        return np.memmap(file, np.uint8, "r", offset, shape)


def _digest(path: Path, pixels: np.memmap, labels: np.ndarray) -> str:
    """The SHA-256 of an array of the cache, not read through its mapping: see sources.read_rows."""
    digest = hashlib.sha256(str(pixels.shape).encode())
    with open(path, "rb") as file:
        file.seek(pixels.offset)
        while block := file.read(1 << 20):
            digest.update(block)
    digest.update(labels)
    return digest.hexdigest()


def _write_array(path: Path, images: Images, side: int) -> str:
    """Write the pixels at one resolution, a few images at a time; returns the array's SHA-256."""
    shape = (len(images.pixels), side, side, 3)
    digest = hashlib.sha256(str(shape).encode())

    def write(file: IO[bytes]) -> None:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for part in _resized(images, side):
            digest.update(part)
            file.write(part)

    sources.write_file(path, write)
    digest.update(images.labels)
    return digest.hexdigest()


def _write_json(path: Path, value: object) -> None:
    sources.write_file(path, lambda file: file.write(json.dumps(value).encode()))
