"""A study's panels on W&B: a saved workspace and a report, both made from one list of sections.

They are built and checked here, without an account; an account is needed to save them.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import wandb
from wandb_workspaces import expr
from wandb_workspaces.reports import v2 as reports
from wandb_workspaces.workspaces import (
    RunsetSettings,
    Section,
    SectionLayoutSettings,
    Workspace,
    WorkspaceSettings,
)

from dcgan import rundir
from eval.metrics import lower_is_better
from experiments import tracking

NAMES = {"fd_cifar": "FD (CIFAR classifier)", "fid": "FID"}  # of the scores that open the page
COLUMNS, HEIGHT = 2, 8  # of the panels in a section
WIDTH = 24 // COLUMNS  # a report is 24 wide


class Panels(NamedTuple):
    """Some panels under one heading."""

    title: str
    text: str
    panels: list[Any]


def build(study: Path, entity: str, project: str) -> tuple[Workspace, Any]:
    """The workspace and the report of a study. Raises rundir.Damaged."""
    info = rundir.unseal(study / "study.json")
    stored = [rundir.unseal(path) for path in sorted(study.glob("*/*/run.json"))]
    scores = list(dict.fromkeys(name for run in stored for name in run["identities"]))
    facts = {"study": info["study"], "scale": info["scale"], "data": info["data"]["name"]}
    filters = expr.And(*(expr.Config(key) == value for key, value in facts.items()))
    table = [f"summary:eval/{name}.{_best(name)}" for name in scores]
    sections = _sections(scores)
    workspace = Workspace(
        entity,
        project,
        name=study.name,
        sections=[
            Section(
                each.title,
                panels=each.panels,
                is_open=True,
                layout_settings=SectionLayoutSettings(columns=COLUMNS, rows=2),
            )
            for each in sections
        ],
        settings=WorkspaceSettings(x_axis="epoch", max_runs=100),
        runset_settings=RunsetSettings(
            filters=filters,
            groupby=[expr.Metric("Group")],
            pinned_columns=["run:displayName", *table],
        ),
    )
    runs = reports.Runset(  # of the report's own project
        name=study.name, filters=filters, groupby=["group"], pinned_columns=table
    )
    report = reports.Report(
        project,
        entity,
        title=f"DCGAN: {study.name}",
        description=f"{len(stored)} runs on {info['data']['name']}, commit {info['commit']}.",
        blocks=[block for each in sections for block in _blocks(each, runs)],
        width="fluid",
    )
    return workspace, report


def make(study: Path) -> tuple[int, dict[str, Any]]:
    """Build both, write them beside the study's runs, and save them if W&B is online.

    Returns an exit code, and where both are. Raises rundir.Damaged, and ValueError for a W&B mode
    that is none.
    """
    mode, _ = tracking.choose_mode(os.environ)
    project = os.environ.get("WANDB_PROJECT") or tracking.PROJECT
    entity = os.environ.get("WANDB_ENTITY", "")
    try:
        if mode == "online" and not entity:
            entity = wandb.Api().default_entity
        workspace, report = build(study, entity, project)
        paths = write(study, workspace, report)
        for path in paths:
            print(f"wrote {path}")
        for section in workspace.sections:
            plural = "" if len(section.panels) == 1 else "s"
            print(f"  {section.name:<16}{len(section.panels)} panel{plural}")
        if mode != "online":
            print("To save them on W&B: WANDB_API_KEY or `wandb login`, then the same command.")
            return 0, {"files": paths, "workspace": None, "report": None}
        saved = {"workspace": workspace.save().url, "report": report.save().url}
        for name, url in saved.items():
            print(f"{name:<10}{url}")
    except (wandb.Error, OSError) as error:
        print(f"W&B: {' '.join(str(error).split())}", file=sys.stderr)
        return 1, {}
    return 0, {"files": paths, **saved}


def write(study: Path, workspace: Workspace, report: Any) -> list[Path]:
    """Write both as W&B would be sent them, beside the study's runs; returns the paths."""
    models = {"workspace.json": workspace._to_model(), "report.json": report._to_model()}
    for name, model in models.items():
        text = model.model_dump_json(by_alias=True, exclude_none=True)
        rundir.replace(study / "wandb" / name, rundir.to_json(json.loads(text)))
    return [study / "wandb" / name for name in models]


def _sections(scores: list[str]) -> list[Panels]:
    """What is looked at, in this order; every key is one that the mirror logs."""
    first = [name for name in NAMES if name in scores]
    by_arm = [
        panel
        for name in first
        for panel in (
            _bands(f"eval/{name}", "epoch", f"{NAMES[name]} by arm: mean and range of seeds"),
            reports.BarPlot(
                title=f"{NAMES[name]} at the best epoch, mean of the seeds",
                metrics=[reports.SummaryMetric(f"eval/{name}.{_best(name)}")],
                groupby="Group",
                groupby_aggfunc="mean",
                groupby_rangefunc="minmax",
            ),
        )
    ]
    fluctuation = [
        panel
        for name in first
        for panel in (
            reports.LinePlot(
                title=f"{NAMES[name]}, every run for itself",
                x="epoch",
                y=[f"eval/{name}"],
                log_y=True,
                aggregate=False,
                max_runs_to_show=100,
            ),
            reports.ScatterPlot(
                title=f"{NAMES[name]}: last epoch against best",
                x=reports.SummaryMetric(f"eval/{name}.{_best(name)}"),
                y=reports.SummaryMetric(f"eval/{name}.last"),
                log_x=True,
                log_y=True,
            ),
        )
    ]
    losses = [
        _bands(f"train/{name}_loss", "images", f"Loss of {name.upper()}") for name in ("d", "g")
    ] + [_bands(f"losses/{name}", "epoch", name) for name in ("d_loss_min", "d_real", "d_fake")]
    others = [_bands(f"eval/{name}", "epoch", name) for name in scores if name not in first]
    return [
        Panels("Scores by arm", "Lower is better. The band is the range over the seeds.", by_arm),
        Panels("Fluctuation", "How far a run's score moves from epoch to epoch.", fluctuation),
        Panels("Losses", "Against the real images that D was shown.", losses),
        Panels(
            "Samples",
            "The same noise through the generator at every epoch.",
            [reports.MediaBrowser(media_keys=["samples"], num_columns=2)],
        ),
        Panels("Other scores", "Of the same images.", others),
        Panels(
            "Runs",
            "What the runs differ in, and how fast they were.",
            [
                reports.RunComparer(diff_only="split"),
                _bands("time/images_per_second", "epoch", "Images a second"),
            ],
        ),
    ]


def _bands(key: str, axis: str, title: str) -> Any:
    """A line for each arm, which is a group on W&B, with a band over its seeds."""
    return reports.LinePlot(
        title=title,
        x=axis,
        y=[key],
        groupby="Group",
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
        max_runs_to_show=100,
    )


def _blocks(part: Panels, runs: Any) -> list[Any]:
    """A section of the report: the same panels, each in its place, over the table of the runs."""
    for number, panel in enumerate(part.panels):
        row, column = divmod(number, COLUMNS)
        panel.layout = reports.Layout(x=column * WIDTH, y=row * HEIGHT, w=WIDTH, h=HEIGHT)
    grid = reports.PanelGrid(runsets=[runs], panels=part.panels)
    return [reports.H2(part.title), reports.P(part.text), grid]


def _best(score: str) -> str:
    """Which end of a score the mirror's summary keeps beside the last value."""
    return "min" if lower_is_better(score) else "max"
