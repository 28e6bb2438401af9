"""A run: every item of a recipe, each ending in a row of the manifest."""

from pipelines.run.context import CallTool, Event, EventKind
from pipelines.run.run import Run
from pipelines.run.summary import Summary, ToolTotal

__all__ = ["CallTool", "Event", "EventKind", "Run", "Summary", "ToolTotal"]
