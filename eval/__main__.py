"""Score finished runs again, and train the bundled feature network.

    python -m eval score runs/ablation-small --extractor inception --n 50000
    python -m eval score runs/ablation-small/norm=none,head=conv,batch=128/seed=0 --epoch 4
    python -m eval audit runs/ablation-small/norm=none,head=conv,batch=128/seed=0 \\
        --data cifar10-train.zip --test cifar10-test.zip
    python -m eval train-extractor --train cifar10-train.zip --test cifar10-test.zip

Each command has its own --help.
"""

import argparse
import hashlib
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any, NoReturn

from dcgan.sources import SIDES
from eval.fetch import INCEPTION_FILES, NoWeights, find_inception

SCORE = """Score the generators that finished epochs have kept, on new images.

Each run's generator makes --n images from noise that served nothing else; they are compared with
all real images of the data set that the run was trained on, at the side of the real images, and
every number is printed with its identity. Nothing in the runs is changed. One image on one CPU
core takes about a millisecond with `cifar` and 0.2 s with `inception`.

`inception` gives FID, IS and KID. Its weights are the file that --weights or INCEPTION_WEIGHTS
names, or are looked for in the cache and in torch hub's folder, or are downloaded into the cache.
`cifar` gives fd_cifar, cs_cifar, kd_cifar, precision, recall, density and coverage.
"""
AUDIT = """Find out whether the scores can be trusted, with one run and real held-out images.

--data names the images that the run was trained on, --test images of the same kind and side that
it was not. The generator of one epoch and the held-out images go through the network that scores
every epoch, and five questions are asked:

  batchnorm  How much depends on where G's BatchNorm gets its statistics (running averages, the
             batch's own, averages over new noise) and on how floats become pixels (rounded,
             truncated, stretched)?
  sizes      How do the metrics depend on the number of images N, and what is their limit? Fifteen
             sizes from N / 10 to N, each on images of its own; intercept and standard error of a
             line against 1 / N (Chong and Forsyth, arXiv 1911.07023).
  parity     Do torchmetrics and torch-fidelity find the same on the same images and network?
  degraded   Do the metrics rise when real images get worse: noise, blur, missing classes, repeated
             samples? Each is answered with yes or no; clean held-out images are the floor.
  constants  With Inception's weights (--weights, INCEPTION_WEIGHTS, the cache, torch hub's folder;
             nothing is downloaded): does it find on CIFAR-10 what is published? If not, nothing
             is called FID. --constants quick sees 4,000 real images, full all 60,000; one takes
             0.2 s on a CPU core.

Prints the tables and writes them to audit.json beside the study's study.json, where the report
looks for them. Equal arguments give equal bytes. On one CPU core, without Inception, the default
takes about five minutes; the time goes with --n and with the number of held-out images, of which
the first 2 N are used.

Exit code 1 where the constants fail.
"""
TRAIN = """Train the bundled CIFAR-10 classifier anew; on two CPU cores this takes an hour.

Writes cifar10-resnet.safetensors and its card cifar10-resnet.json. Other weights are another
network: scores measured with them cannot stand beside the old ones.
"""


class BadInput(Exception):
    """Something the user gave cannot be used, said in one line."""


def main(words: list[str] | None = None) -> int:
    """Run one command; 0 done, 130 interrupted; exits with 2 on bad input."""
    arguments = _parser().parse_args(words)
    try:
        return arguments.command(arguments)
    except BadInput as error:
        _refuse(str(error))
    except KeyboardInterrupt:
        return 130


def score(arguments: argparse.Namespace) -> int:
    """Score kept generators with new images, and print the numbers with their identities."""
    if arguments.n < 10:
        raise BadInput(f"--n {arguments.n}: every metric needs 10 images at least")
    study = _study(arguments.where)
    native = _native(study)
    cache = arguments.cache or study.parent / "cache"
    kept = [(run, *_kept(run, arguments.epoch)) for run in _runs(arguments.where)]
    if arguments.extractor == "inception":
        try:
            find_inception(arguments.weights, cache)
        except NoWeights as error:
            raise BadInput(error) from error

    # Only now what takes time: PyTorch and the network.
    from dcgan.models import load_generator
    from dcgan.train import draw_latent
    from eval.score import Reference, generate, identities, names, reference
    from eval.score import score as score_images

    device = _device(arguments.device)
    extractor = _extractor(arguments.extractor, arguments.weights, device, cache)
    rows: list[dict[str, Any]] = []
    references: dict[tuple[str, int], Reference] = {}
    for number, (run, epoch, path) in enumerate(kept, 1):
        try:
            G, config = load_generator(str(path))
        except ValueError as error:
            raise BadInput(error) from error

        # The real images at their own side, or at the generator's if that is smaller.
        key = config.data_sha256, min(native, config.resolution)
        if key not in references:
            pixels = _real_pixels(arguments.data, cache, *key)
            references[key] = reference(extractor, pixels, config.data_sha256, cache)

        # The noise is a bank of its own, by which no epoch was chosen.
        z = draw_latent(config, "rescore", epoch, arguments.n).to(device)
        try:
            scores = score_images(generate(G.to(device), z), [references[key]])
        except FloatingPointError:
            scores = dict.fromkeys(names(extractor))
        known_as = identities(references[key], arguments.n, config.resolution)
        rows.append({"run": str(run), "epoch": epoch, "scores": scores, "identities": known_as})
        print(f"scored {number} of {len(kept)}: {run}, epoch {epoch}", file=sys.stderr)

    print(json.dumps(rows, indent=1, allow_nan=False) if arguments.json else _table(rows))
    return 0


def audit(arguments: argparse.Namespace) -> int:
    """Audit the scorer on one run, print the tables, write audit.json."""
    if arguments.n < 100:
        raise BadInput(f"--n {arguments.n}: an audit needs 100 images at least")
    study = _study(arguments.where)
    native = _native(study)
    cache = arguments.cache or study.parent / "cache"
    if len(runs := _runs(arguments.where)) > 1:
        raise BadInput(f"{arguments.where}: holds {len(runs)} runs; name one of them")
    epoch, path = _kept(runs[0], arguments.epoch)
    has_inception = _has_inception(arguments.weights, cache)

    # Only now what takes time: PyTorch, the images, the network.
    import torch

    from dcgan.data import BadData, load, resize
    from dcgan.models import load_generator
    from dcgan.sources import write_file
    from dcgan.train import draw_latent
    from eval import audit as work
    from eval.score import reference

    torch.set_num_threads(arguments.threads)
    device = _device(arguments.device)
    try:
        G, config = load_generator(str(path))
        train, test = load(arguments.data, cache), load(arguments.test, cache)
    except (BadData, ValueError) as error:
        raise BadInput(error) from error
    _check_same(arguments.data, train, config.data_sha256)
    if test.pixels.shape[1] != native:
        raise BadInput(
            f"--test {arguments.test}: {test.pixels.shape[1]} pixels a side, not {native}"
        )
    if test.sha256 == train.sha256:
        raise BadInput(f"--test {arguments.test}: these are the images of --data, none is held out")
    if len(test.pixels) < 100:
        raise BadInput(f"--test {arguments.test}: {len(test.pixels)} images, 100 are needed")

    # What the run was scored with, and as it was in training.
    side = min(native, config.resolution)
    pixels = resize(train, side).pixels
    extractor = _extractor("cifar", None, device, cache)
    real = reference(extractor, pixels[: config.reference_images], config.data_sha256, cache)
    G = G.to(device, memory_format=torch.channels_last)
    held_out = work.first(resize(test, side), 2 * arguments.n)

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
    print(work.to_text(result))
    print(f"wrote {study / 'audit.json'}", file=sys.stderr)
    return 1 if result["fid"] is False else 0


def train_extractor(arguments: argparse.Namespace) -> int:
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
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m eval", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.error = _refuse
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    add = _command(commands, "score", score, SCORE)
    add("where", metavar="RUN_OR_STUDY", type=Path, help="folder of a run, or of a whole study")
    add("--extractor", choices=["cifar", "inception"], default="cifar", help="default: cifar")
    add("--n", type=int, default=50_000, help="images from each generator; default: 50000")
    add("--epoch", type=_epoch, default="last", help="`last` that kept its generator, or a number")
    add("--data", metavar="SOURCE", help="the data set, where the cache has lost it")
    add("--weights", type=Path, help="Inception's file, or a folder that train-extractor wrote")
    add("--device", help="cpu, cuda or cuda:N; default: the first GPU, if there is one")
    add("--cache", type=Path, help="default: the folder `cache` beside the study")
    add("--json", action="store_true", help="print JSON, with all digits")

    add = _command(commands, "audit", audit, AUDIT)
    add("where", metavar="RUN", type=Path, help="folder of a run that kept its generator")
    add("--data", metavar="TRAIN", required=True, help="the images that it was trained on")
    add("--test", metavar="TEST", required=True, help="images of that kind that it was not")
    add("--n", type=int, default=5_000, help="generated images a line; default: 5000")
    add("--epoch", type=_epoch, default="last", help="`last` that kept its generator, or a number")
    add("--weights", type=Path, help="Inception's file")
    add("--constants", choices=["quick", "full"], default="quick", help="default: quick")
    add("--threads", type=_positive, default=1, help="results depend on their number; default: 1")
    add("--device", help="cpu, cuda or cuda:N; default: the first GPU, if there is one")
    add("--cache", type=Path, help="default: the folder `cache` beside the study")

    add = _command(commands, "train-extractor", train_extractor, TRAIN)
    add("--train", metavar="ZIP", required=True, help="the 50,000 training images")
    add("--test", metavar="ZIP", required=True, help="the 10,000 test images")
    add("--seed", type=int, default=0, help="of the weights and the augmentation; default: 0")
    add("--threads", type=int, help="results depend on their number; default: PyTorch's choice")
    add("--out", type=Path, default=Path("eval/weights"), help="default: eval/weights")
    add("--cache", type=Path, default=Path("runs/cache"), help="default: runs/cache")
    return parser


def _command(commands: Any, name: str, command: Any, text: str) -> Any:
    """Add a subcommand; returns the function that adds an argument to it."""
    parser = commands.add_parser(
        name,
        help=text.splitlines()[0],
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.error = _refuse
    parser.set_defaults(command=command)
    return parser.add_argument


def _positive(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a positive number")
    return int(word)


def _epoch(word: str) -> str | int:
    if word != "last" and not word.isdecimal():
        raise argparse.ArgumentTypeError(f"{word!r} is neither `last` nor a number")
    return word if word == "last" else int(word)


def _refuse(message: str) -> NoReturn:
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
    print(f"eval: {shown}", file=sys.stderr)
    sys.exit(2)


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


def _device(wanted: str | None) -> str:
    import torch

    gpus = torch.cuda.device_count()
    if wanted is None:
        return "cuda" if gpus else "cpu"
    there = ["cpu", *(["cuda"] if gpus else []), *(f"cuda:{i}" for i in range(gpus))]
    if wanted not in there:
        raise BadInput(f"--device {wanted}: there is only {', '.join(there)}")
    return wanted


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


def _real_pixels(source: str | None, cache: Path, sha256: str, resolution: int) -> Any:
    """The images that a run was trained on, (N, H, W, 3) uint8."""
    from dcgan.data import BadData, load, load_cached, resize

    try:
        if source is None:
            images = load_cached(cache, sha256, resolution)
        else:
            images = resize(load(source, cache), resolution)
    except BadData as error:
        raise BadInput(error if source else f"{error}, with --data SOURCE") from error
    _check_same(source, images, sha256)
    return images.pixels


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
