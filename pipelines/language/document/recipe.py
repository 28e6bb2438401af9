"""The recipe document as a whole: its source, its outputs, its budget."""

from typing import Annotated, Any, ClassVar, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from pipelines.language import templates
from pipelines.language.document.annotations import Annotations
from pipelines.language.document.fields import (
    TEMPLATE,
    AnyText,
    Condition,
    Name,
    OrNull,
    Part,
    Text,
    Transport,
    Wording,
    as_several,
    as_tuple,
    ending,
)
from pipelines.language.document.on_end import OnEnd
from pipelines.language.document.output import Output

TABLE_TYPES = ("csv", "tsv", "jsonl", "ndjson", "parquet")
"""What the name of a table may end in."""

DATASET_FORMATS = ("imagefolder", "parquet", "webdataset", "arrow")
"""Formats of datasets; ``pipelines/data/formats`` reads them."""

MOST_BITS = 12
"""Bits of 64: pictures whose perceptual hashes differ in more of them have little in common."""

REQUIRED = ("source", "steps", "output")
"""What every recipe has."""


def _no_template(value: Any) -> Any:
    if templates.is_template(value):
        raise ValueError("a variable has one value for all items: write this template as a column of the source")
    return value


_TABLE = ending(TABLE_TYPES)
_Table = Annotated[
    Text,
    Wording("the path of a table", f"the path of a file that ends in {', '.join('.' + name for name in TABLE_TYPES)}"),
    WithJsonSchema({"type": "string", "pattern": f"(^|\\.)({_TABLE})$|^https?://[^?#]*\\.({_TABLE})[?#]"}),
]
_Image = Annotated[Text, Wording("a path template", "a template such as 'photos/{{ file }}'")]
_Template = Annotated[AnyText, Wording("text", "a template in quotes")]
_Sample = Annotated[
    Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)],
    Wording("a share below 1 or a whole number of items", "one such as 0.1 or 50"),
]
_Seed = Annotated[int, Field(ge=0), Wording("a whole number of at least 0", "one such as 1")]
_Limit = Annotated[int, Field(ge=1), Wording("a whole number above 0", "one such as 100")]
_Credits = Annotated[
    float, Field(ge=0), Wording("a number of credits (1 credit is 0.01 USD)", "0 or more, such as 200")
]
_Glob = Annotated[Text, Field(examples=["photos/*.jpg"])]
_Place = Annotated[Text, Field(examples=["shards/*.tar"])]
_Places = Annotated[list[_Place], Field(min_length=1)]
_Globs = Annotated[list[_Glob], Field(min_length=1)]
_Constant = Annotated[
    Any, AfterValidator(_no_template), WithJsonSchema({"not": {"type": "string", "pattern": TEMPLATE}})
]


_Bits = Annotated[
    int, Field(ge=1, le=MOST_BITS), Wording("a number of bits that may differ", f"one from 1 to {MOST_BITS}, such as 4")
]


class Dedupe(Part):
    """Leaves out items whose picture another item has."""

    short: ClassVar[Any] = Literal["exact"]
    wording: ClassVar[Wording | None] = Wording("a way to find duplicates", "exact, or {near: 4}")

    near: Annotated[_Bits | None, OrNull()] = Field(
        None, description=f"Bits of the perceptual hash (64 bits) that may differ, 1 to {MOST_BITS}; 4 is strict."
    )

    @classmethod
    def expand(cls, value: Any) -> Any:
        """Return the word ``exact`` as a mapping."""
        return {} if value == "exact" else value

    def to_data(self) -> Any:
        """Return the part as plain data: a word, if that says it all."""
        return super().to_data() or "exact"


class Source(Part):
    """Where items come from: globs of pictures, a table with one item a row, or a dataset."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [{"required": ["images"]}, {"required": ["table"]}, {"required": ["dataset"]}],
            "dependentRequired": {name: ["dataset"] for name in ("split", "format", "config")},
            "dependentSchemas": {"image": {"anyOf": [{"required": ["table"]}, {"required": ["dataset"]}]}},
        }
    )

    short: ClassVar[Any] = _Glob | _Globs
    wording: ClassVar[Wording | None] = Wording(
        "a source", "a glob such as 'photos/*.jpg', {table: items.csv} or {dataset: shards/}"
    )

    images: Annotated[
        tuple[Text, ...],
        Field(min_length=1),
        BeforeValidator(as_several, json_schema_input_type=_Glob | _Globs),
        Wording("a glob or a list of globs", "a glob such as 'photos/*.jpg'"),
        OrNull(),
    ] = Field((), description="Globs of pictures, or folders, on any path or fsspec URL; each picture is an item.")
    table: _Table = Field(
        "", description="A CSV, TSV, JSONL or Parquet file, or a glob of several; each row is an item."
    )
    dataset: Annotated[
        tuple[Text, ...],
        Field(min_length=1),
        BeforeValidator(as_several, json_schema_input_type=_Place | _Places),
        Wording("a folder, a glob of files, or a list of these", "one such as data/ or 'shards/{000..004}.tar'"),
        OrNull(),
    ] = Field((), description="A dataset: its folder, or its Parquet, Arrow or tar files; each of its rows is an item.")
    format: Annotated[
        Literal["", "imagefolder", "parquet", "webdataset", "arrow"],
        Wording("a format", f"one of {', '.join(DATASET_FORMATS)}"),
        WithJsonSchema({"enum": [*DATASET_FORMATS]}),
        OrNull(),
    ] = Field("", description="The format of the dataset; recognised by its files if left out.")
    split: Annotated[Text, Wording("a split", "a name such as train"), OrNull()] = Field(
        "", description="The split of the dataset whose items are taken; all of them if left out."
    )
    config: Annotated[Text, Wording("a config", "a name that the dataset's README.md lists"), OrNull()] = Field(
        "", description="The config of the dataset, by its name in README.md; its default one if left out."
    )
    image: _Image = Field(
        "", description="Where the picture of a row is: 'photos/{{ file }}', or the column '{{ after }}' of a dataset."
    )
    columns: Annotated[
        dict[Name, _Template],
        Wording("a mapping of names to templates", "one such as {mask: 'masks/{{ stem }}.png'}"),
        OrNull(),
    ] = Field({}, description="Names with templates, filled in for each item, such as mask: 'masks/{{ stem }}.png'.")
    annotations: Annotated[Annotations | None, OrNull()] = Field(
        None, description="Labels of the pictures: a path, or {path, format}. Masks are made of them, and they follow."
    )
    filter: Annotated[Condition, OrNull()] = Field(
        "", description="An expression; items for which it is false are left out."
    )
    dedupe: Annotated[Dedupe | None, OrNull()] = Field(
        None, description="Leave out items whose picture another item has: exact (the same bytes), or {near: 4}."
    )
    sample: Annotated[_Sample | None, OrNull()] = Field(
        None, description="So many items at random (a whole number), or that share of them (below 1)."
    )
    seed: Annotated[_Seed, OrNull()] = Field(0, description="The same seed takes the same sample.")
    limit: Annotated[_Limit | None, OrNull()] = Field(
        None, description="So many items at most, after filter and sample."
    )

    @classmethod
    def expand(cls, value: Any) -> Any:
        """Return globs as a mapping."""
        return {"images": value} if isinstance(value, (str, list)) else value

    @property
    def has_pictures(self) -> bool:
        """Whether its items come with a picture."""
        return bool(self.images or self.image or self.dataset)

    @property
    def has_rows(self) -> bool:
        """Whether its items have columns of their own."""
        return bool(self.table or self.dataset)


def check_time_zone(value: str) -> str:
    """Return the name of a time zone that is the same one on every machine.

    Raises:
        ValueError: it is not known, or means what a machine is set to.
    """
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        is_known = False
    else:
        is_known = value.partition("/")[0] not in ("localtime", "posixrules", "Factory", "right")
    if not is_known:
        raise ValueError("write a time zone such as UTC or Europe/Berlin")
    return value


_TimeZone = Annotated[Text, Wording("a time zone", "one such as Europe/Berlin"), AfterValidator(check_time_zone)]


class Budget(Part):
    """The most that a run may spend, and all runs of the recipe together in a day or a month."""

    short: ClassVar[Any] = Annotated[float, Field(ge=0)]
    wording: ClassVar[Wording | None] = Wording("a number of credits (1 credit is 0.01 USD)", "one such as 200")
    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": [name]} for name in ("credits", "day", "month")]}
    )

    credits: _Credits | None = Field(None, description="Of one run. 1 credit is 0.01 USD.")
    day: _Credits | None = Field(None, description="Of all runs of recipes with this name, in a calendar day.")
    month: _Credits | None = Field(None, description="Of all runs of recipes with this name, in a calendar month.")
    timezone: Annotated[Text, Wording("a time zone", "one such as Europe/Berlin"), AfterValidator(check_time_zone)] = (
        Field("UTC", description="Where days and months begin.")
    )

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if self.credits is self.day is self.month is None:
            raise ValueError("write credits, day or month, such as {day: 500}")
        return self

    @classmethod
    def expand(cls, value: Any) -> Any:
        """Return a number as a mapping."""
        return {"credits": value} if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _as_calls(value: Any) -> Any:
    return (value,) if isinstance(value, dict) else as_tuple(value)


class RecipeDocument(Part):
    """Where pictures come from, what is done to each, and where the results go."""

    model_config = ConfigDict(json_schema_extra={"required": [*REQUIRED]})

    name: Annotated[Text, Wording("a name", "some text")] = Field(
        "recipe", description="The recipe's name, for reports."
    )
    vars: Annotated[
        dict[Name, _Constant], Wording("a mapping of names to values", "one such as {style: oil}"), OrNull()
    ] = Field({}, description="Constants for templates: {style: oil} is {{ style }}. --set style=ink changes it.")
    env: Annotated[
        tuple[AnyText, ...],
        BeforeValidator(as_tuple),
        Wording("a list of names of environment variables", "one such as [USER]"),
        OrNull(),
    ] = Field((), description="Environment variables that templates may see, as {{ env.NAME }}. No secrets.")
    transport: Annotated[Transport | None, OrNull()] = Field(
        None,
        description="How pictures are sent: bytes, auto or url, as for a step. FLUX_TRANSPORT if left out.",
    )
    storage_options: Annotated[
        dict[AnyText, dict[AnyText, Any]],
        Wording("a mapping of URL prefixes to options", "one such as {'s3://archive/': {profile: readonly}}"),
        OrNull(),
    ] = Field(
        {},
        description="Accounts of buckets by URL prefix, the longest holds: {'s3://archive/': {profile: readonly}, "
        "'s3://public/': {anon: true}}. No secrets: write {env: NAME} for one.",
    )
    source: Source | None = Field(
        None, description="Where items come from: a glob of pictures, or a mapping with images, a table or a dataset."
    )
    steps: Annotated[Any, OrNull()] = Field(
        None, description="What is done, in order: each gets the picture of the one before, or of those in from."
    )
    output: Output | Annotated[list[Output], Field(min_length=1)] | None = Field(
        None, description="Where results go: a path template, {path, from}, {dataset, format}, or a list of these."
    )
    budget: Annotated[Budget | None, OrNull()] = Field(
        None, description="The most that a run may spend, in credits (1 credit = 0.01 USD)."
    )
    on_end: Annotated[
        tuple[OnEnd, ...],
        Field(min_length=1),
        BeforeValidator(_as_calls, json_schema_input_type=OnEnd | list[OnEnd]),
        Wording("a call or a list of calls", "one such as {webhook: 'https://…', when: failed}"),
        OrNull(),
    ] = Field((), description="Who is told when a run ends: {command} or {webhook}, with when; or a list of these.")
