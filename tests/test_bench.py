"""The measuring of speed, without a clock: what is timed, in which order, and what is computed."""

import itertools
import sys
from functools import partial
from importlib.metadata import version
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from dcgan import data, rundir
from dcgan.config import Config
from dcgan.models import seed_of
from dcgan.train import draw_latent, dump_state, start, train_epoch
from eval import metrics
from experiments import __main__ as command
from experiments import bench, grid
from experiments.bench import Bench

TINY = Config(resolution=16, width=4, images=50, batch=20)


@pytest.fixture
def quick(tmp_path):
    made = Bench("cpu", 1, tmp_path, quick=True)
    made.folder.mkdir()
    return made


@pytest.fixture
def ticks(monkeypatch):
    """A clock that is one second later whenever it is read."""
    count = itertools.count()
    monkeypatch.setattr(bench, "now", lambda device: float(next(count)))


def pixels(count=50, side=16):
    return torch.from_numpy(bench.noise(count, side))


# --- How it is measured ---------------------------------------------------------------------------


def test_ways_take_turns_after_one_go_that_does_not_count(monkeypatch):
    time, order = [0.0], []
    monkeypatch.setattr(bench, "now", lambda device: time[0])

    def work(name, seconds):
        order.append(name)
        time[0] += seconds[order.count(name) - 1]
        return len(order)

    ways = {"a": partial(work, "a", [90, 1, 2, 4]), "b": partial(work, "b", [80, 8, 16, 32])}
    seconds, first = bench.in_turn(ways, 3, "cpu")
    assert seconds == {"a": [1, 2, 4], "b": [8, 16, 32]}
    assert first == {"a": 1, "b": 2}
    assert order == ["a", "b"] * 4


def test_a_ratio_is_the_median_of_the_ratios_of_pairs():
    # The ratio of the medians would be 10.
    assert bench.compare([1, 2, 10], [30, 10, 20]) == {"ratio": 5, "lowest": 2, "highest": 30}


def test_processes_take_as_long_as_from_the_first_to_the_last():
    spans = [{"began": 5.0, "ended": 8.0}, {"began": 4.5, "ended": 6.0}]
    assert bench.duration(spans) == 3.5


def test_the_record_is_sealed_and_kept_after_every_part(quick, monkeypatch):
    rows = [{"what": "a", "s": 2.0, "measured": [1.0, 2.0, 3.0]}]
    monkeypatch.setattr(bench, "PARTS", {"good": lambda bench: rows, "bad": lambda bench: 1 / 0})
    shown = []
    with pytest.raises(ZeroDivisionError):
        bench.write(quick, ["good", "bad"], shown.append)
    record = rundir.unseal(quick.out / "bench" / "cpu-quick.json")
    assert record["parts"] == {"good": rows}
    assert record["hardware"]["threads"] == 1
    assert record["hardware"]["processor"]
    assert record["versions"]["torch"] == version("torch")
    assert len(shown) == 1
    assert [path.name for path in quick.out.rglob("*")] == ["bench", "cpu-quick.json"]


def test_a_table_shows_everything_but_the_lists():
    rows = [
        {"what": "a", "n": 1000, "s": 0.123456, "measured": [1.0]},
        {"what": "b", "n": 2, "s": None, "measured": []},
    ]
    text = "\n## part\n\n| what | n | s |\n| --- | --- | --- |\n| a | 1000 | 0.1235 |\n| b | 2 |  |"
    assert bench.to_text("part", rows) == text


def test_a_gpu_trains_on_more_images():
    settings = {"images": 256, "batch": 512, "width": 128}
    config = Bench("cpu", 1, "").config(settings)
    assert (config.images, config.batch, config.width) == (256, 256, 128)
    config = Bench("cuda:1", 1, "").config(settings)
    assert (config.images, config.batch, config.width) == (256 * bench.ON_A_GPU, 512, 128)


# --- Training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", bench.COMPARED.values(), ids=bench.COMPARED)
def test_the_plain_loop_computes_what_ours_does(settings):
    config = Config(**settings | {"width": 4, "images": 8, "batch": 8})
    pictures = bench.noise(8, 32)
    ours = bench.our_pass(config, pictures, "cpu")
    log = ours()
    stream = torch.Generator().manual_seed(seed_of(config.seed, "order", 1))
    order = torch.randperm(8, generator=stream)
    z = draw_latent(config, "train", 1, 8)

    # The same images in the same order, the same noise, from the same weights.
    G, D, adam_g, adam_d, loader, size, device = bench.plain_pass(config, pictures, "cpu").args
    real = torch.stack([data.to_signed(ours.args[2][i].permute(2, 0, 1)) for i in order])
    with mock.patch.object(torch, "randn", return_value=z):
        losses = bench.plain_epoch(G, D, adam_g, adam_d, [(real, 0)], size, device)
    assert losses == [
        (pytest.approx(log.d_loss[0], abs=1e-5), pytest.approx(log.g_loss[0], abs=1e-5))
    ]

    # One step has led both to the same weights, as far as rounding allows Adam's first step.
    state = ours.args[0]
    for net, same in (G, state.G), (D, state.D):
        for p, q in zip(net.parameters(), same.parameters(), strict=True):
            assert (p - q).abs().mean() < 0.05 * config.lr_g

    # What is wasteful on purpose: gradients that nobody uses, an Adam of many small steps.
    assert all(p.grad.abs().sum() > 0 for p in D.parameters())
    assert not adam_d.defaults["fused"]
    assert (loader.num_workers, loader.persistent_workers, loader.batch_size) == (2, True, 8)


def test_the_blogs_networks_are_those_of_its_scale():
    scale = grid.define("ablation", "blog64").settings
    assert bench.COMPARED["blog64"].items() <= scale.items()


def test_pictures_are_what_ours_are():
    pictures = bench.noise(4, 32)
    native = bench.Pictures(pictures, bench.plain_transform(32, 32))
    expected = data.to_signed(torch.from_numpy(pictures)).permute(0, 3, 1, 2)
    assert len(native) == 4
    found = torch.stack([native[i][0] for i in range(4)])
    assert torch.allclose(found, expected, rtol=0, atol=1e-6)

    # Pillow resizes as ours does, but for the rounding of a level.
    resized = torch.stack([bench.plain_transform(32, 64)(Image.fromarray(x)) for x in pictures])
    images = data.Images("noise", "array", pictures, np.zeros(4, np.int64), "")
    expected = data.to_signed(torch.from_numpy(data.resize(images, 64).pixels)).permute(0, 3, 1, 2)
    assert resized.shape == (4, 3, 64, 64)
    assert (resized - expected).abs().max() < 1.5 / 127.5


def test_training_is_measured_at_every_scale_and_against_the_plain_loop(quick, ticks):
    rows = bench.training(quick)
    assert [row["networks"] for row in rows] == list(bench.CASES)
    assert len({tuple(row) for row in rows}) == 1
    for row in rows:
        # Every pass took a second of this clock, the product too.
        assert row["images/s"] == row["images"] == 32
        share = row["GFLOP an image"] * 1e9 * 32 / (2 * 256**3)
        assert row["of a matrix product"] == pytest.approx(share, rel=1e-12)
        compared = row["networks"] in bench.COMPARED
        assert row["ratio"] == (1.0 if compared else None)
        assert row["plain seconds"] == ([1.0, 1.0] if compared else [])
        assert row["seconds"] == [1.0, 1.0]


def test_a_gpu_trains_in_other_precisions_too():
    assert bench.cases("cpu") == {name: (name, "fp32") for name in bench.CASES}
    more = {name: case for name, case in bench.cases("cuda:1").items() if name not in bench.CASES}
    assert more == {
        "cifar32 in tf32": ("cifar32", "tf32"),
        "cifar32 in bf16": ("cifar32", "bf16"),
        "blog64 in tf32": ("blog64", "tf32"),
        "blog64 in bf16": ("blog64", "bf16"),
    }


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_product_is_measured_in_the_precision_of_training(quick, monkeypatch, precision):
    measured = []

    def in_turn(ways, rounds, device):
        setting = torch.backends.cuda.matmul.fp32_precision
        measured.append((setting == "tf32", ways["product"]().dtype))
        return {"product": [2.0, 4.0, 4.0]}, {}

    monkeypatch.setattr(bench, "in_turn", in_turn)
    assert bench.product_speed(quick, precision) == 2 * 256**3 / 4
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    assert measured == [(precision == "tf32", dtype)]


def test_each_case_is_compared_with_a_product_of_its_own(quick, ticks, monkeypatch):
    chosen = {"a": ("smoke", "fp32"), "b": ("smoke", "bf16")}
    monkeypatch.setattr(bench, "cases", lambda device: chosen)
    monkeypatch.setattr(bench, "product_speed", lambda _, each: {"fp32": 1e9, "bf16": 4e9}[each])
    one, other = bench.training(quick)
    assert one["of a matrix product"] == 4 * other["of a matrix product"]


# --- Processes ------------------------------------------------------------------------------------


def test_processes_train_at_the_same_time(quick):
    config = quick.config({"images": 32, "resolution": 16})
    spans = bench.together(config, 2, 1, "cpu")
    size = len(dump_state(start(config)))
    assert [span["state"] for span in spans] == [size, size]
    assert all(1e8 < span["peak"] < 4e9 for span in spans)  # PyTorch alone has some 200 MB
    assert all(span["ended"] > span["began"] for span in spans)

    with pytest.raises(ChildProcessError, match="trained on nowhere ended early"):
        bench.together(config, 1, 1, "nowhere")


def test_images_of_all_processes_count(quick, monkeypatch):
    seconds = {(2, 1): [2.0, 4.0], (1, 2): [4.0, 2.0]}
    monkeypatch.setattr(
        bench,
        "together",
        lambda config, jobs, threads, device: [
            {"began": 1.0, "ended": 1.0 + seconds[jobs, threads].pop(0)}
        ],
    )
    rows = bench.jobs(quick)
    assert [row["seconds an image"] for row in rows] == [[2 / 64, 4 / 64], [4 / 32, 2 / 32]]
    assert [row["images/s"] for row in rows] == [64 / 3, 32 / 3]
    assert (rows[1]["ratio"], rows[1]["lowest"], rows[1]["highest"]) == (2.5, 1.0, 4.0)
    assert rows[0]["ratio"] == 1.0
    assert [row["fastest"] for row in rows] == ["yes", None]


def test_several_processes_share_a_gpu(tmp_path, monkeypatch):
    seen = []

    def together(config, jobs, threads, device):
        seen.append((config.width, jobs, threads, device))
        return [{"began": 0.0, "ended": {1: 1.0, 2: 1.5, 4: 2.0, 8: 8.0}[jobs]}]

    monkeypatch.setattr(bench, "together", together)
    rows = bench.jobs(Bench("cuda", 1, tmp_path))
    assert seen == [(128, jobs, 1, "cuda") for jobs in (1, 2, 4, 8)] * 3
    assert [row["processes x threads"] for row in rows] == ["1 x 1", "2 x 1", "4 x 1", "8 x 1"]
    assert [row["ratio"] for row in rows] == [1.0, 0.75, 0.5, 1.0]
    assert [row["fastest"] for row in rows] == [None, None, "yes", None]


def test_growth_changes_one_factor_at_a_time(tmp_path, monkeypatch):
    seen = []

    def together(config, jobs, threads, device):
        seen.append((jobs, config.images, config.resolution, config.width, config.batch))
        return [{"began": 0.0, "ended": 2.0, "state": 5_000_000, "peak": 7_000_000}]

    monkeypatch.setattr(bench, "together", together)
    rows = bench.growth(Bench("cpu", 1, tmp_path))
    base = (1, 512, 32, 32, 128)
    places = {"jobs": 0, "images": 1, "resolution": 2, "width": 3, "batch": 4}
    for row, config in zip(rows, seen[::2], strict=True):
        place = places[row["factor"]]
        assert config == (*base[:place], row["level"], *base[place + 1 :])
        assert row["images/s"] == config[0] * config[1] / 2
        assert (row["state MB"], row["peak MB"]) == (5.0, 7.0)
    assert seen == [config for config in seen[::2] for _ in range(2)]
    assert {row["factor"] for row in rows} == set(places)


# --- Scores ---------------------------------------------------------------------------------------


def test_three_scorers_see_the_same_images(quick, ticks):
    rows = bench.scoring(quick)
    assert [row["scored by"] for row in rows] == ["ours", "torchmetrics", "torch-fidelity"]
    assert [row["images/s"] for row in rows] == [100.0] * 3
    assert all(row["ratio"] == 1.0 and row["seconds"] == [1.0, 1.0] for row in rows)


@pytest.mark.parametrize(("count", "width"), [(500, 64), (101, 50), (40, 3)])
def test_waves_have_the_distance_that_they_claim(count, width):
    x, y, exact = bench.waves(count, width)
    assert metrics.frechet_distance(metrics.moments(x), metrics.moments(y)) == pytest.approx(
        exact, rel=1e-12
    )

    # The definition, with the root of a product that happens to be symmetric.
    C, D = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    assert np.allclose(C @ D, D @ C, rtol=0, atol=1e-12)
    root = np.sqrt(np.linalg.eigvalsh(C @ D).clip(0)).sum()
    offset = x.mean(0) - y.mean(0)
    assert offset @ offset + np.trace(C + D) - 2 * root == pytest.approx(exact, rel=1e-6)
    assert abs(C[0, -1]) > 1e-3  # no diagonal matrices, which would be easy


def test_every_way_to_the_distance_finds_it(quick, ticks):
    rows = bench.frechet(quick)
    assert [row["computed by"] for row in rows] == ["ours", "torch-fidelity", "sqrtm"]
    assert all(row["s"] == row["ratio"] == 1.0 for row in rows)
    assert rows[0]["error"] < 1e-13
    assert all(row["error"] < 1e-9 for row in rows)


# --- One epoch ------------------------------------------------------------------------------------


def test_an_epoch_in_pieces_is_the_epoch():
    one, other = start(TINY), start(TINY)
    laps = []
    log = bench.train_in_pieces(one, TINY, pixels(), laps.append)
    assert log == train_epoch(other, TINY, pixels())
    assert dump_state(one) == dump_state(other)
    assert laps == ["data and noise", "G", "D", "G"] * 3 + ["losses"]

    # Nothing is left to be timed.
    train_epoch(one, TINY, pixels())
    assert len(laps) == 13


def test_a_stopwatch_adds_up(ticks):
    lap, seconds = bench.stopwatch("cpu")
    for name in ("a", "b", "a", "a"):
        lap(name)
    assert seconds == {"a": 3.0, "b": 1.0}


def test_pieces_and_the_rest_are_the_epoch():
    for pieces, other in ({"D": 5.0, "G": 3.0}, 2.0), ({"D": 8.0, "G": 3.0}, -1.0):
        *parts, rest, whole = bench.shares(10.0, pieces)
        assert {part["piece"]: part["s"] for part in parts} == pieces
        assert rest == {"piece": "other", "s": other, "share": other / 10}
        assert whole == {"piece": "epoch", "s": 10.0, "share": 1.0}
        assert sum(part["share"] for part in [*parts, rest]) == pytest.approx(1.0, rel=1e-12)


def test_the_pieces_of_an_epoch_are_those_of_a_real_run(quick, ticks):
    with mock.patch.object(rundir, "prune", wraps=rundir.prune) as prune:
        *pieces, rest, whole = bench.epoch(quick)
    assert [call.args[1] for call in prune.call_args_list] == [1, 2, 3]
    names = ["data and noise", "G", "D", "losses", "scoring", "commit", "W&B"]
    assert [row["piece"] for row in pieces] == names

    # Five steps of 128 of 600 images; each reading of this clock is a second later.
    assert [row["s"] for row in pieces] == [5.0, 10.0, 5.0, 1.0, 1.0, 1.0, 1.0]
    assert whole["s"] == 1.0
    assert rest["s"] == -23.0
    assert not list(quick.folder.iterdir())


# --- The way to the first epoch -------------------------------------------------------------------


class Study:
    """A command that prints, and whose clock goes on by a second with each line."""

    def __init__(self, lines):
        self.time, self.ended = 100.0, False
        self.stdout = self.read(lines)

    def read(self, lines):
        for line in lines:
            self.time += 1
            yield line

    def terminate(self):
        self.ended = True

    def communicate(self):
        assert self.ended


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [(["epochs  2", "a  epoch 1/2  fd", "a  epoch 2/2"], 2.0), (["epochs  1/2", "failed"], None)],
)
def test_the_first_epoch_ends_the_waiting(quick, monkeypatch, lines, seconds):
    (quick.folder / "ablation-smoke-shapes").mkdir()
    (quick.folder / "cache").mkdir()
    study = Study(lines)
    monkeypatch.setattr(bench, "now", lambda device: study.time)
    environ = []

    def popen(command, env, **options):
        environ.append(env["WANDB_MODE"])
        return study

    monkeypatch.setattr(bench.subprocess, "Popen", popen)
    monkeypatch.setenv("WANDB_MODE", "online")
    if seconds:
        assert bench.seconds_to_first_epoch(quick, quick.folder) == seconds
    else:
        with pytest.raises(ChildProcessError, match=r"ablation.* ended without an epoch"):
            bench.seconds_to_first_epoch(quick, quick.folder)
    assert study.ended
    assert environ == ["disabled"]
    assert [path.name for path in quick.folder.iterdir()] == ["cache"]


# --- The command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--only", "epoch", "epochs"], "--only epochs: not one of training, jobs, scoring, "),
        (["--device", "tpu"], "--device tpu: there is only cpu"),
        (["--threads", "0"], "'0' is not a positive number"),
    ],
)
def test_wrong_words_are_refused_and_nothing_is_made(tmp_path, monkeypatch, capsys, words, line):
    monkeypatch.setattr(sys, "argv", ["experiments", "bench", "--out", f"{tmp_path}/out", *words])
    with pytest.raises(SystemExit) as error:
        command.main()
    assert error.value.code == 2
    assert line in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_only_the_parts_asked_for_are_measured_in_their_order(tmp_path, monkeypatch, capsys):
    made = {name: lambda bench, name=name: [{"what": name}] for name in bench.PARTS}
    monkeypatch.setattr(bench, "PARTS", made)
    words = ["--out", str(tmp_path), "--only", "growth", "jobs", "--quick", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["experiments", "bench", *words])
    reported = []
    monkeypatch.setattr(command, "_report", lambda path, quiet: reported.append(path) or 0)
    assert command.main() == 0
    path = tmp_path / "bench" / "cpu-quick.json"
    record = rundir.unseal(path)
    assert record["parts"] == {"jobs": [{"what": "jobs"}], "growth": [{"what": "growth"}]}
    assert list(record["parts"]) == ["jobs", "growth"]
    assert record["quick"] is True
    assert reported == [path]
    assert capsys.readouterr().out.endswith(f"wrote {path}\n")
