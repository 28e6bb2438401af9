"""Remove what must not be recorded: keys, secrets, signed addresses; of a picture only the hash stays."""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import parse_qsl, quote, urlsplit

from flux_tasks.catalog.fields import CALLER_FIELDS
from flux_tasks.errors import InvalidImage
from flux_tasks.images.encoding import inspect
from flux_tasks.local.service.checks import body_key

REMOVED = "<removed>"
"""Written in place of what was removed."""

_URL = re.compile(r"""https?:(?:\\?/){2}[^\s"'<>]+""", re.IGNORECASE)
_SURE = 8  # characters; a shorter secret is removed as a whole word only, or it would be found everywhere
_DEPTH = 100  # levels of JSON; Python can recurse deeper than that
_UNKNOWN = 4096  # bytes; base64 that is no picture counts as data from this length on


def decoded(raw: bytes) -> Any:
    """Return ``raw`` as a JSON object or list; None for anything else, and for JSON that is nested too deeply."""
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


def each_text(value: Any, change: Callable[[str], Any], rename: Callable[[str], str] = str) -> Any:
    """Return a JSON value with every string in it changed, and every name of a field renamed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [each_text(item, change, rename) for item in value]
    if isinstance(value, dict):
        return {rename(name): each_text(item, change, rename) for name, item in value.items()}
    return value


def request_key(raw: bytes) -> str:
    """Return the SHA-256 of a body: see ``checks.body_key``, or of the bytes if they are no JSON object."""
    body = decoded(raw)
    return body_key(body) if isinstance(body, dict) else hashlib.sha256(raw).hexdigest()


@dataclass(frozen=True, slots=True)
class Asked:
    """A request body as it is recorded.

    Attributes:
        key: a replay finds the pair by it.
        request: the body, secrets removed, pictures described.
        secret: of the call-back; it must not be recorded wherever it appears.
        hook: the call-back's address, which may hold a secret of its own.
    """

    key: str
    request: Any
    secret: str
    hook: str

    @classmethod
    def of(cls, raw: bytes, media_type: str, secrets: Iterable[str] = ()) -> Self:
        """Return what is recorded of ``raw``."""
        body = decoded(raw)
        given = body if isinstance(body, dict) else {}
        secret, hook = (str(given.get(name) or "") for name in ("webhook_secret", "webhook_url"))
        return cls(request_key(raw), Scrubber({*secrets, secret, hook}).request(raw, media_type), secret, hook)


def media_type_of(data: bytes) -> str:
    """Return the media type of a picture; ``application/octet-stream`` for anything else."""
    try:
        return inspect(data).media_type
    except InvalidImage:
        return "application/octet-stream"


def secrets_of(url: str) -> set[str]:
    """Return the parts of a signed address that must not be recorded wherever they appear: itself and its query."""
    try:
        query = urlsplit(url).query
    except ValueError:
        return {url}
    return {url, query, *(value for _, value in parse_qsl(query) if len(value) >= _SURE)} - {""}


class Scrubber:
    """Writes ``<removed>`` over secrets, and over the query and the user of every http(s) address.

    Args:
        secrets: texts to remove, also in the forms that they have in JSON and in addresses.
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
        """Return ``text`` without secrets."""
        return _URL.sub(_bare, self._in_text.sub(REMOVED, text) if self._in_text is not None else text)

    def _name(self, text: str) -> str:
        """Return the name of a field without secrets; a short secret may be a common name."""
        return self._in_names.sub(REMOVED, text) if self._in_names is not None else text

    def value(self, value: Any) -> Any:
        """Return a JSON value with every string in it scrubbed, names of fields included."""
        return each_text(value, self.text, self._name)

    def answer(self, value: Any) -> Any:
        """Return an answer's JSON as it is recorded; it may repeat the request, pictures and call-backs included."""
        return self.value(_echoed(each_text(value, _described)))

    def data(self, data: bytes) -> bytes:
        """Return bytes that are no text without secrets."""
        return self.text(data.decode("latin-1")).encode("latin-1")

    def request(self, raw: bytes, media_type: str) -> Any:
        """Return a request body as it is recorded: secrets removed, pictures described."""
        body = decoded(raw)
        if body is None:
            return {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw), "media_type": self.text(media_type)}
        if isinstance(body, dict):
            body = {name: REMOVED if name in CALLER_FIELDS and value else value for name, value in body.items()}
        return self.value(each_text(body, _described))


def _bare(found: re.Match[str]) -> str:
    url = found[0]
    cut = min((at for mark in "?#" if (at := url.find(mark)) >= 0), default=len(url))
    address, rest = url[:cut], url[cut:]
    scheme, slashes, place = address.partition("//")
    host, slash, path = place.partition("/")
    if "@" in host:
        host = f"{REMOVED}@{host.rpartition('@')[2]}"
    return f"{scheme}{slashes}{host}{slash}{path}" + (f"?{REMOVED}" if len(rest) > 1 else rest)


def _echoed(value: Any) -> Any:
    """Return what a schema error repeats of a request, without the fields that are never recorded."""
    if isinstance(value, list):
        return [_echoed(item) for item in value]
    if isinstance(value, dict):
        hidden = {name: REMOVED for name in ("webhook_secret", "user") if isinstance(value.get(name), str)}
        return {name: _echoed(item) for name, item in value.items()} | hidden
    return value


def _described(text: str) -> str | dict[str, Any]:
    """Return the description of base64 data in place of it; any other text as it is."""
    encoded = text.partition(",")[2] if text[:5].lower() == "data:" else text
    if len(encoded) < 32:
        return text
    try:
        data = base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError):
        return text
    media_type = media_type_of(data)
    if not media_type.startswith("image/") and len(data) < _UNKNOWN:
        return text
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "media_type": media_type}
