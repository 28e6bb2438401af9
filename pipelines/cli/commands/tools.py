"""``tools``: the catalogue of tools, as a table for people or as JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from flux_tasks.units import table_text
from pipelines.cli.common import Exit, Json
from pipelines.cli.terminal import print_line, terminal_width

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from flux_tasks.catalog import Tool

_LIMITS = {"ge": "at least", "le": "at most", "multiple_of": "a multiple of"}
_TYPES = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}


def tools(name: str | None = None, /, *, json: Json = False) -> Exit:
    """List the tools with their prices.

    For example:
      flux-pipelines tools
      flux-pipelines tools erase

    Args:
        name: show this tool with all its parameters
    """
    from json import dumps

    from flux_tasks import catalog

    found = [catalog.tool(name)] if name else list(catalog.TOOLS.values())
    if json:
        described = [_describe(tool) for tool in found]
        print_line(dumps(described[0] if name else described, indent=2))
    else:
        print_line("\n".join(_details(found[0]) if name else _overview(found)))
    return Exit.OK


def _describe(tool: Tool) -> dict[str, Any]:
    """Return everything that the catalogue knows of ``tool``, JSON-ready."""
    from flux_tasks.catalog import SOURCES

    price = {n: getattr(tool.price, n) for n in ("first", "extra", "per", "inputs", "date", "note")}
    parameters = {
        n: {
            "description": i.description or "",
            "required": i.is_required(),
            "default": None if i.is_required() else i.default,
        }
        for n, i in tool.parameters.items()
    }
    plain = ("name", "task", "summary", "path", "output_format", "webhooks", "strict", "slots", "charged_when_refused")
    return {
        **{name: getattr(tool, name) for name in plain},
        "aliases": list(tool.aliases),
        "images": {n: {"role": m.role, "url": m.url, "most": m.most} for n, m in tool.image_fields.items()},
        "parameters": parameters,
        "output_formats": list(tool.formats),
        "price": {**price, "source": SOURCES.get(tool.price.source, tool.price.source)},
        "prices": {
            row.label: {n: getattr(row, n) for n in ("first", "extra", "date", "source", "note")}
            for row in tool.prices
            if row.label
        },
        "prompt_limit": tool.prompt_limit and {"most": tool.prompt_limit.most, "unit": tool.prompt_limit.unit},
        "tips": [{"about": tip.about, "text": tip.text, "source": tip.source} for tip in tool.tips],
        "sources": {tag: SOURCES.get(tag, tag) for tag in tool.sources},
    }


def _overview(tools: Sequence[Tool]) -> Iterator[str]:
    """Yield the text of the list: the tools, and where their prices were read."""
    from flux_tasks.catalog import SOURCES

    yield _prices(tools)
    yield "\ncredits: 1 credit = 0.01 USD; MP = 1,048,576 px; if refused: a job that moderation refuses (HELP-MOD)"
    yield "prices were read in:"
    tags = dict.fromkeys(tool.price.source for tool in tools)
    yield table_text([(f"  {tag}", SOURCES.get(tag, tag)) for tag in tags], width=terminal_width())


def _details(tool: Tool) -> Iterator[str]:
    """Yield the text on one tool: its price, and its images and parameters."""
    from flux_tasks.catalog import SOURCES

    yield _prices([tool])
    yield f"\n{tool.summary}\nprice: read in {SOURCES.get(tool.price.source, tool.price.source)}"
    if tool.price.note:
        yield f"price: {tool.price.note}"
    if tool.price_by[0]:
        yield f"\nprice by {tool.price_by[0]}"
        rows = [(f"  {price.label or '-'}", str(price), price.date, price.source, price.note) for price in tool.prices]
        yield table_text(rows, width=terminal_width())
    described = tool.request.model_fields
    images = [(n, i.role, "", "", described[n].description or "") for n, i in tool.image_fields.items()]
    others = [(n, _type(i), _range(i), _default(tool, n, i), i.description or "") for n, i in tool.parameters.items()]
    yield "\n" + table_text([*images, *others], width=terminal_width())
    if tool.tips:
        tips = [(f"  {tip.about or '-'}", tip.text, tip.source) for tip in tool.tips]
        yield "\ntips, or what to do when\n" + table_text(tips, width=terminal_width())


def _prices(tools: Sequence[Tool]) -> str:
    rows = [("tool", "step", "credits", "as of", "from", "if refused", "also called")]
    words = {"yes": "charged", "no": "free", "unknown": "unknown"}
    for tool in tools:
        price = (tool.price_text, tool.price.date, tool.price.source, words[tool.charged_when_refused])
        rows.append((tool.name, tool.task, *price, ", ".join(tool.aliases) or "-"))
    return table_text(rows, width=terminal_width())


def _type(info: FieldInfo) -> str:
    """Return the type of a parameter in words."""
    from flux_tasks.catalog.signatures import source_of

    name = source_of(info.annotation).removesuffix(" | None")
    if name.startswith("Literal["):
        choices = name.removeprefix("Literal[").removesuffix("]").replace("'", "").split(", ")
        return "one of " + "|".join(choices) if len(choices) < 5 else f"{choices[0]}, {choices[1]} … {choices[-1]}"
    return "list of boxes" if name.startswith("Sequence[Box") else _TYPES.get(name, "mapping")


def _range(info: FieldInfo) -> str:
    """Return the range of a number or the length of a text, as people write it."""
    limits = {name: getattr(mark, name) for mark in info.metadata for name in _LIMITS if hasattr(mark, name)}
    words = [f"{sign} {limits[name]:g}" for name, sign in _LIMITS.items() if name in limits]
    if "ge" in limits and "le" in limits:
        words = [f"{limits['ge']:g}–{limits['le']:g}", *words[2:]]
    return ", ".join(words)


def _default(tool: Tool, name: str, info: FieldInfo) -> str:
    if info.is_required():
        return "or aspect_ratio or expand" if tool.has_canvas and name in ("width", "height") else "required"
    return "" if info.default is None else f"default {info.default}"
