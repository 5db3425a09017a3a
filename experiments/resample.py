"""Score finished runs again on further evaluation sets: the same generators, other noise.

How much of a score is the noise that it was taken on shows where one generator has several. Set 0
is the run's own scoring and stays in its records. Every set k >= 1 draws new noise at each epoch,
which the arms of a seed share as they share set 0; all else is the run's own.

<run>/banks/scores.json     {"banks": 3, "epochs": {"1": [{"fd_cifar": 61.2, ...}, {...}], ...}}
                            how many sets there are, the run's own among them; for each kept
                            generator the scores on sets 1, 2, ...; null for what is not finite
"""

import json
import shutil
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from torch import nn

from dcgan import rundir
from dcgan.cli import Result, first_line
from dcgan.config import Config
from dcgan.models import channels_last, load_generator
from experiments import launch, progress, signals
from experiments.run import Job, fingerprint, measure, prepare, references


@dataclass(frozen=True)
class Task:
    """One finished run, and how many evaluation sets it is to have, its own included."""

    job: Job
    sets: int
    epochs: list[int]  # that kept their generator

    @property
    def scorings(self) -> int:
        return len(self.epochs) * (self.sets - 1)


@dataclass(frozen=True)
class Plan:
    """What a study still lacks; the runs that cannot be scored are counted."""

    tasks: dict[str, Task]  # by run
    done: int  # runs that have their sets
    unfinished: int
    without: int  # finished runs that kept no generator
    seconds: float  # of one scoring, as the runs themselves took


def score_study(study: Path, sets: int, device: str, jobs: int | None, threads: int) -> Result:
    """Score what a study lacks, and say what was done; `jobs`: runs at a time."""
    console = Console(highlight=False, soft_wrap=True)
    max_parallel = jobs or launch.max_parallel(device)
    plan, failed = make_plan(study, sets, device, threads), {}
    scorings = sum(task.scorings for task in plan.tasks.values())
    took = progress.duration(scorings * plan.seconds / max_parallel)
    console.print(
        f"{len(plan.tasks)} runs are to be scored, {scorings} times in all, in about {took}; "
        f"{plan.done} are done, {plan.unfinished} are unfinished, "
        f"{plan.without} kept no generator."
    )
    if plan.tasks:
        with rundir.owned(study):
            prepare(device, threads)
            references(next(iter(plan.tasks.values())).job)  # once, before the workers need it
            failed = execute(plan, max_parallel, console)
    if failed:
        console.print(f"{len(failed)} runs failed; the same command tries them again.")
    counts = {"done": plan.done, "unfinished": plan.unfinished, "without": plan.without}
    return int(bool(failed)), {"scored": len(plan.tasks) - len(failed), **counts, "failed": failed}


def make_plan(study: Path, sets: int, device: str, threads: int) -> Plan:
    """Look at every run of a study.

    Raises rundir.Differs where this machine is not the one that a run was scored on, and
    rundir.Damaged where a run.json cannot be read.
    """
    tasks: dict[str, Task] = {}
    done = unfinished = without = 0
    seconds: list[float] = []

    # All arms of a seed before the next seed, as they were trained.
    runs = [path.parent for path in study.glob("*/*/run.json")]
    configs = {run: rundir.read_config(run) for run in runs}
    for folder in sorted(runs, key=lambda run: (configs[run].seed, run)):
        config, epochs = configs[folder], rundir.kept(folder, rundir.GENERATOR)
        if len(rundir.committed(folder)) < config.epochs:
            unfinished += 1
        elif _has(folder, sets, epochs):
            done += 1
        elif not epochs:
            without += 1
        else:
            wanted = {"fingerprint": fingerprint(config, device, threads)}
            if differences := rundir.compare(folder, wanted):
                raise rundir.Differs(f"{folder}: {'; '.join(differences)}")
            task = Task(_job(folder, config, device, threads), sets, epochs)
            tasks[folder.relative_to(study).as_posix()] = task
            timings = (rundir.read_json(folder, epoch, rundir.TIMING) for epoch in epochs)
            seconds += [timing["score_seconds"] for timing in timings]
    return Plan(tasks, done, unfinished, without, median(seconds) if seconds else 0.0)


def execute(plan: Plan, max_parallel: int, console: Console) -> dict[str, str]:
    """Score what is missing; returns why runs failed, by name. Each run is one commit.

    A run that fails does not stop the others. Where this process is stopped or killed, the runs
    that were being scored are scored again next time.
    """
    failed: dict[str, str] = {}
    left = sum(task.scorings for task in plan.tasks.values())
    context, began, scored = signals.workers(__name__), time.monotonic(), 0
    with ProcessPoolExecutor(max_parallel, context, initializer=signals.follow) as pool:
        with signals.signals_blocked():
            futures = {pool.submit(score_run, task): name for name, task in plan.tasks.items()}
        for ended, future in enumerate(as_completed(futures), 1):
            name = futures[future]
            scored, left = scored + plan.tasks[name].scorings, left - plan.tasks[name].scorings
            remaining = progress.left((time.monotonic() - began) / scored * left)
            event = "scored"
            if error := future.exception():
                failed[name] = first_line(error)
                event = f"failed: {failed[name]}"
            line = f"{name}  {event}  [{ended}/{len(futures)} runs, {remaining}]"
            console.print(line, markup=False)
    return failed


def score_run(task: Task) -> None:
    """Score every kept generator of a run on its evaluation sets, and commit the scores.

    Raises rundir.Differs where this machine does not give the scores that the run recorded, and
    rundir.Damaged where a generator is not the one that was committed.
    """
    job, config = task.job, task.job.config
    prepare(job.device, job.threads)
    with rundir.owned(job.folder):
        # What is measured here is what the run measured at every epoch, bit for bit.
        compared, last = references(job)[0], task.epochs[-1]
        record = rundir.read_json(job.folder, last, rundir.RECORD)["scores"]
        for name, here in measure(load_kept(job, last), config, last, compared).items():
            if here != (stored := record.get(name)):
                values = f"is {stored} in its record, {here} on this machine"
                raise rundir.Differs(f"{job.folder}: {name} at epoch {last} {values}")

        # Score each epoch on noise of its own; the streams keep the name of earlier versions.
        epochs: dict[str, list[dict[str, float | None]]] = {}
        for epoch in task.epochs:
            G = load_kept(job, epoch)
            streams = [f"bank {k}" for k in range(1, task.sets)]
            epochs[str(epoch)] = [measure(G, config, epoch, compared, name) for name in streams]

        # Commit; sets that were fewer, or damaged, make way.
        target = job.folder / rundir.EVAL_SETS
        shutil.rmtree(target, ignore_errors=True)
        content = {"banks": task.sets, "epochs": epochs}
        rundir.commit_to(target, {rundir.EVAL_SCORES: rundir.to_json(content)})


def load_kept(job: Job, epoch: int) -> nn.Module:
    """The generator of an epoch as it was in training, its layout in memory included."""
    rundir.read(job.folder, epoch, rundir.GENERATOR)  # compares it with its sum
    path = rundir.epoch_folder(job.folder, epoch) / rundir.GENERATOR
    return channels_last(load_generator(str(path))[0], job.device)


def _has(folder: Path, sets: int, epochs: list[int]) -> bool:
    """Whether a run has so many evaluation sets, its own included, of these epochs."""
    try:
        stored = json.loads(rundir.read_from(folder / rundir.EVAL_SETS, rundir.EVAL_SCORES))
    except rundir.Damaged:
        return False
    return stored["banks"] >= sets and set(map(str, epochs)) <= stored["epochs"].keys()


def _job(folder: Path, config: Config, device: str, threads: int) -> Job:
    """What a worker needs to score a run that is finished."""
    study, stored = folder.parents[1], rundir.unseal(folder / "run.json")["identities"]
    native = rundir.unseal(study / "study.json")["data"]["resolution"]
    side, inception = min(native, config.resolution), config.inception == "epoch"
    given = (config, study, folder, study.parent / "cache", side, device, threads)
    return Job(*given, inception and "fid" in stored, "disabled")
