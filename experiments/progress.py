"""What a person sees while a study runs: a live table on a terminal, plain lines elsewhere."""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from experiments.grid import Run

MOST_LINES = 200  # about as many does a study of any size print where there is no terminal
WIDE = 80  # columns of a screen that has room for a run's full name and its numbers


@dataclass
class Progress:
    """Where a study stands; `rows` holds the last epoch of each run that is at work."""

    runs: int
    epochs: int  # of all runs together
    runs_done: int
    epochs_done: int
    failed: dict[str, str] = field(default_factory=dict)  # run -> why
    unmirrored: list[str] = field(default_factory=list)  # what W&B failed with, one run each
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    epochs_before: int = 0  # committed when this process began

    def seconds_left(self) -> float | None:
        """From the epochs committed since the start; None before the first."""
        made = self.epochs_done - self.epochs_before
        if not made:
            return None
        return (time.monotonic() - self.began) / made * (self.epochs - self.epochs_done)


@contextmanager
def shown(progress: Progress, console: Console) -> Iterator[Callable[[Run | None, str], None]]:
    """Show progress while the block runs; what it yields is told of a run and its event."""
    if not _moves_cursor(console):
        yield lambda run, event: _print_line(progress, console, run, event)
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        live.get_renderable = lambda: _screen(progress, *console.size)  # type: ignore[method-assign]
        yield lambda run, event: None


def _moves_cursor(console: Console) -> bool:
    """Whether this is a screen on which lines can be drawn over.

    FORCE_COLOR makes a pipe a terminal to rich, and a notebook's `!command` may have one that only
    shows what it is sent, line by line.
    """
    in_notebook = "JPY_PARENT_PID" in os.environ  # which Jupyter sets for its kernels
    return console.file.isatty() and console.is_interactive and not in_notebook


def duration(seconds: float) -> str:
    """Seconds in words: `45 s`, `7 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def left(seconds: float | None) -> str:
    """The time left in words."""
    return "time left not known yet" if seconds is None else f"{duration(seconds)} left"


def numbers(message: dict[str, Any]) -> str:
    """The latest numbers of a run in one line."""
    record, timing = message["record"], message["timing"]
    shown_first = {key: record["scores"].get(key) for key in ("fid", "fd_cifar", "cs_cifar")}
    parts = [f"{key} {value:.3g}" for key, value in shown_first.items() if value is not None]
    if record["status"] != "ok":
        parts.append(record["status"])
    return "  ".join([*parts, f"{timing['images_per_second']:.0f} images/s"])


def _print_line(progress: Progress, console: Console, run: Run | None, event: str) -> None:
    """A line for a failure and for the first and the last epoch; of the others for every nth."""
    if run is None:
        return
    nth, failed = math.ceil(progress.epochs / MOST_LINES), str(run) in progress.failed
    at_an_end = progress.epochs_done in (progress.epochs_before + 1, progress.epochs)
    if failed or at_an_end or progress.epochs_done % nth == 0:
        done = f"{progress.epochs_done}/{progress.epochs} epochs, {left(progress.seconds_left())}"
        console.print(f"{run}  {event}  [{done}]", markup=False, highlight=False, soft_wrap=True)


def _screen(progress: Progress, width: int, height: int) -> Group:
    """What is at work, as many runs as there is room for; below it a bar, and the time left."""
    wide, room = width >= WIDE, max(1, height - 8)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("run", no_wrap=True)
    table.add_column("epoch", no_wrap=True)
    if wide:
        table.add_column("latest scores and speed", no_wrap=True)
    for name, row in list(progress.rows.items())[:room]:
        cells = (name, row["epoch"], row["numbers"]) if wide else (levels(name), row["epoch"])
        table.add_row(*cells)
    if len(progress.rows) > room:
        table.add_row(f"and {len(progress.rows) - room} more")

    counts = f"{progress.runs_done} of {progress.runs} runs done"
    if progress.failed:
        counts += f", {len(progress.failed)} failed"
    words = Text(f"{counts}, {left(progress.seconds_left())}", style="bold")
    bar = ProgressBar(progress.epochs, progress.epochs_done, width=40 if wide else None)
    if not wide:
        return Group(Text(), table, Text(), bar, words)
    foot = Table.grid(padding=(0, 2))
    foot.add_row(bar, words)
    return Group(Text(), table, Text(), foot)


def levels(name: str) -> str:
    """An arm's or a run's name without those of the factors: `none,conv,128 seed=0`."""
    arm, space, seed = name.partition(" ")
    return ",".join(part.partition("=")[2] for part in arm.split(",")) + space + seed
