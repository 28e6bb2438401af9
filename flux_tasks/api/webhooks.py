"""Check the service's call-backs, and read them."""

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

from flux_tasks.errors import FluxError

__all__ = ["WebhookForged", "signature_of", "verify_webhook"]

NOT_GENUINE = "neither X-Webhook-Secret nor X-BFL-Signature is right"
NO_ID = "the body is not a JSON object with an id"


class WebhookForged(FluxError):
    """A call-back without the secret, or not of the form that the service sends."""


def verify_webhook(headers: Mapping[str, str], body: bytes | str, secret: str) -> dict[str, Any]:
    """Return the content of a genuine call-back; it has the shape of a poll's answer.

    The service sends the secret verbatim in ``X-Webhook-Secret`` (DOCS-F2, SDK-0.2); an HMAC-SHA256 of the body in
    ``X-BFL-Signature: sha256=<hex>`` (SKILL) is accepted instead. Both are compared in constant time. The same
    call-back may come twice: compare its ``id``.

    Args:
        headers: of the request; names in any case.
        body: exactly as received.
        secret: what was given as ``webhook_secret``.

    Raises:
        WebhookForged: neither header is right, or the body is not a JSON object with an ``id``.
    """
    if not secret:
        raise WebhookForged("no secret to compare with: submit with webhook_secret")
    raw = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body)
    lowered = {name.lower(): value for name, value in headers.items()}
    plain = lowered.get("x-webhook-secret", "")
    signed = lowered.get("x-bfl-signature", "")
    expected = signature_of(raw, secret)
    genuine = hmac.compare_digest(_bytes(plain), _bytes(secret))
    genuine |= hmac.compare_digest(_bytes(signed.lower()), expected.encode())
    if not genuine:
        raise WebhookForged(NOT_GENUINE)
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("id"), str) or not content["id"]:
        raise WebhookForged(NO_ID)
    return content


def signature_of(body: bytes, secret: str) -> str:
    """Return what ``X-BFL-Signature`` is for a body."""
    return "sha256=" + hmac.new(_bytes(secret), body, hashlib.sha256).hexdigest()


def _bytes(text: str) -> bytes:
    """Encode ``text`` for a comparison; a header may hold anything."""
    return text.encode("utf-8", "surrogatepass")
