"""Encoded pictures -> RGB, one reader for studies, scoring and `dcgan.prepare`; and a PNG grid.

files    PNG, BMP, WebP or JPEG, told by content; animations are refused; of a JPEG with further
         pictures (a preview) the first counts
whole    what Pillow calls whole. A truncated file is refused in every format, and of a PNG every
         damaged byte. A flipped bit of a BMP, WebP or JPEG may give other pixels: that is another
         data set, with another SHA-256
colour   grey is repeated three times, a palette is looked up, CMYK becomes (255 - C)(255 - K) / 255
         for red, and so on; profiles and gamma are not applied
depth    of 16 bits a channel the upper 8, v // 256; of fewer than 8, stretched to 0 ... 255
alpha    laid on white, and so is a transparent colour (tRNS) at 8 bits a channel
turn     upright, by the EXIF orientation

A study takes square pictures only, of one side; `dcgan.prepare` makes them so.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dcgan.cli import BadInput, one_line

FORMATS = ("PNG", "BMP", "WEBP", "JPEG")
ENDINGS = (".png", ".bmp", ".webp", ".jpg", ".jpeg", ".jpe", ".jfif")
SIDES = range(8, 1025)  # pixels


@contextmanager
def error_context(name: str, source: Path) -> Iterator[None]:
    """Make whatever goes wrong with a picture BadInput, in one line with its name."""
    where = f"{name!r} in {source}"
    try:
        with warnings.catch_warnings(action="ignore"):  # it is read, or refused, not warned of
            yield
    except UnidentifiedImageError as error:
        raise BadInput(f"{where}: not a PNG, BMP, WebP or JPEG image") from error
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from error
    except Exception as error:  # decoders raise anything on foreign bytes
        raise BadInput(f"{where}: cannot be decoded: {one_line(error)}") from error


def open_picture(data: bytes) -> Image.Image:
    """A picture of which only the header is decoded; raises whatever Pillow raises."""
    Image.open(io.BytesIO(data), formats=FORMATS).verify()  # which closes it
    return Image.open(io.BytesIO(data), formats=FORMATS)


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB, upright and on white; raises BadInput, and whatever Pillow raises."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise BadInput(f"an animation of {frames} frames")

    # Of 16 bits a channel Pillow keeps the upper 8 in RGB, and all in grey.
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def decode(data: bytes) -> np.ndarray:
    """An image for a study -> (side, side, 3) uint8; raises as to_rgb."""
    image = open_picture(data)
    width, height = image.size
    if width != height or width not in SIDES:
        square = f"a square of {SIDES.start} to {SIDES.stop - 1} a side"
        raise BadInput(f"{width}x{height} pixels, not {square}; python -m dcgan prepare cuts it")
    return np.asarray(to_rgb(image))


def encode(pixels: np.ndarray) -> bytes:
    """A PNG of pixels (H, W, 3) uint8 alone: no profile, no date, no place."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def png_grid(images: np.ndarray, columns: int, gap: int = 0) -> bytes:
    """uint8 images (N, H, W, 3) in rows of `columns`, `gap` white pixels apart -> one PNG."""
    rows = -(-len(images) // columns)
    height, width = images.shape[1] + gap, images.shape[2] + gap
    cells = np.full((rows * columns, height, width, 3), 255, np.uint8)
    cells[: len(images), : height - gap, : width - gap] = images
    grid = cells.reshape(rows, columns, height, width, 3).transpose(0, 2, 1, 3, 4)
    grid = grid.reshape(rows * height, columns * width, 3)
    return encode(grid[: rows * height - gap, : columns * width - gap])
