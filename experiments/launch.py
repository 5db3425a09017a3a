"""From a plan to finished runs: write what they share, then run what is missing."""

import hashlib
import itertools
import os
import platform
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from dcgan import rundir
from dcgan.cli import first_line, processor
from dcgan.config import Config
from dcgan.data import Images, keep, load_cached, of_classes
from dcgan.pictures import png_grid
from eval.calibration import HeldOut, calibrate, is_current
from experiments import grid, progress, signals
from experiments.grid import Run
from experiments.plan import Plan
from experiments.run import SAMPLE_COLUMNS, SAMPLE_ROWS, Job, fingerprint, prepare, references
from experiments.run import run as run_job

ROOT = Path(__file__).parents[1]
CLAIMS = ROOT / "reports" / "claims.yaml"
PACKAGES = ("torch", "torchvision", "torch-fidelity", "torchmetrics", "wandb", "numpy", "scipy")


# --- What all runs need ---------------------------------------------------------------------------


def prepare_study(plan: Plan, images: Images, test: Images | None, held: HeldOut) -> None:
    """Make what all runs need, once: images and features in the cache, study.json, calibration."""
    job = plan.jobs[0]
    keep(images, job.cache, job.config.resolution)
    if test:
        keep(test, job.cache, test.pixels.shape[1])  # not to be decoded again
    write_study(plan, images)
    prepare(job.device, job.threads)
    compared = [*itertools.chain(*references(job))]

    # A calibration that is there stays, unless it lacks a metric or the test split.
    path = job.study / rundir.CALIBRATION
    with suppress(rundir.Damaged):  # it is missing, or has to be made again
        if is_current(rundir.unseal(path), compared, held.source):
            return
    cached = load_cached(job.cache, job.config.data_sha256, job.side)
    real = of_classes(cached, job.config.classes, job.config.reference_images)
    rundir.replace(path, rundir.seal(calibrate(compared, real.pixels, held, job.config)))


def write_study(plan: Plan, images: Images) -> None:
    """study.json and real.png: what the report needs to know beside the runs.

    What an earlier start had planned or used is kept: levels, seeds, commits; and the claims that
    it was to be judged by.
    """
    study, job = plan.study, plan.jobs[0]
    shared = Config.model_construct(**study.settings).model_dump()
    info = {
        "study": study.name,
        "scale": study.scale,
        "data": {
            "name": images.name,
            "kind": images.kind,
            "sha256": images.sha256,
            "images": len(images.pixels),
            "resolution": images.pixels.shape[1],
        },
        "factors": study.factors,
        "arms": study.arms,
        "seeds": study.seeds,
        "settings": {k: v for k, v in shared.items() if k not in {*study.factors, "seed"}},
        "commit": commit(),
        "claims": frozen_claims(),
        "hardware": {
            "device": fingerprint(job.config, job.device, job.threads)["device"],
            "processor": processor(),
            "cores": cores(),
            "jobs": plan.max_parallel,
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


# --- Processes of this machine --------------------------------------------------------------------


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
                # Start as many runs as there may be at a time.
                while waiting and len(at_work) < plan.max_parallel:
                    run, job = waiting.pop()
                    receiver, sender = context.Pipe(duplex=False)
                    process = context.Process(target=_work, args=(job, sender), name=str(run))
                    state.rows[str(run)] = progress.Row(plan.committed_of(run), run.config.epochs)
                    try:
                        with signals.signals_blocked():
                            process.start()
                        at_work[receiver] = run, process
                    except (OSError, EOFError):  # there is no memory for it, or no server
                        end(state, run, "could not be started", show)
                    sender.close()

                # Hear from the workers; a closed pipe is the end of one.
                for receiver in wait(list(at_work)):
                    run, process = at_work[receiver]
                    try:
                        hear(state, run, receiver.recv(), show)
                    except (EOFError, OSError):
                        del at_work[receiver]
                        process.join()
                        end(state, run, _ending(process.exitcode), show)
        finally:
            for _, process in at_work.values():
                process.terminate()
            for _, process in at_work.values():
                process.join(5)
                process.kill()
    return finish(state)


def max_parallel(device: str) -> int:
    """Runs at a time, unless somebody says otherwise: one a core, or one on a GPU."""
    return cores() if device == "cpu" else 1


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
        send({"failed": first_line(error)})
        with suppress(OSError):  # the disk may be full
            job.folder.mkdir(parents=True, exist_ok=True)
            complaint.write_text(_without_folders(traceback.format_exc(), job))
        return False
    send({"done": True})
    return True


def _without_folders(text: str, job: Job) -> str:
    """A traceback that can be passed on: it names no folder that only this machine has."""
    folders = {str(job.study.parent.absolute()): "OUT", str(ROOT): ".", str(Path.home()): "~"}
    folders |= dict.fromkeys([sys.prefix, sys.base_prefix], "PYTHON")
    for folder in sorted(folders.keys() - {"/"}, key=len, reverse=True):
        text = text.replace(folder, folders[folder])
    return text


def _ending(exitcode: int) -> str:
    """How a worker ended that could not say so itself."""
    if exitcode == -signal.SIGKILL:
        return "killed by SIGKILL, which is what a machine without free memory does"
    if exitcode < 0:
        return f"killed by {signal.Signals(-exitcode).name}"
    return f"ended early, with exit code {exitcode}"


# --- Where the study stands, for every engine -----------------------------------------------------


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
        epoch_seconds=plan.seconds * plan.max_parallel / (plan.epochs - plan.epochs_done or 1),
    )
    return waiting[::-1], state


def hear(
    state: progress.Progress, run: Run, message: dict[str, Any], show: Callable[[Run, str], None]
) -> None:
    """One message of a run: its end, a failure, W&B's failure, or an epoch."""
    if "done" in message:
        state.runs_done += 1
        state.rows.pop(str(run))
    elif "failed" in message:
        state.failed[str(run)] = message["failed"]
    elif "unmirrored" in message:
        state.unmirrored.append(message["unmirrored"])
    else:
        state.epochs_done += 1
        epoch, numbers = message["record"]["epoch"], progress.numbers(message)
        seconds = message["timing"]["train_seconds"] + message["timing"]["score_seconds"]
        state.rows[str(run)] = progress.Row(epoch, run.config.epochs, numbers, seconds)
        show(run, f"epoch {epoch}/{run.config.epochs}  {numbers}")


def end(state: progress.Progress, run: Run, why: str, show: Callable[[Run, str], None]) -> None:
    """The end of a run: a failed one, if it had not said that it was done."""
    if state.rows.pop(str(run), None):
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


# --- What a study was made with -------------------------------------------------------------------


def versions() -> dict[str, str]:
    """Of Python, and of the packages that numbers depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def commit() -> str:
    """The checkout's commit, with a mark where files differ from it."""
    head = _git(ROOT, "rev-parse", "--short=12", "HEAD")
    changed = _git(ROOT, "status", "--porcelain", "--untracked-files=no")
    return head + ("+changes" if changed else "") if head else "unknown"


def frozen_claims(path: Path = CLAIMS) -> dict[str, str]:
    """The last commit of claims.yaml, marked where the file differs from HEAD, its day; SHA-256."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    known = _git(path.parent, "log", "-1", "--format=%h %cs", "--", path.name)
    changed = _git(path.parent, "status", "--porcelain", "--", path.name)
    last, date = known.split() if known else ("unknown", "unknown")
    marked = last + ("+changes" if known and changed else "")
    return {"commit": marked, "date": date, "sha256": digest}


def _git(folder: Path, *arguments: str) -> str:
    """What git says in a folder of ours, "" where it cannot.

    A repository around the project is not the project's.
    """
    environ = os.environ | {"GIT_CEILING_DIRECTORIES": str(ROOT.parent)}
    with suppress(OSError, subprocess.CalledProcessError):
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            env=environ,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()
    return ""
