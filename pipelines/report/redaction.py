"""Remove secrets from text that a report or a drawing shows to everybody who gets it."""

from __future__ import annotations

import re

__all__ = ["without_secrets"]

_WEB_ADDRESS = re.compile(r"(https?://)(?:[^\s/?#@\"'<>]*@)?([^\s?#\"'<>]*)(\?[^\s\"'<>]*)?")
_WEBHOOK_SECRET = re.compile(r"(webhook_secret[\"']?\s*[:=]\s*)[^\s,}][^\n,}]*")


def without_secrets(text: str) -> str:
    """Return ``text`` without secrets.

    Web addresses lose user, password and query, because a signed link carries its key there. A recipe loses the value
    of ``webhook_secret``.
    """
    return _WEBHOOK_SECRET.sub(
        r"\1…", _WEB_ADDRESS.sub(lambda found: f"{found[1]}{found[2]}{'?…' * bool(found[3])}", text)
    )
