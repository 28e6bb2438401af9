"""Damaged, cut and hostile files: ``InvalidImage`` and nothing else, and a cut that is always noticed."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pictures import encoded, noise
from PIL import Image

from flux_tasks.errors import InvalidImage
from flux_tasks.images.encoding import decode, inspect, is_complete
from flux_tasks.images.reference import ImageRef

FORMATS = ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"]
SMALL = {kind: encoded(noise((9, 7)), kind) for kind in FORMATS}
BEGINNINGS = [data[:24] for data in SMALL.values()] + [b"MM\0*\0\0\0\x08", b"\xff\xd8\xff\xe1\0\x20Exif\0\0", b"BM"]


def outcome(data: bytes) -> None:
    """Look at and open ``data``; anything but ``InvalidImage`` comes through."""
    try:
        header = inspect(data)
        assert header.media_type.startswith("image/")
        assert 1 <= header.orientation <= 8
        image = ImageRef.of(data)
        assert image.open().size == image.upright_size
    except InvalidImage as error:
        assert str(error)


# -- files that are no images -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"just some text\n", "not an image this library reads"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image this library reads"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image this library reads"),
        (b"%PDF-1.7\n", "not an image this library reads"),
        (b"\x89PNG\r\n\x1a\n", "not an image this library reads"),
        (b"\x89PNG\r\n\x1a\n", ".* a PNG that is damaged or cut short"),
        (encoded(kind="WEBP")[:-20], ".* a WebP that is damaged or cut short"),
        (b"\xff\xd8\xff\xe0" + bytes(9), ".* a JPEG that is damaged or cut short"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", ".* git lfs pull fetches the picture"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><html>log in</html>", ".* a web page"),
        (b"<?xml version='1.0'?><svg/>", ".* XML or SVG; save it as png"),
        (b"%PDF-1.7\n", ".* PDF; save its page as png"),
    ],
)
def test_a_file_that_is_no_image_is_named_with_the_reason(tmp_path: Path, content: bytes, message: str) -> None:
    place = tmp_path / "x.jpg"
    place.write_bytes(content)
    with pytest.raises(InvalidImage, match=rf"x\.jpg: {message}"):
        ImageRef.of(place)
    with pytest.raises(InvalidImage, match=f"the bytes given: {message}"):
        ImageRef.of(content)


def test_a_folder_with_the_name_of_an_image_is_called_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").mkdir()
    with pytest.raises(InvalidImage, match=r"x\.jpg: a folder, not an image file"):
        ImageRef.of(tmp_path / "x.jpg")


@pytest.mark.parametrize("location", ["none.png", "a\0b.png", "nosuch://x/y.png", "http://[", "~nobody-of-this-name/x"])
def test_a_place_that_cannot_be_read_is_an_invalid_image(location: str) -> None:
    with pytest.raises(InvalidImage):
        ImageRef.of(location)


def test_a_file_longer_than_any_image_is_refused_by_its_length(tmp_path: Path) -> None:
    with (tmp_path / "x.png").open("wb") as file:
        file.truncate(1 << 36)
    with pytest.raises(InvalidImage, match=r"^[^:]*x\.png: 68,719,476,736 bytes, more than the limit"):
        ImageRef.of(tmp_path / "x.png")


# -- cut files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_cut_picture_does_not_open(tmp_path: Path, kind: str) -> None:
    data = encoded(noise((200, 150)), kind)
    (tmp_path / "cut").write_bytes(data[: len(data) // 2])
    with pytest.raises(InvalidImage, match="cut"):
        ImageRef.of(tmp_path / "cut").open()


def with_a_thumbnail() -> bytes:
    """A JPEG whose EXIF data holds a whole JPEG, end mark and all."""
    exif = Image.Exif()
    exif[0x010E] = "x" * 10
    segment = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0") + encoded(noise((4, 4)), "JPEG")
    return encoded(noise((9, 7)), "JPEG", exif=segment)


COMPLETE = {
    "png": SMALL["PNG"],
    "jpeg": SMALL["JPEG"],
    "progressive": encoded(noise((9, 7)), "JPEG", progressive=True),
    "thumbnail": with_a_thumbnail(),
    "webp": SMALL["WEBP"],
    "lossless": encoded(noise((9, 7)), "WEBP", lossless=True),
    "alpha": encoded(noise((9, 7), "RGBA"), "WEBP"),
}


@pytest.mark.parametrize("kind", COMPLETE)
def test_a_picture_is_complete_and_cut_at_any_byte_it_is_not(kind: str) -> None:
    data = COMPLETE[kind]
    assert is_complete(data)
    assert [length for length in range(len(data)) if is_complete(data[:length])] == []


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_what_follows_the_end_mark_does_not_make_a_picture_incomplete(kind: str) -> None:
    assert is_complete(COMPLETE[kind] + bytes(10_000))


def test_a_jpeg_with_an_end_mark_in_its_comment_is_not_complete_before_its_own() -> None:
    data = encoded(kind="JPEG", comment=b"\xff\xd9 not yet \xff\xda \xff\xd9")
    assert is_complete(data)
    assert not is_complete(data[:-2])


# -- hostile files ----------------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(data=st.one_of(st.binary(max_size=300), st.tuples(st.sampled_from(BEGINNINGS), st.binary(max_size=300))))
@example(data=b"GIF89a\x01\0\x01\0\0\0\0,\0\0\0\0\x01\0\x01\0\0")
def test_no_bytes_whatever_raise_anything_but_invalidimage(data: bytes | tuple[bytes, bytes]) -> None:
    outcome(data if isinstance(data, bytes) else b"".join(data))


@settings(max_examples=60)
@given(kind=st.sampled_from(FORMATS), seed=st.integers(0, 2**32))
def test_a_picture_with_bytes_changed_in_its_header_raises_nothing_but_invalidimage(kind: str, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(10):
        data = bytearray(SMALL[kind])
        for _ in range(chance.choice([1, 2, 8])):
            data[chance.randrange(min(len(data), 200))] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        outcome(bytes(data))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_picture_cut_at_any_byte_raises_nothing_but_invalidimage(kind: str) -> None:
    data = SMALL[kind]
    for length in range(0, len(data), max(1, len(data) // 150)):
        outcome(data[:length])


@settings(max_examples=100)
@given(exif=st.binary(max_size=80), kind=st.sampled_from(["JPEG", "PNG", "WEBP"]))
def test_no_exif_data_whatever_make_a_good_picture_invalid(exif: bytes, kind: str) -> None:
    data = encoded(noise((9, 7)), kind, exif=b"Exif\0\0" + exif)
    image = ImageRef.of(data)
    assert image.open().size == image.upright_size


def test_a_gif_or_tiff_of_many_pictures_is_its_first_one() -> None:
    for kind in ("GIF", "TIFF"):
        buffer = io.BytesIO()
        noise((9, 7)).save(buffer, kind, save_all=True, append_images=[noise((9, 7), seed=1)])
        assert decode(buffer.getvalue()).size == (9, 7)
