import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

# The tiny model lies with the tests of the hub.
sys.path.append(str(Path(__file__).parents[1] / "hub"))


class Outcome(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def trimask(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command line in this process."""
    from trimask.cli.main import main

    def run(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as left:
            main([str(a) for a in arguments])
        code = left.value.code
        out, err = capsys.readouterr()
        return Outcome(code if isinstance(code, int) else int(code is not None), out, err)

    return run


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the tiny model."""
    import tiny

    return tiny.save(tmp_path_factory.mktemp("cli") / "tiny")
