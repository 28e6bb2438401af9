"""The report of a large run: small enough to send, opened at once, and every item is found in a real browser."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from cases import Cases
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect
from report_page import ReportPage, described, opened

from pipelines.report.page import RunSummary, render, write_report

Row = dict[str, Any]

MANY = 3_000
LIMIT = 20_000_000
HOSTILE = "\"></template><script>alert(1)</script><img src=x onerror='alert(2)'>"


def a_row(number: int, **changes: Any) -> Row:
    """A row as a run of four steps writes it, with nothing that another row has, too."""
    mark = f"{number * 2654435761 % 2**32:08x}"  # no neighbours are alike
    steps = [
        {"id": name, "task": name, "tool": f"{name}-v1", "outcome": "cached", "job_id": f"{mark}-{name}"}
        for name in ("deblur", "erase", "fill", "wide")
    ]
    row = {
        "item": f"photo-{number:05}", "source": f"s3://bucket/{mark[:2]}/{mark}/photo-{number:05}.jpg",
        "outcome": "cached", "output_path": f"s3://results/{mark}/photo-{number:05}.png", "steps": steps,
        "cost": 0.0, "seconds": 0.0,
    }  # fmt: skip
    return row | changes


def many(number: int = MANY) -> Iterator[Row]:
    """Rows, of which every thousandth failed, and one is hostile."""
    for n in range(number):
        if n % 1_000 == 999:
            error = {"step": "fill", "kind": "JobFailed", "message": f"the service answered {n} times"}
            yield a_row(n, outcome="failed", error=error)
        elif n == 1_700:
            yield a_row(n, item=HOSTILE, source=HOSTILE, output_path=HOSTILE)
        else:
            yield a_row(n)


def unpack(text: str) -> list[Any]:
    """What a page has for its script."""
    packed = text.partition('<template id="packed">')[2].partition("</template>")[0]
    entries: list[Any] = json.loads(zlib.decompress(base64.b64decode(packed), wbits=31))
    return entries


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> tuple[Row, Row]:
    """Two pictures that nothing makes small."""
    folder = tmp_path_factory.mktemp("noise")
    picture = Image.merge("RGB", [Image.effect_noise((900, 700), 90) for _ in range(3)])
    return described(folder, picture), described(folder, picture.rotate(180))


# -- size -------------------------------------------------------------------------------------------------------------


def test_ten_thousand_items_stay_below_20_megabytes_however_badly_their_pictures_compress(
    run: RunSummary, noise: tuple[Row, Row]
) -> None:
    before, after = noise
    steps = [{"id": f"step-{n}", "outcome": "done", "image": after} for n in range(8)]
    pictured = (a_row(n, input=before, output=after, steps=steps) for n in range(60))
    text = render(run, chain(pictured, many(9_940)))
    assert len(text.encode()) < LIMIT
    assert text.count("<article") > 20


@pytest.mark.parametrize("most", [60, 400])
def test_no_number_of_pictures_makes_the_page_larger(run: RunSummary, noise: tuple[Row, Row], most: int) -> None:
    before, after = noise
    rows = [a_row(n, input=before, output=after) for n in range(most)]
    text = render(run, rows, max_pictures=most)
    assert len(text) < LIMIT
    shown = text.count("<article")
    assert 30 < shown < 400
    assert shown + text.count("<tr") >= most, "the others are rows"


@pytest.mark.parametrize(("number", "length"), [(5_000, 1_500), (250, 6_000)])
def test_long_texts_do_not_make_the_page_larger_and_every_item_is_listed(
    run: RunSummary, number: int, length: int
) -> None:
    message = "".join(chr(0x4E00 + n * 7919 % 20_000) for n in range(length))
    rows = ({"item": f"p{n}", "outcome": "failed", "error": {"message": f"{n}{message}"}} for n in range(number))
    text = render(run, rows, max_pictures=0)
    assert len(text.encode()) < LIMIT
    assert len(unpack(text)) == number


def test_more_items_than_a_page_can_hold_are_counted_and_those_that_need_attention_come_first(
    run: RunSummary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.report.page._MAX_PAGE", 3_100_000)
    text = render(run, many(16_000), max_pictures=0)
    entries = unpack(text)
    assert 1_000 < len(entries) < 15_000
    assert [entry[0] for entry in entries if entry[2]] == list(range(999, 16_000, 1_000))
    page = ReportPage(text)
    assert (
        f"The other {len(entries)} are listed here; {16_000 - len(entries)} more are in the run’s manifest" in page.text
    )
    assert "15984 cached" in page.text
    assert len(text) < 3_200_000


def test_a_report_of_few_items_needs_no_script_for_its_list(run: RunSummary) -> None:
    page = ReportPage(render(run, many(200), max_pictures=0))
    assert len(page.all("tr")) == 1 + 200
    assert page.all("template") == []
    assert page.all("noscript") == []


# -- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(a_run: RunSummary, tmp_path_factory: pytest.TempPathFactory) -> str:
    """One item with pictures, and 3,000 without."""
    folder = tmp_path_factory.mktemp("report")
    first = a_row(MANY, item="coffee", input=described(folder, "red"), output=described(folder, "blue"))
    rows = (first, *many())
    return Path(write_report(str(folder / "report.html"), a_run, rows, max_pictures=1)).as_uri()


@pytest.fixture
def page(tab: Page, report: str) -> Iterator[Page]:
    tab.emulate_media(reduced_motion="reduce")
    with opened(tab, report) as page:
        expect(page.locator("table.long tbody").first).to_be_attached()
        yield page


def rows_of(page: Page) -> Locator:
    return page.locator("tr[data-outcome]")


def test_only_the_rows_near_the_screen_are_in_the_document(page: Page) -> None:
    total = page.get_by_role("button", name=f"All {MANY + 1}")
    expect(total).to_be_visible()
    table = page.get_by_role("table")
    table.scroll_into_view_if_needed()
    expect(rows_of(page).first).to_be_attached()
    assert rows_of(page).count() <= 400
    assert table.get_attribute("aria-rowcount") == str(MANY + 1)


def test_any_item_is_found_by_its_name(page: Page) -> None:
    for number in (0, 1_234, MANY - 2):
        page.get_by_role("searchbox").fill(f"PHOTO-{number:05}")
        expect(page.get_by_role("row", name=f"photo-{number:05}")).to_be_visible()
        expect(page.get_by_role("status")).to_have_text(f"1 of {MANY + 1} shown")
        expect(page.get_by_role("article")).to_have_count(0)


def test_items_are_found_by_source_output_outcome_and_reason(page: Page) -> None:
    source, output = a_row(2_345)["source"], a_row(2_346)["output_path"]
    for words, found in (
        (source, ["photo-02345"]),
        (output, ["photo-02346"]),
        ("failed", ["photo-00999", "photo-01999", "photo-02999"]),
        ("answered 1999 times", ["photo-01999"]),
        ("failed 02999", ["photo-02999"]),
    ):
        page.get_by_role("searchbox").fill(words)
        expect(rows_of(page)).to_have_count(len(found))
        assert rows_of(page).evaluate_all("rows => rows.map(row => row.dataset.name)") == found
    page.get_by_role("searchbox").fill("nothing like it")
    expect(page.get_by_text("No item fits.")).to_be_visible()
    expect(page.get_by_role("table")).to_be_hidden()
    page.get_by_role("searchbox").fill("coffee")
    expect(page.get_by_role("article", name="coffee")).to_be_visible()


def test_a_filter_shows_the_items_of_an_outcome_wherever_they_are(page: Page) -> None:
    page.get_by_role("button", name="failed 3").click()
    expect(rows_of(page)).to_have_count(3)
    expect(page.get_by_role("status")).to_have_text(f"3 of {MANY + 1} shown")
    page.get_by_role("searchbox").fill("01999")
    expect(rows_of(page)).to_have_count(1)
    page.get_by_role("searchbox").fill("")
    page.get_by_role("button", name="All").click()
    expect(page.get_by_role("status")).to_have_text("")


def test_scrolling_reaches_the_last_item(page: Page) -> None:
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    last = page.get_by_role("row", name=f"photo-{MANY - 1:05}")
    page.wait_for_function("() => { scrollTo(0, 1e7); return document.querySelector('#item-3000') }")
    expect(last).to_be_in_viewport()
    assert last.get_attribute("aria-rowindex") == str(MANY + 1)
    assert rows_of(page).count() <= 400, "what is far away is in the document no more"


def test_a_link_leads_to_a_row_that_was_not_in_the_document(page: Page) -> None:
    page.get_by_role("searchbox").fill("coffee")
    page.get_by_role("link", name="photo-01999").click()
    expect(page.get_by_role("row", name="photo-01999")).to_be_in_viewport()
    expect(page.locator("tr:target")).to_have_count(1)
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(200)
    page.go_back()
    page.go_forward()
    expect(page.get_by_role("row", name="photo-01999")).to_be_in_viewport()


def test_an_address_of_an_item_opens_the_report_there(tab: Page, report: str) -> None:
    tab.goto(f"{report}#item-2501")
    expect(tab.get_by_role("row", name="photo-02500")).to_be_in_viewport()


def test_the_list_is_reached_and_read_with_the_keyboard(page: Page) -> None:
    page.get_by_role("searchbox").fill("failed")
    expect(rows_of(page)).to_have_count(3)
    page.keyboard.press("Tab")
    expect(page.locator(".further .scroll")).to_be_focused()
    names = page.get_by_role("table").get_by_role("rowheader").all_inner_texts()
    assert [name.split("\n")[0] for name in names] == ["photo-00999", "photo-01999", "photo-02999"]


def test_hostile_text_in_the_list_is_only_text(page: Page) -> None:
    page.get_by_role("searchbox").fill("onerror")
    expect(rows_of(page)).to_have_count(1)
    expect(rows_of(page).locator(".path").last).to_have_text(HOSTILE)
    assert rows_of(page).locator("script, img").count() == 0


def test_what_is_printed_has_two_thousand_rows(page: Page) -> None:
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    expect(rows_of(page)).to_have_count(2_000)


def test_without_scripts_the_first_two_thousand_and_those_that_need_attention_are_rows(
    browser: Browser, report: str
) -> None:
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(report)
        expect(rows_of(page)).to_have_count(2_001)
        text = page.locator(".further > p").inner_text()
        assert f"The other 2001 are listed here; {MANY - 2_001} more, none of them in need of attention" in text
        expect(page.get_by_role("row", name="photo-02999")).to_have_count(1)


def test_a_browser_that_cannot_unpack_the_list_says_so(browser: Browser, report: str) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.add_init_script("delete window.DecompressionStream")
        page.goto(report)
        expect(page.get_by_text("This browser is too old")).to_be_visible()
        page.get_by_role("searchbox").fill("coffee")
        expect(page.get_by_role("article", name="coffee")).to_be_visible()


def test_no_width_needs_scrolling_sideways(tab: Page, report: str, cases: Cases) -> None:
    for width in (360, 768, 1280):
        with cases.case(width):
            tab.set_viewport_size({"width": width, "height": 800})
            tab.goto(report)
            tab.get_by_role("table").scroll_into_view_if_needed()
            expect(rows_of(tab).first).to_be_attached()
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
