"""Faults of the disk, and of whatever ends a process: real runs, tiny ones, in faults.worker.

Every trial compares with an undisturbed twin, byte for byte: records, samples, states, generators,
sums, descriptions, tables. Only timing.json differs between two runs. shim.c sees every call.
"""

import atexit
import dataclasses
import errno
import functools
import itertools
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

from dcgan import rundir
from dcgan.config import Config
from faults import Row, request, serve
from reports import claims, records, tables
from reports.analysis import analyse

HERE = Path(__file__).parent
ARMS = list(itertools.product(["none", "batch"], ["conv", "avgpool"], [20, 40]))
FACTORS = {"norm": ["none", "batch"], "head": ["conv", "avgpool"], "batch": [20, 40]}
SHORT = 3  # epochs of a run: a state is pruned at the last one
STEP = 13  # calls from one that is hit to the next one
OFF, RECORD, FAIL, FULL, KILL, TEAR = range(6)  # modes of shim.c
CHANGES, ALL = "owsnmudt", "owsnmudtrg"  # kinds of calls
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)
TRIALS = {name: itertools.count() for name in ("kill", "fail")}  # made so far
EXACT = (rundir.RECORD, rundir.SAMPLES, rundir.GENERATOR)


def unavailable() -> str:
    """Why these trials cannot be made here; empty where they can."""
    if sys.platform != "linux":
        return "LD_PRELOAD and /proc are Linux's"
    return "" if shutil.which("cc") else "there is no C compiler"


# --- Real runs ------------------------------------------------------------------------------------


@functools.cache
def shared() -> Path:
    """A folder of this process for what its trials share: the shim, the cache, the twins."""
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def shim() -> Path:
    """shim.c, compiled."""
    path = shared() / "shim.so"
    command = ["cc", "-O1", "-shared", "-fPIC", "-o", str(path), str(HERE / "shim.c"), "-ldl"]
    subprocess.run(command, check=True)
    return path


@functools.cache
def worker() -> subprocess.Popen:
    """faults.worker, which ends with this process."""
    return serve("faults.worker", {**os.environ, "LD_PRELOAD": str(shim())}, cwd=shared())


@functools.cache
def images() -> str:
    """The SHA-256 of the images of all trials, which are put into the shared cache."""
    return request(worker(), do="images", cache=str(shared() / "cache"))["result"]


def config(arm: tuple[str, str, int], epochs: int) -> Config:
    """The smallest run of an arm."""
    sizes = {"images": 40, "resolution": 16, "width": 1, "latent_size": 4, "epochs": epochs}
    scores = {"score_images": 10, "reference_images": 10, "inception": "never"}
    arm_fields = dict(zip(FACTORS, arm, strict=True))
    return Config(data="noise", data_sha256=images(), **arm_fields, **sizes, **scores)


@dataclasses.dataclass(frozen=True)
class Grid:
    """A study of some arms in one folder."""

    out: Path
    arms: tuple[tuple[str, str, int], ...]
    epochs: int = SHORT

    @property
    def study(self) -> Path:
        return self.out / "ablation-smoke-noise"

    @property
    def cache(self) -> Path:
        """The trial's own where it has one, or the one that all share."""
        return self.out / "cache" if (self.out / "cache").exists() else shared() / "cache"

    @property
    def runs(self) -> list[Path]:
        return [
            self.study / f"norm={norm},head={head},batch={batch}" / "seed=0"
            for norm, head, batch in self.arms
        ]

    def info(self) -> dict[str, Any]:
        """study.json, as `make ablation` writes it."""
        settings = config(self.arms[0], self.epochs).model_dump()
        data = {"name": "noise", "kind": "zip", "sha256": images(), "images": 40, "resolution": 16}
        return {
            "study": "ablation",
            "scale": "smoke",
            "data": data,
            "factors": FACTORS,
            "seeds": [0],
            "settings": {k: v for k, v in settings.items() if k not in (*FACTORS, "seed")},
            "commit": "unknown",
            "hardware": {"device": "cpu", "processor": "", "cores": 1, "jobs": 1, "threads": 1},
            "versions": {},
        }

    def make(
        self, how: int = OFF, number: int = 0, code: int = 0, kinds: str = CHANGES, **more: Any
    ) -> dict[str, Any]:
        """Start the study as it stands, with a fault at one call; the worker's answer."""
        jobs = [
            {
                "config": config(arm, self.epochs).model_dump(),
                "paths": [str(path) for path in (self.study, run, self.cache)],
            }
            for arm, run in zip(self.arms, self.runs, strict=True)
        ]
        watch = [str(self.out), how, number, code, kinds, more.pop("trace", None)]
        return request(worker(), do="run", jobs=jobs, info=self.info(), watch=watch, **more)

    def finish(self) -> None:
        """Start it once more, to its end, without faults."""
        answer = self.make()
        assert answer["status"] == 0, answer
        assert answer["result"]["error"] is None, answer


@functools.cache
def twin(arms: tuple[tuple[str, str, int], ...], epochs: int) -> Grid:
    """The undisturbed study, which has kept every state."""
    grid = Grid(shared() / f"twin-{len(arms)}-{abs(hash(arms))}-{epochs}", arms, epochs)
    grid.out.mkdir()
    answer = grid.make(states=epochs)
    assert answer["result"]["error"] is None, answer
    return grid


def check(grid: Grid, finished: bool = True) -> int:
    """Whether all that is committed is the twin's; returns how many epochs are."""
    other, total = twin(grid.arms, grid.epochs), 0
    for run, same in zip(grid.runs, other.runs, strict=True):
        epochs = rundir.committed(run)
        assert not finished or len(epochs) == grid.epochs, f"{run}: {len(epochs)} epochs"
        total += len(epochs)
        for epoch in epochs:
            check_epoch(run, same, epoch)
        for epoch in epochs[-rundir.STATES_KEPT :]:
            assert (rundir.epoch_folder(run, epoch) / rundir.STATE).exists(), f"{run}: {epoch}"
        if epochs:
            assert (run / "run.json").read_bytes() == (same / "run.json").read_bytes(), run
        if finished:
            assert sorted(os.listdir(run)) == ["epochs", "lock", "run.json"], run
            assert len(os.listdir(run / "epochs")) == grid.epochs, run
    if finished:
        described = [each.study / "study.json" for each in (grid, other)]
        assert described[0].read_bytes() == described[1].read_bytes()
    return total


def check_epoch(run: Path, same: Path, epoch: int) -> None:
    """One committed epoch against the twin's, of either of which a file may be pruned."""
    folder, other = rundir.epoch_folder(run, epoch), rundir.epoch_folder(same, epoch)
    names, others = ({path.name for path in each.iterdir()} for each in (folder, other))
    assert names ^ others <= {*rundir.PRUNABLE}, folder
    for name in names & others & {*EXACT, rundir.STATE}:
        assert rundir.read(run, epoch, name) == (other / name).read_bytes(), folder / name
    sums = [{*(each / rundir.SUMS).read_text().splitlines()} for each in (folder, other)]
    assert {line.split("  ")[1] for line in sums[0] ^ sums[1]} <= {rundir.TIMING}, folder


def write_tables(study: Path) -> list[str]:
    """Every table of a study but for its clocks, which are set to one."""
    loaded = records.load(study)
    frame = loaded.frame.assign(**dict.fromkeys(records.TIMES, 1.0))
    study = analyse(dataclasses.replace(loaded, frame=frame))
    shown = tables.report(study, claims.ledger_table(study, claims.judge(study)))
    return [tables.to_markdown(table) for table in shown]


# --- SIGKILL, full disks, failing calls -----------------------------------------------------------


def kill_at_random(rng: Random, folder: Path) -> int:
    """SIGKILL at random moments: nothing lost, nothing twice; every record, state and table is the
    undisturbed twin's.
    """
    grid = Grid(folder, tuple(rng.sample(ARMS, 2)))
    twin(grid.arms, grid.epochs)
    kills, before, patience = 0, 0, 0.2
    while (answer := grid.make(kill_after=rng.uniform(0, patience)))["status"]:
        kills, patience = kills + 1, patience * 1.1
        after = check(grid, finished=False)
        assert after >= before, "a committed epoch is gone"
        before = after
    assert answer["result"]["error"] is None, answer
    check(grid)
    written = write_tables(grid.study)
    assert len(written) > 2
    assert written == write_tables(twin(grid.arms, grid.epochs).study)
    return kills


def at_each_call(folder: Path, arm: tuple, numbers: range, start: Callable) -> int:
    """Start a run with a fault at one of its calls, then the same at a later one, and so on.

    `start(grid, number)` returns whether the fault came. Each start goes on from what those before
    it left; a finished run is followed by a new one, until a new one ends before its fault comes.
    """
    cases, before = 0, 0
    grid = Grid(folder / "0", (arm,))
    grid.out.mkdir()
    for number in numbers:
        while not start(grid, number):
            check(grid)
            if not before:
                return cases
            before = 0
            shutil.rmtree(grid.study)
        after = check(grid, finished=False)
        assert after >= before, "a committed epoch is gone"
        before, cases = after, cases + 1
    raise AssertionError("a run without an end")


def kill_at_each_call(rng: Random, folder: Path) -> int:
    """SIGKILL at every change to the disk: nothing lost, nothing twice, with half of a write
    done as well.

    A run is killed at every 13th change to the disk, the next trial at those after them. Some are
    killed with half of the bytes written.
    """

    def start(grid: Grid, number: int) -> bool:
        answer = grid.make(rng.choice([KILL, TEAR]), number)
        assert answer["status"] in (0, -9), answer
        return answer["status"] == -9

    first = next(TRIALS["kill"]) % STEP + 1
    return at_each_call(folder, rng.choice(ARMS), range(first, 10_000, STEP), start)


def fail_each_call(rng: Random, folder: Path) -> int:
    """disk full, I/O error, failing fsync at every call: what was committed stays; one line; goes
    on afterwards.

    Every 13th call of a run fails, the next trial those after them; or all later ones, too.
    Whatever fails is one OSError that names a file, and what was committed stays. Some errors are
    no harm: a cache that cannot be read is made again.
    """
    turn = next(TRIALS["fail"])
    kinds, first = [CHANGES, ALL][turn % 2], turn // 2 % STEP + 1

    def start(grid: Grid, number: int) -> bool:
        if not grid.study.exists():
            shutil.rmtree(grid.out)
            shutil.copytree(cache_without_features(), grid.out / "cache")
        answer = grid.make(rng.choice([FAIL, FULL]), number, rng.choice(ERRORS), kinds)
        assert answer["status"] == 0, answer
        if error := answer["result"]["error"]:
            names, text = error
            assert "OSError" in names or names[0] == "BadData", answer
            assert str(grid.out) in text, answer
            assert "\n" not in text, answer
        return answer["result"]["calls"] >= number

    return at_each_call(folder, rng.choice(ARMS), range(first, 10_000, STEP), start)


@functools.cache
def cache_without_features() -> Path:
    """A cache as it is when only the images are in it."""
    folder, _ = shared() / "images", images()
    shutil.copytree(shared() / "cache", folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


# --- What a power cut could take ------------------------------------------------------------------


def read_trace(path: Path) -> Iterator[tuple[str, str, bytes, int]]:
    """The calls of a recording: their kind, their path, data or another path, and a number."""
    data, head, start = path.read_bytes(), struct.Struct("<cIIq"), 0
    while start < len(data):
        kind, one, two, number = head.unpack_from(data, start)
        start += head.size + one + two
        word = data[start - two - one : start - two].decode()
        yield kind.decode(), word, data[start - two : start], number


def check_synced(calls: Iterator[tuple[str, str, bytes, int]]) -> int:
    """That what is promised was synced first, by fsync of files and of folders.

    What is renamed is on the disk, with all that is in it. When an epoch is said to be committed,
    so are its files, its name and those of the folders above it. Returns how many were committed.
    """
    unsynced: set[str] = set()  # files whose data, folders whose entries a power cut could take
    committed = 0
    for kind, path, more, _ in calls:
        if kind == "s":
            unsynced.discard(path)
        elif kind in "wt":
            unsynced.add(path)
        elif kind in "omn":
            unsynced.add(os.path.dirname(path))
        if kind == "n":
            assert not [x for x in unsynced if Path(x).is_relative_to(path)], f"{path} is renamed"
            assert os.path.dirname(more.decode()) == os.path.dirname(path), "another folder"
        if kind == "!":
            run, epoch = path.split("\t")
            folder = rundir.epoch_folder(Path(run), int(epoch))
            lost = {str(above) for above in folder.parents} & unsynced
            lost |= {x for x in unsynced if Path(x).is_relative_to(folder)}
            assert not lost, f"{folder}: {lost} is not synced"
            committed += 1
    return committed


# --- Damage ---------------------------------------------------------------------------------------


def is_whole(run: Path, epoch: int, name: str) -> bool:
    try:
        return bool(rundir.read(run, epoch, name))
    except rundir.Damaged:
        return False


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    path.write_bytes(data)


def harm(rng: Random, path: Path) -> None:
    """A flipped bit, a cut, a hole of zeros, another file's content, or nothing at all."""
    data = path.read_bytes()
    way, at = (
        rng.choice(["flip", "flip", "cut", "zeros", "swap", "remove"]),
        rng.randrange(len(data)),
    )
    if way == "flip":
        flip(path, 8 * at + rng.randrange(8))
    elif way == "cut":
        path.write_bytes(data[: rng.choice([0, len(data) - 1, at])])
    elif way == "zeros":
        path.write_bytes(data[:at] + bytes(min(512, len(data) - at)) + data[at + 512 :])
    elif way == "swap":
        others = [p for p in path.parents[1].glob(f"*/{path.name}") if p != path]
        path.write_bytes(rng.choice(others).read_bytes() if others else data[::-1])
    else:
        path.unlink()


def damage(rng: Random, folder: Path) -> int:
    """bit flips, truncation, missing files: found before anything is parsed; falls back; the same
    bytes again.
    """
    grid = Grid(folder / "harmed", (rng.choice(ARMS),))
    copy_epochs(twin(grid.arms, grid.epochs), grid, SHORT - 1)
    whole = [path for path in grid.study.rglob("*") if path.is_file() and path.name != "lock"]
    cases, harmed_files = 25, 0
    for case in range(cases):
        path = rng.choice(sorted(whole))
        content = path.read_bytes()
        harm(rng, path)
        harmed = path.read_bytes() if path.exists() else None
        if harmed == content:
            continue
        harmed_files += 1
        parsed = mock.Mock(side_effect=json.loads)
        with mock.patch.object(rundir.json, "loads", parsed):
            check_noticed(grid, path)
        assert all(call.args[0] != harmed for call in parsed.call_args_list), f"{path} was parsed"
        if case == cases - 1:
            heal(grid, path, harmed)
        elif path.parent.exists():
            path.write_bytes(content)
    return harmed_files


def check_noticed(grid: Grid, path: Path) -> None:
    """That the harm of one file is noticed by whoever needs it, and all else is the twin's."""
    run, same = grid.runs[0], twin(grid.arms, grid.epochs).runs[0]
    if path.name == "run.json":
        (said,) = rundir.compare(run, {"config": config(grid.arms[0], grid.epochs).model_dump()})
        assert "run.json is " in said
    if path.name in ("run.json", "study.json"):
        try:
            rundir.unseal(path)
        except rundir.Damaged:
            return
        raise AssertionError(f"{path} was read")

    # A record counts up to the first that is harmed; harm to a sum may be harm to a state's alone.
    epoch, left = int(path.parent.name), len(rundir.committed(run))
    if path.name == rundir.SUMS:
        assert left in (epoch - 1, SHORT - 1), path
    else:
        assert left == (SHORT - 1 if path.name in rundir.PRUNABLE else epoch - 1), path
    harmed = [
        (number, name)
        for number in range(1, SHORT)
        for name in (*EXACT, rundir.TIMING, rundir.STATE)
        if not is_whole(run, number, name)
    ]
    assert {number for number, _ in harmed} == {epoch}, path
    assert path.name == rundir.SUMS or harmed == [(epoch, path.name)], path

    # The newest whole state is taken, just as it was.
    states = [number for number in range(1, left + 1) if (number, rundir.STATE) not in harmed]
    folder = rundir.epoch_folder(same, states[-1] if states else 1)
    state = (states[-1], (folder / rundir.STATE).read_bytes()) if states else None
    assert rundir.last_state(run) == state, path


def heal(grid: Grid, path: Path, harmed: bytes | None) -> None:
    """The same command makes the run whole, or does once the file that it names is removed."""
    error = grid.make()["result"]["error"]
    if path.name in ("run.json", "study.json"):
        written = path.name == "study.json" and harmed is None  # by the command
        assert written or str(path.parent) in error[1], error
        shutil.rmtree(path.parent) if path.name == "run.json" else path.unlink(missing_ok=True)
        grid.finish()
    elif path.name == rundir.STATE or not is_generators(path):
        check(grid)  # else nothing needs it any more, and nothing makes it again


def is_generators(path: Path) -> bool:
    """Whether only a generator, or only the sum of one, or of a state, is harmed."""
    return path.name == rundir.GENERATOR or (
        path.name == rundir.SUMS and len(rundir.committed(path.parents[2])) == SHORT
    )


def copy_epochs(source: Grid, grid: Grid, epochs: int) -> None:
    """A run as it was after some epochs, with all of their states."""
    grid.study.mkdir(parents=True)
    shutil.copy(source.study / "study.json", grid.study)
    for run, other in zip(grid.runs, source.runs, strict=True):
        for epoch in range(1, epochs + 1):
            folder = rundir.epoch_folder(run, epoch)
            shutil.copytree(rundir.epoch_folder(other, epoch), folder)
        shutil.copy(other / "run.json", run)


ROWS = [
    Row(kill_at_random, fast=6, long=200),
    Row(kill_at_each_call, fast=15, long=200),
    Row(fail_each_call, fast=10, long=500),
    Row(damage, fast=100, long=1_000),
]
