"""Bounds on held-out data while a run trains: the same batches, masks and weights every time."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch

from trimask.core.modality import Vocabulary
from trimask.data.stream import Batch
from trimask.diffusion.schedules import by_name
from trimask.model.transformer import Transformer
from trimask.train.distributed import ALONE, World
from trimask.train.step import evaluate, to


def batches(source: Iterable[Batch], count: int) -> list[Batch]:
    """The first batches of a held-out stream, kept in memory so that every validation sees the same."""
    return list(islice(source, count))


def bounds(
    model: Transformer, held_out: Sequence[Batch], device: torch.device, world: World = ALONE
) -> dict[str, dict[str, float]]:
    """Negative ELBO per modality in nats per maskable token (END and FILL included), and its error.

    Weights are those of the bound, whatever training uses: a modality's `elbo` and its weights play no part. Of a
    causal model it is the negative log-likelihood itself.
    The error is the standard error over batches of the ratio of sums.
    It is the bound of the stream's own condition modes and needs a stream without anti-masking. The processes of a
    world share the batches out.
    """
    v = model.vocabulary
    nats = np.zeros((len(held_out), len(v.modalities)))
    tokens = np.zeros_like(nats)
    for b, batch in enumerate(held_out):
        if b % world.size == world.rank:
            nats[b], tokens[b] = _sums(model, batch, v, device)
    nats, tokens = (np.reshape(world.sum(*a.flat), a.shape) for a in (nats, tokens))
    return {
        row.name: {"nats": value, "error": _ratio_error(nats[:, m], tokens[:, m], value), "tokens": tokens[:, m].sum()}
        for m, row in enumerate(v.modalities)
        if tokens[:, m].any()
        for value in [float(nats[:, m].sum() / tokens[:, m].sum())]
    }


def _sums(model: Transformer, batch: Batch, v: Vocabulary, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Weighted cross-entropy and number of maskable tokens of each modality."""
    modality_of = np.array([a.modality for a in v.alphabets])
    canvas = batch.masked.canvas
    alphabets = canvas.alphabet_BL[canvas.maskable_BL].cpu().numpy()
    nats = np.zeros(len(v.modalities))
    for terms in evaluate(model, to(batch.masked, device)).terms:
        m = modality_of[terms.alphabet]
        rate = terms.rate_N.cpu().double().numpy()
        weight = 1.0 if v.causal else by_name(v.modalities[m].schedule).weight(rate)
        nats[m] += float((weight * terms.ce_N.cpu().double().numpy()).sum())
    return nats, np.bincount(modality_of[alphabets], minlength=len(v.modalities))


def _ratio_error(nats: np.ndarray, tokens: np.ndarray, ratio: float) -> float:
    """Standard error of sum(nats) / sum(tokens) over independent batches, to first order."""
    n = len(nats)
    if n < 2:
        return float("nan")
    return float((nats - ratio * tokens).std(ddof=1) * np.sqrt(n) / tokens.sum())


def summary(result: dict[str, dict[str, Any]]) -> str:
    """One line for people."""
    return "  ".join(f"{name} {r['nats']:.3f} ± {r['error']:.3f}" for name, r in result.items()) + " nats/token"
