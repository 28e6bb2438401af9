"""FLUX 3 in recipes: pictures as a list, boxes from tables, what was made of the prompt, and boxes in the report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fake_bfl import FakeBfl
from pictures import encoded, noise
from recipes import perform
from scripted import Answer

import flux_tasks
from flux_tasks import Box, use
from flux_tasks.settings import Settings
from pipelines.recipe import Recipe
from pipelines.report.page import RunSummary, render
from pipelines.steps import edit, generate


class Expanding(FakeBfl):
    """Says what it made of the prompt, and delivers pictures that FLUX 3 takes."""

    @staticmethod
    def _work(body: dict[str, Any]) -> bytes:
        return encoded(noise((320, 400), "L"))

    def _poll(self, job_id: str) -> Answer:
        answer = super()._poll(job_id)
        if isinstance(answer.body, dict) and answer.body.get("result"):
            prompt = self.bodies[int(job_id.removeprefix("job-")) - 1].get("prompt", "")
            answer.body["result"] |= {"prompt": prompt, "expanded_prompt": f"In detail: {prompt}"}
        return answer


@dataclass
class Place:
    folder: Path
    bfl: FakeBfl
    settings: Settings

    def run(self, text: str) -> list[dict[str, Any]]:
        recipe = Recipe.parse(text.replace("FOLDER", str(self.folder)))
        assert recipe.plan(settings=self.settings).invalid == []
        _, rows = perform(recipe, self.settings)
        assert [row["error"] for row in rows] == [None] * len(rows)
        return rows

    def prompts(self) -> list[str]:
        return [body["prompt"] for body in self.bfl.bodies]


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    for name in ("a", "b"):
        noise((300, 400), "RGB", seed=ord(name)).save(tmp_path / f"{name}.png")
    with Expanding(pending_polls=0) as bfl:
        yield Place(tmp_path, bfl, Settings(endpoint=bfl.url, key="k", store=str(tmp_path / "store"), poll_interval=0))


ROW = '[{"id":"box_1","from":"ref_image_0","src_bbox":[200,100,800,500],"tgt_bbox":null,"desc":"7"}]'


@pytest.mark.parametrize(
    ("table", "boxes"),
    [
        ('{"file": "a.png", "boxes": [{"remove": [30, 80, 150, 320], "text": "7"}]}\n', '"{{ boxes }}"'),
        ('{"file": "a.png", "box": [30, 80, 150, 320], "what": "7"}\n', '[{remove: "{{ box }}", text: "{{ what }}"}]'),
        (
            "file,left,top,right,bottom,what\na.png,30,80,150,320,7\n",
            '[{remove: ["{{ left }}", "{{ top }}", "{{ right }}", "{{ bottom }}"], text: "{{ what }}"}]',
        ),
        (
            'file,boxes\na.png,"[{""remove"": [30, 80, 150, 320], ""text"": ""7""}]"\n',
            '"{{ boxes }}"',
        ),
    ],
    ids=["a list of a table", "a box of a table", "numbers of a CSV file", "JSON in a CSV file"],
)
def test_boxes_may_come_from_a_table(table: str, boxes: str, here: Place) -> None:
    kind = "jsonl" if table.startswith("{") else "csv"
    (here.folder / f"items.{kind}").write_text(table)
    here.run(
        f"source: {{table: FOLDER/items.{kind}, image: 'FOLDER/{{{{ file }}}}'}}\n"
        f"steps:\n  - edit: {{model: flux-3-image, prompt: tidy up, boxes: {boxes}}}\n"
        "output: 'FOLDER/out/{{ stem }}.png'\n"
    )
    assert here.prompts() == [f"tidy up {ROW}"]


def test_a_number_of_a_table_counts_as_one_inside_a_mapping(here: Place) -> None:
    (here.folder / "items.csv").write_text("file,left\na.png,16\n")
    here.run(
        "source: {table: FOLDER/items.csv, image: 'FOLDER/{{ file }}'}\n"
        "steps:\n  - outpaint: {expand: {left: '{{ left }}'}}\noutput: 'FOLDER/out/{{ stem }}.png'\n"
    )
    assert here.bfl.bodies[0]["width"] == 320


def test_a_recipe_edits_and_generates_with_lists_of_pictures(here: Place) -> None:
    here.run(
        "source: 'FOLDER/a.png'\nsteps:\n"
        "  - edit: {model: flux-3-image, prompt: x, references: [FOLDER/b.png, FOLDER/a.png]}\n    id: one\n"
        "  - generate: {model: flux-3-image-klein, prompt: y, images: [FOLDER/b.png, {step: one}]}\n"
        "output: 'FOLDER/out/{{ stem }}.png'\n"
    )
    assert [len(body["images"]) for body in here.bfl.bodies] == [3, 2]
    assert here.bfl.bodies[0]["images"][1] == here.bfl.bodies[1]["images"][0]
    assert all(body["grounding"] is False for body in here.bfl.bodies)


def test_a_recipe_in_python_with_boxes_is_the_same_recipe() -> None:
    box = {"remove": [0.1, 0.1, 0.5, 0.5], "text": "a cat"}
    text = (
        "source: 'a/*.png'\nsteps: [{edit: {model: flux-3-image, prompt: x, boxes: BOXES}}]\noutput: 'o/{{ stem }}.png'"
    )
    written = Recipe.parse(text.replace("BOXES", json.dumps([box])))
    for boxes in ([box], [Box(**box)], (Box(**box),)):
        step = edit(model="flux-3-image", prompt="x", boxes=boxes)
        made = Recipe(source="a/*.png", steps=[step], output="o/{{ stem }}.png")
        assert made.digest == written.digest
        assert Recipe.parse(made.to_yaml()).digest == written.digest


def test_a_recipe_in_python_generates_from_other_steps_pictures() -> None:
    first = generate(model="flux-3-image", prompt="x", id="first")
    second = generate(model="flux-3-image", prompt="y", images=[first, "b.png"])
    made = Recipe(source={"table": "a.csv"}, steps=[first, second], output="o/{{ stem }}.png")
    assert made.compiled.graph.nodes[-1].dependencies == ("first",)


@pytest.mark.parametrize("task", ["edit", "generate"])
def test_a_task_sends_its_pictures_and_boxes(task: str, here: Place) -> None:
    a, b = here.folder / "a.png", here.folder / "b.png"
    box = Box(remove=(30, 80, 150, 320), text="7")
    pictures: dict[str, Any] = {"image": a, "references": [b]} if task == "edit" else {"images": [a, b]}
    with use(**{name: getattr(here.settings, name) for name in ("endpoint", "key", "store", "poll_interval")}):
        getattr(flux_tasks, task).fn(prompt="tidy up", model="flux-3-image", boxes=[box], **pictures)
    [body] = here.bfl.bodies
    assert len(body["images"]) == 2
    assert body["prompt"] == f"tidy up {ROW}"


def test_what_was_made_of_the_prompt_is_in_record_manifest_and_report(here: Place) -> None:
    text = (
        "source: 'FOLDER/a.png'\n"
        "steps: [{edit: {model: flux-3-image, prompt: tidy up}}]\noutput: 'FOLDER/out/{{ stem }}.png'\n"
    )
    for outcome in ("done", "cached"):
        [row] = here.run(text)
        [step] = row["steps"]
        assert (step["outcome"], step["expanded_prompt"]) == (outcome, "In detail: tidy up")
        assert "In detail: tidy up" in render(RunSummary("x"), [row])
    [record] = (here.folder / "store" / "results").glob("*.json")
    assert json.loads(record.read_text())["expanded_prompt"] == "In detail: tidy up"


def test_the_report_draws_the_boxes_of_a_prompt_and_names_them(here: Place) -> None:
    boxes = (
        "[{remove: [30, 80, 150, 320], text: a lamp}, {keep: [0, 0, 0.1, 0.1]}, "
        "{move: [0.8, 0.8, 0.9, 0.9], to: [0.6, 0.6, 0.7, 0.7], text: a cup}, "
        "{take: [0, 0, 0.33, 0.33], picture: 2, to: [0.2, 0.85, 0.4, 0.95], text: a sign}]"
    )
    [row] = here.run(
        "source: 'FOLDER/a.png'\nsteps:\n"
        f"  - edit: {{model: flux-3-image, prompt: x, references: [FOLDER/b.png], boxes: {boxes}}}\n"
        "output: 'FOLDER/out/{{ stem }}.png'\n"
    )
    page = render(RunSummary("x"), [row])
    assert 'viewBox="0 0 1000 1000"' in page
    for path in ("M100 200L500 200L500 800L100 800Z", "M600 600L700 600L700 700L600 700Z", "M200 850L400 850L400 950"):
        assert path in page
    assert "M0 0L330" not in page  # that is a place in another picture
    assert "show boxes" in " ".join(page.split())
    assert "mask outline" not in page
    for words in ("remove: a lamp", "keep: what is in this box", "move: a cup", "take: a sign"):
        assert words in page


def test_the_price_of_a_tier_is_planned_and_an_unknown_one_is_said(here: Place) -> None:
    text = (
        "source: 'FOLDER/a.png'\nsteps:\n  - edit: {model: flux-3-image, prompt: x, resolution: TIER}\n"
        "output: 'FOLDER/out/{{ stem }}.png'\n"
    ).replace("FOLDER", str(here.folder))
    settings = replace(here.settings, store="memory://flux3")
    plans = {tier: Recipe.parse(text.replace("TIER", tier)).plan(settings=settings) for tier in ("2k", "1.5k")}
    assert (plans["2k"].credits, plans["2k"].unpriced) == (10.0, 0)
    assert (plans["1.5k"].credits, plans["1.5k"].unpriced) == (0.0, 1)


def planned(here: Place, step: str, source: str = "a") -> list[str]:
    text = f"source: '{here.folder}/{source}.png'\nsteps:\n  - {step}\noutput: '{here.folder}/out/{{{{ stem }}}}.png'\n"
    plan = Recipe.parse(text).plan(settings=here.settings)
    assert plan.invalid == []
    assert plan.warnings == len(plan.warned)
    return plan.warned


def test_a_plan_says_once_for_a_step_what_its_parameters_ask_for(here: Place) -> None:
    step = "edit: {model: flux-3-image, prompt: 'tidy <cup_1> and <lamp_1>, not <ref_image_0>', grounding: true, BOXES}"
    boxes = "boxes: [{keep: [0, 0, 0.5, 0.5], id: cup_1}]"
    warned = ["edit: grounding sends the prompt to a web search"]
    assert planned(here, step.replace(", BOXES", ""), "[ab]") == warned
    name = "edit: prompt: <lamp_1> is the id of no box: write such a box, or the id of another one"
    assert planned(here, step.replace("BOXES", boxes), "[ab]") == [*warned, name]


def test_a_plan_says_what_of_the_expectations_the_size_of_a_result_cannot_fulfil(here: Place) -> None:
    kontext = "edit: {model: flux-kontext-pro, prompt: x, aspect_ratio: '16:9'}\n    expect: "
    aspect = "aspect: 1392×752 px is 1.851:1, not 16:9 (1.778:1)"
    assert planned(here, f"{kontext}{{aspect: '16:9'}}") == [f"a: edit: the result will not be as expected: {aspect}"]
    assert planned(here, f"{kontext}{{aspect: '87:47', min_side: 752}}") == []
    about = "edit: {model: flux-3-image, prompt: x, aspect_ratio: '1:1'}\n    expect: {min_side: 1025}"
    assert planned(here, about) == [], "the sides of this tier are known about"


def test_a_result_of_the_largest_tier_is_a_picture_that_the_tool_itself_takes(here: Place) -> None:
    two = "edit: {model: flux-3-image, prompt: x, resolution: 4k}\n  - edit: {model: flux-3-image, prompt: x}"
    assert planned(here, two) == []
