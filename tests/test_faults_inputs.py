"""Bad input of every kind; `make chaos` makes more cases."""

from pathlib import Path
from random import Random

import pytest
from faults import Row, inputs


@pytest.mark.parametrize("row", inputs.ROWS, ids=lambda row: row.trial.__name__)
def test_a_promise_holds(row: Row, tmp_path: Path) -> None:
    rng, done, trials = Random(0), 0, 0
    while done < row.fast:
        (folder := tmp_path / str(trials)).mkdir()
        done, trials = done + row.trial(rng, folder), trials + 1
    assert done >= row.fast
