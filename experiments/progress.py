"""What a person sees while a study runs: a live table on a terminal, plain lines elsewhere."""

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
    if not console.is_terminal:
        yield lambda run, event: _print_line(progress, console, run, event)
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        live.get_renderable = lambda: _table(progress)  # type: ignore[method-assign]
        yield lambda run, event: None


def duration(seconds: float | None) -> str:
    """Seconds in words: `45 s`, `7 min`, `3 h 20 min`."""
    if seconds is None:
        return "not known yet"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def numbers(message: dict[str, Any]) -> str:
    """The latest numbers of a run in one line."""
    record, timing = message["record"], message["timing"]
    shown_first = {key: record["scores"].get(key) for key in ("fid", "fd_cifar", "cs_cifar")}
    parts = [f"{key} {value:.3g}" for key, value in shown_first.items() if value is not None]
    if record["status"] != "ok":
        parts.append(record["status"])
    return "  ".join([*parts, f"{timing['images_per_second']:.0f} images/s"])


def _print_line(progress: Progress, console: Console, run: Run | None, event: str) -> None:
    if run is None:
        return
    left = duration(progress.seconds_left())
    done = f"{progress.epochs_done}/{progress.epochs} epochs, {left} left"
    console.print(f"{run}  {event}  [{done}]", markup=False, highlight=False, soft_wrap=True)


def _table(progress: Progress) -> Group:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("run", "epoch", "latest scores and speed"):
        table.add_column(title, no_wrap=title != "latest scores and speed")
    for name, row in progress.rows.items():
        table.add_row(name, row["epoch"], row["numbers"])

    bar = ProgressBar(total=progress.epochs, completed=progress.epochs_done, width=40)
    counts = f"{progress.runs_done} of {progress.runs} runs done"
    if progress.failed:
        counts += f", {len(progress.failed)} failed"
    left = Text(f"{counts}   {duration(progress.seconds_left())} left", style="bold")
    foot = Table.grid(padding=(0, 2))
    foot.add_row(bar, left)
    return Group(Text(), table, Text(), foot)
