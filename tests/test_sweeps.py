"""The sweep is the grid: W&B's own way from its points to the command gives every run, once."""

import itertools
from pathlib import Path

import pytest
import yaml
from faults import processes
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from experiments import __main__ as experiments
from experiments import grid, sweeps, tracking

COMMAND = ["${env}", "${interpreter}", "-m", "experiments"]


def points(config: dict) -> list[dict]:
    """Every point of W&B's method `grid`."""
    assert config["method"] == "grid"
    levels = {name: each["values"] for name, each in config["parameters"].items()}
    return [dict(zip(levels, each, strict=True)) for each in itertools.product(*levels.values())]


def command(config: dict, point: dict) -> list[str]:
    """What W&B's agent would start."""
    given = {"args": {name: {"value": value} for name, value in point.items()}}
    arguments = create_sweep_command_args(given)["args_no_hyphens"]
    words = create_sweep_command(config["command"])
    place = words.index("${args_no_hyphens}")
    return [*words[:place], *arguments, *words[place + 1 :]]


def runs_of(words: list[str]) -> list[grid.Run]:
    """The runs that the command makes, as its own command line understands it."""
    assert words[:4] == COMMAND
    name, *rest = words[4:]
    given = experiments.experiments_group.commands[name].make_context(name, rest).params
    return grid.runs(grid.define(name, given["scale"], given["seeds"], given["overrides"]))


@pytest.mark.parametrize(
    ("name", "scale", "seeds", "words"),
    [
        ("ablation", "small", 3, []),
        ("ablation", "cifar32", None, ["batch=512", "epochs=4", "lr_g=1e-5"]),
        ("followups", "small", 2, []),
        ("kinds", "small", 1, ["arm=one-class"]),
        ("precision", "cifar32", 4, ["seed=1,3"]),
        ("ablation", "small", None, ["seed=7"]),
    ],
)
def test_the_points_of_the_sweep_are_the_runs_of_the_grid(
    name: str, scale: str, seeds: int | None, words: list[str]
) -> None:
    study = grid.define(name, scale, seeds, words)
    config = yaml.safe_load(sweeps.to_yaml(sweeps.configure(study, words, [], "project")))
    made = [runs_of(command(config, point)) for point in points(config)]
    assert {len(runs) for runs in made} == {1}
    wanted = grid.runs(study)
    assert sorted(str(run) for (run,) in made) == sorted(map(str, wanted))
    assert {run.config for (run,) in made} == {run.config for run in wanted}


def test_the_command_prints_the_sweep(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    argv = ["sweep", "ablation", "--scale", "smoke", "--data", "shapes", "head=conv", "epochs=4"]
    assert experiments.main(argv) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    study = grid.define("ablation", "smoke", None, ["head=conv", "epochs=4"])
    made = [run for point in points(config) for run in runs_of(command(config, point))]
    assert {run.config for run in made} == {run.config for run in grid.runs(study)}
    assert config["command"][config["command"].index("--data") + 1] == "shapes"
    assert config["project"] == tracking.PROJECT
    assert config["metric"] == {"name": "eval/fd_cifar.min", "goal": "minimize"}
    assert "the study ablation at smoke" in config["description"]


# --- A real run of a sweep ------------------------------------------------------------------------


@pytest.mark.skipif(bool(processes.unavailable()), reason=processes.unavailable())
def test_a_point_is_that_run_alone_and_the_study_goes_on_from_it(tmp_path: Path) -> None:
    arm = ["norm=none", "head=conv", "batch=128"]
    one, whole = tmp_path / "one", tmp_path / "whole"
    for out, words in ((one, [*arm, "seed=1"]), (whole, ["--seeds", "2", *arm])):
        processes.finish(out, *words)
    made = sorted(path.relative_to(one) for path in one.glob("*/*/seed=*"))
    assert made == [Path(processes.STUDY, ",".join(arm), "seed=1")]
    result, wanted = (processes.contents(out / processes.STUDY) for out in (one, whole))
    assert result == {name: digest for name, digest in wanted.items() if "/seed=1/" in name}
    assert len(wanted) == 2 * len(result) > 2 * processes.EPOCHS

    # The whole study skips what is done.
    files = [path for path in (one / made[0]).rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert "; 1 are done" in processes.finish(one, "--seeds", "2", *arm).out
    assert processes.contents(one / processes.STUDY) == wanted
    assert {path: path.stat().st_mtime_ns for path in files} == before
