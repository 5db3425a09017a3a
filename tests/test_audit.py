"""The audit of the scorer: each of its questions on data whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from dcgan.config import Config
from dcgan.data import Images, canonical, resize, shapes
from dcgan.train import draw_latent, generate
from eval import audit, metrics
from eval.audit import BATCHNORM, add_noise, blur, by_damage, by_size, quantise, signed_images
from eval.score import Reference, score

CONFIG = Config(resolution=16, width=4, latent_size=8, images=120, batch=20, epochs=2)


def compared_with(images: Images, extractor) -> Reference:
    pixels = torch.from_numpy(images.pixels).permute(0, 3, 1, 2)
    features = extractor.extract(pixels)[0].numpy()
    given = features, metrics.moments(features), pixels.shape[2]
    return Reference(extractor, *given, images.sha256, "train")


@pytest.fixture(scope="module")
def drawn():
    """Drawings: 200 to compare with, and 110 others."""
    images, parts = shapes(310), (slice(200), slice(200, 310))
    return [canonical("drawn", images.pixels[part], images.labels[part]) for part in parts]


@pytest.fixture
def G(make_generator):
    return make_generator(CONFIG)


@pytest.fixture
def run(finished_run):
    return finished_run(CONFIG)


def test_batch_statistics_are_those_of_training_batches(G, run):
    z = draw_latent(CONFIG, "test", 0, 50)  # two batches, and half of one
    images = signed_images(run, G, z, "batch")
    assert images.shape == (50, 3, 16, 16)
    with torch.no_grad():
        G.train()
        for i in (0, 20):
            assert torch.equal(images[i : i + 20], G(z[i : i + 20]))
        filled = G(torch.cat([z[40:], z[:10]]))
        assert torch.equal(images[40:], filled[:10])


def test_re_estimated_statistics_are_averages_over_new_noise(G, run):
    z = draw_latent(CONFIG, "test", 0, 40)
    images = signed_images(run, G, z, "re-estimated")

    # By hand: layer after layer gets the mean, and the mean of the variances, of ten batches.
    noise = draw_latent(CONFIG, "statistics", 0, 10 * CONFIG.batch).split(CONFIG.batch)
    layers = [m for m in G.modules() if isinstance(m, nn.BatchNorm2d)]
    seen = {layer: [] for layer in layers}

    def keep(layer, inputs):
        seen[layer].append(inputs[0])

    hooks = [layer.register_forward_pre_hook(keep) for layer in layers]
    G.train()
    with torch.no_grad():
        for part in noise:
            G(part)
        for hook in hooks:
            hook.remove()
        for layer in layers:
            means = [x.mean(dim=(0, 2, 3)) for x in seen[layer]]
            variances = [x.transpose(0, 1).flatten(1).var(dim=1) for x in seen[layer]]
            layer.running_mean.copy_(torch.stack(means).mean(dim=0))
            layer.running_var.copy_(torch.stack(variances).mean(dim=0))
        expected = G.eval()(z)
    torch.testing.assert_close(images, expected, rtol=1e-4, atol=1e-4)
    assert images.std() > 0.05


@pytest.mark.parametrize("mode", BATCHNORM)
def test_every_mode_leaves_the_generator_alone_and_differs_from_the_others(G, mode, run):
    state = {name: value.clone() for name, value in G.state_dict().items()}
    random, z = torch.get_rng_state(), draw_latent(CONFIG, "test", 0, 40)
    images = signed_images(run, G, z, mode)
    assert not any(m.training for m in G.modules())
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in G.state_dict().items():
        assert torch.equal(value, state[name]), name
    others = [signed_images(run, G, z, other) for other in BATCHNORM if other != mode]
    assert all((images - other).abs().max() > 0.01 for other in others)


def test_quantisers_by_hand():
    levels = torch.tensor([0.0, 0.4, 0.6, 99.4, 99.6, 255.0])
    signed = (levels / 127.5 - 1).reshape(1, 1, 2, 3).expand(1, 3, 2, 3)
    assert quantise(signed, "round")[0, 0].flatten().tolist() == [0, 0, 1, 99, 100, 255]
    assert quantise(signed, "truncate")[0, 0].flatten().tolist() == [0, 0, 0, 99, 99, 255]
    dull = torch.stack([signed[0] / 4 + 0.3, signed[0] / 8])
    stretched = quantise(dull, "stretch")
    assert [(int(x.min()), int(x.max())) for x in stretched] == [(0, 255), (0, 255)]
    assert (stretched.int() - levels.reshape(2, 3)).abs().max() <= 0.51
    assert quantise(torch.zeros(1, 3, 2, 2), "stretch").float().std() == 0  # of one value only


def test_the_limit_is_where_a_line_through_the_sizes_meets_infinity(G, drawn, run, colours):
    real = compared_with(drawn[0], colours)
    numbers = by_size(run, G, real, 300)
    sizes = np.linspace(30, 300, audit.POINTS).round().astype(int).tolist()
    measured = []
    for number, size in enumerate(sizes):
        images = generate(G, run.noise(f"audit size {number}", size))
        measured.append(score(images, [real])["fd_cifar"])
    _, limit = np.polyfit(1 / np.array(sizes), measured, 1)
    assert numbers["fd_cifar of 300"] == pytest.approx(measured[-1], rel=1e-6)
    assert numbers["fd_cifar at infinity"] == pytest.approx(limit, rel=1e-5)
    assert numbers["fd_cifar at infinity, standard error"] > 0


def test_noise_and_blur_are_what_they_say():
    grey = torch.full((20, 3, 32, 32), 128, dtype=torch.uint8)
    noisy = add_noise(grey, 8)
    assert noisy.float().std().item() == pytest.approx(8, rel=0.02)
    assert noisy.float().mean().item() == pytest.approx(128, abs=0.1)
    assert torch.equal(noisy, add_noise(grey, 8))
    assert torch.equal(blur(grey, 2), grey)
    softer = [blur(noisy, level).float().std().item() for level in (0.5, 1, 2)]
    assert 8 > softer[0] > softer[1] > softer[2] > 0
    dot = torch.zeros((1, 3, 33, 33), dtype=torch.uint8)
    dot[:, :, 16, 16] = 255
    assert blur(dot, 1)[0, 0, 16, 16].item() == pytest.approx(255 / (2 * np.pi), rel=0.03)


def painted(count, seed):
    """Images of ten classes, each of which has a colour."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 10
    colours = np.random.default_rng(0).integers(60, 200, (10, 1, 1, 3))[labels]
    shade = rng.normal(0, 6, (count, 1, 1, 3))
    grain = rng.normal(0, rng.uniform(8, 16, (count, 1, 1, 1)), (count, 16, 16, 3))
    pixels = (colours + shade + grain).round().clip(0, 255).astype(np.uint8)
    return Images("painted", "array", pixels, labels, "0" * 64)


def test_damage_is_seen_by_a_network_that_sees(colours):
    numbers = by_damage(painted(1000, 2), compared_with(painted(2000, 1), colours))
    kinds = {"noise": [0, 4, 8, 16, 32, 64], "blur": [0, 0.5, 0.75, 1, 1.5, 2]}
    kinds |= {"missing classes": [0, 2, 5, 8, 9], "repeated samples": [1, 2, 5, 10, 20]}
    for kind, levels in kinds.items():
        distances = [numbers.pop(f"fd_cifar, {kind} {level:g}") for level in levels]
        assert sorted(set(distances)) == distances
        assert distances[0] > 0
        assert numbers.pop(f"rises with every step of {kind}") == 1
    assert numbers == {}


def test_a_blind_network_is_found_out_and_unlabelled_images_miss_no_class(drawn, colours):
    def blind(images):
        features = torch.from_numpy(np.random.default_rng(0).normal(size=(len(images), 4)))
        return features.float(), features.float()

    network = replace(colours, forward=blind)
    unlabelled = replace(drawn[1], labels=np.full_like(drawn[1].labels, -1))
    numbers = by_damage(unlabelled, compared_with(drawn[0], network))
    rises = {key: x for key, x in numbers.items() if key.startswith("rises")}
    assert rises["rises with every step of noise"] == rises["rises with every step of blur"] == 0
    assert len(rises) == 3


def test_the_audit_has_all_its_numbers_and_begins_with_the_score(
    G, drawn, colours, finished_run, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name, smaller in (("POINTS", 3), ("NOISE", (16,)), ("BLUR", (1.0,))):
        monkeypatch.setattr(audit, name, smaller)
    train, test = (resize(images, 16) for images in drawn)
    run = finished_run(CONFIG, 1, colours, train=train, test=test, generator=G)
    result = audit.analyse(run, 100)
    assert len(result.values) == 9 + 9 + 14 + 4
    assert result.about == {"held_out": 110, "reference": 200}
    expected = score(generate(G, run.noise("audit", 100)), [compared_with(train, colours)])
    first = result.values["fd_cifar_batchnorm_running_round"]
    assert first == pytest.approx(expected["fd_cifar"], rel=1e-6)
