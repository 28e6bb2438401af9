"""The API from recordings: a recorded request is answered as it was then, without key and network."""

import asyncio
import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from flux_tasks.catalog import CONTRACT_VERSION
from flux_tasks.catalog.fields import CALLER_FIELDS
from flux_tasks.errors import Problem, RecipeError
from flux_tasks.local.recording import pairs
from flux_tasks.local.recording.pairs import Delivery, Pair, Reply, serve_delivery
from flux_tasks.local.recording.scrub import REMOVED, Asked, Scrubber, decoded
from flux_tasks.local.service.checks import Refused
from flux_tasks.local.web.faulty_answers import Cut
from flux_tasks.local.web.wire import application, base_of, json_answer, path_of, read_body

_log = logging.getLogger("flux_tasks.local")

IDENTITY = "local:replay@1"
"""The engine in job keys: its results are never taken for those of another engine."""


T = TypeVar("T")


def _in_turn(recorded: Sequence[T]) -> Iterator[T]:
    """Yield each once and in order, then the last one again and again."""
    return chain(recorded, repeat(recorded[-1])) if recorded else iter(())


class ReplayApi:
    """The application.

    Args:
        url: the server's own address, for answers to requests that name no host.
        folder: has the recordings.

    Raises:
        RecipeError: there are none, or some are damaged or no recordings; all problems at once.
    """

    def __init__(self, *, url: str, folder: Path) -> None:
        self._url = url
        self._folder = Path(folder).absolute()
        self._pairs = pairs.load(self._folder)
        if not self._pairs:
            raise RecipeError(
                [Problem("", "no recordings: make some with flux-pipelines local --record")], file=str(folder)
            )
        self._jobs: dict[tuple[str, str], list[Pair]] = defaultdict(list)
        self._polls: dict[str, Iterator[Reply]] = {}
        gets: dict[str, list[Reply]] = defaultdict(list)
        self._deliveries: dict[str, Delivery] = {}
        for pair in self._pairs:
            if pair.kind == "get":
                gets[pair.path] += pair.polls
            else:
                self._jobs[pair.path, pair.key].append(pair)
            if pair.id is not None:
                self._polls.setdefault(pair.id, _in_turn(pair.polls))
            if pair.delivery is not None:
                self._deliveries[pair.delivery.path] = pair.delivery
            if pair.file is not None and not pair.is_finished:
                _log.warning("%s was not polled to its end: a replay does not come to one", pair.file.name)
        self._turns = {asked: _in_turn(found) for asked, found in self._jobs.items()}
        self._gets = {path: _in_turn(replies) for path, replies in gets.items()}
        self.app = application(
            {
                "GET /v1/get_result": self._poll,
                "POST /v1/{rest:path}": self._submit,
                "GET /v1/{rest:path}": self._get,
                "GET /delivery/{token}/{name}": partial(serve_delivery, self._deliveries, self._folder),
                "GET /local": self._local,
            }
        )

    async def close(self) -> None:
        """Do nothing; every application can be closed."""

    async def _submit(self, request: Request) -> Response:
        raw = await read_body(request)
        asked = await asyncio.to_thread(Asked.of, raw, request.headers.get("content-type", ""))
        path = Scrubber().text(path_of(request))
        pair = next(self._turns.get((path, asked.key), iter(())), None)
        if pair is None:
            return json_answer({"detail": f"not recorded: {self._nearest(path, asked.request)}"}, 404)
        if pair.id is not None:
            self._polls[pair.id] = _in_turn(pair.polls)
        reply = pair.submit
        assert reply is not None  # noqa: S101 - every job has one
        if isinstance(reply.body, dict) and reply.body.get("webhook_url") == REMOVED:
            reply = reply.model_copy(update={"body": {**reply.body, "webhook_url": decoded(raw).get("webhook_url")}})
        return _respond(reply, base_of(request, self._url))

    async def _poll(self, request: Request) -> Response:
        job_id = request.query_params.get("id")
        if job_id not in self._polls and (job_id is None or path_of(request) in self._gets):
            return await self._get(request)
        reply = next(self._polls.get(job_id or "", iter(())), None)
        if reply is None:
            unknown = dict.fromkeys(("result", "progress", "details", "preview"))
            return json_answer({"id": job_id, "status": "Task not found", **unknown}, 404)
        return _respond(reply, base_of(request, self._url))

    async def _get(self, request: Request) -> Response:
        path = Scrubber().text(path_of(request))
        reply = next(self._gets.get(path, iter(())), None)
        if reply is None:
            raise Refused(404, f"not recorded: GET {path}")
        return _respond(reply, base_of(request, self._url))

    async def _local(self, _: Request) -> Response:
        tools = dict.fromkeys(pair.tool for pair in self._pairs if pair.kind == "job")
        return json_answer({"engine": IDENTITY, "contract": CONTRACT_VERSION, "tools": list(tools)})

    def _nearest(self, path: str, request: Any) -> str:
        """Return in one sentence why nothing is recorded for ``request``."""
        tool = path.partition("?")[0].rpartition("/")[2]
        same = [pair for (known, _), found in self._jobs.items() if known == path for pair in found]
        if not same:
            tools = sorted({pair.tool for pair in self._pairs if pair.kind == "job"})
            return f"{tool} was never called; these were: {', '.join(tools) or 'none'}"
        found = [(_differences(pair.request, request), pair) for pair in same]
        differing, nearest = min(found, key=lambda one: len(one[0]))
        name = nearest.file.name if nearest.file is not None else ""
        difference = "; ".join(differing) or f"it differs in what is {REMOVED} there"
        return f"{tool} was not called like this; the nearest is {name}: {difference}"


def _respond(reply: Reply, server: str) -> Response:
    """Return a recorded answer, with addresses that point to ``server``."""
    if reply.status is None:
        return Cut()
    return Response(
        reply.content(server), reply.status, headers={str(name): text for name, text in reply.headers.items()}
    )


def _differences(recorded: Any, asked: Any) -> list[str]:
    """Return how two recorded request bodies differ, field by field."""
    if not isinstance(recorded, dict) or not isinstance(asked, dict):
        return [] if recorded == asked else ["another body"]
    found = []
    for name in sorted({*recorded, *asked} - set(CALLER_FIELDS)):
        if name not in asked:
            found.append(f"{name} is missing (recorded: {_short(recorded[name])})")
        elif name not in recorded:
            found.append(f"{name} was not given then (now: {_short(asked[name])})")
        elif recorded[name] != asked[name]:
            found.append(f"{name} is {_short(asked[name])}, recorded is {_short(recorded[name])}")
    return found


def _short(value: Any) -> str:
    if isinstance(value, dict) and {"sha256", "bytes", "media_type"} == set(value):
        return f"{value['media_type']} of {value['bytes']:,} bytes, SHA-256 {str(value['sha256'])[:12]}"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
