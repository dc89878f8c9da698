"""The `trimask` command: its subcommands, and how errors leave it."""

import errno
import functools
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, NoReturn

import typer

from trimask import __version__
from trimask.cli import (
    caption,
    demo,
    evaluate,
    export,
    fill,
    generate,
    inspect,
    plan,
    prepare,
    score,
    study,
    tokenizer,
    train,
    transcribe,
    tune,
    world,
)
from trimask.core.errors import TrimaskError
from trimask.studies import STUDIES

DISK_ERRORS = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.EEXIST, errno.ENOTDIR,
    errno.EISDIR, errno.ENAMETOOLONG,
)  # fmt: skip
INTERRUPTED = 130
"""Exit code after an interrupt, as shells have it."""


def version(asked: bool) -> None:
    if asked:
        print(f"trimask {__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train, sample and evaluate tri-modal masked diffusion models: text, images and audio in one.

    \b
    See everything, from data to a graded model:
      trimask demo
    Look at what the shipped model makes:
      trimask generate "a red circle above two blue squares" -o out.png
      trimask generate "seven" --to speech -o out.wav
      trimask caption out.png
    Train on your own data:
      trimask inspect photos/
      trimask prepare photos/ --tokenizers nano --out sets/photos
      trimask train nano --data sets/photos --dry-run
    `trimask COMMAND --help` explains each command with examples.
    """


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """The command with errors of the package and of the disk as one line and an exit code."""

    @functools.wraps(command)
    def run(*args: object, **kwargs: object) -> None:
        try:
            command(*args, **kwargs)
        except TrimaskError as e:
            fail(str(e), e.exit_code)
        except KeyboardInterrupt as e:
            fail(f"interrupted{f': {e}' if str(e) else ''}", INTERRUPTED)
        except OSError as e:
            if e.errno not in DISK_ERRORS:
                raise
            fail(f"{e.filename or 'output'}: {e.strerror}; make room, or choose a folder that can be written", 1)

    return run


def fail(message: str, code: int) -> NoReturn:
    """One line on stderr, then the exit code."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise typer.Exit(code)


def build() -> typer.Typer:
    """The application; commands in the order of a newcomer's path."""
    out = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    out.callback()(root)
    using = (demo, generate, caption, transcribe, fill, score)
    making = (inspect, prepare, plan, train, evaluate, tune, export, world)
    for module in (*using, *making):
        name = module.__name__.rpartition(".")[2]
        out.command(name)(guarded(getattr(module, name)))
    studies = {name: study.named(name, asks) for name, asks in STUDIES.items()}
    _group(out, "study", study.__doc__, {**studies, "fit": study.fit})
    sources = {"train": tokenizer.train, "pretrained": tokenizer.pretrained, "evaluate": tokenizer.evaluate}
    _group(out, "tokenizer", tokenizer.__doc__, sources)
    return out


def _group(app: typer.Typer, name: str, about: str | None, commands: Mapping[str, Callable[..., None]]) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=about)
    for own, command in commands.items():
        group.command(own)(guarded(command))
    app.add_typer(group, name=name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; leaves by `SystemExit`."""
    # Grain warns through absl that it found no JAX, which is none of the user's business.
    logging.getLogger("absl").setLevel(logging.ERROR)
    build()(args=arguments, prog_name="trimask")
