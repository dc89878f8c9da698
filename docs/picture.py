"""Write docs/nano.png: what the shipped model draws from the first held-out descriptions of scenes, and from names.

python docs/picture.py    # half a minute
"""

from pathlib import Path
from textwrap import wrap

import matplotlib

import trimask
from trimask.data.world.source import World

matplotlib.use("Agg")
from matplotlib import pyplot as plt

TARGET = Path(__file__).parent / "nano.png"
SCENES = [str(i.parts["text"]) for i in World(kind="scenes", split="test", count=6)]
"""The first of the test split, not picked: combinations that no training caption has."""
SMALL = ("the digit seven", "the digit three", "the digit eight", "a sneaker", "a dress", "a bag")
"""As in mnist and fashion-mnist, whose pictures have 28×28 pixels."""


def main() -> None:
    model = trimask.load("nano")
    drawn = [*model.image(SCENES, seed=0), *model.image(list(SMALL), size=(28, 28), seed=0)]
    figure, axes = plt.subplots(2, len(SCENES), figsize=(11, 4.4), constrained_layout=True)
    for axis, picture, caption in zip(axes.flat, drawn, (*SCENES, *SMALL), strict=True):
        axis.imshow(picture, interpolation="nearest")
        axis.set_xlabel("\n".join(wrap(caption, 24)), fontsize=8)
        axis.set(xticks=[], yticks=[], frame_on=False)
    figure.savefig(TARGET, dpi=100)


if __name__ == "__main__":
    main()
