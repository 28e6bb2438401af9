"""The JSON Schema of recipes: it takes what the reader takes, and says of most mistakes that they are mistakes."""

from __future__ import annotations

import functools
import itertools
import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from cases import Cases
from command_line import Here
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from recipes import as_yaml, recipes

from flux_tasks import catalog
from flux_tasks.errors import RecipeError
from flux_tasks.images.masks import Mask
from pipelines.language import schema as module
from pipelines.language.document.expect import Expect
from pipelines.language.python.signatures import STEPS, parameters
from pipelines.language.reading.steps import OPTIONS
from pipelines.language.schema import schema, text
from pipelines.operations.registry import OPERATIONS
from pipelines.recipe import Recipe

REPOSITORY = Path(module.__file__).parents[2]
SCHEMA = json.loads((REPOSITORY / "configs" / "recipe.schema.json").read_text(encoding="utf-8"))
"""The copy beside the recipes, which is fresh, as a test says: to make it anew takes 0.3 s of CPU."""


@functools.cache
def validator() -> jsonschema_rs.Draft202012Validator:
    """In Rust: the one in Python takes 20 times as long."""
    return jsonschema_rs.Draft202012Validator(SCHEMA)


SHIPPED = sorted(
    p for name in ("configs", "examples") for p in (REPOSITORY / name).rglob("*.yaml") if p.parent.name != "deploy"
)

GOOD = """
name: good
vars: {style: oil}
source: {images: ["a/*.png", "b/*.png"], columns: {mask: "m/{{ stem }}.png"}, filter: index < 9, sample: 0.5, limit: 3}
steps:
  - auto_orient
  - Resize: {max_side: 300}
  - mask_from_boxes: {boxes: [[1, 2, 30, 40]]}
    id: corner
  - erase: {mask: {step: corner, dilate: 3}, dilate_pixels: "{{ index }}"}
    from: resize
    when: mask_exists
    preserve: {feather: 3}
    expect: {solid: false, size: same, drift: 4}
    on_failure: {retry_with: [{seed: 1}, {seed: 2}], then: keep}
    save: "o/{{ stem }}-e.png"
  - fill: {mask: {boxes: [[1, 2, "{{ 30 }}", 40]]}, prompt: "{{ style }}"}
  - flux-kontext: {prompt: x, input_image_2: b.png}
  - edit: {prompt: x, model: kontext-max, references: [a.png, {step: erase}]}
    matrix: {seed: [1, 2]}
  - outpaint: {expand: {left: 3}}
output:
  - {path: "o/{{ stem }}-{{ variant }}.png"}
  - {path: "o/{{ stem }}-f.jpg", from: fill}
budget: {credits: 3}
""".replace("Resize", "resize")

BROKEN = {
    "a key that is not known": ("name: good", "nam: good"),
    "no output": ("output:", "outputs:"),
    "a step that does not exist": ("- flux-kontext:", "- flux-context:"),
    "a step without a name": ("- auto_orient", "- {id: x}"),
    "two steps in one": ("- outpaint: {expand: {left: 3}}", "- {outpaint: {expand: {left: 3}}, deblur: {}}"),
    "a parameter of another tool": ("{max_side: 300}", "{dilate_pixels: 3}"),
    "a number where a text is due": ("{prompt: x, input", "{prompt: 3, input"),
    "a text where a number is due": ("max_side: 300", "max_side: wide"),
    "a number out of range": ("max_side: 300", "max_side: 0"),
    "a word that is none of the choices": ("model: kontext-max", "model: kontext-maxi"),
    "a box of three numbers": ("[[1, 2, 30, 40]]", "[[1, 2, 30]]"),
    "no boxes": ("{boxes: [[1, 2, 30, 40]]}", "{boxes: []}"),
    "a mask of two origins": ('{boxes: [[1, 2, "{{ 30 }}", 40]]}', "{alpha: true, file: a.png}"),
    "a step in a picture that is misspelt": ("{step: erase}", "{stap: erase}"),
    "an expansion of an unknown side": ("{left: 3}", "{links: 3}"),
    "an expectation that is not known": ("drift: 4", "drfit: 4"),
    "an expectation out of range": ("drift: 4", "drift: 400"),
    "one colour that is expected": ("solid: false", "solid: true"),
    "something else on failure": ("then: keep", "then: cry"),
    "on_failure without expect": ("expect: {solid: false, size: same, drift: 4}", "when: 'true'"),
    "a feather out of range": ("feather: 3", "feather: 300"),
    "an empty matrix": ("matrix: {seed: [1, 2]}", "matrix: {}"),
    "a matrix of one value": ("matrix: {seed: [1, 2]}", "matrix: {seed: 1}"),
    "an output of another type": ("{{ stem }}-f.jpg", "{{ stem }}-f.gif"),
    "an output that is one file": ("o/{{ stem }}-f.jpg", "o/f.jpg"),
    "with beside a tool": ("when: mask_exists", "with: {a: 1}"),
    "a negative budget": ("credits: 3", "credits: -3"),
    "a share above one": ("sample: 0.5", "sample: 1.5"),
    "a limit of nothing": ("limit: 3", "limit: 0"),
    "an image without a table": ("limit: 3", "image: a.png"),
    "a variable that is a template": ("vars: {style: oil}", 'vars: {style: "{{ stem }}"}'),
    "a column with a name that is taken": ("columns: {mask:", "columns: {stem:"),
    "an id that is taken": ("id: corner", "id: source"),
    "a webhook": ("{expand: {left: 3}}", "{webhook_url: 'http://x'}"),
}


def errors(data: Any) -> list[str]:
    return [error.message for error in validator().iter_errors(data)]


def is_read(data: Any) -> bool:
    try:
        Recipe.parse(as_yaml(data))
    except RecipeError:
        return False
    return True


def test_the_schema_is_a_schema_and_needs_nothing_from_anywhere() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    refs = {part.split('"')[0] for part in text().split('"$ref": "')[1:]}
    assert all(ref.startswith("#/$defs/") for ref in refs)
    assert {"$schema", "$id"} <= SCHEMA.keys()
    assert SCHEMA["$id"].startswith("urn:")


def test_the_copy_beside_the_recipes_is_fresh() -> None:
    assert (REPOSITORY / "configs" / "recipe.schema.json").read_text(encoding="utf-8") == text(), "make stubs"
    assert schema() == SCHEMA


def test_the_command_line_prints_it(here_cli: Here) -> None:
    done = here_cli("schema")
    assert (done.returncode, json.loads(done.stdout)) == (0, SCHEMA)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_recipe_that_is_shipped_keeps_to_it(path: Path) -> None:
    assert errors(yaml.safe_load(path.read_text(encoding="utf-8"))) == []


def test_there_are_recipes_that_are_shipped() -> None:
    assert len(SHIPPED) >= 6


def test_a_recipe_with_something_of_everything_keeps_to_it() -> None:
    Recipe.parse(GOOD)
    assert errors(yaml.safe_load(GOOD)) == []


def test_a_broken_recipe_does_not_keep_to_it(cases: Cases) -> None:
    for what, (before, after) in BROKEN.items():
        with cases.case(what):
            assert before in GOOD
            data = yaml.safe_load(GOOD.replace(before, after, 1))
            assert errors(data)
            assert not is_read(data)


def test_every_parameter_of_every_step_is_explained(cases: Cases) -> None:
    for name in STEPS:
        with cases.case(name):
            body = SCHEMA["$defs"][SCHEMA["$defs"]["step"]["properties"][name]["$ref"].rpartition("/")[2]]
            assert {p.name for p in parameters(name)} <= body["properties"].keys()
            assert all(given.get("description") for given in body["properties"].values())


def test_ranges_and_defaults_are_those_of_the_catalogue() -> None:
    found = SCHEMA["$defs"]["parameters.erase"]["properties"]["dilate_pixels"]
    info = catalog.TOOLS["erase-v1"].parameters["dilate_pixels"]
    assert (found["default"], found["description"]) == (info.default, info.description)
    assert {"type": "integer", "minimum": 0, "maximum": 100} in found["anyOf"]
    side = SCHEMA["$defs"]["parameters.resize"]["properties"]["fit"]
    assert side["default"] == OPERATIONS["resize"].parameters.model_fields["fit"].default


def test_what_stands_beside_a_step_and_what_is_expected_is_all_there() -> None:
    step = SCHEMA["$defs"]["step"]["properties"]
    assert {*OPTIONS, "call", "recipe", *STEPS, *catalog.TOOLS} <= step.keys()
    assert SCHEMA["$defs"]["expect"]["properties"].keys() == Expect.model_fields.keys()


ALIASES = [alias for tool in catalog.TOOLS.values() for alias in (tool.name, *tool.aliases)]


def test_every_name_of_a_step_may_be_written_with_hyphens_and_underscores(cases: Cases) -> None:
    for name in {*STEPS, *ALIASES}:
        for written in (name.replace("_", "-"), name.replace("-", "_")):
            for step in ({written: {}}, {written: None}, written):
                with cases.case(step):
                    assert errors({"source": "a/*.png", "steps": [step], "output": "o/{{ stem }}.png"}) == []


# -- reader and schema agree ------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(recipes())
def test_recipes_of_every_shape_keep_to_it(data: dict[str, Any]) -> None:
    assert is_read(data)
    assert errors(data) == []


NUMBERS = st.one_of(st.integers(-3, 120), st.sampled_from([0.0, 0.5, 1.0, 2.5, 10.0, 640, 1024, 4096]))
TEXTS = st.sampled_from(
    ["x", "a.png", "{{ stem }}", "{{ index }}", "16:9", "1:1", "png", "jpeg", "high", "fast", "true"]
)
WORDS = st.sampled_from(
    ["downscale", "contain", "cover", "center", "white", "#ff0000", "RGB", "nearest", "left", "keep"]
)
LEAVES = st.one_of(NUMBERS, TEXTS, WORDS, st.booleans(), st.none())
BOXES = st.lists(st.one_of(st.integers(-5, 50), st.just("{{ index }}")), min_size=3, max_size=5)
VALUES = st.one_of(
    LEAVES,
    BOXES,
    st.lists(BOXES, max_size=2),
    st.dictionaries(
        st.sampled_from(["left", "right", "top", "file", "alpha", "dilate", "step", "boxes"]), LEAVES, max_size=2
    ),
    st.lists(TEXTS, max_size=2),
)
NEEDED = {
    "erase": {"mask": "a.png"},
    "try_on": {"garment": "g.png", "prompt": "x"},
    "fill": {"mask": "a.png"},
    "fill_finetuned": {"mask": "a.png", "finetune_id": "f", "prompt": "x"},
    "edit": {"prompt": "x"},
    "generate": {"prompt": "x"},
    "outpaint": {"aspect_ratio": "16:9"},
    "resize": {"max_side": 64},
    "crop": {"aspect_ratio": "1:1"},
    "pad": {"left": 3},
    "convert": {"format": "png"},
    "composite": {"over": "a.png"},
    "cutout": {"mask": "a.png"},
    "load_image": {"file": "a.png"},
    "load_mask": {"file": "a.png"},
    "mask_from_boxes": {"boxes": [[1, 2, 3, 4]]},
    "mask_from_color": {"color": "white"},
    "mask_dilate": {"pixels": 3},
}
BESIDE: dict[str, Any] = {
    "id": st.sampled_from(["a", "a-b", "größe", "_x", "1a", "", None, "source", 3]),
    "from": st.sampled_from(["source", ["source"], "first", ["first", "source"], [], None, 3]),
    "when": st.one_of(LEAVES, st.sampled_from(["width > 3", "mask_exists", "index == 0"])),
    "matrix": st.dictionaries(
        st.sampled_from(["seed", "prompt", "take", "a-b"]), st.lists(LEAVES, max_size=2), max_size=2
    ),
    "vars": st.one_of(st.none(), st.dictionaries(st.sampled_from(["who", "seed"]), LEAVES, max_size=1), LEAVES),
    "expect": st.one_of(st.dictionaries(st.sampled_from([*Expect.model_fields]), VALUES, max_size=2), LEAVES),
    "on_failure": st.one_of(
        LEAVES,
        st.fixed_dictionaries(
            {"retry_with": st.dictionaries(st.sampled_from(["seed", "mode"]), LEAVES, max_size=1)},
            optional={"then": WORDS},
        ),
    ),
    "preserve": st.one_of(LEAVES, st.dictionaries(st.sampled_from(["feather"]), NUMBERS)),
    "save": st.sampled_from(
        ["s/{{ stem }}.png", "s/{{ stem }}-{{ variant }}.JPG", "s/x.png", "s/{{ stem }}", "", None, 3]
    ),
    "with": st.one_of(st.none(), st.just({})),
}
ENDS = {
    "name": LEAVES,
    "vars": st.one_of(LEAVES, st.dictionaries(st.sampled_from(["who", "stem", "a b"]), LEAVES, max_size=2)),
    "env": st.one_of(LEAVES, st.just([]), st.just(["PATH"])),
    "budget": st.one_of(LEAVES, st.dictionaries(st.sampled_from(["credits", "x"]), NUMBERS, max_size=2)),
    "output": st.sampled_from(
        ["o/{{ stem }}.webp", ["o/{{ stem }}.JPEG"], [], {"path": "o/{% if 1 %}{% endif %}.png"}, None]
    ),
    "source": st.one_of(
        st.sampled_from(["a/*.png", ["a/*.png"], "", None]),
        st.fixed_dictionaries(
            {},
            optional={
                "images": st.sampled_from(["a/*.png", ["a/*.png"], [], None]),
                "table": st.sampled_from(["a.csv", "a.CSV", "a.parquet", "a.txt", ""]),
                "image": st.sampled_from(["{{ index }}.png", "x", ""]),
                "columns": st.one_of(
                    LEAVES, st.dictionaries(st.sampled_from(["mask", "stem", "größe"]), TEXTS, max_size=1)
                ),
                "filter": st.one_of(LEAVES, st.just("index > 3")),
                "sample": NUMBERS,
                "seed": LEAVES,
                "limit": LEAVES,
            },
        ),
    ),
}


@st.composite
def small(draw: Any) -> dict[str, Any]:
    """A recipe that is nearly right: what a step needs, one thing more or other, and one thing beside it."""
    name = draw(st.sampled_from(STEPS))
    given = dict(NEEDED.get(name, {}))
    known = [*(p.name for p in parameters(name)), "seed"]
    if draw(st.booleans()):
        key = draw(st.sampled_from(known))
        given[key] = draw(VALUES if key in ("box", "boxes", "expand", "mask", "references") else LEAVES)
    step: dict[str, Any] = {name: given}
    for key in draw(st.lists(st.sampled_from([*BESIDE]), max_size=1)):
        step[key] = draw(BESIDE[key])
    data: dict[str, Any] = {
        "source": {"images": "a/*.png", "columns": {"mask": "m/{{ stem }}.png"}},
        "steps": [{"mask_from_alpha" if name.startswith("mask_") else "deblur": {}, "id": "first"}, step],
        "output": "o/{{ stem }}-{{ variant }}.png",
    }
    if name == "mask_union":
        step["from"] = ["first", "first"]
    if draw(st.integers(0, 3)) == 3:
        key = draw(st.sampled_from([*ENDS]))
        data[key] = draw(ENDS[key])
    return data


def of_step(step: dict[str, Any]) -> dict[str, Any]:
    return {"source": "a/*.png", "steps": [step], "output": "o/{{ stem }}.png"}


@settings(deadline=None, max_examples=1000, suppress_health_check=list(HealthCheck))
@given(small())
@example(of_step({"erase": {"mask": {"file": 0}}}))
@example(of_step({"resize": {"width": ["{{ index }}"]}}))
@example(of_step({"generate": {"prompt": "x", "width": {"a": "{{ index }}"}, "height": 80}}))
def test_what_the_reader_takes_the_schema_takes(data: dict[str, Any]) -> None:
    if is_read(data):
        assert errors(data) == []


@pytest.mark.parametrize(
    "step",
    [
        {"erase": {"mask": {"file": 0}}},
        {"erase": {"mask": {"file": ""}}},
        {"resize": {"width": ["{{ index }}"]}},
        {"generate": {"prompt": "x", "width": {"a": "{{ index }}"}, "height": 80}},
    ],
    ids=str,
)
def test_a_value_that_no_template_can_make_right_is_refused_by_both(step: dict[str, Any]) -> None:
    assert not is_read(of_step(step))
    assert errors(of_step(step))


KINDS = [
    0,
    1.0,
    True,
    None,
    "",
    "1",
    "true",
    [],
    ["1"],
    [[1, "2", 3, 4]],
    [[1, 2, 3, 4]],
    {},
    {"step": 0},
    {"left": "1"},
]
ORIGINS: list[dict[str, Any]] = [{"file": "a.png"}, {"boxes": [[1, 2, 3, 4]]}, {"alpha": True}, {"step": "first"}]


def assert_agreed(step: dict[str, Any]) -> None:
    """The schema takes the step if the reader does."""
    first = {"mask_from_alpha" if next(iter(step)).startswith("mask_") else "deblur": {}, "id": "first"}
    data = of_step(step) | {"output": "o/{{ stem }}-{{ variant }}.png"}
    data["steps"].insert(0, first)
    if is_read(data):
        assert errors(data) == []


def test_the_schema_takes_every_kind_of_value_that_the_reader_takes_for_a_parameter(cases: Cases) -> None:
    for name in STEPS:
        beside: dict[str, Any] = {"from": ["first", "first"]} if name == "mask_union" else {}
        for parameter in dict.fromkeys([*(one.name for one in parameters(name)), "variant", "fit", "model"]):
            for value in KINDS:
                step = {name: {**NEEDED.get(name, {}), parameter: value}, **beside}
                with cases.case(step):
                    assert_agreed(step)


def test_the_schema_takes_every_kind_of_value_that_the_reader_takes_for_a_mask(cases: Cases) -> None:
    for origin, field, value in itertools.product(ORIGINS, [*Mask.model_fields, "step"], KINDS):
        step = {"erase": {"mask": {**origin, field: value}}}
        with cases.case(step):
            assert_agreed(step)


def test_the_schema_takes_every_kind_of_value_that_the_reader_takes_beside_a_step(cases: Cases) -> None:
    for option, value in itertools.product([*OPTIONS, *Expect.model_fields], KINDS):
        beside = {option: value} if option in OPTIONS else {"expect": {option: value}}
        with cases.case(beside):
            assert_agreed({"erase": {"mask": "a.png"}, **beside})


@pytest.mark.parametrize(
    "mask",
    [{"dilate": "3"}, {"dilate": True}, {"invert": "no"}, {"resize": 1}, {"boxes": [["1", 2, 3, 4]], "file": None}],
    ids=str,
)
def test_a_number_in_quotes_is_refused_in_a_mask_as_in_a_parameter(mask: dict[str, Any]) -> None:
    step = of_step({"erase": {"mask": {"file": "a.png", **mask}}})
    assert not is_read(step)
    assert errors(step)


@pytest.mark.parametrize("name", ["edit", "generate", "try_on"])
def test_a_model_without_a_name_is_refused_by_both(name: str) -> None:
    step = of_step({name: {**NEEDED[name], "model": ""}})
    assert not is_read(step)
    assert errors(step)
