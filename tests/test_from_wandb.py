"""A study read from W&B is the study read from its records, or is refused by name."""

import copy
import io
import json
import re
import shutil
from operator import attrgetter
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import pytest
from wandb.sdk.lib.service.service_connection import WandbApiFailedError

from dcgan import rundir
from dcgan.cli import BadInput
from experiments import tracking
from reports import __main__ as command
from reports import from_wandb, records
from reports.from_wandb import Mirror

ARMS = {"baseline": {}, "beta1-0": {"beta1": 0.0}, "late": {"d_steps": 2}}
SECOND, LATE = "arm=beta1-0/seed=0", "arm=late/seed=0"
NAME = "followups-small-shapes"


@pytest.fixture(scope="module")
def study(make_study, calibrate_study, tmp_path_factory):
    """A finished run, one that diverged, and one that is not finished, mirrored offline."""
    given = {"diverged": {SECOND: 2}, "committed": {LATE: 2}, "inception": "milestone"}
    folder = make_study(tmp_path_factory.mktemp("study"), arms=ARMS, epochs=3, points=4, **given)
    calibrate_study(folder)
    runs = sorted(path.parent for path in folder.glob("*/*/run.json"))
    started = [tracking.start(run, "offline") for run in runs]
    assert [mirror.finish() for mirror in started] == [""] * 3
    return folder


@pytest.fixture
def mirrors(study):
    """What W&B has of the study, for a test to change."""
    return copy.deepcopy(list(from_wandb.offline(study / "wandb")))


def check_same(read, wanted):
    """Every number, name and plan; a number bit for bit."""
    for part in ("frame", "curves", "plan", "calibration", "machines"):
        pd.testing.assert_frame_equal(getattr(read, part), getattr(wanted, part), check_exact=True)
    same = attrgetter("identities", "factors", "arms")
    assert same(read) == same(wanted)
    machine = wanted.info["hardware"] | {"processor": tracking.UNNAMED}
    assert json.dumps(read.info) == json.dumps(wanted.info | {"hardware": machine})


# --- Offline --------------------------------------------------------------------------------------


def test_the_offline_runs_are_the_records(study, mirrors):
    wanted = records.load(study)
    assert wanted.frame[["fd_cifar", "d_loss"]].isna().any().all()
    assert wanted.frame["fid"].notna().sum() == 5  # epochs 1 and 2 but where one diverged
    assert [run.status for run in wanted.missing] == ["unfinished"]
    check_same(from_wandb.load(mirrors, "here"), wanted)


def test_runs_that_began_under_different_plans_are_one_study(mirrors):
    for number, mirror in enumerate(mirrors):
        plan = json.loads(mirror.files["study.json"])
        plan["seeds"], plan["commit"] = [number], f"commit{number}"
        mirror.files["study.json"] = json.dumps(plan)
    info = from_wandb.load(mirrors, "here").info
    assert (info["seeds"], info["commit"]) == ([0, 1, 2], "commit0, commit1, commit2")


def damage(study, tmp_path, change):
    """A copy of W&B's folder in which one run's file is another."""
    shutil.copytree(study / "wandb", tmp_path / "wandb")
    path = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))[0]
    path.write_bytes(change(path.read_bytes()))
    return path


def test_a_file_that_is_cut_short_is_an_unfinished_run(study, tmp_path):
    path = damage(study, tmp_path, lambda data: data[: data.rfind(b"losses/d_fake")])
    read = from_wandb.load(from_wandb.offline(path.parents[1]), "here")
    wanted = records.load(study)
    assert read.plan["committed"].sum() == len(read.frame) == len(wanted.frame) - 1
    assert len([run for run in read.missing if run not in wanted.missing]) == 1
    kept = wanted.frame.merge(read.frame[["run", "epoch"]]).reset_index(drop=True)
    pd.testing.assert_frame_equal(read.frame.reset_index(drop=True), kept, check_exact=True)


def test_a_damaged_file_is_refused_by_name(study, tmp_path):
    path = damage(study, tmp_path, lambda data: data.replace(b"d_loss", b"d_lost", 1))
    with pytest.raises(rundir.Damaged, match="checksum mismatch") as error:
        from_wandb.load(from_wandb.offline(path.parents[1]), "here")
    assert str(error.value).startswith(f"{path}: ")


def test_a_copy_of_a_run_is_refused(mirrors):
    twin = mirrors[0]._replace(label="copy")
    with pytest.raises(BadInput, match=r"is there twice: .*/offline-run.* and copy$"):
        from_wandb.load([*mirrors, twin], "here")


# --- What a history may be like -------------------------------------------------------------------


def test_rows_that_were_sent_twice_count_once(study, mirrors):
    for mirror in mirrors:
        again = enumerate(mirror.rows[3:9], start=len(mirror.rows))
        mirror.rows.extend([{**row, "_step": step, "_timestamp": 0} for step, row in again])
    check_same(from_wandb.load(mirrors, "here"), records.load(study))


def without_epoch(rows):
    rows[4:] = [{**row, "_step": step} for step, row in enumerate(rows[5:], start=4)]


def again(number, key):
    """Send a row a second time, with another value."""
    return lambda rows: rows.append({**rows[number], "_step": len(rows), key: 0.5})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (again(4, "losses/d_loss"), "epoch 1 is there twice, and differs"),
        (again(0, "train/d_loss"), r"images \d+ is there twice, and differs"),
        (without_epoch, "epoch 1 of its history is missing"),
        (lambda rows: rows.pop(2), "step 2 of its history is missing"),
    ],
    ids=["another epoch", "another point", "no epoch", "no row"],
)
def test_a_history_that_is_not_whole_is_refused_by_name(mirrors, change, message):
    change(mirrors[1].rows)
    with pytest.raises(rundir.Damaged, match=f"^{re.escape(mirrors[1].label)}: {message}$"):
        from_wandb.load(mirrors, "here")


def test_one_study_is_chosen_where_there_are_several(study, mirrors):
    config = mirrors[0].config | {"scale": "cifar32"}
    others = [mirrors[0]._replace(label="p/other", config=config), Mirror("p/foreign", {}, [], {})]
    for runs, name, line in [
        ([*mirrors, *others], None, f"with --study: followups-cifar32-shapes, {NAME}$"),
        ([*mirrors, others[1]], None, f"with --study: {NAME}$"),
        (mirrors, "nothing", f"with --study: {NAME}$"),
        (others[1:], None, "^p: no run of a study is here$"),
    ]:
        with pytest.raises(BadInput, match=line):
            from_wandb.load(runs, "p", name)
    check_same(from_wandb.load([*mirrors, *others], "p", NAME), records.load(study))


def test_a_file_that_is_not_what_was_sent_is_refused(mirrors):
    mirrors[0].files["study.json"] = "{"
    with pytest.raises(rundir.Damaged, match=r"^p: .*study\.json.*$"):
        from_wandb.load(mirrors, "p")


def online_run(mirror):
    """One run as W&B's public API shows it, with pages of history in which every row is as wide."""
    columns = dict.fromkeys(name for row in mirror.rows for name in row)
    wide = [{name: row.get(name) for name in columns} for row in mirror.rows]
    rows = [{name: float(x) if x == "NaN" else x for name, x in row.items()} for row in wide]
    files = [Mock(download=Mock(return_value=io.StringIO(x))) for x in [*mirror.files.values(), ""]]
    for file, name in zip(files, [*mirror.files, "media/x.png"], strict=True):
        file.name = name
    given = {"files.return_value": files, "scan_history.return_value": rows}
    return Mock(id=Path(mirror.label).stem, config=mirror.config, **given)


@pytest.fixture
def runs(monkeypatch):
    """What W&B's API is asked for the runs of a project."""
    there = tracking.Destination("online", "", "https://example.org/e/p", {})
    monkeypatch.setattr(tracking, "destination", lambda **_: there)
    api = Mock()
    monkeypatch.setattr("wandb.Api", api)
    return api().runs


def test_the_online_runs_are_the_records(study, mirrors, runs):
    runs.return_value = [online_run(mirror) for mirror in mirrors]
    check_same(from_wandb.load(from_wandb.online("e/p"), "e/p"), records.load(study))
    runs.assert_called_once_with("e/p", order="+created_at", lazy=False)


def test_what_wandb_says_is_one_line(runs):
    runs.side_effect = WandbApiFailedError("Could not find\n  e/p")
    with pytest.raises(BadInput, match=r"^e/p: W&B: Could not find e/p$"):
        list(from_wandb.online("e/p"))


# --- The command ----------------------------------------------------------------------------------


def test_the_report_has_the_same_numbers(study, tmp_path):
    words = ["--from", "wandb-offline", str(study / "wandb"), "--to", str(tmp_path)]
    assert command.main(words) == 0
    written, wanted = pd.read_parquet(tmp_path / "records.parquet"), records.load(study).frame
    for column in ("run", "epoch", "fd_cifar", "d_loss"):
        assert written[column].equals(wanted[column]), column
    assert (tmp_path / "index.html").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--from wandb e/p", "--from wandb e/p: name the report's folder with --to"),
        ("--from wandb e/p --to out", "e/p: W&B: "),
        ("--from wandb e --to out", "e is not ENTITY/PROJECT"),
        ("--from disk e --to out", "--from disk e: not STUDY, wandb ENTITY/PROJECT or"),
        ("--from wandb-offline nowhere --to out", "nowhere: no offline runs of W&B here"),
        ("--from x --study y --to out", "--study y: x is one study"),
        ("--from nowhere", "nowhere: no study here (study.json is missing)"),
        ("--from .", ".: no epoch has been committed yet"),
        ("--from . --form x", "No such option '--form'"),
        ("", "Missing option '--from'"),
    ],
)
def test_bad_words_are_one_line_and_nothing_is_made(
    study, tmp_path, monkeypatch, run_command, words, message
):
    shutil.copy(study / "study.json", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("NETRC", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    code, out, err = run_command(command.main, *words.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"reports: {message}")
    assert [path.name for path in tmp_path.iterdir()] == ["study.json"]
