"""Every value that a result depends on."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class Config(BaseModel):
    """One run: two runs with equal configs on one machine give equal bytes.

    The fields are the words of the command line, the folder names, the W&B config and the tables.
    A value has its field's type or is refused: "128" and True are no whole numbers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    # What the study varies.
    norm: Literal["none", "batch"] = "none"  # BatchNorm on D's output logit
    head: Literal["conv", "avgpool"] = "conv"  # how D gets from a 4x4 map to one logit
    batch: int = Field(128, ge=2, le=65536)  # images a step; the last, partial batch is used
    seed: int = Field(0, ge=0, lt=2**31)

    # The data: a content hash, so that a moved file is the same data and an edited one is not.
    data: str = Field("shapes", pattern=r"^[A-Za-z0-9_.-]{1,64}$")  # name, for people
    data_sha256: str = Field("", pattern=r"^([0-9a-f]{64})?$")  # of the images, see dcgan.data
    classes: str = Field("all", pattern=r"^[a-z0-9]{1,32}$")  # all, or one by name or number
    images: int = Field(10_000, ge=2)  # training images, the first ones in the canonical order

    # The networks.
    model: Literal["dcgan", "mlp"] = "dcgan"  # mlp: the blog's plain GAN, see dcgan.models
    resolution: Literal[16, 32, 64] = 32  # pixels a side
    width: int = Field(32, ge=1, le=1024)  # channels beside the image, doubled at every halving
    latent: Literal["normal", "uniform"] = "normal"  # N(0, 1) or U(-1, 1)
    latent_size: int = Field(100, ge=1, le=4096)
    stem: Literal["conv", "linear"] = "conv"  # how G gets from z to a 4x4 map
    init: Literal["paper", "torch", "blog"] = "paper"  # see dcgan.models.initialise
    norm_g: Literal["inner", "all", "none"] = "inner"  # BatchNorm in G; inner: not on its output
    norm_d: Literal["inner", "all", "none"] = "inner"  # in D but its logit; inner: not on its input
    act_d: Literal["leaky", "relu"] = "leaky"  # LeakyReLU of slope 0.2 or ReLU, between D's layers

    # The optimisation.
    epochs: int = Field(8, ge=1, le=100_000)
    lr_g: float = Field(2e-4, gt=0, le=1)
    lr_d: float = Field(2e-4, gt=0, le=1)
    beta1: float = Field(0.5, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    d_steps: int = Field(1, ge=1, le=1000)  # of D for each one of G, every step on a new batch
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"  # of matrix products and convolutions

    # The scoring at the end of each epoch.
    score_images: int = Field(2_000, ge=10)  # generated; no metric is defined on fewer than ten
    reference_images: int = Field(10_000, ge=10)  # real ones, the first in the canonical order
    inception: Literal["epoch", "milestone", "never"] = "milestone"  # when FID is, given weights
    imagenet: Literal["milestone", "never"] = "milestone"  # when kd_imagenet is

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.batch > self.images:
            raise ValueError(f"batch={self.batch} is larger than images={self.images}")
        if self.images % self.batch == 1:
            raise ValueError(
                f"images={self.images} leaves a last batch of one image at batch={self.batch}, "
                f"on which BatchNorm is undefined; images={self.images - 1} does not"
            )
        return self


def is_milestone(epoch: int) -> bool:
    """Whether an epoch keeps its generator and is scored in every way: 1, 2, 5, 10, 15, 20, ..."""
    return epoch in (1, 2) or epoch % 5 == 0


def fault(error: ValidationError) -> str:
    """The first thing that is wrong with a config, with key and value, or all unknown keys."""
    errors = error.errors()
    unknown = [ascii(x["loc"][-1])[:60] for x in errors if x["type"] == "extra_forbidden"]
    if unknown:
        return f"{', '.join(unknown)}: unknown to this version"
    first = errors[0]
    key, value = ".".join(map(str, first["loc"])), ascii(first["input"])
    place = f"{key}={value if len(value) <= 60 else value[:60] + '...'}: " if key else ""
    return place + first["msg"].removeprefix("Value error, ")
