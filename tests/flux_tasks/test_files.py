"""Bytes on locations: what a killed writer leaves, how a local name may be written, and what is an ``OSError``."""

from __future__ import annotations

import io
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st
from object_stores import moto_s3, new_bucket_name, reach_s3

from flux_tasks import files

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def run_until_killed(code: str, *arguments: str) -> None:
    run = subprocess.run([sys.executable, "-c", code, *arguments], env=ENVIRONMENT, capture_output=True)
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()


# -- atomic writes ----------------------------------------------------------------------------------------------------

# A writer that is killed when it calls the function of ``os`` whose name it is given.
KILLED_AT = """
import os, signal, sys
from pathlib import Path
from flux_tasks import files

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

place, step, act = sys.argv[1:]
if step == "replace":
    Path.replace = die
else:
    setattr(os, step, die)
getattr(files, act)(place, b"new" * 1_000_000)
"""


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_writer_killed_before_it_is_done_leaves_the_old_bytes(tmp_path: Path, step: str) -> None:
    place = tmp_path / "record.json"
    files.write(place, b"old")
    run_until_killed(KILLED_AT, str(place), step, "write")
    assert files.read(place) == b"old"
    assert files.listing(str(tmp_path)) == ["record.json"]


@pytest.mark.parametrize("step", ["fsync", "link"])
def test_a_creator_killed_before_it_is_done_leaves_nothing_and_blocks_nobody(tmp_path: Path, step: str) -> None:
    place = tmp_path / "record.json"
    run_until_killed(KILLED_AT, str(place), step, "create")
    assert not files.exists(place)
    assert files.listing(str(tmp_path)) == []
    assert files.create(place, b"next")


def test_a_writer_killed_at_any_moment_leaves_one_version_whole(tmp_path: Path) -> None:
    place = tmp_path / "record.bin"
    versions = [bytes([65 + n]) * 3_000_000 for n in range(3)]
    files.write(place, versions[0])
    code = (
        "import itertools, sys; from flux_tasks import files\n"
        "for n in itertools.count(): files.write(sys.argv[1], bytes([65 + n % 3]) * 3_000_000); print(n, flush=True)"
    )
    for round_ in range(6):
        command = [sys.executable, "-c", code, str(place)]
        with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            for _ in range(round_ + 1):
                writer.stdout.readline()
            writer.kill()
        assert files.read(place) in versions


def test_a_write_that_fails_leaves_the_old_bytes_and_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "record.json"
    files.write(place, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write(place, b"new")
    assert files.read(place) == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_a_reader_that_has_the_file_open_keeps_the_old_version_whole(tmp_path: Path) -> None:
    place = tmp_path / "record.bin"
    files.write(place, b"old" * 1000)
    with place.open("rb") as reader:
        files.write(place, b"new")
        assert reader.read() == b"old" * 1000


def test_a_written_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    files.write(tmp_path / "a.png", b"x")
    files.create(tmp_path / "b.png", b"x")
    (tmp_path / "c.png").write_bytes(b"x")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.png", "b.png", "c.png")}
    assert len(modes) == 1


def test_folders_are_made_on_the_way(tmp_path: Path) -> None:
    files.write(tmp_path / "a" / "b" / "c.png", b"x")
    assert files.create(tmp_path / "d" / "e" / "f.png", b"x")
    assert files.read(tmp_path / "a" / "b" / "c.png") == files.read(tmp_path / "d" / "e" / "f.png")


# -- exclusive creation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["", "memory://"])
@pytest.mark.usefixtures("eager_threads")
def test_one_of_many_creators_wins_and_its_bytes_stay(tmp_path: Path, scheme: str) -> None:
    barrier = threading.Barrier(8)

    def create(number: int) -> list[bool]:
        won = []
        for round_ in range(30):
            barrier.wait()
            won.append(files.create(f"{scheme}{tmp_path}/{round_}.json", bytes([number]) * 1000))
        return won

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
    for round_ in range(30):
        winners = [number for number in range(8) if won[number][round_]]
        assert len(winners) == 1
        assert files.read(f"{scheme}{tmp_path}/{round_}.json") == bytes(winners) * 1000
        files.remove(f"{scheme}{tmp_path}/{round_}.json")


def test_a_dangling_link_counts_as_something_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "record.json").symlink_to(tmp_path / "nowhere")
    assert not files.create(tmp_path / "record.json", b"x")
    assert not (tmp_path / "nowhere").exists()


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "two words.png",
        "Größe 港.png",
        "100%.png",
        "a%20b.png",
        "a[1].png",
        "what?.png",
        "star*.png",
        "#1.png",
        "-r.png",
    ],
)
def test_a_file_of_any_name_is_written_read_listed_and_found(tmp_path: Path, name: str) -> None:
    for location in (str(tmp_path / name), (tmp_path / name).as_uri(), f"local://{tmp_path / name}"):
        files.write(location, b"x")
        assert files.is_local(location)
        assert files.local_path(location) == tmp_path / name
        assert files.read(location) == b"x"
        assert files.size(location) == 1
        assert files.listing(str(tmp_path)) == [name]
        assert files.glob(f"{tmp_path}/*") == [str(tmp_path / name)]
        files.remove(location)
        assert not files.exists(location)


@given(name=st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_a_file_url_names_the_same_file_as_its_path(name: str) -> None:
    path = Path("/photos") / name
    assert files.local_path(path.as_uri()) == path


def test_a_file_url_with_a_relative_path_or_this_machine_as_its_host_is_understood() -> None:
    assert files.local_path("file://localhost/photos/a.jpg") == Path("/photos/a.jpg")
    assert files.local_path("file://photos/a.jpg") == Path("photos/a.jpg")


def test_a_tilde_is_the_home_folder_and_a_name_that_begins_with_one_is_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    files.write("~/a.png", b"home")
    assert (tmp_path / "a.png").read_bytes() == b"home"
    assert files.glob("~/*.png") == [str(tmp_path / "a.png")]
    files.write("~lock of a.png", b"here")
    assert (tmp_path / "~lock of a.png").read_bytes() == b"here"


@pytest.mark.parametrize(
    ("location", "joined"),
    [
        ("out", "out/x"),
        ("out/", "out/x"),
        ("/", "/x"),
        ("/out//", "/out/x"),
        ("s3://bucket", "s3://bucket/x"),
        ("s3://bucket/prefix/", "s3://bucket/prefix/x"),
        ("memory://", "memory://x"),
        ("file:///", "file:///x"),
    ],
)
def test_parts_are_joined_with_one_slash_between_them(location: str, joined: str) -> None:
    assert files.join(location, "x") == joined
    assert files.join(location, "x", "y") == f"{joined}/y"
    assert files.join(location) == location


# -- what goes wrong --------------------------------------------------------------------------------------------------


def test_what_is_missing_has_no_size_is_not_there_and_cannot_be_read(tmp_path: Path) -> None:
    place = tmp_path / "none.png"
    assert files.size(place) is None
    assert not files.exists(place)
    files.remove(place)
    with pytest.raises(FileNotFoundError):
        files.read(place)
    assert files.listing(str(tmp_path / "none")) == []
    assert files.listing(str(tmp_path / "none" / "deeper")) == []


def test_a_folder_is_neither_read_nor_replaced(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").mkdir()
    with pytest.raises(IsADirectoryError):
        files.read(tmp_path / "x.jpg")
    with pytest.raises(OSError, match=r"x\.jpg"):
        files.write(tmp_path / "x.jpg", b"x")
    assert not files.create(tmp_path / "x.jpg", b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["x.jpg"]
    assert files.glob(f"{tmp_path}/*.jpg") == [f"{tmp_path}/x.jpg"], "who takes it for a picture should be told"
    assert files.glob(f"{tmp_path}/*") == []


def test_a_file_in_the_place_of_a_folder_is_an_oserror(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for act in (files.read, files.size, lambda p: files.write(p, b"x"), lambda p: files.create(p, b"x")):
        with pytest.raises(OSError, match="file"):
            act(str(tmp_path / "file" / "below.png"))
    assert files.listing(str(tmp_path / "file")) == []


# Root may do everything, so it first becomes somebody else.
DENIED = """
import os, sys
from flux_tasks import files
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
for act in (lambda: files.read(sys.argv[1] + "/secret.png"), lambda: files.write(sys.argv[1] + "/new.png", b"x")):
    try:
        act()
    except PermissionError as error:
        print("denied" in str(error) and sys.argv[1] in str(error))
"""


def test_a_denied_permission_is_a_permissionerror_that_names_the_file() -> None:
    with tempfile.TemporaryDirectory() as name:  # not tmp_path, whose parents are closed to others
        folder = Path(name)
        (folder / "secret.png").write_bytes(b"x")
        (folder / "secret.png").chmod(0)
        folder.chmod(0o555)
        command = [sys.executable, "-c", DENIED, name]
        run = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
        folder.chmod(0o755)
    assert run.stdout.split() == ["True", "True"], run.stderr


@pytest.mark.parametrize("location", ["a\0b.png", "\ud800.png", "x" * 5000, "nosuch://bucket/x", "::", "s3://"])
def test_a_location_that_cannot_be_is_an_oserror(location: str) -> None:
    with pytest.raises(OSError):  # noqa: PT011 - the system's own words
        files.read(location)


def test_a_library_of_a_rarer_protocol_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "smbclient", None)
    with pytest.raises(OSError, match=r"smb.*install it"):
        files.read("smb://host/x.png")


# -- limits -----------------------------------------------------------------------------------------------------------


def test_a_file_longer_than_the_limit_is_refused_without_being_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(1 << 40)  # sparse: 1 TiB of nothing
    with pytest.raises(OSError, match=r"huge\.png: 1,099,511,627,776 bytes, more than the limit of 1,000"):
        files.read(tmp_path / "huge.png", limit=1000)


def test_a_device_that_never_ends_is_read_to_the_limit_only() -> None:
    with pytest.raises(OSError, match="more than the limit"):
        files.read("/dev/zero", limit=1000)
    assert files.read("/dev/null", limit=1000) == b""


# -- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_a_stream_gives_the_bytes_bit_by_bit_and_can_go_back(tmp_path: Path, scheme: str) -> None:
    place, data = f"{scheme}{tmp_path}/table.csv", bytes(range(256)) * 5_000
    files.write(place, data)
    try:
        with files.stream(place) as file:
            assert file.read(10) == data[:10]
            assert file.read() == data[10:]
            assert file.read() == b""
            assert (file.seek(-3, os.SEEK_END), file.read()) == (len(data) - 3, data[-3:])
            assert (file.seek(256), file.readline(), file.tell()) == (256, data[: 10 + 1], 256 + 11)
        assert file.closed
    finally:
        files.remove(place)


def test_a_stream_from_an_object_store_gives_the_bytes(s3_endpoint: str) -> None:
    data, bucket = os.urandom(7_000_000), new_bucket_name()  # more than one block
    with reach_s3(s3_endpoint):
        fsspec.filesystem("s3").mkdir(bucket)
        files.write(f"s3://{bucket}/table.parquet", data)
        with files.stream(f"s3://{bucket}/table.parquet") as file:
            assert b"".join(iter(lambda: file.read(100_000), b"")) == data
        with pytest.raises(FileNotFoundError):
            files.stream(f"s3://{bucket}/none.parquet")


def test_an_object_on_s3_is_read_by_one_request_however_large_so_that_it_is_never_of_two_versions() -> None:
    book: list[str] = []
    with moto_s3(book) as endpoint, reach_s3(endpoint, default_block_size=100_000):
        place = f"s3://{(bucket := new_bucket_name())}/a.png"
        files.exists(place)  # imports the library the way this one does
        fsspec.filesystem("s3").mkdir(bucket)
        for data in (b"", b"small", os.urandom(250_000)):
            files.write(place, data)
            book.clear()
            assert files.read(place) == data
            assert book == [f"GET /{bucket}/a.png?"]


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_a_stream_of_what_is_missing_or_a_folder_is_an_oserror(tmp_path: Path, scheme: str) -> None:
    with pytest.raises(FileNotFoundError):
        files.stream(f"{scheme}{tmp_path}/none.csv")
    with pytest.raises(OSError):  # noqa: PT011 - the system's own words
        files.stream(f"{scheme}{tmp_path}")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "table.csv")
    with pytest.raises(OSError, match="a pipe, not a file"):
        files.stream(tmp_path / "table.csv")


class Failing(MemoryFileSystem):
    """A store whose library has exceptions of its own, which come while a file is read."""

    protocol = "failing"
    store: ClassVar[dict[str, object]] = {}

    def _open(self, *_: object, **__: object) -> io.IOBase:
        class Broken(io.BytesIO):
            def read(self, *_: object) -> bytes:
                raise LookupError("HTTP 500")

        return Broken()


def test_what_fails_while_a_stream_is_read_is_an_oserror_that_names_the_file() -> None:
    fsspec.register_implementation("failing", Failing, clobber=True)
    with (
        files.stream("failing://bucket/table.csv") as file,
        pytest.raises(OSError, match=r"failing://bucket/table\.csv: LookupError: HTTP 500"),
    ):
        file.read(10)


# -- glob -------------------------------------------------------------------------------------------------------------


def test_a_web_address_is_one_location_because_the_web_cannot_be_listed() -> None:
    assert files.glob("https://example.com/a.png?size=*") == ["https://example.com/a.png?size=*"]


def test_a_glob_is_sorted_finds_what_is_called_like_a_file_and_keeps_the_patterns_own_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("in/b.png", "in/a.png", "in/deep/c.png", "in/.hidden.png", "in/a.txt"):
        files.write(tmp_path / name, b"x")
    (tmp_path / "in" / "folder.png").mkdir()
    monkeypatch.chdir(tmp_path)
    assert files.glob("in/*.png") == ["in/a.png", "in/b.png", "in/folder.png"]
    assert files.glob("in/**/*.png") == ["in/a.png", "in/b.png", "in/deep/c.png", "in/folder.png"]
    assert files.glob("in/**") == ["in/a.png", "in/a.txt", "in/b.png", "in/deep/c.png"]
    assert files.glob("in/a.png") == ["in/a.png"]
    assert files.glob("in/[b-z].*") == ["in/b.png"]
    assert files.glob("none/*.png") == []
    assert files.glob(f"{tmp_path}/in/*.txt") == [f"{tmp_path}/in/a.txt"]
