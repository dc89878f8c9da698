"""Law: one batch of every task can be learned to near-zero loss and is then reproduced by sampling."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import chz
import numpy as np
import toy_run

from trimask.core.canvas import Composer, Draw, Row, read
from trimask.core.rng import generator
from trimask.data.tasks import ANY, Conditions, Task, draw_row, lay
from trimask.diffusion.samplers import Confidence
from trimask.diffusion.sampling import Engine, sample
from trimask.diffusion.settings import Settings
from trimask.hub.bundle import find, load_bundle
from trimask.train.loop import train
from trimask.train.record import last

STEPS = 300


class OneBatch(toy_run.ToySource):
    """The same item of each task in every batch; only the masks are new."""

    def items(self, number: int):
        rows = []
        for i, task in enumerate(toy_run.TASKS):
            content = toy_run.parts(generator("overfit", i))
            for copy in range(3):
                draw = Draw("toy", order=3 * number + copy)
                rows.append(toy_run.row(task, content, f"item{i}", draw, span=8 if i % 2 else None))
        return rows


def test_one_batch_of_each_task_is_learned_and_reproduced(tmp_path):
    learn(tmp_path / "run", OneBatch(rows=len(toy_run.TASKS)))
    assert_reproduced(tmp_path / "run", OneBatch().items(0)[::3])


TEXT, IMAGE, AUDIO = toy_run.VOCABULARY.modalities
STACKED = chz.replace(toy_run.VOCABULARY, modalities=(TEXT, IMAGE, chz.replace(AUDIO, stack=True)))
PAIR = "text>image+speech"
CLEAN = Conditions(clean=1.0, joint=0.0, null=0.0, unnamed=0.0)
"""No condition is withheld or masked: which item of the batch a row is could then not be told."""


class Mixed(OneBatch):
    """Two targets at once, and any part of an item given: of one that has three parts, of one that has two."""

    vocabulary = STACKED
    contents = tuple(toy_run.parts(generator("mixed", i)) for i in range(3))

    def items(self, number: int):
        both, whole, part = self.contents
        part = {k: part[k] for k in ("text", "speech")}
        rows = []
        for copy in range(12):
            draw = Draw("toy", order=12 * number + copy)
            content = (both, whole, whole, part)[copy % 4]
            name = PAIR if content is both else ANY
            segments = draw_row(name, content, STACKED, CLEAN, generator("split", draw.order))
            rows.append(Row(segments, f"item{copy % 4}", draw))
        return rows

    def splits(self) -> list[Row]:
        """A row of the task with two targets, and of every way to split the other items."""
        both, whole, part = self.contents
        rows = [Row(lay(Task.parse(PAIR), both), "both")]
        for content, kinds in ((whole, ("text", "image", "speech")), (part, ("text", "speech"))):
            for given in product((True, False), repeat=len(kinds)):
                if not all(given):
                    sides = [tuple(k for k, g in zip(kinds, given, strict=True) if g is side) for side in (True, False)]
                    rows.append(Row(lay(Task(*sides), content, {"text": 8}), f"{sides}"))
        return rows


def test_two_targets_and_any_split_are_learned_and_reproduced_with_stacked_sound(tmp_path):
    learn(tmp_path / "run", Mixed())
    rows = Mixed().splits()
    assert len(rows) == 1 + 7 + 3
    assert_reproduced(tmp_path / "run", rows)


def learn(run: Path, source: toy_run.ToySource) -> None:
    """Train to near-zero loss."""
    config = toy_run.config(run, STEPS)
    model = chz.replace(config.model, width=64, vocabulary=source.vocabulary)
    config = chz.replace(config, model=model, log_every=STEPS // 6, checkpoints=toy_run.Checkpoints(every=STEPS))
    train(config, source, {})
    row = last(run, "train")
    assert max(row["losses"].values()) < 0.02, row["losses"]


def assert_reproduced(run: Path, rows: Sequence[Row]) -> None:
    """The targets of rows, all of them hidden, are sampled as they were."""
    denoiser = load_bundle(find(run)).model
    vocabulary = denoiser.vocabulary
    settings = {m.name: Settings(Confidence(steps=8)) for m in vocabulary.modalities}
    engine = Engine(denoiser, vocabulary)
    hidden = [replace(r, segments=tuple(replace(s, hidden=s.target or None) for s in r.segments)) for r in rows]
    canvas = Composer(vocabulary, toy_run.SLOTS).compose([[r] for r in hidden])
    filled = sample(engine, canvas, settings, seed=1)
    for span in [s for s in filled.spans if s.target]:
        wanted = rows[span.row].segments[span.index].codes
        assert np.array_equal(read(filled, vocabulary, span), wanted), rows[span.row].task
