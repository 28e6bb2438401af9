"""Answers with faults."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from flux_tasks.local.faults import kinds
from flux_tasks.local.service.clock import Clock
from flux_tasks.local.service.jobs import Delivery
from flux_tasks.local.web.connections import Cut, Drip, departure
from flux_tasks.local.web.wire import refusal

__all__ = ["deliver", "with_fault"]


class _Late(Response):
    """``answer`` after ``seconds``, unless the client leaves before."""

    def __init__(self, answer: Response, seconds: float, clock: Clock) -> None:
        super().__init__()
        self._answer, self._seconds, self._clock = answer, seconds, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pause = asyncio.ensure_future(self._clock.sleep(self._seconds))
        leaving = asyncio.ensure_future(departure(receive))
        await asyncio.wait([pause, leaving], return_when=asyncio.FIRST_COMPLETED)
        is_gone = leaving.done()
        pause.cancel()
        leaving.cancel()
        if not is_gone:
            await self._answer(scope, receive, send)


def with_fault(
    fault: kinds.Rule | None, answer: Response, clock: Clock, *, url: str = "", with_code: bool = False
) -> Response:
    """Return what is sent instead of ``answer`` to a submission or a poll of ``url``; see ``wire.refusal``."""
    match fault:
        case kinds.SubmitAnswer() | kinds.PollAnswer():
            headers = {} if fault.retry_after is None else {"retry-after": _retry_after(fault.retry_after)}
            return refusal(fault.status, fault.detail, with_code=with_code, headers=headers)
        case kinds.PollRedirect():
            return Response(status_code=307, headers={"location": _elsewhere(url, fault.to)})
        case kinds.SubmitCut() | kinds.PollCut():
            return Cut(answer, sent=fault.sent)
        case kinds.SubmitSlow() | kinds.PollSlow():
            return _Late(answer, fault.seconds, clock)
        case kinds.SubmitDrip() | kinds.PollDrip():
            return Drip(answer, seconds=fault.seconds, clock=clock)
        case _:
            return answer


def _retry_after(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


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
        case kinds.DeliverySlow():
            delivery.sent()
            return _Late(whole, fault.seconds, clock)
        case kinds.DeliveryDrip():
            delivery.sent()
            return Drip(whole, seconds=fault.seconds, clock=clock)
        case _:
            delivery.sent()
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
