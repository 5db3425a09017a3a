"""`python -m dcgan prepare`: pixels worked out by hand, and refusals."""

import json
import os
import re
import struct
import zipfile
import zlib
from functools import partial

import numpy as np
import pytest
from conftest import encode, write_files, write_zip
from PIL import ExifTags, Image

from dcgan import prepare
from dcgan.__main__ import main
from dcgan.data import load
from dcgan.pictures import decode

RGB = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
GREY = RGB[..., 0]
DEEP = np.random.default_rng(1).integers(0, 1 << 16, (16, 16, 4), dtype=np.uint16)
ALPHA = np.where(GREY < 80, 0, np.where(GREY < 160, 51, 255)).astype(np.uint8)


def png(depth, colour, rows):
    """A PNG of 16x16 pixels as Pillow would not write it."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + zlib.crc32(kind + body).to_bytes(4)

    header = struct.pack(">IIBBBBB", 16, 16, depth, colour, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    parts = [(b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def grey(plane):
    return np.stack([plane] * 3, -1).astype(np.uint8)


def wide(rows):
    """Rows of 16 bits a channel, as a PNG has them."""
    return [row.astype(">u2").tobytes() for row in rows]


def on_white(pixels, alpha):
    opacity = alpha[..., None] / 255
    return np.rint(pixels * opacity + 255 * (1 - opacity)).astype(np.uint8)


def contents(path):
    """What a prepared zip holds: its labels, and the pixels of each of its images."""
    with zipfile.ZipFile(path) as archive:
        *names, last = archive.namelist()
        assert (names, last) == ([f"img{i:08d}.png" for i in range(len(names))], "dataset.json")
        labels = json.loads(archive.read("dataset.json"))["labels"]
        return labels, [decode(archive.read(name)) for name in names]


@pytest.fixture
def run_prepare(run_command):
    return partial(run_command, main, "prepare")


@pytest.fixture
def refused(refusal):
    return partial(refusal, main, "prepare")


@pytest.fixture
def photos(tmp_path):
    """Two classes and every format, in sizes that differ."""
    noise = np.random.default_rng(2).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    files = {
        "cats/a.jpg": encode(noise[:40], "JPEG"),
        "cats/b.PNG": encode(noise[:16, :16]),
        "dogs/deep/a.webp": encode(noise[:33, :20], "WEBP"),
        "dogs/deep/b.webp": encode(noise[:20, 50:], "WEBP", lossless=True),
        "dogs/deep/c.bmp": encode(noise[:, :17], "BMP"),
        "notes.txt": b"no picture",
        "cats/.hidden.png": b"nor this",
    }
    return write_files(tmp_path / "photos", files)


def test_a_folder_becomes_a_labelled_set_of_one_size(photos, run_prepare, tmp_path):
    out = tmp_path / "new" / "photos.zip"
    assert run_prepare(photos, "-o", out, "--side", 16) == (
        0,
        f"wrote 5 pictures of 16x16 to {out}: 2 classes, from folders\n"
        "left out 2:\n  cats/.hidden.png\n  notes.txt\n",
        "",
    )
    assert [path.name for path in out.parent.iterdir()] == ["photos.zip"]
    classes, (labels, images) = [0, 0, 1, 1, 1], contents(out)
    assert labels == [[f"img{i:08d}.png", label] for i, label in enumerate(classes)]
    assert np.array_equal(images[1], np.asarray(Image.open(photos / "cats" / "b.PNG")))

    # And the study reads just this.
    result = load(str(out), tmp_path / "cache")
    assert (result.kind, result.pixels.shape) == ("zip", (5, 16, 16, 3))
    pairs = {(image.tobytes(), label) for image, label in zip(images, classes, strict=True)}
    assert {(result.pixels[i].tobytes(), result.labels[i]) for i in range(5)} == pairs


def test_equal_pictures_give_equal_bytes(photos, run_prepare, tmp_path):
    files = {
        path.relative_to(photos).as_posix(): path.read_bytes()
        for path in sorted(photos.rglob("*"), reverse=True)
        if path.is_file()
    }
    again = write_files(tmp_path / "again", files)
    for path in again.rglob("*"):
        os.utime(path, (10**9, 10**9))
    out, made = tmp_path / "o.zip", set()
    for source in (photos, again, write_zip(tmp_path / "archive.zip", files)):
        out.unlink(missing_ok=True)
        assert run_prepare(source, "-o", out, "--side", 16)[0] == 0
        made.add(out.read_bytes())
    assert len(made) == 1
    with zipfile.ZipFile(out) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {entry.external_attr >> 16 for entry in archive.infolist()} == {0o644}


def test_labels_are_those_of_dataset_json_or_none(run_prepare, tmp_path):
    files = {"b.png": encode(RGB), "x/a.png": encode(GREY)}
    listed, new = [["b.png", 7], ["x/a.png", 3]], [["img00000000.png", 7], ["img00000001.png", 3]]
    cases = ((listed, new, "2 classes, from dataset.json"), (None, None, "no classes"))
    for number, (given, expected, said) in enumerate(cases):
        listing = {"dataset.json": json.dumps({"labels": given})}
        source, out = write_zip(tmp_path / "in.zip", files | listing), tmp_path / f"{number}.zip"
        code, shown, _ = run_prepare(source, "-o", out, "--side", 16, "--skip")
        assert (code, shown.splitlines()[0]) == (0, f"wrote 2 pictures of 16x16 to {out}: {said}")
        labels, images = contents(out)
        assert labels == expected
        assert np.array_equal(images, [RGB, grey(GREY)])
    assert load(str(out), tmp_path / "cache").labels.tolist() == [-1, -1]


UPPER = DEEP >> 8
PALETTE = Image.fromarray(GREY % 16)
PALETTE.putpalette(RGB[0].tobytes())
INKS = Image.fromarray(np.full((16, 16, 4), (10, 50, 200, 30), np.uint8), "CMYK")
PICTURES = {
    "grey": (encode(GREY), grey(GREY)),
    "16-bit grey": (png(16, 0, wide(DEEP[..., 0])), grey(UPPER[..., 0])),
    "16-bit rgb": (png(16, 2, wide(DEEP[..., :3])), UPPER[..., :3]),
    "16-bit rgba": (png(16, 6, wide(DEEP)), on_white(UPPER[..., :3], UPPER[..., 3])),
    "palette": (encode(PALETTE), RGB[0][GREY % 16]),
    "clear palette": (
        encode(PALETTE, transparency=3),
        on_white(RGB[0][GREY % 16], np.where(GREY % 16 == 3, 0, 255)),
    ),
    "webp rgba": (
        encode(np.dstack([RGB, ALPHA]), "WEBP", lossless=True, exact=True),
        on_white(RGB, ALPHA),
    ),
    "grey alpha": (
        encode(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)])),
        on_white(grey(GREY), ALPHA),
    ),
    "cmyk": (  # (255 - 10)(255 - 30) / 255 = 216.2, and so on
        encode(INKS, "JPEG", quality=100),
        np.full((16, 16, 3), (216, 181, 49), np.uint8),
    ),
}


@pytest.mark.parametrize("name", PICTURES)
def test_every_kind_of_colour_becomes_rgb_by_its_rule(name, run_prepare, tmp_path):
    content, expected = PICTURES[name]
    source, out = write_files(tmp_path / "s", {"a.png": content}), tmp_path / "o.zip"
    assert run_prepare(source, "-o", out, "--side", 16)[0] == 0
    np.testing.assert_array_equal(contents(out)[1][0], expected)


def test_pictures_are_turned_upright(run_prepare, tmp_path):
    exif, out = Image.Exif(), tmp_path / "o.zip"
    exif[ExifTags.Base.Orientation] = 6  # as a phone that is held upright stores it
    files = {"a.png": encode(np.rot90(RGB).copy(), exif=exif)}
    assert run_prepare(write_files(tmp_path / "s", files), "-o", out, "--side", 16)[0] == 0
    assert np.array_equal(contents(out)[1][0], RGB)
    with zipfile.ZipFile(out) as archive:
        kinds = re.findall(b"IHDR|eXIf|tEXt|IDAT|IEND", archive.read("img00000000.png"))
    assert kinds == [b"IHDR", b"IDAT", b"IEND"]  # where it was taken is not passed on


@pytest.mark.parametrize(("rows", "columns"), [(2, 0), (0, 2), (3, 0), (0, 3)])
def test_what_is_kept_is_the_square_in_the_middle(rows, columns):
    # What is cut off is nearest to the edges, and has no part in the result.
    frame = [(rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0)]
    for side in (16, 8):
        expected = prepare.square(Image.fromarray(RGB), side)
        for value in (0, 255):
            wide = Image.fromarray(np.pad(RGB, frame, constant_values=value))
            assert np.array_equal(prepare.square(wide, side), expected)
    assert np.array_equal(prepare.square(Image.fromarray(RGB), 16), RGB)


PNG = encode(RGB)
BOMB = png(8, 2, []).replace(struct.pack(">II", 16, 16), struct.pack(">II", 60_000, 60_000))
TWO = encode(Image.new("L", (16, 16)), save_all=True, append_images=[Image.new("L", (16, 16), 9)])
REFUSED = {
    "x.png": (b"no picture", "not a PNG, BMP, WebP or JPEG image"),
    "cut.jpg": (encode(RGB, "JPEG")[:-200], "cannot be decoded: "),
    "bomb.png": (
        BOMB.replace(BOMB[29:33], zlib.crc32(BOMB[12:29]).to_bytes(4)),
        "cannot be decoded: Image size",
    ),
    "two.png": (TWO, "an animation of 2 frames"),
    "small.png": (encode(RGB[:15]), "16x15 pixels, fewer than 16 a side; --enlarge takes it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_by_name_or_left_out(name, run_prepare, refused, tmp_path):
    content, reason = REFUSED[name]
    source = write_files(tmp_path / "s", {"a.png": PNG, name: content, "zz.png": encode(GREY)})
    out = tmp_path / "new" / "o.zip"
    complaint = refused(source, "-o", out, "--side", 16)
    assert complaint.startswith(f"dcgan: '{name}' in {source}: {reason}")

    code, shown, complaint = run_prepare(source, "-o", out, "--side", 16, "--skip")
    assert (code, complaint) == (0, "")
    first, second, third = shown.splitlines()
    assert first.startswith("wrote 2 pictures")
    assert second == "left out 1:"
    assert third.startswith(f"  '{name}' in {source}: {reason}")
    assert np.array_equal(contents(out)[1], [RGB, grey(GREY)])


def test_a_photo_of_100_megapixels_and_100_megabytes_is_taken(run_prepare, tmp_path):
    photo = {"a.bmp": encode(Image.new("L", (10_000, 10_000), 77), "BMP")}
    assert len(photo["a.bmp"]) > 100 * 10**6
    source = write_files(tmp_path / "s", photo)
    assert run_prepare(source, "-o", tmp_path / "o.zip")[0] == 0
    assert (contents(tmp_path / "o.zip")[1][0] == 77).all()


def test_bad_input_is_one_line_and_leaves_everything_as_it_was(refused, tmp_path):
    good = write_files(tmp_path / "good", {"a.png": PNG})
    bad = write_files(tmp_path / "bad", {"a.png": b"", "b.png": b""})
    torn = tmp_path / "torn.zip"
    torn.write_bytes(write_zip(tmp_path / "whole.zip", {"a.png": PNG}).read_bytes()[:-30])
    (tmp_path / "none").mkdir()
    out = ("-o", tmp_path / "out" / "o.zip")
    reasons = {
        (good, "-o", torn): f"-o {torn}: is there already",
        (good, "-o", tmp_path / "none"): f"-o {tmp_path / 'none'}: is there already",
        (good, *out, "--side", 32): f"'a.png' in {good}: 16x16 pixels, fewer than 32 a side",
        (tmp_path / "no\nwhere", *out): f"{tmp_path}/no\\nwhere: no such file or folder",
        (tmp_path / "none", *out): f"{tmp_path / 'none'}: no images in it (.png",
        (torn, *out): f"{torn}: not a whole zip",
        (bad, *out, "--skip"): f"{bad}: no picture is left, the first was refused: 'a.png' in",
    }
    for words, reason in reasons.items():
        assert refused(*words).startswith(f"dcgan: {reason}")
