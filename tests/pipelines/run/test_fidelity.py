"""`align`, `match_colour` and `expect: {shift: …}` in recipes: noted in the manifest, put right for nothing."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image, ImageChops
from recipes import Painter, Place, perform, place

from flux_tasks.errors import RecipeError
from pipelines.recipe import Recipe

PHOTO = Path(__file__).parents[3] / "examples" / "photos" / "hens.jpg"
BOX = (100, 80, 180, 160)


class Careless(Painter):
    """Gives the picture back six pixels to the right and two up, with a cast, and red in the box."""

    def _work(self, body: dict[str, Any]) -> bytes:  # type: ignore[override]
        encoded = body.get("image") or body["input_image"]
        image = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
        image = ImageChops.offset(image, 6, -2)
        image = Image.fromarray((numpy.asarray(image) * (1.12, 1.0, 0.9)).clip(0, 255).astype("uint8"))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()


@pytest.fixture
def here() -> Iterator[Place]:
    with Careless() as bfl, place(bfl, 1) as found:
        image = Image.open(PHOTO).convert("RGB")
        image.thumbnail((480, 480))
        (found.folder / "photos" / "p0.png").unlink()
        image.save(found.folder / "photos" / "hens.png")
        mask = Image.new("L", image.size)
        mask.paste(255, BOX)
        mask.save(found.folder / "masks" / "hens.png")
        yield found


def recipe(here: Place, options: str, step: str = "erase: {mask: '{{ mask }}'}") -> Recipe:
    text = (
        "name: careful\nsource: {images: 'FOLDER/photos/*.png', columns: {mask: 'FOLDER/masks/{{ stem }}.png'}}\n"
        f"steps:\n  - {step}\n{options}output: 'FOLDER/out/{{{{ stem }}}}.png'\n"
    )
    return Recipe.parse(text.replace("FOLDER", str(here.folder)))


def planned(here: Place, options: str) -> int:
    """The jobs that a plan counts."""
    settings = here.settings
    return recipe(here, options).plan(endpoint=settings.endpoint, key="k", store=settings.store).jobs


def error_of(here: Place) -> float:
    """By how much the output differs from the photo outside the box."""
    made, photo = (Image.open(here.folder / kind / "hens.png").convert("RGB") for kind in ("out", "photos"))
    apart = numpy.abs(numpy.asarray(made, float) - numpy.asarray(photo, float)).mean(axis=2)
    apart[BOX[1] - 16 : BOX[3] + 16, BOX[0] - 16 : BOX[2] + 16] = 0
    return float(apart[12:-12, 12:-12].mean())


def test_a_result_that_has_moved_is_moved_back_which_the_manifest_says_and_nothing_more_is_paid(here: Place) -> None:
    perform(recipe(here, ""), here.settings)
    before = error_of(here)
    _, [row] = perform(recipe(here, "    align: true\n"), here.settings)
    [step] = row["steps"]
    [remark] = [warning for warning in step["warnings"] if warning.startswith("aligned:")]
    assert remark == "aligned: it was moved by +6.0 px, -2.0 px"
    assert error_of(here) < 0.4 * before
    assert here.jobs == 1
    _, [again] = perform(recipe(here, "    align: true\n    expect: {shift: 1}\n"), here.settings)
    assert again["outcome"] == "cached"
    assert remark in again["steps"][0]["warnings"], "kept with the result"
    assert here.jobs == 1


@pytest.mark.parametrize(("limit", "outcome"), [(2, "failed"), (7, "done")])
def test_a_shift_beyond_what_is_expected_fails_the_item_with_its_figure(here: Place, limit: int, outcome: str) -> None:
    _, [row] = perform(recipe(here, f"    expect: {{shift: {limit}}}\n"), here.settings)
    assert row["outcome"] == outcome
    if outcome == "failed":
        assert "shift: moved by +6.0 px, -2.0 px: 6.3 px at most, above 2 px" in row["error"]["message"]


def test_colours_are_matched_before_the_untouched_pixels_are_put_back(here: Place) -> None:
    options = "    align: true\n    match_colour: true\n    preserve: true\n"
    perform(recipe(here, options), here.settings)
    made, photo = (Image.open(here.folder / kind / "hens.png").convert("RGB") for kind in ("out", "photos"))
    inside = ImageChops.difference(made.crop(BOX), photo.crop(BOX))
    assert numpy.asarray(inside, float).mean() < 8, "the cast and the shift are gone"
    assert error_of(here) == 0
    assert planned(here, options) == 0
    assert here.jobs == 1


def test_a_plan_of_a_new_photo_counts_its_job_once(here: Place) -> None:
    assert planned(here, "    align: true\n    match_colour: true\n    preserve: true\n") == 1


@pytest.mark.parametrize(
    ("step", "options", "what"),
    [
        ("outpaint: {aspect_ratio: '16:9'}", "align: true", "what outpaint makes is not where it was in its input"),
        ("outpaint: {aspect_ratio: '16:9'}", "expect: {shift: 2}", "leave shift out"),
        ("resize: {width: 50}", "align: true", "what resize makes is not where it was"),
        ("deblur: {}", "match_colour: true", "deblur has no mask: leave match_colour out"),
        ("deblur: {}", "align: 3", "3 is not true or false"),
        ("deblur: {}", "expect: {shift: -1}", "-1 is not a number of px from 0"),
    ],
)
def test_an_option_that_does_not_suit_its_step_is_refused(here: Place, step: str, options: str, what: str) -> None:
    with pytest.raises(RecipeError, match=what):
        recipe(here, f"    {options}\n", step)
