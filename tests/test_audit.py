"""The audit of the scorer: each of its questions on data whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from dcgan import rundir
from dcgan.config import Config
from dcgan.data import Images, canonical, load, resize, shapes
from dcgan.models import build, dump_generator, load_generator
from dcgan.train import draw_latent, generate
from eval import audit, metrics, results
from eval.__main__ import main
from eval.audit import BATCHNORM, add_noise, blur, by_damage, by_size, quantise, signed_images
from eval.extractors import classifier
from eval.score import Reference, reference, score

CONFIG = Config(resolution=16, width=4, latent_size=8, images=120, batch=20, epochs=2)


def compared_with(images: Images, extractor) -> Reference:
    pixels = torch.from_numpy(images.pixels).permute(0, 3, 1, 2)
    features = extractor.extract(pixels)[0].numpy()
    moments = metrics.moments(features)
    side = images.pixels.shape[1]
    return Reference(extractor, features, moments, side, images.sha256, "train")


@pytest.fixture(scope="module")
def drawn():
    """Drawings: 200 to compare with, and 110 others."""
    images = shapes(310)
    halves = np.arange(310) >= 200
    return [
        canonical("drawn", images.pixels[part], images.labels[part]) for part in (~halves, halves)
    ]


@pytest.fixture
def G():
    net = build(CONFIG)[0].train()
    with torch.no_grad():
        net.to_rgb.weight.mul_(20)  # so that the images have contrast
        for _ in range(3):  # so that the running statistics are not the initial ones
            net(draw_latent(CONFIG, "warm-up", 0, 20))
    return net.eval()


@pytest.fixture
def run(finished_run):
    return finished_run(CONFIG)


# --- How G's images are made ----------------------------------------------------------------------


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
    hooks = [
        layer.register_forward_pre_hook(lambda layer, x: seen[layer].append(x[0]))
        for layer in layers
    ]
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


# --- How many images ------------------------------------------------------------------------------


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


# --- Real images made worse -----------------------------------------------------------------------


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

    network = replace(colours, features=4, forward=blind)
    unlabelled = replace(drawn[1], labels=np.full_like(drawn[1].labels, -1))
    numbers = by_damage(unlabelled, compared_with(drawn[0], network))
    rises = {key: x for key, x in numbers.items() if key.startswith("rises")}
    assert rises["rises with every step of noise"] == rises["rises with every step of blur"] == 0
    assert len(rises) == 3


# --- The command ----------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path, drawn, G, write_images, write_run):
    """A study of one run, trained on 120 drawings, and 110 others."""
    for name, images, count in (("train", drawn[0], 120), ("test", drawn[1], 110)):
        write_images(tmp_path / name, images.pixels[:count], images.labels[:count])
    train = load(str(tmp_path / "train"), tmp_path / "cache")
    config = CONFIG.model_copy(update={"data_sha256": train.sha256})
    write_run(tmp_path / "study", config, [{rundir.GENERATOR: dump_generator(G, config)}])
    return tmp_path / "study"


@pytest.fixture
def run_audit(study, run_command):
    threads = torch.get_num_threads()

    def run(*words, where=study / "norm=none" / "seed=0", test="test"):
        named = ["--data", study.parent / "train", "--test", study.parent / test]
        return run_command(main, "audit", where, *named, "--device", "cpu", *words)

    yield run
    torch.set_num_threads(threads)


def test_the_command_leaves_its_numbers_in_the_run(study, run_audit, tmp_path, monkeypatch):
    monkeypatch.setattr(audit, "POINTS", 3)
    monkeypatch.setattr(audit, "NOISE", (16,))
    monkeypatch.setattr(audit, "BLUR", (1.0,))
    code, shown, _ = run_audit("--n", 100)
    assert code == 0
    result = results.stored(study / "norm=none" / "seed=0", "audit", 1)
    assert len(result["values"]) == 9 + 9 + 14 + 4
    assert all(title in shown for title in result["titles"].values())
    assert result["about"]["held_out"] == 110

    # The first number is what scoring gives.
    path = rundir.epoch_folder(study / "norm=none" / "seed=0", 1) / rundir.GENERATOR
    net, config = load_generator(str(path))
    train = resize(load(str(study.parent / "train"), study.parent / "cache"), 16)
    real = reference(classifier(), train.pixels, train.sha256, tmp_path / "other")
    images = generate(
        net.to(memory_format=torch.channels_last), draw_latent(config, "audit", 1, 100)
    )
    expected = score(images, [real])["fd_cifar"]
    first = result["values"]["fd_cifar_batchnorm_running_round"]
    assert first == pytest.approx(expected, rel=1e-6)


def test_too_few_held_out_images_are_refused_in_one_line(study, run_audit, drawn, write_images):
    write_images(study.parent / "few", drawn[1].pixels[:20], drawn[1].labels[:20])
    code, shown, complaint = run_audit(test="few")
    assert (code, shown) == (2, "")
    assert "--test few: 20 images, 100 are needed" in complaint.splitlines()[-1]
    assert results.stored(study / "norm=none" / "seed=0", "audit", 1) is None
