"""What orders and temperatures make of scenes: how many are right, and how much the pictures of one caption differ.

    python benchmarks/variety.py                         # nano, 200 held-out captions of the built-in world, 10 minutes
    python benchmarks/variety.py runs/mine --items 400

Of each setting the share of scenes that are right in all, evaluations of the model for a picture, and the mean distance
of two pictures of a caption over that of two real scenes: 0 where a caption always gives the same picture.
"""

import argparse

import torch

from trimask.data.world.source import World
from trimask.evaluation.image import VARIETY, SceneDrawing
from trimask.evaluation.sets import EvaluationSet
from trimask.hub.defaults import Defaults, Overrides
from trimask.hub.model import load
from trimask.studies.presets import said
from trimask.studies.tuning import counted

_SURE = "confidence:by=entropy"
SETTINGS: tuple[Overrides, ...] = (
    {"sampler": "random-order", "steps": 64, "guidance": 1.2, "temperature": 0.5},
    {"sampler": "random-order:counts=cosine", "steps": 16, "guidance": 1.2, "temperature": 0.5},
    {"sampler": f"{_SURE},gumbel=2", "steps": 64, "guidance": 1.2, "temperature": 0.3},
    {"sampler": f"{_SURE},gumbel=2", "steps": 16, "guidance": 0.7, "temperature": 0.2},
    {"sampler": f"{_SURE},gumbel=2,counts=linear", "steps": 16, "guidance": 0.7, "temperature": 0.2},
    {"sampler": f"{_SURE},gumbel=2", "steps": 20, "guidance": "2@0-0.3", "temperature": 0.3},
    {"sampler": "entropy-bounded:bound=0.25,gumbel=2", "guidance": 0.7, "temperature": 0.3},
    {"sampler": "entropy-bounded:bound=0.5,gumbel=2", "guidance": 0.7, "temperature": 0.2},
    {"sampler": "entropy-bounded:bound=1,gumbel=2", "guidance": 0.5, "temperature": 0.5},
    {"sampler": f"{_SURE},gumbel=0", "steps": 16, "guidance": 0.7, "temperature": 0.2},
    {"sampler": "entropy-bounded:bound=0.1", "guidance": 0.5, "temperature": 0.3},
    {"sampler": "entropy-bounded:bound=0.1", "guidance": 0.5, "temperature": 1.0},
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Right and varied scenes.")
    parser.add_argument("model", nargs="?", default="nano")
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model, n = load(asked.model), asked.items
    world = World(kind="scenes", split="validation", count=n)
    section = SceneDrawing(EvaluationSet("scenes", "validation", [world[i] for i in range(n)]), n)
    print(f"{'right':>15} {'passes':>7} {'variety':>8}  settings")
    for options in SETTINGS:
        settings = model.bundle.defaults.of("text>image", "image", options)
        table = {**model.bundle.defaults.settings, "text>image": settings}
        own = model.sampled(Defaults(table))
        with counted(own) as counter:
            found = {r.metric: r for r in section.run(own, 0).results}
        right, variety = found["all correct"], found[VARIETY]
        passes, share = counter.passes / (n + section.twice), variety.value / (variety.reference or 1)
        print(f"{right.value:7.3f} ± {right.error or 0:.3f} {passes:7.1f} {share:8.2f}  {said(options)}", flush=True)


if __name__ == "__main__":
    main()
