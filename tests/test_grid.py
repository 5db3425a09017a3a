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
        (["seed=3"], "'seed=3' is not"),
        (["data=other"], "'data=other' is not"),
        (["width=many"], "width=many"),
        (["width=0"], "width=0"),
        (["lr_d=nan"], "lr_d=nan"),
        (["epochs=0"], "epochs=0"),
    ],
)
def test_a_wrong_word_is_refused_by_key_and_value_in_one_line(words, said):
    with pytest.raises(BadStudy) as caught:
        define("ablation", "small", None, words)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


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
