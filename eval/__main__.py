"""Score finished runs again, analyse them, or train the bundled feature network.

    python -m eval score RUN
    python -m eval probe RUN --data TRAIN --test TEST

RUN is a run or a whole study; TRAIN and TEST are images, as DATA= takes them. CIFAR-10 as TEST, in
torchvision's form, is its test split.

Each command has its own --help. probe, neighbours, walks, filters, heads and constant write
RUN/eval/COMMAND.json, and some of them a picture COMMAND.png; a run that already has the result for
this epoch is skipped.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dcgan import cli
from dcgan.cli import PATH, Result, options

REPLACED = {
    "audit": "is gone: the report says how far to trust scores, resample adds evaluation sets"
}
eval_group = cli.Group("eval", __doc__, REPLACED)


def main(arguments: list[str] | None = None) -> int:
    return cli.run(eval_group, arguments)


def count(name: str, default: int | None, text: str, least: int = 1) -> Callable:
    """An option that is a whole number."""
    kind = click.IntRange(min=least)
    return click.option(name, metavar="N", type=kind, default=default, help=text)


RUN = click.argument("where", metavar="RUN", type=click.Path(exists=True, path_type=Path))
DEVICE = click.option(
    "--device", metavar="NAME", help="cpu, cuda or cuda:N; default: the first GPU, if any, or cpu"
)
EPOCH = click.option("--epoch", metavar="N", default="last", help="N or `last`, the last usable")
THREADS = count("--threads", 1, "PyTorch threads; results depend on them")
DATA = click.option("--data", metavar="TRAIN", required=True, help="images it was trained on")
TEST = click.option("--test", metavar="TEST", required=True, help="held-out images of that kind")
CACHE = click.option(
    "--cache", metavar="DIR", type=PATH, help="cache of images; default: `cache` next to the study"
)
AGAIN = click.option("--again", is_flag=True, help="measure again where there is a result")
NETWORKS = click.Choice(["cifar", "inception"])


def analyse(name: str, needs: str, settings: dict[str, Any], **chosen: Any) -> Result:
    """Let an analysis measure finished runs; see eval.finished.measure."""
    from eval.finished import measure

    return measure(name, needs, settings, **chosen)


@eval_group.command()
@options(RUN, DEVICE, EPOCH)
@click.option("--extractor", type=NETWORKS, default="cifar", help="feature network")
@count("--n", 50_000, "images from each generator; every metric needs 10", least=10)
@click.option("--data", metavar="TRAIN", help="images it was trained on; default: the cache's")
@click.option("--weights", type=PATH, help="weights of the network; default: see above")
@CACHE
def score(n: int, extractor: str, weights: Path | None, **chosen: Any) -> Result:
    """Score the generators that finished epochs have kept, on new images.

    Images from noise that is used for nothing else are compared with all real images that the run
    was trained on. `inception` gives FID, IS and KID; its weights are the file that --weights or
    INCEPTION_WEIGHTS names, or one found in the cache or in torch hub's folder, or a download into
    the cache. An image takes 0.2 s on a CPU core, and with `cifar` a millisecond.

        python -m eval score runs/ablation-small --extractor inception --n 50000
    """
    from eval.extractors import WEIGHTS, classifier, inception
    from eval.finished import open_runs
    from eval.score import rescore, to_text

    runs, rows = open_runs(needs="generator", **chosen), []
    device = runs[0].device
    if extractor == "inception":
        network = inception(weights, device, runs[0].cache)
    else:
        network = classifier(device, weights or WEIGHTS)
    for number, run in enumerate(runs, 1):
        rows.append(rescore(run, network, n))
        print(f"scored {number} of {len(runs)}: {run.folder}, epoch {run.epoch}", file=sys.stderr)
    print(to_text(rows))
    return 0, {"runs": rows}


@eval_group.command()
@options(RUN, DEVICE, AGAIN, EPOCH, THREADS, DATA, TEST, CACHE)
@count("--labels", 1_000, "labelled images per SVM")
@count("--draws", 5, "draws of labelled images")
def probe(labels: int, draws: int, **chosen: Any) -> Result:
    """Find out what D's features are good for: linear SVMs on them predict the class.

    As in Section 5.1 of the paper, with controls on the same labelled training images: D with its
    initial weights, the pixels, the bundled classifier. A run at `small` takes a minute.

        python -m eval probe RUN --data TRAIN --test TEST
    """
    return analyse("probe", "state", {"labels": labels, "draws": draws}, **chosen)


@eval_group.command()
@options(RUN, DEVICE, AGAIN, EPOCH, THREADS, DATA, TEST, CACHE)
@count("--n", 2_000, "generated images, and as many held-out ones", least=100)
def neighbours(n: int, **chosen: Any) -> Result:
    """Find out whether G repeats its training images: how near is the nearest of them?

    The images of a generator that memorised are nearer than held-out real images, in the features
    of the bundled classifier and in pixels. The picture: the nearest generated images, above their
    neighbours. A run at `small` takes a minute.

        python -m eval neighbours RUN --data TRAIN --test TEST
    """
    return analyse("neighbours", "generator", {"n": n}, **chosen)


@eval_group.command()
@options(RUN, DEVICE, AGAIN, EPOCH, THREADS)
@count("--pairs", 200, "pairs of z")
@count("--steps", 16, "steps from one z to the other")
def walks(pairs: int, steps: int, **chosen: Any) -> Result:
    """Find out whether the latent space is smooth, and whether arithmetic works in it.

    How even are walks from z to z, compared with a pixel blend of the same two images? And is
    bright A - dark A + dark B a bright B, for two classes? eval/walks.py defines a hit. The
    picture: walks, each above its blend, and the arithmetic. A run at `small` takes twenty seconds.

        python -m eval walks runs/ablation-small
    """
    return analyse("walks", "generator", {"pairs": pairs, "steps": steps}, **chosen)


@eval_group.command()
@options(RUN, DEVICE, AGAIN, EPOCH, THREADS, DATA, CACHE)
@count("--images", 64, "images shown to D")
def filters(images: int, **chosen: Any) -> Result:
    """Find out what D's last convolutional features respond to, trained and untrained.

    Guided backpropagation from the strongest units: how concentrated is a response, in how few
    pixels? The picture: images of the strongest features above what they respond to, trained and
    untrained.

        python -m eval filters RUN --data TRAIN
    """
    return analyse("filters", "state", {"images": images}, **chosen)


@eval_group.command()
@options(RUN, DEVICE, AGAIN)
@count("--pairs", 20, "timings of each head")
@count("--threads", None, "PyTorch threads; default: as many as the run had")
def heads(pairs: int, **chosen: Any) -> Result:
    """Find out whether the average-pool head is faster: count operations, time in pairs.

    The networks of each finished run are built with both heads of D, and training steps are timed,
    the heads taking turns. The speeds are those of this machine at this moment, so run nothing else
    meanwhile. The result is stored as epoch 0's. A run at `small` takes half a minute.

        python -m eval heads runs/ablation-small
    """
    return analyse("heads", "config", {"pairs": pairs}, **chosen)


@eval_group.command()
@options(RUN, DEVICE, AGAIN, THREADS)
def constant(**chosen: Any) -> Result:
    """Find out whether G's features collapse: how many are nearly constant, by epoch?

    At every milestone (epochs 1, 2, 5, 10, 15, ...) and at the last epoch: what share of each
    layer's channels is nearly the same in 1,000 images? Exploratory. A run takes a few seconds.

        python -m eval constant runs/ablation-small
    """
    return analyse("constant", "generator", {}, **chosen)


@eval_group.command()
@click.option("--train", metavar="TRAIN", required=True, help="the 50,000 training images")
@click.option("--test", metavar="TEST", required=True, help="the 10,000 test images")
@click.option("--seed", metavar="N", type=int, default=0, help="seed of weights and augmentation")
@count("--threads", None, "PyTorch threads; results depend on them; default: its own choice")
@click.option("--out", metavar="DIR", type=PATH, default=Path("eval/weights"), help="of both files")
@click.option("--cache", metavar="DIR", type=PATH, default=Path("runs/cache"), help="of images")
def train_extractor(**chosen: Any) -> Result:
    """Train the bundled CIFAR-10 classifier again; this takes an hour on two CPU cores.

    Writes cifar10-resnet.safetensors and its card cifar10-resnet.json. Other weights are another
    network: scores measured with them cannot be compared with the old ones.

        python -m eval train-extractor --train TRAIN --test TEST
    """
    from eval.classifier import train_and_write

    path, accuracy = train_and_write(**chosen)
    print(f"test accuracy {accuracy:.4f}, wrote {path} and .json")
    return 0, {"file": path, "accuracy": accuracy}


if __name__ == "__main__":
    sys.exit(main())
