"""How a tool becomes a Prefect task: signature, cache key, results, retries, names.

A repeated call ends in Prefect's ``Cached`` state, because ``JobResults`` shows the store's own records to Prefect as
result records. The job itself writes them, before it removes its journal entry, so nothing depends on Prefect's commit.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from typing import Any
from uuid import UUID

from PIL import Image
from prefect import Task, get_run_logger
from prefect.cache_policies import CachePolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import MissingContextError
from prefect.filesystems import WritableFileSystem
from prefect.results import ResultRecord, ResultRecordMetadata  # type: ignore[attr-defined]  # documented there
from prefect.serializers import JSONSerializer

from flux_tasks import background, files, settings
from flux_tasks.api.client import is_free_to_repeat
from flux_tasks.catalog import signatures
from flux_tasks.errors import FluxError
from flux_tasks.images.reference import ImageRef
from flux_tasks.jobs import job
from flux_tasks.jobs.call import Call
from flux_tasks.jobs.endpoint import engine_of
from flux_tasks.jobs.result import JobResult
from flux_tasks.store.records import Store
from flux_tasks.tasks.direct import DELAYS, JITTER, call_of, check_arguments


def _keep_from_server(record: logging.LogRecord) -> bool:
    """Mark a line that belongs to no run: Prefect drops it, and warns of that after each task outside a flow."""
    has_run = TaskRunContext.get() or FlowRunContext.get() or getattr(record, "flow_run_id", None)
    record.send_to_api = getattr(record, "send_to_api", True) and bool(has_run)
    return True


logging.getLogger("prefect.task_runs").addFilter(_keep_from_server)


class JobKeyPolicy(CachePolicy):
    """Caches by job key (see ``flux_tasks.jobs.identity``); not by paths or run."""

    def __init__(self, task: str) -> None:
        self._task = task

    def compute_key(
        self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **_: Any
    ) -> str | None:
        """Return the job key, or None if there is none (bad input, which the task itself then reports)."""
        try:
            call = call_of(self._task, inputs)
            _prepared[task_ctx.task_run.id] = call
            while len(_prepared) > _MOST_PREPARED:  # calls that the cache has answered are never taken out
                _prepared.pop(next(iter(_prepared)), None)
            return call.key(background.run(engine_of(settings.current())))
        except FluxError:
            return None


_MOST_PREPARED = 64
_prepared: dict[UUID, Call] = {}
"""Calls between the computation of their key and their execution, so that images are read once.

A module global, because Prefect passes nothing on from a cache policy to the task but the key.
"""


_collected: ContextVar[list[JobResult] | None] = ContextVar("collected", default=None)


@contextmanager
def collect_results() -> Iterator[list[JobResult]]:
    """Collect the ``JobResult`` of each task awaited in the block; one that Prefect answers from its cache has none."""
    results: list[JobResult] = []
    token = _collected.set(results)
    try:
        yield results
    finally:
        _collected.reset(token)


class JobResults(WritableFileSystem):
    """Shows the store's result records to Prefect as its own; not those whose blob has gone."""

    _block_type_name = "Flux job results"
    _block_type_slug = "flux-job-results"

    def _resolve_path(self, path: str) -> None:
        """Use keys as they are."""

    def read_path(self, path: str, _sync: bool = True) -> bytes:  # type: ignore[override]  # Prefect calls it so
        key = path.rsplit("/", 1)[-1]
        record = Store(settings.current().store).result(key)
        if record is None:
            raise FileNotFoundError(key)
        metadata = ResultRecordMetadata(serializer=JSONSerializer(), storage_key=key)
        shown: ResultRecord[ImageRef] = ResultRecord(result=record["image"], metadata=metadata)
        return shown.serialize()

    def write_path(self, path: str, content: bytes, _sync: bool = True) -> None:  # type: ignore[override]
        """Write nothing: the job has written its own record, and failures are not results."""

    async def aread_path(self, path: str) -> bytes:
        return await asyncio.to_thread(self.read_path, path)

    async def awrite_path(self, path: str, content: bytes) -> None:
        """See ``write_path``."""


class FluxTask(Task[..., Any]):
    """A Prefect task for a FLUX tool; checks its arguments first. ``with_options`` keeps its results in the store."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        check_arguments(self._tool_task, args, kwargs)
        return super().__call__(*args, **kwargs)

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        check_arguments(self._tool_task, args, kwargs)
        return super().submit(*args, **kwargs)

    def map(self, *args: Any, **kwargs: Any) -> Any:
        check_arguments(self._tool_task, args, kwargs)
        return super().map(*args, **kwargs)

    @property
    def _tool_task(self) -> str:
        return self.fn.__name__.removeprefix("a") if self.isasync else self.fn.__name__

    def with_options(self, *args: Any, **options: Any) -> "FluxTask":
        base = copy(self)
        base.result_storage = None  # Prefect's constructor takes saved blocks only, and this one needs no server
        task: FluxTask = Task.with_options(base, *args, **options)  # type: ignore[assignment]
        task.__class__ = FluxTask
        if task.result_storage is None:
            task.result_storage = JobResults()
        return task


def make_task(name: str, *, asynchronous: bool) -> FluxTask:
    """Return the task called ``name`` in its sync or async form (whose name begins with ``a``)."""
    signature = signatures.signature(name)

    def perform(*args: Any, **kwargs: Any) -> ImageRef:
        call = _take_prepared() or call_of(name, signature.bind(*args, **kwargs).arguments)
        return _shown(call, background.run(job.execute(call, settings.current(), refresh=_is_refresh())))

    async def aperform(*args: Any, **kwargs: Any) -> ImageRef:
        call = _take_prepared()
        if call is None:
            call = await asyncio.to_thread(call_of, name, signature.bind(*args, **kwargs).arguments)
        result = await background.arun(job.execute(call, settings.current(), refresh=_is_refresh()))
        return _shown(call, result)

    function: Callable[..., Any] = aperform if asynchronous else perform
    public = f"a{name}" if asynchronous else name
    function.__name__ = function.__qualname__ = public
    function.__module__ = "flux_tasks.tasks"
    function.__doc__ = signatures.docstring(name)
    function.__signature__ = signature  # type: ignore[attr-defined]
    task = FluxTask(
        function,
        name=public,
        task_run_name=_run_name(name),
        cache_policy=JobKeyPolicy(name),
        persist_result=True,
        result_serializer="json",
        cache_result_in_memory=False,
        retries=len(DELAYS),
        retry_delay_seconds=[*DELAYS],
        retry_jitter_factor=JITTER,
        retry_condition_fn=_is_worth_repeating,
    )
    task.result_storage = JobResults()
    return task


def _is_worth_repeating(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.data, FluxError) and is_free_to_repeat(state.data)


def _take_prepared() -> Call | None:
    context = TaskRunContext.get()
    return _prepared.pop(context.task_run.id, None) if context else None


def _is_refresh() -> bool:
    context = TaskRunContext.get()
    return bool(context and context.task.refresh_cache)


def _run_name(task: str) -> Callable[..., str]:
    def task_run_name(parameters: dict[str, Any]) -> str:
        source = next(iter(parameters.values()), "")
        if isinstance(source, ImageRef):
            shown = source.name
        elif isinstance(source, (str, os.PathLike)):
            text = os.fspath(source)
            shown = text[:40] if task == "generate" else files.stem(text) if files.is_location(text) else "image"
        else:
            shown = "image" if isinstance(source, (bytes, Image.Image)) else ""
        return f"{task} {shown}".strip()

    return task_run_name


def _shown(call: Call, result: JobResult) -> ImageRef:
    """Show tool, cost and job id in Prefect's UI, as tags and log of the task run, and return the image."""
    if (collected := _collected.get()) is not None:
        collected.append(result)
    context = TaskRunContext.get()
    paid = "cost unknown" if result.cost is None else f"{result.cost:g} credits"
    spent = "local preview" if result.image.is_preview else paid
    if context is not None:
        # Only now: for tags that a run has at its start, Prefect asks its server for a concurrency slot.
        cost = [spent] if result.cost is not None or result.image.is_preview else []
        job_id = [f"job {result.job_id}"] if result.job_id else []
        context.task_run.tags = sorted({*context.task_run.tags, call.tool.name, result.outcome, *cost, *job_id})
    try:
        logger = get_run_logger()
    except MissingContextError:
        return result.image
    logger.info("%s %s: %s, %s, job %s", call.tool.name, call.name, result.outcome, spent, result.job_id or "-")
    for warning in result.warnings:
        logger.warning("%s %s: %s", call.tool.name, call.name, warning)
    return result.image
