"""Attention, gated MLP and the residual block. Shapes: see `core.canvas`; `H` heads of dimension `K`.

A block sees positions as (B, P, D), or as (N, D) where only some of them are computed (`model.recall`).
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimask.model.config import ModelConfig

T = TypeVar("T")


class Freezable(nn.Module):
    """A module that makes something of its weights alone at every call, or once while they do not change."""

    holders = 0
    _made: dict[Hashable, object] | None = None

    def once(self, name: Hashable, make: Callable[[], T]) -> T:
        """What `make` returns, the first time over while frozen."""
        made = self._made
        if made is None:
            return make()
        if name not in made:
            made[name] = make()
        return made[name]  # pyright: ignore[reportReturnType]

    def hold(self, by: int) -> None:
        """One holder more or less; the last that goes takes along what was made."""
        self.holders += by
        if not self.holders:
            self._made = None
        elif self._made is None:
            self._made = {}


_HOLDING = Lock()


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Within it the weights do not change, and no gradient is taken: what is made of them alone is made once.

    Several may hold a model at a time, in threads too.
    """
    mine = [m for m in model.modules() if isinstance(m, Freezable)]

    def hold(by: int) -> None:
        with _HOLDING:
            for module in mine:
                module.hold(by)

    hold(1)
    try:
        yield
    finally:
        hold(-1)


class Linear(nn.Linear, Freezable):
    """A bias-free linear map whose fp32 weight is cast to the dtype of its input."""

    def __init__(self, fan_in: int, fan_out: int):
        super().__init__(fan_in, fan_out, bias=False)

    def forward(self, input: Tensor, rows: slice = slice(None)) -> Tensor:
        """All of the outputs, or those of some `rows` of the weight."""
        weight = self.weight
        if input.dtype != weight.dtype:
            weight = self.once(input.dtype, lambda: self.weight.to(input.dtype))
        return F.linear(input, weight[rows])


class RMSNorm(nn.Module):
    """Root-mean-square norm with a gain, computed in fp32 (Zhang and Sennrich 2019)."""

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x32 = x.float()
        scale = torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.eps)
        return (x32 * scale * self.weight).to(x.dtype)


def rope_table(coords_BP2: Tensor, head_dim: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines (B, P, 1, K/2) of rotary embeddings over two axes (Su et al. 2021).

    The first half of the pairs turns with coordinate 0, the second half with coordinate 1.
    """
    pairs = head_dim // 4
    frequency = base ** (-torch.arange(pairs, device=coords_BP2.device, dtype=torch.float32) / pairs)
    angles = (coords_BP2[..., None] * frequency).flatten(-2)
    return angles.cos().to(dtype)[:, :, None], angles.sin().to(dtype)[:, :, None]


def rotate(x_BPHK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pairs (k, k + K/2) by the angles of their position."""
    a, b = x_BPHK.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def attend(q_BHPK: Tensor, k_BHPK: Tensor, v_BHPK: Tensor, mask_B1PP: Tensor) -> Tensor:
    """Softmax attention over the positions that the mask allows.

    On the CPU in bf16 two plain matrix products take a third to all of the fused kernel's time, at rows
    of 128 to 512 positions (dev/LOG.md); everywhere else the fused kernel is used.
    """
    if q_BHPK.device.type == "cpu" and q_BHPK.dtype == torch.bfloat16:
        scores_BHPP = (q_BHPK * q_BHPK.shape[-1] ** -0.5) @ k_BHPK.transpose(-1, -2)
        return scores_BHPP.masked_fill(~mask_B1PP, -torch.inf).softmax(-1) @ v_BHPK
    return F.scaled_dot_product_attention(q_BHPK, k_BHPK, v_BHPK, attn_mask=mask_B1PP)


Reach = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Attention proper: queries, keys and values (..., H, K) of the positions that are computed, to what they see."""


def everywhere(mask_B1PP: Tensor) -> Reach:
    """Attention within rows of which all positions are computed."""

    def reach(q_BPHK: Tensor, k_BPHK: Tensor, v_BPHK: Tensor) -> Tensor:
        mixed = attend(q_BPHK.transpose(1, 2), k_BPHK.transpose(1, 2), v_BPHK.transpose(1, 2), mask_B1PP)
        return mixed.transpose(1, 2)

    return reach


class Attention(nn.Module):
    """Bidirectional attention with normalised queries and keys; their gains are shared by all heads."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.heads = config.heads
        self.qkv = Linear(config.width, 3 * config.width)
        self.out = Linear(config.width, config.width)
        self.q_norm = RMSNorm(config.head_dim)
        self.k_norm = RMSNorm(config.head_dim)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], reach: Reach, at_N: Tensor | None = None) -> Tensor:
        if at_N is None:
            q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        else:
            width = x.shape[-1]
            q = self.qkv(picked(x, at_N), slice(width)).unflatten(-1, (self.heads, -1))
            k, v = self.qkv(x, slice(width, None)).unflatten(-1, (2, self.heads, -1)).unbind(-3)
        turn = rope if at_N is None else (picked(rope[0], at_N), picked(rope[1], at_N))
        q, k = rotate(self.q_norm(q), *turn), rotate(self.k_norm(k), *rope)
        return self.out(reach(q, k, v).flatten(-2))


class GatedMLP(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_up = Linear(config.width, 2 * config.hidden)
        self.down = Linear(config.hidden, config.width)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    """Pre-norm block; both branches are multiplied by `ModelConfig.branch_scales`."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.attention_scale, self.mlp_scale = config.branch_scales
        self.attention_norm = RMSNorm(config.width)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config.width)
        self.mlp = GatedMLP(config)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], reach: Reach, at_N: Tensor | None = None) -> Tensor:
        """The residual stream behind the block; with `at_N` of some positions (N, D), by their flat numbers in B*P."""
        mixed = self.attention(self.attention_norm(x), rope, reach, at_N)
        x = (x if at_N is None else picked(x, at_N)) + self.attention_scale * mixed
        return x + self.mlp_scale * self.mlp(self.mlp_norm(x))


def picked(x_BPX: Tensor, at_N: Tensor) -> Tensor:
    """(N, ...): what is at some of the positions."""
    return x_BPX.flatten(0, 1)[at_N]
