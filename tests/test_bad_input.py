"""What cannot be run is refused in one line; the row in faults.inputs has every such refusal."""

import pytest
from PIL import Image

from dcgan import rundir
from dcgan.data import shapes
from experiments.__main__ import main


@pytest.fixture
def start(monkeypatch, capsys, tmp_path):
    """`ablation` at smoke with these words on two hundred images in a folder; code, out, err."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    (tmp_path / "faces").mkdir()
    for number, image in enumerate(shapes(200).pixels):
        Image.fromarray(image).save(tmp_path / "faces" / f"{number}.jpg")

    def run(*words):
        options = ["--scale", "smoke", "--data", str(tmp_path / "faces"), "--device", "cpu"]
        code = main(["ablation", *options, "--out", str(tmp_path / "out"), "batch=128", *words])
        return code, *capsys.readouterr()

    return run


def test_another_set_of_the_same_name_is_told_apart(start, tmp_path):
    study = tmp_path / "out" / "ablation-smoke-faces"
    rundir.replace(study / "study.json", rundir.seal({"data": {"sha256": "5" * 64}}))
    code, out, err = start()
    assert (code, out, err.count("\n")) == (2, "", 1)
    said = "is a study of other images of this name: their SHA-256 is 555555555555..., not "
    assert err.startswith(f"experiments: {study} {said}")
    assert [path.name for path in (tmp_path / "out").rglob("*")] == [study.name, "study.json"]


def test_the_plan_alone_starts_nothing(start, tmp_path):
    code, out, err = start("--plan")
    assert (code, err) == (0, "")
    assert "4: norm=none,batch x head=conv,avgpool x batch=128, seeds 1; 0 are done" in out
    assert not (tmp_path / "out").exists()
