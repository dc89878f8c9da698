"""Configurations: `chz` objects from `key.sub=value`, and as the JSON that run folders and checkpoints keep."""

import importlib
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import chz
from chz.blueprint import ConstructionException, ExtraneousBlueprintArg, InvalidBlueprintArg, MissingBlueprintArg

from trimask.core.errors import ArtifactError, UsageError

T = TypeVar("T")
Rule = tuple[str, Callable[[float], bool]]
POSITIVE: Rule = ("must be positive and finite", lambda x: 0 < x < math.inf)
NOT_NEGATIVE: Rule = ("must be finite and not negative", lambda x: 0 <= x < math.inf)
SHARE: Rule = ("must be in [0, 1)", lambda x: 0 <= x < 1)
"""What a number of a configuration has to be."""
SETTING = re.compile(r"[A-Za-z_][\w.]*=")
_CLASS = "class "


def check(config: object, where: str, rule: Rule, *names: str) -> None:
    """Raises `UsageError` that names the first of these fields whose number, or one of whose numbers, breaks a rule.

    A field that is None is not set and passes. `where` is the key of the configuration, for the message.
    """
    for name in names:
        value = getattr(config, name)
        values = value if isinstance(value, tuple) else () if value is None else (value,)
        if not all(rule[1](x) for x in values):
            raise UsageError(f"{where}{'.' if where else ''}{name}={value} {rule[0]}")


def split_settings(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Arguments that are no settings, and those that are (`key.sub=value`)."""
    settings = [a for a in arguments if SETTING.match(a)]
    return [a for a in arguments if a not in settings], settings


def configure(blueprint: "chz.Blueprint[T]", settings: Sequence[str], what: str) -> T:
    """The object of a blueprint with settings `key.sub=value` applied.

    Raises `UsageError`, which begins with `what`, for an unknown key and for a value that does not fit.
    """
    for setting in settings:
        if not SETTING.match(setting):
            raise UsageError(f"{setting!r} is not a setting; write key=value, for example budget.steps=1000")
    try:
        return blueprint.apply_from_argv(list(settings), layer_name="command line").make()
    except UsageError:
        raise
    except (ConstructionException, ExtraneousBlueprintArg, InvalidBlueprintArg, MissingBlueprintArg, ValueError) as e:
        # On one line, and without chz's advice to append --help, which is not our way.
        reason = " ".join(str(e).partition("\nAppend --help")[0].split())
        raise UsageError(f"{what}: {reason}{_beside(e, blueprint)}") from None


def changed(config: T, settings: Sequence[str], what: str) -> T:
    """A finished configuration with settings `key.sub=value` applied. Raises `UsageError` as `configure` does."""
    if not settings:
        return config
    return configure(chz.Blueprint(type(config)).apply(chz.beta_to_blueprint_values(config)), settings, what)


def _beside(error: Exception, blueprint: "chz.Blueprint[Any]") -> str:
    """The keys that stand where an unknown one was put."""
    unknown = re.search(r"'([\w.]+)'", str(error))
    if not isinstance(error, ExtraneousBlueprintArg) or unknown is None:
        return ""
    known, above = keys(blueprint), unknown[1]
    while above not in known and above:
        above = above.rpartition(".")[0]
    begins = f"{above}." if above else ""
    beside = [k for k in known if k.startswith(begins) and "." not in k.removeprefix(begins)]
    where = f"below {above} there are" if above else "there are"
    return f"; {where}: {', '.join(beside)}" if beside else ""


def keys(blueprint: "chz.Blueprint[Any]") -> list[str]:
    """The keys that a blueprint takes, as its help lists them."""
    lines = blueprint.get_help().splitlines()
    return [m[1] for line in lines if (m := re.match(r"\s+([a-z_][\w.]*)\s{2,}", line))]


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
