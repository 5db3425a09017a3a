"""The layers of the report have the parameters of the networks that are trained."""

from typing import Literal, get_args

import pytest
from torch import nn

from dcgan import layers, models
from dcgan.config import Config


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"resolution": 64, "width": 8, "stem": "linear"},
        {"resolution": 32, "norm": "batch", "head": "avgpool"},
        {"norm_g": "none", "norm_d": "none", "act_d": "relu"},
        {"norm_g": "all", "norm_d": "all", "stem": "linear", "norm": "batch"},
        {"norm_g": "none", "stem": "linear"},
    ],
    ids=str,
)
def test_parameters_and_shapes_are_those_of_the_models(changes):
    config = Config.model_validate({"resolution": 16, "width": 4, **changes})
    rows = layers.layers(config)
    for name, network in zip("GD", models.build(config), strict=True):
        own = [row for row in rows if row["network"] == name]
        counted = sum(x.numel() for x in network.parameters() if x.requires_grad)
        assert sum(row["parameters"] for row in own) == counted
        assert ("BatchNorm" in own[-1]["layer"]) == any(True for _ in network.norm.parameters())
    shapes = [row["output"] for row in rows]
    assert f"3 × {config.resolution} × {config.resolution}" in shapes
    assert shapes[-1] == "1 × 1 × 1"


LEVELS = [
    (name, level)
    for name, field in Config.model_fields.items()
    if name != "model" and isinstance(field.annotation, type(Literal["x"]))
    for level in get_args(field.annotation)
]


@pytest.mark.parametrize(("name", "level"), LEVELS)
def test_activations_are_those_of_the_models(name, level):
    config = Config.model_validate({"resolution": 32, "width": 4, name: level})
    told = [row["layer"].rpartition(", ")[2] for row in layers.layers(config)]
    built = [
        f"LeakyReLU {x.negative_slope}" if isinstance(x, nn.LeakyReLU) else type(x).__name__
        for network in models.build(config)
        for x in network.modules()
        if type(x).__module__ == "torch.nn.modules.activation"
    ]
    assert [x for x in told if x.partition(" ")[0] in dir(nn)] == built
