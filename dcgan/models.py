"""G and D of DCGAN (Radford et al., 2015, arXiv 1511.06434): their layers, sizes and weights."""

import hashlib
import itertools
import math
from collections.abc import Mapping

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from dcgan.cli import BadInput, one_line
from dcgan.config import Config, fault

KERNEL, STRIDE, PADDING = 4, 2, 1  # every layer that halves or doubles the side
MAP = 4  # pixels a side of the smallest feature map


def channels(config: Config) -> list[int]:
    """Channels of the feature maps from `resolution / 2` down to 4: w, 2w, 4w, ..."""
    halvings = (config.resolution // MAP).bit_length() - 1
    return [config.width * 2**i for i in range(halvings)]


class Generator(nn.Module):
    """z (N, latent_size) -> images (N, 3, resolution, resolution) in (-1, 1)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        *rest, top = channels(config)
        normed = config.norm_g != "none"  # a layer without BatchNorm has a bias instead

        # From z to a 4x4 map.
        if config.stem == "linear":
            self.stem = nn.Sequential(
                nn.Linear(config.latent_size, top * MAP * MAP, bias=not normed),
                nn.BatchNorm1d(top * MAP * MAP) if normed else nn.Identity(),
                nn.ReLU(inplace=True),
                nn.Unflatten(1, (top, MAP, MAP)),
            )
        else:
            self.stem = nn.Sequential(
                nn.Unflatten(1, (config.latent_size, 1, 1)),
                nn.ConvTranspose2d(config.latent_size, top, MAP, 1, 0, bias=not normed),
                nn.BatchNorm2d(top) if normed else nn.Identity(),
                nn.ReLU(inplace=True),
            )

        # Double the side, halve the channels.
        self.up = nn.Sequential()
        for width in reversed(rest):
            conv = nn.ConvTranspose2d(2 * width, width, KERNEL, STRIDE, PADDING, bias=not normed)
            norm = nn.BatchNorm2d(width) if normed else nn.Identity()
            self.up.append(nn.Sequential(conv, norm, nn.ReLU(inplace=True)))

        # To the image, without BatchNorm but for norm_g=all.
        self.to_rgb = nn.ConvTranspose2d(config.width, 3, KERNEL, STRIDE, PADDING, bias=False)
        self.norm = nn.BatchNorm2d(3) if config.norm_g == "all" else nn.Identity()

    def forward(self, z: Tensor) -> Tensor:
        return self.norm(self.to_rgb(self.up(self.stem(z)))).tanh()


class Discriminator(nn.Module):
    """images (N, 3, resolution, resolution) in [-1, 1] -> logits (N,): how real each one looks."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        first, *rest = channels(config)
        normed = config.norm_d != "none"  # a layer without BatchNorm has a bias instead

        # From the image, without BatchNorm but for norm_d=all.
        self.from_rgb = nn.Sequential(nn.Conv2d(3, first, KERNEL, STRIDE, PADDING, bias=False))
        if config.norm_d == "all":
            self.from_rgb.append(nn.BatchNorm2d(first))
        self.from_rgb.append(activation(config))

        # Halve the side, double the channels.
        self.down = nn.Sequential()
        for width in rest:
            conv = nn.Conv2d(width // 2, width, KERNEL, STRIDE, PADDING, bias=not normed)
            norm = nn.BatchNorm2d(width) if normed else nn.Identity()
            self.down.append(nn.Sequential(conv, norm, activation(config)))

        # From a 4x4 map to one logit, directly or as the mean of a 2x2 map.
        top = (first, *rest)[-1]
        stride, padding = (1, 0) if config.head == "conv" else (STRIDE, PADDING)
        self.head = nn.Conv2d(top, 1, KERNEL, stride, padding, bias=False)
        self.norm = nn.BatchNorm2d(1) if config.norm == "batch" else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm(self.head(self.down(self.from_rgb(images))))
        return maps.mean(dim=(1, 2, 3))


def activation(config: Config) -> nn.Module:
    """What stands between D's layers."""
    return nn.LeakyReLU(0.2, inplace=True) if config.act_d == "leaky" else nn.ReLU(inplace=True)


def generator(config: Config) -> nn.Module:
    """G of a config, its weights not yet drawn; of model=mlp that of the blog's plain GAN.

    z (N, latent_size) -> images (N, 3, resolution, resolution).
    """
    if config.model == "dcgan":
        return Generator(config)
    shape = (3, config.resolution, config.resolution)
    G = nn.Sequential(nn.Linear(config.latent_size, 256), nn.ReLU())
    for size, wider in itertools.pairwise((256, 512, 1024, 1024)):
        G.extend([nn.Linear(size, wider), nn.BatchNorm1d(wider), nn.ReLU()])
    return G.extend([nn.Linear(1024, math.prod(shape)), nn.Tanh(), nn.Unflatten(1, shape)])


def discriminator(config: Config) -> nn.Module:
    """D of a config, likewise: images -> logits (N,). The plain GAN's has no BatchNorm."""
    if config.model == "dcgan":
        return Discriminator(config)
    D = nn.Sequential(nn.Flatten())
    for size, smaller in itertools.pairwise((3 * config.resolution**2, 1024, 512, 256)):
        D.extend([nn.Linear(size, smaller), nn.ReLU()])
    return D.extend([nn.Linear(256, 1), nn.Flatten(0)])


def build(config: Config) -> tuple[nn.Module, nn.Module]:
    """Both networks with their initial weights, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        G, D = generator(config), discriminator(config)
        initialise(G, "G", config)
        initialise(D, "D", config)
    return G, D


def channels_last(net: nn.Module, device: str) -> nn.Module:
    """The network on a device, channels last in memory, where convolutions are fastest."""
    return net.to(device, memory_format=torch.channels_last)


def initialise(net: nn.Module, name: str, config: Config) -> None:
    """Draw the weights of a network from the global generator, seeded layer by layer.

    `paper`: convolutions and linear layers from N(0, 0.02), BatchNorm's scale from N(1, 0.02) (the
    paper's authors' own code). `blog`: what the blog's code does when asked to: the same, but only
    for Conv2d and BatchNorm2d. `torch`: PyTorch's defaults, which is what the blog's code ran.

    Each layer has a stream of its own, so that two configs agree in every layer that they share.
    """
    paper = nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d
    touched = {"paper": paper, "blog": (nn.Conv2d, nn.BatchNorm2d), "torch": ()}
    for path, layer in net.named_modules():
        if not hasattr(layer, "reset_parameters"):
            continue
        torch.manual_seed(seed_of(config.seed, f"weights {name}.{path}"))
        layer.reset_parameters()
        if isinstance(layer, touched[config.init]):
            mean = 1.0 if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) else 0.0
            nn.init.normal_(layer.weight, mean, 0.02)


def seed_of(seed: int, stream: str, epoch: int = 0) -> int:
    """The seed of one stream of random numbers: a 63-bit hash of its owner, name and epoch."""
    digest = hashlib.sha256(f"{seed}/{stream}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def dump_generator(G: nn.Module, config: Config) -> bytes:
    """A safetensors file that carries its config, but for how long the run goes on."""
    tensors = {name: tensor.contiguous() for name, tensor in G.state_dict().items()}
    return save(tensors, metadata={"config": config.model_dump_json(exclude={"epochs"})})


def load_generator(path: str) -> tuple[nn.Module, Config]:
    """G of a file that `dump_generator` made, and its config with default `epochs`, or BadInput."""
    try:
        with safe_open(path, framework="pt") as file:  # which executes nothing
            config = Config.model_validate_json((file.metadata() or {}).get("config", ""))
            with torch.device("meta"):
                G = generator(config)
            fill(G, {name: file.get_tensor(name) for name in file.keys()})
    except (SafetensorError, ValueError) as error:
        reason = fault(error) if isinstance(error, ValidationError) else one_line(error)
        raise BadInput(f"{path}: not a generator of this study: {reason}") from error
    return G.eval(), config


def fill(net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a network built on `meta` these tensors, as float32; ValueError if they do not fit."""
    try:
        net.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise ValueError(one_line(error)) from error
    net.float()
