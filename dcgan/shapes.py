"""Labelled images drawn by the code, for a machine without any: ten forms, 32x32 RGB.

Each image has a form of one class with its own size, place, turn, stretch, colour and shading, on
a plain, graded or cloudy ground. Only additions, products, quotients and square roots of float64
are used, which IEEE 754 fixes to the last bit: every machine draws the same bytes.
"""

import math
from collections.abc import Callable

import numpy as np

SIDE = 32
SEED = 20151119
BLOCK = 250  # images drawn at once, so that the arrays stay in the processor's cache

Array = np.ndarray


def draw(count: int) -> tuple[Array, Array]:
    """(count, 32, 32, 3) uint8 and the class of each, which are equally frequent."""
    random = np.random.Generator(np.random.PCG64(SEED)).random
    labels = np.arange(count) % len(FORMS)
    pixels = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for i in range(0, count, BLOCK):
        pixels[i : i + BLOCK] = _draw_block(labels[i : i + BLOCK], random)
    return pixels, labels


def _draw_block(labels: Array, random: Callable[[tuple[int, ...]], Array]) -> Array:
    n = len(labels)
    centres = np.arange(SIDE) + 0.5
    column, row = centres[None, None, :], centres[None, :, None]

    def uniform(low: float, high: float) -> Array:
        return low + (high - low) * random((n, 1, 1))

    # Where the form lies: a place that keeps most of it inside, a turn, a stretch.
    radius = uniform(6.5, 12.5)
    x = column - SIDE / 2 - (SIDE / 2 - radius) * uniform(-0.9, 0.9)
    y = row - SIDE / 2 - (SIDE / 2 - radius) * uniform(-0.9, 0.9)
    cosine, sine = _direction(uniform(-1, 1)) * np.where(random((n, 1, 1)) < 0.5, 1, -1)
    stretch = uniform(0.85, 1.15)
    u = (x * cosine + y * sine) / radius * stretch
    v = (y * cosine - x * sine) / radius / stretch

    # Its coverage of each pixel, from the distance to its edge in pixels.
    distance = np.empty((n, SIDE, SIDE))
    for label, form in enumerate(FORMS.values()):
        chosen = labels == label
        distance[chosen] = form(u[chosen], v[chosen])
    coverage = np.clip(0.5 - distance * radius, 0, 1)[:, None]

    # A ground between two colours: all of one, graded across the image, or cloudy.
    cosine, sine = _direction(uniform(-1, 1))
    ramp = 0.5 + ((column - SIDE / 2) * cosine + (row - SIDE / 2) * sine) / SIDE
    kind = random((n, 1, 1))
    field, cloudy = np.where(kind < 0.3, 0.5, ramp), kind[:, 0, 0] >= 0.65
    field[cloudy] = _clouds(random((n, 6, 6))[cloudy])
    field = np.clip(field, 0, 1)[:, None]

    # One of form and ground is light and the other dark; the ground's two hues are akin.
    light = random((n, 1, 1, 1)) < 0.5
    light = np.concatenate([~light, ~light, light], axis=1)
    value = np.where(light, 0.65, 0.05) + 0.35 * random((n, 3, 1, 1))
    hue = random((n, 3, 1, 1))
    hue[:, 1] = hue[:, 0] + 0.3 * (hue[:, 1] - 0.5)
    colours = _colour(hue, 0.9 * random((n, 3, 1, 1)), value)
    first, second, own = np.moveaxis(colours, 1, 0)  # (n, 3, 1, 1)

    # The form is shaded from one side and laid over its ground.
    shade = 0.65 + 0.35 * np.clip(0.5 + 0.5 * (u * cosine + v * sine), 0, 1)[:, None]
    ground = first + (second - first) * field
    drawn = 255 * (ground + (own * shade - ground) * coverage)
    return np.rint(drawn, out=drawn).transpose(0, 2, 3, 1)


def _direction(t: Array) -> Array:
    """Cosine and sine of twice the arc tangent of t: for t in [-1, 1], half of all directions."""
    return np.stack([1 - t * t, 2 * t]) / (1 + t * t)


def _clouds(knots: Array) -> Array:
    """(n, k, k) knots -> (n, 32, 32), bilinear."""
    at = (np.arange(SIDE) + 0.5) / SIDE * (knots.shape[1] - 1)
    left = at.astype(int)
    rows = knots[:, left] + (at - left)[:, None] * (knots[:, left + 1] - knots[:, left])
    return rows[:, :, left] + (at - left) * (rows[:, :, left + 1] - rows[:, :, left])


def _colour(hue: Array, saturation: Array, value: Array) -> Array:
    """HSV (n, k, 1, 1) each -> RGB (n, k, 3, 1, 1)."""
    hue, saturation, value = hue[:, :, None], saturation[:, :, None], value[:, :, None]
    thirds = (hue + np.array([0, 2, 1]).reshape(3, 1, 1) / 3) % 1
    pure = np.clip(np.abs(6 * thirds - 3) - 1, 0, 1)
    return value * (1 - saturation * (1 - pure))


def _length(x: Array, y: Array) -> Array:
    return np.sqrt(x * x + y * y)


def _box(x: Array, y: Array, width: float, height: float) -> Array:
    return np.maximum(np.abs(x) - width, np.abs(y) - height)


def _star(x: Array, y: Array) -> Array:
    """Five tips: inside of at least four of the five lines that bound its pentagon."""
    near, far = (math.sqrt(5) - 1) / 4, (math.sqrt(5) + 1) / 4  # cosines of 72 and 36 degrees
    near_sine, far_sine = math.sqrt(1 - near * near), math.sqrt(1 - far * far)
    lines = [y, near * y + near_sine * x, near * y - near_sine * x]
    lines += [-far * y + far_sine * x, -far * y - far_sine * x]
    return np.sort(np.stack(lines), axis=0)[3] - near


def _stripes(x: Array, y: Array) -> Array:
    """Three parallel bars, as far apart as they are wide."""
    bar = np.minimum(np.abs(y), np.abs(np.abs(y) - 0.64)) - 0.16
    return np.maximum(np.abs(x) - 0.8, bar)


def _checker(x: Array, y: Array) -> Array:
    """Two by two squares, of which the form has two."""
    return np.maximum(_box(x, y, 0.8, 0.8), np.minimum(np.maximum(x, y), np.maximum(-x, -y)))


# Points of the plane -> signed distance to the edge, negative inside. All forms fit into the unit
# disc, or nearly so.
FORMS: dict[str, Callable[[Array, Array], Array]] = {
    "disc": lambda x, y: _length(x, y) - 0.85,
    "ring": lambda x, y: np.abs(_length(x, y) - 0.72) - 0.2,
    "square": lambda x, y: _box(x, y, 0.75, 0.75),
    "frame": lambda x, y: np.abs(_box(x, y, 0.65, 0.65)) - 0.17,
    "triangle": lambda x, y: np.maximum(np.abs(x) * math.sqrt(0.75) - y / 2, y) - 0.5,
    "cross": lambda x, y: np.minimum(_box(x, y, 0.95, 0.3), _box(x, y, 0.3, 0.95)),
    "stripes": _stripes,
    "checker": _checker,
    "crescent": lambda x, y: np.maximum(_length(x, y) - 0.95, 0.75 - _length(x - 0.45, y)),
    "star": _star,
}
