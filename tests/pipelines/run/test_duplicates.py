"""`dedupe` at the source: which items are left out, which one of several is kept, and what is never paid for again."""

from __future__ import annotations

import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any

import pytest
from command_line import Here
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from recipes import Painter, Place, age, perform, place

from flux_tasks.errors import RecipeError
from pipelines.data.duplicates.look import Look
from pipelines.data.duplicates.near import Nearest
from pipelines.recipe import Recipe


@pytest.fixture
def here(painter: Painter) -> Any:
    with place(painter, 0) as made:
        yield made


def scene(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    """A picture of coloured boxes, like no other one."""
    drawn, choose = Image.new("RGB", (480, 360), "white"), random.Random(seed)
    pen = ImageDraw.Draw(drawn)
    for _ in range(12):
        left, top = choose.randrange(400), choose.randrange(300)
        corners = (left, top, left + choose.randrange(60, 240), top + choose.randrange(60, 240))
        pen.rectangle(corners, fill=tuple(choose.randrange(256) for _ in range(3)))
    return drawn.resize(size, Image.Resampling.LANCZOS)


def put(here: Place, name: str, picture: Image.Image, **options: Any) -> None:
    picture.save(here.folder / "photos" / name, **options)
    age(here.folder, name)


def recipe(
    here: Place, dedupe: Any = "exact", source: str = "images: 'FOLDER/photos/*'", step: str = "deblur: {}"
) -> Recipe:
    """One paid step over all pictures."""
    text = f"name: d\nsource: {{{source}, dedupe: {json.dumps(dedupe)}}}\nsteps:\n  - {step}\n"
    return Recipe.parse(f"{text}output: 'FOLDER/out/{{{{ stem }}}}.png'\n".replace("FOLDER", str(here.folder)))


def left_out(rows: list[dict[str, Any]]) -> dict[str, str]:
    """The name of each item that was left out, with that of the one that was kept."""
    name = lambda location: location.rpartition("/")[2]  # noqa: E731 - a word
    return {name(row["source"]): name(row["duplicate_of"]) for row in rows if "duplicate_of" in row}


# -- exact ------------------------------------------------------------------------------------------------------------


def test_of_files_with_the_same_bytes_the_first_is_worked_on_and_the_others_are_skipped(here: Place) -> None:
    for name in ("ä b.png", "a.png", "z.png"):
        put(here, name, scene(1))
    put(here, "other.png", scene(2))
    run, rows = perform(recipe(here, step="edit: {prompt: '{{ stem }}'}"), here.settings)
    assert left_out(rows) == {"z.png": "a.png", "ä b.png": "a.png"}
    assert dict(run.summary.counts) == {"done": 2, "skipped": 2}
    assert (run.summary.duplicates, here.jobs) == (2, 2)
    assert sorted(path.name for path in (here.folder / "out").iterdir()) == ["a.png", "other.png"]


def test_rows_of_a_table_with_the_same_picture_are_duplicates(here: Place) -> None:
    put(here, "a.png", scene(1))
    (here.folder / "items.csv").write_text("file,word\na.png,one\na.png,two\n,three\n")
    source = "table: 'FOLDER/items.csv', image: \"{% if file %}FOLDER/photos/{{ file }}{% endif %}\""
    recipe_of_table = recipe(here, source=source, step="edit: {prompt: '{{ word }}'}")
    _, rows = perform(recipe_of_table, here.settings)
    assert [row.get("duplicate_of", "").rpartition("/")[2] for row in rows] == ["", "a.png", ""]
    assert here.jobs == 1


def test_pictures_in_tars_are_compared_as_well(here: Place) -> None:
    with tarfile.open(here.folder / "shard.tar", "w") as tar:
        for number in range(3):
            data = io.BytesIO()
            scene(number // 2).save(data, "PNG")
            entry = tarfile.TarInfo(f"{number:03d}.png")
            entry.size = len(data.getvalue())
            tar.addfile(entry, io.BytesIO(data.getvalue()))
    age(here.folder, "*.tar")
    _, rows = perform(recipe(here, source="dataset: 'FOLDER/shard.tar'"), here.settings)
    assert [("duplicate_of" in row) for row in rows] == [False, True, False]
    assert here.jobs == 2


def test_a_damaged_picture_is_the_problem_of_its_own_item(here: Place) -> None:
    put(here, "a.png", scene(1))
    put(here, "b.png", scene(1))
    for name in ("x.png", "y.png"):
        (here.folder / "photos" / name).write_bytes(b"no picture")
    for dedupe in ("exact", {"near": 4}):
        run, rows = perform(recipe(here, dedupe), here.settings)
        assert left_out(rows) == {"b.png": "a.png"}
        assert run.summary.counts["invalid"] == 2


# -- which one is kept ------------------------------------------------------------------------------------------------


def test_of_pictures_that_look_the_same_the_largest_is_kept(here: Place) -> None:
    put(here, "a.jpg", scene(1), quality=60)
    put(here, "b.png", scene(1, (240, 180)))
    put(here, "c.webp", scene(1, (160, 120)))
    put(here, "other.png", scene(2))
    _, rows = perform(recipe(here, {"near": 6}), here.settings)
    assert left_out(rows) == {"a.jpg": "b.png", "c.webp": "b.png"}


def test_what_was_kept_once_stays_kept_when_a_larger_copy_comes(here: Place) -> None:
    put(here, "m.png", scene(1))
    perform(recipe(here, {"near": 6}), here.settings)
    put(here, "a.png", scene(1, (240, 180)))
    put(here, "0.png", scene(1))
    for _ in range(2):
        run, rows = perform(recipe(here, {"near": 6}), here.settings)
        assert left_out(rows) == {"a.png": "m.png", "0.png": "m.png"}
        assert run.summary.counts["cached"] == 1
    assert here.jobs == 1


def test_a_choice_outlives_a_change_of_the_recipe_and_of_the_distance(here: Place) -> None:
    put(here, "m.png", scene(1))
    perform(recipe(here), here.settings)
    put(here, "a.png", scene(1, (240, 180)))
    _, rows = perform(recipe(here, {"near": 8}, step="edit: {prompt: x}"), here.settings)
    assert left_out(rows) == {"a.png": "m.png"}


def test_what_a_run_without_dedupe_has_paid_for_is_kept(here: Place) -> None:
    put(here, "m.png", scene(1))
    plain = recipe(here).to_yaml().replace("  dedupe: exact\n", "")
    perform(Recipe.parse(plain), here.settings)
    put(here, "a.png", scene(1, (240, 180)))
    _, rows = perform(recipe(here, {"near": 6}), here.settings)
    assert (left_out(rows), here.jobs) == ({"a.png": "m.png"}, 1)


def test_a_choice_is_noted_before_the_first_job(here: Place) -> None:
    put(here, "m.png", scene(1))
    from pipelines.run.run import Run

    Run(recipe(here, {"near": 6}).compiled, here.settings)  # and is killed here
    put(here, "a.png", scene(1, (240, 180)))
    _, rows = perform(recipe(here, {"near": 6}), here.settings)
    assert left_out(rows) == {"a.png": "m.png"}


def test_a_picture_that_has_changed_is_looked_at_anew(here: Place) -> None:
    put(here, "a.png", scene(1))
    put(here, "b.png", scene(1))
    perform(recipe(here), here.settings)
    put(here, "b.png", scene(2))
    _, rows = perform(recipe(here), here.settings)
    assert (left_out(rows), here.jobs) == ({}, 2)
    put(here, "a.png", scene(2))  # now both are what b was before
    _, rows = perform(recipe(here), here.settings)
    assert (left_out(rows), here.jobs) == ({"a.png": "b.png"}, 2)


def test_when_the_kept_one_is_gone_another_takes_its_place(here: Place) -> None:
    put(here, "a.png", scene(1))
    put(here, "b.png", scene(1))
    perform(recipe(here), here.settings)
    (here.folder / "photos" / "a.png").unlink()
    run, rows = perform(recipe(here), here.settings)
    assert (left_out(rows), here.jobs, run.summary.counts["cached"]) == ({}, 1, 1)


# -- near -------------------------------------------------------------------------------------------------------------


def test_pictures_of_one_colour_are_not_near_but_may_be_the_same(here: Place) -> None:
    put(here, "grey.png", Image.new("RGB", (60, 60), "#808080"))
    put(here, "light.png", Image.new("RGB", (60, 60), "#858585"))
    put(here, "z.png", Image.new("RGB", (60, 60), "#858585"))
    _, rows = perform(recipe(here, {"near": 12}), here.settings)
    assert left_out(rows) == {"z.png": "light.png"}


def test_the_same_shape_in_another_colour_is_another_picture(here: Place) -> None:
    for name, colour in (("blue.png", "#3040c0"), ("red.png", "#a03030")):
        drawn = Image.new("RGB", (90, 90), "white")
        ImageDraw.Draw(drawn).ellipse((10, 20, 80, 70), fill=colour)
        put(here, name, drawn)
    _, rows = perform(recipe(here, {"near": 12}), here.settings)
    assert left_out(rows) == {}


def looks(bits: list[int]) -> list[Look]:
    return [Look(value, (0, 0, 0)) for value in bits]


def test_what_is_left_out_is_near_to_what_is_kept_for_it_also_in_a_chain(here: Place, monkeypatch: Any) -> None:
    chain = {f"{letter}.png": Look((1 << 4 * number) - 1, (0, 0, 0)) for number, letter in enumerate("abcde")}
    for number, name in enumerate(chain):
        put(here, name, scene(number))
    monkeypatch.setattr("pipelines.data.duplicates.find.look_of", lambda image: chain[f"{image.name}.png"])
    _, rows = perform(recipe(here, {"near": 4}), here.settings)
    assert left_out(rows) == {"b.png": "a.png", "d.png": "c.png"}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40),
    st.lists(st.lists(st.integers(0, 63), max_size=14), max_size=20),
    st.integers(1, 12),
)
def test_the_nearest_look_is_found_as_if_all_were_compared(
    known: list[int], changes: list[list[int]], most: int
) -> None:
    nearest = Nearest(most)
    for look in looks(known):
        nearest.add(look)
    for number, places in enumerate(changes):
        asked = known[number % len(known)]
        for bit in places:
            asked ^= 1 << bit
        distances = [(asked ^ one).bit_count() for one in known]
        expected = distances.index(min(distances)) if min(distances) <= most else None
        assert nearest.find(looks([asked])[0]) == expected


def test_few_of_many_looks_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0
    distance = Look.distance

    def counted(self: Look, other: Look) -> int:
        nonlocal compared
        compared += 1
        return distance(self, other)

    monkeypatch.setattr(Look, "distance", counted)
    choose, nearest = random.Random(1), Nearest(4)
    for look in looks([choose.getrandbits(64) for _ in range(5_000)]):
        nearest.find(look)
        nearest.add(look)
    assert compared < 5_000 * 30  # of 12,500,000 pairs


# -- plan, report, command line ---------------------------------------------------------------------------------------


def test_a_plan_tells_what_a_run_leaves_out_and_writes_nothing(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(12):
        put(here, f"p{number:02d}.png", scene(number // 2 if number < 10 else 5))
    (here.folder / "d.yaml").write_text(recipe(here, {"near": 2}).to_yaml())
    program = Here(here.folder, monkeypatch)
    shown = program("plan", str(here.folder / "d.yaml"), "--endpoint", here.bfl.url)
    lines = shown.stdout.splitlines()
    assert lines[0] == "d: 12 items, 6 jobs to pay for: about 6.00 credits ($0.06)" or "6 jobs to pay for" in lines[0]
    at = lines.index("duplicates: 6 items are left out, in 6 groups")
    assert lines[at + 1] == f"  {here.folder}/photos/p00.png is kept for {here.folder}/photos/p01.png"
    assert lines[at + 4] == "  … and 3 more groups, all of them with --json"
    assert not (here.folder / "store").exists()
    told = json.loads(program("plan", str(here.folder / "d.yaml"), "--endpoint", here.bfl.url, "--json").stdout)
    assert len(told["duplicates"]) == 6
    run, rows = perform(Recipe.load(here.folder / "d.yaml"), here.settings)
    named = {one["source"]: one["duplicate_of"] for one in rows if "duplicate_of" in one}
    assert named == {left: kept for kept, group in told["duplicates"].items() for left in group}
    assert (run.summary.duplicates, here.jobs) == (6, 6)


def test_summary_and_report_tell_of_duplicates(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    put(here, "a.png", scene(1))
    put(here, "b.png", scene(1))
    (here.folder / "d.yaml").write_text(recipe(here).to_yaml())
    page = here.folder / "report.html"
    command = ("run", str(here.folder / "d.yaml"), "--endpoint", here.bfl.url, "--report", str(page))
    done = Here(here.folder, monkeypatch)(*command, key="k")
    assert "duplicates: 1 item was left out; see the manifest" in done.stdout
    assert f"left out: {here.folder}/photos/a.png has the same picture" in page.read_text()


# -- what is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dedupe", "said"),
    [
        (True, "source.dedupe: True is not a way to find duplicates: write exact, or {near: 4}"),
        ("near", "source.dedupe: 'near' is not a way to find duplicates: write exact, or {near: 4}"),
        (
            {"near": 0},
            "source.dedupe.near: 0 is not a number of bits that may differ: write one from 1 to 12, such as 4",
        ),
        (
            {"near": 40},
            "source.dedupe.near: 40 is not a number of bits that may differ: write one from 1 to 12, such as 4",
        ),
        ({"naer": 4}, "source.dedupe.naer: unknown key (did you mean 'near'?)"),
    ],
)
def test_a_wrong_dedupe_is_refused(here: Place, dedupe: Any, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(here, dedupe)
    assert said in str(caught.value)


def test_items_without_pictures_cannot_be_compared(here: Place) -> None:
    with pytest.raises(RecipeError, match=r"source\.dedupe: compares pictures, and these items have none"):
        recipe(here, source=f"table: {here.folder}/items.csv", step="generate: {prompt: '{{ word }}'}")


def test_a_recipe_reads_back_as_it_was_written(here: Place) -> None:
    for dedupe in ("exact", {"near": 4}):
        made = recipe(here, dedupe)
        assert made.to_data()["source"]["dedupe"] == dedupe
        assert Recipe.parse(made.to_yaml()).digest == made.digest
    assert len({recipe(here, one).digest for one in ("exact", {"near": 4}, {"near": 5})}) == 3
    assert Path(made.source.images[0]).name == "*"
