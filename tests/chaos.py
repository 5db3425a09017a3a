"""Every promise of the table to its long figure: trials in two processes, the table on stdout.

    python tests/chaos.py --minutes 5          the same as `make chaos`
    python tests/chaos.py --minutes 2 --only race

The next trial is always of the row that has least of its figure. Exit code 1 if anything broke;
the folders of such trials are kept.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
import traceback
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from random import Random

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from faults import Row, inputs, processes  # noqa: E402

ROWS = [*inputs.ROWS, *processes.ROWS]
WORKERS = 2


@dataclass
class Tally:
    """What became of one row."""

    row: Row
    cases: int = 0
    broken: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        """How much of its figure it has; a row that is broken needs no more."""
        return 1 if self.broken else self.cases / self.row.long


def make_trial(row: Row, seed: int) -> tuple[int, str]:
    """One trial of a row: its cases, and what broke."""
    folder = Path(tempfile.mkdtemp())
    try:
        cases = row.trial(Random(seed), folder)
    except Exception:
        return 0, f"{folder}, seed {seed}\n{traceback.format_exc()}"
    shutil.rmtree(folder, ignore_errors=True)
    return cases, ""


def make_trials(tallies: list[Tally], rng: Random, end: float) -> None:
    """Make trials until every row has its figure or the time is up."""
    at_work: dict[Future, Tally] = {}

    # What a trial prints goes to stderr, where it is not in the table.
    options = {"initializer": os.dup2, "initargs": (2, 1)}
    with ProcessPoolExecutor(WORKERS, get_context("spawn"), **options) as pool:
        while True:
            left = [tally for tally in tallies if tally.share < 1 and time.monotonic() < end]
            while left and len(at_work) < WORKERS:
                tally = min(left, key=lambda tally: (tally.share, rng.random()))
                at_work[pool.submit(make_trial, tally.row, rng.getrandbits(32))] = tally
            if not at_work:
                return
            for future in wait(at_work, return_when=FIRST_COMPLETED).done:
                tally, (cases, broken) = at_work.pop(future), future.result()
                tally.cases += cases
                print(f"{tally.cases:>6} {tally.row.title[0]}", file=sys.stderr, flush=True)
                if broken:
                    tally.broken.append(broken)
                    print(f"BROKEN: {broken}", file=sys.stderr, flush=True)


def as_table(tallies: list[Tally]) -> str:
    """The table of promises as Markdown."""
    lines = ["| fault or input | promise | cases | broken |", "|---|---|---:|---:|"]
    for tally in tallies:
        few = "" if tally.cases >= tally.row.long else f" of {tally.row.long:,}"
        counts = f"{tally.cases:,}{few} | {len(tally.broken)}"
        lines.append(f"| {' | '.join(tally.row.title)} | {counts} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="trials whose name has this in it")
    options = parser.parse_args()
    tallies = [Tally(row) for row in ROWS if options.only in row.trial.__name__]
    if not tallies:
        names = ", ".join(row.trial.__name__ for row in ROWS)
        parser.error(f"--only {options.only}: no trial has this in its name: {names}")
    scratch_dir = os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="chaos-")
    make_trials(tallies, Random(options.seed), time.monotonic() + 60 * options.minutes)
    print(as_table(tallies))
    if any(tally.broken for tally in tallies):
        return 1
    shutil.rmtree(scratch_dir, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
