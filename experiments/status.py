"""Where a study stands: what is done, at work, failed or missing, read from its folder alone."""

import math
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dcgan import rundir
from experiments import grid, progress

STATES = ("done", "running", "elsewhere", "failed", "damaged", "stopped", "missing")
METRICS = 5  # at most, in the order of the records: what 80 columns take
CALIBRATION_ROWS = {
    "held-out": "real, held out",
    "gaussian": "Gaussian pixels",
    "8x8": "real, at 8x8",
    "flat": "flat colours",
    "untrained": "untrained G",
}
IN_FULL = ("running", "elsewhere", "failed", "damaged", "stopped")  # with a line each


@dataclass(frozen=True)
class RunStatus:
    """One planned run."""

    arm: str
    seed: int
    state: str  # one of STATES
    epoch: int  # the last one that is committed
    epochs: int  # planned
    fd_cifar: float | None  # of that epoch; None also where the run diverged
    seconds: float | None  # of a committed epoch, on average: training and scoring
    note: str  # who runs it, why it failed, what is damaged


@dataclass(frozen=True)
class Status:
    """A study; `seconds_left` is None before the first epoch."""

    folder: str
    owner: str | None  # the process that makes the study now
    states: dict[str, int]  # state -> runs
    epochs: int  # of all runs together
    epochs_done: int
    seconds_left: float | None
    runs: list[RunStatus]


def look(folder: Path) -> Status:
    """Read where a study stands. Raises rundir.Damaged or grid.BadStudy where nobody can tell."""
    planned, max_parallel = _planned(folder)
    runs = [_look_at_run(folder / run.folder, run) for run in planned]
    counts = Counter(run.state for run in runs)
    return Status(
        folder=str(folder),
        owner=rundir.owner_of(folder),
        states={state: counts[state] for state in STATES if counts[state]},
        epochs=sum(run.epochs for run in runs),
        epochs_done=sum(run.epoch for run in runs),
        seconds_left=_seconds_left(runs, max_parallel),
        runs=runs,
    )


def _planned(folder: Path) -> tuple[list[grid.Run], int]:
    """The runs that study.json plans, and how many go on at a time."""
    info = rundir.unseal(folder / "study.json")
    try:
        keys = ("study", "scale", "factors", "seeds", "settings")
        study = grid.Study(*(info[key] for key in keys), info.get("arms", {}))
        return grid.runs(study), max(1, int(info["hardware"]["jobs"]))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise rundir.Damaged(f"{folder / 'study.json'}: {type(error).__name__}: {error}") from error


def _look_at_run(folder: Path, run: grid.Run) -> RunStatus:
    planned, seconds, score, done, damage = run.config.epochs, None, None, [], ""
    owner = rundir.owner_of(folder)
    try:
        done = rundir.committed(folder, (rundir.SAMPLES,))
        if rundir.epoch_folder(folder, len(done) + 1).exists():
            damage = f"epoch {len(done) + 1} is not as it was committed"
        if done:
            timings = [rundir.read_json(folder, epoch, rundir.TIMING) for epoch in done]
            seconds = fmean(x["train_seconds"] + x["score_seconds"] for x in timings)
            score = rundir.read_json(folder, done[-1], rundir.RECORD)["scores"].get("fd_cifar")
        if done or (folder / "run.json").exists():
            planned = rundir.read_config(folder).epochs
    except rundir.Damaged as error:
        damage = str(error)
    except OSError as error:
        damage = f"{error.filename or folder}: {error.strerror}"

    state, note = _state(folder, owner, len(done), planned, damage)
    epoch = min(len(done), planned)
    return RunStatus(run.arm, run.config.seed, state, epoch, planned, score, seconds, note)


def _state(
    folder: Path, owner: str | None, done: int, planned: int, damage: str
) -> tuple[str, str]:
    """One of STATES, and what there is to say about it."""
    if owner:
        return "running", owner
    if damage:
        return "damaged", damage
    if complaint := _complaint(folder):
        return "failed", complaint
    if done >= planned:
        return "done", ""
    if elsewhere := rundir.owner_elsewhere(folder):
        return "elsewhere", f"last at work: {elsewhere}"
    return ("stopped" if done else "missing"), ""


def _complaint(folder: Path) -> str:
    """The last line of a failed run's traceback; nothing where it did not fail."""
    with suppress(OSError):
        text = (folder / "error.txt").read_text(errors="replace").strip()
        return text.rpartition("\n")[2] or "error.txt is empty"
    return ""


def _seconds_left(runs: list[RunStatus], max_parallel: int) -> float | None:
    """Of the remaining epochs, at the speed of their run, else of their arm, else of the study."""
    speeds = {run: run.seconds for run in runs if run.seconds is not None}
    if not speeds:
        return None

    def speed(run: RunStatus) -> float:
        own = [seconds for other, seconds in speeds.items() if other.arm == run.arm]
        return speeds.get(run) or fmean(own or speeds.values())

    # However many runs go on at a time, the longest one takes its own time.
    left = [(run.epochs - run.epoch) * speed(run) for run in runs]
    return max(math.fsum(left) / max_parallel, *left, 0.0)


# --- Display --------------------------------------------------------------------------------------


def show(status: Status, console: Console) -> None:
    """An arm a row, with the mean of its runs' latest scores; then a line for each unusual run."""
    if not console.is_terminal:
        console.width = 1_000  # plain lines are as long as they are
    runs = f"{status.states.get('done', 0)} of {len(status.runs)} runs done"
    left = ""
    if status.epochs_done < status.epochs:
        left = f", {progress.left(status.seconds_left)}"
    line = f"{status.folder}: {runs}, {status.epochs_done} of {status.epochs} epochs{left}"
    console.print(line, style="bold", markup=False, soft_wrap=True)
    if status.owner:
        console.print(f"At work: {status.owner}.", markup=False, soft_wrap=True)
    elif left:
        console.print("Nobody is at work on it; its own command goes on with it.")

    # On a narrow screen arms have the names of their levels alone.
    arms = _arms(status, str)
    if (
        console.measure(arms, options=console.options.update(max_width=1_000)).maximum
        > console.width
    ):
        arms = _arms(status, progress.levels)
    console.print("", arms)
    if unusual := [run for run in status.runs if run.state in IN_FULL]:
        console.print("", _lines(unusual))


def show_scores(folder: Path, console: Console) -> None:
    """The scores of every arm at the last epoch, and those of the calibration.

    A cell is the mean over the runs that have the score; no run needs to be finished.
    """
    from eval.results import aligned  # and with it NumPy

    runs, _ = _planned(folder)
    rows: dict[str, dict[str, float]] = {}
    for arm in dict.fromkeys(run.arm for run in runs):
        latest = [_latest_scores(folder / run.folder) for run in runs if run.arm == arm]
        names = dict.fromkeys(name for scores in latest for name in scores)
        values = {x: [s[x] for s in latest if s.get(x) is not None] for x in names}
        rows[progress.levels(arm)] = {name: fmean(x) for name, x in values.items() if x}
    with suppress(rundir.Damaged, LookupError):
        calibration = rundir.unseal(folder / rundir.CALIBRATION)["rows"]
        rows |= {CALIBRATION_ROWS.get(name, name): scores for name, scores in calibration.items()}
    metrics = [*dict.fromkeys(name for scores in rows.values() for name in scores)][:METRICS]
    if metrics:
        console.print("\nMeans at the last epoch, and what images that no training made score:")
        cells = [[name, *map(scores.get, metrics)] for name, scores in rows.items()]
        console.print(aligned(["", *metrics], cells), markup=False, soft_wrap=True)


def _latest_scores(run: Path) -> dict[str, float | None]:
    """The scores of a run's last committed epoch; none where there is no epoch."""
    with suppress(rundir.Damaged, LookupError):
        return rundir.read_json(run, rundir.kept(run)[-1], rundir.RECORD)["scores"]
    return {}


def _arms(status: Status, name: Callable[[str], str]) -> Table:
    table = progress.plain_table("arm", *status.states, "epochs", "fd_cifar")
    for column in table.columns[1:]:
        column.justify = "right"
    for arm in dict.fromkeys(run.arm for run in status.runs):
        runs = [run for run in status.runs if run.arm == arm]
        counts = Counter(run.state for run in runs)
        epochs = f"{sum(run.epoch for run in runs)}/{sum(run.epochs for run in runs)}"
        latest = [run.fd_cifar for run in runs if run.fd_cifar is not None]
        score = f"{fmean(latest):.1f}" if latest else ""
        table.add_row(name(arm), *(str(counts[x] or "") for x in status.states), epochs, score)
    return table


def _lines(runs: list[RunStatus]) -> Table:
    table = progress.plain_table("state", "epoch", "fd_cifar", "run")
    table.columns[-1].no_wrap, table.columns[-1].overflow = False, "fold"  # a path has no blanks
    for run in sorted(runs, key=lambda run: IN_FULL.index(run.state)):
        score = "" if run.fd_cifar is None else f"{run.fd_cifar:.1f}"
        note = f": {run.note}" if run.note and run.state != "running" else ""
        style = "bold red" if run.state in ("failed", "damaged") else None
        name = escape(f"{run.arm} seed={run.seed}{note}")
        table.add_row(run.state, f"{run.epoch}/{run.epochs}", score, name, style=style)
    return table
