"""A study from its command to its report. Imports torch only where a plan is made."""

import os
import shlex
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from dcgan import rundir
from dcgan.cli import BadInput, Result, choose_device, duration
from dcgan.config import Config
from experiments import grid, progress, signals, status, tracking

if TYPE_CHECKING:
    from dcgan.data import Images
    from experiments.plan import Plan

TRIALS = ("smoke", "small")  # scales that take shapes where CIFAR-10 cannot be had


def train(
    name: str,
    overrides: tuple[str, ...],
    scale: str | None,
    seeds: int | None,
    epochs: int | None,
    data: str | None,
    test: str | None,
    device: str | None,
    threads: int,
    out: Path,
    plan_only: bool,
    **engine: Any,
) -> Result:
    """Plan a study, run what is missing, build its report; the options are the command's."""
    # What can be refused without PyTorch is refused first; only a scale may depend on the device.
    if scale is None:
        scale = "small" if available(device) == "cpu" else "cifar32"
    overrides = (*overrides, *([] if epochs is None else [f"epochs={epochs}"]))
    study = grid.define(name, scale, seeds, overrides)
    _check(grid.runs(study)[0].config, data, test, out)

    # Now what takes time: W&B's answer, PyTorch, the images, the plan.
    console = progress.console()
    with ThreadPoolExecutor(1) as thread, waiting("Loading PyTorch, asking W&B"):
        asked = thread.submit(tracking.destination)
        device = available(device)
        from eval.calibration import held_out
        from experiments import launch, plan

        to = asked.result()
        os.environ |= to.environ  # for every process that mirrors a run
    images, test_images = _load(data, test, scale, out / "cache", console)
    study = grid.fit(study, images.name, images.sha256, len(images.pixels))
    _check_same(out / study.folder, images, study)
    with waiting("Measuring how long an epoch takes"):
        max_parallel, execute, where = choose_engine(device, threads, **engine)
        made = plan.make_plan(study, images, out, device, max_parallel, threads, to.mode)
        held = held_out(images, test_images, made.jobs[0].config, made.jobs[0].side)
    free = shutil.disk_usage(existing(made.folder)).free
    mode, seen = tracking.describe(to), held.seen if made.missing else 0
    for line in plan.say(made, images, where, mode, free, seen):
        console.print(line)
    done = {"folder": made.folder, "plan": plan.as_data(made, images, to.mode)}
    if plan_only:
        return 0, done

    began, failed = time.monotonic(), {}
    with rundir.owned(made.folder):
        made = plan.look_again(made)
        for job, epochs in made.committed.items():
            rundir.prune(job.folder, epochs)  # it may have been killed after its last commit
        if made.missing:
            launch.prepare_study(made, images, test_images, held)
            failed = execute(made, console)
    seconds, finished = time.monotonic() - began, len(made.jobs) - len(failed)
    console.print(f"{finished} of {len(made.jobs)} runs are done, in {duration(seconds)}.")
    done |= {"done": finished, "failed": failed, "seconds": seconds}
    code = _finish(console, made.folder, failed, to)
    return code, done | {"report": made.folder / "report" / "index.html"}


def waiting(text: str) -> AbstractContextManager:
    """On a terminal something moves beside a text; elsewhere nothing is said."""
    return Console(stderr=True).status(text)


def available(device: str | None) -> str:
    """The device that is asked for, or the first GPU, or cpu; raises BadInput."""
    import torch

    return choose_device(device, torch.cuda.device_count())


def choose_engine(
    device: str, threads: int, jobs: int | None, engine: str, **where: Any
) -> tuple[int, Callable[["Plan", Console], dict[str, str]], str]:
    """Runs at a time, the function that runs what is missing, and where, for the plan."""
    from experiments import launch

    if engine == "local":
        if any(where.values()):
            raise BadInput("--ray-address and --gpus-per-run need --engine ray")
        return jobs or launch.max_parallel(device, threads), launch.execute, ""

    if find_spec("ray") is None:  # it is an extra
        raise BadInput("--engine ray needs the package ray, which make setup installs")
    from experiments import ray_engine

    if device not in ("cpu", "cuda"):
        raise BadInput(f"--device {device}: Ray chooses the GPU of a run; say cuda")
    where["ray_address"] = where["ray_address"] or os.environ.get("RAY_ADDRESS")
    where["gpus_per_run"] = where["gpus_per_run"] or 1.0
    at_a_time = jobs or ray_engine.max_parallel(device, threads, **where)
    text = f" on Ray, {where['ray_address'] or 'started here'}"
    return at_a_time, partial(ray_engine.execute, **where), text


def existing(folder: Path) -> Path:
    """A folder, or the one in which it will be made."""
    return folder if folder.exists() else existing(folder.absolute().parent)


def check_paths(out: Path, *data: str | None) -> None:
    """Refuse, without PyTorch, a place where no folder can be made, and images that are missing."""
    from dcgan import sources

    if not existing(out).is_dir():
        raise BadInput(f"--out {out}: {existing(out)} is not a folder")
    for source in data:
        if source not in (None, "cifar10"):  # which may have to be downloaded
            sources.find(source, out / "cache")


def report(study: Path) -> int:
    """Build the report in a process of its own, for it must not need what training needs."""
    return signals.call("-m", "reports", "--from", str(study))


def _check(config: Config, data: str | None, test: str | None, out: Path) -> None:
    """Refuse what can be refused without PyTorch."""
    from eval.fetch import find_inception

    check_paths(out, data, test)
    if config.inception != "never" and os.environ.get("INCEPTION_WEIGHTS"):
        find_inception(None, out / "cache")


def _load(
    data: str | None, test: str | None, scale: str, cache: Path, console: Console
) -> tuple["Images", "Images | None"]:
    """The images to train on, and held-out ones; a trial may take shapes instead of CIFAR-10."""
    from dcgan.data import load
    from dcgan.sources import NoCifar10

    try:
        images = load(data, cache)
    except NoCifar10 as error:
        if scale not in TRIALS:
            raise BadInput(f"{error}; --data names other images") from error
        console.print(f"{error}: the images are shapes.")
        images = load("shapes", cache)
    if images.kind == "cifar10" and not test:
        return images, load(data, cache, "test")
    return images, load(test, cache, "test") if test else None


def _check_same(folder: Path, images: "Images", study: grid.Study) -> None:
    """Refuse other images, factors, levels or settings than those of a study in this place."""
    if not (folder / "study.json").exists():
        return
    info = rundir.unseal(folder / "study.json")
    if (stored := info["data"]["sha256"]) != images.sha256:
        sums = f"their SHA-256 is {stored[:12]}..., not {images.sha256[:12]}..."
        raise BadInput(f"{folder} is a study of other images of this name: {sums}")
    here = grid.stored(info)
    if grid.has_changed(here):
        now = f"{info['study']} has other factors or levels now"
        raise BadInput(f"{folder}: {now}; name another --out")
    for key, value, other in grid.differences(here, study):
        differ = f"{key}={value} is stored, {key}={other} is asked for"
        raise BadInput(f"{folder}: {differ}; name another --out")


def _finish(console: Console, study: Path, failed: dict[str, str], to: tracking.Destination) -> int:
    """Build the report, name what failed, show the scores, say what to type next."""
    say = console.print
    say("The report is being built.")
    code = report(study)
    for run, why in failed.items():
        say(f"failed: {run}: {why}", style="bold red")
    if failed:
        say("The same command tries them again; error.txt in a run's folder says more.")
    say(status.scores_to_text(study))
    named = f"STUDY={shlex.quote(str(study))}"
    if to.mode != "disabled":
        say("\nNext:\nthe runs in W&B's terminal dashboard, no account needed:")
        say(f"  make dashboard {named}")
    if to.mode == "offline":
        say(f"the runs in W&B, with an account:\n  make sync {named}")
    if to.url:
        say(f"the runs in W&B:\n  {to.url}")
    return int(bool(failed or code))
