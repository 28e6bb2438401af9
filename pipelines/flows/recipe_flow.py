"""A recipe run as a Prefect flow: one task run for each paid call."""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import replace
from itertools import islice
from typing import Any
from uuid import UUID

from prefect import flow, flow_engine, get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.events.worker import EventsWorker
from prefect.exceptions import FailedRun
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelled
from prefect.utilities.urls import url_for

from flux_tasks import ImageRef, tasks, use
from flux_tasks.errors import FluxError, RunStopped
from flux_tasks.jobs.result import JobOutcome, JobResult
from flux_tasks.tasks.embedded import EmbeddedServer, arecorded, startup_seconds
from flux_tasks.tasks.prefect_task import collect_results
from pipelines.flows.publishing import end_of, published
from pipelines.run.context import Event, EventKind
from pipelines.run.run import Run

_log = logging.getLogger("flux_tasks.flows")


async def call_task(task: str, arguments: dict[str, Any]) -> JobResult:
    """Return the result of one paid call, made as a Prefect task run: the ``CallTool`` of a run."""
    with collect_results() as results:
        image: ImageRef = await getattr(tasks, f"a{task}")(**arguments)
    _forget_links()
    if not results:  # Prefect has found the result in the store, and has not run the task
        return JobResult(image, "", JobOutcome.CACHED, image.cost, job_id=image.job_id)
    return replace(results[-1], image=image)


MOST_LINKS = 10_000
"""Objects of which a flow run knows which task run they are from: some 15 for each, 300 B each."""


def _forget_links() -> None:
    """Forget where the oldest results are from; Prefect keeps that of every task run until the flow run ends."""
    context = FlowRunContext.get()
    if context is not None and len(context.run_results) > MOST_LINKS:
        for key in list(islice(context.run_results, MOST_LINKS // 2)):
            del context.run_results[key]


_current_run: ContextVar[Run | None] = ContextVar("run", default=None)
_is_over: ContextVar[asyncio.Event] = ContextVar("is_over")

LAST_WORDS = 10.0
"""Seconds that Prefect has for the end of a flow run when all items are finished."""


NAME = "run-recipe"
"""What Prefect calls the flow of every recipe."""


@flow(name=NAME, flow_run_name="{recipe}", validate_parameters=False)
async def _advance(recipe: str, endpoint: str) -> dict[str, int] | State[Any]:
    run = _current_run.get()
    assert run is not None, f"{recipe} on {endpoint} was started without its run"  # noqa: S101
    context = FlowRunContext.get()
    if context and context.flow_run and run.settings.prefect != "embedded":
        _open.append(context.flow_run.id)
    if context and context.flow_run and run.settings.prefect != "embedded" and PREFECT_API_URL.value():
        address = url_for("flow-run", obj_id=context.flow_run.id)
        run.context.emit(Event(EventKind.WARNING, text=f"recorded in Prefect: {address}"))
    async with published(run):
        await run.run_remaining(call_task)
        run.summary.stopped = str(run.stopped or "")
        _is_over.get().set()
    _open.clear()
    return end_of(run.summary)


_open: list[UUID] = []
"""The flow run of this process that has not come to its end."""


def cancel_flow_runs(reason: str, patience: float) -> None:
    """Tell the server that flow runs end now, because this process ends; for so many seconds at most."""

    def tell() -> None:
        with suppress(Exception), get_client(sync_client=True, httpx_settings={"timeout": patience}) as client:
            for number in _open:
                client.set_flow_run_state(number, Cancelled(message=reason), force=True)

    telling = threading.Thread(target=tell, daemon=True)
    telling.start()
    telling.join(patience)


async def advance(run: Run) -> None:
    """Finish a run as a Prefect flow: one task run for each paid call, and none for anything else.

    The flow run ends as Failed when items did not end well or the run was stopped; its message says which.

    The run itself is not a parameter of the flow, because Prefect stores those: they are the recipe's name and the
    endpoint, never a key.

    Raises:
        RunStopped: Prefect itself failed, for example because its server cannot be reached.
    """
    token, over = _current_run.set(run), asyncio.Event()
    _is_over.set(over)
    _shorten_dumps()
    name = " ".join(filter(None, (run.recipe.name, str(run.context.shard or ""))))
    try:
        with use(run.settings), _own_sigterm():
            await _with_last_words(asyncio.ensure_future(_advance(name, run.settings.endpoint)), over)
    except FluxError:
        raise
    except FailedRun:
        pass  # the flow run's state, for those who watch Prefect; the caller looks at the run
    except Exception as error:
        if over.is_set():  # what became of the items is known, whatever became of the flow run
            _mute(f"{type(error).__name__}: {error}")
            return
        what = f"Prefect failed: {type(error).__name__}: {error}"
        raise RunStopped(f"{what.rstrip('.')}. {_remedy()}") from error
    finally:
        _current_run.reset(token)


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Leave SIGTERM to the program, if that handles it: Prefect's handler would break off whatever runs just then."""
    handler = signal.getsignal(signal.SIGTERM)
    if not callable(handler) or getattr(handler, "__module__", "").startswith("prefect"):
        yield
        return
    engine: Any = flow_engine
    capture, engine.capture_sigterm = engine.capture_sigterm, nullcontext
    try:
        yield
    finally:
        engine.capture_sigterm = capture


async def _with_last_words(flow_run: asyncio.Future[Any], over: asyncio.Event) -> None:
    """Wait for a flow run, but not for ever when its items are finished."""
    waiting = asyncio.ensure_future(over.wait())
    try:
        await asyncio.wait({flow_run, waiting}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({flow_run}, timeout=LAST_WORDS if over.is_set() else None)
    except asyncio.CancelledError:
        flow_run.cancel()
        await asyncio.wait({flow_run})
        raise
    finally:
        waiting.cancel()
    if not flow_run.done():
        _mute("no answer")
        flow_run.add_done_callback(lambda late: late.cancelled() or late.exception())  # told already
        flow_run.cancel()
        await asyncio.wait({flow_run}, timeout=LAST_WORDS)
    else:
        await flow_run


@functools.cache
def _shorten_dumps() -> None:
    """Say once, in a line, that the server takes no events, where Prefect prints each of them with all it holds."""

    @functools.cache
    def tell() -> None:
        _log.warning("Prefect's server does not take all it is sent: it may not show every task run of this run")

    def is_to_be_shown(record: logging.LogRecord) -> bool:
        is_dump = str(record.msg).startswith("Service %r failed")
        if is_dump:
            tell()
        return not is_dump

    logging.getLogger("prefect._internal.concurrency").addFilter(is_to_be_shown)


def _mute(reason: str) -> None:
    """Say once that Prefect's server is gone; Prefect's loggers say nothing more, and its workers send nothing more."""
    names = [name for name in logging.Logger.manager.loggerDict if name.partition(".")[0] == "prefect"]
    for name in ("prefect", *names):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    line = next(iter(reason.splitlines()), "")[:200]
    _log.warning("Prefect's server did not take the end of the flow run (%s); the items are as told here", line)
    workers: tuple[Any, ...] = (APILogWorker, EventsWorker)
    for service in [one for worker in workers for one in worker._instances.values()]:
        # Else the program's end waits for seconds for each event.
        if service._loop is not None and service._task is not None:
            service._loop.call_soon_threadsafe(service._task.cancel)


async def advance_on(server: EmbeddedServer, run: Run) -> None:
    """Finish a run as a flow on an embedded server, and send that what Prefect has not sent yet.

    Raises:
        RunStopped: the server did not start, or Prefect failed.
    """
    _log.warning("waiting for Prefect's embedded server to start, %s s at most …", startup_seconds())
    async with arecorded(server):
        await advance(run)
        for worker in (APILogWorker, EventsWorker):
            await worker.drain_all(timeout=LAST_WORDS, at_exit=False)  # type: ignore[misc]  # awaitable in async code


def _remedy() -> str:
    if address := PREFECT_API_URL.value():
        start = f"Check that a Prefect server answers at {address} (PREFECT_API_URL)"
    else:
        start = "Start a Prefect server with `prefect server start`, and set PREFECT_API_URL to its address"
    return f"{start}, then run the recipe again; or run it with --prefect off, which records it nowhere"
