"""A run made again: its command makes its config, and every byte that differs is found."""

import json
import shlex
import shutil

import pytest
from conftest import recommit

from dcgan import rundir
from dcgan.cli import BadInput
from dcgan.data import shapes
from experiments import __main__ as experiments
from experiments import grid, reproduce, signals

SMALL = ("images=200", "score_images=20", "reference_images=50")
SET = ("norm=batch", "head=conv", "batch=128", "epochs=3", "lr_g=1e-4", "seed=1", *SMALL)
ONE = {"factors": {"norm": ["none"], "head": ["conv"], "batch": [128]}, "epochs": 8}


@pytest.fixture(scope="module", autouse=True)
def in_this_process():
    """Commands run here, without a report, which no run needs."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("WANDB_MODE", "disabled")
        patched.setattr("experiments.study.report", lambda study: 0)
        patched.setattr(signals, "call", lambda *words: experiments.main([*words[2:]]))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One real run of a seed that is not the first, with settings of its own."""
    out = tmp_path_factory.mktemp("out")
    words = ["--scale", "smoke", "--data", "shapes", "--device", "cpu", "--out", str(out)]
    assert experiments.main(["ablation", *words, *SET]) == 0
    (run,) = out.glob("ablation-smoke*/*/seed=1")
    return run


@pytest.fixture
def two(make_study, tmp_path):
    """Two made-up runs that are the same."""
    made = (make_study(tmp_path / name, **ONE) for name in ("old", "new"))
    return [folder / "norm=none,head=conv,batch=128/seed=0" for folder in made]


def change(run, epoch, part, key, value):
    """Commit an epoch anew, with another number in its record."""
    record = rundir.read_json(run, epoch, rundir.RECORD)
    record[part][key] = value
    recommit(run, epoch, {rundir.RECORD: rundir.to_json(record)})


def test_the_recipe_is_the_command_that_made_the_run(run):
    name, *words = made = reproduce.recipe(run)
    given = experiments.experiments_group.commands[name].make_context(name, words).params
    planned = grid.define(name, given["scale"], given["seeds"], given["overrides"])
    data = rundir.unseal(run.parents[1] / "study.json")["data"]
    (again,) = grid.runs(grid.fit(planned, data["name"], data["sha256"], data["images"]))
    assert again.config.model_dump() == rundir.unseal(run / "run.json")["config"]
    assert {"seed=1", "epochs=3", "lr_g=0.0001", *SMALL} <= {*made}
    assert not any(word.startswith("width=") for word in made)


def test_a_run_is_found_by_its_folder_and_its_name(run, tmp_path):
    arm, study = run.parent.name, run.parents[1]
    for name in (str(run), f"{arm}/seed=1", f"{arm} seed=1"):
        assert reproduce.find(name, study.parent) == run
    with pytest.raises(BadInput, match=r"^0123456789: neither the folder of a run nor "):
        reproduce.find("0123456789", study.parent)
    for copy in ("one", "two"):
        shutil.copytree(study, tmp_path / copy)
    with pytest.raises(BadInput, match=f"^{arm} seed=1: .* of several runs, .*one/.*two/"):
        reproduce.find(f"{arm} seed=1", tmp_path)


def test_a_run_that_is_made_again_has_every_byte(run, capfd, tmp_path):
    words = ["reproduce", str(run), "--to", str(tmp_path), "--json"]
    assert experiments.main(words) == 0
    out, err = capfd.readouterr()
    result = json.loads(out)
    assert (len(out.splitlines()), result["epochs"], result["same"]) == (1, 3, 3)
    assert (result["differences"], result["fingerprint"]) == ([], [])
    assert "The same bytes in all 3 epochs." in err
    assert shlex.split(err.splitlines()[0]) == result["command"]

    # A finished run is not compared with itself.
    assert experiments.main(words) == 2
    line = f"experiments: --to {tmp_path}: holds this run already; name another folder"
    assert capfd.readouterr().err.splitlines()[-1].startswith(line)


def test_printing_makes_nothing_and_other_images_are_refused(run, capsys, tmp_path, write_images):
    assert experiments.main(["reproduce", str(run), "--print", "--to", str(tmp_path / "x")]) == 0
    out = capsys.readouterr().out
    info = rundir.unseal(run.parents[1] / "study.json")
    assert out.startswith("python -m experiments ablation --scale smoke --device cpu --threads 1 ")
    for fact in (info["commit"], info["data"]["sha256"], f"torch {info['versions']['torch']}"):
        assert fact in out
    assert not (tmp_path / "x").exists()
    other = write_images(tmp_path / "faces", shapes(20).pixels, ["."] * 20)
    words = ["reproduce", str(run), "--to", str(tmp_path / "x"), "--data", other]
    assert experiments.main(words) == 2
    assert f"experiments: --data {other}: its SHA-256 is " in capsys.readouterr().err


def test_the_first_column_that_differs_is_named_for_each_epoch(two):
    old, new = two
    assert reproduce.to_text(reproduce.compare(old, new)) == "The same bytes in all 8 epochs."

    was = rundir.read_json(new, 3, rundir.RECORD)["scores"]["fd_cifar"]
    change(new, 3, "scores", "fd_cifar", was * 1.25)
    change(new, 5, "losses", "d_loss", None)
    result = reproduce.compare(old, new)
    assert (result["epochs"], result["same"], result["fingerprint"]) == (8, 6, [])
    third, fifth = result["differences"]
    line = f"epoch 3: scores.fd_cifar was {was} and is {was * 1.25}, and 1 more columns"
    assert (third, fifth[:22]) == (line, "epoch 5: losses.d_loss")
    assert result["largest"] == pytest.approx(0.25, rel=1e-12)
    said = "6 of 8 epochs have the same bytes: NOT bit for bit, and it should be."
    assert said in reproduce.to_text(result)


def test_another_picture_or_state_is_a_difference_and_another_clock_is_none(two):
    old, new = two
    recommit(new, 2, {rundir.TIMING: b"{}"})
    recommit(new, 4, {rundir.SAMPLES: b"another picture"})
    (line,) = reproduce.compare(old, new)["differences"]
    assert line.startswith("epoch 4: SHA-256 of samples.png was ")


def test_another_machine_is_named_and_excuses_other_bytes(two):
    old, new = two
    stored = rundir.unseal(new / "run.json")
    stored["fingerprint"] |= {"threads": 7, "arithmetic": "0123456789ab"}
    rundir.replace(new / "run.json", rundir.seal(stored))
    change(new, 8, "scores", "kd_cifar", 1.0)
    result = reproduce.compare(old, new)
    unknown = "arithmetic was unknown and is 0123456789ab"
    assert result["fingerprint"] == ["threads was 1 and is 7", unknown]
    assert "7 of 8 epochs have the same bytes: not bit for bit." in reproduce.to_text(result)
    assert "Bits depend on this: threads was 1 and is 7." in reproduce.to_text(result)


def test_a_run_that_stopped_early_is_no_reproduction(two):
    old, new = two
    shutil.rmtree(rundir.epoch_folder(new, 8))
    with pytest.raises(rundir.Damaged, match=f"{new}/epochs/0008/"):
        reproduce.compare(old, new)
