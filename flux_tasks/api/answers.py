"""Read the service's answers leniently: a body may be missing, broken or of another shape."""

from __future__ import annotations

import math
import time
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from flux_tasks.catalog import Tool
from flux_tasks.errors import Problem

__all__ = ["detail_of", "host_of", "number", "problems_of", "read_json", "reason_of", "retry_after"]


def host_of(url: str) -> str:
    """Return host and port of an address, without anything in it that may be secret."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2] or "an address"
    except ValueError:
        return "an address that cannot be read"


def reason_of(error: Exception) -> str:
    """Return an exception in a few words."""
    words = str(error).strip()
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def read_json(response: httpx.Response) -> Any:
    """Return the body as JSON, or None."""
    try:
        return response.json()
    except (ValueError, RecursionError):  # not JSON, not text, or nested beyond reason
        return None


def number(value: Any) -> float | None:
    """Return a finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def detail_of(answer: Any) -> str:
    """Return the server's reason: ``detail`` is a list for schema errors, a string otherwise (DOCS-ERR, OAS-0919)."""
    detail = answer.get("detail") if isinstance(answer, dict) else None
    if isinstance(detail, list):
        return "; ".join(
            f"{'.'.join(_place(e))}: {e.get('msg', '')}".strip(": ") for e in detail if isinstance(e, dict)
        )
    return str(detail) if detail else ""


def _place(error: dict[str, Any]) -> list[str]:
    found = error.get("loc")
    return [str(part) for part in found if part != "body"] if isinstance(found, (list, tuple)) else []


def problems_of(answer: Any, tool: Tool) -> list[Problem]:
    """Return the problems in a schema error, each with the task's parameter that it is about."""
    detail = answer.get("detail") if isinstance(answer, dict) else None
    if not isinstance(detail, list):
        return []
    return [Problem(".".join([tool.task, *_place(e)]), str(e.get("msg", ""))) for e in detail if isinstance(e, dict)]


def retry_after(response: httpx.Response) -> float | None:
    """Return the seconds that the server asks to wait, as a number or a date, at most 60; None if it asks for none."""
    value = response.headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(seconds, 0.0), 60.0) if math.isfinite(seconds) else None
