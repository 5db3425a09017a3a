"""The tables against numbers worked out by hand, and the sentences against the numbers."""

import dataclasses
import io
import math
import re

import numpy as np
import pandas as pd
import pytest
from conftest import with_values

from reports import findings, records, tables

ARMS = {"norm": ["none", "batch"], "head": ["conv"], "batch": [128]}
GRID = {"norm": ["none", "batch"], "head": ["conv", "avgpool"], "batch": [128, 512]}
TINY = {"resolution": 16, "points": 2}


def row(table, **wanted):
    """The one row of a table with these values."""
    chosen = np.logical_and.reduce([table[key] == value for key, value in wanted.items()])
    (found,) = table[chosen].to_dict("records")
    return found


def test_last_best_and_fixed_epochs_by_hand(pair):
    table = tables.fid_table(pair)

    last = row(table, at="last", norm="none")
    assert last["fd_cifar"] == 25.0
    assert last["fd_cifar_n"] == last["seeds"] == 2
    assert last["fd_cifar_sd"] == pytest.approx(math.sqrt(50), rel=1e-12)
    assert last["epochs"] == "4 4"
    best = row(table, at="best", norm="none")
    assert best["fd_cifar"] == 15.0
    assert best["epochs"] == "3 2"
    assert row(table, at="best", norm="batch")["epochs"] == "4 1"
    assert row(table, at="2", norm="batch")["fd_cifar"] == 85.0
    assert list(dict.fromkeys(table["at"])) == ["last", "best", "1", "2", "4"]
    assert table["fid"].isna().all()
    assert (table["fid_n"] == 0).all()


def test_the_best_epoch_gives_the_other_metrics_their_epoch(pair):
    frame = pair.frame
    chosen = frame[(frame["norm"] == "none") & (frame["epoch"] == np.where(frame["seed"], 2, 3))]
    best = row(tables.fid_table(pair), at="best", norm="none")
    assert best["cs_cifar"] == pytest.approx(chosen["cs_cifar"].mean(), rel=1e-12)


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (1, [1]),
        (2, [1, 2]),
        (3, [1, 3]),
        (8, [1, 2, 4, 8]),
        (20, [1, 5, 10, 20]),
        (80, [1, 20, 30, 40, 50, 80]),
    ],
)
def test_fixed_epochs(pair, epochs, expected):
    study = dataclasses.replace(pair, plan=pair.plan.assign(planned=epochs))
    assert tables.fixed_epochs(study) == expected


def test_what_a_reader_sees(pair):
    shown = {sheet.name: sheet for sheet in tables.sheets(pair)}

    assert list(shown) == [
        "last", "best", "epochs-fd_cifar", "fidelity-last", "fidelity-best", "losses", "throughput",
    ]  # fmt: skip
    assert shown["last"].columns[:8] == [
        "norm", "head", "batch", "seeds", "fd_cifar", "cs_cifar", "kd_cifar", "FID",
    ]  # fmt: skip
    assert shown["last"].rows[0][:5] == ["none", "conv", "128", "2", "25.0 ± 7.1"]
    assert [line[7] for line in shown["last"].rows] == ["not measured"] * len(pair.arms)
    assert shown["best"].rows[0][4] == "3, 2"
    assert any("optimistic" in note for note in shown["best"].notes)
    assert not any("optimistic" in note for note in shown["last"].notes)
    assert shown["epochs-fd_cifar"].rows[1][3:] == ["85.0 ± 7.1", "85.0 ± 7.1", "75.0 ± 21.2"]


def test_under_every_score_table_stand_images_that_no_training_made(
    make_study, calibrate_study, tmp_path
):
    folder = make_study(tmp_path, seeds=(0, 1), factors=ARMS, epochs=4, **TINY)
    plain = {sheet.name: sheet for sheet in tables.sheets(records.load(folder))}
    calibrate_study(folder, held_out={"kd_cifar": 2e-4, "cs_cifar": None})
    study = records.load(folder)
    shown = {sheet.name: sheet for sheet in tables.sheets(study)}
    words = list(tables.CALIBRATION.values())

    scores = {"last", "best", "epochs-fd_cifar", "fidelity-last", "fidelity-best"}
    assert {name for name, sheet in shown.items() if sheet.apart} == scores
    for name in scores:
        sheet = shown[name]
        assert sheet.rows[:-5] == plain[name].rows
        assert [line[0] for line in sheet.rows[-5:]] == words
        assert {len(line) for line in sheet.rows} == {len(sheet.columns)}
        assert len(sheet.notes) == len(plain[name].notes) + 1
        assert "2,000 images each that no training made: real ones (of the test split)" in str(
            sheet.notes
        )
    held = shown["last"].rows[-5]
    assert held == ["real held-out images", "", "", "", "0.4", "–", "0.00020", "–"]
    assert shown["last"].rows[-1][4:7] == ["94.4", "0.94", "0.944"]
    assert shown["epochs-fd_cifar"].rows[-4][3:] == ["40.6"] * 3
    assert [tables.name_span(shown["best"], i) for i in (0, 1, 2, 6)] == [1, 1, 5, 5]

    latex = tables.to_latex(shown["last"])
    assert r"\multicolumn{4}{l}{real images at 8$\times$8} & 57.0 &" in latex
    assert latex.count(r"\midrule") == tables.to_latex(plain["last"]).count(r"\midrule") + 1
    assert "| untrained generator |  |  |  | 94.4 |" in tables.to_markdown(shown["last"])


def test_the_note_of_a_calibration_says_where_its_real_images_come_from(pair):
    about = {"held_out": "second half", "held_out_images": 300, "held_out_seen": 0, "images": 400}
    known = pd.DataFrame({"fd_cifar": [1.0]}, ["held-out"])

    def note(**changed):
        known.attrs = about | changed
        (text,) = tables.calibration_notes(dataclasses.replace(pair, calibration=known), [["x"]])
        return text

    assert "400 images each" in note()
    assert "real ones (300 of the second half of the data set);" in note()
    assert "data set, 300 of them known to the runs);" in note(held_out_seen=300)
    assert "real ones (of the second half" in note(held_out_images=400)
    assert "class" not in note()
    assert tables.calibration_notes(pair, []) == []


def test_one_seed_has_no_standard_deviation(make_study, tmp_path):
    study = records.load(
        make_study(tmp_path, factors=ARMS, epochs=1, inception="milestone", **TINY)
    )
    table = tables.fid_table(study)
    sheet = tables.sheets(study)[0]

    assert table["fd_cifar_sd"].isna().all()
    assert (table["fd_cifar_n"] == 1).all()
    assert not any("±" in cell for line in sheet.rows for cell in line[4:])
    assert "not measured" not in str(sheet.rows)
    assert not any("not measured" in line for line in tables.caption(study))


def test_fid_at_milestones_alone(make_study, tmp_path):
    study = records.load(
        make_study(tmp_path, factors=ARMS, epochs=3, inception="milestone", **TINY)
    )
    shown = {sheet.name: sheet for sheet in tables.sheets(study)}
    table = tables.fid_table(study)

    assert "epochs-fid" in shown
    assert row(table, at="last", norm="none")["fid_n"] == 0
    first = row(table, at="1", norm="none")
    assert first["fid"] == pytest.approx(3 * first["fd_cifar"], rel=1e-12)
    assert first["fid_n"] == 1


def test_diverged_unfinished_and_missing_are_told_apart(make_study, tmp_path):
    none, batch = (f"norm={norm},head=conv,batch=128/seed=" for norm in ("none", "batch"))
    study = records.load(
        make_study(
            tmp_path,
            seeds=(0, 1, 2),
            factors=ARMS | {"batch": [128, 512]},
            epochs=3,
            diverged={f"{none}0": 2, f"{batch}0": 1, f"{batch}1": 1, f"{batch}2": 1},
            committed={f"{none}1": 1, f"{batch}0": 2}
            | {f"norm=none,head=conv,batch=512/seed={seed}": 0 for seed in range(3)},
            **TINY,
        )
    )
    table = tables.fid_table(study)
    shown = {sheet.name: sheet for sheet in tables.sheets(study)}

    # One of two finite; nothing yet; all diverged, one of them before its last epoch.
    cells = {tuple(line[:3]): line[4] for line in shown["last"].rows}
    assert re.fullmatch(r"\d+\.\d \(1 of 2\)", cells["none", "conv", "128"])
    assert cells["none", "conv", "512"] == "not yet"
    assert cells["batch", "conv", "128"] == "diverged"
    assert row(table, at="last", norm="batch", batch=128)["seeds"] == 3
    assert row(table, at="last", norm="batch", batch=128)["diverged"] == 3
    assert row(table, at="best", norm="none", batch=128)["seeds"] == 3

    # Every run that is not finished is named, in the captions too.
    lines = tables.missing_lines(study)
    assert lines == [
        "Missing: norm=none,head=conv,batch=128, seed 1: unfinished, 1 of 3 epochs.",
        "Missing: norm=none,head=conv,batch=512, seeds 0 to 2: not begun.",
        "Missing: norm=batch,head=conv,batch=128, seed 0: diverged, 2 of 3 epochs.",
    ]
    assert set(lines) <= set(tables.caption(study))
    assert any("4 of 12 runs diverged" in sentence for sentence in findings.findings(study).all)


def test_the_caption_spells_out_identity_data_code_and_hardware(study_folder):
    text = "\n".join(tables.caption(records.load(study_folder)))
    for words in (
        "shapes, images drawn by the code itself, not photographs",
        "8 arms, 1 seed (0), 8 epochs; 8 of 8 runs finished",
        "fd_cifar, cs_cifar, kd_cifar",
        "cifar10-resnet (SHA-256 ",
        "2,000 generated against 10,000 real images (train split",
        "round to nearest uint8",
        "BatchNorm of G: running",
        "eval.metrics 2",
        "FID, IS, KID: not measured",
        "commit abc1234",
        "Example CPU @ 2.00GHz",
        "torch 2.15.0",
    ):
        assert words in text


def test_machines_that_differ_are_named(pair):
    machines = [{"torch": "2.15.0", "threads": 1}, {"torch": "2.15.0", "threads": 2}]
    lines = tables.caption(dataclasses.replace(pair, machines=machines))
    assert lines[-1] == "The runs were not all made alike (threads: 1 or 2)."


def test_losses_by_hand(pair):
    study = with_values(
        with_values(
            pair, "d_loss", {("batch", 0): [0.9, 0.8, 0.7, 0.72], ("batch", 1): [0.76] * 4}
        ),
        "d_loss_min",
        {("batch", 0): [0.71, 0.7, 0.699, 0.7], ("batch", 1): [0.6945, 0.72, 0.72, 0.72]},
    )
    table = tables.losses_table(study)

    assert row(table, norm="batch")["d_loss"] == pytest.approx(0.74, rel=1e-12)
    assert row(table, norm="batch")["lowest"] == 0.6945
    assert row(table, norm="batch")["bound"] == math.log(2)
    assert math.isnan(row(table, norm="none")["bound"])
    cells = {sheet.name: sheet for sheet in tables.sheets(study)}["losses"].rows
    assert cells[1][-2:] == ["0.6945", "0.6931"]
    assert cells[0][-1] == "–"


def test_throughput_by_hand(make_study, tmp_path):
    factors = GRID | {"norm": ["none"], "batch": [128]}
    study = records.load(make_study(tmp_path, seeds=(0, 1), factors=factors, epochs=3, **TINY))
    speeds = {
        ("conv", 0): [100.0, 200.0, 900.0],
        ("conv", 1): [300.0, 400.0, 350.0],
        ("avgpool", 0): [400.0, 400.0, 1.0],
        ("avgpool", 1): [175.0, 175.0, 175.0],
    }
    frame = study.frame.copy()
    for (head, seed), numbers in speeds.items():
        here = (frame["head"] == head) & (frame["seed"] == seed)
        frame.loc[here, "images_per_second"] = numbers
    (found,) = tables.throughput_table(dataclasses.replace(study, frame=frame)).to_dict("records")

    assert found["conv"] == 275.0
    assert found["avgpool"] == 287.5
    assert found["pairs"] == 2
    assert (found["ratio_lowest"], found["ratio_highest"]) == (0.5, 2.0)
    assert found["ratio"] == pytest.approx(1.0, rel=1e-12)


def test_a_study_without_an_epoch(make_study, tmp_path):
    committed = {f"norm={norm},head=conv,batch=128/seed=0": 0 for norm in ("none", "batch")}
    study = records.load(make_study(tmp_path, factors=ARMS, committed=committed, **TINY))
    said = findings.findings(study).all
    assert said == ["No epoch with a finite fd_cifar has been committed yet."]
    assert tables.sheets(study)[0].rows[0][3:5] == ["0", "not measured"]
    assert tables.sheets(study)[0].columns[-1] == "FID"


def test_markdown_is_one_table_of_equal_rows(pair):
    sheet = tables.sheets(pair)[0]
    lines = tables.to_markdown(sheet, ["a | b * c"]).splitlines()

    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + 2
    assert {line.count("|") for line in rows} == {len(sheet.columns) + 1}
    assert r"a \| b \* c" in lines


def test_latex_is_balanced_and_escaped(pair):
    awkward = r"50 % of a_b & c # $ ~ ^ \ {x} <y> 32×32 ± –"
    text = tables.to_latex(tables.sheets(pair)[0], [awkward])

    begun, ended = (re.findall(rf"\\{word}{{(\w+)}}", text) for word in ("begin", "end"))
    assert begun == ["table", "tabular"]
    assert ended == begun[::-1]
    assert all(text.count(rf"\{rule}") == 1 for rule in ("toprule", "midrule", "bottomrule"))
    bare = re.sub(r"\\[_%&#${}]", "", text)  # without what is escaped
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert not re.search(r"[%#~^<>]", bare)
    assert "_" not in re.sub(r"\\label{[^}]*}", "", bare)
    body = bare.split(r"\toprule")[1].split(r"\bottomrule")[0]
    assert {line.count("&") for line in body.splitlines() if line.endswith(r"\\")} == {7}
    assert text.isascii()


def test_csv_keeps_six_digits(pair):
    table = tables.fid_table(pair)
    back = pd.read_csv(io.StringIO(tables.to_csv(table)))
    assert list(back.columns) == list(table.columns)
    assert np.allclose(back["kd_cifar"], table["kd_cifar"], rtol=1e-5, atol=0)
    assert "7.07107" in tables.to_csv(table)
    assert "7.071067" not in tables.to_csv(table)
