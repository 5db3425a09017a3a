"""Finished runs: what an analysis can ask of one, and the loop over all runs of a study.

Finding and checking runs knows no torch, so that wrong input is refused at once.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dcgan import rundir
from dcgan.cli import BadInput, choose_device
from dcgan.cli import Result as Done
from dcgan.config import Config, is_milestone
from dcgan.pictures import SIDES, BadData
from dcgan.rundir import GENERATOR, STATE
from eval import results
from eval.results import Result

if TYPE_CHECKING:
    from torch import nn

    from dcgan.data import Images
    from dcgan.train import State


@dataclass
class RealImages:
    """The images that the runs of a study were trained on, and others of their kind."""

    native: int  # pixels a side, as the study has them
    cache: Path  # of decoded images and their features
    train: "Images | None" = None  # None: what the cache has of them
    test: "Images | None" = None
    made: dict[Any, Any] = field(default_factory=dict)  # see FinishedRun.once


@dataclass(frozen=True)
class FinishedRun:
    """One run, and the epoch of it that is analysed."""

    folder: Path
    config: Config
    epoch: int
    images: RealImages
    device: str = "cpu"

    def generator(self, epoch: int | None = None) -> "nn.Module":
        """G after an epoch, in eval mode on the device, once its hash is the committed one."""
        from dcgan.models import load_generator

        epoch = epoch or self.epoch
        rundir.read(self.folder, epoch, GENERATOR)
        path = rundir.epoch_folder(self.folder, epoch) / GENERATOR
        try:
            return load_generator(str(path))[0].to(self.device)
        except ValueError as error:
            raise BadInput(error) from error

    def milestones(self) -> list[int]:
        """The milestones that kept their generator, and the last epoch that did."""
        kept = rundir.kept(self.folder, GENERATOR)
        return [epoch for epoch in kept if is_milestone(epoch) or epoch == kept[-1]]

    def sha256(self, name: str, epoch: int | None = None) -> str:
        """The hash that a file of an epoch was committed with."""
        folder = rundir.epoch_folder(self.folder, epoch or self.epoch)
        try:
            return rundir.read_sums(folder)[name]
        except KeyError:
            raise rundir.Damaged(f"{folder / rundir.SUMS}: names no {name}") from None

    def state(self) -> "State":
        """Both networks and their optimisers, once their hash is the committed one."""
        from safetensors import SafetensorError

        from dcgan.train import load_state

        data = rundir.read(self.folder, self.epoch, STATE)
        try:
            return load_state(data, self.config, self.device)
        except (SafetensorError, ValueError, LookupError) as error:
            path = rundir.epoch_folder(self.folder, self.epoch) / STATE
            raise BadInput(f"{path}: {' '.join(str(error).split())}") from error

    @property
    def side(self) -> int:
        """Pixels a side at which its images are scored."""
        return min(self.images.native, self.config.resolution)

    def train(self, side: int) -> "Images":
        """The real images of its classes that it could be trained on, in the canonical order."""
        from dcgan.data import load_cached, of_classes, resize

        images, sha256, classes = self.images, self.config.data_sha256, self.config.classes

        def make() -> "Images":
            if images.train:
                return resize(of_classes(images.train, classes), side)
            try:
                return of_classes(load_cached(images.cache, sha256, side), classes)
            except BadData as error:
                raise BadInput(f"{error}, with --data SOURCE") from error

        return self.once(("train", sha256, classes, side), make)

    def test(self, side: int) -> "Images":
        """Held-out images of its classes; BadInput where there are none."""
        from dcgan.data import of_classes, resize

        images, classes = self.images.test, self.config.classes
        try:
            return self.once(
                ("test", classes, side), lambda: resize(of_classes(images, classes), side)
            )
        except BadData as error:
            raise BadInput(f"--test {error}") from error

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once for all runs that are analysed together."""
        made = self.images.made
        if key not in made:
            made[key] = make()
        return made[key]


# --- Finding runs ---------------------------------------------------------------------------------


def open_runs(
    where: Path,
    *,
    needs: Literal["generator", "state", "config"],
    epoch: int | str = "last",
    convolutional: bool = False,
    data: str | None = None,
    test: str | None = None,
    cache: Path | None = None,
    device: str | None = None,
    threads: int | None = None,
) -> list[FinishedRun]:
    """The run itself, or all runs below, that have what an analysis needs; raises BadInput.

    Runs that kept a generator, or finished runs, of which the others are named on stderr. An
    analysis that needs the config alone is one of epoch 0. `epoch`: a number, or `last`.
    """
    # Whatever can be refused without PyTorch.
    study = find_study(where)
    images = RealImages(_native(study), cache or study.parent / "cache")
    folders = sorted(path.parent for path in where.rglob("run.json"))
    if not folders:
        raise BadInput(f"{where}: no run in this folder")
    if needs != "generator":
        folders = _finished(where, folders)
    file = {"generator": GENERATOR, "state": STATE}.get(needs)
    chosen = _kept(where, folders, epoch, file) if file else dict.fromkeys(folders, 0)
    configs = {folder: rundir.read_config(folder) for folder in chosen}
    for folder, config in configs.items():
        if convolutional and config.model != "dcgan":
            raise BadInput(f"{folder}: model={config.model} has no convolutions")

    import torch

    torch.set_num_threads(threads or torch.get_num_threads())
    device = choose_device(device, torch.cuda.device_count())
    _load(images, data, test, {config.data_sha256 for config in configs.values()})
    return [FinishedRun(run, configs[run], chosen[run], images, device) for run in chosen]


def find_study(where: Path) -> Path:
    """The study's folder: the nearest one here or above with a study.json."""
    where = where.resolve()
    for folder in (where, *where.parents):
        if (folder / "study.json").is_file():
            return folder
    raise BadInput(f"{where}: {'no study here or above' if where.is_dir() else 'no such folder'}")


def _native(study: Path) -> int:
    """The side of the real images in pixels, as study.json has it."""
    path = study / "study.json"
    side = rundir.unseal(path).get("data", {}).get("resolution")
    if type(side) is not int or side not in SIDES:
        raise BadInput(f"{path}: resolution={side!r} is no side of an image")
    return side


def _finished(where: Path, folders: list[Path]) -> list[Path]:
    """The finished runs; the others are named on stderr."""
    finished = []
    for folder in folders:
        done, epochs = max(rundir.kept(folder), default=0), rundir.read_config(folder).epochs
        if done == epochs:
            finished.append(folder)
        else:
            print(f"left out, {done} of {epochs} epochs: {folder}", file=sys.stderr)
    if not finished:
        raise BadInput(f"{where}: no finished run in this folder")
    return finished


def _kept(where: Path, folders: list[Path], epoch: int | str, file: str) -> dict[Path, int]:
    """The epoch asked for of each run that kept such a file; a generator's hash is checked."""
    chosen, name = {}, file.partition(".")[0]
    for folder in folders:
        if not (epochs := rundir.kept(folder, file)):
            continue
        if epoch not in ("last", *epochs):
            known = ", ".join(map(str, epochs))
            raise BadInput(f"{folder}: epoch {epoch} kept no {name}, only {known} did")
        chosen[folder] = epochs[-1] if epoch == "last" else int(epoch)
        if file == GENERATOR:
            rundir.read(folder, chosen[folder], file)
    if not chosen:
        raise BadInput(f"{where}: no epoch here kept its {name}")
    return chosen


def _load(images: RealImages, data: str | None, test: str | None, wanted: set[str]) -> None:
    """Read the images with the SHA-256s that the runs name, and others of the same side."""
    from dcgan.data import load

    images.train = load(data, images.cache) if data else None
    images.test = load(test, images.cache) if test else None
    if images.train and (other := wanted - {images.train.sha256}):
        here, of_run = images.train.sha256[:12], min(other)[:12]
        raise BadInput(f"--data {data}: its SHA-256 is {here}..., that of the run's is {of_run}...")
    if images.test and (side := images.test.pixels.shape[1]) != images.native:
        raise BadInput(f"--test {test}: {side} pixels a side, not {images.native}")
    if images.test and images.train and images.test.sha256 == images.train.sha256:
        raise BadInput(f"--test {test}: these are the images of --data, none is held out")


# --- The loop -------------------------------------------------------------------------------------


def analyse(
    tool: str, runs: list[FinishedRun], again: bool, measure: Callable[[FinishedRun], Result]
) -> Done:
    """Put an analysis's result into each run that has none of its epoch; print those of all."""
    kept: dict[str, Result] = {}
    for number, run in enumerate(runs, 1):
        result, done = results.stored(run.folder, tool), "kept"
        if again or result is None or result.epoch != run.epoch:
            result, done = results.keep(run.folder, measure(run)), "measured"
        kept[str(run.folder)] = result
        line = f"{done} {number} of {len(runs)}: {run.folder}, epoch {run.epoch}"
        print(line, file=sys.stderr)
    print(results.to_text(kept))
    return 0, {"runs": [{"run": run} | results.as_dict(result) for run, result in kept.items()]}
