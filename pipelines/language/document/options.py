"""The options beside a step. To add one, write its field here, and use it in ``execution`` or in ``run/item``.

Reading, the JSON Schema, the Python signatures, ``steps.pyi`` and ``to_data`` all come from the field. An option that
is a mapping of its own is a class, such as ``Preserve``.
"""

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, Field, WithJsonSchema

from pipelines.language.document.expect import Expect
from pipelines.language.document.fields import (
    AnyText,
    Condition,
    Id,
    Name,
    OrNull,
    Part,
    PythonType,
    ResultPath,
    Text,
    Transport,
    Values,
    Wording,
    as_several,
    as_tuple,
)
from pipelines.language.names import IMAGE_FACTS

_Then: TypeAlias = Literal["fail", "keep"]
_Changes: TypeAlias = Annotated[dict[AnyText, Any], Field(min_length=1)]


def _as_tries(value: Any) -> Any:
    return (value,) if isinstance(value, dict) else as_tuple(value)


class OnFailure(Part):
    """What happens when a result is not as ``expect`` says."""

    short: ClassVar[Any] = _Then
    wording: ClassVar[Wording | None] = Wording("fail, keep or a mapping", "fail, keep or {retry_with: {seed: 2}}")

    retry_with: Annotated[
        tuple[_Changes, ...],
        Field(min_length=1, max_length=10),
        BeforeValidator(
            _as_tries, json_schema_input_type=_Changes | Annotated[list[_Changes], Field(min_length=1, max_length=10)]
        ),
        Wording("changed parameters, or a list of at most 10 such", "{seed: 2}, or a list of such"),
    ] = Field(description="Changed parameters to try, such as {seed: 2}, or a list of such. Each is a job of its own.")
    then: Annotated[_Then, Wording("fail or keep", "one of these")] = Field(
        default="fail", description="What happens after the last try: fail the item, or keep the last result."
    )

    @classmethod
    def expand(cls, value: Any) -> Any:
        """Return a single word as an option without further tries."""
        return cls.model_construct(retry_with=(), then=value) if value in ("fail", "keep") else value

    def to_data(self) -> Any:
        """Return one word where there are no further tries."""
        tries = [dict(changes) for changes in self.retry_with]
        return {"retry_with": tries, "then": self.then} if tries else self.then


class Preserve(Part):
    """Put the original pixels back: outside the mask after an edit, inside the border after an outpaint."""

    short: ClassVar[Any] = bool
    wording: ClassVar[Wording | None] = Wording("true or a mapping", "true or {feather: 2}")

    feather: Annotated[float, Field(ge=0, le=100), Wording("a number of pixels from 0 to 100", "one such as 2")] = (
        Field(
            default=0.0,
            description="Pixels by which the edge is softened: inside the mask; with outpaint, inside the original.",
        )
    )

    @classmethod
    def expand(cls, value: Any) -> Any:
        """Return ``true`` as a mapping; ``false`` counts as left out."""
        return ({} if value else None) if isinstance(value, bool) else value

    def to_data(self) -> Any:
        """Return a mapping that is not empty."""
        return {"feather": self.feather}


class StepOptions(Part):
    """What can be written beside a step's name and parameters."""

    id: Annotated[Id, OrNull()] = Field(
        default="", description="The name that other steps use; its tool's name if left out."
    )
    inputs: Annotated[
        tuple[Text, ...] | None,
        BeforeValidator(as_several, json_schema_input_type=Text | list[Text]),
        Wording("the id of a step, or a list of ids", "source, or the id of a step"),
        OrNull(),
        PythonType("_From"),
    ] = Field(
        default=None,
        alias="from",
        description="The id of the step whose picture it gets, or source; the step before if left out. "
        "A list is the main picture and further ones.",
    )
    when: Annotated[Condition, OrNull()] = Field(
        default="",
        description="A condition, such as 'sharpness < 120'; where it is false, the step is skipped. It knows "
        f"columns, vars, {', '.join(IMAGE_FACTS)}, mask_exists, mask_coverage; with annotations, labels and count.",
        examples=["width < 1024", "mask_exists"],
    )
    matrix: Annotated[
        dict[Name, Values],
        Field(min_length=1),
        Wording("a mapping of names to lists", "one such as {seed: [1, 2, 3]}"),
        OrNull(),
    ] = Field(
        default={},
        description="Lists of values by name; the step runs for every combination. The name of a parameter sets "
        "it (seed, prompt, model …), other names are for templates.",
    )
    vars: Annotated[
        dict[AnyText, Any], Wording("a mapping of names to values", "one such as {style: oil}"), OrNull()
    ] = Field(default={}, description="Names that only this step's templates know.")
    expect: Annotated[Expect | None, OrNull()] = Field(default=None, description="What the result has to be.")
    on_failure: Annotated[OnFailure | None, OrNull()] = Field(
        default=None,
        description="What is done with a result that is not as expect says: fail the item (default), keep the "
        "result, or try again with changed parameters, each of which is a job of its own.",
    )
    preserve: Annotated[Preserve | None, OrNull()] = Field(
        default=None,
        description="Put the pixels outside the mask back; with outpaint, those of the original. feather softens the "
        "edge by this many pixels.",
    )
    align: Annotated[
        bool, Wording("true or false", "true where a result may have moved, else leave it out"), OrNull()
    ] = Field(
        default=False,
        description="Measure how the content of the result has moved and grown against the input, outside the mask, "
        "and move it back, to less than a pixel; expect judges what comes out.",
    )
    match_colour: Annotated[bool, Wording("true or false", "true, or leave it out"), OrNull()] = Field(
        default=False,
        description="Fit the colours inside the mask to its surroundings, where the result has another brightness or "
        "hue than the input.",
    )
    require_mask: Annotated[Condition, OrNull()] = Field(
        default="",
        description="True: the item ends as invalid, and this result is not written, if the step is skipped, or its "
        "mask is missing or has no white. A condition, such as mask_exists, is the same, but lets the step be skipped "
        "where it is false.",
        examples=[True, "mask_exists"],
    )
    save: Annotated[ResultPath, OrNull()] = Field(
        default="", description="Where to write this step's result, too, such as 'out/sharp/{{ stem }}.png'."
    )
    transport: Annotated[Transport | None, OrNull()] = Field(
        default=None,
        description="How pictures are sent: bytes; auto, as an address where the service can fetch it; url, as an "
        "address wherever there is one. The recipe's own if left out.",
    )
    arguments: Annotated[
        dict[AnyText, Any], Wording("a mapping of names to values", "one such as {strength: 4}"), OrNull()
    ] = Field(
        default={},
        alias="with",
        description="With call: the arguments of the function besides its picture. With recipe: values for its vars.",
    )


class FunctionStep(Part):
    """A user's own function as a step."""

    call: Annotated[
        Text,
        Wording("a function", "package.module:function"),
        WithJsonSchema({"type": "string", "pattern": "^[^\\s:]+:[^\\s:.]+$"}),
    ] = Field(description="A function of your own, package.module:function. It takes a Pillow image and returns one.")


class RecipeStep(Part):
    """Another recipe in the place of a step."""

    recipe: Annotated[Text, Wording("the path of a recipe", "one such as other.yaml")] = Field(
        description="Another recipe, whose steps run here; the option with sets its vars."
    )
    id: Annotated[Any, OrNull()] = None
    inputs: Annotated[Text, Wording("the id of one step", "the id of the step whose picture the recipe gets")] = Field(
        default="", alias="from"
    )
    arguments: Annotated[
        dict[AnyText, Any], Wording("a mapping of names to values", "one such as {style: oil}"), OrNull()
    ] = Field(default={}, alias="with")
