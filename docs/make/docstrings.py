"""Prepare docstrings for the site. Griffe, which reads the code for MkDocs, calls this."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from typing import Any

import griffe

_MADE_AT_RUN_TIME = ("flux_tasks.tasks", "pipelines.steps")
_LITERAL_BLOCK = re.compile(r"(?m)(?:^[ \t]*::|(?<=\S)(:):)(?=\n\n[ \t]+\S)")
_TABLE = re.compile(r"(?ms)^=+  +=[= ]+$.*^=+  +=[= ]+$")


class Docstrings(griffe.Extension):
    """Turn ``::`` before code, and tables, into Markdown; add the docstrings of tasks and steps."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of one object, once all are loaded."""
        if obj.parent is not None and obj.parent.path in _MADE_AT_RUN_TIME and obj.docstring is None:
            made = getattr(import_module(obj.parent.path), obj.name, None)
            if callable(made) and made.__doc__:
                obj.docstring = griffe.Docstring(inspect.cleandoc(made.__doc__), parent=obj, parser="google")
        if obj.docstring is not None:
            text = _LITERAL_BLOCK.sub(r"\1", obj.docstring.value)
            obj.docstring.value = _TABLE.sub(_markdown_table, text)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Change the docstring of a package itself."""
        self.on_object(obj=pkg)


def _markdown_table(found: re.Match[str]) -> str:
    """Return a table of ``====  ====`` columns as Markdown; a line without a first cell continues the row above."""
    rules, lines = [], found[0].splitlines()
    starts = [column.start() for column in re.finditer("=+", lines[0])]
    rows: list[list[str]] = []
    for line in lines:
        cells = [line[a:b].strip().replace("|", r"\|") for a, b in zip(starts, [*starts[1:], None], strict=True)]
        if line.startswith("=="):
            rules.append(line)
        elif cells[0]:
            rows.append(cells)
        else:
            rows[-1] = [f"{above} {cell}".strip() for above, cell in zip(rows[-1], cells, strict=True)]
    head = rows.pop(0) if len(rules) == 3 else [""] * len(starts)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(starts), *rows))
