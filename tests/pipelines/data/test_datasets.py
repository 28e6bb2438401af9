"""Datasets as sources: each format as its own library writes it, here and on S3; paid once; what is damaged."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from made_datasets import MAKERS
from object_stores import moto_s3, new_bucket_name, reach_s3
from PIL import Image
from pyarrow import parquet
from recipes import Place, age, perform

from flux_tasks import files
from flux_tasks.errors import RecipeError
from flux_tasks.images.reference import ImageRef
from pipelines.data.items import Item, items_of, source_warnings
from pipelines.language.document.annotations import Annotations
from pipelines.language.document.recipe import Source
from pipelines.plan.planner import plan
from pipelines.recipe import Recipe

PICTURES = 3


def pictures(here: Place, count: int = 2) -> list[tuple[bytes, bytes]]:
    places = [
        (here.folder / "photos" / f"p{number}.png", here.folder / "masks" / f"p{number % 2}.png")
        for number in range(count)
    ]
    return [(picture.read_bytes(), mask.read_bytes()) for picture, mask in places]


def recipe(here: Place, **source: Any) -> Recipe:
    steps = [{"erase": {"mask": "{{ mask }}"}, "when": "label in ('cat', 'dog') and mask_exists"}]
    return here.recipe({"source": source, "steps": steps, "output": "FOLDER/out/{{ stem }}.png"})


def items(*dataset: object, **options: Any) -> list[Item]:
    return list(items_of(Source(dataset=tuple(map(str, dataset)), **options)))


@pytest.fixture
def read_pictures(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The locations of pictures that are read, as they are."""
    read: list[str] = []
    original = files.read

    def noting(location: str, **options: Any) -> bytes:
        if str(location).endswith(".png") or "::" in str(location):
            read.append(str(location))
        return original(location, **options)

    monkeypatch.setattr(files, "read", noting)
    return read


@pytest.mark.parametrize("kind", MAKERS)
def test_a_picture_in_a_dataset_is_the_call_that_it_is_as_a_file_and_a_new_one_is_one_job(
    here: Place, tmp_path: Path, kind: str, read_pictures: list[str]
) -> None:
    columns = {"mask": "FOLDER/masks/{{ stem }}.png", "label": "cat"}
    perform(recipe(here, images="FOLDER/photos/p[01].png", columns=columns), here.settings)
    assert here.jobs == 2

    made = recipe(here, dataset=MAKERS[kind](tmp_path / "made", pictures(here)))
    age(tmp_path, "*.*")
    assert plan(made.compiled, settings=replace(here.settings, key="")).jobs == 0
    _, rows = perform(made, here.settings)
    assert [(row["item"], row["outcome"]) for row in rows] == [("p0", "cached"), ("p1", "cached")]
    assert here.jobs == 2

    read_pictures.clear()
    run, _ = perform(made, here.settings)
    assert (set(run.summary.counts), read_pictures) == ({"cached"}, [])

    made = recipe(here, dataset=MAKERS[kind](tmp_path / "made", pictures(here, 3)))
    _, rows = perform(made, here.settings)
    assert [row["outcome"] for row in rows] == ["cached", "cached", "done"]
    assert here.jobs == 3


@pytest.mark.parametrize("kind", MAKERS)
def test_a_dataset_on_s3_is_read_where_it_is_and_no_picture_of_it_twice(here: Place, tmp_path: Path, kind: str) -> None:
    book: list[str] = []
    with moto_s3(book) as endpoint, reach_s3(endpoint):
        bucket = new_bucket_name()
        place = MAKERS[kind](tmp_path / "made", pictures(here)).replace(str(tmp_path), f"s3://{bucket}")
        files.exists(f"s3://{bucket}/any")
        fsspec.filesystem("s3").mkdir(bucket)
        for path in filter(Path.is_file, tmp_path.rglob("*")):
            files.write(f"s3://{bucket}/{path.relative_to(tmp_path)}", path.read_bytes())
        made = recipe(here, dataset=place)
        for jobs, outcome in ((2, "done"), (2, "cached")):
            book.clear()
            _, rows = perform(made, here.settings)
            assert [(row["item"], row["outcome"]) for row in rows] == [("p0", outcome), ("p1", outcome)]
            assert here.jobs == jobs
        read = [line for line in book if line.startswith("GET") and line.partition("?")[0].endswith((".png", ".tar"))]
        assert read == []


# -- what a dataset is read as ----------------------------------------------------------------------------------------


def put(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (number, 0, 0)).save(folder / name)


def test_class_folders_give_labels_and_the_folders_of_splits_give_splits(tmp_path: Path) -> None:
    put(tmp_path, "train/cat/1.png", "train/dog/2.JPG", "test/cat/3.png")
    (tmp_path / "train" / "notes.txt").write_text("no picture")
    found = [(item.stem, item.columns["label"], item.columns["split"]) for item in items(tmp_path)]
    assert found == [("3", "cat", "test"), ("1", "cat", "train"), ("2", "dog", "train")]
    assert [item.stem for item in items(tmp_path, split="test")] == ["3"]
    with pytest.raises(RecipeError, match=r"'tests' is no split of the dataset \(did you mean 'test'\?\)"):
        items(tmp_path, split="tests")


def test_a_folder_in_place_of_a_glob_is_all_pictures_in_it_and_below(tmp_path: Path) -> None:
    put(tmp_path, "b.png", "deeper/a.JPG", ".hidden/c.png")
    (tmp_path / "d.heic").write_bytes(b"x")
    for written in (f"{tmp_path}", f"{tmp_path}/"):
        source = Source.model_validate(Source.expand(written))
        assert [files.name(item.path) for item in items_of(source)] == ["b.png", "a.JPG"]
        assert "1 .heic, such as" in source_warnings(source)[0].what
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "x.tar").write_bytes(b"x")
    with pytest.raises(RecipeError, match=r"pictures may be inside its files, such as .*: write \{dataset: "):
        list(items_of(Source(images=(f"{tmp_path}/only",))))
    (tmp_path / "metadata.csv").write_text("file_name\nb.png\n")
    assert "write {dataset: " in source_warnings(source)[0].what


def test_a_result_in_the_folder_that_is_the_source_is_refused(here: Place) -> None:
    for source in ({"images": "FOLDER/photos"}, {"dataset": "FOLDER/photos/"}):
        data = {"source": source, "steps": [{"resize": {"width": 40}}], "output": "FOLDER/photos/new/{{ stem }}.png"}
        with pytest.raises(RecipeError, match="the source would find the result"):
            perform(here.recipe(data), here.settings)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_metadata_say_where_pictures_are_and_cannot_lead_out_of_their_folder(tmp_path: Path, kind: str) -> None:
    put(tmp_path, "in/a.png", "in/b.png", "secret.png")
    names = ["a.png", "../secret.png", str(tmp_path / "secret.png"), "gone.png", ""]
    if kind == "csv":
        (tmp_path / "in" / "metadata.csv").write_text("file_name,style\n" + "".join(f"{name},oil\n" for name in names))
    else:
        parquet.write_table(pa.table({"file_name": names, "style": ["oil"] * 5}), tmp_path / "in" / "metadata.parquet")
    found = items(tmp_path / "in")
    assert (found[0].path, found[0].columns["style"]) == (f"{tmp_path}/in/a.png", "oil")
    assert all("leads out of the folder of the dataset" in item.error for item in found[1:3])
    assert found[3].path == f"{tmp_path}/in/gone.png"
    assert "it has no file_name" in found[4].error
    assert "1 picture is (such as" in source_warnings(Source(dataset=(f"{tmp_path}/in",)))[0].what


@pytest.mark.parametrize(
    "names",
    [
        "data/train-00000-of-00002 data/train-00001-of-00002 data/mine-00000-of-00001",
        "mydata_train mydata_val other",
        "eval/x y",
        "train/x dev/y z/test",
        "train latest",
        "x y",
    ],
)
def test_splits_are_those_that_datasets_finds(tmp_path: Path, names: str) -> None:
    from datasets import load_dataset_builder

    for name in names.split():
        place = tmp_path / "made" / f"{name}.parquet"
        place.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.table({"image": [b"x"]}), place)
    found = load_dataset_builder(str(tmp_path / "made"), cache_dir=str(tmp_path / "cache")).config.data_files
    theirs = {(str(split), str(place)) for split, places in found.items() for place in places}
    ours = {(item.columns["split"], item.path.partition("::")[2]) for item in items(tmp_path / "made")}
    assert ours == theirs


def test_the_configs_of_a_readme_say_which_files_are_which_split(here: Place, tmp_path: Path) -> None:
    made = Path(MAKERS["parquet"](tmp_path, pictures(here))) / "data" / "train-00000-of-00001.parquet"
    for name in ("small/eval.parquet", "large/part.parquet"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(made.read_bytes())
    assert [item.columns["split"] for item in items(tmp_path)] == ["train", "train"]
    assert "2 files are (such as" in source_warnings(Source(dataset=(str(tmp_path),)))[0].what
    assert len(items(f"{tmp_path}/**/*.parquet")) == 6, "files that are named are all read"
    configs = "configs:\n- config_name: small\n  default: true\n  data_files: small/*\n"
    configs += "- config_name: large\n  data_files:\n  - split: mine\n    path: [large/*.parquet]\n"
    (tmp_path / "README.md").write_text(f"---\nlicense: mit\n{configs}---\n# A card\n")
    assert [item.columns["split"] for item in items(tmp_path)] == ["train", "train"]
    assert {item.path.rpartition("/")[2] for item in items(tmp_path)} == {"eval.parquet"}
    assert [item.columns["split"] for item in items(tmp_path, config="large")] == ["mine", "mine"]
    with pytest.raises(RecipeError, match=r"'larg' is no config of the dataset \(did you mean 'large'\?\)"):
        items(tmp_path, config="larg")
    (tmp_path / "README.md").write_text("---\nconfigs: [{config_name: x, data_files: ../*.parquet}]\n---\n")
    with pytest.raises(RecipeError, match="leads out of its folder"):
        items(tmp_path)


def test_columns_of_bytes_that_another_program_wrote_are_pictures_too(here: Place, tmp_path: Path) -> None:
    data = [picture for picture, _ in pictures(here)]
    parquet.write_table(pa.table({"before": data, "after": [*data[:1], None]}), tmp_path / "x.parquet")
    with pytest.raises(
        RecipeError, match=r"several columns of pictures \(after, before\): .* \"\{\{ row\['before'\] \}\}\""
    ):
        items(tmp_path / "x.parquet")
    found = items(tmp_path / "x.parquet", image="{{ row['before'] }}")
    assert [ImageRef.of(item.path).read() for item in found] == data
    assert ([item.stem for item in found], found[1].columns["after"]) == (["row-000000", "row-000001"], None)


def test_a_picture_that_parquet_only_names_is_a_file_of_the_dataset(here: Place, tmp_path: Path) -> None:
    put(tmp_path, "named.png")
    cells = [{"bytes": None, "path": "named.png"}, {"bytes": pictures(here)[0][0], "path": "../own.png"}]
    cells += [{"bytes": None, "path": "../out.png"}, None]
    parquet.write_table(pa.table({"image": cells}), tmp_path / "x.parquet")
    found = items(tmp_path / "x.parquet")
    assert found[0].path == f"{tmp_path}/named.png"
    assert (found[1].stem, ImageRef.of(found[1].path).read()) == ("own", pictures(here)[0][0])
    assert "'../out.png' leads out" in found[2].error
    assert "row 3 of" in found[3].error
    assert "its column 'image' has no picture" in found[3].error


def _views(folder: Path, kind: str) -> str:
    """Rows with a picture, and as many views of it as their number says; row 2 has none at all."""
    import datasets

    datasets.disable_progress_bars()
    image = datasets.Image()
    features = datasets.Features({"image": image, "views": datasets.List(image), "prompt": datasets.Value("string")})
    view = [[Image.new("RGB", (80 + 10 * row + at, 80), "red") for at in range(row)] for row in range(4)]
    rows = {"image": [Image.new("RGB", (64 + row, 64)) for row in range(4)], "prompt": list("abcd"), "views": view}
    rows["views"][2] = None
    made = datasets.Dataset.from_dict(rows, features=features)
    folder.mkdir()
    if kind == "arrow":
        made.save_to_disk(str(folder))
    else:
        made.to_parquet(str(folder / "train.parquet"), batch_size=2)
    return str(folder)


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_list_of_pictures_in_a_column_is_the_references_of_an_edit(here: Place, tmp_path: Path, kind: str) -> None:
    place = _views(tmp_path / "made", kind)
    found = items(place)
    assert [item.error for item in found] == [""] * 4
    sizes = [[ImageRef.of(view).width for view in item.row["views"]] for item in reversed(found)]
    assert sizes == [[110, 111, 112], [], [90], []]
    steps = [{"edit": {"prompt": "{{ prompt }}", "references": "{{ views }}"}}]
    made = here.recipe({"source": {"dataset": place}, "steps": steps, "output": "FOLDER/out/{{ stem }}.png"})
    assert plan(made.compiled, endpoint=here.settings.endpoint, key="k", store=here.settings.store).jobs == 4
    run, _ = perform(made, here.settings)
    assert run.summary.counts == {"done": 4}
    _, rows = perform(made, here.settings)
    assert [row["outcome"] for row in rows] == ["cached"] * 4
    assert here.jobs == 4


def test_a_list_of_pictures_goes_into_a_parquet_dataset_and_its_locations_into_others(
    here: Place, tmp_path: Path
) -> None:
    place = _views(tmp_path / "made", "parquet")
    for kind in ("parquet", "imagefolder"):
        output = {"dataset": f"FOLDER/{kind}", "format": kind}
        made = here.recipe(
            {"source": {"dataset": place}, "steps": [{"flip": {"direction": "vertical"}}], "output": output}
        )
        for _ in range(2):
            run, _rows = perform(made, here.settings)
            assert run.summary.problem == ""
    import datasets

    [file] = (here.folder / "parquet" / "data").glob("*.parquet")
    found = datasets.load_dataset("parquet", data_files=str(file), cache_dir=str(tmp_path / "cache"), split="train")
    assert found.features["views"] == datasets.List(datasets.Image())
    assert [[view.width for view in row["views"] or ()] for row in found] == [[], [90], [], [110, 111, 112]]
    again = [[ImageRef.of(view).width for view in item.row["views"]] for item in items(file, image="{{ image }}")]
    assert again == [[], [90], [], [110, 111, 112]]
    lines = (here.folder / "imagefolder" / "train" / "metadata.jsonl").read_text().splitlines()
    assert json.loads(lines[1])["views"] == [f"parquet://views/1.0::{place}/train.parquet"]


@pytest.mark.parametrize("step", [{"erase": {"mask": "{{ views }}"}}, {"composite": {"over": "{{ views }}"}}])
def test_a_list_where_one_picture_is_expected_is_an_error_of_its_item(here: Place, tmp_path: Path, step: Any) -> None:
    source = {"dataset": _views(tmp_path / "made", "parquet"), "filter": "prompt == 'd'"}
    made = here.recipe({"source": source, "steps": [step], "output": "FOLDER/out/{{ stem }}.png"})
    [said] = plan(made.compiled, endpoint=here.settings.endpoint, key="k", store=here.settings.store).invalid
    assert "3 pictures" in said
    assert "give one of its 3 pictures, in a recipe such as '{{ column[0] }}'" in said or "given: it takes one" in said
    perform(made, here.settings)
    assert here.jobs == 0


# -- damage -----------------------------------------------------------------------------------------------------------


def tar(place: Path, *members: tuple[str, bytes]) -> Path:
    with tarfile.open(place, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return place


def test_the_members_of_a_key_become_its_columns_and_a_bad_member_costs_its_own_item(
    here: Place, tmp_path: Path
) -> None:
    data = pictures(here)[0][0]
    place = tar(
        tmp_path / "x.tar",
        ("a.png", data),
        ("a.JSON", b'{"style": "oil", "width": 3}'),
        ("a.txt", b"some words\n"),
        ("a.cls", b"7"),
        ("a.weights.npy", b"not read"),
        ("b.png", data),
        ("b.json", b"{"),
        ("c.input.png", data),
        ("c.output.png", data),
        ("d.txt", b"alone"),
        ("../../e.png", data),
        ("in.side/f.png", data),
        ("a.png", pictures(here)[1][0]),
    )
    found = items(place)
    first = found[0]
    assert {name: first.columns[name] for name in ("style", "txt", "cls", "__key__")} == {
        **{"style": "oil", "txt": "some words", "cls": 7, "__key__": "a"},
    }
    assert (first.row["width"], first.path, ImageRef.of(first.path).read()) == (3, f"tar://a.png::{place}", data)
    assert [item.stem for item in found if not item.error] == ["a", "f"]
    problems = {item.error.partition(f" of {place}: ")[0]: item.error.partition(f" of {place}: ")[2] for item in found}
    assert "'b.json' is not what its name says" in problems["key b"]
    assert "several pictures (input.png, output.png): write which is the item" in problems["key c"]
    assert "it has no picture" in problems["key d"]
    assert "leads out of the dataset's folder" in problems["key ../../e"]
    assert "stands in the tar twice" in problems["key a"]


def test_labels_find_their_picture_in_a_tar_by_its_name_there(here: Place, tmp_path: Path) -> None:
    place = tar(tmp_path / "x.tar", *((f"{folder}/p.png", pictures(here)[0][0]) for folder in "ab"))
    described = {
        "images": [{"id": number, "file_name": f"{folder}/p.png"} for number, folder in enumerate("ab")],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(described))
    source = Source(dataset=(str(place),), annotations=Annotations(path=f"{tmp_path}/coco.json"))
    assert [item.context["labels"] for item in items_of(source)] == [[], ["cat"]]


def test_a_damaged_header_of_a_tar_costs_what_stands_there_and_no_more(here: Place, tmp_path: Path) -> None:
    data = pictures(here)[0][0]
    place = tar(tmp_path / "x.tar", *((f"p{number}.png", data) for number in range(4)))
    whole = bytearray(place.read_bytes())
    with tarfile.open(place) as archive:
        second, last = archive.getmembers()[1], archive.getmembers()[3]
    whole[second.offset + 100 : second.offset + 110] = b"\xff" * 10
    place.write_bytes(whole[: last.offset_data + 10])
    found = items(place)
    assert [item.stem for item in found if not item.error] == ["p0", "p2", "p3"]
    assert f"damaged at byte {second.offset:,}" in found[1].error
    assert ImageRef.of(found[2].path).read() == data
    with pytest.raises(Exception, match=r"tar://p3\.png::.*cut short"):
        ImageRef.of(found[3].path)


@pytest.mark.parametrize("kind", ["parquet", "webdataset", "arrow"])
def test_a_file_that_is_no_dataset_costs_one_item_and_the_others_are_made(
    here: Place, tmp_path: Path, kind: str
) -> None:
    MAKERS[kind](tmp_path, pictures(here))
    good = next(path for path in sorted(tmp_path.rglob("*.*")) if path.suffix in (".parquet", ".tar", ".arrow"))
    good.with_name(f"a-bad{good.suffix}").write_bytes(b"\x1f\x8bno such file" * 100)
    _, rows = perform(recipe(here, dataset=f"{good.parent}/*{good.suffix}"), here.settings)
    assert [row["outcome"] for row in rows] == ["invalid", "done", "done"]
    assert f"a-bad{good.suffix}" in rows[0]["error"]["message"]


def test_a_damaged_arrow_file_does_not_end_the_process(here: Place, tmp_path: Path) -> None:
    folder = Path(MAKERS["arrow"](tmp_path / "made", pictures(here)))
    (place,) = folder.glob("*.arrow")
    ends = list(accumulate(len(picture) for picture, _ in pictures(here)))
    offsets, wrong = (struct.pack("<3i", 0, *values) for values in (ends, (2**31 - 1, ends[1])))
    assert offsets in place.read_bytes()
    place.write_bytes(place.read_bytes().replace(offsets, wrong))
    (found,) = items(folder)
    assert "is damaged" in found.error
    assert f"{place}: " in found.error


@pytest.mark.parametrize("kind", MAKERS)
def test_rows_are_read_in_any_order(here: Place, tmp_path: Path, kind: str) -> None:
    found = items(*[MAKERS[kind](tmp_path, pictures(here, 3))])
    for number in (0, 1, 2, 0, 2, 1):
        assert files.read(found[number].path) == pictures(here, 3)[number][0]
        assert files.size(found[number].columns["mask"]) == len(pictures(here, 3)[number][1])


def test_a_file_that_is_written_anew_is_read_anew(here: Place, tmp_path: Path) -> None:
    for kind in ("parquet", "webdataset", "arrow"):
        (first, second), read = pictures(here), []
        for chosen in (first, second):
            place = MAKERS[kind](tmp_path / kind, [chosen, (b"x" * len(chosen[0]), b"y")])
            read.append(ImageRef.of(items(place)[0].path).read())
        assert read == [first[0], second[0]], kind


# -- before anything is spent -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{images: 'a/*.png', dataset: b}", "cannot be used together with dataset"),
        ("{table: a.csv, dataset: b}", "cannot be used together with dataset"),
        ("{images: a.png, split: train}", "belongs to a dataset: write dataset"),
        ("shards/*.tar", "a .tar file has many pictures: write dataset in place of images"),
        ("{dataset: b, format: coco}", "is not a format: write one of imagefolder, parquet, webdataset, arrow"),
        ("{dataset: []}", "dataset"),
    ],
)
def test_a_source_that_cannot_be_meant_is_refused_as_it_is_read(source: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.parse(f"source: {source}\nsteps: [resize: {{width: 40}}]\noutput: 'out/{{{{ stem }}}}.png'\n")


def test_a_dataset_that_is_not_there_or_of_no_format_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("x")
    for place, message in (
        (tmp_path / "nowhere", "does not exist, or has no files"),
        (tmp_path, "has no file of a format that is read here: imagefolder, parquet, webdataset, arrow"),
        (tmp_path / "*.tar", "no file matches"),
        (tmp_path / "{0..99999999}.tar", "stands for more than"),
    ):
        with pytest.raises(RecipeError, match=message):
            items(place)


def test_a_column_that_no_file_of_the_dataset_has_is_found_by_plan(here: Place, tmp_path: Path) -> None:
    made = recipe(here, dataset=MAKERS["parquet"](tmp_path, pictures(here)), columns={"b": "{{ masks }}"})
    with pytest.raises(RecipeError, match=r"nothing is called 'masks' \(did you mean 'mask'\?\)"):
        plan(made.compiled, settings=here.settings)
    assert here.jobs == 0
