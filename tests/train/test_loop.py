"""The loop: determinism, what it records, when it stops, and where it starts from."""

import io
import json
import math
import subprocess
from pathlib import Path

import chz
import numpy as np
import pytest
import torch
import toy_run
from rich.console import Console
from safetensors.torch import load_file

import trimask
from trimask.core.canvas import Composer, queries
from trimask.core.compute import DTYPES
from trimask.core.errors import ArtifactError, TrainingError, UsageError
from trimask.core.modality import Modality, Vocabulary
from trimask.diffusion.forward import corrupt
from trimask.hub.bundle import load_bundle, save_bundle
from trimask.model.config import ModelConfig
from trimask.model.transformer import Transformer, run_block
from trimask.optim.optimizer import OptimizerConfig
from trimask.optim.parametrization import COMPLETEP
from trimask.tokenizers.text import TextTokenizer
from trimask.train import checkpoint, device, record, validation
from trimask.train.config import Budget, Validation
from trimask.train.dryrun import dry_run, plot
from trimask.train.hooks import Hook, Moment
from trimask.train.loop import train
from trimask.train.progress import display
from trimask.train.statistics import SPIKE_STEPS, Window, is_spike
from trimask.train.step import evaluate, load_batch


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.found(run / "checkpoints")[0] / "model.safetensors")


def same(one: Path, two: Path) -> bool:
    a, b = weights(one), weights(two)
    return all(torch.equal(a[k], b[k]) for k in a)


@chz.chz
class Noted(Hook):
    """Records what it sees."""

    def __call__(self, moment: Moment) -> None:
        total = float(sum(p.double().sum() for p in moment.model.parameters()))
        moment.record("noted", {"tokens": moment.tokens, "sum": total, "gradients": torch.is_grad_enabled()})


def test_a_seed_decides_the_weights(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        toy_run.run(tmp_path / name, 6, seed=seed)
    assert same(tmp_path / "a", tmp_path / "b") and not same(tmp_path / "a", tmp_path / "c")


def test_bfloat16_compute_is_repeatable_with_float32_weights(tmp_path):
    for name in ("a", "b"):
        toy_run.run(tmp_path / name, 6, dtype="bf16")
    assert same(tmp_path / "a", tmp_path / "b")
    assert {v.dtype for v in weights(tmp_path / "a").values()} == {torch.float32}


def test_rows_of_metrics(tmp_path):
    toy_run.run(tmp_path / "run", 10, log_every=5)
    first, second = record.read_metrics(tmp_path / "run")
    assert (first["step"], second["step"], second["progress"]) == (5, 10, 1.0)
    assert second["tokens"] == 2 * first["tokens"] == 10 * 4 * 23
    assert set(first["losses"]) == {"text", "image", "audio"}
    assert all(len(levels) == 8 for levels in first["cross_entropy"].values())
    groups = {*COMPLETEP, "total"}
    assert set(first["gradient_norms"]) == groups and all(v > 0 for v in first["gradient_norms"].values())
    assert 0 < first["matmul_share"] < 1 and first["flops_per_second"] > 0 and first["epochs"]["toy"] == 0.04
    # Learning rate of step 10: the middle of the last tenth of a cosine that began at 5 %.
    expected = 2**-7 * 0.5 * (1 + math.cos(math.pi * 0.9 / 0.95))
    assert second["rates"]["head"] == second["rates"]["mlp_in"] == 2**-7 * second["factor"] == pytest.approx(expected)
    environment = record.read_json(tmp_path / "run" / "environment.json")
    assert {"source", "packages", "threads", "compute", "command"} <= set(environment)


def test_a_row_sums_up_its_steps():
    """Loss, losses by modality and noise levels, against sums made here."""
    source, model = toy_run.ToySource(rows=12), Transformer(toy_run.config("x").model)
    window, rows = Window(toy_run.VOCABULARY), []
    ce, counts, weighted, maskable = np.zeros((3, 8)), np.zeros((3, 8)), np.zeros(3), np.zeros(3)
    for n in range(4):
        batch = source.batch(n)
        outcome = evaluate(model, batch.masked)
        rows.append(float(outcome.loss.detach()))
        window.add(batch, outcome)
        window.add_step(rows[-1], {"total": 2.0}, 1.0, sum(batch.tokens.values()), 7)
        for t in outcome.terms:
            m = toy_run.VOCABULARY.alphabets[t.alphabet].modality
            for c, w, r in zip(t.ce_N.tolist(), t.weight_N.tolist(), t.rate_N.tolist(), strict=True):
                level = min(int(8 * r), 7)
                ce[m, level], counts[m, level], weighted[m] = (
                    ce[m, level] + c,
                    counts[m, level] + 1,
                    weighted[m] + c * w,
                )
        canvas = batch.masked.canvas
        for a in canvas.alphabet_BL[canvas.maskable_BL].tolist():
            maskable[toy_run.VOCABULARY.alphabets[a].modality] += 1
    window.seconds, window.flops = 2.0, 10**9
    restored = Window(toy_run.VOCABULARY)
    restored.restore(window.state())
    row = restored.row(1e9)
    assert row == window.row(1e9)
    assert row["loss"] == pytest.approx(np.mean(rows)) and row["clipped"] == 1.0 and row["matmul_share"] == 0.5
    for m, name in enumerate(("text", "image", "audio")):
        assert row["losses"][name] == pytest.approx(weighted[m] / maskable[m], rel=1e-5)
        for got, total, count in zip(row["cross_entropy"][name], ce[m], counts[m], strict=True):
            assert got is None if count == 0 else got == pytest.approx(total / count, rel=1e-5)


def test_hooks_see_averaged_weights_without_gradients_and_leave_no_trace(tmp_path):
    toy_run.run(tmp_path / "plain", 9, ema=0.9)
    toy_run.run(tmp_path / "hooked", 9, ema=0.9, hooks=(Noted(every=4),))
    assert same(tmp_path / "plain", tmp_path / "hooked")
    rows = record.read_metrics(tmp_path / "hooked", "noted")
    assert [r["step"] for r in rows] == [4, 8, 9] and not any(r["gradients"] for r in rows)
    total = sum(v.double().sum() for k, v in weights(tmp_path / "hooked").items() if not k.startswith("timing."))
    assert rows[-1]["sum"] == pytest.approx(float(total))


def test_validation_is_the_bound_on_fixed_batches(tmp_path):
    config = toy_run.config(tmp_path / "run", 40)
    config = chz.replace(config, validation=Validation(data=config.data, every=20, batches=6), log_every=20)
    result = train(config, toy_run.ToySource(), {}, toy_run.ToySource(rows=12, seed=7))
    first, last = (r["bounds"] for r in record.read_metrics(tmp_path / "run", "validation"))
    assert result.validation == last and set(last) == {"text", "image", "audio"}
    for name, codes in (("text", 12), ("image", 8), ("audio", 6)):
        # An untrained model is near the logarithm of the alphabet's size; training gets below.
        assert last[name]["nats"] < first[name]["nats"] < math.log(codes + 2) + 3 * first[name]["error"]
        assert 0 < last[name]["error"] < 0.5 * last[name]["nats"] and last[name]["tokens"] >= 96


def test_validation_without_a_cadence_or_of_paired_masks_is_refused():
    data = toy_run.config("x").data
    with pytest.raises(UsageError, match="must be positive"):
        Validation(data=data, every=0)
    with pytest.raises(UsageError, match="anti_masking"):
        Validation(data=chz.replace(data, anti_masking=True))


def test_evaluation_sees_the_blocks_uncompiled_and_training_gets_them_back():
    model = Transformer(toy_run.config("x").model).compiled()
    before = model.run_block
    with model.eager():
        assert model.run_block is run_block is not before
    assert model.run_block is before


def test_validation_weights_are_those_of_the_bound_whatever_training_uses():
    """elbo and the weights of the table do not enter."""
    changed = [
        chz.replace(m, elbo=False, weight=3.0, fill_weight=0.0, given_weight=2.0) for m in toy_run.VOCABULARY.modalities
    ]
    other = chz.replace(toy_run.VOCABULARY, modalities=tuple(changed))
    model = Transformer(toy_run.config("x").model)
    rows = [[r] for r in toy_run.ToySource(rows=12).items(0)]
    batch = toy_run.ToySource(rows=12).batch(0)
    canvas = Composer(other, toy_run.SLOTS).compose(rows)
    relabelled = chz.replace(model.config, vocabulary=other)
    twin = Transformer(relabelled)
    twin_batch = batch.__class__(corrupt(canvas, other, 0), {}, {}, {}, 1.0)
    with torch.no_grad():
        one = validation.bounds(model, [batch], torch.device("cpu"))
        two = validation.bounds(twin, [twin_batch], torch.device("cpu"))
    assert {k: v["nats"] for k, v in one.items()} == {k: v["nats"] for k, v in two.items()}


def test_a_loss_that_is_not_finite_stops_before_the_optimizer_moves(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(TrainingError, match=r"nothing was updated.*Lower optimizer\.rate") as caught:
        toy_run.run(run, 40, optimizer=OptimizerConfig(rate=1e30), checkpoints=toy_run.Checkpoints(every=1))
    failed = next((run / "failed").iterdir())
    assert str(failed) in str(caught.value)
    step = int(failed.name.removeprefix("step-"))
    assert checkpoint.verified(checkpoint.path(run / "checkpoints", step - 1))
    assert torch.isfinite(evaluate(Transformer(toy_run.config(run).model), load_batch(failed)).loss)
    note = record.read_json(failed / "batch.json")
    assert note["step"] == step and note["segments"][0]["key"].startswith("item")


def test_a_saved_batch_scores_as_it_did(tmp_path):
    from trimask.train.step import save_batch

    batch, model = toy_run.ToySource().batch(3), Transformer(toy_run.config("x").model)
    save_batch(tmp_path / "b", batch, {"step": 3})
    assert torch.equal(evaluate(model, load_batch(tmp_path / "b")).loss, evaluate(model, batch.masked).loss)
    with pytest.raises(ArtifactError, match="not a batch saved for inspection"):
        load_batch(tmp_path)


def test_a_spike_is_noted_and_training_goes_on(tmp_path):
    class Jumping(toy_run.ToySource):
        """Weighs one batch a thousandfold."""

        def batch(self, number):
            batch = super().batch(number)
            if number == SPIKE_STEPS + 5:
                batch.masked.weight_BL.mul_(1000)
            return batch

    result = toy_run.run(tmp_path / "run", SPIKE_STEPS + 10, source=Jumping(rows=6), checkpoints=toy_run.Checkpoints())
    assert result.complete
    events = record.read_metrics(tmp_path / "run", "event")
    assert [e["step"] for e in events if e["event"] == "spike"] == [SPIKE_STEPS + 6]
    assert load_batch(tmp_path / "run" / "spikes" / f"step-{SPIKE_STEPS + 6:08d}").maskable > 0


def test_the_spike_rule():
    quiet = [1.0 + 0.1 * (-1) ** i for i in range(SPIKE_STEPS)]
    deviation = np.std(quiet, ddof=1)
    assert is_spike(quiet, 1.0 + 6.1 * deviation) and not is_spike(quiet, 1.0 + 5.9 * deviation)
    assert not is_spike(quiet[1:], 100.0)


def test_dominating_stops_are_said_once():
    window = Window(toy_run.VOCABULARY)
    bad = {"stops": {"text": {"predicted": 0.9, "true": 0.2}, "audio": {"predicted": 0.9, "true": 0.8}}}
    assert window.newly_dominated(bad, 100) == []
    assert window.newly_dominated(bad, 300) == ["text"]
    assert window.newly_dominated(bad, 310) == []
    assert window.newly_dominated({"stops": {"text": {"predicted": 0.2, "true": 0.2}}}, 320) == []
    assert window.newly_dominated(bad, 330) == ["text"]


@pytest.mark.parametrize("budget, steps", [(Budget(steps=7), 7), (Budget(tokens=600), 7), (Budget(minutes=0.25), 15)])
def test_budgets(tmp_path, budget, steps):
    """A step has 92 tokens, and a second of a clock that moves when it is read."""

    class Clock:
        now = 0.0

        def __call__(self) -> float:
            self.now += 1.0
            return self.now

    config = chz.replace(toy_run.config(tmp_path / "run"), budget=budget, log_every=1)
    result = train(config, toy_run.ToySource(), {}, clock=Clock())
    assert (result.step, result.complete) == (steps, True)
    rows = record.read_metrics(tmp_path / "run")
    assert rows[-1]["progress"] >= 1 > rows[-2]["progress"]
    if budget.minutes:
        assert [r["factor"] for r in rows] == [
            pytest.approx(config.schedule.factor((r["seconds"] - 1) / 15), abs=0.2) for r in rows
        ]


def test_the_data_may_not_end_before_the_budget(tmp_path):
    class Short(toy_run.ToySource):
        def __iter__(self):
            yield self.batch(0)

    with pytest.raises(TrainingError, match="data ended at step 1"):
        toy_run.run(tmp_path / "run", 3, source=Short())


def test_a_batch_without_masks_moves_no_gradient(tmp_path):
    class Clean(toy_run.ToySource):
        def batch(self, number):
            batch = super().batch(number)
            if number != 1:
                return batch
            masked = batch.masked
            canvas = masked.canvas.with_ids(masked.clean_BL)
            none = queries(canvas, torch.zeros_like(canvas.maskable_BL), self.vocabulary, every=True)
            clean = type(masked)(canvas, masked.clean_BL, 0 * masked.weight_BL, masked.rate_BL, none)
            return type(batch)(clean, batch.tokens, batch.items, batch.epochs, batch.filled)

    assert toy_run.run(tmp_path / "run", 3, source=Clean()).complete


def test_a_run_names_the_code_that_made_it(tmp_path, monkeypatch):
    """The commit, and what has changed since."""
    package = tmp_path / "code" / "trimask"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("one = 1\n")
    git = ("git", "-C", str(package.parent), "-c", "user.name=a", "-c", "user.email=a@b")
    for words in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "first")):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    monkeypatch.setattr(trimask, "__file__", str(package / "__init__.py"))
    toy_run.run(tmp_path / "clean", 2)
    (package / "__init__.py").write_text("one = 2\n")
    toy_run.run(tmp_path / "changed", 2)
    for run in ("clean", "changed"):
        assert json.loads((tmp_path / run / "environment.json").read_text())["code"] == commit
    assert not (tmp_path / "clean" / "code.patch").exists()
    assert "+one = 2" in (tmp_path / "changed" / "code.patch").read_text()


def test_init_starts_from_the_weights_of_another_run(tmp_path):
    toy_run.run(tmp_path / "first", 6)
    toy_run.run(tmp_path / "second", 1, init=str(tmp_path / "first"), optimizer=OptimizerConfig(rate=1e-12, decay=0))
    a, b = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert all(torch.allclose(a[k], b[k], atol=1e-9) for k in a)


def test_init_refuses_weights_that_would_compute_something_else(tmp_path):
    turned = chz.replace(toy_run.config("x").model, rope_base=50.0)
    save_bundle(tmp_path / "turned", Transformer(turned), {})
    with pytest.raises(ArtifactError, match=r"rope base 50\.0, this run has 1000.*model\.rope_base=50\.0"):
        toy_run.run(tmp_path / "run", 2, init=str(tmp_path / "turned"))


def test_init_refuses_another_vocabulary_shape_or_tokenizer(tmp_path):
    other = Vocabulary(modalities=(Modality(name="text", grid="line", codes=256),))
    config = ModelConfig(vocabulary=other, depth=1, width=16, head_dim=16)
    save_bundle(tmp_path / "other", Transformer(config), {})
    here, there = checkpoint.layout(toy_run.VOCABULARY), checkpoint.layout(other)
    with pytest.raises(ArtifactError, match=rf"vocabulary {there[:12]}, this run has {here[:12]}"):
        toy_run.run(tmp_path / "run", 2, init=str(tmp_path / "other"))

    wide = chz.replace(toy_run.config("x").model, width=64)
    save_bundle(tmp_path / "wide", Transformer(wide), {})
    with pytest.raises(ArtifactError, match=r"another shape than model.*size mismatch"):
        toy_run.run(tmp_path / "run2", 2, init=str(tmp_path / "wide"))

    tokenizers = [TextTokenizer.train([text], 257, min_frequency=1) for text in ("aaaa bbbb", "cccc dddd")]
    vocabulary = Vocabulary(modalities=(tokenizers[0].modality,))
    model = Transformer(chz.replace(config, vocabulary=vocabulary))
    save_bundle(tmp_path / "text", model, {"text": tokenizers[0]})
    run = chz.replace(toy_run.config(tmp_path / "run3", 2, init=str(tmp_path / "text")), model=model.config)
    prints = [t.fingerprint[:12] for t in tokenizers]
    with pytest.raises(ArtifactError, match=f"text tokenizer {prints[0]}, this run uses {prints[1]}"):
        train(run, toy_run.ToySource(), {"text": tokenizers[1]})
    with pytest.raises(ArtifactError, match="no such folder"):
        toy_run.run(tmp_path / "run4", 2, init=str(tmp_path / "nothing"))


def test_loss_weights_and_schedules_do_not_make_another_vocabulary():
    rows = tuple(chz.replace(m, schedule="poly2", weight=2.0, buckets=()) for m in toy_run.VOCABULARY.modalities)
    assert checkpoint.layout(chz.replace(toy_run.VOCABULARY, modalities=rows)) == checkpoint.layout(toy_run.VOCABULARY)
    assert checkpoint.layout(chz.replace(toy_run.VOCABULARY, positions="flat")) != checkpoint.layout(toy_run.VOCABULARY)


def test_a_checkpoint_is_a_bundle_with_the_averaged_weights(tmp_path):
    toy_run.run(tmp_path / "run", 5, ema=0.5)
    folder = checkpoint.found(tmp_path / "run" / "checkpoints")[0]
    bundle = load_bundle(folder)
    trained = load_file(folder / "training.safetensors")
    assert torch.equal(bundle.model.head.table.weight, weights(tmp_path / "run")["head.table.weight"])
    assert not torch.equal(bundle.model.head.table.weight, trained["model.head.table.weight"])
    assert bundle.train["config"]["budget.steps"] == 5


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_durations_are_measured_at_the_start_kept_and_handed_on(tmp_path, ema):
    name, measured = "timing.text.duration", toy_run.ToySource().durations("text")
    toy_run.run(tmp_path / "run", 3, ema=ema)
    toy_run.run(tmp_path / "run", 3, ema=ema)
    assert weights(tmp_path / "run")[name].tolist() == measured.tolist()
    # The weights that another run starts from fit their own durations.
    other = toy_run.ToySource()
    other.durations = lambda modality: measured + 1
    toy_run.run(tmp_path / "next", 3, other, ema=ema, init=str(tmp_path / "run"))
    assert weights(tmp_path / "next")[name].tolist() == measured.tolist()


def test_a_device_that_is_not_there_is_a_usage_error(tmp_path):
    missing = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(UsageError, match=f"device '{missing}' is not there: this machine has"):
        toy_run.run(tmp_path / "run", 2, device=missing)


def test_choices_are_measured_and_explained():
    config = toy_run.config("x").model
    chosen = device.choose(("cpu", "auto", "auto"), config, 4, 64, lambda block: 10 * block)
    assert chosen.dtype in DTYPES and not chosen.compile and chosen.matmul_rate > 1e8
    assert "ms" in chosen.reasons[0] and "the run is short" in chosen.reasons[1] and "FLOP/s" in chosen.reasons[2]


def test_a_terminal_gets_a_bar_with_messages_above_it():
    out = io.StringIO()
    row = {"loss": 1.5, "losses": {"text": 1.5}, "tokens_per_second": 2e4, "flops_per_second": 3e9, "matmul_share": 0.4}
    with display(Console(file=out, force_terminal=True, width=160)) as show:
        show.say("a message")
        show.advance(0.5)
        show.row(7, 0.5, 10.0, row)
    assert "a message" in out.getvalue() and "step 7  loss 1.500 (text 1.500)" in out.getvalue()


def test_settings_of_torch_are_put_back(tmp_path):
    before = torch.get_deterministic_debug_mode()
    toy_run.run(tmp_path / "run", 1)
    assert torch.get_deterministic_debug_mode() == before


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path, capsys):
    config = chz.replace(toy_run.config(tmp_path / "run"), budget=Budget(tokens=100_000), ema=0.9)
    made = dry_run(config)
    text = capsys.readouterr().out
    total = sum(p.numel() for p in Transformer(config.model).parameters())
    assert made.parameters.total == total and made.steps == math.ceil(100_000 / 256)
    assert made.memory.average == made.memory.weights == 4 * total
    assert made.pace.seconds and made.seconds == pytest.approx(made.steps * made.pace.seconds)
    assert 0 < made.block_share < 2
    for word in ("model.depth = 2", "parameters", "FLOPs", "memory", "compute in fp32", "time", "learning rate"):
        assert word in text
    assert not (tmp_path / "run").exists()


def test_the_plot_shows_the_schedule():
    lines = plot(toy_run.config("x").schedule, 0.5).splitlines()
    assert lines[0].startswith(" 5.00e-01 |") and len({len(line.rstrip()) for line in lines[:8]}) > 3
