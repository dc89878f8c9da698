import numpy as np
import pytest

from trimask.core.errors import UsageError
from trimask.evaluation.cloze import Gap, Trigram, gaps, right
from trimask.evaluation.kneser_ney import KneserNey, byte_model, bytes_of

TRAINING = ["the cat sat on the mat", "the dog sat on the log", "a cat and a dog", "the end"] * 3
HELD_OUT = ["the cat sat on the log", "a dog and a cat"]


@pytest.mark.parametrize("context", [b"", b"th", b"the ", b"zzzz", b"on the c"])
@pytest.mark.parametrize("order", [1, 3, 5])
def test_probabilities_add_up_to_one_after_any_context(context: bytes, order: int):
    model = byte_model(TRAINING, order)
    p = model.probability(list(context), np.arange(model.symbols))
    assert p.min() > 0
    assert p.sum() == pytest.approx(1, abs=1e-12)


def test_a_text_costs_the_sum_of_its_symbols():
    model = byte_model(TRAINING, 3)
    text = b"the mat"
    symbols = [*text, model.boundary]
    parts = [model.probability(list(text[:i]), np.array([symbols[i]]))[0] for i in range(len(symbols))]
    assert model.nats(bytes_of(["the mat"]))[0] == pytest.approx(-np.log(parts).sum())


def test_longer_contexts_beat_unigrams_and_training_text_beats_other_text():
    scores = {n: byte_model(TRAINING, n).nats(bytes_of(HELD_OUT)).sum() for n in (1, 2, 5)}
    assert scores[5] < scores[2] < scores[1]
    model = byte_model(TRAINING)
    assert model.nats(bytes_of(["the cat"]))[0] < model.nats(bytes_of(["xqj zvw"]))[0]


def test_a_document_does_not_depend_on_its_neighbours():
    model = byte_model(TRAINING)
    alone = [model.nats(bytes_of([t]))[0] for t in HELD_OUT]
    assert model.nats(bytes_of(HELD_OUT)) == pytest.approx(alone)


def test_lower_orders_count_distinct_left_neighbours():
    # "b" follows only "a" but often; "c" follows many: after an unseen context "c" is the likelier.
    documents = [np.array([0, 1] * 8), np.array([2, 3]), np.array([4, 3]), np.array([5, 3])]
    model = KneserNey(documents, 8, 2)
    b, c = model.probability([6], np.array([1, 3]))
    assert c > b


def test_too_many_symbols_for_the_order_and_empty_texts_are_refused():
    with pytest.raises(UsageError, match="bits"):
        KneserNey([np.array([1])], 100_000, 5)
    with pytest.raises(UsageError, match="empty"):
        bytes_of([""])


def test_gaps_take_out_one_whole_word_and_repeat_under_a_seed():
    found = gaps(HELD_OUT, 2)
    assert found == gaps(HELD_OUT, 2)
    assert len(gaps(HELD_OUT, 0)) == len(gaps(HELD_OUT, 10**6)) >= 2
    for gap in found:
        assert gap.before + gap.word + gap.after in HELD_OUT
        assert gap.word.isalpha()


def test_trigram_fills_from_both_sides():
    model = Trigram(TRAINING)
    gap = Gap("the cat ", "sat", " on the mat")
    assert right(gap, model.fill(gap))
    behind = Gap("the ", "end", "")
    assert right(behind, model.fill(behind))
    assert not right(behind, "dog")
