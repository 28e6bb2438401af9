"""Labels in whole recipes: masks are made of them, conditions ask for them, and they follow the picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from labelled import COLOURS, Scene, bounds_of
from PIL import Image
from recipes import Painter, age, perform

from flux_tasks.errors import RecipeError, listed
from flux_tasks.local.server import LocalServer
from flux_tasks.settings import Settings
from pipelines.cli.summary import print_summary
from pipelines.data.annotations import labels_of, read_annotations
from pipelines.data.annotations.coco_index import CocoIndex
from pipelines.data.annotations.shapes import decode, encode
from pipelines.execution import walk as execution
from pipelines.language.advice import advice
from pipelines.recipe import Recipe


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


@pytest.fixture
def settings(scene: Scene, painter: Painter) -> Settings:
    return Settings(endpoint=painter.url, key="k", store=str(scene.folder / "store"), poll_interval=0.002)


def recipe(scene: Scene, steps: list[Any], output: dict[str, Any] | None = None, **source: Any) -> Recipe:
    """A recipe over the pictures and the COCO labels of a scene."""
    folder = scene.folder
    labels = {"annotations": str(folder / "labels" / "instances.json"), **source}
    data = {
        "source": {"images": str(folder / "photos" / "*.png"), **labels},
        "steps": steps,
        "output": {"path": f"{folder}/out/images/{{{{ stem }}}}.png", **(output or {})},
    }
    return Recipe.parse(yaml.safe_dump(data, sort_keys=False))


def only(row: Any) -> list[tuple[str, tuple[float, ...]]]:
    """The labels of the one result of a row: names and boxes."""
    labels = labels_of(row["outputs"][0])
    assert labels is not None
    return [(label.name, label.box) for label in labels.labels]


ERASE = {"erase": {"mask": {"annotations": {"label": "person"}, "dilate": 4}}}
WIDE = {"outpaint": {"aspect_ratio": "16:9", "mode": "fast"}}


# -- the whole way ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Twelve pictures whose persons are erased by the classical engine and which are outpainted, and their labels."""
    scene = Scene(tmp_path_factory.mktemp("wide")).fill(12)
    scene.coco()
    folder = scene.folder
    places = [{"path": f"{folder}/out/{kind}", "format": kind} for kind in ("coco", "voc", "labelme")]
    output = {"annotations": [*places, {"path": f"{folder}/out/labels", "format": "yolo"}]}
    with LocalServer() as server:
        given = Settings(endpoint=server.url, key="k", store=str(folder / "store"), poll_interval=0.03)
        run, rows = perform(recipe(scene, [ERASE, WIDE], output), given)
    assert run.summary.counts == {"done": 12}
    assert sum(step["outcome"] == "unchanged" for row in rows for step in row["steps"]) == 3  # nobody to erase
    return scene


@pytest.mark.parametrize("kind", ["coco/instances.json", "data.yaml", "voc", "labelme"])
def test_labels_are_where_the_pixels_are_once_persons_are_erased_and_pictures_are_wide(wide: Scene, kind: str) -> None:
    found = read_annotations(str(wide.folder / "out" / kind))
    assert len(found.pictures) == 12
    for path in sorted((wide.folder / "out" / "images").glob("*.png")):
        labels, image = found.of(str(path)), Image.open(path)
        assert image.size[0] / image.size[1] == pytest.approx(16 / 9, rel=0.05)
        assert labels is not None
        placed = labels.placed(_whole(labels, image.size))
        assert "person" not in placed.names
        assert bounds_of(image.crop((24, 0, 90, 120)), COLOURS["person"]) is None
        for label in placed.labels:
            left, top, right, bottom = map(round, label.box)
            inside = image.convert("RGB").crop((left, top, right, bottom))
            assert bounds_of(inside, COLOURS[label.name]) == (0, 0, right - left, bottom - top)
            around = image.convert("RGB").crop((left - 1, top - 1, right + 1, bottom + 1))
            assert bounds_of(around, COLOURS[label.name]) == (1, 1, right - left + 1, bottom - top + 1)


def _whole(labels: Any, size: tuple[int, int]) -> Any:
    from pipelines.operations.placement import Placement

    return Placement.scaled(labels.size, size)  # YOLO's are shares of the sides


def test_coco_goes_out_with_its_own_ids_and_facts(wide: Scene) -> None:
    before = json.loads((wide.folder / "labels" / "instances.json").read_text())
    after = json.loads((wide.folder / "out" / "coco" / "instances.json").read_text())
    assert after["categories"] == before["categories"]
    assert after["info"] == before["info"]
    assert [image["id"] for image in after["images"]] == [image["id"] for image in before["images"]]
    kept = {entry["id"]: entry for entry in before["annotations"] if entry["category_id"] != 1}
    assert {entry["id"] for entry in after["annotations"]} == kept.keys()
    assert all(entry["area"] == kept[entry["id"]]["area"] for entry in after["annotations"])


# -- masks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "white"),
    [
        ({"annotations": "person"}, (10, 10, 30, 40)),
        ({"annotations": {"label": "person"}, "dilate": 4}, (6, 6, 34, 44)),
        ({"annotations": ["person", "car"]}, (10, 10, 90, 80)),
        ({"annotations": {"label": ["person", "car"], "shape": "boxes"}}, (10, 10, 90, 80)),
        ({"annotations": "all"}, (10, 5, 120, 80)),
        ({"annotations": {}}, (10, 5, 120, 80)),
        ({"annotations": "{{ who }}"}, (10, 10, 30, 40)),
    ],
)
def test_a_mask_is_white_where_the_labels_are(
    scene: Scene, settings: Settings, painter: Painter, mask: Any, white: Any
) -> None:
    scene.add(("person", (10, 10, 30, 40)), ("car", (60, 50, 90, 80)), ("dog", (100, 5, 120, 20)))
    scene.coco()
    _, rows = perform(recipe(scene, [{"erase": {"mask": mask}, "vars": {"who": "person"}}]), settings)
    assert rows[0]["outcome"] == "done"
    sent = painter.bodies[-1]["mask"]
    assert _picture(sent).getbbox() == white


def _picture(text: str) -> Image.Image:
    import base64
    import io

    return Image.open(io.BytesIO(base64.b64decode(text))).convert("L")


def test_an_outline_is_masked_as_it_is_and_its_box_where_boxes_are_asked_for(scene: Scene, settings: Settings) -> None:
    scene.add(("person", (10, 10, 50, 90)))
    file = scene.coco()
    data = json.loads(file.read_text())
    data["annotations"][0]["segmentation"] = [[10, 10, 50, 90, 10, 90]]
    file.write_text(json.dumps(data))
    cut = {
        "cutout": {"mask": {"annotations": "person"}},
        "id": "outline",
        "from": "source",
        "save": "OUT/a{{ stem }}.png",
    }
    box = {"cutout": {"mask": {"annotations": {"shape": "boxes"}}}, "id": "box", "from": "source"}
    cut["save"] = f"{scene.folder}/out/a{{{{ stem }}}}.png"
    perform(recipe(scene, [cut, box]), settings)
    shares = []
    for path in (scene.folder / "out" / "ap00.png", scene.folder / "out" / "images" / "p00.png"):
        alpha = Image.open(path).getchannel("A")
        assert alpha.getbbox() in ((10, 10, 50, 90), (10, 11, 50, 90))
        shares.append(alpha.histogram()[255])
    assert shares == [1600, 3200]


@pytest.mark.parametrize("is_compressed", [True, False])
def test_run_lengths_are_masked_and_follow_the_picture(
    scene: Scene, settings: Settings, painter: Painter, is_compressed: bool
) -> None:
    scene.add(("person", (10, 20, 50, 60)), ("dog", (100, 20, 120, 60)))
    file = scene.coco()
    data = json.loads(file.read_text())
    for entry, left, right in zip(data["annotations"], (10, 100), (50, 120), strict=True):
        before, each = 120 * left + 20, [40, 80] * (right - left)
        counts = [before, *each[:-1], 120 * 160 - before - sum(each[:-1])]
        mask = decode({"size": [120, 160], "counts": counts})
        entry["segmentation"] = encode(mask) if is_compressed else {"size": [120, 160], "counts": counts}
        entry["iscrowd"] = 1
    file.write_text(json.dumps(data))
    steps = [{"crop": {"box": [30, 0, 160, 100]}}, {"erase": {"mask": {"annotations": "person"}, "dilate_pixels": 0}}]
    perform(recipe(scene, steps, {"annotations": f"{scene.folder}/out"}), settings)
    assert _picture(painter.bodies[-1]["mask"]).getbbox() == (0, 20, 20, 60)
    (left,) = json.loads((scene.folder / "out" / "instances.json").read_text())["annotations"]
    assert (left["bbox"], left["area"], left["iscrowd"]) == ([70, 20, 20, 40], 800, 1)
    assert decode(left["segmentation"]).getbbox() == (70, 20, 90, 60)


def test_a_picture_without_such_a_label_is_not_paid_for(scene: Scene, settings: Settings, painter: Painter) -> None:
    scene.add(("car", (60, 50, 90, 80)))
    scene.coco()
    plan = recipe(scene, [ERASE]).plan(settings=settings)
    assert plan.jobs == 0
    _, rows = perform(recipe(scene, [ERASE]), settings)
    assert painter.jobs == 0
    assert rows[0]["steps"][0]["outcome"] == "unchanged"
    assert rows[0]["steps"][0]["reason"] == "the mask is all black"
    assert only(rows[0]) == [("car", (60, 50, 90, 80))]


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_mask_lies_right_on_a_picture_that_is_turned(
    scene: Scene, settings: Settings, painter: Painter, orientation: int
) -> None:
    scene.add(("person", (10, 20, 40, 60)), orientation=orientation)
    scene.coco()
    _, rows = perform(recipe(scene, [{"erase": {"mask": {"annotations": "person"}}}]), settings)
    assert rows[0]["outcome"] == "done"
    body = painter.bodies[-1]
    assert _picture(body["mask"]).getbbox() == (10, 20, 40, 60)
    assert _colour(body["image"], (25, 40)) == COLOURS["person"]


def _colour(text: str, place: tuple[int, int]) -> Any:
    import base64
    import io

    return Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB").getpixel(place)


def test_a_mask_is_made_of_the_labels_as_they_are_at_its_step(
    scene: Scene, settings: Settings, painter: Painter
) -> None:
    scene.add(("person", (20, 20, 60, 100)), ("car", (100, 40, 140, 60)))
    scene.coco()
    steps = [
        {"crop": {"box": [10, 0, 150, 120]}},
        {"resize": {"width": 280, "upscale": True}},
        {"erase": {"mask": {"annotations": "car"}}},
    ]
    _, rows = perform(recipe(scene, steps), settings)
    assert _picture(painter.bodies[-1]["mask"]).getbbox() == (180, 80, 260, 120)
    assert only(rows[0]) == [("person", (20, 40, 100, 200))]


# -- conditions -------------------------------------------------------------------------------------------------------


def test_conditions_and_prompts_know_the_labels(scene: Scene, settings: Settings, painter: Painter) -> None:
    scene.add(("person", (10, 10, 30, 40)), ("person", (40, 10, 60, 40)), ("dog", (80, 10, 90, 40)))
    scene.add(("car", (10, 10, 30, 40)))
    scene.add()
    scene.coco()
    steps = [
        {"deblur": {}, "when": 'count("person") > 1 and "dog" in labels'},
        {"edit": {"prompt": "keep {{ labels | unique | join(', ') }}; {{ count() }} things"}, "id": "last"},
    ]
    _, rows = perform(recipe(scene, steps, filter='count("person", "car") > 0'), settings)
    assert [[step["outcome"] for step in row["steps"]] for row in rows] == [["done", "done"], ["skipped", "done"]]
    assert rows[0]["steps"][1]["parameters"]["prompt"] == "keep person, dog; 3 things"


def test_a_condition_asks_for_the_labels_that_are_left(scene: Scene, settings: Settings, painter: Painter) -> None:
    scene.add(("person", (10, 10, 30, 40)), ("car", (80, 10, 110, 40)))
    scene.coco()
    steps = [
        {"crop": {"box": [60, 0, 160, 120]}},
        {"deblur": {}, "when": 'count("person") > 0'},
        {"erase": {"mask": {"annotations": "all"}}},
        {"fill": {"mask": {"boxes": [[0, 0, 9, 9]]}, "prompt": "sky"}, "when": "count() > 0"},
    ]
    found = recipe(scene, steps)
    plan = found.plan(settings=settings)
    _, rows = perform(found, settings)
    assert [step["outcome"] for step in rows[0]["steps"]] == ["done", "skipped", "done", "skipped"]
    assert plan.jobs == painter.jobs == 1
    assert only(rows[0]) == []


# -- keys -------------------------------------------------------------------------------------------------------------


def test_a_changed_annotation_concerns_its_own_picture_only(
    scene: Scene, settings: Settings, painter: Painter, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked: list[str] = []

    async def walk(item: Any, *rest: Any) -> Any:
        walked.append(item.stem)
        return await execution.walk(item, *rest)

    monkeypatch.setattr("pipelines.run.item.walk", walk)
    for left in (10, 20, 30):
        scene.add(("person", (left, 10, left + 20, 40)))
    scene.coco()
    age(scene.folder)
    steps = [{"erase": {"mask": {"annotations": "person"}}}]
    found = recipe(scene, steps, {"annotations": f"{scene.folder}/out"})
    first, _ = perform(found, settings)
    assert (first.summary.jobs, painter.jobs) == (3, 3)
    walked.clear()
    again, _ = perform(recipe(scene, steps, {"annotations": f"{scene.folder}/out"}), settings)
    assert (again.summary.counts, painter.jobs, walked) == ({"cached": 3}, 3, [])
    scene.objects[1] = [("person", (50, 50, 70, 90))]
    scene.coco()
    changed, rows = perform(found, settings)
    assert (changed.summary.counts, painter.jobs, {*walked}) == ({"cached": 2, "done": 1}, 4, {"p01"})
    assert [only(row) for row in rows] == [[]] * 3


# -- labels follow ----------------------------------------------------------------------------------------------------

CAR = (60.0, 40.0, 100.0, 80.0)


@pytest.mark.parametrize(
    ("steps", "box"),
    [
        ([{"resize": {"width": 80}}], (30, 20, 50, 40)),
        ([{"resize": {"width": 60, "height": 60, "fit": "cover"}}], (20, 20, 40, 40)),
        ([{"pad": {"left": 10, "top": 5}}], (70, 45, 110, 85)),
        ([{"crop": {"box": [80, 0, 160, 60]}}], (0, 40, 20, 60)),
        ([{"crop": {"box": [80, 0, 160, 60]}}, {"pad": {"left": 40}}], (40, 40, 60, 60)),
        ([{"rotate": {"degrees": 90}}], (40, 60, 80, 100)),
        ([{"rotate": {"degrees": -90}}], (40, 60, 80, 100)),
        ([{"rotate": {"degrees": 180}}], (60, 40, 100, 80)),
        ([{"rotate": {"degrees": 90, "expand": False}}], (60, 40, 100, 80)),
        ([{"crop": {"box": [40, 0, 160, 120]}}, {"flip": {"direction": "horizontal"}}], (60, 40, 100, 80)),
        ([{"crop": {"box": [40, 20, 160, 120]}}, {"flip": {"direction": "vertical"}}], (20, 40, 60, 80)),
        ([{"outpaint": {"expand": {"left": 32, "top": 16}}}], (92, 64, 132, 104)),
        (
            [{"outpaint": {"width": 256, "height": 128, "reference_offset_x": 64, "reference_offset_y": 0}}],
            (124, 40, 164, 80),
        ),
        ([{"edit": {"prompt": "night", "width": 320, "height": 240}}], (120, 80, 200, 160)),
        ([{"edit": {"prompt": "night"}}], (60, 36, 100, 76)),  # FLUX.2 cuts 160×120 px to 160×112 px, from the middle
        ([{"convert": {"format": "jpeg", "quality": 80}}, {"deblur": {}}], CAR),
        ([{"fill": {"mask": {"boxes": [[0, 0, 70, 120]]}, "prompt": "sky"}, "preserve": True}], CAR),
    ],
)
def test_labels_follow_the_picture(scene: Scene, settings: Settings, steps: list[Any], box: Any) -> None:
    scene.add(("car", tuple(map(int, CAR))))
    scene.coco()
    _, rows = perform(recipe(scene, steps), settings)
    assert rows[0]["error"] is None
    assert only(rows[0]) == [("car", pytest.approx(box))]


@pytest.mark.parametrize("expand", [True, False])
@pytest.mark.parametrize("degrees", [-130, -20, 7.5, 45, 100])
@pytest.mark.parametrize("has_lengths", [False, True])
def test_labels_lie_around_what_is_turned_by_any_angle(
    scene: Scene, settings: Settings, degrees: float, expand: bool, has_lengths: bool
) -> None:
    scene.add(("car", (70, 30, 110, 70)), ("dog", (20, 50, 50, 90)))
    file = scene.coco()
    if has_lengths:
        data = json.loads(file.read_text())
        for entry in data["annotations"]:
            left, top, width, height = entry["bbox"]
            mask = Image.new("L", scene.size)
            mask.paste(255, (left, top, left + width, top + height))
            entry["segmentation"] = encode(mask)
        file.write_text(json.dumps(data))
    steps = [
        {"rotate": {"degrees": degrees, "expand": expand, "filter": "nearest"}},
        {"flip": {"direction": "vertical"}},
    ]
    _, rows = perform(recipe(scene, steps), settings)
    result = Image.open(scene.folder / "out" / "images" / "p00.png")
    assert {name for name, _ in only(rows[0])} == {"car", "dog"}
    for name, box in only(rows[0]):
        assert box == pytest.approx(bounds_of(result, COLOURS[name]), abs=1)
    labels = labels_of(rows[0]["outputs"][0])
    assert labels is not None
    assert labels.size == result.size


def test_key_points_follow_and_left_and_right_change_places_in_a_mirror(scene: Scene, settings: Settings) -> None:
    scene.add(("person", (40, 20, 80, 100)))
    data = json.loads(scene.coco().read_text())
    data["annotations"][0] |= {"keypoints": [50, 30, 2, 70, 30, 1, 60, 40, 2], "num_keypoints": 3}
    data["categories"][0]["keypoints"] = ["left_eye", "right_eye", "nose"]
    (scene.folder / "labels" / "instances.json").write_text(json.dumps(data))
    for step, points in (
        ({"flip": {"direction": "horizontal"}}, [90, 30, 1, 110, 30, 2, 100, 40, 2]),
        ({"rotate": {"degrees": 90}}, [90, 50, 2, 90, 70, 1, 80, 60, 2]),
    ):
        _, rows = perform(recipe(scene, [step]), settings)
        labels = labels_of(rows[0]["outputs"][0])
        assert labels is not None
        assert labels.labels[0].extra["keypoints"] == points


def test_what_is_cut_off_or_erased_loses_its_label_as_the_recipe_says(scene: Scene, settings: Settings) -> None:
    scene.add(("car", (0, 0, 40, 40)), ("dog", (100, 60, 120, 100)))
    scene.coco()
    steps = [
        {"crop": {"box": [30, 0, 160, 120]}},
        {"erase": {"mask": {"boxes": [[70, 60, 78, 100]]}, "dilate_pixels": 0}},
    ]  # 25 %, 40 %
    place = str(scene.folder / "labels" / "instances.json")
    left = {}
    for least, erased in ((0.1, 0.5), (0.3, 0.5), (0.1, 0.4)):
        options = {"path": place, "min_visible": least, "erased": erased}
        _, rows = perform(recipe(scene, steps, annotations=options), settings)
        left[least, erased] = [name for name, _ in only(rows[0])]
    assert left == {(0.1, 0.5): ["car", "dog"], (0.3, 0.5): ["dog"], (0.1, 0.4): ["car"]}


def test_labels_are_left_out_with_a_warning_where_nobody_knows_how_the_input_lies(
    scene: Scene, settings: Settings
) -> None:
    scene.add(("car", (10, 10, 40, 40)))
    scene.coco()
    found = recipe(scene, [{"edit": {"prompt": "a poster", "width": 256, "height": 512}}])
    assert any(
        "its labels are left out: nobody knows how the input lies" in said
        for said in found.plan(settings=settings).warned
    )
    _, rows = perform(found, settings)
    assert only(rows[0]) == []
    assert "160×120 px and 256×512 px" in rows[0]["steps"][0]["warnings"][-1]


def test_labels_of_pictures_that_were_written_before_stay(scene: Scene, settings: Settings) -> None:
    scene.fill(3)
    scene.coco()
    places = [f"{scene.folder}/out", {"path": f"{scene.folder}/out/labels", "format": "yolo"}]
    found = recipe(scene, [{"resize": {"width": 80}}], {"annotations": places})
    perform(found, settings, limit=2)
    perform(found, settings, only=lambda item: item.stem == "p02")
    by_parts = (scene.folder / "out" / "instances.json").read_text()
    data = json.loads(by_parts)
    assert sorted(image["file_name"] for image in data["images"]) == ["p00.png", "p01.png", "p02.png"]
    assert len(list((scene.folder / "out" / "labels").glob("*.txt"))) == 3
    perform(found, settings)
    whole = json.loads((scene.folder / "out" / "instances.json").read_text())
    assert whole == data


def test_several_results_of_one_picture_have_ids_of_their_own(scene: Scene, settings: Settings) -> None:
    scene.add(("car", (10, 10, 40, 40)), ("dog", (60, 10, 90, 40)))
    scene.coco()
    output = {"path": f"{scene.folder}/out/{{{{ variant }}}}/{{{{ stem }}}}.png", "annotations": f"{scene.folder}/out"}
    steps = [{"resize": {"max_side": "{{ side }}"}, "matrix": {"side": [80, 120]}}]
    perform(recipe(scene, steps, output), settings)
    data = json.loads((scene.folder / "out" / "instances.json").read_text())
    assert [image["file_name"] for image in data["images"]] == ["side-80/p00.png", "side-120/p00.png"]
    assert len({image["id"] for image in data["images"]}) == 2
    assert len({entry["id"] for entry in data["annotations"]}) == 4
    assert [entry["bbox"][2] for entry in data["annotations"]] == [15, 15, 22.5, 22.5]


def test_a_function_of_ones_own_keeps_labels_and_is_advised_against(
    scene: Scene, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.add(("car", (10, 10, 40, 40)))
    scene.coco()
    code = "from PIL import ImageOps\nfrom pipelines import operation\n\n@operation\ndef negative(image):\n"
    (scene.folder / "own_labels.py").write_text(f"{code}    return ImageOps.invert(image)\n")
    monkeypatch.syspath_prepend(scene.folder)
    found = recipe(scene, [{"call": "own_labels:negative", "id": "mine"}])
    (said,) = advice(found.compiled)
    assert str(said).startswith("mine: labels stay where they are through a function of your own")
    _, rows = perform(found, settings)
    assert only(rows[0]) == [("car", (10, 10, 40, 40))]


def test_the_end_of_a_run_says_where_the_labels_are(
    scene: Scene, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.add(("car", (10, 10, 40, 40)))
    scene.coco()
    run, _ = perform(recipe(scene, [{"resize": {"width": 80}}], {"annotations": f"{scene.folder}/out"}), settings)
    print_summary(run)
    assert f"labels:   {scene.folder}/out\n" in capsys.readouterr().out


# -- what is wrong is said before anything is paid --------------------------------------------------------------------


def test_all_that_is_wrong_is_said_at_once(scene: Scene, settings: Settings, painter: Painter) -> None:
    scene.add(("person", (10, 10, 30, 40)))
    scene.coco()
    (scene.folder / "out").mkdir()
    (scene.folder / "out" / "instances.json").write_text("[]")
    steps = [
        {"erase": {"mask": {"annotations": ["persn", "person"]}}},
        {"fill": {"mask": {"annotations": "cat"}, "prompt": "x"}},
    ]
    found = recipe(scene, steps, {"annotations": str(scene.folder / "out")})
    for attempt in (lambda: found.plan(settings=settings), lambda: perform(found, settings)):
        with pytest.raises(RecipeError) as error:
            attempt()
        text = str(error.value)
        assert (
            "steps.0.erase.mask.annotations: no label of the source is called 'persn' (did you mean 'person'?)" in text
        )
        assert "steps.1.fill.mask.annotations: no label of the source is called 'cat'" in text
        assert "is there, and is no COCO file: choose another path" in text
    assert painter.jobs == 0


@pytest.mark.parametrize("place", ["labels", "labels/instances.json"])
def test_labels_are_never_written_over_those_of_the_source(scene: Scene, settings: Settings, place: str) -> None:
    scene.fill(1)
    before = scene.coco().read_bytes()
    found = recipe(scene, [{"deblur": {}}], {"annotations": f"{scene.folder}/{place}"})
    with pytest.raises(RecipeError, match="is where the source's own annotations are: choose another path"):
        perform(found, settings)
    assert (scene.folder / "labels" / "instances.json").read_bytes() == before


def test_yolo_is_never_written_over_the_labels_or_the_classes_of_the_source(scene: Scene, settings: Settings) -> None:
    scene.fill(1)
    folder = scene.folder
    (folder / "set" / "labels").mkdir(parents=True)
    (folder / "set" / "data.yaml").write_text("names: [car]")
    (folder / "set" / "labels" / "p00.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    for place in ("labels", "labels/new"):
        output = {"annotations": f"{folder}/set/{place}"}
        found = recipe(scene, [{"deblur": {}}], output, annotations=f"{folder}/set/data.yaml")
        with pytest.raises(RecipeError, match="own annotations"):
            found.plan(settings=settings)


def test_a_class_that_no_voc_file_has_is_a_warning_only(scene: Scene, settings: Settings) -> None:
    """The pictures of this night may have none of it."""
    scene.fill(1)
    (scene.folder / "labels").mkdir()
    (scene.folder / "labels" / "p00.xml").write_text("<annotation></annotation>")
    plan = recipe(scene, [ERASE], annotations=f"{scene.folder}/labels").plan(settings=settings)
    assert any("no label of the source is called 'person'; there are no labels at all" in said for said in plan.warned)
    assert plan.jobs == 0


def test_a_plan_tells_of_odd_annotations(scene: Scene, settings: Settings) -> None:
    scene.add(("person", (10, 10, 30, 40)))
    scene.add(("car", (150, 10, 190, 40)), ("dog", (5, 5, 6, 5)))
    scene.coco()
    (scene.folder / "photos" / "p00.png").rename(scene.folder / "photos" / "new.png")
    said = recipe(scene, [{"deblur": {}}]).plan(settings=settings).warned
    new = listed([f"{scene.folder}/photos/new.png"])
    assert [line.partition(": ")[2] for line in said if "source.annotations" in line] == [
        f"1 of the pictures have no annotations in {scene.folder}/labels/instances.json: {new}",
        f"{scene.folder}/labels/instances.json has 1 more pictures, which are no items: p00.png",
        "1 labels reach beyond their pictures, and are cut there: 'car' in p01.png",
        "1 labels have no area, and are left out: 'dog' in p01.png",
    ]


def test_a_damaged_label_file_costs_its_own_item_only(scene: Scene, settings: Settings, painter: Painter) -> None:
    scene.fill(2)
    folder = scene.folder / "labels"
    folder.mkdir()
    (folder / "data.yaml").write_text("names: [person]")
    (folder / "p00.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (folder / "p01.txt").write_text("0 0.5 0.5 0.2 0.2\n0 0.5\n")
    found = recipe(scene, [ERASE], annotations=str(folder))
    assert any("p01.txt:2: 1 numbers after the class" in line for line in found.plan(settings=settings).invalid)
    _, rows = perform(found, settings)
    assert [row["outcome"] for row in rows] == ["done", "invalid"]
    assert painter.jobs == 1


def test_a_plan_counts_what_depends_on_labels_that_are_not_known_yet(scene: Scene, settings: Settings) -> None:
    """The mask of the third step shows which labels are left, and is made of a picture that is not made yet."""
    scene.add(("person", (10, 10, 30, 40)))
    scene.coco()
    steps = [
        {"edit": {"prompt": "a {{ labels[0] }}"}, "id": "first"},
        {"mask_from_color": {"color": "red"}, "id": "red"},
        {"erase": {"mask": {"step": "red"}}, "from": "first", "id": "erased"},
        {"fill": {"mask": {"annotations": "person"}, "prompt": "sky"}, "when": 'count("person") > 0', "id": "filled"},
        {"edit": {"prompt": "{{ count() }} left"}, "id": "last", "when": '"person" in labels'},
    ]
    plan = recipe(scene, steps).plan(settings=settings)
    assert plan.invalid == []
    assert {step.id: step.undecided.jobs for step in plan.steps if step.undecided.jobs} == {
        "erased": 1,
        "filled": 1,
        "last": 1,
    }


def test_a_settled_item_reads_no_labels_and_a_changed_label_its_own_item_only(
    scene: Scene, settings: Settings, painter: Painter, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.fill(4)
    scene.coco()
    age(scene.folder)
    found = recipe(scene, [ERASE], {"annotations": f"{scene.folder}/out"})
    perform(found, settings)
    written = scene.folder / "out" / "instances.json"
    before = written.stat()
    read: list[str] = []
    known = CocoIndex.annotations
    monkeypatch.setattr(CocoIndex, "annotations", lambda index, picture: read.append(picture) or known(index, picture))
    run, _ = perform(found, settings)
    assert run.summary.counts == {"cached": 3, "skipped": 1}
    assert read == []
    assert written.stat().st_mtime_ns == before.st_mtime_ns
    scene.objects[3].append(("dog", (1, 2, 9, 9)))
    scene.coco()
    perform(found, settings)
    assert set(read) == {"p03.png"}
    assert painter.jobs == 3
    assert sum(entry["category_id"] == 18 for entry in json.loads(written.read_text())["annotations"]) == 3
    written.unlink()
    perform(found, settings)
    assert written.exists()
    assert not [*written.parent.glob("*.tmp")]
