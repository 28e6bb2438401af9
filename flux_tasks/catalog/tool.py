"""The entry of one tool in the catalogue."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from flux_tasks.catalog.fields import CALLER_FIELDS, WEBHOOK_FIELDS, ImageField, Request
from flux_tasks.catalog.rules import Price, PromptLimit, Revision, SizeRule, Tip
from flux_tasks.errors import Problem, explain, nearest
from flux_tasks.units import is_blank

CONTRACT_VERSION = "2026-09-19"
"""Date of the official OpenAPI document that the request models follow."""

NO_PROMPT = "is blank, and would be paid for: write in words what to make or change"
"""What is wrong with a prompt that has no visible character, where the tool needs one."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_FIRST = Revision(1, "2026-09-19", "the first in this catalogue")


@dataclass(frozen=True)
class Tool:
    """One endpoint of the BFL API, as data. To add a tool to the project, add one of these.

    Attributes:
        name: the last part of its path; what the API calls it.
        task: the Python task and recipe step that calls it.
        summary: one line for people.
        request: the body, as a pydantic model.
        price: credits per job.
        sizes: what it requires of its pictures.
        path: below the endpoint's address; ``/v1/<name>`` if empty.
        sources: documents that its facts come from, the main one first; tags of ``SOURCES``.
        aliases: other names that mean this tool.
        options: parameters of our own that shape the request (an outpaint's ``aspect_ratio``, for one).
        strict: the service refuses unknown fields (it ignores them elsewhere).
        slots: concurrency class; ``account`` is 24 active jobs, ``kontext-max`` 6 of its own (SEED-2). The limit of
            ``flux-3`` is not published: a refusal for too many jobs slows down that class alone.
        seconds: that a job is assumed to take until a store has seen one; the service publishes no figure.
        deadline: seconds after which polling a job ends.
        delivery: seconds that the address of a result is valid (SEED-0, F3-DOCS).
        expands_prompt: the service rewrites the prompt, and its result says to what.
        revisions: from the first to the one that holds. Add one only where results may differ: settled results of the
            revision before no longer answer, and are paid for again.
        accepts: fields of seed documents that the local server takes under another name.
        seed_fields: fields that only a seed document shows: today's service ignores them.
        sure_types: media types of pictures that every document names; empty where they all agree.
        instead: for a parameter that this tool does not have and others of its task do: what to write.
        service_defaults: defaults of the service that are not ours: such a parameter is always sent.
        contested: names that mean this tool in one place and another tool elsewhere, each with that tool and the place.
        prompt_limit: the longest prompt, or None.
        tips: advice of the documents.
        charged_when_refused: whether a job that moderation refuses is charged: ``yes``, ``no`` or ``unknown``.
        price_by: a parameter, and other prices by its value.
        output_size: (width, height) of the result by parameters and input size, where it is known beforehand.
        limits: what is wrong with parameters beyond what a schema can express, by parameter.
        warnings: about parameters that are allowed but may surprise.
    """

    name: str
    task: str
    summary: str
    request: type[Request]
    price: Price
    sizes: SizeRule
    path: str = ""
    sources: tuple[str, ...] = ("OAS-0919",)
    aliases: tuple[str, ...] = ()
    options: type[Request] = Request
    strict: bool = False
    slots: Literal["account", "kontext-max", "flux-3"] = "account"
    seconds: float = 10.0
    deadline: float = 300.0
    delivery: float = 600.0
    expands_prompt: bool = False
    revisions: tuple[Revision, ...] = (_FIRST,)
    accepts: Mapping[str, str] = field(default_factory=dict)
    seed_fields: tuple[str, ...] = ()
    sure_types: tuple[str, ...] = ()
    instead: Mapping[str, str] = field(default_factory=dict)
    service_defaults: Mapping[str, Any] = field(default_factory=dict)
    contested: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    prompt_limit: PromptLimit | None = None
    tips: tuple[Tip, ...] = ()
    charged_when_refused: Literal["yes", "no", "unknown"] = "no"
    price_by: tuple[str, Mapping[str, Price]] = ("", {})
    output_size: Callable[[Mapping[str, Any], tuple[int, int] | None], tuple[int, int] | None] = lambda _, size: size
    limits: Callable[[Mapping[str, Any]], Mapping[str, str]] = lambda _: {}
    warnings: Callable[[Mapping[str, Any]], tuple[str, ...]] = lambda _: ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", self.path or f"/v1/{self.name}")

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
    def image_slots(self) -> dict[str, ImageField]:
        """The places of single pictures, in order: a field that takes one, or ``images.0`` and so on of a list."""
        return {
            slot: mark
            for name, mark in self.image_fields.items()
            for slot in ([name] if mark.most == 1 else [f"{name}.{n}" for n in range(mark.most)])
        }

    @cached_property
    def main_slot(self) -> str:
        """The place of the picture that is edited; empty if there is none."""
        name = self.image_field or ""
        return name if name in self.image_slots else f"{name}.0" if name else ""

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

    @cached_property
    def needs_prompt(self) -> Literal["always", "without a picture", "never"]:
        """When a blank prompt would leave the tool nothing to go by."""
        fields = self.request.model_fields
        if "prompt" in fields and fields["prompt"].is_required():
            return "always"
        has_picture = any(fields[name].is_required() for name in self.image_fields)
        return "never" if has_picture or "prompt" not in fields else "without a picture"

    @property
    def webhooks(self) -> bool:
        """Whether the tool can call back."""
        return set(WEBHOOK_FIELDS) <= self.request.model_fields.keys()

    @property
    def has_canvas(self) -> bool:
        """Whether a canvas is asked for, which our own options can describe in other ways."""
        return "width" in self.request.model_fields and "aspect_ratio" in self.options.model_fields

    @property
    def takes_boxes(self) -> bool:
        """Whether the prompt may have boxes; see ``flux_tasks.catalog.boxes``."""
        return "boxes" in self.options.model_fields

    @property
    def output_format(self) -> str:
        """File type of the result if none is asked for."""
        asked = self.request.model_fields.get("output_format")
        return str(asked.default) if asked else "png"

    @property
    def formats(self) -> tuple[str, ...]:
        """File types that can be asked for; the only one there is where none can be."""
        asked = self.request.model_fields.get("output_format")
        if asked is None:
            return (self.output_format,)
        return tuple(str(a) for arg in get_args(asked.annotation) for a in get_args(arg))

    @property
    def prices(self) -> tuple[Price, ...]:
        """Every row of the price table, the one that holds by default first."""
        return tuple(dict.fromkeys((self.price, *self.price_by[1].values())))

    @property
    def price_text(self) -> str:
        """The price in words; from the lowest to the highest where a parameter decides on it."""
        known = sorted(price.first for price in self.prices if price.first is not None)
        if self.price.per != "image" or len(known) < 2:
            return str(self.price)
        return f"{known[0]:g} to {known[-1]:g} / image"

    def price_for(self, parameters: Mapping[str, Any]) -> Price:
        """Return the price for these parameters."""
        parameter, prices = self.price_by
        value = parameters.get(parameter)
        return prices.get(value, self.price) if isinstance(value, str) else self.price

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

    def result_size(self, parameters: Mapping[str, Any], size: tuple[int, int] | None) -> tuple[int, int] | None:
        """Return (width, height) of the result for an input of ``size``, or None where it is not known beforehand."""
        return self.output_size(parameters, size and self.sizes.reduced(size))

    def remarks(self, parameters: Mapping[str, Any]) -> list[str]:
        """Return warnings about parameters that are allowed."""
        found = list(self.warnings(parameters))
        ignored = [name for name in self.seed_fields if parameters.get(name) is not None]
        if ignored:
            found.append(f"{' and '.join(ignored)}: today's service ignores it, only SEED-3 shows it")
        prompt = parameters.get("prompt")
        if self.prompt_limit and isinstance(prompt, str) and (words := self.prompt_limit.exceeded_by(prompt)):
            found.append(f"prompt: {words}")
        return found

    def tips_about(self, status: int) -> str:
        """Return what the documents advise when the service refuses a request with ``status``, as one sentence."""
        return "; ".join(tip.text for tip in self.tips if tip.about == str(status))

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
            elif name in self.instead:
                problems.append(Problem(f"{where}.{name}", f"{self.name} has no such parameter: {self.instead[name]}"))
            else:
                known = [*self.parameters, *self.image_fields]
                hint = nearest(name, known) or f"; it takes {', '.join(known)}"
                problems.append(Problem(f"{where}.{name}", f"{self.task} has no such parameter{hint}"))
        placeholders = dict.fromkeys(self.image_fields, "-")
        optional = {n for n, i in self.request.model_fields.items() if i.is_required()} if partial else set()
        problems += _violations(self.request, {**placeholders, **request}, where, ignore_missing=optional)
        problems += _violations(self.options, options, where)
        problems += [Problem(f"{where}.{name}", what) for name, what in self.limits(request).items()]
        prompt = request.get("prompt")
        if self.needs_prompt == "always" and isinstance(prompt, str) and is_blank(prompt):
            problems.append(Problem(f"{where}.prompt", NO_PROMPT))
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
