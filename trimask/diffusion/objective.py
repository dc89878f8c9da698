"""The training objective: weighted cross-entropy at masked tokens, the negative ELBO per token.

L = sum over masked tokens of weight * CE / (number of maskable tokens), the normaliser counted over
the whole batch (MDLM, MD4, RADD; LLaDA eq. 3).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from trimask.core.canvas import Query
from trimask.core.modality import Alphabet, Vocabulary
from trimask.diffusion.denoiser import Denoiser
from trimask.diffusion.forward import Masked


@dataclass(frozen=True)
class Terms:
    """Per-token terms of one query, without its padding: cross-entropies in nats, weights, rates."""

    alphabet: int
    ce_N: Float[Tensor, " N"]
    weight_N: Float[Tensor, " N"]
    rate_N: Float[Tensor, " N"]
    column_N: Int[Tensor, " N"]
    """The true id's column in the alphabet: codes, then END, then FILL."""


def columns(ids_N: Int[Tensor, " N"], alphabet: Alphabet) -> Int[Tensor, " N"]:
    """Column of each joint id in the logits of its alphabet."""
    code = ids_N - alphabet.start
    return torch.where(ids_N >= alphabet.end, alphabet.codes + ids_N - alphabet.end, code)


def restrict(logits_NV: Float[Tensor, "N V"], alphabet: Alphabet) -> Float[Tensor, "N A"]:
    """The columns of joint logits that belong to an alphabet, in its order."""
    return logits_NV[:, torch.from_numpy(alphabet.ids).to(logits_NV.device)]


def terms(denoiser: Denoiser, masked: Masked, vocabulary: Vocabulary) -> list[Terms]:
    """Cross-entropy, weight and rate of every masked token, grouped by query."""
    logits = denoiser(masked.canvas, masked.queries)
    return [_terms(q, l, masked, vocabulary) for q, l in zip(masked.queries, logits, strict=True)]


def _terms(query: Query, logits_NA: Tensor, masked: Masked, vocabulary: Vocabulary) -> Terms:
    index = query.index_N[: query.count]
    column = columns(masked.clean_BL.flatten()[index], vocabulary.alphabets[query.alphabet])
    ce = F.cross_entropy(logits_NA[: query.count], column, reduction="none")
    return Terms(query.alphabet, ce, masked.weight_BL.flatten()[index], masked.rate_BL.flatten()[index], column)


def loss(parts: Sequence[Terms], maskable: int) -> Float[Tensor, ""]:
    """The objective of a batch: a scalar in nats per maskable token."""
    return torch.stack([(p.weight_N * p.ce_N).sum() for p in parts]).sum() / max(maskable, 1)
