"""`key.sub=value` on the command line: handed to chz, its complaints made errors of ours."""

import re
from collections.abc import Sequence
from typing import TypeVar

from trimask.core.errors import UsageError

T = TypeVar("T")
SETTING = re.compile(r"[A-Za-z_][\w.]*=")


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Arguments that are no settings, and those that are (`name.sub=value`)."""
    settings = [a for a in arguments if SETTING.match(a)]
    return [a for a in arguments if a not in settings], settings


def configure(blueprint, settings: Sequence[str], what: str):
    """The object of a chz blueprint with settings applied; `what` names it in a `UsageError`."""
    from chz.blueprint import (
        ConstructionException,
        ExtraneousBlueprintArg,
        InvalidBlueprintArg,
        MissingBlueprintArg,
    )

    for setting in settings:
        if not SETTING.match(setting):
            raise UsageError(f"{setting!r} is not a setting; write key=value, for example budget.steps=1000")
    try:
        return blueprint.apply_from_argv(list(settings)).make()
    except ExtraneousBlueprintArg as e:
        raise UsageError(f"{what}: {_first(e)}; there are: {', '.join(_keys(blueprint))}") from None
    except (ConstructionException, InvalidBlueprintArg, MissingBlueprintArg) as e:
        raise UsageError(f"{what}: {e}") from None


def _keys(blueprint) -> list[str]:
    """The keys that a blueprint takes, as its help lists them."""
    lines = blueprint.get_help().splitlines()
    return [m[1] for line in lines if (m := re.match(r"\s+([a-z_][\w.]*)\s{2,}", line))]


def _first(e: Exception) -> str:
    """chz's message without its advice to append --help, which is not our way."""
    return str(e).partition("\nAppend --help")[0]
