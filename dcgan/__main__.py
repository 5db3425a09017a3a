"""Draw images with a trained generator; make a data set from your own pictures.

    python -m dcgan sample batch=128 -n 64 --grid samples.png
    python -m dcgan sample runs/ablation-small/ARM/seed=0 --out images
    python -m dcgan prepare photos -o photos.zip --side 32

Each command has its own --help.
"""

import math
import sys
from pathlib import Path

import click
import numpy as np

from dcgan import cli, rundir
from dcgan.cli import PATH, POSITIVE, BadInput, Result
from dcgan.pictures import encode, png_grid
from dcgan.sources import new_file

SHOWN = 20  # files left out that are named

dcgan_group = cli.Group("dcgan", __doc__)


def main(arguments: list[str] | None = None) -> int:
    return cli.run(dcgan_group, arguments)


def unused(_: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """A place for a new file, or for a new folder, for which an empty one will do."""
    name = option.opts[0]
    empty = name == "--out" and path and path.is_dir() and not any(path.iterdir())
    if path and path.exists() and not empty:
        raise BadInput(f"{name} {path}: is there already")
    return path


NEW = {"type": PATH, "callback": unused}  # of an option that names what is to be written


@dcgan_group.command()
@click.argument("generator", type=PATH)
@click.option("-n", metavar="N", type=POSITIVE, default=1_000, help="how many images")
@click.option("--seed", metavar="N", type=click.IntRange(min=0), default=0, help="of the noise")
@click.option("--device", metavar="NAME", default="cpu", help="cpu, cuda or cuda:N")
@click.option(
    "--out",
    metavar="DIR",
    help="write 0000.png, 0001.png, ... to a new or empty folder; or else --grid",
    **NEW,
)
@click.option("--grid", metavar="FILE.png", help="write all to one PNG, nearly square", **NEW)
def sample(
    generator: Path, n: int, seed: int, device: str, out: Path | None, grid: Path | None
) -> Result:
    """Draw images with a trained generator.

    GENERATOR is a generator.safetensors, the folder of a run, whose last kept generator is used, or
    any part of a published generator's name that no other has. If there is a SHA256SUMS next to the
    file, it has to match. G runs in eval mode, and its values are rounded to the nearest of 256
    levels. The same command gives the same bytes on one machine. No existing file is overwritten.

        python -m dcgan sample batch=128 -n 64 --grid samples.png
    """
    if (out is None) == (grid is None):
        raise BadInput("one of the options --out and --grid is required")
    images = draw(find(generator), n, seed, device)
    if grid:
        with new_file(grid) as file:
            file.write(png_grid(images, columns=math.ceil(math.sqrt(n))))
    else:
        out.mkdir(parents=True, exist_ok=True)
        digits = max(4, len(str(n - 1)))
        for number, image in enumerate(images):
            (out / f"{number:0{digits}d}.png").write_bytes(encode(image))
    side, place = images.shape[1], grid or out
    print(f"wrote {n} images of {side}x{side} to {place}")
    return 0, {"images": n, "side": side, "path": place}


@dcgan_group.command()
@click.argument("pictures", type=PATH)
@click.option("-o", "out", metavar="FILE.zip", required=True, help="zip to write", **NEW)
@click.option("--side", type=click.Choice([16, 32, 64]), default=32, help="pixels per side")
@click.option("--enlarge", is_flag=True, help="also take pictures smaller than --side")
@click.option("--skip", is_flag=True, help="leave out pictures that cannot be used")
def prepare(pictures: Path, out: Path, side: int, enlarge: bool, skip: bool) -> Result:
    """Make a zip for DATA= from pictures of any size.

    PICTURES is a folder, whose subfolders are classes, or a zip of one. Each picture is turned
    upright, laid on white, cropped to the square in its middle and scaled down; the rules are at
    the top of dcgan/prepare.py. If one cannot be read, an error names it and nothing is written.
    Equal pictures give equal bytes.

        python -m dcgan prepare photos -o photos.zip --side 32
    """
    from dcgan.prepare import prepare

    listing, labels, skipped = prepare(pictures, out, side, enlarge, skip)
    count, classes = len(labels), len({*labels} - {-1})
    source = f", from {listing.labels_from}" if listing.labels_from else ""
    print(f"wrote {count} pictures of {side}x{side} to {out}: {classes or 'no'} classes{source}")
    if left_out := [*listing.left_out, *skipped]:
        print(f"left out {len(left_out)}:", *map(cli.shown, left_out[:SHOWN]), sep="\n  ")
        print(f"  and {len(left_out) - SHOWN} more\n" * (len(left_out) > SHOWN), end="")
    names = {"left_out": listing.left_out, "skipped": skipped}
    return 0, {"pictures": count, "classes": classes, "side": side, "path": out, **names}


def find(generator: Path) -> Path:
    """The file of a generator; BadInput where it is not the one that was committed or published."""
    kept = rundir.kept(generator, rundir.GENERATOR)
    if generator.is_dir() and not kept:
        raise BadInput(f"{generator}: no epoch here kept its generator")
    path = rundir.epoch_folder(generator, kept[-1]) / rundir.GENERATOR if kept else generator
    if not path.is_file():
        path = published(str(generator))
    if path.with_name(rundir.SUMS).is_file():
        rundir.read(path.parent, path.name)
    return path


def published(name: str) -> Path:
    """The one published generator that has this in its name; BadInput lists what there is."""
    paths = sorted(rundir.PUBLISHED.glob("*/generators/*.safetensors"))
    known = {f"{path.parts[-3]}/{path.stem}": path for path in paths}
    matching = [full for full in known if name in full]
    if len(matching) == 1:
        return known[matching[0]]
    which = "several published generators have" if matching else "no published generator has"
    listed = "; ".join(matching or known) or "there are none"
    raise BadInput(f"{name}: no such file or folder, and {which} this in the name: {listed}")


def draw(path: Path, count: int, seed: int, device: str = "cpu") -> np.ndarray:
    """Images of a generator's file, of noise of no run: uint8 (count, H, W, 3), or BadInput."""
    from torch.cuda import device_count

    from dcgan.models import load_generator
    from dcgan.train import draw_latent, generate

    device = cli.choose_device(device, device_count())
    G, config = load_generator(str(path))
    z = draw_latent(config.model_copy(update={"seed": seed}), "sample", 0, count)
    try:
        return generate(G.to(device), z).permute(0, 2, 3, 1).numpy()
    except FloatingPointError as error:
        raise BadInput(f"{path}: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
