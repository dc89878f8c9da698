import hashlib
import json
from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest

from trimask.data.world.draw import PALETTE, REACH, SIDE, render
from trimask.data.world.grammar import COLOURS, MAX_OBJECTS, RELATIONS, SHAPES, Group, Pair, parse
from trimask.data.world.scenes import GAP, OBJECTS_SHARE, sample
from trimask.data.world.splits import SPLITS, is_held_out, novelty, part_of, part_of_group, part_of_split

N = 1500


@pytest.fixture(scope="module")
def drawn():
    return {split: [sample(split, 0, i) for i in range(N)] for split in SPLITS}


def test_a_scene_is_a_function_of_split_seed_and_index():
    assert sample("train", 3, 10) == sample("train", 3, 10)
    others = [("train", 3, 11), ("train", 4, 10), ("test", 3, 10), ("test-seen", 3, 10)]
    assert all(sample(*other) != sample("train", 3, 10) for other in others)
    assert np.array_equal(render(sample("train", 3, 10).scene), render(sample("train", 3, 10).scene))


def test_scenes_stay_the_same_from_release_to_release():
    # If this fails on purpose, raise `source.VERSION` with it: prepared data must notice.
    drawn = [sample(split, 0, i) for split in SPLITS for i in range(50)]
    said = "\n".join(s.caption for s in drawn)
    assert hashlib.sha256(said.encode()).hexdigest()[:16] == "38086cd5f84e6bf1"
    places = [[t.x, t.y, t.diameter] for s in drawn for t in s.scene.things]
    papers = [s.scene.paper for s in drawn]
    assert hashlib.sha256(json.dumps([places, papers]).encode()).hexdigest()[:16] == "2b37da6d9d96102a"


def test_a_caption_says_what_the_scene_holds(drawn):
    for s in drawn["train"]:
        assert parse(s.caption) == s.spec
        slots = Counter((g.colour, g.shape) for _, g in s.spec.slots)
        assert Counter((t.colour, t.shape) for t in s.scene.things) == slots
        sizes = [g.size for _, g in s.spec.slots]
        assert all(size in (None, t.size) for size, t in zip(sizes, s.scene.things, strict=True))


def test_objects_keep_apart_and_inside(drawn):
    for s in drawn["test"]:
        reach = [t.diameter / 2 * REACH[t.shape] for t in s.scene.things]
        for t, r in zip(s.scene.things, reach, strict=True):
            low, high = min(t.x, t.y) - r, max(t.x, t.y) + r
            assert low >= -1e-9 and high <= SIDE + 1e-9
        for (a, ra), (b, rb) in combinations(zip(s.scene.things, reach, strict=True), 2):
            assert max(abs(a.x - b.x), abs(a.y - b.y)) - ra - rb >= GAP - 1e-9


def test_relations_are_true(drawn):
    for s in drawn["train"]:
        if s.spec.relation is None:
            continue
        first = s.spec.groups[0].count
        axis, sign = {"left of": ("x", 1), "right of": ("x", -1), "above": ("y", 1), "below": ("y", -1)}[
            s.spec.relation
        ]
        pairs = product(s.scene.things[:first], s.scene.things[first:])
        assert all(sign * (getattr(b, axis) - getattr(a, axis)) > 0 for a, b in pairs)


def test_number_of_objects_is_the_same_in_every_split(drawn):
    for split in SPLITS:
        counts = Counter(len(s.spec.slots) for s in drawn[split])
        assert sum(counts[n] for n in (2, 3, 4)) / N >= 0.6
        for n, share in enumerate(OBJECTS_SHARE, 1):
            assert counts[n] / N == pytest.approx(share, abs=4 * (share * (1 - share) / N) ** 0.5)


def test_splits_share_no_combination(drawn):
    for a, b in combinations(("train", "validation", "test", "test-pairs"), 2):
        assert not _combinations(drawn[a]) & _combinations(drawn[b])
    for split in SPLITS:
        assert all(part_of(s.spec) == part_of_split(split) for s in drawn[split])


def _combinations(samples) -> set[frozenset[tuple[int, str, str]]]:
    """Whatever the caption calls small or left: the groups by count, colour and shape."""
    return {frozenset((g.count, g.colour, g.shape) for g in s.spec.groups) for s in samples}


def test_a_held_out_group_is_never_seen_but_its_pair_is(drawn):
    seen = [g for s in drawn["train"] for g in s.spec.groups]
    assert all(part_of_group(g) == "train" for g in seen)
    pairs = {g.pair for g in seen}
    alone = [s.spec.groups[0] for s in drawn["test"] if len(s.spec.groups) == 1]
    assert alone and all(part_of_group(g) == "test" and g.pair in pairs for g in alone)


def test_a_held_out_pair_is_in_its_own_split_alone(drawn):
    for split in SPLITS:
        met = [any(is_held_out(pair) for pair in s.spec.pairs) for s in drawn[split]]
        assert all(met) if split == "test-pairs" else not any(met)


def test_every_single_attribute_is_seen_and_held_out(drawn):
    all_pairs = [Pair(c, s) for c in COLOURS for s in SHAPES]
    for count in range(1, MAX_OBJECTS + 1):
        pairs = [p for p in all_pairs if part_of_group(Group(count, *p)) == "test" and not is_held_out(p)]
        assert len(pairs) == 8
        assert {p.colour for p in pairs} == set(COLOURS) and {p.shape for p in pairs} == set(SHAPES)
    unseen = [p for p in all_pairs if is_held_out(p)]
    assert len(unseen) == 8 and len({p.colour for p in unseen}) == len({p.shape for p in unseen}) == 8
    assert {s.spec.relation for s in drawn["train"]} == {None, *RELATIONS}


def test_novelty_says_what_is_new(drawn):
    assert {novelty(s.spec)[1] for s in drawn["test"]} == {"group", "set"}
    assert {novelty(s.spec)[1] for s in drawn["test-seen"]} == {"nothing"}
    assert {novelty(s.spec)[1] for s in drawn["test-pairs"]} == {"pair"}


def test_colours_are_far_apart():
    values = np.array([*PALETTE.values(), (255, 255, 255)], float)
    distance = np.linalg.norm(values[:, None] - values[None], axis=-1)
    assert distance[~np.eye(len(values), dtype=bool)].min() >= 130


def test_pictures_vary_and_are_clean():
    a, b = (render(sample("train", 0, i).scene) for i in (0, 1))
    assert a.shape == (SIDE, SIDE, 3) and a.dtype == np.uint8 and not np.array_equal(a, b)
    corner = a[0, 0]
    assert (corner >= 240).all()
