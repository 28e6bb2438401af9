"""The BFL API as an ASGI application: routes from the catalogue, answers from the job table.

What each route answers follows OAS-0919; what goes wrong is told as the service tells it: ``detail`` is a list for a
body that breaks the schema and a sentence otherwise.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from flux_tasks import catalog
from flux_tasks.catalog import CONTRACT_VERSION, Tool
from flux_tasks.local import checks, engines
from flux_tasks.local.book import Book
from flux_tasks.local.checks import HEAVY, Refused, violation
from flux_tasks.local.jobs import Jobs
from flux_tasks.local.openapi import openapi
from flux_tasks.settings import is_loopback

__all__ = ["LocalApi"]

_log = logging.getLogger("flux_tasks.local")

SEED_NAMES = ("flux-kontext", "flux-fill")
"""Short paths that SEED-2 shows and the service itself no longer has."""

MAX_BODY = 200 * 1024 * 1024
"""Bytes of the longest body that is read: nine pictures of 20 MB in base64 do not reach it together at once."""

Handler = Callable[[Request], Awaitable[Response]]


class Json(Response):
    """JSON in ASCII: whatever a request held, the answer can be encoded."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode()


def package_version() -> str:
    """Of this package, or ``0`` in a checkout that was never installed."""
    try:
        return importlib.metadata.version("flux-pipelines")
    except importlib.metadata.PackageNotFoundError:
        return "0"


class LocalApi:
    """The application and what it needs to know.

    Args:
        url: the server's own address, for answers to requests that name no host.
        engine: name of the engine.
        key: the only key that is accepted; None accepts any, and none.
        book: where charges are written.
        jobs: the job table.
    """

    def __init__(self, *, url: str, engine: str, key: str | None, book: Book, jobs: Jobs) -> None:
        self._url = url
        self._engine = engines.identity(engine)
        self._key = key
        self._book = book
        self._jobs = jobs
        direct: dict[str, None] = {"all://127.0.0.1": None, "all://localhost": None, "all://[::1]": None}
        self._client = httpx.AsyncClient(timeout=10.0, mounts=direct)  # no proxy leads back to this machine
        self._document: bytes | None = None
        self.app = self._application()

    def _application(self) -> Starlette:
        def get(path: str, handler: Handler, *, guarded: bool = False) -> Route:
            return Route(path, self._answering(handler, guarded=guarded), methods=["GET"])

        def post(path: str, handler: Handler) -> Route:
            return Route(path, self._answering(handler, guarded=False), methods=["POST"])

        tools = {tool.path: tool for tool in catalog.TOOLS.values()}
        for name in SEED_NAMES:
            tools[f"/v1/{name}"] = catalog.tool(name)
        app = Starlette(
            routes=[
                get("/v1/get_result", self._get_result),
                get("/delivery/{token}/{name}", self._delivery),
                *(post(path, partial(self._submit, tool)) for path, tool in tools.items()),
                get("/v1/credits", self._credits, guarded=True),
                get("/v1/my_finetunes", self._my_finetunes, guarded=True),
                get("/v1/finetune_details", self._finetune_details, guarded=True),
                post("/v1/delete_finetune", self._delete_finetune),
                get("/local", self._local),
                get("/local/book", self._show_book),
                get("/openapi.json", self._openapi),
                get("/", self._welcome),
            ],
            exception_handlers={HTTPException: _http_error},
        )
        app.router.redirect_slashes = False  # the service has no second spelling, and clients follow no redirect
        return app

    def _answering(self, handler: Handler, *, guarded: bool) -> Handler:
        """``handler`` with its refusals as answers, and whatever else goes wrong as a bare 500."""

        async def answering(request: Request) -> Response:
            try:
                _check_host(request)
                if guarded:
                    checks.check_key(request.headers.get("x-key"), self._key)
                return await handler(request)
            except Refused as refused:
                return Json({"detail": refused.detail}, refused.status)
            except ClientDisconnect:
                return Response(status_code=400)
            except Exception:
                _log.exception("%s %s", request.method, request.url.path)
                return Json({"detail": "Internal Server Error"}, 500)

        return answering

    async def close(self) -> None:
        """End all work and close all connections."""
        await self._jobs.close()
        await self._client.aclose()

    # -- jobs -----------------------------------------------------------------------------------------------------

    async def _submit(self, tool: Tool, request: Request) -> Response:
        raw = await _body(request)
        checks.check_key(request.headers.get("x-key"), self._key)
        media_type = request.headers.get("content-type", "")
        if len(raw) > HEAVY:
            body = await asyncio.to_thread(checks.examine, tool, raw, media_type)
        else:
            body = checks.examine(tool, raw, media_type)
        del raw
        given = await checks.pictures(tool, body.values, self._client)
        order = checks.order(tool, body, given)
        hook = body.values.get("webhook_url")
        webhook = (str(hook), str(body.values.get("webhook_secret") or "")) if hook else None
        base = self._base(request)
        job = self._jobs.submit(order, base=base, client=self._client, webhook=webhook)
        price = {"cost": order.cost, "input_mp": order.input_mp, "output_mp": order.output_mp}
        if hook:
            return Json({"id": job.id, "status": "Pending", "webhook_url": hook, **price})
        return Json({"id": job.id, "polling_url": f"{base}/v1/get_result?id={job.id}", **price})

    async def _get_result(self, request: Request) -> Response:
        job_id = request.query_params.get("id")
        if job_id is None:
            raise violation("missing", "Field required", "query", "id")
        status, answer = self._jobs.answer(job_id)
        return Json(answer, status)

    async def _delivery(self, request: Request) -> Response:
        try:
            delivery = await self._jobs.fetch(request.path_params["token"], request.path_params["name"])
        except Refused as refused:
            return PlainTextResponse(str(refused.detail), refused.status)
        return Response(delivery.data, media_type=delivery.media_type)

    def _base(self, request: Request) -> str:
        host = request.headers.get("host")
        return f"http://{host}" if host else self._url

    # -- account --------------------------------------------------------------------------------------------------

    async def _credits(self, _: Request) -> Response:
        return Json({"credits": self._book.credits})

    async def _my_finetunes(self, _: Request) -> Response:
        return Json({"finetunes": []})

    async def _finetune_details(self, request: Request) -> Response:
        if "finetune_id" not in request.query_params:
            raise violation("missing", "Field required", "query", "finetune_id")
        raise Refused(404, "Finetune not found: a local server has none")

    async def _delete_finetune(self, request: Request) -> Response:
        raw = await _body(request)
        checks.check_key(request.headers.get("x-key"), self._key)
        given = checks.parse(raw, request.headers.get("content-type", ""))
        if "finetune_id" not in given:
            raise violation("missing", "Field required", "body", "finetune_id")
        if not isinstance(given["finetune_id"], str):
            raise violation("string_type", "Input should be a valid string", "body", "finetune_id")
        raise Refused(404, "Finetune not found: a local server has none")

    # -- about itself ---------------------------------------------------------------------------------------------

    async def _local(self, _: Request) -> Response:
        return Json(
            {
                "engine": self._engine,
                "version": package_version(),
                "contract": CONTRACT_VERSION,
                "tools": list(catalog.TOOLS),
            }
        )

    async def _show_book(self, _: Request) -> Response:
        return Json(self._book.to_dict())

    async def _welcome(self, request: Request) -> Response:
        base = self._base(request)
        listed = "\n".join(f"  POST {tool.path:<36} {tool.summary}" for tool in catalog.TOOLS.values())
        return PlainTextResponse(
            f"The BFL HTTP API, served from this machine by flux-pipelines {package_version()}.\n"
            f"Engine: {self._engine}. What it makes is a preview, not made by FLUX, and says so in its metadata.\n\n"
            f"{listed}\n\n"
            f"  GET  {base}/v1/get_result?id=…   a job\n"
            f"  GET  {base}/v1/credits           the local account\n"
            f"  GET  {base}/local/book           every charge\n"
            f"  GET  {base}/openapi.json         the contract\n"
        )

    async def _openapi(self, _: Request) -> Response:
        if self._document is None:
            self._document = json.dumps(openapi()).encode()
        return Response(self._document, media_type="application/json")


def _check_host(request: Request) -> None:
    """A web page whose name was bent to this machine (DNS rebinding) must not read answers."""
    host = request.headers.get("host")
    if host and not (is_loopback(f"http://{host}") or host.partition(":")[0].lower().endswith(".localhost")):
        raise Refused(421, "this server answers on loopback names only")


async def _body(request: Request) -> bytes:
    """The whole body.

    Raises:
        Refused: 413; the rest is read and dropped first, because a client that is still sending hears no answer.
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


async def _http_error(_: Request, error: Exception) -> Response:
    status, headers = getattr(error, "status_code", 500), getattr(error, "headers", None)
    return Json({"detail": getattr(error, "detail", "Internal Server Error")}, status, headers=headers)
