"""The client of the BFL API: submit, poll, fetch.

What is repeated, and by whom (``connection`` describes who is given the key):

=======  ==========================================  ===========================================================
phase    what happened                               what is done
=======  ==========================================  ===========================================================
submit   no connection (refused, DNS, TLS,           ``ServerUnavailable``: nothing was sent; a Prefect task
         connect time-out, pool time-out)            repeats itself four times, nothing else does
submit   429                                         waited for here (``Retry-After``, else growing pauses) up to
                                                     the tool's deadline, then ``RateLimited``: no job exists
submit   5xx, read/write time-out, a body that drips ``SubmissionUncertain``: never repeated, the job may be
         for too long, cut connection, an answer     charged
         that cannot be read
submit   401, 403                                    ``KeyRefused``
submit   402                                         ``OutOfCredits``
submit   400, 404, 413, 422, other 4xx               ``InvalidRequest`` with the server's reasons
poll     a body with ``status``, whatever the code   the status decides (failed jobs answer with 422 or 503)
poll     no connection, time-out, 429, 5xx           polled again with growing pauses until the deadline, then
                                                     ``StillRunning``; the job stays in the journal
poll     ``Task not found``, whatever the code; a    5 more polls over 30 s at least (it can be too early; on
         404 or 410 that says so without a status    loopback at once), then ``JobLost``
         (SEED-3)
poll     a redirect that is not followed             the endpoint's own address is polled, until the deadline
poll     four failures of any kind at the address    from then on the endpoint's own address is polled in turn with it;
         that the service named                      that it does not know the job proves nothing then
poll     ``Ready`` that names no result              still running, until the deadline
poll     unknown status                              still running, until the deadline
fetch    any failure, cut or damaged bytes           the job is polled once more for a fresh address, four
                                                     times in all, then ``DeliveryFailed``; it stays in the journal
store    a failure that may pass                     repeated for four seconds, then as the next row
store    before the POST: cannot be read or written  ``StoreUnavailable``: nothing was sent, the run stops
store    after the POST: cannot be written           id or result wait in the spool; the call goes on
=======  ==========================================  ===========================================================
"""

import asyncio
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx
import orjson

from flux_tasks.api.answers import (
    Finished,
    Submission,
    date_of,
    detail_of,
    ending_of,
    is_id,
    is_unknown,
    number,
    problems_of,
    read_json,
    reason_of,
    retry_after,
)
from flux_tasks.api.callbacks import Calls
from flux_tasks.api.connection import Connection, may_have_key
from flux_tasks.api.polling import Watch
from flux_tasks.api.telemetry import probe
from flux_tasks.catalog import Tool
from flux_tasks.errors import (
    DeliveryFailed,
    EndpointUnreachable,
    FluxError,
    InvalidImage,
    InvalidRequest,
    JobLost,
    KeyRefused,
    OutOfCredits,
    RateLimited,
    ServerUnavailable,
    StillRunning,
    SubmissionUncertain,
)
from flux_tasks.images.encoding import inspect, is_complete
from flux_tasks.images.redirects import RedirectRefused, host_of
from flux_tasks.images.reference import makes_previews
from flux_tasks.settings import is_bfl, is_loopback

__all__ = ["BflClient", "Finished", "Submission"]

_log = logging.getLogger("flux_tasks.client")

_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.ProxyError)
_EARLY_POLLS = 5
_EARLY_SECONDS = 30.0  # a job was seen to be unknown for ten seconds after its submission
_BYTES_PER_SECOND = 100_000  # of the slowest upload that is waited for


class BflClient:
    """One endpoint, one key, one connection pool.

    Args:
        base_url: such as ``https://api.bfl.ai``.
        key: sent as ``x-key``; empty for a server that asks for none.
        poll_interval: seconds between polls, the first at once; None polls as ``wait`` is told to.
        timeout: seconds to wait for one answer, however it drips in; a submission has a second more for every 100 kB
            that it sends, a delivery five times as long.
        transport: any httpx transport, for tests and proxies.
        is_region_strict: poll and fetch in the endpoint's own region only; see ``Settings.region``.
        webhook_secret: taken out of what the service answers, as the key is.
    """

    def __init__(
        self,
        base_url: str,
        key: str = "",
        *,
        poll_interval: float | None = None,
        timeout: float = 60.0,
        transport: httpx.AsyncBaseTransport | None = None,
        verify: Any = True,
        is_region_strict: bool = False,
        webhook_secret: str = "",
    ) -> None:
        self.base_url = base_url.rstrip("/")
        options: dict[str, Any] = {"transport": transport, "verify": verify, "is_region_strict": is_region_strict}
        options["secret"] = webhook_secret
        self._connection = Connection(base_url, key, timeout=timeout, **options)
        self._poll_interval = poll_interval
        self._timeout = timeout
        self._trip = 0.0
        """Seconds from a poll to its answer, of late."""
        self._early_seconds = 0.0 if is_loopback(base_url) else _EARLY_SECONDS

    def __repr__(self) -> str:
        return f"BflClient({self.base_url!r})"

    async def aclose(self) -> None:
        """Close all connections."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # -- submit ---------------------------------------------------------------------------------------------------

    async def submit(
        self,
        tool: Tool,
        body: Mapping[str, Any],
        *,
        deadline: float | None = None,
        on_wait: Callable[[float, bool], Awaitable[None]] = lambda seconds, _: asyncio.sleep(seconds),
        before_post: Callable[[], Awaitable[None]] | None = None,
    ) -> Submission:
        """Submit one job. Each call may be charged; see the module's table for what is repeated.

        With ``webhook_url`` in ``body`` the answer has no ``polling_url``. After a 429, which created no job, the POST
        is repeated for up to ``deadline`` seconds (the tool's own if None). ``on_wait`` waits for a number of seconds;
        it is told whether the service has named them.
        ``before_post`` is called right before each POST; what it raises ends the submission, and nothing is sent.

        Raises:
            KeyRefused: answered with 401 or 403.
            OutOfCredits: answered with 402.
            InvalidRequest: answered with another 4xx, with the server's reasons.
            RateLimited: answered with 429 until the deadline; no job was created.
            ServerUnavailable: no connection; nothing was sent.
            SubmissionUncertain: the job may be charged.
        """
        content = _encode(body)
        patience = time.monotonic() + (tool.deadline if deadline is None else deadline)
        pause = 1.0
        while True:
            if before_post is not None:
                await before_post()
            response = await self._post(tool, content)
            if response.status_code != 429:
                return self._submission(tool, response)
            asked = retry_after(response)
            # A date has whole seconds, and clocks differ: what is asked for may be nothing, again and again.
            wait = pause * random.uniform(0.5, 1.5) if asked is None else max(asked, pause / 20)  # noqa: S311 - jitter
            if time.monotonic() + wait > patience:
                raise RateLimited(f"{tool.name}: too many active jobs on this account", retry_after=wait)
            _log.info("%s: too many active jobs, waiting %.1f s", tool.name, wait)
            if probe.probe is not None:
                probe.probe.throttled(tool.name)
            await on_wait(wait, asked is not None)
            pause = min(pause * 2, 30.0)

    async def _post(self, tool: Tool, content: bytes) -> httpx.Response:
        url = f"{self.base_url}{tool.path}"
        # Longer than the time-out of the connection, after which it is certain that nothing was sent.
        seconds = self._connection.connect_timeout + self._timeout + len(content) / _BYTES_PER_SECOND
        try:
            async with asyncio.timeout(seconds):
                headers = {"content-type": "application/json"}
                return await self._connection.ask("POST", url, content=content, headers=headers)
        except _NOT_SENT as error:
            raise ServerUnavailable(f"{host_of(url)}: no connection ({reason_of(error)}); nothing was sent") from None
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            what = f"the connection failed after the request was sent ({reason_of(error)}); it may be charged"
            raise SubmissionUncertain(f"{tool.name}: {what}") from None

    def _submission(self, tool: Tool, response: httpx.Response) -> Submission:
        code, answer = response.status_code, self._connection.without_key(read_json(response))
        if 200 <= code < 300 or code == 303:  # 303: done, and the answer is elsewhere
            if not isinstance(answer, dict) or not is_id(answer.get("id")):
                raise SubmissionUncertain(f"{tool.name}: accepted, but the answer has no id; it may be charged")
            if self._connection.has_key(answer["id"]):
                raise SubmissionUncertain(
                    f"{tool.name}: accepted, but the id in the answer is the key; it may be charged"
                )
            return Submission(
                id=answer["id"],
                polling_url=polling_url if isinstance(polling_url := answer.get("polling_url"), str) else None,
                cost=number(answer.get("cost")),
                input_mp=number(answer.get("input_mp")),
                output_mp=number(answer.get("output_mp")),
                status=status if isinstance(status := answer.get("status"), str) else None,
            )
        detail = self._check_key(response, answer, _advice(tool, 403))
        if code == 402:
            raise OutOfCredits(f"{host_of(self.base_url)}: out of credits ({detail}); top up, then run again")
        if code >= 500:
            raise SubmissionUncertain(f"{tool.name}: HTTP {code} on submission ({detail}); it may be charged")
        if 300 <= code < 400:
            raise InvalidRequest(f"{tool.name}: the endpoint redirects to another address, which is not followed")
        words = f"{tool.name}: refused by the service ({code}): {detail}{_advice(tool, code)}"
        raise InvalidRequest(words, problems_of(answer, tool))

    def _check_key(self, response: httpx.Response, answer: Any, advice: str = "") -> str:
        """Raise ``KeyRefused``, with ``advice``, if the key is refused; return the server's reason otherwise."""
        code = response.status_code
        detail = detail_of(answer) or str(self._connection.without_key(response.reason_phrase))
        if code in (401, 403) or (code == 422 and "api key" in detail.lower()):
            hint = self._connection.key_hint or advice
            raise KeyRefused(f"{host_of(self.base_url)} refused the key ({code}: {detail}){hint}")
        return detail

    # -- poll -----------------------------------------------------------------------------------------------------

    async def wait(
        self,
        job_id: str,
        polling_url: str | None = None,
        *,
        deadline: float = 300.0,
        on_progress: Callable[[str, float | None], None] | None = None,
        on_wait: Callable[[str], None] | None = None,
        watch: Watch | None = None,
        calls: Calls | None = None,
    ) -> Finished:
        """Poll a job until it ends; free of charge and safe to repeat.

        Args:
            polling_url: as returned at submission. If it points at a host that may not have the key, the endpoint is
                asked for the id instead, so that no paid job is lost.
            deadline: seconds after which it is polled once more, for the last time.
            on_progress: receives each status and the share done (0 to 1, or None).
            on_wait: receives, after each poll that brings no end, why it is polled again.
            watch: decides when it is polled, by what is known of jobs like it.
            calls: the job's call-backs, after each of which it is polled at once, and then but rarely without one.

        Raises:
            Moderated: the service refused the request or the result.
            JobFailed: the service ended the job with an error.
            JobLost: the service does not know the job.
            KeyRefused: answered with 401 or 403.
            StillRunning: the deadline has passed; the job may still finish.
        """
        named = self._polling_address(job_id, polling_url)
        own = self._polling_address(job_id, None)
        url = named
        watch = watch or Watch()
        started = time.monotonic()
        missing = failures = 0
        missing_since = started
        reason, is_last = "", False
        if calls is not None and not watch.is_earlier:
            await calls.sleep(min(calls.pause(watch.next_poll(self._trip), is_well=True), deadline))
        elif self._poll_interval is None:
            await asyncio.sleep(min(watch.next_poll(self._trip), deadline))
        while True:
            elapsed = time.monotonic() - started
            if is_last:
                raise StillRunning(f"job {job_id}: {reason} after {deadline:g} s; it can be asked for again")
            is_last = elapsed >= deadline  # a process that was stopped meanwhile has not asked yet
            watch.note_poll()
            try:
                async with asyncio.timeout(min(self._timeout, max(deadline - elapsed, 0.0) + 1.0)):
                    response = await self._connection.poll(url)
            except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError, RedirectRefused) as error:
                failures += 1
                if probe.probe is not None:
                    probe.probe.retried("poll")
                reason = str(error) if isinstance(error, RedirectRefused) else f"no answer ({reason_of(error)})"
                if not isinstance(error, (httpx.HTTPError, TimeoutError)):
                    named = own  # an address that cannot be used
                url = self._next_address(url, named, own, failures)
                if on_wait is not None:
                    on_wait(reason)
                await asyncio.sleep(min(self._pause(watch, failures), max(0.0, deadline - elapsed)))
                continue
            self._trip += 0.2 * (watch.age - watch.polled - self._trip)
            reason = "still running"
            answer = self._connection.without_key(read_json(response))
            status = answer.get("status") if isinstance(answer, dict) else None
            is_missing = status == "Task not found" or is_unknown(response.status_code, answer)
            if is_missing and not (url != named and failures):
                missing += 1
                if missing == 1:
                    missing_since = time.monotonic()
                if missing > _EARLY_POLLS and time.monotonic() - missing_since >= self._early_seconds:
                    if url == own or isinstance(status, str):
                        raise JobLost(f"job {job_id}: the service does not know it (any more)")
                    url, named, missing = own, own, 0  # perhaps only the address that the service named does not work
            elif isinstance(status, str) and not is_missing:
                finished = ending_of(job_id, status, answer)
                if finished is not None:
                    return finished
                watch.note_running()
                if on_progress is not None:
                    on_progress(status, number(answer.get("progress")))
                missing = failures = 0
                reason = "ready, but without a result" if status == "Ready" else "still running"
            elif response.status_code in (401, 403) and url == own:
                raise KeyRefused(f"{host_of(url)} refused the key while polling ({response.status_code})")
            else:
                if probe.probe is not None:
                    probe.probe.retried("poll")
                failures = max(failures + 1, 4 if response.status_code in (401, 403) else 0)
                reason = "not known at the endpoint's own address" if is_missing else f"HTTP {response.status_code}"
                if failures > 3 and url == named and response.status_code in (404, 405, 410):
                    named = own  # the address that the service named does not work
                url = self._next_address(url, named, own, failures)
            if on_wait is not None:
                on_wait(reason)
            pause = max(self._pause(watch, failures), retry_after(response) or 0.0)
            left = max(0.0, deadline - (time.monotonic() - started)) + 0.01
            if calls is None:
                await asyncio.sleep(min(pause, left))
            else:
                await calls.sleep(min(calls.pause(pause, is_well=not (failures or missing)), left))

    @staticmethod
    def _next_address(url: str, named: str, own: str, failures: int) -> str:
        """Return which address is polled after a failure at ``url``: after a few, the endpoint's own in turn."""
        return own if failures > 3 and url == named else named

    def _polling_address(self, job_id: str, polling_url: str | None) -> str:
        own = f"{self.base_url}/v1/get_result?id={quote(job_id, safe='')}"
        if not polling_url:
            return own
        if may_have_key(polling_url, self.base_url):
            try:
                self._connection.check_region(polling_url)
                return polling_url
            except RedirectRefused as refused:
                _log.warning("%s: the endpoint itself is polled", refused)
        elif not (is_loopback(polling_url) and is_loopback(self.base_url)):  # else started again on another port
            _log.warning("polling address on a foreign host (%s) is not used", host_of(polling_url))
        return own

    def _pause(self, watch: Watch, failures: int) -> float:
        pause = watch.next_poll(self._trip) if self._poll_interval is None else self._poll_interval
        return pause if failures < 2 else min(pause * 2.0 ** min(failures, 8), 10.0)

    # -- fetch ----------------------------------------------------------------------------------------------------

    async def fetch(self, finished: Finished) -> bytes:
        """Return the delivered bytes, complete and with a readable header. Never sends the key.

        Raises:
            DeliveryFailed: not fetched whole; asking again is free.
        """
        title = f"job {finished.id}"
        data = await self._connection.fetch(finished.sample, title=title, seconds=5 * self._timeout)
        try:
            inspect(data)
        except InvalidImage as error:
            raise DeliveryFailed(f"{title}: the delivery is {error}") from None
        if not is_complete(data):
            raise DeliveryFailed(f"{title}: the delivery is cut short ({len(data):,} bytes)")
        return data

    # -- account --------------------------------------------------------------------------------------------------

    async def credits(self) -> float | None:
        """Return the credits left on the account (``GET /v1/credits``); None if the endpoint does not name them.

        Raises:
            KeyRefused: answered with 401 or 403.
            EndpointUnreachable: no connection, or no answer.
        """
        return (await self.account())[0]

    async def account(self) -> tuple[float | None, float | None]:
        """Return the credits left, as ``credits`` does, and by how many seconds the service's clock is ahead.

        The latter is from the header ``Date`` of the same answer, which has whole seconds; None where it has none.

        Raises:
            KeyRefused, EndpointUnreachable: as ``credits``.
        """
        asked = time.time()
        response = await self._ask_about(f"{self.base_url}/v1/credits")
        date = date_of(response)
        ahead = None if date is None else date + 0.5 - (asked + time.time()) / 2
        answer = self._connection.without_key(read_json(response))
        self._check_key(response, answer)
        return number(answer.get("credits")) if isinstance(answer, dict) else None, ahead

    async def engine(self) -> str:
        """Return the engine behind the endpoint: ``bfl``, the name that a local server gives, or ``custom:<host>``.

        Part of every job key, so that no other engine's results are ever taken for BFL's.

        Raises:
            EndpointUnreachable: an endpoint that is not BFL's does not answer.
        """
        if is_bfl(self.base_url):
            return "bfl"
        response = await self._ask_about(f"{self.base_url}/local", keyed=False)
        answer = read_json(response)
        name = answer.get("engine") if isinstance(answer, dict) and response.status_code == 200 else None
        if isinstance(name, str) and makes_previews(name):
            return name
        # Without the port: a server of one's own may start again on another one, and its results stay valid.
        return f"custom:{'loopback' if is_loopback(self.base_url) else urlsplit(self.base_url).hostname}"

    async def _ask_about(self, url: str, *, keyed: bool = True) -> httpx.Response:
        try:
            async with asyncio.timeout(min(15.0, self._timeout)):
                return await self._connection.ask("GET", url, keyed=keyed)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise EndpointUnreachable(f"{self.base_url} cannot be reached ({reason_of(error)})") from None


def _encode(body: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError:  # a whole number of more than 64 bits
        return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def _advice(tool: Tool, code: int) -> str:
    """Return the end of a message about a refusal with the HTTP status ``code``: what the tool's documents advise."""
    tips = tool.tips_about(code)
    return f" (the documents advise: {tips})" if tips else ""


def is_free_to_repeat(error: FluxError) -> bool:
    """Check whether a whole task may be repeated after ``error``, because nothing was sent.

    Everything else is repeated by the client or by the job itself, or not at all, so that attempts never multiply:
    ``submit`` waits after a 429, polls and deliveries are repeated where they fail, the job submits a lost job again,
    and a job that has not ended by its deadline stays in the journal.
    """
    return isinstance(error, ServerUnavailable) and not isinstance(error, StillRunning)
