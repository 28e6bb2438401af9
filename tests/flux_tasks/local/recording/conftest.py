"""The service that is recorded, and where the recording lies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_bfl import FakeBfl
from recorded import KEY


@pytest.fixture
def bfl() -> Iterator[FakeBfl]:
    with FakeBfl(key=KEY) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "recorded"
