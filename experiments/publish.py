"""A study in reports/published: records in an archive a seed, two generators, and the report.

<study>/seed-0.zip     of each whole seed, see experiments.archive; the lowest one has pictures
<study>/generators/    <arm>,seed=<n>.safetensors and SHA256SUMS, of GENERATORS at the lowest seed
<study>/report/        made from the archives alone

An archive is written once: a later seed adds one, and changes no other.
"""

import hashlib
import shutil
import tempfile
import zipfile
from pathlib import Path

from dcgan import rundir
from dcgan.cli import BadInput, Result
from dcgan.rundir import PUBLISHED
from experiments import archive, signals

GENERATORS = tuple(f"norm=none,head=conv,batch={batch}" for batch in (128, 512))
PICTURED = (1, 5)  # epochs that have pictures, and the last one


def archives(folder: Path) -> dict[int, Path]:
    """The archive of each seed in a published study's folder."""
    paths = folder.glob("seed-*.zip")
    return dict(sorted((int(path.stem.removeprefix("seed-")), path) for path in paths))


def publish(study: Path) -> Result:
    """Add the whole seeds of a study that have no archive yet, then build the report.

    Raises BadInput where the study contradicts an archive; nothing has been written then.
    """
    target = PUBLISHED / study.name
    known = archives(target)
    for path in known.values():
        _check_same(path, study)
    with tempfile.TemporaryDirectory() as scratch_dir:
        whole = archive.whole_seeds(study)
        new = {x: Path(scratch_dir, f"seed-{x}.zip") for x in whole if x not in known}
        if not (both := known | new):
            raise BadInput(f"{study}: has no whole seed: not all runs of one are finished")
        lowest, length = min(both), rundir.unseal(study / "study.json")["settings"]["epochs"]
        for seed, path in new.items():
            archive.pack(study, path, [seed], (*PICTURED, length) if seed == lowest else ())
        generators = _generators(both[lowest], study, target / "generators", lowest)

        for path in new.values():
            rundir.replace(target / path.name, path.read_bytes())
            print(f"wrote {target / path.name}")
        if generators:
            shutil.rmtree(target / "generators", ignore_errors=True)
            rundir.commit_to(target / "generators", generators)
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
    with archive.unpacked(path) as (folder, _):
        for run, epochs in archive.check_against(folder, study).items():
            if epochs > (published := len(rundir.kept(run))):
                more = f"epochs={epochs} are stored, epochs={published} are in {path}"
                raise rundir.Differs(f"{study / run.relative_to(folder)}: {more}; remove that")


def _generators(path: Path, study: Path, folder: Path, seed: int) -> dict[str, bytes]:
    """The generators that a folder has, and those of a study whose SHA-256 is in an archive."""
    with zipfile.ZipFile(path) as packed:
        listed = packed.read(archive.GENERATORS) if archive.GENERATORS in packed.namelist() else b""
    generators = {file.name: file.read_bytes() for file in sorted(folder.glob("*.safetensors"))}
    for digest, name in (line.split("  ", 1) for line in listed.decode().splitlines()):
        arm, file = name.partition("/")[0], study / name
        if arm in GENERATORS and file.exists():
            data = file.read_bytes()
            if hashlib.sha256(data).hexdigest() == digest:
                generators[f"{arm},seed={seed}.safetensors"] = data
    return generators
