"""Everything that is derived from records, against numbers worked out by hand and by scipy."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from conftest import tables_of

from reports import claims, records
from reports.analysis import analyse

ARMS = {"norm": ["none", "batch"], "head": ["conv"], "batch": [128]}
TINY = {"resolution": 16, "points": 2}
NOISE = 0.03
EPOCHS = 6  # one of them burn-in


@pytest.fixture(scope="module")
def waves(make_study, tmp_path_factory):
    """Two arms, seven seeds, the logarithms below, evaluation sets at -, 0 and + NOISE of them."""
    made = {"seeds": range(7), "factors": ARMS, "epochs": EPOCHS, "eval_sets": 3}
    study = analyse(records.load(make_study(tmp_path_factory.mktemp("epochs"), **made, **TINY)))
    frame, sets = study.frame, study.eval_sets
    frame = frame.assign(fd_cifar=np.exp(logs(frame) - NOISE))
    sets = sets.assign(fd_cifar=np.exp(logs(sets) + NOISE * (sets["eval_set"] - 1)))
    return dataclasses.replace(study, frame=frame, eval_sets=sets)


def logs(rows):
    """Up and down by 0.1 about 4, more for higher seeds; the first epoch far above."""
    up = (rows["epoch"] % 2) * (0.1 + 0.01 * rows["seed"]) + 0.2 * (rows["seed"] % 2)
    return (4 + up + (rows["norm"] == "batch")).where(rows["epoch"] > 1, 9)


def of(table, seed, norm="none"):
    (result,) = table[(table["seed"] == seed) & (table["norm"] == norm)].to_dict("records")
    return result


def test_fluctuation_takes_the_noise_out(waves):
    table = waves.fluctuation
    assert len(table) == 14
    for seed in range(7):
        result, swing = of(table, seed), 0.1 + 0.01 * seed
        raw = 4 * swing**2 / (4 - 1 / 4) / 2  # of four changes, up and down
        wanted = {"with_noise": raw, "noise": NOISE**2, "variance": raw - NOISE**2}
        wanted |= {"drawdown": swing, "regret": 0}  # epoch 6 is as good as any
        got = {key: result[key] for key in wanted}
        assert got == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_noise_is_known_from_further_evaluation_sets_after_burn_in_alone(waves):
    some = waves.eval_sets[waves.eval_sets["epoch"].isin([1, 2, 5])].copy()
    some.loc[(some["epoch"] == 1) & (some["eval_set"] == 1), "fd_cifar"] *= 2
    table = dataclasses.replace(waves, eval_sets=some).fluctuation
    assert table["noise"].tolist() == pytest.approx([NOISE**2] * 14, rel=1e-9)

    bare = dataclasses.replace(waves, eval_sets=waves.eval_sets.iloc[:0])
    assert bare.fluctuation[["variance", "noise"]].isna().all(axis=None)
    assert bare.fluctuation["with_noise"].equals(waves.fluctuation["with_noise"])
    shown = tables_of(bare)
    assert not {"shares", "selection"} & set(shown)
    columns = set(shown["fluctuation"].headings)
    assert {"with noise, %"} == columns & {"SD, %", "with noise, %", "noise, %"}


def test_shares_add_up_and_name_the_design(waves):
    table = waves.shares
    arms = [f"norm={norm}, head=conv, batch=128" for norm in ("none", "batch")]
    assert list(table["where"]) == ["all arms", *arms]
    assert table.loc[0, ["arms", "seeds", "epochs", "eval_sets"]].tolist() == [2, 7, 5, 3]
    assert table["evaluation"].tolist() == pytest.approx([NOISE**2] * 3, rel=1e-9)
    shares = table[[f"{axis}_share" for axis in ("arm", "seed", "epoch", "evaluation")]]
    assert shares.sum(axis=1).tolist() == pytest.approx([1, 1, 1], rel=1e-12)
    assert shares.isna().sum().tolist() == [2, 0, 0, 0]  # one arm has no variance between arms
    assert table.loc[0, "arm"] == pytest.approx(0.5, rel=0.02)  # of 0 and 1

    # A seed that lacks a set of one epoch in one arm is left out of all.
    lost = waves.eval_sets.query("seed == 2 and epoch == 4 and eval_set == 1 and norm == 'none'")
    less = dataclasses.replace(waves, eval_sets=waves.eval_sets.drop(lost.index))
    assert (len(lost), less.shares["seeds"].tolist()) == (1, [6, 6, 6])


def test_the_epoch_is_chosen_on_with_noise_and_reported_on_another(waves):
    eval_sets = waves.eval_sets.copy()
    here = (eval_sets["seed"] == 1) & (eval_sets["norm"] == "none")
    for number, values in enumerate(([50.0, 40, 30, 45, 60, 55], [51.0, 20, 33, 46, 61, 44])):
        eval_sets.loc[here & (eval_sets["eval_set"] == number), "fd_cifar"] = values
    result = of(dataclasses.replace(waves, eval_sets=eval_sets).selection, 1)
    assert [result[x] for x in ("own", "other", "last")] == pytest.approx([30, 33, 44])
    assert np.exp(result["optimism"]) == pytest.approx(33 / 30, rel=1e-12)
    assert np.exp(result["gain"]) == pytest.approx(44 / 33, rel=1e-12)


def test_rank_correlation_of_the_changes_of_the_losses(waves):
    """Both losses follow the metric but for a trend of their own and the first epoch."""
    frame = waves.frame.copy()
    logs = frame["epoch"].map(dict(enumerate([9, 4, 4.3, 4.1, 4.9, 4.2], start=1)))
    frame["fd_cifar"] = np.exp(logs)
    frame["d_loss"] = (2 * logs).where(frame["epoch"] > 1, -9) - 3 * frame["epoch"]
    frame["g_loss"] = (-logs).where(frame["epoch"] > 1, 9) - 3 * frame["epoch"]
    frame.loc[frame["seed"] == 3, "d_loss"] = np.nan
    table = dataclasses.replace(waves, frame=frame).ranks
    assert of(table, 0)["d_loss"] == pytest.approx(1, rel=1e-12)
    assert of(table, 0)["g_loss"] == pytest.approx(-1, rel=1e-12)
    assert np.isnan(of(table, 3)["d_loss"])


def with_run(study, **columns):
    """The study with its first run alone, these columns given by epoch."""
    length = len(columns["fd_cifar"])
    rows = study.frame.iloc[[0] * length].reset_index(drop=True)
    frame = rows.assign(epoch=range(1, length + 1), **columns)
    plan, sets = (x[x["run"] == rows["run"][0]] for x in (study.plan, study.eval_sets))
    sets = sets.assign(epoch=sets["epoch"] + length - EPOCHS)  # the last ones
    own = {"plan": plan.assign(planned=length), "frame": frame, "eval_sets": sets}
    return dataclasses.replace(study, arms=study.arms[:1], **own)


def test_what_the_epochs_are_worth_that_one_may_choose(waves):
    fd = [1.0, 50, 20, 10, 40, 30]  # the first one is burn-in
    one = with_run(waves, fd_cifar=fd, d_loss=[9, 1, 4, 2, 3, 1], g_loss=[0, 2, 2, 3, 1, 2])
    (result,) = one.regret.to_dict("records")
    got = {x: np.exp(result[x]) for x in ("last", "best", "random", "d_loss", "g_loss")}
    mean = np.exp(np.mean(np.log(fd[1:])))
    want = {"last": 30, "best": 10, "random": mean, "d_loss": 20, "g_loss": 40}
    assert got == pytest.approx(want, rel=1e-12)
    short = dataclasses.replace(one, frame=one.frame.iloc[:-1])
    assert len(short.regret) == 0


@pytest.mark.parametrize(
    ("at", "relapse"),
    [
        ({}, 0),
        ({20: 1.06}, 1),
        ({20: 1.04}, 0),
        ({20: 1.06, 30: 1.02}, 0),  # not worse than epoch 30 by 5 per cent
        ({30: 1.06}, 1),
        ({10: 1.2}, 0),
    ],
)
def test_a_relapse_is_worse_by_5_per_cent(waves, at, relapse):
    one = with_run(waves, fd_cifar=[30 * at.get(epoch, 1) for epoch in range(1, 31)])
    (result,) = one.relapse.to_dict("records")
    assert result["relapse"] == relapse
    assert 0 < result["by_noise"] < 0.3  # noise of 3 per cent
    assert np.isnan(waves.relapse["relapse"]).all()  # six epochs

    level = with_run(waves, fd_cifar=[30.0] * 30).relapse["by_noise"]
    rising = with_run(waves, fd_cifar=np.linspace(20, 90, 30)).relapse
    assert rising["by_noise"].tolist() == pytest.approx(level.tolist())  # no trend of noise's
    assert rising["relapse"].tolist() == [1]
    falling = with_run(waves, fd_cifar=np.linspace(90, 20, 30)).relapse
    assert (falling["by_noise"] < level).all()


def calibrated(study, untrained):
    known = pd.DataFrame({"fd_cifar": {"held-out": 0.4, "untrained": untrained}})
    return dataclasses.replace(study, calibration=known)


def test_the_time_to_a_threshold(waves):
    clocks = {"images": [100, 200, 300], "steps": [10, 20, 30]}
    one = with_run(waves, fd_cifar=np.exp([4.0, 2.0, 3.0]), **clocks)
    known = calibrated(one, np.exp(6.0))  # 5 is half way from the untrained generator
    for study, log, want in ((one, 3.5, 125), (one, 1.9, np.nan), (one, 5, 100), (known, 5, 50)):
        (result,) = study.reached(np.exp(log)).to_numpy()
        assert result == pytest.approx([want, want / 10], nan_ok=True, rel=1e-9)


def test_how_many_runs_reach_a_threshold(waves):
    level = 35.0 + 10 * (waves.frame["norm"] == "batch") - 10 * (waves.frame["seed"] == 3)
    frame = waves.frame.assign(fd_cifar=level.where(waves.frame["epoch"] > 2, 90))
    study = dataclasses.replace(waves, frame=frame)
    counts = study.reach.set_index(["norm", "threshold"])
    reached = counts["reached"].unstack(fill_value=0).loc[["none", "batch"], [50, 40, 30]]
    assert reached.to_numpy().tolist() == [[7, 7, 1], [7, 1, 0]]
    assert ("batch", 30) not in counts.index
    assert set(counts["runs"]) == {7}
    assert (counts["images"].isna() == (counts["reached"] < 7)).all()
    rows = tables_of(study)["reach"].rows
    assert [row[4] for row in rows if row[3] == "40"] == ["7 of 7", "1 of 7"]


def test_arms_that_have_learnt_nothing_are_left_out(waves):
    """norm=none ends at e^4 and norm=batch at e^5, some seeds above and some below."""
    both = calibrated(waves, np.exp(5.5) / 0.8)
    one, neither = calibrated(waves, np.exp(5.0) / 0.8), calibrated(waves, np.exp(3.9) / 0.8)
    assert both.floor == pytest.approx(np.exp(5.5))
    assert both.learners.arms == neither.learners.arms == waves.arms
    assert np.isnan(waves.floor)
    assert waves.learners is waves
    left = one.learners
    assert left.arms == [("none", "conv", 128)]
    for part in (left.plan, left.frame, left.eval_sets, left.curves):
        assert set(part["norm"]) == {"none"}


def test_a_study_none_of_whose_runs_has_ended_can_be_judged(make_study, tmp_path):
    begun = {f"norm={norm},head=conv,batch=128/seed=0": 1 for norm in ARMS["norm"]}
    made = make_study(tmp_path, factors=ARMS, epochs=4, committed=begun, **TINY)
    study = analyse(records.load(made))
    assert study.regret.columns.to_list()[-2:] == ["d_loss", "g_loss"]
    words = {one.verdict for one in claims.judge(study)}
    assert words <= {"not yet run", "not testable", "inconclusive"}


@pytest.fixture(scope="module")
def grid(make_study, tmp_path_factory):
    """Four arms, seven seeds, four epochs; batch=512 is 0.7 times as high."""
    made = {"seeds": range(7), "factors": ARMS | {"batch": [128, 512]}, "epochs": 4}
    study = analyse(records.load(make_study(tmp_path_factory.mktemp("grid"), **made, **TINY)))
    rows = study.frame
    fd = rows["epoch"] * (1 + rows["seed"] ** 2) * np.where(rows["batch"] == 512, 7, 10)
    return dataclasses.replace(study, frame=rows.assign(fd_cifar=fd.astype(float)))


def test_few_seeds_and_a_seed_without_a_cell_are_named(grid):
    few = dataclasses.replace(grid, frame=grid.frame[grid.frame["seed"] < 5])
    frame = grid.frame.query("not (seed == 3 and norm == 'batch' and batch == 512)")
    less = dataclasses.replace(grid, frame=frame)
    assert [x.dropped for x in less.last_effects["fd_cifar"]] == [[3]] * 3
    for study, seed_3, too_few in ((grid, False, False), (less, True, False), (few, False, True)):
        shown = tables_of(study)
        for notes in (" ".join(shown[name].notes) for name in ("effects", "batch")):
            assert ("seed 3" in notes) == seed_3
            assert ("cannot be below 0.0625" in notes) == ("verdict" in notes) == too_few


def test_batch_at_equal_epochs_and_at_equal_updates(grid):
    """128 makes 79 updates an epoch, 512 makes 20: 80 in all, and 79 after one."""
    table = grid.batch_effects.set_index(["at", "where"])
    assert len(table) == 2 * 3
    for where in ("all", "norm=none", "norm=batch"):
        epochs, updates = table.loc[("epochs", where)], table.loc[("updates", where)]
        assert (epochs["updates_low"], epochs["updates_high"]) == (316, 80)
        assert (updates["updates_low"], updates["updates_high"]) == (79, 80)
        assert epochs["ratio"] == pytest.approx(0.7, rel=1e-12)
        assert updates["ratio"] == pytest.approx(0.7 * 4, rel=1e-12)


def test_runs_are_compared_at_equal_updates(make_study, tmp_path):
    factors = ARMS | {"norm": ["none"], "batch": [128, 512, 9000]}
    study = analyse(records.load(make_study(tmp_path, factors=factors, epochs=8, **TINY)))
    rows = study.parts["updates", "all"].set_index("batch")

    # An epoch is 79, 20 or 2 updates; the fewest in all are 16, and 79 is not within 2 % of that.
    assert (rows.loc[9000, "steps"], rows.loc[9000, "epoch"]) == (16, 8)
    assert rows["fd_cifar"].isna().to_dict() == {128: True, 512: True, 9000: False}

    two = dataclasses.replace(study, frame=study.frame[study.frame["batch"] < 9000])
    rows = two.parts["updates", "all"].set_index("batch")
    assert rows["steps"].to_dict() == {128: 158, 512: 160}
    expected = two.frame.set_index(["batch", "epoch"])["fd_cifar"]
    assert rows.loc[128, "fd_cifar"] == expected[128, 2]
    assert rows.loc[512, "fd_cifar"] == expected[512, 8]

    # After half as many updates they meet as well, and the table has both.
    table = two.batch_effects
    assert table["at"].tolist() == ["epochs", "updates", "updates"]
    updates = table[["updates_low", "updates_high"]].iloc[1:]
    assert updates.to_numpy().tolist() == [[79, 80], [158, 160]]
    assert two.update_goals.tolist() == [80, 160]
    ratio = expected[512, 4] / expected[128, 1]
    assert table["ratio"].tolist()[1] == pytest.approx(ratio, rel=1e-9)


def test_agreement_is_spearman_s_with_the_sign_of_the_metric(pair):
    one = pair.frame[pair.frame["run"] == pair.frame["run"].iloc[0]]
    table = dataclasses.replace(pair, frame=one).agreement.set_index("metric")
    for metric, sign in (("kd_cifar", 1), ("cs_cifar", -1)):
        expected = sign * one[["fd_cifar", metric]].rank().corr().iloc[0, 1]
        row = table.loc[metric]
        assert row["runs"] == row["lowest"] == pytest.approx(expected)
        assert row["epochs"] == 4
    assert "precision_cifar" not in table.index


def row(table, norm):
    return table.set_index("norm").loc[norm]


def test_last_best_and_fixed_epochs_by_hand(pair):
    last, best = row(pair.scores("last"), "none"), row(pair.scores("best"), "none")
    assert last["fd_cifar"] == 25.0
    assert last["fd_cifar_n"] == last["seeds"] == 2
    assert last["fd_cifar_sd"] == pytest.approx(np.sqrt(50), rel=1e-12)
    assert (last["epochs"], best["epochs"]) == ("4 4", "3 2")
    assert best["fd_cifar"] == 15.0
    assert row(pair.scores("best"), "batch")["epochs"] == "4 1"
    assert row(pair.scores(2), "batch")["fd_cifar"] == 85.0
    assert "fid" not in last

    # The best epoch gives the other metrics their epoch.
    frame = pair.frame
    chosen = frame[(frame["norm"] == "none") & (frame["epoch"] == np.where(frame["seed"], 2, 3))]
    assert best["cs_cifar"] == pytest.approx(chosen["cs_cifar"].mean(), rel=1e-12)


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(1, [1]), (3, [1, 2, 3]), (30, [1, 2, 5, 10, 20, 30]), (80, [1, 20, 30, 40, 50, 80])],
)
def test_fixed_epochs(pair, epochs, expected):
    longer = dataclasses.replace(pair, plan=pair.plan.assign(planned=epochs))
    assert longer.fixed_epochs == expected
