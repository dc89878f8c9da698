"""Sections about text: likelihood against baselines, what samples share with the training text, cloze."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trimask.core.item import Item
from trimask.evaluation import text
from trimask.evaluation.cloze import Gap, Trigram, gaps, right
from trimask.evaluation.generator import Generator
from trimask.evaluation.kneser_ney import KneserNey, byte_model, bytes_of
from trimask.evaluation.likelihood import likelihood
from trimask.evaluation.sets import EvaluationSet, Section, evenly
from trimask.evaluation.table import Findings, Lines, Result, row
from trimask.evaluation.transcripts import ratio, share

ORDER = 5
"""Of the Kneser-Ney baseline, in bytes."""
UNDER_KNESER_NEY = f"bits per byte of samples under order-{ORDER} Kneser-Ney of the training text"
"""What hangs together is likely where it was read; so is what says the same again and again."""
SHOWN = 24
SHORTEST_ENTROPY = 100
"""Words; the entropy of fewer says nothing."""


@dataclass
class Likelihood(Section):
    """The bound of one task on one set; for a text alone also what other models of the text need."""

    data: EvaluationSet
    task: str
    n: int = 200
    draws: int = 16

    @property
    def what(self) -> str:
        return f"likelihood of {self.task}"

    def run(self, generator: Generator, seed: int) -> Findings:
        items = evenly(self.data.items, self.n)
        results = likelihood(generator, items, self.task, self.draws, seed)
        if self.task.rpartition(">")[2] == "text":
            results += likelihood(generator, items, self.task, self.draws, seed, free=True)
        if self.task == "text" and self.data.train:
            results += baselines([_text(i) for i in items], [_text(i) for i in self.data.train])
        return Findings(results)


def baselines(texts: Sequence[str], training: Sequence[str]) -> list[Result]:
    """Bits per byte of the same texts by a Kneser-Ney model and by `xz -9`, given the training texts.

    Kneser-Ney says where a text ends, at no byte; `xz` is given the texts as lines.
    """
    size = np.array([len(t.encode()) for t in texts], float)
    nats = byte_model(training, ORDER).nats(bytes_of(texts))
    value, error = ratio(nats / math.log(2), size)
    n, note = len(texts), f"{int(size.sum())} bytes"
    alone, given = text.xz_bits_per_byte(texts), text.xz_bits_per_byte(texts, training)
    return [
        Result(f"bits per byte, order-{ORDER} Kneser-Ney of the training text", value, n, error, "bits", note=note),
        Result("bits per byte, xz -9 after the training text", given, n, unit="bits", note=note),
        Result("bits per byte, xz -9", alone, n, unit="bits", note=note),
    ]


@dataclass
class Writing(Section):
    """Texts from nothing, compared with real ones."""

    what = "writing"
    data: EvaluationSet
    n: int = 200

    def run(self, generator: Generator, seed: int) -> Findings:
        samples = generator.texts(self.n, seed)
        training = [_text(i) for i in self.data.train]
        held = [_text(i) for i in self.data.items]
        shown = Lines("written", ("text",), [(s,) for s in samples[:SHOWN]])
        return Findings(writing_table(samples, held, training, seed), lines=[shown])


def writing_table(samples: Sequence[str], held: Sequence[str], training: Sequence[str], seed: int = 0) -> list[Result]:
    """Vocabulary, entropy, variety and copying of samples, each beside held-out real text.

    "Real" is `held`. Figures that grow with the amount of text are taken at equal amounts. Without
    `training` texts, what is said of them is left out.
    """
    count = sum(len(text.words(s)) for s in samples)
    if not count:
        return [Result("words in samples", 0, len(samples))]
    real, n = "held-out real text", len(samples)
    out = []
    if training:
        known = text.vocabulary_share(samples, training)
        beside = text.vocabulary_share(held, training).value
        out.append(row("sampled words in the training vocabulary", known, beside, real))
    used = min(count, sum(len(text.words(t)) for t in held))
    if used >= SHORTEST_ENTROPY:
        ours, theirs = (text.unigram_entropy(t, used, seed) for t in (samples, held))
        out.append(
            Result("unigram entropy", ours, n, unit="bits", reference=theirs, against=real, note=f"{used} words a side")
        )
    equal = _first_words(held, count)
    for k in (1, 2, 3):
        if any(len(text.words(s)) >= k for s in samples):
            out.append(
                Result(f"distinct {k}-grams", text.distinct(samples, k), n, None, "", text.distinct(equal, k), real)
            )
    if not training:
        return out
    ours, theirs = (_under(byte_model(training, ORDER), texts) for texts in (samples, equal))
    out.append(Result(UNDER_KNESER_NEY, ours[0], n, ours[1], "bits", theirs[0], real))
    length, copied = text.longest_copy(samples, training)
    other, _ = text.longest_copy(equal, training)
    return [*out, Result("longest copied run", length, n, None, "words", other, real, f"“{copied}”")]


def _under(model: KneserNey, texts: Sequence[str]) -> tuple[float, float]:
    """Bits per byte of the texts that have one, and the error over texts."""
    some = [t for t in texts if t]
    size = np.array([len(t.encode()) for t in some], float)
    return ratio(model.nats(bytes_of(some)) / math.log(2), size)


def _first_words(texts: Sequence[str], count: int) -> list[str]:
    """The first texts that hold `count` words together."""
    total = np.cumsum([len(text.words(t)) for t in texts])
    return list(texts[: int(np.searchsorted(total, count)) + 1])


@dataclass
class Cloze(Section):
    """One word of each sentence is filled in, by the model and by a trigram model of the training text."""

    what = "cloze"
    data: EvaluationSet
    n: int = 400

    def run(self, generator: Generator, seed: int) -> Findings:
        asked = gaps([_text(i) for i in self.data.items], self.n, seed)
        answers = generator.words(asked, seed)
        trigram = Trigram([_text(i) for i in self.data.train])
        sides = {True: "trigram model, both sides", False: "trigram model, left side"}
        theirs = {both: share([right(g, trigram.fill(g, both)) for g in asked]) for both in sides}
        ours = share([right(g, a) for g, a in zip(asked, answers, strict=True)])
        results = [row("words filled in correctly", ours, theirs[True].value, sides[True])]
        results += [row(f"words filled in correctly, {name}", theirs[both]) for both, name in sides.items()]
        pairs = [(_shown(g), g.word, a) for g, a in zip(asked, answers, strict=True)][:SHOWN]
        return Findings(results, lines=[Lines("cloze", ("text", "word", "answer"), pairs)])


def _shown(gap: Gap) -> str:
    return f"{gap.before[-80:]}___{gap.after[:80]}"


def _text(item: Item) -> str:
    return str(item.parts["text"])
