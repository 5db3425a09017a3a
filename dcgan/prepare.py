"""Pictures of any size -> a zip of square PNGs.

read     a folder or a zip, by the rules of dcgan.sources and dcgan.pictures, photos of 100
         megapixels included; where there are class folders, a picture outside of them is refused
crop     the square in the middle; an odd row or column more is cut off at the bottom or right
size     Lanczos filter of Pillow, as wide as the reduction asks for; a smaller picture is refused,
         or enlarged by the same filter

The zip has NVlabs' layout: PNGs in the order of the pictures' names, and dataset.json,
{"labels": [["img00000000.png", class], ...]} or null. Its dates are fixed: equal pictures, labels
and order give equal bytes with one version of Pillow.
"""

import json
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from dcgan import pictures, sources
from dcgan.cli import BadInput
from dcgan.sources import Listing


def prepare(
    source: Path, out: Path, side: int, enlarge: bool, skip: bool
) -> tuple[Listing, list[int], list[str]]:
    """Put all pictures of a folder or a zip into a new zip, with `skip` but those that are refused.

    Returns what was read, the labels of the pictures in the zip, and what was refused, and why.
    Raises BadInput, and nothing is written then.
    """
    if not source.exists():
        raise BadInput(f"{source}: no such file or folder")
    pairs, skipped = [], []
    with (
        sources.opened("folder" if source.is_dir() else "zip", source) as listing,
        sources.new_file(out) as file,
        zipfile.ZipFile(file, "w") as archive,
    ):
        for name, label in zip(listing.names, listing.labels.tolist(), strict=True):
            try:
                with pictures.error_context(name, source):
                    if listing.labels_from and label < 0:
                        raise BadInput("lies outside of the class folders")
                    image = pictures.to_rgb(pictures.open_picture(listing.read(name)))
                    png = pictures.encode(np.asarray(square(image, side, enlarge)))
            except BadInput as error:
                if not skip:
                    raise
                skipped.append(str(error))
            else:
                pairs.append((f"img{len(pairs):08d}.png", label))
                _add(archive, pairs[-1][0], png)
        if not pairs:
            raise BadInput(f"{source}: no picture is left, the first was refused: {skipped[0]}")
        content = {"labels": pairs if listing.labels_from else None}
        _add(archive, "dataset.json", json.dumps(content).encode())
    return listing, [label for _, label in pairs], skipped


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name)  # dated 1980-01-01
    entry.external_attr = 0o644 << 16  # who unpacks it can read it
    archive.writestr(entry, data)


def square(image: Image.Image, side: int, enlarge: bool = False) -> Image.Image:
    """The square in the middle of a picture, at a side of so many pixels; raises BadInput."""
    width, height = image.size
    if (shorter := min(width, height)) < side and not enlarge:
        raise BadInput(f"{width}x{height} pixels, fewer than {side} a side; --enlarge takes it")
    left, top = (width - shorter) // 2, (height - shorter) // 2

    # Cut first: the filter would otherwise look beyond the edges.
    image = image.crop((left, top, left + shorter, top + shorter))
    return image.resize((side, side), Image.Resampling.LANCZOS, reducing_gap=None)
