"""What a model keeps of rows between two evaluations: the keys and values of their positions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Memory:
    """Keys and values of all positions of some rows in every block, and the ids of which they were computed.

    Evaluations overwrite it where it lies: a copy would move more bytes than attention does.
    """

    keys: Float[Tensor, "M B P H K"]
    values: Float[Tensor, "M B P H K"]
    """`M` blocks, `H` heads of dimension `K`."""
    ids_BL: Int[Tensor, "B L"]
    """int64; -1 of tokens that were never computed."""

    def first(self, count: int) -> "Memory":
        """That of the first rows, which stays part of this one."""
        return Memory(self.keys[:, :count], self.values[:, :count], self.ids_BL[:count])

    def rows(self, index: Sequence[int] | np.ndarray) -> "Memory":
        """A copy for some of the rows."""
        at = torch.as_tensor(np.asarray(index, np.int64), device=self.ids_BL.device)
        return Memory(self.keys[:, at], self.values[:, at], self.ids_BL[at])

    def below(self, other: "Memory") -> "Memory":
        """A copy with the rows of another of the same padded lengths below."""
        keys, values = (torch.cat([getattr(self, n), getattr(other, n)], 1) for n in ("keys", "values"))
        return Memory(keys, values, torch.cat([self.ids_BL, other.ids_BL]))

    def blank(self, count: int) -> "Memory":
        """One of so many rows of which nothing was computed."""
        keys, values = (t.new_zeros(len(t), count, *t.shape[2:]) for t in (self.keys, self.values))
        return Memory(keys, values, self.ids_BL.new_full((count, self.ids_BL.shape[1]), -1))
