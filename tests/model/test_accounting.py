"""Accounting against the model itself, instantiated on the meta device or traced."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from trimask.core.modality import Modality, Vocabulary
from trimask.model import accounting
from trimask.model.config import ModelConfig
from trimask.model.transformer import Transformer


def vocabulary(stack: bool = False, codes: int = 300, digits: tuple[int, ...] = (), patch: int = 1) -> Vocabulary:
    return Vocabulary(
        modalities=(
            Modality(name="text", grid="line", codes=codes),
            Modality(name="image", grid="plane", codes=64, digits=digits, patch=patch),
            Modality(name="audio", grid="frames", codes=16, levels=4, stack=stack),
        )
    )


CONFIGS = {
    "nano": ModelConfig(vocabulary=vocabulary(codes=4096, digits=(4, 4, 4))),
    "deep": ModelConfig(vocabulary=vocabulary(), depth=9, width=96, head_dim=32, mlp_ratio=3.0),
    "stacked": ModelConfig(vocabulary=vocabulary(stack=True), depth=2, width=64, head_dim=32),
    "patched": ModelConfig(vocabulary=vocabulary(stack=True, patch=2), depth=2, width=64, head_dim=32),
    "paper 3B": ModelConfig(vocabulary=vocabulary(codes=100_000), depth=24, width=3072, head_dim=128),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_those_of_the_model(name):
    config = CONFIGS[name]
    with torch.device("meta"):
        model = Transformer(config)
    counted = accounting.parameters(config)
    assert counted.total == sum(p.numel() for p in model.parameters())
    assert counted.embedding == sum(p.numel() for p in model.embedding.parameters())
    assert counted.body == sum(p.numel() for p in model.blocks.parameters())
    assert counted.head == sum(p.numel() for p in model.head.parameters())


@pytest.mark.parametrize("name", ["deep", "stacked", "patched"])
def test_flops_are_those_of_torch_counter(name):
    config, rows, slots, tokens = CONFIGS[name], 2, 24, 24
    queried = {0: 10, 1: 3, 4: 8}
    model = Transformer(config)
    canvas, queries = accounting._blank(rows, slots, tokens), accounting._blank_queries(queried)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        logits = model(canvas, queries)
        forward = counter.get_total_flops()
        torch.stack([x.sum() for x in logits]).sum().backward()
    assert accounting.forward_flops(config, rows, slots, queried) == forward
    assert accounting.step_flops(config, rows, slots, queried) == counter.get_total_flops()


def test_memory_grows_with_what_it_should():
    config = CONFIGS["deep"]
    small = accounting.memory(config, 4, 64, 64, torch.float32)
    assert small.weights == 4 * accounting.parameters(config).total
    assert small.optimizer == 2 * small.weights and small.average == 0
    twice = accounting.memory(config, 8, 64, 64, torch.float32, average=True)
    assert twice.average == twice.weights
    assert 1.9 < twice.activations / small.activations <= 2.01
    half = accounting.memory(config, 4, 64, 64, torch.bfloat16)
    assert half.activations < small.activations


def test_saved_bytes_are_those_of_a_real_pass():
    config, queried = CONFIGS["stacked"], {0: 16, 3: 8}
    model = Transformer(config)
    kept = {}

    def keep(x):
        if not any(x.untyped_storage().data_ptr() == p.untyped_storage().data_ptr() for p in model.parameters()):
            kept[x.untyped_storage().data_ptr()] = (x, x.untyped_storage().nbytes())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        logits = model(accounting._blank(2, 16, 16), accounting._blank_queries(queried))
        [torch.nn.functional.cross_entropy(x, torch.zeros(len(x), dtype=torch.long)) for x in logits]
    real = sum(n for _, n in kept.values())
    assert accounting.saved_bytes(config, 2, 16, 16, queried, torch.float32) == pytest.approx(real, rel=0.02)
