"""Turn what a manifest or a recipe contains into text and numbers, without secrets, whoever wrote it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

_WEB_ADDRESS = re.compile(r"(https?://)(?:[^\s/?#@\"'<>]*@)?([^\s?#\"'<>]*)(\?[^\s\"'<>]*)?")
_WEBHOOK_SECRET = re.compile(r"(webhook_secret[\"']?\s*[:=]\s*)[^\s,}][^\n,}]*")


def without_secrets(text: str) -> str:
    """Return ``text`` without secrets.

    Web addresses lose user, password and query, because a signed link carries its key there. A recipe loses the value
    of ``webhook_secret``.
    """
    if "http" not in text and "webhook_secret" not in text:  # as of nearly every text
        return text
    shown = _WEB_ADDRESS.sub(lambda found: f"{found[1]}{found[2]}{'?…' * bool(found[3])}", text)
    return _WEBHOOK_SECRET.sub(r"\1…", shown)


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


def mappings(value: object) -> list[Mapping[str, Any]]:
    """Return the mappings in a list, and nothing for any other value."""
    return [inner for inner in value if isinstance(inner, Mapping)] if isinstance(value, (list, tuple)) else []


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
