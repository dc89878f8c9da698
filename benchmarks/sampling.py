"""Speed of sampling: what a step costs, and how much of it is not the model.

    python benchmarks/sampling.py                     # a small model on one thread, seconds
    python benchmarks/sampling.py --shape pilot       # a vocabulary of 100,000, minutes

A batch of targets, all masked, is filled from random weights: the arithmetic is that of a trained model. Every order is
run once a round, in turn, so that a drift of the machine hits all of them. `own` is the time of a step outside of the
model's forward pass, as a share of the step; times are those of the process (all threads), medians over rounds with the
lowest and highest. Orders that do not depend on the model (random) are scored only where a token is revealed.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trimask.core.canvas import Canvas, Composer, Query, Row, Segment
from trimask.core.modality import Modality, Vocabulary
from trimask.diffusion.samplers import Confidence, EntropyBounded, RandomOrder, Sampler
from trimask.diffusion.sampling import Engine, steps
from trimask.diffusion.settings import Settings
from trimask.model.config import ModelConfig
from trimask.model.transformer import Transformer


@dataclass(frozen=True)
class Shape:
    """A model, and `rows` rows of `tokens` masked tokens that are filled in `steps` steps."""

    depth: int
    width: int
    head_dim: int
    codes: tuple[int, ...]
    """Of text, of pictures, of each of four levels of sound."""
    rows: int
    tokens: int
    steps: int


SHAPES: Mapping[str, Shape] = {
    "small": Shape(depth=4, width=192, head_dim=64, codes=(4096,), rows=4, tokens=128, steps=16),
    "nano": Shape(depth=6, width=256, head_dim=64, codes=(4096, 2048, 512), rows=4, tokens=128, steps=16),
    "pilot": Shape(depth=8, width=1024, head_dim=128, codes=(75_000, 16_384, 2048), rows=4, tokens=128, steps=16),
}


def model_of(shape: Shape) -> Transformer:
    """A network of random weights."""
    codes = [*shape.codes, 1, 1]
    rows = (
        Modality(name="text", grid="line", codes=codes[0]),
        Modality(name="image", grid="plane", codes=codes[1]),
        Modality(name="audio", grid="frames", codes=codes[2], levels=4),
    )
    vocabulary = Vocabulary(modalities=rows[: len(shape.codes)])
    config = ModelConfig(
        vocabulary=vocabulary, depth=shape.depth, width=shape.width, head_dim=shape.head_dim, base_width=shape.width,
        base_depth=shape.depth, head_std=0.1,
    )  # fmt: skip
    return Transformer(config).eval()


def orders(count: int) -> dict[str, tuple[Sampler, float]]:
    """Name -> sampler and guidance, all of as many steps but the adaptive one."""
    return {
        "random": (RandomOrder(steps=count), 0.0),
        "random, guided": (RandomOrder(steps=count), 2.0),
        "confidence": (Confidence(steps=count, gumbel=1.0), 0.0),
        "entropy": (Confidence(steps=count, by="entropy"), 0.0),
        "entropy-bounded": (EntropyBounded(bound=8.0), 0.0),
    }


class Timed:
    """A denoiser that adds up its own time and counts its calls."""

    def __init__(self, model: Transformer):
        self.model, self.seconds, self.calls = model, 0.0, 0

    def __call__(self, canvas: Canvas, asked: Sequence[Query]) -> list[Tensor]:
        started = time.process_time()
        out = self.model(canvas, asked)
        self.seconds += time.process_time() - started
        self.calls += 1
        return out


def blank(vocabulary: Vocabulary, shape: Shape) -> Canvas:
    """Lines whose tokens are masked and whose end is known."""
    hidden = np.arange(shape.tokens + 1) < shape.tokens
    line = Segment("text", np.zeros(shape.tokens, np.int32), target=True, hidden=hidden)
    return Composer(vocabulary, shape.tokens + 8).compose([[Row((line,), str(i))] for i in range(shape.rows)])


def measure(shape: Shape, rounds: int, compiled: bool = False) -> dict[str, dict]:
    """Order -> milliseconds of a step, the share outside of the model, passes and tokens a second."""
    model = model_of(shape)
    timed = Timed(model.compiled(dynamic=True) if compiled else model)
    vocabulary = timed.model.vocabulary
    canvas, engine = blank(vocabulary, shape), Engine(timed, vocabulary)
    no_ends_BL = torch.zeros_like(canvas.maskable_BL)
    found: dict[str, list[tuple[float, float, int]]] = {}
    for turn in range(rounds + 1):
        for name, (sampler, guidance) in orders(shape.steps).items():
            timed.seconds, timed.calls = 0.0, 0
            started = time.process_time()
            settings = {"text": Settings(sampler, guidance=guidance)}
            with timed.model.frozen():
                for _ in steps(engine, canvas, settings, turn, ends_BL=no_ends_BL):
                    pass
            whole = time.process_time() - started
            if turn:  # the first is a warm-up
                found.setdefault(name, []).append((whole, whole - timed.seconds, timed.calls))
    out = {}
    for name, runs in found.items():
        shares = [own / whole for whole, own, _ in runs]
        out[name] = {
            "passes": statistics.median(calls for _, _, calls in runs),
            "ms_a_step": 1000 * statistics.median(whole / calls for whole, _, calls in runs),
            "own": [min(shares), statistics.median(shares), max(shares)],
            "tokens_per_s": statistics.median(shape.rows * shape.tokens / whole for whole, _, _ in runs),
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of sampling.")
    parser.add_argument("--shape", choices=[*SHAPES], default="small")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="with torch.compile")
    parser.add_argument("-o", "--out", type=Path, help="also write the figures as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = measure(SHAPES[options.shape], options.rounds, options.compile)
    how = "compiled" if options.compile else "eager"
    print(f"{SHAPES[options.shape]}, fp32, {how}, {options.threads} thread(s), {options.rounds} rounds")
    print(f"{'order':16} {'passes':>6} {'ms a step':>9} {'tokens/s':>9}   own share (lowest, median, highest)")
    for name, row in found.items():
        low, middle, high = row["own"]
        print(
            f"{name:16} {row['passes']:6.0f} {row['ms_a_step']:9.1f} {row['tokens_per_s']:9.0f}   "
            f"{low:.0%} {middle:.0%} {high:.0%}"
        )
    if options.out:
        options.out.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
