"""The panels on W&B: whole, valid, and of nothing that the mirror does not log."""

import json
from types import SimpleNamespace
from unittest import mock

import pytest
from conftest import all_history, run_wandb
from wandb.sdk.lib.service.service_connection import WandbApiFailedError

from dcgan.cli import BadInput
from experiments import tracking, workspace

ARM = {"norm": ["none"], "head": ["conv"], "batch": [128]}
RUN = "norm=none,head=conv,batch=128/seed=0"


@pytest.fixture(scope="module")
def study(make_study, tmp_path_factory):
    """One run with every score, mirrored offline."""
    folder = tmp_path_factory.mktemp("panels")
    study = make_study(folder, factors=ARM, epochs=1, inception="milestone", points=2)
    assert tracking.start(study / RUN, "offline").finish() == ""
    return study


@pytest.fixture
def made(study):
    """What would be sent to W&B."""
    model = workspace.build(study, "people", "p")._to_model()
    return json.loads(model.model_dump_json(by_alias=True, exclude_none=True))


def panels(value):
    """Every panel somewhere in a specification."""
    if isinstance(value, dict) and "viewType" in value:
        yield value
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from panels(part)


def keys(panel):
    """The keys that a panel draws, or draws against."""
    config = panel["config"]
    named = [*config.get("metrics", []), *config.get("mediaKeys", [])]
    return {*named, *(config[axis] for axis in ("xAxis", "yAxis") if axis in config)}


def test_every_key_of_a_panel_is_logged(made, study):
    (run,) = study.glob("wandb/offline-run-*")
    logged = {name.partition(".")[0] for row in all_history(study, run) for name in row}
    state = json.loads(run_wandb(study, "leet", "inspect", "--summary", "--json", str(run)))
    for name, value in state["summary"].items():
        ends = value if isinstance(value, dict) else []
        logged |= {f"{how}{name}.{end}" for end in ends for how in ("summary:", "summary_metrics.")}
    drawn = set().union(*map(keys, panels(made)))
    assert {"eval/fd_cifar", "eval/fid", "train/d_loss", "samples", "images"} <= drawn
    assert drawn <= logged
    assert {"study", "scale", "data"} <= state["config"].keys()


def test_the_scores_by_arm_have_bands_over_the_seeds(made):
    lines = [p["config"] for p in panels(made) if p["viewType"].endswith("Line Plot")]
    for score in ("eval/fd_cifar", "eval/fid"):
        (line,) = (x for x in lines if x["metrics"] == [score] and x["aggregate"])
        assert (line["groupArea"], line["groupBy"]) == ("minmax", "group")


def test_the_runs_are_those_of_the_study(made):
    for key, value in {"study": "ablation", "scale": "small", "data": "shapes"}.items():
        wanted = {"key": {"section": "config", "name": key}, "op": "=", "value": value}
        assert json.dumps(wanted)[:-1] in json.dumps(made)


def test_with_an_account_it_is_saved_and_a_failure_is_one_line(study, monkeypatch, capsys):
    offline = tracking.Destination("offline", "no key", "", {})
    with pytest.raises(BadInput, match=r"needs W&B online: it is offline\. no key$"):
        workspace.make(study, offline)

    # An imitation: what W&B itself does with it cannot be tried without an account.
    names = {"WANDB_ENTITY": "people", "WANDB_PROJECT": "p"}
    online = tracking.Destination("online", "", "https://example.org/people/p", names)

    def save(model):
        return SimpleNamespace(url=f"https://example.org/{model.entity}/{model.project}")

    monkeypatch.setattr(workspace.workspaces.Workspace, "save", save)
    assert workspace.make(study, online)[0] == 0
    assert capsys.readouterr().out.endswith("workspace https://example.org/people/p\n")
    failure = mock.Mock(side_effect=WandbApiFailedError("the service\nfailed"))
    monkeypatch.setattr(workspace.workspaces.Workspace, "save", failure)
    with pytest.raises(BadInput, match=r"^W&B: the service failed$"):
        workspace.make(study, online)
