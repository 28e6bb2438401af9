"""Fingerprints on object stores: what cannot be listed is not known, and nothing is answered from an old listing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tagged
from tagged import Tagged

from flux_tasks import files


@pytest.fixture(autouse=True)
def objects() -> Iterator[None]:
    """Twelve folders with a file each."""
    tagged.register()
    for number in range(12):
        files.write(f"tagged://bucket/masks/{number}/mask.png", b"%d" % number)
    yield
    tagged.register()


@pytest.mark.parametrize("scheme", ["tagged", "finding"])
@pytest.mark.parametrize("kind", ["ls", "find"])
@pytest.mark.parametrize("before", range(11))
def test_no_file_counts_as_missing_because_a_listing_failed(scheme: str, kind: str, before: int) -> None:
    prints = files.Fingerprints()
    places = [f"{scheme}://bucket/masks/{number}/mask.png" for number in range(12)]
    for place in places[:before]:
        prints.of(place)
    Tagged.failures[kind] = 1
    for place in places:
        assert not prints.matches(place, files.MISSING)
    Tagged.failures.clear()
    for place in places:
        assert prints.of(place) == prints.of_written(place) is not None
    assert prints.of(f"{scheme}://bucket/masks/none/mask.png") == files.MISSING


def test_folders_beside_each_other_are_listed_at_once() -> None:
    prints = files.Fingerprints()
    for number in range(9):
        prints.of(f"finding://bucket/masks/{number}/mask.png")
    Tagged.failures |= {"ls": 100, "find": 100}
    for number in range(12):
        assert prints.of(f"finding://bucket/masks/{number}/mask.png") not in (None, files.MISSING)
    assert prints.of("finding://bucket/masks/none/mask.png") == files.MISSING


def test_what_a_library_remembers_of_a_listing_is_never_the_answer() -> None:
    place = "tagged://bucket/masks/0/mask.png"
    before = files.Fingerprints().of(place)
    assert files.listing("tagged://bucket/masks/0") == ["mask.png"]
    with Tagged.store["/bucket/masks/0/mask.png"] as held:  # as another process does it
        held.seek(0)
        held.write(b"other")
    Tagged.store["/bucket/masks/0/new.png"] = Tagged.store["/bucket/masks/1/mask.png"]
    prints = files.Fingerprints()
    assert before is not None
    assert not prints.matches(place, before)
    assert not prints.still_matches(place, before)
    assert prints.of_written(place) == prints.of(place) != before
    assert files.listing("tagged://bucket/masks/0") == ["mask.png", "new.png"]
    assert files.size(place) == 5
