"""Small pictures, and rows that describe them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flux_tasks.images.reference import ImageRef
from pipelines.report.page import RunSummary

Describe = Callable[..., dict[str, Any]]


@pytest.fixture
def describe(tmp_path: Path) -> Describe:
    """Saves a picture, or a plain one of a colour and size, and returns its description as a manifest holds it."""

    def describe(
        picture: Image.Image | str = "red", size: tuple[int, int] = (320, 240), *, suffix: str = "png", **options: Any
    ) -> dict[str, Any]:
        image = Image.new("RGB", size, picture) if isinstance(picture, str) else picture
        path = tmp_path / f"picture-{len(list(tmp_path.iterdir()))}.{suffix}"
        image.save(path, **options)
        return ImageRef.of(path).to_dict()

    return describe


@pytest.fixture
def run() -> RunSummary:
    return RunSummary(
        name="restore",
        run_id="20260302-211402-a1b2c3",
        started="2026-03-02 21:14:02 UTC",
        seconds=83.2,
        endpoint="https://api.bfl.ai",
        engine="bfl",
        recipe="name: restore\nsteps:\n  - deblur: {}\n",
        jobs=3,
        cached=2,
        cost=12.4,
    )
