"""``store`` and its commands."""

from pipelines.cli.commands.store import budget, contents, jobs
from pipelines.cli.commands.store.program import store

__all__ = ["budget", "contents", "jobs", "store"]
