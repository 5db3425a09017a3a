"""Functions and fixtures that the test files share."""

import dataclasses
import hashlib
import io
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcgan import rundir
from dcgan.config import Config, is_milestone
from experiments import grid
from reports import records, tables
from reports.analysis import Analysis, analyse

ROOT = Path(__file__).resolve().parents[1]
FACTORS = {"norm": ["none", "batch"], "head": ["conv", "avgpool"], "batch": [128, 512]}


def encode(pixels: np.ndarray | Image.Image, form: str = "PNG", **options: object) -> bytes:
    """A picture of pixels (H, W, 3) uint8, or of an image of Pillow's."""
    file = io.BytesIO()
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    image.save(file, form, **options)
    return file.getvalue()


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files, by their names in a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def contents(folder: Path) -> dict[str, bytes | None]:
    """What lies below a folder, by its path from there: the bytes of files, None for folders."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def write_zip(path: Path, files: dict[str | zipfile.ZipInfo, bytes]) -> Path:
    """Write a zip of files whose names are as they are given, backslashes included."""
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def recommit(run: Path, epoch: int, files: dict[str, bytes]) -> None:
    """Commit an epoch anew, with these files beside or in place of its own."""
    folder = rundir.epoch_folder(run, epoch)
    kept = {name: rundir.read(folder, name) for name in rundir.read_sums(folder)}
    shutil.rmtree(folder)
    rundir.commit(run, epoch, kept | files)


@pytest.fixture(scope="session")
def pair(make_study, tmp_path_factory):
    """Two arms, two seeds, four epochs of known fd_cifar. Read only."""
    arms = {"norm": ["none", "batch"], "head": ["conv"], "batch": [128]}
    folder = tmp_path_factory.mktemp("pair")
    made = make_study(folder, seeds=(0, 1), factors=arms, epochs=4, resolution=16, points=2)
    values = {
        ("none", 0): [40.0, 30.0, 10.0, 20.0],
        ("none", 1): [50.0, 20.0, 25.0, 30.0],
        ("batch", 0): [90.0, 80.0, 70.0, 60.0],
        ("batch", 1): [80.0, 90.0, 85.0, 90.0],
    }
    return with_values(analyse(records.load(made)), "fd_cifar", values)


@pytest.fixture(scope="session")
def colours():
    """A feature network that one can follow by hand: mean and SD of each channel; 1 % as logits."""
    from eval.extractors import Extractor
    from eval.metrics import OF_CLASSIFIER

    def forward(images):
        channels = images.float().flatten(2)
        features = torch.cat([channels.mean(dim=2), channels.std(dim=2)], dim=1)
        return features, features / 100

    import torch

    resizer = "antialiased bilinear"
    return Extractor("colours", "5" * 64, 32, resizer, "cpu", forward, OF_CLASSIFIER)


@pytest.fixture(scope="session")
def finished_run():
    """A finished run in memory: (config, epoch, network) and, by name, what its methods return."""
    from eval.finished import FinishedRun

    def make(config, epoch=1, network=None, **returned):
        run = FinishedRun(Path("run"), config, epoch, 32, Path("cache"))
        returned["classifier"] = network
        vars(run).update({name: lambda *_, x=x: x for name, x in returned.items()})
        return run

    return make


@pytest.fixture
def run_command(capsys) -> Callable[..., tuple[int, str, str]]:
    """A command line in this process: (main, *words) -> exit code, stdout, stderr."""

    def run(main, *words):
        capsys.readouterr()
        return main([*map(str, words)]), *capsys.readouterr()

    return run


@pytest.fixture
def refusal(run_command, tmp_path) -> Callable[..., str]:
    """A refused command line: (main, *words) -> its one line, while nothing is written."""

    def run(main, *words):
        before = contents(tmp_path)
        code, shown, complaint = run_command(main, *words)
        assert (code, shown, complaint.count("\n")) == (2, "", 1), words
        assert contents(tmp_path) == before
        return complaint

    return run


@pytest.fixture(scope="session")
def make_generator():
    """G of a config, whose images have contrast, and for which BatchNorm's two modes differ."""
    import torch

    from dcgan.models import build
    from dcgan.train import draw_latent

    def make(config):
        G = build(config)[0].train()
        with torch.no_grad():
            G.to_rgb.weight.mul_(20)
            for _ in range(3):  # so that the running statistics are not the initial ones
                G(draw_latent(config, "warm-up", 0, 20))
        return G.eval()

    return make


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Path]:
    """Commit a run of a study: (study, config, files of each epoch, side of the data)."""

    def write(study, config, epochs, side=32):
        rundir.replace(study / "study.json", rundir.seal({"data": {"resolution": side}}))
        run = study / "norm=none" / f"seed={config.seed}"
        rundir.replace(run / "run.json", rundir.seal({"config": config.model_dump()}))
        for epoch, files in enumerate(epochs, 1):
            rundir.commit(run, epoch, files)
        return run

    return write


@pytest.fixture(scope="session")
def write_images() -> Callable[..., str]:
    """PNGs in a folder with a folder for each class: (folder, pixels, labels); returns its path."""

    def write(folder, pixels, labels):
        names = [f"{label}/{number}.png" for number, label in enumerate(labels)]
        return str(write_files(folder, dict(zip(names, map(encode, pixels), strict=True))))

    return write


def capture(command: list, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with its output."""
    return subprocess.run(command, capture_output=True, text=True, timeout=600, **options)


def clean_environ() -> dict[str, str]:
    """The environment without what a study would read."""
    read = ("WANDB_", "NETRC", "INCEPTION", "OUT")
    return {k: v for k, v in os.environ.items() if not k.startswith(read)}


def run_ablation(out: Path, *words: str, **options: str) -> subprocess.CompletedProcess:
    """`make ablation` at `smoke` with more words, to its end."""
    process = start_ablation(out, *words, **options)
    stdout, stderr = process.communicate(timeout=600)
    return subprocess.CompletedProcess(words, process.returncode, stdout, stderr)


def start_ablation(
    out: Path, *words: str, data: str | Path = "shapes", **environ: str
) -> subprocess.Popen:
    """The same, not waited for: in a process group of its own, its output in pipes."""
    options = ["--scale", "smoke", "--data", str(data), "--out", str(out), *words]
    return subprocess.Popen(
        [sys.executable, "-m", "experiments", "ablation", *options],
        cwd=ROOT,
        env=clean_environ() | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell lets its background jobs ignore Ctrl-C, and their children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, so that two workers end at about the same time."""
    longest = ["study", "reproduce", "faults_processes", "resample", "faults_inputs", "tracking"]
    rank = {f"test_{name}.py": number for number, name in enumerate([*longest, "page"])}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


def run_wandb(study: Path, *arguments: str) -> str:
    """W&B's own command line on a study's folder; its output."""
    folders = {f"WANDB_{name}_DIR": str(study / "wandb" / "cli") for name in ("CONFIG", "CACHE")}
    environ = os.environ | folders | {"HOME": str(study), "WANDB_DIR": str(study)}
    done = capture([Path(sys.executable).with_name("wandb"), *arguments], env=environ)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def all_history(study: Path, run_folder: Path) -> list[dict]:
    """The rows that W&B's own reader finds in a run's folder; nested values have dotted names."""
    lines = run_wandb(study, "leet", "inspect", "--json", str(run_folder)).splitlines()
    entries = [json.loads(line) for line in lines]
    return [entry["history"]["item"] for entry in entries if entry["type"] == "history"]


def history(study: Path, run_folder: Path) -> list[dict]:
    """The same rows without W&B's own columns and the samples."""
    rows = all_history(study, run_folder)
    return [{k: v for k, v in row.items() if not k.startswith(("_", "samples"))} for row in rows]


def rows_of_records(run: Path) -> list[dict]:
    """The rows that the committed epochs of a run should have become, samples apart."""
    rows, seconds = [], 0.0
    for epoch in rundir.committed(run):
        record = rundir.read_json(run, epoch, rundir.RECORD)
        for point in record["curve"]:
            row = {"images": point["images"], "train/d_loss": point["d_loss"]}
            rows.append({**row, "train/g_loss": point["g_loss"]})
        timing = rundir.read_json(run, epoch, rundir.TIMING)
        seconds += timing["train_seconds"] + timing["score_seconds"]
        row = {name: record[name] for name in ("epoch", "images", "steps", "status")}
        parts = {"time": timing | {"elapsed_seconds": seconds}}
        parts |= {"eval": record["scores"], "losses": record["losses"]}
        for part, values in parts.items():
            row |= {f"{part}/{name}": value for name, value in values.items()}
        rows.append(row)
    return [{name: "NaN" if x is None else x for name, x in row.items()} for row in rows]


def write_study(
    parent: Path,
    seeds: Sequence[int] = (0,),
    epochs: int = 8,
    factors: dict[str, list] | None = None,
    inception: str = "never",
    diverged: dict[str, int] | None = None,
    committed: dict[str, int] | None = None,
    data: str = "shapes",
    resolution: int = 32,
    points: int = 20,
    eval_sets: int = 0,
    arms: dict[str, dict] | None = None,
) -> Path:
    """Write a made-up study by the commit protocol; returns its folder. Same arguments, same bytes.

    `inception`: "never", "milestone" or "epoch", when fid, is and kid exist. `diverged`: run (its
    path, "norm=none,head=conv,batch=128/seed=0") -> first epoch at which it is; `committed`: run ->
    epochs, where fewer than all (0: not begun). `points`: of the curve of an epoch.
    `eval_sets`: evaluation sets of every epoch, its own among them; 0: no run has a folder of them.
    `arms`: name -> fields, in the place of factors.
    """
    factors = {"arm": list(arms)} if arms else FACTORS if factors is None else factors
    hashed = {x: hashlib.sha256(x.encode()).hexdigest() for x in (data, "net", "inception")}
    given = {"data": data, "data_sha256": hashed[data], "resolution": resolution}
    shared = Config(**given, epochs=epochs, inception=inception)
    settings = shared.model_dump(exclude={*factors, "seed"})
    name = "followups" if arms else "ablation"
    study = grid.Study(name, "small", factors, list(seeds), settings, arms or {})
    folder, identities = parent / study.folder, _identities(hashed, data, resolution, inception)
    for run in grid.runs(study):
        path, done = folder / run.folder, (committed or {}).get(run.folder, epochs)
        if done == 0:
            continue
        stored = {
            "config": run.config.model_dump(),
            "fingerprint": {"torch": "2.15.0", "device": "cpu", "threads": 1},
            "identities": identities,
        }
        rundir.replace(path / "run.json", rundir.seal(stored))
        _commit_run(path, run.config, done, (diverged or {}).get(run.folder, epochs + 1), points)
        if eval_sets:
            _write_eval_sets(path, eval_sets)

    info = {
        "study": name,
        "scale": "small",
        "data": {"name": data, "sha256": hashed[data], "images": 10_000, "resolution": resolution}
        | {"kind": "shapes" if data == "shapes" else "zip"},
        "factors": factors,
        "arms": study.arms,
        "seeds": study.seeds,
        "settings": settings,
        "commit": "abc1234",
        "hardware": {"device": "cpu", "processor": "Example CPU @ 2.00GHz"}
        | {"cores": 2, "jobs": 2, "threads": 1},
        "versions": {"python": "3.11.7", "torch": "2.15.0"},
    }
    rundir.replace(folder / "study.json", rundir.seal(info))
    rundir.replace(folder / "real.png", sample_grid(np.random.default_rng(0), resolution, 1.0))
    return folder


def write_calibration(folder: Path, **rows: dict[str, float | None]) -> dict:
    """Write a made-up calibration.json of every metric of a made-up study; returns its content.

    `rows`: set -> metric -> value, where it is another; the sets are named with _ for -.
    """
    identities = rundir.unseal(next(folder.glob("*/*/run.json")))["identities"]
    distances = {"held-out": 0.4, "gaussian": 40.6, "8x8": 57.0, "flat": 83.5, "untrained": 94.4}
    given = {name.replace("_", "-"): row for name, row in rows.items()}
    stored = {"held_out": "test split", "held_out_images": 2000, "held_out_seen": 0, "images": 2000}
    stored |= {"identities": identities, "rows": {}}
    for name, value in distances.items():
        row = dict.fromkeys(identities, value / 100) | {"fd_cifar": value}
        stored["rows"][name] = row | given.get(name, {})
    rundir.replace(folder / rundir.CALIBRATION, rundir.seal(stored))
    return stored


def with_values(study, column, values):
    """The study with a column given by (norm, seed) -> its epochs."""
    frame = study.frame.copy()
    for (norm, seed), numbers in values.items():
        here = (frame["norm"] == norm) & (frame["seed"] == seed)
        frame.loc[here, column] = numbers
    return dataclasses.replace(study, frame=frame)


def tables_of(study: Analysis) -> dict[str, tables.Table]:
    """The tables of a study by their names, without the ledger."""
    return {table.name: table for table in tables.report(study, [])}


def sample_grid(rng: np.random.Generator, resolution: int, quality: float) -> bytes:
    """A PNG of 4 rows x 8 columns of images: discs on a plain ground, less noisy with quality."""
    y, x = np.mgrid[:resolution, :resolution] / resolution
    grid = np.empty((4, resolution, 8, resolution, 3))
    for row, column in itertools.product(range(4), range(8)):
        disc = (x - rng.uniform(0.3, 0.7)) ** 2 + (y - rng.uniform(0.3, 0.7)) ** 2 < 0.06
        colours = rng.uniform(0, 1, (2, 3))
        grid[row, :, column] = np.where(disc[..., None], colours[0], colours[1])
    noise = rng.uniform(0, 1, grid.shape)
    pixels = (quality * grid + (1 - quality) * noise).reshape(4 * resolution, 8 * resolution, 3)
    return encode((pixels * 255).astype(np.uint8))


def _commit_run(run: Path, config: Config, epochs: int, diverged: int, points: int) -> None:
    """Invent the numbers of one run: worse with norm=batch, never below ln 2 there."""
    rng = _random(config.norm, config.head, config.batch, config.seed)
    broken, ln2 = config.norm == "batch", math.log(2)
    best, rate = 0.15 if broken else 0.9, 0.5 if config.batch < 256 else 0.3
    for epoch in range(1, epochs + 1):
        quality = best * (1 - np.exp(-epoch * rate))
        fd = 20 + 200 * (1 - quality) * np.exp(rng.normal(0, 0.12))
        d_curve = (ln2 + 0.07 if broken else 0.45) * np.exp(rng.normal(0, 0.02, points))
        g_curve = (0.75 if broken else 1.5 + 0.1 * epoch) * np.exp(rng.normal(0, 0.1, points))
        if broken:
            d_curve = np.maximum(d_curve, ln2 + 0.004)
        losses = {"d_loss": d_curve.mean(), "g_loss": g_curve.mean()}
        losses["d_loss_min"] = d_curve.min() - (0.002 if broken else 0.1)
        losses |= {"d_real": 0.5, "d_fake": 0.5} if broken else {"d_real": 0.7, "d_fake": 0.3}
        scores = {"fd_cifar": fd, "cs_cifar": 1 + 4 * quality, "kd_cifar": fd / 300}
        shares = {"precision": 0.6, "recall": 0.5, "density": 0.7, "coverage": 0.6}
        scores |= {f"{name}_cifar": share * quality for name, share in shares.items()}
        if config.inception == "epoch" or (config.inception == "milestone" and is_milestone(epoch)):
            scores |= {"fid": 3 * fd, "is": 1 + 6 * quality, "kid": fd / 1000}
        position = (epoch - 1 + np.arange(1, points + 1) / points) * config.images
        rows = zip(position.round(), d_curve, g_curve, strict=True)
        curve = [{"images": int(x), "d_loss": d, "g_loss": g} for x, d, g in rows]
        if epoch >= diverged:
            losses, scores = dict.fromkeys(losses), dict.fromkeys(scores)
            curve = [point | {"d_loss": None, "g_loss": None} for point in curve]
        speed = (820 if config.head == "conv" else 860) * rng.uniform(0.97, 1.03)
        record = {
            "epoch": epoch,
            "images": epoch * config.images,
            "steps": epoch * -(-config.images // config.batch),
            "status": "ok" if epoch < diverged else "diverged",
            "losses": losses,
            "curve": curve,
            "scores": scores,
        }
        timing = {"train_seconds": config.images / speed, "score_seconds": 1.9}
        timing["images_per_second"] = speed
        noise = np.random.default_rng(config.seed)  # the same for every arm and epoch
        files = {
            rundir.RECORD: rundir.to_json(record),
            rundir.TIMING: rundir.to_json(timing),
            rundir.SAMPLES: sample_grid(noise, config.resolution, quality),
        }
        rundir.commit(run, epoch, files)


def _write_eval_sets(run: Path, eval_sets: int) -> None:
    """Score every epoch again with noise of 2 % on the logarithm, as experiments.resample would."""
    rng, epochs = _random(run.parent.name, run.name), {}
    for epoch in rundir.committed(run):
        scores = rundir.read_json(run, epoch, rundir.RECORD)["scores"]
        epochs[epoch] = [
            {name: x and x * float(np.exp(rng.normal(0, 0.02))) for name, x in scores.items()}
            for _ in range(1, eval_sets)
        ]
    content = rundir.to_json({"banks": eval_sets, "epochs": epochs})
    rundir.place(run / "banks", {"scores.json": content})


def _random(*key: object) -> np.random.Generator:
    """Numbers that follow from a key, in any process."""
    return np.random.default_rng(list(hashlib.sha256(json.dumps(key).encode()).digest()))


def _identities(hashed: dict[str, str], data: str, resolution: int, inception: str) -> dict:
    """One identity for each metric that the study measures."""
    suffixed = ["fd", "cs", "kd", "precision", "recall", "density", "coverage"]
    metrics = {f"{name}_cifar": ("cifar10-resnet", hashed["net"]) for name in suffixed}
    if inception != "never":
        weights = ("inception-2015-12-05", hashed["inception"])
        metrics |= dict.fromkeys(["fid", "is", "kid"], weights)
    shared = {"generated": 2000, "reference": 10_000, "split": "train"}
    shared |= {"reference_sha256": hashed[data], "resolution": resolution, "resizer": "none"}
    shared |= {"quantiser": "round to nearest uint8", "batchnorm": "running"}
    shared["implementation"] = "eval.metrics 2"
    return {
        metric: {"metric": metric, "network": network, "network_sha256": sha256, **shared}
        for metric, (network, sha256) in metrics.items()
    }


# Functions of this file that tests get as fixtures.
make_study = pytest.fixture(lambda: write_study, scope="session")
calibrate_study = pytest.fixture(lambda: write_calibration, scope="session")
