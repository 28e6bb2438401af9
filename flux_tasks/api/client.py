"""The BFL API over httpx: submit, poll, fetch.

Who is given the key: ``https://*.bfl.ai`` and the configured endpoint's own host (over https, or loopback). Never a
delivery address. No request that carries the key follows a redirect.

What is repeated, and by whom:

=======  ==========================================  ===========================================================
phase    what happened                               what is done
=======  ==========================================  ===========================================================
submit   no connection (refused, DNS, TLS,           ``ServerUnavailable``: nothing was sent; a Prefect task
         connect time-out, pool time-out)            repeats itself four times, nothing else does
submit   429                                         waited for here (``Retry-After``, else growing pauses) up to
                                                     the tool's deadline, then ``RateLimited``: no job was made
submit   5xx, read/write time-out, a body that drips ``SubmissionUncertain``: never repeated, the job may be
         for too long, cut connection, an answer     charged
         that cannot be read
submit   401, 403                                    ``KeyRefused``
submit   402                                         ``OutOfCredits``
submit   400, 404, 413, 422, other 4xx               ``InvalidRequest`` with the server's reasons
poll     a body with ``status``, whatever the code   the status decides (failed jobs answer with 422 or 503)
poll     no connection, time-out, 429, 5xx           polled again with growing pauses until the deadline, then
                                                     ``StillRunning``; the job stays in the journal
poll     ``Task not found``, whatever the code       5 more polls over 30 s at least (it can be too early; on
                                                     loopback at once), then ``JobLost``
poll     ``Ready`` that names no result              still running, until the deadline
poll     unknown status                              still running, until the deadline
fetch    any failure, cut or damaged bytes           the job is polled once more for a fresh address, four
                                                     times in all, then ``DeliveryFailed``; it stays in the journal
store    a failure that may pass                     repeated for four seconds, then as the next row
store    before the POST: cannot be read or written  ``StoreUnavailable``: nothing was sent, the run stops
store    after the POST: cannot be written           id or result wait in the spool; the call goes on
=======  ==========================================  ===========================================================
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from flux_tasks.api.answers import detail_of, host_of, number, problems_of, read_json, reason_of, retry_after
from flux_tasks.catalog import Tool
from flux_tasks.errors import (
    DeliveryFailed,
    EndpointUnreachable,
    FluxError,
    InvalidImage,
    InvalidRequest,
    JobFailed,
    JobLost,
    KeyRefused,
    Moderated,
    OutOfCredits,
    RateLimited,
    ServerUnavailable,
    StillRunning,
    SubmissionUncertain,
)
from flux_tasks.images.download import certificates, download
from flux_tasks.images.encoding import inspect, is_complete
from flux_tasks.images.loading import MAX_BYTES
from flux_tasks.settings import is_bfl, is_loopback

__all__ = ["BflClient", "Finished", "Submission"]

_log = logging.getLogger("flux_tasks.client")
logging.getLogger("hpack.hpack").addFilter(lambda _: False)  # it tells every header of HTTP/2, the key among them

_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.ProxyError)
_FAILED = {"Error", "Failed"}  # "Failed" is not in the enumeration but in the docs' samples (DOCS-F2)
_MODERATED = {"Request Moderated": "request", "Content Moderated": "content"}
_EARLY_POLLS = 5
_EARLY_SECONDS = 30.0  # after its submission a job was seen to be unknown for ten seconds
_BYTES_PER_SECOND = 100_000  # of the slowest upload that is waited for
_SHORTEST_KEY = 8
_VERBATIM = ("id", "polling_url", "sample")
_LONGEST = 16 * 1024 * 1024  # bytes of an answer; they are a kilobyte or two


class _XKey(httpx.Auth):
    """Puts the key into a request at the last moment, so that no variable on the way holds it."""

    def __init__(self, key: str) -> None:
        self._key = key

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """See ``httpx.Auth``."""
        request.headers["x-key"] = self._key
        yield request

    def __repr__(self) -> str:
        return "_XKey(…)"


def _is_id(value: Any) -> bool:
    """Whether it can be asked for: some text, and nothing that no address can hold."""
    return isinstance(value, str) and bool(value) and not any("\ud800" <= sign <= "\udfff" for sign in value)


@dataclass(frozen=True, slots=True)
class Submission:
    """The service's answer to a POST.

    Attributes:
        polling_url: where to ask; None after a webhook submission, whose answer has none (OAS-0919).
        cost: credits, as estimated by the service at submission; optional in the contract.
        input_mp, output_mp: megapixels (of 1,048,576 px) that the price is made of.
        status: only in the answer to a webhook submission.
    """

    id: str
    polling_url: str | None = None
    cost: float | None = None
    input_mp: float | None = None
    output_mp: float | None = None
    status: str | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """A job that is ready.

    Attributes:
        sample: the delivery address, valid for 10 minutes.
        cost: settled credits, if the service said so.
        details: the rest of the result: prompt, seed, durations …
    """

    id: str
    sample: str = field(repr=False)
    cost: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


class BflClient:
    """One endpoint, one key, one connection pool.

    Args:
        base_url: such as ``https://api.bfl.ai``.
        key: sent as ``x-key``; empty for a server that asks for none.
        poll_interval: seconds between polls; None lets it grow from 0.25 to 2 (0.03 to 0.5 on loopback).
        timeout: seconds to wait for one answer, however it drips in; a submission has a second more for every 100 kB
            that it sends, a delivery five times as long.
        transport: any httpx transport, for tests and proxies.
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
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._key = key.strip()
        self._poll_interval = poll_interval
        self._timeout = timeout
        self._connect_timeout = min(10.0, timeout)
        self._early_seconds = 0.0 if is_loopback(base_url) else _EARLY_SECONDS
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=32, keepalive_expiry=20.0)
        # Two pools: the one that talks to the API attaches the key request by request, the one that fetches
        # deliveries has never heard of it.
        options: dict[str, Any] = {
            "http2": True,
            "timeout": httpx.Timeout(timeout, connect=self._connect_timeout, pool=None),
            "limits": limits,
            "transport": transport,
            "verify": certificates() if verify is True else verify,
            "trust_env": not is_loopback(base_url),
        }
        self._api = httpx.AsyncClient(**options, headers={"accept": "application/json", "accept-encoding": "identity"})
        self._deliveries = httpx.AsyncClient(**options)

    def __repr__(self) -> str:
        return f"BflClient({self.base_url!r})"

    async def aclose(self) -> None:
        """Close all connections."""
        await self._api.aclose()
        await self._deliveries.aclose()

    async def __aenter__(self) -> BflClient:
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
        on_wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> Submission:
        """POST one job. Each call may be charged; see the module's table for what is repeated.

        With ``webhook_url`` in ``body`` the answer has no ``polling_url``. 429 is waited for up to ``deadline`` seconds
        (the tool's own if None); ``on_wait`` is what waits, for so many seconds: no job was made then, and it is tried
        again when it returns.

        Raises:
            KeyRefused: answered with 401 or 403.
            OutOfCredits: answered with 402.
            InvalidRequest: answered with another 4xx, with the server's reasons.
            RateLimited: answered with 429 until the deadline; no job was made.
            ServerUnavailable: no connection; nothing was sent.
            SubmissionUncertain: the job may be charged.
        """
        content = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
        patience = time.monotonic() + (tool.deadline if deadline is None else deadline)
        pause = 1.0
        while True:
            response = await self._post(tool, content)
            if response.status_code != 429:
                return self._submission(tool, response)
            wait = retry_after(response)
            wait = pause * random.uniform(0.5, 1.5) if wait is None else wait  # noqa: S311 - jitter, not a secret
            if time.monotonic() + wait > patience:
                raise RateLimited(f"{tool.name}: too many active jobs on this account", retry_after=wait)
            _log.info("%s: too many active jobs, waiting %.1f s", tool.name, wait)
            await on_wait(wait)
            pause = min(pause * 2, 30.0)

    async def _post(self, tool: Tool, content: bytes) -> httpx.Response:
        url = f"{self.base_url}{tool.path}"
        # Longer than the time-out of the connection, which says for sure that nothing was sent.
        seconds = self._connect_timeout + self._timeout + len(content) / _BYTES_PER_SECOND
        try:
            async with asyncio.timeout(seconds):
                return await self._ask("POST", url, content=content, headers={"content-type": "application/json"})
        except _NOT_SENT as error:
            raise ServerUnavailable(f"{host_of(url)}: no connection ({reason_of(error)}); nothing was sent") from None
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise SubmissionUncertain(
                f"{tool.name}: the connection failed after the request was sent ({reason_of(error)}); it may be charged"
            ) from None

    def _submission(self, tool: Tool, response: httpx.Response) -> Submission:
        code, answer = response.status_code, self._clean(read_json(response))
        if 200 <= code < 300 or code == 303:  # 303: done, and the answer is elsewhere
            if not isinstance(answer, dict) or not _is_id(answer.get("id")):
                raise SubmissionUncertain(f"{tool.name}: accepted, but the answer has no id; it may be charged")
            return Submission(
                id=answer["id"],
                polling_url=polling_url if isinstance(polling_url := answer.get("polling_url"), str) else None,
                cost=number(answer.get("cost")),
                input_mp=number(answer.get("input_mp")),
                output_mp=number(answer.get("output_mp")),
                status=status if isinstance(status := answer.get("status"), str) else None,
            )
        detail = detail_of(answer) or self._clean(response.reason_phrase)
        if code in (401, 403) or (code == 422 and "api key" in detail.lower()):
            raise KeyRefused(f"{host_of(self.base_url)} refused the key ({code}: {detail})" + self._key_hint())
        if code == 402:
            raise OutOfCredits(f"{host_of(self.base_url)}: out of credits ({detail}); top up, then run again")
        if code >= 500:
            raise SubmissionUncertain(f"{tool.name}: HTTP {code} on submission ({detail}); it may be charged")
        if 300 <= code < 400:
            raise InvalidRequest(f"{tool.name}: the endpoint redirects to another address, which is not followed")
        raise InvalidRequest(f"{tool.name}: refused by the service ({code}): {detail}", problems_of(answer, tool))

    async def _ask(self, method: str, url: str, *, keyed: bool = True, **options: Any) -> httpx.Response:
        """One request with the key, if ``url`` may have it; its answer is read whole, up to ``_LONGEST`` bytes."""
        auth = _XKey(self._key) if keyed and self._key and self._may_have_key(url) else None
        request = self._api.build_request(method, url, **options)
        response = await self._api.send(request, auth=auth, follow_redirects=False, stream=True)
        try:
            chunks: list[bytes] = []
            length = 0
            if response.headers.get("content-encoding", "identity").strip().lower() in ("identity", "gzip", ""):
                async for chunk in response.aiter_bytes():
                    length += len(chunk)
                    if length > _LONGEST:
                        raise httpx.ReadError(f"an answer of more than {_LONGEST:,} bytes")
                    chunks.append(chunk)
        finally:
            await response.aclose()
        headers = [(name, value) for name, value in response.headers.multi_items() if name != "content-encoding"]
        return httpx.Response(response.status_code, headers=headers, content=b"".join(chunks))

    def _clean(self, said: Any) -> Any:
        """What the service said, without the key that it may have repeated; ids and addresses stay as they are."""
        if len(self._key) < _SHORTEST_KEY:  # it would be found in half of all words
            return said
        if isinstance(said, str):
            return said.replace(self._key, "<key>")
        if isinstance(said, dict):
            return {n: v if n in _VERBATIM else self._clean(v) for n, v in said.items() if self._key not in n}
        return [self._clean(value) for value in said] if isinstance(said, list) else said

    def _key_hint(self) -> str:
        return "" if self._key else ": no key was sent, set BFL_API_KEY"

    # -- poll -----------------------------------------------------------------------------------------------------

    async def wait(
        self,
        job_id: str,
        polling_url: str | None = None,
        *,
        deadline: float = 300.0,
        on_progress: Callable[[str, float | None], None] | None = None,
    ) -> Finished:
        """Poll a job until it ends; free of charge and safe to repeat.

        Args:
            polling_url: as returned at submission. One that points at a host which may not have the key is not
                used: the endpoint is asked for the id instead, so that nothing paid for is lost.
            deadline: seconds to go on polling.
            on_progress: told each status and the share done (0 to 1, where known).

        Raises:
            Moderated: the service refused the request or the result.
            JobFailed: the service ended the job with an error.
            JobLost: the service does not know the job.
            KeyRefused: answered with 401 or 403.
            StillRunning: the deadline has passed; the job may still finish.
        """
        url = self._polling_address(job_id, polling_url)
        own = self._polling_address(job_id, None)
        started = time.monotonic()
        missing = failures = 0
        missing_since = started
        reason = "still running"
        while True:
            elapsed = time.monotonic() - started
            if elapsed > deadline:
                raise StillRunning(f"job {job_id}: {reason} after {deadline:g} s; it can be asked for again")
            try:
                async with asyncio.timeout(min(self._timeout, max(deadline - elapsed, 0.0) + 1.0)):
                    response = await self._ask("GET", url)
            except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
                failures += 1
                reason = f"no answer ({reason_of(error)})"
                if not isinstance(error, (httpx.HTTPError, TimeoutError)):
                    url = own  # an address that cannot be used
                await asyncio.sleep(min(self._pause(elapsed, failures), max(0.0, deadline - elapsed)))
                continue
            answer = self._clean(read_json(response))
            status = answer.get("status") if isinstance(answer, dict) else None
            if status == "Task not found":
                missing += 1
                if missing == 1:
                    missing_since = time.monotonic()
                if missing > _EARLY_POLLS and time.monotonic() - missing_since >= self._early_seconds:
                    raise JobLost(f"job {job_id}: the service does not know it (any more)")
            elif isinstance(status, str):
                finished = self._ending(job_id, status, answer)
                if finished is not None:
                    return finished
                if on_progress is not None:
                    on_progress(status, number(answer.get("progress")))
                missing = failures = 0
                reason = "ready, but its result is not named" if status == "Ready" else "still running"
            elif response.status_code in (401, 403):
                raise KeyRefused(f"{host_of(url)} refused the key while polling ({response.status_code})")
            else:
                failures += 1
                reason = f"HTTP {response.status_code}"
                if failures > 3 and response.status_code in (404, 405, 410):
                    url = own  # the address that the service named is none
            pause = max(self._pause(elapsed, failures), retry_after(response) or 0.0)
            await asyncio.sleep(min(pause, max(0.0, deadline - (time.monotonic() - started)) + 0.01))

    def _ending(self, job_id: str, status: str, answer: Mapping[str, Any]) -> Finished | None:
        """The end that ``status`` means, or None while the job runs (an unknown status is a running one)."""
        result = answer.get("result")
        if status == "Ready":
            sample = result.get("sample") if isinstance(result, dict) else None
            if not isinstance(sample, str):
                return None
            details = {k: v for k, v in result.items() if k != "sample"} if isinstance(result, dict) else {}
            return Finished(job_id, sample, number(answer.get("cost")), details)
        if status in _MODERATED:
            said = answer.get("details")
            reasons = said.get("Moderation Reasons", []) if isinstance(said, dict) else []
            listed = [str(r) for r in reasons] if isinstance(reasons, list) else [str(reasons)]
            raise Moderated(_MODERATED[status], listed, job_id=job_id)
        if status in _FAILED:
            words = answer.get("details") or answer.get("error") or answer.get("result")
            if isinstance(words, dict):
                words = {name: value for name, value in words.items() if name != "sample"}
            if isinstance(words, dict) and isinstance(words.get("error"), str):
                words = words["error"]
            raise JobFailed(f"job {job_id}: the service ended it with an error" + (f" ({words})" if words else ""))
        return None

    def _polling_address(self, job_id: str, polling_url: str | None) -> str:
        own = f"{self.base_url}/v1/get_result?id={quote(job_id, safe='')}"
        if not polling_url:
            return own
        if self._may_have_key(polling_url):
            return polling_url
        if is_loopback(polling_url) and is_loopback(self.base_url):
            return own  # a local server that was started again on another port
        _log.warning("polling address on a foreign host (%s) is not used", host_of(polling_url))
        return own

    def _pause(self, elapsed: float, failures: int) -> float:
        if self._poll_interval is not None:
            pause = self._poll_interval
        elif is_loopback(self.base_url):
            pause = min(max(0.03, elapsed * 0.05), 0.5)
        else:
            pause = min(max(0.25, elapsed * 0.1), 2.0)
        return pause if failures < 2 else min(pause * 2.0 ** min(failures, 8), 10.0)

    # -- fetch ----------------------------------------------------------------------------------------------------

    async def fetch(self, finished: Finished) -> bytes:
        """The delivered bytes: complete, with a decodable header. Never sends the key.

        Raises:
            DeliveryFailed: not fetched whole; asking again is free.
        """
        scheme_is_safe = finished.sample.startswith("https://") or is_loopback(finished.sample)
        if not scheme_is_safe:
            raise DeliveryFailed(f"job {finished.id}: the delivery address is not https")
        try:
            async with asyncio.timeout(5 * self._timeout):
                data = await download(finished.sample, client=self._deliveries, limit=MAX_BYTES, same_host=True)
        except TimeoutError:
            raise DeliveryFailed(f"job {finished.id}: not delivered within {5 * self._timeout:g} s") from None
        if not data:
            raise DeliveryFailed(f"job {finished.id}: the delivery is empty")
        try:
            inspect(data)
        except InvalidImage as error:
            raise DeliveryFailed(f"job {finished.id}: the delivery is {error}") from None
        if not is_complete(data):
            raise DeliveryFailed(f"job {finished.id}: the delivery is cut short ({len(data):,} bytes)")
        return data

    # -- account --------------------------------------------------------------------------------------------------

    async def credits(self) -> float | None:
        """Credits left on the account (``GET /v1/credits``); None if the endpoint does not say.

        Raises:
            KeyRefused: answered with 401 or 403.
            EndpointUnreachable: no connection, or no answer.
        """
        url = f"{self.base_url}/v1/credits"
        try:
            async with asyncio.timeout(min(15.0, self._timeout)):
                response = await self._ask("GET", url)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise EndpointUnreachable(f"{self.base_url} cannot be reached ({reason_of(error)})") from None
        answer = self._clean(read_json(response))
        detail = detail_of(answer) or response.reason_phrase
        if response.status_code in (401, 403) or (response.status_code == 422 and "api key" in detail.lower()):
            raise KeyRefused(f"{host_of(url)} refused the key ({response.status_code}: {detail})" + self._key_hint())
        return number(answer.get("credits")) if isinstance(answer, dict) else None

    async def engine(self) -> str:
        """The engine behind the endpoint: ``bfl``, what a local server says of itself, or ``custom:<host>``.

        Part of every job key, so that no other engine's results ever pass for BFL's.

        Raises:
            EndpointUnreachable: an endpoint that is not BFL's does not answer.
        """
        if is_bfl(self.base_url):
            return "bfl"
        try:
            async with asyncio.timeout(min(15.0, self._timeout)):
                response = await self._ask("GET", f"{self.base_url}/local", keyed=False)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise EndpointUnreachable(f"{self.base_url} cannot be reached ({reason_of(error)})") from None
        answer = read_json(response)
        name = answer.get("engine") if isinstance(answer, dict) and response.status_code == 200 else None
        if isinstance(name, str) and name.startswith("local:"):
            return name
        # Not the port: a server of one's own may come back on another, and its results are still its results.
        return f"custom:{'loopback' if is_loopback(self.base_url) else urlsplit(self.base_url).hostname}"

    def _may_have_key(self, url: str) -> bool:
        try:
            own, asked = urlsplit(self.base_url), urlsplit(url)
        except ValueError:
            return False
        same_server = (own.scheme, own.netloc.lower()) == (asked.scheme, asked.netloc.lower())
        return is_bfl(url) or (same_server and (asked.scheme == "https" or is_loopback(url)))


def is_free_to_repeat(error: FluxError) -> bool:
    """Whether a whole task may be repeated after ``error``: nothing was sent.

    All else is repeated by the client or the job itself, or not at all, so that attempts never multiply: 429 is
    waited for in ``submit``, polls and deliveries are repeated where they fail, a lost job is submitted anew by the
    job, and one that has not ended by its deadline is left to the journal.
    """
    return isinstance(error, ServerUnavailable) and not isinstance(error, StillRunning)
