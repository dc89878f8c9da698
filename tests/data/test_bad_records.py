"""Each kind of bad record is rejected with file, record and reason, and the rest goes on."""

import gzip
import io
import json
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image
from rich.console import Console
from tiny_data import jsonl, pair, png, tokenizers, wav

from trimask.core.errors import DataError
from trimask.data.prepare import prepare


def rejected(tmp_path: Path, source: str, good: int = 1) -> list[dict]:
    """Prepare a source; the `good` records must have gone through. Returns the rejections."""
    quiet = Console(file=io.StringIO())
    done = prepare([source], tokenizers(), tmp_path / "out", workers=1, max_rejected=1, console=quiet)
    rows = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert done.manifest.items == good and done.manifest.rejected == len(rows)
    return rows


def animated() -> bytes:
    out = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    return out.getvalue()


def sixteen_bit() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(out, "PNG")
    return out.getvalue()


def not_finite() -> bytes:
    out = io.BytesIO()
    soundfile.write(out, np.full(8000, np.nan, np.float32), 16000, format="WAV", subtype="FLOAT")
    return out.getvalue()


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


FILES = {
    "truncated png": ("x.png", half(png(64)), r"image cannot be decoded: .*truncated"),
    "truncated jpeg": ("x.jpg", half(png(64, form="JPEG")), r"image cannot be decoded: .*truncated"),
    "not an image": ("x.png", b"hello", r"not an image file .*5 bytes, starting 68 65 6c 6c"),
    "empty image file": ("x.png", b"", r"not an image file .*0 bytes"),
    "too large an image": ("x.png", png(128), r"image too large: 128x128 is more than max_pixels=10000"),
    "animation": ("x.gif", animated(), r"the image has 2 frames"),
    "16 bits": ("x.png", sixteen_bit(), r"more than 8 bits"),
    "odd sides": ("x.png", png(30), r"30 x 30 pixels has sides that are no multiples"),
    "empty audio file": ("x.wav", b"", r"empty audio file"),
    "empty clip": ("x.wav", wav(0), r"empty clip: 0 samples"),
    "very short clip": ("x.wav", wav(0.001), r"empty clip: 16 samples"),
    "silent clip": ("x.wav", wav(scale=0), r"silent clip"),
    "not audio": ("x.wav", b"hello there", r"audio cannot be decoded: .*11 bytes"),
    "truncated wav": ("x.wav", half(wav()), r"audio is truncated: \d+ of \d+ bytes"),
    "truncated flac": ("x.flac", half(wav(form="FLAC")), r"audio (cannot be decoded|is truncated)"),
    "truncated ogg": ("x.ogg", half(wav(1.5, form="OGG", subtype="VORBIS")), r"audio is truncated"),
    "absurd rate": ("x.wav", wav(rate=1000), r"sampling rate 1000 Hz is outside 4000..192000"),
    "long clip": ("x.wav", wav(3), r"clip of 3.0 s is longer than max_seconds=2"),
    "not finite": ("x.wav", not_finite(), r"not finite"),
}


@pytest.mark.parametrize("name", FILES)
def test_bad_media(tmp_path, name):
    member, data, reason = FILES[name]
    fine = "a.wav" if member.endswith(("wav", "flac", "ogg")) else "a.png"
    rows = [{"file": f, "text": "t"} for f in (fine, member)]
    folder = pair(tmp_path / "in", rows, {fine: wav() if fine == "a.wav" else png(), member: data})
    (row,) = rejected(tmp_path, f"{folder}:train?max_pixels=10000&max_seconds=2")
    assert (row["source"], row["file"], row["record"]) == ("in", "train.jsonl", 2)
    assert_matches(row["reason"], reason)


def assert_matches(reason: str, pattern: str) -> None:
    with pytest.raises(ValueError, match=pattern):
        raise ValueError(reason)


def test_a_crc_error_in_a_zip(tmp_path):
    folder = pair(tmp_path / "in", [{"file": f, "text": "t"} for f in ("a.png", "b.png")], {"a.png": png()})
    noise = np.random.default_rng(0).integers(0, 256, 1000, np.uint8).tobytes()
    with zipfile.ZipFile(folder / "train.zip", "a") as archive:
        archive.writestr("b.png", noise)
    data = (folder / "train.zip").read_bytes()
    (folder / "train.zip").write_bytes(data.replace(noise[100:120], bytes(20)))
    (row,) = rejected(tmp_path, f"{folder}:train")
    assert_matches(row["reason"], r"'b.png' cannot be taken out of the zip: Bad CRC")


ROWS = {
    "missing caption": ({"file": "a.png"}, r"missing caption: field 'text' is absent or empty"),
    "blank caption": ({"file": "a.png", "text": "  "}, r"missing caption"),
    "no file field": ({"text": "x"}, r"missing image file: field 'file'"),
    "missing file": ({"file": "b.png", "text": "x"}, r"file 'b.png' is not in train.zip"),
    "caption of a wrong type": ({"file": "a.png", "text": 3}, r"field 'text' \(text\) must be a string, got int"),
    "file of a wrong type": ({"file": [1], "text": "x"}, r"a file name must be a string, got list"),
    "lone surrogate": ('{"file": "a.png", "text": "\\ud800"}', r"has no UTF-8 form"),
    "JSON syntax": ('{"file": "a.png", ', r"JSON syntax: .* at column"),
    "no object": ("[1, 2]", r"must be a JSON object, got list"),
    "invalid UTF-8": (b'{"file": "a.png", "text": "\xff"}', r"invalid UTF-8 at byte 27"),
    "deep nesting": ("[" * 100_000, r"JSON syntax"),
}


@pytest.mark.parametrize("name", ROWS)
def test_bad_rows(tmp_path, name):
    bad, reason = ROWS[name]
    folder = pair(tmp_path / "in", [{"file": "a.png", "text": "t"}, bad], {"a.png": png()})
    (row,) = rejected(tmp_path, f"{folder}:train")
    assert (row["file"], row["record"]) == ("train.jsonl", 2)
    assert_matches(row["reason"], reason)


def test_files_outside_the_folder_and_missing_ones(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(png())
    (tmp_path / "b.png").write_bytes(png())
    names = ("a.png", "../b.png", str(tmp_path / "b.png"), "c.png")
    path = jsonl(tmp_path / "in" / "a.jsonl", [{"image": n, "text": "x"} for n in names])
    above, absolute, missing = rejected(tmp_path, str(path))
    assert "lies outside" in above["reason"] and "?root=FOLDER" in absolute["reason"]
    assert "c.png does not exist" in missing["reason"]


def test_root_allows_files_elsewhere(tmp_path):
    (tmp_path / "b.png").write_bytes(png())
    path = jsonl(tmp_path / "in" / "a.jsonl", [{"image": str(tmp_path / "b.png"), "text": "x"}])
    assert rejected(tmp_path, f"{path}?root={tmp_path}") == []


def test_invalid_utf8_in_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"fine\nabc\xff\xfe\nalso fine\n")
    (row,) = rejected(tmp_path, f"{tmp_path}/a.txt", good=2)
    assert row == {"source": "a", "file": "a.txt", "record": 2, "reason": "invalid UTF-8 at byte 3 of the record"}


def test_folder_without_captions(tmp_path):
    (tmp_path / "in").mkdir()
    for name in "abc":
        (tmp_path / "in" / f"{name}.png").write_bytes(png())
    (tmp_path / "in" / "a.txt").write_text("one")
    (tmp_path / "in" / "c.txt").write_bytes(b"\xff")
    missing, invalid = rejected(tmp_path, f"{tmp_path}/in")
    assert missing["file"] == "b.png" and "missing caption" in missing["reason"]
    assert "invalid UTF-8 in c.txt" in invalid["reason"]


def test_table_of_a_folder(tmp_path):
    (tmp_path / "in").mkdir()
    for name in "ab":
        (tmp_path / "in" / f"{name}.png").write_bytes(png())
    rows = [{"file_name": n, "text": "x"} for n in ("a.png", "z.png")]
    jsonl(tmp_path / "in" / "captions.jsonl", rows)
    gone, unnamed = rejected(tmp_path, f"{tmp_path}/in")
    assert "z.png does not exist" in gone["reason"] and gone["record"] == 2
    assert unnamed["file"] == "b.png" and "missing caption" in unnamed["reason"]


def test_bad_parquet_rows(tmp_path):
    image = [{"bytes": png(), "path": "a.png"}, {"bytes": png()[:90], "path": "b.png"}, None]
    text = ["one", "two", "three"]
    pq.write_table(pa.table({"image": image, "text": text}), tmp_path / "a.parquet")
    truncated, missing = rejected(tmp_path, f"{tmp_path}/a.parquet")
    assert truncated["record"] == 1 and "cannot be decoded" in truncated["reason"]
    assert missing["record"] == 2 and "missing image file" in missing["reason"]


def test_a_parquet_column_of_a_wrong_type(tmp_path):
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "a.parquet")
    rows = rejected_all(tmp_path, f"{tmp_path}/a.parquet?text=text")
    assert "field 'text' (text) must be a string, got int" in rows


def rejected_all(tmp_path: Path, source: str) -> str:
    with pytest.raises(DataError) as caught:
        rejected(tmp_path, source)
    return str(caught.value) + (tmp_path / "out.partial" / "rejected.jsonl").read_text()


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_bad_records_of_a_tar(tmp_path):
    fine = {"png": png(), "txt": b"t", "json": b'{"n": 1}'}
    records = {
        "good": fine,
        "cut": {**fine, "png": half(png(64))},
        "alone": {"png": png(), "json": b"{}"},
        "d/broken": {**fine, "json": b'{"n": '},
        "list": {**fine, "json": b"[1]"},
        "latin": {**fine, "txt": b"caf\xe9"},
        "unseen": {"txt": b"t", "json": b"{}"},
        "also-good": {"jpg": png(form="JPEG"), "txt": b"t"},
    }
    members = {f"{key}.{end}": data for key, parts in records.items() for end, data in parts.items()}
    rows = rejected(tmp_path, str(tar(tmp_path / "a.tar", members)), good=2)
    reasons = {
        "cut": r"image cannot be decoded: .*truncated",
        "alone": r"missing caption: field 'txt' is absent",
        "d/broken": r"member d/broken.json: JSON syntax: .* at column",
        "list": r"member list.json: .*must be a JSON object, got list",
        "latin": r"invalid UTF-8 in member latin.txt at byte 3",
        "unseen": r"missing image file: field 'image'",
    }
    assert [(r["source"], r["file"], r["record"]) for r in rows] == [("a", "a.tar", key) for key in reasons]
    for row, pattern in zip(rows, reasons.values(), strict=True):
        assert_matches(row["reason"], pattern)


def test_bad_records_of_a_parquet_audio_column(tmp_path):
    clips = [wav(), half(wav()), wav(form="FLAC"), None, b"", wav(scale=0), b"hello there", wav(rate=8000)]
    audio = [None if c is None else {"bytes": c, "path": f"{i}.wav"} for i, c in enumerate(clips)]
    audio += [{"bytes": None, "path": "gone.wav"}, {"bytes": wav(), "path": None}]
    text = ["t"] * (len(audio) - 1) + [None]
    pq.write_table(pa.table({"audio": audio, "text": text}), tmp_path / "a.parquet", row_group_size=4)
    rows = rejected(tmp_path, f"{tmp_path}/a.parquet", good=3)
    reasons = {
        1: r"audio is truncated: \d+ of \d+ bytes",
        3: r"missing speech file: field 'audio'",
        4: r"empty audio file",
        5: r"silent clip",
        6: r"audio cannot be decoded: .*11 bytes",
        8: r"gone.wav does not exist",
        9: r"missing caption: field 'text'",
    }
    assert [(r["source"], r["file"], r["record"]) for r in rows] == [("a", "a.parquet", number) for number in reasons]
    for row, pattern in zip(rows, reasons.values(), strict=True):
        assert_matches(row["reason"], pattern)


def test_bad_records_of_a_folder_of_recordings(tmp_path):
    ogg = half(wav(1.5, form="OGG", subtype="VORBIS"))
    files = {
        "a.wav": (wav(), b"t"),
        "b.wav": (half(wav()), b"t"),
        "c.flac": (wav(form="FLAC"), b"t"),
        "d/e.ogg": (ogg, b"t"),
        "f.wav": (wav(), None),
        "g.wav": (wav(), b"caf\xe9"),
        "h.wav": (wav(scale=0), b"t"),
        "i.wav": (b"", b"t"),
        "j.wav": (wav(), b"  "),
    }
    for name, (data, caption) in files.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        if caption is not None:
            path.with_suffix(".txt").write_bytes(caption)
    rows = rejected(tmp_path, f"{tmp_path}/in", good=2)
    reasons = {
        "b.wav": r"audio is truncated",
        "d/e.ogg": r"audio is truncated",
        "f.wav": r"missing caption: field 'text'",
        "g.wav": r"invalid UTF-8 in g.txt at byte 3",
        "h.wav": r"silent clip",
        "i.wav": r"empty audio file",
        "j.wav": r"missing caption",
    }
    assert [(r["source"], r["file"], r["record"]) for r in rows] == [("in", name, 0) for name in reasons]
    for row, pattern in zip(rows, reasons.values(), strict=True):
        assert_matches(row["reason"], pattern)


def test_bad_rows_of_a_table_of_recordings(tmp_path):
    for name, data in {"a.wav": wav(), "b.wav": half(wav())}.items():
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    lines = [{"file_name": n, "transcription": "t"} for n in ("a.wav", "b.wav", "z.wav")]
    jsonl(tmp_path / "in" / "metadata.jsonl", [*lines, '{"file_name": "a.wav", '])
    rows = rejected(tmp_path, f"{tmp_path}/in")
    assert [(r["file"], r["record"]) for r in rows] == [("metadata.jsonl", n) for n in (2, 3, 4)]
    for row, pattern in zip(rows, (r"audio is truncated", r"z.wav does not exist", r"JSON syntax"), strict=True):
        assert_matches(row["reason"], pattern)


def test_labels_without_a_name(tmp_path):
    head = struct.pack(">4B3I", 0, 0, 8, 3, 2, 8, 8)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(head + bytes(128))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, 2) + bytes([0, 9]))
    (row,) = rejected(tmp_path, f"{tmp_path}:train?classes=cat,dog")
    assert row["record"] == 1 and row["reason"] == "label 9 has no name: 2 classes are known"


def test_a_template_with_a_field_that_is_not_there(tmp_path):
    rows = [{"file": "a.png", "name": "cat"}, {"file": "a.png"}]
    folder = pair(tmp_path / "in", rows, {"a.png": png()})
    (row,) = rejected(tmp_path, f"{folder}:train?caption=a {{name}}")
    assert_matches(row["reason"], r"missing caption: template 'a \{name\}' needs field 'name'")


TOKENS = {
    "code outside": ({"text": [300]}, r"text codes 300..300 lie outside 0..255"),
    "negative": ({"text": [-1]}, r"column 'text' \(text\) holds -1..-1; .*row: \{'text': \[-1\]\}"),
    "empty": ({"text": []}, r"is empty"),
    "floats": ({"text": [0.5]}, r"must hold integers only"),
    "flat image": ({"image": [1, 2]}, r"must be a list nested 2 deep, got 1"),
    "ragged image": ({"image": [[1], [1, 2]]}, r"inner lists of different lengths"),
    "wrong levels": ({"speech": [[1, 2, 3]]}, r"speech codes have 3 levels, the tokenizer has 2"),
    "unknown column": ({"text": [1], "colour": 1}, r"'colour' is not part of the schema .*row: "),
    "no codes": ({"key": "x"}, r"no codes of any kind"),
    "key of a wrong type": ({"key": 3, "text": [1]}, r"column 'key' must be a string"),
    "labels of a wrong type": ({"labels": 3, "text": [1]}, r"column 'labels' must be an object"),
}


@pytest.mark.parametrize("name", TOKENS)
def test_bad_token_rows_show_the_row(tmp_path, name):
    bad, reason = TOKENS[name]
    path = jsonl(tmp_path / "a.jsonl", [{"text": [1, 2]}, bad])
    (row,) = rejected(tmp_path, str(path))
    assert row["record"] == 2
    assert_matches(row["reason"], reason)


def test_damaged_containers_stop_the_run(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one\n" * 10_000)[:-20])
    (tmp_path / "b.parquet").write_bytes(b"PAR1 nothing")
    (tmp_path / "c.tar").write_bytes(b"no tar" * 200)
    pair(tmp_path, [{"file": "a.png", "text": "x"}], {})
    (tmp_path / "train.zip").write_bytes(b"PK no zip")
    (tmp_path / "d-images-idx3-ubyte").write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, 9, 8, 8))
    for name in ("a.txt.gz", "b.parquet", "c.tar", "train.jsonl", "d-images-idx3-ubyte?kinds=image"):
        with pytest.raises(DataError, match=r"cannot be read"):
            rejected(tmp_path, f"{tmp_path}/{name}")
        assert not (tmp_path / "out").exists()
