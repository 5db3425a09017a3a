"""Finished runs: their networks as they were committed, and what analyses leave there."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from dcgan import rundir
from dcgan.cli import BadInput
from dcgan.config import Config
from dcgan.models import dump_generator
from dcgan.train import dump_state, load_state, start
from eval.finished import FinishedRun, Result, open_runs, store, stored, to_text

CONFIG = Config(resolution=16, width=2, latent_size=4, images=24, batch=8, epochs=3)
TITLES = {"near": "how near", "far": "how far"}
RESULT = Result({"near": 0.1234567890123, "far": 3}, TITLES, {"images": 5}, ["A sentence."])


@pytest.fixture
def folder(tmp_path, write_run):
    """A finished run, which has pruned the state of epoch 1, and kept two generators."""
    states = [start(CONFIG.model_copy(update={"seed": seed})) for seed in range(CONFIG.epochs)]
    epochs = [
        {rundir.STATE: dump_state(x), rundir.GENERATOR: dump_generator(x.G, CONFIG)} for x in states
    ]
    run = write_run(tmp_path / "study", CONFIG, epochs)
    rundir.prune(run, CONFIG.epochs)
    (rundir.epoch_folder(run, 2) / rundir.GENERATOR).unlink()
    return run


def test_both_networks_are_those_of_the_epoch_or_refused_by_name(folder):
    runs = [FinishedRun(folder, CONFIG, epoch, 32, folder) for epoch in (2, 3)]
    for run in runs:
        data = (rundir.epoch_folder(folder, run.epoch) / rundir.STATE).read_bytes()
        D = load_state(data, CONFIG).D
        for name, tensor in run.discriminator().state_dict().items():
            assert torch.equal(tensor, D.state_dict()[name])
    assert [FinishedRun(folder, CONFIG, 3, native, folder).side for native in (8, 32)] == [8, 16]
    path = rundir.epoch_folder(folder, 3) / rundir.GENERATOR
    assert runs[0].generator(3).state_dict().keys() == runs[1].generator().state_dict().keys()
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(BadInput, match=r"0003/generator\.safetensors: its SHA-256 is"):
        runs[1].generator()
    with pytest.raises(BadInput, match=r"0002/generator\.safetensors: No such file"):
        runs[0].generator()


def test_runs_are_chosen_by_what_an_analysis_needs(folder, tmp_path, capsys):
    def opened(where, needs, **chosen):
        return [(run.folder.name, run.epoch) for run in open_runs(where, needs, **chosen)]

    begun, study = folder.with_name("seed=1"), tmp_path / "study"
    rundir.replace(begun / "run.json", (folder / "run.json").read_bytes())
    rundir.commit(begun, 1, {rundir.GENERATOR: b"of one epoch"})
    (begun / "epochs" / ".0002").mkdir()
    plain = shutil.copytree(folder, folder.with_name("seed=2"))
    config = CONFIG.model_copy(update={"model": "mlp"}).model_dump()
    rundir.replace(plain / "run.json", rundir.seal({"config": config}))
    assert opened(study, "generator") == [("seed=0", 3), ("seed=1", 1), ("seed=2", 3)]
    assert opened(study, "generator", epoch="1") == [(f"seed={i}", 1) for i in range(3)]
    assert capsys.readouterr().err == ""
    left_out = (
        f"left out, 1 of 3 epochs: {begun}\nleft out, model=mlp has no convolutions: {plain}\n"
    )
    for needs, epoch in (("state", 3), ("config", 0)):
        assert opened(study, needs) == [("seed=0", epoch)]
        assert capsys.readouterr().err == left_out
    assert opened(folder, "state", epoch="2") == [("seed=0", 2)]
    (run,) = open_runs(folder, "generator")
    assert (run.kept(), run.threads) == ([1, 3], 1)


def test_what_is_written_is_read_again_with_all_digits_or_null(tmp_path):
    run = FinishedRun(tmp_path, CONFIG, 2, 32, tmp_path)
    assert stored(run, "near") is None
    content = store(run, "near", RESULT)
    assert stored(run, "near") == content
    assert (content["tool"], content["values"]) == ("near", RESULT.values)
    assert stored(replace(run, epoch=1), "near") is None
    assert [path.name for path in (tmp_path / "eval").iterdir()] == ["near.json"]
    store(run, "near", replace(RESULT, picture=b"a picture"))
    assert (tmp_path / "eval" / "near.png").read_bytes() == b"a picture"
    values = {"near": float("nan"), "far": float("inf"), "other": None, "zero": 0.0}
    content = store(run, "near", replace(RESULT, values=values))
    assert stored(run, "near") == content
    assert content["values"] == {"near": None, "far": None, "other": None, "zero": 0}

    # What is damaged is no result.
    path = tmp_path / "eval" / "near.json"
    whole = path.read_bytes()
    assert list(json.loads(whole)) == ["tool", "epoch", "values", "titles", "about", "notes"]
    for damaged in (b"", whole[:-5]):
        path.write_bytes(damaged)
        assert stored(run, "near") is None


def test_the_table_has_a_column_for_each_run_and_each_note_once(monkeypatch):
    monkeypatch.setenv("COLUMNS", "24")
    first = {"epoch": 2, **vars(RESULT)}
    other = first | {"epoch": 10, "values": {"near": None}, "notes": ["A sentence.", "B."]}
    assert to_text({"runs/a": first, "b": other}).splitlines() == [
        "1  runs/a, epoch 2",
        "2  b, epoch 10",
        "",
        "run            1  2",
        "how near  0.1235  –",
        "how far        3  –",
        "",
        "A sentence.",
        "B.",
    ]
    assert "\n\nrun            3\n" in to_text({"a" * 9: first, "b": first, "c": first})
