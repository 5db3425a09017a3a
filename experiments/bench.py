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
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from dcgan import data, rundir
from dcgan.config import Config
from dcgan.data import Images, hold, keep, load_cached, shapes
from dcgan.models import build
from dcgan.train import Log, State, dump_state, load_state, products, start, train_epoch
from eval import audit, metrics
from eval.extractors import classifier
from eval.heads import operations
from eval.score import reference, score
from experiments import grid, launch, signals, tracking
from experiments.run import Job, files, measure, prepare, references, run, summarise

Row = dict[str, Any]
ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 300.0  # seconds that processes wait for each other
ON_A_GPU = 32  # times as many images are trained on there

# The networks that the plain loop trains too, and the images on which each speed is measured.
COMPARED: dict[str, dict[str, Any]] = {
    "blog64": {"resolution": 64, "width": 128, "stem": "linear", "init": "torch"},
    "paper, 64x64": {"resolution": 64, "width": 64, "stem": "conv", "init": "paper"},
}
CASES = {"smoke": 600, "small": 1024, "cifar32": 256, "blog64": 128, "paper, 64x64": 128}

# Where a GPU may take less time for a product, this is measured too.
FASTER = [(scale, precision) for scale in ("cifar32", "blog64") for precision in ("tf32", "bf16")]


@dataclass(frozen=True)
class Bench:
    """On what is measured, and how thoroughly."""

    device: str
    threads: int
    out: Path
    source: str | None = None  # of the images of one epoch; None: shapes
    quick: bool = False  # everything tiny: for tests

    @property
    def folder(self) -> Path:
        """Where the record goes, and temporary files: a commit costs what its disk does."""
        return self.out / "bench"

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


def write(bench: Bench, parts: Iterable[str], show: Callable[[str], None] = print) -> Path:
    """Measure these parts, show each as it is done, and keep the record; returns its path."""
    bench.folder.mkdir(parents=True, exist_ok=True)
    path = bench.folder / f"{bench.device.replace(':', '-')}{'-quick' if bench.quick else ''}.json"
    prepare(bench.device, bench.threads)
    record = {**machine(bench), "quick": bench.quick, "parts": {}}
    for name in parts:
        record["parts"][name] = rows = PARTS[name](bench)
        show(to_text(name, rows))
        rundir.replace(path, rundir.seal(record))
    return path


def to_text(name: str, rows: list[Row]) -> str:
    """Rows as a Markdown table, without their lists; what was not measured stays empty."""
    titles = [key for key in rows[0] if not isinstance(rows[0][key], list)]
    lines = [titles, ["---"] * len(titles)]
    lines += [[_cell(row[title]) for title in titles] for row in rows]
    return "\n".join([f"\n## {name}\n", *(f"| {' | '.join(line)} |" for line in lines)])


def machine(bench: Bench) -> Row:
    """Commit, hardware and versions, as a study records them."""
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        _job(bench, Path(folder), "smoke", shapes(600))
        info = rundir.unseal(Path(folder) / "study.json")
    return {key: info[key] for key in ("commit", "hardware", "versions")}


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


def compare(ours: list[float], theirs: list[float]) -> Row:
    """How many times as fast ours is, from seconds in pairs."""
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return {"ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}


# --- Training -------------------------------------------------------------------------------------


def training(bench: Bench) -> list[Row]:
    """train_epoch at each scale, and beside it the plain loop on the blog's and paper's networks.

    `of a matrix product`: floating-point operations a second of the networks' layers, over those of
    one product of large matrices in the same precision, here and now.
    """
    chosen = cases(bench.device)
    precisions = dict.fromkeys(precision for _, precision in chosen.values())
    peaks = {precision: product_speed(bench, precision) for precision in precisions}
    rows = []
    for name, (networks, precision) in chosen.items():
        settings = COMPARED.get(networks) or _settings(networks)
        config = bench.config(settings | {"images": CASES[networks], "precision": precision})
        pixels = noise(config.images, min(config.resolution, 32))
        ways = {"ours": our_pass(config, pixels, bench.device)}
        if name in COMPARED:
            ways["plain"] = plain_pass(config, pixels, bench.device)
        with products(precision):  # for the plain loop, which sets nothing
            seconds, _ = in_turn(ways, bench.rounds, bench.device)
        speeds = {way: config.images / statistics.median(each) for way, each in seconds.items()}
        work = 2 * operations(config)  # a multiply-add is two
        ratios = compare(seconds["ours"], seconds["plain"]) if "plain" in seconds else {}
        rows.append(
            {
                "networks": name,
                "images": config.images,
                "images/s": speeds["ours"],
                "GFLOP an image": work / 1e9,
                "of a matrix product": work * speeds["ours"] / peaks[precision],
                "plain loop images/s": speeds.get("plain"),
                **{key: ratios.get(key) for key in ("ratio", "lowest", "highest")},
                "seconds": seconds["ours"],
                "plain seconds": seconds.get("plain", []),
            }
        )
    return rows


def cases(device: str) -> dict[str, tuple[str, str]]:
    """What is trained there, by the name of its row: networks of CASES and a precision."""
    usual = {name: (name, "fp32") for name in CASES}
    if not device.startswith("cuda"):
        return usual
    return usual | {f"{scale} in {precision}": (scale, precision) for scale, precision in FASTER}


class Pictures(Dataset):
    """Images as torchvision's data sets give them: a PIL image through transforms, and a label."""

    def __init__(self, pixels: np.ndarray, transform: Callable[[Image.Image], Tensor]) -> None:
        self.pixels, self.transform = pixels, transform

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[i])), 0


def plain_epoch(
    G: nn.Module,
    D: nn.Module,
    adam_g: torch.optim.Optimizer,
    adam_d: torch.optim.Optimizer,
    loader: Iterable,
    latent_size: int,
    device: str,
) -> list[tuple[float, float]]:
    """One epoch as the tutorials write it; the losses of D and G at each step.

    On purpose: images are decoded and resized anew by worker processes, the loss is BCELoss on a
    sigmoid, the gradients that G's loss has in D are computed and thrown away, both losses are
    fetched at every step. Like the blog's code, it makes G's images once for both networks, and D's
    loss is the mean of two halves, so that it computes what train_epoch does. The settings of the
    process, deterministic algorithms on a GPU among them, are the same for both.
    """
    criterion, losses = nn.BCELoss(), []
    for real, _ in loader:
        real = real.to(device)
        ones, zeros = torch.ones(len(real), device=device), torch.zeros(len(real), device=device)

        fake = G(torch.randn(len(real), latent_size, device=device))

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


def plain_pass(config: Config, pixels: np.ndarray, device: str) -> Callable[[], Any]:
    """A whole pass of the plain loop, from networks in PyTorch's own layout, Adam not fused."""
    G, D = (net.to(device).train() for net in build(config))
    adams = [
        torch.optim.Adam(net.parameters(), lr, (config.beta1, config.beta2))
        for net, lr in ((G, config.lr_g), (D, config.lr_d))
    ]
    pictures = Pictures(pixels, plain_transform(pixels.shape[1], config.resolution))
    loader = DataLoader(
        pictures, config.batch, shuffle=True, num_workers=2, persistent_workers=True
    )
    return partial(plain_epoch, G, D, *adams, loader, config.latent_size, device)


def plain_transform(side: int, resolution: int) -> Callable[[Image.Image], Tensor]:
    """PIL image -> (3, resolution, resolution) in [-1, 1]."""
    from torchvision import transforms  # about a second, and only needed here

    resize = [] if side == resolution else [transforms.Resize(resolution)]
    normalise = transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return transforms.Compose([*resize, transforms.ToTensor(), normalise])


def our_pass(config: Config, pixels: np.ndarray, device: str) -> Callable[[], Any]:
    """A whole pass of train_epoch; the images are resized once, before it, as a study does."""
    native = Images("noise", "array", pixels, np.zeros(len(pixels), np.int64), "")
    resized = torch.from_numpy(data.resize(native, config.resolution).pixels).to(device)
    return partial(train_epoch, start(config, device), config, resized)


def product_speed(bench: Bench, precision: str) -> float:
    """Floating-point operations a second of one product of square matrices in this precision."""
    side = 8192 if bench.device.startswith("cuda") else 256 if bench.quick else 2048
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x = torch.randn(side, side, device=bench.device).to(dtype)
    with products(precision):
        seconds, _ = in_turn({"product": lambda: x @ x}, bench.rounds, bench.device)
    return 2 * side**3 / statistics.median(seconds["product"])


# --- Processes ------------------------------------------------------------------------------------


def jobs(bench: Bench) -> list[Row]:
    """Images a second of several processes together; `ratio`: how much faster the first way is.

    On a CPU two processes of one thread and one of two, at small; on a GPU one, two, four and eight
    processes that share it, at cifar32.
    """
    scale, ways = ways_to_share(bench.device)
    config = bench.config(_settings(scale) | {"images": 1024})
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(bench.rounds):
        for name, (processes, threads) in ways.items():
            spans = together(config, processes, threads, bench.device)
            seconds[name].append(duration(spans) / (processes * config.images))
    first, fastest = next(iter(ways)), min(ways, key=lambda way: statistics.median(seconds[way]))
    return [
        {
            "processes x threads": name,
            "images/s": 1 / statistics.median(each),
            **compare(seconds[first], each),
            "fastest": "yes" if name == fastest else None,
            "seconds an image": each,
        }
        for name, each in seconds.items()
    ]


def ways_to_share(device: str) -> tuple[str, dict[str, tuple[int, int]]]:
    """The scale that is trained, and by how many processes of how many threads, by name."""
    if device.startswith("cuda"):
        return "cifar32", {f"{processes} x 1": (processes, 1) for processes in (1, 2, 4, 8)}
    return "small", {"2 x 1": (2, 1), "1 x 2": (1, 2)}


def growth(bench: Bench) -> list[Row]:
    """Speed, bytes of a state and peak memory of a process, one factor at a time from small."""
    base = _settings("small") | {"images": 512}
    levels: dict[str, list[int]] = {
        "images": [256, 512, 1024, 2048],
        "resolution": [16, 32, 64],
        "width": [16, 32, 64, 128],
        "batch": [32, 128, 512],
        "jobs": [1, 2],
    }
    rows = []
    for factor, level in ((factor, level) for factor, each in levels.items() for level in each):
        config = bench.config(base if factor == "jobs" else base | {factor: level})
        processes = level if factor == "jobs" else 1
        spans = [together(config, processes, bench.threads, bench.device) for _ in range(2)]
        speeds = [processes * config.images / duration(each) for each in spans]
        rows.append(
            {
                "factor": factor,
                "level": level if factor == "jobs" else getattr(config, factor),
                "images/s": statistics.median(speeds),
                "state MB": spans[0][0]["state"] / 1e6,
                "peak MB": max(span["peak"] for each in spans for span in each) / 1e6,
                "measured": speeds,
            }
        )
    return rows


def together(config: Config, processes: int, threads: int, device: str) -> list[Row]:
    """One epoch in each of several processes, at the same time: `began`, `ended`, `peak`, `state`.

    Bytes: `peak` is the most memory a process has had, on a GPU that of its tensors; `state` is the
    size of what an epoch commits to go on from. ChildProcessError where a process ends early.
    """
    context = signals.workers(__name__)
    barrier = context.Barrier(processes)
    workers, receivers = [], []
    for _ in range(processes):
        receiver, sender = context.Pipe(duplex=False)
        workers.append(
            context.Process(
                target=_train_one, args=(config, threads, device, barrier, sender), daemon=True
            )
        )
        workers[-1].start()
        sender.close()
        receivers.append(receiver)
    try:
        spans = [receiver.recv() for receiver in receivers]
    except EOFError as error:
        raise ChildProcessError(f"a process that trained on {device} ended early") from error
    for worker in workers:
        worker.join()
    return spans


def duration(spans: list[Row]) -> float:
    """Seconds from the first that began to the last that ended."""
    return max(span["ended"] for span in spans) - min(span["began"] for span in spans)


def _train_one(
    config: Config, threads: int, device: str, barrier: Barrier, sender: Connection
) -> None:
    """The body of such a process: a step to warm up, then an epoch when all are ready."""
    signals.follow()
    prepare(device, threads)
    pixels = torch.from_numpy(noise(config.images, config.resolution)).to(device)
    state = start(config, device)
    train_epoch(state, config, pixels[: config.batch])
    barrier.wait(PATIENCE)
    began = now(device)
    train_epoch(state, config, pixels)
    ended = now(device)
    if device.startswith("cuda"):
        peak = torch.cuda.max_memory_allocated(device)
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    sender.send({"began": began, "ended": ended, "peak": peak, "state": len(dump_state(state))})


# --- Scores ---------------------------------------------------------------------------------------


def scoring(bench: Bench) -> list[Row]:
    """From uint8 images to scores through the bundled classifier: ours, and two libraries' loops.

    Ours finds seven scores, torchmetrics three with a pass of the network for each, torch-fidelity
    five. Real images come as features; ours has their moments in its cache, as in every epoch.
    """
    count = 100 if bench.quick else 1000
    extractor = classifier(bench.device)
    images = torch.from_numpy(noise(count, 32, seed=1)).permute(0, 3, 1, 2).contiguous()
    with tempfile.TemporaryDirectory(dir=bench.folder) as cache:
        real = reference(extractor, noise(count, 32), "", Path(cache))
    theirs = (images, real.features, extractor, torch.float32)
    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: score(images, [real]),
        "torchmetrics": lambda: audit.by_torchmetrics(*theirs),
        "torch-fidelity": lambda: audit.by_torch_fidelity(*theirs),
    }
    seconds, _ = in_turn(ways, bench.rounds, bench.device)
    return [
        {
            "scored by": way,
            "images/s": count / statistics.median(each),
            **compare(seconds["ours"], each),
            "seconds": each,
        }
        for way, each in seconds.items()
    ]


def frechet(bench: Bench) -> list[Row]:
    """The Fréchet distance of features to a reference whose statistics are known, in float64.

    `error` is relative to the closed form; see waves. NumPy and SciPy have one thread, unless
    OPENBLAS_NUM_THREADS says otherwise.
    """
    sizes = {64: 500} if bench.quick else {64: 10_000, 256: 10_000, 2048: 5_000}
    rows = []
    for width, count in sizes.items():
        x, y, exact = waves(count, width)
        ways = ways_to_the_distance(x, y)
        seconds, found = in_turn(ways, bench.rounds, "cpu")
        rows += [
            {
                "D": width,
                "N": count,
                "computed by": way,
                "s": statistics.median(each),
                **compare(seconds["ours"], each),
                "error": abs(found[way] - exact) / exact,
                "seconds": each,
            }
            for way, each in seconds.items()
        ]
    return rows


def ways_to_the_distance(x: np.ndarray, y: np.ndarray) -> dict[str, Callable[[], float]]:
    """The distance from features x to y, whose statistics are taken here and now."""
    from scipy.linalg import sqrtm
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    ours, theirs = metrics.moments(y), fid_features_to_statistics(torch.from_numpy(y))

    def by_torch_fidelity() -> float:
        mine = fid_features_to_statistics(torch.from_numpy(x))
        return fid_statistics_to_metric(mine, theirs, verbose=False)["frechet_inception_distance"]

    def by_sqrtm() -> float:
        offset, covariance = x.mean(axis=0) - theirs["mu"], np.cov(x, rowvar=False)
        root = sqrtm(covariance @ theirs["sigma"]).real
        return float(offset @ offset + np.trace(covariance + theirs["sigma"] - 2 * root))

    return {
        "ours": lambda: metrics.frechet_distance(metrics.moments(x), ours),
        "torch-fidelity": by_torch_fidelity,
        "sqrtm": by_sqrtm,
    }


def waves(count: int, width: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Two feature arrays (count, width) whose Fréchet distance is known, and that distance.

    Column k is a cosine of frequency k: below count / 2 they have mean 0 and are uncorrelated. They
    are scaled to the standard deviations a and b, one side is shifted, and both are reflected at
    one plane, which makes the covariances full and keeps |m - n|^2 + sum (a - b)^2.
    """
    frequency = np.arange(1, width + 1)
    angles = 2 * np.pi * (np.outer(np.arange(count), frequency) % count) / count
    columns = np.cos(angles) * np.sqrt(2 * (count - 1) / count)  # of sample variance 1
    a, b = frequency**-1.0, frequency**-0.9
    shift = frequency**-0.5
    exact = float(shift @ shift + ((a - b) ** 2).sum())
    plane = np.full(width, width**-0.5)
    x, y = (
        signal - 2 * np.outer(signal @ plane, plane)
        for signal in (columns * a + shift, columns * b)
    )
    return x, y, exact


# --- One epoch, and the way to it -----------------------------------------------------------------


def epoch(bench: Bench) -> list[Row]:
    """Where the time of an epoch goes at small: the second one of a real run, and its pieces again.

    The pieces are those of the third epoch, timed one by one; `other` is what they do not explain.
    """
    scale = "smoke" if bench.quick else "small"
    if bench.source:
        images = data.load(bench.source, bench.out / "cache")
    else:
        images = shapes(600 if bench.quick else 10_000)
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        job = _job(bench, Path(folder), scale, images)
        keep(images, job.cache, job.config.resolution)
        references(job)
        heard: list[float] = []
        run(job, lambda message: heard.append(now(bench.device)))
        whole = heard[1] - heard[0]
        pieces = epoch_pieces(job)
    return shares(whole, pieces)


def shares(whole: float, pieces: dict[str, float]) -> list[Row]:
    """Seconds and shares of an epoch; what its pieces leave over, or have too much, is `other`."""
    pieces = pieces | {"other": whole - sum(pieces.values()), "epoch": whole}
    return [
        {"piece": name, "s": seconds, "share": seconds / whole} for name, seconds in pieces.items()
    ]


def epoch_pieces(job: Job) -> dict[str, float]:
    """Seconds of the pieces of one more epoch of a run: what experiments.run does in one."""
    config = job.config
    found = rundir.last_state(job.folder)
    assert found is not None
    state = load_state(found[1], config, job.device)
    images = load_cached(job.cache, config.data_sha256, config.resolution)
    pixels = hold(images, config.classes, config.images, job.device)
    compared = references(job)[0]
    info = rundir.unseal(job.study / "study.json")
    mirror = tracking.start(job.study, job.folder, info, config.model_dump(), job.wandb_mode)

    lap, seconds = stopwatch(job.device)
    log = train_in_pieces(state, config, pixels, lap)
    scores = measure(state.G, config, state.epoch, compared)
    lap("scoring")
    content = files(config, state, summarise(state, log, scores), {"images_per_second": 1.0})
    rundir.commit(job.folder, state.epoch, content)
    rundir.prune(job.folder, state.epoch)
    lap("commit")
    mirror.log(state.epoch)
    lap("W&B")
    mirror.finish()
    return seconds


def train_in_pieces(
    state: State, config: Config, pixels: Tensor, lap: Callable[[str], None]
) -> Log:
    """train_epoch, its clock read wherever one network's turn ends."""
    hooks = [
        state.G.register_forward_pre_hook(lambda *_: lap("data and noise")),
        state.G.register_forward_hook(lambda *_: lap("G")),
        state.adam_d.register_step_post_hook(lambda *_: lap("D")),
        state.adam_g.register_step_post_hook(lambda *_: lap("G")),
    ]
    log = train_epoch(state, config, pixels)
    for hook in hooks:
        hook.remove()
    lap("losses")
    return log


def stopwatch(device: str) -> tuple[Callable[[str], None], dict[str, float]]:
    """A function that adds the seconds since it was last called to a name, and these sums."""
    seconds: dict[str, float] = defaultdict(float)
    last = now(device)

    def lap(name: str) -> None:
        nonlocal last
        before, last = last, now(device)
        seconds[name] += last - before

    return lap, seconds


def beginning(bench: Bench) -> list[Row]:
    """How long the first epoch of `ablation` at smoke is waited for, and PyTorch's import alone.

    And the most memory that one worker has at small.
    """
    waits = defaultdict(list)
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        waits["first epoch, images drawn"].append(seconds_to_first_epoch(bench, Path(folder)))
        for _ in range(1 if bench.quick else 3):
            waits["import torch"].append(_seconds_of([sys.executable, "-c", "import torch"]))
            waits["first epoch"].append(seconds_to_first_epoch(bench, Path(folder)))
    rows = [
        {"what": what, "unit": "s", "median": statistics.median(each), "measured": each}
        for what, each in waits.items()
    ]
    config = bench.config(_settings("small"))
    peak = together(config, 1, bench.threads, bench.device)[0]["peak"] / 1e6
    return [*rows, {"what": "worker at small", "unit": "MB", "median": peak, "measured": [peak]}]


def seconds_to_first_epoch(bench: Bench, out: Path) -> float:
    """From the start of `python -m experiments` on a new study until it says that epoch 1 is done.

    Without W&B, which no epoch waits for; with what the cache in `out` has of the images.
    ChildProcessError where it never says so.
    """
    for study in out.glob("ablation-*"):
        shutil.rmtree(study)
    options = f"--scale smoke --data shapes --device {bench.device} --threads {bench.threads}"
    command = [sys.executable, "-m", "experiments", "ablation", *options.split()]
    began = now(bench.device)
    process = subprocess.Popen(
        [*command, "--out", str(out.absolute())],
        cwd=ROOT,
        env={**os.environ, "WANDB_MODE": "disabled"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "epoch 1/" in line:
                return now(bench.device) - began
    finally:
        process.terminate()
        process.communicate()
    raise ChildProcessError(f"{' '.join(command)} ended without an epoch")


PARTS: dict[str, Callable[[Bench], list[Row]]] = {
    "training": training,
    "jobs": jobs,
    "scoring": scoring,
    "frechet": frechet,
    "epoch": epoch,
    "start": beginning,
    "growth": growth,
}


def noise(count: int, side: int, seed: int = 0) -> np.ndarray:
    """Images of noise (count, side, side, 3) uint8: what is in them changes no speed."""
    return np.random.default_rng(seed).integers(256, size=(count, side, side, 3), dtype=np.uint8)


def _job(bench: Bench, folder: Path, scale: str, images: Images) -> Job:
    """The first run of a study of these images, two epochs long, whose study.json is written."""
    study = grid.define("ablation", scale, words=["epochs=2"])
    study = grid.fit(study, images.name, images.sha256, len(images.pixels))
    first = grid.runs(study)[0]
    side = min(images.pixels.shape[1], first.config.resolution)
    home, cache = folder / first.folder, folder / "cache"
    job = Job(
        first.config, folder, home, cache, side, bench.device, bench.threads, False, "offline"
    )
    plan = launch.Plan(study, folder, [first], [job], 1, [0], [True], 0.0, 0)
    launch.write_study(plan, images)
    return job


def _settings(scale: str) -> dict[str, Any]:
    return grid.define("ablation", scale).settings


def _seconds_of(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - began


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
