"""Rendering: a scene of coloured shapes as a small anti-aliased picture."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SIDE = 32
"""Pixels of a picture's side."""
SUPERSAMPLE = 8

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (222, 30, 40),
    "pink": (250, 115, 190),
    "yellow": (248, 218, 20),
    "green": (20, 150, 50),
    "cyan": (8, 208, 222),
    "blue": (32, 68, 225),
    "purple": (140, 20, 170),
    "black": (20, 20, 20),
}
"""Colours far apart from each other and from white (at least 130 in RGB)."""


@dataclass(frozen=True)
class Thing:
    """One object: attributes, centre (x, y) and diameter in pixels."""

    colour: str
    shape: str
    size: str
    x: float
    y: float
    diameter: float


@dataclass(frozen=True)
class Scene:
    """The objects, none overlapping another, and the colour of the paper."""

    things: tuple[Thing, ...]
    paper: tuple[int, int, int] = (255, 255, 255)


def _arc(radius: float, start: float = 0, stop: float = 360, points: int = 48) -> np.ndarray:
    angle = np.radians(np.linspace(start, stop, points))
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _star(outer: float, inner: float) -> np.ndarray:
    k = np.arange(10)
    angle = (k / 5 - 0.5) * np.pi
    return np.where(k % 2, inner, outer)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _heart(radius: float) -> np.ndarray:
    """The well-known heart curve x = sin³t, moved and scaled to fill the unit square."""
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return radius * np.stack([x / 17, (y - 2.5) / 15.5], axis=1)


def _cross(radius: float, arm: float) -> np.ndarray:
    right = np.array([[arm, -arm], [radius, -arm], [radius, arm]])
    turn = np.array([[0, 1], [-1, 0]])
    return np.concatenate([right @ np.linalg.matrix_power(turn, q) for q in range(4)])


def _moon(radius: float) -> np.ndarray:
    bite = _arc(0.85, 285, 75, 30) * (0.95, 1.04) + (0.62, 0)
    outline = np.concatenate([_arc(1, 60, 300, 40), bite])
    return radius * np.add(outline, (0.25, 0))


OUTLINES: dict[str, tuple[np.ndarray, np.ndarray | None]] = {
    "circle": (_arc(1.0), None),
    "square": (np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.94, None),
    "triangle": (np.array([[0, -1], [1.1, 0.9], [-1.1, 0.9]]), None),
    "star": (_star(1.17, 0.52), None),
    "heart": (_heart(1.05), None),
    "cross": (_cross(1.06, 0.33), None),
    "ring": (_arc(1.08), _arc(0.54)),
    "moon": (_moon(1.08), None),
}
"""Outline and hole of each shape in units of its radius, y downwards. The shapes are of similar
visual size, and no two of them can be brought close to each other by moving and scaling."""

REACH: dict[str, float] = {name: float(np.abs(outline).max()) for name, (outline, _) in OUTLINES.items()}
"""Half the side of the box around a shape, in units of its radius."""


def render(scene: Scene) -> np.ndarray:
    """The picture, uint8 (Y, X, 3)."""
    image = Image.new("RGB", (SIDE * SUPERSAMPLE, SIDE * SUPERSAMPLE), scene.paper)
    pen = ImageDraw.Draw(image)
    for thing in scene.things:
        paint(pen, thing.shape, (thing.x, thing.y), thing.diameter, PALETTE[thing.colour], scene.paper)
    return np.asarray(image.reduce(SUPERSAMPLE))


def paint(pen: ImageDraw.ImageDraw, shape: str, centre: tuple[float, float], diameter: float, ink, paper) -> None:
    """Fill one shape; `centre` and `diameter` in final pixels, the pen `SUPERSAMPLE` times finer."""
    for outline, fill in zip(OUTLINES[shape], (ink, paper), strict=True):
        if outline is not None:
            # Pillow puts integer coordinates in the middle of a pixel.
            fine = (outline * diameter / 2 + centre) * SUPERSAMPLE - 0.5
            pen.polygon(fine.ravel().tolist(), fill=fill)
