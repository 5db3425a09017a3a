"""What happens from epoch to epoch, against numbers worked out by hand."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from reports import claims, epochs, records

ARMS = {"norm": ["none", "batch"], "head": ["conv"], "batch": [128]}
TINY = {"resolution": 16, "points": 2}
NOISE = 0.03
EPOCHS = 6  # one of them burn-in
PARTS = ("plan", "frame", "banks")


@pytest.fixture(scope="module")
def study(make_study, tmp_path_factory):
    """Two arms, seven seeds, with the logarithms below, and banks at -, 0 and + NOISE of them."""
    folder = make_study(
        tmp_path_factory.mktemp("epochs"), seeds=range(7), factors=ARMS, epochs=EPOCHS, banks=3,
        **TINY,
    )  # fmt: skip
    found = records.load(folder)
    frame, banks = found.frame.copy(), found.banks.copy()
    for row in frame.itertuples():
        value = np.exp(log(row))
        frame.loc[row.Index, "fd_cifar"] = value * np.exp(-NOISE)
        here = (banks["run"] == row.run) & (banks["epoch"] == row.epoch)
        banks.loc[here, "fd_cifar"] = value * np.exp(NOISE * np.array([-1, 0, 1]))
    return dataclasses.replace(found, frame=frame, banks=banks)


def log(row):
    """Up and down by 0.1 about 4, more for higher seeds; the first epoch far above."""
    if row.epoch == 1:
        return 9.0
    up = (row.epoch % 2) * (0.1 + 0.01 * row.seed)
    return 4 + up + (1 if row.norm == "batch" else 0) + 0.2 * (row.seed % 2)


def of(table, seed, norm="none"):
    (found,) = table[(table["seed"] == seed) & (table["norm"] == norm)].to_dict("records")
    return found


def test_fluctuation_takes_the_noise_out(study):
    table = epochs.fluctuation_table(study)
    assert len(table) == 14
    for seed in range(7):
        found, swing = of(table, seed), 0.1 + 0.01 * seed
        changes = swing * np.array([1, -1, 1, -1])
        raw = ((changes - changes.mean()) ** 2).sum() / (4 - 1 / 4) / 2
        assert found["changes"] == 4
        assert found["noise"] == pytest.approx(NOISE**2, rel=1e-9)
        assert found["one_bank"] == pytest.approx(raw, rel=1e-9)
        assert found["variance"] == pytest.approx(raw - NOISE**2, rel=1e-9)
        assert found["drawdown"] == pytest.approx(swing, rel=1e-9)
        assert found["regret"] == pytest.approx(0, abs=1e-12)  # epoch 6 is as good as any


def test_noise_is_known_from_some_epochs_and_not_from_those_of_the_burn_in(study):
    banks = study.banks[study.banks["epoch"].isin([1, 2, 5])].copy()
    banks.loc[(banks["epoch"] == 1) & (banks["bank"] == 1), "fd_cifar"] *= 2
    table = epochs.fluctuation_table(dataclasses.replace(study, banks=banks))
    whole = epochs.fluctuation_table(study)
    assert table["noise"].tolist() == pytest.approx([NOISE**2] * 14, rel=1e-9)
    assert table["variance"].tolist() == pytest.approx(whole["variance"].tolist(), rel=1e-9)


def test_without_banks_no_noise_is_taken_out_and_the_table_says_so(study):
    bare = dataclasses.replace(study, banks=study.banks.iloc[:0])
    table = epochs.fluctuation_table(bare)
    assert table["variance"].isna().all()
    assert table["noise"].isna().all()
    whole = epochs.fluctuation_table(study)
    assert np.allclose(table["one_bank"], whole["one_bank"], rtol=1e-12, atol=0)
    shown = {sheet.name: sheet for sheet in epochs.sheets(bare)}
    assert list(shown) == ["fluctuation", "ranks", "regret"]
    assert any("not taken out" in note for note in shown["fluctuation"].notes)
    assert {row[4] for row in shown["fluctuation"].rows} == {"–"}


def test_shares_add_up_and_name_the_design(study):
    table = epochs.shares_table(study)
    assert list(table["where"]) == [
        "all arms",
        "norm=none, head=conv, batch=128",
        "norm=batch, head=conv, batch=128",
    ]
    assert table.loc[0, ["arms", "seeds", "epochs", "banks"]].tolist() == [2, 7, 5, 3]
    assert table["evaluation"].tolist() == pytest.approx([NOISE**2] * 3, rel=1e-9)
    shares = table[[f"{axis}_share" for axis in ("arm", "seed", "epoch", "evaluation")]]
    assert shares.sum(axis=1).tolist() == pytest.approx([1, 1, 1], rel=1e-12)
    assert shares.isna().sum().tolist() == [2, 0, 0, 0]  # one arm has no variance between arms
    assert table.loc[0, "arm"] == pytest.approx(0.5, rel=0.02)  # of 0 and 1

    # A seed that lacks a bank of one epoch in one arm is left out of all.
    lost = (study.banks["seed"] == 2) & (study.banks["epoch"] == 4) & (study.banks["bank"] == 1)
    lost &= study.banks["norm"] == "none"
    less = dataclasses.replace(study, banks=study.banks[~lost])
    assert epochs.shares_table(less)["seeds"].tolist() == [6, 6, 6]


def test_the_epoch_is_chosen_on_one_bank_and_reported_on_another(study):
    banks = study.banks.copy()
    here = (banks["seed"] == 1) & (banks["norm"] == "none")
    for bank, values in enumerate(([50, 40, 30, 45, 60, 55], [51, 20, 33, 46, 61, 44])):
        banks.loc[here & (banks["bank"] == bank), "fd_cifar"] = np.array(values, dtype=float)
    found = of(epochs.selection_table(dataclasses.replace(study, banks=banks)), 1)
    assert (found["epoch"], found["own"], found["other"]) == (
        3,
        pytest.approx(30),
        pytest.approx(33),
    )
    assert found["last"] == pytest.approx(44)
    assert np.exp(found["optimism"]) == pytest.approx(33 / 30, rel=1e-12)
    assert np.exp(found["gain"]) == pytest.approx(44 / 33, rel=1e-12)

    one_bank = dataclasses.replace(study, banks=study.banks[study.banks["bank"] == 0])
    assert len(epochs.selection_table(one_bank)) == 0
    assert len(epochs.shares_table(one_bank)) == 0


def test_rank_correlation_of_the_changes_of_the_losses(study):
    """Both losses follow the metric but for a trend of their own and the first epoch."""
    frame = study.frame.copy()
    logs = frame["epoch"].map(dict(enumerate([9, 4, 4.3, 4.1, 4.9, 4.2], start=1)))
    frame["fd_cifar"] = np.exp(logs)
    frame["d_loss"] = (2 * logs).where(frame["epoch"] > 1, -9) - 3 * frame["epoch"]
    frame["g_loss"] = (-logs).where(frame["epoch"] > 1, 9) - 3 * frame["epoch"]
    frame.loc[frame["seed"] == 3, "d_loss"] = np.nan
    table = epochs.losses_rank_table(dataclasses.replace(study, frame=frame))
    assert of(table, 0)["d_loss"] == pytest.approx(1, rel=1e-12)
    assert of(table, 0)["g_loss"] == pytest.approx(-1, rel=1e-12)
    assert np.isnan(of(table, 3)["d_loss"])
    assert set(table["changes"]) == {EPOCHS - 2}


def test_a_trend_that_a_loss_shares_is_no_relation(study):
    frame = study.frame.copy()
    wave = np.array([0, 0, 1, 0, 0, 1])  # of changes: up, down, none, up
    other = np.array([0, 0, 0, 0, 1, 1])  # none, none, up, none
    for run in frame["run"].unique():
        here = frame["run"] == run
        frame.loc[here, "fd_cifar"] = np.exp(9 - np.arange(EPOCHS) + 0.1 * wave)
        frame.loc[here, "d_loss"] = 9 - np.arange(EPOCHS) + 0.1 * other
    found = epochs.losses_rank_table(dataclasses.replace(study, frame=frame))["d_loss"]
    ranks = np.corrcoef([3.5, 1, 2, 3.5], [2, 2, 4, 2])[0, 1]
    assert found.tolist() == pytest.approx([ranks] * 14, rel=1e-9)


def with_run(study, **columns):
    """The study with its first run alone, these columns given by epoch."""
    run, frames = study.frame["run"].iloc[0], {x: getattr(study, x) for x in PARTS}
    parts = {name: frame[frame["run"] == run] for name, frame in frames.items()}
    length = len(next(iter(columns.values())))
    rows = parts["frame"].iloc[[0] * length].reset_index(drop=True)
    frame = rows.assign(epoch=range(1, length + 1), **columns)
    plan, banks = parts["plan"].assign(planned=length), parts["banks"]
    banks = banks.assign(epoch=banks["epoch"] + length - EPOCHS)  # the last ones
    arms = study.arms[:1]
    return dataclasses.replace(study, plan=plan, frame=frame, banks=banks, arms=arms)


def test_what_the_epochs_are_worth_that_one_may_choose(study):
    fd = [1.0, 50, 20, 10, 40, 30]  # the first one is burn-in
    one = with_run(study, fd_cifar=fd, d_loss=[9, 1, 4, 2, 3, 1], g_loss=[0, 2, 2, 3, 1, 2])
    (found,) = epochs.regret_table(one).to_dict("records")
    got = {x: np.exp(found[x]) for x in ("last", "best", "random", "d_loss", "g_loss")}
    mean = np.exp(np.mean(np.log(fd[1:])))
    want = {"last": 30, "best": 10, "random": mean, "d_loss": 20, "g_loss": 40}
    assert got == pytest.approx(want, rel=1e-12)
    short = dataclasses.replace(one, frame=one.frame.iloc[:-1])
    assert len(epochs.regret_table(short)) == 0


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
def test_a_relapse_is_worse_by_5_per_cent(study, at, relapse):
    one = with_run(study, fd_cifar=[30 * at.get(epoch, 1) for epoch in range(1, 31)])
    (found,) = epochs.relapse_table(one).to_dict("records")
    assert found["relapse"] == relapse
    assert 0 < found["by_noise"] < 0.3  # noise of 3 per cent
    assert np.isnan(epochs.relapse_table(study)["relapse"]).all()  # six epochs

    level = epochs.relapse_table(with_run(study, fd_cifar=[30.0] * 30))["by_noise"]
    rising = epochs.relapse_table(with_run(study, fd_cifar=np.linspace(20, 90, 30)))
    assert rising["by_noise"].tolist() == pytest.approx(level.tolist())  # no trend of noise's
    assert rising["relapse"].tolist() == [1]
    falling = epochs.relapse_table(with_run(study, fd_cifar=np.linspace(90, 20, 30)))
    assert (falling["by_noise"] < level).all()


def calibrated(study, untrained):
    known = pd.DataFrame({"fd_cifar": {"held-out": 0.4, "untrained": untrained}})
    return dataclasses.replace(study, calibration=known)


def test_the_time_to_a_threshold(study):
    images, steps = [100, 200, 300], [10, 20, 30]
    fd = np.exp([4.0, 2.0, 3.0])
    one = with_run(study, fd_cifar=fd, images=images, steps=steps)
    for of, log, want in ((one, 3.5, 125), (one, 2.0, 200), (one, 1.9, np.nan), (one, 5, 100)):
        (found,) = epochs.reached(of, np.exp(log)).to_dict("records")
        assert found["images"] == pytest.approx(want, nan_ok=True, rel=1e-9)
        assert found["steps"] == pytest.approx(want / 10, nan_ok=True, rel=1e-9)
    (found,) = epochs.reached(calibrated(one, np.exp(6.0)), np.exp(5.0)).to_dict("records")
    assert found["images"] == pytest.approx(50)  # half way from the untrained generator


def test_how_many_runs_reach_a_threshold(study):
    frame = study.frame.copy()
    level = 35.0 + 10 * (frame["norm"] == "batch") - 10 * (frame["seed"] == 3)
    frame["fd_cifar"] = level.where(frame["epoch"] > 2, 90)
    table = epochs.reach_table(dataclasses.replace(study, frame=frame))
    counts = {(x["norm"], x["threshold"]): x["reached"] for x in table.to_dict("records")}
    assert counts == {
        ("none", 50): 7, ("none", 40): 7, ("none", 30): 1,
        ("batch", 50): 7, ("batch", 40): 1, ("batch", 30): 0,
    }  # fmt: skip
    assert set(table["runs"]) == {7}
    assert (table["images"].isna() == (table["reached"] < 7)).all()
    rows = epochs.sheets(dataclasses.replace(study, frame=frame))[-1].rows
    assert [row[4] for row in rows if row[3] == "40"] == ["7 of 7", "1 of 7"]
    assert [row[5:] for row in rows if row[4] != "7 of 7"] == [["–", "–"]] * 3


def test_arms_that_have_learnt_nothing_are_left_out(study):
    """norm=none ends at e^4 and norm=batch at e^5, some seeds above and some below."""
    both = calibrated(study, np.exp(5.5) / 0.8)
    one, neither = calibrated(study, np.exp(5.0) / 0.8), calibrated(study, np.exp(3.9) / 0.8)
    assert epochs.floor(both) == pytest.approx(np.exp(5.5))
    assert epochs.learners(both).arms == epochs.learners(neither).arms == study.arms
    assert np.isnan(epochs.floor(study))
    assert epochs.learners(study) is study
    left = epochs.learners(one)
    assert left.arms == [("none", "conv", 128)]
    for part in (left.plan, left.frame, left.banks, left.curves):
        assert set(part["norm"]) == {"none"}


def test_means_over_seeds_have_intervals_and_a_single_seed_has_none(study):
    arms = epochs.by_arm(study, epochs.fluctuation_table(study), ["drawdown"])
    assert arms["seeds"].tolist() == [7, 7]
    assert arms["drawdown"].tolist() == pytest.approx([0.13, 0.13], rel=1e-9)
    half = 2.4469 * 0.01 * np.sqrt(28 / 6) / np.sqrt(7)  # t of 6, SD of 0 to 6
    assert arms["drawdown_high"].tolist() == pytest.approx([0.13 + half] * 2, rel=1e-4)

    one = dataclasses.replace(study, frame=study.frame[study.frame["seed"] == 4])
    arms = epochs.by_arm(one, epochs.fluctuation_table(one), ["drawdown"])
    assert arms["drawdown"].tolist() == pytest.approx([0.14, 0.14], rel=1e-9)
    assert arms[["drawdown_low", "drawdown_high"]].isna().all(axis=None)


def test_what_a_reader_sees(study):
    shown = {sheet.name: sheet for sheet in epochs.sheets(study)}
    assert list(shown) == ["fluctuation", "shares", "selection", "ranks", "regret"]
    for sheet in shown.values():
        assert all(len(row) == len(sheet.columns) for row in sheet.rows)
        assert sheet.metrics == ["fd_cifar"]
        assert not any("verdict" in note for note in sheet.notes)
    assert shown["fluctuation"].rows[0][6] == "3.0"  # the noise, in percent
    three = {name: getattr(study, name).query("seed < 3") for name in ("plan", "frame", "banks")}
    few = dataclasses.replace(study, **three)
    notes = next(sheet for sheet in epochs.sheets(few) if sheet.name == "ranks").notes
    assert any("cannot be below 0.25" in note for note in notes)


def test_a_study_none_of_whose_runs_has_ended_can_be_judged(make_study, tmp_path):
    begun = {f"norm={norm},head=conv,batch=128/seed=0": 1 for norm in ARMS["norm"]}
    study = records.load(make_study(tmp_path, factors=ARMS, epochs=4, committed=begun, **TINY))
    assert epochs.regret_table(study).columns.to_list()[-2:] == ["d_loss", "g_loss"]
    words = {one.verdict for one in claims.judge(study)}
    assert words <= {"not yet run", "not testable", "inconclusive"}
