"""What may be known of a text by everybody who is given a report or a drawing."""

from __future__ import annotations

import re

__all__ = ["without_secrets"]

_WEB_ADDRESS = re.compile(r"(https?://)(?:[^\s/?#@\"'<>]*@)?([^\s?#\"'<>]*)(\?[^\s\"'<>]*)?")
_WEBHOOK_SECRET = re.compile(r"(webhook_secret[\"']?\s*[:=]\s*)[^\s,}][^\n,}]*")


def without_secrets(text: str) -> str:
    """``text`` with user, password and query taken out of its web addresses (signed links carry their key there)
    and with the value of ``webhook_secret`` taken out of a recipe."""
    return _WEBHOOK_SECRET.sub(
        r"\1…", _WEB_ADDRESS.sub(lambda found: f"{found[1]}{found[2]}{'?…' * bool(found[3])}", text)
    )
