"""What cannot be run is refused in one line; the row in faults.inputs has every such refusal."""

from dcgan import rundir
from dcgan.data import SHAPES, shapes
from experiments import grid
from experiments.__main__ import main


def test_a_plan_starts_nothing_and_another_set_of_the_same_name_is_told_apart(
    tmp_path, monkeypatch, run_command, write_images
):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    faces = write_images(tmp_path / "faces", shapes(200).pixels, ["."] * 200)
    words = ["ablation", "--scale", "smoke", "--data", faces, "--device", "cpu", "batch=128"]
    words += ["--out", tmp_path / "out"]
    code, out, err = run_command(main, *words, "--plan")
    assert (code, err) == (0, "")
    assert "4: norm=none,batch x head=conv,avgpool x batch=128, seeds 1; 0 are done" in out
    assert not (tmp_path / "out").exists()

    study = tmp_path / "out" / "ablation-smoke-faces"
    rundir.replace(study / "study.json", rundir.seal({"data": {"sha256": "5" * 64}}))
    code, out, err = run_command(main, *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    said = "is a study of other images of this name: their SHA-256 is 555555555555..., not "
    assert err.startswith(f"experiments: {study} {said}")
    assert [path.name for path in (tmp_path / "out").rglob("*")] == [study.name, "study.json"]


def test_a_study_keeps_its_settings(tmp_path, monkeypatch, run_command):
    """Its runs are averaged: those of another learning rate are another study."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    words = ["ablation", "--scale", "smoke", "--data", "shapes", "--device", "cpu", "--plan"]
    words += ["--out", tmp_path]
    study, sha256 = grid.define("ablation", "smoke"), shapes(SHAPES).sha256
    study = grid.fit(study, "shapes", sha256, SHAPES)
    info = {"study": study.name, "scale": study.scale, "factors": study.factors}
    info |= {"seeds": study.seeds, "settings": study.settings, "data": {"sha256": sha256}}
    folder = tmp_path / "ablation-smoke-shapes"
    rundir.replace(folder / "study.json", rundir.seal(info))
    for same in ([], ["epochs=9"], ["batch=128"], ["seed=7"]):
        assert run_command(main, *words, *same)[0] == 0
    code, _, err = run_command(main, *words, "lr_g=0.001")
    said = f"experiments: {folder}: lr_g=0.0002 is stored, lr_g=0.001 is asked for"
    assert (code, err) == (2, f"{said}; name another --out\n")
