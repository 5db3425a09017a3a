"""Faults of the disk, and of whatever ends a process: real runs, tiny ones, in faults.worker.

    PYTHONPATH=tests python -m faults.disk      what the safety of commits costs on this machine

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
from reports import records, tables

HERE = Path(__file__).parent
ARMS = list(itertools.product(["none", "batch"], ["conv", "avgpool"], [20, 40]))
FACTORS = {"norm": ["none", "batch"], "head": ["conv", "avgpool"], "batch": [20, 40]}
SHORT = 3  # epochs of a run: a state is pruned at the last one
STEP = 7  # calls from one that is hit to the next one
OFF, RECORD, FAIL, FULL, KILL, TEAR = range(6)  # modes of shim.c
CHANGES, ALL = "owsnmudt", "owsnmudtrg"  # kinds of calls
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)
KILLED, FAILED, LOST = itertools.count(), itertools.count(), itertools.count()  # trials
EXACT = (rundir.RECORD, rundir.SAMPLES, rundir.GENERATOR)


def unavailable() -> str:
    """Why these trials cannot be made here; empty where they can."""
    if sys.platform != "linux":
        return "LD_PRELOAD and /proc are Linux's"
    return "" if shutil.which("cc") else "there is no C compiler"


# --- Real runs ------------------------------------------------------------------------------------


@functools.cache
def shelf() -> Path:
    """A folder of this process for what its trials share: the shim, the cache, the twins."""
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def shim() -> Path:
    """shim.c, compiled."""
    path = shelf() / "shim.so"
    command = ["cc", "-O1", "-shared", "-fPIC", "-o", str(path), str(HERE / "shim.c"), "-ldl"]
    subprocess.run(command, check=True)
    return path


@functools.cache
def worker() -> subprocess.Popen:
    """faults.worker, which ends with this process."""
    return serve("faults.worker", {**os.environ, "LD_PRELOAD": str(shim())}, cwd=shelf())


def ask(**content: Any) -> dict[str, Any]:
    """One request to the worker; see there."""
    return request(worker(), **content)


@functools.cache
def images() -> str:
    """The SHA-256 of the images of all trials, which are put into the shared cache."""
    return ask(do="images", cache=str(shelf() / "cache"))["result"]


def config(arm: tuple[str, str, int], epochs: int) -> Config:
    norm, head, batch = arm
    return Config(
        norm=norm,
        head=head,
        batch=batch,
        data="noise",
        data_sha256=images(),
        images=40,
        resolution=16,
        width=1,
        latent_size=4,
        epochs=epochs,
        score_images=10,
        reference_images=10,
        inception="never",
    )


@dataclasses.dataclass(frozen=True)
class Grid:
    """A study of some arms in one folder."""

    out: Path
    arms: tuple[tuple[str, str, int], ...]
    epochs: int

    @property
    def study(self) -> Path:
        return self.out / "ablation-smoke-noise"

    @property
    def cache(self) -> Path:
        """The trial's own where it has one, or the one that all share."""
        return self.out / "cache" if (self.out / "cache").exists() else shelf() / "cache"

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

    def make(self, **more: Any) -> dict[str, Any]:
        """Start the study as it stands; see `ask`."""
        jobs = [
            {
                "config": config(arm, self.epochs).model_dump(),
                "paths": [str(path) for path in (self.study, run, self.cache)],
            }
            for arm, run in zip(self.arms, self.runs, strict=True)
        ]
        watch = {"watch": [str(self.out), OFF, 0, 0, CHANGES, None]}
        return ask(do="run", jobs=jobs, info=self.info(), **watch | more)

    def finish(self) -> None:
        """Start it once more, to its end, without faults."""
        answer = self.make()
        assert answer["status"] == 0, answer
        assert answer["result"]["error"] is None, answer


@functools.cache
def twin(arms: tuple[tuple[str, str, int], ...], epochs: int) -> Grid:
    """The undisturbed study, which has kept every state."""
    grid = Grid(shelf() / f"twin-{len(arms)}-{abs(hash(arms))}-{epochs}", arms, epochs)
    grid.out.mkdir()
    answer = grid.make(states=epochs)
    assert answer["result"]["error"] is None, answer
    return grid


def check(grid: Grid, finished: bool = True) -> int:
    """Whether all that is committed is the twin's; returns how many epochs are."""
    other = twin(grid.arms, grid.epochs)
    total = 0
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
        names = ("study.json",)
        assert all((grid.study / n).read_bytes() == (other.study / n).read_bytes() for n in names)
    return total


def check_epoch(run: Path, same: Path, epoch: int) -> None:
    """One committed epoch against the twin's, of either of which a file may be pruned."""
    folder, other = rundir.epoch_folder(run, epoch), rundir.epoch_folder(same, epoch)
    names = {path.name for path in folder.iterdir()}
    there = {path.name for path in other.iterdir()}
    assert names ^ there <= {*rundir.PRUNABLE}, folder
    for name in names & there & {*EXACT, rundir.STATE}:
        assert rundir.read(run, epoch, name) == (other / name).read_bytes(), folder / name
    sums, others = ((f / rundir.SUMS).read_text().splitlines() for f in (folder, other))
    differ = {line.split("  ")[1] for line in {*sums} ^ {*others}}
    assert differ <= {rundir.TIMING}, folder


def write_tables(study: Path) -> list[str]:
    """Every table of a study but for its clocks, which are set to one."""
    loaded = records.load(study)
    frame = loaded.frame.assign(**dict.fromkeys(records.TIMES, 1.0))
    sheets = tables.sheets(dataclasses.replace(loaded, frame=frame))
    return [tables.to_markdown(sheet) for sheet in sheets]


# --- SIGKILL, full disks, failing calls -----------------------------------------------------------


def kill_at_random(rng: Random, folder: Path) -> int:
    """Kill a grid of two runs at random moments until it gets to its end."""
    grid = Grid(folder, tuple(rng.sample(ARMS, 2)), SHORT)
    twin(grid.arms, grid.epochs)
    kills, before, patience = 0, 0, 0.2
    while True:
        answer = grid.make(kill_after=rng.uniform(0, patience))
        after = check(grid, finished=False)
        assert after >= before, "a committed epoch is gone"
        before = after
        if answer["status"] == 0:
            assert answer["result"]["error"] is None, answer
            break
        kills += 1
        patience *= 1.1
    check(grid)
    written = write_tables(grid.study)
    assert written == write_tables(twin(grid.arms, grid.epochs).study)
    assert len(written) > 2
    return kills


def at_each_call(folder: Path, arm: tuple, numbers: range, start: Callable) -> int:
    """Start a run with a fault at one of its calls, then the same at a later one, and so on.

    `start(grid, number)` returns whether the fault came. Each start goes on from what those before
    it left; a finished run is followed by a new one, until a new one ends before its fault comes.
    """
    cases, before = 0, 0
    grid = Grid(folder / "0", (arm,), SHORT)
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
    """Kill a run at every seventh change to the disk, the next trial at those after them.

    Some are killed with half of the bytes written.
    """

    def start(grid: Grid, number: int) -> bool:
        how = rng.choice([KILL, TEAR])
        answer = grid.make(watch=[str(grid.out), how, number, 0, CHANGES, None])
        assert answer["status"] in (0, -9), answer
        return answer["status"] == -9

    first = next(KILLED) % STEP + 1
    return at_each_call(folder, rng.choice(ARMS), range(first, 10_000, STEP), start)


def fail_each_call(rng: Random, folder: Path) -> int:
    """Fail every seventh call of a run, the next trial those after them; or all later ones, too.

    Whatever fails is one OSError that names a file, and what was committed stays. Some errors are
    no harm: a cache that cannot be read is made again.
    """
    turn = next(FAILED)
    kinds, first = [CHANGES, ALL][turn % 2], turn // 2 % STEP + 1

    def start(grid: Grid, number: int) -> bool:
        if not grid.study.exists():
            shutil.rmtree(grid.out)
            shutil.copytree(cache_without_features(), grid.out / "cache")
        how, code = rng.choice([FAIL, FULL]), rng.choice(ERRORS)
        answer = grid.make(watch=[str(grid.out), how, number, code, kinds, None])
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
    folder, _ = shelf() / "images", images()
    shutil.copytree(shelf() / "cache", folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


# --- Power loss -----------------------------------------------------------------------------------


@dataclasses.dataclass
class File:
    data: bytes = b""
    durable: bytes = b""


@dataclasses.dataclass
class Folder:
    """The entries as the processes see them, as a sync left them, and what has changed since."""

    entries: dict[str, Any] = dataclasses.field(default_factory=dict)
    durable: dict[str, Any] = dataclasses.field(default_factory=dict)
    pending: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def change(self, **names: Any) -> None:
        """Set or remove (None) entries, all at once."""
        _apply(self.entries, names)
        self.pending.append(names)


def _apply(entries: dict[str, Any], names: dict[str, Any]) -> None:
    for name, node in names.items():
        entries.pop(name, None)
        if node is not None:
            entries[name] = node


class Disk:
    """A disk that keeps what was synced, and loses whatever else it likes when the power goes."""

    def __init__(self, folder: Path) -> None:
        self.place, self.root = folder, _stored(folder)

    def find(self, path: str) -> Any:
        node = self.root
        for part in Path(path).relative_to(self.place).parts:
            node = node.entries[part]
        return node

    def play(self, kind: str, path: str, more: bytes, number: int) -> None:
        """One recorded call."""
        if kind == "!":
            return
        parent, name = (
            (self.find(os.path.dirname(path)), os.path.basename(path))
            if (Path(path) != self.place)
            else (None, "")
        )
        if kind == "m":
            parent.change(**{name: Folder()})
        elif kind == "o":
            if name not in parent.entries:
                parent.change(**{name: File()})
            elif number:
                parent.entries[name].data = b""
        elif kind == "w":
            file = parent.entries[name]
            file.data = (
                file.data[:number].ljust(number, b"\0") + more + file.data[number + len(more) :]
            )
        elif kind == "t":
            parent.entries[name].data = parent.entries[name].data[:number]
        elif kind == "s":
            node = self.find(path)
            if isinstance(node, File):
                node.durable = node.data
            else:
                node.durable, node.pending = dict(node.entries), []
        elif kind == "n":
            target = self.find(os.path.dirname(more.decode()))
            assert target is parent, "a rename into another folder"
            node = parent.entries[name]
            parent.change(**{name: None, os.path.basename(more.decode()): node})
        else:
            assert kind in "ud", kind
            parent.change(**{name: None})

    def tree(self, entries: Callable, content: Callable) -> tuple:
        """What is found after the power came back, for one way of losing things."""

        def look(node: Any) -> Any:
            if isinstance(node, File):
                return content(node)
            return tuple((name, look(child)) for name, child in sorted(entries(node).items()))

        return look(self.root)


def write_tree(tree: tuple, folder: Path) -> None:
    folder.mkdir()
    for name, content in tree:
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            write_tree(content, folder / name)


def _stored(folder: Path) -> Folder:
    """What lies in a folder, all of it synced."""
    found = Folder()
    for path in folder.iterdir():
        node = _stored(path) if path.is_dir() else File(path.read_bytes(), path.read_bytes())
        found.entries[path.name] = found.durable[path.name] = node
    return found


def ways(rng: Random) -> dict[str, tuple[Callable, Callable]]:
    """Ways of losing what was not synced: which names are there, and what the files hold."""

    def some(node: Folder) -> dict[str, Any]:
        entries = dict(node.durable)
        for names in node.pending:
            if rng.random() < 0.5:
                _apply(entries, names)
        return entries

    def torn(file: File) -> bytes:
        if file.data == file.durable:
            return file.data
        cut = rng.randrange(len(file.data) + 1)
        zeros = file.data[:cut].ljust(len(file.data), b"\0")
        return rng.choice([file.durable, file.data, file.data[:cut], zeros])

    names, durable = (lambda node: node.entries), (lambda node: node.durable)
    data, synced = (lambda file: file.data), (lambda file: file.durable)
    return {
        "nothing is lost": (names, data),
        "all is lost": (durable, synced),
        "only data is lost": (names, synced),
        "some is lost": (some, torn),
        "some more is lost": (some, torn),
    }


@dataclasses.dataclass(frozen=True)
class Recording:
    """A real run: where it began, every call it made, and where it ended."""

    grid: Grid
    before: Path
    calls: list[tuple[str, str, bytes, int]]
    first: int  # epochs that were committed, and whole, before
    seen: set[int] = dataclasses.field(default_factory=set)  # crash states that were tested


@functools.cache
def recordings() -> list[Recording]:
    """A run from nothing; one that goes on from damage and from what a killed one left."""
    arm, found = ARMS[-1:], []
    for case in ("fresh", "again"):
        out = shelf() / f"recorded-{case}"
        grid = Grid(out, tuple(arm), SHORT + 2)
        out.mkdir()
        if case == "again":
            # Killed while it staged epoch 5; then a bit of the last state flips.
            calls = [c[:2] for c in found[0].calls if c[0] in CHANGES]
            place = next(i for i, (_, path) in enumerate(calls) if ".0005" in path) + 8
            assert grid.make(watch=[str(out), KILL, place, 0, CHANGES, None])["status"] == -9
            assert rundir.committed(grid.runs[0]) == [1, 2, 3, 4]
            flip(rundir.epoch_folder(grid.runs[0], 4) / rundir.STATE, 999)
        before = shelf() / f"recorded-{case}-before"
        shutil.copytree(out, before)
        trace = shelf() / f"recorded-{case}.trace"
        answer = grid.make(watch=[str(out), RECORD, 0, 0, ALL, str(trace)])
        assert answer["result"]["error"] is None, answer
        check(grid)
        calls = list(read_trace(trace))
        found.append(Recording(grid, before, calls, 0 if case == "fresh" else 3))
    return found


def read_trace(path: Path) -> Iterator[tuple[str, str, bytes, int]]:
    data, head = path.read_bytes(), struct.Struct("<cIIq")
    place = 0
    while place < len(data):
        kind, one, two, number = head.unpack_from(data, place)
        place += head.size
        first, second = data[place : place + one], data[place + one : place + one + two]
        place += one + two
        yield kind.decode(), first.decode(), second, number


def lose_power(rng: Random, folder: Path) -> int:
    """Cut the power after each call of a recorded run, and lose what was not synced, in five ways.

    Each different state of the disk that comes of it is one case, and tested once.
    Whatever is found: the epochs whose commit had returned are there, everything committed is
    whole, and the run goes on from it. Now and then it really goes on, to the end.
    """
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else folder
    with tempfile.TemporaryDirectory(dir=memory) as place:
        recording = recordings()[next(LOST) % len(recordings())]
        return try_each_loss(rng, recording, Path(place))


def try_each_loss(rng: Random, recording: Recording, place: Path) -> int:
    """The cases of one recording, whose crash states are written below `place`."""
    grid, cases = recording.grid, 0
    disk = Disk(grid.out)
    disk.root = _stored(recording.before)
    promised = recording.first
    for call in [("!", "", b"", 0), *recording.calls]:
        disk.play(*call)
        if call[0] == "!" and call[1]:
            promised = max(promised, int(call[1].split("\t")[1]))
        for way, lost in ways(rng).items():
            tree = disk.tree(*lost)
            key = hash((promised, tree))
            if key in recording.seen:
                continue
            recording.seen.add(key)
            found = Grid(place / "found", grid.arms, grid.epochs)
            write_tree(tree, found.out)
            try:
                check_recovery(found, recording, promised)
                if rng.random() < 0.002:
                    found.finish()
                    check(found)
            except AssertionError as error:
                raise AssertionError(f"{way}, after {call[0]} {call[1]}: {error}") from error
            shutil.rmtree(found.out)
            cases += 1

    # The model is the disk: at the end, without a loss, it holds just what the run left.
    write_tree(disk.tree(*ways(rng)["nothing is lost"]), place / "all")
    difference = subprocess.run(["diff", "-r", place / "all", grid.out], capture_output=True)
    assert difference.returncode == 0, difference.stdout
    return cases


def check_recovery(found: Grid, recording: Recording, promised: int) -> None:
    """What a start finds and does, with the content of the recorded run instead of training."""
    run, done = found.runs[0], recording.grid.runs[0]
    epochs = rundir.committed(run)
    assert len(epochs) >= promised, f"{len(epochs)} epochs of {promised} are left"
    check(found, finished=False) if not recording.first else None
    last = rundir.last_state(run)
    states = sum(_is_whole(run, epoch, rundir.STATE) for epoch in epochs)
    assert states >= min(len(epochs), 1 if recording.first else rundir.STATES_KEPT)
    if (found.study / "study.json").exists():
        assert rundir.unseal(found.study / "study.json") == found.info()

    # Go on by one epoch.
    with mock.patch("os.fsync"), rundir.owned(run):
        rundir.describe(run, rundir.unseal(done / "run.json"))
        rundir.rewind(run, last[0] if last else 0)
        epoch = len(rundir.committed(run)) + 1
        if epoch <= found.epochs:
            folder = rundir.epoch_folder(done, epoch)
            names = [path.name for path in folder.iterdir() if path.name != rundir.SUMS]
            rundir.commit(run, epoch, {name: (folder / name).read_bytes() for name in names})
            rundir.prune(run, epoch)
            assert rundir.committed(run) == [*range(1, epoch + 1)]
    assert not list((run / "epochs").glob(".*"))


def _is_whole(run: Path, epoch: int, name: str) -> bool:
    try:
        return bool(rundir.read(run, epoch, name))
    except rundir.Damaged:
        return False


# --- Damage ---------------------------------------------------------------------------------------


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    path.write_bytes(data)


def damage(rng: Random, folder: Path) -> int:
    """Harm files of a half-done run, one after the other; see that it is noticed, and heal one."""
    arm = rng.choice(ARMS)
    source, epochs = twin((arm,), SHORT), SHORT - 1
    grid = Grid(folder / "harmed", (arm,), SHORT)
    copy_epochs(source, grid, epochs)
    run, cases, harmed_files = grid.runs[0], 25, 0
    whole = [path for path in grid.study.rglob("*") if path.is_file() and path.name != "lock"]
    for case in range(cases):
        path = rng.choice(sorted(whole))
        content = path.read_bytes()
        harm(rng, path)
        if path.exists() and path.read_bytes() == content:
            continue
        harmed_files += 1
        parsed = mock.Mock(side_effect=json.loads)
        with mock.patch.object(rundir.json, "loads", parsed):
            lost = check_found(grid, path, epochs)
        harmed = path.read_bytes() if path.exists() else None
        assert all(call.args[0] != harmed for call in parsed.call_args_list), f"{path} was parsed"

        # The last one is healed: by the same command, or once what it names is removed.
        if case == cases - 1:
            answer = grid.make()["result"]
            if path.name in ("run.json", "study.json"):
                described = path.name == "study.json" and harmed is None  # the command wrote it
                assert described or str(path.parent) in answer["error"][1], answer
                shutil.rmtree(run) if path.name == "run.json" else path.unlink(missing_ok=True)
                grid.finish()
            elif path.name == rundir.STATE or not lost <= {*rundir.PRUNABLE}:
                check(grid)  # else nothing needs it any more, and nothing makes it again
        path.write_bytes(content) if path.parent.exists() else None
    return harmed_files


def harm(rng: Random, path: Path) -> None:
    """A flipped bit, a cut, a hole of zeros, another file's content, or nothing at all."""
    data = path.read_bytes()
    way = rng.choice(["flip", "flip", "cut", "zeros", "swap", "remove"])
    if way == "flip":
        flip(path, rng.randrange(8 * len(data)))
    elif way == "cut":
        path.write_bytes(data[: rng.choice([0, len(data) - 1, rng.randrange(len(data))])])
    elif way == "zeros":
        place = rng.randrange(len(data))
        path.write_bytes(data[:place] + bytes(min(512, len(data) - place)) + data[place + 512 :])
    elif way == "swap":
        others = [p for p in path.parents[1].glob(f"*/{path.name}") if p != path]
        path.write_bytes(rng.choice(others).read_bytes() if others else data[::-1])
    else:
        path.unlink()


def check_found(grid: Grid, path: Path, epochs: int) -> set[str]:
    """That the harm of one file is noticed by whoever needs it; the names of what it harms."""
    run = grid.runs[0]
    if path.name == "study.json":
        assert _raises(rundir.unseal, path)
        return {path.name}
    if path.name == "run.json":
        (words,) = rundir.compare(run, {"config": config(grid.arms[0], grid.epochs).model_dump()})
        assert "run.json is " in words
        return {path.name}

    # Harm to a sum is harm to its file.
    epoch = int(path.parent.name)
    names = {each.name for each in twin_folder(grid, epoch).iterdir()} - {rundir.SUMS}
    harmed = {name for name in names if _raises(rundir.read, run, epoch, name)}
    assert harmed == {path.name} or (path.name == rundir.SUMS and harmed), path

    # A record counts up to the first that is harmed, and so does the state after it.
    whole = harmed <= {*rundir.PRUNABLE} and _listed(path.parent) <= names
    left = epochs if whole else epoch - 1
    assert len(rundir.committed(run)) == left, path
    last = left - 1 if rundir.STATE in harmed and epoch == left else left
    found = rundir.last_state(run)
    if last == 0:
        assert found is None, path
    else:
        assert found == (last, (twin_folder(grid, last) / rundir.STATE).read_bytes()), path
    return harmed


def _listed(folder: Path) -> set[str]:
    """The names in the sums of a folder, such as they are."""
    if not (folder / rundir.SUMS).exists():
        return set()
    lines = (folder / rundir.SUMS).read_bytes().split(b"\n")
    return {line.partition(b"  ")[2].decode("latin1") for line in lines if line}


def twin_folder(grid: Grid, epoch: int) -> Path:
    return rundir.epoch_folder(twin(grid.arms, grid.epochs).runs[0], epoch)


def _raises(function: Callable, *arguments: Any) -> bool:
    try:
        function(*arguments)
    except rundir.Damaged:
        return True
    return False


def copy_epochs(source: Grid, grid: Grid, epochs: int) -> None:
    """A run as it was after some epochs, with all of their states."""
    grid.study.mkdir(parents=True)
    shutil.copy(source.study / "study.json", grid.study)
    for run, other in zip(grid.runs, source.runs, strict=True):
        for epoch in range(1, epochs + 1):
            folder = rundir.epoch_folder(run, epoch)
            shutil.copytree(rundir.epoch_folder(other, epoch), folder)
        shutil.copy(other / "run.json", run)


# --- Resuming -------------------------------------------------------------------------------------


def resume(rng: Random, folder: Path) -> int:
    """Go on from each epoch of a run of any arm: the whole state, and all else, is the twin's."""
    arm = rng.choice(ARMS)
    source = twin((arm,), SHORT)
    for epoch in range(1, SHORT):
        grid = Grid(folder / str(epoch), (arm,), SHORT)
        copy_epochs(source, grid, epoch)
        answer = grid.make(states=SHORT)
        assert answer["result"]["error"] is None, answer
        assert answer["result"]["epochs"] == SHORT - epoch, answer
        check(grid)
        assert all(_is_whole(grid.runs[0], e, rundir.STATE) for e in range(1, SHORT + 1))
    return SHORT - 1


def forget_each_key(rng: Random, folder: Path) -> int:
    """Drop each key of a state, rename it, or let the code forget it: each shows."""
    arm = rng.choice(ARMS)
    run = twin((arm,), SHORT).runs[0]
    one, two = (str(rundir.epoch_folder(run, epoch) / rundir.STATE) for epoch in (1, 2))
    request = {"config": config(arm, SHORT).model_dump(), "cache": str(shelf() / "cache")}
    silent = ask(do="keys", state=one, next=two, **request)["result"]
    keys = silent.pop("keys")
    assert len(keys) > 40
    assert silent == {"dropped": [], "renamed": [], "forgotten": []}
    return 3 * len(keys)


# --- What it costs --------------------------------------------------------------------------------


def cost() -> str:
    """A table: seconds of a commit beside those of an epoch, on this machine, as Markdown."""
    sizes = {
        "small": Config(width=32, images=10_000),
        "cifar32": Config(width=128, images=50_000),
    }
    lines = ["| scale | state | commit | epoch | share |", "|---|---:|---:|---:|---:|"]
    for name, each in sizes.items():
        with tempfile.TemporaryDirectory(dir=".") as folder:
            place = str(Path(folder).absolute())
            found = ask(do="cost", config=each.model_dump(), folder=place, steps=2, commits=9)
        result = found["result"]
        spent = result["dump"] + result["commit"]
        lines.append(
            f"| {name} | {result['bytes'] / 1e6:.1f} MB | {spent:.3f} s "
            f"| {result['epoch']:.0f} s | {spent / result['epoch']:.3%} |"
        )
    note = "The epoch is extrapolated from a few steps, on one thread of the CPU, without scoring."
    return "\n".join([*lines, "", note])


ROWS = [
    Row(
        "SIGKILL at random moments",
        "nothing lost, nothing twice; every record, state and table is the undisturbed twin's",
        kill_at_random,
        fast=6,
        long=200,
    ),
    Row(
        "SIGKILL at every change to the disk",
        "the same, with half of a write done as well",
        kill_at_each_call,
        fast=40,
        long=200,
    ),
    Row(
        "disk full, I/O error, failing fsync at every call",
        "what was committed stays; one line; goes on afterwards",
        fail_each_call,
        fast=20,
        long=500,
    ),
    Row(
        "power loss after every call, unsynced data dropped",
        "goes on from a committed epoch; none whose commit had returned is lost",
        lose_power,
        fast=500,
        long=5000,
    ),
    Row(
        "bit flips, truncation, missing files",
        "found before anything is parsed; falls back; the same bytes again",
        damage,
        fast=200,
        long=1000,
    ),
    Row(
        "going on from every epoch",
        "whole state equal at tolerance 0",
        resume,
        fast=3,
        long=48,
    ),
    Row(
        "each key of the state dropped, renamed, or forgotten by the code",
        "none in silence",
        forget_each_key,
        fast=100,
        long=1000,
    ),
]


if __name__ == "__main__":
    print(cost())
