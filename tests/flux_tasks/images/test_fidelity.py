"""An edit that came back moved, scaled or of another hue: measured on real photos, and put right."""

from __future__ import annotations

import io
import itertools
import random
from pathlib import Path

import numpy
import pytest
from pictures import noise
from PIL import Image

from flux_tasks.images.fidelity.colours import matched_colours
from flux_tasks.images.fidelity.registration import moved_back, register

PHOTOS = sorted((Path(__file__).parents[3] / "examples" / "photos").glob("*.jpg"))
CAST = (1.15, 1.0, 0.88)


def photo(path: Path) -> Image.Image:
    image = Image.open(path).convert("RGB")
    image.thumbnail((512, 512))
    return image


def moved(image: Image.Image, dx: float, dy: float, scale: float) -> Image.Image:
    """What a model might give back: scaled about the middle, moved, a little lighter, noisy, and a JPEG."""
    inverse = 1 / scale
    across = (inverse, 0.0, image.width / 2 * (1 - inverse) - dx * inverse)
    down = (0.0, inverse, image.height / 2 * (1 - inverse) - dy * inverse)
    made = image.transform(image.size, Image.Transform.AFFINE, (*across, *down), Image.Resampling.BICUBIC)
    pixels = numpy.asarray(made) * (1.04, 1.0, 0.95) + numpy.random.default_rng(3).normal(3, 5, (*made.size[::-1], 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype("uint8")).save(buffer, "JPEG", quality=88)
    return Image.open(buffer)


def left_third(size: tuple[int, int], inset: int = 0) -> Image.Image:
    mask = Image.new("L", size)
    left, top, right, bottom = size[0] // 8, size[1] // 4, size[0] * 3 // 8, size[1] * 3 // 4
    mask.paste(255, (left + inset, top + inset, right - inset, bottom - inset))
    return mask


def difference(one: Image.Image, other: Image.Image) -> float:
    return float(numpy.abs(numpy.asarray(one.convert("L"), float) - numpy.asarray(other.convert("L"), float)).mean())


@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: path.stem)
@pytest.mark.parametrize("scale", [1.0, 1.03])
def test_shift_and_scale_of_an_edited_photo_are_measured_to_a_fraction_of_a_pixel(path: Path, scale: float) -> None:
    before = photo(path)
    draw = random.Random(path.stem)
    dx, dy = draw.uniform(-9, 9), draw.uniform(-9, 9)
    after, mask = moved(before, dx, dy, scale), left_third(before.size)
    after.paste((210, 40, 60), mask=left_third(before.size, inset=15))  # what was edited
    found = register(before, after, mask)
    assert found.is_known
    assert (found.dx, found.dy) == pytest.approx((dx, dy), abs=0.35)
    assert found.scale == pytest.approx(scale, abs=0.002)
    back = moved_back(before, after, found)
    assert back.size == before.size
    cast = moved(before, 0, 0, 1.0)
    for picture in (back, after, cast):
        picture.paste(0, mask=mask)
    assert difference(back, cast) < 0.6 * difference(after, cast)


def test_nothing_has_moved_in_a_picture_that_is_the_same() -> None:
    before = photo(PHOTOS[0])
    found = register(before, moved(before, 0, 0, 1.0))
    assert found.scale == 1
    assert found.distance(before.size) < 0.2


def test_a_fifth_of_the_width_to_the_side_is_found_and_the_empty_part_is_the_inputs() -> None:
    before = photo(PHOTOS[2])
    after = moved(before, before.width / 5, 0, 1.0)
    found = register(before, after)
    assert found.dx == pytest.approx(before.width / 5, abs=1)
    back = moved_back(before, after, found)
    right = (before.width - 40, 0, before.width, before.height)
    assert difference(back.crop(right), before.crop(right)) < 1


def test_two_photos_of_different_things_have_nothing_in_common() -> None:
    for one, other in itertools.pairwise(PHOTOS):
        assert not register(photo(one).resize((512, 384)), photo(other).resize((512, 384))).is_known
    assert not register(Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")).is_known


def test_a_result_of_another_size_is_compared_as_if_it_had_the_size_of_its_input() -> None:
    before = photo(PHOTOS[1])
    after = moved(before, 5, -3, 1.0).resize((before.width * 2, before.height * 2))
    found = register(before, after)
    assert (found.dx, found.dy) == pytest.approx((5, -3), abs=0.4)
    assert moved_back(before, after, found).size == before.size


@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: path.stem)
def test_a_cast_inside_the_mask_is_taken_back_though_part_of_the_surroundings_was_edited(path: Path) -> None:
    before = photo(path)
    mask = Image.new("L", before.size)
    mask.paste(255, (before.width // 3, before.height // 3, before.width * 2 // 3, before.height * 2 // 3))
    after = Image.fromarray((numpy.asarray(before) * CAST).clip(0, 255).astype("uint8"))
    after.paste((90, 90, 90), (before.width // 3 - 16, before.height // 3, before.width // 3, before.height // 2))
    made = matched_colours(before, after, mask)
    assert made is not None
    inside = numpy.asarray(mask) > 0
    right, wrong, now = (numpy.asarray(image, float)[inside] for image in (before, after, made))
    assert numpy.abs(now - right).mean() < 0.4 * numpy.abs(wrong - right).mean()
    assert (numpy.asarray(made)[~inside] == numpy.asarray(after)[~inside]).all()


def test_transparency_is_kept_and_a_mask_without_surroundings_changes_nothing() -> None:
    before = noise((96, 64))
    after = before.convert("RGBA")
    after.putalpha(Image.linear_gradient("L").resize(before.size))
    mask = Image.new("L", before.size)
    mask.paste(255, (30, 20, 60, 44))
    made = matched_colours(before, after, mask)
    assert made is not None
    assert made.getchannel("A").tobytes() == after.getchannel("A").tobytes()
    assert matched_colours(before, after, Image.new("L", before.size, 255)) is None
    assert matched_colours(before, after, Image.new("L", before.size)) is None
