"""``expect:`` beside a step: what its result has to be, so that a bad result is not taken for a good one.

``on_failure`` says what happens to a result that fails; ``execution.expectations`` judges results.
"""

from functools import cache
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from jinja2 import Environment, nodes
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from flux_tasks.errors import InvalidRequest, nearest, quote, shown
from flux_tasks.images.canvas import GRID, parse_aspect_ratio
from pipelines.language import templates
from pipelines.language.document.fields import Part, SeveralProblems, Wording, as_tuple
from pipelines.language.names import IMAGE_FACTS

BEFORE = "before"
"""What a condition calls the step's input."""

_LONGEST_CONDITION = 2_000  # characters
_RATIO = r"^\s*\d+(\.\d+)?\s*[:/x]\s*\d+(\.\d+)?\s*$"

_TRIALS = (  # facts of two invented pictures, as in IMAGE_FACTS: with those of one, a divisor may be zero
    (1009, 757, 1009 / 757, 0.7284, True, 131.7, 97.3, 6.91),
    (601, 863, 601 / 863, 0.4946, False, 53.9, 141.1, 7.37),
)


def _not_from_yaml(value: Any) -> Any:
    if isinstance(value, int) and 60 < value < 6_000:
        ratio = f"{value // 60}:{value % 60}"
        raise ValueError(f'{value} is how YAML reads {ratio} without quotes: write "{ratio}"')
    return value


def _ratio(text: str) -> str:
    if parse_aspect_ratio(text) is None:
        raise ValueError
    return text


def _false(value: Any) -> Any:
    if value is not False:  # 0 equals False
        raise ValueError(f"{shown(value)} cannot be expected: write false, or leave it out")
    return value


def _condition(text: str) -> str:
    if problems := _condition_problems(text):
        raise SeveralProblems(problems)
    return text


_Side = Annotated[int, Field(ge=1, le=100_000)]
_Size = Annotated[
    Literal["same"] | Annotated[tuple[_Side, _Side], BeforeValidator(as_tuple)],
    Wording("a size", "same, or [width, height] in px such as [1024, 768]"),
]
_ShorterSide = Annotated[_Side, Wording("a whole number of px from 1", "one such as 512")]
_Aspect = Annotated[
    str,
    Field(pattern=_RATIO),
    AfterValidator(_ratio),
    Wording("a ratio", 'width and height in quotes, such as "16:9"'),
    BeforeValidator(_not_from_yaml),
]
_Drift = Annotated[float, Field(ge=0, le=255), Wording("a number from 0 to 255", "one such as 4.0")]
_Share = Annotated[float, Field(ge=0, le=1), Wording("a share from 0 to 1", "one such as 0.02")]
_Shift = Annotated[float, Field(ge=0, le=10_000), Wording("a number of px from 0", "one such as 2")]
_Gain = Annotated[float, Field(gt=0, le=1_000_000), Wording("a number above 0", "one such as 1.1")]
_Solid = Annotated[Literal[False], Wording("false", "false, or leave it out"), BeforeValidator(_false)]
_Condition = Annotated[
    str,
    Field(min_length=1, max_length=_LONGEST_CONDITION),
    Wording(f"a condition of at most {_LONGEST_CONDITION:,} characters", 'one such as "brightness > 20"'),
    AfterValidator(_condition),
]


class Expect(Part):
    """What a step's result has to be. Sizes are in px as people see the pictures (EXIF orientation applied).

    At least one expectation is given. All that are given have to hold.
    """

    wording: ClassVar[Wording | None] = Wording(
        "a mapping", "what the result has to be, such as {size: same, solid: false}"
    )

    size: _Size | None = Field(
        default=None,
        description="Width and height in px, exactly; or 'same': as the step's input, where each side may differ by "
        f"less than {GRID} px, because some tools crop to multiples of {GRID}.",
    )
    min_side: _ShorterSide | None = Field(default=None, description="The shorter side has at least so many px.")
    aspect: _Aspect | None = Field(default=None, description="Width to height such as '16:9', within 1 %.")
    drift: _Drift | None = Field(
        default=None,
        description="The mean absolute difference from the input outside the mask is at most this, 0 to 255. "
        "For steps with a mask.",
    )
    changed: _Share | None = Field(
        default=None,
        description="At most this share of the pixels outside the mask differs from the input at all, 0 to 1. "
        "For steps with a mask; a JPEG differs nearly everywhere.",
    )
    shift: _Shift | None = Field(
        default=None,
        description="The content has moved by at most so many px of the input, at the corner that has moved most: some "
        "models give a picture back that is shifted or scaled. Measured outside the mask.",
    )
    sharpness_gain: _Gain | None = Field(
        default=None, description="Sharpness of the result over that of the step's input is at least this."
    )
    solid: _Solid | None = Field(
        default=None,
        description="false: the result must not be one single colour, as after some failures; with outpaint, no side "
        "that was added may be, unless the edge next to it has that colour, too.",
    )
    condition: _Condition | None = Field(
        default=None,
        description=f"An expression that has to be true. It knows {', '.join(IMAGE_FACTS)} of the result, and the "
        f"same of the step's input as {BEFORE}.width and so on.",
    )

    @model_validator(mode="after")
    def _is_not_empty(self) -> Self:
        if all(value is None for _, value in self):
            raise ValueError(f"is empty: write at least one of {', '.join(type(self).model_fields)}")
        return self

    @property
    def needs_mask(self) -> bool:
        """Whether it can only be judged for a step that has a mask."""
        return self.drift is not None or self.changed is not None

    @property
    def uses_mask(self) -> bool:
        """Whether it is judged by a mask, if the step has one."""
        return self.needs_mask or self.shift is not None

    @property
    def needs_before(self) -> bool:
        """Whether it can only be judged for a step that has an input picture."""
        return self.uses_mask or self.size == "same" or self.sharpness_gain is not None or bool(self.facts_of_input)

    @property
    def facts_of_result(self) -> list[str]:
        """The facts of the result that its condition names."""
        return sorted(_named(self.condition).result.intersection(IMAGE_FACTS)) if self.condition else []

    @property
    def facts_of_input(self) -> list[str]:
        """The facts of the step's input that its condition names."""
        return sorted(_named(self.condition).input.intersection(IMAGE_FACTS)) if self.condition else []


class _Named(NamedTuple):
    """The facts of the result and of the input that a condition names."""

    result: frozenset[str]
    input: frozenset[str]
    is_input_whole: bool
    """It names the input itself."""


def _is_input(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Name) and node.name == BEFORE


@cache
def _named(text: str) -> _Named:
    tree = Environment(autoescape=True).parse("{{ " + text + " }}")  # only parsed, never rendered
    names = [node.name for node in tree.find_all(nodes.Name)]
    inner = [node.attr for node in tree.find_all(nodes.Getattr) if _is_input(node.node)]
    keys = [node.arg for node in tree.find_all(nodes.Getitem) if _is_input(node.node)]
    inner += [str(key.value) for key in keys if isinstance(key, nodes.Const)]
    return _Named(frozenset(names) - {BEFORE}, frozenset(inner), names.count(BEFORE) > len(inner))


def _condition_problems(text: str) -> list[str]:
    try:
        problem = templates.syntax_problem(text, "", expression=True)
        if problem is not None:
            return [problem.what]
        named = _named(text)
    except Exception as error:  # whatever the parser fails at: 5,000 digits, half a character, deep nesting
        return [f"{shown(text)} is not understood: {error}"]
    facts = f"; known: {', '.join(IMAGE_FACTS)}, and {BEFORE}.width and so on of the input"
    unknown, unknown_before = (sorted(names.difference(IMAGE_FACTS)) for names in (named.result, named.input))
    problems = [f"nothing is called {quote(name)}{nearest(name, [*IMAGE_FACTS, BEFORE]) or facts}" for name in unknown]
    for name in unknown_before:
        problems.append(f"{quote(f'{BEFORE}.{name}')} is no fact of a picture{nearest(name, IMAGE_FACTS) or facts}")
    if named.is_input_whole:
        problems.append(f"'{BEFORE}' alone is no value: write {BEFORE}.width or another fact of the input")
    return [f"{quote(text)}: {problem}" for problem in problems] or _tried(text)


def _tried(text: str) -> list[str]:
    """Return why a condition cannot be evaluated for any picture, such as a number that is compared with a text."""
    for values, others in (_TRIALS, _TRIALS[::-1]):
        before = dict(zip(IMAGE_FACTS, others, strict=True))
        try:
            templates.evaluate(text, {**dict(zip(IMAGE_FACTS, values, strict=True)), BEFORE: before}, "")
            return []
        except InvalidRequest as error:
            what = str(error)
    return [what]
