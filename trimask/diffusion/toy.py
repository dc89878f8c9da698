"""Exact toy processes: distributions small enough to enumerate, as perfect denoisers.

A `Toy` is a table of probabilities over whole sequences of one line modality. Its denoiser returns
the true posterior of every masked token, so bounds are tight and samplers can be checked against
the exact law.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trimask.core.canvas import Canvas, Query, Segment
from trimask.core.modality import Modality, Vocabulary


@dataclass(frozen=True)
class Toy:
    """A distribution over the columns (code, END or FILL) of the target tokens of a row, each of its own alphabet.

    `support_WN` lists W words of N columns, `probability_W` their probabilities.
    """

    vocabulary: Vocabulary
    support_WN: np.ndarray
    probability_W: np.ndarray

    @property
    def entropy(self) -> float:
        """Entropy of a word in nats: the least any bound can be on average."""
        p = self.probability_W[self.probability_W > 0]
        return float(-(p * np.log(p)).sum())

    def __call__(self, canvas: Canvas, queries: Sequence[Query]) -> list[Tensor]:
        """Exact log-posteriors of the queried tokens, given the tokens that are not masked."""
        v, length = self.vocabulary, canvas.shape[1]
        targets = [row.nonzero()[0] for row in canvas.maskable_BL.numpy()]
        held = np.stack([canvas.ids_BL[row].numpy()[at] for row, at in enumerate(targets)])
        starts = np.array([a.start for a in v.alphabets])
        start = np.stack([starts[canvas.alphabet_BL[row].numpy()[at]] for row, at in enumerate(targets)])
        place = np.zeros(canvas.shape, np.int64)
        for row, at in enumerate(targets):
            place[row, at] = np.arange(len(at))
        out = []
        for query in queries:
            alphabet = v.alphabets[query.alphabet]
            row_N, column_N = np.divmod(query.index_N.numpy(), length)
            rows, inverse = np.unique(row_N, return_inverse=True)
            known = np.where(held == v.mask, -1, held - start)[rows][:, None]
            fits = ((known == -1) | (known == self.support_WN)).all(-1)
            mass_NW = (fits * self.probability_W)[inverse]
            hot_NWA = self.support_WN.T[place[row_N, column_N]][..., None] == np.arange(alphabet.codes + 2)
            mass_NA = (mass_NW[..., None] * hot_NWA).sum(1)
            with np.errstate(divide="ignore", invalid="ignore"):
                log_p = np.log(mass_NA / mass_NA.sum(1, keepdims=True))
            out.append(torch.from_numpy(log_p[:, : alphabet.codes + 2 * query.ends]).float())
        return out


def correlated(words: int = 3, length: int = 3, seed: int = 0) -> Toy:
    """A random distribution over all `words**length` sequences, END behind each: far from independent."""
    rng = np.random.default_rng(seed)
    grids = np.meshgrid(*[np.arange(words)] * length, indexing="ij")
    support = np.stack([g.ravel() for g in grids], axis=1)
    support = np.concatenate([support, np.full((len(support), 1), words)], axis=1)
    vocabulary = Vocabulary(modalities=(Modality(name="text", grid="line", codes=words),))
    return Toy(vocabulary, support, rng.dirichlet(np.full(len(support), 0.3)))


def lengths(probabilities: Sequence[float], span: int, words: int = 2) -> Toy:
    """Uniform words of n codes, n with the given probability, then END and FILL up to `span`."""
    vocabulary = Vocabulary(modalities=(Modality(name="text", grid="line", codes=words, buckets=(span,)),))
    support, mass = [], []
    for n, p in enumerate(probabilities):
        for word in np.ndindex(*[words] * n):
            support.append([*word, words, *[words + 1] * (span - n - 1)])
            mass.append(p / words**n)
    return Toy(vocabulary, np.array(support), np.array(mass))


def target(codes: Sequence[int] | np.ndarray, span: int | None = None, hidden: bool = False) -> Segment:
    """A text target of the given codes."""
    return Segment("text", np.array(codes, np.int32), target=True, span=span, hidden=hidden or None)
