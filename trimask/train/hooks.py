"""What a run does every so many steps besides training: samples, drawings, further scores."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chz

from trimask.core.errors import UsageError
from trimask.model.transformer import Transformer
from trimask.tokenizers.contract import Tokenizer


@dataclass(frozen=True)
class Moment:
    """What a hook sees of a run. The model holds the averaged weights where the run keeps an average."""

    step: int
    tokens: int
    progress: float
    model: Transformer
    tokenizers: Mapping[str, Tokenizer]
    folder: Path
    """The run folder; samples belong into `folder / "samples"`."""
    record: Callable[[str, Mapping[str, Any]], None]
    """Writes a row to `metrics.jsonl`: its kind ("samples") and its values."""
    say: Callable[[str], None]
    """Prints a line for the user."""


@chz.chz
class Hook(ABC):
    """Called after every `every` steps and at the end, without gradients. It must not change the model."""

    every: int = 500

    @chz.validate
    def _check_every(self):
        if self.every < 1:
            raise UsageError(f"the hook {type(self).__name__} needs every >= 1, got {self.every}")

    @abstractmethod
    def __call__(self, moment: Moment) -> None:
        """Do its work at this moment."""
