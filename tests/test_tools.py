"""What tools left in finished runs: tables, pictures, claims."""

import io
import json
import math

import numpy as np
import pytest
from PIL import Image

from dcgan.rundir import Damaged
from reports import claims, figures, records, tools

ARM = "norm=none,head=conv,batch=128"
TITLES = {"hits_three": "hits, three", "hits_one_shortened": "hits, one"}


def leave(study, seed, three, one, tool="walks", picture=False):
    """A result of one run, as eval.results writes it."""
    folder = study / ARM / f"seed={seed}" / "eval"
    folder.mkdir(exist_ok=True)
    values = {"hits_three": three, "hits_one_shortened": one}
    content = {"tool": tool, "epoch": 2, "values": values, "titles": TITLES, "about": {}}
    (folder / f"{tool}.json").write_text(json.dumps(content | {"notes": ["A note."]}))
    if picture:
        file = io.BytesIO()
        Image.fromarray(np.full((20, 40, 3), seed, np.uint8)).save(file, "PNG")
        (folder / f"{tool}.png").write_bytes(file.getvalue())


@pytest.fixture(scope="module")
def measured(make_study, tmp_path_factory):
    """Eight seeds; arithmetic with three exemplars hits 20 points more often, give or take 1."""
    folder = make_study(
        tmp_path_factory.mktemp("tools"), seeds=range(8), epochs=2, resolution=16, points=2
    )
    for seed in range(8):
        leave(folder, seed, 0.5 + 0.01 * (-1) ** seed, 0.3, picture=seed > 1)
    return records.load(folder)


def test_a_table_has_a_row_for_each_number(measured):
    (sheet,) = tools.sheets(measured)
    assert sheet.columns == ["number", "norm=none, head=conv, batch=128"]
    sd = 0.01 * math.sqrt(8 / 7)
    assert sheet.rows == [
        ["seeds", "8"],
        ["hits, three", f"0.5000 ± {sd:.4f}"],
        ["hits, one", "0.3000 ± 0.0000"],
    ]
    assert sheet.notes == ["Mean ± standard deviation over seeds.", "A note."]


def test_full_precision_has_a_row_for_each_run(measured):
    (frame,) = tools.frames(measured).values()
    assert frame["seed"].to_list() == list(range(8))
    assert frame["hits_three"].to_list() == [0.5 + 0.01 * (-1) ** seed for seed in range(8)]
    assert set(frame["epoch"]) == {2}


def test_a_claim_compares_two_numbers_of_a_run(measured):
    found = {one.claim.id: one for one in claims.judge(measured)}["P9-arithmetic"]
    assert found.verdict == "supported"
    assert found.estimate.value == pytest.approx(20)
    assert found.n == 8
    assert found.unit == "points"


def test_a_claim_whose_tool_has_not_run_says_so(measured):
    found = {one.claim.id: one for one in claims.judge(measured)}["P8"]
    assert found.verdict == "not yet run"
    assert found.why == (
        "neighbours/share_features has not been measured; needs the ablation at cpu32, and "
        "python -m eval neighbours"
    )


def test_the_picture_is_that_of_the_lowest_seed_that_has_one(measured):
    picture = tools.pictures(measured)["walks"]
    assert picture.run == f"{ARM}/seed=2"
    figure, caption = figures.draw(measured)["walks"]
    assert np.unique(figure.axes[0].images[0].get_array()).tolist() == [2]
    assert "norm=none, head=conv, batch=128, seed 2, after epoch 2; n = 1 run." in caption
    assert "a walk between two z, and a blend" in caption


def test_nothing_measured_is_nothing_shown(study_folder):
    study = records.load(study_folder)
    assert (tools.sheets(study), tools.frames(study), tools.pictures(study)) == ([], {}, {})
    assert tools.values(study).shape == (8, 0)


def test_a_number_that_a_run_lacks_is_no_zero(make_study, tmp_path):
    folder = make_study(tmp_path, seeds=(0, 1), epochs=2, resolution=16, points=2)
    leave(folder, 0, 0.5, None)
    leave(folder, 1, 0.7, None)
    rows = tools.sheets(records.load(folder))[0].rows
    assert rows[1:] == [["hits, three", "0.6000 ± 0.1414"], ["hits, one", "–"]]


@pytest.mark.parametrize(
    "change",
    [
        {"values": {"hits_three": "many", "hits_one_shortened": 1}},
        {"values": {"other": 1}},
        {"notes": [3]},
        {"titles": None},
        {"epoch": ...},
    ],
)
def test_a_damaged_result_is_named(change, make_study, tmp_path):
    folder = make_study(tmp_path, epochs=2, resolution=16, points=2)
    leave(folder, 0, 0.5, 0.3)
    path = folder / ARM / "seed=0/eval/walks.json"
    content = json.loads(path.read_text()) | change
    path.write_text(json.dumps({key: x for key, x in content.items() if x is not ...}))
    with pytest.raises(Damaged, match=r"walks\.json: lacks"):
        tools.sheets(records.load(folder))
