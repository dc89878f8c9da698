"""Sounds that stand for words and voices: chords whose order spells a word."""

import numpy as np

from trimask.core.item import Audio

RATE = 16_000
TONES = {"a": 400.0, "b": 900.0, "c": 1700.0, "d": 3000.0}


def word(letters: str, pitch: float = 1.0, level: float = 0.3, seed: int = 0) -> Audio:
    """A tone of a sixth of a second for every letter, silence between, a little noise."""
    rng = np.random.default_rng([seed, *letters.encode()])
    pieces = []
    for letter in letters:
        t = np.arange(RATE // 6) / RATE
        tone = sum(np.sin(2 * np.pi * TONES[letter] * pitch * k * t) / k for k in (1, 2))
        pieces += [tone * np.hanning(len(t)), np.zeros(RATE // 25)]
    wave = np.concatenate(pieces)
    return Audio((level * (wave + 0.003 * rng.standard_normal(len(wave)))).astype(np.float32), RATE)
