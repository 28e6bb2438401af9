"""What goes to a terminal: text, and nothing that steers it.

File names, columns, and what a service says may hold anything: escape sequences, signs that turn the writing direction,
bytes that are no text. They are shown, and do nothing.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import TextIO

__all__ = ["LogHandler", "plain", "print_error", "say"]

_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    """``text`` with everything that could steer a terminal spelled out; line ends and tabs stay."""
    return _STEERING.sub(lambda sign: sign[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def say(text: str = "", *, file: TextIO | None = None) -> None:
    """Print a line, on standard output."""
    stream = sys.stdout if file is None else file
    shown = plain(text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(shown.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def print_error(text: str) -> None:
    """Print each line of ``text`` with the program's name before it, on standard error."""
    for line in text.splitlines() or [""]:
        say(f"flux-pipelines: {line}", file=sys.stderr)


class LogHandler(logging.Handler):
    """Warnings of this library, told like everything else."""

    def emit(self, record: logging.LogRecord) -> None:
        """See ``logging.Handler``."""
        print_error(record.getMessage())
