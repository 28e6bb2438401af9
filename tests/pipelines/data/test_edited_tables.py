"""Tables that somebody writes to while they are read: rows of one version, or an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from flux_tasks.errors import RecipeError
from pipelines.data.formats.tables import rows

CHANGED = r"somebody has changed it while it was read: write changes into a new file, rename it"


def write(place: Path, *names: str) -> None:
    """Write a table in place, as an editor does that does not rename; 1 KB a row."""
    head, row = ("id,text\n", "{},{}\n") if place.suffix == ".csv" else ("", '{{"id": "{}", "text": "{}"}}\n')
    place.write_text(head + "".join(row.format(name, "x" * 1_000) for name in names))


NAMES = [f"r{number:04d}" for number in range(200)]


@pytest.fixture(params=["t.csv", "t.jsonl"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    place = tmp_path / request.param
    write(place, *NAMES)
    return place


def ids_after(place: Path, *names: str) -> list[str]:
    """Return the ids of a table that is written over when its first row was read."""
    found = rows(str(place))
    read = [str(next(found).values["id"])]
    write(place, *names)
    for row in found:
        assert not row.error
        read.append(str(row.values["id"]))
    return read


@pytest.mark.parametrize("names", [["new", *NAMES], NAMES[1:], NAMES[::-1], NAMES[:1], []])
def test_rows_of_two_versions_are_never_mixed(place: Path, names: list[str]) -> None:
    found = rows(str(place))
    read = [str(next(found).values["id"])]
    write(place, *names)
    with pytest.raises(RecipeError, match=CHANGED):
        read.extend(str(row.values["id"]) for row in found if not row.error)


def test_rows_that_are_added_or_changed_further_on_are_read(place: Path) -> None:
    assert ids_after(place, *NAMES, "new") == [*NAMES, "new"]
    write(place, *NAMES)
    assert ids_after(place, *NAMES[:-1], "other") == [*NAMES[:-1], "other"]


def test_a_table_that_was_read_to_its_end_may_become_anything(place: Path) -> None:
    write(place, "a", "b", "c")
    assert ids_after(place, "x", "a", "b", "c") == ["a", "b", "c"]


def test_a_table_that_is_replaced_is_read_as_it_was(place: Path) -> None:
    found = rows(str(place))
    read = [str(next(found).values["id"])]
    other = place.with_name("other")
    write(other, "x")
    other.replace(place)
    assert [*read, *(row.values["id"] for row in found)] == NAMES
