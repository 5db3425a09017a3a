"""Every promise of the table to its long figure, and one study under everything at once.

    python tests/chaos.py --minutes 30          the same as `make chaos MINUTES=30`
    python tests/chaos.py --minutes 2 --only race

Two processes make trials, of the row that has least of its figure. Beside them one real grid at
`smoke`, with more epochs, is killed, stopped, damaged, starved of disk and started twice until the
time is up; then it is left alone, and compared with a twin that always was. The table goes to
stdout, progress to stderr. Exit code 1 if anything broke.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import conftest  # noqa: E402
from faults import Row, disk, inputs, processes  # noqa: E402

from dcgan import rundir  # noqa: E402
from experiments import signals  # noqa: E402

MODULES = (disk, inputs, processes)
WORKERS = 2
SOAK = ["--scale", "smoke", "--data", "shapes", "--jobs", "2"]
STUDY = "ablation-smoke-shapes"


@dataclass
class Tally:
    """What became of one row."""

    row: Row
    cases: int = 0
    broken: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        return self.cases >= self.row.long


# --- The rows -------------------------------------------------------------------------------------


def rows() -> list[Row]:
    """The rows that can be tested here; says why where some cannot."""
    found = []
    for module in MODULES:
        why = module.unavailable() if hasattr(module, "unavailable") else ""
        if why:
            print(f"{module.__name__} is left out: {why}", file=sys.stderr)
        else:
            found += module.ROWS
    return found


def work() -> None:
    """The body of a worker: one trial a line, by its row's number and a seed."""
    every = [row for module in MODULES for row in module.ROWS]
    for line in sys.stdin:
        number, seed = json.loads(line)
        folder = Path(tempfile.mkdtemp(prefix="chaos-"))
        try:
            answer = {"cases": every[number].trial(Random(seed), folder), "broken": ""}
            shutil.rmtree(folder, ignore_errors=True)
        except Exception:
            answer = {"cases": 0, "broken": f"{folder}, seed {seed}\n{traceback.format_exc()}"}
        print(json.dumps(answer), file=ANSWERS, flush=True)


def make_trials(tallies: list[Tally], rng: Random, end: float, lock: threading.Lock) -> None:
    """Feed one worker with trials until every row is whole or the time is up."""
    every = [row for module in MODULES for row in module.ROWS]
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
        worker.stdin.write(json.dumps([every.index(tally.row), seed]) + "\n")
        answer = json.loads(worker.stdout.readline())
        with lock:
            tally.cases += answer["cases"]
            if answer["broken"]:
                tally.broken.append(answer["broken"])
                say(f"BROKEN: {tally.row.name}: {answer['broken']}")
    worker.stdin.close()
    worker.wait()


# --- The soak -------------------------------------------------------------------------------------


class Soak:
    """One study in a folder, and what has been done to it."""

    def __init__(self, rng: Random, folder: Path, epochs: int) -> None:
        self.rng, self.folder, self.out, self.epochs = rng, folder, folder / "out", epochs
        self.study = self.out / STUDY
        self.flag = folder / "disk-is-full"
        self.process: subprocess.Popen | None = None
        self.done: Counter[str] = Counter()
        self.starts, self.logs = 0, {}

    def begin(self, out: Path, mode: str = "offline", **environ: str) -> subprocess.Popen:
        """Start the command; its output goes to a file."""
        self.starts += 1
        if not disk.unavailable():
            environ |= {"LD_PRELOAD": str(disk.shim()), "SHIM_ROOT": str(self.out)}
            environ |= {"SHIM_FLAG": str(self.flag)}
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "INCEPTION"))}
        path = self.folder / f"{self.starts}.log"
        with open(path, "w") as log:
            words = [*SOAK, "--epochs", str(self.epochs), "--out", str(out)]
            process = subprocess.Popen(
                [sys.executable, "-m", "experiments", "ablation", *words],
                cwd=HERE.parent,
                env={**kept, "WANDB_MODE": mode, "HOME": str(self.folder), **environ},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=conftest.hear_interrupts,
            )
        self.logs[process.pid] = path
        return process

    def text(self, process: subprocess.Popen) -> str:
        return self.logs[process.pid].read_text()

    def ended(self, process: subprocess.Popen) -> int:
        """Wait for a command and all of its workers."""
        code = process.wait(600)
        processes.until(lambda: not processes.in_session(process.pid), "the workers' end", 60)
        return code

    def harm(self) -> None:
        """One fault, chosen at random."""
        if self.process is None:
            self.process = self.begin(self.out)
        time.sleep(self.rng.uniform(0, 8))
        if self.process.poll() is not None:
            self.check_end(self.process)
            self.process = None
            self.damage()
            return
        faults = [self.kill, self.kill_worker, self.kill_wandb, self.stop, self.start_twice]
        if not disk.unavailable():
            faults.append(self.fill_disk)
        self.rng.choice(faults)()
        if self.process is None and self.rng.random() < 0.5:
            self.damage()

    def check_end(self, process: subprocess.Popen) -> None:
        """A command that ended by itself did its work, or says what it could not do."""
        code, text = self.ended(process), self.text(process)
        assert code in (0, 1, 2), text
        assert "Traceback" not in text, text
        if code == 2 and "is in use by process" not in text:
            found = re.search(r"(\S+seed=\d+): .*remove the run to make it again", text)
            assert found, text
            shutil.rmtree(found[1], ignore_errors=True)  # two starts may name the same run

    def kill(self) -> None:
        """SIGKILL for the launcher; its workers end with it."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.ended(self.process)
        self.process = None
        self.done["SIGKILL of the launcher"] += 1

    def kill_worker(self) -> None:
        """SIGKILL for a worker, the server that forks them, or whatever else works for it."""
        others = [p for p in processes.in_session(self.process.pid) if p != self.process.pid]
        if others:
            with suppress(ProcessLookupError):
                os.kill(self.rng.choice(others), signal.SIGKILL)
            self.done["SIGKILL of a worker"] += 1

    def kill_wandb(self) -> None:
        found = processes.victims(self.rng.choice(["service", "mirror"]), self.study)
        if found:
            with suppress(ProcessLookupError):
                os.kill(self.rng.choice(found), signal.SIGKILL)
            self.done["SIGKILL of W&B"] += 1

    def stop(self) -> None:
        """SIGTERM, or Ctrl-C once or twice."""
        if not processes.listens(self.process.pid):
            return
        group, rest = self.process.pid, (0, 1, 2)
        if processes.strike(self.rng, group, lambda: self.process.wait(60), own=rest):
            text = self.text(self.process)
            assert text.endswith(signals.WORDS), text
        self.ended(self.process)
        self.process = None
        self.done["SIGTERM or Ctrl-C"] += 1

    def start_twice(self) -> None:
        """A second start beside the first one."""
        self.check_end(self.begin(self.out))
        self.done["a second start"] += 1

    def fill_disk(self) -> None:
        """No write succeeds for some seconds."""
        self.flag.touch()
        time.sleep(self.rng.uniform(0, 3))
        self.flag.unlink()
        self.done["a full disk"] += 1

    def damage(self) -> None:
        """Flip a bit, cut off or remove some of what is committed, while nobody is at work.

        Not the generators, and not the states of a finished run: nothing needs them any more, so
        that nothing makes them again. They are found when they are read, which faults.disk tests.
        """
        for run in self.rng.sample(runs := sorted(self.study.glob("*/seed=*")), len(runs) // 3):
            epochs = sorted((run / "epochs").glob("[0-9]*"))
            names = [rundir.RECORD, rundir.TIMING, rundir.SAMPLES, rundir.SUMS]
            if len(epochs) < self.epochs:
                names.append(rundir.STATE)
            late = epochs[-self.rng.randint(1, 6) :]
            files = [f / name for f in late for name in names if (f / name).exists()]
            if self.rng.random() < 0.05:
                files = [path for path in [run / "run.json"] if path.exists()]
            if files:
                disk.harm(self.rng, self.rng.choice(files))
                self.done["damage to a file"] += 1

    def finish(self) -> list[str]:
        """Let the study go on to its end, undisturbed; what differs from its twin."""
        if self.process is not None:
            self.process.terminate()
            self.ended(self.process)
        self.flag.unlink(missing_ok=True)
        for out, mode in (self.out, "offline"), (self.folder / "twin", "disabled"):
            while self.ended(last := self.begin(out, mode)) == 2:
                self.check_end(last)  # which removes the run that is named
            if last.returncode:
                return [f"exit {last.returncode}: {self.text(last)}"]
        return differences(self.study, self.folder / "twin" / STUDY)


def differences(study: Path, twin: Path) -> list[str]:
    """The files that differ, and the runs whose history in W&B is not their records."""
    mine, others = every_byte(study), every_byte(twin)
    broken = [name for name in sorted({*mine, *others}) if mine.get(name) != others.get(name)]
    broken += [str(path) for path in study.glob("*/seed=*/error.txt")]
    runs, mirrors = list(study.glob("*/seed=*")), list(study.glob("wandb/*run-*"))
    histories = [processes.history(study, mirror) for mirror in mirrors]
    for run in runs:
        if histories.count(conftest.rows_of_records(run)) != 1:
            broken.append(f"W&B's history of {run}")
    return broken if len(mirrors) == len(runs) == 8 else [*broken, f"{len(mirrors)} mirrors"]


def every_byte(study: Path) -> dict[str, str]:
    """All that does not depend on the clock: tables, and the SHA-256 of records, states, ..."""
    assert (study / "report" / "index.html").exists()
    tables = {f"table {number}": text for number, text in enumerate(disk.write_tables(study), 1)}
    return tables | processes.contents(study)


# --- All of it ------------------------------------------------------------------------------------


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def as_table(tallies: list[Tally], soak: Soak, broken: list[str]) -> str:
    """The table of promises as Markdown, the soak last."""
    lines = ["| fault or input | promise | cases | broken |", "|---|---|---:|---:|"]
    for tally in tallies:
        short = "" if tally.whole else f" of {tally.row.long:,}"
        count = f"{tally.cases:,}{short}"
        lines.append(f"| {tally.row.name} | {tally.row.promise} | {count} | {len(tally.broken)} |")
    faults = ", ".join(f"{count} × {name}" for name, count in sorted(soak.done.items()))
    promise = "after one undisturbed start every byte is that of a twin"
    lines.append(
        f"| all at once on one real grid: {faults}; {soak.starts} starts "
        f"| {promise} | {soak.done.total():,} | {len(broken)} |"
    )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="trials whose name has this in it")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work()
        return 0

    # Trials in two processes, the soak in this one.
    rng, end = Random(arguments.seed), time.monotonic() + 60 * arguments.minutes
    tallies = [Tally(row) for row in rows() if arguments.only in row.trial.__name__]
    lock = threading.Lock()
    more = [Random(rng.getrandbits(32)) for _ in range(WORKERS)]
    threads = [
        threading.Thread(target=make_trials, args=(tallies, each, end, lock)) for each in more
    ]
    for thread in threads:
        thread.start()
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as folder:
        soak = Soak(rng, Path(folder), max(4, min(30, round(arguments.minutes))))
        broken: list[str] = []
        told = time.monotonic()
        try:
            while time.monotonic() < end:
                soak.harm()
                if time.monotonic() > told + 60:
                    told = time.monotonic()
                    whole = sum(tally.whole for tally in tallies)
                    say(f"{whole} of {len(tallies)} rows are whole, {soak.done.total()} faults")
            broken = soak.finish()
        except Exception:
            broken = [traceback.format_exc()]
        for thread in threads:
            thread.join()
        for each in broken:
            say(f"BROKEN in the soak: {each}")
        print(as_table(tallies, soak, broken))

    # What it costs, now that nothing else is at work.
    if not disk.unavailable():
        print(f"\n{disk.cost()}")
    return 1 if broken or any(tally.broken for tally in tallies) else 0


if __name__ == "__main__":
    ANSWERS = os.fdopen(os.dup(1), "w")  # what a trial prints does not go among the answers
    if "--work" in sys.argv:
        os.dup2(2, 1)
    sys.exit(main())
