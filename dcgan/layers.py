"""The layers of G and D of dcgan.models in words and numbers, without torch, for the report."""

import itertools

from dcgan.config import Config

KERNEL = 4 * 4  # weights that a pair of channels has in every convolution
MAP = 4  # pixels a side of the smallest feature map
ACTIVATIONS = {"relu": "ReLU", "leaky": "LeakyReLU 0.2"}
UP, DOWN = "transposed convolution 4×4, stride 2", "convolution 4×4, stride 2"


def layers(config: Config) -> list[dict[str, object]]:
    """Every layer of both networks: `network`, `layer`, `output` (its shape), `parameters`."""
    # Channels and side of the image, then of every feature map.
    maps = [(3, config.resolution), (config.width, config.resolution // 2)]
    while maps[-1][1] > MAP:
        width, side = maps[-1]
        maps.append((2 * width, side // 2))
    pairs = list(itertools.pairwise(maps[1:]))

    stem = {"conv": "transposed convolution 4×4", "linear": "linear"}[config.stem]
    normed = config.norm_g != "none"
    rows = [_row("G", stem, config.latent_size, maps[-1], normed, "ReLU")]
    for larger, (channels, _) in reversed(pairs):
        rows.append(_row("G", UP, channels, larger, normed, "ReLU"))
    rows.append(_row("G", UP, config.width, maps[0], config.norm_g == "all", "tanh", biased=False))

    act, normed = ACTIVATIONS[config.act_d], config.norm_d != "none"
    rows.append(_row("D", DOWN, 3, maps[1], config.norm_d == "all", act, biased=False))
    for (channels, _), smaller in pairs:
        rows.append(_row("D", DOWN, channels, smaller, normed, act))
    head = {"conv": "convolution 4×4", "avgpool": f"{DOWN}, mean of the 2×2 map"}[config.head]
    return [*rows, _row("D", head, maps[-1][0], (1, 1), config.norm == "batch", "", biased=False)]


def _row(
    network: str,
    layer: str,
    channels_in: int,
    output: tuple[int, int],
    normed: bool,
    act: str,
    *,
    biased: bool = True,
) -> dict[str, object]:
    """One layer; without BatchNorm it has a bias, unless it is the last of G or an end of D."""
    channels, side = output
    units = channels * (side**2 if layer == "linear" else 1)  # that BatchNorm, or a bias, is for
    return {
        "network": network,
        "layer": ", ".join(filter(None, [layer, "BatchNorm" if normed else "", act])),
        "output": f"{channels} × {side} × {side}",
        "parameters": channels_in * channels * KERNEL + (2 * units if normed else units * biased),
    }
