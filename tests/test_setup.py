"""The environment: the lock, the files that name it, and `make setup` itself, without network."""

import os
import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, write_files
from faults.packages import installed, make, setup, write_checkout, write_lock
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
PLATFORMS = [("linux", "Linux", "x86_64"), ("darwin", "Darwin", "arm64")]


def locked():
    """Each requirement of the lock with its hashes."""
    entries = re.split(r"\n(?=\S)", LOCK.replace("\\\n", "").strip())
    words = [entry.split(" --hash=") for entry in entries]
    return [(Requirement(name), [h.strip() for h in hashes]) for name, *hashes in words]


def declared():
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(text) for text in sum(extras, PROJECT["dependencies"])]


def test_every_requirement_is_pinned_and_hashed():
    assert len(locked()) > 50
    for requirement, hashes in locked():
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", text) for text in hashes), requirement


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: platform[0])
def test_the_lock_holds_what_pyproject_asks_for(python, platform):
    names = ("sys_platform", "platform_system", "platform_machine")
    environment = dict(zip(names, platform, strict=True))
    environment |= {"python_version": python, "python_full_version": f"{python}.0"}

    # Of the entries for this machine there is one for each name.
    entries = [r for r, _ in locked() if not r.marker or r.marker.evaluate(environment)]
    versions = {canonicalize_name(r.name): Version(str(r.specifier)[2:]) for r in entries}
    assert len(versions) == len(entries)

    for requirement in declared():
        version = versions.get(canonicalize_name(requirement.name))
        assert version, f"{requirement} is not in the lock: make lock"
        assert requirement.specifier.contains(version, prereleases=True), requirement


def test_conda_installs_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *packages, pip = environment["dependencies"]
    assert pip == {"pip": ["-r requirements.lock"]}
    assert "pip" in packages

    # Its Pythons are those that the project allows and the lock was made for.
    python = SpecifierSet(next(p for p in packages if p.startswith("python>"))[len("python") :])
    assert PROJECT["requires-python"] in map(str, python)
    assert all(version in python for version in PYTHONS)


def test_help_is_the_default_and_lists_every_target():
    targets = re.search(r"^\.PHONY: (.*) build$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    result = make(ROOT)
    assert result.returncode == 0
    assert re.findall(r"^  make ([\w-]+) +\S", result.stdout, re.MULTILINE) == targets[1].split()
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_variables_become_options():
    words = ["SCALE=small", "SEEDS=8", "DATA=it's, a file.zip", "OUT=x", "ARGS=head=avgpool"]
    command = make(ROOT, "--dry-run", "ablation", *words).stdout.splitlines()[-1]
    assert shlex.split(command.split("experiments ")[1]) == [
        *("ablation", "--scale", "small", "--seeds", "8", "--data", "it's, a file.zip"),
        *("--out", "x", "head=avgpool"),
    ]


def test_a_variable_that_nothing_reads_is_refused():
    result = make(ROOT, "--dry-run", "ablation", "SEED=3")
    assert (result.returncode, result.stdout) == (2, "")
    assert "SEED= is not one of SCALE SEEDS EPOCHS" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", [["banks"], ["audit"], ["audit", "RUNDIR=runs/x"]])
def test_a_target_that_is_gone_says_what_took_its_place(words):
    result = make(ROOT, *words)
    assert (result.returncode, result.stdout) == (2, "")
    assert "make resample" in result.stderr.splitlines()[0]


def write_script(path, text):
    write_files(path.parent, {path.name: f"#!/bin/sh\n{text}\n".encode()})
    path.chmod(0o755)
    return path


def test_out_may_have_a_space(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    write_script(tmp_path / ".venv/bin/python", 'printf "<%s>" "$@"')
    for folder in (tmp_path, tmp_path / ".venv"):
        shutil.copy(ROOT / "requirements.lock", folder)
    result = make(tmp_path, "report", "OUT=my runs")
    assert (result.returncode, result.stdout) == (2, "")
    assert "there is no study in my runs" in result.stderr
    write_files(tmp_path / "my runs", {"a/study.json": b"", "b c/study.json": b""})
    shown = make(tmp_path, "report", "OUT=my runs").stdout
    assert shown == "".join(f"<-m><reports><--from><my runs/{name}>" for name in ("a", "b c"))


@pytest.mark.parametrize("index", ["", "http://127.0.0.1/a"])
def test_the_index_is_pips_own(tmp_path, index):
    setting = f"index-url = {index}" if index else "user = true"
    (tmp_path / "pip.conf").write_text(f"[global]\n{setting}\n")
    environment = {"PIP_CONFIG_FILE": str(tmp_path / "pip.conf")}
    result = make(ROOT, "--eval", "index: ; @$(INDEX)", "index", **environment)
    assert result.stdout.strip() == index


@pytest.mark.parametrize(
    ("target", "script", "message"),
    [
        ("ablation", "exit 1", "is not Python 3.11 or newer"),
        ("setup", f'case "$2" in *venv*) exit 1; esac\nexec {sys.executable} "$@"', "has no venv"),
    ],
)
def test_a_python_that_will_not_do_is_named_and_nothing_is_created(
    tmp_path, target, script, message
):
    python = write_script(tmp_path / "python", script)
    assert_refused(tmp_path, target, f"{python} {message}", PYTHON=str(python))


def test_a_full_disk_is_named_and_nothing_is_created(tmp_path):
    message = r"[\d.]+ GB of disk are free, 9999999 are needed"
    assert_refused(tmp_path, "setup", message, PYTHON=sys.executable, SETUP_GB="9999999")


def assert_refused(folder, target, message, **variables):
    checkout = folder / "checkout"
    checkout.mkdir()
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(ROOT / name, checkout)
    result = make(checkout, target, *(f"{k}={v}" for k, v in variables.items()))

    # One line says what is missing; the other one is make's own.
    line, _ = result.stderr.splitlines()
    assert re.match(f"make setup: {message}.*; ", line), line
    assert (result.returncode, result.stdout) == (2, "")
    assert sorted(os.listdir(checkout)) == ["Makefile", "requirements.lock"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A checkout whose set-up broke off, after the next one."""
    folder = tmp_path_factory.mktemp("checkout")
    write_checkout(folder)
    result = setup(folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def checkout(finished, tmp_path):
    """A copy of it, which a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "checkout", symlinks=True))


def test_an_interrupted_setup_is_made_anew(finished):
    assert installed(finished) == {"uv": "1.0", "pebble": "1.0"}
    assert not (finished / ".venv/lib/half.py").exists()


def test_setup_follows_the_lock(checkout):
    write_lock(checkout, uv="1.0", pebble="2.0")
    assert setup(checkout).returncode == 0
    assert installed(checkout) == {"uv": "1.0", "pebble": "2.0"}
    assert len(setup(checkout).stdout.splitlines()) == 1
