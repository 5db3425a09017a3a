"""Train a study, build its report, sample and analyse its networks.

    dcgan-study ablation --scale small --seeds 8
    dcgan-study status
    dcgan-study report --from runs/ablation-small
    dcgan-study sample batch=128 -n 64 --grid samples.png
    dcgan-study eval walks runs/ablation-small

`pip install` installs this command, which stands for `python -m`: `report` for `python -m
reports`, `eval` for `python -m eval`, `sample` and `prepare` for commands of `python -m dcgan`, and
all others for those of `python -m experiments`.

Each command has its own --help.
"""

import os
import sys

# Commands that are not of `experiments` -> what follows `python -m`.
OTHERS = {
    "eval": ("eval",),
    "prepare": ("dcgan", "prepare"),
    "report": ("reports",),
    "sample": ("dcgan", "sample"),
}


def main() -> None:
    """Become the `python -m` that a command stands for: it sets itself up before its imports."""
    command, *words = sys.argv[1:] or ["--help"]
    if command == "--help":
        show_help()
        return

    # The packages are the installed ones, not folders of their names in the working directory.
    os.environ["PYTHONSAFEPATH"] = "1"
    module = OTHERS.get(command, ("experiments", command))
    os.execv(sys.executable, [sys.executable, "-m", *module, *words])


def show_help() -> None:
    """Print the commands of all packages."""
    from dcgan import cli
    from dcgan.__main__ import dcgan_group
    from eval.__main__ import eval_group
    from experiments.__main__ import experiments_group
    from reports.__main__ import report

    group = cli.Group("dcgan-study", __doc__)
    group.commands = experiments_group.commands | dcgan_group.commands
    group.commands |= {"eval": eval_group, "report": report}
    group.main(["--help"], "dcgan-study", standalone_mode=False)
