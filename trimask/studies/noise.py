"""`trimask study noise`: by which schedule is each modality best masked in training, and weighted how?"""

from typing import ClassVar

import chz

from trimask.studies.compare import Compare, Variant, row_key
from trimask.train.config import TrainConfig


@chz.chz
class Noise(Compare):
    """The schedule of one modality at a time, with the weights of the bound and without."""

    schedules: tuple[str, ...] = chz.field(default=("linear", "cosine", "poly2"), doc="schedules that are tried")

    title: ClassVar[str] = "Noise schedules of training"

    def variants(self, base: TrainConfig) -> dict[str, Variant]:
        out: dict[str, Variant] = {"the recipe": ()}
        for number, row in enumerate(base.model.vocabulary.modalities):
            for schedule in self.schedules:
                for elbo in (True, False):
                    if (schedule, elbo) != (row.schedule, row.elbo):
                        name = f"{row.name} {schedule}{'' if elbo else ', weight 1'}"
                        prefix = row_key(number)
                        out[name] = ((f"{prefix}.schedule", schedule), (f"{prefix}.elbo", str(elbo)))
        return out
