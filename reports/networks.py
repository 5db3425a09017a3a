"""The layers of G and D by arithmetic: sizes and parameters, without torch."""

import itertools

from dcgan.config import Config

KERNEL = 4 * 4  # weights that a pair of channels has in every convolution
MAP = 4  # pixels a side of the smallest feature map
UP, DOWN = "transposed convolution 4×4, stride 2", "convolution 4×4, stride 2"
Layer = dict[str, object]
Maps = list[tuple[int, int]]  # channels and side of the image, then of every feature map


def layers(config: Config) -> list[Layer]:
    """Every layer of both networks: `network`, `layer`, `output` (its shape), `parameters`."""
    maps = [(3, config.resolution), (config.width, config.resolution // 2)]
    while maps[-1][1] > MAP:
        width, side = maps[-1]
        maps.append((2 * width, side // 2))
    return [*_generator(config, maps), *_discriminator(config, maps)]


def _generator(config: Config, maps: Maps) -> list[Layer]:
    top, normed = maps[-1][0], config.norm_g != "none"
    stem = {"conv": "transposed convolution 4×4", "linear": "linear"}[config.stem]
    units = top * (KERNEL if config.stem == "linear" else 1)  # that BatchNorm, or a bias, is for
    rows = [_row("G", stem, normed, "ReLU", maps[-1], config.latent_size * top * KERNEL, units)]
    for (wider, _), (width, side) in itertools.pairwise(maps[:0:-1]):
        weights = wider * width * KERNEL
        rows.append(_row("G", UP, normed, "ReLU", (width, side), weights, width))
    weights, normed = config.width * 3 * KERNEL, config.norm_g == "all"
    return [*rows, _row("G", UP, normed, "tanh", maps[0], weights, 3, biased=False)]


def _discriminator(config: Config, maps: Maps) -> list[Layer]:
    act = {"leaky": "LeakyReLU 0.2", "relu": "ReLU"}[config.act_d]
    width, normed = config.width, config.norm_d == "all"
    rows = [_row("D", DOWN, normed, act, maps[1], 3 * width * KERNEL, width, biased=False)]
    for (before, _), (width, side) in itertools.pairwise(maps[1:]):
        weights, normed = before * width * KERNEL, config.norm_d != "none"
        rows.append(_row("D", DOWN, normed, act, (width, side), weights, width))
    head = {"conv": "convolution 4×4", "avgpool": f"{DOWN}, mean of the 2×2 map"}[config.head]
    weights, normed = maps[-1][0] * KERNEL, config.norm == "batch"
    return [*rows, _row("D", head, normed, "", (1, 1), weights, 1, biased=False)]


def _row(
    network: str,
    layer: str,
    normed: bool,
    act: str,
    output: tuple[int, int],
    weights: int,
    units: int,
    *,
    biased: bool = True,
) -> Layer:
    """One layer; without BatchNorm it has a bias, unless it is the last of G or an end of D."""
    channels, side = output
    return {
        "network": network,
        "layer": ", ".join(filter(None, [layer, "BatchNorm" if normed else "", act])),
        "output": f"{channels} × {side} × {side}",
        "parameters": weights + (2 * units if normed else units * biased),
    }
