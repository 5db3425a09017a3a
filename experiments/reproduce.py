"""Make a run again: its command, what it was made with, and whether the bytes are the same."""

import os
import shlex
from pathlib import Path
from typing import Any

from dcgan import rundir
from dcgan.cli import BadInput, Result
from experiments import grid, signals

UNKNOWN = "DATA"  # stands for images that only the reader can name


def make_again(run: str, data: str | None, to: Path, out: Path, print_only: bool) -> Result:
    """Print the command that makes a run, give it in `to`, and compare the two; raises BadInput."""
    old = find(run, out)
    info, fingerprint = _study_of(old), rundir.unseal(old / "run.json")["fingerprint"]
    images = info["data"]
    if data is None and images["name"] != grid.NATIVE_DATA:
        data = "shapes" if images["kind"] == "shapes" else UNKNOWN
    source = ["--data", data] if data else []
    arguments = ["-m", "experiments", *recipe(old), *source, "--out", str(to)]
    facts = {name: info[name] for name in ("data", "commit", "versions")}
    done = {"run": old, "command": ["python", *arguments], **facts, "fingerprint": fingerprint}
    print(shlex.join(done["command"]))
    print(f"  data      {images['name']}, {images['images']:,} images, SHA-256 {images['sha256']}")
    for name, values in (("machine", fingerprint), ("packages", info["versions"])):
        print(f"  {name:<10}{', '.join(f'{key} {value}' for key, value in values.items())}")
    print(f"  commit    {info['commit']}", flush=True)
    if print_only:
        return 0, done
    if data == UNKNOWN:
        raise BadInput(f"--data: name the images that {old} was trained on, {images['name']}")
    new = to.joinpath(grid.stored(info).folder, *old.resolve().parts[-2:])
    if len(rundir.committed(new)) >= len(rundir.committed(old)):
        raise BadInput(f"--to {to}: holds this run already; name another folder")

    from dcgan.data import load  # and with it PyTorch

    if (here := load(data, to / "cache").sha256) != images["sha256"]:
        sums = f"its SHA-256 is {here[:12]}..., that of the run's is {images['sha256'][:12]}..."
        raise BadInput(f"--data {data or images['name']}: {sums}")

    # W&B has the run already, under this very id.
    os.environ["WANDB_MODE"] = "disabled"
    if code := signals.call(*arguments):
        return code, done
    compared = compare(old, new)
    print(f"\n{old} against {new}:\n{to_text(compared)}")
    unexplained = compared["differences"] and not compared["fingerprint"]
    return int(bool(unexplained)), done | {"made": new, **compared}


def find(name: str, out: Path) -> Path:
    """The folder of a run: itself, or the one of its name in the studies of `out`."""
    if (Path(name) / "run.json").is_file():
        return Path(name)
    matching = sorted(out.glob(f"*/{name.replace(' ', '/')}/run.json"))
    if not matching:
        raise BadInput(f"{name}: neither the folder of a run nor the name of one in {out}")
    if len(matching) > 1:
        raise BadInput(f"{name}: the name of several runs, {', '.join(map(str, matching))}")
    return matching[0].parent


def recipe(run: Path) -> list[str]:
    """The words for `experiments` that make a run again, without --data and --out."""
    info, fingerprint = _study_of(run), rundir.unseal(run / "run.json")["fingerprint"]
    config = rundir.read_config(run)
    settings = info["settings"] | {"epochs": config.epochs}
    overrides = [*run.resolve().parent.name.split(","), f"seed={config.seed}"]
    overrides += grid.differing(info | {"settings": settings})
    device = "cpu" if fingerprint["device"] == "cpu" else "cuda"
    options = ["--device", device, "--threads", str(fingerprint["threads"])]
    return [info["study"], "--scale", info["scale"], *options, *overrides]


def compare(old: Path, new: Path) -> dict[str, Any]:
    """Whether a run that was made again has the bytes of the old one; raises rundir.Damaged.

    `same` of its `epochs` have; `differences` has a line for each of the others, `fingerprint` for
    what bits depend on, `made_with` for commit and packages. `largest`: the largest relative
    difference of a score.
    """
    epochs, differences, largest = len(rundir.committed(old)), [], 0.0
    for epoch in range(1, epochs + 1):
        was, now = (_columns(run, epoch) for run in (old, new))
        if changed := _changes(was, now):
            more = f", and {len(changed) - 1} more columns" if len(changed) > 1 else ""
            differences.append(f"epoch {epoch}: {changed[0]}{more}")
        for name, value in was.items():
            if name.startswith("scores.") and value and now.get(name) is not None:
                largest = max(largest, abs(now[name] / value - 1))
    fingerprints = (rundir.unseal(run / "run.json")["fingerprint"] for run in (old, new))
    made_with = (x["versions"] | {"commit": x["commit"]} for x in map(_study_of, (old, new)))
    return {
        "epochs": epochs,
        "same": epochs - len(differences),
        "differences": differences,
        "largest": largest,
        "fingerprint": _changes(*fingerprints),
        "made_with": _changes(*made_with),
    }


def to_text(compared: dict[str, Any]) -> str:
    """What `compare` found, for people."""
    if not compared["differences"]:
        return f"The same bytes in all {compared['epochs']} epochs."
    why = "not bit for bit" if compared["fingerprint"] else "NOT bit for bit, and it should be"
    lines = [f"{compared['same']} of {compared['epochs']} epochs have the same bytes: {why}."]
    lines += [f"  {line}" for line in compared["differences"]]
    lines.append(f"The largest relative difference of a score is {compared['largest']:.3g}.")
    lines += [f"Bits depend on this: {line}." for line in compared["fingerprint"]]
    return "\n".join([*lines, *(f"{line}." for line in compared["made_with"])])


def _columns(run: Path, epoch: int) -> dict[str, Any]:
    """The numbers of an epoch's record by name, then the sum of each file but the clock's."""
    record = rundir.read_json(run, epoch, rundir.RECORD)
    sums = rundir.read_sums(rundir.epoch_folder(run, epoch))
    parts = ("scores", "losses")
    columns = {f"{part}.{name}": x for part in parts for name, x in record[part].items()}
    return columns | {f"SHA-256 of {x}": sums[x] for x in sums if x != rundir.TIMING}


def _changes(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What is not the same, a line each."""
    both = {key: [values.get(key, "unknown") for values in (was, now)] for key in was | now}
    return [f"{key} was {x} and is {y}" for key, (x, y) in both.items() if x != y]


def _study_of(run: Path) -> dict[str, Any]:
    return rundir.unseal(run.resolve().parents[1] / "study.json")
