import math

import pytest
from pydantic import ValidationError

from dcgan.config import Config


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("norm", "layer"),
        ("head", "linear"),
        ("batch", 1),
        ("batch", 10_001),  # more than there are images
        ("batch", 9_999),  # leaves a last batch of one
        ("seed", -1),
        ("resolution", 48),
        ("width", 0),
        ("lr_g", 0.0),
        ("lr_d", math.nan),
        ("beta1", 1.0),
        ("data_sha256", "abc"),
        ("data", "../else"),
        ("precision", "fp16"),
        ("nrom", "none"),  # a typo
    ],
)
def test_what_cannot_be_trained_is_refused_by_name(key, value):
    with pytest.raises(ValidationError) as caught:
        Config.model_validate({key: value})
    fault = caught.value.errors()[0]
    assert fault["loc"] == (key,) or f"{key}={value}" in fault["msg"] or "batch=" in fault["msg"]


def test_every_switch_is_a_word():
    assert bool not in {field.annotation for field in Config.model_fields.values()}
