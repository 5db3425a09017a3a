"""The sentences against numbers worked out by hand."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from conftest import with_values
from scipy import stats

from reports import claims, findings, records

ARMS = {"norm": ["none", "batch"], "head": ["conv"], "batch": [128]}
GRID = {"norm": ["none", "batch"], "head": ["conv", "avgpool"], "batch": [128, 512]}
TINY = {"resolution": 16, "points": 2}


@pytest.fixture(scope="module")
def grid(make_study, tmp_path_factory):
    """The whole grid with six seeds, four epochs and three evaluation banks."""
    folder = make_study(
        tmp_path_factory.mktemp("grid"), seeds=range(6), factors=GRID, epochs=4, banks=3, **TINY
    )
    return records.load(folder)


def test_counts_by_hand(pair):
    found = findings.findings(pair)

    # 60 / 20 and 90 / 30 at the last epoch: both worse, three times as high.
    assert "worse in 2 of 2 pairs with norm=none, 3.00 times as high" in found.headline[0]
    # The best epochs are 3, 2, 4 and 1 of 4; the largest rise is from 10 to 20.
    assert "not the last one in 3 of 4 runs" in found.headline[1]
    assert len(found.headline) == 2
    assert "never below the bound of ln 2 = 0.6931" in found.factors[0]
    assert "by a factor of 2.00, from 10.0 to 20.0 between epochs 3 and 4" in found.epochs[0]
    assert "norm=none,head=conv,batch=128/seed=0" in found.epochs[0]
    assert found.epochs[1:] == [
        "These are counts from 2 seeds. Below 6 seeds no verdict is given: the p of a two-sided "
        "sign-flip test of 2 seeds cannot be below 0.5."
    ]
    assert "cannot be below 0.5" in findings.how_sure(pair)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([10.0, 10.0], "better in 2 of 2 pairs with norm=none, 0.408 times as high"),
        ([20.0, 30.0], "equal in 2 of 2 pairs with norm=none, 1.00 times as high"),
        ([10.0, 60.0], "worse in 1 and better in 1 of 2 pairs with norm=none, 1.00 times as high"),
        ([math.nan, 60.0], "worse in 1 of 1 pair with norm=none, 2.00 times as high"),
        ([math.nan, math.nan], "norm=batch against norm=none: no pair is complete"),
    ],
)
def test_the_wording_follows_the_numbers(pair, values, words):
    given = {("batch", seed): [99.0, 99.0, 99.0, value] for seed, value in enumerate(values)}
    sentence = findings.findings(with_values(pair, "fd_cifar", given)).headline[0]

    assert words in sentence
    absent = sum(map(math.isnan, values))
    assert (f"{absent} of 2 planned pairs are not complete" in sentence) == (absent > 0)


@pytest.mark.parametrize(
    ("lowest", "words"),
    [
        (0.69314718, "never below the bound"),  # ln 2, as a float32 rounds it
        (0.6931, "below the bound of ln 2 = 0.6931 in 1 of them"),
        (0.5, "below the bound of ln 2 = 0.6931 in 1 of them"),
    ],
)
def test_a_step_below_ln_2_is_not_hidden(pair, lowest, words):
    study = with_values(pair, "d_loss_min", {("batch", 0): [0.9, lowest, 0.9, 0.9]})
    assert words in findings.findings(study).factors[0]


def test_six_seeds_give_intervals(grid):
    found = findings.findings(grid)
    norm, head, batch, moves = found.headline

    # The first sentence, worked out once more.
    last = grid.frame[grid.frame["epoch"] == 4].assign(log=lambda x: np.log(x["fd_cifar"]))
    wide = last.pivot_table("log", "seed", "norm")  # the mean over the four other cells
    change = wide["batch"] - wide["none"]
    low, high = stats.t.interval(0.95, 5, change.mean(), change.sem())
    expected = [f"{x:#.3g}".rstrip(".") for x in np.exp([change.mean(), low, high])]
    assert norm.startswith(
        "norm=batch makes fd_cifar {} times as high as norm=none ({} to {}, p ".format(*expected)
    )
    assert head.endswith(": not established.")
    assert "times as high as batch=128 (" in batch
    assert batch.rstrip(".").endswith("at equal updates")
    assert "% (" in moves
    assert "of 48 runs" in moves

    text = " ".join(found.all)
    assert "counts" not in text
    assert "no verdict" not in text
    for words in ("rank correlation", "Of the variance", "evaluation bank", "images a second"):
        assert words in text
    assert findings.how_sure(grid).startswith("6 seeds of each of 8 arms, paired by seed.")


def test_of_epochs_and_losses_only_arms_that_have_learnt_are_told(grid):
    """All runs with output BatchNorm end above 150 here, and the others below."""
    known = pd.DataFrame({"fd_cifar": {"untrained": 150 / 0.8}})
    last = grid.frame[grid.frame["epoch"] == 4].groupby("norm")["fd_cifar"]
    assert last.max()["none"] < 150 < last.min()["batch"]
    told = findings.findings(dataclasses.replace(grid, calibration=known))
    usual = findings.findings(grid)
    assert "of 24 runs" in told.headline[3]
    assert "of 48 runs" in usual.headline[3]
    assert "norm=batch" in usual.headline[3]
    assert "norm=batch" not in told.headline[3]
    assert told.headline[:3] == usual.headline[:3]


def test_five_whole_seeds_give_counts(grid):
    """One seed lacks the last epoch of one arm, and is no pair any more."""
    last = (grid.frame["epoch"] == 4) & (grid.frame["seed"] == 2) & (grid.frame["batch"] == 512)
    found = findings.findings(dataclasses.replace(grid, frame=grid.frame[~last]))
    assert found.epochs[-1].startswith("These are counts from 6 seeds. Only 5 of them have")
    assert "cannot be below 0.0625" in found.epochs[-1]
    assert "pairs with norm=none" in found.headline[0]


def test_a_study_of_one_arm_makes_no_contrast(make_study, tmp_path):
    factors = {"norm": ["none"], "head": ["conv"], "batch": [128]}
    found = findings.findings(records.load(make_study(tmp_path, factors=factors, epochs=2, **TINY)))
    assert not any(word in " ".join(found.all) for word in ("pair", "ln 2", "head=", "updates"))
    assert found.epochs[-1].startswith("These are counts from 1 seed.")


def test_the_tally_counts_every_verdict(grid):
    verdicts = claims.judge(grid)
    words = [one.verdict for one in verdicts]
    said = findings.tally(verdicts)
    assert said.startswith(f"{len(words)} claims: ")
    for word in set(words):
        assert f"{words.count(word)} {word}" in said
