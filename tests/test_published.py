"""The published studies: their records rebuild everything that is committed beside them."""

import hashlib
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dcgan import rundir
from experiments import publish as publishing
from reports import claims, records

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "reports" / "published"
STUDIES = sorted(path.parent for path in PUBLISHED.glob("*/study.json"))  # as files
ARCHIVED = sorted({path.parent for path in PUBLISHED.glob("*/seed-*.zip")})
AFTERWARDS = ("banks", "eval")  # what is measured of a finished run
HEADLINE = PUBLISHED / "ablation-small"


def test_there_is_a_published_study():
    assert HEADLINE in STUDIES


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_the_report_rebuilds_byte_for_byte(study, tmp_path):
    words = [sys.executable, "-m", "reports", "--from", str(study), "--to", str(tmp_path)]
    subprocess.run(words, cwd=ROOT, capture_output=True, check=True)
    assert_same(contents(tmp_path), contents(study / "report"))


@pytest.mark.parametrize("study", ARCHIVED, ids=lambda path: path.name)
def test_the_report_of_archives_rebuilds_byte_for_byte(study, tmp_path):
    """A study that is not complete yet may have no report beside its archives."""
    for path in study.glob("seed-*.zip"):
        shutil.copy(path, tmp_path)
    assert publishing.build(tmp_path)[0] == 0
    built = contents(tmp_path / "report")
    assert {"index.html", "tables/ledger.csv", "figures/fd_cifar.svg"} < built.keys()
    if (study / "report").exists():
        assert_same(built, contents(study / "report"))


def assert_same(built, kept):
    assert built.keys() == kept.keys()
    assert [name for name in kept if built[name] != kept[name]] == []


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
