"""`trimask study coordinates`: do activations and updates keep their size when width and depth change?

The coordinate check of Yang et al. 2022, with the changes and updates of Everett et al. 2024: a few steps in fp32 at a
constant rate, and after each, on one batch of held-out data,

    activation/POINT  root mean square of what a point of the network holds
    change/POINT      that of its change since initialisation
    update/GROUP      that of what the change of a group's weights, by itself, adds to their output

A quantity that follows its rule is flat: the slope of its log over the log of width or depth is 0. Logits are judged
by their change alone: at the start they shrink with the width, as they must.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import islice

import chz
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimask.core.errors import UsageError
from trimask.data.stream import Stream
from trimask.diffusion.forward import Masked
from trimask.model.block import Linear
from trimask.model.transformer import Transformer
from trimask.optim import gradients
from trimask.optim.optimizer import Optimizer
from trimask.optim.parametrization import group_of, groups
from trimask.studies import fits, plots
from trimask.studies.base import Report, Study, cell_of
from trimask.studies.table import Cell, Row
from trimask.train.config import TrainConfig
from trimask.train.resolve import resolve
from trimask.train.step import evaluate

FLAT = 0.1
"""Largest slope of what passes."""
FROM = 2
"""First step that is judged: the first moves from where nothing has moved."""


@chz.chz
class Coordinates(Study):
    """Short runs over width at the base's depth and over depth at the base's width."""

    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    depths: tuple[int, ...] = (2, 4, 8, 16, 32)
    seeds: int = 3
    steps: int = 10
    rate: float = chz.field(default=0.5, doc="learning rate, times optimizer.rate: there is no warm-up here")
    parametrizations: tuple[str, ...] = ("completep", "standard")

    @chz.validate
    def _check(self):
        if len(self.widths) < 2 or len(self.depths) < 2 or self.steps < FROM or self.seeds < 1:
            raise UsageError(f"study: at least two widths, two depths, {FROM} steps and a seed are needed")

    def plan(self, base: TrainConfig, rows: Sequence[Row]) -> list[Cell]:
        # With kappa of 1: so short a run has no horizon to follow.
        first = cell_of(base, steps=self.steps, rate=self.rate * base.optimizer.rate, scaled=False)
        shapes = [(w, base.model.base_depth) for w in self.widths] + [(base.model.base_width, d) for d in self.depths]
        return [
            dataclasses.replace(first, width=w, depth=d, seed=seed, parametrization=p)
            for p in self.parametrizations
            for w, d in dict.fromkeys(shapes)
            for seed in range(self.seeds)
        ]

    def expected(self, base: TrainConfig) -> list[Cell]:
        return self.plan(base, ())

    def work(self, config: TrainConfig, cell: Cell) -> Row:
        return measure(config, cell)

    def report(self, base: TrainConfig, rows: Sequence[Row]) -> Report:
        out = Report("Sizes of activations and updates")
        table: list[list[str]] = []
        for p in self.parametrizations:
            worst = {}
            for axis in ("width", "depth"):
                chosen = [r for r in rows if r.cell.parametrization == p and self._varies(base, r.cell, axis)]
                slopes = fits.slopes(chosen, axis)
                judged = {k: slope for k, slope in slopes.items() if _judged(k)}
                if not judged:
                    continue
                worst[axis] = max(judged, key=lambda k: abs(judged[k]))
                name, where = f"{axis}-{p}", f"{axis}, {p}"
                out.plots[name] = plots.coordinates(chosen, axis, self.steps, where)
                out.findings.append(f"{where}: the steepest slope is {judged[worst[axis]]:+.3f} ({worst[axis]}).")
                for quantity in sorted({k.rpartition("/")[0] for k in judged}):
                    steps = {
                        int(k.rpartition("/")[2]): s for k, s in judged.items() if k.rpartition("/")[0] == quantity
                    }
                    step = max(steps, key=lambda n: abs(steps[n]))
                    flat = "flat" if abs(steps[step]) < FLAT else "drifts"
                    table.append([p, axis, quantity, f"{steps[step]:+.3f}", str(step), flat])
        columns = ["parametrization", "over", "quantity", "steepest slope", "at step", "verdict"]
        out.tables.append((f"Slopes of log size over log width or depth, steps {FROM} to {self.steps}", columns, table))
        return out

    def _varies(self, base: TrainConfig, cell: Cell, axis: str) -> bool:
        """Whether a cell belongs to the sweep over an axis."""
        if axis == "width":
            return cell.depth == base.model.base_depth and cell.width in self.widths
        return cell.width == base.model.base_width and cell.depth in self.depths


def _judged(quantity: str) -> bool:
    """Whether a quantity "kind/name/step" must be flat."""
    kind, name, step = quantity.split("/")
    return int(step) >= FROM and not (kind == "activation" and name == "logits")


def measure(config: TrainConfig, cell: Cell) -> Row:
    """Take the steps of a cell and look at the network after each."""
    v = config.model.vocabulary
    assert config.validation is not None  # conduct() sees to it
    batches = list(islice(Stream(config.data, v), cell.steps * config.passes))
    held_out = next(iter(Stream(config.validation.data, v))).masked
    resolved = resolve(config)
    model = Transformer(config.model, config.seed)
    optimizer = Optimizer(resolved.optimizer, model, resolved.scale, resolved.kappa)
    probe = Probe(model, held_out)
    values, loss = {}, math.nan
    for step in range(1, cell.steps + 1):
        taken = batches[(step - 1) * config.passes : step * config.passes]
        maskable = sum(b.masked.maskable for b in taken)
        optimizer.zero_grad()
        outcomes = [evaluate(model, batch.masked, maskable) for batch in taken]
        total = torch.stack([outcome.loss for outcome in outcomes]).sum()
        total.backward()
        loss = float(total.detach())
        norm = gradients.total(gradients.norms(groups(model)))
        gradients.clip(model.parameters(), norm, resolved.optimizer.clip)
        optimizer.step()
        values |= {f"{k}/{step}": x for k, x in probe.read().items()}
    return Row(cell, loss, values, sum(sum(b.tokens.values()) for b in batches), 0.0)


class Probe:
    """A network beside what it was at the start, on one batch."""

    def __init__(self, model: Transformer, masked: Masked):
        self.model, self.masked = model, masked
        self.initial = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
        self.before = self._run({})

    @torch.no_grad()
    def read(self) -> dict[str, float]:
        """Every quantity, its root mean square over positions, channels and blocks."""
        updates: dict[str, list[Tensor]] = {}
        now = self._run(updates)
        out = {f"activation/{point}": rms(tensors) for point, tensors in now.items()}
        for point, tensors in now.items():
            out[f"change/{point}"] = rms([a - b for a, b in zip(tensors, self.before[point], strict=True)])
        for name, p in self.model.named_parameters():
            # A gain multiplies what has size 1, an embedding is what it adds.
            if p.ndim == 1 or group_of(name) == "embedding":
                updates.setdefault(group_of(name), []).append(p.detach() - self.initial[name])
        model, canvas = self.model, self.masked.canvas
        if model.head.table is not None:
            updates["head"] = self._alone(model.head.table, lambda: model(canvas, self.masked.queries))
        if model.embedding.place.maps:
            # Its maps act on all codes; what counts are those that the canvas shows.
            pieces = model.embedding.token.pieces()
            place = model.embedding.place
            updates["place"] = self._alone(place, lambda: [place(canvas, pieces, torch.float32)])
        return out | {f"update/{group}": rms(tensors) for group, tensors in updates.items() if tensors}

    @torch.no_grad()
    def _run(self, updates: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
        """What each point holds; into `updates` what the change of each matrix adds."""
        points: dict[str, list[Tensor]] = {}

        def keep(point: str) -> Callable[[nn.Module, object, Tensor], None]:
            return lambda _module, _inputs, output: points.setdefault(point, []).append(output)

        def added(module: nn.Module, inputs: tuple[Tensor, ...], _output: object) -> None:
            assert isinstance(module, Linear)
            name = self.names[module.weight]
            moved = F.linear(inputs[0], module.weight - self.initial[name])
            updates.setdefault(group_of(name), []).append(moved)

        with ExitStack() as hooks:

            def hook(module: nn.Module, function: Callable) -> None:
                handle = module.register_forward_hook(function)
                hooks.callback(handle.remove)

            for module in self.model.modules():
                if isinstance(module, Linear) and group_of(self.names[module.weight]) != "place":
                    hook(module, added)
            hook(self.model.embedding, keep("embedding"))
            for block in self.model.blocks:
                hook(block.get_submodule("attention"), keep("attention"))
                hook(block.get_submodule("mlp"), keep("mlp"))
            hook(self.model.blocks[-1], keep("stream"))
            points["logits"] = self.model(self.masked.canvas, self.masked.queries)
        return points

    def _alone(self, part: nn.Module, run: Callable[[], list[Tensor]]) -> list[Tensor]:
        """What a part of the network adds by the change of its weights, in which it is linear."""
        now = [p.detach().clone() for p in part.parameters()]
        for p in part.parameters():
            p.sub_(self.initial[self.names[p]])
        added = run()
        for p, value in zip(part.parameters(), now, strict=True):
            p.copy_(value)
        return added


def rms(tensors: Sequence[Tensor]) -> float:
    """Root mean square over all entries of all tensors."""
    count = sum(t.numel() for t in tensors)
    return (sum(float(t.double().square().sum()) for t in tensors) / count) ** 0.5
