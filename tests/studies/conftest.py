"""Fixtures of the studies."""

import pytest
import small_run

from trimask.train.config import TrainConfig


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A folder with a tokenizer and a prepared set."""
    root = tmp_path_factory.mktemp("study")
    small_run.make(root)
    return root


@pytest.fixture(scope="session")
def base(prepared) -> TrainConfig:
    """A run of ten steps on it."""
    return small_run.config(prepared)
