"""The published studies: their archives rebuild everything that is committed beside them."""

import math
import shutil

import pytest
from conftest import ROOT, contents

from dcgan import rundir
from experiments import archive, publish
from reports import claims, records

PUBLISHED = rundir.PUBLISHED
STUDIES = sorted({path.parent for path in PUBLISHED.glob("*/seed-*.zip")})
HEADLINE = PUBLISHED / "ablation-cpu32"


@pytest.fixture(scope="module")
def headline(tmp_path_factory):
    """The records of the study that the README is about."""
    out = tmp_path_factory.mktemp("out")
    merged = [archive.merge(path, out) for path in publish.archives(HEADLINE).values()]
    return records.load(merged[0].study)


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_the_report_rebuilds_byte_for_byte_from_the_archives(study, tmp_path):
    for path in study.glob("seed-*.zip"):
        shutil.copy(path, tmp_path)
    assert publish.build(tmp_path)[0] == 0
    built, kept = contents(tmp_path / "report"), contents(study / "report")
    assert built.keys() == kept.keys()
    top = {"index.html", "README.md", "records.csv", "records.parquet"}
    top |= {"eval_sets.csv", "calibration.csv", "tables", "figures"}
    assert {name for name in kept if "/" not in name} == top
    assert {"tables/tables.tex", "tables/ledger.csv", "figures/samples.png"} < kept.keys()
    assert [name for name in kept if built[name] != kept[name]] == []


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_archives_generators_and_the_report_are_all_that_is_published(study):
    names = {path.name for path in study.iterdir()}
    assert {name for name in names if not name.endswith(".zip")} == {"generators", "report"}
    assert (study / "report" / "index.html").stat().st_size < 8e6
    assert sum(path.stat().st_size for path in PUBLISHED.rglob("*") if path.is_file()) < 20e6


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_published_generators_are_the_last_ones_of_their_runs(study):
    sums = rundir.read_sums(study / "generators")
    assert len(sums) == len(publish.GENERATORS)
    lowest, path = min(publish.archives(study).items())
    with archive.unpacked(path) as (folder, _):
        for name, digest in sums.items():
            rundir.read(study / "generators", name)
            arm, _, seed = name.removesuffix(".safetensors").rpartition(",seed=")
            run = folder / arm / f"seed={seed}"
            last = rundir.epoch_folder(run, rundir.committed(run)[-1])
            assert (int(seed), digest) == (lowest, rundir.read_sums(last)[rundir.GENERATOR])


def test_with_batchnorm_on_its_output_d_never_beat_chance(headline):
    lowest = headline.frame.groupby("norm")["d_loss_min"].min()
    assert lowest["batch"] >= math.log(2) - 1e-6
    assert lowest["none"] < math.log(2)


def test_the_claims_are_those_that_the_runs_started_with(headline):
    frozen = headline.info["claims"]
    assert (frozen["commit"], frozen["date"]) == ("86d99b7", "2026-11-28")
    assert claims.added_since(frozen["sha256"]) is not None  # claims may follow, none may change


def test_the_readme_says_what_is_there_and_what_is_to_be_tested(headline):
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert f"{len(claims.load())} claims of the blog post, of the paper and of our own" in readme
    assert set(headline.plan["status"]) == {"finished"}
