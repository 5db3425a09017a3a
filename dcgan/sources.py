"""Foreign bytes -> uint8 images and labels. What is read, and what is refused by name (BadData):

source   a CIFAR-10 tree or archive with torchvision's MD5s (its pickles are opened after that check
         only), a folder of images, a zip of images (NVlabs layout), or "shapes"
labels   dataset.json of a zip, else the sorted names of the folders; -1 outside of any folder
files    .png .bmp .webp .jpg .jpeg of at most 16 MiB; other image endings, pipes and devices are
         refused, all other files ignored
format   PNG, BMP, WebP or JPEG, told by content, whichever of these endings the name has
size     square, 8 to 1024 pixels a side (checked before decoding), one size for all of a set
colour   8-bit RGB or grey (repeated three times), as stored: profiles and gamma are not applied; a
         palette or an alpha channel only where every pixel is opaque and in the palette; 16-bit,
         CMYK, two-level and all other modes are refused
frames   one; animations, and images with an EXIF rotation, are refused
loss     JPEG and lossy WebP are read like the rest, and mark the set as `lossy`. There is one rule
         for it: the decoded pixels are the data, which G is trained on and its images are scored
         against, traces of the compression included; the plan says so, and study.json keeps it
damage   a truncated file is refused in every format, and in a zip every damaged byte (it holds a
         checksum of each file); in a folder every damaged byte of a PNG. BMP, WebP and JPEG have no
         checksum: a flipped bit there may decode, to other pixels. The SHA-256 of a set is of its
         decoded pixels, so it is then another set, and no study goes on with it
zip      no encryption, absolute or '..' names, links, repeated names, entries that shrank more than
         200 times; dataset.json and the zip name the same images; no entry ever becomes a file
amount   at most 64 GiB, as unpacked from a zip and as decoded; of that one image is in memory at a
         time. What grows with their number are the names, and a zip's table of contents: about 1 KB
         an image
disk     twice the decoded pixels while a source is read, and once until it is kept; these files
         have no name, so that nothing is left of them whatever happens
"""

import errno
import hashlib
import http.client
import io
import json
import math
import os
import pickle
import queue
import re
import shutil
import stat
import struct
import tarfile
import tempfile
import threading
import time
import urllib.request
import uuid
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

FORMATS = ("PNG", "BMP", "WEBP", "JPEG")
ENDINGS = (".png", ".bmp", ".webp", ".jpg", ".jpeg")
OTHER_ENDINGS = (".gif", ".tif", ".tiff", ".apng", ".avif", ".heic", ".jp2", ".jxl", ".ppm", ".tga")
SIDES = range(8, 1025)  # pixels
MOST_BYTES = 8 << 30  # of what lies in memory at once
MOST_STORED_BYTES = 64 << 30  # of a set of images, which does not
MOST_FILE_BYTES = 16 << 20  # of one encoded image
MANY = 0xFFFF  # entries: as many, or more than the end of a zip can say
MOST_SHRUNK = 200  # bytes of a zip entry for each of its compressed bytes

PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2))
ADAM7 += ((0, 1, 1, 2),)  # the passes of an interlaced PNG: first column and row, and their steps

ARCHIVE, TREE = "cifar-10-python.tar.gz", "cifar-10-batches-py"
ANSWER_SECONDS = 5.0  # for each wait of the download; its first answer may take 1.6 times as long
DOWNLOAD_SECONDS = 1800.0  # for all of it


class BadData(Exception):
    """A source that cannot be used, in one line."""


@dataclass(frozen=True)
class Stored:
    """Images that stay in a file, of which only those that are asked for are read."""

    file: IO[bytes]  # unbuffered
    offset: int  # bytes before its first image
    shape: tuple[int, ...]  # of an image, uint8: (H, W, 3)
    rows: np.ndarray  # (N,) int64: which images of the file, in their order

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Decoded:
    """The images of a source as they come, in a file without a name."""

    images: Stored
    keys: bytes  # the SHA-256 of each, 32 bytes
    labels: np.ndarray  # (N,) int64, -1 where there is none
    lossy: bool


def find(source: str | None, downloads: Path) -> tuple[str, Path | None]:
    """The kind of a source (cifar10, folder, zip, shapes) and where it lies; raises BadData.

    None looks in data/, then tries torchvision's download, and ends with shapes.
    """
    if source is None:
        if found := _identify(Path("data")):
            return found
        archive = downloads / ARCHIVE
        if archive.is_file() or download(archive):
            return "cifar10", archive
    if source is None or source == "shapes":
        return "shapes", None

    try:
        path = Path(source).expanduser()
    except RuntimeError as error:
        raise BadData(f"{source}: no such user") from error
    if not path.exists():
        raise BadData(f"{path}: no such file or folder")
    if found := _identify(path):
        return found
    if path.is_dir():
        raise BadData(f"{path}: no images ({' '.join(ENDINGS)}) in this folder")
    raise BadData(f"{path}: neither a folder, nor a zip of images, nor {ARCHIVE}")


def count(kind: str, path: Path) -> int:
    """How many images a folder or a zip names, none of them decoded; raises BadData."""
    if kind == "folder":
        return len(contents(kind, path))
    with opened(path) as archive:
        return len(image_names(path, archive))


def content_hash(kind: str, path: Path) -> str:
    """The SHA-256 of what a source holds: the name and the bytes of each of its files."""
    digest = hashlib.sha256(kind.encode())
    for name in contents(kind, path):
        digest.update(b"\0" + os.fsencode(name) + b"\0")
        if (path / name).exists() and not (path / name).is_file():  # which might never end
            raise BadData(f"{name!r} in {path}: not a regular file")
        with open(path / name, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def write_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Make a file appear by one rename, with all that `write` puts into it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(staged, "wb") as file:
            write(file)
        staged.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # which a full disk does not say
        raise
    finally:
        staged.unlink(missing_ok=True)


def write_nameless(folder: Path, parts: Iterable[np.ndarray]) -> IO[bytes]:
    """A file of these parts, open for reading, that is gone when nobody holds it any more."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for part in parts:
                file.write(part)
            file.flush()
            return open(os.dup(file.fileno()), "rb", buffering=0)
    except OSError as error:
        error.filename = error.filename or str(folder)
        raise


def _identify(path: Path) -> tuple[str, Path] | None:
    if path.is_file():
        if path.suffix.lower() == ".zip" or zipfile.is_zipfile(path):
            return "zip", path
        return ("cifar10", path) if path.name.lower().endswith((".tar.gz", ".tgz")) else None

    # In a folder, CIFAR-10 comes before images, and images before a zip of them.
    for candidate in (path / "data_batch_1", path / TREE / "data_batch_1"):
        if candidate.is_file():
            return "cifar10", candidate.parent
    if (path / ARCHIVE).is_file():
        return "cifar10", path / ARCHIVE
    if next(_walk(path), None):
        return "folder", path
    zips = sorted(path.glob("*.zip"))
    if len(zips) > 1:
        raise BadData(f"{path}: holds {len(zips)} zips, name one of them, such as {zips[0]}")
    return ("zip", zips[0]) if zips else None


def contents(kind: str, path: Path) -> list[str]:
    """The files of a source, relative to it."""
    if path.is_file():
        return [""]
    return sorted(dict(_cifar10().train_list) if kind == "cifar10" else _walk(path))


def _walk(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if _is_image(name) and not path.is_dir():
            yield name


def _is_image(name: str) -> bool:
    """By its ending; hidden files and folders, and those that macOS adds to a zip, are none."""
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and name.lower().endswith(ENDINGS + OTHER_ENDINGS)


# --- Images ---------------------------------------------------------------------------------------


def read_folder(path: Path, room: Path) -> Decoded:
    """The images under a folder; each folder that holds some is a class.

    `room`: a folder on the disk that the decoded pixels take the space of.
    """

    def read(name: str) -> bytes:
        with open(path / name, "rb") as file:
            return file.read(MOST_FILE_BYTES + 1)

    names = contents("folder", path)
    return _decode_all(path, names, folder_labels(names), read, room)


def read_zip(path: Path, room: Path) -> Decoded:
    """The images of a zip, with the labels of its dataset.json, or else of its folders.

    `room`: a folder on the disk that the decoded pixels take the space of.
    """
    with opened(path) as archive:
        names = image_names(path, archive)
        labels = listed_labels(path, archive, names)
        return _decode_all(path, names, labels, archive.read, room)


def read_rows(stored: Stored, index: np.ndarray, pixels: np.ndarray) -> None:
    """Read images by their numbers into `pixels`, in the order in which they lie in the file.

    Not through a mapping, whose pages would count as memory of this process, and which a fault
    fills with what lies around an image. OSError where the file ends too early.
    """
    rows, size = stored.rows[index], math.prod(stored.shape)
    places = [(place, stored.offset + int(rows[place]) * size) for place in rows.argsort().tolist()]

    # What has to come from the disk is asked for at once: two to three times as fast as in turn.
    if hasattr(os, "posix_fadvise"):
        for _, start in places:
            os.posix_fadvise(stored.file.fileno(), start, size, os.POSIX_FADV_WILLNEED)
    try:
        for place, start in places:
            stored.file.seek(start)
            if stored.file.readinto(pixels[place]) != size:
                raise OSError(errno.EIO, "an array that ends too early")
    except OSError as error:
        error.filename = error.filename or str(stored.file.name)  # which a failed read does not say
        raise


def decode(data: bytes) -> tuple[np.ndarray, bool]:
    """One encoded image -> (H, W, 3) uint8, and whether its format is lossy."""

    # The header is judged before any pixel is decoded.
    if len(data) > MOST_FILE_BYTES:
        raise BadData(f"more than {MOST_FILE_BYTES >> 20} MiB")
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = image.size
    if width != height or width not in SIDES:
        sides = f"{SIDES.start} to {SIDES.stop - 1}"
        raise BadData(f"{width}x{height} pixels, not a square of {sides} a side")
    if (frames := getattr(image, "n_frames", 1)) > 1:
        raise BadData(f"an animation of {frames} frames")
    if image.format == "PNG":
        check_png(data)
        if (depth := data[24]) != 8 and data[25] != 3:  # which Pillow drops, but for a palette
            raise BadData(f"{depth} bits a channel, not 8")
    elif image.format == "BMP":
        _check_bmp(data)

    # Pixels are taken as they are stored, or not at all.
    image.load()
    if (orientation := image.getexif().get(ExifTags.Base.Orientation, 1)) != 1:
        raise BadData(f"EXIF orientation {orientation}, not upright")
    lossy = image.format == "JPEG" or (image.format == "WEBP" and not is_vp8l(data))
    if image.palette and image.mode in ("P", "PA"):
        colours = len(image.palette.palette) // len(image.palette.mode)
        if (used := image.getchannel(0).getextrema()[1]) >= colours:
            raise BadData(f"colour {used} of a palette of {colours}")
    if image.mode in ("P", "PA", "LA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            raise BadData("transparent pixels")
    elif image.mode not in ("L", "RGB"):
        raise BadData(f"colour mode {image.mode}, not 8-bit RGB or grey")
    return np.asarray(image.convert("RGB")), lossy


def check_png(data: bytes) -> None:
    """Refuse a PNG with a wrong checksum, or other pixel data than it announces.

    Pillow fills missing rows with black, and does not need the end mark.
    """
    kinds, packed, place = [], [], len(b"\x89PNG\r\n\x1a\n")
    while kinds[-1:] != [b"IEND"]:
        length = int.from_bytes(data[place : place + 4], "big")
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        place += 12 + length
        if place > len(data):
            raise ValueError("it ends too early")
        if zlib.crc32(kind + body) != int.from_bytes(data[place - 4 : place], "big"):
            raise ValueError(f"wrong checksum of {kind.decode('latin1')}")
        kinds.append(kind)
        if kind == b"IDAT":
            packed.append(body)
    if kinds[0] != b"IHDR" or kinds.count(b"IHDR") > 1:
        raise ValueError("its header is not its first chunk")
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    if colour == 3 and b"PLTE" not in kinds:
        raise ValueError("no palette")

    # Each row has a byte for its filter; an empty pass has no rows.
    bits, announced = depth * PNG_CHANNELS[colour], 0
    for x, y, dx, dy in ADAM7 if interlaced else [(0, 0, 1, 1)]:
        columns, rows = len(range(x, width, dx)), len(range(y, height, dy))
        announced += rows * (1 + (columns * bits + 7) // 8) if columns else 0
    inflater = zlib.decompressobj()
    found = len(inflater.decompress(b"".join(packed), announced + 1))
    if found != announced or not inflater.eof:
        raise ValueError(f"{found} bytes of pixels, not {announced}")


def _check_bmp(data: bytes) -> None:
    """Refuse a BMP of 16 bits a pixel, which Pillow stretches to 24."""
    (header,) = struct.unpack_from("<I", data, 14)
    (depth,) = struct.unpack_from("<H", data, 24 if header == 12 else 28)
    if depth == 16:
        raise BadData("16 bits a pixel, not 8 a channel")


def is_vp8l(data: bytes) -> bool:
    """Whether the pixels of a WebP are in a lossless chunk."""
    place = 12
    while place + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, place)
        if kind in (b"VP8L", b"VP8 "):
            return kind == b"VP8L"
        place += 8 + length + length % 2
    return False


def _decode_all(
    source: Path, names: list[str], labels: np.ndarray, read: Callable[[str], bytes], room: Path
) -> Decoded:
    """Decode named images one by one; raises BadData by name."""
    keys, side, any_lossy = bytearray(), 0, False

    def images() -> Iterator[np.ndarray]:
        nonlocal side, any_lossy
        for name in names:
            with blamed(name, source):
                if name.lower().endswith(OTHER_ENDINGS):
                    raise BadData(f"not one of {' '.join(ENDINGS)}")
                image, lossy = decode(read(name))
                if not side:
                    side = len(image)
                    _check_room(room, len(names), side)
                if len(image) != side:
                    raise BadData(
                        f"{len(image)}x{len(image)} pixels, but {names[0]!r} {side}x{side}"
                    )
            keys.extend(hashlib.sha256(image).digest())
            any_lossy |= lossy
            yield image

    file = write_nameless(room, images())
    stored = Stored(file, 0, (side, side, 3), np.arange(len(names)))
    return Decoded(stored, bytes(keys), labels, any_lossy)


def _check_room(room: Path, count: int, side: int) -> None:
    """Refuse what the disk has no room for, as it comes and then sorted, before it is decoded."""
    what, size = f"{count} images of {side}x{side}", 3 * count * side**2
    if size > MOST_STORED_BYTES:
        raise BadData(f"{what} are over 64 GiB")
    if 2 * size > (free := shutil.disk_usage(room).free):
        raise BadData(f"{what} need {2 * size:,} bytes in {room}, and {free:,} are free")


@contextmanager
def blamed(name: str, source: Path) -> Iterator[None]:
    """Whatever goes wrong with an image is BadData, in one line with its name."""
    where = f"{name!r} in {source}"
    try:
        with warnings.catch_warnings(action="ignore"):  # it is read, or refused, not warned of
            yield
    except UnidentifiedImageError as error:
        raise BadData(f"{where}: not a PNG, BMP, WebP or JPEG image") from error
    except BadData as error:
        raise BadData(f"{where}: {error}") from error
    except Image.DecompressionBombError as error:
        raise BadData(f"{where}: a bomb: {error}") from error
    except Exception as error:  # decoders raise anything on foreign bytes
        reason = " ".join(str(error).split())
        raise BadData(f"{where}: truncated or corrupt: {reason}") from error


def folder_labels(names: list[str]) -> np.ndarray:
    folders = [PurePosixPath(name).parent.as_posix() for name in names]
    classes = {folder: i for i, folder in enumerate(sorted(set(folders) - {"."}))}
    return np.array([classes.get(folder, -1) for folder in folders], dtype=np.int64)


def listed_labels(path: Path, archive: zipfile.ZipFile, names: list[str]) -> np.ndarray:
    """The labels in dataset.json, {"labels": [[name, class], ...]} as StyleGAN's tools write it."""
    if "dataset.json" not in archive.namelist():
        return folder_labels(names)
    where = f"'dataset.json' in {path}"
    try:
        pairs = json.loads(archive.read("dataset.json"))["labels"]
        if pairs is None:
            return folder_labels(names)
        listed = {str(name): label for name, label in pairs}
    except Exception as error:  # of the zip, of JSON, of what is in it
        raise BadData(f"{where}: no list of [name, label] pairs under 'labels'") from error

    for name, label in pairs:
        if type(label) is not int or not 0 <= label < 1 << 31:
            raise BadData(f"{where}: label {label!r} of {name!r} is not a whole number from 0")
    if len(listed) < len(pairs):
        raise BadData(f"{where}: {len(pairs) - len(listed)} images are named twice")
    if absent := sorted(listed.keys() - set(names)):
        raise BadData(f"{where}: {absent[0]!r} is not an image in the zip")
    if absent := sorted(set(names) - listed.keys()):
        raise BadData(f"{where}: no label for {absent[0]!r}")
    return np.array([listed[name] for name in names], dtype=np.int64)


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip whose table of contents is in order; what is wrong with it later is BadData as well."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check_count(path, archive)
            _check_entries(path, archive.infolist())
            yield archive
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise BadData(f"{path}: not a whole zip: {error}") from error


def image_names(path: Path, archive: zipfile.ZipFile) -> list[str]:
    names = sorted(n for n in archive.namelist() if _is_image(n) and not n.endswith("/"))
    if not names:
        raise BadData(f"{path}: no images ({' '.join(ENDINGS)}) in this zip")

    # The name of what is passed over has no checksum, but it is there twice: opening compares.
    for name in set(archive.namelist()) - set(names):
        archive.open(name).close()
    return names


def _check_count(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse a zip whose table of contents is shorter than its end says: an entry hides others."""
    with open(path, "rb") as file:
        file.seek(-zipfile.sizeEndCentDir - len(archive.comment), io.SEEK_END)
        stated = int.from_bytes(file.read(12)[10:], "little")
    if len(archive.infolist()) != stated != MANY:
        raise BadData(f"{path}: {len(archive.infolist())} entries of {stated} that it should have")


def _check_entries(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Refuse a zip by its table of contents."""
    names: set[str] = set()
    for entry in entries:
        name = entry.filename
        problems = {
            "is encrypted": entry.flag_bits & 1,
            "is an absolute name": re.match(r"[/\\]|[A-Za-z]:", name),
            "climbs out of the zip": ".." in re.split(r"[/\\]", name),
            "is a link": stat.S_ISLNK(entry.external_attr >> 16),
            "is there twice": name in names,
            "lies outside of the zip": entry.header_offset < 0,
            f"is over {MOST_FILE_BYTES >> 20} MiB": (
                _is_image(name) and entry.file_size > MOST_FILE_BYTES
            ),
            "is over 8 GiB": entry.file_size > MOST_BYTES,
            f"shrank more than {MOST_SHRUNK} times": (
                entry.file_size > MOST_SHRUNK * max(entry.compress_size, 1)
            ),
        }
        for problem, found in problems.items():
            if found:
                raise BadData(f"{name!r} in {path}: {problem}")
        names.add(name)
    if (size := sum(entry.file_size for entry in entries)) > MOST_STORED_BYTES:
        raise BadData(f"{path}: {size:,} bytes unpacked, over 64 GiB")


# --- CIFAR-10 -------------------------------------------------------------------------------------


def read_cifar10(path: Path, split: str = "train") -> tuple[np.ndarray, np.ndarray]:
    """CIFAR-10's images (N, 32, 32, 3) uint8 and labels, from torchvision's files.

    `split`: train or test.
    """
    expected = dict(_cifar10().train_list if split == "train" else _cifar10().test_list)
    if path.is_dir():
        batches = {name: (path / name).read_bytes() for name in expected}
    else:
        _check_md5(path, path.read_bytes(), _cifar10().tgz_md5)
        with tarfile.open(path) as archive:
            batches = {name: archive.extractfile(f"{TREE}/{name}").read() for name in expected}

    # A pickle runs what it holds: only the bytes that torchvision knows are opened.
    pixels, labels = [], []
    for name, data in batches.items():
        _check_md5(path / name, data, expected[name])
        with warnings.catch_warnings(action="ignore"):  # an old numpy wrote them
            batch = pickle.loads(data, encoding="latin1")
        pixels.append(np.reshape(batch["data"], (-1, 3, 32, 32)).transpose(0, 2, 3, 1))
        labels.append(batch["labels"])
    return np.concatenate(pixels), np.concatenate(labels)


def download(target: Path) -> bool:
    """Fetch torchvision's CIFAR-10 archive; where that fails, leave nothing and say False."""

    # The first answer is awaited in a thread, for looking up a name knows no time limit.
    answers: queue.Queue = queue.Queue()
    threading.Thread(target=_ask, args=(_cifar10().url, answers), daemon=True).start()
    try:
        response = answers.get(timeout=1.6 * ANSWER_SECONDS)
    except queue.Empty:
        return False
    if response is None:
        return False

    def receive(file: IO[bytes]) -> None:
        md5, deadline = hashlib.md5(usedforsecurity=False), time.monotonic() + DOWNLOAD_SECONDS
        while block := response.read1(1 << 16):
            md5.update(block)
            file.write(block)
            if time.monotonic() > deadline:
                raise TimeoutError
        if md5.hexdigest() != _cifar10().tgz_md5:
            raise ValueError

    try:
        with response:
            write_file(target, receive)
    except (OSError, ValueError, http.client.HTTPException):
        return False
    return True


def _ask(url: str, answers: queue.Queue) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "Mozilla/5.0"})
    try:
        answers.put(urllib.request.urlopen(request, timeout=ANSWER_SECONDS))
    except (OSError, ValueError, http.client.HTTPException):
        answers.put(None)


def _check_md5(path: Path, data: bytes, expected: str) -> None:
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != expected:
        raise BadData(f"{path}: MD5 {found} is not that of CIFAR-10, {expected}")


def _cifar10() -> type:
    """torchvision's class: where the archive is, and the MD5s of it and of its files."""
    from torchvision.datasets import CIFAR10  # about a second, and only needed here

    return CIFAR10
