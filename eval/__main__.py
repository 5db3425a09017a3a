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

Each command has its own --help.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dcgan import cli
from dcgan.cli import PATH, POSITIVE, BadInput, Result, options
from eval.fetch import INCEPTION_FILES, NoWeights, find_inception
from eval.finished import FinishedRun, analyse, find_study, open_runs

if TYPE_CHECKING:
    from eval.extractors import Extractor

OF_SCORE = "Inception's file, or a folder that train-extractor wrote; default: as said above"
DEVICE = "cpu, cuda or cuda:N; default: the first GPU, or cpu where there is none"

eval_group = cli.Group("eval", __doc__)


def main(words: list[str] | None = None) -> int:
    """Run one command; see dcgan.cli.run."""
    return cli.run(eval_group, words)


# --- Options of several commands ------------------------------------------------------------------


def _epoch(context: click.Context, option: click.Parameter, word: str) -> str | int:
    if word != "last" and not word.isdecimal():
        raise click.BadParameter(f"{word!r} is neither `last` nor a number")
    return word if word == "last" else int(word)


THREADS = click.option(
    "--threads", metavar="N", type=POSITIVE, default=1, help="of PyTorch, on which results depend"
)
EPOCH = click.option(
    "--epoch",
    metavar="N",
    default="last",
    callback=_epoch,
    help="a number, or `last`, the last one that has what is needed",
)
DATA = click.option(
    "--data", metavar="TRAIN", required=True, help="the images that it was trained on"
)
TEST = click.option(
    "--test", metavar="TEST", required=True, help="images of that kind that it was not"
)
CACHE = click.option(
    "--cache", type=PATH, help="folder of decoded images; default: `cache` beside the study"
)
DEVICES = click.option("--device", metavar="NAME", help=DEVICE)
of_run = options(click.argument("where", metavar="RUN_OR_STUDY", type=PATH), DEVICES)
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
@click.option("--weights", type=PATH, help=OF_SCORE)
@CACHE
def score(n: int, extractor: str, weights: Path | None, **chosen: Any) -> Result:
    """Score the generators that finished epochs have kept, on new images.

    Each run's generator makes --n images from noise that served nothing else; they are compared
    with all real images of the data set that the run was trained on, at the side of the real
    images, and every number is printed with its identity. Nothing in the runs is changed. One image
    on one CPU core takes about a millisecond with `cifar` and 0.2 s with `inception`.

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

    from eval.extractors import inception
    from eval.score import rescore, table

    cache, device = runs[0].images.cache, runs[0].device
    if extractor == "inception":
        network = inception(weights, device, cache=cache)
    else:
        network = _classifier(runs, weights)
    rows = []
    for number, run in enumerate(runs, 1):
        rows.append(rescore(run, network, n))
        said = f"scored {number} of {len(runs)}: {run.folder}, epoch {run.epoch}"
        print(said, file=sys.stderr)
    print(table(rows))
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
@DEVICES
@CACHE
def audit(n: int, weights: Path | None, constants: str, where: Path, **chosen: Any) -> Result:
    """Find out whether the scores can be trusted, with one run and real held-out images.

    --data names the images that the run was trained on, --test images of the same kind and side
    that it was not. The generator of one epoch and the held-out images go through the network that
    scores every epoch, and five questions are asked:

      batchnorm  How much depends on where G's BatchNorm gets its statistics
                 (running averages, the batch's own, averages over new noise)
                 and on how floats become pixels (rounded, truncated,
                 stretched)?
      sizes      How do the metrics depend on the number of images N, and what
                 is their limit? Fifteen sizes from N / 10 to N, each on images
                 of its own; intercept and standard error of a line against
                 1 / N (Chong and Forsyth, arXiv 1911.07023).
      parity     Do torchmetrics and torch-fidelity give the same on the same
                 images and network?
      degraded   Do the metrics rise when real images get worse: noise, blur,
                 missing classes, repeated samples? Each is answered with yes
                 or no; clean held-out images are the floor.
      constants  With Inception's weights (--weights, INCEPTION_WEIGHTS, the
                 cache, torch hub's folder; nothing is downloaded): does it
                 give on CIFAR-10 what is published? If not, nothing is called
                 FID. --constants quick sees 4,000 real images, full all
                 60,000; one takes 0.2 s on a CPU core.

    Prints the tables and writes them to audit.json beside the study's study.json, where the report
    looks for them. Equal arguments give equal bytes. On one CPU core, without Inception, the
    default takes about five minutes; the time goes with --n and with the number of held-out images,
    of which the first 2 N are used.

    Exit code 1 where the constants fail.

        python -m eval audit runs/ablation-small/ARM/seed=0 \\
            --data cifar10-train.zip --test cifar10-test.zip
    """
    if n < 100:
        raise BadInput(f"--n {n}: an audit needs 100 images at least")
    study = find_study(where)
    if len(found := list(where.rglob("run.json"))) > 1:
        raise BadInput(f"{where}: holds {len(found)} runs; name one of them")
    cache = chosen["cache"] or study.parent / "cache"
    has_inception = _has_inception(weights, cache)
    (run,) = open_runs(where, needs="generator", **chosen)

    from eval import audit as work
    from eval.audit import FULL, QUICK, save, to_text
    from eval.extractors import inception

    wanted = FULL if constants == "full" else QUICK
    network = inception(weights, run.device, cache=cache) if has_inception else None
    result = {"run": run.folder.resolve().relative_to(study).as_posix()}
    result |= work.analyse(run, _classifier([run]), n, network, wanted)
    path = save(study, result)
    print(to_text(result))
    print(f"wrote {path}", file=sys.stderr)
    return int(result["fid"] is False), {"file": path, **result}


# --- Analyses that leave a result in each run -----------------------------------------------------


@eval_group.command()
@of_both_sets
@click.option(
    "--labels",
    metavar="N",
    type=POSITIVE,
    default=1_000,
    help="labelled images of each SVM",
)
@click.option("--draws", metavar="N", type=POSITIVE, default=5, help="of the labelled images")
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
    in Section 5.1 of the paper; D works with BatchNorm's running statistics. A linear L2-SVM gets
    --labels labelled training images, as many of each class, --draws times, and names the class of
    each test image. The same draws serve the controls: D with its initial weights, the pixels, the
    bundled classifier. With --full N one more SVM gets N labels, or without a number all of them.

    Features are standardised by the images that the SVM gets; C is chosen once for each kind of
    features, by a fifth of each draw. Every finished run is probed; where the state of --epoch is
    pruned, the run is trained again up to there.

    Writes <run>/eval/probe.json. A run that has the result of this epoch is left alone. At the
    scale `small` a run takes about a minute on a CPU core.

        python -m eval probe runs/ablation-small \\
            --data cifar10-train.zip --test cifar10-test.zip
    """
    if full not in (None, "all") and not full.isdecimal():
        raise BadInput(f"--full {full}: not a number")
    runs = open_runs(needs="state", convolutional=True, **chosen)

    from eval import probe

    sets = probe.choose_sets(runs[0].images.train, runs[0].images.test, labels, draws, full)
    network = _classifier(runs)
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

    Writes <run>/eval/neighbours.json and neighbours.png: the eight generated images that come
    nearest, above their neighbours in features and in pixels. A run that has the result of this
    epoch is left alone. At the scale `small` a run takes about a minute on a CPU core.

        python -m eval neighbours runs/ablation-small \\
            --data cifar10-train.zip --test cifar10-test.zip
    """
    if n < 100:
        raise BadInput(f"--n {n}: 100 images are needed at least")
    runs = open_runs(needs="generator", **chosen)

    from eval import neighbours

    for run in runs:
        neighbours.check(run, n)
    network = _classifier(runs)
    return analyse("neighbours", runs, again, lambda run: neighbours.analyse(run, network, n))


@eval_group.command()
@of_epoch
@click.option("--pairs", metavar="N", type=POSITIVE, default=200, help="pairs of z")
@click.option("--steps", metavar="N", type=POSITIVE, default=16, help="from one z to the other")
def walks(again: bool, pairs: int, steps: int, **chosen: Any) -> Result:
    """Find out whether the latent space is smooth, and whether one can calculate in it.

    Walks between --pairs pairs of z, in --steps steps: how even are they, in the features of the
    bundled classifier, beside a blend of the same two images in pixels? Circles around each z
    likewise. Then bright A - dark A + dark B for classes A and B that the classifier is sure of: is
    it a bright B, with three exemplars of each and with one? What is measured, and what a hit is,
    stands at the top of eval/walks.py.

    Writes <run>/eval/walks.json and walks.png: walks, each above its blend, and the arithmetic.
    Every run that kept a generator is measured; one that has the result of this epoch is left
    alone. At the scale `small` a run takes about twenty seconds on a CPU core.

        python -m eval walks runs/ablation-small
    """
    runs = open_runs(needs="generator", **chosen)

    from eval import walks

    network = _classifier(runs)
    return analyse("walks", runs, again, lambda run: walks.analyse(run, network, pairs, steps))


@eval_group.command()
@of_epoch
@DATA
@click.option("--images", metavar="N", type=POSITIVE, default=64, help="images that D sees")
@CACHE
def filters(again: bool, images: int, **chosen: Any) -> Result:
    """Find out what D's last convolutional features respond to, trained and untrained.

    Guided backpropagation of the strongest units, from --images of the images that the run was
    trained on: which share of a response's energy lies in 5 % of the pixels, and how unequal (Gini)
    is it? The same for D's initial weights.

    Writes <run>/eval/filters.json and filters.png: images of the strongest features above what they
    respond to, trained and untrained. A run that has the result of this epoch is left alone; where
    the state of --epoch is pruned, the run is trained again up to there.

        python -m eval filters runs/ablation-small --data cifar10-train.zip
    """
    runs = open_runs(needs="state", convolutional=True, **chosen)

    from eval import filters

    return analyse("filters", runs, again, lambda run: filters.analyse(run, images))


@eval_group.command()
@of_run
@again
@click.option("--pairs", metavar="N", type=POSITIVE, default=20, help="samples of each head")
@click.option(
    "--threads", metavar="N", type=POSITIVE, help="of PyTorch; default: as many as the run had"
)
def heads(again: bool, pairs: int, threads: int | None, **chosen: Any) -> Result:
    """Find out whether the average-pool head trains faster: count, and time in pairs.

    The networks of each finished run are built with either head of D, all else as the run has it.
    The multiply-adds of one step of training are counted, and steps are timed in one process, both
    heads in turn, --pairs times. No images are needed and no state: D is shown random pixels.

    Writes <run>/eval/heads.json. Its speeds are those of this machine at this moment, so they are
    no function of the config; run it where nothing else runs. The networks are those before the
    first epoch, so the result is called that of epoch 0. A run that has it is left alone. At the
    scale `small` a run takes half a minute on a CPU core.

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
    channels is nearly the same in all of them? What that means stands at the top of
    eval/constant.py; it is exploratory.

    Writes <run>/eval/constant.json. Every run that kept a generator is measured; one that has the
    result of its last one is left alone. At the scale `small` a run takes a few seconds on a CPU
    core.

        python -m eval constant runs/ablation-small
    """
    runs = open_runs(needs="generator", **chosen)

    from eval import constant

    return analyse("constant", runs, again, constant.analyse)


# --- The feature network --------------------------------------------------------------------------


@eval_group.command()
@click.option("--train", metavar="ZIP", required=True, help="the 50,000 training images")
@click.option("--test", metavar="ZIP", required=True, help="the 10,000 test images")
@click.option(
    "--seed", metavar="N", type=int, default=0, help="of the weights and the augmentation"
)
@click.option(
    "--threads",
    metavar="N",
    type=POSITIVE,
    help="of PyTorch, on which results depend; default: its own choice",
)
@click.option("--out", type=PATH, default=Path("eval/weights"), help="their folder")
@click.option("--cache", type=PATH, default=Path("runs/cache"), help="of images")
def train_extractor(
    train: str, test: str, seed: int, threads: int | None, out: Path, cache: Path
) -> Result:
    """Train the bundled CIFAR-10 classifier anew; on two CPU cores this takes an hour.

    Writes cifar10-resnet.safetensors and its card cifar10-resnet.json. Other weights are another
    network: scores measured with them cannot stand beside the old ones.

        python -m eval train-extractor \\
            --train cifar10-train.zip --test cifar10-test.zip
    """
    from eval.classifier import train_and_write

    path, accuracy = train_and_write(train, test, seed, threads, out, cache)
    print(f"test accuracy {accuracy:.4f}, wrote {path} and .json")
    return 0, {"file": path, "accuracy": accuracy}


def _classifier(runs: list[FinishedRun], folder: Path | None = None) -> "Extractor":
    """The bundled network, on the device of the runs."""
    from eval.extractors import WEIGHTS, classifier

    return classifier(runs[0].device, folder or WEIGHTS)


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


if __name__ == "__main__":
    sys.exit(main())
