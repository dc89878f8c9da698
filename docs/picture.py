"""Write the pictures of docs/nano.md and docs/editing.md: what the shipped model draws, says and changes.

python docs/picture.py    # a minute
"""

from pathlib import Path
from textwrap import wrap

import matplotlib

import trimask
from trimask.data.world.source import World
from trimask.evaluation.hearing import mel_frames
from trimask.hub.model import Model

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

FOLDER = Path(__file__).parent
SCENES = [str(i.parts["text"]) for i in World(kind="scenes", split="test", count=6)]
"""The first of the test split, not picked: combinations that no training caption has."""
SMALL = ("the digit seven", "the digit three", "the digit eight", "a sneaker", "a dress", "a bag")
"""As in mnist and fashion-mnist, whose pictures have 28×28 pixels."""
SCENE, UPPER = "a blue square below a yellow ring", (0, 0, 32, 16)
OTHERS = ("a blue square below a red star", "a blue square below a purple heart", "a blue square below a green moon")
NUMBER, TAIL, OTHER = "four hundred and twenty nine", (0.9, 9.0), "four hundred and fifteen"
VOICE = "british man"


def shown(axis, picture, label: str) -> None:
    axis.imshow(picture, interpolation="nearest")
    axis.set_xlabel("\n".join(wrap(label, 24)), fontsize=8)
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_edgecolor("0.85")


def heard(axis, clip, label: str) -> None:
    axis.imshow(mel_frames(clip), origin="lower", aspect="auto", extent=(0, clip.seconds, 0, 1), cmap="magma")
    axis.set_xlabel("\n".join(wrap(label, 44)), fontsize=8)
    axis.set(yticks=[], xlim=(0, max(2.4, clip.seconds)))
    axis.tick_params(labelsize=7)


def drawn(model: Model) -> None:
    pictures = [*model.image(SCENES, seed=0), *model.image(list(SMALL), size=(28, 28), seed=0)]
    figure, axes = plt.subplots(2, len(SCENES), figsize=(11, 4.4), constrained_layout=True)
    for axis, picture, caption in zip(axes.flat, pictures, (*SCENES, *SMALL), strict=True):
        shown(axis, picture, caption)
    figure.savefig(FOLDER / "nano.png", dpi=100)


def edited(model: Model) -> None:
    figure = plt.figure(figsize=(11, 6.2), constrained_layout=True)
    pictures, sounds, parts = figure.subfigures(3, 1, height_ratios=(1.15, 1, 1))

    scene = model.image(SCENE, seed=0)
    axes = pictures.subplots(1, 1 + len(OTHERS))
    shown(axes[0], scene, f"drawn: {SCENE}; its upper half is the hole")
    axes[0].add_patch(Rectangle((-0.5, -0.5), 32, 16, fill=False, edgecolor="crimson", linestyle="--", linewidth=2))
    for axis, text in zip(axes[1:], OTHERS, strict=True):
        shown(axis, model.fill(image=scene, box=UPPER, text=text, seed=0)["image"], f"filled: {text}")

    number = model.speech(NUMBER, VOICE, seed=0)
    axes = sounds.subplots(1, 3)
    heard(axes[0], number, f"spoken: {NUMBER}; the hole begins at the line")
    axes[0].axvline(TAIL[0], color="cyan", linestyle="--")
    same = model.fill(speech=number, interval=(TAIL[0], number.seconds), text=OTHER, voice=VOICE, seed=0)["speech"]
    heard(axes[1], same, f"filled in place: {OTHER}")
    free = model.fill(speech=number, interval=TAIL, seconds="any", text=OTHER, voice=VOICE, seed=0)["speech"]
    heard(axes[2], free, f"filled, of any length: {OTHER}")

    made = model.fill(image=scene, missing=("text", "speech"), voice=VOICE, seed=0)
    spoken = model.fill(speech=made["speech"], missing=("text", "image"), seed=0)
    axes = parts.subplots(1, 4, width_ratios=(1, 2, 2, 1))
    shown(axes[0], scene, "given")
    heard(axes[1], made["speech"], f"made of it: this sound, and “{made['text']}”")
    heard(axes[2], made["speech"], "given: the sound alone")
    shown(axes[3], spoken["image"], f"made of it: this picture, and “{spoken['text']}”")
    figure.savefig(FOLDER / "editing.png", dpi=100)


def main() -> None:
    model = trimask.load("nano")
    drawn(model)
    edited(model)


if __name__ == "__main__":
    main()
