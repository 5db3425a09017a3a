"""Train a study, publish its records, look at it in W&B.

    python -m experiments ablation                        the blog's grid, at the scale that fits
    python -m experiments ablation --scale small --seeds 8 --data cifar10-train.zip
    python -m experiments ablation head=avgpool batch=128,512 epochs=4
    python -m experiments publish runs/ablation-small     records -> reports/published/
    python -m experiments dashboard                       W&B's terminal dashboard, no account
    python -m experiments sync                            upload the offline runs

Words key=value narrow a factor of the study to some of its levels, or set a field of the config
for every run. A finished run is skipped, a half-done one goes on from its last committed epoch.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from experiments import grid, journal, progress, tracking

PUBLISHED = Path("reports/published")


def main() -> int:
    """Run one command; 0 done, 1 some run failed, 2 bad input, 130 and 143 stopped."""
    arguments = _parser().parse_args()
    signal.signal(signal.SIGTERM, _stop)
    try:
        return arguments.command(arguments)
    except BadInput as error:
        _refuse(str(error))
    except (KeyboardInterrupt, Stopped) as stopped:
        print("Stopped. Committed epochs stay: the same command goes on from them.")
        return 130 if isinstance(stopped, KeyboardInterrupt) else 143


class BadInput(Exception):
    """Something the user gave cannot be used, said in one line."""


def train_study(arguments: argparse.Namespace) -> int:
    """Plan a study, run what is missing, build its report."""
    try:
        words = [*arguments.words, *([f"epochs={arguments.epochs}"] if arguments.epochs else [])]
        grid.define(arguments.study, arguments.scale or "small", arguments.seeds, words)
        mode, why = tracking.choose_mode(os.environ)
    except (grid.BadStudy, ValueError) as error:
        raise BadInput(error) from error

    # Only now what takes time: PyTorch, the data, the plan.
    import torch

    from dcgan.data import BadData, keep, load
    from experiments import launch
    from experiments.run import prepare, references

    out, console = Path(arguments.out), Console(highlight=False)
    device = _device(arguments.device, torch.cuda.device_count())
    scale = arguments.scale or ("small" if device == "cpu" else "cifar32")
    places = arguments.jobs or (launch.cores() if device == "cpu" else 1)
    try:
        study = grid.define(arguments.study, scale, arguments.seeds, words)
        images = load(arguments.data, out / "cache")
        plan = launch.make_plan(study, images, out, device, places, arguments.threads, mode)
    except (BadData, grid.BadStudy, journal.Differs) as error:
        raise BadInput(error) from error
    _print_plan(console, plan, images, f"{mode} ({why})")
    if arguments.plan:
        return 0

    began, failed = time.monotonic(), {}
    try:
        with journal.owned(plan.folder):
            if any(plan.missing):
                keep(images, out / "cache", plan.study.settings["resolution"])
                launch.write_study(plan, images)
                prepare(plan.runs[0].config, device, arguments.threads)
                references(plan.jobs[0])  # once, before the workers need it
                failed = launch.execute(plan, console)
    except journal.Busy as error:
        raise BadInput(error) from error
    done = len(plan.runs) - len(failed)
    took = progress.duration(time.monotonic() - began)
    console.print(f"{done} of {len(plan.runs)} runs are done, in {took}.")
    return _finish(console, plan.folder, failed)


def publish(arguments: argparse.Namespace) -> int:
    """Copy the records and samples of a study, hash-checked, and build its report beside them."""
    study = _study(arguments.study, arguments.out)
    target = PUBLISHED / study.name
    staged = target.with_name(f".{study.name}")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    for name in ("study.json", "real.png"):
        shutil.copyfile(study / name, staged / name)
    for path in sorted(study.glob("*/seed=*/run.json")):
        run = staged / path.parent.relative_to(study)
        for epoch in journal.committed(path.parent):
            source, copy = (journal.epoch_folder(r, epoch) for r in (path.parent, run))
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns(*journal.PRUNABLE))
        shutil.copyfile(path, run / "run.json")
    shutil.rmtree(target, ignore_errors=True)
    staged.rename(target)
    return _report(target)


def dashboard(arguments: argparse.Namespace) -> int:
    """W&B's terminal dashboard on the runs of a study; needs no account."""
    study = _study(arguments.study, arguments.out)
    return tracking.dashboard(study)


def sync(arguments: argparse.Namespace) -> int:
    """Upload the offline runs of a study; needs an account."""
    study = _study(arguments.study, arguments.out)
    return tracking.sync(study)


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


def _finish(console: Console, study: Path, failed: dict[str, str]) -> int:
    """Build the report, name what failed, say what to type next."""
    code = _report(study)
    for run, why in failed.items():
        console.print(f"failed: {run}: {why}", style="bold red", markup=False, soft_wrap=True)
    if failed:
        console.print("Each failed run left an error.txt; the same command tries them again.")
    console.print("Next:")
    console.print("  make dashboard   the runs in W&B's terminal dashboard, no account needed")
    console.print("  make sync        the runs in W&B, with an account")
    return 1 if failed or code else 0


def _report(study: Path) -> int:
    """The report has a process of its own, for it must not need what training needs."""
    sys.stdout.flush()
    return subprocess.run([sys.executable, "-m", "reports", "--from", str(study)]).returncode


class Stopped(Exception):
    """SIGTERM arrived."""


def _stop(signal_number: int, frame: object) -> NoReturn:
    raise Stopped


def _device(wanted: str | None, gpus: int) -> str:
    """`cpu`, `cuda` or `cuda:N`; without a wish the first GPU where there is one."""
    if wanted is None:
        return "cuda" if gpus else "cpu"
    here = ["cpu", *(["cuda"] if gpus else []), *(f"cuda:{i}" for i in range(gpus))]
    if wanted not in here:
        raise BadInput(f"device {wanted!r} is not one of {', '.join(here)}")
    return wanted


def _print_plan(console: Console, plan: Any, images: Any, mode: str) -> None:
    """What is going to happen, before it does."""
    study, job = plan.study, plan.jobs[0]
    whole = [run.config.epochs for run in plan.runs]
    done = plan.missing.count(False)
    levels = " x ".join(f"{k}={','.join(map(str, v))}" for k, v in study.factors.items())
    free = shutil.disk_usage(_existing(plan.folder)).free
    rows = {
        "study": f"{study.name} at {study.scale}, in {plan.folder}",
        "runs": f"{len(whole)}: {levels}, seeds {len(study.seeds)}; {done} are done",
        "epochs": f"{sum(whole)} of {job.config.images:,} images; {sum(plan.committed)} are done",
        "data": f"{images.name}, {len(images.pixels):,} images, SHA-256 {images.sha256[:12]}",
        "device": f"{job.device}, {plan.places} runs at a time",
        "time": f"about {progress.duration(plan.seconds)}",
        "disk": f"at most {plan.bytes / 1e6:,.0f} MB; {free / 1e9:,.0f} GB are free",
        "W&B": mode,
    }
    for name, text in rows.items():
        console.print(f"{name:<8}{text}", soft_wrap=True, markup=False)
    if images.kind == "shapes":
        console.print("These images are shapes drawn by the code; DATA= names real ones.")
    if job.config.inception == "never":
        console.print("FID is not measured at this scale: ARGS=inception=last would, at the end.")
    elif not job.inception:
        console.print("FID is not measured: there are no Inception weights (INCEPTION_WEIGHTS=).")


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.absolute().parent)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m experiments",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in grid.studies():
        help_text = f"train, score and report the study {name}"
        add = commands.add_parser(name, help=help_text, allow_abbrev=False)
        add.set_defaults(command=train_study, study=name)
        add.add_argument("words", nargs="*", metavar="key=value", help="narrows the grid, or sets")
        add.add_argument("--scale", help=f"{', '.join(grid.scales())}; by default small or cifar32")
        add.add_argument("--seeds", type=int, help="runs of each arm; by default the scale's")
        add.add_argument("--epochs", type=int, help="of each run; by default the scale's")
        add.add_argument("--data", help="CIFAR-10 tree or archive, folder or zip of images, shapes")
        add.add_argument("--device", help="cpu, cuda, cuda:1; by default a GPU where there is one")
        add.add_argument("--jobs", type=_positive, help="runs at a time; by default one a core")
        add.add_argument(
            "--threads", type=_positive, default=1, help="of each run (1): changes bits"
        )
        add.add_argument("--out", default="runs", help="where studies and the cache lie (runs)")
        add.add_argument("--plan", action="store_true", help="print the plan and stop")
    for command in (publish, dashboard, sync):
        add = commands.add_parser(command.__name__, help=command.__doc__)
        add.set_defaults(command=command)
        add.add_argument("study", nargs="?", help="a study's folder; by default the newest one")
        add.add_argument("--out", default="runs", help="where studies lie (runs)")
    for each in (parser, *commands.choices.values()):
        each.error = _refuse
    return parser


def _refuse(message: str) -> NoReturn:
    print(f"experiments: {message}", file=sys.stderr)
    sys.exit(2)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
