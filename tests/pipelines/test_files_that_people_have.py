"""Files as people have them: odd names, names that nearly match, results beside photos, pictures in tables."""

from __future__ import annotations

import base64
import json
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, noise
from PIL import Image
from pyarrow import parquet
from recipes import Place, perform

from flux_tasks import files
from flux_tasks.errors import InvalidImage, RecipeError, quote
from flux_tasks.images.reference import ImageRef
from pipelines.data.items import Item, items_of
from pipelines.execution.precheck import check_items, source_warnings
from pipelines.language.document.recipe import Source
from pipelines.recipe import Recipe

PICTURE = encoded(noise((96, 80)))
MASK = Image.new("L", (96, 80))
MASK.paste(255, (4, 4, 20, 20))
WITH_MASK = "  - erase: {mask: '{{ mask }}'}\n    when: mask_exists\n"


def recipe(folder: Path, source: str, output: str = "out/{{ stem }}.png", steps: str = "  - deblur: {}\n") -> Recipe:
    """``FOLDER`` is the folder; the recipe is a file, so that messages have a line."""
    text = f"name: t\nsource: {source}\nsteps:\n{steps}output: 'FOLDER/{output}'\n".replace("FOLDER", str(folder))
    (folder / "recipe.yaml").write_text(text)
    return Recipe.load(folder / "recipe.yaml")


def photos(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        files.write(folder / name, encoded(noise((96, 80), seed=number)))


def masks(folder: Path, *names: str) -> None:
    for name in names:
        (folder / "masks").mkdir(exist_ok=True)
        MASK.save(folder / "masks" / name, format="PNG")


def table(folder: Path, *values: Any) -> str:
    (folder / "items.jsonl").write_text("".join(json.dumps({"img": value}) + "\n" for value in values))
    return "{table: 'FOLDER/items.jsonl', image: '{{ img }}'}"


def refused(made: Recipe) -> str:
    with pytest.raises(RecipeError) as caught:
        check_items(made.compiled)
    return str(caught.value)


# -- names ------------------------------------------------------------------------------------------------------------

ODD = ("pic#1", "what?x=1", "100%25", "a%20b", "50%2foff", "back\\slash", "IMG[1]", "Größe", "two words", "a.b")


@pytest.mark.parametrize("way", ["glob", "list", "table", "file address"])
def test_a_photo_of_any_name_finds_its_mask_and_has_an_output_of_its_own(here: Place, tmp_path: Path, way: str) -> None:
    photos(tmp_path, *(f"in/{name}.png" for name in (*ODD, "IMG1")))
    masks(tmp_path, *(f"{name}.png" for name in ODD))
    written = [f"{tmp_path}/in/{name}.png" for name in ODD]
    if way == "glob":
        source = f"images: '{tmp_path}/in/*.png'"
    elif way == "list":
        source = f"images: {json.dumps([*written, f'{tmp_path}/in/IMG1.png'])}"
    else:
        prefix = "file://" if way == "file address" else ""
        table(tmp_path, *(prefix + one for one in [*written, f"{tmp_path}/in/IMG1.png"]))
        source = f"table: '{tmp_path}/items.jsonl', image: '{{{{ img }}}}'"
    made = recipe(tmp_path, f"{{{source}, columns: {{mask: 'FOLDER/masks/{{{{ stem }}}}.png'}}}}", steps=WITH_MASK)
    _, rows = perform(made, here.settings)
    assert {row["item"]: row["outcome"] for row in rows} == {**dict.fromkeys(ODD, "done"), "IMG1": "skipped"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(f"{n}.png" for n in (*ODD, "IMG1"))


@given(
    names=st.sets(
        st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=15).filter(
            lambda name: name.strip(".") and not name.startswith(".")
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(deadline=None, max_examples=60)
def test_items_have_the_names_of_their_files(tmp_path_factory: pytest.TempPathFactory, names: set[str]) -> None:
    folder = tmp_path_factory.mktemp("names")
    for name in names:
        files.write(folder / f"{name}.png", b"x")
    found = list(items_of(Source(images=(f"{folder}/*.png",))))
    assert {item.stem for item in found} == names
    assert {item.context["name"] for item in found} == {f"{name}.png" for name in names}
    for item in found:
        if not {"*", "?"} & {*item.stem}:  # such a name is a pattern for others, too
            assert list(items_of(Source(images=(item.path,)))) == [Item(0, item.path, item.columns)]


@pytest.mark.parametrize("name", ["*", "a?", "[a]*"])
def test_a_file_whose_name_is_the_pattern_hides_no_other_file(tmp_path: Path, name: str) -> None:
    photos(tmp_path, f"{name}.png", "a1.png")
    assert {item.stem for item in items_of(Source(images=(f"{tmp_path}/{name}.png",)))} == {name, "a1"}


def test_the_file_type_of_an_output_is_that_of_its_name(here: Place, tmp_path: Path) -> None:
    photos(tmp_path, "in/a?x=1.jpg")
    perform(recipe(tmp_path, "'FOLDER/in/*.jpg'", output="out/{{ stem }}#1.JPG"), here.settings)
    assert ImageRef.of(tmp_path / "out" / "a?x=1#1.JPG").media_type == "image/jpeg"


# -- what a source nearly matches -------------------------------------------------------------------------------------


def test_a_source_that_matches_nothing_says_where_it_is_written_and_what_it_nearly_matches(tmp_path: Path) -> None:
    photos(tmp_path, "in/a.JPG")
    told = refused(recipe(tmp_path, "\n  images: 'FOLDER/in/*.jpg'"))
    assert told == (
        f"{tmp_path}/recipe.yaml:3: source.images: no file matches {tmp_path}/in/*.jpg: 1 file differs in case only, "
        f"such as {tmp_path}/in/a.JPG: add '{tmp_path}/in/*.JPG'"
    )
    steps = "  - generate: {prompt: x}\n"
    told = refused(recipe(tmp_path, "{table: 'FOLDER/Items.csv'}", steps=steps))
    assert told.startswith(f"{tmp_path}/recipe.yaml:2: source.table: no file matches {tmp_path}/Items.csv: ")


def test_a_source_that_leaves_files_out_says_so_in_the_plan(here: Place, tmp_path: Path) -> None:
    photos(tmp_path, "in/a.png", "in/B.PNG")
    made = recipe(tmp_path, "['FOLDER/in/*.png', 'FOLDER/in/gone.png']")
    plan = made.plan(settings=here.settings)
    assert [line.replace(str(tmp_path), "") for line in plan.warned] == [
        "source.images.0: '/in/*.png' leaves files out: 1 file differs in case only, such as /in/B.PNG: "
        "add '/in/*.PNG'",
        "source.images.1: '/in/gone.png' matches no file",
    ]
    assert "warnings: 2" in str(plan)
    assert all(problem.line == 2 for problem in source_warnings(made.compiled))


# -- masks whose names nearly match -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("photo", "mask"),
    [
        ("IMG_1", "img_1.png"),
        ("a", "a.PNG"),
        (unicodedata.normalize("NFD", "é"), unicodedata.normalize("NFC", "é.png")),
        ("a%20b", "a b.png"),
        ("a b", "a%20b.png"),
    ],
)
def test_an_item_whose_mask_is_called_nearly_so_has_a_warning_in_plan_and_run(
    here: Place, tmp_path: Path, photo: str, mask: str
) -> None:
    photos(tmp_path, f"in/{photo}.png", "in/other.png")
    masks(tmp_path, mask, "another.png")
    made = recipe(tmp_path, "{images: 'FOLDER/in/*', columns: {mask: 'FOLDER/masks/{{ stem }}.png'}}", steps=WITH_MASK)
    told = f"there is no {tmp_path}/masks/{photo}.png, but {tmp_path}/masks/{mask}: give both the same name if it is"
    plan = made.plan(settings=here.settings)
    assert [line.startswith(f"{photo}: erase: {told}") for line in plan.warned] == [True]
    summary, rows = perform(made, here.settings)
    assert {row["item"]: len(row["steps"][0].get("warnings", [])) for row in rows} == {photo: 1, "other": 0}
    assert summary.summary.warned == plan.warned


def test_a_mask_that_is_not_there_is_refused_with_the_name_that_is(tmp_path: Path) -> None:
    masks(tmp_path, "A.png")
    with pytest.raises(InvalidImage, match=r"a\.png: no such file: there is .*/masks/A\.png: write its name as"):
        ImageRef.of(tmp_path / "masks" / "a.png")


# -- results beside the photos ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("FOLDER/in/*.png", "in/{{ stem }}-clean.png"),
        ("FOLDER/**/*.png", "out/{{ stem }}.png"),
        ("FOLDER/in/**", "in/results/{{ stem }}.png"),
        ("FOLDER/*/p?.png", "out/{{ stem }}.png"),
        ("file://FOLDER/in/*", "in/./x/../{{ stem }}.jpg"),
    ],
)
def test_results_that_the_source_would_find_are_refused_the_first_time(
    tmp_path: Path, source: str, output: str
) -> None:
    photos(tmp_path, "in/p1.png", "in/p2.png")
    told = refused(recipe(tmp_path, f"'{source}'", output))
    assert "/recipe.yaml:5: output.path: the source would find the result" in told
    assert f"such as 'out/{output.rpartition('/')[2]}'" in told


@pytest.mark.parametrize(
    ("source", "link", "target"),
    [
        ("in/**/*.png", "in/link", "out"),
        ("in/**/*.png", "in/a/b/link", "out"),
        ("in/**/deep/*.png", "in/link", "out/.."),
        ("in/*/*.png", "in/link", "out"),
        ("in/*/sub/*.png", "in/link", "out/.."),
        ("in/a*/sub/*.png", "in/a-link", "out/.."),
        ("**/in/**", "elsewhere/in", "out"),
    ],
)
@pytest.mark.parametrize("is_there", [True, False], ids=["there", "not yet there"])
def test_so_are_results_that_the_source_would_find_through_a_link_in_one_of_its_folders(
    tmp_path: Path, source: str, link: str, target: str, is_there: bool
) -> None:
    photos(tmp_path, "in/p1.png", "in/a/p2.png", "in/a/sub/p3.png", "in/a/deep/p4.png")
    out = tmp_path / "results" / ("deep" if "deep" in source else "sub")
    if is_there:
        out.mkdir(parents=True)
    place = tmp_path / link
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(out.parent if target == "out/.." else out)
    told = refused(recipe(tmp_path, f"'FOLDER/{source}'", f"results/{out.name}/{{{{ stem }}}}.png"))
    assert "/recipe.yaml:5: output.path: the source would find the result" in told


@pytest.mark.parametrize("link", ["in/.hidden", "in/link/link", "other/link"])
def test_a_link_that_the_source_does_not_go_through_is_no_reason_to_refuse(tmp_path: Path, link: str) -> None:
    photos(tmp_path, "in/a/p1.png")
    (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / link).symlink_to(tmp_path / "out")
    check_items(recipe(tmp_path, "'FOLDER/in/*/*.png'", "out/{{ stem }}.png").compiled)


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("'FOLDER/in/*.png'", "in/results/{{ stem }}.png"),
        ("'FOLDER/in/*.png'", "in/.{{ stem }}.png"),
        ("'FOLDER/in/*.png'", "in/{{ stem }}.jpg"),
        ("{images: 'FOLDER/in/*.png', filter: \"'-clean' not in stem\"}", "in/{{ stem }}-clean.png"),
    ],
)
def test_results_that_the_source_leaves_out_are_written_and_a_second_run_does_the_same(
    here: Place, tmp_path: Path, source: str, output: str
) -> None:
    photos(tmp_path, "in/p1.png", "in/p2.png")
    made = recipe(tmp_path, source, output)
    perform(made, here.settings)
    _, rows = perform(made, here.settings)
    assert ([row["item"] for row in rows], here.jobs) == (["p1", "p2"], 2)


def test_a_long_template_is_cut_in_messages(tmp_path: Path) -> None:
    photos(tmp_path, "in/a.png")
    condition = "index == 1" + " and index == 1" * 40
    with pytest.raises(RecipeError) as caught:
        list(items_of(Source(images=(f"{tmp_path}/in/*",), filter=condition)))
    assert str(caught.value) == f"source.filter: {quote(condition)} is not true of the one picture"
    assert len(quote(condition)) == 82
    [item] = items_of(Source(images=(f"{tmp_path}/in/*",), columns={"c": "{{ nothing }}\n" + "long " * 100}))
    assert len(item.error.removeprefix(f"{tmp_path}")) < 300
    assert "\n" not in item.error


# -- pictures in tables -----------------------------------------------------------------------------------------------

URI = f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}"


def test_a_data_uri_is_the_picture_in_it_and_names_nothing(here: Place, tmp_path: Path) -> None:
    _, rows = perform(recipe(tmp_path, table(tmp_path, URI, URI.replace(",", ",%0A"))), here.settings)
    assert [(row["item"], row["source"]) for row in rows] == [("row-000000",) * 2, ("row-000001",) * 2]
    assert sorted(row["outcome"] for row in rows) == ["cached", "done"], "both are one picture"
    assert URI[30:120] not in json.dumps(rows)
    assert ImageRef.of(URI) == ImageRef.of(PICTURE)
    with pytest.raises(InvalidImage, match="a data URI whose base64 is damaged or cut short") as caught:
        ImageRef.of(URI[:-3])
    assert len(str(caught.value)) < 160


@pytest.mark.parametrize(
    "text",
    [
        URI.partition(",")[2],
        json.dumps({"path": "a.png", "more": "x" * 300}),
        "a photo of a cat that sits on a mat in front of a window, in the evening light, 50 mm, sharp",
        "line\n" * 60,
    ],
)
def test_a_text_that_is_no_location_gives_one_short_line_and_names_nothing(
    here: Place, tmp_path: Path, text: str
) -> None:
    [row] = perform(recipe(tmp_path, table(tmp_path, text)), here.settings)[1]
    assert (row["outcome"], row["item"], row["source"]) == ("invalid", "row-000000", "row-000000")
    assert "no location of a picture: write a path, an address, or data:" in row["error"]["message"]
    assert len(row["error"]["message"]) < 200
    assert "\n" not in row["error"]["message"]
    assert len(json.dumps(row)) < 1_500


@pytest.mark.parametrize("text", [URI, URI.partition(",")[2], "a cat on a mat, " * 10])
def test_a_text_that_is_no_location_names_no_task_run(text: str) -> None:
    from flux_tasks.tasks import deblur

    assert callable(deblur.task_run_name)
    assert deblur.task_run_name({"image": text}) == "deblur image"
    assert deblur.task_run_name({"image": "photos/pic#1.jpg"}) == "deblur pic#1"


def test_a_data_uri_that_an_operation_gets_is_cut_in_the_manifest(here: Place, tmp_path: Path) -> None:
    photos(tmp_path, "in/b.png", "in/a.png")
    steps = "  - composite: {over: '{{ over }}', mask: 'FOLDER/masks/a.png'}\n"
    masks(tmp_path, "a.png")
    made = recipe(tmp_path, f"{{images: 'FOLDER/in/*', columns: {{over: '{URI}'}}}}", steps=steps)
    row = perform(made, here.settings)[1][0]
    assert row["outcome"] == "done"
    assert URI[:200] not in json.dumps(row)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "'{{ img }}' is empty here: write where the picture is"),
        ("", "is empty here"),
        ({"path": "a.png"}, "is a structure here ({'path': 'a.png'}): write the field that says where the picture is"),
        ({"path": None}, "such as '{{ img.path }}'"),
        (["a.png"], "is a structure here (['a.png'])"),
    ],
)
def test_null_and_structures_in_the_place_of_a_picture_say_so(tmp_path: Path, value: Any, told: str) -> None:
    table(tmp_path, value)
    [item] = items_of(Source(table=f"{tmp_path}/items.jsonl", image="{{ img }}"))
    assert told in item.error


@pytest.mark.parametrize("template", ["{{ image }}", "{{ image.path }}", "{{ image.bytes }}", "{{ thumb }}"])
@pytest.mark.parametrize("path", [None, "0001.png"])
def test_pictures_as_bytes_in_parquet_are_told_when_the_recipe_is_validated(
    tmp_path: Path, template: str, path: str | None
) -> None:
    columns = {"image": [{"bytes": PICTURE, "path": path}], "thumb": [PICTURE], "id": [1]}
    parquet.write_table(pa.table(columns), tmp_path / "items.parquet")
    told = refused(recipe(tmp_path, f"{{table: 'FOLDER/items.parquet', image: '{template}'}}"))
    assert "recipe.yaml:2: source.image: " in told
    assert "holds the bytes of pictures, which are not read from a table: write dataset in place of table" in told


def test_a_parquet_table_whose_paths_are_there_is_fine_whatever_bytes_it_has(tmp_path: Path) -> None:
    photos(tmp_path, "a.png")
    parquet.write_table(
        pa.table({"image": [{"bytes": PICTURE, "path": f"{tmp_path}/a.png"}]}), tmp_path / "items.parquet"
    )
    assert check_items(recipe(tmp_path, "{table: 'FOLDER/items.parquet', image: '{{ image.path }}'}").compiled) == 1


def test_a_long_cell_is_read(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text(f"id,text\n1,{'x' * 200_000}\n2,y\n")
    found = list(items_of(Source(table=f"{tmp_path}/items.csv")))
    assert [len(item.columns["text"]) for item in found] == [200_000, 1]


@pytest.mark.parametrize("model", ["flux-2-pro", "flux-pro-1.1"])
def test_an_item_whose_prompt_is_blank_in_the_table_is_refused_and_only_the_others_are_paid(
    here: Place, tmp_path: Path, model: str
) -> None:
    cells = ["a lake", "   ", "", "\u200b", "\t", "\u00a0"]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps({"text": cell}) + "\n" for cell in cells))
    steps = f"  - generate: {{prompt: '{{{{ text }}}}', model: {model}}}\n"
    head = f"source: {{table: '{tmp_path}/items.jsonl'}}\nsteps:\n"
    _, rows = perform(
        Recipe.parse(head + steps + "output: 'FOLDER/{{ index }}.png'\n".replace("FOLDER", str(tmp_path))),
        here.settings,
    )
    assert [row["outcome"] for row in rows] == ["done", *["invalid"] * 5]
    assert here.jobs == 1


@pytest.mark.parametrize(
    "steps",
    [
        "  - generate: {prompt: '   '}\n",
        "  - generate: {}\n    matrix: {prompt: [a lake, '\u3000']}\n",
        '  - edit: {prompt: "\\t"}\n    from: source\n',
    ],
    ids=["parameter", "matrix", "edit"],
)
def test_a_blank_prompt_in_a_recipe_is_refused_when_it_is_read(tmp_path: Path, steps: str) -> None:
    photos(tmp_path, "a.png")
    with pytest.raises(RecipeError, match="is blank"):
        Recipe.parse(
            f"source: '{tmp_path}/*.png'\nsteps:\n{steps}output: '{tmp_path}/{{{{ stem }}}}{{{{ variant }}}}.png'\n"
        )


# -- whole numbers as pandas writes them ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_whole_number_with_a_point_is_that_number_and_has_the_same_key(
    here: Place, tmp_path: Path, kind: str
) -> None:
    rows = [{"n": 64.0, "g": 2.0}, {"n": 64, "g": 2}]
    if kind == "csv":
        (tmp_path / "items.csv").write_text("n,g\n64.0,2.0\n64,2\n")
    elif kind == "jsonl":
        (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        parquet.write_table(pa.table({name: [row[name] for row in rows] for name in rows[0]}), tmp_path / "i.parquet")
    place = next(str(path) for path in tmp_path.iterdir())
    steps = """  - generate: {prompt: x, seed: '{{ n }}', width: '{{ n }}', height: '{{ n }}', variant: '{{ g }}'}
    expect: {aspect: "1:1"}
    on_failure: {retry_with: [{seed: '{{ g }}'}]}
  - resize: {width: '{{ n }}', height: '{{ n }}', fit: cover}
"""
    made = recipe(tmp_path, f"{{table: '{place}'}}", steps=steps)
    plan = made.plan(settings=here.settings)
    assert (plan.invalid, plan.jobs, plan.steps[0].shared) == ([], 1, 1)


@pytest.mark.parametrize("value", ["42.5", "1e-3", "nan", "4 2"])
def test_a_number_that_is_not_whole_stays_refused(here: Place, tmp_path: Path, value: str) -> None:
    (tmp_path / "items.csv").write_text(f"n\n{value}\n")
    steps = "  - generate: {prompt: x, seed: '{{ n }}'}\n"
    plan = recipe(tmp_path, "{table: 'FOLDER/items.csv'}", steps=steps).plan(settings=here.settings)
    assert plan.problems == 1


# -- the store --------------------------------------------------------------------------------------------------------


def test_the_plan_says_where_the_store_is_and_whether_it_is_new(
    here: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(tmp_path, "in/a.png")
    monkeypatch.chdir(tmp_path)
    made = recipe(tmp_path, "'FOLDER/in/*'")
    before = made.plan(settings=here.settings, store="relative")
    assert f"store: {tmp_path}/relative (new: nothing is in it yet)" in str(before)
    assert before.to_dict()["is_store_new"] is True
    assert not (tmp_path / "relative").exists()
    files.write(tmp_path / "relative" / "runs" / "x" / "run.json", b"{}")
    assert f"store: {tmp_path}/relative\n" in str(made.plan(settings=here.settings, store="relative")) + "\n"


@pytest.mark.parametrize("steps", ["  - erase: {mask: '{{ mask }}'}\n", "  - erase: {mask: '{{ held }}'}\n"])
@pytest.mark.parametrize("value", [PICTURE, {"bytes": PICTURE, "path": None}], ids=["bytes", "structure"])
def test_masks_as_bytes_in_parquet_are_told_when_the_recipe_is_validated(
    tmp_path: Path, steps: str, value: Any
) -> None:
    photos(tmp_path, "a.png")
    parquet.write_table(pa.table({"img": [f"{tmp_path}/a.png"], "mask": [value]}), tmp_path / "t.parquet")
    columns = "{held: '{{ mask }}'}" if "held" in steps else "{}"
    source = f"{{table: 'FOLDER/t.parquet', image: '{{{{ img }}}}', columns: {columns}}}"
    assert "the column mask of" in (told := refused(recipe(tmp_path, source, steps=steps)))
    assert "holds the bytes of pictures, which are not read from a table: write dataset in place of table" in told


def test_a_table_of_nothing_but_bytes_says_what_it_holds(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"img": [PICTURE]}), tmp_path / "t.parquet")
    source = "{table: 'FOLDER/t.parquet', image: '{{ img }}'}"
    assert "the column img of" in refused(recipe(tmp_path, source))


def test_a_table_in_utf_16_without_a_mark_says_so(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("img,title\na.png,x\n".encode("utf-16-le"))
    source = "{table: 'FOLDER/t.csv', image: '{{ img }}'}"
    assert "is not UTF-8 text, but seems to be UTF-16: save it as UTF-8" in refused(recipe(tmp_path, source))


@pytest.mark.parametrize(("value", "kind"), [(["a", "b"], "a list"), ({"en": "a"}, "a structure"), (None, "null")])
def test_a_list_or_a_structure_is_printed_into_no_prompt_and_no_name(
    here: Place, tmp_path: Path, value: Any, kind: str
) -> None:
    photos(tmp_path, "a.png")
    (tmp_path / "t.jsonl").write_text(json.dumps({"img": f"{tmp_path}/a.png", "tags": value}) + "\n")
    source = "{table: 'FOLDER/t.jsonl', image: '{{ img }}'}"
    steps = "  - generate: {model: flux-2-pro, prompt: 'a photo of {{ tags }}', width: 64, height: 64}\n"
    for made in (recipe(tmp_path, source, steps=steps), recipe(tmp_path, source, "out/{{ tags }}.png")):
        _, (row,) = perform(made, here.settings)
        assert row["outcome"] == "invalid"
        assert f"a value in it is {kind}: write " in row["error"]["message"]
    assert here.jobs == 0
