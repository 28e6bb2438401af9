"""The store on Azure Blob Storage, over HTTP to Azurite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from object_stores import AZURE_ACCOUNT, AZURE_KEY, new_bucket_name, reach_azure, write_through_another_client
from store_conformance import ConcurrencyConformance, StoreConformance, encoded

from flux_tasks import files, use
from flux_tasks.store.exclusion import keeps_apart
from flux_tasks.store.records import Store


def new_container() -> str:
    import fsspec

    name = new_bucket_name()
    fsspec.filesystem("az").mkdir(name, exist_ok=False)
    return name


@pytest.fixture(scope="class")
def azure(azure_endpoint: str) -> Iterator[None]:
    with reach_azure(azure_endpoint):
        yield


class TestAzurite(StoreConformance, ConcurrencyConformance):
    spellings = (*StoreConformance.spellings, lambda url: url.replace("az://", "abfs://"))

    @pytest.fixture
    def url(self, azure: None) -> str:
        return f"az://{new_container()}/some/prefix"

    def write_elsewhere(self, location: str, data: bytes) -> None:
        write_through_another_client(location, data)

    def test_a_whole_container_can_be_a_store(self, url: str) -> None:
        container = url.removesuffix("/some/prefix")
        Store(container + "/").put_record("runs", "one", {})
        assert Store(container).records("runs") == ["one"]

    def test_the_probe_finds_that_it_keeps_processes_apart(self, url: str) -> None:
        assert files.creates_exclusively(url) is None, "only the server can tell"
        assert keeps_apart(Store(url))

    def test_a_container_that_is_not_there_is_named_and_is_an_oserror_for_who_writes(self, url: str) -> None:
        with pytest.raises(OSError, match=r"(?i)container"):
            files.write("az://no-such-container/x", b"")
        assert files.missing_bucket("az://no-such-container/x/y.png") == "az://no-such-container"
        assert files.missing_bucket(url) == ""

    def test_the_account_can_stand_in_the_url_or_in_the_options(
        self, url: str, azure_endpoint: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files.write(f"{url}/a.png", encoded())
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "BlobEndpoint=http://127.0.0.1:9/other;AccountName=other")
        container = url.split("/")[2]
        in_url = f"abfs://{container}@{AZURE_ACCOUNT}.dfs.core.windows.net/"
        account = {"endpoint_url": azure_endpoint, "account_name": AZURE_ACCOUNT, "account_key": AZURE_KEY}
        with use(storage_options={f"az://{container}/": account, in_url: account}):
            assert files.read(f"{url}/a.png") == encoded()
            assert files.glob(f"{in_url}some/prefix/*.png") == [f"{in_url}some/prefix/a.png"]
            assert files.read(f"{in_url}some/prefix/a.png") == encoded()
