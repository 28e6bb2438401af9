"""Answers with faults, also those that ASGI has no form for: a connection that is cut, a body in small pieces."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from flux_tasks.local.faults import kinds
from flux_tasks.local.service.clock import Clock
from flux_tasks.local.service.jobs import Delivery
from flux_tasks.local.web.wire import refusal

_log = logging.getLogger("uvicorn.error.flux_local")
# A request that is still open when the server is stopped is cancelled: for uvicorn that is an error with a traceback.
_log.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError)))


class Protocol(H11Protocol):
    """uvicorn's own protocol, which can be found by the address of its client."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.logger = _log

    def connection_made(self, transport: Any) -> None:
        """See ``asyncio.Protocol``."""
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        if peer:
            _connections[peer[0], peer[1]] = self


_connections: WeakValueDictionary[tuple[str, int], Protocol] = WeakValueDictionary()


class Cut(Response):
    """Ends the connection after ``sent`` bytes of ``answer``, headers included; 0 sends nothing at all."""

    def __init__(self, answer: Response | None = None, *, sent: int = 0) -> None:
        super().__init__()
        self._answer = answer
        self._sent = sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ``Response``."""
        client = scope.get("client")
        connection = _connections.get((client[0], client[1])) if client else None
        if connection is None:
            raise RuntimeError("the connection to cut was not found")
        if self._answer is not None and self._sent:
            head = b"".join(name + b": " + value + b"\r\n" for name, value in self._answer.raw_headers)
            whole = b"HTTP/1.1 %d \r\n" % self._answer.status_code + head + b"\r\n" + bytes(self._answer.body)
            connection.transport.write(whole[: self._sent])
        connection.transport.close()  # what was written is still sent
        await _departure(receive)


class _Slow(Response):
    """Sends ``answer`` after ``seconds``, or in small pieces over ``seconds``, unless the client leaves before."""

    def __init__(self, answer: Response, seconds: float, clock: Clock, *, in_pieces: bool = False) -> None:
        super().__init__()
        self._answer, self._seconds, self._clock, self._in_pieces = answer, seconds, clock, in_pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer, body = self._answer, bytes(self._answer.body)
        leaving = asyncio.ensure_future(_departure(receive))

        async def has_left_in(seconds: float) -> bool:
            pause = asyncio.ensure_future(self._clock.sleep(seconds))
            await asyncio.wait([pause, leaving], return_when=asyncio.FIRST_COMPLETED)
            pause.cancel()
            return leaving.done()

        try:
            if not self._in_pieces:
                if not await has_left_in(self._seconds):
                    await answer(scope, receive, send)
                return
            await send({"type": "http.response.start", "status": answer.status_code, "headers": answer.raw_headers})
            pieces = max(1, min(len(body), 200))
            step = -(-len(body) // pieces) or 1
            for start in range(0, len(body), step):
                if await has_left_in(self._seconds / pieces):
                    return
                await send({"type": "http.response.body", "body": body[start : start + step], "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            leaving.cancel()


async def _departure(receive: Receive) -> None:
    """Wait until the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


def with_fault(
    fault: kinds.Rule | None, answer: Response, clock: Clock, *, url: str = "", with_code: bool = False
) -> Response:
    """Return what is sent instead of ``answer`` to a submission or a poll of ``url``; see ``wire.refusal``."""
    match fault:
        case kinds.SubmitAnswer() | kinds.PollAnswer():
            after = fault.retry_after
            headers = {} if after is None else {"retry-after": after if isinstance(after, str) else f"{after:g}"}
            return refusal(fault.status, fault.detail, with_code=with_code, headers=headers)
        case kinds.PollRedirect():
            return Response(status_code=307, headers={"location": _elsewhere(url, fault.to)})
        case kinds.SubmitCut() | kinds.PollCut():
            return Cut(answer, sent=fault.sent)
        case kinds.SubmitSlow() | kinds.PollSlow():
            return _Slow(answer, fault.seconds, clock)
        case kinds.SubmitDrip() | kinds.PollDrip():
            return _Slow(answer, fault.seconds, clock, in_pieces=True)
        case _:
            return answer


def deliver(delivery: Delivery, url: str, clock: Clock) -> Response:
    """Return the answer to a download of ``url``."""
    data, kind = delivery.data, delivery.media_type
    whole = Response(data, media_type=kind)
    match fault := delivery.fault:
        case kinds.DeliveryAnswer():
            return PlainTextResponse("injected", fault.status)
        case kinds.DeliveryExpired():
            return PlainTextResponse("The address has expired", 403)
        case kinds.DeliveryCut():
            head = sum(len(name) + len(value) + 4 for name, value in whole.raw_headers) + 19
            return Cut(whole, sent=head + int(len(data) * fault.share))
        case kinds.DeliveryTruncated():
            return Response(data[: int(len(data) * fault.share)], media_type=kind)
        case kinds.DeliveryGarbage():
            return Response(random.Random(len(data)).randbytes(len(data)), media_type=kind)  # noqa: S311 - no secret
        case kinds.DeliveryOversized():
            return StreamingResponse(_flood(data, fault.megabytes), media_type=kind)
        case kinds.DeliveryRedirect():
            return Response(status_code=302, headers={"location": _elsewhere(url, fault.to)})
    delivery.sent()
    if isinstance(fault, (kinds.DeliverySlow, kinds.DeliveryDrip)):
        return _Slow(whole, fault.seconds, clock, in_pieces=isinstance(fault, kinds.DeliveryDrip))
    return whole


async def _flood(data: bytes, megabytes: int) -> AsyncIterator[bytes]:
    yield data
    for _ in range(megabytes):
        yield bytes(1_000_000)


_PLACES = {
    "http": "http://192.0.2.1",  # for documentation; nobody is there
    "private": "https://10.0.0.1",
    "link-local": "https://169.254.169.254",
    "mapped": "https://[::ffff:10.0.0.1]",
    "decimal": "https://167772161",
}


def _elsewhere(url: str, to: str) -> str:
    if to == "foreign":  # the same server under another name
        return url.replace("127.0.0.1", "localhost") if "127.0.0.1" in url else "http://127.0.0.1:9/"
    parts = urlsplit(url)
    return _PLACES[to] + parts.path if to in _PLACES else url
