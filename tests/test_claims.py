"""The ledger against simulated studies whose truth is known, and what it refuses."""

import dataclasses
import hashlib
import itertools
import math
import os
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments import grid, launch
from reports import claims, records, tables
from reports.analysis import Analysis

GRID = {"norm": ["none", "batch"], "head": ["conv", "avgpool"], "batch": [128, 512]}
PAIR = {"norm": ["none", "batch"], "head": ["conv"], "batch": [128]}
ONE = {"norm": ["none"], "head": ["conv"], "batch": [128]}
LN2 = math.log(2)
SETTINGS = {"beta1": 0.5, "lr_g": 2e-4, "lr_d": 2e-4}

# Differences of eight seeds with mean 0 and standard deviation 1, whose 95 % interval is known.
UNIT = np.array([-1.5, -1.0, -0.5, -0.25, 0.25, 0.5, 1.0, 1.5])
UNIT = UNIT / UNIT.std(ddof=1)
HALF = stats.t.ppf(0.975, 7) / math.sqrt(8)  # half its width

LEDGER = {claim.id: claim for claim in claims.load()}
NORM = {"arms": {"norm": "batch"}, "against": {"norm": "none"}}
BATCH = {"arms": {"norm": "none", "batch": 512}, "against": {"norm": "none", "batch": 128}}
HEAD = {"arms": {"norm": "none", "head": "avgpool"}, "against": {"norm": "none", "head": "conv"}}
CLAIMS = LEDGER | {  # over all cells, and at epochs that a short study has
    "B1": LEDGER["B1-128"].model_copy(update=NORM),
    "B2": LEDGER["B2-1"].model_copy(update=HEAD),
    "B4": LEDGER["B4-epochs-30"].model_copy(update={"epoch": 8}),
    "B4-updates": LEDGER["B4-updates-20"].model_copy(update={"epoch": 8, "against_epoch": 2}),
}
UNTRAINED = 1e9  # fd_cifar, so that everything has learnt


def simulate(
    factors=GRID, seeds=8, epochs=8, eval_sets=3, arms=None, log_fd=None, shown=200_000,
    untrained=UNTRAINED, **columns,
):  # fmt: skip
    """A study in memory; each argument gives a number from (arm, seed, epoch).

    `log_fd`: the logarithm of fd_cifar, or a row of them for the sets; the others are columns of
    the frame, and `curve` gives the points of D's loss within an epoch. `shown`: images an epoch;
    `untrained`: fd_cifar of the untrained generator, None where it is not known.
    """
    names = list(factors)
    arms = list(itertools.product(*factors.values())) if arms is None else arms
    curve = columns.pop("curve", lambda arm, seed, epoch: [0.6, 0.7])
    frame, curves, scores, plan = [], [], [], []
    for arm, seed in itertools.product(arms, range(seeds)):
        levels = dict(zip(names, arm, strict=True))
        run = ",".join(f"{key}={value}" for key, value in levels.items()) + f"/seed={seed}"
        key = {"run": run} | levels | {"seed": seed}
        plan.append(key | {"planned": epochs, "committed": epochs, "status": "finished"})
        for epoch in range(1, epochs + 1):
            logs = log_fd(levels, seed, epoch) if log_fd else 4.0
            logs = np.broadcast_to(logs, eval_sets)
            steps = epoch * -(-10_000 // levels["batch"])
            row = key | {"epoch": epoch, "images": epoch * shown, "steps": steps, "status": "ok"}
            row |= {"d_loss": 0.7, "g_loss": 1.0, "d_loss_min": 0.7, "fd_cifar": np.exp(logs[0])}
            row |= {"images_per_second": 800.0}
            frame.append(row | {x: of(levels, seed, epoch) for x, of in columns.items()})
            points = curve(levels, seed, epoch)
            curves += [
                key | {"images": i, "d_loss": x, "g_loss": 1.0} for i, x in enumerate(points)
            ]
            numbers = enumerate(np.exp(logs) if eval_sets > 1 else [])
            scores += [key | {"epoch": epoch, "eval_set": k, "fd_cifar": x} for k, x in numbers]

    info = {"study": "ablation", "scale": "small", "factors": factors, "settings": SETTINGS}
    keys = ["run", *names, "seed"]
    known = {} if untrained is None else {"fd_cifar": {"untrained": untrained}}
    return records.Study(
        folder=Path("nowhere"),
        info=info,
        frame=pd.DataFrame(frame),
        curves=pd.DataFrame(curves),
        eval_sets=pd.DataFrame(scores, columns=[*keys, "epoch", "eval_set", "fd_cifar"]),
        identities={"fd_cifar": {"metric": "fd_cifar", "network_sha256": "ab" * 32}},
        runs=[],
        missing=[],
        factors=names,
        arms=arms,
        plan=pd.DataFrame(plan),
        machines=[],
        calibration=pd.DataFrame(known),
    )


def effect(logs, level="batch", factor="norm"):
    """log_fd of a study in which one level moves the seeds' numbers by `logs`, at every epoch."""
    return lambda arm, seed, epoch: 4 + 0.3 * seed + (logs[seed] if arm[factor] == level else 0)


def judge(study, *wanted, **changes):
    """The verdicts of some of the claims, changed, with no others beside them."""
    chosen = [CLAIMS[name].model_copy(update=changes) for name in wanted]
    verdicts = claims.judge(study, chosen)
    return verdicts[0] if len(wanted) == 1 else verdicts


def without(study, run, epochs=None):
    """The study without a run, or with its first epochs alone."""
    lost = (study.frame["run"] == run) & (study.frame["epoch"] > (epochs or 0))
    gone = study.eval_sets["run"] == run
    return dataclasses.replace(study, frame=study.frame[~lost], eval_sets=study.eval_sets[~gone])


# What the file holds, and what it refuses.


def test_the_ledger_holds_every_claim():
    assert {name.partition("-")[0] for name in LEDGER} == {
        *(f"B{i}" for i in range(1, 9)),
        *(f"P{i}" for i in range(1, 11)),
        *("G1", "G2"),
    }
    assert {(claim.seeds, claim.images) for claim in LEDGER.values()} == {(8, 1_500_000)}
    confirmatory = {name for name, x in LEDGER.items() if x.status == "confirmatory"}
    assert confirmatory == {
        *("B1-128", "B1-512", "B1-gain-128", "B1-gain-512", "B1-bound", "B2-1", "B3"),
        *("B4-epochs-30", "B4-updates-20", "B4-story", "B5", "B6", "B6-g", "B7", "B8"),
        *("P1", "P3", "P4", "P5-beta1", "P5-rate", "P7", "P8", "P9", "P10"),
    }
    header = claims.LEDGER.read_text().partition("\nB1-")[0]
    assert "Looked at before this was written, all of seed 0" in header


def test_what_is_said_of_other_things_is_said_without_output_batchnorm():
    """So no effect is averaged over arms that do not learn."""
    about = ("B2", "B4-e", "B4-u", "B4-i", "B4-start", "B5", "B6", "P2", "P6", "P7", "P8", "P9")
    for name, claim in LEDGER.items():
        if name.startswith((*about, "P10", "B3")):
            assert claim.arms["norm"] == claim.against.get("norm", "none") == "none"


def test_batches_are_compared_at_equal_updates():
    images, pairs = 50_000, []
    for claim in LEDGER.values():
        if claim.against_epoch:
            assert (claim.arms["batch"], claim.against["batch"]) == (512, 128)
            pairs.append((claim.epoch, claim.against_epoch))
            large, small = claim.epoch * -(-images // 512), claim.against_epoch * -(-images // 128)
            assert large == pytest.approx(small, rel=0.003)
    assert pairs == [(20, 5), (28, 7)]


WRITTEN = """\
B1:
  place: blog
  claim: c
  hypothesis: h
  status: confirmatory
  measure: last
  metric: fd_cifar
  arms: {norm: batch}
  against: {norm: none}
  expect: higher
  smallest: 1.1
  reason: r
  seeds: 8
  needs: n
"""


def test_a_claim_is_read_as_it_stands(tmp_path):
    (tmp_path / "claims.yaml").write_text(WRITTEN)
    (claim,) = claims.load(tmp_path / "claims.yaml")
    assert (claim.id, claim.arms, claim.against) == ("B1", {"norm": "batch"}, {"norm": "none"})
    assert (claim.smallest, claim.seeds, claim.expect) == (1.1, 8, "higher")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("  hypothesis: h\n", "", "hypothesis: Field required"),
        ("  seeds: 8", "  seeds: 5", "seeds: Input should be greater than or equal to 6"),
        ("  seeds: 8", "  seeds: 8\n  seeds: 6", "'seeds' stands twice"),
        ("  needs: n\n", f"  needs: n\n{WRITTEN}", "'B1' stands twice"),
        ("measure: last", "measure: least", "measure: Input should be"),
        ("metric: fd_cifar", "metric: fid_cifar", "metric: 'fid_cifar' is not in the records"),
        ("  expect: higher\n", "", "expect: Field required"),
        ("  smallest: 1.1\n", "", "smallest: Field required"),
        ("smallest: 1.1", "smallest: 0.05", "smallest: 0.05 is not a ratio above 1"),
        ("smallest: 1.1", "smallest: .nan", "smallest: Input should be"),
        ("{norm: none}", "{head: conv}", "against: does not name the same factors as arms"),
        ("{norm: none}", "{norm: no}", "B1: against: norm: "),
        (
            "seeds: 8",
            "seeds: 8\n  verdict: supported",
            "B1: verdict: Extra inputs are not permitted",
        ),
        ("measure: last", "measure: correlation", "loss: belongs to correlation, strength, choice"),
        ("measure: last", "measure: at", "epoch: belongs to at"),
        ("measure: last", "measure: reach", "threshold: belongs to reach"),
        ("seeds: 8", "seeds: 8\n  epoch: 3", "epoch: belongs to at"),
        ("seeds: 8", "seeds: 8\n  against_epoch: 3", "against_epoch: belongs to an epoch of"),
        ("seeds: 8", "seeds: 8\n  across: {batch: [128]}", "across: is not two levels"),
        ("last\n  metric: fd_cifar", "share\n  metric: fid", "metric: this measure exists for"),
        ("measure: last", "measure: bound", "against: means nothing for bound"),
        ("  measure: last\n", "", "measure: Field required"),
        ("claim: c", "claim: ''", "claim: String should have at least 1 character"),
        ("place: blog", "id: B2\n  place: blog", "id: String should have at most 0 characters"),
        (WRITTEN, "- B1\n", "Input should be a valid dictionary"),
        (WRITTEN, "B1: supported\n", "B1: Input should be a valid dictionary"),
        ("B1:", "B1: {", "claims.yaml: while parsing"),
    ],
)
def test_a_fault_is_one_line_that_names_claim_and_key(tmp_path, old, new, words):
    assert old in WRITTEN
    (tmp_path / "claims.yaml").write_text(WRITTEN.replace(old, new))
    with pytest.raises(claims.BadClaim) as error:
        claims.load(tmp_path / "claims.yaml")
    assert str(error.value).startswith("claims.yaml: ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


# The rule.


@pytest.mark.parametrize(
    ("mean", "sd", "verdict", "why", "test"),
    [
        (math.log(1.5), 0.1, "supported", "higher, as claimed", "none"),
        (math.log(1.1), 0.05, "supported", "higher, as claimed", "none"),  # it reaches the margin
        (-math.log(1.5), 0.1, "refuted", "the reverse holds", "none"),
        (-math.log(1.05), 0.1, "refuted", "excludes the smallest effect", "above"),
        (0.0, 0.1, "equivalent", "within the smallest effect of interest, 1.1 times", "tost"),
        (0.02, 0.02, "equivalent", "within", "tost"),  # p < 0.05, and still of no interest
        (0.08, 0.05, "inconclusive", "but the estimate is below the smallest effect", "none"),
        (0.0, 0.3, "inconclusive", "neither shown nor ruled out", "none"),
        (math.log(1.1), 0.2, "inconclusive", "neither shown nor ruled out", "none"),
    ],
)
@pytest.mark.parametrize("expect", ["higher", "lower"])
def test_every_verdict_of_a_directed_claim(mean, sd, verdict, why, test, expect):
    sign = 1 if expect == "higher" else -1
    study = simulate(PAIR, log_fd=effect(sign * (mean + sd * UNIT)))
    found = judge(study, "B1", expect=expect)

    assert found.verdict == verdict
    if expect == "higher":
        assert why in found.why
    assert found.n == 8
    assert len(found.runs) == len(set(found.runs)) == 16
    assert found.identity["metric"] == "fd_cifar"

    # Estimate, interval and p by hand.
    estimate = found.estimate
    assert estimate.value == pytest.approx(math.exp(sign * mean), rel=1e-9)
    ends = sorted([math.exp(sign * (mean - HALF * sd)), math.exp(sign * (mean + HALF * sd))])
    assert [estimate.low, estimate.high] == pytest.approx(ends, rel=1e-9)
    distance = {"none": abs(mean), "above": math.log(1.1) - mean, "tost": math.log(1.1) - abs(mean)}
    tail = stats.t.sf(distance[test] / sd * math.sqrt(8), 7)
    assert found.p == pytest.approx((2 if test == "none" else 1) * tail, rel=1e-6)
    assert found.p_holm == found.p
    assert found.unit == "times"


@pytest.mark.parametrize(
    ("mean", "sd", "verdict"),
    [
        (0.0, 0.3, "supported"),
        (0.2, 0.3, "supported"),
        (0.3, 0.3, "inconclusive"),
        (-0.3, 0.3, "inconclusive"),
        (0.0, 0.7, "inconclusive"),
        (0.8, 0.3, "refuted"),
        (-0.8, 0.3, "refuted"),
    ],
)
def test_every_verdict_of_a_claim_of_no_effect(mean, sd, verdict):
    study = simulate(PAIR, log_fd=effect(mean + sd * UNIT))
    found = judge(study, "B1", expect="same", smallest=math.exp(0.5))

    assert found.verdict == verdict
    inside = stats.t.sf((0.5 - abs(mean)) / sd * math.sqrt(8), 7)
    outside = 2 * stats.t.sf((abs(mean) - 0.5) / sd * math.sqrt(8), 7)
    assert found.p == pytest.approx(outside if verdict == "refuted" else inside, rel=1e-6)


def test_a_verdict_needs_as_many_seeds_as_its_claim_asks_for():
    study = simulate(PAIR, seeds=7, log_fd=effect(math.log(1.5) + 0.1 * UNIT))
    found = judge(study, "B1")
    assert (found.verdict, found.why) == ("inconclusive", "7 of 8 seeds")
    assert found.n == found.estimate.n == 7
    assert found.p < 0.001
    assert math.isnan(found.p_holm)
    assert judge(study, "B1", seeds=7).verdict == "supported"

    found = judge(simulate(PAIR, seeds=1, log_fd=effect([math.log(1.5)])), "B1")
    assert found.estimate.value == pytest.approx(1.5, rel=1e-12)
    assert np.isnan([found.estimate.low, found.p]).all()


def test_pairs_are_found_by_their_seed_and_not_by_their_place():
    study = simulate(GRID, log_fd=effect(math.log(1.2) + 0.05 * UNIT))
    mixed = dataclasses.replace(
        study,
        frame=study.frame.sample(frac=1, random_state=1),
        plan=study.plan.sample(frac=1, random_state=2),
    )
    first, second = judge(study, "B1"), judge(mixed, "B1")
    assert second.estimate.value == pytest.approx(first.estimate.value, rel=1e-12)
    assert second.estimate.low == pytest.approx(first.estimate.low, rel=1e-12)

    # Seeds differ by far more than the effect: pairs that are wrong lose it.
    assert first.verdict == "supported"
    seeds = study.plan["seed"].where(study.plan["norm"] == "none", (study.plan["seed"] + 3) % 8)
    wrong = dataclasses.replace(study, plan=study.plan.assign(seed=seeds))
    assert judge(wrong, "B1").verdict == "inconclusive"


# Holm.


def three(study, status="confirmatory"):
    """Claims with p 0.03, 0.01 and 0.001 of no effect, the last one with this status."""
    levels = {"norm": ("batch", "none"), "batch": (512, 128), "head": ("avgpool", "conv")}
    chosen = [
        CLAIMS["B1"].model_copy(
            update={"id": factor, "arms": {factor: high}, "against": {factor: low}}
        )
        for factor, (high, low) in levels.items()
    ]
    chosen[2] = chosen[2].model_copy(update={"status": status})
    return claims.judge(study, chosen)


@pytest.fixture(scope="module")
def family():
    """A study in which the three claims have known p values, all in the claimed direction."""
    means = [stats.t.isf(p / 2, 7) / math.sqrt(8) for p in (0.03, 0.01, 0.001)]
    moved = dict(zip(("batch", 512, "avgpool"), (0.2 * (x + UNIT) for x in means), strict=True))

    def log_fd(arm, seed, epoch):
        return 4 + sum(moved[x][seed] for x in arm.values() if x in moved)

    return simulate(GRID, log_fd=log_fd)


def test_holm_goes_over_all_tests_of_the_confirmatory_claims(family):
    """Three tests of each claim, of which one can be true: no p counts more often than claims."""
    norm, batch, head = three(family)
    assert [norm.p, batch.p, head.p] == pytest.approx([0.03, 0.01, 0.001], rel=1e-6)
    assert [norm.p_holm, batch.p_holm, head.p_holm] == pytest.approx([0.09, 0.03, 0.003], rel=1e-6)
    assert [x.verdict for x in (norm, batch, head)] == ["inconclusive", "supported", "supported"]

    # An exploratory claim keeps its p, and does not count.
    norm, batch, head = three(family, "exploratory")
    assert [norm.p_holm, batch.p_holm] == pytest.approx([0.06, 0.02], rel=1e-6)
    assert math.isnan(head.p_holm)
    assert head.p == pytest.approx(0.001, rel=1e-6)
    assert head.verdict == "supported"


def test_holm_can_take_any_verdict_away():
    """Supported, refuted, equivalent and no effect, each beside as many as make it fall."""
    cases = {"supported": 0.2, "refuted": -0.045, "equivalent": 0.0}
    for verdict, mean in cases.items():
        sd = 0.2 if verdict == "supported" else 0.1
        study = simulate(PAIR, log_fd=effect(mean + sd * UNIT))
        alone = judge(study, "B1")
        assert alone.verdict == verdict
        beside = claims.judge(study, [CLAIMS["B1"]] * 20)
        none = 20 * alone.p if verdict == "supported" else 1.0  # the test of no effect
        assert [x.p_holm for x in beside] == pytest.approx([none] * 20, rel=1e-6)
        assert {x.verdict for x in beside} == {"inconclusive"}
        assert judge(study, "B1", status="exploratory").verdict == verdict

    study = simulate(PAIR, log_fd=effect(0.1 * UNIT))
    same = CLAIMS["B1"].model_copy(update={"expect": "same"})
    assert [x.verdict for x in claims.judge(study, [same])] == ["supported"]
    assert {x.verdict for x in claims.judge(study, [same] * 20)} == {"inconclusive"}


def test_what_has_not_been_tested_does_not_count(family):
    few = CLAIMS["B2"].model_copy(update={"seeds": 9})
    found = claims.judge(family, [CLAIMS["B1"], LEDGER["P5-rate"], LEDGER["B7"], few])
    assert found[0].p_holm == found[0].p
    assert [x.verdict for x in found] == ["supported", *["not yet run"] * 2, "inconclusive"]
    assert all(math.isnan(x.p_holm) for x in found[1:])


# Each measure, on a study of known truth.


def test_after_one_epoch_and_after_the_last_are_two_questions():
    def log_fd(arm, seed, epoch):
        worse = {1: 0.3, 2: 0.02, 8: -0.3}.get(epoch, 0)
        return 4 + (worse + 0.05 * UNIT[seed] if arm["head"] == "avgpool" else 0)

    study = simulate(GRID, log_fd=log_fd)
    first, second, last = (judge(study, "B2", epoch=epoch) for epoch in (1, 2, 8))
    assert first.verdict == "supported"
    assert first.estimate.value == pytest.approx(math.exp(0.3), rel=1e-9)
    assert second.estimate.value == pytest.approx(math.exp(0.02), rel=1e-9)
    assert last.verdict == "refuted"
    assert last.estimate.value == pytest.approx(math.exp(-0.3), rel=1e-9)
    assert judge(study, "B2", epoch=9).why.startswith("0 of 8 seeds; ")


def test_an_interaction_is_a_ratio_of_ratios():
    """Output BatchNorm does 0.6 at batch 128 and 0.2 at 512, with noise at 512 alone."""

    def log_fd(arm, seed, epoch):
        harm = 0.6 if arm["batch"] == 128 else 0.2 + 0.05 * UNIT[seed]
        return 4 + 0.3 * seed + harm * (arm["norm"] == "batch") + 0.7 * (arm["batch"] == 512)

    study = simulate(GRID, log_fd=log_fd)
    whole, small, large = judge(study, "B1-interaction", "B1-128", "B1-512")
    assert (whole.verdict, whole.n, len(whole.runs)) == ("supported", 8, 64)
    assert whole.estimate.value == pytest.approx(math.exp(0.2 - 0.6), rel=1e-9)
    ratio = large.estimate.value / small.estimate.value
    assert whole.estimate.value == pytest.approx(ratio, rel=1e-9)
    assert whole.estimate.high == pytest.approx(math.exp(-0.4 + 0.05 * HALF), rel=1e-9)

    few = judge(simulate(GRID | {"batch": [128]}, log_fd=log_fd), "B1-interaction")
    assert few.verdict == "not yet run"


def test_a_share_that_falls_to_zero_is_a_difference_in_points():
    def recall(arm, seed, epoch):
        kept = 0.4 + 0.02 * UNIT[seed]
        return kept if epoch < 8 or arm["head"] == "conv" else 0.0

    study = simulate(GRID, recall_cifar=recall)
    sides = {"arms": {"head": "avgpool"}, "against": {"head": "conv"}}
    found = judge(study, "P3", **sides)
    assert (found.verdict, found.unit, found.n) == ("supported", "points", 8)
    assert found.estimate.value == pytest.approx(-40, rel=1e-9)
    assert found.estimate.high - found.estimate.value == pytest.approx(2 * HALF, rel=1e-9)
    swapped = judge(study, "P3", arms=sides["against"], against=sides["arms"])
    assert (swapped.verdict, swapped.estimate.value) == ("refuted", pytest.approx(40))
    alike = judge(simulate(GRID, recall_cifar=lambda *_: 0.0), "P3", **sides)
    assert (alike.verdict, alike.estimate.value) == ("equivalent", 0)


def test_equal_epochs_and_equal_updates_are_two_questions():
    """Where only the number of updates matters, batch 512 is worse at equal epochs alone."""

    def log_fd(arm, seed, epoch):
        steps = epoch * -(-10_000 // arm["batch"])
        return 5 - 0.002 * steps + 0.02 * UNIT[seed] * (arm["batch"] == 512)

    epochs, updates = judge(simulate(GRID, log_fd=log_fd), "B4", "B4-updates")
    assert epochs.verdict == "refuted"
    assert epochs.estimate.value == pytest.approx(math.exp(0.002 * (632 - 160)), rel=1e-9)
    assert updates.verdict == "equivalent"
    assert updates.estimate.value == pytest.approx(math.exp(0.002 * (158 - 160)), rel=1e-9)


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(1.2, "supported"), (1.01, "equivalent"), (0.9, "refuted")]
)
def test_results_are_compared_within_each_run(ratio, verdict, monkeypatch):
    study = simulate(GRID)
    noise = np.exp(0.01 * UNIT[study.plan["seed"]])
    slow = 800.0 * (1 + study.plan["seed"].to_numpy())
    columns = {"conv": slow, "avgpool": slow * ratio * noise}
    results = pd.DataFrame({f"heads/step_speed_{x}": y for x, y in columns.items()})
    results["neighbours/share_features"] = 0.02
    results = results.set_index(study.plan["run"].to_numpy())
    monkeypatch.setattr(Analysis, "results", results)
    speed, copies = judge(study, "B3", "P8")
    assert (speed.verdict, speed.n, len(speed.runs)) == (verdict, 8, 8)
    assert speed.estimate.value == pytest.approx(ratio, rel=1e-9)
    assert speed.identity is None
    assert (copies.verdict, copies.estimate.value) == ("supported", pytest.approx(1))


def falling(rate, seed_noise=0.02):
    """log_fd of arms that fall straight by so much an epoch from the untrained generator on."""
    start = math.log(UNTRAINED)
    return lambda arm, seed, epoch: (
        start - rate[arm["batch"]] * epoch * (1 + seed_noise * UNIT[seed])
    )


def test_the_time_to_a_threshold():
    """Batch 128 falls twice as fast in epochs, and so at half as many images."""
    study = simulate(GRID, log_fd=falling({128: 4.0, 512: 2.0}))
    threshold = UNTRAINED * math.exp(-9)  # at epochs 2.25 and 4.5, where every seed is alike
    images, steps = (
        judge(study, f"B4-{word}-to-30", threshold=threshold) for word in ("images", "updates")
    )
    assert images.estimate.value == pytest.approx(2, rel=1e-9)
    assert images.verdict == "refuted"
    updates = {batch: -(-10_000 // batch) for batch in (128, 512)}
    assert steps.estimate.value == pytest.approx(2 * updates[512] / updates[128], rel=1e-9)
    assert steps.verdict == "supported"

    # Before the first epoch, from the untrained generator on.
    early = judge(study, "B4-images-to-30", threshold=UNTRAINED * math.exp(-1))
    assert early.estimate.value == pytest.approx(2, rel=1e-9)


def test_one_run_that_does_not_reach_a_threshold_leaves_it_open():
    reach = falling({128: 4.0, 512: 2.0})

    def log_fd(arm, seed, epoch):
        stuck = arm == {"norm": "none", "head": "conv", "batch": 512} and seed == 5
        return math.log(UNTRAINED) - 0.1 if stuck else reach(arm, seed, epoch)

    found = judge(simulate(GRID, log_fd=log_fd), "B4-images-to-50", threshold=UNTRAINED / 50)
    assert (found.verdict, found.n) == ("inconclusive", 7)
    assert found.why == "7 of 8 seeds; fd_cifar has not come down to 2e+07 in 1 run"


@pytest.mark.parametrize(("change", "verdict"), [(0.0, "supported"), (-0.5, "refuted")])
def test_an_arm_that_stands_still_is_judged_where_another_learns(change, verdict):
    def log_fd(arm, seed, epoch):
        if arm["norm"] == "none":
            return 4.0
        return 5 + (change + 0.05 * UNIT[seed]) * (epoch == 8)

    found = judge(simulate(GRID, log_fd=log_fd, untrained=math.exp(5)), "B1-gain-128")
    assert found.verdict == verdict
    assert found.estimate.value == pytest.approx(math.exp(change), rel=1e-9)
    assert all("norm=batch" in run and "batch=128" in run for run in found.runs)
    alone = judge(simulate(GRID, untrained=math.exp(4)), "B1-gain-128")
    assert alone.verdict == "not testable"


@pytest.mark.parametrize(("ratio", "verdict"), [(0.1, "supported"), (0.9, "equivalent")])
def test_the_swing_of_a_loss_is_the_standard_deviation_of_its_curve(ratio, verdict):
    def curve(arm, seed, epoch):
        size = 0.3 * (ratio * math.exp(0.05 * UNIT[seed]) if arm["norm"] == "batch" else 1)
        return [0.7 - size, 0.7 + size]

    found = judge(simulate(GRID, curve=curve), "B1-losses")
    assert found.verdict == verdict
    assert found.estimate.value == pytest.approx(ratio, rel=1e-9)


@pytest.mark.parametrize(
    ("step", "seeds", "verdict"),
    [
        (0.7, 8, "supported"),
        (LN2, 8, "supported"),
        (LN2 * (1 - 5e-7), 8, "supported"),  # as float32 may round it
        (LN2 * (1 - 2e-6), 8, "refuted"),
        (0.69, 8, "refuted"),
        (0.69, 1, "refuted"),  # one step below is enough
        (0.7, 7, "inconclusive"),
    ],
)
def test_one_step_below_the_bound_refutes_it(step, seeds, verdict):
    def lowest(arm, seed, epoch):
        here = arm == {"norm": "batch", "head": "avgpool", "batch": 512} and (seed, epoch) == (0, 5)
        return step if here else 0.75 if arm["norm"] == "batch" else 0.01

    found = judge(simulate(GRID, seeds=seeds, d_loss_min=lowest), "B1-bound")
    assert found.verdict == verdict
    assert found.estimate.value == found.estimate.low == step
    assert found.estimate.high == 0.75
    assert len(found.runs) == 4 * seeds
    assert math.isnan(found.p)
    assert math.isnan(found.p_holm)


def test_a_run_that_has_not_ended_can_refute_the_bound_and_cannot_support_it():
    run = "norm=batch,head=conv,batch=128/seed=0"
    for step, verdict in ((0.7, "inconclusive"), (0.6, "refuted")):

        def lowest(arm, seed, epoch, step=step):
            here = arm == {"norm": "batch", "head": "conv", "batch": 128} and seed == 0
            return step if here else 0.75 if arm["norm"] == "batch" else 0.01

        found = judge(without(simulate(d_loss_min=lowest), run, 3), "B1-bound")
        assert (found.verdict, found.n) == (verdict, 7)
        assert found.estimate.value == step
        assert not any(name.endswith("seed=0") for name in found.runs)


def noisy(fluctuation, noise, trend=0.0, epochs=30, eval_sets=3, seeds=8):
    """A study whose log fd_cifar fluctuates by a known amount and is measured with known noise."""
    rng = np.random.default_rng(7)

    def log_fd(arm, seed, epoch):
        truth = 5 + 0.2 * seed + trend * epoch + rng.normal(0, fluctuation)
        return truth + rng.normal(0, noise, eval_sets)

    return simulate(GRID, epochs=epochs, eval_sets=eval_sets, seeds=seeds, log_fd=log_fd)


@pytest.mark.parametrize(
    ("fluctuation", "noise", "verdict"),
    [(0.1, 0.03, "supported"), (0.0, 0.03, "equivalent"), (0.0, 0.4, "inconclusive")],
)
def test_fluctuation_is_what_noise_and_trend_do_not_explain(fluctuation, noise, verdict):
    found = judge(noisy(fluctuation, noise, trend=-0.1), "B5")
    assert found.verdict == verdict
    assert found.unit == "% between epochs"
    assert found.estimate.low < 100 * fluctuation < found.estimate.high
    assert (found.estimate.low > 0) == (verdict == "supported")
    if fluctuation:
        assert found.estimate.value == pytest.approx(100 * fluctuation, rel=0.1)


def test_noise_is_known_from_evaluation_sets_alone():
    for eval_sets, least, why in ((1, 2, "no"), (2, 3, "2 of 3")):
        for found in judge(noisy(0.1, 0.03, eval_sets=eval_sets), "B5", "P2-stability", "B5-share"):
            if least == 2 or found.claim.id != "B5-share":
                assert (found.verdict, found.why) == ("inconclusive", f"{why} evaluation sets")
                assert (found.estimate, found.n, found.runs) == (None, 0, [])
            else:
                assert found.n == 8


def test_fluctuation_of_two_heads():
    rng = np.random.default_rng(3)

    def log_fd(arm, seed, epoch):
        size = 0.15 if arm["head"] == "conv" else 0.05
        return 5 + rng.normal(0, size) + rng.normal(0, 0.01, 3)

    found = judge(simulate(GRID, epochs=30, log_fd=log_fd), "P2-stability")
    assert found.verdict == "supported"
    assert found.estimate.low < (0.05 / 0.15) ** 2 < found.estimate.high < 1


@pytest.mark.parametrize(
    ("relapses", "verdict"), [(0, "equivalent"), (4, "supported"), (1, "inconclusive")]
)
def test_relapses_are_counted_against_those_of_noise(relapses, verdict):
    """So many of the four arms of a seed are bad at epoch 20; a single one in two seeds alone."""
    rng = np.random.default_rng(5)
    arms = list(itertools.product(GRID["head"], GRID["batch"]))

    def log_fd(arm, seed, epoch):
        bad = arms.index((arm["head"], arm["batch"])) < relapses and (relapses > 1 or seed % 4 == 1)
        return 4 - 0.005 * epoch + 0.2 * (bad and epoch == 20) + rng.normal(0, 0.01, 3)

    found = judge(simulate(GRID, epochs=30, log_fd=log_fd), "B5-literal")
    assert found.verdict == verdict
    share = relapses / 4 if relapses != 1 else 1 / 16
    assert found.estimate.value == pytest.approx(share, abs=0.001)
    assert found.unit == "of runs more than by noise"


@pytest.mark.parametrize(
    ("better", "verdict", "share"),
    [(4, "supported", 1.0), (0, "refuted", 0.0), (2, "inconclusive", 0.5)],
)
def test_the_share_of_runs_with_a_better_epoch_than_the_last(better, verdict, share):
    """Of the four arms of a seed, so many have their best epoch in the middle."""
    arms = list(itertools.product(GRID["head"], GRID["batch"]))

    def log_fd(arm, seed, epoch):
        moved = seed % 2 * 2 - 1 if better == 2 else 0  # one and three of four, in turn
        good = (arms.index((arm["head"], arm["batch"])) + seed) % 4 < better + moved
        return 5 - 0.1 * epoch - (2 if good and epoch == 4 else 0)

    found = judge(simulate(GRID, log_fd=log_fd), "B5-share")
    assert found.verdict == verdict
    assert found.estimate.value == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize(
    ("link", "verdict", "strength"),
    [
        ("none", "supported", "supported"),
        ("up", "refuted", "refuted"),
        ("down", "refuted", "refuted"),
        ("both", "supported", "refuted"),
    ],
)
@pytest.mark.parametrize("loss", ["d_loss", "g_loss"])
def test_whether_a_loss_tells(link, verdict, strength, loss):
    """Both curves go down; what counts is whether their changes go together."""
    rng = np.random.default_rng(11)
    level = rng.normal(0, 0.2, (8, 2, 2, 2, 31))

    def wave(arm, seed, epoch):
        return level[(seed, *(GRID[x].index(arm[x]) for x in GRID), epoch)] - 0.2 * epoch

    def told(arm, seed, epoch):
        x = wave(arm, seed, epoch) + rng.normal(0, 0.03)
        crossed = x if arm["batch"] == 128 else -x
        by_chance = rng.normal(0, 0.2) - 0.2 * epoch
        return 9 + {"up": x, "down": -x, "both": crossed, "none": by_chance}[link]

    study = simulate(
        GRID, epochs=30, log_fd=lambda *key: 9 + wave(*key), untrained=UNTRAINED, **{loss: told}
    )
    signed, size = judge(study, "B6", "B6-strength", loss=loss)
    assert (signed.verdict, size.verdict) == (verdict, strength)
    assert (signed.estimate.value > 0.8) == (link == "up")
    assert (signed.estimate.value < -0.8) == (link == "down")
    assert (size.estimate.value > 0.8) == (link != "none")


@pytest.mark.parametrize(("name", "loss"), [("B6-choice-g", "g_loss"), ("B6-choice-d", "d_loss")])
@pytest.mark.parametrize(("over", "verdict"), [(0.3, "supported"), (0.0, "equivalent")])
def test_what_an_epoch_is_worth_that_a_loss_chooses(name, loss, over, verdict):
    """Epoch 15 of 30 is chosen; what the loss says before epoch 10 does not count."""
    sign = -1 if loss == "g_loss" else 1

    def told(arm, seed, epoch):
        return 5 + sign * {3: 4.0, 15: 2.0}.get(epoch, 0.01 * epoch)

    def log_fd(arm, seed, epoch):
        return 4 + {3: 9.0, 15: over + 0.02 * UNIT[seed]}.get(epoch, 0)

    found = judge(simulate(GRID, epochs=30, log_fd=log_fd, **{loss: told}), name)
    assert found.verdict == verdict
    assert found.estimate.value == pytest.approx(math.exp(over), rel=1e-9)


# What is not testable.


def quality(verdicts):
    return [x for x in verdicts if claims.MEASURES[x.claim.measure].quality]


def test_of_a_study_in_which_nothing_is_learnt_no_quality_is_judged():
    rng = np.random.default_rng(1)

    def log_fd(arm, seed, epoch):
        return math.log(94) + rng.normal(0, 0.02) + rng.normal(0, 0.005, 3)

    study = simulate(epochs=30, log_fd=log_fd, untrained=94.4)
    verdicts = claims.judge(study)
    about = [x for x in quality(verdicts) if x.verdict != "not yet run"]
    assert len(about) > 25
    assert {x.verdict for x in about} == {"not testable"}
    assert all("is 75.5" in x.why or "75.5 is 0.8 times" in x.why for x in about)
    bound = next(x for x in verdicts if x.claim.id == "B1-bound")
    assert bound.verdict == "supported"
    assert all(math.isnan(x.p_holm) for x in verdicts)  # nothing else was tested


@pytest.mark.parametrize(("better", "verdict"), [(75.0, "supported"), (76.0, "not testable")])
def test_the_better_arm_of_every_cell_has_to_have_learnt(better, verdict):
    """One cell alone is at the edge; the others are far below it."""

    def log_fd(arm, seed, epoch):
        edge = arm["head"] == "avgpool" and arm["batch"] == 512
        worse = 0.5 + 0.05 * UNIT[seed] if arm["norm"] == "batch" else 0
        return math.log(better if edge else 20) + worse

    study = simulate(GRID, log_fd=log_fd, untrained=94.4)
    found = judge(study, "B1")
    assert found.verdict == verdict
    if verdict == "not testable":
        assert found.why == (
            "fd_cifar is 76.0 at best in some arm, and 75.5 is 0.8 times that of the untrained "
            "generator"
        )
        assert found.estimate.value == pytest.approx(math.exp(0.5), rel=1e-9)
        assert tables.ledger(study, [found]).rows[0][4] == "–"


def test_it_counts_at_the_epoch_that_the_claim_is_about():
    def log_fd(arm, seed, epoch):
        return 6 - 0.5 * epoch + (0.2 + 0.02 * UNIT[seed]) * (arm["head"] == "avgpool")

    study = simulate(GRID, log_fd=log_fd, untrained=math.exp(5))
    early, late = judge(study, "B2"), judge(study, "B2", epoch=3)
    assert (early.verdict, late.verdict) == ("not testable", "supported")


def test_without_a_calibration_or_enough_images_no_quality_is_judged():
    moved = effect(math.log(1.5) + 0.1 * UNIT)
    bare = simulate(PAIR, log_fd=moved, untrained=None)
    assert (judge(bare, "B1").verdict, judge(bare, "B1").why) == (
        "not testable",
        "no calibration of the untrained generator",
    )
    short = simulate(PAIR, log_fd=moved, shown=10_000)
    found = judge(short, "B1")
    assert found.verdict == "not testable"
    assert found.why == "D is shown 80,000 images, and the claim asks for 1,500,000"
    assert judge(short, "B1", images=80_000).verdict == "supported"
    assert {x.verdict for x in quality(claims.judge(short))} == {"not testable", "not yet run"}


def test_what_is_not_testable_is_not_in_the_family():
    def log_fd(arm, seed, epoch):
        moved = 0.2 + 0.2 * UNIT[seed] if arm["norm"] == "batch" else 0
        return 4 + moved + (2 if arm["batch"] == 512 else 0)

    study = simulate(GRID, log_fd=log_fd, untrained=math.exp(5))
    small, large = judge(study, "B1-128", "B1-512")
    assert (small.verdict, large.verdict) == ("supported", "not testable")
    assert small.p_holm == small.p
    assert math.isnan(large.p_holm)


# The order of seeds, and the seed that was looked at.


def test_the_numbers_of_seeds_do_not_matter():
    rng = np.random.default_rng(4)
    logs = rng.normal(4, 0.3, (8, 2, 2, 2, 31))

    def of(order):
        def log_fd(arm, seed, epoch):
            place = (GRID[x].index(arm[x]) for x in GRID)
            return logs[(order[seed], *place, epoch)] + np.array([0, 0.01, -0.01])

        return claims.judge(simulate(epochs=30, log_fd=log_fd))

    for one, other in zip(of(range(8)), of([3, 1, 7, 0, 2, 6, 5, 4]), strict=True):
        assert (one.verdict, one.n) == (other.verdict, other.n)
        assert one.p == pytest.approx(other.p, rel=1e-9, nan_ok=True)


def test_in_how_many_rows_the_verdict_is_the_same_without_a_seed():
    """Seed 0 alone makes the norm's effect uncertain, and no other seed does."""
    logs = math.log(1.5) + 0.05 * UNIT
    steady = simulate(PAIR, log_fd=effect(logs))
    logs = logs.copy()
    logs[0] = -2
    moved = simulate(PAIR, log_fd=effect(logs))
    chosen = [CLAIMS["B1"], LEDGER["B1-bound"], LEDGER["B7"]]
    for study, same in ((steady, 2), (moved, 1)):
        verdicts = claims.judge(study, chosen)
        assert claims.same_without(study, verdicts) == (same, 2)
        assert f"in {same} of 2 rows" in " ".join(tables.ledger(study, verdicts).notes)
    assert claims.same_without(moved, claims.judge(moved, chosen), seed=1) == (2, 2)
    assert claims.same_without(moved, claims.judge(moved, chosen), seed=9) == (0, 0)


def test_the_commit_of_the_claims_is_the_last_one_that_touched_them(tmp_path):
    def git(*words):
        who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        environ = os.environ | {"GIT_COMMITTER_DATE": "2026-03-04T05:06:07+00:00"}
        command = ["git", "-C", str(tmp_path), *who, *words]
        return subprocess.run(command, check=True, capture_output=True, env=environ).stdout

    path = tmp_path / "claims.yaml"
    path.write_text(WRITTEN)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    unknown = {"commit": "unknown", "date": "unknown", "sha256": digest}
    assert launch.frozen_claims(path) == unknown  # no checkout
    git("init")
    assert launch.frozen_claims(path) == unknown  # no commit
    git("add", "claims.yaml")
    git("commit", "-m", "Claims")
    (tmp_path / "other").write_text("")
    git("add", "other")
    first = git("log", "-1", "--format=%h").decode().strip()
    git("commit", "-m", "Another file")
    found = {"commit": first, "date": "2026-03-04", "sha256": digest}
    assert launch.frozen_claims(path) == found
    path.write_text(WRITTEN + "\n")
    changed = launch.frozen_claims(path)
    assert changed["commit"] == f"{first}+changes"
    assert changed["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest() != digest


def test_a_study_keeps_the_claims_that_it_started_with():
    info = {"study": "ablation", "scale": "small", "factors": GRID, "seeds": [0], "commit": "a"}
    info["settings"] = {}
    early, late = (info | {"claims": {"commit": name}} for name in ("early", "late"))
    assert grid.merge(early, late)["claims"] == {"commit": "early"}
    assert grid.merge(early, info)["claims"] == {"commit": "early"}
    assert grid.merge(info, late)["claims"] == {}  # it did not say which
    assert "claims" not in grid.merge(info, info)


def test_the_ledger_says_when_its_claims_were_written(tmp_path, monkeypatch):
    study, path = simulate(PAIR), tmp_path / "claims.yaml"
    path.write_text(WRITTEN)
    monkeypatch.setattr(claims, "LEDGER", path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    frozen = {"commit": "1e72eec", "date": "2026-11-25"}
    for given, words in (
        (digest, "are by that file."),
        ("0" * 64, "are by another file than that."),
    ):
        info = study.info | {"claims": frozen | {"sha256": given}}
        (note,) = (
            x
            for x in tables.ledger(dataclasses.replace(study, info=info), []).notes
            if "1e72eec of 2026-11-25" in x
        )
        assert note.endswith(words)
    notes = tables.ledger(study, []).notes
    assert "study.json names no commit of the claims." in notes
    assert any("all of seed 0" in note and "40 epochs" in note for note in notes)


# What a study lacks.


def test_an_absent_arm_is_named_and_so_is_the_study_that_has_it():
    found = {x.claim.id: x for x in claims.judge(simulate())}
    assert found["P5-beta1"].verdict == found["P5-rate"].verdict == "not yet run"
    needs = "; needs the follow-ups at cpu32, with beta1=0.9"
    assert found["P5-beta1"].why.startswith(f"no run with arm=beta1-0.9{needs}")
    assert "arm=rate-0.001" in found["P5-rate"].why
    assert found["P6"].why.startswith("constant/share_last has not been measured; needs")
    assert found["P7"].why.startswith("probe/accuracy_trained_1000 has not been measured; needs")
    for name in ("P5-beta1", "P6", "P7"):
        assert found[name].estimate is None
        assert (found[name].n, found[name].runs, found[name].identity) == (0, [], None)
        assert math.isnan(found[name].p)

    found = {x.claim.id: x for x in claims.judge(simulate(PAIR))}
    assert found["B1-128"].verdict != "not yet run"
    for name in (
        "B1-512",
        "B2-1",
        "B3",
        "B4-epochs-30",
        "B4-updates-20",
        "B4-story",
        "P2-speed-50",
    ):
        assert found[name].verdict == "not yet run"
    assert found["B2-1"].why.startswith("no run with head=avgpool; needs the ablation at cpu32")


def test_what_a_study_lacks_is_said():
    apart = simulate(GRID, arms=[("none", "conv", 128), ("batch", "conv", 512)])
    assert judge(apart, "B1").why.startswith("no two runs that differ in this alone")
    study = simulate(PAIR)
    begun = dataclasses.replace(study, frame=study.frame.iloc[:0])
    assert judge(begun, "B1").why == "no epoch of its runs has been committed"
    assert judge(study, "B1", metric="fid").why == "fid has not been measured"
    verdicts = [judge(apart, "B1"), judge(begun, "B1"), judge(study, "B1", metric="fid")]
    assert [(x.verdict, x.n) for x in verdicts] == [("not yet run", 0)] * 3


def test_what_all_runs_share_is_looked_up_in_the_settings():
    study = simulate(PAIR, log_fd=effect(math.log(1.5) + 0.1 * UNIT))
    for beta1, verdict in ((0.5, "supported"), (0.9, "not yet run")):
        arms, against = ({"norm": norm, "beta1": beta1} for norm in ("batch", "none"))
        assert judge(study, "B1", arms=arms, against=against).verdict == verdict
    arms, against = ({"norm": norm, "mood": "good"} for norm in ("batch", "none"))
    assert judge(study, "B1", arms=arms, against=against).why.startswith("no run with mood=good")


def test_a_seed_without_one_of_its_cells_is_left_out_whole():
    study = simulate(GRID, log_fd=effect(math.log(1.5) + 0.1 * UNIT))
    run = "norm=batch,head=avgpool,batch=512/seed=3"
    norm, head = judge(without(study, run), "B1", "B2")

    assert (norm.verdict, norm.n) == ("inconclusive", 7)
    assert norm.why == f"7 of 8 seeds; {run} has no number"
    rest = math.log(1.5) + 0.1 * np.delete(UNIT, 3)
    assert norm.estimate.value == pytest.approx(math.exp(rest.mean()), rel=1e-9)
    assert not any(name.endswith("seed=3") for name in norm.runs)
    assert len(norm.runs) == 7 * 8
    assert head.n == 8


def test_a_run_that_diverged_has_no_number():
    study = simulate(PAIR, log_fd=effect(math.log(1.5) + 0.1 * UNIT))
    run = "norm=batch,head=conv,batch=128/seed=2"
    frame = study.frame.copy()
    frame.loc[(frame["run"] == run) & (frame["epoch"] > 4), ["fd_cifar", "d_loss_min"]] = math.nan
    study = dataclasses.replace(study, frame=frame)
    norm, bound = judge(study, "B1", "B1-bound")
    assert (norm.n, norm.verdict) == (7, "inconclusive")
    assert run in norm.why
    assert bound.estimate.value == 0.7


# What a reader sees.


def test_the_sheet_says_all_of_it():
    study = simulate(GRID, log_fd=effect(math.log(1.5) + 0.1 * UNIT))
    verdicts = claims.judge(study)
    sheet = tables.ledger(study, verdicts)
    rows = {row[0]: row for row in sheet.rows}

    assert sheet.headings == [
        "id", "claim", "hypothesis", "estimate (95 % interval)", "p", "n", "verdict",
    ]  # fmt: skip
    assert list(rows) == list(LEDGER)
    assert rows["B1-128"][1:3] == [LEDGER["B1-128"].claim, LEDGER["B1-128"].hypothesis]
    ends = [math.exp(math.log(1.5) + x * HALF * 0.1) for x in (-1, 1)]
    assert rows["B1-128"][3] == f"1.500 ({ends[0]:.3f} to {ends[1]:.3f}) times"
    assert rows["B1-128"][5:] == ["8", "supported: higher, as claimed"]
    assert rows["B1-bound"][3] == "0.7000, lowest step of each run"
    assert rows["B7"][3:6] == ["–", "–", "–"]
    assert not any("nan" in cell.lower().split() for row in sheet.rows for cell in row)
    assert sheet.metrics == ["fd_cifar"]
    assert any("Exploratory" in note and "B4-start" in note for note in sheet.notes)
    assert tables.to_latex(sheet).isascii()
    assert tables.to_markdown(sheet).count("\n| ") == len(LEDGER) + 2


def test_the_p_that_is_shown_is_the_one_that_decides(family):
    shown = {
        status: tables.ledger(family, three(family, status)).rows
        for status in ("confirmatory", "exploratory")
    }
    assert [row[4] for row in shown["confirmatory"]] == ["0.090", "0.030", "0.0030"]
    assert [row[4] for row in shown["exploratory"]] == ["0.060", "0.020", "0.0010"]


@pytest.mark.parametrize("status", ["confirmatory", "exploratory"])
def test_no_p_is_shown_where_no_verdict_stands_on_it(status):
    study = simulate(PAIR, seeds=7, log_fd=effect(math.log(1.5) + 0.1 * UNIT))
    sheet = tables.ledger(study, [judge(study, "B1", status=status)])
    assert sheet.rows[0][4:] == ["–", "7", "inconclusive: 7 of 8 seeds"]
    assert not any("Exploratory" in note for note in sheet.notes)


def test_the_table_keeps_full_precision_and_the_runs():
    study = simulate(GRID, log_fd=effect(math.log(1.5) + 0.1 * UNIT))
    verdicts = claims.judge(study)
    table = tables.ledger(study, verdicts).frame.set_index("id")

    assert list(table.index) == list(LEDGER)
    assert table.loc["B1-128", "estimate"] == verdicts[0].estimate.value
    assert table.loc["B1-128", "runs"].split() == verdicts[0].runs
    assert table.loc["B1-128", "p_flip"] == 2 / 2**8
    assert table.loc["B1-128", "network_sha256"] == "ab" * 32
    assert table.loc["B7", ["estimate", "low", "high", "p"]].isna().all()


def test_from_a_study_on_disk(make_study, tmp_path):
    small = {"seeds": (0, 1), "epochs": 3, "resolution": 16, "points": 2}
    study = records.load(make_study(tmp_path, factors=PAIR, **small))
    first, second = (claims.judge(study) for _ in range(2))

    assert tables.ledger(study, first).frame.equals(tables.ledger(study, second).frame)
    found = {x.claim.id: x for x in first}
    assert {x.verdict for x in first} == {"inconclusive", "not testable", "not yet run"}
    short = "D is shown 30,000 images, and the claim asks for 1,500,000"
    assert (found["B1-128"].n, found["B1-128"].why) == (2, short)
    assert (found["B1-bound"].n, found["B1-bound"].why) == (2, "2 of 8 seeds")
    last = study.frame[study.frame["epoch"] == 3].pivot(index="seed", columns="norm")["fd_cifar"]
    ratio = np.exp(np.log(last["batch"] / last["none"]).mean())
    assert found["B1-128"].estimate.value == pytest.approx(ratio, rel=1e-12)
    assert (
        found["B1-bound"].estimate.value == study.frame.query("norm == 'batch'")["d_loss_min"].min()
    )
    assert found["B6"].estimate is None  # of two changes there is no correlation
