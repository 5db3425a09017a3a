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


@pytest.fixture
def write(monkeypatch, tmp_path):
    """Write scales/mine.yaml or studies/mine.yaml where the files are looked for."""
    for folder in ("scales", "studies"):
        (tmp_path / folder).mkdir()
    (tmp_path / "scales/small.yaml").write_text("seeds: 1\nconfig: {width: 8}\n")
    (tmp_path / "studies/ablation.yaml").write_text("factors: {norm: [none, batch]}\n")
    monkeypatch.setattr(grid, "HERE", tmp_path)
    return lambda folder, text: (tmp_path / folder / "mine.yaml").write_text(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Input should be a valid dictionary"),
        ("seeds: 1", "config: Field required"),
        ("config: {width: 8}", "seeds: Field required"),
        ("seeds: 0\nconfig: {width: 8}", "seeds: Input should be greater than 0"),
        ("seeds: 1\nsedes: 2\nconfig: {}", "sedes: Extra inputs are not permitted"),
        ("seeds: 1\nconfig:\n  widht: 8", "config: widht is not a key: norm, head"),
        ("seeds: 1\nconfig:\n  width: 8\n  width: 9", "line 3: width is there twice"),
        ("seeds: 1\nconfig:\n  norm: NO", "config: norm=NO: Input should be 'none' or 'batch'"),
        ("seeds: 1\nconfig:\n  lr_g: .nan", "config: lr_g=.nan is not a number"),
        ("seeds: 1\nconfig:\n  width: 010", "config: width=010 is not a whole number"),
        ("seeds: 1\nconfig:\n  width: [8]", "config: width is not a single value"),
        ("seeds: 1\n\tconfig: 2", "while scanning"),
    ],
)
def test_a_scale_is_refused_with_its_file_and_key(write, text, said):
    write("scales", text)
    with pytest.raises(BadStudy) as caught:
        define("ablation", "mine")
    assert str(caught.value).startswith(f"scales/mine.yaml: {said}")
    assert "\n" not in str(caught.value)


def test_a_scale_means_what_it_says(write):
    write("scales", "seeds: 3\nconfig: {lr_g: 2e-4, norm: none, width: '8', latent: \"uniform\"}\n")
    study = define("ablation", "mine")
    assert study.settings == {"lr_g": 2e-4, "norm": "none", "width": 8, "latent": "uniform"}
    assert study.seeds == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("factor: {norm: [none]}", "factor: Extra inputs are not permitted"),
        ("factors: {norm: none}", "factors: norm: Input should be a valid list"),
        ("factors:\n  norm: []", "factors: norm: List should have at least 1 item"),
        ("factors:\n  norm: [none, layer]", "factors: norm=layer: Input should be"),
        ("factors:\n  beta1: [0.5, .50]", "factors: beta1 has a level twice"),
        ("factors:\n  seed: [0, 1]", "factors: seed is not a key"),
        ("factors:\n  epochs: [1, 2]", "factors: epochs is not a key"),
        ("factors: {norm: [none]}\narms: {a: {}}", "a study has factors, or it has arms"),
        ("arms: {}", "a study has factors, or it has arms"),
        ("arms: [a]", "arms: Input should be a valid dictionary"),
        ("arms:\n  a: relu", "arms: a: Input should be a valid dictionary"),
        ("arms:\n  a/b: {}", "arms: a/b: [key]: String should match pattern"),
        ("arms:\n  a: {}\n  b: {beta1: much}", "arms: beta1=much is not a number"),
        ("arms:\n  a: {beta1: 0.9}\n  b: {beta1: .9}", "arms: b sets what a sets"),
    ],
)
def test_a_study_is_refused_with_its_file_and_key(write, text, said):
    write("studies", text)
    with pytest.raises(BadStudy) as caught:
        define("mine", "small")
    assert str(caught.value).startswith(f"studies/mine.yaml: {said}")


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
