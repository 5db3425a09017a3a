"""Train a study, publish its records, look at it in W&B.

    python -m experiments ablation --scale small --seeds 8 --data DATA
    python -m experiments ablation head=avgpool batch=128,512 epochs=4
    python -m experiments status
    python -m experiments export runs/ablation-small -o small.zip

key=value narrows a factor of the study to some of its levels, chooses seeds (seed=3,5), or sets a
field of the config for every run. Each command has its own --help.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial, wraps
from pathlib import Path
from typing import Any, NoReturn

from experiments import signals

if __name__ == "__main__":
    signals.listen()  # before the imports that take time
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy reads it once; more change the bits
    os.environ.setdefault("MALLOC_MMAP_MAX_", "0")  # a worker keeps what it frees for the next step
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(1 << 34))

import click

from dcgan import cli, rundir
from dcgan.cli import PATH, POSITIVE, BadInput, Result, options
from experiments import archive, grid, publish, reproduce, status, tracking
from experiments.study import available, check_paths, report, train, waiting

REPLACED = {
    "banks": "is called resample, and its option --sets",
    "sweep": "is gone: --engine ray spreads the runs of a study over machines",
}
experiments_group = cli.Group("experiments", __doc__, REPLACED)


def main(arguments: list[str] | None = None) -> int:
    """Run one command: 1 also where a run failed, 143 ended; see dcgan.cli.run."""
    return cli.run(experiments_group, arguments)


def option(name: str, metavar: str | None, text: str, **more: Any) -> Callable:
    return click.option(name, metavar=metavar, help=text, **more)


def out_option(text: str) -> Callable:
    return option("--out", "DIR", text, type=PATH, default=Path("runs"))


def threads_option(text: str) -> Callable:
    return option("--threads", "N", text, type=POSITIVE, default=1)


def of_study(command: Callable) -> Callable:
    """Add STUDY and --out to a command, which gets the folder of the study that they name."""

    @wraps(command)
    def on_folder(study: str | None, out: Path, **given: Any) -> Any:
        return command(find_study(study, out), **given)

    given = out_option("folder of studies; without STUDY, its newest one")
    return options(click.argument("study", required=False), given)(on_folder)


def find_study(name: str | None, out: Path) -> Path:
    """The named study folder, which may be a published one, or the newest one."""
    if name:
        if any(Path(name).glob("study.json")) or any(Path(name).glob("seed-*.zip")):
            return Path(name)
        raise BadInput(f"{name} is not a study: it has no study.json")
    studies = sorted(out.glob("*/study.json"), key=lambda path: path.stat().st_mtime)
    if not studies:
        raise BadInput(f"{out} holds no study: make ablation starts one")
    return studies[-1].parent


KEYS = "\b\nKeys of key=value, their values, and defaults where the scale sets none:\n" + "\n".join(
    f"  {key:<18}{values:<36}{default}" for key, values, default in grid.keys()
)
DATA = option(
    "--data",
    "DATA",
    "cifar10, a folder or zip of images, or shapes; default: the images in the folder data, or "
    "else cifar10, which is downloaded once; if it cannot be, smoke and small use shapes",
)
TEST = option(
    "--test",
    "DATA",
    "held-out real images, to compare scores with; default: CIFAR-10's test split where "
    "--data is cifar10, else the second half of the images, on which runs may be trained",
)
GPU = "cpu, cuda or cuda:N; default: the first GPU, or cpu if there is none"
DEVICE = option("--device", "NAME", GPU)
AT_A_TIME = "runs at a time; default: as the cores allow, 1 on a GPU; with Ray, as many as it takes"
JOBS = option("--jobs", "N", AT_A_TIME, type=POSITIVE)
SCALES = f"{', '.join(grid.names('scales'))}; default: small, or cifar32 on a GPU"
FILE = click.Path(dir_okay=False, path_type=Path)
ARCHIVE = click.Path(exists=True, dir_okay=False, path_type=Path)
PARTS = click.Choice(["training", "epoch", "commands"])  # of bench
ENGINES = click.Choice(["local", "ray"])


STUDY = """{about}

Prints the plan, with time and disk, trains every run that is not done, scores it after every epoch
and mirrors it to W&B, then builds the report in OUT/{name}-SCALE/report. Finished runs are skipped,
or continued if more epochs are asked for; after Ctrl-C the same command continues the study.

A factor takes one or more of its levels, as batch=128,512 does; any other key takes one value.

    python -m experiments {name} --plan
    python -m experiments {name} --scale small --seeds 8
    python -m experiments {name} seed=3 epochs=4
"""
CLUSTER = "auto or HOST:PORT of a running cluster; default: RAY_ADDRESS, or Ray is started here"
PART = "GPUs of a run under Ray; default: 1; with a fraction, runs share one"
of_training = options(
    click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1),
    option("--scale", "NAME", SCALES),
    option("--seeds", "N", "runs of each arm; default: the scale's", type=click.IntRange(1, 1_000)),
    option("--epochs", "N", "epochs of each run; default: the scale's", type=int),
    DATA,
    TEST,
    DEVICE,
    JOBS,
    threads_option("PyTorch threads of each run; results depend on them"),
    option("--engine", None, "processes on this machine, or Ray", type=ENGINES, default="local"),
    option("--ray-address", "HOST:PORT", CLUSTER),
    option("--gpus-per-run", "X", PART, type=click.FloatRange(0, min_open=True)),
    out_option("folder of studies and cache"),
    click.option("--plan", "plan_only", is_flag=True, help="print the plan and stop"),
)


for _name in grid.names("studies"):
    _help = STUDY.format(name=_name, about=grid.about(_name))
    _command = experiments_group.command(_name, help=_help, epilog=KEYS)
    _command(of_training(partial(train, _name)))


@experiments_group.command("status")
@of_study
def show_status(study: Path) -> Result:
    """Show how far a study has got. Only reads: works at any time, in any terminal.

      done     every epoch is committed
      running  a process is working on it
      failed   its error.txt, whose last line is shown, says why
      damaged  its last epoch or run.json is not as it was written
      stopped  half-done: the study's own command continues it
      missing  planned, but without an epoch so far

    Runs that diverged go on, and are listed. The time left is that of the remaining epochs, at the
    mean speed of the latest ones.

        python -m experiments status
        python -m experiments status runs/ablation-small --json
    """
    seen = status.look(study)
    print(status.to_text(seen))
    return 0, asdict(seen)


@experiments_group.command("reproduce")
@click.argument("run", metavar="RUN")
@option("--data", "DATA", "images it was trained on; default: CIFAR-10, or shapes")
@option("--to", "DIR", "folder for the new run", type=PATH, default=Path("runs/reproduced"))
@out_option("folder of studies, in which a name is looked up")
@click.option("--print", "print_only", is_flag=True, help="print the command and stop")
def reproduce_run(**given: Any) -> Result:
    """Train one run again, and compare every epoch with the original, byte by byte.

    RUN is a run's folder or, for a study in OUT, its name as W&B and the page show it. Prints the
    one command that makes the run, and what it was made with: data, machine, packages, commit. Then
    runs that command in a folder of its own, without W&B, and names the first column of each epoch
    that differs.

    The same processor, threads and PyTorch give the same bytes. Elsewhere the result is "not bit
    for bit", with what differs there and the largest relative difference of a score.

        python -m experiments reproduce runs/ablation-small/ARM/seed=0
        python -m experiments reproduce "ARM seed=0" --data train.zip --print

    Exit code 1 if the bytes differ although the machine does not.
    """
    return reproduce.make_again(**given)


@experiments_group.command("resample")
@of_study
@option("--sets", "N", "evaluation sets, counting set 0", type=click.IntRange(min=2), default=3)
@DEVICE
@JOBS
@threads_option("PyTorch threads, as the runs had")
def resample_runs(study: Path, device: str | None, **given: Any) -> Result:
    """Score the kept generators of every finished run again, on more evaluation sets.

    Set 0 is what the run scored itself; sets 1, 2, ... are as many images from other noise, and are
    written to RUN/banks. How far they differ shows how much of a score is evaluation noise. Runs
    that have their sets are skipped. The machine must be the one that made the runs.

        python -m experiments resample runs/ablation-small --sets 5
    """
    device = available(device)
    with waiting("Loading PyTorch"):
        from experiments.resample import score_study
    return score_study(study, device=device, **given)


@experiments_group.command("bench")
@click.argument("parts", metavar="[PART]...", nargs=-1, type=PARTS)
@option("--only", "PART", "this part, and those named after it; default: all", type=PARTS)
@click.option("--quick", is_flag=True, help="tiny sizes: do the parts work?")
@option("--data", "DATA", "images of `epoch` and `commands`", default="shapes")
@DEVICE
@threads_option("PyTorch threads")
@out_option("the record goes to OUT/bench")
def bench_machine(
    parts: tuple[str, ...], only: str | None, device: str | None, out: Path, **given: Any
) -> Result:
    """Measure how fast this project is on this machine, in minutes.

      training   images per second at each scale, and of the tutorials' loop on
                 the same networks
      epoch      where the time of an epoch goes
      commands   what help, status, a plan and a report cost

    Prints a table for each and writes OUT/bench/DEVICE.json, with every single measurement. Other
    work on the machine distorts speeds, and ratios less so.

        python -m experiments bench
        python -m experiments bench --only training epoch
    """
    check_paths(out, given["data"])
    device = available(device)
    from experiments.bench import Bench, write

    chosen = [name for name in PARTS.choices if name in (only, *parts)] or PARTS.choices
    path = write(Bench(device=device, out=out, **given), chosen)
    print(f"\nwrote {path}")
    return 0, {"file": path, **rundir.unseal(path)}


@experiments_group.command("publish")
@of_study
def publish_study(study: Path) -> Result:
    """Pack the complete seeds of a study into reports/published, and build its report there.

    Each seed has its own archive, written once: what is already published must agree with the
    study. Pictures are kept of the lowest seed, at a few epochs, and two of its generators. For a
    folder that is in reports/published itself, only the report is built again.

        python -m experiments publish runs/ablation-cpu32
        python -m experiments publish reports/published/ablation-cpu32
    """
    return publish.build(study) if publish.archives(study) else publish.publish(study)


@experiments_group.command("export")
@of_study
@click.option("-o", "--file", metavar="FILE.zip", type=FILE, required=True, help="file to write")
def export_study(study: Path, file: Path) -> Result:
    """Pack the committed records of a study into one file, which `import` reads elsewhere.

    States and generators are left out, and so are pictures but for those of each arm's lowest seed:
    a few MB for 64 runs.

        python -m experiments export runs/ablation-small -o small.zip
    """
    archive.pack(study, file)
    size = file.stat().st_size
    print(f"wrote {file}, {size / 1e6:.1f} MB")
    return 0, {"file": file, "bytes": size}


@experiments_group.command("import")
@click.argument("files", metavar="FILE...", type=ARCHIVE, nargs=-1, required=True)
@out_option("folder of studies")
def import_archives(files: tuple[Path, ...], out: Path) -> Result:
    """Add the runs and epochs of files that `export` or `publish` wrote, and build the report.

    What is there already must agree: if a run contradicts it, an error names the run, and nothing
    from that file is written.

        python -m experiments import small.zip --out runs
        python -m experiments import reports/published/ablation-cpu32/seed-*.zip
    """
    imported = []
    for path in files:
        merged = archive.merge(path, out)
        imported.append({"file": path, **asdict(merged)})
        new = f"{merged.new_epochs} epochs and {merged.new_runs} of {merged.runs} runs are new"
        print(f"{path} -> {merged.study}: {new}.")
    return max(map(report, {entry["study"] for entry in imported})), {"imported": imported}


@experiments_group.command("dashboard", offers_json=False)
@of_study
def dashboard(study: Path) -> NoReturn:
    """Show the runs of a study in W&B's terminal dashboard; needs no account.

    Reads the offline runs in the study's folder `wandb`. W&B's own program takes over the terminal.

        python -m experiments dashboard runs/ablation-small
    """
    tracking.become_wandb(study, "leet")


@experiments_group.command("sync", offers_json=False)
@of_study
def sync(study: Path) -> NoReturn:
    """Upload the offline runs of a study to W&B; needs an account.

    Each run keeps its id: a second upload, or one after more epochs, creates no second run.

        python -m experiments sync runs/ablation-small
    """
    tracking.become_wandb(study, "sync", "--yes")


@experiments_group.command("workspace")
@of_study
def workspace(study: Path) -> Result:
    """Build a workspace on W&B; needs an account.

    It has panels of scores, fluctuation, losses, samples and runs.

        python -m experiments workspace runs/ablation-small
    """
    to = tracking.destination()
    os.environ |= tracking.environment(study) | to.environ | {"WANDB_SILENT": "true"}
    try:
        from experiments.workspace import make  # only now W&B, which reads its folders once
    except ImportError as error:
        raise BadInput("workspace needs wandb-workspaces: make setup installs it") from error
    return make(study, to)


if __name__ == "__main__":
    sys.exit(main())
