"""Pictures, sound and text that a run makes of itself while it trains."""

import chz
import numpy as np
import soundfile
from PIL import Image

from trimask.hub.bundle import Bundle
from trimask.hub.defaults import Defaults, Overrides, starting
from trimask.hub.model import Model
from trimask.train.hooks import Hook, Moment

SCALE = 4
"""Pixels are drawn this much larger, so that they can be seen."""


@chz.chz
class Samples(Hook):
    """Writes `samples/step-N/`: a sheet of pictures, a recording a sentence, and texts."""

    captions: tuple[str, ...] = (
        "a red circle",
        "a small blue star",
        "two green squares",
        "a large yellow heart",
        "a red circle above two blue squares",
        "a purple cross left of a cyan ring",
        "three small black triangles",
        "a pink moon and a green heart",
    )
    sentences: tuple[str, ...] = ("seven", "forty two")
    texts: int = chz.field(default=2, doc="texts from nothing")
    steps: int = chz.field(default=32, doc="model evaluations a sample; a causal model takes one a position")

    def __call__(self, moment: Moment) -> None:
        folder = moment.folder / "samples" / f"step-{moment.step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        place = str(next(moment.model.parameters()).device)
        vocabulary = moment.model.vocabulary
        defaults, options = Defaults(starting(vocabulary)), Overrides(steps=self.steps)
        if vocabulary.causal:
            options = Overrides()
        model = Model(Bundle(moment.model, moment.tokenizers, (), defaults, {}, folder), place)
        kinds = vocabulary.kinds
        # A model that does not read draws and speaks as it likes.
        reads = "text" in kinds
        if "image" in kinds and self.captions:
            asked = (list(self.captions), 1) if reads else (None, len(self.captions))
            drawn = model.image(*asked, seed=0, **options)
            sheet([np.array(p) for p in drawn]).save(folder / "pictures.png")
        if "speech" in kinds:
            for i, sentence in enumerate(self.sentences):
                samples, rate = model.speech(sentence if reads else None, seed=i, **options)
                soundfile.write(folder / f"{i}-{sentence.replace(' ', '-')}.wav", samples, rate)
        if reads:
            texts = [model.text("", seed=i, **options) for i in range(self.texts)]
            (folder / "texts.txt").write_text("\n---\n".join(texts) + "\n")
        moment.say(f"samples: {folder}")


def sheet(pictures: list[np.ndarray], columns: int = 4) -> Image.Image:
    """Pictures of one size side by side, enlarged with crisp pixels."""
    height, width = (SCALE * n for n in pictures[0].shape[:2])
    rows = -(-len(pictures) // columns)
    out = Image.new("RGB", (columns * (width + 4), rows * (height + 4)), "white")
    for i, picture in enumerate(pictures):
        enlarged = Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST)
        out.paste(enlarged, ((i % columns) * (width + 4), (i // columns) * (height + 4)))
    return out
