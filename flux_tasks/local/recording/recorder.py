"""A proxy that records every job as a pair, from which ``replayer`` answers offline.

The service's answers are passed on unchanged, except for two addresses: polls and deliveries come to this server. A
pair is on disk before its submission is answered, so that no id of a paid job is lost; no POST is ever sent twice.
"""

import asyncio
import json
import logging
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from starlette.requests import Request
from starlette.responses import Response

from flux_tasks.api.answers import reason_of
from flux_tasks.errors import DeliveryFailed
from flux_tasks.images.redirects import host_of
from flux_tasks.local.recording import pairs
from flux_tasks.local.recording.pairs import SERVER, Delivery, Pair, Poll, Reply, addressed, serve_delivery
from flux_tasks.local.recording.scrub import Asked, Scrubber, decoded, request_key, secrets_of
from flux_tasks.local.recording.upstream import FAILED, NOT_SENT, POLL, Upstream, origin_of
from flux_tasks.local.web.wire import application, base_of, json_answer, path_of, read_body

_log = logging.getLogger("flux_tasks.local")


@dataclass
class _Exchange:
    """A pair that is being recorded, the address to poll at the service, and texts that must not be recorded."""

    pair: Pair
    url: str
    secrets: set[str] = field(default_factory=set)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class RecordingApi:
    """The application, and its recordings.

    Args:
        url: the server's own address, for answers to requests that name no host.
        folder: for the recordings; those already there stay, and their jobs can still be polled.
        upstream, key, transport: see ``Upstream``.

    Raises:
        RecipeError: an upstream that cannot be used, a key that must not be sent there, or a damaged recording.
        OSError: the folder cannot be created.
    """

    def __init__(
        self, *, url: str, folder: Path, upstream: str, key: str = "", transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._upstream = Upstream(url, upstream, key, transport)
        self._url = url
        self._secrets: set[str] = set()
        self._folder = Path(folder).absolute()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._jobs: dict[str, _Exchange] = {}
        self._gets: dict[str, _Exchange] = {}
        self._deliveries: dict[str, Delivery] = {}
        for pair in pairs.load(self._folder):
            if pair.id is not None:
                self._jobs[pair.id] = _Exchange(pair, self._upstream.polling_address(pair.id, pair.polled_at))
            if pair.delivery is not None:
                self._deliveries[pair.delivery.path] = pair.delivery
        self._numbering = asyncio.Lock()
        self._submissions: set[asyncio.Task[Response]] = set()
        self.app = application(
            {
                "POST /v1/{rest:path}": self._submit,
                "GET /v1/{rest:path}": self._get,
                "GET /delivery/{token}/{name}": partial(serve_delivery, self._deliveries, self._folder),
            }
        )

    async def close(self) -> None:
        """Wait for the answers to what was submitted, and close all connections."""
        await asyncio.gather(*self._submissions, return_exceptions=True)
        await self._upstream.close()

    # -- submit ---------------------------------------------------------------------------------------------------

    async def _submit(self, request: Request) -> Response:
        raw = await read_body(request)
        # Neither a client that disconnects nor a server that stops may interrupt it: the id would be lost.
        submission = asyncio.create_task(self._forward(request, raw))
        self._submissions.add(submission)
        submission.add_done_callback(self._submissions.discard)
        return await asyncio.shield(submission)

    async def _forward(self, request: Request, raw: bytes) -> Response:
        path, media_type = path_of(request), request.headers.get("content-type", "")
        host = host_of(self._upstream.url)
        try:
            response = await self._upstream.post(path, raw, media_type, request.headers.get("x-key", ""))
        except NOT_SENT as error:  # a 4xx: it tells clients that nothing was created or charged
            _log.warning("%s was not reached: %s", host, reason_of(error))
            return json_answer({"detail": f"{host} was not reached ({reason_of(error)}): nothing was sent"}, 424)
        except FAILED as error:
            _log.warning("%s %s: the connection was cut: %s", host, _tool(path), reason_of(error))
            await self._note(path, raw, media_type, None)
            return json_answer({"detail": f"{host}: the connection was cut ({reason_of(error)})"}, 502)
        value = await self._note(path, raw, media_type, response)
        return self._pass_on(response, value, request)

    async def _note(self, path: str, raw: bytes, media_type: str, response: httpx.Response | None) -> Any:
        """Record a submission; return its answer with a polling address here, or None to leave it unchanged.

        Whatever goes wrong, the client of a paid job gets its answer.
        """
        try:
            value: Any = decoded(response.content) if response is not None else None
            named = value.get("polling_url") if isinstance(value, dict) else None
            job_id = value.get("id") if isinstance(value, dict) else None
            job_id = job_id if isinstance(job_id, str) else ""
            polling_url = self._upstream.polling_address(job_id, named)
            is_named = bool(job_id) and isinstance(named, str)
            if is_named:
                value["polling_url"] = f"{SERVER}{POLL}?id={quote(job_id, safe='')}"
            asked = await asyncio.to_thread(Asked.of, raw, media_type, frozenset(self._hidden))
            self._secrets |= {asked.secret} - {""}
            scrub = Scrubber(self._hidden | {asked.hook})
            is_elsewhere = origin_of(polling_url) != origin_of(self._upstream.url)
            pair = Pair(
                path=scrub.text(path),
                tool=_tool(path),
                key=asked.key,
                request=asked.request,
                submit=Reply(cut=True) if response is None else Reply.of(response, value, scrub),
                polled_at=origin_of(polling_url) if is_elsewhere else None,
            )
            if job_id:
                self._jobs[job_id] = _Exchange(pair, polling_url, {asked.hook})
            await self._save(pair)
        except Exception as error:
            _log.error("%s is not recorded: %s", _tool(path), type(error).__name__)
            return None
        return value if is_named else None

    # -- poll and fetch -------------------------------------------------------------------------------------------

    async def _get(self, request: Request) -> Response:
        path = path_of(request)
        job_id = request.query_params.get("id") if request.url.path == POLL else None
        exchange = self._jobs.get(job_id or "") or self._gets.get(path)
        if exchange is None:
            known_as = Scrubber(self._hidden).text(path)
            pair = Pair(kind="get", path=known_as, tool=_tool(path), key=request_key(f"GET {known_as}".encode()))
            exchange = self._gets[path] = _Exchange(pair, f"{self._upstream.url}{path}")
        async with exchange.lock:
            return await self._ask(exchange, request)

    async def _ask(self, exchange: _Exchange, request: Request) -> Response:
        url, pair = exchange.url, exchange.pair
        try:
            response = await self._upstream.get(url, request.headers.get("x-key", ""))
        except FAILED as error:
            _log.warning("%s: no answer: %s", host_of(url), reason_of(error))
            if not isinstance(error, NOT_SENT):
                pair.observe(Poll(cut=True))
                await self._save(pair)
            return json_answer({"detail": f"{host_of(url)}: no answer ({reason_of(error)})"}, 502)
        value = decoded(response.content)
        sample = _sample(value)
        if sample is not None:
            exchange.secrets |= secrets_of(sample)
            if pair.delivery is None:
                try:
                    data, media_type = await self._upstream.fetch(sample)
                except DeliveryFailed as error:
                    return json_answer({"detail": f"the delivery did not arrive: {error}"}, 502)
                if not await self._save(pair) or not await self._save(pair, data, media_type):
                    return self._pass_on(response, None, request)  # it is paid for: let the client fetch it itself
            assert pair.delivery is not None  # noqa: S101 - written a line above
            self._deliveries[pair.delivery.path] = pair.delivery
            value["result"]["sample"] = f"{SERVER}{pair.delivery.path}"
        try:
            pair.observe(Poll.of(response, value, Scrubber(self._hidden | exchange.secrets)))
            await self._save(pair)
        except (ValueError, RecursionError) as error:
            _log.error("an answer to %s %s is not recorded: %s", pair.tool, pair.id or "", type(error).__name__)
        return self._pass_on(response, None if sample is None else value, request)

    async def _save(self, pair: Pair, data: bytes = b"", media_type: str = "") -> bool:
        """Write ``pair`` and its delivery; return False if that fails."""
        try:
            if data:
                await asyncio.to_thread(pair.deliver, data, media_type)
            async with self._numbering:
                await asyncio.to_thread(pairs.save, pair, self._folder)
        except OSError as error:
            _log.error("%s %s is not recorded: %s", pair.tool, pair.id or "", error)
            return False
        return True

    def _pass_on(self, response: httpx.Response, value: Any, request: Request) -> Response:
        content = response.content
        if value is not None:
            content = json.dumps(addressed(value, base_of(request, self._url)), separators=(",", ":")).encode()
        headers = {name: response.headers[name] for name in pairs.HEADERS if name in response.headers}
        return Response(content, response.status_code, headers=headers)

    @property
    def _hidden(self) -> set[str]:
        return self._upstream.keys | self._secrets


def _tool(path: str) -> str:
    name = path.partition("?")[0].rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:60] or "_"


def _sample(value: Any) -> str | None:
    """Return the delivery address in a ``Ready`` answer."""
    result = value.get("result") if isinstance(value, dict) and value.get("status") == "Ready" else None
    found = result.get("sample") if isinstance(result, dict) else None
    return found if isinstance(found, str) else None
