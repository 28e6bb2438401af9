"""Read the service's answers leniently: a body may be missing, broken or of another shape."""

import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from flux_tasks.catalog import Tool
from flux_tasks.errors import JobFailed, Moderated, Problem

_FAILED = {"Error", "Failed"}  # "Failed" is not in the enumeration but in the docs' samples (DOCS-F2)
_QUERY = re.compile(r"(https?://[^\s?\"'<>]+)\?[^\s\"'<>]+", re.IGNORECASE)
_MODERATED = {"Request Moderated": "request", "Content Moderated": "content"}


def reason_of(error: Exception) -> str:
    """Return an exception in a few words."""
    words = str(error).strip()
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def read_json(response: httpx.Response) -> Any:
    """Return the body as JSON, or None."""
    try:
        return response.json()
    except (ValueError, RecursionError):  # not JSON, not text, or nested beyond reason
        return None


def without_queries(text: str) -> str:
    """Return what the service says without the queries of addresses: one of a signed address is a secret."""
    return _QUERY.sub(r"\1?…", text)


def number(value: Any) -> float | None:
    """Return a finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def detail_of(answer: Any) -> str:
    """Return the server's reason: ``detail`` is a list for schema errors, a string otherwise (DOCS-ERR, OAS-0919)."""
    detail = answer.get("detail") if isinstance(answer, dict) else None
    if isinstance(detail, list):
        return "; ".join(f"{'.'.join(place)}: {what}".strip(": ") for place, what in _schema_errors(answer))
    return without_queries(str(detail)) if detail else ""


def problems_of(answer: Any, tool: Tool) -> list[Problem]:
    """Return the problems in a schema error, each with the task's parameter that it is about."""
    return [Problem(".".join([tool.task, *place]), what) for place, what in _schema_errors(answer)]


def _schema_errors(answer: Any) -> Iterator[tuple[list[str], str]]:
    detail = answer.get("detail") if isinstance(answer, dict) else None
    for error in detail if isinstance(detail, list) else ():
        if isinstance(error, dict):
            place = error.get("loc")
            shown = [str(part) for part in place if part != "body"] if isinstance(place, list) else []
            yield shown, without_queries(str(error.get("msg", "")))


def retry_after(response: httpx.Response) -> float | None:
    """Return the seconds that the server asks to wait, as a number or a date, at most 60; None if it asks for none."""
    value = response.headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):  # neither, or no such header
            return None
    return min(max(seconds, 0.0), 60.0) if math.isfinite(seconds) else None


def date_of(response: httpx.Response) -> float | None:
    """Return the time of the server's clock when it answered, in seconds since 1970; None if it does not say."""
    try:
        return parsedate_to_datetime(response.headers.get("date", "")).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def is_id(value: Any) -> bool:
    """Check whether ``value`` can be put into an address: some text, without lone surrogates."""
    return isinstance(value, str) and bool(value) and not any("\ud800" <= sign <= "\udfff" for sign in value)


@dataclass(frozen=True, slots=True)
class Submission:
    """The service's answer to a POST.

    Attributes:
        polling_url: where to ask; None after a webhook submission, whose answer has none (OAS-0919).
        cost: credits, as estimated by the service at submission; optional in the contract.
        input_mp, output_mp: megapixels (of 1,048,576 px) that the price is made of.
        status: only in the answer to a webhook submission.
    """

    id: str
    polling_url: str | None = None
    cost: float | None = None
    input_mp: float | None = None
    output_mp: float | None = None
    status: str | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """A job that is ready.

    Attributes:
        sample: the delivery address, valid for 10 minutes.
        cost: settled credits; None if the service named none.
        details: the rest of the result: prompt, seed, durations …
    """

    id: str
    sample: str = field(repr=False)
    cost: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


def ending_of(job_id: str, status: str, answer: Mapping[str, Any]) -> Finished | None:
    """Return the result that ``status`` means, or None while the job runs (an unknown status counts as running).

    Raises:
        Moderated: the service refused the request or the result.
        JobFailed: the service ended the job with an error.
    """
    result = answer.get("result")
    if status == "Ready":
        if not isinstance(result, dict) or not isinstance(sample := result.get("sample"), str):
            return None
        details = {k: v for k, v in result.items() if k != "sample"}
        return Finished(job_id, sample, number(answer.get("cost")), details)
    if status in _MODERATED:
        said = answer.get("details")
        reasons = said.get("Moderation Reasons", []) if isinstance(said, dict) else []
        listed = [str(r) for r in reasons] if isinstance(reasons, list) else [str(reasons)]
        raise Moderated(_MODERATED[status], listed, job_id=job_id)
    if status in _FAILED:
        words = answer.get("details") or answer.get("error") or answer.get("result")
        if isinstance(words, dict):
            words = {name: value for name, value in words.items() if name != "sample"}
        if isinstance(words, dict) and isinstance(words.get("error"), str):
            words = words["error"]
        raise JobFailed(
            f"job {job_id}: the service ended it with an error" + (f" ({without_queries(str(words))})" if words else "")
        )
    return None


def is_unknown(code: int, answer: Any) -> bool:
    """Check whether an answer without a job status says that there is no such job (SEED-3: detail and status_code).

    A bare ``{"detail": "Not Found"}`` may as well come from a path that does not exist.
    """
    if code not in (404, 410) or not isinstance(answer, dict) or isinstance(answer.get("status"), str):
        return False
    return answer.get("status_code") == code or "task" in detail_of(answer).lower()
