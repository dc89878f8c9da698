"""Studies of how settings carry: sweeps of real trainings, kept as typed records, fitted and plotted."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trimask.studies.base import Study


def _study(name: str) -> "Callable[[], type[Study]]":
    # Imported when asked for: `--help` need not load torch.
    return lambda: getattr(import_module(f"{__name__}.{name}"), name.title())


NAMES = ("coordinates", "modules", "transfer", "batch", "horizon")
STUDIES: "Mapping[str, Callable[[], type[Study]]]" = {name: _study(name) for name in NAMES}
"""Name -> what gives its class, in the order in which one needs them."""
