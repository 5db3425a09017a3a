"""Sentences: what the numbers say, with intervals where the seeds are enough for a verdict."""

import math
from collections.abc import Callable
from typing import NamedTuple, get_args

import numpy as np
import pandas as pd

from reports import claims, statistics, tables
from reports.analysis import LEARNT, LN2, Analysis, no_verdict
from reports.claims import Verdict, Word
from reports.records import PRIMARY
from reports.statistics import VERDICT_SEEDS, Effect
from reports.tables import count, decimals_for, interval, join, prose, rounded, significant, span

ROUNDING = 1e-6  # relative; a float32 loss may lie this far from the true one
SUBJECTS = {  # levels as the subject of a sentence
    "norm=batch": "BatchNorm on D's output",
    "head=avgpool": "the average-pool head",
    "head=conv": "the convolutional head",
}
AXES = {"arm": "arms", "seed": "seeds", "epoch": "epochs", "evaluation": "evaluations of an epoch"}


class Findings(NamedTuple):
    """What the numbers say, a sentence or two each."""

    headline: list[str]  # what each factor does, and what the epochs do
    epochs: list[str]  # more on the epochs, and why there is no verdict where there is none
    losses: list[str]

    @property
    def all(self) -> list[str]:
        return [*self.headline, *self.epochs, *self.losses]


def findings(study: Analysis) -> Findings:
    if PRIMARY not in study.measured:
        return Findings([f"No epoch with a finite {PRIMARY} has been committed yet."], [], [])
    headline = [*_effects(study), f"{_fluctuation(study)} {_selection(study)}".strip()]
    epochs = [tell(study) for tell in (_shares, _ranks, _lost, _few)]
    (epochs if study.learnt else headline).insert(0, _learners(study))
    return Findings(*([*filter(None, x)] for x in (headline, epochs, [_bound(study)])))


def enough(study: Analysis) -> bool:
    """Whether there are seeds enough for a verdict, each with the last epoch of every arm."""
    return study.whole_seeds >= VERDICT_SEEDS


def how_sure(study: Analysis) -> str:
    """What stands behind the headline, in a sentence or two."""
    arms = count(len(study.arms), "arm")
    if not enough(study):
        return f"{count(study.whole_seeds or study.seeds, 'seed')} of each of {arms}. {_few(study)}"
    return (
        f"{count(study.whole_seeds, 'seed')} of each of {arms}, paired by seed; in brackets 95 % t "
        "intervals over seeds."
    )


def tally(study: Analysis, verdicts: list[Verdict]) -> str:
    """`Of 24 confirmatory claims 11 are supported, 2 refuted and 7 not yet run; ...`"""
    number, decided = count(len(verdicts), "claim"), {*claims.DECIDED}
    if study.seeds < VERDICT_SEEDS and not decided & {verdict.verdict for verdict in verdicts}:
        return f"{number}, and none is judged below {VERDICT_SEEDS} seeds."
    words = [x.verdict for x in verdicts if x.claim.status == "confirmatory"]
    told = join([f"{words.count(x)} {x}" for x in get_args(Word) if x in words])
    told = told.replace(" ", " is " if told.startswith("1 ") else " are ", 1)
    more = len(verdicts) - len(words)
    return f"Of {len(words)} confirmatory claims {told}; {more} more are exploratory."


# Sentences about factors.


def _effects(study: Analysis) -> list[str]:
    """What the first factor does, then what each other one does at every level of the first."""
    said = [*_of_first(study), *_of_others(study)]
    if len(study.arms) > 1 and not said:
        return ["No seed has the last epoch of every arm yet, so that no arms are compared."]
    return said


def _of_first(study: Analysis) -> list[str]:
    """The effect of the first factor, at each level of what changes it most."""
    first, partial = study.factors[:1], study.partial_effects
    effects = [x for x in partial["epochs", "all"] if x.factors == first]
    if not effects:
        return []
    if len(effects) > 1:
        effects = sorted(effects, key=lambda effect: -effect.ratio.value)
        ((factor, (base, _)),) = effects[0].levels.items()
        parts = [f"{_times(x)} by {prose(factor, x.levels[factor][1])}" for x in effects]
        text = f"Against {prose(factor, base)}, {PRIMARY} is multiplied by {join(parts)}"
        return [text + _unclear(effects)]
    parts = [f"by {_times(effects[0])}"]
    pairs = [x for x in partial["epochs", "all"] if len(x.factors) == 2 and x.factors[:1] == first]
    if pairs:
        other = max(pairs, key=lambda x: abs(math.log(x.ratio.value))).factors[1]
        at = {
            _with(other, level): effect
            for level in study.levels[other]
            for effect in partial["epochs", f"{other}={level}"]
            if effect.factors == first
        }
        effects, parts = [*at.values()], [f"by {_times(x)} {where}" for where, x in at.items()]
    text = f"{_subject(effects[0])} multiplies {PRIMARY} {join(parts)}"
    (factor, (base, level)), alive = *effects[0].levels.items(), study.learning_levels
    if base in alive and level not in alive:
        text += f": {_with(factor, level)} {_ends(study, factor, level)}"
    return [text + _unclear(effects)]


def _ends(study: Analysis, factor: str, level: object) -> str:
    """`the arms end at 95.4 to 100, where an untrained generator has 94.7`."""
    ends = study.last[study.last[factor] == level].groupby(study.factors)[PRIMARY].mean()
    means = f"{significant(ends.min())} to {significant(ends.max())}"
    return (
        f"the arms end at {means}, where an untrained generator has {significant(study.untrained)}"
    )


def _of_others(study: Analysis) -> list[str]:
    """What the other factors do where something is learnt; batch also at equal updates."""
    first, subjects, partial = study.factors[0], {}, study.partial_effects
    *earlier, last = study.update_goals
    goals = {f"{goal:.0f} updates": goal for goal in earlier} | {"updates": last}
    where = {f"{first}={x}": f" {_with(first, x)}" for x in study.learning_levels}
    for key, condition in where.items() if len(study.levels[first]) > 1 else [("all", "")]:
        known = [at for at in goals if (at, key) in partial]
        updates = [x for at in known for x in partial[at, key] if x.factors == ["batch"]]
        for effect in partial["epochs", key]:
            if len(effect.factors) == 1 and effect.factors != [first]:
                same = [x for x in updates if x.name == effect.name]
                subjects.setdefault(_subject(effect), []).append((effect, condition, same))
    sentences = []
    for subject, rows in subjects.items():
        parts = [f"by {_times(x)}{condition}" for x, condition, _ in rows]
        text = f"{subject} multiplies {PRIMARY} {join(parts)}{_unclear([x for x, *_ in rows])}"
        if all(equal for *_, equal in rows):
            ((low, high),) = rows[0][0].levels.values()
            text += f" At equal updates ({span(goals[known[0]], last, 0)}), with {high / low:g} "
            text += f"times the images, the ratio {_range([x for *_, some in rows for x in some])}."
        sentences.append(text)
    return sentences


def _unclear(effects: list[Effect]) -> str:
    """The end of a sentence on effects, all of whose intervals may include a ratio of 1."""
    judged = min(len(effect.seeds) for effect in effects) >= VERDICT_SEEDS
    unclear = all(effect.ratio.low <= 1 <= effect.ratio.high for effect in effects)
    return ": no effect is shown." if judged and unclear else "."


def _subject(effect: Effect) -> str:
    """`BatchNorm on D's output`, `Batch 512 instead of batch 128`."""
    ((factor, (low, high)),) = effect.levels.items()
    usual = f"{prose(factor, high)} instead of {prose(factor, low)}"
    text = SUBJECTS.get(f"{factor}={high}", usual)
    return text if "=" in text.split()[0] else text[0].upper() + text[1:]


def _with(factor: str, level: object) -> str:
    """`with the average-pool head`, `without output BatchNorm`."""
    text = prose(factor, level)
    article = "the " if text.endswith(" head") else ""
    return f"with {article}{text}".replace("with no ", "without ")


def _range(effects: list[Effect]) -> str:
    """`is 0.98 (0.93 to 1.03)`, or of several ratios `lies between 0.85 and 0.99`."""
    if len(effects) == 1:
        return f"is {_times(effects[0])}"
    low, *_, high = sorted(effect.ratio.value for effect in effects)
    return f"lies between {rounded(low, decimals_for(low))} and {rounded(high, decimals_for(low))}"


def _times(effect: Effect) -> str:
    """`1.45 (1.36 to 1.54)`; without an interval where the seeds are too few for a verdict."""
    x, decimals = effect.ratio, decimals_for(effect.ratio.value)
    return interval(x.value, x.low if x.n >= VERDICT_SEEDS else math.nan, x.high, decimals)


def _bound(study: Analysis) -> str:
    """The lowest step of D's loss against ln 2."""
    steps = study.frame[study.frame["norm"] == "batch"].groupby("run")["d_loss_min"].min().dropna()
    if not len(steps):
        return ""
    below = int((steps < LN2 * (1 - ROUNDING)).sum())
    side = f"below the bound of ln 2 = {LN2:.4f}"
    return (
        f"The lowest step of D's loss is {span(steps.min(), steps.max(), 4)} in the "
        f"{count(len(steps), 'run')} with output BatchNorm, "
        + (f"{side} in {below} of them." if below else f"never {side}, but for rounding.")
    )


# Sentences about epochs.


def _fluctuation(study: Analysis) -> str:
    """The size of the fluctuation for each level of the first factor, noise taken out."""
    runs = study.learners.fluctuation
    if not enough(study.learners) or runs["variance"].isna().all():
        return ""
    factor = study.factors[0]
    parts = [
        f"by {_mean(some, 'variance', statistics.percent_sd, 1, ' %')} {_with(factor, level)}"
        for level, some in runs.groupby(factor, sort=False)
    ]
    text = f"From epoch to epoch {PRIMARY} fluctuates about its trend"
    return f"{text} {join(parts)} (SD, measurement noise subtracted)."


def _selection(study: Analysis) -> str:
    """The last epoch against the best one, of arms that have learnt.

    Where there are two evaluation sets, one chooses the best and the other judges it: the last of
    many epochs is rarely the best, even if nothing but noise tells them apart.
    """
    runs = study.learners.selection
    if not len(runs) or not enough(study.learners):
        return _best(study)
    gain = _mean(runs, "gain", tables.percent_more, 1, " %")
    return (
        f"Scored on fresh noise, the last epoch is {gain} worse than the best of the milestones "
        "(epochs 1, 2, 5, 10, 15, ...)."
    )


def _best(study: Analysis) -> str:
    """The last epoch against the best one by the very samples that chose it."""
    last = study.learners.last.dropna(subset=[PRIMARY])
    if last.empty:
        return ""
    best = study.best.set_index("run")["epoch"]
    earlier = int((last["run"].map(best) < last["epoch"]).sum())
    runs = count(len(last), "run") + " of arms that learnt" * (study.learners is not study)
    if not earlier:
        return f"In all {runs} the last epoch is the best by {PRIMARY}."
    above = significant(tables.percent_more(study.learners.fluctuation["regret"].mean()), 2)
    which = f"In {earlier} of {runs} the last epoch is not the best by {PRIMARY}"
    return f"{which}; on average it is {above} % above the best."


def _learners(study: Analysis) -> str:
    """Which arms are told of, where some have learnt nothing."""
    learnt, arms = len(study.learnt), len(study.arms)
    if learnt == arms or study.last[PRIMARY].isna().all():
        return ""
    floor = f"{PRIMARY} below {significant(study.floor)} at the last epoch"
    if not learnt:
        return f"No arm has learnt: none has {floor}."
    share = f"{LEARNT:g} times that of the untrained generator"
    return (
        f"What is said of epochs covers the {learnt} of {arms} arms that learnt, with {floor}: "
        f"{share}. The tables have all arms."
    )


def _shares(study: Analysis) -> str:
    """How the variance is shared, over the arms that have learnt."""
    if not len(study.learners.shares) or not enough(study.learners):
        return ""
    row = study.learners.shares.iloc[0]
    shares = {name: 100 * row[f"{axis}_share"] for axis, name in AXES.items()}
    parts = [f"{x:.0f} % between {name}" for name, x in shares.items() if np.isfinite(x)]
    said = join(parts).replace("%", f"% of the variance of log {PRIMARY} is", 1)
    said = said.replace("between epochs", "between epochs (trend included)")
    return f"Over the milestones after burn-in, {said}."


def _ranks(study: Analysis) -> str:
    """Whether the losses tell which epoch is good."""
    runs = study.learners.ranks
    if not enough(study.learners) or runs[[*tables.LOSSES]].isna().all(axis=None):
        return ""
    scale = tables.SCALES["correlation"]
    means = {name: _mean(runs, loss, scale, 2) for loss, name in tables.LOSSES.items()}
    parts = [f"{mean} with those of {name}" for name, mean in means.items()]
    text = f"After burn-in, the changes of {PRIMARY} between epochs have a rank correlation of"
    return f"{text} {join(parts)}."


def _lost(study: Analysis) -> str:
    lost = int((study.plan["status"] == "diverged").sum())
    runs = count(len(study.plan), "run")
    return f"{lost} of {runs} diverged; what is not finite enters no mean." if lost else ""


def _few(study: Analysis) -> str:
    """Why there is no verdict, if there is none: too few seeds, or too few of them whole."""
    seeds, whole = study.seeds, study.whole_seeds
    if enough(study) or seeds < VERDICT_SEEDS:
        return no_verdict(whole or seeds)
    have = "a score of every arm at the last epoch."
    if not whole:
        return f"None of {seeds} seeds has {have} Without one no main effect is tested."
    return f"Only {whole} of {seeds} seeds have {have} {no_verdict(whole)}"


def _mean(
    runs: pd.DataFrame, column: str, scale: Callable[[float], float], decimals: int, unit: str = ""
) -> str:
    """`1.4 % (0.8 to 2.0 %)`: the mean over seeds, each the mean over its runs."""
    seeds = runs.groupby("seed")[column].agg(lambda x: x.mean(skipna=False))
    mean = statistics.over_seeds(seeds).rescaled(scale)
    return interval(mean.value, mean.low, mean.high, decimals, unit)
