"""The layers of G and D by arithmetic: sizes and parameters, without torch."""

from dcgan.config import Config

KERNEL = 4 * 4  # weights that a pair of channels has in every convolution
MAP = 4  # pixels a side of the smallest feature map


def layers(config: Config) -> list[dict[str, object]]:
    """Every layer of both networks: `network`, `layer`, `output` (its shape), `parameters`.

    With BatchNorm where the config has it, and D's output as the config's `norm` says.
    """
    sides = [config.resolution // 2]
    while sides[-1] > MAP:
        sides.append(sides[-1] // 2)
    maps = [(config.width * 2**i, side) for i, side in enumerate(sides)]
    return [*_generator(config, maps), *_discriminator(config, maps)]


def _generator(config: Config, maps: list[tuple[int, int]]) -> list[dict[str, object]]:
    top, normed = maps[-1][0], config.norm_g != "none"
    stem = {"conv": "transposed convolution 4×4", "linear": "linear"}[config.stem]
    units = top * (KERNEL if config.stem == "linear" else 1)  # that BatchNorm, or a bias, is for
    up = "transposed convolution 4×4, stride 2"
    rows = [_row("G", stem, normed, "ReLU", (top, MAP), config.latent_size * top * KERNEL, units)]
    for (width, side), (wider, _) in zip(maps[-2::-1], maps[:0:-1], strict=True):
        weights = wider * width * KERNEL
        rows.append(_row("G", up, normed, "ReLU", (width, side), weights, width))
    weights, normed = maps[0][0] * 3 * KERNEL, config.norm_g == "all"
    last = _row("G", up, normed, "tanh", (3, config.resolution), weights, 3, biased=False)
    return [*rows, last]


def _discriminator(config: Config, maps: list[tuple[int, int]]) -> list[dict[str, object]]:
    act = {"leaky": "LeakyReLU 0.2", "relu": "ReLU"}[config.act_d]
    down, rows, before = "convolution 4×4, stride 2", [], 3
    for width, side in maps:
        first = not rows
        normed = config.norm_d == "all" if first else config.norm_d != "none"
        weights = before * width * KERNEL
        rows.append(_row("D", down, normed, act, (width, side), weights, width, biased=not first))
        before = width
    kinds = {"conv": "convolution 4×4", "avgpool": f"{down}, mean of the 2×2 map"}
    normed = config.norm == "batch"
    head = _row("D", kinds[config.head], normed, "", (1, 1), before * KERNEL, 1, biased=False)
    return [*rows, head]


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
) -> dict[str, object]:
    """One layer; without BatchNorm it has a bias, unless it is the last of G or an end of D."""
    channels, side = output
    return {
        "network": network,
        "layer": ", ".join(filter(None, [layer, "BatchNorm" if normed else "", act])),
        "output": f"{channels} × {side} × {side}",
        "parameters": weights + (2 * units if normed else units if biased else 0),
    }
