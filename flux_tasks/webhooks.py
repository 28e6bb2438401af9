"""Receiving the service's call-backs: is this one genuine, and what does it say?"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

from flux_tasks.errors import FluxError

__all__ = ["WebhookForged", "verify_webhook"]


class WebhookForged(FluxError):
    """A call-back that does not carry the secret, or is not what the service sends."""


def verify_webhook(headers: Mapping[str, str], body: bytes | str, secret: str) -> dict[str, Any]:
    """The content of a genuine call-back, of the same shape as a poll's answer.

    The service sends the secret verbatim in ``X-Webhook-Secret`` (DOCS-F2, SDK-0.2); an HMAC-SHA256 of the body in
    ``X-BFL-Signature: sha256=<hex>`` (SKILL) is accepted instead. Both are compared in constant time. Call-backs may
    come twice: tell them apart by ``id``.

    Args:
        headers: of the request; names in any case.
        body: exactly as received.
        secret: what was given as ``webhook_secret``.

    Raises:
        WebhookForged: neither header is right, or the body is not a JSON object with an ``id``.
    """
    if not secret:
        raise WebhookForged("no secret to compare with: submit with webhook_secret")
    raw = body.encode() if isinstance(body, str) else bytes(body)
    lowered = {name.lower(): value for name, value in headers.items()}
    plain = lowered.get("x-webhook-secret", "")
    signed = lowered.get("x-bfl-signature", "")
    expected = "sha256=" + hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest()
    genuine = hmac.compare_digest(plain.encode(), secret.encode())
    genuine |= hmac.compare_digest(signed.lower().encode(), expected.encode())
    if not genuine:
        raise WebhookForged("neither X-Webhook-Secret nor X-BFL-Signature is right")
    try:
        content = json.loads(raw)
    except ValueError:
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("id"), str):
        raise WebhookForged("the body is not a JSON object with an id")
    return content
