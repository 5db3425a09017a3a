"""The linear probe, on features whose worth is known."""

import numpy as np
import pytest
import torch
from torch.nn.functional import leaky_relu, max_pool2d

from dcgan.cli import BadInput
from dcgan.config import Config
from dcgan.data import Images, canonical, shapes, to_signed
from dcgan.models import build
from eval import probe
from eval.probe import discriminator_features, draw_labelled, pixel_features, solve

CONFIG = Config(resolution=16, width=4, latent_size=8, images=100, batch=20, epochs=2)


def striped(count, classes, apart, seed=0):
    """Noise of SD 10 around grey; class c has row c brighter, by `apart` SDs."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    pixels = rng.normal(100, 10, (count, 8, 8, 3))
    pixels[np.arange(count), labels] += 10 * apart
    return canonical("striped", pixels.round().astype(np.uint8), labels)


def test_features_are_the_pooled_activations_of_every_layer():
    config = CONFIG.model_copy(update={"resolution": 32})
    D = build(config)[1].train()
    D(torch.rand(20, 3, 32, 32))  # so that the running statistics are not the initial ones
    before = {name: tensor.clone() for name, tensor in D.state_dict().items()}
    pixels = shapes(7).pixels
    result = discriminator_features(D)(pixels)
    assert (result.shape, result.dtype) == ((7, (4 + 8 + 16) * 16), np.float32)

    with torch.no_grad():
        x = to_signed(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        first = leaky_relu(D.from_rgb[0](x), 0.2)
        second = leaky_relu(D.down[0][1](D.down[0][0](first)), 0.2)
        third = leaky_relu(D.down[1][1](D.down[1][0](second)), 0.2)
    maps = [max_pool2d(first, 4), max_pool2d(second, 2), third]
    expected = torch.cat([x.flatten(1) for x in maps], dim=1).numpy()
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
    assert not D.training
    for name, tensor in D.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def labelled(labels):
    return Images("set", "array", np.zeros((len(labels), 1, 1, 3), np.uint8), labels, "")


def test_draws_are_balanced_seeded_and_in_turns():
    images = labelled(np.random.default_rng(0).permutation(np.repeat([0, 3, 7], [10, 20, 30])))
    draws = draw_labelled(images, images, 30, 4)
    for draw in draws:
        assert images.labels[draw].tolist() == [0, 3, 7] * 10
        assert len(set(draw.tolist())) == 30
    assert len({draw.tobytes() for draw in draws}) == 4
    np.testing.assert_array_equal(draw_labelled(images, images, 30, 2), draws[:2])


@pytest.mark.parametrize("count", [20, 3, 33])
def test_labels_that_cannot_be_chosen_are_refused(count):
    images = labelled(np.repeat([0, 1, 2], [10, 20, 30]))
    reason = f"--labels {count}: not equally many of each of 3 classes, from 2 to 10"
    with pytest.raises(BadInput, match=reason):
        draw_labelled(images, images, count, 1)
    two = labelled(np.repeat([0, 1], 30))
    with pytest.raises(BadInput, match="--test set: its classes are not those of --data"):
        draw_labelled(images, two, 30, 1)


def test_classes_that_are_apart_are_told_apart_and_others_by_chance():
    results = {}
    for apart in (4, 0):
        train, test = striped(200, 4, apart, 1), striped(400, 4, apart, 2)
        results[apart] = solve(pixel_features, train, test, draw_labelled(train, test, 80, 3))
    assert (results[4].size, results[4].rates.shape) == (192, (3,))
    assert results[4].rates.min() > 0.9
    assert np.abs(results[0].rates - 0.25).max() < 4 * np.sqrt(0.25 * 0.75 / 400)


@pytest.mark.parametrize("classes", [2, 3])
def test_other_images_get_the_class_that_the_svm_of_all_features_gives_them(classes):
    train, test = (striped(60, classes, 0.4, seed) for seed in (1, 2))
    kept = (train.labels == 0) | (np.arange(60) % 4 == 0)  # so that the intercepts matter
    x, labels = pixel_features(train.pixels[kept]), train.labels[kept]
    other = pixel_features(test.pixels)
    result = probe.machine(*probe.span(x), labels, 2.0).predict(other)
    scale = x.std(axis=0) * np.sqrt(192)
    svm = probe.fit((x - x.mean(axis=0)) / scale, labels, 2.0)
    np.testing.assert_array_equal(result, svm.predict((other - x.mean(axis=0)) / scale))
    assert 40 < (result == 0).sum() < 60


def test_test_images_and_undrawn_labels_choose_nothing():
    train, test = (striped(count, 4, 0.5, seed) for count, seed in ((200, 1), (300, 9)))
    draws = draw_labelled(train, test, 40, 2)
    result = solve(pixel_features, train, test, draws)
    assert result.cost in probe.COSTS

    labels = train.labels.copy()
    labels[np.setdiff1d(np.arange(200), np.concatenate(draws))] = 0
    poisoned = canonical("poisoned", train.pixels, labels)
    assert np.array_equal(poisoned.pixels, train.pixels)
    again = solve(pixel_features, poisoned, test, draws)
    assert (again.cost, again.rates.tolist()) == (result.cost, result.rates.tolist())

    shifted = Images("", "", test.pixels, (test.labels + 1) % 4, "")
    wrong = solve(pixel_features, train, shifted, draws)
    assert wrong.cost == result.cost
    assert wrong.rates.max() < 0.25 < result.rates.min()


def test_the_result_has_means_spreads_and_paired_gains():
    rates = {"trained": [0.5, 0.7], "untrained": [0.3, 0.4]}
    rates |= {"pixels": [0.2, 0.2], "classifier": [0.9, 0.8]}
    measured = {kind: probe.Accuracy(np.array(r), 1.0, 6) for kind, r in rates.items()}
    result = probe.to_result(measured, 20)
    values = result.values
    means = {kind: values[f"accuracy_{kind}_20"] for kind in (*probe.KINDS, "gain")}
    expected = {"trained": 0.6, "untrained": 0.35, "pixels": 0.2, "classifier": 0.85, "gain": 0.25}
    assert means == pytest.approx(expected)
    spreads = [values["sd_trained_20"], values["sd_pixels_20"], values["sd_gain_20"]]
    assert spreads == pytest.approx([0.02**0.5, 0, 0.005**0.5])
    assert len(values) == 10
    assert result.titles.keys() == values.keys()
    assert result.about["svm"]["pixels_20"] == {"C": 1.0, "features": 6}
    single = {kind: probe.Accuracy(np.array(r[:1]), 0.1, 6) for kind, r in rates.items()}
    assert len(probe.to_result(single, 20).values) == 5  # of one draw there is no spread
