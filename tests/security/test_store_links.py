"""Links inside the store: nothing outside is ever overwritten, and what is not the result is never given out as one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fake_bfl import FakeBfl
from pictures import encoded, noise
from waiting import PATIENCE

from flux_tasks import background, files
from flux_tasks.catalog import TOOLS
from flux_tasks.errors import FluxError, InvalidImage
from flux_tasks.images import byte_cache
from flux_tasks.images.reference import ImageRef
from flux_tasks.jobs import endpoint, job
from flux_tasks.jobs.call import prepare
from flux_tasks.jobs.result import JobResult
from flux_tasks.settings import Settings
from flux_tasks.store.journal import Entry, Journal
from flux_tasks.store.records import Store

KINDS = ["file", "other", "dangling", "loop", "folder", "circle", "device"]
"""What a link points to: a file, one of the right size, nothing, itself, a folder, another link back, /dev/null."""

PRECIOUS = b"precious, and of nobody's business"


@pytest.fixture
def settings(bfl: FakeBfl, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    monkeypatch.setattr(files.access, "PAUSES", (0.01, 0.01, 0.01))
    made = Settings(endpoint=bfl.url, key=key, store=str(tmp_path / "store"), poll_interval=0.001)
    yield made
    background.run(endpoint.close(made))


def perform(settings: Settings, **options: Any) -> JobResult:
    """One job, as a process that has never seen any of its pictures. One that does not end is a failure."""
    byte_cache.shared._entries.clear()
    call = prepare(TOOLS["deblur-v1"], {"image": encoded(noise((96, 80)))})
    future = background.start(job.execute(call, settings, **options))
    try:
        return future.result(timeout=PATIENCE)
    except FutureTimeout:
        raise AssertionError("it does not end") from None
    finally:
        future.cancel()
        byte_cache.shared._entries.clear()


def link(place: Path, kind: str, outside: Path, size: int = 0) -> None:
    """Put a link of ``kind`` where ``place`` is, to something in ``outside``."""
    outside.mkdir(exist_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    target = outside / "target"
    if kind == "file":
        target.write_bytes(PRECIOUS)
    elif kind == "other":
        target.write_bytes(PRECIOUS.ljust(size, b"."))
    elif kind == "folder":
        target.mkdir()
    elif kind == "loop":
        target = place
    elif kind == "circle":
        target.symlink_to(place)
    elif kind == "device":
        target = Path("/dev/null")
    place.symlink_to(target)


def state(folder: Path) -> dict[str, bytes | str]:
    """Everything in a folder that must not change."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else "folder"
    return found


def pieces(settings: Settings) -> dict[str, Path]:
    """The files that one job leaves in the store, by kind."""
    store = Path(settings.store)
    [record] = (store / "results").iterdir()
    [blob] = [p for p in (store / "blobs").rglob("*") if p.is_file()]
    return {"record": record, "blob": blob, "journal": store / "journal" / record.name}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("piece", ["record", "blob"])
def test_a_link_where_a_record_or_blob_belongs_is_not_believed_and_what_it_leads_to_is_not_touched(
    settings: Settings, bfl: FakeBfl, tmp_path: Path, piece: str, kind: str
) -> None:
    first = perform(settings)
    place = pieces(settings)[piece]
    good = place.read_bytes()
    outside = tmp_path / "outside"
    link(place, kind, outside, len(good))
    before = state(outside)
    null = Path("/dev/null").stat()
    try:
        again = perform(settings)
    except (FluxError, OSError) as error:  # a store that cannot be read is said to be so, and nothing is paid
        assert bfl.jobs == 1
        assert str(place) in str(error) or place.name in str(error)
        again = None
    assert state(outside) == before
    assert Path("/dev/null").stat().st_rdev == null.st_rdev
    if again is not None:
        assert again.image.digest == first.image.digest
        assert again.outcome in ("done", "cached")
        with suppress(InvalidImage):  # a forgery of the right length is found when it is read
            assert hashlib.sha256(again.image.read()).hexdigest() == first.image.digest


@pytest.mark.parametrize("kind", KINDS)
def test_a_link_where_a_journal_entry_belongs_is_never_written_through_and_never_waited_for(
    settings: Settings, bfl: FakeBfl, tmp_path: Path, kind: str
) -> None:
    perform(settings)
    found = pieces(settings)
    found["record"].unlink()
    (tmp_path / "store" / "copies" / found["record"].name).unlink()
    outside = tmp_path / "outside"
    link(found["journal"], kind, outside, 300)
    before = state(outside)
    null = Path("/dev/null").stat()
    try:
        result = perform(settings)
    except (FluxError, OSError):
        assert bfl.jobs == 1, "what may have been paid for is not paid again"
    else:
        assert result.outcome == "done"
        assert bfl.jobs == 2
    assert state(outside) == before
    assert Path("/dev/null").stat().st_rdev == null.st_rdev


@pytest.mark.parametrize("kind", ["dangling", "loop", "circle"])
def test_a_link_that_leads_nowhere_in_the_journal_is_not_taken_for_a_free_place(
    settings: Settings, tmp_path: Path, kind: str
) -> None:
    outside = tmp_path / "outside"
    link(tmp_path / "store" / "journal" / "k1.json", kind, outside)
    before = state(outside)
    journal = Journal(Store(settings.store))
    with suppress(OSError):  # a store that cannot be read is an error
        assert journal.intend(Entry(key="k1", tool="deblur-v1", phase="intent")) is False
    with suppress(OSError):
        journal.settle("k1")
    assert state(outside) == before


def test_a_forged_blob_of_the_right_length_is_not_given_out_as_a_result(
    settings: Settings, bfl: FakeBfl, tmp_path: Path
) -> None:
    perform(settings)
    blob = pieces(settings)["blob"]
    good = blob.read_bytes()
    forged = encoded(noise((96, 80), seed=5))
    forged = forged.ljust(len(good), b"\0")[: len(good)]
    (tmp_path / "forged.png").write_bytes(forged)
    blob.unlink()
    blob.symlink_to(tmp_path / "forged.png")
    try:
        result = perform(settings)
        assert result.image.read() == good
    except InvalidImage as error:
        assert "changed" in str(error) or "damaged" in str(error)
    assert (tmp_path / "forged.png").read_bytes() == forged


@pytest.mark.parametrize("extension", ["png", "jpg"])
def test_a_run_never_writes_a_forged_blob_as_its_output(
    cli: Any, bfl: FakeBfl, photos: Path, tmp_path: Path, extension: str
) -> None:
    steps = f"steps: [deblur]\noutput: {{path: 'out/{{{{ stem }}}}.{extension}'}}\n"
    (tmp_path / "recipe.yaml").write_text(f"source: {{images: 'photos/*'}}\n{steps}")
    assert set(cli("run", "recipe.yaml", "--endpoint", bfl.url).outcomes.values()) == {"done"}
    [results] = [p for p in (tmp_path / "store").iterdir() if p.name == "results"]
    record = json.loads(min(results.iterdir()).read_text())["image"]
    [blob] = (tmp_path / "store" / "blobs").rglob(f"{record['digest']}.*")
    forged = encoded(noise((96, 80), seed=9)).ljust(record["size"], b"\0")[: record["size"]]
    (tmp_path / "forged.png").write_bytes(forged)
    blob.unlink()
    blob.symlink_to(tmp_path / "forged.png")
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    byte_cache.shared._entries.clear()
    told = cli("run", "recipe.yaml", "--endpoint", bfl.url)
    name = record["name"]
    assert told.outcomes[name] in ("invalid", "failed", "done")
    written = tmp_path / "out" / f"{name}.{extension}"
    if extension == "png" and written.exists():
        assert hashlib.sha256(written.read_bytes()).hexdigest() == record["digest"]
    if extension == "jpg" and told.outcomes[name] != "done":
        assert not written.exists()
    assert (tmp_path / "forged.png").read_bytes() == forged


@pytest.mark.parametrize("folder", ["results", "journal", "blobs"])
@pytest.mark.parametrize("kind", ["loop", "dangling", "file"])
def test_a_folder_of_the_store_that_is_a_bad_link_is_an_error_and_costs_no_job_twice(
    settings: Settings, bfl: FakeBfl, tmp_path: Path, folder: str, kind: str
) -> None:
    outside = tmp_path / "outside"
    link(tmp_path / "store" / folder, kind, outside)
    before = state(outside)
    try:
        result = perform(settings)
    except (FluxError, OSError) as error:
        assert folder in str(error)
        assert bfl.jobs <= 1
    else:
        assert result.image.read()
    assert state(outside) == before
    (tmp_path / "store" / folder).unlink()
    assert perform(settings).image.read()
    assert bfl.jobs == 1, "the job that the broken folder could not take is collected, or was never made"


@pytest.mark.parametrize(
    "digest",
    [
        "../outside/target",
        "../../outside/target",
        "/etc/passwd",
        "..",
        "",
        "x" * 5000,
        "ab\0cd",
        "../../../../../../../../etc/passwd\0",
    ],
    ids=ascii,
)
@pytest.mark.parametrize("field", ["digest", "media_type"])
def test_a_forged_record_leads_to_no_file_outside_the_blobs(
    settings: Settings, bfl: FakeBfl, tmp_path: Path, digest: str, field: str
) -> None:
    first = perform(settings)
    place = pieces(settings)["record"]
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "target.png").write_bytes(PRECIOUS)
    (outside / "target.bin").write_bytes(PRECIOUS)
    record = json.loads(place.read_text())
    record["image"][field] = digest
    record["image"]["size"] = len(PRECIOUS) if field == "digest" else record["image"]["size"]
    record["image"]["uri"] = str(outside / "target.png")
    place.write_text(json.dumps(record))
    before = state(outside)
    result = perform(settings)
    assert result.image.digest == first.image.digest
    assert result.image.read() != PRECIOUS
    assert str(outside) not in result.image.uri
    assert state(outside) == before


def test_putting_a_blob_where_a_link_stands_replaces_the_link(tmp_path: Path) -> None:
    data = encoded(noise((96, 80)))
    store = Store(str(tmp_path / "store"))
    place = Path(store.put_image(data).uri)
    for kind in KINDS:
        outside = tmp_path / f"outside-{kind}"
        link(place, kind, outside, len(data) - 1)
        before = state(outside)
        image = store.put_image(data)
        assert store.read_image(image) == data, kind
        assert ImageRef.of(image.uri).digest == image.digest, kind
        assert state(outside) == before, kind


def test_the_journals_list_has_an_end_whatever_is_linked_into_it(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "store" / "journal"
    for number, kind in enumerate(KINDS):
        link(folder / f"{number}.json", kind, tmp_path / f"outside-{kind}", 50)
    (folder / "up").symlink_to(folder.parent)
    journal = Journal(Store(settings.store))
    with suppress(OSError):  # a store that cannot be read is an error, and never an empty journal
        assert len(journal.entries()) >= 2
    for number, kind in enumerate(KINDS):
        if kind in ("loop", "circle"):
            (folder / f"{number}.json").unlink()
    assert {entry.phase for entry in journal.entries()} == {"intent"}
