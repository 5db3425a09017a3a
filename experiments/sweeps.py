"""A study as a W&B sweep: every run of the grid is one point of it. Knows no torch.

    python -m experiments sweep ablation --scale small > sweep.yaml
    wandb sweep sweep.yaml                the sweep, which needs an account
    wandb agent ENTITY/PROJECT/SWEEP      one run after another, until the grid is done

W&B hands out the points and an agent runs the project's own command with each, so that whatever
is done already is skipped. Only one agent at a time can work in one --out.
"""

from typing import Any

import yaml

from experiments.grid import Study

METRIC = {"name": "eval/fd_cifar.min", "goal": "minimize"}  # every run has it


def configure(
    study: Study, overrides: list[str], options: list[str], project: str
) -> dict[str, Any]:
    """W&B's configuration of the sweep whose points are the runs of a study.

    `words`: what the study was narrowed and set by; `options`: of the command, as --data PATH.
    """
    levels = {**study.factors, "seed": study.seeds}
    fixed = [word for word in overrides if word.partition("=")[0] not in levels]
    command = ["${env}", "${interpreter}", "-m", "experiments", study.name, "--scale", study.scale]
    command += ["--jobs", "1", *options, *fixed]
    return {
        "name": f"{study.name}-{study.scale}",
        "description": f"{' x '.join(levels)} of the study {study.name} at {study.scale}",
        "project": project,
        "method": "grid",
        "metric": METRIC,
        "parameters": {name: {"values": values} for name, values in levels.items()},
        "command": [*command, "${args_no_hyphens}"],
    }


def to_yaml(config: dict[str, Any]) -> str:
    return yaml.safe_dump(config, sort_keys=False, width=100)
