"""The measuring of speed, without a clock: what is timed, in which order, and what is computed."""

import os
from functools import partial
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import ROOT

from dcgan import data, rundir
from dcgan.config import Config
from dcgan.models import seed_of
from dcgan.train import draw_latent
from experiments import __main__ as command
from experiments import bench
from experiments.bench import Bench


@pytest.fixture
def quick(tmp_path):
    return Bench("cpu", 1, tmp_path, quick=True)


def test_ways_take_turns_after_one_go_that_does_not_count(monkeypatch):
    time, order = [0.0], []
    monkeypatch.setattr(bench, "now", lambda device: time[0])

    def work(name, seconds):
        order.append(name)
        time[0] += seconds[order.count(name) - 1]

    ways = {"a": partial(work, "a", [90, 1, 2, 10]), "b": partial(work, "b", [80, 30, 10, 20])}
    rows = bench.in_turn(ways, "cpu")
    assert order == ["a", "b"] * 4

    # A ratio is the median of the ratios of pairs; the ratio of the medians would be 10.
    expected = {"s": 20, "ratio": 5, "lowest": 2, "highest": 30, "seconds": [30, 10, 20]}
    assert rows["b"] == expected
    assert [rows["a"][key] for key in ("s", "ratio", "lowest", "highest")] == [2, 1, 1, 1]


def test_the_record_is_sealed_and_kept_after_every_part(quick, monkeypatch, capsys):
    rows = [{"what": "a", "s": 0.123456, "n": None, "measured": [1.0, 2.0, 3.0]}]
    monkeypatch.setattr(bench, "PARTS", {"good": lambda bench: rows, "bad": lambda bench: 1 / 0})
    with pytest.raises(ZeroDivisionError):
        bench.write(quick, ["good", "bad"])
    record = rundir.unseal(quick.out / "bench" / "cpu-quick.json")
    assert record["parts"] == {"good": rows}
    assert (record["hardware"]["threads"], bool(record["hardware"]["processor"])) == (1, True)
    assert record["versions"]["torch"] == version("torch")
    shown = capsys.readouterr().out
    assert "0.1235" in shown
    assert "measured" not in shown


@pytest.mark.parametrize("settings", bench.COMPARED.values(), ids=bench.COMPARED)
def test_the_tutorials_loop_computes_what_ours_does(settings):
    config = Config(**settings | {"width": 4, "images": 8, "batch": 8})
    pictures = bench.noise(8, 32)
    ours = bench.our_epoch(config, pictures, "cpu")
    log, z = ours(), draw_latent(config, "train", 1, 8)
    stream = torch.Generator().manual_seed(seed_of(config.seed, "order", 1))
    order = torch.randperm(8, generator=stream)

    # The same images in the same order, the same noise, from the same weights.
    theirs = bench.tutorial_epoch(config, pictures, "cpu")
    (G, D), (_, adam_d), loader, *_ = theirs.args
    real = torch.stack([data.to_signed(ours.args[2][i].permute(2, 0, 1)) for i in order])
    with mock.patch.object(torch, "randn", return_value=z):
        losses = bench.tutorial_loop(*theirs.args[:2], [real], *theirs.args[3:])
    assert losses[0] == pytest.approx((log.d_loss[0], log.g_loss[0]), abs=1e-5)
    assert len(losses) == 1

    # One step has led both to the same weights, as far as rounding allows Adam's first step.
    state = ours.args[0]
    for net, same in (G, state.G), (D, state.D):
        for p, q in zip(net.parameters(), same.parameters(), strict=True):
            assert (p - q).abs().mean() < 0.05 * config.lr_g

    # What is wasteful on purpose: gradients that nobody uses, an Adam of many small steps.
    assert all(p.grad.abs().sum() > 0 for p in D.parameters())
    assert not adam_d.defaults["fused"]
    assert (loader.num_workers, loader.batch_size) == (2, 8)


@pytest.mark.parametrize(("resolution", "tolerance"), [(32, 1e-6), (64, 1.5 / 127.5)])
def test_the_tutorials_images_are_ours_but_for_the_rounding_of_a_level(resolution, tolerance):
    pictures = bench.noise(4, 32)
    images = data.Images("noise", "array", pictures, np.zeros(4, np.int64), "")
    resized = torch.from_numpy(data.resize(images, resolution).pixels)
    expected = data.to_signed(resized).permute(0, 3, 1, 2)
    theirs = bench.tutorial_batch(list(pictures), resolution)
    assert theirs.shape == (4, 3, resolution, resolution)
    assert (theirs - expected).abs().max() < tolerance


def test_training_is_measured_at_every_scale_and_against_the_tutorials_loop(quick, monkeypatch):
    ticks = iter(range(10**6))
    monkeypatch.setattr(bench, "now", lambda device: float(next(ticks)))
    rows = bench.training(quick)
    assert [row["networks"] for row in rows if row["loop"] == "ours"] == list(bench.CASES)
    assert [row["networks"] for row in rows if row["loop"] != "ours"] == list(bench.COMPARED)
    for row in rows:  # every epoch took a second of this clock
        assert (row["images/s"], row["ratio"], row["seconds"]) == (32, 1.0, [1.0, 1.0, 1.0])


def test_an_epoch_is_the_time_between_two_commits(monkeypatch, tmp_path):
    def imitate(words, env, **options):
        assert env["WANDB_MODE"] == "offline"
        run = Path(words[words.index("--out") + 1]) / "study" / "arm" / "seed=0"
        timing = rundir.to_json({"train_seconds": 7.0, "score_seconds": 2.0})
        for epoch in (1, 2, 3):
            rundir.commit(run, epoch, {rundir.TIMING: timing})
            os.utime(rundir.epoch_folder(run, epoch) / rundir.SUMS, (0, 10 * epoch))

    monkeypatch.setattr(bench.subprocess, "run", imitate)
    rows = {row["part"]: row["s"] for row in bench.epoch(Bench("cpu", 1, tmp_path))}
    assert rows == {"training": 7, "scoring": 2, "commit and W&B": 1, "epoch": 10}
    assert not list(tmp_path.iterdir())


def test_commands_are_measured_on_the_published_study(quick, monkeypatch):
    given = []

    def imitate(words):
        given.append(words)
        assert all((Path(x) / "study.json").is_file() for x in words if bench.STUDY in x)
        return float(len(given))

    monkeypatch.setattr(bench, "cpu_seconds", imitate)
    rows = {row["command"]: row["seconds"] for row in bench.commands(quick)}
    assert rows == {"help": [2], "plan": [4], "status": [6], "report": [8]}
    assert [len({"--help", "--plan"} & {*words}) for words in given] == [1, 1, 1, 1, 0, 0, 0, 0]


def test_only_the_parts_asked_for_are_measured_in_their_order(tmp_path, monkeypatch, capsys):
    made = {name: lambda bench, name=name: [{"what": name}] for name in bench.PARTS}
    monkeypatch.setattr(bench, "PARTS", made)
    words = ["--out", str(tmp_path), "--only", "epoch", "training", "--quick", "--device", "cpu"]
    assert command.main(["bench", *words]) == 0
    path = tmp_path / "bench" / "cpu-quick.json"
    assert list(rundir.unseal(path)["parts"]) == ["training", "epoch"]
    assert capsys.readouterr().out.endswith(f"wrote {path}\n")

    # Images that are not there are refused before anything is measured.
    assert command.main(["bench", *words, "--data", "nowhere"]) == 2
    assert capsys.readouterr() == ("", "experiments: nowhere: no such file or folder\n")


def test_the_page_of_speeds_says_what_the_published_record_does():
    (path,) = (ROOT / "reports" / "published" / "bench").iterdir()
    parts = rundir.unseal(path)["parts"]
    speeds = {row["networks"]: row for row in parts["training"]}
    share = {row["part"]: 100 * row["share"] for row in parts["epoch"]}
    taken = {row["command"]: row["s"] for row in parts["commands"]}
    said = [f"{speeds['small']['images/s']:,.0f} at small, {speeds['cifar32']['images/s']:.0f} at"]
    said += [f"`help` takes {taken['help']:.2f} s", f"drawn first, {taken['plan']:.2f} s"]
    said += [f"`status` takes {taken['status']:.2f} s", f"the report {taken['report']:.2f} s"]
    for row in speeds["blog64"], speeds["paper, 64x64"]:
        said.append(f"{row['ratio']:.2f} ({row['lowest']:.2f} to {row['highest']:.2f}) times")
    said.append(f"{share['scoring']:.1f} % of an epoch at small, ")
    said.append(f"the commit and W&B {share['commit and W&B']:.1f} %")
    page = " ".join((ROOT / "docs" / "speed.md").read_text().split())
    assert [text for text in said if text not in page] == []
