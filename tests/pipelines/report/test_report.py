"""What is written into the report, read as text and as HTML."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image, ImageDraw
from report_page import ReportPage

from flux_tasks import files
from pipelines.report.page import RunSummary, render, write_report
from pipelines.report.pictures import WHOLE, Box, Missing, Outline, Picture, Pictures, place
from pipelines.run.summary import Summary

Describe = Callable[..., dict[str, Any]]

HOSTILE = "\"><script>alert(1)</script><img src=x onerror='alert(2)'>"
_LOADING = {"src", "href", "xlink:href", "srcset", "poster", "data", "action", "formaction", "background", "ping"}


def page_of(run: RunSummary, *rows: dict[str, Any], **options: Any) -> ReportPage:
    return ReportPage(render(run, rows, **options))


def shown(attributes: dict[str, str]) -> Image.Image:
    """The embedded picture of an ``img``."""
    return Image.open(io.BytesIO(base64.b64decode(attributes["src"].partition("base64,")[2])))


def a_row(describe: Describe, **changes: Any) -> dict[str, Any]:
    before, after = describe("red"), describe("blue")
    step = {"id": "deblur", "task": "deblur", "tool": "deblur-v1", "outcome": "done", "image": after, "cost": 3.4}
    row = {"item": "coffee", "index": 0, "source": "photos/coffee.jpg", "outcome": "done", "error": None}
    return row | {"input": before, "output": after, "output_path": "out/coffee.png", "steps": [step]} | changes


def test_the_head_tells_what_was_run_and_what_it_cost(run: RunSummary, describe: Describe) -> None:
    text = page_of(run, a_row(describe)).text
    for expected in (
        "restore",
        "2 March 2026, 21:14 UTC",
        "1 min 23 s",
        "https://api.bfl.ai",
        "20260302-211402-a1b2c3",
        "12.4 credits $0.12",
        "1 done",
    ):
        assert expected in text


def test_it_is_written_where_it_is_asked_for(run: RunSummary) -> None:
    assert write_report("memory://reports/r.html", run, []) == "memory://reports/r.html"
    assert files.read("memory://reports/r.html").startswith(b"<!doctype html>")


def test_a_half_surrogate_in_a_file_name_does_not_stop_the_writing(run: RunSummary, tmp_path: Path) -> None:
    location = write_report(str(tmp_path / "r.html"), run, [{"item": "caf\udce9"}])
    assert "caf?" in Path(location).read_text("utf-8")


def test_the_runners_summary_becomes_the_reports() -> None:
    summary = Summary("restore", "id", "2026-03-02", "local", "local:classical@1", jobs=4, collected=1, cost=2.5)
    summary.counts.update(["done", "done", "failed"])
    run = RunSummary.of(summary, "name: restore")
    assert (run.name, run.jobs, run.collected, run.cost) == ("restore", 4, 1, 2.5)
    assert (run.counts, run.recipe, run.is_local) == ({"done": 2, "failed": 1}, "name: restore", True)


def test_a_summary_that_lacks_facts_is_enough() -> None:
    assert RunSummary.of(SimpleNamespace(name="x", counts={})).jobs == 0  # type: ignore[arg-type]


def test_local_results_are_said_to_be_local(run: RunSummary, describe: Describe) -> None:
    row = a_row(describe, preview=True)
    local = page_of(replace(run, engine="local:classical@1", cost=2.0, unpriced=1), row)
    assert "Local preview: made on this machine by the classical engine, not by FLUX" in local.text
    assert "$0.02 at BFL’s prices plus 1 job of unknown cost; nothing was charged" in local.text
    assert len(local.all("span", class_="pill preview")) == 1
    assert "Local preview:" not in page_of(run, a_row(describe)).text


def test_a_stopped_run_says_why_at_the_top(run: RunSummary) -> None:
    text = page_of(replace(run, stopped="the budget of 200 credits is used up"), {"item": "a", "outcome": "held"}).text
    assert "stopped before its end. the budget of 200 credits is used up" in text


def test_a_failed_item_is_called_out_with_its_step_and_reason(run: RunSummary, describe: Describe) -> None:
    error = {"step": "erase", "kind": "JobFailed", "message": "the service ended the job with Error"}
    page = page_of(run, a_row(describe, outcome="failed", output=None, error=error))
    assert "1 item needs attention" in page.text
    assert page.text.count("the service ended the job with Error") == 2
    assert "Ended at erase (JobFailed)" in page.text
    assert "After deblur" in page.text, "the last good step is shown, and said to be that"


def test_hostile_text_is_only_text(run: RunSummary, describe: Describe) -> None:
    step = {
        "id": HOSTILE, "task": HOSTILE, "tool": HOSTILE, "outcome": HOSTILE, "reason": HOSTILE, "job_id": HOSTILE,
        "image": describe("blue"), "warnings": [HOSTILE], "parameters": {HOSTILE: HOSTILE, "prompt": HOSTILE},
        "mask": describe(Image.new("L", (320, 240), 255)),
    }  # fmt: skip
    error = {"step": HOSTILE, "kind": HOSTILE, "message": HOSTILE}
    row = a_row(describe, item=HOSTILE, source=HOSTILE, outcome=HOSTILE, error=error, output_path=HOSTILE, steps=[step])
    evil = replace(run, name=HOSTILE, run_id=HOSTILE, started=HOSTILE, endpoint=HOSTILE, engine=f"local:{HOSTILE}@1")
    evil = replace(evil, recipe=HOSTILE, stopped=HOSTILE, counts={HOSTILE: 1})
    page = page_of(evil, row, row, max_pictures=1)
    assert len(page.all("script")) == 1, "only the report's own"
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert all(attributes["src"].startswith("data:image/jpeg;base64,") for attributes in page.all("img"))


def test_nothing_outside_the_file_is_referred_to(run: RunSummary, describe: Describe) -> None:
    page = page_of(run, a_row(describe), {"item": "b", "source": "https://example.org/b.jpg"})
    references = [v for _, attributes in page.tags for name, v in attributes.items() if name in _LOADING]
    assert references
    assert all(value.startswith(("data:", "#")) for value in references)
    text = render(run, [a_row(describe)])
    assert not re.search(r"@import|url\s*\(|\bfetch\(|XMLHttpRequest|sendBeacon|import\(", text)


def test_its_own_policy_lets_only_its_own_script_run(run: RunSummary) -> None:
    page = page_of(run)
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy


def test_keys_in_signed_addresses_and_webhook_secrets_are_left_out(run: RunSummary) -> None:
    signed = "https://me:pass@bucket.example/a.jpg?X-Amz-Signature=tell-nobody"
    row = {
        "item": "a", "source": signed, "outcome": "invalid", "output_path": signed,
        "error": {"step": "deblur", "kind": "InvalidImage", "message": f"{signed}: no such file"},
        "steps": [{"id": "deblur", "warnings": [signed], "parameters": {"picture": [signed]}}],
    }  # fmt: skip
    text = render(replace(run, stopped=signed, recipe=f"images: {signed}\nwebhook_secret: tell-nobody\n"), [row])
    assert "bucket.example/a.jpg" in text
    assert "tell-nobody" not in text
    assert "me:pass" not in text


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"steps": None, "error": "no", "input": "x", "output": 3, "cost": "much", "seconds": float("inf")},
        {"steps": [{}, None, {"image": {}, "mask": {"digest": 5}, "drift": 1, "parameters": [], "warnings": "w"}]},
        {"input": {"digest": "ab", "width": 0, "height": 0}, "steps": [{"drift": {}, "image": {"width": "wide"}}]},
        {"item": None, "outcome": None, "error": {"message": None}, "future": {"key": 1}},
    ],
)
def test_rows_that_lack_things_or_hold_strange_ones_are_shown_as_far_as_they_go(
    run: RunSummary, row: dict[str, Any]
) -> None:
    for most in (0, 60):
        assert "item 1" in page_of(run, row, max_pictures=most).text


def test_a_run_without_items_says_so(run: RunSummary) -> None:
    assert "The run has no items." in page_of(run).text


def test_pictures_are_embedded_for_the_first_items_only_and_it_says_so(run: RunSummary, describe: Describe) -> None:
    rows = [a_row(describe, item=f"photo-{n}") for n in range(3)] + [{"item": f"photo-{n}"} for n in range(3, 200)]
    page = page_of(run, *rows, max_pictures=2)
    assert len(page.all("article")) == 2
    assert len(page.all("tr")) == 1 + 198
    assert "Pictures are embedded for the first 2 items only" in page.text
    assert "The other 198 are listed here" in page.text


def test_of_very_many_items_those_that_need_attention_stay_listed(
    run: RunSummary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.report.page.MAX_LISTED", 10)
    rows = [{"item": f"photo-{n}", "outcome": "failed" if n == 90 else "done"} for n in range(100)]
    page = page_of(run, *rows, max_pictures=0)
    assert "photo-90" in page.text
    assert "photo-50" not in page.text
    assert "89 more" in page.text
    assert "99 done" in page.text


def test_a_picture_that_is_gone_or_damaged_leaves_a_placeholder_with_the_reason(
    run: RunSummary, describe: Describe, tmp_path: Path
) -> None:
    gone = describe("green", (50, 50)) | {"digest": "0" * 64, "uri": str(tmp_path / "gone.png")}
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    cut = gone | {"digest": "1" * 64, "uri": str(tmp_path / "cut.png")}
    step = {"id": "erase", "image": cut, "mask": gone, "outcome": "done"}
    page = page_of(run, a_row(describe, input=gone, output=cut, steps=[step]))
    assert page.all("img") == []
    assert len(page.all("span", class_="missing")) >= 2
    assert "The mask cannot be shown" in page.text
    assert "No such file" in page.text


def test_a_missing_before_does_not_hide_the_after(run: RunSummary, describe: Describe, tmp_path: Path) -> None:
    gone = describe("green") | {"digest": "0" * 64, "uri": str(tmp_path / "gone.png")}
    page = page_of(run, a_row(describe, input=gone))
    assert [a["alt"] for a in page.all("img")] == ["After: coffee", "coffee after deblur"]
    assert "Before: no picture." in page.text


def test_an_unchanged_item_shows_one_picture_and_says_so(run: RunSummary, describe: Describe) -> None:
    same = describe("red")
    steps = [{"id": "erase", "outcome": "skipped", "reason": "when: mask_exists"}]
    page = page_of(run, a_row(describe, input=same, output=same, outcome="skipped", steps=steps))
    assert page.all("input", class_="")[-1].get("type") != "range"
    assert "Unchanged" in page.text
    assert "when: mask_exists" in page.text


def test_a_step_tells_cost_estimate_job_warnings_parameters_and_drift(run: RunSummary, describe: Describe) -> None:
    step = {
        "id": "erase", "tool": "erase-v1", "outcome": "done", "cost": 3.4, "estimate": 3.8, "seconds": 1.2,
        "job_id": "job-77", "warnings": ["dilate_pixels above 25"], "parameters": {"dilate_pixels": 30},
        "drift": {"mean": 0.42, "peak": 18, "changed": 0.031}, "image": describe("blue"),
    }  # fmt: skip
    page = page_of(run, a_row(describe, steps=[step]))
    for expected in ("erase-v1", "3.4 cr", "estimated 3.8", "1.2 s", "job-77", "dilate_pixels above 25", "30"):
        assert expected in page.text
    assert "3.1 % of the pixels changed, by 0.42 on average and 18 of 255 at most" in page.text
    assert page.all("button", class_="copy")[0]["data-copy"] == "job-77"


def test_previews_keep_to_1200_pixels(describe: Describe) -> None:
    picture = Pictures(1200).preview(describe("red", (2000, 1000)))
    assert isinstance(picture, Picture)
    assert (picture.width, picture.height) == (2000, 1000)
    assert shown({"src": picture.uri}).size == (1200, 600)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "I", "CMYK"])
def test_every_kind_of_pixel_can_be_shown(describe: Describe, mode: str) -> None:
    image = Image.new(mode, (64, 48))
    suffix = "tif" if mode in ("CMYK", "I") else "png"
    assert isinstance(Pictures(1200).preview(describe(image, suffix=suffix)), Picture)


def test_a_16_bit_picture_keeps_its_brightness(describe: Describe) -> None:
    picture = Pictures(1200).preview(describe(Image.new("I;16", (64, 48), 0x8000)))
    assert isinstance(picture, Picture)
    red, _, _ = shown({"src": picture.uri}).convert("RGB").getpixel((30, 20))  # type: ignore[misc]
    assert abs(red - 128) < 4


def test_what_is_transparent_in_a_picture_is_so_in_the_report(describe: Describe) -> None:
    cut_out = Image.new("RGBA", (64, 48), "red")
    cut_out.paste((0, 0, 0, 0), (0, 0, 32, 48))
    picture = Pictures(1200).preview(describe(cut_out))
    assert isinstance(picture, Picture)
    alpha = shown({"src": picture.uri}).getchannel("A")
    assert (alpha.getpixel((8, 24)), alpha.getpixel((56, 24))) == (0, 255)


def test_a_picture_taken_on_its_side_is_shown_upright(describe: Describe) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Pictures(1200).preview(describe("red", (80, 40), suffix="jpg", exif=exif))
    assert isinstance(picture, Picture)
    assert (picture.width, picture.height) == (40, 80)
    assert shown({"src": picture.uri}).size == (40, 80)


def test_eight_items_of_one_megapixel_stay_below_six_megabytes(run: RunSummary, describe: Describe) -> None:
    noise = Image.effect_noise((1200, 900), 60).convert("RGB")  # nothing compresses worse
    sharp, soft = describe(noise), describe(noise.rotate(180))
    steps = [{"id": f"step-{n}", "image": soft, "outcome": "done"} for n in range(4)]
    rows = [a_row(describe, input=sharp, output=soft, steps=steps) for _ in range(8)]
    assert len(render(run, rows)) < 6_000_000


def test_an_outpaint_says_where_the_picture_lies() -> None:
    parameters = {"width": 800, "height": 400, "reference_offset_x": 100, "reference_offset_y": 0}
    assert place((400, 400), (800, 400), parameters) == Box(0.125, 0.0, 0.5, 1.0)


def test_an_outpaint_without_offsets_is_centred() -> None:
    box = place((400, 400), (800, 400), {"width": 800, "height": 400}, task="outpaint")
    assert box == Box(0.25, 0.0, 0.5, 1.0)


def test_an_input_that_was_cropped_by_the_canvas_reaches_beyond_it() -> None:
    parameters = {"width": 400, "height": 400, "reference_offset_x": -50, "reference_offset_y": 0, "auto_crop": True}
    box = place((500, 400), (400, 400), parameters)
    assert (box.left, box.width, box.exact) == (-0.125, 1.25, True)


def test_an_input_that_was_sent_smaller_is_placed_smaller() -> None:
    parameters = {"width": 2048, "height": 1152, "reference_offset_x": 256, "reference_offset_y": 0}
    box = place((3072, 2304), (2048, 1152), parameters)
    assert (box.left, box.width, box.height, box.exact) == (0.125, 0.75, 1.0, False)


def test_a_scaled_picture_covers_its_successor_and_another_shape_is_contained() -> None:
    assert place((400, 300), (800, 600), {}) == WHOLE
    assert place((400, 400), (800, 400), {}) == Box(0.25, 0.0, 0.5, 1.0, exact=False)


def test_a_mask_before_an_outpaint_is_placed_with_its_picture(run: RunSummary, describe: Describe) -> None:
    wide = {"width": 640, "height": 240, "reference_offset_x": 160, "reference_offset_y": 0}
    output = describe("blue", (640, 240))
    steps = [
        {"id": "erase", "image": describe("green"), "mask": describe(Image.new("L", (320, 240), 255))},
        {"id": "wide", "task": "outpaint", "image": output, "parameters": wide},
    ]
    page = page_of(run, a_row(describe, output=output, steps=steps))
    assert page.all("svg", class_="outline")[0]["style"] == "left:25.000%;top:0.000%;width:50.000%;height:100.000%"
    assert page.all("div", class_="spot")[0]["style"] == "left:25.000%;top:0.000%;width:50.000%;height:100.000%"


def test_a_place_that_was_guessed_anywhere_on_the_way_is_said_to_be_approximate(
    run: RunSummary, describe: Describe
) -> None:
    square, small = describe("blue", (300, 300)), describe("green", (150, 150))
    steps = [{"id": "edit", "image": square}, {"id": "scale", "image": small}]
    note = "the place of the original on it is approximate"
    assert note in page_of(run, a_row(describe, output=small, steps=steps)).text
    assert note not in page_of(run, a_row(describe, input=square, output=small, steps=steps[1:])).text


def mask_of(*rectangles: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", (200, 100))
    for left, top, right, bottom in rectangles:
        ImageDraw.Draw(mask).rectangle((left, top, right - 1, bottom - 1), fill=255)
    return mask


def test_the_outline_of_a_rectangle_is_its_four_corners(describe: Describe) -> None:
    outline = Pictures(1200).outline(describe(mask_of((20, 30, 60, 80))))
    assert isinstance(outline, Outline)
    corners = {tuple(map(int, pair.split())) for pair in re.findall(r"\d+ \d+", outline.path)}
    assert corners == {(20, 30), (60, 30), (60, 80), (20, 80)}
    assert outline.coverage == pytest.approx(40 * 50 / 20000)


def test_an_outline_has_a_loop_for_each_area_and_hole(describe: Describe) -> None:
    mask = mask_of((10, 10, 60, 60), (100, 10, 150, 60))
    ImageDraw.Draw(mask).rectangle((20, 20, 40, 40), fill=0)
    outline = Pictures(1200).outline(describe(mask))
    assert isinstance(outline, Outline)
    assert outline.path.count("M") == 3


def test_an_outline_stays_small_whatever_the_mask(describe: Describe) -> None:
    noise = Image.effect_noise((1000, 1000), 100).point([0] * 128 + [255] * 128)
    outline = Pictures(1200).outline(describe(noise))
    assert isinstance(outline, Outline)
    assert len(outline.path) < 300_000


def test_a_thin_mask_keeps_its_outline_when_scaled_down(describe: Describe) -> None:
    mask = Image.new("L", (3000, 2000))
    ImageDraw.Draw(mask).line((100, 100, 2900, 1900), fill=255)
    outline = Pictures(1200).outline(describe(mask))
    assert isinstance(outline, Outline)
    assert outline.path


def test_an_empty_mask_has_an_empty_outline(describe: Describe) -> None:
    outline = Pictures(1200).outline(describe(mask_of()))
    assert isinstance(outline, Outline)
    assert (outline.path, outline.coverage) == ("", 0)


def test_what_is_not_a_description_has_no_picture() -> None:
    assert isinstance(Pictures(1200).preview("photos/coffee.jpg"), Missing)
