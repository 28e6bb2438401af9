"""A step that is written in Python: its name, parameters and options, with other steps in the place of their ids."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel

from flux_tasks import catalog
from flux_tasks.catalog.signatures import UNSET
from flux_tasks.errors import InvalidRequest, Problem, RecipeError, nearest, shown
from pipelines.language.names import numbered
from pipelines.operations.registry import OPERATIONS

_DEEPEST = 20


class Template(str):
    """A template where a type checker wants one of several words: ``mode=Template("{{ mode }}")``; else plain text."""

    __slots__ = ()


@dataclass(frozen=True)
class Ref:
    """The result of another step, named by its id: what ``{step: id}`` is in YAML."""

    id: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"step({', '.join((repr(self.id), *_shown(self.options)))})"


@dataclass(frozen=True, eq=False, repr=False)
class StepSpec:
    """A step for a recipe, as the functions of ``pipelines.steps`` return it.

    Another step that gets its picture names it, and both are in the list of steps::

        hole = mask_from_alpha()
        steps = [hole, fill(mask=hole)]

    Attributes:
        name: a task, an operation, ``call`` or ``recipe``.
        parameters: what is written below its name, or below ``with``.
        options: what is written beside it, by its name in YAML.
        of: the function that is called, as ``package.module:function``; the recipe, or its file.
    """

    name: str
    parameters: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    of: Any = None

    def __repr__(self) -> str:
        options = {"from_" if name == "from" else name: value for name, value in self.options.items()}
        first = [] if self.of is None else [_short(self.of)]
        return f"{self.name}({', '.join((*first, *_shown(self.parameters), *_shown(options)))})"

    @property
    def id(self) -> str:
        """The id that it was given, or an empty string."""
        found = self.options.get("id")
        return "" if found is None or found is UNSET else str(found)

    def data(self, ids: Mapping[StepSpec, str] | None = None) -> dict[str, Any]:
        """Return the step as it would be in YAML; a recipe that it stands for is in there as it is.

        Raises:
            RecipeError: it names a step that has no id, here or in ``ids`` (see ``ids_of``).
        """
        ids = ids or {}
        options = {name: value for name, value in self.options.items() if value is not UNSET}
        if options.get("from") is not None:
            options["from"] = _fed(options["from"], ids)
        if self in ids:
            options["id"] = ids[self]
        given = {self.name: self.parameters} if self.of is None else {self.name: self.of, "with": self.parameters}
        found: dict[str, Any] = plain_data({**given, **options}, ids)
        return found


def step(id: str, **options: Any) -> Ref:  # noqa: A002 - its name in YAML
    """Return the result of the step with this id, as a picture parameter of another step.

    Args:
        options: of a mask: ``invert``, ``dilate`` in pixels, ``resize``.
    """
    return Ref(id, options)


def make_step(
    name: str,
    parameters: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    known: Collection[str] | None = None,
    primary: Collection[str] = (),
    of: Any = None,
) -> StepSpec:
    """Return a step, if what it is given can be written in a recipe.

    Args:
        options: by their names in Python: ``from_``.
        known: the parameters that there are; None if that is checked elsewhere.
        primary: names of the picture that it works on, which is no parameter.

    Raises:
        InvalidRequest: a parameter that it does not take, or a value that no recipe can hold; all of them at once.
    """
    problems: list[Problem] = []
    for key in parameters:
        if known is not None and key not in known:
            hint = nearest(key, known) or f"; it takes {', '.join(known)}"
            what = f"{name} has no such parameter{hint}"
            if key in primary:
                what = "comes from the step before: leave it out, or name another step with from_"
            problems.append(Problem(f"{name}.{key}", what))
    for key, value in (*parameters.items(), *options.items()):
        problems += [Problem(f"{name}.{place}", what) for place, what in _unwritable(value, key)]
    fed = options.get("from_", UNSET)
    for one in fed if isinstance(fed, (list, tuple)) else (fed,):
        if isinstance(one, Ref) and one.options:
            what = f"{shown(one)} is the picture as it is here: leave {', '.join(one.options)} out"
            problems.append(Problem(f"{name}.from_", what))
    if problems:
        raise InvalidRequest.of(problems)
    given = {key: value for key, value in parameters.items() if value is not UNSET}
    written = {key.removesuffix("_"): value for key, value in options.items() if value is not UNSET}
    return StepSpec(name, given, written, of)


def ids_of(steps: Iterable[Any]) -> dict[StepSpec, str]:
    """Return ids for those of ``steps`` that others name and that have none: what the recipe calls them by itself."""
    steps = list(steps)
    written = [(given.parameters, given.options) if isinstance(given, StepSpec) else given for given in steps]
    named = {*_specs_in(written)}
    found: dict[StepSpec, str] = {}
    taken: set[str] = set()
    for given in steps:
        if isinstance(given, (StepSpec, Mapping)):
            taken.add(name := _id(given) or numbered(_base(given), taken))
            if isinstance(given, StepSpec) and given in named and not given.id:
                found.setdefault(given, name)
    return found


def name_of(given: Any) -> str:
    """Return what people call a step that is written in Python: its id, or what the recipe calls it by itself."""
    return _id(given) or _base(given) if isinstance(given, (StepSpec, Mapping)) else str(given)


def plain_data(value: Any, ids: Mapping[StepSpec, str] | None = None) -> Any:
    """Return ``value`` as YAML can hold it: texts, numbers, lists and mappings.

    Raises:
        RecipeError: a step in it has no id, there or in ``ids``.
    """
    if isinstance(value, StepSpec):
        return {"step": _named(value, ids or {})}
    if isinstance(value, Ref):
        return {"step": value.id, **plain_data(value.options, ids)}
    if isinstance(value, BaseModel):
        return _of_model(value, ids)
    if isinstance(value, Mapping):
        return {str(name): plain_data(inner, ids) for name, inner in value.items() if inner is not UNSET}
    if isinstance(value, (list, tuple)):
        return [plain_data(inner, ids) for inner in value]
    if isinstance(value, PurePath):
        return os.fspath(value)
    for kind in (str, bool, int, float):
        if isinstance(value, kind):
            return value if type(value) is kind else kind.__str__(value) if kind is str else kind(value)
    return value


def _of_model(value: BaseModel, ids: Mapping[StepSpec, str] | None) -> Any:
    """Return a ``Mask`` or an option as a mapping of what is given; a mask of another step as that step."""
    given = {n: v for n, v in value if v != type(value).model_fields[n].default}
    origin = given.pop("file") if isinstance(given.get("file"), (StepSpec, Ref)) else None
    found = plain_data(given, ids)
    return found if origin is None else {**plain_data(origin, ids), **found}


def _named(spec: StepSpec, ids: Mapping[StepSpec, str]) -> str:
    found = spec.id or ids.get(spec, "")
    if not found:
        what = f"{shown(spec)} is named by a step and is not one itself: put it into the list of steps, before that"
        raise RecipeError([Problem("steps", what)])
    return found


def _fed(given: Any, ids: Mapping[StepSpec, str]) -> Any:
    """Return the id of each step in what ``from`` was given."""
    if isinstance(given, (list, tuple)):
        return [_fed(one, ids) for one in given]
    return _named(given, ids) if isinstance(given, StepSpec) else given.id if isinstance(given, Ref) else given


def _entries(value: Any) -> Iterable[tuple[Any, Any]]:
    """Return what a value holds, each with its name or number."""
    value = value.options if isinstance(value, Ref) else value
    if isinstance(value, Mapping):
        return value.items()
    return enumerate(value) if isinstance(value, (list, tuple)) else value if isinstance(value, BaseModel) else ()


def _specs_in(value: Any) -> Iterator[StepSpec]:
    if isinstance(value, StepSpec):
        yield value
    else:
        for _, inner in _entries(value):
            yield from _specs_in(inner)


def _id(given: StepSpec | Mapping[str, Any]) -> str:
    return given.id if isinstance(given, StepSpec) else str(given.get("id") or "")


def _base(given: StepSpec | Mapping[str, Any]) -> str:
    """Return what the recipe calls a step that has no id; a second one of the kind gets a number, too."""
    given = {given.name: given.of} if isinstance(given, StepSpec) else given
    if isinstance(given.get("call"), str):
        return str(given["call"]).rpartition(":")[2].rpartition(".")[2]
    for name in map(str, given):
        word, tool = name.replace("-", "_"), catalog.find(name)
        if word in catalog.TASKS or word in OPERATIONS:
            return word
        if tool is not None:
            return tool.task
    return str(next(iter(given), ""))


def _unwritable(value: Any, place: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield what no recipe can hold, and where it is."""
    if value is None or value is UNSET or isinstance(value, (str, int, float, PurePath, StepSpec)):
        return
    if depth > _DEEPEST:
        yield place, "is nested too deeply to be written in a recipe"
    elif isinstance(value, (Ref, BaseModel, Mapping, list, tuple)):
        for name, inner in _entries(value):
            yield from _unwritable(inner, f"{place}.{name}", depth + 1)
    else:
        remedy = "write a text, a number, a path, a list or a step"
        yield place, f"is a {type(value).__name__}, which no recipe can hold: {remedy}"


def _shown(given: Mapping[str, Any]) -> list[str]:
    return [f"{name}={_short(value)}" for name, value in given.items() if value is not UNSET]


def _short(value: Any) -> str:
    """Return another step by its id, a path as text, and everything else as it is."""
    if isinstance(value, StepSpec) and value.id:
        return repr(Ref(value.id))
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_short, value))}]"
    return repr(os.fspath(value)) if isinstance(value, PurePath) else repr(value)
