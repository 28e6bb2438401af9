"""Settled items in a bucket: how many requests a run and a plan make does not depend on how many items there are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from object_stores import fake_gcs, moto_s3, new_bucket_name, rclone_s3, reach_gcs, reach_s3
from PIL import Image
from recipes import Place, perform

from flux_tasks import files
from pipelines.plan.planner import plan
from pipelines.recipe import Recipe
from pipelines.run.context import Event, EventKind

RECIPE = """
source: {images: "s3://BUCKET/photos/*.png", columns: {mask: "s3://BUCKET/masks/{{ stem }}.png"}}
steps:
  - deblur: {}
  - erase: {mask: "{{ mask }}"}
    when: mask_exists
  - resize: {width: 120}
output: {path: "s3://BUCKET/out/{{ stem }}.png"}
"""
PICTURES = 1


@pytest.fixture
def book() -> list[str]:
    """The requests that the server gets."""
    return []


@pytest.fixture
def bucket(here: Place, book: list[str]) -> Iterator[str]:
    with moto_s3(book) as endpoint, reach_s3(endpoint):
        name = new_bucket_name()
        files.exists(f"s3://{name}/any")  # imports the library the way this one does
        fsspec.filesystem("s3").mkdir(name)
        here.settings = replace(here.settings, store=f"s3://{name}/store")
        yield name


def put(here: Place, bucket: str, *names: str, folder: str = "photos") -> None:
    """Put a picture and its mask into the bucket under each of these names."""
    for name in names:
        files.write(f"s3://{bucket}/{folder}/{name}.png", (here.folder / "photos" / "p0.png").read_bytes())
        files.write(f"s3://{bucket}/masks/{name}.png", (here.folder / "masks" / "p0.png").read_bytes())


def recipe(bucket: str, text: str = RECIPE) -> Recipe:
    return Recipe.parse(text.replace("BUCKET", bucket))


def test_a_settled_run_and_plan_make_as_many_requests_for_one_item_as_for_nine(
    here: Place, bucket: str, book: list[str]
) -> None:
    made = recipe(bucket)
    found: list[tuple[int, int]] = []
    for names in (["a"], [*"bcdefghi"]):
        put(here, bucket, *names)
        perform(made, here.settings)
        book.clear()
        run, _ = perform(made, here.settings)
        assert set(run.summary.counts) == {"cached"}
        of_run = requests(book)
        book.clear()
        assert plan(made.compiled, settings=here.settings).jobs == 0
        found.append((of_run, requests(book)))
    assert found[0] == found[1]


def requests(book: list[str]) -> int:
    """How many requests there were, but for those that read the files of earlier runs: two for each."""
    return sum(not re.search(r"/settled/\w+/", address) for address in book)


def test_the_folders_of_a_settled_run_are_listed_a_handful_of_times(here: Place, bucket: str, book: list[str]) -> None:
    put(here, bucket, *"abc")
    perform(recipe(bucket), here.settings)
    book.clear()
    perform(recipe(bucket), here.settings)
    lists = [address for address in book if "list-type=2" in address and "max-keys=1&" not in address]
    folders = ("photos", "masks", "out")
    counts = {folder: sum(f"prefix={folder}%2F" in address for address in lists) for folder in folders}
    assert counts["photos"] <= 5
    assert (counts["masks"], counts["out"]) == (1, 1)
    assert not any("blobs" in address or "results" in address for address in book)


def test_items_with_folders_of_their_own_need_no_request_each(here: Place, bucket: str, book: list[str]) -> None:
    made = recipe(bucket, RECIPE.replace("photos/*.png", "photos/*/*.png").replace("out/", "out/{{ stem }}/"))
    found: list[int] = []
    for names in ("abcdefghij", "kl"):
        for name in names:
            put(here, bucket, name, folder=f"photos/{name}")
        perform(made, here.settings)
        book.clear()
        run, _ = perform(made, here.settings)
        assert set(run.summary.counts) == {"cached"}
        found.append(requests(book))
    assert found[0] == found[1]


def test_an_object_that_changes_between_its_listing_and_its_reading_is_not_believed_later(
    here: Place, bucket: str
) -> None:
    put(here, bucket, *"ab")
    text = RECIPE.replace("deblur: {}", "deblur: {}\n    when: stem == 'b'")
    made = recipe(bucket, text.replace("mask_exists", "stem == 'b'"))
    place, first = f"s3://{bucket}/photos/b.png", (here.folder / "photos" / "p0.png").read_bytes()
    other = here.folder / "other.png"
    Image.new("RGB", (80, 80), "navy").save(other)

    def replace_it(event: Event) -> None:
        if event.kind is EventKind.ITEM and event.item == "a":  # the folder has been listed
            files.write(place, other.read_bytes())

    _, rows = perform(made, here.settings, on_event=replace_it)
    assert rows[1]["input"]["digest"] != rows[0]["input"]["digest"]
    files.write(place, first)
    _, rows = perform(made, here.settings)
    assert rows[1]["input"]["digest"] == rows[0]["input"]["digest"]


@pytest.mark.parametrize("kind", ["s3", "rclone", "gs"])
def test_an_object_has_one_fingerprint_in_a_listing_and_by_itself(tmp_path: Path, kind: str) -> None:
    (tmp_path / "buckets" / "seen").mkdir(parents=True)
    with ExitStack() as stack:
        if kind == "gs":
            stack.enter_context(reach_gcs(stack.enter_context(fake_gcs(tmp_path))))
        else:
            server = moto_s3() if kind == "s3" else rclone_s3(tmp_path / "buckets", "throw-away", "throw-away")
            stack.enter_context(reach_s3(stack.enter_context(server)))
        scheme = "gs" if kind == "gs" else "s3"
        files.exists(f"{scheme}://seen/any")  # imports the library the way this one does
        if kind != "rclone":
            fsspec.filesystem(scheme).mkdir("seen")
        place = f"{scheme}://seen/in/a.png"
        files.write(place, b"a")
        prints = files.Fingerprints()
        listed = prints.of(place)
        assert listed is not None
        assert prints.of_written(place) == listed
        assert prints.still_matches(place, listed)
        files.write(place, b"b")
        assert not prints.still_matches(place, listed)
        assert not files.Fingerprints().matches(place, listed)
