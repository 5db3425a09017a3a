"""Faults, one module each: the rows of the table of promises that `tests/chaos.py` prints."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random


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

    def make(self, folder: Path) -> None:
        """Make trials until `fast` cases are tested, in ten times as many trials at most."""
        rng, cases = Random(self.trial.__name__), 0
        for number in range(10 * self.fast):
            (folder / str(number)).mkdir()
            cases += self.trial(rng, folder / str(number))
            if cases >= self.fast:
                return
        raise AssertionError(f"{cases} of {self.fast} cases")

    @property
    def title(self) -> tuple[str, str]:
        """The fault, and the promise."""
        first = " ".join(inspect.getdoc(self.trial).partition("\n\n")[0].split())
        fault, _, promise = first.removesuffix(".").partition(": ")
        return fault, promise
