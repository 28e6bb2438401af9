"""What people see of a picture: every mode, file type and orientation, transparency and colour profiles."""

from __future__ import annotations

import io
import math
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import GREY_PROFILE, SRGB, encoded, noise
from PIL import Image, ImageCms, ImageOps, features
from PIL.PngImagePlugin import PngInfo

from flux_tasks.errors import InvalidImage
from flux_tasks.images.encoding import decode, encode, encode_within, inspect
from flux_tasks.images.reference import ImageRef

MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"]
CMYK = SRGB[:16] + b"CMYK" + SRGB[20:]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(header: tuple[int, int, int, int], pixels: bytes, *chunks: bytes) -> bytes:
    """A PNG of width, height, bits a sample and colour type; ``pixels`` have a zero before each row."""
    begin = chunk(b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0))
    end = chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + begin + b"".join(chunks) + end


def before_end(data: bytes, inserted: bytes) -> bytes:
    at = data.rindex(b"IEND") - 4
    return data[:at] + inserted + data[at:]


def info_of(data: bytes) -> dict[Any, Any]:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return dict(image.info)


# -- modes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_pillow_image_of_every_mode_is_sent_with_the_pixels_that_it_opens_with(mode: str) -> None:
    image = Image.new("LA" if mode == "La" else "RGBA" if mode == "RGBa" else mode, (5, 4))
    image = image.convert(mode) if image.mode != mode else image
    sent = ImageRef.of(image)
    assert sent.open().size == (5, 4)
    assert sent.open().mode in ("1", "L", "LA", "RGB", "RGBA")
    assert sent.has_alpha == image.has_transparency_data


@pytest.mark.parametrize(
    ("mode", "values", "greys"),
    [
        ("F", [0.0, 0.25, 1.0], [0, 64, 255]),
        ("F", [0.0, 127.5, 255.0], [0, 128, 255]),
        ("F", [0.0, 32767.5, 65535.0], [0, 128, 255]),
        ("F", [0.0, 0.5, 1.02], [0, 125, 255]),
        ("F", [0.0, 20.0, 80.0], [0, 64, 255]),
        ("F", [0.0, 500.0, 1000.0], [0, 128, 255]),
        ("F", [-1.0, 0.0, 1.0], [0, 128, 255]),
        ("F", [-2.0, -1.5, -1.0], [0, 128, 255]),
        ("F", [0.0, 0.0, 0.0], [0, 0, 0]),
        ("F", [-math.inf, 0.5, 1.0], [0, 128, 255]),
        ("I", [-32768, 0, 32767], [0, 128, 255]),
        ("I", [0, 500, 1000], [0, 128, 255]),
        ("F", [0.0, 0.5, math.inf], [0, 128, 255]),
        ("I", [0, 100, 255], [0, 100, 255]),
        ("I", [0, 257, 65535], [0, 1, 255]),
        ("I", [0, 500_000, 1_000_000], [0, 128, 255]),
        ("I;16", [0, 257, 65535], [0, 1, 255]),
    ],
)
def test_greys_of_16_and_32_bits_are_scaled_by_their_range(mode: str, values: list[float], greys: list[int]) -> None:
    image = Image.new(mode, (len(values), 1))
    for x, value in enumerate(values):
        image.putpixel((x, 0), value)
    assert list(ImageRef.of(image).open().tobytes()) == greys
    assert list(decode(encoded(image, "TIFF")).tobytes()) == greys


def test_a_depth_map_between_0_and_1_keeps_its_levels() -> None:
    ramp = Image.linear_gradient("L").convert("F").point(lambda value: value * (1 / 255))
    assert len(decode(encoded(ramp, "TIFF")).getcolors()) == 256


def test_the_depth_of_a_mask_is_kept_on_demand() -> None:
    deep = Image.new("I;16", (2, 1))
    deep.putpixel((1, 0), 1)
    assert [ImageRef.of(encoded(deep)).open(keep_depth=True).getpixel((x, 0)) for x in (0, 1)] == [0, 1]
    palette = Image.new("P", (2, 1))
    palette.putpixel((1, 0), 1)
    assert ImageRef.of(encoded(palette)).open(keep_depth=True).tobytes() == b"\0\1"


# -- transparency -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "pixels", "key"),
    [
        ((2, 1, 1, 0), b"\0\x40", b"\0\1"),
        ((2, 1, 2, 0), b"\0\x20", b"\0\2"),
        ((2, 1, 4, 0), b"\0\x0c", b"\0\x0c"),
        ((2, 1, 8, 0), b"\0\x00\xc8", b"\0\xc8"),
        ((2, 1, 16, 0), b"\0\x00\x00\xc8\xc8", b"\xc8\xc8"),
        ((2, 1, 8, 2), b"\0\0\0\0\x01\x02\x03", b"\0\1\0\2\0\3"),
        ((2, 1, 16, 2), b"\0" + bytes(6) + b"\x01\x01\x02\x02\x03\x03", b"\1\1\2\2\3\3"),
    ],
)
def test_a_colour_that_stands_for_transparency_becomes_alpha_at_every_depth(
    header: tuple[int, int, int, int], pixels: bytes, key: bytes
) -> None:
    opened = ImageRef.of(png_of(header, pixels, chunk(b"tRNS", key))).open()
    assert opened.mode in ("LA", "RGBA")
    assert list(opened.getchannel("A").tobytes()) == [255, 0]


def clear_ones() -> dict[str, Image.Image]:
    """Pictures whose left half is transparent, in each way that a picture may say so."""
    image = Image.new("RGBA", (32, 16), (0, 0, 0, 0))
    image.paste((200, 30, 30, 255), (16, 0, 32, 16))
    palette = image.convert("RGB").quantize(2)
    palette.info["transparency"] = palette.getpixel((0, 0))
    key = image.convert("RGB")
    key.info["transparency"] = (0, 0, 0)
    grey = image.convert("RGB").convert("L")
    grey.info["transparency"] = 0
    return {"RGBA": image, "LA": image.convert("LA"), "P": palette, "RGB": key, "L": grey}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP"])
def test_transparent_parts_lie_on_white_in_a_jpeg(mode: str, kind: str) -> None:
    source = clear_ones()[mode]
    if kind != "PNG":
        source = decode(encoded(source)).convert("RGBA")  # Pillow writes no other transparency into these types
    jpeg = encode(decode(encoded(source, kind)), "JPEG")
    with Image.open(io.BytesIO(jpeg)) as written:
        left, right = written.convert("RGB").getpixel((4, 8)), written.convert("RGB").getpixel((28, 8))
    assert min(left) > 245
    assert max(right) < 245


@given(st.integers(0, 255), st.tuples(*[st.integers(0, 255)] * 3))
@settings(max_examples=30)
def test_half_transparent_pixels_are_blended_with_white(alpha: int, colour: tuple[int, int, int]) -> None:
    jpeg = encode(Image.new("RGBA", (8, 8), (*colour, alpha)), "JPEG")
    with Image.open(io.BytesIO(jpeg)) as written:
        found = written.getpixel((4, 4))
    for value, shown in zip(colour, found, strict=True):
        assert abs(shown - (value * alpha + 255 * (255 - alpha)) / 255) < 6


# -- profiles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("source", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_profile_is_kept_where_the_pixels_are_written_anew(source: str, kind: str) -> None:
    picture = decode(encoded(noise(), source, icc_profile=SRGB))
    assert info_of(encode(picture, kind))["icc_profile"] == SRGB


@pytest.mark.parametrize("mode", ["L", "LA", "1", "I;16"])
def test_a_profile_for_greys_stays_with_greys(mode: str) -> None:
    picture = decode(encoded(Image.new(mode, (8, 8)), "TIFF" if mode == "I;16" else "PNG", icc_profile=GREY_PROFILE))
    assert info_of(encode(picture, "PNG"))["icc_profile"] == GREY_PROFILE
    assert info_of(encode(picture, "JPEG"))["icc_profile"] == GREY_PROFILE
    assert not info_of(encode(picture, "WEBP")).get("icc_profile"), "WebP has colours only"


@pytest.mark.parametrize(
    ("mode", "profile"), [("CMYK", CMYK), ("RGB", GREY_PROFILE), ("L", SRGB), ("RGB", CMYK), ("P", GREY_PROFILE)]
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_profile_for_other_pixels_is_not_written(mode: str, profile: bytes, kind: str) -> None:
    image = Image.new(mode, (16, 16))
    for picture in (decode(encoded(image, "TIFF", icc_profile=profile)), decode(ImageRef.of(image).read())):
        assert not info_of(encode(picture, kind)).get("icc_profile")


def test_a_pillow_image_with_a_profile_for_other_pixels_is_sent_without_it(tmp_path: Any) -> None:
    Image.new("CMYK", (16, 16)).save(tmp_path / "c.tif", icc_profile=CMYK)
    with Image.open(tmp_path / "c.tif") as opened:
        assert not ImageRef.of(opened).header.has_profile


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_lab_pixels_become_the_colours_that_they_stand_for(kind: str) -> None:
    lab = Image.merge("LAB", [Image.new("L", (8, 8), value) for value in (138, 208, 195)])  # about (255, 0, 0)
    for profile in (None, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()):
        shown = decode(encode(decode(encoded(lab, "TIFF", icc_profile=profile)), kind)).getpixel((4, 4))
        assert shown[0] > 235
        assert max(shown[1:]) < 40


# -- orientation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1"])
def test_exif_data_behind_the_pixels_turn_a_png(orientation: int, mode: str) -> None:
    image = noise((6, 4)).convert(mode) if mode != "RGBA" else noise((6, 4), "RGBA")
    exif = Image.Exif()
    exif[0x0112] = orientation
    late = before_end(encoded(image), chunk(b"eXIf", exif.tobytes()[6:]))
    early = encoded(image, exif=exif)
    found = ImageRef.of(late)
    assert found.orientation == orientation
    assert found.open().tobytes() == ImageRef.of(early).open().tobytes()
    assert found.upright_size == found.open().size


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_file_that_pillow_has_opened_is_sent_as_people_see_it(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(noise((6, 4)), kind, exif=exif)
    with Image.open(io.BytesIO(data)) as opened:
        assert ImageRef.of(opened).open().tobytes() == decode(data).tobytes()
    with Image.open(io.BytesIO(data)) as opened:
        turned = ImageOps.exif_transpose(opened)
    assert ImageRef.of(turned).open().tobytes() == decode(data).tobytes(), "it is not turned twice"
    assert ImageRef.of(turned.rotate(90, expand=True)).open().size == turned.size[::-1]


# -- what stands around the pixels of a PNG ---------------------------------------------------------------------------


def workflow() -> bytes:
    info = PngInfo()
    info.add_text("workflow", "x" * 2_000_000, zip=True)
    info.add_itxt("prompt", "y" * 2_000_000, zip=True)
    return encoded(noise(), pnginfo=info)


def broken_checksum(kind: bytes, **options: Any) -> bytes:
    data = encoded(noise(), **options)
    at = data.index(kind)
    end = at + 4 + int.from_bytes(data[at - 4 : at], "big")
    return data[:end] + bytes([data[end] ^ 1]) + data[end + 1 :]


def texts() -> PngInfo:
    info = PngInfo()
    info.add_text("Comment", "hello")
    return info


AROUND = {
    "long compressed texts": workflow,
    "a long text behind the pixels": lambda: before_end(
        encoded(noise()), chunk(b"zTXt", b"w\0\0" + zlib.compress(b"x" * 3_000_000))
    ),
    "many texts": lambda: before_end(encoded(noise()), chunk(b"tEXt", b"k\0" + b"v" * 60_000) * 100),
    "a text with a wrong checksum": lambda: broken_checksum(b"tEXt", pnginfo=texts()),
    "a profile with a wrong checksum": lambda: broken_checksum(b"iCCP", icc_profile=SRGB),
    "EXIF data with a wrong checksum": lambda: broken_checksum(b"eXIf", exif=b"Exif\0\0" + b"II*\0\x08" + bytes(9)),
    "a long profile": lambda: encoded(noise(), icc_profile=SRGB + bytes(1_500_000)),
    "a profile that cannot be unpacked": lambda: (
        encoded(noise()).replace(b"IDAT", b"IDAT")[:33] + chunk(b"iCCP", b"p\0\0garbage") + encoded(noise())[33:]
    ),
    "a profile of an unknown method": lambda: encoded(noise())[:33] + chunk(b"iCCP", b"p\0\7x") + encoded(noise())[33:],
    "a private chunk": lambda: encoded(noise())[:33] + chunk(b"prVt", bytes(2_000_000)) + encoded(noise())[33:],
}


@pytest.mark.parametrize("what", AROUND)
def test_a_png_is_read_whatever_stands_around_its_pixels_and_its_bytes_stay(what: str) -> None:
    data = AROUND[what]()
    found = ImageRef.of(data)
    assert found.read() == data
    assert found.open().tobytes() == noise().tobytes()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_profile_is_written_without_its_padding(kind: str) -> None:
    padded = ImageRef.of(encoded(noise(), icc_profile=SRGB + bytes(1_500_000)))
    with Image.open(io.BytesIO(encode(padded.open(), kind))) as written:
        assert written.info["icc_profile"] == SRGB


def test_a_long_profile_is_kept() -> None:
    assert ImageRef.of(encoded(noise(), icc_profile=SRGB + bytes(1_500_000))).profile == SRGB + bytes(1_500_000)


def test_a_profile_that_unpacks_to_gigabytes_is_left_out() -> None:
    bomb = chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(30_000_000)))
    assert ImageRef.of(encoded(noise())[:33] + bomb + encoded(noise())[33:]).profile is None


@settings(max_examples=60)
@given(
    st.binary(max_size=60),
    st.sampled_from([b"tEXt", b"tRNS", b"zTXt", b"iTXt", b"iCCP", b"pHYs", b"gAMA", b"eXIf", b"acTL"]),
)
def test_no_content_of_a_chunk_that_is_not_of_the_pixels_makes_a_good_png_invalid(content: bytes, kind: bytes) -> None:
    data = encoded(noise((9, 7)))
    for odd in (data[:33] + chunk(kind, content) + data[33:], before_end(data, chunk(kind, content))):
        assert ImageRef.of(odd).open().convert("RGB").size in ((9, 7), (7, 9))


# -- further frames, and types that are not read ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_several_frames_or_pages_are_seen_in_the_header(kind: str) -> None:
    one = encoded(noise(), kind)
    many = encoded(noise(), kind, save_all=True, append_images=[noise(seed=1), noise(seed=2)])
    assert not inspect(one).is_sequence
    assert inspect(many).is_sequence
    if kind in ("PNG", "TIFF"):
        assert decode(many).convert("RGB").tobytes() == decode(one).tobytes()


def box(brand: bytes, *others: bytes) -> bytes:
    content = brand + b"\0\0\0\0" + b"".join(others)
    return struct.pack(">I", len(content) + 8) + b"ftyp" + content + bytes(200)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("HEIC", box(b"heic", b"mif1", b"heic")),
        ("HEIC", box(b"mif1", b"heix")),
        ("HEIC", box(b"msf1", b"hevc")),
        ("JPEG XL", b"\xff\x0a" + bytes(100)),
        ("JPEG XL", b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100)),
        ("JPEG 2000", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100)),
    ],
)
def test_a_type_that_is_not_read_is_named_with_what_to_do(name: str, data: bytes, tmp_path: Any) -> None:
    (tmp_path / "photo.jpg").write_bytes(data)
    with pytest.raises(InvalidImage, match=rf"photo\.jpg: {name} is not read here, .*: save it as png, jpeg or webp"):
        ImageRef.of(tmp_path / "photo.jpg")


def test_avif_is_read_where_pillow_reads_it_and_named_where_not(tmp_path: Any) -> None:
    (tmp_path / "photo.jpg").write_bytes(box(b"avif", b"mif1"))
    with pytest.raises(InvalidImage, match="AVIF"):
        ImageRef.of(tmp_path / "photo.jpg")
    if features.check("avif"):
        found = ImageRef.of(encoded(noise(), "AVIF"))
        assert (found.media_type, found.open().size) == ("image/avif", (64, 48))


# -- what fits --------------------------------------------------------------------------------------------------------


def test_a_picture_that_is_too_long_as_png_is_written_as_jpeg_with_its_profile() -> None:
    picture = decode(encoded(noise((200, 150)), icc_profile=SRGB))
    assert encode_within(picture, 1_000_000).startswith(b"\x89PNG")
    jpeg = encode_within(picture, len(encode(picture, "JPEG")))
    assert jpeg.startswith(b"\xff\xd8")
    assert info_of(jpeg)["icc_profile"] == SRGB
    assert len(encode_within(picture, len(jpeg) - 1)) < len(jpeg)


def test_transparency_that_shows_is_never_traded_for_a_smaller_file() -> None:
    clear = noise((60, 50), "RGBA")
    assert encode_within(clear, 100).startswith(b"\x89PNG")
    clear.putalpha(255)
    assert encode_within(clear, 100).startswith(b"\xff\xd8")
