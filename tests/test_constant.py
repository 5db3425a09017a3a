"""Features of G that are nearly constant, in generators whose features are known."""

import pytest
import torch
from torch import nn

from dcgan.config import Config
from dcgan.models import build
from eval.constant import THRESHOLD, analyse, layers, nearly_constant, spreads

CONFIG = Config(resolution=32, width=8, latent_size=8, images=40, batch=20)
WIDTHS = {"stem": 32, "up0": 16, "up1": 8}


def with_dead(counts, level=-1.0, config=CONFIG):
    """G in which the first channels of each layer are, after BatchNorm, a constant."""
    G = build(config)[0]
    for name, count in counts.items():
        norm = next(m for m in layers(G)[name].modules() if isinstance(m, nn.BatchNorm2d))
        with torch.no_grad():
            norm.weight[:count], norm.bias[:count] = 0, level
    return G.eval()


@pytest.fixture
def measured(finished_run):
    """What is measured of generators, given by epoch."""

    def measure(generators, config=CONFIG):
        run = finished_run(config, max(generators), kept=list(generators), sha256="")
        vars(run)["generator"] = generators.get
        return analyse(run)

    return measure


@pytest.mark.parametrize(("stem", "level"), [("conv", -1.0), ("conv", 1.0), ("linear", -1.0)])
def test_the_share_of_dead_channels_is_exact(stem, level, measured):
    # Below zero the ReLU gives zeros, above it lets the constant pass.
    config = CONFIG.model_copy(update={"stem": stem})
    counts = {"up0": 5, "up1": 2} | ({"stem": 7} if stem == "conv" else {})
    result = measured({1: with_dead(counts, level, config)}, config)
    expected = {name: counts.get(name, 0) / width for name, width in WIDTHS.items()}
    assert {name: result.values[f"share_{name}_1"] for name in WIDTHS} == expected
    assert result.values["share_first"] == sum(counts.values()) / 56
    assert result.about["features"] == WIDTHS


def test_first_and_last_are_the_epochs_that_are_given(measured):
    dead = {1: {}, 5: {"up0": 8}, 30: {"stem": 14}}
    result = measured({epoch: with_dead(counts) for epoch, counts in dead.items()})
    assert (result.values["share_first"], result.values["share_last"]) == (0, 14 / 56)
    assert result.values["share_up0_5"] == 8 / 16


def hidden(scales):
    """A plain G whose one hidden layer has z itself, times these scales, before its ReLU."""
    G = nn.Sequential(nn.Linear(len(scales), len(scales)), nn.ReLU(), nn.Linear(len(scales), 1))
    with torch.no_grad():
        G[0].weight.copy_(torch.diag(torch.tensor(scales)))
        G[0].bias.zero_()
    return G


def test_the_threshold_is_a_hundredth_of_the_layer():
    # Of 100 features 96 are alike, so that their root mean square is 0.98 of theirs.
    scales = [1.0] * 96 + [0.012, 0.0095, 0.005, 0.0]
    z = torch.randn(1, 1000, 1, generator=torch.Generator().manual_seed(1))[0].expand(1000, 100)
    result = nearly_constant(spreads(hidden(scales), z)["hidden0"])
    assert result.tolist() == [False] * 97 + [True] * 3
    assert THRESHOLD == 0.01


def test_the_variance_is_averaged_over_positions():
    # One position of sixteen follows z; a pattern that is the same in each image has no spread.
    class Pattern(nn.Module):
        def forward(self, z):
            maps = torch.arange(16.0).repeat(len(z), 2, 1)
            maps[:, 0, 3] += z[:, 0]
            return maps.unflatten(2, (4, 4))

    z = torch.randn(250, 1, generator=torch.Generator().manual_seed(0))
    result = spreads(nn.Sequential(Pattern(), nn.ReLU()), z)["hidden0"]
    moving = (3 + z[:, 0]).relu().double().std(correction=0)
    assert result.tolist() == pytest.approx([moving.item() / 4, 0], rel=1e-6)
