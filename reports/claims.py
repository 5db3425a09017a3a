"""The ledger: what was claimed, and what the records of a study say to it.

claims.yaml gives for every claim a paraphrase and its source, the hypothesis in words, and how it
is tested. It is committed before the first run of a study, which keeps the commit in its
study.json. A verdict is computed, here, from records alone; there is no field to write one in.

**The number.** Each run gives one number (`MEASURES`), each seed the mean over its cells, over
pairs of cells where a claim compares `arms` `against` others, or the difference of two such means
where it asks whether an effect differs `across` two levels. No effect is zero. The mean over seeds
has Student's 95 % interval; the exact sign-flip p stands beside it. A run whose fd_cifar never
falls to a threshold has no number, and takes its seed out.

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
                   few images (`_untestable`)
    inconclusive   fewer seeds with a number than the claim asks for
    equivalent     `above` and `below` are rejected: the interval lies within +-m
    supported      `none` is rejected, d > 0, and the estimate is m or more
    refuted        `none` is rejected and d < 0; or `above` is: the interval lies below m
    inconclusive   everything else, so also an effect that is there and smaller than m

A claim of no effect is supported where the rule says equivalent, and refuted where `none` is
rejected: the interval lies outside of +-m. A bound (`measure: bound`) has no p and is outside of
the family: one step below it, of any run, refutes it, however few the seeds.
"""

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

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
    TypeAdapter,
    ValidationError,
    model_validator,
)

from dcgan.cli import BadInput
from reports import records, statistics
from reports.analysis import LEARNT, LN2, Analysis, analyse
from reports.records import PRIMARY, Study
from reports.statistics import Estimate

LEDGER = Path(__file__).with_name("claims.yaml")
ALPHA = 0.05
NONE, ABOVE, BELOW = range(3)  # the tests, in the order of their p values
PILOT = 0  # the seed whose runs were looked at before the claims were written
RESULT = r"[a-z]+/[a-z0-9_]+"  # a number that an analysis of `eval` left: `probe/accuracy_trained`
METRICS = [*records.LOWER_IS_BETTER, *records.LOSSES, *records.TIMES]
OPTIONS = ("loss", "versus", "epoch", "threshold", "clock")  # that only some measures have

Word = Literal[
    "supported", "refuted", "equivalent", "inconclusive", "not testable", "not yet run"
]  # fmt: skip
Levels = dict[StrictStr, StrictInt | StrictFloat | StrictStr]  # factor or field of Config -> level


class BadClaim(BadInput):
    """A ledger that cannot be read, said in one line that names the claim and the key."""


class Scale(NamedTuple):
    """The unit of a measure, and how a number of it, for which no effect is zero, is shown."""

    unit: str
    decimals: int
    margin: Callable[[float], float]  # the smallest effect -> its distance from no effect
    shown: Callable[[float], float]


@dataclass(frozen=True)
class Measure:
    """What a measure asks for; see `_numbers`."""

    scale: Scale
    options: tuple[str, ...] = ()  # fields of a claim that it needs
    eval_sets: int = 0  # the least evaluation sets
    primary: bool = False  # of the primary metric alone
    quality: bool = True  # whether it says something only of networks that have learnt
    pairs: bool = True  # whether arms can be compared with others


def _signed_root(variance: float) -> float:
    """A variance of logarithms as a standard deviation in per cent, with the variance's sign."""
    return 100 * math.copysign(math.sqrt(abs(variance)), variance)


RATIO = Scale("times", 3, math.log, math.exp)
SPREAD = Scale("% between epochs", 2, lambda percent: (percent / 100) ** 2, _signed_root)
SHARE = Scale("of runs", 3, float, lambda excess: excess + 0.5)
MORE = Scale("of runs more than by noise", 3, float, float)
RANK = Scale("rank correlation", 2, float, float)
POINTS = Scale("points", 2, float, float)
STEP = Scale("lowest step of each run", 4, float, float)

MEASURES = {
    "last": Measure(RATIO),
    "level": Measure(POINTS),
    "at": Measure(RATIO, ("epoch",)),
    "gain": Measure(RATIO),
    "reach": Measure(RATIO, ("threshold", "clock"), primary=True),
    "swing": Measure(RATIO, quality=False),
    "fluctuation": Measure(SPREAD, eval_sets=3, primary=True, pairs=False),
    "fluctuation_ratio": Measure(RATIO, eval_sets=3, primary=True),
    "share": Measure(SHARE, eval_sets=2, primary=True, pairs=False),
    "relapse": Measure(MORE, eval_sets=3, primary=True, pairs=False),
    "correlation": Measure(RANK, ("loss",), primary=True),
    "strength": Measure(RANK, ("loss",), primary=True),
    "choice": Measure(RATIO, ("loss",), primary=True),
    "bound": Measure(STEP, quality=False, pairs=False),
    "points": Measure(POINTS, ("versus",), quality=False),
    "times": Measure(RATIO, ("versus",), quality=False),
}


class Claim(BaseModel):
    """One claim and how it is tested; `smallest` and all estimates are in the measure's unit."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    id: str = Field("", max_length=0)  # the key of the claim in the file, set by `load`
    place: str = Field(min_length=1)  # in the blog post or in the paper
    claim: str = Field(min_length=1)  # paraphrased
    hypothesis: str = Field(min_length=1)
    status: Literal["confirmatory", "exploratory"]
    seeds: int = Field(ge=statistics.VERDICT_SEEDS)  # the least for a verdict
    needs: str = Field(min_length=1)  # the study that has its arms, or what is to be measured first

    measure: Literal[*MEASURES]
    metric: str
    loss: Literal["d_loss", "g_loss"] | None = None  # that tells, or chooses an epoch
    versus: StrictStr | StrictFloat | None = None  # what a result is compared with
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

    @property
    def sign(self) -> int:
        """Of the effect that is claimed."""
        return -1 if self.expect == "lower" else 1

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        measure = MEASURES[self.measure]
        for key in OPTIONS:
            if (getattr(self, key) is not None) != (key in measure.options):
                owners = [name for name, x in MEASURES.items() if key in x.options]
                raise ValueError(f"{key}: belongs to {', '.join(owners)}")
        result = "versus" in measure.options
        if not re.fullmatch(RESULT, self.metric) if result else self.metric not in METRICS:
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
    """What a study says to a claim."""

    claim: Claim
    verdict: Word
    why: str  # one short clause
    values: np.ndarray  # one number a seed, zero for no effect; empty where there are none
    estimate: Estimate | None = None  # in `unit`; of a bound the lowest and the highest run
    unit: str = ""
    p: float = math.nan  # of the test that the verdict stands on; see `judge`
    p_holm: float = math.nan  # adjusted; NaN for a claim that is exploratory or not tested
    runs: list[str] = field(default_factory=list)  # the folders of the runs behind `values`
    identity: dict[str, Any] | None = None  # how the metric was measured

    @property
    def n(self) -> int:
        """Seeds with every cell."""
        return len(self.values)

    @property
    def tested(self) -> bool:
        """Whether it is the outcome of a test: with as many seeds as the claim asks for."""
        return self.n >= self.claim.seeds and self.verdict != "not testable"

    @property
    def decisive_p(self) -> float:
        """The p that the verdict stands on; NaN where it stands on none."""
        p = self.p if self.claim.status == "exploratory" else self.p_holm
        return p if self.tested else math.nan


def load(path: Path = LEDGER) -> list[Claim]:
    """The claims in the order of the file; raises BadClaim."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
        ledger = TypeAdapter(dict[str, Claim]).validate_python(content)
    except ValidationError as error:
        fault = error.errors()[0]
        keys = "".join(f"{part}: " for part in fault["loc"])
        said = fault["msg"].removeprefix("Value error, ")
        raise BadClaim(f"{path.name}: {keys}{said}") from error
    except yaml.YAMLError as error:
        raise BadClaim(f"{path.name}: {' '.join(str(error).split())}") from error
    return [claim.model_copy(update={"id": name}) for name, claim in ledger.items()]


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which no key may stand twice; the usual loader keeps the last one in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: {twice[0]!r} stands twice")
        return super().construct_mapping(node, deep)


def judge(study: Study, ledger: list[Claim] | None = None) -> list[Verdict]:
    """A verdict for every claim of the ledger (None: claims.yaml), in its order.

    The p of a verdict is that of the test that it stands on; of an inconclusive one that of no
    effect, or of equivalence where that is claimed.
    """
    study = analyse(study)
    verdicts = [_evidence(study, claim) for claim in (load() if ledger is None else ledger)]
    p = np.array([_p_values(one) for one in verdicts]).reshape(-1, 3)

    # Holm goes over all tests of the confirmatory claims that this study has tested.
    confirmatory = [one.tested and one.claim.status == "confirmatory" for one in verdicts]
    tested = np.isfinite(p).all(axis=1) & np.array(confirmatory, dtype=bool)
    family = np.where(tested[:, None], p, math.nan)
    adjusted = statistics.holm(family.ravel(), most_true=int(tested.sum())).reshape(p.shape)
    return [_decided(*one) for one in zip(verdicts, p, adjusted, strict=True)]


def same_without(study: Study, verdicts: list[Verdict], seed: int = PILOT) -> tuple[int, int]:
    """In how many rows the verdict is the same without a seed, and how many rows there are.

    The seeds that a claim asks for are one fewer then. Rows that are not yet run do not count; none
    does where the study has not both this seed and others.
    """
    seeds = set(study.plan["seed"])
    if seed not in seeds or len(seeds) < 2:
        return 0, 0
    frames = {name: getattr(study, name) for name in ("plan", "frame", "curves", "eval_sets")}
    frames = {name: frame[frame["seed"] != seed] for name, frame in frames.items()}
    rest = replace(study, **frames, runs=[x for x in study.runs if x.name != f"seed={seed}"])
    again = judge(rest, [x.claim.model_copy(update={"seeds": x.claim.seeds - 1}) for x in verdicts])
    same = [
        one.verdict == other.verdict
        for one, other in zip(verdicts, again, strict=True)
        if one.verdict != "not yet run"
    ]
    return sum(same), len(same)


def _evidence(study: Analysis, claim: Claim) -> Verdict:
    """The numbers of all seeds that have all their cells; "inconclusive" until they are tested."""
    measure, cells = MEASURES[claim.measure], _cells(study, claim)
    frame = study.frame[study.frame["run"].isin(cells["run"])]
    if absent := _absent(study, claim, cells, frame):
        return Verdict(claim, "not yet run", absent, np.empty(0))
    untestable = _untestable(study, claim, cells, frame) if measure.quality else ""
    verdict = Verdict(
        claim,
        "not testable" if untestable else "inconclusive",
        untestable,
        np.empty(0),
        unit=measure.scale.unit,
        identity=study.identities.get(claim.metric),
    )
    eval_sets = study.eval_sets.loc[study.eval_sets["run"].isin(cells["run"]), "eval_set"].nunique()
    if eval_sets < measure.eval_sets:
        few = f"{eval_sets} of {measure.eval_sets}" if eval_sets else "no"
        return replace(verdict, why=untestable or f"{few} evaluation sets")

    # One number for each run, and the seeds in which none is missing.
    cells["value"] = cells["run"].map(_numbers(study, claim)).astype(float)
    known = cells.groupby("seed")["value"].count()
    used = cells[cells["seed"].map(known) == cells.groupby("seed").size().max()]
    if claim.against and len(used):
        effect = {"side": ("against", "arms")}
        for levels in claim.across.values():
            effect["level"] = tuple(levels)
        values = statistics.contrast(used, effect, "value", factors=[*effect, "cell"])
    else:
        values = used.groupby("seed")["value"].mean().to_numpy()

    # A bound is about every epoch, of unfinished runs too.
    mean, shown = statistics.over_seeds(values), measure.scale.shown
    ends = {"value": shown(mean.value), "low": shown(mean.low), "high": shown(mean.high)}
    estimate = replace(mean, **ends) if len(values) else None
    if claim.measure == "bound":
        lowest, highest = float(frame[claim.metric].min()), float(used["value"].max())
        estimate = Estimate(lowest, lowest, highest, math.nan, math.nan, len(values))
    lost = cells.loc[cells["value"].isna(), "run"]
    gap = f"; {lost.iloc[0]} has no number" if len(lost) else ""
    if gap and claim.measure == "reach":
        gap = f"; {claim.metric} has not come down to {claim.threshold:g} in {len(lost)} run"
        gap += "s" * (len(lost) > 1)
    why = untestable or f"{len(values)} of {claim.seeds} seeds{gap}"
    return replace(verdict, why=why, values=values, estimate=estimate, runs=list(used["run"]))


def _numbers(study: Analysis, claim: Claim) -> pd.Series:
    """The number of each run, by run; none, or NaN, where there is none. No effect is zero."""
    metric, last, log = claim.metric, study.last.set_index("run"), statistics.logarithm

    def finished(rows: pd.DataFrame) -> pd.DataFrame:
        return rows[rows["run"].isin(last.index)].set_index("run")

    match claim.measure:
        case "last":
            return log(last[metric])
        case "level":  # a share of images, in points: unlike a ratio it may come from zero
            return 100 * last[metric]
        case "at":
            return log(_rows_at(study, claim).set_index("run")[metric])
        case "gain":  # the last epoch over the first
            return log(last[metric]) - log(study.frame.query("epoch == 1").set_index("run")[metric])
        case "reach":  # the time until the metric falls to a threshold
            return log(study.reached(claim.threshold)[claim.clock])
        case "swing":  # the standard deviation of a loss over the points of its curve
            losses = finished(study.curves).groupby("run")[metric]
            return log(losses.agg(lambda x: x.std(ddof=1, skipna=False)))
        case "fluctuation":
            return finished(study.fluctuation)["variance"]
        case "fluctuation_ratio":  # a run of which noise explains all the variance has no number
            return log(finished(study.fluctuation)["variance"])
        case "share":  # 1/2 where the best epoch of one set beats the last on another, else -1/2
            return (finished(study.selection)["gain"] > 0) - 0.5
        case "relapse":  # whether there is one, less how likely noise alone makes one
            return finished(study.relapse)["relapse"] - finished(study.relapse)["by_noise"]
        case "correlation":
            return finished(study.ranks)[claim.loss]
        case "strength":
            return finished(study.ranks)[claim.loss].abs()
        case "choice":  # the epoch that a loss chooses over the last one
            return finished(study.regret)[claim.loss] - finished(study.regret)["last"]
        case "bound":
            return finished(study.frame)[metric].groupby("run").min()
        case "points":  # a result less another of the same run, or a constant
            other = study.results.get(claim.versus, claim.versus)
            return 100 * (study.results[metric] - other)
        case "times":  # a result over another of the same run
            return log(study.results[metric]) - log(study.results[claim.versus])
    raise NotImplementedError(claim.measure)


def _rows_at(study: Analysis, claim: Claim) -> pd.DataFrame:
    """For each run the row of the claim's epoch, or of that which the other side is taken at."""
    wanted = pd.Series(claim.epoch, index=study.plan["run"])
    if claim.against_epoch is not None:
        wanted[_where(study, claim.against)] = claim.against_epoch
    return study.frame[study.frame["epoch"] == study.frame["run"].map(wanted)]


def _cells(study: Analysis, claim: Claim) -> pd.DataFrame:
    """The planned runs of a claim: `run`, `seed`, `side`, `level`, `cell`.

    A cell is what is equal on both sides of a contrast (and at both levels that an effect is
    compared across), every factor but the claim's own; one that lacks a side is left out.
    """
    own = {*claim.arms, *claim.across} if claim.against else set()
    sides = {"arms": claim.arms} | ({"against": claim.against} if claim.against else {})
    levels = [{key: level} for key, pair in claim.across.items() for level in pair] or [{}]
    parts = [
        study.plan[_where(study, wanted | at)].assign(side=side, level=[*at.values(), ""][0])
        for (side, wanted), at in itertools.product(sides.items(), levels)
    ]
    cells = pd.concat(parts)
    others = [x for x in study.factors if x not in own]
    cells["cell"] = [",".join(map(str, cell)) for cell in cells[others].to_numpy()]
    counts = cells.drop_duplicates(["cell", "side", "level"]).groupby("cell").size()
    whole = cells["cell"].map(counts) == len(parts)
    return cells.loc[whole, ["run", "seed", "side", "level", "cell"]]


def _absent(study: Analysis, claim: Claim, cells: pd.DataFrame, frame: pd.DataFrame) -> str:
    """What a study lacks for a claim; an empty text where it has all of it."""
    if cells.empty:
        why = "no two runs that differ in this alone"
        if lacking := [x for x in (claim.arms, claim.against) if not _where(study, x).any()]:
            side = lacking[0]
            missing = [key for key in side if not _where(study, {key: side[key]}).any()]
            why = f"no run with {' and '.join(f'{key}={side[key]}' for key in missing or side)}"
        return f"{why}; needs {claim.needs}"
    if frame.empty:
        return "no epoch of its runs has been committed"
    measured, needs = frame, ""
    if claim.versus is not None:
        measured, needs = study.results, f"; needs {claim.needs}"
    wanted = [x for x in (claim.metric, claim.versus) if isinstance(x, str)]
    unmeasured = [name for name in wanted if name not in measured]
    return f"{unmeasured[0]} has not been measured{needs}" if unmeasured else ""


def _untestable(study: Analysis, claim: Claim, cells: pd.DataFrame, frame: pd.DataFrame) -> str:
    """Why a claim about quality is not judged; an empty text where it is.

    At the floor everything is equal. So D has to be shown `images` images by the last planned
    epoch, and in every cell the better one of its sides has to have learnt: the geometric mean of
    its fd_cifar over seeds, at the epoch that the claim is about (the last one where it is about a
    range of epochs), is below 0.8 times that of the untrained generator. Where the claim is that
    its own arm does not learn, another, `learner`, has to.
    """
    planned = frame["run"].map(study.plan.set_index("run")["planned"])
    shown = int((planned * (frame["images"] / frame["epoch"])).min())
    if shown < claim.images:
        return f"D is shown {shown:,} images, and the claim asks for {claim.images:,}"
    edge = study.floor
    if math.isnan(edge):
        return "no calibration of the untrained generator"

    # The better side of each cell, and the worst cell of all.
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
        shared = getattr(study.config, key, None)
        column = study.plan.get(key, shared)
        chosen &= np.asarray(column == level)
    return chosen


# --- The rule -------------------------------------------------------------------------------------


def _p_values(one: Verdict) -> tuple[float, float, float]:
    """The p of each test, of values whose sign is as claimed; NaN for a bound."""
    if one.claim.measure == "bound":
        return math.nan, math.nan, math.nan
    margin = MEASURES[one.claim.measure].scale.margin(one.claim.smallest)
    x, none = one.claim.sign * one.values, statistics.over_seeds(one.values).p
    if one.claim.expect == "same":
        none = min(2 * min(statistics.below(x, -margin), statistics.below(-x, -margin)), 1.0)
    return none, statistics.below(x, margin), statistics.below(-x, margin)


def _decided(one: Verdict, p: np.ndarray, adjusted: np.ndarray) -> Verdict:
    """The verdict with the p of the test that decides, before and after Holm."""
    word, why, test = _decide(one, p if one.claim.status == "exploratory" else adjusted)
    return replace(one, verdict=word, why=why, p=float(p[test]), p_holm=float(adjusted[test]))


def _decide(one: Verdict, p: np.ndarray) -> tuple[Word, str, int]:
    """The word, the reason, and the test that decides; the rule at the top of this file."""
    claim, same = one.claim, one.claim.expect == "same"
    if claim.measure == "bound" and one.estimate and one.estimate.low < LN2 * (1 - claim.smallest):
        return "refuted", f"a step lies below ln 2 = {LN2:.4f}", NONE
    tost = ABOVE if p[ABOVE] >= p[BELOW] else BELOW  # the larger p of the two
    usual = tost if same else NONE
    if not one.tested:
        return one.verdict, one.why, usual
    if claim.measure == "bound":
        return "supported", f"no step of any run lies below ln 2 = {LN2:.4f}", NONE

    # The interval and the margin, with the sign as claimed.
    scale, estimate = MEASURES[claim.measure].scale, statistics.over_seeds(claim.sign * one.values)
    margin, value, low, high = (
        scale.margin(claim.smallest), estimate.value, estimate.low, estimate.high
    )  # fmt: skip
    edge = f"smallest effect of interest, {scale.shown(claim.sign * margin):.3g} {scale.unit}"
    if -margin < low and high < margin and p[tost] < ALPHA:
        word = "supported" if same else "equivalent"
        return word, f"the interval lies within the {edge}", tost
    if same and (low > margin or high < -margin) and p[NONE] < ALPHA:
        return "refuted", f"the interval lies beyond the {edge}", NONE
    if same:
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
