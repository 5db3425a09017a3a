"""What cannot be run is refused in one line, and nothing is left behind."""

import pytest


@pytest.fixture(scope="module")
def poor(tmp_path_factory):
    """Sources that cannot be used."""
    folder = tmp_path_factory.mktemp("poor")
    (folder / "empty").mkdir()
    (folder / "text.zip").write_text("no zip")
    return folder


@pytest.mark.parametrize(
    ("words", "data", "said"),
    [
        (["hed=conv"], "shapes", "'hed=conv'"),
        (["head=linear"], "shapes", "head=linear"),
        (["width=wide"], "shapes", "width=wide"),
        (["--scale", "smal"], "shapes", "'smal'"),
        (["--seeds", "0"], "shapes", "seeds=0"),
        (["--jobs", "0"], "shapes", "'0'"),
        (["--epochs", "3x"], "shapes", "3x"),
        (["--nonsense"], "shapes", "--nonsense"),
        (["--device", "cuda:9"], "shapes", "'cuda:9'"),
        (["--device", "tpu"], "shapes", "'tpu'"),
        (["images=300"], "shapes", "batch=512 is larger than images=300"),
        ([], "absent.zip", "absent.zip"),
        ([], "empty", "empty"),
        ([], "text.zip", "text.zip"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(run_study, poor, tmp_path, words, data, said):
    out = tmp_path / "out"
    source = data if data == "shapes" else poor / data
    done = run_study(out, *words, data=source)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr
    assert not out.exists()


def test_a_wrong_wandb_mode_is_refused(run_study, tmp_path):
    done = run_study(tmp_path / "out", WANDB_MODE="of-line")
    assert done.returncode == 2
    assert "WANDB_MODE=of-line" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_plan_alone_starts_nothing(run_study, tmp_path):
    out = tmp_path / "out"
    done = run_study(out, "--plan")
    assert done.returncode == 0
    assert "8: norm=none,batch x head=conv,avgpool x batch=128,512" in done.stdout
    assert not out.exists()
