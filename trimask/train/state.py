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
from trimask.train.distributed import ALONE, World
from trimask.train.statistics import SPIKE_STEPS, Window


class Source(Protocol):
    """Where batches come from: `data.stream.Stream`, or anything with an exact state."""

    @property
    def manifests(self) -> Sequence[Manifest]: ...

    def __iter__(self) -> Iterator[Batch]: ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: dict[str, Any], /) -> None: ...

    def share(self, rank: int, size: int, /) -> None:
        """Yield one process's part of each batch from now on."""
        ...

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
    world: World = ALONE
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

    def advance(self, taken: Sequence[Batch], tokens: Mapping[str, int], flops: int) -> None:
        """One step more, on these batches; tokens and operations are those of all processes."""
        self.step += 1
        self.flops += flops
        for batch in taken:
            for path, read in batch.epochs.items():
                self.epochs[path] = max(read, self.epochs.get(path, 0.0))
        for name, count in tokens.items():
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
        """The model as its users will have it: whole, averaged weights where there are any, no gradients."""
        averaged = self.average.applied() if self.average else nullcontext()
        with torch.no_grad(), averaged, self.world.undivided(self.model) as model, model.eager():
            yield model

    def weights(self) -> dict[str, Tensor]:
        """The weights that a user of the checkpoint gets; of several processes in the first alone."""
        return self.world.on_first({**self.model.state_dict(), **(self.average.weights if self.average else {})})

    def tensors(self) -> dict[str, Tensor]:
        """Everything but `weights` that is a tensor; of several processes in the first alone."""
        trained = self.model.state_dict() if self.average else {}
        out = {f"model.{k}": v for k, v in trained.items()}
        out |= {f"optimizer.{k}": v for k, v in self.optimizer.tensors().items()}
        return self.world.on_first(out)

    def values(self) -> dict[str, Any]:
        """Everything that is not a tensor, as JSON. Python writes floats so that they come back exactly."""
        return {
            "step": self.step,
            "processed": self.processed,
            "flops": self.flops,
            "epochs": self.epochs,
            "seconds": self.seconds,
            "losses": self.losses,
            "window": self.window.of_all(self.world).state(),
            "source": self.source.state(),
        }

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Give the model other weights, whole ones. Raises `RuntimeError` where names or shapes differ."""
        own = self.model.state_dict()
        self.model.load_state_dict({k: self.world.divided(v, own[k]) if k in own else v for k, v in weights.items()})

    def restore(self, weights: Mapping[str, Tensor], tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Become the state that `weights`, `tensors` and `values` were taken from."""
        if self.average:
            for k, average in self.average.weights.items():
                average.copy_(self.world.divided(weights[k], average))
            weights = _under("model.", tensors)
        self.load(weights)
        self.optimizer.restore(_under("optimizer.", tensors), self.world.divided)
        self.step, self.seconds, self.flops = values["step"], values["seconds"], values["flops"]
        self.processed, self.epochs = dict(values["processed"]), dict(values["epochs"])
        self.losses = list(values["losses"])
        self.window.restore(values["window"])
        if not self.world.first:
            self.window.forget_part()
        self.source.restore(values["source"])


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
