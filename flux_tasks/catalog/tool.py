"""The entry of one tool in the catalogue."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from flux_tasks.catalog.fields import CALLER_FIELDS, WEBHOOK_FIELDS, ImageField, Request
from flux_tasks.errors import Problem, explain, nearest

__all__ = [
    "CONTRACT_VERSION",
    "MAX_INPUT_BYTES",
    "MAX_INPUT_PIXELS",
    "PIXELS_PER_MP",
    "NoOptions",
    "Price",
    "Revision",
    "SizeRule",
    "Tool",
]

CONTRACT_VERSION = "2026-09-19"
"""Date of the official OpenAPI document that the request models follow."""

PIXELS_PER_MP = 1_048_576
"""BFL's megapixel: an observed answer gives 1.98 for 1920×1080."""

MAX_INPUT_BYTES = 20 * 1024 * 1024
"""20 MB: the longest input file (DOCS-F2)."""

MAX_INPUT_PIXELS = 20_000_000
"""20 MP: the largest input picture (DOCS-F2)."""

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Price:
    """What one job is expected to cost, in credits (1 credit = 0.01 USD). What counts is ``cost`` in the answer.

    Attributes:
        first: credits for the first megapixel of output, or for the image; None means unknown.
        extra: credits for each further megapixel, of output and of inputs, each rounded up by itself.
        inputs: whether input megapixels are charged.
        per: what ``first`` is for.
        date, source: when and where this was read; ``note`` has anything else to know.
    """

    first: float | None
    extra: float = 0.0
    inputs: bool = False
    per: Literal["megapixel", "image"] = "megapixel"
    date: str = ""
    source: str = ""
    note: str = ""

    def estimate(self, output_mp: float, input_mp: Sequence[float] = ()) -> float | None:
        """Return the credits for a job of ``output_mp`` and inputs of ``input_mp`` megapixels; None if unknown."""
        if self.first is None:
            return None
        if self.per == "image":
            return self.first
        further = max(1, math.ceil(output_mp)) - 1
        if self.inputs:
            further += sum(max(1, math.ceil(mp)) for mp in input_mp)
        return round(self.first + self.extra * further, 4)

    def __str__(self) -> str:
        if self.first is None:
            return "unknown"
        if self.per == "image":
            return f"{self.first:g} / image"
        if self.extra == self.first and not self.inputs:
            return f"{self.first:g} / MP"
        return f"{self.first:g} first MP, {self.extra:g} each further"


@dataclass(frozen=True, slots=True)
class SizeRule:
    """What a tool requires of its pictures, in pixels.

    Attributes:
        max_area: largest area of the edited picture, or None.
        reduces: the service itself scales larger inputs down, so that they are no error.
        reduced_area: the area it scales them to, if that is not ``max_area``.
        min_side: shortest side that is accepted.
        multiple: sizes the service crops or rounds to.
        same_size: the result has the size of the edited picture (within ``multiple``).
        source: where this was read.
    """

    max_area: int | None = None
    reduces: bool = False
    reduced_area: int | None = None
    min_side: int = 64
    multiple: int = 1
    same_size: bool = False
    source: str = ""


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


_FIRST = Revision(1, "2026-09-19", "the first in this catalogue")


class NoOptions(Request):
    """No parameters of our own, as for most tools."""


@dataclass(frozen=True)
class Tool:
    """One endpoint of the BFL API, as data. To add a tool to the project, add one of these.

    Attributes:
        name: the last part of its path; what the API calls it.
        path: below the endpoint's address.
        task: the Python task and recipe step that calls it.
        summary: one line for people.
        request: the body, as a pydantic model.
        price: credits per job.
        sizes: what it requires of its pictures.
        sources: documents that its facts come from, the main one first; tags of ``SOURCES``.
        aliases: other names that mean this tool.
        options: parameters of our own that shape the request (an outpaint's ``aspect_ratio``, for one).
        strict: the service refuses unknown fields (it ignores them elsewhere).
        slots: concurrency class; ``account`` is 24 active jobs, ``kontext-max`` 6 of its own (SEED-2).
        deadline: seconds after which polling a job ends.
        revisions: from the first to the one that holds. Add one only where results may differ: settled results of the
            revision before no longer answer, and are paid for again.
        accepts: fields of seed documents that the local server takes under another name.
        price_when: chooses another price by parameters.
        output_size: (width, height) of the result by parameters and input size, where it is known beforehand.
        limits: what is wrong with parameters beyond what a schema can express, by parameter.
        warnings: about parameters that are allowed but may surprise.
    """

    name: str
    path: str
    task: str
    summary: str
    request: type[Request]
    price: Price
    sizes: SizeRule
    sources: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    options: type[Request] = NoOptions
    strict: bool = False
    slots: Literal["account", "kontext-max"] = "account"
    deadline: float = 300.0
    revisions: tuple[Revision, ...] = (_FIRST,)
    accepts: Mapping[str, str] = field(default_factory=dict)
    price_when: Callable[[Mapping[str, Any]], Price | None] = lambda _: None
    output_size: Callable[[Mapping[str, Any], tuple[int, int] | None], tuple[int, int] | None] = lambda _, size: size
    limits: Callable[[Mapping[str, Any]], Mapping[str, str]] = lambda _: {}
    warnings: Callable[[Mapping[str, Any]], tuple[str, ...]] = lambda _: ()

    @cached_property
    def image_fields(self) -> dict[str, ImageField]:
        """Request fields that carry images, in order."""
        return {
            name: mark
            for name, info in self.request.model_fields.items()
            for mark in info.metadata
            if isinstance(mark, ImageField)
        }

    @cached_property
    def image_field(self) -> str | None:
        """The field of the picture that is edited: the one with role ``image``, else the first reference."""
        roles = {name: mark.role for name, mark in self.image_fields.items()}
        return next((n for n, role in roles.items() if role == "image"), None) or next(
            (n for n, role in roles.items() if role == "reference"), None
        )

    @cached_property
    def parameters(self) -> dict[str, FieldInfo]:
        """Everything a caller may write besides images: request fields and our own options."""
        return {
            name: info
            for name, info in {**self.request.model_fields, **self.options.model_fields}.items()
            if name not in self.image_fields
        }

    @property
    def webhooks(self) -> bool:
        """Whether the tool can call back."""
        return set(WEBHOOK_FIELDS) <= self.request.model_fields.keys()

    @property
    def output_format(self) -> str:
        """File type of the result if none is asked for."""
        return str(self.request.model_fields["output_format"].default)

    @property
    def formats(self) -> tuple[str, ...]:
        """File types that can be asked for."""
        return tuple(
            str(a) for arg in get_args(self.request.model_fields["output_format"].annotation) for a in get_args(arg)
        )

    def price_for(self, parameters: Mapping[str, Any]) -> Price:
        """Return the price for these parameters."""
        return self.price_when(parameters) or self.price

    @property
    def revision(self) -> Revision:
        """The revision that holds."""
        return self.revisions[-1]

    def defaults(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``parameters`` with every default of the contract; None counts as left out.

        Images and the caller's fields are taken away.
        """
        left_out = {*self.image_fields, *CALLER_FIELDS}
        filled = {n: i.default for n, i in self.request.model_fields.items() if not i.is_required()}
        given = {n: v for n, v in parameters.items() if v is not None}
        return {n: v for n, v in {**filled, **given}.items() if n not in left_out}

    def check(self, parameters: Mapping[str, Any], *, where: str = "", partial: bool = False) -> list[Problem]:
        """Return everything that is wrong with ``parameters``, images aside; an empty list if nothing is.

        Args:
            where: prefix of each problem's path; the task's name if empty.
            partial: do not ask for required parameters (they may come from elsewhere).
        """
        where = where or self.task
        problems: list[Problem] = []
        request: dict[str, Any] = {}
        options: dict[str, Any] = {}
        for name, value in parameters.items():
            if name in self.options.model_fields:
                options[name] = value
            elif name in self.request.model_fields:
                request[name] = value
            else:
                known = [*self.parameters, *self.image_fields]
                hint = nearest(name, known) or f"; it takes {', '.join(known)}"
                problems.append(Problem(f"{where}.{name}", f"{self.task} has no such parameter{hint}"))
        placeholders = dict.fromkeys(self.image_fields, "-")
        optional = {n for n, i in self.request.model_fields.items() if i.is_required()} if partial else set()
        problems += _violations(self.request, {**placeholders, **request}, where, ignore_missing=optional)
        problems += _violations(self.options, options, where)
        problems += [Problem(f"{where}.{name}", what) for name, what in self.limits(request).items()]
        problems += [
            Problem(f"{where}.{name}", "holds half of a character (a lone surrogate), which cannot be sent: remove it")
            for name, value in request.items()
            if isinstance(value, str) and _SURROGATE.search(value)
        ]
        return problems

    def __repr__(self) -> str:
        return f"Tool({self.name!r})"


def _violations(
    model: type[Request], values: dict[str, Any], where: str, *, ignore_missing: frozenset[str] | set[str] = frozenset()
) -> list[Problem]:
    try:
        model.model_validate(values, strict=True)
    except ValidationError as error:
        return [
            Problem(".".join([where, *(str(part) for part in e["loc"] if not _is_type_tag(part))]), explain(e))
            for e in error.errors(include_url=False)
            if not (e["type"] == "missing" and e["loc"][0] in ignore_missing)
        ]
    return []


def _is_type_tag(part: str | int) -> bool:
    """Check whether a location part names a member of a union (``int``, ``literal[...]``), not a field."""
    return isinstance(part, str) and (part in ("int", "str", "float", "bool") or "[" in part)
