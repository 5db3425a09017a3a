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
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from torch import nn

from dcgan import rundir
from dcgan.cli import Result, duration, first_line
from dcgan.models import channels_last, load_generator
from experiments import launch, progress, signals
from experiments.run import Job, fingerprint, measure, prepare, references


def score_study(study: Path, sets: int, device: str, jobs: int | None, threads: int) -> Result:
    """Score what a study lacks, and say what was done; `jobs`: runs at a time."""
    console, max_parallel = progress.console(), jobs or launch.max_parallel(device, threads)
    lacking, counts = make_plan(study, sets, device, threads)
    kept = [(job, epoch) for job in lacking for epoch in rundir.kept(job.folder, rundir.GENERATOR)]
    timings = (rundir.read_json(job.folder, epoch, rundir.TIMING) for job, epoch in kept)
    seconds = (sets - 1) * sum(timing["score_seconds"] for timing in timings) / max_parallel
    console.print(
        f"{len(lacking)} runs are to be scored, {(sets - 1) * len(kept)} times in all, "
        f"in about {duration(seconds)}; {counts['done']} are done, "
        f"{counts['unfinished']} are unfinished, {counts['without']} kept no generator."
    )
    failed = {}
    if lacking:
        with rundir.owned(study):
            prepare(device, threads)
            references(lacking[0])  # once, before the workers need it
            for ended, (name, why) in enumerate(_score(lacking, sets, max_parallel), 1):
                failed |= {name: why} if why else {}
                event = f"failed: {why}" if why else "scored"
                console.print(f"{name}  {event}  [{ended}/{len(lacking)} runs]")
    if failed:
        console.print(f"{len(failed)} runs failed; the same command tries them again.")
    done = {key: counts[key] for key in ("done", "unfinished", "without")}
    return int(bool(failed)), {"scored": len(lacking) - len(failed), **done, "failed": failed}


def make_plan(study: Path, sets: int, device: str, threads: int) -> tuple[list[Job], Counter[str]]:
    """The finished runs that lack evaluation sets, and counts of the others.

    Raises Damaged, or Differs where this machine is not the one that a run was scored on.
    """
    native = rundir.unseal(study / "study.json")["data"]["resolution"]
    lacking, counts = [], Counter()
    for folder in sorted(path.parent for path in study.glob("*/*/run.json")):
        config, epochs = rundir.read_config(folder), rundir.kept(folder, rundir.GENERATOR)
        if len(rundir.committed(folder)) < config.epochs:
            counts["unfinished"] += 1
        elif _has(folder, sets, epochs):
            counts["done"] += 1
        elif not epochs:
            counts["without"] += 1
        else:
            rundir.check(folder, {"fingerprint": fingerprint(config, device, threads)})
            measured = rundir.unseal(folder / "run.json")["identities"]
            fid = config.inception == "epoch" and "fid" in measured
            side = min(native, config.resolution)
            lacking.append(Job(config, folder, side, device, threads, fid, "disabled"))
    return lacking, counts


def _score(jobs: list[Job], sets: int, max_parallel: int) -> Iterator[tuple[str, str]]:
    """Score runs in processes; gives each name and why it failed, or "". A run is one commit."""
    context = signals.workers(__name__)
    with ProcessPoolExecutor(max_parallel, context, initializer=signals.follow) as pool:
        with signals.signals_blocked():
            futures = {pool.submit(score_run, job, sets): job.name for job in jobs}
        for future in as_completed(futures):
            error = future.exception()
            yield futures[future], first_line(error) if error else ""


def score_run(job: Job, sets: int) -> None:
    """Score the kept generators of a run on its sets, in one commit.

    Raises Damaged, or Differs where this machine does not give the scores that the run recorded.
    """
    prepare(job.device, job.threads)
    config, kept = job.config, rundir.kept(job.folder, rundir.GENERATOR)
    with rundir.owned(job.folder):
        # What is measured here is what the run measured at every epoch, bit for bit.
        compared, last = references(job)[0], kept[-1]
        record = rundir.read_json(job.folder, last, rundir.RECORD)["scores"]
        for name, here in measure(load_kept(job, last), config, last, compared).items():
            if here != (stored := record.get(name)):
                values = f"is {stored} in its record, {here} on this machine"
                raise rundir.Differs(f"{job.folder}: {name} at epoch {last} {values}")

        # Score each epoch on noise of its own; the streams keep the name of earlier versions.
        epochs, streams = {}, [f"bank {k}" for k in range(1, sets)]
        for epoch in kept:
            G = load_kept(job, epoch)
            epochs[str(epoch)] = [measure(G, config, epoch, compared, name) for name in streams]

        # Commit; sets that were fewer, or damaged, make way.
        target, content = job.folder / rundir.EVAL_SETS, {"banks": sets, "epochs": epochs}
        shutil.rmtree(target, ignore_errors=True)
        rundir.place(target, {rundir.EVAL_SCORES: rundir.to_json(content)})


def load_kept(job: Job, epoch: int) -> nn.Module:
    """The generator of an epoch as it was in training, its layout in memory included."""
    folder = rundir.epoch_folder(job.folder, epoch)
    rundir.read(folder, rundir.GENERATOR)  # compares it with its sum
    return channels_last(load_generator(str(folder / rundir.GENERATOR))[0], job.device)


def _has(folder: Path, sets: int, epochs: list[int]) -> bool:
    """Whether a run has so many evaluation sets, its own included, of these epochs."""
    try:
        stored = json.loads(rundir.read(folder / rundir.EVAL_SETS, rundir.EVAL_SCORES))
    except rundir.Damaged:
        return False
    return stored["banks"] >= sets and set(map(str, epochs)) <= stored["epochs"].keys()
