"""The published studies: their records rebuild everything that is committed beside them."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import journal
from reports import records, tables

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "reports" / "published"
STUDIES = sorted(path.parent for path in PUBLISHED.glob("*/study.json"))
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


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_every_published_file_is_what_was_committed(study):
    for run in records.load(study).runs:
        for epoch in journal.committed(run):
            for name in (journal.RECORD, journal.TIMING, journal.SAMPLES):
                assert journal.read(run, epoch, name)


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_nothing_but_records_is_published(study):
    names = {path.name for path in study.glob("*/seed=*/epochs/*/*")}
    assert names == {journal.RECORD, journal.TIMING, journal.SAMPLES, journal.SUMS}
    assert sum(path.stat().st_size for path in PUBLISHED.rglob("*") if path.is_file()) < 20e6


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_with_batchnorm_on_its_output_d_never_beat_chance(study):
    frame = records.load(study).frame
    lowest = frame[frame["norm"] == "batch"]["d_loss_min"].min()
    assert lowest >= math.log(2) - 1e-6
    assert frame[frame["norm"] == "none"]["d_loss_min"].min() < math.log(2)


def test_the_readme_says_what_the_records_say():
    readme = " ".join((ROOT / "README.md").read_text().split())
    study = records.load(HEADLINE)
    for sentence in tables.findings(study):
        assert " ".join(sentence.split()) in readme
    (last,) = (sheet for sheet in tables.sheets(study) if sheet.name == "last")
    for row in tables.to_markdown(last, []).splitlines():
        if row.startswith("|"):
            assert " ".join(row.split()) in readme
