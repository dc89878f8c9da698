"""Reveal the most confident tokens first (MaskGIT, Chang et al. 2022)."""

from dataclasses import dataclass

from torch import Tensor

from trimask.diffusion.samplers.base import Counts, Sampler, View, keep_counts


@dataclass(frozen=True)
class Confidence(Sampler):
    """Score = log-probability of the drawn token + annealed Gumbel noise - `level_penalty` * level.

    `gumbel` is the noise's scale before the first step; it falls linearly, to zero at the last. A level
    penalty reveals coarse audio codebooks first (OmniVoice and MaskGCT style orders).
    """

    steps: int = 32
    counts: Counts = "cosine"
    gumbel: float = 0.0
    level_penalty: float = 0.0

    def reveal(self, view: View) -> Tensor:
        scale = self.gumbel * (1.0 - (view.step + 1) / self.steps)
        noise_BL = -(-view.noise_BL.clamp(1e-7, 1 - 1e-7).log()).log()
        score_BL = view.score_BL + scale * noise_BL - self.level_penalty * view.level_BL
        return keep_counts(self.counts, view, self.steps, score_BL)
