"""A run of several processes, as `torchrun` starts them: `world_run.py RUN SHARDS BATCH SIGNAL`.

Rows hold two items each, of all tasks. The last process gets the signal when it is to read that batch (0: none), once:
where it has begun again, no more.
"""

import os
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
PATIENCE = 0.25
"""Minutes to wait for a process."""


class Packed(ToySource):
    """Two items a row; one batch of the last process is preceded by a signal."""

    def __init__(self, struck: int | None = None, signal_: int = 0):
        super().__init__(rows=2 * ROWS)
        self.struck, self.signal = struck, signal_

    def packed(self, items: list[Row]) -> list[list[Row]]:
        return [*map(list, zip(items[::2], items[1::2], strict=True))]

    def batch(self, number: int) -> Batch:
        if number == self.struck and self.rank == self.size - 1:
            os.kill(os.getpid(), self.signal)
        return super().batch(number)


def main(arguments: Sequence[str]) -> int:
    torch.set_num_threads(1)
    run, (shards, struck, number) = Path(arguments[0]), map(int, arguments[1:])
    begun = (run / "checkpoints").exists() and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    changed = chz.replace(
        config(run, STEPS, ema=0.9),
        log_every=1,
        checkpoints=Checkpoints(every=10),
        devices=Devices(shards=shards or None, timeout=PATIENCE),
    )
    try:
        return train(changed, Packed(None if begun or not struck else struck, number), {}).exit_code
    except TrimaskError as e:
        print(e, file=sys.stderr)
        return e.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
