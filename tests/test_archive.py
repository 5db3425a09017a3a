"""Records that travel: what is packed, what is merged, and what is refused."""

import os
import shutil
import zipfile
from unittest import mock

import numpy as np
import pytest
from conftest import contents, recommit, write_zip

from dcgan import rundir
from dcgan.cli import BadInput
from dcgan.data import Images
from dcgan.rundir import Damaged, Differs
from experiments import archive, grid
from experiments.plan import make_plan
from reports import records

FACTORS = {"norm": ["none", "batch"], "head": ["conv"], "batch": [128]}
NONE, BATCH = "norm=none,head=conv,batch=128", "norm=batch,head=conv,batch=128"
GIVEN = {"factors": FACTORS, "epochs": 3, "resolution": 16, "points": 2}


def entries(path):
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


@pytest.fixture(scope="session")
def made(make_study, calibrate_study, tmp_path_factory):
    """Two arms, seeds 2 and 10, all that can travel beside records, and states. Read only."""
    study = make_study(tmp_path_factory.mktemp("made"), seeds=(2, 10), eval_sets=3, **GIVEN)
    calibrate_study(study)
    for run in study.glob("*/seed=*"):
        recommit(run, 3, {rundir.GENERATOR: b"weights", rundir.STATE: b"state"})
    return study


@pytest.fixture(scope="session")
def packed(made, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "made.zip"
    archive.pack(made, path)
    return path


def repacked(study, path):
    """The bytes of a study's archive."""
    archive.pack(study, path)
    return path.read_bytes()


def test_an_archive_has_records_and_the_pictures_of_the_lowest_seeds(packed):
    files = entries(packed)
    assert {"study.json", "calibration.json"} < files.keys()
    assert "real.png" not in files  # it shows the data set
    assert not [name for name in files if name.endswith((".safetensors", "lock"))]
    assert len([name for name in files if name.endswith("banks/scores.json")]) == 4
    pictured = {name.split("/epochs")[0] for name in files if name.endswith(rundir.SAMPLES)}
    assert pictured == {f"{NONE}/seed=2", f"{BATCH}/seed=2"}


def test_what_is_damaged_is_not_packed(made, tmp_path):
    for name in ("run.json", "banks/scores.json"):
        copy = shutil.copytree(made, tmp_path / made.name)
        path = copy / NONE / "seed=2" / name
        path.write_bytes(path.read_bytes().replace(b"1", b"2"))
        with pytest.raises(Damaged, match=f"seed=2/{name}"):
            archive.pack(copy, tmp_path / "damaged.zip")
        shutil.rmtree(copy)
    assert not list(tmp_path.iterdir())


def test_results_are_added_once_and_those_that_are_here_stay(made, packed, tmp_path):
    copy = shutil.copytree(made, tmp_path / "copy" / made.name)
    for name in ("walks.json", "walks.png", "filters.png"):
        rundir.replace(copy / NONE / "seed=2" / "eval" / name, b'{"epoch": 3}')
    archive.pack(copy, tmp_path / "with.zip")
    names = {name.rpartition("/eval/")[2] for name in entries(tmp_path / "with.zip")}
    assert {"walks.json", "walks.png"} <= names
    assert "filters.png" not in names  # it shows images of the data set
    study = archive.merge(packed, tmp_path / "out").study
    merged = archive.merge(tmp_path / "with.zip", tmp_path / "out")
    assert (merged.runs, merged.new_runs, merged.new_epochs) == (4, 0, 0)
    result = study / NONE / "seed=2" / "eval" / "walks.json"
    assert result.read_bytes() == b'{"epoch": 3}'
    result.write_bytes(b'{"epoch": 2}')
    archive.merge(tmp_path / "with.zip", tmp_path / "out")
    assert result.read_bytes() == b'{"epoch": 2}'


def test_two_halves_make_the_whole(make_study, tmp_path):
    """Seeds of two machines, then the later epochs of one: as if one machine had made all."""
    whole = make_study(tmp_path / "whole", seeds=(0, 1), eval_sets=2, **GIVEN)
    begun = {f"{arm}/seed=1": 1 for arm in (NONE, BATCH)}
    parts = {
        "late": make_study(tmp_path / "late", seeds=(1,), **GIVEN, committed=begun),
        "first": make_study(tmp_path / "first", seeds=(0,), eval_sets=2, **GIVEN),
        "rest": make_study(tmp_path / "rest", seeds=(1,), eval_sets=2, **GIVEN),
    }
    for name, study in parts.items():
        archive.pack(study, tmp_path / f"{name}.zip")
    counts = [archive.merge(tmp_path / f"{name}.zip", tmp_path / "out") for name in parts]
    assert [(m.new_runs, m.new_epochs) for m in counts] == [(2, 2), (2, 6), (0, 4)]
    together = repacked(counts[0].study, tmp_path / "together.zip")
    assert together == repacked(whole, tmp_path / "whole.zip")


def test_a_merge_that_was_stopped_goes_on(made, packed, tmp_path):
    place, left = rundir.place, iter(range(5))

    def stop(target, files):
        if next(left, None) is None:
            raise KeyboardInterrupt
        place(target, files)

    with mock.patch.object(rundir, "place", stop), pytest.raises(KeyboardInterrupt):
        archive.merge(packed, tmp_path / "out")
    assert archive.merge(packed, tmp_path / "out").new_epochs > 0
    assert repacked(tmp_path / "out" / made.name, tmp_path / "a.zip") == packed.read_bytes()


def test_records_of_a_longer_run_lengthen_it_and_those_of_a_shorter_one_add_nothing(
    make_study, tmp_path
):
    """Its evaluation sets and results of analyses take the place of what the shorter run had."""
    for epochs in (3, 5):
        made = make_study(tmp_path / f"{epochs}", eval_sets=3, **GIVEN | {"epochs": epochs})
        content = {"epoch": epochs, "values": {}, "titles": {}, "notes": []}
        rundir.replace(made / NONE / "seed=0" / "eval" / "walks.json", rundir.to_json(content))
        archive.pack(made, tmp_path / f"{epochs}.zip")
    archive.merge(tmp_path / "5.zip", tmp_path / "wanted")
    for order in ("35", "53"):
        for name in order:
            archive.merge(tmp_path / f"{name}.zip", tmp_path / order)
        assert contents(tmp_path / order) == contents(tmp_path / "wanted")
    assert set(records.load(tmp_path / "35" / made.name).plan["planned"]) == {5}


def test_a_seed_is_whole_once_all_of_its_runs_are_finished_and_measured(make_study, tmp_path):
    study = make_study(tmp_path, seeds=(2, 10), committed={f"{NONE}/seed=2": 2}, **GIVEN)
    assert archive.whole_seeds(study) == [10]
    study = make_study(tmp_path, seeds=(3,), eval_sets=2, **GIVEN | {"epochs": 4})
    assert archive.whole_seeds(study) == [3]
    shutil.rmtree(study / BATCH / "seed=3" / "banks")
    assert archive.whole_seeds(study) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"points": 3}, f"{NONE}/seed=2: epoch 1 has another record.json in the archive"),
        ({"resolution": 32}, "resolution=16 is stored, resolution=32 is in the archive"),
        ({}, f"{NONE}/seed=2: threads=1 is stored, threads=64 is asked for"),
    ],
)
def test_another_run_of_the_same_name_is_refused(make_study, packed, tmp_path, change, line):
    study = archive.merge(packed, tmp_path / "out").study
    before = contents(study)
    other = make_study(tmp_path / "other", seeds=(2, 10), **GIVEN | change)
    for path in [] if change else other.glob("*/*/run.json"):
        stored = rundir.unseal(path)
        stored["fingerprint"]["threads"] = 64
        rundir.replace(path, rundir.seal(stored))
    archive.pack(other, tmp_path / "other.zip")
    with pytest.raises(Differs, match=line):
        archive.merge(tmp_path / "other.zip", tmp_path / "out")
    assert contents(study) == before


def test_a_study_that_is_damaged_or_at_work_is_left_alone(packed, tmp_path):
    study = archive.merge(packed, tmp_path).study
    path = rundir.epoch_folder(study / NONE / "seed=10", 3) / rundir.RECORD
    whole = path.read_bytes()
    path.write_bytes(b"{}")
    with pytest.raises(Damaged, match=r"seed=10/epochs/0003/record\.json: its SHA-256"):
        archive.merge(packed, tmp_path)
    path.write_bytes(whole)
    with rundir.owned(study), pytest.raises(rundir.Busy, match=f"by process {os.getpid()}"):
        archive.merge(packed, tmp_path)


def test_a_run_that_goes_on_here_is_not_lengthened_by_records(make_study, packed, tmp_path):
    """Its state is older than such records: it would go on from there and make them again."""
    begun = make_study(tmp_path / "out", seeds=(2,), **GIVEN, committed={f"{NONE}/seed=2": 1})
    run = begun / NONE / "seed=2"
    (rundir.epoch_folder(run, 1) / rundir.STATE).write_bytes(b"state")
    before = contents(run)
    with pytest.raises(Differs, match=r"epochs=1 are stored, with the state .* epochs=3 are in"):
        archive.merge(packed, tmp_path / "out")
    assert contents(run) == before

    # Without its state it is lengthened.
    (rundir.epoch_folder(run, 1) / rundir.STATE).unlink()
    archive.merge(packed, tmp_path / "out")
    assert rundir.committed(run) == [1, 2, 3]


def refused(files, tmp_path, match):
    """Refused in one line, and nothing is there afterwards that was not there before."""
    path = tmp_path / "damaged.zip"
    path.write_bytes(files) if isinstance(files, bytes) else write_zip(path, files)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BadInput, match=match) as error:
        archive.merge(path, tmp_path / "out")
    assert len(str(error.value).splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_damage_is_refused_by_the_name_of_the_file(packed, tmp_path):
    """Bytes that rotted under way, an encrypted file, and records that were changed or lost."""
    with zipfile.ZipFile(packed) as file:
        entry = file.getinfo(f"{NONE}/seed=2/epochs/0002/samples.png")
    data = bytearray(packed.read_bytes())
    data[entry.header_offset + 200] ^= 1
    refused(bytes(data), tmp_path, "not a whole zip: Bad CRC-32 for file '.*0002/samples.png'")
    refused(packed.read_bytes()[:-100], tmp_path, "damaged.zip: not a whole zip")
    data = bytearray(packed.read_bytes())
    data[data.rfind(b"PK\x01\x02") + 8] |= 1
    refused(bytes(data), tmp_path, "damaged.zip: not a whole zip: File .* is encrypted")
    files = entries(packed)
    for name in files:
        if name.endswith(("study.json", "run.json", "record.json", "png")):
            changed = {**files, name: files[name][:-2] + b"??"}
            refused(changed, tmp_path, rf"damaged\.zip/{name}: ")
    epoch = f"{BATCH}/seed=10/epochs/0002"
    gone = {name: data for name, data in files.items() if name != f"{epoch}/record.json"}
    refused(gone, tmp_path, "seed=10/epochs/0002/record.json: No such file")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"study": "../ablation"}, "'../ablation' is not among the studies"),
        ({"factors": {**FACTORS, "batch": [64]}}, "factors or levels are not those of ablation"),
        ({"settings": {"data": "../../x"}}, "data='../../x': String should match"),
    ],
)
def test_a_study_that_is_not_known_here_is_refused(made, packed, tmp_path, change, words):
    info = rundir.seal(rundir.unseal(made / "study.json") | change)
    refused({**entries(packed), "study.json": info}, tmp_path, words)


def plan(study, out):
    """`make ablation` on the made-up study, up to its plan."""
    info = rundir.unseal(study / "study.json")
    data, pixels = info["data"], np.zeros((10_000, 16, 16, 3), np.uint8)
    images = Images("shapes", "shapes", pixels, np.zeros(10_000, np.int64), data["sha256"])
    wanted = grid.Study("ablation", "small", info["factors"], info["seeds"], info["settings"], {})
    return make_plan(wanted, images, out, "cpu", 1, 1, "offline")


def test_an_unfinished_run_that_was_imported_is_not_made_again(make_study, made, packed, tmp_path):
    begun = {f"{NONE}/seed=2": 2}
    study = make_study(tmp_path / "begun", seeds=(2, 10), committed=begun, **GIVEN)
    archive.pack(study, tmp_path / "begun.zip")
    archive.merge(tmp_path / "begun.zip", tmp_path / "out")
    words = "records of 2 epochs and no state to go on from to epochs=3; import the rest, or remove"
    with pytest.raises(Differs, match=f"{NONE}/seed=2: .*{words} the run to make it again"):
        plan(made, tmp_path / "out")
    archive.merge(packed, tmp_path / "out")
    assert plan(made, tmp_path / "out").missing == []
