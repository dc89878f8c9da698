"""Samplers: each decides which of the drawn tokens to reveal at a step. One algorithm a file."""

from trimask.diffusion.samplers.ancestral import Ancestral
from trimask.diffusion.samplers.base import Sampler, View
from trimask.diffusion.samplers.blockwise import Blockwise
from trimask.diffusion.samplers.confidence import Confidence
from trimask.diffusion.samplers.random_order import RandomOrder

__all__ = ["Ancestral", "Blockwise", "Confidence", "RandomOrder", "Sampler", "View"]
