"""A study read from W&B is the study read from its records, or is refused by name."""

import copy
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from faults import processes

from dcgan import rundir
from experiments import tracking
from reports import __main__ as command
from reports import mirrors, records
from reports.mirrors import Mirror

ARMS = {"baseline": {}, "beta1-0": {"beta1": 0.0}, "late": {"d_steps": 2}}
SECOND, LATE = "arm=beta1-0/seed=0", "arm=late/seed=0"
NAME = "followups-small-shapes"


@pytest.fixture(scope="module")
def study(
    make_study: Callable[..., Path],
    calibrate_study: Callable[..., dict],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A finished run, one that diverged, and one that is not finished, mirrored offline."""
    folder = make_study(
        tmp_path_factory.mktemp("mirrored"),
        arms=ARMS,
        epochs=3,
        diverged={SECOND: 2},
        committed={LATE: 2},
        inception="milestone",
        points=4,
    )
    calibrate_study(folder)
    info = rundir.unseal(folder / "study.json")
    started = []
    for path in sorted(folder.glob("*/*/run.json")):
        config = rundir.unseal(path)["config"]
        started.append(tracking.start(folder, path.parent, info, config, "offline"))
    assert [mirror.finish() for mirror in started] == [""] * 3
    return folder


@pytest.fixture
def held(study: Path) -> list[Mirror]:
    """What W&B holds of the study, for a test to change."""
    return copy.deepcopy(list(mirrors.offline(study / "wandb")))


def check_same(found: records.Study, wanted: records.Study) -> None:
    """Every number, name and plan; a number bit for bit."""
    for part in ("frame", "curves", "plan", "calibration"):
        pd.testing.assert_frame_equal(getattr(found, part), getattr(wanted, part), check_exact=True)
    for part in ("identities", "missing", "factors", "arms", "machines"):
        assert getattr(found, part) == getattr(wanted, part), part
    machine = wanted.info["hardware"] | {"processor": tracking.UNNAMED}
    assert json.dumps(found.info) == json.dumps(wanted.info | {"hardware": machine})


# --- Offline --------------------------------------------------------------------------------------


def test_the_offline_runs_are_the_records(study: Path) -> None:
    wanted = records.load(study)
    assert wanted.frame[["fd_cifar", "d_loss"]].isna().any().all()
    assert wanted.frame["fid"].notna().sum() == 5  # epochs 1 and 2 but where one diverged
    assert [run.status for run in wanted.missing] == ["unfinished"]
    found = mirrors.load(mirrors.offline(study / "wandb"), "here")
    check_same(found, wanted)
    assert found.banks.empty


def test_wandb_lists_each_id_once(study: Path, wandb_command: Callable[..., str]) -> None:
    info = rundir.unseal(study / "study.json")
    configs = [rundir.unseal(path)["config"] for path in study.glob("*/*/run.json")]
    wanted = sorted(tracking.run_id(info, config) for config in configs)
    assert ids_of_sync(study, wandb_command) == wanted


def ids_of_sync(study: Path, wandb_command: Callable[..., str]) -> list[str]:
    """The id of each run that `wandb sync` would upload, as often as it would."""
    listed = wandb_command(study, "sync", "--dry-run", str(study / "wandb"))
    found = re.findall(r"/run-([0-9a-f]{10})\.wandb", listed)
    assert f"Would sync {len(found)} run(s)" in listed
    return sorted(found)


def test_the_reader_leaves_nothing_behind(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(study.parent.rglob("*"))
    for name in ("HOME", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    assert list(mirrors.offline(study / "wandb"))
    assert sorted(study.parent.rglob("*")) == before
    assert list(tmp_path.iterdir()) == []


def test_runs_that_began_under_different_plans_are_one_study(held: list[Mirror]) -> None:
    levels = [["baseline"], ["baseline", "init-torch"], ["relu-d", "init-torch"]]
    for number, (mirror, arms) in enumerate(zip(held, levels, strict=True)):
        plan = json.loads(mirror.config["study_json"])
        plan["factors"]["arm"], plan["arms"] = arms, {name: {} for name in levels[1] + levels[2]}
        plan["seeds"], plan["commit"] = [number], f"commit{number}"
        mirror.config["study_json"] = json.dumps(plan)
    info = mirrors.load(held, "here").info
    assert info["factors"] == {"arm": ["baseline", "init-torch", "relu-d"]}
    assert (info["seeds"], info["commit"]) == ([0, 1, 2], "commit0, commit1, commit2")


def damage(study: Path, tmp_path: Path, change: Callable[[bytes], bytes]) -> Path:
    """A copy of W&B's folder in which one run's file is another."""
    shutil.copytree(study / "wandb", tmp_path / "wandb")
    path = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))[0]
    path.write_bytes(change(path.read_bytes()))
    return path


def test_a_file_that_is_cut_short_is_an_unfinished_run(study: Path, tmp_path: Path) -> None:
    path = damage(study, tmp_path, lambda data: data[: data.rfind(b"losses/d_fake")])
    found = mirrors.load(mirrors.offline(path.parents[1]), "here")
    wanted = records.load(study)
    assert found.plan["committed"].sum() == len(found.frame) == len(wanted.frame) - 1
    assert len([run for run in found.missing if run not in wanted.missing]) == 1
    kept = wanted.frame.merge(found.frame[["run", "epoch"]]).reset_index(drop=True)
    pd.testing.assert_frame_equal(found.frame.reset_index(drop=True), kept, check_exact=True)


def flip(data: bytes) -> bytes:
    place = len(data) // 2
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize(
    ("change", "message"),
    [(flip, "checksum mismatch"), (lambda data: data[::-1], "bad header")],
    ids=["a bit", "all"],
)
def test_a_damaged_file_is_refused_by_name(
    study: Path, tmp_path: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    path = damage(study, tmp_path, change)
    with pytest.raises(rundir.Damaged, match=message) as error:
        mirrors.load(mirrors.offline(path.parents[1]), "here")
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_an_empty_file_is_no_run(study: Path, tmp_path: Path) -> None:
    path = damage(study, tmp_path, lambda data: b"")
    with pytest.raises(records.NoStudy, match=re.escape(f"{path} is no run of a study; --study")):
        mirrors.load(mirrors.offline(path.parents[1]), "here")


def test_a_copy_of_a_run_is_refused(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study / "wandb", tmp_path / "wandb")
    first = sorted(tmp_path.glob("wandb/offline-run-*"))[0]
    shutil.copytree(first, first.with_name("offline-run-20010101_000000-copy"))
    with pytest.raises(records.Mixed, match=r"is there twice: .*0000-copy.* and .*/offline-run"):
        mirrors.load(mirrors.offline(tmp_path / "wandb"), "here")


# --- What a history may be like -------------------------------------------------------------------


def test_rows_that_were_sent_twice_count_once(study: Path, held: list[Mirror]) -> None:
    for mirror in held:
        again = enumerate(mirror.rows[3:9], start=len(mirror.rows))
        mirror.rows.extend([{**row, "_step": step, "_timestamp": 0} for step, row in again])
    check_same(mirrors.load(held, "here"), records.load(study))
    online = [mirror._replace(rows=Run(mirror).scan_history()) for mirror in held]
    check_same(mirrors.load(online, "here"), records.load(study))


def other_number(rows: list[dict]) -> None:
    rows.append({**rows[4], "_step": len(rows), "losses/d_loss": 0.5})


def other_point(rows: list[dict]) -> None:
    rows.append({**rows[0], "_step": len(rows), "train/d_loss": 0.5})


def without_epoch(rows: list[dict]) -> None:
    del rows[4]
    rows[:] = [{**row, "_step": step} for step, row in enumerate(rows)]


def without_row(rows: list[dict]) -> None:
    del rows[2]


def without_key(rows: list[dict]) -> None:
    del rows[4]["time/score_seconds"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_number, "epoch 1 is there twice, and differs"),
        (other_point, r"images \d+ is there twice, and differs"),
        (without_epoch, "epoch 1 is missing"),
        (without_row, "step 2 of its history is missing"),
        (without_key, "a row of its history lacks 'time/score_seconds'"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_history_that_is_not_whole_is_refused_by_name(
    held: list[Mirror], change: Callable[[list[dict]], None], message: str
) -> None:
    change(held[1].rows)
    with pytest.raises(rundir.Damaged, match=f"^{re.escape(held[1].label)}: {message}$"):
        mirrors.load(held, "here")


def test_one_study_is_chosen_where_there_are_several(study: Path, held: list[Mirror]) -> None:
    others = [Mirror("p/other", copy.deepcopy(held[0].config), []), Mirror("p/foreign", {}, [])]
    others[0].config["scale"] = "cifar32"
    with pytest.raises(records.NoStudy, match=f"--study: followups-cifar32-shapes, {NAME}$"):
        mirrors.load([*held, *others], "p")
    with pytest.raises(records.NoStudy, match=f"^p/foreign is no run of a study; --study {NAME}"):
        mirrors.load([*held, others[1]], "p")
    with pytest.raises(records.NoStudy, match=f"--study nothing is not here, but {NAME}$"):
        mirrors.load(held, "p", "nothing")
    with pytest.raises(records.NoStudy, match=r"^p: no run of a study is here, or "):
        mirrors.load(others[1:], "p")
    check_same(mirrors.load([*held, *others], "p", NAME), records.load(study))


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
@pytest.mark.parametrize("name", ["study_json", "run_json"])
def test_a_config_that_is_not_what_was_sent_is_refused(
    held: list[Mirror], name: str, text: str
) -> None:
    held[0].config[name] = text
    with pytest.raises(rundir.Damaged, match=r"^p: .*(study_json|study\.json).*$"):
        mirrors.load(held, "p")


# --- Online: an imitation of W&B's public API -----------------------------------------------------


class Run:
    """One run as W&B's public API shows it, with pages of history in which every row is as wide."""

    def __init__(self, mirror: Mirror) -> None:
        self.id = Path(mirror.label).stem.removeprefix("run-")
        self.config = mirror.config
        self._rows = mirror.rows

    def scan_history(self, use_cache: bool = True) -> Iterator[dict[str, Any]]:
        columns = dict.fromkeys(name for row in self._rows for name in row)
        for row in self._rows:
            wide = {name: row.get(name) for name in columns}
            yield {name: float(x) if x == "NaN" else x for name, x in wide.items()}

    def history(self, **_: Any) -> list:
        raise AssertionError("this samples")


def api(monkeypatch: pytest.MonkeyPatch, found: Callable[[], list[Run]]) -> None:
    """Let W&B's API find these runs in the project e/p."""

    def runs(path: str, order: str, lazy: bool) -> list[Run]:
        assert (path, order, lazy) == ("e/p", "+created_at", False)
        return found()

    monkeypatch.setattr("wandb.Api", lambda: SimpleNamespace(runs=runs))
    monkeypatch.setenv("WANDB_API_KEY", "c0ffee" * 7)


def test_the_online_runs_are_the_records(
    study: Path, held: list[Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    api(monkeypatch, lambda: [Run(mirror) for mirror in held])
    check_same(mirrors.load(mirrors.online("e/p"), "e/p"), records.load(study))


def test_what_wandb_says_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[Run]:
        raise ValueError("Could not find project\n  e/p (maybe private)")

    api(monkeypatch, fail)
    message = r"^e/p: W&B: Could not find project e/p \(maybe private\)$"
    with pytest.raises(records.NoStudy, match=message):
        list(mirrors.online("e/p"))


# --- The command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--from wandb e/p", "--from wandb e/p: name the report's folder with --to"),
        ("--from wandb e/p --to out", "e/p needs WANDB_API_KEY or a key stored by `wandb login`"),
        ("--from wandb e --to out", "e is not ENTITY/PROJECT"),
        ("--from disk e --to out", "--from disk e: not STUDY, wandb ENTITY/PROJECT or"),
        ("--from wandb e p --to out", "--from wandb e p: not STUDY, wandb ENTITY/PROJECT or"),
        ("--from wandb-offline nowhere --to out", "nowhere: no offline runs of W&B here"),
        ("--from x --study y --to out", "--study y: x is one study"),
    ],
)
def test_bad_words_are_one_line_and_nothing_is_made(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    words: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["reports", *words.split()])
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("NETRC", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    assert command.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"reports: {message}")
    assert list(tmp_path.iterdir()) == []


# --- A real study, killed five times --------------------------------------------------------------

MOMENTS = {  # of a study of two runs, three epochs each, one after the other
    "a run is described": lambda study: list(study.glob("*/*/run.json")),
    "an epoch is committed": lambda study: list(study.glob("*/*/epochs/[0-9]*")),
    "W&B has a picture": lambda study: list(study.glob("wandb/*/files/media/images/*.png")),
    "the second run has begun": lambda study: len(list(study.glob("*/*/epochs/[0-9]*"))) > 3,
    "every epoch is committed": lambda study: len(list(study.glob("*/*/epochs/[0-9]*"))) == 6,
}


@pytest.mark.skipif(bool(processes.unavailable()), reason=processes.unavailable())
def test_a_study_that_was_killed_five_times_is_whole_in_wandb(
    wandb_command: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "out" / processes.STUDY
    start = {"environ": {"WANDB_MODE": "offline"}}
    words = [study.parent, "--jobs", "1", *processes.PAIR]
    for what, has_come in MOMENTS.items():
        killed = processes.begin(*words, **start)
        processes.until(lambda come=has_come: come(study), what)
        os.killpg(killed.pid, signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL, what
    processes.finish(*words, **start, report=True)

    # The history is the records, row by row.
    wanted = records.load(study)
    assert [len(wanted.runs), len(wanted.frame), wanted.missing] == [2, 6, []]
    check_same(mirrors.load(mirrors.offline(study / "wandb"), "here"), wanted)

    # The report made from it has the tables and curves of the one made from the records; only the
    # captions, which name the processor, are others.
    out = tmp_path / "from W&B"
    words = ["--from", "wandb-offline", str(study / "wandb"), "--to", str(out)]
    monkeypatch.setattr(sys, "argv", ["reports", *words])
    command.main()
    tables = {path.relative_to(study / "report") for path in study.glob("report/tables/*.csv")}
    assert Path("tables/fid.csv") in tables
    for name in {*tables, "records.csv", "records.parquet", "figures/fd_cifar.svg"}:
        assert (out / name).read_bytes() == (study / "report" / name).read_bytes(), name
    assert (out / "index.html").stat().st_size > 10_000

    # One run for each id.
    configs = [rundir.unseal(run / "run.json")["config"] for run in wanted.runs]
    assert ids_of_sync(study, wandb_command) == sorted(
        tracking.run_id(wanted.info, config) for config in configs
    )
