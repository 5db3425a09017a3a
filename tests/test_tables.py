"""What a reader sees in the tables, and how they are written."""

import dataclasses
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import tables_of

from experiments import archive
from reports import claims, findings, records, tables
from reports.analysis import analyse

ARMS = {"norm": ["none", "batch"], "head": ["conv"], "batch": [128]}
TINY = {"resolution": 16, "points": 2}
PUBLISHED = Path(__file__).resolve().parents[1] / "reports" / "published"
RUN = "norm=none,head=conv,batch=128/seed="


def test_what_a_reader_sees(pair):
    shown = tables_of(pair)
    names = "effects last best epochs-fd_cifar fidelity agreement losses"
    assert [*shown] == f"{names} fluctuation ranks regret reach layers".split()
    headings = "norm head batch seeds fd_cifar cs_cifar kd_cifar"
    assert shown["last"].headings == headings.split()
    assert shown["last"].rows[0][:5] == ["none", "conv", "128", "2", "25.0 ± 7.1"]
    assert shown["best"].rows[0][4] == "3, 2"
    assert [x for x in shown if "optimistic" in " ".join(shown[x].notes)] == ["best"]
    assert shown["epochs-fd_cifar"].rows[1][3:] == ["85.0 ± 7.1", "85.0 ± 7.1", "75.0 ± 21.2"]
    first = shown["effects"].frame.iloc[0]
    ends = (first["ratio"], first["ratio_low"], first["ratio_high"])
    assert shown["effects"].rows[0][1] == "{:.3f} ({:.3f} to {:,.3f})".format(*ends)
    for table in shown.values():
        assert all(len(line) == len(table.columns) for line in table.rows)


def test_under_every_score_table_stand_images_that_no_training_made(
    make_study, calibrate_study, tmp_path
):
    folder = make_study(tmp_path, seeds=(0, 1), factors=ARMS, epochs=4, **TINY)
    plain = tables_of(analyse(records.load(folder)))
    calibrate_study(folder, held_out={"kd_cifar": 2e-4, "cs_cifar": None})
    shown = tables_of(analyse(records.load(folder)))
    scores = {"last", "best", "epochs-fd_cifar", "fidelity"}
    assert {name for name, table in shown.items() if table.below} == scores | {"layers"}
    for name in scores:
        table = shown[name]
        assert table.rows == plain[name].rows
        assert [line[0] for line in table.below] == [*tables.CALIBRATION.values()]
        source = "real ones (2,000 of the test split, 0 of them known to the runs)"
        assert f"2,000 images each from other sources: {source}" in table.notes[-1]
    assert shown["last"].below[0] == ["real, held out", "0.400", "–", "0.000200"]
    assert shown["last"].below[-1][1:] == ["94.4", "0.944", "0.944"]
    assert shown["epochs-fd_cifar"].below[1][1:] == ["40.6"] * 3

    latex = tables.to_latex(shown["last"])
    assert r"\multicolumn{4}{l}{real, at 8$\times$8} & 57.0 &" in latex
    assert latex.count(r"\midrule") == tables.to_latex(plain["last"]).count(r"\midrule") + 1
    assert "| untrained G |  |  |  | 94.4 |" in tables.to_markdown(shown["last"])


def test_one_seed_has_no_standard_deviation(make_study, tmp_path):
    made = make_study(tmp_path, factors=ARMS, epochs=1, inception="milestone", **TINY)
    study = analyse(records.load(made))
    last = tables_of(study)["last"]
    assert last.frame["fd_cifar_sd"].isna().all()
    assert (last.frame["fd_cifar_n"] == 1).all()
    assert not any("±" in cell for line in last.rows for cell in line)
    assert last.headings[4:7] == ["FID", "IS", "KID"]
    assert "not measured" not in str(last.rows)
    assert not any("not measured" in line for line in tables.caption(study))


def test_diverged_unfinished_and_missing_are_told_apart(make_study, tmp_path):
    batch, absent = RUN.replace("none", "batch"), RUN.replace("128", "512")
    made = {"seeds": range(3), "factors": ARMS | {"batch": [128, 512]}, "epochs": 3}
    made["diverged"] = {f"{RUN}0": 2, f"{batch}0": 1, f"{batch}1": 1, f"{batch}2": 1}
    made["committed"] = {f"{absent}{seed}": 0 for seed in range(3)}
    made["committed"] |= {f"{RUN}1": 1, f"{batch}0": 2}
    study = analyse(records.load(make_study(tmp_path, **made, **TINY)))
    shown = tables_of(study)

    # One of two finite; nothing yet; all diverged, one of them before its last epoch.
    cells = {tuple(line[:3]): line[4] for line in shown["last"].rows}
    assert re.fullmatch(r"\d+\.\d \(1 of 2\)", cells["none", "conv", "128"])
    assert cells["none", "conv", "512"] == "not yet"
    assert cells["batch", "conv", "128"] == "diverged"
    counts = {at: shown[at].frame.set_index(["norm", "batch"]) for at in ("last", "best")}
    assert counts["last"].loc[("batch", 128), ["seeds", "diverged"]].to_list() == [3, 3]
    assert counts["best"].loc[("none", 128), "seeds"] == 3

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
    text = "\n".join(tables.caption(analyse(records.load(study_folder))))
    for words in (
        "shapes, images drawn by the code itself, not photographs",
        "8 arms, 1 seed (0), 8 epochs; 8 of 8 runs finished",
        *("fd_cifar, cs_cifar, kd_cifar", "cifar10-resnet (SHA-256 "),
        "2,000 generated against 10,000 real images (train split",
        *("round to nearest uint8", "BatchNorm of G: running", "eval.metrics 2"),
        *("FID, IS, KID: not measured", "commit abc1234", "Example CPU @ 2.00GHz", "torch 2.15.0"),
    ):
        assert words in text


def test_machines_that_differ_are_named(pair):
    machines = pair.machines.assign(threads=[1, 1, 1, 2])  # the last run: norm=batch, seed 1
    lines = tables.caption(dataclasses.replace(pair, machines=machines))
    assert lines[-1] == (
        "The runs were not all made alike. threads 1: seed 0, seed 1 with norm=none; "
        "threads 2: seed 1 with norm=batch."
    )
    assert not tables.machine_lines(pair)


def test_a_study_without_an_epoch(make_study, tmp_path):
    committed = {f"{run}0": 0 for run in (RUN, RUN.replace("none", "batch"))}
    made = make_study(tmp_path, factors=ARMS, committed=committed, **TINY)
    said = findings.findings(analyse(records.load(made))).all
    assert said == ["No epoch with a finite fd_cifar has been committed yet."]


@pytest.fixture(scope="module")
def measured(make_study, tmp_path_factory):
    """Two runs with numbers of an analysis, one of them missing."""
    made = {"factors": ARMS | {"norm": ["none"]}, "epochs": 2, "seeds": (0, 1)}
    folder = make_study(tmp_path_factory.mktemp("measured"), **made, **TINY)
    for seed, three in ((0, 0.5), (1, 0.7)):
        result = {"epoch": 2, "values": {"three": three, "one": None}, "notes": ["A note."]}
        path = folder / f"{RUN}{seed}" / "eval" / "walks.json"
        path.parent.mkdir()
        path.write_text(json.dumps(result | {"titles": {"three": "hits, three", "one": "one"}}))
    return analyse(records.load(folder))


def test_an_analysis_has_a_row_for_each_number(measured):
    walks = tables_of(measured)["walks"]
    assert walks.headings == ["quantity", "norm=none, head=conv, batch=128 (2 seeds)"]
    assert walks.rows == [["hits, three", "0.6000 ± 0.1414"], ["one", "–"]]
    assert walks.notes == ["Mean ± standard deviation over seeds.", "A note."]
    assert measured.results["walks/three"].to_list() == [0.5, 0.7]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.000"), (12345.678, "12,346"), (-0.99996, "-1.000"), (1.54e-13, "1.5e-13")],
)
def test_four_significant_digits(value, text):
    assert tables.significant(value, 4) == text


def test_every_table_is_written(measured, tmp_path):
    shown = tables.report(measured, claims.judge(measured))
    markdown, latex, *csv = tables.write(measured, shown, tmp_path)
    assert (markdown.name, latex.name) == ("tables.md", "tables.tex")
    assert latex.read_text().isascii()
    for path, table in zip(csv, shown, strict=True):
        assert path.name == f"{table.name}.csv"
        assert len(pd.read_csv(path)) == len(table.frame) > 0
        assert f"**{table.title}**" in markdown.read_text()
        assert rf"\label{{tab:{table.name}}}" in latex.read_text()


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex")
def test_latex_compiles_within_the_width_of_the_text(tmp_path):
    for path in PUBLISHED.glob("ablation-cpu32/seed-*.zip"):
        folder = archive.merge(path, tmp_path).study
    study = analyse(records.load(folder))
    tables.write(study, tables.report(study, claims.judge(study)), tmp_path)
    packages = rf"\usepackage[T1]{{fontenc}}\usepackage{{{','.join(tables.PACKAGES)}}}"
    text = rf"\documentclass{{article}}{packages}\begin{{document}}\input{{tables}}\end{{document}}"
    (tmp_path / "main.tex").write_text(text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    log = (tmp_path / "main.log").read_text(errors="replace")
    assert "Output written on main.pdf" in log
    assert not re.search(r"Overfull|too large", log)


def test_markdown_is_one_table_of_equal_rows(pair):
    table = dataclasses.replace(tables_of(pair)["last"], notes=["a | b * c"], below=[["x", "1"]])
    lines = tables.to_markdown(table).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + 2 + 1
    assert {line.count("|") for line in rows} == {len(table.columns) + 1}
    assert r"a \| b \* c" in lines


def test_latex_is_balanced_and_escaped(pair):
    awkward = r"50 % of a_b & c # $ ~ ^ \ {x} <y> 32×32 ± –"
    last = tables_of(pair)["last"]
    text = tables.to_latex(last, [awkward])
    begun, ended = (re.findall(rf"\\{word}{{(\w+)}}", text) for word in ("begin", "end"))
    assert begun == ended == ["longtable"]
    assert all(text.count(rf"\{rule}") == 1 for rule in ("toprule", "midrule", "bottomrule"))
    bare = re.sub(r"\\[_%&#${}]|>(?={\\ragged)", "", text)  # without what is escaped, and columns
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert not re.search(r"[%#~^<>]", bare)
    assert "_" not in re.sub(r"\\label{[^}]*}", "", bare)
    body = bare.split(r"\toprule")[1].split(r"\bottomrule")[0]
    cells = {line.count("&") for line in body.splitlines() if line.endswith(r"\\")}
    assert cells == {len(last.columns) - 1}
    assert text.isascii()


def test_csv_keeps_six_digits(pair, tmp_path):
    last = tables_of(pair)["last"]
    frame = last.frame
    tables.write(pair, [last], tmp_path)
    text = (tmp_path / "last.csv").read_text()
    back = pd.read_csv(io.StringIO(text))
    assert list(back.columns) == list(frame.columns)
    assert np.allclose(back["kd_cifar"], frame["kd_cifar"], rtol=1e-5, atol=0)
    assert ("7.07107" in text, "7.071067" in text) == (True, False)
