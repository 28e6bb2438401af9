"""Small copies of pictures: made once, found again by the picture's digest, and made anew where they are damaged."""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image, ImageDraw, ImageFile
from waiting import wait_until

from flux_tasks.images import byte_cache
from flux_tasks.images.reference import ImageRef
from flux_tasks.store.records import Store
from pipelines.report import previews as previews_module
from pipelines.report.early import EarlyPreviews
from pipelines.report.page import RunSummary, render, write_report
from pipelines.report.previews import Previews

Describe = Callable[..., dict[str, Any]]
Row = dict[str, Any]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many pictures were decoded."""
    counter: Counter[str] = Counter()
    load = ImageFile.ImageFile.load

    def counted(image: ImageFile.ImageFile) -> Any:
        counter["pictures"] += bool(image.tile)  # what is not decoded yet
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", counted)
    return counter


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def mask(at: int) -> Image.Image:
    image = Image.new("L", (320, 240))
    ImageDraw.Draw(image).ellipse((at, 40, at + 90, 150), fill=255)
    return image


@pytest.fixture
def rows(describe: Describe) -> list[Row]:
    """Four items with all that a report shows of pictures: before and after, steps, several results, a mask."""
    return [a_row(describe, number) for number in range(4)]


def a_row(describe: Describe, number: int) -> Row:
    before, middle, after = (describe(f"#{number + 1:02x}{n * 80:02x}40") for n in range(3))
    steps = [
        {"id": "erase", "task": "erase", "outcome": "done", "image": middle, "mask": describe(mask(20 + 9 * number))},
        {"id": "wide", "task": "outpaint", "outcome": "done", "image": after},
    ]
    outputs = [{"path": f"out/{n}.png", "from": n, "image": i} for n, i in (("erase", middle), ("wide", after))]
    pictures = {"input": before, "output": after, "outputs": outputs}
    return {"item": f"photo-{number}", "outcome": "done", "steps": steps, **pictures}


def forget_bytes() -> None:
    byte_cache.shared._entries.clear()


def test_a_second_report_decodes_no_picture_and_is_the_same_page(
    run: RunSummary, rows: list[Row], store: Store, decoded: Counter[str]
) -> None:
    fresh = render(run, rows)
    decoded.clear()
    assert render(run, rows, Previews(store, "r")) == fresh
    assert decoded["pictures"] == 4 * 4, "each picture and each mask once"
    decoded.clear()
    assert render(run, rows, Previews(store, "r")) == fresh
    assert decoded["pictures"] == 0


def test_a_report_finds_what_was_made_for_it_while_the_run_went_on(
    run: RunSummary, rows: list[Row], store: Store, decoded: Counter[str]
) -> None:
    fresh = render(run, rows)
    for number, row in enumerate(rows):
        row["index"] = number
    decoded.clear()
    with EarlyPreviews(lambda: Previews(store, "r")) as early:
        early.begin(len(rows))
        for row in rows:
            early.add(row)
        wait_until(lambda: decoded["pictures"] == 4 * 4)
    decoded.clear()
    assert render(run, rows, early.previews) == fresh
    assert decoded["pictures"] == 0


def test_nothing_is_made_early_for_items_that_the_report_does_not_show_or_that_were_settled(
    rows: list[Row], store: Store, decoded: Counter[str]
) -> None:
    for row, index, outcome in zip(rows, (60, 0, 1, 2), ("done", "cached", "failed", "skipped"), strict=True):
        row |= {"index": index, "outcome": outcome}
    for total in (0, 100):
        with EarlyPreviews(lambda: Previews(store, "r")) as early:
            early.begin(total)
            for row in rows:
                early.add(row)
    assert decoded["pictures"] == 0


def test_pictures_that_are_gone_are_still_shown(run: RunSummary, rows: list[Row], store: Store, tmp_path: Path) -> None:
    fresh = render(run, rows, Previews(store, "r"))
    for picture in tmp_path.glob("picture-*"):
        picture.unlink()
    forget_bytes()
    assert render(run, rows, Previews(store, "r")) == fresh


def test_only_what_is_new_is_decoded(
    run: RunSummary, rows: list[Row], store: Store, describe: Describe, decoded: Counter[str]
) -> None:
    render(run, rows, Previews(store, "r"))
    decoded.clear()
    render(run, [*rows, a_row(describe, 9)], Previews(store, "r"))
    assert decoded["pictures"] == 4


def test_another_recipe_of_the_same_name_loses_nothing(
    run: RunSummary, rows: list[Row], store: Store, decoded: Counter[str]
) -> None:
    render(run, rows[:2], Previews(store, "r"))
    render(run, rows[2:], Previews(store, "r"))
    decoded.clear()
    render(run, rows, Previews(store, "r"))
    assert decoded["pictures"] == 0


def test_a_file_that_is_full_keeps_what_the_last_report_shows(
    run: RunSummary, rows: list[Row], store: Store, decoded: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    render(run, rows[:1], Previews(store, "r"))
    (file,) = Path(store.url).glob("previews/*")
    monkeypatch.setattr(previews_module, "_MAX_BYTES", file.stat().st_size * 3 // 2)
    for row in rows:
        render(run, [row], Previews(store, "r"))
        assert file.stat().st_size <= previews_module._MAX_BYTES
        decoded.clear()
        render(run, [row], Previews(store, "r"))
        assert decoded["pictures"] == 0


def test_whatever_is_damaged_the_page_is_the_same(run: RunSummary, rows: list[Row], store: Store) -> None:
    fresh = render(run, rows, Previews(store, "r"))
    (file,) = Path(store.url).glob("previews/*")
    whole, choice = file.read_bytes(), random.Random(16)
    for _ in range(40):
        at = choice.randrange(len(whole))
        flipped = whole[:at] + bytes([whole[at] ^ 1 << choice.randrange(8)]) + whole[at + 1 :]
        damaged = choice.choice([whole[:at], flipped, flipped, whole[at:], b"", b"\0" * at, None])
        file.unlink() if damaged is None else file.write_bytes(damaged)
        assert render(run, rows, Previews(store, "r")) == fresh
        assert sorted(file.read_bytes().split(b"\n")) == sorted(whole.split(b"\n")), "and it is healed"


def test_lines_of_an_earlier_program_are_not_believed(run: RunSummary, rows: list[Row], store: Store) -> None:
    fresh = render(run, rows, Previews(store, "r"))
    (file,) = Path(store.url).glob("previews/*")
    strange = [b"[]", b"7", b'{"future": true}', b"{"]
    names = [line[9:].partition(b" ")[0] for line in file.read_bytes().split(b"\n")]
    bodies = [b"%b %b" % (name, strange[number % len(strange)]) for number, name in enumerate(names)]
    file.write_bytes(b"\n".join(b"%08x %b" % (zlib.crc32(body), body) for body in bodies))
    assert render(run, rows, Previews(store, "r")) == fresh


def test_two_reports_that_are_written_at_once_both_are_right(
    run: RunSummary, rows: list[Row], store: Store, decoded: Counter[str]
) -> None:
    fresh = render(run, rows[:2]), render(run, rows[2:])
    first, second = Previews(store, "r"), Previews(store, "r")
    assert render(run, rows[:2], first) == fresh[0]
    assert render(run, rows[2:], second) == fresh[1]
    decoded.clear()
    assert render(run, rows[2:], Previews(store, "r")) == fresh[1]
    assert decoded["pictures"] == 0, "the later file stays"
    assert render(run, rows[:2], Previews(store, "r")) == fresh[0]


def test_a_store_that_cannot_be_written_or_read_costs_only_time(
    run: RunSummary, rows: list[Row], tmp_path: Path
) -> None:
    (tmp_path / "a-file").write_text("")
    in_the_way = Store(str(tmp_path / "a-file"))
    page = write_report(str(tmp_path / "report.html"), run, rows, Previews(in_the_way, "r"))
    assert Path(page).read_text("utf-8") == render(run, rows)


@pytest.fixture
def bucket() -> Iterator[Store]:
    yield Store("memory://previews-bucket/store")
    MemoryFileSystem().rm("/previews-bucket", recursive=True)


def test_a_report_of_a_remote_store_reads_one_file_and_writes_only_itself(
    run: RunSummary, rows: list[Row], bucket: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[str] = []

    def count(name: str) -> None:
        call = getattr(MemoryFileSystem, name)

        def counted(self: Any, path: str, *more: Any, **options: Any) -> Any:
            requests.append(path.rpartition("previews-bucket")[2])
            return call(self, path, *more, **options)

        monkeypatch.setattr(MemoryFileSystem, name, counted)

    for name in ("cat_file", "pipe_file", "info", "ls", "_open"):
        count(name)
    for row in rows:
        row["output"] = bucket.put_image(ImageRef.from_dict(row["output"])).to_dict()
    write_report(bucket.location("report.html"), run, rows, Previews(bucket, "r"))
    forget_bytes()
    requests.clear()
    write_report(bucket.location("report.html"), run, rows, Previews(bucket, "r"))
    (kept,) = {path for path in requests if not path.endswith("report.html")}
    assert kept.startswith("/store/previews/")
    assert len(requests) < 8
