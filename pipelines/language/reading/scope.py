"""The names that templates can refer to, and whether a template keeps to them."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from flux_tasks.errors import cut, listed, nearest, quote
from pipelines.language import templates
from pipelines.language.names import MASK_FACTS
from pipelines.language.reading.problems import Path, ProblemCollector

_COLUMN_TOO = frozenset(("stem", "name", "path"))  # what a table often calls a column
_OF_ENVIRONMENT = re.compile(r"(?<![\w.])env\s*\.\s*(\w+)")
_FACT = re.compile(f"(.+)_({'|'.join(MASK_FACTS)})").fullmatch


@dataclass(frozen=True)
class Scope:
    """The names that templates can refer to."""

    names: frozenset[str]
    constants: Mapping[str, Any] = field(default_factory=dict)
    """The names with the same value for every item, and their values."""
    has_table: bool = False
    """There may be further names: the columns of a table that is not open yet."""
    has_labels: bool = False
    """The pictures of the source have annotations."""

    def plus(self, names: Iterable[str]) -> Self:
        """Return the scope with further names."""
        return replace(self, names=self.names.union(names))

    def filled(self, value: Any, extra: Mapping[str, Any]) -> Any:
        """Return ``value`` with every template filled in that refers to nothing but constants and ``extra``."""
        if isinstance(value, dict):
            return {name: self.filled(inner, extra) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.filled(inner, extra) for inner in value]
        if not templates.is_template(value) or templates.syntax_problem(value, "") is not None:
            return value
        known = {**self.constants, **extra}
        if not templates.names_in(value) <= known.keys():
            return value
        try:
            return templates.render(value, known, "")
        except Exception:  # reported for the item that it fails for
            return value


def check_template(text: str, path: Path, scope: Scope, problems: ProblemCollector) -> None:
    """Check whether a template is understood and refers to known names only."""
    problem = templates.syntax_problem(text, "")
    if problem is not None:
        problems.add(path, problem.what)
    else:
        _check_names(templates.names_in(text), text, path, scope, problems)


def check_templates(value: Any, path: Path, scope: Scope, problems: ProblemCollector) -> None:
    """Check every template in lists and mappings."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            check_templates(inner, (*path, name), scope, problems)
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            check_templates(inner, (*path, index), scope, problems)
    elif templates.is_template(value):
        check_template(value, path, scope, problems)


def check_condition(text: str, path: Path, scope: Scope, problems: ProblemCollector) -> None:
    """Check whether a condition is understood and refers to known names only."""
    problem = templates.syntax_problem(text, "", expression=True)
    if problem is not None:
        problems.add(path, f"{problem.what}; write a condition such as 'width > 800'")
    else:
        _check_names(templates.names_in_expression(text), text, path, scope, problems)


def _check_names(names: Collection[str], text: str, path: Path, scope: Scope, problems: ProblemCollector) -> None:
    problems.used.update(names)
    read = list(dict.fromkeys(_OF_ENVIRONMENT.findall(text))) if "env" in names else []
    if "env" in scope.names:
        allowed = scope.constants.get("env", {})
        for name in read:
            if name not in allowed:
                hint = nearest(name, allowed) or ": add it there"
                problems.add(path, f"{quote(text)}: {cut(name)} is not in the recipe's list env{hint}")
    if scope.has_table:
        problems.own += [problems.reference(name, text, path) for name in sorted(_COLUMN_TOO.intersection(names))]
    for name in sorted(set(names) - scope.names):
        if name == "env":
            wanted = listed(read) or "NAME"
            problems.add(path, f"{quote(text)}: the recipe has no list env: write env: [{wanted}] at its top")
        elif scope.has_table:
            problems.wanted.append(problems.reference(name, text, path))
        else:
            plain = listed(sorted(known for known in scope.names if not _FACT(known)))
            hint = _close(name, scope.names) or f"; known here: {plain}"
            problems.add(path, f"{quote(text)}: nothing is called {quote(name)}{hint}")


def _close(name: str, known: Collection[str]) -> str:
    """Return the nearest of ``known``; a fact of a column is compared by the column's name."""
    fact = _FACT(name)
    if fact is None:
        return nearest(name, [other for other in known if not _FACT(other)])
    columns = [other for other in known if f"{other}_{fact[2]}" in known]
    close = nearest(fact[1], columns)
    return close.replace("'?)", f"_{fact[2]}'?)") if close else ""
