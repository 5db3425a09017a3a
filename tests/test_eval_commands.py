"""`python -m eval`: what its analyses leave in runs, and what it refuses."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from conftest import contents

from dcgan import rundir
from dcgan.config import Config
from dcgan.data import keep, load, resize, shapes
from dcgan.models import dump_generator, load_generator
from dcgan.train import draw_latent, dump_state, generate, start, train_epoch
from eval import walks
from eval.__main__ import main
from eval.extractors import classifier
from eval.score import identities, reference, score

CONFIG = Config(resolution=16, width=2, latent_size=8, images=100, batch=20, epochs=2)
WORDS = {  # of each analysis that leaves a result in a run, to be quick
    "probe": ("--data", "train", "--test", "test", "--labels", 20, "--draws", 2),
    "neighbours": ("--data", "train", "--test", "test", "--n", 110),
    "walks": ("--pairs", 3, "--steps", 4),
    "filters": ("--data", "train", "--images", 9),
    "constant": (),
    "heads": ("--pairs", 2),
}
PROBE = WORDS["probe"][:4]
PICTURED = ("neighbours", "walks", "filters")
SEED_0 = "norm=none/seed=0"


@pytest.fixture(scope="module")
def sources(tmp_path_factory, write_images):
    """Drawings, a folder a class: `train`, `test`; and `plain` without classes."""
    drawn, out = shapes(230), tmp_path_factory.mktemp("sources")
    write_images(out / "train", drawn.pixels[:120], drawn.labels[:120])
    write_images(out / "test", drawn.pixels[120:], drawn.labels[120:])
    write_images(out / "plain", drawn.pixels[:110], ["."] * 110)
    return out


@pytest.fixture(scope="module")
def trained(sources, tmp_path_factory):
    """The config of a run, and the files of its epochs."""
    train = load(str(sources / "train"), tmp_path_factory.mktemp("cache"))
    config = CONFIG.model_copy(update={"data_sha256": train.sha256})
    state, epochs = start(config), []
    pixels = torch.from_numpy(resize(train, 16).pixels[:100])
    for _ in range(2):
        train_epoch(state, config, pixels)
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
    threads = torch.get_num_threads()

    yield lambda *words: run_command(main, *words, "--device", "cpu")
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", WORDS)
def test_a_result_is_kept_once_and_printed_in_80_columns(name, study, run_eval):
    run, before = study / "norm=none" / "seed=0", contents(study)
    epoch = 0 if name == "heads" else 2
    code, shown, progress = run_eval(name, study, *WORDS[name])
    assert (code, progress.splitlines()[-1]) == (0, f"measured 1 of 1: {run}, epoch {epoch}")
    after = contents(study)
    endings = ["", f"/{name}.json", f"/{name}.png"][: 3 if name in PICTURED else 2]
    assert after.keys() - before.keys() == {f"{SEED_0}/eval{end}" for end in endings}
    assert after | before == after

    result = json.loads(after[f"{SEED_0}/eval/{name}.json"])
    assert (result["tool"], result["epoch"]) == (name, epoch)
    assert result["values"].keys() == result["titles"].keys()
    assert "--data" not in WORDS[name] or result["about"]["data_sha256"]
    for key in {"generator_sha256", "state_sha256"} & result["about"].keys():
        data = before[f"{SEED_0}/epochs/0002/{key[:-7]}.safetensors"]
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
        assert contents(study) == after


def test_rescoring_gives_the_same_numbers_as_scoring(study, run_eval, sources, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    run, cache = study / SEED_0, study.parent / "cache"
    images = load(str(sources / "train"), cache)
    keep(images, cache, 16)
    before = contents(study)
    code, shown, progress = run_eval("score", study, "--n", 20, "--json")
    (row,) = json.loads(shown)["runs"]
    assert (code, row["run"], row["epoch"]) == (0, str(run), 2)
    assert progress.startswith(f"scored 1 of 1: {run}, epoch 2\n")
    assert contents(study) == before

    # By hand, from the committed generator.
    G, config = load_generator(str(rundir.epoch_folder(run, 2) / rundir.GENERATOR))
    network, images = classifier(), resize(images, 16)
    against = reference(network, images.pixels, images.sha256, cache)
    made = generate(G, draw_latent(config, "rescore", 2, 20))
    assert row["scores"] == score(made, [against])
    assert row["identities"] == identities(against, 20, 16)

    # At an earlier epoch, as a table, with the data named.
    code, shown, _ = run_eval("score", run, "--epoch", 1, "--data", "train", "--n", 20)
    first, _, _, *rest = shown.splitlines()
    assert (code, first) == (0, f"1  {run}, epoch 1")
    assert [line.split()[0] for line in rest[:7]] == list(network.metrics)
    distance = next(line for line in rest if line.startswith("metric fd_cifar, "))
    assert f"network_sha256 {network.sha256}, generated 20, reference 120, " in distance


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
        (("walks", "nowhere"), "Path 'nowhere' does not exist"),
        (("walks", "STUDY/norm=none/seed=1"), "seed=1: no run that kept its generator in"),
        (("heads", "STUDY/norm=none/seed=1"), "no finished run in this folder"),
        (("filters", "STUDY", "--data", "none"), "none: no such file or folder"),
        (("probe", "STUDY", *PROBE, "--epoch", 3), "epoch 3 kept no state, only 1, 2 did"),
        (("probe", "STUDY", *PROBE[:3], "train"), "these are the images of --data"),
        (("probe", "STUDY", "--data", "test", "--test", "train"), "test: its SHA-256 is"),
        (("probe", "STUDY", *PROBE[:3], "plain"), "110 of its images have no label"),
        (("probe", "STUDY", *PROBE, "--labels", 25), "--labels 25: not equally many of each of 10"),
        (("neighbours", "STUDY", *PROBE, "--n", 111), "110 images of classes=all, --n is 111"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(words, reason, study, run_eval):
    before = contents(study)
    code, shown, complaint = run_eval(*(str(x).replace("STUDY", str(study)) for x in words))
    assert (code, shown) == (2, "")
    *progress, last = complaint.splitlines()
    assert reason in last
    assert words[0] != "score" or progress == []
    assert contents(study) == before
    assert not Path("new").exists()


def test_the_classifier_is_not_trained_on_what_is_not_there(refusal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = refusal(main, "train-extractor", "--train", "a.zip", "--test", "b")
    assert said == "eval: a.zip: no such file or folder\n"
