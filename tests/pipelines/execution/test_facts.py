"""Facts: the figures themselves, and that they are worked out once, only when asked for, and never in anybody's way."""

from __future__ import annotations

import io
import json
import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, noise, png_header
from PIL import Image

from flux_tasks.errors import InvalidImage, InvalidRequest
from flux_tasks.images import byte_cache
from flux_tasks.images.masks import Mask
from flux_tasks.images.reference import ImageRef
from flux_tasks.store.records import Store
from pipelines.execution.facts import Facts
from pipelines.language.names import IMAGE_FACTS

PIXEL_FACTS = ("sharpness", "brightness", "entropy")
PHOTOS = sorted((Path(__file__).parents[3] / "examples" / "photos").glob("*.jpg"))


@pytest.fixture(autouse=True)
def _nothing_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes used lately must not answer for a file that has been taken away."""
    monkeypatch.setattr(byte_cache, "shared", byte_cache.ByteCache(capacity=1))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def in_memory(image: Image.Image) -> ImageRef:
    return ImageRef.of(encoded(image))


def on_disk(folder: Path, image: Image.Image | None = None, name: str = "photo.png") -> ImageRef:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(encoded(image))
    return ImageRef.of(folder / name)


def gone(image: ImageRef) -> ImageRef:
    """``image``, with its file removed: whoever decodes it fails."""
    Path(image.uri).unlink()
    return image


def record_of(store: Store, image: ImageRef) -> Path:
    return Path(store.location("facts", f"{image.digest}.json"))


def by_opencv(rgb: np.ndarray[Any, Any]) -> float:
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY) if rgb.ndim == 3 else rgb
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


# -- sizes ------------------------------------------------------------------------------------------------------------


def test_sizes_are_those_that_people_see() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image = ImageRef.of(encoded(noise((64, 32)), "JPEG", exif=exif))
    facts = Facts(None).of(image, ["width", "height", "aspect", "megapixels"])
    assert facts == {"width": 32, "height": 64, "aspect": 0.5, "megapixels": 2048 / 1_048_576}


def test_sizes_need_no_file(tmp_path: Path) -> None:
    image = gone(on_disk(tmp_path))
    assert Facts(None).of(image, ["width", "height", "aspect", "megapixels"])["width"] == 64


def test_only_what_was_asked_for_is_given() -> None:
    image = in_memory(noise())
    assert Facts(None).of(image, []) == {}
    assert list(Facts(None).of(image, ["height", "entropy"])) == ["height", "entropy"]
    assert set(Facts(None).of(image, IMAGE_FACTS)) == set(IMAGE_FACTS)


def test_an_unknown_fact_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(InvalidRequest) as refused:
        Facts(None).of(in_memory(noise()), ["widht", "colour"])
    assert str(refused.value).splitlines() == [
        "widht: is no fact of a picture (did you mean 'width'?)",
        f"colour: is no fact of a picture; known: {', '.join(IMAGE_FACTS)}",
    ]


@pytest.mark.parametrize(
    ("mode", "kind", "expected"),
    [("RGB", "PNG", False), ("RGBA", "PNG", True), ("LA", "PNG", True), ("L", "PNG", False), ("RGB", "JPEG", False)],
)
def test_alpha_is_known_from_the_header(mode: str, kind: str, expected: bool) -> None:
    assert Facts(None).of(ImageRef.of(encoded(noise(mode=mode), kind)), ["has_alpha"]) == {"has_alpha": expected}


def test_alpha_is_known_of_a_picture_whose_pixels_are_damaged() -> None:
    assert Facts(None).of(ImageRef.of(png_header(40, 30)), ["has_alpha", "width"]) == {"has_alpha": False, "width": 40}


# -- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda photo: photo.stem)
def test_the_sharpness_of_a_photo_is_opencv_s(photo: Path) -> None:
    rgb = np.asarray(Image.open(photo).convert("RGB"))
    assert Facts(None).of(ImageRef.of(photo), ["sharpness"])["sharpness"] == pytest.approx(by_opencv(rgb), rel=1e-3)


@pytest.mark.parametrize("name", ["astronaut", "camera", "coffee", "chelsea", "grass", "moon", "page", "rocket"])
def test_the_sharpness_of_scikit_image_s_pictures_is_opencv_s(name: str) -> None:
    pixels = getattr(skimage.data, name)()
    found = Facts(None).of(in_memory(Image.fromarray(pixels)), ["sharpness"])["sharpness"]
    assert found == pytest.approx(by_opencv(pixels), rel=1e-3)


@given(st.integers(1, 9), st.integers(1, 9), st.data())
@settings(deadline=None, max_examples=80)
def test_the_sharpness_of_greys_is_opencv_s_to_the_last_digit(width: int, height: int, data: st.DataObject) -> None:
    values = data.draw(
        st.lists(
            st.one_of(st.integers(0, 255), st.sampled_from([0, 255])), min_size=width * height, max_size=width * height
        )
    )
    image = Image.frombytes("L", (width, height), bytes(values))
    found = Facts(None).of(in_memory(image), ["sharpness"])["sharpness"]
    assert found == pytest.approx(by_opencv(np.asarray(image)), rel=1e-9, abs=1e-9)


def test_a_picture_taller_than_one_band_is_judged_whole() -> None:
    image = Image.effect_noise((7, 600), 90)
    found = Facts(None).of(in_memory(image), ["sharpness"])["sharpness"]
    assert found == pytest.approx(by_opencv(np.asarray(image)), rel=1e-12)


def test_the_steepest_picture_is_not_cut_off() -> None:
    board = Image.frombytes("L", (16, 16), bytes(255 * ((x + y) % 2) for y in range(16) for x in range(16)))
    assert Facts(None).of(in_memory(board), ["sharpness"])["sharpness"] == 1020**2


def test_brightness_and_entropy_are_what_their_names_say() -> None:
    halves = Image.new("L", (4, 4))
    halves.paste(200, (0, 0, 4, 2))
    facts = Facts(None).of(in_memory(halves), PIXEL_FACTS)
    assert (facts["brightness"], facts["entropy"]) == (100, 1)
    one = Facts(None).of(in_memory(Image.new("RGB", (8, 8), (90, 90, 90))), PIXEL_FACTS)
    assert one == {"sharpness": 0, "brightness": 90, "entropy": 0}
    every = Facts(None).of(in_memory(Image.frombytes("L", (16, 16), bytes(range(256)))), PIXEL_FACTS)
    assert (every["brightness"], every["entropy"]) == (127.5, 8)


def test_what_is_transparent_does_not_count() -> None:
    shown = Image.effect_noise((32, 32), 60).convert("RGB")
    cut_out = noise((64, 64), "RGBA", seed=3)  # with colours that nobody sees
    cut_out.putalpha(0)
    cut_out.paste(shown, (16, 16))
    facts = Facts(None).of(in_memory(cut_out), PIXEL_FACTS)
    alone = Facts(None).of(in_memory(shown), PIXEL_FACTS)
    assert (facts["brightness"], facts["entropy"]) == (alone["brightness"], alone["entropy"])
    inner = cv2.Laplacian(np.asarray(shown.convert("L")), cv2.CV_64F)[1:-1, 1:-1]
    assert facts["sharpness"] == pytest.approx(float(inner.var()))


def test_a_cut_out_of_one_colour_has_no_sharpness() -> None:
    cut_out = Image.new("RGBA", (40, 40))
    cut_out.paste((200, 200, 200, 255), (10, 10, 30, 30))
    assert Facts(None).of(in_memory(cut_out), PIXEL_FACTS) == {"sharpness": 0, "brightness": 200, "entropy": 0}


def test_an_invisible_picture_has_nothing() -> None:
    invisible = noise(mode="RGBA")
    invisible.putalpha(0)
    assert Facts(None).of(in_memory(invisible), PIXEL_FACTS) == dict.fromkeys(PIXEL_FACTS, 0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16"])
def test_every_mode_is_judged(mode: str) -> None:
    grey = Image.linear_gradient("L").resize((40, 40))
    image = Image.frombytes("I;16", (20, 40), grey.tobytes()) if mode == "I;16" else grey.convert("RGB").convert(mode)
    kind = "PNG" if mode in ("P", "I;16") else "TIFF"
    facts = Facts(None).of(ImageRef.of(encoded(image, kind)), PIXEL_FACTS)
    assert all(math.isfinite(facts[name]) and facts[name] >= 0 for name in PIXEL_FACTS)
    assert facts["brightness"] > 60


# -- errors -----------------------------------------------------------------------------------------------------------


def test_a_picture_that_cannot_be_decoded_is_invalid_and_named(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(png_header(40, 30))
    with pytest.raises(InvalidImage, match=r"^\S*cut\.png: the picture is damaged or cut short"):
        Facts(None).of(ImageRef.of(tmp_path / "cut.png"), ["brightness"])


@pytest.mark.parametrize("fact", ["has_alpha", "entropy"])
def test_a_picture_that_has_gone_is_invalid(tmp_path: Path, fact: str) -> None:
    with pytest.raises(InvalidImage, match=r"photo\.png: .*No such file"):
        Facts(None).of(gone(on_disk(tmp_path)), [fact])


def test_a_picture_that_failed_is_tried_again(tmp_path: Path, store: Store) -> None:
    facts, image = Facts(store), on_disk(tmp_path)
    whole = Path(image.uri).read_bytes()
    gone(image)
    for _ in range(2):
        with pytest.raises(InvalidImage):
            facts.of(image, ["entropy"])
    Path(image.uri).write_bytes(whole)
    assert facts.of(image, ["entropy"])["entropy"] > 0


# -- once -------------------------------------------------------------------------------------------------------------


def test_a_picture_is_decoded_once_for_each_content(tmp_path: Path, store: Store) -> None:
    facts = Facts(store)
    first = facts.of(on_disk(tmp_path), ["entropy"])
    same = gone(on_disk(tmp_path, name="copy.png"))
    assert facts.of(same, ["entropy"]) == first
    assert set(facts.of(same, PIXEL_FACTS)) == set(PIXEL_FACTS)


def test_a_later_run_finds_the_numbers_in_the_store(tmp_path: Path, store: Store) -> None:
    image = on_disk(tmp_path)
    first = Facts(store).of(image, PIXEL_FACTS)
    assert Facts(store).of(gone(image), PIXEL_FACTS) == first
    with pytest.raises(InvalidImage):
        Facts(None).of(image, PIXEL_FACTS)


def test_without_keeping_the_store_is_read_and_not_written(tmp_path: Path, store: Store) -> None:
    image = on_disk(tmp_path)
    plan = Facts(store, write=False)
    worked_out = plan.of(image, PIXEL_FACTS)
    assert not Path(store.url).exists()
    Facts(store).of(image, PIXEL_FACTS)
    assert Facts(store, write=False).of(gone(image), PIXEL_FACTS) == worked_out


def test_many_threads_decode_one_picture_once(tmp_path: Path, store: Store) -> None:
    image = on_disk(tmp_path, noise((200, 200)))
    facts, start = Facts(store), threading.Barrier(12)
    decoded: list[str] = []

    class Counted(ImageRef):
        def open(self) -> Image.Image:
            decoded.append(self.digest)
            return super().open()

    def ask() -> float | bool:
        start.wait()
        return facts.of(Counted(**image.to_dict()), ["entropy"])["entropy"]

    with ThreadPoolExecutor(12) as threads:
        found = {future.result() for future in [threads.submit(ask) for _ in range(12)]}
    assert len(found) == 1
    assert decoded == [image.digest]


def test_many_threads_ask_for_many_pictures(tmp_path: Path, store: Store) -> None:
    images = [in_memory(noise((20, 20), seed=seed)) for seed in range(8)]
    alone = [Facts(None).of(image, PIXEL_FACTS) for image in images]
    facts = Facts(store)
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda n: facts.of(images[n % 8], PIXEL_FACTS), range(80))) == alone * 10


def _version_of_tomorrow(text: str) -> str:
    return json.dumps({**json.loads(text), "version": 99, "entropy": 1.5})


def _without_entropy(text: str) -> str:
    return json.dumps({k: v for k, v in json.loads(text).items() if k != "entropy"})


def _with(value: Any) -> Callable[[str], str]:
    return lambda text: json.dumps({**json.loads(text), "entropy": value})


@pytest.mark.parametrize(
    "damage",
    [
        *(_version_of_tomorrow, _without_entropy),
        *(lambda text: "", lambda text: text[:20], lambda text: "[1]", lambda text: "[" * 100_000),
        *(_with("7"), _with(None), _with(True), _with(math.nan), _with(math.inf), _with(-1), _with(9), _with([])),
        lambda text: text.replace('"entropy": ', '"entropy": 1' + "0" * 400 + ', "was": '),
    ],
)
def test_a_record_that_will_not_do_is_replaced(tmp_path: Path, store: Store, damage: Callable[[str], str]) -> None:
    image = on_disk(tmp_path)
    first = Facts(store).of(image, PIXEL_FACTS)
    record = record_of(store, image)
    whole = record.read_text()
    record.write_text(damage(whole))
    assert Facts(store).of(image, PIXEL_FACTS) == first
    assert record.read_text() == whole


def test_a_store_that_cannot_be_written_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert Facts(Store(str(tmp_path / "file" / "store"))).of(in_memory(noise()), ["entropy"])["entropy"] > 0


def test_a_folder_where_the_record_should_be_is_no_obstacle(store: Store) -> None:
    image = in_memory(noise())
    record_of(store, image).mkdir(parents=True)
    assert Facts(store).of(image, ["entropy"])["entropy"] > 0


def test_a_store_that_does_not_exist_is_no_obstacle() -> None:
    assert Facts(Store("nosuchprotocol://bucket")).of(in_memory(noise()), ["entropy"])["entropy"] > 0


# -- masks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def half(tmp_path: Path) -> Path:
    mask = Image.new("L", (64, 48))
    mask.paste(255, (0, 0, 32, 48))
    mask.save(tmp_path / "half.png")
    return tmp_path / "half.png"


def test_coverage_is_the_white_share_of_the_mask_as_it_is_rendered(half: Path) -> None:
    facts, image = Facts(None), in_memory(noise())
    assert facts.coverage(Mask(half), image) == pytest.approx(0.5)
    assert facts.coverage(Mask(half, dilate=16), image) == pytest.approx(0.75)
    assert facts.coverage(Mask(half, dilate=16, invert=True), image) == pytest.approx(0.75)
    assert facts.coverage(Mask(boxes=[(0, 0, 16, 48)]), image) == pytest.approx(0.25)
    assert facts.coverage(Mask(half, resize=True), in_memory(noise((128, 96)))) == pytest.approx(0.5)


def test_the_coverage_of_boxes_depends_on_the_picture_s_size() -> None:
    facts, mask = Facts(None), Mask(boxes=[(0, 0, 16, 48)])
    assert facts.coverage(mask, in_memory(noise((32, 48)))) == pytest.approx(0.5)
    assert facts.coverage(mask, in_memory(noise((64, 48)))) == pytest.approx(0.25)


def test_the_coverage_of_an_alpha_mask_depends_on_the_picture() -> None:
    facts = Facts(None)
    for share in (16, 32):
        image = noise(mode="RGB").convert("RGBA")
        image.paste((0, 0, 0, 0), (0, 0, share, 48))
        assert facts.coverage(Mask(alpha=True), in_memory(image)) == pytest.approx(share / 64)


def test_the_coverage_of_another_mask_under_the_same_name_is_worked_out_anew(half: Path) -> None:
    facts, image = Facts(None), in_memory(noise())
    assert facts.coverage(Mask(half), image) == pytest.approx(0.5)
    Image.new("L", (64, 48), 255).save(half)
    assert facts.coverage(Mask(half), image) == 1


def test_a_mask_is_decoded_once_from_run_to_run(half: Path, store: Store) -> None:
    source, image = ImageRef.of(half), in_memory(noise())
    assert Facts(store, write=False).coverage(Mask(source), image) == pytest.approx(0.5)
    assert not Path(store.url).exists()
    Facts(store).coverage(Mask(source), image)
    gone(source)
    assert Facts(store).coverage(Mask(source), image) == pytest.approx(0.5)
    with pytest.raises(InvalidImage, match="No such file"):
        Facts(None).coverage(Mask(source), image)


def test_a_mask_that_does_not_fit_is_invalid_and_named(half: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidImage, match=r"half\.png: the mask is 64×48 px but the image is 20×20 px"):
        Facts(None).coverage(Mask(half), in_memory(noise((20, 20))))
    with pytest.raises(InvalidImage, match=r"gone\.png: no such file"):
        Facts(None).coverage(Mask(tmp_path / "gone.png"), in_memory(noise()))
    with pytest.raises(InvalidImage, match="the picture has none"):
        Facts(None).coverage(Mask(alpha=True), in_memory(noise()))
    with pytest.raises(InvalidImage, match="its pixels cannot be judged"):
        Facts(None).coverage(Mask(encoded(Image.new("LAB", (64, 48)), "TIFF")), in_memory(noise()))


def test_nothing_but_records_is_written(tmp_path: Path, half: Path, store: Store) -> None:
    facts, image = Facts(store), in_memory(noise())
    facts.of(image, IMAGE_FACTS)
    facts.coverage(Mask(half), image)
    found = [Path(folder) / name for folder, _, names in os.walk(store.url) for name in names]
    assert len(found) == 2
    assert {path.parent.name for path in found} == {"facts"}
    assert all(path.suffix == ".json" and len(path.stem) == 64 for path in found)
    assert json.loads(record_of(store, image).read_text())["version"] == 1


def test_a_picture_may_be_asked_for_in_any_file_type() -> None:
    image = noise((24, 24))
    lossless = [Facts(None).of(ImageRef.of(encoded(image, kind)), PIXEL_FACTS) for kind in ("PNG", "TIFF", "BMP")]
    assert lossless[0] == lossless[1] == lossless[2]
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True)
    assert Facts(None).of(ImageRef.of(buffer.getvalue()), PIXEL_FACTS) == lossless[0]
