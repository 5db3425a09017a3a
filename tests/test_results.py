"""What a tool finds in a run: written, read again, shown."""

import json
from dataclasses import replace

import pytest

from eval.results import Result, keep, stored, to_text

VALUES = {"near": 0.1234567890123, "far": 3}
TITLES = {"near": "how near", "far": "how far"}
RESULT = Result("tool", 2, VALUES, TITLES, {"images": 5}, ["A sentence."])


def test_what_is_kept_is_read_again_with_all_digits(tmp_path):
    keep(tmp_path, RESULT)
    assert stored(tmp_path, "tool") == RESULT
    assert [path.name for path in (tmp_path / "eval").iterdir()] == ["tool.json"]
    keep(tmp_path, replace(RESULT, figure=b"a picture"))
    assert (tmp_path / "eval" / "tool.png").read_bytes() == b"a picture"
    names = ["tool", "epoch", "values", "titles", "about", "notes"]
    assert list(json.loads((tmp_path / "eval" / "tool.json").read_text())) == names


def test_what_is_not_finite_is_null(tmp_path):
    values = {"near": float("nan"), "far": float("inf"), "other": None, "zero": 0.0}
    keep(tmp_path, Result("tool", 1, values, TITLES, {}, []))
    assert stored(tmp_path, "tool").values == {"near": None, "far": None, "other": None, "zero": 0}


@pytest.mark.parametrize(
    "content",
    ["", "[]", "3", "{", '{"tool": "tool"}', '{"values": {}, "titles": {}, "about": {}}'],
)
def test_what_is_damaged_is_as_if_it_were_missing(content, tmp_path):
    assert stored(tmp_path, "tool") is None
    keep(tmp_path, RESULT)
    (tmp_path / "eval" / "tool.json").write_text(content)
    assert stored(tmp_path, "tool") is None


def test_the_table_has_a_column_for_each_run_and_each_note_once(monkeypatch):
    monkeypatch.setenv("COLUMNS", "24")
    other = Result("tool", 10, {"near": None}, {"near": "how near"}, {}, ["A sentence.", "More."])
    assert to_text({"runs/a": RESULT, "b": other}).splitlines() == [
        "1  runs/a, epoch 2",
        "2  b, epoch 10",
        "",
        "run            1  2",
        "how near  0.1235  –",
        "how far        3  –",
        "",
        "A sentence.",
        "More.",
    ]
    assert "\n\nrun            3\n" in to_text({"a" * 9: RESULT, "b": RESULT, "c": RESULT})
