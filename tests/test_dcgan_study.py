"""`pip install .`: what is in the wheel, and the command that it installs."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, capture

import dcgan_study
from dcgan.__main__ import dcgan_group
from eval.__main__ import eval_group
from experiments.__main__ import experiments_group

PACKAGES = ("dcgan", "eval", "experiments", "reports")


def files(folder):
    """The files of the packages in a folder."""
    paths = [path for package in PACKAGES for path in (folder / package).rglob("*")]
    return {str(x.relative_to(folder)) for x in paths if x.is_file() and x.suffix != ".pyc"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with what `pip install .` installs, of a checkout that has a published generator."""
    tmp_path = tmp_path_factory.mktemp("installed")
    checkout, target = tmp_path / "checkout", tmp_path / "target"
    skip = shutil.ignore_patterns("__pycache__", "published")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, checkout / package, ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE", "dcgan_study.py"):
        shutil.copy(ROOT / name, checkout)
    generator = checkout / "reports/published/study/generators/norm=none,seed=0.safetensors"
    generator.parent.mkdir(parents=True)
    generator.write_bytes(b"weights")
    (checkout / "reports/published/study/study.json").write_text("{}")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    pip += ["--no-build-isolation", "--no-compile", "--target", str(target), str(checkout)]
    subprocess.run(pip, check=True, cwd=tmp_path)
    return target


def test_the_wheel_has_every_file_but_published_records(installed):
    source = files(installed.parent / "checkout")
    assert source - files(installed) == {"reports/published/study/study.json"}
    assert files(installed) < source


def run(installed, *words, cwd):
    """The installed command, in a folder."""
    environ = os.environ | {"PYTHONPATH": str(installed)}
    return capture([installed / "bin/dcgan-study", *words], cwd=cwd, env=environ)


def test_the_installed_command_runs_its_own_packages(installed, tmp_path):
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('not this one')")
    shown = run(installed, cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == run(installed, "--help", cwd=tmp_path).stdout
    listed = {line.split()[0] for line in shown.stdout.split("Commands:")[1].splitlines() if line}
    assert {*experiments_group.commands, *dcgan_group.commands, "eval", "report"} <= listed

    refused = run(installed, "status", "nowhere", cwd=tmp_path)
    said = "experiments: nowhere is not a study: it has no study.json\n"
    assert (refused.returncode, refused.stdout, refused.stderr) == (2, "", said)
    unknown = run(installed, "stats", cwd=tmp_path)
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert unknown.stderr.startswith("experiments: No such command 'stats'.")


def test_every_command_stands_for_a_module(monkeypatch):
    monkeypatch.setenv("PYTHONSAFEPATH", "0")
    became = []
    monkeypatch.setattr(os, "execv", lambda path, words: became.append(words))
    groups = {"dcgan": dcgan_group, "experiments": experiments_group}
    typed = {name: f"{package} {name}" for package, x in groups.items() for name in x.commands}
    typed |= {f"eval {name}": f"eval {name}" for name in eval_group.commands}
    typed |= {"report": "reports"}
    for words, module in typed.items():
        monkeypatch.setattr(sys, "argv", ["dcgan-study", *words.split(), "--json"])
        dcgan_study.main()
        assert became.pop() == [sys.executable, "-m", *module.split(), "--json"]
    assert len(typed) > 20
    assert {*dcgan_study.OTHERS} == {*dcgan_group.commands, "eval", "report"}
    assert os.environ["PYTHONSAFEPATH"] == "1"


def test_help_needs_no_torch():
    code = "import dcgan_study, sys; dcgan_study.show_help(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
