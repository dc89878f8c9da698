"""Schedules, parameter groups, clipping and averages as laws."""

import math

import chz
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimask.core.errors import UsageError
from trimask.core.modality import Modality, Vocabulary
from trimask.model.config import ModelConfig
from trimask.model.transformer import Transformer
from trimask.optim import gradients
from trimask.optim.average import Average
from trimask.optim.optimizer import Optimizer, OptimizerConfig
from trimask.optim.parametrization import COMPLETEP, MATRICES, groups
from trimask.optim.schedules import Cosine, Schedule, WarmupStableDecay

SCHEDULES = [
    Cosine(warmup=0.1),
    Cosine(warmup=0.0, final=0.1),
    WarmupStableDecay(warmup=0.2, decay=0.3),
    WarmupStableDecay(decay=0.0),
]


def model(stack: bool = False) -> Transformer:
    rows = (
        Modality(name="text", grid="line", codes=20),
        Modality(name="audio", grid="frames", codes=5, levels=2, stack=stack),
    )
    return Transformer(ModelConfig(vocabulary=Vocabulary(modalities=rows), depth=2, width=32, head_dim=16))


def fill_gradients(network: Transformer, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in network.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@given(p=st.floats(-0.5, 1.5), q=st.floats(0, 1))
def test_a_schedule_stays_in_range_and_falls_after_its_warmup(schedule: Schedule, p: float, q: float):
    assert 0 <= schedule.factor(p) <= 1
    late, later = sorted((max(p, schedule.warmup), max(q, schedule.warmup)))
    assert schedule.factor(later) <= schedule.factor(late) + 1e-12


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_a_schedule_rises_linearly_to_one_and_ends_at_its_final_factor(schedule: Schedule):
    w = schedule.warmup
    assert schedule.factor(w) == pytest.approx(1.0)
    assert schedule.factor(0.25 * w) == pytest.approx(0.25 if w else 1.0)
    stays = isinstance(schedule, WarmupStableDecay) and schedule.decay == 0
    assert schedule.factor(1.0) == pytest.approx(1.0 if stays else schedule.final)


def test_known_values_of_schedules():
    assert Cosine(warmup=0.0).factor(0.5) == pytest.approx(0.5)
    assert Cosine(warmup=0.2, final=0.2).factor(0.6) == pytest.approx(0.6)
    stable = WarmupStableDecay(warmup=0.1, decay=0.4)
    assert stable.factor(0.6) == 1.0
    assert stable.factor(0.7) == pytest.approx(1 - math.sqrt(0.25))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Cosine(warmup=1.0),
        lambda: Cosine(final=2.0),
        lambda: WarmupStableDecay(warmup=0.5, decay=0.6),
        lambda: OptimizerConfig(rate=0.0),
        lambda: OptimizerConfig(clip=0.0),
        lambda: OptimizerConfig(beta2=1.0),
        lambda: OptimizerConfig(momentum=1.0),
        lambda: OptimizerConfig(matrices="sgd"),  # pyright: ignore[reportArgumentType]
        lambda: Average(model(), 1.0),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(UsageError):
        make()


@pytest.mark.parametrize("stack", [False, True])
def test_groups_cover_every_parameter_once_and_only_matrices_decay(stack):
    network = model(stack)
    found = groups(network)
    names = [n for members in found.values() for n in members]
    assert sorted(names) == sorted(n for n, _ in network.named_parameters())
    assert all((p.ndim == 1) == g.endswith("gain") for g, members in found.items() for p in members.values())
    optimizer = Optimizer(OptimizerConfig(decay=0.3), network)
    decays = {g["name"]: g["weight_decay"] for g in optimizer.param_groups}
    assert decays == {g: 0.3 if g in (*MATRICES, "head", "level") else 0.0 for g in found}


def test_a_step_is_adamw():
    """One step from zero moments: w (1 - rate decay) - rate g / (|g| + eps)."""
    network, config = model(), OptimizerConfig(rate=0.01, decay=0.1)
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    optimizer = Optimizer(config, network)
    fill_gradients(network)
    optimizer.set_factor(2.0)
    optimizer.step()
    for group, members in groups(network).items():
        decay = config.decay if COMPLETEP[group].decays else 0.0
        for n, p in members.items():
            g = p.grad
            expected = before[n] * (1 - 0.02 * decay) - 0.02 * g / (g.abs() + config.eps)
            torch.testing.assert_close(p.detach(), expected, rtol=1e-5, atol=1e-7)


def test_muon_moves_the_matrices_of_blocks_along_an_orthogonal_matrix():
    """From zero moments the update is rate 0.2 sqrt(max side) times nearly an orthogonal factor of the gradient."""
    network, config = model(), OptimizerConfig(matrices="muon", rate=0.01, decay=0.1)
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    optimizer = Optimizer(config, network)
    assert {g["name"] for g in optimizer.param_groups if "momentum" in g} == set(MATRICES)
    fill_gradients(network)
    optimizer.set_factor(2.0)
    optimizer.step()
    for group, members in groups(network).items():
        for n, p in members.items():
            g = p.grad
            if group in MATRICES:
                move = (before[n] * (1 - 0.02 * 0.1) - p.detach()) / (0.02 * 0.2 * max(p.shape) ** 0.5)
                u, _, v = torch.linalg.svd(g, full_matrices=False)
                # Newton-Schulz in bf16 leaves the singular values between about 0.5 and 1.3.
                values = torch.linalg.svdvals(move)
                assert values.min() > 0.4 and values.max() < 1.4
                assert (move * (u @ v)).sum() > 0.95 * move.norm() * (u @ v).norm()
            else:
                decay = 0.1 if COMPLETEP[group].decays else 0.0
                expected = before[n] * (1 - 0.02 * decay) - 0.02 * g / (g.abs() + config.eps)
                torch.testing.assert_close(p.detach(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("matrices", ["adamw", "muon"])
def test_saved_optimizer_goes_on_bit_for_bit(matrices):
    one, config = model(), OptimizerConfig(matrices=matrices)
    optimizer = Optimizer(config, one)
    for seed in range(3):
        fill_gradients(one, seed)
        optimizer.step()
    two = model()
    two.load_state_dict(one.state_dict())
    other = Optimizer(config, two)
    other.restore({k: v.clone() for k, v in optimizer.tensors().items()})
    for network, o in ((one, optimizer), (two, other)):
        fill_gradients(network, 9)
        o.step()
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))


def test_a_parameter_that_never_had_a_gradient_is_not_saved_and_not_moved():
    network = model(stack=True)
    optimizer = Optimizer(OptimizerConfig(), network)
    fill_gradients(network)
    absent = network.head.level["1"].weight
    absent.grad, before = None, absent.detach().clone()
    optimizer.step()
    assert torch.equal(absent, before)
    assert not any("level.1" in k for k in optimizer.tensors())


def test_norms_and_clipping():
    network = model()
    fill_gradients(network)
    found = groups(network)
    parts = gradients.norms(found)
    whole = torch.cat([p.grad.flatten() for p in network.parameters()]).norm()
    norm = gradients.total(parts)
    torch.testing.assert_close(norm, whole)
    direction = network.head.table.weight.grad / norm
    gradients.clip(network.parameters(), norm, 0.5)
    after = gradients.total(gradients.norms(found))
    assert float(after) == pytest.approx(0.5, rel=1e-4)
    torch.testing.assert_close(network.head.table.weight.grad, 0.5 * direction, rtol=1e-4, atol=1e-8)
    kept = network.head.table.weight.grad.clone()
    gradients.clip(network.parameters(), after, 1.0)
    assert torch.equal(network.head.table.weight.grad, kept)
    network.zero_grad(set_to_none=True)
    assert float(gradients.total(gradients.norms(found))) == 0.0


def test_average_of_constant_weights_is_the_weights_and_swapping_is_exact():
    network = model()
    average = Average(network, 0.9)
    average.update(1)
    assert all(torch.equal(average.weights[n], p) for n, p in network.named_parameters())
    with torch.no_grad():
        for p in network.parameters():
            p.add_(1.0)
    trained = {n: p.detach().clone() for n, p in network.named_parameters()}
    average.update(2)
    moved = {n: v.clone() for n, v in average.weights.items()}
    # decay after step 2 is min(0.9, 3/12): three quarters of the way to the new weights.
    assert float((moved["head.table.weight"] - trained["head.table.weight"]).mean()) == pytest.approx(-0.25, abs=1e-6)
    with average.applied():
        assert all(torch.equal(moved[n], p) for n, p in network.named_parameters())
    assert all(torch.equal(trained[n], p) for n, p in network.named_parameters())
    assert all(torch.equal(moved[n], v) for n, v in average.weights.items())


def test_schedules_are_chosen_by_name():
    @chz.chz
    class Holder:
        schedule: Schedule = chz.field(
            default_factory=Cosine, meta_factory=chz.factories.subclass(Schedule, default_cls=Cosine)
        )

    made = chz.Blueprint(Holder).make_from_argv(["schedule=WarmupStableDecay", "schedule.decay=0.5"])
    assert made.schedule == WarmupStableDecay(decay=0.5)
