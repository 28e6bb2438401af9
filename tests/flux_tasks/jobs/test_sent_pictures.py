"""What a call sends of a picture: within the limits of the service, and as people see it."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from typing import Any

import pytest
from pictures import P3, SRGB, encoded, noise
from PIL import Image, ImageStat

from flux_tasks import ImageRef, InvalidRequest, catalog
from flux_tasks.images.encoding import decode
from flux_tasks.jobs import call as calls
from flux_tasks.jobs.call import Call, prepare
from flux_tasks.jobs.result import LOST_ALPHA, LOST_PROFILE, losses

BOXES = {"boxes": [[8, 8, 40, 40]]}


def turned(image: Image.Image, kind: str, orientation: int = 6, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, kind, exif=exif, **options)


def erase(image: Any, fit: Any = "error", **parameters: Any) -> Call:
    return prepare(catalog.tool("erase"), {"image": image, "mask": BOXES, **parameters}, fit=fit)


def edit(image: Any, fit: Any = "error") -> Call:
    return prepare(catalog.tool("edit", "flux-2-klein-4b"), {"image": image, "prompt": "x"}, fit=fit)


def sent(call: Call) -> bytes:
    return base64.b64decode(next(value for name, value in call.body().items() if name in ("image", "input_image")))


def opened(call: Call) -> Image.Image:
    image = Image.open(io.BytesIO(sent(call)))
    image.load()
    return image


# -- bytes ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> int:
    """A service that takes 100 KB and 0.25 MP at most, so that small pictures do."""
    monkeypatch.setattr(calls, "MAX_INPUT_BYTES", 100_000)
    monkeypatch.setattr(calls, "MAX_CANVAS", 100 * 100)
    return 100_000


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_photo_that_is_too_long_as_png_is_sent_as_jpeg(limit: int, orientation: int) -> None:
    photo = turned(noise((300, 200)).resize((400, 300)), "JPEG", orientation, quality=60)
    assert len(photo) < limit < len(encoded(decode(photo)))
    call = edit(photo)
    assert sent(call).startswith(b"\xff\xd8")
    assert len(sent(call)) <= limit
    shown = opened(call)
    assert (shown.size, shown.getexif().get(0x0112, 1)) == (decode(photo).size, 1)
    assert max(ImageStat.Stat(decode(photo)).mean) == pytest.approx(max(ImageStat.Stat(shown).mean), abs=3)


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "GIF"])
def test_a_file_of_another_type_that_is_too_long_as_png_is_sent_within_the_limit(limit: int, kind: str) -> None:
    data = encoded(noise((200, 150)).resize((220, 165)), kind)
    assert len(sent(edit(data, fit="downscale"))) <= limit


def test_a_png_that_is_too_long_is_sent_as_jpeg_with_a_word_and_whole(limit: int) -> None:
    large = ImageRef.of(encoded(noise((220, 200))), name="apple")  # as a free operation may give it
    call = edit(large)
    assert len(sent(call)) <= limit < large.size
    assert opened(call).size == (220, 200)
    assert any(f"apple: {large.size:,} bytes, more than 20 MB" in warning for warning in call.warnings)
    assert call.estimate() == edit(encoded(Image.new("RGB", (220, 200)))).estimate()


@pytest.mark.parametrize("source", [turned(noise((220, 200), "RGBA"), "PNG"), encoded(noise((220, 200), "RGBA"))])
def test_transparency_that_cannot_be_sent_in_time_is_refused_or_the_picture_scaled(limit: int, source: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"bytes as PNG, more than the 20 MB the service takes: .*fit: downscale"):
        edit(source)
    call = edit(source, fit="downscale")
    assert len(sent(call)) <= limit
    assert opened(call).mode == "RGBA"
    assert opened(call).size == call.inputs["input_image"].size


def test_a_mask_has_the_size_of_the_picture_that_was_scaled_to_fit(limit: int) -> None:
    call = erase(turned(noise((220, 200), "RGBA"), "PNG"), fit="downscale", mask={"boxes": [[0, 0, 99, 99]]})
    mask = call.mask
    assert mask is not None
    assert len(sent(call)) <= limit
    assert (mask.picture.width, mask.picture.height) == opened(call).size


def test_what_is_no_problem_is_not_decoded_before_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [turned(noise(mode=mode, size=(96, 80)), "PNG") for mode in ("RGB", "RGBA", "L")]
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("a picture was decoded"))
    for picture in pictures:
        edit(picture).key("bfl")


# -- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["P", "1", "L", "RGB"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF"])
def test_fine_patterns_are_averaged_when_scaled_in_every_mode(mode: str, kind: str) -> None:
    tool = catalog.tool("deblur")
    tool = replace(tool, sizes=replace(tool.sizes, max_area=400 * 400, sure_area=390 * 390))  # a picture is soon large
    fine = Image.frombytes("L", (600, 400), (b"\0\xff" * 300 + b"\xff\0" * 300) * 200)
    given = fine.convert("RGB").quantize(4) if mode == "P" else fine.convert(mode)
    call = prepare(tool, {"image": encoded(given, kind)}, fit="downscale")
    shown = opened(call).convert("L")
    assert shown.width < 600
    assert ImageStat.Stat(shown).stddev[0] < 12


@pytest.mark.parametrize("mode", ["F", "I", "I;16"])
def test_a_grey_of_more_than_8_bits_is_sent_with_its_levels(mode: str) -> None:
    white = {"F": 1.0, "I": 65535.0, "I;16": 65535.0}[mode]
    ramp = Image.linear_gradient("L").convert("F").point(lambda value: value * (white / 255))
    ramp = ramp.convert("I").convert("I;16") if mode == "I;16" else ramp.convert(mode)
    for call in (erase(encoded(ramp, "TIFF"), fit="downscale"), erase(ramp)):
        assert len(opened(call).getcolors(300)) > 200


def test_a_picture_of_32_bits_has_a_key_of_its_own_because_it_was_sent_wrongly_before() -> None:
    deep = encoded(Image.linear_gradient("L").convert("F"), "TIFF")
    assert erase(deep, fit="downscale").inputs["image"].identity.endswith(":png:256x256:range")
    plain = encoded(Image.linear_gradient("L"), "TIFF")
    assert erase(plain, fit="downscale").inputs["image"].identity.endswith(":png:256x256")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_sequence_is_sent_with_a_warning_that_only_its_first_picture_counts(kind: str) -> None:
    more = {} if kind == "JPEG" else {"save_all": True, "append_images": [noise(seed=1, size=(96, 80))]}
    data = encoded(noise((96, 80)), kind, **more)
    call = erase(data)
    assert sent(call) == data
    assert any("several frames or pages" in warning for warning in call.warnings) == bool(more)


# -- losses -----------------------------------------------------------------------------------------------------------


def result(**options: Any) -> ImageRef:
    return ImageRef.of(encoded(noise((96, 80), options.pop("mode", "RGB")), **options))


def clear(alpha: int) -> Image.Image:
    image = noise((96, 80), "RGBA")
    image.putalpha(alpha)
    return image


def test_lost_transparency_is_said_if_any_could_be_seen() -> None:
    assert losses(erase(clear(128)), result()) == [LOST_ALPHA]
    assert losses(erase(clear(255)), result()) == []
    assert losses(erase(clear(128)), result(mode="RGBA")) == []
    assert losses(erase(clear(128)), None) == [LOST_ALPHA]


def test_transparency_that_marks_what_to_change_is_not_lost() -> None:
    image = clear(128)
    image.paste((0, 0, 0, 0), (0, 0, 40, 40))
    assert losses(erase(image, mask={"alpha": True}), result()) == []
    assert losses(prepare(catalog.tool("fill"), {"image": image}), result()) == []


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_lost_profile_is_said_where_colours_look_different_without_it(kind: str) -> None:
    def call(**options: Any) -> Call:
        return erase(encoded(noise((96, 80)), kind, **options))

    assert losses(call(icc_profile=P3), result()) == [LOST_PROFILE]
    assert losses(call(icc_profile=P3), result(icc_profile=P3)) == []
    assert losses(call(icc_profile=SRGB), result()) == []
    assert losses(call(), result()) == []
