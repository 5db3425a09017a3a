"""Finished runs: their networks as they were committed, or refused by name."""

import pytest
import torch

from dcgan import rundir
from dcgan.cli import BadInput
from dcgan.config import Config
from dcgan.models import build, dump_generator
from dcgan.train import dump_state, start, train_epoch
from eval.finished import FinishedRun, Shared, open_runs

CONFIG = Config(resolution=16, width=2, latent_size=4, images=24, batch=8, epochs=3)


@pytest.fixture(scope="module")
def states():
    """The bytes of the states after epochs 1, 2 and 3."""
    state, made = start(CONFIG), []
    for _ in range(CONFIG.epochs):
        train_epoch(state, CONFIG, torch.zeros(24, 16, 16, 3, dtype=torch.uint8))
        made.append(dump_state(state))
    return made


@pytest.fixture
def folder(tmp_path, states):
    """A finished run, which has pruned the state of epoch 1, and kept two generators."""
    run = tmp_path / "study" / "norm=none" / "seed=0"
    rundir.replace(tmp_path / "study" / "study.json", rundir.seal({"data": {"resolution": 32}}))
    rundir.replace(run / "run.json", rundir.seal({"config": CONFIG.model_dump()}))
    generator = dump_generator(build(CONFIG)[0], CONFIG)
    for epoch, data in enumerate(states, 1):
        rundir.commit(run, epoch, {rundir.STATE: data, rundir.GENERATOR: generator})
    rundir.prune(run, CONFIG.epochs)
    (rundir.epoch_folder(run, 2) / rundir.GENERATOR).unlink()
    return run


def state_after(folder, epoch):
    return FinishedRun(folder, CONFIG, epoch, Shared(32, folder)).state()


def test_a_kept_state_is_read(folder, states):
    for epoch in (2, 3):
        state = state_after(folder, epoch)
        assert (state.epoch, dump_state(state)) == (epoch, states[epoch - 1])


def test_what_is_damaged_or_missing_is_named(folder):
    two, three = (rundir.epoch_folder(folder, epoch) for epoch in (2, 3))
    data = bytearray((two / rundir.STATE).read_bytes())
    data[-1] ^= 1
    (two / rundir.STATE).write_bytes(data)
    rundir.commit(folder, 4, {rundir.STATE: b"no tensors"})
    (three / rundir.SUMS).write_text("nonsense\n")
    refused = {
        2: "0002/state.safetensors: its SHA-256 is",
        3: "0003/SHA256SUMS: not enough values",
        4: "0004/state.safetensors: ",
        5: "0005/state.safetensors: No such file or directory",
    }
    for epoch, reason in refused.items():
        with pytest.raises(BadInput, match=r"^[^\n]*$") as error:
            state_after(folder, epoch)
        assert reason in str(error.value)


def opened(where, needs, **chosen):
    return [(run.folder.name, run.epoch) for run in open_runs(where, needs, **chosen)]


def test_runs_are_chosen_by_what_an_analysis_needs(folder, tmp_path, capsys):
    begun, study = folder.with_name("seed=1"), tmp_path / "study"
    rundir.replace(begun / "run.json", (folder / "run.json").read_bytes())
    rundir.commit(begun, 1, {rundir.GENERATOR: b"of one epoch"})
    (begun / "epochs" / ".0002").mkdir()
    assert opened(study, "generator") == [("seed=0", 3), ("seed=1", 1)]
    assert opened(study, "generator", epoch=1) == [("seed=0", 1), ("seed=1", 1)]
    assert capsys.readouterr().err == ""
    assert opened(study, "state") == [("seed=0", 3)]
    assert capsys.readouterr().err == f"left out, 1 of 3 epochs: {begun}\n"
    assert opened(folder, "state", epoch=2) == [("seed=0", 2)]
    assert opened(folder, "config", epoch=1) == [("seed=0", 0)]
    (run,) = open_runs(folder, "generator")
    assert (run.milestones(), run.threads) == ([1, 3], 1)


def test_run_json_is_believed_only_whole(folder):
    path = folder / "run.json"
    whole = path.read_bytes()
    for damaged, reason in (
        (whole.replace(b'"seed": 0', b'"seed": 1'), "is not as it was written"),
        (rundir.seal({"config": {"epochs": 0}}), "epochs=0"),
        (rundir.seal({"settings": {}}), "config"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(BadInput, match=reason) as error:
            open_runs(folder, "generator")
        assert str(path) in str(error.value)
