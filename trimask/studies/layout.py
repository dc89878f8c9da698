"""`trimask study layout`: coordinates of positions, and how many codes share one."""

from typing import ClassVar

import chz

from trimask.studies.compare import Compare, Variant, row_key
from trimask.train.config import TrainConfig


@chz.chz
class Layout(Compare):
    """Flat against axial coordinates, stacked against single codes, at the same number of positions.

    What takes more positions sees fewer items in as many steps: that is its price.
    """

    title: ClassVar[str] = "Positions"
    threats: ClassVar[tuple[str, ...]] = (
        "Compared at the same number of positions, so what takes more of them for an item has seen fewer items.",
    )

    def variants(self, base: TrainConfig) -> dict[str, Variant]:
        out: dict[str, Variant] = {"the recipe": ()}
        v = base.model.vocabulary
        other = "flat" if v.positions == "axial" else "axial"
        out[f"{other} coordinates"] = (("model.vocabulary.positions", other),)
        for number, row in enumerate(v.modalities):
            if row.patch > 1:
                out[f"{row.name}: a position a code"] = ((f"{row_key(number)}.patch", 1),)
            if row.levels > 1:
                turned = "False" if row.stack else "True"
                name = "a position a code" if row.stack else "a position a frame"
                out[f"{row.name}: {name}"] = ((f"{row_key(number)}.stack", turned),)
                single = ((f"{row_key(number)}.stack", "False"),)
                for positions, order in (("flat", "frame by frame"), ("levels", "level by level")):
                    name = f"{row.name}: a position a code, flat coordinates {order}"
                    out[name] = (*single, ("model.vocabulary.positions", positions))
        return out
