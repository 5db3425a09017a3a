"""Fluctuation, shares of variance, selection and losses against numbers worked out by hand."""

import dataclasses

import numpy as np
import pytest

from reports import epochs, records

ARMS = {"norm": ["none", "batch"], "head": ["conv"], "batch": [128]}
TINY = {"resolution": 16, "points": 2}
NOISE = 0.03
EPOCHS = 6  # one of them burn-in


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
        assert found["variance"] == pytest.approx(raw - NOISE**2 / 3, rel=1e-9)
        assert found["drawdown"] == pytest.approx(swing, rel=1e-9)
        assert found["regret"] == pytest.approx(0, abs=1e-12)  # epoch 6 is as good as any


def test_without_banks_no_noise_is_taken_out_and_the_table_says_so(study):
    bare = dataclasses.replace(study, banks=study.banks.iloc[:0])
    table = epochs.fluctuation_table(bare)
    assert table["variance"].isna().all()
    assert table["noise"].isna().all()
    whole = epochs.fluctuation_table(study)
    assert np.allclose(table["one_bank"], whole["one_bank"], rtol=1e-12, atol=0)
    shown = {sheet.name: sheet for sheet in epochs.sheets(bare)}
    assert list(shown) == ["fluctuation", "ranks"]
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


def test_rank_correlation_of_the_losses(study):
    frame = study.frame.copy()
    frame["d_loss"], frame["g_loss"] = frame["fd_cifar"] ** 2, -frame["fd_cifar"]
    frame.loc[frame["seed"] == 3, "d_loss"] = np.nan
    table = epochs.losses_rank_table(dataclasses.replace(study, frame=frame))
    assert of(table, 0)["d_loss"] == pytest.approx(1, rel=1e-12)
    assert of(table, 0)["g_loss"] == pytest.approx(-1, rel=1e-12)
    assert np.isnan(of(table, 3)["d_loss"])
    assert set(table["epochs"]) == {EPOCHS}


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
    assert list(shown) == ["fluctuation", "shares", "selection", "ranks"]
    for sheet in shown.values():
        assert all(len(row) == len(sheet.columns) for row in sheet.rows)
        assert sheet.metrics == ["fd_cifar"]
        assert not any("verdict" in note for note in sheet.notes)
    assert shown["fluctuation"].rows[0][6] == "3.0"  # the noise, in percent
    three = {name: getattr(study, name).query("seed < 3") for name in ("plan", "frame", "banks")}
    few = dataclasses.replace(study, **three)
    notes = next(sheet for sheet in epochs.sheets(few) if sheet.name == "ranks").notes
    assert any("cannot be below 0.25" in note for note in notes)
