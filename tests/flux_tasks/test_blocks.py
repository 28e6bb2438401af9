"""Storage blocks of Prefect as places: what they stand for, that they are resolved when used, and show no secret."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from object_stores import forget_filesystems, moto_s3, new_bucket_name
from pictures import encoded, noise

from flux_tasks import ImageRef, catalog, files
from flux_tasks.files import blocks
from flux_tasks.jobs.call import prepare
from flux_tasks.store.records import Store
from flux_tasks.tasks import storage_blocks

SECRET = "correct-horse-battery-staple"
PHOTO = encoded(noise((96, 80)))


@pytest.fixture(autouse=True)
def _own_blocks() -> Iterator[None]:
    blocks._known.clear()
    yield
    blocks._known.clear()
    forget_filesystems()


@pytest.fixture
def bucket(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A place in a block of a bucket whose account nobody but the block knows."""
    from prefect.filesystems import RemoteFileSystem

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with moto_s3() as endpoint:
        account = {"key": "the-key-id", "secret": SECRET, "endpoint_url": endpoint}
        bucket, name = new_bucket_name(), f"bucket-{uuid4().hex[:8]}"
        fsspec.filesystem("s3", **account).mkdir(bucket)
        RemoteFileSystem(basepath=f"s3://{bucket}/work", settings=account).save(name)
        yield f"block://remote-file-system/{name}"


def test_a_block_of_a_bucket_is_a_place_like_any_other_with_its_own_account(bucket: str) -> None:
    files.write(f"{bucket}/in/a.png", PHOTO)
    assert files.create(f"{bucket}/one.json", b"1")
    assert not files.create(f"{bucket}/one.json", b"2")
    assert files.read(f"{bucket}/one.json") == b"1"
    assert files.glob(f"{bucket}/in/*.png") == [f"{bucket}/in/a.png"]
    assert files.glob(f"{bucket}/**/*.png") == [f"{bucket}/in/a.png"]
    assert (files.folders(bucket), files.listing(f"{bucket}/in")) == (["in"], ["a.png"])
    assert files.size(f"{bucket}/nothing") is None
    prints = files.Fingerprints()
    assert prints.of(f"{bucket}/in/a.png") not in (None, files.MISSING)
    plain = files.RealPaths().identity(f"{bucket}/in/a.png")
    assert plain.startswith("s3://"), "so that nothing is written over an input under its other name"
    assert files.matches(f"{bucket}/in/*.png", plain.replace("a.png", "new.png"))
    store = Store(f"{bucket}/store")
    store.put_record("runs", "one", {})
    assert store.records("runs") == ["one"]


def test_equal_bytes_have_one_key_whatever_their_address(bucket: str, tmp_path: Path) -> None:
    files.write(f"{bucket}/a.png", PHOTO)
    (tmp_path / "a.png").write_bytes(PHOTO)
    places = [f"{bucket}/a.png", str(tmp_path / "a.png"), PHOTO]
    assert len({prepare(catalog.TOOLS["deblur-v1"], {"image": place}).key("bfl") for place in places}) == 1
    assert SECRET not in repr(ImageRef.of(f"{bucket}/a.png")) + repr(blocks.block_of(bucket))


def test_a_block_of_this_machine_is_a_folder_with_all_that_this_machine_can_do(
    prefect_server: str, tmp_path: Path
) -> None:
    from prefect.filesystems import LocalFileSystem

    name = f"local-{uuid4().hex[:8]}"
    LocalFileSystem(basepath=str(tmp_path)).save(name)
    place = f"block://local-file-system/{name}"
    assert files.is_local(f"{place}/x/a.png")
    files.write(f"{place}/x/a.png", PHOTO)
    assert (tmp_path / "x" / "a.png").read_bytes() == files.read(f"{place}/x/a.png") == PHOTO
    assert files.glob(f"{place}/x/*") == [str(tmp_path / "x" / "a.png")]
    assert Store(f"{place}/store").url == str(tmp_path / "store")


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("block://remote-file-system/not-there/a.png", "has no such block: `prefect block ls` lists"),
        ("block://bucket/x/a.png", "names no storage block: write block://TYPE/NAME/path, with one of the types"),
        ("block://remote-file-system", "names no storage block"),
        ("block://remote-file-system/x/../../a.png", "leads out of its block"),
    ],
)
def test_what_is_no_block_is_said_at_once(prefect_server: str, location: str, words: str) -> None:
    with pytest.raises(OSError, match=words):
        files.read(location)


def test_without_a_prefect_api_an_error_says_what_to_set_and_prefect_is_not_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from flux_tasks import files\n"
        "assert files.stem('block://local-file-system/x/a.png') == 'a'\n"
        "try: files.read('block://s3-bucket/x/a.png')\n"
        "except OSError as error: print(error, 'prefect' in sys.modules)"
    )
    names = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = {**names, "PREFECT_HOME": str(tmp_path), "HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert "block://s3-bucket/x: needs a Prefect API, and none is configured: set PREFECT_API_URL" in done.stdout
    assert done.stdout.strip().endswith("False"), done.stderr


@pytest.mark.parametrize(
    ("slug", "data", "root", "options"),
    [
        (
            "s3-bucket",
            {
                "bucket_name": "b",
                "bucket_folder": "a/c/",
                "credentials": {
                    "aws_access_key_id": "id",
                    "aws_secret_access_key": SECRET,
                    "region_name": "eu-west-1",
                    "aws_client_parameters": {"endpoint_url": "https://h", "verify": False},
                },
            },
            "s3://b/a/c",
            {
                "key": "id",
                "secret": SECRET,
                "region": "eu-west-1",
                "endpoint_url": "https://h",
                "client_kwargs": {"verify": False},
            },
        ),
        (
            "s3-bucket",
            {"bucket_name": "b", "credentials": {"minio_root_user": "id", "minio_root_password": SECRET}},
            "s3://b",
            {"key": "id", "secret": SECRET},
        ),
        (
            "gcs-bucket",
            {"bucket": "b", "bucket_folder": "", "gcp_credentials": {"service_account_info": {"a": 1}, "project": "p"}},
            "gs://b",
            {"token": {"a": 1}, "project": "p"},
        ),
    ],
)
def test_the_blocks_of_prefects_cloud_packages_stand_for_their_buckets(
    slug: str, data: dict[str, Any], root: str, options: dict[str, Any]
) -> None:
    block = storage_blocks._KINDS[slug](data)
    assert (block.root, block.options) == (root, options)
    assert SECRET not in repr(block)
