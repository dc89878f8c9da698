"""The suite on a real, if untrained, model of three modalities."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from tests.evaluation.pictures import labelled
from tests.evaluation.sounds import word
from tests.hub import tiny
from trimask.core.errors import UsageError
from trimask.core.item import Item
from trimask.data.world.source import World
from trimask.evaluation.audio import speech_of, voice_table
from trimask.evaluation.fitting import Fit
from trimask.evaluation.judges import train_judge
from trimask.evaluation.recognizer import RecognizerSettings, train_recognizer
from trimask.evaluation.report import series
from trimask.evaluation.senses import SoundSense
from trimask.evaluation.sets import EvaluationSet
from trimask.evaluation.speaker import COSINE, Speaker
from trimask.evaluation.suite import Judges, SuiteConfig, evaluate, load_judges, sections, slug
from trimask.hub.bundle import load_bundle
from trimask.hub.model import Model

CONFIG = SuiteConfig(drawings=3, captions=3, speech=4, texts=3, cloze=3, likelihood=2, draws=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(load_bundle(tiny.save(tmp_path_factory.mktemp("suite") / "tiny")), device="cpu")


@pytest.fixture(scope="module")
def sets() -> list[EvaluationSet]:
    scenes = [World(kind="scenes", split="test", count=4)[i] for i in range(4)]
    texts = [Item(f"t{i}", {"text": s}) for i, s in enumerate(["the red moon is old", "a star above the end now"] * 3)]
    return [
        EvaluationSet("world-scenes", "test", scenes, tasks=("text>image", "image>text")),
        EvaluationSet("texts", "validation", texts[:3], texts[3:], tasks=("text",)),
    ]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    rows = [{"kind": "train", "step": s, "losses": {"text": 5 - s / 10, "image": None}} for s in range(5)]
    rows.append({"kind": "validation", "step": 4, "bounds": {"image": {"nats": 3.0, "error": 0.1}}})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"kind": "tra')
    return folder


@pytest.fixture(scope="module")
def out(model: Model, sets: list[EvaluationSet], run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    tokenizers = model.bundle.tokenizers
    evaluate(
        model, sets, folder, Judges(), tokenizers, CONFIG, {"step": 3}, run_folder, "a command", Console(quiet=True)
    )
    return folder


def test_the_table_is_typed(out: Path):
    record = json.loads((out / "results.json").read_text())
    assert record["command"] == "a command" and record["seed"] == 0 and record["model"] == {"step": 3}
    fields = {"section", "split", "seed", "metric", "value", "error", "n", "unit", "reference", "against", "note"}
    assert all(set(row) == fields for row in record["rows"])
    assert all(isinstance(row["value"], int | float) and row["n"] > 0 for row in record["rows"])
    names = {row["section"] for row in record["rows"]}
    assert {"world-scenes: drawing", "world-scenes: captions", "texts: likelihood of text", "texts: cloze"} <= names
    text = [row["metric"] for row in record["rows"] if row["section"] == "texts: likelihood of text"]
    assert "bits per byte, bound by time, length learned" in text
    assert any("Kneser-Ney" in metric for metric in text)


def test_the_report_stands_alone(out: Path):
    page = (out / "report.html").read_text()
    assert "data:image/png;base64," in page and "data:image/svg+xml;base64," in page
    assert "training loss" not in page  # the plot is a picture inside the page
    assert not re.findall(r"(?:src|href)=['\"](?!data:|#)", page)
    assert "<script" not in page and "@import" not in page and "url(" not in page


PITCH = {"low": 0.8, "high": 1.3}


@pytest.fixture(scope="module")
def spoken() -> EvaluationSet:
    """Words of tones, each in two voices."""
    words = ["ab", "ba", "ca", "ad", "db"]
    items = [
        Item(f"{w} {v} {i}", {"text": w, "voice": v, "speech": word(w, PITCH[v], seed=i)}, {"speaker": v})
        for i in range(3)
        for w in words
        for v in PITCH
    ]
    return EvaluationSet("tones", "test", items[:10], items[10:], tasks=("text>speech", "speech>text"))


@pytest.fixture(scope="module")
def ears(spoken: EvaluationSet) -> Judges:
    """A recognizer and a speaker network that have learned the tones."""
    clips, texts, voices = ([i.parts[k] for i in spoken.train] for k in ("speech", "text", "voice"))
    settings = RecognizerSettings(width=32, dilations=(1, 2))
    recognizer = train_recognizer(clips, texts, Fit(steps=150, batch=8, rate=6e-3), settings)  # pyright: ignore[reportArgumentType]
    sense = SoundSense(width=8, dilations=(1,), cosine=COSINE, crop=30)
    judge = train_judge(clips, voices, (clips, voices), sense, Fit(steps=40, batch=8))  # pyright: ignore[reportArgumentType]
    return Judges(recognizer, Speaker(judge))


@pytest.fixture(scope="module")
def heard(model: Model, spoken: EvaluationSet, ears: Judges, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heard")
    evaluate(model, [spoken], folder, ears, model.bundle.tokenizers, CONFIG, console=Console(quiet=True))
    return folder


def test_speech_stands_beside_what_the_codec_leaves_of_it(heard: Path, spoken: EvaluationSet, ears: Judges):
    rows = json.loads((heard / "results.json").read_text())["rows"]
    assert {row["section"] for row in rows} >= {"tones: transcripts", "tones: speaking"}
    found = {row["metric"]: row for row in rows if row["section"] == "tones: speaking"}
    suffixes = ("", ", speaker low", ", speaker high")
    for metric in (*(f"word error rate, {{}}{s}" for s in suffixes), "likeness to the requested voice, {}"):
        made, coded = found[metric.format("generated speech")], found[metric.format("reconstructions")]
        assert (made["reference"], made["against"]) == (coded["value"], "reconstructions")
        assert coded["reference"] is None and metric.format("real speech") in found
    # The judges hear real recordings rightly; the codec's random weights leave nothing of them.
    assert found["word error rate, real speech"]["value"] <= 0.25 < found["word error rate, reconstructions"]["value"]
    assert found["requested voice is the nearest, real speech"]["value"] >= 0.75
    assert found["word error rate, generated speech"]["n"] == CONFIG.speech
    assert json.loads((heard / "results.json").read_text())["judges"] == ears.fingerprints


def test_one_voice_alone_is_not_said_to_be_the_nearest(spoken: EvaluationSet, ears: Judges):
    assert isinstance(ears.speaker, Speaker)
    for voices, expected in (({"low"}, {"own"}), ({"low", "high"}, {"own", "other", "nearest"})):
        items = [i for i in spoken.train if i.parts["voice"] in voices]
        asked = [str(i.parts["voice"]) for i in items]
        rows = voice_table(ears.speaker, items, {"real speech": [speech_of(i) for i in items]}, asked)
        labels = {"own": "likeness to the requested", "other": "likeness to the other", "nearest": "is the nearest"}
        assert {k for k, label in labels.items() if any(label in r.metric for r in rows)} == expected
        assert all(r.n for r in rows)


def test_the_report_plays_recordings_and_shows_their_spectrograms(heard: Path):
    page = (heard / "report.html").read_text()
    played = re.findall(r"<audio controls [^>]*src='data:audio/wav;base64,([^']+)'", page)
    drawn = re.findall(r"<img alt='spectrogram' src='data:image/png;base64,([^']+)'", page)
    assert len(played) == len(drawn) == CONFIG.speech
    assert all(base64.b64decode(p)[:4] == b"RIFF" for p in played)
    pictures = [np.array(Image.open(io.BytesIO(base64.b64decode(d)))) for d in drawn]
    assert all(p.std() > 1 for p in pictures), "a spectrogram shows nothing"
    assert "reconstructions" in page and "— heard: " in page
    assert not re.findall(r"(?:src|href)=['\"](?!data:|#)", page)


def test_finished_sections_are_kept_and_others_repeated(out: Path, model: Model, sets: list[EvaluationSet]):
    tokenizers = model.bundle.tokenizers
    path = out / "sections" / slug("texts: writing") / "section.json"
    before, other = path.stat().st_mtime_ns, (out / "sections" / slug("world-scenes: drawing") / "section.json")
    seen = other.stat().st_mtime_ns
    more = SuiteConfig(drawings=2, captions=3, texts=3, cloze=3, likelihood=2, draws=4, only=("*writing", "*drawing"))
    evaluate(model, sets, out, Judges(), tokenizers, more, {"step": 3}, console=Console(quiet=True))
    assert path.stat().st_mtime_ns == before
    assert other.stat().st_mtime_ns != seen
    evaluate(model, sets, out, Judges(), tokenizers, more, {"step": 4}, console=Console(quiet=True))
    assert path.stat().st_mtime_ns != before


def test_sections_follow_from_sets_judges_and_modalities(model: Model, sets: list[EvaluationSet]):
    tokenizers = model.bundle.tokenizers
    names = [s.name for s in sections(sets, Judges(), tokenizers, CONFIG)]
    assert "texts: writing" in names and "world-scenes: captions" in names
    only_text = {k: v for k, v in tokenizers.items() if k == "text"}
    assert not [s for s in sections(sets, Judges(), only_text, CONFIG) if "drawing" in s.name]
    with pytest.raises(UsageError, match="no section fits"):
        sections(sets, Judges(), tokenizers, SuiteConfig(only=("nothing",)))


def test_own_labels_get_judges_of_pictures_and_of_tokens(model: Model, tmp_path: Path):
    def items(start: int) -> list[Item]:
        pairs = zip(*labelled(8, start, 28), strict=True)
        return [Item(f"{start}#{i}", {"text": k, "image": p}, {"name": k}) for i, (p, k) in enumerate(pairs)]

    data = EvaluationSet("stripes", "test", items(0), items(100), items(200), label="name")
    small = SuiteConfig(drawings=12, captions=2, only=("stripes: *",))
    found = evaluate(model, [data], tmp_path, Judges(), model.bundle.tokenizers, small, console=Console(quiet=True))
    drawing = {r.metric: r for r in found["stripes: drawing"]}
    assert {"judged correct", "reconstructions judged correct", "coverage", "density"} <= set(drawing)
    captions = {r.metric: r for r in found["stripes: captions"]}
    assert captions["class word right"].against == "a classifier trained on the same tokens"
    assert len(load_judges(tmp_path / "judges").classes) == 2


def test_series_leave_gaps_out():
    rows = [{"step": 1, "losses": {"a": 1.0, "b": None}}, {"step": 2, "losses": {"a": 0.5}}]
    assert series(rows, "losses") == {"a": [(1, 1.0), (2, 0.5)]}
