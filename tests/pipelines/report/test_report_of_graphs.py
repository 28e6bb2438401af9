"""The report of a recipe with branches, several outputs, a matrix, and items without a picture."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_bfl import FakeBfl
from PIL import Image
from report_page import ReportPage

from flux_tasks import background, catalog
from flux_tasks.jobs import job
from flux_tasks.jobs.call import prepare
from flux_tasks.jobs.result import JobResult
from flux_tasks.settings import Settings
from pipelines.recipe import Recipe
from pipelines.report.drawing.svg import svg
from pipelines.report.page import RunSummary, render
from pipelines.run.run import Run
from pipelines.run.summary import Summary, ToolTotal

Describe = Callable[..., dict[str, Any]]

HOSTILE = "\"><script>alert(1)</script><img src=x onerror='alert(2)'>"
RECIPE = "source: a/*.jpg\nsteps: [deblur: {}]\noutput: 'out/{{ stem }}.png'\n"


def page_of(run: RunSummary, *rows: dict[str, Any], **options: Any) -> ReportPage:
    return ReportPage(render(run, rows, **options))


def step(name: str, fed: list[str], **facts: Any) -> dict[str, Any]:
    return {"id": name, "task": "edit", "tool": "flux-2-pro", "outcome": "done", "from": fed, **facts}


def a_row(describe: Describe, **changes: Any) -> dict[str, Any]:
    """One step, and two combinations of another that it feeds."""
    red, green, blue = describe("green"), describe("blue"), describe("yellow")
    steps = [
        step("clean", ["source"], image=red),
        step("paint[take=1]", ["clean"], image=green, varied={"take": 1}),
        step("paint[take=2]", ["clean"], image=blue, varied={"take": 2}),
    ]
    outputs = [
        {"path": "out/a-take-1.png", "from": "paint[take=1]", "image": green},
        {"path": "out/a-take-2.png", "from": "paint[take=2]", "image": blue},
        {"path": "out/clean/a.png", "from": "clean", "image": red},
    ]
    row = {"item": "a", "index": 0, "outcome": "done", "error": None, "errors": [], "input": describe("red")}
    return row | {"output": green, "output_path": "out/a-take-1.png", "outputs": outputs, "steps": steps} | changes


def colour(attributes: dict[str, str]) -> str:
    """The colour of an embedded picture."""
    names = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}
    image = Image.open(io.BytesIO(base64.b64decode(attributes["src"].partition("base64,")[2]))).convert("RGB")
    found = image.getpixel((5, 5))
    assert isinstance(found, tuple)
    return min(names, key=lambda name: sum(abs(a - b) for a, b in zip(found, names[name], strict=True)))


def test_the_recipe_is_drawn_in_a_section_of_its_own(run: RunSummary) -> None:
    page = page_of(replace(run, graph=svg(Recipe.parse(RECIPE).compiled)))
    drawing = page.all("svg", class_="flux-graph")
    assert [attributes["aria-label"] for attributes in drawing] == [
        "Steps of recipe: source, deblur, output out/{{ stem }}.png"
    ]
    assert page.all("section", class_="graph")
    assert page_of(run).all("section", class_="graph") == []


def test_a_hostile_recipe_is_only_text_in_the_drawing(run: RunSummary) -> None:
    steps = [{"deblur": {}, "when": f"stem == {HOSTILE!r}"}]
    hostile = Recipe(HOSTILE, source=f"{HOSTILE}/*.jpg", steps=steps, output="out/{{ stem }}.png")
    page = page_of(replace(run, graph=svg(hostile.compiled)))
    assert len(page.all("script")) == 1, "only the report's own"
    assert page.all("b", class_="") == []
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_every_result_is_in_the_gallery_and_the_first_output_is_compared(run: RunSummary, describe: Describe) -> None:
    page = page_of(run, a_row(describe))
    choices = page.all("input", class_="")
    radios = [a for a in choices if a.get("type") == "radio"]
    assert [a["value"] for a in radios] == ["0", "1", "2"]
    assert ["checked" in a for a in radios] == [True, False, False]
    layers = page.all("figure", class_="after")
    assert ["hidden" in a for a in layers] == [False, True, True]
    previews = [a for a in page.all("img") if a["alt"].endswith(": a")]
    assert [colour(a) for a in previews] == ["red", "blue", "yellow", "green"]
    for expected in ("3 results", "paint[take=1]", "a-take-2.png", "and 2 more"):
        assert expected in page.text


def test_one_result_at_two_places_is_shown_once(run: RunSummary, describe: Describe) -> None:
    row = a_row(describe)
    row["outputs"] = [row["outputs"][0], {**row["outputs"][0], "path": "out/again.png"}]
    page = page_of(run, row)
    assert page.all("fieldset") == []
    assert "After" in page.text


def test_a_combination_is_told_by_what_was_varied(run: RunSummary, describe: Describe) -> None:
    page = page_of(run, a_row(describe))
    assert "paint[take=2] done take 2" in page.text


def test_a_step_names_what_fed_it_where_that_is_not_the_step_before(run: RunSummary, describe: Describe) -> None:
    steps = [
        step("sharp", ["source"], image=describe("green")),
        step("wide", ["sharp"], image=describe("blue")),
        step("join", ["sharp", "wide", "source"], image=describe("yellow")),
    ]
    text = page_of(run, a_row(describe, steps=steps, outputs=[])).text
    assert "from sharp, wide, source" in text
    assert text.count("from ") == 1


@pytest.mark.parametrize("outcome", ["done", "cached", "unchanged", "collected", "skipped", "held"])
def test_every_way_in_which_a_step_ends_is_shown_with_its_reason(
    run: RunSummary, describe: Describe, outcome: str
) -> None:
    steps = [step("small", ["source"], outcome=outcome, reason="because of this")]
    page = page_of(run, a_row(describe, steps=steps, outputs=[]))
    assert page.all("span", class_=f"pill {outcome}")
    assert page.all("li", class_=f"step {outcome}")
    assert "because of this" in page.text


def test_a_result_that_was_tried_again_tells_both_tries(run: RunSummary, describe: Describe) -> None:
    warnings = ["tried again with seed 3, because it is one plain colour", "kept, though it is one plain colour"]
    steps = [
        step("clean", ["source"], image=describe("green")),
        step("clean", ["source"], image=describe("blue"), warnings=warnings),
    ]
    text = page_of(run, a_row(describe, steps=steps, outputs=[])).text
    assert text.count("clean done") == 2
    assert all(warning in text for warning in warnings)
    assert "from source" not in text


def test_every_error_of_an_item_is_told_the_worst_first(run: RunSummary, describe: Describe) -> None:
    errors = [
        {"step": "paint", "kind": "JobFailed", "message": "the service ended the job"},
        {"step": "wide", "kind": "Moderated", "message": "content was refused"},
    ]
    row = a_row(describe, outcome="failed", error=errors[0], errors=errors, output=None)
    page = page_of(run, row)
    assert "Ended at paint (JobFailed): the service ended the job Ended at wide (Moderated)" in page.text
    assert "the service ended the job and 1 more" in page.text
    assert page.all("li", class_="step failed")
    assert page.all("li", class_="step moderated")
    assert page_of(run, row, max_pictures=0).text.count("content was refused") == 1


def test_results_that_were_made_before_an_error_can_be_seen(run: RunSummary, describe: Describe) -> None:
    row = a_row(describe, outcome="failed", error={"step": "x", "kind": "JobFailed", "message": "no"}, output=None)
    row["outputs"] = row["outputs"][2:]
    page = page_of(run, row)
    assert [a["alt"] for a in page.all("img")][:2] == ["Before: a", "clean: a"]


def test_an_item_made_of_words_shows_its_results_without_a_slider(run: RunSummary, describe: Describe) -> None:
    row = a_row(describe, input=None)
    page = page_of(run, row)
    assert [a for a in page.all("input") if a.get("type") == "range"] == []
    assert len(page.all("figure", class_="after")) == 3
    assert "Before" not in page.text
    single = page_of(run, {**row, "outputs": row["outputs"][:1]})
    assert next(a["alt"] for a in single.all("img")) == "After: a"


def test_an_item_made_of_words_that_has_no_result_says_so(run: RunSummary, describe: Describe) -> None:
    row = a_row(describe, input=None, output=None, outputs=[], steps=[step("made", [], outcome="skipped")])
    assert "No result was made." in page_of(run, row).text


def test_the_picture_after_a_failed_step_is_never_a_mask(run: RunSummary, describe: Describe) -> None:
    steps = [
        step("clean", ["source"], image=describe("green")),
        {"id": "corner", "task": "mask_from_boxes", "outcome": "done", "from": ["clean"], "image": describe("black")},
        {"id": "grown", "task": "resize", "outcome": "done", "from": ["corner"], "image": describe("black", (64, 48))},
    ]
    error = {"step": "erase", "kind": "JobFailed", "message": "no"}
    page = page_of(run, a_row(describe, outcome="failed", error=error, output=None, outputs=[], steps=steps))
    assert "After clean: a" in [a["alt"] for a in page.all("img")]


def test_masks_and_the_input_lie_where_they_do_on_each_result(run: RunSummary, describe: Describe) -> None:
    canvas = {"width": 640, "height": 240, "reference_offset_x": 160, "reference_offset_y": 0}
    clean, wide = describe("green"), describe("blue", (640, 240))
    steps = [
        step("clean", ["source"], image=clean, mask=describe(Image.new("L", (320, 240), 255))),
        step("other", ["source"], image=describe("yellow"), mask=describe(Image.new("L", (320, 240), 255))),
        step("wide", ["clean"], task="outpaint", image=wide, parameters=canvas),
    ]
    outputs = [{"path": f"{name}.png", "from": name, "image": i} for name, i in (("wide", wide), ("clean", clean))]
    page = page_of(run, a_row(describe, steps=steps, outputs=outputs, output=wide))
    whole = "left:0.000%;top:0.000%;width:100.000%;height:100.000%"
    placed = "left:25.000%;top:0.000%;width:50.000%;height:100.000%"
    assert [a["style"] for a in page.all("svg", class_="outline")] == [placed, whole], "none of the other branch"
    assert [a["data-spot"] for a in page.all("figure", class_="after")] == [placed, whole]


def test_a_result_whose_picture_is_gone_cannot_be_chosen(run: RunSummary, describe: Describe, tmp_path: Path) -> None:
    row = a_row(describe)
    row["outputs"][0]["image"] = describe("red", (9, 9)) | {"digest": "0" * 64, "uri": str(tmp_path / "gone.png")}
    page = page_of(run, row)
    radios = [a for a in page.all("input") if a.get("type") == "radio"]
    assert ["disabled" in a for a in radios] == [True, False, False]
    assert ["checked" in a for a in radios] == [False, True, False]


def test_of_very_many_results_the_first_are_shown_and_the_others_counted(run: RunSummary, describe: Describe) -> None:
    pictures = [describe(f"#0000{n:02x}", (40, 30)) for n in range(30)]
    outputs = [{"path": f"{n}.png", "from": f"p[n={n}]", "image": image} for n, image in enumerate(pictures)]
    page = page_of(run, a_row(describe, outputs=outputs))
    assert len([a for a in page.all("input") if a.get("type") == "radio"]) == 12
    assert "30 results" in page.text
    assert "18 more are in the run’s manifest" in page.text


def test_the_table_by_tool_compares_what_was_expected_with_what_was_settled(run: RunSummary) -> None:
    tools = {
        "erase-v1": ToolTotal(3, 10.2, 12.6, 0),
        "flux-2-pro": ToolTotal(2, 6.0, 6.0, 0),
        "flux-2-max": ToolTotal(2, 14.0, 7.0, 1),
        "deblur-v1": ToolTotal(4, 0.0, 0.0, 4, 4),
        "flux-kontext-pro": ToolTotal(1, 5.0, 4.0, 0),
    }
    text = page_of(replace(run, tools=tools)).text
    for expected in (
        "Cost by tool", "Tool Jobs Expected Settled Difference", "erase-v1 3 10.2 12.6 +2.4", "flux-2-pro 2 6 6 0",
        "flux-2-max 2 14 7 plus 1 of unknown cost –", "deblur-v1 4 unknown unknown –", "flux-kontext-pro 1 5 4 −1",
    ):  # fmt: skip
        assert expected in text
    assert "Would cost" in page_of(replace(run, tools=tools, engine="local:classical@1")).text
    assert "Cost by tool" not in page_of(run).text


def test_the_runners_summary_brings_its_tools_and_the_drawing_with_it() -> None:
    summary = Summary("many", "id", "2026-03-02", "bfl", "bfl", tools={"erase-v1": ToolTotal(1, 3.0, 3.0, 0)})
    made = RunSummary.of(summary, "name: many", "<svg></svg>")
    assert (made.graph, list(made.tools)) == ("<svg></svg>", ["erase-v1"])


@pytest.mark.parametrize(
    "row",
    [
        {"outputs": "x", "errors": "y", "steps": [{"from": "z", "varied": 3}]},
        {
            "outputs": [None, {}, {"image": 3}, {"image": {"digest": "ab"}, "from": ["q"], "path": 7}],
            "errors": [None, 3],
        },
        {"steps": [{"id": "a", "from": ["a"]}, {"id": "b", "from": ["c"]}, {"id": "c", "from": [{}, None]}]},
        {"steps": [{"id": "a", "image": {}, "mask": {}}], "outputs": [{"from": "a", "image": {"digest": {}}}]},
    ],
)
def test_strange_rows_are_shown_as_far_as_they_go(run: RunSummary, row: dict[str, Any]) -> None:
    for most in (0, 60):
        assert "item 1" in page_of(run, row, max_pictures=most).text


MANY = """
name: many
source: {{images: "{folder}/photos/*", limit: 2}}
steps:
  - resize: {{max_side: 80}}
    id: small
  - mask_from_boxes: {{boxes: [[5, 5, 30, 30]]}}
    id: corner
  - erase: {{mask: {{step: corner}}}}
    id: clean
    from: small
    save: "{folder}/out/clean/{{{{ stem }}}}.png"
  - edit: {{model: flux-2-pro, prompt: "take {{{{ take }}}}"}}
    id: paint
    matrix: {{take: [1, 2]}}
output: {{path: "{folder}/out/{{{{ stem }}}}-{{{{ variant }}}}.png", from: paint}}
"""


def test_a_real_run_is_reported_with_all_its_results(folder: Path, bfl: FakeBfl) -> None:
    settings = Settings(endpoint=bfl.url, key="right-key", store=str(folder / "store"))

    async def call_tool(task: str, arguments: dict[str, Any]) -> JobResult:
        arguments = dict(arguments)
        tool = catalog.tool(task, arguments.pop("model", None))
        return await background.arun(job.execute(prepare(tool, arguments), settings))

    async def whole(run: Run) -> None:
        if not await run.answer_from_store():
            await run.run_remaining(call_tool)

    recipe = Recipe.parse(MANY.format(folder=folder))
    with Run(recipe.compiled, settings) as run:
        asyncio.run(whole(run))
    page = page_of(RunSummary.of(run.summary, recipe.text, svg(recipe.compiled)), *run.rows())
    assert page.text.count("3 results") == 2
    for expected in ("small done", "corner done", "clean done", "paint[take=2] done", "erase-v1 2", "flux-2-pro 4"):
        assert expected in page.text
    assert len(page.all("svg", class_="flux-graph")) == 1
    assert page.all("svg", class_="outline")
