"""Memorisation: distances whose answer is known, and generators that copy."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from dcgan.data import shapes
from eval import metrics
from eval.neighbours import compare, examine, nearest, see
from eval.score import Reference


def test_copies_are_exactly_nothing_apart_and_pixels_do_not_overflow():
    rng = np.random.default_rng(0)
    known = (1e6 + rng.normal(size=(9, 200))).astype(np.float32)
    distances, index = nearest(known[::-1], known)
    assert distances.tolist() == [0.0] * 9
    assert index.tolist() == list(range(9))[::-1]

    black, white = np.zeros((1, 3072), np.uint8), np.full((2, 3072), 255, np.uint8)
    distances, index = nearest(black, white)
    assert distances[0] == pytest.approx(255 * np.sqrt(3072), rel=1e-15)


def test_what_is_compared_by_hand():
    result = compare(np.array([1.0, 2.0, 5.0]), np.array([2.0, 4.0]))
    assert result == {"ratio": 2 / 3, "share": 2 / 3, "auc": 3.5 / 6}

    held_out = np.random.default_rng(0).uniform(1, 2, 500)
    assert compare(held_out, held_out) == {"ratio": 1.0, "share": 0.01, "auc": 0.5}
    assert compare(np.zeros(300), held_out) == {"ratio": 0.0, "share": 1.0, "auc": 1.0}
    far = compare(held_out * 2, held_out)
    assert far == {"ratio": 2.0, "share": 0.0, "auc": 0.0}
    same = compare(np.zeros(3), np.zeros(4))
    assert (same["share"], same["auc"], np.isnan(same["ratio"])) == (0.0, 0.5, True)


@pytest.fixture(scope="module")
def drawn(colours):
    """Drawings: 200 training images and 200 others."""
    pixels = shapes(400).pixels
    real = Reference(colours, pixels, metrics.Moments(0, 0), 32, "0" * 64, "train")
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    return [see(images[start::2], real) for start in (0, 1)]


def test_a_generator_that_memorised_is_found_out(drawn):
    train, test = drawn
    chosen = np.random.default_rng(0).permutation(200)[:150]
    copies, _ = examine({space: x[chosen] for space, x in train.items()}, train, test)
    for space in ("features", "pixels"):
        assert copies[f"auc_{space}"] > 0.99
        assert copies[f"ratio_{space}"] == 0
        assert copies[f"share_{space}"] > 0.99

    # Held-out images are as near as held-out images.
    others, _ = examine(test, train, test)
    expected = {"auc": 0.5, "ratio": 1, "share": 0.01}
    spaces = ("features", "pixels")
    assert others == {f"{name}_{x}": value for name, value in expected.items() for x in spaces}


def test_the_figure_has_the_neighbours_of_each_space(drawn):
    train, test = drawn
    other = train["pixels"][::-1]  # features of one image, pixels of another
    _, figure = examine(train | {"pixels": other}, train, test)
    grid = np.asarray(Image.open(io.BytesIO(figure)))
    assert grid.shape == (3 * 96 + 2 * 2, 8 * 96 + 7 * 2, 3)
    for row, expected in enumerate((other, train["pixels"], other)):
        for column in range(8):
            tile = grid[row * 98 :, column * 98 :][1:96:3, 1:96:3]
            assert np.array_equal(tile, expected[column]), (row, column)


def test_larger_images_are_reduced_to_the_side_of_the_real_ones(colours):
    real = Reference(colours, np.zeros((0, 6)), metrics.Moments(0, 0), 32, "0" * 64, "train")
    large = see(torch.full((3, 3, 64, 64), 77, dtype=torch.uint8), real)
    assert (large["pixels"].shape, large["pixels"].dtype) == ((3, 32, 32, 3), np.uint8)
    assert (large["pixels"] == 77).all()
