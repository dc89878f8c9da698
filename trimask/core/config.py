"""Configurations as JSON: what a run folder and a checkpoint keep of a `chz` object."""

import importlib
from typing import Any, TypeVar

import chz

from trimask.core.errors import ArtifactError

T = TypeVar("T")
_CLASS = "class "


def to_json(config: Any) -> dict[str, Any]:
    """Flat `{"model.depth": 6, ...}` with every value; a nested object's class is "class module:Name"."""
    values = chz.beta_to_blueprint_values(config)
    return {k: f"{_CLASS}{v.__module__}:{v.__qualname__}" if isinstance(v, type) else v for k, v in values.items()}


def from_json(cls: type[T], values: dict[str, Any], where: str) -> T:
    """The configuration that `to_json` wrote. `where` is the file, for the message of an error."""
    try:
        return chz.Blueprint(cls).apply({k: _restore(v) for k, v in values.items()}).make()
    except Exception as e:
        raise ArtifactError(f"{where} is not a configuration of {cls.__name__} that this version reads: {e}") from e


def _restore(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_restore(v) for v in value)
    if isinstance(value, str) and value.startswith(_CLASS):
        module, name = value.removeprefix(_CLASS).split(":")
        if module.split(".")[0] != "trimask":
            raise ValueError(f"{value} is not a class of this package")
        return getattr(importlib.import_module(module), name)
    return value
