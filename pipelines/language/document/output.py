"""Where results go: files, each at a path of its own, or rows of a dataset."""

import hashlib
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema

from pipelines.language import templates
from pipelines.language.document.annotations import LabelFiles
from pipelines.language.document.fields import AnyText, OrNull, Part, ResultPath, Text, Wording, as_several

DatasetFormat: TypeAlias = Literal["imagefolder", "parquet", "webdataset"]
SPLIT = re.compile(r"\w+(\.\w+)*", re.ASCII)
"""What the ``datasets`` library takes as the name of a split (``datasets.splits.NamedSplit``)."""

_PATH = "A path or URL with a template in it, such as 'out/{{ stem }}.png'; it ends in .png, .jpg, .jpeg or .webp, "
_PATH += "and that is the file type."
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(kB|KB|MB|GB|KiB|MiB|GiB)")
_UNITS = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SIZES = (1_000_000, 50_000_000_000)


def bytes_of(text: str) -> int:
    """Return the bytes that a text such as ``500 MB`` stands for.

    Raises:
        ValueError: it is no size, or one below 1 MB or above 50 GB.
    """
    found = _SIZE.fullmatch(text.strip())
    size = int(float(found[1]) * _UNITS[found[2].lower()]) if found else 0
    if not _SIZES[0] <= size <= _SIZES[1]:
        raise ValueError
    return size


def _is_size(text: str) -> str:
    bytes_of(text)
    return text


def _is_split(value: str | Mapping[str, float]) -> Any:
    if isinstance(value, str):
        if not templates.is_template(value) and not SPLIT.fullmatch(value):
            raise ValueError
    elif not all(map(SPLIT.fullmatch, value)) or abs(sum(value.values()) - 1) > 1e-6:
        raise ValueError
    return value


def _is_place(text: str) -> str:
    if text.startswith("file://") or not text.strip("/."):
        raise ValueError
    return text.rstrip("/")


_Share = Annotated[float, Field(gt=0, le=1)]
_Split = Annotated[
    Text | Annotated[dict[Text, _Share], Field(min_length=1)],
    AfterValidator(_is_split),
    Wording(
        "the name of a split, a template of one, or shares that add up to 1",
        "train, '{{ split }}' or {train: 0.9, test: 0.1}",
    ),
]
_ShardSize = Annotated[
    Text,
    AfterValidator(_is_size),
    Wording("a size from 1 MB to 50 GB", "one such as 500 MB"),
    WithJsonSchema({"type": "string", "pattern": rf"^\s*{_SIZE.pattern}\s*$", "examples": ["500 MB"]}),
]
_Folder = Annotated[
    Text,
    AfterValidator(_is_place),
    Wording("a folder of its own", "a path or URL such as out/clean or s3://bucket/clean"),
]


class Conversion(Part):
    """How the pictures of a dataset are encoded; where it is left out, their bytes stay as they are."""

    wording: ClassVar[Wording | None] = Wording("a mapping", "one such as {format: jpeg, quality: 92, size: 1024}")

    format: Annotated[Literal["png", "jpeg", "webp"] | None, OrNull(), Wording("a file type", "png, jpeg or webp")] = (
        Field(None, description="File type of the results; their own if left out.")
    )
    quality: Annotated[
        Annotated[int, Field(ge=1, le=100)] | None, OrNull(), Wording("a whole number from 1 to 100", "one such as 92")
    ] = Field(None, description="Of jpeg and webp; 95 by default.")
    size: Annotated[
        Annotated[int, Field(ge=16, le=16_384)] | None,
        OrNull(),
        Wording("a number of pixels from 16 to 16384", "one such as 1024"),
    ] = Field(None, description="Pixels of the longer side at most; originals and masks are made smaller with it.")


class Output(Part):
    """Where results go: to files (``path``), or into a dataset (``dataset``), to which later runs add."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["path"]}, {"required": ["dataset"]}]})

    short: ClassVar[Any] = Annotated[ResultPath, Field(description=_PATH)]
    wording: ClassVar[Wording | None] = Wording(
        "a path template or a mapping", "a template such as 'out/{{ stem }}.png', or {dataset: out/clean}"
    )

    path: ResultPath = Field("", description=_PATH)
    step: Annotated[Text, Wording("the id of a step", "source, or the id of a step")] = Field(
        "", alias="from", description="The id of the step whose result it is; the last one if left out."
    )
    annotations: Annotated[
        tuple[LabelFiles, ...],
        BeforeValidator(
            as_several, json_schema_input_type=LabelFiles | Annotated[list[LabelFiles], Field(min_length=1)]
        ),
        OrNull(),
    ] = Field((), description="Where the labels of the results go: a folder, {path, format}, or a list of these.")
    dataset: _Folder = Field("", description="Instead of path: the folder of a dataset, on any path or fsspec URL.")
    format: Annotated[
        DatasetFormat, Wording("a format of datasets", "imagefolder, parquet (for Hugging Face) or webdataset")
    ] = Field("imagefolder", description="imagefolder: files and metadata.jsonl; parquet or webdataset: shards.")
    split: _Split = Field(
        "train",
        description="A name, a template, or shares such as {train: 0.9, test: 0.1}, by a hash of the source's name.",
    )
    name: Annotated[Text, Wording("a template", "one such as '{{ stem }}'")] = Field(
        "", description="What a row is called, once in a dataset; '{{ stem }}' if left out."
    )
    shard_size: _ShardSize = Field("500 MB", description="The size after which a shard of parquet or webdataset ends.")
    convert: Annotated[Conversion | None, OrNull()] = Field(
        None, description="Encode the pictures anew: {format, quality, size}. Left out, no byte is changed."
    )
    provenance: Annotated[bool, Wording("true or false", "true for one, or leave it out")] = Field(
        False, description="What each picture was made of: a JSON file beside it, or a column of a dataset."
    )
    license: Annotated[AnyText, Wording("text", "the id of a licence, such as cc-by-4.0")] = Field(
        "", description="The licence in the dataset's card, such as cc-by-4.0."
    )
    tags: Annotated[
        tuple[Text, ...],
        BeforeValidator(as_several, json_schema_input_type=Text | list[Text]),
        Wording("a list of words", "one such as [inpainting]"),
    ] = Field((), description="Further tags in the dataset's card.")

    OF_DATASETS: ClassVar[tuple[str, ...]] = (
        "format",
        "split",
        "name",
        "shard_size",
        "convert",
        "license",
        "tags",
    )
    """What belongs to a dataset, and not to files."""

    @classmethod
    def expand(cls, value: Any) -> Any:
        """Return a path as a mapping."""
        return {"path": value} if isinstance(value, str) else value

    @property
    def root(self) -> str:
        """The folder that no item's path may leave: everything before the first template, or the dataset's."""
        if self.dataset:
            return self.dataset
        fixed = self.path.split("{{", 1)[0].split("{%", 1)[0]
        return fixed.rsplit("/", 1)[0] if "/" in fixed else "."

    @property
    def place(self) -> str:
        """The template of a result's place, for people and for comparing."""
        return self.path or f"{self.dataset}/{self.name}"

    @property
    def where(self) -> str:
        """The option that says where it goes, as messages call it."""
        return "output.dataset" if self.dataset else "output.path"

    def split_of(self, context: Mapping[str, Any]) -> str:
        """Return the split of an item.

        Shares are by a hash of the item's stem: the rows of one picture are in one split, and where the source is moved
        or grows, every item stays where it was.

        Args:
            context: the names that the item's templates know.

        Raises:
            InvalidRequest: a name is missing.
        """
        if isinstance(self.split, str):
            return str(templates.render(self.split, context, "output.split"))
        digest = hashlib.sha256(str(context["stem"]).encode("utf-8", "surrogateescape")).digest()
        drawn, reached = int.from_bytes(digest[:7], "big") / 2**56, 0.0
        for name, share in self.split.items():
            reached += share
            if drawn < reached:
                return name
        return next(reversed(self.split))
