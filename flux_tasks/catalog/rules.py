"""The rules of a tool as values: its price, what it asks of pictures and prompts, and what the documents advise."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from flux_tasks.units import px_size

PIXELS_PER_MP = 1_048_576
"""BFL's megapixel: an observed answer gives 1.98 for 1920×1080."""

MAX_INPUT_BYTES = 20 * 1024 * 1024
"""20 MB: the longest input file (DOCS-F2)."""

MAX_INPUT_PIXELS = 20_000_000
"""20 MP: the largest input picture (DOCS-F2)."""


@dataclass(frozen=True, slots=True)
class Price:
    """What one job is expected to cost, in credits (1 credit = 0.01 USD). What counts is ``cost`` in the answer.

    Attributes:
        first: credits for the first megapixel of output, or for the image; None means unknown.
        extra: credits for each further megapixel, of output and of inputs, each rounded up by itself.
        inputs: whether input megapixels are charged.
        per: what ``first`` is for; ``input`` means the first megapixel of all inputs, and output is free.
        date, source: when and where this was read; ``note`` has anything else to know.
        label: tells the rows of one tool apart that is priced by its parameters.
        jobs: how many settled jobs it is the mean of; 0 for a published price.
    """

    first: float | None
    extra: float = 0.0
    inputs: bool = False
    per: Literal["megapixel", "input", "image"] = "megapixel"
    date: str = ""
    source: str = ""
    note: str = ""
    label: str = ""
    jobs: int = 0

    @property
    def state(self) -> Literal["published", "learned", "unknown"]:
        """Where the price comes from."""
        return "unknown" if self.first is None else "learned" if self.jobs else "published"

    def estimate(self, output_mp: float, input_mp: Sequence[float] = ()) -> float | None:
        """Return the credits for a job of ``output_mp`` and inputs of ``input_mp`` megapixels; None if unknown."""
        if self.first is None:
            return None
        if self.per == "image":
            return self.first
        given = sum(max(1, math.ceil(mp)) for mp in input_mp)
        further = max(1, given if self.per == "input" else math.ceil(output_mp)) - 1
        if self.inputs:
            further += given
        return round(self.first + self.extra * further, 4)

    def __str__(self) -> str:
        if self.first is None:
            return "unknown"
        if self.per == "image":
            return f"{self.first:g} / image"
        if self.extra == self.first and not self.inputs:
            return f"{self.first:g} / MP"
        return f"{self.first:g} first {'input ' * (self.per == 'input')}MP, {self.extra:g} each further"


@dataclass(frozen=True, slots=True)
class SizeRule:
    """What a tool requires of its pictures, in pixels.

    Attributes:
        max_area: largest area of the edited picture, or None.
        reduces: the service itself scales larger inputs down, so that they are no error.
        reduced_area: the area it scales them to, if that is not ``max_area``.
        sure_area: area up to which every reading of the documents agrees that a picture is taken, or None.
        best_area, best_ratio: areas, and the widest ratio of the longer side to the shorter, with the best results.
        max_input: largest area of any picture.
        min_side: shortest side that is accepted.
        multiple: sizes the service crops or rounds to.
        same_size: the result has the size of the edited picture (within ``multiple``).
        is_about: the size of a result is published in megapixels only, so that its sides are known about.
        source: where this was read.
    """

    max_area: int | None = None
    reduces: bool = False
    reduced_area: int | None = None
    sure_area: int | None = None
    best_area: tuple[int, int] | None = None
    best_ratio: float = math.inf
    max_input: int = MAX_INPUT_PIXELS
    min_side: int = 64
    multiple: int = 1
    same_size: bool = False
    is_about: bool = False
    source: str = ""

    def reduced(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return ``size`` (width, height) as the service works on it: scaled into its area, if it does that."""
        area = size[0] * size[1]
        if not self.reduces or self.max_area is None or area <= self.max_area:
            return size
        scale = ((self.reduced_area or self.max_area) / area) ** 0.5
        return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))

    def kept(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return the part of a reduced picture of ``size`` that the service works on: left, top, right, bottom.

        It is the middle, cut to ``multiple`` (``center_crop_to_multiple_of_x`` in BFL's own code of FLUX.2).
        """
        if not self.reduces:
            return 0, 0, *size
        width, height = (max(self.multiple, side // self.multiple * self.multiple) for side in size)
        left, top = (size[0] - width) // 2, (size[1] - height) // 2
        return left, top, left + width, top + height

    def remarks(self, size: tuple[int, int], *, is_edited: bool) -> list[str]:
        """Return warnings about a picture of ``size`` (width, height) that is accepted all the same."""
        width, height = size
        shown, area, ratio = px_size(size), width * height, max(size) / min(size)
        found: list[str] = []
        if (reduced := self.reduced(size)) != size:
            found.append(f"the service reduces {shown} to about {px_size(reduced)}")
        elif self.reduces and any(side % self.multiple for side in size):
            left, top, right, bottom = self.kept(size)
            found.append(f"the service crops {shown} to {px_size((right - left, bottom - top))}")
        if is_edited and self.sure_area is not None and area > self.sure_area:
            found.append(f"{shown} is more than {self.sure_area:,} px: the service may refuse it ({self.source})")
        if is_edited and self.best_area is not None and not self.best_area[0] <= area <= self.best_area[1]:
            low, high = (f"{limit / PIXELS_PER_MP:g}" for limit in self.best_area)
            what = f"{shown} is {area / PIXELS_PER_MP:.2g} MP"
            found.append(f"{what}: results are best between {low} and {high} MP ({self.source})")
        if is_edited and ratio > self.best_ratio:
            found.append(f"{shown} is beyond {self.best_ratio:g}:1: results are best up to that ({self.source})")
        return found


@dataclass(frozen=True, slots=True)
class Revision:
    """A time in which equal calls of a tool give results that can stand for one another.

    Attributes:
        number: part of every job key of the tool, from 1.
        date, reason: when it began, and why results may differ from those of the revision before.
        defaults: defaults of that time, of the parameters whose default has changed since. A call that leaves such a
            parameter out gets another key than before; a call that sets it keeps its key.
    """

    number: int
    date: str
    reason: str
    defaults: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tip:
    """Advice on a tool, from the document ``source``.

    Attributes:
        text: what to do, or what to expect.
        about: when it helps: a symptom in the result, or the HTTP status (``403``, ``422``) of a refusal; empty for
            advice that always holds.
        not_after: tasks, and ``upscale`` and ``jpeg``, that should not come before the tool.
    """

    text: str
    source: str
    about: str = ""
    not_after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PromptLimit:
    """The longest prompt of a tool. Above it the client warns.

    Attributes:
        most: the number of ``unit`` s.
        is_refused: whether the document says that a longer prompt is an error.
    """

    most: int
    unit: Literal["character", "token"]
    source: str
    is_refused: bool = False

    def exceeded_by(self, prompt: str) -> str:
        """Describe by what ``prompt`` is too long, or return an empty string; a token is taken for 4 characters."""
        count = len(prompt) if self.unit == "character" else len(prompt) // 4
        about = "" if self.unit == "character" else "about "
        return "" if count <= self.most else f"{about}{count:,} {self.unit}s, more than {self.most:,} ({self.source})"
