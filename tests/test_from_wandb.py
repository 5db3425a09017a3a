"""A study read from W&B is the study read from its records, or is refused by name."""

import copy
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from wandb.sdk.lib.service.service_connection import WandbApiFailedError

from dcgan import rundir
from experiments import tracking
from reports import __main__ as command
from reports import from_wandb, records
from reports.from_wandb import Mirror

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
    paths = sorted(folder.glob("*/*/run.json"))
    started = [tracking.start(path.parent, "offline") for path in paths]
    assert [mirror.finish() for mirror in started] == [""] * 3
    return folder


@pytest.fixture
def mirrors(study: Path) -> list[Mirror]:
    """What W&B has of the study, for a test to change."""
    return copy.deepcopy(list(from_wandb.offline(study / "wandb")))


def check_same(found: records.Study, wanted: records.Study) -> None:
    """Every number, name and plan; a number bit for bit."""
    for part in ("frame", "curves", "plan", "calibration"):
        pd.testing.assert_frame_equal(getattr(found, part), getattr(wanted, part), check_exact=True)
    for part in ("identities", "factors", "arms", "machines"):
        assert getattr(found, part) == getattr(wanted, part), part
    machine = wanted.info["hardware"] | {"processor": tracking.UNNAMED}
    assert json.dumps(found.info) == json.dumps(wanted.info | {"hardware": machine})


# --- Offline --------------------------------------------------------------------------------------


def test_the_offline_runs_are_the_records(study: Path) -> None:
    wanted = records.load(study)
    assert wanted.frame[["fd_cifar", "d_loss"]].isna().any().all()
    assert wanted.frame["fid"].notna().sum() == 5  # epochs 1 and 2 but where one diverged
    assert [run.status for run in wanted.missing] == ["unfinished"]
    found = from_wandb.load(from_wandb.offline(study / "wandb"), "here")
    check_same(found, wanted)
    assert found.eval_sets.empty


def test_runs_that_began_under_different_plans_are_one_study(mirrors: list[Mirror]) -> None:
    for number, mirror in enumerate(mirrors):
        plan = json.loads(mirror.files["study.json"])
        plan["seeds"], plan["commit"] = [number], f"commit{number}"
        mirror.files["study.json"] = json.dumps(plan)
    info = from_wandb.load(mirrors, "here").info
    assert (info["seeds"], info["commit"]) == ([0, 1, 2], "commit0, commit1, commit2")


def damage(study: Path, tmp_path: Path, change: Callable[[bytes], bytes]) -> Path:
    """A copy of W&B's folder in which one run's file is another."""
    shutil.copytree(study / "wandb", tmp_path / "wandb")
    path = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))[0]
    path.write_bytes(change(path.read_bytes()))
    return path


def test_a_file_that_is_cut_short_is_an_unfinished_run(study: Path, tmp_path: Path) -> None:
    path = damage(study, tmp_path, lambda data: data[: data.rfind(b"losses/d_fake")])
    found = from_wandb.load(from_wandb.offline(path.parents[1]), "here")
    wanted = records.load(study)
    assert found.plan["committed"].sum() == len(found.frame) == len(wanted.frame) - 1
    assert len([run for run in found.missing if run not in wanted.missing]) == 1
    kept = wanted.frame.merge(found.frame[["run", "epoch"]]).reset_index(drop=True)
    pd.testing.assert_frame_equal(found.frame.reset_index(drop=True), kept, check_exact=True)


def flip(data: bytes) -> bytes:
    place = len(data) // 2
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def test_a_damaged_file_is_refused_by_name(study: Path, tmp_path: Path) -> None:
    path = damage(study, tmp_path, flip)
    with pytest.raises(rundir.Damaged, match="checksum mismatch") as error:
        from_wandb.load(from_wandb.offline(path.parents[1]), "here")
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_a_copy_of_a_run_is_refused(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study / "wandb", tmp_path / "wandb")
    first = sorted(tmp_path.glob("wandb/offline-run-*"))[0]
    shutil.copytree(first, first.with_name("offline-run-20010101_000000-copy"))
    with pytest.raises(records.Mixed, match=r"is there twice: .*0000-copy.* and .*/offline-run"):
        from_wandb.load(from_wandb.offline(tmp_path / "wandb"), "here")


def test_the_report_has_the_same_numbers(study: Path, tmp_path: Path) -> None:
    words = ["--from", "wandb-offline", str(study / "wandb"), "--to", str(tmp_path)]
    assert command.main(words) == 0
    written, wanted = pd.read_parquet(tmp_path / "records.parquet"), records.load(study).frame
    for column in ("run", "epoch", "fd_cifar", "d_loss"):
        assert written[column].equals(wanted[column]), column
    assert (tmp_path / "index.html").exists()


# --- What a history may be like -------------------------------------------------------------------


def test_rows_that_were_sent_twice_count_once(study: Path, mirrors: list[Mirror]) -> None:
    for mirror in mirrors:
        again = enumerate(mirror.rows[3:9], start=len(mirror.rows))
        mirror.rows.extend([{**row, "_step": step, "_timestamp": 0} for step, row in again])
    check_same(from_wandb.load(mirrors, "here"), records.load(study))
    online = [mirror._replace(rows=Run(mirror).scan_history()) for mirror in mirrors]
    check_same(from_wandb.load(online, "here"), records.load(study))


def without_epoch(rows: list[dict]) -> None:
    del rows[4]
    rows[:] = [{**row, "_step": step} for step, row in enumerate(rows)]


def again(number: int, key: str) -> Callable[[list[dict]], None]:
    """Send a row a second time, with another value."""
    return lambda rows: rows.append({**rows[number], "_step": len(rows), key: 0.5})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (again(4, "losses/d_loss"), "epoch 1 is there twice, and differs"),
        (again(0, "train/d_loss"), r"images \d+ is there twice, and differs"),
        (without_epoch, "epoch 1 of its history is missing"),
        (lambda rows: rows.pop(2), "step 2 of its history is missing"),
        (
            lambda rows: rows[4].pop("time/score_seconds"),
            "a row of its history lacks 'time/score_seconds'",
        ),
    ],
    ids=["another epoch", "another point", "no epoch", "no row", "no key"],
)
def test_a_history_that_is_not_whole_is_refused_by_name(
    mirrors: list[Mirror], change: Callable[[list[dict]], None], message: str
) -> None:
    change(mirrors[1].rows)
    with pytest.raises(rundir.Damaged, match=f"^{re.escape(mirrors[1].label)}: {message}$"):
        from_wandb.load(mirrors, "here")


def test_one_study_is_chosen_where_there_are_several(study: Path, mirrors: list[Mirror]) -> None:
    config = mirrors[0].config | {"scale": "cifar32"}
    others = [mirrors[0]._replace(label="p/other", config=config), Mirror("p/foreign", {}, [], {})]
    names = f"followups-cifar32-shapes, {NAME}"
    for runs, name, line in [
        ([*mirrors, *others], None, f"choose with --study: {names}$"),
        ([*mirrors, others[1]], None, f"choose with --study: {NAME}$"),
        (mirrors, "nothing", f"--study nothing is not here, but {NAME}$"),
    ]:
        with pytest.raises(records.NoStudy, match=line):
            from_wandb.load(runs, "p", name)
    with pytest.raises(records.NoStudy, match=r"^p: no run of a study is here$"):
        from_wandb.load(others[1:], "p")
    check_same(from_wandb.load([*mirrors, *others], "p", NAME), records.load(study))

    # The run that has the report of a study is passed over.
    report = Mirror("p/report", {"report": NAME}, [], {})
    check_same(from_wandb.load([*mirrors, report], "p"), records.load(study))


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_file_that_is_not_what_was_sent_is_refused(mirrors: list[Mirror], text: str) -> None:
    mirrors[0].files["study.json"] = text
    with pytest.raises(rundir.Damaged, match=r"^p: .*study\.json.*$"):
        from_wandb.load(mirrors, "p")


def test_a_mirror_of_an_earlier_version_has_its_files_in_the_config(mirrors: list[Mirror]) -> None:
    config = {name.replace(".", "_"): text for name, text in mirrors[0].files.items()}
    assert from_wandb._mirror("p", config, [], {}).files == mirrors[0].files


# --- Online: an imitation of W&B's public API -----------------------------------------------------


class Run:
    """One run as W&B's public API shows it, with pages of history in which every row is as wide."""

    def __init__(self, mirror: Mirror) -> None:
        self.id = Path(mirror.label).stem.removeprefix("run-")
        self.config = mirror.config
        self._rows, self._files = mirror.rows, mirror.files

    def files(self) -> list[SimpleNamespace]:
        def file(name: str, text: str) -> SimpleNamespace:
            return SimpleNamespace(name=name, download=lambda folder, replace: io.StringIO(text))

        return [file(name, text) for name, text in {**self._files, "media/x.png": ""}.items()]

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

    there = tracking.Destination("online", "", "https://example.org/e/p", {})
    monkeypatch.setattr(tracking, "destination", lambda _: there)
    monkeypatch.setattr(tracking, "ask", lambda **_: None)
    monkeypatch.setattr("wandb.Api", lambda: SimpleNamespace(runs=runs))


def test_the_online_runs_are_the_records(
    study: Path, mirrors: list[Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    api(monkeypatch, lambda: [Run(mirror) for mirror in mirrors])
    check_same(from_wandb.load(from_wandb.online("e/p"), "e/p"), records.load(study))


@pytest.mark.parametrize(
    "fault", [ValueError("Could not find\n  e/p"), WandbApiFailedError("Could not find e/p")]
)
def test_what_wandb_says_is_one_line(monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    def fail() -> list[Run]:
        raise fault

    api(monkeypatch, fail)
    with pytest.raises(records.NoStudy, match=r"^e/p: W&B: Could not find e/p$"):
        list(from_wandb.online("e/p"))


# --- The command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--from wandb e/p", "--from wandb e/p: name the report's folder with --to"),
        ("--from wandb e/p --to out", "e/p: W&B: "),
        ("--from wandb e --to out", "e is not ENTITY/PROJECT"),
        ("--from disk e --to out", "--from disk e: not STUDY, wandb ENTITY/PROJECT or"),
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
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("NETRC", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    assert command.main(words.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"reports: {message}")
    assert list(tmp_path.iterdir()) == []
