"""Statistics of text: compression baselines, and what a sample shares with the training text."""

import lzma
import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain

import numpy as np

from trimask.core.errors import UsageError
from trimask.core.rng import generator
from trimask.evaluation.transcripts import Rate, share

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_MIX = np.uint64(0x9E3779B97F4A7C15)


def words(text: str) -> list[str]:
    """Words in lower case: runs of letters, apostrophes inside."""
    return [w.lower() for w in _WORD.findall(text)]


def xz_bits_per_byte(texts: Sequence[str], given: Sequence[str] = ()) -> float:
    """Size of the texts under `xz -9`, one after the other, in bits per byte.

    With `given`, what they add to the compressed size of that text before them.
    """
    data, before = "\n".join(texts).encode(), "".join(t + "\n" for t in given).encode()
    extra = _xz(before + data) - (_xz(before) if before else 0)
    return 8 * extra / len(data)


def _xz(data: bytes) -> int:
    return len(lzma.compress(data, preset=9))


def vocabulary_share(sampled: Sequence[str], training: Sequence[str]) -> Rate:
    """Share of the words of sampled texts that occur in the training texts."""
    known = set(chain.from_iterable(words(t) for t in training))
    return share([w in known for t in sampled for w in words(t)])


def unigram_entropy(texts: Sequence[str], n: int, seed: int = 0) -> float:
    """Entropy in bits of the words of texts, from n words drawn without replacement.

    The estimate grows with n, so texts are compared at equal n. Raises `UsageError` for fewer words.
    """
    everything = list(chain.from_iterable(words(t) for t in texts))
    if len(everything) < n or n < 1:
        raise UsageError(f"the entropy of {n} words cannot be taken from {len(everything)}")
    chosen = generator("unigram entropy", seed).permutation(len(everything))[:n]
    counts = np.array(list(Counter(everything[i] for i in chosen).values()), float)
    return float(np.log2(n) - (counts * np.log2(counts)).sum() / n)


def distinct(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams of words over all n-grams of words (Li et al. 2016)."""
    grams = [tuple(own[i : i + n]) for own in map(words, texts) for i in range(len(own) - n + 1)]
    if not grams:
        raise UsageError(f"no text has {n} words")
    return len(set(grams)) / len(grams)


def longest_copy(sampled: Sequence[str], training: Sequence[str]) -> tuple[int, str]:
    """Words of the longest run that a sampled text shares with a training text, and the run.

    By 64-bit hashes of n-grams: every run of a copied run is copied too, so n is found by halving.
    """
    names: dict[str, int] = {}
    ours, theirs = _numbered(sampled, names), _numbered(training, names)
    low, high, found = 0, max((len(s) for s in ours), default=0), ""
    while low < high:
        n = (low + high + 1) // 2
        place = _shared(ours, theirs, n)
        if place is None:
            high = n - 1
        else:
            low, found = n, " ".join(words(sampled[place[0]])[place[1] : place[1] + n])
    return low, found


def _numbered(texts: Sequence[str], names: dict[str, int]) -> list[np.ndarray]:
    return [np.array([names.setdefault(w, len(names) + 1) for w in words(t)], np.uint64) for t in texts]


def _hashes(document: np.ndarray, n: int) -> np.ndarray:
    """Polynomial hash of every n-gram of a document."""
    size = len(document) - n + 1
    if size < 1:
        return np.zeros(0, np.uint64)
    out = np.zeros(size, np.uint64)
    for i in range(n):
        out = out * _MIX + (document[i : i + size] + np.uint64(1)) * np.uint64(0xD6E8FEB86659FD93)
    return out


def _shared(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], n: int) -> tuple[int, int] | None:
    """(text, place) of the first n-gram of ours that occurs in theirs."""
    known = np.unique(np.concatenate([_hashes(d, n) for d in theirs] or [np.zeros(0, np.uint64)]))
    for text, document in enumerate(ours):
        hit = np.flatnonzero(np.isin(_hashes(document, n), known))
        if len(hit):
            return text, int(hit[0])
    return None
