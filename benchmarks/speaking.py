r"""How far a few minutes of training bring a model that speaks: what a change of recipe is worth.

    python -m trimask.recipes.sets --world --tokenizers trimask/models/nano/tokenizers --out sets
    OMP_NUM_THREADS=1 python benchmarks/speaking.py runs/base model.width=192 model.depth=4 data.rows=8
    OMP_NUM_THREADS=1 python benchmarks/speaking.py runs/pace model.width=192 model.depth=4 data.rows=8 \
        model.vocabulary.rows.text.pace=1

Trains recipe `nano` on text>speech of the world alone, in bf16 and not compiled, so that two runs fit side
by side on two cores. Then, for validation clips: the bound (nats a token), the gap (how much worse the
bound gets with another clip's text: whether it is read at all), and how many words the recognizer hears
wrong in what is spoken, by what is said. One line of JSON.
"""

import json

from short_run import SHIPPED, arguments, bounds, trained

from trimask.data.world.source import World
from trimask.evaluation.recognizer import Recognizer
from trimask.evaluation.transcripts import word_errors
from trimask.hub.model import Model

TASK = "text>speech"


def main() -> None:
    asked = arguments(__doc__ or "", minutes=5.0, name="speech")
    model, _ = trained(asked, TASK)
    print(json.dumps(graded(model, asked.items)))


def graded(model: Model, clips: int) -> dict[str, float]:
    world = World(kind="speech", split="validation", count=clips)
    items = [world[i] for i in range(clips)]
    texts, voices = ([str(i.parts[part]) for i in items] for part in ("text", "voice"))
    right, wrong = bounds(model, items, TASK)
    recognizer = Recognizer.load(SHIPPED / "judges" / "recognizer")
    spoken = model.speech(texts, voices, seed=0)
    heard = [recognizer.transcribe([clip])[0] if len(clip.samples) else "" for clip in spoken]
    figures = {"bound": right.mean(), "gap": (wrong - right).mean()}
    for content in ("number", "sentence", "caption"):
        which = [n for n, item in enumerate(items) if item.labels["content"] == content]
        wer = word_errors([texts[n] for n in which], [heard[n] for n in which])
        figures[f"words wrong, {content}s"] = wer.value
    return {k: round(float(v), 3) for k, v in figures.items()}


if __name__ == "__main__":
    main()
