"""The store on Google Cloud Storage, over HTTP to fake-gcs-server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from object_stores import new_bucket_name, reach_gcs, write_through_another_client
from store_conformance import ConcurrencyConformance, StoreConformance, encoded
from waiting import PATIENCE

from flux_tasks import files
from flux_tasks.files.remote import turns
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


def test_a_program_that_has_imported_gcsfs_itself_reaches_a_server_that_is_not_googles(gcs_endpoint: str) -> None:
    with reach_gcs(gcs_endpoint):
        bucket = new_bucket()
        others = {name: value for name, value in os.environ.items() if not name.startswith("GCSFS_")}
    environment = {**others, "STORAGE_EMULATOR_HOST": gcs_endpoint, "FSSPEC_GS_TOKEN": "anon"}
    code = f"import gcsfs; from flux_tasks import files; files.write('gs://{bucket}/a', b'there')"
    code += f"; print(files.read('gs://{bucket}/a').decode())"
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert run.stdout.strip() == "there"
    assert "bucket type" not in run.stderr, "it has asked Google's control API"


def test_a_record_that_is_written_again_and_again_has_a_turn_a_second_and_says_what_is_true_by_then(
    gcs_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=1_000.0)
    clock.monotonic, clock.sleep = lambda: clock.now, lambda seconds: setattr(clock, "now", clock.now + seconds)
    monkeypatch.setattr(turns, "time", clock)

    def written(store: Store) -> list[float]:
        begun, times = clock.now, []
        for name in ["often"] * 5 + ["other"]:
            store.put_record("reserves", name, lambda: {"at": clock.now - begun})
            times.append((store.record("reserves", name) or {})["at"])
        return times

    with reach_gcs(gcs_endpoint):
        assert written(Store(f"gs://{new_bucket()}/store")) == [0, 0, 0, 1, 2, 2]
    assert written(Store(str(tmp_path))) == [0] * 6, "only Google's service has such a limit"
