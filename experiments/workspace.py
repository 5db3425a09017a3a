"""A study's panels on W&B."""

from pathlib import Path
from typing import Any

from wandb_workspaces import expr, workspaces
from wandb_workspaces.reports import v2 as reports

from dcgan import rundir
from dcgan.cli import BadInput, Result, one_line
from eval.metrics import lower_is_better
from experiments import tracking

NAMES = {"fd_cifar": "FD (CIFAR classifier)", "fid": "FID"}  # of the scores that open the page
BY_ARM = {"groupby": "Group", "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}


def make(study: Path, to: tracking.Destination) -> Result:
    """Build the workspace on W&B; raises BadInput."""
    if to.mode != "online":
        raise BadInput(f"workspace needs W&B online: it is {to.mode}. {to.why}".rstrip())
    entity = to.environ.get("WANDB_ENTITY", "")
    workspace = build(study, entity, to.environ["WANDB_PROJECT"])
    try:
        url = workspace.save().url
    except Exception as error:  # of W&B's service and of the network, of no common kind
        raise BadInput(f"W&B: {one_line(error)}") from error
    print(f"workspace {url}")
    return 0, {"workspace": url}


def build(study: Path, entity: str, project: str) -> workspaces.Workspace:
    """The workspace of a study. Raises rundir.Damaged."""
    info = rundir.unseal(study / "study.json")
    stored = [rundir.unseal(path) for path in sorted(study.glob("*/*/run.json"))]
    scores = list(dict.fromkeys(name for run in stored for name in run["identities"]))
    facts = {"study": info["study"], "scale": info["scale"], "data": info["data"]["name"]}
    layout = workspaces.SectionLayoutSettings(columns=2, rows=2)
    sections = [
        workspaces.Section(title, panels=panels, is_open=True, layout_settings=layout)
        for title, panels in _sections(scores).items()
    ]
    settings = workspaces.WorkspaceSettings(x_axis="epoch", max_runs=100)
    runs = workspaces.RunsetSettings(
        filters=expr.And(*(expr.Config(key) == value for key, value in facts.items())),
        groupby=[expr.Metric("Group")],
        pinned_columns=["run:displayName", *(f"summary:{_best(name)}" for name in scores)],
    )
    return workspaces.Workspace(
        entity, project, name=study.name, sections=sections, settings=settings, runset_settings=runs
    )


def _sections(scores: list[str]) -> dict[str, list[Any]]:
    """Heading -> panels of what is looked at, in this order; every key is one that is logged."""
    by_arm, fluctuation = [], []
    first = [name for name in NAMES if name in scores]
    for key in first:
        name, best = NAMES[key], reports.SummaryMetric(_best(key))
        last = reports.SummaryMetric(f"eval/{key}.last")
        title = f"{name} at the best epoch, mean of the seeds"
        by_arm += [
            _bands(f"eval/{key}", "epoch", f"{name} by arm: mean and range of seeds"),
            reports.BarPlot(title=title, metrics=[best], **BY_ARM),
        ]
        single = {"y": [f"eval/{key}"], "aggregate": False, "max_runs_to_show": 100}
        title = f"{name}: last epoch against best"
        fluctuation += [
            reports.LinePlot(title=f"{name} of every run", x="epoch", log_y=True, **single),
            reports.ScatterPlot(title=title, x=best, y=last, log_x=True, log_y=True),
        ]
    losses = [_bands(f"train/{x}_loss", "images", f"Loss of {x.upper()}") for x in ("d", "g")]
    losses += [_bands(f"losses/{x}", "epoch", x) for x in ("d_loss_min", "d_real", "d_fake")]
    samples = [reports.MediaBrowser(media_keys=["samples"], num_columns=2)]
    others = [_bands(f"eval/{name}", "epoch", name) for name in scores if name not in first]
    speed = _bands("time/images_per_second", "epoch", "Images a second")
    return {
        "Scores by arm: lower is better, the band is the range over the seeds": by_arm,
        "Fluctuation: how far a score moves from epoch to epoch": fluctuation,
        "Losses, against the real images that D was shown": losses,
        "Samples: the same noise at every epoch": samples,
        "Other scores": others,
        "Runs: where they differ, and how fast they were": [reports.RunComparer(), speed],
    }


def _bands(key: str, axis: str, title: str) -> Any:
    """A line for each arm, which is a group on W&B, with a band over its seeds."""
    return reports.LinePlot(title=title, x=axis, y=[key], max_runs_to_show=100, **BY_ARM)


def _best(score: str) -> str:
    """The key of the best value of a score, which the mirror's summary keeps beside the last."""
    return f"eval/{score}.{'min' if lower_is_better(score) else 'max'}"
