"""A tiny tri-modal run on data made on the spot: real rows, real corruption, no files to prepare.

As a program it trains: `python toy_run.py RUN [steps] [key=value ...]`.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import chz
import numpy as np
import torch

from trimask.core.canvas import Composer, Draw, Row, Segment
from trimask.core.errors import TrimaskError
from trimask.core.modality import Modality, Vocabulary
from trimask.core.rng import generator
from trimask.data.stream import Batch, SourceConfig, StreamConfig
from trimask.diffusion.forward import corrupt
from trimask.model.config import ModelConfig
from trimask.optim.optimizer import OptimizerConfig
from trimask.train.config import Budget, Checkpoints, TrainConfig
from trimask.train.loop import Result, train

VOCABULARY = Vocabulary(
    modalities=(
        Modality(name="text", grid="line", codes=12, buckets=(8,), timed=True),
        Modality(name="image", grid="plane", codes=8, schedule="cosine", patch=2),
        Modality(name="audio", grid="frames", codes=6, levels=2),
    )
)
SLOTS = 64


def parts(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One tri-modal item: the picture and the sound follow from the text."""
    text = rng.integers(0, 12, 4)
    image = (text[:, None] + np.arange(2)).astype(np.int32) % 8
    sound = np.stack([text % 6, (text + 1) % 6], axis=1).astype(np.int32)
    return {"text": text.astype(np.int32), "image": image, "speech": sound}


def row(task: str, item: dict[str, np.ndarray], key: str, draw: Draw, span: int | None = None) -> Row:
    given, _, target = task.rpartition(">")
    segments = [Segment(k, item[k]) for k in given.split("+") if k]
    segments.append(Segment(target, item[target], target=True, span=span if target == "text" else None))
    return Row(tuple(segments), key, draw)


TASKS = ("text", "text>image", "image>text", "text>speech", "speech>text", "image+text>speech")


class ToySource:
    """An endless stream of fresh items, its position a number. `fixed` repeats the first batch's items."""

    vocabulary = VOCABULARY

    def __init__(self, rows: int = 4, fixed: bool = False, seed: int = 0):
        self.rows, self.fixed, self.seed, self.position = rows, fixed, seed, 0
        self.rank, self.size = 0, 1
        self.composer = Composer(self.vocabulary, SLOTS)
        self.manifests = ()

    def items(self, number: int) -> list[Row]:
        out = []
        for i in range(self.rows):
            n = number * self.rows + i
            name = i if self.fixed else n
            content = parts(generator("toy", self.seed, name))
            draw = Draw("toy", order=n)
            out.append(row(TASKS[i % len(TASKS)], content, f"item{name}", draw, span=8 if n % 2 else None))
        return out

    def packed(self, items: list[Row]) -> list[list[Row]]:
        return [[item] for item in items]

    def batch(self, number: int) -> Batch:
        rows = self.packed(self.items(number))
        each = len(rows) // self.size
        rows = rows[self.rank * each :][:each]
        canvas = self.composer.compose(rows)
        masked = corrupt(canvas, self.vocabulary, self.seed)
        tokens = {"text": 5 * len(rows), "image": 8 * len(rows), "audio": 10 * len(rows)}
        return Batch(masked, tokens, {"toy": self.rows}, {"toy": number / 100}, 0.5)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            self.position += 1
            yield self.batch(self.position - 1)

    def share(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    def state(self) -> dict:
        return {"position": self.position}

    def restore(self, state: dict) -> None:
        self.position = state["position"]

    def durations(self, modality: str) -> np.ndarray:
        """Not those of this data: the tests only look for them."""
        assert modality == "text"
        return np.arange(12) / 2 + 1


MUON = OptimizerConfig(rate=2**-7, matrices="muon")
"""What the program trains with, so that the runs which are killed have the state of both optimizers."""


def config(run: Path | str, steps: int = 40, **changes) -> TrainConfig:
    base = TrainConfig(
        run=str(run),
        model=ModelConfig(vocabulary=VOCABULARY, depth=2, width=32, head_dim=16, base_depth=2, base_width=32),
        data=StreamConfig(sources=(SourceConfig(path="toy"),), rows=4, slots=SLOTS),
        budget=Budget(steps=steps),
        optimizer=OptimizerConfig(rate=2**-7),
        checkpoints=Checkpoints(every=3),
        log_every=5,
        dtype="fp32",
        compile="off",
        device="cpu",
    )
    return chz.replace(base, **changes)


def run(run: Path | str, steps: int = 40, source: ToySource | None = None, **changes) -> Result:
    return train(config(run, steps, **changes), source or ToySource(), {})


def main(arguments: Sequence[str]) -> int:
    torch.set_num_threads(1)
    folder, steps, ema = arguments[0], int(arguments[1]), float(arguments[2])
    try:
        return run(folder, steps, ema=ema, optimizer=MUON).exit_code
    except TrimaskError as e:
        print(e, file=sys.stderr)
        return e.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
