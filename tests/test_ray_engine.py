"""The parts of the Ray engine that need no Ray; whole studies are in test_ray.py."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from dcgan import rundir
from dcgan.cli import BadInput
from dcgan.config import Config
from experiments import grid, launch, plan, ray_engine
from experiments.progress import Progress, Row

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("cpus", "gpus", "threads", "share", "runs"),
    [
        (0, 0, 1, 0, 0),  # a head without processors
        (16, 0, 3, 0, 5),
        (16, 4, 1, 0.25, 16),
        (64, 4, 1, 0.3, 12),  # three on each GPU: no run is cut in two
        (64, 5, 1, 2, 2),
        (64, 0, 1, 0.25, 0),
    ],
)
def test_a_node_takes_runs_by_its_processors_and_gpus(cpus, gpus, threads, share, runs):
    demand = {"num_cpus": threads, "num_gpus": share}
    assert ray_engine._capacity({"CPU": cpus, "GPU": gpus}, demand) == runs


def test_epochs_are_shown_once_and_only_if_they_are_whole(make_study, tmp_path):
    folder = make_study(tmp_path, epochs=4, factors={"norm": ["none"]}) / "norm=none" / "seed=0"
    run, job = grid.Run(Config(epochs=4), "norm=none"), SimpleNamespace(folder=folder)
    record, shown = rundir.epoch_folder(folder, 3) / rundir.RECORD, []
    whole = record.read_bytes()
    state = Progress(1, 4, 0, 1, rows={str(run): Row(1, 4)})
    for data in (b"{}", whole, whole):
        record.write_bytes(data)
        launch._show_epochs(state, run, job, lambda _, event: shown.append(event.split()[1]))
        assert state.rows[str(run)].epoch == state.epochs_done == (2 if data == b"{}" else 4)
    assert shown == ["2/4", "3/4", "4/4"]


@pytest.mark.parametrize("address", ["cluster", "ray://127.0.0.1:1", "127.0.0.1:x", "127.0.0.1:1"])
def test_an_address_where_no_cluster_answers_is_refused(address):
    pytest.importorskip("ray")
    with pytest.raises(BadInput, match=f"^--ray-address {address}: no Ray answers there"):
        ray_engine.max_parallel("cpu", 1, address, 1.0)


def test_the_table_of_costs_is_that_of_the_published_study():
    study = ROOT / "reports" / "published" / "ablation-small"
    timings = [json.loads(path.read_text()) for path in study.glob("*/*/epochs/*/timing.json")]
    runs = len(list(study.glob("*/*/run.json")))
    seconds = sum(each["train_seconds"] + each["score_seconds"] for each in timings) / runs
    first = grid.runs(grid.fit(grid.define("ablation", "small", 1, []), "images", "", 10_000))[0]
    text = (ROOT / "docs" / "cluster.md").read_text()
    assert f"A `small` run takes {seconds:.0f} s on one core: the mean over the {runs} runs" in text
    assert f"takes {plan._disk(first) / 1e6:.0f} MB at most" in text
    for count, shown in ((10, ".2f"), (100, ".1f"), (1_000, ".0f"), (10_000, ".0f")):
        hours, size = count * seconds / 3600, count * plan._disk(first) / 1e9
        assert f"| {count:,} | {hours:{shown}} | {size:{shown}} GB |" in text
