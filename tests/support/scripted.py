"""A real HTTP server on loopback whose every answer is written by the test: also cut, late and wrong ones.

It shares no code with the project's own local server, so that client and server cannot be wrong together.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Answer", "Request", "ScriptedServer"]


@dataclass
class Request:
    """What arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    """What goes back. ``cut`` closes the connection after so many bytes of the whole answer; 0 says nothing at all."""

    status: int = 200
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None

    def encode(self) -> bytes:
        content = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        kind = "application/octet-stream" if isinstance(self.body, bytes) else "application/json"
        headers = {"content-type": kind, "content-length": str(len(content)), **self.headers}
        head = f"HTTP/1.1 {self.status} X\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n"
        whole = head.encode() + content
        return whole if self.cut is None else whole[: self.cut]


Script = Sequence[Answer] | Callable[[Request], Answer]


class ScriptedServer:
    """``on("POST /v1/x", Answer(...), Answer(...))``: answers in turn, the last one from then on."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self._scripts: dict[str, Script] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._open):
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def on(self, route: str, *answers: Answer, call: Callable[[Request], Answer] | None = None) -> None:
        """Script ``"METHOD /path"`` (the query is left out of the comparison)."""
        self._scripts[route] = call or list(answers)

    def seen(self, route: str) -> list[Request]:
        """Requests that arrived for ``"METHOD /path"``."""
        method, path = route.split(" ", 1)
        return [r for r in self.requests if r.method == method and r.path.split("?")[0] == path]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        try:
            while (request := await self._read(reader)) is not None:
                self.requests.append(request)
                answer = self._answer(request)
                writer.write(answer.encode())
                await writer.drain()
                if answer.cut is not None:
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._open.discard(writer)

    @staticmethod
    async def _read(reader: asyncio.StreamReader) -> Request | None:
        head = await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b""
        if not head:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines if ": " in line)}
        length = int(headers.get("content-length", 0))
        return Request(method, path, headers, await reader.readexactly(length))

    def _answer(self, request: Request) -> Answer:
        script = self._scripts.get(f"{request.method} {request.path.split('?')[0]}")
        if script is None:
            return Answer(404, {"detail": "Not Found"})
        if callable(script):
            return script(request)
        return script.pop(0) if isinstance(script, list) and len(script) > 1 else script[0]
