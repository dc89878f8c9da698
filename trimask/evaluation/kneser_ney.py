"""Interpolated modified Kneser-Ney over integer symbols: bytes or words (Chen and Goodman 1998).

Everything is sorted arrays: an n-gram is one integer of `order` digits, its count is found by binary
search, and a whole text is scored with a few such searches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trimask.core.errors import UsageError

_BITS = 62


@dataclass(frozen=True)
class _Order:
    """n-grams of one order: sorted codes and their discounted counts; contexts, their totals and the
    mass that their discounts free for the lower order."""

    grams: np.ndarray
    discounted: np.ndarray
    contexts: np.ndarray
    totals: np.ndarray
    freed: np.ndarray


class KneserNey:
    """P(symbol | the `order` - 1 symbols before it) over symbols 0 .. `symbols` - 1.

    `symbols` - 1 is the boundary: it ends every document, and stands before its beginning. Where a
    context was never seen, the shorter one is used; below the unigrams lies the uniform distribution.
    The highest order counts occurrences, lower ones count distinct symbols to the left.
    """

    def __init__(self, documents: Sequence[np.ndarray], symbols: int, order: int = 5):
        self.symbols, self.order, self.boundary = symbols, order, symbols - 1
        self._bits = int(symbols - 1).bit_length()
        if order * self._bits > _BITS:
            raise UsageError(f"order {order} over {symbols} symbols needs more than {_BITS} bits an n-gram")
        if not len(documents):
            raise UsageError("a language model needs at least one document")
        stream, _ = self._stream(documents)
        codes = self._codes(stream, order)
        # n-grams that reach over the end of a document into the padding are no events.
        codes = codes[self._events(stream)[order - 1 :]]
        grams, counts = np.unique(codes, return_counts=True)
        levels = []
        for n in range(order, 0, -1):
            levels.append(self._level(grams, counts))
            shorter = grams & ((1 << (self._bits * (n - 1))) - 1)
            grams, counts = np.unique(shorter, return_counts=True)
        self._levels = levels[::-1]

    def nats(self, documents: Sequence[np.ndarray]) -> np.ndarray:
        """-log P of each document, its end included, in nats, shape (documents,)."""
        stream, owner = self._stream(documents)
        events = self._events(stream)[self.order - 1 :]
        p = self._probability(self._codes(stream, self.order)[events])
        return np.bincount(owner[self.order - 1 :][events], -np.log(p), len(documents))

    def probability(self, context: Sequence[int], symbols: np.ndarray) -> np.ndarray:
        """P of each of `symbols` after `context` (shorter contexts begin a document), same shape."""
        before = [self.boundary] * (self.order - 1) + list(context)
        code = 0
        for symbol in before[len(before) - self.order + 1 :]:
            code = code << self._bits | int(symbol)
        return self._probability((np.int64(code) << self._bits) | np.asarray(symbols, np.int64))

    def grams(self, *symbols: np.ndarray | int) -> np.ndarray:
        """P of the last of `order` symbols given the others, broadcast over arrays of symbols."""
        code = np.zeros((), np.int64)
        for symbol in symbols:
            code = (code << np.int64(self._bits)) | np.asarray(symbol, np.int64)
        return self._probability(np.atleast_1d(code))

    def _stream(self, documents: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """All documents, boundaries before and one behind each; and the document of each symbol."""
        margin = np.full(self.order - 1, self.boundary, np.int64)
        end = np.full(1, self.boundary, np.int64)
        pieces = [part for d in documents for part in (margin, np.asarray(d, np.int64), end)]
        sizes = [len(d) + self.order for d in documents]
        return np.concatenate(pieces), np.repeat(np.arange(len(documents)), sizes)

    def _events(self, stream: np.ndarray) -> np.ndarray:
        """Which symbols are predicted: all but the padding before a document.

        A boundary is predicted where the symbol before it is none, or where the document is empty, which
        callers rule out.
        """
        before = np.r_[self.boundary, stream[:-1]]
        return (stream != self.boundary) | (before != self.boundary)

    def _codes(self, stream: np.ndarray, n: int) -> np.ndarray:
        codes = np.zeros(len(stream) - n + 1, np.int64)
        for i in range(n):
            codes = codes << self._bits | stream[i : len(stream) - n + 1 + i]
        return codes

    def _level(self, grams: np.ndarray, counts: np.ndarray) -> _Order:
        cut = _discounts(counts)[np.minimum(counts, 3)]
        contexts, first = np.unique(grams >> self._bits, return_index=True)
        totals = np.add.reduceat(counts, first).astype(float)
        freed = np.add.reduceat(cut, first) / totals
        return _Order(grams, counts - cut, contexts, totals, freed)

    def _probability(self, codes: np.ndarray) -> np.ndarray:
        p = np.full(len(codes), 1 / self.symbols)
        for n, level in enumerate(self._levels, start=1):
            gram = codes & ((np.int64(1) << np.int64(self._bits * n)) - 1)
            at, seen = _find(level.contexts, gram >> self._bits)
            own, known = _find(level.grams, gram)
            share = np.where(known, level.discounted[own], 0.0) / level.totals[at]
            p = np.where(seen, share + level.freed[at] * p, p)
        return p


def _find(table: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of keys in a sorted table, and which are really there."""
    place = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    return place, table[place] == keys


def _discounts(counts: np.ndarray) -> np.ndarray:
    """D(0), D(1), D(2), D(3+) by Chen and Goodman's equation 26.

    Where the data are too few for it (no n-gram with a count of one to four), half of each of the
    first three counts.
    """
    n = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].astype(float)
    if (n == 0).any():
        return np.array([0.0, 0.5, 1.0, 1.5])
    y = n[0] / (n[0] + 2 * n[1])
    raw = [i - (i + 1) * y * n[i] / n[i - 1] for i in (1, 2, 3)]
    return np.array([0.0, *np.clip(raw, [0, 0, 0], [1, 2, 3])])


END_OF_BYTES = 256


def bytes_of(texts: Sequence[str]) -> list[np.ndarray]:
    """Texts as documents of bytes. Raises `UsageError` for an empty text."""
    if not all(texts):
        raise UsageError("a text to be scored is empty")
    return [np.frombuffer(t.encode(), np.uint8).astype(np.int64) for t in texts]


def byte_model(texts: Sequence[str], order: int = 5) -> KneserNey:
    """The model of the bytes of texts, their ends included."""
    return KneserNey(bytes_of(texts), END_OF_BYTES + 1, order)
