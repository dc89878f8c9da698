"""Each format, written with the libraries people write it with, is recognised and read whole."""

import gzip
import io
import json
import struct
import tarfile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_data import jsonl, pair, png, wav

from trimask.core.errors import DataError, RecordError, UsageError
from trimask.core.item import Audio
from trimask.data.readers.detect import open_reader, read
from trimask.data.shards import TokenItem


def items(source) -> list[Any]:
    found = list(read(str(source)))
    assert not [x for x in found if isinstance(x, RecordError)]
    return found


def texts(source) -> list[str]:
    return [x.parts["text"] for x in items(source)]


def form(source) -> str:
    return open_reader(str(source)).format


def test_text_documents(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\n\ntwo\n<|endoftext|>\n\n<|endoftext|>\r\nthree\n")
    assert form(tmp_path / "a.txt") == "text" and texts(tmp_path / "a.txt") == ["one\n\ntwo", "three"]


def test_text_lines_and_gzip(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one\r\n\n two \n"))
    assert texts(tmp_path / "a.txt.gz") == ["one", " two "]


def test_text_separators(tmp_path):
    (tmp_path / "a.txt").write_text("one\n---\ntwo\n= Head\nthree\n")
    assert texts(f"{tmp_path}/a.txt?separator=---") == ["one", "two\n= Head\nthree"]
    assert texts(f"{tmp_path}/a.txt?separator=file") == ["one\n---\ntwo\n= Head\nthree"]
    assert texts(f"{tmp_path}/a.txt?begins=%3D .*") == ["one\n---\ntwo", "= Head\nthree"]


def test_a_folder_of_text_files_is_a_document_each(tmp_path):
    for name in "ba":
        (tmp_path / f"{name}.txt").write_text(f"{name}\nand more\n")
    assert texts(tmp_path) == ["a\nand more", "b\nand more"]
    assert texts(f"{tmp_path}/*.txt") == ["a\nand more", "b\nand more"]


def test_jsonl_text_with_labels(tmp_path):
    jsonl(tmp_path / "a.jsonl", [{"id": 3, "body": "one", "tags": ["x"]}, "", {"id": 4, "body": "two"}])
    found = items(tmp_path / "a.jsonl")
    assert [x.parts for x in found] == [{"text": "one"}, {"text": "two"}]
    assert found[0].labels == {"id": 3, "tags": ["x"]} and found[1].key == "a.jsonl#3"


def test_jsonl_with_files_and_fields(tmp_path):
    (tmp_path / "clip.wav").write_bytes(wav())
    (tmp_path / "pic.png").write_bytes(png())
    row = {"wav_path": "clip.wav", "pic": "pic.png", "sentence": "hello", "speaker": 7}
    jsonl(tmp_path / "a.jsonl", [row])
    parts = items(tmp_path / "a.jsonl")[0].parts
    assert set(parts) == {"text", "voice", "image", "speech"} and parts["voice"] == "7"
    assert set(items(f"{tmp_path}/a.jsonl?sound_as=sound&kinds=text,sound")[0].parts) == {"text", "sound"}
    assert items(f"{tmp_path}/a.jsonl?text=wav_path&kinds=text")[0].parts == {"text": "clip.wav"}


def test_archive_as_zip_and_as_folder(tmp_path):
    pair(tmp_path, [{"file": "d/a.png", "text": "one"}], {"d/a.png": png(64)})
    assert form(f"{tmp_path}:train") == "archive"
    (tmp_path / "test" / "d").mkdir(parents=True)
    (tmp_path / "test" / "d" / "a.png").write_bytes(png(64))
    jsonl(tmp_path / "test.jsonl", [{"file": "d/a.png", "text": "one"}])
    (one,), (two,) = items(f"{tmp_path}:train"), items(f"{tmp_path}:test")
    assert np.array_equal(one.parts["image"], two.parts["image"])
    assert form(f"{tmp_path}:test") == "archive"


def test_image_options(tmp_path):
    wide = io.BytesIO()
    from PIL import Image

    Image.new("RGBA", (90, 40), (255, 0, 0, 0)).save(wide, "PNG")
    pair(tmp_path, [{"file": "a.png", "text": "one"}], {"a.png": wide.getvalue()})
    shapes = {"": (40, 90), "?image_size=32": (16, 32), "?image_size=32&fit=crop": (32, 32)}
    for options, shape in shapes.items():
        image = items(f"{tmp_path}:train{options}")[0].parts["image"]
        assert image.shape == (*shape, 3) and (image == 255).all()  # transparent is white


def test_folder_with_sidecars_and_several_media(tmp_path):
    (tmp_path / "cats").mkdir()
    for name, data in {"a.png": png(), "a.wav": wav(), "a.txt": b"one\n", "b.jpg": png(form="JPEG")}.items():
        (tmp_path / "cats" / name).write_bytes(data)
    (tmp_path / "cats" / "b.txt").write_text("two")
    assert form(tmp_path) == "folder"
    one, two = items(tmp_path)
    assert set(one.parts) == {"text", "image", "speech"} and set(two.parts) == {"text", "image"}
    assert (one.key, one.parts["text"], one.labels["folder"]) == ("cats/a.png#0", "one", "cats")
    assert texts(f"{tmp_path}?caption=a photo of {{folder}}")[0] == "a photo of cats"


@pytest.mark.parametrize("table", ["captions.jsonl", "metadata.jsonl"])
def test_folder_with_a_table(tmp_path, table):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "x.wav").write_bytes(wav())
    rows = [{"file_name": "x.wav", "transcription": "one"}, {"file_name": "x.wav", "transcription": "again"}]
    jsonl(tmp_path / "train" / table, rows)
    assert texts(f"{tmp_path}:train") == ["one", "again"] and form(f"{tmp_path}:train") == "folder"


def huggingface_table() -> pa.Table:
    features = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = pa.table(
        {
            "image": [{"bytes": png(), "path": "a.png"}, {"bytes": png(28), "path": None}],
            "audio": [{"bytes": wav(), "path": "a.wav"}, {"bytes": wav(0.5), "path": None}],
            "label": [0, 1],
            "text": ["one", "two"],
        }
    )
    return table.replace_schema_metadata({"huggingface": json.dumps(features)})


def test_parquet_with_media_columns(tmp_path):
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "train-00000-of-00001.parquet"
    pq.write_table(huggingface_table(), path, row_group_size=1)
    assert form(f"{tmp_path}:train") == "parquet"
    one, two = items(f"{tmp_path}:train")
    assert set(one.parts) == {"text", "image", "speech"} and two.parts["image"].shape == (28, 28, 3)
    assert isinstance(two.parts["speech"], Audio) and two.parts["speech"].seconds == 0.5
    assert one.labels == {"label": 0, "name": "cat"} and two.key.endswith(".parquet#1")
    assert texts(f"{tmp_path}:train?caption=a {{name}}") == ["a cat", "a dog"]
    assert texts(f"{tmp_path}:train?where=text:t*") == ["two"]


def test_webdataset(tmp_path):
    with tarfile.open(tmp_path / "train-000.tar", "w") as tar:
        members = {
            **{"d/1.png": png(), "d/1.txt": b"one", "d/1.json": b'{"n": 1}'},
            **{"d/2.jpg": png(form="JPEG"), "d/2.txt": b"two"},
        }
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    pair_of = items(tmp_path / "train-000.tar")
    assert form(tmp_path / "train-000.tar") == "webdataset"
    assert [x.parts["text"] for x in pair_of] == ["one", "two"] and pair_of[0].labels["n"] == 1
    assert set(pair_of[0].parts) == {"text", "image"} and pair_of[0].key == "train-000.tar#d/1"


def write_idx(folder, images: np.ndarray, labels: list[int], name: str = "train"):
    head = struct.pack(">4B3I", 0, 0, 8, 3, *images.shape)
    (folder / f"{name}-images-idx3-ubyte").write_bytes(head + images.tobytes())
    packed = gzip.compress(struct.pack(">4BI", 0, 0, 8, 1, len(labels)) + bytes(labels))
    (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(packed)


def test_idx(tmp_path):
    images = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8)
    write_idx(tmp_path, images, [1, 0])
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(
        gzip.decompress((tmp_path / "train-labels-idx1-ubyte.gz").read_bytes())
    )
    one, two = items(f"{tmp_path}:train?classes=cat,dog&caption=a {{name}}")
    assert (one.parts["text"], two.parts["text"]) == ("a dog", "a cat")
    assert np.array_equal(one.parts["image"][..., 2], images[0])
    assert texts(f"{tmp_path}:train?classes=mnist") == ["the digit one", "the digit zero"]
    with pytest.raises(DataError, match="classes"):
        open_reader(f"{tmp_path}:train")


def token_rows() -> list[dict]:
    return [
        {"key": "x", "text": [1, 2, 3], "image": [[1, 2], [3, 4]], "labels": {"a": 1}},
        {"key": None, "text": [7], "image": None, "labels": None},
    ]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_already_tokenised_rows(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix == "jsonl":
        jsonl(path, token_rows())
    else:
        pq.write_table(pa.Table.from_pylist(token_rows()), path)
    assert form(path) == "tokens" and open_reader(str(path)).kinds == ("text", "image")
    one, two = read(str(path))
    assert isinstance(one, TokenItem) and isinstance(two, TokenItem)
    assert one.parts["image"].tolist() == [[1, 2], [3, 4]] and one.key == "x" and one.labels == {"a": 1}
    assert two.parts["text"].tolist() == [7] and "image" not in two.parts


def test_a_column_outside_the_token_schema_is_refused(tmp_path):
    pq.write_table(pa.table({"text": [[1, 2]], "extra": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"'extra' is not part of the schema"):
        open_reader(f"{tmp_path}/a.parquet")


def test_world(tmp_path):
    (one, *_) = items("world:scenes?count=3&split=test")
    assert set(one.parts) == {"text", "image"} and form("world:scenes") == "world"


def test_conditions_need_fields(tmp_path):
    (tmp_path / "a.txt").write_text("one\n")
    with pytest.raises(UsageError, match=r"where=.*a text source has no fields"):
        items(f"{tmp_path}/a.txt?where=licence:CC*")


def test_limit_and_detection_say_what_they_do(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\n")
    assert texts(f"{tmp_path}/a.txt?limit=2") == ["one", "two"]
    reader = open_reader(f"{tmp_path}/a.txt")
    assert reader.reason == "text files" and reader.notes() == ("text: a line a record",)


def test_required_kinds(tmp_path):
    rows = [{"file": "a.png", "text": "one", "speech_file": "a.wav"}, {"file": "a.png", "text": "two"}]
    pair(tmp_path, rows, {"a.png": png(), "a.wav": wav()})
    assert [set(x.parts) for x in items(f"{tmp_path}:train")][1] == {"text", "image"}
    _, missing = read(f"{tmp_path}:train?require=speech")
    assert isinstance(missing, RecordError) and "missing speech file" in missing.reason
    assert len(items(f"{tmp_path}:train?where=speech_file:*.wav")) == 1


def test_a_text_field_that_cannot_be_guessed_is_asked_for(tmp_path):
    jsonl(tmp_path / "a.jsonl", [{"one": "x", "two": "y"}])
    with pytest.raises(DataError, match=r"fields: one, two; say \?text=FIELD"):
        open_reader(f"{tmp_path}/a.jsonl")
    assert texts(f"{tmp_path}/a.jsonl?text=two") == ["y"]


def test_nothing_readable_is_an_error_with_what_is_there(tmp_path):
    (tmp_path / "a.xyz").touch()
    with pytest.raises(DataError, match=r"among: a\.xyz"):
        open_reader(str(tmp_path))
