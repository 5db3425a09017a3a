"""Score finished runs again, analyse them, and train the bundled feature network.

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

Each command has its own --help. probe, neighbours, walks, filters, heads and constant write
RUN/eval/COMMAND.json, and some of them a picture COMMAND.png; a run that has the result of this
epoch is left alone.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dcgan import cli
from dcgan.cli import PATH, POSITIVE, BadInput, Result, options
from eval.fetch import INCEPTION_FILES, NoWeights, find_inception
from eval.finished import analyse, find_study, open_runs

eval_group = cli.Group("eval", __doc__)


def main(words: list[str] | None = None) -> int:
    """Run one command; see dcgan.cli.run."""
    return cli.run(eval_group, words)


# --- Options of several commands ------------------------------------------------------------------


def _epoch(context: click.Context, option: click.Parameter, word: str) -> str | int:
    if word != "last" and not word.isdecimal():
        raise click.BadParameter(f"{word!r} is neither `last` nor a number")
    return word if word == "last" else int(word)


def count(name: str, default: int | None, text: str) -> Callable:
    """An option that is a positive number."""
    return click.option(name, metavar="N", type=POSITIVE, default=default, help=text)


THREADS = count("--threads", 1, "of PyTorch, on which results depend")
EPOCH = click.option(
    "--epoch",
    metavar="N",
    default="last",
    callback=_epoch,
    help="a number, or `last`, the last one that has what is needed",
)
DATA = click.option("--data", metavar="TRAIN", required=True, help="images it was trained on")
TEST = click.option("--test", metavar="TEST", required=True, help="images of that kind it was not")
CACHE = click.option(
    "--cache", type=PATH, help="folder of decoded images; default: `cache` beside the study"
)
DEVICE = click.option(
    "--device",
    metavar="NAME",
    help="cpu, cuda or cuda:N; default: the first GPU, or cpu where there is none",
)
of_run = options(click.argument("where", metavar="RUN_OR_STUDY", type=PATH), DEVICE)
again = click.option("--again", is_flag=True, help="measure runs anew that have the result")
of_epoch = options(of_run, again, EPOCH, THREADS)
of_both_sets = options(of_epoch, DATA, TEST, CACHE)


# --- Scores ---------------------------------------------------------------------------------------


@eval_group.command()
@of_run
@EPOCH
@click.option(
    "--extractor",
    type=click.Choice(["cifar", "inception"]),
    default="cifar",
    help="the network that sees the images",
)
@click.option("--n", metavar="N", type=int, default=50_000, help="images from each generator")
@click.option("--data", metavar="SOURCE", help="the data set; default: what the cache has of it")
@click.option(
    "--weights",
    type=PATH,
    help="Inception's file, or a folder that train-extractor wrote; default: as said above",
)
@CACHE
def score(n: int, extractor: str, weights: Path | None, **chosen: Any) -> Result:
    """Score the generators that finished epochs have kept, on new images.

    Each run's generator makes --n images from noise that served nothing else; they are compared
    with all real images that the run was trained on, and every number is printed with its identity.
    Nothing in the runs is changed. One image on one CPU core takes about a millisecond with `cifar`
    and 0.2 s with `inception`.

    `inception` gives FID, IS and KID. Its weights are the file that --weights or INCEPTION_WEIGHTS
    names, or are looked for in the cache and in torch hub's folder, or are downloaded into the
    cache. `cifar` gives fd_cifar, cs_cifar, kd_cifar, precision, recall, density and coverage.

        python -m eval score runs/ablation-small
        python -m eval score RUN --extractor inception --n 50000 --json
    """
    if n < 10:
        raise BadInput(f"--n {n}: every metric needs 10 images at least")
    if extractor == "inception":
        find_inception(weights, chosen["cache"] or find_study(chosen["where"]).parent / "cache")
    runs = open_runs(needs="generator", **chosen)

    from eval.extractors import WEIGHTS, classifier, inception
    from eval.score import rescore, to_text

    device = runs[0].device
    if extractor == "inception":
        network = inception(weights, device, cache=runs[0].images.cache)
    else:
        network = classifier(device, weights or WEIGHTS)
    rows = []
    for number, run in enumerate(runs, 1):
        rows.append(rescore(run, network, n))
        line = f"scored {number} of {len(runs)}: {run.folder}, epoch {run.epoch}"
        print(line, file=sys.stderr)
    print(to_text(rows))
    return 0, {"runs": rows}


@eval_group.command()
@click.argument("where", metavar="RUN", type=PATH)
@DATA
@TEST
@click.option("--n", metavar="N", type=int, default=5_000, help="generated images a line")
@EPOCH
@click.option(
    "--weights", type=PATH, help="Inception's file; default: INCEPTION_WEIGHTS, or the cache's"
)
@click.option(
    "--constants",
    type=click.Choice(["quick", "full"]),
    default="quick",
    help="4,000 real images for each constant, or all 60,000",
)
@THREADS
@DEVICE
@CACHE
def audit(n: int, weights: Path | None, constants: str, where: Path, **chosen: Any) -> Result:
    """Find out whether the scores can be trusted, with one run and real held-out images.

    The generator of one epoch and the held-out images of --test go through the network that scores
    every epoch, and five questions are asked:

      batchnorm  How much depends on where G's BatchNorm gets its statistics
                 (running averages, the batch's own, averages over new noise)
                 and on how floats become pixels (rounded, truncated,
                 stretched)?
      sizes      How do the metrics depend on the number of images N, and what
                 is their limit? Fifteen sizes from N / 10 to N, each on images
                 of its own; a line against 1 / N (arXiv 1911.07023).
      parity     Do torchmetrics and torch-fidelity give the same on the same
                 images and network?
      degraded   Do the metrics rise when real images get worse: noise, blur,
                 missing classes, repeated samples?
      constants  With Inception's weights (--weights, INCEPTION_WEIGHTS, the
                 cache, torch hub's folder; nothing is downloaded): does it
                 give on CIFAR-10 what is published? If not, nothing is called
                 FID. One image takes 0.2 s on a CPU core.

    Prints the tables and writes them to audit.json beside the study's study.json, where the report
    looks for them. Equal arguments give equal bytes. On one CPU core, without Inception, the
    default takes about five minutes. Exit code 1 where the constants fail.

        python -m eval audit runs/ablation-small/ARM/seed=0 \\
            --data cifar10-train.zip --test cifar10-test.zip
    """
    if n < 100:
        raise BadInput(f"--n {n}: an audit needs 100 images at least")
    study = find_study(where)
    if len(inside := list(where.rglob("run.json"))) > 1:
        raise BadInput(f"{where}: holds {len(inside)} runs; name one of them")
    cache = chosen["cache"] or study.parent / "cache"
    has_inception = _has_inception(weights, cache)
    (run,) = open_runs(where, needs="generator", **chosen)

    from eval import audit as work
    from eval.audit import FULL, QUICK, save, to_text
    from eval.extractors import classifier, inception

    wanted = FULL if constants == "full" else QUICK
    network = inception(weights, run.device, cache=cache) if has_inception else None
    result = {"run": run.folder.resolve().relative_to(study).as_posix()}
    result |= work.analyse(run, classifier(run.device), n, network, wanted)
    path = save(study, result)
    print(to_text(result))
    print(f"wrote {path}", file=sys.stderr)
    return int(result["fid"] is False), {"file": path, **result}


def _has_inception(named: Path | None, cache: Path) -> bool:
    """Whether Inception's weights are here; a file that the user names has to be the right one."""
    chosen = named or os.environ.get("INCEPTION_WEIGHTS")
    cached = cache / INCEPTION_FILES[0]
    try:
        find_inception(named or (cached if cached.is_file() and not chosen else None))
    except NoWeights:
        if chosen:
            raise
        return False
    return True


# --- Analyses that leave a result in each run -----------------------------------------------------


@eval_group.command()
@of_both_sets
@count("--labels", 1_000, "labelled images of each SVM")
@count("--draws", 5, "of the labelled images")
@click.option(
    "--full",
    metavar="[N]",
    is_flag=False,
    flag_value="all",
    help="one more SVM with N labels, or without a number with all; default: none",
)
def probe(again: bool, labels: int, draws: int, full: str | None, **chosen: Any) -> Result:
    """Find out what D's features are good for: linear SVMs on them name classes.

    The activations of all of D's convolutional layers, each max-pooled to 4x4, are the features, as
    in Section 5.1 of the paper. A linear L2-SVM gets --labels labelled training images, as many of
    each class, --draws times, and names the class of each test image. The same draws serve the
    controls: D with its initial weights, the pixels, the bundled classifier.

    Every finished run is probed, by default after its last epoch; of earlier ones few states are
    kept. At the scale `small` a run takes about a minute on a CPU core.

        python -m eval probe runs/ablation-small \\
            --data cifar10-train.zip --test cifar10-test.zip
    """
    if full not in (None, "all") and not full.isdecimal():
        raise BadInput(f"--full {full}: not a number")
    runs = open_runs(needs="state", convolutional=True, **chosen)

    from eval import probe
    from eval.extractors import classifier

    sets = probe.choose_sets(runs[0].images.train, runs[0].images.test, labels, draws, full)
    network = classifier(runs[0].device)
    return analyse("probe", runs, again, lambda run: probe.analyse(run, network, sets))


@eval_group.command()
@of_both_sets
@click.option("--n", metavar="N", type=int, default=2_000, help="images of each side")
def neighbours(again: bool, n: int, **chosen: Any) -> Result:
    """Find out whether G repeats its training images: how near is the nearest one?

    --n generated images, and as many held-out ones of --test, are compared with the images that the
    run was trained on, in the features of the bundled classifier and in pixels. A generator that
    memorised comes nearer than new real images do. fd_cifar is taken against training and against
    test images, equally many; exact and near duplicates among the training images are counted.

    The picture: the eight generated images that come nearest, above their neighbours in features
    and in pixels. At the scale `small` a run takes about a minute on a CPU core.

        python -m eval neighbours runs/ablation-small \\
            --data cifar10-train.zip --test cifar10-test.zip
    """
    if n < 100:
        raise BadInput(f"--n {n}: 100 images are needed at least")
    runs = open_runs(needs="generator", **chosen)

    from eval import neighbours
    from eval.extractors import classifier

    for run in runs:
        neighbours.check(run, n)
    network = classifier(runs[0].device)
    return analyse("neighbours", runs, again, lambda run: neighbours.analyse(run, network, n))


@eval_group.command()
@of_epoch
@count("--pairs", 200, "pairs of z")
@count("--steps", 16, "from one z to the other")
def walks(again: bool, pairs: int, steps: int, **chosen: Any) -> Result:
    """Find out whether the latent space is smooth, and whether one can calculate in it.

    Walks between --pairs pairs of z, in --steps steps: how even are they, in the features of the
    bundled classifier, beside a blend of the same two images in pixels? Circles around each z
    likewise. Then bright A - dark A + dark B for classes A and B that the classifier is sure of: is
    it a bright B, with three exemplars of each and with one? eval/walks.py says what a hit is.

    The picture: walks, each above its blend, and the arithmetic. At the scale `small` a run takes
    about twenty seconds on a CPU core.

        python -m eval walks runs/ablation-small
    """
    runs = open_runs(needs="generator", **chosen)

    from eval import walks
    from eval.extractors import classifier

    network = classifier(runs[0].device)
    return analyse("walks", runs, again, lambda run: walks.analyse(run, network, pairs, steps))


@eval_group.command()
@of_epoch
@DATA
@count("--images", 64, "images that D sees")
@CACHE
def filters(again: bool, images: int, **chosen: Any) -> Result:
    """Find out what D's last convolutional features respond to, trained and untrained.

    Guided backpropagation of the strongest units, from --images of the images that the run was
    trained on: which share of a response's energy lies in 5 % of the pixels, and how unequal (Gini)
    is it? The same for D's initial weights.

    The picture: images of the strongest features above what they respond to, trained and untrained.

        python -m eval filters runs/ablation-small --data cifar10-train.zip
    """
    runs = open_runs(needs="state", convolutional=True, **chosen)

    from eval import filters

    return analyse("filters", runs, again, lambda run: filters.analyse(run, images))


@eval_group.command()
@of_run
@again
@count("--pairs", 20, "samples of each head")
@count("--threads", None, "of PyTorch; default: as many as the run had")
def heads(again: bool, pairs: int, threads: int | None, **chosen: Any) -> Result:
    """Find out whether the average-pool head trains faster: count, and time in pairs.

    The networks of each finished run are built with either head of D, all else as the run has it.
    The multiply-adds of one step of training are counted, and steps are timed in one process, both
    heads in turn, --pairs times. No images are needed and no state: D is shown random pixels.

    The speeds are those of this machine at this moment: run it where nothing else runs. The result
    is called that of epoch 0. At the scale `small` a run takes half a minute on a CPU core.

        python -m eval heads runs/ablation-small/ARM/seed=0
    """
    runs = open_runs(needs="config", convolutional=True, **chosen)

    from eval import heads

    return analyse("heads", runs, again, lambda run: heads.analyse(run, pairs, threads))


@eval_group.command()
@of_run
@again
@THREADS
def constant(again: bool, **chosen: Any) -> Result:
    """Find out whether G's features collapse: how many are nearly constant, by epoch?

    1,000 images are made by the generator of every milestone (epochs 1, 2, 5, 10, 15, ...) and of
    the last epoch, as far as they were kept. For each layer before the image: which share of its
    channels is nearly the same in all of them? eval/constant.py says what that means; it is
    exploratory. At the scale `small` a run takes a few seconds on a CPU core.

        python -m eval constant runs/ablation-small
    """
    runs = open_runs(needs="generator", **chosen)

    from eval import constant

    return analyse("constant", runs, again, constant.analyse)


# --- The feature network --------------------------------------------------------------------------


@eval_group.command()
@click.option("--train", metavar="ZIP", required=True, help="the 50,000 training images")
@click.option("--test", metavar="ZIP", required=True, help="the 10,000 test images")
@click.option("--seed", metavar="N", type=int, default=0, help="of weights and augmentation")
@count("--threads", None, "of PyTorch, on which results depend; default: its own choice")
@click.option("--out", type=PATH, default=Path("eval/weights"), help="their folder")
@click.option("--cache", type=PATH, default=Path("runs/cache"), help="of images")
def train_extractor(**chosen: Any) -> Result:
    """Train the bundled CIFAR-10 classifier anew; on two CPU cores this takes an hour.

    Writes cifar10-resnet.safetensors and its card cifar10-resnet.json. Other weights are another
    network: scores measured with them cannot stand beside the old ones.

        python -m eval train-extractor \\
            --train cifar10-train.zip --test cifar10-test.zip
    """
    from eval.classifier import train_and_write

    path, accuracy = train_and_write(**chosen)
    print(f"test accuracy {accuracy:.4f}, wrote {path} and .json")
    return 0, {"file": path, "accuracy": accuracy}


if __name__ == "__main__":
    sys.exit(main())
