"""Lines that runs leave for later ones: what one has added is found, whichever other run ends meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flux_tasks import files
from pipelines.data.keyed_lines import KeyedLines, digest_of

MANY = 8
"""Files of earlier runs, from which on they are gathered."""


def lines(folder: str, number: int) -> KeyedLines:
    return KeyedLines(folder, f"20261130-080000-{number:07x}")


def leave(folder: str, count: int = MANY) -> None:
    """Leave the files of so many earlier runs, with one line each."""
    for number in range(count):
        earlier = lines(folder, number)
        earlier.add(digest_of(number), number)
        earlier.close()


def gather(folder: str, number: int) -> None:
    """Do what a run does that adds a line and ends."""
    other = lines(folder, number)
    assert other
    other.add(digest_of(number), number)
    other.close()


def found(folder: str) -> set[int]:
    """Return the numbers below 100 whose lines are found."""
    reader = KeyedLines(folder)
    numbers = {number for number in range(100) if reader.get(digest_of(number)) == number}
    reader.close()
    return numbers


def test_what_a_run_adds_after_another_one_has_gathered_its_file_is_found(tmp_path: Path) -> None:
    folder = str(tmp_path)
    leave(folder)
    waiting = lines(folder, 50)
    waiting.add(digest_of(50), 50)
    gather(folder, 60)
    assert found(folder) == {*range(MANY), 50, 60}
    waiting.add(digest_of(51), 51)
    assert found(folder) == {*range(MANY), 50, 51, 60}  # also if it is killed now
    waiting.close()
    assert found(folder) == {*range(MANY), 50, 51, 60}


def test_a_line_that_was_added_between_the_last_look_and_the_removal_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(tmp_path)
    leave(folder)
    waiting = lines(folder, 50)
    waiting.add(digest_of(50), 50)
    remove = files.remove

    def remove_late(location: str) -> None:
        if files.name(location) == "20261130-080000-0000032.jsonl":
            waiting.add(digest_of(51), 51)
        remove(location)

    monkeypatch.setattr(files, "remove", remove_late)
    gather(folder, 60)
    waiting.close()
    assert found(folder) == {*range(MANY), 50, 51, 60}


def test_what_a_run_adds_after_somebody_has_removed_the_folder_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "lines"
    waiting = lines(str(folder), 50)
    waiting.add(digest_of(50), 50)
    shutil.rmtree(folder)
    waiting.close()
    assert found(str(folder)) == {50}


def test_the_files_of_runs_that_overlap_do_not_pile_up(tmp_path: Path) -> None:
    folder = str(tmp_path)
    leave(folder)
    for number in range(20, 60):
        waiting = lines(folder, number)
        assert waiting
        waiting.add(digest_of(number), number)
        gather(folder, number + 40)
        waiting.close()
    assert found(folder) == {*range(MANY), *range(20, 100)}
    assert len(list(tmp_path.iterdir())) <= MANY + 2


def test_gathered_files_stay_where_the_new_one_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = "memory://keyed-lines-of-a-full-bucket"
    leave(folder)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_from", refuse)
    gather(folder, 60)
    assert found(folder) == {*range(MANY)}
