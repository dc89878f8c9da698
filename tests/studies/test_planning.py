"""Plans: what they promise is what the model and the run really are."""

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from trimask import recipes
from trimask.core.errors import DataError, UsageError
from trimask.model import accounting
from trimask.model.transformer import Transformer
from trimask.studies import planning
from trimask.studies.planning import ALL, Law, describe, device, plan
from trimask.train.resolve import density, resolve, step_flops


def asked_of(law: Law, **more) -> planning.Asked:
    """Of the recipe `tri`."""
    return planning.Asked(law, "tri", partial(recipes.configure, "tri"), **more)


VALUES = {"E": 1.5, "A": 400.0, "B": 2000.0, "alpha": 0.34, "beta": 0.37}


@pytest.fixture
def law(tmp_path: Path) -> Law:
    path = tmp_path / "law.json"
    ranges = {"params": [1e6, 2e8], "tokens": [1e7, 1e10], "flops": [1e14, 1e19]}
    drawn = [{**VALUES, "E": 1.5 + 0.01 * n} for n in range(-2, 3)]
    target = {"values": VALUES, "drawn": drawn, "ranges": ranges, "runs": 60, "doubts": []}
    targets, codes = {ALL: target, "text": target}, {"text": 4096, "image": 2048, "audio": 512}
    content = {"count": "params", "targets": targets, "shares": {"text": 0.25}, "aspect": 128, "codes": codes}
    path.write_text(json.dumps(content))
    return Law.read(path)


@pytest.mark.parametrize("params, depth", [(3.2e8, 8), (3e9, 24)])
def test_a_plan_of_a_size_is_the_model_that_is_made(law, params, depth):
    """Parameters, operations and memory of the pilot and of 3B, beside the model on the meta device."""
    made = plan(asked_of(law, params=params, flops=1e21))
    # The vocabulary that ships is small, so a model of as many parameters has more blocks.
    assert abs(math.log(made.counts.total / params)) < 0.25 and made.config.model.depth >= depth
    with torch.device("meta"):
        model = Transformer(made.config.model)
    total = sum(p.numel() for p in model.parameters())
    assert made.counts.total == total
    moments = 4 * (2 * total - sum(p.numel() for n, p in model.named_parameters() if p.ndim == 2 and "blocks" in n))
    assert (made.memory.weights, made.memory.optimizer) == (4 * total, moments)
    c = made.config
    steps = made.tokens / (c.rows * c.data.slots * density(c, resolve(c).pace))
    assert made.flops == pytest.approx(steps * step_flops(c), rel=0.01) == pytest.approx(1e21, rel=0.01)
    # Six operations a parameter of the blocks and token are most of them.
    floor = 6 * made.counts.body * c.rows * c.data.slots * steps
    assert floor < made.flops < 2.5 * floor


def test_the_size_of_a_budget_is_the_best_that_fits(law):
    asked = asked_of(law, flops=1e19)
    best = plan(asked)
    for other in (-1, 1):
        depth = best.config.model.depth + other
        size = accounting.parameters(recipes.configure("tri", [f"model.depth={depth}"]).model).total
        beside = plan(asked_of(law, flops=1e19, params=size))
        assert beside.config.model.depth == depth
        assert law.loss(beside.counts.total, beside.tokens) > law.loss(best.counts.total, best.tokens)
    # A device that is too small takes a smaller model, with more tokens.
    small = plan(asked_of(law, flops=1e22, device=device("L4", 0.4)))
    large = plan(asked_of(law, flops=1e22, device=device("H200", 0.4), devices=64))
    assert small.counts.total < large.counts.total and small.tokens > large.tokens
    assert small.memory.total < 0.9 * 24e9
    # Batches are whole passes of all devices, not beyond the critical one.
    horizon = resolve(large.config).horizon
    assert large.config.rows % large.config.data.rows == 0 and horizon is not None
    own = recipes.configure("tri", []).data.rows
    assert large.config.data.rows == 64 * own
    assert large.command.startswith("torchrun --nnodes 8 --rdzv-backend c10d --rdzv-endpoint HOST --nproc-per-node 8 ")
    assert large.command.endswith(f" data.rows={64 * own}") and small.command.startswith("trimask train tri ")
    hours = plan(asked_of(law, hours=10, device=device("H100", 0.5), devices=8))
    assert hours.flops == pytest.approx(10 * 3600 * 8 * 0.5 * 989e12) and hours.seconds == pytest.approx(36_000)
    # Without a budget: the tokens for which a size is the best, where both slopes are alike.
    alone = plan(asked_of(law, params=3e8))
    n, d = alone.counts.total, alone.tokens
    assert VALUES["alpha"] * VALUES["A"] * n**-0.34 == pytest.approx(VALUES["beta"] * VALUES["B"] * d**-0.37)


def test_a_plan_says_what_to_expect_and_how_far_it_reaches(law):
    asked = asked_of(law, flops=1e21, device=device("h200", 0.4), devices=64, unique={"text": 1e9})
    made = plan(asked)
    text = "\n".join(describe(asked, made))
    n, d = made.counts.total, made.tokens
    low, high = law.interval(n, d)
    assert f"all {law.loss(n, d):.4f} ({low:.4f} to {high:.4f})" in text and low < law.loss(n, d) < high
    times = f"{n / 2e8:.3g} times the params of the largest and {d / 1e10:.3g} times the tokens of the largest training"
    assert f"extrapolated: {times}" in text and "as fast on 64 devices as so many times one" in text
    assert f"epochs       text {0.25 * d / 1e9:.3g}" in text and "text: more than 4 epochs" in text
    assert f"-m trimask train tri model.depth={made.config.model.depth} budget.tokens={int(d)}" in text
    assert "64 x H200: 40% of 989TFLOP/s, assumed" in text and "kappa" in text
    near = asked_of(law, flops=1e17)
    said = "\n".join(describe(near, plan(near)))
    assert not [caution for caution in ("extrapolated", "of other models", "devices as so many") if caution in said]
    larger = {"params": [1e9, 2e9], "tokens": [1e12, 1e13]}
    above = replace(law, targets={ALL: {**law.targets[ALL], "ranges": larger}})
    said = "\n".join(describe(asked_of(above, flops=1e17), plan(near)))
    assert "times the params of the smallest and" in said and "times the tokens of the smallest training" in said


def test_a_law_of_other_models_says_so(law):
    other = replace(law, aspect=32, codes={"text": 512, "image": 2048})
    asked = asked_of(other, flops=1e17)
    said = "\n".join(describe(asked, plan(asked)))
    assert (
        "the law is of other models: 0 tokens of audio (512 here), 512 tokens of text (4096 here), "
        "a width of 32 a block (128 here)" in said
    )


def test_the_law_that_ships_plans_for_every_recipe_of_its_tokens():
    """Its losses fall with size and with tokens, and its intervals hold it."""
    shipped = Law.read(recipes.LAW)
    assert shipped.targets.keys() == {ALL, "text", "image", "audio"}
    for target in shipped.targets:
        small, wide, long = (shipped.loss(*at, target) for at in ((2e6, 1e6), (8e6, 1e6), (2e6, 4e6)))
        assert wide < small and long < small, target
        low, high = shipped.interval(5e6, 2e6, target)
        assert low < shipped.loss(5e6, 2e6, target) < high


@pytest.mark.parametrize(
    "more, says",
    [
        ({}, "say what there is"),
        ({"flops": 1e20, "hours": 3}, "not both"),
        ({"hours": 3}, "hours need a device"),
        ({"flops": 1e9}, "too few for a warm-up"),
        ({"flops": 1e20, "settings": ("model.depth=8",)}, "model.depth=8: a plan chooses model.depth, .*--params"),
        ({"flops": 1e20, "settings": ("budget.tokens=5",)}, "budget.tokens=5: a plan chooses"),
        ({"params": 1e15, "flops": 1e20}, "the sizes of tri are"),
        (
            {"params": 3e9, "flops": 1e21, "device": device("L40S", 0.4)},
            r"do not fit 1 x L40S of 48GB: .*; take 4 devices",
        ),
    ],
)
def test_what_cannot_be_says_why(law, more, says):
    with pytest.raises(UsageError, match=says):
        plan(asked_of(law, **more))


def test_this_machine_is_measured():
    found = planning.here(0.25)
    assert 1e9 < found.rate < 1e15 and found.memory > 1e9 and "25% of the" in found.source
    assert planning.here(1.0).rate > 2 * found.rate


def test_what_is_no_law_or_no_device_is_said(law, tmp_path: Path):
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(DataError, match="is no law of"):
        Law.read(tmp_path / "other.json")
    flat = json.loads(law.path.read_text())
    flat["targets"][ALL]["values"]["alpha"] = 0.0
    (tmp_path / "flat.json").write_text(json.dumps(flat))
    with pytest.raises(DataError, match="alpha is 0, so of this law no size is the best"):
        Law.read(tmp_path / "flat.json")
    with pytest.raises(UsageError, match="no device is called 'H9000'; there are: A100"):
        device("H9000", 0.4)
    asked = asked_of(law, flops=1e19, unique={"smell": 3.0})
    with pytest.raises(UsageError, match="the law knows no tokens of 'smell'; it has: text"):
        describe(asked, plan(asked))
