"""What cannot be run is refused in one line; the row in faults.inputs has every such refusal."""

import pytest
from PIL import Image

from dcgan import rundir
from dcgan.data import shapes


@pytest.mark.parametrize("jobs", ["0", "two"])
def test_a_wrong_option_is_one_line_and_leaves_nothing(run_study, tmp_path, jobs):
    out = tmp_path / "out"
    done = run_study(out, "--jobs", jobs)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("experiments: Invalid value for '--jobs': ")
    assert jobs in line
    assert not out.exists()


@pytest.fixture
def faces(tmp_path):
    """Two hundred images of shapes in a folder."""
    (tmp_path / "faces").mkdir()
    for number, image in enumerate(shapes(200).pixels):
        Image.fromarray(image).save(tmp_path / "faces" / f"{number}.jpg")
    return tmp_path / "faces"


def test_another_set_of_the_same_name_is_told_apart(run_study, faces, tmp_path):
    out = tmp_path / "out"
    study = out / "ablation-smoke-faces"
    rundir.replace(study / "study.json", rundir.seal({"data": {"sha256": "5" * 64}}))
    done = run_study(out, "batch=128", data=faces)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(
        f"experiments: {study} is a study of other images that were called 'faces' as well: "
        f"their SHA-256 is 555555555555..., that of {faces} is "
    )
    assert done.stderr.endswith("; rename these or name another --out\n")
    assert [path.name for path in out.rglob("*")] == [study.name, "study.json"]


def test_a_set_stored_with_loss_is_taken_and_marked(run_study, faces, tmp_path):
    done = run_study(tmp_path / "out", "--plan", "batch=128", data=faces)
    assert done.returncode == 0
    assert "Some images were stored with loss" in done.stdout


def test_the_plan_alone_starts_nothing(run_study, tmp_path):
    out = tmp_path / "out"
    done = run_study(out, "--plan")
    assert done.returncode == 0
    assert "8: norm=none,batch x head=conv,avgpool x batch=128,512" in done.stdout
    assert "with loss" not in done.stdout
    assert not out.exists()
