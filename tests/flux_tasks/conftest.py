"""Object stores that live as long as the session, and a clean table for every test."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from object_stores import azurite, fake_gcs, moto_s3
from pictures import encoded, noise

from flux_tasks import catalog
from flux_tasks.jobs.call import Call, prepare

pytest.register_assert_rewrite("store_conformance")


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """An S3 server, started when the first test asks for it."""
    with moto_s3() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def gcs_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Google Cloud Storage server, started when the first test asks for it."""
    with fake_gcs(tmp_path_factory.mktemp("gcs")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def azure_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An Azure Blob Storage server, started when the first test asks for it."""
    with azurite(tmp_path_factory.mktemp("azure")) as endpoint:
        yield endpoint


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads take turns after every few instructions, so that what can go wrong between two of them does."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No variable that would change the settings."""
    for name in ("BFL_API_KEY", "BFL_BASE_URL", "FLUX_ENDPOINT", "FLUX_STORE", "FLUX_MAX_JOBS", "FLUX_ON_UNCERTAIN"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.fixture
def call() -> Call:
    """A small photo to be deblurred."""
    return prepare(catalog.TOOLS["deblur-v1"], {"image": encoded(noise((96, 80)))})
