"""Call-backs: what carries the secret is believed, and nothing else."""

from __future__ import annotations

import hashlib
import hmac
import json
import pickle
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_tasks.api.webhooks import WebhookForged, verify_webhook

SECRET = "throw-away – 秘密"
BODY = json.dumps({"id": "job-1", "status": "Ready", "result": {"sample": "https://delivery.bfl.ai/x"}}).encode()


def signature(body: bytes = BODY, secret: str = SECRET) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Webhook-Secret": SECRET},
        {"x-webhook-secret": SECRET},
        {"X-WEBHOOK-SECRET": SECRET, "Content-Type": "application/json"},
        {"X-BFL-Signature": signature()},
        {"x-bfl-signature": signature().upper().replace("SHA256", "sha256")},
        {"X-Webhook-Secret": SECRET, "X-BFL-Signature": "sha256=wrong"},
        {"X-Webhook-Secret": "wrong", "X-BFL-Signature": signature()},
    ],
)
def test_a_call_back_with_the_secret_or_its_signature_is_genuine(headers: Mapping[str, str]) -> None:
    content = verify_webhook(headers, BODY, SECRET)
    assert (content["id"], content["status"]) == ("job-1", "Ready")
    assert content["result"]["sample"].startswith("https://")
    assert verify_webhook(headers, BODY.decode(), SECRET) == content


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Webhook-Secret": ""},
        {"X-Webhook-Secret": SECRET[:-1]},
        {"X-Webhook-Secret": SECRET + " "},
        {"X-Webhook-Secret": SECRET.upper()},
        {"Webhook-Secret": SECRET},
        {"X-BFL-Signature": ""},
        {"X-BFL-Signature": "sha256="},
        {"X-BFL-Signature": signature().removeprefix("sha256=")},
        {"X-BFL-Signature": signature(secret="other")},
        {"X-BFL-Signature": signature(BODY + b" ")},
        {"X-BFL-Signature": SECRET},
    ],
)
def test_a_call_back_without_them_is_forged_and_the_secret_is_not_told(headers: Mapping[str, str]) -> None:
    with pytest.raises(WebhookForged) as caught:
        verify_webhook(headers, BODY, SECRET)
    assert SECRET not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_signature_is_of_these_bytes_and_no_others() -> None:
    changed = BODY.replace(b"Ready", b"Error")
    with pytest.raises(WebhookForged):
        verify_webhook({"X-BFL-Signature": signature()}, changed, SECRET)
    assert verify_webhook({"X-BFL-Signature": signature(changed)}, changed, SECRET)["status"] == "Error"


def test_without_a_secret_nothing_is_genuine() -> None:
    for headers in ({}, {"X-Webhook-Secret": ""}, {"X-BFL-Signature": signature(secret="")}):
        with pytest.raises(WebhookForged, match="no secret to compare with"):
            verify_webhook(headers, BODY, "")


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"null", b'{"id": 5}', b"\xff", b"not json", b'["id"]'])
def test_what_the_service_does_not_send_is_forged_even_with_the_secret(body: bytes) -> None:
    with pytest.raises(WebhookForged, match="not a JSON object with an id"):
        verify_webhook({"X-Webhook-Secret": SECRET}, body, SECRET)


def test_the_same_call_back_twice_is_genuine_twice_and_known_by_its_id() -> None:
    first, second = (verify_webhook({"X-Webhook-Secret": SECRET}, BODY, SECRET) for _ in range(2))
    assert first == second
    assert first["id"] == second["id"] == "job-1"


@given(headers=st.dictionaries(st.text(max_size=20), st.text(st.characters(exclude_categories=["Cs"]), max_size=40)))
def test_no_headers_whatever_raise_anything_else(headers: dict[str, str]) -> None:
    with pytest.raises(WebhookForged):
        verify_webhook(headers, BODY, "a secret of more than forty characters, so never guessed here")
