"""Sections about sound: what is said is heard by a recognizer or a judge, and whose voice it is."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from trimask.core.errors import UsageError
from trimask.core.item import Audio, Item
from trimask.evaluation.generator import Generator
from trimask.evaluation.image import spread_table
from trimask.evaluation.judges import Judge
from trimask.evaluation.recognizer import Recognizer
from trimask.evaluation.sets import EvaluationSet, Section, evenly
from trimask.evaluation.speaker import Likeness, Speaker
from trimask.evaluation.table import Findings, Lines, Recordings, Result, row
from trimask.evaluation.transcripts import exact_match, share, word_errors
from trimask.tokenizers.contract import Tokenizer

SHOWN = 16
"""Recordings in a report."""
GROUPS = ("content", "held_out_voice", "speaker")
"""Labels by which errors are also given."""
MOST_GROUPS = 8
ENROLLED = 12
"""Real clips that a voice is known by."""


def speech_of(item: Item) -> Audio:
    """The recording of an item. Raises `UsageError` where it has none."""
    clip = item.parts.get("speech")
    if not isinstance(clip, Audio):
        raise UsageError(f"{item.key} has no speech")
    return clip


def text_of(item: Item) -> str:
    return str(item.parts["text"])


def coded(tokenizer: Tokenizer, clips: Sequence[Audio]) -> list[Audio]:
    """What the audio tokenizer makes of clips."""
    return [tokenizer.decode(tokenizer.encode([clip]))[0] for clip in clips]


def intelligibility(
    recognizer: Recognizer, clips: Sequence[Audio], texts: Sequence[str]
) -> Callable[[Tokenizer], dict[str, float]]:
    """A grader for the training of an audio tokenizer: word error rate of its reconstructions of clips
    whose words are `texts`, and of the clips themselves."""
    real = word_errors(texts, recognizer.transcribe(clips))

    def grade(tokenizer: Tokenizer) -> dict[str, float]:
        rate = word_errors(texts, recognizer.transcribe(coded(tokenizer, clips)))
        return {"wer": rate.value, "wer_error": rate.error, "wer_real": real.value, "items": float(rate.n)}

    return grade


def grouped(items: Sequence[Item]) -> dict[str, list[int]]:
    """Places of the items by the value of each of `GROUPS` that has from two to `MOST_GROUPS` values."""
    out: dict[str, list[int]] = {}
    for label in GROUPS:
        values = [str(i.labels.get(label, "")) for i in items]
        if 2 <= len(set(values)) <= MOST_GROUPS:
            out |= {f"{label} {v}": [i for i, other in enumerate(values) if other == v] for v in sorted(set(values))}
    return out


@dataclass
class Speaking(Section):
    """Texts are spoken; a recognizer that has never heard the model writes down what it hears.

    Printed beside its error on the real recordings of the same texts and on what the audio tokenizer
    makes of them. With a speaker network also the likeness to the requested voice.
    """

    what = "speaking"
    data: EvaluationSet
    recognizer: Recognizer
    n: int = 200
    tokenizer: Tokenizer | None = None
    speaker: Speaker | None = None

    def run(self, generator: Generator, seed: int) -> Findings:
        items = evenly(self.data.items, self.n)
        texts, voices = [text_of(i) for i in items], _voices(items)
        made = generator.clips(texts, voices, seed)
        real = [speech_of(i) for i in items]
        sources = {"generated speech": made, "real speech": real}
        if self.tokenizer is not None:
            sources["reconstructions"] = coded(self.tokenizer, real)
        heard = {name: self._heard(clips) for name, clips in sources.items()}
        results = self._errors(items, texts, heard)
        if self.speaker is not None and voices is not None:
            results += voice_table(self.speaker, self._known(items), sources, voices)
        lines = [f"{t} — heard: {h or '(nothing)'}" for t, h in zip(texts, heard["generated speech"], strict=True)]
        return Findings(results, recordings=[Recordings("spoken", made[:SHOWN], lines[:SHOWN])])

    def _known(self, asked: Sequence[Item]) -> list[Item]:
        """Real items that voices are known by: none of those asked for, where there are others."""
        keys = {i.key for i in asked}
        known = [i for i in (*self.data.train, *self.data.items) if i.key not in keys and "speech" in i.parts]
        return known or list(asked)

    def _heard(self, clips: Sequence[Audio]) -> list[str]:
        """Transcripts; an empty recording says nothing."""
        return [self.recognizer.transcribe([c])[0] if len(c.samples) else "" for c in clips]

    def _errors(self, items: Sequence[Item], texts: Sequence[str], heard: Mapping[str, Sequence[str]]) -> list[Result]:
        best = "reconstructions" if "reconstructions" in heard else "real speech"
        groups = {"": list(range(len(items)))} | {f", {k}": v for k, v in grouped(items).items()}
        out = []
        for suffix, places in groups.items():
            rates = {
                name: word_errors([texts[i] for i in places], [said[i] for i in places]) for name, said in heard.items()
            }
            for name, rate in rates.items():
                own = name == "generated speech"
                reference, against = (rates[best].value, best) if own else (None, "")
                out.append(row(f"word error rate, {name}{suffix}", rate, reference, against))
        exact = exact_match(texts, heard["generated speech"])
        return [*out, row("exact match, generated speech", exact)]


def _voices(items: Sequence[Item]) -> list[str] | None:
    return [str(i.parts["voice"]) for i in items] if all("voice" in i.parts for i in items) else None


def voice_table(
    speaker: Speaker, known: Sequence[Item], sources: Mapping[str, Sequence[Audio]], voices: Sequence[str]
) -> list[Result]:
    """Likeness of the clips of every source to the requested voice, voices known by clips of `known`.

    Requests for a voice without a real clip in `known` are left out, and counted in the note. Where one voice is
    asked for, there is none to compare with.
    """
    clips: dict[str, list[Audio]] = {}
    for item in known:
        clips.setdefault(str(item.parts.get("voice", "")), []).append(speech_of(item))
    wanted = sorted(set(voices) & set(clips))
    if not wanted:
        return []
    pairs = [(c, v) for v in wanted for c in clips[v][:ENROLLED]]
    enrolled = speaker.enrol([c for c, _ in pairs], [v for _, v in pairs])
    found: dict[str, Likeness] = {}
    for name, made in sources.items():
        used = [(c, v) for c, v in zip(made, voices, strict=True) if v in enrolled and len(c.samples)]
        if used:
            found[name] = speaker.likeness([c for c, _ in used], [v for _, v in used], enrolled)
    left_out = sum(v not in enrolled for v in voices)
    note = f"{len(wanted)} voices known by up to {ENROLLED} real clips" + (f", {left_out} left out" if left_out else "")
    # Of a single voice there is no other to be nearer to.
    return _voice_rows(found, _LIKENESS if len(wanted) > 1 else ("own",), note)


_LIKENESS = {
    "own": "likeness to the requested voice",
    "other": "likeness to the other voices",
    "nearest": "requested voice is the nearest",
}


def _voice_rows(found: Mapping[str, Likeness], fields: Iterable[str], note: str) -> list[Result]:
    best = "reconstructions" if "reconstructions" in found else "real speech"
    out = []
    for field in fields:
        for name, likeness in found.items():
            own = name == "generated speech" and best in found
            reference = getattr(found[best], field).value if own else None
            rate = getattr(likeness, field)
            out.append(row(f"{_LIKENESS[field]}, {name}", rate, reference, best if own else "", note))
    return out


@dataclass
class ClassSpeaking(Section):
    """Words of a closed list are spoken; a judge trained on real recordings names the word."""

    what = "speaking"
    data: EvaluationSet
    judge: Judge
    n: int = 200
    tokenizer: Tokenizer | None = None

    def run(self, generator: Generator, seed: int) -> Findings:
        items = evenly(self.data.items, self.n)
        texts, classes = [text_of(i) for i in items], self.data.classes(items, self.judge.labels)
        made, real = generator.clips(texts, _voices(items), seed), [speech_of(i) for i in items]
        judged = ["" if len(c.samples) == 0 else self.judge.predict([c])[0] for c in made]
        right = [a == b for a, b in zip(judged, classes, strict=True)]
        own = self.judge.agreement(real, classes)
        results = [row("judged correct, real recordings", own)]
        reference, against = own.value, "real recordings"
        if self.tokenizer is not None:
            rate = self.judge.agreement(coded(self.tokenizer, real), classes)
            results.append(row("judged correct, reconstructions", rate))
            reference, against = rate.value, "reconstructions"
        results.insert(0, row("judged correct", share(right), reference, against))
        heard = [c for c in made if len(c.samples)]
        results += spread_table(self.data, self.judge, heard, "speech", seed)
        lines = [f"{t} — judged: {j or '(nothing)'}" for t, j in zip(texts, judged, strict=True)]
        step = max(1, len(made) // SHOWN)
        return Findings(results, recordings=[Recordings("spoken", made[::step][:SHOWN], lines[::step][:SHOWN])])


@dataclass
class Transcribing(Section):
    """Real recordings are written down by the model."""

    what = "transcripts"
    data: EvaluationSet
    n: int = 200

    def run(self, generator: Generator, seed: int) -> Findings:
        items = evenly(self.data.items, self.n)
        texts = [text_of(i) for i in items]
        said = generator.transcripts([speech_of(i) for i in items], seed)
        results = [row("word error rate", word_errors(texts, said)), row("exact match", exact_match(texts, said))]
        for value, places in grouped(items).items():
            mine, true = [said[i] for i in places], [texts[i] for i in places]
            results.append(row(f"word error rate, {value}", word_errors(true, mine)))
            results.append(row(f"exact match, {value}", exact_match(true, mine)))
        pairs = list(zip(texts, said, strict=True))[: 2 * SHOWN]
        return Findings(results, lines=[Lines("transcripts", ("spoken", "written"), pairs)])
