"""Every promise of the table to its long figure: trials in two processes, the table on stdout.

    python tests/chaos.py --minutes 5          the same as `make chaos`
    python tests/chaos.py --minutes 2 --only race

The next trial is always of the row that has least of its figure. Exit code 1 if anything broke.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from faults import Row, inputs, processes  # noqa: E402

MODULES = (inputs, processes)
ROWS = [row for module in MODULES for row in module.ROWS]
WORKERS = 2


@dataclass
class Tally:
    """What became of one row."""

    row: Row
    cases: int = 0
    broken: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        return self.cases >= self.row.long


def rows() -> list[Row]:
    """The rows that can be tested here; says why where some cannot."""
    possible = []
    for module in MODULES:
        why = module.unavailable() if hasattr(module, "unavailable") else ""
        if why:
            print(f"{module.__name__} is left out: {why}", file=sys.stderr)
        else:
            possible += module.ROWS
    return possible


def work() -> None:
    """The body of a worker: one trial a line, by its row's number and a seed."""
    answers = os.fdopen(os.dup(1), "w")  # what a trial prints does not go among the answers
    os.dup2(2, 1)
    for line in sys.stdin:
        number, seed = json.loads(line)
        folder = Path(tempfile.mkdtemp(prefix="chaos-"))
        try:
            answer = {"cases": ROWS[number].trial(Random(seed), folder), "broken": ""}
            shutil.rmtree(folder, ignore_errors=True)
        except Exception:
            answer = {"cases": 0, "broken": f"{folder}, seed {seed}\n{traceback.format_exc()}"}
        print(json.dumps(answer), file=answers, flush=True)


def make_trials(tallies: list[Tally], rng: Random, end: float, lock: threading.Lock) -> None:
    """Feed one worker with trials until every row is whole or the time is up."""
    command = [sys.executable, str(HERE / "chaos.py"), "--work"]
    pipe = subprocess.PIPE
    worker = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1)
    assert worker.stdin
    assert worker.stdout
    while time.monotonic() < end:
        with lock:
            left = [tally for tally in tallies if not tally.whole and not tally.broken]
            if not left:
                break
            seed = rng.getrandbits(32)
            tally = min(left, key=lambda tally: (tally.cases / tally.row.long, rng.random()))
        worker.stdin.write(json.dumps([ROWS.index(tally.row), seed]) + "\n")
        answer = json.loads(worker.stdout.readline())
        with lock:
            tally.cases += answer["cases"]
            print(f"{tally.cases:>6} {tally.row.title[0]}", file=sys.stderr, flush=True)
            if answer["broken"]:
                tally.broken.append(answer["broken"])
                print(
                    f"BROKEN: {tally.row.title[0]}: {answer['broken']}", file=sys.stderr, flush=True
                )
    worker.stdin.close()
    worker.wait()


def as_table(tallies: list[Tally]) -> str:
    """The table of promises as Markdown."""
    lines = ["| fault or input | promise | cases | broken |", "|---|---|---:|---:|"]
    for tally in tallies:
        count = f"{tally.cases:,}" + ("" if tally.whole else f" of {tally.row.long:,}")
        lines.append("| {} | {} |".format(*tally.row.title) + f" {count} | {len(tally.broken)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="trials whose name has this in it")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work()
        return 0
    rng, end = Random(options.seed), time.monotonic() + 60 * options.minutes
    tallies = [Tally(row) for row in rows() if options.only in row.trial.__name__]
    lock, streams = threading.Lock(), [Random(rng.getrandbits(32)) for _ in range(WORKERS)]
    threads = [threading.Thread(target=make_trials, args=(tallies, s, end, lock)) for s in streams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(as_table(tallies))
    return int(any(tally.broken for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())
