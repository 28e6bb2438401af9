"""The report as people use it: opened from disk in a real browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, Literal

import pytest
from cases import Cases
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect
from report_page import colour, near, opened, stage_of

from pipelines.report.page import RunSummary, write_report

Describe = Callable[..., dict[str, Any]]

RED, BLUE, GREEN = (220, 20, 20), (20, 20, 220), (20, 160, 20)


@pytest.fixture
def report(describe: Describe, run: RunSummary, tmp_path: Path) -> str:
    """Three items: one edited inside a mask, one widened by an outpaint, one that failed, and two without pictures."""
    red, blue = describe("#dc1414", (600, 400)), describe("#1414dc", (600, 400))
    mask = Image.new("L", (600, 400))
    ImageDraw.Draw(mask).rectangle((60, 100, 179, 299), fill=255)
    wide = Image.new("RGB", (800, 400), BLUE)
    canvas = {"width": 800, "height": 400, "reference_offset_x": 200, "reference_offset_y": 0}
    rows = [
        {
            "item": "coffee", "outcome": "done", "input": red, "output": blue,
            "steps": [{"id": "erase", "outcome": "done", "image": blue, "mask": describe(mask), "job_id": "job-77"}],
        },
        {
            "item": "chelsea", "outcome": "done", "input": red, "output": (after := describe(wide)),
            "steps": [{"id": "wide", "task": "outpaint", "outcome": "done", "image": after, "parameters": canvas}],
        },
        {
            "item": "astronaut", "outcome": "failed", "input": red, "steps": [],
            "error": {"step": "fill", "kind": "JobFailed", "message": "<img src=x onerror=alert(1)>"},
        },
        {"item": "tea", "outcome": "failed", "error": {"step": "erase", "message": "no"}},
        {"item": "milk", "outcome": "cached"},
    ]  # fmt: skip
    return Path(write_report(str(tmp_path / "report.html"), run, rows, max_pictures=3)).as_uri()


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context(has_touch=True) as context:
        yield context


@pytest.fixture
def page(tab: Page, report: str) -> Iterator[Page]:
    with opened(tab, report) as page:
        page.evaluate("Promise.all([...document.images].map(image => image.decode()))")
        yield page


def share(stage: Locator) -> float:
    """Where the slider says it is, which must be where the picture is cut."""
    value = float(stage.get_by_role("slider").input_value())
    clip = stage.locator(".before").evaluate("e => getComputedStyle(e).clipPath")
    assert clip.startswith("inset(0px calc(") or clip.startswith("inset(0px "), clip
    cut = stage.evaluate("e => e.querySelector('.handle').getBoundingClientRect().x + 1 - e.getBoundingClientRect().x")
    assert cut == pytest.approx(stage.bounding_box()["width"] * value / 100, abs=1.5)  # type: ignore[index]
    return value


def drag(page: Page, stage: Locator, start: float, end: float) -> None:
    box = stage.bounding_box()
    assert box
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * start, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * (start + end) / 2, middle, steps=4)
    page.mouse.move(box["x"] + box["width"] * end, middle, steps=4)
    page.mouse.up()


def touch(context: BrowserContext, page: Page, points: list[tuple[float, float]]) -> None:
    """A finger along ``points`` on the screen."""
    session = context.new_cdp_session(page)
    for number, (x, y) in enumerate(points):
        kind = "touchMove" if number else "touchStart"
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_before_is_left_of_the_handle_and_after_right_of_it(page: Page) -> None:
    stage = stage_of(page, "coffee")
    assert share(stage) == 50
    for x in (0.1, 0.3, 0.47):
        assert near(colour(stage, x), RED)
    for x in (0.53, 0.7, 0.9):
        assert near(colour(stage, x), BLUE)


def test_the_mouse_drags_the_slider(page: Page) -> None:
    stage = stage_of(page, "coffee")
    drag(page, stage, 0.5, 0.2)
    assert share(stage) == pytest.approx(20, abs=0.5)
    assert near(colour(stage, 0.15), RED)
    assert near(colour(stage, 0.25), BLUE)
    drag(page, stage, 0.2, 0.85)
    assert share(stage) == pytest.approx(85, abs=0.5)
    assert near(colour(stage, 0.8), RED)
    assert near(colour(stage, 0.9), BLUE)


def test_the_mouse_may_leave_the_picture_while_it_drags(page: Page) -> None:
    stage = stage_of(page, "coffee")
    drag(page, stage, 0.5, 1.3)
    assert share(stage) == 100
    page.mouse.move(10, 10)
    assert share(stage) == 100, "after letting go the slider no longer follows"


def test_a_finger_drags_the_slider(page: Page, context: BrowserContext) -> None:
    stage = stage_of(page, "coffee")
    box = stage.bounding_box()
    assert box
    middle = box["y"] + box["height"] / 2
    touch(context, page, [(box["x"] + box["width"] * (0.5 + n / 20), middle) for n in range(7)])
    assert share(stage) == pytest.approx(80, abs=1)
    assert near(colour(stage, 0.75), RED)


def test_a_tap_moves_the_slider_there(page: Page) -> None:
    stage = stage_of(page, "coffee")
    box = stage.bounding_box()
    assert box
    page.touchscreen.tap(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2)
    assert share(stage) == pytest.approx(25, abs=0.5)


def test_a_finger_that_scrolls_the_page_leaves_the_slider_alone(page: Page, context: BrowserContext) -> None:
    stage = stage_of(page, "coffee")
    box = stage.bounding_box()
    assert box
    x, y = box["x"] + box["width"] * 0.1, box["y"] + box["height"] * 0.9
    scrolled = page.evaluate("scrollY")
    touch(context, page, [(x, y - 20 * n) for n in range(10)])
    page.wait_for_function("before => scrollY > before", arg=scrolled)
    assert share(stage) == 50


def test_the_keyboard_moves_the_slider(page: Page) -> None:
    stage = stage_of(page, "coffee")
    slider = stage.get_by_role("slider", name="coffee")
    slider.focus()
    for key, expected in (
        ("ArrowRight", 51), ("ArrowUp", 52), ("ArrowLeft", 51), ("ArrowDown", 50), ("PageUp", 60), ("PageDown", 50),
        ("Shift+ArrowLeft", 40), ("End", 100), ("ArrowRight", 100), ("Home", 0), ("ArrowLeft", 0),
    ):  # fmt: skip
        page.keyboard.press(key)
        assert share(stage) == expected
    assert slider.get_attribute("aria-valuetext") == "0 % before, 100 % after"
    assert near(colour(stage, 0.05), BLUE)


def test_the_slider_is_reached_with_the_tab_key_and_shows_a_ring(page: Page) -> None:
    stage = stage_of(page, "coffee")
    page.locator("#search").focus()
    for _ in range(4):
        page.keyboard.press("Tab")
        if stage.get_by_role("slider").evaluate("e => e === document.activeElement"):
            break
    expect(stage.get_by_role("slider")).to_be_focused()
    assert stage.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"


def test_an_outpaint_shows_the_original_at_its_place_on_the_wider_canvas(page: Page) -> None:
    stage = stage_of(page, "chelsea")
    stage.get_by_role("slider").press("End")
    assert not near(colour(stage, 0.1), RED), "left of the original there was nothing"
    assert not near(colour(stage, 0.1), BLUE)
    for x in (0.26, 0.6, 0.97):
        assert near(colour(stage, x), RED)
    box = stage.bounding_box()
    assert box
    assert box["width"] / box["height"] == pytest.approx(2, abs=0.02)


def test_the_mask_outline_is_drawn_at_its_place_when_asked_for(page: Page) -> None:
    stage = stage_of(page, "coffee")
    outlines = stage.locator(".outlines")
    expect(outlines).to_be_hidden()
    plain = colour(stage, 0.1, 0.5)
    page.get_by_role("article", name="coffee").get_by_label("show mask outline").check()
    expect(outlines).to_be_visible()
    assert not near(colour(stage, 0.1, 0.5), plain), "the mask's left edge lies at 60 of 600 px"
    assert near(colour(stage, 0.05, 0.5), plain)
    path, box = stage.locator(".outline path").bounding_box(), stage.bounding_box()
    assert path
    assert box
    assert (path["x"] - box["x"]) / box["width"] == pytest.approx(0.1, abs=0.01)
    assert path["width"] / box["width"] == pytest.approx(0.2, abs=0.015)
    assert (path["y"] - box["y"]) / box["height"] == pytest.approx(0.25, abs=0.015)
    drag(page, stage, 0.5, 0.3)
    assert share(stage) == pytest.approx(30, abs=0.5), "the outline does not catch the mouse"
    page.get_by_label("mask outlines", exact=True).check()
    page.get_by_label("mask outlines", exact=True).uncheck()
    expect(outlines).to_be_hidden()


def test_filters_show_only_the_items_of_an_outcome(page: Page) -> None:
    rows = page.locator("[data-outcome]:visible")
    expect(rows).to_have_count(5)
    page.get_by_role("button", name="failed 2").click()
    expect(rows).to_have_count(2)
    expect(page.get_by_role("article", name="coffee")).to_be_hidden()
    expect(page.get_by_role("article", name="astronaut")).to_be_visible()
    expect(page.get_by_role("status")).to_have_text("2 of 5 shown")
    assert page.get_by_role("button", name="failed 2").get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="done 2").click()
    expect(page.get_by_role("table")).to_be_hidden()
    page.get_by_role("button", name="needs attention 2").click()
    expect(rows).to_have_count(2)
    page.get_by_role("button", name="All 5").click()
    expect(rows).to_have_count(5)


def test_the_search_finds_items_by_a_part_of_their_name(page: Page) -> None:
    rows = page.locator("[data-outcome]:visible")
    page.get_by_role("searchbox").fill("EA")
    expect(rows).to_have_count(2)
    page.get_by_role("searchbox").fill("nothing like it")
    expect(rows).to_have_count(0)
    expect(page.get_by_text("No item fits.")).to_be_visible()


def test_a_failed_item_is_seen_at_once_and_a_click_leads_to_it(page: Page) -> None:
    page.get_by_role("button", name="done 2").click()
    link = page.get_by_role("region", name="2 items need attention").get_by_role("link", name="tea")
    expect(link).to_be_in_viewport()
    link.click()
    expect(page.get_by_role("row", name="tea")).to_be_in_viewport()


def test_a_link_leads_to_its_item_at_the_first_try_past_items_of_any_height(
    tab: Page, describe: Describe, run: RunSummary, tmp_path: Path, cases: Cases
) -> None:
    high, flat = describe("red", (200, 700)), describe("blue", (700, 100))
    pictures = [{"input": one, "output": one} for one in (high, high, flat)]
    rows = [{"item": f"item {n}", "outcome": "done", "steps": [], **pictures[n % 3]} for n in range(40)]
    rows[30] |= {"outcome": "failed", "error": {"step": "fill", "kind": "JobFailed", "message": "no"}}
    place = Path(write_report(str(tmp_path / "report.html"), run, rows)).as_uri()
    motions: tuple[Literal["no-preference", "reduce"], ...] = ("no-preference", "reduce")
    for width, way, motion in product((390, 1280), ("click", "address"), motions):
        with cases.case(f"{width} pixels, {way}, {motion}"):
            tab.goto("about:blank")
            tab.set_viewport_size({"width": width, "height": 800})
            tab.emulate_media(reduced_motion=motion)
            tab.goto(place)
            link = tab.get_by_role("link", name="item 30", exact=True)
            if way == "click":
                link.click()
            else:
                address = f"{place}{link.get_attribute('href')}"
                tab.goto("about:blank")
                tab.goto(address)
            is_at_rest = "() => [window.was, window.was = scrollY].every(at => at === scrollY && at > 500)"
            tab.wait_for_function(is_at_rest, polling=300)
            box = tab.get_by_role("article", name="item 30", exact=True).bounding_box()
            assert box
            assert box["y"] == pytest.approx(80, abs=2)  # below the bar with the filters


def test_a_job_id_is_copied(page: Page, context: BrowserContext) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    item = page.get_by_role("article", name="coffee")
    item.get_by_text("job", exact=True).first.click()
    item.get_by_role("button", name="Copy").click()
    expect(item.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "job-77"
    context.clear_permissions()


def test_without_scripts_both_pictures_are_seen_side_by_side(browser: Browser, report: str) -> None:
    with browser.new_context(viewport={"width": 1000, "height": 800}, java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(report)
        stage = stage_of(page, "coffee")
        assert near(colour(stage, 0.25), RED)
        assert near(colour(stage, 0.75), BLUE)
        expect(page.get_by_role("searchbox")).to_be_hidden()


def test_no_width_needs_scrolling_sideways(tab: Page, report: str, cases: Cases) -> None:
    for width in (360, 390, 768, 1280):
        with cases.case(width):
            tab.set_viewport_size({"width": width, "height": 800})
            tab.goto(report)
            for details in tab.locator("details").all():
                details.evaluate("e => e.open = true")
            assert tab.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground_in_light_and_dark(
    tab: Page, report: str, scheme: Literal["light", "dark"]
) -> None:
    tab.emulate_media(color_scheme=scheme)
    tab.goto(report)
    pairs = tab.evaluate(
        """() => [...document.querySelectorAll("h1, h2, h3, p, a, dt, dd, th, td, .pill, button, summary, .facts")]
          .filter(e => e.checkVisibility() && e.textContent.trim())
          .map(e => {
            let ground = e;
            const clear = g => getComputedStyle(g).backgroundColor === "rgba(0, 0, 0, 0)";
            while (ground.parentElement && clear(ground)) ground = ground.parentElement;
            return [e.textContent, getComputedStyle(e).color, getComputedStyle(ground).backgroundColor];
          })"""
    )
    assert len(pairs) > 30
    for text, ink, ground in pairs:
        assert contrast(ink, ground) >= 4.5, f"{text.strip()[:40]!r}: {ink} on {ground}"


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two CSS colours as WCAG 2 defines it."""
    lights = sorted(luminance(colour) for colour in (first, second))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def luminance(css: str) -> float:
    channels = [float(part) / 255 for part in css[css.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
