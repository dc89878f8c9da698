import pytest

from trimask.core import rng as random
from trimask.data.world.sentences import (
    LARGEST_NUMBER,
    draw_number,
    draw_sentence,
    number_words,
    vocabulary,
)


@pytest.mark.parametrize(
    ("n", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (20, "twenty"),
        (42, "forty two"),
        (100, "one hundred"),
        (101, "one hundred and one"),
        (999, "nine hundred and ninety nine"),
    ],
)
def test_numbers_in_words(n, words):
    assert number_words(n) == words


def test_every_number_is_said_in_its_own_way():
    assert len({number_words(n) for n in range(LARGEST_NUMBER + 1)}) == LARGEST_NUMBER + 1
    for n in (-1, LARGEST_NUMBER + 1):
        with pytest.raises(ValueError, match=str(n)):
            number_words(n)


def test_sentences_are_short_and_of_a_closed_vocabulary():
    rng = random.generator("test sentences")
    known = vocabulary()
    assert 100 <= len(known) <= 220
    drawn = [draw_sentence(rng) for _ in range(2000)]
    assert all(set(sentence.split()) <= known for sentence in drawn)
    assert all(4 <= len(sentence.split()) <= 11 for sentence in drawn)
    assert len(set(drawn)) > 1500
    assert all(set(draw_number(rng).split()) <= known for _ in range(200))
