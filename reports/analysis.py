"""Every frame that is derived from the records of a study, each computed once."""

from dataclasses import dataclass, fields
from functools import cached_property

import pandas as pd

from reports import epochs, records, tools
from reports.epochs import LEARNT
from reports.records import Study

__all__ = ["LEARNT", "Analysis", "analyse"]


@dataclass(frozen=True)
class Analysis(Study):
    """A study, and what follows from its records; `dataclasses.replace` starts afresh."""

    @cached_property
    def last(self) -> pd.DataFrame:
        """For each run that has got there the row of its last planned epoch."""
        return records.last_epochs(self)

    @cached_property
    def floor(self) -> float:
        """The primary metric below which an arm has learnt; NaN without a calibration."""
        return epochs.floor(self)

    @cached_property
    def fluctuation(self) -> pd.DataFrame:
        return epochs.fluctuation_table(self)

    @cached_property
    def selection(self) -> pd.DataFrame:
        return epochs.selection_table(self)

    @cached_property
    def ranks(self) -> pd.DataFrame:
        return epochs.losses_rank_table(self)

    @cached_property
    def regret(self) -> pd.DataFrame:
        return epochs.regret_table(self)

    @cached_property
    def relapse(self) -> pd.DataFrame:
        return epochs.relapse_table(self)

    @cached_property
    def results(self) -> pd.DataFrame:
        """What `python -m eval` measured: a row per run, a column `analysis/name` per number."""
        return tools.values(self)

    def reached(self, threshold: float) -> pd.DataFrame:
        """For each run the `images` and `steps` at which the primary metric falls to this."""
        return epochs.reached(self, threshold)


def analyse(study: Study) -> Analysis:
    """The analysis of a study; an analysis stays what it is."""
    if isinstance(study, Analysis):
        return study
    return Analysis(**{field.name: getattr(study, field.name) for field in fields(study)})
