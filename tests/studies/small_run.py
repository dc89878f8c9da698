"""A run of some steps on a set that was really prepared, for studies to vary, and a study of it as a program."""

import io
import signal
import sys
from pathlib import Path

import chz
from rich.console import Console

from trimask.core.config import configure
from trimask.core.errors import TrainingError
from trimask.core.rng import generator
from trimask.data.prepare import prepare
from trimask.data.stream import SourceConfig, StreamConfig
from trimask.model.config import ModelConfig
from trimask.optim.sde import BasePoint
from trimask.studies.batch import Batch
from trimask.studies.conduct import conduct
from trimask.tokenizers.text import TextTokenizer
from trimask.train.config import Budget, TrainConfig, Validation, vocabulary


def make(root: Path) -> None:
    """The tokenizer and the set, in a folder."""
    rng = generator("study", 0)
    words = ("one", "two", "red", "green", "circle", "above", "and", "the")
    lines = [" ".join(rng.choice(words, rng.integers(3, 12))) for _ in range(300)]
    tokenizer = TextTokenizer.train(lines, 280)
    tokenizer.save(root / "text")
    (root / "lines.txt").write_text("\n".join(lines))
    quiet = Console(file=io.StringIO())
    prepare([str(root / "lines.txt")], {"text": tokenizer}, root / "set", workers=1, console=quiet)


def config(root: Path, steps: int = 10) -> TrainConfig:
    """The run, on what `make` made."""
    data = StreamConfig(sources=(SourceConfig(path=str(root / "set")),), tasks={"text": 1.0}, rows=4, slots=64)
    words = vocabulary((str(root / "text"),))
    return TrainConfig(
        run="unused",
        model=ModelConfig(vocabulary=words, depth=2, width=16, head_dim=16, base_width=16, base_depth=2),
        tokenizers=(str(root / "text"),),
        data=data,
        validation=Validation(data=chz.replace(data, seed=1), batches=2, every=10**6),
        budget=Budget(steps=steps),
        bases=(BasePoint(schedule="Cosine", rows=4, slots=64, steps=10, tokens=2000, gamma=0.4, critical_steps=2),),
        dtype="fp32",
        compile="off",
        device="cpu",
    )


def main(root: str, folder: str, steps: str, *settings: str) -> int:
    study = configure(chz.Blueprint(Batch), ["powers=-1,0,1", "horizons=1", "seeds=2", *settings], "study")
    try:
        return 0 if conduct(study, config(Path(root), int(steps)), Path(folder)) else 130
    except TrainingError as e:
        print(e)
        return 1


if __name__ == "__main__":
    # A shell starts what runs in the background with Ctrl-C ignored, and what that starts inherits it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(*sys.argv[1:]))
