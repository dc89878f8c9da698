"""The training stream: proportions, packing, exact state, and what may not change the order."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from trimask.core.canvas import Composer, Row, Segment
from trimask.core.errors import DataError, UsageError
from trimask.core.modality import Modality, Vocabulary
from trimask.data.prepare import prepare
from trimask.data.stream import SourceConfig, Stream, StreamConfig, pack
from trimask.data.tasks import Conditions
from trimask.tokenizers.contract import Tokenizer

VOCABULARY = Vocabulary(
    modalities=(
        Modality(name="text", grid="line", codes=50, buckets=(8, 16)),
        Modality(name="image", grid="plane", codes=20),
        Modality(name="audio", grid="frames", codes=10, levels=2, stack=True, buckets=(16,)),
    )
)


class Codes(Tokenizer[np.ndarray]):
    """Content that is codes already."""

    name = "codes"

    def __init__(self, modality: Modality):
        self._modality = modality

    @property
    def modality(self) -> Modality:
        return self._modality

    @property
    def fingerprint(self) -> str:
        return self._modality.name * 8

    def encode(self, batch):
        return list(batch)

    def decode(self, batch):
        return list(batch)

    def save(self, folder: Path) -> None:
        raise AssertionError("not used")


def made(folder: Path, name: str, rows: list[dict]) -> str:
    """A prepared set of already tokenised rows."""
    source = folder / f"{name}.jsonl"
    source.write_text("\n".join(json.dumps(r) for r in rows))
    tokenizers = {m.name: Codes(m) for m in VOCABULARY.modalities}
    return str(prepare([f"{source}?format=tokens"], tokenizers, folder / name, workers=1).folder)


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> dict[str, str]:
    folder, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    codes = lambda top, *shape: rng.integers(0, top, shape).tolist()  # noqa: E731
    text = [{"key": f"t{i}", "text": codes(50, rng.integers(3, 30))} for i in range(60)]
    pairs = [{"key": f"p{i}", "text": codes(50, 6), "image": codes(20, 4, 4)} for i in range(40)]
    speech = [
        {"key": f"s{i}", "text": codes(50, 3), "voice": codes(50, 2), "speech": codes(10, 5 + i % 9, 2)}
        for i in range(30)
    ]
    everything = [{**s, "image": codes(20, 2, 2)} for s in speech]
    book = [{"key": "b", "text": codes(50, 1000)}]
    rows = {"text": text, "pairs": pairs, "speech": speech, "all": everything, "book": book}
    return {n: made(folder, n, r) for n, r in rows.items()}


def config(sets: dict[str, str], *names: str, **more) -> StreamConfig:
    sources = tuple(SourceConfig(path=sets[n]) for n in names or ("text", "pairs", "speech"))
    return StreamConfig(**{"sources": sources, "rows": 4, "slots": 64, "tokens": 96, **more})


def ids(stream: Stream, count: int) -> list[torch.Tensor]:
    return [b.masked.canvas.ids_BL for b, _ in zip(stream, range(count), strict=False)]


def test_the_order_is_a_function_of_the_seed(sets):
    first, again, other = (Stream(config(sets, seed=s), VOCABULARY) for s in (1, 1, 2))
    a, b, c = (ids(s, 30) for s in (first, again, other))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(a, c, strict=True))


def test_a_restored_stream_goes_on_exactly(sets):
    stream = Stream(config(sets), VOCABULARY)
    states, batches = [], []
    iterator = iter(stream)
    for _ in range(80):  # several windows
        states.append(json.loads(json.dumps(stream.state())))
        batches.append(next(iterator).masked)
    assert states[-1]["window"] >= 1
    for at in (0, 17, 79):
        fresh = Stream(config(sets), VOCABULARY)
        fresh.restore(states[at])
        masked = next(iter(fresh)).masked
        assert torch.equal(masked.canvas.ids_BL, batches[at].canvas.ids_BL)
        assert torch.equal(masked.weight_BL, batches[at].weight_BL)


def test_workers_do_not_change_the_order(sets):
    here = ids(Stream(config(sets), VOCABULARY), 60)
    there = Stream(config(sets, workers=2), VOCABULARY)
    assert all(torch.equal(x, y) for x, y in zip(here, ids(there, 60), strict=True))
    there.restore({"window": 1, "row": 3})
    here_again = Stream(config(sets), VOCABULARY)
    here_again.restore({"window": 1, "row": 3})
    assert torch.equal(ids(there, 1)[0], ids(here_again, 1)[0])


def test_processes_share_a_batch_out(sets):
    """The parts of all are the whole, masks included; each has the items and epochs of the whole."""
    whole, *parts = (Stream(config(sets), VOCABULARY) for _ in range(3))
    for rank, part in enumerate(parts):
        part.share(rank, 2)
    for batch, *own in zip(whole, *parts, strict=False):
        ids = torch.cat([b.masked.canvas.ids_BL for b in own])
        assert torch.equal(ids, batch.masked.canvas.ids_BL)
        assert torch.equal(torch.cat([b.masked.weight_BL for b in own]), batch.masked.weight_BL)
        assert {k: sum(b.tokens.get(k, 0) for b in own) for k in batch.tokens} == batch.tokens
        assert all((b.items, b.epochs) == (batch.items, batch.epochs) for b in own)
        if batch.epochs[sets["text"]] > 1:
            break
    with pytest.raises(UsageError, match=r"data\.rows=4, the rows of a pass, are not a multiple of 3 processes"):
        whole.share(0, 3)


def test_shares_are_of_positions(sets):
    sources = (SourceConfig(path=sets["text"], weight=3), SourceConfig(path=sets["pairs"], weight=1))
    stream = Stream(StreamConfig(sources=sources, rows=4, slots=64, tokens=96), VOCABULARY)
    names = [p.name for p in stream.pieces]
    positions = dict.fromkeys(names, 0)
    for batch, _ in zip(stream, range(300), strict=False):
        canvas = batch.masked.canvas
        for row in range(4):
            owners = [s for s in canvas.spans if s.row == row]
            for s in owners:
                positions[s.draw.stream] += s.length + 1
    ratio = positions[names[0]] / positions[names[1]]
    assert ratio == pytest.approx(3, rel=0.1)


def test_every_item_is_seen_once_an_epoch(sets):
    stream = Stream(config(sets, "pairs"), VOCABULARY)
    spans = [s for b, _ in zip(stream, range(140), strict=False) for s in b.masked.canvas.spans if s.index == 0]
    seen = [(s.draw.epoch, s.key) for s in spans]
    assert len(set(seen)) == len(seen)
    assert sum(epoch == 0 for epoch, _ in seen) == 40


def test_long_text_is_cut_and_nothing_of_it_is_lost(sets):
    pieces = Stream(config(sets, "book"), VOCABULARY).pieces[0]
    assert len(pieces) == -(-1000 // 60)
    whole = np.concatenate([pieces[i][1]["text"] for i in range(len(pieces))])
    assert np.array_equal(whole, pieces.shard[0].parts["text"])


def test_rows_are_well_filled(sets):
    stream = Stream(config(sets), VOCABULARY)
    filled = [b.filled for b, _ in zip(stream, range(40), strict=False)]
    assert np.mean(filled) > 0.93


def test_packing_keeps_every_item():
    rng = np.random.default_rng(0)
    rows = [
        Row((Segment("text", rng.integers(0, 50, n), True),), str(i)) for i, n in enumerate(rng.integers(1, 60, 200))
    ]
    composer = Composer(VOCABULARY, 64, 96)
    packed = pack(rows, composer, seed=0)
    assert sorted(r.key for row in packed for r in row) == sorted(r.key for r in rows)
    assert all(sum(composer.size(r)[0] for r in row) <= 64 for row in packed)


def test_tasks_and_conditions_come_in_their_shares(sets):
    mode = {"clean": 0, "joint": 0, "null": 0}
    stream = Stream(
        config(sets, "pairs", tasks={"text>image": 1.0}, conditions=Conditions(clean=0.5, joint=0.3, null=0.2)),
        VOCABULARY,
    )
    for batch, _ in zip(stream, range(150), strict=False):
        canvas = batch.masked.canvas
        for text in (s for s in canvas.spans if s.kind == "text"):
            here = canvas.ids_BL[text.row, text.start : text.start + text.length]
            withheld = bool((here == VOCABULARY.mask).all())
            mode["joint" if text.target else "null" if withheld else "clean"] += 1
    shares = np.array(list(mode.values())) / sum(mode.values())
    assert np.abs(shares - [0.5, 0.3, 0.2]).max() < 0.06


def test_the_voice_is_given_when_sound_is_asked_for(sets):
    stream = Stream(config(sets, "speech", conditions=Conditions(unnamed=0.0)), VOCABULARY)
    for batch, _ in zip(stream, range(10), strict=False):
        spans = batch.masked.canvas.spans
        for s in spans:
            if s.kind == "speech" and s.target:
                voices = [v for v in spans if (v.row, v.key, v.draw) == (s.row, s.key, s.draw) and v.kind == "voice"]
                both = [v for v in spans if (v.row, v.key, v.draw) == (s.row, s.key, s.draw) and v.target]
                assert voices and not voices[0].target and len(both) >= 1


def test_repetition_limits_move_the_rest_to_other_sources(sets):
    sources = (SourceConfig(path=sets["text"], max_epochs=1.0), SourceConfig(path=sets["pairs"]))
    make = StreamConfig(sources=sources, rows=4, slots=64, tokens=96)
    with pytest.raises(UsageError, match="budget"):
        Stream(make, VOCABULARY)
    free = Stream(make, VOCABULARY, horizon=1000)
    assert free.shares == pytest.approx([0.5, 0.5])
    capped = Stream(make, VOCABULARY, horizon=100_000)
    size = len(capped.pieces[0]) * capped.pieces[0].mean_slots
    assert capped.shares[0] == pytest.approx(size / 100_000)
    with pytest.raises(UsageError, match="too little data"):
        Stream(StreamConfig(sources=sources[:1], rows=4, slots=64, tokens=96), VOCABULARY, horizon=10**7)


def test_anti_masking_shows_each_item_twice(sets):
    stream = Stream(config(sets, "pairs", anti_masking=True, tasks={"image": 1.0}), VOCABULARY)
    views: dict[tuple, list] = {}
    for batch, _ in zip(stream, range(40), strict=False):
        hidden = batch.masked.canvas.ids_BL == VOCABULARY.mask
        for s in batch.masked.canvas.spans:
            views.setdefault((s.key, s.draw.order), []).append(hidden[s.row, s.start : s.start + s.length])
    pairs = [v for v in views.values() if len(v) == 2]
    assert len(pairs) > 40
    assert all(torch.equal(a, ~b) for a, b in pairs)


def test_any_makes_every_set_of_parts_a_target_but_the_voice(sets):
    source = SourceConfig(path=sets["all"], tasks=("any",))
    clean = Conditions(clean=1.0, joint=0.0, null=0.0, unnamed=0.0)
    stream = Stream(StreamConfig(sources=(source,), rows=4, slots=64, tokens=96, conditions=clean), VOCABULARY)
    seen: dict[tuple, dict[str, bool]] = {}
    for batch, _ in zip(stream, range(60), strict=False):
        for s in batch.masked.canvas.spans:
            seen.setdefault((s.key, s.draw.order), {})[s.kind] = s.target
    targets = {frozenset(k for k, target in kinds.items() if target) for kinds in seen.values()}
    assert targets == {frozenset(t) for n in (1, 2, 3) for t in combinations(("text", "image", "speech"), n)}
    assert all(kinds["voice"] is False for kinds in seen.values() if kinds["speech"])


def test_what_is_not_used_of_a_set_is_said(tmp_path):
    rows = [
        {"key": "fits", "text": [1, 2], "image": [[0] * 4] * 4},
        {"key": "large picture", "text": [1, 2], "image": [[0] * 9] * 9},
        {"key": "no picture", "text": [1] * 5},
    ]
    path = made(tmp_path, "mixed", rows)

    def notes(*tasks: str) -> list[str]:
        source = SourceConfig(path=path, tasks=tasks)
        return Stream(StreamConfig(sources=(source,), rows=1, slots=40, tokens=40), VOCABULARY).notes

    (left_out, lacking) = sorted(notes("text>image"))
    assert "1 items do not fit a row of 40 positions" in left_out and "data.slots" in left_out
    assert "1 items lack what text>image need" in lacking
    (curtailed,) = notes("text", "text>image")
    assert "1 items fit a row of 40 positions and 40 tokens under some of their tasks only" in curtailed
    assert notes("text") == []
    with pytest.raises(UsageError, match=r"holds text, image: none of the tasks text>speech can be trained"):
        notes("text>speech")


def test_a_set_that_does_not_fit_is_an_error(sets):
    with pytest.raises(DataError, match="no item fits"):
        Stream(config(sets, "pairs", slots=16, tokens=16, tasks={"text>image": 1.0}), VOCABULARY)
    with pytest.raises(UsageError, match="empty"):
        StreamConfig(sources=())


def test_durations_of_codes_are_found_from_how_long_their_sentences_last(tmp_path: Path):
    """Frames = 2 silent ones + those of each code; measured by shares, from sets that have both."""
    rng = np.random.default_rng(1)
    true = rng.integers(1, 9, 50)
    texts = [rng.integers(0, 40, rng.integers(1, 8)) for _ in range(300)]
    rows = [
        {"key": f"s{i}", "text": t.tolist(), "speech": np.zeros((2 + int(true[t].sum()), 2), int).tolist()}
        for i, t in enumerate(texts)
    ]
    folders = {"spoken": made(tmp_path, "spoken", rows), "text": made(tmp_path, "text", [{"key": "a", "text": [45]}])}
    found = Stream(config(folders, "text", "spoken", slots=96), VOCABULARY).durations("text")
    assert found is not None and found.shape == (50,)
    assert np.abs(found - true)[:40].max() < 0.3
    # Codes that are never heard last as long as one does on average.
    mean = sum(len(r["speech"]) for r in rows) / sum(map(len, texts))
    assert found[40:] == pytest.approx(mean)
    assert Stream(config(folders, "text"), VOCABULARY).durations("text") is None
