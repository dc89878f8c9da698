"""Cloze: one word of a sentence is taken out, and the model or a trigram model fills the gap."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trimask.core.rng import generator
from trimask.evaluation.kneser_ney import KneserNey
from trimask.evaluation.text import words

_LETTERS = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)*")
_TRIGRAM = 3


@dataclass(frozen=True)
class Gap:
    """A text with one word missing: `before` + word + `after`, spaces kept in `before` and `after`."""

    before: str
    word: str
    after: str


def gaps(texts: Sequence[str], n: int, seed: int = 0, least: int = 4) -> list[Gap]:
    """One gap in each of up to n texts (0: all) of at least `least` words: any word, drawn uniformly."""
    usable = [t for t in texts if len(_LETTERS.findall(t)) >= least]
    order = generator("cloze texts", seed).permutation(len(usable))[: n or None]
    return [_gap(usable[i], seed) for i in order]


def _gap(text: str, seed: int) -> Gap:
    found = list(_LETTERS.finditer(text))
    match = found[int(generator("cloze word", seed, text).integers(len(found)))]
    return Gap(text[: match.start()], match.group(), text[match.end() :])


def right(gap: Gap, answer: str) -> bool:
    """Whether the word of the text was given, capitals aside."""
    return words(answer) == words(gap.word)


class Trigram:
    """A word trigram model (interpolated modified Kneser-Ney) that fills gaps.

    Its vocabulary is the training text's words; other words are one unknown symbol.
    """

    def __init__(self, texts: Sequence[str]):
        counts = Counter(w for t in texts for w in words(t))
        self.names = [w for w, _ in counts.most_common()]
        self._numbers = {w: i for i, w in enumerate(self.names)}
        self._unknown = len(self.names)
        documents = [self._encode(t) for t in texts]
        self.model = KneserNey([d for d in documents if len(d)], self._unknown + 2, _TRIGRAM)

    def _encode(self, text: str) -> np.ndarray:
        return np.array([self._numbers.get(w, self._unknown) for w in words(text)], np.int64)

    def fill(self, gap: Gap, both_sides: bool = True) -> str:
        """The word of the vocabulary that makes the sentence most probable.

        With `both_sides` false, only the two words before the gap are looked at.
        """
        before, after = self._encode(gap.before)[-2:].tolist(), self._encode(gap.after)[:2].tolist()
        candidates = np.arange(len(self.names))
        score = np.log(self.model.probability(before, candidates))
        if both_sides:
            score = score + self._ahead(before, candidates, after)
        return self.names[int(score.argmax())]

    def _ahead(self, before: list[int], candidates: np.ndarray, after: list[int]) -> np.ndarray:
        """log P of the two words (or the end) behind the gap, for every candidate in it."""
        boundary = self.model.boundary
        following = [*after, boundary][:2]
        last = before[-1] if before else boundary
        total = np.log(self.model.grams(last, candidates, following[0]))
        if len(following) == 2:
            total = total + np.log(self.model.grams(candidates, following[0], following[1]))
        return total
