"""Sources and sets elsewhere: a local S3 server, read and written through fsspec."""

import io
import json
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from tiny_data import jsonl, pair, png, tokenizers

from trimask.core import remote
from trimask.core.errors import DataError, UsageError
from trimask.data.manifest import MANIFEST, read_manifest
from trimask.data.prepare import prepare
from trimask.data.shards import Shard

BUCKET = "s3://bucket"


@pytest.fixture
def store(monkeypatch, tmp_path):
    """A bucket, and a cache that is empty."""
    fsspec, server = pytest.importorskip("fsspec"), pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    running = server.ThreadedMotoServer(port=0)
    running.start()
    host, port = running.get_host_and_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "nobody")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("TRIMASK_CACHE", str(tmp_path / "cache"))
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    system.mkdir("bucket")
    yield system
    urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
    running.stop()


def run(sources, out, **options):
    return prepare(sources, tokenizers(), out, console=Console(file=io.StringIO()), workers=1, **options)


@pytest.fixture
def pictures(tmp_path, store) -> Path:
    """A source, here and in the bucket."""
    rows = [{"file": f"{i}.png", "text": f"picture {i}"} for i in range(12)]
    pair(tmp_path / "pictures", rows, {f"{i}.png": png(28, i) for i in range(12)})
    store.put(str(tmp_path / "pictures"), "bucket/pictures", recursive=True)
    return tmp_path / "pictures"


def test_a_set_from_and_to_the_store_has_the_same_bytes(store, pictures, tmp_path):
    run([f"{pictures}:train"], tmp_path / "here")
    made = run([f"{BUCKET}/pictures:train"], f"{BUCKET}/sets/pictures")
    assert made.lines()[0].startswith(f"{BUCKET}/sets/pictures: prepared")
    for name in ("tokens.bin", "index.parquet"):
        assert store.cat_file(f"bucket/sets/pictures/{name}") == (tmp_path / "here" / name).read_bytes()
    there, here = Shard(f"{BUCKET}/sets/pictures"), Shard(tmp_path / "here")
    assert len(there) == len(here) == 12
    assert np.array_equal(there[3].parts["image"], here[3].parts["image"])
    assert read_manifest(f"{BUCKET}/sets/pictures").items == 12
    assert run([f"{BUCKET}/pictures:train"], f"{BUCKET}/sets/pictures").up_to_date
    with pytest.raises(DataError, match="existing=fail"):
        run([f"{BUCKET}/pictures:train"], f"{BUCKET}/sets/pictures", existing="fail")


def test_what_has_changed_is_fetched_anew_and_nothing_else(store, pictures, monkeypatch):
    fetched = []
    get = type(store).get_file
    monkeypatch.setattr(type(store), "get_file", lambda s, a, *b, **k: fetched.append(a) or get(s, a, *b, **k))
    place = remote.local(f"{BUCKET}/pictures")
    count = len(fetched)
    assert count == len([p for p in place.rglob("*") if p.is_file()]) and place.name == "pictures"
    remote.local(f"{BUCKET}/pictures")
    assert len(fetched) == count
    store.pipe_file("bucket/pictures/more.txt", b"another file")
    store.pipe_file("bucket/pictures/more.txt", b"another fil.")
    remote.local(f"{BUCKET}/pictures")
    assert fetched[count:] == ["bucket/pictures/more.txt"]
    assert (place / "more.txt").read_bytes() == b"another fil."
    (place / "more.txt").unlink()
    assert (remote.local(f"{BUCKET}/pictures") / "more.txt").exists()


def test_files_and_patterns(store, tmp_path):
    for n in range(3):
        jsonl(tmp_path / f"{n}.jsonl", [{"text": f"line {n}"}])
        store.put_file(str(tmp_path / f"{n}.jsonl"), f"bucket/texts/{n}.jsonl")
    assert run([f"{BUCKET}/texts/1.jsonl"], tmp_path / "one").manifest.items == 1
    assert run([f"{BUCKET}/texts/*.jsonl"], tmp_path / "all").manifest.items == 3
    with pytest.raises(UsageError, match="only the last part"):
        remote.local(f"{BUCKET}/*/1.jsonl")


def test_a_copy_that_was_killed_goes_on_without_the_work(store, pictures, tmp_path, monkeypatch):
    """Until the manifest is there, what is there counts for nothing."""
    out = f"{BUCKET}/sets/pictures"
    put = type(store).put_file

    def cut(system, here, there, **more):
        if there.endswith(MANIFEST):
            raise OSError("the line is dead")
        return put(system, here, there, **more)

    monkeypatch.setattr(type(store), "put_file", cut)
    with pytest.raises(DataError, match="the line is dead; the same command goes on"):
        run([f"{pictures}:train"], out)
    with pytest.raises(DataError, match="is not a prepared set"):
        Shard(out)
    monkeypatch.setattr(type(store), "put_file", put)
    monkeypatch.setattr("trimask.data.prepare._run", None)
    assert run([f"{pictures}:train"], out).manifest.items == len(Shard(out)) == 12


def test_other_inputs_and_absent_ones(store, pictures, tmp_path):
    out = f"{BUCKET}/sets/pictures"
    run([f"{BUCKET}/pictures:train"], out)
    with pytest.raises(DataError, match=f"{out} was prepared from other inputs"):
        run([f"{BUCKET}/pictures:train?limit=3"], out)
    store.pipe_file("bucket/sets/pictures/stale", b"of the first")
    assert run([f"{BUCKET}/pictures:train?limit=3"], out, existing="new").manifest.items == 3
    assert not store.exists("bucket/sets/pictures/stale")
    assert json.loads(store.cat_file(f"bucket/sets/pictures/{MANIFEST}"))
    assert len(Shard(out)) == 3
    with pytest.raises(DataError, match="there is nothing at s3://bucket/none"):
        run([f"{BUCKET}/none:train"], tmp_path / "x")
    with pytest.raises(UsageError, match="Protocol not known"):
        run(["nowhere://x/y"], tmp_path / "x")
