"""A study whose arms have names: from its records to what a reader sees."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import tables_of

from dcgan import rundir
from dcgan.cli import BadInput
from reports import claims, figures, findings, page, records, tables
from reports.analysis import analyse
from reports.tables import DASH

ARMS = {
    "baseline": {},
    "plain-gan": {"model": "mlp", "batch": 512},
    "relu-d": {"act_d": "relu"},
}
NOISE = {"latent", "latent_size"}  # that decide what z is
TINY = {"resolution": 16, "points": 2, "epochs": 4, "arms": ARMS}


@pytest.fixture(scope="module")
def named(make_study, tmp_path_factory):
    """Three arms, eight seeds: plain-gan twice as far as the baseline, relu-d 1 % nearer."""
    folder = make_study(tmp_path_factory.mktemp("named"), seeds=range(8), eval_sets=3, **TINY)
    study = analyse(records.load(folder))
    base = study.frame.loc[study.frame["arm"] == "baseline", "fd_cifar"].to_numpy()
    for arm, factor in ("plain-gan", 2.0), ("relu-d", 0.99):
        study.frame.loc[study.frame["arm"] == arm, "fd_cifar"] = factor * base
    return study


def test_the_sentences_compare_every_arm_with_the_baseline(named):
    ratios = {x.levels["arm"]: x.ratio.value for x in named.last_effects["fd_cifar"]}
    wanted = {("baseline", "plain-gan"): 2.0, ("baseline", "relu-d"): 0.99}
    assert ratios == pytest.approx(wanted)
    assert findings.findings(named).headline[0] == (
        "Against baseline, fd_cifar is multiplied by 2.00 (2.00 to 2.00) by plain-gan "
        "and 0.990 (0.990 to 0.990) by relu-d."
    )
    assert len(named.batch_effects) == 0


def test_a_claim_has_to_name_its_arms(named):
    known = pd.DataFrame({"fd_cifar": {"untrained": 1e9}})
    ledger = [one.model_copy(update={"images": 1}) for one in claims.load()]
    judged = claims.judge(replace(named, calibration=known), ledger)
    verdicts = {one.claim.id: one for one in judged}
    assert (verdicts["B7"].verdict, verdicts["P4"].verdict) == ("supported", "equivalent")
    assert verdicts["B7"].estimate.value == pytest.approx(0.5)
    assert verdicts["B5"].verdict == "not yet run"
    assert "needs the ablation at cpu32" in verdicts["B5"].why
    assert "no arm no-batchnorm-g in this study" in verdicts["P3"].why


def test_the_tables_and_figures_are_those_of_named_arms(named):
    shown = tables_of(named)
    sets = {"baseline": "nothing", "plain-gan": "model=mlp, batch=512", "relu-d": "act_d=relu"}
    assert [tuple(row) for row in shown["arms"].rows] == [*sets.items()]
    assert set(named.frame.loc[named.frame["arm"] == "plain-gan", "batch"]) == {512}
    assert np.isnan(named.losses["bound"]).all()
    figure, caption = figures.draw(named)["fd_cifar"]
    assert [axis.get_title("left") for axis in figure.axes] == ["plain-gan", "relu-d"]
    assert "Blue: baseline; orange: the arm that is named." in caption
    colours = {line.get_color() for line in figure.axes[0].lines}
    assert colours == {figures.HUES[0][0], figures.HUES[1][0]}


def test_the_page_names_its_study_and_its_command(named):
    assert page.title(named) == "What single changes do to DCGAN"
    assert page.command(named).startswith("make followups SCALE=small SEEDS=8 DATA=shapes")
    assert "seed=" not in page.command(named)
    chosen = replace(named, info=named.info | {"seeds": [1, 5]})
    assert page.command(chosen).startswith("make followups SCALE=small DATA=shapes")
    assert page.command(chosen).endswith(' seed=1,5"')

    # What make does not know by its name is typed as it is.
    kinds = replace(named, info=chosen.info | {"study": "kinds"})
    words = page.command(kinds).split()
    typed = ".venv/bin/python -m experiments kinds --scale small --data shapes"
    assert words[:8] == typed.split()
    assert words[-1] == "seed=1,5"
    film = page.filmstrip(named)
    assert film["factors"] == {"arm": ["baseline", "plain-gan", "relu-d"]}


def test_the_images_of_a_study_are_those_of_its_baseline(make_study, tmp_path):
    arms = {"few": {"images": 300}, "fewer": {"images": 200}}
    study = analyse(records.load(make_study(tmp_path, **TINY | {"arms": arms})))
    assert study.config.images == 300
    assert "; 300 of " in tables.caption(study)[0]
    shown, _ = page.render(study, claims.judge(study), findings.findings(study), [], {}, {})
    assert "300 images at 16×16" in shown


def test_runs_of_different_classes_are_scored_against_their_own(make_study, tmp_path):
    arms = {"all": {}, "one": {"classes": "1"}}
    folder = make_study(tmp_path, **TINY | {"arms": arms})
    run = folder / "arm=one/seed=0/run.json"
    stored = rundir.unseal(run)
    for identity in stored["identities"].values():
        identity["split"] = "train, 1"
    rundir.replace(run, rundir.seal(stored))
    assert records.load(folder).identities["fd_cifar"]["split"] == records.OWN_CLASSES

    # Whatever else differs is still refused.
    for identity in stored["identities"].values():
        identity["generated"] += 1
    rundir.replace(run, rundir.seal(stored))
    with pytest.raises(BadInput, match="generated is 2000"):
        records.load(folder)


@pytest.mark.parametrize(
    ("seeds", "factors"),
    [
        (6, {"act_d": ["leaky", "relu"], "latent": ["normal", "uniform"]}),
        (1, {"norm": ["none", "batch"], "act_d": ["leaky", "relu"]}),
        (1, {"latent_size": [10, 20, 30, 40, 50]}),
    ],
)
def test_other_factors_are_reported_like_the_ablations(make_study, tmp_path, seeds, factors):
    made = TINY | {"arms": None, "seeds": range(seeds), "eval_sets": 3 * (seeds > 1)}
    study = analyse(records.load(make_study(tmp_path, factors=factors, inception="epoch", **made)))
    assert study.factors == list(factors)
    judged, result = claims.judge(study), findings.findings(study)
    drawn = figures.draw(study)
    assert {"fd_cifar", "losses"} < set(drawn)
    looks = {figures.look_of(study, arm) for arm in study.arms}
    assert len(looks) == (2 if len(study.arms) == 5 else len(study.arms))

    shown, last = tables.report(study, judged), tables_of(study)["last"]
    assert last.headings[: len(factors)] == [tables.FACTORS.get(x, x) for x in factors]
    assert len(last.rows) == len(study.arms)
    svg = figures.save(drawn, tmp_path / "figures")
    text, _ = page.render(study, judged, result, shown, svg, {})
    names = " ".join(result.headline + result.losses)
    for name, levels in factors.items():
        assert f"{name}={levels[0]}" in text
        assert f"{name}=" in names or name == "norm"
        assert page.values(study, name) == tables.join([*map(str, levels)])
        if name in NOISE:
            assert page.values(study, name) in text
    assert page.values(study, "lr_d") == "0.0002"
    assert ("same noise" in drawn["samples"][1]) == ({*factors}.isdisjoint(NOISE))
    assert DASH not in " ".join(result.all)  # no number stands for what was not measured
    assert ("BatchNorm on D's output" in names) == ("norm" in factors)
