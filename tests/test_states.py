"""States of finished runs: as they were committed, trained again, or refused by name."""

import pytest
import torch

from dcgan import rundir
from dcgan.config import Config
from dcgan.data import shapes
from dcgan.train import dump_state, start, train_epoch
from eval.states import last_epoch, read_config, state_after

CONFIG = Config(resolution=16, width=2, latent_size=4, images=24, batch=8, epochs=3)


@pytest.fixture(scope="module")
def pixels():
    return shapes(24).pixels[:, ::2, ::2].copy()


@pytest.fixture(scope="module")
def states(pixels):
    """The bytes of the states after epochs 1, 2 and 3."""
    state, found = start(CONFIG), []
    for _ in range(CONFIG.epochs):
        train_epoch(state, CONFIG, torch.from_numpy(pixels))
        found.append(dump_state(state))
    return found


@pytest.fixture
def run(tmp_path, states):
    """A finished run, which has pruned the state of epoch 1."""
    folder = tmp_path / "norm=none" / "seed=0"
    rundir.replace(folder / "run.json", rundir.seal({"config": CONFIG.model_dump()}))
    for epoch, data in enumerate(states, 1):
        rundir.commit(folder, epoch, {rundir.STATE: data})
    rundir.prune(folder, CONFIG.epochs)
    return folder


def test_a_kept_state_is_read(run, states, capsys):
    for epoch in (2, 3):
        state, config = state_after(run, epoch, None)
        assert (state.epoch, config) == (epoch, CONFIG)
        assert dump_state(state) == states[epoch - 1]
    assert dump_state(state_after(run, "last", None)[0]) == states[2]
    assert capsys.readouterr().err == ""


def test_a_pruned_state_is_trained_again_to_the_committed_bytes(run, states, pixels, capsys):
    state, _ = state_after(run, 1, pixels)
    assert (state.epoch, dump_state(state)) == (1, states[0])
    said = capsys.readouterr().err
    assert said == f"{run}: the state of epoch 1 is pruned; training it again\n"


def test_other_bytes_are_not_passed_over(run, states, pixels, capsys):
    state, _ = state_after(run, 1, 255 - pixels)
    assert dump_state(state) != states[0]
    assert "this machine's epoch 1 is not the committed one" in capsys.readouterr().err


def test_what_is_damaged_or_missing_is_named(run, pixels):
    two, three = (rundir.epoch_folder(run, epoch) for epoch in (2, 3))
    data = bytearray((two / rundir.STATE).read_bytes())
    data[-1] ^= 1
    (two / rundir.STATE).write_bytes(data)
    rundir.commit(run, 4, {rundir.STATE: b"no tensors"})
    rundir.commit(run, 5, {rundir.RECORD: b"{}"})
    (three / rundir.SUMS).write_text("nonsense\n")
    refused = {
        1: "0001/state.safetensors: is pruned, and cannot be made again without the images",
        2: "0002/state.safetensors: its SHA-256 is",
        3: "0003/SHA256SUMS: not enough values",
        4: "0004/state.safetensors: ",
        5: "0005/SHA256SUMS: names no state.safetensors",
        6: "0006/SHA256SUMS: No such file or directory",
    }
    for epoch, reason in refused.items():
        with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
            state_after(run, epoch, None)
        assert reason in str(error.value)


def test_a_state_of_another_config_is_refused(run, states):
    wider = CONFIG.model_copy(update={"width": 3})
    rundir.replace(run / "run.json", rundir.seal({"config": wider.model_dump()}))
    with pytest.raises(ValueError, match="does not belong to this config"):
        state_after(run, 3, None)


def test_run_json_is_believed_only_whole(run):
    assert read_config(run) == CONFIG
    path = run / "run.json"
    whole = path.read_bytes()
    for damaged, reason in (
        (whole.replace(b'"seed": 0', b'"seed": 1'), "is not as it was written"),
        (whole[:-3], "is not as it was written"),
        (rundir.seal({"config": {"epochs": 0}}), "epochs=0"),
        (rundir.seal({"settings": {}}), "config"),
        (None, "No such file"),
    ):
        path.write_bytes(damaged) if damaged else path.unlink()
        with pytest.raises(ValueError, match=reason) as error:
            read_config(run)
        assert str(path) in str(error.value)


def test_only_committed_epochs_count(run, tmp_path):
    (run / "epochs" / ".0004").mkdir()
    (run / "epochs" / "0005").mkdir()
    assert last_epoch(run) == 3
    assert last_epoch(tmp_path) == 0
