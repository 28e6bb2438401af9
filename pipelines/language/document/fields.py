"""What the parts of a recipe document have in common: their base class, and kinds of fields.

Reading, the JSON Schema, the Python signatures and ``to_data`` all come from these classes. So a field has all that is
known about it: its type and limits, its description (which editors show), and its ``Wording`` for messages.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from flux_tasks.catalog.fields import EXTENSIONS
from flux_tasks.errors import quote, shown
from pipelines.language.names import RESERVED, SOURCE

TEMPLATE = r"\{\{|\{%"
"""A regular expression for what a template has in it."""

Schema: TypeAlias = dict[str, Any]
NULL: Schema = {"type": "null"}
WORDS = ("description", "default", "examples")
"""Keys of a JSON Schema that only explain."""


@dataclass(frozen=True)
class Wording:
    """What a value has to be, in words for a message: ``3 is not {what}: write {remedy}``."""

    what: str
    remedy: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def check(value: Any, validate: core_schema.ValidatorFunctionWrapHandler) -> Any:
            try:
                return validate(value)
            except ValidationError as error:
                is_inside = any(problem["loc"] for problem in error.errors(include_url=False))
                if isinstance(value, dict) and value and is_inside:
                    raise  # each entry has its own problem
                raise PydanticCustomError("wording", "not as it has to be", {"wording": self}) from None

        return core_schema.no_info_wrap_validator_function(check, handler(source))


class SeveralProblems(ValueError):
    """Several things that are wrong with one value; a validator raises it."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problems))


class OrNull:
    """Marks a field that may be null in a document, which counts as left out."""


@dataclass(frozen=True)
class PythonType:
    """The type of a field in Python signatures, as source, where Python takes more than a document can hold."""

    source: str


class Part(BaseModel):
    """Base of every part of a recipe document."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    short: ClassVar[Any] = None
    """The type of a shorter way to write the part, or None."""
    wording: ClassVar[Wording | None] = None
    """For a value that is neither a mapping nor a shorter way to write one."""

    @classmethod
    def expand(cls, value: Any) -> Any:
        """Return what a shorter way to write the part stands for, or ``value``; None counts as left out."""
        return value

    @classmethod
    def fields(cls) -> dict[str, FieldInfo]:
        """Return the fields by the names that a document uses: ``from`` is no name in Python."""
        return {info.alias or name: info for name, info in cls.model_fields.items() if not info.exclude}

    def to_data(self) -> Any:
        """Return the part as plain data, without what is left out."""
        values = {info.alias or name: getattr(self, name) for name, info in type(self).model_fields.items()}
        return as_data({key: values[key] for key, info in self.fields().items() if values[key] != info.default})

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> Schema:
        found = handler.resolve_ref_schema(handler(core))
        mapping = {name: value for name, value in found.items() if name not in ("title", "description")}
        mapping["properties"] = {name: _written(found["properties"][name], info) for name, info in cls.fields().items()}
        return mapping if cls.short is None else {"anyOf": [TypeAdapter(cls.short).json_schema(), mapping]}


def parts_in(annotation: Any) -> Iterator[type[Part]]:
    """Yield the parts that a field of this type holds."""
    kinds = (annotation, *get_args(annotation))
    yield from (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Part))


def _written(found: Schema, info: FieldInfo) -> Schema:
    """Return the JSON Schema of a field as a document has it: null only where it counts as left out."""
    choices = choices_of(found, null=False)
    if any(isinstance(mark, OrNull) for mark in info.metadata):
        choices.append(NULL)
    return one_of(choices, {key: value for key, value in words_of(found).items() if value not in ("", [], {})})


def words_of(found: Schema) -> Schema:
    """Return what explains a JSON Schema."""
    return {key: found[key] for key in WORDS if found.get(key) is not None}


def choices_of(found: Schema, *, null: bool = True) -> list[Schema]:
    """Return the types that a JSON Schema allows, without what explains it."""
    bare = {key: value for key, value in found.items() if key not in (*WORDS, "title")}
    return [one for one in (bare["anyOf"] if set(bare) == {"anyOf"} else [bare]) if null or one != NULL]


def one_of(choices: Sequence[Schema], words: Schema) -> Schema:
    """Return the JSON Schema that allows each of ``choices``."""
    return {**words, **(choices[0] if len(choices) == 1 else {"anyOf": [*choices]})}


def as_data(value: Any) -> Any:
    """Return ``value`` as plain data: parts and mappings as dictionaries, a list for every tuple."""
    if isinstance(value, Part):
        return value.to_data()
    if isinstance(value, Mapping):
        return {name: as_data(inner) for name, inner in value.items()}
    return [as_data(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def texts_in(data: Any) -> Iterator[str]:
    """Yield all texts in plain data, without the names in its mappings."""
    if isinstance(data, str):
        yield data
    elif isinstance(data, (Mapping, list, tuple)):
        for inner in data.values() if isinstance(data, Mapping) else data:
            yield from texts_in(inner)


def ending(types: Iterable[str]) -> str:
    """Return a regular expression for the end of a path, in small or capital letters."""
    return "|".join("".join(f"[{c}{c.upper()}]" for c in name) for name in types)


# Signs of a word, about as str.isidentifier has them; an id may also have hyphens.
_FIRST, _NEXT = r"""[^\s\d./\\{}()\[\]:;,'"-]""", r"""[^\s./\\{}()\[\]:;,'"-]"""


def _is_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError  # noqa: TRY004 - pydantic takes no TypeError
    return value


def as_tuple(value: Any) -> Any:
    """Return a list as a tuple, and everything else as it is."""
    return tuple(value) if isinstance(value, list) else value


def as_several(value: Any) -> Any:
    """Return a list as a tuple, and one text as a tuple of one."""
    return (value,) if isinstance(value, str) else as_tuple(value)


def _as_expression(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def _is_id(text: str) -> str:
    if not text.replace("-", "_").isidentifier():
        raise ValueError(f"{shown(text)} is not an id: write a word of letters, digits, _ and -")
    if text == SOURCE:
        raise ValueError(f"'{SOURCE}' is the id of the item's own picture: choose another id")
    return text


def name_problem(name: str) -> str:
    """Return what to say of a name that cannot be used."""
    return f"{quote(name)} cannot be a name here: choose a word of letters, digits and _ that has no other meaning"


def _is_free(text: str) -> str:
    if text in RESERVED or not text.isidentifier():
        raise ValueError(name_problem(text))
    return text


def _are_distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len({repr(value) for value in values}) != len(values):
        raise ValueError("has the same value twice, and both would be paid for: keep one")
    return values


# The name of a file may have characters that UTF-8 does not, which pydantic's own str refuses.
AnyText: TypeAlias = Annotated[str, PlainValidator(_is_text, json_schema_input_type=str)]
Text: TypeAlias = Annotated[AnyText, Field(min_length=1)]

Condition: TypeAlias = Annotated[
    Text,
    BeforeValidator(_as_expression, json_schema_input_type=Text | bool),
    Wording("a condition", "one such as 'width > 800'"),
]

Id: TypeAlias = Annotated[
    AnyText,
    Wording("an id", "a word of letters, digits, _ and -"),
    AfterValidator(_is_id),
    WithJsonSchema({"type": "string", "pattern": f"^({_FIRST}|-)({_NEXT}|-)*$", "not": {"const": SOURCE}}),
]

Name: TypeAlias = Annotated[
    AnyText,
    AfterValidator(_is_free),
    WithJsonSchema(
        {"type": "string", "allOf": [{"pattern": f"^{_FIRST}{_NEXT}*$"}], "not": {"enum": sorted(RESERVED)}}
    ),
]
"""A name that templates can refer to."""

Transport: TypeAlias = Annotated[
    Literal["bytes", "auto", "url"],
    Wording("a way to send pictures", "one of bytes, auto and url"),
    WithJsonSchema({"enum": ["bytes", "auto", "url"]}),
    PythonType('Literal["bytes", "auto", "url"]'),
]

Values: TypeAlias = Annotated[
    tuple[Any, ...],
    Field(min_length=1),
    BeforeValidator(as_tuple),
    Wording("a list of values", "its values, such as [1, 2, 3]"),
    AfterValidator(_are_distinct),
]

_RESULT = {
    "type": "string",
    "pattern": rf"({TEMPLATE})[\s\S]*\.({ending(EXTENSIONS)})$",
    "examples": ["out/{{ stem }}.png"],
}
ResultPath: TypeAlias = Annotated[
    Text,
    Wording("a path template", "a template such as 'out/{{ stem }}.png'"),
    PythonType("str | PathLike[str]"),
    WithJsonSchema(_RESULT),
]
