"""The BFL API, served from this machine: no key, no network, an engine of its own.

::

    with LocalServer(port=0) as server:
        print(server.url)

Importing this is cheap: web server and engine are imported when they are first needed.
"""

from flux_tasks.local.server import LocalServer, serve
from flux_tasks.local.service.charges import ChargeLog, Entry

__all__ = ["ChargeLog", "Entry", "LocalServer", "serve"]
