"""Pictures of any size -> a zip of square PNGs. What is read, and what becomes of it:

files    .png .bmp .webp .jpg .jpeg of a folder or a zip, within the limits of dcgan.sources; other
         image endings, animations and damaged files are refused; of a JPEG that holds further
         pictures (a preview, a depth map) the first counts
labels   dataset.json of a zip, else the sorted names of the folders; where there are class folders,
         a picture outside of them is refused
turn     upright, by the EXIF orientation
depth    of 16 bits a channel the upper 8, v // 256; of fewer than 8, stretched to 0 ... 255
colour   RGB: a palette is looked up, grey is repeated three times, CMYK becomes
         (255 - C)(255 - K) / 255 for red, and so on; profiles and gamma are not applied
alpha    laid on white, at full size; a transparent colour (tRNS) only at 8 bits
crop     the square in the middle; an odd row or column more is cut off at the bottom or right
size     Lanczos filter of Pillow, as wide as the reduction asks for; a smaller picture is refused,
         or enlarged by the same filter

The zip has NVlabs' layout: PNGs in the order of the pictures' names, and dataset.json. Its dates
are fixed: equal pictures, labels and order give equal bytes with one version of Pillow.
"""

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from dcgan import sources
from dcgan.sources import ENDINGS, FORMATS, MOST_BYTES, MOST_FILE_BYTES, BadData


@dataclass(frozen=True)
class Prepared:
    """Square pictures of one side, encoded, and what a person is told of them."""

    pngs: list[bytes]
    labels: list[int]  # -1 where there is none, and then everywhere
    lossy: int  # pictures that were stored with loss
    skipped: list[str]  # why, by name


def prepare(source: Path, side: int, enlarge: bool = False, skip: bool = False) -> Prepared:
    """All pictures of a folder or a zip; with `skip` without those that have to be refused.

    Raises BadData.
    """
    pngs, kept, lossy, skipped = [], [], 0, []
    with _opened(source) as (names, labels, read):
        if len(names) * 3 * side**2 > MOST_BYTES:
            raise BadData(f"{source}: {len(names)} pictures of {side}x{side} are over 8 GiB")
        classes = labels.max() >= 0
        for name, label in zip(names, labels.tolist(), strict=True):
            try:
                with sources.blamed(name, source):
                    if classes and label < 0:
                        raise BadData("lies outside of the class folders")
                    if not name.lower().endswith(ENDINGS):
                        raise BadData(f"not one of {' '.join(ENDINGS)}")
                    image, loss = upright(read(name))
                    pngs.append(_png(square(image, side, enlarge)))
            except BadData as error:
                if not skip:
                    raise
                skipped.append(str(error))
            else:
                kept.append(label)
                lossy += loss
    if not pngs:
        raise BadData(f"{source}: no picture is left, the first was refused: {skipped[0]}")
    return Prepared(pngs, kept, lossy, skipped)


def write_zip(file: IO[bytes], prepared: Prepared) -> None:
    """PNGs, not compressed again, and dataset.json, {"labels": [[name, class], ...]} or null."""
    names = [f"img{i:08d}.png" for i in range(len(prepared.pngs))]
    pairs = list(zip(names, prepared.labels, strict=True))
    listed = json.dumps({"labels": pairs if min(prepared.labels) >= 0 else None})
    contents = zip(names, prepared.pngs, strict=True)
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in [("dataset.json", listed.encode()), *contents]:
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16  # who unpacks it can read it
            archive.writestr(entry, data)


def upright(data: bytes) -> tuple[Image.Image, bool]:
    """One encoded picture -> RGB, turned and on white; and whether its format is lossy."""
    if len(data) > MOST_FILE_BYTES:
        raise BadData(f"more than {MOST_FILE_BYTES >> 20} MiB")
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:
        raise BadData(f"an animation of {frames} frames")
    if image.format == "PNG":
        sources.check_png(data)
    webp = image.format == "WEBP"
    lossy = image.format in ("JPEG", "MPO") or (webp and not sources.is_vp8l(data))

    # What Pillow would read as something else is refused.
    image.load()
    clear = "transparency" in image.info
    if image.mode == "P":
        colours = len(image.palette.palette) // len(image.palette.mode)
        if (used := image.getextrema()[1]) >= colours:
            raise BadData(f"colour {used} of a palette of {colours}")
    elif clear and (depth := data[24]) != 8:  # of a PNG: no other format has it
        raise BadData(f"a transparent colour at {depth} bits a channel")

    # Of 16 bits a channel Pillow keeps the upper 8 in RGB, and all in grey.
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if clear or image.mode in ("LA", "RGBA"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB"), lossy


def square(image: Image.Image, side: int, enlarge: bool = False) -> Image.Image:
    """The square in the middle of a picture, at a side of so many pixels; raises BadData."""
    width, height = image.size
    if (shorter := min(width, height)) < side and not enlarge:
        raise BadData(f"{width}x{height} pixels, fewer than {side} a side; --enlarge takes it")
    left, top = (width - shorter) // 2, (height - shorter) // 2

    # Cut first: the filter would otherwise look beyond the edges.
    image = image.crop((left, top, left + shorter, top + shorter))
    return image.resize((side, side), Image.Resampling.LANCZOS, reducing_gap=None)


def _png(image: Image.Image) -> bytes:
    """Pixels alone: no profile, no date, no place."""
    file = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(file, "PNG")
    return file.getvalue()


@contextmanager
def _opened(source: Path) -> Iterator[tuple[list[str], np.ndarray, Callable[[str], bytes]]]:
    """The sorted names in a folder or a zip, their labels, and what reads one of them."""

    def read(name: str) -> bytes:
        if not (source / name).is_file():  # a pipe might never end
            raise BadData("not a regular file")
        with open(source / name, "rb") as file:
            return file.read(MOST_FILE_BYTES + 1)

    if source.is_dir():
        if not (names := sources.contents("folder", source)):
            raise BadData(f"{source}: no images ({' '.join(ENDINGS)}) in this folder")
        yield names, sources.folder_labels(names), read
    elif source.exists():
        with sources.opened(source) as archive:
            names = sources.image_names(source, archive)
            yield names, sources.listed_labels(source, archive, names), archive.read
    else:
        raise BadData(f"{source}: no such file or folder")
