"""What caches save and what they cost, on a trained model.

    python benchmarks/caching.py                         # nano: scenes of the built-in world, texts
    python benchmarks/caching.py runs/mine --items 64

Scenes: captions of the validation part of the built-in world are drawn with the model's own settings and graded; a
text is written from nothing, from left to right and in blocks. `seconds` are those of the process for an item, `cost`
evaluations of all positions, both beside the same without a cache; every cache has its turn in every round, and seconds
are medians. `quality` is the share of scenes drawn right; of texts bits per byte under a Kneser-Ney model of the
training texts, and the share of pairs of words that are different. ± is a standard error, `same` the share of tokens
(pixels) that are those without a cache.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from trimask.data.world.grade import grade
from trimask.data.world.source import World
from trimask.evaluation.transcripts import share
from trimask.evaluation.writing import UNDER_KNESER_NEY, writing_table
from trimask.hub.defaults import Overrides
from trimask.hub.model import Model, load
from trimask.studies.tuning import counted

CACHES = ("none", "changed", "changed:every=8", "changed:every=4", "changed:after=0.1", "target")
BLOCKED = ("none", "block", "suffix", "changed", "changed:every=8")
Make = Callable[[Overrides], list[Any]]


def table(
    model: Model, title: str, make: Make, quality: Callable[[list[Any]], str], caches: Sequence[str], rounds: int
) -> None:
    """Print a row a cache."""
    seconds: dict[str, list[float]] = {c: [] for c in caches}
    made: dict[str, list[Any]] = {}
    cost: dict[str, float] = {}
    for _ in range(rounds):
        for cache in caches:
            started = time.process_time()
            with counted(model) as counter:
                made[cache] = make({"cache": cache})
            seconds[cache].append(time.process_time() - started)
            cost[cache] = counter.shares / len(made[cache])
    print(f"\n{title}\n{'cache':18} {'seconds':>8} {'faster':>6} {'cost':>6}  {'quality':>19}  same")
    base = statistics.median(seconds["none"])
    for cache in caches:
        took = statistics.median(seconds[cache])
        print(
            f"{cache:18} {took / len(made[cache]):8.3f} {base / took:6.2f} {cost[cache]:6.1f}  "
            f"{quality(made[cache]):>19}  {same(made['none'], made[cache]):.2f}",
            flush=True,
        )


def same(one: Sequence[Any], other: Sequence[Any]) -> float:
    """Share of pixels or of words, place by place."""
    shares = []
    for a, b in zip(one, other, strict=True):
        if isinstance(a, str):
            a, b = a.split(), b.split()
            shares.append(sum(x == y for x, y in zip(a, b, strict=False)) / max(len(a), len(b), 1))
        else:
            shares.append(float((np.asarray(a) == np.asarray(b)).all(-1).mean()))
    return float(np.mean(shares))


def main() -> None:
    parser = argparse.ArgumentParser(description="What caches save and cost.")
    parser.add_argument("model", nargs="?", default="nano")
    parser.add_argument("--items", type=int, default=32)
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 63, 127], help="tokens of a text")
    parser.add_argument("--blocks", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model, n = load(asked.model), asked.items
    world = World(kind="scenes", split="validation", count=n)
    captions = [str(world[i].parts["text"]) for i in range(n)]
    texts = World(kind="text", split="train", count=4000)
    known = [str(texts[i].parts["text"]) for i in range(4000)]
    unseen = World(kind="text", split="validation", count=1000)
    held = [str(unseen[i].parts["text"]) for i in range(1000)]

    def drawn(options: Overrides) -> list[Any]:
        return model.image(captions, **options)

    def graded(pictures: list[Any]) -> str:
        rate = share([grade(np.asarray(p), c).all_correct for p, c in zip(pictures, captions, strict=True)])
        return f"{rate.value:.3f} ± {rate.error:.3f}"

    def read(samples: list[Any]) -> str:
        found = {r.metric: r for r in writing_table(samples, held, known)}
        bits = found[UNDER_KNESER_NEY]
        return f"{bits.value:.2f} ± {bits.error or 0:.2f}, {found['distinct 2-grams'].value:.2f}"

    table(model, f"{n} scenes, the model's own settings", drawn, graded, CACHES, asked.rounds)
    for length in asked.lengths:
        for block in (1, *asked.blocks):
            steps: Overrides = {
                "sampler": f"blockwise:block={block},inner=random-order,steps={length // 2 if block > 1 else length}"
            }

            def written(options: Overrides, length: int = length, steps: Overrides = steps) -> list[Any]:
                return model.text([""] * n, length=length, **{**steps, **options})

            title = f"{n} texts of {length} tokens in blocks of {block}"
            caches = CACHES[:4] if block == 1 else BLOCKED
            table(model, title, written, read, caches, asked.rounds)


if __name__ == "__main__":
    main()
