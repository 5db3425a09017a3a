"""Pictures of any size -> a zip of square PNGs.

read     a folder or a zip, by the rules of dcgan.sources and dcgan.pictures, photos of 100
         megapixels included; where there are class folders, a picture outside of them is refused
crop     the square in the middle; an odd row or column more is cut off at the bottom or right
size     Lanczos filter of Pillow, as wide as the reduction asks for; a smaller picture is refused,
         or enlarged by the same filter

The zip has NVlabs' layout: PNGs in the order of the pictures' names, and dataset.json. Its dates
are fixed: equal pictures, labels and order give equal bytes with one version of Pillow.
"""

import json
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from dcgan import pictures, sources
from dcgan.pictures import BadData, encode


@dataclass(frozen=True)
class Prepared:
    """Square pictures of one side, encoded, and what a person is told of them."""

    pngs: list[bytes]
    labels: list[int]  # -1 where there is none, and then everywhere
    labels_from: str  # as in sources.Listing
    left_out: list[str]  # files that are no pictures, by name
    skipped: list[str]  # pictures that had to be refused, by name, and why


def prepare(source: Path, side: int, enlarge: bool = False, skip: bool = False) -> Prepared:
    """All pictures of a folder or a zip; with `skip` without those that have to be refused.

    Raises BadData.
    """
    if not source.exists():
        raise BadData(f"{source}: no such file or folder")
    pngs, kept, skipped = [], [], []
    with sources.opened("folder" if source.is_dir() else "zip", source) as listing:
        for name, label in zip(listing.names, listing.labels.tolist(), strict=True):
            try:
                with pictures.error_context(name, source):
                    if listing.labels_from and label < 0:
                        raise BadData("lies outside of the class folders")
                    image = pictures.to_rgb(pictures.open_picture(listing.read(name)))
                    pngs.append(encode(np.asarray(square(image, side, enlarge))))
            except BadData as error:
                if not skip:
                    raise
                skipped.append(str(error))
            else:
                kept.append(label)
    if not pngs:
        raise BadData(f"{source}: no picture is left, the first was refused: {skipped[0]}")
    return Prepared(pngs, kept, listing.labels_from, listing.left_out, skipped)


def write_zip(file: IO[bytes], pngs: Iterable[bytes], labels: list[int]) -> None:
    """PNGs, not compressed again, and dataset.json, {"labels": [[name, class], ...]} or null."""
    names = [f"img{i:08d}.png" for i in range(len(labels))]
    pairs = list(zip(names, labels, strict=True)) if min(labels) >= 0 else None
    with zipfile.ZipFile(file, "w") as archive:
        _add(archive, "dataset.json", json.dumps({"labels": pairs}).encode())
        for name, data in zip(names, pngs, strict=True):
            _add(archive, name, data)


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.external_attr = 0o644 << 16  # who unpacks it can read it
    archive.writestr(entry, data)


def square(image: Image.Image, side: int, enlarge: bool = False) -> Image.Image:
    """The square in the middle of a picture, at a side of so many pixels; raises BadData."""
    width, height = image.size
    if (shorter := min(width, height)) < side and not enlarge:
        raise BadData(f"{width}x{height} pixels, fewer than {side} a side; --enlarge takes it")
    left, top = (width - shorter) // 2, (height - shorter) // 2

    # Cut first: the filter would otherwise look beyond the edges.
    image = image.crop((left, top, left + shorter, top + shorter))
    return image.resize((side, side), Image.Resampling.LANCZOS, reducing_gap=None)
