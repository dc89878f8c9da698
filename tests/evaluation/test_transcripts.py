import numpy as np
import pytest

from trimask.core.errors import UsageError
from trimask.evaluation.transcripts import class_words, exact_match, named_class, normal, ratio, share, word_errors


def test_normal_form_joins_ways_of_writing_the_same_words():
    assert normal("Twenty-one, PLEASE!") == "twenty one please"
    assert normal("312") == "three hundred and twelve"
    assert normal("It’s  1000") == "it's 1000"


def test_word_error_rate_of_equal_texts_is_zero_and_of_silence_one():
    texts = ["three hundred and two", "the queen slept"]
    assert word_errors(texts, texts).value == 0
    assert word_errors(texts, ["", ""]).value == 1


def test_word_error_rate_counts_words_over_all_references():
    rate = word_errors(["a b c d", "e f"], ["a x c", "e f g"])
    assert rate.value == pytest.approx((1 + 1 + 1) / 6)
    assert rate.n == 2


def test_insertions_can_take_the_rate_above_one():
    assert word_errors(["a"], ["b c d"]).value == 3


def test_a_reference_without_words_is_refused():
    with pytest.raises(UsageError, match="without words"):
        word_errors(["..."], ["a"])
    with pytest.raises(UsageError, match="cannot be compared"):
        word_errors(["a", "b"], ["a"])


def test_exact_match_ignores_case_and_marks():
    assert exact_match(["A red star.", "two"], ["a red star", "three"]).value == 0.5


def test_class_words_prefer_the_longer_name():
    names = ("a t-shirt", "a shirt", "trousers")
    assert named_class("this is a t-shirt", names) == "a t-shirt"
    assert named_class("A shirt!", names) == "a shirt"
    assert named_class("shirtless", names) is None
    assert class_words(["a shirt", "trousers"], ["shirt", "a t-shirt"], names).value == 0.5


def test_ratio_error_vanishes_when_all_items_agree():
    value, error = ratio(np.array([1.0, 2.0, 4.0]), np.array([2.0, 4.0, 8.0]))
    assert value == 0.5 and error == pytest.approx(0)


def test_share_of_nothing_is_refused():
    with pytest.raises(UsageError):
        share([])
