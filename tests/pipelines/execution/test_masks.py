"""Masks in recipes: the same mask in whatever way it comes in, and no picture that passes for one that was masked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from recipes import Place, perform

from flux_tasks.errors import RecipeError
from flux_tasks.images import masks
from flux_tasks.images.reference import ImageRef
from flux_tasks.store.records import Store
from pipelines.execution.local_steps import operate
from pipelines.language.graph import Node
from pipelines.plan.result import Plan
from pipelines.recipe import Recipe

PICTURES = 1
SIZE = (80, 80)
BOX = (8, 8, 40, 40)
SHARE = 32 * 32 / (80 * 80)

FILE = "FOLDER/mask.png"
LOADED: list[dict[str, Any]] = [{"load_mask": {"file": FILE}}]
CORNER: dict[str, Any] = {"mask_from_boxes": {"boxes": [[8, 8, 12, 12]]}, "id": "corner", "from": "source"}
BOTH: dict[str, Any] = {"mask_union": {}, "from": ["load_mask", "corner"]}
WAYS: dict[str, list[dict[str, Any]]] = {
    "a step": [{"erase": {"mask": FILE}}],
    "a mapping": [{"erase": {"mask": {"file": FILE}}}],
    "a column": [{"erase": {"mask": "{{ mask }}"}}],
    "a condition": [{"erase": {"mask": FILE}, "when": "0.1 < mask_coverage < 0.2"}],
    "a condition on a column": [{"erase": {"mask": "{{ mask }}"}, "when": "0.1 < mask_coverage < 0.2"}],
    "preserve and expect": [{"erase": {"mask": FILE, "dilate_pixels": 0}, "preserve": True, "expect": {"changed": 0}}],
    "require_mask": [{"erase": {"mask": FILE}, "require_mask": True}],
    "fill": [{"fill": {"mask": FILE, "prompt": "x"}}],
    "load_mask": [*LOADED, {"erase": {"mask": {"step": "load_mask"}}}],
    "mask_union": [*LOADED, CORNER, BOTH, {"erase": {"mask": {"step": "mask_union"}}}],
    "mask_dilate": [*LOADED, {"mask_dilate": {"pixels": 0}}, {"erase": {"mask": {"step": "mask_dilate"}}}],
    "mask_invert": [*LOADED, {"mask_invert": {}}, {"erase": {"mask": {"step": "mask_invert", "invert": True}}}],
}
FREE: dict[str, list[dict[str, Any]]] = {
    "cutout": [{"cutout": {"mask": FILE}}],
    "composite": [
        {"load_image": {"file": "FOLDER/black.png"}},
        {"composite": {"over": {"step": "load_image"}, "mask": FILE}, "from": "source"},
    ],
}


def painted(value: int, mode: str = "L") -> Image.Image:
    image = Image.new(mode, SIZE)
    image.paste(value, BOX)
    return image


def deep(value: int) -> Image.Image:
    pixels = b"".join((bytes([v and value]) + b"\0") for v in painted(1).tobytes())
    return Image.frombytes("I;16", SIZE, pixels)


def with_colours(value: int) -> Image.Image:
    image = Image.frombytes("P", SIZE, painted(value).tobytes())
    image.putpalette([0, 0, 0, 128, 0, 0])
    return image


def classes() -> Image.Image:
    image = painted(1)
    image.paste(2, (50, 50, 70, 70))
    return image


def black_paint() -> Image.Image:
    image = Image.new("LA", SIZE)
    image.paste((0, 255), BOX)
    return image


KINDS: dict[str, Callable[[], Image.Image]] = {
    "0 and 1": lambda: painted(1),
    "0 and 100": lambda: painted(100),
    "0 and 255": lambda: painted(255),
    "16 bits": lambda: deep(1),
    "a coloured palette": lambda: with_colours(1),
}
UNCLEAR = {"class ids": classes, "black paint on clear": black_paint}


def recipe(here: Place, steps: list[dict[str, Any]]) -> Recipe:
    source = {"images": "FOLDER/photos/*.png", "columns": {"mask": FILE}}
    return here.recipe({"source": source, "steps": steps, "output": {"path": "FOLDER/out/{{ stem }}.png"}})


def plan(here: Place, steps: list[dict[str, Any]]) -> Plan:
    settings = here.settings
    return recipe(here, steps).plan(endpoint=settings.endpoint, key="k", store=settings.store)


def run(here: Place, steps: list[dict[str, Any]]) -> dict[str, Any]:
    _, [row] = perform(recipe(here, steps), here.settings)
    return row


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_is_taken_for_what_it_is_wherever_it_stands(here: Place, kind: str, way: str) -> None:
    KINDS[kind]().save(here.folder / "mask.png")
    assert plan(here, WAYS[way]).jobs == 1
    row = run(here, WAYS[way])
    assert row["outcome"] == "done"
    assert here.jobs == 1
    sent = ImageRef.from_dict(row["steps"][-1]["mask"]).open()
    assert sent.tobytes() == masks.from_boxes(SIZE, [BOX]).tobytes()


@pytest.mark.parametrize("way", FREE)
@pytest.mark.parametrize("kind", KINDS)
def test_a_free_step_shows_what_the_mask_marks(here: Place, kind: str, way: str) -> None:
    KINDS[kind]().save(here.folder / "mask.png")
    Image.new("RGB", SIZE).save(here.folder / "black.png")
    row = run(here, FREE[way])
    assert row["outcome"] == "done"
    with Image.open(row["output_path"]) as result:
        seen = result.getchannel("A") if way == "cutout" else result.convert("L")
        outside = seen.copy()
        outside.paste(0, BOX)
        assert outside.getbbox() is None
        assert seen.getbbox() is not None


@pytest.mark.parametrize("way", [*WAYS, *FREE])
@pytest.mark.parametrize("kind", UNCLEAR)
def test_an_unclear_mask_is_refused_before_anything_is_paid_or_written(here: Place, kind: str, way: str) -> None:
    UNCLEAR[kind]().save(here.folder / "mask.png")
    Image.new("RGB", SIZE).save(here.folder / "black.png")
    steps = {**WAYS, **FREE}[way]
    assert plan(here, steps).invalid
    row = run(here, steps)
    assert row["outcome"] == "invalid"
    assert "mask.png: the mask " in row["error"]["message"]
    assert here.jobs == 0
    assert not (here.folder / "out").exists()


def test_a_class_is_chosen_by_its_colour(here: Place) -> None:
    classes().save(here.folder / "mask.png")
    steps = [
        {"load_image": {"file": FILE}, "id": "classes"},
        {"mask_from_color": {"color": "#020202"}, "id": "person"},
        {"erase": {"mask": {"step": "person"}}, "from": "source"},
    ]
    row = run(here, steps)
    assert row["outcome"] == "done"
    assert ImageRef.from_dict(row["steps"][-1]["mask"]).open().getbbox() == (50, 50, 70, 70)


# -- require_mask -----------------------------------------------------------------------------------------------------


def erase(**options: Any) -> list[dict[str, Any]]:
    return [{"erase": {"mask": "{{ mask }}"}, **options}]


MISSED: dict[str, tuple[Image.Image | None, dict[str, Any], str]] = {
    "black": (Image.new("L", SIZE), {}, "mask.png: the mask is all black, and the step has require_mask"),
    "missing": (None, {}, "mask.png: no such file|there is no mask"),
    "missing and excused": (None, {"when": "mask_exists"}, "the step is skipped .when: mask_exists"),
    "too large": (Image.new("L", SIZE, 255), {"when": "mask_coverage < 0.5"}, "the step is skipped .when: mask_cov"),
}


@pytest.mark.parametrize("kind", MISSED)
@pytest.mark.parametrize("required", [True, "index == 0", "mask_exists or not mask_exists"])
def test_a_picture_that_could_not_be_masked_is_not_written(here: Place, kind: str, required: Any) -> None:
    image, options, message = MISSED[kind]
    if image is not None:
        image.save(here.folder / "mask.png")
    steps = erase(**options, require_mask=required)
    [problem] = plan(here, steps).invalid
    row = run(here, steps)
    assert row["outcome"] == "invalid"
    for text in (problem, row["error"]["message"]):
        assert pytest.raises(AssertionError, match=message).matches(AssertionError(text)), text
    assert here.jobs == 0
    assert not (here.folder / "out").exists()


def test_without_require_mask_a_black_mask_is_nothing_to_do_and_says_so(here: Place) -> None:
    Image.new("L", SIZE).save(here.folder / "mask.png")
    row = run(here, erase())
    assert (row["outcome"], row["steps"][0]["reason"]) == ("skipped", "the mask is all black")
    assert run(here, erase(require_mask=False))["outcome"] == "skipped"
    Image.new("L", SIZE, 255).save(here.folder / "mask.png")
    row = run(here, [{"erase": {"mask": {"file": FILE, "invert": True}}}])
    assert row["steps"][0]["reason"] == "the mask is all white, and inverted"
    assert here.jobs == 0


def test_a_step_may_be_skipped_where_the_condition_of_require_mask_is_false(here: Place) -> None:
    steps = erase(when="mask_exists", require_mask="mask_exists")
    assert run(here, steps)["outcome"] == "skipped"
    Image.new("L", SIZE).save(here.folder / "mask.png")
    assert run(here, steps)["outcome"] == "invalid"


def test_a_mask_that_no_step_made_is_missing(here: Place) -> None:
    painted(255).save(here.folder / "mask.png")
    steps = [
        {"load_mask": {"file": FILE}, "when": "index > 5000"},
        {"erase": {"mask": {"step": "load_mask"}}, "require_mask": True, "from": "source"},
    ]
    row = run(here, steps)
    assert row["outcome"] == "invalid"
    assert "a picture that it needs was not made" in row["error"]["message"]


def test_free_steps_can_require_a_mask_and_steps_without_one_cannot(here: Place) -> None:
    Image.new("L", SIZE).save(here.folder / "mask.png")
    assert run(here, [{"cutout": {"mask": FILE}, "require_mask": True}])["outcome"] == "invalid"
    with pytest.raises(RecipeError, match="deblur has no mask: leave require_mask out"):
        recipe(here, [{"deblur": {}, "require_mask": True}]).check()
    with pytest.raises(RecipeError, match=r"steps.0.require_mask: .*nothing is called 'mask_exist'"):
        recipe(here, erase(require_mask="mask_exist")).check()


def test_require_mask_is_written_as_it_is_read() -> None:
    text = "source: 'x/*.png'\nsteps:\n  - erase: {mask: 'm.png'}\n    require_mask: true\noutput: 'o/{{ stem }}.png'\n"
    read = Recipe.parse(text)
    assert Recipe.parse(yaml.safe_dump(read.to_data())).digest == read.digest
    assert Recipe.parse(text.replace("    require_mask: true\n", "")).digest != read.digest


# -- free results of before -------------------------------------------------------------------------------------------


@pytest.fixture
def node() -> Node:
    text = "source: 'x/*.png'\nsteps: [{cutout: {mask: m.png}}]\noutput: 'o/{{ stem }}.png'\n"
    [node] = Recipe.parse(text).graph.nodes
    return node


@pytest.mark.parametrize(("value", "is_found"), [(255, True), (1, False)])
def test_a_free_result_of_before_counts_only_if_its_mask_was_read_as_today(
    node: Node, value: int, is_found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, image = Store(str(tmp_path)), ImageRef.of(Image.new("RGB", SIZE, "teal"))
    arguments = {"mask": ImageRef.of(painted(value))}
    with monkeypatch.context() as before:
        identity = {name: text for name, text in node.action.identity.items() if name != "masks"}
        before.setattr(type(node.action), "identity", property(lambda _: identity))
        before.setattr("pipelines.operations.registry.read_mask", lambda mask: masks.binarise(mask.open()))
        old = operate(node, arguments, image, store).image
    again = operate(node, arguments, image, store)
    assert again.from_store == is_found
    assert (again.image.digest == old.digest) == is_found
    assert operate(node, arguments, image, store).from_store
