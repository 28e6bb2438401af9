"""What of an exchange may be written down: no key, no secret, no signed address, and of a picture only its hash."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from flux_tasks.catalog import CALLER_FIELDS
from flux_tasks.errors import InvalidImage
from flux_tasks.images.encoding import inspect

__all__ = ["REMOVED", "Asked", "Scrubber", "decoded", "media_type_of", "request_key", "secrets_of"]

REMOVED = "<removed>"
"""Stands where something was that is nobody's business."""

_URL = re.compile(r"""https?:(?:\\?/){2}[^\s"'<>]+""", re.IGNORECASE)
_SURE = 8  # characters; a shorter secret is looked for as a whole word only, or it would eat up the text
_DEPTH = 100  # levels of JSON; recursion goes further than that, but not everywhere
_UNKNOWN = 4096  # bytes; base64 that is no picture is taken for data from this length on


def decoded(raw: bytes) -> Any:
    """``raw`` as a JSON object or list; None for anything else, and for one that is nested beyond reason."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return value if isinstance(value, (dict, list)) else None
    return None


def request_key(raw: bytes) -> str:
    """SHA-256 of a body as canonical JSON without call-back fields, as ``checks.examine`` has it; of others as is."""
    body = decoded(raw)
    if not isinstance(body, dict):
        return hashlib.sha256(raw).hexdigest()
    job = {name: value for name, value in body.items() if name not in CALLER_FIELDS}
    return hashlib.sha256(json.dumps(job, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Asked:
    """A request body as it is recorded.

    Attributes:
        key: by which it is found again.
        request: the body, secrets removed, pictures described.
        secret: the call-back's, which must not be written down wherever it turns up again.
        hook: the call-back's address, which may hold a secret of its own.
    """

    key: str
    request: Any
    secret: str
    hook: str

    @classmethod
    def of(cls, raw: bytes, media_type: str, secrets: Iterable[str] = ()) -> Asked:
        """What is kept of ``raw``."""
        body = decoded(raw)
        given = body if isinstance(body, dict) else {}
        secret, hook = (str(given.get(name) or "") for name in ("webhook_secret", "webhook_url"))
        return cls(request_key(raw), Scrubber({*secrets, secret, hook}).request(raw, media_type), secret, hook)


def media_type_of(data: bytes) -> str:
    """What kind of picture ``data`` is; ``application/octet-stream`` if it is none."""
    try:
        return inspect(data).media_type
    except InvalidImage:
        return "application/octet-stream"


def secrets_of(url: str) -> set[str]:
    """The parts of a signed address that must not be written down wherever they turn up again: itself and its query."""
    try:
        query = urlsplit(url).query
    except ValueError:
        return {url}
    return {url, query, *(value for _, value in parse_qsl(query) if len(value) >= _SURE)} - {""}


class Scrubber:
    """Writes ``<removed>`` over secrets, and over the query and the user of every http(s) address.

    Args:
        secrets: texts that are removed wherever they stand, also where JSON or an address spells them its own way.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        spellings = {
            spelled
            for secret in secrets
            if secret.strip()
            for spelled in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1], secret.replace("/", "\\/"))
        }
        longest_first = sorted(spellings, key=len, reverse=True)
        sure = [re.escape(text) for text in longest_first if len(text) >= _SURE]
        words = [rf"(?<!\w){re.escape(text)}(?!\w)" for text in longest_first if len(text) < _SURE]
        self._in_names = re.compile("|".join(sure)) if sure else None
        self._in_text = re.compile("|".join([*sure, *words])) if spellings else None

    def text(self, text: str) -> str:
        """``text`` without what is removed."""
        return _URL.sub(_bare, self._in_text.sub(REMOVED, text) if self._in_text is not None else text)

    def _name(self, text: str) -> str:
        """The name of a field; a secret that is as short as one may be one."""
        return self._in_names.sub(REMOVED, text) if self._in_names is not None else text

    def value(self, value: Any) -> Any:
        """The same for every string of a JSON value, names of fields included."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if isinstance(value, dict):
            return {self._name(name): self.value(item) for name, item in value.items()}
        return value

    def answer(self, value: Any) -> Any:
        """An answer's JSON as it is recorded; it may repeat what was sent, pictures and call-backs included."""
        return self.value(_echoed(_described(value)))

    def data(self, data: bytes) -> bytes:
        """The same for bytes that are no text."""
        return self.text(data.decode("latin-1")).encode("latin-1")

    def request(self, raw: bytes, media_type: str) -> Any:
        """A request body as it is recorded: secrets removed, pictures described."""
        body = decoded(raw)
        if body is None:
            return {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw), "media_type": self.text(media_type)}
        if isinstance(body, dict):
            body = {name: REMOVED if name in CALLER_FIELDS and value else value for name, value in body.items()}
        return self.value(_described(body))


def _bare(found: re.Match[str]) -> str:
    url = found[0]
    cut = min((at for mark in "?#" if (at := url.find(mark)) >= 0), default=len(url))
    address, rest = url[:cut], url[cut:]
    scheme, slashes, place = address.partition("//")
    host, slash, path = place.partition("/")
    if "@" in host:
        host = f"{REMOVED}@{host.rpartition('@')[2]}"
    return f"{scheme}{slashes}{host}{slash}{path}" + (f"?{REMOVED}" if len(rest) > 1 else rest)


def _described(value: Any) -> Any:
    if isinstance(value, str):
        return _picture(value) or value
    if isinstance(value, list):
        return [_described(item) for item in value]
    if isinstance(value, dict):
        return {name: _described(item) for name, item in value.items()}
    return value


def _echoed(value: Any) -> Any:
    """What a schema error repeats of a request, without the fields that are never recorded."""
    if isinstance(value, list):
        return [_echoed(item) for item in value]
    if isinstance(value, dict):
        hidden = {name: REMOVED for name in ("webhook_secret", "user") if isinstance(value.get(name), str)}
        return {name: _echoed(item) for name, item in value.items()} | hidden
    return value


def _picture(text: str) -> dict[str, Any] | None:
    """The description of base64 data; None for any other text."""
    encoded = text.partition(",")[2] if text[:5].lower() == "data:" else text
    if len(encoded) < 32:
        return None
    try:
        data = base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
    media_type = media_type_of(data)
    if not media_type.startswith("image/") and len(data) < _UNKNOWN:
        return None
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "media_type": media_type}
