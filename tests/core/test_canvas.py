"""Layout of the canvas and of the joint vocabulary."""

import chz
import numpy as np
import pytest
import torch

from trimask.core.canvas import Composer, Row, Segment, grid_coords, queries, read, rows_of
from trimask.core.errors import UsageError
from trimask.core.modality import Modality, Vocabulary, task_name


def table(**audio) -> Vocabulary:
    return Vocabulary(
        modalities=(
            Modality(name="text", grid="line", codes=10, buckets=(8,)),
            Modality(name="image", grid="plane", codes=6),
            Modality(name="audio", grid="frames", codes=4, levels=2, **audio),
        )
    )


def test_ranges_do_not_overlap_and_cover_the_vocabulary():
    v = table()
    assert v.offsets == (0, 12, 20, 30)
    specials = [v.mask, v.pad, v.bos, *(v.task(t) for t in v.tasks)]
    specials += [v.opening(k, free) for k in v.kinds for free in (False, True)]
    assert sorted(specials) == list(range(30, 30 + len(specials)))
    assert v.size % 128 == 0 and v.size >= 30 + len(specials)
    assert [a.ids.tolist() for a in v.alphabets][2:] == [[20, 21, 22, 23, 28, 29], [24, 25, 26, 27, 28, 29]]
    assert [a.ids.tolist() for a in table(shared=True).alphabets][2:] == [[20, 21, 22, 23, 24, 25]] * 2


def test_a_target_is_content_end_and_fill():
    v = table()
    row = Row((Segment("text", np.array([3, 1])), Segment("speech", np.array([[0, 1], [2, 3]]), True, span=4)), "k")
    composer = Composer(v, 16)
    assert composer.size(row) == (2 + 3 + 9, 2 + 3 + 9)
    canvas = composer.compose([[row]])
    end, fill = v.alphabets[2].end, v.alphabets[2].fill
    assert canvas.ids_BL[0].tolist() == [
        v.bos, v.task("text>speech"), v.opening("text"), 3, 1,
        v.opening("speech", True), 20, 25, 22, 27, end, end, fill, fill, v.pad, v.pad,
    ]  # fmt: skip
    assert canvas.maskable_BL[0].nonzero().flatten().tolist() == list(range(6, 14))
    assert canvas.weight_BL[0, 6:14].tolist() == pytest.approx([1, 1, 1, 1, 1, 1, 0.1, 0.1])
    assert canvas.alphabet_BL[0, 6:10].tolist() == [2, 3, 2, 3]
    coords = {
        positions: Composer(chz.replace(v, positions=positions), 16).compose([[row]]).coords_BP2[0, 6:10].tolist()
        for positions in ("axial", "flat", "levels")
    }
    assert coords["axial"] == canvas.coords_BP2[0, 6:10].tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert coords["flat"] == [[1, 0], [2, 0], [3, 0], [4, 0]]
    # Four frames of two levels, the second level after all of the first.
    assert coords["levels"] == [[1, 0], [5, 0], [2, 0], [6, 0]]
    assert grid_coords((2, 3), "levels")[:, 0].tolist() == [1, 3, 5, 2, 4, 6]
    assert read(canvas, v, canvas.spans[1]).tolist() == [[0, 1], [2, 3]]
    assert read(canvas, v, canvas.spans[0]).tolist() == [3, 1]


def test_a_target_weighs_given_weight_when_another_part_is_given_to_be_seen():
    v = table()
    v = chz.replace(v, modalities=(chz.replace(v.modalities[0], given_weight=4.0), *v.modalities[1:]))
    picture, caption = np.array([[0, 1]]), Segment("text", np.array([3, 1]), True)
    rows = [Row((Segment("image", picture, hidden=hidden), caption)) for hidden in (None, True)]
    canvas = Composer(v, 12).compose([[rows[0]], [rows[1]], [Row((caption,))]])
    weights = [canvas.weight_BL[r][canvas.maskable_BL[r]].tolist() for r in range(3)]
    assert weights == [[4.0] * 3, [1.0] * 3, [1.0] * 3]


def test_stacked_levels_share_a_position():
    v = table(stack=True)
    row = Row((Segment("speech", np.array([[0, 1], [2, 3], [1, 0]]), True),))
    composer = Composer(v, 8, 12)
    assert composer.size(row) == (2 + 1 + 4, 2 + 1 + 8)
    canvas = composer.compose([[row]])
    assert canvas.slot_BL[0, 3:11].tolist() == [3, 3, 4, 4, 5, 5, 6, 6]
    assert canvas.segment_BP[0].tolist() == [0] * 7 + [-1]


def test_a_line_with_a_pace_keeps_step_with_what_runs_beside_it():
    modalities = (
        Modality(name="text", grid="line", codes=10, pace=6),
        Modality(name="audio", grid="frames", codes=4, levels=2, stack=True),
    )
    v = Vocabulary(modalities=modalities)
    row = Row((Segment("text", np.array([3, 1, 4])), Segment("speech", np.zeros((13, 2), int), True, hidden=True)))
    coords = Composer(v, 24, 40).compose([[row]]).coords_BP2[0]
    assert coords[2:6].tolist() == [[0, 0], [1, 1], [7, 2], [13, 3]]
    assert coords[6:].tolist() == [[n, 0] for n in range(15)] + [[0, 0]] * 3
    with pytest.raises(UsageError, match="pace"):
        Modality(name="image", grid="plane", codes=6, pace=2)


def test_the_codes_of_a_patch_share_a_position_and_know_their_place():
    v = Vocabulary(modalities=(Modality(name="image", grid="plane", codes=6, patch=2),))
    picture = np.arange(15).reshape(3, 5) % 6
    row = Row((Segment("image", picture, True),))
    composer = Composer(v, 12, 20)
    # 2 x 3 patches; those at the edges hold two codes, and the last one a single code.
    assert composer.size(row) == (2 + 1 + 6, 2 + 1 + 15)
    canvas = composer.compose([[row]])
    assert (canvas.slot_BL[0, 3:18] - 3).tolist() == [0, 0, 1, 1, 2, 0, 0, 1, 1, 2, 3, 3, 4, 4, 5]
    assert canvas.alphabet_BL[0, 3:18].tolist() == [0, 1, 0, 1, 0, 2, 3, 2, 3, 2, 0, 1, 0, 1, 0]
    assert canvas.coords_BP2[0, 3:9].tolist() == [[1, 1], [1, 2], [1, 3], [2, 1], [2, 2], [2, 3]]
    assert len(v.alphabets) == 4 and all(np.array_equal(a.ids, v.alphabets[0].ids) for a in v.alphabets)
    assert np.array_equal(read(canvas, v, canvas.spans[0]), picture)
    assert {q.alphabet: q.count for q in queries(canvas, canvas.maskable_BL, v)} == {0: 6, 1: 4, 2: 3, 3: 2}
    with pytest.raises(UsageError, match="patch"):
        Modality(name="text", grid="line", codes=6, patch=2)


def test_rows_of_a_filled_canvas_are_those_it_was_composed_of():
    v = table()
    text, image = Segment("text", np.array([3, 1])), Segment("image", np.ones((1, 2), int), True)
    rows = [Row((text, image), "a"), Row((Segment("text", np.array([2]), True, span=4),), "b")]
    back = rows_of(Composer(v, 32).compose([rows]), v)
    assert [(r.key, r.task) for r in back] == [("a", "text>image"), ("b", "text")]
    for one, other in zip(rows, back, strict=True):
        for s, t in zip(one.segments, other.segments, strict=True):
            assert (s.kind, s.target, s.span) == (t.kind, t.target, t.span) and np.array_equal(s.codes, t.codes)


def test_items_of_a_row_do_not_see_each_other():
    v = table()
    rows = [Row((Segment("text", np.array([1])), Segment("image", np.ones((1, 2), int), True))) for _ in range(2)]
    sees = Composer(v, 20).compose([rows]).sees_BGG[0]
    assert sees.tolist() == [[True, True, False, False]] * 2 + [[False, False, True, True]] * 2
    sees = Composer(chz.replace(v, sight="cached"), 20).compose([rows[:1]]).sees_BGG[0]
    assert sees.tolist() == [[True, False], [True, True]]


def test_queries_are_padded_to_a_fixed_multiple():
    v = table()
    canvas = Composer(v, 20).compose([[Row((Segment("image", np.zeros((2, 3), int), True, hidden=True),))]])
    (query,) = queries(canvas, canvas.ids_BL == v.mask, v, multiple=8)
    assert (query.alphabet, query.count, len(query.index_N)) == (1, 6, 8)
    assert torch.equal(query.index_N[6:], query.index_N[:1].expand(2))


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        (Segment("text", np.array([10]), True), "outside"),
        (Segment("image", np.zeros(3, int), True), "plane"),
        (Segment("speech", np.zeros((2, 3), int), True), "frames"),
        (Segment("text", np.zeros(4, int), True, span=4), "do not fit"),
        (Segment("image", np.zeros((1, 1), int), True, span=4), "free span"),
        (Segment("smell", np.zeros(1, int)), "no segments of kind"),
        (Segment("text", np.zeros(30, int)), "of the row are free"),
    ],
)
def test_bad_segments_are_named(segment, message):
    with pytest.raises(UsageError, match=message):
        Composer(table(), 20).compose([[Row((segment,), "x")]])


def test_reading_a_canvas_that_is_not_filled_is_an_error():
    v = table()
    canvas = Composer(v, 20).compose([[Row((Segment("text", np.array([1, 2]), True, hidden=True),))]])
    with pytest.raises(UsageError, match="not filled"):
        read(canvas, v, canvas.spans[0])


def test_task_names():
    assert task_name(["voice", "text"], ["speech"]) == "text>speech"
    assert task_name([], ["text"]) == "text"
    assert table().task("image+text>speech") == table().task("any")


def test_a_modality_row_is_checked():
    for bad in ({"codes": 0}, {"levels": 2}, {"grid": "plane", "buckets": (4,)}, {"buckets": (8, 4)}):
        with pytest.raises(UsageError):
            Modality(**{"name": "x", "grid": "line", "codes": 4, **bad})
