"""The catalogue against the facts of the contract, which were copied by other hands into ``tests/data``."""

from __future__ import annotations

import json
import re
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import pytest
from pydantic.fields import FieldInfo

from flux_tasks import catalog
from flux_tasks.catalog import SOURCES, TOOLS
from flux_tasks.catalog.fields import ImageField
from flux_tasks.catalog.rules import Price
from flux_tasks.catalog.signatures import parameters, signature, stub, tools_of
from flux_tasks.errors import InvalidRequest

FACTS = json.loads(Path(__file__).parents[2].joinpath("data", "contract_facts.json").read_text(encoding="utf-8"))

FLUX_2 = [name for name in TOOLS if name.startswith("flux-2-")]

FLUX_3 = ["flux-3-image", "flux-3-image-klein"]

DELIBERATELY_DIFFERENT = {
    # The docs page of erase (SEED-1) says 0–100; above 25 the tool warns.
    ("erase-v1", "dilate_pixels"): ("integer 0..25 = 10", "integer 0..100 = 10"),
    # The specification's default of 0 violates its own minimum of 64: left out instead, which means automatic.
    **{(name, side): ("integer? 64.. = 0", "integer? 64..") for name in FLUX_2 for side in ("width", "height")},
    # Only SEED-3 names a lowest seed.
    **{(n, "seed"): ("integer?", "integer? 0..") for n in TOOLS if n != "outpainting-v1" and n not in FLUX_3},
    # It sends the prompt to a web search: off in a tool for datasets, and sent so.
    **{(name, "grounding"): ("boolean = true", "boolean = false") for name in FLUX_3},
}

SEED_3_FIELDS = {"steps": "integer? 1..50", "guidance": "number? 1.5..10"}  # of Kontext; today's service ignores them


def as_fact(info: FieldInfo) -> str:
    """A field of a request model in the notation of the facts file."""
    annotation, nullable = info.annotation, False
    marks = [m for m in info.metadata if not isinstance(m, ImageField)]
    if get_origin(annotation) in (Union, types.UnionType):
        nullable = type(None) in get_args(annotation)
        annotation = next(a for a in get_args(annotation) if a is not type(None))
    if get_origin(annotation) is Annotated:
        marks += [m for part in get_args(annotation)[1:] for m in getattr(part, "metadata", [part])]
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is Literal:
        kind = "|".join(get_args(annotation))
    else:
        kind = {str: "string", int: "integer", float: "number", bool: "boolean", list[str]: "list"}[annotation]  # type: ignore[index]
    if any(isinstance(m, ImageField) and not m.url for m in info.metadata):
        kind = "base64"
    text = kind + "?" * nullable + "!" * info.is_required()
    lowest = next((m.ge for m in marks if isinstance(m, annotated_types.Ge)), None)
    highest = next((m.le for m in marks if isinstance(m, annotated_types.Le)), None)
    lowest = next((m.min_length for m in marks if isinstance(m, annotated_types.MinLen)), lowest)
    highest = next((m.max_length for m in marks if isinstance(m, annotated_types.MaxLen)), highest)
    if lowest is not None or highest is not None:
        text += f" {'' if lowest is None else format(lowest, 'g')}..{'' if highest is None else format(highest, 'g')}"
    for m in marks:
        if isinstance(m, annotated_types.MultipleOf):
            text += f" *{m.multiple_of}"
    if info.default is not None and not info.is_required():
        shown = info.default if isinstance(info.default, str) and info.default else json.dumps(info.default)
        text += f" = {format(info.default, 'g') if isinstance(info.default, float) else shown}"
    return text


# -- facts ------------------------------------------------------------------------------------------------------------


def test_every_endpoint_of_the_contract_is_a_tool_and_no_other() -> None:
    assert {tool.path for tool in TOOLS.values()} == set(FACTS["bodies"])
    assert len(TOOLS) == 29


@pytest.mark.parametrize("name", TOOLS)
def test_every_field_of_a_tool_is_as_the_contract_says(name: str) -> None:
    tool = TOOLS[name]
    body = FACTS["bodies"][tool.path]
    expected = dict(body["fields"])
    for (tool_name, field), (specified, ours) in DELIBERATELY_DIFFERENT.items():
        if tool_name == name:
            assert expected[field] == specified
            expected[field] = ours
    fields = {field: as_fact(info) for field, info in tool.request.model_fields.items()}
    assert {field: fields.pop(field) for field in tool.seed_fields} == {
        field: SEED_3_FIELDS[field] for field in tool.seed_fields
    }
    assert fields == expected
    assert tool.strict is body["strict"]
    assert tool.webhooks is ("webhook_url" in expected)


def test_only_outpainting_and_flux_3_are_strict_and_they_cannot_call_back() -> None:
    strict = ["outpainting-v1", *FLUX_3]
    assert [name for name, tool in TOOLS.items() if tool.strict] == strict
    assert [name for name, tool in TOOLS.items() if not tool.webhooks] == strict
    assert [name for name, tool in TOOLS.items() if "seed" not in tool.request.model_fields] == strict


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_names_sources_that_exist_and_dates_its_price(name: str) -> None:
    tool = TOOLS[name]
    assert tool.sources
    assert set(tool.sources) <= set(SOURCES)
    assert tool.price.source in SOURCES
    assert tool.price.date >= "2026-01-01"
    assert tool.sizes.source in SOURCES
    if tool.price.first is None:
        assert tool.price.note
    for info in tool.request.model_fields.values():
        extra = info.json_schema_extra
        assert not isinstance(extra, dict) or extra.get("source") in SOURCES
    for info in (*tool.request.model_fields.values(), *tool.options.model_fields.values()):
        assert info.description


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_names_its_default_and_its_possible_file_types(name: str) -> None:
    assert TOOLS[name].formats == (("png",) if name in FLUX_3 else ("jpeg", "png", "webp"))
    assert TOOLS[name].output_format in ("jpeg", "png")
    png = {"deblur-v1", "erase-v1", "outpainting-v1", "flux-kontext-pro", "flux-kontext-max", *FLUX_3}
    assert (TOOLS[name].output_format == "png") is (name in png)


def test_the_picture_that_is_edited_and_the_others_have_their_roles() -> None:
    main = {name: tool.image_field for name, tool in TOOLS.items()}
    assert main["deblur-v1"] == main["erase-v1"] == main["flux-pro-1.0-fill"] == "image"
    assert main["outpainting-v1"] == main["flux-2-pro"] == main["flux-kontext-max"] == "input_image"
    assert (main["vto-v2"], main["flux-dev"]) == ("person", "image_prompt")
    roles = {n: [m.role for m in TOOLS[n].image_fields.values()] for n in ("erase-v1", "vto-v1", "flux-2-klein-4b")}
    assert roles == {
        "erase-v1": ["image", "mask"],
        "vto-v1": ["image", "reference"],
        "flux-2-klein-4b": ["reference"] * 4,
    }
    assert len(TOOLS["flux-2-pro"].image_fields) == 8


def test_kontext_max_and_flux_3_have_concurrency_classes_of_their_own() -> None:
    assert {n: t.slots for n, t in TOOLS.items() if t.slots != "account"} == {
        "flux-kontext-max": "kontext-max",
        **dict.fromkeys(FLUX_3, "flux-3"),
    }


def test_a_list_of_pictures_has_a_place_for_each() -> None:
    tool = TOOLS["flux-3-image"]
    assert (tool.image_field, tool.main_slot) == ("images", "images.0")
    assert list(tool.image_fields) == ["images"]
    assert list(tool.image_slots) == [f"images.{n}" for n in range(10)]
    assert all(list(t.image_slots) == list(t.image_fields) for n, t in TOOLS.items() if n not in FLUX_3)


@pytest.mark.parametrize(
    ("tier", "large", "small"),
    [("768sq", 4.1, None), ("1k", 4.8, 0.9), ("1.5k", None, None), ("2k", 10.0, 1.4), ("4k", 60.7, 3.6)],
)
def test_flux_3_is_priced_by_tier_and_a_tier_that_is_published_nowhere_is_unknown(
    tier: str, large: float | None, small: float | None
) -> None:
    for name, credits in zip(FLUX_3, (large, small), strict=True):
        price = TOOLS[name].price_for({"resolution": tier})
        assert (price.estimate(17), price.label, price.state) == (credits, tier, "published" if credits else "unknown")
        assert price in TOOLS[name].prices
        assert TOOLS[name].price_for({}).label == "1k"


@pytest.mark.parametrize(
    ("parameters", "picture", "size"),
    [
        ({"aspect_ratio": "1:1", "resolution": tier}, None, (side, side))
        for tier, side in {"768sq": 768, "1k": 1024, "1.5k": 1536, "2k": 2048, "4k": 4096}.items()
    ]
    + [
        ({"aspect_ratio": "16:9"}, None, (1360, 768)),
        ({"aspect_ratio": "9:21", "resolution": "4k"}, None, (2672, 6256)),
        ({}, None, None),
        ({}, (1000, 750), (1184, 880)),
        ({"aspect_ratio": "1:1"}, (1000, 750), (1024, 1024)),
        ({"aspect_ratio": "auto"}, (9000, 300), (1568, 672)),
    ],
)
def test_the_size_of_a_flux_3_result_is_known_about_from_its_tier_and_shape(
    parameters: dict[str, str], picture: tuple[int, int] | None, size: tuple[int, int] | None
) -> None:
    assert TOOLS["flux-3-image"].result_size(parameters, picture) == size


@pytest.mark.parametrize("name", [n for n in TOOLS if n.startswith("flux-2-klein") and n.endswith("-finetuned")])
def test_a_finetuned_klein_takes_what_its_base_takes_and_costs_the_same(name: str) -> None:
    base = TOOLS["flux-2-klein-4b" if "4b" in name else "flux-2-klein-9b"]
    more = TOOLS[name].request.model_fields.keys() - base.request.model_fields.keys()
    assert more == {"finetune_id", "finetune_strength"}
    assert TOOLS[name].price.estimate(3, [2]) == base.price.estimate(3, [2])
    assert "base tool" in TOOLS[name].price.note


@pytest.mark.parametrize("task", ["edit", "generate", "flux-2-klein", "FLUX_2_klein "])
def test_a_name_that_means_two_tools_is_refused_with_both(task: str) -> None:
    what = "flux-2-klein means flux-2-klein-4b here and flux-2-klein-9b in BFL's SDK: write one of the two"
    with pytest.raises(InvalidRequest, match=re.escape(what)):
        catalog.tool(task, "flux-2-klein" if task in catalog.MODELS else None)
    assert catalog.find("flux-2-klein") is None
    assert catalog.contested("flux-2-klein-4b") == ""


def test_a_name_that_means_two_tools_is_no_alias_of_either() -> None:
    contested = {name for tool in TOOLS.values() for name in tool.contested}
    assert contested
    assert contested.isdisjoint(name for tool in TOOLS.values() for name in (tool.name, *tool.aliases))
    assert {other for tool in TOOLS.values() for other, _ in tool.contested.values()} <= TOOLS.keys()


# -- names ------------------------------------------------------------------------------------------------------------


def test_every_name_and_alias_means_one_tool() -> None:
    names = [n for tool in TOOLS.values() for n in (tool.name, *tool.aliases)]
    assert len(names) == len(set(names))
    for tool in TOOLS.values():
        for name in (tool.name, *tool.aliases, tool.name.upper(), f" {tool.name} ", tool.name.replace("-", "_")):
            assert catalog.find(name) is tool
    assert catalog.find("flux-3-video") is None


def test_the_short_names_of_the_older_documents_are_aliases() -> None:
    assert catalog.tool("flux-kontext").name == "flux-kontext-pro"
    assert catalog.tool("flux-fill").name == "flux-pro-1.0-fill"


def test_every_task_calls_one_of_its_own_tools() -> None:
    for task in catalog.TASKS:
        assert catalog.tool(task) in tools_of(task)
        assert catalog.tool(task) is tools_of(task)[0]
        for tool in tools_of(task):
            assert catalog.tool(task, tool.name if task in catalog.MODELS else None) is tool
    assert catalog.tool("try-on", "vto").name == "vto-v2"


@pytest.mark.parametrize(
    ("task", "model", "message"),
    [
        ("debur", None, "there is no tool 'debur' (did you mean 'deblur'?)"),
        ("flux-2-proo", None, "(did you mean 'flux-2-pro'?)"),
        ("xyzzy", None, "there is no tool 'xyzzy'"),
        ("edit", "flux-2-prp", "'flux-2-prp' is not a model of edit (did you mean 'flux-2-pro'?); it has"),
        ("edit", "flux-dev", "'flux-dev' is not a model of edit"),
        ("deblur", "flux-2-pro", "deblur takes no model"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest_right_one(task: str, model: str | None, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        catalog.tool(task, model)
    assert message in str(caught.value)
    assert len(caught.value.problems) == 1


# -- checking ---------------------------------------------------------------------------------------------------------


def test_everything_that_is_wrong_is_said_at_once() -> None:
    problems = TOOLS["erase-v1"].check(
        {"dilate_pixels": 140, "safety_tolerance": "2", "output_format": "gif", "dilate_pixel": 3, "user": ""}
    )
    assert sorted(str(p) for p in problems) == [
        "erase.dilate_pixel: erase has no such parameter (did you mean 'dilate_pixels'?)",
        "erase.dilate_pixels: 140 is above 100: write 100 or less",
        "erase.output_format: 'gif' is not one of 'jpeg', 'png' or 'webp'",
        "erase.safety_tolerance: '2' is not a whole number: write one without quotes",
        "erase.user: '' is too short: write at least 1 character(s)",
    ]


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("flux-2-pro", {}, "edit.prompt: is required: write a value for it"),
        ("flux-2-pro", {"prompt": None}, "edit.prompt: None is not text: write it in quotes"),
        ("flux-2-pro", {"prompt": "x", "width": 0}, "edit.width: 0 is below 64"),
        ("flux-2-pro", {"prompt": "x", "seed": 1.5}, "edit.seed: 1.5 is not a whole number"),
        ("flux-2-pro", {"prompt": "x", "seed": True}, "edit.seed: True is not a whole number"),
        ("flux-2-pro", {"prompt": "x", "disable_pup": "yes"}, "edit.disable_pup: 'yes' is not true or false"),
        ("flux-2-flex", {"prompt": "x", "guidance": "5"}, "edit.guidance: '5' is not a number"),
        ("flux-2-flex", {"prompt": "x", "guidance": 1}, "edit.guidance: 1 is below 1.5"),
        ("flux-2-pro", {"prompt": "x", "webhook_url": "me"}, "edit.webhook_url: 'me' is not an http(s) address"),
        ("flux-pro-1.1", {"width": 500}, "generate.width: 500 is not a multiple of 32"),
        ("flux-pro-1.1-ultra", {"aspect_ratio": "wide"}, "generate.aspect_ratio: 'wide' is not a ratio such as 16:9"),
        ("outpainting-v1", {"width": 64, "height": 64, "expand": {"lef": 1}}, "outpaint.expand.lef: unknown key"),
        ("outpainting-v1", {"width": 64, "height": 64, "expand": {"left": -1}}, "outpaint.expand.left: -1 is below 0"),
        ("outpainting-v1", {"width": 64, "height": 64, "anchor": "up"}, "outpaint.anchor: 'up' is not one of 'center'"),
        ("outpainting-v1", {"width": 64, "height": 64, "seed": 1}, "outpaint.seed: outpaint has no such parameter"),
    ],
)
def test_a_wrong_value_is_shown_with_what_is_wrong_about_it(
    name: str, parameters: dict[str, Any], message: str
) -> None:
    problems = TOOLS[name].check(parameters)
    assert len(problems) == 1
    assert str(problems[0]).startswith(message)


def test_what_is_right_has_no_problems_and_optional_values_may_be_none() -> None:
    assert TOOLS["deblur-v1"].check({}) == []
    assert TOOLS["flux-2-flex"].check({"prompt": "x", "seed": None, "guidance": 4, "steps": 50, "width": 1024}) == []
    assert TOOLS["flux-2-pro"].check({}, partial=True) == []
    assert [p.where for p in TOOLS["flux-2-pro"].check({"width": 1}, where="steps.2.edit", partial=True)] == [
        "steps.2.edit.width"
    ]


def test_a_generous_dilation_is_allowed_with_a_warning() -> None:
    assert TOOLS["erase-v1"].check({"dilate_pixels": 100}) == []
    assert "caps it there" in TOOLS["erase-v1"].warnings({"dilate_pixels": 26})[0]
    assert TOOLS["erase-v1"].warnings({"dilate_pixels": 25}) == TOOLS["erase-v1"].warnings({}) == ()


def test_defaults_are_filled_in_without_images_and_without_what_does_not_change_the_result() -> None:
    given = {"dilate_pixels": 15, "image": "…", "webhook_url": "https://x", "user": "me"}
    assert TOOLS["erase-v1"].defaults(given) == {
        "dilate_pixels": 15,
        "output_format": "png",
        "safety_tolerance": 2,
        "seed": None,
    }


# -- prices -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "megapixels", "inputs", "credits_"),
    [
        ("flux-2-pro", 1920 * 1080 / 1_048_576, [], 4.5),  # an observed answer
        ("flux-2-pro", 1, [], 3),
        ("flux-2-pro", 4, [], 7.5),
        ("flux-2-pro", 1, [1], 4.5),
        ("flux-2-pro", 1, [0.2, 1.01], 7.5),  # each input is rounded up by itself
        ("flux-2-klein-9b", 1, [], 1.5),
        ("flux-2-klein-9b", 2, [], 1.7),
        ("flux-2-klein-9b", 4, [], 2.1),
        ("flux-2-klein-4b", 2, [1], 1.6),
        ("flux-2-max", 1.5, [], 10),
        ("flux-2-flex", 2, [1], 15),
        ("outpainting-v1", 2, [1], 20),  # inputs are free
        ("outpainting-v1", 2.01, [], 30),
        ("flux-pro-1.0-fill", 4, [4], 5),
        ("flux-kontext-max", 1, [], 8),
        ("flux-dev", 1, [], 2.5),
        ("deblur-v1", 1, [1], None),  # published nowhere
        ("flux-pro-1.1-ultra-finetuned", 4, [], None),
    ],
)
def test_a_price_is_worked_out_by_whole_megapixels(
    name: str, megapixels: float, inputs: list[float], credits_: float | None
) -> None:
    assert TOOLS[name].price.estimate(megapixels, inputs) == credits_


def test_the_price_of_a_fast_outpaint_is_unknown_and_of_a_careful_one_is_not() -> None:
    tool = TOOLS["outpainting-v1"]
    assert tool.price_for({"mode": "fast"}).estimate(2) is None
    assert tool.price_for({"mode": "high"}).estimate(2) == tool.price_for({}).estimate(2) == 20


def test_a_price_is_shown_in_the_words_of_its_unit() -> None:
    assert [str(p) for p in (Price(None), Price(5, per="image"), Price(10, 10), Price(3, 1.5, inputs=True))] == [
        "unknown",
        "5 / image",
        "10 / MP",
        "3 first MP, 1.5 each further",
    ]


# -- sizes ------------------------------------------------------------------------------------------------------------


def test_the_size_of_a_result_is_known_where_the_contract_says_it() -> None:
    def size(name: str, given: tuple[int, int] | None = (1000, 700), **parameters: Any) -> tuple[int, int] | None:
        return TOOLS[name].output_size(parameters, given)

    assert size("deblur-v1") == size("erase-v1") == (1000, 700)
    assert size("outpainting-v1", width=2048, height=1024) == (2048, 1024)
    assert size("flux-2-pro") == (992, 688)  # cut to multiples of 16
    assert size("flux-2-pro", (4096, 4096)) == (2048, 2048)  # scaled into 4 MP
    assert size("flux-2-pro", width=1000, height=500) == (992, 496)
    assert size("flux-2-pro", None) is None
    assert size("flux-pro-1.0-expand", left=10, top=5) == (1010, 705)
    assert size("flux-pro-1.1", None) == (1024, 768)
    assert size("flux-kontext-pro") == (1248, 832)
    assert size("flux-kontext-pro", aspect_ratio="16:9") == (1392, 752)
    assert size("flux-kontext-pro", (640, 480), aspect_ratio="9:21") == (672, 1568)
    assert size("flux-kontext-max", None) == (1024, 1024)


# -- signatures -------------------------------------------------------------------------------------------------------


def test_the_stub_file_is_fresh() -> None:
    import flux_tasks

    written = Path(str(flux_tasks.__file__)).with_name("tasks").joinpath("__init__.pyi").read_text(encoding="utf-8")
    assert stub() == written, "run: python -m flux_tasks.catalog.signatures"


@pytest.mark.parametrize("task", catalog.TASKS)
def test_a_signature_has_every_parameter_of_its_tools_once(task: str) -> None:
    names = list(signature(task).parameters)
    assert len(names) == len(set(names))
    for tool in tools_of(task):
        assert set(tool.parameters) - {"webhook_url", "webhook_secret"} <= set(names)
    assert "variant" in names
    assert all(p.description for p in parameters(task))
