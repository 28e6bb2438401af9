"""A run as a Markdown artifact on a Prefect server: what people see of it in the server's pages."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

from prefect.artifacts import acreate_markdown_artifact

from flux_tasks.units import escape_controls, price
from pipelines.run.summary import Summary

_LONGEST = 300
"""Characters of an error's message; the manifest has all of it."""

_log = logging.getLogger("flux_tasks.flows")


async def publish(summary: Summary) -> None:
    """Create the artifact of a run; its key is made of the recipe's name, so that a recipe's runs stand together.

    A server that refuses it does not fail the run: that is a warning.
    """
    slug = re.sub("[^a-z0-9]+", "-", summary.name.lower()).strip("-")
    try:
        description = f"The run {summary.run_id} of the recipe {summary.name}"
        await acreate_markdown_artifact(markdown(summary), f"flux-pipelines-{slug or 'recipe'}", description)
    except Exception as error:  # whatever Prefect raises: the jobs are paid for, and the run goes on
        _log.warning("the artifact of the run could not be created: %s: %s", type(error).__name__, error)


def markdown(summary: Summary) -> str:
    """Return what an artifact says: counts, jobs, credits, items that did not end well, and where more is."""
    return "\n".join(_lines(summary)) + "\n"


def _lines(summary: Summary) -> Iterator[str]:
    yield f"## {_plain(summary.name)}\n"
    yield "| | |\n|---|---|"
    yield f"| items | {summary.items} of {summary.total} |"
    for outcome, count in sorted(summary.counts.items()):
        yield f"| {_plain(outcome)} | {count} |"
    is_preview = summary.engine.startswith("local:")
    yield f"| {'jobs, made on this machine' if is_preview else 'jobs, paid'} | {summary.jobs} |"
    unpriced = f", and {summary.unpriced} of unknown cost" if summary.unpriced else ""
    yield f"| {'BFL would charge' if is_preview else 'cost'} | {price(summary.cost)}{unpriced} |"
    if summary.collected:
        yield f"| jobs of an earlier run, collected | {summary.collected} |"
    yield f"| results from the store | {summary.cached} |"
    yield f"| manifest | {_plain(summary.manifest)} |"
    if summary.report:
        yield f"| report | {_plain(summary.report)} |"
    if summary.problem:
        yield f"\n{_plain(summary.problem)}\n"
    for row in summary.failed:
        error = row["error"]
        yield f"- {_plain(row['item'])}: {row['outcome']}" + (
            f": {_plain(error['step'])}: {_plain(error['message'])}" if error else ""
        )


def _plain(text: str) -> str:
    """Return ``text`` on one line, cut off where it is long, with Markdown's own signs escaped."""
    line = " ".join(escape_controls(text).split())
    line = line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
    return re.sub(r"([\\`*_{}\[\]<>|#!~&])", r"\\\1", line)
