"""Local operations: pixels by hand, bytes that stay untouched, every mode, and no error that is not ours."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, noise, png_header
from PIL import Image, ImageCms

from flux_tasks.errors import InvalidImage, InvalidRequest, ItemError
from flux_tasks.images import masks
from flux_tasks.images.canvas import ANCHORS
from flux_tasks.images.encoding import MAX_PIXELS, mark_preview
from flux_tasks.images.reference import ImageRef
from pipelines.operations import registry
from pipelines.operations.geometry import Anchor
from pipelines.operations.registry import OPERATIONS

W, B = 255, 0
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def ref(image: Image.Image, kind: str = "PNG", name: str = "apple", **options: Any) -> ImageRef:
    return ImageRef.of(encoded(image, kind, **options), name=name)


def grey(*rows: list[int]) -> Image.Image:
    return Image.frombytes("L", (len(rows[0]), len(rows)), bytes(value for row in rows for value in row))


def colours(*rows: list[tuple[int, ...]]) -> Image.Image:
    mode = "RGB" if len(rows[0][0]) == 3 else "RGBA"
    return Image.frombytes(mode, (len(rows[0]), len(rows)), bytes(v for row in rows for pixel in row for v in pixel))


def rows_of(result: ImageRef) -> list[list[Any]]:
    image = result.open()
    return [[image.getpixel((x, y)) for x in range(image.width)] for y in range(image.height)]


def do(name: str, image: Any = None, /, *, on: Any = "image", **given: Any) -> ImageRef:
    """One operation; pictures and parameters together, as they stand in a recipe."""
    operation = OPERATIONS[name].for_role(on)
    pictures = {operation.primary: image} | {n: v for n, v in given.items() if n in operation.inputs}
    return operation.perform({n: v for n, v in given.items() if n not in operation.inputs}, pictures)


def problems(name: str, *, on: Any = "image", partial: bool = False, **parameters: Any) -> dict[str, str]:
    return {
        p.where: p.what
        for p in OPERATIONS[name].for_role(on).check(parameters, where="steps.2." + name, partial=partial)
    }


ROW = colours([RED, GREEN, BLUE])


# -- turning, scaling, cutting, padding -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize(("degrees", "turn"), [(90, 270), (-90, 90), (180, 180), (270, 90), (-270, 270)])
def test_quarter_turns_only_move_pixels(kind: str, degrees: int, turn: int) -> None:
    picture = noise((5, 3), kind)
    turned = do("rotate", ref(picture), degrees=degrees).open()
    assert turned.mode == picture.mode
    assert turned.tobytes() == picture.transpose(getattr(Image.Transpose, f"ROTATE_{turn}")).tobytes()


def test_a_mirror_changes_left_and_right_or_top_and_bottom() -> None:
    assert rows_of(do("flip", ref(ROW), direction="horizontal")) == [[BLUE, GREEN, RED]]
    assert do("flip", ref(ROW), direction="vertical").digest == ref(ROW).digest, "the same pixels: the file itself"


def test_a_full_turn_is_the_file_itself() -> None:
    picture = ref(noise((9, 6)), "JPEG")
    assert {do("rotate", picture, degrees=degrees).digest for degrees in (0, 360, -360)} == {picture.digest}


@pytest.mark.parametrize(
    ("kind", "color", "mode"),
    [("RGB", "white", "RGB"), ("L", "white", "L"), ("L", "red", "RGB"), ("RGB", "transparent", "RGBA")],
)
def test_the_corners_of_a_turned_picture_have_the_colour_that_the_recipe_says(kind: str, color: str, mode: str) -> None:
    picture = Image.new(kind, (40, 20), 90 if kind == "L" else (9, 99, 199))
    turned = do("rotate", ref(picture), degrees=30, color=color).open()
    assert turned.mode == mode
    assert turned.size == (45, 38)
    assert turned.getpixel((0, 0)) == Image.new(mode, (1, 1), color if color != "transparent" else 0).getpixel((0, 0))
    assert turned.convert("RGB").getpixel((22, 19)) == picture.convert("RGB").getpixel((0, 0))
    kept = do("rotate", ref(picture), degrees=30, color=color, expand=False).open()
    assert kept.size == picture.size


def test_a_turned_mask_is_black_and_white_and_its_corners_are_black() -> None:
    mask = do("rotate", ref(Image.new("L", (40, 20), 255)), on="mask", degrees=30).open()
    assert {value for _, value in mask.getcolors() or ()} == {0, 255}
    assert mask.getpixel((0, 0)) == 0


@pytest.mark.parametrize(
    ("name", "given", "what"),
    [
        ("rotate", {}, "is required"),
        ("rotate", {"degrees": 400}, "360"),
        ("rotate", {"degrees": "left"}, "number"),
        ("flip", {"direction": "left"}, "horizontal"),
        ("flip", {}, "is required"),
    ],
)
def test_a_turn_or_a_mirror_says_what_it_lacks(name: str, given: dict[str, Any], what: str) -> None:
    assert any(what in said for said in problems(name, **given).values())


def test_a_picture_is_turned_as_its_exif_data_say() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    lying = ref(ROW, exif=exif)
    result = do("auto_orient", lying)
    assert rows_of(result) == [[RED], [GREEN], [BLUE]]
    assert (result.orientation, result.upright_size, result.name) == (1, (1, 3), "apple")
    black_and_white = ref(grey([W, B, W]), exif=exif)
    assert do("auto_orient", black_and_white, on="mask").upright_size == (1, 3)
    assert do("auto_orient", black_and_white, on="mask").orientation == 1


@pytest.mark.parametrize(
    ("parameters", "size"),
    [
        ({"width": 40}, (40, 20)),
        ({"height": 40}, (80, 40)),
        ({"width": 40, "height": 40}, (40, 20)),
        ({"width": 40, "height": 40, "fit": "cover"}, (40, 40)),
        ({"width": 40, "height": 40, "fit": "stretch"}, (40, 40)),
        ({"max_side": 50}, (50, 25)),
        ({"megapixels": 800 / 1_048_576}, (40, 20)),
        ({"megapixels": 799 / 1_048_576}, (39, 19)),
        ({"max_side": 1}, (1, 1)),
        ({"max_side": 500}, (80, 40)),
        ({"max_side": 160, "upscale": True}, (160, 80)),
        ({"width": 160, "height": 160}, (80, 40)),
        ({"width": 160, "height": 160, "fit": "cover"}, (40, 40)),
        ({"width": 160, "height": 160, "fit": "stretch"}, (40, 40)),
        ({"width": 160, "height": 160, "fit": "cover", "upscale": True}, (160, 160)),
    ],
)
def test_the_size_is_said_in_the_ways_that_people_say_it(parameters: dict[str, Any], size: tuple[int, int]) -> None:
    assert OPERATIONS["resize"].output_size(parameters, (80, 40)) == size
    assert do("resize", ref(noise((80, 40))), **parameters).upright_size == size


def test_scaling_averages_what_it_puts_together() -> None:
    assert rows_of(do("resize", ref(grey([0, 100, 200, 40])), width=2, height=1, fit="stretch", filter="box")) == [
        [50, 120]
    ]
    assert rows_of(do("resize", ref(grey([7, 9])), width=4, upscale=True, filter="nearest")) == [[7, 7, 9, 9]] * 2


def test_what_covers_keeps_the_part_that_the_anchor_says() -> None:
    picture = ref(colours([RED, GREEN, BLUE, WHITE]))
    square = {"width": 1, "height": 1, "fit": "cover", "filter": "nearest"}
    assert rows_of(do("resize", picture, anchor="left", **square)) == [[RED]]
    assert rows_of(do("resize", picture, anchor="right", **square)) == [[WHITE]]


def test_colours_below_transparent_pixels_do_not_bleed_when_scaled() -> None:
    picture = ref(colours([(255, 255, 255, 255), (255, 0, 0, 0)]))
    assert rows_of(do("resize", picture, width=1, height=1, fit="stretch", filter="box")) == [[(255, 255, 255, 128)]]


def test_a_mask_is_scaled_without_greys() -> None:
    mask = ref(masks.binarise(noise((31, 17), "L")))
    result = do("resize", mask, on="mask", width=12)
    assert set(result.open().tobytes()) == {W, B}
    assert result.open().mode == "L"
    assert "filter" in problems("resize", on="mask", width=12, filter="lanczos").popitem()[0]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"box": [1, 0, 3, 1]}, [[GREEN, BLUE]]),
        ({"box": (1, 0, 2, 1)}, [[GREEN]]),
        ({"width": 1}, [[GREEN]]),
        ({"width": 1, "anchor": "left"}, [[RED]]),
        ({"width": 1, "anchor": "bottom-right"}, [[BLUE]]),
        ({"aspect_ratio": "2:1", "anchor": "right"}, [[GREEN, BLUE]]),
        ({"aspect_ratio": "1:9"}, [[GREEN]]),
    ],
)
def test_a_part_is_cut_out_pixel_by_pixel(parameters: dict[str, Any], expected: Any) -> None:
    assert rows_of(do("crop", ref(ROW), **parameters)) == expected


def test_a_part_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidImage, match=r"crop: the box \[0, 0, 4, 1\] reaches beyond the picture of 3×1 px"):
        do("crop", ref(ROW), box=[0, 0, 4, 1])
    with pytest.raises(InvalidImage, match="4×1 px cannot be cut out of a picture of 3×1 px: resize or pad it first"):
        do("crop", ref(ROW), width=4)
    assert OPERATIONS["crop"].output_size({"width": 4}, (3, 1)) is None


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"left": 1}, [[WHITE, RED, GREEN, BLUE]]),
        ({"width": 5}, [[WHITE, RED, GREEN, BLUE, WHITE]]),
        ({"width": 4, "anchor": "right", "color": "lime"}, [[GREEN, RED, GREEN, BLUE]]),
        ({"aspect_ratio": "3:2", "anchor": "top", "color": "#00f"}, [[RED, GREEN, BLUE], [BLUE, BLUE, BLUE]]),
        ({"right": 1, "color": "#01020304"}, [[(*RED, 255), (*GREEN, 255), (*BLUE, 255), (1, 2, 3, 4)]]),
        ({"right": 1, "color": "transparent"}, [[(*RED, 255), (*GREEN, 255), (*BLUE, 255), (0, 0, 0, 0)]]),
    ],
)
def test_a_border_is_put_around_a_picture(parameters: dict[str, Any], expected: Any) -> None:
    assert rows_of(do("pad", ref(ROW), **parameters)) == expected


def test_a_grey_picture_gets_colours_only_for_a_coloured_border() -> None:
    assert do("pad", ref(grey([7])), left=1).open().mode == "L"
    assert rows_of(do("pad", ref(grey([7])), left=1, color="red")) == [[RED, (7, 7, 7)]]
    assert rows_of(do("pad", ref(grey([7])), left=1, color="transparent")) == [[(0, 0), (7, 255)]]


def test_a_mask_is_padded_with_black_or_with_white() -> None:
    assert rows_of(do("pad", ref(grey([W])), on="mask", left=1)) == [[B, W]]
    assert rows_of(do("pad", ref(grey([B])), on="mask", left=1, color="white")) == [[W, B]]
    assert problems("pad", on="mask", left=1, color="red") == {
        "steps.2.pad.color": "'red' is not one of 'black' or 'white'"
    }


def test_a_picture_that_is_larger_than_its_frame_is_refused() -> None:
    with pytest.raises(InvalidImage, match="pad: the picture of 3×1 px does not fit into 2×1 px: resize or crop it"):
        do("pad", ref(ROW), width=2)


# -- types and colours ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "media_type"), [("png", "image/png"), ("jpeg", "image/jpeg"), ("webp", "image/webp")])
def test_a_picture_is_converted_to_each_file_type(kind: str, media_type: str) -> None:
    result = do("convert", ref(noise(), "BMP"), format=kind)
    assert result.media_type == media_type
    assert ImageRef.of(result.read()) == result


def test_less_quality_makes_a_smaller_file() -> None:
    picture = ref(noise((64, 64)))
    sizes = [do("convert", picture, format="jpeg", quality=quality).size for quality in (10, 50, 95)]
    assert sizes == sorted(sizes)
    assert do("convert", picture, format="jpeg", quality=95) == do("convert", picture, format="jpeg")


def test_what_was_transparent_lies_on_white_where_alpha_is_dropped() -> None:
    picture = ref(colours([(255, 0, 0, 255), (255, 0, 0, 0)]))
    assert rows_of(do("convert", picture, mode="RGB")) == [[RED, WHITE]]
    assert rows_of(do("convert", picture, mode="L")) == [[76, 255]]
    jpeg = do("convert", ref(Image.new("RGBA", (16, 16))), format="jpeg")
    assert rows_of(jpeg)[3][3] == WHITE


def test_a_mode_that_the_own_file_type_cannot_hold_gives_png() -> None:
    assert do("convert", ref(noise(), "JPEG"), mode="RGBA").media_type == "image/png"
    assert do("convert", ref(noise(), "WEBP"), mode="L").media_type == "image/png"
    assert do("convert", ref(noise(), "JPEG"), mode="L").media_type == "image/jpeg"
    assert do("convert", ref(noise(), "TIFF"), mode="L").media_type == "image/png"


def test_a_picture_is_put_on_a_colour() -> None:
    picture = ref(colours([(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 128)]))
    assert rows_of(do("flatten", picture)) == [[RED, WHITE, (127, 127, 127)]]
    assert rows_of(do("flatten", picture, color="#0000ff"))[0][:2] == [RED, BLUE]
    greys = Image.merge("LA", (grey([9, 9]), grey([255, 0])))
    assert rows_of(do("flatten", ref(greys))) == [[9, 255]]
    assert rows_of(do("flatten", ref(greys), color="red")) == [[(9, 9, 9), RED]]


# -- composite --------------------------------------------------------------------------------------------------------


def test_the_top_shows_where_the_mask_is_white() -> None:
    over = ref(colours([WHITE, WHITE, WHITE]))
    assert rows_of(do("composite", ref(ROW), over=over, mask=ref(grey([W, B, W])))) == [[RED, WHITE, BLUE]]


def test_without_a_mask_the_top_shows_through_its_alpha() -> None:
    top = ref(colours([(255, 0, 0, 255), (0, 255, 0, 0), (0, 0, 0, 128)]))
    assert rows_of(do("composite", top, over=ref(colours([BLUE, BLUE, WHITE])))) == [[RED, BLUE, (127, 127, 127)]]


def test_the_transparent_parts_of_the_top_are_not_shown_within_the_mask_either() -> None:
    top = ref(colours([(255, 0, 0, 255), (0, 255, 0, 0)]))
    assert rows_of(do("composite", top, over=ref(colours([BLUE, BLUE])), mask=ref(grey([W, W])))) == [[RED, BLUE]]


def test_outside_the_mask_no_pixel_changes_even_with_a_soft_edge() -> None:
    top, below, mask = noise((40, 40), seed=1), noise((40, 40), "RGBA", seed=2), Image.new("L", (40, 40))
    mask.paste(255, (8, 8, 32, 32))
    result = do("composite", ref(top), over=ref(below), mask=ref(mask), feather=3).open()
    outside = [(x, y) for x in range(40) for y in range(40) if not mask.getpixel((x, y))]
    assert all(result.getpixel(at) == below.getpixel(at) for at in outside)
    assert result.getpixel((20, 20)) == (*top.getpixel((20, 20)), 255)
    assert result.getpixel((9, 20))[:3] not in (top.getpixel((9, 20)), below.getpixel((9, 20))[:3])


def test_a_soft_edge_without_a_mask_lies_within_what_the_top_covers() -> None:
    top = Image.new("RGBA", (40, 40))
    top.paste(RED, (4, 4, 36, 36))
    result = do("composite", ref(top), over=ref(Image.new("RGB", (40, 40), BLUE)), feather=3).open()
    assert (result.getpixel((3, 20)), result.getpixel((20, 20))) == (BLUE, RED)
    assert result.getpixel((5, 20)) not in (BLUE, RED)


def test_two_greys_stay_grey() -> None:
    assert rows_of(do("composite", ref(grey([1, 2])), over=ref(grey([8, 9])), mask=ref(grey([W, B])))) == [[1, 9]]


def test_an_opaque_top_without_a_mask_is_refused() -> None:
    with pytest.raises(InvalidImage, match="the picture on top is opaque and would hide the other: give a mask"):
        do("composite", ref(ROW), over=ref(ROW))


def test_pictures_of_different_sizes_are_not_composited() -> None:
    with pytest.raises(InvalidImage, match="the picture is 3×1 px but the one below it is 64×48 px: resize one first"):
        do("composite", ref(ROW), over=ref(noise()), mask=ref(grey([W, B, W])))
    with pytest.raises(InvalidImage, match="the mask is 1×1 px but the image is 3×1 px"):
        do("composite", ref(ROW), over=ref(ROW), mask=ref(grey([W])))


# -- masks ------------------------------------------------------------------------------------------------------------


def test_a_mask_comes_from_what_is_transparent() -> None:
    picture = ref(colours([(1, 2, 3, 0), (1, 2, 3, 127), (1, 2, 3, 128), (1, 2, 3, 255)]))
    assert rows_of(do("mask_from_alpha", picture)) == [[W, W, B, B]]
    with pytest.raises(InvalidImage, match=r"mask_from_alpha: .* the picture has none"):
        do("mask_from_alpha", ref(ROW))


def test_a_mask_comes_from_boxes() -> None:
    assert rows_of(do("mask_from_boxes", ref(ROW), boxes=[[0, 0, 1, 1], [2, 0, 9, 9]])) == [[W, B, W]]
    with pytest.raises(InvalidImage, match=r"box \[3, 0, 4, 1\] lies outside the picture of 3×1 px"):
        do("mask_from_boxes", ref(ROW), boxes=[[3, 0, 4, 1]])


def test_a_mask_comes_from_a_colour() -> None:
    picture = ref(colours([(250, 5, 0), (245, 0, 0), (255, 0, 11), BLUE]))
    assert rows_of(do("mask_from_color", picture, color="red", tolerance=10)) == [[W, W, B, B]]
    assert rows_of(do("mask_from_color", picture, color="#f50000")) == [[B, W, B, B]]
    clear = ref(colours([(255, 0, 0, 0), (255, 0, 0, 255)]))
    assert rows_of(do("mask_from_color", clear, color="red")) == [[B, W]]


def test_masks_are_put_together() -> None:
    given = [ref(grey([W, B, B])), ref(grey([B, 200, B])), ref(grey([B, 100, B]))]
    assert rows_of(do("mask_union", given)) == [[W, W, B]]
    with pytest.raises(InvalidRequest, match=r"mask_union\.masks: 1 given: it takes 2 pictures or more"):
        do("mask_union", given[:1])
    with pytest.raises(InvalidImage, match="masks of 3×1 px and 1×1 px have no union: resize one first"):
        do("mask_union", [given[0], ref(grey([W]))])


def test_a_mask_grows_shrinks_and_is_inverted() -> None:
    assert rows_of(do("mask_dilate", ref(grey([B, B, W, B, B])), pixels=1)) == [[B, W, W, W, B]]
    assert rows_of(do("mask_dilate", ref(grey([B, W, W, W, B])), pixels=-1)) == [[B, B, W, B, B]]
    assert rows_of(do("mask_invert", ref(grey([B, 130, 90])))) == [[W, B, W]]


# -- bytes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("auto_orient", {}),
        ("resize", {"max_side": 64}),
        ("resize", {"width": 100, "height": 100}),
        ("crop", {"box": [0, 0, 64, 48]}),
        ("crop", {"aspect_ratio": "4:3"}),
        ("pad", {"left": 0}),
        ("pad", {"width": 64, "height": 48}),
        ("flatten", {}),
        ("convert", {"mode": "RGB"}),
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_bytes_stay_untouched_where_nothing_changes(name: str, parameters: dict[str, Any], kind: str) -> None:
    picture = ref(noise(), kind)
    result = do(name, picture, **parameters)
    assert result.read() == picture.read()
    assert (result.digest, result.name) == (picture.digest, "apple")


def test_a_file_of_the_type_that_is_asked_for_stays_untouched_save_for_its_quality() -> None:
    picture = ref(noise(), "JPEG", quality=80)
    assert do("convert", picture, format="jpeg") == picture
    assert do("convert", picture, format="jpeg", mode="RGB") == picture
    assert do("convert", picture, format="jpeg", quality=80) != picture
    deep = ref(Image.frombytes("I;16", (2, 1), b"\x00\x10\xff\xff"))
    assert do("convert", deep, format="png") == deep
    assert do("resize", deep, max_side=9) == deep


def test_a_mask_that_stays_as_it_is_keeps_its_bytes_only_if_it_is_black_and_white() -> None:
    clean, dirty = ref(grey([W, B])), ref(grey([200, B]))
    assert do("mask_dilate", clean, pixels=0) == clean
    assert do("resize", clean, on="mask", max_side=2) == clean
    assert rows_of(do("mask_dilate", dirty, pixels=0)) == [[W, B]]
    assert rows_of(do("resize", dirty, on="mask", max_side=2)) == [[W, B]]


def test_a_paid_picture_that_stays_as_it_is_is_not_paid_for_twice() -> None:
    from dataclasses import replace

    paid = replace(ref(noise()), engine="bfl", cost=4.0, job_id="j-1")
    result = do("auto_orient", paid)
    assert (result.engine, result.cost, result.job_id) == ("bfl", None, "")


def test_the_same_pictures_give_the_same_bytes_every_time() -> None:
    photo = noise((90, 70))
    for name, parameters in (("resize", {"width": 33}), ("convert", {"format": "webp"}), ("pad", {"left": 3})):
        assert do(name, ref(photo), **parameters).read() == do(name, ref(photo), **parameters).read()


def test_the_mark_of_a_local_preview_stays_on_whatever_is_made_of_it() -> None:
    photo, opaque = noise((20, 10), "RGBA"), noise((20, 10))
    preview = ref(photo, **mark_preview(photo, "local:classical@1"))
    assert preview.is_preview
    mask = masks.binarise(opaque)
    previewed_mask = ref(masks.invert(mask), **mark_preview(mask, "local:classical@1"))
    made = [
        do("resize", preview, width=5),
        do("convert", preview, format="jpeg"),
        do("convert", preview, format="webp"),
        do("mask_from_alpha", preview),
        do("composite", preview, over=ref(opaque)),
        do("composite", ref(photo), over=preview),
        do("mask_union", [ref(mask), previewed_mask]),
        do("auto_orient", preview),
    ]
    assert {result.engine for result in made} == {"local:classical@1"}
    assert {ImageRef.of(result.read()).engine for result in made} == {"local:classical@1"}
    assert do("resize", ref(photo), width=5).engine == ""


def test_a_colour_profile_is_kept_where_it_fits() -> None:
    photo = ref(noise(), icc_profile=SRGB)

    def profile_of(result: ImageRef) -> bytes | None:
        return Image.open(io.BytesIO(result.read())).info.get("icc_profile")

    for kind in ("png", "jpeg", "webp"):
        assert profile_of(do("convert", ref(noise(), "TIFF", icc_profile=SRGB), format=kind)) == SRGB
    assert profile_of(do("resize", photo, width=9)) == SRGB
    assert profile_of(do("convert", photo, mode="L")) is None
    assert profile_of(do("mask_from_color", photo, color="red")) is None
    plain, mask = ref(noise(seed=3)), ref(Image.new("L", (64, 48), 255))
    assert profile_of(do("composite", plain, over=photo, mask=mask)) == SRGB
    assert profile_of(do("composite", photo, over=plain, mask=mask)) is None


def test_nothing_else_of_the_metadata_is_carried_along() -> None:
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    result = do("resize", ref(noise(), "JPEG", exif=exif, comment=b"by me"), width=9)
    assert b"home" not in result.read()
    assert b"by me" not in do("convert", ref(noise(), "JPEG", comment=b"by me"), format="jpeg", quality=50).read()


# -- modes ------------------------------------------------------------------------------------------------------------


def test_deep_greys_keep_their_tones() -> None:
    deep = Image.new("I;16", (4, 1))
    for x, value in enumerate([0, 25_700, 51_400, 65_535]):
        deep.putpixel((x, 0), value)
    assert rows_of(do("crop", ref(deep), box=[1, 0, 4, 1])) == [[100, 200, 255]]
    assert rows_of(do("crop", ref(deep.convert("I"), "TIFF"), box=[1, 0, 4, 1])) == [[100, 200, 255]]
    shares = Image.new("F", (3, 1))
    for x, value in enumerate([0.0, 0.4, 1.0]):
        shares.putpixel((x, 0), value)
    assert rows_of(do("crop", ref(shares, "TIFF"), box=[0, 0, 2, 1])) == [[0, 102]]


def test_a_transparent_sixteen_bit_grey_stays_transparent() -> None:
    deep = Image.new("I;16", (2, 1))
    deep.putpixel((1, 0), 51_400)
    assert rows_of(do("pad", ref(deep, transparency=51_400), bottom=1)) == [[(0, 255), (200, 0)], [(255, 255)] * 2]


def test_a_palette_with_transparency_keeps_it() -> None:
    picture = colours([RED, GREEN, BLUE]).convert("P", palette=Image.Palette.ADAPTIVE)
    alphas = bytes(0 if picture.getpalette()[3 * i : 3 * i + 3] == [0, 255, 0] else 255 for i in range(3))
    assert [pixel[3] for pixel in rows_of(do("pad", ref(picture, transparency=alphas), top=1, color="#fff0"))[1]] == [
        255,
        0,
        255,
    ]


def test_a_cmyk_picture_keeps_its_colours() -> None:
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red = rows_of(do("crop", ref(ink, "TIFF"), width=1, height=1))[0][0]
    assert red == RED
    assert do("convert", ref(ink, "JPEG"), mode="RGB").open().mode == "RGB"


_PNG = ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]
_TIFF = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16"]


@st.composite
def photos(draw: st.DrawFn, size: tuple[int, int] | None = None) -> ImageRef:
    size = size or (draw(st.integers(1, 40)), draw(st.integers(1, 40)))
    kind = draw(st.sampled_from(["PNG", "TIFF", "JPEG", "WEBP", "GIF"]))
    mode = draw(st.sampled_from(_PNG if kind == "PNG" else _TIFF if kind == "TIFF" else ["L", "RGB"]))
    source = noise(size, "L", seed=draw(st.integers(0, 3)))
    if mode in ("PA", "LAB"):
        image = Image.new(mode, size)
    elif mode == "I;16":
        image = Image.frombytes(mode, size, bytes(v for value in source.tobytes() for v in (value, value)))
    else:
        image = source.convert(mode) if mode in ("I", "F", "1", "P") else noise(size, mode)
    options: dict[str, Any] = {}
    if kind in ("PNG", "JPEG", "WEBP"):
        exif = Image.Exif()
        exif[0x0112] = draw(st.integers(1, 8))
        options["exif"] = exif
    if kind == "PNG" and mode in ("L", "P", "RGB", "I;16") and draw(st.booleans()):
        options["transparency"] = (1, 2, 3) if mode == "RGB" else 200
    if kind == "JPEG" and mode == "RGB" and draw(st.booleans()):
        image = image.convert("CMYK")
    return ref(image, kind, **options)


sides = st.one_of(st.none(), st.integers(1, 60))
words = st.sampled_from(["white", "#0f08", "transparent", "navy"])
anchors = st.sampled_from(sorted(ANCHORS))
boxes = st.lists(st.integers(-3, 45), min_size=4, max_size=4)
PARAMETERS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "auto_orient": st.just({}),
    "resize": st.fixed_dictionaries(
        {},
        optional={
            "width": sides,
            "height": sides,
            "max_side": sides,
            "megapixels": st.floats(1e-6, 0.002),
            "fit": st.sampled_from(["contain", "cover", "stretch"]),
            "anchor": anchors,
            "upscale": st.booleans(),
            "filter": st.sampled_from(["lanczos", "bicubic", "nearest", "box", "hamming", "bilinear"]),
        },
    ),
    "crop": st.fixed_dictionaries(
        {},
        optional={"box": boxes, "width": sides, "height": sides, "aspect_ratio": st.just("3:2"), "anchor": anchors},
    ),
    "pad": st.fixed_dictionaries(
        {},
        optional={"left": st.integers(0, 9), "bottom": st.integers(0, 9), "width": sides, "anchor": anchors}
        | {"aspect_ratio": st.sampled_from(["3:2", "1:30"]), "color": words},
    ),
    "rotate": st.fixed_dictionaries(
        {"degrees": st.sampled_from([0, 90, 180, -90]) | st.floats(-360, 360)},
        optional={"expand": st.booleans(), "color": words, "filter": st.sampled_from(["bicubic", "nearest"])},
    ),
    "flip": st.fixed_dictionaries({"direction": st.sampled_from(["horizontal", "vertical"])}),
    "convert": st.fixed_dictionaries(
        {},
        optional={
            "format": st.sampled_from(["png", "jpeg", "webp"]),
            "quality": st.integers(1, 100),
            "mode": st.sampled_from(["RGB", "RGBA", "L"]),
        },
    ),
    "flatten": st.fixed_dictionaries({}, optional={"color": st.sampled_from(["white", "#123456"])}),
    "composite": st.fixed_dictionaries({}, optional={"feather": st.floats(0, 30)}),
    "cutout": st.fixed_dictionaries({}, optional={"feather": st.floats(0, 30)}),
    "load_image": st.just({}),
    "load_mask": st.just({}),
    "mask_from_alpha": st.just({}),
    "mask_from_boxes": st.fixed_dictionaries({"boxes": st.lists(boxes, min_size=1, max_size=3)}),
    "mask_from_color": st.fixed_dictionaries({"color": st.just("white"), "tolerance": st.integers(0, 255)}),
    "mask_union": st.just({}),
    "mask_dilate": st.fixed_dictionaries({"pixels": st.integers(-500, 500)}),
    "mask_invert": st.just({}),
}


@pytest.mark.parametrize("name", sorted(OPERATIONS))
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_picture_gives_a_result_of_the_size_foretold_or_an_error_that_says_why(
    name: str, data: st.DataObject
) -> None:
    operation = OPERATIONS[name].for_role(data.draw(st.sampled_from(["image", "mask"])))
    parameters = data.draw(PARAMETERS[name])
    main = data.draw(photos())
    further = photos() if data.draw(st.integers(0, 4)) == 0 else photos(main.upright_size)
    pictures: dict[str, Any] = {
        slot: [main, data.draw(further)] if taken.many else main if slot == operation.primary else data.draw(further)
        for slot, taken in operation.inputs.items()
        if taken.required or data.draw(st.booleans())
    }
    foretold = operation.output_size(parameters, main.upright_size)
    try:
        result = operation.perform(parameters, pictures)
    except ItemError as error:
        assert str(error)
        return
    assert result.upright_size == foretold
    if operation.output_kind == "mask":
        assert set(result.open().convert("L").tobytes()) <= {W, B}
        assert result.open().mode in ("1", "L")
    assert operation.perform(parameters, pictures).digest == result.digest


# -- what is wrong with a recipe --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "where", "what"),
    [
        ("resize", {"widht": 3, "height": 2}, "resize.widht", "resize has no such parameter (did you mean 'width'?)"),
        ("mask_invert", {"x": 1}, "mask_invert.x", "mask_invert has no such parameter; it takes mask"),
        ("resize", {}, "resize", "changes nothing as it is: write width and height, or max_side, or megapixels"),
        (
            "resize",
            {"width": 3, "max_side": 4},
            "resize",
            "has 2 sizes: keep one of width and height, or max_side, or megapixels",
        ),
        (
            "resize",
            {"width": 3, "fit": "cover"},
            "resize.fit",
            "cover needs a width and a height: write both, or leave it out",
        ),
        ("resize", {"width": "800"}, "resize.width", "'800' is not a whole number: write one without quotes"),
        ("resize", {"width": 0}, "resize.width", "0 is below 1: write 1 or more"),
        ("resize", {"width": True}, "resize.width", "True is not a whole number: write one without quotes"),
        ("resize", {"megapixels": float("nan")}, "resize.megapixels", "nan is not a finite number"),
        (
            "resize",
            {"width": 3, "filter": "cubic"},
            "resize.filter",
            "'cubic' is not one of 'lanczos', 'bicubic', 'hamming', 'bilinear', 'box' or 'nearest'",
        ),
        ("crop", {"box": [1, 2, 3]}, "crop.box", "is not a box: write four whole numbers, [left, top, right, bottom]"),
        (
            "crop",
            {"box": [5, 0, 5, 9]},
            "crop.box",
            "[5, 0, 5, 9] is empty: write left, top, right, bottom; right and bottom are excluded",
        ),
        ("crop", {"box": [0, 0, 1, 1], "anchor": "left"}, "crop.anchor", "follows from the box: leave it out"),
        (
            "crop",
            {"aspect_ratio": 969},
            "crop.aspect_ratio",
            "969 is not text: write it in quotes (YAML takes 16:9 without quotes for a number)",
        ),
        ("pad", {"aspect_ratio": "wide"}, "pad.aspect_ratio", "'wide' is not a ratio: write it like '16:9'"),
        (
            "pad",
            {"left": 1, "color": "whit"},
            "pad.color",
            "'whit' is not a colour (did you mean 'white'?): write a name such as white, or '#rrggbb', '#rrggbbaa'",
        ),
        (
            "flatten",
            {"color": None},
            "flatten.color",
            "is empty: put #rrggbb in quotes, because # begins a comment in YAML",
        ),
        (
            "flatten",
            {"color": "#fff0"},
            "flatten.color",
            "'#fff0' is transparent: write an opaque colour, such as white or '#rrggbb'",
        ),
        ("convert", {}, "convert", "changes nothing as it is: write format or quality or mode"),
        (
            "convert",
            {"quality": 80},
            "convert.quality",
            "is for jpeg and webp: write format: jpeg or format: webp, too, or leave it out",
        ),
        (
            "convert",
            {"format": "jpeg", "mode": "RGBA"},
            "convert.mode",
            "jpeg cannot hold RGBA: write format: png, or another mode",
        ),
        ("mask_dilate", {}, "mask_dilate.pixels", "is required: write a value for it"),
        ("mask_dilate", {"pixels": 501}, "mask_dilate.pixels", "501 is above 500: write 500 or less"),
        (
            "mask_from_boxes",
            {"boxes": [[0, 0, 2, 2], [1, 2, "x", 4]]},
            "mask_from_boxes.boxes.1",
            "is not a box: write four whole numbers, [left, top, right, bottom]",
        ),
        (
            "composite",
            {"over": "x.png"},
            "composite.over",
            "is a picture: give it a step or a file, no plain value",
        ),
    ],
)
def test_what_is_wrong_is_said_with_the_place_and_the_remedy(
    name: str, parameters: dict[str, Any], where: str, what: str
) -> None:
    assert problems(name, **parameters)[f"steps.2.{where}"] == what


def test_all_problems_are_told_at_once_and_before_any_picture_is_opened() -> None:
    with pytest.raises(InvalidRequest) as caught:
        OPERATIONS["composite"].perform({"fether": 3, "feather": -1}, {"image": None, "ovr": ref(ROW)})
    assert [problem.where for problem in caught.value.problems] == [
        "composite.fether",
        "composite.feather",
        "composite.ovr",
        "composite.image",
        "composite.over",
    ]


def test_a_partial_check_asks_for_nothing() -> None:
    assert all(not operation.check({}, partial=True) for operation in OPERATIONS.values())
    assert problems("mask_from_boxes", partial=True, boxes=[[1, 2]])


def test_a_number_of_thousands_of_digits_is_refused_like_any_other() -> None:
    assert problems("crop", width=10**5000) == {"steps.2.crop.width": "this int is above 65535: write 65535 or less"}
    assert list(problems("crop", box=[0, 0, 10**5000, 1])) == ["steps.2.crop.box"]
    assert OPERATIONS["crop"].output_size({"box": [0, 0, 10**5000, 1]}, (9, 9)) is None


def test_a_parameter_that_is_null_counts_as_not_given() -> None:
    assert do("resize", ref(ROW), width=1, height=None, max_side=None).width == 1


@settings(deadline=None, max_examples=300)
@given(
    name=st.sampled_from(sorted(OPERATIONS)),
    parameters=st.dictionaries(
        st.sampled_from(["width", "box", "boxes", "fit", "anchor", "color", "mode", "format", "quality", "pixels"])
        | st.text(max_size=3),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
            lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
            max_leaves=6,
        ),
        max_size=4,
    ),
)
def test_any_parameters_give_problems_or_none_and_never_an_exception(name: str, parameters: dict[str, Any]) -> None:
    operation = OPERATIONS[name]
    found = operation.check(parameters, where="steps.0")
    assert all(problem.where.startswith("steps.0") and problem.what for problem in found)
    try:
        assert operation.defaults(parameters) == operation.defaults(operation.defaults(parameters))
        assert not found
    except InvalidRequest:
        assert found


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_operation_describes_itself(name: str) -> None:
    operation = OPERATIONS[name]
    assert operation.name == name
    assert operation.summary.endswith(".")
    assert sum(slot.is_primary for slot in operation.inputs.values()) == (not name.startswith("load_"))
    for role in ("image", "mask"):
        schema = operation.for_role(role).parameters.model_json_schema()
        assert all(field.get("description") for field in schema.get("properties", {}).values()), name
        assert schema["additionalProperties"] is False
        assert operation.for_role(role).output_kind in ("image", "mask")


def test_an_operation_on_a_mask_has_a_key_of_its_own() -> None:
    resize = OPERATIONS["resize"]
    assert resize.for_role("mask") == resize.for_role("mask")
    assert resize.for_role("mask").identity != resize.for_role("image").identity == resize.identity
    assert resize.for_role("mask").inputs["image"].role == "mask"
    assert resize.defaults({"width": 3}) == resize.defaults({"width": 3, "upscale": False, "max_side": None})


def test_the_anchors_are_those_of_an_outpaint() -> None:
    assert set(get_args(Anchor)) == set(ANCHORS)


# -- what cannot be done ----------------------------------------------------------------------------------------------


def test_a_result_that_is_too_large_is_refused_before_it_is_made() -> None:
    huge = re.escape(f"{MAX_PIXELS // 1_000_000} MP are the most")
    with pytest.raises(InvalidImage, match=huge):
        do("pad", ref(ROW), right=60_000, bottom=60_000)
    with pytest.raises(InvalidImage, match=huge):
        do("resize", ref(ROW), width=60_000, upscale=True)


def test_a_side_that_the_file_type_cannot_hold_is_refused() -> None:
    with pytest.raises(InvalidImage, match="apple: 17000×1 px cannot be written as WEBP"):
        do("convert", ref(Image.new("RGB", (17_000, 1))), format="webp")


@pytest.mark.parametrize("name", ["flatten", "mask_from_color", "mask_invert", "convert"])
def test_a_damaged_picture_is_the_items_trouble(name: str) -> None:
    parameters = {"mask_from_color": {"color": "red"}, "convert": {"format": "webp"}}.get(name, {})
    with pytest.raises(InvalidImage, match=rf"{name}: broken: the picture is damaged"):
        do(name, ImageRef.of(png_header(9, 9), name="broken"), **parameters)


def test_a_picture_that_has_gone_is_the_items_trouble(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(seed=91))
    described = ImageRef.of(tmp_path / "a.png").to_dict() | {"digest": "0" * 64}
    (tmp_path / "a.png").unlink()
    with pytest.raises(InvalidImage, match=r"a\.png"):
        do("flatten", ImageRef.from_dict(described))


def test_something_else_than_a_reference_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"flatten\.image: is no ImageRef"):
        do("flatten", "apple.png")
    with pytest.raises(InvalidRequest, match=r"flatten\.image: 2 pictures given: it takes one"):
        do("flatten", [ref(ROW), ref(ROW)])
    assert registry.__all__ == ["OPERATIONS", "Operation"]
