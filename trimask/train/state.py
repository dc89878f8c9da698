"""All that changes while a run trains: what a checkpoint holds, and nothing else does."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from trimask.data.manifest import Manifest
from trimask.data.stream import Batch
from trimask.model.transformer import Transformer
from trimask.optim.average import Average
from trimask.optim.optimizer import Optimizer
from trimask.train.statistics import SPIKE_STEPS, Window


class Source(Protocol):
    """Where batches come from: `data.stream.Stream`, or anything with an exact state."""

    @property
    def manifests(self) -> Sequence[Manifest]: ...

    def __iter__(self) -> Iterator[Batch]: ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: dict[str, Any], /) -> None: ...

    def durations(self, modality: str, /) -> np.ndarray | None:
        """How long each code of a line lasts in what runs beside it; None where nothing does."""
        ...


@dataclass
class TrainState:
    """Weights, optimizer, averages, position in the data, counters and running statistics.

    There is no generator in it: all randomness is a function of what it is for.
    """

    model: Transformer
    optimizer: Optimizer
    average: Average | None
    source: Source
    window: Window
    step: int = 0
    processed: dict[str, int] = field(default_factory=dict)
    """Tokens so far, by modality."""
    flops: int = 0
    epochs: dict[str, float] = field(default_factory=dict)
    """Furthest progress through each source."""
    seconds: float = 0.0
    """Time spent in the loop, over all its sessions."""
    losses: list[float] = field(default_factory=list)
    """Of the last steps, for the spike rule."""
    inherited: Sequence[Mapping[str, Any]] = ()
    """Manifests of what trained the weights that the run started from."""

    @property
    def tokens(self) -> int:
        """All of `processed`."""
        return sum(self.processed.values())

    def advance(self, taken: Sequence[Batch], flops: int) -> None:
        """One step more, on these batches."""
        self.step += 1
        self.flops += flops
        for batch in taken:
            for path, read in batch.epochs.items():
                self.epochs[path] = max(read, self.epochs.get(path, 0.0))
            for name, count in batch.tokens.items():
                self.processed[name] = self.processed.get(name, 0) + count

    def manifests(self) -> list[Mapping[str, Any]]:
        """Of all that trained the weights: first those of this run's data, in its order."""
        own = [m.json() for m in self.source.manifests]
        known = {m["fingerprint"] for m in own}
        return [*own, *(m for m in self.inherited if m["fingerprint"] not in known)]

    def remember(self, loss: float) -> None:
        self.losses = [*self.losses, loss][-SPIKE_STEPS:]

    @contextmanager
    def for_evaluation(self) -> Iterator[Transformer]:
        """The model as its users will have it: averaged weights where there are any, no gradients."""
        with torch.no_grad(), self.model.eager(), self.average.applied() if self.average else nullcontext():
            yield self.model

    def weights(self) -> dict[str, Tensor]:
        """The weights that a user of the checkpoint gets."""
        return {**self.model.state_dict(), **(self.average.weights if self.average else {})}

    def tensors(self) -> dict[str, Tensor]:
        """Everything but `weights` that is a tensor."""
        trained = self.model.state_dict() if self.average else {}
        out = {f"model.{k}": v for k, v in trained.items()}
        out |= {f"optimizer.{k}": v for k, v in self.optimizer.tensors().items()}
        return out

    def values(self) -> dict[str, Any]:
        """Everything that is not a tensor, as JSON. Python writes floats so that they come back exactly."""
        return {
            "step": self.step,
            "processed": self.processed,
            "flops": self.flops,
            "epochs": self.epochs,
            "seconds": self.seconds,
            "losses": self.losses,
            "window": self.window.state(),
            "source": self.source.state(),
        }

    def restore(self, weights: Mapping[str, Tensor], tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Become the state that `weights`, `tensors` and `values` were taken from."""
        if self.average:
            for k, average in self.average.weights.items():
                average.copy_(weights[k])
            weights = _under("model.", tensors)
        self.model.load_state_dict(weights)
        self.optimizer.restore(_under("optimizer.", tensors))
        self.step, self.seconds, self.flops = values["step"], values["seconds"], values["flops"]
        self.processed, self.epochs = dict(values["processed"]), dict(values["epochs"])
        self.losses = list(values["losses"])
        self.window.restore(values["window"])
        self.source.restore(values["source"])


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
