import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dcgan.config import Config
from dcgan.models import Discriminator, build, dump_generator, load_generator

BLOG = Config(resolution=64, width=128, stem="linear", init="torch")
TINY = Config(resolution=16, width=4)


def test_the_blogs_networks_have_the_blogs_size():
    sizes = [sum(p.numel() for p in net.parameters()) for net in build(BLOG)]
    assert sizes == [12_689_152, 11_036_160]


@pytest.mark.parametrize("kernel", [1, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1])
def test_the_blogs_formula_for_the_size_of_a_convolution_is_right(kernel, stride, padding):
    """B9 of the blog's claims: reports/claims.yaml says that it is tested here."""
    for side in range(5, 20):
        image = torch.zeros(1, 1, side, side)
        made = nn.Conv2d(1, 1, kernel, stride, padding)(image).shape[-1]
        assert made == (side - kernel + 2 * padding) // stride + 1


@pytest.mark.parametrize("resolution", [16, 32, 64])
@pytest.mark.parametrize("stem", ["conv", "linear"])
@pytest.mark.parametrize("head", ["conv", "avgpool"])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_shapes_and_ranges(resolution, stem, head, norm):
    G, D = build(Config(resolution=resolution, width=2, stem=stem, head=head, norm=norm))
    images = G(torch.randn(5, 100))
    assert images.shape == (5, 3, resolution, resolution)
    assert images.abs().max() < 1
    assert D(images).shape == (5,)


def normed(net):
    """The paths of the layers with BatchNorm, and of those with a bias of their own."""
    kinds = nn.BatchNorm1d | nn.BatchNorm2d
    layers = dict(net.named_modules())
    biased = [k for k, m in layers.items() if isinstance(getattr(m, "bias", None), torch.Tensor)]
    return [k for k, m in layers.items() if isinstance(m, kinds)], biased


INNER_G, INNER_D = ["stem.2", "up.0.1"], ["down.0.1"]


@pytest.mark.parametrize(
    ("where", "in_g", "in_d"),
    [
        ("inner", INNER_G, INNER_D),  # off G's output and D's input, as the paper has it
        ("all", [*INNER_G, "norm"], ["from_rgb.1", *INNER_D]),
        ("none", [], []),
    ],
)
def test_where_batchnorm_is(where, in_g, in_d):
    G, D = build(TINY.model_copy(update={"norm_g": where, "norm_d": where}))
    for net, layers, inner in (G, in_g, INNER_G), (D, in_d, INNER_D):
        result, biased = normed(net)
        assert result == layers
        # What lost its BatchNorm has a bias in its place, and nothing else has one.
        convolutions = [f"{path.rpartition('.')[0]}.{int(path[-1]) - 1}" for path in inner]
        assert biased == (layers or convolutions)


def test_the_plain_gan_is_the_blogs():
    G, D = build(Config(model="mlp", latent_size=128, init="torch"))
    sizes = [[(m.in_features, m.out_features) for m in net if isinstance(m, nn.Linear)]
             for net in (G, D)]  # fmt: skip
    assert sizes == [
        [(128, 256), (256, 512), (512, 1024), (1024, 1024), (1024, 3072)],
        [(3072, 1024), (1024, 512), (512, 256), (256, 1)],
    ]
    assert [type(m) for m in G[:8]] == [
        nn.Linear, nn.ReLU, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d, nn.ReLU
    ]  # fmt: skip
    assert not any(isinstance(m, nn.BatchNorm1d) for m in D)
    images = G(torch.randn(5, 128))
    assert images.shape == (5, 3, 32, 32)
    assert images.abs().max() < 1
    assert D(images).shape == (5,)


def d_loss(D, real, fake, scale=1.0):
    """D's loss with its logits scaled: the mean of the real and of the fake half."""
    real, fake = scale * D(real), scale * D(fake)
    return ((F.softplus(-real).mean() + F.softplus(fake).mean()) / 2).item()


@pytest.mark.parametrize("head", ["conv", "avgpool"])
@pytest.mark.parametrize("batch", [2, 7, 64])
def test_only_batchnorm_on_ds_output_keeps_ds_loss_above_chance(head, batch):
    # Real and fake logits then share their mean, and softplus is convex.
    torch.manual_seed(0)
    lowest = {"batch": [], "none": []}
    for norm, losses in lowest.items():
        for _ in range(20):
            D = Discriminator(TINY.model_copy(update={"norm": norm, "head": head}))
            for p in D.parameters():
                nn.init.normal_(p, std=3.0)
            real, fake = torch.rand(2, batch, 3, 16, 16) * 2 - 1

            # The weights as they are; then the scale, and the side, that are the best for D.
            ones, twos = D(real), D(fake)
            gap = (ones.mean() - twos.mean()).item()
            best = 2 * gap / (ones.square().mean() + twos.square().mean()).item()
            losses += [d_loss(D, real, fake, scale) for scale in (1.0, best)]
    assert min(lowest["batch"]) >= math.log(2) - 1e-6
    assert min(lowest["none"]) < math.log(2) - 1e-3


def test_initial_weights_are_shared_where_layers_agree():
    before = torch.random.get_rng_state()
    one = build(TINY.model_copy(update={"norm": "none", "head": "conv", "batch": 128}))
    two = build(TINY.model_copy(update={"norm": "batch", "head": "avgpool", "batch": 512}))
    for a, b in zip(one, two, strict=True):
        other = b.state_dict()
        assert all(torch.equal(tensor, other[key]) for key, tensor in a.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), before)  # the global stream is left alone


@pytest.mark.parametrize(
    ("init", "up", "down", "scale"),
    [("paper", 0.02, 0.02, 0.02), ("blog", None, 0.02, 0.02), ("torch", None, None, 0.0)],
)
def test_initialisers(init, up, down, scale):
    G, D = build(Config(resolution=64, width=32, init=init))
    for layer, std in ((G.up[0][0], up), (D.down[-1][0], down)):
        # PyTorch's default: uniform, bounded by 1 / sqrt(fan in).
        std = std or 1 / math.sqrt(3 * layer.weight[0].numel())
        assert layer.weight.std().item() == pytest.approx(std, rel=0.02)
    gamma = D.down[-1][1].weight
    assert gamma.std().item() == pytest.approx(scale, rel=0.2)
    assert gamma.mean().item() == pytest.approx(1.0, abs=0.005)


@pytest.mark.parametrize("changed", [{}, {"model": "mlp"}, {"norm_g": "none"}, {"norm_g": "all"}])
def test_a_generator_file_rebuilds_its_generator(changed, tmp_path):
    wanted = TINY.model_copy(update=changed)
    G = build(wanted)[0].to(memory_format=torch.channels_last)
    path = tmp_path / "generator.safetensors"
    path.write_bytes(dump_generator(G, wanted))
    loaded, config = load_generator(str(path))
    assert config == wanted
    z = torch.randn(4, 100)
    assert torch.equal(loaded.to(memory_format=torch.channels_last)(z), G.eval()(z))
