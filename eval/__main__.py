"""Score finished runs again, and train the bundled feature network.

    python -m eval score runs/ablation-small --extractor inception --n 50000
    python -m eval score RUN --epoch 4
    python -m eval audit RUN --data TRAIN --test TEST
    python -m eval probe RUN --data TRAIN --test TEST
    python -m eval neighbours RUN --data TRAIN --test TEST
    python -m eval walks RUN
    python -m eval filters RUN --data TRAIN
    python -m eval heads RUN
    python -m eval constant RUN
    python -m eval train-extractor --train TRAIN --test TEST

RUN is a run or a whole study, TRAIN and TEST are images, such as cifar10-train.zip.

Each command has its own --help.
"""

import argparse
import functools
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dcgan import commands
from dcgan.commands import BadInput, Result, positive
from dcgan.sources import SIDES
from eval.fetch import INCEPTION_FILES, NoWeights, find_inception

# What options of several commands mean.
EPOCH = "a number, or `last`, the last one that has what is needed; default: last"
EXTRACTOR = "the network that sees the images; default: cifar"
WEIGHTS = "a folder that train-extractor wrote, or Inception's file; default: bundled, or as above"
FULL = "one more SVM with N labels, or without a number with all; default: none"
CONSTANTS = "4,000 real images for each constant, or all 60,000; default: quick"
THREADS = "of PyTorch, on which results depend; default: 1"
OWN_THREADS = "of PyTorch; default: as many as the run had"
DEVICE = "cpu, cuda or cuda:N; default: the first GPU, or cpu where there is none"
CACHE = "folder of decoded images; default: `cache` beside the study"

SCORE = """Score the generators that finished epochs have kept, on new images.

Each run's generator makes --n images from noise that served nothing else; they are compared with
all real images of the data set that the run was trained on, at the side of the real images, and
every number is printed with its identity. Nothing in the runs is changed. One image on one CPU
core takes about a millisecond with `cifar` and 0.2 s with `inception`.

`inception` gives FID, IS and KID. Its weights are the file that --weights or INCEPTION_WEIGHTS
names, or are looked for in the cache and in torch hub's folder, or are downloaded into the cache.
`cifar` gives fd_cifar, cs_cifar, kd_cifar, precision, recall, density and coverage.

    python -m eval score runs/ablation-small
    python -m eval score RUN --extractor inception --n 50000 --json
"""
AUDIT = """Find out whether the scores can be trusted, with one run and real held-out images.

--data names the images that the run was trained on, --test images of the same kind and side that
it was not. The generator of one epoch and the held-out images go through the network that scores
every epoch, and five questions are asked:

  batchnorm  How much depends on where G's BatchNorm gets its statistics
             (running averages, the batch's own, averages over new noise) and
             on how floats become pixels (rounded, truncated, stretched)?
  sizes      How do the metrics depend on the number of images N, and what is
             their limit? Fifteen sizes from N / 10 to N, each on images of
             its own; intercept and standard error of a line against 1 / N
             (Chong and Forsyth, arXiv 1911.07023).
  parity     Do torchmetrics and torch-fidelity find the same on the same
             images and network?
  degraded   Do the metrics rise when real images get worse: noise, blur,
             missing classes, repeated samples? Each is answered with yes or
             no; clean held-out images are the floor.
  constants  With Inception's weights (--weights, INCEPTION_WEIGHTS, the
             cache, torch hub's folder; nothing is downloaded): does it find
             on CIFAR-10 what is published? If not, nothing is called FID.
             --constants quick sees 4,000 real images, full all 60,000; one
             takes 0.2 s on a CPU core.

Prints the tables and writes them to audit.json beside the study's study.json, where the report
looks for them. Equal arguments give equal bytes. On one CPU core, without Inception, the default
takes about five minutes; the time goes with --n and with the number of held-out images, of which
the first 2 N are used.

Exit code 1 where the constants fail.

    python -m eval audit runs/ablation-small/ARM/seed=0 \\
        --data cifar10-train.zip --test cifar10-test.zip
"""
PROBE = """Find out what D's features are good for: linear SVMs on them name classes.

The activations of all of D's convolutional layers, each max-pooled to 4x4, are the features, as in
Section 5.1 of the paper; D works with BatchNorm's running statistics. A linear L2-SVM gets --labels
labelled training images, as many of each class, --draws times, and names the class of each test
image. The same draws serve the controls: D with its initial weights, the pixels, the bundled
classifier. With --full N one more SVM gets N labels, or without a number all of them.

Features are standardised by the images that the SVM gets; C is chosen once for each kind of
features, by a fifth of each draw. Every finished run is probed; where the state of --epoch is
pruned, the run is trained again up to there.

Writes <run>/eval/probe.json. A run that has the result of this epoch is left alone. At the scale
`small` a run takes about a minute on a CPU core.

    python -m eval probe runs/ablation-small \\
        --data cifar10-train.zip --test cifar10-test.zip
"""
NEIGHBOURS = """Find out whether G repeats its training images: how near is the nearest one?

--n generated images, and as many held-out ones of --test, are compared with the images that the run
was trained on, in the features of the bundled classifier and in pixels. A generator that memorised
comes nearer than new real images do. fd_cifar is taken against training and against test images,
equally many; exact and near duplicates among the training images are counted.

Writes <run>/eval/neighbours.json and neighbours.png: the eight generated images that come nearest,
above their neighbours in features and in pixels. A run that has the result of this epoch is left
alone. At the scale `small` a run takes about a minute on a CPU core.

    python -m eval neighbours runs/ablation-small \\
        --data cifar10-train.zip --test cifar10-test.zip
"""
WALKS = """Find out whether the latent space is smooth, and whether one can calculate in it.

Walks between --pairs pairs of z, in --steps steps: how even are they, in the features of the
bundled classifier, beside a blend of the same two images in pixels? Circles around each z likewise.
Then bright A - dark A + dark B for classes A and B that the classifier is sure of: is it a bright
B, with three exemplars of each and with one? What is measured, and what a hit is, stands at the top
of eval/walks.py.

Writes <run>/eval/walks.json and walks.png: walks, each above its blend, and the arithmetic. Every
run that kept a generator is measured; one that has the result of this epoch is left alone. At the
scale `small` a run takes about twenty seconds on a CPU core.

    python -m eval walks runs/ablation-small
"""
FILTERS = """Find out what D's last convolutional features respond to, trained and untrained.

Guided backpropagation of the strongest units, from --images of the images that the run was trained
on: which share of a response's energy lies in 5 % of the pixels, and how unequal (Gini) is it? The
same for D's initial weights.

Writes <run>/eval/filters.json and filters.png: images of the strongest features above what they
respond to, trained and untrained. A run that has the result of this epoch is left alone; where the
state of --epoch is pruned, the run is trained again up to there.

    python -m eval filters runs/ablation-small --data cifar10-train.zip
"""
HEADS = """Find out whether the average-pool head trains faster: count, and time in pairs.

The networks of each finished run are built with either head of D, all else as the run has it. The
multiply-adds of one step of training are counted, and steps are timed in one process, both heads in
turn, --pairs times. No images are needed and no state: D is shown random pixels.

Writes <run>/eval/heads.json. Its speeds are those of this machine at this moment, so they are no
function of the config; run it where nothing else runs. The networks are those before the first
epoch, so the result is called that of epoch 0. A run that has it is left alone. At the scale
`small` a run takes half a minute on a CPU core.

    python -m eval heads runs/ablation-small/ARM/seed=0
"""
CONSTANT = """Find out whether G's features collapse: how many are nearly constant, by epoch?

1,000 images are made by the generator of every milestone (epochs 1, 2, 5, 10, 15, ...) and of the
last epoch, as far as they were kept. For each layer before the image: which share of its channels
is nearly the same in all of them? What that means stands at the top of eval/constant.py; it is
exploratory.

Writes <run>/eval/constant.json. Every run that kept a generator is measured; one that has the
result of its last one is left alone. At the scale `small` a run takes a few seconds on a CPU core.

    python -m eval constant runs/ablation-small
"""
TRAIN = """Train the bundled CIFAR-10 classifier anew; on two CPU cores this takes an hour.

Writes cifar10-resnet.safetensors and its card cifar10-resnet.json. Other weights are another
network: scores measured with them cannot stand beside the old ones.

    python -m eval train-extractor \\
        --train cifar10-train.zip --test cifar10-test.zip
"""


def main(words: list[str] | None = None) -> int:
    """Run one command; see dcgan.commands.run."""
    return commands.run(_parser(), words)


def score(arguments: argparse.Namespace) -> Result:
    """Score kept generators with new images, and print the numbers with their identities."""
    if arguments.n < 10:
        raise BadInput(f"--n {arguments.n}: every metric needs 10 images at least")
    _, native, cache = _place(arguments)
    kept = [(run, *_kept(run, arguments.epoch)) for run in _runs(arguments.where)]
    if arguments.extractor == "inception":
        try:
            find_inception(arguments.weights, cache)
        except NoWeights as error:
            raise BadInput(error) from error

    # Only now what takes time: PyTorch and the network.
    from dcgan.models import load_generator
    from dcgan.train import draw_latent
    from eval.score import Reference, generate, identities, names, reference, split_of
    from eval.score import score as score_images

    device = _device(arguments.device)
    extractor = _extractor(arguments.extractor, arguments.weights, device, cache)
    rows: list[dict[str, Any]] = []
    references: dict[tuple[str, str, int], Reference] = {}
    for number, (run, epoch, path) in enumerate(kept, 1):
        try:
            G, config = load_generator(str(path))
        except ValueError as error:
            raise BadInput(error) from error

        # The real images at their own side, or at the generator's if that is smaller.
        key = config.data_sha256, config.classes, min(native, config.resolution)
        if key not in references:
            pixels, split = _real_pixels(arguments.data, cache, *key), split_of(config.classes)
            references[key] = reference(extractor, pixels, config.data_sha256, cache, split)

        # The noise is a bank of its own, by which no epoch was chosen.
        z = draw_latent(config, "rescore", epoch, arguments.n).to(device)
        try:
            scores = score_images(generate(G.to(device), z), [references[key]])
        except FloatingPointError:
            scores = dict.fromkeys(names(extractor))
        known_as = identities(references[key], arguments.n, config.resolution)
        rows.append({"run": str(run), "epoch": epoch, "scores": scores, "identities": known_as})
        print(f"scored {number} of {len(kept)}: {run}, epoch {epoch}", file=sys.stderr)

    if not arguments.json:
        print(_table(rows))
    return 0, {"runs": rows}


def audit(arguments: argparse.Namespace) -> Result:
    """Audit the scorer on one run, print the tables, write audit.json."""
    if arguments.n < 100:
        raise BadInput(f"--n {arguments.n}: an audit needs 100 images at least")
    study, native, cache = _place(arguments)
    if len(runs := _runs(arguments.where)) > 1:
        raise BadInput(f"{arguments.where}: holds {len(runs)} runs; name one of them")
    epoch, path = _kept(runs[0], arguments.epoch)
    has_inception = _has_inception(arguments.weights, cache)

    # Only now what takes time: PyTorch, the images, the network.
    import torch

    from dcgan.data import BadData, of_classes, resize
    from dcgan.models import laid_out, load_generator
    from dcgan.sources import write_file
    from dcgan.train import draw_latent
    from eval import audit as work
    from eval.score import reference, split_of

    torch.set_num_threads(arguments.threads)
    device = _device(arguments.device)
    try:
        G, config = load_generator(str(path))
    except ValueError as error:
        raise BadInput(error) from error
    train, test = _both_sets(arguments, cache, native, [config])
    try:
        trained, new = (of_classes(images, config.classes) for images in (train, test))
    except BadData as error:
        raise BadInput(error) from error
    if len(new.pixels) < 100:
        raise BadInput(f"--test {arguments.test}: {len(new.pixels)} images, 100 are needed")

    # What the run was scored with, and as it was in training.
    side = min(native, config.resolution)
    pixels, split = resize(trained, side).pixels, split_of(config.classes)
    extractor = _extractor("cifar", None, device, cache)
    real = reference(extractor, pixels[: config.reference_images], train.sha256, cache, split)
    G = laid_out(G, device)
    held_out = work.first(resize(new, side), 2 * arguments.n)

    def say(line: str) -> None:
        print(f"audit: {line}", file=sys.stderr)

    try:
        result = work.audit(G, config, epoch, real, held_out, arguments.n, say)
        result["fid"] = None
        if has_inception:
            say("published constants of Inception")
            network = _extractor("inception", arguments.weights, device, cache)
            wanted = work.FULL if arguments.constants == "full" else work.QUICK
            z = draw_latent(config, "audit inception", epoch, min(arguments.n, work.PARITY))
            made = work.quantise(work.signed_images(G, z, "running", config))
            tables, result["fid"] = work.constants_tables(network, train, test, made, wanted)
            result["tables"] += tables
    except FloatingPointError as error:
        raise BadInput(f"{path}: {error}") from error

    both = {row.tobytes() for row in train.pixels} & {row.tobytes() for row in test.pixels}
    about = {
        name: {"name": images.name, "sha256": images.sha256, "images": len(images.pixels)}
        for name, images in (("data", train), ("test", test))
    }
    run = runs[0].resolve().relative_to(study).as_posix()
    result = {"run": run, **about, "shared": len(both), **result}
    content = json.dumps(result, indent=1, allow_nan=False) + "\n"
    write_file(study / "audit.json", lambda file: file.write(content.encode()))
    if not arguments.json:
        print(work.to_text(result))
    print(f"wrote {study / 'audit.json'}", file=sys.stderr)
    return int(result["fid"] is False), {"file": study / "audit.json", **result}


def probe(arguments: argparse.Namespace) -> Result:
    """Probe D of each finished run, and write probe.json into it."""
    _, native, cache = _place(arguments)

    # Only now what takes time: PyTorch, the images, the network.
    import torch

    from dcgan.data import of_classes, resize
    from dcgan.train import dump_state, start
    from eval import probe as work
    from eval.states import state_after

    torch.set_num_threads(arguments.threads)
    device = _device(arguments.device)
    runs = _finished(arguments.where)
    for run, config in runs.items():
        if config.model != "dcgan":
            raise BadInput(f"{run}: model={config.model} has no convolutional layers to probe")
    train, test = _both_sets(arguments, cache, native, runs.values())
    for option, images in (("--data", train), ("--test", test)):
        if unknown := int((images.labels < 0).sum()):
            raise BadInput(f"{option} {images.name}: {unknown} of its images have no label")
    if {*test.labels.tolist()} != {*train.labels.tolist()}:
        raise BadInput(f"--test {arguments.test}: its classes are not those of --data")
    full = len(train.labels) if arguments.full == "all" else arguments.full
    try:
        sets = work.label_sets(train.labels, arguments.labels, arguments.draws, full)
    except ValueError as error:
        raise BadInput(f"--data {arguments.data}: {error}") from error
    extractor = _extractor("cifar", None, device, cache)
    settings = {
        "labels": arguments.labels,
        "draws": arguments.draws,
        "full": full,
        "data_sha256": train.sha256,
        "test_sha256": test.sha256,
        "test_images": len(test.labels),
        "classifier_sha256": extractor.sha256,
    }

    @functools.cache
    def at(side: int) -> tuple[Any, Any]:
        return resize(train, side), resize(test, side)

    @functools.cache
    def controls() -> dict[str, Any]:
        kinds = {"pixels": work.pixel_features, "classifier": work.network_features(extractor)}
        return {kind: work.solve(features, train, test, sets) for kind, features in kinds.items()}

    def measure(run: Path, epoch: int) -> tuple[Any, None]:
        config = runs[run]
        sized = at(config.resolution)
        pixels = of_classes(sized[0], config.classes).pixels[: config.images]
        try:
            state, _ = state_after(run, epoch, pixels, device)
        except ValueError as error:
            raise BadInput(error) from error
        found = dict(controls())
        for kind, D in ("trained", state.D), ("untrained", start(config, device).D):
            found[kind] = work.solve(work.discriminator_features(D, device), *sized, sets)
        about = settings | {"state_sha256": hashlib.sha256(dump_state(state)).hexdigest()}
        return work.to_result(epoch, found, about), None

    epochs = {run: _within(run, config, arguments.epoch) for run, config in runs.items()}
    return _measure_runs(arguments, "probe", epochs, measure)


def neighbours(arguments: argparse.Namespace) -> Result:
    """Look for training images among each finished run's own; write neighbours.json and .png."""
    if arguments.n < 100:
        raise BadInput(f"--n {arguments.n}: 100 images are needed at least")
    _, native, cache = _place(arguments)

    # Only now what takes time: PyTorch, the images, the network.
    import torch

    from dcgan.data import BadData, of_classes, resize
    from dcgan.models import load_generator
    from dcgan.train import draw_latent
    from eval import neighbours as work
    from eval.results import Result
    from eval.score import generate, reference

    torch.set_num_threads(arguments.threads)
    device = _device(arguments.device)
    runs = _finished(arguments.where)
    kept = {run: _kept(run, arguments.epoch) for run in runs}
    train, test = _both_sets(arguments, cache, native, runs.values())
    for classes in sorted({config.classes for config in runs.values()}):
        try:
            there = len(of_classes(test, classes).pixels)
        except BadData as error:
            raise BadInput(f"--test {error}") from error
        if there < arguments.n:
            kind = f"{there} images of classes={classes}"
            raise BadInput(f"--test {arguments.test}: {kind}, --n is {arguments.n}")
    extractor = _extractor("cifar", None, device, cache)

    @functools.cache
    def real(classes: str, count: int, side: int) -> tuple[Any, Any, Any, tuple[int, int]]:
        pixels, held_out = (
            resize(of_classes(images, classes), side).pixels for images in (train, test)
        )
        pixels = pixels[:count]
        compared = reference(extractor, pixels, train.sha256, cache)
        new = reference(extractor, held_out, test.sha256, cache, "test")
        seen = work.Seen(compared.features, pixels), work.Seen(new.features, held_out)
        return compared, *seen, work.duplicates(pixels)

    def measure(run: Path, epoch: int) -> tuple[Any, bytes | None]:
        path = kept[run][1]
        try:
            G, config = load_generator(str(path))
        except ValueError as error:
            raise BadInput(error) from error
        side = min(native, config.resolution)
        compared, bank, new, copies = real(config.classes, config.images, side)
        about = {
            "generated": arguments.n,
            "held_out": arguments.n,
            "training": len(bank.pixels),
            "side": compared.resolution,
            "network": extractor.name,
            "network_sha256": extractor.sha256,
            "generator_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "data_sha256": train.sha256,
            "test_sha256": test.sha256,
        }
        z = draw_latent(config, "neighbours", epoch, arguments.n).to(device)
        try:
            made = work.see(generate(G.to(device), z), compared)
            values, figure = work.examine(made, bank, new)
        except FloatingPointError:
            values, figure = dict.fromkeys(work.TITLES), None
        values |= dict(zip(("duplicates_exact", "duplicates_near"), copies, strict=True))
        return Result("neighbours", epoch, values, work.TITLES, about, work.NOTES), figure

    epochs = {run: epoch for run, (epoch, _) in kept.items()}
    return _measure_runs(arguments, "neighbours", epochs, measure)


def walks(arguments: argparse.Namespace) -> Result:
    """Walk through the latent space of each kept generator; write walks.json and walks.png."""
    _study(arguments.where)
    kept = _last_kept(arguments.where, arguments.epoch)

    # Only now what takes time: PyTorch and the network.
    import torch

    from dcgan.models import load_generator
    from eval import walks as work

    torch.set_num_threads(arguments.threads)
    device = _device(arguments.device)
    extractor = _extractor("cifar", None, device, Path())

    def measure(run: Path, epoch: int) -> tuple[Any, bytes | None]:
        path = kept[run][1]
        try:
            G, config = load_generator(str(path))
        except ValueError as error:
            raise BadInput(error) from error
        if config.latent_size == 1:
            raise BadInput(f"{run}: latent_size=1: there is no way around a z")
        result, figure = work.walks(
            G.to(device), config, epoch, extractor, arguments.pairs, arguments.steps
        )
        result.about["generator_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        return result, figure

    epochs = {run: epoch for run, (epoch, _) in kept.items()}
    return _measure_runs(arguments, "walks", epochs, measure)


def filters(arguments: argparse.Namespace) -> Result:
    """Follow the features of each finished run's D back to images; write filters.json and .png."""
    _, _, cache = _place(arguments)

    # Only now what takes time: PyTorch and the images.
    import torch

    from dcgan.data import BadData, load, of_classes, resize
    from eval import filters as work
    from eval.states import state_after

    torch.set_num_threads(arguments.threads)
    device = _device(arguments.device)
    runs = _finished(arguments.where)
    for run, config in runs.items():
        if config.model != "dcgan":
            raise BadInput(f"{run}: model={config.model} has no convolutional features")
    try:
        train = load(arguments.data, cache)
    except BadData as error:
        raise BadInput(error) from error
    for config in runs.values():
        _check_same(arguments.data, train, config.data_sha256)

    @functools.cache
    def shown(classes: str, side: int, count: int) -> Any:
        return resize(of_classes(train, classes), side).pixels[:count]

    def measure(run: Path, epoch: int) -> tuple[Any, bytes | None]:
        config = runs[run]
        pixels = shown(config.classes, config.resolution, config.images)
        try:
            state, _ = state_after(run, epoch, pixels, device)
        except ValueError as error:
            raise BadInput(error) from error
        images = torch.from_numpy(pixels[: arguments.images]).permute(0, 3, 1, 2)
        result, figure = work.filters(state.D, config, epoch, images)
        result.about["data_sha256"] = train.sha256
        return result, figure

    epochs = {run: _within(run, config, arguments.epoch) for run, config in runs.items()}
    return _measure_runs(arguments, "filters", epochs, measure)


def heads(arguments: argparse.Namespace) -> Result:
    """Count and time the training of each finished run's networks with both heads of D."""
    _study(arguments.where)

    # Only now what takes time: PyTorch.
    import torch

    from eval import heads as work

    device = _device(arguments.device)
    runs = _finished(arguments.where)
    for run, config in runs.items():
        if config.model != "dcgan":
            raise BadInput(f"{run}: model={config.model} has neither head")

    def measure(run: Path, epoch: int) -> tuple[Any, None]:
        torch.set_num_threads(arguments.threads or _threads(run))
        return work.heads(runs[run], device, arguments.pairs), None

    return _measure_runs(arguments, "heads", dict.fromkeys(runs, work.EPOCH), measure)


def constant(arguments: argparse.Namespace) -> Result:
    """Look for nearly constant features in the generators that each run kept."""
    _study(arguments.where)
    kept = {run: _kept_all(run) for run in _last_kept(arguments.where, "last")}

    # Only now what takes time: PyTorch.
    import torch

    from dcgan.models import load_generator
    from eval import constant as work

    torch.set_num_threads(arguments.threads)
    device = _device(arguments.device)

    def measure(run: Path, epoch: int) -> tuple[Any, None]:
        try:
            _, config = load_generator(str(kept[run][epoch]))
            generators = ((each, load_generator(str(path))[0]) for each, path in kept[run].items())
            result = work.constant(generators, config, device)
        except ValueError as error:
            raise BadInput(error) from error
        result.about["generator_sha256"] = {
            str(each): hashlib.sha256(path.read_bytes()).hexdigest()
            for each, path in kept[run].items()
        }
        return result, None

    return _measure_runs(arguments, "constant", {run: max(kept[run]) for run in kept}, measure)


def train_extractor(arguments: argparse.Namespace) -> Result:
    """Train the classifier, write its weights and its card."""
    import torch

    from dcgan.data import BadData, load
    from eval.classifier import NAME, train_classifier, write_card

    # Read both sets before an hour of work depends on them.
    try:
        train, test = (load(path, arguments.cache) for path in (arguments.train, arguments.test))
    except BadData as error:
        raise BadInput(error) from error
    for images in (train, test):
        if images.pixels.shape[1:] != (32, 32, 3) or {*images.labels.tolist()} != {*range(10)}:
            raise BadInput(f"{images.name}: not 32x32 images with labels from 0 to 9")
    torch.set_num_threads(arguments.threads or torch.get_num_threads())

    net, accuracy = train_classifier(train, test, arguments.seed)
    options = {
        "--train": Path(arguments.train).name,
        "--test": Path(arguments.test).name,
        "--seed": str(arguments.seed),
        "--threads": str(torch.get_num_threads()),
    }
    words = [word for option in options.items() for word in option]
    write_card(
        arguments.out,
        net.state_dict(),
        accuracy,
        train_sha256=train.sha256,
        test_sha256=test.sha256,
        test_images=len(test.pixels),
        seed=arguments.seed,
        threads=torch.get_num_threads(),
        command=shlex.join(["python", "-m", "eval", "train-extractor", *words]),
    )
    print(f"test accuracy {accuracy:.4f}, wrote {arguments.out / NAME}.safetensors and .json")
    return 0, {"file": arguments.out / f"{NAME}.safetensors", "accuracy": accuracy}


def _parser() -> argparse.ArgumentParser:
    parser = commands.Parser("python -m eval", description=__doc__)
    named = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    add = _command(named, "score", score, SCORE)
    add("where", metavar="RUN_OR_STUDY", type=Path, help="folder of a run, or of a whole study")
    add("--extractor", choices=["cifar", "inception"], default="cifar", help=EXTRACTOR)
    add("--n", type=int, default=50_000, help="images from each generator; default: 50000")
    add("--epoch", type=_epoch, default="last", help=EPOCH)
    add("--data", metavar="SOURCE", help="the data set; default: what the cache has of it")
    add("--weights", type=Path, help=WEIGHTS)
    add("--device", help=DEVICE)
    add("--cache", type=Path, help=CACHE)

    add = _command(named, "audit", audit, AUDIT)
    add("where", metavar="RUN", type=Path, help="folder of a run that kept its generator")
    add("--data", metavar="TRAIN", required=True, help="the images that it was trained on")
    add("--test", metavar="TEST", required=True, help="images of that kind that it was not")
    add("--n", type=int, default=5_000, help="generated images a line; default: 5000")
    add("--epoch", type=_epoch, default="last", help=EPOCH)
    add("--weights", type=Path, help="Inception's file; default: INCEPTION_WEIGHTS, or the cache's")
    add("--constants", choices=["quick", "full"], default="quick", help=CONSTANTS)
    add("--threads", type=positive, default=1, help=THREADS)
    add("--device", help=DEVICE)
    add("--cache", type=Path, help=CACHE)

    add = _command(named, "probe", probe, PROBE)
    _add_sets(add)
    add("--labels", type=positive, default=1_000, help="labelled images of each SVM; default: 1000")
    add("--draws", type=positive, default=5, help="of the labelled images; default: 5")
    add("--full", metavar="N", type=positive, nargs="?", const="all", help=FULL)

    add = _command(named, "neighbours", neighbours, NEIGHBOURS)
    _add_sets(add)
    add("--n", type=int, default=2_000, help="images of each side; default: 2000")

    add = _command(named, "walks", walks, WALKS)
    _add_runs(add)
    add("--pairs", type=positive, default=200, help="pairs of z; default: 200")
    add("--steps", type=positive, default=16, help="from one z to the other; default: 16")

    add = _command(named, "filters", filters, FILTERS)
    _add_runs(add)
    add("--data", metavar="TRAIN", required=True, help="the images that it was trained on")
    add("--images", type=positive, default=64, help="images that D sees; default: 64")
    add("--cache", type=Path, help=CACHE)

    add = _command(named, "heads", heads, HEADS)
    _add_where(add)
    add("--pairs", type=positive, default=20, help="samples of each head; default: 20")
    add("--threads", type=positive, help=OWN_THREADS)

    add = _command(named, "constant", constant, CONSTANT)
    _add_where(add)
    add("--threads", type=positive, default=1, help=THREADS)

    add = _command(named, "train-extractor", train_extractor, TRAIN)
    add("--train", metavar="ZIP", required=True, help="the 50,000 training images")
    add("--test", metavar="ZIP", required=True, help="the 10,000 test images")
    add("--seed", type=int, default=0, help="of the weights and the augmentation; default: 0")
    add("--threads", type=int, help="of PyTorch, on which results depend; default: its own choice")
    add(
        "--out", type=Path, default=Path("eval/weights"), help="their folder; default: eval/weights"
    )
    add(
        "--cache",
        type=Path,
        default=Path("runs/cache"),
        help="of images; default: runs/cache",
    )
    return parser


def _command(named: Any, name: str, command: Any, text: str) -> Any:
    """Add a subcommand; returns the function that adds an argument to it."""
    return commands.add_command(named, name, command, text).add_argument


def _add_where(add: Any) -> None:
    """The arguments of all tools that put a result into each run."""
    add("where", metavar="RUN_OR_STUDY", type=Path, help="folder of a run, or of a whole study")
    add("--again", action="store_true", help="measure runs anew that have the result")
    add("--device", help=DEVICE)


def _add_runs(add: Any) -> None:
    """The arguments of tools that put a result of one epoch into each run."""
    _add_where(add)
    add("--epoch", type=_epoch, default="last", help=EPOCH)
    add("--threads", type=positive, default=1, help=THREADS)


def _add_sets(add: Any) -> None:
    """The same, and those of tools that put real images beside finished runs."""
    _add_runs(add)
    add("--data", metavar="TRAIN", required=True, help="the images that it was trained on")
    add("--test", metavar="TEST", required=True, help="images of that kind that it was not")
    add("--cache", type=Path, help=CACHE)


def _epoch(word: str) -> str | int:
    if word != "last" and not word.isdecimal():
        raise argparse.ArgumentTypeError(f"{word!r} is neither `last` nor a number")
    return word if word == "last" else int(word)


def _place(arguments: argparse.Namespace) -> tuple[Path, int, Path]:
    """The study's folder, the side of its real images in pixels, and the cache."""
    study = _study(arguments.where)
    return study, _native(study), arguments.cache or study.parent / "cache"


def _study(where: Path) -> Path:
    """The study's folder: the nearest one here or above with a study.json."""
    where = where.resolve()
    for folder in (where, *where.parents):
        if (folder / "study.json").is_file():
            return folder
    raise BadInput(f"{where}: {'no study here or above' if where.is_dir() else 'no such folder'}")


def _native(study: Path) -> int:
    """The side of the real images in pixels, as study.json has it."""
    path = study / "study.json"
    try:
        side = json.loads(path.read_bytes())["data"]["resolution"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise BadInput(f"{path}: damaged: {type(error).__name__}: {error}") from error
    if type(side) is not int or side not in SIDES:
        raise BadInput(f"{path}: resolution={side!r} is no side of an image")
    return side


def _runs(where: Path) -> list[Path]:
    """The run itself, or all runs below."""
    runs = sorted(path.parent for path in where.rglob("run.json"))
    if not runs:
        raise BadInput(f"{where}: no run in this folder")
    return runs


def _finished(where: Path) -> dict[Path, Any]:
    """The finished runs here and their configs; the others are named on stderr."""
    from eval.states import last_epoch, read_config

    found = {}
    for run in _runs(where):
        try:
            config = read_config(run)
        except ValueError as error:
            raise BadInput(error) from error
        if (done := last_epoch(run)) == config.epochs:
            found[run] = config
        else:
            print(f"left out, {done} of {config.epochs} epochs: {run}", file=sys.stderr)
    if not found:
        raise BadInput(f"{where}: no finished run in this folder")
    return found


def _within(run: Path, config: Any, epoch: str | int) -> int:
    """The epoch asked for, of a finished run."""
    if epoch == "last":
        return config.epochs
    if not 1 <= epoch <= config.epochs:
        raise BadInput(f"{run}: epoch {epoch} is not one of 1 to {config.epochs}")
    return epoch


def _measure_runs(
    arguments: argparse.Namespace,
    tool: str,
    epochs: dict[Path, int],
    measure: Callable[[Path, int], tuple[Any, bytes | None]],
) -> Result:
    """Put a tool's result into each run that has none of its epoch; print those of all."""
    from eval import results

    found = {}
    for number, (run, epoch) in enumerate(epochs.items(), 1):
        result, done = results.stored(run, tool), "kept"
        if arguments.again or result is None or result.epoch != epoch:
            result, figure = measure(run, epoch)
            result = results.keep(run, result, figure)
            done = "measured"
        found[str(run)] = result
        print(f"{done} {number} of {len(epochs)}: {run}, epoch {epoch}", file=sys.stderr)
    if not arguments.json:
        print(results.table(found))
    return 0, {"runs": [{"run": run, **asdict(result)} for run, result in found.items()]}


def _kept(run: Path, epoch: str | int) -> tuple[int, Path]:
    """The epoch asked for and its generator's file, once its hash is the committed one."""
    files = sorted(run.glob("epochs/[0-9]*/generator.safetensors"))
    epochs = {int(path.parent.name): path for path in files}
    if not epochs:
        raise BadInput(f"{run}: no epoch here kept its generator")
    if epoch == "last":
        epoch = max(epochs)
    if epoch not in epochs:
        there = ", ".join(map(str, epochs))
        raise BadInput(f"{run}: epoch {epoch} kept no generator, only {there} did")
    path = epochs[epoch]
    try:
        found = f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}"
        committed = (path.parent / "SHA256SUMS").read_text().splitlines()
    except OSError as error:
        raise BadInput(f"{error.filename}: {error.strerror}") from error
    if found not in committed:
        raise BadInput(f"{path}: its SHA-256 is not the committed one")
    return epoch, path


def _last_kept(where: Path, epoch: str | int) -> dict[Path, tuple[int, Path]]:
    """The epoch and the generator's file of each run that kept one."""
    runs = _runs(where)
    kept = [run for run in runs if any(run.glob("epochs/[0-9]*/generator.safetensors"))]
    return {run: _kept(run, epoch) for run in kept or runs}


def _kept_all(run: Path) -> dict[int, Path]:
    """Epoch -> generator's file, of all milestones that kept one and of the newest that did."""
    from dcgan.config import is_milestone

    files = run.glob("epochs/[0-9]*/generator.safetensors")
    epochs = sorted(int(path.parent.name) for path in files)
    return dict(_kept(run, each) for each in epochs if is_milestone(each) or each == epochs[-1])


def _threads(run: Path) -> int:
    """PyTorch's threads in a run whose run.json was found right; 1 where it does not say."""
    return json.loads((run / "run.json").read_bytes()).get("fingerprint", {}).get("threads", 1)


def _device(wanted: str | None) -> str:
    import torch

    return commands.choose_device(wanted, torch.cuda.device_count())


def _extractor(name: str, weights: Path | None, device: str, cache: Path) -> Any:
    from eval.extractors import WEIGHTS, classifier, inception

    try:
        if name == "cifar":
            return classifier(device, weights or WEIGHTS)
        return inception(weights, device, cache=cache)
    except NoWeights as error:
        raise BadInput(error) from error


def _has_inception(named: Path | None, cache: Path) -> bool:
    """Whether Inception's weights lie here; a file that the user names has to be the right one."""
    chosen = named or os.environ.get("INCEPTION_WEIGHTS")
    lying = cache / INCEPTION_FILES[0]
    try:
        find_inception(named or (lying if lying.is_file() and not chosen else None))
    except NoWeights as error:
        if chosen:
            raise BadInput(error) from error
        return False
    return True


def _real_pixels(
    source: str | None, cache: Path, sha256: str, classes: str, resolution: int
) -> Any:
    """The images of the classes that a run was trained on, (N, H, W, 3) uint8."""
    from dcgan.data import BadData, load, load_cached, of_classes, resize

    try:
        if source is None:
            images = load_cached(cache, sha256, resolution)
        else:
            images = resize(load(source, cache), resolution)
    except BadData as error:
        raise BadInput(error if source else f"{error}, with --data SOURCE") from error
    _check_same(source, images, sha256)
    return of_classes(images, classes).pixels


def _both_sets(
    arguments: argparse.Namespace, cache: Path, native: int, configs: Iterable[Any]
) -> tuple[Any, Any]:
    """What the runs were trained on, and images of the same side that they were not."""
    from dcgan.data import BadData, load

    try:
        train, test = load(arguments.data, cache), load(arguments.test, cache)
    except BadData as error:
        raise BadInput(error) from error
    for config in configs:
        _check_same(arguments.data, train, config.data_sha256)
    if test.pixels.shape[1] != native:
        raise BadInput(
            f"--test {arguments.test}: {test.pixels.shape[1]} pixels a side, not {native}"
        )
    if test.sha256 == train.sha256:
        raise BadInput(f"--test {arguments.test}: these are the images of --data, none is held out")
    return train, test


def _check_same(source: str | None, images: Any, sha256: str) -> None:
    """Whether these are the images that a run was trained on."""
    if images.sha256 != sha256:
        found, wanted = images.sha256[:12], sha256[:12]
        raise BadInput(
            f"--data {source}: its SHA-256 is {found}..., that of the run's is {wanted}..."
        )


def _table(rows: list[dict[str, Any]]) -> str:
    """One line a run, then what the numbers are."""
    metrics = list(rows[0]["scores"])
    width = max(len(row["run"]) for row in rows)
    lines = [f"{'run':{width}} {'epoch':>6} " + " ".join(f"{name:>15}" for name in metrics)]
    for row in rows:
        values = ("not finite" if v is None else f"{v:.5g}" for v in row["scores"].values())
        cells = " ".join(f"{value:>15}" for value in values)
        lines.append(f"{row['run']:{width}} {row['epoch']:6d} {cells}")

    # What all of these numbers share is said once, then what is particular to each.
    known_as = [identity for row in rows for identity in row["identities"].values()]
    shared = [key for key in known_as[0] if len({each[key] for each in known_as}) == 1]
    lines += ["", *(f"{key:20}{known_as[0][key]}" for key in shared)]
    for each in known_as:
        own = ", ".join(f"{key} {each[key]}" for key in each if key not in ("metric", *shared))
        if (line := f"{each['metric']:20}{own}") not in lines:
            lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
