"""Coordinates of a given line that keep step with what runs beside it, as words with the frames of their sound."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trimask.core.canvas import Canvas
from trimask.core.modality import Vocabulary

STEP = 1 / 8
"""Durations are multiples of it below `LONGEST`, so that their sums are exact in fp32 and they are in bf16."""
LONGEST = 32 - STEP


class Timing(nn.Module):
    """How long each code of a `timed` modality lasts, in units of the first coordinate (frames).

    The durations are not trained by gradient: `data.durations` measures them on the data, and until then a code
    lasts the modality's `pace`. Only what a model is given is laid out so: the coordinates of a target must not
    tell what it says, and neither must those of a part that is withheld.
    """

    def __init__(self, vocabulary: Vocabulary, modality: int):
        super().__init__()
        row = vocabulary.modalities[modality]
        self.first, self.codes = vocabulary.offsets[modality], row.codes
        self.register_buffer("duration", torch.full((row.codes,), float(row.pace)))
        self.duration: Tensor

    @torch.no_grad()
    def set(self, duration: Float[Tensor, "codes"]) -> None:
        """Take durations (codes,), rounded to what is kept exactly."""
        self.duration.copy_((duration / STEP).round().mul(STEP).clamp(STEP, LONGEST))

    def forward(self, canvas: Canvas, coords_BP2: Float[Tensor, "B P 2"]) -> Float[Tensor, "B P 2"]:
        """The coordinates, with every given code of the line at the middle of the time in which it lasts."""
        code_BL = canvas.ids_BL - self.first
        given_BL = (code_BL >= 0) & (code_BL < self.codes) & ~canvas.maskable_BL
        lasts_BL = torch.where(given_BL, self.duration[code_BL.clamp(0, self.codes - 1)], 0.0)
        lasts_BP = torch.zeros_like(coords_BP2[..., 0]).scatter_add(1, canvas.slot_BL, lasts_BL)
        passed_BP = lasts_BP.cumsum(1)
        # A segment starts over at its opening token, which sits at (0, 0).
        opens_BP = (canvas.coords_BP2 == 0).all(-1)
        before_BP = torch.where(opens_BP, passed_BP, 0.0).cummax(1).values
        middle_BP = 1 + passed_BP - before_BP - lasts_BP / 2
        return torch.stack([torch.where(lasts_BP > 0, middle_BP, coords_BP2[..., 0]), coords_BP2[..., 1]], -1)
