"""The ledger: what was claimed, and what the records of a study say to it.

claims.yaml holds each claim by its id: a paraphrase and its place, the hypothesis in words, and how
it is tested. It is committed before the first run of a study, which keeps the commit in its
study.json. A verdict is computed, here, from records alone; there is no field to write one in.

**The number.** Each run gives one number (`MEASURES`), each seed the mean over its cells, over
pairs of cells where a claim holds `arms` `against` others, or the difference of two such means
where it asks whether an effect differs `across` two levels. No effect is zero. The mean over seeds
has Student's 95 % interval; the exact sign-flip p stands beside it.

**The tests.** With d the mean, its sign as claimed, and m the smallest effect of interest, three
null hypotheses are tested by t tests over seeds:

    none     d = 0 (two-sided); of a claim of no effect (`expect: same`): |d| < m
    above    d is at least m (one-sided)
    below    d is at most -m (one-sided)

Rejecting both of the last two is an equivalence test (TOST). Holm's procedure goes over all three
p values of all confirmatory claims that the study has tested, and so over everything that a verdict
can stand on. As the three hypotheses of a claim exclude each other, no more of them can be true
than there are claims, and no p is multiplied by more than that (Shaffer 1986). The p of `none` is
two-sided, and where d is at least m an error about its sign is one about `above` too; so signs are
kept at the same level. An exploratory claim keeps its own p values. A verdict asks of its tests
p < 0.05, thus adjusted, and of the 95 % interval that it says the same; the first that fits:

    not yet run    the study has no such arms or no epoch of them, or the records lack the quantity
    not testable   the claim is about quality, and the arms have learnt nothing or D has seen too
                   few images (below)
    inconclusive   fewer seeds with a number than the claim asks for
    equivalent     `above` and `below` are rejected: the interval lies within +-m
    supported      `none` is rejected, d > 0, and the estimate is m or more
    refuted        `none` is rejected and d < 0; or `above` is: the interval lies below m
    inconclusive   everything else, so also an effect that is there and smaller than m

A claim of no effect is supported where the rule says equivalent, and refuted where `none` is
rejected: the interval lies outside of +-m. A bound (`measure: bound`) has no p and is outside of
the family: one step below it, of any run, refutes it, however few the seeds.

**Not testable.** At the floor everything is equal. A claim about quality is judged only where in
every cell the better one of its sides has learnt: the geometric mean of its fd_cifar over seeds, at
the epoch that the claim is about (the last one where it is about a range of epochs), is below 0.8
times that of the untrained generator. Where the claim is that its own arm does not learn, another,
`learner`, has to. Without a calibration of the untrained generator this cannot be checked. D has to
be shown at least `images` images by the last planned epoch.

**A threshold that is not reached.** A run whose fd_cifar never falls to the threshold has no number
and takes its seed out: where a claim asks for all the seeds that there are, one such run leaves it
inconclusive. The table of thresholds says how many runs got there.
"""

import hashlib
import itertools
import math
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)

from reports import records, statistics
from reports.analysis import LEARNT, Analysis, analyse
from reports.records import PRIMARY, Study
from reports.statistics import Estimate
from reports.tables import DASH, LN2, Sheet, count, interval, join, p_value, span

LEDGER = Path(__file__).with_name("claims.yaml")
PILOT_RUNS = (  # with their numbers at the top of claims.yaml
    "runs at width 32 on all 50,000 images of CIFAR-10, two without output BatchNorm "
    "(convolutional head, batch 128 and 512, 40 epochs, the first two of them at this scale's own "
    "settings), two with it (batch 128, either head, 9 epochs), and one microbenchmark of the heads"
)
ALPHA = 0.05
NONE, ABOVE, BELOW = range(3)  # the tests, in the order of their p values
PILOT = 0  # the seed whose runs were looked at before the claims were written
TOOL = r"[a-z]+/[a-z0-9_]+"  # a number of a tool: `probe/accuracy_trained`
METRICS = [*records.LOWER_IS_BETTER, *records.LOSSES, *records.TIMES]
OF_MEASURES = ("loss", "versus", "epoch", "threshold", "clock")  # which only some ask for

Word = Literal[
    "supported", "refuted", "equivalent", "inconclusive", "not testable", "not yet run"
]  # fmt: skip
Levels = dict[StrictStr, StrictInt | StrictFloat | StrictStr]  # factor or field of Config -> level


class BadClaim(Exception):
    """A ledger that cannot be read, said in one line that names the claim and the key."""


class Claim(BaseModel):
    """One claim and how it is tested; `smallest` and all estimates are in the measure's unit."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    id: str
    place: str = Field(min_length=1)  # in the blog post or in the paper
    claim: str = Field(min_length=1)  # paraphrased
    hypothesis: str = Field(min_length=1)
    status: Literal["confirmatory", "exploratory"]
    seeds: int = Field(ge=statistics.VERDICT_SEEDS)  # the least for a verdict
    needs: str = Field(min_length=1)  # the study that has its arms, or what is to be measured first

    measure: Literal[
        "last", "level", "at", "gain", "reach", "swing", "fluctuation", "fluctuation_ratio",
        "share", "relapse", "correlation", "strength", "choice", "bound", "points", "times",
    ]  # fmt: skip
    metric: str
    loss: Literal["d_loss", "g_loss"] | None = None  # that tells, or chooses an epoch
    versus: StrictStr | StrictFloat | None = None  # what a tool's number is compared with
    epoch: int | None = Field(None, ge=1)
    against_epoch: int | None = Field(None, ge=1)  # of the other side, where it differs
    threshold: float | None = Field(None, gt=0)  # of the metric
    clock: Literal["images", "steps"] | None = None  # in which the time to it is measured
    arms: Levels
    against: Levels = {}
    across: dict[StrictStr, list[StrictInt | StrictFloat | StrictStr]] = {}  # two levels of one
    learner: Levels = {}  # the arm that has to have learnt, where the claim is that its own do not
    images: int = Field(1_500_000, ge=0)  # shown to D at the least, for a verdict on quality
    expect: Literal["higher", "lower", "same"]
    smallest: float = Field(gt=0)  # effect of interest; ratios: above 1
    reason: str = Field(min_length=1)  # for the smallest effect

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        for key in OF_MEASURES:
            owners = [name for name, measure in MEASURES.items() if key in measure.asks]
            if (getattr(self, key) is not None) != (self.measure in owners):
                raise ValueError(f"{key}: belongs to {join(owners)}")
        measure = MEASURES[self.measure]
        tool = "versus" in measure.asks
        if not re.fullmatch(TOOL, self.metric) if tool else self.metric not in METRICS:
            raise ValueError(f"metric: {self.metric!r} is not in the records")
        if measure.primary and self.metric != PRIMARY:
            raise ValueError(f"metric: this measure exists for {PRIMARY} alone")
        if self.against and self.against.keys() != self.arms.keys():
            raise ValueError("against: does not name the same factors as arms")
        if self.against and not measure.pairs:
            raise ValueError(f"against: means nothing for {self.measure}")
        if self.against_epoch and not (self.epoch and self.against):
            raise ValueError("against_epoch: belongs to an epoch of arms against others")
        if self.across and not (self.against and [len(x) for x in self.across.values()] == [2]):
            raise ValueError("across: is not two levels of a factor, of arms against others")
        if measure.scale is RATIO and self.smallest <= 1:
            raise ValueError(f"smallest: {self.smallest:g} is not a ratio above 1")
        return self


@dataclass(frozen=True)
class Verdict:
    """What a study says to a claim. `estimate` is in `unit`, None where there is none."""

    claim: Claim
    verdict: Word
    why: str  # one short clause
    estimate: Estimate | None  # of a bound: the lowest and the highest run, no interval
    unit: str
    p: float  # of the test that the verdict stands on; see `judge`
    p_flip: float  # of all sign patterns, of no effect
    p_holm: float  # p adjusted; NaN for a claim that is exploratory or not tested
    n: int  # seeds with every cell
    runs: list[str]  # the folders of these
    identity: dict[str, Any] | None  # how the metric was measured


@dataclass(frozen=True)
class Scale:
    """How a number that is averaged over seeds is shown; no effect is zero before, never after."""

    unit: str
    decimals: int
    margin: Callable[[float], float]  # the smallest effect -> its distance from no effect
    shown: Callable[[float], float]

    def edge(self, smallest: float, sign: int) -> str:
        """The smallest effect in the claimed direction."""
        return f"{self.shown(sign * self.margin(smallest)):.3g} {self.unit}"


@dataclass(frozen=True)
class Measure:
    """One number of each run: `of(study, claim)` is a Series by run, NaN where there is none."""

    of: Callable[[Analysis, Claim], pd.Series]
    scale: Scale
    asks: tuple[str, ...] = ()  # fields of a claim that it needs
    banks: int = 0  # the least evaluation banks
    primary: bool = False  # of the primary metric alone
    quality: bool = True  # whether it says something only of networks that have learnt
    pairs: bool = True  # whether arms can be held against others


@dataclass(frozen=True)
class Evidence:
    """One number a seed, zero for no effect, or why there is none."""

    values: np.ndarray
    runs: list[str]
    absent: str = ""  # why the claim is not yet run
    untestable: str = ""  # why it is not testable
    gap: str = ""  # why seeds are missing
    lowest: float = math.nan  # of all epochs of all its runs
    highest: float = math.nan  # of the single runs


def load(path: Path = LEDGER) -> list[Claim]:
    """The claims in the order of the file; raises BadClaim."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Strict)
    except yaml.YAMLError as error:
        raise BadClaim(f"{path.name}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise BadClaim(f"{path.name}: is not a mapping of ids to claims")
    return [_claim(path.name, name, fields) for name, fields in content.items()]


def judge(study: Study, ledger: list[Claim] | None = None) -> list[Verdict]:
    """A verdict for every claim of the ledger (None: claims.yaml), in its order.

    The p of a verdict is that of the test that it stands on; of an inconclusive one that of no
    effect, or of equivalence where that is claimed.
    """
    study, ledger = analyse(study), load() if ledger is None else ledger
    evidence = [_evidence(study, claim) for claim in ledger]
    p = np.array([_p_values(claim, x) for claim, x in zip(ledger, evidence, strict=True)])
    p = p.reshape(len(ledger), 3)

    # Holm goes over all tests of the confirmatory claims that this study has tested.
    tested = np.array(
        [
            claim.status == "confirmatory" and not x.untestable and len(x.values) >= claim.seeds
            for claim, x in zip(ledger, evidence, strict=True)
        ],
        dtype=bool,
    )
    tested &= np.isfinite(p).all(axis=1)
    family = np.where(tested[:, None], p, math.nan)
    adjusted = statistics.holm(family.ravel(), most_true=int(tested.sum())).reshape(p.shape)
    return [_verdict(study, *one) for one in zip(ledger, evidence, p, adjusted, strict=True)]


def same_without(study: Study, verdicts: list[Verdict], seed: int = PILOT) -> tuple[int, int]:
    """In how many rows the verdict is the same without a seed, and how many rows there are.

    The seeds that a claim asks for are one fewer then. Rows that are not yet run do not count; none
    does where the study has not both this seed and others.
    """
    seeds = set(study.plan["seed"])
    if seed not in seeds or len(seeds) < 2:
        return 0, 0
    parts = {
        name: frame[frame["seed"] != seed]
        for name in ("plan", "frame", "curves", "banks")
        for frame in [getattr(study, name)]
    }
    rest = replace(study, **parts, runs=[x for x in study.runs if x.name != f"seed={seed}"])
    again = judge(rest, [x.claim.model_copy(update={"seeds": x.claim.seeds - 1}) for x in verdicts])
    same = [
        one.verdict == other.verdict
        for one, other in zip(verdicts, again, strict=True)
        if one.verdict != "not yet run"
    ]
    return sum(same), len(same)


def table(verdicts: list[Verdict]) -> pd.DataFrame:
    """One row for each claim in full precision, with the folders of its runs."""
    rows = []
    for one in verdicts:
        estimate = one.estimate or Estimate(*[math.nan] * 5, 0)
        rows.append(
            {
                "id": one.claim.id,
                "status": one.claim.status,
                "verdict": one.verdict,
                "why": one.why,
                "estimate": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "unit": one.unit,
                "p": one.p,
                "p_holm": one.p_holm,
                "p_flip": one.p_flip,
                "n": one.n,
                "expect": one.claim.expect,
                "smallest": one.claim.smallest,
                "metric": one.claim.metric,
                "network_sha256": (one.identity or {}).get("network_sha256"),
                "runs": " ".join(one.runs),
            }
        )
    return pd.DataFrame(rows)


def sheet(study: Study, verdicts: list[Verdict]) -> Sheet:
    """The ledger as a reader sees it."""
    rows = [
        [
            one.claim.id,
            one.claim.claim,
            one.claim.hypothesis,
            _estimate(one),
            p_value(_decisive_p(one)),
            str(one.n) if one.n else DASH,
            f"{one.verdict}: {one.why}",
        ]
        for one in verdicts
    ]
    notes = [
        "Every verdict is computed from the records. Estimate: the mean over seeds with its 95 % t "
        "interval; n: seeds with every cell; p: of the test that the verdict stands on, after Holm "
        "over all tests of the confirmatory claims that this study has tested, those of "
        "equivalence among them.",
        "Supported: the interval excludes no effect, and the estimate reaches the smallest effect "
        "of interest, which claims.yaml gives with its reason. Equivalent: smaller than that. "
        "Inconclusive: neither shown nor ruled out. Not testable: what is compared has not learnt "
        f"({PRIMARY} is not below {LEARNT} times that of the untrained generator), or D has "
        "seen too few images.",
        *_history(study, verdicts),
    ]
    exploratory = [
        one.claim.id
        for one in verdicts
        if one.claim.status == "exploratory" and not math.isnan(_decisive_p(one))
    ]
    if exploratory:
        notes.append(f"Exploratory, their p not adjusted: {', '.join(exploratory)}.")
    columns = ["id", "claim", "hypothesis", "estimate (95 % interval)", "p", "n", "verdict"]
    metrics = dict.fromkeys(one.claim.metric for one in verdicts if one.identity)
    words = ("claim", "hypothesis", "verdict")
    title = "The claims and their verdicts"
    return Sheet("ledger", title, columns, rows, notes, list(metrics), words)


def _history(study: Study, verdicts: list[Verdict]) -> list[str]:
    """What was known when the claims were written, and whether they are still those."""
    same, rows = same_without(study, verdicts)
    again = f" Without seed {PILOT} the verdict is the same in {same} of {rows} rows."
    pilot = (
        f"Looked at before the claims were written: {PILOT_RUNS}, all of seed {PILOT}."
        + again * (rows > 0)
    )
    frozen = study.info.get("claims")
    if not frozen:
        return [pilot, "study.json names no commit of the claims."]
    digest = hashlib.sha256(LEDGER.read_bytes()).hexdigest()
    kept = "that file" if digest == frozen["sha256"] else "another file than that"
    return [
        pilot,
        f"The claims that the study started with are those of commit {frozen['commit']} of "
        f"{frozen['date']} (claims.yaml, SHA-256 {frozen['sha256'][:12]}); the verdicts are by "
        f"{kept}.",
    ]


class _Strict(yaml.SafeLoader):
    """YAML in which no key may stand twice; the usual loader keeps the last one in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} stands twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


def _claim(file: str, name: Any, fields: Any) -> Claim:
    """One claim of the file, or its first fault in one line."""
    if not isinstance(name, str) or not isinstance(fields, dict):
        raise BadClaim(f"{file}: {name}: is not a claim with fields")
    if "id" in fields:
        raise BadClaim(f"{file}: {name}: id: is the name of the claim, not a field")
    try:
        return Claim(id=name, **{str(key): value for key, value in fields.items()})
    except ValidationError as error:
        fault = error.errors()[0]
        unknown = fault["type"] == "extra_forbidden"
        said = "is no field of a claim" if unknown else fault["msg"].removeprefix("Value error, ")
        key = ".".join(str(part) for part in fault["loc"])
        raise BadClaim(f"{file}: {name}: {key}: {said}".replace(": : ", ": ")) from error


def _evidence(study: Analysis, claim: Claim) -> Evidence:
    """The number of every seed that has all its cells."""
    cells = _cells(study, claim)
    if cells is None:
        return _nothing(f"{_absent(study, claim)}; needs {claim.needs}")
    frame = study.frame[study.frame["run"].isin(cells["run"])]
    if frame.empty:
        return _nothing("no epoch of its runs has been committed")
    if claim.versus is not None:
        frame = study.results
    wanted = [x for x in (claim.metric, claim.versus) if isinstance(x, str)]
    if absent := [name for name in wanted if name not in frame]:
        needs = f"; needs {claim.needs}" if claim.versus is not None else ""
        return _nothing(f"{absent[0]} has not been measured{needs}")

    measure = MEASURES[claim.measure]
    untestable = _untestable(study, claim, cells) if measure.quality else ""
    banks = study.banks.loc[study.banks["run"].isin(cells["run"]), "bank"].nunique()
    if banks < measure.banks:
        few = f"{banks} of {measure.banks}" if banks else "no"
        return Evidence(np.empty(0), [], untestable=untestable, gap=f"{few} evaluation banks")

    # One number for each run, and the seeds in which none is missing.
    cells["value"] = cells["run"].map(measure.of(study, claim)).astype(float)
    whole = cells.groupby("seed")["value"].agg(lambda values: values.notna().all())
    whole &= cells.groupby("seed").size() == cells.groupby("seed").size().max()
    used = cells[cells["seed"].map(whole)]
    lost = cells.loc[cells["value"].isna(), "run"]
    gap = f"{whole.sum()} of {claim.seeds} seeds; {_lost(claim, lost)}" if len(lost) else ""

    if claim.against and len(used):
        effect = {"side": ("against", "arms")}
        for levels in claim.across.values():
            effect["level"] = tuple(levels)
        values = statistics.contrast(used, effect, "value", factors=[*effect, "cell"])
    else:
        values = used.groupby("seed")["value"].mean().to_numpy()
    lowest, highest = frame[claim.metric].min(), used["value"].max()
    return Evidence(values, list(used["run"]), "", untestable, gap, lowest, highest)


def _nothing(why: str) -> Evidence:
    return Evidence(np.empty(0), [], absent=why)


def _lost(claim: Claim, runs: pd.Series) -> str:
    """Which runs have no number."""
    if claim.measure == "reach":
        short = count(len(runs), "run")
        return f"{claim.metric} has not come down to {claim.threshold:g} in {short}"
    return f"{runs.iloc[0]} has no number"


def _cells(study: Analysis, claim: Claim) -> pd.DataFrame | None:
    """The planned runs of a claim: `run`, `seed`, `side`, `level`, `cell`; None where none is one.

    A cell is what is equal on both sides of a contrast (and at both levels that an effect is
    compared across), every factor but the claim's own; one that lacks a side is left out.
    """
    own = {*claim.arms, *claim.across} if claim.against else set()
    sides = {"arms": claim.arms} | ({"against": claim.against} if claim.against else {})
    levels = [{key: level} for key, pair in claim.across.items() for level in pair] or [{}]
    parts = []
    for (side, wanted), at in itertools.product(sides.items(), levels):
        runs = study.plan[_where(study, wanted | at)]
        parts.append(runs.assign(side=side, level=next(iter(at.values()), "")))
    cells = pd.concat(parts)
    others = [x for x in study.factors if x not in own]
    cells["cell"] = [",".join(map(str, cell)) for cell in cells[others].to_numpy()]
    counts = cells.drop_duplicates(["cell", "side", "level"]).groupby("cell").size()
    kept = cells["cell"].map(counts) == len(parts)
    cells = cells.loc[kept, ["run", "seed", "side", "level", "cell"]]
    return cells if len(cells) else None


def _untestable(study: Analysis, claim: Claim, cells: pd.DataFrame) -> str:
    """Why a claim about quality is not judged; an empty text where it is."""
    rows = study.frame[study.frame["run"].isin(cells["run"])]
    planned = rows["run"].map(study.plan.set_index("run")["planned"])
    shown = int((planned * (rows["images"] / rows["epoch"])).min())
    if shown < claim.images:
        return f"D is shown {shown:,} images, and the claim asks for {claim.images:,}"
    edge = study.floor
    if math.isnan(edge):
        return "no calibration of the untrained generator"

    # The better side of each cell, at the epoch that the claim is about.
    if claim.learner:
        found = study.plan[_where(study, claim.learner)]
        cells = found.assign(side="learner", level="", cell=found["run"].str.split("/").str[0])
    reached = study.last if claim.epoch is None else _rows_at(study, claim)
    logs = statistics.logarithm(reached.set_index("run")[PRIMARY])
    cells = cells.assign(log=cells["run"].map(logs).astype(float))
    sides = cells.groupby(["cell", "level", "side"])["log"]
    worst = sides.mean().groupby(["cell", "level"]).min().max()
    if worst < math.log(edge) or (math.isnan(worst) and not claim.learner):
        return ""
    if math.isnan(worst):
        return "the arm that has to have learnt has not been run"
    return (
        f"{PRIMARY} is {math.exp(worst):.1f} at best in some arm, and {edge:.1f} is "
        f"{LEARNT} times that of the untrained generator"
    )


def _where(study: Analysis, levels: Levels) -> np.ndarray:
    """Which planned runs have these levels; what all runs share stands in the settings.

    Where arms have names, a claim has to name them.
    """
    chosen = np.full(len(study.plan), not study.baseline or "arm" in levels)
    for key, level in levels.items():
        column = study.plan[key] if key in study.plan else _shared(study, key)
        chosen &= np.asarray(column == level)
    return chosen


def _shared(study: Analysis, key: str) -> Any:
    """The value of a field of Config that all runs of a study share; None where there is none."""
    return getattr(records.first_config(study), key, None)


def _absent(study: Analysis, claim: Claim) -> str:
    """Which arm a study lacks."""
    for side in (claim.arms, claim.against):
        missing = [key for key, level in side.items() if not _where(study, {key: level}).any()]
        if not _where(study, side).any():
            return f"no run with {join([f'{key}={side[key]}' for key in missing or side])}"
    return "no two runs that differ in this alone"


def _p_values(claim: Claim, found: Evidence) -> tuple[float, float, float]:
    """The p of each test, of values whose sign is as claimed; NaN for a bound."""
    if claim.measure == "bound":
        return math.nan, math.nan, math.nan
    margin = MEASURES[claim.measure].scale.margin(claim.smallest)
    x = _sign(claim) * found.values
    none = statistics.over_seeds(x).p
    if claim.expect == "same":
        none = min(2 * min(statistics.below(x, -margin), statistics.below(-x, -margin)), 1.0)
    return none, statistics.below(x, margin), statistics.below(-x, margin)


def _sign(claim: Claim) -> int:
    return -1 if claim.expect == "lower" else 1


def _verdict(
    study: Analysis, claim: Claim, found: Evidence, p: np.ndarray, adjusted: np.ndarray
) -> Verdict:
    """The rule at the top of this file."""
    estimate, unit, p_flip, test = None, "", math.nan, NONE
    if found.absent:
        word, why = "not yet run", found.absent
    elif claim.measure == "bound":
        unit = MEASURES[claim.measure].scale.unit
        estimate = Estimate(
            found.lowest, found.lowest, found.highest, math.nan, math.nan, len(found.values)
        )
        word, why = _decide_bound(claim, found)
    else:
        scale, inside = MEASURES[claim.measure].scale, statistics.over_seeds(found.values)
        unit, p_flip = scale.unit, statistics.sign_flip(found.values)
        if inside.n:
            value = scale.shown(float(found.values.mean()))
            ends = (scale.shown(inside.low), scale.shown(inside.high))
            estimate = Estimate(value, *ends, inside.p, inside.p_flip, inside.n)
        word, why, test = _decide(claim, found, p if claim.status == "exploratory" else adjusted)
    return Verdict(
        claim=claim,
        verdict=word,
        why=why,
        estimate=estimate,
        unit=unit,
        p=float(p[test]),
        p_flip=p_flip,
        p_holm=float(adjusted[test]),
        n=len(found.values),
        runs=found.runs,
        identity=None if found.absent else study.identities.get(claim.metric),
    )


def _decide(claim: Claim, found: Evidence, p: np.ndarray) -> tuple[Word, str, int]:
    """The word, the reason, and the test that decides, of a claim about a mean over seeds."""
    scale, estimate = MEASURES[claim.measure].scale, statistics.over_seeds(found.values)
    margin, sign, same = scale.margin(claim.smallest), _sign(claim), claim.expect == "same"
    tost = ABOVE if p[ABOVE] >= p[BELOW] else BELOW  # the larger p of the two
    usual = tost if same else NONE
    if found.untestable:
        return "not testable", found.untestable, usual
    if len(found.values) < claim.seeds:
        return "inconclusive", _too_few(claim, found), usual
    value, (low, high) = sign * estimate.value, sorted((sign * estimate.low, sign * estimate.high))
    edge = f"smallest effect of interest, {scale.edge(claim.smallest, sign)}"
    if -margin < low and high < margin and p[tost] < ALPHA:
        word = "supported" if same else "equivalent"
        return word, f"the interval lies within the {edge}", tost
    if same:
        if (low > margin or high < -margin) and p[NONE] < ALPHA:
            return "refuted", f"the interval lies beyond the {edge}", NONE
        return "inconclusive", f"neither shown nor ruled out: the {edge}", usual
    if p[NONE] < ALPHA and value >= margin * (1 - 1e-9):  # but for rounding
        return "supported", f"{claim.expect}, as claimed", NONE
    if p[NONE] < ALPHA and value < 0:
        return "refuted", f"not {claim.expect}, the reverse holds", NONE
    if p[ABOVE] < ALPHA and high < margin:
        return "refuted", f"the interval excludes the {edge}", ABOVE
    if p[NONE] < ALPHA:
        return "inconclusive", f"{claim.expect}, but the estimate is below the {edge}", NONE
    return "inconclusive", f"neither shown nor ruled out: the {edge}", NONE


def _decide_bound(claim: Claim, found: Evidence) -> tuple[Word, str]:
    """The same for a bound; `smallest` is the part by which rounding may pass it."""
    if found.lowest < LN2 * (1 - claim.smallest):
        return "refuted", f"a step lies below ln 2 = {LN2:.4f}"
    if len(found.values) < claim.seeds:
        return "inconclusive", _too_few(claim, found)
    return "supported", f"no step of any run lies below ln 2 = {LN2:.4f}"


def _too_few(claim: Claim, found: Evidence) -> str:
    return found.gap or f"{len(found.values)} of {claim.seeds} seeds"


def _estimate(one: Verdict) -> str:
    """`1.280 (1.100 to 1.490) times`; a dash where there is no estimate."""
    if one.estimate is None:
        return DASH
    estimate, decimals = one.estimate, MEASURES[one.claim.measure].scale.decimals
    if one.claim.measure == "bound":
        return f"{span(estimate.low, estimate.high, decimals)}, {one.unit}"
    return f"{interval(estimate.value, estimate.low, estimate.high, decimals)} {one.unit}"


def _decisive_p(one: Verdict) -> float:
    """The p that the verdict stands on; NaN where it stands on none."""
    if one.n < one.claim.seeds or one.verdict == "not testable":
        return math.nan
    return one.p if one.claim.status == "exploratory" else one.p_holm


def _signed_root(variance: float) -> float:
    """A variance of logarithms as a standard deviation in per cent, with the variance's sign."""
    return 100 * math.copysign(math.sqrt(abs(variance)), variance)


def _logs(rows: pd.DataFrame, metric: str) -> pd.Series:
    return statistics.logarithm(rows.set_index("run")[metric])


def _whole(study: Analysis) -> pd.DataFrame:
    """All epochs of the runs that have reached their last one."""
    return study.frame[study.frame["run"].isin(study.last["run"])]


def _rows_at(study: Analysis, claim: Claim) -> pd.DataFrame:
    """For each run the row of the claim's epoch, or of that which the other side is taken at."""
    wanted = pd.Series(claim.epoch, index=study.plan["run"])
    if claim.against_epoch is not None:
        wanted[_where(study, claim.against)] = claim.against_epoch
    return study.frame[study.frame["epoch"] == study.frame["run"].map(wanted)]


def _at(study: Analysis, claim: Claim) -> pd.Series:
    return _logs(_rows_at(study, claim), claim.metric)


def _last(study: Analysis, claim: Claim) -> pd.Series:
    return _logs(study.last, claim.metric)


def _level(study: Analysis, claim: Claim) -> pd.Series:
    """A share of images at the last epoch in per cent; unlike a ratio it may come from zero."""
    return 100 * study.last.set_index("run")[claim.metric]


def _gain(study: Analysis, claim: Claim) -> pd.Series:
    """The last epoch over the first."""
    first = study.frame[study.frame["epoch"] == 1]
    return _last(study, claim) - _logs(first, claim.metric)


def _reach(study: Analysis, claim: Claim) -> pd.Series:
    """The logarithm of the time to the threshold."""
    return statistics.logarithm(study.reached(claim.threshold)[claim.clock])


def _swing(study: Analysis, claim: Claim) -> pd.Series:
    """The standard deviation of a loss over the points of its curve, of whole runs."""
    points = study.curves[study.curves["run"].isin(_whole(study)["run"])]
    return statistics.logarithm(
        points.groupby("run")[claim.metric].agg(lambda x: x.std(ddof=1, skipna=False))
    )


def _ended(study: Analysis, rows: pd.DataFrame, column: str) -> pd.Series:
    """A column of a table of runs, for those that have reached their last epoch."""
    ended = study.last["run"]
    return rows.loc[rows["run"].isin(ended)].set_index("run")[column].astype(float)


def _fluctuation(study: Analysis, claim: Claim) -> pd.Series:
    return _ended(study, study.fluctuation, "variance")


def _fluctuation_ratio(study: Analysis, claim: Claim) -> pd.Series:
    """The logarithm of the variance; a run of which noise explains all of it has no number."""
    return statistics.logarithm(_fluctuation(study, claim))


def _share(study: Analysis, claim: Claim) -> pd.Series:
    """One half where the epoch that one bank chooses beats the last one on another, or minus that.

    So zero is a last epoch that is the best one in every other run.
    """
    gain = _ended(study, study.selection, "gain")
    return (gain > 0).astype(float) - 0.5


def _relapse(study: Analysis, claim: Claim) -> pd.Series:
    """Whether a run relapses, less how likely its noise alone makes it do so."""
    found = study.relapse
    return _ended(study, found.assign(more=found["relapse"] - found["by_noise"]), "more")


def _correlation(study: Analysis, claim: Claim) -> pd.Series:
    return _ended(study, study.ranks, claim.loss)


def _strength(study: Analysis, claim: Claim) -> pd.Series:
    return _correlation(study, claim).abs()


def _choice(study: Analysis, claim: Claim) -> pd.Series:
    """The epoch that a loss chooses over the last one."""
    found = study.regret
    return _ended(study, found.assign(over=found[claim.loss] - found["last"]), "over")


def _points(study: Analysis, claim: Claim) -> pd.Series:
    """How far a tool's number lies above another of the same run, or above a constant; per cent."""
    found = study.results
    other = found[claim.versus] if isinstance(claim.versus, str) else claim.versus
    return 100 * (found[claim.metric] - other)


def _times(study: Analysis, claim: Claim) -> pd.Series:
    """The logarithm of a tool's number less that of another of the same run."""
    found = study.results
    return statistics.logarithm(found[claim.metric]) - statistics.logarithm(found[claim.versus])


def _lowest(study: Analysis, claim: Claim) -> pd.Series:
    return _whole(study).groupby("run")[claim.metric].min()


RATIO = Scale("times", 3, math.log, math.exp)
SPREAD = Scale("% between epochs", 2, lambda percent: (percent / 100) ** 2, _signed_root)
SHARE = Scale("of runs", 3, float, lambda excess: excess + 0.5)
MORE = Scale("of runs more than by noise", 3, float, float)
RANK = Scale("rank correlation", 2, float, float)
POINTS = Scale("points", 2, float, float)
STEP = Scale("lowest step of each run", 4, float, float)

MEASURES = {
    "last": Measure(_last, RATIO),
    "level": Measure(_level, POINTS),
    "at": Measure(_at, RATIO, ("epoch",)),
    "gain": Measure(_gain, RATIO),
    "reach": Measure(_reach, RATIO, ("threshold", "clock"), primary=True),
    "swing": Measure(_swing, RATIO, quality=False),
    "fluctuation": Measure(_fluctuation, SPREAD, banks=3, primary=True, pairs=False),
    "fluctuation_ratio": Measure(_fluctuation_ratio, RATIO, banks=3, primary=True),
    "share": Measure(_share, SHARE, banks=2, primary=True, pairs=False),
    "relapse": Measure(_relapse, MORE, banks=3, primary=True, pairs=False),
    "correlation": Measure(_correlation, RANK, ("loss",), primary=True),
    "strength": Measure(_strength, RANK, ("loss",), primary=True),
    "choice": Measure(_choice, RATIO, ("loss",), primary=True),
    "bound": Measure(_lowest, STEP, quality=False, pairs=False),
    "points": Measure(_points, POINTS, ("versus",), quality=False),
    "times": Measure(_times, RATIO, ("versus",), quality=False),
}
