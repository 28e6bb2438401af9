"""What goes to a terminal: text that cannot steer it, in colours only where they are wanted.

File names, columns and the messages of a service may hold anything: escape sequences, signs that turn the direction of
writing, bytes that are no text. They are printed as escapes, and have no effect.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, TextIO

from cyclopts import App

from flux_tasks.units import escape_controls

if TYPE_CHECKING:
    from rich.console import Console


def open_terminal(*, stderr: bool = False) -> Console:
    """Return standard output or standard error for rich: without any style where NO_COLOR is set (no-color.org)."""
    from rich.console import Console  # only here: it takes a tenth of the time of a short command

    class Terminal(Console):
        def on_broken_pipe(self) -> None:
            """Leave it to the caller that nobody reads any more."""
            raise BrokenPipeError

    return Terminal(stderr=stderr, color_system=None if os.environ.get("NO_COLOR") else "auto")


class Program(App):
    """A command, or a group of commands, that prints its help on ``open_terminal``."""

    @property  # type: ignore[misc]
    def console(self) -> Console:
        """Where the help and the version are printed."""
        return open_terminal()


def terminal_width() -> int | None:
    """Return how many characters fit into a line of standard output; None if it is not a terminal."""
    return open_terminal().width if sys.stdout.isatty() else None


def print_line(text: str = "", *, file: TextIO | None = None) -> None:
    """Print ``text`` and a line end on standard output, or on ``file``."""
    stream = sys.stdout if file is None else file
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(escape_controls(text).encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def print_error(text: str) -> None:
    """Print each line of ``text`` on standard error, the program's name before it."""
    for line in text.splitlines() or [""]:
        print_line(f"flux-pipelines: {line}", file=sys.stderr)


class LogHandler(logging.Handler):
    """Prints the warnings of this library as errors are printed."""

    def emit(self, record: logging.LogRecord) -> None:
        """See ``logging.Handler``."""
        print_error(record.getMessage())
