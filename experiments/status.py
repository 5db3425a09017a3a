"""Where a study stands: what is done, at work, failed or missing, read from its folder alone."""

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from dcgan import rundir
from dcgan.cli import aligned, left
from experiments import grid

STATES = ("done", "running", "failed", "damaged", "stopped", "missing")
MOST_METRICS = 5  # at most, in the order of the records: what 80 columns take


@dataclass(frozen=True)
class RunStatus:
    """One planned run."""

    arm: str
    seed: int
    state: str  # one of STATES
    epoch: int  # the last one that is committed
    epochs: int  # planned
    scores: dict[str, float | None]  # of that epoch; None where the run diverged
    seconds: float | None  # of that epoch: training and scoring
    note: str  # who runs it, why it failed, what is damaged, whether it diverged


@dataclass(frozen=True)
class Status:
    """A study."""

    folder: str
    owner: str | None  # the process that makes the study now
    states: dict[str, int]  # state -> runs
    epochs: int  # of all runs together
    epochs_done: int
    seconds_left: float | None  # None before the first epoch
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
    planned, seconds, scores, lost, damage = run.config.epochs, None, {}, False, ""
    owner, epoch = rundir.owner_of(folder), max(rundir.kept(folder), default=0)
    try:
        if epoch or (folder / "run.json").exists():
            planned = rundir.read_config(folder).epochs
        if epoch:
            timing = rundir.read_json(folder, epoch, rundir.TIMING)
            seconds = timing["train_seconds"] + timing["score_seconds"]
            record = rundir.read_json(folder, epoch, rundir.RECORD)
            scores, lost = record["scores"], record["status"] != "ok"
    except rundir.Damaged as error:
        damage, epoch = str(error).removeprefix(f"{folder}/"), max(epoch - 1, 0)
    state, note = _state(folder, owner, epoch, planned, damage)
    note = note or "diverged" * lost
    done = min(epoch, planned)
    return RunStatus(run.arm, run.config.seed, state, done, planned, scores, seconds, note)


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
    return ("stopped" if done else "missing"), ""


def _seconds_left(runs: list[RunStatus], max_parallel: int) -> float | None:
    """Of the remaining epochs, at the mean speed; the longest run takes its own time."""
    seconds = [run.seconds for run in runs if run.seconds is not None]
    left = [run.epochs - run.epoch for run in runs]
    return fmean(seconds) * max(sum(left) / max_parallel, *left) if seconds else None


def to_text(status: Status) -> str:
    """An arm a row, with the mean of its runs' latest scores; then a line for each unusual run."""
    line = f"{status.folder}: {status.states.get('done', 0)} of {len(status.runs)} runs done, "
    line += f"{status.epochs_done} of {status.epochs} epochs"
    unfinished = status.epochs_done < status.epochs
    lines = [line + (f", {left(status.seconds_left)}" if unfinished else "")]
    if status.owner:
        lines.append(f"At work: {status.owner}.")
    elif unfinished:
        lines.append("Nothing is running; the study's own command continues it.")

    rows = []
    for arm, runs in _by_arm(status).items():
        counts = Counter(run.state for run in runs)
        epochs = f"{sum(run.epoch for run in runs)}/{sum(run.epochs for run in runs)}"
        states = [counts[state] or "" for state in status.states]
        rows.append([grid.levels(arm), *states, epochs, _mean_score(runs, "fd_cifar")])
    factors = grid.factors(status.runs[0].arm)
    lines += ["", aligned([factors, *status.states, "epochs", "fd_cifar"], rows)]
    unusual = [run for run in status.runs if run.note or run.state not in ("done", "missing")]
    lines += [""] if unusual else []
    for run in sorted(unusual, key=lambda run: STATES.index(run.state)):
        note = f": {run.note}" if run.note else ""
        lines.append(f"{run.state:<10}{run.epoch}/{run.epochs}  {run.arm} seed={run.seed}{note}")
    return "\n".join(lines)


def scores_to_text(folder: Path) -> str:
    """The latest scores of every arm, and those of the calibration; "" without any."""
    from eval.metrics import CALIBRATION  # and with it NumPy

    rows, arms = {}, _by_arm(look(folder))
    for arm, runs in arms.items():
        names = dict.fromkeys(name for run in runs for name in run.scores)
        rows[grid.levels(arm)] = {name: _mean_score(runs, name) for name in names}
    with suppress(rundir.Damaged, LookupError):
        calibration = rundir.unseal(folder / rundir.CALIBRATION)["rows"]
        rows |= {CALIBRATION.get(name, name): scores for name, scores in calibration.items()}
    metrics = [*dict.fromkeys(name for scores in rows.values() for name in scores)][:MOST_METRICS]
    if not metrics:
        return ""
    heads = [grid.factors(next(iter(arms))), *metrics]
    table = aligned(heads, [[x, *map(y.get, metrics)] for x, y in rows.items()])
    return f"\nMeans at the last epoch, and what images that no training made score:\n{table}"


def _by_arm(status: Status) -> dict[str, list[RunStatus]]:
    arms = dict.fromkeys(run.arm for run in status.runs)
    return {arm: [run for run in status.runs if run.arm == arm] for arm in arms}


def _mean_score(runs: list[RunStatus], metric: str) -> float | None:
    """The mean of the latest scores of the runs that have one."""
    values = [run.scores[metric] for run in runs if run.scores.get(metric) is not None]
    return fmean(values) if values else None
