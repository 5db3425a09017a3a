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

MOST_LINES = 200  # about as many does a study of any size print where there is no terminal
WIDE = 110  # columns of a screen on which a run's full name fits beside its numbers
NARROW = 72  # below that the numbers do not fit


@dataclass
class Row:
    """A run that is at work."""

    epoch: int  # the last one that is committed
    epochs: int
    numbers: str = ""  # of that epoch, as `numbers` gives them
    seconds: float | None = None  # that it took
    began: float = field(default_factory=time.monotonic)  # the epoch that is being made


@dataclass
class Progress:
    """Where a study stands."""

    runs: int
    epochs: int  # of all runs together
    runs_done: int
    epochs_done: int
    failed: dict[str, str] = field(default_factory=dict)  # run -> why
    unmirrored: list[str] = field(default_factory=list)  # what W&B failed with, one run each
    rows: dict[str, Row] = field(default_factory=dict)  # run -> where it stands, if it is at work
    began: float = field(default_factory=time.monotonic)
    epochs_before: int = 0  # committed when this process began
    epoch_seconds: float | None = None  # that the plan expects of an epoch

    def seconds_elapsed(self) -> float:
        return time.monotonic() - self.began

    def seconds_left(self) -> float | None:
        """From the epochs committed since the start; None before the first."""
        made = self.epochs_done - self.epochs_before
        return self.seconds_elapsed() / made * (self.epochs - self.epochs_done) if made else None


@contextmanager
def shown(progress: Progress, console: Console) -> Iterator[Callable[[str, str], None]]:
    """Show progress while the block runs; what it yields is told of a run and its event."""
    # FORCE_COLOR makes a pipe a terminal to rich, and Jupyter, which sets this variable, may have a
    # terminal that only shows what it is sent, line by line.
    in_notebook = "JPY_PARENT_PID" in os.environ
    if not console.file.isatty() or not console.is_interactive or in_notebook:
        yield lambda run, event: _print_line(progress, console, run, event)
        return
    with Live(console=console, refresh_per_second=1, transient=True) as live:
        live.get_renderable = lambda: _screen(progress, *console.size)  # type: ignore[method-assign]
        yield lambda run, event: None


def duration(seconds: float) -> str:
    """Seconds for people: `45 s`, `7 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def left(seconds: float | None) -> str:
    """The time left, for people."""
    return "time left not known yet" if seconds is None else f"{duration(seconds)} left"


def numbers(record: dict[str, Any], timing: dict[str, Any]) -> str:
    """The numbers of an epoch in one line."""
    scores = {key: record["scores"].get(key) for key in ("fid", "fd_cifar")}
    parts = [f"{key} {value:.3g}" for key, value in scores.items() if value is not None]
    if record["status"] != "ok":
        parts.append(record["status"])
    return "  ".join([*parts, f"{timing['images_per_second']:.0f} images/s"])


def levels(name: str) -> str:
    """An arm's or a run's name without those of the factors: `none,conv,128 seed=0`."""
    arm, space, seed = name.partition(" ")
    return ",".join(part.partition("=")[2] for part in arm.split(",")) + space + seed


def plain_table(*titles: str) -> Table:
    """A table without lines, whose cells stay whole."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in titles:
        table.add_column(title, no_wrap=True)
    return table


def _print_line(progress: Progress, console: Console, run: str, event: str) -> None:
    """A line for a failure and for the first and the last epoch; of the others for every nth."""
    nth, failed = math.ceil(progress.epochs / MOST_LINES), run in progress.failed
    at_an_end = progress.epochs_done in (progress.epochs_before + 1, progress.epochs)
    if failed or at_an_end or progress.epochs_done % nth == 0:
        done = f"{progress.epochs_done}/{progress.epochs} epochs, {left(progress.seconds_left())}"
        console.print(f"{run}  {event}  [{done}]", markup=False, highlight=False, soft_wrap=True)


def _screen(progress: Progress, width: int, height: int) -> Group:
    """The runs at work, as many as fit; below them a bar, and the time left."""
    most = max(1, height - 8)
    titles = ["run", "epoch", "next epoch", "latest score and speed"]
    table = plain_table(*(titles if width >= NARROW else titles[:2]))
    for name, row in list(progress.rows.items())[:most]:
        elapsed = duration(time.monotonic() - row.began)
        whole = row.seconds or progress.epoch_seconds  # of the last epoch, or by the plan
        next_epoch = f"{elapsed} of {duration(whole)}" if whole else elapsed
        cells = name if width >= WIDE else levels(name), f"{row.epoch}/{row.epochs}", next_epoch
        table.add_row(*[*cells, row.numbers][: len(table.columns)])
    if len(progress.rows) > most:
        table.add_row(f"and {len(progress.rows) - most} more")

    counts = f"{progress.runs_done} of {progress.runs} runs done"
    if progress.failed:
        counts += f", {len(progress.failed)} failed"
    times = f"{duration(progress.seconds_elapsed())} elapsed, {left(progress.seconds_left())}"
    foot = Table.grid()
    foot.add_row(ProgressBar(progress.epochs, progress.epochs_done))
    for line in [f"{counts}, {times}"] if width >= NARROW else [counts, times]:
        foot.add_row(Text(line, style="bold"))
    return Group(Text(), table, Text(), foot)
