"""Two estimators of the negative ELBO of whole items, each with its standard error.

Both estimate the same number: an upper bound on -log p(targets | given), in nats.

* `by_time`: the integral over s of (1/s) E[sum of CE], s stratified over (0, 1).
* `by_count`: sum over n of (1/n) E[sum of CE over a uniformly drawn n-subset of the targets], the
  same integral done exactly over the number of masked tokens (RADD, Ou et al. 2024; LLaDA eq. 6).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trimask.core.canvas import Canvas, Composer, Row, queries
from trimask.core.modality import Vocabulary
from trimask.core.rng import generator
from trimask.diffusion.denoiser import Denoiser
from trimask.diffusion.objective import columns


@dataclass(frozen=True)
class Bound:
    """Estimate of one item's bound: nats, its standard error, and the number of target tokens."""

    nats: float
    error: float
    tokens: int


Plan = Callable[[np.random.Generator, int, int], tuple[np.ndarray, np.ndarray]]
"""(generator, tokens N, draws S) -> masks (S, N) bool and weights (S,)."""


def by_time(rng: np.random.Generator, n: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Rates stratified over (0, 1]: one in each of `draws` equal intervals; weight 1/s."""
    s = (np.arange(draws) + 1.0 - rng.random(draws)) / draws
    return rng.random((draws, n)) < s[:, None], 1.0 / s


def by_count(rng: np.random.Generator, n: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of masked tokens stratified over 1..n, uniform subsets of that size; weight n/count."""
    u = (np.arange(draws) + rng.random(draws)) / draws
    count = 1 + np.minimum((u * n).astype(int), n - 1)
    ranks = rng.random((draws, n)).argsort(axis=1).argsort(axis=1)
    return ranks < count[:, None], n / count


def _whole(rng: np.random.Generator, n: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """All tokens at once, each given those before it."""
    return np.ones((draws, n), bool), np.ones(draws)


def bounds(
    denoiser: Denoiser,
    rows: Sequence[Row],
    composer: Composer,
    plan: Plan = by_count,
    draws: int = 16,
    seed: int = 0,
    batch: int = 32,
) -> list[Bound]:
    """The bound of each row's targets given the rest of it. `draws` model evaluations a row.

    Of a causal model one evaluation is enough, and the bound is the negative log-likelihood itself.
    The standard error comes from halves of the strata (two interleaved replicates), so `draws`
    must be even and at least 4.
    """
    if draws < 4 or draws % 2:
        raise ValueError(f"draws must be even and at least 4, got {draws}")
    if composer.vocabulary.causal:
        plan, draws = _whole, 1
    copies = [(r, d) for r in range(len(rows)) for d in range(draws)]
    plans = [plan(generator("bound", seed, row.key), _tokens(composer, row), draws) for row in rows]
    value = np.zeros((len(rows), draws))
    for start in range(0, len(copies), batch):
        part = copies[start : start + batch]
        canvas = composer.compose([[rows[r]] for r, _ in part])
        masks = [plans[r][0][d] for r, d in part]
        sums = _masked_ce(denoiser, canvas, masks, composer.vocabulary)
        for (r, d), total in zip(part, sums, strict=True):
            value[r, d] = total * plans[r][1][d]
    return [_summary(value[r], plans[r][0].shape[1]) for r in range(len(rows))]


def _tokens(composer: Composer, row: Row) -> int:
    return int(composer.compose([[row]]).maskable_BL.sum())


def _masked_ce(denoiser: Denoiser, canvas: Canvas, masks: Sequence[np.ndarray], vocabulary: Vocabulary) -> np.ndarray:
    """Sum of cross-entropies at the masked targets of each row, in nats."""
    where_BL = torch.zeros(canvas.shape, dtype=torch.bool)
    where_BL[canvas.maskable_BL] = torch.from_numpy(np.concatenate(masks))
    asked = queries(canvas, where_BL, vocabulary)
    hidden_BL = where_BL & (not vocabulary.causal)
    noisy = canvas.with_ids(canvas.ids_BL.masked_fill(hidden_BL, vocabulary.mask))
    total_B = torch.zeros(canvas.shape[0], dtype=torch.float64)
    for query, logits in zip(asked, denoiser(noisy, asked), strict=True):
        index = query.index_N[: query.count]
        column = columns(canvas.ids_BL.flatten()[index], vocabulary.alphabets[query.alphabet])
        ce = torch.nn.functional.cross_entropy(logits[: query.count], column, reduction="none")
        total_B.index_add_(0, index // canvas.shape[1], ce.double())
    return total_B.numpy()


def _summary(value_S: np.ndarray, tokens: int) -> Bound:
    if len(value_S) == 1:
        return Bound(float(value_S[0]), 0.0, tokens)
    half = 0.5 * abs(value_S[::2].mean() - value_S[1::2].mean())
    return Bound(float(value_S.mean()), float(half), tokens)


def mean(parts: Sequence[Bound]) -> Bound:
    """Mean bound of many items in nats per item; the error is that of the mean over items."""
    nats = np.array([b.nats for b in parts])
    error = nats.std(ddof=1) / np.sqrt(len(nats)) if len(nats) > 1 else parts[0].error
    return Bound(float(nats.mean()), float(error), sum(b.tokens for b in parts))
