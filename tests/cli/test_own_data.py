"""A data set of the user's own, from raw files to an evaluated model, by commands alone."""

import gzip
import io
import json
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image

from tests.hub import tiny
from trimask.data import stream
from trimask.hub.bundle import MODELS

RECIPE = """
import chz
from chz.blueprint import Reference

from trimask.data.stream import SourceConfig
from trimask.train.config import RowSettings, TrainConfig, vocabulary


def small():
    return chz.Blueprint(TrainConfig).apply({
        "run": "runs/small",
        "model.vocabulary": vocabulary,
        "model.vocabulary.tokenizers": Reference("tokenizers"),
        "model.vocabulary.rows": {"text": RowSettings(buckets=(8, 16)), "audio": RowSettings(buckets=(6, 12))},
        "model.depth": 1,
        "model.width": 32,
        "model.head_dim": 16,
        "data.sources": (SourceConfig(path="sets/of-the-recipe"),),
        "data.rows": 2,
        "data.slots": 96,
        "budget.steps": 2,
        "dtype": "fp32",
        "compile": "off",
        "log_every": 1,
    })
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with a set of captioned pictures and a recipe."""
    monkeypatch.chdir(tmp_path)
    # Two steps need no window of hundreds of items; making it would be most of the time.
    monkeypatch.setattr(stream, "WINDOW", 16)
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)).save(f"photos/{i}.png")
        Path(f"photos/{i}.txt").write_text(f"picture number {i}")
    Path("recipe.py").write_text(RECIPE)
    return tmp_path


def test_from_pictures_to_an_evaluated_model(trimask, here: Path, bundle: Path):
    looked = trimask("inspect", "photos")
    assert looked.code == 0
    assert "records: 6" in looked.out
    prepared = trimask("prepare", "photos", "--tokenizers", bundle, "--out", "sets/photos", "--workers", 1)
    assert prepared.code == 0
    assert "6 items" in prepared.out
    again = trimask("prepare", "photos", "--tokenizers", bundle, "--out", "sets/photos", "--workers", 1)
    assert "up to date" in again.out
    assert "picture number" in trimask("inspect", "sets/photos", "--tokenizers", bundle).out

    train = ("train", "recipe.py:small", "--data", "sets/photos", "--validation", "sets/photos", "run=runs/mine")
    done = trimask(*train)
    assert done.code == 0, done.err
    assert trimask(*train, "--on-existing", "fail").code == 2
    wrong = trimask(*train, "model.depht=3")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
    assert "depht" in wrong.err

    assert trimask("generate", "picture", "-o", "new.png", "-m", "runs/mine", "--size", 28, "--steps", 2).code == 0
    assert Image.open("new.png").size == (28, 28)
    shown = trimask("inspect", "runs/mine").out
    assert "photos: 6 items" in shown
    counts = ("likelihood=2", "draws=4", "drawings=2", "captions=2")
    rated = trimask("evaluate", "runs/mine", "photos", *counts)
    assert rated.code == 0, rated.err
    results = json.loads((here / "runs/mine/evaluation/results.json").read_text())
    assert any("bits per byte" in row["metric"] for row in results["rows"])
    assert any(row["section"] == "photos: captions" and row["metric"] == "word error rate" for row in results["rows"])
    assert len([*(here / "runs/mine/evaluation/sections/photos-drawing").glob("picture-0-*.png")]) == 2
    assert (here / "runs/mine/evaluation/report.html").is_file()


def test_with_the_tokenizers_of_others(trimask, here: Path, bundle: Path):
    """Weights in a folder, an artifact that names them, a set, a model, a picture; another tokenizer is refused."""
    diffusers, torch = pytest.importorskip("diffusers"), pytest.importorskip("torch")
    blocks = {"block_out_channels": (32, 32, 32), "latent_channels": 4, "num_vq_embeddings": 64}
    kinds = {
        f"{way}_block_types": (f"{name}Block2D",) * 3 for way, name in (("down", "DownEncoder"), ("up", "UpDecoder"))
    }
    for seed in range(2):
        torch.manual_seed(seed)
        diffusers.VQModel(**blocks, **kinds).save_pretrained(f"weights/{seed}")
    made = trimask("tokenizer", "pretrained", "movq", "weights/0", "--out", "tokenizers/image")
    assert made.code == 0 and "image, 64 codes, 1 a position, one for 4 pixels in both directions" in made.out, made.err
    other = trimask("tokenizer", "pretrained", "movq", "weights/1", "--out", "tokenizers/image")
    assert other.code == 2 and "holds another tokenizer" in other.err
    absent = trimask("tokenizer", "pretrained", "movq", "weights/2", "--out", "x")
    assert absent.code == 4 and "a repository of the hub is written hf://OWNER/NAME" in absent.err
    tiny.tokenizers()["text"].save(Path("tokenizers/text"))
    prepared = trimask("prepare", "photos", "--tokenizers", "tokenizers", "--out", "sets/photos", "--workers", 1)
    assert prepared.code == 0, prepared.err
    done = trimask("train", "recipe.py:small", "--data", "sets/photos", "run=runs/mine")
    assert done.code == 0, done.err
    assert trimask("generate", "picture", "-o", "new.png", "-m", "runs/mine", "--size", 28, "--steps", 2).code == 0
    assert Image.open("new.png").size == (28, 28)
    assert trimask("prepare", "photos", "--tokenizers", bundle, "--out", "sets/others", "--workers", 1).code == 0
    both = ("--data", "sets/photos", "--data", "sets/others")
    refused = trimask("train", "recipe.py:small", *both, "run=runs/other")
    assert refused.code != 0 and "tokenizer" in refused.err


RNG = np.random.default_rng(0)
SAID = ("seven", "two green stars", "the end.", "a red circle")
"""What the records of every format say."""


def picture(shape: tuple[int, ...] = (28, 28, 3)) -> bytes:
    out = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def recording(number: int) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, np.sin(np.arange(4800) / (20 + number)) * 0.5, 16_000, format="WAV")
    return out.getvalue()


def lines(path: str, rows: list[dict]) -> None:
    Path(path).write_text("".join(json.dumps(r) + "\n" for r in rows))


def text_gz() -> None:
    Path("own.txt.gz").write_bytes(gzip.compress("\n<|endoftext|>\n".join(SAID).encode()))


def jsonl() -> None:
    Path("own").mkdir()
    for i in range(len(SAID)):
        Path(f"own/{i}.png").write_bytes(picture())
    lines("own/own.jsonl", [{"sentence": s, "drawn": f"{i}.png"} for i, s in enumerate(SAID)])


def parquet() -> None:
    clips = [{"bytes": recording(i), "path": f"{i}.wav"} for i in range(len(SAID))]
    table = pa.table({"audio": clips, "text": list(SAID), "speaker": ["anna", "bob"] * 2})
    pq.write_table(table, "own.parquet", row_group_size=3)


def archive() -> None:
    Path("own").mkdir()
    with zipfile.ZipFile("own/train.zip", "w") as packed:
        for i in range(len(SAID)):
            packed.writestr(f"d/{i}.png", picture())
    lines("own/train.jsonl", [{"file": f"d/{i}.png", "text": s} for i, s in enumerate(SAID)])


def webdataset() -> None:
    Path("own").mkdir()
    for i, said in enumerate(SAID):
        with tarfile.open(f"own/shard-{i // 3}.tar", "a") as packed:
            for end, data in (("png", picture()), ("txt", said.encode()), ("json", b'{"n": 1}')):
                info = tarfile.TarInfo(f"{i:03d}.{end}")
                info.size = len(data)
                packed.addfile(info, io.BytesIO(data))


def idx() -> None:
    Path("own").mkdir()
    pixels = RNG.integers(0, 256, (4, 28, 28), dtype=np.uint8).tobytes()
    images, labels = struct.pack(">4B3I", 0, 0, 8, 3, 4, 28, 28), struct.pack(">4BI", 0, 0, 8, 1, 4)
    Path("own/train-images-idx3-ubyte.gz").write_bytes(gzip.compress(images + pixels))
    Path("own/train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels + bytes([0, 1, 1, 0])))


def audio_folder() -> None:
    Path("own").mkdir()
    for i, said in enumerate(SAID):
        Path(f"own/{i}.wav").write_bytes(recording(i))
        Path(f"own/{i}.txt").write_text(said)


def tokens() -> None:
    codes = tiny.tokenizers()["text"].encode(SAID)
    lines("own.jsonl", [{"text": c.tolist(), "image": RNG.integers(0, 16, (7, 7)).tolist()} for c in codes])


class Format(NamedTuple):
    """How files of a format are made, the source that they are, and what of it is evaluated."""

    write: Callable[[], None]
    source: str
    metrics: dict[str, str]
    """Section -> a metric that it must have."""


DRAWN = {"captions": "word error rate", "likelihood of text>image": ""}
SPOKEN = {"transcripts": "word error rate", "speaking": "word error rate, reconstructions"}
FORMATS = {
    "text.gz": Format(text_gz, "own.txt.gz", {"likelihood of text": "", "writing": ""}),
    "JSON lines": Format(jsonl, "own/own.jsonl?text=sentence&image=drawn", DRAWN),
    "Parquet": Format(parquet, "own.parquet", SPOKEN),
    "zip": Format(archive, "own:train", DRAWN),
    "WebDataset": Format(webdataset, "own/shard-*.tar", DRAWN),
    "IDX": Format(idx, "own:train?classes=cat,dog&caption=a {name}", DRAWN),
    "recordings": Format(audio_folder, "own", SPOKEN),
    "tokens": Format(tokens, "own.jsonl", DRAWN),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_goes_from_files_to_an_evaluated_model(trimask, here: Path, bundle: Path, name: str):
    write, source, metrics = FORMATS[name]
    write()
    prepared = trimask("prepare", source, "--tokenizers", bundle, "--out", "sets/own", "--workers", 1)
    assert prepared.code == 0, prepared.err
    assert "4 items" in prepared.out and not Path("sets/own/rejected.jsonl").read_text()
    done = trimask("train", "recipe.py:small", "--data", "sets/own", "--validation", "sets/own", "run=r")
    assert done.code == 0, done.err
    last = [json.loads(row) for row in Path("r/metrics.jsonl").read_text().splitlines()][-1]
    assert last["kind"] == "validation" and last["bounds"]
    counts = ("likelihood=2", "draws=4", "drawings=2", "captions=2", "speech=2", "texts=2")
    rated = trimask("evaluate", "r", source, *counts)
    assert rated.code == 0, rated.err
    rows = json.loads(Path("r/evaluation/results.json").read_text())["rows"]
    for section, metric in metrics.items():
        assert [r for r in rows if r["section"] == f"own: {section}" and metric in r["metric"]], (section, rows)
    assert Path("r/evaluation/report.html").is_file()


def test_two_parts_of_a_set_are_kept_apart(trimask, here: Path, bundle: Path):
    for split in ("validation", "test"):
        Path(f"own/{split}").mkdir(parents=True)
        Path(f"own/{split}/a.png").write_bytes(picture())
        Path(f"own/{split}/a.txt").write_text(f"of {split}")
    lines("own/validation.jsonl", [{"file": "a.png", "text": "of validation"}])
    lines("own/test.jsonl", [{"file": "a.png", "text": "of test"}])
    settings = ("only=*captions", "--out", "rated")
    rated = trimask("evaluate", bundle, "own:validation", "own:test", *settings)
    assert rated.code == 0, rated.err
    rows = json.loads(Path("rated/results.json").read_text())["rows"]
    assert {(r["section"], r["split"]) for r in rows} == {
        ("own:validation: captions", "validation"),
        ("own:test: captions", "test"),
    }
    assert trimask("evaluate", bundle, "own:validation", "own:test", *settings).out.count("kept") == 2
    sampled = json.loads((bundle / "sampling.json").read_text())
    try:
        changed = {**sampled, "voice": "anna"}
        (bundle / "sampling.json").write_text(json.dumps(changed))
        assert "kept" not in trimask("evaluate", bundle, "own:validation", "own:test", *settings).out
    finally:
        (bundle / "sampling.json").write_text(json.dumps(sampled))
    twice = trimask("evaluate", bundle, "own:test", "own:test", *settings)
    assert (twice.code, twice.err.count("\n")) == (2, 1) and "two sets" in twice.err


def test_codes_that_the_model_does_not_have_are_named(trimask, here: Path, bundle: Path):
    lines("own.jsonl", [{"key": "odd", "text": [1, 2], "image": [[0, 99999]]}])
    done = trimask("evaluate", bundle, "own.jsonl")
    assert (done.code, done.err.count("\n")) == (3, 1), done.err
    assert "own.jsonl" in done.err and "odd" in done.err and "99999" in done.err


def test_a_dry_run_writes_nothing(trimask, here: Path, bundle: Path):
    trimask("prepare", "photos", "--tokenizers", bundle, "--out", "sets/photos", "--workers", 1)
    planned = trimask("train", "recipe.py:small", "--data", "sets/photos", "--dry-run")
    assert planned.code == 0, planned.err
    assert "param" in planned.out
    assert not (here / "runs").exists()
    assert "model.depth" in trimask("train", "recipe.py:small", "--options").out


def test_what_is_said_of_the_sets_is_applied_to_them(trimask, here: Path, bundle: Path):
    for name in ("a", "b"):
        trimask("prepare", "photos", "--tokenizers", bundle, "--out", f"sets/{name}", "--workers", 1)
    sets = ("--data", "sets/a", "--data", "sets/b", "--validation", "sets/a")
    planned = trimask("train", "recipe.py:small", *sets, "data.sources.1.weight=3", "validation.every=7", "--dry-run")
    assert planned.code == 0, planned.err
    done = trimask("train", "recipe.py:small", *sets, "data.sources.1.weight=3", "validation.every=7", "run=runs/m")
    assert done.code == 0, done.err
    kept = json.loads(Path("runs/m/config.json").read_text())
    assert (kept["data.sources.0.weight"], kept["data.sources.1.weight"]) == (1.0, 3.0)
    assert kept["data.sources.1.path"] == "sets/b" and kept["validation.every"] == 7
    wrong = trimask("train", "recipe.py:small", *sets, "data.sources.1.wait=3", "run=runs/m")
    assert wrong.code == 2 and "wait" in wrong.err


def test_pictures_without_captions(trimask, here: Path, bundle: Path):
    source = "photos?kinds=image&require=image"
    assert trimask("prepare", source, "--tokenizers", bundle, "--out", "sets/bare", "--workers", 1).code == 0
    done = trimask("train", "recipe.py:small", "--data", "sets/bare", f"tokenizers={bundle}/tokenizers/image", "run=r")
    assert done.code == 0, done.err
    assert json.loads(Path("r/config.json").read_text())["data.sources.0.tasks"] == ["any"]
    rated = trimask("evaluate", "r", source, "likelihood=2", "draws=4")
    assert rated.code == 0, rated.err
    assert "likelihood of image" in rated.out


def test_a_run_as_a_small_folder(trimask, here: Path, bundle: Path):
    from trimask.hub.defaults import Defaults, to_json

    trimask("prepare", "photos", "--tokenizers", bundle, "--out", "sets/photos", "--workers", 1)
    assert trimask("train", "recipe.py:small", "--data", "sets/photos", "run=runs/mine").code == 0
    Path("s.json").write_text(json.dumps(to_json(Defaults(voice="anna"))))
    made = trimask("export", "runs/mine", "kept", "--sampling", "s.json")
    assert made.code == 0 and made.out.startswith("kept ("), made.err
    assert json.loads(Path("kept/sampling.json").read_text())["voice"] == "anna"
    size = {
        name: sum(p.stat().st_size for p in Path(name).rglob("model.safetensors")) for name in ("kept", "runs/mine")
    }
    assert size["kept"] < 0.6 * size["runs/mine"]
    assert trimask("generate", "picture", "-o", "new.png", "-m", "kept", "--steps", 2).code == 0
    assert trimask("export", "runs/mine", "kept").code == 2


def test_start_from_other_weights(trimask, here: Path, bundle: Path):
    trimask("prepare", "photos", "--tokenizers", bundle, "--out", "sets/photos", "--workers", 1)
    train = ("train", "recipe.py:small", "--data", "sets/photos")
    assert trimask(*train, "run=runs/first").code == 0
    assert trimask(*train, "run=runs/second", "--init", "runs/first").code == 0
    other = trimask(*train, "run=runs/third", "--init", bundle)
    assert other.code == 4
    assert other.err.count("\n") == 1


def test_tokenizers_of_ones_own(trimask, here: Path):
    made = trimask(
        "tokenizer", "train", "text", "photos", "--held-out", "photos", "--out", "tokenizers/text", "codes=270"
    )
    assert made.out.split() == ["tokenizers/text", "tokenizers/text-report.html"]
    other = trimask("tokenizer", "train", "text", "photos", "--out", "tokenizers/text", "codes=265")
    assert other.code == 2 and "holds another tokenizer" in other.err
    image = trimask(
        "tokenizer", "train", "image", "photos", "--out", "tokenizers/image", "steps=2", "batch=2",
        "objective.settings.width=8", "objective.settings.inner=8", "dtype=fp32",
    )  # fmt: skip
    assert image.code == 0, image.err
    measured = trimask("tokenizer", "evaluate", "tokenizers/image", "photos", "--report", "r.html")
    assert "psnr" in measured.out
    assert Path("r.html").is_file()
    assert "image-fsq" in trimask("inspect", "tokenizers/image").out
    assert trimask("prepare", "photos", "--tokenizers", "tokenizers", "-o", "sets/a", "--workers", 1).code == 0
    single = ("--tokenizer", "tokenizers/text", "--tokenizer", "tokenizers/image")
    assert "up to date" in trimask("prepare", "photos", *single, "-o", "sets/a", "--workers", 1).out


def test_the_world_as_files_is_a_source(trimask, here: Path):
    assert trimask("world", "look", "--count", 3, "--seed", 5).out == "look/metadata.jsonl\n"
    assert "records: 3" in trimask("inspect", "look").out
    assert Image.open("look/0000.png").size == (32, 32)
    assert trimask("world", "look").code == 2


def test_a_recipe_can_be_inspected(trimask, here: Path):
    assert "model.depth" in trimask("inspect", "recipe.py:small").out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("prepare", "photos", "--out", "s"), 2, "say which tokenizers"),
        (("prepare", "gone", "--tokenizers", "BUNDLE", "--out", "s"), 3, "gone does not exist"),
        (("prepare", "photos", "--tokenizers", "photos", "--out", "s"), 4, "no tokenizers there"),
        (("prepare", "photos", "--tokenizers", "BUNDLE", "--out", "s", "--on-existing", "maybe"), 2, "choose one of"),
        (("prepare", "photos?image_size=31", "--tokenizers", "BUNDLE", "--out", "s"), 2, "image_size"),
        (("inspect", "gone"), 3, "gone does not exist"),
        (("train", "no-such-recipe"), 2, "no recipe is called 'no-such-recipe'"),
        (("train", "recipe.py:small", "--data", "gone"), 3, "is not a prepared set"),
        (("train", "recipe.py:small", "--validation", "gone"), 2, "goes with --data"),
        (("train", "recipe.py:small", "--on-existing", "maybe"), 2, "choose one of"),
        (("evaluate", "BUNDLE"), 2, "say what to evaluate on"),
        (("evaluate", "gone", "photos"), 4, "there is no model 'gone'"),
        (("evaluate", "BUNDLE", "photos", "drawing=3"), 2, "drawings"),
        (("evaluate", "BUNDLE", "photos", "--judges", "gone"), 3, "--judges gone"),
        (("tokenizer", "train", "text", "photos"), 2, "say where the tokenizer goes"),
        (("tokenizer", "train", "video", "photos", "--out", "t"), 2, "'video' is no tokenizer"),
        (("tokenizer", "train", "audio", "photos", "--out", "t"), 3, "no speech or sound"),
        (("tokenizer", "train", "text", "photos", "--out", "t", "size=3"), 2, "codes=NUMBER"),
        (("tokenizer", "train", "image", "photos", "--out", "t", "step=3"), 2, "'step'"),
        (("tokenizer", "evaluate", "photos", "photos"), 4, "photos is not a tokenizer"),
        (("world", "w", "--kind", "maps"), 2, "'maps' is not a kind"),
    ],
)
def test_errors_are_clear(trimask, here: Path, bundle: Path, arguments: tuple[str, ...], code: int, message: str):
    done = trimask(*(str(bundle) if a == "BUNDLE" else a for a in arguments))
    assert done.code == code, done.err
    assert message in done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1


def test_speech_is_heard_after_the_codec(trimask, here: Path):
    pytest.importorskip("espeakng_loader")
    measured = trimask(
        "tokenizer", "evaluate", MODELS / "nano" / "tokenizers" / "audio",
        "world:speech?split=validation&limit=4", "--report", "r.html",
    )  # fmt: skip
    assert measured.code == 0, measured.err
    rate = {k: float(re.search(rf"{k} ([\d.]+)", measured.out)[1]) for k in ("wer", "wer_real")}  # pyright: ignore
    assert rate["wer_real"] < 0.3 and rate["wer"] < 0.5


def test_a_source_of_sound_becomes_a_tokenizer(trimask, here: Path):
    Path("clips").mkdir()
    for i in range(2):
        soundfile.write(f"clips/{i}.wav", np.sin(np.arange(16000) / (20 + i)) * 0.5, 16_000)
        Path(f"clips/{i}.txt").write_text("seven")
    small = ("objective.settings.encoder_width=8", "objective.settings.inner=8", "objective.settings.decoder_width=8")
    made = trimask("tokenizer", "train", "audio", "clips", "--out", "t", "steps=2", "batch=2", "dtype=fp32", *small)
    assert made.code == 0, made.err
