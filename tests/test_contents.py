"""Every table of a report and its files; and the audit of the scorer among them."""

import json

import pandas as pd
import pytest

from dcgan import rundir
from reports import audit, claims, contents, records

ARMS = {"norm": ["none", "batch"], "head": ["conv"], "batch": [128]}
TINY = {"factors": ARMS, "epochs": 2, "resolution": 16, "points": 2}
AUDIT = {
    "run": "norm=none,head=conv,batch=128/seed=0",
    "epoch": 2,
    "images": 2000,
    "answers": [["Is fd_cifar monotone in noise?", "yes"]],
    "tables": [
        {
            "name": "sizes",
            "title": "fd_cifar by the number of images",
            "columns": ["images", "fd_cifar", "kind", "gap"],
            "rows": [[200, 71.23456, "of its own", 1.5e-13], [2000, 60.0, "of its own", None]],
            "notes": ["Each row has images of its own."],
            "digits": 4,
        }
    ],
}


@pytest.fixture(scope="module")
def audited(make_study, tmp_path_factory):
    """Two arms, two seeds, two epochs, three banks, and an audit."""
    folder = make_study(tmp_path_factory.mktemp("contents"), seeds=(0, 1), banks=3, **TINY)
    (folder / "audit.json").write_text(json.dumps(AUDIT))
    return records.load(folder)


def test_every_table_once_in_reading_order(audited):
    names = [sheet.name for sheet in contents.sheets(audited, claims.judge(audited))]
    assert names == [
        "effects", "last", "best", "epochs-fd_cifar", "fidelity-last", "fidelity-best", "losses",
        "throughput", "ledger", "fluctuation", "shares", "selection", "ranks", "regret", "audit",
        "audit-sizes",
    ]  # fmt: skip


def test_every_file_is_written_and_the_same_twice(audited, tmp_path):
    verdicts = claims.judge(audited)
    sheets = contents.sheets(audited, verdicts)
    first, second = (
        contents.write(audited, verdicts, sheets, tmp_path / name) for name in ("a", "b")
    )
    assert [path.name for path in first] == [
        "tables.md", "tables.tex", "effects.csv", "fid.csv", "fidelity.csv", "losses.csv",
        "throughput.csv", "ledger.csv", "fluctuation.csv", "shares.csv", "selection.csv",
        "ranks.csv", "regret.csv", "audit-sizes.csv",
    ]  # fmt: skip
    assert [a.read_bytes() for a in first] == [b.read_bytes() for b in second]
    assert first[1].read_text().isascii()
    for path in first[2:]:
        assert len(pd.read_csv(path)) > 0
    for sheet in sheets:
        assert f"**{sheet.title}**" in first[0].read_text()
        assert rf"\label{{tab:{sheet.name}}}" in first[1].read_text()


def test_the_audit_is_rounded_and_its_words_stay(audited):
    answers, sizes = audit.sheets(audited)
    assert answers.rows == [["Is fd_cifar monotone in noise?", "yes"]]
    assert answers.notes == ["2,000 images of norm=none,head=conv,batch=128/seed=0 after epoch 2."]
    assert sizes.rows == [
        ["200", "71.23", "of its own", "1.5e-13"],
        ["2,000", "60.00", "of its own", "not measured"],
    ]
    assert sizes.words == ("kind",)
    assert audit.frames(audited)["audit-sizes"].loc[0, "fd_cifar"] == 71.23456


@pytest.mark.parametrize(
    ("cell", "text"),
    [(0.0, "0.000"), (12345.678, "12,346"), (0.0123456, "0.01235"), (-3.0, "-3.000"), (7, "7")],
)
def test_four_significant_digits(cell, text):
    assert audit.significant(cell, 4) == text


@pytest.mark.parametrize("content", ["{", "{}", '{"tables": [1], "answers": []}', "[]"])
def test_a_damaged_audit_is_one_error(make_study, tmp_path, content):
    folder = make_study(tmp_path, **TINY)
    (folder / "audit.json").write_text(content)
    with pytest.raises(rundir.Damaged, match=r"audit\.json"):
        audit.sheets(records.load(folder))
