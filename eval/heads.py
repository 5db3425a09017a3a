"""How much work a step of training is with either head of D, and how fast it is done.

Operations are those that PyTorch's counter sees in dcgan.train.train_epoch. Speed is measured in
pairs: both heads on the same random pixels, from the initial weights, the convolutional head first
in one pair and second in the next, so that what slows the machine for a while slows both.
"""

import time

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dcgan.cli import processor
from dcgan.config import Config
from dcgan.models import seed_of
from dcgan.train import start, train_epoch
from eval.finished import FinishedRun, Result

HEADS = ("conv", "avgpool")
SECONDS = 0.25  # of one sample, at least
TITLES = {
    "operations_conv": "multiply-adds an image, conv",
    "operations_avgpool": "multiply-adds an image, avgpool",
    "step_speed_conv": "images/s, conv",
    "step_speed_avgpool": "images/s, avgpool",
    "ratio": "speed ratio, avgpool/conv",
    "ratio_low": "speed ratio, lower quartile",
    "ratio_high": "speed ratio, upper quartile",
}
OPERATIONS = (
    "multiply-adds an image: of one training step, for each real image, forward and backward, in "
    "the convolutions and matrix products of G and D; products with a padding's zeros count."
)


def analyse(run: FinishedRun, pairs: int) -> Result:
    """Operations and speed of a run's networks with both heads, on the current threads."""
    device, threads = run.device, torch.get_num_threads()
    configs = {head: run.config.model_copy(update={"head": head}) for head in HEADS}
    values = {f"operations_{head}": operations(config) for head, config in configs.items()}

    speeds, images = step_speeds(configs, device, pairs)
    values |= {f"step_speed_{head}": float(np.median(x)) for head, x in speeds.items()}
    low, middle, high = np.quantile(speeds["avgpool"] / speeds["conv"], [0.25, 0.5, 0.75])
    values |= {"ratio": float(middle), "ratio_low": float(low), "ratio_high": float(high)}

    chip = torch.cuda.get_device_name(device) if device != "cpu" else processor()
    about = {"processor": chip, "device": device, "threads": threads}
    about |= {"torch": torch.__version__, "images": images}
    timed = (
        f"Speeds: medians of {pairs} pairs of samples of {SECONDS} s or more, one of either head "
        f"in turn, on {chip}, threads={threads}, PyTorch {torch.__version__}; speed ratio: its "
        "median over pairs. At another moment they differ."
    )
    return Result(values, TITLES, about, [OPERATIONS, timed])


def operations(config: Config) -> float:
    """Multiply-adds of a step of D for each real image, and of its share of a step of G."""
    step = config.model_copy(update={"batch": 2})  # BatchNorm is undefined on one image
    pixels = random_pixels(step, 2 * step.d_steps)
    with FlopCounterMode(display=False) as counter:
        train_epoch(start(step), step, pixels)
    return counter.get_total_flops() / 2 / len(pixels)


def step_speeds(
    configs: dict[str, Config], device: str, pairs: int
) -> tuple[dict[str, np.ndarray], int]:
    """Real images a second of each config in each pair, (pairs,) a config, and images a sample."""
    config = next(iter(configs.values()))  # they differ in the head alone
    images = config.batch * config.d_steps

    # Warm up, then show more images until the fastest takes long enough.
    pixels = random_pixels(config, images).to(device)
    for headed in configs.values():
        _seconds(headed, device, pixels)
    while min(_seconds(headed, device, pixels) for headed in configs.values()) < SECONDS:
        images *= 2
        pixels = random_pixels(config, images).to(device)

    speeds: dict[str, list[float]] = {name: [] for name in configs}
    for pair in range(pairs):
        for name in list(configs)[:: -1 if pair % 2 else 1]:
            speeds[name].append(images / _seconds(configs[name], device, pixels))
    return {name: np.array(x) for name, x in speeds.items()}, images


def random_pixels(config: Config, count: int) -> Tensor:
    """As many images of even noise: uint8 (count, resolution, resolution, 3)."""
    stream = torch.Generator().manual_seed(seed_of(config.seed, "heads"))
    shape = (count, config.resolution, config.resolution, 3)
    return torch.randint(256, shape, generator=stream, dtype=torch.uint8)


def _seconds(config: Config, device: str, pixels: Tensor) -> float:
    """How long one epoch of these images takes from the initial weights."""
    state = start(config, device)
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    train_epoch(state, config, pixels)  # at its end it waits for the device
    return time.perf_counter() - began
