"""The ledger: what was claimed, and what the records of a study say to it.

claims.yaml holds each claim by its id: a paraphrase and its place, the hypothesis in words, and how
it is tested. A verdict is computed, here, from records alone; there is no field to write one in.

Each run gives one number (`MEASURES`), each seed the mean over its cells, or over pairs of cells
where a claim holds `arms` `against` others. The mean over seeds has Student's 95 % interval and the
p of the paired t test, which Holm adjusts over the confirmatory claims that the study has tested;
an exploratory claim keeps its own. The exact sign-flip p stands beside both. In this order:

    not yet run    the study has no such arms or no epoch of them, or the records lack the quantity
    inconclusive   fewer seeds than the claim asks for
    equivalent     the interval lies within the smallest effect of interest on either side
    supported      p < 0.05 in the claimed direction
    refuted        p < 0.05 against it, or the interval excludes the smallest effect as claimed
    inconclusive   everything else

A claim of no effect (`expect: same`) has the p of two one-sided tests. It is supported where that
is below 0.05 and the interval lies within the smallest effect, refuted where all of the interval
lies beyond it. A bound (`measure: bound`) is supported or refuted by all runs: one step below it
refutes it, however few the seeds.
"""

import math
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass
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

from reports import epochs, records, statistics, tools
from reports.records import PRIMARY, Study
from reports.statistics import Estimate
from reports.tables import DASH, LN2, Sheet, interval, join, p_value, span

LEDGER = Path(__file__).with_name("claims.yaml")
ALPHA = 0.05
COMPUTED = ("metric", "expect", "smallest", "reason")  # what a claim with a measure must say
TOOL = r"[a-z]+/[a-z0-9_]+"  # a number of a tool: `probe/accuracy_trained`
METRICS = [*records.LOWER_IS_BETTER, *records.LOSSES, *records.TIMES]

Word = Literal["supported", "refuted", "equivalent", "inconclusive", "not yet run"]
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

    # None: the records of a study hold nothing of the kind, and none of the rest is set.
    measure: (
        Literal[
            "last", "level", "first", "updates", "mean", "gain", "median", "swing",
            "fluctuation", "share", "correlation", "strength", "bound", "points", "times",
        ]
        | None
    ) = None  # fmt: skip
    metric: str | None = None
    loss: Literal["d_loss", "g_loss"] | None = None  # that the metric is correlated with
    versus: StrictStr | StrictFloat | None = None  # what a tool's number is compared with
    arms: Levels = {}
    against: Levels = {}
    expect: Literal["higher", "lower", "same"] | None = None
    smallest: float | None = Field(None, gt=0)  # effect of interest; ratios: above 1
    reason: str | None = Field(None, min_length=1)  # for the smallest effect

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        keys = (*COMPUTED, "loss", "versus", "arms", "against")
        given = [key for key in keys if getattr(self, key)]
        if self.measure is None:
            if given:
                raise ValueError(f"{given[0]}: means nothing without a measure")
            return self
        for key in COMPUTED:
            if getattr(self, key) is None:
                raise ValueError(f"{key}: is missing")
        of_tool = self.measure in ("points", "times")
        if (self.versus is not None) != of_tool:
            raise ValueError("versus: belongs to the measures points and times")
        if not re.fullmatch(TOOL, self.metric) if of_tool else self.metric not in METRICS:
            raise ValueError(f"metric: {self.metric!r} is not in the records")
        if (self.loss is not None) != (self.measure in ("correlation", "strength")):
            raise ValueError("loss: belongs to the measures correlation and strength")
        if MEASURES[self.measure].primary and self.metric != PRIMARY:
            raise ValueError(f"metric: this measure exists for {PRIMARY} alone")
        if self.against and self.against.keys() != self.arms.keys():
            raise ValueError("against: does not name the same factors as arms")
        if self.measure == "bound" and self.against:
            raise ValueError("against: means nothing for a bound")
        if MEASURES[self.measure].scale is RATIO and self.smallest <= 1:
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
    p: float  # of the paired t test, or of two one-sided tests for a claim of no effect
    p_flip: float  # of all sign patterns
    p_holm: float  # NaN for a claim that is exploratory or not tested
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

    of: Callable[[Study, Claim], pd.Series]
    scale: Scale
    banks: int = 0  # the least evaluation banks
    primary: bool = False  # of the primary metric alone


@dataclass(frozen=True)
class Evidence:
    """One number a seed, zero for no effect, or why there is none."""

    values: np.ndarray
    runs: list[str]
    absent: str = ""  # why the claim is not yet run
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
    """A verdict for every claim of the ledger (None: claims.yaml), in its order."""
    ledger = load() if ledger is None else ledger
    evidence = [_evidence(study, claim) for claim in ledger]

    # Holm goes over the confirmatory claims that this study has tested, and over no others.
    p = [_p(claim, found) for claim, found in zip(ledger, evidence, strict=True)]
    tested = [
        claim.status == "confirmatory" and len(found.values) >= claim.seeds
        for claim, found in zip(ledger, evidence, strict=True)
    ]
    adjusted = statistics.holm(np.where(tested, p, math.nan))
    return [
        _verdict(study, *one, float(after))
        for *one, after in zip(ledger, evidence, p, adjusted, strict=True)
    ]


def table(verdicts: list[Verdict]) -> pd.DataFrame:
    """One row for each claim in full precision, with the folders of its runs."""
    rows = []
    for one in verdicts:
        estimate = one.estimate or Estimate(*[math.nan] * 4, 0)
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


def sheet(verdicts: list[Verdict]) -> Sheet:
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
    exploratory = [
        one.claim.id
        for one in verdicts
        if one.claim.status == "exploratory" and not math.isnan(_decisive_p(one))
    ]
    notes = [
        "Every verdict is computed from the records. Estimate: the mean over seeds with its 95 % t "
        "interval; n: seeds with every cell; p: the paired t test, after Holm over the "
        "confirmatory claims that this study has tested.",
        "Equivalent: smaller than the smallest effect of interest, which claims.yaml gives with "
        "its reason. Inconclusive: neither shown nor ruled out.",
    ]
    if any(x.claim.measure == "fluctuation" and x.claim.against and x.estimate for x in verdicts):
        notes.append(
            "Two fluctuations are compared by the root of the difference of their variances, with "
            "its sign."
        )
    if exploratory:
        notes.append(f"Exploratory, their p not adjusted: {', '.join(exploratory)}.")
    columns = ["id", "claim", "hypothesis", "estimate (95 % interval)", "p", "n", "verdict"]
    metrics = dict.fromkeys(one.claim.metric for one in verdicts if one.identity)
    words = ("claim", "hypothesis", "verdict")
    title = "The claims and their verdicts"
    return Sheet("ledger", title, columns, rows, notes, list(metrics), words)


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


def _evidence(study: Study, claim: Claim) -> Evidence:
    """The number of every seed that has all its cells."""
    if claim.measure is None:
        return _nothing(f"needs {claim.needs}")
    cells = _cells(study, claim)
    if cells is None:
        return _nothing(f"{_absent(study, claim)}; needs {claim.needs}")
    frame = study.frame[study.frame["run"].isin(cells["run"])]
    if frame.empty:
        return _nothing("no epoch of its runs has been committed")
    if claim.versus is not None:
        frame = tools.values(study)
    if claim.metric not in frame:
        needs = f"; needs {claim.needs}" if claim.versus is not None else ""
        return _nothing(f"{claim.metric} has not been measured{needs}")

    measure = MEASURES[claim.measure]
    banks = study.banks.loc[study.banks["run"].isin(cells["run"]), "bank"].nunique()
    if banks < measure.banks:
        few = f"{banks} of {measure.banks}" if banks else "no"
        return Evidence(np.empty(0), [], gap=f"{few} evaluation banks")

    # One number for each run, and the seeds in which none is missing.
    cells["value"] = cells["run"].map(measure.of(study, claim)).astype(float)
    whole = cells.groupby("seed")["value"].agg(lambda values: values.notna().all())
    whole &= cells.groupby("seed").size() == cells.groupby("seed").size().max()
    used = cells[cells["seed"].map(whole)]
    lost = cells.loc[cells["value"].isna(), "run"]
    gap = f"{whole.sum()} of {claim.seeds} seeds; {lost.iloc[0]} has no number" if len(lost) else ""

    if claim.against and len(used):
        sides = {"side": ("against", "arms")}
        values = statistics.contrast(used, sides, "value", factors=["side", "cell"])
    else:
        values = used.groupby("seed")["value"].mean().to_numpy()
    lowest, highest = frame[claim.metric].min(), used["value"].max()
    return Evidence(values, list(used["run"]), gap=gap, lowest=lowest, highest=highest)


def _nothing(why: str) -> Evidence:
    return Evidence(np.empty(0), [], absent=why)


def _cells(study: Study, claim: Claim) -> pd.DataFrame | None:
    """The planned runs of a claim: `run`, `seed`, `side`, `cell`; None where the study lacks them.

    A cell is what is equal on both sides of a contrast, every factor but the claim's own; one that
    stands on one side alone is left out.
    """
    others = [x for x in study.factors if not (claim.against and x in claim.arms)]
    sides = {"arms": claim.arms} | ({"against": claim.against} if claim.against else {})
    parts = [study.plan[_where(study, levels)].assign(side=side) for side, levels in sides.items()]
    cells = pd.concat(parts)
    cells["cell"] = [",".join(map(str, cell)) for cell in cells[others].to_numpy()]
    counts = cells.groupby("cell")["side"].nunique()
    cells = cells.loc[cells["cell"].map(counts) == len(sides), ["run", "seed", "side", "cell"]]
    return cells if len(cells) else None


def _where(study: Study, levels: Levels) -> np.ndarray:
    """Which planned runs have these levels; what all runs share stands in the settings.

    Where arms have names, a claim has to name them.
    """
    chosen = np.full(len(study.plan), not study.baseline or "arm" in levels)
    for key, level in levels.items():
        column = study.plan[key] if key in study.plan else _shared(study, key)
        chosen &= np.asarray(column == level)
    return chosen


def _shared(study: Study, key: str) -> Any:
    """The value of a field of Config that all runs of a study share; None where there is none."""
    return getattr(records.first_config(study), key, None)


def _absent(study: Study, claim: Claim) -> str:
    """Which arm a study lacks."""
    for side in (claim.arms, claim.against):
        missing = [key for key, level in side.items() if not _where(study, {key: level}).any()]
        if not _where(study, side).any():
            return f"no run with {join([f'{key}={side[key]}' for key in missing or side])}"
    return "no two runs that differ in this alone"


def _p(claim: Claim, found: Evidence) -> float:
    if claim.measure in (None, "bound"):
        return math.nan
    if claim.expect == "same":
        margin = MEASURES[claim.measure].scale.margin(claim.smallest)
        return statistics.equivalence(found.values, margin)
    return statistics.paired_t(found.values).p


def _verdict(study: Study, claim: Claim, found: Evidence, p: float, p_holm: float) -> Verdict:
    """The rule at the top of this file."""
    estimate, unit, p_flip = None, "", math.nan
    if found.absent:
        word, why = "not yet run", found.absent
    elif claim.measure == "bound":
        unit = MEASURES[claim.measure].scale.unit
        estimate = Estimate(found.lowest, found.lowest, found.highest, math.nan, len(found.values))
        word, why = _decide_bound(claim, found)
    else:
        scale, inside = MEASURES[claim.measure].scale, statistics.paired_t(found.values)
        unit, p_flip = scale.unit, statistics.sign_flip(found.values)
        if inside.n:
            value = scale.shown(float(found.values.mean()))
            ends = (scale.shown(inside.low), scale.shown(inside.high))
            estimate = Estimate(value, *ends, inside.p, inside.n)
        word, why = _decide(claim, found, p if claim.status == "exploratory" else p_holm)
    return Verdict(
        claim=claim,
        verdict=word,
        why=why,
        estimate=estimate,
        unit=unit,
        p=p,
        p_flip=p_flip,
        p_holm=p_holm,
        n=len(found.values),
        runs=found.runs,
        identity=None if found.absent else study.identities.get(claim.metric),
    )


def _decide(claim: Claim, found: Evidence, p: float) -> tuple[Word, str]:
    """The word and the reason of a claim about a mean over seeds."""
    if len(found.values) < claim.seeds:
        return "inconclusive", _too_few(claim, found)
    scale, estimate = MEASURES[claim.measure].scale, statistics.paired_t(found.values)
    margin, sign = scale.margin(claim.smallest), -1 if claim.expect == "lower" else 1
    value, (low, high) = sign * estimate.value, sorted((sign * estimate.low, sign * estimate.high))
    within = -margin < low and high < margin
    edge = f"smallest effect of interest, {scale.edge(claim.smallest, sign)}"
    if claim.expect == "same":
        if within and p < ALPHA:
            return "supported", f"the interval lies within the {edge}"
        if low > margin or high < -margin:
            return "refuted", f"the interval lies beyond the {edge}"
    else:
        if within:
            return "equivalent", f"the interval lies within the {edge}"
        if p < ALPHA and value > 0:
            return "supported", f"{claim.expect}, as claimed"
        if p < ALPHA and value < 0:
            return "refuted", f"not {claim.expect}, the reverse holds"
        if high < margin:
            return "refuted", f"the interval excludes the {edge}"
    return "inconclusive", f"neither shown nor ruled out: the {edge}"


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
    if one.n < one.claim.seeds:
        return math.nan
    return one.p if one.claim.status == "exploratory" else one.p_holm


def _signed_root(variance: float) -> float:
    """A variance of logarithms as a standard deviation in per cent, with the variance's sign."""
    return 100 * math.copysign(math.sqrt(abs(variance)), variance)


def _at(rows: pd.DataFrame, metric: str) -> pd.Series:
    return statistics.logarithm(rows.set_index("run")[metric])


def _whole(study: Study) -> pd.DataFrame:
    """All epochs of the runs that have reached their last one."""
    return study.frame[study.frame["run"].isin(records.last_epochs(study)["run"])]


def _last(study: Study, claim: Claim) -> pd.Series:
    return _at(records.last_epochs(study), claim.metric)


def _level(study: Study, claim: Claim) -> pd.Series:
    """A share of images at the last epoch in per cent; unlike a ratio it may come from zero."""
    return 100 * records.last_epochs(study).set_index("run")[claim.metric]


def _first(study: Study, claim: Claim) -> pd.Series:
    return _at(study.frame[study.frame["epoch"] == 1], claim.metric)


def _updates(study: Study, claim: Claim) -> pd.Series:
    return _at(records.at_updates(study), claim.metric)


def _mean(study: Study, claim: Claim) -> pd.Series:
    """The mean of the logarithm over all epochs, none of them missing."""
    rows = _whole(study)
    return (
        statistics.logarithm(rows[claim.metric])
        .groupby(rows["run"])
        .agg(lambda x: x.mean(skipna=False))
    )


def _gain(study: Study, claim: Claim) -> pd.Series:
    return _last(study, claim) - _first(study, claim)


def _median(study: Study, claim: Claim) -> pd.Series:
    return statistics.logarithm(study.frame.groupby("run")[claim.metric].median())


def _swing(study: Study, claim: Claim) -> pd.Series:
    """The standard deviation of a loss over the points of its curve, of whole runs."""
    points = study.curves[study.curves["run"].isin(_whole(study)["run"])]
    return statistics.logarithm(
        points.groupby("run")[claim.metric].agg(lambda x: x.std(ddof=1, skipna=False))
    )


def _ended(study: Study, rows: pd.DataFrame, column: str) -> pd.Series:
    """A column of a table of runs, for those that have reached their last epoch."""
    ended = records.last_epochs(study)["run"]
    return rows.loc[rows["run"].isin(ended)].set_index("run")[column].astype(float)


def _fluctuation(study: Study, claim: Claim) -> pd.Series:
    return _ended(study, epochs.fluctuation_table(study), "variance")


def _share(study: Study, claim: Claim) -> pd.Series:
    """One half where the epoch that one bank chooses beats the last one on another, or minus that.

    So zero is a last epoch that is the best one in every other run.
    """
    gain = _ended(study, epochs.selection_table(study), "gain")
    return (gain > 0).astype(float) - 0.5


def _correlation(study: Study, claim: Claim) -> pd.Series:
    return _ended(study, epochs.losses_rank_table(study), claim.loss)


def _strength(study: Study, claim: Claim) -> pd.Series:
    return _correlation(study, claim).abs()


def _points(study: Study, claim: Claim) -> pd.Series:
    """How far a tool's number lies above another of the same run, or above a constant; per cent."""
    found = tools.values(study)
    other = found[claim.versus] if isinstance(claim.versus, str) else claim.versus
    return 100 * (found[claim.metric] - other)


def _times(study: Study, claim: Claim) -> pd.Series:
    """The logarithm of a tool's number less that of another of the same run."""
    found = tools.values(study)
    return statistics.logarithm(found[claim.metric]) - statistics.logarithm(found[claim.versus])


def _lowest(study: Study, claim: Claim) -> pd.Series:
    return _whole(study).groupby("run")[claim.metric].min()


RATIO = Scale("times", 3, math.log, math.exp)
SPREAD = Scale("% between epochs", 2, lambda percent: (percent / 100) ** 2, _signed_root)
SHARE = Scale("of runs", 3, float, lambda excess: excess + 0.5)
RANK = Scale("rank correlation", 2, float, float)
POINTS = Scale("points", 2, float, float)
STEP = Scale("lowest step of each run", 4, float, float)

MEASURES = {
    "last": Measure(_last, RATIO),
    "level": Measure(_level, POINTS),
    "first": Measure(_first, RATIO),
    "updates": Measure(_updates, RATIO),
    "mean": Measure(_mean, RATIO),
    "gain": Measure(_gain, RATIO),
    "median": Measure(_median, RATIO),
    "swing": Measure(_swing, RATIO),
    "fluctuation": Measure(_fluctuation, SPREAD, banks=3, primary=True),
    "share": Measure(_share, SHARE, banks=2, primary=True),
    "correlation": Measure(_correlation, RANK, primary=True),
    "strength": Measure(_strength, RANK, primary=True),
    "bound": Measure(_lowest, STEP),
    "points": Measure(_points, POINTS),
    "times": Measure(_times, RATIO),
}
