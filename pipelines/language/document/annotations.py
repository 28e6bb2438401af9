"""The labels of pictures in a recipe: where they come from, masks made of them, where they are written."""

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field

from pipelines.language import templates
from pipelines.language.document.fields import AnyText, OrNull, Part, Text, Wording, as_several

FORMATS = ("coco", "yolo", "voc", "labelme")
"""What labels can be read from, and written as."""


def _is_fixed(text: str) -> str:
    if templates.is_template(text):
        raise ValueError("is one place for all items: write a folder or a file, without a template")
    return text


_Share = Annotated[float, Field(ge=0, le=1), Wording("a share from 0 to 1", "one such as 0.5")]
_Annotations = Annotated[Text, Wording("a path", "the path of a file or a folder"), AfterValidator(_is_fixed)]
_Format = Annotated[
    Literal["coco", "yolo", "voc", "labelme"],
    Wording("a format of annotations", f"one of {', '.join(FORMATS)}"),
]


class Annotations(Part):
    """The labels of the source's pictures."""

    short: ClassVar[Any] = _Annotations
    wording: ClassVar[Wording | None] = Wording("annotations", "a path such as 'labels/instances.json'")

    path: _Annotations = Field(
        description="A COCO .json file, data.yaml of YOLO, or a folder of YOLO, Pascal VOC or labelme files."
    )
    format: Annotated[_Format | None, OrNull()] = Field(
        None, description="coco, yolo, voc or labelme; recognised if left out."
    )
    min_visible: _Share = Field(
        0.1, description="A label is dropped once less than this share of its object is left in the picture."
    )
    erased: _Share = Field(
        0.5, description="A label is dropped once a mask of erase or fill has covered this share of its object."
    )

    @classmethod
    def expand(cls, value: Any) -> Any:
        """Return a path as a mapping."""
        return {"path": value} if isinstance(value, str) else value


class LabelFiles(Part):
    """Where the labels of results are written."""

    short: ClassVar[Any] = _Annotations
    wording: ClassVar[Wording | None] = Wording("a place of annotations", "a path such as 'out/labels'")

    path: _Annotations = Field(description="A folder; for COCO also a .json file.")
    format: Annotated[_Format | None, OrNull()] = Field(
        None, description="coco, yolo, voc or labelme; as the source has it if left out."
    )

    @classmethod
    def expand(cls, value: Any) -> Any:
        """Return a path as a mapping."""
        return {"path": value} if isinstance(value, str) else value


_Label: TypeAlias = Annotated[str, Field(min_length=1)]


class MaskLabels(Part):
    """Labels that a mask is made of: white is where one of them is."""

    short: ClassVar[Any] = AnyText | list[_Label]
    wording: ClassVar[Wording | None] = Wording("labels", "the name of a class, a list of such, or all")

    label: Annotated[
        tuple[_Label, ...] | None,
        BeforeValidator(as_several, json_schema_input_type=_Label | list[_Label]),
        Wording("the name of a class", "one such as person, a list of such, or all"),
        OrNull(),
    ] = Field(None, description="Classes, such as person or [person, car]; all of them if left out, or with all.")
    shape: Annotated[Literal["segments", "boxes"], Wording("segments or boxes", "one of these")] = Field(
        "segments", description="segments: outlines, and the box of a label that has none; boxes: boxes only."
    )

    @classmethod
    def expand(cls, value: Any) -> Any:
        """Return the names of classes as a mapping; ``all`` stands for every class."""
        value = {"label": value} if isinstance(value, (str, list)) else value
        is_all = isinstance(value, dict) and value.get("label") == "all"
        return {**value, "label": None} if is_all else value
