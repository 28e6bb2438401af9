"""What ``flux_tasks.deblur`` and the others are: a Prefect task that is made, and Prefect imported, when it is needed.

A plain call where nothing records it needs no Prefect: the job is made at once, with the same checks and retries.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

from flux_tasks import settings
from flux_tasks.catalog import signatures
from flux_tasks.tasks import direct, recording

if TYPE_CHECKING:
    from flux_tasks.tasks.prefect_task import FluxTask


class ToolTask:
    """A tool as a task: the Prefect task itself in every respect but a plain call that nobody records.

    In a flow, with ``return_state``, and for each attribute (``submit``, ``map``, ``with_options`` …) it is Prefect's.
    """

    def __init__(self, tool_task: str, *, is_async: bool) -> None:
        name = f"a{tool_task}" if is_async else tool_task
        vars(self).update(_tool_task=tool_task, _is_async=is_async, __name__=name, __qualname__=name)
        vars(self)["__module__"] = "flux_tasks.tasks"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if recording.is_in_flow() or not kwargs.keys().isdisjoint(direct.OF_PREFECT):
            return self._prefect_task(*args, **kwargs)
        direct.check_arguments(self._tool_task, args, kwargs)
        choice = settings.current().prefect
        if choice == "embedded":
            return self._on_embedded_server(args, kwargs)
        if choice == "auto" and recording.is_server_configured():
            return self._prefect_task(*args, **kwargs)
        if choice == "auto":
            recording.tell_unrecorded()
        arguments = signatures.signature(self._tool_task).bind(*args, **kwargs).arguments
        return (direct.aperform if self._is_async else direct.perform)(self._tool_task, arguments)

    def _on_embedded_server(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        from flux_tasks.tasks.embedded import arecorded, recorded

        if not self._is_async:
            with recorded():
                return self._prefect_task(*args, **kwargs)

        async def call() -> Any:
            async with arecorded():
                return await self._prefect_task(*args, **kwargs)

        return call()

    @cached_property
    def _prefect_task(self) -> FluxTask:
        made: FluxTask = import_module("flux_tasks.tasks.prefect_task").make_task(
            self._tool_task, asynchronous=self._is_async
        )
        return made

    @property  # type: ignore[misc]  # ``isinstance`` only reads it
    def __class__(self) -> type:
        """Prefect's class where Prefect is imported, for ``isinstance``; nobody else can ask for it."""
        is_imported = hasattr(sys.modules.get("prefect.tasks"), "Task")  # not while another thread is at it
        return type(self._prefect_task) if is_imported else ToolTask

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        return signatures.docstring(self._tool_task)

    @property
    def __signature__(self) -> inspect.Signature:
        return signatures.signature(self._tool_task)

    def __getattr__(self, name: str) -> Any:
        if name[:1] == "_" != name[1:2] and "prefect" not in sys.modules:  # pytest asks everything for such names
            raise AttributeError(f"{self!r} has no attribute {name!r}")
        return getattr(self._prefect_task, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._prefect_task, name, value)

    def __get__(self, instance: Any, owner: Any) -> Any:
        return self if instance is None else self._prefect_task.__get__(instance, owner)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (import_module("flux_tasks.tasks"), self.__name__)

    def __repr__(self) -> str:
        return f"<flux_tasks.{self.__name__}>"
