import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny
import torch
from PIL import Image

from trimask.core.canvas import Composer, Row, Segment
from trimask.core.errors import DataError, UsageError
from trimask.core.item import Audio
from trimask.data.tasks import Task, lay
from trimask.diffusion.bounds import by_count
from trimask.hub import filling
from trimask.hub.bundle import Bundle
from trimask.hub.engine import padded
from trimask.hub.filling import Request
from trimask.hub.holes import template
from trimask.hub.layout import HOLE_LENGTHS, Layout, Size
from trimask.hub.model import FIT_DRAWS, Model

CLIP = Audio(np.sin(np.arange(6400) / 20).astype(np.float32) * 0.5, 16_000)
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 28, 3), dtype=np.uint8))
FEW = {"steps": 4}


def pixels(image: Image.Image) -> np.ndarray:
    return np.array(image)


def codes(model: Model, kind: str, raw: object) -> np.ndarray:
    return model.layout.encode(kind, [raw])[0]


def test_pictures_have_the_size_asked_for(model: Model):
    made = model.image("a red circle", size=(28, 40), **FEW)
    assert made.size == (28, 40)
    assert model.image(**FEW).size == (32, 32)
    with pytest.raises(UsageError, match="sides are"):
        model.image("a red circle", size=(27, 27))


def test_same_seed_same_result_whatever_the_batch(model: Model):
    texts = ["a red circle", "two green stars left of a moon", "seven"]
    alone = [pixels(model.image(t, **FEW)) for t in texts]
    for batch in (texts, texts[::-1], [*texts, *["the end."] * 20]):
        together = dict(zip(batch, model.image(batch, **FEW), strict=True))
        assert all((pixels(together[t]) == a).all() for t, a in zip(texts, alone, strict=True))
    assert (pixels(model.image(texts[0], seed=1, **FEW)) != alone[0]).any()


def test_stacked_levels_too(bundle: Bundle):
    of = tiny.tokenizers()
    model = Model(Bundle(tiny.network(of, stack=True).eval(), of), device="cpu")
    alone = model.speech("seven", seconds=0.3, **FEW)
    many = model.speech(["the end."] * 17 + ["seven"], seconds=0.3, **FEW)
    assert (many[-1].samples == alone.samples).all()


def test_equal_requests_get_different_samples_and_n_means_the_same(model: Model):
    listed = [pixels(i) for i in model.image(["seven", "seven"], **FEW)]
    counted = [pixels(i) for i in model.image("seven", n=2, **FEW)]
    assert (listed[0] != listed[1]).any()
    assert all((a == b).all() for a, b in zip(listed, counted, strict=True))
    nested = model.text(["a", "b"], n=3, length=4)
    assert [len(n) for n in nested] == [3, 3]
    with pytest.raises(UsageError, match="n must be at least 1"):
        model.text(n=0)


def test_speech_has_the_length_asked_for_or_decides(model: Model):
    samples, rate = model.speech("seven", seconds=0.4, **FEW)
    assert rate == 16_000
    assert samples.dtype == np.float32
    assert len(samples) == 10 * 640
    free = model.speech("seven", voice="anna", **FEW)
    assert 0 < len(free.samples) <= max(tiny.BUCKETS["audio"]) * 640


def test_voices_go_with_texts(model: Model):
    same = model.speech(["seven", "seven"], voice=["anna", "bob"], seconds=0.2, **FEW)
    assert (same[0].samples != same[1].samples).any()
    again = model.speech("seven", voice="bob", seconds=0.2, **FEW)
    assert (same[1].samples == again.samples).all()
    with pytest.raises(UsageError, match="different lengths"):
        model.speech(["seven", "eight"], voice=["anna"])


def test_texts_keep_their_prompt(model: Model):
    assert model.text("a red circle ", **FEW).startswith("a red circle")
    exact = model.text("a red", length=9, temperature=0)
    assert codes(model, "text", "a red").tolist() == codes(model, "text", exact)[:2].tolist()
    with pytest.raises(UsageError, match="leaves nothing to write"):
        model.text("a red circle", length=1)
    with pytest.raises(UsageError, match="leave no room"):
        model.text("a red circle above a blue square " * 8)


def test_captions_and_transcripts_take_paths_arrays_and_pairs(model: Model, tmp_path: Path):
    PICTURE.save(tmp_path / "x.png")
    soundfile.write(tmp_path / "x.wav", CLIP.samples, CLIP.rate, subtype="FLOAT")
    said = {
        model.caption(form, **FEW) for form in (PICTURE, tmp_path / "x.png", str(tmp_path / "x.png"), pixels(PICTURE))
    }
    assert len(said) == 1
    heard = {model.transcribe(form, **FEW) for form in (CLIP, tuple(CLIP), tmp_path / "x.wav")}
    assert len(heard) == 1
    assert model.caption([PICTURE, PICTURE], temperature=0, **FEW) == [model.caption(PICTURE, temperature=0, **FEW)] * 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, d: m.caption(d / "none.png"), "none.png does not exist"),
        (lambda m, d: m.caption(d), "is a folder"),
        (lambda m, d: m.caption(d / "bad.png"), "bad.png: not an image"),
        (lambda m, d: m.caption(np.zeros((32, 32, 4), np.uint8)), "pass uint8 of shape"),
        (lambda m, d: m.caption(Image.new("RGB", (640, 480))), "sides are"),
        (lambda m, d: m.transcribe(d / "bad.wav"), "bad.wav: audio cannot be decoded"),
        (lambda m, d: m.transcribe((np.zeros(16000, np.float32), 16000)), "silent clip"),
        (lambda m, d: m.transcribe(3.0), "pair"),
        (lambda m, d: m.image(3), "must be a string"),
        (lambda m, d: m.image("x", pace=3), "'pace' is not a sampling option"),
    ],
)
def test_content_that_cannot_be_used_is_named(model: Model, tmp_path: Path, call, message: str):
    for name in ("bad.png", "bad.wav"):
        (tmp_path / name).write_bytes(b"no picture, no sound")
    with pytest.raises((DataError, UsageError), match=message):
        call(model, tmp_path)


def test_large_pictures_are_resized_on_request(model: Model):
    assert isinstance(model.caption(Image.new("RGBA", (640, 480), "red"), side=40, **FEW), str)


def test_a_hole_in_a_text_keeps_the_rest(model: Model):
    filled = model.fill(text="a red [2] above a blue [1]", options=FEW)["text"]
    start, middle = codes(model, "text", "a red"), codes(model, "text", " above a blue")
    row = model.layout.texts(template("a red [2] above a blue [1]"), "text")[0]
    assert filled.startswith("a red")
    assert " above a blue" in filled
    assert row.codes.shape == (len(start) + 2 + len(middle) + 1,)
    assert (~row.hidden).sum() == len(start) + len(middle)


def test_a_free_hole_inside_a_text_takes_the_length_of_least_bound(model: Model):
    made = model.fill(text="a [...] circle", options=FEW)["text"]
    assert made.startswith("a")
    assert made.endswith(" circle")
    assert made == model.fill(text="a [...] circle", options=FEW)["text"]


def test_a_free_hole_at_the_end_is_the_models_to_end(model: Model):
    assert model.fill(text="a red [...]", options=FEW)["text"] == model.text("a red", **FEW)


def test_editing_a_picture_keeps_the_tokens_outside_the_box(model: Model):
    before = codes(model, "image", pixels(PICTURE))
    segment = Segment("image", before, target=True, hidden=np.pad(np.ones((2, 2), bool), ((0, 6), (0, 5))))
    filled = model.fill(Row((segment,)), options=FEW)
    after = filled.segments[0].codes
    assert (after[2:] == before[2:]).all()
    assert (after[:, 2:] == before[:, 2:]).all()
    assert (after[:2, :2] != before[:2, :2]).any()
    same = model.fill(image=PICTURE, box=(0, 0, 8, 8), options=FEW)["image"]
    assert (pixels(same) == model.layout.decode("image", [after])[0]).all()


def test_a_mask_says_the_same_as_a_box(model: Model):
    mask = Image.new("L", PICTURE.size)
    mask.paste(255, (0, 0, 8, 8))
    by_mask = model.fill(image=PICTURE, mask=mask, text="a red circle", options=FEW)["image"]
    by_box = model.fill(image=PICTURE, box=(0, 0, 8, 8), text="a red circle", options=FEW)["image"]
    assert (pixels(by_mask) == pixels(by_box)).all()


def test_a_stretch_of_sound_is_replaced_and_a_sound_continued(model: Model):
    edited = model.fill(speech=CLIP, interval=(0.12, 0.2), text="seven", options=FEW)["speech"]
    assert edited.seconds == pytest.approx(CLIP.seconds)
    longer = model.fill(speech=CLIP, interval=(0.4, 0.8), options=FEW)["speech"]
    assert longer.seconds == pytest.approx(0.8)


@pytest.mark.parametrize("seconds", [0.04, 0.2])
def test_what_replaces_a_stretch_may_be_shorter_or_longer(model: Model, seconds: float):
    edited = model.fill(speech=CLIP, interval=(0.12, 0.2), seconds=seconds, options=FEW)["speech"]
    assert edited.seconds == pytest.approx(CLIP.seconds - 0.08 + seconds)


def test_a_stretch_of_any_length_is_tried_at_six(model: Model):
    request = Request({"speech": CLIP}, interval=(0.12, 0.28), size=Size(seconds="any"))
    rows = filling.rows_of(request, model.layout)
    removed, before = 4, codes(model, "speech", CLIP)
    tried = [len(r.segments[-1].codes) - len(before) + removed for r in rows]
    assert tried == [2, 3, 4, 5, 6, 8]
    hidden = rows[0].segments[-1].hidden
    assert hidden is not None and np.flatnonzero(hidden.any(1)).tolist() == [3, 4]
    for row, length in zip(rows, tried, strict=True):
        assert (row.segments[-1].codes[:3] == before[:3]).all()
        assert (row.segments[-1].codes[3 + length :] == before[7:]).all()


@pytest.mark.parametrize("text", [None, "seven"])
def test_the_stretch_that_is_kept_has_the_least_bound(model: Model, text: str | None):
    """By token, of the sound itself or, where there is one, of its text."""
    given = {} if text is None else {"text": text}
    request = Request({"speech": CLIP, **given}, interval=(0.12, 0.28), size=Size(seconds="any"))
    rows = filling.rows_of(request, model.layout)
    tried = [model.fill(row, options=FEW).segments[-1].codes for row in rows]
    parts = [{"speech": c, **{k: codes(model, k, v) for k, v in given.items()}} for c in tried]
    judged = [model.layout.scored(p, ["text" if text else "speech"], free=False) for p in parts]
    bounds = [b.nats / b.tokens for b in model.runner.bounds(judged, by_count, FIT_DRAWS, 0)]
    assert len({len(c) for c in tried}) == len(set(bounds)) == 6
    kept = model.fill(speech=CLIP, **given, interval=(0.12, 0.28), seconds="any", options=FEW)["speech"]
    assert (kept.samples == model.layout.decode("speech", [tried[int(np.argmin(bounds))]])[0].samples).all()


def test_of_several_lengths_those_are_tried_that_the_model_knows(model: Model):
    words = next("a " * n for n in range(tiny.CONTEXT) if len(codes(model, "text", "a " * n)) > tiny.CONTEXT - 12)
    rows = filling.rows_of(Request({"text": f"{words}[...] a"}), model.layout)
    known = [model.runner.fits(row) for row in rows]
    assert known[0] and not known[-1] and len(rows) == len(HOLE_LENGTHS)
    assert model.fill(text=f"{words}[...] a", options=FEW)["text"].startswith("a a")


def test_a_stretch_of_any_length_at_the_end_is_the_models_to_end(model: Model):
    row = filling.rows_of(Request({"speech": CLIP}, interval=(0.2, 9.0), size=Size(seconds="any")), model.layout)[0]
    assert row.segments[-1].span in tiny.BUCKETS["audio"]
    assert len(row.segments[-1].codes) == 5


@pytest.mark.parametrize(
    "make",
    [
        lambda model: model.image("very " * 200, **FEW),
        lambda model: model.text("a", length=300, **FEW),
        lambda model: model.image("a red circle", negative="very " * 200, guidance=1.0, **FEW),
    ],
)
def test_what_is_longer_than_the_rows_of_the_training_is_refused(model: Model, make):
    with pytest.raises(UsageError, match=rf"more than the {tiny.CONTEXT} of the rows .*text \d\d\d"):
        make(model)


def test_missing_parts_are_made_from_the_others(model: Model):
    made = model.fill(text="seven", voice="anna", missing=("image", "speech"), size=(28, 28), seconds=0.2, options=FEW)
    assert set(made) == {"image", "speech"}
    assert made["image"].size == (28, 28)
    assert len(made["speech"].samples) == 5 * 640


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"text": "no hole"}, "nothing is to be filled"),
        ({"text": "a [1]", "box": (0, 0, 8, 8)}, "no part that it belongs to"),
        ({"text": "a [1]", "interval": (0, 1)}, "no part that it belongs to"),
        ({"text": "a", "missing": ("text",)}, "both given and missing"),
        ({"text": "a [1]", "voice": "anna"}, "voice is a condition of speech"),
        ({"video": "x.mp4"}, "'video' is not a kind"),
        ({"missing": ("video",)}, "no segments of kind 'video'"),
        ({"missing": ("speech",), "seconds": -1.0}, "nothing to fill"),
        ({"missing": ("speech",), "seconds": "long"}, "a number or 'any'"),
        ({"missing": ("speech",), "seconds": math.inf}, "no end"),
        (
            {"text": "a [...] b", "speech": CLIP, "interval": (0.1, 0.2), "seconds": "any"},
            "two parts have holes of any length",
        ),
        ({"image": PICTURE, "box": (0, 0, 8, 8), "mask": PICTURE}, "either a box or a mask"),
    ],
)
def test_requests_that_make_no_sense(model: Model, request_: dict, message: str):
    with pytest.raises(UsageError, match=message):
        model.fill(**request_)


def test_a_canvas_is_filled(model: Model):
    hidden = Segment("image", np.zeros((4, 4), np.int32), target=True, hidden=True)
    canvas = Composer(model.vocabulary, 64).compose([[Row((hidden,))]])
    filled = model.fill(canvas, options=FEW)
    assert not (filled.ids_BL == model.vocabulary.mask).any()
    # Rows do not depend on others beside them, equal ones differ, and none may be longer than those of the training.
    word = Segment("text", codes(model, "text", "seven"))
    rows = [Row((hidden,)), Row((word, hidden)), Row((hidden,))]
    several, turned = (
        model.fill(Composer(model.vocabulary, 64).compose([[r] for r in some]), options=FEW).ids_BL
        for some in (rows, rows[1::-1])
    )
    assert torch.equal(several[0], filled.ids_BL[0]) and torch.equal(several[:2], turned.flip(0))
    assert not torch.equal(several[0], several[2])
    long = Segment("text", np.zeros(tiny.CONTEXT, np.int32), target=True, hidden=True)
    with pytest.raises(UsageError, match=f"more than the {tiny.CONTEXT} of the rows"):
        model.fill(Composer(model.vocabulary, 512).compose([[Row((long,))]]), options=FEW)


@pytest.mark.parametrize("size", [(-32, 32), (32,), 32, (32.0, 32.0), (0, 32), (10**6, 10**6), (10**20, 32), (27, 27)])
def test_a_size_that_no_picture_has_is_said(model: Model, size):
    with pytest.raises(UsageError, match=r"size=|pixels"):
        model.image("seven", size=size, **FEW)


def test_numbers_may_be_numpys_and_settings_are_told_from_parts(model: Model):
    few = {"steps": np.int64(4), "temperature": np.float32(0.5), "top_k": np.int64(3)}
    assert pixels(model.image("seven", **few)).shape == (32, 32, 3)  # pyright: ignore[reportArgumentType]
    assert {*model.fill(text="seven", missing="image", options=FEW)} == {"image"}
    with pytest.raises(UsageError, match="steps is a setting of sampling: give it as options="):
        model.fill(text="a [1]", steps=2)
    with pytest.raises(UsageError, match="steps must be at least 1, a whole number"):
        model.image("seven", steps="4")  # pyright: ignore[reportArgumentType]


def test_a_score_of_a_damaged_model_is_none(bundle: Bundle):
    damaged = Model(bundle)
    with torch.no_grad():
        before = {k: v.clone() for k, v in damaged.runner.placed.model.state_dict().items()}
        next(damaged.runner.placed.model.parameters()).fill_(math.nan)
    try:
        with pytest.raises(UsageError, match="logits that are not finite"):
            damaged.score(text="seven", draws=4)
    finally:
        damaged.runner.placed.model.load_state_dict(before)


def test_rows_are_laid_as_the_training_tasks_lay_them(model: Model):
    given = {"voice": codes(model, "voice", "anna"), "text": codes(model, "text", "seven")}
    target = model.layout.whole("speech", "text>speech", Size())
    row = model.layout.row(given, {"speech": target})
    task = Task(("text",), ("speech",))
    trained = lay(task, {**given, "speech": np.zeros((3, 2), np.int32)}, {"speech": target.span or 0})
    assert [s.kind for s in row.segments] == [s.kind for s in trained]
    assert row.task == "text>speech"
    assert target.span in tiny.BUCKETS["audio"]


def test_the_voice_of_the_defaults_speaks_when_none_is_named(bundle: Bundle):
    from trimask.hub.defaults import Defaults

    layout = Layout(bundle.model.vocabulary, bundle.tokenizers, Defaults(voice="anna", spans={"speech": 6}))
    row = layout.row({}, {"speech": layout.whole("speech", "speech", Size())})
    assert [s.kind for s in row.segments] == ["voice", "speech"]
    assert row.segments[1].span == 6


def test_scores_agree_between_estimators_and_give_bits_per_byte(model: Model):
    score = model.score(text="seven", draws=64)
    assert score.task == "text"
    assert not score.length_given
    assert score.by_count.tokens == max(tiny.BUCKETS["text"])
    assert abs(score.by_count.nats - score.by_time.nats) < 4 * (score.by_count.error + score.by_time.error)
    assert score.bits_per_byte == pytest.approx(score.by_count.nats / math.log(2) / 5)
    assert "bits per byte over 5 bytes" in str(score)
    assert str(score.by_count.tokens) in str(score)


def test_the_mean_of_many_scores_agrees_within_four_of_the_errors_they_report(model: Model):
    scores = [model.score(text="seven", draws=256, seed=seed) for seed in range(32)]
    # One error is half the difference of two halves and can be small by chance; their root mean square is not.
    (count, count_error), (time, time_error) = (
        (np.mean([b.nats for b in found]), math.sqrt(np.mean([b.error**2 for b in found]) / len(found)))
        for found in ([s.by_count for s in scores], [s.by_time for s in scores])
    )
    assert abs(count - time) < 4 * (count_error + time_error)
    assert count_error < 0.005 * count and time_error < 0.015 * time, "errors so large say nothing"


def test_scores_of_a_target_given_the_rest(model: Model):
    score = model.score(text="a red circle", image=PICTURE, target="image", draws=4)
    assert score.task == "text>image"
    assert score.length_given
    assert score.bits_per_byte is None
    assert score.by_count.tokens == 8 * 7
    exact = model.score(text="seven", draws=4, free=False)
    assert exact.by_count.tokens == len(codes(model, "text", "seven")) + 1
    with pytest.raises(UsageError, match="part is to be scored"):
        model.score(text="seven", image=PICTURE)


def test_scoring_does_not_depend_on_what_is_hidden(model: Model):
    shown = Segment("text", codes(model, "text", "seven"), target=True)
    hidden = Segment("text", shown.codes, target=True, hidden=True)
    scores = [model.score(Row((s,), key="x"), draws=4).by_count for s in (shown, hidden)]
    assert scores[0] == scores[1]


def test_a_filled_canvas_is_scored_like_its_row(model: Model):
    text = Segment("text", codes(model, "text", "a red circle"))
    row = Row((text, Segment("image", np.zeros((4, 4), np.int32), target=True)), key="x")
    free = Row((Segment("text", text.codes, target=True, span=24),), key="y")
    for one in (row, free):
        canvas = Composer(model.vocabulary, 64).compose([[one]])
        scores = [model.score(given, draws=4) for given in (canvas, one)]
        assert str(scores[0]) == str(scores[1])
    with pytest.raises(UsageError, match="the canvas has 2"):
        model.score(Composer(model.vocabulary, 64).compose([[row, free]]))
    hidden = Segment("image", np.zeros((4, 4), np.int32), target=True, hidden=True)
    with pytest.raises(UsageError, match="not filled"):
        model.score(Composer(model.vocabulary, 64).compose([[Row((text, hidden))]]))


def test_a_model_in_training_is_left_as_it_is(bundle: Bundle):
    network = tiny.network(tiny.tokenizers())
    network.dtype = torch.bfloat16
    before = {k: v.clone() for k, v in network.state_dict().items()}
    Model(Bundle(network, bundle.tokenizers), device="cpu", dtype="fp32").image("seven", **FEW)
    assert network.dtype == torch.bfloat16
    assert network.training
    assert all(p.requires_grad for p in network.parameters())
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_devices_that_are_not_there(bundle: Bundle):
    with pytest.raises(UsageError, match="'tpu' is unknown"):
        Model(bundle, device="tpu")
    with pytest.raises(UsageError, match="dtype 'fp8'"):
        Model(bundle, device="cpu", dtype="fp8")


def test_progress_is_reported(model: Model):
    steps = []
    model.image("seven", steps=3, on_step=lambda p: steps.append((p.step, p.steps)))
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_padded_lengths_are_multiples_of_32():
    assert [padded(n) for n in (1, 64, 65, 1024, 1025)] == [32, 64, 96, 1024, 2048]
    assert all(padded(n) % 32 == 0 for n in range(1, 3000, 7))


def test_it_is_what_evaluation_asks_of_a_model(model: Model):
    from trimask.core.item import Item
    from trimask.diffusion.bounds import by_count
    from trimask.evaluation.cloze import Gap
    from trimask.evaluation.generator import Generator

    generator: Generator = model
    assert [i.shape for i in generator.images(["seven"], 0, (28, 32))] == [(32, 28, 3)]
    assert isinstance(generator.clips(["seven"], ["anna"], 0)[0], Audio)
    assert len(set(generator.texts(3, 0))) == 3
    assert generator.captions([pixels(PICTURE)], 0) == [model.caption(PICTURE)]
    assert generator.transcripts([CLIP], 0) == [model.transcribe(CLIP)]
    words = generator.words([Gap("a ", "red", " circle"), Gap("", "seven", "")], 0)
    assert len(codes(model, "text", " red")) == 1 and len(words) == 2
    item = Item("x", {"text": "seven", "speech": CLIP, "voice": "anna"})
    bounds = {
        (task, free): generator.bounds([item], task, by_count, 4, 0, free)[0].tokens
        for task in ("text>speech", "speech>text")
        for free in (False, True)
    }
    text, frames = len(codes(model, "text", "seven")), len(codes(model, "speech", CLIP))
    assert bounds == {
        ("speech>text", False): text + 1,
        ("speech>text", True): max(tiny.BUCKETS["text"]),
        ("text>speech", False): 2 * (frames + 1),
        ("text>speech", True): 2 * max(tiny.BUCKETS["audio"]),
    }
    with pytest.raises(DataError, match="x has no image"):
        generator.bounds([item], "image>text", by_count, 4, 0, True)


def test_guidance_goes_away_from_a_negative_text(model: Model):
    plain, guided = (pixels(model.image("seven", guidance=w, **FEW)) for w in (0.0, 3.0))
    away = pixels(model.image("seven", negative="a red circle above two stars", guidance=3.0, **FEW))
    # Away from itself it goes nowhere.
    assert (pixels(model.image("seven", negative="seven", guidance=3.0, **FEW)) == plain).all()
    with pytest.raises(UsageError, match="guidance of image is 0"):
        model.image("seven", negative="the end.", guidance=0.0)
    assert (away != guided).any() and (away != plain).any()
    both = model.image(["seven", "the end."], negative=["a red circle above two stars", "seven"], guidance=3.0, **FEW)
    assert (pixels(both[0]) == away).all()
    # Requests of one text that differ in what they go away from are not the same request twice.
    beside = model.image(["seven"] * 2, negative=["the end.", "a red circle above two stars"], guidance=3.0, **FEW)
    assert (pixels(beside[1]) == away).all()
    assert model.speech("seven", negative="the end.", seconds=0.2, guidance=1.0, **FEW).rate == 16_000
    with pytest.raises(UsageError, match="needs a text"):
        model.image(negative="seven")
    with pytest.raises(UsageError, match="lists of different lengths"):
        model.image(["seven"] * 2, negative=["the end."] * 3)


def test_guidance_goes_away_from_a_weaker_model(bundle: Bundle):
    of = tiny.tokenizers()
    other = Bundle(tiny.network(of, stack=False, seed=5).eval(), of)
    plain = pixels(Model(bundle, device="cpu").image("seven", guidance=0.0, **FEW))
    same, away = (Model(bundle, "cpu", weaker=w).image("seven", guidance=2.0, **FEW) for w in (bundle, other))
    assert (pixels(same) == plain).all() and (pixels(away) != plain).any()
    with pytest.raises(UsageError, match="other tokenizers or another vocabulary"):
        Model(bundle, device="cpu", weaker=Bundle(tiny.network(of, stack=True).eval(), of))
    with pytest.raises(UsageError, match="not from both"):
        Model(bundle, "cpu", weaker=other).image("seven", negative="the end.", guidance=1.0)
