"""The table of jobs: what each is to make, how far it is, where its result is, and when it is forgotten.

Used on the server's event loop only; only the engine's work runs on threads.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import secrets
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
from PIL import Image

from flux_tasks.api.slots import CLASS_LIMITS
from flux_tasks.catalog import TOOLS
from flux_tasks.catalog.fields import MEDIA_TYPES
from flux_tasks.local import engines
from flux_tasks.local.engines import Work
from flux_tasks.local.faults import kinds
from flux_tasks.local.faults.schedule import Armed, Faults
from flux_tasks.local.service.charges import ChargeLog
from flux_tasks.local.service.checks import Order, Refused
from flux_tasks.local.service.clock import Clock
from flux_tasks.local.service.latency import Latency
from flux_tasks.local.service.results import Results

_log = logging.getLogger("flux_tasks.local")

KEPT_BYTES = 2 * 1024**3
"""Bytes of results at most; above that the oldest are removed early, those already fetched first."""


@dataclass(slots=True)
class Job:
    """One job from its submission until it is forgotten.

    Attributes:
        base: the server's address in the submission; its delivery addresses begin with it.
        status: ``Pending`` until it ends: then ``Ready``, ``Error``, or the status of a fault.
        progress: 0 to 1.
        error: why it failed, for an answer in the form of SEED-2.
        result: the result in the answer, without the address.
        size: bytes of the encoded result.
        faults: those that it is still to have.
    """

    id: str
    tool: str
    slots: str
    cost: float
    output_format: str
    base: str
    faults: Armed
    status: str = "Pending"
    progress: float = 0.0
    details: dict[str, Any] | None = None
    error: str | None = None
    result: dict[str, Any] = field(default_factory=dict)
    size: int = 0
    fetched: bool = False
    token: str = ""
    token_expires: float = 0.0
    tokens: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Bytes that it takes: of its file, and of the texts in its answer."""
        return self.size + sum(len(text) for text in self.result.values() if isinstance(text, str))


@dataclass(frozen=True, slots=True)
class Delivery:
    """A file to be delivered, the fault of this delivery, and what to call once the whole file was sent."""

    data: bytes
    media_type: str
    fault: kinds.Rule | None
    sent: Callable[[], None]


@dataclass(eq=False)
class Jobs:
    """All jobs of one server.

    Args:
        engine: name of the engine that does the work.
        cap: active jobs at a time; of Kontext max 6 (SEED-2).
        expiry: seconds a delivery address is valid; None for as long as each tool's is (``Tool.delivery``).
        retention: seconds a finished job is remembered.
        workers: jobs that the engine works on at a time.
        latency: by tool; ``*`` for all others.
        retries: seconds before each repetition of a call-back that was not answered with 2xx (SKILL: 1, 5, 30).
    """

    engine: str
    cap: int
    expiry: float | None
    retention: float
    workers: int
    latency: Mapping[str, Latency]
    retries: Sequence[float]
    charges: ChargeLog
    faults: Faults
    clock: Clock

    def __post_init__(self) -> None:
        self.identity = engines.identity(self.engine)
        limits = {name: min(limit or self.cap, self.cap) for name, limit in CLASS_LIMITS.items()}
        self._limits = {"account": self.cap, **limits}
        self._active = dict.fromkeys(self._limits, 0)
        self._jobs: dict[str, Job] = {}
        self._finished: dict[str, None] = {}
        self._tokens: dict[str, tuple[Job, float]] = {}
        self._bytes = 0
        self._results = Results()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="flux-engine")
        # Jobs wait here and not in the pool: Python finishes all that is in a pool before it exits.
        self._turn = asyncio.Semaphore(self.workers)

    # -- submit ---------------------------------------------------------------------------------------------------

    def submit(self, order: Order, *, base: str, client: httpx.AsyncClient, webhook: tuple[str, str] | None) -> Job:
        """Charge, create and start a job; or refuse it with 402 or 429, and create and charge nothing."""
        tool = order.work.tool
        if order.cost > self.charges.credits + 1e-9:
            raise Refused(402, f"Insufficient credits: {order.cost:g} needed, {self.charges.credits:g} left")
        for name in {"account", tool.slots}:
            if self._active[name] >= self._limits[name]:
                raise Refused(429, f"Too many active tasks: at most {self._limits[name]} ({name})")
        job_id = str(uuid.uuid4())
        self.charges.charge(job_id, tool.name, order.key, order.cost)
        faults = self.faults.job(tool.name, order.key, note=lambda rule: self.charges.note(job_id, fault=rule.name))
        job = Job(job_id, tool.name, tool.slots, order.cost, order.output_format, base, faults)
        self._jobs[job_id] = job
        for name in {"account", tool.slots}:
            self._active[name] += 1
        seconds = self.latency.get(tool.name, self.latency.get("*", Latency())).draw(order.key)
        self._start(self._perform(job, order.work, seconds, client, webhook))
        return job

    def _start(self, coroutine: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- work -----------------------------------------------------------------------------------------------------

    async def _perform(
        self, job: Job, work: Work, seconds: float, client: httpx.AsyncClient, webhook: tuple[str, str] | None
    ) -> None:
        started, due = time.time(), self.clock.now() + seconds
        fault = job.faults.take("job")
        if isinstance(fault, kinds.JobNeverEnds):
            return
        async with self._turn:
            try:
                making = asyncio.get_running_loop().run_in_executor(self._pool, self._make, job, work, fault)
            except RuntimeError:
                return  # the program is ending: nobody will ask for this job
            try:
                job.size = await making
                failure = None
            except Exception as error:
                _log.warning("%s %s failed: %s: %s", job.tool, job.id, type(error).__name__, error)
                failure = f"{type(error).__name__}: {error}"
        await self.clock.sleep(due - self.clock.now())
        if isinstance(fault, kinds.JobModerated):
            job.details = {"Moderation Reasons": list(fault.reasons)}
            is_free = work.tool.charged_when_refused != "yes"
            self._end(job, f"{fault.stage.capitalize()} Moderated", refund=is_free)
        elif isinstance(fault, kinds.JobError):
            job.details, job.error = dict(fault.details), fault.error
            self._end(job, fault.says, refund=fault.refund)
        elif failure:
            job.details = {"error": failure}
            self._end(job, "Error", refund=True)
        else:
            ended, seed = time.time(), work.parameters.get("seed")
            job.result = {"prompt": work.parameters.get("prompt") or "", "seed": work.seed if seed is None else seed}
            job.result |= {"start_time": started, "end_time": ended, "duration": ended - started}
            if work.tool.expands_prompt:
                job.result["expanded_prompt"] = f"(local preview: not expanded) {job.result['prompt']}"
            self._end(job, "Ready", refund=False)
        if webhook is not None:
            await self._call_back(job, client, *webhook)

    def _make(self, job: Job, work: Work, fault: kinds.Rule | None) -> int:
        """Run the engine and write the file; on a worker thread."""
        if isinstance(fault, (kinds.JobModerated, kinds.JobError)):
            return 0

        def progress(share: float) -> None:
            job.progress = round(min(max(share, 0.0), 0.99), 3)

        progress(0.05)
        image = engines.load(self.engine).run(work, progress)
        if image.size != work.size:
            raise RuntimeError(f"the engine made {image.size[0]}x{image.size[1]} px")
        if isinstance(fault, kinds.JobWrongSize):
            image = image.resize([max(1, round(side * fault.scale)) for side in image.size])
        elif isinstance(fault, kinds.JobSolid):
            image = Image.new("RGB", image.size, fault.colour)
        progress(0.9)
        data = engines.encode(image, job.output_format, self.identity)
        self._results.put(job.id, data)
        return len(data)

    def _end(self, job: Job, status: str, *, refund: bool) -> None:
        job.status = status
        for name in {"account", job.slots}:
            self._active[name] -= 1
        if status == "Ready":
            job.progress = 1.0
            self._sign(job)
        self.charges.settle(job.id, status, refund=refund)
        job.cost = 0.0 if refund else job.cost
        self._finished[job.id] = None
        self._bytes += job.bytes
        self._start(self._forget_later(job.id))
        while self._bytes > KEPT_BYTES and len(self._finished) > 1:
            fetched = next((known for known in self._finished if self._jobs[known].fetched), None)
            self._forget(fetched or next(iter(self._finished)))

    async def _forget_later(self, job_id: str) -> None:
        await self.clock.sleep(self.retention)
        self._forget(job_id)

    def _forget(self, job_id: str) -> None:
        job = self._jobs.pop(job_id, None)
        if job is None:
            return
        self._finished.pop(job_id, None)
        self._bytes -= job.bytes
        for token in job.tokens:
            self._tokens.pop(token, None)
        self._results.remove(job.id)

    # -- poll and fetch -------------------------------------------------------------------------------------------

    def fault(self, job_id: str) -> kinds.Rule | None:
        """Return the fault for this poll, or None."""
        job = self._jobs.get(job_id)
        return job.faults.take("poll") if job is not None else None

    def answer(self, job_id: str) -> tuple[int, dict[str, Any]]:
        """Return HTTP status and body of a poll (OAS-0919: SettledCostResultResponse)."""
        job = self._jobs.get(job_id)
        unknown = dict.fromkeys(("result", "progress", "details", "preview"))
        answer: dict[str, Any] = {"id": job_id, "status": "Task not found", **unknown}
        if job is None:
            return 404, answer
        if job.error is not None:
            return 200, {"id": job_id, "status": job.status, "error": job.error}
        answer |= {"status": job.status, "progress": job.progress, "details": job.details}
        if job.status == "Ready":
            if self.clock.now() >= job.token_expires:
                self._sign(job)
            answer["result"] = {"sample": f"{job.base}/delivery/{job.token}/sample.{job.output_format}", **job.result}
        if job.status != "Pending":
            answer["cost"] = job.cost
        return 200, answer

    def _sign(self, job: Job) -> None:
        job.token = secrets.token_urlsafe(24)
        job.token_expires = self.clock.now() + (TOOLS[job.tool].delivery if self.expiry is None else self.expiry)
        job.tokens.append(job.token)
        self._tokens[job.token] = (job, job.token_expires)
        if len(job.tokens) > 100:
            self._tokens.pop(job.tokens.pop(0), None)

    async def fetch(self, token: str, name: str) -> Delivery:
        """Return the file behind a delivery address; refuse with 404 what never existed, with 403 what has expired."""
        job, expires = self._tokens.get(token, (None, 0.0))
        if job is None or name != f"sample.{job.output_format}":
            raise Refused(404, "Not Found")
        if self.clock.now() >= expires:
            raise Refused(403, "The address has expired")
        data = await asyncio.to_thread(self._results.get, job.id)
        if data is None:
            raise Refused(404, "Not Found")

        def sent() -> None:
            job.fetched = True
            self.charges.note(job.id, delivery=True)

        return Delivery(data, MEDIA_TYPES[job.output_format], job.faults.take("delivery"), sent)

    # -- call back and close --------------------------------------------------------------------------------------

    async def _call_back(self, job: Job, client: httpx.AsyncClient, url: str, secret: str) -> None:
        """Send the answer of a poll to ``url``, again after each of ``retries`` until it answers with 2xx in 30 s."""
        fault = job.faults.take("webhook")
        if isinstance(fault, kinds.WebhookLost):
            return
        if isinstance(fault, kinds.WebhookForged):
            await self._send(job, client, url, "forged")
        for pause in (*self.retries, None):
            if await self._send(job, client, url, secret):
                if isinstance(fault, kinds.WebhookDuplicate):
                    await self._send(job, client, url, secret)
                return
            if pause is not None:
                await self.clock.sleep(pause)
        _log.warning("the webhook of %s was not delivered", job.id)

    async def _send(self, job: Job, client: httpx.AsyncClient, url: str, secret: str) -> bool:
        """Send one call-back, with the secret verbatim (DOCS-F2) and as HMAC (SKILL); return whether it succeeded."""
        content = json.dumps(self.answer(job.id)[1]).encode()
        headers = {b"content-type": b"application/json"}
        if secret:
            signature = hmac.new(secret.encode(), content, hashlib.sha256).hexdigest()
            headers |= {b"x-webhook-secret": secret.encode(), b"x-bfl-signature": f"sha256={signature}".encode()}
        try:
            async with (
                asyncio.timeout(30.0),  # to answer with 2xx (SKILL); the body is not read
                client.stream("POST", url, content=content, headers=headers) as response,
            ):
                return bool(response.is_success)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, OverflowError, TimeoutError, ExceptionGroup) as error:
            _log.info("the webhook of %s was not delivered: %s", job.id, type(error).__name__)
            return False

    async def close(self) -> None:
        """End the jobs that wait, and wait for the engine to finish what it is doing."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)
        self._results.clear()
