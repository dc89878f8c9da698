"""Training on several devices, one process each, as `torchrun` starts them.

Every process reads the same stream and takes its part of each pass; gradients are sums over all. So what is computed
depends on the number of processes by rounding alone, and a run may go on with another number of them.

State is divided by PyTorch's FSDP2 (`fully_shard`) over `shards` processes, and repeated in all groups of so many:
one a group repeats it everywhere (data parallel), all in one group divide it once (FSDP), between lies HSDP.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor

from trimask.core.errors import TrainingError, TrimaskError, UsageError
from trimask.model.transformer import Transformer
from trimask.train.config import Devices

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule

# What divides tensors is imported where it is used: a run on one device need not wait for it.

T = TypeVar("T")
REACHED = "reached/"
DATA, WORK = "the data", "the work"
STAGES = DATA, WORK
"""Of a step, in this order."""
PAUSE = 0.05
"""Seconds between two looks at what other processes have left."""


@dataclass(frozen=True)
class World:
    """The processes of a run, as one of them sees them; by default it is alone."""

    rank: int = 0
    size: int = 1
    mesh: "DeviceMesh | None" = None
    store: Any = None
    """Where each process says how far it is."""

    @property
    def first(self) -> bool:
        """Whether this one writes and speaks for all."""
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """Sums over all processes, in double precision and the same in each."""
        if self.mesh is None:
            return [*values]
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def of_each(self, value: float) -> list[float]:
        """The value of every process, by rank."""
        return self.sum(*(value * (rank == self.rank) for rank in range(self.size)))

    def reached(self, step: int, stage: str) -> None:
        """Say that this process is at one of the `STAGES` of a step: others name it where they wait in vain."""
        if self.store is not None:
            self.store.set(f"{REACHED}{self.rank}", f"{step} {STAGES.index(stage)} {socket.gethostname()}")

    def late(self) -> str:
        """The processes that are furthest behind, in words."""
        assert self.store is not None
        said = [self.store.get(f"{REACHED}{rank}").decode().split() for rank in range(self.size)]
        places = [(int(step), int(stage)) for step, stage, _ in said]
        step, stage = min(places)
        where = f"{STAGES[stage]} of step {step}"
        behind = [f"{rank} (on {said[rank][2]})" for rank in range(self.size) if places[rank] == (step, stage)]
        if len(behind) == self.size:
            return f"all {self.size} processes are at {where}"
        return f"process {', '.join(behind)} is at {where}, the others are beyond"

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, on all of them; an error of its own is that of all."""
        if self.mesh is None:
            return make()
        sent: list[Any] = [None]
        if self.first:
            try:
                sent = [make()]
            except TrimaskError as e:
                sent = [e]
        dist.broadcast_object_list(sent)
        if isinstance(sent[0], TrimaskError):
            raise sent[0]
        return sent[0]

    def shard(self, model: Transformer) -> None:
        """Divide the weights of a model, which every process holds whole and alike: block by block, and the rest."""
        if self.mesh is None:
            return
        from torch.distributed.fsdp import fully_shard

        for module in (*model.blocks, model):
            sharded = cast("FSDPModule", fully_shard(module, mesh=self.mesh))
            # The loss is divided by the count of all processes already.
            sharded.set_gradient_divide_factor(1.0)
            sharded.set_force_sum_reduction_for_comms(True)

    def whole(self, tensor: Tensor) -> Tensor:
        """All of a tensor that may be divided; every process must ask for it."""
        return tensor if self.mesh is None or not hasattr(tensor, "full_tensor") else cast(Any, tensor).full_tensor()

    def on_first(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors in the memory of the first process, one after the other; the others get none."""
        if self.mesh is None:
            return dict(tensors)
        out = {}
        for name, tensor in tensors.items():
            found = self.whole(tensor.detach())
            if self.first:
                out[name] = found.cpu()
        return out

    def divided(self, tensor: Tensor, like: Tensor) -> Tensor:
        """A tensor that every process holds whole, on the device of another and divided as that is."""
        tensor = tensor.to(like.device)
        if self.mesh is None or not hasattr(like, "placements"):
            return tensor
        from torch.distributed.tensor import distribute_tensor

        there: Any = like
        return distribute_tensor(tensor, there.device_mesh, there.placements, src_data_rank=None)

    @contextmanager
    def undivided(self, model: Transformer) -> Iterator[Transformer]:
        """The model, or a whole copy of one that is divided, so that a process can evaluate it by itself."""
        if self.mesh is None:
            yield model
            return
        copy = Transformer(model.config).to(next(model.parameters()).device)
        copy.dtype = model.dtype
        copy.load_state_dict({k: self.whole(v) for k, v in model.state_dict().items()})
        yield copy


ALONE = World()


@contextmanager
def joined(device: str, config: Devices) -> Iterator[World]:
    """The processes that `torchrun` started with this one. Raises `UsageError` where they cannot be grouped."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    shards = config.shards or size
    if size % shards:
        raise UsageError(f"devices.shards={shards} does not divide the {size} processes of this run")
    kind = "cuda" if device.startswith("cuda") else "cpu"
    if kind == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    from torch.distributed.device_mesh import init_device_mesh

    wait = timedelta(minutes=config.timeout)
    c10d: Any = dist  # what it has of stores is not in its list of public names
    kept, rank, _ = next(c10d.rendezvous("env://", timeout=wait))
    store = c10d.PrefixStore(_start(kept, rank, size, wait), kept)
    backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=wait, store=c10d.PrefixStore("group", store), rank=rank, world_size=size)
    try:
        mesh = init_device_mesh(kind, (size // shards, shards), mesh_dim_names=("replicate", "shard"))
        world = World(rank, size, mesh, c10d.PrefixStore("trimask", store))
        world.reached(0, DATA)
        world.sum(0.0)
        yield world
    except (RuntimeError, ValueError) as e:
        if isinstance(e, TrimaskError) or not _is_of_others(e):
            raise
        raise TrainingError(
            f"process {rank} waits in vain for the others: {world.late()}. Look at that process and its machine; "
            f"the same command goes on from the last checkpoint ({str(e).splitlines()[0]})"
        ) from e
    finally:
        dist.destroy_process_group()


def _start(store: Any, rank: int, size: int, wait: timedelta) -> str:
    """A name for this start of the processes. Raises `TrainingError` where some do not come.

    The agent of `torchrun` keeps its store when it starts processes anew, and with it the addresses of those that are
    gone. So each leaves a word of its own, and the first answers with a name and the words it has read until every
    process has found its word in the answer: what an earlier start left has none of them.
    """
    word, end = uuid4().hex, time.monotonic() + wait.total_seconds()
    store.set(f"word/{rank}", word)
    lacking = {*range(1, size)}
    while lacking:
        if time.monotonic() > end:
            absent = ", ".join(map(str, sorted(lacking))) if rank == 0 else "0"
            raise TrainingError(f"process {absent} of {size} did not come within {wait}; look at what it says")
        if rank == 0:
            words = [store.get(f"word/{r}").decode() for r in range(1, size) if store.check([f"word/{r}"])]
            store.set("answer", " ".join([word, *words]))
            lacking = {r for r in lacking if not store.check([f"{word}/{r}"])}
        elif store.check(["answer"]):
            name, *words = store.get("answer").decode().split()
            if word in words:
                store.set(f"{name}/{rank}", "here")
                return name
        time.sleep(PAUSE)
    return word


def _is_of_others(error: Exception) -> bool:
    """Whether an error of a collective operation says that another process is late or gone."""
    text = str(error).lower()
    return any(words in text for words in ("timed out", "timeout", "connection closed", "connection reset"))
