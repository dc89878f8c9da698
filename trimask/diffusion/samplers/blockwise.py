"""Fill a segment block by block from left to right, each block with another sampler (LLaDA)."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from trimask.diffusion.samplers.base import Sampler, View
from trimask.diffusion.samplers.confidence import Confidence


@dataclass(frozen=True)
class Blockwise(Sampler):
    """Only the leftmost block that is not full may be revealed; `steps` are shared among the blocks.

    `block` counts grid units (tokens, frames) from the first that is to be filled: behind a prompt, or in a hole.
    `blocks` is how many the longest span has; `inner` is the sampler within a block, its own `steps` being
    the steps spent on one block.
    """

    block: int = 32
    blocks: int = 4
    inner: Sampler = field(default_factory=lambda: Confidence(steps=16, counts="linear"))

    @property
    def steps(self) -> int:
        return self.blocks * self.inner.steps

    def reveal(self, view: View) -> Tensor:
        number_BL = view.unit_BL // self.block
        current = view.step // self.inner.steps
        last = current + 1 >= self.blocks
        open_BL = view.todo_BL & ((number_BL <= current) | last)
        step = view.step % self.inner.steps
        # Tokens of the block at its start: those open now and those revealed since, evenly paced.
        left = self.inner.steps - step
        total_B = torch.div(open_BL.sum(1) * self.inner.steps, left, rounding_mode="trunc")
        return self.inner.reveal(replace(view, step=step, todo_BL=open_BL, total_B=total_B))
