import hashlib
import itertools
from dataclasses import replace

import pytest
from conftest import capture, write_files

from dcgan.cli import BadInput
from experiments import grid
from experiments.grid import BadStudy, define, fit, runs
from experiments.launch import frozen_claims


def fitted(*words, scale="small", seeds=None, available=50_000, data="cifar10"):
    return fit(define("ablation", scale, seeds, words), data, "0" * 64, available)


def test_the_ablation_is_the_blogs_grid_with_every_seed_one_seed_after_the_other():
    made = [run.config for run in runs(fitted(seeds=3))]
    assert [config.seed for config in made] == [0] * 8 + [1] * 8 + [2] * 8
    cells = {(config.norm, config.head, config.batch, config.seed) for config in made}
    levels = ("none", "batch"), ("conv", "avgpool"), (128, 512), range(3)
    assert cells == {*itertools.product(*levels)}
    dumps = [config.model_dump() for config in made]
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
        (["head"], "'head' is not key=value with a key among norm, head, batch, seed"),
        (["data=other"], "'data=other' is not key=value"),
        (["head=liner"], "head=liner is not a level of ablation: conv, avgpool"),
        (["seed=0-2"], "seed=0-2 is not a whole number"),
        (["width=0"], "width=0: Input should be greater"),
        (["width=16.0"], "width=16.0 is not a whole number"),
        (["lr_d=nan"], "lr_d=nan: Input should be a finite number"),
    ],
)
def test_a_wrong_word_is_refused_by_key_and_value(words, said):
    with pytest.raises(BadStudy) as caught:
        runs(define("ablation", "small", None, words))
    assert str(caught.value).startswith(said)


def test_seeds_are_chosen_like_the_levels_of_a_factor():
    for word, seeds, made in ("seed=5,3", None, [3, 5]), ("seed=2,0", 3, [0, 2]):
        whole = runs(fitted("head=conv", seeds=1 + made[-1]))
        chosen = runs(fitted("head=conv", word, seeds=seeds))
        assert chosen == [run for run in whole if run.config.seed in made]
        assert len(chosen) == 4 * len(made)
    with pytest.raises(BadStudy, match="seed=3 is not one of --seeds 3: 0 to 2"):
        define("ablation", "small", 3, ["seed=1,3"])


@pytest.fixture
def write(monkeypatch, tmp_path):
    """Write scales/mine.yaml or studies/mine.yaml where the files are looked for."""
    files = {"scales/small.yaml": b"seeds: 1\nconfig: {width: 8}\n"}
    files["studies/ablation.yaml"] = b"factors: {norm: [none, batch]}\n"
    write_files(tmp_path, files)
    monkeypatch.setattr(grid, "HERE", tmp_path)
    return lambda folder, text: (tmp_path / folder / "mine.yaml").write_text(text)


@pytest.mark.parametrize(
    ("folder", "text", "said"),
    [
        ("scales", "seeds: 1", "config: Field required"),
        ("scales", "seeds: 1\nsedes: 2\nconfig: {}", "sedes: Extra inputs are not permitted"),
        ("scales", "seeds: 1\nconfig:\n  widht: 8", "config: widht is not a key: norm, head"),
        ("scales", "seeds: 1\n\tconfig: 2", "while scanning"),
        ("studies", "factors: {norm: []}", "factors: norm: List should have at least 1 item"),
        ("studies", "factors: {seed: [0, 1]}", "factors: seed is not a key"),
        ("studies", "factors: {epochs: [1, 2]}", "epochs is no factor"),
        ("studies", "factors: {resolution: [16, 32]}", "resolution is no factor"),
        ("studies", "arms: {a: {}, b: {resolution: 64}}", "resolution is no factor"),
        ("studies", "arms: {}", "a study has factors, or it has arms"),
        ("studies", "arms: {a/b: {}}", "arms: a/b: [key]: String should match pattern"),
        ("studies", "arms: {a: {}, b: {beta3: 1}}", "arms: b: beta3 is not a key"),
    ],
)
def test_a_file_is_refused_with_its_name_and_key_in_one_line(write, folder, text, said):
    write(folder, text)
    with pytest.raises(BadInput) as caught:
        define(*(("ablation", "mine") if folder == "scales" else ("mine", "small")))
    assert str(caught.value).startswith(f"{folder}/mine.yaml: {said}")
    assert "\n" not in str(caught.value)


def test_a_scale_means_what_it_says(write):
    write("scales", "seeds: 3\nconfig: {lr_g: 2e-4, norm: none, width: 8, latent: uniform}\n")
    study = define("ablation", "mine")
    assert study.settings == {"lr_g": 2e-4, "norm": "none", "width": 8, "latent": "uniform"}
    assert study.seeds == [0, 1, 2]


def test_named_arms_set_what_they_say_and_nothing_else():
    study = fit(define("followups", "small", 2), "cifar10", "0" * 64, 50_000)
    made = runs(study)
    assert len(made) == 2 * len(study.arms)
    usual = made[0].config.model_dump()
    assert (made[0].arm, made[0].folder) == ("arm=baseline", "arm=baseline/seed=0")
    assert made[0].config == runs(fitted())[0].config
    for run in made:
        config = run.config.model_dump()
        changed = {key: value for key, value in config.items() if value != usual[key]}
        assert changed.items() - {("seed", 1)} == study.arms[run.arm.removeprefix("arm=")].items()
    narrowed = define("followups", "small", None, ["arm=relu-d,baseline", "epochs=3"])
    assert narrowed.factors == {"arm": ["baseline", "relu-d"]}


@pytest.mark.parametrize(("study", "scale"), [("ablations", "small"), ("ablation", "tiny")])
def test_an_unknown_study_or_scale_is_refused_with_those_that_exist(study, scale):
    with pytest.raises(BadStudy, match=r"is not among the (studies: abl|scales: blog64, cifar32)"):
        define(study, scale)


@pytest.mark.parametrize("scale", grid.names("scales"))
def test_every_scale_makes_valid_runs(scale):
    study = fitted(scale=scale)
    assert len(runs(study)) == 8 * len(study.seeds)


def test_blog64_has_the_blogs_settings():
    config = runs(fitted(scale="blog64"))[0].config
    assert (config.resolution, config.width) == (64, 128)
    assert (config.stem, config.init) == ("linear", "torch")
    assert (config.lr_g, config.lr_d, config.beta1, config.beta2) == (2e-4, 2e-4, 0.5, 0.999)
    assert (config.latent, config.latent_size, config.images) == ("normal", 100, 50_000)


def test_a_study_keeps_the_claims_that_it_started_with():
    info = {"study": "ablation", "scale": "small", "seeds": [0], "commit": "a"}
    info |= {"factors": define("ablation", "small").factors, "settings": {"epochs": 1}}
    early, late = (info | {"claims": {"commit": name}} for name in ("early", "late"))
    for stored, added, kept in ((early, late, {"commit": "early"}), (info, late, {})):
        assert grid.merge(stored, added)["claims"] == kept
    assert "claims" not in grid.merge(info, info)


def test_a_stored_study_whose_file_has_changed_is_known():
    study = define("ablation", "small", None, ["norm=none"])
    assert not grid.has_changed(study)
    for other in ({"act_d": ["relu"]}, {"batch": [64]}):
        assert grid.has_changed(replace(study, factors=study.factors | other))
    assert grid.has_changed(replace(study, factors={"norm": ["none"]}))


def test_the_commit_of_the_claims_is_the_last_one_that_touched_them(tmp_path):
    def git(*words):
        who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        done = capture(["git", "-C", tmp_path, *who, *words])
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    path = tmp_path / "claims.yaml"
    path.write_text("B1: {}\n")
    git("init")
    assert frozen_claims(path)["commit"] == "unknown"  # no commit
    git("add", "claims.yaml")
    git("commit", "-m", "Claims")
    first = git("log", "-1", "--format=%h")
    git("commit", "--allow-empty", "-m", "Something else")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (frozen_claims(path)["commit"], frozen_claims(path)["sha256"]) == (first, digest)
    path.write_text("B1: {}\n\n")
    assert frozen_claims(path)["commit"] == f"{first}+changes"
