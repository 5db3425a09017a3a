"""Publication: whole seeds become archives that stay, and the report is made from these alone."""

import shutil
import zipfile

import pytest
from conftest import contents, encode, recommit
from PIL import Image

from dcgan import rundir
from experiments import __main__ as command
from experiments import publish as publishing

ARM, OTHER = "norm=none,head=conv,batch=128", "norm=batch,head=conv,batch=128"
FACTORS = {"norm": ["none", "batch"], "head": ["conv"], "batch": [128]}
TINY = {"factors": FACTORS, "epochs": 6, "resolution": 16, "points": 2, "eval_sets": 3}


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Publish a folder; all files of what is published of it then."""
    monkeypatch.setattr(publishing, "PUBLISHED", tmp_path / "published")

    def run(study, code=0):
        assert command.main(["publish", str(study)]) == code
        folder = tmp_path / "published" / study.name
        return {name: data for name, data in contents(folder).items() if data is not None}

    return run


@pytest.fixture
def study(make_study, tmp_path):
    """Two arms, seeds 0 and 1; the generator of one of GENERATORS, and what seed 0 has alone."""
    study = make_study(tmp_path, seeds=(0, 1), **TINY)
    recommit(study / ARM / "seed=0", 6, {rundir.GENERATOR: b"weights"})
    for seed in (0, 1):
        walks = study / ARM / f"seed={seed}" / "eval" / "walks.png"
        rundir.replace(walks, encode(Image.new("RGB", (8, 8))))
    return study


def records(files):
    return {name: data for name, data in files.items() if not name.startswith("report/")}


def pictures(path):
    return sorted(name for name in zipfile.ZipFile(path).namelist() if name.endswith("png"))


def test_later_seeds_are_added_and_the_report_is_that_of_the_archives(
    study, make_study, publish, tmp_path
):
    two, target = publish(study), tmp_path / "published" / study.name
    generator = f"generators/{ARM},seed=0.safetensors"
    sums = "generators/SHA256SUMS"
    assert records(two).keys() == {"seed-0.zip", "seed-1.zip", generator, sums}
    assert two[generator] == b"weights"
    assert pictures(target / "seed-1.zip") == []
    epochs = [f"{arm}/seed=0/epochs/{x:04d}/samples.png" for arm in (OTHER, ARM) for x in (1, 5, 6)]
    assert pictures(target / "seed-0.zip") == [*epochs, f"{ARM}/seed=0/eval/walks.png"]

    # Made again from the archives, the report has the same bytes.
    shutil.rmtree(study)
    (target / "report" / "stale.html").write_text("of an earlier version")
    assert publish(target) == two

    # A third seed, made elsewhere: what was written stays.
    three = publish(make_study(tmp_path, seeds=(2,), **TINY))
    assert three.keys() - two.keys() == {"seed-2.zip"}
    assert records(two).items() < records(three).items()
    assert three["report/records.csv"].count(b"seed=2") == 12


def test_only_whole_seeds_are_published(make_study, publish, tmp_path, capsys):
    study = make_study(tmp_path, seeds=(0, 1), committed={f"{ARM}/seed=0": 5}, **TINY)
    assert records(publish(study)).keys() == {"seed-1.zip"}
    shutil.rmtree(study / ARM / "seed=1")
    shutil.rmtree(tmp_path / "published")
    assert publish(study, 2) == {}
    assert f"{study}: has no complete seed" in capsys.readouterr().err


def test_what_contradicts_is_refused(study, make_study, publish, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("experiments.signals.call", lambda *words: 0)  # without a report
    before = publish(study)
    for change, line in (
        ({"points": 3}, "epoch 1 has another record.json in the archive"),
        ({"epochs": 7}, "epochs=7 are stored, epochs=6 are in"),
    ):
        shutil.rmtree(study)
        make_study(tmp_path, seeds=(0, 1, 2), **TINY | change)
        assert publish(study, 2) == before
        assert line in capsys.readouterr().err
