"""`python -m eval`: what its analyses leave in runs, and what it refuses."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dcgan import rundir
from dcgan.config import Config
from dcgan.data import load, shapes
from dcgan.models import dump_generator
from dcgan.train import dump_state, start, train_epoch
from eval import audit, walks
from eval.__main__ import main

CONFIG = Config(resolution=16, width=2, latent_size=8, images=100, batch=20, epochs=2)
WORDS = {  # of each analysis that leaves a result in a run, to be quick
    "probe": ("--data", "train", "--test", "test", "--labels", 20, "--draws", 2),
    "neighbours": ("--data", "train", "--test", "test", "--n", 110),
    "walks": ("--pairs", 3, "--steps", 4),
    "filters": ("--data", "train", "--images", 9),
    "constant": (),
    "heads": ("--pairs", 2),
    "audit": ("--data", "train", "--test", "test", "--n", 100),
}
PROBE = WORDS["probe"][:4]


@pytest.fixture(scope="module")
def sources(tmp_path_factory, write_images):
    """Drawings, a folder a class: `train`, `test`; and `plain` and `few` without classes."""
    drawn, out = shapes(230), tmp_path_factory.mktemp("sources")
    write_images(out / "train", drawn.pixels[:120], drawn.labels[:120])
    write_images(out / "test", drawn.pixels[120:], drawn.labels[120:])
    write_images(out / "plain", drawn.pixels[:110], ["."] * 110)
    write_images(out / "few", drawn.pixels[:20], ["."] * 20)
    return out


@pytest.fixture(scope="module")
def trained(sources, tmp_path_factory):
    """The config of a run, and the files of its epochs."""
    train = load(str(sources / "train"), tmp_path_factory.mktemp("cache"))
    config = CONFIG.model_copy(update={"data_sha256": train.sha256})
    state, epochs = start(config), []
    pixels = train.pixels[:100].reshape(100, 16, 2, 16, 2, 3).mean(axis=(2, 4)).astype(np.uint8)
    for _ in range(2):
        train_epoch(state, config, torch.from_numpy(pixels))
        files = {rundir.STATE: dump_state(state)}
        epochs.append(files | {rundir.GENERATOR: dump_generator(state.G, config)})
    return config, epochs


@pytest.fixture
def study(tmp_path, trained, write_run):
    """A study of a finished run, and of one that has not begun."""
    config, epochs = trained
    write_run(tmp_path / "study", config, epochs)
    write_run(tmp_path / "study", config.model_copy(update={"seed": 1}), [])
    return tmp_path / "study"


@pytest.fixture
def run_eval(sources, run_command, monkeypatch):
    """Runs a command here, on the CPU: (*words) -> exit code, stdout, stderr."""
    monkeypatch.chdir(sources)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(walks, "CANDIDATES", 60)
    monkeypatch.setattr(audit, "POINTS", 3)
    threads = torch.get_num_threads()

    yield lambda *words: run_command(main, *words, "--device", "cpu")
    torch.set_num_threads(threads)


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", WORDS)
def test_a_result_is_kept_once_and_printed_in_80_columns(name, study, run_eval):
    run, before = study / "norm=none" / "seed=0", files(study)
    epoch = 0 if name == "heads" else 2
    code, shown, progress = run_eval(name, study, *WORDS[name])
    assert (code, progress.splitlines()[-1]) == (0, f"measured 1 of 1: {run}, epoch {epoch}")
    written = {path: data for path, data in files(study).items() if path not in before}
    pictured = {"png"} if name in ("neighbours", "walks", "filters") else set()
    assert set(written) == {run / "eval" / f"{name}.{end}" for end in {"json", *pictured}}
    assert files(study) == before | written

    result = json.loads(written[run / "eval" / f"{name}.json"])
    assert (result["tool"], result["epoch"]) == (name, epoch)
    assert result["values"].keys() == result["titles"].keys()
    assert "--data" not in WORDS[name] or result["about"]["data_sha256"]
    for key in {"generator_sha256", "state_sha256"} & result["about"].keys():
        data = before[run / "epochs" / "0002" / f"{key[:-7]}.safetensors"]
        named = result["about"][key]
        assert (named["2"] if name == "constant" else named) == hashlib.sha256(data).hexdigest()

    # Every number and note is shown; only the path of the run may be wider.
    number, title = next(
        (x, result["titles"][k]) for k, x in result["values"].items() if x is not None
    )
    (row,) = [line for line in shown.splitlines() if line.startswith(f"{title}  ")]
    assert row.split()[-1] == (f"{number:.4g}" if isinstance(number, float) else str(number))
    assert " ".join(result["notes"][0].split()) in " ".join(shown.split())
    assert max(map(len, shown.splitlines()[1:])) <= 80

    # What is there is kept; asked for again it is measured to the same bytes, but for speeds.
    code, again, progress = run_eval(name, study, *WORDS[name])
    assert (code, again) == (0, shown)
    assert progress.splitlines()[-1] == f"kept 1 of 1: {run}, epoch {epoch}"
    if name != "heads":
        progress = run_eval(name, run, *WORDS[name], "--again")[2]
        assert progress == f"measured 1 of 1: {run}, epoch 2\n"
        assert files(study) == before | written


def test_an_earlier_epoch_takes_the_place_of_a_later_one(study, run_eval):
    run = study / "norm=none" / "seed=0"
    run_eval("walks", run, *WORDS["walks"])
    progress = run_eval("walks", run, *WORDS["walks"], "--epoch", 1)[2]
    assert progress == f"measured 1 of 1: {run}, epoch 1\n"
    assert json.loads((run / "eval" / "walks.json").read_bytes())["epoch"] == 1


@pytest.mark.parametrize("name", ["walks", "neighbours", "filters", "probe"])
def test_what_is_not_finite_has_no_numbers(name, study, run_eval, trained):
    state = start(trained[0])
    for net in (state.G, state.D):
        torch.nn.init.constant_(next(net.parameters()), torch.nan)
    generator = dump_generator(state.G, trained[0])
    run = study / "norm=none" / "seed=0"
    state.epoch = 3
    rundir.commit(run, 3, {rundir.STATE: dump_state(state), rundir.GENERATOR: generator})
    longer = trained[0].model_copy(update={"epochs": 3}).model_dump()
    rundir.replace(run / "run.json", rundir.seal({"config": longer}))
    code, shown, _ = run_eval(name, run, *WORDS[name])
    assert code == 0
    result = json.loads((run / "eval" / f"{name}.json").read_bytes())
    assert set(result["values"].values()) <= {None}
    assert result["values"].keys() == result["titles"].keys()
    (note,) = result["notes"]
    assert note.startswith("Not measured: the weights of the ")
    assert note in shown


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("score",), "Missing argument 'RUN'"),
        (("score", "STUDY", "--weights", "."), "cifar10-resnet.json: No such file"),
        (("score", "STUDY", "--n", 20, "--cache", "new"), "give the study's command again"),
        (("walks", "nowhere"), "nowhere: no such folder"),
        (("walks", "."), "no study here or above"),
        (("walks", "STUDY/norm=none/seed=1"), "seed=1: no run that kept its generator in"),
        (("walks", "STUDY", "--epoch", "best"), "epoch best kept no generator, only 1, 2 did"),
        (("heads", "STUDY/norm=none/seed=1"), "no finished run in this folder"),
        (("filters", "STUDY", "--data", "none"), "none: no such file or folder"),
        (("probe", "STUDY", *PROBE, "--epoch", 3), "epoch 3 kept no state, only 1, 2 did"),
        (("probe", "STUDY", *PROBE[:3], "train"), "these are the images of --data"),
        (("probe", "STUDY", "--data", "test", "--test", "train"), "test: its SHA-256 is"),
        (("probe", "STUDY", *PROBE[:3], "plain"), "110 of its images have no label"),
        (("probe", "STUDY", *PROBE, "--labels", 25), "--labels 25: not equally many of each of 10"),
        (("neighbours", "STUDY", *PROBE, "--n", 111), "110 images of classes=all, --n is 111"),
        (("audit", "STUDY", *PROBE[:3], "few"), "--test few: 20 images, 100 are needed"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(words, reason, study, run_eval):
    before = files(study)
    code, shown, complaint = run_eval(*(str(x).replace("STUDY", str(study)) for x in words))
    assert (code, shown) == (2, "")
    *progress, last = complaint.splitlines()
    assert reason in last
    assert words[0] != "score" or progress == []
    assert files(study) == before
    assert not Path("new").exists()


def test_the_classifier_is_not_trained_on_what_is_not_there(run_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, shown, complaint = run_command(main, "train-extractor", "--train", "a.zip", "--test", "b")
    assert (code, shown, complaint) == (2, "", "eval: a.zip: no such file or folder\n")
    assert not [*tmp_path.iterdir()]


def test_the_plain_gan_has_no_convolutions_to_look_at(study, run_eval, trained):
    run = study / "norm=none" / "seed=0"
    plain = trained[0].model_copy(update={"model": "mlp"})
    rundir.replace(run / "run.json", rundir.seal({"config": plain.model_dump()}))
    for name in ("probe", "filters", "heads"):
        said = run_eval(name, study, *WORDS[name])[2]
        assert f"left out, model=mlp has no convolutions: {run}" in said
