"""Sentences: what the numbers say. With intervals from six seeds on, and as counts below."""

from typing import NamedTuple, get_args

import numpy as np
import pandas as pd

from reports import effects, epochs, statistics
from reports.claims import Verdict, Word
from reports.effects import no_verdict
from reports.records import (
    PRIMARY,
    Study,
    at_updates,
    best_epochs,
    last_epochs,
    levels,
    measured,
)
from reports.statistics import VERDICT_SEEDS, Estimate
from reports.tables import (
    LN2,
    ROUNDING,
    count,
    digits,
    geometric_mean,
    join,
    p_value,
    paired_ratios,
    run_speeds,
    span,
)

ALPHA = 0.05


class Findings(NamedTuple):
    """What the numbers say, each list a paragraph a sentence or two long for each thing."""

    headline: list[str]  # what each factor does, and what the epochs do
    factors: list[str]  # more on the factors
    epochs: list[str]  # more on the epochs, and why there is no verdict where there is none

    @property
    def all(self) -> list[str]:
        return [*self.headline, *self.factors, *self.epochs]


def findings(study: Study) -> Findings:
    """The sentences of a study: with intervals, or counts where the seeds are too few."""
    if PRIMARY not in measured(study):
        return Findings([f"No epoch with a finite {PRIMARY} has been committed yet."], [], [])
    ends = [*_rise(study), *_diverged(study)]
    if study.baseline:
        few = [] if enough(study) else _few(study)
        moves = [*_fluctuation(study), *_shares(study)] if enough(study) else []
        return Findings(_against_baseline(study), [], [*_best(study), *moves, *ends, *few])
    if enough(study):
        moves = " ".join(_fluctuation(study) + _best(study))
        factors = [*_within_norms(study), *_bound(study), *_speed(study)]
        ends = [*_shares(study), *_selection(study), *_ranks(study), *ends]
        return Findings([*_effects(study), moves], factors, ends)
    factors = [*_counts_by_norm(study), *_equal_epochs(study), *_bound(study)]
    factors += _speed_counts(study)
    return Findings([*_counts(study), *_best(study)], factors, [*ends, *_few(study)])


def enough(study: Study) -> bool:
    """Whether there are seeds enough for a verdict, each with the last epoch of every arm."""
    return whole_seeds(study) >= VERDICT_SEEDS


def whole_seeds(study: Study) -> int:
    """How many seeds have a finite last epoch of every arm."""
    last = last_epochs(study).dropna(subset=[PRIMARY])
    return int((last.groupby("seed")["run"].count() == len(study.arms)).sum())


def how_sure(study: Study) -> str:
    """What stands behind the headline, in a sentence or two."""
    seeds, arms = study.frame["seed"].nunique(), count(len(study.arms), "arm")
    if not enough(study):
        return f"{count(seeds, 'seed')} of each of {arms}. {_reason(study)}"
    return (
        f"{count(whole_seeds(study), 'seed')} of each of {arms}, paired by seed. In brackets: 95 % "
        "t intervals over seeds; p: paired t, after Holm over the main effects."
    )


def tally(verdicts: list[Verdict]) -> str:
    """`53 claims: 7 supported, 4 refuted, ... and 12 not yet run.`"""
    words = [one.verdict for one in verdicts]
    parts = [f"{words.count(word)} {word}" for word in get_args(Word) if word in words]
    return f"{count(len(words), 'claim')}: {join(parts)}." if words else ""


def _effects(study: Study) -> list[str]:
    """A sentence for each main effect; batch at equal epochs and at equal updates."""
    updates = {one.name: one for one in effects.contrasts(study, at_updates(study))}
    sentences = []
    for one in effects.contrasts(study, last_epochs(study)):
        if len(one.effect) > 1:
            continue
        ((factor, (low, high)),) = one.effect.items()
        text = (
            f"{factor}={high} makes {PRIMARY} {digits(one.ratio.value)} times as high as "
            f"{factor}={low} ({_ends(one.ratio)}, p {_equals(one.p_holm)})"
        )
        if factor == "batch" and one.name in updates:
            text += f" at equal epochs, and {_times(updates[one.name].ratio)} at equal updates"
        sentences.append(text + ("." if one.p_holm < ALPHA else ": not established."))
    return sentences


def _against_baseline(study: Study) -> list[str]:
    """What every named arm does to the last epoch, the worst first; and how many are worse."""
    last, first = last_epochs(study), study.baseline
    if enough(study):
        found = {
            one.effect["arm"][1]: one
            for one in effects.contrasts(study, last)
            if list(one.effect) == ["arm"]
        }
        parts = {
            name: (one.ratio.value, f"{_times(one.ratio)[:-1]}, p {_equals(one.p_holm)})")
            for name, one in found.items()
        }
        worse = sum(one.p_holm < ALPHA and one.ratio.value > 1 for one in found.values())
        better = sum(one.p_holm < ALPHA and one.ratio.value < 1 for one in found.values())
        summary = f"{worse} of {count(len(parts), 'arm')} are worse and {better} better."
    else:
        parts, all_worse = {}, 0
        for (name,) in study.arms[1:]:
            ratios = paired_ratios(study, last, "arm", first, name, PRIMARY).dropna()
            if len(ratios):
                value, worse = geometric_mean(ratios), int((ratios > 1).sum())
                parts[name] = value, f"{digits(value)} times, worse in {worse} of {len(ratios)}"
                all_worse += worse == len(ratios)
        summary = f"{all_worse} of {count(len(parts), 'arm')} are worse in all pairs."
    if not parts:
        return [f"No arm can be compared with {first} yet."]
    ordered = sorted(parts, key=lambda name: -parts[name][0])
    said = "; ".join(f"{name}: {parts[name][1]}" for name in ordered)
    return [f"Against {first}, at the last epoch, in {PRIMARY}: {summary}", f"{said}."]


def _fluctuation(study: Study) -> list[str]:
    """The size of the fluctuation for each level of the first factor, noise taken out."""
    runs = epochs.fluctuation_table(epochs.learners(study))
    if runs["variance"].isna().all():
        return []
    parts, factor = [], study.factors[0]
    for level, some in runs.groupby(factor, sort=False):
        found = _over_seeds(some, "variance")
        value, low, high = (epochs.percent_sd(x) for x in (found.value, found.low, found.high))
        parts.append(f"by {value:.1f} % ({low:.1f} to {high:.1f}) with {factor}={level}")
    return [f"From epoch to epoch {PRIMARY} fluctuates {join(parts)}, noise taken out."]


def _best(study: Study) -> list[str]:
    """Best against last epoch, of arms that have learnt."""
    study = epochs.learners(study)
    last = last_epochs(study).dropna(subset=[PRIMARY])
    if last.empty:
        return []
    best = best_epochs(study).set_index("run")["epoch"]
    earlier = int((last["run"].map(best) < last["epoch"]).sum())
    runs = count(len(last), "run")
    return [f"The epoch with the best {PRIMARY} is not the last one in {earlier} of {runs}."]


def _within_norms(study: Study) -> list[str]:
    """The effects of the other factors, apart for each level of the first."""
    first, last = study.factors[0], last_epochs(study)
    apart = levels(study, first)
    parts: dict[str, list[str]] = {}
    for level in apart if len(apart) > 1 else []:
        for one in effects.contrasts(study, last[last[first] == level]):
            if len(one.effect) == 1:
                said = f"{_times(one.ratio)} with {first}={level}"
                parts.setdefault(effects.title(one), []).append(said)
    return [
        f"{name.replace(' against ', ' against ' + name.split('=')[0] + '=')}: {join(said)}."
        for name, said in parts.items()
    ]


def _bound(study: Study) -> list[str]:
    """The lowest step of D's loss against ln 2."""
    steps = study.frame[study.frame["norm"] == "batch"].groupby("run")["d_loss_min"].min().dropna()
    if not len(steps):
        return []
    below = int((steps < LN2 * (1 - ROUNDING)).sum())
    side = f"below the bound of ln 2 = {LN2:.4f}"
    return [
        f"The lowest step of D's loss is {span(steps.min(), steps.max(), 4)} in the "
        f"{count(len(steps), 'norm=batch run')}, "
        + (f"{side} in {below} of them." if below else f"never {side}.")
    ]


def _speed(study: Study) -> list[str]:
    """How much faster one head trains than the other."""
    table = effects.contrasts(study, run_speeds(study), "images_per_second")
    return [
        f"head={high} trains {_times(one.ratio)} as many images a second as head={low}."
        for one in table
        if list(one.effect) == ["head"]
        for low, high in one.effect.values()
    ]


def _selection(study: Study) -> list[str]:
    """What choosing the best epoch is worth on another bank, and how far it flatters."""
    runs = epochs.selection_table(epochs.learners(study))
    if not len(runs):
        return []
    gain, optimism = (_over_seeds(runs, column) for column in ("gain", "optimism"))
    return [
        f"Chosen on one evaluation bank and measured on another, the last epoch is "
        f"{_percent(gain)} above the best one; the bank that chose flatters the best one by "
        f"{_percent(optimism)}."
    ]


def _ranks(study: Study) -> list[str]:
    """Whether the losses tell which epoch is good."""
    runs = epochs.losses_rank_table(epochs.learners(study))
    parts = []
    for loss, name in epochs.LOSSES.items():
        found = _over_seeds(runs, loss)
        parts.append(f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f}) for {name}")
    return [
        f"From epoch to epoch, the changes of {PRIMARY} have with those of the losses a rank "
        f"correlation of {join(parts)}."
    ]


def _shares(study: Study) -> list[str]:
    """Whose the variance is, over all arms."""
    table = epochs.shares_table(study)
    if not len(table):
        return []
    row = table.iloc[0]
    names = {
        "arm": "arms",
        "seed": "seeds",
        "epoch": "epochs",
        "evaluation": "evaluations of one epoch",
    }
    shares = {names[axis]: row.get(f"{axis}_share", np.nan) for axis in names}
    parts = [f"{100 * x:.0f} % between {name}" for name, x in shares.items() if np.isfinite(x)]
    said = join(parts).replace(" % between", " % is between", 1)
    return [f"Of the variance of log {PRIMARY} after burn-in, {said}."]


def _rise(study: Study) -> list[str]:
    """The largest rise between neighbouring epochs of one run; across a gap there is none."""
    frame = study.frame.sort_values(["run", "epoch"])
    rises = frame[PRIMARY] / frame.groupby("run")[PRIMARY].shift()
    if not rises.notna().any():
        return []
    factor = rises.max()
    if factor <= 1:
        return [f"{PRIMARY} rises from one epoch to the next in no run."]
    row = frame.loc[rises.idxmax()]
    return [
        f"The largest rise from one epoch to the next is by a factor of {digits(factor)}, from "
        f"{digits(row[PRIMARY] / factor)} to {digits(row[PRIMARY])} between epochs "
        f"{row['epoch'] - 1} and {row['epoch']} of {row['run']}."
    ]


def _diverged(study: Study) -> list[str]:
    lost = int((study.plan["status"] == "diverged").sum())
    runs = count(len(study.plan), "run")
    return [f"{lost} of {runs} diverged; what is not finite enters no mean."] if lost else []


def _few(study: Study) -> list[str]:
    """Why these are counts."""
    seeds = count(study.frame["seed"].nunique(), "seed")
    return [f"These are counts from {seeds}. {_reason(study)}"]


def _reason(study: Study) -> str:
    """Why there is no verdict: too few seeds, or too few of them whole."""
    seeds, whole = study.frame["seed"].nunique(), whole_seeds(study)
    if whole == 0 or seeds < VERDICT_SEEDS:
        return no_verdict(seeds)
    return f"Only {whole} of them have the last epoch of every arm. {no_verdict(whole)}"


def _pairs(study: Study) -> list[tuple[str, object, object]]:
    """The factors with two levels or more: name, first level, last one."""
    ends = {factor: levels(study, factor) for factor in study.factors}
    return [(factor, x[0], x[-1]) for factor, x in ends.items() if len(x) > 1]


def _counts(study: Study) -> list[str]:
    """In how many pairs a level is worse than the other, a sentence for each factor."""
    sentences = []
    for factor, low, high in _pairs(study):
        ratios = paired_ratios(study, last_epochs(study), factor, low, high, PRIMARY)
        pairs, absent = ratios.dropna(), int(ratios.isna().sum())
        gap = (
            f" ({absent} of {len(ratios)} planned pairs are not complete or not finite)"
            if absent
            else ""
        )
        if pairs.empty:
            sentences.append(
                f"{factor}={high} against {factor}={low}: no pair is complete at the last "
                f"epoch{gap}."
            )
            continue
        worse, better = int((pairs > 1).sum()), int((pairs < 1).sum())
        equal = len(pairs) - worse - better
        counts = {"worse": worse, "better": better, "equal": equal}
        said = [f"{word} in {n}" for word, n in counts.items() if n]
        sentences.append(
            f"With {factor}={high}, {PRIMARY} at the last epoch is {join(said)} of "
            f"{count(len(pairs), 'pair')} with {factor}={low}, {digits(geometric_mean(pairs))} "
            f"times as high in the geometric mean{gap}."
        )
    return sentences


def _counts_by_norm(study: Study) -> list[str]:
    """The same for the other factors, apart for each level of the first."""
    sentences, first = [], study.factors[0]
    apart = levels(study, first)
    for factor, low, high in _pairs(study):
        ratios = paired_ratios(study, last_epochs(study), factor, low, high, PRIMARY).dropna()
        parts = []
        for level in apart if factor != first and len(apart) > 1 else []:
            some = ratios[ratios.index.get_level_values(first) == level]
            if len(some):
                worse = f"worse in {int((some > 1).sum())} of {len(some)}"
                parts.append(f"{digits(geometric_mean(some))} times, {worse}, with {first}={level}")
        if parts:
            sentences.append(f"{factor}={high} against {factor}={low}: {'; '.join(parts)}.")
    return sentences


def _equal_epochs(study: Study) -> list[str]:
    """That batches are compared at equal epochs, and what that means in updates."""
    batches = levels(study, "batch") if "batch" in study.factors else []
    steps = study.frame.assign(per=study.frame["steps"] / study.frame["epoch"])
    updates = [steps.loc[steps["batch"] == batch, "per"].median() for batch in batches]
    if len(batches) < 2 or not np.isfinite(updates).all():
        return []
    return [
        f"Batches are compared at equal epochs here, not at equal updates: an epoch is "
        f"{updates[-1]:.0f} updates at batch={batches[-1]} and {updates[0]:.0f} at "
        f"batch={batches[0]}."
    ]


def _speed_counts(study: Study) -> list[str]:
    """The speed of the two heads, as a range over pairs."""
    ratios = paired_ratios(
        study, run_speeds(study), "head", "conv", "avgpool", "images_per_second"
    ).dropna()
    if not len(ratios):
        return []
    return [
        f"head=avgpool trains {digits(geometric_mean(ratios))} times as many images a second as "
        f"head=conv ({span(ratios.min(), ratios.max(), 2)} in {count(len(ratios), 'pair')})."
    ]


def _over_seeds(runs: pd.DataFrame, column: str) -> Estimate:
    """One number a seed, the mean over its runs, and the mean of these with its interval."""
    return statistics.over_seeds(runs.groupby("seed")[column].agg(lambda x: x.mean(skipna=False)))


def _times(ratio: Estimate) -> str:
    return f"{digits(ratio.value)} times ({_ends(ratio)})"


def _ends(ratio: Estimate) -> str:
    return f"{digits(ratio.low)} to {digits(ratio.high)}"


def _percent(log_ratio: Estimate) -> str:
    """`1.4 % (0.8 to 2.0)`."""
    ends = (log_ratio.value, log_ratio.low, log_ratio.high)
    value, low, high = (epochs.percent_more(x) for x in ends)
    return f"{value:.1f} % ({low:.1f} to {high:.1f})"


def _equals(p: float) -> str:
    text = p_value(p)
    return f"< {text[1:]}" if text.startswith("<") else f"= {text}"
