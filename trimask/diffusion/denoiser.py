"""What the process needs of a model: logits of queried tokens, given a canvas."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from trimask.core.canvas import Canvas, Query


@runtime_checkable
class Denoiser(Protocol):
    """Any callable that scores tokens: a transformer, or a lookup table of exact posteriors."""

    def __call__(self, canvas: Canvas, queries: Sequence[Query], /) -> list[Tensor]:
        """One fp32 tensor (N, A) of logits per query, over the codes of its alphabet and, with `ends`, END and FILL.

        They are the caller's: what it does to them must not change a later answer.
        """
        ...
