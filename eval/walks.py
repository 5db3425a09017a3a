"""Walks and arithmetic in the latent space of one generator (Radford et al., 2015, Section 6).

Arithmetic: bright A - dark A + dark B = bright B, for two classes A and B. An image is of a class
where the classifier gives that class a probability of CONFIDENT or more; it is bright in the
brightest third of all images, by the mean over its pixels and channels, and dark in the darkest. A
hit is an image that is bright and of class B by these same rules. The operands are the means of
three exemplars' z, or the first z of each three; single z add up to one that is longer by the
square root of 3, so they are tried once more with their sum made shorter by this factor. The NOTES
say what else is measured.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dcgan.data import to_signed, to_uint8
from dcgan.models import seed_of
from dcgan.train import generate
from eval.finished import FinishedRun, Result, draw

CANDIDATES = 3_000  # images among which exemplars are looked for
CONFIDENT = 0.5  # probability
EXEMPLARS = 3
FEWEST = 10  # bright and dark images that a class needs
TRIALS = 500
ROWS = 4  # of each kind in the picture
TITLES = {
    "walk_mean_step": "walk, mean step",
    "walk_largest_step": "walk, largest",
    "walk_unevenness": "walk, largest/mean",
    "blend_mean_step": "blend, mean step",
    "blend_largest_step": "blend, largest",
    "blend_unevenness": "blend, largest/mean",
    "share_below_blend": "walk below blend",
    "hits_three": "hits, three",
    "hits_one": "hits, one",
    "hits_one_shortened": "hits, one shortened",
    "hits_placebo": "hits, placebo",
    "hits_chance": "hits, chance",
}
NOTES = [
    "Steps are distances of the classifier's features from one image to the next, relative to the "
    "distance of a walk's ends; equal steps of a straight line are 1 / steps.",
    "blend: between the same end images in pixels. walk below blend: the share of pairs in which "
    "the walk's largest step is the smaller one.",
    "hits: the share of trials of bright A - dark A + dark B that give a bright image of class B, "
    "with means of three exemplars, with one, and with one made as short as the means; placebo: "
    "of dark A - dark A + dark B, means of three; chance: of unedited z of class B.",
]

Part = tuple[dict[str, float], dict[str, Any], list[Tensor]]  # values, counts, rows of images


def analyse(run: FinishedRun, pairs: int, steps: int) -> Result:
    """What is measured of a run's generator; the picture has walks above their blends, and sums."""
    config, G, network = run.config, run.generator(), run.classifier()
    smooth, counts, rows = smoothness(run, G, pairs, steps)
    hits, trials, more = arithmetic(run, G)
    notes = list(NOTES)
    if not hits:
        notes.append(
            f"No arithmetic in epoch {run.epoch} of seed {config.seed}: of {CANDIDATES} images the "
            f"classifier is sure of {trials['named']}, and {trials['classes']} classes have "
            f"{FEWEST} bright and {FEWEST} dark ones; two are needed."
        )
    about = {"path": "spherical" if config.latent == "normal" else "straight"}
    about |= {"network": network.name, "network_sha256": network.sha256}
    picture = draw([row.permute(0, 2, 3, 1).numpy() for row in (*rows, *more)])
    values = dict.fromkeys(TITLES) | smooth | hits
    return Result(values, TITLES, about | counts | trials, notes, picture)


def smoothness(run: FinishedRun, G: nn.Module, pairs: int, steps: int) -> Part:
    """How even walks are, and blends of unequal images; the rows: walks, each above its blend."""
    start, end = run.noise("walks", 2 * pairs).split(pairs)
    z = walk(start, end, steps, run.config.latent)
    walked = generate(G, z.flatten(0, 1)).unflatten(0, z.shape[:2])
    blended = blend(walked[:, 0], walked[:, -1], steps)

    features = {"walk": features_of(run, walked), "blend": features_of(run, blended)}
    ends = (features["walk"][:, -1] - features["walk"][:, 0]).norm(dim=1)
    moving = ends > 0
    sizes = {path: measure(x[moving], ends[moving]) for path, x in features.items()}
    values = {"share_below_blend": (sizes["walk"][1] < sizes["blend"][1]).double()}
    for path, (mean, largest) in sizes.items():
        values |= {f"{path}_mean_step": mean, f"{path}_largest_step": largest}
        values[f"{path}_unevenness"] = largest / mean
    rows = [row for pair in zip(walked[:ROWS], blended[:ROWS], strict=True) for row in pair]
    counts = {"pairs_moving": int(moving.sum())}
    return {name: x.mean().item() for name, x in values.items()}, counts, rows


def features_of(run: FinishedRun, images: Tensor) -> Tensor:
    """The classifier's features of images (N, K, 3, H, W): float64 (N, K, D)."""
    features, _ = run.classifier().extract(images.flatten(0, 1))
    return features.double().unflatten(0, images.shape[:2])


def walk(start: Tensor, end: Tensor, steps: int, latent: str) -> Tensor:
    """From z to z (N, latent_size) in equal steps, ends included: (N, steps + 1, latent_size)."""
    t = torch.linspace(0, 1, steps + 1, device=start.device)[:, None]
    start, end = start[:, None], end[:, None]
    if latent == "uniform":
        return start.lerp(end, t)

    # On a sphere (Shoemake, 1985).
    cosine = torch.cosine_similarity(start, end, dim=2)[..., None].clamp(-1, 1)
    angle = cosine.arccos().clamp(min=1e-3)  # below which the sphere is flat
    return (((1 - t) * angle).sin() * start + (t * angle).sin() * end) / angle.sin()


def blend(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """From image to image, uint8 (N, 3, H, W), pixel by pixel: (N, steps + 1, 3, H, W)."""
    t = torch.linspace(0, 1, steps + 1)[:, None, None, None]
    return to_uint8(to_signed(start)[:, None].lerp(to_signed(end)[:, None], t))


def measure(features: Tensor, span: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and largest step of walks (N, steps + 1, D), relative to a span (N,) each."""
    sizes = features.diff(dim=1).norm(dim=2) / span[:, None]
    return sizes.mean(dim=1), sizes.amax(dim=1)


def arithmetic(run: FinishedRun, G: nn.Module) -> Part:
    """The shares of hits, if enough images have a class; the rows: the operands and the sums."""
    z = run.noise("walks exemplars", CANDIDATES)
    images = generate(G, z)
    named, brightness = describe(run, images)
    dark, bright = np.quantile(brightness, [1 / 3, 2 / 3])
    tone = (brightness > bright).astype(int) - (brightness < dark)
    classes = usable_classes(named, tone)
    counts = {"bank": CANDIDATES, "confident": CONFIDENT, "classes": len(classes)}
    counts["named"] = int(np.sum(named >= 0))
    if len(classes) < 2:
        return {}, counts, []

    rng = np.random.default_rng(seed_of(run.config.seed, "walks trials", run.epoch))
    operands, placebo, target, unedited = draw_trials(named, tone, rng)
    single = combine(z, operands[..., :1])
    sums = {
        "hits_three": combine(z, operands),
        "hits_one": single,
        "hits_one_shortened": single / math.sqrt(EXEMPLARS),
        "hits_placebo": combine(z, placebo),
    }
    made = {name: generate(G, edited) for name, edited in sums.items()}
    values = {"hits_chance": float(np.mean(tone[unedited] == 1))}
    for name, edited in made.items():
        class_now, brightness_now = describe(run, edited)
        values[name] = float(np.mean((class_now == target) & (brightness_now > bright)))
    counts |= {"trials": TRIALS, "exemplars": EXEMPLARS}

    # The first trials: three groups of exemplars, then the sums in their order, white between.
    white = torch.full_like(images[:1], 255)
    rows = [white]
    for trial in range(ROWS):
        groups = [images[torch.from_numpy(group)] for group in operands[trial]]
        sums = [edited[trial : trial + 1] for edited in made.values()]
        rows.append(torch.cat([part for group in groups for part in (group, white)] + sums))
    return values, counts, rows


def describe(run: FinishedRun, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The class of each image, -1 where the classifier is not sure, and its mean grey level."""
    probability, named = run.classifier().extract(images)[1].softmax(dim=1).max(dim=1)
    named[probability < CONFIDENT] = -1
    return named.numpy(), images.float().mean(dim=(1, 2, 3)).numpy()


def draw_trials(named: np.ndarray, tone: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Trials among images of a class (N,), -1 for none, and a tone: 1 bright, -1 dark, 0 between.

    Numbers of images: the operands (TRIALS, 3, EXEMPLARS), which are bright A, dark A, dark B; the
    placebo, with other dark A first; then class B (TRIALS,); one of class B, bright or not.
    """
    classes = usable_classes(named, tone)
    exemplars, target, unedited = [], [], []
    for _ in range(TRIALS):
        a, b = rng.choice(classes, 2, replace=False)
        exemplars.append(
            [
                rng.choice(np.flatnonzero((named == c) & (tone == t)), 2 * EXEMPLARS, replace=False)
                for c, t in ((a, 1), (a, -1), (b, -1))
            ]
        )
        target.append(b)
        unedited.append(rng.choice(np.flatnonzero(named == b)))
    operands = np.array(exemplars)[..., :EXEMPLARS]
    placebo = operands.copy()
    placebo[:, 0] = np.array(exemplars)[:, 1, EXEMPLARS:]
    return [operands, placebo, np.array(target), np.array(unedited)]


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
