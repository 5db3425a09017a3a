"""Make one run again: its command, what it was made with, and whether the bytes are the same."""

import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dcgan import rundir
from dcgan.cli import BadInput, Result
from experiments import grid, signals, tracking


@dataclass(frozen=True)
class Comparison:
    """Two runs of one config, epoch by epoch."""

    epochs: int
    same: int  # epochs whose files are the same, byte by byte
    differences: list[dict[str, Any]]  # one an epoch: its first column that differs, both values
    largest: float  # relative difference of a score
    fingerprint: dict[str, list[Any]]  # what bits depend on and is not the same: was, is
    made_with: dict[str, list[Any]]  # likewise commit and packages

    def __str__(self) -> str:
        if self.same == self.epochs:
            return f"The same bytes in all {self.epochs} epochs."
        why = "not bit for bit" if self.fingerprint else "NOT bit for bit, and it should be"
        lines = [f"{self.same} of {self.epochs} epochs have the same bytes: {why}."]
        for epoch in self.differences:
            more = f", and {epoch['more']} more columns" if epoch["more"] else ""
            values = f"was {epoch['was']}, is {epoch['now']}"
            lines.append(f"  epoch {epoch['epoch']}: {epoch['column']} {values}{more}")
        lines.append(f"The largest relative difference of a score is {self.largest:.3g}.")
        changed = {f"Bits depend on {key}, which": both for key, both in self.fingerprint.items()}
        changed |= self.made_with
        lines += [f"{what} was {was} and is {now}." for what, (was, now) in changed.items()]
        return "\n".join(lines)


def make_again(run: str, data: str | None, to: Path, out: Path, print_only: bool) -> Result:
    """Print the command that makes a run, give it in `to`, and compare the two; raises BadInput.

    `run`: a folder, or a name or an id that is looked for in `out`.
    """
    old = find(run, out)
    words, folder = recipe(old)
    info, fingerprint = _study_of(old), rundir.unseal(old / "run.json")["fingerprint"]
    if data is None and info["data"]["kind"] == "shapes":
        data = "shapes"
    unknown = data is None and info["data"]["name"] != grid.NATIVE_DATA  # which needs no option
    given = ["--data", "DATA" if unknown else data] if unknown or data else []
    arguments = ["-m", "experiments", *words, *given, "--out", str(to)]
    facts = {name: info[name] for name in ("data", "commit", "versions")}
    done = {"run": old, "command": ["python", *arguments], **facts, "fingerprint": fingerprint}
    print(shlex.join(done["command"]))
    print(f"  data      {info['data']['name']}, {info['data']['images']:,} images, ", end="")
    print(f"SHA-256 {info['data']['sha256']}")
    for name, values in (("machine", fingerprint), ("packages", info["versions"])):
        print(f"  {name:<10}{', '.join(f'{key} {value}' for key, value in values.items())}")
    print(f"  commit    {info['commit']}", flush=True)
    if print_only:
        return 0, done
    if unknown:
        raise BadInput(f"--data: name the images that {old} was trained on, {info['data']['name']}")
    new = to / folder
    if len(rundir.committed(new)) >= len(rundir.committed(old)):
        raise BadInput(f"--to {to}: holds this run already; name another folder")
    _check_data(data, to / "cache", info["data"])

    # W&B has the run already, under this very id.
    os.environ["WANDB_MODE"] = "disabled"
    if code := signals.call(*arguments):
        return code, done
    compared = compare(old, new)
    print(f"\n{old} against {new}:\n{compared}")
    unexplained = compared.same < compared.epochs and not compared.fingerprint
    return int(unexplained), done | {"made": new, **asdict(compared)}


def _check_data(source: str | None, cache: Path, about: dict[str, Any]) -> None:
    """Refuse other images than those that a run was trained on."""
    from dcgan.data import load

    here, stored = load(source, cache).sha256, about["sha256"]
    if here != stored:
        sums = f"its SHA-256 is {here[:12]}..., that of the run's is {stored[:12]}..."
        raise BadInput(f"--data {source or about['name']}: {sums}")


def find(name: str, out: Path) -> Path:
    """The folder of a run: itself, or by its name or W&B's id in the studies of a folder.

    Raises BadInput, also where several runs have the name.
    """
    if (Path(name) / "run.json").is_file():
        return Path(name)
    runs = [path.parent for path in out.glob("*/*/seed=*/run.json")]
    matching = sorted(str(run) for run in runs if name in _names(run))
    if len(matching) == 1:
        return Path(matching[0])
    several = f"{len(matching)} runs in {out} have" if matching else f"no run in {out} has"
    raise BadInput(f"{name}: no folder of a run, and {several} this name or id {matching or ''}")


def recipe(run: Path) -> tuple[list[str], str]:
    """What makes a run again: words for `experiments`, without --data and --out; its folder in OUT.

    Raises BadInput where this version cannot.
    """
    info, fingerprint = _study_of(run), rundir.unseal(run / "run.json")["fingerprint"]
    try:
        config = rundir.read_config(run)
        overrides = [*run.resolve().parts[-2].split(","), f"seed={config.seed}"]

        # What neither the scale nor the arm sets was set on the command line.
        _, usual = _plan(info, overrides)
        for key, value in config:
            if value != getattr(usual.config, key):
                overrides.append(f"{key}={value if isinstance(value, str) else json.dumps(value)}")
        study, planned = _plan(info, overrides)
    except (grid.BadStudy, rundir.Damaged) as error:
        raise BadInput(f"{run}: this version cannot make it: {error}") from error
    if planned.config != config:
        raise BadInput(f"{run}: this version makes another run of {' '.join(overrides)}")
    device = "cpu" if fingerprint["device"] == "cpu" else "cuda"
    options = ["--device", device, "--threads", str(fingerprint["threads"])]
    words = [info["study"], "--scale", info["scale"], *options, *overrides]
    return words, f"{study.folder}/{planned.folder}"


def compare(old: Path, new: Path) -> Comparison:
    """Whether a run that was made again has the bytes of the old one; raises rundir.Damaged."""
    made, epochs = (len(rundir.committed(run)) for run in (new, old))
    if made < epochs:
        raise rundir.Damaged(f"{new}: has {made} epochs, {old} has {epochs}")
    differences, relative = [], [0.0]
    for epoch in range(1, epochs + 1):
        changed = _changes(*(dict(_columns(run, epoch)) for run in (old, new)))
        if changed:
            column, (was, now) = next(iter(changed.items()))
            first = {"epoch": epoch, "column": column, "was": was, "now": now}
            differences.append(first | {"more": len(changed) - 1})
        scores = [both for key, both in changed.items() if key.startswith("scores.")]
        relative += [abs(now / was - 1) for was, now in scores if was and now is not None]
    fingerprints = (rundir.unseal(run / "run.json")["fingerprint"] for run in (old, new))
    infos = map(_study_of, (old, new))
    return Comparison(
        epochs,
        epochs - len(differences),
        differences,
        max(relative),
        _changes(*fingerprints, "unknown"),
        _changes(*(info["versions"] | {"commit": info["commit"]} for info in infos), "unknown"),
    )


def _columns(run: Path, epoch: int) -> Iterator[tuple[str, Any]]:
    """Every value of an epoch's record by name, then the sum of each file but the clock's."""
    yield from rundir.flatten(rundir.read_json(run, epoch, rundir.RECORD))
    for name, digest in rundir.read_sums(rundir.epoch_folder(run, epoch)).items():
        if name != rundir.TIMING:
            yield f"SHA-256 of {name}", digest


def _changes(was: dict[str, Any], now: dict[str, Any], absent: Any = None) -> dict[str, list[Any]]:
    """What is not the same, with both values; `absent` is that of a key which one lacks."""
    both = {key: [values.get(key, absent) for values in (was, now)] for key in was | now}
    return {key: pair for key, pair in both.items() if pair[0] != pair[1]}


def _plan(info: dict[str, Any], overrides: list[str]) -> tuple[grid.Study, grid.Run]:
    """The study of a study.json with these key=value overrides, which leave it one run."""
    study, data = grid.define(info["study"], info["scale"], None, overrides), info["data"]
    study = grid.fit(study, data["name"], data["sha256"], data["images"])
    (run,) = grid.runs(study)
    return study, run


def _names(run: Path) -> tuple[str, ...]:
    """What a run is called: by its folder, on the page, by W&B's id."""
    arm, seed = run.parts[-2:]
    stored = rundir.unseal(run / "run.json")["config"]
    return f"{arm}/{seed}", f"{arm} {seed}", tracking.run_id(_study_of(run), stored)


def _study_of(run: Path) -> dict[str, Any]:
    return rundir.unseal(run.resolve().parents[1] / "study.json")
