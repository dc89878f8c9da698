import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimask.core.errors import ArtifactError, UsageError
from trimask.tokenizers.artifact import load
from trimask.tokenizers.text import ENGINE, TextTokenizer

TEXTS = ["the cat sat on the mat", "the red circle is above the blue square"] * 20
TOKENIZER = TextTokenizer.train(iter(TEXTS), 300)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_string_survives_a_round_trip(text):
    (ids,) = TOKENIZER.encode([text])
    assert ids.dtype == np.int32 and ids.ndim == 1
    assert not len(ids) or 0 <= ids.min() <= ids.max() < TOKENIZER.codes
    assert TOKENIZER.decode([ids]) == [text]


def test_an_element_does_not_depend_on_its_batch():
    batch = ["a", "", "the cat", "x" * 1000]
    alone = [TOKENIZER.encode([text])[0] for text in batch]
    for one, together in zip(alone, TOKENIZER.encode(batch), strict=True):
        assert np.array_equal(one, together)


def test_merges_are_learned_and_training_is_deterministic():
    assert 256 < TOKENIZER.codes <= 300
    assert len(TOKENIZER.encode(["the cat"])[0]) < len("the cat")
    assert TextTokenizer.train(iter(TEXTS), 300).fingerprint == TOKENIZER.fingerprint
    assert TOKENIZER.modality.codes == TOKENIZER.codes and TOKENIZER.modality.grid == "line"


def test_an_artifact_keeps_codes_and_fingerprint(tmp_path):
    TOKENIZER.save(tmp_path / "text")
    again = load(tmp_path / "text")
    assert again.fingerprint == TOKENIZER.fingerprint
    assert np.array_equal(again.encode(["the mat"])[0], TOKENIZER.encode(["the mat"])[0])


def test_a_plain_hugging_face_file_is_read(tmp_path):
    TOKENIZER.engine.save(str(tmp_path / "tokenizer.json"))
    again = load(tmp_path)
    assert isinstance(again, TextTokenizer) and again.lossless
    assert again.decode(again.encode(["Ünïcode 🙂"])) == ["Ünïcode 🙂"]


def test_a_changed_artifact_is_refused(tmp_path):
    TOKENIZER.save(tmp_path)
    file = tmp_path / ENGINE
    file.write_text(file.read_text().replace('"use_regex":true', '"use_regex":false'))
    with pytest.raises(ArtifactError, match="fingerprint"):
        load(tmp_path)


def test_wrong_input_is_an_error_with_its_reason(tmp_path):
    with pytest.raises(UsageError, match="256"):
        TextTokenizer.train(TEXTS, 100)
    with pytest.raises(ValueError, match="surrogate"):
        TOKENIZER.encode(["\ud800"])
    with pytest.raises(ValueError, match="lie in"):
        TOKENIZER.decode([np.array([10**6])])
    with pytest.raises(ValueError, match="shape"):
        TOKENIZER.decode([np.zeros((2, 2), int)])
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ArtifactError, match="broken"):
        TextTokenizer.from_file(tmp_path / "broken.json")
