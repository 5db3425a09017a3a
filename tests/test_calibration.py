"""What every metric says of images that no training made: the sets, their scores, their file."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dcgan import rundir
from dcgan.cli import BadInput
from dcgan.config import Config
from dcgan.data import canonical, shapes
from dcgan.models import build
from dcgan.train import draw_latent, generate
from eval import calibration
from eval.calibration import HALF, TEST, calibrate, coarse, gaussian, held_out
from eval.extractors import classifier
from eval.metrics import CALIBRATION
from eval.score import reference
from experiments import __main__ as command
from experiments import grid
from reports import records
from reports.analysis import analyse

CONFIG = Config(resolution=16, width=4, images=600, score_images=200, reference_images=400)


@pytest.fixture(scope="module")
def drawn():
    return shapes(1400)


@pytest.fixture(scope="module")
def held(drawn):
    return held_out(drawn, None, CONFIG, 16)


@pytest.fixture(scope="module")
def real(drawn):
    return calibration.resize(drawn, 16).pixels[: CONFIG.reference_images]


@pytest.fixture(scope="module")
def compared(real, tmp_path_factory):
    return [reference(classifier(), real, "a" * 64, tmp_path_factory.mktemp("features"))]


@pytest.fixture(scope="module")
def made(compared, real, held):
    """A calibration at the size of `smoke`."""
    return calibrate(compared, real, held, CONFIG, {})


def rows_of(pixels):
    return {image.tobytes() for image in pixels}


def test_the_second_half_is_none_of_the_runs_images(drawn):
    result = held_out(drawn, None, CONFIG, 32)
    assert (result.source, result.seen, len(result.pixels)) == (HALF, 0, 200)
    assert np.array_equal(result.pixels, drawn.pixels[700:900])
    assert result.sha256 == drawn.sha256

    # Where the runs see more than half, what they do not see; and where they see all, the rest.
    result = held_out(drawn, None, CONFIG.model_copy(update={"images": 1300}), 32)
    assert (result.seen, len(result.pixels)) == (0, 100)
    assert not rows_of(result.pixels) & rows_of(drawn.pixels[:1300])
    result = held_out(drawn, None, CONFIG.model_copy(update={"images": 1400}), 32)
    assert (result.source, result.seen, len(result.pixels)) == (HALF, 200, 200)

    # Of one class, its own images.
    config = CONFIG.model_copy(update={"classes": "3", "images": 60, "reference_images": 60})
    result = held_out(drawn, None, config, 32)
    assert len(result.pixels) == 70
    assert rows_of(result.pixels) <= rows_of(drawn.pixels[drawn.labels == 3])


def test_a_test_split_gives_what_the_runs_do_not_see(drawn):
    new = shapes(1700).pixels[1400:]  # with higher hashes than the first ones of `drawn`
    mixed = canonical("mixed", np.concatenate([drawn.pixels[:50], new]), np.zeros(350, int))
    result = held_out(drawn, mixed, CONFIG, 32)
    assert (result.source, result.seen, len(result.pixels)) == (TEST, 0, 200)
    assert not rows_of(result.pixels) & rows_of(drawn.pixels[:600])
    assert rows_of(result.pixels) < rows_of(mixed.pixels)
    assert result.sha256 == mixed.sha256
    few = held_out(drawn, mixed, CONFIG.model_copy(update={"score_images": 2000}), 16)
    assert few.pixels.shape == (300, 16, 16, 3)


def test_no_test_split_is_refused_by_its_name(drawn):
    with pytest.raises(BadInput, match="shapes is no test split of shapes: 0 of its images are"):
        held_out(drawn, calibration.of_classes(drawn, "all", 500), CONFIG, 32)
    small = dataclasses.replace(calibration.resize(drawn, 16), name="small")
    with pytest.raises(BadInput, match="small is no test split of shapes: their sides differ"):
        held_out(drawn, small, CONFIG, 16)


def test_the_gaussian_has_the_mean_and_the_covariance_of_the_pixels():
    rng = np.random.default_rng(0)
    mixing = rng.normal(0, 3, (12, 12))
    pixels = (128 + rng.normal(0, 1, (3000, 12)) @ mixing).round().astype(np.uint8)
    result = gaussian(pixels.reshape(3000, 2, 2, 3), 20_000)
    assert (result.shape, result.dtype) == ((20_000, 2, 2, 3), np.uint8)
    flat_rows = result.reshape(-1, 12).astype(float)
    wanted = np.cov(pixels.astype(float), rowvar=False)
    spread = np.sqrt(np.outer(wanted.diagonal(), wanted.diagonal()))
    assert np.abs(flat_rows.mean(axis=0) - pixels.mean(axis=0)).max() < 0.35  # 4 errors of a mean
    assert np.abs((np.cov(flat_rows, rowvar=False) - wanted) / spread).max() < 0.05
    assert np.abs(np.corrcoef(flat_rows, rowvar=False) - np.eye(12)).max() > 0.3  # of which some


def test_coarse_images_keep_the_means_of_areas_alone():
    rng = np.random.default_rng(0)
    means = torch.from_numpy(rng.integers(20, 236, size=(4, 3, 8, 8), dtype=np.uint8))
    plain = means.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    detail = torch.from_numpy(rng.permutation(np.repeat([-16, 16], 8)).reshape(4, 4))
    detailed = (plain.int() + detail.repeat(8, 8)).to(torch.uint8)
    result = coarse(detailed)
    assert (result.shape, result.dtype) == (plain.shape, torch.uint8)
    assert torch.equal(result, coarse(plain))
    assert not torch.equal(result, plain)  # enlarged bilinearly, not by squares
    assert torch.equal(coarse(means), means)


def test_the_untrained_generator_is_that_of_seed_0(real, held):
    given = dict(calibration.sets(real, held, CONFIG, "cpu"))
    assert [*given] == [*CALIBRATION]
    assert {(len(images), images.dtype) for images in given.values()} == {(200, torch.uint8)}
    wanted = generate(build(CONFIG)[0], draw_latent(CONFIG, "calibration", 0, 200))
    assert (given["untrained"].float() - wanted.float()).abs().max() <= 1
    wide = CONFIG.model_copy(update={"resolution": 32})
    assert dict(calibration.sets(real, held, wide, "cpu"))["untrained"].shape[-1] == 32


def test_the_metrics_put_the_sets_in_order(made, compared):
    rows = made["rows"]
    assert [*rows] == [*CALIBRATION]
    for row in rows.values():
        assert list(row) == list(compared[0].extractor.metrics) == list(made["identities"])
    distance = {name: row["fd_cifar"] for name, row in rows.items()}
    assert 3 * distance["held-out"] < min(distance["gaussian"], distance["8x8"])
    assert 10 * distance["held-out"] < distance["flat"] < distance["untrained"]
    assert rows["held-out"]["recall_cifar"] > 0.8 > rows["flat"]["recall_cifar"]
    assert (made["images"], made["held_out_images"]) == (200, 200)
    assert made["identities"]["fd_cifar"]["generated"] == 200


def test_a_stored_calibration_is_current_while_nothing_better_is_known(made, compared):
    more = dataclasses.replace(compared[0].extractor, metrics={"fd_other": None})
    both = [*compared, dataclasses.replace(compared[0], extractor=more)]
    assert calibration.is_current(made, compared, HALF, set())
    assert calibration.is_current(made | {"held_out": TEST}, compared, HALF, set())
    of_cats = made | {"untrained": {"cat": {}, "dog": {}}}
    assert calibration.is_current(of_cats, compared, HALF, {"cat"})
    for stored, references, source, others in (
        (made, compared, TEST, set()),
        (made, both, HALF, set()),
        ({}, compared, HALF, set()),
        (of_cats, compared, HALF, {"ship"}),
    ):
        assert not calibration.is_current(stored, references, source, others)


def test_a_study_is_calibrated_again_for_a_test_split_and_other_classes(
    write_images, tmp_path, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr("experiments.study.report", lambda study: 0)
    monkeypatch.setattr(grid, "HERE", tmp_path)
    shutil.copytree(Path(grid.__file__).parent / "scales", tmp_path / "scales")
    (tmp_path / "studies").mkdir()
    arms = 'arms:\n  all: {}\n  squares: {classes: "1"}\n'
    (tmp_path / "studies" / "kinds.yaml").write_text(arms)
    words = ["kinds", "images=128", "reference_images=128", "epochs=1"]
    words += ["--scale", "smoke", "--seeds", "1", "--data", "shapes", "--out", str(tmp_path)]
    folder = tmp_path / "kinds-smoke-shapes"

    # The first arm alone, with the second half held out.
    assert command.main([*words, "arm=all"]) == 0
    alone = rundir.unseal(folder / rundir.CALIBRATION)
    assert alone["untrained"] == {}
    known = records.load(folder).calibration
    assert [*known.index] == [*CALIBRATION]
    assert known.notna().all(axis=None)
    assert known.attrs["held_out"] == HALF

    # Both arms, and a test split, which takes the place of the second half; the rest stays.
    place = write_images(tmp_path / "new", shapes(400).pixels[-40:], ["."] * 40)
    assert command.main([*words, "--test", place]) == 0
    both = rundir.unseal(folder / rundir.CALIBRATION)
    assert (both["held_out"], both["held_out_images"], both["images"]) == (TEST, 40, 200)
    for name in ("gaussian", "flat", "untrained"):
        assert both["rows"][name] == alone["rows"][name]

    # The untrained generator is compared with the images of each arm.
    of_all, of_one = both["rows"]["untrained"]["fd_cifar"], both["untrained"]["1"]["fd_cifar"]
    assert of_one != pytest.approx(of_all, rel=0.05)
    known = analyse(records.load(folder)).untrained_of
    assert known.to_dict() == {"arm=all/seed=0": of_all, "arm=squares/seed=0": of_one}


def test_records_take_the_metrics_that_were_measured_alike(make_study, calibrate_study, tmp_path):
    one = {"norm": ["none"], "head": ["conv"], "batch": [128]}
    folder = make_study(tmp_path, epochs=2, factors=one)
    assert records.load(folder).calibration.empty
    stored = calibrate_study(folder)
    stored["identities"]["kd_cifar"]["network_sha256"] = "0" * 64
    rows = stored["rows"]
    rows["flat"]["fd_cifar"] = None
    rundir.replace(folder / rundir.CALIBRATION, rundir.seal(stored))
    study = records.load(folder)
    assert "kd_cifar" not in study.calibration
    assert records.calibrated(study, "cs_cifar").to_dict() == {
        name: row["cs_cifar"] for name, row in rows.items()
    }
    assert "flat" not in records.calibrated(study, "fd_cifar")
    again = records.calibrated(study, "fd_cifar_reestimated")
    assert again.equals(records.calibrated(study, "fd_cifar"))
    assert not len(records.calibrated(study, "fid"))
    records.write(study, tmp_path / "report")
    assert (tmp_path / "report" / "calibration.csv").read_text().count("\n") == 6

    del rows["8x8"]["cs_cifar"]
    rundir.replace(folder / rundir.CALIBRATION, rundir.seal(stored))
    with pytest.raises(rundir.Damaged, match=r"calibration\.json: lacks 'cs_cifar'"):
        records.load(folder)
