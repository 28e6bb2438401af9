"""``expect:`` on a step: what its result has to be, so that a bad one is not taken for a good one.

::

    expect:
      size: same                # or [1024, 768]
      min_side: 512
      aspect: "16:9"
      drift: 4.0                # at most, outside the mask
      changed: 0.02             # at most, outside the mask
      sharpness_gain: 1.1       # at least
      solid: false
      condition: "brightness > 20 and width >= before.width"

What happens to a result that fails is said by the step's ``on_failure``, and done by the runner.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Literal

from jinja2 import Environment, nodes
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from flux_tasks.errors import InvalidImage, InvalidRequest, Problem, nearest
from flux_tasks.images import masks
from flux_tasks.images.canvas import GRID, parse_aspect_ratio
from flux_tasks.images.reference import ImageRef
from flux_tasks.units import px_size
from pipelines.execution.facts import Facts
from pipelines.language import templates
from pipelines.language.names import IMAGE_FACTS

__all__ = ["Expect"]

_ASPECT_TOLERANCE = 0.01
_SOLID_SPREAD = 10  # of 255: what a WebP of one colour varies by (measured, quality 50)
_LONGEST_CONDITION = 2_000  # signs
_BEFORE = "before"
_RATIO = r"^\s*\d+(\.\d+)?\s*[:/x]\s*\d+(\.\d+)?\s*$"

_WANTED = {
    "size": "write same, or [width, height] in px such as [1024, 768]",
    "min_side": "write a whole number of px from 1, such as 512",
    "aspect": 'write width and height in quotes, such as "16:9"',
    "drift": "write a number from 0 to 255, such as 4.0",
    "changed": "write a share from 0 to 1, such as 0.02",
    "sharpness_gain": "write a number above 0, such as 1.1",
    "solid": "write false, or leave it out",
    "condition": 'write one as text, such as "brightness > 20"',
}

_TRIALS = (  # the facts of two made-up pictures, in the order of IMAGE_FACTS
    (1009, 757, 1009 / 757, 0.7284, True, 131.7, 97.3, 6.91),
    (601, 863, 601 / 863, 0.4946, False, 53.9, 141.1, 7.37),
)

Side = Annotated[int, Field(strict=True, ge=1, le=100_000)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Expect(BaseModel):
    """What a step's result has to be. Sizes are in px as people see the pictures (EXIF orientation applied).

    At least one expectation is given. All that are given have to hold.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: Literal["same"] | tuple[Side, Side] | None = Field(
        default=None,
        description="Width and height in px, exactly; or 'same': as the step's input, where each side may differ by "
        f"less than {GRID} px, because some tools crop to multiples of {GRID}.",
    )
    min_side: Side | None = Field(default=None, description="The shorter side has at least so many px.")
    aspect: str | None = Field(default=None, description="Width to height such as '16:9', within 1 %.", pattern=_RATIO)
    drift: Annotated[Number, Field(ge=0, le=255)] | None = Field(
        default=None,
        description="The mean absolute difference from the input outside the mask is at most this, 0 to 255. "
        "For steps with a mask.",
    )
    changed: Annotated[Number, Field(ge=0, le=1)] | None = Field(
        default=None,
        description="At most this share of the pixels outside the mask differs from the input at all, 0 to 1. "
        "For steps with a mask; a JPEG differs nearly everywhere.",
    )
    sharpness_gain: Annotated[Number, Field(gt=0, le=1_000_000)] | None = Field(
        default=None, description="Sharpness of the result over that of the step's input is at least this."
    )
    solid: Literal[False] | None = Field(
        default=None, description="false: the result is not one single colour, which is how some failures look."
    )
    condition: str | None = Field(
        default=None,
        min_length=1,
        max_length=_LONGEST_CONDITION,
        description=f"An expression that has to be true. It knows {', '.join(IMAGE_FACTS)} of the result, and the "
        f"same of the step's input as {_BEFORE}.width and so on.",
    )

    @field_validator("size", mode="before")
    @classmethod
    def _in_order(cls, value: Any) -> Any:
        if value is not None and not isinstance(value, (str, list, tuple)):  # a set has no first and second
            raise ValueError(_WANTED["size"])
        return value

    @field_validator("solid", mode="before")
    @classmethod
    def _really_false(cls, value: Any) -> Any:
        if value is not None and value is not False:  # 0 equals False
            raise ValueError(_WANTED["solid"])
        return value

    @field_validator("aspect")
    @classmethod
    def _is_ratio(cls, text: str | None) -> str | None:
        if text is not None and parse_aspect_ratio(text) is None:
            raise ValueError(_WANTED["aspect"])
        return text

    @field_validator("condition")
    @classmethod
    def _is_condition(cls, text: str | None) -> str | None:
        problems = [] if text is None else _condition_problems(text)
        if problems:
            raise ValueError("; ".join(problems))
        return text

    @model_validator(mode="after")
    def _says_something(self) -> Expect:
        if all(value is None for _, value in self):
            raise ValueError(f"says nothing: write at least one of {', '.join(_WANTED)}")
        return self

    @classmethod
    def read(cls, data: Any, *, where: str) -> tuple[Expect | None, list[Problem]]:
        """What is written below ``expect:``, or everything that is wrong with it; ``where`` begins each problem's path.

        Nothing is raised, whatever ``data`` is.
        """
        if not isinstance(data, dict):
            found = "has no value" if data is None else f"{_shown(data)} is not a mapping"
            what = "write what the result has to be, such as {size: same, solid: false}"
            return None, [Problem(where, f"{found}: {what}")]
        if not data:
            return None, [Problem(where, f"says nothing: write at least one of {', '.join(_WANTED)}")]
        problems: list[Problem] = []
        for key, value in data.items():
            name = key if isinstance(key, str) else _shown(key)
            place = f"{where}.{name}" if where else name
            if name not in _WANTED:
                hint = nearest(name, _WANTED) or f"; known: {', '.join(_WANTED)}"
                problems.append(Problem(place, f"is not known here{hint}"))
            else:
                problems += [Problem(place, what) for what in cls._wrong_with(name, value)]
        return (None, problems) if problems else (cls.model_validate(data), [])

    @classmethod
    def _wrong_with(cls, name: str, value: Any) -> list[str]:
        if value is None:
            return [f"has no value: {_WANTED[name]}"]
        if name == "condition" and isinstance(value, str) and 0 < len(value) <= _LONGEST_CONDITION:
            return _condition_problems(value)
        if name == "condition" and isinstance(value, str):
            return [f"has {len(value):,} signs: write from 1 to {_LONGEST_CONDITION:,}"]
        if name == "aspect" and isinstance(value, int) and 60 < value < 6_000:
            ratio = f"{value // 60}:{value % 60}"
            return [f'{value} is what YAML makes of {ratio}: write it in quotes, "{ratio}"']
        if name == "solid" and value is True:
            return [f"true would ask for one single colour: {_WANTED[name]}"]
        try:
            cls.model_validate({name: value})
        except ValidationError:
            return [f"{_shown(value)} is not understood: {_WANTED[name]}"]
        return []

    @property
    def needs_mask(self) -> bool:
        """Whether it can only be judged of a step that has a mask."""
        return self.drift is not None or self.changed is not None

    @property
    def needs_before(self) -> bool:
        """Whether it can only be judged of a step that has an input picture."""
        compares = self.needs_mask or self.size == "same" or self.sharpness_gain is not None
        return compares or bool(self.condition and _parsed(self.condition).of_input)

    def failures(
        self, facts: Facts, before: ImageRef | None, after: ImageRef, mask: Image.Image | None = None
    ) -> list[str]:
        """What of it does not hold, one sentence each; empty when all is well. It decodes: call it on a thread.

        What cannot be judged, for want of ``before`` or ``mask``, has failed. Nothing is read for sizes alone.

        Args:
            before: the step's input as it was sent.
            after: the result.
            mask: black and white, as it was sent, grown by what the tool was told to grow it by.

        Raises:
            InvalidImage: ``after``, or ``before`` where it is compared, cannot be decoded.
            ServerUnavailable: the place where they are kept fails, and has been tried several times.
        """
        found = [*self._shape(before, after), *self._strayed(before, after, mask)]
        found += [*self._gain(facts, before, after)]
        if self.solid is False and _is_solid(after):
            found.append("solid: the result is one single colour")
        return [*found, *self._unfulfilled(facts, before, after)]

    def _shape(self, before: ImageRef | None, after: ImageRef) -> Iterator[str]:
        width, height = size = after.upright_size
        if self.size == "same":
            if before is None:
                yield "size: cannot be judged, because the step has no input picture"
            elif any(abs(a - b) >= GRID for a, b in zip(size, before.upright_size, strict=True)):
                yield f"size: {px_size(size)}, but the input has {px_size(before.upright_size)}"
        elif self.size is not None and self.size != size:
            yield f"size: {px_size(size)}, not {px_size(self.size)}"
        if self.min_side is not None and min(size) < self.min_side:
            yield f"min_side: {px_size(size)}, below {self.min_side} px"
        wanted = parse_aspect_ratio(self.aspect) if self.aspect is not None else None
        if wanted is not None and abs(width / max(1, height) / wanted - 1) > _ASPECT_TOLERANCE + 1e-9:
            yield f"aspect: {px_size(size)} is {width / max(1, height):.4g}:1, not {self.aspect} ({wanted:.4g}:1)"

    def _strayed(self, before: ImageRef | None, after: ImageRef, mask: Image.Image | None) -> Iterator[str]:
        limits = {n: v for n, v in (("drift", self.drift), ("changed", self.changed)) if v is not None}
        if not limits:
            return
        obstacle = _obstacle(before, after, mask)
        if obstacle or before is None or mask is None:
            yield from (f"{name}: cannot be judged, because {obstacle}" for name in limits)
            return
        original, edited = _rgb(before), _rgb(after)
        strayed = masks.drift(original, edited, mask)
        for name, limit in limits.items():
            value = strayed.mean if name == "drift" else strayed.changed
            if value > limit:
                yield f"{name}: {_told(value, limit)}, above {limit:g}"

    def _gain(self, facts: Facts, before: ImageRef | None, after: ImageRef) -> Iterator[str]:
        if self.sharpness_gain is None:
            return
        if before is None:
            yield "sharpness_gain: cannot be judged, because the step has no input picture"
            return
        was, is_now = (float(facts.of(picture, ["sharpness"])["sharpness"]) for picture in (before, after))
        gain = is_now / was if was else math.inf if is_now else 1.0
        if gain < self.sharpness_gain:
            yield f"sharpness_gain: {_told(gain, self.sharpness_gain)}, below {self.sharpness_gain:g}"

    def _unfulfilled(self, facts: Facts, before: ImageRef | None, after: ImageRef) -> Iterator[str]:
        if self.condition is None:
            return
        used = _parsed(self.condition)
        if used.of_input and before is None:
            yield f"condition: '{self.condition}' cannot be judged, because the step has no input picture"
            return
        known: dict[str, Any] = dict(facts.of(after, sorted(used.of_result)))
        was = facts.of(before, sorted(used.of_input)) if before is not None and used.of_input else {}
        try:
            holds = bool(templates.evaluate(self.condition, {**known, _BEFORE: was}, "condition"))
        except InvalidRequest as error:
            yield str(error)
            return
        if not holds:
            told = {**known, **{f"{_BEFORE}.{name}": value for name, value in was.items()}}
            values = ", ".join(f"{name} is {_value(value)}" for name, value in told.items())
            yield f"condition: '{self.condition}' is not true{f': {values}' if values else ''}"


class _Used:
    """The facts that a condition uses, of the result and of the step's input, and the names that are no facts."""

    def __init__(self, text: str) -> None:
        tree = Environment(autoescape=True).parse("{{ " + text + " }}")  # only parsed, never rendered
        names = [node.name for node in tree.find_all(nodes.Name)]
        inner: list[str] = []
        for attribute in tree.find_all(nodes.Getattr):
            if isinstance(attribute.node, nodes.Name) and attribute.node.name == _BEFORE:
                inner.append(attribute.attr)
        for item in tree.find_all(nodes.Getitem):
            if isinstance(item.node, nodes.Name) and item.node.name == _BEFORE and isinstance(item.arg, nodes.Const):
                inner.append(str(item.arg.value))
        self.of_result = frozenset(names).intersection(IMAGE_FACTS)
        self.of_input = frozenset(inner).intersection(IMAGE_FACTS)
        self.unknown = sorted({*names} - {*IMAGE_FACTS, _BEFORE})
        self.unknown_of_input = sorted({*inner} - {*IMAGE_FACTS})
        self.whole_input = names.count(_BEFORE) > len(inner)


@cache
def _parsed(text: str) -> _Used:
    return _Used(text)


def _condition_problems(text: str) -> list[str]:
    try:
        problem = templates.syntax_problem(text, "", expression=True)
        if problem is not None:
            return [problem.what]
        used = _parsed(text)
    except Exception as error:  # a number of 5,000 digits, half a sign, nesting: whatever the parser stumbles over
        return [f"{_shown(text)} is not understood: {error}"]
    facts = f"; known: {', '.join(IMAGE_FACTS)}, and {_BEFORE}.width and so on of the input"
    choices = [*IMAGE_FACTS, _BEFORE]
    problems = [f"'{text}': nothing is called '{name}'{nearest(name, choices) or facts}" for name in used.unknown]
    for name in used.unknown_of_input:
        hint = nearest(name, IMAGE_FACTS) or facts
        problems.append(f"'{text}': '{_BEFORE}.{name}' is no fact of a picture{hint}")
    if used.whole_input:
        problems.append(f"'{text}': '{_BEFORE}' alone is no value: write {_BEFORE}.width or another fact of the input")
    return problems or _tried(text)


def _tried(text: str) -> list[str]:
    """What is wrong with a condition that cannot be worked out for any picture: a number compared with a text …

    Tried on two pictures, for one of them may make a divisor zero.
    """
    for values, others in (_TRIALS, _TRIALS[::-1]):
        known = dict(zip(IMAGE_FACTS, values, strict=True))
        was = dict(zip(IMAGE_FACTS, others, strict=True))
        try:
            templates.evaluate(text, {**known, _BEFORE: was}, "")
        except InvalidRequest as error:
            what = str(error)
        else:
            return []
    return [what]


def _obstacle(before: ImageRef | None, after: ImageRef, mask: Image.Image | None) -> str:
    """Why a result cannot be compared with its input outside a mask, or an empty text."""
    if before is None:
        return "the step has no input picture"
    if mask is None:
        return "the step has no mask"
    if before.upright_size != after.upright_size:
        return f"the result has {px_size(after.upright_size)} and the input {px_size(before.upright_size)}"
    if mask.size != after.upright_size:
        return f"the mask has {px_size(mask.size)} and the result {px_size(after.upright_size)}"
    return ""


def _rgb(image: ImageRef, mode: str = "RGB") -> Image.Image:
    """The picture, decoded and converted; Pillow converts few pictures of rare modes."""
    picture = image.open()
    try:
        return picture.convert(mode)
    except (ValueError, OSError, MemoryError) as error:
        raise InvalidImage(f"{image.uri or image.name}: its pixels cannot be judged: {error}") from None


def _is_solid(image: ImageRef) -> bool:
    """Whether people see one single colour; colours under transparency are not seen."""
    picture = _rgb(image, "RGBA")
    flat = Image.new("RGBA", picture.size, "black")
    flat.alpha_composite(picture)
    spreads = [*flat.convert("RGB").getextrema(), picture.getchannel("A").getextrema()]
    return all(high - low <= _SOLID_SPREAD for low, high in spreads)


def _told(value: float, limit: float) -> str:
    """``value`` in as few digits as show on which side of ``limit`` it is."""
    rounded = (f"{value:.{digits}g}" for digits in range(2, 18))
    return next((text for text in rounded if (float(text) < limit) == (value < limit) and float(text) != limit), "")


def _value(value: float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:.5g}"


def _shown(value: Any) -> str:
    """``value`` as it was written, or as much of it as a sentence bears."""
    try:
        text = repr(value)
    except Exception:  # a number of 5,000 digits, a list that is nested too deeply
        return f"this {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}…"
