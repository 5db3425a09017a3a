"""A study in reports/published: records in an archive a seed, two generators, and the report.

<study>/seed-0.zip     of each complete seed, see experiments.archive; the lowest one has pictures
<study>/generators/    <arm>,seed=<n>.safetensors and SHA256SUMS, of GENERATORS at the lowest seed
<study>/report/        made from the archives alone

All but the report is written once: a later seed adds an archive, and changes nothing else.
"""

import shutil
import tempfile
from pathlib import Path

from dcgan import rundir
from dcgan.cli import BadInput, Result
from dcgan.rundir import PUBLISHED
from experiments import archive, signals

GENERATORS = ("norm=none,head=conv,batch=128", "norm=none,head=conv,batch=512")
PICTURED = (1, 5)  # epochs that have pictures, and the last one


def archives(folder: Path) -> dict[int, Path]:
    """The archive of each seed in a published study's folder."""
    paths = folder.glob("seed-*.zip")
    return dict(sorted((int(path.stem.removeprefix("seed-")), path) for path in paths))


def publish(study: Path) -> Result:
    """Archive complete seeds that have none yet, and build the report.

    BadInput where the study contradicts an archive; nothing has been written then.
    """
    target = PUBLISHED / study.name
    known = archives(target)
    for path in known.values():
        _check_same(path, study)
    seeds = {*known, *archive.whole_seeds(study)}
    if not seeds:
        lacks = "of each, runs are not finished or lack evaluation sets (make resample)"
        raise BadInput(f"{study}: has no complete seed: {lacks}")
    length = rundir.unseal(study / "study.json")["settings"]["epochs"]
    generators = _last_generators(study, min(seeds))
    for seed in sorted(seeds - known.keys()):
        path = target / f"seed-{seed}.zip"
        archive.pack(study, path, seed, (*PICTURED, length) if seed == min(seeds) else ())
        print(f"wrote {path}")
    if generators and not (target / "generators").exists():
        rundir.place(target / "generators", generators)
    return build(target)


def build(folder: Path) -> Result:
    """Make the report of a published study from its archives; raises BadInput."""
    report = folder / "report"
    with tempfile.TemporaryDirectory() as scratch_dir:
        merged = [archive.merge(x, Path(scratch_dir)) for x in archives(folder).values()]
        shutil.rmtree(report, ignore_errors=True)
        code = signals.call("-m", "reports", "--from", str(merged[0].study), "--to", str(report))
    return code, {"folder": folder, "report": report / "index.html"}


def _check_same(path: Path, study: Path) -> None:
    """Whether a study agrees with what was published of it, and is no longer than that."""
    with archive.unpacked(path) as (folder, packed):
        for run, epochs in archive.check_against(folder, packed, study).items():
            if epochs > (published := len(rundir.kept(folder / run))):
                more = f"epochs={epochs} are stored, epochs={published} are in {path}"
                raise rundir.Differs(f"{study / run}: {more}; remove that")


def _last_generators(study: Path, seed: int) -> dict[str, bytes]:
    """The last generators that a study kept of GENERATORS at a seed, by their published names."""
    generators = {}
    for arm in GENERATORS:
        run = study / arm / f"seed={seed}"
        if kept := rundir.kept(run, rundir.GENERATOR):
            last = rundir.read(rundir.epoch_folder(run, kept[-1]), rundir.GENERATOR)
            generators[f"{arm},seed={seed}.safetensors"] = last
    return generators
