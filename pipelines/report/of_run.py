"""The report of a run that has just ended."""

from __future__ import annotations

from pipelines.report.drawing.svg import svg
from pipelines.report.page import RunSummary, write_report
from pipelines.report.previews import Previews
from pipelines.run.run import Run

__all__ = ["write_run_report"]


def write_run_report(run: Run, previews: Previews | None = None) -> str:
    """Write the report to the place that the run's summary names; return what went wrong, or an empty string.

    The run's work is done, and its summary is due: so nothing is raised. If it fails, the summary names no report, and
    the state of the run says why.

    Args:
        previews: small copies that were made while the run waited.
    """
    try:
        summary = RunSummary.of(run.summary, run.recipe.text, svg(run.recipe))
        previews = previews or Previews(run.context.store, run.recipe.name)
        run.summary.report = write_report(run.summary.report, summary, run.rows(), previews)
    except OSError as error:
        run.summary.report = ""
        run.summary.unreported = f"the report could not be written: {error}"
    run.note_report()
    return run.summary.unreported
