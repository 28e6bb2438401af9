"""The store on S3, over HTTP to two real servers: moto, and rclone's, which checks signatures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from object_stores import new_bucket_name, rclone_s3, reach_s3, write_through_another_client
from servers import unused_port
from store_conformance import KEY, ConcurrencyConformance, StoreConformance, encoded

from flux_tasks import files
from flux_tasks.errors import InvalidImage
from flux_tasks.images.reference import ImageRef
from flux_tasks.store.records import Store

RCLONE_KEY, RCLONE_SECRET = "throw-away-key", "throw-away-secret"


def new_bucket() -> str:
    import fsspec

    name = new_bucket_name()
    fsspec.filesystem("s3").mkdir(name)
    return name


@pytest.fixture(scope="class")
def moto(s3_endpoint: str) -> Iterator[None]:
    with reach_s3(s3_endpoint):
        yield


@pytest.fixture(scope="class")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("rclone") / "buckets"
    folder.mkdir()
    with rclone_s3(folder, RCLONE_KEY, RCLONE_SECRET) as endpoint, reach_s3(endpoint, RCLONE_KEY, RCLONE_SECRET):
        yield endpoint


class TestMoto(StoreConformance, ConcurrencyConformance):
    spellings = (*StoreConformance.spellings, lambda url: url.replace("s3://", "s3a://"))

    @pytest.fixture
    def url(self, moto: None) -> str:
        return f"s3://{new_bucket()}/some/prefix"

    def write_elsewhere(self, location: str, data: bytes) -> None:
        write_through_another_client(location, data)

    def test_a_whole_bucket_can_be_a_store(self, url: str) -> None:
        bucket = url.removesuffix("/some/prefix")
        Store(bucket + "/").put_record("runs", "one", {})
        assert Store(bucket).records("runs") == ["one"]

    def test_a_bucket_that_is_not_there_is_an_oserror_for_who_writes(self, url: str) -> None:
        with pytest.raises(OSError, match=r"(?i)bucket"):
            files.write("s3://no-such-bucket-here/x", b"")


class TestRclone(StoreConformance):
    """Signed requests to a server that keeps plain files.

    Without ``ConcurrencyConformance``: ``rclone serve s3`` ignores ``If-None-Match``, so two writers may both win,
    and replaces objects in place, so a reader may meet one half-replaced (and is told so: its checksum is wrong).
    """

    is_exclusive = False

    @pytest.fixture
    def url(self, rclone: str) -> str:
        return f"s3://{new_bucket()}/some/prefix"

    def test_a_wrong_secret_is_an_oserror_and_not_an_empty_store(self, url: str, rclone: str) -> None:
        Store(url).put_result(KEY, Store(url).put_image(encoded()), {})
        with reach_s3(rclone, RCLONE_KEY, "wrong"), pytest.raises(OSError):  # noqa: PT011 - the server's own words
            Store(url).result(KEY)


def test_missing_credentials_are_an_oserror_and_an_invalid_input(
    s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with reach_s3(s3_endpoint):
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        with pytest.raises(OSError, match="credentials"):
            Store("s3://bucket").result(KEY)
        with pytest.raises(InvalidImage, match=r"s3://bucket/x\.png: .*credentials"):
            ImageRef.of("s3://bucket/x.png")


def test_a_server_that_is_not_there_is_an_oserror_and_not_an_empty_store() -> None:
    no_retries = {"retries": {"max_attempts": 0}, "connect_timeout": 1}
    with reach_s3(f"http://127.0.0.1:{unused_port()}", config_kwargs=no_retries), pytest.raises(OSError, match="127"):
        Store("s3://bucket").result(KEY)


def test_options_for_the_client_from_fsspecs_configuration_are_kept(s3_endpoint: str) -> None:
    import fsspec

    with reach_s3(s3_endpoint, config_kwargs={"user_agent_extra": "ours/1"}):
        files.exists("s3://bucket/x")
        agents = {fs.config_kwargs["user_agent_extra"] for fs in fsspec.get_filesystem_class("s3")._cache.values()}
    assert agents == {"ours/1"}


def test_an_endpoint_of_ones_own_is_said_in_fsspecs_variable(
    s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import subprocess
    import sys

    with reach_s3(s3_endpoint):
        bucket = new_bucket()
        files.write(f"s3://{bucket}/a.png", encoded())
    environment = {
        "FSSPEC_S3_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "throw-away",
        "AWS_SECRET_ACCESS_KEY": "throw-away",
        "PYTHONPATH": ":".join(sys.path),
        "HOME": str(tmp_path),
    }
    code = f"from flux_tasks import ImageRef; print(ImageRef.of('s3://{bucket}/a.png').digest)"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ImageRef.of(encoded()).digest
