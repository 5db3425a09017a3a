"""Records that another version wrote: what it did not know has its default, in every comparison."""

import sys
from typing import Literal

import pytest

from dcgan import rundir
from dcgan.config import Config
from dcgan.rundir import Damaged, Differs
from experiments import archive, reproduce, status, tracking
from reports import records

FACTORS = {"norm": ["none", "batch"], "head": ["conv"], "batch": [128]}
NONE = "norm=none,head=conv,batch=128/seed=0"
GIVEN = {"factors": FACTORS, "epochs": 3, "resolution": 16, "points": 2}

# The config of a run that was published before seven of today's fields were there, and the id that
# it had on W&B then.
LATER = {"classes", "model", "norm_g", "norm_d", "act_d", "d_steps", "imagenet"}
SHA256 = "71cf71fbae196ade4d6be17c5e5db9925256c80e0a58a75dd926ae5584398f28"
EARLY = Config(data="cifar10", data_sha256=SHA256, inception="never").model_dump(exclude=LATER)
EARLY_ID = "d6ba1804b7"
INFO = {"study": "ablation", "scale": "small"}


class Newer(Config):
    """The config of a later version."""

    colour: Literal["rgb", "grey"] = "rgb"


@pytest.fixture
def upgrade(monkeypatch):
    """The function that makes this process one of the later version."""

    def to_newer():
        for name, module in list(sys.modules.items()):
            ours = name.startswith(("dcgan.", "eval.", "experiments.", "reports."))
            if ours and getattr(module, "Config", None) is Config:
                monkeypatch.setattr(module, "Config", Newer)

    return to_newer


def restate(run, **config):
    """Store a run.json whose config says something else."""
    stored = rundir.unseal(run / "run.json")
    stored["config"] |= config
    rundir.replace(run / "run.json", rundir.seal(stored))


@pytest.mark.parametrize("later", [False, True])
def test_fields_that_came_later_are_no_difference(upgrade, tmp_path, later):
    rundir.replace(tmp_path / "run.json", rundir.seal({"config": EARLY}))
    if later:
        upgrade()
    config = rundir.Config.model_validate(EARLY)
    assert ("colour" in config.model_dump()) == later
    rundir.check(tmp_path, {"config": config.model_dump()})
    assert rundir.read_config(tmp_path) == config
    wide = config.model_copy(update={"d_steps": 2, "width": 64}).model_dump()
    said = "d_steps=1 is stored, d_steps=2 is asked for; width=32 is stored, width=64 is asked for"
    with pytest.raises(Differs, match=f"{tmp_path}: {said}$"):
        rundir.check(tmp_path, {"config": wide})

    # What is stored stays, so that the run keeps its id.
    rundir.describe(tmp_path, {"config": config.model_dump()})
    assert rundir.unseal(tmp_path / "run.json") == {"config": EARLY}


def test_ids_outlast_versions(upgrade):
    assert tracking.run_id(INFO, EARLY) == EARLY_ID
    whole, name = Config(inception="never").model_dump(), "eaedcf031b"
    before = {key: value for key, value in whole.items() if key in tracking.AT_FIRST}
    assert tracking.run_id(INFO, before) == tracking.run_id(INFO, whole) == name

    upgrade()
    newer = Newer(inception="never").model_dump()
    assert (tracking.run_id(INFO, EARLY), tracking.run_id(INFO, newer)) == (EARLY_ID, name)
    assert tracking.run_id(INFO, newer | {"colour": "grey"}) != name


def test_a_stored_study_is_read_and_travels_in_a_later_version(upgrade, make_study, tmp_path):
    study = make_study(tmp_path / "there", **GIVEN)
    archive.pack(study, tmp_path / "study.zip")
    before = records.load(study)
    upgrade()
    assert status.look(study).states == {"done": 2}
    again = records.load(study)
    assert (again.factors, again.missing) == (before.factors, [])
    assert again.frame.equals(before.frame)

    # It meets a run that the later version made; only another value is another run.
    out = tmp_path / "here"
    merged = archive.merge(tmp_path / "study.zip", out)
    restate(merged.study / NONE, colour="rgb")
    assert archive.merge(tmp_path / "study.zip", out).new_epochs == 0
    assert records.load(merged.study).factors == before.factors
    restate(merged.study / NONE, colour="grey")
    with pytest.raises(Differs, match=f"{NONE}: colour=grey is stored, colour=rgb is asked for"):
        archive.merge(tmp_path / "study.zip", out)
    assert records.load(merged.study).factors == [*before.factors, "colour"]


def test_fields_of_a_later_version_are_refused_by_name(make_study, tmp_path):
    study = make_study(tmp_path / "there", **GIVEN)
    run = study / NONE
    restate(run, colour="rgb", shape=3)
    line = "'colour', 'shape': unknown to this version"
    with pytest.raises(Damaged, match=f"{NONE}/run.json: {line}$"):
        rundir.check(run, {"config": {}})
    for read, folder in ((records.load, study), (reproduce.recipe, run)):
        with pytest.raises(Damaged, match=f"{NONE}/run.json: {line}$"):
            read(folder)
    assert line in {each.note.partition(": ")[2] for each in status.look(study).runs}
    with pytest.raises(Damaged, match=line):
        archive.pack(study, tmp_path / "study.zip")


def test_a_fingerprint_is_compared_in_what_it_says_of_itself(tmp_path):
    said = {"torch": "2.15.0", "threads": 1}
    rundir.replace(tmp_path / "run.json", rundir.seal({"config": {}, "fingerprint": said}))
    here = said | {"arithmetic": "1713281d099e"}
    rundir.check(tmp_path, {"fingerprint": here})
    with pytest.raises(Differs, match=f"{tmp_path}: threads=1 is stored, threads=2 is asked for$"):
        rundir.check(tmp_path, {"fingerprint": here | {"threads": 2}})

    # From here on the run says more.
    rundir.describe(tmp_path, {"config": {}, "fingerprint": here})
    with pytest.raises(Differs, match=f"{tmp_path}: arithmetic=1713281d099e is stored"):
        rundir.check(tmp_path, {"fingerprint": here | {"arithmetic": "another"}})
    rundir.check(tmp_path, {"fingerprint": said})


def test_metrics_that_came_later_are_added_and_none_is_lost(tmp_path):
    old = {"config": {}, "identities": {"fd_cifar": {"generated": 2000}}}
    new = {"config": {}, "identities": {"kd": {"generated": 2000}} | old["identities"]}
    rundir.replace(tmp_path / "run.json", rundir.seal(old))
    rundir.describe(tmp_path, new)
    assert rundir.unseal(tmp_path / "run.json") == new
    with pytest.raises(Differs, match=r"kd=\{.*\} is stored, kd=None is asked for"):
        rundir.describe(tmp_path, old)
