"""The shape of the code: which module may know which, read from the sources."""

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = ("dcgan", "eval", "experiments", "reports")
NOT_OURS = {"build", "data", "dist", "out", "runs", "wandb"}

# What a module may import of ours; the longest name that fits it counts.
MAY_IMPORT = {
    "dcgan": "dcgan",
    "dcgan.cli": "",
    "dcgan.config": "",
    "dcgan.layers": "dcgan.config",
    "dcgan.rundir": "dcgan.cli dcgan.config",
    "eval": "dcgan eval",
    "experiments": "dcgan eval experiments",
    "experiments.archive": "dcgan.cli dcgan.config dcgan.rundir experiments.grid",
    "experiments.grid": "dcgan.cli dcgan.config",
    "experiments.progress": "dcgan.cli experiments.grid",
    "experiments.reproduce": "dcgan experiments.grid experiments.signals",
    "experiments.status": "dcgan.cli dcgan.rundir eval.metrics experiments.grid",
    "experiments.tracking": "dcgan.cli dcgan.config dcgan.rundir eval.metrics experiments.grid",
    "reports": "dcgan.cli dcgan.config dcgan.layers dcgan.rundir eval.metrics experiments.grid "
    "reports",
    "reports.from_wandb": "dcgan.cli dcgan.rundir experiments.grid experiments.tracking reports",
}

# What reads records works without PyTorch, and so on any laptop in seconds.
WITHOUT_TORCH = (
    *("dcgan.cli", "dcgan.config", "dcgan.layers", "dcgan.rundir", "eval.metrics", "reports"),
    *("experiments.grid", "experiments.reproduce", "experiments.status"),
)


def within(name, prefixes):
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def modules():
    """Every module of the four packages by its dotted name."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return {name.removesuffix(".__init__"): path for name, path in zip(names, paths, strict=True)}


MODULES = modules()
COMMAND = ROOT / "dcgan_study.py"  # the installed command, which knows all four
CODE = [COMMAND, *MODULES.values(), *sorted((ROOT / "tests").rglob("*.py"))]
OF_TESTS = ("conftest", "faults")  # what tests import of each other


@cache
def imports(path):
    """What a file imports, wherever in the file: `from a import b` gives both a and a.b."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} is a relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def project_files():
    """Every file of the project, and none that a tool or a study has made."""
    for path in sorted(ROOT.iterdir()):
        hidden = path.name.startswith(".") and path.name not in (".ci", ".gitignore")
        if not hidden and path.name not in NOT_OURS:
            yield from [path] if path.is_file() else path.rglob("*.*")
    yield from (path for path in (ROOT / ".ci").iterdir() if not path.suffix)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    rule = max((name for name in MAY_IMPORT if within(module, (name,))), key=len)
    ours = {name for name in imports(MODULES[module]) if within(name, PACKAGES)}

    # `from experiments import grid` is an import of experiments.grid, not of all experiments.
    for name in ours - {name.partition(".")[0] for name in ours if "." in name}:
        assert within(name, MAY_IMPORT[rule].split()), f"{module} imports {name}"


def test_no_module_imports_one_that_imports_it():
    ours = {name: imports(path) & MODULES.keys() - {name} for name, path in MODULES.items()}
    assert len([*TopologicalSorter(ours).static_order()]) == len(MODULES)  # or CycleError


def test_what_reads_records_never_loads_torch():
    light = [name for name in MODULES if within(name, WITHOUT_TORCH)]
    assert len(light) > len(WITHOUT_TORCH)
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
    code += "print(sorted(name for name in sys.modules if name.startswith('torch')))"
    command = [sys.executable, "-c", code, *light]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_eval_stays_the_builtin():
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(within(name, ("eval",)) for name in names), f"{path}:{node.lineno}"


def test_every_imported_library_is_declared():
    project = PYPROJECT["project"]
    run = {canonicalize_name(Requirement(text).name) for text in project["dependencies"]}
    extras = {
        extra: {canonicalize_name(Requirement(text).name) for text in texts}
        for extra, texts in project["optional-dependencies"].items()
    }
    dev = extras.pop("dev")
    run = run.union(*extras.values())
    providers = packages_distributions()
    files = [(path, run) for path in [COMMAND, *MODULES.values()]]
    files += [(path, run | dev) for path in (ROOT / "tests").rglob("*.py")]
    for path, declared in files:
        roots = {name.partition(".")[0] for name in imports(path)}
        for root in roots - sys.stdlib_module_names - {COMMAND.stem, *PACKAGES, *OF_TESTS}:
            result = {canonicalize_name(name) for name in providers.get(root, [])}
            assert result & declared, f"{path.name} imports {root}, which pyproject does not name"


def test_names_say_what_a_file_is_about():
    names = {path.name for path in project_files()}
    assert not names & {"utils.py", "util.py", "helpers.py", "base.py", "common.py", "misc.py"}

    # A top-level package `tests` comes with torch-fidelity: ours must not be one.
    assert not (ROOT / "tests/__init__.py").exists()


def test_no_file_names_a_place_of_one_machine():
    machine = r"/(work|root)/"
    registry = r"\b(pypi|pythonhosted|npmjs|debian|anaconda)\.(org|com|net)\b|download\.pytorch"
    for path in project_files():
        text = path.read_bytes() if path.is_file() else b""
        result = re.search(rf"{machine}|{registry}".encode(), text)
        assert not result or b"\0" in text, f"{path.relative_to(ROOT)} names {result[0].decode()}"
