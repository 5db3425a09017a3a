"""One uint8 array, mapped from its cache; uint8 <-> [-1, 1]. Sources: dcgan.sources.

<cache>/<sha256>-<side>.npy     pixels of one data set at one resolution, and in .json beside it the
                                labels and what else there is to know
<cache>/sources/<key>.json      which data set a source was, so that it is decoded only once

A source is decoded in memory, once; all that train or score afterwards map the same file.
"""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dcgan import pictures, sources
from dcgan import shapes as drawing
from dcgan.cli import BadInput, shown
from dcgan.sources import Listing

SHAPES = 12_000  # images that `load` draws
AT_ONCE = 1 << 20  # pixels that are resized at a time: what a processor's cache holds
SHOWN = 5  # names of files that are left out

# Sets that are known by their SHA-256 keep these names, and no other set gets them.
NAMES = {
    "71cf71fbae196ade4d6be17c5e5db9925256c80e0a58a75dd926ae5584398f28": "cifar10",
    "a4aafc27636d8e02226a681bf1c1ec43d460cdfa84d750b31624dc6f5a02babc": "cifar10-test",
}

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@dataclass(frozen=True, eq=False)  # a key of caches by what it is, not by its pixels
class Images:
    """A data set in its canonical order: by the SHA-256 of each image."""

    name: str  # [A-Za-z0-9_.-]{1,64}, for people
    kind: str  # cifar10, folder, zip, shapes; or array, where the caller gave the pixels
    pixels: np.ndarray  # (N, H, W, 3) uint8, in memory or mapped from a file
    labels: np.ndarray  # (N,) int64, -1 where there is none
    sha256: str  # of the pixels, at their native resolution, and the labels, in this order
    key: str = ""  # of the source's bytes: where the cache looks first
    labels_from: str = ""  # "folders", "dataset.json"; of a folder or a zip with labels
    left_out: tuple[str, ...] = ()  # files of a folder or a zip that were not read


def load(source: sources.Source, cache: Path, split: str = "train") -> Images:
    """The images of a source, or of a split of CIFAR-10; raises BadInput, NoCifar10.

    Read from `cache` where they are in it; only a download of CIFAR-10 is written there.
    """
    try:
        kind, path = sources.find(source, cache)
        split = split if kind == "cifar10" else ""
        with sources.opened(kind, path) as listing:
            key = _key(kind, path, split, listing)
            try:
                known = json.loads((cache / "sources" / f"{key}.json").read_text())
                images = load_cached(cache, *known)
            except (OSError, ValueError, TypeError, BadInput):  # it is not there, or not whole
                images = _read(kind, path, split, listing)
        about = {"name": _name(kind, path, images.sha256), "kind": kind, "key": key}
        if listing:
            about |= {"labels_from": listing.labels_from, "left_out": tuple(listing.left_out)}
        return dataclasses.replace(images, **about)
    except OSError as error:
        raise BadInput(f"{error.filename or source}: {error.strerror or error}") from error


def describe(images: Images) -> str:
    """What was read, in a line: images, classes, where labels are from, what was left out."""
    sizes = np.unique(images.labels[images.labels >= 0], return_counts=True)[1].tolist()
    said = f"{len(images.labels):,} images"
    if sizes:
        each = " to ".join(f"{size:,}" for size in sorted({min(sizes), max(sizes)}))
        said += f", {len(sizes)} class{'es' * (len(sizes) > 1)} of {each}"
        said += f", from {images.labels_from}" if images.labels_from else ""
    if unlabelled := len(images.labels) - sum(sizes):
        said += f", {unlabelled:,} without a label"
    if left_out := images.left_out:
        more = f" and {len(left_out) - SHOWN:,} more" if len(left_out) > SHOWN else ""
        said += f"; left out: {', '.join(left_out[:SHOWN])}{more}"
    return shown(said)


def _read(kind: str, path: Path | None, split: str, listing: Listing | None) -> Images:
    """Decode a source; BadInput where the sides of its images differ."""
    if kind == "shapes":
        return shapes(SHAPES)
    if listing is None:
        return canonical("cifar10", *sources.read_cifar10(path, split), kind)
    images = []
    for name in listing.names:
        with pictures.error_context(name, path):
            images.append(pictures.decode(listing.read(name)))
            side, first = len(images[-1]), len(images[0])
            if side != first:
                raise BadInput(f"{side}x{side} pixels, but {listing.names[0]!r} {first}x{first}")
    return canonical("", np.stack(images), listing.labels, kind)


def shapes(count: int) -> Images:
    """Labelled 32x32 images of ten classes, drawn by the code."""
    return canonical("shapes", *drawing.draw(count), kind="shapes")


def canonical(name: str, pixels: np.ndarray, labels: np.ndarray, kind: str = "array") -> Images:
    """Sort by content: one data set is one array, and its first n images are a random subset."""
    keys = [hashlib.sha256(image.tobytes()).digest() for image in pixels]
    order = np.lexsort((labels, np.array(keys, "S32")))  # equal images by their labels
    pixels, labels = np.ascontiguousarray(pixels[order]), labels[order].astype(np.int64)
    return Images(name, kind, pixels, labels, _sha256(pixels, labels))


def _sha256(pixels: np.ndarray, labels: np.ndarray) -> str:
    digest = hashlib.sha256(str(pixels.shape).encode())
    digest.update(pixels)
    digest.update(labels)
    return digest.hexdigest()


def _name(kind: str, path: Path | None, sha256: str) -> str:
    """A known set's own name; otherwise the path's, in the letters that a run's folder may have."""
    if sha256 in NAMES or path is None:
        return NAMES.get(sha256, kind)
    stem = path.resolve().name if path.is_dir() else path.stem
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", stem)[:64].strip("-.") or "images"
    return f"{name}-{sha256[:8]}" if name in {"shapes", *NAMES.values()} else name


def _key(kind: str, path: Path | None, split: str, listing: Listing | None) -> str:
    """The SHA-256 of a source's bytes and labels, and of the code that reads or draws them."""
    code = (Path(module.__file__).read_bytes() for module in (pictures, sources, drawing))
    digest = hashlib.sha256(b"".join(code) + f"{kind} {split}".encode())
    if kind == "folder":
        for name in listing.names:
            digest.update(hashlib.sha256(listing.read(name)).digest())
        digest.update(listing.labels)
    elif path:
        for file in sorted(path.glob("*_batch*")) if path.is_dir() else [path]:
            with open(file, "rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def keep(images: Images, cache: Path, resolution: int) -> None:
    """Put images into the cache, as they are and at one resolution; `load` finds them again."""
    native = images.pixels.shape[1]
    for side in {native, resolution}:
        try:
            load_cached(cache, images.sha256, side)
        except BadInput:
            pixels, labels = resize(images, side).pixels, images.labels
            about = {"name": images.name, "kind": images.kind, "sha256": images.sha256}
            about |= {"array": _sha256(pixels, labels), "labels": labels.tolist()}
            path = cache / f"{images.sha256}-{side}.npy"
            with sources.new_file(path) as file:
                np.save(file, pixels)
            with sources.new_file(path.with_suffix(".json")) as file:
                file.write(json.dumps(about).encode())
    if images.key:
        with sources.new_file(cache / "sources" / f"{images.key}.json") as file:
            file.write(json.dumps([images.sha256, native]).encode())


def load_cached(cache: Path, sha256: str, resolution: int) -> Images:
    """What `keep` put into the cache, in memory that all share; BadInput where it is not whole."""
    path = cache / f"{sha256}-{resolution}.npy"
    try:
        about = json.loads(path.with_suffix(".json").read_text())
        pixels = np.lib.format.open_memmap(path, "c")  # pages are shared until one writes to them
        labels = np.array(about["labels"], dtype=np.int64)
        whole = about["sha256"] == sha256 and about["array"] == _sha256(pixels, labels)
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise BadInput(f"{path}: not in the cache; give the study's command again") from error
    if not whole:
        raise BadInput(f"{path}: damaged; give the study's command again")
    return Images(about["name"], about["kind"], pixels, labels, sha256)


def of_classes(images: Images, classes: str, count: int | None = None) -> Images:
    """The first `count` images of a class (number or CIFAR-10's name), or of `all`; or BadInput."""
    rows: slice | np.ndarray = slice(count)
    if classes != "all":
        known = CIFAR10 if images.sha256 in NAMES else []
        label = str(known.index(classes)) if classes in known else classes
        rows = np.flatnonzero(images.labels.astype(str) == label)[:count]
        if not len(rows):
            raise BadInput(f"{images.name}: has no images of classes={classes}")
    return dataclasses.replace(images, pixels=images.pixels[rows], labels=images.labels[rows])


def resize(images: Images, resolution: int) -> Images:
    """Antialiased bilinear, rounded to uint8 once; order, labels and SHA-256 stay as they are."""
    side = images.pixels.shape[1]
    if resolution == side:
        return images
    pixels = np.empty((len(images.pixels), resolution, resolution, 3), np.uint8)
    step = max(1, AT_ONCE // max(side, resolution) ** 2)
    for i in range(0, len(pixels), step):
        x = torch.from_numpy(images.pixels[i : i + step]).permute(0, 3, 1, 2).contiguous()
        x = interpolate(x.float(), size=resolution, mode="bilinear", antialias=True)
        pixels[i : i + step] = round_to_uint8(x).permute(0, 2, 3, 1)
    return dataclasses.replace(images, pixels=pixels)


def training_images(images: Images, classes: str, count: int, device: str) -> Tensor:
    """The first `count` images of these classes, on a GPU if half of its free memory takes them."""
    pixels = torch.from_numpy(of_classes(images, classes, count).pixels)
    if device != "cpu" and pixels.nbytes <= torch.cuda.mem_get_info(device)[0] // 2:
        return pixels.to(device)
    return pixels


def to_signed(pixels: Tensor) -> Tensor:
    """uint8 in [0, 255] -> float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """float in [-1, 1] -> uint8, rounded to the nearest level; values outside are clipped."""
    return round_to_uint8((images.float() + 1) * 127.5)


def round_to_uint8(levels: Tensor) -> Tensor:
    """Grey levels to the nearest whole one from 0 to 255."""
    return levels.round().clamp(0, 255).to(torch.uint8)
