"""Go through many cases in one test, and report all that fail: pytest itself takes 7 ms of CPU for a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

__all__ = ["Cases", "cases"]


class Cases:
    """``with cases.case("a name"): …`` for each; the test fails at its end, with all that failed.

    Attributes:
        count: cases so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self.failed: list[str] = []

    @contextmanager
    def case(self, name: object) -> Iterator[None]:
        """Go on after a failure in the block."""
        self.count += 1
        try:
            yield
        except (Exception, pytest.fail.Exception) as error:
            self.failed.append(f"{name}: {type(error).__name__}: {error}")


@pytest.fixture
def cases() -> Iterator[Cases]:
    """Cases that are judged when the test is over; at least one must have been tried."""
    found = Cases()
    yield found
    assert found.count, "no case was tried"
    if found.failed:
        told = [f"{len(found.failed)} of {found.count} cases failed", *found.failed]
        pytest.fail("\n".join(told), pytrace=False)
