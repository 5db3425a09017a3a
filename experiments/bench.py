"""How fast this project is, and beside it the loops and libraries that are used elsewhere.

Each part is a function that gives rows, from words to numbers: medians, and in lists the single
measurements that they come from. What is compared runs in turn, A B A B, after one go at each that
does not count; a ratio is the median of the ratios of the pairs, beside the lowest and highest.

<out>/bench/<device>.json       sealed: the machine, its versions, and the rows of the parts that
                                were asked for last; <device>-quick.json where they were tiny
"""

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from dcgan import data, rundir
from dcgan.config import Config
from dcgan.data import Images
from dcgan.models import build
from dcgan.train import matmul_precision, start, train_epoch
from eval import audit, metrics
from eval.extractors import classifier
from eval.score import reference, score
from experiments import grid, launch, signals
from experiments.run import fingerprint, prepare

Row = dict[str, Any]
ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 300.0  # that processes wait for each other
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
    source: str | None = None  # of the images of one epoch; None: shapes
    quick: bool = False  # everything tiny: for tests

    @property
    def rounds(self) -> int:
        return 2 if self.quick else 3

    def config(self, settings: dict[str, Any]) -> Config:
        """Networks to be trained; `images` are those that a CPU is given, a GPU gets more."""
        if self.quick:
            settings = settings | {"images": 32, "width": 4}
        elif self.device.startswith("cuda"):
            settings = settings | {"images": settings["images"] * ON_A_GPU}
        batch = min(settings.get("batch", 128), settings["images"])
        return Config(**settings | {"batch": batch})


def write(bench: Bench, parts: Iterable[str], console: Console) -> Path:
    """Measure these parts, print each as it is done, and keep the record; returns its path."""
    name = f"{bench.device.replace(':', '-')}{'-quick' if bench.quick else ''}.json"
    path = bench.out / "bench" / name
    bench.out.mkdir(parents=True, exist_ok=True)
    prepare(bench.device, bench.threads)
    record = {
        "commit": launch.commit(),
        "hardware": {
            "device": fingerprint(Config(), bench.device, bench.threads)["device"],
            "processor": launch.processor(),
            "cores": launch.cores(),
            "threads": bench.threads,
        },
        "versions": launch.versions(),
        "quick": bench.quick,
        "parts": {},
    }
    for part in parts:
        record["parts"][part] = rows = PARTS[part](bench)
        console.print(to_table(part, rows))
        rundir.replace(path, rundir.seal(record))
    return path


def to_table(title: str, rows: list[Row]) -> Table:
    """Rows without their lists; what was not measured stays empty."""
    shown = [key for key in rows[0] if not isinstance(rows[0][key], list)]
    table = Table(title=title, title_justify="left")
    for key in shown:
        numbers = any(isinstance(row[key], int | float) for row in rows)
        table.add_column(key, justify="right" if numbers else "left")
    for row in rows:
        cells = ("" if row[key] is None else row[key] for key in shown)
        table.add_row(*(f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells))
    return table


def now(device: str) -> float:
    """Seconds of a clock that processes share, once the device has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()


def in_turn(
    ways: dict[str, Callable[[], Any]], rounds: int, device: str
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each way, taken in turn, and what each gave at a first go that does not count."""
    first = {name: work() for name, work in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            began = now(device)
            work()
            seconds[name].append(now(device) - began)
    return seconds, first


def against_first(seconds: dict[str, list[float]]) -> dict[str, Row]:
    """For each way how many times as long it takes as the first one, from seconds in pairs."""
    first = next(iter(seconds.values()))
    rows = {}
    for way, each in seconds.items():
        ratios = [theirs / ours for ours, theirs in zip(first, each, strict=True)]
        ends = {"lowest": min(ratios), "highest": max(ratios)}
        rows[way] = {"ratio": statistics.median(ratios), **ends, "seconds": each}
    return rows


# --- Training -------------------------------------------------------------------------------------


def training(bench: Bench) -> list[Row]:
    """train_epoch at each scale; the tutorials' loop on the blog's and the paper's networks.

    On a GPU the larger scales are trained in the precisions that may be faster there, too.
    """
    cases = [(scale, "fp32") for scale in CASES]
    if bench.device.startswith("cuda"):
        cases += [(scale, faster) for scale in ("cifar32", "blog64") for faster in ("tf32", "bf16")]
    rows = []
    for name, precision in cases:
        settings = COMPARED.get(name) or settings_of(name)
        config = bench.config(settings | {"images": CASES[name], "precision": precision})
        pixels = noise(config.images, min(config.resolution, 32))
        ways = {"ours": our_epoch(config, pixels, bench.device)}
        if name in COMPARED and precision == "fp32":
            ways["tutorial"] = tutorial_epoch(config, pixels, bench.device)
        with matmul_precision(precision):  # for the tutorials' loop, which sets nothing
            seconds, _ = in_turn(ways, bench.rounds, bench.device)
        speeds = {way: config.images / statistics.median(each) for way, each in seconds.items()}
        compared = against_first(seconds).get("tutorial", {})
        row = {
            "networks": name if precision == "fp32" else f"{name} in {precision}",
            "images/s": speeds["ours"],
            "tutorial images/s": speeds.get("tutorial"),
        }
        row |= {key: compared.get(key) for key in ("ratio", "lowest", "highest")}
        measured = {"seconds": seconds["ours"], "tutorial seconds": seconds.get("tutorial", [])}
        rows.append(row | measured)
    return rows


@dataclass(frozen=True)
class ImageDataset(Dataset):
    """Images as torchvision's data sets give them: a PIL image through transforms, and a label."""

    pixels: np.ndarray
    transform: Callable[[Image.Image], Tensor]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[i])), 0


def tutorial_loop(
    nets: list[nn.Module], adams: list[torch.optim.Adam], loader: Iterable, size: int, device: str
) -> list[tuple[float, float]]:
    """One epoch as the tutorials write it; the losses of D and G at each step.

    On purpose: worker processes decode and resize images anew, the loss is BCELoss on a sigmoid,
    the gradients that G's loss has in D are thrown away, both losses are fetched at every step. As
    in the blog's code G's images are made once for both networks, and D's loss is the mean of two
    halves, so that it computes what train_epoch does, under the same settings of the process.
    """
    (G, D), (adam_g, adam_d), criterion, losses = nets, adams, nn.BCELoss(), []
    for real, _ in loader:
        real = real.to(device)
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


def tutorial_epoch(config: Config, pixels: np.ndarray, device: str) -> Callable[[], Any]:
    """An epoch of the tutorials' loop, on networks in PyTorch's own layout, Adam not fused."""
    nets = [net.to(device).train() for net in build(config)]
    rates, betas = (config.lr_g, config.lr_d), (config.beta1, config.beta2)
    adams = [
        torch.optim.Adam(net.parameters(), rate, betas)
        for net, rate in zip(nets, rates, strict=True)
    ]
    images = ImageDataset(pixels, tutorial_transform(pixels.shape[1], config.resolution))
    options = {"shuffle": True, "num_workers": 2, "persistent_workers": True}
    loader = DataLoader(images, config.batch, **options)
    return partial(tutorial_loop, nets, adams, loader, config.latent_size, device)


def tutorial_transform(side: int, resolution: int) -> Callable[[Image.Image], Tensor]:
    """PIL image -> (3, resolution, resolution) in [-1, 1]."""
    from torchvision import transforms  # about a second, and only needed here

    resize = [] if side == resolution else [transforms.Resize(resolution)]
    normalise = transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return transforms.Compose([*resize, transforms.ToTensor(), normalise])


def our_epoch(config: Config, pixels: np.ndarray, device: str) -> Callable[[], Any]:
    """An epoch of train_epoch; the images are resized once, before it, as a study does."""
    native = Images("noise", "array", pixels, np.zeros(len(pixels), np.int64), "")
    resized = torch.from_numpy(data.resize(native, config.resolution).pixels).to(device)
    return partial(train_epoch, start(config, device), config, resized)


# --- Processes ------------------------------------------------------------------------------------


def jobs(bench: Bench) -> list[Row]:
    """Images a second of several processes together; `ratio`: how much faster the first way is.

    On a CPU two processes of one thread and one of two, at small; on a GPU one, two, four and eight
    processes that share it, at cifar32. `peak MB` is the most memory that one process has had, on a
    GPU that of its tensors.
    """
    on_gpu = bench.device.startswith("cuda")
    ways = [(1, 1), (2, 1), (4, 1), (8, 1)] if on_gpu else [(2, 1), (1, 2)]
    config = bench.config(settings_of("cifar32" if on_gpu else "small") | {"images": 1024})
    seconds: dict[str, list[float]] = {f"{count} x {threads}": [] for count, threads in ways}
    peaks = dict.fromkeys(seconds, 0.0)
    for _ in range(bench.rounds):
        for name, (count, threads) in zip(seconds, ways, strict=True):
            spans = train_together(config, count, threads, bench.device)
            took = max(span["ended"] for span in spans) - min(span["began"] for span in spans)
            seconds[name].append(took / (count * config.images))
            peaks[name] = max(peaks[name], *(span["peak"] / 1e6 for span in spans))
    speeds = {name: 1 / statistics.median(each) for name, each in seconds.items()}
    fastest = max(speeds, key=speeds.__getitem__)
    return [
        {
            "processes x threads": name,
            "images/s": speeds[name],
            "fastest": "yes" if name == fastest else None,
            "peak MB": peaks[name],
            **row,  # seconds an image
        }
        for name, row in against_first(seconds).items()
    ]


def train_together(config: Config, processes: int, threads: int, device: str) -> list[Row]:
    """One epoch in each of several processes, at the same time: `began`, `ended`, `peak` (bytes).

    Raises BrokenProcessPool where a process ends early.
    """
    context = signals.workers(__name__)
    with (
        context.Manager() as manager,
        ProcessPoolExecutor(processes, context, initializer=signals.follow) as pool,
    ):
        work = partial(_train_one, config, threads, device, manager.Barrier(processes))
        return [each.result() for each in [pool.submit(work) for _ in range(processes)]]


def _train_one(config: Config, threads: int, device: str, barrier: Barrier) -> Row:
    """A step to warm up, then an epoch when all processes are ready."""
    prepare(device, threads)
    pixels = torch.from_numpy(noise(config.images, config.resolution)).to(device)
    state = start(config, device)
    train_epoch(state, config, pixels[: config.batch])
    barrier.wait(START_SECONDS)
    began = now(device)
    train_epoch(state, config, pixels)
    ended = now(device)
    if device.startswith("cuda"):
        peak = torch.cuda.max_memory_allocated(device)
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"began": began, "ended": ended, "peak": peak}


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
        "ours": lambda: score(images, [real]),
        "torchmetrics": lambda: audit.by_torchmetrics(*theirs),
        "torch-fidelity": lambda: audit.by_torch_fidelity(*theirs),
    }
    seconds, _ = in_turn(ways, bench.rounds, bench.device)
    return [
        {"scored by": way, "images/s": count / statistics.median(row["seconds"]), **row}
        for way, row in against_first(seconds).items()
    ]


def frechet(bench: Bench) -> list[Row]:
    """The Fréchet distance of features to a reference whose statistics are known, in float64.

    `error` is relative to the closed form, see `scaled`. NumPy has one thread, unless
    OPENBLAS_NUM_THREADS says otherwise.
    """
    from torch_fidelity.metric_fid import fid_features_to_statistics as statistics_of
    from torch_fidelity.metric_fid import fid_statistics_to_metric as distance_of

    def by_torch_fidelity(x: np.ndarray, known: dict[str, np.ndarray]) -> float:
        mine = statistics_of(torch.from_numpy(x))
        return distance_of(mine, known, verbose=False)["frechet_inception_distance"]

    def by_ours(x: np.ndarray, known: metrics.Moments) -> float:
        return metrics.frechet_distance(metrics.moments(x), known)

    rows, sizes = [], {64: 500} if bench.quick else {64: 10_000, 256: 10_000, 2048: 5_000}
    for width, count in sizes.items():
        x, y, exact = scaled(count, width)
        ways = {
            "ours": partial(by_ours, x, metrics.moments(y)),
            "torch-fidelity": partial(by_torch_fidelity, x, statistics_of(torch.from_numpy(y))),
        }
        seconds, values = in_turn(ways, bench.rounds, "cpu")
        for way, row in against_first(seconds).items():
            error = abs(values[way] - exact) / exact
            key = {"D": width, "N": count, "computed by": way}
            rows.append({**key, "s": statistics.median(row["seconds"]), "error": error, **row})
    return rows


def scaled(count: int, width: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Two feature arrays (count, width) whose Fréchet distance is known, and that distance.

    y = 2 x, whose covariance is 4 times that of x: the distance is the squared norm of the mean of
    x plus the trace of its covariance.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, width)) @ rng.normal(size=(width, width)) / width**0.5 + 0.1
    return x, 2 * x, float((x.mean(0) ** 2).sum() + x.var(0, ddof=1).sum())


# --- Whole commands -------------------------------------------------------------------------------


def epoch(bench: Bench) -> list[Row]:
    """Where the time of an epoch goes at small: the third one of a run, which is no milestone.

    Training and scoring by the run's own clock; committing, and W&B offline, are what is left of
    the time from one commit to the next.
    """
    cell = ["epochs=3", "seed=0", "norm=none", "head=conv", "batch=128"]
    with tempfile.TemporaryDirectory(dir=bench.out) as folder:
        command = ablation(bench, Path(folder), "smoke" if bench.quick else "small", *cell)
        environ = {**os.environ, "WANDB_MODE": "offline"}
        subprocess.run(command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, check=True)
        (run,) = Path(folder).absolute().glob("*/*/seed=0")
        ends = [(rundir.epoch_folder(run, e) / rundir.SUMS).stat().st_mtime for e in (2, 3)]
        timing = rundir.read_json(run, 3, rundir.TIMING)
    whole = ends[1] - ends[0]
    seconds = {"training": timing["train_seconds"], "scoring": timing["score_seconds"]}
    seconds |= {"commit and W&B": whole - sum(seconds.values()), "epoch": whole}
    return [{"part": name, "s": each, "share": each / whole} for name, each in seconds.items()]


def commands(bench: Bench) -> list[Row]:
    """What the commands cost that a person waits for: medians of five, one more uncounted.

    Report and status are those of the published study of 64 runs, the plan is that of its grid on
    shapes that are in the cache. The first epoch is one of smoke, from the command to its commit.
    """
    study, rounds = str(ROOT / "reports" / "published" / "ablation-small"), 2 if bench.quick else 6
    with tempfile.TemporaryDirectory(dir=bench.out) as folder:
        out = Path(folder).absolute()
        waits = [{"s": seconds_to_first_epoch(bench, out)} for _ in range(rounds)]
        given = {
            "report": ["reports", "--from", study, "--to", str(out / "report")],
            "plan": [*ablation(bench, out, "small")[2:], "--plan"],
            "status": ["experiments", "status", study],
            "help": ["experiments", "ablation", "--help"],
        }
        costs = {name: [cost_of(words) for _ in range(rounds)] for name, words in given.items()}
    return [medians(name, each[1:]) for name, each in {"first epoch": waits, **costs}.items()]


def medians(command: str, costs: list[Row]) -> Row:
    """The median of each kind of seconds, and all of them."""
    kinds = {kind: [cost[kind] for cost in costs if kind in cost] for kind in ("s", "CPU s")}
    row = {kind: statistics.median(each) if each else None for kind, each in kinds.items()}
    return {"command": command, **row, **{f"all {kind}": each for kind, each in kinds.items()}}


def cost_of(words: list[str]) -> Row:
    """Seconds of `python -m` with these words, by the wall clock and of the processor."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", *words], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"s": took, "CPU s": cpu}


def seconds_to_first_epoch(bench: Bench, out: Path) -> float:
    """From the start of `python -m experiments` on a new study until its first commit.

    Without W&B, which no epoch waits for; with what the cache in `out` has of the images.
    ChildProcessError where the command ends without an epoch.
    """
    command, began = ablation(bench, out, "smoke"), time.perf_counter()
    environ = {**os.environ, "WANDB_MODE": "disabled"}
    process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL)
    try:
        while not any(out.glob("*/*/seed=*/epochs/0001")):
            if process.poll() is not None:
                raise ChildProcessError(f"{' '.join(command)} ended without an epoch")
            time.sleep(0.02)
        return time.perf_counter() - began
    finally:
        process.terminate()
        process.wait()
        for study in out.glob("ablation-*"):
            shutil.rmtree(study)


def ablation(bench: Bench, out: Path, scale: str, *words: str) -> list[str]:
    """The command of the study at this scale, on this device."""
    given = {"--scale": scale, "--data": bench.source or "shapes", "--device": bench.device}
    given |= {"--threads": str(bench.threads), "--out": str(out.absolute())}
    options = [part for option in given.items() for part in option]
    return [sys.executable, "-m", "experiments", "ablation", *options, *words]


PARTS: dict[str, Callable[[Bench], list[Row]]] = {
    "training": training,
    "jobs": jobs,
    "scoring": scoring,
    "frechet": frechet,
    "epoch": epoch,
    "commands": commands,
}


def noise(count: int, side: int, seed: int = 0) -> np.ndarray:
    """Images of noise (count, side, side, 3) uint8: what is in them changes no speed."""
    return np.random.default_rng(seed).integers(256, size=(count, side, side, 3), dtype=np.uint8)


def settings_of(scale: str) -> dict[str, Any]:
    return grid.define("ablation", scale).settings
