"""An evaluation of some positions only, against the keys and values that are kept of the others."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trimask.core.canvas import MULTIPLE, Canvas
from trimask.core.memory import Memory
from trimask.model.block import attend

PADDED = 8
"""Queries of a row are padded to a multiple of it: fused attention in fp32 on the CPU rounds one or two differently."""


def stale(canvas: Canvas, memory: Memory, wanted_BL: Bool[Tensor, "B L"], causal: bool = False) -> Bool[Tensor, "B P"]:
    """Positions to be computed: those of wanted tokens and of such whose ids are not those that are remembered.

    Of a row of which nothing is wanted there are none, whatever has changed in it. With `causal` those before them too,
    which predict them.
    """
    moved_BL = wanted_BL | ((canvas.ids_BL != memory.ids_BL) & wanted_BL.any(1, keepdim=True))
    stale_BP = torch.zeros_like(canvas.segment_BP).scatter_reduce_(1, canvas.slot_BL, moved_BL.long(), "amax")
    stale_BP = (stale_BP > 0) & (canvas.segment_BP >= 0)
    return stale_BP | F.pad(stale_BP[:, 1:], (0, 1)) if causal else stale_BP


@dataclass(frozen=True)
class Fresh:
    """The positions that are computed, those of all rows one behind the other: `N`, at most `Q` of a row."""

    count: int
    """How many of the N are real; the others repeat the first, as padded queries do."""
    at_N: Int[Tensor, " N"]
    """int64: flat number of each in the B*P positions."""
    place_N: Int[Tensor, " N"]
    """int64: flat number of each in B*Q."""
    mask_B1QP: Bool[Tensor, "B 1 Q P"]
    """bool: what each attends to."""
    rank_BP: Int[Tensor, "B P"]
    """int64: number of each position among the N, 0 of those that are not computed."""

    @classmethod
    def of(cls, canvas: Canvas, stale_BP: Bool[Tensor, "B P"], causal: bool = False) -> "Fresh":
        """Those of `stale_BP`; with `causal` they attend to what is before them alone."""
        b, p = stale_BP.shape
        at_N = stale_BP.flatten().nonzero().flatten()
        count = len(at_N)
        at_N = torch.cat([at_N, at_N[:1].expand(-count % MULTIPLE)])
        row_N = at_N.div(p, rounding_mode="floor")
        within_BP = stale_BP.cumsum(1) - 1
        most = -(-(int(within_BP[:, -1].amax()) + 1) // PADDED) * PADDED
        place_N = row_N * most + within_BP.flatten()[at_N]
        segment_BP = canvas.segment_BP.clamp(min=0)
        sees_NG = canvas.sees_BGG[row_N, segment_BP.flatten()[at_N]]
        allowed_NP = sees_NG.gather(1, segment_BP[row_N]) & (canvas.segment_BP >= 0)[row_N]
        if causal:
            allowed_NP = allowed_NP & (torch.arange(p, device=at_N.device) <= (at_N % p)[:, None])
        # Each sees itself, as in `attention_mask`.
        allowed_NP = allowed_NP.scatter(1, (at_N % p)[:, None], True)
        mask_XP = torch.ones(b * most, p, dtype=torch.bool, device=at_N.device).index_copy_(0, place_N, allowed_NP)
        rank_BP = (stale_BP.flatten().cumsum(0) - 1).clamp(min=0).view(b, p)
        return cls(count, at_N, place_N, mask_XP.view(b, 1, most, p), rank_BP)

    def canvas(self, whole: Canvas, stacked: bool) -> Canvas:
        """The tokens at these positions as one row, each at the number of its position among them.

        Where tokens are `stacked`, several share a position, and a position that only fills up has none.
        """
        if not stacked:
            token_T = self.at_N
            slot_T = torch.arange(len(token_T), device=token_T.device)
        else:
            p, home = whole.segment_BP.shape[1], self.at_N.device
            chosen_X = torch.zeros(whole.segment_BP.numel(), dtype=torch.bool, device=home)
            chosen_X[self.at_N] = True
            first_B1 = torch.arange(0, len(chosen_X), p, device=home)[:, None]
            position_X = (whole.slot_BL + first_B1).flatten()
            token_T = chosen_X[position_X].nonzero().flatten()
            slot_T = self.rank_BP.flatten()[position_X[token_T]]
        names = ("ids_BL", "alphabet_BL", "kind_BL", "maskable_BL", "weight_BL")
        tokens = {name: getattr(whole, name).flatten()[token_T][None] for name in names}
        segment_BP, coords_BP2 = (t.flatten(0, 1)[self.at_N][None] for t in (whole.segment_BP, whole.coords_BP2))
        return replace(
            whole,
            **tokens,
            slot_BL=slot_T[None],
            segment_BP=segment_BP,
            coords_BP2=coords_BP2,
            sees_BGG=whole.sees_BGG[:1],
            spans=(),
        )

    def attend(self, q_NHK: Tensor, key_BPHK: Tensor, value_BPHK: Tensor) -> Tensor:
        """Attention of these positions to all of their rows, (N, H, K)."""
        b, _, most, _ = self.mask_B1QP.shape
        real = slice(self.count)
        q_XHK = q_NHK.new_zeros(b * most, *q_NHK.shape[1:]).index_copy_(0, self.place_N[real], q_NHK[real])
        q_BHQK = q_XHK.unflatten(0, (b, most)).transpose(1, 2)
        mixed = attend(q_BHQK, key_BPHK.transpose(1, 2), value_BPHK.transpose(1, 2), self.mask_B1QP)
        return mixed.transpose(1, 2).flatten(0, 1)[self.place_N]

    def block(self, memory: Memory, number: int) -> "Kept":
        """What one block's attention reads and writes."""
        return Kept(self, memory.keys[number], memory.values[number])


@dataclass(frozen=True)
class Kept:
    """Keys and values of one block, brought up to date by the positions that are computed."""

    fresh: Fresh
    key_BPHK: Float[Tensor, "B P H K"]
    value_BPHK: Float[Tensor, "B P H K"]

    def attend(self, q_NHK: Tensor, k_NHK: Tensor, v_NHK: Tensor) -> Tensor:
        """Attention of the computed positions to all of their rows, (N, H, K)."""
        at_N, real = self.fresh.at_N[: self.fresh.count], slice(self.fresh.count)
        self.key_BPHK.flatten(0, 1).index_copy_(0, at_N, k_NHK[real])
        self.value_BPHK.flatten(0, 1).index_copy_(0, at_N, v_NHK[real])
        return self.fresh.attend(q_NHK, self.key_BPHK, self.value_BPHK)
