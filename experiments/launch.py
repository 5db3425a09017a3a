"""From a plan to finished runs: write what they share, then run what is missing."""

import hashlib
import os
import platform
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from dcgan import pictures, rundir
from dcgan.cli import first_line, processor
from dcgan.config import Config
from dcgan.data import Images, keep, load_cached, of_classes
from eval.calibration import HeldOut, calibrate, is_current
from experiments import grid, progress, run, signals
from experiments.plan import Plan
from experiments.run import Job

ROOT = Path(__file__).parents[1]
POLL_SECONDS = 0.5  # between two looks at what is committed
CLAIMS = ROOT / "reports" / "claims.yaml"
PACKAGES = ("torch", "torchvision", "torch-fidelity", "torchmetrics", "wandb", "numpy", "scipy")


def prepare_study(plan: Plan, images: Images, test: Images | None, held: HeldOut) -> None:
    """Make what all runs need, once: images and features in the cache, study.json, calibration."""
    job = plan.jobs[0]
    keep(images, job.cache, job.config.resolution)
    if test:
        keep(test, job.cache, test.pixels.shape[1])  # not to be decoded again
    if plan.epochs_done < plan.epochs:
        write_study(plan, images)
    run.prepare(job.device, job.threads)
    always, more = run.references(job)

    # A calibration that is there stays, unless it lacks a metric, the test split, or other classes.
    path = job.study / rundir.CALIBRATION
    others = {x.config.classes: x for x in plan.jobs if x.config.classes != job.config.classes}
    with suppress(rundir.Damaged):  # it is missing, or has to be made again
        if is_current(rundir.unseal(path), always + more, held.source, others.keys()):
            return
    cached = load_cached(job.cache, job.config.data_sha256, job.side)
    real = of_classes(cached, job.config.classes, job.config.reference_images)
    compared = {classes: run.references(x)[0] for classes, x in others.items()}
    made = calibrate(always + more, real.pixels, held, job.config, compared)
    rundir.replace(path, rundir.seal(made))


def write_study(plan: Plan, images: Images) -> None:
    """study.json and real.png, for the report; what an earlier start planned or used is kept."""
    study, job = plan.study, plan.jobs[0]
    shared = Config.model_construct(**study.settings).model_dump()
    info = {
        "study": study.name,
        "scale": study.scale,
        "data": {key: getattr(images, key) for key in ("name", "kind", "sha256")}
        | {"images": len(images.pixels), "resolution": images.pixels.shape[1]},
        "factors": study.factors,
        "arms": study.arms,
        "seeds": study.seeds,
        "settings": {k: v for k, v in shared.items() if k not in {*study.factors, "seed"}},
        "claims": frozen_claims(),
        **made_with(job.device, job.threads, plan.max_parallel),
    }
    if (plan.folder / "study.json").exists():
        info |= grid.merge(rundir.unseal(plan.folder / "study.json"), info)
    rundir.replace(plan.folder / "study.json", rundir.seal(info))
    count = run.SAMPLE_ROWS * run.SAMPLE_COLUMNS
    chosen = np.resize(images.pixels[:count], (count, *images.pixels.shape[1:]))
    rundir.replace(plan.folder / "real.png", pictures.png_grid(chosen, run.SAMPLE_COLUMNS))


def run_all(
    plan: Plan,
    console: Console,
    start: Callable[[Job], Any],
    wait_for: Callable[[list[Any]], list[Any]],
    outcome: Callable[[Any], dict[str, str]],
) -> dict[str, str]:
    """Run what is missing; returns why runs failed, by name.

    `start` begins a task, `wait_for` gives those of some tasks that have ended, after POLL_SECONDS
    at most, and `outcome` is what `attempt` returned in one, or why it could not. Epochs are seen
    on the disk. A failed or killed run does not stop the others.
    """
    # Runs that are to go on for longer than they were planned say so from here on.
    waiting = plan.missing[::-1]
    for job in waiting:
        if (job.folder / "run.json").exists():
            rundir.describe(job.folder, {"config": job.config.model_dump()})
    shown = progress.Progress(console, plan.epochs, plan.epochs_done)
    seen = {job.name: epochs for job, epochs in plan.committed.items()}
    at_work: dict[Any, Job] = {}
    outcomes: dict[str, dict[str, str]] = {}
    with shown.rows:
        while waiting or at_work:
            # Start as many runs as there may be at a time.
            while waiting and len(at_work) < plan.max_parallel:
                job = waiting.pop()
                shown.begin(job.name, seen[job.name], job.config.epochs)
                at_work[start(job)] = job

            # Show what is committed; then hear from the tasks that have ended.
            ended = wait_for(list(at_work))
            for job in at_work.values():
                _show_epochs(shown, job, seen)
            for task in ended:
                job, said = at_work.pop(task), outcome(task)
                shown.end(job.name, said.get("failed"))
                outcomes[job.name] = said
    unmirrored = [f"{name}: {x['unmirrored']}" for name, x in outcomes.items() if "unmirrored" in x]
    if unmirrored:
        line = f"W&B: {len(unmirrored)} of {len(plan.jobs)} runs went on without a mirror, "
        line += f"which the same command makes: {unmirrored[0]}"
        print(line, file=sys.stderr, flush=True)
    return {name: x["failed"] for name, x in outcomes.items() if "failed" in x}


def _show_epochs(shown: progress.Progress, job: Job, seen: dict[str, int]) -> None:
    """Show the epochs of a run that were committed since the last look; `seen`: run -> epoch."""
    with suppress(rundir.Damaged, OSError):  # or it is not to be seen here yet
        while rundir.epoch_folder(job.folder, epoch := seen[job.name] + 1).exists():
            names = (rundir.RECORD, rundir.TIMING)
            numbers = progress.numbers(*(rundir.read_json(job.folder, epoch, x) for x in names))
            seen[job.name] = epoch
            shown.commit(job.name, epoch, job.config.epochs, numbers)


def attempt(job: Job) -> dict[str, str]:
    """One run; {"failed": why}, {"unmirrored": why} or {}. A traceback goes to its error.txt."""
    complaint = job.folder / "error.txt"
    try:
        complaint.unlink(missing_ok=True)  # of an earlier attempt
        why = run.run(job)
        return {"unmirrored": why} if why else {}
    except BaseException as error:
        with suppress(OSError):  # the disk may be full
            job.folder.mkdir(parents=True, exist_ok=True)
            complaint.write_text(traceback.format_exc())
        return {"failed": first_line(error)}


def execute(plan: Plan, console: Console) -> dict[str, str]:
    """Run what is missing in processes, which end with this function; why runs failed, by name."""
    context = signals.workers("experiments.run")
    processes: dict[Connection, BaseProcess] = {}

    def start(job: Job) -> Connection:
        receiver, sender = context.Pipe(duplex=False)
        with sender, signals.signals_blocked():
            process = context.Process(target=_work, args=(job, sender))
            process.start()
        processes[receiver] = process
        return receiver

    def outcome(receiver: Connection) -> dict[str, str]:
        process, said = processes.pop(receiver), None
        with suppress(EOFError, OSError):  # a closed pipe: it could not say how it ended
            said = receiver.recv()
        process.join()
        if said is not None:
            return said
        if process.exitcode >= 0:
            return {"failed": f"ended early, with exit code {process.exitcode}"}
        killer = signal.Signals(-process.exitcode)
        why = ", as a machine without free memory does" if killer == signal.SIGKILL else ""
        return {"failed": f"killed by {killer.name}{why}"}

    try:
        return run_all(plan, console, start, partial(wait, timeout=POLL_SECONDS), outcome)
    finally:
        signals.end_all(processes.values())


def max_parallel(device: str, threads: int) -> int:
    """Runs at a time, unless somebody says otherwise: as the cores allow, or one on a GPU."""
    return max(1, cores() // threads) if device == "cpu" else 1


def cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _work(job: Job, sender: Connection) -> None:
    """The body of a worker: one run, whose outcome is sent to the launcher."""
    signals.follow()
    sender.send(attempt(job))


def made_with(device: str, threads: int, jobs: int) -> dict[str, Any]:
    """The commit, the machine, and the versions of what numbers depend on."""
    hardware = {"device": run.device_name(device), "processor": processor(), "cores": cores()}
    hardware |= {"jobs": jobs, "threads": threads}
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    return {"commit": git_commit(), "hardware": hardware, "versions": versions}


def git_commit() -> str:
    """The checkout's commit, with a mark where files differ from it."""
    options = ("--always", "--abbrev=12", "--exclude=*", "--dirty=+changes")
    return _git(ROOT, "describe", *options) or "unknown"


def frozen_claims(path: Path = CLAIMS) -> dict[str, str]:
    """The last commit of claims.yaml, marked where the file differs from HEAD, its day; SHA-256."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    known = _git(path.parent, "log", "-1", "--format=%h %cs", "--", path.name)
    changed = _git(path.parent, "status", "--porcelain", "--", path.name)
    last, date = known.split() if known else ("unknown", "unknown")
    marked = last + ("+changes" if known and changed else "")
    return {"commit": marked, "date": date, "sha256": digest}


def _git(folder: Path, *arguments: str) -> str:
    """What git says in a folder of ours, "" where it cannot."""
    # A repository around the project is not the project's.
    environ = os.environ | {"GIT_CEILING_DIRECTORIES": str(ROOT.parent)}
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, env=environ, capture_output=True, text=True).stdout.strip()
    except OSError:  # there is no git
        return ""
