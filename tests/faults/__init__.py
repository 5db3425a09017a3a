"""Faults, one module each: the rows of the table of promises that `tests/chaos.py` prints."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random


@dataclass(frozen=True)
class Row:
    """One promise and the trial that tests it.

    A trial works in an empty folder, returns how many cases it tested, and raises AssertionError
    where the promise is broken. `fast` and `long` are the cases to reach in `make test` and in
    `make chaos`.
    """

    name: str
    promise: str
    trial: Callable[[Random, Path], int]
    fast: int
    long: int
