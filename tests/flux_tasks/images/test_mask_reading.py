"""What mask files mean: taken for what they are, or refused; the same mask in whatever way it comes in."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cases import Cases
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, noise
from PIL import Image, ImageDraw, ImageFilter

from flux_tasks.catalog import tool
from flux_tasks.errors import InvalidImage, ItemError
from flux_tasks.images import masks
from flux_tasks.images.mask_reading import interpret, mask_reference, read_mask
from flux_tasks.images.masks import Mask
from flux_tasks.images.reference import ImageRef
from flux_tasks.jobs.call import prepare

SIZE = (96, 80)
BOX = (10, 10, 40, 30)
SHARE = 30 * 20 / (96 * 80)


def painted(mode: str, value: Any, background: Any = 0, *, box: tuple[int, int, int, int] = BOX) -> Image.Image:
    image = Image.new(mode, SIZE, background)
    image.paste(value, box)
    return image


def wide(mode: str, *values: float) -> Image.Image:
    """A picture of 16 or 32 bits with a stripe of each value, and 0 around."""
    image = Image.new("I" if mode.startswith("I") else "F", SIZE)
    for number, value in enumerate(values):
        for x in range(10 + 30 * number, 40 + 30 * number):
            for y in range(10, 30):
                image.putpixel((x, y), value)
    if mode == "I;16":
        packed = b"".join(int(v).to_bytes(2, "little") for v in memoryview(image.tobytes()).cast("i"))
        image = Image.frombytes("I;16", SIZE, packed)
    return image


def palette(*colours: tuple[int, int, int], value: int = 1) -> Image.Image:
    image = Image.frombytes("P", SIZE, painted("L", value).tobytes())
    image.putpalette([part for colour in colours for part in colour])
    return image


def ids(*values: int) -> Image.Image:
    image = Image.new("L", SIZE)
    for number, value in enumerate(values):
        image.paste(value, (20 * number + 2, 10, 20 * number + 16, 60))
    return image


def soft(radius: float = 0) -> Image.Image:
    large = Image.new("L", (4 * SIZE[0], 4 * SIZE[1]))
    ImageDraw.Draw(large).ellipse((60, 60, 260, 240), fill=255)
    return large.resize(SIZE, Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(radius))


def photo(mode: str = "RGB") -> Image.Image:
    return noise(SIZE, mode)


def with_hole(mode: str) -> Image.Image:
    image = photo(mode)
    image.putalpha(painted("L", 0, 255))
    return image


TAKEN: dict[str, Callable[[], Image.Image]] = {
    "0 and 1": lambda: painted("L", 1),
    "0 and 24": lambda: painted("L", 24),
    "0 and 100": lambda: painted("L", 100),
    "0 and 127": lambda: painted("L", 127),
    "0 and 255": lambda: painted("L", 255),
    "1 and 255": lambda: painted("L", 255, 1),
    "16 and 235": lambda: painted("L", 235, 16),
    "50 and 200": lambda: painted("L", 200, 50),
    "RGB grey": lambda: painted("RGB", (1, 1, 1), (0, 0, 0)),
    "RGB white on blue": lambda: painted("RGB", "white", "blue"),
    "CMYK": lambda: painted("L", 255).convert("RGB").convert("CMYK"),
    "LAB": lambda: painted("L", 255).convert("RGB").convert("LAB"),
    "LA": lambda: painted("LA", (1, 255), (0, 255)),
    "1 bit": lambda: painted("L", 255).convert("1"),
    "16 bits, 1": lambda: wide("I;16", 1),
    "16 bits, 255": lambda: wide("I;16", 255),
    "16 bits, 30000": lambda: wide("I;16", 30_000),
    "16 bits, 65535": lambda: wide("I;16", 65_535),
    "32 bits, 1": lambda: wide("I", 1),
    "32 bits, -1": lambda: wide("I", -1),
    "32 bits, 70000": lambda: wide("I", 70_000),
    "floats, 0.001": lambda: wide("F", 0.001),
    "floats, 1": lambda: wide("F", 1.0),
    "floats, 255": lambda: wide("F", 255.0),
    "palette of greys": lambda: palette((0, 0, 0), (1, 1, 1)),
    "palette of classes": lambda: palette((0, 0, 0), (128, 0, 0)),
    "palette, black last": lambda: palette((128, 0, 0), (0, 0, 0)).point([1, 0] + [0] * 254),
    "palette without colours": lambda: palette((0, 0, 0), (0, 0, 0)),
    "palette of black and white": lambda: palette((0, 0, 0), (255, 255, 255)),
    "white on clear": lambda: painted("RGBA", (255, 255, 255, 255), (0, 0, 0, 0)),
    "white on clear white": lambda: painted("LA", (255, 255), (255, 0)),
}
"""Masks that mark ``BOX``."""

REFUSED: dict[str, tuple[Callable[[], Image.Image], str]] = {
    "class ids": (lambda: ids(1, 2, 15), r"has the values 0, 1, 2, 15 and no white.*mask_from_color.*'#010101'"),
    "class ids and void": (lambda: ids(1, 2, 255), r"the values 0, 1, 2, 255 in whole areas.*mask_from_color"),
    "one class and void": (lambda: ids(1, 255), "the values 0, 1, 255 in whole areas"),
    "trimap": (lambda: ids(128, 255), "the values 0, 128, 255 in whole areas"),
    "class ids of 16 bits": (lambda: wide("I;16", 1, 2), "has the values 0, 1, 2 and no white"),
    "instances of 16 bits": (lambda: wide("I;16", 26_000, 26_001), "has the values 0, 26000, 26001 and no white"),
    "bright instances of 16 bits": (lambda: wide("I;16", 60_000, 60_001), "the values 0, 60000, 60001 in whole areas"),
    "below zero": (lambda: wide("F", -1.0, -2.0), "has the values -2, -1, 0 and no white"),
    "no number": (lambda: wide("F", math.nan), "pixels that are no numbers"),
    "infinite": (lambda: wide("F", math.inf, 1.0), "pixels that are no numbers"),
    "faint floats": (lambda: wide("F", 0.0001, 0.0002), "has the values 0, 0.0001, 0.0002 and no white"),
    "class ids of 32 bits": (lambda: wide("I", 1, 2), "has the values 0, 1, 2 and no white"),
    "class ids as floats": (lambda: wide("F", 1, 2), "has the values 0, 1, 2 and no white"),
    "class ids, coloured": (
        lambda: ids(1, 2).convert("L").point([0, 1, 2] + [0] * 253).convert("P"),
        "and no white|in whole areas",
    ),
    "two classes, no background": (lambda: painted("L", 2, 1), "has the values 1, 2 and no white"),
    "nothing but 1": (lambda: Image.new("L", SIZE, 1), "has the value 1 and no white"),
    "two bright greys": (lambda: painted("L", 255, 200), "has the values 200, 255, all of them bright"),
    "red paint": (lambda: painted("RGB", "red", "black"), "the colours #000000, #ff0000 and no white: paint what may"),
    "red on clear": (lambda: painted("RGBA", (255, 0, 0, 255), (0, 0, 0, 0)), "and no white: paint what may change"),
    "black on clear": (lambda: painted("RGBA", (0, 0, 0, 255), (0, 0, 0, 0)), "black paint on transparency: paint"),
    "a hole in black": (lambda: painted("LA", (0, 0), (0, 255)), "black paint on transparency: paint what may change"),
    "all clear": (lambda: Image.new("RGBA", SIZE), "transparent all over"),
    "clear over a mask": (lambda: painted("LA", (255, 0), (0, 0)), "transparent all over"),
    "photo": (photo, "looks like a photo: .* neither black nor white"),
    "grey photo": (lambda: photo("L"), "looks like a photo"),
    "photo with a hole": (lambda: with_hole("RGB"), r"looks like a photo.*\{alpha: true\}"),
    "drawing with a hole": (
        lambda: Image.merge("RGBA", (*photo().quantize(12).convert("RGB").split(), painted("L", 0, 255))),
        r"\{alpha: true\}",
    ),
    "grey photo with a hole": (lambda: with_hole("L"), r"looks like a photo.*\{alpha: true\}"),
}

WAYS: dict[str, Callable[[Image.Image, Path], Any]] = {
    "Pillow image": lambda image, _: image,
    "Pillow image in a mapping": lambda image, _: {"file": image},
    "PNG": lambda image, place: _saved(image, place / "mask.png"),
    "TIFF": lambda image, place: _saved(image, place / "mask.tif"),
    "bytes": lambda image, _: encoded(_for_file(image, "PNG")),
    "reference": lambda image, place: ImageRef.of(_saved(image, place / "mask.png")),
    "Mask": lambda image, place: Mask(_saved(image, place / "mask.png")),
}

HOLDS_ALL = ("Pillow image", "Pillow image in a mapping", "TIFF")
DEEP = ("below zero", "no number", "infinite", "faint floats", "class ids of 32 bits", "class ids as floats")
"""Ways that hold pixels of 32 bits, and kinds that have such: the other ways are PNG files."""


def _for_file(image: Image.Image, kind: str) -> Image.Image:
    """The picture in the nearest mode that a file of this kind has: a PNG has no floats, no CMYK, no 32 bits."""
    if kind == "PNG" and image.mode in ("F", "I", "CMYK", "LAB"):
        return interpret(image) if image.mode in "FI" else image.convert("RGB")
    return image


def _saved(image: Image.Image, place: Path) -> Path:
    _for_file(image, "PNG" if place.suffix == ".png" else "TIFF").save(place)
    return place


def sent(mask: Any) -> Image.Image:
    """The mask that a call sends."""
    call = prepare(tool("erase"), {"image": noise(SIZE), "mask": mask})
    assert call.mask is not None
    return call.mask.picture.open()


def marked() -> bytes:
    return masks.from_boxes(SIZE, [BOX]).tobytes()


def new_folder(within: Path, name: str) -> Path:
    folder = within / name.replace("/", "-")
    folder.mkdir()
    return folder


@pytest.mark.parametrize("kind", TAKEN)
def test_a_mask_of_two_values_is_taken_for_what_it_is_in_every_way(kind: str, tmp_path: Path, cases: Cases) -> None:
    for way in WAYS:
        with cases.case(way):
            found = sent(WAYS[way](TAKEN[kind](), new_folder(tmp_path, way)))
            assert found.mode == "L"
            assert found.tobytes() == marked()


@pytest.mark.parametrize("kind", REFUSED)
def test_a_mask_whose_meaning_is_not_certain_is_refused_in_every_way(kind: str, tmp_path: Path, cases: Cases) -> None:
    make, message = REFUSED[kind]
    for way in WAYS if kind not in DEEP else HOLDS_ALL:
        with cases.case(way), pytest.raises(ItemError, match=message):
            sent(WAYS[way](make(), new_folder(tmp_path, way)))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I", "F", "I;16"])
def test_a_mask_that_is_black_is_read_as_black(mode: str) -> None:
    black = Image.new(mode, SIZE)
    assert masks.is_empty(read_mask(mask_reference(black)))
    assert prepare(tool("erase"), {"image": noise(SIZE), "mask": black}).is_noop()


@pytest.mark.parametrize("radius", [0, 1, 4, 12])
@pytest.mark.parametrize("colours", [("black", "white"), ("blue", "white"), ((60, 60, 60), "white")])
def test_a_soft_edge_is_cut_in_the_middle(radius: float, colours: tuple[Any, Any]) -> None:
    mask = soft(radius)
    image = Image.composite(Image.new("RGB", SIZE, colours[1]), Image.new("RGB", SIZE, colours[0]), mask)
    found = read_mask(ImageRef.of(image))
    assert masks.coverage(found) == pytest.approx(masks.coverage(masks.binarise(mask)), abs=0.12)


def test_a_gradient_is_cut_in_the_middle() -> None:
    found = read_mask(ImageRef.of(Image.linear_gradient("L").resize(SIZE)))
    assert masks.coverage(found) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    "options", [{"kind": "JPEG"}, {"kind": "JPEG", "quality": 20}, {"kind": "WEBP", "quality": 40}]
)
@pytest.mark.parametrize("make", [soft, lambda: painted("L", 255)])
def test_the_noise_of_a_lossy_file_is_neither_paint_nor_a_class(
    make: Callable[[], Image.Image], options: dict[str, Any]
) -> None:
    mask = make()
    found = read_mask(ImageRef.of(encoded(mask.convert("RGB"), **options)))
    assert masks.drift(masks.binarise(mask), found, Image.new("L", SIZE)).changed < 0.03
    dark = noise(SIZE, "L").point([value // 32 for value in range(256)])
    assert masks.is_empty(read_mask(ImageRef.of(encoded(dark.convert("RGB"), **options))))
    with pytest.raises(InvalidImage, match="and no white: paint"):
        read_mask(ImageRef.of(encoded(painted("L", 100), **options)))


LOSSY = [{"kind": "JPEG"}, {"kind": "WEBP"}, {"kind": "AVIF"}, {"kind": "TIFF", "compression": "jpeg"}]


def large(*values: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    image = Image.new("L", size)
    for number, value in enumerate(values):
        image.paste(value, (10 + 60 * number, 10, 60 + 60 * number, 200))
    return image


@pytest.mark.parametrize("options", LOSSY)
@pytest.mark.parametrize("values", [(1,), (5,), (1, 2, 3, 15), (128, 255), (200, 255), (40, 80, 255), (2, 15, 255)])
def test_class_ids_in_a_lossy_file_are_neither_black_nor_guessed(
    values: tuple[int, ...], options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidImage, match=r"and no white: paint|in whole areas"):
        read_mask(ImageRef.of(encoded(large(*values), **options)))


@pytest.mark.parametrize("options", LOSSY)
@pytest.mark.parametrize("quality", [30, 60, 75, 95])
def test_a_black_or_a_soft_mask_in_a_lossy_file_is_taken(quality: int, options: dict[str, Any]) -> None:
    hard = large(255, 255)
    for mask in (hard, *(hard.filter(ImageFilter.GaussianBlur(radius)) for radius in (1, 4, 10))):
        found = read_mask(ImageRef.of(encoded(mask, **options, quality=quality)))
        assert masks.coverage(found) == pytest.approx(masks.coverage(masks.binarise(mask)), abs=0.02)
    for size in ((96, 80), (319, 237)):
        assert masks.is_empty(read_mask(ImageRef.of(encoded(Image.new("L", size), **options, quality=quality))))


def test_a_lossless_webp_is_exact() -> None:
    assert read_mask(ImageRef.of(encoded(painted("L", 1), "WEBP", lossless=True))).tobytes() == marked()
    profiled = encoded(painted("L", 1), "WEBP", lossless=True, icc_profile=b"x" * 301)
    assert read_mask(ImageRef.of(profiled)).tobytes() == marked()


@settings(max_examples=80, deadline=None)
@given(
    value=st.integers(1, 255),
    mode=st.sampled_from(["L", "RGB", "LA", "RGBA", "I", "I;16", "F", "P"]),
    kind=st.sampled_from(["PNG", "TIFF", "", "WEBP"]),
)
def test_black_and_any_other_grey_mark_the_same_in_every_mode_and_file(value: int, mode: str, kind: str) -> None:
    image = painted("L", value)
    image = wide("I;16", value) if mode == "I;16" else image.convert(mode)
    if kind == "WEBP":
        image = image.convert("RGB") if mode not in ("I", "I;16", "F") else painted("L", value)
    image = image if kind != "PNG" or mode not in ("F", "I") else painted("L", value)
    source = encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {})) if kind else image
    assert read_mask(mask_reference(source)).tobytes() == marked()


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.integers(1, 254), min_size=2, max_size=4, unique=True), has_void=st.booleans())
def test_three_values_or_more_in_whole_areas_are_never_guessed(values: list[int], has_void: bool) -> None:
    used = [0, *values, *([255] if has_void else [])]
    image = ids(*used[1:5])
    if sum(v < 128 for v in used[:5]) == 1 and min(values) >= 255 - 24:
        return  # black and several near-whites are a white with noise
    with pytest.raises(InvalidImage, match=r"the values|looks like a photo"):
        read_mask(ImageRef.of(image))


def test_a_pillow_mask_keeps_the_digest_that_its_jobs_were_paid_under() -> None:
    for image in (painted("L", 255), painted("RGB", "white", "black"), wide("I;16", 65_535), painted("L", 1)):
        assert mask_reference(image).digest == ImageRef.of(image).digest


# -- what is left, and whether it fits --------------------------------------------------------------------------------


def test_a_picture_that_is_nowhere_more_than_half_transparent_is_no_alpha_mask() -> None:
    faint, opaque = noise(SIZE, "RGBA"), noise(SIZE, "RGBA")
    faint.putalpha(painted("L", 160, 255))
    opaque.putalpha(255)
    with pytest.raises(InvalidImage, match="nowhere more than half transparent"):
        Mask(alpha=True).render(ImageRef.of(faint))
    assert masks.is_empty(Mask(alpha=True).render(ImageRef.of(opaque)))


def test_a_mask_of_which_nothing_is_left_is_refused() -> None:
    image, mask = ImageRef.of(noise(SIZE)), painted("L", 255, box=(10, 10, 14, 14))
    with pytest.raises(InvalidImage, match="no white is left of the mask once it is shrunk by 5 px"):
        Mask(mask, dilate=-5).render(image)
    dots = Image.new("L", (960, 800))
    dots.putpixel((3, 3), 255)
    with pytest.raises(InvalidImage, match="no white is left of the mask once it has 96×80 px"):
        Mask(dots, resize=True).render(image)
    assert masks.is_empty(Mask(Image.new("L", SIZE, 255), invert=True).render(image))


def turned(size: tuple[int, int], mode: str = "RGB", orientation: int = 6) -> ImageRef:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return ImageRef.of(encoded(noise(size, mode), "JPEG", exif=exif))


@pytest.mark.parametrize("resize", [False, True])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_of_a_photo_before_its_exif_turn_is_refused_however_it_is_given(resize: bool, orientation: int) -> None:
    with pytest.raises(
        InvalidImage, match="the mask is 80×96 px but the image is 96×80 px once it is turned"
    ) as raised:
        Mask(Image.new("L", (80, 96), 255), resize=resize).render(turned((80, 96), orientation=orientation))
    assert "resize" not in str(raised.value)


@pytest.mark.parametrize("size", [(80, 96), (40, 48), (160, 192)])
def test_a_mask_whose_sides_are_swapped_is_never_squeezed_to_the_picture(size: tuple[int, int]) -> None:
    for resize in (False, True):
        with pytest.raises(InvalidImage, match="as if one of them lay on its side: turn the mask"):
            Mask(Image.new("L", size, 255), resize=resize).render(ImageRef.of(noise((96, 80))))


def test_a_mask_with_exif_data_is_turned_as_a_picture_is() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.new("L", (80, 96))
    stored.paste(255, (0, 0, 80, 20))  # the top as stored, the right as people see it
    mask = encoded(stored, exif=exif)
    assert Mask(mask).render(ImageRef.of(noise((96, 80)))).getbbox() == (76, 0, 96, 80)
    with pytest.raises(InvalidImage, match="its own EXIF data turn it"):
        Mask(mask).render(ImageRef.of(noise((80, 96))))


@pytest.mark.parametrize(
    ("size", "is_offered"),
    [(size, True) for size in ((48, 40), (192, 160), (97, 81), (32, 27))]
    + [(size, False) for size in ((80, 96), (96, 60), (512, 512))],
)
def test_scaling_is_offered_only_to_a_mask_of_the_same_shape(size: tuple[int, int], is_offered: bool) -> None:
    with pytest.raises(InvalidImage, match=f"the mask is {size[0]}×{size[1]} px but the image is 96×80 px") as raised:
        Mask(Image.new("L", size, 255)).render(ImageRef.of(noise(SIZE)))
    assert ("resize: true" in str(raised.value)) == is_offered


def test_a_mask_that_is_stretched_to_another_shape_is_warned_about() -> None:
    def warnings(size: tuple[int, int]) -> tuple[str, ...]:
        mask = Mask(Image.new("L", size, 255), resize=True)
        return prepare(tool("erase"), {"image": noise(SIZE), "mask": mask}).warnings

    assert any("the mask is stretched from 512×512 px to 96×80 px" in warning for warning in warnings((512, 512)))
    assert not any("stretched" in warning for warning in warnings((48, 40)))


def test_a_damaged_mask_is_named() -> None:
    cut = encoded(noise(SIZE, "L"))[:-60]
    with pytest.raises(InvalidImage, match="damaged or cut short"):
        read_mask(ImageRef.of(io.BytesIO(cut).getvalue()))
