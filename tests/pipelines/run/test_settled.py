"""Settled items: known from the last run alone while nothing has changed, and looked at as soon as anything has."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_bfl import FakeBfl
from PIL import Image

from flux_tasks import background, catalog, files
from flux_tasks.images.reference import ImageRef
from flux_tasks.jobs import job
from flux_tasks.jobs.call import prepare
from flux_tasks.jobs.result import JobResult
from flux_tasks.settings import Settings
from pipelines.recipe import Recipe
from pipelines.run.run import Run

RECIPE = """
name: settled
source: {{images: "{folder}/photos/*", columns: {{mask: "{folder}/masks/{{{{ stem }}}}.png"}}}}
vars: {{style: oak}}
steps:
  - deblur: {{}}
  - erase: {{mask: "{{{{ mask }}}}"}}
    when: mask_exists
  - resize: {{width: 90}}
  - flux-kontext: {{prompt: "{{{{ style }}}}"}}
    id: edit
output: {{path: "{folder}/out/{{{{ stem }}}}.png"}}
"""


def picture(path: Path, number: int = 0, age: float = 60) -> None:
    """Write a picture that was last changed so many seconds ago."""
    Image.linear_gradient("L").resize((96, 80)).rotate(number * 9).convert("RGB").save(path)
    os.utime(path, (time.time() - age, time.time() - age))


def mask(path: Path, left: int = 10) -> None:
    drawn = Image.new("L", (96, 80))
    drawn.paste(255, (left, 10, left + 20, 30))
    drawn.save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("photos", "masks"):
        (tmp_path / name).mkdir()
    for number, name in enumerate(("apple", "birch", "cedar")):
        picture(tmp_path / "photos" / f"{name}.png", number)
    mask(tmp_path / "masks" / "apple.png")
    time.sleep(0.05)  # no file is so young that its fingerprint is not believed
    return tmp_path


class Looks:
    """Counts pictures that somebody wants to see: they are read, unless an earlier run has read the same file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pictures: list[str] = []
        known = ImageRef.of

        def counted(source: Any, *, name: str = "") -> ImageRef:
            if isinstance(source, str):
                self.pictures.append(Path(source).stem)
            return known(source, name=name)

        monkeypatch.setattr(ImageRef, "of", counted)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(monkeypatch)


def perform(folder: Path, settings: Settings, text: str = RECIPE, **options: Any) -> tuple[Run, dict[str, Any]]:
    """A whole run without Prefect; its rows by item."""
    variables = options.pop("variables", None)

    async def call_tool(task: str, arguments: dict[str, Any]) -> JobResult:
        arguments = dict(arguments)
        tool = catalog.tool(task, arguments.pop("model", None))
        return await background.arun(job.execute(prepare(tool, arguments), settings))

    async def whole(run: Run) -> None:
        if not await run.answer_from_store():
            await run.run_remaining(call_tool)

    recipe = Recipe.parse(text.format(folder=folder), variables=variables).compiled
    with Run(recipe, settings, **options) as run:
        asyncio.run(whole(run))
    return run, {row["item"]: row for row in run.rows()}


def test_a_settled_run_opens_no_picture_and_makes_no_request(
    bfl: FakeBfl, folder: Path, settings: Settings, looks: Looks
) -> None:
    first, _ = perform(folder, settings)
    assert dict(first.summary.counts) == {"done": 3}
    requests, looks.pictures[:] = bfl.jobs, []
    second, rows = perform(folder, settings)
    assert dict(second.summary.counts) == {"cached": 3}
    assert second.summary.jobs == 0
    assert second.summary.cached == 7
    assert looks.pictures == []
    assert bfl.jobs == requests
    assert all(row["cost"] == 0 for row in rows.values())


def test_a_settled_row_is_the_row_of_a_run_that_looks_at_everything(
    bfl: FakeBfl, folder: Path, settings: Settings
) -> None:
    perform(folder, settings)
    _, settled = perform(folder, settings)
    _, looked_at = perform(folder, settings, verify=True)

    def plain(rows: dict[str, Any]) -> dict[str, Any]:
        for row in rows.values():
            row["seconds"] = 0
            for step in row["steps"]:
                step.pop("seconds", None)
        return rows

    assert plain(settled) == plain(looked_at)


def change_photo(folder: Path) -> None:
    picture(folder / "photos" / "apple.png", 5)


def change_photo_with_the_same_time(folder: Path) -> None:
    path = folder / "photos" / "apple.png"
    before = path.stat()
    picture(path, 5)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def change_photo_with_the_same_size_and_time(folder: Path) -> None:
    path = folder / "photos" / "apple.png"
    before, data = path.stat(), bytearray(path.read_bytes())
    data[-5] ^= 1  # of the last chunk's checksum
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def change_mask(folder: Path) -> None:
    mask(folder / "masks" / "apple.png", 40)


def remove_mask(folder: Path) -> None:
    (folder / "masks" / "apple.png").unlink()


def add_mask(folder: Path) -> None:
    mask(folder / "masks" / "birch.png")


def remove_output(folder: Path) -> None:
    (folder / "out" / "apple.png").unlink()


def truncate_output(folder: Path) -> None:
    (folder / "out" / "apple.png").write_bytes(b"")


def edit_output(folder: Path) -> None:
    path = folder / "out" / "apple.png"
    before, data = path.stat(), bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "item"),
    [
        (change_photo, "apple"),
        (change_photo_with_the_same_time, "apple"),
        (change_photo_with_the_same_size_and_time, "apple"),
        (change_mask, "apple"),
        (remove_mask, "apple"),
        (add_mask, "birch"),
        (remove_output, "apple"),
        (truncate_output, "apple"),
        (edit_output, "apple"),
    ],
)
@pytest.mark.usefixtures("bfl")
def test_an_item_whose_files_have_changed_is_looked_at_and_no_other(
    folder: Path, settings: Settings, looks: Looks, change: Callable[[Path], None], item: str
) -> None:
    perform(folder, settings)
    perform(folder, settings)
    change(folder)
    looks.pictures.clear()
    perform(folder, settings)
    assert item in looks.pictures
    assert not {"apple", "birch", "cedar"} - {item} & set(looks.pictures)


@pytest.mark.parametrize("change", [remove_output, truncate_output, edit_output])
@pytest.mark.usefixtures("bfl")
def test_an_output_that_is_gone_or_changed_is_written_again_for_nothing(
    folder: Path, settings: Settings, change: Callable[[Path], None]
) -> None:
    perform(folder, settings)
    whole = (folder / "out" / "apple.png").read_bytes()
    change(folder)
    run, _ = perform(folder, settings)
    assert (folder / "out" / "apple.png").read_bytes() == whole
    assert run.summary.jobs == 0


@pytest.mark.usefixtures("bfl")
def test_another_value_of_a_variable_settles_nothing(folder: Path, settings: Settings) -> None:
    perform(folder, settings)
    run, _ = perform(folder, settings, variables={"style": "elm"})
    assert run.summary.jobs == 3
    assert run.summary.cached == 4  # the steps before are answered by the store


@pytest.mark.usefixtures("bfl")
def test_another_seed_settles_nothing(folder: Path, settings: Settings) -> None:
    perform(folder, settings)
    run, _ = perform(folder, settings, seed=7)
    assert run.summary.jobs > 0


@pytest.mark.usefixtures("bfl")
def test_verifying_looks_at_every_item(folder: Path, settings: Settings, looks: Looks) -> None:
    perform(folder, settings)
    looks.pictures.clear()
    run, _ = perform(folder, settings, verify=True)
    assert {"apple", "birch", "cedar"} <= set(looks.pictures)
    assert run.summary.jobs == 0


@pytest.mark.usefixtures("bfl")
def test_a_new_photo_is_worked_on_and_the_others_stay_settled(folder: Path, settings: Settings, looks: Looks) -> None:
    perform(folder, settings)
    picture(folder / "photos" / "aaa.png", 7)
    looks.pictures.clear()
    run, rows = perform(folder, settings)
    assert dict(run.summary.counts) == {"done": 1, "cached": 3}
    assert not {"apple", "birch", "cedar"} & set(looks.pictures)
    assert [row["index"] for row in rows.values()] == [0, 1, 2, 3]


@pytest.mark.usefixtures("bfl")
def test_a_limited_run_forgets_nothing(folder: Path, settings: Settings, looks: Looks) -> None:
    perform(folder, settings)
    perform(folder, settings, limit=1)
    looks.pictures.clear()
    perform(folder, settings)
    assert looks.pictures == []


@pytest.mark.parametrize("damage", [b"", b"\x00" * 400, b"{}\n", b"00000000 zz {}\n"])
@pytest.mark.usefixtures("bfl")
def test_a_damaged_index_settles_nothing_and_costs_nothing(
    folder: Path, settings: Settings, looks: Looks, damage: bytes
) -> None:
    perform(folder, settings)
    (index,) = Path(settings.store).glob("settled/*/*.jsonl")
    index.write_bytes(damage)
    looks.pictures.clear()
    run, _ = perform(folder, settings)
    assert {"apple", "birch", "cedar"} <= set(looks.pictures)
    assert dict(run.summary.counts) == {"cached": 3}


@pytest.mark.usefixtures("bfl")
def test_a_line_with_one_changed_digit_is_not_believed(folder: Path, settings: Settings, looks: Looks) -> None:
    perform(folder, settings)
    (index,) = Path(settings.store).glob("settled/*/*.jsonl")
    index.write_text(index.read_text().replace('"index": 0', '"index": 8'))  # that of apple
    looks.pictures.clear()
    perform(folder, settings)
    assert set(looks.pictures) & {"apple", "birch", "cedar"} == {"apple"}


@pytest.mark.usefixtures("bfl")
def test_the_files_of_many_runs_are_gathered_into_one(folder: Path, settings: Settings, looks: Looks) -> None:
    for number in range(10):
        picture(folder / "photos" / f"x{number}.png", number)
        time.sleep(0.03)
        perform(folder, settings)
    assert len(list(Path(settings.store).glob("settled/*/*.jsonl"))) < 9
    looks.pictures.clear()
    run, _ = perform(folder, settings)
    assert dict(run.summary.counts) == {"cached": 13}
    assert looks.pictures == []


def test_items_that_did_not_end_well_are_looked_at_again(
    bfl: FakeBfl, folder: Path, settings: Settings, looks: Looks
) -> None:
    (folder / "photos" / "apple.png").write_bytes(b"no picture")
    time.sleep(0.05)
    perform(folder, settings)
    looks.pictures.clear()
    run, rows = perform(folder, settings)
    assert rows["apple"]["outcome"] == "invalid"
    assert set(looks.pictures) & {"apple", "birch", "cedar"} == {"apple"}
    assert not run.summary.is_fine


@pytest.mark.skipif(sys.platform == "win32", reason="there the time of change is that of creation")
def test_the_fingerprint_of_a_file_that_has_just_been_changed_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    found = []
    for _ in range(20):  # a slow machine may need longer than the tick now and then
        path.write_bytes(b"a")
        found.append(files.Fingerprints().of(str(path)))
    assert None in found
    assert files.Fingerprints().of_written(str(path)) is not None


@pytest.mark.parametrize("kind", ["inputs", "settled"])
def test_a_run_that_cannot_remember_ends_as_if_nothing_were(
    bfl: FakeBfl, folder: Path, settings: Settings, kind: str
) -> None:
    place = Path(settings.store) / kind
    place.parent.mkdir(exist_ok=True)
    place.write_text("not a folder")
    run, _ = perform(folder, settings)
    assert dict(run.summary.counts) == {"done": 3}
