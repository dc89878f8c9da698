"""Every split of every data set reads with format=auto, completely and without a rejection."""

import re
from itertools import islice
from pathlib import Path

import pytest
from tiny_data import tokenizers

from trimask.core.errors import RecordError
from trimask.core.item import Audio, Item
from trimask.data.chunks import encode_records
from trimask.data.readers.detect import open_reader, read
from trimask.data.readers.rows import RowReader

SETS = (
    *("classic-books", "emoji", "fashion-mnist", "fsdd", "mnist", "read-speech", "spoken-orders"),
    *("spoken-words", "stamps", "stories", "storybook", "tatoeba-en", "wikitext-2"),
)
SPLITS = ("train", "validation", "test")
LIMIT = 12


def stated_counts(data_root: Path, name: str) -> list[int]:
    """Numbers of items of the three splits, as the README of the data states them."""
    line = next(x for x in (data_root / "README.md").read_text().splitlines() if x.startswith(f"| [{name}]"))
    cell = re.sub(r"\(.*?\)", "", line.split("|")[-2]).replace(",", "")
    return [int(n) for n in re.findall(r"\d+", cell)]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", SETS)
def test_a_split_reads_completely(data_root, name, split):
    reader = open_reader(f"{data_root}/{name}:{split}")
    records = list(reader.records())
    assert len(records) == stated_counts(data_root, name)[SPLITS.index(split)]
    step = max(1, len(records) // LIMIT)
    results = encode_records(reader, records[::step], tokenizers())
    assert [r for r in results if isinstance(r, RecordError)] == []


def test_all_parts_of_stamps_are_read(data_root):
    items = [x for x in read(f"{data_root}/stamps:test") if isinstance(x, Item)]
    assert {k for item in items for k in item.parts} == {"text", "image", "speech", "sound"}
    gander = items[0]
    assert gander.parts["text"] == "A gander." and gander.labels["category"] == "animals"
    sound = gander.parts["sound"]
    assert isinstance(sound, Audio) and sound.seconds == pytest.approx(1.073, abs=0.01)


def test_speakers_become_voices_and_levels_are_brought_together(data_root):
    for item in islice(read(f"{data_root}/fsdd:train?loudness=-20"), 0, 1800, 150):
        assert isinstance(item, Item)
        clip = item.parts["speech"]
        assert isinstance(clip, Audio) and clip.rate == 8000
        rms = float((clip.samples**2).mean() ** 0.5)
        assert rms == pytest.approx(0.1, rel=0.01) or abs(clip.samples).max() == pytest.approx(0.99, rel=0.01)
        assert item.parts["voice"] == item.labels["speaker"]


def test_a_licence_can_be_selected(data_root):
    reader = open_reader(f"{data_root}/spoken-words:train?where=licence:CC BY*")
    chosen = [r for r in reader.selected() if r is not None]
    assert isinstance(reader, RowReader) and 0 < len(chosen) < 635
    assert {reader.row(r)["licence"] for r in chosen if not isinstance(r, RecordError)} == {"CC BY-SA 3.0"}
