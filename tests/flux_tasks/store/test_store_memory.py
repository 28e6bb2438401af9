"""The store on fsspec's ``memory://``: for tests, and for trying things out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from object_stores import forget_filesystems
from store_conformance import ConcurrencyConformance, StoreConformance

from flux_tasks import files
from flux_tasks.store.records import Store


@pytest.fixture(autouse=True)
def _empty_memory() -> Iterator[None]:
    forget_filesystems()
    yield
    forget_filesystems()


class TestMemory(StoreConformance, ConcurrencyConformance):
    @pytest.fixture
    def url(self) -> str:
        return "memory://store"


class TestWholeMemory(ConcurrencyConformance):
    """The root of the memory, whose URL has no path."""

    @pytest.fixture(params=["memory://", "memory:///"])
    def url(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    def test_nothing_of_it_becomes_a_local_folder(self, url: str) -> None:
        assert Store(url).location("runs", "one.json") == "memory://runs/one.json"
        Store(url).put_record("runs", "one", {})
        assert files.exists("memory://runs/one.json")
