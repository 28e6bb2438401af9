"""What every backend of the store must do. A backend's test file inherits these classes and gives a ``url``.

``ConcurrencyConformance`` is apart, because it asks for conditional and atomic writes, which not every S3 server has.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pictures import encoded, noise

from flux_tasks import files
from flux_tasks.errors import InvalidImage
from flux_tasks.images.reference import ImageRef
from flux_tasks.store import exclusion
from flux_tasks.store.inventory import Inventory
from flux_tasks.store.journal import Entry, Journal
from flux_tasks.store.records import Store

__all__ = ["ConcurrencyConformance", "StoreConformance"]

KEY = "k" * 64
TORN_WRITES = 24


def entry(key: str = KEY) -> Entry:
    return Entry(key=key, tool="deblur-v1", phase="intent", name="harbour", estimate=3.0)


def blob_of(url: str, data: bytes, extension: str = "png") -> str:
    digest = hashlib.sha256(data).hexdigest()
    return files.join(url, "blobs", digest[:2], f"{digest}.{extension}")


class StoreConformance:
    """Blobs, results, records, inputs and outputs on one backend."""

    spellings: tuple[Callable[[str], str], ...] = (lambda url: url + "/", lambda url: url + "//")
    """Other ways to write the same folder."""

    is_exclusive = True
    """Whether it keeps several processes apart; then the backend has ``ConcurrencyConformance``, too."""

    @pytest.fixture
    def url(self) -> str:
        """An empty folder of the backend."""
        raise NotImplementedError

    # -- what is in it ------------------------------------------------------------------------------------------------

    def test_damage_is_listed_and_put_right_and_only_what_nothing_names_is_removed(self, url: str) -> None:
        store = Store(url)
        assert list(Inventory(store).flaws()) == []
        named, orphan = (store.put_image(encoded(noise((8, 8), seed=seed))) for seed in (1, 2))
        store.put_result(KEY, named, {"job_id": "job-1", "cost": 3.0, "tool": "deblur-v1"}, is_paid=True)
        young = Inventory(store)
        assert set(young.blobs) == {named.digest, orphan.digest}
        assert all(file.size and time.time() - (file.modified or 0) < 86_400 for file in young.blobs.values())
        assert young.unnamed(days=1) == []
        assert list(young.flaws()) == []

        files.write(named.uri, b"damaged")
        files.remove(store.location("results", f"{KEY}.json"))
        found = Inventory(store)
        flaws = list(found.flaws())
        assert {flaw.place for flaw in flaws} == {f"blobs/{named.uri.partition('/blobs/')[2]}", f"results/{KEY}.json"}
        whole = encoded(noise((8, 8), seed=1))
        assert all(found.repair(flaw, {"job-1": whole}.get) for flaw in flaws)
        assert list(Inventory(store).flaws()) == []
        assert store.read_image(named) == whole

        later = Inventory(store)
        unnamed = later.unnamed(days=-1)  # as if all were written long ago
        assert [file.name for file in unnamed] == [orphan.uri.partition("/blobs/")[2]]
        Journal(store).put(entry("j" * 64))
        assert list(later.remove(unnamed)) == [], "a job is on its way"
        Journal(store).settle("j" * 64, "")
        assert list(later.remove(unnamed)) == unnamed
        assert set(Inventory(store).blobs) == {named.digest}

    # -- blobs --------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(("kind", "extension"), [("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp")])
    def test_a_delivery_is_kept_byte_for_byte_under_its_digest(self, url: str, kind: str, extension: str) -> None:
        data = encoded(kind=kind) + b"" + (b"\0" * 7 if kind == "PNG" else b"")  # content credentials may follow
        image = Store(url).put_image(data, name="harbour")
        assert files.read(blob_of(url, data, extension)) == data
        assert image.uri == blob_of(url, data, extension)
        assert (image.digest, image.size) == (hashlib.sha256(data).hexdigest(), len(data))
        assert (image.name, image.data) == ("harbour", None)
        assert Store(url).has_image(image)

    def test_a_damaged_blob_is_never_given_out(self, url: str) -> None:
        data = encoded()
        image = Store(url).put_image(data)
        files.write(image.uri, data[:-1] + b"?")
        with pytest.raises(InvalidImage, match="damaged"):
            Store(url).read_image(image)

    def test_a_blob_that_is_there_is_not_written_again(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        store = Store(url)
        written: list[str] = []
        write = files.write
        monkeypatch.setattr(files, "write", lambda location, data: (written.append(location), write(location, data)))
        for _ in range(3):
            store.put_image(encoded())
        assert len(written) == 1

    def test_a_blob_that_was_left_short_is_written_again(self, url: str) -> None:
        data = encoded()
        files.write(blob_of(url, data), data[:100])
        image = Store(url).put_image(data)
        assert Store(url).read_image(image) == data

    def test_what_is_no_image_is_not_kept(self, url: str) -> None:
        with pytest.raises(InvalidImage):
            Store(url).put_image(b"<html>502 Bad Gateway</html>")
        assert files.listing(files.join(url, "blobs")) == []

    # -- results ------------------------------------------------------------------------------------------------------

    def test_a_result_is_found_by_another_client_of_the_same_store(self, url: str) -> None:
        image = Store(url).put_image(encoded(), name="harbour")
        Store(url).put_result(KEY, image, {"tool": "deblur-v1", "cost": 3.0})
        found = Store(url).result(KEY)
        assert found is not None
        assert (found["tool"], found["cost"]) == ("deblur-v1", 3.0)
        assert found["image"] == image
        assert Store(url).read_image(found["image"]) == encoded()

    def test_a_job_that_was_never_done_has_no_result(self, url: str) -> None:
        assert Store(url).result(KEY) is None

    def test_a_record_whose_blob_has_gone_is_not_a_result(self, url: str) -> None:
        store = Store(url)
        image = store.put_image(encoded())
        store.put_result(KEY, image, {})
        files.remove(image.uri)
        assert store.result(KEY) is None
        assert not store.has_image(image)

    def test_a_result_is_found_under_another_spelling_of_the_same_folder(self, url: str) -> None:
        Store(url).put_result(KEY, Store(url).put_image(encoded()), {})
        for spelling in self.spellings:
            found = Store(spelling(url)).result(KEY)
            assert found is not None, spelling(url)
            assert found["image"].open().tobytes() == noise().tobytes()

    def test_a_record_whose_blob_was_shortened_is_not_a_result(self, url: str) -> None:
        store = Store(url)
        image = store.put_image(encoded())
        store.put_result(KEY, image, {})
        files.write(image.uri, encoded()[:-1])
        assert store.result(KEY) is None

    @pytest.mark.parametrize(
        "damage",
        [
            b"",
            b'{"key": "k", "im',
            b"\xff\xfe",
            b"null",
            b"[]",
            b"{}",
            b'{"image": null}',
            b'{"image": []}',
            b'{"image": {"digest": 5, "media_type": "image/png", "width": 1, "height": 1, "size": 9}}',
            b'{"image": {"digest": "ab", "media_type": ["x"], "width": 1, "height": 1, "size": 9}}',
        ],
        ids=["empty", "cut", "no-text", "null", "list", "no-image", "null-image", "list-image", "digest", "type"],
    )
    def test_a_damaged_record_is_not_a_result(self, url: str, damage: bytes) -> None:
        files.write(files.join(url, "results", f"{KEY}.json"), damage)
        assert Store(url).result(KEY) is None

    def test_a_record_names_no_place_so_that_the_store_can_be_moved(self, url: str) -> None:
        store = Store(url)
        store.put_result(KEY, store.put_image(encoded()), {})
        assert b"uri" not in files.read(files.join(url, "results", f"{KEY}.json"))

    # -- records and listings -----------------------------------------------------------------------------------------

    def test_removing_twice_is_the_same_as_removing_once(self, url: str) -> None:
        store = Store(url)
        store.put_record("runs", "one", {})
        store.remove_record("runs", "one")
        store.remove_record("runs", "one")
        assert store.record("runs", "one") is None
        assert store.records("runs") == []

    def write_elsewhere(self, location: str, data: bytes) -> None:
        """Write as another process would: through no connection or cache of this one."""
        files.write(location, data)

    def test_what_another_process_wrote_is_seen_and_listed_at_once(self, url: str) -> None:
        store = Store(url)
        assert store.records("runs") == []
        for number in range(3):
            assert store.record("runs", f"r{number}") is None
            self.write_elsewhere(files.join(url, "runs", f"r{number}.json"), b"{}")
            assert store.records("runs") == [f"r{n}" for n in range(number + 1)]
            assert store.record("runs", f"r{number}") == {}
        self.write_elsewhere(files.join(url, "runs", "r0.json"), b'{"new": 1}')
        assert store.record("runs", "r0") == {"new": 1}
        assert files.glob(files.join(url, "runs", "*.json"))[0].endswith("/runs/r0.json")

    @pytest.mark.parametrize("name", ["two words", "Größe 港", "50% off", "a+b=c&d", "x@y,z;(1)!", "it's"])
    def test_a_store_may_lie_below_a_folder_of_any_name(self, url: str, name: str) -> None:
        store = Store(files.join(url, name, "store"))
        image = store.put_image(encoded())
        store.put_result(KEY, image, {})
        store.put_record("runs", name, {"name": name})
        assert Store(store.url).result(KEY) is not None
        assert store.records("runs") == [name]
        assert store.record("runs", name) == {"name": name}
        store.remove_record("runs", name)
        assert store.records("runs") == []

    def test_a_record_survives_with_every_kind_of_value(self, url: str) -> None:
        record = {"text": "Hafen – 港", "number": 4.5, "none": None, "list": [1, [2]], "flag": True, "empty": {}}
        Store(url).put_record("runs", "one", record)
        assert Store(url).record("runs", "one") == record

    def test_a_record_that_is_no_json_object_is_an_error_and_one_that_is_missing_is_none(self, url: str) -> None:
        store = Store(url)
        assert store.record("runs", "none") is None
        for damage in (b"", b"[1]", b"null"):
            files.write(files.join(url, "runs", "bad.json"), damage)
            with pytest.raises(ValueError):  # noqa: PT011 - json's own message, or ours
                store.record("runs", "bad")

    def test_a_record_is_replaced_by_a_shorter_one_without_a_rest(self, url: str) -> None:
        store = Store(url)
        store.put_record("runs", "one", {"long": "x" * 10_000})
        store.put_record("runs", "one", {"short": 1})
        assert store.record("runs", "one") == {"short": 1}

    def test_a_listing_names_files_only_and_only_those_directly_in_the_folder(self, url: str) -> None:
        files.write(files.join(url, "runs", "one.json"), b"{}")
        files.write(files.join(url, "runs", "deep", "two.json"), b"{}")
        assert files.listing(files.join(url, "runs")) == ["one.json"]
        assert files.listing(files.join(url, "nothing")) == []

    # -- concurrency --------------------------------------------------------------------------------------------------

    def test_many_writers_of_one_blob_agree(self, url: str) -> None:
        with ThreadPoolExecutor(8) as pool:
            images = list(pool.map(lambda _: Store(url).put_image(encoded()), range(8)))
        assert len(set(images)) == 1
        assert Store(url).read_image(images[0]) == encoded()

    def test_whether_it_keeps_several_processes_apart_is_found_out_with_one_object_of_a_fixed_name(
        self, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for _ in range(3):  # each as a process of its own
            monkeypatch.setattr(exclusion, "_answers", {})
            assert exclusion.keeps_apart(Store(url)) is self.is_exclusive
            assert set(files.listing(files.join(url, "probe"))) <= {"create.json"}

    def test_many_that_ask_at_once_get_the_same_answer(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def ask(_: int) -> bool:
            exclusion._answers.clear()
            return exclusion.keeps_apart(Store(url))

        monkeypatch.setattr(exclusion, "_answers", {})
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(ask, range(8))) == {self.is_exclusive}

    def test_an_intent_never_replaces_one_of_an_earlier_process(self, url: str) -> None:
        journal = Journal(Store(url))
        known = entry().with_id("job-1", polling_url="", cost=3.0)
        journal.put(known)
        assert not journal.intend(entry())
        assert journal.entry(KEY) == known

    # -- inputs and outputs -------------------------------------------------------------------------------------------

    def test_an_input_is_read_from_the_backend_and_an_output_written_to_it(self, url: str, tmp_path: Path) -> None:
        source = files.join(url, "in", "my photo.png")
        files.write(source, encoded())
        image = ImageRef.of(source)
        assert (image.name, image.uri, image.width, image.height) == ("my photo", source, 64, 48)
        target = files.join(url, "out", "copy.png")
        assert image.save(target) == target
        assert files.read(target) == encoded()
        assert image.save(tmp_path / "local.png") == str(tmp_path / "local.png")
        assert (tmp_path / "local.png").read_bytes() == encoded()

    def test_a_glob_finds_files_that_can_be_opened_as_they_are_named(self, url: str) -> None:
        for name in ("b.png", "a.png", "sub dir/c.png", "note.txt"):
            files.write(files.join(url, "in", name), encoded())
        flat = files.glob(files.join(url, "in", "*.png"))
        assert [name.rsplit("/", 1)[-1] for name in flat] == ["a.png", "b.png"]
        deep = files.glob(files.join(url, "in", "**", "*.png"))
        assert [ImageRef.of(location).name for location in deep] == ["a", "b", "c"]
        assert files.glob(files.join(url, "none", "*.png")) == []

    def test_a_missing_input_is_named(self, url: str) -> None:
        with pytest.raises(InvalidImage, match=r"none\.png: no such file"):
            ImageRef.of(files.join(url, "none.png"))

    def test_a_file_longer_than_the_limit_is_refused(self, url: str) -> None:
        location = files.join(url, "long.bin")
        files.write(location, b"x" * 11)
        assert files.read(location, limit=11) == b"x" * 11
        with pytest.raises(OSError, match="more than the limit of 10"):
            files.read(location, limit=10)

    # -- journal ------------------------------------------------------------------------------------------------------

    def test_the_journal_follows_a_job_from_intent_to_settlement(self, url: str) -> None:
        journal = Journal(Store(url))
        assert journal.entry(KEY) is None
        assert journal.intend(entry())
        assert journal.entry(KEY) == Journal(Store(url)).entry(KEY)
        known = entry().with_id("job-1", polling_url="https://api.eu.bfl.ai/v1/get_result", cost=3.0)
        journal.put(known)
        assert Journal(Store(url)).entry(KEY) == known
        assert Journal(Store(url)).entries() == [known]
        journal.settle(KEY)
        journal.settle(KEY)
        assert Journal(Store(url)).entries() == []


class ConcurrencyConformance:
    """Creation with exactly one winner, which keeps two processes from paying for one job, and whole reads always."""

    def test_the_second_creation_of_a_record_fails_and_changes_nothing(self, url: str) -> None:
        store = Store(url)
        assert store.create_record("journal", KEY, {"owner": "first"})
        assert not store.create_record("journal", KEY, {"owner": "second"})
        assert not Store(url).create_record("journal", KEY, {"owner": "third"})
        assert store.record("journal", KEY) == {"owner": "first"}

    def test_of_many_threads_that_create_one_record_exactly_one_wins(self, url: str) -> None:
        threads, rounds = 8, 6
        barrier = threading.Barrier(threads)

        def create(owner: int) -> list[bool]:
            store, won = Store(url), []
            for number in range(rounds):
                barrier.wait()
                won.append(store.create_record("journal", f"job-{number}", {"owner": owner}))
            return won

        with ThreadPoolExecutor(threads) as pool:
            won = list(pool.map(create, range(threads)))
        for number in range(rounds):
            winners = [owner for owner in range(threads) if won[owner][number]]
            assert len(winners) == 1
            assert Store(url).record("journal", f"job-{number}") == {"owner": winners[0]}

    def test_a_record_may_be_created_again_once_it_was_removed(self, url: str) -> None:
        store = Store(url)
        assert store.create_record("journal", KEY, {"owner": 1})
        store.remove_record("journal", KEY)
        assert store.create_record("journal", KEY, {"owner": 2})

    def test_a_job_is_intended_once(self, url: str) -> None:
        journal = Journal(Store(url))
        assert journal.intend(entry())
        assert not Journal(Store(url)).intend(entry())
        journal.settle(KEY)
        assert journal.intend(entry())

    def test_a_reader_sees_the_old_bytes_or_the_new_and_never_a_part(self, url: str) -> None:
        location = files.join(url, "runs", "torn.bin")
        versions = [bytes([65 + n]) * 150_000 for n in range(2)]
        files.write(location, versions[0])
        done = threading.Event()

        def write() -> None:
            try:
                for number in range(TORN_WRITES):
                    files.write(location, versions[number % 2])
            finally:
                done.set()

        def read() -> list[bytes]:
            seen = []
            while not done.is_set():
                seen.append(files.read(location))
            return seen

        with ThreadPoolExecutor(3) as pool:
            readers = [pool.submit(read) for _ in range(2)]
            pool.submit(write).result()
            for reader in readers:
                assert set(reader.result()) <= set(versions)
