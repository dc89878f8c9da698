import errno
import subprocess
import sys
from pathlib import Path

import pytest

import trimask as package
from trimask.cli import main as entry
from trimask.core.errors import ArtifactError, DataError, TrainingError, UsageError

COMMANDS = (
    "generate", "caption", "transcribe", "fill", "score", "inspect", "prepare", "train", "evaluate", "tune", "world",
    "tokenizer train", "tokenizer evaluate",
)  # fmt: skip
HEAVY = ("torch", "numpy", "PIL", "grain", "chz", "matplotlib", "pyarrow")


def fresh(code: str) -> str:
    """What Python prints for some code in a process of its own."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("code", ["import trimask", "from trimask.cli.main import build; build()"])
def test_nothing_heavy_is_imported_before_it_is_needed(code: str):
    assert fresh(f"import sys; {code}; print([m for m in {HEAVY} if m in sys.modules])").strip() == "[]"


def test_help_imports_nothing_heavy_and_names_every_command():
    code = f"""
import sys
from trimask.cli.main import main
try:
    main(["--help"])
finally:
    print([m for m in {HEAVY} if m in sys.modules])
"""
    printed = fresh(code)
    assert printed.rstrip().endswith("[]")
    assert all(f"  {name.split()[0]} " in printed for name in COMMANDS)


def test_python_dash_m_is_the_command():
    out = subprocess.run([sys.executable, "-m", "trimask", "--version"], capture_output=True, text=True, check=True)
    assert out.stdout == f"trimask {package.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_examples(trimask, name: str):
    done = trimask(*name.split(), "--help")
    assert done.code == 0
    assert f"trimask {name} " in done.out.split("Options:")[0].replace("Usage: trimask", "")


def test_the_samplers_in_the_help_are_those_there_are(trimask):
    from trimask.hub.defaults import SAMPLERS

    printed = " ".join(trimask("generate", "--help").out.split())
    assert f"{', '.join(list(SAMPLERS)[:-1])} or {list(SAMPLERS)[-1]}" in printed


def test_wrong_options_are_usage_errors(trimask):
    assert trimask("generate").code == 2
    assert trimask("no-such-command").code == 2
    assert trimask("generate", "x", "--no-such-option").code == 2


@pytest.mark.parametrize("kind", [UsageError, DataError, ArtifactError, TrainingError])
def test_errors_are_one_line_with_their_exit_code(kind: type, capsys: pytest.CaptureFixture[str]):
    import typer

    def broken() -> None:
        raise kind("this\nis wrong; do that")

    with pytest.raises(typer.Exit) as left:
        entry.guarded(broken)()
    assert left.value.exit_code == kind.exit_code
    assert capsys.readouterr().err == "error: this is wrong; do that\n"


def test_a_full_disk_and_an_interrupt_are_one_line(capsys: pytest.CaptureFixture[str]):
    import typer

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "out.png")

    def interrupted() -> None:
        raise KeyboardInterrupt("stopped after step 3")

    for broken, code, message in ((full, 1, "out.png: No space left"), (interrupted, 130, "stopped after step 3")):
        with pytest.raises(typer.Exit) as left:
            entry.guarded(broken)()
        assert left.value.exit_code == code
        printed = capsys.readouterr().err
        assert printed.startswith("error: ")
        assert message in printed


def test_unexpected_errors_keep_their_traceback():
    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        entry.guarded(broken)()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_really_full_disk(trimask, monkeypatch: pytest.MonkeyPatch, bundle: Path):
    from trimask.cli import options

    def write(_value: str, _path: Path) -> None:
        with open("/dev/full", "w") as f:
            f.write("x")

    monkeypatch.setattr(options, "WRITERS", {"text": write})
    done = trimask("generate", "a", "--to", "text", "--model", bundle, "-o", "unused.txt", "--steps", 2)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "No space left" in done.err
