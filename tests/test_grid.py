import itertools

import pytest

from experiments import grid
from experiments.grid import BadStudy, define, fit, runs


def fitted(*words, scale="small", seeds=None, available=50_000, data="cifar10"):
    return fit(define("ablation", scale, seeds, list(words)), data, "0" * 64, available)


def test_the_ablation_is_the_blogs_grid_with_every_seed():
    study = fitted(seeds=3)
    cells = {(r.config.norm, r.config.head, r.config.batch, r.config.seed) for r in runs(study)}
    assert cells == set(
        itertools.product(("none", "batch"), ("conv", "avgpool"), (128, 512), range(3))
    )
    assert len(runs(study)) == 24


def test_all_cells_of_a_seed_come_before_the_next_seed():
    assert [run.config.seed for run in runs(fitted(seeds=2))] == [0] * 8 + [1] * 8


def test_runs_of_a_study_differ_in_factors_and_seed_alone():
    dumps = [run.config.model_dump() for run in runs(fitted(seeds=2))]
    varying = {key for key in dumps[0] if len({dump[key] for dump in dumps}) > 1}
    assert varying == {"norm", "head", "batch", "seed"}


def test_a_folder_says_what_the_run_is():
    study = fitted()
    assert study.folder == "ablation-small"
    assert runs(study)[0].folder == "norm=none,head=conv,batch=128/seed=0"
    assert fitted(data="shapes").folder == "ablation-small-shapes"


def test_words_narrow_factors_in_the_grids_order_and_set_fields():
    study = fitted("batch=512,128", "head=avgpool", "width=16", "lr_g=1e-3")
    assert study.factors == {"norm": ["none", "batch"], "head": ["avgpool"], "batch": [128, 512]}
    assert {(r.config.width, r.config.lr_g) for r in runs(study)} == {(16, 1e-3)}


def test_there_are_never_more_images_than_the_data_has():
    study = fitted(available=700)
    assert {(r.config.images, r.config.reference_images) for r in runs(study)} == {(700, 700)}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["had=conv"], "'had=conv'"),
        (["head"], "'head'"),
        (["head=liner"], "head=liner is not a level"),
        (["batch=256"], "batch=256 is not a level"),
        (["seed"], "'seed' is not key=value with a key among norm, head, batch, seed"),
        (["seed="], "seed= is not a whole number"),
        (["seed=0-2"], "seed=0-2 is not a whole number"),
        (["seed=1,-1"], "seed=-1: Input should be greater than or equal to 0"),
        (["seed=2147483648"], "seed=2147483648: Input should be less than 2147483648"),
        (["seed=3,4,+3"], "seed=3,4,+3 has a seed twice"),
        (["seed=3", "seed=4"], "seed is given twice"),
        (["data=other"], "'data=other' is not"),
        (["width=many"], "width=many"),
        (["width=0"], "width=0"),
        (["lr_d=nan"], "lr_d=nan"),
        (["epochs=0"], "epochs=0"),
        (["width=8", "width=9"], "width is given twice"),
        (["batch=128,128"], "batch=128,128 has a level twice"),
        (["width=1_6"], "width=1_6 is not a whole number"),
        (["width=16.0"], "width=16.0 is not a whole number"),
        (["width=016"], "width=016 is not a whole number"),
        (["width=１６"], "width=１６ is not a whole number"),
        (["lr_g=1e-999"], "lr_g=1e-999 is too small"),
        (["lr_g=1e-311"], "lr_g=1e-311 is too small to be kept in all its digits"),
        (["norm=NO"], "norm=NO is not a level"),
        (["latent=two\nlines"], r"latent='two\nlines'"),
    ],
)
def test_a_wrong_word_is_refused_by_key_and_value_in_one_line(words, said):
    with pytest.raises(BadStudy) as caught:
        define("ablation", "small", None, words)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "seeds", "made"),
    [
        ("seed=3", None, [3]),
        ("seed=5,3", None, [3, 5]),
        ("seed=2,0", 3, [0, 2]),
        ("seed=1249", 1250, [1249]),
    ],
)
def test_seeds_are_chosen_like_the_levels_of_a_factor(word, seeds, made):
    count = 1 + made[-1]
    chosen = runs(fitted("head=conv", word, seeds=seeds))
    whole = runs(fitted("head=conv", seeds=count))
    assert chosen == [run for run in whole if run.config.seed in made]
    assert len(chosen) == 4 * len(made)


def test_a_seed_outside_of_seeds_is_refused():
    with pytest.raises(BadStudy) as caught:
        define("ablation", "small", 3, ["seed=1,3"])
    assert str(caught.value) == "seed=3 is not one of --seeds 3: 0 to 2"


@pytest.mark.parametrize(
    ("word", "value"),
    [("lr_g=2e-4", 2e-4), ("lr_g=.5", 0.5), ("lr_g=1E-3", 1e-3), ("resolution=16", 16)],
)
def test_a_number_is_read_as_it_is_written(word, value):
    assert define("ablation", "small", None, [word]).settings[word.split("=")[0]] == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: the file is empty"),
        ("seeds: 1", "line 1: config is missing"),
        ("config: {width: 8}", "line 1: seeds is missing"),
        ("seeds: 0\nconfig: {width: 8}", "line 1: seeds=0 is not a positive number"),
        ("seeds: 1\nsedes: 2\nconfig: {width: 8}", "line 2: sedes is not a key: seeds, config"),
        ("seeds: 1\nconfig:\n  widht: 8", "line 3: widht is not a key: norm, head"),
        ("seeds: 1\nconfig:\n  data: x", "line 3: data is not a key"),
        ("seeds: 1\nconfig:\n  width: 8\n  width: 9", "line 4: width is there twice"),
        ("seeds: 1\nconfig: {width: 8}\nseeds: 2", "line 3: seeds is there twice"),
        ("seeds: 1\nconfig:\n  norm: NO", "line 3: norm=NO: Input should be 'none' or 'batch'"),
        ("seeds: 1\nconfig:\n  lr_g: .nan", "line 3: lr_g=.nan is not a number"),
        ("seeds: 1\nconfig:\n  lr_g: 0", "line 3: lr_g=0: Input should be greater than 0"),
        ("seeds: 1\nconfig:\n  width: wide", "line 3: width=wide is not a whole number"),
        ("seeds: 1\nconfig:\n  width: 010", "line 3: width=010 is not a whole number"),
        ("seeds: 1\nconfig:\n  width: [8]", "line 3: width is not a single value"),
        ("seeds: 1\nconfig:\n  width:", "line 3: width= is not a whole number"),
        ("seeds: &a 1\nconfig: {width: *a}", "line 1: anchors and aliases are not read"),
        ("seeds: 1\nconfig: !!map {width: 8}", "line 2: the tag tag:yaml.org,2002:map is not"),
        ("seeds: 1\nconfig: {width: 8}\n---\n", "line 3: a second document"),
        ("seeds: 1\n\tconfig: 2", "line 2: not YAML: found character"),
        ("[" * 9999, "line 1: nested too deep"),
        ("#" * 70_000, "line 1: a file of over 64 KiB"),
    ],
)
def test_a_scale_is_read_as_it_is_written_or_refused_with_the_line(text, said):
    with pytest.raises(BadStudy) as caught:
        grid.parse_scale(text.encode())
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_a_scale_means_what_it_says():
    text = "seeds: 3\nconfig: {lr_g: 2e-4, norm: none, width: '8', latent: \"uniform\"} # yes\n"
    expected = {"lr_g": 2e-4, "norm": "none", "width": 8, "latent": "uniform"}
    assert grid.parse_scale(text.encode()) == (3, expected)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("factor: {norm: [none]}", "line 1: factor is not a key: factors"),
        ("factors: {norm: none}", "line 1: norm is not a list of levels"),
        ("factors:\n  norm: []", "line 2: norm is not a list of levels"),
        ("factors:\n  norm: [none, layer]", "line 2: norm=layer: Input should be"),
        ("factors:\n  beta1: [0.5, .50]", "line 2: beta1 has a level twice"),
        ("factors:\n  seed: [0, 1]", "line 2: seed is not a key"),
        ("factors:\n  epochs: [1, 2]", "line 2: epochs is not a key"),
        ("factors: {}", "line 1: not a mapping"),
        ("factors: {norm: [none]}\narms: {}", "line 1: factors and arms exclude each other"),
        ("arms: {}", "line 1: arms is not a mapping of names to settings"),
        ("arms: [a]", "line 1: arms is not a mapping of names to settings"),
        ("arms:\n  a: relu", "line 2: not a mapping"),
        ("arms:\n  a/b: {}", "line 2: a/b is no name of an arm"),
        ("arms:\n  a: {}\n  b: {beta1: much}", "line 3: beta1=much is not a number"),
        ("arms:\n  a: {}\n  b: {seed: 1}", "line 3: seed is not a key"),
        ("arms:\n  a: {}\n  b: {epochs: 1}", "line 3: epochs is not a key"),
        ("arms:\n  a: {beta1: 0.9}\n  b: {beta1: .9}", "line 3: b sets what a sets"),
    ],
)
def test_a_study_is_read_as_it_is_written_or_refused_with_the_line(text, said):
    with pytest.raises(BadStudy) as caught:
        grid.parse_study(text.encode())
    assert str(caught.value).startswith(said)


def test_named_arms_set_what_they_say_and_nothing_else():
    study = fit(define("followups", "small", 2), "cifar10", "0" * 64, 50_000)
    made = runs(study)
    assert len(made) == 2 * len(study.arms)
    usual = made[0].config.model_dump()
    assert (made[0].arm, made[0].folder) == ("arm=baseline", "arm=baseline/seed=0")
    assert made[0].config == runs(fitted())[0].config
    for run in made:
        name = run.arm.removeprefix("arm=")
        config = run.config.model_dump()
        changed = {key: value for key, value in config.items() if value != usual[key]}
        assert changed.items() - {("seed", 1)} == study.arms[name].items()


def test_arms_are_narrowed_by_name():
    study = define("followups", "small", None, ["arm=relu-d,baseline", "epochs=3"])
    assert study.factors == {"arm": ["baseline", "relu-d"]}
    with pytest.raises(BadStudy, match="arm=leaky is not a level of followups"):
        define("followups", "small", None, ["arm=leaky"])


def test_a_fault_in_a_file_names_the_file(monkeypatch, tmp_path):
    (tmp_path / "scales").mkdir()
    (tmp_path / "studies").mkdir()
    (tmp_path / "scales/mine.yaml").write_text("seeds: 1\nconfig:\n  width: 2e-4\n")
    (tmp_path / "studies/ablation.yaml").write_text("factors: {norm: [none, batch]}\n")
    monkeypatch.setattr(grid, "HERE", tmp_path)
    with pytest.raises(BadStudy) as caught:
        define("ablation", "mine")
    assert str(caught.value) == "scales/mine.yaml, line 3: width=2e-4 is not a whole number"


def test_a_study_of_too_many_runs_is_refused():
    assert len(runs(fitted(seeds=1250))) == grid.MOST_RUNS
    with pytest.raises(BadStudy, match="seeds=1251 makes 10,008 runs, over 10,000"):
        define("ablation", "small", 1251)
    with pytest.raises(BadStudy, match="seeds=1251 makes 10,008 runs, over 10,000"):
        define("ablation", "small", None, [f"seed={','.join(map(str, range(1251)))}"])


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(BadStudy, match="batch=512 is larger than images=300"):
        runs(fitted(available=300))


@pytest.mark.parametrize(("study", "scale"), [("ablations", "small"), ("ablation", "tiny")])
def test_an_unknown_study_or_scale_is_refused(study, scale):
    with pytest.raises(BadStudy, match="does not exist: choose from"):
        define(study, scale)


@pytest.mark.parametrize("scale", grid.scales())
def test_every_scale_makes_valid_runs(scale):
    study = fitted(scale=scale)
    assert len(runs(study)) == 8 * len(study.seeds)


def test_blog64_has_the_blogs_settings():
    config = runs(fitted(scale="blog64"))[0].config
    assert (config.resolution, config.width) == (64, 128)
    assert (config.stem, config.init) == ("linear", "torch")
    assert (config.lr_g, config.lr_d, config.beta1, config.beta2) == (2e-4, 2e-4, 0.5, 0.999)
    assert (config.latent, config.latent_size, config.images) == ("normal", 100, 50_000)
