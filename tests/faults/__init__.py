"""Faults, one module each: the rows of the table of promises that `tests/chaos.py` prints."""

import atexit
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

TESTS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Row:
    """A trial, whose docstring begins with the fault and the promise that it tests.

    A trial works in an empty folder, returns how many cases it tested, and raises AssertionError
    where the promise is broken. `fast` and `long` are the cases to reach in `make test` and in
    `make chaos`.
    """

    trial: Callable[[Random, Path], int]
    fast: int
    long: int

    @property
    def title(self) -> tuple[str, str]:
        """The fault, and the promise."""
        first = " ".join(inspect.getdoc(self.trial).partition("\n\n")[0].split())
        fault, _, promise = first.removesuffix(".").partition(": ")
        return fault, promise


def serve(module: str, environ: dict[str, str], **options: Any) -> subprocess.Popen:
    """A module that answers requests, as a process which ends with this one."""
    places = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        **options,
    )
    atexit.register(process.kill)
    return process


def request(process: subprocess.Popen, **content: Any) -> dict[str, Any]:
    """One request to such a process, and its answer."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(json.dumps(content) + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())
