"""Packages that only some uses need: `pip install 'trimask[EXTRA]'`."""

import logging
from importlib import import_module
from typing import Any

from trimask.core.errors import UsageError


def needed(package: str, asked: str, extra: str) -> Any:
    """A package of an extra. Raises `UsageError` that says what was `asked` for and needs it."""
    try:
        return import_module(package)
    except ImportError as e:
        raise UsageError(f"{asked} needs {package}: pip install 'trimask[{extra}]' ({e})") from None


def joined_ray(asked: str, address: str | None = None) -> Any:
    """Ray, joined to the cluster at an address, of RAY_ADDRESS, or started on this machine."""
    ray = needed("ray", asked, "ray")
    if not ray.is_initialized():
        try:
            ray.init(address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError) as e:
            raise UsageError(f"{asked}: no cluster at {address or 'RAY_ADDRESS'}: {e}") from None
    return ray
