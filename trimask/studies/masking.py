"""`trimask study masking`: complementary masks, what becomes of conditions, the weight of what is given."""

from typing import ClassVar

import chz

from trimask.studies.compare import Compare, Variant
from trimask.train.config import TrainConfig

CONDITIONS = "data.conditions"


@chz.chz
class Masking(Compare):
    """Anti-masking at the same number of processed tokens, and three mixtures of condition modes."""

    title: ClassVar[str] = "What is masked"
    threats: ClassVar[tuple[str, ...]] = (
        "The bounds are those of the tasks' own mixture of conditions, which the variants change: a variant that sees "
        "more clean conditions in training is judged on the recipe's share of them.",
    )

    def variants(self, base: TrainConfig) -> dict[str, Variant]:
        def modes(clean: float, joint: float, null: float) -> Variant:
            shares = {"clean": clean, "joint": joint, "null": null}
            return tuple((f"{CONDITIONS}.{name}", share) for name, share in shares.items())

        return {
            "the recipe": (),
            "anti-masking": (("data.anti_masking", "True"),),
            "conditions always clean": modes(1.0, 0.0, 0.0),
            "no joint masks": modes(0.9, 0.0, 0.1),
            "more joint masks": modes(0.6, 0.3, 0.1),
        }
