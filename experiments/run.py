"""One run: for each epoch train, score, commit, mirror."""

import hashlib
import itertools
import math
import os
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn

from dcgan import rundir, train
from dcgan.config import Config, is_milestone
from dcgan.data import load_cached, of_classes, training_images
from dcgan.models import dump_generator
from dcgan.pictures import png_grid
from eval import metrics
from eval.extractors import Extractor, classifier, inception, lite0
from eval.score import REESTIMATED, Reference, identities, reestimated, reference, score, split_of
from experiments import tracking

CURVE_POINTS = 20  # points of the loss curves that an epoch's record keeps
SAMPLE_ROWS, SAMPLE_COLUMNS = 4, 8
Scores = dict[str, float | None]  # metric -> value; None where it is not finite


@dataclass(frozen=True)
class Job:
    """What one process needs to know to make or to finish a run."""

    config: Config
    folder: Path  # OUT/<study>/<arm>/seed=<n>
    side: int  # pixels a side of the real images that scores are taken against
    device: str
    threads: int
    inception: bool  # whether its weights are here
    wandb_mode: str
    imagenet: bool = False  # whether to measure on EfficientNet-Lite0 at milestones

    @property
    def study(self) -> Path:
        return self.folder.parents[1]

    @property
    def cache(self) -> Path:
        """Images and features of all studies beside this one."""
        return self.study.parent / "cache"

    @property
    def name(self) -> str:
        """`norm=none,head=conv,batch=128 seed=0`, for people."""
        return f"{self.folder.parent.name} {self.folder.name}"


def run(job: Job) -> str:
    """Make the epochs that a run lacks, and its mirror; returns why W&B failed, or ""."""
    config = job.config
    prepare(job.device, job.threads)
    with rundir.owned(job.folder):
        # A finished run, which another machine may have made, can only lack its mirror.
        committed = rundir.committed(job.folder)
        if len(committed) >= config.epochs:
            return tracking.start(job.folder, job.wandb_mode).finish()

        # The images to train on, and the real features to be scored against.
        images = load_cached(job.cache, config.data_sha256, config.resolution)
        pixels = training_images(images, config.classes, config.images, job.device)
        always, more = references(job)

        # Go on from the last whole state.
        latest = rundir.last_state(job.folder, committed)
        if latest:
            state = train.load_state(latest[1], config, job.device)
        else:
            state = train.start(config, job.device)
        rundir.describe(job.folder, describe(job, always, more))
        rundir.rewind(job.folder, state.epoch)
        mirror = tracking.start(job.folder, job.wandb_mode)

        while state.epoch < config.epochs:
            # Train.
            began = time.perf_counter()
            log = train.train_epoch(state, config, pixels)
            trained = time.perf_counter()

            # Score, on noise and in a mode of G that training does not notice.
            scores = measure(state.G, config, state.epoch, always)
            if is_milestone(state.epoch):
                scores |= measure_more(state.G, config, state.epoch, always, more)
            scored = time.perf_counter()

            # Commit.
            timing = {
                "train_seconds": trained - began,
                "score_seconds": scored - trained,
                "images_per_second": config.images / (trained - began),
            }
            content = {
                rundir.RECORD: rundir.to_json(summarise(state, log, scores)),
                rundir.TIMING: rundir.to_json(timing),
                rundir.SAMPLES: draw_samples(config, state),
                rundir.GENERATOR: dump_generator(state.G, config),
                rundir.STATE: train.dump_state(state),
            }
            rundir.commit(job.folder, state.epoch, content)
            rundir.prune(job.folder, state.epoch)

            mirror.log(state.epoch)
        return mirror.finish()


def prepare(device: str, threads: int) -> None:
    """Set threads and algorithms; where a GPU has no deterministic one, RuntimeError follows."""
    torch.set_num_threads(threads)
    if device != "cpu":  # whose algorithms are deterministic as they are
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


def references(job: Job) -> tuple[list[Reference], list[Reference]]:
    """What generated images are compared with at every epoch, and what at milestones alone."""
    classes, images = job.config.classes, load_cached(job.cache, job.config.data_sha256, job.side)
    real = of_classes(images, classes, job.config.reference_images)

    def seen_by(extractor: Extractor) -> Reference:
        pixels = real.pixels[: extractor.most]
        return reference(extractor, pixels, real.sha256, job.cache, split_of(classes))

    always, more = [seen_by(classifier(job.device))], []
    if job.imagenet:
        more.append(seen_by(lite0(job.device)))
    if job.inception:
        fid = seen_by(inception(None, job.device, cache=job.cache))
        (always if job.config.inception == "epoch" else more).append(fid)
    return always, more


def measure(
    G: nn.Module, config: Config, epoch: int, references: list[Reference], stream: str = "score"
) -> Scores:
    """The scores of G after this epoch, on the noise of a stream; None where it has collapsed.

    It has if an image is not finite, or if all are the same, pixel by pixel as uint8. A G that
    makes a few different images has a score, and a bad one.
    """
    z = train.draw_latent(config, stream, epoch, config.score_images)
    try:
        images = train.generate(G, z)
        collapsed = bool((images == images[0]).all())
    except FloatingPointError:
        collapsed = True
    if collapsed:
        return {name: None for real in references for name in real.extractor.metrics}
    return score(images, references)


def measure_more(
    G: nn.Module, config: Config, epoch: int, always: list[Reference], more: list[Reference]
) -> Scores:
    """What a milestone adds on the same noise: slower networks, BatchNorm re-estimated."""
    again = measure(reestimated(G, config, config.score_images), config, epoch, always)
    steadied = {name + REESTIMATED: value for name, value in again.items()}
    return measure(G, config, epoch, more) | steadied


def fingerprint(config: Config, device: str, threads: int) -> dict[str, str | int]:
    """What bits depend on beside the config. Runs that differ in it are never mixed in silence."""
    return {
        "torch": torch.__version__,
        "device": device_name(device),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
        "arithmetic": arithmetic(config.precision, device, threads),
    }


def device_name(device: str) -> str:
    """`cpu`, or what the GPU calls itself."""
    return "cpu" if device == "cpu" else torch.cuda.get_device_name(device)


@cache
def arithmetic(precision: str, device: str, threads: int) -> str:
    """A hash of a small training step and of products as in scores: equal where the bits are."""
    config = Config(precision=precision, resolution=16, width=16, images=64, batch=64)
    prepare(device, threads)
    stream = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (64, 16, 16, 3), generator=stream, dtype=torch.uint8)
    state = train.start(config, device)
    train.train_epoch(state, config, pixels.to(device))

    x, y = torch.randn((2, 500, 64), generator=stream, dtype=torch.float64).numpy()
    content = (x @ y.T).tobytes() + metrics.moments(x).factor.tobytes()
    return hashlib.sha256(train.dump_state(state) + content).hexdigest()[:12]


def describe(job: Job, always: list[Reference], more: list[Reference]) -> dict[str, dict[str, Any]]:
    """run.json: what this run is, on what it runs, and what its numbers mean."""
    config, measured = job.config, {}
    for real in always + more:
        measured |= identities(real, config.score_images, config.resolution)
    for real in always:
        measured |= identities(real, config.score_images, config.resolution, "re-estimated")
    return {
        "config": config.model_dump(),
        "fingerprint": fingerprint(config, job.device, job.threads),
        "identities": measured,
    }


def summarise(state: train.State, log: train.Log, scores: Scores) -> dict[str, Any]:
    """The record of an epoch: a function of the config alone, with null for what is not finite.

    A run has diverged, and has no scores, where a loss, a weight or a score is not finite at the
    epoch's end, or where G has collapsed (see `measure`).
    """
    losses = {
        "d_loss": fmean(log.d_loss),
        "g_loss": fmean(log.g_loss),
        "d_loss_min": min(log.d_loss),
        "d_real": fmean(log.d_real),
        "d_fake": fmean(log.d_fake),
    }

    # The curves are means over parts of about equal length.
    steps, before = len(log.images), log.images[-1] * (state.epoch - 1)
    points, curve = min(steps, CURVE_POINTS), []
    for begin, end in itertools.pairwise(i * steps // points for i in range(points + 1)):
        part = {"d_loss": log.d_loss[begin:end], "g_loss": log.g_loss[begin:end]}
        means = {name: _finite(fmean(values)) for name, values in part.items()}
        curve.append({"images": before + log.images[end - 1], **means})
    weights = [*state.G.state_dict().values(), *state.D.state_dict().values()]
    whole = all(map(math.isfinite, losses.values())) and None not in scores.values()
    whole = whole and all(bool(tensor.isfinite().all()) for tensor in weights)
    return {
        "epoch": state.epoch,
        "images": log.images[-1] * state.epoch,
        "steps": steps * state.epoch,
        "status": "ok" if whole else "diverged",
        "losses": {name: _finite(value) for name, value in losses.items()},
        "curve": curve,
        "scores": scores if whole else dict.fromkeys(scores),
    }


def draw_samples(config: Config, state: train.State) -> bytes:
    """A PNG of the images that G makes of the noise which all epochs and arms of a seed share."""
    z = train.draw_latent(config, "samples", 0, SAMPLE_ROWS * SAMPLE_COLUMNS)
    try:
        images = train.generate(state.G, z)
    except FloatingPointError:
        images = torch.zeros((len(z), 3, config.resolution, config.resolution), dtype=torch.uint8)
    return png_grid(images.permute(0, 2, 3, 1).numpy(), SAMPLE_COLUMNS)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
