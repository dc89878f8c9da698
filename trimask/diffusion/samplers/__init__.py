"""Samplers: each decides which of the drawn tokens to reveal at a step. One algorithm a file."""

from trimask.diffusion.samplers.ancestral import Ancestral
from trimask.diffusion.samplers.base import Move, Sampler, Score, View
from trimask.diffusion.samplers.confidence import Confidence
from trimask.diffusion.samplers.entropy_bounded import EntropyBounded
from trimask.diffusion.samplers.first_hitting import FirstHitting
from trimask.diffusion.samplers.phases import Blockwise, LevelOrdered, Phases
from trimask.diffusion.samplers.planning import Planning
from trimask.diffusion.samplers.random_order import RandomOrder
from trimask.diffusion.samplers.remasking import Remasking
from trimask.diffusion.samplers.threshold import Threshold

__all__ = [
    "Ancestral",
    "Blockwise",
    "Confidence",
    "EntropyBounded",
    "FirstHitting",
    "LevelOrdered",
    "Move",
    "Phases",
    "Planning",
    "RandomOrder",
    "Remasking",
    "Sampler",
    "Score",
    "Threshold",
    "View",
]
