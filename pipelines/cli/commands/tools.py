"""The catalogue as a table for people and as plain data for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic.fields import FieldInfo

from flux_tasks.catalog import SOURCES, Tool
from flux_tasks.catalog.signatures import source_of

__all__ = ["describe", "table"]


def describe(tool: Tool) -> dict[str, Any]:
    """Everything the catalogue knows of ``tool``, JSON-ready."""
    price = tool.price
    return {
        "name": tool.name,
        "task": tool.task,
        "aliases": list(tool.aliases),
        "summary": tool.summary,
        "path": tool.path,
        "images": {n: {"role": m.role, "url": m.url} for n, m in tool.image_fields.items()},
        "parameters": {
            n: {
                "description": i.description or "",
                "required": i.is_required(),
                "default": None if i.is_required() else i.default,
            }
            for n, i in tool.parameters.items()
        },
        "output_formats": list(tool.formats),
        "output_format": tool.output_format,
        "webhooks": tool.webhooks,
        "strict": tool.strict,
        "slots": tool.slots,
        "price": {
            "first": price.first,
            "extra": price.extra,
            "per": price.per,
            "inputs": price.inputs,
            "date": price.date,
            "source": SOURCES.get(price.source, price.source),
            "note": price.note,
        },
        "sources": {tag: SOURCES.get(tag, tag) for tag in tool.sources},
    }


def table(tools: Sequence[Tool], *, parameters: bool = False) -> str:
    """``tools`` as aligned text; credits are 0.01 USD each."""
    rows = [("tool", "step", "credits", "as of", "from", "also called")]
    rows += [(t.name, t.task, str(t.price), t.price.date, t.price.source, ", ".join(t.aliases) or "-") for t in tools]
    lines = _aligned(rows)
    if not parameters:
        lines += ["", "credits: 1 credit = 0.01 USD; MP = 1,048,576 px; prices were read in:"]
        tags = dict.fromkeys(t.price.source for t in tools)
        lines += _aligned([("  " + tag, SOURCES.get(tag, tag)) for tag in tags])
    if parameters:
        for tool in tools:
            price = [f"price: read in {SOURCES.get(tool.price.source, tool.price.source)}"]
            price += [f"price: {tool.price.note}"] if tool.price.note else []
            lines += ["", tool.summary, *price, ""]
            shown: list[tuple[str, ...]] = [
                (n, i.role, "", "", tool.request.model_fields[n].description or "")
                for n, i in tool.image_fields.items()
            ]
            shown += [
                (n, _kind(i), _range(i), _default(tool, n, i), i.description or "") for n, i in tool.parameters.items()
            ]
            lines += _aligned(shown)
    return "\n".join(lines)


def _kind(info: FieldInfo) -> str:
    kind = source_of(info.annotation).removesuffix(" | None")
    if kind.startswith("Literal["):
        choices = kind.removeprefix("Literal[").removesuffix("]").replace("'", "").split(", ")
        return "one of " + "|".join(choices) if len(choices) < 5 else f"{choices[0]}, {choices[1]} … {choices[-1]}"
    return {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}.get(kind, "mapping")


def _range(info: FieldInfo) -> str:
    """The range of a number or the length of a text, as people write it."""
    limits = {name: getattr(mark, name) for mark in info.metadata for name in _LIMITS if hasattr(mark, name)}
    words = [f"{sign} {limits[name]:g}" for name, sign in _LIMITS.items() if name in limits]
    if "ge" in limits and "le" in limits:
        words = [f"{limits['ge']:g}–{limits['le']:g}", *words[2:]]
    return ", ".join(words)


def _default(tool: Tool, name: str, info: FieldInfo) -> str:
    if info.is_required():
        return "or aspect_ratio or expand" if tool.options.model_fields and name in ("width", "height") else "required"
    return "" if info.default is None else f"default {info.default}"


_LIMITS = {"ge": "at least", "le": "at most", "multiple_of": "a multiple of"}


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
