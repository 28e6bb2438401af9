"""Names of files: whatever a file is called, it is found, read and named by it, on every filesystem."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from cases import Cases
from hypothesis import given, settings
from hypothesis import strategies as st
from object_stores import new_bucket_name, reach_gcs, reach_s3
from scripted import Answer, ScriptedServer

from flux_tasks import files

pytestmark = pytest.mark.early

NAMES = (
    "pic#1.jpg",
    "what?x=1.jpg",
    "100%25.jpg",
    "a%20b.jpg",
    "50%2foff.jpg",
    "back\\slash.jpg",
    "IMG[1].jpg",
    "star*.jpg",
    "two  words .jpg",
    "Größe 港 🌊.jpg",
    unicodedata.normalize("NFD", "é.jpg"),
    "a.b.c.jpg",
    "-r.jpg",
    "~x.jpg",
    "q&a=b;c,d+e.jpg",
    "{x}.jpg",
    'it\'s "so".jpg',
)
LETTERS = st.characters(exclude_characters="/\0", exclude_categories=["Cs"])


def new_folder(protocol: str) -> str:
    import fsspec

    files.exists(f"{protocol}://any-bucket/any")  # imports the library the way this one does
    bucket = new_bucket_name()
    fsspec.filesystem(protocol).mkdir(bucket)
    return f"{protocol}://{bucket}/some folder"


@pytest.fixture(params=["path", "file", "memory", "s3", "gs"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A new folder on each filesystem."""
    kind = request.param
    if kind == "s3":
        with reach_s3(request.getfixturevalue("s3_endpoint")):
            yield new_folder("s3")
    elif kind == "gs":
        with reach_gcs(request.getfixturevalue("gcs_endpoint")):
            yield new_folder("gs")
    else:
        yield {"path": str(tmp_path), "file": f"file://{tmp_path}", "memory": f"memory://{new_bucket_name()}/x"}[kind]


def test_a_file_of_any_name_is_written_read_listed_found_and_named(folder: str) -> None:
    root = str(files.local_path(folder)) if files.is_local(folder) else folder
    for name in NAMES:
        files.write(f"{root}/{name}", name.encode())
    for name in NAMES:
        location = f"{folder}/{name}"
        assert files.read(location) == name.encode()
        assert files.exists(location)
        assert (files.name(location), files.stem(location)) == (name, name.removesuffix(".jpg"))
        [found] = files.glob(location)
        assert (files.name(found), files.read(found)) == (name, name.encode()), "a name that is there is no pattern"
        assert files.extension(location) == "jpg"
    assert [files.name(found) for found in files.glob(f"{folder}/*.jpg")] == sorted(NAMES)
    assert files.listing(folder) == sorted(NAMES)


@given(name=st.text(LETTERS, min_size=1, max_size=40).filter(lambda name: name.strip(".")))
@settings(deadline=None, max_examples=150)
def test_a_file_that_was_written_is_found_and_its_stem_makes_its_name_again(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "names"
    location = f"{folder}/{name[:20]}.png"
    files.write(location, b"x")
    try:
        assert [files.stem(found) + ".png" for found in files.glob(location)] == [Path(location).name]
        assert f"{folder}/{files.stem(location)}.png" == location
        assert files.is_location(location)
    finally:
        files.remove(location)


@given(name=st.text(LETTERS, min_size=1, max_size=20).filter(lambda name: name.strip(".") and name == name.strip("/")))
@settings(deadline=None, max_examples=150)
def test_the_stem_makes_the_name_again_in_memory_and_in_buckets(name: str) -> None:
    location = f"memory://names/{name}.png"
    files.write(location, b"x")
    try:
        assert files.glob(location) == [location]
        for protocol in ("memory", "s3", "gs"):
            assert files.stem(f"{protocol}://names/{name}.png") == name
    finally:
        files.remove(location)


def test_a_file_address_is_the_file_of_this_very_name_before_its_escapes_are_decoded(tmp_path: Path) -> None:
    for name in ("a%20b.jpg", "a b.jpg", "only decoded.jpg"):
        (tmp_path / name).write_text(name)
    assert files.read(f"file://{tmp_path}/a%20b.jpg") == b"a%20b.jpg"
    assert files.read(f"file://{tmp_path}/a b.jpg") == b"a b.jpg"
    assert files.read(f"file://{tmp_path}/only%20decoded.jpg") == b"only decoded.jpg"


def test_only_an_http_address_has_a_query_a_fragment_and_escapes() -> None:
    assert files.name("https://host/my%20photo.png?sig=b/c.jpg#d") == "my photo.png"
    assert files.extension("HTTPS://host/items.CSV?versionId=1") == "csv"
    assert files.extension("s3://bucket/items.csv?x=1.jsonl") == "jsonl"
    assert files.is_local("see https://host/a.png for a picture"), "a text with an address in it is no address"


# -- patterns ---------------------------------------------------------------------------------------------------------


def test_a_pattern_means_the_same_on_every_filesystem(folder: str) -> None:
    names = ("a.jpg", "B.JPG", ".hidden.jpg", "._a.jpg", "in/b.jpg", "in/.c.jpg", ".git/d.jpg", "in/deep/e.jpg")
    for name in names:
        files.write(f"{folder}/{name}", b"x")

    def found(pattern: str) -> list[str]:
        root = str(files.local_path(folder)) if files.is_local(folder) else folder
        return [location.removeprefix(f"{root}/") for location in files.glob(f"{folder}/{pattern}")]

    assert found("*.jpg") == ["a.jpg"]
    assert found("*") == ["B.JPG", "a.jpg"]
    assert found("**/*.jpg") == ["a.jpg", "in/b.jpg", "in/deep/e.jpg"]
    assert found("**") == ["B.JPG", "a.jpg", "in/b.jpg", "in/deep/e.jpg"]
    assert found("*/*.jpg") == ["in/b.jpg"]
    assert found("i**/?.jpg") == ["in/b.jpg"]
    assert found(".*.jpg") == ["._a.jpg", ".hidden.jpg"]
    assert found(".git/*") == [".git/d.jpg"]
    assert found("[!b].jpg") == ["a.jpg"]
    for pattern in ("*.jpg", "**/*.jpg", "**", "*/*.jpg", ".*.jpg", ".git/*", "[!b].jpg", "in/**/e.jpg"):
        matching = [name for name in names if files.matches(f"{folder}/{pattern}", f"{folder}/{name}")]
        assert sorted(matching) == found(pattern)


NEARLY_MATCHED = (
    ("photos/*.JPG", "2 files differ in case only, such as {}/photos/a.jpg: add '{}/photos/*.jpg'"),
    ("Photos/*.jpg", "2 files differ in case only, such as {}/photos/a.jpg"),
    ("photos/A.jpg", "1 file differs in case only, such as {}/photos/a.jpg: write the name as it is there"),
    ("photos/*.{jpg,JPG}", "braces have no meaning in a pattern: write a list, ['{}/photos/*.jpg', '{}/photos/*.J"),
    ("photos", "it is a folder: write '{}/photos/*' for the files in it"),
    ("photos/", "it is a folder: write '{}/photos/*' for the files in it"),
    ("photos\\*.jpg", "write / in place of each backslash: '{}/photos/*.jpg'"),
    ("br[2024]/*.jpg", "stand for one of the letters between them: write '{}/br[[]2024]/*.jpg'"),
    ("my%20pics/*.jpg", "only http(s) addresses have escapes such as %20: write '{}/my pics/*.jpg'"),
    ("photos/*.jpg ", "take out the space at its beginning or end: '{}/photos/*.jpg'"),
    ("grün/*.jpg", "differs in the Unicode form of letters only (there it is NFD), such as"),
    ("nowhere/*.jpg", ""),
)


def test_a_pattern_that_matches_nothing_names_what_it_nearly_matched(folder: str, cases: Cases) -> None:
    for name in ("photos/a.jpg", "photos/b.jpg", "br[2024]/c.jpg", "my pics/d.jpg", "gru\u0308n/e.jpg"):
        files.write(f"{folder}/{name}", b"x")
    root = str(files.local_path(folder)) if files.is_local(folder) else folder
    for pattern, hint in NEARLY_MATCHED:
        with cases.case(pattern):
            if folder.startswith("file://") and "%" in pattern:
                assert files.glob(f"{folder}/{pattern}") == [f"{root}/my pics/d.jpg"], "Path.as_uri writes escapes"
                continue
            assert files.glob(f"{folder}/{pattern}") == []
            found = files.near_misses(f"{folder}/{pattern}").replace(folder, "{}").replace(root, "{}")
            assert hint in found
            assert bool(found) == bool(hint)


def test_a_pattern_that_leaves_out_files_in_another_case_names_them(folder: str) -> None:
    for name in ("a.jpg", "B.JPG", "C.Jpg"):
        files.write(f"{folder}/{name}", b"x")
    found = files.glob(f"{folder}/*.jpg")
    assert len(found) == 1
    assert "2 files differ in case only" in files.near_misses(f"{folder}/*.jpg", found)
    assert "*.JPG', '" in files.near_misses(f"{folder}/*.jpg", found)
    assert files.near_misses(f"{folder}/*", files.glob(f"{folder}/*")) == ""


def test_folders_that_link_to_themselves_end_and_each_file_comes_once(tmp_path: Path) -> None:
    (tmp_path / "loop" / "deep").mkdir(parents=True)
    for name in ("loop/a.jpg", "loop/deep/b.jpg"):
        (tmp_path / name).write_bytes(b"x")
    for name, target in (("a1", "."), ("s1", "."), ("s2", ".."), ("deep/up", ".."), ("deep/self", "../deep")):
        (tmp_path / "loop" / name).symlink_to(target, target_is_directory=True)
    for pattern in ("loop/**/*.jpg", "loop/**", "**/*.jpg", "loop/**/**/*.jpg", "loop/**/s*/*.jpg"):
        found = [Path(place) for place in files.glob(f"{tmp_path}/{pattern}") if place.endswith(".jpg")]
        real = [place.resolve() for place in found]
        assert len(real) == len(set(real)), pattern
        assert tmp_path / "loop" / "a.jpg" in real
    assert files.glob(f"{tmp_path}/loop/**/*.jpg") == [f"{tmp_path}/loop/a.jpg", f"{tmp_path}/loop/deep/b.jpg"]


def test_a_linked_folder_beside_is_gone_through_and_a_linked_file_is_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "in").mkdir()
    (tmp_path / "elsewhere" / "a.jpg").write_bytes(b"x")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "b.jpg").symlink_to(tmp_path / "elsewhere" / "a.jpg")
    assert files.glob(f"{tmp_path}/in/**/*.jpg") == [f"{tmp_path}/in/b.jpg", f"{tmp_path}/in/link/a.jpg"]


# -- names that are nearly there --------------------------------------------------------------------------------------


SIMILAR = (
    ("masks/img_1.png", "masks/IMG_1.png"),
    ("masks/a.png", "masks/a.PNG"),
    ("masks/é.png", "masks/e\u0301.png"),
    ("masks/my%20photo.png", "masks/my photo.png"),
    ("masks/my photo.png", "masks/my%20photo.png"),
    ("Masks/b.png", "masks/b.png"),
)


def test_a_file_that_differs_in_case_form_or_escapes_is_similar(folder: str, cases: Cases) -> None:
    whole, inside = (str(files.local_path(folder)) if files.is_local(folder) else folder), folder
    for number, (wanted, there) in enumerate(SIMILAR):
        root, folder = f"{whole}/{number}", f"{inside}/{number}"
        files.write(f"{root}/{there}", b"x")
        with cases.case(wanted):
            if folder.startswith("file://") and "%" in wanted:
                assert files.exists(f"{folder}/{wanted}"), "Path.as_uri writes escapes"
                continue
            assert files.similar(f"{folder}/{wanted}") == f"{root}/{there}"
            assert files.similar(f"{folder}/masks/another.png") == ""
            assert files.similar(f"{folder}/none/another.png") == ""


# -- texts that are no location ---------------------------------------------------------------------------------------

BASE64 = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ" * 40
NO_LOCATIONS = (
    f"data:image/png;base64,{BASE64}",
    BASE64,
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nIC==",
    "a photo of a cat that sits on a mat in front of a window, in the evening light, 50 mm, sharp",
    '{"path": null, "url": "https://host/a.png", "caption": "a cat sits on a mat in front of a window"}',
    "x" * 5_000,
    "line\n" * 100,
)


@pytest.mark.parametrize("text", NO_LOCATIONS)
def test_a_text_that_is_no_location_is_quoted_on_one_line_of_at_most_80_characters(text: str) -> None:
    assert not files.is_location(text)
    assert len(files.quoted(text)) <= 80
    assert files.quoted(text).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "a.png",
        "line\nbreak.png",
        "https://bucket.s3.amazonaws.com/a.png?X-Amz-Signature=" + "0" * 300,
        f"/data/{'deep/' * 40}0001",
        f"photos/{'x' * 200}.jpeg",
        f"s3://bucket/{'x' * 400}.jpeg",
        "{x}.jpg",
    ],
)
def test_long_paths_addresses_and_odd_names_are_locations(text: str) -> None:
    assert files.is_location(text)


# -- what is nearly matched, and long names ---------------------------------------------------------------------------


ALSO_NEARLY_MATCHED = (
    ("*.jpg", "2 files differ in the extension only, such as {}/a.JPEG: add '{}/*.JPEG', '{}/*.jpeg'"),
    ("**.jpg", "** is any number of folders only between slashes: write '{}/**/*.jpg'"),
    ("b[1].jpg", ""),
    ("c*.jpg", ""),
)


def test_a_pattern_that_finds_files_names_others_that_it_nearly_matched_but_the_name_of_a_file_is_that_file(
    folder: str, cases: Cases
) -> None:
    for name in ("a.jpg", "a.JPEG", "d.jpeg", "b[1].jpg", "b1.jpg", "c*.jpg", "cc.jpg", "deep/e.jpg"):
        files.write(f"{folder}/{name}", b"x")
    root = str(files.local_path(folder)) if files.is_local(folder) else folder
    for pattern, hint in ALSO_NEARLY_MATCHED:
        with cases.case(pattern):
            found = files.glob(f"{folder}/{pattern}")
            assert found
            assert files.near_misses(f"{folder}/{pattern}", found).replace(folder, "{}").replace(root, "{}") == hint


def test_only_files_that_can_be_what_is_looked_for_are_near_misses(folder: str) -> None:
    for name in ("a/LICENSES.md", "b/LICENSES.md", "b/p.PNG", "b/t.csv"):
        files.write(f"{folder}/{name}", b"x")
    for pattern, kinds, hint in (
        ("a/*.jpg", ("jpg", "png"), ""),
        ("a", ("jpg", "png"), ""),
        ("a/licenses.md", ("jpg", "png"), ""),
        ("a/*.jpg", (), "*.md'"),
        ("b/*.jpg", ("jpg", "png"), "1 file differs in the extension only"),
        ("b/*.jpg", ("csv",), "*.csv'"),
    ):
        found = files.near_misses(f"{folder}/{pattern}", kinds=kinds)
        assert hint in found
        assert bool(found) == bool(hint), found
        assert not kinds or "md" not in found.replace(folder, "")


FURTHER = (
    ("only", "it is a folder: write '{}/only/**/*' for the files in all folders below it"),
    ("only/deep/*.jpg", "names that begin with a dot are left out: write '{}/only/deep/.*.jpg' for those"),
    (
        "only/deep/*.png",
        "1 file differs in the extension only, such as {}/only/deep/a.tif: add '{}/only/deep/*.tif'",
    ),
    ("{a,b}/*.{jpg,png}", "write a list, ['{}/a/*.jpg', '{}/a/*.png', '{}/b/*.jpg', '{}/b/*.png']"),
)


def test_further_things_that_a_pattern_nearly_matches_are_named(folder: str, cases: Cases) -> None:
    for name in ("only/deep/.h.jpg", "only/deep/a.tif"):
        files.write(f"{folder}/{name}", b"x")
    root = str(files.local_path(folder)) if files.is_local(folder) else folder
    for pattern, hint in FURTHER:
        with cases.case(pattern):
            assert hint in files.near_misses(f"{folder}/{pattern}").replace(folder, "{}").replace(root, "{}")


def test_a_link_that_leads_nowhere_is_found_so_that_nobody_overlooks_it(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "b.jpg").symlink_to("b.jpg")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "c.jpg").symlink_to("/nowhere/c.jpg")
    assert files.glob(f"{tmp_path}/*.jpg") == [f"{tmp_path}/a.jpg", f"{tmp_path}/b.jpg"]
    assert files.glob(f"{tmp_path}/**/*.jpg")[-1] == f"{tmp_path}/deep/c.jpg"


@pytest.mark.parametrize(
    "name",
    [
        "a1" * 64,
        "a sentence of more than eighty letters that somebody took for the name of a photo, without an extension",
        "[Studio 2024] a long name of a shoot/[one two three four five six seven eight nine ten eleven]/IMG 1.png",
        "{uuid} a long name of a shoot that was named by a program/and a name below it that is long, too/IMG 1.png",
        "[a list of more than eighty letters, that ends as it began, and is the name of a file here all the same]",
    ],
)
def test_a_long_text_is_the_name_of_the_file_that_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    files.write(name, b"x")
    assert files.is_location(name)
    assert files.is_location(str(tmp_path / name))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("s3://b/in/a.jpg", "s3a://b/in/a.jpg"),
        ("gs://b/in/a.jpg", "gcs://b/in/a.jpg"),
        ("memory://in/a.jpg", "memory:///in/a.jpg"),
    ],
)
def test_a_pattern_matches_a_location_under_the_other_name_of_its_protocol(one: str, other: str) -> None:
    assert files.canonical(one) == files.canonical(other)
    pattern = one.replace("a.jpg", "*.jpg")
    assert files.matches(pattern, other)
    assert files.matches(pattern.replace(one.partition("://")[0], other.partition("://")[0]), one)
    assert not files.matches(pattern, "s4://b/in/a.jpg")


@pytest.mark.parametrize("status", [400, 403])
def test_a_bucket_that_may_not_be_asked_about_is_not_called_missing(status: int) -> None:
    with ScriptedServer() as server:
        server.on("HEAD /bucket", Answer(status, b""))
        server.on("HEAD /another", Answer(404, b""))
        with reach_s3(server.url):
            assert files.missing_bucket("s3://bucket/clean") == ""
            assert files.missing_bucket("s3://another/clean") == "s3://another"
