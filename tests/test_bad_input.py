"""What cannot be run is refused in one line; the row in faults.inputs has every such refusal."""

from dcgan import rundir
from dcgan.data import shapes
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
