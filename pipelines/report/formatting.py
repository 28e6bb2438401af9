"""How the report puts numbers, times and whatever a manifest holds into words."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime

from pipelines.report.redaction import without_secrets

__all__ = ["duration", "moment", "number", "pairs", "text", "texts"]


def text(value: object) -> str:
    """``value`` as text without secrets; JSON for what is no text, nothing for None."""
    if value is None:
        return ""
    return without_secrets(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def texts(value: object) -> tuple[str, ...]:
    """A list as texts; nothing for anything else."""
    return tuple(map(text, value)) if isinstance(value, (list, tuple)) else ()


def pairs(value: object) -> tuple[tuple[str, str], ...]:
    """A mapping as pairs of texts; nothing for anything else."""
    return tuple((str(name), text(inner)) for name, inner in value.items()) if isinstance(value, Mapping) else ()


def number(value: object) -> float | None:
    """A finite number, or None."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None  # type: ignore[arg-type]


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 0.01:
        return "under 0.01 s" if seconds else "0 s"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def moment(iso: str) -> str:
    """``2 March 2026, 21:14 UTC`` for ISO text; anything else as it is."""
    try:
        found = datetime.fromisoformat(iso.removesuffix("UTC").strip())
    except ValueError:
        return iso
    zone = found.tzname() or ("UTC" if iso.endswith("UTC") else "")
    return f"{found.day} {found:%B %Y, %H:%M} {zone}".rstrip()
