"""The store on Google Cloud Storage, over HTTP to fake-gcs-server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from object_stores import new_bucket_name, reach_gcs, write_through_another_client
from store_conformance import ConcurrencyConformance, StoreConformance, encoded

from flux_tasks import files
from flux_tasks.images.reference import ImageRef
from flux_tasks.store.records import Store


def new_bucket() -> str:
    import fsspec

    files.exists("gs://any-bucket/any")  # imports gcsfs the way this library does
    name = new_bucket_name()
    fsspec.filesystem("gs").mkdir(name)
    return name


@pytest.fixture(scope="class")
def gcs(gcs_endpoint: str) -> Iterator[None]:
    with reach_gcs(gcs_endpoint):
        yield


class TestFakeGcs(StoreConformance, ConcurrencyConformance):
    spellings = (*StoreConformance.spellings, lambda url: url.replace("gs://", "gcs://"))

    @pytest.fixture
    def url(self, gcs: None) -> str:
        return f"gs://{new_bucket()}/some/prefix"

    def write_elsewhere(self, location: str, data: bytes) -> None:
        write_through_another_client(location, data)

    def test_a_whole_bucket_can_be_a_store(self, url: str) -> None:
        bucket = url.removesuffix("/some/prefix")
        Store(bucket + "/").put_record("runs", "one", {})
        assert Store(bucket).records("runs") == ["one"]

    def test_the_probe_of_googles_control_api_is_off_before_gcsfs_is_imported(self, url: str) -> None:
        assert os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] == "false"


def test_an_emulator_is_said_in_googles_own_variable(gcs_endpoint: str, tmp_path: Path) -> None:
    with reach_gcs(gcs_endpoint):
        bucket = new_bucket()
        files.write(f"gs://{bucket}/a.png", encoded())
    environment = {
        "STORAGE_EMULATOR_HOST": gcs_endpoint,
        "FSSPEC_GS_TOKEN": "anon",
        "PYTHONPATH": ":".join(sys.path),
        "HOME": str(tmp_path),
    }
    code = f"from flux_tasks import ImageRef; print(ImageRef.of('gs://{bucket}/a.png').digest)"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ImageRef.of(encoded()).digest
