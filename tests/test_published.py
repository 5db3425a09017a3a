"""The published studies: their records rebuild everything that is committed beside them."""

import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from dcgan import rundir
from experiments import __main__ as command
from experiments import publish as publishing
from reports import claims, records

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "reports" / "published"
STUDIES = sorted(path.parent for path in PUBLISHED.glob("*/study.json"))
AFTERWARDS = ("banks", "eval")  # what is measured of a finished run
ARCHIVES = sorted(PUBLISHED.glob("*.zip"))  # studies that are published packed, without pictures
HEADLINE = PUBLISHED / "ablation-small"


def test_there_is_a_published_study():
    assert HEADLINE in STUDIES


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_the_report_rebuilds_byte_for_byte(study, tmp_path):
    subprocess.run(
        [sys.executable, "-m", "reports", "--from", str(study), "--to", str(tmp_path / "report")],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    files = [
        {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        for folder in (study / "report", tmp_path / "report")
    ]
    assert files[0] == files[1]
    different = [
        name
        for name in sorted(files[0])
        if (study / "report" / name).read_bytes() != (tmp_path / "report" / name).read_bytes()
    ]
    assert different == []


@pytest.mark.parametrize("packed", ARCHIVES, ids=lambda path: path.stem)
def test_what_is_published_of_an_archive_rebuilds_byte_for_byte(packed, tmp_path):
    words = [sys.executable, "-m", "experiments", "import", str(packed), "--out", str(tmp_path)]
    subprocess.run(words, cwd=ROOT, capture_output=True, check=True)
    built, kept = (folder / packed.stem / "report" for folder in (tmp_path, PUBLISHED))
    names = {path.relative_to(kept).as_posix() for path in kept.rglob("*") if path.is_file()}
    assert {"index.html", "tables/ledger.csv", "figures/fd_cifar.svg"} < names
    assert [n for n in names if (kept / n).read_bytes() != (built / n).read_bytes()] == []


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_every_published_file_is_what_was_published(study):
    """A number edited by hand, anywhere: what is not rebuilt above has its sum here."""
    lines = (study / rundir.SUMS).read_text().splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    there = {
        path.relative_to(study).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in study.rglob("*")
        if path.is_file() and study / "report" not in path.parents
    }
    del there[rundir.SUMS]
    assert sums == there
    assert "study.json" in sums

    # The epochs agree with their own sums as well.
    for run in records.load(study).runs:
        assert len(rundir.committed(run, may_lack=(rundir.SAMPLES,))) > 0


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_nothing_but_records_is_published(study):
    names = {path.name for path in study.glob("*/seed=*/epochs/*/*")}
    assert names - {rundir.SAMPLES} == {rundir.RECORD, rundir.TIMING, rundir.SUMS}
    assert {path.name for path in study.glob("*/seed=*/*")} <= {"run.json", "epochs", *AFTERWARDS}
    assert not (study / "real.png").exists()  # images of the data set are nobody's to publish
    assert sum(path.stat().st_size for path in PUBLISHED.rglob("*") if path.is_file()) < 20e6
    assert (study / "report" / "index.html").stat().st_size < 8e6

    # Every epoch of an arm's lowest seed has its picture, and no other seed's; or none has.
    loaded = records.load(study)
    lowest = loaded.frame.groupby(loaded.factors)["seed"].transform("min")
    for row in loaded.frame.assign(lowest=lowest).itertuples():
        picture = rundir.epoch_folder(study / row.run, row.epoch) / rundir.SAMPLES
        assert picture.exists() == (row.seed == row.lowest and rundir.SAMPLES in names)


def test_with_batchnorm_on_its_output_d_never_beat_chance():
    frame = records.load(HEADLINE).frame
    lowest = frame[frame["norm"] == "batch"]["d_loss_min"].min()
    assert lowest >= math.log(2) - 1e-6
    assert frame[frame["norm"] == "none"]["d_loss_min"].min() < math.log(2)


def test_the_readme_says_what_is_to_be_tested():
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert f"{len(claims.load())} claims of the blog post and of the paper" in readme


def test_publish_keeps_records_and_eval_sets_and_the_lowest_seeds_pictures(
    make_study, tmp_path, monkeypatch
):
    factors = {"norm": ["none", "batch"], "head": ["conv"], "batch": [128]}
    absent = {"norm=batch,head=conv,batch=128/seed=2": 0}  # there the lowest seed is 10
    study = make_study(
        tmp_path, seeds=(10, 2), factors=factors, epochs=2, resolution=16, points=2, eval_sets=3,
        committed=absent,
    )  # fmt: skip
    audit = {"run": "", "epoch": 1, "images": 1, "answers": [], "tables": []}
    (study / "audit.json").write_text(json.dumps(audit))
    monkeypatch.setattr(publishing, "PUBLISHED", tmp_path / "published")
    monkeypatch.setattr("experiments.study.report", lambda target: 0)
    assert command.main(["publish", str(study)]) == 0

    target = tmp_path / "published" / study.name
    pictures = {path.relative_to(target).parts[:2] for path in target.rglob(rundir.SAMPLES)}
    assert pictures == {
        ("norm=none,head=conv,batch=128", "seed=2"),
        ("norm=batch,head=conv,batch=128", "seed=10"),
    }
    assert len(list(target.glob("*/seed=*/banks/scores.json"))) == 3
    assert (target / "audit.json").exists()
    listed = {line.split("  ", 1)[1] for line in (target / rundir.SUMS).read_text().splitlines()}
    there = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert listed == there - {rundir.SUMS}

    # The same frame and the same evaluation sets as before; one digit less is an error.
    before, after = records.load(study), records.load(target)
    pd.testing.assert_frame_equal(before.frame, after.frame)
    pd.testing.assert_frame_equal(before.eval_sets, after.eval_sets)
    for name in ("*/seed=10/run.json", "*/seed=2/epochs/0002/timing.json", "*/seed=*/banks/s*"):
        path = next(target.glob(name))
        whole = path.read_text()
        path.write_text(whole.replace("2", "3", 1))
        with pytest.raises(rundir.Damaged, match=path.name):
            records.load(target)
        path.write_text(whole)
