"""What is wrong with a document: collected with the line of each problem, and said in words that help."""

import functools
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from flux_tasks.errors import Problem, explain, nearest, shown
from pipelines.language.compiled import ColumnReference
from pipelines.language.document.fields import OrNull, Part, SeveralProblems, Wording, parts_in
from pipelines.language.reading import yaml

Path = tuple[str | int, ...]

P = TypeVar("P", bound=Part)


class ProblemCollector:
    """Collects the problems of one document and where they are, and the names that its templates refer to.

    For ``wanted`` and ``own`` see ``CompiledRecipe``.
    """

    def __init__(self, document: yaml.Document) -> None:
        self._document = document
        self.problems: list[Problem] = list(document.problems)
        self.paths: set[Path] = set()
        self.used: set[str] = set()
        self.wanted: list[ColumnReference] = []
        self.own: list[ColumnReference] = []

    def add(self, path: Path, what: str, shown: str | None = None) -> None:
        """Add a problem at ``path``, which a message shows as ``shown`` if that is given."""
        where = ".".join(map(str, path)) if shown is None else shown
        self.paths.add(path)
        self.problems.append(Problem(where, what, self._document.line(path)))

    def reference(self, name: str, text: str, path: Path) -> ColumnReference:
        """Return a mention of ``name`` by a template at ``path``."""
        return ColumnReference(name, text, ".".join(map(str, path)), self._document.line(path))


def check_keys(data: Mapping[str, Any], known: Collection[str], path: Path, problems: ProblemCollector) -> None:
    """Add a problem for every key that is not known, with the nearest one that is."""
    for key in data:
        if key not in known:
            hint = nearest(str(key), known) or "; known: " + ", ".join(known)
            problems.add((*path, key), f"unknown key{hint}")


def read_part(part: type[P], data: Any, path: Path, problems: ProblemCollector) -> P | None:
    """Return what is written at ``path``, without fields that are wrong; None if nothing is left, or was written."""
    expanded = part.expand(data)
    if isinstance(expanded, part) or (expanded is None and data is not None):
        return expanded
    fields, before = _fields_of(part), len(problems.problems)
    if not isinstance(expanded, dict):
        keys = Wording("a mapping", ", ".join(f"{key}: …" for key in fields))
        problems.add(path, _sentence(part.wording or keys, data))
        return None
    check_keys(expanded, fields, path, problems)
    given: dict[str, Any] = {}
    for key, field in fields.items():
        place, inner, value = (*path, key), field.inner, expanded.get(key)
        if key not in expanded:
            is_required = field.info.is_required()
            if is_required and not any(nearest(str(other), [key]) for other in expanded.keys() - fields.keys()):
                problems.add(place, f"is missing: write {field.wording.remedy}")
        elif value is None:
            if not field.takes_null:
                problems.add(place, _sentence(inner.wording if inner and inner.wording else field.wording, None))
        elif inner is None:
            given[key] = value
        elif field.takes_several:
            several = value if isinstance(value, list) else [value]
            places = [(*place, index) for index in range(len(several))] if several is value else [place]
            parts = [read_part(inner, one, at, problems) for one, at in zip(several, places, strict=True)]
            if (kept := tuple(one for one in parts if one is not None)) or not several:
                given[key] = kept
        elif (found := read_part(inner, value, place, problems)) is not None:
            given[key] = found
    return _validated(part, given, path, problems, is_whole=len(problems.problems) == before)


class _Field(NamedTuple):
    """What is asked about a field of a part each time one is read.

    Attributes:
        inner: the part that it holds, if it holds one.
        takes_several: whether it holds several such parts.
    """

    info: FieldInfo
    wording: Wording
    inner: type[Part] | None
    takes_null: bool
    takes_several: bool


@functools.cache
def _fields_of(part: type[Part]) -> dict[str, _Field]:
    return {
        key: _Field(
            info,
            _wording_of(info),
            inner=next(parts_in(info.annotation), None),
            takes_null=any(isinstance(mark, OrNull) for mark in info.metadata),
            takes_several=get_origin(info.annotation) is tuple,
        )
        for key, info in part.fields().items()
    }


def _validated(
    part: type[P], given: dict[str, Any], path: Path, problems: ProblemCollector, *, is_whole: bool
) -> P | None:
    """Return the part that ``given`` makes without what is wrong in it; None if nothing is left."""
    is_first = True
    while True:
        try:
            return part.model_validate(given)
        except ValidationError as error:
            wrong = [found for found in error.errors(include_url=False) if found["type"] != "missing"]
        ways = [tuple(key for key in found["loc"] if key != "[key]") for found in wrong]
        if is_first:
            for found, way in zip(wrong, ways, strict=True):
                for what in _sentences(found) if way or is_whole else ():
                    problems.add((*path, *way), what)
        before, is_first = given, False
        for way in filter(None, ways):
            given = _without(given, way)
        if given == before:  # the part as a whole is wrong
            return None


def _without(value: Any, way: Path) -> Any:
    """Return a mapping without what ``way`` leads to."""
    key, *rest = way
    if not isinstance(value, dict) or key not in value:
        return value
    if rest:
        return {**value, key: _without(value[key], tuple(rest))}
    return {name: inner for name, inner in value.items() if name != key}


def _sentences(error: Any) -> Iterator[str]:
    """Say in our words what pydantic found."""
    context = error.get("ctx", {})
    if "wording" in context:
        yield _sentence(context["wording"], error["input"])
    elif isinstance(context.get("error"), SeveralProblems):
        yield from context["error"].problems
    else:
        yield explain(error)


def _sentence(wording: Wording, value: Any) -> str:
    if value is None or value in ("", [], {}):
        remedy = wording.remedy
        if remedy.startswith("one "):
            remedy = f"{wording.what}, {remedy.removeprefix('one ')}"
        return f"{'has no value' if value is None else 'is empty'}: write {remedy}"
    return f"{shown(value)} is not {wording.what}: write {wording.remedy}"


def _wording_of(info: FieldInfo) -> Wording:
    marks: Iterable[Any] = (*info.metadata, *(mark for kind in get_args(info.annotation) for mark in get_args(kind)))
    return next((mark for mark in marks if isinstance(mark, Wording)), Wording("as it has to be", "another value"))
