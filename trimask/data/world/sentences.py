"""What is spoken besides captions: numbers in words, and short sentences of a closed grammar."""

import re
from collections.abc import Sequence

import numpy as np

LARGEST_NUMBER = 999

_UNITS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]

_PEOPLE = (
    "my mother",
    "my father",
    "my sister",
    "our teacher",
    "the doctor",
    "the farmer",
    "the baker",
    "the old man",
    "the young woman",
    "the captain",
    "a little boy",
    "his friend",
    "her brother",
    "the queen",
)
_DID = ["found", "lost", "saw", "bought", "sold", "painted", "carried", "wanted", "kept", "cleaned"]
_MOVED = ["walked", "waited", "slept", "worked", "sang", "laughed", "danced", "played"]
_LOOKS = [
    "old",
    "new",
    "big",
    "small",
    "warm",
    "cold",
    "heavy",
    "broken",
    "empty",
    "white",
    "brown",
    "golden",
    "wooden",
    "beautiful",
]
_THINGS = [
    "house",
    "boat",
    "book",
    "cup",
    "chair",
    "table",
    "lamp",
    "letter",
    "coat",
    "clock",
    "hat",
    "key",
    "basket",
    "window",
    "door",
    "ship",
    "piano",
    "garden",
    "bridge",
    "picture",
]
_COUNTED = [
    "apples",
    "birds",
    "horses",
    "cows",
    "dogs",
    "cats",
    "trees",
    "flowers",
    "stones",
    "bottles",
    "tickets",
    "shoes",
]
_PLACES = (
    "in the garden",
    "at the station",
    "near the river",
    "on the hill",
    "behind the church",
    "under the bridge",
    "by the sea",
    "in the kitchen",
    "at school",
    "on the island",
    "in the forest",
    "across the street",
)
_TIMES = (
    "today",
    "yesterday",
    "last night",
    "this morning",
    "on monday",
    "on friday",
    "on sunday",
    "in the evening",
    "before breakfast",
    "after dinner",
    "every day",
    "in winter",
)
_WEATHER = ["raining", "snowing", "sunny", "cloudy", "windy", "dark", "quiet", "hot"]
_SLOTS: dict[str, Sequence[str]] = {
    "person": _PEOPLE,
    "did": _DID,
    "moved": _MOVED,
    "look": _LOOKS,
    "thing": _THINGS,
    "counted": _COUNTED,
    "place": _PLACES,
    "time": _TIMES,
    "weather": _WEATHER,
    "few": _UNITS[2:13],
}
_PATTERNS = (
    "{person} {did} the {look} {thing}",
    "{person} {did} the {thing} {place}",
    "{person} {did} the {thing} {time}",
    "{person} {did} {few} {counted}",
    "{person} {moved} {place}",
    "{person} {moved} {place} {time}",
    "where is the {look} {thing}",
    "please bring me the {look} {thing}",
    "we saw {few} {counted} {place}",
    "there is a {thing} {place}",
    "the {thing} is {look}",
    "it was {weather} {place} {time}",
)


def number_words(n: int) -> str:
    """0 to 999 as British English says it: 312 -> "three hundred and twelve"."""
    if not 0 <= n <= LARGEST_NUMBER:
        raise ValueError(f"{n} is not a number from 0 to {LARGEST_NUMBER}")
    if n < len(_UNITS):
        return _UNITS[n]
    if n < 100:
        tens, unit = divmod(n, 10)
        return _TENS[tens - 2] + (f" {_UNITS[unit]}" if unit else "")
    hundreds, rest = divmod(n, 100)
    return f"{_UNITS[hundreds]} hundred" + (f" and {number_words(rest)}" if rest else "")


def draw_number(rng: np.random.Generator) -> str:
    """A number in words; as often below a hundred as above, so that short ones are not rare."""
    limit = 100 if rng.random() < 0.5 else LARGEST_NUMBER + 1
    return number_words(int(rng.integers(limit)))


def draw_sentence(rng: np.random.Generator) -> str:
    """A sentence of four to nine words, lower case, without punctuation."""
    pattern = _PATTERNS[int(rng.integers(len(_PATTERNS)))]
    return re.sub(r"\{(\w+)\}", lambda m: _draw(_SLOTS[m[1]], rng), pattern)


def _draw(words: Sequence[str], rng: np.random.Generator) -> str:
    return words[int(rng.integers(len(words)))]


def vocabulary() -> frozenset[str]:
    """Every word that a number or a sentence can hold."""
    fixed = re.sub(r"\{\w+\}", "", " ".join(_PATTERNS)).split()
    slots = " ".join(word for words in _SLOTS.values() for word in words).split()
    return frozenset([*_UNITS, *_TENS, "hundred", "and", *fixed, *slots])
