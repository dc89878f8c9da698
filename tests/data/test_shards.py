"""A prepared set as a random-access sequence."""

import io
import multiprocessing
from typing import Any

import grain
import numpy as np
import pytest
from rich.console import Console
from tiny_data import Bytes, jsonl, tokenizers

from trimask.core.errors import DataError
from trimask.core.rng import generator
from trimask.data.prepare import prepare
from trimask.data.readers.detect import read
from trimask.data.readers.text import SEPARATOR
from trimask.data.shards import Shard

ITEMS = 300


@pytest.fixture
def rows() -> list[dict]:
    """Codes of random kinds and shapes."""
    rng, out = generator("rows", 0), []
    for i in range(ITEMS):
        row = {"key": f"k{i}", "text": rng.integers(0, 256, rng.integers(1, 30)).tolist(), "labels": {"n": i}}
        if rng.random() < 0.5:
            row["image"] = rng.integers(0, 256, (rng.integers(1, 5), 3)).tolist()
        if rng.random() < 0.5:
            row["speech"] = rng.integers(0, 16, (rng.integers(1, 9), 2)).tolist()
        out.append(row)
    return out


@pytest.fixture
def shard(tmp_path, rows) -> Shard:
    source = jsonl(tmp_path / "codes.jsonl", rows)
    quiet = Console(file=io.StringIO())
    return Shard(prepare([str(source)], tokenizers(), tmp_path / "out", workers=1, console=quiet).folder)


def test_items_come_back_as_they_went_in(shard, rows):
    assert len(shard) == ITEMS
    for i, row in enumerate(rows):
        item = shard[i]
        assert item.key == f"codes/k{i}" and item.labels == {"n": i}
        assert list(item.parts) == [k for k in ("text", "image", "speech") if k in row]
        for kind, codes in item.parts.items():
            assert codes.dtype == np.int32 and codes.tolist() == row[kind]
        assert shard.shape(i) == {k: v.shape for k, v in item.parts.items()}


def test_lengths(shard, rows):
    for kind in ("text", "image", "speech"):
        expected = [np.size(row.get(kind, [])) for row in rows]
        assert shard.lengths[kind].tolist() == expected
        assert shard.manifest.tokens[kind] == sum(expected)
    assert set(shard.sources.tolist()) == {0}


def test_indices_are_those_of_a_sequence(shard):
    assert shard[-1].key == shard[ITEMS - 1].key
    with pytest.raises(IndexError):
        shard[ITEMS]


def fetch(shard: Shard, i: int) -> list[int]:
    return shard[i].parts["text"].tolist()


def test_a_shard_goes_to_another_process(shard):
    first = shard[0]  # the memory map is open when the shard is sent
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(fetch, (shard, 0)) == first.parts["text"].tolist()


def test_grain_reads_it(shard):
    data: Any = grain.MapDataset.source(shard).shuffle(seed=3)
    assert sorted(data[i].key for i in range(ITEMS)) == sorted(f"codes/k{i}" for i in range(ITEMS))
    assert repr(shard) == repr(Shard(shard.folder)) and str(shard.folder) not in repr(shard)


def test_a_cut_or_missing_file_is_an_error(shard):
    tokens = shard.folder / "tokens.bin"
    tokens.write_bytes(tokens.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"its manifest says"):
        Shard(shard.folder)
    tokens.unlink()
    with pytest.raises(DataError, match=r"has 0 bytes"):
        Shard(shard.folder)
    with pytest.raises(DataError, match=r"not a prepared set"):
        Shard(shard.folder.parent)


def test_a_damaged_index_or_manifest_is_an_error(shard):
    (shard.folder / "index.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"index.parquet cannot be read"):
        Shard(shard.folder)[0]
    (shard.folder / "manifest.json").write_text('{"version": 1}')
    with pytest.raises(DataError, match=r"manifest.json is damaged"):
        Shard(shard.folder)
    (shard.folder / "manifest.json").write_text('{"version": 99}')
    with pytest.raises(DataError, match=r"version 99"):
        Shard(shard.folder)


def test_real_tokenizers(tmp_path, data_root):
    """BPE trained on real text, and an image tokenizer with random weights."""
    import torch

    from trimask.tokenizers.image import ImageAutoencoder, ImageSettings, ImageTokenizer
    from trimask.tokenizers.text import TextTokenizer

    torch.manual_seed(0)
    settings = ImageSettings(width=8, inner=8, decoder_blocks=(1, 1))
    weights = {k: v.numpy() for k, v in ImageAutoencoder(settings).state_dict().items()}
    source = f"{data_root}/stamps:validation?kinds=text,image&limit=8"
    raw: list[Any] = list(read(source))
    text = TextTokenizer.train([x.parts["text"] for x in raw], 300)
    made = prepare([source], {"text": text, "image": ImageTokenizer(settings, weights)}, tmp_path / "out", workers=1)
    shard = Shard(made.folder)
    for item, original in zip((shard[i] for i in range(8)), raw, strict=True):
        assert text.decode([item.parts["text"]]) == [original.parts["text"]]
        assert item.parts["image"].shape == (24, 24)


def test_wide_codes_take_four_bytes(tmp_path):
    class Wide(Bytes):
        @property
        def modality(self):
            import chz

            return chz.replace(super().modality, codes=100_000)

        def encode(self, batch):
            return [codes + 70_000 for codes in super().encode(batch)]

    (tmp_path / "a.txt").write_text(f"one\n{SEPARATOR}\ntwo\n")
    made = prepare([f"{tmp_path}/a.txt"], {"text": Wide()}, tmp_path / "out", workers=1)
    assert made.manifest.dtype == "uint32"
    assert (Shard(made.folder)[1].parts["text"] - 70_000).tolist() == list(b"two")
