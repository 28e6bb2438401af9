"""What all applications here share: routes, which requests they answer, how they read a body, and how they refuse."""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from flux_tasks.local.service.checks import Refused
from flux_tasks.settings import is_loopback

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


def application(
    routes: Mapping[str, Handler], *, pages: bool = False, with_code: bool = False, **options: Any
) -> Starlette:
    """Return the application that answers requests of this machine by ``"METHOD path"``; refusals are answers, too.

    Web pages of other hosts are answered with ``pages`` only. ``with_code``: see ``refusal``. ``options``: Starlette's.
    """
    found = []
    for route, handler in routes.items():
        methods, _, path = route.partition(" ")
        found.append(Route(path, _answering(handler, pages=pages, with_code=with_code), methods=methods.split(",")))
    app = Starlette(routes=found, **options)
    app.router.redirect_slashes = False  # the service has one spelling of each path, and clients follow no redirect
    return app


def _answering(handler: Handler, *, pages: bool, with_code: bool) -> Handler:
    async def answer(request: Request) -> Response:
        try:
            _check_caller(request, pages=pages)
            return await handler(request)
        except Refused as refused:
            return refusal(refused.status, refused.detail, with_code=with_code)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception:
            _log.exception("%s %s", request.method, request.url.path)
            return refusal(500, "Internal Server Error", with_code=with_code)

    return answer


def _check_caller(request: Request, *, pages: bool) -> None:
    """Refuse foreign host names: a web page whose name leads here (DNS rebinding) must not read answers.

    Without ``pages``, refuse web pages too: none may spend the credits behind the recorder's key.
    """
    host, origin = request.headers.get("host"), request.headers.get("origin")
    if host and not _is_here(f"http://{host}"):
        raise Refused(421, "this server answers on loopback names only")
    if origin and not pages and not _is_here(origin):
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
