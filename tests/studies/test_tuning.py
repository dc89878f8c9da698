"""`trimask tune`: what is counted, what beats what, and a whole search on a small model."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import chz
import pytest

import trimask
from tests.hub import tiny
from trimask.core.errors import DataError, TrainingError, UsageError
from trimask.core.item import Item
from trimask.data.readers.detect import read as read_source
from trimask.data.readers.source import parse
from trimask.diffusion.samplers import Ancestral, Blockwise, RandomOrder
from trimask.diffusion.settings import Settings
from trimask.evaluation.image import ClassDrawing, SceneDrawing
from trimask.evaluation.judges import Judge
from trimask.evaluation.sets import EvaluationSet
from trimask.evaluation.table import Result
from trimask.evaluation.writing import UNDER_KNESER_NEY, Cloze, Writing
from trimask.hub.defaults import BALANCED, Defaults, settings_json
from trimask.hub.model import Model
from trimask.studies import tuning
from trimask.studies.conduct import held
from trimask.studies.presets import (
    BEST,
    CONFIRMED,
    FAST,
    MEASURED,
    SEARCHED,
    Trial,
    by_passes,
    chosen,
    defaults_of,
    finalists,
    frontier,
    presets,
    report_of,
    said,
)
from trimask.studies.space import space
from trimask.studies.tuning import AIMS, TuneConfig, canonical, counted, tunable, tune

SMALL = TuneConfig(trials=4, items=2, sifted=3, finalists=3, final=3, fixed=0.2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return trimask.load(tiny.save(tmp_path_factory.mktemp("tuned") / "tiny"), device="cpu")


@pytest.fixture(scope="module")
def scenes() -> EvaluationSet:
    items = [i for i in read_source(parse("world:scenes?split=validation&limit=6")) if isinstance(i, Item)]
    return EvaluationSet("scenes", "validation", items)


def trial(quality: float, cost: float, error: float = 0.01, stage: str = SEARCHED, **options) -> Trial:
    settings = settings_json(Settings(RandomOrder(steps=int(cost)), temperature=0.5 + int(cost) / 1000))
    return Trial("text>image", "x", options, settings, stage, 8, "right", quality, error, cost, cost, 0.1)


def test_a_trial_that_a_cheaper_one_matches_is_beaten():
    a, b, c, d = trial(0.5, 4), trial(0.4, 8), trial(0.5, 16), trial(0.6, 32)
    assert frontier([d, c, b, a]) == [a, d]
    assert frontier([a, replace(a, cost=5.0)]) == [a]
    # 0.1 is three standard errors of the difference of a and b, and seven tenths of those of e and a.
    e = replace(b, error=0.14)
    assert frontier([a, b, d], slack=1.0) == [a, d]
    assert frontier([a, e, d], slack=1.0) == [a, e, d]
    # What is the same is there once; by passes a cached one is as dear as without a cache.
    cached = replace(c, cost=2.0, quality=0.45)
    assert frontier([a, replace(a, seconds=9.0), cached]) == [cached, a]
    assert frontier([a, cached], price=by_passes) == [a]


def test_finalists_are_the_best_the_quick_and_the_frontier():
    own = trial(0.3, 64)
    edge = [trial(0.1 * n, 2.0**n, steps=n) for n in range(1, 8)]
    dull = [trial(0.05, 100.0, steps=9), trial(0.65, 120.0, steps=10)]
    found = finalists([own, *edge, *dull], 4, fewer=4)
    assert found[0] is own and len(found) == 5
    assert edge[-1] in found and edge[4] in found and edge[0] in found
    # Of six the two best, 128 and 120 passes, and the two best of those with at most a fourth of 128.
    more = finalists([own, *edge, *dull], 6, fewer=4)
    assert len(more) == 7 and all(t in more for t in (edge[-1], edge[4], dull[1], edge[3], edge[0]))
    # What asks four times as often as the best is measured anew too, be it worse.
    best, between, quick = trial(0.7, 8, steps=1), trial(0.65, 16, steps=2), trial(0.2, 2, steps=3)
    for dear, expected in ((trial(0.64, 32, steps=4), True), (trial(0.64, 31, steps=4), False)):
        assert (dear in finalists([best, between, dear, quick], 3, fewer=4)) == expected
    # Or four times as often as what noise cannot tell from the best.
    alike = trial(0.69, 6, steps=5)
    for dear, expected in ((trial(0.64, 24, steps=6), True), (trial(0.64, 23, steps=6), False)):
        assert (dear in finalists([best, alike, dear, quick], 3, fewer=4)) == expected
    few = finalists([own, edge[-1], dull[1]], 4, fewer=4)
    assert {id(t) for t in few} == {id(own), id(edge[-1]), id(dull[1])}


@pytest.mark.parametrize(
    "qualities, expected",
    [
        ({4: 0.79, 16: 0.8, 64: 0.81}, (4, 4, 64)),
        ({4: 0.7, 16: 0.8, 64: 0.81}, (16, 16, 64)),
        ({4: 0.7, 16: 0.75, 32: 0.8, 64: 0.81}, (16, 32, 64)),
        ({32: 0.8, 64: 0.83}, (64, 64, 64)),
        ({4: 0.9, 64: 0.83}, (4, 4, 4)),
        # Too far: then there is no quick one.
        ({4: 0.3, 12: 0.3, 64: 0.83}, (64, 64, 64)),
        # Of those that noise cannot tell apart the one that asks most often is best.
        ({16: 0.8, 32: 0.82, 64: 0.815}, (16, 16, 64)),
        ({12: 0.81, 16: 0.82, 64: 0.807}, (12, 12, 64)),
        ({12: 0.81, 16: 0.82, 64: 0.805}, (12, 12, 16)),
    ],
)
def test_presets_by_hand(qualities: dict, expected: tuple):
    named = presets([trial(q, cost) for cost, q in qualities.items()], fewer=4, loss=0.02)
    assert tuple(named[n].cost for n in (FAST, BALANCED, BEST)) == expected


def test_fast_is_not_what_balanced_beats():
    cached = replace(trial(0.79, 64), cost=10.0)
    named = presets([trial(0.8, 64), cached, trial(0.6, 16)], fewer=4, loss=0.02)
    assert named[FAST] is named[BALANCED] is cached


def test_no_set_of_a_task_pays_for_the_others():
    """0.02 may be lost of scenes, whose difference is known to 0.014, and of digits, known to 0.07."""
    errors = {"scenes": 0.01, "digits": 0.05}
    best = replace(trial(0.81, 64), sets={"scenes": 0.72, "digits": 0.9}, errors=errors)
    for scenes, expected in ((0.69, 8), (0.68, 16), (0.78, 8), (0.8, 16)):
        quick = replace(trial(0.8, 8), sets={"scenes": scenes, "digits": 1.6 - scenes}, errors=errors)
        even = replace(trial(0.8, 16), sets={"scenes": 0.71, "digits": 0.89}, errors=errors)
        named = presets([best, quick, even], fewer=4, loss=0.02)
        assert tuple(named[n].cost for n in (FAST, BALANCED, BEST)) == (expected, expected, 64)
    told = defaults_of(Defaults(), [[replace(t, stage=MEASURED) for t in (best, even)]], 4, 0.02).measured
    assert told["text>image"]["best"]["sets"] == {"scenes": 0.72, "digits": 0.9}
    again = report_of([[replace(t, stage=MEASURED) for t in (best, even)]], 4, 0.02).tables[0]
    assert again[1][4:6] == ["scenes", "digits"] and again[2][0][4:6] == ["0.710", "0.890"]


def test_what_does_not_hold_when_it_is_confirmed_is_not_the_default():
    finals = [trial(q, cost, stage=MEASURED) for cost, q in ((4, 0.75), (32, 0.8), (64, 0.81))]
    for again, expected in ((0.77, 32), (0.6, 64)):
        confirmed = [trial(q, cost, stage=CONFIRMED) for cost, q in ((4, 0.7), (32, again), (64, 0.8))]
        found = chosen([*finals, *confirmed], fewer=4, loss=0.02)
        assert tuple(found[n].cost for n in (FAST, BALANCED, BEST)) == (4, expected, 64)
        assert found[BALANCED].stage == CONFIRMED
        rows = report_of([[*finals, *confirmed]], 4, 0.02).tables[0][2]
        assert [row[3] for row in rows] == ["0.700 +- 0.010", f"{again:.3f} +- 0.010", "0.800 +- 0.010"]
        assert [row[1] for row in rows] == [
            "fast",
            *(["balanced", "best"] if expected == 32 else ["", "balanced best"]),
        ]


def test_best_is_no_dearer_setting_that_is_worse_for_certain_when_it_is_confirmed():
    finals = [trial(q, cost, stage=MEASURED) for cost, q in ((32, 0.8), (64, 0.81))]
    for again, expected in ((0.79, 64), (0.81, 64), (0.82, 32)):
        confirmed = [trial(again, 32, stage=CONFIRMED), trial(0.8, 64, stage=CONFIRMED)]
        assert chosen([*finals, *confirmed], fewer=4, loss=0.02)[BEST].cost == expected


def test_defaults_keep_what_was_not_tuned_and_say_what_was_measured(model):
    own = {"fast": {"text": Settings(RandomOrder())}}
    before = replace(model.bundle.defaults, measured={"text": {"metric": "x"}}, presets=own)
    finals = [trial(0.79, 4, stage=MEASURED), trial(0.81, 64, stage=MEASURED)]
    made = defaults_of(before, [[trial(0.9, 1), *finals]], fewer=4, loss=0.02)
    assert made.settings == {**before.settings, "text>image": Settings(RandomOrder(steps=4), temperature=0.504)}
    assert set(made.presets) == {FAST, BEST} and set(made.presets["fast"]) == {"text", "text>image"}
    assert made.presets["best"]["text>image"].sampler == RandomOrder(steps=64)
    assert made.measured["text"] == {"metric": "x"}
    assert made.measured["text>image"]["best"] == {
        "quality": 0.81, "error": 0.01, "passes": 64.0, "cost": 64.0, "seconds": 0.1
    }  # fmt: skip
    report = report_of([[trial(0.9, 1), *finals]], 4, 0.02)
    assert report.tables[0][2][0][:4] == ["the model's own", "fast balanced", "0.790 +- 0.010", ""]
    # What was confirmed is what is published; the choice stays.
    again = [trial(0.74, 4, stage=CONFIRMED), trial(0.75, 64, stage=CONFIRMED)]
    told = defaults_of(before, [[*finals, *again]], fewer=4, loss=0.02)
    assert told.settings == made.settings and told.presets == made.presets
    assert [told.measured["text>image"][n]["quality"] for n in (FAST, BEST)] == [0.74, 0.75]
    assert report_of([[*finals, *again]], 4, 0.02).tables[0][2][0][3] == "0.740 +- 0.010"
    assert said({"steps": 4, "top_p": 0.9}) == "--steps 4 --top-p 0.9"


@pytest.mark.parametrize(
    "options, passes, cost",
    [
        ({"guidance": 0.0, "steps": 4}, 4, 4),
        ({"guidance": 1.0, "steps": 4}, 8, 8),
        ({"guidance": "1@0-0.4", "steps": 4}, 6, 6),
        ({"guidance": 0.0, "steps": 4, "cache": "changed:every=1"}, 4, 4),
        ({"guidance": 1.0, "steps": 4, "cache": "changed"}, 8, None),
    ],
)
def test_passes_and_positions_are_counted(model, options, passes, cost):
    with counted(model) as counter:
        model.image(["a red circle", "a blue star", "a red star"], sampler="random-order", **options)
    assert counter.passes == 3 * passes
    if cost is None:
        assert 3 * 2 < counter.shares < 3 * passes
    else:
        assert counter.shares == pytest.approx(3 * cost)
    assert counter.tokens == 64 and counter.seconds > 0
    assert model.runner.engine.denoiser is not counter


def test_quality_is_one_at_best_and_wants_variety():
    rates = {"word error rate, generated speech": Result("word error rate, generated speech", 1.2, 5, 0.1)}
    speaking, writing = AIMS[tuning.Speaking], AIMS[tuning.Writing]
    quality, varied = speaking.quality(rates, 0.9)
    assert (speaking.task, quality.value, quality.error, varied) == ("text>speech", 0.0, 0.1, None)
    bits = Result(UNDER_KNESER_NEY, 2.5, 5, 0.25, reference=2.0)
    pairs = Result("distinct 2-grams", 0.4, 5, 0.03, reference=0.8)
    # Four fifths as likely as real texts, half as varied.
    found, varied = writing.quality({bits.metric: bits, pairs.metric: replace(pairs, error=None)}, 1.0)
    assert (found.value, found.error, varied) == (pytest.approx(0.4), pytest.approx(0.04), pytest.approx(0.5))
    found, _ = writing.quality({bits.metric: bits, pairs.metric: pairs}, 1.0)
    assert found.error == pytest.approx(math.hypot(0.04, 0.8 * 0.03 / 0.8))
    # Of a variety of 0.8 half as much is five eighths of what is enough.
    found, _ = writing.quality({bits.metric: bits, pairs.metric: pairs}, 0.8)
    assert (found.value, found.error) == (pytest.approx(0.5), pytest.approx(math.hypot(0.05, 0.8 * 0.03 / 0.64)))
    # With enough of it, how much more does not count, nor how sure that is.
    for enough, value in ((0.5, 0.4), (0.9, 0.9)):
        found, _ = writing.quality({bits.metric: bits, pairs.metric: replace(pairs, value=value)}, enough)
        assert (found.value, found.error) == (pytest.approx(0.8), pytest.approx(0.08))
    # More likely than real text is no better than real text, and no text at all is nothing.
    likelier = {bits.metric: replace(bits, value=1.0), pairs.metric: replace(pairs, value=0.8)}
    assert writing.quality(likelier, 0.9)[0].value == 1.0
    assert writing.quality({"words in samples": Result("words in samples", 0, 5)}, 0.9)[0].value == 0


def test_a_section_that_cannot_judge_variety_is_left_out(scenes, capsys):
    sections = [SceneDrawing(scenes), Writing(scenes, 4), Writing(replace(scenes, train=scenes.items), 4)]
    assert tunable(sections, SMALL) == {"text>image": [sections[0]], "text": [sections[2]]}
    assert "scenes: writing is left out: without a train part" in capsys.readouterr().out
    judge = cast(Judge, None)
    few = [ClassDrawing(replace(scenes, train=scenes.items, validation=scenes.items[:n]), judge) for n in (5, 6)]
    assert tunable(few, SMALL) == {"text>image": few[1:]}


@pytest.mark.parametrize("kind, grid", [("image", "plane"), ("text", "line"), ("speech", "frames")])
def test_every_value_that_is_tried_can_be_sampled(model, kind, grid):
    options = space(f"text>{kind}" if kind != "text" else kind, grid)
    assert ("guidance" in options) is (kind != "text")
    make = {"image": lambda o: model.image("a red star", **o), "text": lambda o: model.text("a", length=8, **o)}
    make["speech"] = lambda o: model.speech("seven", seconds=0.2, **o)
    for name, values in options.items():
        for value in values:
            steps = {} if name in ("steps", "sampler") else {"steps": 3}
            make[kind]({**steps, name: value})


def test_a_search_keeps_trials_goes_on_and_makes_presets(model, scenes, tmp_path: Path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    sections, facts = [SceneDrawing(scenes), Cloze(scenes)], {"model": "m", "sources": ["scenes"]}
    trials = tune(model, sections, whole, SMALL, facts)[0]
    assert trials == tuning.read(whole)
    made = defaults_of(model.bundle.defaults, [trials], 4, 0.02)
    counts = {stage: sum(t.stage == stage for t in trials) for stage in (SEARCHED, MEASURED, CONFIRMED)}
    assert counts[SEARCHED] == 4 and 3 <= counts[MEASURED] <= 4 and 1 <= counts[CONFIRMED] <= 3
    assert trials[0].options == {} and trials[0].settings == settings_json(
        model.bundle.defaults.of("text>image", "image", {})
    )
    assert len({json.dumps(t.settings) for t in trials if t.stage == SEARCHED}) == 4
    assert {t.items for t in trials if t.stage != SEARCHED} == {3} and {t.tokens for t in trials} == {64}
    assert set(made.presets) == {FAST, BEST} and made.measured["text>image"]["data"] == "scenes: drawing"
    assert json.loads((whole / "sampling.json").read_text())["presets"]["best"]["text>image"]
    assert (whole / "text-to-image.png").exists() and "--steps" in (whole / "report.html").read_text()
    # The same call has nothing left to do, whatever defaults the model has by now.
    assert tune(model.sampled(made), sections, whole, SMALL, facts) == [trials]
    assert tuning.read(whole) == trials
    # A search that was cut off in the middle of a line makes the same trials.
    cut.mkdir()
    lines = (whole / "trials.jsonl").read_text().splitlines(keepends=True)
    (cut / "trials.jsonl").write_text(lines[0] + lines[1] + lines[2][:40])
    tune(model, sections, cut, SMALL, facts)
    timeless = [[{**asdict(t), "seconds": 0} for t in tuning.read(folder)] for folder in (whole, cut)]
    assert timeless[0] == timeless[1]
    # More trials are added to those that are there; those on other numbers of items are no part of the choice.
    more = tune(model, sections, cut, chz.replace(SMALL, trials=5, final=2), facts)[0]
    assert sum(t.stage == SEARCHED for t in more) == 5 and {t.items for t in more} == {2}
    assert {t.items for t in tuning.read(cut)} == {2, 3}
    # Of a set of six no more than six are asked for, and 0 is all of them.
    full = tune(model, sections, tmp_path / "full", chz.replace(SMALL, trials=3, items=0, final=99), facts)[0]
    assert {t.items for t in full} == {6} and full[0].passes == trials[0].passes


def test_what_an_evaluation_costs_beside_what_it_computes_is_measured_once(model, scenes, tmp_path: Path):
    config, facts = chz.replace(SMALL, fixed=None, trials=3), {"model": "m"}
    (trials,) = tune(model, [SceneDrawing(scenes)], tmp_path, config, facts)
    kept = json.loads((tmp_path / "tune.json").read_text())["fixed"]
    assert 0 <= kept["scenes: drawing"] <= 1
    assert all(t.cost == pytest.approx(t.passes) for t in trials if t.settings["cache"] is None)
    cached = [t for t in trials if t.settings["cache"] is not None]
    assert cached and all(kept["scenes: drawing"] * t.passes <= t.cost <= t.passes for t in cached)
    before = (tmp_path / "tune.json").read_text()
    tune(model, [SceneDrawing(scenes)], tmp_path, config, facts)
    assert (tmp_path / "tune.json").read_text() == before


def test_settings_that_act_alike_are_tried_once():
    settings = [Settings(RandomOrder(steps=n), temperature=0.0, top_p=p) for n in (64, 96) for p in (0.9, 1.0)]
    alike = {canonical(settings_json(s), 64) for s in settings}
    assert len(alike) == 1 and len({canonical(settings_json(s), 96) for s in settings}) == 2
    assert len({canonical(settings_json(Settings(Ancestral(steps=n))), 64) for n in (64, 96)}) == 2
    blocks = [Settings(Blockwise(block=1, inner=RandomOrder(steps=1), steps=n)) for n in (4, 8)]
    assert len({canonical(settings_json(s), 64) for s in blocks}) == 2


def test_what_does_not_fit_is_refused(model, scenes, tmp_path: Path):
    with pytest.raises(UsageError, match="no task of only=text>speech can be tuned for"):
        tunable([SceneDrawing(scenes)], chz.replace(SMALL, only=("text>speech",)))
    for few in ({"trials": 2}, {"finalists": 2}, {"finalists": 6, "sifted": 5}, {"final": -1}):
        with pytest.raises(UsageError, match="needs three trials and three finalists, as many sifted"):
            TuneConfig(**few)
    with pytest.raises(UsageError, match=r"loss=-0\.1, fewer=4"):
        TuneConfig(loss=-0.1)
    with pytest.raises(UsageError, match="fixed=2 is a share"):
        TuneConfig(fixed=2)
    tune(model, [SceneDrawing(scenes)], tmp_path, SMALL, {"model": "m"})
    with pytest.raises(UsageError, match="holds trials with another model; choose another --out"):
        tune(model, [SceneDrawing(scenes)], tmp_path, SMALL, {"model": "n"})
    with held(tmp_path), pytest.raises(TrainingError, match="in use by another study"):
        tune(model, [SceneDrawing(scenes)], tmp_path, SMALL, {"model": "m"})
    with (tmp_path / "trials.jsonl").open("a") as f:
        f.write('{"task": 3}\n')
    with pytest.raises(DataError, match=r"trials\.jsonl, line \d+ is not a trial"):
        tuning.read(tmp_path)
    with pytest.raises(ValueError, match="every set needs its error"):
        replace(trial(0.8, 8), sets={"scenes": 0.8})


def test_a_task_is_tuned_on_all_of_its_sets(model, scenes, tmp_path):
    """The quality is the mean of those of its sets, the passes are of an item of any."""
    few = EvaluationSet("few", "validation", scenes.items[:2])
    sections = [SceneDrawing(scenes), SceneDrawing(few)]
    found = tune(model, sections, tmp_path / "both", SMALL, {})
    alone = [tune(model, [s], tmp_path / s.data.name, SMALL, {})[0] for s in sections]
    assert len(found) == 1 and found[0][0].section == "scenes: drawing + few: drawing"
    both, one, other = (trials[0] for trials in (found[0], *alone))
    assert both.quality == pytest.approx((one.quality + other.quality) / 2)
    assert both.error == pytest.approx(math.hypot(one.error, other.error) / 2)
    assert both.passes == pytest.approx(one.passes) == pytest.approx(other.passes)
    assert both.items == 2 and found[0][-1].items == 3 and both.metric == "all correct, if varied"
