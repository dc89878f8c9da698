import numpy as np
import pytest

from trimask.core.errors import UsageError
from trimask.hub import holes


@pytest.mark.parametrize(
    ("text", "pieces", "counts"),
    [
        ("a [...] circle", ("a", " circle"), (None,)),
        ("a […]", ("a", ""), (None,)),
        ("[2] circle", ("", " circle"), (2,)),
        ("a [___] b [1]", ("a", " b", ""), (3, 1)),
        (r"keep \[2] here [2]", ("keep [2] here", ""), (2,)),
        ("[x] and [] stay", ("[x] and [] stay",), ()),
    ],
)
def test_templates(text: str, pieces: tuple[str, ...], counts: tuple[int | None, ...]):
    assert holes.template(text) == holes.Template(pieces, counts)


def test_templates_that_make_no_sense():
    with pytest.raises(UsageError, match="two holes of free length"):
        holes.template("a [...] b [...]")
    with pytest.raises(UsageError, match="leaves nothing to fill"):
        holes.template("a [0]")


def test_a_box_hides_every_cell_it_touches_and_no_other():
    hidden = holes.cells((8, 8), (32, 32), (0, 4, 9, 8), None)
    expected = np.zeros((8, 8), bool)
    expected[1, :3] = True
    assert (hidden == expected).all()


def test_a_mask_is_a_box_of_any_shape():
    mask = np.zeros((28, 40), bool)
    mask[27, 39] = True
    hidden = holes.cells((7, 10), (28, 40), None, mask)
    assert hidden.sum() == 1
    assert hidden[6, 9]


@pytest.mark.parametrize("box", [(0, 0, 33, 8), (8, 8, 8, 16), (-4, 0, 8, 8), (0, 0, 8)])
def test_boxes_outside_the_picture(box: tuple[int, ...]):
    with pytest.raises(UsageError, match="box"):
        holes.cells((8, 8), (32, 32), box, None)


def test_masks_that_do_not_fit():
    with pytest.raises(UsageError, match="make them equal"):
        holes.cells((8, 8), (32, 32), None, np.ones((8, 8), bool))
    with pytest.raises(UsageError, match="no white pixel"):
        holes.cells((8, 8), (32, 32), None, np.zeros((32, 32), bool))
    with pytest.raises(UsageError, match="either a box or a mask"):
        holes.cells((8, 8), (32, 32), None, None)


def test_intervals_hide_frames_and_may_go_on_behind_the_end():
    assert holes.frames(5, 25, (0.04, 0.12)).tolist() == [False, True, True, False, False]
    assert holes.frames(5, 25, (0.05, 0.06)).tolist() == [False, True, False, False, False]
    assert holes.frames(3, 25, (0.12, 0.2)).tolist() == [False] * 3 + [True] * 2
    with pytest.raises(UsageError, match=r"ends at 0\.12 s"):
        holes.frames(3, 25, (0.2, 0.3))
    with pytest.raises(UsageError, match="start before end"):
        holes.frames(3, 25, (0.2, 0.1))
