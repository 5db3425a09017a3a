"""`python -m dcgan sample`: the images of a kept generator, and files that are refused."""

from functools import partial

import numpy as np
import pytest
import torch
from conftest import contents, write_files
from PIL import Image
from safetensors.torch import save

from dcgan import rundir
from dcgan.__main__ import main
from dcgan.config import Config
from dcgan.models import build, dump_generator
from dcgan.train import draw_latent, generate
from eval.extractors import WEIGHTS

CONFIG = Config(resolution=16, width=2, latent_size=4, images=40, batch=20, seed=5)


@pytest.fixture(scope="module")
def G(make_generator):
    return make_generator(CONFIG)


@pytest.fixture
def file(G, tmp_path):
    path = tmp_path / "generator.safetensors"
    path.write_bytes(dump_generator(G, CONFIG))
    return path


@pytest.fixture
def run_sample(run_command):
    return partial(run_command, main, "sample")


@pytest.fixture
def refused(refusal):
    return partial(refusal, main, "sample")


def test_files_hold_what_the_generator_makes_of_the_seeds_noise(G, file, run_sample, tmp_path):
    out = tmp_path / "new" / "images"
    said = f"wrote 12 images of 16x16 to {out}\n"
    assert run_sample(file, "-n", 12, "--seed", 3, "--out", out) == (0, said, "")
    assert [path.name for path in sorted(out.iterdir())] == [f"{i:04d}.png" for i in range(12)]

    # The scorer's own images, of noise in which the run's seed has no part.
    z = draw_latent(CONFIG.model_copy(update={"seed": 3}), "sample", 0, 12)
    expected = generate(G, z).permute(0, 2, 3, 1).numpy()
    result = np.stack([np.asarray(Image.open(out / f"{i:04d}.png")) for i in range(12)])
    assert np.array_equal(result, expected)
    assert len(np.unique(result.reshape(12, -1), axis=0)) == 12


def test_a_grid_is_the_files_side_by_side(file, run_sample, tmp_path):
    run_sample(file, "-n", 5, "--out", tmp_path / "images")
    shown = run_sample(file, "-n", 5, "--grid", tmp_path / "grid.png")
    assert shown == (0, f"wrote 5 images of 16x16 to {tmp_path / 'grid.png'}\n", "")
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (32, 48, 3)
    for i in range(5):
        y, x = 16 * (i // 3), 16 * (i % 3)
        image = np.asarray(Image.open(tmp_path / "images" / f"{i:04d}.png"))
        assert np.array_equal(grid[y : y + 16, x : x + 16], image)
    assert (grid[16:, 32:] == 255).all()


def test_of_a_run_it_is_the_last_kept_generator(G, file, run_sample, refused, tmp_path):
    other = build(CONFIG.model_copy(update={"seed": 6}))[0]
    run = tmp_path / "run"
    for epoch, net in ((2, other), (10, G)):
        rundir.commit(run, epoch, {rundir.GENERATOR: dump_generator(net, CONFIG)})
    rundir.commit(run, 11, {rundir.RECORD: b"{}"})
    for name, checkpoint in (("by file", file), ("by run", run)):
        run_sample(checkpoint, "-n", 3, "--out", tmp_path / name)
    assert contents(tmp_path / "by file") == contents(tmp_path / "by run")

    # It has to be the one that was committed.
    path = run / "epochs" / "0010" / rundir.GENERATOR
    path.write_bytes(path.read_bytes()[:-1] + b"\1")  # a weight that is still finite
    for checkpoint in (run, path):
        said = refused(checkpoint, "--out", tmp_path / "out")
        assert said == f"dcgan: {path}: its SHA-256 is not the committed one\n"


def test_a_published_generator_is_taken_by_as_much_of_its_name_as_is_unique(
    G, file, run_sample, refused, tmp_path, monkeypatch
):
    monkeypatch.setattr("dcgan.rundir.PUBLISHED", tmp_path / "published")
    out, absent = ("--out", tmp_path / "out"), "no such file or folder, and "
    there_are_none = f"{absent}no published generator has this in the name: there are none"
    assert refused("batch=128", *out) == f"dcgan: batch=128: {there_are_none}\n"

    names = [f"norm=none,batch={batch},seed=0" for batch in (128, 512)]
    nets = G, build(CONFIG.model_copy(update={"seed": 6}))[0]
    data = [dump_generator(net, CONFIG) for net in nets]
    files = {f"{name}.safetensors": x for name, x in zip(names, data, strict=True)}
    rundir.place(tmp_path / "published/study/generators", files)
    run_sample(file, "-n", 3, "--out", tmp_path / "by file")
    for number, name in enumerate(["batch=128", names[0]]):
        assert run_sample(name, "-n", 3, "--out", tmp_path / f"by name {number}")[0] == 0
        assert contents(tmp_path / f"by name {number}") == contents(tmp_path / "by file")

    listed = "; ".join(f"study/{name}" for name in names)
    for name, which in (("batch", "several published generators have"), ("x", "no published")):
        complaint = refused(name, *out)
        assert complaint.startswith(f"dcgan: {name}: {absent}{which}")
        assert complaint.endswith(f" this in the name: {listed}\n")

    # It has to be the one that was published.
    path = tmp_path / "published/study/generators" / f"{names[0]}.safetensors"
    path.write_bytes(data[1])
    said = f"dcgan: {path}: its SHA-256 is not the committed one\n"
    assert refused("batch=128", *out) == said


def test_what_is_no_generator_is_refused_by_name(G, file, refused, tmp_path):
    broken = build(CONFIG)[0]
    torch.nn.init.constant_(broken.to_rgb.weight, torch.nan)
    bad = [
        (b"", "not a generator"),
        (file.read_bytes()[:-1], "not a generator"),
        ((WEIGHTS / "cifar10-resnet.safetensors").read_bytes(), "not a generator"),
        (save(G.state_dict()), "not a generator"),  # without a config
        (dump_generator(broken, CONFIG), "the generator's images are not finite"),
    ]
    for data, reason in bad:
        file.write_bytes(data)
        complaint = refused(file, "-n", 2, "--out", tmp_path / "out")
        assert complaint.startswith(f"dcgan: {file}: {reason}")


def test_bad_input_is_one_line_and_leaves_everything_as_it_was(file, refused, tmp_path):
    full, taken, empty = tmp_path / "full", tmp_path / "taken.png", tmp_path / "empty"
    empty.mkdir()
    write_files(tmp_path, {"full/0000.png": b"mine", "taken.png": b"mine"})
    out = ("--out", tmp_path / "out")
    reasons = {
        (file, "--out", full): f"--out {full}: is there already",
        (file, "--out", taken): f"--out {taken}: is there already",
        (file, "--grid", empty): f"--grid {empty}: is there already",
        (file,): "one of the options --out and --grid is required",
        (file, *out, "--grid", taken.with_name("new")): "one of the options --out and --grid is",
        (tmp_path / "nowhere", *out): f"{tmp_path / 'nowhere'}: no such file or folder",
        (full, *out): f"{full}: no epoch here kept its generator",
        (file, *out, "-n", 0): "'-n': 0 is not in the range",
    }
    for words, reason in reasons.items():
        assert reason in refused(*words)
