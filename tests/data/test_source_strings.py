"""The string form of a source, and its errors."""

import re
from pathlib import Path

import pytest

from trimask.core.errors import DataError, UsageError
from trimask.core.modality import KINDS
from trimask.data.readers.detect import open_reader
from trimask.data.readers.source import Source, parse


@pytest.mark.parametrize(
    "text",
    [
        "folder:train?image_size=32&limit=10",
        "a/b.jsonl?text=caption&speech=wav&kinds=text,speech",
        "x?where=licence:CC BY*,style:!noto&loudness=-20",
        "x?caption=a {name}%26 more&classes=cat,dog%2C big",
        "world:scenes?split=test&count=50&seed=3",
        "x?sound_as=sound&max_seconds=5&fit=crop&image_size=64&max_pixels=10000",
    ],
)
def test_a_string_and_its_config_are_the_same(text):
    source = parse(text)
    assert parse(str(source)) == source


@pytest.mark.parametrize("document", ["docs/data.md", "docs/reference.md"])
def test_every_option_is_documented(document):
    text = (Path(__file__).parents[2] / document).read_text()
    options = {*(set(Source.__annotations__) - {"path", "fields"}), *KINDS}
    assert [o for o in sorted(options) if not re.search(rf"\b{o}(=|`)", text)] == []


def test_options_have_their_types():
    source = parse("d:train?image_size=32&where=a:b,c:!d&text=t&limit=2k&loudness=-20&caption=x=%25y")
    assert source.path == "d" and source.split == "train" and source.image_size == 32
    assert source.where == ("a:b", "c:!d") and source.fields == {"text": "t"}
    assert source.limit == 2000 and source.loudness == -20 and source.caption == "x=%y"


def test_world_has_a_split_by_default():
    assert parse("world:scenes").split == "train"


def test_the_tests_of_the_world_have_names_of_their_own():
    assert parse("world:scenes?split=test").name == parse("world:scenes").name == "world-scenes"
    assert parse("world:scenes?split=test-seen").name == "world-scenes-seen"


def test_a_colon_in_an_existing_path_is_no_split(tmp_path):
    (tmp_path / "a:b").mkdir()
    assert parse(f"{tmp_path}/a:b").split is None
    assert parse(f"{tmp_path}/a:b:train").split == "train"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x?image_size=30", "image_size=30"),
        ("x?image_size=big", "image_size=big"),
        ("x?format=png", "format=png"),
        ("x?colour=red", "colour=red"),
        ("x?kinds=text,smell", "smell"),
        ("x?kinds=image&text=caption", "kinds"),
        ("x?fit=crop", "fit=crop"),
        ("x?fit=squash&image_size=32", "fit=squash"),
        ("x?sound_as=noise", "sound_as=noise"),
        ("x?where=licence", "where=licence"),
        ("x?limit", "'limit' is not option=value"),
        ("x?limit=3&limit=4", "twice"),
        ("x?limit=0", "limit=0"),
        ("x?loudness=3", "loudness=3"),
        ("x?count=3", "count=3"),
        ("world:scenes?image_size=64", "image_size=64"),
        ("world:speech?loudness=-20", "loudness=-20"),
        ("world:scenes?caption=x", "caption=x"),
        ("x:", "colon"),
        ("?limit=3", "no path"),
    ],
)
def test_an_error_names_the_option(text, words):
    with pytest.raises(UsageError, match=words.replace("?", r"\?")):
        parse(text)


def test_a_missing_path_says_what_is_there(tmp_path):
    (tmp_path / "train.jsonl").touch()
    with pytest.raises(DataError, match=r"does not exist.*train\.jsonl"):
        open_reader(f"{tmp_path}/trian.jsonl")


def test_several_splits_are_not_mixed(tmp_path):
    for name in ("train.txt", "test.txt"):
        (tmp_path / name).write_text("one\n")
    with pytest.raises(UsageError, match="several parts"):
        open_reader(str(tmp_path))
    with pytest.raises(DataError, match=r"no split 'dev'.*train, test"):
        open_reader(f"{tmp_path}:dev")


def test_a_split_of_a_file_and_an_unknown_world_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("one\n")
    with pytest.raises(UsageError, match="is a file"):
        open_reader(f"{tmp_path}/a.txt:train")
    with pytest.raises(UsageError, match="smells"):
        open_reader("world:smells")


def test_where_conditions():
    source = Source(path="x", where=("licence:CC BY*", "style:!noto"))
    assert source.admits({"licence": "CC BY-SA 3.0", "style": "twemoji"})
    assert source.admits({"licence": "CC BY 4.0"})
    assert not source.admits({"licence": "GPL", "style": "twemoji"})
    assert not source.admits({"licence": "CC BY 4.0", "style": "noto"})
    assert not source.admits({})
