"""The fault table: what a caller of this library sees of each fault, measured against a running local server.

Each row makes one paid call over real HTTP while its fault is active, and then the same call again without the fault.
It shows how many requests the first attempt made and how it ended, how the second attempt ended, and how many jobs the
server charged in all.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, NamedTuple

from PIL import Image

from flux_tasks import background, catalog
from flux_tasks.api.webhooks import WebhookForged, verify_webhook
from flux_tasks.errors import FluxError
from flux_tasks.jobs import endpoint, job
from flux_tasks.jobs.call import prepare
from flux_tasks.jobs.result import JobResult
from flux_tasks.local.server import LocalServer
from flux_tasks.settings import Settings


class Row(NamedTuple):
    """One line of the table: a name, the faults that are active, and settings that differ from the usual ones."""

    name: str
    faults: Sequence[Mapping[str, Any]] = ()
    settings: Mapping[str, Any] = {}

    @property
    def has_webhook(self) -> bool:
        """Whether the call asks for a webhook; then webhooks are counted."""
        return self.name.startswith("webhook")


def _row(name: str, fault: str, **options: Any) -> Row:
    """Return a row with one fault; time limits among its options are settings of the call."""
    settings: dict[str, Any] = {key: options.pop(key) for key in ("timeout", "deadline") if key in options}
    return Row(name, [{"fault": fault, **options}], settings)


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of a row.

    Attributes:
        outcome: of the first attempt: ``done``, or the class of its error.
        message: the error message, or the warnings of a call that was done.
        submissions, polls, fetches: requests that the server received in the first attempt.
        again: outcome of the second attempt, without faults.
        charges, credits: jobs charged in both attempts, and what for.
        webhooks: how many jobs sent a genuine webhook, and how many webhooks came in all.
    """

    outcome: str
    message: str
    submissions: int
    polls: int
    fetches: int
    again: str
    charges: int
    credits: float
    webhooks: tuple[int, int] = (0, 0)


_PATIENCE = 60.0  # seconds for what no fault delays: a busy machine is slow
_HTTP_DATE = "Wed, 21 Oct 2015 07:28:00 GMT"
_REASONS = [{"loc": ["body", "seed"], "msg": "Input should be a valid integer", "type": "int_type"}]
_SECRET = "the receiver's secret"  # noqa: S105 - lives as long as the measurement

ROWS: tuple[Row, ...] = (
    Row("no fault"),
    _row("submit: 400", "submit.answer", status=400, detail="bad parameters"),
    _row("submit: 401", "submit.answer", status=401, detail="Unauthorized"),
    _row("submit: 402", "submit.answer", status=402, detail="Insufficient credits"),
    _row("submit: 403", "submit.answer", status=403, detail="Not authenticated"),
    _row("submit: 422 with a list", "submit.answer", status=422, detail=_REASONS),
    _row("submit: 422 with a sentence", "submit.answer", status=422, detail="canvas too large"),
    _row("submit: 429", "submit.answer", status=429),
    _row("submit: 429, Retry-After in seconds", "submit.answer", status=429, retry_after=0.2, count=3),
    _row("submit: 429, Retry-After as a date", "submit.answer", status=429, retry_after=_HTTP_DATE),
    _row("submit: 429 without end", "submit.answer", status=429, retry_after=5, count=99, deadline=14.0),
    _row("submit: 500, not charged", "submit.answer", status=500),
    _row("submit: 500, charged", "submit.answer", status=500, charged=True),
    _row("submit: 503, charged", "submit.answer", status=503, charged=True, retry_after=1),
    _row("submit: redirected", "submit.answer", status=307),
    _row("submit: cut, not charged", "submit.cut", charged=False),
    _row("submit: cut, charged", "submit.cut"),
    _row("submit: cut within the answer, charged", "submit.cut", sent=120),
    _row("submit: answer too slow", "submit.slow", seconds=30, timeout=3.0),
    _row("submit: answer drips too slowly", "submit.drip", seconds=30, timeout=3.0),
    _row("submit: answer drips", "submit.drip", seconds=0.3),
    _row("submit: no id", "submit.no_id"),
    _row("submit: no polling_url", "submit.no_polling_url"),
    _row("submit: polling_url on a foreign host", "submit.foreign_polling_url"),
    _row("job: request moderated", "job.moderated", stage="request", reasons=["Violence"]),
    _row("job: content moderated", "job.moderated", stage="content"),
    Row("job: moderated, HTTP 422", [{"fault": "job.moderated"}, {"fault": "poll.code", "status": 422, "times": 0}]),
    _row("job: Error", "job.error"),
    Row("job: Error, HTTP 503", [{"fault": "job.error"}, {"fault": "poll.code", "status": 503, "times": 0}]),
    _row("job: Error, its reason beside the status", "job.error", error="out of luck"),
    _row("job: Failed", "job.error", says="Failed", details={}),
    _row("job: never ends", "job.never_ends", deadline=0.5),
    _row("job: picture of another size", "job.wrong_size", scale=0.5),
    _row("job: one solid colour", "job.solid"),
    _row("poll: 404 on the first polls", "poll.unknown", times=3),
    _row("poll: 404 for good", "poll.unknown", times=0),
    _row("poll: 404 with detail and status_code", "poll.answer", status=404, detail="Task not found", times=0),
    _row("poll: 410 with detail and status_code", "poll.answer", status=410, times=0),
    _row("poll: redirected to itself", "poll.redirect", to="same"),
    _row("poll: redirected in a loop", "poll.redirect", to="same", times=0),
    _row("poll: redirected to another host", "poll.redirect", to="foreign"),
    _row("poll: redirected elsewhere for good", "poll.redirect", times=0),
    _row("poll: redirected into a private network", "poll.redirect", to="private"),
    _row("poll: 429", "poll.answer", status=429, retry_after=0.1, times=2),
    _row("poll: 500", "poll.answer", status=500, times=3),
    _row("poll: 500 for good", "poll.answer", status=500, times=0, deadline=0.7),
    _row("poll: 403", "poll.answer", status=403),
    _row("poll: Ready under HTTP 500", "poll.code", status=500, times=0),
    _row("poll: Processing", "poll.status", says="Processing", times=3),
    _row("poll: a status nobody knows", "poll.status", says="Contemplating", times=3),
    _row("poll: Ready without a result", "poll.no_sample", times=2),
    _row("poll: cut", "poll.cut", times=2),
    _row("poll: cut within the answer", "poll.cut", sent=100, times=2),
    _row("poll: too slow", "poll.slow", seconds=30, timeout=3.0),
    _row("poll: drips too slowly", "poll.drip", seconds=30, timeout=3.0),
    _row("delivery: 500", "delivery.answer", status=500),
    _row("delivery: 500 for good", "delivery.answer", status=500, times=0),
    _row("delivery: expired", "delivery.expired"),
    _row("delivery: cut", "delivery.cut"),
    _row("delivery: truncated", "delivery.truncated"),
    _row("delivery: empty", "delivery.truncated", share=0),
    _row("delivery: garbage", "delivery.garbage"),
    _row("delivery: garbage for good", "delivery.garbage", times=0),
    _row("delivery: oversized", "delivery.oversized", megabytes=80),
    _row("delivery: redirected to another host", "delivery.redirect", to="foreign"),
    _row("delivery: redirected to itself", "delivery.redirect", to="same"),
    _row("delivery: redirected in a loop", "delivery.redirect", to="same", times=0),
    *(
        _row(f"delivery: redirected, {to}", "delivery.redirect", to=to, times=0)
        for to in ("http", "private", "link-local", "mapped", "decimal")
    ),
    _row("delivery: too slow", "delivery.slow", seconds=30, timeout=3.0),
    _row("delivery: drips too slowly", "delivery.drip", seconds=60, timeout=3.0),
    Row("webhook: no fault"),
    _row("webhook: twice", "webhook.duplicate"),
    _row("webhook: forged, then genuine", "webhook.forged"),
    _row("webhook: lost", "webhook.lost"),
)
"""Every kind of fault at least once."""


@contextmanager
def _receiver(jobs: list[str | None]) -> Iterator[str]:
    """Receive webhooks on loopback, and yield the address.

    Args:
        jobs: gets the id of the job of each webhook; None if it does not carry the secret.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body, job = self.rfile.read(int(self.headers["content-length"])), None
            with suppress(WebhookForged):
                job = verify_webhook(dict(self.headers), body, _SECRET)["id"]
            jobs.append(job)
            self.send_response(204 if job else 403)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its signature
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def measure(row: Row) -> Measured:
    """Make the call of ``row`` twice: with its faults, and without."""
    jobs: list[str | None] = []
    with (
        tempfile.TemporaryDirectory(prefix="flux-faults-") as store,
        _receiver(jobs) if row.has_webhook else nullcontext("") as address,
        LocalServer(key="the-key", faults=[{"count": 1, **fault} for fault in row.faults]) as server,
    ):
        given = {"timeout": _PATIENCE, "deadline": _PATIENCE, "poll_interval": 0.02, **row.settings}
        settings = Settings(endpoint=server.url, key="the-key", store=store, **given)
        parameters: dict[str, Any] = {"image": Image.effect_noise((96, 80), 90)}  # sharp: nothing to be computed
        if address:
            parameters |= {"webhook_url": address, "webhook_secret": _SECRET}
        call = prepare(catalog.TOOLS["deblur-v1"], parameters)
        try:
            outcome, message = _attempt(lambda: background.run(job.execute(call, settings)))
            requests = server.requests
            server.faults.clear()
            background.run(endpoint.close(settings))
            is_endless = any(fault["fault"] == "job.never_ends" for fault in row.faults)
            patient = settings if is_endless else replace(settings, timeout=_PATIENCE, deadline=_PATIENCE)
            again, _ = _attempt(lambda: background.run(job.execute(call, patient)))
            _wait_for_jobs(server)
        finally:
            background.run(endpoint.close(settings))
    charges = server.charges  # the server has ended, and has sent every webhook
    return Measured(
        outcome=outcome,
        message=message,
        submissions=requests.get("submit", 0),
        polls=requests.get("poll", 0),
        fetches=requests.get("fetch", 0),
        again=again,
        charges=len(charges),
        credits=sum(entry.settled or 0.0 for entry in charges.entries),
        webhooks=(len({*jobs} - {None}), len(jobs)),
    )


def _wait_for_jobs(server: LocalServer) -> None:
    """Wait until every job that can end has ended: a stopped server gives back the credits of the others."""
    over = time.monotonic() + _PATIENCE
    while time.monotonic() < over and any(
        entry.settled is None and "job.never_ends" not in entry.faults for entry in server.charges.entries
    ):
        time.sleep(0.01)


def _attempt(call: Callable[[], JobResult]) -> tuple[str, str]:
    try:
        result = call()
    except FluxError as error:
        return type(error).__name__, str(error)
    return result.outcome, "; ".join(result.warnings)


def measure_all() -> Iterator[tuple[Row, Measured]]:
    """Measure each row, eight of them at a time, and yield them in order."""
    with ThreadPoolExecutor(8) as pool:
        yield from zip(ROWS, pool.map(measure, ROWS), strict=True)


def lines() -> Iterator[str]:
    """Yield the lines of the table, each as soon as it is measured."""
    head = ("fault", "first attempt", "POST", "poll", "GET", "the same call again", "jobs charged")
    widths = (38, 20, 4, 4, 3, 19, 12)
    yield "  ".join(f"{word:<{width}}" for word, width in zip(head, widths, strict=True)) + "  message"
    for row, m in measure_all():
        message = f"{m.webhooks[0]} genuine of {m.webhooks[1]} webhooks" if row.has_webhook else m.message
        cells = (row.name, m.outcome, m.submissions, m.polls, m.fetches, m.again, m.charges)
        line = "  ".join(f"{cell!s:<{width}}" for cell, width in zip(cells, widths, strict=True))
        yield f"{line}  {message}".rstrip()
