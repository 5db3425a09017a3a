"""Memorisation: distances whose answer is known, generators that copy, and the command line."""

import hashlib
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from dcgan import rundir
from dcgan.config import Config
from dcgan.data import load, shapes
from dcgan.models import build, dump_generator
from eval import metrics, neighbours, results
from eval.__main__ import main
from eval.extractors import Extractor
from eval.neighbours import NEAR, Seen, compare, duplicates, examine, nearest, rms, see
from eval.score import Reference

CONFIG = Config(resolution=32, width=2, latent_size=4, images=100, batch=50, epochs=2)
COPIED = 110  # images that the command is asked for


# --- Distances ------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [3, 7, 1024])
def test_the_nearest_row_is_found_in_every_block(block, monkeypatch):
    rng = np.random.default_rng(0)
    queries, bank = rng.normal(size=(20, 5)), rng.normal(size=(15, 5))
    every = np.sqrt(np.square(queries[:, None] - bank).sum(axis=2))
    monkeypatch.setattr(neighbours, "BLOCK", block)
    distances, index = nearest(queries, bank)
    np.testing.assert_array_equal(index, every.argmin(axis=1))
    np.testing.assert_allclose(distances, every.min(axis=1), rtol=1e-12)


def test_copies_are_exactly_nothing_apart_and_pixels_do_not_overflow():
    rng = np.random.default_rng(0)
    bank = (1e6 + rng.normal(size=(9, 200))).astype(np.float32)
    distances, index = nearest(bank[::-1], bank)
    assert distances.tolist() == [0.0] * 9
    assert index.tolist() == list(range(9))[::-1]

    black, white = np.zeros((1, 3072), np.uint8), np.full((2, 3072), 255, np.uint8)
    distances, index = nearest(black, white)
    assert distances[0] == pytest.approx(255 * np.sqrt(3072), rel=1e-15)
    assert index[0] == 0  # the first of two equal ones
    assert rms(black[0], white[0]) == 255


def test_what_is_compared_by_hand():
    found = compare(np.array([1.0, 2.0, 5.0]), np.array([2.0, 4.0]))
    assert found == {"ratio": 2 / 3, "share": 2 / 3, "auc": 3.5 / 6}

    held_out = np.random.default_rng(0).uniform(1, 2, 500)
    assert compare(held_out, held_out) == {"ratio": 1.0, "share": 0.01, "auc": 0.5}
    assert compare(np.zeros(300), held_out) == {"ratio": 0.0, "share": 1.0, "auc": 1.0}
    far = compare(held_out * 2, held_out)
    assert far == {"ratio": 2.0, "share": 0.0, "auc": 0.0}
    same = compare(np.zeros(3), np.zeros(4))
    assert (same["share"], same["auc"], np.isnan(same["ratio"])) == (0.0, 0.5, True)


# --- Duplicates -----------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [8, 16, 28])
def test_duplicates_are_counted_on_both_sides_of_the_limit(side, monkeypatch):
    images = np.random.default_rng(0).integers(60, 190, (30, side, side, 3)).astype(np.uint8)
    assert duplicates(images) == (0, 0)

    # Of image 3 a copy and one that is just near; of image 5 two copies; of image 7 just not near.
    more = [images[3], images[3] + int(NEAR), images[5], images[5], images[7] + int(NEAR) + 1]
    both = np.concatenate([images, np.stack(more).astype(np.uint8)])
    assert duplicates(both) == (3, 1)
    monkeypatch.setattr(neighbours, "BLOCK", 4)
    assert duplicates(both) == (3, 1)
    assert duplicates(both[::-1]) == (3, 1)


def test_the_limit_is_of_all_pixels_not_of_means():
    grey = np.full((1, 16, 16, 3), 100, np.uint8)
    checked = grey.copy()
    checked[:, ::2, ::2] += 20  # the means differ by 5, the pixels by 10 (RMS)
    assert rms(checked[0], grey[0]) == 10
    assert duplicates(np.concatenate([grey, checked])) == (0, 0)
    checked[:, ::2, ::2] -= 5
    assert rms(checked[0], grey[0]) == 7.5
    assert duplicates(np.concatenate([grey, checked])) == (0, 1)


# --- A run ----------------------------------------------------------------------------------------


def mean_colours(images):
    """Features one can compute by hand: the mean and the SD of each channel; twice as logits."""
    channels = images.float().flatten(2)
    features = torch.cat([channels.mean(dim=2), channels.std(dim=2)], dim=1)
    return features, features


COLOURS = Extractor("colours", "5" * 64, 6, 32, "bilinear", "_cifar", "cpu", mean_colours)


def seen(pixels):
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    return Seen(mean_colours(images)[0].numpy(), pixels)


@pytest.fixture(scope="module")
def drawn():
    """Drawings: 200 training images and 200 others."""
    pixels = shapes(400).pixels
    return seen(pixels[::2].copy()), seen(pixels[1::2].copy())


def test_a_generator_that_memorised_is_found_out(drawn):
    train, test = drawn
    chosen = np.random.default_rng(0).permutation(200)[:150]
    values, figure = examine(Seen(train.features[chosen], train.pixels[chosen]), train, test)
    for space in ("features", "pixels"):
        assert values[f"auc_{space}"] > 0.99
        assert values[f"ratio_{space}"] == 0
        assert values[f"share_{space}"] > 0.99
    assert values["fd_cifar_train"] < 0.3 * values["fd_cifar_test"]
    assert values["fd_cifar_gap"] == values["fd_cifar_test"] - values["fd_cifar_train"] > 0

    # Above its neighbours, each copy is there three times.
    grid = np.asarray(Image.open(io.BytesIO(figure))).astype(int)
    assert grid.shape == (3 * 96 + 2 * 4, 8 * 96 + 7 * 4, 3)
    strips = [grid[i * 100 : i * 100 + 96] for i in range(3)]
    assert np.array_equal(strips[0], strips[1])
    assert np.array_equal(strips[0], strips[2])
    tile = train.pixels[chosen[0]]  # of many at distance 0, the first one
    assert np.array_equal(strips[0][1:96:3, 1:96:3], tile)


def test_the_figure_has_the_neighbours_of_each_space(drawn):
    train, test = drawn
    other = train.pixels[::-1]  # features of one image, pixels of another
    _, figure = examine(Seen(train.features, other), train, test)
    grid = np.asarray(Image.open(io.BytesIO(figure)))
    for row, expected in enumerate((other, train.pixels, other)):
        for column in range(8):
            tile = grid[row * 100 :, column * 100 :][1:96:3, 1:96:3]
            assert np.array_equal(tile, expected[column]), (row, column)


def test_copies_with_noise_are_found_and_shown_above_their_originals(drawn):
    train, test = drawn
    noise = np.random.default_rng(0).integers(-3, 4, train.pixels.shape)
    noisy = seen(np.clip(train.pixels + noise, 0, 255).astype(np.uint8))
    values, figure = examine(noisy, train, test)
    assert 0.9 < values["auc_pixels"] <= 1
    assert 0 < values["ratio_pixels"] < 0.2
    assert values["auc_features"] > 0.5
    grid = np.asarray(Image.open(io.BytesIO(figure))).astype(int)
    apart = np.abs(grid[:96] - grid[200:296])
    assert 0 < apart[:, :96].max() <= 3


def test_held_out_images_are_as_near_as_held_out_images(drawn):
    train, test = drawn
    values, _ = examine(test, train, test)
    for space in ("features", "pixels"):
        assert values[f"auc_{space}"] == 0.5
        assert values[f"ratio_{space}"] == 1
        assert values[f"share_{space}"] == 0.01
    assert values["fd_cifar_test"] == pytest.approx(0, abs=1e-6)
    assert values["fd_cifar_train"] == pytest.approx(-values["fd_cifar_gap"], abs=1e-6)
    assert values["fd_cifar_train"] > 1e-3


def test_both_sides_have_equally_many_images(drawn):
    train, test = drawn
    few = Seen(test.features[:120], test.pixels[:120])
    values, _ = examine(few, train, few)
    made = metrics.moments(few.features)
    expected = metrics.frechet_distance(made, metrics.moments(train.features[:120]))
    assert values["fd_cifar_train"] == expected
    assert examine(few, train, test)[0]["auc_pixels"] == 0.5  # against the first 120 alone
    with pytest.raises(ValueError, match="150 held-out images are needed, not 120"):
        examine(Seen(train.features[:150], train.pixels[:150]), train, few)


def test_larger_images_are_reduced_to_the_side_of_the_real_ones(drawn):
    train, _ = drawn
    moments = metrics.moments(train.features)
    real = Reference(COLOURS, train.features, moments, 200, 32, "0" * 64, "train")
    small = torch.from_numpy(train.pixels[:20]).permute(0, 3, 1, 2)
    same = see(small, real)
    assert np.array_equal(same.pixels, train.pixels[:20])
    assert np.array_equal(same.features, mean_colours(small)[0].numpy())
    flat = torch.full((3, 3, 64, 64), 77, dtype=torch.uint8)
    large = see(flat, real)
    assert (large.pixels.shape, large.pixels.dtype) == ((3, 32, 32, 3), np.uint8)
    assert (large.pixels == 77).all()


# --- The command line -----------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path):
    """A study of one run over 100 of 150 drawings, with 110 others."""
    pixels = shapes(260).pixels
    for name, part in (("train", pixels[:150]), ("test", pixels[150:])):
        (tmp_path / name).mkdir()
        for i, image in enumerate(part):
            Image.fromarray(image).save(tmp_path / name / f"{i}.png")
    train = load(str(tmp_path / "train"), tmp_path / "cache")
    folder = tmp_path / "study"
    rundir.replace(folder / "study.json", rundir.seal({"data": {"resolution": 32}}))
    config = CONFIG.model_copy(update={"data_sha256": train.sha256})
    run = folder / "norm=none" / "seed=0"
    rundir.replace(run / "run.json", rundir.seal({"config": config.model_dump()}))
    for epoch in (1, 2):
        content = dump_generator(build(config)[0], config)
        rundir.commit(run, epoch, {rundir.GENERATOR: content})
    return folder


@pytest.fixture
def one_thread():
    """As the command runs, which leaves it so."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run_neighbours(study, one_thread, capsys):
    def run(*words, where=study, data="train", test="test", n=COPIED):
        capsys.readouterr()
        named = ["--data", str(study.parent / data), "--test", str(study.parent / test)]
        try:
            options = ["--n", str(n), "--device", "cpu", *map(str, words)]
            code = main(["neighbours", str(where), *named, *options])
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


def test_the_command_keeps_and_prints_what_it_found(study, run_neighbours):
    run = study / "norm=none" / "seed=0"
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    code, shown, said = run_neighbours()
    assert (code, said) == (0, f"measured 1 of 1: {run}, epoch 2\n")
    made = {name: (run / "eval" / f"neighbours.{name}").read_bytes() for name in ("json", "png")}
    after = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    there = {run / "eval" / f"neighbours.{name}": content for name, content in made.items()}
    assert after == before | there

    found = json.loads(made["json"])
    values, about = found["values"], found["about"]
    assert (found["tool"], found["epoch"]) == ("neighbours", 2)
    assert values.keys() == found["titles"].keys() == neighbours.TITLES.keys()
    assert None not in values.values()
    assert values["duplicates_exact"] == 0
    assert (about["generated"], about["held_out"], about["training"]) == (COPIED, COPIED, 100)
    generator = (rundir.epoch_folder(run, 2) / rundir.GENERATOR).read_bytes()
    assert about["generator_sha256"] == hashlib.sha256(generator).hexdigest()
    assert f"{values['auc_pixels']:.4g}" in shown
    for words in (*found["titles"].values(), *found["notes"]):
        assert words in shown

    # What is there is kept; another epoch is another result; once more gives the same bytes.
    assert run_neighbours()[2] == f"kept 1 of 1: {run}, epoch 2\n"
    assert run_neighbours("--epoch", 1)[2] == f"measured 1 of 1: {run}, epoch 1\n"
    assert (run / "eval" / "neighbours.json").read_bytes() != made["json"]
    assert run_neighbours()[0] == 0
    assert {name: (run / "eval" / f"neighbours.{name}").read_bytes() for name in made} == made


def test_the_command_finds_a_generator_that_memorised(study, run_neighbours, monkeypatch):
    train = load(str(study.parent / "train"), study.parent / "cache").pixels
    copies = torch.from_numpy(train[np.arange(COPIED) % 100]).permute(0, 3, 1, 2)
    monkeypatch.setattr(neighbours, "generate", lambda G, z: copies)
    assert run_neighbours()[0] == 0
    values = results.stored(study / "norm=none" / "seed=0", "neighbours").values
    for space in ("features", "pixels"):
        assert values[f"auc_{space}"] > 0.99
        assert values[f"share_{space}"] > 0.9
    assert values["fd_cifar_gap"] > 0


def test_a_generator_that_is_not_finite_has_no_values(study, run_neighbours, monkeypatch):
    def broken(G, z):
        raise FloatingPointError

    monkeypatch.setattr(neighbours, "generate", broken)
    assert run_neighbours()[0] == 0
    run = study / "norm=none" / "seed=0"
    values = results.stored(run, "neighbours").values
    known = {name for name, value in values.items() if value is not None}
    assert known == {"duplicates_exact", "duplicates_near"}
    assert not (run / "eval" / "neighbours.png").exists()


def test_bad_input_is_one_line(study, run_neighbours):
    run = study / "norm=none" / "seed=0"
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    refused = [
        (run_neighbours(n=99), "--n 99: 100 images are needed at least"),
        (run_neighbours(n=111), "110 images of classes=all, --n is 111"),
        (run_neighbours("--epoch", 3), "epoch 3 kept no generator, only 1, 2 did"),
        (run_neighbours(test="train"), "these are the images of --data, none is held out"),
        (run_neighbours(data="test", test="train"), "test: its SHA-256 is"),
        (run_neighbours(test="none"), "none: no such file or folder"),
        (run_neighbours(where=study.parent), "no study here or above"),
    ]
    for (code, shown, complaint), reason in refused:
        assert (code, shown) == (2, ""), reason
        assert reason in complaint
        assert len(complaint.splitlines()) == 1, complaint
    assert {path: path.read_bytes() for path in study.rglob("*") if path.is_file()} == before

    path = rundir.epoch_folder(run, 2) / rundir.GENERATOR
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    code, shown, complaint = run_neighbours()
    assert (code, shown, len(complaint.splitlines())) == (2, "", 1)
    assert f"{path}: its SHA-256 is not the committed one" in complaint
    config = rundir.read_config(run).model_copy(update={"classes": "3"})
    rundir.replace(run / "run.json", rundir.seal({"config": config.model_dump()}))
    assert "--test test: has no images of classes=3" in run_neighbours("--epoch", 1)[2]
    assert not (run / "eval").exists()
