"""Inspection prints what is there and returns it."""

import io

import numpy as np
import pytest
from rich.console import Console
from tiny_data import pair, png, tokenizers, wav

from trimask.core.errors import DataError
from trimask.data.inspect import RawInspection, SetInspection, histogram, inspect
from trimask.data.prepare import prepare


@pytest.fixture
def folder(tmp_path):
    rows = [{"file": f"{i}.png", "text": f"[picture] {i}", "sound_file": "a.wav"} for i in range(9)]
    rows[4] = {"file": "4.png"}
    return pair(tmp_path / "set", rows, {f"{i}.png": png() for i in range(9)} | {"a.wav": wav()})


def test_a_raw_source(folder):
    (folder / "LICENSE").write_text("CC0\n")
    out = io.StringIO()
    found = inspect(f"{folder}:train", console=Console(file=out, width=200))
    assert isinstance(found, RawInspection)
    assert (found.format, found.records, found.scanned, len(found.rejected)) == ("archive", 9, 9, 1)
    assert found.licence == "CC0" and set(found.lengths) == {"text", "image", "sound"}
    text = out.getvalue()
    for words in ("format: archive", "records: 9", "licence: CC0", "rejected so far: 1", "missing caption"):
        assert words in text
    assert "text: [picture] 0" in text and "32 x 32 pixels" in text and "0.30 s at 16000 Hz" in text


def test_a_prepared_set(folder, tmp_path):
    quiet = Console(file=io.StringIO())
    source = f"{folder}:train"
    prepare([source], tokenizers(), tmp_path / "out", workers=1, max_rejected=0.2, console=quiet)
    out = io.StringIO()
    found = inspect(tmp_path / "out", tokenizers=tokenizers(), console=Console(file=out, width=200))
    assert isinstance(found, SetInspection) and found.manifest.items == 8 and len(found.samples) == 3
    text = out.getvalue()
    for words in ("items: 8; rejected: 1", "text: 11 codes: [picture] 0", "image: 8 x 8 codes", "16 codes x 2 levels"):
        assert words in text


def test_nothing_there_is_an_error(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        inspect(tmp_path / "nothing")


def test_histogram():
    lines = histogram(np.array([1, 1, 1, 9]))
    assert len(lines) == 8 and lines[0].endswith(" 3") and lines[-1].endswith(" 1")
    assert histogram(np.array([4, 4])) == []
