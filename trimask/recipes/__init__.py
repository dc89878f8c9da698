"""Recipes: complete runs as Python functions.

A recipe is a function without required arguments that returns a `chz` blueprint of a
`train.config.TrainConfig` (or a finished `TrainConfig`). It is named by

* its module in this package: `nano` is `trimask.recipes.nano:nano`;
* a preset of `recipes.families`, for example `3B`;
* `package.module:function`, anything that can be imported;
* `path/to/file.py:function`, a file of the user's own.

What follows its name on the command line (`key.sub=value`) goes to `chz` as it is.
"""

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from trimask.core.errors import UsageError

if TYPE_CHECKING:
    import chz

    from trimask.train.config import TrainConfig

Recipe = Callable[[], Any]
LAW = Path(__file__).with_name("law.json")
"""What `trimask study scaling` found on the built-in world (docs/studies): what `trimask plan` reads unless told."""


def names() -> list[str]:
    """Recipes that come with the package: modules that define a function of their own name, and the presets."""
    own = sorted(m.replace("_", "-") for m in _modules() if hasattr(_module(f"{__name__}.{m}", m), m))
    return [*own, *(name for name in _presets() if name not in own)]


def _modules() -> list[str]:
    return [m.name for m in pkgutil.iter_modules(__path__)]


def _presets() -> Sequence[str]:
    from trimask.recipes.families import PRESETS

    return list(PRESETS)


def find(name: str) -> Recipe:
    """The recipe of a name. Raises `UsageError` that lists what there is."""
    module, colon, function = name.rpartition(":")
    if not colon:
        if name not in names():
            raise UsageError(
                f"no recipe is called {name!r}; there are: {', '.join(names()) or 'none'}. A recipe of your own "
                "is FILE.py:FUNCTION or MODULE:FUNCTION"
            )
        function = name.replace("-", "_")
        module = f"{__name__}.{function}"
        if name in _presets() and function not in _modules():
            from trimask.recipes.tri import sized

            return partial(sized, name)
    found = getattr(_module(module, name), function, None)
    if not callable(found):
        raise UsageError(f"recipe {name!r}: {module} has no function {function!r}")
    return found


def _module(module: str, name: str) -> ModuleType:
    if not module.endswith(".py"):
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as e:
            raise UsageError(f"recipe {name!r} cannot be imported: {e}") from None
    path = Path(module)
    if not path.is_file():
        raise UsageError(f"recipe {name!r}: there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def blueprint(name: str) -> "chz.Blueprint[TrainConfig]":
    """The blueprint of a recipe, without overrides."""
    import chz

    from trimask.train.config import TrainConfig

    made = find(name)()
    if isinstance(made, TrainConfig):
        return chz.Blueprint(TrainConfig).apply(chz.beta_to_blueprint_values(made))
    if not isinstance(made, chz.Blueprint):
        raise UsageError(f"recipe {name!r} returned {type(made).__name__}, not a chz.Blueprint or a TrainConfig")
    return made


def configure(name: str, overrides: Sequence[str] = ()) -> "TrainConfig":
    """The configuration of a recipe with overrides `key.sub=value`.

    Raises `UsageError` for an unknown recipe or key, and for a value that does not fit its key.
    """
    from trimask.core import config

    return config.configure(blueprint(name), overrides, f"recipe {name}")


def options(name: str) -> str:
    """Every key of a recipe with its type, value and meaning, as `chz` prints it."""
    return blueprint(name).get_help()
