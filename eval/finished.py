"""Finished runs: what an analysis can ask of one, what it leaves there, and the loop over all.

<run>/eval/<analysis>.json    the Result, after `tool` (the analysis) and `epoch`
<run>/eval/<analysis>.png     its picture, if it has one
"""

import functools
import importlib
import json
import math
import shutil
import sys
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dcgan import cli, rundir
from dcgan.cli import BadInput, aligned
from dcgan.config import Config
from dcgan.data import Images, load, load_cached, of_classes, resize
from dcgan.models import load_generator
from dcgan.pictures import png_grid
from dcgan.rundir import GENERATOR, STATE
from dcgan.train import draw_latent, load_state
from eval import extractors
from eval.extractors import Extractor

FILES = {"generator": GENERATOR, "state": STATE}  # that an epoch may have kept
GAP = 2  # pixels between the images of a picture


@dataclass(frozen=True)
class Result:
    """What an analysis gives."""

    values: dict[str, float | None]  # by flat names; null in the file where not finite or unknown
    titles: dict[str, str]  # what people read for each name
    about: dict[str, Any]  # settings, counts, the SHA-256 of networks and data
    notes: list[str]  # sentences
    picture: bytes | None = None  # a PNG, in a file of its own


@dataclass(frozen=True)
class FinishedRun:
    """One run, the epoch of it that is analysed, and the images of its study."""

    folder: Path
    config: Config
    epoch: int
    native: int  # pixels a side of the images, as the study has them
    cache: Path  # of decoded images and their features
    device: str = "cpu"
    data: Images | None = None  # None: what the cache has of them
    test_data: Images | None = None  # others of that kind

    def generator(self, epoch: int | None = None) -> nn.Module:
        """G after an epoch, in eval mode on the device, once its hash is the committed one."""
        folder = rundir.epoch_folder(self.folder, epoch or self.epoch)
        rundir.read(folder, GENERATOR)
        return finite(load_generator(str(folder / GENERATOR))[0], "generator").to(self.device)

    def discriminator(self) -> nn.Module:
        """D, once the hash of its state is the committed one."""
        data = rundir.read(rundir.epoch_folder(self.folder, self.epoch), STATE)
        return finite(load_state(data, self.config, self.device).D, "discriminator")

    def kept(self) -> list[int]:
        """The epochs that kept their generator: milestones, and the last one."""
        return rundir.kept(self.folder, GENERATOR)

    def sha256(self, name: str, epoch: int) -> str:
        """The hash that a file of an epoch was committed with."""
        return rundir.read_sums(rundir.epoch_folder(self.folder, epoch))[name]

    @property
    def threads(self) -> int:
        """How many PyTorch had when the run was trained."""
        return rundir.unseal(self.folder / "run.json").get("fingerprint", {}).get("threads", 1)

    @property
    def side(self) -> int:
        """Pixels a side at which its images are scored."""
        return min(self.native, self.config.resolution)

    def train(self) -> Images:
        """The real images of its classes that it could be trained on, in the canonical order."""
        images = self.data or _cached(self.cache, self.config.data_sha256, self.side)
        return _chosen(images, self.config.classes, self.side)

    def test(self) -> Images:
        """Held-out images of its classes; BadInput where there are none."""
        return _chosen(self.test_data, self.config.classes, self.side)

    def noise(self, stream: str, count: int) -> Tensor:
        """z (count, latent_size) of a stream of its own, for this epoch's G, on the device."""
        return draw_latent(self.config, stream, self.epoch, count).to(self.device)

    def classifier(self) -> Extractor:
        return _classifier(self.device)


# Made once for all runs that are analysed together.
_cached = functools.cache(load_cached)
_classifier = functools.cache(extractors.classifier)


@functools.cache
def _chosen(images: Images, classes: str, side: int) -> Images:
    return resize(of_classes(images, classes), side)


def finite(net: nn.Module, name: str) -> nn.Module:
    """The network; FloatingPointError where its weights are not finite."""
    if not all(tensor.isfinite().all() for tensor in net.state_dict().values()):
        raise FloatingPointError(f"the weights of the {name} are not finite")
    return net


def open_runs(
    where: Path,
    needs: str,
    *,
    epoch: str = "last",
    data: str | None = None,
    test: str | None = None,
    cache: Path | None = None,
    device: str | None = None,
) -> list[FinishedRun]:
    """The run itself, or all runs below, that have what an analysis needs; raises BadInput.

    `needs`: "generator", which any run may have kept; or "state" or "config" (as epoch 0) of a
    finished run with convolutions, others being named on stderr. `epoch`: a number, or `last`.
    """
    runs, device = [], cli.choose_device(device, torch.cuda.device_count())
    for folder in sorted(path.parent for path in where.rglob("run.json")):
        config, done = rundir.read_config(folder), max(rundir.kept(folder), default=0)
        lacks = f"{done} of {config.epochs} epochs" if done < config.epochs else ""
        if config.model != "dcgan":
            lacks = lacks or f"model={config.model} has no convolutions"
        if lacks and needs != "generator":
            print(f"left out, {lacks}: {folder}", file=sys.stderr)
            continue
        kept = [0] if needs == "config" else rundir.kept(folder, FILES[needs])
        if not kept:
            continue
        if epoch not in ("last", *map(str, kept)):
            known = ", ".join(map(str, kept))
            raise BadInput(f"{folder}: epoch {epoch} kept no {needs}, only {known} did")
        chosen = kept[-1] if epoch == "last" else int(epoch)
        study = folder.resolve().parents[1]
        native = rundir.unseal(study / "study.json")["data"]["resolution"]
        cache = cache or study.parent / "cache"
        runs.append(FinishedRun(folder, config, chosen, native, cache, device))
    if not runs:
        kind = "finished run" if needs == "config" else f"run that kept its {needs}"
        raise BadInput(f"{where}: no {kind} in this folder")

    trained = {run.config.data_sha256 for run in runs}
    images = load(data, cache) if data else None
    if images and (other := trained - {images.sha256}):
        here, its = images.sha256[:12], min(other)[:12]
        raise BadInput(f"--data {data}: its SHA-256 is {here}..., that of the run's is {its}...")
    others = load(test, cache, "test") if test else None
    if others and (side := others.pixels.shape[1]) != runs[0].native:
        raise BadInput(f"--test {test}: {side} pixels a side, not {runs[0].native}")
    if others and others.sha256 in trained:
        raise BadInput(f"--test {test}: these are the images of --data, none is held out")
    return [replace(run, data=images, test_data=others) for run in runs]


def measure(
    name: str,
    needs: str,
    settings: dict[str, Any],
    *,
    where: Path,
    again: bool = False,
    threads: int | None = None,
    **chosen: Any,
) -> cli.Result:
    """Let eval.<name> analyse each run that has no result of its epoch; print the results of all.

    `settings`: for the analysis; `chosen`: for `open_runs`; `threads`: None for those of each run.
    """
    runs, kept = open_runs(where, needs, **chosen), {}
    for number, run in enumerate(runs, 1):
        result, done = stored(run, name), "kept"
        if again or result is None:
            torch.set_num_threads(threads or run.threads)
            measured, done = _analyse(run, name, needs, settings), "measured"
            result = store(run, name, measured)
        kept[str(run.folder)] = result
        print(f"{done} {number} of {len(runs)}: {run.folder}, epoch {run.epoch}", file=sys.stderr)
    print(to_text(kept))
    return 0, {"runs": [{"run": run} | result for run, result in kept.items()]}


def _analyse(run: FinishedRun, name: str, needs: str, settings: dict[str, Any]) -> Result:
    """What an analysis measures in a run, with its settings and the hashes of what it was given."""
    analysis, about = importlib.import_module(f"eval.{name}"), dict(settings)
    if needs in FILES:
        about[f"{needs}_sha256"] = run.sha256(FILES[needs], run.epoch)
    for part, images in (("data", run.data), ("test", run.test_data)):
        if images:
            about[f"{part}_sha256"] = images.sha256
    try:
        result = analysis.analyse(run, **settings)
    except FloatingPointError as error:
        titles = vars(analysis).get("TITLES", {})
        result = Result(dict.fromkeys(titles), titles, {}, [f"Not measured: {error}."])
    return replace(result, about=about | result.about)


def store(run: FinishedRun, name: str, result: Result) -> dict[str, Any]:
    """Write the picture, if any, and then the numbers; returns the content of the JSON file."""
    content: dict[str, Any] = {"tool": name, "epoch": run.epoch, **vars(result)}
    picture = content.pop("picture")
    content["values"] = {
        key: None if x is None or not math.isfinite(x) else x for key, x in result.values.items()
    }
    path = run.folder / rundir.ANALYSES / f"{name}.json"
    if picture:
        rundir.replace(path.with_suffix(".png"), picture)
    rundir.replace(path, rundir.to_json(content))
    return content


def stored(run: FinishedRun, name: str) -> dict[str, Any] | None:
    """What `store` wrote after this epoch; None where there is nothing of it, or it is damaged."""
    try:
        content = json.loads((run.folder / rundir.ANALYSES / f"{name}.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return content if content["epoch"] == run.epoch else None


def to_text(results: dict[str, dict[str, Any]]) -> str:
    """The results of runs, as `store` returns them, for a terminal: runs, a table, the notes."""
    titles = {key: t for result in results.values() for key, t in result["titles"].items()}
    runs = [f"{i}  {x}, epoch {y['epoch']}" for i, (x, y) in enumerate(results.items(), 1)]
    values = [result["values"] for result in results.values()]
    rows = [[title, *(row.get(name) for row in values)] for name, title in titles.items()]
    table = [aligned(["run", *map(str, range(1, len(runs) + 1))], rows), ""] if rows else []
    notes = dict.fromkeys(note for result in results.values() for note in result["notes"])
    wrapped = [textwrap.fill(note, shutil.get_terminal_size().columns) for note in notes]
    return "\n".join([*runs, "", *table, *wrapped])


def draw(rows: list[np.ndarray]) -> bytes:
    """Rows of uint8 images (K, H, W, 3) of any length, on white -> one PNG."""
    columns = max(map(len, rows))
    white = np.full_like(rows[0], 255, shape=(columns, *rows[0].shape[1:]))
    cells = [part for row in rows for part in (row, white[len(row) :])]
    return png_grid(np.concatenate(cells), columns, GAP)
