"""Sources: items from globs and tables; columns, filter, sample, limit; what one bad row does and what many do."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from flux_tasks import files
from flux_tasks.errors import RecipeError
from pipelines.data.formats.names import known_names, table_names
from pipelines.data.items import Item, items_of
from pipelines.language import templates
from pipelines.language.document.recipe import Source


def table(folder: Path, *rows: dict[str, Any] | str, name: str = "items.jsonl") -> str:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    (folder / name).write_text("".join(f"{line}\n" for line in lines))
    return str(folder / name)


def numbered(folder: Path, count: int) -> str:
    return table(folder, *({"id": number, "even": number % 2 == 0} for number in range(count)))


def csv_table(folder: Path, text: str) -> str:
    (folder / "items.csv").write_text(text)
    return str(folder / "items.csv")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("in/apple.png", "in/birch.png", "in/cedar.jpg", "more/apple.png"):
        files.write(tmp_path / name, b"x")
    return tmp_path


def ids(items: Iterator[Item]) -> list[Any]:
    return [item.columns["id"] for item in items]


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_globs_give_an_item_a_picture_each_sorted_and_each_picture_once(photos: Path) -> None:
    source = Source(images=(f"{photos}/more/*", f"{photos}/in/*.png", f"{photos}/in/*"))
    items = list(items_of(source))
    assert [item.path.removeprefix(f"{photos}/") for item in items] == [
        *("more/apple.png", "in/apple.png", "in/birch.png", "in/cedar.jpg"),
    ]
    assert [item.index for item in items] == [0, 1, 2, 3]
    path = f"{photos}/in/cedar.jpg"
    assert items[3].context == {"stem": "cedar", "name": "cedar.jpg", "path": path, "index": 3}


def test_pictures_can_be_filtered_and_sampled_too(photos: Path) -> None:
    source = Source(images=(f"{photos}/*/*",), columns={"letter": "{{ stem[0] }}"}, filter="letter != 'b'")
    assert [item.stem for item in items_of(source)] == ["apple", "cedar", "apple"]
    sampled = Source(images=(f"{photos}/*/*",), sample=2)
    assert len(list(items_of(sampled))) == 2


def test_pictures_and_tables_may_live_on_any_filesystem() -> None:
    places = ["memory://sources/in/a.png", "memory://sources/in/b.png", "memory://sources/items.jsonl"]
    try:
        for place in places:
            files.write(place, b'{"id": 1}\n')
        assert [item.path for item in items_of(Source(images=("memory://sources/in/*",)))] == places[:2]
        assert ids(items_of(Source(table=places[2]))) == [1]
    finally:
        for place in places:
            files.remove(place)


# -- rows -------------------------------------------------------------------------------------------------------------


def test_a_row_gives_its_columns_and_the_picture_that_the_image_template_names(tmp_path: Path) -> None:
    place = table(tmp_path, {"id": 7, "file": "barn", "meta": {"author": "Ada"}})
    source = Source(
        table=place,
        image="photos/{{ file }}-{{ index }}.jpg",
        columns={"by": "{{ meta.author }}", "mask": "masks/{{ stem }}-{{ by }}.png", "n": "{{ id }}"},
    )
    [item] = items_of(source)
    assert (item.path, item.stem, item.error) == ("photos/barn-0.jpg", "barn-0", "")
    row = {"id": 7, "file": "barn", "meta": {"author": "Ada"}}
    assert item.row == row
    assert item.columns == {**row, "by": "Ada", "mask": "masks/barn-0-Ada.png", "n": 7}
    own = {"stem": "barn-0", "name": "barn-0.jpg", "path": "photos/barn-0.jpg", "index": 0, "row": row}
    assert item.context == {**own, **item.columns}


def test_a_row_without_a_picture_is_named_by_its_place_in_the_table(tmp_path: Path) -> None:
    source = Source(table=numbered(tmp_path, 20), filter="id >= 12", columns={"out": "{{ stem }}/{{ name }}"})
    item = next(items_of(source))
    assert (item.index, item.path, item.stem, item.number) == (0, "", "row-000012", 12)
    assert item.columns["out"] == "row-000012/row-000012"


def test_rows_that_are_alike_all_come(tmp_path: Path) -> None:
    place = table(tmp_path, *[{"file": "a.png"}] * 3)
    assert [item.stem for item in items_of(Source(table=place, image="{{ file }}"))] == ["a", "a", "a"]
    assert [item.stem for item in items_of(Source(table=place))] == ["row-000000", "row-000001", "row-000002"]


def test_a_column_that_is_taken_or_no_plain_word_is_reached_through_its_row(tmp_path: Path) -> None:
    place = table(tmp_path, {"file name": "a.png", "path": "p", "width": 640, "none": 1, "row": "r", "id": 7})
    columns = {"w": "{{ row['width'] * 2 }}", "p": "{{ row.path }}-{{ row.row }}-{{ row.id }}"}
    [item] = items_of(Source(table=place, image="in/{{ row['file name'] }}", columns=columns, filter="row.none == 1"))
    assert (item.path, item.columns) == ("in/a.png", {"id": 7, "w": 1280, "p": "p-r-7"})
    assert item.context["path"] == "in/a.png"


def test_a_declared_column_may_have_the_name_of_the_one_it_is_made_from(tmp_path: Path) -> None:
    place = table(tmp_path, {"prompt": "a barn"})
    [item] = items_of(Source(table=place, columns={"prompt": "a photo of {{ prompt }}"}))
    assert item.columns == {"prompt": "a photo of a barn"}
    assert item.row == {"prompt": "a barn"}


def test_extra_names_are_known_to_all_templates_and_give_way_to_the_items_own(tmp_path: Path) -> None:
    place = table(tmp_path, {"id": 7, "style": "warm", "vars": "no"})
    source = Source(
        table=place,
        image="{{ vars.folder }}/{{ id }}.png",
        columns={"look": "{{ style }} {{ vars.folder }}"},
        filter="vars.folder == 'in' and index == 0",
    )
    [item] = items_of(source, {"vars": {"folder": "in"}, "style": "cold", "index": 99})
    assert (item.path, item.columns["look"]) == ("in/7.png", "warm in")
    assert "vars" not in item.context


def test_what_a_cell_holds_is_never_itself_a_template(tmp_path: Path) -> None:
    place = table(tmp_path, {"id": "{{ 7 * 7 }}", "file": "{{ row }}.png"})
    [item] = items_of(Source(table=place, image="{{ file }}", columns={"c": "x{{ id }}", "d": "{{ c }}"}))
    assert (item.path, item.columns["c"], item.columns["d"]) == ("{{ row }}.png", "x{{ 7 * 7 }}", "x{{ 7 * 7 }}")


# -- numbers in CSV ---------------------------------------------------------------------------------------------------


def test_numbers_of_a_csv_keep_their_zeros_in_paths_and_are_numbers_in_conditions(tmp_path: Path) -> None:
    place = csv_table(tmp_path, "id,price,sku\n007,4.50,a\n008,2,b\n")
    source = Source(table=place, image="in/{{ id }}.png", columns={"c": "{{ price }}"}, filter="price > 3 and id < 8")
    [item] = items_of(source)
    assert item.path == "in/007.png"
    assert templates.evaluate("c > 4 and price * 2 == 9 and id == '007'", item.context, "when") is True


def test_a_flag_of_a_csv_that_is_0_or_1_is_a_condition(tmp_path: Path) -> None:
    place = csv_table(tmp_path, "id,keep\na,1\nb,0\nc,1\n")
    assert ids(items_of(Source(table=place, filter="keep"))) == ["a", "c"]
    assert ids(items_of(Source(table=place, filter="not keep"))) == ["b"]


def test_a_text_that_says_no_is_not_taken_for_yes(tmp_path: Path) -> None:
    place = csv_table(tmp_path, "id,keep\na,True\nb,False\nc,\n")
    yes, no = items_of(Source(table=place, filter="keep"))
    assert (yes.columns["id"], yes.error) == ("a", "")
    assert no.error == (
        f"row 1 (line 3) of {place}: source.filter: 'keep' is the text 'False', which counts as true: "
        "write keep == 'False', or !="
    )


# -- filter, sample, limit --------------------------------------------------------------------------------------------


def test_a_filter_leaves_items_out_and_index_counts_the_ones_that_stay(tmp_path: Path) -> None:
    source = Source(table=numbered(tmp_path, 10), columns={"n": "{{ index }}/{{ id }}"}, filter="even and n != '1/2'")
    items = list(items_of(source))
    assert [(item.index, item.columns["id"], item.columns["n"]) for item in items] == [
        *((0, 0, "0/0"), (1, 4, "1/4"), (2, 6, "2/6"), (3, 8, "3/8")),
    ]


def test_a_limit_comes_after_filter_and_sample_and_nothing_behind_it_is_read(tmp_path: Path) -> None:
    place = numbered(tmp_path, 100)
    assert ids(items_of(Source(table=place, filter="not even", limit=3))) == [1, 3, 5]
    assert (
        ids(items_of(Source(table=place, filter="not even", sample=10, limit=3)))
        == (ids(items_of(Source(table=place, filter="not even", sample=10)))[:3])
    )
    with Path(place).open("ab") as file:
        file.write(b"x" * 20_000_000)  # no line of JSONL: reading it is an error
    assert ids(items_of(Source(table=place, limit=100))) == list(range(100))


def test_a_sample_of_so_many_has_so_many_in_order_and_is_the_same_each_time(tmp_path: Path) -> None:
    place = numbered(tmp_path, 1_000)
    source = Source(table=place, sample=50, columns={"n": "{{ index }}-{{ id }}"})
    items = list(items_of(source))
    assert [item.index for item in items] == list(range(50))
    assert [item.columns["n"] for item in items] == [f"{item.index}-{item.columns['id']}" for item in items]
    assert ids(iter(items)) == sorted(ids(iter(items)))
    assert list(items_of(source)) == items
    assert ids(items_of(Source(table=place, sample=50, seed=1))) != ids(iter(items))
    assert ids(items_of(Source(table=place, sample=5_000))) == list(range(1_000))


@given(
    count=st.integers(1, 60),
    small=st.integers(1, 70),
    more=st.integers(0, 20),
    seed=st.integers(0, 2**64),
    wanted=st.sampled_from(["", "even", "index % 3 != 2"]),
)
@settings(deadline=None, max_examples=60)
def test_a_larger_sample_holds_the_smaller_one_and_no_sample_is_larger_than_its_source(
    tmp_path_factory: pytest.TempPathFactory, count: int, small: int, more: int, seed: int, wanted: str
) -> None:
    place = numbered(tmp_path_factory.mktemp("rows"), count)
    source = Source(table=place, seed=seed, **({"filter": wanted} if wanted else {}))
    everything = ids(items_of(source))
    few = ids(items_of(source.model_copy(update={"sample": small})))
    many = ids(items_of(source.model_copy(update={"sample": small + more})))
    assert len(few) == min(small, len(everything))
    assert set(few) <= set(many) <= set(everything)


def test_a_share_is_about_that_share_and_what_is_added_changes_nothing_of_it(tmp_path: Path) -> None:
    first = ids(items_of(Source(table=numbered(tmp_path, 5_000), sample=0.1, seed=3)))
    assert 400 < len(first) < 600
    later = ids(items_of(Source(table=numbered(tmp_path, 6_000), sample=0.1, seed=3)))
    assert later[: len(first)] == first


# -- one bad row ------------------------------------------------------------------------------------------------------


def test_a_template_that_fails_for_one_row_is_that_items_trouble_alone(tmp_path: Path) -> None:
    place = table(tmp_path, {"msk": "a"}, {"mask": "b"}, {"msk": "c"})
    good, bad, last = items_of(Source(table=place, columns={"out": "{{ msk }}.png", "copy": "{{ out }}"}))
    assert (good.columns["out"], last.columns["copy"], bad.index) == ("a.png", "c.png", 1)
    assert bad.error == (
        f"row 1 (line 2) of {place}: source.columns.out: '{{{{ msk }}}}.png': "
        "nothing is called 'msk' (did you mean 'mask'?)"
    )


def test_every_column_that_fails_is_told_and_none_that_fails_because_of_another(tmp_path: Path) -> None:
    place = table(tmp_path, {"id": 1})
    columns = {"a": "{{ none1 }}", "b": "x{{ a }}", "c": "{{ id / 0 }}", "d": "{{ b }}", "e": "{{ id }}"}
    [item] = items_of(Source(table=place, columns=columns))
    told = item.error.splitlines()
    assert len(told) == 2
    assert "source.columns.a: '{{ none1 }}': nothing is called 'none1'; known here: id, index, name" in told[0]
    assert "source.columns.c: 'id / 0' cannot be evaluated: division by zero" in told[1]
    assert item.columns == {"id": 1, "e": 1}


def test_a_hidden_column_is_named_with_what_to_write_instead(tmp_path: Path) -> None:
    place = table(tmp_path, {"width": 640})
    [item] = items_of(Source(table=place, filter="width > 100"))
    assert item.error.endswith("source.filter: 'width > 100': nothing is called 'width': write row['width']")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (Source(image="in/{{ file }}.png"), "source.image: 'in/{{ file }}.png': nothing is called 'file'"),
        (Source(image="{{ empty }}"), "source.image: '{{ empty }}' is empty here: write where the picture is"),
        (Source(image="{{ id.x.y }}"), "source.image: '"),
        (Source(filter="id > 'a'"), "source.filter: 'id > 'a'' cannot be evaluated: '>' not supported"),
        (Source(filter="nothing"), "source.filter: 'nothing': nothing is called 'nothing'"),
        (Source(filter="9 ** 9 ** 9"), "source.filter: '9 ** 9 ** 9' cannot be evaluated"),
        (Source(filter="id >"), "source.filter: 'id >' cannot be evaluated"),
        (Source(columns={"c": "{% for"}), "source.columns.c: '{% for' cannot be evaluated"),
        (Source(columns={"c": "{{ id.__class__.mro() }}"}), "source.columns.c: "),
    ],
)
def test_image_filter_and_columns_that_fail_are_errors_of_the_item_and_never_exceptions(
    tmp_path: Path, source: Source, told: str
) -> None:
    place = table(tmp_path, {"id": 1, "empty": " "})
    given = source.model_copy(update={"table": place})
    [item] = items_of(given)
    assert f"row 0 (line 1) of {place}: {told}" in item.error


def test_a_broken_row_passes_every_filter_so_that_it_is_not_missed(tmp_path: Path) -> None:
    place = table(tmp_path, {"id": 1}, "{broken", {"id": 2})
    items = list(items_of(Source(table=place, image="{{ id }}.png", filter="id > 1")))
    assert [(item.index, item.stem, bool(item.error)) for item in items] == [(0, "row-000001", True), (1, "2", False)]
    assert items[0].error.startswith(f"row 1 (line 2) of {place}: it is not JSON")


def test_a_picture_whose_columns_fail_is_named_by_its_path(photos: Path) -> None:
    source = Source(images=(f"{photos}/in/*.png",), columns={"c": "{{ {'apple': 1}[stem] }}"})
    good, bad = items_of(source)
    assert (good.error, good.columns) == ("", {"c": 1})
    assert bad.error.startswith(f"{photos}/in/birch.png: source.columns.c: ")


# -- nothing ----------------------------------------------------------------------------------------------------------


def problem(source: Source) -> str:
    with pytest.raises(RecipeError) as caught:
        list(items_of(source))
    return str(caught.value)


def test_a_source_without_items_says_why(tmp_path: Path, photos: Path) -> None:
    assert (
        problem(Source(images=("none/*.png", "no.png")))
        == "source.images: no file matches none/*.png, no.png: put pictures there, or write another glob"
    )
    for name, others in (("empty", ()), ("texts", ("LICENSE.md",))):
        (tmp_path / name).mkdir()
        for other in others:
            (tmp_path / name / other).touch()
    assert problem(Source(images=(f"{tmp_path}/empty/",))).endswith("put pictures there, or write another glob")
    only = f"no picture is in it, only other files, such as {tmp_path}/texts/LICENSE.md"
    assert problem(Source(images=(f"{tmp_path}/texts/",))).endswith(only)
    assert "cannot be listed" in problem(Source(images=("nosuch://x/*.png",)))
    assert problem(Source(table="none.csv")) == "source.table: no file matches none.csv: write another path"
    header = csv_table(tmp_path, "id,file\n")
    assert problem(Source(table=header)) == f"source.table: {header} has no rows"
    five = numbered(tmp_path, 5)
    assert problem(Source(table=five, filter="id > 9")) == "source.filter: 'id > 9' is not true of any of the 5 rows"
    assert problem(Source(table=five, filter="id > 9", sample=2)).startswith("source.filter: 'id > 9' is not true of")
    pictures = (f"{photos}/in/*",)
    assert "'stem == 'x'' is not true of any of the 3 pictures" in problem(
        Source(images=pictures, filter="stem == 'x'")
    )
    assert problem(Source(table=five, sample=0.000001)) == (
        "source.sample: 1e-06 leaves none of 5 items: write a larger share, or a whole number of items"
    )


# -- names ------------------------------------------------------------------------------------------------------------

OWN = {"stem", "name", "path", "index"}


def test_the_names_that_templates_may_use_are_known_where_the_table_knows_its_columns(tmp_path: Path) -> None:
    place = csv_table(tmp_path, "id,width,file name,none\n")
    assert table_names(Source(table=place)) == {"id", "row", "index"}
    assert known_names(Source(table=place, columns={"mask": "x"})) == {*OWN, "row", "id", "mask"}
    parquet.write_table(pa.table({"id": [1], "image": [b"x"]}), tmp_path / "items.parquet")
    assert known_names(Source(table=f"{tmp_path}/items.parquet")) == {*OWN, "row", "id"}
    assert known_names(Source(images=("*.png",), columns={"mask": "x"})) == {*OWN, "mask"}


def test_a_glob_of_tables_knows_the_names_of_all_and_jsonl_knows_none(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id\n")
    (tmp_path / "b.csv").write_text("id,more\n")
    assert known_names(Source(table=f"{tmp_path}/*.csv")) == {*OWN, "row", "id", "more"}
    table(tmp_path, {"id": 1}, name="c.jsonl")
    assert known_names(Source(table=f"{tmp_path}/c.jsonl")) is None
    assert known_names(Source(table=f"{tmp_path}/*")) is None
    with pytest.raises(RecipeError, match="no file matches"):
        known_names(Source(table=f"{tmp_path}/none.csv"))


# -- many rows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [{}, {"filter": "id % 10 == 0"}, {"sample": 100}, {"sample": 0.05}])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, extra: dict[str, Any]) -> None:
    def peak(count: int) -> int:
        place = tmp_path / f"{count}.jsonl"
        with place.open("w") as file:
            file.writelines(f'{{"id": {number}, "p": "{"word " * 20}"}}\n' for number in range(count))
        source = Source(table=str(place), columns={"prompt": "a photo of {{ p }}"}, **extra)
        next(items_of(source))  # imports, compiled templates
        tracemalloc.start()
        assert sum(1 for _ in items_of(source)) > 0
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few = peak(500)  # threads of other tests may allocate meanwhile; what grows with the rows does so each time
    assert any(peak(2_000) < few + 90_000 for _ in range(5))
