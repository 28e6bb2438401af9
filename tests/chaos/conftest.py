"""The chaos suite's own modules lie beside it; one zygote serves all its tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Starts runs in no time."""
    from processes import Zygote

    with Zygote(tmp_path_factory.mktemp("zygote")) as started:
        yield started
