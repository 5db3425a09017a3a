"""What an analysis measured in a run: written, read again, shown."""

import json
from dataclasses import replace

from eval.results import Result, stored, to_text, write

TITLES = {"near": "how near", "far": "how far"}
RESULT = Result({"near": 0.1234567890123, "far": 3}, TITLES, {"images": 5}, ["A sentence."])


def test_what_is_written_is_read_again_with_all_digits_or_null(tmp_path):
    assert stored(tmp_path, "near", 2) is None
    content = write(tmp_path, "near", 2, RESULT)
    assert stored(tmp_path, "near", 2) == content
    assert (content["tool"], content["values"]) == ("near", RESULT.values)
    assert stored(tmp_path, "near", 1) is None  # of another epoch
    assert [path.name for path in (tmp_path / "eval").iterdir()] == ["near.json"]
    write(tmp_path, "near", 2, replace(RESULT, picture=b"a picture"))
    assert (tmp_path / "eval" / "near.png").read_bytes() == b"a picture"
    values = {"near": float("nan"), "far": float("inf"), "other": None, "zero": 0.0}
    content = write(tmp_path, "near", 2, replace(RESULT, values=values))
    assert stored(tmp_path, "near", 2) == content
    assert content["values"] == {"near": None, "far": None, "other": None, "zero": 0}

    # What is damaged is no result.
    path = tmp_path / "eval" / "near.json"
    whole = path.read_bytes()
    assert list(json.loads(whole)) == ["tool", "epoch", "values", "titles", "about", "notes"]
    for damaged in (b"", whole[:-5]):
        path.write_bytes(damaged)
        assert stored(tmp_path, "near", 2) is None


def test_the_table_has_a_column_for_each_run_and_each_note_once(monkeypatch):
    monkeypatch.setenv("COLUMNS", "24")
    first = {"epoch": 2, **vars(RESULT)}
    other = first | {"epoch": 10, "values": {"near": None}, "notes": ["A sentence.", "B."]}
    assert to_text({"runs/a": first, "b": other}).splitlines() == [
        "1  runs/a, epoch 2",
        "2  b, epoch 10",
        "",
        "run            1  2",
        "how near  0.1235  –",
        "how far        3  –",
        "",
        "A sentence.",
        "B.",
    ]
    assert "\n\nrun            3\n" in to_text({"a" * 9: first, "b": first, "c": first})
