"""What evaluation asks of a model. `hub` has a class that fits; a lookup table fits as well."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from trimask.core.item import Audio, Item
from trimask.diffusion.bounds import Bound, Plan
from trimask.evaluation.cloze import Gap


class Generator(Protocol):
    """Batched generation and scoring. A section of the suite uses only the methods it needs.

    Every result is a function of its own request and the seed.
    """

    def images(self, captions: Sequence[str], seed: int, size: tuple[int, int] = (32, 32)) -> list[np.ndarray]:
        """uint8 (Y, X, 3) of each caption; `size` is (width, height)."""
        ...

    def clips(self, texts: Sequence[str], voices: Sequence[str] | None, seed: int) -> list[Audio]:
        """A recording of each text, each in its voice; None where the model knows no voices."""
        ...

    def texts(self, n: int, seed: int) -> list[str]:
        """n texts from nothing."""
        ...

    def captions(self, images: Sequence[np.ndarray], seed: int) -> list[str]:
        """A caption of each uint8 picture (Y, X, 3)."""
        ...

    def transcripts(self, clips: Sequence[Audio], seed: int) -> list[str]:
        """A transcript of each recording."""
        ...

    def words(self, gaps: Sequence[Gap], seed: int) -> list[str]:
        """The word that fills each gap: all tokens of the missing word are masked, their number is given."""
        ...

    def bounds(self, items: Sequence[Item], task: str, plan: Plan, draws: int, seed: int, free: bool) -> list[Bound]:
        """Bound on -log p(targets | given) of each item in a task, the condition clean.

        With `free` false the lengths of the targets are given and exact. With `free` true a target's END
        and FILL are scored too, in the largest span the model knows.
        """
        ...
