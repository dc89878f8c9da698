"""Preparing: the same bytes always, nothing lost by a kill, nothing overwritten unasked."""

import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from tiny_data import Bytes, Fatal, jsonl, pair, png, tokenizers, wav

from trimask.core.errors import ArtifactError, DataError, UsageError
from trimask.core.rng import generator
from trimask.data.manifest import read_manifest, require_tokenizers
from trimask.data.prepare import prepare
from trimask.data.shards import Shard

HERE = Path(__file__).parent
LINES = 14_000


def run(sources, out, **options):
    return prepare(sources, tokenizers(), out, console=Console(file=io.StringIO()), **{"workers": 1, **options})


def contents(folder: Path) -> dict[str, bytes]:
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


@pytest.fixture
def mixed(tmp_path) -> list[str]:
    """Sources of several kinds, one with a bad record in it."""
    rows = [{"file": f"{i}.png", "text": f"picture {i}"} for i in range(70)]
    rows += [{"file": "0.png"}, {"file": "a.wav", "text": "not a picture"}]
    pair(tmp_path / "pictures", rows, {f"{i}.png": png(28, i) for i in range(70)} | {"a.wav": wav()})
    clips = [{"file": f"{i}.wav", "text": f"clip {i}", "speaker": "ann"} for i in range(20)]
    pair(tmp_path / "clips", clips, {f"{i}.wav": wav(0.1 + i / 50, 8000) for i in range(20)})
    (tmp_path / "clips" / "SOURCE.md").write_text("# clips\n\n- Licence: CC BY 4.0\n")
    (tmp_path / "clips" / "LICENSE").write_text("the licence\n")
    jsonl(tmp_path / "codes.jsonl", [{"text": [i, i], "image": [[i, i]]} for i in range(30)])
    return [f"{tmp_path}/pictures:train", f"{tmp_path}/clips:train", f"{tmp_path}/codes.jsonl", "world:scenes?count=9"]


def test_the_bytes_do_not_depend_on_workers_or_place(tmp_path, mixed):
    one = run(mixed, tmp_path / "one", workers=1, max_rejected=0.05)
    run(mixed, tmp_path / "three", workers=3, max_rejected=0.05)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")
    assert one.manifest.rejected == 2 and one.manifest.items == 70 + 20 + 30 + 9
    assert not (tmp_path / "three.partial").exists()


@pytest.mark.long
def test_ray_makes_the_same_bytes_though_a_worker_dies(tmp_path, mixed, monkeypatch):
    """Its actors send their chunks; the one that is killed is started anew."""
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", f"{HERE}:{os.environ.get('PYTHONPATH', '')}")
    run(mixed, tmp_path / "here", max_rejected=0.05)
    tokens = {**tokenizers(), "text": Fatal(tmp_path / "killed")}
    try:
        options = {"executor": "ray", "workers": 2, "max_rejected": 0.05, "console": Console(file=io.StringIO())}
        made = prepare(mixed, tokens, tmp_path / "there", **options)
        assert (tmp_path / "killed").exists() and made.manifest.items == 70 + 20 + 30 + 9
        assert contents(tmp_path / "here") == contents(tmp_path / "there")
        with pytest.raises(DataError, match="rejected, more than the share"):
            prepare(mixed, tokens, tmp_path / "strict", **{**options, "max_rejected": 0.0})
    finally:
        ray.shutdown()


def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    """Its worker processes die while they import the script; the pipe to them must not be waited on."""
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
        "from tiny_data import tokenizers\n"
        "from trimask.data.prepare import prepare\n"
        "made = tokenizers()\n"
        "made['text'].ballast = bytes(1 << 20)  # more than a pipe holds, as real weights are\n"
        f"prepare(['world:text?count=6000'], made, {str(tmp_path / 'out')!r}, workers=2)\n"
    )
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert ended.returncode != 0 and '`if __name__ == "__main__":`' in ended.stderr


def test_the_manifest_says_what_is_in_the_set(tmp_path, mixed):
    out = tmp_path / "out"
    result = run(mixed, out, max_rejected=0.05, folders={"text": "tok/bytes"})
    manifest = read_manifest(out)
    assert json.dumps(manifest.json()) == json.dumps(result.manifest.json())
    pictures, clips, codes, world = manifest.sources
    assert [s.format for s in manifest.sources] == ["archive", "archive", "tokens", "world"]
    assert (pictures.items, pictures.rejected, pictures.licence) == (70, 2, "unknown")
    assert (clips.licence, list(clips.notices)) == ("CC BY 4.0", ["LICENSE", "SOURCE.md"])
    assert (out / "notices" / "clips" / "LICENSE").read_text() == "the licence\n"
    assert clips.segments == {"text": 20, "voice": 20, "speech": 20} and clips.tokens["voice"] == 60
    assert codes.segments == {"text": 30, "image": 30} and world.licence == "CC0-1.0"
    assert manifest.tokenizers["text"].fingerprint == Bytes().fingerprint
    assert manifest.tokenizers["text"].folder == "tok/bytes"
    assert len(pictures.files) == 2 and len(pictures.sha256) == 64
    assert sum(manifest.tokens.values()) * 2 == (out / "tokens.bin").stat().st_size


def test_tokens_are_readable_with_numpy_alone_and_decode(tmp_path, mixed):
    import pyarrow.parquet as pq

    out = run(mixed, tmp_path / "out", max_rejected=0.05).folder
    row = pq.read_table(out / "index.parquet").to_pylist()[75]
    flat = np.memmap(out / "tokens.bin", "<u2")
    parts = {s["kind"]: flat[s["offset"] :][: np.prod(s["shape"])].reshape(s["shape"]) for s in row["segments"]}
    assert row["item"] == 75 and row["key"] == "clips/train.jsonl#6"
    assert Bytes().decode([parts["text"]]) == ["clip 5"] and Bytes().decode([parts["voice"]]) == ["ann"]
    assert json.loads(row["labels"])["speaker"] == "ann" and parts["speech"].shape[1] == 2


def test_a_second_run_is_up_to_date_and_touches_nothing(tmp_path, mixed):
    out = tmp_path / "out"
    assert not run(mixed, out, max_rejected=0.05).up_to_date
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    again = run(mixed, out, max_rejected=0.05)
    assert again.up_to_date and "up to date" in again.lines()[0]
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


def test_other_inputs_are_refused_unless_asked(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    out, source = tmp_path / "out", f"{tmp_path}/a.txt"
    run([source], out)
    with pytest.raises(DataError, match=r"reading options of a differ.*existing=new"):
        run([f"{source}?limit=1"], out)
    with pytest.raises(DataError, match="text tokenizer differs"):
        prepare([source], {**tokenizers(), "text": Bytes(salt="x")}, out, workers=1)
    with pytest.raises(DataError, match="existing=fail"):
        run([source], out, existing="fail")
    (tmp_path / "a.txt").write_text("one\nthree\n")
    with pytest.raises(DataError, match="files of a differ"):
        run([source], out)
    assert Bytes().decode([Shard(out)[1].parts["text"]]) == ["two"]
    run([source], out, existing="new")
    assert Bytes().decode([Shard(out)[1].parts["text"]]) == ["three"]


def test_a_folder_that_is_no_prepared_set_is_not_touched(tmp_path):
    (tmp_path / "a.txt").write_text("one\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(DataError, match="not a prepared set"):
        run([f"{tmp_path}/a.txt"], tmp_path / "out")
    assert contents(tmp_path / "out") == {"mine": b"x"}


def test_too_many_rejections_stop_the_run_and_more_may_be_allowed(tmp_path, mixed):
    with pytest.raises(DataError, match=r"2 of 72 records rejected.*missing caption.*rejected\.jsonl"):
        run(mixed, tmp_path / "out")
    listed = (tmp_path / "out.partial" / "rejected.jsonl").read_text().splitlines()
    assert len(listed) == 2 and not (tmp_path / "out").exists()
    resumed = run(mixed, tmp_path / "out", max_rejected=0.03)
    assert resumed.resumed > 0 and len(Shard(tmp_path / "out")) == 129


def test_a_kind_without_a_tokenizer_is_an_error(tmp_path, mixed):
    with pytest.raises(UsageError, match=r"holds image, but no image tokenizer.*kinds=text"):
        prepare(mixed[:1], {"text": Bytes()}, tmp_path / "out", workers=1)
    with pytest.raises(UsageError, match="it was given for image"):
        prepare(mixed[:1], {"image": Bytes()}, tmp_path / "out", workers=1)
    only = prepare([mixed[0] + "?kinds=text&limit=5"], {"text": Bytes()}, tmp_path / "out", workers=1)
    assert only.manifest.kinds == ("text",)


@pytest.mark.parametrize("options", [{"workers": 0}, {"max_rejected": 2}])
def test_wrong_options(tmp_path, mixed, options):
    with pytest.raises(UsageError, match=next(iter(options))):
        run(mixed, tmp_path / "out", **options)
    with pytest.raises(UsageError, match="no source"):
        run([], tmp_path / "out")


def test_a_set_of_other_tokenizers_is_refused(tmp_path, mixed):
    manifest = run(mixed, tmp_path / "out", max_rejected=0.05).manifest
    here = {name: t.fingerprint for name, t in tokenizers().items()}
    require_tokenizers(manifest, here, "out")
    with pytest.raises(ArtifactError, match=r"out was made with text tokenizer .*the one in use is 1234"):
        require_tokenizers(manifest, {**here, "text": "1234"}, "out")
    with pytest.raises(ArtifactError, match="no audio tokenizer"):
        require_tokenizers(manifest, {k: v for k, v in here.items() if k != "audio"}, "out")


def start(source: str, out: Path, workers: int, pause: float) -> subprocess.Popen:
    command = [sys.executable, str(HERE / "run_prepare.py"), source, str(out), str(workers), str(pause)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), *sys.path])}
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet, start_new_session=True)


def kill_when(process: subprocess.Popen, ready: Callable[[], bool]) -> bool:
    """kill -9 as soon as `ready`; False when the program ended before."""
    while process.poll() is None:
        if ready():
            process.kill()
            process.wait()
            return True
        time.sleep(0.001)
    assert process.returncode == 0
    return False


def gone(group: int) -> bool:
    """Whether no process of a group is alive any more."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def long_text(tmp_path) -> str:
    lines = generator("lines", 0).integers(0, 10**9, LINES)
    (tmp_path / "long.txt").write_text("".join(f"line {n}\n" for n in lines))
    return f"{tmp_path}/long.txt"


def test_kills_at_random_moments_lose_nothing(tmp_path, long_text):
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    expected = run([long_text], tmp_path / "whole").folder
    rng, kills, seen = generator("kills", 0), 0, set()
    while True:
        wanted = len(list(partial.glob("0*.npz"))) + int(rng.integers(1, 3))
        process = start(long_text, out, 1, 0.01)
        if not kill_when(process, lambda n=wanted: len(list(partial.glob("0*.npz"))) >= n):
            break
        kills += 1
        names = {p.name for p in partial.glob("0*.npz")}
        assert seen <= names and not out.exists()
        seen = names
    assert kills >= 5
    assert contents(out) == contents(expected) and not partial.exists()


def test_a_kill_during_the_merge_loses_nothing(tmp_path, long_text):
    out = tmp_path / "out"
    expected = run([long_text], tmp_path / "whole").folder
    killed = kill_when(start(long_text, out, 1, 0.0), lambda: any(tmp_path.glob(".out.*")))
    result = run([long_text], out)
    assert killed and (result.up_to_date or result.resumed == -(-LINES // 1024))
    assert contents(out) == contents(expected)


def test_workers_of_a_killed_run_end_and_the_next_goes_on(tmp_path, long_text):
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    process = start(long_text, out, 2, 0.05)
    assert kill_when(process, lambda: len(list(partial.glob("0*.npz"))) >= 4)
    assert gone(process.pid)
    result = run([long_text], out)
    assert result.resumed >= 4 and result.manifest.items == LINES


def test_a_folder_replacement_killed_half_way_is_put_back(tmp_path, mixed):
    out = run(mixed, tmp_path / "out", max_rejected=0.05).folder
    out.rename(tmp_path / "out.old")
    assert run(mixed, out, max_rejected=0.05).up_to_date


def test_ctrl_c_stops_and_the_same_command_goes_on(tmp_path, long_text):
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    process = start(long_text, out, 2, 0.05)
    while len(list(partial.glob("0*.npz"))) < 2:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(20) != 0 and gone(process.pid) and not out.exists()
    assert run([long_text], out).resumed >= 2


def test_a_full_disk_is_one_clear_error(tmp_path, long_text):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))  # the merged file is larger
    try:
        with pytest.raises(DataError, match=r"File too large; make room"):
            run([long_text], tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "out").exists()
    assert run([long_text], tmp_path / "out").resumed == -(-LINES // 1024)


def test_a_changed_source_begins_anew(tmp_path, long_text):
    partial = tmp_path / "out.partial"
    kill_when(start(long_text, tmp_path / "out", 1, 0.05), lambda: len(list(partial.glob("0*.npz"))) >= 3)
    Path(long_text).write_text("only\n")
    result = run([long_text], tmp_path / "out")
    assert result.resumed == 0 and result.manifest.items == 1


def test_equal_names_are_numbered(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder / "set").mkdir(parents=True)
        (tmp_path / folder / "set" / "train.txt").write_text(f"{folder}\n")
    out = run([f"{tmp_path}/{f}/set:train" for f in ("a", "b")], tmp_path / "out").folder
    assert [s.name for s in read_manifest(out).sources] == ["set", "set~2"]
    assert [Shard(out)[i].key for i in range(2)] == ["set/train.txt#1", "set~2/train.txt#1"]


def test_the_disk_holds_only_the_set_afterwards(tmp_path, long_text):
    run([long_text], tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["long.txt", "out"]
