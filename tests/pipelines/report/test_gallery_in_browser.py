"""Several results of an item, and the drawing of the recipe, in a real browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from cases import Cases
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Page, expect
from report_page import colour, near, opened, stage_of

from pipelines.recipe import Recipe
from pipelines.report.drawing.svg import svg
from pipelines.report.page import RunSummary, write_report
from pipelines.run.summary import ToolTotal

Describe = Callable[..., dict[str, Any]]

RED, BLUE, GREEN = (220, 20, 20), (20, 20, 220), (20, 160, 20)

STEPS = "".join(
    f"  - deblur: {{seed: {n}}}\n    when: sharpness < {n} and width > 100 and height > 100\n" for n in range(15)
)
RECIPE = f"source: a/*.jpg\nsteps:\n{STEPS}output: 'out/{{{{ stem }}}}.png'\n"


@pytest.fixture
def report(describe: Describe, run: RunSummary, tmp_path: Path) -> str:
    """One item with an edit inside a mask and a wider result, and one that was made of words."""
    red, blue = describe("#dc1414", (600, 400)), describe("#1414dc", (600, 400))
    green = describe(Image.new("RGB", (1200, 400), GREEN))
    mask = Image.new("L", (600, 400))
    ImageDraw.Draw(mask).rectangle((60, 100, 179, 299), fill=255)
    canvas = {"width": 1200, "height": 400, "reference_offset_x": 600, "reference_offset_y": 0}
    steps = [
        {"id": "clean", "task": "erase", "outcome": "done", "from": ["source"], "image": blue, "mask": describe(mask)},
        {"id": "wide", "task": "outpaint", "outcome": "done", "from": ["source"], "image": green, "parameters": canvas},
    ]
    outputs = [{"path": f"out/{n}.png", "from": n, "image": i} for n, i in (("clean", blue), ("wide", green))]
    rows = [
        {"item": "coffee", "outcome": "done", "input": red, "output": blue, "outputs": outputs, "steps": steps},
        {"item": "words", "outcome": "done", "input": None, "output": blue, "outputs": outputs, "steps": steps},
    ]
    graph = svg(Recipe.parse(RECIPE).compiled)
    full = replace(run, graph=graph, tools={"outpainting-v1": ToolTotal(2, 20.0, 21.5, 0)})
    return Path(write_report(str(tmp_path / "report.html"), full, rows)).as_uri()


@pytest.fixture
def page(tab: Page, report: str) -> Iterator[Page]:
    tab.emulate_media(reduced_motion="reduce")
    with opened(tab, report) as page:
        page.evaluate("Promise.all([...document.images].map(image => image.decode()))")
        yield page


def test_a_thumbnail_that_is_chosen_is_compared_with_the_input_at_its_place(page: Page) -> None:
    stage = stage_of(page, "coffee")
    assert near(colour(stage, 0.9), BLUE)
    page.get_by_role("article", name="coffee").locator(".choice", has_text="wide").click()
    assert near(colour(stage, 0.9), GREEN)
    box = stage.bounding_box()
    assert box
    assert box["width"] / box["height"] == pytest.approx(3, abs=0.03), "the stage has the shape of what is shown"
    stage.get_by_role("slider").press("End")
    assert not near(colour(stage, 0.25), RED), "left of the original there was nothing"
    assert near(colour(stage, 0.75), RED)


def test_the_slider_keeps_its_place_when_another_result_is_chosen(page: Page) -> None:
    stage = stage_of(page, "coffee")
    for _ in range(3):
        stage.get_by_role("slider").press("PageUp")
    page.get_by_role("article", name="coffee").get_by_role("radio").nth(1).check()
    assert stage.get_by_role("slider").input_value() == "80"
    assert stage.evaluate("e => e.style.getPropertyValue('--at')") == "80%"


def test_results_are_chosen_with_the_keyboard(page: Page) -> None:
    stage = stage_of(page, "coffee")
    first = page.get_by_role("article", name="coffee").get_by_role("radio").first
    first.focus()
    page.keyboard.press("ArrowRight")
    assert near(colour(stage, 0.9), GREEN)
    page.keyboard.press("ArrowLeft")
    assert near(colour(stage, 0.9), BLUE)


def test_a_mask_is_shown_only_on_results_of_its_own_line(page: Page) -> None:
    stage = stage_of(page, "coffee")
    item = page.get_by_role("article", name="coffee")
    item.get_by_label("show mask outline").check()
    expect(stage.locator(".outlines")).to_be_visible()
    item.get_by_role("radio").nth(1).check()
    expect(stage.locator(".outlines")).to_be_hidden()
    item.get_by_role("radio").nth(0).check()
    expect(stage.locator(".outlines")).to_be_visible()


def test_results_of_an_item_made_of_words_can_be_looked_through(page: Page) -> None:
    stage = stage_of(page, "words")
    assert near(colour(stage, 0.5), BLUE)
    page.get_by_role("article", name="words").get_by_role("radio").nth(1).check()
    assert near(colour(stage, 0.5), GREEN)
    expect(stage.get_by_role("slider")).to_have_count(0)


def test_a_long_drawing_is_scrolled_in_its_place_or_shown_in_full(page: Page) -> None:
    drawing = page.get_by_role("region", name="The recipe as a graph")
    assert drawing.evaluate("e => e.scrollHeight > e.clientHeight")
    drawing.focus()
    page.keyboard.press("PageDown")
    page.wait_for_function("() => document.querySelector('.graph .scroll').scrollTop > 0")
    page.get_by_label("in full height").check()
    assert drawing.evaluate("e => e.scrollHeight - e.clientHeight") <= 1


def test_a_drawing_wider_than_the_screen_begins_at_the_source(tab: Page, report: str) -> None:
    tab.set_viewport_size({"width": 240, "height": 800})
    tab.goto(report)
    drawing = tab.get_by_role("region", name="The recipe as a graph")
    assert drawing.evaluate("e => e.scrollWidth > e.clientWidth")
    assert drawing.evaluate("e => e.scrollLeft") > 0
    source = tab.locator(".flux-graph .source .box")
    source.scroll_into_view_if_needed()
    expect(source).to_be_in_viewport()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_texts_of_the_drawing_fit_their_boxes_and_stand_out(
    tab: Page, report: str, scheme: Literal["light", "dark"]
) -> None:
    tab.emulate_media(color_scheme=scheme)
    tab.goto(report)
    overhang, grounds, inks = tab.evaluate(
        """() => {
          const groups = [...document.querySelectorAll(".flux-graph g")].filter(g => g.querySelector(".box"));
          const box = g => g.querySelector(".box").getBoundingClientRect();
          const over = groups.flatMap(g => [...g.querySelectorAll("text")].map(
            t => t.getBoundingClientRect().right - box(g).right));
          const fill = e => getComputedStyle(e).fill;
          return [Math.max(...over), groups.map(g => fill(g.querySelector(".box"))),
                  groups.map(g => fill(g.querySelector(".title")))];
        }"""
    )
    assert overhang <= 0
    assert all(lightness(ground) > 230 if scheme == "light" else lightness(ground) < 60 for ground in grounds)
    assert all(lightness(ink) < 60 if scheme == "light" else lightness(ink) > 220 for ink in inks)


def lightness(css: str) -> float:
    channels = [float(part) for part in css[css.index("(") + 1 : -1].split(",")[:3]]
    return sum(channels) / 3


def test_no_width_needs_scrolling_sideways(tab: Page, report: str, cases: Cases) -> None:
    for width in (360, 768, 1280):
        with cases.case(width):
            tab.set_viewport_size({"width": width, "height": 800})
            tab.goto(report)
            assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_without_scripts_every_result_is_seen_as_a_thumbnail(browser: Browser, report: str) -> None:
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(report)
        item = page.get_by_role("article", name="coffee")
        expect(item.locator(".choice img")).to_have_count(2)
        expect(item.get_by_role("radio").first).to_be_hidden()
        expect(item.locator(".after:visible")).to_have_count(1)
