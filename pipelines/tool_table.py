"""The catalogue as a table for people and as plain data for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flux_tasks.catalog import SOURCES, Tool

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
    if parameters:
        for tool in tools:
            lines += ["", tool.summary, *([f"price: {tool.price.note}"] if tool.price.note else []), ""]
            shown: list[tuple[str, ...]] = [(n, "image", i.role) for n, i in tool.image_fields.items()]
            shown += [
                (n, "required" if i.is_required() else f"default {i.default!r}", i.description or "")
                for n, i in tool.parameters.items()
            ]
            lines += _aligned(shown)
    return "\n".join(lines)


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
