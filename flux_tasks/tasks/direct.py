"""A paid call without Prefect, and what it shares with a Prefect task: arguments, checks, when it is repeated."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from typing import Any

from flux_tasks import background, catalog, settings
from flux_tasks.api.client import is_free_to_repeat
from flux_tasks.catalog import signatures
from flux_tasks.catalog.signatures import UNSET
from flux_tasks.errors import FluxError, InvalidRequest, Problem, nearest
from flux_tasks.images.reference import ImageRef
from flux_tasks.jobs import job
from flux_tasks.jobs.call import Call, check_content, prepare
from flux_tasks.jobs.context import CheckedArguments
from flux_tasks.jobs.result import JobResult

DELAYS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before a call that failed without charge is made again, by Prefect or without it."""

JITTER = 0.5
"""The part of a delay by which it may be longer, so that many calls are not repeated at one moment."""

OF_PREFECT = ("return_state", "wait_for", "deferred")
"""The arguments of a call that are for Prefect."""

_log = logging.getLogger("flux_tasks.tasks")


def check_arguments(task: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments that the task does not take, with the nearest name; those of Prefect itself are left to it.

    Raises:
        InvalidRequest: unknown, missing or too many arguments.
    """
    parameters = signatures.parameters(task)
    names = [p.name for p in parameters]
    problems = [
        Problem(f"{task}.{name}", f"{task} has no such parameter{nearest(name, names)}")
        for name in kwargs
        if name not in (*names, *OF_PREFECT)
    ]
    positional = [p.name for p in parameters if not p.keyword]
    if len(args) > len(positional):
        what = f"takes {len(positional)} arguments without a name ({', '.join(positional)}), and got {len(args)}"
        problems.append(Problem(task, what))
    given = {*positional[: len(args)], *kwargs}
    problems += [
        Problem(f"{task}.{p.name}", "is required: write a value for it")
        for p in parameters
        if p.required and p.name not in given
    ]
    if problems:
        raise InvalidRequest.of(problems)


def call_of(task: str, arguments: Mapping[str, Any], *, where: str = "") -> Call:
    """Return the checked call that ``task`` with ``arguments`` means; a parameter that is ``UNSET`` is not given.

    Raises:
        InvalidRequest: everything that is wrong, at once.
    """
    given = {name: value for name, value in arguments.items() if value is not UNSET}
    model = given.pop("model", None)
    tool = catalog.tool(task, model, where=where)
    fit, variant = given.pop("fit", "error"), given.pop("variant", 0)
    return check_content(prepare(tool, given, fit=fit, variant=variant, where=where or task), where or task)


async def call_task(task: str, arguments: dict[str, Any]) -> JobResult:
    """Return the result of one paid call: the ``CallTool`` of a run that Prefect does not record."""
    if isinstance(arguments, CheckedArguments):
        return await background.arun(_execute(arguments.call, settings.current(), is_looked_up=True))
    call = await asyncio.to_thread(call_of, task, arguments)
    return await background.arun(_execute(call, settings.current()))


def perform(task: str, arguments: Mapping[str, Any]) -> ImageRef:
    """Return the picture of one paid call; see ``aperform`` in async code."""
    call = call_of(task, arguments)
    return _told(call, background.run(_execute(call, settings.current())))


async def aperform(task: str, arguments: Mapping[str, Any]) -> ImageRef:
    """Return the picture of one paid call."""
    call = await asyncio.to_thread(call_of, task, arguments)
    return _told(call, await background.arun(_execute(call, settings.current())))


async def _execute(call: Call, chosen: settings.Settings, *, is_looked_up: bool = False) -> JobResult:
    for delay in DELAYS:
        try:
            return await job.execute(call, chosen, is_looked_up=is_looked_up)
        except FluxError as error:
            if not is_free_to_repeat(error):
                raise
            _log.info("%s %s: %s; it is tried again in about %g s", call.tool.name, call.name, error, delay)
        is_looked_up = False  # that was a while ago
        await asyncio.sleep(delay * random.uniform(1, 1 + JITTER))  # noqa: S311 - nothing secret
    return await job.execute(call, chosen)


def _told(call: Call, result: JobResult) -> ImageRef:
    for warning in result.warnings:
        _log.warning("%s %s: %s", call.tool.name, call.name, warning)
    return result.image
