import dataclasses
import hashlib
import http.server
import io
import json
import os
import pickle
import re
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import threading
import time
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from dcgan import data, sources
from dcgan import shapes as drawing
from dcgan.data import BadData, canonical, keep, load, load_cached, resize, shapes

DRAWN = shapes(40)
SHAPES_100 = "6afd0f5e83298565342bd56a37e69ad5c1ceee5694afc600c93adab8d76f55e2"


def saved(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def encode(pixels, form="PNG", mode=None, **options):
    image = Image.fromarray(pixels)
    return saved(image.convert(mode) if mode else image, form, **options)


GOOD = encode(DRAWN.pixels[0])


def write_folder(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return str(folder)


def write_zip(path, files):
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return str(path)


def refusal(source, cache):
    """The one line with which a source is refused; the cache stays as it was, absent."""
    with pytest.raises(BadData) as caught:
        load(str(source), cache)
    assert not cache.exists()
    line = str(caught.value)
    assert line
    assert "\n" not in line
    return line


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def files():
    """Forty images as files in ten folders, in an order that is not the canonical one."""
    order = np.random.default_rng(0).permutation(40)
    return {
        f"class{DRAWN.labels[i]}/{place:02d}.png": encode(DRAWN.pixels[i])
        for place, i in enumerate(order)
    }


@pytest.fixture
def listing(files):
    """What dataset.json says of them."""
    return {"labels": [[name, int(name[5])] for name in files]}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """The same forty as CIFAR-10's five batches, with torchvision made to know these files."""
    folder, known = tmp_path / "cifar" / sources.TREE, []
    folder.mkdir(parents=True)
    for i in range(5):
        part = slice(8 * i, 8 * i + 8)
        planes = DRAWN.pixels[part].transpose(0, 3, 1, 2).reshape(8, -1)
        batch = pickle.dumps({"data": planes, "labels": DRAWN.labels[part].tolist()}, protocol=2)
        (folder / f"data_batch_{i + 1}").write_bytes(batch)
        known.append([f"data_batch_{i + 1}", hashlib.md5(batch).hexdigest()])
    monkeypatch.setattr(CIFAR10, "train_list", known)
    return folder.parent


@pytest.fixture
def archive(tree, tmp_path, monkeypatch):
    """And as the archive, which torchvision is made to know too."""
    path = tmp_path / "given" / sources.ARCHIVE
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as file:
        file.add(tree / sources.TREE, sources.TREE)
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(path.read_bytes()).hexdigest())
    return path


# --- Conversion -----------------------------------------------------------------------------------


def test_every_level_survives_the_way_there_and_back():
    levels = torch.arange(256, dtype=torch.uint8)
    signed = data.to_signed(levels)
    assert (signed.min(), signed.max()) == (-1, 1)
    assert torch.equal(data.to_uint8(signed), levels)


def test_quantising_rounds_to_nearest_and_clips():
    step = 2 / 255
    near = torch.tensor([-1 + 0.49 * step, -1 + 0.51 * step, 1 - 0.49 * step, 1 - 0.51 * step])
    assert data.to_uint8(near).tolist() == [0, 1, 255, 254]
    assert data.to_uint8(torch.tensor([-7.0, 7.0])).tolist() == [0, 255]
    assert data.to_uint8(torch.tensor([-1, 1], dtype=torch.bfloat16)).tolist() == [0, 255]


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_batches_hold_the_rows_asked_for_with_channels_last(place, kept, cache):
    images = load_cached(cache, DRAWN.sha256, 32)
    pixels = torch.from_numpy(images.pixels)
    if place == "disk":
        pixels = data.hold(images, "all", 40, "cpu")
    order = torch.tensor([3, 1, 3, 39, 0, 7, 2])
    first, *_, last = data.signed_batches(pixels, order, 3, torch.device("cpu"))
    assert (first.shape, last.shape) == ((3, 3, 32, 32), (1, 3, 32, 32))
    for batch, rows in ((first, [3, 1, 3]), (last, [2])):
        assert batch.dtype == torch.float32
        assert batch.is_contiguous(memory_format=torch.channels_last)
        back = data.to_uint8(batch).permute(0, 2, 3, 1).numpy()
        np.testing.assert_array_equal(back, DRAWN.pixels[rows])


# --- One data set, however it is stored -----------------------------------------------------------


def test_the_order_of_the_input_does_not_matter():
    order = np.random.default_rng(1).permutation(40)
    shuffled = canonical("other", DRAWN.pixels[order], DRAWN.labels[order])
    assert shuffled.sha256 == DRAWN.sha256
    np.testing.assert_array_equal(shuffled.pixels, DRAWN.pixels)
    np.testing.assert_array_equal(shuffled.labels, DRAWN.labels)


def test_the_hash_covers_pixels_and_labels():
    pixels, labels = DRAWN.pixels.copy(), DRAWN.labels.copy()
    pixels[7, 3, 2, 1] ^= 1
    labels[7] += 1
    sets = [(x, y) for x in (pixels, DRAWN.pixels) for y in (labels, DRAWN.labels)]
    assert len({canonical("x", x, y).sha256 for x, y in sets}) == 4


def test_images_stand_in_the_order_of_their_hashes():
    keys = [hashlib.sha256(image.tobytes()).hexdigest() for image in DRAWN.pixels]
    assert keys == sorted(keys)


def test_equal_images_stand_in_the_order_of_their_labels():
    images = canonical("twins", DRAWN.pixels[[4, 9, 4, 4]], np.array([10, 0, 2, -1]))
    assert [label for label in images.labels if label] == [-1, 2, 10]


def test_keys_are_compared_to_their_last_byte_and_beyond_a_zero():
    rng = np.random.default_rng(5)
    keys = rng.integers(0, 2, (500, 32), dtype=np.uint8)
    keys[:, :30] = 0
    labels = rng.integers(-1, 3, 500)
    order = sorted(range(500), key=lambda i: (keys[i].tobytes(), labels[i]))
    assert data._order(keys.tobytes(), labels).tolist() == order


def test_folder_zip_tree_and_archive_are_one_data_set(
    files, listing, tree, archive, tmp_path, cache
):
    listed = {**files, "dataset.json": json.dumps(listing)}
    renamed = {f"x/{i}.png": content for i, content in enumerate(files.values())}
    pairs = [[name, pair[1]] for name, pair in zip(renamed, listing["labels"], strict=True)]
    renamed["dataset.json"] = json.dumps({"labels": pairs})
    found = [
        ("folder", load(write_folder(tmp_path / "faces", files), cache)),
        ("zip", load(write_zip(tmp_path / "listed.zip", listed), cache)),
        ("zip", load(write_zip(tmp_path / "plain.zip", files), cache)),
        ("zip", load(write_zip(tmp_path / "in" / "renamed.zip", renamed), cache)),
        ("zip", load(str(tmp_path / "in"), cache)),
        ("cifar10", load(str(tree), cache)),
        ("cifar10", load(str(tree / sources.TREE), cache)),
        ("cifar10", load(str(archive), cache)),
        ("cifar10", load(str(archive.parent), cache)),
    ]
    for kind, images in found:
        assert (images.kind, images.sha256, images.lossy) == (kind, DRAWN.sha256, False)
        np.testing.assert_array_equal(images.pixels, DRAWN.pixels)
        np.testing.assert_array_equal(images.labels, DRAWN.labels)
    names = [images.name for _, images in found]
    assert names[:5] == ["faces", "listed", "plain", "renamed", "renamed"]


def test_labels_come_from_folders_and_are_minus_one_outside_of_any(tmp_path, cache):
    pixels = DRAWN.pixels
    names = ["loose.png", "b/1.png", "a/deep/1.png", "b/2.png"]
    source = write_folder(tmp_path / "f", {n: encode(pixels[i]) for i, n in enumerate(names)})
    images = load(source, cache)
    found = {images.pixels[i].tobytes(): images.labels[i] for i in range(4)}
    assert [found[pixels[i].tobytes()] for i in range(4)] == [-1, 1, 0, 1]


def test_a_zip_without_labels_says_null(files, tmp_path, cache):
    flat = {f"{i}.png": content for i, content in enumerate(files.values())}
    source = write_zip(tmp_path / "a.zip", {**flat, "dataset.json": '{"labels": null}'})
    assert set(load(source, cache).labels) == {-1}


def test_known_data_keep_their_names_from_any_source(files, tmp_path, cache, monkeypatch):
    folder = write_folder(tmp_path / "cifar10", files)
    assert load(folder, cache).name == f"cifar10-{DRAWN.sha256[:8]}"  # it is not
    monkeypatch.setitem(data.NAMES, DRAWN.sha256, "cifar10")
    assert load(folder, cache).name == "cifar10"
    assert load(write_zip(tmp_path / "x.zip", files), cache).name == "cifar10"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("Faces, 2nd try", "Faces-2nd-try"),
        ("v1.2_b", "v1.2_b"),
        ("日本", "images"),
        ("x" * 99, "x" * 64),
        ("shapes", f"shapes-{DRAWN.sha256[:8]}"),
    ],
)
def test_names_are_made_of_letters_that_a_folder_may_have(given, name, files, tmp_path, cache):
    source = write_folder(tmp_path / given, files)
    assert load(source, cache).name == name
    assert load(f"{source}/class0/..", cache).name == name
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name)


# --- What is read ---------------------------------------------------------------------------------


GREY = DRAWN.pixels[0][..., 0]


def png(depth, colour, rows, before=b"", between=b"", interlaced=0, side=32):
    """A PNG chunk by chunk, as Pillow would not write it."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, interlaced))
    extra = [chunk(each[:4], each[4:]) if each else b"" for each in (before, between)]
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + extra[0] + header + extra[1] + body


def filtered(rows):
    """The rows of a PNG, none of them filtered."""
    return b"".join(b"\0" + bytes(row) for row in rows)


COLOURS = np.random.default_rng(3).integers(0, 256, (16, 3), dtype=np.uint8)
NIBBLES = np.random.default_rng(4).integers(0, 16, (32, 32), dtype=np.uint8)
PACKED = NIBBLES[:, ::2] << 4 | NIBBLES[:, 1::2]
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)]
ADAM7 += [(0, 1, 1, 2)]
PASSES = [
    DRAWN.pixels[0, y::dy, x::dx].reshape(-1, 3 * len(range(x, 32, dx))) for x, y, dx, dy in ADAM7
]
EXIF = Image.Exif()
EXIF[0x0112], EXIF[0x010E] = 1, "upright"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (GOOD, DRAWN.pixels[0]),
        (encode(DRAWN.pixels[0], "BMP"), DRAWN.pixels[0]),
        (encode(DRAWN.pixels[0], "WEBP", lossless=True), DRAWN.pixels[0]),
        (encode(DRAWN.pixels[0], "PNG", "RGBA"), DRAWN.pixels[0]),
        (encode(GREY), np.stack([GREY] * 3, -1)),
        (encode(GREY, "PNG", "LA"), np.stack([GREY] * 3, -1)),
        (encode(GREY, "PNG", "P"), np.stack([GREY] * 3, -1)),
        (png(4, 3, filtered(PACKED), between=b"PLTE" + COLOURS.tobytes()), COLOURS[NIBBLES]),
        (png(8, 2, b"".join(map(filtered, PASSES)), interlaced=1), DRAWN.pixels[0]),
        (
            png(8, 2, filtered(DRAWN.pixels[0].reshape(32, -1)), between=b"gAMA\0\0\1\0"),
            DRAWN.pixels[0],
        ),
        (encode(DRAWN.pixels[0], "BMP", "RGBA"), DRAWN.pixels[0]),
        (encode(GREY, "BMP"), np.stack([GREY] * 3, -1)),
        (encode(DRAWN.pixels[0], "WEBP", lossless=True, exif=EXIF), DRAWN.pixels[0]),
        (encode(DRAWN.pixels[0], "WEBP", "RGBA", lossless=True), DRAWN.pixels[0]),
    ],
    ids=[
        *("png", "bmp", "webp", "opaque-rgba", "grey", "opaque-grey-alpha", "palette"),
        *("palette of 16", "interlaced", "gamma", "bmp-rgba", "bmp-grey", "webp-exif", "webp-rgba"),
    ],
)
def test_lossless_images_are_read_to_the_bit(content, expected, tmp_path, cache):
    images = load(write_folder(tmp_path / "f", {"a.png": content}), cache)
    np.testing.assert_array_equal(images.pixels[0], expected)
    assert not images.lossy


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_one_lossy_image_marks_the_set(form, tmp_path, cache):
    lossy = encode(DRAWN.pixels[1], form, quality=95)
    images = load(write_folder(tmp_path / "f", {"a.png": GOOD, "b.JPG": lossy}), cache)
    assert images.lossy
    assert len(images.pixels) == 2
    keep(images, cache, 32)
    assert load(str(tmp_path / "f"), cache).lossy
    assert load_cached(cache, images.sha256, 32).lossy


def test_files_that_are_no_images_are_passed_over(tmp_path, cache):
    junk = [
        ".hidden.png",
        "Thumbs.db",
        "notes.txt",
        "a.json",
        "README",
        "__MACOSX/._a.png",
        ".x/b.png",
    ]
    files = {"a.png": GOOD, **dict.fromkeys(junk, b"junk")}
    assert len(load(write_folder(tmp_path / "f", files), cache).pixels) == 1
    assert len(load(write_zip(tmp_path / "f.zip", files), cache).pixels) == 1


# --- What is refused ------------------------------------------------------------------------------


def opaque(mode):
    return Image.fromarray(DRAWN.pixels[0]).convert(mode)


def transparent(mode):
    image = opaque("RGBA")
    image.putpixel((3, 4), (9, 9, 9, 254))
    return saved(image.convert(mode))


def rotated(form):
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(opaque("RGB"), form, exif=exif)


def animated(form):
    frames = [Image.fromarray(image) for image in DRAWN.pixels[:3]]
    return saved(frames[0], form, save_all=True, append_images=frames[1:])


REFUSED = {
    "bad.png": {
        "16 bits": (saved(Image.fromarray(np.zeros((32, 32), np.uint16))), "16 bits a channel"),
        "16 bits RGB": (png(16, 2, filtered([range(192)] * 32)), "16 bits a channel"),
        "16 bits, hidden": (
            png(16, 2, filtered([range(192)] * 32), before=b"tEXta\0b"),
            "its header is not its first chunk",
        ),
        "16 bits alpha": (png(16, 6, filtered([[255] * 256] * 32)), "16 bits a channel"),
        "4 bits grey": (png(4, 0, filtered(PACKED)), "4 bits a channel, not 8"),
        "two levels": (saved(opaque("1")), "1 bits a channel, not 8"),
        "half of the rows": (png(8, 0, filtered(GREY[:16])), "528 bytes of pixels, not 1056"),
        "too many rows": (png(8, 0, filtered([*GREY, *GREY])), "1057 bytes of pixels, not 1056"),
        "no palette": (png(8, 3, filtered(GREY)), "no palette"),
        "outside the palette": (
            png(4, 3, filtered(PACKED), between=b"PLTE" + COLOURS[:9].tobytes()),
            "colour 15 of a palette of 9",
        ),
        "two headers": (
            png(
                8,
                0,
                filtered(GREY),
                between=b"IHDR" + struct.pack(">IIBBBBB", 32, 32, 8, 0, 0, 0, 0),
            ),
            "truncated or corrupt",
        ),
        "one pixel": (encode(np.zeros((1, 1, 3), np.uint8)), "1x1 pixels, not a square of 8 to"),
        "large bomb": (png(8, 2, b"", side=30_000), "a bomb: Image size (900000000 pixels)"),
        "large file": (GOOD + bytes(sources.MOST_FILE_BYTES), "16 MiB"),
        "transparent": (transparent("RGBA"), "transparent pixels"),
        "transparent grey": (transparent("LA"), "transparent pixels"),
        "transparent colour": (
            saved(opaque("RGB"), transparency=tuple(DRAWN.pixels[0, 0, 0].tolist())),
            "transparent pixels",
        ),
        "transparent palette": (
            saved(opaque("P"), transparency=opaque("P").getpixel((0, 0))),
            "transparent pixels",
        ),
        "animated": (animated("PNG"), "animation of 3 frames"),
        "rotated": (rotated("PNG"), "EXIF orientation 6"),
        "oblong": (encode(np.zeros((32, 40, 3), np.uint8)), "40x32 pixels, not a square"),
        "other size": (encode(np.zeros((16, 16, 3), np.uint8)), "16x16 pixels, but 'a.png' 32x32"),
        "too small": (encode(np.zeros((7, 7, 3), np.uint8)), "7x7 pixels, not a square of 8 to"),
        "bomb": (encode(np.zeros((5000, 5000), np.uint8)), "5000x5000 pixels"),
        "truncated": (GOOD[:-200], "truncated or corrupt"),
        "wrong checksum": (
            GOOD[:-20] + bytes([GOOD[-20] ^ 1]) + GOOD[-19:],
            "truncated or corrupt",
        ),
        "empty": (b"", "not a PNG, BMP, WebP or JPEG image"),
        "text": (b"not an image", "not a PNG, BMP, WebP or JPEG image"),
        "GIF": (encode(DRAWN.pixels[0], "GIF"), "not a PNG, BMP, WebP or JPEG image"),
    },
    "bad.jpg": {
        "CMYK": (saved(opaque("CMYK"), "JPEG"), "colour mode CMYK"),
        "rotated JPEG": (rotated("JPEG"), "EXIF orientation 6"),
        "grey and 12 bits": (
            encode(GREY, "JPEG").replace(b"\xff\xc0\0\x0b\x08", b"\xff\xc0\0\x0b\x0c"),
            "not a PNG, BMP, WebP or JPEG",
        ),
        "truncated JPEG": (encode(DRAWN.pixels[0], "JPEG")[:-99], "truncated or corrupt"),
    },
    "bad.webp": {
        "animated WebP": (animated("WEBP"), "animation of 3 frames"),
        "rotated WebP": (rotated("WEBP"), "EXIF orientation 6"),
        "transparent WebP": (
            saved(Image.open(io.BytesIO(transparent("RGBA"))), "WEBP", lossless=True),
            "transparent pixels",
        ),
        "truncated WebP": (encode(DRAWN.pixels[0], "WEBP", lossless=True)[:-99], "truncated or"),
    },
    "bad.bmp": {
        "16 bits BMP": (
            struct.pack("<2sIHHI", b"BM", 2102, 0, 0, 54)
            + struct.pack("<IiiHHIIiiII", 40, 32, 32, 1, 16, 0, 2048, 0, 0, 0, 0)
            + bytes(2048),
            "16 bits a pixel",
        ),
        "two levels BMP": (saved(opaque("1"), "BMP"), "colour mode 1"),
        "truncated BMP": (encode(DRAWN.pixels[0], "BMP")[:-99], "truncated or corrupt"),
    },
    "bad.gif": {
        "ending": (encode(DRAWN.pixels[0], "GIF"), "not one of .png .bmp .webp .jpg .jpeg")
    },
}


@pytest.mark.parametrize("store", ["folder", "zip"])
@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        pytest.param(name, *case, id=label)
        for name, cases in REFUSED.items()
        for label, case in cases.items()
    ],
)
def test_an_image_is_refused_by_name_with_the_reason(name, content, reason, store, tmp_path, cache):
    write = write_folder if store == "folder" else write_zip
    source = write(tmp_path / f"set.{store}", {"a.png": GOOD, f"sub/{name}": content})
    line = refusal(source, cache)
    assert line.startswith(f"'sub/{name}' in {source}: ")
    assert reason in line


def test_a_refusal_is_one_line_whatever_the_name(tmp_path, cache):
    source = write_folder(tmp_path / "f", {"two\nlines.png": b""})
    assert refusal(source, cache).startswith(r"'two\nlines.png' in ")


def test_every_flipped_bit_of_a_png_is_found():
    pixels = DRAWN.pixels[0, :8, :8]
    content, passed = encode(pixels), 0
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            sources.decode(bytes(flipped))
        except Exception:
            continue
        passed += 1
    assert passed == 0


@pytest.mark.parametrize("form", ["PNG", "BMP", "WEBP", "JPEG"])
def test_an_image_that_was_cut_off_anywhere_is_refused(form):
    content = encode(DRAWN.pixels[0, :8, :8], form)
    for length in range(len(content)):
        with pytest.raises((BadData, OSError, ValueError, SyntaxError)):
            sources.decode(content[:length])


def test_the_content_says_what_an_image_is_not_the_ending(tmp_path, cache):
    jpeg = encode(DRAWN.pixels[0], "JPEG", quality=95)
    images = load(write_folder(tmp_path / "f", {"a.png": jpeg}), cache)
    np.testing.assert_array_equal(images.pixels[0], np.asarray(Image.open(io.BytesIO(jpeg))))
    assert images.lossy


def test_a_pipe_is_refused_and_not_waited_for(tmp_path, cache):
    source = write_folder(tmp_path / "f", {"a.png": GOOD})
    os.mkfifo(tmp_path / "f" / "b.png")
    assert refusal(source, cache) == f"'b.png' in {source}: not a regular file"


@pytest.mark.parametrize(("store", "count"), [("folder", 40), ("zip", 40)])
def test_images_are_counted_without_being_decoded(store, count, files, tmp_path, monkeypatch):
    forbid_decoding(monkeypatch)
    write = write_folder if store == "folder" else write_zip
    source = write(tmp_path / f"x.{store}", {**files, "README": b"x"})
    assert sources.count(*sources.find(source, tmp_path)) == count


def test_a_name_that_only_the_table_of_a_zip_has_is_refused(files, tmp_path, cache):
    path = Path(write_zip(tmp_path / "x.zip", files))
    content = bytearray(path.read_bytes())
    content[content.rfind(b".png") + 1] ^= 1  # in the table alone: an ending to be passed over
    path.write_bytes(content)
    assert refusal(path, cache).startswith(f"{path}: not a whole zip: File name in directory")


def test_an_unknown_users_folder_is_refused(cache):
    assert refusal("~no-such-user-x/faces", cache) == "~no-such-user-x/faces: no such user"


def test_what_is_over_the_limit_is_refused(files, tmp_path, cache, monkeypatch):
    monkeypatch.setattr(sources, "MOST_STORED_BYTES", 40 * 32 * 32 * 3 - 1)
    source = write_folder(tmp_path / "f", files)
    assert "40 images of 32x32 are over 64 GiB" in refusal(source, cache)


def test_what_the_disk_has_no_room_for_is_refused(files, tmp_path, cache, monkeypatch):
    source, size = write_zip(tmp_path / "x.zip", files), 40 * 32 * 32 * 3
    for free, refused in ((2 * size, False), (2 * size - 1, True)):
        usage = shutil.disk_usage(tmp_path)._replace(free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, usage=usage: usage)
        if refused:
            line = refusal(source, cache)
            assert f"40 images of 32x32 need {2 * size:,} bytes in {tmp_path}, and {free:,}" in line
        else:
            assert len(load(source, cache).pixels) == 40


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path, "no such file or folder"),
        (lambda path: path.mkdir(), "no images (.png"),
        (lambda path: write_folder(path, {"notes.txt": b"x"}), "no images (.png"),
        (lambda path: path.write_bytes(b"x"), "neither a folder, nor a zip of images, nor"),
        (
            lambda path: write_folder(path, {"a.zip": b"", "b.zip": b""}),
            "holds 2 zips, name one of them",
        ),
    ],
    ids=["absent", "empty", "no images", "some file", "two zips"],
)
def test_a_source_without_images_is_refused(make, reason, tmp_path, cache):
    make(tmp_path / "given")
    line = refusal(tmp_path / "given", cache)
    assert line.startswith(f"{tmp_path / 'given'}: ")
    assert reason in line


def write_odd_zip(path, name):
    """A zip of two entries, the second of which is as its name says."""
    entry = zipfile.ZipInfo(name)
    if name == "link.png":
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    if name == "zeros.bmp":
        entry.compress_type = zipfile.ZIP_DEFLATED
    zeros = encode(np.zeros((1024, 1024, 3), np.uint8), "BMP")
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings(action="ignore"):
        archive.writestr("twice.png", GOOD)
        archive.writestr(entry, zeros if name == "zeros.bmp" else GOOD)
    if name == "secret.png":
        content = bytearray(path.read_bytes())
        content[content.rfind(b"PK\x01\x02") + 8] |= 1  # the flag in the table of contents
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/a.png", "is an absolute name"),
        ("C:/a.png", "is an absolute name"),
        ("x/../../a.png", "climbs out of the zip"),
        ("link.png", "is a link"),
        ("twice.png", "is there twice"),
        ("zeros.bmp", "shrank more than 200 times"),
        ("secret.png", "is encrypted"),
    ],
)
def test_a_zip_is_refused_by_its_table_of_contents(name, reason, tmp_path, cache):
    write_odd_zip(tmp_path / "x.zip", name)
    assert refusal(tmp_path / "x.zip", cache) == f"{name!r} in {tmp_path / 'x.zip'}: {reason}"


def test_an_entry_before_the_beginning_of_a_zip_is_refused(files, tmp_path, cache):
    path = Path(write_zip(tmp_path / "x.zip", files))
    content = bytearray(path.read_bytes())
    content[-6] += 1  # the table of contents is said to begin a byte later than it does
    path.write_bytes(content)
    assert refusal(path, cache).endswith("lies outside of the zip")


def test_an_entry_that_hides_others_behind_it_is_refused(files, tmp_path, cache):
    path = Path(write_zip(tmp_path / "x.zip", files))
    content, name = path.read_bytes(), sorted(files)[0].encode()
    place = content.rindex(name) - 46 + 32  # the length of its comment in the table of contents
    path.write_bytes(content[:place] + b"\xff\xff" + content[place + 2 :])
    assert re.search(r"\d+ entries of \d+ that it should have", refusal(path, cache))


def test_a_zip_that_would_unpack_to_too_much_is_refused(files, tmp_path, cache, monkeypatch):
    monkeypatch.setattr(sources, "MOST_STORED_BYTES", sum(map(len, files.values())) - 1)
    assert "bytes unpacked, over 64 GiB" in refusal(write_zip(tmp_path / "x.zip", files), cache)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"labels": [["a.png", 0]]}', "no label for 'b.png'"),
        ('{"labels": [["a.png", 0], ["b.png", 1], ["c.png", 1]]}', "'c.png' is not an image in"),
        ('{"labels": [["a.png", 0], ["b.png", 1], ["a.png", 1]]}', "1 images are named twice"),
        ('{"labels": [["a.png", 0], ["b.png", 0.5]]}', "label 0.5 of 'b.png' is not a whole"),
        ('{"labels": [["a.png", 0], ["b.png", -1]]}', "label -1 of 'b.png' is not a whole"),
        ('{"labels": [["a.png", 0], ["b.png", true]]}', "label True of 'b.png' is not a whole"),
        ('{"labels": [1, 2]}', "no list of [name, label] pairs"),
        ('["a.png"]', "no list of [name, label] pairs"),
        ("{", "no list of [name, label] pairs"),
        ("[" * 100_000, "no list of [name, label] pairs"),
    ],
)
def test_labels_that_do_not_fit_the_zip_are_refused(content, reason, tmp_path, cache):
    files = {"a.png": GOOD, "b.png": GOOD, "dataset.json": content}
    line = refusal(write_zip(tmp_path / "x.zip", files), cache)
    assert line.startswith(f"'dataset.json' in {tmp_path / 'x.zip'}: ")
    assert reason in line


def test_a_damaged_zip_is_refused(files, tmp_path, cache):
    path = Path(write_zip(tmp_path / "x.zip", files))
    content = path.read_bytes()
    path.write_bytes(content[:-30])
    assert refusal(path, cache).startswith(f"{path}: not a whole zip: ")
    place = content.index(b"IDAT") + 20
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    assert "Bad CRC-32" in refusal(path, cache)


# --- CIFAR-10 -------------------------------------------------------------------------------------


class Malice:
    """Unpickling it leaves a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("store", ["tree", "archive"])
def test_a_foreign_pickle_is_refused_unopened(store, tree, archive, tmp_path, cache):
    batch = tree / sources.TREE / "data_batch_3"
    batch.write_bytes(pickle.dumps(Malice(tmp_path / "mark")))
    with tarfile.open(archive, "w:gz") as file:
        file.add(tree / sources.TREE, sources.TREE)
    line = refusal(tree if store == "tree" else archive, cache)
    assert line.startswith(f"{batch if store == 'tree' else archive}: MD5 ")
    assert not (tmp_path / "mark").exists()
    pickle.loads(batch.read_bytes())
    assert (tmp_path / "mark").exists()  # it would have


def test_an_incomplete_tree_is_refused(tree, cache):
    (tree / sources.TREE / "data_batch_4").unlink()
    assert "data_batch_4: No such file" in refusal(tree, cache)


def test_an_archive_of_unknown_bytes_is_refused(archive, cache):
    archive.write_bytes(archive.read_bytes()[:-1])
    assert " is not that of CIFAR-10, " in refusal(archive, cache)


@pytest.fixture
def serve(monkeypatch):
    """Put a file where torchvision says that the archive is."""

    def start(content, announced=None):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(announced or len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/x")

    servers = []
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_without_a_source_cifar10_is_downloaded_once(
    archive, serve, tmp_path, cache, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    serve(archive.read_bytes())
    images = load(None, cache)
    assert (images.kind, images.sha256) == ("cifar10", DRAWN.sha256)
    assert [path.name for path in cache.iterdir()] == [sources.ARCHIVE]
    monkeypatch.setattr(CIFAR10, "url", "nowhere")
    assert load(None, cache).sha256 == DRAWN.sha256
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("fault", ["other content", "cut off", "no page", "refused", "no address"])
def test_a_failed_download_leaves_nothing_and_ends_with_shapes(
    fault, archive, serve, tmp_path, cache, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    content = archive.read_bytes()
    if fault == "other content":
        serve(b"<html>Sign in to the network</html>")
    elif fault == "cut off":
        serve(content[:-99], announced=len(content))
    elif fault == "no page":
        monkeypatch.setattr(CIFAR10, "url", (tmp_path / "absent").as_uri())
    elif fault == "refused":
        with socket.create_server(("127.0.0.1", 0)) as unused:
            port = unused.getsockname()[1]
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{port}/x")
    else:
        monkeypatch.setattr(CIFAR10, "url", "http://name.invalid/x")
    monkeypatch.setattr(data, "SHAPES", 20)
    images = load(None, cache)
    assert (images.kind, images.name, len(images.pixels)) == ("shapes", "shapes", 20)
    assert not any(cache.glob("*"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("silence", ["at once", "later", "looking up the name"])
def test_a_download_without_an_answer_is_given_up(silence, archive, cache, monkeypatch):
    assert 1.6 * sources.ANSWER_SECONDS < 10
    monkeypatch.setattr(sources, "ANSWER_SECONDS", 0.2)
    hang = threading.Event()

    def unanswered(*_, **__):
        hang.wait()
        raise OSError

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.getsockname()[1]}/x")
        if silence == "looking up the name":
            monkeypatch.setattr(socket, "getaddrinfo", unanswered)
        elif silence == "later":

            def answer():
                connection, _ = server.accept()
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\nfirst")
                hang.wait()
                connection.close()

            threading.Thread(target=answer, daemon=True).start()
        start = time.monotonic()
        assert not sources.download(cache / sources.ARCHIVE)
        assert 0.1 < time.monotonic() - start < 10
        hang.set()
    assert not any(cache.glob("*"))


def test_a_download_that_only_trickles_is_given_up(archive, serve, cache, monkeypatch):
    serve(archive.read_bytes())
    monkeypatch.setattr(sources, "DOWNLOAD_SECONDS", 0)
    assert not sources.download(cache / sources.ARCHIVE)
    assert not any(cache.glob("*"))


def test_data_in_the_working_folder_come_first(files, tmp_path, cache, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "download", lambda target: pytest.fail("asked the network"))
    write_folder(Path("data"), {"faces/one.png": GOOD})
    assert (load(None, cache).kind, load(None, cache).name) == ("folder", "data")
    (tmp_path / "data" / "faces" / "one.png").unlink()
    write_zip(tmp_path / "data" / "faces.zip", files)
    assert (load(None, cache).kind, load(None, cache).name) == ("zip", "faces")
    monkeypatch.setattr(data, "SHAPES", 20)
    assert load("shapes", cache).kind == "shapes"


# --- The cache ------------------------------------------------------------------------------------


@pytest.fixture
def kept(files, tmp_path, cache):
    """A folder of images that has been loaded and kept, at 32 and 16 pixels."""
    source = write_folder(tmp_path / "faces", files)
    keep(load(source, cache), cache, 16)
    return source


def forbid_decoding(monkeypatch):
    monkeypatch.setattr(sources, "decode", lambda _: pytest.fail("decoded again"))


def test_what_is_kept_is_not_decoded_again(kept, cache, monkeypatch):
    forbid_decoding(monkeypatch)
    images = load(kept, cache)
    assert (images.name, images.kind, images.sha256) == ("faces", "folder", DRAWN.sha256)
    np.testing.assert_array_equal(images.pixels, DRAWN.pixels)
    np.testing.assert_array_equal(images.labels, DRAWN.labels)
    before = {path: path.stat().st_mtime_ns for path in cache.glob("*.npy")}
    keep(images, cache, 16)
    assert {path: path.stat().st_mtime_ns for path in cache.glob("*.npy")} == before


def test_a_moved_source_is_still_known_and_an_edited_one_is_not(kept, tmp_path, cache, monkeypatch):
    moved = Path(kept).rename(tmp_path / "moved")
    with monkeypatch.context() as patch:
        forbid_decoding(patch)
        assert load(str(moved), cache).name == "moved"
    (moved / "class3" / "new.png").write_bytes(encode(255 - DRAWN.pixels[0]))
    assert len(load(str(moved), cache).pixels) == 41


def test_a_worker_needs_only_the_hash(kept, cache):
    native, small = (load_cached(cache, DRAWN.sha256, side) for side in (32, 16))
    np.testing.assert_array_equal(native.pixels, DRAWN.pixels)
    np.testing.assert_array_equal(small.pixels, resize(DRAWN, 16).pixels)
    for images in (native, small):
        np.testing.assert_array_equal(images.labels, DRAWN.labels)
        assert (images.sha256, images.name, images.kind) == (DRAWN.sha256, "faces", "folder")
        assert isinstance(images.pixels, np.memmap)
    with pytest.raises(BadData, match=f"{DRAWN.sha256}-64.npy: not in the cache"):
        load_cached(cache, DRAWN.sha256, 64)


def test_writing_into_a_mapped_array_does_not_reach_the_file(kept, cache):
    load_cached(cache, DRAWN.sha256, 32).pixels[:] = 0
    np.testing.assert_array_equal(load_cached(cache, DRAWN.sha256, 32).pixels, DRAWN.pixels)


@pytest.mark.parametrize("side", [32, 16])
@pytest.mark.parametrize("ending", ["npy", "json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone"])
def test_a_damaged_cache_is_found_and_mended(damage, ending, side, kept, cache):
    path = cache / f"{DRAWN.sha256}-{side}.{ending}"
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-40 if ending == "npy" else content.index(b'"array": "') + 12] ^= 1
    path.write_bytes({"flip": content, "cut": content[:-9], "empty": b""}.get(damage, b""))
    if damage == "gone":
        path.unlink()
    with pytest.raises(BadData, match="start again from the source"):
        load_cached(cache, DRAWN.sha256, side)
    images = load(kept, cache)
    np.testing.assert_array_equal(images.pixels, DRAWN.pixels)
    keep(images, cache, 16)
    expected = resize(DRAWN, side)
    np.testing.assert_array_equal(load_cached(cache, DRAWN.sha256, side).pixels, expected.pixels)


def test_an_array_that_ends_too_early_is_no_batch(kept, cache):
    held = data.hold(load_cached(cache, DRAWN.sha256, 32), "all", 40, "cpu")
    os.truncate(held.file.name, 39 * 32 * 32 * 3)
    batches = data.signed_batches(held, torch.tensor([0, 39]), 1, torch.device("cpu"))
    assert next(batches).shape == (1, 3, 32, 32)
    with pytest.raises(OSError, match=f"{DRAWN.sha256}-32.npy"):
        next(batches)


@pytest.mark.parametrize("write", [np.savez, lambda file, pixels: pickle.dump(pixels, file)])
def test_a_file_of_another_kind_in_place_of_an_array_is_found_and_not_opened(write, kept, cache):
    path = cache / f"{DRAWN.sha256}-32.npy"
    with path.open("wb") as file:
        write(file, DRAWN.pixels)
    with pytest.raises(BadData, match="start again from the source"):
        load_cached(cache, DRAWN.sha256, 32)


def test_one_array_under_the_hash_of_another_is_found(kept, cache):
    other = canonical("other", 255 - DRAWN.pixels, DRAWN.labels)
    keep(other, cache, 32)
    for ending in ("npy", "json"):
        (cache / f"{other.sha256}-32.{ending}").replace(cache / f"{DRAWN.sha256}-32.{ending}")
    with pytest.raises(BadData, match="damaged"):
        load_cached(cache, DRAWN.sha256, 32)


def test_a_cache_that_cannot_be_written_is_named(kept, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        keep(load(kept, tmp_path / "none"), tmp_path / "file", 32)


# --- Resizing -------------------------------------------------------------------------------------


def test_one_class_is_taken_by_number_or_by_cifar10s_name():
    labels = np.array([3, 1, 1, 0])
    pixels = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    images = data.Images("cifar10", "zip", pixels, labels, next(iter(data.NAMES)))
    for word in ("1", "automobile"):
        chosen = data.of_classes(images, word)
        assert chosen.pixels[:, 0, 0, 0].tolist() == [1, 2]
        assert chosen.labels.tolist() == [1, 1]
        assert chosen.sha256 == images.sha256
    assert data.of_classes(images, "1", 1).labels.tolist() == [1]
    assert data.of_classes(images, "all") is images
    assert data.of_classes(images, "all", 3).labels.tolist() == [3, 1, 1]
    for word in ("2", "dog", "cats", "01"):  # dogs are class 5
        with pytest.raises(BadData, match=f"cifar10: has no images of classes={word}"):
            data.of_classes(images, word)
    other = dataclasses.replace(images, name="mine", sha256="0" * 64)
    with pytest.raises(BadData, match="mine: has no images of classes=automobile"):
        data.of_classes(other, "automobile")


@pytest.mark.parametrize("side", [16, 64])
def test_resizing_keeps_order_labels_identity_and_brightness(side):
    resized = resize(DRAWN, side)
    assert resized.pixels.shape == (40, side, side, 3)
    assert resized.pixels.dtype == np.uint8
    assert resized.sha256 == DRAWN.sha256
    assert resized.labels is DRAWN.labels
    means = [images.pixels.mean(axis=(1, 2)) for images in (DRAWN, resized)]
    np.testing.assert_allclose(*means, atol=1.5)


def test_resizing_to_the_same_size_changes_nothing():
    assert resize(DRAWN, 32) is DRAWN


def test_resizing_is_antialiased_and_rounds_to_nearest():
    columns = np.tile(np.array([0, 255], np.uint8), 16)  # stripes finer than the small image holds
    pixels = np.broadcast_to(columns[None, None, :, None], (1, 32, 32, 3))
    small = resize(canonical("stripes", pixels, np.zeros(1, np.int64)), 8).pixels
    assert 118 <= small.min() <= small.max() <= 137
    flat = canonical("flat", np.full((1, 32, 32, 3), 77, np.uint8), np.zeros(1, np.int64))
    assert set(resize(flat, 8).pixels.flat) == {77}
    assert set(resize(flat, 64).pixels.flat) == {77}


@pytest.mark.parametrize("side", [0, 7, 1025])
def test_a_resolution_out_of_range_is_refused(side):
    with pytest.raises(BadData, match=f"shapes: cannot be resized to {side} pixels"):
        resize(DRAWN, side)


# --- Shapes ---------------------------------------------------------------------------------------


def test_shapes_are_the_same_in_every_process():
    code = "import dcgan.shapes as s, hashlib; print(hashlib.sha256(s.draw(100)[0]).hexdigest())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert other.stdout.strip() == hashlib.sha256(drawing.draw(100)[0]).hexdigest()


def test_shapes_are_the_same_on_every_machine():
    assert shapes(100).sha256 == SHAPES_100


def test_more_shapes_begin_with_the_same_ones():
    few, many = (drawing.draw(count) for count in (250, 600))
    np.testing.assert_array_equal(few[0], many[0][:250])
    np.testing.assert_array_equal(few[1], many[1][:250])


def test_shapes_vary():
    images = shapes(2000)
    assert np.bincount(images.labels).tolist() == [200] * 10
    assert len({image.tobytes() for image in images.pixels}) == 2000

    # Within a class every pixel takes many values; between classes even the outlines differ.
    classes = [images.pixels[images.labels == label].astype(float) for label in range(10)]
    assert min(pixels.std(axis=0).min() for pixels in classes) > 40
    edges = [np.abs(np.diff(pixels, axis=1)).mean(axis=(0, 3)) for pixels in classes]
    gaps = [np.abs(edges[i] - edges[j]).mean() for i in range(10) for j in range(i)]
    assert min(gaps) > 0.1

    # The forms stand out from their ground, and have soft edges.
    spread = images.pixels.astype(float).mean(axis=3).std(axis=(1, 2))
    assert np.quantile(spread, 0.01) > 8


def test_forms_have_the_area_that_geometry_gives_them():
    y, x = (np.mgrid[:600, :600] + 0.5) / 300 - 1
    areas = {name: 4 * (form(x, y) < 0).mean() for name, form in drawing.FORMS.items()}
    expected = {
        "disc": np.pi * 0.85**2,
        "ring": np.pi * (0.92**2 - 0.52**2),
        "square": 1.5**2,
        "frame": 1.64**2 - 0.96**2,
        "triangle": 3 * np.sqrt(3) / 4,
        "cross": 2 * 1.9 * 0.6 - 0.6**2,
        "stripes": 3 * 1.6 * 0.32,
        "checker": 2 * 0.8**2,
        "star": 10 * np.sin(np.pi / 5) * np.sin(np.pi / 10) / np.sin(np.pi * 0.7) / 2,
    }
    for name, area in expected.items():
        assert areas[name] == pytest.approx(area, rel=0.01), name
    assert 0.8 < areas["crescent"] < 1.6
