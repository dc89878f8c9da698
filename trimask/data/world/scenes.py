"""Drawing scenes at random: what is in the picture, how it is said, and where it stands."""

from dataclasses import dataclass

import numpy as np

from trimask.core import rng as random
from trimask.data.world.draw import REACH, SIDE, Scene, Thing
from trimask.data.world.grammar import COLOURS, MAX_OBJECTS, RELATIONS, SHAPES, SIZES, Group, Spec, say
from trimask.data.world.splits import Split, novelty, part_of_split

OBJECTS_SHARE = (0.3, 0.35, 0.2, 0.15)
"""Share of scenes with one, two, three and four objects."""
ONE_GROUP_SHARE = 0.25
"""Share, among scenes of several objects, of those with a single group ("three red circles")."""
AND_SHARE = 0.2
SIZELESS_SHARE = 0.3
"""Share of captions that leave the sizes open."""
LONG_SHARE = 0.3
NEW_GROUP_SHARE = 0.5
"""Share, among held-out scenes of two groups, of those whose novelty is a group."""

DIAMETER = {"small": 7.5, "large": 11.0}
"""Pixels. Exact, as are the colours and the white of the paper: a picture is what its caption says and where."""
GRID = 4.0
"""Centres stand on this grid (pixels), that of an image tokenizer's cells: an object then gives the same codes
wherever it stands. On a finer grid most of a small model's training goes into phases nobody sees (dev/LOG.md)."""
GAP, EDGE = 2.25, 0.5
"""Least free pixels between the bounding boxes of two objects, and to the border."""
STEP = 4.0
"""A relation keeps the centres of the two groups at least so far apart along its axis."""
DOMINANCE = 1.25
"""and their midpoints that many times further apart along its axis than across it."""
_TRIES, _BATCH = 40, 128


@dataclass(frozen=True)
class Sample:
    """A drawn scene with its caption and the meaning of the caption."""

    scene: Scene
    caption: str
    spec: Spec


def sample(split: Split, seed: int, index: int, source: str = "scene") -> Sample:
    """Scene number `index` of a split: a pure function of its arguments."""
    rng = random.generator("world", source, seed, split, index)
    counts = draw_counts(rng)
    while True:  # a crowded scene without free places is drawn anew, with as many objects
        spec = draw_spec(rng, split, counts)
        scene = arrange(spec, rng)
        if scene is not None:
            return Sample(scene, say(spec, long=bool(rng.random() < LONG_SHARE)), spec)


def draw_spec(rng: np.random.Generator, split: Split, counts: tuple[int, ...]) -> Spec:
    """A random spec of the split's part with groups of the given counts."""
    sized = rng.random() >= SIZELESS_SHARE
    wanted = _wanted(rng, split, len(counts))
    relation = None
    if len(counts) == 2 and rng.random() >= AND_SHARE:
        relation = _pick(rng, RELATIONS)
    while True:
        groups = tuple(
            Group(n, _pick(rng, COLOURS), _pick(rng, SHAPES), _pick(rng, SIZES) if sized else None) for n in counts
        )
        spec = Spec(groups, relation)
        if len(spec.pairs) == len(groups) and novelty(spec) == wanted:
            return spec


def draw_counts(rng: np.random.Generator) -> tuple[int, ...]:
    total = 1 + int(np.searchsorted(np.cumsum(OBJECTS_SHARE)[:-1], rng.random(), side="right"))
    if total == 1 or rng.random() < ONE_GROUP_SHARE:
        return (total,)
    first = int(rng.integers(1, total))
    return (first, total - first)


def _wanted(rng: np.random.Generator, split: Split, groups: int) -> tuple[str, str]:
    part = part_of_split(split)
    if part == "train":
        return part, "nothing"
    if split == "test-pairs":
        return part, "pair"
    new_group = groups == 1 or rng.random() < NEW_GROUP_SHARE
    return part, "group" if new_group else "set"


def _pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[int(rng.integers(len(choices)))]


def arrange(spec: Spec, rng: np.random.Generator) -> Scene | None:
    """A scene that shows `spec`, or None where no free places were found.

    Objects keep apart, and a relation is visibly true of every pair across the two groups and of
    no second axis: the groups' midpoints differ mainly along the relation's axis.
    """
    sizes = [group.size or _pick(rng, SIZES) for group in spec.groups]
    diameters = np.array([DIAMETER[sizes[g]] for g, _ in spec.slots])
    reach = diameters / 2 * np.array([REACH[group.shape] for _, group in spec.slots])
    owners = np.array([g for g, _ in spec.slots])
    places = _places(spec.relation, reach, owners, rng)
    if places is None:
        return None
    return Scene(
        tuple(
            Thing(group.colour, group.shape, sizes[g], float(x), float(y), float(d))
            for (g, group), (x, y), d in zip(spec.slots, places, diameters, strict=True)
        )
    )


def _places(relation: str | None, reach: np.ndarray, owners: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """Centres (n, 2) as (x, y) in pixels, by rejection from uniform places."""
    low, high = reach + EDGE, SIDE - reach - EDGE
    for _ in range(_TRIES):
        xy = low[:, None] + _proposals(len(reach), rng) * (high - low)[:, None]
        if relation is not None:
            xy = _in_order(xy, relation)
        xy = np.round(xy / GRID) * GRID
        good = _fits(xy, low, high) & _apart(xy, reach) & _related(xy, relation, owners)
        if good.any():
            return xy[int(np.argmax(good))]
    return None


def _proposals(n: int, rng: np.random.Generator) -> np.ndarray:
    """Places (batch, n, 2) in the unit square: uniform, and for every second of the batch spread
    over the corners, where crowded scenes find room."""
    places = rng.random((_BATCH, n, 2))
    corner = rng.permuted(np.tile(np.arange(MAX_OBJECTS), (_BATCH // 2, 1)), axis=1)[:, :n]
    far = np.stack([corner % 2, corner // 2], axis=-1) == 1
    near = places[::2] ** 2
    places[::2] = np.where(far, 1 - near, near)
    return places


def _in_order(xy: np.ndarray, relation: str) -> np.ndarray:
    """Sort the proposals along the relation's axis: most of them then show it."""
    axis = 0 if relation.endswith(" of") else 1
    along = np.sort(xy[..., axis], axis=1)
    if relation in ("right of", "below"):
        along = along[:, ::-1]
    other = xy[..., 1 - axis]
    return np.stack([along, other] if axis == 0 else [other, along], axis=-1)


def _fits(xy: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    inside = (xy >= low[:, None] - EDGE) & (xy <= high[:, None] + EDGE)
    return np.asarray(inside.all(axis=(1, 2)))


def _apart(xy: np.ndarray, reach: np.ndarray) -> np.ndarray:
    i, j = np.triu_indices(len(reach), 1)
    clearance = np.abs(xy[:, i] - xy[:, j]).max(-1) - reach[i] - reach[j]
    return (clearance >= GAP).all(axis=1)


def _related(xy: np.ndarray, relation: str | None, owners: np.ndarray) -> np.ndarray:
    if relation is None:
        return np.ones(len(xy), bool)
    axis = 0 if relation.endswith(" of") else 1
    sign = 1 if relation in ("left of", "above") else -1
    a, b = xy[:, owners == 0], xy[:, owners == 1]
    step = sign * (b[:, None, :, axis] - a[:, :, None, axis])
    across = b.mean(1) - a.mean(1)
    dominant = np.abs(across[:, axis]) >= DOMINANCE * np.abs(across[:, 1 - axis])
    return np.asarray((step >= STEP).all(axis=(1, 2))) & dominant
