"""How fast this project is, and beside it the loops and libraries that are used elsewhere.

Each part is a function that returns rows: medians, and in lists the single measurements. What is
compared runs in turn, A B A B, after one go at each that does not count; a ratio is the median of
the ratios of the pairs, beside the lowest and the highest.

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
from dcgan.data import Images
from dcgan.models import build
from dcgan.train import matmul_precision, start, train_epoch
from eval import parity
from eval.extractors import classifier
from eval.score import reference, score
from experiments import grid, launch
from experiments.run import fingerprint, prepare

Row = dict[str, Any]
ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "reports" / "published" / "ablation-small"
ARM = ("norm=none", "head=conv", "batch=128")  # of the runs that commands make
ON_A_GPU = 32  # times as many images are trained on there

# The networks that the tutorials' loop trains too, and the images that each speed is measured on.
COMPARED: dict[str, dict[str, Any]] = {
    "blog64": {"resolution": 64, "width": 128, "stem": "linear", "init": "torch"},
    "paper, 64x64": {"resolution": 64, "width": 64, "stem": "conv", "init": "paper"},
}
CASES = {"smoke": 600, "small": 1024, "cifar32": 256, "blog64": 128, "paper, 64x64": 128}


@dataclass(frozen=True)
class Bench:
    """On what is measured, and how thoroughly."""

    device: str
    threads: int
    out: Path
    source: str = "shapes"  # the images that commands are given
    quick: bool = False  # everything tiny: for tests

    @property
    def rounds(self) -> int:
        return 2 if self.quick else 3

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    def config(self, settings: dict[str, Any]) -> Config:
        """Networks to be trained; `images` are those that a CPU is given, a GPU gets more."""
        if self.quick:
            settings = settings | {"images": 32, "width": 4}
        elif self.on_gpu:
            settings = settings | {"images": settings["images"] * ON_A_GPU}
        return Config(**settings | {"batch": min(settings.get("batch", 128), settings["images"])})


def write(bench: Bench, parts: Iterable[str]) -> Path:
    """Measure these parts, print each as it is done, and keep the record; returns its path."""
    name = f"{bench.device.replace(':', '-')}{'-quick' if bench.quick else ''}.json"
    path = bench.out / "bench" / name
    bench.out.mkdir(parents=True, exist_ok=True)
    prepare(bench.device, bench.threads)
    hardware = {
        "device": fingerprint(Config(), bench.device, bench.threads)["device"],
        "processor": launch.processor(),
        "cores": launch.cores(),
        "threads": bench.threads,
    }
    record = {"commit": launch.commit(), "hardware": hardware, "versions": launch.versions()}
    record |= {"quick": bench.quick, "parts": {}}
    for part in parts:
        record["parts"][part] = rows = PARTS[part](bench)
        print(f"{part}\n{to_text(rows)}\n", flush=True)
        rundir.replace(path, rundir.seal(record))
    return path


def to_text(rows: list[Row]) -> str:
    """A table of rows without their lists; what was not measured stays empty."""
    shown = [{k: x for k, x in row.items() if not isinstance(x, list)} for row in rows]
    return pd.DataFrame(shown).to_string(index=False, na_rep="", float_format="{:.4g}".format)


def now(device: str) -> float:
    """Seconds of a clock that processes share, once the device has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()


def in_turn(
    ways: dict[str, Callable[[], Any]], rounds: int, device: str
) -> tuple[dict[str, Row], dict[str, Any]]:
    """Measure each way in turn; also what each gave at a first go that does not count."""
    first = {name: work() for name, work in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            began = now(device)
            work()
            seconds[name].append(now(device) - began)
    return against_first(seconds), first


def against_first(seconds: dict[str, list[float]]) -> dict[str, Row]:
    """The median of each way, and how many times as long as the first one it takes, in pairs."""
    first = next(iter(seconds.values()))
    rows = {}
    for way, taken in seconds.items():
        ratios = [theirs / ours for ours, theirs in zip(first, taken, strict=True)]
        rows[way] = {"s": statistics.median(taken), "ratio": statistics.median(ratios)}
        rows[way] |= {"lowest": min(ratios), "highest": max(ratios), "seconds": taken}
    return rows


# --- Training -------------------------------------------------------------------------------------


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
            rows, _ = in_turn(ways, bench.rounds, bench.device)
        for way, row in rows.items():
            speed = config.images / row["s"]
            table.append({"networks": name, "loop": way, "images/s": speed, **row})
    return table


def our_epoch(config: Config, pixels: np.ndarray, device: str) -> Callable[[], Any]:
    """An epoch of train_epoch; the images are resized once, before it, as a study does."""
    native = Images("noise", "array", pixels, np.zeros(len(pixels), np.int64), "")
    resized = torch.from_numpy(data.resize(native, config.resolution).pixels).to(device)
    return partial(train_epoch, start(config, device), config, resized)


def tutorial_epoch(config: Config, pixels: np.ndarray, device: str) -> Callable[[], Any]:
    """An epoch of the tutorials' loop: worker processes decode and resize, Adam is not fused."""
    nets = [net.to(device).train() for net in build(config)]
    rates, betas = (config.lr_g, config.lr_d), (config.beta1, config.beta2)
    pairs = zip(nets, rates, strict=True)
    adams = [torch.optim.Adam(net.parameters(), rate, betas) for net, rate in pairs]
    collate = partial(tutorial_batch, resolution=config.resolution)
    options = {"shuffle": True, "num_workers": 2, "persistent_workers": True}
    loader = DataLoader(pixels, config.batch, collate_fn=collate, **options)
    return partial(tutorial_loop, nets, adams, loader, config.latent_size, device)


def tutorial_batch(pixels: list[np.ndarray], resolution: int) -> Tensor:
    """Images (side, side, 3) uint8 -> (N, 3, resolution, resolution) in [-1, 1], by torchvision."""
    from torchvision import transforms  # about a second, and only needed here

    steps = [transforms.Resize(resolution)] if len(pixels[0]) != resolution else []
    normalise = transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    transform = transforms.Compose([*steps, transforms.ToTensor(), normalise])
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


# --- Scores ---------------------------------------------------------------------------------------


def scoring(bench: Bench) -> list[Row]:
    """From uint8 images to scores through the bundled classifier: ours, and two libraries' loops.

    Ours finds seven scores, torchmetrics three with a pass of the network for each, torch-fidelity
    five. Real images come as features; ours has their moments in its cache, as in every epoch.
    """
    count = 100 if bench.quick else 1000
    extractor = classifier(bench.device)
    images = torch.from_numpy(noise(count, 32, seed=1)).permute(0, 3, 1, 2).contiguous()
    with tempfile.TemporaryDirectory() as cache:
        real = reference(extractor, noise(count, 32), "", Path(cache))
    theirs = (images, real.features, extractor, torch.float32)
    ways: dict[str, Callable[[], Any]] = {
        "ours": partial(score, images, [real]),
        "torchmetrics": partial(parity.by_torchmetrics, *theirs),
        "torch-fidelity": partial(parity.by_torch_fidelity, *theirs),
    }
    rows, _ = in_turn(ways, bench.rounds, bench.device)
    return [{"scored by": way, "images/s": count / row["s"], **row} for way, row in rows.items()]


# --- Whole commands -------------------------------------------------------------------------------


def epoch(bench: Bench) -> list[Row]:
    """Where the time of an epoch goes at small: the third one of a run, which is no milestone.

    Training and scoring by the run's own clock; committing, and W&B offline, are what is left of
    the time from one commit to the next.
    """
    with tempfile.TemporaryDirectory(dir=bench.out) as folder:
        arguments = ablation(bench, folder, "smoke" if bench.quick else "small")
        cost_of([*arguments, *ARM, "seed=0", "epochs=3"], WANDB_MODE="offline")
        (run,) = Path(folder).glob("*/*/seed=0")
        whole = committed_at(run, 3) - committed_at(run, 2)
        timing = rundir.read_json(run, 3, rundir.TIMING)
    seconds = {"training": timing["train_seconds"], "scoring": timing["score_seconds"]}
    seconds |= {"commit and W&B": whole - sum(seconds.values()), "epoch": whole}
    return [{"part": name, "s": part, "share": part / whole} for name, part in seconds.items()]


def commands(bench: Bench) -> list[Row]:
    """What the commands cost that a person waits for: medians of five, one more uncounted.

    Report and status are those of the published study of 64 runs, the plan is that of its grid on
    images that are in the cache. The first epoch is one of smoke, from the command to its commit.
    """
    costs: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory(dir=bench.out) as folder:
        arguments = {
            "report": ["reports", "--from", str(PUBLISHED), "--to", f"{folder}/report"],
            "plan": [*ablation(bench, folder, "small"), "--plan"],
            "status": ["experiments", "status", str(PUBLISHED)],
            "help": ["experiments", "ablation", "--help"],
        }
        for number in range(2 if bench.quick else 6):
            began = time.time()
            cost_of([*ablation(bench, folder, "smoke"), *ARM, f"seed={number}", "epochs=1"])
            (run,) = Path(folder).glob(f"*/*/seed={number}")
            costs.setdefault("first epoch", []).append({"s": committed_at(run, 1) - began})
            for name, command in arguments.items():
                costs.setdefault(name, []).append(cost_of(command))
    return [medians(name, measured[1:]) for name, measured in costs.items()]


def medians(command: str, costs: list[Row]) -> Row:
    """The median of each kind of seconds, and all of them."""
    kinds = {kind: [cost[kind] for cost in costs] for kind in costs[0]}
    row = {kind: statistics.median(values) for kind, values in kinds.items()}
    return {"command": command, **row, **{f"all {kind}": x for kind, x in kinds.items()}}


def cost_of(arguments: list[str], **environ: str) -> Row:
    """Seconds of `python -m` with these words, by the wall clock and of the processor.

    Raises CalledProcessError where it fails. Nothing goes to W&B unless `environ` says so.
    """
    environ = {**os.environ, "WANDB_MODE": "disabled", **environ}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", *arguments]
    subprocess.run(command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, check=True)
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"s": took, "CPU s": after[0] + after[1] - before[0] - before[1]}


def ablation(bench: Bench, out: str, scale: str) -> list[str]:
    """The study at this scale, on this device, as words after `python -m`."""
    arguments = ["experiments", "ablation", "--scale", scale, "--data", bench.source]
    arguments += ["--device", bench.device, "--threads", str(bench.threads)]
    return [*arguments, "--out", os.path.abspath(out)]


def committed_at(run: Path, epoch: int) -> float:
    """When an epoch was committed, in seconds since 1970."""
    return (rundir.epoch_folder(run, epoch) / rundir.SUMS).stat().st_mtime


PARTS: dict[str, Callable[[Bench], list[Row]]] = {
    "training": training,
    "scoring": scoring,
    "epoch": epoch,
    "commands": commands,
}


def noise(count: int, side: int, seed: int = 0) -> np.ndarray:
    """Images of noise (count, side, side, 3) uint8: what is in them changes no speed."""
    return np.random.default_rng(seed).integers(256, size=(count, side, side, 3), dtype=np.uint8)
