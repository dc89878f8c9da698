from trimask.data.world.text import LONGEST, SHORTEST, digest, paragraphs, paragraphs_of, prose

DOCUMENT = """Return the length of something that is long enough to be read.

    >>> length([1, 2, 3])
    3

The argument ``x`` may be *any* sequence; its
items are not looked at by this function at all.

Parameters: x_axis=None, y_axis=None, z_axis=None, w_axis=None, v_axis=None.

* A list is not what we call a paragraph of English prose here.
"""


def test_prose_keeps_sentences_and_leaves_code():
    assert list(prose(DOCUMENT)) == [
        "Return the length of something that is long enough to be read.",
        "The argument x may be any sequence; its items are not looked at by this function at all.",
    ]


def test_the_library_of_this_python_is_enough_to_read():
    found = paragraphs()
    assert len(found) > 3000 and len(set(found)) == len(found)
    assert all(SHORTEST <= len(p) <= LONGEST and p.isascii() and "\n" not in p for p in found)
    assert digest() == digest()


def test_parts_are_disjoint_and_complete():
    parts = {part: set(paragraphs_of(part)) for part in ("train", "validation", "test")}
    assert sum(map(len, parts.values())) == len(paragraphs())
    assert set.union(*parts.values()) == set(paragraphs())
    assert 0.05 < len(parts["test"]) / len(paragraphs()) < 0.15
