"""Sandboxed Jinja: ``{{ }}`` in paths, prompts and parameters, and ``when`` conditions.

A small part of it: expressions and ``{% if %}``, with the methods and filters that names and prompts need. So whatever
a recipe or a column holds, its evaluation takes little time and memory, and has no effect outside.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache, wraps
from string import Formatter
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, UndefinedError, meta, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.environment import TemplateExpression
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from flux_tasks.errors import InvalidRequest, Problem, cut, listed, quote

__all__ = [
    "evaluate",
    "folder_of",
    "is_template",
    "names_in",
    "names_in_calls",
    "names_in_expression",
    "render",
    "syntax_problem",
]

_LONGEST = 100_000  # characters, or entries, of any value that is worked out
_LONGEST_GIVEN = 1_000_000  # of what a filter is given
_LONGEST_TEXT = 30_000_000  # characters that are put together: a picture of 20 MB in base64
_METHODS = (
    "capitalize casefold count endswith find get index isalnum isalpha isdigit items keys lower lstrip partition "
    "removeprefix removesuffix rpartition rsplit rstrip split startswith strip swapcase title upper values"
)
_FILTERS = (
    "abs capitalize count d default first float int join last length list lower max min replace reverse round sort "
    "string sum title trim unique upper urlencode"
)
_AS_LONG = "count d default first last length string trim"  # no longer than what they are given
_WIDE_SPEC = re.compile(r"[0-9]{4}")
_WIDE = re.compile(r"%[^%a-zA-Z]*(\*|[0-9]{4})")  # a width that is a value, or has more than three digits
_STATEMENTS = (nodes.Output, nodes.If)


class _CodeGenerator(CodeGenerator):
    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        """Write ``a ~ b`` as a call of ``concat``, which is bounded."""
        self.write("environment.concat(map(str, (")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write(")))")


_OPEN = re.compile(r"\{\{|\{%|[*?\[]")


def _concat(parts: Iterable[str]) -> str:
    """Join the parts of a text, unless it would be huge."""
    found, length = [], 0
    for part in parts:
        length += len(part)
        if length > _LONGEST_TEXT:
            raise SecurityError("the text would be huge")
        found.append(part)
    return "".join(found)


class _Environment(ImmutableSandboxedEnvironment):
    code_generator_class = _CodeGenerator
    concat = staticmethod(_concat)
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Return ``left operator right``, unless the result would be huge."""
        numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
        if operator == "**":
            fits = numbers and abs(left) <= 1_000_000 and abs(right) <= 64
        elif operator == "*":
            fits = numbers or _size(left) * _size(right) <= _LONGEST
        elif operator == "%":
            fits = numbers or (isinstance(left, str) and _is_narrow(left, right))
        else:
            fits = numbers or _size(left) + _size(right) <= _LONGEST
        if not fits:
            raise SecurityError(f"{operator} is not evaluated for these values: the result could be huge")
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return a bounded form of ``str.format`` or ``str.format_map``, None for anything else."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        text, of_values = value.__self__, wrapped

        def bounded(*values: Any, **named: Any) -> str:
            specs = [spec for _, _, spec, _ in Formatter().parse(text) if spec is not None]
            is_wide = any("{" in spec or _WIDE_SPEC.search(spec) for spec in specs)
            if is_wide or not _is_short(text, len(specs), [*values, named]):
                raise SecurityError("format is not evaluated for these values: the result could be huge")
            return of_values(*values, **named)

        return bounded

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Check whether a template may use ``obj.attr``: data, and methods with small results."""
        return super().is_safe_attribute(obj, attr, value) and (not callable(value) or attr in _METHODS.split())


def _size(value: Any) -> int:
    """Return the amount of a number, or the extent of anything else."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return abs(int(value)) if is_number else _extent(value)


def _extent(value: Any) -> int:
    """Return how many characters and entries a value has, those of its entries among them; not much above the bounds.

    An entry that is there twice counts twice, as when it is printed.
    """
    found, left = 0, [value]
    while left and found <= _LONGEST_TEXT:
        one = left.pop()
        if isinstance(one, Mapping):
            one = [*one.keys(), *one.values()]
        found += max(1, len(one)) if isinstance(one, (str, bytes, list, tuple)) else 1
        if isinstance(one, (list, tuple)) and found <= _LONGEST_GIVEN:
            left += one
    return found


def _is_narrow(text: str, value: Any) -> bool:
    """Check whether ``text % value`` is not much longer than both together."""
    return not _WIDE.search(text) and _is_short(text, text.count("%"), value)


def _is_short(text: str, fields: int, value: Any) -> bool:
    """Check whether a text is short with so many fields that may all be filled with the whole of ``value``."""
    most = 1 if isinstance(value, tuple) else max(1, fields)
    return len(text) + most * _extent(value) <= _LONGEST


def _bounded(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that refuses huge values."""

    @wraps(call)
    def filtered(*values: Any, **named: Any) -> Any:
        if sum(map(_extent, (*values, *named.values()))) > _LONGEST_GIVEN:
            raise SecurityError(f"{name} is not evaluated for these values: they are too long")
        return call(*values, **named)

    return filtered


def _format(text: str, *values: Any, **named: Any) -> str:
    if not _is_narrow(str(text), values):
        raise SecurityError("format is not evaluated for these values: the result could be huge")
    return str(text) % (named or values)


def _replace(text: Any, old: str, new: str, count: int | None = None) -> str:
    found = str(text)
    if len(found) * max(1, len(str(new))) > _LONGEST:
        raise SecurityError("replace is not evaluated for these values: the result could be huge")
    return found.replace(str(old), str(new), -1 if count is None else count)


def _join(values: Any, between: str = "") -> str:
    parts = [str(value) for value in values]
    if sum(map(len, parts)) + len(between) * len(parts) > _LONGEST:
        raise SecurityError("join is not evaluated for these values: the result could be huge")
    return between.join(parts)


def _printed(value: Any) -> Any:
    """Return what a template prints: no null and no list, because "a photo by None" would be paid for."""
    if value is None:
        raise SecurityError("a value in it is null: write a default, such as {{ name | default('', true) }}")
    if isinstance(value, (list, tuple, Mapping)):
        kind, remedy = "list", "name[0] }}, or {{ name | join(', ')"
        if isinstance(value, Mapping):
            kind, remedy = "structure", "name.field"
        raise SecurityError(f"a value in it is a {kind}: write {{{{ {remedy} }}}}")
    return value


_environment = _Environment(undefined=StrictUndefined, autoescape=False)  # paths and prompts, not HTML
_environment.finalize = _printed
_environment.globals.clear()  # no range() of a billion, no lipsum, no namespaces
_environment.filters = {name: _environment.filters[name] for name in _FILTERS.split()}
_environment.filters |= {"replace": _replace, "join": _join, "format": _format}
_environment.filters = {
    name: call if name in _AS_LONG.split() else _bounded(name, call) for name, call in _environment.filters.items()
}


@cache
def _compiled(text: str) -> Template:
    for node in _environment.parse(text).find_all(nodes.Stmt):
        if not isinstance(node, _STATEMENTS):
            raise TemplateSyntaxError("a template knows {{ … }} and {% if %}, and no other statement", node.lineno)
    return _environment.from_string(text)


_PLAIN_WORDS = {
    "chunk after expression": "something is left over at its end",
    "unexpected 'end of template'": "something is missing at its end",
}
"""What to say of an expression instead of what Jinja says."""


@cache
def _expression(text: str) -> TemplateExpression:
    return _environment.compile_expression(text, undefined_to_none=False)


def is_template(value: Any) -> bool:
    """Check whether ``value`` is text with something to fill in."""
    return isinstance(value, str) and ("{{" in value or "{%" in value)


def folder_of(pattern: str) -> str:
    """Return the folder that is sure to hold all that a pattern or a template of paths names; the path of any other."""
    start, *rest = _OPEN.split(pattern, maxsplit=1)
    return start.rpartition("/")[0] if rest else start


def syntax_problem(text: str, where: str, *, expression: bool = False) -> Problem | None:
    """Return what is wrong with the syntax of a template, or of an expression such as a ``when``."""
    if len(text) > _LONGEST:
        return Problem(where, f"{quote(text)} has {len(text):,} characters: write at most {_LONGEST:,}")
    try:
        if expression:
            _expression(text)
        else:
            _compiled(text)
    except TemplateSyntaxError as error:
        said = _PLAIN_WORDS.get(str(error.message), error.message) if expression else error.message
        return Problem(where, f"{quote(text)} is not understood: {cut(said or '', 200)}")
    except (RecursionError, MemoryError, SyntaxError, OverflowError):
        return Problem(where, "is nested too deeply to be understood")
    except ValueError as error:  # a number of thousands of digits, half a character
        return Problem(where, f"is not understood: {cut(str(error), 200)}")
    return None


@cache
def names_in(text: str) -> frozenset[str]:
    """Return the names that a template refers to."""
    return frozenset(meta.find_undeclared_variables(_environment.parse(text)))


def names_in_expression(text: str) -> frozenset[str]:
    """Return the names that an expression refers to."""
    return names_in("{{ " + text + " }}")


_PLAIN = (nodes.And, nodes.Or, nodes.Not, nodes.Compare, nodes.Name, nodes.Const, nodes.TemplateData, nodes.CondExpr)
"""Expressions that only compare a value, or return it."""


@cache
def names_in_calls(expression: str) -> frozenset[str]:
    """Return names whose values an expression does not only compare: it gives them to filters, tests, methods, sums."""
    tree = _environment.parse("{{ " + expression + " }}")
    used = (node for node in tree.find_all(nodes.Expr) if not isinstance(node, _PLAIN))
    return frozenset(name.name for node in used for name in node.find_all(nodes.Name))


def render(value: Any, context: Mapping[str, Any], where: str) -> Any:
    """Return ``value`` with every template in it filled in, also in lists and mappings.

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
        return _compiled(value).render(context)
    except Exception as error:  # whatever a value raises is a mistake of the template
        raise InvalidRequest.of([_problem(error, value, context, where)]) from None


def evaluate(
    expression: str, context: Mapping[str, Any], where: str, *, passing: tuple[type[Exception], ...] = ()
) -> Any:
    """Return the value of an expression such as ``width > 800 and mask_exists``.

    Args:
        passing: errors of the values themselves that the caller handles.

    Raises:
        InvalidRequest: a name is missing, or it cannot be evaluated.
    """
    try:
        value = _expression(expression)(context)
        if isinstance(value, StrictUndefined):
            str(value)  # raises, naming what is missing
    except passing:
        raise
    except Exception as error:  # whatever a value raises is a mistake of the template
        raise InvalidRequest.of([_problem(error, expression, context, where)]) from None
    return value


def _problem(error: Exception, text: str, context: Mapping[str, Any], where: str) -> Problem:
    if isinstance(error, UndefinedError):
        known = listed(sorted(context))
        return Problem(where, f"{quote(text)}: {cut(error.message or '', 200)}; known here: {known}")
    return Problem(where, f"{quote(text)} cannot be evaluated: {cut(str(error), 200)}")
