"""Prepare docstrings for the site. Griffe, which reads the code for MkDocs, calls this."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from typing import Any

import griffe

_MADE_AT_RUN_TIME = ("flux_tasks.tasks", "pipelines.steps")
_LITERAL_BLOCK = re.compile(r"(?m)(?:^[ \t]*::|(?<=\S)(:):)(?=\n\n[ \t]+\S)")


class Docstrings(griffe.Extension):
    """Turn the ``::`` before a block of code into Markdown, and add the docstrings of tasks and steps."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of one object, once all are loaded."""
        if obj.parent is not None and obj.parent.path in _MADE_AT_RUN_TIME and obj.docstring is None:
            made = getattr(import_module(obj.parent.path), obj.name, None)
            if callable(made) and made.__doc__:
                obj.docstring = griffe.Docstring(inspect.cleandoc(made.__doc__), parent=obj, parser="google")
        if obj.docstring is not None:
            obj.docstring.value = _LITERAL_BLOCK.sub(r"\1", obj.docstring.value)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Change the docstring of a package itself."""
        self.on_object(obj=pkg)
