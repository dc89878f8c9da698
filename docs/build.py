"""Write docs/reference.md: the help of every command.

python docs/build.py            # `make docs`
python docs/build.py --check    # exit 1 if the file on disk is not what this would write
"""

import sys
from pathlib import Path

import typer
from typer.main import get_command

from trimask.cli.main import build

TARGET = Path(__file__).parent / "reference.md"
WIDTH = 100


def pages(command, path: tuple[str, ...]) -> list[str]:
    """A section of help for a command and for each of its subcommands, depth first."""
    context = typer.Context(command, info_name=" ".join(path), terminal_width=WIDTH, max_content_width=WIDTH)
    out = [f"## `{' '.join(path)}`\n\n```\n{command.get_help(context).strip()}\n```\n"]
    for name, child in getattr(command, "commands", {}).items():
        out += pages(child, (*path, name))
    return out


def reference() -> str:
    head = "# Reference\n\nWritten by `make docs` from the commands' own help; do not edit.\n"
    return "\n".join([head, *pages(get_command(build()), ("trimask",))])


def main() -> int:
    if "--check" in sys.argv[1:]:
        return int(not TARGET.is_file() or TARGET.read_text() != reference())
    TARGET.write_text(reference())
    return 0


if __name__ == "__main__":
    sys.exit(main())
