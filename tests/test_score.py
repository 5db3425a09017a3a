"""From a generator and real images to numbers with identities."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dcgan.config import Config
from dcgan.data import to_signed
from dcgan.models import build
from dcgan.train import draw_latent, generate, matmul_precision
from eval import metrics
from eval.extractors import INCEPTION, INCEPTION_SHA256, classifier, resize
from eval.filters import respond
from eval.probe import discriminator_features
from eval.score import Reference, identities, reestimated, reference, score

STEMS = ["fd", "cs", "kd", "precision", "recall", "density", "coverage"]
INCEPTIONS = {"metrics": metrics.OF_INCEPTION, "splits": 10}
CONFIG = Config(resolution=16, width=2, latent_size=8, images=40, batch=20, epochs=2)


def pictures(count, side, seed):
    """Real images (N, side, side, 3) uint8: a colour each, and noise."""
    rng = np.random.default_rng(seed)
    colour = rng.integers(0, 192, (count, 1, 1, 3))
    return (colour + rng.integers(0, 64, (count, side, side, 3))).astype(np.uint8)


def as_tensor(pixels):
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def counting(network):
    """The network, and a list of all images that it is shown from now on."""
    seen: list[Tensor] = []

    def forward(images):
        seen.append(images)
        return network.forward(images)

    return replace(network, forward=forward), seen


def test_images_are_made_and_seen_in_float32():
    kinds, seen = (torch.backends.cuda.matmul, torch.backends.cudnn.conv), set()
    (G, D), z = build(CONFIG), draw_latent(CONFIG, "test", 0, 20)
    network, images = classifier(), pictures(20, 16, 0)
    hook = nn.modules.module.register_module_forward_hook(
        lambda module, *_: seen.add((type(module), *(kind.fp32_precision for kind in kinds)))
    )
    with hook, matmul_precision("tf32"):
        generate(G, z)
        network.extract(as_tensor(images))
        reestimated(G, CONFIG, 20)
        discriminator_features(D)(images)
        respond(D, to_signed(as_tensor(images)))
    assert {nn.Conv2d, nn.ConvTranspose2d} < {kind for kind, *_ in seen}
    assert {tuple(precisions) for _, *precisions in seen} == {("ieee", "ieee")}


def test_re_estimated_statistics_are_averages_over_new_noise(make_generator):
    G, z = make_generator(CONFIG), draw_latent(CONFIG, "test", 0, 40)
    state = {name: value.clone() for name, value in G.state_dict().items()}
    random, result = torch.get_rng_state(), reestimated(G, CONFIG, 40)
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(m.training for m in (*G.modules(), *result.modules()))
    assert all(torch.equal(value, state[name]) for name, value in G.state_dict().items())

    # By hand: each layer gets the mean, and the mean of the variances, of its input in ten batches.
    means, variances = {}, {}

    def keep(layer, inputs):
        means.setdefault(layer, []).append(inputs[0].mean(dim=(0, 2, 3)))
        variances.setdefault(layer, []).append(inputs[0].transpose(0, 1).flatten(1).var(dim=1))

    layers = [m for m in G.modules() if isinstance(m, nn.BatchNorm2d)]
    hooks = [layer.register_forward_pre_hook(keep) for layer in layers]
    with torch.no_grad():
        for part in draw_latent(CONFIG, "statistics", 0, 10 * CONFIG.batch).split(CONFIG.batch):
            G.train()(part)
        for layer, hook in zip(layers, hooks, strict=True):
            hook.remove()
            layer.running_mean.copy_(torch.stack(means[layer]).mean(dim=0))
            layer.running_var.copy_(torch.stack(variances[layer]).mean(dim=0))
        expected = G.eval()(z)
        torch.testing.assert_close(result(z), expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.05


def test_reference_is_computed_once_for_one_content(colours, tmp_path):
    (network, seen), pixels = counting(colours), pictures(30, 32, 0)
    first = reference(network, pixels, "a" * 64, tmp_path)
    again = reference(network, pixels.copy(), "b" * 64, tmp_path)  # the content decides
    assert (len(seen), again.sha256) == (1, "b" * 64)
    assert np.array_equal(first.features, again.features)
    assert np.array_equal(first.moments.factor, again.moments.factor)

    # A damaged file is made again.
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for damaged in (whole[:-9], whole[:40] + b"?" + whole[41:], b""):
        file.write_bytes(damaged)
        reference(network, pixels, "a" * 64, tmp_path)
        assert file.read_bytes() == whole
    seen.clear()

    # Anything else is another file: fewer images, one changed pixel, another side or network.
    changed = pixels.copy()
    changed[7, 0, 0, 0] ^= 1
    for other in (pixels[:20], changed, pixels[:, :16, :16]):
        reference(network, other, "a" * 64, tmp_path)
    reference(replace(network, sha256="6" * 64), pixels, "a" * 64, tmp_path)
    assert [len(images) for images in seen] == [20, 30, 30, 30]
    assert len(list(tmp_path.iterdir())) == 5


def test_scores_are_the_metrics_of_the_features(colours, tmp_path):
    real, fake = pictures(50, 32, 0), as_tensor(pictures(20, 32, 1) // 2)
    against = reference(colours, real, "a" * 64, tmp_path)
    features, logits = (x.numpy() for x in colours.extract(fake))
    near, made = against.features[:20], metrics.moments(features)
    distance = metrics.frechet_distance(made, metrics.moments(against.features))
    neighbours = metrics.prdc(near, features, 5)
    assert score(fake, [against]) == {
        "fd_cifar": pytest.approx(distance, rel=1e-12),
        "cs_cifar": metrics.score(logits, splits=1),
        "kd_cifar": metrics.kid(features, near),
        **{f"{name}_cifar": value for name, value in neighbours.items()},
    }
    assert distance > 100
    assert neighbours["recall"] < neighbours["precision"] or neighbours["coverage"] < 1


def test_fid_is_the_name_for_published_weights_only(colours, tmp_path):
    published = replace(colours, name=INCEPTION, sha256=INCEPTION_SHA256, **INCEPTIONS)
    real, fake = pictures(50, 32, 0), as_tensor(pictures(40, 32, 1))
    networks = [counting(each) for each in (colours, published)]
    references = [reference(each, real, "a" * 64, tmp_path) for each, _ in networks]
    scores = score(fake, references)
    assert [len(seen) for _, seen in networks] == [2, 2]  # the real ones, and once the others
    assert list(scores) == [*(f"{name}_cifar" for name in STEMS), "fid", "is", "kid"]

    # The same features give the same distance; the Inception score is a mean of ten splits.
    assert scores["fid"] == scores["fd_cifar"]
    assert scores["kid"] == scores["kd_cifar"]
    assert scores["is"] == metrics.score(colours.extract(fake)[1].numpy(), splits=10)
    assert scores["is"] != scores["cs_cifar"]


def test_what_is_not_finite_is_none(colours, tmp_path):
    def broken(images):
        features, logits = colours.extract(images)
        features[0, 0] = float("nan")
        return features, logits

    against = reference(colours, pictures(30, 32, 0), "a" * 64, tmp_path)
    against = replace(against, extractor=replace(colours, forward=broken))
    scores = score(as_tensor(pictures(20, 32, 1)), [against])
    assert scores == dict.fromkeys(colours.metrics)


def test_real_images_are_never_enlarged_for_larger_generated_ones(colours, tmp_path):
    """A network that would enlarge small real images sees generated ones reduced to their side."""
    real, fake = pictures(30, 32, 0), as_tensor(pictures(20, 64, 1))
    inception, seen = counting(replace(colours, resolution=299))
    score(fake, [reference(inception, real, "a" * 64, tmp_path)])
    expected = resize(fake, 32).round()
    assert [images.shape[-1] for images in seen] == [32, 32]
    assert (seen[1].dtype, torch.equal(seen[1].float(), expected)) == (torch.uint8, True)

    # The classifier takes them as they are, and resizes once, without rounding.
    network, seen = counting(colours)
    score(fake, [reference(network, real, "a" * 64, tmp_path)])
    assert torch.equal(seen[-1], fake)


def at(extractor, side, count=10_000):
    nothing = metrics.Moments(np.zeros(6), np.zeros((6, 6)))
    return Reference(extractor, np.zeros((count, 6)), nothing, side, "a" * 64, "train")


def test_identity_has_every_field(colours):
    result = identities(at(colours, 32), 2000, 32)
    assert result["fd_cifar"] == {
        "metric": "fd_cifar",
        "network": "colours",
        "network_sha256": "5" * 64,
        "generated": 2000,
        "reference": 10_000,
        "split": "train",
        "reference_sha256": "a" * 64,
        "resolution": 32,
        "resizer": "none",
        "quantiser": "round to nearest uint8",
        "batchnorm": "running",
        "implementation": "eval.metrics 2",
    }
    real = [10_000, 0, 2000, 2000, 2000, 2000, 2000]  # a score needs no real images
    assert {name: each["reference"] for name, each in result.items()} == {
        f"{stem}_cifar": count for stem, count in zip(STEMS, real, strict=True)
    }
    assert (result["cs_cifar"]["split"], result["cs_cifar"]["reference_sha256"]) == ("none", "")
    assert result["recall_cifar"]["implementation"] == "eval.metrics 2, k = 5"
    inception = identities(at(replace(colours, **INCEPTIONS), 32), 2000, 32)
    assert inception["is"]["implementation"] == "eval.metrics 2, splits = 10"


def test_identity_says_how_pixels_got_to_the_network(colours):
    inception = replace(colours, resolution=299, resizer="TensorFlow 1 bilinear")
    tensorflow = "TensorFlow 1 bilinear {} -> 299, reference too"
    resizers = [  # network, side of the real images, side of the generated ones
        (colours, 32, 32, "none"),
        (colours, 32, 64, "antialiased bilinear 64 -> 32"),
        (colours, 64, 64, "antialiased bilinear 64 -> 32, reference too"),
        (colours, 16, 16, "antialiased bilinear 16 -> 32, reference too"),
        (inception, 32, 32, tensorflow.format(32)),
        (inception, 32, 64, f"antialiased bilinear 64 -> 32, rounded, {tensorflow.format(32)}"),
        (inception, 64, 64, tensorflow.format(64)),
        (inception, 16, 16, tensorflow.format(16)),
    ]
    for network, real, generated, expected in resizers:
        result = identities(at(network, real), 10, generated)["fd_cifar"]["resizer"]
        assert result == expected
