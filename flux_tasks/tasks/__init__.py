"""Every FLUX tool as a Prefect task, sync and async, made from the catalogue::

    from prefect import flow
    from flux_tasks import deblur, erase

    @flow
    def clean(photo: str, mask: str):
        return erase(deblur(photo), mask=mask)

They are ordinary Prefect tasks: call them, ``.submit`` them, ``.map`` them, change them ``with_options``, inside a flow
or outside. The types of their parameters are in ``__init__.pyi``.
"""

from flux_tasks import catalog
from flux_tasks.tasks.prefect_task import make_task

__all__ = [prefix + name for name in catalog.TASKS for prefix in ("", "a")]

globals().update({name: make_task(name, asynchronous=False) for name in catalog.TASKS})
globals().update({f"a{name}": make_task(name, asynchronous=True) for name in catalog.TASKS})
