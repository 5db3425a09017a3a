"""Set-up from a lock, on packages made here, without network."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from conftest import ROOT, capture


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make as a user would: nothing of this process' make or environment reaches it."""
    unwanted = re.compile("MAKE|MFLAGS|PIP_|UV_|OUT|STUDY")
    environ = {key: value for key, value in os.environ.items() if not unwanted.match(key)}
    environ |= {"PIP_CONFIG_FILE": os.devnull} | environment
    return capture(["make", *arguments], cwd=folder, env=environ, stdin=subprocess.DEVNULL)


def setup(checkout: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """`make setup` with the wheels of a checkout in the place of a registry."""
    wheels = str(checkout / "wheels")
    environment = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels, "PIP_NO_CACHE_DIR": "1"}
    environment |= {"UV_NO_INDEX": "1", "UV_FIND_LINKS": wheels, "UV_NO_CACHE": "1"}
    variables = {"PYTHON": sys.executable, "SETUP_GB": "0"} | variables
    return make(checkout, "setup", *(f"{k}={v}" for k, v in variables.items()), **environment)


def installed(checkout: Path) -> dict[str, str]:
    """The versions of uv and of pebble in the environment of a checkout."""
    folders = checkout.glob(".venv/lib/*/site-packages/*.dist-info")
    result = dict(folder.stem.split("-") for folder in folders)
    return {name: result[name] for name in result.keys() & {"uv", "pebble"}}


def write_checkout(folder: Path) -> None:
    """A checkout whose set-up broke off. Its lock asks for a pebble and a uv, which is this one."""
    from uv import find_uv_bin

    shutil.copy(ROOT / "Makefile", folder)
    write_wheel(folder, "uv", "1.0", f'#!/bin/sh\nexec "{find_uv_bin()}" "$@"\n')
    write_wheel(folder, "pebble", "1.0")
    write_wheel(folder, "pebble", "2.0")
    write_lock(folder, uv="1.0", pebble="1.0")
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/python").symlink_to("gone")
    (folder / ".venv/lib/half.py").mkdir(parents=True)


def write_wheel(checkout: Path, name: str, version: str, script: str | None = None) -> None:
    """The smallest wheel: a module, and a command of the same name if there is a script."""
    info = f"{name}-{version}.dist-info"
    tag = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {f"{name}.py": f"version = {version!r}\n"}
    files |= {f"{info}/METADATA": about, f"{info}/WHEEL": tag}
    if script:
        files[f"{name}-{version}.data/scripts/{name}"] = script
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])

    path = wheel_of(checkout, name, version)
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in files.items():
            entry = zipfile.ZipInfo(file)
            entry.external_attr = 0o100755 << 16  # a regular file, executable
            wheel.writestr(entry, text)


def wheel_of(checkout: Path, name: str, version: str) -> Path:
    return checkout / "wheels" / f"{name}-{version}-py3-none-any.whl"


def write_lock(checkout: Path, **versions: str) -> None:
    lines = []
    for name, version in versions.items():
        digest = hashlib.sha256(wheel_of(checkout, name, version).read_bytes()).hexdigest()
        lines.append(f"{name}=={version} \\\n    --hash=sha256:{digest}\n")
    (checkout / "requirements.lock").write_text("".join(lines))
