"""Turn what a manifest contains into text and numbers: a manifest may be old, damaged or written by somebody else."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime

from pipelines.report.redaction import without_secrets

__all__ = ["moment", "number", "pairs", "text", "texts"]


def text(value: object) -> str:
    """Return ``value`` as text without secrets: JSON unless it is text, and an empty string for None."""
    if value is None:
        return ""
    return without_secrets(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def texts(value: object) -> tuple[str, ...]:
    """Return a list as texts, and nothing for any other value."""
    return tuple(map(text, value)) if isinstance(value, (list, tuple)) else ()


def pairs(value: object) -> tuple[tuple[str, str], ...]:
    """Return a mapping as pairs of texts, and nothing for any other value."""
    return tuple((str(name), text(inner)) for name, inner in value.items()) if isinstance(value, Mapping) else ()


def number(value: object) -> float | None:
    """Return a finite number, or None for any other value."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None  # type: ignore[arg-type]


def moment(iso: str) -> str:
    """Return ISO text as ``2 March 2026, 21:14 UTC``, and any other text unchanged."""
    try:
        found = datetime.fromisoformat(iso.removesuffix("UTC").strip())
    except ValueError:
        return iso
    zone = found.tzname() or ("UTC" if iso.endswith("UTC") else "")
    return f"{found.day} {found:%B %Y, %H:%M} {zone}".rstrip()
