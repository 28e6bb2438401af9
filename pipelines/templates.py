"""Sandboxed Jinja: ``{{ }}`` in paths, prompts and parameters, and ``when`` conditions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, UndefinedError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from flux_tasks.errors import InvalidRequest, Problem

__all__ = ["evaluate", "is_template", "names_in", "names_in_expression", "render", "syntax_problem"]

_environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)  # paths and prompts, not HTML
_environment.globals.clear()  # no range() of a billion, no lipsum, no namespaces


def is_template(value: Any) -> bool:
    """Whether ``value`` is text with something to fill in."""
    return isinstance(value, str) and ("{{" in value or "{%" in value)


def syntax_problem(text: str, where: str, *, expression: bool = False) -> Problem | None:
    """What is wrong with the syntax of a template, or of an expression such as a ``when``."""
    try:
        if expression:
            _environment.compile_expression(text)
        else:
            _environment.from_string(text)
    except TemplateSyntaxError as error:
        return Problem(where, f"'{text}' is not understood: {error.message}")
    except (RecursionError, MemoryError):
        return Problem(where, "is nested too deeply to be understood")
    return None


@cache
def names_in(text: str) -> frozenset[str]:
    """Names that a template refers to."""
    return frozenset(meta.find_undeclared_variables(_environment.parse(text)))


def names_in_expression(text: str) -> frozenset[str]:
    """Names that an expression refers to."""
    return names_in("{{ " + text + " }}")


def render(value: Any, context: Mapping[str, Any], where: str) -> Any:
    """``value`` with every template in it filled in, through lists and mappings.

    Text that is one single ``{{ expression }}`` keeps the type of its value: ``"{{ seed }}"`` gives a number.

    Raises:
        InvalidRequest: a name is missing, or the template cannot be evaluated; ``where`` says which parameter.
    """
    if isinstance(value, Mapping):
        return {name: render(inner, context, f"{where}.{name}") for name, inner in value.items()}
    if isinstance(value, list):
        return [render(inner, context, f"{where}.{index}") for index, inner in enumerate(value)]
    if not is_template(value):
        return value
    inner = value.strip()
    if inner.startswith("{{") and inner.endswith("}}") and inner.count("{{") == 1:
        return evaluate(inner[2:-2].strip(), context, where)
    try:
        return _environment.from_string(value).render(context)
    except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
        raise InvalidRequest.of([_problem(error, value, context, where)]) from None


def evaluate(expression: str, context: Mapping[str, Any], where: str) -> Any:
    """The value of an expression such as ``width > 800 and mask_exists``.

    Raises:
        InvalidRequest: a name is missing, or it cannot be evaluated.
    """
    try:
        value = _environment.compile_expression(expression, undefined_to_none=False)(**context)
        if isinstance(value, StrictUndefined):
            str(value)  # raises, naming what is missing
    except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
        raise InvalidRequest.of([_problem(error, expression, context, where)]) from None
    return value


def _problem(error: Exception, text: str, context: Mapping[str, Any], where: str) -> Problem:
    if isinstance(error, UndefinedError):
        known = ", ".join(sorted(context))
        return Problem(where, f"'{text}': {error.message}; known here: {known}")
    return Problem(where, f"'{text}' cannot be worked out: {error}")
