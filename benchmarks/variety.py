"""What orders and temperatures make of pictures: how many are right, and how much those of one caption differ.

    python benchmarks/variety.py                         # nano, 200 held-out captions of the built-in world, 20 minutes
    python benchmarks/variety.py runs/mine --items 400
    python benchmarks/variety.py nano DATA/mnist:test --items 150 --only "entropy-bounded:bound=0.25,gumbel=2"

Of each setting and set the share that is right, the variety over that of real pictures (of scenes the mean distance of
two pictures of a caption over that of two real scenes: 0 where a caption always gives the same one), and evaluations of
the model for a picture.
"""

import argparse

import torch

from trimask.cli.evaluate import graders, sets_of
from trimask.diffusion.samplers import RandomOrder
from trimask.diffusion.settings import Settings
from trimask.evaluation.image import ClassDrawing, SceneDrawing
from trimask.evaluation.suite import SuiteConfig, sections
from trimask.hub.defaults import Defaults, Overrides, adjusted
from trimask.hub.model import load
from trimask.studies.presets import said
from trimask.studies.tuning import AIMS, counted

_SURE, _BOUND = "confidence:by=entropy", "entropy-bounded:bound"
_EVEN: Overrides = {"guidance": 0.7, "temperature": 0.7, "top_p": 0.95}
SETTINGS: tuple[Overrides, ...] = (
    {"sampler": "random-order", "steps": 64, "guidance": 1.2, "temperature": 0.5},
    {"sampler": "random-order", "steps": 64, "guidance": 1.2, "temperature": 0.3},
    {"sampler": "random-order", "steps": 64, **_EVEN, "temperature": 0.5},
    {"sampler": "random-order:counts=cosine", "steps": 16, "guidance": 1.2, "temperature": 0.5},
    {"sampler": f"{_SURE},gumbel=2", "steps": 64, "guidance": 1.2, "temperature": 0.3},
    {"sampler": f"{_SURE},gumbel=2", "steps": 16, "guidance": 0.7, "temperature": 0.2},
    {"sampler": f"{_SURE},gumbel=2,counts=linear", "steps": 16, "guidance": 0.7, "temperature": 0.2},
    {"sampler": f"{_SURE},gumbel=2", "steps": 20, "guidance": "2@0-0.3", "temperature": 0.3},
    {"sampler": f"{_SURE},gumbel=0", "steps": 16, "guidance": 0.7, "temperature": 0.2},
    {"sampler": f"{_BOUND}=0.1", "guidance": 0.5, "temperature": 0.3},
    {"sampler": f"{_BOUND}=0.1", "guidance": 0.5, "temperature": 1.0},
    {"sampler": f"{_BOUND}=0.1,gumbel=2", "guidance": 1.2, "temperature": 0.3},
    {"sampler": f"{_BOUND}=0.25,gumbel=2", "guidance": 1.2, "temperature": 0.3},
    {"sampler": f"{_BOUND}=0.25,gumbel=2", "guidance": 1.0, "temperature": 0.3},
    {"sampler": f"{_BOUND}=0.25,gumbel=2", "guidance": 0.7, "temperature": 0.3},
    {"sampler": f"{_BOUND}=0.25,gumbel=2", "steps": 14, "guidance": 1.2, "temperature": 0.3},
    {"sampler": f"{_BOUND}=0.1,gumbel=4", "steps": 14, **_EVEN},
    {"sampler": f"{_BOUND}=0.1,gumbel=4", "steps": 14, **_EVEN, "temperature": 0.4},
    {"sampler": f"{_BOUND}=0.05,gumbel=4", "steps": 20, **_EVEN},
    {"sampler": f"{_BOUND}=0.05,gumbel=4", "steps": 20, **_EVEN, "temperature": 0.4},
    {"sampler": f"{_BOUND}=0.05,gumbel=4", "steps": 16, **_EVEN, "temperature": 0.4},
    {"sampler": f"{_BOUND}=0.05,gumbel=4", "steps": 20, **_EVEN, "temperature": 0.4, "guidance": "0.7@0-0.5"},
    {"sampler": f"{_BOUND}=0.25,gumbel=4", "steps": 16, **_EVEN},
    {"sampler": f"{_BOUND}=0.5,gumbel=4", "steps": 16, **_EVEN, "cache": "changed:after=0.1"},
    {"sampler": f"{_SURE},gumbel=4", "steps": 64, **_EVEN},
    {"sampler": f"{_SURE},gumbel=4", "steps": 64, **_EVEN, "temperature": 0.4},
)
SCENES = "world:scenes?split=validation"


def main() -> None:
    parser = argparse.ArgumentParser(description="Right and varied pictures.")
    parser.add_argument("model", nargs="?", default="nano")
    parser.add_argument("sources", nargs="*", help="sets of pictures with classes, beside the scenes")
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="settings that hold this text")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model, judges, n = load(asked.model), graders(None), asked.items
    sets = [*sets_of([SCENES], n, "", model, judges), *sets_of(asked.sources, 1000, "", model, judges)]
    every = sections(sets, judges, model.bundle.tokenizers, SuiteConfig(drawings=n))
    found = [s for s in every if isinstance(s, SceneDrawing | ClassDrawing)]
    print(f"{'right':>15} {'variety':>8} {'passes':>7}  set, settings")
    for options in (o for o in SETTINGS if asked.only in said(o)):
        settings = adjusted(Settings(RandomOrder()), options)
        own = model.sampled(Defaults({**model.bundle.defaults.settings, "text>image": settings}))
        for section in found:
            aim = AIMS[type(section)]
            with counted(own) as counter:
                results = {r.metric: r for r in section.run(own, asked.seed).results}
            right, (_, variety) = aim.share(results), aim.quality(results, 1.0)
            drawn = n + (section.twice if isinstance(section, SceneDrawing) else 0)
            print(
                f"{right.value:7.3f} ± {right.error or 0:.3f} {variety or 0:8.2f} {counter.passes / drawn:7.1f}  "
                f"{section.data.name}, {said(options)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
