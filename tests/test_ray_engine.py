"""The parts of the Ray engine that need no Ray; whole studies are in test_ray.py."""

from types import SimpleNamespace

import pytest

from dcgan import rundir
from dcgan.cli import BadInput
from dcgan.config import Config
from experiments import launch, ray_engine


@pytest.mark.parametrize(
    ("cpus", "gpus", "threads", "device", "share", "runs"),
    [
        (16, 0, 3, "cpu", 1, 5),
        (16, 4, 1, "cuda", 0.25, 16),
        (64, 5, 1, "cuda", 2, 2),
        (1, 0, 4, "cpu", 1, 1),  # Ray that is started here is told of as many as one run takes
    ],
)
def test_runs_at_a_time_go_by_processors_and_gpus(
    monkeypatch, cpus, gpus, threads, device, share, runs
):
    monkeypatch.setattr(launch, "cores", lambda: cpus)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert ray_engine.max_parallel(device, threads, None, share) == runs


def test_epochs_are_shown_once_and_only_if_they_are_whole(make_study, tmp_path):
    folder = make_study(tmp_path, epochs=4, factors={"norm": ["none"]}) / "norm=none" / "seed=0"
    job = SimpleNamespace(folder=folder, name="norm=none seed=0", config=Config(epochs=4))
    record, lines, seen = rundir.epoch_folder(folder, 3) / rundir.RECORD, [], {job.name: 1}
    shown = SimpleNamespace(commit=lambda run, epoch, *_: lines.append(epoch))
    whole = record.read_bytes()
    for data, epoch in ((b"{}", 2), (whole, 4), (whole, 4)):
        record.write_bytes(data)
        launch._show_epochs(shown, job, seen)
        assert seen == {job.name: epoch}
    assert lines == [2, 3, 4]


@pytest.mark.parametrize("address", ["cluster", "ray://127.0.0.1:1", "127.0.0.1:x", "127.0.0.1:1"])
def test_an_address_where_no_cluster_answers_is_refused(address):
    pytest.importorskip("ray")
    with pytest.raises(BadInput, match=f"^--ray-address {address}: no Ray answers there"):
        ray_engine.max_parallel("cpu", 1, address, 1.0)
