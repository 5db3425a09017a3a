"""How fast this project is, and beside it the loop that the tutorials use.

Each part is a function that returns rows: medians, and in lists the single measurements. The first
go at anything does not count. What is compared runs in turn, A B A B; a ratio is the median of the
ratios of the pairs, beside the lowest and the highest.

<out>/bench/<device>.json    sealed: the machine, its versions, and the rows of the parts that were
                             asked for last; <device>-quick.json where they were tiny
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dcgan import data, rundir
from dcgan.config import Config
from dcgan.models import build
from dcgan.train import matmul_precision, start, train_epoch
from experiments import archive, grid, launch
from experiments.run import prepare

Row = dict[str, Any]
ONE = ("norm=none", "head=conv", "batch=128", "seed=0", "epochs=3")  # the run of `epoch`
ROUNDS = 3
STUDY = "ablation-cpu32"  # the published one of which `commands` reads the records
ON_A_GPU = 32  # times as many images are trained on there

# The networks that the tutorials' loop trains too, and the images that each speed is measured on.
COMPARED: dict[str, dict[str, Any]] = {
    "blog64": grid.define("ablation", "blog64").settings,
    "paper, 64x64": {"resolution": 64, "width": 64, "stem": "conv", "init": "paper"},
}
CASES = {"smoke": 600, "small": 1024, "cifar32": 256, "blog64": 128, "paper, 64x64": 128}


@dataclass(frozen=True)
class Bench:
    """On what is measured, and how thoroughly."""

    device: str
    threads: int
    out: Path
    data: str = "shapes"  # the images of `epoch` and `commands`
    quick: bool = False  # everything tiny: for tests

    def config(self, settings: dict[str, Any]) -> Config:
        """Networks to be trained; `images` are those that a CPU is given, a GPU gets more."""
        if self.quick:
            settings = settings | {"images": 32, "width": 4}
        elif self.device != "cpu":
            settings = settings | {"images": settings["images"] * ON_A_GPU}
        return Config(**settings | {"batch": min(settings.get("batch", 128), settings["images"])})


def write(bench: Bench, parts: Iterable[str]) -> Path:
    """Measure these parts, print each as it is done, and keep the record; returns its path."""
    name = f"{bench.device.replace(':', '-')}{'-quick' if bench.quick else ''}.json"
    path = bench.out / "bench" / name
    bench.out.mkdir(parents=True, exist_ok=True)
    prepare(bench.device, bench.threads)
    record = launch.made_with(bench.device, bench.threads, jobs=1)
    record |= {"quick": bench.quick, "parts": {}}
    for part in parts:
        record["parts"][part] = rows = PARTS[part](bench)
        shown = [{k: x for k, x in row.items() if not isinstance(x, list)} for row in rows]
        table = pd.DataFrame(shown).to_string(index=False, float_format="{:.4g}".format)
        print(f"{part}\n{table}\n", flush=True)
        rundir.replace(path, rundir.seal(record))
    return path


def now(device: str) -> float:
    """Seconds of a clock that processes share, once the device has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def in_turn(ways: dict[str, Callable[[], Any]], device: str) -> dict[str, Row]:
    """Of each way the median, and how many times as long as the first way it takes, in pairs."""
    for work in ways.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, work in ways.items():
            began = now(device)
            work()
            seconds[name].append(now(device) - began)
    first, rows = next(iter(seconds.values())), {}
    for way, taken in seconds.items():
        ratios = [theirs / ours for ours, theirs in zip(first, taken, strict=True)]
        rows[way] = {"s": statistics.median(taken), "ratio": statistics.median(ratios)}
        rows[way] |= {"lowest": min(ratios), "highest": max(ratios), "seconds": taken}
    return rows


def training(bench: Bench) -> list[Row]:
    """train_epoch at each scale; the tutorials' loop on the blog's and the paper's networks."""
    table = []
    for name, images in CASES.items():
        settings = COMPARED.get(name) or grid.define("ablation", name).settings
        config = bench.config(settings | {"images": images})
        pixels = noise(config.images, min(config.resolution, 32))
        ways = {"ours": our_epoch(config, pixels, bench.device)}
        if name in COMPARED:
            ways["tutorials'"] = tutorial_epoch(config, pixels, bench.device)
        with matmul_precision("fp32"):  # for the tutorials' loop, which sets nothing
            rows = in_turn(ways, bench.device)
        for way, row in rows.items():
            speed = config.images / row["s"]
            table.append({"networks": name, "loop": way, "images/s": speed, **row})
    return table


def our_epoch(config: Config, pixels: np.ndarray, device: str) -> Callable[[], Any]:
    """An epoch of train_epoch; the images are resized once, before it, as a study does."""
    native = data.Images("noise", "array", pixels, np.zeros(len(pixels), np.int64), "")
    resized = torch.from_numpy(data.resize(native, config.resolution).pixels).to(device)
    return partial(train_epoch, start(config, device), config, resized)


def tutorial_epoch(config: Config, pixels: np.ndarray, device: str) -> Callable[[], Any]:
    """An epoch of the tutorials' loop: worker processes decode and resize, Adam is not fused."""
    G, D = nets = [net.to(device).train() for net in build(config)]
    adam = partial(torch.optim.Adam, betas=(config.beta1, config.beta2))
    adams = [adam(G.parameters(), config.lr_g), adam(D.parameters(), config.lr_d)]
    collate = partial(tutorial_batch, resolution=config.resolution)
    options = {"shuffle": True, "num_workers": 2, "persistent_workers": True}
    loader = DataLoader(pixels, config.batch, collate_fn=collate, **options)
    return partial(tutorial_loop, nets, adams, loader, config.latent_size, device)


def tutorial_batch(pixels: list[np.ndarray], resolution: int) -> Tensor:
    """Images (side, side, 3) uint8 -> (N, 3, resolution, resolution) in [-1, 1], by torchvision."""
    from torchvision import transforms  # about a second, and only needed here

    normalise = transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    steps = [transforms.Resize(resolution), transforms.ToTensor(), normalise]
    transform = transforms.Compose(steps)
    return torch.stack([transform(Image.fromarray(image)) for image in pixels])


def tutorial_loop(
    nets: list[nn.Module], adams: list[torch.optim.Adam], loader: Iterable, size: int, device: str
) -> list[tuple[float, float]]:
    """One epoch as the tutorials write it; the losses of D and G at each step.

    On purpose: BCELoss on a sigmoid, gradients of G's loss in D that nobody uses, both losses
    fetched at every step. As in the blog's code G's images are made once for both networks, and
    D's loss is the mean of two halves, so that it computes what train_epoch does.
    """
    (G, D), (adam_g, adam_d), criterion, losses = nets, adams, nn.BCELoss(), []
    for batch in loader:
        real = batch.to(device)
        ones, zeros = torch.ones(len(real), device=device), torch.zeros(len(real), device=device)

        fake = G(torch.randn(len(real), size, device=device))

        D.zero_grad()
        real_loss = criterion(torch.sigmoid(D(real)), ones)
        fake_loss = criterion(torch.sigmoid(D(fake.detach())), zeros)
        d_loss = (real_loss + fake_loss) / 2
        d_loss.backward()
        adam_d.step()

        G.zero_grad()
        g_loss = criterion(torch.sigmoid(D(fake)), ones)
        g_loss.backward()
        adam_g.step()
        losses.append((d_loss.item(), g_loss.item()))
    return losses


def epoch(bench: Bench) -> list[Row]:
    """Where the time of an epoch goes at small: the third one of a run, which is no milestone.

    Training and scoring by the run's clock; the rest is what is left until the next commit.
    """
    words = ["ablation", "--scale", "smoke" if bench.quick else "small", "--data", bench.data]
    words += ["--device", bench.device, "--threads", str(bench.threads), *ONE]
    with tempfile.TemporaryDirectory(dir=bench.out) as folder:
        command = [sys.executable, "-m", "experiments", *words, "--out", folder]
        environ = os.environ | {"WANDB_MODE": "offline"}
        subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, check=True)
        (run,) = Path(folder).glob("*/*/seed=0")
        sums = [rundir.epoch_folder(run, number) / rundir.SUMS for number in (2, 3)]
        timing = rundir.read_json(run, 3, rundir.TIMING)
        before, after = (path.stat().st_mtime for path in sums)
    whole = after - before
    seconds = {"training": timing["train_seconds"], "scoring": timing["score_seconds"]}
    seconds |= {"commit and W&B": whole - sum(seconds.values()), "epoch": whole}
    return [{"part": name, "s": part, "share": part / whole} for name, part in seconds.items()]


def commands(bench: Bench) -> list[Row]:
    """CPU seconds of commands, medians of five; status and report: of a published study, if any."""
    ablation, goes = ["experiments", "ablation"], 2 if bench.quick else 6
    with tempfile.TemporaryDirectory(dir=bench.out) as out:
        words = {"help": [*ablation, "--help"], "plan": [*ablation, "--scale", "small", "--plan"]}
        words["plan"] += ["--data", bench.data, "--device", bench.device, "--out", out]
        for path in rundir.PUBLISHED.glob(f"{STUDY}/seed-*.zip"):
            study = str(archive.merge(path, Path(out)).study)
            words["status"] = ["experiments", "status", study]
            words["report"] = ["reports", "--from", study]
        taken = {name: [cpu_seconds(x) for _ in range(goes)][1:] for name, x in words.items()}
    return [{"command": x, "s": statistics.median(y), "seconds": y} for x, y in taken.items()]


def cpu_seconds(words: list[str]) -> float:
    """What `python -m` and these words cost, without W&B; CalledProcessError where they fail."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environ = os.environ | {"WANDB_MODE": "disabled"}
    command = [sys.executable, "-m", *words]
    subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


PARTS = {part.__name__: part for part in (training, epoch, commands)}


def noise(count: int, side: int) -> np.ndarray:
    """Images of noise (count, side, side, 3) uint8: what is in them changes no speed."""
    return np.random.default_rng(0).integers(256, size=(count, side, side, 3), dtype=np.uint8)
