"""Records that travel: what is packed, what is merged, and what is refused."""

import hashlib
import json
import os
import re
import shutil
import stat
import sys
import zipfile

import numpy as np
import pytest

from dcgan import rundir
from dcgan.cli import BadInput
from dcgan.data import Images
from dcgan.rundir import Damaged, Differs
from experiments import __main__ as command
from experiments import archive, grid, launch
from reports import figures, page, records

FACTORS = {"norm": ["none", "batch"], "head": ["conv"], "batch": [128]}
NONE, BATCH = "norm=none,head=conv,batch=128", "norm=batch,head=conv,batch=128"
GIVEN = {"factors": FACTORS, "epochs": 3, "resolution": 16, "points": 2}


def contents(folder):
    """Every file below a folder, locks apart."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }


def entries(path):
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def write(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return path


def summed(files):
    """The files with the SHA256SUMS that an honest packer would give them."""
    sums = {k: hashlib.sha256(v).hexdigest() for k, v in sorted(files.items()) if k != rundir.SUMS}
    return {**files, rundir.SUMS: rundir.to_lines(sums)}


@pytest.fixture(scope="session")
def made(make_study, calibrate_study, tmp_path_factory):
    """Two arms, seeds 2 and 10, with banks, generators, calibration and audit. Read only."""
    study = make_study(tmp_path_factory.mktemp("made"), seeds=(2, 10), banks=3, **GIVEN)
    calibrate_study(study)
    (study / "audit.json").write_text('{"n": 100}\n')
    for run in study.glob("*/seed=*"):
        folder = rundir.epoch_folder(run, 3)
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix}
        shutil.rmtree(folder)
        weights = f"weights of {run.parent.name} {run.name}".encode()
        rundir.commit(run, 3, {**files, rundir.GENERATOR: weights, rundir.STATE: b"state"})
    return study


@pytest.fixture(scope="session")
def packed(made, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "made.zip"
    archive.pack(made, path)
    return path


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Publish a study; the files of what was published."""
    monkeypatch.setattr(command, "PUBLISHED", tmp_path / "published")
    monkeypatch.setattr(command, "_report", lambda study, quiet: 0)

    def run(study):
        assert command.main(["publish", str(study)]) == 0
        return contents(tmp_path / "published" / study.name)

    return run


# --- Packing --------------------------------------------------------------------------------------


def test_an_archive_holds_just_what_is_published(made, packed, publish):
    assert entries(packed) == publish(made)


def test_an_archive_holds_records_and_the_lowest_seeds_pictures(made, packed, tmp_path):
    files = entries(packed)
    of_study = {"study.json", "calibration.json", "audit.json", "generators.sha256"}
    assert of_study < files.keys()
    assert (made / "real.png").exists()
    assert "real.png" not in files  # it shows the data set
    assert not [name for name in files if name.endswith((".safetensors", "lock"))]
    assert len([name for name in files if name.endswith("banks/scores.json")]) == 4
    pictured = {name.split("/epochs")[0] for name in files if name.endswith(rundir.SAMPLES)}
    assert pictured == {f"{NONE}/seed=2", f"{BATCH}/seed=2"}
    archive.pack(made, tmp_path / "all.zip", "all")
    assert len([n for n in entries(tmp_path / "all.zip") if n.endswith(rundir.SAMPLES)]) == 12


def test_results_of_analyses_travel_and_are_not_overwritten(made, tmp_path):
    copy = tmp_path / "here" / made.name
    shutil.copytree(made, copy)
    found = {}
    for run in (f"{NONE}/seed=2", f"{NONE}/seed=10"):
        walks = {"walks.json": b'{"epoch": 3}', "walks.png": b"a picture"}
        (copy / run / "eval").mkdir(exist_ok=True)
        (copy / run / "eval/filters.png").write_bytes(b"shows images of the data set")
        for name, data in walks.items():
            path = copy / run / "eval" / name
            path.write_bytes(data)
            found[f"{run}/eval/{name}"] = data
    archive.pack(copy, tmp_path / "tools.zip")
    every = entries(tmp_path / "tools.zip")
    packed = {name: data for name, data in every.items() if "/eval/" in name}
    del found[f"{NONE}/seed=10/eval/walks.png"]  # of the lowest seed alone
    assert packed == found

    merged = archive.merge(tmp_path / "tools.zip", tmp_path / "out").study
    assert {name: (merged / name).read_bytes() for name in found} == found
    archive.merge(tmp_path / "tools.zip", tmp_path / "out")
    (merged / NONE / "seed=2/eval/walks.json").write_bytes(b'{"epoch": 2}')
    with pytest.raises(Differs, match=r"walks\.json: epoch=2 is stored, epoch=3 is in the archive"):
        archive.merge(tmp_path / "tools.zip", tmp_path / "out")


def test_equal_records_make_equal_bytes(made, packed, tmp_path):
    copy = tmp_path / "elsewhere" / made.name
    shutil.copytree(made, copy)
    for path in copy.rglob("*.safetensors"):
        path.unlink()
    archive.pack(copy, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == packed.read_bytes()


def test_the_hashes_of_the_last_generators_are_what_coreutils_checks(made, packed):
    lines = entries(packed)["generators.sha256"].decode().splitlines()
    named = dict(reversed(line.split("  ")) for line in lines)
    paths = sorted(made.rglob(rundir.GENERATOR))
    assert named == {
        path.relative_to(made).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }
    assert len(paths) == 4


def test_what_is_damaged_is_not_packed(made, tmp_path):
    copy = tmp_path / made.name
    shutil.copytree(made, copy)
    path = copy / NONE / "seed=2" / "run.json"
    path.write_bytes(path.read_bytes().replace(b"128", b"129"))
    with pytest.raises(Damaged, match=r"seed=2/run\.json"):
        archive.pack(copy, tmp_path / "damaged.zip")
    assert not list(tmp_path.glob("*.zip")) + list(tmp_path.glob(".*"))


# --- Merging --------------------------------------------------------------------------------------


def test_an_imported_study_publishes_the_same_bytes(made, packed, publish, tmp_path):
    before = publish(made)
    merged = archive.merge(packed, tmp_path / "out")
    assert (merged.runs, merged.new_runs, merged.new_epochs) == (4, 4, 12)
    assert merged.study == tmp_path / "out" / made.name
    assert publish(merged.study) == before
    assert not records.load(merged.study).missing


def test_what_is_there_is_not_written_again(packed, tmp_path):
    study = archive.merge(packed, tmp_path).study
    before = {path: path.stat().st_mtime_ns for path in study.rglob("*") if path.name != "lock"}
    merged = archive.merge(packed, tmp_path)
    assert (merged.runs, merged.new_runs, merged.new_epochs) == (4, 0, 0)
    after = {path: path.stat().st_mtime_ns for path in study.rglob("*") if path.name != "lock"}
    assert after == before


def test_two_halves_make_the_whole(make_study, publish, tmp_path):
    """Seeds of two machines, then the later epochs of one: as if one machine had made all."""
    whole = make_study(tmp_path / "whole", seeds=(0, 1), banks=2, **GIVEN)
    begun = {f"{arm}/seed=1": 1 for arm in (NONE, BATCH)}
    parts = {
        "late": make_study(tmp_path / "late", seeds=(1,), **GIVEN, committed=begun),
        "first": make_study(tmp_path / "first", seeds=(0,), banks=2, **GIVEN),
        "rest": make_study(tmp_path / "rest", seeds=(1,), banks=2, **GIVEN),
    }
    for name, study in parts.items():
        archive.pack(study, tmp_path / f"{name}.zip")
    counts = [archive.merge(tmp_path / f"{name}.zip", tmp_path / "out") for name in parts]
    assert [(m.new_runs, m.new_epochs) for m in counts] == [(2, 2), (2, 6), (0, 4)]
    assert publish(counts[0].study) == publish(whole)


def test_commits_seeds_and_levels_are_merged(make_study, tmp_path):
    one = make_study(
        tmp_path / "one", seeds=(3,), **GIVEN | {"factors": FACTORS | {"norm": ["batch"]}}
    )
    two = make_study(
        tmp_path / "two", seeds=(1,), **GIVEN | {"factors": FACTORS | {"norm": ["none"]}}
    )
    info = rundir.unseal(two / "study.json")
    rundir.replace(two / "study.json", rundir.seal(info | {"commit": "abc1234, def5678"}))
    for study in (one, two):
        archive.pack(study, tmp_path / f"{study.parent.name}.zip")
    for name in ("one", "two"):
        study = archive.merge(tmp_path / f"{name}.zip", tmp_path).study
    merged_info = rundir.unseal(study / "study.json")
    assert merged_info["factors"] == FACTORS
    assert merged_info["seeds"] == [1, 3]
    assert merged_info["commit"] == "abc1234, def5678"


def test_a_merge_that_was_stopped_goes_on(made, packed, publish, tmp_path, monkeypatch):
    whole, place = publish(made), rundir.place
    left = iter(range(5))

    def stop(target, files):
        if next(left, None) is None:
            raise KeyboardInterrupt
        place(target, files)

    with monkeypatch.context() as patched:
        patched.setattr(rundir, "place", stop)
        with pytest.raises(KeyboardInterrupt):
            archive.merge(packed, tmp_path / "out")
    assert records.load(tmp_path / "out" / made.name).missing
    assert archive.merge(packed, tmp_path / "out").new_epochs > 0
    assert publish(tmp_path / "out" / made.name) == whole


def test_import_into_the_published_studies_keeps_one_picture_and_the_sums(
    make_study, publish, tmp_path
):
    whole = make_study(tmp_path / "whole", seeds=(0, 1), **GIVEN)
    expected = publish(whole)
    shutil.rmtree(tmp_path / "published")
    for seed in (1, 0):
        study = make_study(tmp_path / f"seed{seed}", seeds=(seed,), **GIVEN)
        archive.pack(study, tmp_path / f"{seed}.zip")
    paths = [str(tmp_path / f"{seed}.zip") for seed in (1, 0)]
    assert command.main(["import", *paths, "--out", str(tmp_path / "published")]) == 0
    assert contents(tmp_path / "published" / whole.name) == expected
    assert not list((tmp_path / "published").rglob("lock"))


def test_records_of_a_longer_run_lengthen_it_and_those_of_a_shorter_one_add_nothing(
    make_study, tmp_path
):
    """Its evaluation sets and results of analyses take the place of what the shorter run had."""
    for epochs in (3, 5):
        made = make_study(tmp_path / f"{epochs}", banks=3, **GIVEN | {"epochs": epochs})
        result = made / NONE / "seed=0" / "eval" / "walks.json"
        result.parent.mkdir()
        result.write_text(json.dumps({"tool": "walks", "epoch": epochs}))
        archive.pack(made, tmp_path / f"{epochs}.zip")
    archive.merge(tmp_path / "5.zip", tmp_path / "wanted")
    wanted = contents(tmp_path / "wanted")

    for order in ("35", "53"):
        for name in order:
            archive.merge(tmp_path / f"{name}.zip", tmp_path / order)
        assert contents(tmp_path / order) == wanted
    found = records.load(tmp_path / "35" / made.name)
    assert (set(found.plan["planned"]), found.missing) == ({5}, [])
    assert set(found.banks["epoch"]) == {1, 2, 3, 4, 5}


def test_whole_seeds_have_a_file_each_and_together_are_the_study(made, packed, tmp_path):
    """A later seed changes no byte of an earlier one's file."""
    archive.pack(made, tmp_path / "2.zip", seeds=[2])
    archive.pack(made, tmp_path / "10.zip", seeds=[10])
    names = {name.split("/")[1] for name in entries(tmp_path / "2.zip") if "/" in name}
    assert names == {"seed=2"}
    alone = tmp_path / "alone" / made.name
    shutil.copytree(made, alone, ignore=shutil.ignore_patterns("seed=10"))
    info = rundir.unseal(alone / "study.json") | {"seeds": [2]}
    rundir.replace(alone / "study.json", rundir.seal(info))
    archive.pack(alone, tmp_path / "early.zip", seeds=[2])
    assert (tmp_path / "early.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()

    for number in (10, 2):
        study = archive.merge(tmp_path / f"{number}.zip", tmp_path / "out").study
    archive.merge(packed, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    archive.pack(study, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == packed.read_bytes()


def test_half_a_seed_and_an_unknown_one_are_not_packed(make_study, tmp_path):
    begun = {f"{NONE}/seed=2": 2}
    study = make_study(tmp_path / "there", seeds=(2, 10), committed=begun, **GIVEN)
    with pytest.raises(BadInput, match=f"{NONE}/seed=2: 2 of its epochs are done; only whole"):
        archive.pack(study, tmp_path / "half.zip", seeds=[2, 10])
    with pytest.raises(BadInput, match="has no seed=3"):
        archive.pack(study, tmp_path / "half.zip", seeds=[10, 3])
    assert not (tmp_path / "half.zip").exists()
    archive.pack(study, tmp_path / "whole.zip", seeds=[10])
    archive.pack(study, tmp_path / "begun.zip")
    pictures = [n for n in entries(tmp_path / "begun.zip") if n.endswith(rundir.SAMPLES)]
    assert len(pictures) == 5  # of seed 2, as far as it goes


@pytest.mark.parametrize(("samples", "epochs"), [("lowest", [1, 3, 50]), ("none", None)])
def test_chosen_pictures_travel_and_the_report_shows_those(made, tmp_path, samples, epochs):
    archive.pack(made, tmp_path / "few.zip", samples, sample_epochs=epochs)
    pictures = [n for n in entries(tmp_path / "few.zip") if n.endswith(rundir.SAMPLES)]
    assert sorted(pictures) == [
        f"{arm}/seed=2/epochs/{epoch:04d}/samples.png"
        for arm in (BATCH, NONE)
        for epoch in ((1, 3) if epochs else ())
    ]
    study = records.load(archive.merge(tmp_path / "few.zip", tmp_path / "out").study)
    assert len(study.frame) == 12
    assert ("samples" in figures.draw(study)) == bool(epochs)
    assert bool(page.filmstrip(study, 1 << 20)["shown"]) == bool(epochs)


# --- What contradicts -----------------------------------------------------------------------------


def other(study, run, key, value):
    """A copy of the study's files in which one run.json says something else."""
    files = dict(archive.files(study))
    part, _, name = key.partition(".")
    stored = rundir.unseal(study / run / "run.json")
    stored[part][name] = value
    return summed({**files, f"{run}/run.json": rundir.seal(stored)})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("config.width", 64, "width=32 is stored, width=64 is asked for"),
        ("fingerprint.threads", 2, "threads=1 is stored, threads=2 is asked for"),
        ("identities.fd_cifar", {"network": "x"}, "fd_cifar={.*} is stored, fd_cifar={.*'x'}"),
    ],
)
def test_another_run_of_the_same_name_is_refused(made, packed, tmp_path, key, value, words):
    study = archive.merge(packed, tmp_path / "out").study
    before = contents(study)
    path = write(tmp_path / "other.zip", other(made, f"{BATCH}/seed=2", key, value))
    with pytest.raises(Differs, match=f"{BATCH}/seed=2: .*{words}"):
        archive.merge(path, tmp_path / "out")
    assert contents(study) == before


def changed(study, tmp_path, change):
    """A copy of a study with another record in epoch 2 of one run."""
    copy = tmp_path / "changed" / study.name
    shutil.copytree(study, copy)
    folder = rundir.epoch_folder(copy / NONE / "seed=2", 2)
    record = json.loads((folder / rundir.RECORD).read_bytes())
    change(record)
    files = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != rundir.SUMS}
    shutil.rmtree(folder)
    content = {**files, rundir.RECORD: rundir.to_json(record)}
    rundir.commit_to(folder, content)
    return copy


def test_another_record_of_the_same_epoch_is_refused(made, packed, tmp_path):
    study = archive.merge(packed, tmp_path / "out").study
    before, old = contents(study), rundir.read_json(made / NONE / "seed=2", 2, rundir.RECORD)
    copy = changed(made, tmp_path, lambda record: record["scores"].update(fd_cifar=1.5))
    archive.pack(copy, tmp_path / "other.zip")
    words = f"scores.fd_cifar={old['scores']['fd_cifar']} is stored, scores.fd_cifar=1.5 is in"
    with pytest.raises(Differs, match=f"{NONE}/seed=2: epoch 2: {words}"):
        archive.merge(tmp_path / "other.zip", tmp_path / "out")
    assert contents(study) == before


def test_other_data_under_the_same_name_are_refused(packed, tmp_path):
    study = archive.merge(packed, tmp_path / "out").study
    before = contents(study)
    old = hashlib.sha256(b"shapes").hexdigest()
    files = entries(packed)
    for name in [name for name in files if name.endswith(("run.json", "study.json"))]:
        value = json.loads(files[name].replace(old.encode(), b"0" * 64))
        files[name] = rundir.seal({key: part for key, part in value.items() if key != "sha256"})
    words = f"data_sha256={old[:60]}... is stored, data_sha256={'0' * 60}... is in the archive"
    with pytest.raises(Differs, match=re.escape(words)):
        archive.merge(write(tmp_path / "other.zip", summed(files)), tmp_path / "out")
    assert contents(study) == before


def test_other_evaluation_sets_and_another_audit_are_refused(made, packed, tmp_path):
    copy = tmp_path / "copy" / made.name
    shutil.copytree(made, copy)
    (copy / "audit.json").write_text('{"n": 200}\n')
    archive.merge(packed, tmp_path / "out")
    archive.pack(copy, tmp_path / "audit.zip")
    with pytest.raises(Differs, match=r"audit\.json: n=100 is stored, n=200 is in the archive"):
        archive.merge(tmp_path / "audit.zip", tmp_path / "out")
    shutil.copyfile(made / "audit.json", copy / "audit.json")
    banks = copy / NONE / "seed=2" / "banks"
    shutil.rmtree(banks)
    rundir.commit_to(banks, {rundir.BANK_SCORES: b'{"banks": 5, "epochs": {}}'})
    archive.pack(copy, tmp_path / "banks.zip")
    with pytest.raises(
        Differs, match=rf"{NONE}/seed=2/banks/scores\.json: banks=3 is stored, banks=5 is in"
    ):
        archive.merge(tmp_path / "banks.zip", tmp_path / "out")


def test_a_calibration_travels_and_one_that_is_there_stays(made, packed, calibrate_study, tmp_path):
    """Two machines differ in its last digits, and their seeds stand side by side."""
    study = archive.merge(packed, tmp_path / "out").study
    assert (study / "calibration.json").read_bytes() == (made / "calibration.json").read_bytes()
    assert records.load(study).calibration.equals(records.load(made).calibration)
    calibrate_study(study, flat={"fd_cifar": 83.51})
    before = contents(study)
    archive.merge(packed, tmp_path / "out")
    assert contents(study) == before


def test_a_run_that_goes_on_here_is_not_lengthened_by_records(make_study, packed, tmp_path):
    """Its state is older than such records: it would go on from there and make them again."""
    begun = make_study(tmp_path / "out", seeds=(2,), **GIVEN, committed={f"{NONE}/seed=2": 1})
    run = begun / NONE / "seed=2"
    (rundir.epoch_folder(run, 1) / rundir.STATE).write_bytes(b"state")
    before = contents(begun)
    with pytest.raises(Differs, match=r"epochs=1 are stored, with the state .* epochs=3 are in"):
        archive.merge(packed, tmp_path / "out")
    assert contents(begun) == before

    # With as many epochs as the archive it is skipped, and without its state lengthened.
    (rundir.epoch_folder(run, 1) / rundir.STATE).unlink()
    archive.merge(packed, tmp_path / "out")
    assert rundir.committed(run) == [1, 2, 3]


def test_a_damaged_run_here_is_named(packed, tmp_path):
    study = archive.merge(packed, tmp_path).study
    path = rundir.epoch_folder(study / NONE / "seed=10", 3) / rundir.RECORD
    path.write_bytes(b"{}")
    with pytest.raises(Damaged, match="seed=10/epochs/0003: is not as it was committed"):
        archive.merge(packed, tmp_path)


def test_a_study_at_work_is_left_alone(packed, tmp_path):
    study = archive.merge(packed, tmp_path).study
    before = contents(study)
    with (
        rundir.owned(study),
        pytest.raises(rundir.Busy, match=f"in use by process {os.getpid()}"),
    ):
        archive.merge(packed, tmp_path)
    assert contents(study) == before


# --- Hostile archives -----------------------------------------------------------------------------


def refused(path, tmp_path, match):
    """Refused in one line, and nothing is there afterwards that was not there before."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BadInput, match=match) as error:
        archive.merge(path, tmp_path / "out")
    assert len(str(error.value).splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../study.json", "is no record of a study"),
        (f"{NONE}/seed=2/epochs/../../run.json", "is no record of a study"),
        ("/etc/study.json", "is no record of a study"),
        ("notes.txt", "is no record of a study"),
        (f"{NONE}/seed=2/epochs/0001/state.safetensors", "is no record of a study"),
        (f"{NONE}/seed=2/", "is no record of a study"),
        (f"{NONE}/seed=\u0662/run.json", "is no record of a study"),
        ("norm=" + "x" * 500 + "/seed=2/run.json", "is no record of a study"),
        (f"{NONE}/seed=2/epochs/0004/record.json", "belongs to no committed epoch"),
        (f"{NONE}/seed=2/epochs/00003/record.json", "belongs to no committed epoch"),
        (f"{NONE}/seed=5/banks/scores.json", "belongs to no committed epoch"),
    ],
)
def test_names_that_no_archive_has_are_refused(packed, tmp_path, name, words):
    path = write(tmp_path / "hostile.zip", summed({**entries(packed), name: b"{}"}))
    refused(path, tmp_path, words)


def test_links_and_bombs_are_refused(packed, tmp_path):
    link = zipfile.ZipInfo("audit.json")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    files = entries(packed)
    del files["audit.json"]
    path = tmp_path / "hostile.zip"
    with zipfile.ZipFile(write(path, files), "a") as file:
        file.writestr(link, "/etc/passwd")
    refused(path, tmp_path, "SHA256SUMS: is not what the other files make it")  # it is no link here
    refused(write(path, {"audit.json": bytes(17 << 20)}), tmp_path, "'audit.json' .*over 16 MiB")

    # An entry that unpacks to more than it says is cut off there.
    lying = bytearray(write(path, {"audit.json": bytes(1 << 20)}).read_bytes())
    for at in (lying.index(b"PK\1\2") + 24, 22):
        lying[at : at + 4] = (100).to_bytes(4, "little")
    path.write_bytes(lying)
    refused(path, tmp_path, "not a whole zip: Bad CRC-32 for file 'audit.json'")


def test_an_archive_that_unpacks_to_too_much_is_refused(packed, tmp_path, monkeypatch):
    size = sum(map(len, entries(packed).values()))
    monkeypatch.setattr(archive, "MOST_BYTES", size - 1)
    refused(packed, tmp_path, f"{size:,} bytes unpacked")
    monkeypatch.setattr(archive, "MOST_BYTES", size)
    assert archive.merge(packed, tmp_path / "out").new_runs == 4


def test_every_kind_of_damage_is_refused_by_the_name_of_the_file(packed, tmp_path):
    """Bytes that rotted under way, and files that were changed and packed again."""
    with zipfile.ZipFile(packed) as file:
        entry = file.getinfo(f"{NONE}/seed=2/epochs/0002/samples.png")
    data = bytearray(packed.read_bytes())
    data[entry.header_offset + 200] ^= 1
    path = tmp_path / "hostile.zip"
    path.write_bytes(data)
    refused(
        path, tmp_path, "not a whole zip: Bad CRC-32 for file '.*seed=2/epochs/0002/samples.png'"
    )
    path.write_bytes(packed.read_bytes()[:-100])
    refused(path, tmp_path, "hostile.zip: not a whole zip")
    path.write_bytes(b"")
    refused(path, tmp_path, "hostile.zip: not a whole zip")

    files = entries(packed)
    for name in files:
        changed = {**files, name: files[name][:-2] + b"??"}
        refused(write(path, changed), tmp_path, r"hostile\.zip/.*: ")
        if name != rundir.SUMS:
            refused(write(path, summed(changed)), tmp_path, r"hostile\.zip/.*: ")
        gone = {key: data for key, data in files.items() if key != name}
        refused(write(path, gone), tmp_path, r"hostile\.zip/.*: ")


def test_the_sums_of_an_epoch_name_no_file_outside_of_it(packed, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    files, name = entries(packed), f"{NONE}/seed=2/epochs/0003/{rundir.SUMS}"
    line = f"{hashlib.sha256(b'secret').hexdigest()}  {secret}\n".encode()
    path = write(tmp_path / "hostile.zip", summed({**files, name: files[name] + line}))
    refused(path, tmp_path, "seed=2/epochs/0003/SHA256SUMS: '.*secret' is no file of an epoch")


def moved(files, here, there):
    """The files with those of one folder under another's name."""
    return {name.replace(here, there): data for name, data in files.items() if there not in name}


@pytest.mark.parametrize(
    ("here", "there", "words"),
    [
        (f"{NONE}/seed=2/", f"{NONE}/seed=10/", "seed=2, not seed=10"),
        (f"{NONE}/seed=2/", f"{BATCH}/seed=2/", "norm=none, not norm=batch"),
        (f"{NONE}/seed=2/", f"{NONE}/seed=3/", "is no run of its study.json"),
        ("seed=2/epochs/0001/", "seed=2/epochs/0003/", "belongs to no committed epoch"),
    ],
)
def test_a_record_in_anothers_place_is_refused(packed, tmp_path, here, there, words):
    files = moved(entries(packed), here, there)
    refused(write(tmp_path / "hostile.zip", summed(files)), tmp_path, words)


def test_two_epochs_that_changed_places_are_refused(packed, tmp_path):
    first, second = (f"{NONE}/seed=2/epochs/{epoch}/" for epoch in ("0001", "0002"))
    files = entries(packed)
    swapped = moved(files, first, second) | {
        name.replace(second, first): data for name, data in files.items() if second in name
    }
    path = write(tmp_path / "hostile.zip", summed(swapped))
    refused(path, tmp_path, "0001/record.json: is of another epoch")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"study": "../ablation"}, "study '../ablation' does not exist"),
        ({"seeds": "0"}, "seeds='0': Input should be a valid list"),
        ({"seeds": list(range(10_000))}, "20,000 runs, over 10,000"),
        ({"factors": {**FACTORS, "batch": [64]}}, "batch=64 is no level of ablation here"),
        ({"factors": {"norm": ["none"]}}, "its factors or arms are not those of ablation here"),
        ({"arms": {"baseline": {}}}, "its factors or arms are not those of ablation here"),
        ({"settings": {"data": "../../x"}}, "its data are not those of its settings"),
        ({"commit": None}, "commit=None: Input should be a valid string"),
    ],
)
def test_a_study_that_is_not_known_here_is_refused(made, packed, tmp_path, change, words):
    info = rundir.seal(rundir.unseal(made / "study.json") | change)
    files = summed({**entries(packed), "study.json": info})
    refused(write(tmp_path / "hostile.zip", files), tmp_path, words)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["import", "absent.zip"], "absent.zip: no such file"),
        (["import", "text.zip"], "text.zip: not a whole zip: File is not a zip file"),
        (["export", "-o", "x.zip"], "runs holds no study: make ablation starts one"),
        (["export", ".", "-o", "."], "--file .: is a folder"),
    ],
)
def test_bad_words_are_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, words, line):
    (tmp_path / "text.zip").write_text("text")
    (tmp_path / "study.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["experiments", *words])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"experiments: {line}")
    assert len(said.err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study.json", "text.zip"]


# --- Going on -------------------------------------------------------------------------------------


def plan(study, out, **settings):
    """`make ablation` on the made-up study, up to its plan."""
    info = rundir.unseal(study / "study.json")
    info["settings"] |= settings
    data, pixels = info["data"], np.zeros((10_000, 16, 16, 3), np.uint8)
    images = Images("shapes", "shapes", pixels, np.zeros(10_000, np.int64), data["sha256"])
    wanted = grid.Study("ablation", "small", info["factors"], info["seeds"], info["settings"], {})
    return launch.make_plan(wanted, images, out, "cpu", 1, 1, "offline")


def test_an_unfinished_run_that_was_imported_is_not_made_again(make_study, made, tmp_path):
    begun = {f"{NONE}/seed=2": 2}
    study = make_study(tmp_path / "begun", seeds=(2, 10), committed=begun, **GIVEN)
    archive.pack(study, tmp_path / "begun.zip")
    merged = archive.merge(tmp_path / "begun.zip", tmp_path / "out").study
    words = "records of 2 epochs and no state to go on from to epochs=3; import the rest, or remove"
    with pytest.raises(Differs, match=f"{NONE}/seed=2: .*{words} the run to make it again"):
        plan(made, tmp_path / "out")
    assert rundir.committed(merged / NONE / "seed=2") == [1, 2]
    archive.pack(make_study(tmp_path / "rest", seeds=(2, 10), **GIVEN), tmp_path / "rest.zip")
    archive.merge(tmp_path / "rest.zip", tmp_path / "out")
    assert plan(made, tmp_path / "out").missing == [False] * 4


def test_runs_that_cannot_go_on_are_named_before_anything_is_written(make_study, made, tmp_path):
    """Records without a state: imported ones, and a finished run whose states are gone."""
    out = tmp_path / "out"
    study = out / made.name
    shutil.copytree(made, study)
    assert plan(made, out, epochs=2).epochs_done == 8  # of runs that have made three
    for path in study.glob(f"{NONE}/*/epochs/*/*.safetensors"):
        path.unlink()
    (rundir.epoch_folder(study / BATCH / "seed=2", 3) / rundir.STATE).unlink()
    for path in study.glob("*/*/run.json"):  # of this machine
        stored = rundir.unseal(path)
        config = grid.Config.model_validate(stored["config"])
        stored["fingerprint"] = launch.fingerprint(config, "cpu", 1)
        rundir.replace(path, rundir.seal(stored))
    before = contents(out)
    words = "has records of 3 epochs and no state to go on from to epochs=9; import the rest, or "
    others = f"{BATCH} seed=2, {NONE} seed=10"
    with pytest.raises(Differs, match=f"{NONE}/seed=2: {words}.* again; so have {others}$"):
        plan(made, out, epochs=9)
    assert contents(out) == before

    # What is asked for no longer has nothing to do; the one run that has a state can go on.
    assert plan(made, out, epochs=3).committed == [3, 3, 3, 3]
    shutil.rmtree(study / NONE)
    shutil.rmtree(study / BATCH / "seed=2")
    found = plan(made, out, epochs=9)
    assert (found.committed, found.epochs, found.epochs_done) == ([0, 0, 0, 3], 36, 3)
    assert found.missing == [True] * 4
