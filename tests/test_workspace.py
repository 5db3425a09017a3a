"""The panels on W&B: whole, valid, and of nothing that the mirror does not log."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from wandb.sdk.lib.service.service_connection import WandbApiFailedError
from wandb_workspaces.reports.v2 import internal as report_internal
from wandb_workspaces.workspaces import internal as workspace_internal

from experiments import tracking, workspace

ARM = {"norm": ["none"], "head": ["conv"], "batch": [128]}
OFFLINE = tracking.Destination("offline", "no key", "", {})
RUN = "norm=none,head=conv,batch=128/seed=0"


@pytest.fixture(scope="module")
def study(make_study: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run with every score, mirrored offline."""
    folder = tmp_path_factory.mktemp("panels")
    study = make_study(folder, factors=ARM, epochs=1, inception="milestone", points=2)
    assert tracking.start(study / RUN, "offline").finish() == ""
    return study


@pytest.fixture
def made(study: Path) -> list[Any]:
    """What would be sent to W&B: the workspace and the report."""
    assert workspace.make(study, OFFLINE)[0] == 0
    return [
        json.loads((study / "wandb" / f"{name}.json").read_bytes())
        for name in ("workspace", "report")
    ]


def panels(value: Any) -> Iterator[dict]:
    """Every panel somewhere in a specification."""
    if isinstance(value, dict):
        if "viewType" in value:
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from panels(part)


def keys(panel: dict) -> set[str]:
    """The keys that a panel draws, or draws against."""
    config = panel["config"]
    named = [*config.get("metrics", []), *config.get("mediaKeys", [])]
    return {*named, *(config[axis] for axis in ("xAxis", "yAxis") if axis in config)}


def test_every_key_of_a_panel_is_logged(
    made: list[Any],
    study: Path,
    wandb_history: Callable[[Path, Path], list[dict]],
    wandb_command: Callable[..., str],
) -> None:
    (run,) = study.glob("wandb/offline-run-*")
    logged = {name.partition(".")[0] for row in wandb_history(study, run) for name in row}
    state = json.loads(wandb_command(study, "leet", "inspect", "--summary", "--json", str(run)))
    for name, value in state["summary"].items():
        ends = value if isinstance(value, dict) else []
        logged |= {f"{how}{name}.{end}" for end in ends for how in ("summary:", "summary_metrics.")}

    for specification in made:
        drawn = set().union(*map(keys, panels(specification)))
        assert {"eval/fd_cifar", "eval/fid", "train/d_loss", "samples", "images"} <= drawn
        assert drawn <= logged
    assert {"study", "scale", "data"} <= state["config"].keys()


def test_the_scores_by_arm_have_bands_over_the_seeds(made: list[Any]) -> None:
    for specification in made:
        lines = [p["config"] for p in panels(specification) if p["viewType"].endswith("Line Plot")]
        for score in ("eval/fd_cifar", "eval/fid"):
            (line,) = (x for x in lines if x["metrics"] == [score] and x["aggregate"])
            assert (line["groupArea"], line["groupBy"]) == ("minmax", "group")


def test_wandbs_own_models_read_what_would_be_sent(made: list[Any]) -> None:
    view = workspace_internal.View.model_validate(made[0])
    assert len(view.spec.section.panel_bank_config.sections) == 6
    report = report_internal.ReportViewspec.model_validate(made[1])
    assert report.display_name == "DCGAN: ablation-small-shapes"
    for key, value in {"study": "ablation", "scale": "small", "data": "shapes"}.items():
        wanted = {"key": {"section": "config", "name": key}, "op": "=", "value": value}
        assert all(json.dumps(wanted)[:-1] in json.dumps(each) for each in made)


def test_with_an_account_both_are_saved(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert workspace.make(study, OFFLINE)[0] == 0
    assert capsys.readouterr().out.endswith("the same command saves them there. no key\n")

    # An imitation: what W&B itself does with them cannot be tried without an account.
    names = {"WANDB_ENTITY": "people", "WANDB_PROJECT": "p"}
    online = tracking.Destination("online", "", "https://example.org/people/p", names)
    saved = []

    def save(each: Any) -> SimpleNamespace:
        saved.append((each.entity, each.project))
        return SimpleNamespace(url=f"https://example.org/{len(saved)}")

    for kind in (workspace.Workspace, workspace.reports.Report):
        monkeypatch.setattr(kind, "save", save)
    assert workspace.make(study, online)[0] == 0
    assert saved == [("people", "p")] * 2
    printed = capsys.readouterr().out.splitlines()[-2:]
    assert [line.split() for line in printed] == [
        ["workspace", "https://example.org/1"],
        ["report", "https://example.org/2"],
    ]

    # A failure is one line.
    def fail(each: Any) -> None:
        raise WandbApiFailedError("the service\nfailed")

    monkeypatch.setattr(workspace.Workspace, "save", fail)
    assert workspace.make(study, online)[0] == 1
    assert capsys.readouterr().err == "W&B: the service failed\n"
