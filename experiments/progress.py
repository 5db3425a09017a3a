"""What a person sees while a study runs: on a terminal a row for each run at work, else lines."""

import os
import time
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Rows

from dcgan.cli import left
from experiments.grid import levels


class Progress:
    """How far a study is; shown while the block `with progress.rows` runs."""

    def __init__(self, console: Console, epochs: int, done: int) -> None:
        # FORCE_COLOR makes a pipe a terminal to rich, and Jupyter, which sets this variable, may
        # have a terminal that only shows what it is sent, line by line.
        moves = console.file.isatty() and console.is_interactive
        moves = moves and "JPY_PARENT_PID" not in os.environ
        name, numbers = TextColumn("{task.description}"), TextColumn("{task.fields[numbers]}")
        columns = (name, MofNCompleteColumn(), TimeElapsedColumn(), numbers)  # fit 80 columns
        self.rows = Rows(*columns, console=console, transient=True, disable=not moves)
        self.console = console
        self.epochs, self.done, self.before = epochs, done, done  # of all runs together
        self.began = time.monotonic()
        self.total = self.rows.add_task("all", total=epochs, completed=done, numbers="epochs")
        self.tasks: dict[str, TaskID] = {}  # of the runs at work

    def begin(self, run: str, epoch: int, epochs: int) -> None:
        """A run starts, of which so many epochs are committed."""
        self.tasks[run] = self.rows.add_task(levels(run), total=epochs, completed=epoch, numbers="")

    def commit(self, run: str, epoch: int, epochs: int, numbers: str) -> None:
        self.done += 1
        if self.rows.disable:
            self._say(run, f"epoch {epoch}/{epochs}  {numbers}")
        self.rows.update(self.tasks[run], completed=epoch, numbers=numbers)
        self.rows.update(self.total, completed=self.done, numbers=left(self.seconds_left()))

    def end(self, run: str, why: str | None = None) -> None:
        """A run has ended, and may have failed."""
        self.rows.remove_task(self.tasks.pop(run))
        if why:
            self._say(run, f"failed: {why}")

    def seconds_left(self) -> float | None:
        """From the epochs committed since the start; None before the first."""
        made, seconds = self.done - self.before, time.monotonic() - self.began
        return seconds / made * (self.epochs - self.done) if made else None

    def _say(self, run: str, event: str) -> None:
        done = f"{self.done}/{self.epochs} epochs, {left(self.seconds_left())}"
        self.console.print(f"{run}  {event}  [{done}]")


def console(**options: Any) -> Console:
    """A console that prints a text as it is, in one line."""
    return Console(highlight=False, markup=False, soft_wrap=True, **options)


def numbers(record: dict[str, Any], timing: dict[str, Any]) -> str:
    """The numbers of an epoch in one line."""
    scores = {key: record["scores"].get(key) for key in ("fid", "fd_cifar")}
    parts = [f"{key} {value:.3g}" for key, value in scores.items() if value is not None]
    if record["status"] != "ok":
        parts.append(record["status"])
    return "  ".join([*parts, f"{timing['images_per_second']:.0f} images/s"])
