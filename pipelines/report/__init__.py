"""The report: one HTML page about a run."""

from __future__ import annotations

from pipelines.report.page import RunSummary, render, write_report

__all__ = ["RunSummary", "render", "write_report"]
