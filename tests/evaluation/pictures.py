"""Pictures of two classes with variety inside each: stripes one way or the other."""

import numpy as np


def stripes(kind: str, seed: int, side: int = 12) -> np.ndarray:
    """uint8 (Y, X, 3): "rows" or "columns" of random colours and phase."""
    rng = np.random.default_rng([seed, len(kind)])
    wave = np.sin(2 * np.pi * np.arange(side) / rng.uniform(3, 5) + rng.uniform(0, 6))[:, None]
    plane = np.broadcast_to(wave if kind == "rows" else wave.T, (side, side))
    colour = rng.uniform(60, 120, 3)
    return (128 + plane[:, :, None] * colour + rng.normal(0, 6, (side, side, 3))).clip(0, 255).astype(np.uint8)


def labelled(n: int, start: int = 0, side: int = 12) -> tuple[list[np.ndarray], list[str]]:
    """n pictures of each class and their labels."""
    labels = ["rows", "columns"] * n
    return [stripes(label, start + i, side) for i, label in enumerate(labels)], labels
