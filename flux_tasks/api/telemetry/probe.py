"""Spans and metrics, by the API of OpenTelemetry alone: whoever has set up its SDK gets them.

Off, all of it costs is a look at ``probe``, which is None then. Names follow the semantic conventions where these have
one (HTTP client spans; ``gen_ai``, with the operation ``generate_content`` and the output type ``image``); the others
begin with ``flux.``. No metric has a label that grows with the items: no path, no id, no name of an item.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from flux_tasks.errors import FluxError, ItemError

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter
    from opentelemetry.trace import Span, Tracer

__all__ = ["OFF", "SCOPE", "Load", "Probe", "look", "probe", "switch", "watch"]

SCOPE = "flux_pipelines"
"""The name of the instrumentation."""

OFF: AbstractContextManager[Any] = nullcontext()
"""What a block is in while nothing is measured."""

Phase: TypeAlias = Literal["submit", "poll", "download", "account"]
Load: TypeAlias = tuple[str, int, int]
"""An endpoint's address, the jobs that hold a slot there, and those that wait for one."""

_OPERATION = {
    "gen_ai.operation.name": "generate_content",
    "gen_ai.provider.name": "black_forest_labs",
    "gen_ai.output.type": "image",
}
_SECONDS = (0.5, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 300)
_watched: list[Callable[[], Iterable[Load]]] = []


class Probe:
    """The instruments of this program."""

    def __init__(self, tracer: Tracer, meter: Meter) -> None:
        from opentelemetry.metrics import CallbackOptions, Observation

        self._tracer = tracer

        def active(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(jobs, {"server.address": host}) for host, jobs, _ in _loads()]

        def waiting(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(jobs, {"server.address": host}) for host, _, jobs in _loads()]

        what = "Jobs that are submitted and have not ended"
        meter.create_observable_up_down_counter("flux.jobs.active", [active], "{job}", what)
        what = "Jobs that wait for a slot of the account"
        meter.create_observable_up_down_counter("flux.jobs.waiting", [waiting], "{job}", what)
        self._jobs = meter.create_counter("flux.jobs", "{job}", "Calls of a tool that have ended, by outcome")
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "From the submission of a job to its last byte",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._credits = meter.create_counter("flux.credits", "{credit}", "Credits charged (1 credit is 0.01 USD)")
        self._hits = meter.create_counter("flux.store.hits", "{job}", "Calls that the store has answered")
        self._throttled = meter.create_counter("flux.throttled", "{request}", "Submissions answered with 429")
        self._retries = meter.create_counter("flux.retries", "{request}", "Requests made again after a failure")
        self._items = meter.create_counter("flux.items", "{item}", "Items that have ended, by outcome")

    # -- spans ----------------------------------------------------------------------------------------------------

    @contextmanager
    def span(self, name: str, *, is_client: bool = False, **attributes: Any) -> Iterator[Span]:
        """Measure a block; what it raises makes the span an error.

        Args:
            attributes: with ``__`` for each dot of their names; None is left out.
        """
        from opentelemetry.trace import SpanKind, Status, StatusCode

        kind = SpanKind.CLIENT if is_client else SpanKind.INTERNAL
        given = {key.replace("__", "."): value for key, value in attributes.items() if value is not None}
        with self._tracer.start_as_current_span(
            name, kind=kind, attributes=given, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield span
            except BaseException as error:
                span.set_attribute("error.type", type(error).__qualname__)
                span.set_status(Status(StatusCode.ERROR, str(error) if isinstance(error, FluxError) else None))
                raise

    @contextmanager
    def part(self, kind: str, name: str, **attributes: Any) -> Iterator[Callable[..., None]]:
        """Measure a run, an item or a step; yields what is told its end: outcome, problem, further attributes."""
        from opentelemetry.trace import StatusCode

        with self.span(f"{kind} {name}" if kind != "item" else kind, **{f"flux__{kind}": name, **attributes}) as span:

            def ended(outcome: str, problem: str = "", **further: Any) -> None:
                span.set_attribute("flux.outcome", outcome)
                span.set_attributes({key.replace("__", "."): value for key, value in further.items()})
                if problem:
                    span.set_attribute("error.type", outcome)
                    span.set_status(StatusCode.ERROR, problem)

            yield ended

    def job(self, tool: str, address: str) -> AbstractContextManager[Span]:
        """Measure a paid call, from its key to its stored result."""
        attributes = {**_OPERATION, "gen_ai.request.model": tool, "server.address": _host(address)}
        return self.span(f"generate_content {tool}", is_client=True, **attributes)

    @contextmanager
    def request(self, method: str, url: str, phase: Phase) -> Iterator[Callable[[int], None]]:
        """Measure a request; yields what is told the status of the answer. The query of an address may be a secret."""
        parts = urlsplit(url)
        is_fixed = phase in ("submit", "account") or parts.path.endswith("/get_result")  # else it may have an id in it
        template = parts.path if is_fixed else None
        attributes = {
            "http.request.method": method,
            "url.full": f"{parts.scheme}://{_host(url)}{f':{parts.port}' if parts.port else ''}{parts.path}",
            "url.template": template,
            "server.address": _host(url),
            "server.port": parts.port or (443 if parts.scheme == "https" else 80),
            "flux.phase": phase,
        }
        with self.span(f"{method} {template}" if template else method, is_client=True, **attributes) as span:

            def answered(status: int) -> None:
                span.set_attribute("http.response.status_code", status)
                if status >= 400:
                    from opentelemetry.trace import StatusCode

                    span.set_attribute("error.type", str(status))
                    span.set_status(StatusCode.ERROR)

            yield answered

    # -- metrics --------------------------------------------------------------------------------------------------

    def job_ended(self, tool: str, outcome: str) -> None:
        """Count a call of a tool that gave a result: ``done``, ``collected``, ``cached`` or ``unchanged``."""
        self._jobs.add(1, {"gen_ai.request.model": tool, "flux.outcome": outcome})

    def job_failed(self, tool: str, error: BaseException) -> None:
        """Count a call of a tool that gave none."""
        kind = type(error).__name__
        outcome = "failed" if isinstance(error, ItemError) else "stopped"
        self._jobs.add(1, {"gen_ai.request.model": tool, "flux.outcome": outcome, "error.type": kind})

    def job_paid(self, tool: str, address: str, seconds: float | None, credits: float | None) -> None:
        """Count what a job has cost, and how long it took, as far as these are known."""
        if seconds is not None:
            about = {**_OPERATION, "gen_ai.request.model": tool, "server.address": _host(address)}
            self._duration.record(seconds, about)
        if credits:
            self._credits.add(credits, {"gen_ai.request.model": tool})

    def hit(self, tool: str) -> None:
        """Count a call that the store has answered."""
        self._hits.add(1, {"gen_ai.request.model": tool})

    def throttled(self, tool: str) -> None:
        """Count a submission that was answered with 429."""
        self._throttled.add(1, {"gen_ai.request.model": tool})

    def retried(self, phase: Phase) -> None:
        """Count a request that is made again, because it has failed."""
        self._retries.add(1, {"flux.phase": phase})

    def item_ended(self, outcome: str) -> None:
        """Count an item that has ended."""
        self._items.add(1, {"flux.outcome": outcome})


probe: Probe | None = None
"""What measures, or None; look it up in this module each time."""


def switch(measures: Probe | None) -> None:
    """Let ``measures`` measure from now on; None: nothing is measured."""
    global probe
    probe = measures


def look() -> None:
    """Measure from now on if the program has set up an SDK of OpenTelemetry. Nothing is imported where it has not."""
    if probe is not None or not {"opentelemetry.trace", "opentelemetry.metrics"} & sys.modules.keys():
        return
    from opentelemetry import metrics, trace

    providers = trace.get_tracer_provider(), metrics.get_meter_provider()
    if not all(type(provider).__module__.startswith("opentelemetry.") and _is_idle(provider) for provider in providers):
        switch(Probe(trace.get_tracer(SCOPE), metrics.get_meter(SCOPE)))


def _is_idle(provider: object) -> bool:
    """Check whether a provider is one of the API itself, which keeps nothing."""
    return type(provider).__module__.split(".")[1] != "sdk"


def watch(loads: Callable[[], Iterable[Load]]) -> None:
    """Ask ``loads``, on any thread, whenever somebody looks at the metrics."""
    _watched.append(loads)


def _loads() -> list[Load]:
    sums: dict[str, list[int]] = {}
    for loads in _watched:
        for address, active, waiting in loads():
            found = sums.setdefault(_host(address), [0, 0])
            found[0] += active
            found[1] += waiting
    return [(host, active, waiting) for host, (active, waiting) in sums.items()]


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or "local"
    except ValueError:
        return "unknown"
