"""Who records a call: Prefect inside its flows and where a server is configured, else nobody.

To know that no server is configured must not take the second that Prefect's import takes. So the places that Prefect
reads its settings from (``prefect/settings/sources.py``) are looked at first. Where one of them may name a server in a
way that only Prefect can read, Prefect is asked.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any

__all__ = ["is_in_flow", "is_server_configured", "may_be_configured", "tell_unrecorded"]

_log = logging.getLogger("flux_tasks.tasks")

_UNRECORDED = (
    "not recorded in Prefect, because no server is configured: set PREFECT_API_URL, or use --prefect embedded "
    "(FLUX_PREFECT=embedded); --prefect off hides this line"
)
_told = threading.Lock()
"""Taken for good by whoever says it first."""


def tell_unrecorded() -> None:
    """Say, once in this process, that calls are made without Prefect though nobody has asked for that."""
    if _told.acquire(blocking=False):
        _log.warning("%s", _UNRECORDED)


def is_in_flow() -> bool:
    """Check whether the caller runs in a flow or a task of Prefect."""
    context = sys.modules.get("prefect.context")  # whoever runs in a flow has imported all of it; others may be at it
    kinds = (getattr(context, kind, None) for kind in ("FlowRunContext", "TaskRunContext"))
    return any(kind is not None and kind.get() for kind in kinds)


def is_server_configured() -> bool:
    """Check whether Prefect's settings have the address of a server: in the environment, a file, or the profile."""
    if "prefect.settings" not in sys.modules and not may_be_configured():
        return False
    from prefect.settings import get_current_settings

    return bool(get_current_settings().api.url)


def may_be_configured() -> bool:
    """Check whether anything that Prefect reads says where its server is; True where only Prefect can tell."""
    given = {name.lower(): value for name, value in os.environ.items() if name.lower().startswith("prefect_")}
    if "prefect_api_url" in given or "prefect_api" in given:  # set, though empty, it hides what the files say
        return bool(given.get("prefect_api_url") or given.get("prefect_api"))
    if any(name.startswith(("prefect_test", "prefect_unit_test")) for name in given):
        return True
    try:
        own = _table("prefect.toml")
        project = _table("pyproject.toml").get("tool", {}).get("prefect", {})
        if _names_server(own) or _names_server(project) or _is_in_text(Path(".env")):
            return True
        return _names_server(_active_profile(_profiles_file(own, project)))
    except (OSError, ValueError, AttributeError, TypeError):  # Prefect says what is wrong with it
        return True


def _names_server(table: dict[str, Any]) -> bool:
    keys = {key.lower() for key in table}
    return bool(keys & {"api", "prefect_api_url", "prefect_api"})


def _is_in_text(dotenv: Path) -> bool:
    """Check whether a file of variables may matter; it has quotes, comments and references to other variables."""
    pattern = r"(?im)^\s*(export\s+)?['\"]?prefect_(api|profile|home|test|unit_test)"
    return bool(dotenv.is_file() and re.search(pattern, dotenv.read_text(encoding="utf-8")))


def _profiles_file(own: dict[str, Any], project: dict[str, Any]) -> Path:
    named = os.environ.get("PREFECT_PROFILES_PATH") or own.get("profiles_path") or project.get("profiles_path")
    if named:
        return Path(named)
    home = os.environ.get("PREFECT_HOME")
    return (Path(home) if home else Path.home() / ".prefect") / "profiles.toml"


def _active_profile(file: Path) -> dict[str, Any]:
    """Return the settings of the profile in force; Prefect's own default has no server."""
    saved = _table(str(file))
    name = os.environ.get("PREFECT_PROFILE") or saved.get("active")
    found = saved.get("profiles", {}).get(name)
    if found is None and name == "local":  # it comes with Prefect
        return {"PREFECT_API_URL": ""}
    return found or {}


def _table(file: str) -> dict[str, Any]:
    try:
        status = Path(file).stat()
    except FileNotFoundError:
        return {}
    return _parsed(str(Path(file).absolute()), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8)
def _parsed(file: str, _changed: int, _size: int) -> dict[str, Any]:
    return tomllib.loads(Path(file).read_text(encoding="utf-8"))
