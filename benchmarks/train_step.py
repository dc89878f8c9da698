"""Speed of a training step: our choices switched off one at a time, in pairs, in one run.

    python benchmarks/train_step.py                      # nano and the pilot's shapes, about 15 minutes
    python benchmarks/train_step.py --shape nano --rounds 9

A step is forward, loss and backward over a batch of packed rows in which half of the target tokens
are masked, then the recipe's optimizer (nano only: the pilot's costs memory traffic, not arithmetic).
Rows of the table: the base setting (restricted head, packed rows, bf16, eager), then the same with
one choice changed. Each round times every setting once, in turn, so that a drift of the machine hits
all of them; a ratio is the median over rounds of (setting / base), with its lowest and highest.

`share` is the achieved rate over the machine's bf16 matmul rate, both measured in this run; FLOPs are
those of `trimask.model.accounting`: matrix products and attention, forward and backward.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import trimask
from trimask.core.canvas import Composer, Row, Segment, queries
from trimask.core.modality import Modality, Vocabulary
from trimask.data.stream import pack
from trimask.diffusion.forward import Masked
from trimask.diffusion.objective import loss, restrict, terms
from trimask.model.accounting import parameters, step_flops
from trimask.model.config import ModelConfig
from trimask.model.transformer import Transformer, run_block
from trimask.optim.optimizer import Optimizer, OptimizerConfig
from trimask.recipes import configure
from trimask.train.device import matmul_rate, name

MASKED_SHARE = 0.5


@dataclass(frozen=True)
class Shape:
    """A model and a batch: `rows` rows of `slots` positions."""

    model: ModelConfig
    rows: int
    slots: int
    tokens: int
    optimizer: OptimizerConfig | None


def nano() -> Shape:
    """That of the recipe, with the tokenizers that ship."""
    shipped = Path(trimask.__file__).parent / "models" / "nano" / "tokenizers"
    folders = ",".join(str(shipped / part) for part in ("text", "image", "audio"))
    recipe = configure("nano", [f"tokenizers={folders}"])
    data = recipe.data
    return Shape(recipe.model, data.rows, data.slots, data.tokens or data.slots, recipe.optimizer)


def pilot() -> Shape:
    vocabulary = Vocabulary(
        modalities=(
            Modality(name="text", grid="line", codes=100_000),
            Modality(name="image", grid="plane", codes=16_384),
            Modality(name="audio", grid="frames", codes=1024, levels=8, shared=True),
        )
    )
    model = ModelConfig(vocabulary=vocabulary, depth=8, width=1024, head_dim=128, base_depth=8)
    return Shape(model, rows=4, slots=512, tokens=512, optimizer=None)


def items(vocabulary: Vocabulary, slots: int, count: int) -> list[Row]:
    """Random items in equal thirds: text of varied length, captioned pictures, captioned sound."""
    rng = np.random.default_rng(0)
    text, image, audio = vocabulary.modalities

    def line(length: int) -> np.ndarray:
        return rng.integers(0, text.codes, length)

    rows = []
    for i in range(count):
        if i % 3 == 0:
            segments = (Segment("text", line(int(rng.integers(slots // 16, slots // 2))), target=True),)
        elif i % 3 == 1:
            side = 8 if slots < 512 else 16
            picture = rng.integers(0, image.codes, (side, side))
            segments = (Segment("text", line(12)), Segment("image", picture, target=True))
        else:
            frames = int(rng.integers(12, 48))
            sound = rng.integers(0, audio.codes, (frames, audio.levels))
            segments = (Segment("text", line(8)), Segment("speech", sound, target=True))
        rows.append(Row(segments, str(i)))
    return rows


def batch(shape: Shape, packed: bool) -> tuple[Masked, int]:
    """A batch with exactly half of its targets masked, and how many content tokens it holds."""
    v = shape.model.vocabulary
    composer = Composer(v, shape.slots, shape.tokens)
    rows = items(v, shape.slots, 40 * shape.rows)
    placed = pack(rows, composer, seed=0) if packed else [[r] for r in rows]
    canvas = composer.compose(placed[: shape.rows])
    hidden = torch.zeros(canvas.shape, dtype=torch.bool)
    targets = canvas.maskable_BL.nonzero()
    chosen = torch.from_numpy(np.random.default_rng(1).permutation(len(targets))[: int(MASKED_SHARE * len(targets))])
    hidden[tuple(targets[chosen].T)] = True
    masked = Masked(
        canvas=canvas.with_ids(canvas.ids_BL.masked_fill(hidden, v.mask)),
        clean_BL=canvas.ids_BL,
        weight_BL=canvas.weight_BL * hidden,
        rate_BL=torch.full(canvas.shape, MASKED_SHARE),
        queries=queries(canvas, hidden, v),
    )
    return masked, int((canvas.ids_BL != v.pad).sum())


def step(shape: Shape, network: Transformer, masked: Masked, joint: bool) -> Callable[[], None]:
    v = shape.model.vocabulary
    optimizer = Optimizer(shape.optimizer, network) if shape.optimizer else None

    def scored(canvas, asked):
        if not joint:
            return network(canvas, asked)
        logits = network(canvas, asked, joint=True)
        return [restrict(x, v.alphabets[q.alphabet]) for x, q in zip(logits, asked, strict=True)]

    def run() -> None:
        loss(terms(scored, masked, v), masked.maskable).backward()
        if optimizer:
            optimizer.step()
        network.zero_grad(set_to_none=True)

    return run


def settings(shape: Shape) -> dict[str, tuple[Callable[[], None], int, int]]:
    """Setting -> (one step, content tokens, FLOPs)."""
    network = Transformer(shape.model)
    packed, tokens = batch(shape, packed=True)
    padded, fewer = batch(shape, packed=False)

    def made(masked: Masked, content: int, joint: bool = False, dtype=torch.bfloat16, compiled: bool = False):
        queried = {q.alphabet: len(q.index_N) for q in masked.queries}
        flops = step_flops(shape.model, shape.rows, shape.slots, queried)
        block = torch.compile(run_block) if compiled else run_block
        inner = step(shape, network, masked, joint)

        def run() -> None:
            network.dtype, network.run_block = dtype, block
            inner()

        return run, content, flops

    return {
        "base": made(packed, tokens),
        "joint head": made(packed, tokens, joint=True),
        "padded rows": made(padded, fewer),
        "fp32": made(packed, tokens, dtype=torch.float32),
        "torch.compile": made(packed, tokens, compiled=True),
    }


def body_share(shape: Shape, rate: float, rounds: int) -> dict[str, float]:
    """Achieved FLOP/s of the blocks alone (forward and backward) over the matmul rate."""
    network = Transformer(shape.model)
    network.dtype = torch.bfloat16
    masked, _ = batch(shape, packed=True)
    flops = step_flops(shape.model, shape.rows, shape.slots, {})
    out = {}
    for label, block in (("eager", run_block), ("torch.compile", torch.compile(run_block))):
        network.run_block = block
        times = []
        for i in range(rounds + 1):
            start = time.perf_counter()
            network.hidden(masked.canvas).sum().backward()
            times += [time.perf_counter() - start] if i else []
            network.zero_grad(set_to_none=True)
        out[label] = flops / statistics.median(times) / rate
    return out


def measure(shape: Shape, rounds: int) -> dict:
    rate = matmul_rate(torch.device("cpu"), torch.bfloat16)
    every = settings(shape)
    times: dict[str, list[float]] = {k: [] for k in every}
    for run, _, _ in every.values():
        run()  # warm-up, and compilation
    for _ in range(rounds):
        for key, (run, _, _) in every.items():
            start = time.perf_counter()
            run()
            times[key].append(time.perf_counter() - start)
    rows = {}
    for key, (_, tokens, flops) in every.items():
        ratio = [(t / tokens) / (b / every["base"][1]) for t, b in zip(times[key], times["base"], strict=True)]
        median = statistics.median(times[key])
        rows[key] = {
            "ms": 1000 * median,
            "tokens_per_s": tokens / median,
            "share": flops / median / rate,
            "time_per_token_vs_base": [min(ratio), statistics.median(ratio), max(ratio)],
        }
    return {
        "matmul_rate": rate,
        "parameters": parameters(shape.model).total,
        "body_parameters": parameters(shape.model).body,
        "body_share": body_share(shape, rate, rounds),
        "settings": rows,
    }


def show(label: str, result: dict) -> None:
    print(
        f"\n{label}: {result['parameters'] / 1e6:.1f}M parameters, {result['body_parameters'] / 1e6:.1f}M in the blocks"
    )
    print(f"bf16 matmul rate {result['matmul_rate'] / 1e9:.0f} GFLOP/s on {name(torch.device('cpu'))}")
    for kind, share in result["body_share"].items():
        print(f"blocks alone, {kind}: {share:.0%} of it")
    print(
        f"{'setting':14} {'ms':>8} {'tokens/s':>9} {'share':>6}   time per token against base (lowest, median, highest)"
    )
    for key, row in result["settings"].items():
        low, middle, high = row["time_per_token_vs_base"]
        print(
            f"{key:14} {row['ms']:8.0f} {row['tokens_per_s']:9.0f} {row['share']:6.0%}   "
            f"{low:.2f} {middle:.2f} {high:.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of a training step.")
    parser.add_argument("--shape", choices=["nano", "pilot", "both"], default="both")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-o", "--out", type=Path, help="also write the figures as JSON")
    options = parser.parse_args()
    shapes = {"nano": nano, "pilot": pilot}
    results = {}
    for key in shapes if options.shape == "both" else [options.shape]:
        results[key] = measure(shapes[key](), options.rounds)
        show(key, results[key])
    if options.out:
        options.out.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
