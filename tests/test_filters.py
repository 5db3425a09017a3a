"""Guided backpropagation and how concentrated it is, by hand and on planted patterns."""

import io
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dcgan.config import Config
from dcgan.data import canonical
from dcgan.models import build
from eval.filters import BATCH, TOP, analyse, concentration, guided, respond
from eval.finished import GAP

CONFIG = Config(resolution=16, width=4, latent_size=8, images=6, batch=3, epochs=2)


def layer(weight, activation):
    """A 1x1 convolution of given rows (out, in), and what follows it."""
    conv = nn.Conv2d(len(weight[0]), len(weight), 1, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor(weight, dtype=torch.float32)[..., None, None])
    return nn.Sequential(conv, activation)


class TwoLayers(nn.Module):
    """As much of a discriminator as guided backpropagation sees."""

    def __init__(self, first, second, activation):
        super().__init__()
        self.from_rgb, self.down = layer(first, activation), layer(second, activation)


@pytest.mark.parametrize(("kind", "slope"), [(nn.ReLU, 0.0), (partial(nn.LeakyReLU, 0.2), 0.2)])
def test_the_guided_rule_by_hand(kind, slope):
    # The first hidden unit is active. The second is not, and a positive gradient comes to it. To
    # the third comes a negative one.
    D = TwoLayers([[1, 0, 0], [0, -1, 0], [0, 0, 1]], [[2, 3, -1]], kind(inplace=True))
    x = torch.tensor([5.0, 1.0, 0.5]).reshape(1, 3, 1, 1).requires_grad_()

    def gradient():
        return torch.autograd.grad(D.down(D.from_rgb(x)).sum(), x)[0].flatten().tolist()

    plain = gradient()
    with guided(D):
        inside = gradient()
    assert plain == pytest.approx([2, -3 * slope, -1])
    assert inside == pytest.approx([2, -3 * slope, 0])
    assert gradient() == plain  # the rule has left no trace


def test_each_feature_is_followed_from_the_images_and_places_where_it_is_strongest():
    # Feature 0 is the red of a pixel, feature 1 twice its green; blue is seen by none.
    D = TwoLayers(np.eye(3).tolist(), [[1, 0, 0], [0, 2, 0]], nn.LeakyReLU(0.2))
    images = torch.zeros(BATCH + 2, 3, 4, 4)
    images[3, 0, 1, 2], images[BATCH + 1, 0, 0, 3] = 0.9, 0.8
    images[1, 1, 3, 0], images[2, 1, 2, 2] = 0.7, 0.3
    images[:, 2] = 1
    feature, image, gradients = respond(D, images, top=2)
    assert feature.tolist() == [1, 0, 0, 1]  # by their strength: 1.4, 0.9, 0.8, 0.6
    assert image.tolist() == [1, 3, BATCH + 1, 2]
    expected = torch.zeros(4, 3, 4, 4)
    expected[0, 1, 3, 0] = expected[3, 1, 2, 2] = 2
    expected[1, 0, 1, 2] = expected[2, 0, 0, 3] = 1
    assert torch.equal(gradients, expected)


def test_concentration_by_hand():
    for count in (20, 100, 1024):  # of 1024 pixels 51.2 are five percent
        constant, delta = np.full((1, count), 3.0), np.eye(count)[:2]
        assert concentration(constant) == pytest.approx(0.05, rel=1e-12)
        assert concentration(delta).tolist() == [1, 1]
    ladder = np.random.default_rng(0).permutation(np.arange(1.0, 101))[None]
    assert concentration(ladder) == pytest.approx((100 + 99 + 98 + 97 + 96) / 5050)
    assert concentration(ladder, share=0.015) == pytest.approx((100 + 99 / 2) / 5050)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(256, size=(6, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def analysed(finished_run, pixels):
    """What is measured of a D with six images of noise."""

    def measure(D):
        images = canonical("noise", pixels, np.zeros(6, int))
        return analyse(finished_run(CONFIG, train=images, discriminator=D), 6)

    return measure


def test_filters_that_see_one_pixel_are_as_concentrated_as_can_be(analysed):
    D = build(CONFIG)[1]
    with torch.no_grad():
        for conv in (D.from_rgb[0], D.down[0][0]):
            tap = conv.weight[:, :, 1, 2].abs().clone()
            conv.weight.zero_()
            conv.weight[:, :, 1, 2] = tap
    values = analysed(D).values
    assert values["energy_trained"] == 1
    assert values["energy_ratio"] == pytest.approx(1 / values["energy_untrained"])
    assert values["energy_untrained"] < 0.8


def test_silent_units_are_counted_and_left_out(analysed):
    D = build(CONFIG)[1]
    with torch.no_grad():
        D.down[0][0].weight[:3] = 0
    result = analysed(D)
    assert result.about["silent_trained"] == 3 * TOP
    assert 0.05 < result.values["energy_trained"] < 0.8


def test_the_picture_has_images_above_gradients_and_trained_above_untrained(analysed, pixels):
    picture = np.asarray(Image.open(io.BytesIO(analysed(build(CONFIG)[1]).picture)))
    side = 16 + GAP
    assert picture.shape == (4 * side - GAP, 8 * side - GAP, 3)
    assert np.array_equal(picture[: 2 * side - GAP], picture[2 * side :])  # of the same weights
    shown = {picture[:16, x : x + 16].tobytes() for x in range(0, 8 * side, side)}
    assert shown <= {image.tobytes() for image in pixels}
    response = picture[side : side + 16, :16].astype(int)
    assert np.abs(response - 127.5).max() == 127.5  # the largest gradient is black or white
    assert np.median(response) in (127, 128)  # and none is grey
