"""Forged call-backs: whatever arrives at the door, only what carries the secret is believed, over real HTTP as well."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from cases import Cases

from flux_tasks.api.webhooks import WebhookForged, verify_webhook

SECRET = "hook-5ecret-of-the-test-Zr81"
BODY = json.dumps({"id": "job-1", "status": "Ready", "result": {"sample": "https://delivery.bfl.ai/x"}}).encode()


def signed(body: bytes = BODY, secret: str = SECRET, kind: str = "sha256") -> str:
    return f"{kind}=" + hmac.new(secret.encode(), body, kind).hexdigest()


DIGEST = signed().removeprefix("sha256=")

FORGED: dict[str, dict[str, str]] = {
    "no headers": {},
    "an empty secret": {"X-Webhook-Secret": ""},
    "a wrong secret": {"X-Webhook-Secret": "wrong"},
    "the secret's beginning": {"X-Webhook-Secret": SECRET[:-1]},
    "the secret and more": {"X-Webhook-Secret": f"{SECRET}x"},
    "the secret twice in one header": {"X-Webhook-Secret": f"{SECRET}, {SECRET}"},
    "the secret among others": {"X-Webhook-Secret": f"wrong, {SECRET}"},
    "the secret in another case": {"X-Webhook-Secret": SECRET.swapcase()},
    "the secret quoted": {"X-Webhook-Secret": f'"{SECRET}"'},
    "the secret as a scheme": {"X-Webhook-Secret": f"Bearer {SECRET}"},
    "the secret in another header": {"Authorization": SECRET, "X-Key": SECRET, "X-Webhook-Secret-": SECRET},
    "the header's name with an underscore": {"X_Webhook_Secret": SECRET},
    "the secret's digest": {"X-Webhook-Secret": hashlib.sha256(SECRET.encode()).hexdigest()},
    "a look-alike": {"X-Webhook-Secret": SECRET.replace("o", "\u043e")},
    "full width": {"X-Webhook-Secret": "".join(chr(ord(c) + 0xFEE0) for c in SECRET)},
    "zero width": {"X-Webhook-Secret": f"\u200b{SECRET}"},
    "a half surrogate": {"X-Webhook-Secret": "\udc80"},
    "a NUL": {"X-Webhook-Secret": f"{SECRET}\0"},
    "very long": {"X-Webhook-Secret": SECRET * 100_000},
    "an empty signature": {"X-BFL-Signature": ""},
    "a signature's label": {"X-BFL-Signature": "sha256="},
    "a signature without its label": {"X-BFL-Signature": DIGEST},
    "a truncated signature": {"X-BFL-Signature": f"sha256={DIGEST[:32]}"},
    "a signature short of one digit": {"X-BFL-Signature": f"sha256={DIGEST[:-1]}"},
    "a signature of zeros": {"X-BFL-Signature": "sha256=" + "0" * 64},
    "a longer signature": {"X-BFL-Signature": f"sha256={DIGEST}00"},
    "a signature by another secret": {"X-BFL-Signature": signed(secret="other")},
    "a signature by no secret": {"X-BFL-Signature": signed(secret="")},
    "a signature of nothing": {"X-BFL-Signature": signed(b"")},
    "a signature of another body": {"X-BFL-Signature": signed(BODY.replace(b"job-1", b"job-2"))},
    "a weaker signature": {"X-BFL-Signature": signed(kind="sha1")},
    "another label": {"X-BFL-Signature": f"sha512={DIGEST}"},
    "a plain digest": {"X-BFL-Signature": f"sha256={hashlib.sha256(BODY).hexdigest()}"},
    "a digest of secret and body": {"X-BFL-Signature": f"sha256={hashlib.sha256(SECRET.encode() + BODY).hexdigest()}"},
    "the secret as signature": {"X-BFL-Signature": SECRET},
    "the signature as secret": {"X-Webhook-Secret": signed()},
    "two signatures": {"X-BFL-Signature": f"sha256={'0' * 64}, {signed()}"},
    "a signature in full width digits": {"X-BFL-Signature": "sha256=" + "".join(chr(ord(c) + 0xFEE0) for c in DIGEST)},
    "a signature whose Kelvin and dotted letters become plain in lower case": {
        "X-BFL-Signature": "sha256=" + DIGEST.replace("i", "\u0130").replace("k", "\u212a") + "\u0130"
    },
    "half surrogates as a signature": {"X-BFL-Signature": "sha256=\ud800\udfff"},
}


def test_what_does_not_carry_the_secret_is_forged_and_nothing_of_the_secret_is_told(cases: Cases) -> None:
    for kind, headers in FORGED.items():
        with cases.case(kind):
            with pytest.raises(WebhookForged) as caught:
                verify_webhook(headers, BODY, SECRET)
            assert SECRET not in f"{caught.value!s}{caught.value!r}"
            assert DIGEST not in f"{caught.value!s}{caught.value!r}"


@pytest.mark.parametrize("name", ["X-Webhook-Secret", "x-webhook-secret", "X-WEBHOOK-SECRET", "x-WebHook-sEcret"])
def test_the_headers_name_may_be_in_any_case(name: str) -> None:
    assert verify_webhook({name: SECRET}, BODY, SECRET)["id"] == "job-1"


@pytest.mark.parametrize(
    "pairs",
    [
        [("X-Webhook-Secret", "wrong"), ("x-webhook-secret", "also wrong")],
        [("X-BFL-Signature", signed(secret="other")), ("x-bfl-signature", "sha256=")],
        [("X-Webhook-Secret", SECRET[:10]), ("X-WEBHOOK-SECRET", SECRET[10:])],
    ],
)
def test_two_wrong_headers_do_not_add_up_to_a_right_one(pairs: list[tuple[str, str]]) -> None:
    for headers in (dict(pairs), httpx.Headers(pairs), httpx.Headers(pairs[::-1])):
        with pytest.raises(WebhookForged):
            verify_webhook(headers, BODY, SECRET)


@pytest.mark.parametrize("secret", ["", None])
def test_without_a_secret_of_ones_own_nothing_is_believed(secret: Any) -> None:
    for headers in ({}, {"X-Webhook-Secret": ""}, {"X-Webhook-Secret": "None"}, {"X-BFL-Signature": signed(secret="")}):
        with pytest.raises(WebhookForged, match="no secret to compare with"):
            verify_webhook(headers, BODY, secret)


BROKEN = {
    "nothing": b"",
    "half a byte": b"\xff",
    "bytes that are no text": b'{"id": "job-\xff\xfe"}',
    "latin-1": '{"id": "gr\u00fc\u00df"}'.encode("latin-1"),
    "cut": BODY[:-1],
    "twice": BODY + BODY,
    "a list": b'["id"]',
    "a number": b"7",
    "null": b"null",
    "no id": b'{"status": "Ready"}',
    "an id that is a number": b'{"id": 7}',
    "an id that is null": b'{"id": null}',
    "an id that is a list": b'{"id": ["job-1"]}',
    "an empty id": b'{"id": ""}',
    "very deep": b'{"id": "1", "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "a number of too many digits": b'{"id": "1", "x": ' + b"9" * 10_000 + b"}",
    "a byte order mark and garbage": b"\xef\xbb\xbf\x00",
    "a pickle": b"\x80\x04K\x07.",
}


def test_a_body_that_the_service_does_not_send_is_forged_even_with_the_secret(cases: Cases) -> None:
    for kind, body in BROKEN.items():
        for headers in ({"X-Webhook-Secret": SECRET}, {"X-BFL-Signature": signed(body)}):
            with cases.case(f"{kind}, {headers}"), pytest.raises(WebhookForged):
                verify_webhook(headers, body, SECRET)


@pytest.mark.parametrize("body", [b'{"id": "job-\xff"}', b"\x00", b"\xc3\x28", b"\xed\xa0\x80", BODY])
def test_bytes_that_are_no_text_are_compared_as_bytes(body: bytes) -> None:
    other = bytes([*body[:-1], body[-1] ^ 1])
    with pytest.raises(WebhookForged, match="neither"):
        verify_webhook({"X-BFL-Signature": signed(other)}, body, SECRET)


def test_text_that_holds_half_a_surrogate_is_no_error_of_another_kind() -> None:
    for body in ('{"id": "job-\udc80"}', "\udc80", '{"id": "1", "\ud800": "\udfff"}'):
        with pytest.raises(WebhookForged):
            verify_webhook({"X-Webhook-Secret": "wrong"}, body, SECRET)
        with suppress(WebhookForged):  # with the secret it is the sender's own affair
            verify_webhook({"X-Webhook-Secret": SECRET}, body, SECRET)


def test_the_same_genuine_call_back_twice_is_believed_twice_and_told_apart_by_its_id() -> None:
    seen: set[str] = set()
    news = []
    for body in (BODY, BODY, BODY.replace(b"job-1", b"job-2"), BODY):
        content = verify_webhook({"X-BFL-Signature": signed(body)}, body, SECRET)
        if content["id"] not in seen:
            news.append(content["id"])
        seen.add(content["id"])
    assert news == ["job-1", "job-2"]


def test_a_signature_of_one_call_back_does_not_make_another_one_genuine() -> None:
    other = BODY.replace(b"job-1", b"job-2")
    verify_webhook({"X-BFL-Signature": signed()}, BODY, SECRET)
    with pytest.raises(WebhookForged):
        verify_webhook({"X-BFL-Signature": signed()}, other, SECRET)


def test_of_an_id_that_is_written_twice_there_is_one_meaning_and_it_was_signed() -> None:
    body = b'{"id": "job-1", "id": "job-2"}'
    assert verify_webhook({"X-BFL-Signature": signed(body)}, body, SECRET)["id"] == "job-2"


# -- at a real door ---------------------------------------------------------------------------------------------------


class Door(BaseHTTPRequestHandler):
    """A receiver as somebody would write it: 200 for the genuine, 403 for the rest, 500 if it falls over."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            headers: Mapping[str, str] = self.headers  # type: ignore[assignment]
            verify_webhook(headers, body, SECRET)
            code = 200
        except WebhookForged:
            code = 403
        except Exception:
            code = 500
        self.send_response(code)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's own word
        """Nothing on the terminal."""


@pytest.fixture
def door() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Door) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def knock(door: int, headers: list[tuple[str, bytes]], body: bytes = BODY) -> int:
    """The code that a call-back with these headers, byte for byte and in this order, is answered with."""
    with closing(HTTPConnection("127.0.0.1", door)) as connection:
        connection.putrequest("POST", "/hook")
        connection.putheader("content-length", str(len(body)))
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders(body)
        return connection.getresponse().status


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([("X-Webhook-Secret", SECRET.encode())], 200),
        ([("x-bfl-signature", signed().encode())], 200),
        ([], 403),
        ([("X-Webhook-Secret", b"\xff\xfe\x80")], 403),
        ([("X-BFL-Signature", b"sha256=\xff\xfe\x80")], 403),
        ([("X-Webhook-Secret", b"wrong"), ("X-Webhook-Secret", b"wrong")], 403),
        ([("X-Webhook-Secret", "gr\u00fc\u00df".encode())], 403),
        ([("X-Webhook-Secret", SECRET.encode().upper())], 403),
    ],
    ids=repr,
)
def test_a_receiver_over_real_http_lets_in_the_genuine_and_falls_over_nothing(
    door: int, headers: list[tuple[str, bytes]], code: int
) -> None:
    assert knock(door, headers) == code


@pytest.mark.parametrize("kind", BROKEN)
def test_a_receiver_over_real_http_falls_over_no_body(door: int, kind: str) -> None:
    assert knock(door, [("X-Webhook-Secret", SECRET.encode())], BROKEN[kind]) == 403


@pytest.mark.parametrize("right_one", [0, 1])
def test_a_header_that_is_there_twice_with_two_values_is_answered_like_any_other(door: int, right_one: int) -> None:
    pairs = [("X-Webhook-Secret", b"wrong"), ("x-webhook-secret", b"wrong")]
    assert knock(door, pairs) == 403
    pairs[right_one] = (pairs[right_one][0], SECRET.encode())
    assert knock(door, pairs) in (200, 403)
