"""From a configuration to what a run does: the identity at the base, passes, horizons, and what is said of them."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import chz
import pytest
import torch
import toy_run
from safetensors.torch import load_file

from trimask.core.canvas import Draw, Row
from trimask.core.errors import TrainingError, UsageError
from trimask.core.modality import Modality, Vocabulary
from trimask.core.rng import generator
from trimask.data.stream import Batch
from trimask.model.config import ModelConfig
from trimask.model.transformer import Transformer
from trimask.optim import gradients
from trimask.optim.optimizer import Multipliers, Optimizer, OptimizerConfig
from trimask.optim.parametrization import COMPLETEP, groups
from trimask.optim.schedules import Cosine, WarmupStableDecay
from trimask.optim.sde import BasePoint
from trimask.train import checkpoint, device, record
from trimask.train.config import Budget, PhysicalBatch, TrainConfig
from trimask.train.device import Pace
from trimask.train.loop import train
from trimask.train.resolve import Resolved, describe, resolve
from trimask.train.step import evaluate
from trimask.train.steptime import measured_density, measured_step

TOKENS = 23
"""Of a row of the toy's, in 64 positions."""
BASE = BasePoint(
    schedule="Cosine", rows=4, slots=64, steps=10, tokens=10 * 4 * TOKENS, gamma=0.44, critical_steps=5, rate=1.0
)
"""The toy run of ten steps itself."""


def config(run: Path | str = "run", steps: int = 10, rows: int | None = None, **changes) -> TrainConfig:
    return toy_run.config(run, steps, batch=PhysicalBatch(rows=rows), **changes)


def tensors(run: Path) -> dict[str, torch.Tensor]:
    """The newest checkpoint's weights, their average and the state of the optimizer."""
    folder = checkpoint.found(run / "checkpoints")[0]
    files = {name: load_file(folder / f"{name}.safetensors") for name in ("model", "training")}
    return {f"{name}.{key}": value for name, content in files.items() for key, value in content.items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a), [k for k in a if not torch.equal(a[k], b[k])]


def plainly(model: Transformer, made: TrainConfig, steps: int) -> list[float]:
    """Losses of training with one group of torch's AdamW and nothing that scales; `model` is trained."""
    source, tuned = toy_run.ToySource(), made.optimizer
    betas = (tuned.beta1, tuned.beta2)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=tuned.rate, betas=betas, eps=tuned.eps, weight_decay=0.0, fused=True
    )
    losses = []
    with device.deterministic(torch.device("cpu")):
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = tuned.rate * made.schedule.factor((step + 0.5) / steps)
            optimizer.zero_grad()
            loss = evaluate(model, source.batch(step).masked).loss
            loss.backward()
            norm = gradients.total(gradients.norms(groups(model)))
            gradients.clip(model.parameters(), norm, tuned.clip)
            optimizer.step()
            losses.append(float(loss.detach()))
    return losses


def test_at_the_base_a_run_is_plain_adamw_bit_for_bit(tmp_path):
    optimizer = OptimizerConfig(rate=2**-7, decay=0.0)
    made = config(tmp_path / "run", optimizer=optimizer, bases=(BASE,), log_every=1)
    assert resolve(made).kappa == 1.0 and made.model.parametrization == "completep"
    m = made.model
    plain = Transformer(
        ModelConfig(vocabulary=m.vocabulary, depth=2, width=32, head_dim=16, parametrization="standard"), made.seed
    )
    assert (plain.config.width_ratio, m.base_width, plain.config.base_width) == (1.0, 32, 256)
    assert_same(dict(Transformer(m, made.seed).named_parameters()), dict(plain.named_parameters()))
    plain.timing["text"].set(torch.from_numpy(toy_run.ToySource().durations("text")))
    losses = plainly(plain, made, 10)
    train(made, toy_run.ToySource(), {})
    assert [row["loss"] for row in record.read_metrics(tmp_path / "run")] == losses
    assert losses[-1] != losses[0]
    trained = {k.removeprefix("model."): v for k, v in tensors(tmp_path / "run").items() if k.startswith("model.")}
    assert_same({k: trained[k] for k, _ in plain.named_parameters()}, dict(plain.named_parameters()))


def test_a_run_at_some_kappa_is_the_run_whose_settings_were_written_by_hand(tmp_path):
    """Twice the rows of the base at no power of the horizon: kappa is 2."""
    base = chz.replace(BASE, rows=2, gamma=0.0, tokens=10 * 2 * TOKENS)
    tuned, ema = OptimizerConfig(rate=2**-7, eps=1e-6), 0.1
    by_rule = config(tmp_path / "rule", bases=(base,), optimizer=tuned, ema=ema)
    assert resolve(by_rule).kappa == 2.0
    by_hand = OptimizerConfig(rate=2**-7 * 2**0.5, beta1=0.9**2, beta2=0.95**2, eps=1e-6 * 2**-0.5, decay=0.1 * 2**0.5)
    train(by_rule, toy_run.ToySource(), {})
    train(config(tmp_path / "hand", optimizer=by_hand, ema=ema**2), toy_run.ToySource(), {})
    train(config(tmp_path / "base", optimizer=tuned, ema=ema), toy_run.ToySource(), {})
    rule, other = tensors(tmp_path / "rule"), tensors(tmp_path / "base")
    assert_same(rule, tensors(tmp_path / "hand"))
    assert not torch.equal(rule["model.head.table.weight"], other["model.head.table.weight"])


class ByOrder(toy_run.ToySource):
    """Items whose task follows from their number, so that batches of four and of eight hold the same."""

    def items(self, number: int) -> list[Row]:
        return [self._item(n) for n in range(number * self.rows, (number + 1) * self.rows)]

    def _item(self, n: int) -> Row:
        task = toy_run.TASKS[n % len(toy_run.TASKS)]
        content = toy_run.parts(generator("toy", self.seed, n))
        return toy_run.row(task, content, f"item{n}", Draw("toy", order=n), span=8 if n % 2 else None)


def test_passes_add_up_to_one_batch(tmp_path):
    # A larger epsilon: AdamW divides a gradient that is zero but for rounding by its own size.
    tuned = OptimizerConfig(rate=2**-7, eps=1e-6)
    two = config(tmp_path / "two", rows=8, optimizer=tuned, ema=0.5, log_every=1)
    whole = chz.replace(two.data, rows=8)
    one = config(tmp_path / "one", data=whole, optimizer=tuned, ema=0.5, log_every=1)
    assert (two.rows, two.passes, one.rows, one.passes) == (8, 2, 8, 1)
    # The passes weigh what they hold, so a mean of their means would be another loss.
    halves = [ByOrder(4).batch(n).masked.maskable for n in range(20)]
    wholes = [ByOrder(8).batch(n).masked.maskable for n in range(10)]
    assert wholes == [a + b for a, b in zip(halves[::2], halves[1::2], strict=True)]
    assert halves[::2] != halves[1::2]
    results = [train(c, ByOrder(c.data.rows), {}) for c in (two, one)]
    assert results[0].tokens == results[1].tokens == 10 * 8 * TOKENS
    rows = [record.read_metrics(tmp_path / name) for name in ("two", "one")]
    for a, b in zip(*rows, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4) and a["rates"] == b["rates"]
        assert a["losses"] == pytest.approx(b["losses"], rel=1e-4) and a["tokens"] == b["tokens"]
        assert (a["items"], a["filled"]) == (b["items"], b["filled"])
    a, b = tensors(tmp_path / "two"), tensors(tmp_path / "one")
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=1e-4, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("rows", [2, 6])
def test_rows_of_a_step_are_whole_passes(rows):
    with pytest.raises(UsageError, match=rf"batch\.rows={rows} .*data\.rows=4"):
        config(rows=rows)


def test_tokens_of_a_position_are_counted_where_tokens_end_the_run(tmp_path):
    """Half as many tokens as at the base are twice as many steps of a budget of tokens."""
    dense = chz.replace(BASE, tokens=2 * BASE.tokens)
    by_tokens = chz.replace(config(tmp_path / "run", bases=(dense,)), budget=Budget(tokens=10 * 4 * TOKENS))
    density = measured_density(by_tokens, toy_run.ToySource())
    assert density == pytest.approx(TOKENS / 64)
    assumed, counted = (resolve(by_tokens, Pace(density=d)).horizon for d in (None, density))
    assert assumed and counted and (assumed.steps, counted.steps) == (pytest.approx(5), pytest.approx(10))
    assert (counted.kappa, counted.tokens) == (pytest.approx(1.0), pytest.approx(10 * 4 * TOKENS))
    train(by_tokens, toy_run.ToySource(), {})
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["compute"]["density"] == density
    # One position is one position, whatever it holds: by steps nothing has to be known.
    assert resolve(config(bases=(dense,))).kappa == 1.0


def test_a_kappa_by_hand_is_cautioned_with_and_without_a_base_point():
    by_hand = PhysicalBatch(kappa=100.0)
    for changes in ({"bases": (BASE,)}, {"bases": (BASE,), "schedule": WarmupStableDecay()}, {}):
        made = resolve(toy_run.config("run", 10, batch=by_hand, **changes))
        assert [line.split("=")[0] for line in made.cautions] == ["kappa", "beta1^kappa "], changes
        assert all("choose batch.kappa from 0.0625 to 4" in line for line in made.cautions)
    text = "\n".join(describe(resolve(toy_run.config("run", 10, batch=by_hand, bases=(BASE,)))))
    assert "B_crit" in text and "100, by hand" in text


def test_budgets_of_tokens_steps_and_minutes_are_one_horizon():
    """Forty steps of eight rows in two passes: 40 8 23 tokens; forty times a step of 7 ms."""
    data = {"rows": 8, "bases": (BASE,)}
    minutes = 40 * 0.007 / 60
    by_steps = resolve(config(steps=40, **data)).horizon
    by_tokens = resolve(chz.replace(config(**data), budget=Budget(tokens=40 * 8 * TOKENS))).horizon
    by_minutes = resolve(chz.replace(config(**data), budget=Budget(minutes=minutes)), Pace(0.007, True)).horizon
    for h in (by_steps, by_tokens, by_minutes):
        assert h is not None
        assert (h.steps, h.tokens) == (pytest.approx(40), pytest.approx(40 * 8 * TOKENS))
        assert (h.batch_ratio, h.horizon_ratio) == (2.0, pytest.approx(8.0))
        assert h.kappa == pytest.approx(2 * 8**-0.44)
        assert h.critical_positions == pytest.approx(8 * 8 * 8 * 64 / 8)
    slower = resolve(chz.replace(config(**data), budget=Budget(minutes=minutes)), Pace(0.014, True)).horizon
    assert slower is not None and slower.steps == pytest.approx(20)


def test_a_schedule_without_a_base_point_is_an_error_that_lists_those_there_are():
    with pytest.raises(UsageError, match=r"schedule WarmupStableDecay; there are: Cosine, Other\. .*batch\.kappa=1"):
        config(schedule=WarmupStableDecay(), bases=(BASE, chz.replace(BASE, schedule="Other")))


def test_without_base_points_settings_stand_as_they_are():
    made = resolve(config(rows=64, steps=7, ema=0.9, schedule=WarmupStableDecay()))
    assert (made.horizon, made.base, made.kappa, made.ema, made.cautions) == (None, None, 1.0, 0.9, [])
    assert made.optimizer == made.config.optimizer
    minutes = chz.replace(made.config, budget=Budget(minutes=1.0))
    assert resolve(minutes).kappa == 1.0, "a time is measured that nothing needs"


STABLE = chz.replace(BASE, schedule="WarmupStableDecay", rate=0.5, gamma=0.3)


def test_a_schedule_has_a_base_point_and_a_rate_of_its_own():
    cosine = resolve(config(bases=(BASE, STABLE), steps=20, ema=0.9))
    stable = resolve(config(bases=(BASE, STABLE), steps=20, ema=0.9, schedule=WarmupStableDecay()))
    assert (cosine.base, stable.base) == (BASE, STABLE)
    assert (cosine.kappa, stable.kappa) == (pytest.approx(2**-0.44), pytest.approx(2**-0.3))
    for group in COMPLETEP:
        ratio = stable.setting(group).rate / cosine.setting(group).rate
        assert ratio == pytest.approx(0.5 * (2**-0.3 / 2**-0.44) ** 0.5)
    assert (cosine.ema, stable.ema) == (pytest.approx(0.9**2**-0.44), pytest.approx(0.9**2**-0.3))


def test_a_run_records_the_rates_it_resolved(tmp_path):
    """At another size, batch, horizon and schedule than the base's, with Muon: what is said is what is done."""
    model = chz.replace(toy_run.config("x").model, width=64, depth=3)
    tuned = OptimizerConfig(matrices="muon", depths=(1.0, 2.0), multipliers=Multipliers(mlp_in=3.0))
    made = config(
        tmp_path / "run", 3, 8, model=model, optimizer=tuned, bases=(STABLE,), schedule=WarmupStableDecay(), log_every=1
    )
    train(made, toy_run.ToySource(), {})
    resolved = resolve(made)
    m_B, m_D = 2.0, 3 * 8 / (10 * 4)
    assert resolved.kappa == pytest.approx(m_B * m_D**-0.3) and resolved.scale.m_L == 1.5
    # A matrix in the middle block under Muon: width 64 over 32, depth multiplier 1.5, alpha 1.
    expected = 0.5 * 2**-8 * 3.0 * 1.5 * 2**-0.5 * resolved.kappa
    assert resolved.setting("mlp_in", 1).rate == pytest.approx(expected)
    for row in record.read_metrics(tmp_path / "run"):
        rates = {name: rate / row["factor"] for name, rate in row["rates"].items()}
        assert rates == pytest.approx({s.name: s.rate for s in resolved.settings()})


TINY = chz.replace(BASE, rows=1, tokens=10 * TOKENS, gamma=0.5, critical_steps=50, source="a study")
"""Beside it ten steps of thirty-two rows leave the range in every way there is a caution for."""


def described(**changes) -> tuple[Resolved, str]:
    made = resolve(config(**changes))
    return made, "\n".join(describe(made))


def test_a_description_names_every_number_and_every_caution():
    model = chz.replace(toy_run.config("x").model, width=128, depth=6, alpha=0.75)
    made, text = described(model=model, bases=(TINY,), rows=32, ema=0.9)
    kappa = 32 * 32**-0.5
    said = {
        "m_N = 4,": "m_N",
        "m_L = 3 ": "m_L",
        f"kappa        {kappa:.4g} ": "kappa",
        "m_B = 32\n": "m_B",
        "m_D = 32\n": "m_D",
        "B_crit = 6.4 rows": "ten steps of 32 rows are fifty of 6.4",
        "S_crit = 50 ": "S_crit",
        "8 passes of 4": "passes",
        "a study": "where it was measured",
        f"{0.9**kappa:.6g} = 0.9^kappa": "average",
        "warm-up 5% of the budget, 0 steps": "warm-up",
        "settings     ": "where settings come from",
        "as at the base point": "tokens that were not counted",
        f"attention {3**-0.75:.4g}, MLP {3**-0.75:.4g}": "branches",
    }
    assert not [meaning for words, meaning in said.items() if words not in text], text
    assert len(made.cautions) == 3 and all(f"caution      {line}" in text for line in made.cautions)
    rows = {line.split()[0]: line for line in text.splitlines() if line and line.split()[0] in COMPLETEP}
    assert [*rows] == made.groups() == [*groups(Transformer(model))]
    for group, line in rows.items():
        s = made.setting(group)
        assert all(f"{x:.4g}" in line for x in (s.rate, s.beta1, s.beta2)) and f"{s.eps:.3g}" in line
        assert (f"{s.decay:.4g}" if COMPLETEP[group].decays else "none") in line


def test_a_description_multiplies_what_groups_and_blocks_have():
    tuned = OptimizerConfig(depths=(2.0, 1.0), multipliers=Multipliers(mlp_in=3.0))
    _, text = described(optimizer=tuned)
    columns = {line.split()[0]: line.split() for line in text.splitlines() if line.startswith(("mlp_in", "head"))}
    assert [columns[name][8] for name in ("mlp_in.0", "mlp_in.1", "head")] == ["5.25", "3.75", "1"]


def test_what_is_said_of_other_parametrizations_and_tied_weights():
    model = chz.replace(toy_run.config("x").model, width=64, parametrization="standard")
    _, text = described(model=model)
    assert "do not follow the size" in text and "m_N" not in text
    _, text = described(model=chz.replace(model, parametrization="completep", tied=True, head_std=0.1))
    assert f"logits       times {0.1 / 0.5 / 2:.4g}" in text


def test_a_run_far_longer_than_any_that_was_measured_says_so():
    base = chz.replace(BASE, gammas=(0.3, 0.6), longest=8.0)
    made, text = described(bases=(base,), steps=200)
    (line,) = made.cautions
    assert "20 times as long as the base, and gamma was measured up to 8" in line
    assert f"kappa is {20**-0.6:.3g} to {20**-0.3:.3g}" in line and line in text
    assert described(bases=(base,), steps=80)[0].cautions == []


def test_a_description_of_a_calm_run_has_no_caution():
    made, text = described(bases=(BASE,))
    assert made.cautions == [] and "caution" not in text and "kappa        1 " in text
    _, text = described()
    assert "no base point is stored" in text and "kappa" not in text


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("patch, stack", [(1, False), (2, False), (1, True)])
def test_groups_of_a_configuration_are_those_of_its_model(patch, stack, tied):
    vocabulary = Vocabulary(
        modalities=(
            Modality(name="image", grid="plane", codes=8, patch=patch),
            Modality(name="audio", grid="frames", codes=6, levels=2, stack=stack),
        )
    )
    model = ModelConfig(vocabulary=vocabulary, depth=3, width=32, head_dim=16, tied=tied)
    network = Transformer(model)
    tuned = OptimizerConfig(depths=(1.0, 2.0))
    made = resolve(chz.replace(config(), model=model, optimizer=tuned))
    assert made.groups() == [*groups(network)]
    stepped = Optimizer(made.optimizer, network, made.scale, made.kappa).param_groups
    assert {s.name for s in made.settings()} == {g["name"] for g in stepped}


class Ends(toy_run.ToySource):
    """Data that end after three batches."""

    def __iter__(self) -> Iterator[Batch]:
        for number in range(3):
            self.position += 1
            yield self.batch(number)


class Seconds:
    """A clock that moves a second when it is read."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_a_resumed_run_of_minutes_keeps_the_settings_of_its_start(tmp_path):
    """What a step took then decides them, however fast the machine is now."""
    run = tmp_path / "run"
    made = chz.replace(
        config(run, bases=(BASE,), schedule=Cosine(warmup=0.0), log_every=1),
        budget=Budget(minutes=0.25),
        checkpoints=toy_run.Checkpoints(every=1),
    )
    with pytest.raises(TrainingError, match="data ended at step 3"):
        train(made, Ends(), {}, clock=Seconds())
    kept = (run / "environment.json").read_text()
    step = json.loads(kept)["compute"]["step_seconds"]
    assert train(made, toy_run.ToySource(), {}, clock=Seconds()).complete
    assert (run / "environment.json").read_text() == kept
    rows, resolved = record.read_metrics(run), resolve(made, Pace(step, True))
    assert len(rows) > 4 and resolved.horizon is not None
    assert resolved.horizon.steps == pytest.approx(15 / step) and resolved.kappa != 1.0
    for row in rows:
        peaks = {name: rate / row["factor"] for name, rate in row["rates"].items()}
        assert peaks == pytest.approx({s.name: s.rate for s in resolved.settings()}, rel=1e-12)
    events = record.read_metrics(run, "event")
    assert [e["event"] for e in events] == ["resumed"]


def test_a_step_is_timed_only_where_a_time_decides(tmp_path):
    train(config(tmp_path / "run", 1), toy_run.ToySource(), {})
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["compute"]["step_seconds"] is None


def test_what_is_timed_is_whole_steps_and_leaves_the_source_where_it_was():
    source = toy_run.ToySource()
    next(iter(source))
    before = source.state()
    resolved = resolve(config(rows=8))
    started = time.perf_counter()
    seconds = measured_step(resolved, source, "fp32")
    # Five steps, a model and an optimizer.
    assert 0 < 4 * seconds < time.perf_counter() - started
    assert source.state() == before
