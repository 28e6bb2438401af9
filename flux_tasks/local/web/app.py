"""The BFL API as an ASGI application: routes from the catalogue, answers from the job table.

What each route answers follows OAS-0919. Errors have the service's form: ``detail`` is a list for a body that breaks
the schema, a sentence otherwise.
"""

import asyncio
import importlib.metadata
import json
from collections import Counter
from functools import cache, partial
from typing import Any

import httpx
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from flux_tasks import catalog
from flux_tasks.catalog import CONTRACT_VERSION, Tool
from flux_tasks.errors import RecipeError
from flux_tasks.images.download import certificates
from flux_tasks.local.faults import kinds
from flux_tasks.local.service import checks
from flux_tasks.local.service.checks import HEAVY, Refused, violation
from flux_tasks.local.service.clock import VirtualClock
from flux_tasks.local.service.jobs import Jobs
from flux_tasks.local.web.faulty_answers import deliver, with_fault
from flux_tasks.local.web.openapi import SHORT_PATHS, openapi
from flux_tasks.local.web.wire import Handler, application, base_of, json_answer, read_body, refusal


def package_version() -> str:
    """Return this package's version, or ``0`` in a checkout that was never installed."""
    try:
        return importlib.metadata.version("flux-pipelines")
    except importlib.metadata.PackageNotFoundError:
        return "0"


@cache
def _document(*, strict: bool) -> bytes:
    """Return the contract as it is published, written once for all servers."""
    return json.dumps(openapi(strict=strict)).encode()


class LocalApi:
    """The application; ``url``: of the server, for answers to requests that name no host. Else see ``LocalServer``."""

    def __init__(self, *, url: str, key: str | None, strict: bool, jobs: Jobs) -> None:
        self._strict = strict
        self.requests: Counter[str] = Counter()
        self._url = url
        self._key = key
        self._jobs = jobs
        direct: dict[str, None] = {"all://127.0.0.1": None, "all://localhost": None, "all://[::1]": None}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)  # one that hangs delays no other
        self._client = httpx.AsyncClient(  # no proxy leads back here
            timeout=30.0, mounts=direct, limits=limits, verify=certificates()
        )
        tools = {tool.path: tool for tool in catalog.TOOLS.values()}
        tools |= {} if strict else {path: catalog.TOOLS[name] for path, name in SHORT_PATHS.items()}
        routes: dict[str, Handler] = {
            "GET /v1/get_result": self._get_result,
            "GET /delivery/{token}/{name}": self._delivery,
            **{f"POST {path}": partial(self._submit, tool) for path, tool in tools.items()},
            "GET /v1/credits": partial(self._guard, self._credits),
            "GET /v1/my_finetunes": partial(self._guard, self._my_finetunes),
            "GET /v1/finetune_details": partial(self._guard, self._finetune_details),
            "POST /v1/delete_finetune": self._delete_finetune,
            "GET /local": self._local,
            "GET /local/charges": self._show_charges,
            "GET,PUT,DELETE /local/faults": self._schedule,
            "POST /local/clock": self._advance,
            "GET /openapi.json": self._openapi,
            "GET /": self._welcome,
        }
        handlers = {HTTPException: self._http_error}
        self.app = application(routes, pages=True, with_code=not strict, exception_handlers=handlers)

    async def _guard(self, handler: Handler, request: Request) -> Response:
        checks.check_key(request.headers.get("x-key"), self._key)
        return await handler(request)

    async def close(self) -> None:
        """End all work and close all connections."""
        await self._jobs.close()
        await self._client.aclose()

    # -- jobs -----------------------------------------------------------------------------------------------------

    async def _submit(self, tool: Tool, request: Request) -> Response:
        self.requests["submit"] += 1
        raw = await read_body(request)
        checks.check_key(request.headers.get("x-key"), self._key)
        media_type = request.headers.get("content-type", "")
        if len(raw) > HEAVY:
            body = await asyncio.to_thread(checks.examine, tool, raw, media_type, strict=self._strict)
        else:
            body = checks.examine(tool, raw, media_type, strict=self._strict)
        del raw
        given = await checks.pictures(tool, body.values, self._client)
        order = checks.order(tool, body, given)
        fault = self._jobs.faults.submission(tool.name, order.key)
        if isinstance(fault, (kinds.SubmitAnswer, kinds.SubmitCut)) and not fault.charged:
            return self._with_fault(fault, json_answer({}))
        hook = body.values.get("webhook_url")
        webhook = (str(hook), str(body.values.get("webhook_secret") or "")) if hook else None
        base = base_of(request, self._url)
        try:
            job = self._jobs.submit(order, base=base, client=self._client, webhook=webhook)
        except OSError as error:
            raise Refused(503, f"the charge log cannot be written: {error}") from None
        if fault is not None:
            self._jobs.charges.note(job.id, fault=fault.name)
        price = {"cost": order.cost, "input_mp": order.input_mp, "output_mp": order.output_mp}
        answer: dict[str, Any] = {"id": job.id, "polling_url": f"{base}/v1/get_result?id={job.id}", **price}
        if hook:
            answer = {"id": job.id, "status": "Pending", "webhook_url": hook, **price}
        if isinstance(fault, kinds.SubmitNoId):
            del answer["id"]
        elif isinstance(fault, kinds.SubmitNoPollingUrl):
            answer.pop("polling_url", None)
        elif isinstance(fault, kinds.SubmitForeignPollingUrl):
            answer["polling_url"] = f"https://{fault.host}/v1/get_result?id={job.id}"
        return self._with_fault(fault, json_answer(answer))

    async def _get_result(self, request: Request) -> Response:
        self.requests["poll"] += 1
        job_id = request.query_params.get("id")
        if job_id is None:
            raise violation("missing", "Field required", "query", "id")
        fault = self._jobs.fault(job_id)
        if isinstance(fault, kinds.PollUnknown):
            return json_answer({"id": job_id, "status": "Task not found"}, 404)
        status, answer = self._jobs.answer(job_id)
        if isinstance(fault, kinds.PollCode):
            status = fault.status
        elif isinstance(fault, kinds.PollStatus):
            answer = {**answer, "status": fault.says, "result": None}
            answer.pop("cost", None)
        elif isinstance(fault, kinds.PollNoSample):
            answer = {**answer, "status": "Ready", "result": None}
        return self._with_fault(fault, json_answer(answer, status), str(request.url))

    def _with_fault(self, fault: kinds.Rule | None, answer: Response, url: str = "") -> Response:
        return with_fault(fault, answer, self._jobs.clock, url=url, with_code=not self._strict)

    async def _delivery(self, request: Request) -> Response:
        self.requests["fetch"] += 1
        try:
            delivery = await self._jobs.fetch(request.path_params["token"], request.path_params["name"])
        except Refused as refused:
            return PlainTextResponse(str(refused.detail), refused.status)
        return deliver(delivery, str(request.url), self._jobs.clock)

    # -- account --------------------------------------------------------------------------------------------------

    async def _credits(self, _: Request) -> Response:
        return json_answer({"credits": self._jobs.charges.credits})

    async def _my_finetunes(self, _: Request) -> Response:
        return json_answer({"finetunes": []})

    async def _finetune_details(self, request: Request) -> Response:
        if "finetune_id" not in request.query_params:
            raise violation("missing", "Field required", "query", "finetune_id")
        raise Refused(404, "Finetune not found: a local server has none")

    async def _delete_finetune(self, request: Request) -> Response:
        raw = await read_body(request)
        checks.check_key(request.headers.get("x-key"), self._key)
        given = checks.parse(raw, request.headers.get("content-type", ""))
        if "finetune_id" not in given:
            raise violation("missing", "Field required", "body", "finetune_id")
        if not isinstance(given["finetune_id"], str):
            raise violation("string_type", "Input should be a valid string", "body", "finetune_id")
        raise Refused(404, "Finetune not found: a local server has none")

    # -- about the server -------------------------------------------------------------------------------------------

    async def _local(self, _: Request) -> Response:
        about = {"engine": self._jobs.identity, "version": package_version(), "contract": CONTRACT_VERSION}
        return json_answer({**about, "tools": list(catalog.TOOLS), "requests": dict(self.requests)})

    async def _schedule(self, request: Request) -> Response:
        """Show, replace or remove the fault schedule while the server runs."""
        if request.method == "PUT":
            raw = await read_body(request)
            try:
                schedule = json.loads(raw)
            except (ValueError, RecursionError) as error:
                raise Refused(422, f"not JSON: {error}") from None
            if not isinstance(schedule, (dict, list)):  # a text would be the path of a file on this machine
                raise Refused(422, "a schedule is a list of faults, or an object with seed and faults")
            try:
                self._jobs.faults.set(schedule)
            except RecipeError as error:
                raise Refused(
                    422, [{"loc": [p.where], "msg": p.what, "type": "fault"} for p in error.problems]
                ) from None
        elif request.method == "DELETE":
            self._jobs.faults.clear()
        return json_answer(self._jobs.faults.to_dict())

    async def _advance(self, request: Request) -> Response:
        """Move the virtual clock by ``{"seconds": …}``."""
        if not isinstance(self._jobs.clock, VirtualClock):
            raise Refused(409, "this server runs in real time: start it with --virtual-time")
        seconds = checks.parse(await read_body(request)).get("seconds")
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < 1e9:
            raise violation("float_type", "Input should be seconds, 0 or more", "body", "seconds")
        await self._jobs.clock.advance(seconds)
        return json_answer({"now": self._jobs.clock.now()})

    async def _show_charges(self, _: Request) -> Response:
        return json_answer(self._jobs.charges.to_dict())

    async def _welcome(self, request: Request) -> Response:
        base = base_of(request, self._url)
        listed = "\n".join(f"  POST {tool.path:<36} {tool.summary}" for tool in catalog.TOOLS.values())
        return PlainTextResponse(
            f"The BFL HTTP API, served from this machine by flux-pipelines {package_version()}.\n"
            f"Engine: {self._jobs.identity}. Its pictures are previews, not made by FLUX; their metadata says so.\n\n"
            f"{listed}\n\n"
            f"  GET  {base}/v1/get_result?id=…   a job\n"
            f"  GET  {base}/v1/credits           the local account\n"
            f"  GET  {base}/local/charges           every charge\n"
            f"  GET  {base}/local/faults         the fault schedule; PUT replaces it, DELETE removes it\n"
            f"  GET  {base}/openapi.json         the contract\n"
        )

    async def _openapi(self, _: Request) -> Response:
        return Response(_document(strict=self._strict), media_type="application/json")

    async def _http_error(self, _: Request, error: Exception) -> Response:
        status, detail = getattr(error, "status_code", 500), getattr(error, "detail", "Internal Server Error")
        return refusal(status, detail, with_code=not self._strict, headers=getattr(error, "headers", None))
