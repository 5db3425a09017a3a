"""Records that travel: to reports/published, or from archives into a study."""

import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dcgan import rundir
from dcgan.cli import BadInput
from experiments import archive

PUBLISHED = Path("reports/published")


def publish_study(
    study: Path, target: Path, samples: str = "lowest", sample_epochs: list[int] | None = None
) -> None:
    """Replace a folder by the files of a study that are published, by one rename.

    Records and samples are checked by their hashes; raises rundir.Damaged.
    """
    staged = target.with_name(f".{target.name}")
    shutil.rmtree(staged, ignore_errors=True)
    try:
        for name, data in archive.files(study, samples, None, sample_epochs):
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).write_bytes(data)
    except rundir.Damaged:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    shutil.rmtree(target, ignore_errors=True)
    staged.rename(target)


def publish_bench(path: Path) -> Path:
    """Copy the record of a bench, under the name of its processor or GPU; raises BadInput."""
    try:
        record = rundir.unseal(path)
        hardware, quick = record["hardware"], record["quick"]
    except (rundir.Damaged, LookupError) as error:
        raise BadInput(f"{path}: is not what bench wrote: {error}") from error
    if quick:
        raise BadInput(f"{path}: comes from --quick, whose figures say nothing")
    name = hardware["processor"] if hardware["device"] == "cpu" else hardware["device"]
    target = PUBLISHED / "bench" / f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.json"
    rundir.replace(target, path.read_bytes())
    return target


def import_archives(files: Iterable[Path], out: Path) -> dict[Path, list[dict[str, Any]]]:
    """Add archives to their studies in `out`; study -> what was new of each. Raises BadInput."""
    done: dict[Path, list[dict[str, Any]]] = {}
    if absent := [path for path in files if not path.is_file()]:
        raise BadInput(f"{absent[0]}: no such file")
    for path in files:
        merged = archive.merge(path, out)
        new = f"{merged.new_epochs} epochs and {merged.new_runs} of {merged.runs} runs are new"
        print(f"{path} -> {merged.study}: {new}.")
        done.setdefault(merged.study, []).append(asdict(merged) | {"file": path})

    # A published study stays one: the sums of all files, the pictures of the lowest seeds.
    if out.resolve() == PUBLISHED.resolve():
        for study in done:
            publish_study(study, study)
    return done
