"""How much work a step of training is with either head of D, and how fast it is done.

The networks of a run are built twice, with head=conv and with head=avgpool, and are otherwise the
same. Neither images nor trained weights are needed: how much is to be computed depends on neither.

Operations are multiply-adds of one training step for each real image: everything that
dcgan.train.train_epoch computes forward and backward in convolutions and matrix products, of G and
of D, as PyTorch's counter finds it. It counts products with the zeros of a padding too.

Speed is measured in one process, in pairs: each pair times both heads on the same images, the
convolutional head first in one pair and second in the next (A B B A A B ...). So what slows the
machine for a while slows both. Every sample starts from the initial weights and shows D the same
random pixels once, so all samples of a head do the same work. Times are those of one machine at one
moment: unlike every other result of a run, these are no function of its config.
"""

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dcgan.cli import processor
from dcgan.config import Config
from dcgan.models import seed_of
from dcgan.rundir import unseal
from dcgan.train import start, train_epoch
from eval.finished import FinishedRun
from eval.results import Result

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


def analyse(run: FinishedRun, pairs: int, threads: int | None) -> Result:
    """Operations and speed of a run's networks, by default on as many threads as it had."""
    stored = unseal(run.folder / "run.json").get("fingerprint", {})
    torch.set_num_threads(threads or stored.get("threads", 1))
    return heads(run.config, run.device, pairs)


def heads(config: Config, device: str, pairs: int) -> Result:
    """Operations and speed of convolutional networks with both heads, on the current threads.

    Equal arguments give equal operations; the speeds are those of this moment.
    """
    configs = {head: config.model_copy(update={"head": head}) for head in HEADS}
    values = {f"operations_{head}": operations(config) for head, config in configs.items()}

    speeds, images = step_speeds(configs, device, pairs)
    values |= {f"step_speed_{head}": float(np.median(x)) for head, x in speeds.items()}
    low, middle, high = np.quantile(speeds["avgpool"] / speeds["conv"], [0.25, 0.5, 0.75])
    values |= {"ratio": float(middle), "ratio_low": float(low), "ratio_high": float(high)}

    about: dict[str, Any] = {
        "processor": torch.cuda.get_device_name(device) if device != "cpu" else processor(),
        "device": device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "pairs": pairs,
        "images": images,
    }
    where = f"{about['processor']}, threads={about['threads']}, PyTorch {about['torch']}"
    timed = (
        f"Speeds: medians of {pairs} pairs of samples of {SECONDS} s or more, one of either head "
        f"in turn, on {where}; speed ratio: its median over pairs. At another moment they differ."
    )
    return Result("heads", 0, values, TITLES, about, [OPERATIONS, timed])


def operations(config: Config) -> float:
    """Multiply-adds of one step of training for each real image; the batch does not change them.

    With d_steps=k, the mean over k steps of D, of which one has a step of G.
    """
    step = config.model_copy(update={"batch": 2})  # BatchNorm is undefined on one image
    pixels = random_pixels(step, 2 * step.d_steps)
    with FlopCounterMode(display=False) as counter:
        train_epoch(start(step), step, pixels)
    return counter.get_total_flops() / 2 / len(pixels)


def step_speeds(
    configs: dict[str, Config], device: str, pairs: int
) -> tuple[dict[str, np.ndarray], int]:
    """Real images a second of each config in each pair, (pairs,) a config, and images a sample.

    Configs that are first in one pair are last in the next. Two of them share all but the head.
    """
    config = next(iter(configs.values()))
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
