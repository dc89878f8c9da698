import numpy as np
import pytest

from trimask.core.errors import UsageError
from trimask.evaluation import text
from trimask.evaluation.writing import baselines, writing_table

TRAINING = ["the quick brown fox jumps over the lazy dog", "it's a long way home", "nothing is as it was"] * 8


def test_words_keep_apostrophes_and_drop_the_rest():
    assert text.words("It’s 3 Dogs—don't!") == ["it’s", "dogs", "don't"]


def test_vocabulary_share():
    assert text.vocabulary_share(["the fox sings"], TRAINING).value == pytest.approx(2 / 3)


def test_entropy_of_equally_frequent_words():
    assert text.unigram_entropy(["a b c d"], 4) == pytest.approx(2)
    assert text.unigram_entropy(["a a a a"], 4) == pytest.approx(0)
    with pytest.raises(UsageError):
        text.unigram_entropy(["a b"], 3)


def test_distinct_ngrams():
    assert text.distinct(["a b a b"], 1) == 0.5
    assert text.distinct(["a b a b"], 2) == pytest.approx(2 / 3)


def test_longest_copy_is_found_exactly():
    length, run = text.longest_copy(["she saw the quick brown fox sleep", "home"], TRAINING)
    assert (length, run) == (4, "the quick brown fox")
    assert text.longest_copy(["xyz"], TRAINING) == (0, "")


def test_longest_copy_does_not_join_texts():
    assert text.longest_copy(["lazy dog it's a long"], TRAINING)[0] == 3


def test_longest_copy_agrees_with_a_plain_search():
    rng = np.random.default_rng(0)
    alphabet = list("abcd")
    theirs = [" ".join(rng.choice(alphabet, 60)) for _ in range(3)]
    ours = [" ".join(rng.choice(alphabet, 30)) for _ in range(2)]
    plain = max(
        j - i
        for o in ours
        for i in range(30)
        for j in range(i, 31)
        if any(" ".join(o.split()[i:j]) in t for t in theirs)
    )
    assert text.longest_copy(ours, theirs)[0] == plain


def test_xz_gains_from_text_it_has_seen():
    held = ["the quick brown fox jumps over the lazy dog"]
    assert text.xz_bits_per_byte(held, TRAINING) < text.xz_bits_per_byte(held)


def test_tables_hold_samples_against_real_text():
    rows = {r.metric: r for r in writing_table(TRAINING, TRAINING, TRAINING)}
    assert rows["sampled words in the training vocabulary"].value == 1
    assert rows["longest copied run"].value == rows["longest copied run"].reference == 9
    bits = {r.metric: r.value for r in baselines(["the quick brown dog"], TRAINING)}
    assert len(bits) == 3 and all(0 < v < 40 for v in bits.values())


def test_without_training_text_nothing_is_said_of_it():
    metrics = {r.metric for r in writing_table(TRAINING, TRAINING, [])}
    assert "distinct 1-grams" in metrics and not any("training" in m or "copied" in m for m in metrics)


def test_samples_without_words_give_a_row_that_says_so():
    (only,) = writing_table(["", "123"], TRAINING, TRAINING)
    assert only.value == 0
