"""Sources of images, what is read of them and refused, the canonical order, the cache, shapes."""

import dataclasses
import hashlib
import json
import pickle
import re
import socket
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import encode, write_files, write_zip
from torchvision.datasets import CIFAR10

from dcgan import data, pictures, sources
from dcgan import shapes as drawing
from dcgan.cli import BadInput
from dcgan.data import canonical, describe, keep, load, load_cached, resize, shapes
from experiments.__main__ import main

DRAWN = shapes(40)
SHAPES_100 = "6afd0f5e83298565342bd56a37e69ad5c1ceee5694afc600c93adab8d76f55e2"
LABELS = {x.tobytes(): label for x, label in zip(DRAWN.pixels, DRAWN.labels.tolist(), strict=True)}
GOOD = encode(DRAWN.pixels[0])


def refusal(source, cache):
    """The one line with which a source is refused; nothing is kept."""
    with pytest.raises(BadInput) as caught:
        load(source, cache)
    assert not cache.exists()
    (line,) = str(caught.value).splitlines()
    return line


def assert_drawn(images):
    """They are the forty, by pixels, labels and hash."""
    assert images.sha256 == DRAWN.sha256
    np.testing.assert_array_equal(images.pixels, DRAWN.pixels)
    np.testing.assert_array_equal(images.labels, DRAWN.labels)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def files():
    """Forty images as files in ten folders, in an order that is not the canonical one."""
    order = enumerate(np.random.default_rng(0).permutation(40))
    return {f"class{DRAWN.labels[i]}/{n:02d}.png": encode(DRAWN.pixels[i]) for n, i in order}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """The forty as CIFAR-10's files, the last eight again as its test split."""
    folder, known = tmp_path / "cifar" / sources.TREE, []
    folder.mkdir(parents=True)
    for i, name in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]):
        part = slice(8 * min(i, 4), 8 * min(i, 4) + 8)
        planes = DRAWN.pixels[part].transpose(0, 3, 1, 2).reshape(8, -1)
        batch = pickle.dumps({"data": planes, "labels": DRAWN.labels[part].tolist()}, protocol=2)
        (folder / name).write_bytes(batch)
        known.append([name, hashlib.md5(batch).hexdigest()])
    (folder / "batches.meta").write_bytes(meta := pickle.dumps({"label_names": data.CIFAR10}))
    monkeypatch.setattr(CIFAR10, "train_list", known[:5])
    monkeypatch.setattr(CIFAR10, "test_list", known[5:])
    monkeypatch.setitem(CIFAR10.meta, "md5", hashlib.md5(meta).hexdigest())
    test = canonical("", DRAWN.pixels[32:], DRAWN.labels[32:]).sha256
    monkeypatch.setattr(data, "NAMES", {DRAWN.sha256: "cifar10", test: "cifar10-test"})
    return folder.parent


@pytest.fixture
def archive(tree, tmp_path, monkeypatch):
    """CIFAR-10's files as the archive."""
    path = tmp_path / "given" / sources.ARCHIVE
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as file:
        file.add(tree / sources.TREE, sources.TREE)
    monkeypatch.setattr(sources, "MD5", hashlib.md5(path.read_bytes()).hexdigest())
    return path


def test_every_level_survives_and_others_are_rounded_to_the_nearest_and_clipped():
    levels = torch.arange(256, dtype=torch.uint8)
    signed = data.to_signed(levels)
    assert (signed.min(), signed.max()) == (-1, 1)
    assert torch.equal(data.to_uint8(signed), levels)
    step = 2 / 255
    near = torch.tensor([-1 + 0.49 * step, -1 + 0.51 * step, 1 - 0.49 * step, 1 - 0.51 * step])
    assert data.to_uint8(near).tolist() == [0, 1, 255, 254]
    assert data.to_uint8(torch.tensor([-7.0, 7.0], dtype=torch.bfloat16)).tolist() == [0, 255]


def test_the_hash_covers_pixels_and_labels_and_not_their_order():
    order = np.random.default_rng(1).permutation(40)
    assert_drawn(canonical("other", DRAWN.pixels[order], DRAWN.labels[order]))
    pixels, labels = DRAWN.pixels.copy(), DRAWN.labels.copy()
    pixels[7, 3, 2, 1] ^= 1
    labels[7] += 1
    sets = [(x, y) for x in (pixels, DRAWN.pixels) for y in (labels, DRAWN.labels)]
    assert len({canonical("x", x, y).sha256 for x, y in sets}) == 4


def test_folder_zip_tree_and_archive_are_one_data_set(files, tree, archive, tmp_path, cache):
    given = [
        ("folder", write_files(tmp_path / "faces", files)),
        ("zip", write_zip(tmp_path / "in" / "plain.zip", files)),
        ("zip", tmp_path / "in"),
        *(("cifar10", path) for path in (tree, archive, archive.parent, tree / sources.TREE)),
    ]
    for kind, source in given:
        images = load(source, cache)
        assert (images.kind, images.name) == (kind, "cifar10")
        assert_drawn(images)


def test_names_are_known_ones_or_made_of_letters_that_a_folder_may_have(
    files, tmp_path, cache, monkeypatch
):
    names = {"Faces, 2nd try": "Faces-2nd-try", "v1.2_b": "v1.2_b", "日本": "images"}
    names |= {"x" * 99: "x" * 64, "shapes": f"shapes-{DRAWN.sha256[:8]}"}
    for given, name in names.items():
        source = write_files(tmp_path / given, files)
        assert load(source, cache).name == load(f"{source}/class0/..", cache).name == name
    monkeypatch.setitem(data.NAMES, DRAWN.sha256, "cifar10")
    assert load(source, cache).name == "cifar10"


def cases(files):
    """Sets of files as people have them, and the line that says what was read of each."""
    ten = "40 images, 10 classes of 4, from"

    def renamed(change):
        return {change(name): content for name, content in files.items()}

    yield renamed(lambda x: x.replace("/", "/in/")), f"{ten} folders"
    yield renamed("top/{}".format), f"{ten} folders of top/"
    test = {f"test/{name}": content for name, content in [*files.items()][:7]}
    left_out = f"left out: {', '.join(sorted(test)[:5])} and 2 more"
    yield renamed("train/{}".format) | test, f"{ten} folders of train/; {left_out}"
    notes = {"notes.txt": b"", ".git/a.png": b"", "class0/a.gif": b""}
    yield files | notes, f"{ten} folders; left out: .git/a.png, class0/a.gif, notes.txt"

    # What NVlabs' dataset_tool leaves: shards of mixed classes.
    names = {name: f"{i % 3:05d}/img{i:08d}.png" for i, name in enumerate(files)}
    shards, pairs = renamed(names.get), [[names[name], int(name[5])] for name in files]
    listed, null = (json.dumps({"labels": value}).encode() for value in (pairs, None))
    yield shards | {"dataset.json": null}, "40 images, 40 without a label"
    listed = shards | {"dataset.json": listed}
    yield listed, f"{ten} dataset.json"
    yield {f"top/{name}": x for name, x in listed.items()}, f"{ten} dataset.json"
    pairs = json.dumps({"labels": [[name.replace("/", "-"), int(name[5])] for name in files]})
    flat = renamed(lambda name: f"top/{name.replace('/', '-')}")
    yield flat | {"top/dataset.json": pairs.encode()}, f"{ten} dataset.json"


def assert_labels(images):
    assert images.labels.tolist() == [LABELS[x.tobytes()] for x in images.pixels]


def test_folders_and_zips_as_people_have_them_are_read_as_they_are_meant(files, tmp_path, cache):
    for number, (given, said) in enumerate(cases(files)):
        for write, name in ((write_files, f"{number}"), (write_zip, f"{number}.zip")):
            images = load(write(tmp_path / name, given), cache)
            assert describe(images) == said
            if images.labels_from:
                assert_labels(images)
    backslashes = {name.replace("/", "\\"): content for name, content in files.items()}
    assert_labels(load(write_zip(tmp_path / "windows.zip", backslashes), cache))


def test_linked_folders_are_followed_but_for_those_that_are_read_already(files, tmp_path, cache):
    real, linked = write_files(tmp_path / "real", files), tmp_path / "linked"
    linked.mkdir()
    for path in real.iterdir():
        (linked / path.name).symlink_to(path)
    assert_labels(load(linked, cache))
    for number, target in enumerate([".", "class1"]):
        source = write_files(tmp_path / f"{number}", files)
        (source / "other").symlink_to(source / target)
        assert refusal(source, cache) == f"{source}/other: a link to a folder that is read already"


def test_every_ending_is_read(tmp_path, cache):
    forms = {"PNG": "PNG", "webp": "WEBP", "bmp": "BMP"}
    forms |= dict.fromkeys(["JPG", "jfif", "jpe", "jpeg"], "JPEG")
    files = {f"a.{end}": encode(DRAWN.pixels[0], form) for end, form in forms.items()}
    assert len(load(write_files(tmp_path / "all", files), cache).pixels) == len(forms)


def test_images_outside_of_any_folder_have_no_label(tmp_path, cache):
    names = ["loose.png", "b/1.png", "a/deep/1.png", "b/2.png"]
    files = {name: encode(DRAWN.pixels[i]) for i, name in enumerate(names)}
    images = load(write_files(tmp_path / "f", files), cache)
    labels = {x.tobytes(): y for x, y in zip(images.pixels, images.labels, strict=True)}
    assert [labels[x.tobytes()] for x in DRAWN.pixels[:4]] == [-1, 1, 0, 1]
    assert describe(images) == "4 images, 2 classes of 1 to 2, from folders, 1 without a label"


def test_a_name_that_is_twice_in_a_zip_is_refused(tmp_path, cache):
    source = write_zip(tmp_path / "a.zip", {"a/1.png": GOOD, "a\\1.png": GOOD})
    assert refusal(source, cache) == f"{source}: 1 names are there twice"


FLIPPED = GOOD[:-20] + bytes([GOOD[-20] ^ 1]) + GOOD[-19:]
REFUSED = {
    "oblong.png": (
        encode(DRAWN.pixels[0][:30]),
        "32x30 pixels, not a square of 8 to 1024 a side; python -m",
    ),
    "other.png": (encode(DRAWN.pixels[0][:16, :16]), "16x16 pixels, but 'a.png' 32x32"),
    "flipped.png": (FLIPPED, "cannot be decoded: broken PNG file"),
    "two\nlines.png": (b"", "not a PNG, BMP, WebP or JPEG image"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_image_is_refused_by_name_with_the_reason(name, tmp_path, cache):
    content, reason = REFUSED[name]
    files = {"a.png": GOOD, f"sub/{name}": content}
    for source in (write_files(tmp_path / "set", files), write_zip(tmp_path / "set.zip", files)):
        line = refusal(source, cache)
        assert line.startswith(f"{f'sub/{name}'!r} in {source}: {reason}"), line


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"labels": [["a.png", 0]]}', "'b.png' has no label"),
        ('{"labels": [["a.png", 0], ["b.png", 1], ["c.png", 1]]}', "'c.png' is no image there"),
        ('{"labels": [["a.png", 0], ["b.png", 1], ["a.png", 1]]}', "1 images are named twice"),
        ('{"labels": [["a.png", 0], ["b.png", true]]}', "labels.1.1=True: "),
        ("[" * 100_000, "Invalid JSON: "),
    ],
)
def test_labels_that_do_not_fit_the_images_are_refused(content, reason, tmp_path, cache):
    files = {"a.png": GOOD, "b.png": GOOD, "dataset.json": content.encode()}
    for source in (write_zip(tmp_path / "x.zip", files), write_files(tmp_path / "x", files)):
        assert refusal(source, cache).startswith(f"'dataset.json' in {source}: {reason}")


def test_the_archive_is_torchvisions():
    assert (CIFAR10.url, CIFAR10.tgz_md5) == (sources.URL, sources.MD5)


@pytest.mark.parametrize("source", [None, "cifar10"])
def test_cifar10_is_downloaded_once_and_brings_its_test_split(
    source, archive, files, tmp_path, cache, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "URL", archive.as_uri())
    images = load(source, cache)
    assert (images.kind, images.name, images.sha256) == ("cifar10", "cifar10", DRAWN.sha256)
    assert describe(images) == "40 images, 10 classes of 4"
    assert [path.name for path in cache.iterdir()] == [sources.ARCHIVE]
    out, err = capfd.readouterr()
    assert out == ""
    assert f"{sources.ARCHIVE} is fetched from {sources.URL}" in err
    assert "download ━━━" in err

    # Now it is there.
    monkeypatch.setattr(sources, "URL", "nowhere")
    assert load(source, cache).sha256 == DRAWN.sha256
    test = load(source, cache, "test")
    assert (test.name, test.kind) == ("cifar10-test", "cifar10")
    assert {x.tobytes() for x in test.pixels} == {x.tobytes() for x in DRAWN.pixels[32:]}
    folder = write_files(tmp_path / "faces", files)  # which has no splits
    assert load(folder, cache, "test").sha256 == load(folder, cache).sha256 == DRAWN.sha256


@pytest.mark.parametrize(
    ("url", "reason"), [("file:{html}", "its md5 is"), ("http://127.0.0.1:{port}/x", "timed out")]
)
def test_without_cifar10_trials_take_shapes_and_studies_stop_with_the_reason(
    url, reason, archive, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "ANSWER_SECONDS", 0.3)
    (tmp_path / "html").write_text("Sign in to the network")
    plan = ["ablation", "--device", "cpu", "--plan"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setattr(sources, "URL", url.format(html=tmp_path / "html", port=port))
        assert main([*plan, "--scale", "smoke"]) == 0
        first, *said = capsys.readouterr().out.splitlines()
        assert re.fullmatch(f"CIFAR-10 is not in data/.*{reason}.*: the images are shapes.", first)
        assert any(line.startswith("data    shapes, ") for line in said)
        assert main([*plan, "--scale", "cpu32", "--data", "cifar10"]) == 2
        assert re.search(f"CIFAR-10 .*{reason}.*--data names other", capsys.readouterr().err)
    assert not any(Path("runs").rglob("*.gz"))


def test_data_in_the_working_folder_come_first(files, tree, tmp_path, cache, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "download", lambda *_: pytest.fail("asked the network"))
    write_files(Path("data"), {"faces/one.png": GOOD})
    write_zip(Path("data/faces.zip"), files)
    images = load(None, cache)
    assert (images.kind, images.name) == ("folder", "data")
    Path("data/faces/one.png").unlink()
    assert load(None, cache).kind == "zip"
    (tree / sources.TREE).rename(Path("data") / sources.TREE)
    assert load(None, cache).kind == load("cifar10", cache).kind == "cifar10"


@pytest.fixture
def kept(files, tmp_path, cache):
    """A folder of images that has been loaded and kept, at 32 and 16 pixels."""
    source = write_files(tmp_path / "faces", files)
    keep(load(source, cache), cache, 16)
    return source


def test_what_is_kept_is_not_decoded_again_until_it_is_edited(kept, tmp_path, cache, monkeypatch):
    moved = Path(kept).rename(tmp_path / "moved")
    (moved / "notes.txt").write_text("")
    with monkeypatch.context() as patch:
        patch.setattr(pictures, "decode", lambda *_: pytest.fail("decoded again"))
        images = load(moved, cache)
    assert (images.name, images.kind) == ("moved", "folder")
    assert describe(images) == "40 images, 10 classes of 4, from folders; left out: notes.txt"
    assert_drawn(images)
    before = {path: path.stat().st_mtime_ns for path in cache.glob("*.npy")}
    keep(images, cache, 16)
    assert {path: path.stat().st_mtime_ns for path in cache.glob("*.npy")} == before
    (moved / "class3").rename(moved / "class33")  # the same pixels and other labels
    (moved / "class4").rename(moved / "class3")
    assert load(moved, cache).sha256 != DRAWN.sha256


def test_a_worker_needs_only_the_hash(kept, cache):
    for side in (32, 16):
        images = load_cached(cache, DRAWN.sha256, side)
        np.testing.assert_array_equal(images.pixels, resize(DRAWN, side).pixels)
        np.testing.assert_array_equal(images.labels, DRAWN.labels)
        assert (images.sha256, images.name, images.kind) == (DRAWN.sha256, "faces", "folder")
        assert isinstance(images.pixels, np.memmap)
        images.pixels[:] = 0  # which does not reach the file
        assert load_cached(cache, DRAWN.sha256, side).pixels.any()
    with pytest.raises(BadInput, match=f"{DRAWN.sha256}-64.npy: not in the cache"):
        load_cached(cache, DRAWN.sha256, 64)


@pytest.mark.parametrize(("ending", "side"), [("npy", 32), ("npy", 16), ("json", 16)])
@pytest.mark.parametrize("damage", ["flip", "cut", "pickle", "gone"])
def test_a_damaged_cache_is_seen_and_mended(damage, ending, side, kept, cache):
    path = cache / f"{DRAWN.sha256}-{side}.{ending}"
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-40 if ending == "npy" else content.index(b'"array": "') + 12] ^= 1
    made = {"flip": content, "cut": content[:-9], "pickle": pickle.dumps(DRAWN.pixels)}
    path.write_bytes(made.get(damage, b""))
    if damage == "gone":
        path.unlink()
    with pytest.raises(BadInput, match="give the study's command again"):
        load_cached(cache, DRAWN.sha256, side)
    images = load(kept, cache)
    assert_drawn(images)
    keep(images, cache, 16)
    mended = load_cached(cache, DRAWN.sha256, side)
    np.testing.assert_array_equal(mended.pixels, resize(DRAWN, side).pixels)


def test_one_class_is_taken_by_number_or_by_cifar10s_name():
    labels = np.array([3, 1, 1, 0])
    pixels = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    images = data.Images("cifar10", "zip", pixels, labels, next(iter(data.NAMES)))
    for word in ("1", "automobile"):
        chosen = data.of_classes(images, word)
        assert (chosen.labels.tolist(), chosen.sha256) == ([1, 1], images.sha256)
        assert chosen.pixels[:, 0, 0, 0].tolist() == [1, 2]
    for given, expected in ((("1", 1), [1]), (("all",), [3, 1, 1, 0]), (("all", 3), [3, 1, 1])):
        assert data.of_classes(images, *given).labels.tolist() == expected
    for word in ("2", "dog", "cats", "01"):  # dogs are class 5
        with pytest.raises(BadInput, match=f"cifar10: has no images of classes={word}"):
            data.of_classes(images, word)
    other = dataclasses.replace(images, name="mine", sha256="0" * 64)
    with pytest.raises(BadInput, match="mine: has no images of classes=automobile"):
        data.of_classes(other, "automobile")


@pytest.mark.parametrize("side", [16, 64])
def test_resizing_keeps_order_labels_identity_and_brightness(side):
    resized = resize(DRAWN, side)
    assert (resized.pixels.shape, resized.pixels.dtype) == ((40, side, side, 3), np.uint8)
    assert resized.sha256 == DRAWN.sha256
    assert resized.labels is DRAWN.labels
    means = [images.pixels.mean(axis=(1, 2)) for images in (DRAWN, resized)]
    np.testing.assert_allclose(*means, atol=1.5)
    assert resize(DRAWN, 32) is DRAWN


def test_shapes_are_the_same_on_every_machine_and_more_begin_with_the_same_ones():
    assert shapes(100).sha256 == SHAPES_100
    for few, many in zip(drawing.draw(250), drawing.draw(600), strict=True):
        np.testing.assert_array_equal(few, many[:250])
