"""Every FLUX tool as a Prefect task, sync and async, made from the catalogue::

    from prefect import flow
    from flux_tasks import deblur, erase

    @flow
    def clean(photo: str, mask: str):
        return erase(deblur(photo), mask=mask)

They are ordinary Prefect tasks: call them, ``.submit`` them, ``.map`` them, change them ``with_options``, inside a flow
or outside. A plain call outside a flow is recorded in Prefect only where a server is configured; else it needs no
Prefect, which is imported when it is first needed (see ``task`` and ``recording``). The types of their parameters are
in ``__init__.pyi``.
"""

from flux_tasks import catalog
from flux_tasks.tasks.task import ToolTask

__all__ = [prefix + name for name in catalog.TASKS for prefix in ("", "a")]

globals().update({name: ToolTask(name, is_async=False) for name in catalog.TASKS})
globals().update({f"a{name}": ToolTask(name, is_async=True) for name in catalog.TASKS})
