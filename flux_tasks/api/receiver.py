"""Take the service's call-backs over HTTP.

========================================  ======  =====================================================
request                                   answer  what is done
========================================  ======  =====================================================
POST with the secret or its signature     200     the job is looked at, by whoever waits for it
the same again, or for an unknown job     200     nothing more; nobody is told which jobs there are
POST without them                         401     nothing
POST, genuine, but without a job's id     400     nothing
more than 256 kB                          413     nothing; it is not read to its end
a body that takes more than ten seconds   408     nothing
the store cannot be written               503     nothing; the service sends it again
GET /health                               200     nothing; for load balancers
another method                            405     nothing
========================================  ======  =====================================================
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import socket
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import httpx

from flux_tasks.api.callbacks import note_callback, remove_old, wake
from flux_tasks.api.webhooks import NO_ID, NOT_GENUINE, WebhookForged, signature_of, verify_webhook
from flux_tasks.errors import EndpointUnreachable, Problem, RecipeError, reason_of
from flux_tasks.images.redirects import host_of
from flux_tasks.settings import is_loopback
from flux_tasks.store.records import Store

if TYPE_CHECKING:
    import uvicorn

__all__ = ["Receiver", "try_receiver"]

MAX_BODY = 256 * 1024
"""Bytes of the longest call-back that is read: the answer of a poll, which has one or two thousand."""

_SLOWEST = 10.0  # seconds for a body
_SWEEP = 600.0  # seconds between two looks for old records
_RECENT = 10_000  # jobs whose call-backs are remembered, so that a second one writes nothing

_Receive = Callable[[], Awaitable[Mapping[str, Any]]]
_Send = Callable[[Mapping[str, Any]], Awaitable[None]]

_log = logging.getLogger("flux_tasks.callbacks")


class _Refused(Exception):
    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Receiver:
    """Takes call-backs on a port, in a thread of its own::

        with Receiver([Store("out/store")], secret, port=8787) as receiver: ...

    Args:
        stores: where runs wait for them.
        secret: what each call-back has to know.
        port: on ``host``; 0 takes any free one.

    Attributes:
        counts: call-backs by the status of their answers.
    """

    def __init__(self, stores: Sequence[Store], secret: str, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.counts: Counter[int] = Counter()
        self._stores = {store.url: store for store in stores}
        self._secret, self._host, self._port = secret, host, port
        self._recent: dict[str, None] = {}
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it answers on this machine; known once it is started."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    def __enter__(self) -> Self:
        """Start to answer.

        Raises:
            RecipeError: the port is taken, or there is no such address here; its place is ``port``.
            EndpointUnreachable: the library it needs is not installed.
        """
        if importlib.util.find_spec("uvicorn") is None:
            raise EndpointUnreachable(
                "call-backs need uvicorn, not installed here: pip install 'flux-pipelines[local]'"
            )
        import uvicorn

        listener = _listen(self._host, self._port)
        self._port = listener.getsockname()[1]
        options: dict[str, Any] = {"loop": "asyncio", "ws": "none", "lifespan": "off", "log_config": None}
        options |= {"access_log": False, "server_header": False, "proxy_headers": False, "limit_concurrency": 512}
        server = uvicorn.Server(uvicorn.Config(self, timeout_graceful_shutdown=5, **options))

        async def answer() -> None:
            sweeping = asyncio.create_task(self._sweep())
            try:
                await server.serve(sockets=[listener])
            finally:
                sweeping.cancel()

        self._server = server
        self._thread = threading.Thread(target=asyncio.run, args=(answer(),), name="flux-receiver", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join()

    async def __call__(self, scope: Mapping[str, Any], receive: _Receive, send: _Send) -> None:
        """Answer one request; an ASGI application."""
        if scope["type"] != "http":
            return
        status, why = 200, ""
        try:
            if (scope["method"], scope["path"]) != ("GET", "/health"):
                await self._take(scope, receive)
        except _Refused as refused:
            status, why = refused.status, str(refused)
        headers = [(b"content-type", b"text/plain"), (b"connection", b"close")]
        headers += [(b"allow", b"POST")] if status == 405 else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": (why or "ok").encode() + b"\n"})

    async def _take(self, scope: Mapping[str, Any], receive: _Receive) -> None:
        status = 200
        try:
            if scope["method"] != "POST":
                raise _Refused(405, "send call-backs by POST")
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            await self._note(self._job_id(headers, await _body(headers, receive)))
        except _Refused as refused:
            status = refused.status
            raise
        finally:
            self.counts[status] += 1

    def _job_id(self, headers: Mapping[str, str], body: bytes) -> str:
        try:
            return str(verify_webhook(headers, body, self._secret)["id"])
        except WebhookForged as error:
            is_genuine = "body" in str(error)
            raise _Refused(400 if is_genuine else 401, str(error)) from None

    async def _note(self, job_id: str) -> None:
        if job_id in self._recent:
            for store in self._stores.values():
                wake(store, job_id)  # the first one may have come before the job had ended
            return
        try:
            for store in self._stores.values():
                await asyncio.to_thread(note_callback, store, job_id)
        except OSError as error:
            _log.warning("a call-back could not be written: %s", reason_of(error))
            raise _Refused(503, "not written") from None
        self._recent[job_id] = None
        if len(self._recent) > _RECENT:
            del self._recent[next(iter(self._recent))]

    async def _sweep(self) -> None:
        while True:
            for store in self._stores.values():
                try:
                    await asyncio.to_thread(remove_old, store)
                except OSError as error:
                    _log.warning("old call-backs in %s could not be removed: %s", store.url, reason_of(error))
            await asyncio.sleep(_SWEEP)


async def _body(headers: Mapping[str, str], receive: _Receive) -> bytes:
    """Return the body of a request, if it is not too long and comes soon enough."""
    too_long = _Refused(413, f"a call-back has at most {MAX_BODY} bytes")
    length = headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 9 or int(length) > MAX_BODY:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(_SLOWEST):
            while True:
                message = await receive()
                body += message.get("body", b"")
                if len(body) > MAX_BODY:
                    raise too_long
                if message["type"] == "http.disconnect":
                    raise _Refused(400, "cut short")
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise _Refused(408, "the body takes too long") from None


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        RecipeError: the port is taken, or the address is not one of this machine.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        reason = reason_of(error).partition(" (while attempting")[0]  # what follows is the address once more
        what = f"{host}:{port} cannot be listened on ({reason}): choose another one"
        raise RecipeError([Problem("port", what)]) from None


async def try_receiver(url: str, secret: str) -> tuple[str, str]:
    """Send a signed call-back that names no job, which a receiver refuses for that only, so that it changes nothing.

    Returns:
        What is wrong, and what to do; both empty if a receiver with this secret answers.
    """
    host, body = host_of(url), b"{}"
    remedy = "start flux-pipelines receive, or let your proxy pass the address on to it; with --webhook-listen, "
    remedy += "something answers only while run or serve goes on"
    try:
        async with httpx.AsyncClient(timeout=10.0, trust_env=not is_loopback(url)) as client:
            answer = await client.post(url, content=body, headers={"x-bfl-signature": signature_of(body, secret)})
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return f"{host} does not answer ({reason_of(error)})", remedy
    if answer.status_code == 400 and NO_ID in answer.text:
        return "", ""
    if answer.status_code == 401 and NOT_GENUINE in answer.text:
        remedy = "set the same FLUX_WEBHOOK_SECRET for the receiver and the runs, and restart both"
        return f"{host} has another secret", remedy
    return f"{host} answers {answer.status_code}, which no receiver does", remedy
