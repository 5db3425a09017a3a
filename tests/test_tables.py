"""What a reader sees in the tables, and how they are written."""

import dataclasses
import json
import re
import shutil
import subprocess

import pytest
from conftest import tables_of

from dcgan import rundir
from experiments import archive
from reports import claims, findings, records, tables
from reports.analysis import analyse

ARMS = {"norm": ["none", "batch"], "head": ["conv"], "batch": [128]}
TINY = {"resolution": 16, "points": 2}
RUN = "norm=none,head=conv,batch=128/seed="


def test_what_a_reader_sees(pair):
    shown = tables_of(pair)
    names = "effects last best epochs-fd_cifar fidelity agreement losses"
    assert [*shown] == f"{names} fluctuation ranks regret reach layers".split()
    headings = ["output norm", "head", "batch size", "seeds", "fd_cifar", "cs_cifar", "kd_cifar"]
    assert shown["last"].headings == headings
    assert shown["last"].rows[0][:5] == ["none", "conv", "128", "2", "25.0 ± 7.1"]
    assert shown["best"].rows[0][4] == "3, 2"
    assert [x for x in shown if "score is too good" in " ".join(shown[x].notes)] == ["best"]
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
        assert table.notes[-1].startswith("The last 5 rows")
    source = "real ones (2,000 of the test split, of which runs were trained on 0)"
    assert f"2,000 images each from other sources: {source}" in shown["last"].notes[-1]
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


def test_the_caption_says_that_images_are_made_up_and_what_was_not_measured(make_study, tmp_path):
    data, study, *_, identity, absent, code = tables.caption(
        analyse(records.load(make_study(tmp_path)))
    )
    assert "shapes, images drawn by the code itself, not photographs" in data
    assert "8 arms, 1 seed (0), 8 epochs; 8 of 8 runs finished" in study
    assert identity.startswith("fd_cifar, cs_cifar, kd_cifar, precision_cifar")
    assert absent == "FID, IS, KID: not measured (without Inception's published weights)."
    assert "commit abc1234" in code


def test_machines_that_differ_are_named(pair):
    machines = pair.machines.assign(threads=[1, 1, 1, 2])  # the last run: norm=batch, seed 1
    (line,) = tables.machine_lines(dataclasses.replace(pair, machines=machines))
    assert line == (
        "Runs of this study differ in what the last bits of their numbers depend on: threads 1: "
        "seed 0, seed 1 with norm=none; threads 2: seed 1 with norm=batch. Where a seed is "
        "divided, its pairs were not all made alike."
    )
    assert not tables.machine_lines(pair)


def test_an_analysis_has_a_row_for_each_number(make_study, tmp_path):
    made = {"factors": ARMS | {"norm": ["none"]}, "epochs": 2, "seeds": (0, 1)}
    folder = make_study(tmp_path, **made, **TINY)
    for seed, three in ((0, 0.5), (1, 0.7)):
        result = {"epoch": 2, "values": {"three": three, "one": None}, "notes": ["A note."]}
        path = folder / f"{RUN}{seed}" / "eval" / "walks.json"
        path.parent.mkdir()
        path.write_text(json.dumps(result | {"titles": {"three": "hits, three", "one": "one"}}))
    measured = analyse(records.load(folder))
    walks = tables_of(measured)["walks"]
    assert walks.headings == ["quantity", "norm=none, head=conv, batch=128 (2 seeds)"]
    assert walks.rows == [["hits, three", "0.60 ± 0.14"], ["one", "–"]]
    assert walks.notes == ["Mean ± standard deviation over seeds.", "A note."]
    assert measured.results["walks/three"].to_list() == [0.5, 0.7]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.000"), (12345.678, "12,346"), (-0.99996, "-1.000"), (1.54e-13, "1.5e-13")],
)
def test_four_significant_digits(value, text):
    assert tables.significant(value, 4) == text


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex")
def test_latex_compiles_within_the_width_of_the_text(tmp_path):
    for path in rundir.PUBLISHED.glob("ablation-cpu32/seed-*.zip"):
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


def test_what_markdown_and_latex_would_read_as_commands_is_escaped(pair):
    awkward = r"50 % of a_b & c # $ ~ ^ \ {x} <y> 32×32 ± – | * `z`"
    table = dataclasses.replace(tables_of(pair)["last"], notes=[awkward])
    markdown, text = tables.escape_markdown(awkward), tables.to_latex(table)
    assert markdown == r"50 % of a_b & c # $ ~ ^ \\ {x} \<y\> 32×32 ± – \| \* \`z\`"
    bare = re.sub(r"\\[_%&#${}]|>(?={\\ragged)", "", text)  # without what is escaped, and columns
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert not re.search(r"[%#~^<>]", bare)
    assert "_" not in re.sub(r"\\label{[^}]*}", "", bare)
    assert text.isascii()
