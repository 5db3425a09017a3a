"""What the figures show, whatever the settings of the user."""

import dataclasses
import itertools
import json
import math
import re
import shutil

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from PIL import Image

from eval.metrics import CALIBRATION
from reports import figures, records, tables
from reports.analysis import analyse, effect_numbers
from reports.tables import significant

ARMS = {"norm": ["none", "batch"], "head": ["conv", "avgpool"], "batch": [128]}
ONE = {"norm": ["none"], "head": ["conv"], "batch": [128]}
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


def test_every_caption_says_n_and_what_is_drawn_of_it_and_what_the_metric_is(study, drawn):
    metrics = [x for x in drawn if x.endswith("_cifar")]
    assert list(drawn) == [*metrics, "samples", "strip", "effects", "fluctuation", "losses"]
    assert metrics[:2] == ["fd_cifar", "cs_cifar"]
    for name, (_, caption) in drawn.items():
        assert re.search(r"n = (3 seeds|1 run of each arm)", caption), name
        pictured = name in ("samples", "strip")
        assert pictured or "thick: their mean" in caption or "95 % t interval" in caption, name
        if not pictured and name != "losses":
            metric = name if name in metrics else "fd_cifar"
            digest = study.identities[metric]["network_sha256"][:12]
            assert f"{metric}: on cifar10-resnet (SHA-256 {digest}), 2,000 generated" in caption


def test_the_lines_are_the_records(study, drawn):
    axis = next(a for a in drawn["fd_cifar"][0].axes if a.get_title("left") == "batch 512")
    frame = study.frame[study.frame["batch"] == 512]
    thin = sorted(tuple(line.get_ydata()) for line in axis.lines if line.get_linewidth() == 0.8)
    assert thin == sorted(tuple(values) for _, values in frame.groupby("run")["fd_cifar"])
    thick = sorted(tuple(line.get_ydata()) for line in axis.lines if line.get_linewidth() == 2)
    means = frame.groupby(["norm", "head", "epoch"])["fd_cifar"].mean()
    assert np.allclose(thick, sorted(tuple(v) for _, v in means.groupby(["norm", "head"])))

    # Of every arm and seed both losses are drawn, and ln 2 beside D's.
    axes = drawn["losses"][0].axes
    titles = [axis.get_title("left") for axis in axes]
    assert titles == [f"{x} loss, batch {y}" for y in (128, 512) for x in "DG"]
    for axis in axes:
        widths = [line.get_linewidth() for line in axis.lines]
        assert (widths.count(0.8), widths.count(2)) == (4 * 3, 4)
        ln2 = [line for line in axis.lines if np.allclose(line.get_ydata(), np.log(2), atol=1e-12)]
        assert len(ln2) == axis.get_title("left").startswith("D")


def test_a_metric_of_some_epochs_is_drawn_through_these(make_study, tmp_path):
    made = make_study(tmp_path, (0, 1), 6, ONE, inception="milestone", resolution=16, points=2)
    figure, caption = figures.draw(analyse(records.load(made)))["fid"]
    lines = [line.get_xdata().tolist() for line in figure.axes[0].lines]
    assert lines == [[1, 2, 5]] * 3  # two seeds and their mean
    assert caption.startswith("FID after the 3 epochs at which it was measured; lower is better.")


@pytest.mark.parametrize(("lowest", "below"), [(15, 1), (55, 2)])
def test_images_that_no_training_made_are_dashed_lines(
    make_study, calibrate_study, tmp_path, lowest, below
):
    beyond, drawn = SETS[:below], SETS[below:]
    folder = make_study(tmp_path, seeds=(0, 1), **TINY | {"epochs": 3})
    calibrate_study(folder)
    study = analyse(records.load(folder))
    scores = study.frame["fd_cifar"]
    values = lowest + (99 - lowest) * (scores - scores.min()) / np.ptp(scores)
    study = dataclasses.replace(study, frame=study.frame.assign(fd_cifar=values))
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

    # Named once in a row of panels, in the order of the values, apart and beside the axis.
    first, last = figure.axes
    assert not first.texts
    assert [text.get_text() for text in last.texts] == [
        *(CALIBRATION[name] for name in SETS[::-1] if name in drawn),
        *(f"{CALIBRATION[name]} {significant(known[name])} ↓" for name in beyond[::-1]),
    ]
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in last.texts]
    assert all(above.y0 > below.y0 + 8 for above, below in itertools.pairwise(boxes))
    assert all(last.bbox.x1 < box.x0 < box.x1 <= figure.bbox.x1 for box in boxes)
    assert caption.endswith(figures.DASHED)


def test_one_factor_one_channel(study):
    def colour(norm, batch):
        return to_rgb(figures.look_of(study, (norm, "conv", batch))[0])

    cells = itertools.product(("none", "batch"), (128, 512))
    light = {cell: np.dot(colour(*cell), (0.21, 0.72, 0.07)) for cell in cells}
    assert min(np.diff(sorted(light.values()))) > 0.05  # apart in greyscale
    for norm, leads in (("none", 2), ("batch", 0)):
        assert light[norm, 128] < light[norm, 512]  # the smallest is the darkest
        assert {int(np.argmax(colour(norm, batch))) for batch in (128, 512)} == {leads}


def test_the_forest_is_the_table_of_effects(study, drawn):
    axis = drawn["effects"][0].axes[0]
    table = pd.DataFrame([effect_numbers(x) for x in study.last_effects["fd_cifar"]])
    names = [label.get_text() for label in axis.get_yticklabels()]
    main = ["output BatchNorm", "average-pool head", "batch 512 against 128"]
    assert names[:4] == [*main, "output norm × head"]
    diamonds = [line for line in axis.lines if line.get_marker() == "D"]
    middles = [float(line.get_xdata()[0]) for line in diamonds]
    assert middles[:7] == pytest.approx(table["ratio"].tolist(), rel=1e-12)
    hollow = [line.get_markerfacecolor() == "none" for line in diamonds]
    assert hollow[:7] == [False] * 3 + [True] * 4
    bars = [line.get_xdata() for line in axis.lines if line.get_linewidth() in (2.4, 1.2)]
    assert np.allclose(bars[:7], table[["ratio_low", "ratio_high"]], rtol=1e-12, atol=0)
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    for line, value in zip(dots, middles, strict=True):
        assert len(line.get_xdata()) == 3
        assert np.exp(np.log(line.get_xdata()).mean()) == pytest.approx(value, rel=1e-12)


def test_the_fluctuation_of_an_arm_is_drawn_in_its_own_row(study, drawn):
    axis = drawn["fluctuation"][0].axes[0]
    large = [line for line in axis.lines if line.get_markersize() == 8.5]
    assert [float(line.get_ydata()[0]) for line in large] == list(range(len(study.arms)))
    strokes = [float(line.get_xdata()[0]) for line in axis.lines if line.get_marker() == "|"]
    assert len(strokes) == 8
    assert all(0.5 < noise < 4 for noise in strokes)  # the sets of make_study: 2 %


def last_samples(study, run):
    return np.asarray(Image.open(study.folder / run / "epochs" / "0002" / "samples.png"))


def test_the_samples_are_the_pictures_of_the_lowest_seed(study, drawn):
    sheet = np.asarray(drawn["samples"][0])[..., :3]
    wanted = last_samples(study, BATCH).repeat(4, axis=0).repeat(4, axis=1)
    height, width = wanted.shape[:2]
    rows = range(len(sheet) - height + 1)
    assert any(np.array_equal(sheet[y : y + height, :width], wanted) for y in rows)


def test_the_strip_is_the_best_arm_and_those_that_one_level_sets_apart(study, drawn):
    means = study.last.groupby(study.factors)["fd_cifar"].mean()
    best = means.idxmin()
    near = [arm for arm in study.arms if sum(x != y for x, y in zip(arm, best, strict=True)) == 1]
    sheet, caption = drawn["strip"]
    images = [last_samples(study, study.runs_of[arm][0]) for arm in [best, *near]]
    halves = [image[:, : image.shape[1] // 2] for image in images]
    height, width = halves[0].shape[:2]
    scale = 256 // width
    pixels = np.asarray(sheet)[-scale * height :, :, :3]
    for i, half in enumerate(halves):
        shown = pixels[::scale, i * 288 : i * 288 + scale * width : scale]
        assert np.array_equal(shown, half), i
    assert ", ".join(map(tables.prose, study.factors, best)) in caption


def test_a_cross_marks_a_run_that_diverged_and_a_missing_arm_keeps_its_place(make_study, tmp_path):
    made = {"factors": ARMS, "diverged": {BATCH: 2}}
    sizes = []
    for name, absent in (("whole", {}), ("part", {"norm=none,head=conv,batch=128/seed=0": 0})):
        folder = make_study(tmp_path / name, committed=absent, **made, **TINY)
        drawn = figures.draw(analyse(records.load(folder)))
        lines = drawn["fd_cifar"][0].axes[0].lines
        assert [line.get_marker() for line in lines].count("x") == 1
        assert "cross" in drawn["fd_cifar"][1]
        sizes.append(drawn["samples"][0].size)
    assert sizes[0] == sizes[1]


def test_a_narrow_study_of_one_epoch(make_study, tmp_path):
    narrow = make_study(tmp_path, factors=ONE, **TINY | {"epochs": 1})
    assert list(figures.draw(analyse(records.load(narrow)))) == ["samples", "losses"]


def test_the_settings_of_the_user_change_nothing(study, drawn, tmp_path):
    path, _ = figures.save({"losses": drawn["losses"]}, tmp_path, pdf=True)["losses"]
    before = path.read_bytes()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.hashsalt": "x"}):
        again = figures.draw(study)["losses"]
        figures.save({"losses": again}, tmp_path)
    assert path.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"losses.svg", "losses.pdf"}


def test_nothing_is_cut_off(study, drawn, calibrate_study, tmp_path):
    shutil.copytree(study.folder, tmp_path, dirs_exist_ok=True)
    calibrate_study(tmp_path, untrained={"fd_cifar": 98.766})
    long = analyse(records.load(tmp_path))  # long numbers left of the axis, long names right of it
    close = 98.76543 + long.frame["fd_cifar"].rank() / 1e5
    long = dataclasses.replace(long, frame=long.frame.assign(fd_cifar=close))
    shown = [drawn[name] for name in ("effects", "fd_cifar", "fluctuation", "losses")]
    for figure, _ in [*shown, figures.draw(long)["fd_cifar"]]:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        box = figure.get_tightbbox(canvas.get_renderer())
        assert -0.02 < box.x0 < box.x1 < figures.WIDTH + 0.02
        assert -0.02 < box.y0 < box.y1 < figure.get_figheight() + 0.02
        legend = min([x.get_window_extent().y0 for x in figure.legends], default=math.inf)
        assert all(axis.get_tightbbox().y1 < legend for axis in figure.axes)


def test_the_picture_of_an_analysis_is_that_of_the_lowest_seed_that_has_one(make_study, tmp_path):
    folder = make_study(tmp_path, seeds=range(4), factors=ONE, **TINY)
    for seed in range(4):
        place = folder / f"norm=none,head=conv,batch=128/seed={seed}" / "eval"
        place.mkdir()
        epoch = 2 if seed else 1  # that of seed 0 is of another generator than the last
        result = {"epoch": epoch, "values": {}, "titles": {}, "notes": []}
        (place / "walks.json").write_text(json.dumps(result))
        if seed != 1:
            Image.fromarray(np.full((20, 40, 3), seed, np.uint8)).save(place / "walks.png")
    picture, caption = figures.draw(analyse(records.load(folder)))["walks"]
    assert np.unique(np.asarray(picture)).tolist() == [2]
    assert "norm=none, head=conv, batch=128, seed 2, after epoch 2; n = 1 run." in caption
    assert "a walk between two z, and a blend" in caption
