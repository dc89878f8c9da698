"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest

BESIDE = Path(__file__).parents[2] / "shared" / "data"
"""Where the data sets lie when `TRIMASK_DATA` is not set: `../shared/data` of the repository."""


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the data sets, or a skip with the reason."""
    named = os.environ.get("TRIMASK_DATA")
    root = Path(named) if named else BESIDE
    if not root.is_dir():
        pytest.skip(f"no data sets: TRIMASK_DATA is {named or 'not set'}, {root} does not exist")
    return root
