"""One evaluation of the objective on a batch, and a batch kept on disk for inspection."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trimask.core.canvas import Canvas, Query
from trimask.core.errors import ArtifactError
from trimask.core.files import replacing
from trimask.data.stream import Batch
from trimask.diffusion import objective
from trimask.diffusion.forward import Masked
from trimask.diffusion.objective import Terms
from trimask.model import accounting
from trimask.model.transformer import Transformer

BATCH, NOTE = "batch.safetensors", "batch.json"


@dataclass(frozen=True)
class Outcome:
    """Loss of a batch with its terms; `predicted` are the likeliest columns of each query's tokens."""

    loss: Tensor
    terms: list[Terms]
    predicted: list[Tensor]


class _Watched:
    """A denoiser that notes the likeliest column of every scored token."""

    def __init__(self, model: Transformer):
        self.model = model
        self.predicted: list[Tensor] = []

    def __call__(self, canvas: Canvas, queries: Sequence[Query]) -> list[Tensor]:
        logits = self.model(canvas, queries)
        self.predicted = [x[: q.count].detach().argmax(-1) for q, x in zip(queries, logits, strict=True)]
        return logits


def evaluate(model: Transformer, masked: Masked, maskable: int | None = None) -> Outcome:
    """The objective of a batch.

    `maskable` is the number of maskable tokens it is divided by: those of all passes of a step; by default its own.
    """
    watched = _Watched(model)
    terms = objective.terms(watched, masked, model.vocabulary)
    count = masked.maskable if maskable is None else maskable
    return Outcome(objective.loss(terms, count), terms, watched.predicted)


def flops(model: Transformer, masked: Masked) -> int:
    """FLOPs of training on a batch."""
    rows, slots = masked.canvas.segment_BP.shape
    queried = {q.alphabet: len(q.index_N) for q in masked.queries}
    return accounting.step_flops(model.config, rows, slots, queried)


def to(masked: Masked, device: torch.device) -> Masked:
    """The batch on a device."""
    if masked.canvas.ids_BL.device == device:
        return masked
    return Masked(
        masked.canvas.to(device),
        masked.clean_BL.to(device),
        masked.weight_BL.to(device),
        masked.rate_BL.to(device),
        [replace(q, index_N=q.index_N.to(device)) for q in masked.queries],
    )


def save_batch(folder: Path, batch: Batch, note: dict[str, Any]) -> None:
    """Write a batch as `batch.safetensors`, and its items and `note` as `batch.json`, atomically."""
    masked = batch.masked
    tensors = {f"canvas.{f.name}": getattr(masked.canvas, f.name) for f in fields(Canvas) if f.name != "spans"}
    tensors |= {"clean_BL": masked.clean_BL, "weight_BL": masked.weight_BL, "rate_BL": masked.rate_BL}
    tensors |= {f"query.{q.alphabet}": q.index_N for q in masked.queries}
    items = [
        {"row": s.row, "start": s.start, "length": s.length, "kind": s.kind, "target": s.target, "key": s.key}
        | {"source": s.draw.stream, "epoch": s.draw.epoch, "order": s.draw.order}
        for s in masked.canvas.spans
    ]
    note = {**note, "queries": {str(q.alphabet): q.count for q in masked.queries}, "segments": items}
    with replacing(folder) as temporary:
        temporary.mkdir()
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary / BATCH)
        (temporary / NOTE).write_text(json.dumps(note, indent=2, ensure_ascii=False) + "\n")


def load_batch(folder: Path | str) -> Masked:
    """The batch that `save_batch` wrote (its canvas without spans). Raises `ArtifactError`."""
    folder = Path(folder)
    try:
        tensors = load_file(folder / BATCH)
        counts = json.loads((folder / NOTE).read_text())["queries"]
        queries = [Query(int(a), tensors.pop(f"query.{a}"), n) for a, n in counts.items()]
        clean, weight, rate = (tensors.pop(k) for k in ("clean_BL", "weight_BL", "rate_BL"))
        canvas = Canvas(**{k.removeprefix("canvas."): v for k, v in tensors.items()}, spans=())
        return Masked(canvas, clean, weight, rate, queries)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as e:
        raise ArtifactError(f"{folder} is not a batch saved for inspection: {e}") from None
