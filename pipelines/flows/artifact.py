"""A run as a Markdown artifact on a Prefect server: what people see of it in the server's pages."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence

from prefect.artifacts import acreate_markdown_artifact

from flux_tasks.units import escape_controls, price
from pipelines.run.summary import Summary

_LONGEST = 300
"""Characters of an error's message; the manifest has all of it."""

_log = logging.getLogger("flux_tasks.flows")


async def publish(summary: Summary, budget: float | None = None, outputs: Sequence[str] = ()) -> None:
    """Create the artifact of a run.

    A server that refuses it does not fail the run: that is a warning.

    Args:
        budget: the most credits that the run may spend, or None.
        outputs: where its results go: path templates, or folders of datasets.
    """
    try:
        description = f"Run {summary.run_id}"  # all that fits onto its card
        await acreate_markdown_artifact(markdown(summary, budget, outputs), key_of(summary.name), description)
    except Exception as error:  # whatever Prefect raises: the jobs are paid for, and the run goes on
        _log.warning("the artifact of the run could not be created: %s: %s", type(error).__name__, error)


def key_of(name: str) -> str:
    """Return the key of an artifact, made of the recipe's name, so that the runs of a recipe stand together."""
    slug = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
    return f"flux-pipelines-{slug or 'recipe'}"


def markdown(summary: Summary, budget: float | None = None, outputs: Sequence[str] = ()) -> str:
    """Return what an artifact says: counts, jobs, credits, items that did not end well, and where more is."""
    return "\n".join(_lines(summary, budget, outputs)) + "\n"


def _lines(summary: Summary, budget: float | None, outputs: Sequence[str]) -> Iterator[str]:
    yield f"## {_plain(summary.name)}\n"
    yield "| | |\n|---|---|"
    yield f"| items | {summary.items} of {summary.total} |"
    for outcome, count in sorted(summary.counts.items()):
        yield f"| {_plain(outcome)} | {count} |"
    is_preview = summary.is_preview
    yield f"| {'jobs, made on this machine' if is_preview else 'jobs, paid'} | {summary.jobs} |"
    yield f"| {'BFL would charge' if is_preview else 'cost'} | {price(summary.cost)}{summary.beyond_cost} |"
    if budget is not None:
        yield f"| budget | {price(budget)} |"
    if summary.collected:
        yield f"| jobs of an earlier run, collected | {summary.collected} |"
    yield f"| results from the store | {summary.cached} |"
    for output in outputs:
        yield f"| output | {_place(output)} |"
    yield f"| manifest | {_place(summary.manifest)} |"
    if summary.report:
        yield f"| report | {_place(summary.report)} |"
    if summary.problem:
        yield f"\n{_plain(summary.problem)}\n"
    for row in summary.failed:
        error = row["error"]
        yield f"- {_plain(row['item'])}: {row['outcome']}" + (
            f": {_plain(error['step'])}: {_plain(error['message'])}" if error else ""
        )


def _place(location: str) -> str:
    """Return a location as text, or as a link if a browser can open it."""
    is_link = re.fullmatch(r"https?://[^\s<>()|`]+", location) is not None
    return f"[{_plain(location)}]({location})" if is_link else _plain(location)


def _plain(text: str) -> str:
    """Return ``text`` on one line, cut off where it is long, with Markdown's own signs escaped."""
    line = " ".join(escape_controls(text).split())
    line = line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
    return re.sub(r"([\\`*_{}\[\]<>|#!~&])", r"\\\1", line)
