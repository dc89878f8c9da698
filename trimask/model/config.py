"""Size and shape of the transformer, and how it is parametrized."""

from typing import Literal

import chz
from chz.mungers import if_none

from trimask.core.config import POSITIVE, check
from trimask.core.errors import UsageError
from trimask.core.modality import Vocabulary

Parametrization = Literal["completep", "mup", "standard"]
SIZES = ("head_dim", "aspect", "depth", "width", "base_depth", "base_width")
NUMBERS = ("mlp_ratio", "rope_base", "attention_branch", "mlp_branch", "embedding_std", "head_std")


def width_at(depth: int, aspect: int, head_dim: int) -> int:
    """Width of a family's model: `aspect` times the depth, rounded down to whole heads, at least one."""
    return max(1, aspect * depth // max(1, head_dim)) * head_dim


@chz.chz
class ModelConfig:
    """One bidirectional transformer over the joint vocabulary.

    `depth` is the dial of size: where `width` is not given it follows as `aspect` times the depth, rounded down to
    whole heads. What changes with the size is a function of m_N = width / base_width and m_L = depth / base_depth
    (`optim.parametrization`).
    """

    vocabulary: Vocabulary
    depth: int = chz.field(default=6, doc="number of blocks")
    width: int = chz.field(
        default=None,  # pyright: ignore[reportArgumentType]
        munger=if_none(lambda c: width_at(c.depth, c.aspect, c.head_dim)),
        doc="residual width D; by default aspect times depth, in whole heads",
    )
    aspect: int = chz.field(default=48, doc="width over depth, where the width is not given")
    head_dim: int = chz.field(default=64, doc="dimension of an attention head K; fixed within a family")
    mlp_ratio: float = chz.field(default=2.0, doc="hidden width of the gated MLP over D")
    rope_base: float = chz.field(default=1000.0, doc="longest RoPE wavelength over 2 pi, in positions")
    parametrization: Parametrization = chz.field(
        default="completep", doc="how settings follow the size; mup leaves the depth out, standard both"
    )
    base_width: int = chz.field(default=256, doc="width at which m_N is 1")
    base_depth: int = chz.field(default=6, doc="depth at which m_L is 1")
    alpha: float = chz.field(default=1.0, doc="residual branches are multiplied by m_L^-alpha")
    attention_branch: float = chz.field(default=1.0, doc="multiplier of the branches of attention at the base")
    mlp_branch: float = chz.field(default=1.0, doc="multiplier of the branches of the MLP at the base")
    embedding_std: float = chz.field(default=0.5, doc="standard deviation of embeddings at the start")
    head_std: float = chz.field(default=0.02, doc="standard deviation of the output weights at the start, at the base")
    tied: bool = chz.field(default=False, doc="the output weights are the embeddings")

    @chz.validate
    def _check(self):
        check(self, "model", POSITIVE, *SIZES, *NUMBERS)
        if self.hidden < 1:
            raise UsageError(f"model.mlp_ratio={self.mlp_ratio} leaves no hidden width of {self.width}")
        if self.width % self.head_dim:
            raise UsageError(f"model.width={self.width} is not a multiple of model.head_dim={self.head_dim}")
        if self.head_dim % 4:
            raise UsageError(f"model.head_dim={self.head_dim} must be a multiple of 4: two axes of RoPE pairs")
        if not 0.5 <= self.alpha <= 1:
            raise UsageError(f"model.alpha={self.alpha} must lie in [0.5, 1]: below, deep models are not stable")
        if self.parametrization not in ("completep", "mup", "standard"):
            raise UsageError(f"model.parametrization={self.parametrization}: choose completep, mup or standard")

    @property
    def heads(self) -> int:
        return self.width // self.head_dim

    @property
    def hidden(self) -> int:
        """Hidden width of the MLP."""
        return int(self.mlp_ratio * self.width)

    @property
    def width_ratio(self) -> float:
        """m_N, or 1 where the parametrization knows no width."""
        return 1.0 if self.parametrization == "standard" else self.width / self.base_width

    @property
    def depth_ratio(self) -> float:
        """m_L, or 1 where the parametrization knows no depth."""
        return self.depth / self.base_depth if self.parametrization == "completep" else 1.0

    @property
    def branch_scales(self) -> tuple[float, float]:
        """Multipliers of the residual branches of attention and MLP (CompleteP, Dey et al. 2025)."""
        scale = self.depth_ratio**-self.alpha
        return self.attention_branch * scale, self.mlp_branch * scale

    @property
    def logit_scale(self) -> float:
        """Multiplier of the logits: tied weights have the size of embeddings, not that of a head."""
        return self.head_std / self.embedding_std / self.width_ratio if self.tied else 1.0

    @property
    def stacked(self) -> bool:
        return any(m.shares_positions for m in self.vocabulary.modalities)
