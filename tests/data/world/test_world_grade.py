from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.ndimage import gaussian_filter

from trimask.core import rng as random
from trimask.core.errors import UsageError
from trimask.data.world.draw import SIDE, Scene, Thing, render
from trimask.data.world.grade import find, grade, grade_found
from trimask.data.world.grammar import COLOURS, MAX_OBJECTS, RELATIONS, SHAPES, SIZES, Group, Spec
from trimask.data.world.scenes import DIAMETER, sample


def one_changed(spec: Spec) -> list[tuple[str, Spec]]:
    """(attribute, spec) for every change of one attribute of `spec` to another value."""
    out = [("relation", replace(spec, relation=r)) for r in RELATIONS if spec.relation not in (None, r)]
    for g, group in enumerate(spec.groups):
        for what, other in changed_groups(group, room=MAX_OBJECTS - len(spec.slots)):
            out.append((what, replace(spec, groups=(*spec.groups[:g], other, *spec.groups[g + 1 :]))))
    return out


def changed_groups(group: Group, room: int) -> list[tuple[str, Group]]:
    counts = [n for n in (group.count - 1, group.count + 1) if 1 <= n <= group.count + room]
    values = {"count": counts, "colour": COLOURS, "shape": SHAPES, "size": SIZES if group.size else ()}
    return [
        (what, replace(group, **{what: value}))
        for what, known in values.items()
        for value in known
        if value != getattr(group, what)
    ]


def worn(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As a tokenizer might give it back: edges softened by half a pixel, noise of 6/255."""
    soft = gaussian_filter(picture.astype(float), (0.5, 0.5, 0))
    return np.clip(np.round(soft + rng.normal(0, 6, picture.shape)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("wear", "least", "scenes"), [(False, 0.99, 2000), (True, 0.98, 1000)])
def test_true_captions_pass_and_changed_ones_do_not(wear, least, scenes):
    rng = random.generator("test grade", int(wear))
    passed, wrong, changed = 0, 0, 0
    for i in range(scenes):
        drawn = sample("test" if i % 2 else "train", 5, i)
        picture = render(drawn.scene)
        found = find(worn(picture, rng) if wear else picture)
        passed += grade_found(found, drawn.spec).all_correct
        changes = one_changed(drawn.spec)
        for what in sorted({what for what, _ in changes}):
            of_kind = [spec for name, spec in changes if name == what]
            wrong += grade_found(found, of_kind[int(rng.integers(len(of_kind)))]).all_correct
            changed += 1
    print(f"worn={wear}: {passed}/{scenes} true accepted, {wrong}/{changed} changed accepted")
    assert passed >= least * scenes
    assert wrong <= 0.01 * changed


def thing(colour, shape, size, x, y) -> Thing:
    return Thing(colour, shape, size, x, y, DIAMETER[size])


SCENE = Scene(
    (
        thing("red", "circle", "small", 8, 8),
        thing("blue", "square", "large", 8, 22),
        thing("blue", "square", "large", 23, 22),
    )
)


def test_a_caption_is_graded_by_attribute():
    picture = render(SCENE)
    assert grade(picture, "a red circle above two blue squares").all_correct
    assert grade(picture, "two large blue squares below a small red circle").all_correct
    assert grade(picture, "two blue squares and a red circle").all_correct
    other = grade(picture, "a large red star left of two blue squares")
    assert not other.all_correct
    assert dict(other.asked) == {"count": 1, "colour": 3, "shape": 3, "size": 1, "relation": 1}
    assert dict(other.right) == {"count": 1, "colour": 3, "shape": 2, "size": 0, "relation": 0}


def test_counts_are_exact():
    picture = render(SCENE)
    for caption in ("a red circle", "a red circle above a blue square", "a red circle above three blue squares"):
        assert not grade(picture, caption).all_correct
    blank = np.full((SIDE, SIDE, 3), 255, np.uint8)
    nothing = grade(blank, "a red circle")
    assert nothing.found == () and not any(nothing.right.values())


def test_groups_of_the_same_kind_are_told_apart_by_their_relation():
    scene = Scene((thing("red", "ring", "small", 8, 16), thing("red", "ring", "large", 23, 16)))
    assert grade(render(scene), "a small red ring left of a large red ring").all_correct
    assert not grade(render(scene), "a small red ring right of a large red ring").all_correct
    assert grade(render(scene), "a red ring right of a red ring").all_correct


def test_a_diagonal_counts_for_the_longer_axis():
    scene = Scene((thing("red", "ring", "small", 6, 10), thing("blue", "ring", "small", 26, 20)))
    assert grade(render(scene), "a red ring left of a blue ring").all_correct
    assert not grade(render(scene), "a red ring above a blue ring").all_correct


def test_what_is_no_shape_is_no_shape():
    picture = np.full((SIDE, SIDE, 3), 255, np.uint8)
    picture[4:28, 14:17] = (222, 30, 40)
    (bar,) = find(picture)
    assert bar.colour == "red" and bar.shape is None
    assert find(np.zeros((SIDE, SIDE, 3), np.uint8))[0].shape is None


def test_two_touching_objects_of_different_colours_are_two():
    scene = Scene((thing("red", "square", "large", 10, 16), thing("blue", "square", "large", 20.4, 16)))
    assert [(f.colour, f.shape) for f in sorted(find(render(scene)), key=lambda f: f.x)] == [
        ("red", "square"),
        ("blue", "square"),
    ]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SHAPES), st.sampled_from(COLOURS), st.sampled_from(SIZES), st.floats(9, 23), st.floats(9, 23))
def test_one_object_is_read_wherever_it_stands(shape, colour, size, x, y):
    (f,) = find(render(Scene((thing(colour, shape, size, x, y),), (248, 246, 240))))
    assert (f.colour, f.shape, f.size) == (colour, shape, size)
    assert abs(f.x - x) < 0.4 and abs(f.y - y) < 0.4


@settings(max_examples=40, deadline=None)
@given(arrays.arrays(np.uint8, (SIDE // 4, SIDE // 4, 3)))
def test_any_picture_gets_a_grade(blocks):
    picture = blocks.repeat(4, axis=0).repeat(4, axis=1)
    g = grade(picture, "a red circle above two blue squares")
    assert all(0 <= g.right[a] <= g.asked[a] for a in g.asked)


def test_other_picture_sizes_are_refused():
    with pytest.raises(UsageError, match="shape"):
        grade(np.zeros((64, 64, 3), np.uint8), "a red circle")
