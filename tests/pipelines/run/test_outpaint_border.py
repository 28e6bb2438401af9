"""Outpaint: the input's pixels are put back with `preserve`, and `expect: {solid: false}` judges what was added."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import noise
from PIL import Image
from recipes import Painter, Place, perform, place

from flux_tasks.images.fidelity.seams import put_back
from pipelines.recipe import Recipe

SIZE = (160, 128)
WIDE = "outpaint: {expand: {left: 64, right: 32}, exact: true}"


class Darkening(Painter):
    """Gives the input back darker than it was, on the canvas, and puts noise, or a colour, around it."""

    around: Any = None

    def _work(self, body: dict[str, Any]) -> bytes:  # type: ignore[override]
        image = Image.open(io.BytesIO(base64.b64decode(body["input_image"]))).convert("RGB")
        size = (body["width"], body["height"])
        canvas = noise(size) if self.around is None else Image.new("RGB", size, self.around)
        darker = image.point([value * 3 // 4 for value in range(256)] * 3)
        canvas.paste(darker, (body["reference_offset_x"], body["reference_offset_y"]))
        buffer = io.BytesIO()
        canvas.save(buffer, "PNG")
        return buffer.getvalue()


@pytest.fixture
def here() -> Iterator[Place]:
    with Darkening() as bfl, place(bfl, 1) as found:
        photo = Image.new("RGB", SIZE, (200, 120, 80))
        photo.paste("blue", (70, 10, 90, 20))
        photo.save(found.folder / "photos" / "p0.png")
        found.bfl = bfl  # type: ignore[attr-defined]
        yield found


def made(here: Place, options: str, step: str = WIDE) -> Any:
    """The row of the one item, and the pixels of its result."""
    text = f"source: 'FOLDER/photos/*.png'\nsteps:\n  - {step}\n{options}output: 'FOLDER/out/{{{{ stem }}}}.png'\n"
    found = Recipe.parse(text.replace("FOLDER", str(here.folder)))
    plan = found.plan(endpoint=here.settings.endpoint, key="k", store=here.settings.store)
    assert plan.jobs == (0 if here.jobs else 1)
    _, [row] = perform(found, here.settings)
    path = here.folder / "out" / "p0.png"
    return row, numpy.asarray(Image.open(path).convert("RGB"), int) if path.exists() else None


def test_the_pixels_of_the_input_are_put_back_exactly_and_the_rest_is_the_tools(here: Place) -> None:
    _, plain = made(here, "")
    row, put = made(here, "    preserve: true\n")
    assert row["outcome"] == "cached"
    assert put.shape == (128, 256, 3)
    assert (put[:, 64:224] == numpy.asarray(Image.open(here.folder / "photos" / "p0.png"))).all()
    assert (put[:, :64] == plain[:, :64]).all()
    assert (put[:, 224:] == plain[:, 224:]).all()
    assert here.jobs == 1


def test_a_feather_blends_inside_the_border_to_what_was_added_and_nowhere_else(here: Place) -> None:
    _, put = made(here, "    preserve: {feather: 24}\n")
    red = put[64, 64:224, 0]
    assert (red[24:-24] == 200).all()
    assert red[0] <= 152, "at the border it is the tool's"
    assert (numpy.diff(red[:24]) >= 0).all()
    assert numpy.diff(red[:24]).max() <= 8, "no step"
    for row in (0, -1):  # nothing was added above or below
        assert (put[row, 64 + 24 : 224 - 24] == (200, 120, 80)).all()


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(8, 40), st.integers(8, 40)),
    st.tuples(st.integers(-6, 20), st.integers(-6, 20)),
    st.integers(0, 12),
    st.sampled_from(["RGB", "RGBA", "L"]),
)
def test_wherever_it_lies_a_picture_is_exact_but_for_the_feather(
    size: tuple[int, int], corner: tuple[int, int], feather: int, mode: str
) -> None:
    original, canvas = noise(size, mode), Image.new("RGB", (48, 48), (9, 99, 199))
    result = put_back(original, canvas, corner, feather)
    wanted = result.copy()
    wanted.paste(original.convert(result.mode), corner)
    box = [corner[0], corner[1], corner[0] + size[0], corner[1] + size[1]]
    for axis in (0, 1):
        box[axis] += feather * (box[axis] > 0)
        box[axis + 2] = min(48, box[axis + 2] - feather * (box[axis + 2] < 48))
        box[axis] = max(0, box[axis])
    if box[0] < box[2] and box[1] < box[3]:
        assert result.crop(tuple(box)).tobytes() == wanted.crop(tuple(box)).tobytes()


@pytest.mark.parametrize(
    ("colour", "outcome"), [((0, 0, 0), "failed"), ((90, 200, 30), "failed"), ((150, 90, 60), "done"), (None, "done")]
)
def test_a_side_that_came_back_in_one_colour_fails_unless_the_picture_has_that_colour_there(
    here: Place, colour: Any, outcome: str
) -> None:
    here.bfl.around = colour  # type: ignore[attr-defined]
    row, _ = made(here, "    expect: {solid: false}\n")
    assert row["outcome"] == outcome
    if outcome == "failed":
        assert "solid: a side that was added is one single colour" in row["error"]["message"]
