"""Images that no memory holds. What is measured is measured in a process of its own."""

import io
import json
import os
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dcgan import data
from dcgan.config import Config
from dcgan.data import canonical, keep, load, load_cached, training_images
from dcgan.train import State, dump_state, train_epoch
from experiments import plan
from experiments.__main__ import main

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")

LIMIT = 12 << 20  # bytes that a process may take more than it has
TINY = Config(resolution=64, latent_size=8, batch=16)


def noise(size, side):
    """Images of noise (N, side, side, 3) uint8 that have so many bytes together."""
    shape = (size // (3 * side**2), side, side, 3)
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


def write_zip(path, count):
    """So many images at 256x256, each of one colour of its own; 64 have 12 MiB of pixels."""
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(count):
            file = io.BytesIO()
            Image.new("RGB", (256, 256), (i % 256, i // 256, 0)).save(file, "PNG")
            archive.writestr(f"{i}.png", file.getvalue())
    return str(path)


# --- In a process of its own ----------------------------------------------------------------------


def in_a_process(function, *words):
    """What a function of this file, called in a new process, returns."""
    code = f"import json, test_memory; print(json.dumps(test_memory.{function}(*{words!r})))"
    paths = os.pathsep.join(map(str, (Path(__file__).parent, Path(__file__).parents[1])))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def growth(act):
    """By how many bytes an act raises the peak of resident memory; mapped files are part of it."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now
    before = status("VmRSS")
    act()
    return status("VmHWM") - before


def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def forbid_more():
    """Nothing but what is mapped from a file, read only, may take more than LIMIT from here on."""
    most = status("VmData") + LIMIT
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def fits_into_memory(act):
    try:
        act()
    except MemoryError:
        return False
    return True


# --- Training -------------------------------------------------------------------------------------


class Blank(nn.Module):
    """G of three weights: z -> an image of one colour."""

    def __init__(self):
        super().__init__()
        self.colour = nn.Linear(8, 3, bias=False)

    def forward(self, z):
        return self.colour(z).tanh()[:, :, None, None].expand(-1, -1, 64, 64)


def train(pixels):
    """The state of the smallest networks after one epoch: they take no time."""
    torch.manual_seed(0)
    G, D = Blank(), nn.Sequential(nn.AvgPool2d(32), nn.Flatten(), nn.Linear(12, 1))
    state = State(G, D, *(torch.optim.Adam(net.parameters(), 1e-3) for net in (G, D)))
    train_epoch(state, TINY, pixels)
    return dump_state(state).hex()


def trained(cache, few, many):
    """Train on few images, then under a limit on four times as many, read as a run reads them."""

    def on(sha256, count):
        images = load_cached(Path(cache), sha256, 64)
        found.append(train(training_images(images, "all", count, "cpu")))

    found = []
    on(*few)  # what this takes, such as code that is loaded, is not of the images
    grown = [growth(lambda: on(*few))]
    forbid_more()
    grown.append(growth(lambda: on(*many)))
    held = fits_into_memory(lambda: np.array(load_cached(Path(cache), many[0], 64).pixels))
    return {"grown": grown, "state": found[-1], "held": held}


def test_an_array_four_times_a_limit_trains_under_it_to_the_same_bytes(tmp_path):
    sets = []
    for size in (LIMIT, 4 * LIMIT):
        pixels = noise(size, 64)
        sets.append(canonical("noise", pixels, np.zeros(len(pixels), np.int64)))
        keep(sets[-1], tmp_path, 64)
    few, many = ((images.sha256, len(images.pixels)) for images in sets)
    found = in_a_process("trained", str(tmp_path), few, many)
    assert not found["held"]
    assert max(found["grown"]) < LIMIT
    assert found["state"] == train(torch.from_numpy(sets[1].pixels))


# --- Reading a source -----------------------------------------------------------------------------


def kept(cache, few, many):
    """Growth on reading few images, and four times as many, and keeping them at two sizes."""

    def on(source, name):
        keep(load(source, Path(cache) / name), Path(cache) / name, 64)

    on(few, "first")
    return [growth(lambda: on(few, "few")), growth(lambda: on(many, "many"))]


def test_a_source_is_read_sorted_and_resized_in_half_the_memory_of_its_images(tmp_path):
    few, many = (write_zip(tmp_path / f"{count}.zip", count) for count in (64, 512))
    grown = in_a_process("kept", str(tmp_path), few, many)
    assert max(grown) < 4 * LIMIT  # the floats of one step of resizing are 12 MiB
    images = load(many, tmp_path / "many")
    assert images.pixels.nbytes == 8 * LIMIT
    assert images.sha256 == canonical("again", images.pixels[::-1], images.labels).sha256


# --- The plan -------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [True, False])
def test_the_plan_says_where_images_take_over_half_of_the_memory(
    there, tmp_path, monkeypatch, capsys
):
    half = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    assert data.fits(half, "cpu")
    assert not data.fits(half + 1, "cpu")
    asked = []
    monkeypatch.setattr(plan, "fits", lambda *given: asked.append(given) or there)
    options = f"--scale smoke --data shapes --device cpu --out {tmp_path} --plan".split()
    monkeypatch.setattr(sys, "argv", ["experiments", "ablation", *options])
    assert main() == 0
    said = "every batch of\nthem is read from the disk." in capsys.readouterr().out
    assert said is not there
    assert asked == [(3 * 600 * 16**2, "cpu")]
    assert not list(tmp_path.iterdir())
