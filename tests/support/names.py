"""Names of hosts that mean what a test says, so that no test asks a name server."""

from __future__ import annotations

import socket
from typing import Any

__all__ = ["Names"]


class Names(dict[str, list[list[str]]]):
    """Addresses by name: a list for each time that it is asked for, the last one from then on.

    To be put in the place of ``socket.getaddrinfo``.
    """

    def means(self, name: str, *answers: list[str]) -> None:
        self[name] = list(answers)

    def __call__(self, host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:  # noqa: A002 - its signature
        answers = self.get(str(host))
        if answers is None and not _is_known(str(host)):
            raise socket.gaierror(socket.EAI_NONAME, f"{host} has no address here")
        if answers is None:
            return _REAL(host, port, family, type, proto, flags)
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not an address")
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [entry for address in addresses for entry in _REAL(address, port, family, type, proto, flags)]


_REAL = socket.getaddrinfo


def _is_known(host: str) -> bool:
    if host in ("localhost", ""):
        return True
    try:
        _REAL(host, None, flags=socket.AI_NUMERICHOST)
    except OSError:
        return False
    return True
