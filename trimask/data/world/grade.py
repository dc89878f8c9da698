"""The checker: is in this picture what the caption asks for? It reads pixels only.

1. Every pixel is explained as paper mixed with one colour of the palette (a line in RGB from the
   paper to that colour); pixels at least half covered, joined by connection, are the objects.
2. An object's coverage is compared with drawn templates of every shape in every diameter and
   sub-pixel place; the nearest by squared error gives shape and diameter, or no shape at all.
3. The objects found are assigned to the objects asked for so that most attributes agree.

Nothing is adapted to the caption: the same objects are found whatever is asked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from trimask.core.errors import UsageError
from trimask.data.world.draw import PALETTE, SIDE, SUPERSAMPLE, paint
from trimask.data.world.grammar import MAX_OBJECTS, SHAPES, Group, Spec, parse
from trimask.data.world.scenes import DIAMETER

COVERED = 0.5
"""Least coverage of a pixel that belongs to an object."""
MIN_AREA = 8
"""Pixels; a smaller spot is dirt, not an object. The smallest shape covers more than 20."""
SECOND_COLOUR = 0.3
"""Share of a blob's pixels from which another colour in it is an object of its own."""
DISCOLOURED = 0.12
"""Largest squared error of one colour over a blob, as a share of the blob's squared distance from the
paper, for a blob that is taken for one object."""
MISFIT = 0.2
"""Largest squared error of the best template, as a share of the object's own square."""
SOFTEN = 0.6
"""Blur (pixels) of both sides of the comparison, so that soft edges do not count as shape."""
STEP = 2.0
"""Least distance (pixels) of two centres along a relation's axis."""
PAPER_FLOOR = 200
"""Pixels with all channels above are taken for paper when its colour is measured."""
MOST_FOUND = MAX_OBJECTS + 2
ATTRIBUTES = ("count", "colour", "shape", "size", "relation")

_RADIUS = 9
_DIAMETERS = tuple(np.arange(5.0, 14.01, 0.5))
_PHASES = (-0.5, -0.25, 0.0, 0.25, 0.5)
_BOUNDARY = (DIAMETER["small"] * DIAMETER["large"]) ** 0.5


@dataclass(frozen=True)
class Found:
    """One object read from the pixels; `shape` is None where none of the shapes fits."""

    colour: str
    shape: str | None
    size: str
    x: float
    y: float
    diameter: float
    misfit: float


@dataclass(frozen=True)
class Grade:
    """How far a picture shows what was asked.

    `right[a]` and `asked[a]` count the cases of attribute `a` (`ATTRIBUTES`): the count is one
    case; colour, shape and size have one for every object asked for (size only where it is named);
    the relation one where there is one. `all_correct`: every case is right and nothing is extra.
    """

    found: tuple[Found, ...]
    asked: Mapping[str, int]
    right: Mapping[str, int]

    @property
    def all_correct(self) -> bool:
        return self.asked == self.right


def grade(image: np.ndarray, caption: str | Spec) -> Grade:
    """Grade a picture, uint8 (Y, X, 3), against a caption of the scene grammar.

    Raises `UsageError` for a caption outside the grammar or a picture of another size.
    """
    return grade_found(find(image), parse(caption) if isinstance(caption, str) else caption)


def find(image: np.ndarray) -> tuple[Found, ...]:
    """The objects in a picture, largest first."""
    if image.shape != (SIDE, SIDE, 3):
        raise UsageError(f"a scene is a ({SIDE}, {SIDE}, 3) picture, this one has shape {image.shape}")
    layers = _layers(image.astype(np.float32))
    labels = np.asarray(ndimage.label(layers.mask, structure=np.ones((3, 3)))[0])  # pyright: ignore
    blobs = [labels == k for k in range(1, labels.max() + 1)]
    found = [f for blob in blobs if blob.sum() >= MIN_AREA for f in _read(blob, layers)]
    return tuple(sorted(found, key=lambda f: -f.diameter))


@dataclass(frozen=True)
class _Layers:
    """Every pixel explained by each of the N colours: coverage (N, Y, X) and the squared error left
    (N, Y, X); the best colour (Y, X); which pixels are covered; the squared distance from paper."""

    cover: np.ndarray
    error: np.ndarray
    colour: np.ndarray
    mask: np.ndarray
    square: np.ndarray


def _layers(pixels_YXR: np.ndarray) -> _Layers:
    light = pixels_YXR[(pixels_YXR > PAPER_FLOOR).all(-1)]
    paper = np.median(light, axis=0) if len(light) else np.full(3, 255.0, np.float32)
    offset = pixels_YXR - paper
    direction_NR = np.array(list(PALETTE.values()), np.float32) - paper
    cover = np.einsum("yxr,nr->nyx", offset, direction_NR) / (direction_NR**2).sum(1)[:, None, None]
    cover = cover.clip(0, 1)
    error = ((offset - cover[..., None] * direction_NR[:, None, None]) ** 2).sum(-1)
    colour = error.argmin(0)
    mask = np.take_along_axis(cover, colour[None], 0)[0] >= COVERED
    return _Layers(cover, error, colour, mask, (offset**2).sum(-1))


def _read(blob: np.ndarray, layers: _Layers) -> list[Found]:
    """The objects in connected pixels: one where one explains them, else one for each colour."""
    errors = layers.error[:, blob].sum(1)
    main = int(errors.argmin())
    whole = _identify(main, blob, layers)
    counts = np.bincount(layers.colour[blob], minlength=len(PALETTE))
    parts = np.flatnonzero(counts >= max(MIN_AREA, SECOND_COLOUR * blob.sum()))
    one_colour = errors[main] <= DISCOLOURED * layers.square[blob].sum()
    if len(parts) < 2 or (one_colour and whole.shape is not None):
        return [whole]
    return [_identify(int(c), blob & (layers.colour == c), layers) for c in parts]


def _identify(colour: int, mask: np.ndarray, layers: _Layers) -> Found:
    """Shape, diameter and place of one object, from the nearest template."""
    rim = np.asarray(ndimage.binary_dilation(mask, np.ones((3, 3))), bool) & (mask | ~layers.mask)
    cover = ndimage.gaussian_filter(np.pad(np.where(rim, layers.cover[colour], 0), _RADIUS), SOFTEN)
    row, column = np.round(_centre(cover)).astype(int)
    box = np.s_[row - _RADIUS : row + _RADIUS + 1, column - _RADIUS : column + _RADIUS + 1]
    window = cover[box].ravel()
    bank = _bank()
    square = float(window @ window)
    error = bank.squares - 2 * (bank.templates @ window) + square
    best = int(error.argmin())
    y, x = bank.centres[best] + (row - _RADIUS + 0.5, column - _RADIUS + 0.5)
    diameter = float(bank.diameters[best])
    misfit = float(error[best]) / square
    return Found(
        colour=tuple(PALETTE)[colour],
        shape=SHAPES[bank.shapes[best]] if misfit <= MISFIT else None,
        size="small" if diameter < _BOUNDARY else "large",
        x=float(x),
        y=float(y),
        diameter=diameter,
        misfit=misfit,
    )


def _centre(cover_YX: np.ndarray) -> np.ndarray:
    """Centre of mass as (y, x), in units of pixels between their middles."""
    y, x = np.indices(cover_YX.shape)
    return np.array([(y * cover_YX).sum(), (x * cover_YX).sum()]) / cover_YX.sum()


@dataclass(frozen=True)
class _Bank:
    """T templates of P pixels: shape index (T,), diameter (T,), softened coverage (T, P) and its
    square (T,), and the drawn centre (T, 2) as (y, x) from the middle of the window."""

    shapes: np.ndarray
    diameters: np.ndarray
    templates: np.ndarray
    squares: np.ndarray
    centres: np.ndarray


@lru_cache(maxsize=1)
def _bank() -> _Bank:
    keys = [(s, float(d)) for s in range(len(SHAPES)) for d in _DIAMETERS]
    drawn = [_phases(SHAPES[s], d) for s, d in keys]
    templates = np.concatenate([t for t, _ in drawn]).astype(np.float32)
    shapes, diameters = (np.repeat(column, len(_PHASES) ** 2) for column in zip(*keys, strict=True))
    centres = np.concatenate([c for _, c in drawn])
    return _Bank(shapes, diameters, templates, (templates**2).sum(1), centres)


def _phases(shape: str, diameter: float) -> tuple[np.ndarray, np.ndarray]:
    """Templates with their centre of mass at every phase from the middle, and their drawn centres."""
    side = 2 * _RADIUS + 1
    image = Image.new("L", (side * SUPERSAMPLE, side * SUPERSAMPLE), 0)
    paint(ImageDraw.Draw(image), shape, (side / 2, side / 2), diameter, 255, 0)
    fine = np.asarray(image, np.float32) / 255
    middle = side * SUPERSAMPLE / 2
    mass = _centre(fine) + 0.5 - middle
    templates, centres = [], []
    for phase in product(_PHASES, repeat=2):
        shift = np.round(np.array(phase) * SUPERSAMPLE - mass).astype(int)
        moved = np.roll(fine, shift, axis=(0, 1))
        coarse = moved.reshape(side, SUPERSAMPLE, side, SUPERSAMPLE).mean((1, 3))
        templates.append(ndimage.gaussian_filter(coarse, SOFTEN).ravel())
        centres.append(shift / SUPERSAMPLE)
    return np.stack(templates), np.stack(centres)


def grade_found(found: tuple[Found, ...], spec: Spec) -> Grade:
    """Grade objects already found, by the assignment under which most is right.

    A relation counts as right where every object asked for is there to take part in it. Of more
    than `MOST_FOUND` objects the smallest are not considered for assignment; the count is wrong anyway.
    """
    slots = spec.slots
    n = len(slots)
    asked = {
        "count": 1,
        "colour": n,
        "shape": n,
        "size": sum(group.size is not None for _, group in slots),
        "relation": int(spec.relation is not None),
    }
    candidates: list[Found | None] = [*found[:MOST_FOUND]]
    candidates += [None] * (n - len(candidates))
    scores = np.array([[_score(group, f) for f in candidates] for _, group in slots])
    best = _assignment(scores.sum(-1).tolist(), candidates, spec)
    agree = scores[np.arange(n), list(best)].sum(0)
    right = {"count": int(len(found) == n)}
    right |= {name: int(v) for name, v in zip(("colour", "shape", "size"), agree, strict=True)}
    right["relation"] = int(_holds(best, candidates, spec)) if spec.relation else 0
    return Grade(found, asked, right)


def _score(group: Group, found: Found | None) -> tuple[int, int, int]:
    if found is None:
        return 0, 0, 0
    same_size = group.size is not None and found.size == group.size
    return int(found.colour == group.colour), int(found.shape == group.shape), int(same_size)


def _assignment(scores: list[list[int]], candidates: list[Found | None], spec: Spec) -> tuple[int, ...]:
    """For every slot the index of its object: the most agreement, and among equals a true relation."""
    orders = list(permutations(range(len(candidates)), len(scores)))
    values = [sum(row[k] for row, k in zip(scores, order, strict=True)) for order in orders]
    most = max(values)
    best = [order for order, value in zip(orders, values, strict=True) if value == most]
    if spec.relation is None:
        return best[0]
    return next((order for order in best if _holds(order, candidates, spec)), best[0])


def _holds(order: tuple[int, ...], candidates: list[Found | None], spec: Spec) -> bool:
    """Every object of the first group is beyond every one of the second along the relation's axis,
    and the groups' midpoints differ more along it than across it."""
    centres: list[list[tuple[float, float]]] = [[], []]
    for (g, _), k in zip(spec.slots, order, strict=True):
        taken = candidates[k]
        if taken is None:
            return False
        centres[g].append((taken.x, taken.y))
    a, b = np.array(centres[0]), np.array(centres[1])
    axis = 0 if spec.relation in ("left of", "right of") else 1
    sign = 1 if spec.relation in ("left of", "above") else -1
    step = sign * (b[None, :, axis] - a[:, None, axis])
    between = np.abs(b.mean(0) - a.mean(0))
    return bool((step >= STEP).all() and between[axis] > between[1 - axis])
