"""What the figures show, and that they are the same bytes every time."""

import dataclasses
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from PIL import Image

from reports import figures, records
from reports.analysis import analyse, effect_numbers
from reports.tables import digits

ARMS = {"norm": ["none", "batch"], "head": ["conv", "avgpool"], "batch": [128, 512]}
TINY = {"epochs": 2, "resolution": 16, "points": 3}
SETS = ("held-out", "gaussian", "8x8", "flat", "untrained")  # in the order of their scores
BATCH = "norm=batch,head=conv,batch=128/seed=0"


@pytest.fixture(scope="module")
def study(make_study, tmp_path_factory):
    """Eight arms, three seeds, two epochs, three evaluation sets."""
    folder = make_study(tmp_path_factory.mktemp("figures"), seeds=(0, 1, 2), eval_sets=3, **TINY)
    return analyse(records.load(folder))


@pytest.fixture(scope="module")
def drawn(study):
    return figures.draw(study)


def test_the_reading_order(drawn):
    assert list(drawn) == [
        "effects", "fd_cifar", "cs_cifar", "samples", "fluctuation", "shares", "losses",
    ]  # fmt: skip
    for figure, caption in drawn.values():
        assert figure.get_figwidth() == 7
        assert caption.endswith(".")
        assert "\n" not in caption


def test_every_arm_and_every_seed_is_drawn(study, drawn):
    for name in ("fd_cifar", "cs_cifar"):
        lines = [line for axis in drawn[name][0].axes for line in axis.lines]
        widths = [line.get_linewidth() for line in lines]
        assert widths.count(0.8) == 8 * 3  # arms x seeds
        assert widths.count(2) == 8

    thin, thick = [
        [
            line
            for axis in drawn["losses"][0].axes
            for line in axis.lines
            if line.get_linewidth() in x
        ]
        for x in ((0.6, 0.8), (1.4, 2))
    ]
    assert len(thin) == 3 * 8 * 3
    assert len(thick) == 3 * 8


def test_the_lines_are_the_records(study, drawn):
    frame = study.frame
    axis = next(a for a in drawn["fd_cifar"][0].axes if a.get_title(loc="left") == "batch 512")
    thin = sorted(tuple(line.get_ydata()) for line in axis.lines if line.get_linewidth() == 0.8)
    runs = frame[frame["batch"] == 512].groupby("run")["fd_cifar"]
    assert thin == sorted(tuple(values) for _, values in runs)

    thick = sorted(tuple(line.get_ydata()) for line in axis.lines if line.get_linewidth() == 2)
    means = frame[frame["batch"] == 512].groupby(["norm", "head", "epoch"])["fd_cifar"].mean()
    assert np.allclose(thick, sorted(tuple(v) for _, v in means.groupby(["norm", "head"])))


@pytest.mark.parametrize(
    ("lowest", "drawn", "beyond"),
    [(15, SETS[1:], SETS[:1]), (55, SETS[2:], SETS[:2])],
)
def test_images_that_no_training_made_are_dashed_lines(
    make_study, calibrate_study, tmp_path, lowest, drawn, beyond
):
    folder = make_study(tmp_path, seeds=(0, 1), **TINY | {"epochs": 3})
    calibrate_study(folder)
    study = analyse(records.load(folder))
    frame = study.frame
    share = (frame["fd_cifar"] - frame["fd_cifar"].min()) / np.ptp(frame["fd_cifar"])
    values = lowest + (99 - lowest) * share
    study = dataclasses.replace(study, frame=frame.assign(fd_cifar=values))
    known = records.calibrated(study, "fd_cifar")
    figure, caption = figures.draw(study)["fd_cifar"]
    low, high = figure.axes[0].get_ylim()
    assert low < lowest
    assert high > 99
    assert figure.axes[0].get_yscale() == ("log" if lowest == 15 else "linear")
    for axis in figure.axes:
        dashed = [line.get_ydata()[0] for line in axis.lines if line.get_linewidth() == 0.7]
        assert sorted(dashed) == sorted(known[list(drawn)])
        assert all(low <= value <= high for value in dashed)

    # Named once in a row of panels, in the order of the values and apart.
    first, last = figure.axes
    assert not first.texts
    names = [text.get_text() for text in last.texts]
    assert names == [
        *(f"{figures.CALIBRATION[name]} {digits(known[name])} ↓" for name in beyond),
        *(figures.CALIBRATION[name] for name in SETS if name in drawn),
    ]
    box = last.get_window_extent()
    boxes = [text.get_window_extent(FigureCanvasAgg(figure).get_renderer()) for text in last.texts]
    assert all(above.y0 > below.y0 + 8 for below, above in itertools.pairwise(boxes))
    assert all(each.x0 > box.x1 and each.x1 <= figure.bbox.x1 for each in boxes)
    assert caption.endswith(figures.DASHED)


def test_a_study_without_calibration_has_no_dashed_lines(drawn):
    figure, caption = drawn["fd_cifar"]
    assert not [x for axis in figure.axes for x in axis.lines if x.get_linewidth() == 0.7]
    assert figures.DASHED not in caption


def test_one_factor_one_channel(study):
    lightness = {
        (norm, batch): np.dot(to_rgb(_colour(study, norm, batch)), (0.21, 0.72, 0.07))
        for norm in ("none", "batch")
        for batch in (128, 512)
    }
    for norm in ("none", "batch"):
        assert lightness[norm, 128] < lightness[norm, 512]  # the smallest is the darkest
    values = sorted(lightness.values())
    assert min(np.diff(values)) > 0.05  # apart in greyscale
    for norm, leads in (("none", 2), ("batch", 0)):
        for batch in (128, 512):
            assert np.argmax(to_rgb(_colour(study, norm, batch))) == leads


def test_every_caption_says_n_and_band_and_what_the_metric_is(study, drawn):
    for name, (_, caption) in drawn.items():
        assert re.search(r"n = (3 seeds|1 run of each arm)", caption), name
        assert "band" in caption or "95 % t interval" in caption, name
        if name != "samples":
            metric = "cs_cifar" if name == "cs_cifar" else "fd_cifar"
            digest = study.identities[metric]["network_sha256"][:12]
            assert f"{metric}: on cifar10-resnet (SHA-256 {digest}), 2,000 generated" in caption


def test_the_forest_is_the_table_of_effects(study, drawn):
    axis = drawn["effects"][0].axes[0]
    effects = study.last_effects["fd_cifar"]
    table = pd.DataFrame([effect_numbers(effect) for effect in effects])
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names[:7] == list(table["effect"])
    diamonds = [line for line in axis.lines if line.get_marker() == "D"]
    middles = [float(line.get_xdata()[0]) for line in diamonds]
    assert middles[:7] == pytest.approx(table["ratio"].tolist(), rel=1e-12)
    hollow = [line.get_markerfacecolor() == "none" for line in diamonds]
    assert hollow[:7] == [False] * 3 + [True] * 4
    bars = [line.get_xdata() for line in axis.lines if line.get_linewidth() in (2.4, 1.2)]
    ends = table[["ratio_low", "ratio_high"]].to_numpy()
    assert np.allclose(bars[:7], ends, rtol=1e-12, atol=0)
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert {len(line.get_xdata()) for line in dots} == {3}
    for line, value in zip(dots, middles, strict=True):
        assert np.exp(np.log(line.get_xdata()).mean()) == pytest.approx(value, rel=1e-12)


def test_shares_fill_their_bars_and_stay_apart_in_greyscale(study, drawn):
    axis = drawn["shares"][0].axes[0]
    table = study.shares
    widths = np.array([[bar.get_width() for bar in bars] for bars in axis.containers])
    assert widths.shape == (4, len(table))
    assert np.allclose(widths.sum(axis=0), 100, rtol=0, atol=1e-9)
    tones = [to_rgb(face)[0] for face, _, _ in figures.SHARES.values()]
    assert min(np.diff(tones)) > 0.15


def test_the_fluctuation_of_an_arm_is_drawn_in_its_own_row(study, drawn):
    axis = drawn["fluctuation"][0].axes[0]
    arms = study.by_arm(study.fluctuation, ["with_noise"])
    large = [line for line in axis.lines if line.get_markersize() == 8.5]
    assert [float(line.get_ydata()[0]) for line in large] == list(range(len(arms)))
    strokes = [float(line.get_xdata()[0]) for line in axis.lines if line.get_marker() == "|"]
    assert len(strokes) == 8
    assert all(0.5 < noise < 4 for noise in strokes)  # the sets of make_study: 2 %


def test_ln_2_stands_where_norm_is_batch_and_nowhere_else(drawn):
    axes = drawn["losses"][0].axes
    marked = [
        axis.get_ylabel().split("\n")[0]
        for axis in axes
        if any(np.allclose(line.get_ydata(), np.log(2), atol=1e-12) for line in axis.lines)
    ]
    assert marked == ["output BatchNorm", "output BatchNorm"]


def test_the_samples_are_the_pictures_of_the_lowest_seed(study, drawn):
    axes = drawn["samples"][0].axes
    titles = [axis.get_title(loc="left") for axis in axes]
    assert titles[0] == "real"
    assert len(titles) == 1 + 8
    picture = axes[titles.index("norm=batch, head=conv, batch=128")].images[0].get_array()
    path = study.folder / BATCH / "epochs" / "0002" / "samples.png"
    assert np.array_equal(picture, np.asarray(Image.open(path)))


def test_a_cross_marks_a_run_that_diverged_and_a_missing_arm_keeps_its_place(make_study, tmp_path):
    folder = make_study(
        tmp_path,
        factors=ARMS | {"batch": [128]},
        diverged={BATCH: 2},
        committed={"norm=none,head=conv,batch=128/seed=0": 0},
        **TINY,
    )
    drawn = figures.draw(analyse(records.load(folder)))

    lines = drawn["fd_cifar"][0].axes[0].lines
    assert [line.get_marker() for line in lines].count("x") == 1
    assert "cross" in drawn["fd_cifar"][1]
    texts = [text.get_text() for axis in drawn["samples"][0].axes for text in axis.texts]
    assert texts == ["not yet"]


def test_a_narrow_study_of_one_epoch_and_one_that_has_not_begun(make_study, tmp_path):
    one = {"norm": ["none"], "head": ["conv"], "batch": [128]}
    narrow = make_study(tmp_path / "narrow", factors=one, **TINY | {"epochs": 1})
    empty = make_study(
        tmp_path / "empty", factors=one, committed={"norm=none,head=conv,batch=128/seed=0": 0}
    )

    assert list(figures.draw(analyse(records.load(narrow)))) == ["samples", "losses"]
    assert figures.draw(analyse(records.load(empty))) == {}


def test_two_processes_write_the_same_bytes(make_study, tmp_path):
    factors = ARMS | {"head": ["conv"], "batch": [128]}
    folder = make_study(tmp_path, seeds=(0, 1), factors=factors, **TINY)
    code = (
        "import sys, pathlib; from reports import analysis, figures, records; "
        "figures.save(figures.draw(analysis.analyse(records.load(pathlib.Path(sys.argv[1])))), "
        "pathlib.Path(sys.argv[2]))"
    )
    for name, seed in (("a", "1"), ("b", "2")):
        subprocess.run(
            [sys.executable, "-c", code, folder, tmp_path / name],
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        )

    a, b = (
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
        for folder in (tmp_path / "a", tmp_path / "b")
    )
    assert a == b
    assert len(a) == 3 * 5 + 1  # the samples as PNG alone
    svg = (tmp_path / "a" / "fd_cifar.svg").read_text()
    assert "<dc:date>" not in svg
    assert "matplotlib.org/" not in svg.split("<defs>")[0]
    with Image.open(tmp_path / "a" / "samples.png") as image:
        assert image.width == 7 * 160
        assert "Software" not in image.info


def test_the_settings_of_the_user_change_nothing(study, drawn):
    before = figures._render(drawn["losses"][0], "svg")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.hashsalt": "x"}):
        again = figures.draw(study)["losses"][0]
        assert figures._render(again, "svg") == before


def test_the_ground_of_an_svg_is_transparent(drawn, tmp_path):
    texts = figures.save({name: drawn[name] for name in ("losses", "samples")}, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"losses.svg", "losses.pdf", "losses.png", "samples.png"}
    svg = (tmp_path / "losses.svg").read_text()
    assert texts["losses"] == (svg, drawn["losses"][1])
    assert "fill: #ffffff" not in svg


@pytest.mark.parametrize("name", ["effects", "fd_cifar", "fluctuation", "losses", "shares"])
def test_nothing_is_cut_off(drawn, name):
    figure = drawn[name][0]
    box = figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer())
    assert box.x0 > -0.02
    assert box.x1 < 7.02
    assert box.y0 > -0.02
    assert box.y1 < figure.get_figheight() + 0.02


def test_the_picture_of_an_analysis_is_that_of_the_lowest_seed_that_has_one(make_study, tmp_path):
    made = {"factors": ARMS | {"norm": ["none"], "head": ["conv"], "batch": [128]}}
    folder = make_study(tmp_path, seeds=range(4), **TINY | made)
    for seed in range(4):
        place = folder / f"norm=none,head=conv,batch=128/seed={seed}" / "eval"
        place.mkdir()
        result = {"epoch": 2, "values": {}, "titles": {}, "notes": []}
        (place / "walks.json").write_text(json.dumps(result))
        if seed > 1:
            Image.fromarray(np.full((20, 40, 3), seed, np.uint8)).save(place / "walks.png")
    figure, caption = figures.draw(analyse(records.load(folder)))["walks"]
    assert np.unique(figure.axes[0].images[0].get_array()).tolist() == [2]
    assert "norm=none, head=conv, batch=128, seed 2, after epoch 2; n = 1 run." in caption
    assert "a walk between two z, and a blend" in caption


def _colour(study, norm, batch):
    return figures.look_of(study, (norm, "conv", batch))[0]
