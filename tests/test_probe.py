"""The linear probe: on features whose worth is known, and from the command line."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import leaky_relu, max_pool2d

from dcgan import rundir
from dcgan.config import Config
from dcgan.data import canonical, load, of_classes, resize, shapes, to_signed
from dcgan.models import build
from dcgan.train import dump_state, start, train_epoch
from eval import probe, results
from eval.__main__ import main
from eval.probe import (
    COSTS,
    KINDS,
    Found,
    discriminator_features,
    fit,
    label_sets,
    pixel_features,
    predict,
    solve,
    span,
    to_result,
)

CONFIG = Config(resolution=16, width=4, latent_size=8, images=100, batch=20, epochs=2)


def dots(count, seed):
    """Grey images with one bright dot anywhere: its colour is the class, red or green."""
    rng = np.random.default_rng(seed)
    pixels = np.full((count, 16, 16, 3), 128, np.uint8)
    labels = np.arange(count) % 2
    places = rng.integers(0, 16, (count, 2))
    pixels[np.arange(count), places[:, 0], places[:, 1], labels] = 255
    return canonical("dots", pixels, labels)


def striped(count, classes, apart, seed=0):
    """Noise of SD 10 around grey; class c has row c brighter, by `apart` SDs."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    pixels = rng.normal(100, 10, (count, 8, 8, 3))
    pixels[np.arange(count), labels] += 10 * apart
    return canonical("striped", pixels.round().astype(np.uint8), labels)


# --- D's features ---------------------------------------------------------------------------------


def test_features_are_the_pooled_activations_of_every_layer():
    config = CONFIG.model_copy(update={"resolution": 32})
    D = build(config)[1].train()
    D(torch.rand(20, 3, 32, 32))  # so that the running statistics are not the initial ones
    before = {name: tensor.clone() for name, tensor in D.state_dict().items()}
    pixels = shapes(7).pixels
    found = discriminator_features(D)(pixels)
    assert (found.shape, found.dtype) == ((7, (4 + 8 + 16) * 16), np.float32)

    with torch.no_grad():
        x = to_signed(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        first = leaky_relu(D.from_rgb[0](x), 0.2)
        second = leaky_relu(D.down[0][1](D.down[0][0](first)), 0.2)
        third = leaky_relu(D.down[1][1](D.down[1][0](second)), 0.2)
    maps = [max_pool2d(first, 4), max_pool2d(second, 2), third]
    expected = torch.cat([x.flatten(1) for x in maps], dim=1).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert not D.training
    for name, tensor in D.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_features_do_not_depend_on_the_images_beside_them(monkeypatch):
    features = discriminator_features(build(CONFIG)[1])
    pixels = resize(shapes(9), 16).pixels
    whole = features(pixels)
    monkeypatch.setattr(probe, "BATCH", 4)
    np.testing.assert_allclose(features(pixels), whole, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(features(pixels[5:6]), whole[5:6], rtol=1e-5, atol=1e-7)


def test_a_discriminator_that_sees_dots_beats_the_pixels():
    D = build(CONFIG)[1]
    with torch.no_grad():
        D.from_rgb[0].weight.zero_()
        for channel in range(2):
            D.from_rgb[0].weight[channel, channel] = 1
    train, test = dots(400, 1), dots(200, 2)
    sets = label_sets(train.labels, 100, 2, None)
    seen = solve(discriminator_features(D), train, test, sets)[100]
    raw = solve(pixel_features, train, test, sets)[100]
    assert seen.rates.min() > 0.95
    assert 0.4 < raw.rates.min() <= raw.rates.max() < 0.8
    assert (seen.size, raw.size) == ((4 + 8) * 16, 768)


# --- The SVMs -------------------------------------------------------------------------------------


def test_draws_are_balanced_seeded_and_in_turns():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 3, 7], [10, 20, 30]))
    sets = label_sets(labels, 30, 4, 50)
    assert list(sets) == [30, 50]
    assert [len(draws) for draws in sets.values()] == [4, 1]
    for draw in sets[30]:
        assert labels[draw].tolist() == [0, 3, 7] * 10
        assert len(set(draw.tolist())) == 30
    assert len({draw.tobytes() for draw in sets[30]}) == 4
    assert len(set(sets[50][0].tolist())) == 50
    assert set(labels[sets[50][0]]) == {0, 3, 7}

    again = label_sets(labels, 30, 4, 50)
    for count in sets:
        np.testing.assert_array_equal(again[count], sets[count])


@pytest.mark.parametrize(
    ("count", "full", "reason"),
    [
        (20, None, "20 labels are not equally many, and two, of 3 classes"),
        (3, None, "3 labels are not equally many"),
        (33, None, "33 labels are 11 of a class, and one has 10 images"),
        (30, 30, "more than 30 and at most 60"),
        (30, 61, "more than 30 and at most 60"),
    ],
)
def test_labels_that_cannot_be_chosen_are_refused(count, full, reason):
    with pytest.raises(ValueError, match=reason):
        label_sets(np.repeat([0, 1, 2], [10, 20, 30]), count, 1, full)


def test_classes_that_are_apart_are_told_apart_and_others_by_chance():
    train, test = (striped(count, 4, 4, seed) for count, seed in ((200, 1), (400, 2)))
    sets = label_sets(train.labels, 80, 3, 160)
    apart = solve(pixel_features, train, test, sets)
    assert [found.rates.shape for found in apart.values()] == [(3,), (1,)]
    assert apart[80].rates.min() > 0.9
    assert apart[160].rates[0] >= apart[80].rates.mean()

    train, test = (striped(count, 4, 0, seed) for count, seed in ((200, 1), (400, 2)))
    blind = solve(pixel_features, train, test, sets)[80].rates
    assert np.abs(blind - 0.25).max() < 4 * np.sqrt(0.25 * 0.75 / 400)


def test_the_scale_of_a_feature_does_not_matter():
    train, test = (striped(count, 3, 0.4, seed) for count, seed in ((90, 1), (200, 2)))
    sets = label_sets(train.labels, 60, 2, None)

    def rescaled(pixels):
        x = pixel_features(pixels)
        return x * 2.0 ** (np.arange(x.shape[1]) % 9) + 1

    plain, scaled = (solve(each, train, test, sets)[60] for each in (pixel_features, rescaled))
    assert plain.cost == scaled.cost
    np.testing.assert_allclose(plain.rates, scaled.rates, atol=0.011)  # two of 200 images
    assert 0.4 < plain.rates.mean() < 0.95


def test_rows_are_standardised_and_turned_into_the_space_that_they_span():
    x = pixel_features(striped(60, 2, 0.4).pixels)
    spanned = span(x)
    assert spanned.rows.shape == (60, 60)
    standardised = (x - x.mean(axis=0)) / x.std(axis=0) / np.sqrt(192)
    np.testing.assert_allclose(
        spanned.rows @ spanned.rows.T, standardised @ standardised.T, atol=1e-5
    )
    assert np.square(spanned.rows).sum() / 60 == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("classes", [2, 3])
def test_other_images_get_the_class_that_the_svm_of_all_features_gives_them(classes):
    train, test = (striped(60, classes, 0.4, seed) for seed in (1, 2))
    kept = (train.labels == 0) | (np.arange(60) % 4 == 0)  # so that the intercepts matter
    x, labels = pixel_features(train.pixels[kept]), train.labels[kept]
    other = pixel_features(test.pixels)
    found = predict(fit(span(x).rows, labels, 2.0), span(x), other)
    scale = x.std(axis=0) * np.sqrt(192)
    svm = fit((x - x.mean(axis=0)) / scale, labels, 2.0)
    np.testing.assert_array_equal(found, svm.predict((other - x.mean(axis=0)) / scale))
    assert 40 < (found == 0).sum() < 60


def test_the_svm_is_an_l2_svm():
    train = striped(60, 2, 0.4)
    rows = span(pixel_features(train.pixels)).rows
    svm = fit(rows, train.labels, 3.0)

    # The gradient of |w|^2 / 2 + 3 sum of squared hinges vanishes.
    w = svm.coef_[0]
    signs = np.where(train.labels == 1, 1, -1)
    hinge = np.maximum(0, 1 - signs * (rows @ w + svm.intercept_))
    assert (hinge > 0).any()
    np.testing.assert_allclose(w, 2 * 3.0 * (hinge * signs) @ rows, atol=2e-3 * np.abs(w).max())


def test_test_images_and_undrawn_labels_choose_nothing():
    train, test = (striped(count, 4, 0.5, seed) for count, seed in ((200, 1), (300, 9)))
    sets = label_sets(train.labels, 40, 2, None)
    found = solve(pixel_features, train, test, sets)[40]
    assert found.cost in COSTS

    drawn = np.unique(np.concatenate(sets[40]))
    others = np.setdiff1d(np.arange(200), drawn)
    labels = train.labels.copy()
    labels[others] = 0
    poisoned = canonical("poisoned", train.pixels, labels)
    assert np.array_equal(poisoned.pixels, train.pixels)
    again = solve(pixel_features, poisoned, test, sets)[40]
    assert (again.cost, again.rates.tolist()) == (found.cost, found.rates.tolist())

    shifted = probe.Images("", "", test.pixels, (test.labels + 1) % 4, "")
    wrong = solve(pixel_features, train, shifted, sets)[40]
    assert wrong.cost == found.cost
    assert wrong.rates.max() < 0.25 < found.rates.min()


def test_what_is_not_finite_has_no_accuracy():
    D = build(CONFIG)[1]
    with torch.no_grad():
        D.down[0][0].weight[0, 0, 0, 0] = float("nan")
    train = dots(40, 1)
    found = solve(discriminator_features(D), train, train, label_sets(train.labels, 20, 2, 30))
    assert [np.isnan(one.rates).tolist() for one in found.values()] == [[True, True], [True]]


def test_the_result_has_means_spreads_and_paired_gains():
    rates = {
        "trained": [0.5, 0.7],
        "untrained": [0.3, 0.4],
        "pixels": [0.2, 0.2],
        "classifier": [0.9, 0.8],
    }
    found = {kind: {20: Found(np.array(r), 1.0, 6)} for kind, r in rates.items()}
    for kind, each in found.items():
        each[40] = Found(np.array(rates[kind][:1]), 0.1, 6)
    result = to_result(7, found, {"labels": 20})
    assert (result.tool, result.epoch) == ("probe", 7)
    assert result.values == pytest.approx(
        {
            "accuracy_trained_20": 0.6,
            "sd_trained_20": 0.02**0.5,
            "accuracy_untrained_20": 0.35,
            "sd_untrained_20": 0.005**0.5,
            "accuracy_pixels_20": 0.2,
            "sd_pixels_20": 0.0,
            "accuracy_classifier_20": 0.85,
            "sd_classifier_20": 0.005**0.5,
            "accuracy_gain_20": 0.25,
            "sd_gain_20": 0.005**0.5,
            "accuracy_trained_40": 0.5,
            "accuracy_untrained_40": 0.3,
            "accuracy_pixels_40": 0.2,
            "accuracy_classifier_40": 0.9,
            "accuracy_gain_40": 0.2,
        }
    )
    assert result.titles.keys() == result.values.keys()
    assert result.about["labels"] == 20
    assert result.about["svm"]["pixels_40"] == {"C": 0.1, "features": 6}
    assert len(result.about["svm"]) == 2 * len(KINDS)


# --- The command line -----------------------------------------------------------------------------


def write_folder(path, pixels, labels):
    """PNG files in a folder for each label; without labels, all in one."""
    for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        file = path / ("" if label < 0 else str(label)) / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return path


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Folders of 120 drawings and of 110 others; `plain` has no labels, `nine` no class 0."""
    drawn, out = shapes(230), tmp_path_factory.mktemp("sources")
    train, test = slice(0, 120), slice(120, 230)
    write_folder(out / "train", drawn.pixels[train], drawn.labels[train])
    write_folder(out / "test", drawn.pixels[test], drawn.labels[test])
    write_folder(out / "plain", drawn.pixels[test], np.full(110, -1))
    nine = np.flatnonzero(drawn.labels > 0)
    write_folder(out / "nine", drawn.pixels[nine], drawn.labels[nine])
    return out


@pytest.fixture
def study(tmp_path, sources):
    """A study of one run, whose D has not learned anything in two epochs."""
    train = load(str(sources / "train"), tmp_path / "cache")
    folder = tmp_path / "study"
    rundir.replace(folder / "study.json", rundir.seal({"data": {"resolution": 32}}))
    config = CONFIG.model_copy(update={"data_sha256": train.sha256})
    write_run(folder / "norm=none" / "seed=0", config)
    return folder


def write_run(run, config, epochs=2):
    rundir.replace(run / "run.json", rundir.seal({"config": config.model_dump()}))
    state = start(config)
    for state.epoch in range(1, epochs + 1):
        rundir.commit(run, state.epoch, {rundir.STATE: dump_state(state)})


@pytest.fixture
def one_thread():
    """As the command runs, which leaves it so."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run_probe(study, sources, one_thread, capsys):
    def run(*words, where=study, data="train", test="test", labels=20):
        capsys.readouterr()
        named = ["--data", str(sources / data), "--test", str(sources / test)]
        try:
            options = ["--labels", str(labels), "--draws", "2", "--device", "cpu"]
            code = main(["probe", str(where), *named, *options, *map(str, words)])
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


def test_the_command_keeps_and_prints_what_it_found(study, run_probe, sources):
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    code, shown, said = run_probe("--full", 60)
    run = study / "norm=none" / "seed=0"
    assert code == 0
    assert said == f"measured 1 of 1: {run}, epoch 2\n"
    content = (run / "eval" / "probe.json").read_bytes()
    after = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    assert after == before | {run / "eval" / "probe.json": content}

    found = json.loads(content)
    values, about = found["values"], found["about"]
    assert (found["tool"], found["epoch"]) == ("probe", 2)
    assert values.keys() == found["titles"].keys()
    assert len(values) == 10 + 5

    # D is the untrained one, and so are its numbers; the classifier knows more than the pixels.
    for count in (20, 60):
        assert values[f"accuracy_trained_{count}"] == values[f"accuracy_untrained_{count}"] > 0
        assert values[f"accuracy_gain_{count}"] == 0
    assert about["svm"]["trained_20"] == about["svm"]["untrained_20"]
    assert about["svm"]["trained_20"]["features"] == 12 * 16
    assert about["svm"]["pixels_20"]["features"] == 3072
    assert about["svm"]["classifier_20"]["features"] == 192

    # What was used is named.
    state = (rundir.epoch_folder(run, 2) / rundir.STATE).read_bytes()
    assert about["state_sha256"] == hashlib.sha256(state).hexdigest()
    train = load(str(sources / "train"), study.parent / "other")
    assert about["data_sha256"] == train.sha256 != about["test_sha256"]
    assert (about["labels"], about["draws"], about["full"]) == (20, 2, 60)
    assert about["test_images"] == 110

    # The table has the numbers and says what they are.
    assert f"{values['accuracy_pixels_20']:.4g}" in shown
    for words in (*found["titles"].values(), *found["notes"]):
        assert words in shown

    # What is there is kept; once more gives the same bytes.
    (run / "eval" / "probe.json").write_bytes(content.replace(b'"pixels, 20"', b'"kept, 20"'))
    code, shown, said = run_probe()
    assert (code, "kept, 20" in shown) == (0, True)
    assert said == f"kept 1 of 1: {run}, epoch 2\n"
    assert run_probe("--full", 60, "--again")[0] == 0
    assert (run / "eval" / "probe.json").read_bytes() == content


def test_the_command_makes_pruned_states_again_and_leaves_unfinished_runs_out(
    study, run_probe, sources
):
    run, begun = study / "norm=none" / "seed=0", study / "norm=none" / "seed=1"
    config = rundir.read_config(run)
    write_run(begun, config.model_copy(update={"seed": 1}), epochs=1)

    # A run over a few images of one class, whose first state was as training makes it.
    shutil.rmtree(run)
    few = {"classes": "3", "images": 6, "batch": 3}
    write_run(run, config := config.model_copy(update=few))
    train = resize(load(str(sources / "train"), study.parent / "cache"), 16)
    state = start(config)
    train_epoch(state, config, torch.from_numpy(of_classes(train, "3").pixels[:6]))
    shutil.rmtree(rundir.epoch_folder(run, 1))
    rundir.commit(run, 1, {rundir.STATE: dump_state(state)})
    rundir.prune(run, 3)

    code, _, said = run_probe("--epoch", 1)
    assert code == 0
    assert said.splitlines() == [
        f"left out, 1 of 2 epochs: {begun}",
        f"{run}: the state of epoch 1 is pruned; training it again",
        f"measured 1 of 1: {run}, epoch 1",
    ]
    assert not (begun / "eval").exists()
    assert results.stored(run, "probe").epoch == 1
    assert run_probe(where=begun)[0] == 2

    # The other epoch is another result.
    assert f"measured 1 of 1: {run}, epoch 2" in run_probe(where=run)[2]
    assert results.stored(run, "probe").epoch == 2


def test_the_command_gives_nulls_where_d_is_not_finite(study, run_probe):
    run = study / "norm=none" / "seed=0"
    state = start(rundir.read_config(run))
    with torch.no_grad():
        state.D.from_rgb[0].weight[0] = float("nan")
    state.epoch = 2
    shutil.rmtree(rundir.epoch_folder(run, 2))
    rundir.commit(run, 2, {rundir.STATE: dump_state(state)})
    assert run_probe()[0] == 0
    values = results.stored(run, "probe").values
    nulls = {
        f"{name}_20" for name in ("accuracy_trained", "sd_trained", "accuracy_gain", "sd_gain")
    }
    assert {name for name, value in values.items() if value is None} == nulls


def test_bad_input_is_one_line(study, run_probe, sources):
    run = study / "norm=none" / "seed=0"
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    refused = [
        (run_probe(test="plain"), "--test plain: 110 of its images have no label"),
        (run_probe(test="nine"), "its classes are not those of --data"),
        (run_probe(test="train"), "these are the images of --data, none is held out"),
        (run_probe(data="test", test="train"), "test: its SHA-256 is"),
        (run_probe(data="none"), "none: no such file or folder"),
        (run_probe(labels=25), "25 labels are not equally many, and two, of 10 classes"),
        (run_probe(labels=500), "500 labels are 50 of a class"),
        (run_probe("--full", 20), "more than 20 and at most 120"),
        (run_probe("--draws", 0), "0 is not in the range"),
        (run_probe("--epoch", 3), "epoch 3 is not one of 1 to 2"),
        (run_probe("--device", "tpu"), "--device tpu: there is only cpu"),
        (run_probe(where=sources), "no study here or above"),
    ]
    for (code, shown, complaint), reason in refused:
        assert (code, shown) == (2, ""), reason
        assert reason in complaint
        assert len(complaint.splitlines()) == 1, complaint
    assert {path: path.read_bytes() for path in study.rglob("*") if path.is_file()} == before

    # A damaged state, a damaged config, a D without convolutions.
    path = rundir.epoch_folder(run, 2) / rundir.STATE
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "0002/state.safetensors: its SHA-256 is" in run_probe()[2]
    config = rundir.read_config(run)
    plain = config.model_copy(update={"model": "mlp"})
    rundir.replace(run / "run.json", rundir.seal({"config": plain.model_dump()}))
    assert f"{run}: model=mlp has no convolutions" in run_probe()[2]
    rundir.replace(run / "run.json", b"{}\n")
    code, shown, complaint = run_probe()
    assert (code, shown, len(complaint.splitlines())) == (2, "", 1)
    assert f"{run / 'run.json'}: is not as it was written" in complaint
    assert not (run / "eval").exists()
