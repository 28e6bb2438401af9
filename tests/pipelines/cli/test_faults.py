"""The fault table: each fault as a user sees it, what was repeated and how often, and what was charged.

The expectations below are written by hand. ``python -m pipelines.cli faults --measure`` prints what was measured.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from flux_tasks.local.faults.kinds import KINDS
from pipelines.cli.commands.faults import kinds_text
from pipelines.cli.fault_table import ROWS, Measured, Row, measure_all

pytestmark = pytest.mark.early

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Expected:
    """What a row has to show. ``None``: any number, because it depends on how fast the machine is."""

    outcome: str
    said: str = ""
    submissions: int = 1
    fetches: int = 0
    again: str = "done"
    charges: int = 1
    credits: float = 1.0
    polls: int | None = None


def done(*, submissions: int = 1, fetches: int = 1, said: str = "") -> Expected:
    return Expected("done", said, submissions, fetches, again="cached")


def refused(outcome: str, said: str, **changes: int) -> Expected:
    return Expected(outcome, said, polls=0, **changes)


def uncertain(said: str, *, charged: bool) -> Expected:
    """Held: the second attempt submits nothing either."""
    share = 1 if charged else 0
    return Expected("SubmissionUncertain", said, again="SubmissionUncertain", charges=share, credits=share, polls=0)


def not_charged(outcome: str, said: str) -> Expected:
    """The first job cost nothing; the second attempt is a second job."""
    return Expected(outcome, said, charges=2)


def moderated(said: str) -> Expected:
    """It cost nothing, and is not tried again unless asked for."""
    return Expected("Moderated", said, again="Moderated", credits=0)


def collected(outcome: str, said: str, *, fetches: int = 0) -> Expected:
    """Paid for, and left to the journal: the second attempt collects the first one's job."""
    return Expected(outcome, said, fetches=fetches, again="collected")


EXPECTED: dict[str, Expected] = {
    "no fault": done(),
    "submit: 400": refused("InvalidRequest", "refused by the service (400): bad parameters"),
    "submit: 401": refused("KeyRefused", "refused the key (401"),
    "submit: 402": refused("OutOfCredits", "out of credits (Insufficient credits); top up, then run again"),
    "submit: 403": refused("KeyRefused", "refused the key (403: Not authenticated)"),
    "submit: 422 with a list": refused("InvalidRequest", "seed: Input should be a valid integer"),
    "submit: 422 with a sentence": refused("InvalidRequest", "(422): canvas too large"),
    "submit: 429": done(submissions=2),
    "submit: 429, Retry-After in seconds": done(submissions=4),
    "submit: 429, Retry-After as a date": done(submissions=2),
    "submit: 429 without end": refused("RateLimited", "too many active jobs", submissions=3),
    "submit: 500, not charged": uncertain("HTTP 500 on submission", charged=False),
    "submit: 500, charged": uncertain("it may be charged", charged=True),
    "submit: 503, charged": uncertain("HTTP 503 on submission", charged=True),
    "submit: redirected": refused("InvalidRequest", "redirects to another address, which is not followed"),
    "submit: cut, not charged": uncertain("Server disconnected", charged=False),
    "submit: cut, charged": uncertain("Server disconnected", charged=True),
    "submit: cut within the answer, charged": uncertain("it may be charged", charged=True),
    "submit: answer too slow": uncertain("it may be charged", charged=True),
    "submit: answer drips too slowly": uncertain("it may be charged", charged=True),
    "submit: answer drips": done(),
    "submit: no id": uncertain("the answer has no id", charged=True),
    "submit: no polling_url": done(),
    "submit: polling_url on a foreign host": done(),
    "job: request moderated": moderated("the request was refused by moderation (Violence)"),
    "job: content moderated": moderated("withheld by moderation (Derivative Works Filter)"),
    "job: moderated, HTTP 422": moderated("withheld by moderation"),
    "job: Error": not_charged("JobFailed", "ended it with an error (injected)"),
    "job: Error, HTTP 503": not_charged("JobFailed", "ended it with an error (injected)"),
    "job: Error, its reason beside the status": not_charged("JobFailed", "ended it with an error (out of luck)"),
    "job: Failed": not_charged("JobFailed", "ended it with an error"),
    "job: never ends": Expected(
        "StillRunning", "still running after 0.5 s; it can be asked for again", again="StillRunning", credits=0
    ),
    "job: picture of another size": done(said="the result is 48×40 px, not 96×80"),
    "job: one solid colour": done(said="one solid colour"),
    "poll: 404 on the first polls": done(),
    "poll: 404 for good": collected("JobLost", "the service does not know it"),
    "poll: 404 with detail and status_code": collected("JobLost", "the service does not know it"),
    "poll: 410 with detail and status_code": collected("JobLost", "the service does not know it"),
    "poll: redirected to itself": done(),
    "poll: redirected in a loop": collected("StillRunning", "more than 3 redirects"),
    "poll: redirected to another host": done(),
    "poll: redirected elsewhere for good": collected("StillRunning", "redirects to localhost:"),
    "poll: redirected into a private network": done(),
    "poll: 429": done(),
    "poll: 500": done(),
    "poll: 500 for good": collected("StillRunning", "HTTP 500 after 0.7 s"),
    "poll: 403": collected("KeyRefused", "refused the key while polling (403)"),
    "poll: Ready under HTTP 500": done(),
    "poll: Processing": done(),
    "poll: a status nobody knows": done(),
    "poll: Ready without a result": done(),
    "poll: cut": done(),
    "poll: cut within the answer": done(),
    "poll: too slow": done(),
    "poll: drips too slowly": done(),
    "delivery: 500": done(fetches=2),
    "delivery: 500 for good": collected("DeliveryFailed", "HTTP 500", fetches=4),
    "delivery: expired": done(fetches=2),
    "delivery: cut": done(fetches=2),
    "delivery: truncated": done(fetches=2),
    "delivery: empty": done(fetches=2),
    "delivery: garbage": done(fetches=2),
    "delivery: garbage for good": collected("DeliveryFailed", "not an image", fetches=4),
    "delivery: oversized": done(fetches=2),
    "delivery: redirected to another host": done(fetches=2),
    "delivery: redirected to itself": done(fetches=2),
    "delivery: redirected in a loop": collected("DeliveryFailed", "more than 3 redirects", fetches=16),
    "delivery: redirected, http": collected("DeliveryFailed", "redirects to 192.0.2.1: out of https", fetches=4),
    "delivery: redirected, private": collected(
        "DeliveryFailed", "redirects to 10.0.0.1: that is in a private network", fetches=4
    ),
    "delivery: redirected, link-local": collected("DeliveryFailed", "redirects to 169.254.169.254", fetches=4),
    "delivery: redirected, mapped": collected("DeliveryFailed", "redirects to [::ffff:10.0.0.1]", fetches=4),
    "delivery: redirected, decimal": collected(
        "DeliveryFailed", "redirects to 167772161: that is in a private network", fetches=4
    ),
    "delivery: too slow": done(fetches=2),
    "delivery: drips too slowly": done(fetches=2),
    "webhook: no fault": done(),
    "webhook: twice": done(),
    "webhook: forged, then genuine": done(),
    "webhook: lost": done(),
}

CALLED = {
    "webhook: no fault": (1, 1),
    "webhook: twice": (1, 2),
    "webhook: forged, then genuine": (1, 2),
    "webhook: lost": (0, 0),
}


@pytest.fixture(scope="module")
def measured() -> dict[str, Measured]:
    """The whole table, measured once."""
    return {row.name: seen for row, seen in measure_all()}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_each_fault_ends_as_the_table_says_and_nothing_is_paid_twice(row: Row, measured: dict[str, Measured]) -> None:
    seen, expected = measured[row.name], EXPECTED[row.name]
    assert (seen.outcome, seen.again) == (expected.outcome, expected.again), seen
    assert expected.said in seen.message
    assert (seen.submissions, seen.fetches) == (expected.submissions, expected.fetches)
    assert (seen.charges, seen.credits) == (expected.charges, expected.credits), "what the charge log says was charged"
    assert expected.polls is None or seen.polls == expected.polls
    assert seen.webhooks == CALLED.get(row.name, (0, 0))
    assert "the-key" not in seen.message


def test_the_page_on_the_local_server_shows_what_is_measured() -> None:
    [shown] = re.findall(r"```text\n(.*?)```", (ROOT / "docs" / "local-server.md").read_text(), re.S)
    for line in shown.splitlines()[1:]:
        name, outcome, submissions, polls, fetches, again, charges = re.split(r"\s{2,}", line)
        row = EXPECTED[name]
        assert (outcome, again) == (row.outcome, row.again), line
        assert (int(submissions), int(fetches), int(charges)) == (row.submissions, row.fetches, row.charges), line
        assert row.polls is None or int(polls) == row.polls, line


def test_every_kind_of_fault_has_a_row() -> None:
    assert {fault["fault"] for row in ROWS for fault in row.faults} == set(KINDS)
    assert len({row.name for row in ROWS}) == len(ROWS) == len(EXPECTED)


def test_the_listing_names_every_kind_with_its_options() -> None:
    lines = "\n".join(kinds_text())
    assert all(name in lines for name in KINDS)
    assert "retry_after: null" in lines
