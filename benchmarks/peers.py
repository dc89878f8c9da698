"""Sampling beside other libraries: the same network, the same number of forward passes, in one run.

    python -m venv env && env/bin/pip install -e . diffusers==0.42.0 transformers     # or bionemo-moco==0.0.2, or
    env/bin/python benchmarks/peers.py --shape small                                  # flow_matching==1.0.10
    env/bin/python benchmarks/peers.py --shape pilot --kinds text image --rounds 3

Whatever of the peers is installed is measured; each is best in an environment of its own. The network is ours with
random weights, of which a peer gets what it asks for: logits of every position over the joint vocabulary, from one
matrix product with a table that is made once. Ours and the peers take turns in every round, so that a drift of the
machine hits all of them; a ratio is that of tokens a second within a round, and of the rounds the median, lowest and
highest are given. Times are those of the process (all threads).
"""

# pyright: reportMissingImports=false
# The peers are not among our own dependencies.

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sampling import SHAPES, Shape, model_of
from torch import Tensor, nn

from trimask.core.canvas import Canvas, Composer, Query, Row, Segment, queries
from trimask.core.modality import Vocabulary
from trimask.diffusion.samplers import Confidence, RandomOrder, Sampler
from trimask.diffusion.sampling import Engine, sample
from trimask.diffusion.settings import Settings
from trimask.model.transformer import Transformer, slots

Run = Callable[[int], Tensor]
"""Seed -> ids of all targets (B, T), filled."""


def blank(vocabulary: Vocabulary, kind: str, shape: Shape) -> Canvas:
    """Targets of one kind, all masked, whose end is known."""
    m = vocabulary.modalities[vocabulary.modality(kind)]
    if m.grid == "plane":
        codes, hidden = np.zeros((shape.tokens // 8, 8), np.int32), True
    else:
        units = shape.tokens // m.levels
        codes = np.zeros((units, m.levels) if m.grid == "frames" else units, np.int32)
        hidden = np.arange(units + 1) < units
        hidden = np.repeat(hidden[:, None], m.levels, 1) if m.grid == "frames" else hidden
    rows = [Row((Segment(kind, codes, target=True, hidden=hidden),), str(i)) for i in range(shape.rows)]
    slots, tokens = (max(n) for n in zip(*(Composer(vocabulary, 32).size(r) for r in rows), strict=True))
    return Composer(vocabulary, -(-slots // 32) * 32, -(-tokens // 32) * 32).compose([[r] for r in rows])


class Joint(nn.Module):
    """The network as peers know one: ids of the targets (B, T) to logits (B, T, V) over the joint vocabulary."""

    def __init__(self, model: Transformer, canvas: Canvas):
        super().__init__()
        self.model, self.canvas, self.calls = model, canvas, 0
        where_BL = (canvas.ids_BL == model.vocabulary.mask) & canvas.maskable_BL
        self.at_T = where_BL.flatten().nonzero().flatten()
        self.shape = (canvas.shape[0], len(self.at_T) // canvas.shape[0])
        self.slot_T = slots(canvas)[self.at_T]
        self.groups = [(q.alphabet, torch.isin(self.at_T, q.index_N[: q.count])) for q in self._asked(where_BL)]

    def _asked(self, where_BL: Tensor) -> list[Query]:
        return queries(self.canvas, where_BL, self.model.vocabulary)

    @property
    def device(self) -> torch.device:
        """A pipeline of diffusers asks for it."""
        return self.at_T.device

    @property
    def start(self) -> Tensor:
        """All targets masked."""
        return torch.full(self.shape, self.model.vocabulary.mask)

    def forward(self, ids_BT: Tensor, attention_mask: Any = None, position_ids: Any = None) -> SimpleNamespace:
        self.calls += 1
        canvas = self.canvas.with_ids(
            self.canvas.ids_BL.flatten().index_copy(0, self.at_T, ids_BT.flatten()).view(self.canvas.shape)
        )
        x_TD = self.model.hidden(canvas).flatten(0, 1)[self.slot_T]
        if len(self.groups) == 1:
            x_TD = self.model.head.hidden(x_TD, self.groups[0][0])
        else:
            of = [(mine.nonzero().flatten(), alphabet) for alphabet, mine in self.groups]
            for index, alphabet in of:
                x_TD = x_TD.index_copy(0, index, self.model.head.hidden(x_TD[index], alphabet))
        table = self.model.head.table
        assert table is not None
        return SimpleNamespace(logits=F.linear(x_TD, table()).view(*self.shape, -1))


def ours(model: Transformer, canvas: Canvas, kind: str, sampler: Sampler) -> Run:
    engine = Engine(model, model.vocabulary)
    name = model.vocabulary.modalities[model.vocabulary.modality(kind)].name
    no_ends_BL = torch.zeros_like(canvas.maskable_BL)

    def run(seed: int) -> Tensor:
        made = sample(engine, canvas, {name: Settings(sampler)}, seed, ends_BL=no_ends_BL)
        return made.ids_BL[canvas.maskable_BL]

    return run


def llada2(net: Joint, steps: int) -> Run:
    """diffusers: LLaDA2Pipeline with BlockRefinementScheduler, one block, the surest first."""
    # The classes are found when they are asked for, which type checkers cannot see.
    import diffusers as peers

    library: Any = peers
    length, mask = net.shape[1], net.model.vocabulary.mask
    pipe = library.LLaDA2Pipeline(
        model=net, scheduler=library.BlockRefinementScheduler(block_length=length), tokenizer=None
    )
    pipe.set_progress_bar_config(disable=True)
    nothing = torch.zeros((net.shape[0], 0), dtype=torch.long)

    def run(seed: int) -> Tensor:
        return pipe(
            input_ids=nothing, gen_length=length, block_length=length, num_inference_steps=steps, temperature=1.0,
            threshold=2.0, editing_threshold=None, eos_early_stop=False, mask_token_id=mask, output_type="seq",
            generator=torch.Generator().manual_seed(seed),
        ).sequences  # fmt: skip

    return run


def scheduled(net: Joint, make: Callable[[], Any], start: Callable[[], Tensor], **settings: Any) -> Run:
    """diffusers: a scheduler in a plain loop."""

    @torch.no_grad()
    def run(seed: int) -> Tensor:
        scheduler, ids_BT, generator = make(), start(), torch.Generator().manual_seed(seed)
        for t in scheduler.timesteps:
            ids_BT = scheduler.step(net(ids_BT).logits, t, ids_BT, generator=generator, **settings).prev_sample
        return ids_BT

    return run


def with_steps(scheduler: Any, steps: int) -> Any:
    scheduler.set_timesteps(steps)
    return scheduler


def diffusers(net: Joint, steps: int) -> dict[str, tuple[str, Run]]:
    import diffusers as peers

    library: Any = peers
    size, mask = net.model.vocabulary.size, net.model.vocabulary.mask

    def noise() -> Tensor:
        return torch.randint(size, net.shape)

    def amused() -> Any:
        return with_steps(library.AmusedScheduler(mask_token_id=mask, masking_schedule="linear"), steps)

    return {
        "LLaDA2Pipeline": ("confidence", llada2(net, steps)),
        "AmusedScheduler": ("confidence", scheduled(net, amused, lambda: net.start)),
        "EntropyBoundScheduler": (
            "entropy",
            scheduled(net, lambda: with_steps(library.EntropyBoundScheduler(), steps), noise),
        ),
        "DiscreteDDIMScheduler": (
            "random",
            scheduled(net, lambda: with_steps(library.DiscreteDDIMScheduler(), steps), noise, temperature=1.0),
        ),
    }


def moco(net: Joint, steps: int) -> dict[str, tuple[str, Run]]:
    """bionemo-moco: steps of MDLM."""
    from bionemo.moco.distributions.prior.discrete.mask import DiscreteMaskedPrior
    from bionemo.moco.distributions.time.uniform import UniformTimeDistribution
    from bionemo.moco.interpolants import MDLM
    from bionemo.moco.schedules.inference_time_schedules import LinearInferenceSchedule
    from bionemo.moco.schedules.noise.continuous_noise_transforms import LogLinearExpNoiseTransform

    v = net.model.vocabulary
    mdlm = MDLM(UniformTimeDistribution(), DiscreteMaskedPrior(v.size, v.mask), LogLinearExpNoiseTransform())
    schedule = LinearInferenceSchedule(nsteps=steps, direction="diffusion")

    @torch.no_grad()
    def random(seed: int) -> Tensor:
        mdlm.rng_generator = torch.Generator().manual_seed(seed)
        ids_BT = net.start
        for t, dt in zip(schedule.generate_schedule(), schedule.discretize(), strict=True):
            ids_BT = mdlm.step(net(ids_BT).logits, t.expand(net.shape[0]), ids_BT, dt)
        return ids_BT

    @torch.no_grad()
    def confidence(seed: int) -> Tensor:
        mdlm.rng_generator = torch.Generator().manual_seed(seed)
        ids_BT = net.start
        for step in range(steps):
            ids_BT = mdlm.step_confidence(
                net(ids_BT).logits, ids_BT, step, steps, num_tokens_unmask=net.shape[1] // steps
            )
        return ids_BT

    return {"MDLM.step": ("random", random), "MDLM.step_confidence": ("confidence", confidence)}


def flow(net: Joint, steps: int) -> dict[str, tuple[str, Run]]:
    """flow_matching: the Euler solver of the mixture path from MASK."""
    from flow_matching.path import MixtureDiscreteProbPath
    from flow_matching.path.scheduler import PolynomialConvexScheduler
    from flow_matching.solver import MixtureDiscreteEulerSolver
    from flow_matching.utils import ModelWrapper

    class Probable(ModelWrapper):
        def forward(self, x: Tensor, t: Tensor, **_: Any) -> Tensor:
            return self.model(x).logits.softmax(-1)

    path = MixtureDiscreteProbPath(PolynomialConvexScheduler(n=1.0))
    solver = MixtureDiscreteEulerSolver(Probable(net), path, net.model.vocabulary.size)

    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return solver.sample(x_init=net.start, step_size=None, time_grid=torch.linspace(0, 1, steps + 1))

    return {"MixtureDiscreteEulerSolver": ("random", run)}


PEERS: Mapping[str, Callable[[Joint, int], dict[str, tuple[str, Run]]]] = {
    "diffusers": diffusers,
    "bionemo": moco,
    "flow_matching": flow,
}


def measure(model: Transformer, kind: str, shape: Shape, rounds: int) -> list[dict[str, Any]]:
    """A row a peer: its time, ours in the same order, and the ratio of tokens a second."""
    canvas = blank(model.vocabulary, kind, shape)
    net = Joint(model, canvas)
    own: dict[str, Sampler] = {
        "random": RandomOrder(steps=shape.steps),
        "confidence": Confidence(steps=shape.steps, gumbel=1.0),
        "entropy": Confidence(steps=shape.steps, by="entropy"),
    }
    runs = {("trimask", order): ours(model, canvas, kind, sampler) for order, sampler in own.items()}
    orders = {}
    for package, make in PEERS.items():
        if importlib.util.find_spec(package):
            for name, (order, run) in make(net, shape.steps).items():
                orders[name], runs[package, name] = order, run
    seconds: dict[tuple[str, str], list[float]] = {}
    for turn in range(rounds + 1):
        for key, run in runs.items():
            before, started = net.calls, time.process_time()
            filled = run(turn)
            took = time.process_time() - started
            if key[0] != "trimask" and net.calls - before != shape.steps:
                raise SystemExit(f"{key[1]} made {net.calls - before} passes, not {shape.steps}")
            if key[0] in ("trimask", "bionemo") and bool((filled == model.vocabulary.mask).any()):
                raise SystemExit(f"{key[1]} left tokens masked")
            if turn:  # the first is a warm-up
                seconds.setdefault(key, []).append(took)
    return [_row(kind, key, orders[key[1]], seconds) for key in runs if key[0] != "trimask"]


Times = Mapping[tuple[str, str], Sequence[float]]


def _row(kind: str, key: tuple[str, str], order: str, seconds: Times) -> dict[str, Any]:
    theirs, mine = seconds[key], seconds["trimask", order]
    ratios = sorted(a / b for a, b in zip(theirs, mine, strict=True))
    return {
        "kind": kind, "peer": key[1], "order": order, "seconds": statistics.median(theirs),
        "ours": statistics.median(mine), "ratio": [ratios[0], statistics.median(ratios), ratios[-1]],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Sampling beside other libraries.")
    parser.add_argument("--shape", choices=[*SHAPES], default="small")
    parser.add_argument(
        "--kinds", nargs="+", default=None, help="text, image, speech; by default all that the shape has"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--out", type=Path, help="also write the figures as JSON")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    shape = SHAPES[asked.shape]
    model = model_of(shape)
    kinds = asked.kinds or [k for k in ("text", "image", "speech") if k in model.vocabulary.kinds]
    print(f"{shape}, fp32, {asked.threads} thread(s), {asked.rounds} rounds")
    print(f"{'kind':7} {'peer':27} {'order':11} {'seconds':>8} {'ours':>7}   theirs / ours (lowest, median, highest)")
    rows = []
    for kind in kinds:
        with torch.no_grad(), model.frozen():
            found = measure(model, kind, shape, asked.rounds)
        rows += found
        for r in found:
            low, middle, high = r["ratio"]
            print(
                f"{r['kind']:7} {r['peer']:27} {r['order']:11} {r['seconds']:8.3f} {r['ours']:7.3f}   "
                f"{low:.2f} {middle:.2f} {high:.2f}",
                flush=True,
            )
    if asked.out:
        asked.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
