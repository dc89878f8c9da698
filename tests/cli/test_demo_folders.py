"""What the demo does with folders that are there already."""

from pathlib import Path

import pytest
from rich.console import Console

from trimask.cli import demo
from trimask.core.errors import UsageError


def test_the_tokenizers_of_a_demo_are_not_exchanged(tmp_path: Path):
    console = Console(quiet=True)
    demo.tokenizers(tmp_path, False, console)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert {p.name for p in (tmp_path / "tokenizers").iterdir()} == {"text", "image", "audio"}
    demo.tokenizers(tmp_path, False, console)
    with pytest.raises(UsageError, match="without --scratch; choose another folder"):
        demo.tokenizers(tmp_path, True, console)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
