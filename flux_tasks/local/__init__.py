"""The BFL API, served from this machine: no key, no network, an engine of its own.

::

    with LocalServer(port=0) as server:
        print(server.url)

Importing this imports nothing more: pytest does so for its fixture at each start, and an engine's process. Web server
and engine are imported when they are first needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flux_tasks.local.server import LocalServer, serve
    from flux_tasks.local.service.charges import ChargeLog, Entry

__all__ = ["ChargeLog", "Entry", "LocalServer", "serve"]

_HOMES = {"ChargeLog": "service.charges", "Entry": "service.charges", "LocalServer": "server", "serve": "server"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"flux_tasks.local.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'flux_tasks.local' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
