"""Laws of sampling rows of several modalities, on a toy whose exact law is known."""

import numpy as np
import pytest

from trimask.core.canvas import Composer, Row, Segment, read
from trimask.core.errors import UsageError
from trimask.core.modality import Modality, Vocabulary
from trimask.diffusion import toy
from trimask.diffusion.samplers import FirstHitting, Sampler
from trimask.diffusion.sampling import Engine, sample
from trimask.diffusion.settings import Settings


def one_code_in_text_and_image(count: int):
    """A law of rows whose word and whose picture are one code, the same; a canvas of such rows."""
    text, image = Modality(name="text", grid="line", codes=2), Modality(name="image", grid="plane", codes=2)
    law = toy.Toy(Vocabulary(modalities=(text, image)), np.array([[0, 2, 0], [1, 2, 1]]), np.array([0.5, 0.5]))
    word = Segment("text", np.zeros(1, np.int32), True, hidden=np.array([True, False]))
    picture = Segment("image", np.zeros((1, 1), np.int32), True, hidden=np.array([[True]]))
    return law, Composer(law.vocabulary, 10).compose([[Row((word, picture))]] * count)


@pytest.mark.parametrize("sampler, possible", [(FirstHitting(), 1.0), (FirstHitting(steps=4), 0.875)])
def test_first_hitting_has_one_order_for_all_modalities_of_a_row(sampler: Sampler, possible: float):
    """With an order for each, word and picture would be drawn at once, and half of the rows would not be possible.

    In n intervals both are drawn at once with probability 1/n, as by `Ancestral`; half of these rows do not agree.
    """
    count = 2000
    law, canvas = one_code_in_text_and_image(count)
    filled = sample(Engine(law, law.vocabulary), canvas, {"text": Settings(sampler), "image": Settings(sampler)})
    codes = [read(filled, law.vocabulary, span).ravel()[0] for span in filled.spans]
    agree = np.mean([a == b for a, b in zip(codes[::2], codes[1::2], strict=True)])
    assert agree == 1.0 if possible == 1.0 else agree == pytest.approx(possible, abs=0.03)


def test_rows_and_what_they_are_given_are_as_many():
    law, canvas = one_code_in_text_and_image(3)
    own = {name: Settings(FirstHitting()) for name in ("text", "image")}
    for settings, keys in (([own], None), (own, ["a"])):
        with pytest.raises(UsageError, match="each row has its own of both"):
            Engine(law, law.vocabulary).start(canvas, settings, keys=keys)
