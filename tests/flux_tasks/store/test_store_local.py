"""The store in a local folder, which many processes may share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from forked import Forked
from store_conformance import KEY, ConcurrencyConformance, StoreConformance, encoded

from flux_tasks.store.journal import Journal
from flux_tasks.store.records import Store


def relative(url: str) -> str:
    return os.path.relpath(url)


class TestLocal(StoreConformance, ConcurrencyConformance):
    spellings = (
        *StoreConformance.spellings,
        lambda url: Path(url).as_uri(),
        lambda url: f"local://{url}",
        relative,
        lambda url: f"{url}/../{Path(url).name}",
    )

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return str(tmp_path / "a store")

    def test_of_many_processes_that_create_one_record_exactly_one_wins(self, url: str) -> None:
        code = (
            "import sys; from flux_tasks.store import Store; store = Store(sys.argv[1]); print('ready', flush=True)\n"
            "sys.stdin.readline()\n"
            "print([n for n in range(40) if store.create_record('journal', str(n), {'owner': sys.argv[2]})])"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        processes = [
            Forked(
                [sys.executable, "-c", code, url, str(owner)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for owner in range(4)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        won = [eval(process.communicate()[0]) for process in processes]
        assert sorted(number for numbers in won for number in numbers) == list(range(40))
        for owner, numbers in enumerate(won):
            assert all(Store(url).record("journal", str(n)) == {"owner": str(owner)} for n in numbers)

    def test_the_home_folder_may_be_written_as_a_tilde(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        assert Store("~/store").url == str(tmp_path / "store")

    def test_a_store_stays_where_it_was_opened_when_the_working_folder_changes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        store = Store("store")
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        image = store.put_image(encoded())
        assert Path(image.uri).is_relative_to(tmp_path / "store")

    def test_nothing_but_the_store_itself_is_left_in_its_folder(self, url: str) -> None:
        store = Store(url)
        store.put_result(KEY, store.put_image(encoded()), {})
        store.create_record("journal", KEY, {})
        store.create_record("journal", KEY, {})
        store.remove_record("journal", KEY)
        names = sorted(p.relative_to(url).as_posix() for p in Path(url).rglob("*") if p.is_file())
        assert [name.split("/")[0] for name in names] == ["blobs", "results"]

    def test_a_folder_that_cannot_be_made_is_an_oserror(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(OSError, match="file"):
            Store(str(tmp_path / "file")).put_image(encoded())

    def test_a_half_written_temporary_file_is_no_journal_entry(self, url: str) -> None:
        folder = Path(url, "journal")
        folder.mkdir(parents=True)
        (folder / ".job.json.abc.tmp").write_text('{"key"')
        assert Journal(Store(url)).entries() == []
