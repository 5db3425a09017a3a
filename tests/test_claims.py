"""Verdicts on simulated studies whose truth is known, and what the ledger refuses."""

import dataclasses
import hashlib
import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from dcgan.cli import BadInput
from reports import claims, tables
from reports.analysis import Analysis

GRID = {"norm": ["none", "batch"], "head": ["conv", "avgpool"], "batch": [128, 512]}
PAIR = {"norm": ["none", "batch"], "head": ["conv"], "batch": [128]}
HEADS = {"norm": ["none"], "head": ["conv", "avgpool"], "batch": [128]}
BATCHES = {"norm": ["none"], "head": ["conv"], "batch": [128, 512]}
LN2 = math.log(2)

# Differences of eight seeds with mean 0 and standard deviation 1, whose 95 % interval is known.
UNIT = stats.zscore([-1.5, -1.0, -0.5, -0.25, 0.25, 0.5, 1.0, 1.5], ddof=1)
HALF = stats.t.ppf(0.975, 7) / math.sqrt(8)  # half its width

LEDGER = {claim.id: claim for claim in claims.load()}
NORM = {"arms": {"norm": "batch"}, "against": {"norm": "none"}}
HEAD = {"arms": {"head": "avgpool"}, "against": {"head": "conv"}}
CLAIMS = LEDGER | {  # over all cells, and at epochs that a short study has
    "B1": LEDGER["B1-128"].model_copy(update=NORM),
    "P3-heads": LEDGER["P3"].model_copy(update=HEAD),
    "B4": LEDGER["B4-epochs-30"].model_copy(update={"epoch": 8}),
    "B4-updates": LEDGER["B4-updates-20"].model_copy(update={"epoch": 8, "against_epoch": 2}),
}
UNTRAINED = 1e9  # fd_cifar, so that everything has learnt


def simulate(
    factors=GRID, seeds=8, epochs=2, eval_sets=3, arms=None, log_fd=None, untrained=UNTRAINED,
    **columns,
):  # fmt: skip
    """A study in memory; `log_fd`, `curve` and the columns are given by (arm, seed, epoch).

    `log_fd`: the logarithm of fd_cifar, or a row of them for the sets; `curve`: the points of D's
    loss within an epoch; `untrained`: fd_cifar before training, if known.
    """
    arms = list(itertools.product(*factors.values())) if arms is None else arms
    curve = columns.pop("curve", lambda *_: [0.6, 0.7])
    frame, curves, scores, plan = [], [], [], []
    for arm, seed in itertools.product(arms, range(seeds)):
        levels = dict(zip(factors, arm, strict=True))
        run = ",".join(f"{key}={value}" for key, value in levels.items()) + f"/seed={seed}"
        key = {"run": run} | levels | {"seed": seed}
        plan.append(key | {"planned": epochs, "committed": epochs, "status": "finished"})
        for epoch in range(1, epochs + 1):
            logs = np.broadcast_to(log_fd(levels, seed, epoch) if log_fd else 4.0, eval_sets)
            steps = epoch * -(-10_000 // levels.get("batch", 128))
            row = key | {
                "epoch": epoch,
                "images": epoch * 1_000_000,
                "steps": steps,
                "status": "ok",
            }
            row |= {"d_loss": 0.7, "g_loss": 1.0, "d_loss_min": 0.7, "fd_cifar": np.exp(logs[0])}
            frame.append(row | {x: of(levels, seed, epoch) for x, of in columns.items()})
            points = curve(levels, seed, epoch)
            curves += [key | {"images": i, "d_loss": x} for i, x in enumerate(points)]
            numbers = enumerate(np.exp(logs) if eval_sets > 1 else [])
            scores += [key | {"epoch": epoch, "eval_set": k, "fd_cifar": x} for k, x in numbers]

    known = {} if untrained is None else {"fd_cifar": {"untrained": untrained}}
    keys = ["run", *factors, "seed", "epoch", "eval_set", "fd_cifar"]
    info = {"study": "ablation", "scale": "small", "factors": factors, "seeds": [0], "settings": {}}
    return Analysis(
        Path("nowhere"), info, pd.DataFrame(frame), pd.DataFrame(curves),
        pd.DataFrame(scores, columns=keys), pd.DataFrame(known), factors=list(factors),
        identities={"fd_cifar": {"metric": "fd_cifar", "network_sha256": "ab" * 32}},
        arms=arms, plan=pd.DataFrame(plan), machines=[],
    )  # fmt: skip


def effect(logs, level="batch"):
    """log_fd of a study in which one level moves the seeds' numbers by `logs`, at every epoch."""
    return lambda arm, seed, _: 4 + 0.3 * seed + (logs[seed] if level in arm.values() else 0)


def judge(study, *wanted, **changes):
    """The verdicts of some of the claims, changed, with no others beside them."""
    chosen = [CLAIMS[name].model_copy(update=changes) for name in wanted]
    verdicts = claims.judge(study, chosen)
    return verdicts[0] if len(wanted) == 1 else verdicts


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hypothesis": None}, "hypothesis: Input should be a valid string"),
        ({"seeds": 5}, "seeds: Input should be greater than or equal to 6"),
        ({"verdict": "supported"}, "B1: verdict: Extra inputs are not"),
        ({"measure": "least"}, "measure: Input should be"),
        ({"measure": "share", "metric": "fid"}, "metric: it is of fd_cifar alone"),
        ({"smallest": 0.05}, "smallest: is not a ratio above 1"),
        ({"against": {"head": "conv"}}, "against: other factors"),
        ({"measure": "correlation"}, "loss: belongs to correlation, strength"),
        ({"epoch": 3}, "epoch: belongs to at"),
        ({"measure": "bound"}, "against: means nothing for bound"),
    ],
)
def test_a_fault_is_one_line_that_names_claim_and_key(tmp_path, change, words):
    path, claim = tmp_path / "claims.yaml", yaml.safe_load(claims.LEDGER.read_text())["B1-128"]
    path.write_text(yaml.safe_dump({"B1": claim}))
    assert claims.load(path) == [LEDGER["B1-128"].model_copy(update={"id": "B1"})]
    path.write_text(yaml.safe_dump({"B1": claim | change}))
    with pytest.raises(BadInput, match=r"claims\.yaml: ") as error:
        claims.load(path)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


# The rule.


@pytest.mark.parametrize(
    ("ratio", "sd", "verdict", "why", "test"),
    [
        (1.5, 0.1, "supported", "higher, as claimed; the whole interval lies beyond", "none"),
        (1.1, 0.05, "supported", "reaches the smallest effect of interest, 1.1", "none"),
        (1 / 1.5, 0.1, "refuted", "lower, not higher: the interval", "none"),
        (1 / 1.05, 0.1, "refuted", "excludes the smallest effect", "above"),
        (1, 0.1, "equivalent", "the smallest effect of interest, 0.909 to 1.1 times", "tost"),
        (1.02, 0.02, "equivalent", "excludes zero effect, on the side that was claimed", "tost"),
        (1.08, 0.05, "inconclusive", "but the estimate falls short of the smallest", "none"),
        (1, 0.3, "inconclusive", "includes both zero effect and the smallest", "none"),
    ],
)
@pytest.mark.parametrize("expect", ["higher", "lower"])
def test_every_verdict_of_a_directed_claim(ratio, sd, verdict, why, test, expect):
    sign, mean = 1 if expect == "higher" else -1, math.log(ratio)
    result = judge(simulate(PAIR, log_fd=effect(sign * (mean + sd * UNIT))), "B1", expect=expect)
    assert (result.verdict, result.n, result.scale.unit) == (verdict, 8, "times")
    assert why in result.why or expect == "lower"
    assert len(result.runs) == len(set(result.runs)) == 16
    assert result.identity["metric"] == "fd_cifar"

    # Estimate, interval and p by hand.
    estimate = result.estimate
    assert estimate.value == pytest.approx(math.exp(sign * mean), rel=1e-9)
    ends = sorted(math.exp(sign * (mean + x * HALF * sd)) for x in (-1, 1))
    assert [estimate.low, estimate.high] == pytest.approx(ends, rel=1e-9)
    distance = {"none": abs(mean), "above": math.log(1.1) - mean, "tost": math.log(1.1) - abs(mean)}
    tail = stats.t.sf(distance[test] / sd * math.sqrt(8), 7)
    assert result.p == pytest.approx((2 if test == "none" else 1) * tail, rel=1e-6)
    assert result.p_holm == result.decisive_p == result.p


@pytest.mark.parametrize(
    ("mean", "sd", "verdict"),
    [(0.2, 0.3, "supported"), (0.0, 0.7, "inconclusive"), (-0.8, 0.3, "refuted")],
)
def test_every_verdict_of_a_claim_of_no_effect(mean, sd, verdict):
    study = simulate(PAIR, log_fd=effect(mean + sd * UNIT))
    result = judge(study, "B1", expect="same", smallest=math.exp(0.5))
    assert result.verdict == verdict
    why = "lower: the whole interval lies outside of 0.607 to 1.65 times"
    assert (result.why == why) == (verdict == "refuted")
    inside = stats.t.sf((0.5 - abs(mean)) / sd * math.sqrt(8), 7)
    outside = 2 * stats.t.sf((abs(mean) - 0.5) / sd * math.sqrt(8), 7)
    assert result.p == pytest.approx(outside if verdict == "refuted" else inside, rel=1e-6)


def test_a_verdict_needs_as_many_seeds_as_its_claim_asks_for():
    study = simulate(PAIR, seeds=7, log_fd=effect(math.log(1.5) + 0.1 * UNIT))
    result = judge(study, "B1")
    assert (result.verdict, result.why, result.n) == ("inconclusive", "7 of 8 seeds", 7)
    assert result.p < 0.001
    assert np.isnan([result.p_holm, result.decisive_p]).all()
    assert judge(study, "B1", seeds=7).verdict == "supported"

    result = judge(simulate(PAIR, seeds=1, log_fd=effect([math.log(1.5)])), "B1")
    assert result.estimate.value == pytest.approx(1.5, rel=1e-12)
    assert np.isnan([result.estimate.low, result.p]).all()


def test_holm_goes_over_all_tests_of_the_confirmatory_claims():
    """Three tests of each claim, of which one can be true: no p counts more often than claims."""
    levels = {"norm": ("batch", "none"), "batch": (512, 128), "head": ("avgpool", "conv")}
    means = [stats.t.isf(p / 2, 7) / math.sqrt(8) for p in (0.03, 0.01, 0.001)]
    moved = dict(zip(("batch", 512, "avgpool"), (0.2 * (x + UNIT) for x in means), strict=True))
    study = simulate(
        log_fd=lambda arm, seed, _: 4 + sum(moved[x][seed] for x in arm.values() if x in moved)
    )
    chosen = [
        CLAIMS["B1"].model_copy(update={"arms": {x: high}, "against": {x: low}})
        for x, (high, low) in levels.items()
    ]
    few = CLAIMS["B1"].model_copy(update={"seeds": 9})  # not tested: not counted
    for status, adjusted in (
        ("confirmatory", [0.09, 0.03, 0.003]),
        ("exploratory", [0.06, 0.02, math.nan]),  # the last one keeps its p, and does not count
    ):
        chosen[2] = chosen[2].model_copy(update={"status": status})
        result = claims.judge(study, [*chosen, few, LEDGER["P5-rate"]])
        assert [x.p for x in result[:3]] == pytest.approx([0.03, 0.01, 0.001], rel=1e-6)
        assert [x.p_holm for x in result[:3]] == pytest.approx(adjusted, rel=1e-6, nan_ok=True)
        verdicts = ["inconclusive", "supported", "supported", "inconclusive", "not yet run"]
        assert [x.verdict for x in result] == verdicts
    assert result[0].estimate.low > 1
    assert result[0].why == "the interval would decide, but p = 0.06 after Holm's correction"


# Each measure, on a study of known truth.

SETS = np.array([0, 1, -1]) / 100  # of noise, on three evaluation sets
WAVE = np.sin(np.arange(31) ** 2)


def noise(seed):
    return 0.02 * UNIT[seed]


def wave(sign):
    """A number that goes up and down with epochs, upside down at batch 512 where the sign is -1."""
    return lambda arm, _, epoch: 5 + (sign if arm["batch"] == 512 else 1) * WAVE[epoch]


@pytest.mark.parametrize(
    ("name", "verdict", "value", "made"),
    [
        # Output BatchNorm does 0.6 at batch 128 and 0.2 at 512: a ratio of ratios.
        ("B1-interaction", "supported", math.exp(0.2 - 0.6), {
            "factors": GRID,
            "log_fd": lambda arm, seed, _: 4 + 0.3 * seed + 0.7 * (arm["batch"] == 512)
            + (arm["norm"] == "batch") * (0.6 if arm["batch"] == 128 else 0.2 + noise(seed)),
        }),
        # Where only the number of updates matters, batch 512 is worse at equal epochs alone.
        *((name, verdict, math.exp(0.002 * fewer), {
            "factors": BATCHES, "epochs": 8,
            "log_fd": lambda arm, _, epoch: 5 - 0.002 * epoch * {128: 79, 512: 20}[arm["batch"]],
        }) for name, verdict, fewer in (
            ("B4", "refuted", 632 - 160), ("B4-updates", "equivalent", 158 - 160),
        )),
        # Batch 128 gets to 30 twice as fast in epochs, and so at half as many images.
        *((name, verdict, times, {
            "factors": BATCHES, "epochs": 6, "untrained": 30 * math.exp(9),
            "log_fd": lambda arm, _, epoch:
                math.log(30) + 9 - {128: 4, 512: 2}[arm["batch"]] * epoch,
        }) for name, verdict, times in (
            ("B4-images-to-30", "refuted", 2), ("B4-updates-to-30", "supported", 2 * 20 / 79),
        )),
        # A share that falls to zero is a difference in points.
        ("P3-heads", "supported", -40, {
            "recall_cifar": lambda arm, seed, _: (0.4 + noise(seed)) * (arm["head"] == "conv"),
        }),
        # The standard deviation of D's loss along its curve.
        ("B1-losses", "supported", 0.1, {
            "factors": PAIR,
            "curve": lambda arm, *_: [0.7, 0.72] if arm["norm"] == "batch" else [0.5, 0.7],
        }),
        # What noise and trend do not explain of the changes; there are twenty after burn-in.
        ("B5", "supported", 100 * math.sqrt(20 * 0.1**2 / (20 - 1 / 20) / 2 - SETS.var(ddof=1)), {
            "epochs": 30, "log_fd": lambda *key: 4 + 0.1 * (key[2] % 2) + SETS,
        }),
        ("B5", "equivalent", 0, {"epochs": 30, "log_fd": lambda *key: 9 - 0.1 * key[2] + SETS}),
        # Whether a run is bad at epoch 20 and fine before and after; how many are by noise alone.
        ("B5-literal", "supported", 1, {
            "epochs": 30, "log_fd": lambda *key: 4 + 0.2 * (key[2] == 20) + SETS,
        }),
        # Of how many runs the best epoch of one set beats the last on another.
        ("B5-share", "supported", 1, {"epochs": 6, "log_fd": lambda *key: 5 - (key[2] == 4)}),
        ("B5-share", "refuted", 0, {"epochs": 6, "log_fd": lambda *key: 5 - 0.1 * key[2]}),
        # Whether changes of a loss go with those of fd_cifar, in one direction or in any.
        *((name, verdict, value, {
            "factors": BATCHES, "epochs": 30, "log_fd": wave(1), "d_loss": wave(sign),
        }) for name, verdict, value, sign in (
            ("B6", "refuted", 1, 1), ("B6", "supported", 0, -1), ("B6-strength", "refuted", 1, -1),
        )),
        # Epoch 7 of 9 is the one that a loss chooses; what it says during burn-in does not count.
        ("B6-choice-g", "supported", math.exp(0.3), {
            "epochs": 9,
            "log_fd": lambda _, seed, epoch: 4 + (0.3 + noise(seed)) * (epoch == 7),
            "g_loss": lambda *key: 5 - {1: 4, 7: 2}.get(key[2], 0),
        }),
        ("B6-choice-d", "equivalent", 1, {
            "epochs": 9,
            "log_fd": lambda _, seed, epoch: 4 + noise(seed) * (epoch == 7),
            "d_loss": lambda *key: 5 + {1: 4, 7: 2}.get(key[2], 0),
        }),
    ],
)  # fmt: skip
def test_each_measure(name, verdict, value, made):
    result = judge(simulate(**{"factors": HEADS} | made), name)
    assert (result.verdict, result.n) == (verdict, 8)
    assert result.estimate.value == pytest.approx(value, abs=0.001)


def test_results_are_compared_within_each_run(monkeypatch):
    study = simulate(HEADS)
    plan = study.plan.set_index("run")
    slow, faster = 800.0 * (1 + plan["seed"]), 1.2 * np.exp(0.01 * UNIT[plan["seed"]])
    speeds = {"heads/step_speed_conv": slow, "heads/step_speed_avgpool": slow * faster}
    results = pd.DataFrame(speeds | {"neighbours/share_features": 0.02})
    monkeypatch.setattr(Analysis, "results", results)
    speed, copies = judge(study, "B3", "P8")
    assert (speed.verdict, speed.n, len(speed.runs)) == ("supported", 8, 8)
    assert speed.estimate.value == pytest.approx(1.2, rel=1e-9)
    assert speed.identity is None
    assert (copies.verdict, copies.estimate.value) == ("supported", pytest.approx(1))


@pytest.mark.parametrize(("change", "verdict"), [(0.0, "supported"), (-0.5, "refuted")])
def test_an_arm_that_stands_still_is_judged_where_another_learns(change, verdict):
    def log_fd(arm, seed, epoch):
        moved = (change + 0.05 * UNIT[seed]) * (epoch == 2)
        return 4.0 if arm["norm"] == "none" else 5 + moved

    result = judge(simulate(PAIR, log_fd=log_fd, untrained=math.exp(5)), "B1-gain-128")
    assert result.verdict == verdict
    assert result.estimate.value == pytest.approx(math.exp(change), rel=1e-9)
    assert all("norm=batch" in run for run in result.runs)
    alone = judge(simulate(PAIR, untrained=math.exp(4)), "B1-gain-128")
    assert alone.verdict == "not testable"


@pytest.mark.parametrize(
    ("step", "seeds", "verdict"),
    [
        (LN2 * (1 - 5e-7), 8, "supported"),  # as float32 may round it
        (LN2 * (1 - 2e-6), 8, "refuted"),
        (0.69, 1, "refuted"),  # one step below is enough
        (0.7, 7, "inconclusive"),
    ],
)
def test_one_step_below_the_bound_refutes_it(step, seeds, verdict):
    def lowest(arm, seed, epoch):
        return step if (seed, epoch) == (0, 1) else 0.75 if arm["norm"] == "batch" else 0.01

    result = judge(simulate(PAIR, seeds=seeds, d_loss_min=lowest), "B1-bound")
    assert (result.verdict, len(result.runs)) == (verdict, seeds)
    assert result.estimate.value == result.estimate.low == step
    assert np.isnan([result.p, result.p_holm]).all()


def test_a_step_of_a_seed_that_is_not_whole_refutes_a_bound_too():
    """Seed 1 lacks the last epoch of one arm, and the other arm went below the bound."""

    def lowest(arm, seed, epoch):
        return 0.6 if (arm["head"], seed) == ("conv", 1) else 0.75

    study = simulate(HEADS | {"norm": ["batch"]}, seeds=3, d_loss_min=lowest)
    lost = study.frame["run"].eq("norm=batch,head=avgpool,batch=128/seed=1")
    frame = study.frame[~(lost & study.frame["epoch"].eq(2))]
    result = judge(dataclasses.replace(study, frame=frame), "B1-bound")
    assert (result.verdict, result.n, result.estimate.low) == ("refuted", 2, 0.6)
    begun = dataclasses.replace(study, frame=study.frame[study.frame["epoch"] == 1])
    assert (judge(begun, "B1-bound").verdict, judge(begun, "B1-bound").n) == ("refuted", 0)


def test_a_run_that_diverged_says_nothing_of_epochs():
    """It goes on without scores; those that it has had are of another length."""
    rng = np.random.default_rng(7)
    study = simulate(HEADS, epochs=30, log_fd=lambda *_: 4 + rng.normal(0, 0.1, 3))
    run = "norm=none,head=conv,batch=128/seed=3"
    lost = study.frame["run"].eq(run) & study.frame["epoch"].gt(20)
    frame = study.frame.assign(
        fd_cifar=study.frame["fd_cifar"].mask(lost), status=np.where(lost, "diverged", "ok")
    )
    for claim in ("B5", "B5-share"):
        whole, left = (judge(x, claim) for x in (study, dataclasses.replace(study, frame=frame)))
        assert (whole.n, left.n) == (8, 7)
        assert left.why == f"7 of 8 seeds; without a number: {run}"


@pytest.mark.parametrize("sets", [1, 2])
def test_noise_is_known_from_evaluation_sets_alone(sets):
    for result in judge(simulate(HEADS, eval_sets=sets), "B5", "P2-stability"):
        why = f"{sets} of the 3 evaluation sets that it needs"
        assert (result.verdict, result.why) == ("inconclusive", why)
        assert (result.estimate, result.n, result.runs) == (None, 0, [])


# What is not testable, and what a study lacks.


def test_of_a_study_in_which_nothing_is_learnt_no_quality_is_judged():
    study = simulate(epochs=30, log_fd=lambda *_: np.log([94, 94.5, 95]), untrained=94.4)
    verdicts = claims.judge(study)
    quality = [x for x in verdicts if claims.MEASURES[x.claim.measure].quality]
    assert {x.verdict for x in quality} == {"not testable", "not yet run"}
    about = [x for x in quality if x.verdict == "not testable"]
    assert len(about) > 25
    assert all("of the untrained generator, which is not below 0.8" in x.why for x in about)
    assert next(x for x in verdicts if x.claim.id == "B1-bound").verdict == "supported"
    assert all(math.isnan(x.p_holm) for x in verdicts)  # nothing else was tested

    study = simulate(PAIR)
    result = judge(study, "B1", images=2_000_001)
    assert result.why == "D is shown 2,000,000 images, and the claim asks for 2,000,001"
    assert judge(study, "B1", images=2_000_000).verdict == "equivalent"
    bare = judge(simulate(PAIR, untrained=None), "B1")
    assert (bare.verdict, bare.why[:14]) == ("not testable", "no calibration")


@pytest.mark.parametrize(("better", "verdict"), [(75.0, "supported"), (76.0, "not testable")])
def test_the_better_arm_of_every_cell_has_to_have_learnt(better, verdict):
    """One cell alone is at the edge; the others are far below it."""

    def log_fd(arm, seed, epoch):
        edge = arm["head"] == "avgpool" and arm["batch"] == 512 and epoch == 2
        worse = 0.5 + 0.05 * UNIT[seed] if arm["norm"] == "batch" else 0
        return math.log(better if edge else 20) + worse

    study = simulate(GRID, log_fd=log_fd, untrained=94.4)
    result = judge(study, "B1")
    assert (result.verdict, result.estimate.value) == (verdict, pytest.approx(math.exp(0.5)))
    assert judge(study, "B1", measure="at", epoch=1).verdict == "supported"  # where it learnt
    why = "even the better side has 0.81 times the fd_cifar of the untrained generator, "
    assert result.why.startswith(why) == (verdict == "not testable")


@pytest.mark.parametrize("dead", [False, True])
def test_fluctuation_is_compared_only_between_arms_that_have_learnt(dead):
    """The arm that is still at the floor hardly moves there, which is no steadier training."""
    rng = np.random.default_rng(3)

    def log_fd(arm, seed, epoch):
        floor = dead and arm["head"] == "avgpool"
        moves = rng.normal(0, 0.001 if floor else 0.1)
        return np.log(95 if floor else 20) + moves + rng.normal(0, 0.0001, 3)

    study = simulate(HEADS, epochs=30, log_fd=log_fd, untrained=94.4)
    result = judge(study, "P2-stability")
    assert (result.verdict == "not testable") == dead
    assert result.why.startswith("one side has 1.0") == dead
    assert judge(study, "B1", **HEAD).verdict != "not testable"


def test_images_of_different_kinds_need_an_untrained_generator_of_each():
    arms = {"ten-classes": {}, "one-class": {"classes": "1"}}
    study = simulate({"arm": [*arms]}, epochs=3, log_fd=lambda *_: math.log(50), untrained=94.4)
    kinds = dataclasses.replace(study, info=study.info | {"arms": arms})
    result = judge(kinds, "B8")
    why = "no calibration of the untrained generator, against images of the same classes"
    assert (result.verdict, result.why) == ("not testable", why)
    assert judge(kinds, "B8", against={}).why == why
    assert judge(kinds, "B8", arms={"arm": "ten-classes"}, against={}).verdict != "not testable"

    # 50 is not learnt, or is.
    for untrained, verdict in ((62.0, "not testable"), (63.0, "equivalent")):
        calibration = kinds.calibration.copy()
        calibration.attrs["untrained"] = {"1": {"fd_cifar": untrained}}
        both = dataclasses.replace(kinds, calibration=calibration)
        assert judge(both, "B8", against={}).verdict == verdict


def test_in_how_many_rows_the_verdict_is_the_same_without_the_pilot():
    """Seed 0 alone makes the norm's effect uncertain."""
    logs = math.log(1.5) + 0.05 * UNIT
    chosen = [CLAIMS["B1"], LEDGER["B1-bound"], LEDGER["B7"]]
    for first, same in ((logs[0], 2), (-2, 1)):
        study = simulate(PAIR, log_fd=effect([first, *logs[1:]]))
        verdicts = claims.judge(study, chosen)
        without = claims.without_pilot(study, verdicts)
        assert [x.claim.id for x in without] == ["B1-128", "B1-bound"]  # B7 has not been run
        assert {x.verdict for x in without} == {"supported"}
        notes = " ".join(tables.ledger(study, verdicts).notes)
        assert f"the verdict is the same for {same} of the 2 claims that were run." in notes
        changed = "B1-128 is then supported, not inconclusive."
        assert (changed in notes) == (same == 1)
    rest = dataclasses.replace(study, plan=study.plan[study.plan["seed"] > 0])
    assert claims.without_pilot(rest, verdicts) == []


def test_what_a_study_lacks_is_said():
    beta1, filters = judge(simulate(), "P5-beta1", "P6")
    assert (beta1.verdict, beta1.estimate, beta1.n) == ("not yet run", None, 0)
    why = "no arm beta1-0.9 in this study; needs the follow-ups at cpu32, with beta1=0.9"
    assert beta1.why.startswith(why)
    assert filters.why.startswith("constant/share_last has not been measured; needs")
    pair = simulate(PAIR)
    assert judge(pair, "B2-1").why.startswith("no run with head=avgpool; needs the ablation at")
    assert judge(pair, "B1", metric="fid").why == "fid has not been measured"
    apart = simulate(GRID, arms=[("none", "conv", 128), ("batch", "conv", 512)])
    assert judge(apart, "B1").why.startswith("no two runs that differ in this alone")
    begun = dataclasses.replace(pair, frame=pair.frame.iloc[:0])
    assert judge(begun, "B1").why == "no epoch of its runs has been committed"

    # What all runs share stands in the settings.
    for beta1, lacks in ((0.5, False), (0.9, True)):
        arms, against = ({"norm": norm, "beta1": beta1} for norm in ("batch", "none"))
        assert (judge(pair, "B1", arms=arms, against=against).verdict == "not yet run") == lacks


def test_a_seed_without_one_of_its_cells_is_left_out_whole():
    study = simulate(GRID, log_fd=effect(math.log(1.5) + 0.1 * UNIT))
    run = "norm=batch,head=avgpool,batch=512/seed=3"
    lost = study.frame["run"].eq(run) & study.frame["epoch"].eq(2)
    frame = study.frame.assign(fd_cifar=study.frame["fd_cifar"].mask(lost))
    norm, head = judge(dataclasses.replace(study, frame=frame), "B1", "B2-1")
    assert (norm.verdict, norm.n, len(norm.runs)) == ("inconclusive", 7, 7 * 8)
    assert norm.why == f"7 of 8 seeds; without a number: {run}"
    rest = math.log(1.5) + 0.1 * np.delete(UNIT, 3)
    assert norm.estimate.value == pytest.approx(math.exp(rest.mean()), rel=1e-9)
    assert head.n == 8


# What a reader sees.


def test_the_ledger_says_what_is_decided():
    """What it says of claims that are not decided yet stands in the published report."""
    study = simulate(GRID, log_fd=effect(math.log(1.5) + 0.1 * UNIT))
    ledger = tables.ledger(study, claims.judge(study))
    rows = {row[0]: row for row in ledger.rows}
    details = dict(zip(rows, ledger.details, strict=True))
    assert list(rows) == list(LEDGER)
    low, high = (1.5 * math.exp(x * HALF * 0.1) for x in (-1, 1))
    interval = f"1.50 ({low:.2f} to {high:.2f}) times"
    assert rows["B1-128"][2:] == ["confirmatory", "supported", interval, "< 0.0001"]
    assert details["B1-128"]["why this verdict"].startswith("higher, as claimed; ")
    assert (details["B1-128"]["p"], details["B1-interaction"].get("p")) == ("< 0.0001", None)

    # Seeds that agree have neither interval nor p there.
    assert rows["B1-interaction"][4:] == ["1.00 times", tables.DASH]


def test_claims_may_be_added_at_the_end_and_no_others_changed(tmp_path):
    first, last = "B1-bound", "P10"
    whole = claims.LEDGER.read_bytes()
    end = whole.index(f"\n{last}:".encode()) + 1
    frozen = hashlib.sha256(whole[:end]).hexdigest()
    later = [*LEDGER][[*LEDGER].index(last) :]
    assert claims.added_since(frozen) == later
    assert claims.added_since(hashlib.sha256(whole).hexdigest()) == []

    changed = tmp_path / "claims.yaml"
    changed.write_bytes(whole.replace(f"{first}:".encode(), b"B1-limit:"))
    assert claims.added_since(frozen, changed) is None

    # What the ledger says of it.
    study = simulate(PAIR)
    assert tables.ledger(study, []).notes[-1] == "study.json names no commit of the claims."
    added = f"that file, at whose end {tables.join(later)} came later"
    for sha256, said in (("0" * 64, "another one"), (frozen, added)):
        info = {"claims": {"commit": "1e72eec", "date": "2026-11-25", "sha256": sha256}}
        note = tables.ledger(dataclasses.replace(study, info=study.info | info), []).notes[-1]
        assert "commit 1e72eec, 2026-11-25" in note
        assert note.endswith(f"the verdicts use {said}.")
