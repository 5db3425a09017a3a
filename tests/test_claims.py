"""The ledger against simulated studies whose truth is known, and what it refuses."""

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reports import claims, records, tables

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


def simulate(factors=GRID, seeds=8, epochs=8, banks=3, arms=None, log_fd=None, **columns):
    """A study in memory; each argument gives a number from (arm, seed, epoch).

    `log_fd`: the logarithm of fd_cifar, or a row of them for the banks; the others are columns of
    the frame, and `curve` gives the points of D's loss within an epoch.
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
            logs = np.broadcast_to(logs, banks)
            steps = epoch * -(-10_000 // levels["batch"])
            row = key | {"epoch": epoch, "images": epoch * 10_000, "steps": steps, "status": "ok"}
            row |= {"d_loss": 0.7, "g_loss": 1.0, "d_loss_min": 0.7, "fd_cifar": np.exp(logs[0])}
            row |= {"images_per_second": 800.0}
            frame.append(row | {x: of(levels, seed, epoch) for x, of in columns.items()})
            points = curve(levels, seed, epoch)
            curves += [
                key | {"images": i, "d_loss": x, "g_loss": 1.0} for i, x in enumerate(points)
            ]
            numbers = enumerate(np.exp(logs) if banks > 1 else [])
            scores += [key | {"epoch": epoch, "bank": k, "fd_cifar": x} for k, x in numbers]

    info = {"study": "ablation", "scale": "small", "factors": factors, "settings": SETTINGS}
    keys = ["run", *names, "seed"]
    return records.Study(
        folder=Path("nowhere"),
        info=info,
        frame=pd.DataFrame(frame),
        curves=pd.DataFrame(curves),
        banks=pd.DataFrame(scores, columns=[*keys, "epoch", "bank", "fd_cifar"]),
        identities={"fd_cifar": {"metric": "fd_cifar", "network_sha256": "ab" * 32}},
        runs=[],
        missing=[],
        factors=names,
        arms=arms,
        plan=pd.DataFrame(plan),
        machines=[],
    )


def effect(logs, level="batch", factor="norm"):
    """log_fd of a study in which one level moves the seeds' numbers by `logs`, at every epoch."""
    return lambda arm, seed, epoch: 4 + 0.3 * seed + (logs[seed] if arm[factor] == level else 0)


def judge(study, *wanted, **changes):
    """The verdicts of some claims of the ledger, changed, with no others beside them."""
    chosen = [LEDGER[name].model_copy(update=changes) for name in wanted]
    verdicts = claims.judge(study, chosen)
    return verdicts[0] if len(wanted) == 1 else verdicts


def without(study, run, epochs=None):
    """The study without a run, or with its first epochs alone."""
    lost = (study.frame["run"] == run) & (study.frame["epoch"] > (epochs or 0))
    gone = study.banks["run"] == run
    return dataclasses.replace(study, frame=study.frame[~lost], banks=study.banks[~gone])


# What the file holds, and what it refuses.


def test_the_ledger_holds_every_claim_that_this_study_can_test():
    testable = {
        name for name, claim in LEDGER.items() if claim.measure and "ablation" in claim.needs
    }
    assert len(testable) >= 12
    assert {"B1", "B1-bound", "B2", "B3", "B4-epochs", "B4-updates", "B5", "B6"} <= testable
    assert {name.partition("-")[0] for name in LEDGER} == {
        *(f"B{i}" for i in range(1, 9)),
        *(f"P{i}" for i in range(1, 11)),
        *("G1", "G2"),
    }
    assert all(claim.seeds == 8 for claim in LEDGER.values())
    ratios = [x for x in LEDGER.values() if x.measure and x.expect == "lower"]
    assert {x.id for x in ratios} == {
        *("B1-losses", "B4-epochs", "B4-updates", "P2-stability"),
        *("B7", "B8", "P3", "P4", "P9"),
    }


def test_the_blog_trained_without_norm_where_it_compared_anything_else():
    for name in ("B2", "B4-epochs", "B4-updates", "B4-start", "B5", "B5-share", "B6", "B6-g"):
        assert LEDGER[name].arms["norm"] == "none"
        assert LEDGER[name].against.get("norm", "none") == "none"
    assert LEDGER["B4-epochs"].arms["batch"] == LEDGER["B4-updates"].arms["batch"] == 512


B1 = """\
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
    (tmp_path / "claims.yaml").write_text(B1)
    (claim,) = claims.load(tmp_path / "claims.yaml")
    assert (claim.id, claim.arms, claim.against) == ("B1", {"norm": "batch"}, {"norm": "none"})
    assert (claim.smallest, claim.seeds, claim.expect) == (1.1, 8, "higher")


@pytest.mark.parametrize("word", ["verdict", "estimate", "p", "p_holm", "low", "n", "runs", "why"])
def test_a_verdict_cannot_be_written_by_hand(tmp_path, word):
    (tmp_path / "claims.yaml").write_text(f"{B1}  {word}: supported\n")
    with pytest.raises(claims.BadClaim) as error:
        claims.load(tmp_path / "claims.yaml")
    assert str(error.value) == f"claims.yaml: B1: {word}: is no field of a claim"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("  hypothesis: h\n", "", "hypothesis: Field required"),
        ("  seeds: 8", "  seeds: 5", "seeds: Input should be greater than or equal to 6"),
        ("  seeds: 8", "  seeds: 8\n  seeds: 6", "'seeds' stands twice"),
        ("  needs: n\n", f"  needs: n\n{B1}", "'B1' stands twice"),
        ("measure: last", "measure: least", "measure: Input should be"),
        ("metric: fd_cifar", "metric: fid_cifar", "metric: 'fid_cifar' is not in the records"),
        ("  expect: higher\n", "", "expect: is missing"),
        ("  smallest: 1.1\n", "", "smallest: is missing"),
        ("smallest: 1.1", "smallest: 0.05", "smallest: 0.05 is not a ratio above 1"),
        ("smallest: 1.1", "smallest: .nan", "smallest: Input should be"),
        ("{norm: none}", "{head: conv}", "against: does not name the same factors as arms"),
        ("{norm: none}", "{norm: no}", "against.norm"),
        ("measure: last", "measure: correlation", "loss: belongs to the measures"),
        ("last\n  metric: fd_cifar", "share\n  metric: fid", "metric: this measure exists for"),
        ("measure: last", "measure: bound", "against: means nothing for a bound"),
        ("measure: last\n", "loss: d_loss\n", "metric: means nothing without a measure"),
        ("claim: c", "claim: ''", "claim: String should have at least 1 character"),
        ("place: blog", "id: B2", "id: is the name of the claim"),
        (B1, "- B1\n", "is not a mapping"),
        (B1, "B1: supported\n", "B1: is not a claim with fields"),
        ("B1:", "B1: {", "claims.yaml: while parsing"),
    ],
)
def test_a_fault_is_one_line_that_names_claim_and_key(tmp_path, old, new, words):
    assert old in B1
    (tmp_path / "claims.yaml").write_text(B1.replace(old, new))
    with pytest.raises(claims.BadClaim) as error:
        claims.load(tmp_path / "claims.yaml")
    assert str(error.value).startswith("claims.yaml: ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


# The rule.


@pytest.mark.parametrize(
    ("mean", "sd", "verdict", "why"),
    [
        (math.log(1.5), 0.1, "supported", "higher, as claimed"),
        (-math.log(1.5), 0.1, "refuted", "the reverse holds"),
        (-math.log(1.05), 0.1, "refuted", "excludes the smallest effect of interest, 1.1 times"),
        (0.0, 0.1, "equivalent", "within the smallest effect of interest, 1.1 times"),
        (0.02, 0.02, "equivalent", "within"),  # p < 0.05, and still of no interest
        (0.0, 0.3, "inconclusive", "neither shown nor ruled out"),
        (math.log(1.1), 0.2, "inconclusive", "neither shown nor ruled out"),
    ],
)
@pytest.mark.parametrize("expect", ["higher", "lower"])
def test_every_verdict_of_a_directed_claim(mean, sd, verdict, why, expect):
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
    assert found.p == pytest.approx(2 * stats.t.sf(abs(mean) / sd * math.sqrt(8), 7), rel=1e-6)
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
    one_sided = stats.t.sf((0.5 - abs(mean)) / sd * math.sqrt(8), 7)
    assert found.p == pytest.approx(one_sided, rel=1e-6)


@pytest.mark.parametrize(("seeds", "verdict"), [(7, "inconclusive"), (8, "supported")])
def test_a_verdict_needs_all_of_its_seeds(seeds, verdict):
    study = simulate(PAIR, seeds=seeds, log_fd=effect(math.log(1.5) + 0.1 * UNIT))
    found = judge(study, "B1")

    assert found.verdict == verdict
    assert found.n == found.estimate.n == seeds
    assert found.p < 0.001
    assert (found.why == "7 of 8 seeds") == (seeds == 7)
    assert math.isnan(found.p_holm) == (seeds == 7)


def test_the_seeds_that_are_needed_are_the_claims_own():
    study = simulate(PAIR, seeds=7, log_fd=effect(math.log(1.5) + 0.1 * UNIT))
    assert judge(study, "B1", seeds=7).verdict == "supported"


def test_one_seed_has_an_estimate_and_no_interval():
    found = judge(simulate(PAIR, seeds=1, log_fd=effect([math.log(1.5)])), "B1")
    assert found.estimate.value == pytest.approx(1.5, rel=1e-12)
    assert math.isnan(found.estimate.low)
    assert math.isnan(found.p)
    assert (found.verdict, found.why) == ("inconclusive", "1 of 8 seeds")


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
    """B1 with p 0.03, B3 with p 0.01 and P2-speed with p 0.001, the last one with this status."""
    return claims.judge(
        study,
        [LEDGER["B1"], LEDGER["B3"], LEDGER["P2-speed"].model_copy(update={"status": status})],
    )


@pytest.fixture(scope="module")
def family():
    """A study in which the three claims have known p values, all in the claimed direction."""
    means = [stats.t.isf(p / 2, 7) / math.sqrt(8) for p in (0.03, 0.01, 0.001)]
    norm, speed, head = (0.2 * (mean + UNIT) for mean in means)

    def log_fd(arm, seed, epoch):
        moved = norm[seed] if arm["norm"] == "batch" else 0
        return 4 + moved + (head[seed] if arm["head"] == "avgpool" else 0)

    def fast(arm, seed, epoch):
        return 800 * math.exp(speed[seed] if arm["head"] == "avgpool" else 0)

    return simulate(GRID | {"batch": [128]}, log_fd=log_fd, images_per_second=fast)


def test_holm_goes_over_the_confirmatory_claims(family):
    norm, speed, head = three(family)
    assert [norm.p, speed.p, head.p] == pytest.approx([0.03, 0.01, 0.001], rel=1e-6)
    assert [norm.p_holm, speed.p_holm, head.p_holm] == pytest.approx([0.03, 0.02, 0.003], rel=1e-6)

    # An exploratory claim keeps its p, and does not count.
    norm, speed, head = three(family, "exploratory")
    assert [norm.p_holm, speed.p_holm] == pytest.approx([0.03, 0.02], rel=1e-6)
    assert math.isnan(head.p_holm)
    assert head.p == pytest.approx(0.001, rel=1e-6)
    assert head.verdict == "supported"


def test_holm_can_take_a_verdict_away(family):
    alone = judge(family, "B1")
    again = [LEDGER["B1"]] * 2
    assert alone.verdict == "supported"
    beside = claims.judge(family, again)
    assert [x.p for x in beside] == [alone.p] * 2
    assert [x.p_holm for x in beside] == pytest.approx([0.06, 0.06], rel=1e-6)
    assert [x.verdict for x in beside] == ["inconclusive"] * 2


def test_what_has_not_been_tested_does_not_count(family):
    not_run = [LEDGER["P5-rate"], LEDGER["B7"], LEDGER["B5"].model_copy(update={"seeds": 9})]
    found = claims.judge(family, [LEDGER["B1"], *not_run])
    assert found[0].p_holm == found[0].p
    assert [x.verdict for x in found] == ["supported", *["not yet run"] * 2, "inconclusive"]
    assert all(math.isnan(x.p_holm) for x in found[1:])


# Each measure, on a study of known truth.


def test_after_one_epoch_and_after_the_last_are_two_questions():
    def log_fd(arm, seed, epoch):
        worse = {1: 0.3, 8: -0.3}.get(epoch, 0)
        return 4 + (worse + 0.05 * UNIT[seed] if arm["head"] == "avgpool" else 0)

    study = simulate(GRID, log_fd=log_fd)
    first, last = judge(study, "B2"), judge(study, "B2", measure="last")
    assert first.verdict == "supported"
    assert first.estimate.value == pytest.approx(math.exp(0.3), rel=1e-9)
    assert last.verdict == "refuted"
    assert last.estimate.value == pytest.approx(math.exp(-0.3), rel=1e-9)


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


def test_what_happens_with_norm_does_not_touch_the_blogs_own_arms():
    def log_fd(arm, seed, epoch):
        return 4 + 0.05 * UNIT[seed] * (arm["head"] == "avgpool") + 0.01 * epoch

    def disturbed(arm, seed, epoch):
        other = arm["norm"] == "batch"
        return log_fd(arm, seed, epoch) + other * (arm["head"] == "avgpool") * 2

    def told(arm, seed, epoch):
        return math.sin(epoch + seed)

    names = ("B2", "B4-epochs", "B4-updates", "B5", "B5-share", "B6", "P2-speed")
    quiet, loud = (judge(simulate(log_fd=x, d_loss=told), *names) for x in (log_fd, disturbed))
    for one, other in zip(quiet, loud, strict=True):
        assert one.runs == other.runs
        assert all("norm=none" in run for run in one.runs)
        assert one.estimate.value == other.estimate.value


def test_equal_epochs_and_equal_updates_are_two_questions():
    """Where only the number of updates matters, batch 512 is worse at equal epochs alone."""

    def log_fd(arm, seed, epoch):
        steps = epoch * -(-10_000 // arm["batch"])
        return 5 - 0.002 * steps + 0.02 * UNIT[seed] * (arm["batch"] == 512)

    epochs, updates = judge(simulate(GRID, log_fd=log_fd), "B4-epochs", "B4-updates")
    assert epochs.verdict == "refuted"
    assert epochs.estimate.value == pytest.approx(math.exp(0.002 * (632 - 160)), rel=1e-9)
    assert updates.verdict == "equivalent"
    assert updates.estimate.value == pytest.approx(math.exp(0.002 * (158 - 160)), rel=1e-9)


@pytest.mark.parametrize(("ratio", "verdict"), [(0.8, "supported"), (1.25, "refuted")])
def test_the_claim_about_batches_is_that_the_large_one_works(ratio, verdict):
    logs = math.log(ratio) + 0.05 * UNIT
    study = simulate(GRID, log_fd=effect(logs, level=512, factor="batch"))
    for found in (judge(study, "B4-epochs"), judge(study, "B4-updates")):
        assert found.verdict == verdict
        assert found.estimate.value == pytest.approx(ratio, rel=1e-9)


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(1.2, "supported"), (1.01, "equivalent"), (0.9, "refuted")]
)
def test_speed_is_the_median_over_epochs(ratio, verdict):
    def speed(arm, seed, epoch):
        hiccup = 0.2 if epoch == 3 and arm["head"] == "avgpool" else 1
        faster = ratio * math.exp(0.01 * UNIT[seed]) if arm["head"] == "avgpool" else 1
        return 800 * (1 + seed) * hiccup * faster

    found = judge(simulate(GRID, images_per_second=speed), "B3")
    assert found.verdict == verdict
    assert found.estimate.value == pytest.approx(ratio, rel=1e-9)
    assert found.identity is None


@pytest.mark.parametrize(
    ("change", "verdict"), [(0.0, "supported"), (-0.5, "refuted"), (-math.log(1.1), "inconclusive")]
)
def test_whether_batch_128_gets_going(change, verdict):
    def log_fd(arm, seed, epoch):
        return 5 + 0.3 * seed + (change + 0.05 * UNIT[seed]) * (epoch == 8)

    found = judge(simulate(GRID, log_fd=log_fd), "B4-start")
    assert found.verdict == verdict
    assert found.estimate.value == pytest.approx(math.exp(change), rel=1e-9)
    assert len(found.runs) == 16
    assert all("norm=none" in run and "batch=128" in run for run in found.runs)


def test_convergence_is_the_mean_over_all_epochs():
    def log_fd(arm, seed, epoch):
        slow = 0.4 * (8 - epoch) / 7 + 0.05 * UNIT[seed]
        return 4 + slow * (arm["head"] == "avgpool")

    found = judge(simulate(GRID, log_fd=log_fd), "P2-speed")
    assert found.verdict == "supported"
    assert found.estimate.value == pytest.approx(math.exp(0.2), rel=1e-9)


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


def noisy(fluctuation, noise, trend=0.0, epochs=12, banks=3, seeds=8):
    """A study whose log fd_cifar fluctuates by a known amount and is measured with known noise."""
    rng = np.random.default_rng(7)

    def log_fd(arm, seed, epoch):
        truth = 5 + 0.2 * seed + trend * epoch + rng.normal(0, fluctuation)
        return truth + rng.normal(0, noise, banks)

    return simulate(GRID, epochs=epochs, banks=banks, seeds=seeds, log_fd=log_fd)


@pytest.mark.parametrize(
    ("fluctuation", "noise", "verdict"),
    [(0.1, 0.03, "supported"), (0.0, 0.03, "equivalent"), (0.0, 0.2, "inconclusive")],
)
def test_fluctuation_is_what_noise_and_trend_do_not_explain(fluctuation, noise, verdict):
    found = judge(noisy(fluctuation, noise, trend=-0.1), "B5")
    assert found.verdict == verdict
    assert found.unit == "% between epochs"
    assert found.estimate.low < 100 * fluctuation < found.estimate.high
    assert (found.estimate.low > 0) == (verdict == "supported")
    if fluctuation:
        assert found.estimate.value == pytest.approx(100 * fluctuation, rel=0.1)


@pytest.mark.parametrize("banks", [1, 2, 3])
def test_noise_is_known_from_evaluation_banks_alone(banks):
    for found in judge(noisy(0.1, 0.03, banks=banks), "B5", "P2-stability", "B5-share"):
        least = 2 if found.claim.id == "B5-share" else 3
        if banks < least:
            why = {1: "no evaluation banks", 2: "2 of 3 evaluation banks"}[banks]
            assert (found.verdict, found.why, found.estimate) == ("inconclusive", why, None)
            assert (found.n, found.runs) == (0, [])
        else:
            assert found.n == 8


def test_fluctuation_of_two_heads():
    rng = np.random.default_rng(3)

    def log_fd(arm, seed, epoch):
        size = 0.15 if arm["head"] == "conv" else 0.05
        return 5 + rng.normal(0, size) + rng.normal(0, 0.01, 3)

    found = judge(simulate(GRID, epochs=16, log_fd=log_fd), "P2-stability")
    assert found.verdict == "supported"
    truth = -100 * math.sqrt(0.15**2 - 0.05**2)
    assert found.estimate.low < truth < found.estimate.high < 0


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


def test_an_epoch_that_one_bank_praises_by_chance_does_not_count():
    def log_fd(arm, seed, epoch):
        lucky = -2 if epoch == 4 else 0
        return 5 - 0.1 * epoch + np.array([lucky, 0, 0])

    assert judge(simulate(GRID, log_fd=log_fd), "B5-share").estimate.value == 0


@pytest.mark.parametrize(
    ("link", "verdict"), [("none", "supported"), ("up", "refuted"), ("down", "refuted")]
)
@pytest.mark.parametrize(("name", "loss"), [("B6", "d_loss"), ("B6-g", "g_loss")])
def test_whether_a_loss_tells(link, verdict, name, loss):
    rng = np.random.default_rng(11)
    level = rng.normal(0, 0.2, (8, 2, 2, 2, 13))

    def place(arm, seed, epoch):
        return (seed, *(GRID[x].index(arm[x]) for x in GRID), epoch)

    def told(arm, seed, epoch):
        x = level[place(arm, seed, epoch)] + rng.normal(0, 0.03)
        return {"up": x, "down": -x, "none": rng.normal()}[link] + 3

    def log_fd(arm, seed, epoch):
        return 4 + level[place(arm, seed, epoch)]

    found = judge(simulate(GRID, epochs=12, log_fd=log_fd, **{loss: told}), name)
    assert found.verdict == verdict
    assert (found.estimate.value > 0.8) == (link == "up")
    assert (found.estimate.value < -0.8) == (link == "down")


def test_a_loss_that_points_both_ways_is_strong_and_tells_nothing():
    def log_fd(arm, seed, epoch):
        return 5 - 0.1 * epoch

    def told(arm, seed, epoch):
        wobble = 0.5 * (seed if epoch == 3 else 0)
        return (
            epoch * (1 if arm["batch"] == 128 else -1) * (1 if arm["head"] == "conv" else -1)
            + wobble
        )

    signed, size = judge(simulate(GRID, log_fd=log_fd, d_loss=told), "B6", "B6-strength")
    assert signed.verdict == "supported"
    assert abs(signed.estimate.value) < 0.1
    assert size.verdict == "refuted"
    assert size.estimate.value > 0.9


# What a study lacks.


def test_an_absent_arm_is_named_and_so_is_the_study_that_has_it():
    found = {x.claim.id: x for x in claims.judge(simulate())}
    assert found["P5-beta1"].verdict == found["P5-rate"].verdict == "not yet run"
    assert found["P5-beta1"].why.startswith("no run with arm=beta1-0.9; needs the study of follow")
    assert "arm=rate-0.001" in found["P5-rate"].why
    assert found["P6"].why.startswith("needs a longer study")
    assert found["P7"].why.startswith("probe/accuracy_trained_1000 has not been measured; needs")
    for name in ("P5-beta1", "P6", "P7"):
        assert found[name].estimate is None
        assert (found[name].n, found[name].runs, found[name].identity) == (0, [], None)
        assert math.isnan(found[name].p)

    found = {x.claim.id: x for x in claims.judge(simulate(PAIR))}
    assert found["B1"].verdict != "not yet run"
    for name in ("B2", "B3", "B4-epochs", "B4-updates", "P2-speed"):
        assert found[name].verdict == "not yet run"
    assert found["B3"].why.startswith("no run with head=avgpool; needs the ablation")


def test_arms_that_differ_in_more_than_the_claim_are_no_pair():
    arms = [("none", "conv", 128), ("batch", "conv", 512)]
    found = judge(simulate(GRID, arms=arms), "B1")
    assert (found.verdict, found.n) == ("not yet run", 0)
    assert found.why.startswith("no two runs that differ in this alone")


def test_arms_that_are_planned_and_not_begun_are_not_yet_run():
    study = simulate(PAIR)
    study = dataclasses.replace(study, frame=study.frame.iloc[:0])
    found = judge(study, "B1")
    assert (found.verdict, found.why) == ("not yet run", "no epoch of its runs has been committed")


def test_a_metric_that_was_not_measured():
    found = judge(simulate(PAIR), "B1", metric="fid")
    assert (found.verdict, found.why) == ("not yet run", "fid has not been measured")


def test_a_study_with_other_factors_makes_other_claims_testable():
    """One factor at a time around a baseline; the settings say what the others are."""
    factors = ONE | {"beta1": [0.5, 0.9], "init": ["paper", "torch", "blog"], "lr_g": [2e-4, 1e-3]}
    base = ("none", "conv", 128, 0.5, "paper", 2e-4)
    arms = [base]
    for place, level in ((3, 0.9), (4, "torch"), (4, "blog"), (5, 1e-3)):
        arms.append((*base[:place], level, *base[place + 1 :]))
    rng = np.random.default_rng(5)

    def log_fd(arm, seed, epoch):
        size = 0.2 if arm["beta1"] == 0.9 else 0.03
        other = 9 if arm["init"] == "blog" else 0
        return 5 + other + rng.normal(0, size) + rng.normal(0, 0.01, 3)

    study = simulate(factors, epochs=16, arms=arms, log_fd=log_fd)
    usual = {"norm": "none", "beta1": 0.5}
    beta1 = judge(study, "P5-beta1", arms=usual | {"beta1": 0.9}, against=usual)
    usual = {"norm": "none", "lr_g": 2e-4, "lr_d": 2e-4}
    rate = judge(study, "P5-rate", arms=usual | {"lr_g": 1e-3, "lr_d": 1e-3}, against=usual)
    norm = judge(study, "B1")
    assert beta1.verdict == "supported"
    assert len(beta1.runs) == 16
    assert all("init=paper" in run and "lr_g=0.0002" in run for run in beta1.runs)
    assert rate.why.startswith("no run with lr_d=0.001")
    assert norm.why.startswith("no run with norm=batch")


def test_what_all_runs_share_is_looked_up_in_the_settings():
    study = simulate(PAIR, log_fd=effect(math.log(1.5) + 0.1 * UNIT))
    for beta1, verdict in ((0.5, "supported"), (0.9, "not yet run")):
        arms, against = ({"norm": norm, "beta1": beta1} for norm in ("batch", "none"))
        assert judge(study, "B1", arms=arms, against=against).verdict == verdict
    arms, against = ({"norm": norm, "mood": "good"} for norm in ("batch", "none"))
    assert judge(study, "B1", arms=arms, against=against).why.startswith("no run with mood=good")


def test_two_fields_that_change_together_are_one_contrast():
    factors = ONE | {"lr_g": [2e-4, 1e-3], "lr_d": [2e-4, 1e-3]}
    base = ("none", "conv", 128)
    arms = [(*base, 2e-4, 2e-4), (*base, 1e-3, 1e-3)]
    study = simulate(factors, arms=arms, log_fd=effect(0.5 + 0.1 * UNIT, 1e-3, "lr_g"))
    usual = {"norm": "none", "lr_g": 2e-4, "lr_d": 2e-4}
    found = judge(study, "P5-rate", arms=usual | {"lr_g": 1e-3, "lr_d": 1e-3}, against=usual)
    assert found.verdict == "supported"
    assert found.estimate.value == pytest.approx(math.exp(0.5), rel=1e-9)


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
    sheet = claims.sheet(verdicts)
    rows = {row[0]: row for row in sheet.rows}

    assert sheet.columns == [
        "id", "claim", "hypothesis", "estimate (95 % interval)", "p", "n", "verdict",
    ]  # fmt: skip
    assert list(rows) == list(LEDGER)
    assert rows["B1"][1:3] == [LEDGER["B1"].claim, LEDGER["B1"].hypothesis]
    ends = [math.exp(math.log(1.5) + x * HALF * 0.1) for x in (-1, 1)]
    assert rows["B1"][3] == f"1.500 ({ends[0]:.3f} to {ends[1]:.3f}) times"
    assert rows["B1"][5:] == ["8", "supported: higher, as claimed"]
    assert rows["B1-bound"][3] == "0.7000, lowest step of each run"
    assert rows["B7"][3:6] == ["–", "–", "–"]
    assert not any("nan" in cell.lower().split() for row in sheet.rows for cell in row)
    assert sheet.metrics == ["fd_cifar"]
    assert any("Exploratory" in note and "B5-share" in note for note in sheet.notes)
    assert tables.to_latex(sheet).isascii()
    assert tables.to_markdown(sheet).count("\n| ") == len(LEDGER) + 2


def test_the_p_that_is_shown_is_the_one_that_decides(family):
    shown = {
        status: claims.sheet(three(family, status)).rows
        for status in ("confirmatory", "exploratory")
    }
    assert [row[4] for row in shown["confirmatory"]] == ["0.030", "0.020", "0.0030"]
    assert [row[4] for row in shown["exploratory"]] == ["0.030", "0.020", "0.0010"]


@pytest.mark.parametrize("status", ["confirmatory", "exploratory"])
def test_no_p_is_shown_where_no_verdict_stands_on_it(status):
    study = simulate(PAIR, seeds=7, log_fd=effect(math.log(1.5) + 0.1 * UNIT))
    sheet = claims.sheet([judge(study, "B1", status=status)])
    assert sheet.rows[0][4:] == ["–", "7", "inconclusive: 7 of 8 seeds"]
    assert not any("Exploratory" in note for note in sheet.notes)


def test_the_table_keeps_full_precision_and_the_runs():
    study = simulate(GRID, log_fd=effect(math.log(1.5) + 0.1 * UNIT))
    verdicts = claims.judge(study)
    table = claims.table(verdicts).set_index("id")

    assert list(table.index) == list(LEDGER)
    assert table.loc["B1", "estimate"] == verdicts[0].estimate.value
    assert table.loc["B1", "runs"].split() == verdicts[0].runs
    assert table.loc["B1", "p_flip"] == 2 / 2**8
    assert table.loc["B1", "network_sha256"] == "ab" * 32
    assert table.loc["B7", ["estimate", "low", "high", "p"]].isna().all()


def test_from_a_study_on_disk(make_study, tmp_path):
    small = {"seeds": (0, 1), "epochs": 3, "resolution": 16, "points": 2}
    study = records.load(make_study(tmp_path, factors=PAIR, **small))
    first, second = (claims.judge(study) for _ in range(2))

    assert claims.table(first).equals(claims.table(second))
    found = {x.claim.id: x for x in first}
    assert {x.verdict for x in first} == {"inconclusive", "not yet run"}
    assert (found["B1"].n, found["B1"].why) == (2, "2 of 8 seeds")
    last = study.frame[study.frame["epoch"] == 3].pivot(index="seed", columns="norm")["fd_cifar"]
    ratio = np.exp(np.log(last["batch"] / last["none"]).mean())
    assert found["B1"].estimate.value == pytest.approx(ratio, rel=1e-12)
    assert (
        found["B1-bound"].estimate.value == study.frame.query("norm == 'batch'")["d_loss_min"].min()
    )
    assert found["B5"].why == "no evaluation banks"
    assert found["B6"].estimate is not None
