"""Images as values: references from everything a caller may write, and nothing but ``InvalidImage`` for the rest."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import pickle
import re
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from object_stores import forget_filesystems
from pictures import encoded, noise, png_header
from PIL import Image, ImageOps

from flux_tasks import catalog, files
from flux_tasks.errors import InvalidImage, InvalidRequest
from flux_tasks.images import byte_cache, encoding, reference
from flux_tasks.images.encoding import decode, encode_png, inspect
from flux_tasks.images.masks import Mask
from flux_tasks.images.png import first_rows
from flux_tasks.images.reference import ImageRef
from flux_tasks.jobs.call import prepare

FORMATS = ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"]


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees bytes that another one read."""
    monkeypatch.setattr(byte_cache, "shared", byte_cache.ByteCache(capacity=1 << 20))


def oriented(orientation: int, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(noise((64, 48)), kind, exif=exif)


# -- references -------------------------------------------------------------------------------------------------------


def test_a_reference_can_be_made_from_everything_that_is_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode_png(noise())
    place = tmp_path / "my photo.png"
    place.write_bytes(data)
    files.write("memory://in/my photo.png", data)
    monkeypatch.chdir(tmp_path)
    sources: list[Any] = [place, str(place), "my photo.png", place.as_uri(), "memory://in/my photo.png"]
    for source in sources:
        image = ImageRef.of(source)
        assert (image.name, image.uri, image.data) == ("my photo", os.fspath(source), None)
        assert (image.media_type, image.width, image.height, image.size) == ("image/png", 64, 48, len(data))
        assert image.digest == hashlib.sha256(data).hexdigest()
    for source in (data, bytearray(data), memoryview(data), noise()):
        image = ImageRef.of(source)
        assert (image.name, image.uri) == (image.digest[:8], "")
        assert image.read() == data
    assert ImageRef.of(image) is image
    assert ImageRef.of(image, name="other").name == "other"
    assert {ImageRef.of(s) for s in (*sources, data, noise(), image)} == {image}
    forget_filesystems()


@pytest.mark.parametrize("source", [None, 5, 1.5, ["a.png"], {"file": "a.png"}, object()])
def test_what_cannot_be_an_image_is_named_by_its_type(source: Any) -> None:
    remedy = "give its picture" if isinstance(source, list) else "give a path"
    with pytest.raises(InvalidImage, match=f"{type(source).__name__} is not an image: {remedy}"):
        ImageRef.of(source)


def test_references_are_equal_when_their_bytes_are(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded())
    (tmp_path / "b.png").write_bytes(encoded())
    one, two, other = ImageRef.of(tmp_path / "a.png"), ImageRef.of(tmp_path / "b.png"), ImageRef.of(encoded(seed=1))
    assert one == two
    assert hash(one) == hash(two)
    assert one != other
    assert (one.name, two.name) == ("a", "b")


def test_a_reference_travels_through_pickle_and_json(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded())
    image = ImageRef.of(tmp_path / "a.png")
    assert len(pickle.dumps(image)) < 1000
    for copy in (pickle.loads(pickle.dumps(image)), ImageRef.from_dict(json.loads(json.dumps(image.to_dict())))):
        assert copy == image
        assert (copy.uri, copy.name, copy.orientation) == (image.uri, image.name, image.orientation)
    assert ImageRef.from_dict({**image.to_dict(), "from a later version": 1}) == image


def test_an_image_without_a_place_takes_its_bytes_along_in_pickle_but_not_in_json() -> None:
    image = ImageRef.of(encoded())
    byte_cache.shared = byte_cache.ByteCache(capacity=1)
    assert pickle.loads(pickle.dumps(image)).read() == encoded()
    with pytest.raises(InvalidImage, match="no longer in memory, and were not stored"):
        ImageRef.from_dict(image.to_dict()).read()


def test_the_representation_of_a_reference_is_short() -> None:
    assert len(repr(ImageRef.of(encoded()))) < 400


def test_a_file_that_changed_after_it_was_referred_to_is_invalid(tmp_path: Path) -> None:
    place = tmp_path / "a.png"
    place.write_bytes(encoded())
    image = pickle.loads(pickle.dumps(ImageRef.of(place)))
    byte_cache.shared = byte_cache.ByteCache(capacity=1)
    assert image.read() == encoded()
    place.write_bytes(encoded(seed=1))
    with pytest.raises(InvalidImage, match=r"a\.png: the file has changed"):
        image.read()
    place.unlink()
    with pytest.raises(InvalidImage, match=r"a\.png: .*No such file"):
        image.open()


def test_saving_keeps_every_byte(tmp_path: Path) -> None:
    data = encoded(kind="JPEG", comment=b"content credentials") + b"trailing"
    assert ImageRef.of(data).save(tmp_path / "deep" / "a.jpg") == str(tmp_path / "deep" / "a.jpg")
    assert (tmp_path / "deep" / "a.jpg").read_bytes() == data


@pytest.mark.parametrize(
    ("location", "stem"),
    [
        ("photos/a.b.jpg", "a.b"),
        ("s3://bucket/x/my%20photo.png", "my%20photo"),
        ("s3://bucket/photos/pic#1.jpg", "pic#1"),
        ("gs://bucket/what?x=1.jpg", "what?x=1"),
        ("memory://100%25.jpg", "100%25"),
        ("photos/a%20b.jpg", "a%20b"),
        ("photos/50%2foff.jpg", "50%2foff"),
        ("photos/back\\slash.jpg", "back\\slash"),
        ("photos/see https://x.jpg", "x"),
        ("https://host/x/my%20photo.png", "my photo"),
        ("https://host/x/a.png?sig=b/c.jpg#d", "a"),
        (r"C:\photos\a.jpg", "a"),
        ("a", "a"),
        ("https://host", ""),
    ],
)
def test_people_call_an_image_by_the_stem_of_its_file(location: str, stem: str) -> None:
    assert reference.stem(location) == stem


# -- the memory of recent bytes ---------------------------------------------------------------------------------------


def test_the_memory_of_recent_bytes_stays_within_its_bounds_and_forgets_the_oldest() -> None:
    memory = byte_cache.ByteCache(capacity=1000)
    for n in range(100):
        memory.put(str(n), bytes(200))
        memory.get("0")
    assert memory._size == sum(len(v) for v in memory._entries.values()) <= 1000
    assert list(memory._entries) == ["96", "97", "98", "99", "0"] or memory.get("0") is not None
    assert memory.get("1") is None


def test_one_large_picture_does_not_drive_out_all_the_others() -> None:
    memory = byte_cache.ByteCache(capacity=1000)
    memory.put("small", bytes(100))
    memory.put("large", bytes(900))
    assert memory.get("large") is None
    assert memory.get("small") == bytes(100)


# -- headers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_type_size_and_alpha_are_read_from_the_header(kind: str, tmp_path: Path) -> None:
    data = encoded(kind=kind)
    (tmp_path / "picture").write_bytes(data)
    for source in (data, tmp_path / "picture", str(tmp_path / "picture")):
        header = inspect(source)
        assert (header.media_type, header.width, header.height) == (f"image/{kind.lower()}", 64, 48)
        assert not header.has_alpha
        assert header.orientation == 1
    assert inspect(encoded(noise(mode="RGBA"), "PNG")).has_alpha


def test_a_png_whose_pixels_are_garbage_still_inspects_and_does_not_open() -> None:
    data = png_header(640, 480)
    assert (inspect(data).width, inspect(data).height) == (640, 480)
    image = ImageRef.of(data, name="garbage")
    with pytest.raises(InvalidImage, match="garbage: the picture is damaged or cut short"):
        image.open()


@pytest.mark.parametrize(("width", "height"), [(30_000, 30_000), (10_001, 10_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_by_its_header(width: int, height: int) -> None:
    for act in (inspect, decode, ImageRef.of):
        with pytest.raises(InvalidImage, match="100 MP"):
            act(png_header(width, height))


def test_a_bomb_takes_no_memory_to_refuse() -> None:
    code = (
        "import resource, sys, zlib; from pictures import png_header; from flux_tasks.images import ImageRef\n"
        "data = png_header(30_000, 30_000, zlib.compress(bytes(20_000_000)))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: ImageRef.of(data)\n"
        "except Exception as error: print(type(error).__name__)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    name, grown = run.stdout.split()
    assert name == "InvalidImage"
    assert int(grown) < 20_000  # KiB; the picture itself would be 2.7 GB


@pytest.mark.usefixtures("eager_threads")
def test_reading_headers_in_many_threads_leaves_the_processs_warnings_as_they_were() -> None:
    before = list(warnings.filters)
    pictures = [encoded(), encoded(kind="JPEG", exif=b"Exif\0\0garbage"), png_header(9_500, 10_000)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: inspect(pictures[n % 3]), range(600)))
    assert list(warnings.filters) == before


def test_damaged_exif_data_is_no_reason_to_refuse_a_picture() -> None:
    for exif in (b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x02\0\xff\xff\xff\xff" * 3):
        for kind in ("JPEG", "PNG", "WEBP"):
            data = encoded(kind=kind, exif=exif)
            assert ImageRef.of(data).upright_size == (64, 48)
            assert decode(data).size == (64, 48)


# -- orientation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_jpeg_is_decoded_smaller_and_upright_where_a_small_picture_is_made_of_it(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = ImageRef.of(encoded(noise((20, 15)).resize((1600, 1200)), "JPEG", exif=exif))
    whole, small = picture.open(), picture.open(least=100)
    assert max(small.size) == 200
    assert np.abs(np.asarray(whole.resize(small.size), float) - np.asarray(small, float)).mean() < 3
    assert picture.open(least=1201).size == whole.size


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_upright_size_of_the_header_is_the_size_of_the_opened_picture(kind: str, orientation: int) -> None:
    data = oriented(orientation, kind)
    image = ImageRef.of(data)
    assert (image.width, image.height, image.orientation) == (64, 48, orientation)
    assert image.upright_size == image.open().size == ((48, 64) if orientation >= 5 else (64, 48))
    with Image.open(io.BytesIO(data)) as opened:
        assert image.open().tobytes() == ImageOps.exif_transpose(opened).tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_tiff_has_the_size_that_it_opens_with(orientation: int) -> None:
    data = oriented(orientation, "TIFF")
    image = ImageRef.of(data)
    assert image.upright_size == image.open().size == ((48, 64) if orientation >= 5 else (64, 48))


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_an_orientation_that_does_not_exist_means_upright(orientation: int) -> None:
    image = ImageRef.of(oriented(orientation))
    assert (image.orientation, image.upright_size, image.open().size) == (1, (64, 48), (64, 48))


# -- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_greys_keep_their_tones(kind: str) -> None:
    values = [0, 257, 300, 30_000, 65_278, 65_535]
    deep = Image.new("I;16", (6, 1))
    for x, value in enumerate(values):
        deep.putpixel((x, 0), value)
    shown = [round(value / 257) for value in values]
    assert list(decode(encoded(deep, kind)).tobytes()) == shown
    assert list(ImageRef.of(deep).open().tobytes()) == shown


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16"])
def test_a_pillow_image_of_any_mode_becomes_a_png(mode: str) -> None:
    image = ImageRef.of(Image.new(mode, (5, 4)))
    assert image.media_type == "image/png"
    assert image.open().size == (5, 4)


def test_a_pillow_image_that_cannot_be_encoded_is_invalid(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(encoded()[:2000])
    with Image.open(tmp_path / "cut.png") as lazy, pytest.raises(InvalidImage, match="cannot be encoded"):
        ImageRef.of(lazy)
    with pytest.raises(InvalidImage, match="cannot be encoded"):
        ImageRef.of(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA"])
def test_encoding_as_png_keeps_every_pixel(mode: str) -> None:
    image = noise((31, 17), mode) if mode != "1" else noise((31, 17), "L").convert("1")
    back = decode(encode_png(image))
    assert (back.mode, back.tobytes()) == (mode, image.tobytes())


def test_a_notebook_shows_the_picture_no_wider_than_1024_pixels() -> None:
    bundle = ImageRef.of(Image.new("RGB", (2048, 512), "teal"))._repr_mimebundle_(include=None, exclude=None)
    with Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))) as shown:
        assert shown.size == (1024, 256)
    assert "ImageRef" in bundle["text/plain"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_marked_as_a_preview_says_so_and_others_do_not(kind: str) -> None:
    plain = ImageRef.of(encoded(kind=kind))
    assert (plain.engine, plain.is_preview) == ("", False)
    options = encoding.mark_preview(noise(), "local:classical@1")
    if kind != "PNG":
        options.pop("pnginfo")
    marked = ImageRef.of(encoded(kind=kind, **options))
    assert (marked.engine, marked.is_preview) == ("local:classical@1", True)


def test_a_megapixel_is_two_to_the_twentieth() -> None:
    assert ImageRef.of(png_header(1024, 2048)).megapixels == 2


class Tensor:
    """Stands for arrays of other libraries: torch, JAX, TensorFlow, CuPy."""

    def __dlpack__(self) -> None:
        """What libraries pass arrays on with."""

    def __bool__(self) -> bool:
        raise ValueError("the truth value of an array with more than one element is ambiguous")


class Gpu(Tensor):
    __cuda_array_interface__: ClassVar[dict[str, Any]] = {}


ARRAYS = [np.zeros((80, 96, 3), "uint8"), np.ones((80, 96), bool), np.zeros((3, 80, 96), "float32"), Tensor(), Gpu()]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: type(array).__name__)
def test_an_array_is_refused_with_what_makes_a_picture_of_it(array: Any) -> None:
    image = Image.new("RGB", (96, 80))
    whole = f"{type(array).__name__} is not an image: write Image.fromarray(array)"
    for refuse in (ImageRef.of, lambda mask: Mask(mask).render(ImageRef.of(image))):
        with pytest.raises(InvalidImage, match=re.escape(whole)):
            refuse(array)
    for task, given in (
        ("erase", {"image": image, "mask": array}),
        ("fill", {"image": array, "mask": image}),
        ("edit", {"image": image, "prompt": "x", "references": array}),
        ("edit", {"image": image, "prompt": "x", "references": [array, image]}),
    ):
        with pytest.raises(InvalidRequest, match=re.escape(whole)):
            prepare(catalog.tool(task), given)


def test_an_open_file_is_refused_with_what_reads_it() -> None:
    with pytest.raises(
        InvalidImage, match=re.escape("BytesIO is not an image: give its path, or its bytes: file.read()")
    ):
        ImageRef.of(io.BytesIO(encoded()))  # type: ignore[arg-type]


# -- the first rows of a PNG ------------------------------------------------------------------------------------------


@hypothesis.given(
    st.sampled_from(["RGB", "RGBA"]),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(1, 48),
    st.integers(0, 9),
)
def test_the_first_rows_of_a_png_are_those_of_the_whole_picture(
    mode: str, size: tuple[int, int], rows: int, level: int
) -> None:
    whole = noise(size, mode)
    part = first_rows(encoded(whole, compress_level=level), rows)
    assert part is not None
    top = whole.crop((0, 0, size[0], min(rows, size[1])))
    assert (decode(part).size, decode(part).tobytes()) == (top.size, top.tobytes())


def test_a_picture_whose_first_rows_do_not_come_first_or_are_no_colours_has_none() -> None:
    interlaced = bytearray(encoded())
    interlaced[28] = 1
    others = [bytes(interlaced), encoded(noise().convert("P")), encoded(noise().convert("I;16")), encoded(kind="JPEG")]
    assert [first_rows(data, 4) for data in (*others, b"", b"\x89PNG\r\n\x1a\n")] == [None] * 6
