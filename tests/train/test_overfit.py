"""Law: one batch of every task can be learned to near-zero loss and is then reproduced by sampling."""

from dataclasses import replace

import chz
import numpy as np
import toy_run

from trimask.core.canvas import Composer, Draw, read
from trimask.core.rng import generator
from trimask.diffusion.samplers import Confidence
from trimask.diffusion.sampling import Engine, Settings, sample
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
    config = toy_run.config(tmp_path / "run", STEPS)
    model = chz.replace(config.model, width=64)
    config = chz.replace(config, model=model, log_every=STEPS // 6, checkpoints=toy_run.Checkpoints(every=STEPS))
    train(config, OneBatch(rows=len(toy_run.TASKS)), {})

    row = last(tmp_path / "run", "train")
    assert max(row["losses"].values()) < 0.02, row["losses"]

    denoiser = load_bundle(find(tmp_path / "run")).model
    settings = {m.name: Settings(Confidence(steps=8)) for m in toy_run.VOCABULARY.modalities}
    engine = Engine(denoiser, toy_run.VOCABULARY, settings)
    rows = OneBatch().items(0)[::3]
    hidden = [replace(r, segments=tuple(replace(s, hidden=s.target or None) for s in r.segments)) for r in rows]
    canvas = Composer(toy_run.VOCABULARY, toy_run.SLOTS).compose([[r] for r in hidden])
    filled = sample(engine, canvas, seed=1)
    for span in [s for s in filled.spans if s.target]:
        wanted = rows[span.row].segments[span.index].codes
        assert np.array_equal(read(filled, toy_run.VOCABULARY, span), wanted), rows[span.row].task
