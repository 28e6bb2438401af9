"""``store`` and its commands."""

from pipelines.cli.commands.store import contents, jobs
from pipelines.cli.commands.store.program import store

__all__ = ["contents", "jobs", "store"]
