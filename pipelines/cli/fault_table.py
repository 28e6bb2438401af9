"""The fault table: what a caller of this library sees of each fault, measured against a running local server.

Each row makes one paid call over real HTTP while its fault is active, and then the same call again without the fault.
It shows how many requests the first attempt made and how it ended, how the second attempt ended, and how many jobs the
server charged in all.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from PIL import Image

from flux_tasks import background, catalog
from flux_tasks.api.webhooks import WebhookForged, verify_webhook
from flux_tasks.errors import FluxError
from flux_tasks.jobs import endpoint, job
from flux_tasks.jobs.call import prepare
from flux_tasks.jobs.result import JobResult
from flux_tasks.local.server import LocalServer
from flux_tasks.settings import Settings


@dataclass(frozen=True)
class Row:
    """One line of the table: a name, and the faults that are active.

    Attributes:
        webhook: whether the call asks for a webhook; then webhooks are counted.
        settings: settings of the call that differ from the usual ones.
    """

    name: str
    faults: tuple[Mapping[str, Any], ...]
    webhook: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of a row.

    Attributes:
        outcome: of the first attempt: ``done``, or the class of its error.
        message: the error message, or the warnings of a call that was done.
        submissions, polls, fetches: requests that the server received in the first attempt.
        again: outcome of the second attempt, without faults.
        charges: jobs charged in both attempts.
        credits: credits charged for them.
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


def _row(name: str, *faults: Mapping[str, Any], webhook: bool = False, **settings: Any) -> Row:
    return Row(name, faults, webhook, settings)


_PATIENCE = 60.0  # seconds for what no fault delays: a busy machine is slow
_HTTP_DATE = "Wed, 21 Oct 2015 07:28:00 GMT"

ROWS: tuple[Row, ...] = (
    _row("no fault"),
    _row("submit: 400", {"fault": "submit.answer", "status": 400, "detail": "bad parameters"}),
    _row("submit: 401", {"fault": "submit.answer", "status": 401, "detail": "Unauthorized"}),
    _row("submit: 402", {"fault": "submit.answer", "status": 402, "detail": "Insufficient credits"}),
    _row("submit: 403", {"fault": "submit.answer", "status": 403, "detail": "Not authenticated"}),
    _row(
        "submit: 422 with a list",
        {
            "fault": "submit.answer",
            "status": 422,
            "detail": [{"loc": ["body", "seed"], "msg": "Input should be a valid integer", "type": "int_type"}],
        },
    ),
    _row("submit: 422 with a sentence", {"fault": "submit.answer", "status": 422, "detail": "canvas too large"}),
    _row("submit: 429", {"fault": "submit.answer", "status": 429}),
    _row(
        "submit: 429, Retry-After in seconds", {"fault": "submit.answer", "status": 429, "retry_after": 0.2, "count": 3}
    ),
    _row("submit: 429, Retry-After as a date", {"fault": "submit.answer", "status": 429, "retry_after": _HTTP_DATE}),
    _row(
        "submit: 429 without end",
        {"fault": "submit.answer", "status": 429, "retry_after": 5, "count": 99},
        deadline=14.0,
    ),
    _row("submit: 500, not charged", {"fault": "submit.answer", "status": 500}),
    _row("submit: 500, charged", {"fault": "submit.answer", "status": 500, "charged": True}),
    _row("submit: 503, charged", {"fault": "submit.answer", "status": 503, "charged": True, "retry_after": 1}),
    _row("submit: redirected", {"fault": "submit.answer", "status": 307}),
    _row("submit: cut, not charged", {"fault": "submit.cut", "charged": False}),
    _row("submit: cut, charged", {"fault": "submit.cut"}),
    _row("submit: cut within the answer, charged", {"fault": "submit.cut", "sent": 120}),
    _row("submit: answer too slow", {"fault": "submit.slow", "seconds": 30}, timeout=3.0),
    _row("submit: answer drips too slowly", {"fault": "submit.drip", "seconds": 30}, timeout=3.0),
    _row("submit: answer drips", {"fault": "submit.drip", "seconds": 0.3}),
    _row("submit: no id", {"fault": "submit.no_id"}),
    _row("submit: no polling_url", {"fault": "submit.no_polling_url"}),
    _row("submit: polling_url on a foreign host", {"fault": "submit.foreign_polling_url"}),
    _row("job: request moderated", {"fault": "job.moderated", "stage": "request", "reasons": ["Violence"]}),
    _row("job: content moderated", {"fault": "job.moderated", "stage": "content"}),
    _row("job: moderated, HTTP 422", {"fault": "job.moderated"}, {"fault": "poll.code", "status": 422, "times": 0}),
    _row("job: Error", {"fault": "job.error"}),
    _row("job: Error, HTTP 503", {"fault": "job.error"}, {"fault": "poll.code", "status": 503, "times": 0}),
    _row("job: Error, its reason beside the status", {"fault": "job.error", "error": "out of luck"}),
    _row("job: Failed", {"fault": "job.error", "says": "Failed", "details": {}}),
    _row("job: never ends", {"fault": "job.never_ends"}, deadline=0.5),
    _row("job: picture of another size", {"fault": "job.wrong_size", "scale": 0.5}),
    _row("job: one solid colour", {"fault": "job.solid"}),
    _row("poll: 404 on the first polls", {"fault": "poll.unknown", "times": 3}),
    _row("poll: 404 for good", {"fault": "poll.unknown", "times": 0}),
    _row(
        "poll: 404 with detail and status_code",
        {"fault": "poll.answer", "status": 404, "detail": "Task not found", "times": 0},
    ),
    _row("poll: 410 with detail and status_code", {"fault": "poll.answer", "status": 410, "times": 0}),
    _row("poll: redirected to itself", {"fault": "poll.redirect", "to": "same"}),
    _row("poll: redirected in a loop", {"fault": "poll.redirect", "to": "same", "times": 0}),
    _row("poll: redirected to another host", {"fault": "poll.redirect", "to": "foreign"}),
    _row("poll: redirected elsewhere for good", {"fault": "poll.redirect", "times": 0}),
    _row("poll: redirected into a private network", {"fault": "poll.redirect", "to": "private"}),
    _row("poll: 429", {"fault": "poll.answer", "status": 429, "retry_after": 0.1, "times": 2}),
    _row("poll: 500", {"fault": "poll.answer", "status": 500, "times": 3}),
    _row("poll: 500 for good", {"fault": "poll.answer", "status": 500, "times": 0}, deadline=0.7),
    _row("poll: 403", {"fault": "poll.answer", "status": 403}),
    _row("poll: Ready under HTTP 500", {"fault": "poll.code", "status": 500, "times": 0}),
    _row("poll: Processing", {"fault": "poll.status", "says": "Processing", "times": 3}),
    _row("poll: a status nobody knows", {"fault": "poll.status", "says": "Contemplating", "times": 3}),
    _row("poll: Ready without a result", {"fault": "poll.no_sample", "times": 2}),
    _row("poll: cut", {"fault": "poll.cut", "times": 2}),
    _row("poll: cut within the answer", {"fault": "poll.cut", "sent": 100, "times": 2}),
    _row("poll: too slow", {"fault": "poll.slow", "seconds": 30}, timeout=3.0),
    _row("poll: drips too slowly", {"fault": "poll.drip", "seconds": 30}, timeout=3.0),
    _row("delivery: 500", {"fault": "delivery.answer", "status": 500}),
    _row("delivery: 500 for good", {"fault": "delivery.answer", "status": 500, "times": 0}),
    _row("delivery: expired", {"fault": "delivery.expired"}),
    _row("delivery: cut", {"fault": "delivery.cut"}),
    _row("delivery: truncated", {"fault": "delivery.truncated"}),
    _row("delivery: empty", {"fault": "delivery.truncated", "share": 0}),
    _row("delivery: garbage", {"fault": "delivery.garbage"}),
    _row("delivery: garbage for good", {"fault": "delivery.garbage", "times": 0}),
    _row("delivery: oversized", {"fault": "delivery.oversized", "megabytes": 80}),
    _row("delivery: redirected to another host", {"fault": "delivery.redirect", "to": "foreign"}),
    _row("delivery: redirected to itself", {"fault": "delivery.redirect", "to": "same"}),
    _row("delivery: redirected in a loop", {"fault": "delivery.redirect", "to": "same", "times": 0}),
    *(
        _row(f"delivery: redirected, {to}", {"fault": "delivery.redirect", "to": to, "times": 0})
        for to in ("http", "private", "link-local", "mapped", "decimal")
    ),
    _row("delivery: too slow", {"fault": "delivery.slow", "seconds": 30}, timeout=3.0),
    _row("delivery: drips too slowly", {"fault": "delivery.drip", "seconds": 60}, timeout=3.0),
    _row("webhook: no fault", webhook=True),
    _row("webhook: twice", {"fault": "webhook.duplicate"}, webhook=True),
    _row("webhook: forged, then genuine", {"fault": "webhook.forged"}, webhook=True),
    _row("webhook: lost", {"fault": "webhook.lost"}, webhook=True),
)
"""Every kind of fault at least once."""


class _Receiver:
    """Receives webhooks on loopback and counts the jobs whose webhook carries the secret."""

    SECRET = "the receiver's secret"  # noqa: S105 - lives as long as the measurement

    def __init__(self) -> None:
        self.all = 0
        self.genuine: set[str] = set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.all += 1
                try:
                    receiver.genuine.add(verify_webhook(dict(self.headers), body, receiver.SECRET)["id"])
                    self.send_response(204)
                except WebhookForged:
                    self.send_response(403)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its signature
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def measure(row: Row) -> Measured:
    """Make the call of ``row`` twice: with its faults, and without."""
    tool = catalog.TOOLS["deblur-v1"]
    receiver = _Receiver() if row.webhook else None
    with (
        tempfile.TemporaryDirectory(prefix="flux-faults-") as store,
        LocalServer(
            key="the-key", faults=[dict(f) if "count" in f else {**f, "count": 1} for f in row.faults]
        ) as server,
    ):
        given = {"timeout": _PATIENCE, "deadline": _PATIENCE, "poll_interval": 0.02, **row.settings}
        settings = Settings(endpoint=server.url, key="the-key", store=store, **given)
        parameters: dict[str, Any] = {"image": Image.linear_gradient("L").resize((96, 80)).convert("RGB")}
        if receiver is not None:
            parameters |= {"webhook_url": receiver.url, "webhook_secret": receiver.SECRET}
        call = prepare(tool, parameters)
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
            server.stop()  # it sends every webhook before it ends
            if receiver is not None:
                receiver.close()
        charges = server.charges
    return Measured(
        outcome=outcome,
        message=message,
        submissions=requests.get("submit", 0),
        polls=requests.get("poll", 0),
        fetches=requests.get("fetch", 0),
        again=again,
        charges=len(charges),
        credits=sum(entry.settled or 0.0 for entry in charges.entries),
        webhooks=(len(receiver.genuine), receiver.all) if receiver is not None else (0, 0),
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


def measure_all(rows: Sequence[Row] = ROWS, *, at_once: int = 8) -> Iterator[tuple[Row, Measured]]:
    """Measure each row, ``at_once`` of them at a time, and yield them in order."""
    with ThreadPoolExecutor(at_once) as pool:
        yield from zip(rows, pool.map(measure, rows), strict=True)


def lines(rows: Sequence[Row] = ROWS) -> Iterator[str]:
    """Yield the lines of the table, each as soon as it is measured."""
    head = ("fault", "first attempt", "POST", "poll", "GET", "the same call again", "jobs charged")
    widths = (38, 20, 4, 4, 3, 19, 12)
    yield "  ".join(f"{word:<{width}}" for word, width in zip(head, widths, strict=True)) + "  message"
    for row, m in measure_all(rows):
        message = f"{m.webhooks[0]} genuine of {m.webhooks[1]} webhooks" if row.webhook else m.message
        cells = (row.name, m.outcome, m.submissions, m.polls, m.fetches, m.again, m.charges)
        line = "  ".join(f"{cell!s:<{width}}" for cell, width in zip(cells, widths, strict=True))
        yield f"{line}  {message}".rstrip()
