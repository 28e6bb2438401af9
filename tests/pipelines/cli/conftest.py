"""A server that takes one key only."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_bfl import FakeBfl


@pytest.fixture
def bfl() -> Iterator[FakeBfl]:
    with FakeBfl(key="right-key") as server:
        yield server
