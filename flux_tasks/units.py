"""Sizes, money, durations and tables, as text for people."""

from __future__ import annotations

import io
import math
import re
import unicodedata
from collections.abc import Collection, Sequence

__all__ = [
    "credits",
    "dollars",
    "duration",
    "escape_controls",
    "is_blank",
    "measured_duration",
    "price",
    "px_size",
    "table_text",
]

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-\udfff]")
_FILLERS = "\u115f\u1160\u2800\u3164\uffa0"  # letters and signs that are drawn as an empty space
_UNSEEN = ("Cc", "Cf", "Mn", "Me", "Zl", "Zp", "Zs")  # Unicode's categories of what draws nothing by itself
_NARROWEST = 20  # characters of a folded column: below, a terminal folds the lines better
_NO_LIMIT = 100_000  # columns: wider than any table


def is_blank(text: str) -> bool:
    """Check whether ``text`` has no visible character: only white space, zero-width characters, lone accents."""
    return all(sign in _FILLERS or unicodedata.category(sign) in _UNSEEN for sign in text)


def px_size(size: tuple[int, int]) -> str:
    """Return ``(width, height)`` as ``640×480 px``."""
    return f"{size[0]}×{size[1]} px"


def credits(value: float) -> str:
    """Return credits with at most two decimals."""
    return f"{value:,.2f}".rstrip("0").rstrip(".")


def dollars(credits: float) -> str:
    """Return credits in USD; half a cent is rounded up."""
    return f"${math.floor(credits + 0.5 + 1e-9) / 100:,.2f}"


def price(value: float) -> str:
    """Return ``value`` credits as ``1,250.00 credits ($12.50)``."""
    return f"{value:,.2f} credits ({dollars(value)})"


def duration(seconds: float | None) -> str:
    """Return seconds as ``40 s``, ``12 min``, ``3.5 h`` or ``4.0 d``, rounded up to whole seconds or minutes.

    None is ``unknown``.
    """
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    minutes = math.ceil(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes / 60:.1f} h" if minutes < 48 * 60 else f"{minutes / 1440:.1f} d"


def measured_duration(seconds: float) -> str:
    """Return measured seconds as ``0.05 s``, ``1.2 s``, ``1 min 05 s`` or ``2 h 10 min``."""
    if seconds < 0.01:
        return "under 0.01 s" if seconds else "0 s"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def escape_controls(text: str) -> str:
    """Return ``text`` with each character that steers a terminal as an escape sequence; line ends and tabs stay."""
    return _CONTROLS.sub(lambda sign: sign[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def table_text(rows: Sequence[Sequence[str]], *, right: Collection[int] = (), width: int | None = None) -> str:
    """Return ``rows`` as aligned columns with two spaces between them.

    Args:
        rows: the cells of each line, all lines of the same length.
        right: the numbers of the columns that are aligned to the right, from 0.
        width: how many characters a line may have: the widest column is folded, if that is enough. None: a row is
            always one line.
    """
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[escape_controls(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    widest = widths.index(max(widths)) if widths else 0
    if width is not None and width < sum(widths) - max(widths) + 2 * len(widths) + _NARROWEST:
        width = None
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for number in range(len(widths)):
        is_folded = width is not None and number == widest
        table.add_column(justify="right" if number in right else "left", overflow="fold", no_wrap=not is_folded)
    for row in cells:
        table.add_row(*map(Text, row))
    text = io.StringIO()
    console = Console(file=text, width=width or _NO_LIMIT, color_system=None, force_terminal=False, force_jupyter=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
