"""Train a study, publish its records, look at it in W&B.

    python -m experiments ablation --scale small --seeds 8 --data DATA
    python -m experiments ablation head=avgpool batch=128,512 epochs=4
    python -m experiments status
    python -m experiments export runs/ablation-small -o small.zip

key=value narrows a factor of the study to some of its levels, chooses seeds (seed=3,5), or sets a
field of the config for every run. A finished run is skipped, a half-done one goes on from its last
committed epoch, and so does a finished one where more epochs are asked for.

Each command has its own --help.
"""

import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import signals

if __name__ == "__main__":
    signals.listen()  # before the imports that take time
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy reads it once; more change the bits
    os.environ.setdefault("MALLOC_MMAP_MAX_", "0")  # a worker keeps what it frees for the next step
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(1 << 34))

import click
from rich.console import Console

from dcgan import cli, rundir
from dcgan.cli import PATH, POSITIVE, BadInput, Result, choose_device, options
from experiments import grid

if TYPE_CHECKING:
    from dcgan.data import Images

TRIALS = ("smoke", "small")  # scales that take shapes where CIFAR-10 cannot be had

experiments_group = cli.Group(
    "experiments", __doc__, renamed={"banks": "resample, and its option --sets"}
)


def main(words: list[str] | None = None) -> int:
    """Run one command: 1 also where a run failed, 143 ended; see dcgan.cli.run."""
    return cli.run(experiments_group, words)


# --- Options of several commands ------------------------------------------------------------------


def _whole_numbers(context: click.Context, option: click.Parameter, text: str | None) -> Any:
    if text is not None and not re.fullmatch(r"\d+(,\d+)*", text, re.ASCII):
        raise click.BadParameter(f"{text!r} is no list such as 0,3,5")
    return text and [int(number) for number in text.split(",")]


def _share(context: click.Context, option: click.Parameter, value: float) -> float:
    if not (0 < value <= 1 or (value > 1 and value.is_integer())):
        raise click.BadParameter(f"{value:g} is neither a part of one nor a whole number")
    return value


def out_option(text: str) -> Callable:
    return click.option("--out", metavar="DIR", type=PATH, default=Path("runs"), help=text)


def threads_option(text: str) -> Callable:
    return click.option("--threads", metavar="N", type=POSITIVE, default=1, help=text)


KEYS = "\b\nKeys of key=value, their values, and defaults where the scale sets none:\n" + "\n".join(
    f"  {key:<18}{values:<36}{default}" for key, values, default in grid.keys()
)
DATA = click.option(
    "--data",
    help="cifar10, a folder or zip of images, or shapes; default: what lies in the folder data, or "
    "else cifar10, which is downloaded once; where it cannot be, smoke and small take shapes",
)
TEST = click.option(
    "--test",
    metavar="DATA",
    help="real images to calibrate scores by, never trained on; default: CIFAR-10's test split "
    "where --data is cifar10, else the second half of the images",
)
DEVICE = click.option(
    "--device",
    metavar="NAME",
    help="cpu, cuda or cuda:N; default: the first GPU, or cpu where there is none",
)
JOBS = click.option(
    "--jobs",
    metavar="N",
    type=POSITIVE,
    help="runs at a time; default: one a core, or one on a GPU, or as many as Ray can take",
)
of_grid = options(
    click.argument("words", metavar="[KEY=VALUE]...", nargs=-1),
    click.option(
        "--scale",
        metavar="NAME",
        help=f"{', '.join(grid.scales())}; default: small, or cifar32 for a command on a GPU",
    ),
    click.option("--seeds", metavar="N", type=int, help="runs of each arm; default: the scale's"),
)
of_study = options(
    click.argument("study", required=False),
    out_option("folder of studies, of which the newest one is taken"),
)
of_samples = options(
    click.option(
        "--samples",
        type=click.Choice(["lowest", "all", "none"]),
        default="lowest",
        help="pictures of the lowest seed of each arm, of all or of none",
    ),
    click.option(
        "--sample-epochs",
        metavar="LIST",
        callback=_whole_numbers,
        help="pictures of these epochs alone, such as 1,2,5,10; default: of all",
    ),
)


# --- Training -------------------------------------------------------------------------------------


STUDY = """Train, score and report the study {name}.

Prints the plan, trains every run that is not done, scores it after every epoch and mirrors it to
W&B, then builds the report in OUT/{name}-SCALE/report. Finished runs are skipped, half-done ones go
on from their last committed epoch, so that Ctrl-C costs an epoch at most and the same command goes
on. With more epochs, finished runs go on too. The plan says how long it takes and how much disk.

A factor takes one or more of its levels, as batch=128,512 does; any other key takes one value.

    python -m experiments {name} --plan
    python -m experiments {name} --scale small --seeds 8
    python -m experiments {name} seed=3 epochs=4
"""
of_training = options(
    of_grid,
    click.option("--epochs", metavar="N", type=int, help="of each run; default: the scale's"),
    DATA,
    TEST,
    DEVICE,
    JOBS,
    threads_option("of each run, on which bits depend"),
    click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        help="processes of this machine, or Ray",
    ),
    click.option(
        "--ray-address",
        metavar="HOST:PORT",
        envvar="RAY_ADDRESS",
        help="auto or HOST:PORT of a running cluster; default: RAY_ADDRESS, or Ray is started here",
    ),
    click.option(
        "--gpus-per-run",
        metavar="X",
        type=float,
        default=1.0,
        callback=_share,
        help="of Ray's, a part of one or a whole number",
    ),
    out_option("folder of studies and cache"),
    click.option("--plan", "plan_only", is_flag=True, help="print the plan and stop"),
)


def train_study(
    name: str,
    words: tuple[str, ...],
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
    """Plan a study, run what is missing, build its report."""
    from experiments import tracking

    # What can be refused without PyTorch is refused first; only a scale may depend on the device.
    if scale is None:
        scale = "small" if _device(device) == "cpu" else "cifar32"
    words = [*words, *([] if epochs is None else [f"epochs={epochs}"])]
    study = grid.define(name, scale, seeds, words)
    _check(grid.runs(study)[0].config, data, test, out)

    # Now what takes time: W&B's answer, PyTorch, the images, the plan.
    asked = tracking.ask()
    console, device = Console(highlight=False), _device(device)
    with waiting("Loading PyTorch"):
        from eval.calibration import held_out
        from experiments import launch
        from experiments.plan import as_data, make_plan, say
    with waiting("Asking W&B"):
        to = tracking.destination(asked)
        os.environ |= to.environ  # for every process that mirrors a run
    images, held_out_images = _load(data, test, scale, out / "cache", console)
    study = grid.fit(study, images.name, images.sha256, len(images.pixels))
    _check_same(out / study.folder, images, data)
    with waiting("Measuring how long an epoch takes"):
        max_parallel, execute, where = _engine(device, threads, **engine)
        plan = make_plan(study, images, out, device, max_parallel, threads, to.mode)
        job = plan.jobs[0]
        held = None
        if any(plan.missing) and (held_out_images or not plan_only):
            held = held_out(images, held_out_images, job.config, job.side)
    free = shutil.disk_usage(_existing(plan.folder)).free
    for line in say(plan, images, where, tracking.describe(to, plan.folder), free):
        console.print(line, soft_wrap=True, markup=False)
    done = {"folder": plan.folder, "plan": as_data(plan, images, to.mode)}
    if plan_only:
        return 0, done

    began, failed = time.monotonic(), {}
    with rundir.owned(plan.folder):
        if any(plan.missing):
            launch.prepare_study(plan, images, held_out_images, held)
            failed = execute(plan, console)
    seconds = time.monotonic() - began
    code = _finish(console, plan.folder, failed, len(plan.runs), seconds, to)
    done |= {"done": len(plan.runs) - len(failed), "failed": failed, "seconds": seconds}
    return code, done | {"report": plan.folder / "report" / "index.html"}


for _name in grid.studies():
    experiments_group.command(_name, help=STUDY.format(name=_name), epilog=KEYS)(
        of_training(partial(train_study, _name))
    )


def waiting(text: str) -> AbstractContextManager:
    """On a terminal something moves beside a text; elsewhere nothing is said."""
    return Console(stderr=True).status(text)


def _device(wanted: str | None) -> str:
    import torch

    return choose_device(wanted, torch.cuda.device_count())


def _check(config: Any, data: str | None, test: str | None, out: Path) -> None:
    """Refuse what can be refused without PyTorch: the folder, absent data, absent weights."""
    from dcgan import sources
    from eval.fetch import find_inception

    if not _existing(out).is_dir():
        raise BadInput(f"--out {out}: {_existing(out)} is not a folder")
    for source in (data, test):
        if source not in (None, "cifar10"):
            kind, path = sources.find(source, out / "cache")
            if kind == "zip":
                sources.count(kind, path)
    if config.inception != "never" and os.environ.get("INCEPTION_WEIGHTS"):
        find_inception()


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.absolute().parent)


def _load(
    data: str | None, test: str | None, scale: str, cache: Path, console: Console
) -> tuple["Images", "Images | None"]:
    """The images to train on, and those that are held out, if they are a set of their own.

    Where CIFAR-10 cannot be had, a trial takes shapes and says why.
    """
    from dcgan.data import load, load_test
    from dcgan.sources import NoCifar10

    try:
        images = load(data, cache)
    except NoCifar10 as error:
        if scale not in TRIALS:
            raise BadInput(f"{error}; --data names other images") from error
        console.print(f"{error}: the images are shapes.", markup=False, soft_wrap=True)
        images = load("shapes", cache)
    if test:
        return images, load(test, cache)
    return images, load_test(data, cache) if images.kind == "cifar10" else None


def _check_same(folder: Path, images: "Images", source: str | None) -> None:
    """Refuse other images under a name that a study in this place has already."""
    path, here = folder / "study.json", images.sha256
    if not path.exists():
        return
    try:
        stored = str(rundir.unseal(path)["data"]["sha256"])
    except (KeyError, TypeError) as error:
        raise rundir.Damaged(f"{path}: lacks the SHA-256 of its data") from error
    if stored != here:
        raise BadInput(
            f"{folder} is a study of other images that were called {images.name!r} as well: their "
            f"SHA-256 is {stored[:12]}..., that of {source or 'these'} is {here[:12]}...; rename "
            "these or name another --out"
        )


def _engine(
    device: str,
    threads: int,
    jobs: int | None,
    engine: str,
    ray_address: str | None,
    gpus_per_run: float,
) -> tuple[int, Callable[..., dict], str]:
    """Runs at a time, the function that runs what is missing, and where, for the plan."""
    from experiments import launch

    if engine == "local":
        return jobs or (launch.cores() if device == "cpu" else 1), launch.execute, ""

    # Ray is an extra.
    if find_spec("ray") is None:
        raise BadInput("--engine ray needs the package ray, which make setup installs")
    from experiments import ray_engine

    if device not in ("cpu", "cuda"):
        raise BadInput(f"--device {device}: Ray chooses the GPU of a run; say cuda")
    where = {"address": ray_address, "gpus_per_run": gpus_per_run}
    max_parallel = ray_engine.max_parallel(device, threads, **where)
    text = f" on Ray, {ray_address or 'started here'}"
    return jobs or max_parallel, partial(ray_engine.execute, **where), text


def _finish(
    console: Console, study: Path, failed: dict[str, str], runs: int, seconds: float, to: Any
) -> int:
    """Build the report and mirror it, name what failed, show the scores, say what to type next."""
    from experiments import progress, status, tracking

    took = progress.duration(seconds)
    console.print(f"{runs - len(failed)} of {runs} runs are done, in {took}.")
    console.print("The report is being built.")
    code = _report(study)
    in_sweep = "WANDB_SWEEP_ID" in os.environ  # whose agents see one run each
    mirror = tracking.start_report(study, "disabled" if code or in_sweep else to.mode)
    if why := mirror.finish():
        console.print(f"W&B: {why}", markup=False, soft_wrap=True)
    for run, why in failed.items():
        console.print(f"failed: {run}: {why}", style="bold red", markup=False, soft_wrap=True)
    if failed:
        console.print("The same command tries them again; error.txt in a run's folder says more.")
    status.show_scores(study, console)
    if to.mode == "disabled":
        return 1 if failed or code else 0
    named = f"STUDY={shlex.quote(str(study))}"
    console.print("\nNext:")
    console.print("the runs in W&B's terminal dashboard, no account needed:")
    console.print(f"  make dashboard {named}", markup=False, soft_wrap=True)
    if to.mode == "offline":
        console.print("the runs in W&B, with an account:")
        console.print(f"  make sync {named}", markup=False, soft_wrap=True)
    if to.url:
        console.print(f"the runs in W&B:\n  {to.url}", markup=False, soft_wrap=True)
    return 1 if failed or code else 0


def _report(study: Path) -> int:
    """The report has a process of its own, for it must not need what training needs.

    Where our stdout goes to stderr, as with --json, its does too.
    """
    sys.stdout.flush()
    command = [sys.executable, "-m", "reports", "--from", str(study)]
    return signals.call(command, stdout=2 if sys.stdout is sys.stderr else None)


# --- Runs that exist ------------------------------------------------------------------------------


@experiments_group.command("status")
@of_study
def show_status(study: str | None, out: Path) -> Result:
    """Say where a study stands. Reads only, at any time, from any terminal.

      done       every epoch is committed
      running    a process of this machine is at work on it
      elsewhere  a process of another machine, which cannot be asked, was the last
                 at work on it
      failed     its error.txt, whose last line is shown, says why
      damaged    a committed file is missing or not as it was written; it is made
                 anew
      stopped    half-done: the study's own command goes on with it
      missing    planned, and without an epoch

    The time left is that of the remaining epochs, at the speed of the committed ones.

        python -m experiments status
        python -m experiments status runs/ablation-small --json
    """
    from experiments import status

    found = status.look(_study(study, out))
    if sys.stdout is not sys.stderr:
        status.show(found, Console(highlight=False))
    return 0, asdict(found)


@experiments_group.command("reproduce")
@click.argument("run", metavar="RUN")
@click.option("--data", help="what it was trained on; default: CIFAR-10, or shapes")
@click.option(
    "--to", metavar="DIR", type=PATH, default=Path("runs/reproduced"), help="OUT of that command"
)
@out_option("where a name is looked for")
@click.option("--print", "print_only", is_flag=True, help="print the command and stop")
def reproduce_run(run: str, data: str | None, to: Path, out: Path, print_only: bool) -> Result:
    """Make one run again, and compare every epoch with what it was, byte by byte.

    RUN is a run's folder in a study of OUT or of reports/published, its name as W&B and the page
    show it, or its id on W&B. Prints the one command that makes it and what it was made with: data
    and their SHA-256, device, threads, packages, commit. Then gives that command in a folder of its
    own, which takes as long as the run did, and names the first column that differs of each epoch.

    The same processor, threads and PyTorch give the same bytes. Elsewhere it is "not bit for bit",
    with what is not the same there and the largest relative difference of a score. W&B is not
    written to.

        python -m experiments reproduce runs/ablation-small/ARM/seed=0
        python -m experiments reproduce "ARM seed=0" --data train.zip --print

    Exit code 1 where the bytes differ and the machine does not.
    """
    from experiments import reproduce
    from experiments.publish import PUBLISHED

    old = reproduce.find(run, [out, PUBLISHED])
    made = reproduce.recipe(old)
    if data is None and made.data["kind"] == "shapes":
        data = "shapes"
    unknown = data is None and made.data["name"] != grid.NATIVE_DATA  # which needs no option
    given = ["--data", "DATA" if unknown else data] if unknown or data else []
    words = [*made.words, *given, "--out", str(to)]
    done = {"command": ["python", "-m", "experiments", *words], **asdict(made)}
    print(shlex.join(done["command"]))
    _print_facts(made)
    if print_only:
        return 0, done

    # The run is made where it is not yet, and of the same images.
    new = to / made.folder
    if unknown:
        raise BadInput(f"--data: name the images that {old} was trained on, {made.data['name']}")
    if new.parents[1].resolve() == old.resolve().parents[1]:
        raise BadInput(f"--to {to}: is where {old} lies")
    if reproduce.epochs_of(new) >= reproduce.epochs_of(old):
        raise BadInput(f"--to {to}: holds this run already; name another folder, or remove it")
    from dcgan.data import load

    here, there = load(data, to / "cache").sha256, made.data["sha256"]
    if here != there:
        sums = f"its SHA-256 is {here[:12]}..., that of the run's is {there[:12]}..."
        raise BadInput(f"--data {data or made.data['name']}: {sums}")

    # W&B has the run already, under this very id.
    os.environ["WANDB_MODE"] = "disabled"
    print(flush=True)
    command = [sys.executable, "-m", "experiments", *words]
    if code := signals.call(command, stdout=2 if sys.stdout is sys.stderr else None):
        return code, done
    found = reproduce.compare(old, new)
    print(f"\n{old} against {new}:\n{found}")
    unexplained = found.same < found.epochs and not found.fingerprint
    return int(unexplained), done | {"made": new, **asdict(found)}


def _print_facts(made: Any) -> None:
    """What a run was made with: data, machine, packages, commit."""
    print(f"  data      {made.data['name']}, {made.data['images']:,} images, ", end="")
    print(f"SHA-256 {made.data['sha256']}")
    for name, facts in (("machine", made.fingerprint), ("packages", made.versions)):
        print(f"  {name:<10}{', '.join(f'{key} {value}' for key, value in facts.items())}")
    print(f"  commit    {made.commit}")


@experiments_group.command("resample")
@of_study
@click.option(
    "--sets", metavar="N", type=click.IntRange(min=2), default=3, help="of a run, with its own"
)
@DEVICE
@JOBS
@threads_option("as the runs had")
def resample_runs(
    study: str | None, out: Path, sets: int, device: str | None, jobs: int | None, threads: int
) -> Result:
    """Score the kept generators of every finished run again, on noise of their own.

    Set 0 is the scoring that a run did itself; sets 1, 2, ... have the same number of images, the
    same reference and the same networks, and go to RUN/banks. How far they lie apart is how much of
    a score is the noise that it was taken on. Runs that have their sets are skipped, and a command
    that was stopped goes on with the others. The machine must be the one that made the runs.

    How long it takes is said first: one scoring of an epoch for each kept generator and set.

        python -m experiments resample runs/ablation-small --sets 5
    """
    folder, console = _study(study, out), Console(highlight=False)
    device = _device(device)
    with waiting("Loading PyTorch"):
        from experiments import launch, progress, resample
        from experiments.run import prepare, references

    max_parallel = jobs or (launch.cores() if device == "cpu" else 1)
    plan, failed = resample.make_plan(folder, sets, device, threads), {}
    scorings = sum(task.scorings for task in plan.tasks.values())
    took = progress.duration(scorings * plan.seconds / max_parallel)
    console.print(
        f"{len(plan.tasks)} runs are to be scored, {scorings} times in all, in about {took}; "
        f"{plan.done} are done, {plan.unfinished} are unfinished, "
        f"{plan.without} kept no generator.",
        soft_wrap=True,
    )
    if plan.tasks:
        with rundir.owned(folder):
            prepare(device, threads)
            references(next(iter(plan.tasks.values())).job)  # once, before the workers need it
            failed = resample.execute(plan, max_parallel, console)
    if failed:
        console.print(f"{len(failed)} runs failed; the same command tries them again.")
    counts = {"done": plan.done, "unfinished": plan.unfinished, "without": plan.without}
    return int(bool(failed)), {"scored": len(plan.tasks) - len(failed), **counts, "failed": failed}


@experiments_group.command("bench")
@click.argument("parts", metavar="[PART]...", nargs=-1)
@click.option("--only", metavar="PART", help="this part, and those that follow; default: all")
@click.option("--quick", is_flag=True, help="everything tiny: do the parts work?")
@click.option("--data", default="shapes", help="the images of `epoch` and `commands`")
@DEVICE
@threads_option("of this process")
@out_option("the record goes to OUT/bench")
def bench_machine(
    parts: tuple[str, ...],
    only: str | None,
    quick: bool,
    data: str,
    device: str | None,
    threads: int,
    out: Path,
) -> Result:
    """Measure how fast this project is on this machine, in about ten minutes on two cores.

      training   images a second at each scale; the loop of the tutorials on the
                 same networks
      jobs       two processes of one thread against one process of two, and their
                 memory; on a GPU one, two, four and eight that share it
      scoring    from images to scores; the same by torchmetrics, torch-fidelity
      frechet    the Fréchet distance: seconds and errors, beside torch-fidelity's
      epoch      where the time of an epoch goes
      commands   how long the first epoch, a report, a plan, status and help take

    Prints a table for each and writes OUT/bench/DEVICE.json, which has every single measurement of
    this command. Other work on the machine spoils speeds, and ratios less.

        python -m experiments bench
        python -m experiments bench --only training epoch
    """
    if not _existing(out).is_dir():
        raise BadInput(f"--out {out}: {_existing(out)} is not a folder")
    device = _device(device)
    from experiments.bench import PARTS, Bench, write

    asked = [*([only] if only else []), *parts] or list(PARTS)
    if unknown := [part for part in asked if part not in PARTS]:
        raise BadInput(f"--only {unknown[0]}: not one of {', '.join(PARTS)}")
    chosen = [name for name in PARTS if name in asked]
    path = write(Bench(device, threads, out, data, quick), chosen)
    print(f"\nwrote {path}")
    return 0, {"file": path, **rundir.unseal(path)}


# --- Records that travel --------------------------------------------------------------------------


@experiments_group.command("publish")
@of_study
@of_samples
def publish(study: str | None, out: Path, samples: str, sample_epochs: list[int] | None) -> Result:
    """Copy the records of a study to reports/published, and build its report there.

    Records and samples are checked by their hashes; states and generators stay behind. What a
    folder of that name held is replaced. The record of a bench is published by its file.

        python -m experiments publish runs/ablation-small
        python -m experiments publish runs/bench/cpu.json
    """
    from experiments.publish import PUBLISHED, publish_bench, publish_study

    if study and study.endswith(".json"):
        print(f"wrote {(path := publish_bench(Path(study)))}")
        return 0, {"file": path}
    folder = _study(study, out)
    target = PUBLISHED / folder.name
    publish_study(folder, target, samples, sample_epochs)
    return _report(target), {"folder": target, "report": target / "report" / "index.html"}


@experiments_group.command("export")
@of_study
@of_samples
@click.option(
    "--seeds",
    metavar="LIST",
    callback=_whole_numbers,
    help="whole seeds alone, such as 0,3; default: whatever is committed",
)
@click.option("-o", "--file", metavar="FILE.zip", type=PATH, required=True, help="what to write")
def export_study(
    study: str | None,
    out: Path,
    samples: str,
    sample_epochs: list[int] | None,
    seeds: list[int] | None,
    file: Path,
) -> Result:
    """Pack the records of a study into one file, which `import` reads elsewhere.

    States and generators stay behind: a few MB for 64 runs. With --seeds it is these seeds alone,
    each of which must be whole, so that a later seed has a file of its own and changes no earlier
    one.

        python -m experiments export runs/ablation-small -o small.zip
        python -m experiments export runs/ablation-small --seeds 3 -o small-3.zip
    """
    from experiments import archive

    folder = _study(study, out)
    if file.is_dir():
        raise BadInput(f"--file {file}: is a folder")
    archive.pack(folder, file, samples, seeds, sample_epochs)
    size = file.stat().st_size
    print(f"wrote {file}, {size / 1e6:.1f} MB")
    return 0, {"file": file, "bytes": size}


@experiments_group.command("import")
@click.argument("files", metavar="FILE...", type=PATH, nargs=-1, required=True)
@out_option("folder of the study")
def import_study(files: tuple[Path, ...], out: Path) -> Result:
    """Add the runs and epochs of files that `export` wrote, and build the report.

    What is there already must agree: a run that contradicts is refused by name, with both values,
    and nothing of its file is written then.

        python -m experiments import small.zip --out runs
        python -m experiments import small-*.zip --out runs
    """
    from experiments import archive
    from experiments.publish import PUBLISHED, publish_study

    done: dict[Path, list[dict[str, Any]]] = {}
    if absent := [path for path in files if not path.is_file()]:
        raise BadInput(f"{absent[0]}: no such file")
    for path in files:
        merged = archive.merge(path, out)
        new = f"{merged.new_epochs} epochs and {merged.new_runs} of {merged.runs} runs are new"
        print(f"{path} -> {merged.study}: {new}.")
        done.setdefault(merged.study, []).append(asdict(merged) | {"file": path})
    code = 0
    for study in done:
        # A published study stays one: the sums of all files, the pictures of the lowest seeds.
        if out.resolve() == PUBLISHED.resolve():
            publish_study(study, study)
        code = max(code, _report(study))
    return code, {"imported": [merged for study in done.values() for merged in study]}


# --- W&B ------------------------------------------------------------------------------------------


@experiments_group.command("dashboard", offers_json=False)
@of_study
def dashboard(study: str | None, out: Path) -> Result:
    """Look at the runs of a study in W&B's terminal dashboard; needs no account.

    Reads the offline runs in the study's folder `wandb`. W&B's own program takes the terminal.

        python -m experiments dashboard runs/ablation-small
    """
    from experiments import tracking

    return tracking.run_wandb(_study(study, out), "leet"), {}


@experiments_group.command("sync", offers_json=False)
@of_study
def sync(study: str | None, out: Path) -> Result:
    """Upload the offline runs of a study to W&B; needs an account.

    Each run keeps its id: a second upload, or one after more epochs, makes no second run.

        python -m experiments sync runs/ablation-small
    """
    from experiments import tracking

    return tracking.run_wandb(_study(study, out), "sync", "--yes"), {}


@experiments_group.command("workspace")
@of_study
def workspace(study: str | None, out: Path) -> Result:
    """Build panels for W&B, a workspace and a report; saved where there is an account.

    Scores by arm with bands over seeds, fluctuation, losses, samples, a table of the runs. Written
    as JSON into the study's folder `wandb`, without network too.

        python -m experiments workspace runs/ablation-small
    """
    from experiments import tracking

    folder = _study(study, out)
    to = tracking.destination(tracking.ask())
    os.environ |= tracking.environment(folder) | to.environ | {"WANDB_SILENT": "true"}
    try:
        from experiments.workspace import make  # only now W&B, which reads its folders once
    except ImportError as error:
        raise BadInput("workspace needs wandb-workspaces: make setup installs it") from error
    return make(folder, to)


@experiments_group.command("sweep")
@click.argument("study", type=click.Choice(grid.studies()))
@of_grid
@click.option("--data", help="of every run; default: that of the study's command")
@click.option("--test", metavar="DATA", help="of every run; default: likewise")
@click.option("--device", metavar="NAME", help="of every run; default: likewise")
@click.option("--out", metavar="DIR", help="of every run; default: likewise")
def sweep(
    study: str, words: tuple[str, ...], scale: str | None, seeds: int | None, **given: str | None
) -> Result:
    """Print a study as a W&B sweep: its agents make the runs of the grid.

    Reads and writes nothing. Only one agent at a time can work in one --out.

        python -m experiments sweep ablation --scale small > sweep.yaml
        wandb sweep sweep.yaml
        wandb agent ENTITY/PROJECT/SWEEP
    """
    from experiments import sweeps, tracking

    planned = grid.define(study, scale or "small", seeds, list(words))
    grid.runs(planned)
    chosen = [part for key, value in given.items() if value for part in (f"--{key}", value)]
    project = os.environ.get("WANDB_PROJECT") or tracking.PROJECT
    config = sweeps.configure(planned, list(words), chosen, project)
    if sys.stdout is not sys.stderr:
        print(sweeps.to_yaml(config), end="")
    return 0, config


def _study(name: str | None, out: Path) -> Path:
    """The named study folder, or the newest one."""
    if name:
        if (Path(name) / "study.json").exists():
            return Path(name)
        raise BadInput(f"{name} is not a study: it has no study.json")
    found = sorted(out.glob("*/study.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise BadInput(f"{out} holds no study: make ablation starts one")
    return found[-1].parent


if __name__ == "__main__":
    sys.exit(main())
