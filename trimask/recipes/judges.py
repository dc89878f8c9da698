"""The judges that come with the shipped model: what they are trained on, for how long, and how good they are.

    OUT/recognizer     words of the built-in world's speech
    OUT/speaker        the voices of the world and of the real sets
    OUT/fashion-mnist  OUT/mnist  classes of pictures
    OUT/fsdd           spoken digits

Each is trained on training splits alone and carries its accuracy on real validation and test data in
`judge.json`; with an audio tokenizer also on its reconstructions. A judge that is there already is kept
and only measured anew where the tokenizer is another one; an interrupted training goes on.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import chz
from rich.console import Console

from trimask.core.errors import DataError, UsageError
from trimask.core.files import settled
from trimask.core.item import Audio, Item
from trimask.core.running import progress
from trimask.data.readers.detect import read
from trimask.data.world.source import World
from trimask.evaluation.fitting import Fit
from trimask.evaluation.judges import Judge, train_judge
from trimask.evaluation.recognizer import Recognizer, train_recognizer
from trimask.evaluation.senses import ImageSense, SoundSense
from trimask.evaluation.speaker import COSINE, CROP, Speaker
from trimask.evaluation.transcripts import word_errors
from trimask.recipes.sets import WHERE
from trimask.tokenizers import artifact
from trimask.tokenizers.contract import Tokenizer

JUDGES = ("recognizer", "speaker", "fashion-mnist", "mnist", "fsdd")
REAL_VOICES = ("fsdd", "spoken-words", "read-speech")
"""Real sets whose speakers the speaker network learns besides the world's voices."""
SEED = 1
"""Of the world's items here, so that they are none of those that models are trained on."""


@chz.chz
class JudgesConfig:
    """What to train, from what, and where to."""

    out: str = chz.field(doc="folder of the judges")
    data: str = chz.field(default="", doc="folder of the real sets; empty: only judges of the built-in world")
    audio_tokenizer: str = chz.field(default="", doc="audio tokenizer on whose reconstructions judges are measured")
    only: tuple[str, ...] = chz.field(default=(), doc="names of judges; empty: all that the data allow")
    clips: int = chz.field(default=8000, doc="spoken texts of the world to train on")
    test_clips: int = chz.field(default=400, doc="spoken texts of the world to measure on")
    scale: float = chz.field(default=1.0, doc="factor on the steps of every training")

    @chz.validate
    def _check(self):
        unknown = [name for name in self.only if name not in JUDGES]
        if unknown:
            raise UsageError(f"no judge {unknown[0]!r}; there are: {', '.join(JUDGES)}")

    def fit(self, steps: int, **values: Any) -> Fit:
        return Fit(steps=max(1, round(steps * self.scale)), **values)


def make_judges(config: JudgesConfig, console: Console | None = None) -> dict[str, Mapping[str, float]]:
    """Train what is missing, measure what is not measured; returns the quality of every judge by name."""
    console = console or Console()
    tokenizer = artifact.load(config.audio_tokenizer) if config.audio_tokenizer else None
    out = {}
    for name in config.only or (JUDGES if config.data else ("recognizer", "speaker")):
        judge = _measured(config, name, _made(config, name, console), tokenizer, console)
        out[name] = judge.stored.quality
        figures = ", ".join(f"{k} {v:.4g}" for k, v in out[name].items())
        console.print(f"{name}: {figures}", highlight=False)
    return out


def _made(config: JudgesConfig, name: str, console: Console) -> Recognizer | Judge:
    """The judge of the folder, trained first where there is none."""
    folder = settled(Path(config.out) / name)
    if not folder.exists():
        unfinished = folder.with_name(f"{name}.training")
        _RECIPES[name].train(config, name, unfinished, console).save(folder)
        shutil.rmtree(unfinished, ignore_errors=True)
    return Recognizer.load(folder) if name == "recognizer" else Judge.load(folder)


def _measured(
    config: JudgesConfig, name: str, judge: Any, tokenizer: Tokenizer | None, console: Console
) -> Recognizer | Judge:
    """The judge with its quality, as it is kept in the folder."""
    about = {"audio_tokenizer": tokenizer.fingerprint if tokenizer else ""}
    seen = judge.stored.provenance.get("audio_tokenizer")
    if seen is None or seen != about["audio_tokenizer"] != "":
        figures = _RECIPES[name].measure(config, name, judge, tokenizer, console)
        judge = judge.with_quality(about, **figures)
        judge.save(Path(config.out) / name)
    return judge


def spoken(split: str, count: int, console: Console, seed: int = SEED) -> list[Item]:
    """Speech of the built-in world."""
    world = World(kind="speech", split=split, count=count, seed=seed)  # pyright: ignore[reportArgumentType]
    items = []
    with progress(console, count, 0, f"speaking ({split})") as advance:
        for i in range(count):
            items.append(world[i])
            advance(i + 1, "clips")
    return items


def real(config: JudgesConfig, name: str, split: str) -> list[Item]:
    """The items of a real set whose licence lets us ship what learns from them; a bad record stops, since
    these sets are known to be whole."""
    items = []
    chosen = f"?where={WHERE[name]}" if name in WHERE else ""
    for item in read(f"{Path(config.data) / name}:{split}{chosen}"):
        if not isinstance(item, Item):
            raise DataError(f"{name}:{split} cannot be used to train a judge: {item}")
        items.append(item)
    return items


def reconstructions(tokenizer: Tokenizer, clips: Sequence[Audio], console: Console) -> list[Audio]:
    """What a tokenizer makes of clips."""
    out = []
    with progress(console, len(clips), 0, "coding") as advance:
        for clip in clips:
            out += tokenizer.decode(tokenizer.encode([clip]))
            advance(len(out), "clips")
    return out


RECOGNIZER_STEPS = 3500


def _train_recognizer(config: JudgesConfig, name: str, unfinished: Path, console: Console) -> Recognizer:
    items = spoken("train", config.clips, console)
    fit = config.fit(RECOGNIZER_STEPS, batch=32, rate=3e-3)
    return train_recognizer(
        [_speech(i) for i in items], [_text(i) for i in items], fit, folder=unfinished, console=console
    )


def _measure_recognizer(
    config: JudgesConfig, name: str, judge: Recognizer, tokenizer: Tokenizer | None, console: Console
) -> dict[str, float]:
    """Word error rates on the test part of the world, real and coded, known and held-out voices apart."""
    items = spoken("test", config.test_clips, console)
    known = [i for i in items if not i.labels["held_out_voice"]]
    groups = {f"{c}s": [i for i in known if i.labels["content"] == c] for c in ("number", "sentence", "caption")}
    groups |= {"known_voices": known, "held_out_voice": [i for i in items if i.labels["held_out_voice"]]}
    heard = {i.key: judge.transcribe([_speech(i)])[0] for i in items}
    forms = {"real": heard}
    if tokenizer is not None:
        again = reconstructions(tokenizer, [_speech(i) for i in items], console)
        forms["coded"] = {i.key: t for i, t in zip(items, judge.transcribe(again), strict=True)}
    out = {}
    for form, said in forms.items():
        for group in (g for g in groups if groups[g]):
            rate = word_errors([_text(i) for i in groups[group]], [said[i.key] for i in groups[group]])
            out |= {f"wer_{group}_{form}": rate.value, f"wer_{group}_{form}_error": rate.error}
    return out


def _train_speaker(config: JudgesConfig, name: str, unfinished: Path, console: Console) -> Judge:
    train = spoken("train", config.clips // 5, console)
    held = spoken("validation", config.test_clips, console)
    clips, voices = [_speech(i) for i in train], [str(i.parts["voice"]) for i in train]
    for folder in REAL_VOICES if config.data else ():
        items = real(config, folder, "train")
        clips += [_speech(i) for i in items]
        voices += [f"{folder} {i.labels.get('speaker', 'one')}" for i in items]
    pair = [_speech(i) for i in held], [str(i.parts["voice"]) for i in held]
    sense = SoundSense(cosine=COSINE, crop=CROP)
    return train_judge(clips, voices, pair, sense, config.fit(1500, batch=48), unfinished, name, console)


def _measure_speaker(
    config: JudgesConfig, name: str, judge: Judge, tokenizer: Tokenizer | None, console: Console
) -> dict[str, float]:
    """Likeness of real clips, and of coded ones, to their own voice and to others, the held-out voice
    included. Voices are known by one half of the clips and measured on the other."""
    speaker, items = Speaker(judge), spoken("test", config.test_clips, console)
    clips, voices = [_speech(i) for i in items], [str(i.parts["voice"]) for i in items]
    enrolled = speaker.enrol(clips[::2], voices[::2])
    tested = [(c, v) for c, v in zip(clips[1::2], voices[1::2], strict=True) if v in enrolled]
    forms = {"real": [c for c, _ in tested]}
    if tokenizer is not None:
        forms["coded"] = reconstructions(tokenizer, forms["real"], console)
    out = {}
    for form, sounds in forms.items():
        found = speaker.likeness(sounds, [v for _, v in tested], enrolled)
        rates = {"own": found.own, "other": found.other, "nearest": found.nearest}
        out |= {f"{what}_{form}": rate.value for what, rate in rates.items()}
    return out


def _train_pictures(config: JudgesConfig, name: str, unfinished: Path, console: Console) -> Judge:
    train, test = (_pictures(config, name, split) for split in ("train", "test"))
    sense = ImageSense(side=28, flip=name == "fashion-mnist")
    fit = config.fit(2500 if name == "fashion-mnist" else 1200, batch=64)
    return train_judge(*train, test, sense, fit, unfinished, name, console)


def _measure_pictures(
    config: JudgesConfig, name: str, judge: Judge, tokenizer: Tokenizer | None, console: Console
) -> dict[str, float]:
    return {"accuracy_validation": judge.agreement(*_pictures(config, name, "validation")).value}


def _pictures(config: JudgesConfig, name: str, split: str) -> tuple[list[Any], list[str]]:
    items = real(config, name, split)
    return [i.parts["image"] for i in items], [str(i.labels["name"]) for i in items]


def _train_digits(config: JudgesConfig, name: str, unfinished: Path, console: Console) -> Judge:
    train, held = (_recordings(config, name, split) for split in ("train", "validation"))
    return train_judge(*train, held, SoundSense(), config.fit(1500, batch=48), unfinished, name, console)


def _measure_digits(
    config: JudgesConfig, name: str, judge: Judge, tokenizer: Tokenizer | None, console: Console
) -> dict[str, float]:
    """Accuracy on the speaker that training has not heard, and on what the tokenizer makes of clips."""
    sides = {"validation": _recordings(config, name, "validation"), "unseen_speaker": _recordings(config, name, "test")}
    out = {f"accuracy_{k}": judge.agreement(*side).value for k, side in sides.items()}
    if tokenizer is not None:
        for k, (clips, labels) in sides.items():
            out[f"accuracy_{k}_coded"] = judge.agreement(reconstructions(tokenizer, clips, console), labels).value
    return out


def _recordings(config: JudgesConfig, name: str, split: str) -> tuple[list[Any], list[str]]:
    items = real(config, name, split)
    return [_speech(i) for i in items], [_text(i) for i in items]


def _speech(item: Item) -> Audio:
    clip = item.parts.get("speech")
    if not isinstance(clip, Audio):
        raise DataError(f"{item.key} has no speech")
    return clip


def _text(item: Item) -> str:
    return str(item.parts["text"])


class _Recipe(NamedTuple):
    """How a judge is trained, and what further figures it gets."""

    train: Callable[[JudgesConfig, str, Path, Console], Recognizer | Judge]
    measure: Callable[[JudgesConfig, str, Any, Tokenizer | None, Console], dict[str, float]]


_RECIPES: Mapping[str, _Recipe] = {
    "recognizer": _Recipe(_train_recognizer, _measure_recognizer),
    "speaker": _Recipe(_train_speaker, _measure_speaker),
    "fashion-mnist": _Recipe(_train_pictures, _measure_pictures),
    "mnist": _Recipe(_train_pictures, _measure_pictures),
    "fsdd": _Recipe(_train_digits, _measure_digits),
}


if __name__ == "__main__":
    make_judges(chz.entrypoint(JudgesConfig))
