"""Finished runs scored on more noise, made and scored in miniature."""

import json
import shutil
from dataclasses import replace

import pytest
from conftest import recommit

from dcgan import rundir
from dcgan.config import Config
from dcgan.data import keep, shapes
from experiments import __main__ as command
from experiments.resample import load_kept, make_plan, score_run
from experiments.run import Job, measure, references, run

RUNS = ("norm=none,head=conv,batch=20/seed=0", "norm=batch,head=conv,batch=20/seed=0")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study of two finished runs: 60 images, 2 epochs, 40 generated for a score. Read only."""
    out = tmp_path_factory.mktemp("made")
    images = shapes(60)
    keep(images, out / "cache", 16)
    study = out / "tiny"
    rundir.replace(study / "study.json", rundir.seal({"data": {"resolution": 32}}))
    given = {"batch": 20, "images": 60, "resolution": 16, "width": 4, "epochs": 2}
    given |= {"score_images": 40, "reference_images": 60, "data_sha256": images.sha256}
    for name, norm in zip(RUNS, ("none", "batch"), strict=True):
        config = Config(norm=norm, **given)
        run(Job(config, study / name, 16, "cpu", 1, False, "disabled"))
    return study


@pytest.fixture
def study(made, tmp_path):
    """A copy of that study to write in."""
    shutil.copytree(made.parent, tmp_path / "out")
    return tmp_path / "out" / made.name


def plan(study, sets=3):
    """The runs that lack evaluation sets, by name, and how many others there are."""
    jobs, counts = make_plan(study, sets, "cpu", 1)
    return {job.folder.relative_to(study).as_posix(): job for job in jobs}, counts


def stored(study, name=RUNS[0]):
    return json.loads((study / name / "banks" / "scores.json").read_bytes())


def give(job, epoch, source, number):
    """Give an epoch the generator of another and its scores, as if it had been committed so."""
    data = (rundir.epoch_folder(source.folder, number) / rundir.GENERATOR).read_bytes()
    recommit(job.folder, epoch, {rundir.GENERATOR: data})
    rescore(job, epoch, own_scores(job, epoch))


def rescore(job, epoch, scores):
    """Give the record of an epoch other scores."""
    record = rundir.read_json(job.folder, epoch, rundir.RECORD) | {"scores": scores}
    recommit(job.folder, epoch, {rundir.RECORD: rundir.to_json(record)})


def own_scores(job, epoch):
    """What a run itself would record: set 0."""
    return measure(load_kept(job, epoch), job.config, epoch, references(job)[0])


def damage(path):
    """Flip a bit in the last byte of a file; returns what it was."""
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    return whole


def test_every_set_and_every_epoch_has_noise_of_its_own(study):
    # The same generator at both epochs: the scores differ by their noise alone.
    job = plan(study)[0][RUNS[0]]
    give(job, 1, job, 2)
    score_run(job, 4)
    scored = stored(study)
    assert (scored["banks"], [*scored["epochs"]]) == (4, ["1", "2"])
    sets = [own_scores(job, 1), own_scores(job, 2), *scored["epochs"]["1"], *scored["epochs"]["2"]]
    values = [scores["fd_cifar"] for scores in sets]
    assert len(values) == len(set(values)) == 8
    middle = sorted(values)[4]
    assert all(0.3 * middle < value < 3 * middle for value in values)


def test_arms_of_a_seed_share_the_noise_of_every_set(study):
    # With the generator of the other arm, a run has the other arm's scores.
    one, other = (plan(study)[0][name] for name in RUNS)
    for epoch in (1, 2):
        give(other, epoch, one, epoch)
    for job in (one, other):
        score_run(job, 3)
    assert stored(study, RUNS[0]) == stored(study, RUNS[1])

    # Another seed has other noise.
    seeded = replace(other, config=other.config.model_copy(update={"seed": 1}))
    for epoch in (1, 2):
        give(seeded, epoch, one, epoch)
    score_run(seeded, 3)
    one, two = (stored(study, name)["epochs"]["1"][0]["fd_cifar"] for name in RUNS)
    assert one != two
    assert 0.3 * one < two < 3 * one


def test_scores_are_one_commit_beside_the_epochs_and_damage_is_mended(study):
    before = {path: path.read_bytes() for path in study.glob("*/*/epochs/*/*")}
    job, folder = plan(study)[0][RUNS[0]], study / RUNS[0] / "banks"
    score_run(job, 3)
    assert sorted(path.name for path in folder.iterdir()) == ["SHA256SUMS", "scores.json"]
    assert {path: path.read_bytes() for path in study.glob("*/*/epochs/*/*")} == before
    lacking, counts = plan(study)
    assert (list(lacking), counts["done"]) == ([RUNS[1]], 1)

    # Damage is seen, and mended with the same bytes.
    whole = damage(folder / "scores.json")
    assert plan(study)[1]["done"] == 0
    score_run(job, 3)
    assert (folder / "scores.json").read_bytes() == whole


def test_more_sets_are_the_same_ones_and_more(study):
    score_run(plan(study)[0][RUNS[0]], 3)
    few, (lacking, counts) = stored(study), plan(study, 4)
    assert plan(study, 2)[1]["done"] == 1
    assert counts["done"] == 0
    score_run(lacking[RUNS[0]], 4)
    many = stored(study)
    assert {epoch: scores[:2] for epoch, scores in many["epochs"].items()} == few["epochs"]
    assert [len(scores) for scores in many["epochs"].values()] == [3, 3]


def test_runs_that_cannot_be_scored_are_left_out_and_counted(study):
    shutil.rmtree(rundir.epoch_folder(study / RUNS[0], 2))
    for path in (study / RUNS[1]).glob("epochs/*/generator.safetensors"):
        path.unlink()
    assert plan(study) == ({}, {"unfinished": 1, "without": 1})


def test_a_machine_that_does_not_give_the_recorded_scores_is_refused(study):
    job = plan(study)[0][RUNS[0]]
    scores = rundir.read_json(job.folder, 2, rundir.RECORD)["scores"]
    rescore(job, 2, scores | {"kd_cifar": scores["kd_cifar"] * (1 + 1e-12)})
    with pytest.raises(rundir.Differs, match="kd_cifar at epoch 2 is"):
        score_run(job, 3)
    assert not (study / RUNS[0] / "banks").exists()


def test_the_command_scores_what_is_missing_and_names_what_failed(study, capfd):
    path = rundir.epoch_folder(study / RUNS[1], 1) / rundir.GENERATOR
    whole, other = damage(path), study / RUNS[0] / "banks" / "scores.json"
    words = ["resample", str(study), "--device", "cpu", "--jobs"]
    assert command.main([*words, "2"]) == 1
    shown = capfd.readouterr().out
    assert "2 runs are to be scored, 8 times in all" in shown
    assert "generator.safetensors: its SHA-256 is not the committed one" in shown
    assert not (study / RUNS[1] / "banks").exists()
    before = other.stat().st_mtime_ns

    # The same command, once the file is back; the other run is left as it is.
    path.write_bytes(whole)
    assert command.main([*words, "1"]) == 0
    shown = capfd.readouterr().out
    assert "1 runs are to be scored, 4 times in all" in shown
    assert "[1/1 runs]" in shown
    assert other.stat().st_mtime_ns == before

    # Runs that have their sets need no machine any more.
    assert make_plan(study, 3, "cpu", 2) == ([], {"done": 2})


def test_another_machine_is_refused_in_one_line(made, capsys):
    assert command.main(["resample", str(made), "--threads", "2", "--device", "cpu"]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert "threads=1 is stored, threads=2 is asked for" in err
