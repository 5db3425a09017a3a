"""Records that another version wrote: what it did not know has its default, in every comparison."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from dcgan import rundir
from dcgan.cli import BadInput
from dcgan.config import Config
from dcgan.data import Images
from dcgan.rundir import Damaged, Differs
from experiments import archive, grid, reproduce, status, tracking
from experiments.plan import Plan, make_plan
from reports import records

FACTORS = {"norm": ["none", "batch"], "head": ["conv"], "batch": [128]}
NONE = "norm=none,head=conv,batch=128/seed=0"
GIVEN = {"factors": FACTORS, "epochs": 3, "resolution": 16, "points": 2}

# The config of a run that was published before six of today's fields and `imagenet` were there, and
# the id that it had on W&B then.
EARLY = {
    "norm": "none",
    "head": "conv",
    "batch": 128,
    "seed": 0,
    "data": "cifar10",
    "data_sha256": "71cf71fbae196ade4d6be17c5e5db9925256c80e0a58a75dd926ae5584398f28",
    "images": 10000,
    "resolution": 32,
    "width": 32,
    "latent": "normal",
    "latent_size": 100,
    "stem": "conv",
    "init": "paper",
    "epochs": 8,
    "lr_g": 0.0002,
    "lr_d": 0.0002,
    "beta1": 0.5,
    "beta2": 0.999,
    "precision": "fp32",
    "score_images": 2000,
    "reference_images": 10000,
    "inception": "never",
}
EARLY_ID = "d6ba1804b7"
INFO = {"study": "ablation", "scale": "small"}


class Newer(Config):
    """The config of a later version."""

    colour: Literal["rgb", "grey"] = "rgb"


@pytest.fixture
def upgrade(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The function that makes this process one of the later version."""

    def to_newer() -> None:
        for name, module in list(sys.modules.items()):
            ours = name.startswith(("dcgan.", "eval.", "experiments.", "reports."))
            if ours and getattr(module, "Config", None) is Config:
                monkeypatch.setattr(module, "Config", Newer)

    return to_newer


def plan(study: Path, out: Path) -> Plan:
    """`make ablation` on a made-up study, up to its plan."""
    info = rundir.unseal(study / "study.json")
    pixels = np.zeros((10_000, 16, 16, 3), np.uint8)
    images = Images("shapes", "shapes", pixels, np.zeros(10_000, np.int64), info["data"]["sha256"])
    wanted = grid.Study("ablation", "small", info["factors"], info["seeds"], info["settings"], {})
    return make_plan(wanted, images, out, "cpu", 1, 1, "disabled")


def restate(run: Path, **changes: dict) -> None:
    """Store a run.json in which a part says something else; None: nothing."""
    stored = rundir.unseal(run / "run.json")
    for part, values in changes.items():
        both = stored[part] | values
        stored[part] = {key: value for key, value in both.items() if value is not None}
    rundir.replace(run / "run.json", rundir.seal(stored))


@pytest.mark.parametrize("later", [False, True])
def test_fields_that_came_later_are_no_difference(upgrade, tmp_path, later):
    rundir.replace(tmp_path / "run.json", rundir.seal({"config": EARLY}))
    if later:
        upgrade()
    config = rundir.Config.model_validate(EARLY)
    assert ("colour" in config.model_dump()) == later
    assert rundir.compare(tmp_path, {"config": config.model_dump()}) == []
    assert rundir.read_config(tmp_path) == config
    wide = config.model_copy(update={"d_steps": 2, "width": 64}).model_dump()
    assert rundir.compare(tmp_path, {"config": wide}) == [
        "d_steps=1 is stored, d_steps=2 is asked for",
        "width=32 is stored, width=64 is asked for",
    ]

    # What is stored stays, so that the run keeps its id.
    rundir.describe(tmp_path, {"config": config.model_dump()})
    assert rundir.unseal(tmp_path / "run.json") == {"config": EARLY}


def test_ids_outlast_versions(upgrade):
    assert tracking.run_id(INFO, EARLY) == EARLY_ID
    whole = Config(inception="never").model_dump()
    before = {key: value for key, value in whole.items() if key in tracking.AT_FIRST}
    name = tracking.run_id(INFO, before)
    assert name == "eaedcf031b"
    assert tracking.run_id(INFO, whole) == name

    upgrade()
    newer = Newer(inception="never").model_dump()
    assert (tracking.run_id(INFO, EARLY), tracking.run_id(INFO, newer)) == (EARLY_ID, name)
    assert tracking.run_id(INFO, newer | {"colour": "grey"}) != name


def test_a_stored_study_goes_on_in_a_later_version(upgrade, make_study, tmp_path):
    study = make_study(tmp_path / "there", **GIVEN)
    archive.pack(study, tmp_path / "study.zip")
    frame = records.load(study)
    upgrade()

    # It is planned, shown and read.
    assert plan(study, study.parent).missing == [False, False]
    assert status.look(study).states == {"done": 2}
    again = records.load(study)
    assert (again.factors, again.missing) == (frame.factors, [])
    assert again.frame.equals(frame.frame)

    # It travels, and meets a run that the later version made.
    out = tmp_path / "here"
    merged = archive.merge(tmp_path / "study.zip", out)
    assert merged.new_epochs == 6
    restate(merged.study / NONE, config={"colour": "rgb"})
    assert archive.merge(tmp_path / "study.zip", out).new_epochs == 0
    found = records.load(merged.study)
    assert (found.factors, len(found.frame)) == (frame.factors, 6)

    # Only another value is another run.
    restate(merged.study / NONE, config={"colour": "grey"})
    with pytest.raises(Differs, match="colour=grey is stored, colour=rgb is asked for"):
        archive.merge(tmp_path / "study.zip", out)
    with pytest.raises(Differs, match=f"{NONE}: colour=grey is stored, colour=rgb is asked for"):
        plan(study, out)
    assert records.load(merged.study).factors == [*frame.factors, "colour"]


def test_fields_of_a_later_version_are_refused_by_name(make_study, tmp_path):
    study = make_study(tmp_path / "there", **GIVEN)
    run = study / NONE
    restate(run, config={"colour": "rgb", "shape": 3})
    line = "'colour', 'shape': unknown to this version"
    with pytest.raises(Differs, match=f"{NONE}: run.json: {line}$"):
        plan(study, study.parent)
    for read in (lambda: records.load(study), lambda: rundir.read_config(run)):
        with pytest.raises(Damaged, match=f"{NONE}/run.json: {line}$"):
            read()
    with pytest.raises(BadInput, match=f"this version cannot make it: .*{line}$"):
        reproduce.recipe(run)
    assert line in {each.note.partition(": ")[2] for each in status.look(study).runs}
    with pytest.raises(Damaged, match=line):
        archive.pack(study, tmp_path / "study.zip")


def test_a_fingerprint_is_compared_in_what_it_says_of_itself(tmp_path):
    said = {"torch": "2.15.0", "threads": 1}
    rundir.replace(tmp_path / "run.json", rundir.seal({"config": {}, "fingerprint": said}))
    here = {"torch": "2.15.0", "threads": 1, "arithmetic": "1713281d099e"}
    assert rundir.compare(tmp_path, {"fingerprint": here}) == []
    assert rundir.compare(tmp_path, {"fingerprint": here | {"threads": 2}}) == [
        "threads=1 is stored, threads=2 is asked for"
    ]

    # From here on the run says more.
    rundir.describe(tmp_path, {"config": {}, "fingerprint": here})
    other = here | {"arithmetic": "another"}
    (words,) = rundir.compare(tmp_path, {"fingerprint": other})
    assert words.startswith("arithmetic=1713281d099e is stored")
    assert rundir.compare(tmp_path, {"fingerprint": said}) == []


def test_metrics_that_came_later_are_added_and_none_is_lost(tmp_path):
    old = {"config": {}, "identities": {"fd_cifar": {"generated": 2000}}}
    new = {"config": {}, "identities": {"kd": {"generated": 2000}, "fd_cifar": {"generated": 2000}}}
    rundir.replace(tmp_path / "run.json", rundir.seal(old))
    rundir.describe(tmp_path, new)
    assert rundir.unseal(tmp_path / "run.json") == new
    with pytest.raises(Differs, match=r"kd=\{.*\} is stored, kd=None is asked for"):
        rundir.describe(tmp_path, old)
