"""Bad input: hostile files, odd zips and images, poor data, and secrets in reach.

PyTorch is imported by the trials that need it, and by no refusal that can do without it.
"""

import hashlib
import io
import json
import pickle
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
from conftest import ROOT, capture, clean_environ, contents, encode, write_files, write_zip
from PIL import Image

from dcgan import rundir, sources
from dcgan.cli import BadInput
from dcgan.config import Config
from faults import Row

CANARY = "sprung"  # the file that a hostile one would leave


@contextmanager
def refused(*kinds: type[Exception], names: str) -> Iterator[None]:
    """The block raises one of these exceptions, with one line that holds `names`."""
    try:
        yield
    except kinds as error:
        check_line(error, names)
    else:
        raise AssertionError(f"{names or 'it'} was not refused")


def check_line(error: Exception, names: str) -> None:
    line = str(error)
    assert line, "refused without a word"
    assert "\n" not in line, line
    assert names in line, f"{names!r} is not named: {line}"


def some_pixels(rng: Random, side: int = 16) -> np.ndarray:
    """A picture with flat parts and noise, (side, side, 3) uint8."""
    noise = np.random.default_rng(rng.randrange(1 << 32)).integers(0, 256, (side, side, 3))
    noise[: side // 2] = noise[0, 0]
    return noise.astype(np.uint8)


def mutated(rng: Random, data: bytes) -> bytes:
    """A few places flipped, cut out, filled, repeated or followed by nothing."""
    content = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        place, length = rng.randrange(len(content)), rng.choice([1, 2, 4, 40])
        part = content[place : place + length]
        flipped = bytes([part[0] ^ 1 << rng.randrange(8)]) + part[1:]
        changes = [flipped, flipped, b"", rng.randbytes(length), bytes(len(part)), part + part]
        content[place : place + length] = rng.choice(changes)
        if rng.random() < 0.15:
            del content[place:]
        if not content:
            break
    return bytes(content)


@dataclass(frozen=True)
class Trap:
    """Unpickled, it leaves a file."""

    mark: Path

    def __reduce__(self) -> tuple[Callable, tuple]:
        return Path.touch, (self.mark,)


def hostile_files(rng: Random, folder: Path) -> int:
    """malicious checkpoint, weights, config: refused by name through every door; nothing executed,
    no file left.
    """
    import torch
    from safetensors import SafetensorError

    from dcgan.data import load, load_cached
    from dcgan.models import load_generator
    from dcgan.train import load_state
    from eval.classifier import NAME
    from eval.extractors import classifier, inception
    from eval.fetch import NoWeights

    # The trap works: opened by a careless reader it springs.
    mark = folder / CANARY
    trap = Trap(mark)
    pickle.loads(pickle.dumps(trap))
    assert mark.exists()
    mark.unlink()
    shape = rng.choice(["pickle", "torch", "old torch", "numpy"])
    data = io.BytesIO()
    if shape == "pickle":
        pickle.dump(trap, data, rng.randrange(6))
    elif shape == "numpy":
        np.save(data, np.array([trap], dtype=object), allow_pickle=True)
    else:
        torch.save({"G.w": trap}, data, _use_new_zipfile_serialization=shape == "torch")
    bait = data.getvalue()

    # It lies wherever the project looks for something else, with the right sums beside it.
    places, sha256 = folder / "places", hashlib.sha256(bait).hexdigest()
    epoch = rundir.epoch_folder(places, 1)
    rundir.place(epoch, dict.fromkeys([rundir.RECORD, rundir.STATE, rundir.GENERATOR], bait))
    names = ["run.json", f"{NAME}.safetensors", "w.pth", "set.zip", f"{sha256}-16.npy"]
    names += ["images/a/a.png", *(f"images/data_batch_{number}" for number in range(1, 6))]
    about = {"name": "x", "kind": "zip", "sha256": sha256, "array": "", "labels": []}
    cards = {f"{NAME}.json": {"sha256": sha256}, f"{sha256}-16.json": about}
    cards = {name: json.dumps(card).encode() for name, card in cards.items()}
    write_files(places, dict.fromkeys(names, bait) | cards)
    before = contents(folder)

    doors: list[tuple[Callable[[], object], tuple[type[Exception], ...], str]] = [
        (lambda: load_generator(str(epoch / rundir.GENERATOR)), (BadInput,), rundir.GENERATOR),
        (lambda: load_state(bait, TINY), (ValueError, SafetensorError), ""),
        (lambda: rundir.read_json(places, 1, rundir.RECORD), (ValueError,), ""),
        (lambda: rundir.unseal(places / "run.json"), (rundir.Damaged,), "run.json"),
        (lambda: classifier(folder=places), (NoWeights,), f"{NAME}.safetensors"),
        (lambda: inception(places / "w.pth", "cpu", places), (NoWeights,), "not 6726825d0af5"),
        (lambda: load_cached(places, sha256, 16), (BadInput,), f"{sha256}-16.npy"),
        (lambda: load(str(places / "images" / "a"), places), (BadInput,), "'a.png' in "),
        (lambda: load(str(places / "set.zip"), places), (BadInput,), "set.zip"),
        (lambda: sources.read_cifar10(places / "images"), (BadInput,), "images: not torchvision's"),
    ]
    for enter, kinds, name in doors:
        with refused(*kinds, names=name):
            enter()
    assert contents(folder) == before, "a file was left"
    return len(doors)


def hostile_zips(rng: Random, folder: Path) -> int:
    """zip with traversal, links, nested zips, encryption: left out or refused by the entry's name;
    nothing is unpacked.
    """
    from dcgan.data import load

    (folder / "a/b").mkdir(parents=True)
    path, good = folder / "a/b/set.zip", encode(some_pixels(rng))
    up, link = "../" * rng.randrange(1, 4), zipfile.ZipInfo("link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    outside = [f"{up}{CANARY}.png", f"x/{up}{CANARY}.png", f"..\\..\\{CANARY}.png"]
    outside += [f"{folder}/{CANARY}.png"]
    for name in outside:
        write_zip(path, {"a.png": good, name: good})
        before = contents(folder)
        assert load(str(path), folder / "cache").left_out == (name.replace("\\", "/"),)
        assert contents(folder) == before, name

    # A flag of the table of contents says that a file is encrypted.
    nested = write_zip(path, {"a.png": good}).read_bytes()
    encrypted = bytearray(nested)
    encrypted[encrypted.rfind(b"PK\x01\x02") + 8] |= 1
    linked = {"a.png": good, link: str(folder / CANARY).encode()}
    cases = {
        "'a.png' in ": encrypted,
        "'link.png' in ": write_zip(path, linked).read_bytes(),
        "not a PNG": write_zip(path, {"a.png": good, "nested.png": nested}).read_bytes(),
    }
    for reason, content in cases.items():
        path.write_bytes(content)
        before = contents(folder)
        with refused(BadInput, names=reason):
            load(str(path), folder / "cache")
        assert contents(folder) == before, reason
    return len(outside) + len(cases)


FORMS: list[tuple[str, str, str, dict[str, object]]] = [
    *(("png", "PNG", mode, {}) for mode in ("RGB", "L", "P", "RGBA")),
    *(("bmp", "BMP", mode, {}) for mode in ("RGB", "P")),
    ("webp", "WEBP", "RGB", {"lossless": True}),
    ("webp", "WEBP", "RGB", {"quality": 80}),
    ("jpg", "JPEG", "RGB", {"quality": 90}),
    ("jpeg", "JPEG", "L", {"progressive": True}),
]


def damaged_images(rng: Random, folder: Path) -> int:
    """damaged images (PNG, BMP, WebP, JPEG) and zips of them: refused by name, or read: never cut
    off, and never with other pixels under the same SHA-256 of the set.
    """
    from dcgan.data import load

    ending, form, mode, options = rng.choice(FORMS)
    source, count, zipped = folder / "set", 25, rng.random() < 0.3
    files = {"a.png": encode(some_pixels(rng))}
    picture = Image.fromarray(some_pixels(rng)).convert(mode)
    files[f"b.{ending}"] = encode(picture, form, **options)
    path = write_files(source, files) / f"b.{ending}"
    if zipped:
        path = source = write_zip(folder / "set.zip", files)
    whole, images = path.read_bytes(), load(str(source), folder)
    for _ in range(count):
        path.write_bytes(damaged := mutated(rng, whole))
        try:
            result = load(str(source), folder)
        except BadInput as error:
            check_line(error, path.name)
            continue
        same = np.array_equal(result.pixels, images.pixels)
        assert same == (result.sha256 == images.sha256), "other pixels under one SHA-256"
        assert same or zipped or not whole.startswith(damaged), "an image that was cut off"
        if zipped:  # which has a checksum of each file
            known = {image.tobytes() for image in images.pixels}
            assert {image.tobytes() for image in result.pixels} <= known, "other pixels in silence"
    return count


@dataclass(frozen=True)
class Refusal:
    """A command that is refused, what it has to say, and whether PyTorch is needed to see it."""

    words: list[str]
    said: str
    environ: dict[str, str] = field(default_factory=dict)
    torch: bool = False


def refusals(folder: Path) -> list[Refusal]:
    """Commands that cannot be done, on sources that are made in a folder."""
    rng = Random(0)
    image = encode(some_pixels(rng))
    names = [f"{number:03d}.png" for number in range(600)]
    files = {f"few/{name}": image for name in names[:20]} | {"one/000.png": image}
    files |= {f"{source}/{name}": image for source in ("mixed", "damaged") for name in names}
    files |= {"mixed/009.png": encode(some_pixels(rng, 32)), "damaged/009.png": image[:200]}
    write_files(folder, files | {"text.zip": b"no zip", "file": b""})
    (folder / "empty").mkdir()
    write_zip(folder / "none.zip", {"README": b"no images"})
    write_zip(folder / "few.zip", dict.fromkeys(names[:20], image))
    run = folder / "study/norm=none,head=conv,batch=128/seed=0"
    rundir.commit(run, 1, {rundir.GENERATOR: b"no generator"})
    rundir.replace(run / "run.json", rundir.seal({"config": TINY.model_dump()}))
    rundir.replace(folder / "study/study.json", rundir.seal({"data": {"resolution": 16}}))

    def setting(said: str, *words: str, **options: object) -> Refusal:
        start = ["experiments", "ablation", "--scale", "smoke", "--data", "shapes"]
        return Refusal([*start, "--out", str(folder / "out"), *words], said, **options)

    def train(said: str, source: str, **options: object) -> Refusal:
        return setting(said, "--data", str(folder / source), **options)

    def score(said: str, *words: str, **options: object) -> Refusal:
        return Refusal(["eval", "score", str(folder / "study"), *words], said, **options)

    absent = {"INCEPTION_WEIGHTS": str(folder / "absent.pth")}
    inception = ("--extractor", "inception")
    return [
        train("absent: no such file or folder", "absent"),
        train(r"two\nlines: no such file", "two\nlines"),
        train("empty: neither a folder of images", "empty"),
        train("text.zip: not a whole zip", "text.zip", torch=True),
        train("none.zip: no images in it", "none.zip", torch=True),
        train("file: neither a folder of images", "file"),
        train("one has 1 images: images=1", "one", torch=True),
        train("few has 20 images: batch=128 is larger", "few", torch=True),
        train("few has 20 images: batch=128", "few.zip", torch=True),
        train("'009.png' in ", "mixed", torch=True),
        train("'009.png' in ", "damaged", torch=True),
        setting("batch=512 is larger than images=300", "images=300"),
        setting("leaves a last batch of one", "images=513"),
        setting("INCEPTION_WEIGHTS=", "inception=milestone", environ=absent),
        setting("'hed=conv'", "hed=conv"),
        setting("epochs is given twice", "epochs=3", "--epochs", "4"),
        setting("epochs=0", "--epochs", "0"),
        setting("99999999999 is not in the range", "--seeds", "99999999999"),
        setting("--device tpu", "--device", "tpu", torch=True),
        setting("W&B's settings: mode='of-line'", environ={"WANDB_MODE": "of-line"}, torch=True),
        setting("need --engine ray", "--gpus-per-run", "0.5", torch=True),
        setting("file is not a folder", "--out", str(folder / "file/x")),
        score("INCEPTION_WEIGHTS=", *inception, environ=absent, torch=True),
        score("w: No such file", *inception, "--weights", str(folder / "w"), torch=True),
        score("epoch 2 kept no generator, only 1 did", "--epoch", "2", torch=True),
        score("not a generator of this study", "--device", "cpu", torch=True),
        score("9 is not in the range x>=10", "--n", "9"),
        Refusal(["eval", "score", str(folder / "few")], "few: no run that kept its", torch=True),
    ]


DRIVER = """
import contextlib, io, json, os, runpy, sys
for words, environ in json.load(sys.stdin):
    os.environ.update(environ)
    sys.argv[1:], out, err, code = words[1:], io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code
    for name in environ:
        del os.environ[name]
    print(json.dumps([code, out.getvalue(), err.getvalue(), "torch" in sys.modules]))
"""


def poor_inputs(rng: Random, folder: Path) -> int:
    """empty, small, absent data; batch > N; no weights: one line, exit code 2, nothing made;
    without PyTorch where it is not needed.
    """
    cases = sorted(refusals(folder), key=lambda case: case.torch)
    before = contents(folder)
    given = json.dumps([[case.words, case.environ] for case in cases])
    command = [sys.executable, "-c", DRIVER]
    done = capture(command, cwd=ROOT, env=clean_environ(), input=given)
    assert done.returncode == 0, done.stderr
    for case, line in zip(cases, done.stdout.splitlines(), strict=True):
        code, out, err, torch = json.loads(line)
        assert (code, out, len(err.splitlines())) == (2, "", 1), (case, code, out, err)
        assert case.said in err, (case, err)
        assert torch == case.torch, f"{case}: PyTorch was needed, or was not"
    assert contents(folder) == before
    return len(cases)


def secrets(rng: Random, folder: Path) -> int:
    """secrets in the environment, argv, git remote; home paths: in no file of a study, W&B's
    included, and not printed.
    """

    def secret(length: int = 20) -> str:
        canaries.append(f"{rng.randrange(16**length):0{length}x}")
        return canaries[-1]

    # They are in names of folders, a remote, a netrc and the environment.
    canaries: list[str] = []
    home, checkout = folder / f"home-{secret()}", folder / f"checkout-{secret()}"
    data = home / f"private-{secret()}" / "faces"
    write_files(data, {f"{number}.png": encode(some_pixels(rng)) for number in range(300)})
    for name in ("dcgan", "eval", "experiments", "reports"):
        ignored = shutil.ignore_patterns("published", "__pycache__")
        shutil.copytree(ROOT / name, checkout / name, ignore=ignored)
    remote = f"https://user:{secret()}@host.invalid/x.git"
    for words in ("init -q", f"remote add origin {remote}", "add -A", "commit -qm all"):
        identity = ["-c", "user.name=x", "-c", "user.email=x@host.invalid"]
        subprocess.run(["git", *identity, *words.split()], cwd=checkout, check=True)
    (home / ".netrc").write_text(f"machine api.wandb.ai\n login user\n password {secret(40)}\n")
    names = ("WANDB_API_KEY", "GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "DATABASE_URL")
    environ = {name: secret(40) for name in names}
    place = {"HOME": str(home), "PYTHONPATH": str(checkout), "WANDB_MODE": "offline"}

    out = home / "out"
    typed = rng.choice(["out", str(out)])
    words = ["norm=none", "head=conv", "batch=128", "epochs=1", "score_images=20"]
    words += ["--scale", "smoke", "--data", str(data), "--out", typed]
    command = [sys.executable, "-m", "experiments", "ablation", *words]
    done = capture(command, cwd=home, env=clean_environ() | environ | place)
    assert done.returncode == 0, done.stderr

    # A path that was typed may be seen on the terminal. Nothing else is anywhere.
    printed = (done.stdout + done.stderr).replace(typed, "")
    files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    kinds = {path.suffix for path in files} | {path.name for path in files}
    assert {".wandb", ".html", ".parquet", "study.json", "run.json"} <= kinds
    for canary in canaries:
        assert canary not in printed, f"{canary} was printed"
        result = [str(p.relative_to(out)) for p, data in files.items() if canary.encode() in data]
        assert not result, f"{canary} is in {result}"
    return len(canaries)


TINY = Config(resolution=16, width=1)
ROWS = [
    Row(hostile_files, fast=10, long=500),
    Row(hostile_zips, fast=7, long=500),
    Row(damaged_images, fast=250, long=5_000),
    Row(poor_inputs, fast=1, long=1),
    Row(secrets, fast=1, long=18),
]
