"""What reports.records reads, and what it refuses."""

import json
import math

import pandas as pd
import pytest

from dcgan import rundir
from dcgan.cli import BadInput
from reports import records
from reports.analysis import analyse

ARMS = {"norm": ["none", "batch"], "head": ["conv"], "batch": [128]}
NONE, BATCH = "norm=none,head=conv,batch=128/seed=0", "norm=batch,head=conv,batch=128/seed=0"
SET_KEYS = ["run", "norm", "head", "batch", "seed", "epoch", "eval_set"]
SMALL = {"factors": ARMS, "epochs": 2, "resolution": 16, "points": 3}


def test_the_frame_holds_every_committed_epoch_in_full_precision(make_study, tmp_path):
    folder = make_study(tmp_path, seeds=(0, 3), **SMALL)
    study = records.load(folder)

    assert len(study.frame) == 2 * 2 * 2
    assert len(study.curves) == 2 * 2 * 2 * 3
    assert study.missing == []
    assert set(study.plan["status"]) == {"finished"}
    for row in study.frame.to_dict("records"):
        record = rundir.read_json(folder / row["run"], row["epoch"], rundir.RECORD)
        timing = rundir.read_json(folder / row["run"], row["epoch"], rundir.TIMING)
        assert row["run"] == f"norm={row['norm']},head=conv,batch=128/seed={row['seed']}"
        assert row["images"] == record["images"] == 10_000 * row["epoch"]
        for name, value in {**record["losses"], **record["scores"], **timing}.items():
            assert row[name] == value


def test_a_metric_that_was_never_measured_has_no_column(make_study, tmp_path):
    never = records.load(make_study(tmp_path / "never", **SMALL))
    longer = SMALL | {"epochs": 3, "inception": "milestone"}
    some = records.load(make_study(tmp_path / "some", **longer))

    assert "fid" not in never.frame
    assert "fid" not in analyse(never).measured
    assert some.frame.groupby("epoch")["fid"].count().to_list() == [2, 2, 0]
    assert some.identities["fid"]["network"] == "inception-2015-12-05"


def test_fields_that_differ_tell_the_arms_apart(make_study, tmp_path):
    factors = ARMS | {"latent": ["normal", "uniform"], "images": [1000, 2000]}
    study = records.load(make_study(tmp_path, **SMALL | {"factors": factors, "epochs": 1}))

    assert study.factors == ["norm", "head", "batch", "latent", "training_images"]
    assert len(study.arms) == 8
    assert ("none", "conv", 128, "uniform", 2000) in study.arms
    assert study.frame["images"].equals(study.frame["training_images"])  # after one epoch


def test_runs_of_one_study_may_have_several_lengths(make_study, tmp_path):
    folder = make_study(tmp_path, **SMALL)
    longer = rundir.unseal(folder / NONE / "run.json")["config"] | {"epochs": 5}
    rundir.describe(folder / NONE, {"config": longer})
    study = records.load(folder)

    assert study.factors == ["norm", "head", "batch"]
    assert study.plan.set_index("run")["planned"].to_dict() == {NONE: 5, BATCH: 2}
    assert study.missing == [(NONE, 2, 5, "unfinished")]


def test_no_missing_run_vanishes(make_study, tmp_path):
    committed = {NONE: 0, BATCH: 1, NONE.replace("=0", "=1"): 1}
    diverged = {NONE.replace("=0", "=1"): 1}
    made = {"seeds": (0, 1), "committed": committed, "diverged": diverged}
    study = records.load(make_study(tmp_path, **made, **SMALL))

    assert study.missing == [
        (NONE, 0, 2, "not begun"),
        (NONE.replace("=0", "=1"), 1, 2, "diverged"),
        (BATCH, 1, 2, "unfinished"),
    ]
    assert len(study.plan) == 4
    assert len(study.machines) == 3
    assert list(analyse(study).last["run"]) == [BATCH.replace("=0", "=1")]
    assert study.frame.loc[study.frame["status"] == "diverged", "fd_cifar"].isna().all()


def test_two_identities_of_one_metric_are_refused(make_study, tmp_path):
    folder = make_study(tmp_path, **SMALL)
    run = json.loads((folder / BATCH / "run.json").read_text())
    run["identities"]["fd_cifar"]["generated"] = 500
    (folder / BATCH / "run.json").write_bytes(rundir.seal(run))

    with pytest.raises(BadInput) as error:
        records.load(folder)
    for word in ("fd_cifar", "generated", "2000", "500", NONE, BATCH):
        assert word in str(error.value)


@pytest.mark.parametrize(
    "name", ["epochs/0001/record.json", "epochs/0001/samples.png", "epochs/0001/SHA256SUMS",
             "banks/scores.json", "run.json"],
)  # fmt: skip
def test_a_damaged_file_is_one_error_even_in_the_middle_of_a_run(make_study, tmp_path, name):
    folder = make_study(tmp_path, eval_sets=2, **SMALL)
    path = folder / NONE / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(rundir.Damaged, match=f"{NONE}/{name.rpartition('/')[0]}") as error:
        records.load(folder)
    assert "\n" not in str(error.value)


def test_eval_sets_are_the_scores_of_each_epoch_and_set(make_study, tmp_path):
    folder = make_study(tmp_path, seeds=(0, 3), eval_sets=3, diverged={NONE: 2}, **SMALL)
    study = records.load(folder)

    assert len(study.eval_sets) == 2 * 2 * 2 * 3
    assert list(study.eval_sets.columns[:7]) == SET_KEYS
    own = study.frame.set_index(["run", "epoch"])
    for row in study.eval_sets.to_dict("records"):
        scores = json.loads((folder / row["run"] / "banks" / "scores.json").read_bytes())
        sets = [own.loc[row["run"], row["epoch"]], *scores["epochs"][str(row["epoch"])]]
        for name in ("fd_cifar", "cs_cifar", "coverage_cifar"):
            value = sets[row["eval_set"]][name]
            assert math.isnan(row[name]) if value is None or value != value else row[name] == value
    assert study.eval_sets["fd_cifar"].isna().sum() == 3  # the epoch that diverged

    empty = records.load(make_study(tmp_path / "none", **SMALL)).eval_sets
    assert list(empty.columns) == [*SET_KEYS, "fd_cifar"]
    assert len(empty) == 0


def test_a_published_study_may_lack_pictures_and_nothing_else(make_study, tmp_path):
    folder = make_study(tmp_path, **SMALL)
    whole = records.load(folder)
    (rundir.epoch_folder(folder / NONE, 1) / "samples.png").unlink()
    pd.testing.assert_frame_equal(records.load(folder).frame, whole.frame)

    (rundir.epoch_folder(folder / NONE, 1) / "timing.json").unlink()
    with pytest.raises(rundir.Damaged, match="0001"):
        records.load(folder)


def test_csv_and_parquet_give_the_frames_back(make_study, tmp_path):
    study = records.load(make_study(tmp_path, inception="milestone", eval_sets=2, **SMALL))
    paths = {path.name: path for path in records.write(study, tmp_path)}
    assert paths.keys() == {"records.csv", "records.parquet", "eval_sets.csv"}
    for name, frame in (("records.csv", study.frame), ("eval_sets.csv", study.eval_sets)):
        csv = pd.read_csv(paths[name], keep_default_na=False, na_values="")
        pd.testing.assert_frame_equal(csv, frame, check_exact=True)
    parquet = pd.read_parquet(paths["records.parquet"])
    pd.testing.assert_frame_equal(parquet, study.frame, check_exact=True)


WALKS = {"epoch": 2, "values": {"hits": 0.5}, "titles": {"hits": "hits"}, "notes": ["A note."]}


@pytest.mark.parametrize("content", ["{", json.dumps({"epoch": 2})])
def test_what_was_measured_afterwards_is_read_or_named(make_study, tmp_path, content):
    folder = make_study(tmp_path, **SMALL)
    path = folder / NONE / "eval" / "walks.json"
    path.parent.mkdir()
    path.write_text(json.dumps(WALKS | {"more": 1}))
    assert records.load(folder).analyses == {"walks": {NONE: WALKS}}
    path.write_text(json.dumps(WALKS | {"epoch": 1}))  # of another generator than the last
    assert records.load(folder).analyses == {}

    path.write_text(content)
    with pytest.raises(rundir.Damaged) as error:
        records.load(folder)
    assert f"{NONE}/eval/walks.json" in str(error.value)
    assert "\n" not in str(error.value)
