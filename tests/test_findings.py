"""The sentences against numbers worked out by hand."""

import dataclasses
import math
import re

import numpy as np
import pandas as pd
import pytest
from conftest import with_values
from scipy import stats

from reports import claims, findings, records, tables
from reports.analysis import analyse

TINY = {"resolution": 16, "points": 2}


@pytest.fixture(scope="module")
def grid(make_study, tmp_path_factory):
    """The whole grid with six seeds, four epochs and three evaluation sets."""
    made = {"seeds": range(6), "epochs": 4, "eval_sets": 3}
    return analyse(records.load(make_study(tmp_path_factory.mktemp("grid"), **made, **TINY)))


def test_few_seeds_give_ratios_and_no_verdict(pair):
    said = findings.findings(pair)

    # 60 / 20 and 90 / 30 at the last epoch: three times as high in both. The best: 3, 2, 4, 1 of 4.
    first = "BatchNorm on D's output multiplies fd_cifar by 3.00."
    assert said.headline[0] == first
    assert said.headline[1].startswith("In 3 of 4 runs the last epoch is not the best by fd_cifar")
    assert len(said.headline) == 2
    assert "never below the bound of ln 2 = 0.6931" in said.losses[0]
    assert said.epochs == [
        "Below 6 seeds no verdict is given: with 2, the p of a two-sided sign-flip test cannot be "
        "below 0.5."
    ]
    assert "cannot be below 0.5" in findings.how_sure(pair)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([10.0, 10.0], "by 0.408."),
        ([10.0, 60.0], "by 1.00."),
        ([math.nan, 60.0], "by 2.00."),
        ([math.nan, math.nan], "No seed has the last epoch of every arm yet"),
    ],
)
def test_the_wording_follows_the_numbers(pair, values, words):
    given = {("batch", seed): [99.0, 99.0, 99.0, value] for seed, value in enumerate(values)}
    assert words in findings.findings(with_values(pair, "fd_cifar", given)).headline[0]


@pytest.mark.parametrize(
    ("lowest", "words"),
    [
        (0.69314718, "never below the bound"),  # ln 2, as a float32 rounds it
        (0.6931, "below the bound of ln 2 = 0.6931 in 1 of them"),
    ],
)
def test_a_step_below_ln_2_is_not_hidden(pair, lowest, words):
    study = with_values(pair, "d_loss_min", {("batch", 0): [0.9, lowest, 0.9, 0.9]})
    assert words in findings.findings(study).losses[0]


def test_six_seeds_give_intervals(grid):
    result = findings.findings(grid)
    norm, head, batch, moves = result.headline
    assert norm.startswith("BatchNorm on D's output multiplies fd_cifar by ")
    assert head.startswith("The average-pool head multiplies fd_cifar by ")
    assert head.endswith(": no effect is shown.")
    assert batch.startswith("Batch 512 instead of batch 128 multiplies fd_cifar by ")
    assert " At equal updates (80), with 4 times the images, the ratio lies between " in batch

    # What interacts is told apart, and not as a mean; worked out once more.
    last, apart = grid.frame[grid.frame["epoch"] == 4], {}
    for other in ("head", "batch"):
        cells = np.log(last.pivot_table("fd_cifar", "seed", ["norm", other], aggfunc=stats.gmean))
        apart[other] = cells["batch"] - cells["none"]
    for change in max(apart.values(), key=lambda x: abs(x.mean().diff().iloc[-1])).T.to_numpy():
        ends = stats.t.interval(0.95, 5, change.mean(), stats.sem(change))
        said = "by {:.2f} ({:.2f} to {:.2f}) with ".format(*np.exp([change.mean(), *ends]))
        assert said in norm
    for sentence in (head, batch):
        assert ") without output BatchNorm and by " in sentence
    assert " %) with output BatchNorm (SD, measurement noise subtracted). " in moves
    gain = grid.selection.groupby("seed")["gain"].mean()
    assert f" {100 * math.expm1(gain.mean()):.1f} % (" in moves.partition("the last epoch is")[2]

    text = " ".join(result.all)
    assert "no verdict" not in text
    assert all(x in text for x in ("rank correlation", "% of the variance", "fresh noise"))
    assert findings.how_sure(grid).startswith("6 seeds of each of 8 arms, paired by seed; ")


def test_what_two_epochs_cannot_say_is_not_said(make_study, tmp_path):
    study = analyse(records.load(make_study(tmp_path, seeds=range(6), epochs=2, **TINY)))
    text = " ".join(findings.findings(study).all)
    assert "rank correlation" not in text
    assert tables.DASH not in text


def test_of_epochs_and_losses_only_arms_that_have_learnt_are_told(grid):
    """All runs with output BatchNorm end above 150 here, and the others below."""
    known = pd.DataFrame({"fd_cifar": {"untrained": 150 / 0.8}})
    last = grid.frame[grid.frame["epoch"] == 4].groupby("norm")["fd_cifar"]
    assert last.max()["none"] < 150 < last.min()["batch"]
    told_study = dataclasses.replace(grid, calibration=known)
    told, usual = findings.findings(told_study), findings.findings(grid)
    assert "with output BatchNorm" in usual.headline[3]
    assert "with output BatchNorm" not in told.headline[3]

    # The first sentence says which level is dead, and the others leave it out.
    means = grid.last[grid.last["norm"] == "batch"].groupby(["head", "batch"])["fd_cifar"].mean()
    low, high = map(tables.significant, (means.min(), means.max()))
    dead = ": with output BatchNorm the arms end at "
    dead += f"{low} to {high}, where an untrained generator has 188."
    assert told.headline[0] == usual.headline[0].removesuffix(".") + dead
    for here, everywhere in zip(told.headline[1:3], usual.headline[1:3], strict=True):
        alive = everywhere.partition(" without output BatchNorm")[0] + " without output BatchNorm"
        assert here.startswith(alive)
        assert "with output BatchNorm" not in here
    assert "covers the 4 of 8 arms that learnt, with fd_cifar below 150 at" in told.epochs[0]
    assert not any("learnt" in sentence for sentence in usual.all)
    named = tables.effects_by_name(told_study)
    where, effect = named["average-pool head, no output BatchNorm"]
    assert where == "norm=none"
    assert effect in told_study.partial_effects["epochs", where]
    assert effect.ratio != named["average-pool head"][1].ratio
    assert {where for where, _ in tables.effects_by_name(grid).values()} == {"all"}
    (row,) = told_study.shares[told_study.shares["where"] == "arms that have learnt"]["arm_share"]
    assert row == told_study.learners.shares["arm_share"][0]
    for said, study in ((told, told_study), (usual, grid)):
        share = study.learners.shares["arm_share"][0]
        assert f"{100 * share:.0f} % of the variance" in " ".join(said.epochs)


def test_batches_are_compared_wherever_their_updates_meet(make_study, tmp_path):
    factors = {"norm": ["none", "batch"], "head": ["conv"], "batch": [128, 512]}
    made = make_study(tmp_path, factors=factors, epochs=8, **TINY)
    batch = findings.findings(analyse(records.load(made))).headline[1]
    said = r" At equal updates \(80 to 160\), with 4 times the images, the ratio lies between "
    assert re.search(said + r"[\d.]+ and [\d.]+\.$", batch)


def test_of_a_study_in_which_nothing_is_learnt_that_is_said_first(grid):
    known = pd.DataFrame({"fd_cifar": {"untrained": 1.0}})
    told = findings.findings(dataclasses.replace(grid, calibration=known))
    said = "No arm has learnt: none has fd_cifar below 0.800 at the last epoch."
    assert told.headline[0] == said
    assert told.headline[1:] == findings.findings(grid).headline


def test_an_arm_that_is_lost_takes_no_verdict_from_the_others(grid):
    """All seeds of one arm with output BatchNorm have no number at the last epoch."""
    lost = grid.frame.eval("epoch == 4 and norm == 'batch' and head == 'conv' and batch == 128")
    frame = grid.frame.assign(fd_cifar=grid.frame["fd_cifar"].where(~lost))
    study = dataclasses.replace(grid, frame=frame)
    said = findings.findings(study)
    reason = "None of 6 seeds has a score of every arm at the last epoch."
    assert said.epochs[-1] == f"{reason} Without one no main effect is tested."
    assert reason in findings.how_sure(study)
    (head,) = (x for x in said.headline if x.startswith("The average-pool head"))
    assert re.search(r"by [\d.]+ \([\d.]+ to [\d.]+\) without output BatchNorm", head)


def test_five_whole_seeds_give_no_verdict(grid):
    """One seed lacks the last epoch of one arm, and is no pair any more."""
    frame = grid.frame.query("not (epoch == 4 and seed == 2 and batch == 512)")
    said = findings.findings(dataclasses.replace(grid, frame=frame))
    reason = "Only 5 of 6 seeds have a score of every arm at the last epoch."
    assert said.epochs[-1].startswith(reason)
    assert "cannot be below 0.0625" in said.epochs[-1]
    assert re.search(r"with batch 128 and by [\d.]+ with batch 512\.", said.headline[0])


def test_a_study_of_one_arm_compares_nothing(make_study, tmp_path):
    factors = {"norm": ["none"], "head": ["conv"], "batch": [128]}
    made = make_study(tmp_path, factors=factors, epochs=2, **TINY)
    said = findings.findings(analyse(records.load(made)))
    assert not any(word in " ".join(said.all) for word in ("multipl", "ln 2", "compared"))
    assert said.epochs == ["One seed gives neither an interval nor a verdict."]


def test_the_tally_counts_every_verdict(grid, pair):
    verdicts = claims.judge(grid)
    words = [one.verdict for one in verdicts if one.claim.status == "confirmatory"]
    said = findings.tally(grid, verdicts)
    assert said.startswith(f"Of {len(words)} confirmatory claims ")
    for word in set(words):
        assert re.search(f" {words.count(word)} (is |are )?{word}", said)
    assert said.endswith(f"; {len(verdicts) - len(words)} more are exploratory.")
    few = findings.tally(pair, claims.judge(pair))
    assert few == f"{len(verdicts)} claims, and none is judged below 6 seeds."
