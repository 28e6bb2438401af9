"""Labels are read from every format, find their pictures, and go out as they came in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled import Scene
from PIL import Image

from flux_tasks import ImageRef
from flux_tasks.errors import InvalidImage, InvalidRequest, RecipeError
from pipelines.data.annotations import Label, Labels, coco, labelme, read_annotations, voc, yolo

SIZE = (160, 120)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path).fill(5)


def write(folder: Path, **files: str) -> str:
    for name, text in files.items():
        path = folder / "labels" / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
    return str(folder / "labels")


YAML = "names: {0: person, 1: car}\n"
XML = """<annotation><folder>VOC</folder><filename>a.jpg</filename><size><width>160</width><height>120</height>
<depth>3</depth></size><object><name>car</name><pose>Left</pose><truncated>0</truncated><difficult>1</difficult>
<bndbox><xmin>11</xmin><ymin>21</ymin><xmax>40</xmax><ymax>60</ymax></bndbox>
<part><name>wheel</name></part></object></annotation>"""
SHAPE = {"label": "car", "points": [[10, 20], [40, 60]], "shape_type": "rectangle", "flags": {"far": True}}


def me(*shapes: Any, **more: Any) -> str:
    return json.dumps({"shapes": shapes, "imageWidth": 160, "imageHeight": 120, "imagePath": "a.jpg", **more})


# -- each format ------------------------------------------------------------------------------------------------------


def test_the_same_box_is_read_from_every_format(scene: Scene) -> None:
    (scene.folder / "labels").mkdir()
    box = (10.0, 20.0, 40.0, 60.0)
    scene.objects[0] = [("car", (10, 20, 40, 60))]
    folder = scene.folder
    sets = [
        read_annotations(str(scene.coco("coco/x.json"))),
        read_annotations(write(folder / "y", data_yaml=YAML, p00_txt=f"1 {25 / 160} {40 / 120} {30 / 160} {40 / 120}")),
        read_annotations(write(folder / "v", p00_xml=XML)),
        read_annotations(write(folder / "l", p00_json=me(SHAPE))),
    ]
    assert [found.format for found in sets] == ["coco", "yolo", "voc", "labelme"]
    picture = str(folder / "photos" / "p00.png")
    for found in sets:
        labels = found.of(picture)
        assert labels is not None
        (label,) = labels.upon(ImageRef.of(picture)).labels
        assert label.name == "car"
        assert label.box == pytest.approx(box)


def test_yolo_has_boxes_and_outlines_and_an_empty_file_has_no_labels(tmp_path: Path) -> None:
    text = "0 0.5 0.5 0.2 0.4\n\n1 0.1 0.1 0.3 0.1 0.2 0.5\n0 0.5 0.5 0.2 0.4 0.9\n"
    found = read_annotations(write(tmp_path, classes_txt="person\ncar\n", a_txt=text, b_txt=""))
    labels, empty = found.of("photos/a.jpg"), found.of("photos/b.jpg")
    assert labels is not None
    assert labels.names == ["person", "car", "person"]
    assert labels.labels[1].polygons == (((0.1, 0.1), (0.3, 0.1), (0.2, 0.5)),)
    assert labels.labels[2].extra == {"confidence": 0.9}
    assert empty == Labels((1, 1))
    assert found.of("photos/c.jpg") is None


def test_a_yolo_data_set_is_found_by_its_data_yaml(tmp_path: Path) -> None:
    write(tmp_path, train__a_txt="0 0.5 0.5 1 1", val__a_txt="1 0.5 0.5 1 1")
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [person, car]\n")
    for place in (tmp_path / "data.yaml", tmp_path, tmp_path / "labels"):
        found = read_annotations(str(place))
        for part, name in (("train", "person"), ("val", "car")):
            labels = found.of(f"{tmp_path}/images/{part}/a.jpg")
            assert labels is not None
            assert labels.names == [name]


@pytest.mark.parametrize("folder", ["a [v2] (new)", "labels*", "été"])
def test_a_folder_may_be_called_anything(tmp_path: Path, folder: str) -> None:
    for files in ({"data_yaml": YAML, "a_txt": "0 0.5 0.5 1 1"}, {"a_xml": XML}, {"a_json": me(SHAPE)}):
        place = tmp_path / str(len(list(tmp_path.iterdir()))) / folder
        found = read_annotations(write(place, **files)).of("photos/a.jpg")
        assert found is not None
        assert len(found.labels) == 1


def test_labelme_has_circles_lines_and_points(tmp_path: Path) -> None:
    shapes = [
        {"label": "ball", "points": [[50, 50], [60, 50]], "shape_type": "circle"},
        {"label": "path", "points": [[0, 0], [10, 10], [20, 0]], "shape_type": "linestrip"},
        {"label": "eye", "points": [[5, 6]], "shape_type": "point"},
        {"label": "old", "points": [[0, 0], [10, 0], [0, 10]]},
    ]
    found = read_annotations(write(tmp_path, a_json=me(*shapes))).of("a.jpg")
    assert found is not None
    ball, path, eye, old = found.labels
    assert ball.area == pytest.approx(314, rel=0.01)
    assert path.is_line
    assert eye.box == (5, 6, 5, 6)
    assert old.area == 50
    assert len(found.plain().labels) == 2


def test_coco_keeps_what_else_it_says(scene: Scene) -> None:
    file = scene.coco()
    data = json.loads(file.read_text())
    data["images"][0]["license"] = 3
    data["annotations"][0]["attributes"] = {"occluded": True}
    file.write_text(json.dumps(data))
    found = read_annotations(str(file))
    assert found.classes["car"] == {"id": 3, "name": "car", "supercategory": "thing"}
    assert found.extra == {"info": {"year": 2026}}
    labels = found.of("p00.png")
    assert labels is not None
    assert labels.extra == {"id": 100, "license": 3}
    assert labels.labels[0].extra == {"id": 1, "iscrowd": 0, "attributes": {"occluded": True}}


NUMBERS = st.integers(0, 40)


@st.composite
def labels_of_a_picture(draw: Any) -> Labels:
    found = []
    for name in draw(st.lists(st.sampled_from(["car", "person"]), max_size=4)):
        left, top = draw(NUMBERS), draw(NUMBERS)
        right, bottom = left + draw(st.integers(1, 90)), top + draw(st.integers(1, 70))
        box = (float(left), float(top), float(right), float(bottom))
        outline = ((left, top), (right, top), (right, bottom), (left + 0.25, bottom))
        found.append(Label(name, box, (outline,) if draw(st.booleans()) else ()))
    return Labels(SIZE, tuple(found))


@settings(max_examples=30, deadline=None)
@given(labels_of_a_picture())
def test_what_is_written_is_read_back(labels: Labels) -> None:
    """YOLO has boxes and outlines, Pascal VOC boxes only."""
    from tempfile import TemporaryDirectory

    classes: dict[str, Any] = {"person": {}, "car": {}}
    with TemporaryDirectory() as name:
        folder = Path(name)
        texts = {
            "coco": ("a.json", b"".join(coco.written([("a.png", labels)], {"a.png"}, classes, {}))),
            "yolo": ("a.txt", yolo.written(labels, {"person": 0, "car": 1})),
            "voc": ("a.xml", voc.written(labels, "a.png")),
            "labelme": ("a.json", labelme.written(labels, "a.png")),
        }
        image = ImageRef.of(Image.new("RGB", SIZE))
        for kind, (file, data) in texts.items():
            (folder / kind).mkdir()
            (folder / kind / "classes.txt").write_text("person\ncar\n")
            (folder / kind / file).write_bytes(data)
            place = folder / kind / file if kind == "coco" else folder / kind
            back = read_annotations(str(place), kind).of("x/a.png")
            assert back is not None
            assert back.names == labels.names
            for one, other in zip(back.upon(image).labels, labels.labels, strict=True):
                assert one.box == pytest.approx(other.box, abs=1e-4)
                if kind != "voc":
                    assert len(one.polygons) == len(other.polygons)


# -- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_labels_lie_right_on_a_picture_that_is_turned(tmp_path: Path, orientation: int) -> None:
    """Its size says whether coordinates are of the picture as it is stored, or as people see it."""
    scene = Scene(tmp_path)
    image = ImageRef.of(str(scene.add(("car", (10, 20, 40, 60)), orientation=orientation)))
    assert image.upright_size == SIZE
    labels = read_annotations(str(scene.coco())).of("p00.png")
    assert labels is not None
    assert labels.upon(image).labels[0].box == (10, 20, 40, 60)
    if orientation in (6, 8):
        stored = {6: (20, 120, 60, 150), 8: (60, 10, 100, 40)}[orientation]
        turned = Labels((120, 160), (Label("car", tuple(map(float, stored))),))
        assert turned.upon(image).labels[0].box == (10, 20, 40, 60)


def test_annotations_of_another_size_are_refused(scene: Scene) -> None:
    labels = Labels((64, 64), (Label("car", (1, 1, 9, 9)),), where="labels/x.json")
    with pytest.raises(
        InvalidImage, match=r"labels/x\.json: the annotations are of a picture of 64×64 px, but it is 160×120 px"
    ):
        labels.upon(ImageRef.of(str(scene.folder / "photos/p00.png")))


def test_a_picture_is_found_by_the_end_of_its_location(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": name} for n, name in enumerate(["a/1.png", "b/1.png", "2.png", "c\\3.png"])]
    file = tmp_path / "x.json"
    entry = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [0, 0, 1, 1]}
    categories = [{"id": 1, "name": "car"}]
    file.write_text(json.dumps({"images": images, "annotations": [entry], "categories": categories}))
    found = read_annotations(str(file))
    assert found.find("/data/a/1.png") == "a/1.png"
    assert found.find("/data/b/1.png") == "b/1.png"
    assert found.find("/data/1.png") is None
    assert found.find("s3://bucket/deep/2.png") == "2.png"
    assert found.find("https://host/2.png?sign=1") == "2.png"
    assert found.find("/data/12.png") is None
    assert found.find("tar://deep/a/1.png::s3://bucket/b/shard.tar") == "a/1.png"
    assert found.find("tar://1.png::/data/a/shard.tar") is None
    assert found.find("/data/c/3.png") == "c\\3.png"


# -- what is wrong ----------------------------------------------------------------------------------------------------

DAMAGED = {
    "no such class": ({"data_yaml": YAML, "a_txt": "7 0.5 0.5 1 1"}, "a.txt:1: there is no class 7"),
    "pixels": ({"data_yaml": YAML, "a_txt": "0 80 60 20 20"}, "no shares from 0 to 1: divide"),
    "a word": ({"data_yaml": YAML, "a_txt": "0 x 60 20 20"}, "a.txt:1: '0 x 60 20 20' is not a class and numbers"),
    "three numbers": ({"data_yaml": YAML, "a_txt": "0 0.1 0.1 0.1"}, "3 numbers after the class: write a box"),
    "not a number": ({"data_yaml": YAML, "a_txt": "0 nan 0.1 0.1 0.1"}, "no shares"),
    "broken XML": ({"a_xml": "<annotation><object>"}, "it is no XML"),
    "entities": (
        {"a_xml": '<!DOCTYPE a [<!ENTITY b "c">]><annotation><object><name>&b;</name></object></annotation>'},
        "it has a document type",
    ),
    "a reversed box": ({"a_xml": XML.replace("<xmax>40", "<xmax>4")}, "object 1: its box is reversed"),
    "no box": ({"a_xml": "<annotation><object><name>car</name></object></annotation>"}, "it has no <bndbox>"),
    "no number": ({"a_xml": XML.replace("<xmin>11", "<xmin>left")}, "<xmin> is 'left' and no number"),
    "deep XML": ({"a_xml": "<annotation>" + "<a>" * 30 + "</a>" * 30 + "</annotation>"}, "nested more than"),
    "another file": ({"a_json": '{"version": 1}', "b_json": me()}, "it has no list of shapes"),
    "broken JSON": ({"a_json": "{", "b_json": me()}, "it is no JSON"),
    "no points": ({"a_json": me({"label": "x", "points": 3})}, "shapes.0: points is 3 and no list"),
    "a point of text": ({"a_json": me({"label": "x", "points": [["a", 1]] * 3})}, "'a' is not a number"),
    "a kind": ({"a_json": me({**SHAPE, "shape_type": "cube"})}, "shape_type is 'cube'; known are polygon"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_an_error_of_its_own_picture(tmp_path: Path, case: str) -> None:
    files, message = DAMAGED[case]
    found = read_annotations(write(tmp_path, **files), "labelme" if "b_json" in files else None)
    with pytest.raises(InvalidRequest) as error:
        found.of("photos/a.jpg")
    assert message in str(error.value)
    assert "a." in str(error.value)
    assert found.of("photos/other.jpg") is None


ENTRIES: dict[str, tuple[dict[str, Any], str]] = {
    "no category": ({"category_id": 9}, "there is no category with the id 9; there are 1, 18, 3"),
    "a reversed box": ({"bbox": [9, 9, -3, 4]}, "is reversed: write x, y, width, height"),
    "three numbers": ({"bbox": [9, 9, 3]}, "has 3 numbers: write 4"),
    "text": ({"bbox": "all"}, "'all' is not a list of numbers"),
    "two points": ({"segmentation": [[1, 2, 3, 4]]}, "a polygon of 4 numbers"),
    "a mask of another size": ({"segmentation": {"size": [4, 4], "counts": [16]}}, "its mask is 4×4 px, and its image"),
    "no shape": ({"bbox": None, "segmentation": None}, "it has no bbox, and no polygons"),
}


@pytest.mark.parametrize("case", ENTRIES)
def test_a_damaged_entry_of_coco_is_an_error_of_its_own_picture(scene: Scene, case: str) -> None:
    change, message = ENTRIES[case]
    file = scene.coco()
    data = json.loads(file.read_text())
    data["annotations"][0].update(change)
    file.write_text(json.dumps(data))
    found = read_annotations(str(file))
    with pytest.raises(InvalidRequest) as error:
        found.of("p00.png")
    assert "annotation 1: " in str(error.value)
    assert message in str(error.value)
    assert found.of("p01.png") is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": {}}, "is no COCO file: images is no list: it has images, annotations and categories"),
        ({"annotations": [{"id": 1, "image_id": 5}]}, "there is no image with the id 5: correct its image_id"),
        ({"images": [{"id": 1}]}, "images.0: {'id': 1} has no file_name"),
        ({"categories": [{"id": 1}]}, "categories.0: {'id': 1} has no id or no name"),
    ],
)
def test_a_coco_file_that_is_damaged_as_a_whole_is_refused(scene: Scene, changes: Any, message: str) -> None:
    file = str(scene.coco(**changes))
    with pytest.raises(RecipeError) as error:
        read_annotations(file, "coco")
    assert message in str(error.value)
    assert "source.annotations" in str(error.value)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a_txt": "0 0.5 0.5 1 1"}, "have no names: write data.yaml beside the labels"),
        ({"data_yaml": "names: {0: a, 1: a}", "a_txt": ""}, "write each class once"),
        ({"data_yaml": "names: [", "a_txt": ""}, "is no YAML"),
        ({"data_yaml": "nc: 3", "a_txt": ""}, "names is None"),
        ({"data_yaml": YAML}, "has no .txt files with labels"),
        ({"a_xml": XML, "b_json": me(SHAPE)}, "several formats: write format: voc, or format: labelme, too"),
        ({"x_md": "nothing"}, "has no annotations: write a COCO .json file, data.yaml, or a folder of labels"),
        (
            {"x_json": '{"images": [], "annotations": [], "categories": []}'},
            "a folder with a COCO file: write the file",
        ),
    ],
)
def test_a_folder_whose_format_is_not_certain_is_refused(tmp_path: Path, files: Any, message: str) -> None:
    folder = write(tmp_path, **files)
    with pytest.raises(RecipeError) as error:
        read_annotations(folder)
    assert message in str(error.value)


def test_a_file_that_is_not_there_is_named_with_one_that_is(scene: Scene) -> None:
    scene.coco("labels/Instances.json")
    with pytest.raises(RecipeError, match=r"there is no .*instances\.json: there is .*Instances\.json"):
        read_annotations(str(scene.folder / "labels/instances.json"))
