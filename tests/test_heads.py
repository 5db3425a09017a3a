"""The cost of D's heads: operations worked out by hand, and the order of what is timed."""

import numpy as np
import pytest

from dcgan.config import Config
from dcgan.models import MAP, channels
from eval import heads as work
from eval.heads import HEADS, TITLES, analyse, operations, step_speeds

CONFIG = Config(resolution=16, width=4, latent_size=8, images=40, batch=20, epochs=2)


def of_a_step(config):
    """Multiplications for each image, by hand: of G's images, of D's step and of G's step."""
    widths = [3, *channels(config)]
    top = widths[-1]

    # One pass: each output of a convolution, or input of a transposed one.
    sides = [config.resolution >> i for i in range(1, len(widths))]
    layers = [16 * a * b * side**2 for a, b, side in zip(widths, widths[1:], sides, strict=False)]
    first, between = layers[0], sum(layers)
    D = between + 16 * top * (1 if config.head == "conv" else 4)
    into = config.latent_size * top * MAP**2
    G = between + into

    # D: two passes there and back, but for the gradient of images. G: the way back, but for the
    # gradient of noise; and there and back through D, whose weights need no gradient.
    return G, 2 * (3 * D - first), 2 * G - into + 2 * D


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("resolution", "stem"), [(16, "conv"), (16, "linear"), (64, "conv")])
def test_operations_are_those_of_the_layers(resolution, stem, head):
    config = Config(resolution=resolution, width=4, stem=stem, head=head)
    assert operations(config) == sum(of_a_step(config))


def test_a_step_of_g_is_shared_by_its_steps_of_d():
    config = CONFIG.model_copy(update={"d_steps": 4})
    images, D, G = of_a_step(config)  # G makes images for every step of D
    assert operations(config) == images + D + G / 4


def test_pairs_alternate_and_every_sample_is_of_the_same_images(monkeypatch):
    shown = []

    def seconds(config, device, pixels):
        shown.append((config.head, (len(pixels), int(pixels.sum()))))
        return len(pixels) / {"conv": 100, "avgpool": 200}[config.head]

    monkeypatch.setattr(work, "_seconds", seconds)
    config = CONFIG.model_copy(update={"d_steps": 3})
    configs = {head: config.model_copy(update={"head": head}) for head in HEADS}

    # 60 images are too few for the faster head: 0.3 s and 0.6 s are enough, 0.25 s being asked for.
    assert step_speeds(configs, "cpu", 4)[1] == 60
    monkeypatch.setattr(work, "SECONDS", 0.5)
    speeds, images = step_speeds(configs, "cpu", 4)
    assert images == 120
    order, seen = zip(*shown[-8:], strict=True)
    assert list(order) == 2 * ["conv", "avgpool", "avgpool", "conv"]
    assert len(set(seen)) == 1
    assert (speeds["conv"].tolist(), speeds["avgpool"].tolist()) == ([100] * 4, [200] * 4)


def test_values_are_medians_over_pairs(monkeypatch, finished_run):
    speeds = {"conv": np.array([10, 20, 40, 50, 100]), "avgpool": np.array([10, 10, 60, 50, 400])}
    monkeypatch.setattr(work, "step_speeds", lambda *_: (speeds, 40))
    values = analyse(finished_run(CONFIG), 5).values
    assert list(values) == list(TITLES)
    assert (values["step_speed_conv"], values["step_speed_avgpool"]) == (40, 50)
    assert (values["ratio_low"], values["ratio"], values["ratio_high"]) == (1, 1, 1.5)
