"""What was claimed, and what the records of a study say to it: claims.yaml and its verdicts.

**The number.** Each run gives one number (`MEASURES`), for which no effect is zero. Where a claim
compares `arms` `against` others, each pair of runs that differ in this alone gives the difference,
and `across` two levels of a factor the difference of two such differences. The mean of these is the
number of a seed, and a seed with a run that has no number is left out. The mean over seeds has
Student's 95 % interval; the exact sign-flip p of no effect stands beside it, in ledger.csv.

**The tests.** With d the mean, its sign as claimed, and m the smallest effect of interest, three
null hypotheses are tested by t tests over seeds:

    none     d = 0 (two-sided); of a claim of no effect (`expect: same`): |d| < m
    above    d is at least m (one-sided)
    below    d is at most -m (one-sided)

Rejecting both of the last two is an equivalence test (TOST). Where all seeds agree, Student's t
knows nothing of noise, and the exact sign-flip test takes its place. Holm's procedure goes over all
three p values of all confirmatory claims that the study has tested. The three hypotheses of a claim
exclude each other, so that no more of them can be true than there are claims, and no p is
multiplied by more than that (Shaffer 1986). An exploratory claim keeps its own p values. A verdict
asks of its tests p < 0.05, thus adjusted, and of the 95 % interval that it says the same; the first
that fits:

    not yet run    the study has no such arms or no epoch of them, or the records lack the quantity
    not testable   a claim about quality, of networks that have not learnt (`_untestable`)
    inconclusive   fewer seeds with a number than the claim asks for
    equivalent     `above` and `below` are rejected: the interval lies within +-m
    supported      `none` is rejected, d > 0, and the estimate is m or more
    refuted        `none` is rejected and d < 0; or `above` is: the interval lies below m
    inconclusive   everything else, so also an effect that is there and smaller than m

A claim of no effect is supported where the rule says equivalent, and refuted where `none` is
rejected: the interval lies outside of +-m. A bound has no p: one step below it, of any run, refutes
it, however few the seeds.
"""

import hashlib
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, Field, StrictFloat, StrictInt, StrictStr, model_validator

from experiments import grid
from reports import statistics
from reports.analysis import LEARNT, LN2, Analysis
from reports.records import PRIMARY
from reports.statistics import Estimate, logarithm, percent_sd

LEDGER = Path(__file__).with_name("claims.yaml")
ALPHA = 0.05
NONE_YET = partial(pd.Series, dtype=float)
NONE, ABOVE, BELOW = range(3)  # the tests, in the order of their p values
PILOT = 0  # the seed whose runs were looked at before the claims were written
OPTIONS = ("loss", "versus", "epoch", "threshold", "clock")  # that only some measures have

Word = Literal[
    "supported", "refuted", "equivalent", "inconclusive", "not testable", "not yet run"
]  # fmt: skip
DECIDED = ("supported", "refuted", "equivalent")
Decision = tuple[Word, str, int]  # the verdict, why, and the test that it stands on
Level = StrictInt | StrictFloat | StrictStr
Levels = dict[StrictStr, Level]  # factor or field of Config -> level


class Scale(NamedTuple):
    """The unit of a measure, and how a number of it, for which no effect is zero, is shown."""

    unit: str
    decimals: int
    margin: Callable[[float], float] = float  # the smallest effect -> its distance from no effect
    shown: Callable[[float], float] = float

    def text(self, number: float) -> str:
        """`1.05 times`, `1 point`: a number as a sentence says it."""
        text = f"{self.shown(number):.3g}"
        return f"{text} {'point' if text == '1' and self.unit == 'points' else self.unit}"


@dataclass(frozen=True)
class Measure:
    """What a measure asks for; see `_numbers`."""

    scale: Scale
    options: tuple[str, ...] = ()  # fields of a claim that it needs
    eval_sets: int = 0  # the least evaluation sets
    primary: bool = False  # of the primary metric alone
    quality: bool = True  # whether it says something only of networks that have learnt
    pairs: bool = True  # whether arms can be compared with others
    both: bool = False  # whether both sides have to have learnt, or the better one


RATIO = Scale("times", 3, math.log, math.exp)
SPREAD = Scale("% between epochs", 2, lambda percent: (percent / 100) ** 2, percent_sd)
SHARE = Scale("of runs", 3, shown=lambda excess: excess + 0.5)
MORE = Scale("of runs beyond noise", 3)
RANK = Scale("rank correlation", 2)
POINTS = Scale("points", 2)
STEP = Scale("lowest step of each run", 4)

MEASURES = {
    "last": Measure(RATIO),
    "level": Measure(POINTS),
    "at": Measure(RATIO, ("epoch",)),
    "gain": Measure(RATIO),  # of the last epoch over the first
    "reach": Measure(RATIO, ("threshold", "clock"), primary=True),  # time to the threshold
    "swing": Measure(RATIO, quality=False),  # standard deviation of a loss along its curve
    "fluctuation": Measure(SPREAD, eval_sets=3, primary=True, pairs=False),
    "fluctuation_ratio": Measure(RATIO, eval_sets=3, primary=True, both=True),  # of the variances
    "share": Measure(SHARE, eval_sets=2, primary=True, pairs=False),  # of runs with a better epoch
    "relapse": Measure(MORE, eval_sets=3, primary=True, pairs=False),
    "correlation": Measure(RANK, ("loss",), primary=True),
    "strength": Measure(RANK, ("loss",), primary=True),  # correlation without its sign
    "choice": Measure(RATIO, ("loss",), primary=True),  # epoch that a loss chooses over the last
    "bound": Measure(STEP, quality=False, pairs=False),
    "points": Measure(POINTS, ("versus",), quality=False),  # a result less another of the same run
    "times": Measure(RATIO, ("versus",), quality=False),  # a result over another of the same run
}


class Claim(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """One claim and how it is tested; `smallest` and all estimates are in the measure's unit."""

    id: str = Field("", max_length=0)  # the key of the claim in the file, set by `load`
    place: str  # in the blog post or in the paper
    claim: str  # paraphrased
    hypothesis: str
    status: Literal["confirmatory", "exploratory"]
    seeds: int = Field(ge=statistics.VERDICT_SEEDS)  # the least for a verdict
    needs: str  # the study that has its arms, or what is to be measured first

    measure: Literal[*MEASURES]
    metric: str  # of the records, or a result of `eval`: `probe/accuracy_trained`
    loss: Literal["d_loss", "g_loss"] | None = None  # that tells, or chooses an epoch
    versus: StrictStr | StrictFloat | None = None  # what a result is compared with
    epoch: int | None = Field(None, ge=1)
    against_epoch: int | None = Field(None, ge=1)  # of the other side, where it differs
    threshold: float | None = Field(None, gt=0)  # of the metric
    clock: Literal["images", "steps"] | None = None  # in which the time to it is measured
    arms: Levels
    against: Levels = {}
    across: dict[StrictStr, tuple[Level, Level]] = Field({}, max_length=1)
    learner: Levels = {}  # the arm that has to have learnt, where the claim is that its own do not
    images: int = Field(1_500_000, ge=0)  # shown to D at the least, for a verdict on quality
    expect: Literal["higher", "lower", "same"]
    smallest: float = Field(gt=0)  # effect of interest; ratios: above 1
    reason: str  # for the smallest effect

    @property
    def sign(self) -> int:
        """Of the effect that is claimed."""
        return -1 if self.expect == "lower" else 1

    @model_validator(mode="after")
    def _fits_its_measure(self) -> Self:
        measure = MEASURES[self.measure]
        for key in OPTIONS:
            if (getattr(self, key) is not None) != (key in measure.options):
                owners = [name for name, x in MEASURES.items() if key in x.options]
                raise ValueError(f"{key}: belongs to {', '.join(owners)}")
        for wrong, why in [
            (measure.primary and self.metric != PRIMARY, f"metric: it is of {PRIMARY} alone"),
            (self.against and self.against.keys() != self.arms.keys(), "against: other factors"),
            (self.against and not measure.pairs, f"against: means nothing for {self.measure}"),
            (measure.scale is RATIO and self.smallest <= 1, "smallest: is not a ratio above 1"),
        ]:
            if wrong:
                raise ValueError(why)
        return self


@dataclass(frozen=True)
class Verdict:
    """What a study says to a claim."""

    claim: Claim
    verdict: Word
    why: str = ""  # one short clause
    values: pd.Series = field(default_factory=NONE_YET)  # one a seed, by seed; no effect is 0
    steps: pd.Series = field(default_factory=NONE_YET)  # of a bound the lowest of each run, by seed
    p: float = math.nan  # of the test that the verdict stands on; see `judge`
    p_holm: float = math.nan  # adjusted; NaN for a claim that is exploratory or not tested
    runs: list[str] = field(default_factory=list)  # the folders of the runs behind `values`
    identity: dict[str, Any] | None = None  # how the metric was measured

    @property
    def n(self) -> int:
        """Seeds with every cell."""
        return len(self.values)

    @property
    def scale(self) -> Scale:
        return MEASURES[self.claim.measure].scale

    @cached_property
    def estimate(self) -> Estimate | None:
        """The mean of the seeds as it is shown; of a bound the lowest and the highest run."""
        if self.claim.measure == "bound" and len(self.steps):
            low, high = self.steps.min(), self.steps.max()
            return Estimate(low, low, high, math.nan, math.nan, self.n)
        return statistics.over_seeds(self.values).rescaled(self.scale.shown) if self.n else None

    @property
    def seeds_agree(self) -> bool:
        """Whether they differ by no more than rounding: t knows nothing of noise then."""
        return self.n > 1 and self.values.sem() <= statistics.ROUNDING

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
    """The claims in the order of the file; raises BadInput, which names the claim and the key."""
    claims = grid.read(path, dict[str, Claim]).items()
    return [claim.model_copy(update={"id": name}) for name, claim in claims]


def added_since(sha256: str, path: Path = LEDGER) -> list[str] | None:
    """The claims that were added at the end of the file since it had this SHA-256.

    None where it never had, or where something above its end has changed.
    """
    lines, digest = path.read_bytes().splitlines(keepends=True), hashlib.sha256()
    for number, line in enumerate(lines, start=1):
        digest.update(line)
        if digest.hexdigest() == sha256:
            return list(yaml.safe_load(b"".join(lines[number:])) or {})
    return None


def judge(study: Analysis, ledger: list[Claim] | None = None) -> list[Verdict]:
    """A verdict for every claim of the ledger (None: claims.yaml), in its order.

    Its p is that of the test that it stands on; of an inconclusive one that of the test which keeps
    it from being decided, or else of no effect, or of equivalence where that is claimed.
    """
    return _decide_all([_evidence(study, x) for x in (load() if ledger is None else ledger)])


def without_pilot(study: Analysis, verdicts: list[Verdict]) -> list[Verdict]:
    """The verdicts without the pilot's seed, of the claims that have been run.

    The seeds that a claim asks for are one fewer then. None of them where the study has not both
    this seed and others.
    """
    seeds = study.plan["seed"]
    if PILOT not in set(seeds) or seeds.nunique() < 2:
        return []
    return _decide_all([_without_pilot(x) for x in verdicts if x.verdict != "not yet run"])


def _without_pilot(verdict: Verdict) -> Verdict:
    """The evidence without that of the pilot's seed; "inconclusive" until it is tested."""
    values, steps = (x.drop(PILOT, errors="ignore") for x in (verdict.values, verdict.steps))
    word = verdict.verdict if verdict.verdict == "not testable" else "inconclusive"
    claim = verdict.claim.model_copy(update={"seeds": verdict.claim.seeds - 1})
    return replace(verdict, claim=claim, verdict=word, values=values, steps=steps)


def _decide_all(verdicts: list[Verdict]) -> list[Verdict]:
    """Decide each claim on its evidence; Holm goes over all tests of the confirmatory ones."""
    p = np.array([_p_values(x) for x in verdicts]).reshape(-1, 3)
    confirmatory = [x.tested and x.claim.status == "confirmatory" for x in verdicts]
    tested = np.isfinite(p).all(axis=1) & np.array(confirmatory, dtype=bool)
    family = np.where(tested[:, None], p, math.nan)
    adjusted = statistics.holm(family.ravel(), most_true=int(tested.sum())).reshape(p.shape)
    decided = []
    for verdict, own, in_family in zip(verdicts, p, adjusted, strict=True):
        exploratory = verdict.claim.status == "exploratory"
        word, why, test = _decide(verdict, own if exploratory else in_family)
        tests = {"p": float(own[test]), "p_holm": float(in_family[test])}
        decided.append(replace(verdict, verdict=word, why=why, **tests))
    return decided


# --- The evidence ---------------------------------------------------------------------------------


def _evidence(study: Analysis, claim: Claim) -> Verdict:
    """The numbers of all seeds that have all their cells; "inconclusive" until they are tested."""
    measure, cells = MEASURES[claim.measure], _cells(study, claim)
    frame = study.frame[study.frame["run"].isin(cells["run"])]
    if absent := _absent(study, claim, cells, frame):
        return Verdict(claim, "not yet run", absent)
    untestable = _untestable(study, claim, cells, frame) if measure.quality else ""
    word = "not testable" if untestable else "inconclusive"
    verdict = Verdict(claim, word, untestable, identity=study.identities.get(claim.metric))
    if measure.eval_sets:
        own = study.eval_sets["run"].isin(cells["run"])
        number = study.eval_sets.loc[own, "eval_set"].nunique()
        if number < measure.eval_sets:
            few = f"{max(number, 1)} of the {measure.eval_sets} evaluation sets that it needs"
            return replace(verdict, why=untestable or few)

    # One number for each run; of the seeds in which none is missing the mean over cells.
    cells["value"] = cells["sign"] * cells["run"].map(_numbers(study, claim)).astype(float)
    whole = cells.pivot(index="seed", columns=["cell", "side", "level"], values="value").dropna()
    values = whole.sum(axis="columns") / cells["cell"].nunique()
    if claim.measure == "bound":  # which every step of every run is about, whole seed or not
        steps = frame.groupby(["seed", "run"])[claim.metric].min().droplevel("run")
        verdict = replace(verdict, steps=steps)

    lost = list(cells.loc[cells["value"].isna(), "run"])
    more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
    without = f"; without a number: {lost[0]}{more}" if lost else ""
    why = untestable or f"{len(values)} of {claim.seeds} seeds{without}"
    runs = list(cells.loc[cells["seed"].isin(values.index), "run"])
    return replace(verdict, why=why, values=values, runs=runs)


def _cells(study: Analysis, claim: Claim) -> pd.DataFrame:
    """The planned runs of a claim: `run`, `seed`, `cell`, `side`, `level`, `sign`.

    A cell is what is equal on both sides of a contrast (and at both levels that an effect is
    compared across), every factor but the claim's own; one that lacks a side is left out. The
    effect in a cell is the sum of its runs' numbers, each with its sign.
    """
    own = {*claim.arms, *claim.across} if claim.against else set()
    others = [x for x in study.factors if x not in own]
    sides = [(1, claim.arms), (-1, claim.against)] if claim.against else [(1, claim.arms)]
    pairs = [[(-1, {key: low}), (1, {key: high})] for key, (low, high) in claim.across.items()]
    parts = list(itertools.product(sides, *(pairs or [[(1, {})]])))
    rows, parts_of = [], {}
    for (side, wanted), (level, at) in parts:
        planned = study.plan.loc[_where(study, wanted | at), ["run", "seed", *others]]
        for run, seed, *cell in planned.itertuples(index=False):
            name = ",".join(map(str, cell))
            rows.append((run, seed, name, side, level, side * level))
            parts_of.setdefault(name, set()).add((side, level))
    rows = [row for row in rows if len(parts_of[row[2]]) == len(parts)]
    return pd.DataFrame(rows, columns=["run", "seed", "cell", "side", "level", "sign"])


def _numbers(study: Analysis, claim: Claim) -> pd.Series:
    """The number of each run, by run; none, or NaN, where there is none. No effect is zero."""
    metric, loss, log, results = claim.metric, claim.loss, logarithm, study.results
    last = study.last.set_index("run")
    ended_well = last.index[last["status"] == "ok"]

    def ended(table: pd.DataFrame, column: str) -> pd.Series:
        return table[table["run"].isin(ended_well)].set_index("run")[column]

    numbers = {
        "last": lambda: log(last[metric]),
        "level": lambda: 100 * last[metric],  # in points: unlike a ratio it may come from zero
        "at": lambda: log(_rows_at(study, claim).set_index("run")[metric]),
        "gain": lambda: log(last[metric] / ended(study.frame[study.frame["epoch"] == 1], metric)),
        "reach": lambda: log(study.reached(claim.threshold)[claim.clock]),
        "swing": lambda: log(ended(study.curves, metric).groupby("run").std(skipna=False)),
        "fluctuation": lambda: ended(study.fluctuation, "variance"),
        "fluctuation_ratio": lambda: log(ended(study.fluctuation, "variance")),
        "share": lambda: (ended(study.selection, "gain") > 0) - 0.5,
        "relapse": lambda: ended(study.relapse, "relapse") - ended(study.relapse, "by_noise"),
        "correlation": lambda: ended(study.ranks, loss),
        "strength": lambda: ended(study.ranks, loss).abs(),
        "choice": lambda: ended(study.regret, loss) - ended(study.regret, "last"),
        "bound": lambda: ended(study.frame, metric).groupby("run").min(),
        "points": lambda: 100 * (results[metric] - results.get(claim.versus, claim.versus)),
        "times": lambda: log(results[metric]) - log(results[claim.versus]),
    }
    return numbers[claim.measure]()


def _rows_at(study: Analysis, claim: Claim) -> pd.DataFrame:
    """For each run the row of the claim's epoch, or of that which the other side is taken at.

    The last epoch where a claim names none.
    """
    if claim.epoch is None:
        return study.last
    wanted = pd.Series(claim.epoch, index=study.plan["run"])
    if claim.against_epoch is not None:
        wanted[_where(study, claim.against)] = claim.against_epoch
    return study.frame[study.frame["epoch"] == study.frame["run"].map(wanted)]


def _absent(study: Analysis, claim: Claim, cells: pd.DataFrame, frame: pd.DataFrame) -> str:
    """What a study lacks for a claim; an empty text where it has all of it."""
    needs = f"; needs {claim.needs}"
    for levels in filter(None, (claim.arms, claim.against)):
        if not _where(study, levels).any():
            names = [x for x in levels if not _where(study, {x: levels[x]}).any()] or levels
            text = f"no run with {', '.join(f'{x}={levels[x]}' for x in names)}"
            text = f"no arm {levels['arm']} in this study" if names == ["arm"] else text
            return text + needs
    if cells.empty:
        return f"no two runs that differ in this alone{needs}"
    if frame.empty:
        return "no epoch of its runs has been committed"
    measured, needs = (frame, "") if claim.versus is None else (study.results, needs)
    wanted = [x for x in (claim.metric, claim.versus) if isinstance(x, str)]
    unmeasured = [x for x in wanted if x not in measured]
    return f"{unmeasured[0]} has not been measured{needs}" if unmeasured else ""


def _untestable(study: Analysis, claim: Claim, cells: pd.DataFrame, frame: pd.DataFrame) -> str:
    """Why a claim about quality is not judged; an empty text where it is.

    D has to be shown `images` images by the last planned epoch, and in every cell the better one of
    its sides has to have learnt, or both: the geometric mean of its fd_cifar over seeds, at the
    epoch of the claim or the last one, is below 0.8 times that of the untrained generator. Where
    the claim is that its own arm does not learn, another, `learner`, has to.
    """
    planned = frame["run"].map(study.planned)
    shown = int((planned * (frame["images"] / frame["epoch"])).min())
    if shown < claim.images:
        return f"D is shown {shown:,} images, and the claim asks for {claim.images:,}"
    if study.untrained_of[cells["run"]].isna().any():
        return "no calibration of the untrained generator, against images of the same classes"

    # The better side of each cell, or both, and the worst of all.
    if claim.learner:
        alone = {"arms": claim.learner, "against": {}, "across": {}}
        cells = _cells(study, claim.model_copy(update=alone))
    logs = logarithm(_rows_at(study, claim).set_index("run")[PRIMARY] / study.untrained_of)
    cells = cells.assign(log=cells["run"].map(logs).astype(float))
    sides = cells.groupby(["cell", "level", "side"])["log"].mean()
    if sides.isna().any():  # nothing can be said of it: the claim lacks seeds
        return "the arm that has to have learnt has no score" if claim.learner else ""
    both = MEASURES[claim.measure].both
    worst = (sides if both else sides.groupby(["cell", "level"]).min()).max()
    if worst < math.log(LEARNT):
        return ""
    side = "one side" if both or not claim.against else "even the better side"
    return (
        f"{'the arm that has to learn' if claim.learner else side} has {math.exp(worst):.2f} times "
        f"the {PRIMARY} of the untrained generator, which is not below {LEARNT}"
    )


def _where(study: Analysis, levels: Levels) -> np.ndarray:
    """Which planned runs have these levels; what all runs share stands in the settings.

    Where arms have names, a claim has to name them.
    """
    chosen = np.full(len(study.plan), study.factors != ["arm"] or "arm" in levels)
    for key, level in levels.items():
        shared = getattr(study.config, key, None)
        chosen &= np.asarray(study.plan.get(key, shared) == level)
    return chosen


# --- The rule -------------------------------------------------------------------------------------


def _p_values(verdict: Verdict) -> tuple[float, float, float]:
    """The p of each test, of values whose sign is as claimed; NaN for a bound."""
    if verdict.claim.measure == "bound":
        return math.nan, math.nan, math.nan
    margin = verdict.scale.margin(verdict.claim.smallest)
    x, none = verdict.claim.sign * verdict.values, statistics.over_seeds(verdict.values).p
    if verdict.claim.expect == "same":
        none = min(2 * min(statistics.below(x, -margin), statistics.below(-x, -margin)), 1.0)
    return none, statistics.below(x, margin), statistics.below(-x, margin)


def _decide(verdict: Verdict, p: np.ndarray) -> Decision:
    """The word, the reason, and the test that decides; the rule at the top of this file."""
    claim, same, bound = verdict.claim, verdict.claim.expect == "same", f"ln 2 = {LN2:.4f}"
    tost = ABOVE if p[ABOVE] >= p[BELOW] else BELOW  # the larger p of the two
    usual = tost if same else NONE
    if (verdict.steps < LN2 * (1 - claim.smallest)).any():
        return "refuted", f"a step lies below {bound}", usual
    if not verdict.tested:
        return verdict.verdict, verdict.why, usual
    if claim.measure == "bound":
        return "supported", f"no step of any run lies below {bound}, but for rounding", usual
    x = statistics.over_seeds(claim.sign * verdict.values)  # with the sign as claimed
    return (_decide_same if same else _decide_effect)(verdict, p, x, tost)


def _decide_same(verdict: Verdict, p: np.ndarray, x: Estimate, tost: int) -> Decision:
    """Of a claim of no effect."""
    margin = verdict.scale.margin(verdict.claim.smallest)
    either = f"{verdict.scale.shown(-margin):.3g} to {verdict.scale.text(margin)}"
    inside = -margin < x.low and x.high < margin
    if not inside and x.low <= margin and x.high >= -margin:
        return "inconclusive", f"the interval lies neither within nor outside of {either}", tost
    test, where = (tost, f"within {either}") if inside else (NONE, f"outside of {either}")
    if p[test] >= ALPHA:
        return "inconclusive", f"the interval lies {where}, {_unsure(verdict, p[test])}", test
    if inside:
        return "supported", f"the whole interval lies {where}", test
    side = "higher" if x.value > 0 else "lower"
    return "refuted", f"{side}: the whole interval lies {where}", test


def _decide_effect(verdict: Verdict, p: np.ndarray, x: Estimate, tost: int) -> Decision:
    """Of a claim of an effect in one direction."""
    claim, scale, excludes_zero = verdict.claim, verdict.scale, x.low > 0 or x.high < 0
    margin = scale.margin(claim.smallest)
    inside = -margin < x.low and x.high < margin
    edge = f"the smallest effect of interest, {scale.text(claim.sign * margin)}"
    if inside and p[tost] < ALPHA:
        either = f"{scale.shown(-margin):.3g} to {scale.text(margin)}"
        why = f"the whole interval lies within the smallest effect of interest, {either}"
        if excludes_zero and not verdict.seeds_agree:
            side = "that was claimed" if x.value > 0 else "opposite to the claim"
            why += f"; it excludes zero effect, on the side {side}"
        return "equivalent", why, tost
    if p[NONE] < ALPHA and x.value >= margin * (1 - 1e-9):  # but for rounding
        why = f"the estimate reaches {edge}, part of the interval does not"
        if x.low >= margin:
            why = f"the whole interval lies beyond {edge}"
        return "supported", f"{claim.expect}, as claimed; {why}", NONE
    if p[NONE] < ALPHA and x.value < 0:
        word = "lower, not higher" if claim.expect == "higher" else "higher, not lower"
        zero = "" if scale.shown(0) in (0, 1) else f", {scale.text(0)}"
        return "refuted", f"{word}: the interval lies on the other side of zero effect{zero}", NONE
    if p[ABOVE] < ALPHA and x.high < margin:
        return "refuted", f"the interval excludes {edge}", ABOVE
    if p[NONE] < ALPHA or (x.low > 0 and x.value < margin <= x.high):
        return "inconclusive", f"{claim.expect}, but the estimate falls short of {edge}", NONE
    if x.low <= 0 and x.high >= margin:
        return "inconclusive", f"the interval includes both zero effect and {edge}", NONE
    test = tost if inside else NONE if excludes_zero else ABOVE
    return "inconclusive", f"the interval would decide, {_unsure(verdict, p[test])}", test


def _unsure(verdict: Verdict, p: float) -> str:
    holm = " after Holm's correction" if verdict.claim.status == "confirmatory" else ""
    return f"but p = {p:.2g}{holm}"
