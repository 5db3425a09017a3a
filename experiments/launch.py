"""From a study to its finished runs: plan, then start what is missing."""

import hashlib
import itertools
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from dcgan import rundir
from dcgan.config import Config, is_milestone
from dcgan.data import Images, rows_of
from dcgan.models import build
from dcgan.pictures import png_grid
from dcgan.train import start, train_epoch
from eval import metrics
from eval.classifier import FEATURES
from eval.extractors import classifier, has_lite0, lite0
from eval.fetch import NoWeights, find_inception
from experiments import grid, progress, signals, tracking
from experiments.grid import Run, Study
from experiments.run import SAMPLE_COLUMNS, SAMPLE_ROWS, Job, fingerprint
from experiments.run import run as run_job

ROOT = Path(__file__).parents[1]
CLAIMS = ROOT / "reports" / "claims.yaml"
START_SECONDS = 3  # of a run, before its first epoch
PROBE_STEPS = 4  # of training, to tell how long an epoch takes
SHOWN = 3  # runs with the same fault that a line names beside the first
PACKAGES = ("torch", "torchvision", "torch-fidelity", "torchmetrics", "wandb", "numpy", "scipy")


@dataclass(frozen=True)
class Plan:
    """What a study still needs."""

    study: Study
    folder: Path
    runs: list[Run]
    jobs: list[Job]  # one for each run
    places: int  # runs at a time
    committed: list[int]  # epochs that each run has
    missing: list[bool]  # whether a run has something to do: epochs, or its W&B mirror
    seconds: float  # an estimate of what is left
    bytes: int  # on disk, at most

    def committed_of(self, run: Run) -> int:
        """The epochs that a run of the plan has."""
        return self.committed[self.runs.index(run)]

    @property
    def epochs(self) -> int:
        """What is asked for, of all runs together."""
        return sum(run.config.epochs for run in self.runs)

    @property
    def epochs_done(self) -> int:
        """How much of that there is; a run may have more."""
        return sum(
            min(run.config.epochs, done)
            for run, done in zip(self.runs, self.committed, strict=True)
        )


def make_plan(
    study: Study, images: Images, out: Path, device: str, places: int, threads: int, mode: str
) -> Plan:
    """Look at what is there; `mode` is W&B's.

    Raises grid.BadStudy, and rundir.Differs where a stored run is not the one that is planned.
    """
    study = grid.fit(study, images.name, images.sha256, len(images.pixels))
    runs, folder = grid.runs(study), out / study.folder
    _check_images(runs, images)
    committed, stuck = [], []
    for run in runs:
        path = folder / run.folder
        imported = rundir.has_records_only(path)
        epochs = len(rundir.committed(path, (rundir.SAMPLES,) if imported else ()))
        wanted: dict[str, dict[str, Any]] = {"config": run.config.model_dump()}
        if epochs < run.config.epochs and not imported:
            # A finished run may come from another machine, an unfinished one goes on here.
            wanted["fingerprint"] = fingerprint(run.config, device, threads)
        if differences := rundir.compare(path, wanted):
            raise rundir.Differs(f"{path}: {'; '.join(differences)}")
        if epochs < run.config.epochs and (imported or rundir.is_without_state(path, epochs)):
            stuck.append(run)
        committed.append(epochs)
    if stuck:
        raise rundir.Differs(
            f"{folder / stuck[0].folder}: has records of {committed[runs.index(stuck[0])]} epochs "
            f"and no state to go on from to epochs={stuck[0].config.epochs}; import the rest, or "
            "remove the run to make it again" + _others(stuck[1:])
        )

    side = min(images.pixels.shape[1], runs[0].config.resolution)
    weights = runs[0].config.inception != "never" and _has_inception(out / "cache")
    imagenet = runs[0].config.imagenet != "never" and has_lite0()
    seconds = _run_seconds(runs, committed, device, threads, imagenet) / places
    jobs = [
        Job(
            run.config,
            folder,
            folder / run.folder,
            out / "cache",
            side,
            device,
            threads,
            weights,
            mode,
            imagenet,
        )
        for run in runs
    ]
    missing = [
        done < job.config.epochs or not _is_mirrored(study, job, done)
        for job, done in zip(jobs, committed, strict=True)
    ]
    disk = sum(map(_disk, runs))
    return Plan(study, folder, runs, jobs, places, committed, missing, seconds, disk)


def _others(runs: list[Run]) -> str:
    """The end of a line that has named the first of several runs."""
    more = f" and {len(runs) - SHOWN} more" if len(runs) > SHOWN else ""
    return f"; so have {', '.join(map(str, runs[:SHOWN]))}{more}" if runs else ""


def _check_images(runs: list[Run], images: Images) -> None:
    """Whether there are the images that every run asks for; raises BadStudy or BadData."""
    there = {
        classes: len(rows_of(images, classes)) for classes in {run.config.classes for run in runs}
    }
    for run in runs:
        for key in ("images", "reference_images"):
            if (wanted := getattr(run.config, key)) > there[run.config.classes]:
                few = f"there are {there[run.config.classes]:,} of classes={run.config.classes}"
                raise grid.BadStudy(f"{run}: {key}={wanted}, and {few}")


def write_study(plan: Plan, images: Images) -> None:
    """study.json and real.png: what the report needs to know beside the runs.

    What an earlier start had planned or used is kept: levels, seeds, commits; and the claims that
    it was to be judged by.
    """
    job = plan.jobs[0]
    study = plan.study
    shared = {
        key: value
        for key, value in Config.model_construct(**study.settings).model_dump().items()
        if key not in study.factors and key != "seed"
    }
    info = {
        "study": study.name,
        "scale": study.scale,
        "data": {
            "name": images.name,
            "kind": images.kind,
            "sha256": images.sha256,
            "images": len(images.pixels),
            "resolution": images.pixels.shape[1],
            "lossy": images.lossy,
        },
        "factors": study.factors,
        "arms": study.arms,
        "seeds": study.seeds,
        "settings": shared,
        "commit": commit(),
        "claims": frozen_claims(),
        "hardware": {
            "device": fingerprint(job.config, job.device, job.threads)["device"],
            "processor": processor(),
            "cores": cores(),
            "jobs": plan.places,
            "threads": job.threads,
        },
        "versions": versions(),
    }
    if (plan.folder / "study.json").exists():
        info |= grid.merge(rundir.unseal(plan.folder / "study.json"), info)
    rundir.replace(plan.folder / "study.json", rundir.seal(info))
    count = SAMPLE_ROWS * SAMPLE_COLUMNS
    chosen = np.resize(images.pixels[:count], (count, *images.pixels.shape[1:]))
    rundir.replace(plan.folder / "real.png", png_grid(chosen, SAMPLE_COLUMNS))


def execute(plan: Plan, console: Console) -> dict[str, str]:
    """Run what is missing; returns why runs failed, by name.

    A failed or killed run does not stop the others. Leaving through an exception ends the workers;
    what they had not committed is computed again next time.
    """
    context = signals.workers("experiments.run")
    waiting, state = begin(plan)
    at_work: dict[Connection, tuple[Run, BaseProcess]] = {}
    with progress.shown(state, console) as show:
        try:
            while waiting or at_work:
                # Fill the free places.
                while waiting and len(at_work) < plan.places:
                    run, job = waiting.pop()
                    receiver, sender = context.Pipe(duplex=False)
                    process = context.Process(target=_work, args=(job, sender), name=str(run))
                    state.rows[str(run)] = progress.Row(plan.committed_of(run), run.config.epochs)
                    try:
                        with signals.unheard():
                            process.start()
                        at_work[receiver] = run, process
                    except (OSError, EOFError):  # there is no memory for it, or no server
                        end(state, run, _ending(None), show)
                    sender.close()

                # Hear from the workers; a closed pipe is the end of one.
                for receiver in wait(list(at_work)):
                    run, process = at_work[receiver]
                    try:
                        message = receiver.recv()
                    except (EOFError, OSError):
                        del at_work[receiver]
                        process.join()
                        end(state, run, _ending(process.exitcode), show)
                    else:
                        hear(state, run, message, show)
        finally:
            for _, process in at_work.values():
                process.terminate()
            for _, process in at_work.values():
                process.join(5)
                process.kill()
    return finish(state)


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _work(job: Job, sender: Connection) -> None:
    """The body of a worker: one run, its messages sent to the launcher."""
    signals.follow()
    if not attempt(job, sender.send):
        raise SystemExit(1)


def attempt(job: Job, send: Callable[[dict[str, Any]], None]) -> bool:
    """One run, its messages sent on, and at last {"done": True} or {"failed": why}; which it was.

    The whole of what failed goes to error.txt in the run's folder.
    """
    complaint = job.folder / "error.txt"
    try:
        complaint.unlink(missing_ok=True)  # of an earlier attempt
        run_job(job, send)
    except BaseException as error:
        send({"failed": f"{type(error).__name__}: {error}".splitlines()[0]})
        with suppress(OSError):  # the disk may be full
            job.folder.mkdir(parents=True, exist_ok=True)
            complaint.write_text(_without_places(traceback.format_exc(), job))
        return False
    send({"done": True})
    return True


def _without_places(text: str, job: Job) -> str:
    """A traceback that can be passed on: it names no folder that only this machine has."""
    places = {
        str(job.study.parent.absolute()): "OUT",
        str(Path(__file__).parents[1]): ".",
        sys.prefix: "PYTHON",
        sys.base_prefix: "PYTHON",
        str(Path.home()): "~",
    }
    for place in sorted(places.keys() - {"/"}, key=len, reverse=True):
        text = text.replace(place, places[place])
    return text


def begin(plan: Plan) -> tuple[list[tuple[Run, Job]], progress.Progress]:
    """What is missing, the last one first, and where the study stands.

    Runs that are to go on for longer than they were planned say so from here on.
    """
    waiting = list(itertools.compress(zip(plan.runs, plan.jobs, strict=True), plan.missing))
    for run, job in waiting:
        if (job.folder / "run.json").exists():
            rundir.describe(job.folder, {"config": run.config.model_dump()})
    state = progress.Progress(
        runs=len(plan.runs),
        epochs=plan.epochs,
        runs_done=len(plan.runs) - len(waiting),
        epochs_done=plan.epochs_done,
        epochs_before=plan.epochs_done,
        epoch_seconds=plan.seconds * plan.places / (plan.epochs - plan.epochs_done or 1),
    )
    waiting.reverse()
    return waiting, state


def hear(
    state: progress.Progress,
    run: Run,
    message: dict[str, Any],
    show: Callable[[Run | None, str], None],
) -> None:
    """One message of a run: its end, a failure, W&B's failure, or an epoch."""
    if "done" in message:
        state.runs_done += 1
        state.rows.pop(str(run))
        return
    if "failed" in message:
        state.failed[str(run)] = message["failed"]
        return
    if "unmirrored" in message:
        state.unmirrored.append(message["unmirrored"])
        return
    state.epochs_done += 1
    epoch, numbers = message["record"]["epoch"], progress.numbers(message)
    seconds = message["timing"]["train_seconds"] + message["timing"]["score_seconds"]
    state.rows[str(run)] = progress.Row(epoch, run.config.epochs, numbers, seconds)
    show(run, f"epoch {epoch}/{run.config.epochs}  {numbers}")


def end(
    state: progress.Progress,
    run: Run,
    why: str,
    show: Callable[[Run | None, str], None],
) -> None:
    """The end of a run: a failed one, if it had not said that it was done."""
    if state.rows.pop(str(run), None) is None:
        return
    state.failed.setdefault(str(run), why)
    show(run, f"failed: {state.failed[str(run)]}")


def finish(state: progress.Progress) -> dict[str, str]:
    """Say what W&B lacks; returns why runs failed, by name."""
    if state.unmirrored:
        line = (
            f"W&B: {len(state.unmirrored)} of {state.runs} runs went on without a mirror, "
            f"which the same command makes: {state.unmirrored[0]}"
        )
        print(line, file=sys.stderr, flush=True)
    return state.failed


def _ending(exitcode: int | None) -> str:
    """How a worker ended that could not say so itself."""
    if exitcode is None:
        return "could not be started"
    if exitcode == -signal.SIGKILL:
        return "killed by SIGKILL, which is what a machine without free memory does"
    if exitcode < 0:
        return f"killed by {signal.Signals(-exitcode).name}"
    return f"ended early, with exit code {exitcode}"


def _is_mirrored(study: Study, job: Job, epoch: int) -> bool:
    """Whether W&B has all of a run up to this epoch, its last one, as far as it is wanted.

    A run that was imported is mirrored where it was made.
    """
    if rundir.has_records_only(job.folder) or job.wandb_mode == "disabled":
        return True
    info = {"study": study.name, "scale": study.scale}
    config = rundir.unseal(job.folder / "run.json")["config"]
    return tracking.whole(job.study, info, config, epoch)


def _has_inception(cache: Path) -> bool:
    try:
        find_inception(None, cache)
    except NoWeights:
        return False
    return True


def _run_seconds(
    runs: list[Run], committed: list[int], device: str, threads: int, imagenet: bool
) -> float:
    """Seconds that all remaining epochs take one after another, told from the first config."""
    lengths = [range(done, run.config.epochs) for run, done in zip(runs, committed, strict=True)]
    left = [epoch + 1 for length in lengths for epoch in length]
    if not left:
        return 0.0
    torch.set_num_threads(threads)
    epoch = _train_seconds(runs[0].config, device)
    score, milestone = _score_seconds(runs[0].config, device, imagenet)
    starts = START_SECONDS * sum(map(bool, lengths))
    return starts + len(left) * (epoch + score) + sum(map(is_milestone, left)) * milestone


def _train_seconds(config: Config, device: str) -> float:
    """Seconds of training in one epoch, from a few batches on this machine."""
    batch = min(config.batch, 128)
    probe = config.model_copy(update={"images": PROBE_STEPS * batch, "batch": batch})
    shape = (probe.images, config.resolution, config.resolution, 3)
    pixels = torch.zeros(shape, dtype=torch.uint8, device=device)
    state = start(probe, device)
    train_epoch(state, probe, pixels[:batch])  # the first one warms up
    return _seconds(lambda: train_epoch(state, probe, pixels)) * config.images / probe.images


def _score_seconds(config: Config, device: str, imagenet: bool) -> tuple[float, float]:
    """Seconds of one scoring, and of what a milestone adds, from fewer images on this machine."""
    count = config.score_images
    few, rows = min(200, count), min(2_000, count)
    pixels = torch.zeros((few, 3, 32, 32), dtype=torch.uint8)
    features = np.random.default_rng(0).random((rows, FEATURES), dtype=np.float32)
    judge = classifier(device)

    # A quarter more for making the images; pairs of features grow with the square of their number.
    images = 1.25 * _seconds(lambda: judge.extract(pixels)) * count / few
    pairs = _seconds(lambda: (metrics.kid(features, features), metrics.prdc(features, features)))
    once = images + pairs * (count / rows) ** 2
    if not imagenet:
        return once, once
    other = lite0(device)
    seen = min(count, other.most)
    return once, once + images * seen / count + _seconds(lambda: other.extract(pixels)) * seen / few


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _disk(run: Run) -> int:
    """Bytes that a run takes at most: states with Adam's two moments, generators, records."""
    G, D = (4 * sum(p.numel() for p in net.parameters()) for net in build(run.config))
    generators = 2 + sum(is_milestone(e + 1) for e in range(run.config.epochs))
    samples = SAMPLE_ROWS * SAMPLE_COLUMNS * 3 * run.config.resolution**2
    states = (rundir.STATES_KEPT + 1) * 3 * (G + D)
    return states + generators * G + run.config.epochs * (samples + 4000)


def versions() -> dict[str, str]:
    """Of Python, and of the packages that numbers depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def commit() -> str:
    """The checkout's commit, with a mark where files differ from it."""
    try:
        changed = _git(ROOT, "status", "--porcelain", "--untracked-files=no")
        return _git(ROOT, "rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def frozen_claims(path: Path = CLAIMS) -> dict[str, str]:
    """The last commit of claims.yaml, marked where the file differs from HEAD, its day; SHA-256."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    unknown = {"commit": "unknown", "date": "unknown", "sha256": digest}
    try:
        known = _git(path.parent, "log", "-1", "--format=%h %cs", "--", path.name)
        changed = _git(path.parent, "status", "--porcelain", "--", path.name)
    except (OSError, subprocess.CalledProcessError):
        return unknown
    if not known:  # in a checkout that does not have it
        return unknown
    last, date = known.split()
    return {"commit": last + ("+changes" if changed else ""), "date": date, "sha256": digest}


def _git(folder: Path, *words: str) -> str:
    """What git says in a folder of ours; a repository around the project is not the project's."""
    command = ["git", "-C", str(folder), *words]
    environ = os.environ | {"GIT_CEILING_DIRECTORIES": str(ROOT.parent)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def processor() -> str:
    """The name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
