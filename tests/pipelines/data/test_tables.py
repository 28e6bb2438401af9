"""Tables: rows of real CSV, TSV, JSONL and Parquet files, what their values count as, and what is wrong with them."""

from __future__ import annotations

import csv
import io
import json
import sys
import tracemalloc
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from flux_tasks import files
from flux_tasks.errors import RecipeError
from pipelines.data.formats import tables
from pipelines.data.formats.number import Number
from pipelines.data.formats.tables import Row
from pipelines.language import templates
from pipelines.language.document.recipe import TABLE_TYPES


def values(place: Path | str) -> list[dict[str, Any]]:
    """Its rows, none of which has an error."""
    rows = list(tables.rows(str(place)))
    assert [row.error for row in rows] == [""] * len(rows)
    return [dict(row.values) for row in rows]


def write(place: Path, text: str, encoding: str = "utf-8") -> str:
    place.write_text(text, encoding=encoding, newline="")
    return str(place)


def written(place: Path, **columns: Any) -> str:
    parquet.write_table(pa.table(columns), place)
    return str(place)


# -- CSV and TSV ------------------------------------------------------------------------------------------------------


def test_a_csv_file_gives_a_row_a_line_with_its_place(tmp_path: Path) -> None:
    place = write(tmp_path / "items.csv", "file,prompt\na.png,a red barn\n\nb.png,\n")
    assert list(tables.rows(place)) == [
        Row(place, 0, 2, {"file": "a.png", "prompt": "a red barn"}),
        Row(place, 1, 4, {"file": "b.png", "prompt": ""}),
    ]
    assert [row.where for row in tables.rows(place)] == [f"row 0 (line 2) of {place}", f"row 1 (line 4) of {place}"]
    assert tables.header(place) == ("file", "prompt")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_byte_order_mark_and_any_line_end_are_understood(tmp_path: Path, encoding: str, end: str) -> None:
    place = write(tmp_path / "items.csv", end.join(["stadt,größe", "Köln,7", "港,8"]), encoding)
    assert values(place) == [{"stadt": "Köln", "größe": "7"}, {"stadt": "港", "größe": "8"}]
    assert tables.header(place) == ("stadt", "größe")


def test_a_quoted_cell_may_hold_separators_quotation_marks_and_line_ends(tmp_path: Path) -> None:
    place = write(tmp_path / "items.csv", 'a,b\n"x, y","she said ""no"",\nand left"\n1,2\n')
    first, second = tables.rows(place)
    assert first.values == {"a": "x, y", "b": 'she said "no",\nand left'}
    assert second.line == 4


def test_a_tsv_file_is_separated_by_tabs(tmp_path: Path) -> None:
    place = write(tmp_path / "items.tsv", "file\tprompt\na.png\ta barn, red\n")
    assert values(place) == [{"file": "a.png", "prompt": "a barn, red"}]
    assert tables.header(place) == ("file", "prompt")


def test_names_of_columns_lose_the_spaces_around_them_and_a_column_without_a_name_is_left_out(tmp_path: Path) -> None:
    place = write(tmp_path / "items.csv", ", file ,file name,\n0,a,b,\n")
    assert values(place) == [{"file": "a", "file name": "b"}]
    assert tables.header(place) == ("file", "file name")


def test_a_row_with_too_few_or_too_many_cells_is_that_rows_trouble_alone(tmp_path: Path) -> None:
    place = write(tmp_path / "items.csv", "a,b\n1\n1,2,3\n1,2\n")
    few, many, good = tables.rows(place)
    assert (
        few.error == "the header names 2 columns; cells here: 1: put a cell that holds a separator in quotation marks"
    )
    assert many.error.startswith("the header names 2 columns; cells here: 3")
    assert (many.where, many.values) == (f"row 1 (line 3) of {place}", {})
    assert (good.error, good.values) == ("", {"a": "1", "b": "2"})


@given(
    rows=st.lists(
        st.lists(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
            min_size=3,
            max_size=3,
        ),
        max_size=8,
    )
)
@settings(deadline=None, max_examples=150)
def test_whatever_python_writes_as_csv_is_read_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["a", "b", "c"], *rows])
    place = write(tmp_path_factory.mktemp("csv") / "items.csv", text.getvalue())
    assert [list(row.values()) for row in values(place)] == rows


# -- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["007", "4.50", "-3", "+2", "1e3", ".5", "5.", " 4", "0"])
def test_a_cell_that_reads_as_a_number_prints_as_it_is_written_and_counts_as_a_number(
    tmp_path: Path, text: str
) -> None:
    [row] = values(write(tmp_path / "items.csv", f"id,x\n{text},\n"))
    assert isinstance(row["id"], Number)
    assert templates.render("out/{{ id }}.png", row, "here") == f"out/{text}.png"
    assert templates.evaluate(f"id == {float(text)} and id < 2000 and -10 <= id", row, "here") is True
    assert templates.evaluate(f"id == '{text}'", row, "here") is True
    assert json.dumps(row["id"]) == json.dumps(text)


@pytest.mark.parametrize(
    "text", ["", "1,5", "1_000", "0x10", "1e999", "nan", "inf", "٣", "1 2", "v2", "-", ".", "1" * 99]
)
def test_a_cell_that_reads_as_no_finite_number_is_text(tmp_path: Path, text: str) -> None:
    [row] = values(write(tmp_path / "items.csv", f'id,x\n"{text}",y\n'))
    assert type(row["id"]) is str
    assert row["id"] == text


def test_numbers_of_a_table_are_compared_by_size_with_numbers_and_with_each_other() -> None:
    context = {"a": Number("10"), "b": Number("9"), "zero": Number("0.0"), "seven": Number("007")}
    for condition in (
        *("a > b", "b < a", "a >= 10", "10 <= a", "a != 9", "not zero", "(a and b) == 9"),
        *("a + 1 == 11", "1 + a == 11", "a - b == 1", "a * 2 == 20", "2 * a == 20", "a * b == 90", "a / 4 == 2.5"),
        *("20 / a == 2", "a // 3 == 3", "a % 3 == 1", "a + b == 19", "21 // a == 2", "11 - a == 1"),
        *(
            "seven == 7",
            "seven in [7, 8]",
            "seven != '7'",
            "seven.startswith('00')",
            "seven + '-x' == '007-x'",
            "'x-' + seven == 'x-007'",
        ),
        *("'%s' % seven == '007'", "seven ~ b == '0079'", "(seven | int) == 7", "seven < 'a'"),
    ):
        assert templates.evaluate(condition, context, "here") is True, condition


@given(left=st.floats(-1e9, 1e9), right=st.floats(-1e9, 1e9) | st.integers(-(10**9), 10**9))
@settings(deadline=None, max_examples=200)
def test_a_number_of_a_table_compares_as_the_number_it_is_made_from(left: float, right: float) -> None:
    number = Number(repr(left))
    compared = (number < right, number <= right, number == right, number != right, number > right, number >= right)
    assert compared == (left < right, left <= right, left == right, left != right, left > right, left >= right)
    assert hash(number) == hash(repr(left))


# -- JSONL ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", ["jsonl", "ndjson", "JSONL"])
def test_values_of_jsonl_keep_their_types_and_blank_lines_are_left_out(tmp_path: Path, extension: str) -> None:
    rows = [{"id": 7, "score": 0.5, "ok": True, "none": None, "meta": {"tags": ["a", "ü"]}}, {"other": "007"}]
    place = write(tmp_path / f"items.{extension}", "\n\r\n".join(json.dumps(row) for row in rows), "utf-8-sig")
    assert values(place) == rows
    assert [row.line for row in tables.rows(place)] == [1, 3]
    assert tables.header(place) is None


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"id": 1', "it is not JSON: Expecting ',' delimiter"),
        ("[1]", "it is a list: write one object a line"),
        ("7", "it is a single value: write one object a line"),
        ("null", "it is null: write one object a line"),
        ('{"id": NaN}', "NaN is not a finite number"),
        ('{"id": 1e999}', "1e999 is not a finite number"),
        ('{"id": "\\ud800"}', "surrogates not allowed"),
        ("[" * 100_000, "it is not JSON"),
        ('{"id": ' + "1" * 5_000 + "}", "it is not JSON"),
    ],
    ids=lambda text: text[:20],
)
def test_a_line_that_is_no_object_is_that_rows_trouble_alone(tmp_path: Path, line: str, told: str) -> None:
    place = write(tmp_path / "items.jsonl", f'{{"id": 0}}\n{line}\n{{"id": 2}}\n')
    first, bad, last = tables.rows(place)
    assert (first.values, last.values) == ({"id": 0}, {"id": 2})
    assert (bad.where, bad.values) == (f"row 1 (line 2) of {place}", {})
    assert told in bad.error


def test_a_line_of_jsonl_that_is_not_utf8_is_that_rows_trouble_alone(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_bytes(b'{"id": "\xff"}\n{"id": 1}')
    bad, good = tables.rows(str(tmp_path / "items.jsonl"))
    assert "utf-8" in bad.error
    assert good.values == {"id": 1}


def test_a_file_without_line_ends_is_not_read_as_one_line(tmp_path: Path) -> None:
    with (tmp_path / "items.jsonl").open("wb") as file:
        file.truncate(1 << 40)  # sparse: 1 TiB of nothing
    with pytest.raises(RecipeError, match="has more than 16,777,216 bytes in line 1: write one object a line"):
        list(tables.rows(str(tmp_path / "items.jsonl")))


# -- Parquet ----------------------------------------------------------------------------------------------------------


def test_a_parquet_file_gives_what_templates_can_print(tmp_path: Path) -> None:
    moment = datetime(2024, 5, 1, 12, 30, tzinfo=UTC)
    place = written(
        tmp_path / "items.parquet",
        id=[7, None],
        name=["a", "b"],
        score=[0.5, float("nan")],
        price=[Decimal("1.50"), None],
        taken=pa.array([moment, None], pa.timestamp("ms", "UTC")),
        fine=pa.array([1_714_566_600_000_000_001, None], pa.timestamp("ns")),
        day=[date(2024, 5, 1), None],
        at=[clock(12, 30), None],
        long=pa.array([timedelta(seconds=90), None], pa.duration("ns")),
        kind=pa.array(["x", "y"]).dictionary_encode(),
        meta=[{"author": "Ada", "tags": ["u", "v"]}, None],
    )
    first, second = values(place)
    assert first == {
        "id": 7,
        "name": "a",
        "score": 0.5,
        "price": "1.50",
        "taken": "2024-05-01T12:30:00+00:00",
        "fine": "2024-05-01T12:30:00",
        "day": "2024-05-01",
        "at": "12:30:00",
        "long": 90.0,
        "kind": "x",
        "meta": {"author": "Ada", "tags": ["u", "v"]},
    }
    assert first["price"] > 1.4
    assert {name: value for name, value in second.items() if value is not None} == {"name": "b", "kind": "y"}
    assert tables.header(place) == tuple(first)
    assert json.loads(json.dumps(first)) == first
    assert [row.where for row in tables.rows(place)] == [f"row 0 of {place}", f"row 1 of {place}"]


def test_columns_of_bytes_are_left_out_at_any_depth_and_what_is_beside_them_stays(tmp_path: Path) -> None:
    boxes = [{"mask": b"x", "label": "car"}]
    place = written(
        tmp_path / "items.parquet",
        thumbnail=[b"\x89PNG"],
        image=[{"bytes": b"\xff\xd8", "path": "a.jpg"}],
        boxes=[boxes],
        only=[{"bytes": b"x"}],
        raw=[[b"x"]],
    )
    assert values(place) == [{"image": {"path": "a.jpg"}, "boxes": [{"label": "car"}]}]
    assert tables.header(place) == ("image", "boxes")


def test_a_parquet_file_without_a_printable_column_says_so(tmp_path: Path) -> None:
    place = written(tmp_path / "items.parquet", image=[b"x"])
    with pytest.raises(RecipeError, match="has no column that a template could use"):
        list(tables.rows(place))


def test_rows_of_all_row_groups_come_in_order(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"id": range(3_333)}), tmp_path / "items.parquet", row_group_size=700)
    rows = list(tables.rows(str(tmp_path / "items.parquet")))
    assert [(row.number, row.values["id"]) for row in rows] == [(n, n) for n in range(3_333)]


def test_a_missing_pyarrow_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = written(tmp_path / "items.parquet", id=[1])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    for read in (tables.header, lambda p: list(tables.rows(p))):
        with pytest.raises(RecipeError, match=r"not installed: pip install 'flux-pipelines\[parquet\]'"):
            read(place)


# -- any table --------------------------------------------------------------------------------------------------------


def test_a_glob_of_tables_is_one_table_whose_rows_are_counted_through(tmp_path: Path) -> None:
    write(tmp_path / "b.csv", "id\n3\n")
    write(tmp_path / "a.csv", "id,more\n1,x\n2,y\n")
    rows = list(tables.rows(f"{tmp_path}/*.csv"))
    assert [(row.number, row.line, row.values["id"]) for row in rows] == [(0, 2, "1"), (1, 3, "2"), (2, 2, "3")]
    assert rows[2].where == f"row 2 (line 2) of {tmp_path}/b.csv"


def test_a_file_whose_name_looks_like_a_glob_is_found_by_its_name(tmp_path: Path) -> None:
    assert values(write(tmp_path / "items[1].csv", "id\n1\n")) == [{"id": "1"}]


@pytest.mark.parametrize("name", ["items.csv", "items.jsonl", "items.parquet"])
def test_a_table_may_live_on_any_filesystem(tmp_path: Path, name: str) -> None:
    write(tmp_path / "items.csv", "id\n1\n")
    write(tmp_path / "items.jsonl", '{"id": "1"}\n')
    written(tmp_path / "items.parquet", id=["1"])
    place = f"memory://tables/{name}"
    files.write(place, (tmp_path / name).read_bytes())
    try:
        assert values(place) == [{"id": "1"}]
        assert tables.header(place) == (None if name.endswith("jsonl") else ("id",))
    finally:
        files.remove(place)


BROKEN: dict[str, tuple[bytes, str]] = {
    "empty.csv": (b"", "is empty: its first line has to name the columns"),
    "blank.csv": (b"\n\n", "is empty: its first line has to name the columns"),
    "latin.csv": ("größe\n".encode("latin-1"), "is not UTF-8 text: save it as UTF-8"),
    "utf16.csv": ("id,größe\n1,2\n".encode("utf-16"), "is not UTF-8 text: save it as UTF-8"),
    "late.csv": (b"id,x\n" + b"1,2\n" * 9_000 + b"\xff,3\n", "is not UTF-8 text: save it as UTF-8"),
    "twice.csv": (b"id,id\n1,2\n", "has several columns called 'id': give each a name of its own"),
    "nameless.csv": (b",,\n1,2,3\n", "has no column that a template could use"),
    "excel.csv": (b"id;name\n1;a\n", "seem to be separated by ';', and not by commas: save it with commas"),
    "tabs.csv": (b"id\tname\n1\ta\n", "seem to be separated by '\\t', and not by commas: name it .tsv"),
    "open.csv": (b'id,name\n1,"a\n2,b\n', "is not understood from line 2 on; is a quotation mark not closed?"),
    "long.csv": (b"id,name\n1,'" + b"a" * (tables.LONGEST_LINE + 1) + b"\n", "field larger than field limit"),
    "text.parquet": (b"id,name\n1,a\n", "text.parquet is damaged"),
    "empty.parquet": (b"", "empty.parquet is damaged"),
    "items.xlsx": (b"PK", "is not a table that is read here: give a file that ends in one of .csv, .tsv, .jsonl"),
    "noextension": (b"id\n", "is not a table that is read here"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_no_table_says_so_with_a_remedy(tmp_path: Path, name: str) -> None:
    data, told = BROKEN[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(RecipeError) as caught:
        list(tables.rows(str(tmp_path / name)))
    assert told in str(caught.value)
    assert name in str(caught.value)
    assert caught.value.problems[0].where == "source.table"


def test_what_is_missing_or_a_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no file matches .*none\.csv"):
        list(tables.rows(f"{tmp_path}/none.csv"))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(RecipeError, match=r"is a folder: for all tables in it, write .*folder\.csv/\*\.csv"):
        list(tables.rows(f"{tmp_path}/folder.csv"))
    with pytest.raises(RecipeError, match="cannot be listed"):
        list(tables.rows("nosuch://bucket/items.csv"))


@given(data=st.binary(max_size=300), extension=st.sampled_from(TABLE_TYPES), cut=st.integers(0, 400))
@settings(deadline=None, max_examples=300)
def test_bytes_of_any_kind_give_rows_or_a_recipe_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, extension: str, cut: int
) -> None:
    place = tmp_path_factory.mktemp("any") / f"items.{extension}"
    if extension == "parquet":  # half a good file, so that the reader gets beyond the first bytes
        whole = Path(written(place, id=[1, 2], name=["a", "b"])).read_bytes()
        place.write_bytes(whole[:cut] + data[:3] + whole[cut + 3 :])
    else:
        place.write_bytes(data)
    try:
        tables.header(str(place))
        for row in tables.rows(str(place)):
            assert row.error or row.values is not None
    except RecipeError as error:
        assert str(place) in str(error)


@pytest.mark.parametrize("extension", ["csv", "jsonl", "parquet"])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, extension: str) -> None:
    def peak(count: int) -> int:
        place = tmp_path / f"{count}.{extension}"
        if extension == "parquet":
            parquet.write_table(
                pa.table({"id": range(count), "p": ["word " * 20] * count}), place, row_group_size=1_000
            )
        else:
            form = "{},{}\n" if extension == "csv" else '{{"id": {}, "p": "{}"}}\n'
            with place.open("w") as file:
                file.write("id,p\n" if extension == "csv" else "")
                file.writelines(form.format(number, "word " * 20) for number in range(count))
        assert sum(1 for _ in zip(tables.rows(str(place)), range(5), strict=False)) == 5  # imports, caches
        tracemalloc.start()
        assert sum(1 for _ in tables.rows(str(place))) == count
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few = peak(2_000)  # threads of other tests may allocate meanwhile; what grows with the rows does so each time
    assert any(peak(10_000) < few + 50_000 for _ in range(5))
