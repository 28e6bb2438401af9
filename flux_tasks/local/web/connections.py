"""Answers that ASGI has no form for: a connection that is cut, or a body that comes in small pieces."""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import WeakValueDictionary

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from flux_tasks.local.service.clock import Clock

__all__ = ["Cut", "Drip", "Protocol", "departure"]


class Protocol(H11Protocol):
    """uvicorn's own protocol, which can be found by the address of its client."""

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
            connection.transport.write(_raw(self._answer)[: self._sent])
        connection.transport.close()  # what was written is still sent
        while (await receive())["type"] != "http.disconnect":
            pass


def _raw(answer: Response) -> bytes:
    head = b"".join(name + b": " + value + b"\r\n" for name, value in answer.raw_headers)
    return b"HTTP/1.1 %d \r\n" % answer.status_code + head + b"\r\n" + bytes(answer.body)


class Drip(Response):
    """Sends ``answer`` in small pieces over ``seconds``."""

    def __init__(self, answer: Response, *, seconds: float, clock: Clock) -> None:
        super().__init__()
        self._answer = answer
        self._seconds = seconds
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ``Response``."""
        answer, body = self._answer, bytes(self._answer.body)
        await send({"type": "http.response.start", "status": answer.status_code, "headers": answer.raw_headers})
        pieces = max(1, min(len(body), 200))
        step = -(-len(body) // pieces) or 1
        gone = asyncio.ensure_future(departure(receive))
        try:
            for start in range(0, len(body), step):
                pause = asyncio.ensure_future(self._clock.sleep(self._seconds / pieces))
                await asyncio.wait([pause, gone], return_when=asyncio.FIRST_COMPLETED)
                pause.cancel()
                if gone.done():
                    return
                await send({"type": "http.response.body", "body": body[start : start + step], "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()


async def departure(receive: Receive) -> None:
    """Wait until the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
