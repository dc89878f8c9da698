"""trimask: train, sample and evaluate tri-modal masked diffusion models."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load"]

if TYPE_CHECKING:
    from trimask.hub.model import load


def __getattr__(name: str) -> Any:
    # torch takes a second to import: only what needs it pays.
    if name == "load":
        from trimask.hub.model import load

        return load
    raise AttributeError(f"module 'trimask' has no attribute {name!r}")
