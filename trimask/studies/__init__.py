"""Studies of how settings carry: sweeps of real trainings, kept as typed records, fitted and plotted."""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trimask.studies.base import Study

STUDIES: Mapping[str, str] = {
    "coordinates": "Sizes of activations and updates against width and depth: are they flat?",
    "modules": "Multipliers of the model's parts, searched at the base size.",
    "transfer": "The best learning rate against width and depth: does it stay?",
    "batch": "Final loss against the physical batch, with and without the rule; finds S_crit.",
    "horizon": "How the best rate falls with the length of a run: fits gamma.",
    "mixture": "Shares of the sources: which are best, and does one modality help another?",
    "noise": "Schedules of the masking rate in training, for each modality.",
    "masking": "Complementary masks, and what becomes of conditions.",
    "layout": "Coordinates of positions, and how many codes share one.",
    "paradigm": "Masked diffusion against autoregression, in the same model and loop.",
    "scaling": "Loss over size and tokens, of each modality: how to split a budget.",
}
"""Name -> what it asks, in the order in which one needs them."""


def study(name: str) -> "type[Study]":
    """The class of a study, imported when asked for: `--help` need not load torch."""
    return getattr(import_module(f"{__name__}.{name}"), name.title())
