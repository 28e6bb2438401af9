"""What is wrong with a document, gathered while it is read: each finding with its line, its path and a remedy."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from flux_tasks.errors import Problem, nearest
from pipelines.language import templates
from pipelines.language.compiled import ColumnReference
from pipelines.language.reading import yaml

__all__ = ["Path", "ProblemCollector"]

Path = tuple[str | int, ...]

_OWN = frozenset(("stem", "name", "path"))


_OF_ENVIRONMENT = re.compile(r"(?<![\w.])env\s*\.\s*(\w+)")
_FACT = re.compile(r"(.+)_(exists|coverage)").fullmatch


def _close(name: str, known: Collection[str]) -> str:
    """The nearest of ``known``; of what is said of a column, by the column's own name."""
    fact = _FACT(name)
    if fact is None:
        return nearest(name, [n for n in known if not _FACT(n)])
    columns = {n: f"{n}_{fact[2]}" for n in known if f"{n}_{fact[2]}" in known}
    close = nearest(fact[1], columns)
    return close.replace("'?)", f"_{fact[2]}'?)") if close else ""


class ProblemCollector:
    """Gathers problems of one document."""

    def __init__(self, document: yaml.Document) -> None:
        self._document = document
        self.problems: list[Problem] = list(document.problems)
        self.wanted: list[ColumnReference] = []
        self.used: set[str] = set()
        """Names that templates refer to."""
        self.own: list[ColumnReference] = []
        """Mentions of the item's own names, where a table's column may be meant."""
        self.has_table = False
        """Whether there may be further names: the columns of a table that is not open yet."""
        self.constants: Mapping[str, Any] = {}
        """Names whose values are known now."""

    def say(self, path: Path, what: str, shown: str | None = None) -> None:
        """Something is wrong at ``path``."""
        where = ".".join(map(str, path)) if shown is None else shown
        self.problems.append(Problem(where, what, self._document.line(path)))

    def say_all(self, problems: Iterable[Problem]) -> None:
        """Problems that know their place, but not their line."""
        for problem in problems:
            path = tuple(int(part) if part.isdigit() else part for part in problem.where.split("."))
            self.problems.append(Problem(problem.where, problem.what, self._document.line(path)))

    def mapping(self, data: Any, path: Path, known: Collection[str]) -> dict[str, Any]:
        """``data`` if it is a mapping; keys that are not known are told."""
        if not isinstance(data, dict):
            self.say(path, f"{data!r} is not a mapping: write {', '.join(f'{k}: …' for k in known)}")
            return {}
        for key in data:
            if key not in known:
                hint = nearest(str(key), known) or "; known: " + ", ".join(known)
                self.say((*path, key), f"is not known here{hint}")
        return data

    def text(self, data: Any, path: Path, what: str) -> str:
        """``data`` if it is text with something in it; ``what`` says what to write instead."""
        if isinstance(data, str) and data:
            return data
        self.say(path, f"{data!r} is not text: write {what}")
        return ""

    def template(self, text: str, path: Path, known: Collection[str]) -> None:
        """Whether a template is understood and refers to what is known."""
        problem = templates.syntax_problem(text, ".".join(map(str, path)))
        if problem is not None:
            self.say(path, problem.what)
        else:
            self._names(templates.names_in(text), text, path, known)

    def templates_within(self, value: Any, path: Path, known: Collection[str]) -> None:
        """The same for every template in lists and mappings."""
        if isinstance(value, dict):
            for name, inner in value.items():
                self.templates_within(inner, (*path, name), known)
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                self.templates_within(inner, (*path, index), known)
        elif templates.is_template(value):
            self.template(value, path, known)

    def expression(self, data: Any, path: Path, known: Collection[str]) -> str:
        """A condition, if it is understood and refers to what is known; else an empty string."""
        if data is None:
            return ""
        text = data if isinstance(data, str) else str(data).lower() if isinstance(data, bool) else ""
        if not text:
            self.say(path, f"{data!r} is not a condition: write one such as 'width > 800'")
            return ""
        problem = templates.syntax_problem(text, "", expression=True)
        if problem is not None:
            self.say(path, f"{problem.what}; write a condition such as 'width > 800'")
            return ""
        self._names(templates.names_in_expression(text), text, path, known)
        return text

    def _names(self, names: Iterable[str], text: str, path: Path, known: Collection[str]) -> None:
        self.used.update(names)
        if "env" in known and "env" in names:
            allowed = self.constants.get("env", {})
            for name in dict.fromkeys(_OF_ENVIRONMENT.findall(text)):
                if name not in allowed:
                    hint = nearest(name, allowed)
                    self.say(path, f"'{text}': {name} is not in the recipe's list env{hint or ': add it there'}")
        if self.has_table:  # whose columns may be called so, too
            place = ".".join(map(str, path))
            self.own += [
                ColumnReference(name, text, place, self._document.line(path)) for name in sorted(_OWN & set(names))
            ]
        for name in sorted(set(names) - set(known)):
            if name == "env":
                wanted = ", ".join(dict.fromkeys(_OF_ENVIRONMENT.findall(text))) or "NAME"
                self.say(
                    path, f"'{text}': the recipe lists nothing of the environment: write env: [{wanted}] at its top"
                )
            elif self.has_table:
                self.wanted.append(ColumnReference(name, text, ".".join(map(str, path)), self._document.line(path)))
            else:
                hint = _close(name, known) or f"; known here: {', '.join(sorted(n for n in known if not _FACT(n)))}"
                self.say(path, f"'{text}': nothing is called '{name}'{hint}")

    def whole(self, data: Any, path: Path, *, least: int) -> int | None:
        """``data`` if it is a whole number of at least ``least``."""
        if isinstance(data, bool) or not isinstance(data, int) or data < least:
            above = f"above {least - 1}" if least > 0 else f"of at least {least}"
            self.say(path, f"{data!r} is not a whole number {above}")
            return None
        return data

    def constant(self, value: Any, extra: Mapping[str, Any]) -> Any:
        """``value`` with templates filled in that refer to nothing but what is known now; others are left alone."""
        known = {**self.constants, **extra}
        if isinstance(value, dict):
            return {name: self.constant(inner, extra) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.constant(inner, extra) for inner in value]
        if not templates.is_template(value) or templates.syntax_problem(value, "") is not None:
            return value
        if not templates.names_in(value) <= known.keys():
            return value
        try:
            return templates.render(value, known, "")
        except Exception:  # told when its turn comes
            return value
