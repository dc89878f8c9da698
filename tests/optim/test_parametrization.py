"""The table of CompleteP against numbers worked out by hand, and real models against the table."""

from dataclasses import replace
from itertools import pairwise

import chz
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trimask.core.canvas import Query
from trimask.core.modality import Modality, Vocabulary
from trimask.model import accounting
from trimask.model.block import everywhere
from trimask.model.config import ModelConfig
from trimask.model.transformer import Transformer, slots
from trimask.optim.optimizer import Multipliers, Optimizer, OptimizerConfig, Scale, Setting, setting
from trimask.optim.parametrization import COMPLETEP, MATRICES, TABLES, at_depth, group_of, groups, rule_of

ALPHAS = (0.5, 0.75, 1.0)
UNIT = OptimizerConfig(rate=1.0, eps=1.0, decay=1.0)
"""Every setting at the base is 1, so that what comes out is the factor."""

# Factors of (variance at the start, rate, epsilon, decay) at 4 times the width and 3 times the depth, by alpha.
# 3^(alpha - 1) is 0.57735027, 0.75983569 and 1; 3^-alpha is 0.57735027, 0.43869134 and 0.33333333.
MATRIX = {
    0.5: (0.25, 0.14433757, 0.14433757, 4.0),
    0.75: (0.25, 0.18995892, 0.10967283, 4.0),
    1.0: (0.25, 0.25, 0.08333333, 4.0),
}
BLOCK_GAIN = {0.5: (1, 0.57735027, 0.14433757, 0), 0.75: (1, 0.75983569, 0.10967283, 0), 1.0: (1, 1, 0.08333333, 0)}
QK_GAIN = {0.5: (1, 0.57735027, 0.57735027, 0), 0.75: (1, 0.75983569, 0.43869134, 0), 1.0: (1, 1, 0.33333333, 0)}
TABLE = {
    "embedding": dict.fromkeys(ALPHAS, (1, 1, 0.25, 0)),
    "place": dict.fromkeys(ALPHAS, (0.25, 0.25, 0.25, 0)),
    "attention_in": MATRIX,
    "attention_out": MATRIX,
    "mlp_in": MATRIX,
    "mlp_out": MATRIX,
    "block_gain": BLOCK_GAIN,
    "qk_gain": QK_GAIN,
    "final_gain": dict.fromkeys(ALPHAS, (1, 1, 1, 0)),
    "level": dict.fromkeys(ALPHAS, (0.25, 0.25, 0.25, 4)),
    "head": dict.fromkeys(ALPHAS, (0.0625, 0.25, 1, 4)),
}
"""Group -> alpha -> factors; a decay of 0 is that of weights that do not decay."""
MUON_RATE = {0.5: 0.28867513, 0.75: 0.37991784, 1.0: 0.5}
"""4^-1/2 3^(alpha - 1)."""


def vocabulary(shared: bool = True, codes: tuple[int, int, int] = (1000, 256, 64), levels: int = 2) -> Vocabulary:
    """Text, pictures and sound; `shared` positions give places and levels a map of their own."""
    text, image, audio = codes
    return Vocabulary(
        modalities=(
            Modality(name="text", grid="line", codes=text),
            Modality(name="image", grid="plane", codes=image, patch=2 if shared else 1),
            Modality(name="audio", grid="frames", codes=audio, levels=levels, shared=True, stack=shared),
        )
    )


def model(**changes) -> Transformer:
    base = ModelConfig(vocabulary=vocabulary(), depth=2, width=64, head_dim=16, base_depth=2, base_width=64)
    return Transformer(chz.replace(base, **changes))


def factors(s: Setting, alpha: float, parametrization: str = "completep") -> tuple[float, ...]:
    init = rule_of(parametrization, s.group, s.kind).init
    return init(4.0, 3.0, alpha), s.rate, s.eps, s.decay


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("group", TABLE)
def test_the_table_of_completep(group, alpha):
    found = setting(UNIT, Scale("completep", 4.0, 3.0, alpha), 1.0, group)
    assert factors(found, alpha) == pytest.approx(TABLE[group][alpha], rel=1e-7)
    assert (found.kind, found.beta1, found.beta2) == ("adamw", 0.9, 0.95)
    assert COMPLETEP.keys() == TABLE.keys()


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("group", TABLE)
def test_muon_steps_the_matrices_of_blocks_with_the_root_of_the_width(group, alpha):
    muon = chz.replace(UNIT, matrices="muon")
    found = setting(muon, Scale("completep", 4.0, 3.0, alpha), 1.0, group)
    matrix = group in ("attention_in", "attention_out", "mlp_in", "mlp_out")
    expected = (0.25, MUON_RATE[alpha], 1.0, 2.0) if matrix else TABLE[group][alpha]
    assert factors(found, alpha) == pytest.approx(expected, rel=1e-7)
    assert (found.kind, found.momentum) == ("muon" if matrix else "adamw", 0.95)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("group", TABLE)
@given(m_N=st.floats(0.1, 50), m_L=st.floats(0.1, 50), alpha=st.floats(0.5, 1))
def test_mup_is_completep_at_the_base_depth(group, kind, m_N, m_L, alpha):
    mup, complete = rule_of("mup", group, kind), rule_of("completep", group, kind)
    for part in ("init", "rate", "eps", "decay"):
        assert getattr(mup, part)(m_N, m_L, alpha) == getattr(complete, part)(m_N, 1.0, alpha)
    assert mup.decays == complete.decays


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("group", TABLE)
def test_the_standard_parametrization_knows_the_fan_in_of_first_weights_alone(group, kind):
    base = chz.replace(UNIT, matrices=kind)
    found = setting(base, Scale("standard", 4.0, 3.0, 1.0), 1.0, group)
    decays = group in (*MATRICES, "level", "head")
    fan_in = group in (*MATRICES, "level", "place")
    assert factors(found, 1.0, "standard") == (0.25 if fan_in else 1.0, 1.0, 1.0, 1.0 if decays else 0.0)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("parametrization", TABLES)
@given(alpha=st.floats(0.5, 1))
def test_at_the_base_every_factor_is_exactly_one(parametrization, kind, alpha):
    tuned = OptimizerConfig(matrices=kind)
    for group in TABLE:
        rule = rule_of(parametrization, group, kind)
        assert (rule.init(1.0, 1.0, alpha), rule.decay(1.0, 1.0, alpha)) == (1.0, 1.0)
        s = setting(tuned, Scale(parametrization, 1.0, 1.0, alpha), 1.0, group)
        assert (s.rate, s.eps, s.beta1, s.beta2, s.momentum) == (2**-8, 1e-8, 0.9, 0.95, 0.95)
        assert s.decay == (0.1 if rule.decays else 0.0)


POWERS = {
    "1",
    "m_N^-2",
    "m_N^-1",
    "m_N^-0.5 m_L^(-1+alpha)",
    "m_N^-1 m_L^(-1+alpha)",
    "m_N^-1 m_L^(-alpha)",
    "m_L^(-1+alpha)",
    "m_L^(-alpha)",
    "m_N^-0.5",
    "m_N^0.5",
    "m_N^1",
}


@given(m_N=st.floats(0.1, 50), m_L=st.floats(0.1, 50), alpha=st.floats(0.5, 1))
def test_a_power_says_what_it_computes(m_N, m_L, alpha):
    rules = [
        rule_of(p, g, kind)
        for p in TABLES
        for kind in ("adamw", "muon")
        for g in (MATRICES if kind == "muon" else TABLE)
    ]
    powers = [power for r in rules for power in (r.init, r.rate, r.eps, r.decay)]
    assert {str(power) for power in powers} == POWERS
    for power in powers:
        formula = str(power).replace("^", "**").replace(" ", "*")
        said = eval(formula, {"m_N": m_N, "m_L": m_L, "alpha": alpha})
        assert power(m_N, m_L, alpha) == pytest.approx(said, rel=1e-12)


def stds(network: Transformer) -> dict[str, float]:
    """Standard deviation of each group's weights, all its tensors taken together; matrices are zero in the mean."""
    tables = {g: torch.cat([p.detach().flatten() for p in found.values()]) for g, found in groups(network).items()}
    return {g: float(values.square().mean().sqrt()) for g, values in tables.items()}


BASE_STD = {
    "embedding": 0.5,
    "place": 0.5 / 8,
    "attention_in": 0.5 / 8,
    "attention_out": 0.5 / 8,
    "mlp_in": 0.5 / 8,
    "mlp_out": 0.5 / 128**0.5,
    "block_gain": 1.0,
    "qk_gain": 1.0,
    "final_gain": 1.0,
    "level": 0.5 / 8,
    "head": 0.02,
}
"""At width 64 with an MLP twice as wide. A drawn group has at least 16384 weights: known to 0.6 %."""


@pytest.mark.parametrize("parametrization", TABLES)
@pytest.mark.parametrize("width", [64, 128, 256])
def test_first_weights_are_those_of_the_base_times_the_table(width, parametrization):
    network = model(width=width, depth=4, parametrization=parametrization)
    table = TABLES[parametrization]
    expected = {g: std * table[g].init(width / 64, 2.0, 1.0) ** 0.5 for g, std in BASE_STD.items()}
    assert stds(network) == pytest.approx(expected, rel=0.04)
    if parametrization == "completep":
        assert expected["head"] == pytest.approx(0.02 * 64 / width)
    assert all((p == 1).all() for g, found in groups(network).items() if "gain" in g for p in found.values())


@pytest.mark.parametrize("alpha, factor", [(0.5, 0.57735027), (0.75, 0.43869134), (1.0, 0.33333333)])
def test_branches_of_a_real_block_are_multiplied_by_the_depth_ratio(alpha, factor):
    """In a stack three times as deep as the base, in its numbers and in what a block computes."""
    settings = {"attention_branch": 1.5, "mlp_branch": 0.5, "alpha": alpha}
    generator = torch.Generator().manual_seed(0)
    x_BPD, reach = torch.randn(2, 5, 64, generator=generator), everywhere(torch.ones(2, 1, 5, 5, dtype=torch.bool))
    rope = (torch.ones(2, 5, 1, 8), torch.zeros(2, 5, 1, 8))
    for block in model(depth=6, **settings).blocks:
        scales = (block.attention_scale, block.mlp_scale)
        assert scales == pytest.approx((1.5 * factor, 0.5 * factor), rel=1e-7)
        middle = x_BPD + 1.5 * factor * block.attention(block.attention_norm(x_BPD), rope, reach)
        after = middle + 0.5 * factor * block.mlp(block.mlp_norm(middle))
        torch.testing.assert_close(block(x_BPD, rope, reach), after)
    assert all((b.attention_scale, b.mlp_scale) == (1.5, 0.5) for b in model(**settings).blocks)
    for name in ("mup", "standard"):
        assert all(b.attention_scale == 1.5 for b in model(depth=6, parametrization=name, **settings).blocks)


@pytest.mark.parametrize("width", [64, 256])
def test_tied_logits_are_scaled_products_with_the_embeddings(width):
    network = model(width=width, tied=True)
    assert not any(name.startswith("head.table") for name, _ in network.named_parameters())
    assert "head" not in groups(network)
    scale = network.config.logit_scale
    assert scale == 0.02 / 0.5 / (width / 64) and model(width=width).config.logit_scale == 1.0
    v, generator = network.vocabulary, torch.Generator().manual_seed(0)
    canvas = accounting._blank(2, 12, 12)
    canvas = replace(
        canvas, ids_BL=torch.randint(v.mask, (2, 12), generator=generator), slot_BL=canvas.slot_BL + torch.arange(12)
    )
    asked = [Query(a, torch.randint(24, (4,), generator=generator), 4) for a in range(len(v.alphabets))]
    with torch.no_grad():
        x_ND = network.hidden(canvas).flatten(0, 1)[slots(canvas)]
        table_VD = network.embedding.token()
        logits, joint = network(canvas, asked), network(canvas, asked, joint=True)
        for q, own, whole in zip(asked, logits, joint, strict=True):
            hidden = network.head.hidden(x_ND[q.index_N], q.alphabet)
            expected = scale * hidden @ table_VD.T
            torch.testing.assert_close(whole, expected)
            torch.testing.assert_close(own, expected[:, torch.from_numpy(v.alphabets[q.alphabet].ids)])
    # What multiplies the final vector is as large as the weights of a head of its own.
    assert scale * float(table_VD.std()) == pytest.approx(stds(model(width=width))["head"], rel=0.04)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_parameters_are_counted_with_tied_embeddings(shared, tied):
    network = model(vocabulary=vocabulary(shared), tied=tied)
    counted, whole = accounting.parameters(network.config), sum(p.numel() for p in network.parameters())
    assert counted.total == whole
    untied = accounting.parameters(chz.replace(network.config, tied=False))
    assert untied.total - counted.total == (network.vocabulary.size * 64 if tied else 0)


@pytest.mark.parametrize("shared", [False, True])
def test_groups_of_the_model_of_3b_leave_nothing_out(shared):
    v = vocabulary(shared, codes=(100_000, 16_384, 1024), levels=8)
    with torch.device("meta"):
        network = Transformer(ModelConfig(vocabulary=v, depth=24, width=3072, head_dim=128))
    found = groups(network)
    names = [name for members in found.values() for name in members]
    assert sorted(names) == sorted(name for name, _ in network.named_parameters())
    square, table = 3072**2, 3072 * v.size
    maps = {"place": 4 * square, "level": 12 * square} if shared else {}
    alphabets = (1 + 4 + 8 if shared else 1 + 1 + 8) + 1
    assert {g: sum(p.numel() for p in members.values()) for g, members in found.items()} == maps | {
        "embedding": table + 3072 * (alphabets + 6),
        "attention_in": 24 * 3 * square,
        "attention_out": 24 * square,
        "mlp_in": 24 * 4 * square,
        "mlp_out": 24 * 2 * square,
        "block_gain": 24 * 2 * 3072,
        "qk_gain": 24 * 2 * 128,
        "final_gain": 3072,
        "head": table,
    }
    assert 2.9e9 < sum(p.numel() for p in network.parameters()) < 3.2e9
    assert [*found] == [g for g in TABLE if g in found], "not in the order of a forward pass"


@pytest.mark.parametrize(
    "name",
    ["blocks.0.attention.qkv.bias", "blocks.1.conv.weight", "head.bias", "head.scale", "timing.text.rate", "weight"],
)
def test_a_parameter_without_a_group_is_an_error(name):
    with pytest.raises(AssertionError, match=f"no parameter group covers {name}"):
        group_of(name)


MULTIPLIER = st.floats(0.01, 100)
DEPTH = st.integers(1, 64)


def over(points: tuple[float, ...], depth: int) -> list[float]:
    return [at_depth(points, block, depth) for block in range(depth)]


@given(value=MULTIPLIER, count=st.integers(1, 7), depth=DEPTH)
def test_equal_points_give_the_same_at_every_depth(value, count, depth):
    assert over((value,) * count, depth) == [value] * depth


@given(points=st.lists(MULTIPLIER, min_size=2, max_size=7), depth=DEPTH)
def test_ordered_points_give_ordered_multipliers_within_their_range(points, depth):
    ordered = tuple(sorted(points))
    found = over(ordered, depth)
    assert all(a <= b * (1 + 1e-12) for a, b in pairwise(found))
    assert all(ordered[0] <= x <= ordered[-1] * (1 + 1e-12) for x in found)
    assert over(ordered[::-1], depth) == pytest.approx(found[::-1], rel=1e-9)


@given(ends=st.tuples(MULTIPLIER, MULTIPLIER), count=st.integers(2, 7), depth=DEPTH)
def test_points_on_a_line_have_the_same_mean_over_a_stack_of_any_depth(ends, count, depth):
    first, last = ends
    points = tuple(first + (last - first) * i / (count - 1) for i in range(count))
    found = over(points, depth)
    assert sum(found) / depth == pytest.approx((first + last) / 2, rel=1e-9)
    assert found == pytest.approx([first + (last - first) * (b + 0.5) / depth for b in range(depth)], rel=1e-9)


def test_known_multipliers_of_depth():
    assert over((), 3) == [1.0] * 3 and at_depth((3.0, 5.0), None, 4) == 1.0
    assert over((1.0, 3.0), 4) == [1.25, 1.75, 2.25, 2.75]
    assert over((1.0, 5.0, 2.0), 3) == pytest.approx([1 + 4 / 3, 5.0, 3.0])
    assert over((7.0,), 2) == [7.0, 7.0]


def members(network: Transformer, optimizer: Optimizer) -> dict[str, set[str]]:
    """Names of parameters by torch group."""
    names: dict[Tensor, str] = {p: n for n, p in network.named_parameters()}
    return {g["name"]: {names[p] for p in g["params"]} for g in optimizer.param_groups}


@pytest.mark.parametrize("matrices", ["adamw", "muon"])
def test_multipliers_by_depth_make_groups_with_their_own_peaks(matrices):
    network = model()
    config = OptimizerConfig(
        rate=0.5, matrices=matrices, depths=(1.0, 3.0), multipliers=Multipliers(mlp_in=2.0, qk_gain=4.0, head=8.0)
    )
    optimizer = Optimizer(config, network, Scale(blocks=2))
    peaks = {g["name"]: g["peak"] for g in optimizer.param_groups}
    own = {"mlp_in": 2.0, "qk_gain": 4.0}
    inside = (*MATRICES, "block_gain", "qk_gain")
    expected = {f"{g}.{b}": 0.5 * own.get(g, 1.0) * m for g in inside for b, m in enumerate((1.5, 2.5))}
    expected |= {"embedding": 0.5, "place": 0.5, "final_gain": 0.5, "level": 0.5, "head": 4.0}
    assert peaks == pytest.approx(expected)
    found = members(network, optimizer)
    assert found["mlp_in.1"] == {"blocks.1.mlp.gate_up.weight"}
    assert found["block_gain.0"] == {"blocks.0.attention_norm.weight", "blocks.0.mlp_norm.weight"}
    assert sum(map(len, found.values())) == len([*network.parameters()])
    assert sum(map(len, found.values())) == len(set().union(*found.values()))


@pytest.mark.parametrize("matrices", ["adamw", "muon"])
def test_torch_gets_the_settings_of_every_group(matrices):
    network, config = model(width=256, depth=6), OptimizerConfig(matrices=matrices)
    scale, kappa = Scale("completep", 4.0, 3.0, 0.75, 6), 2.0
    optimizer = Optimizer(config, network, scale, kappa)
    assert members(network, optimizer) == {g: set(found) for g, found in groups(network).items()}
    for part in optimizer.param_groups:
        s = setting(config, scale, kappa, part["name"])
        assert (part["peak"], part["lr"], part["weight_decay"]) == (s.rate, s.rate, s.decay)
        if s.kind == "muon":
            assert part["momentum"] == s.momentum
        else:
            assert (part["betas"], part["eps"]) == ((s.beta1, s.beta2), s.eps)
