"""The effects of the grid against numbers worked out by hand and by scipy."""

import dataclasses
import io

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reports import effects, records, tables

GRID = {"norm": ["none", "batch"], "head": ["conv"], "batch": [128, 512]}
TINY = {"resolution": 16, "points": 2}
SEEDS = 7


@pytest.fixture(scope="module")
def study(make_study, tmp_path_factory):
    """Four arms, seven seeds, four epochs, with the numbers of `value`."""
    folder = make_study(
        tmp_path_factory.mktemp("effects"), seeds=range(SEEDS), factors=GRID, epochs=4, **TINY
    )
    found = records.load(folder)
    rows = found.frame.to_dict("records")
    return dataclasses.replace(found, frame=found.frame.assign(fd_cifar=[*map(value, rows)]))


def norm_effect(seed):
    return 1.5 * (1 + 0.02 * (seed % 3))


def value(row):
    """Seeds differ a lot, their norm effects little; batch=512 is 0.7 times as high."""
    number = 10.0 * row["epoch"] * (1 + row["seed"] ** 2)
    number *= norm_effect(row["seed"]) if row["norm"] == "batch" else 1
    return number * (0.7 if row["batch"] == 512 else 1)


def row(table, **wanted):
    chosen = np.logical_and.reduce([table[key] == value for key, value in wanted.items()])
    (found,) = table[chosen].to_dict("records")
    return found


def test_effects_by_hand(study):
    table = effects.effects_table(study)
    assert list(table["effect"]) == [
        "norm=batch against none", "batch=512 against 128", "norm × batch",
    ]  # fmt: skip

    logs = np.log([norm_effect(seed) for seed in range(SEEDS)])
    norm = row(table, factors=1, effect="norm=batch against none")
    low, high = stats.t.interval(0.95, SEEDS - 1, logs.mean(), stats.sem(logs))
    assert norm["ratio"] == pytest.approx(np.exp(logs.mean()), rel=1e-12)
    assert norm["ratio_low"] == pytest.approx(np.exp(low), rel=1e-9)
    assert norm["ratio_high"] == pytest.approx(np.exp(high), rel=1e-9)
    assert norm["p_flip"] == 2 / 2**SEEDS
    assert norm["p_t"] == pytest.approx(stats.ttest_1samp(logs, 0).pvalue, rel=1e-9)
    gaps = [40 * (1 + s**2) * (norm_effect(s) - 1) * 0.85 for s in range(SEEDS)]
    assert norm["difference"] == pytest.approx(np.mean(gaps), rel=1e-12)
    assert (norm["n"], norm["seeds"], norm["dropped"]) == (SEEDS, "0 1 2 3 4 5 6", "")

    # Neither the order of the rows nor what seeds share matters.
    mixed = dataclasses.replace(
        study, frame=study.frame.iloc[::-1].sort_values("norm", kind="stable", ascending=False)
    )
    again = effects.effects_table(mixed)
    assert row(again, effect="norm=batch against none")["ratio"] == pytest.approx(norm["ratio"])
    assert row(table, factors=2)["ratio"] == pytest.approx(1, rel=1e-12)
    assert np.isnan(row(table, factors=2)["p_holm"])


def test_a_seed_without_a_cell_is_left_out_and_named(study):
    frame = study.frame.copy()
    here = (frame["seed"] == 3) & (frame["norm"] == "batch") & (frame["batch"] == 512)
    frame.loc[here, "fd_cifar"] = np.nan
    less = dataclasses.replace(study, frame=frame)
    table = effects.effects_table(less)
    assert set(table["n"]) == {SEEDS - 1}
    assert set(table["dropped"]) == {"3"}
    kept = [np.log(norm_effect(seed)) for seed in range(SEEDS) if seed != 3]
    norm = row(table, effect="norm=batch against none")
    assert norm["ratio"] == pytest.approx(np.exp(np.mean(kept)), rel=1e-12)
    sheet = effects.sheets(less)[0]
    assert any("seed 3" in note for note in sheet.notes)
    assert not any("seed 3" in note for note in effects.sheets(study)[0].notes)


def test_batch_at_equal_epochs_and_at_equal_updates(study):
    """128 makes 79 updates an epoch, 512 makes 20: 80 in all, and 79 after one."""
    table = effects.batch_table(study)
    assert len(table) == 2 * 3
    for where in ("all", "norm=none", "norm=batch"):
        same_epochs = row(table, at="epochs", where=where)
        updates = row(table, at="updates", where=where)
        assert (same_epochs["updates_low"], same_epochs["updates_high"]) == (316, 80)
        assert (updates["updates_low"], updates["updates_high"]) == (79, 80)
        assert same_epochs["ratio"] == pytest.approx(0.7, rel=1e-12)
        assert updates["ratio"] == pytest.approx(0.7 * 4, rel=1e-12)


def test_the_sheets_round_the_tables(study):
    shown = {sheet.name: sheet for sheet in effects.sheets(study)}
    assert list(shown) == ["effects", "batch"]
    first = effects.effects_table(study).iloc[0]
    cells = dict(zip(shown["effects"].columns, shown["effects"].rows[0], strict=True))
    ends = (first["ratio"], first["ratio_low"], first["ratio_high"])
    assert cells["ratio (95 %)"] == "{:.3f} ({:.3f} to {:.3f})".format(*ends)
    assert cells["p, flip"] == "0.016"
    assert cells["n"] == str(SEEDS)
    back = pd.read_csv(io.StringIO(tables.to_csv(effects.effects_table(study))))
    assert np.allclose(back["ratio"], effects.effects_table(study)["ratio"], rtol=1e-5, atol=0)


@pytest.mark.parametrize(("seeds", "least"), [(1, "1"), (3, "0.25"), (5, "0.0625")])
def test_few_seeds_get_no_verdict_and_are_told_why(study, seeds, least):
    few = dataclasses.replace(study, frame=study.frame[study.frame["seed"] < seeds])
    shown = effects.sheets(few)
    assert len(shown) == (2 if seeds > 1 else 0)
    assert all(any(f"cannot be below {least}" in n for n in one.notes) for one in shown)
    assert f"cannot be below {least}" in effects.no_verdict(seeds)
    assert not any("verdict" in note for one in effects.sheets(study) for note in one.notes)
