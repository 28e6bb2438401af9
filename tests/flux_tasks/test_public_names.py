"""What ``flux_tasks`` offers, and what importing it costs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import flux_tasks
from flux_tasks import catalog

PUBLIC = set(flux_tasks.__all__)
HEAVY = ["prefect", "fastapi", "s3fs", "gcsfs", "boto3", "numpy", "scipy", "cv2", "pandas", "sqlalchemy"]


def loaded_by(*parts: str) -> list[set[str]]:
    """Top-level modules that a fresh process has loaded after each of ``parts`` of its code."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    told = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    code = "\n".join(f"{part}\n{told}" for part in parts)
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return [set(line.split()) for line in run.stdout.splitlines()]


@pytest.mark.parametrize(
    "code",
    [
        "import flux_tasks",
        "from flux_tasks import BflClient, ImageRef, Mask, Settings, Store, use, verify_webhook",
        "import flux_tasks.catalog, flux_tasks.jobs.call, flux_tasks.jobs.job, flux_tasks.catalog.signatures",
        "from flux_tasks import ImageRef\nfrom PIL import Image\nImageRef.of(Image.new('RGB', (9, 9))).open()",
        "from flux_tasks import deblur; assert not hasattr(deblur, '_mock_name')",  # as pytest asks
    ],
)
def test_using_anything_but_a_task_loads_neither_prefect_nor_a_cloud_library(code: str) -> None:
    [loaded] = loaded_by(code)
    assert loaded.isdisjoint(HEAVY)


def test_the_fixture_that_pytest_loads_at_each_start_imports_no_server() -> None:
    [loaded] = loaded_by("import flux_tasks.local.fixtures")
    assert loaded.isdisjoint([*HEAVY, "pydantic", "httpx", "starlette", "uvicorn", "PIL"])


def test_every_public_name_is_there_once_and_listed(tmp_path: Path) -> None:
    assert len(PUBLIC) == len(flux_tasks.__all__)
    assert flux_tasks.__all__ == sorted(flux_tasks.__all__)
    assert dir(flux_tasks) == sorted(PUBLIC)
    code = f"import os; os.environ['PREFECT_HOME'] = {str(tmp_path)!r}\n"  # which Prefect makes when it is imported
    code += "import flux_tasks; [getattr(flux_tasks, n) for n in flux_tasks.__all__]"
    by_names, by_using_one = loaded_by(code, "flux_tasks.deblur.submit")
    assert "prefect" not in by_names
    assert "prefect" in by_using_one


def test_every_task_of_the_catalogue_is_public_in_both_forms() -> None:
    assert {prefix + task for task in catalog.TASKS for prefix in ("", "a")} <= PUBLIC


def test_a_name_that_does_not_exist_is_an_attributeerror() -> None:
    with pytest.raises(AttributeError, match="module 'flux_tasks' has no attribute 'sharpen'"):
        _ = flux_tasks.sharpen  # type: ignore[attr-defined]


MODULES = (
    "api.slots api.webhooks background catalog catalog.signatures errors files images images.canvas images.download "
    "images.masks settings store store.journal units"
)


@pytest.mark.parametrize("module", MODULES.split())
def test_every_name_that_a_module_offers_is_there(module: str) -> None:
    import importlib

    found = importlib.import_module(f"flux_tasks.{module}")
    assert found.__doc__
    assert [name for name in found.__all__ if not hasattr(found, name)] == []
