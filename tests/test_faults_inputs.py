"""Bad input of every kind; `make chaos` makes more cases."""

from pathlib import Path

import pytest
from faults import Row, inputs


@pytest.mark.parametrize("row", inputs.ROWS, ids=lambda row: row.trial.__name__)
def test_a_promise_holds(row: Row, tmp_path: Path) -> None:
    row.make(tmp_path)
