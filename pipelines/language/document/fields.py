"""What the parts of a recipe document have in common: their base class, and the kinds of fields that several have.

From these classes come the reading of recipes, the JSON Schema, the Python signatures and ``to_data``. So a field says
everything about itself: its type and limits, its description (which editors show), and its ``Wording`` for messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from pipelines.language.names import RESERVED, SOURCE

__all__ = [
    "RESULT_TYPES",
    "TEMPLATE",
    "AnyText",
    "Condition",
    "Id",
    "Name",
    "OrNull",
    "Part",
    "PythonType",
    "ResultPath",
    "Several",
    "SeveralProblems",
    "Text",
    "Values",
    "Wording",
    "as_data",
    "as_tuple",
    "ending",
    "key_of",
    "name_problem",
    "shown",
]

T = TypeVar("T")

TEMPLATE = "\\{\\{|\\{%"
"""What a template has in it, as a regular expression."""

RESULT_TYPES = ("png", "jpg", "jpeg", "webp")
"""What the path of a result may end in; it decides the file type."""

# Signs of a word, about as str.isidentifier has them; an id may also have hyphens.
_FIRST, _NEXT = "[^\\s\\d./\\\\{}()\\[\\]:;,'\"-]", "[^\\s./\\\\{}()\\[\\]:;,'\"-]"


@dataclass(frozen=True)
class Wording:
    """What a value has to be, in words for a message: ``3 is not a condition: write one such as 'width > 800'``.

    Attributes:
        what: what the value is not.
        remedy: what to write instead.
        is_container: problems inside the value are reported one by one, not as one problem of the whole.
    """

    what: str
    remedy: str
    is_container: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def check(value: Any, validate: core_schema.ValidatorFunctionWrapHandler) -> Any:
            try:
                return validate(value)
            except ValidationError as error:
                if self.is_container and any(problem["loc"] for problem in error.errors(include_url=False)):
                    raise
                raise PydanticCustomError("wording", "not as it has to be", {"wording": self}) from None

        return core_schema.no_info_wrap_validator_function(check, handler(source))


class SeveralProblems(ValueError):
    """Several things that are wrong with one value; a validator raises it."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problems))


@dataclass(frozen=True)
class TextType:
    """Marks text of at least ``least`` characters; the name of a file may hold what UTF-8 does not."""

    least: int = 0

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def check(value: Any) -> str:
            if not isinstance(value, str) or len(value) < self.least:
                raise ValueError("is not text: write some in quotes")
            return value

        text = core_schema.str_schema(min_length=self.least or None)
        return core_schema.no_info_plain_validator_function(check, json_schema_input_schema=text)


class OrNull:
    """Marks a field that may be null in a document, which counts as left out."""


@dataclass(frozen=True)
class PythonType:
    """The type of a field in Python signatures, as source, where Python takes more than a document can hold."""

    source: str


class Part(BaseModel):
    """Base of every part of a recipe document.

    Attributes:
        short: type of a shorter way to write the part, or None.
        wording: for a value that is neither a mapping nor a shorter way to write one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    short: ClassVar[Any] = None
    wording: ClassVar[Wording | None] = None

    @classmethod
    def expand(cls, value: Any) -> Any:
        """Return what a shorter way to write the part stands for, or ``value``; None counts as left out."""
        return value

    @classmethod
    def fields(cls) -> dict[str, FieldInfo]:
        """Return the fields by the names that a document uses."""
        return {key_of(name, info): info for name, info in cls.model_fields.items() if not info.exclude}

    def to_data(self) -> Any:
        """Return the part as plain data: all that is not left out."""
        given = {
            key_of(name, info): getattr(self, name)
            for name, info in type(self).model_fields.items()
            if not info.exclude and getattr(self, name) != info.default
        }
        return as_data(given)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        found = handler.resolve_ref_schema(handler(core))
        properties = {name: _written(found["properties"][name], info) for name, info in cls.fields().items()}
        mapping = {name: value for name, value in found.items() if name not in ("title", "description")}
        mapping["properties"] = properties
        return mapping if cls.short is None else {"anyOf": [TypeAdapter(cls.short).json_schema(), mapping]}


def _written(found: Mapping[str, Any], info: FieldInfo) -> dict[str, Any]:
    """Return the JSON Schema of a field as a document has it: null only where it counts as left out."""
    schema = {name: value for name, value in found.items() if name != "title"}
    choices = [one for one in schema.pop("anyOf", ()) if one != {"type": "null"}]
    if schema.get("default") in (None, "", [], {}):
        schema.pop("default", None)
    if not any(isinstance(mark, OrNull) for mark in info.metadata):
        return {**schema, **(choices[0] if len(choices) == 1 else {"anyOf": choices} if choices else {})}
    if not choices:
        names = ("description", "default", "examples")
        choices = [{name: value for name, value in schema.items() if name not in names}]
        schema = {name: value for name, value in schema.items() if name in names}
    return {**schema, "anyOf": [*choices, {"type": "null"}]}


def key_of(name: str, info: FieldInfo) -> str:
    """Return what a document calls a field: ``from`` is no name in Python."""
    return info.alias or name


def as_data(value: Any) -> Any:
    """Return ``value`` as plain data: parts and mappings as dictionaries, a list for every tuple."""
    if isinstance(value, Part):
        return value.to_data()
    if isinstance(value, Mapping):
        return {name: as_data(inner) for name, inner in value.items()}
    return [as_data(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def shown(value: Any) -> str:
    """Return ``value`` as a message quotes it: as YAML has it, and at most 60 characters."""
    if isinstance(value, bool):
        return str(value).lower()
    try:
        text = repr(value)
    except Exception:  # a number of 5,000 digits, a list that is nested too deeply
        return f"this {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}…"


def ending(types: Sequence[str]) -> str:
    """Return a regular expression for the end of a path, in small or capital letters."""
    return "|".join("".join(f"[{c}{c.upper()}]" for c in name) for name in types)


# -- kinds of fields --------------------------------------------------------------------------------------------------


def as_tuple(value: Any) -> Any:
    """Return a list as a tuple, and everything else as it is."""
    return tuple(value) if isinstance(value, list) else value


def _as_expression(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def name_problem(name: str) -> str:
    """Return what to say of a name that cannot be used."""
    return f"'{name}' cannot be a name here, because it is taken or not a plain word: choose another"


def _word(text: str) -> str:
    if not text.replace("-", "_").isidentifier():
        raise ValueError
    return text


def _not_the_source(text: str) -> str:
    if text == SOURCE:
        raise ValueError(f"'{SOURCE}' is the id of the item's own picture: choose another id")
    return text


def _free_name(text: str) -> str:
    if text in RESERVED or not text.isidentifier():
        raise ValueError(name_problem(text))
    return text


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len({repr(value) for value in values}) != len(values):
        raise ValueError("has a value twice, and each would be paid for: keep one")
    return values


AnyText: TypeAlias = Annotated[str, TextType()]
Text: TypeAlias = Annotated[str, TextType(1)]

Several: TypeAlias = Annotated[tuple[T, ...], BeforeValidator(as_tuple)]
"""A list in a document."""

Condition: TypeAlias = Annotated[
    Text,
    BeforeValidator(_as_expression, json_schema_input_type=Text | bool),
    Wording("a condition", "one such as 'width > 800'"),
]
"""An expression; ``true`` is one, too."""

Id: TypeAlias = Annotated[
    AnyText,
    AfterValidator(_word),
    Wording("an id", "a plain word"),
    AfterValidator(_not_the_source),
    WithJsonSchema({"type": "string", "pattern": f"^({_FIRST}|-)({_NEXT}|-)*$", "not": {"const": SOURCE}}),
]

Name: TypeAlias = Annotated[
    AnyText,
    AfterValidator(_free_name),
    WithJsonSchema(
        {
            "type": "string",
            "allOf": [{"pattern": f"^{_FIRST}{_NEXT}*$"}],
            "not": {"enum": sorted(RESERVED)},
        }
    ),
]
"""A name that templates can refer to."""

Values: TypeAlias = Annotated[
    tuple[Any, ...],
    Field(min_length=1),
    BeforeValidator(as_tuple),
    Wording("a list of values", "its values, such as [1, 2, 3]"),
    AfterValidator(_distinct),
]

ResultPath: TypeAlias = Annotated[
    Text,
    Wording("a path template", "a template such as 'out/{{ stem }}.png'"),
    PythonType("str | PathLike[str]"),
    WithJsonSchema(
        {
            "type": "string",
            "examples": ["out/{{ stem }}.png"],
            "pattern": f"({TEMPLATE})[\\s\\S]*\\.({ending(RESULT_TYPES)})$",
        }
    ),
]
