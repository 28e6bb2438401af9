"""The FLUX tools of Black Forest Labs as Prefect tasks that never pay twice.

::

    from flux_tasks import deblur, erase, fill, outpaint

Importing this package imports neither Prefect nor a cloud library, and nor does a call that Prefect does not record. It
tells Prefect's embedded server, which a flow of your own may start, to take its time and to report to nobody.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from flux_tasks.errors import (
    BudgetReached,
    CheckFailed,
    DatasetBusy,
    DeliveryFailed,
    EndpointUnreachable,
    FluxError,
    Interrupted,
    InvalidImage,
    InvalidRequest,
    ItemError,
    ItemsFailed,
    JobFailed,
    JobLost,
    KeyRefused,
    Moderated,
    OutOfCredits,
    Problem,
    RateLimited,
    RecipeError,
    RunStopped,
    ServerUnavailable,
    StillRunning,
    StoreUnavailable,
    SubmissionUncertain,
    Transient,
)
from flux_tasks.files import blocks
from flux_tasks.settings import Settings, use

if TYPE_CHECKING:
    from flux_tasks.api.client import BflClient
    from flux_tasks.api.webhooks import WebhookForged, verify_webhook
    from flux_tasks.images.masks import Mask
    from flux_tasks.images.reference import ImageRef
    from flux_tasks.store.records import Store
    from flux_tasks.tasks import (
        adeblur,
        aedit,
        aerase,
        aexpand,
        afill,
        afill_finetuned,
        agenerate,
        aoutpaint,
        atry_on,
        deblur,
        edit,
        erase,
        expand,
        fill,
        fill_finetuned,
        generate,
        outpaint,
        try_on,
    )

__all__ = [
    "BflClient",
    "Box",
    "BudgetReached",
    "CheckFailed",
    "DatasetBusy",
    "DeliveryFailed",
    "EndpointUnreachable",
    "FluxError",
    "ImageRef",
    "Interrupted",
    "InvalidImage",
    "InvalidRequest",
    "ItemError",
    "ItemsFailed",
    "JobFailed",
    "JobLost",
    "KeyRefused",
    "Mask",
    "Moderated",
    "OutOfCredits",
    "Problem",
    "RateLimited",
    "RecipeError",
    "RunStopped",
    "ServerUnavailable",
    "Settings",
    "StillRunning",
    "Store",
    "StoreUnavailable",
    "SubmissionUncertain",
    "Transient",
    "WebhookForged",
    "adeblur",
    "aedit",
    "aerase",
    "aexpand",
    "afill",
    "afill_finetuned",
    "agenerate",
    "aoutpaint",
    "atry_on",
    "deblur",
    "edit",
    "erase",
    "expand",
    "fill",
    "fill_finetuned",
    "generate",
    "outpaint",
    "try_on",
    "use",
    "verify_webhook",
]


_HOMES = {
    "BflClient": "api.client",
    "Box": "catalog.boxes",
    "ImageRef": "images",
    "Mask": "images.masks",
    "Store": "store",
    "WebhookForged": "api.webhooks",
    "verify_webhook": "api.webhooks",
}


_PREFECT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",  # 20 s are too few for a new database on a busy machine
}
if not _PREFECT.keys() <= os.environ.keys():
    os.environ.update({name: os.environ.get(name, value) for name, value in _PREFECT.items()})
    if "prefect.context" in sys.modules:  # it has read its settings already
        # Not from sys.modules: the import waits for another thread that is at it.
        import_module("prefect.context").refresh_global_settings_context()


def _load_block(slug: str, name: str) -> blocks.Block:
    """Ask Prefect for a storage block: only ``tasks`` knows Prefect, and it is imported when a block is used."""
    return import_module("flux_tasks.tasks.storage_blocks").load(slug, name)  # type: ignore[no-any-return]


blocks.set_loader(_load_block)


def __getattr__(name: str) -> Any:
    """Import a name when it is first asked for."""
    if name in __all__:
        return getattr(import_module(f"flux_tasks.{_HOMES.get(name, 'tasks')}"), name)
    raise AttributeError(f"module 'flux_tasks' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
