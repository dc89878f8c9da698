"""Comparing words: normal form, word error rate, exact match, the class word of a caption."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import jiwer
import numpy as np

from trimask.core.errors import UsageError
from trimask.data.world.sentences import LARGEST_NUMBER, number_words

_NOT_SPOKEN = re.compile(r"[^\w' ]+|_")


class Rate(NamedTuple):
    """A share with its standard error and the number of cases it is a share of."""

    value: float
    error: float
    n: int


def normal(text: str) -> str:
    """Lower case, hyphens as spaces, no punctuation, numbers up to 999 in words, single spaces."""
    words = _NOT_SPOKEN.sub("", text.lower().replace("-", " ").replace("’", "'").replace("\n", " ")).split()
    return " ".join(number_words(int(w)) if w.isdigit() and int(w) <= LARGEST_NUMBER else w for w in words)


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> Rate:
    """Word error rate over all references: (substitutions + deletions + insertions) / reference words.

    Texts are brought to `normal` form. The standard error is that of a ratio of sums over clips; n is
    the number of clips. Raises `UsageError` for unequal numbers or a reference without words.
    """
    if len(references) != len(hypotheses) or not references:
        raise UsageError(f"{len(references)} references and {len(hypotheses)} hypotheses cannot be compared")
    counts = np.array([_errors(r, h) for r, h in zip(references, hypotheses, strict=True)], float)
    return Rate(*ratio(counts[:, 0], counts[:, 1]), len(counts))


def _errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """(errors, reference words) of one pair."""
    reference, hypothesis = normal(reference), normal(hypothesis)
    if not reference:
        raise UsageError("a reference without words has no word error rate")
    found = jiwer.process_words(reference, hypothesis)
    return found.substitutions + found.deletions + found.insertions, len(reference.split())


def ratio(above: np.ndarray, below: np.ndarray) -> tuple[float, float]:
    """Ratio of two sums over items, and its standard error (Cochran 1977, equation 6.13)."""
    value = above.sum() / below.sum()
    if len(above) < 2:
        return float(value), float("nan")
    spread = np.sqrt(((above - value * below) ** 2).sum() / (len(above) * (len(above) - 1)))
    return float(value), float(spread / below.mean())


def share(right: Sequence[bool] | np.ndarray) -> Rate:
    """Share of true cases with its binomial standard error."""
    cases = np.asarray(right, float)
    if len(cases) == 0:
        raise UsageError("a share needs at least one case")
    p = float(cases.mean())
    return Rate(p, float(np.sqrt(p * (1 - p) / len(cases))), len(cases))


def exact_match(references: Sequence[str], hypotheses: Sequence[str]) -> Rate:
    """Share of texts that are equal in `normal` form."""
    return share([normal(r) == normal(h) for r, h in zip(references, hypotheses, strict=True)])


def named_class(text: str, names: Sequence[str]) -> str | None:
    """The class whose name occurs in a text as whole words: the longest, else the first; or None."""
    words = f" {normal(text)} "
    named = [name for name in names if f" {_without_article(name)} " in words]
    return max(named, key=lambda name: len(_without_article(name)), default=None)


def class_words(references: Sequence[str], hypotheses: Sequence[str], names: Sequence[str]) -> Rate:
    """Share of captions that name the right class. `references` are class names."""
    return share([named_class(h, names) == r for r, h in zip(references, hypotheses, strict=True)])


def _without_article(name: str) -> str:
    return re.sub(r"^(a|an|the) ", "", normal(name))
