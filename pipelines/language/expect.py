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

from functools import cache
from typing import Annotated, Any, Literal

from jinja2 import Environment, nodes
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from flux_tasks.errors import InvalidRequest, Problem, nearest
from flux_tasks.images.canvas import GRID, parse_aspect_ratio
from pipelines.language import templates
from pipelines.language.names import IMAGE_FACTS

__all__ = ["BEFORE", "Expect"]

_LONGEST_CONDITION = 2_000  # signs
BEFORE = "before"
"""What a condition calls the step's input."""

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
        f"same of the step's input as {BEFORE}.width and so on.",
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
        return compares or bool(self.facts_of_input)

    @property
    def facts_of_result(self) -> list[str]:
        """The facts of the result that its condition names."""
        return sorted(_parsed(self.condition).of_result) if self.condition else []

    @property
    def facts_of_input(self) -> list[str]:
        """The facts of the step's input that its condition names."""
        return sorted(_parsed(self.condition).of_input) if self.condition else []


class _Used:
    """The facts that a condition uses, of the result and of the step's input, and the names that are no facts."""

    def __init__(self, text: str) -> None:
        tree = Environment(autoescape=True).parse("{{ " + text + " }}")  # only parsed, never rendered
        names = [node.name for node in tree.find_all(nodes.Name)]
        inner: list[str] = []
        for attribute in tree.find_all(nodes.Getattr):
            if isinstance(attribute.node, nodes.Name) and attribute.node.name == BEFORE:
                inner.append(attribute.attr)
        for item in tree.find_all(nodes.Getitem):
            if isinstance(item.node, nodes.Name) and item.node.name == BEFORE and isinstance(item.arg, nodes.Const):
                inner.append(str(item.arg.value))
        self.of_result = frozenset(names).intersection(IMAGE_FACTS)
        self.of_input = frozenset(inner).intersection(IMAGE_FACTS)
        self.unknown = sorted({*names} - {*IMAGE_FACTS, BEFORE})
        self.unknown_of_input = sorted({*inner} - {*IMAGE_FACTS})
        self.whole_input = names.count(BEFORE) > len(inner)


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
    facts = f"; known: {', '.join(IMAGE_FACTS)}, and {BEFORE}.width and so on of the input"
    choices = [*IMAGE_FACTS, BEFORE]
    problems = [f"'{text}': nothing is called '{name}'{nearest(name, choices) or facts}" for name in used.unknown]
    for name in used.unknown_of_input:
        hint = nearest(name, IMAGE_FACTS) or facts
        problems.append(f"'{text}': '{BEFORE}.{name}' is no fact of a picture{hint}")
    if used.whole_input:
        problems.append(f"'{text}': '{BEFORE}' alone is no value: write {BEFORE}.width or another fact of the input")
    return problems or _tried(text)


def _tried(text: str) -> list[str]:
    """What is wrong with a condition that cannot be worked out for any picture: a number compared with a text …

    Tried on two pictures, for one of them may make a divisor zero.
    """
    for values, others in (_TRIALS, _TRIALS[::-1]):
        known = dict(zip(IMAGE_FACTS, values, strict=True))
        was = dict(zip(IMAGE_FACTS, others, strict=True))
        try:
            templates.evaluate(text, {**known, BEFORE: was}, "")
        except InvalidRequest as error:
            what = str(error)
        else:
            return []
    return [what]


def _shown(value: Any) -> str:
    """``value`` as it was written, or as much of it as a sentence bears."""
    try:
        text = repr(value)
    except Exception:  # a number of 5,000 digits, a list that is nested too deeply
        return f"this {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}…"
