"""The report of a run: one HTML page."""

from pipelines.report.page import RunSummary, render, write_report

__all__ = ["RunSummary", "render", "write_report"]
