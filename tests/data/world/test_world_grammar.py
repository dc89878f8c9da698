import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimask.core.errors import UsageError
from trimask.data.world.draw import OUTLINES, PALETTE
from trimask.data.world.grammar import (
    COLOURS,
    MAX_OBJECTS,
    RELATIONS,
    SHAPES,
    SIZES,
    Group,
    Spec,
    parse,
    plural,
    say,
)


def groups(most: int):
    return st.builds(
        Group,
        st.integers(1, most),
        st.sampled_from(COLOURS),
        st.sampled_from(SHAPES),
        st.sampled_from((None, *SIZES)),
    )


SPECS = st.one_of(
    groups(MAX_OBJECTS).map(lambda g: Spec((g,))),
    st.builds(
        lambda a, b, relation: Spec((a, b), relation),
        groups(MAX_OBJECTS // 2),
        groups(MAX_OBJECTS // 2),
        st.sampled_from((None, *RELATIONS)),
    ),
)


@given(SPECS, st.booleans())
def test_parse_is_the_inverse_of_say(spec, long):
    caption = say(spec, long)
    assert parse(caption) == spec
    assert caption == caption.lower() and caption.isascii()


def test_captions_that_people_type():
    above = Spec((Group(1, "red", "circle"), Group(2, "blue", "square")), "above")
    assert parse("a red circle above two blue squares") == above
    assert parse("A red circle over two  blue squares.") == above
    assert parse("one big black cross on the left of a pink ring") == Spec(
        (Group(1, "black", "cross", "large"), Group(1, "pink", "ring")), "left of"
    )
    assert parse("three small red circles") == Spec((Group(3, "red", "circle", "small"),))


@pytest.mark.parametrize(
    ("caption", "named"),
    [
        ("a brown circle", "'brown' is not a colour"),
        ("a red table", "'table' is not a shape"),
        ("seven red circles", "'seven' is not a count"),
        ("red", "cannot read 'red'"),
        ("", "cannot read"),
        ("three red circles above two blue squares", "5 objects"),
        ("a red ring above a blue ring above a pink ring", "at most two groups"),
    ],
)
def test_other_captions_are_refused_by_name(caption, named):
    with pytest.raises(UsageError, match=named):
        parse(caption)


def test_every_word_can_be_drawn():
    assert set(COLOURS) == set(PALETTE) and set(SHAPES) == set(OUTLINES)
    assert len(COLOURS) == 8 and len(SHAPES) >= 6 and len(SIZES) == 2 and len(RELATIONS) == 4
    assert plural("cross") == "crosses" and plural("star") == "stars"
