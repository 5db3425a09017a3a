"""The cost of D's heads: operations worked out by hand, and the order of what is timed."""

import json

import numpy as np
import pytest
import torch

from dcgan import rundir
from dcgan.config import Config
from dcgan.models import MAP, channels
from eval import heads as work
from eval.__main__ import main
from eval.heads import HEADS, TITLES, heads, operations, random_pixels, step_speeds

CONFIG = Config(resolution=16, width=4, latent_size=8, images=40, batch=20, epochs=2)


@pytest.fixture(autouse=True)
def threads():
    """PyTorch's threads are put back, as a command sets them."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def of_a_step(config):
    """Multiplications for each image, by hand: of G's images, of D's step and of G's step."""
    widths = [3, *channels(config)]
    top = widths[-1]

    # One pass: each output of a convolution, or input of a transposed one.
    sides = [config.resolution >> i for i in range(1, len(widths))]
    layers = [16 * a * b * side**2 for a, b, side in zip(widths, widths[1:], sides, strict=False)]
    first, between = layers[0], sum(layers)
    D = between + 16 * top * (1 if config.head == "conv" else 4)
    into = config.latent_size * top * MAP**2
    G = between + into

    # D: two passes there and back, but for the gradient of images. G: the way back, but for the
    # gradient of noise; and there and back through D, whose weights need no gradient.
    return G, 2 * (3 * D - first), 2 * G - into + 2 * D


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("stem", ["conv", "linear"])
@pytest.mark.parametrize("resolution", [16, 64])
def test_operations_are_those_of_the_layers(resolution, stem, head):
    config = Config(resolution=resolution, width=4, stem=stem, head=head)
    assert operations(config) == sum(of_a_step(config))


def test_a_step_of_g_is_shared_by_its_steps_of_d():
    config = CONFIG.model_copy(update={"d_steps": 4})
    images, D, G = of_a_step(config)  # G makes images for every step of D
    assert operations(config) == images + D + G / 4


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_heads_differ_by_four_kernels_to_one(norm):
    # Of a head's multiplications there are eight a step: with real, generated and G's own images
    # forward; twice to its weights; three times to its input.
    found = {
        head: operations(CONFIG.model_copy(update={"head": head, "norm": norm})) for head in HEADS
    }
    top = channels(CONFIG)[-1]
    assert found["avgpool"] - found["conv"] == 8 * (4 - 1) * 16 * top


def test_the_batch_does_not_change_the_operations_of_an_image():
    assert operations(CONFIG) == operations(CONFIG.model_copy(update={"batch": 40}))


def test_pairs_alternate_and_every_sample_is_of_the_same_images(monkeypatch):
    shown = []

    def seconds(config, device, pixels):
        shown.append((config.head, (len(pixels), int(pixels.sum()))))
        return len(pixels) / {"conv": 100, "avgpool": 200}[config.head]

    monkeypatch.setattr(work, "_seconds", seconds)
    config = CONFIG.model_copy(update={"d_steps": 3})
    configs = {head: config.model_copy(update={"head": head}) for head in HEADS}
    speeds, images = step_speeds(configs, "cpu", 4)

    # 60 images are too few for the faster head: 0.3 s and 0.6 s are enough, 0.25 s being asked for.
    assert images == 60
    monkeypatch.setattr(work, "SECONDS", 0.5)
    speeds, images = step_speeds(configs, "cpu", 4)
    assert images == 120
    order, seen = zip(*shown[-8:], strict=True)
    assert list(order) == [
        "conv",
        "avgpool",
        "avgpool",
        "conv",
        "conv",
        "avgpool",
        "avgpool",
        "conv",
    ]
    assert len(set(seen)) == 1
    assert {name: each.tolist() for name, each in speeds.items()} == {
        "conv": [100] * 4,
        "avgpool": [200] * 4,
    }


def test_values_are_medians_over_pairs(monkeypatch):
    speeds = {
        "conv": np.array([10.0, 20, 40, 50, 100]),
        "avgpool": np.array([10.0, 10, 60, 50, 400]),
    }
    monkeypatch.setattr(work, "step_speeds", lambda *_: (speeds, 40))
    values = heads(CONFIG, "cpu", 5).values
    assert list(values) == list(TITLES)
    assert (values["step_speed_conv"], values["step_speed_avgpool"]) == (40, 50)
    assert (values["ratio_low"], values["ratio"], values["ratio_high"]) == (1, 1, 1.5)


def test_random_pixels_are_even_and_the_same_again():
    pixels = random_pixels(CONFIG, 100)
    assert (pixels.shape, pixels.dtype) == ((100, 16, 16, 3), torch.uint8)
    assert pixels.double().mean().item() == pytest.approx(127.5, abs=1.5)
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert torch.equal(pixels, random_pixels(CONFIG, 100))


# --- The command line -----------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Two finished runs, without states, and one that is not finished."""
    monkeypatch.setattr(work, "SECONDS", 0.01)
    folder = tmp_path / "study"
    rundir.replace(folder / "study.json", rundir.seal({"data": {"resolution": 16}}))
    for seed, (head, done) in enumerate([("conv", 2), ("avgpool", 2), ("conv", 1)]):
        config = CONFIG.model_copy(update={"seed": seed, "head": head})
        run = folder / f"head={head}" / f"seed={seed}"
        content = {"config": config.model_dump()}
        content |= {"fingerprint": {"threads": 2}} if seed else {}
        rundir.replace(run / "run.json", rundir.seal(content))
        for epoch in range(1, done + 1):
            rundir.commit(run, epoch, {})
    return folder


def run_heads(capsys, *words):
    try:
        code = main(["heads", *map(str, words), "--device", "cpu", "--pairs", "2"])
    except SystemExit as end:
        code = end.code
    return code, *capsys.readouterr()


def test_heads_of_a_study_from_the_command_line(study, capsys):
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    code, shown, progress = run_heads(capsys, study)
    runs = [study / "head=avgpool" / "seed=1", study / "head=conv" / "seed=0"]
    assert code == 0
    assert progress.splitlines() == [
        f"left out, 1 of 2 epochs: {study / 'head=conv' / 'seed=2'}",
        *(f"measured {number} of 2: {run}, epoch 0" for number, run in enumerate(runs, 1)),
    ]
    after = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    assert {path: after[path] for path in before} == before
    assert set(after) - set(before) == {run / "eval" / "heads.json" for run in runs}

    # Either run is counted with both heads; its threads are its own.
    for run, threads in zip(runs, (2, 1), strict=True):
        found = json.loads((run / "eval" / "heads.json").read_bytes())
        values, about = found["values"], found["about"]
        assert values["operations_avgpool"] - values["operations_conv"] == 24 * 16 * 8
        assert min(values["step_speed_conv"], values["step_speed_avgpool"]) > 0
        assert 0 < values["ratio_low"] <= values["ratio"] <= values["ratio_high"]
        assert (about["threads"], about["pairs"], about["device"]) == (threads, 2, "cpu")
        assert f"{about['processor']}, threads={threads}, PyTorch {torch.__version__}" in shown
        assert about["images"] % CONFIG.batch == 0

    assert run_heads(capsys, runs[0])[2] == f"kept 1 of 1: {runs[0]}, epoch 0\n"
    said = run_heads(capsys, runs[0], "--again", "--threads", 1)[2]
    assert said == f"measured 1 of 1: {runs[0]}, epoch 0\n"
    found = json.loads((runs[0] / "eval" / "heads.json").read_bytes())
    assert found["about"]["threads"] == 1


def test_bad_input_is_one_line_and_writes_nothing(study, capsys, tmp_path):
    plain = study / "model=mlp" / "seed=0"
    config = CONFIG.model_copy(update={"model": "mlp"})
    rundir.replace(plain / "run.json", rundir.seal({"config": config.model_dump()}))
    for epoch in (1, 2):
        rundir.commit(plain, epoch, {})
    before = sorted(study.rglob("*"))
    refused = {
        (tmp_path / "nowhere",): "nowhere: no such folder",
        (study / "head=conv" / "seed=2",): "no finished run in this folder",
        (study,): f"{plain}: model=mlp has no convolutions",
        (study, "--threads", 0): "'--threads': 0 is not in the range",
    }
    for words, reason in refused.items():
        code, shown, complaint = run_heads(capsys, *words)
        assert (code, shown) == (2, ""), words
        assert reason in complaint.splitlines()[-1]
    assert sorted(study.rglob("*")) == before
