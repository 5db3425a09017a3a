"""Every promise of the table to its long figure: the table on stdout, each trial on stderr.

    python tests/chaos.py --minutes 5          the same as `make chaos`
    python tests/chaos.py --minutes 2 --only race

The next trial is always of the row that has least of its figure. Exit code 1 if anything broke;
the folders of such trials are kept.
"""

import argparse
import shutil
import sys
import tempfile
import time
import traceback
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from faults import Row, inputs, processes  # noqa: E402

ROWS = [*inputs.ROWS, *processes.ROWS]


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


def make_trial(row: Row, seed: int, scratch_dir: str) -> tuple[int, str]:
    """One trial of a row: its cases, and what broke."""
    folder = Path(tempfile.mkdtemp(dir=scratch_dir))
    try:
        cases = row.trial(Random(seed), folder)
    except Exception:
        return 0, f"{folder}, seed {seed}\n{traceback.format_exc()}"
    shutil.rmtree(folder, ignore_errors=True)
    return cases, ""


def make_trials(tallies: list[Tally], rng: Random, end: float, scratch_dir: str) -> None:
    """Make trials until every row has its figure or the time is up."""
    while time.monotonic() < end and any(tally.share < 1 for tally in tallies):
        tally = min(tallies, key=lambda tally: (tally.share, rng.random()))
        cases, broken = make_trial(tally.row, rng.getrandbits(32), scratch_dir)
        tally.cases += cases
        print(f"{tally.cases:>6} {tally.row.title[0]}", flush=True)
        if broken:
            tally.broken.append(broken)
            print(f"BROKEN: {broken}", flush=True)


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
    end, scratch_dir = time.monotonic() + 60 * options.minutes, tempfile.mkdtemp(prefix="chaos-")
    with redirect_stdout(sys.stderr):
        make_trials(tallies, Random(options.seed), end, scratch_dir)
    print(as_table(tallies))
    if any(tally.broken for tally in tallies):
        return 1
    shutil.rmtree(scratch_dir, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
