"""What a model costs: exact parameter counts, FLOPs of a step, and an estimate of training memory.

A multiply-add counts as two FLOPs. Counted are the matrix products, attention over all P x P pairs
included (masked pairs are computed too); norms, softmax, embedding lookups and sums of digits' vectors
are not. A backward pass costs twice its forward pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch._subclasses import FakeTensorMode

from trimask.core.canvas import Canvas, Query
from trimask.model.config import ModelConfig
from trimask.model.transformer import Transformer

TRAIN_OVER_FORWARD = 3
MASKED_SHARE = 0.5
"""Mean masked share of the targets under the linear schedule, where no batch is there to count."""


@dataclass(frozen=True)
class Parameters:
    """Number of weights, by part."""

    embedding: int
    body: int
    head: int

    @property
    def total(self) -> int:
        return self.embedding + self.body + self.head


def parameters(config: ModelConfig) -> Parameters:
    """Exact counts for a configuration, without building the model."""
    v, d = config.vocabulary, config.width
    digits = v.digits().shape[1]
    block = 4 * d * d + 3 * d * config.hidden + 2 * d + 2 * config.head_dim
    return Parameters(
        embedding=d * (v.size + digits + 1 + len(v.kinds) + 1 + len(v.alphabets) + d * len(_placed(config))),
        body=config.depth * block,
        head=(0 if config.tied else d * (v.size + digits)) + d + sum(d * d for _ in _stacked(config)),
    )


def _stacked(config: ModelConfig) -> list[int]:
    """Alphabets that have a map of their own in the head."""
    v = config.vocabulary
    return [a for a, row in enumerate(v.alphabets) if v.modalities[row.modality].shares_positions]


def _placed(config: ModelConfig) -> list[int]:
    """Alphabets that have a map of their own in the embedding."""
    v = config.vocabulary
    return [a for a, row in enumerate(v.alphabets) if v.modalities[row.modality].patch > 1]


def forward_flops(config: ModelConfig, rows: int, slots: int, queried: Mapping[int, int]) -> int:
    """FLOPs of one forward pass over `rows` rows of `slots` positions.

    `queried` maps an alphabet's index to the number of its tokens that the head scores, padding
    included.
    """
    d = config.width
    per_position = 2 * (4 * d * d + 3 * d * config.hidden) + 4 * slots * d
    head = sum(n * head_flops(config, a) for a, n in queried.items())
    places = sum(2 * d * d * (config.vocabulary.alphabets[a].codes + 1) for a in _placed(config))
    return rows * slots * config.depth * per_position + head + places


def head_flops(config: ModelConfig, alphabet: int) -> int:
    """FLOPs of scoring one token of an alphabet with the restricted head."""
    columns = config.vocabulary.alphabets[alphabet].codes + 2
    return 2 * config.width * (columns + (config.width if alphabet in _stacked(config) else 0))


def step_flops(config: ModelConfig, rows: int, slots: int, queried: Mapping[int, int]) -> int:
    """FLOPs of one training step: forward and backward."""
    return TRAIN_OVER_FORWARD * forward_flops(config, rows, slots, queried)


def assumed_queries(config: ModelConfig, tokens: int) -> dict[int, int]:
    """Queried tokens per alphabet if `tokens` targets were spread evenly over the modalities."""
    v = config.vocabulary
    per_modality = int(tokens * MASKED_SHARE) // len(v.modalities)
    return {a: per_modality // v.modalities[row.modality].places for a, row in enumerate(v.alphabets)}


@dataclass(frozen=True)
class Memory:
    """Bytes of a training step: an estimate, the allocator's slack and the data left out."""

    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.average + self.activations


def memory(
    config: ModelConfig,
    rows: int,
    slots: int,
    tokens: int,
    dtype: torch.dtype,
    average: bool = False,
    muon: bool = False,
) -> Memory:
    """Memory of training with fp32 weights and `dtype` compute, eager."""
    queried = assumed_queries(config, rows * tokens)
    activations = saved_bytes(config, rows, slots, tokens, queried, dtype)
    return replace(state_memory(config, average, muon), activations=activations)


def state_memory(config: ModelConfig, average: bool = False, muon: bool = False) -> Memory:
    """What is kept between steps, without activations.

    AdamW keeps two moments of a weight; with `muon` those of the matrices of blocks have one.
    """
    weights = 4 * parameters(config).total
    matrices = 4 * config.depth * (4 * config.width**2 + 3 * config.width * config.hidden)
    moments = 2 * weights - (matrices if muon else 0)
    return Memory(weights, weights, moments, weights if average else 0, 0)


def saved_bytes(
    config: ModelConfig, rows: int, slots: int, tokens: int, queried: Mapping[int, int], dtype: torch.dtype
) -> int:
    """Bytes that a forward pass keeps for its backward pass.

    The pass itself is traced on tensors without storage, so that no formula can drift from the code.
    """
    kept: dict[int, tuple[object, int]] = {}
    with FakeTensorMode():
        model = Transformer(config)
        model.dtype = dtype
        own = {p.untyped_storage()._cdata for p in model.parameters()}

        def keep(x: torch.Tensor) -> torch.Tensor:
            storage = x.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = (storage, storage.nbytes())
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            logits = model(_blank(rows, slots, tokens), _blank_queries(queried))
            losses = [torch.nn.functional.cross_entropy(x, x.new_zeros(len(x), dtype=torch.long)) for x in logits]
    del losses
    return sum(size for _, size in kept.values())


def _blank(rows: int, slots: int, tokens: int, segments: int = 8) -> Canvas:
    """A canvas of the right shapes; its content does not matter to what a pass keeps."""

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(rows, *shape, dtype=torch.long)

    return Canvas(
        ids_BL=zeros(tokens),
        alphabet_BL=zeros(tokens),
        kind_BL=zeros(tokens),
        slot_BL=zeros(tokens),
        maskable_BL=zeros(tokens).bool(),
        weight_BL=zeros(tokens).float(),
        coords_BP2=zeros(slots, 2),
        segment_BP=zeros(slots),
        sees_BGG=zeros(segments, segments).bool(),
        spans=(),
    )


def _blank_queries(queried: Mapping[int, int]) -> Sequence[Query]:
    return [Query(a, torch.zeros(n, dtype=torch.long), n) for a, n in queried.items() if n]
