"""The layers of the report have the parameters of the networks that are trained."""

import pytest

from dcgan import models
from dcgan.config import Config
from reports import networks


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
    rows = networks.layers(config)
    for name, network in zip("GD", models.build(config), strict=True):
        own = [row for row in rows if row["network"] == name]
        counted = sum(x.numel() for x in network.parameters() if x.requires_grad)
        assert sum(row["parameters"] for row in own) == counted
        assert ("BatchNorm" in own[-1]["layer"]) == any(True for _ in network.norm.parameters())
    shapes = [row["output"] for row in rows]
    assert f"3 × {config.resolution} × {config.resolution}" in shapes
    assert shapes[-1] == "1 × 1 × 1"
