"""Walks and arithmetic in latent spaces whose geometry is known."""

import dataclasses
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dcgan.config import Config
from dcgan.train import generate
from eval import walks
from eval.extractors import Extractor
from eval.finished import GAP

CONFIG = Config(resolution=16, width=4, latent_size=8, images=40, batch=20, latent="uniform")
BLOCKS = 12  # of an image, 64 values each


class Linear(nn.Module):
    """z -> images in which each of twelve blocks of values has a linear function of z as its mean.

    The values of a block lie evenly within one grey level, so that its mean survives rounding.
    """

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, z):
        blocks = z @ self.weight.T  # (N, BLOCKS)
        ramp = (torch.arange(64) - 31.5) / 64 / 127.5
        return (blocks[..., None] + ramp).reshape(len(z), 3, 16, 16)


class Jump(nn.Module):
    """A black image for one half of all z, a white one for the other."""

    def __init__(self):
        super().__init__()
        self.edge = nn.Parameter(torch.zeros(()))

    def forward(self, z):
        bright = (z[:, 0] > self.edge).float() * 2 - 1
        return bright[:, None, None, None].expand(-1, 3, 16, 16)


def block_means(images):
    """The features: means of blocks. The logits: two classes by which of two blocks is larger."""
    means = images.flatten(1).float().unflatten(1, (BLOCKS, 64)).mean(dim=2)
    gap = 1e3 * (means[:, 0] - means[:, 1])
    return means, torch.stack([gap, -gap], dim=1)


SEEN = Extractor("blocks", "5" * 64, 16, "none", "cpu", block_means, {})
UNSURE = dataclasses.replace(SEEN, forward=lambda x: (block_means(x)[0], torch.zeros(len(x), 10)))


def isometry(size):
    """Orthogonal columns: features then lie as z does, at another scale."""
    matrix = torch.randn(BLOCKS, size, generator=torch.Generator().manual_seed(0))
    return torch.linalg.qr(matrix).Q / 4


@pytest.mark.parametrize("latent", ["normal", "uniform"])
def test_a_walk_ends_where_it_should_and_its_steps_are_equal(latent):
    start, end = torch.randn(2, 5, 100, generator=torch.Generator().manual_seed(0))
    if latent == "normal":
        end *= start.norm(dim=1, keepdim=True) / end.norm(dim=1, keepdim=True)
    z = walks.walk(start, end, 7, latent)
    assert z.shape == (5, 8, 100)
    assert torch.allclose(z[:, 0], start, atol=1e-6)
    assert torch.allclose(z[:, -1], end, atol=1e-6)
    distance = (end - start).norm(dim=1)
    if latent == "uniform":
        step = distance / 7
        assert torch.allclose(z[:, 3], start + 3 / 7 * (end - start), atol=1e-6)
    else:
        radius = start.norm(dim=1)
        assert torch.allclose(z.norm(dim=2), radius[:, None].expand(5, 8), rtol=1e-5)
        angle = 2 * (distance / 2 / radius).arcsin()
        step = 2 * radius * (angle / 14).sin()  # the chord of a seventh
    sizes = z.diff(dim=1).norm(dim=2)
    assert torch.allclose(sizes, step[:, None].expand(5, 7), rtol=1e-4)


def test_a_linear_generator_walks_in_equal_steps(finished_run):
    config = CONFIG.model_copy(update={"latent_size": 12})
    run = finished_run(config, 3, SEEN)
    values, counts, _ = walks.smoothness(run, Linear(isometry(12)), 20, 8)
    assert counts == {"pairs_moving": 20}
    for kind, error in (("walk", 1e-2), ("blend", 5e-2)):  # one path; a blend is rounded twice
        assert values[f"{kind}_mean_step"] == pytest.approx(1 / 8, rel=error / 2)
        assert values[f"{kind}_largest_step"] == pytest.approx(1 / 8, rel=error)
        assert values[f"{kind}_unevenness"] == pytest.approx(1, rel=error)


def test_a_generator_that_jumps_takes_one_step(finished_run):
    run = finished_run(CONFIG, 3, SEEN)
    values, counts, _ = walks.smoothness(run, Jump(), 100, 8)
    start, end = run.noise("walks", 200).split(100)
    assert counts["pairs_moving"] == ((start[:, 0] > 0) != (end[:, 0] > 0)).sum()
    assert 0 < counts["pairs_moving"] < 100
    assert values["walk_largest_step"] == 1  # however small the steps
    assert values["walk_mean_step"] == 1 / 8
    assert values["blend_largest_step"] == pytest.approx(1 / 8, rel=1e-2)
    assert values["share_below_blend"] == 0


def test_a_generator_that_makes_one_image_has_no_steps(monkeypatch, finished_run):
    monkeypatch.setattr(walks, "CANDIDATES", 50)
    run = finished_run(CONFIG, 3, SEEN, generator=Linear(torch.zeros(BLOCKS, 8)))
    result = walks.analyse(run, 5, 4)
    assert result.about["pairs_moving"] == 0
    assert all(value is None or math.isnan(value) for value in result.values.values())


def kinds(size):
    """Classes and tones: a third of each tone for classes 0 and 1, few dark ones for class 2."""
    named = np.repeat([0, 1, 2, -1], size)
    tone = np.tile([1, -1, 0], len(named) // 3)
    tone[(named == 2) & (np.arange(len(named)) % 12 > 0)] = 1
    return named, tone


def test_trials_are_of_the_kinds_they_should_be():
    named, tone = kinds(60)
    operands, placebo, target, unedited = walks.draw_trials(named, tone, np.random.default_rng(0))
    assert operands.shape == (walks.TRIALS, 3, 3)
    bright_a, dark_a, dark_b = operands.transpose(1, 0, 2)
    a = named[bright_a[:, 0]]
    assert {*zip(a.tolist(), target.tolist(), strict=True)} == {(0, 1), (1, 0)}
    for group, of_class, of_tone in ((bright_a, a, 1), (dark_a, a, -1), (dark_b, target, -1)):
        assert (named[group] == of_class[:, None]).all()
        assert (tone[group] == of_tone).all()
    assert all(len({*row}) == 3 for row in operands.reshape(-1, 3).tolist())
    assert (named[unedited] == target).all()
    assert {*tone[unedited].tolist()} == {1, 0, -1}

    # The placebo differs by its first operand, which has nothing in common with the second.
    assert np.array_equal(placebo[:, 1:], operands[:, 1:])
    other = placebo[:, 0]
    assert (named[other] == a[:, None]).all()
    assert (tone[other] == -1).all()
    assert all(len({*x, *y}) == 6 for x, y in zip(other, dark_a, strict=True))


def test_hits_in_a_linear_latent_space_are_those_of_z_itself(finished_run):
    # One number of z is the brightness, another one the class; the other two are seen by nobody.
    weight = torch.zeros(BLOCKS, 4)
    weight[:, 0], weight[0, 1], weight[1, 1] = 0.1, 0.1, -0.1
    config = CONFIG.model_copy(update={"latent_size": 4, "latent": "normal"})
    run, G = finished_run(config, 2, SEEN), Linear(weight)
    values, counts, rows = walks.arithmetic(run, G)
    assert (counts["named"], counts["classes"], counts["bank"]) == (3000, 2, 3000)

    # By hand, in z: the tones are those of images, lest a rounded one at the border is another's.
    z = run.noise("walks exemplars", 3000)
    named, brightness = walks.describe(run, generate(G, z))
    tone = np.digitize(brightness.argsort().argsort(), [1000, 2000]) - 1
    high = np.quantile(z[:, 0], 2 / 3)
    assert np.mean(named == (z[:, 1] < 0).long().numpy()) > 0.99
    rng = np.random.default_rng(walks.seed_of(config.seed, "walks trials", 2))
    operands, placebo, target, unedited = walks.draw_trials(named, tone, rng)

    def hits(edited):
        right = (edited[:, 1] < 0) == torch.from_numpy(target)
        return pytest.approx(((edited[:, 0] > high) & right).double().mean().item(), abs=0.02)

    one = walks.combine(z, operands[..., :1])
    assert values["hits_three"] == hits(walks.combine(z, operands))
    assert values["hits_one"] == hits(one)
    assert values["hits_one_shortened"] == hits(one / math.sqrt(3))
    assert values["hits_placebo"] == hits(walks.combine(z, placebo))
    assert values["hits_chance"] == pytest.approx(np.mean(tone[unedited] == 1), abs=0.02)

    # Means are nearer to their class than what they are means of.
    assert values["hits_three"] > values["hits_one"] + 0.1
    assert values["hits_one"] > values["hits_one_shortened"] > values["hits_placebo"] + 0.1
    assert [len(row) for row in rows] == [1] + [16] * walks.ROWS


def test_an_unsure_classifier_leaves_the_hits_open(monkeypatch, finished_run):
    monkeypatch.setattr(walks, "CANDIDATES", 60)
    result = walks.analyse(finished_run(CONFIG, 4, UNSURE, generator=Linear(isometry(8))), 6, 4)
    hits = {name: value for name, value in result.values.items() if name.startswith("hits")}
    assert hits == dict.fromkeys(hits)
    assert len(hits) == 5
    assert result.values["walk_mean_step"] == pytest.approx(0.25, rel=1e-2)
    assert result.notes[-1] == (
        "No arithmetic in epoch 4 of seed 0: of 60 images the classifier is sure of 0, and 0 "
        "classes have 10 bright and 10 dark ones; two are needed."
    )


def test_the_picture_shows_walks_above_their_blends(finished_run):
    config = CONFIG.model_copy(update={"latent_size": 12})
    result = walks.analyse(finished_run(config, 3, SEEN, generator=Linear(isometry(12))), 6, 16)
    assert list(result.values) == list(walks.TITLES)
    picture = np.asarray(Image.open(io.BytesIO(result.picture)))
    side = 16 + GAP
    assert picture.shape == ((3 * walks.ROWS + 1) * side - GAP, 17 * side - GAP, 3)

    def image(row, column):
        return picture[row * side : row * side + 16, column * side : column * side + 16].astype(int)

    for row in range(0, 2 * walks.ROWS, 2):
        for end in (0, 16):
            assert np.array_equal(image(row, end), image(row + 1, end))
        assert np.abs(image(row, 8) - image(row + 1, 8)).max() <= 1  # G is linear
        assert np.abs(image(row, 8) - image(row, 0)).max() > 1
    assert (image(2 * walks.ROWS, 0) == 255).all()
    assert (image(2 * walks.ROWS + 1, 3) == 255).all()
