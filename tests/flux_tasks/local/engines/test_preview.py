"""The labelled preview: for whom it is mistaken, at which sizes it fits, and that it repeats itself."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat

from flux_tasks import catalog
from flux_tasks.local.engines.classical import preview, tools
from flux_tasks.local.engines.classical.preview import SIGNAL, compose, label


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and ImageChops.difference(one, other).getbbox() is None


def test_the_label_says_where_it_comes_from() -> None:
    assert label("flux-2-pro") == "LOCAL PREVIEW · flux-2-pro · not made by FLUX"


def test_the_same_request_looks_the_same_and_another_seed_prompt_or_tool_does_not(shared: Any) -> None:
    for pictures in ([], [shared.photo()]):
        first = compose((320, 200), pictures, tool="flux-2-pro", prompt="a lake", seed=1)
        assert same(first, compose((320, 200), pictures, tool="flux-2-pro", prompt="a lake", seed=1))
        assert not same(first, compose((320, 200), pictures, tool="flux-2-pro", prompt="a lake", seed=2))
        assert not same(first, compose((320, 200), pictures, tool="flux-2-pro", prompt="a sea", seed=1))
        assert not same(first, compose((320, 200), pictures, tool="flux-2-max", prompt="a lake", seed=1))


@pytest.mark.parametrize(
    "size",
    [(64, 64), (64, 512), (512, 64), (100, 100), (1024, 1024), (2048, 128), (128, 2048), (16, 400), (2720, 1536)],
)
def test_the_label_fits_whatever_the_size(size: tuple[int, int], shared: Any) -> None:
    for pictures, prompt in itertools.product(([], [shared.photo()] * 4), ("", "a lake and a long walk " * 40)):
        made = compose(size, pictures, tool="flux-pro-1.1-ultra-finetuned", prompt=prompt, seed=3)
        assert made.size == size
        assert made.mode == "RGB"
        assert made.getpixel((0, 0)) == made.getpixel((size[0] - 1, size[1] - 1)) == SIGNAL


def test_the_first_picture_fills_the_frame_and_the_others_hang_in_it() -> None:
    red, green, blue = (Image.new("RGB", (80, 80), colour) for colour in ("red", "lime", "blue"))
    made = compose((800, 600), [red, green, blue], tool="flux-2-pro", prompt="x")
    middle = made.getpixel((200, 250))
    assert isinstance(middle, tuple)
    assert middle[0] > 180
    where = {}
    for name, colour in (("green", (0, 255, 0)), ("blue", (0, 0, 255))):
        found = Image.new("L", made.size)
        found.putdata([255 if pixel == colour else 0 for pixel in made.get_flattened_data()])
        box = found.getbbox()
        assert box is not None
        where[name] = box
    assert where["green"][2] < where["blue"][0]


def test_words_the_font_cannot_draw_become_dots_and_a_prompt_of_any_kind_is_taken() -> None:
    assert preview._readable("a 日 b") == "a · b"
    for prompt in (
        "日本語のプロンプト",
        "\ud800",
        "\0\x1b[31m",
        "x" * 5000,
        "  \n\t ",
        "‮right to left",
        "👩‍👩‍👧 family",
    ):
        assert compose((256, 256), [], tool="flux-2-pro", prompt=prompt).size == (256, 256)


def test_a_transparent_picture_is_shown_on_white() -> None:
    clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    assert ImageStat.Stat(preview.flattened(clear)).mean == [255, 255, 255]
    assert preview.flattened(Image.new("P", (4, 4))).mode == "RGB"


def test_inputs_of_flux_2_are_scaled_into_4_mp_and_cut_to_multiples_of_16() -> None:
    rule = catalog.TOOLS["flux-2-pro"].sizes
    photo = Image.linear_gradient("L").resize((333, 100))
    assert same(tools.received(photo, rule), photo.crop((6, 2, 326, 98)))
    assert tools.received(Image.new("RGBA", (4000, 3000)), rule).size == (2352, 1760)
    assert tools.received(photo, catalog.TOOLS["flux-kontext-pro"].sizes) is photo


def test_a_preview_is_delivered_for_try_on_with_both_pictures(serving: Any) -> None:
    api = serving()
    body = {
        "prompt": "TRY-ON: image 1 wears image 2",
        "person": api.base64(Image.new("RGB", (300, 400), "white")),
        "garment": api.base64(Image.new("RGB", (80, 80), "navy")),
        "output_format": "png",
    }
    made = api.make("flux-tools/vto-v2", body)
    assert made.size == (300, 400)
    assert (0, 0, 128) in set(made.get_flattened_data())
