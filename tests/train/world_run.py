"""A run of several processes, as `torchrun` starts them: `world_run.py RUN [shards] [step at which one is killed]`.

Rows hold two items each, of all tasks. A run is killed once: where it has begun again, no more.
"""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import chz
import torch
from toy_run import ToySource, config

from trimask.core.canvas import Row
from trimask.core.errors import TrimaskError
from trimask.data.stream import Batch
from trimask.train.config import Checkpoints, Devices
from trimask.train.loop import train

STEPS, ROWS = 50, 8


class Packed(ToySource):
    """Two items a row; the last process is killed when it is to read a step."""

    def __init__(self, killed_at: int | None = None):
        super().__init__(rows=2 * ROWS)
        self.killed_at = killed_at

    def packed(self, items: list[Row]) -> list[list[Row]]:
        return [*map(list, zip(items[::2], items[1::2], strict=True))]

    def batch(self, number: int) -> Batch:
        if number == self.killed_at and self.rank == self.size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(number)


def main(arguments: Sequence[str]) -> int:
    torch.set_num_threads(1)
    run, shards, killed_at = Path(arguments[0]), *(int(a) for a in arguments[1:])
    begun = (run / "checkpoints").exists() and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    changed = chz.replace(
        config(run, STEPS, ema=0.9),
        log_every=1,
        checkpoints=Checkpoints(every=10),
        devices=Devices(shards=shards or None),
    )
    try:
        return train(changed, Packed(None if begun or not killed_at else killed_at), {}).exit_code
    except TrimaskError as e:
        print(e, file=sys.stderr)
        return e.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
