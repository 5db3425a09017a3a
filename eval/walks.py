"""Walks and arithmetic in the latent space of one generator (Radford et al., 2015, Section 6).

Walks go from one z to another: spherical for normal z (on the great circle, where z stays as long
as it was drawn), straight for uniform z (a cube holds the line between any two of its points). The
control is a blend in pixels between the same two end images. A step is the Euclidean distance of
the classifier's features from one image to the next, relative to the distance of the two ends.
Small circles around a z are measured likewise, relative to the distance of opposite images.

Arithmetic: bright A - dark A + dark B = bright B, for two classes A and B. An image is of a class
where the classifier gives that class a probability of CONFIDENT or more; it is bright in the
brightest third of all images, by the mean over its pixels and channels, and dark in the darkest. A
hit is an image that is bright and of class B by these same rules. The operands are the means of
three exemplars' z, or the first z of each three. Three single z add up to one that is longer than
those that G was trained on, by the square root of 3, while three means do not: so the single ones
are tried once more with their sum made shorter by this factor. Two controls: a placebo, the means
of three other dark A in place of the bright ones, so that the sum is as long and has nothing to
say; and chance, the share of hits among unedited z of class B, bright or not, one for each trial.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dcgan.cli import BadInput
from dcgan.config import Config
from dcgan.data import to_signed, to_uint8
from dcgan.models import seed_of
from dcgan.rundir import GENERATOR
from dcgan.train import draw_latent
from eval.extractors import Extractor
from eval.finished import FinishedRun
from eval.results import Result, picture
from eval.score import generate

AROUND = 16  # steps of a circle
RADIUS = 0.1  # of a circle, relative to the root mean square length of z
CANDIDATES = 3_000  # images among which exemplars are looked for
CONFIDENT = 0.5  # probability
EXEMPLARS = 3
FEWEST = 10  # bright and dark images that a class needs
TRIALS = 500
ROWS = 4  # of each kind in the figure
TITLES = {
    "walk_mean_step": "walk, mean step",
    "walk_largest_step": "walk, largest",
    "walk_unevenness": "walk, largest/mean",
    "walk_refined": "at half steps",
    "blend_mean_step": "blend, mean step",
    "blend_largest_step": "blend, largest",
    "blend_unevenness": "blend, largest/mean",
    "share_below_blend": "walk below blend",
    "circle_mean_step": "circle, mean step",
    "circle_largest_step": "circle, largest",
    "circle_unevenness": "circle, largest/mean",
    "hits_three": "hits, three",
    "hits_one": "hits, one",
    "hits_one_shortened": "hits, one shortened",
    "hits_placebo": "hits, placebo",
    "hits_chance": "hits, chance",
}
NOTES = [
    "Steps are distances of the classifier's features from one image to the next, relative to the "
    "distance of a walk's ends or, in circles around a z, of opposite images. Equal steps are "
    f"1 / steps of a straight line and {math.sin(math.pi / AROUND):.3f} of a circle.",
    "at half steps: the largest step of a walk of twice as many steps, relative to that of the "
    "walk; 0.5 where the images change smoothly, 1 where they jump.",
    "blend: between the same end images in pixels. walk below blend: the share of pairs in which "
    "the walk's largest step is the smaller one.",
    "hits: the share of trials of bright A - dark A + dark B that give a bright image of class B, "
    "with means of three exemplars, with one, and with one made as short as the means; placebo: "
    "of dark A - dark A + dark B, means of three; chance: of unedited z of class B.",
]


def analyse(run: FinishedRun, extractor: Extractor, pairs: int, steps: int) -> Result:
    """What is measured of a run's generator."""
    if run.config.latent_size == 1:
        raise BadInput(f"{run.folder}: latent_size=1: there is no way around a z")
    result = walks(run.generator(), run.config, run.epoch, extractor, pairs, steps)
    result.about["generator_sha256"] = run.sha256(GENERATOR)
    return result


def walks(
    G: nn.Module, config: Config, epoch: int, extractor: Extractor, pairs: int, steps: int
) -> Result:
    """All that is measured of a generator; the figure has walks above their blends, and arithmetic.

    No values and no figure where its images are not finite. z needs two dimensions at least.
    """
    about = {
        "pairs": pairs,
        "steps": steps,
        "path": "spherical" if config.latent == "normal" else "straight",
        "network": extractor.name,
        "network_sha256": extractor.sha256,
    }
    values = dict.fromkeys(TITLES)
    try:
        smooth, counts, rows = smoothness(G, config, epoch, extractor, pairs, steps)
        hits, trials, more = arithmetic(G, config, epoch, extractor)
    except FloatingPointError as error:
        return Result("walks", epoch, values, TITLES, about, [f"Not measured: {error}."])
    notes = list(NOTES)
    if not hits:
        notes.append(
            f"No arithmetic in epoch {epoch} of seed {config.seed}: of {CANDIDATES} images the "
            f"classifier is sure of {trials['named']}, and {trials['classes']} classes have "
            f"{FEWEST} bright and {FEWEST} dark ones; two are needed."
        )
    values, about = values | smooth | hits, about | counts | trials
    figure = picture([row.permute(0, 2, 3, 1).numpy() for row in (*rows, *more)])
    return Result("walks", epoch, values, TITLES, about, notes, figure)


# --- Walks ----------------------------------------------------------------------------------------


def walk(start: Tensor, end: Tensor, steps: int, latent: str) -> Tensor:
    """From z to z (N, latent_size) in equal steps, ends included: (N, steps + 1, latent_size).

    Spherical for `normal` (Shoemake, 1985), straight for `uniform`.
    """
    t = torch.linspace(0, 1, steps + 1, device=start.device)[:, None]
    start, end = start[:, None], end[:, None]
    if latent == "uniform":
        return start.lerp(end, t)
    cosine = torch.cosine_similarity(start, end, dim=2)[..., None].clamp(-1, 1)
    angle = cosine.arccos().clamp(min=1e-3)  # below which the sphere is flat
    return (((1 - t) * angle).sin() * start + (t * angle).sin() * end) / angle.sin()


def circle(centre: Tensor, directions: Tensor, radius: float, steps: int) -> Tensor:
    """Around z (N, latent_size) and back, in a random plane: (N, steps + 1, latent_size).

    `directions` (N, 2, latent_size) span the plane.
    """
    plane = torch.linalg.qr(directions.mT).Q.mT
    t = torch.linspace(0, 2 * math.pi, steps + 1, device=centre.device)
    waves = radius * torch.stack([t.cos(), t.sin()], dim=1)
    return centre[:, None] + waves @ plane


def blend(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """From image to image, uint8 (N, 3, H, W), pixel by pixel: (N, steps + 1, 3, H, W)."""
    t = torch.linspace(0, 1, steps + 1)[:, None, None, None]
    return to_uint8(to_signed(start)[:, None].lerp(to_signed(end)[:, None], t))


def measure(features: Tensor, span: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and largest step of walks (N, steps + 1, D), relative to a span (N,) each."""
    sizes = features.diff(dim=1).norm(dim=2) / span[:, None]
    return sizes.mean(dim=1), sizes.amax(dim=1)


def smoothness(
    G: nn.Module, config: Config, epoch: int, extractor: Extractor, pairs: int, steps: int
) -> tuple[dict[str, float], dict[str, Any], list[Tensor]]:
    """Values, counts, and rows of images: walks, each above its blend.

    Pairs of equal images take no part. FloatingPointError where images are not finite.
    """
    start, end = draw_latent(config, "walks", epoch, 2 * pairs).split(pairs)

    # Walks of twice the steps: every other image is one of the walk itself.
    images, features = _look(G, walk(start, end, 2 * steps, config.latent), extractor)
    blended = blend(images[:, 0], images[:, -1], steps)
    ends = (features[:, -1] - features[:, 0]).norm(dim=1)
    moving = ends > 0
    fine, ends = features[moving], ends[moving]
    mean, largest = measure(fine[:, ::2], ends)
    blend_mean, blend_largest = measure(_features(blended, extractor)[moving], ends)

    # Circles, as large as the same share of z in either distribution.
    length = math.sqrt(config.latent_size / (1 if config.latent == "normal" else 3))
    directions = draw_latent(config, "circles", epoch, 2 * pairs).unflatten(0, (pairs, 2))
    _, around = _look(G, circle(start, directions, RADIUS * length, AROUND), extractor)
    half = AROUND // 2
    across = (around[:, half:] - around[:, : half + 1]).norm(dim=2).mean(dim=1)
    circle_mean, circle_largest = measure(around[across > 0], across[across > 0])

    values = {
        "walk_mean_step": mean,
        "walk_largest_step": largest,
        "walk_unevenness": largest / mean,
        "walk_refined": measure(fine, ends)[1] / largest,
        "blend_mean_step": blend_mean,
        "blend_largest_step": blend_largest,
        "blend_unevenness": blend_largest / blend_mean,
        "share_below_blend": (largest < blend_largest).double(),
        "circle_mean_step": circle_mean,
        "circle_largest_step": circle_largest,
        "circle_unevenness": circle_largest / circle_mean,
    }
    counts = {"pairs_moving": len(ends), "circles": len(circle_mean), "circle_radius": RADIUS}
    rows = [row for pair in zip(images[:ROWS, ::2], blended[:ROWS], strict=True) for row in pair]
    return {name: x.mean().item() for name, x in values.items()}, counts, rows


def _look(G: nn.Module, z: Tensor, extractor: Extractor) -> tuple[Tensor, Tensor]:
    """Images and features of z (N, K, latent_size), each (N, K, ...)."""
    made = generate(G, z.flatten(0, 1).to(next(G.parameters()).device))
    images = made.unflatten(0, z.shape[:2])
    return images, _features(images, extractor)


def _features(images: Tensor, extractor: Extractor) -> Tensor:
    features, _ = extractor.extract(images.flatten(0, 1))
    return features.double().unflatten(0, images.shape[:2])


# --- Arithmetic -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trials:
    """Rows of z by number, for each trial."""

    operands: np.ndarray  # (TRIALS, 3, EXEMPLARS): bright A, dark A, dark B
    placebo: np.ndarray  # the same, with other dark A first
    target: np.ndarray  # (TRIALS,): class B
    unedited: np.ndarray  # (TRIALS,): one of class B, bright or not


def draw_trials(named: np.ndarray, tone: np.ndarray, rng: np.random.Generator) -> Trials | None:
    """Trials among images of a class (N,), -1 for none, and a tone: 1 bright, -1 dark, 0 between.

    None where fewer than two classes have FEWEST bright and FEWEST dark images.
    """
    classes = usable_classes(named, tone)
    if len(classes) < 2:
        return None
    operands, placebo, target, unedited = [], [], [], []
    for _ in range(TRIALS):
        a, b = rng.choice(classes, 2, replace=False)
        bright_a, dark_a, dark_b = (
            rng.choice(np.flatnonzero((named == c) & (tone == t)), 2 * EXEMPLARS, replace=False)
            for c, t in ((a, 1), (a, -1), (b, -1))
        )
        rest = [dark_a[:EXEMPLARS], dark_b[:EXEMPLARS]]
        operands.append([bright_a[:EXEMPLARS], *rest])
        placebo.append([dark_a[EXEMPLARS:], *rest])
        target.append(b)
        unedited.append(rng.choice(np.flatnonzero(named == b)))
    return Trials(*map(np.array, (operands, placebo, target, unedited)))


def usable_classes(named: np.ndarray, tone: np.ndarray) -> list[int]:
    """The classes that have FEWEST bright and FEWEST dark images."""
    return [
        c
        for c in np.unique(named[named >= 0]).tolist()
        if min(np.sum((named == c) & (tone == t)) for t in (1, -1)) >= FEWEST
    ]


def combine(z: Tensor, operands: np.ndarray) -> Tensor:
    """First minus second plus third mean, of rows of z: (trials, 3, K) -> (trials, latent_size)."""
    first, second, third = z[torch.from_numpy(operands)].mean(dim=2).unbind(1)
    return first - second + third


def arithmetic(
    G: nn.Module, config: Config, epoch: int, extractor: Extractor
) -> tuple[dict[str, float], dict[str, Any], list[Tensor]]:
    """Values, counts, and rows of images: bright A, dark A, dark B; what became of them.

    No values where too few images have a class. FloatingPointError where images are not finite.
    """
    z = draw_latent(config, "walks exemplars", epoch, CANDIDATES)
    device = next(G.parameters()).device
    images = generate(G, z.to(device))
    named, brightness = describe(images, extractor)
    dark, bright = np.quantile(brightness, [1 / 3, 2 / 3])
    tone = (brightness > bright).astype(int) - (brightness < dark)
    counts: dict[str, Any] = {
        "bank": CANDIDATES,
        "confident": CONFIDENT,
        "named": int(np.sum(named >= 0)),
        "classes": len(usable_classes(named, tone)),
    }
    rng = np.random.default_rng(seed_of(config.seed, "walks trials", epoch))
    if not (trials := draw_trials(named, tone, rng)):
        return {}, counts, []

    single = combine(z, trials.operands[..., :1])
    sums = {
        "hits_three": combine(z, trials.operands),
        "hits_one": single,
        "hits_one_shortened": single / math.sqrt(EXEMPLARS),
        "hits_placebo": combine(z, trials.placebo),
    }
    values, made, parts = {}, [], {}
    for name, edited in sums.items():
        made.append(generate(G, edited.to(device)))
        named_now, brightness_now = describe(made[-1], extractor)
        right, risen = named_now == trials.target, brightness_now > bright
        values[name] = float(np.mean(right & risen))
        parts[name] = {"of the class": float(np.mean(right)), "bright": float(np.mean(risen))}
    values["hits_chance"] = float(np.mean(tone[trials.unedited] == 1))
    counts |= {"trials": TRIALS, "exemplars": EXEMPLARS, "parts": parts}
    return values, counts, _rows(images, trials, torch.stack(made, dim=1))


def _rows(images: Tensor, trials: Trials, made: Tensor) -> list[Tensor]:
    """The first trials: three groups of exemplars, then the sums in their order, white between."""
    white = torch.full_like(images[:1], 255)
    rows = [white]
    for operands, results in zip(trials.operands[:ROWS], made, strict=False):
        groups = [images[torch.from_numpy(group)] for group in operands]
        rows.append(torch.cat([part for group in groups for part in (group, white)] + [results]))
    return rows


def describe(images: Tensor, extractor: Extractor) -> tuple[np.ndarray, np.ndarray]:
    """The class of each image, -1 where the classifier is not sure, and its mean grey level."""
    probability, named = extractor.extract(images)[1].softmax(dim=1).max(dim=1)
    named[probability < CONFIDENT] = -1
    return named.numpy(), images.float().mean(dim=(1, 2, 3)).numpy()
