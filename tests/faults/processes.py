"""Faults of processes: signals, killed workers, other machines, races, W&B.

Every trial starts `python -m experiments ablation` on a grid of eight real runs, tiny ones, in
faults.command, and compares what it leaves with an undisturbed twin, byte for byte.
"""

import atexit
import functools
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import conftest
import numpy as np

from dcgan import rundir
from experiments import signals
from faults import Row
from faults.command import SERVER, give

STUDY = "ablation-smoke-dots"
EPOCHS = 3
GRID = ["images=520", "width=1", "latent_size=4", "score_images=12", "reference_images=20"]
PAIR = ["head=conv", "batch=512"]  # narrows the grid to two runs
EXACT = (rundir.RECORD, rundir.SAMPLES, rundir.STATE, rundir.GENERATOR)
QUIET = {"WANDB_MODE": "disabled"}
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
NUMBERS = itertools.count()  # of the commands
LONG = 300.0  # seconds after which a command is taken for one that hangs


@functools.cache
def shared() -> Path:
    """A folder of this process for what its trials share: the images, the twins."""
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    pixels = np.random.default_rng(0).integers(0, 256, (520, 16, 16, 3), dtype=np.uint8)
    files = {f"{i:03d}.png": conftest.encode(image) for i, image in enumerate(pixels)}
    conftest.write_zip(folder / "dots.zip", files)
    return folder


@dataclass(frozen=True)
class Command:
    """A command that was started; its process id is that of its group as well."""

    process: BaseProcess
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait(self, seconds: float = LONG) -> int:
        self.process.join(seconds)
        if (code := self.process.exitcode) is None:
            os.killpg(self.pid, signal.SIGKILL)
        assert code is not None, f"no end within {seconds:g} s\n{self.out}{self.err}"
        return code

    @property
    def out(self) -> str:
        return Path(f"{self.log}.out").read_text()

    @property
    def err(self) -> str:
        return Path(f"{self.log}.err").read_text()


def begin(
    out: Path,
    *words: str,
    environ: dict[str, str] = QUIET,
    report: bool = False,
    patience: float = 100,
) -> Command:
    """Start the study in `out`, without W&B and a report if nothing else is said."""
    out.mkdir(exist_ok=True)
    log = out.parent / f"{out.name}-{next(NUMBERS)}"
    options = ["--data", str(shared() / "dots.zip"), "--out", str(out)]
    options += ["--scale", "smoke", "--epochs", str(EPOCHS), *words, *GRID]
    given = (options, str(log), environ, report, patience)
    process = SERVER.Process(target=give, args=given)
    with mock.patch.dict(os.environ, ONE_THREAD):  # of the server, which begins with the first
        process.start()
    until(lambda: in_session(process.pid) or process.exitcode is not None, "its session")
    return Command(process, log)


def finish(out: Path, *words: str, **more: Any) -> None:
    """Start the study once more, to its end."""
    command = begin(out, *words, **more)
    assert command.wait() == 0, command.out + command.err
    assert command.err == ""


@functools.cache
def twin() -> Path:
    """The undisturbed study, of whose epochs none has diverged."""
    out = shared() / "twin"
    finish(out)
    for path in out.glob("*/*/*/epochs/*/record.json"):
        assert json.loads(path.read_bytes())["status"] == "ok", path
    return out / STUDY


def contents(study: Path) -> dict[str, str]:
    """The SHA-256 of every file of a study that must not depend on when and how it was made."""
    files = [p for p in study.glob("*/seed=*/epochs/[0-9]*/*") if p.name in EXACT]
    files += study.glob("*/seed=*/run.json")
    return {str(p.relative_to(study)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def check(study: Path, runs: Callable[[str], bool] = lambda run: True) -> None:
    """Whether those runs of a study are whole, and the twin's in every byte."""
    wanted, result = contents(twin()), contents(study)
    names = [*filter(runs, wanted)]
    assert len(names) >= 2 * (4 * EPOCHS - 1)
    assert {*names} == {*filter(runs, result)}
    assert [name for name in names if result[name] != wanted[name]] == []


def in_pair(file: str) -> bool:
    return "head=conv,batch=512" in file


def copy_of_twin(out: Path) -> Path:
    """The twin and its cache, copied to `out`; returns the study."""
    shutil.copytree(twin().parent, out)
    return out / STUDY


def until(condition: Callable[[], Any], what: str, seconds: float = LONG) -> Any:
    """What the condition gives once it gives something."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, f"{what} did not come about in {seconds:g} s"
        time.sleep(0.002)
    return result


def alive(is_wanted: Callable[[Path], bool]) -> list[int]:
    """The processes whose folder in /proc is one that is wanted."""
    result = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            if is_wanted(folder):
                result.append(int(folder.name))
    return result


def words_of(process: Path) -> list[str]:
    return (process / "cmdline").read_bytes().decode(errors="replace").split("\0")


def stat_of(process: Path) -> list[str]:
    """State, parent, group, session, ... of a process."""
    return (process / "stat").read_text().rsplit(")", 1)[1].split()


def children(parent: int, word: str) -> list[int]:
    """The processes that one has started and that have a word in their command line."""
    return alive(lambda process: stat_of(process)[1] == str(parent) and word in words_of(process))


def in_session(session: int) -> list[int]:
    """The processes of a session."""
    return alive(lambda x: stat_of(x)[3] == str(session) and stat_of(x)[0] != "Z")


def stop(rng: Random, folder: Path) -> int:
    """SIGTERM, Ctrl-C, twice Ctrl-C, from the plan to the report: a clean end within 10 s, exit
    143 or 130, how to go on; the same bytes then.
    """
    out, study = folder / "out", folder / "out" / STUDY
    number = rng.randint(1, 2 * EPOCHS)
    moments: dict[str, Callable[[], Any]] = {
        "start": lambda: listens(command.pid),
        "data": lambda: list(out.glob("cache/*")),
        "plan": (study / "study.json").exists,
        "epochs": lambda: len(list(study.glob("*/*/epochs/[0-9]*"))) >= number,
        "report": lambda: children(command.pid, "reports"),
    }
    moment = rng.choice(list(moments))
    if moment == "report":
        copy_of_twin(out)
    command = begin(out, "--jobs", "2", *PAIR, report=moment == "report")
    until(lambda: moments[moment]() or not in_session(command.pid), moment)
    time.sleep(rng.uniform(0, 0.3))
    if not strike(rng, command.pid, lambda: command.wait(60)):
        return 0
    check_words(command.out, command.err)
    until(lambda: not in_session(command.pid), "the end of its workers", 5)
    finish(out, "--jobs", "2", *PAIR)
    check(study, in_pair)
    return 1


def stop_imports(rng: Random, folder: Path) -> int:
    """SIGTERM, Ctrl-C, twice Ctrl-C during imports: the same clean end."""
    process = conftest.start_ablation(folder / "out", WANDB_MODE="disabled")
    until(lambda: listens(process.pid), "a handler")
    time.sleep(rng.uniform(0, 2))
    assert strike(rng, process.pid, lambda: process.wait(60))
    check_words(*process.communicate())
    return 1


def strike(rng: Random, group: int, wait: Callable[[], int]) -> bool:
    """Send SIGTERM, or Ctrl-C once or twice; whether that was before the command's own end."""
    number, times = rng.choice([(signal.SIGTERM, 1), (signal.SIGINT, 1), (signal.SIGINT, 2)])
    began = time.monotonic()
    for _ in range(times):
        with suppress(ProcessLookupError):
            (os.kill if number == signal.SIGTERM else os.killpg)(group, number)
        time.sleep(rng.uniform(0, 0.2) if times > 1 else 0)
    code = wait()
    assert time.monotonic() - began < 10
    if code == 0:
        return False
    assert code == 128 + number, f"{code} after {number.name}"
    return True


def check_words(out: str, err: str) -> None:
    assert out.endswith(signals.STOPPED), out
    assert out.count(signals.STOPPED) == 1
    assert err == ""
    assert "Traceback" not in out


def listens(pid: int) -> bool:
    """Whether a process has a handler for SIGTERM."""
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = re.findall(r"SigCgt:\s*([0-9a-f]+)", status)
    return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)


def lose_worker(rng: Random, folder: Path) -> int:
    """a worker killed: the other 7 of 8 finish, the run is named, started again it goes on."""
    out = folder / "out"
    name = rng.choice(sorted(str(run.relative_to(twin())) for run in twin().glob("*/seed=*")))
    command = begin(out, "--jobs", "2")
    worker = until(lambda: owner(out / STUDY / name), "a worker")
    time.sleep(rng.uniform(0, 0.3))
    kill_all([worker], signal.SIGKILL)
    code = command.wait()
    if code == 0:
        check(out / STUDY)  # it had ended before
        return 0

    # The others are whole, and the one is named.
    assert code == 1, command.out + command.err
    (line,) = re.findall(r"^failed: .*$", command.out, re.MULTILINE)
    assert line.startswith(f"failed: {name.replace('/', ' ')}: killed by SIGKILL"), line
    assert "7 of 8 runs are done" in command.out
    check(out / STUDY, lambda file: not file.startswith(name))
    finish(out)
    check(out / STUDY)
    return 1


def owner(folder: Path) -> int | None:
    """The process that owns a folder, by its own word."""
    with suppress(OSError):
        if result := re.match(r"process (\d+) on ", (folder / "lock").read_text()):
            return int(result[1])
    return None


def kill(rng: Random, folder: Path) -> int:
    """SIGKILL at random moments, then other JOBS: equal hashes."""
    out, kills = folder / "out", rng.randint(1, 2)
    for _ in range(kills):
        command = begin(out, "--jobs", str(rng.randint(1, 5)), *PAIR)
        until(lambda: list(out.glob("*/*/*/epochs/[0-9]*")), "an epoch")
        time.sleep(rng.uniform(0, 0.3))
        os.kill(command.pid, signal.SIGKILL)
        command.wait()
        until(lambda pid=command.pid: not in_session(pid), "the end of its workers", 10)
    finish(out, "--jobs", str(rng.randint(1, 5)), *PAIR)
    check(out / STUDY, in_pair)
    return kills


def damage(rng: Random, folder: Path) -> int:
    """bit flips, truncation, missing files: found, named or made again; the same bytes then."""
    study = copy_of_twin(folder / "out")
    names = (rundir.RECORD, rundir.TIMING, rundir.SAMPLES, rundir.SUMS, "run.json")
    path = rng.choice(sorted(x for x in study.glob("*/seed=*/**/*") if x.name in names))
    content, kind = bytearray(path.read_bytes()), rng.choice(["flip", "cut", "remove"])
    place = rng.randrange(len(content))
    if kind == "remove":
        path.unlink()
    else:
        content[place] ^= 1 << rng.randrange(8)
        path.write_bytes(content if kind == "flip" else content[:place])
    if path.name == "run.json":
        command = begin(study.parent)
        assert command.wait() == 2
        assert f"{path}: " in command.err
        shutil.rmtree(path.parent)
    finish(study.parent)
    check(study)
    return 1


OTHERS = [  # key of the fingerprint or the config, words, environment
    ("threads", ["--threads", "2"], {}),
    ("precision", ["precision=bf16"], {}),
    ("instructions", [], {"ATEN_CPU_CAPABILITY": "default"}),
    ("arithmetic", [], {"ONEDNN_MAX_CPU_ISA": "SSE41"}),
    ("arithmetic", [], {"OPENBLAS_CORETYPE": "Nehalem"}),
]


def change_machine(rng: Random, folder: Path) -> int:
    """other threads, instruction set, precision, libraries: refused by name, nothing changed; or
    the same bytes.
    """
    key, words, environ = rng.choice(OTHERS)
    study = copy_of_twin(folder / "out")
    run = rng.choice(sorted(study.glob("*/seed=*")))
    for epoch in range(rng.randint(2, EPOCHS), EPOCHS + 1):
        shutil.rmtree(rundir.epoch_folder(run, epoch))
    before = contents(study)

    # What the environment says counts at the start of a process.
    words = ["--epochs", str(EPOCHS), *GRID, *words]
    given = QUIET | ONE_THREAD | environ
    process = conftest.start_ablation(study.parent, *words, data=shared() / "dots.zip", **given)
    out, err = process.communicate(timeout=LONG)
    if process.returncode == 0 and key == "arithmetic":
        check(study)  # this machine computes alike, whatever it is told
        return 1
    assert process.returncode == 2, out + err
    assert len(err.splitlines()) == 1
    assert re.search(rf"\b{key}=\S+ is stored, {key}=\S+ is asked for", err), err
    assert contents(study) == before
    return 1


def race(rng: Random, folder: Path) -> int:
    """two or three starts on one OUT at once: one owner, whom the others name; no epoch made
    twice.
    """
    out = folder / "out"
    words = ["--jobs", rng.choice("12"), *PAIR]
    commands = []
    for _ in range(rng.choice([2, 2, 3])):
        commands.append(begin(out, *words))
        time.sleep(rng.uniform(0, 0.05))
    codes = [command.wait() for command in commands]
    assert set(codes) <= {0, 2}, [c.out + c.err for c in commands]
    assert 0 in codes

    # Who was refused names a winner.
    winners = "|".join(str(c.pid) for c, code in zip(commands, codes, strict=True) if code == 0)
    refusal = rf"[^\n]* is in use by process ({winners}) on {socket.gethostname()}\n"
    for command, code in zip(commands, codes, strict=True):
        assert re.fullmatch(refusal if code else "", command.err), command.err

    # Every epoch was made once.
    made = re.findall(r"^(\S+ seed=\d+) +epoch (\d+)/", "".join(c.out for c in commands), re.M)
    assert len(made) == len(set(made)) == 2 * EPOCHS
    check(out / STUDY, in_pair)
    return 1


def break_wandb(rng: Random, folder: Path) -> int:
    """W&B killed, stopped: training untouched, at most one warning; replayed, its history is the
    records.
    """
    out, study = folder / "out", folder / "out" / STUDY
    environ = {"WANDB_MODE": "offline", "HOME": str(folder)}
    words = ["--jobs", "2", *PAIR]
    kinds = [(signal.SIGKILL, "wandb-core"), (signal.SIGSTOP, "wandb-core")]
    number, kind = rng.choice([*kinds, (signal.SIGKILL, "experiments.tracking")])
    command = begin(out, *words, environ=environ, patience=5)
    struck = until(lambda: victims(kind, study), "W&B")
    time.sleep(rng.uniform(0, 0.5))
    kill_all(struck, number)
    code = command.wait()

    # Training does not notice; one line does.
    assert code == 0, command.out + command.err
    check(study, in_pair)
    lines = command.err.splitlines()
    assert len(lines) <= 1
    assert all(re.match(r"W&B: [12] of 2 runs went on without a mirror", line) for line in lines)
    kill_all(struck, signal.SIGKILL)

    # Started again, W&B gets what it lacks.
    finish(out, *words, environ=environ)
    histories = [conftest.history(study, run) for run in study.glob("wandb/*run-*")]
    wanted = [conftest.rows_of_records(run) for run in study.glob("*/seed=*")]
    assert len(histories) == len(wanted) == 2
    assert all(rows in wanted for rows in histories)
    assert histories[0] != histories[1]
    return 1


def victims(kind: str, study: Path) -> list[int]:
    """W&B's services, or the processes that mirror, of a study."""
    return alive(
        lambda process: (
            any(word.endswith(kind) for word in words_of(process))
            and f"WANDB_DIR={study}".encode() in (process / "environ").read_bytes().split(b"\0")
        )
    )


def kill_all(processes: list[int], number: int) -> None:
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


LONG_CASES = {stop: 20, stop_imports: 4, lose_worker: 6, kill: 12}
LONG_CASES |= {damage: 12, change_machine: 12, race: 24, break_wandb: 8}
ROWS = [Row(trial, fast=1, long=cases) for trial, cases in LONG_CASES.items()]
