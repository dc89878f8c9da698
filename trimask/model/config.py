"""Size and shape of the transformer."""

import chz

from trimask.core.errors import UsageError
from trimask.core.modality import Vocabulary


@chz.chz
class ModelConfig:
    """One bidirectional transformer over the joint vocabulary."""

    vocabulary: Vocabulary
    depth: int = chz.field(default=6, doc="number of blocks")
    width: int = chz.field(default=256, doc="residual width D")
    head_dim: int = chz.field(default=64, doc="dimension of an attention head K; fixed within a family")
    mlp_ratio: float = chz.field(default=2.0, doc="hidden width of the gated MLP over D")
    rope_base: float = chz.field(default=1000.0, doc="longest RoPE wavelength over 2 pi, in positions")
    base_depth: int = chz.field(default=6, doc="depth at which a residual branch has multiplier 1")
    alpha: float = chz.field(default=1.0, doc="residual branches are multiplied by (depth/base_depth)^-alpha")
    init_std: float = chz.field(default=0.02, doc="standard deviation of embeddings and head at the start")

    @chz.validate
    def _check(self):
        if self.width % self.head_dim:
            raise UsageError(f"model.width={self.width} is not a multiple of model.head_dim={self.head_dim}")
        if self.head_dim % 4:
            raise UsageError(f"model.head_dim={self.head_dim} must be a multiple of 4: two axes of RoPE pairs")

    @property
    def heads(self) -> int:
        return self.width // self.head_dim

    @property
    def hidden(self) -> int:
        """Hidden width of the MLP."""
        return int(self.mlp_ratio * self.width)

    @property
    def branch_scale(self) -> float:
        """Multiplier of every residual branch (CompleteP, Dey et al. 2025)."""
        return (self.depth / self.base_depth) ** -self.alpha

    @property
    def stacked(self) -> bool:
        return any(m.shares_positions for m in self.vocabulary.modalities)
