"""What all applications here share: which requests they answer, how they read a body, and how they refuse."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from flux_tasks.local.service.checks import Refused
from flux_tasks.settings import is_loopback

__all__ = ["MAX_BODY", "Handler", "answering", "base_of", "json_answer", "path_of", "read_body", "refusal"]

_log = logging.getLogger("flux_tasks.local")

MAX_BODY = 200 * 1024 * 1024
"""Bytes of the longest body that is read: nine pictures of 20 MB as base64 have about that many."""

Handler = Callable[[Request], Awaitable[Response]]


def json_answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer in JSON, in ASCII: whatever a request contains, the answer can be encoded."""
    return Response(json.dumps(content, separators=(",", ":")), status, headers, media_type="application/json")


def refusal(status: int, detail: Any, *, with_code: bool = False, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error answer: ``detail``, and ``status_code`` beside it where that is wanted (SEED-3)."""
    return json_answer({"detail": detail, **({"status_code": status} if with_code else {})}, status, headers)


def answering(handler: Handler, *, pages: bool = True, with_code: bool = False) -> Handler:
    """Return ``handler`` for requests of this machine, with its refusals as answers.

    ``pages=False`` refuses web pages of other hosts. ``with_code``: see ``refusal``.
    """

    async def answer(request: Request) -> Response:
        try:
            _check_host(request)
            if not pages:
                _check_origin(request)
            return await handler(request)
        except Refused as refused:
            return refusal(refused.status, refused.detail, with_code=with_code)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception:
            _log.exception("%s %s", request.method, request.url.path)
            return refusal(500, "Internal Server Error", with_code=with_code)

    return answer


def _check_host(request: Request) -> None:
    """Refuse foreign host names: a web page whose name leads here (DNS rebinding) must not read answers."""
    host = request.headers.get("host")
    if host and not _is_here(f"http://{host}"):
        raise Refused(421, "this server answers on loopback names only")


def _check_origin(request: Request) -> None:
    """Refuse web pages: none may spend the credits behind the recorder's key."""
    origin = request.headers.get("origin")
    if origin and not _is_here(origin):
        raise Refused(403, "this server does not answer web pages of other hosts")


def _is_here(url: str) -> bool:
    try:
        name = (urlsplit(url).hostname or "").lower()
    except ValueError:
        return False
    return is_loopback(url) or name.endswith(".localhost")


def base_of(request: Request, url: str) -> str:
    """Return the address under which ``request`` reached the server; ``url`` if it names none."""
    host = request.headers.get("host")
    return f"http://{host}" if host else url


def path_of(request: Request) -> str:
    """Return the path and query of ``request``, spelled as it came."""
    path = bytes(request.scope.get("raw_path") or request.url.path.encode()).decode("latin-1")
    return f"{path}?{request.url.query}" if request.url.query else path


async def read_body(request: Request) -> bytes:
    """Return the whole body.

    Raises:
        Refused: 413; the rest is read first, because a client that is still sending reads no answer.
    """
    chunks: list[bytes] = []
    length = 0
    async for chunk in request.stream():
        length += len(chunk)
        if length <= MAX_BODY:
            chunks.append(chunk)
        else:
            chunks.clear()
    if length > MAX_BODY:
        raise Refused(413, f"the body is larger than {MAX_BODY:,} bytes")
    return b"".join(chunks)
