"""Where a study stands: what is done, at work, failed or missing, read from its folder alone."""

import math
from collections import Counter
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
IN_FULL = STATES[1:-1]  # with a line each


@dataclass(frozen=True)
class RunStatus:
    """One planned run."""

    arm: str
    seed: int
    state: str  # one of STATES
    epoch: int  # the last one that is committed
    epochs: int  # planned
    scores: dict[str, float | None]  # of that epoch; None where the run diverged
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
    info = rundir.unseal(folder / "study.json")
    runs = [_look_at_run(folder / run.folder, run) for run in grid.runs(grid.stored(info))]
    counts = Counter(run.state for run in runs)
    return Status(
        folder=str(folder),
        owner=rundir.owner_of(folder),
        states={state: counts[state] for state in STATES if counts[state]},
        epochs=sum(run.epochs for run in runs),
        epochs_done=sum(run.epoch for run in runs),
        seconds_left=_seconds_left(runs, info["hardware"]["jobs"]),
        runs=runs,
    )


def _look_at_run(folder: Path, run: grid.Run) -> RunStatus:
    planned, seconds, scores, done, damage = run.config.epochs, None, {}, [], ""
    owner = rundir.owner_of(folder)
    try:
        done = rundir.committed(folder)
        if rundir.epoch_folder(folder, len(done) + 1).exists():
            damage = f"epoch {len(done) + 1} is not as it was committed"
        if done:
            timings = [rundir.read_json(folder, epoch, rundir.TIMING) for epoch in done]
            seconds = fmean(x["train_seconds"] + x["score_seconds"] for x in timings)
            scores = rundir.read_json(folder, done[-1], rundir.RECORD)["scores"]
        if done or (folder / "run.json").exists():
            planned = rundir.read_config(folder).epochs
    except rundir.Damaged as error:
        damage = str(error)
    except OSError as error:
        damage = f"{error.filename or folder}: {error.strerror}"

    state, note = _state(folder, owner, len(done), planned, damage)
    epoch = min(len(done), planned)
    return RunStatus(run.arm, run.config.seed, state, epoch, planned, scores, seconds, note)


def _state(
    folder: Path, owner: str | None, done: int, planned: int, damage: str
) -> tuple[str, str]:
    """One of STATES, and what there is to say about it."""
    if owner:
        return "running", owner
    if damage:
        return "damaged", damage
    if (path := folder / "error.txt").exists():  # a traceback, whose last line says why
        return "failed", path.read_text(errors="replace").strip().rpartition("\n")[2]
    if done >= planned:
        return "done", ""
    if elsewhere := rundir.owner_elsewhere(folder):
        return "elsewhere", f"last at work: {elsewhere}"
    return ("stopped" if done else "missing"), ""


def _seconds_left(runs: list[RunStatus], max_parallel: int) -> float | None:
    """Of the remaining epochs, at the speed of their run, else of their arm, else of the study."""
    begun = [run for run in runs if run.seconds is not None]
    if not begun:
        return None

    def speed(run: RunStatus) -> float:
        own = [other.seconds for other in begun if other.arm == run.arm]
        return run.seconds or fmean(own or [other.seconds for other in begun])

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

    console.print("", _arms(status, console.width))
    if unusual := [run for run in status.runs if run.state in IN_FULL]:
        console.print("", _lines(unusual))


def show_scores(folder: Path, console: Console) -> None:
    """The scores of every arm at the last epoch, and those of the calibration.

    A cell is the mean over the runs that have the score; no run needs to be finished.
    """
    from eval.results import aligned  # and with it NumPy

    rows: dict[str, dict[str, float | None]] = {}
    for arm, runs in _by_arm(look(folder)).items():
        names = dict.fromkeys(name for run in runs for name in run.scores)
        rows[progress.levels(arm)] = {name: _mean_score(runs, name) for name in names}
    with suppress(rundir.Damaged, LookupError):
        calibration = rundir.unseal(folder / rundir.CALIBRATION)["rows"]
        rows |= {CALIBRATION_ROWS.get(name, name): scores for name, scores in calibration.items()}
    metrics = [*dict.fromkeys(name for scores in rows.values() for name in scores)][:METRICS]
    if metrics:
        console.print("\nMeans at the last epoch, and what images that no training made score:")
        cells = [[name, *map(scores.get, metrics)] for name, scores in rows.items()]
        console.print(aligned(["", *metrics], cells), markup=False, soft_wrap=True)


def _by_arm(status: Status) -> dict[str, list[RunStatus]]:
    arms: dict[str, list[RunStatus]] = {}
    for run in status.runs:
        arms.setdefault(run.arm, []).append(run)
    return arms


def _mean_score(runs: list[RunStatus], metric: str) -> float | None:
    """The mean of the latest scores of the runs that have one."""
    values = [run.scores[metric] for run in runs if run.scores.get(metric) is not None]
    return fmean(values) if values else None


def _arms(status: Status, width: int) -> Table:
    table = progress.plain_table("arm", *status.states, "epochs", "fd_cifar")
    for column in table.columns[1:]:
        column.justify = "right"
    for arm, runs in _by_arm(status).items():
        name = arm if width >= progress.WIDE else progress.levels(arm)
        counts = Counter(run.state for run in runs)
        epochs = f"{sum(run.epoch for run in runs)}/{sum(run.epochs for run in runs)}"
        score = _shown(_mean_score(runs, "fd_cifar"))
        table.add_row(name, *(str(counts[x] or "") for x in status.states), epochs, score)
    return table


def _shown(score: float | None) -> str:
    return "" if score is None else f"{score:.1f}"


def _lines(runs: list[RunStatus]) -> Table:
    table = progress.plain_table("state", "epoch", "fd_cifar", "run")
    table.columns[-1].no_wrap, table.columns[-1].overflow = False, "fold"  # a path has no blanks
    for run in sorted(runs, key=lambda run: IN_FULL.index(run.state)):
        note = f": {run.note}" if run.note and run.state != "running" else ""
        style = "bold red" if run.state in ("failed", "damaged") else None
        name = escape(f"{run.arm} seed={run.seed}{note}")
        score = _shown(run.scores.get("fd_cifar"))
        table.add_row(run.state, f"{run.epoch}/{run.epochs}", score, name, style=style)
    return table
