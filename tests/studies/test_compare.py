"""Studies that compare variants of one run, and the study of sizes and lengths."""

import dataclasses
import io
import math
from pathlib import Path

import chz
import numpy as np
import pytest
from rich.console import Console

from trimask import recipes
from trimask.core.canvas import queries
from trimask.core.config import changed
from trimask.core.errors import UsageError
from trimask.core.rng import generator
from trimask.data.stream import Stream
from trimask.model.accounting import parameters
from trimask.model.transformer import Transformer
from trimask.studies import table
from trimask.studies.base import cell_of
from trimask.studies.compare import ALL, LOSS, SCATTER, SIGNAL, Compare, alike, gradient_noise, judged, noises, row_key
from trimask.studies.conduct import conduct
from trimask.studies.executors import Here
from trimask.studies.layout import Layout
from trimask.studies.masking import Masking
from trimask.studies.mixture import Mixture, mean_loss
from trimask.studies.noise import Noise, key_of
from trimask.studies.paradigm import CAUSAL, Paradigm
from trimask.studies.scaling import LAW, Scaling, of_rows
from trimask.studies.table import Cell, Row
from trimask.studies.training import configuration
from trimask.train.config import TrainConfig


def noise(*key: object) -> float:
    return float(generator("noise", repr(key)).normal())


@pytest.fixture(scope="module")
def tri():
    """The recipe of the studies: three modalities. Its sets need not be there."""
    return recipes.configure("study")


@pytest.mark.parametrize("study", [Noise(), Masking(), Layout(), Paradigm()], ids=lambda s: type(s).__name__)
def test_every_variant_is_a_run_that_can_be_made_and_no_two_are_one(study: Compare, tri, tmp_path):
    variants = study.variants(tri)
    made = [configuration(tri, cell_of(tri, variant=v), tmp_path) for v in variants.values()]
    assert next(iter(variants.values())) == () and len(variants) > 3
    held = [chz.replace(config, run="") for config in made]
    assert all(a != b for i, a in enumerate(held) for b in held[:i])
    assert chz.replace(held[0], batch=tri.batch, checkpoints=tri.checkpoints) == chz.replace(tri, run="")


def test_layouts_and_schedules_reach_the_vocabulary(tri, tmp_path):
    def made(variant):
        return configuration(tri, cell_of(tri, variant=variant), tmp_path).model.vocabulary

    layouts = Layout().variants(tri)
    assert made(layouts["flat coordinates"]).positions == "flat"
    assert {m.name: m.patch for m in made(layouts["image: a position a code"]).modalities}["image"] == 1
    assert not {m.name: m.stack for m in made(layouts["audio: a position a code"]).modalities}["audio"]
    assert made(layouts["audio: a position a code, flat coordinates level by level"]).positions == "levels"
    image = {m.name: m for m in made(Noise().variants(tri)["image poly2"]).modalities}["image"]
    assert (image.schedule, image.elbo) == ("poly2", True)
    assert {m.schedule for m in alike(made(())).modalities} == {"linear"}


def test_a_comparison_says_what_is_sure(base):
    """One variant is better by more than its noise, one worse, one within it."""
    study = Noise(schedules=("linear", "cosine"), seeds=4)
    names = list(study.variants(base))
    true = dict(zip(study.variants(base).values(), (0.0, -0.1, 0.2, 0.0), strict=True))
    rows = []
    for cell in study.plan(base, ()):
        value = 3 + true[cell.variant] + 0.5 * noise(cell.seed) + 0.01 * noise(1, cell.seed, cell.variant)
        rows.append(
            Row(cell, value, {"text": value, LOSS: 0.1, SCATTER: 2.0, SIGNAL: 1.0}, 0, 0.0, errors={"text": 0.1})
        )
    report = study.report(base, rows)
    said = " ".join(report.findings)
    assert f"text: {names[1]} is better than the recipe" in said and f"text: {names[2]} is worse" in said
    assert names[3] not in said
    assert [line[0] for line in report.tables[1][2]] == names[1:]
    found = judged({0: 1.0, 1: 1.2, 2: 1.1}, {0: 1.1, 1: 1.3, 2: 1.2})
    assert found.mean == pytest.approx(-0.1) and found.half == pytest.approx(0, abs=1e-9)
    assert judged({0: 1.0}, {0: 2.0}).verdict == ""
    with pytest.raises(UsageError, match=r"study\.seeds=1"):
        Noise(seeds=1)


def test_each_paradigm_is_compared_at_its_own_best_rate(tri):
    """Autoregression is better by 0.2 at a rate where masked diffusion is worse by 0.5."""
    study = Paradigm(lengths=(1, 2), seeds=3)
    rate, steps, rows = tri.optimizer.rate, cell_of(tri).steps, []

    def run(cell: Cell) -> Row:
        off = abs(math.log2(cell.rate / rate) - (1 if set(CAUSAL) <= set(cell.variant) else 0))
        value = 3 - 0.2 * (set(CAUSAL) <= set(cell.variant)) + 0.5 * off + 0.1 * cell.seed
        return Row(cell, value, {"text": value, LOSS: 0.1, SCATTER: 2.0, SIGNAL: 1.0}, 0, 0.0, errors={"text": 0.1})

    first = study.plan(tri, rows)
    assert len(first) == 2 * 4 * 3 and {c.seed for c in first} == {0} and {c.steps for c in first} == {steps, 2 * steps}
    rows = [run(cell) for cell in first]
    rest = [cell for cell in study.plan(tri, rows) if cell not in first]
    assert len(rest) == 2 * 4 * 2 and len(study.expected(tri)) == len(first) + len(rest)
    assert {(c.rate, set(CAUSAL) <= set(c.variant)) for c in rest} == {(rate, False), (2 * rate, True)}
    report = study.report(tri, [*rows, *map(run, rest)])
    said = " ".join(report.findings)
    for n in (steps, 2 * steps):
        assert f"{n} steps: text: autoregression is better than masked diffusion, -0.2000 +- 0.0000" in said
        assert f"autoregression {2 * rate:.4g}" in said
    with pytest.raises(UsageError, match="not causal"):
        study.variants(configuration(tri, cell_of(tri, variant=CAUSAL), Path("unused")))
    assert study.report(tri, rows[:1]).tables


def test_the_noise_of_a_gradient_is_that_of_its_batches(base):
    """Batches that are one and the same have none; of different ones it is what the definition says."""
    import torch

    from trimask.train.step import evaluate

    stream = iter(Stream(base.data, base.model.vocabulary))
    batches = [next(stream) for _ in range(4)]
    model = Transformer(base.model)
    same = noises(model, [batches[0]] * 4)
    assert same[LOSS] == pytest.approx(0, abs=1e-6) and same[SCATTER] == pytest.approx(0, abs=1e-4 * same[SIGNAL])
    grads = []
    for batch in batches:
        model.zero_grad()
        evaluate(model, batch.masked).loss.backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double().numpy())

    def defined(g_NP: np.ndarray) -> list[float]:
        scatter = ((g_NP - g_NP.mean(0)) ** 2).sum() / (len(g_NP) - 1)
        return [scatter, (g_NP.mean(0) ** 2).sum() - scatter / len(g_NP)]

    told = noises(model, batches)
    assert [told[SCATTER], told[SIGNAL]] == pytest.approx(defined(np.stack(grads)))
    masked = batches[3].masked
    none = queries(masked.canvas, torch.zeros_like(masked.canvas.maskable_BL), base.model.vocabulary, every=True)
    clean = dataclasses.replace(masked, weight_BL=0 * masked.weight_BL, queries=none)
    idle = dataclasses.replace(batches[3], masked=clean)
    # Weights that a batch does not ask for have a gradient of nothing.
    told = noises(model, [*batches[:3], idle])
    assert [told[SCATTER], told[SIGNAL]] == pytest.approx(defined(np.stack([*grads[:3], 0 * grads[3]])))
    rows = [Row(cell_of(base), 1.0, {SCATTER: 8.0, SIGNAL: signal}, 0, 0.0) for signal in (3.0, -1.0)]
    assert gradient_noise(rows) == "8" and gradient_noise(rows[1:]) == "beyond 64" and gradient_noise([]) == ""


def test_a_comparison_is_run_and_judged_by_one_process(base, tmp_path):
    study = Noise(schedules=("linear", "cosine"), seeds=2, executor=Here())
    assert conduct(study, base, tmp_path, Console(file=io.StringIO()), "trimask study noise study.seeds=2")
    rows = table.read(tmp_path)
    assert len(rows) == 8 and all(
        {"text", LOSS, SCATTER, SIGNAL} <= {*r.values} and {*r.errors} == {"text"} for r in rows
    )
    assert all(r.loss == pytest.approx(r.values["text"]) and r.values[SCATTER] > 0 for r in rows)
    page = (tmp_path / "report.html").read_text().replace("&#x27;", "'")
    assert "Beside 'the recipe'" in page and "<pre>trimask study noise study.seeds=2</pre>" in page
    assert [part.split("<")[0] for part in page.split("<h2>")[1:]] == [
        "Question", "Design", "Findings", "Threats to validity", "Command",
    ]  # fmt: skip
    assert "schedules = linear, cosine" in page and "2 blocks of width 16" in page and study.threats[0] in page


def test_samples_tell_which_counts_suit_a_training_schedule(base, tmp_path):
    """Of a model of texts its texts; how the other kinds fare is a table of rows."""
    study = Noise(schedules=("linear", "cosine"), seeds=2, samples=3, steps=2)
    cell = cell_of(base)
    free = changed(base, [f"{row_key(0)}.buckets=16,32"], "free")
    row = study.work(configuration(free, cell, tmp_path), cell)
    assert row is not None and {*row.errors} == {"text"}
    keys = [key_of("text", counts) for counts in ("linear", "cosine")]
    assert all(row.values[key] > 0 for key in keys)
    rows = []
    for c in study.plan(base, ()):
        values = {**row.values, keys[0]: 3.0 + 0.1 * c.seed, keys[1]: 2.5 + 0.1 * c.seed}
        rows.append(dataclasses.replace(row, cell=c, values=values))
    caption, head, lines = study.report(base, rows).tables[-1]
    assert caption.startswith("text: bits per byte") and head[1:] == ["linear counts", "cosine counts"]
    assert lines[0] == ["the recipe", "3.0500", "2.5500 (-0.5000 +- 0.0000)"] and len(lines) == 4
    assert (
        len(
            chz.replace(study, samples=0)
            .report(base, [dataclasses.replace(r, values={"text": 1.0}) for r in rows])
            .tables
        )
        == 2
    )
    with pytest.raises(UsageError, match="steps=0"):
        Noise(steps=0)


# Mixtures.


def mixed(cell: Cell) -> Row:
    """Each modality needs its own source; speech helps text a little, pictures do not."""
    scenes, speech, words = (float(v) for _, v in cell.variant)
    size = 20 * sizes(cell.depth) ** -0.3 + 200 * (cell.steps * 2000) ** -0.4
    values = {
        "image": 1.0 + 1 / (2 * scenes**0.9) + size,
        "audio": 3.0 + 1 / (9 * speech**0.3) + size,
        "text": 1.5 + 1 / (7 * words**0.5 + 3.0 * speech**0.5) + size,
    }
    values = {k: v * math.exp(5e-4 * noise(cell, k)) for k, v in values.items()}
    params = sizes(cell.depth)
    return Row(cell, 0.0, values, cell.steps * 2000, 1.0, dict.fromkeys(values, 0.01), params=params, body=params)


def test_the_best_mixture_of_a_law_is_trained_beside_what_was_tried(tri):
    study = Mixture(seeds=3)
    mixtures = study.mixtures(tri)
    assert len(mixtures) >= 12 and all(sum(h) == pytest.approx(1, abs=1e-3) for h in mixtures)
    assert min(min(h) for h in mixtures if h != (0.5, 0.45, 0.05)) >= 0.1 and (0.3333,) * 3 in mixtures
    first = study.plan(tri, ())
    assert len(first) == len(set(first)) == 5 * len(mixtures)
    rows = [mixed(c) for c in first]
    last = [c for c in study.plan(tri, rows) if c not in first]
    assert len(last) in (6, 9) and {c.seed for c in last} == {100, 101, 102} and {c.depth for c in last} == {4}
    said = " ".join(study.report(tri, [*rows, *(mixed(c) for c in last)]).findings)
    # Where the truth is lowest, over a fine grid.
    grid = [(a / 40, b / 40, (40 - a - b) / 40) for a in range(1, 39) for b in range(1, 40 - a)]
    keys = [k for k, _ in first[0].variant]

    def true_loss(shares) -> float:
        return mean_loss(mixed(dataclasses.replace(last[0], variant=tuple(zip(keys, shares, strict=True)))))

    found = tuple(float(v) for _, v in last[0].variant)
    assert true_loss(found) < min(map(true_loss, grid)) + 0.01 < true_loss((1 / 3,) * 3)
    assert "Trained on fresh seeds, the law's best is better beside equal shares" in said
    text = said.split("text: the law errs by ")[1]
    assert "At one share of world-text, scenes instead of speech changes it by +" in text
    # Before all are there, nothing is fitted.
    assert study.report(tri, rows[:5]).findings == []
    with pytest.raises(UsageError, match=r"3 sources cannot be mixed with at least 0\.4"):
        Mixture(least=0.4).mixtures(tri)
    with pytest.raises(UsageError, match="three depths"):
        Mixture(depths=(2, 3))


# Sizes and lengths.

TRUE = {"E": 1.6, "A": 30.0, "B": 400.0, "alpha": 0.3, "beta": 0.4}


def sizes(depth: int) -> int:
    return 12 * depth**3 * 1000


def sizes_of(base: TrainConfig, cell: Cell) -> int:
    return parameters(chz.replace(base.model, width=cell.width, depth=cell.depth)).total


def row(cell: Cell) -> Row:
    """As the law has it, with a thousandth of noise."""
    params, tokens = sizes(cell.depth), cell.steps * 2000
    loss = TRUE["E"] + TRUE["A"] * params ** -TRUE["alpha"] + TRUE["B"] * tokens ** -TRUE["beta"]
    loss *= math.exp(0.001 * noise(cell))
    unique = {"text": tokens // 2}
    return Row(cell, loss, {"text": loss}, tokens, 1.0, {"text": 0.01}, unique, unique, params, params // 2, 1e12)


def test_scaling_fits_a_law_to_each_modality_and_keeps_it_for_plans(tri):
    study = Scaling(depths=(2, 3, 4, 6, 9), horizons=(1.0, 2.0, 4.0, 8.0), most=8.0, beyond=2.0, draws=20)
    plan = study.plan(tri, ())
    assert {c.depth: c.width for c in plan} == {2: 64, 3: 128, 4: 192, 6: 256, 9: 384}
    lengths = {d: sorted(c.steps for c in plan if c.depth == d and c.seed == 0) for d in (2, 6, 9)}
    # The largest size takes every second length; half of what its longest run costs is too much for any other.
    assert lengths == {2: [1000, 2000, 4000, 8000], 6: [1000, 2000, 4000, 8000], 9: [2000, 8000]}
    assert [sum(c.depth == d and c.steps == 4000 for c in plan) for d in (2, 6)] == [3, 3]
    dear = chz.replace(study, beyond=16.0).plan(tri, ())
    cost = {d: max(sizes_of(tri, c) * c.steps for c in dear if c.depth == d) for d in (2, 6, 9)}
    assert cost[9] >= 16 * max(cost[2], cost[6]) > cost[9] / 2
    report = study.report(tri, [row(c) for c in plan])
    kept = report.data[LAW]["targets"]
    assert {*kept} == {ALL, "text"} and len(kept[ALL]["drawn"]) == 20
    assert kept[ALL]["values"]["alpha"] == pytest.approx(0.3, abs=0.05)
    assert kept[ALL]["ranges"]["params"] == [sizes(2), sizes(9)]
    assert any(line.startswith("all: Held out, 2 losses") for line in report.findings)
    assert {"losses", "all-fit", "text-errors"} <= {*report.plots}
    # Before all sizes are there nothing is fitted.
    early = study.report(tri, [row(c) for c in plan if c.depth < 9])
    assert not early.data and "losses" in early.plots
    assert early.findings[-1] == "No run of 9 blocks: no law is fitted."
    # A size that failed is left out where that was asked for, and three are left to fit.
    partial, rows = chz.replace(study, partial=True), [row(c) for c in plan]
    rest = partial.report(tri, [r for r in rows if r.cell.depth != 3])
    assert "No run of 3 blocks: the law is of the other sizes." in rest.findings
    assert rest.data[LAW]["targets"][ALL]["ranges"]["params"] == [sizes(2), sizes(9)]
    assert not partial.report(tri, [r for r in rows if r.cell.depth in (2, 3, 4)]).data
    body = of_rows([row(c) for c in plan], ALL, "body")
    assert body.params_R.max() == sizes(9) // 2
    for wrong in ({"depths": (2, 3, 4)}, {"horizons": (1.0, 2.0)}, {"seeds": 1}, {"held_out": 4}, {"beyond": 0.0}):
        with pytest.raises(UsageError, match="study"):
            Scaling(**wrong)  # pyright: ignore[reportArgumentType]
