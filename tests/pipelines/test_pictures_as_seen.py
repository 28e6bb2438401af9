"""Pictures that go through a recipe look in its outputs as they did before: on white, in their colours, and whole."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_bfl import FakeBfl
from pictures import GREY_PROFILE, P3, SRGB, encoded, noise
from PIL import Image
from recipes import perform

from flux_tasks.jobs.result import LOST_ALPHA, LOST_PROFILE
from flux_tasks.settings import Settings
from pipelines.plan.planner import plan
from pipelines.recipe import Recipe

ERASE = "erase: {mask: {boxes: [[8, 8, 40, 40]]}}"
FRAMES = "several frames or pages, and only the first one is used"


@pytest.fixture
def bfl() -> Iterator[FakeBfl]:
    with FakeBfl(pending_polls=0) as server:
        yield server


def recipe(folder: Path, steps: str, output: str = "out/{{ stem }}.png") -> Recipe:
    return Recipe.parse(f'name: t\nsource: "{folder}/in/*"\nsteps:\n{steps}\noutput: "{folder}/{output}"')


def put(folder: Path, data: bytes, name: str = "apple.png") -> None:
    (folder / "in").mkdir(exist_ok=True)
    (folder / "in" / name).write_bytes(data)


def run(folder: Path, bfl: FakeBfl, steps: str, output: str = "out/{{ stem }}.png") -> dict[str, Any]:
    settings = Settings(endpoint=bfl.url, key="k", store=str(folder / "store"))
    [row] = perform(recipe(folder, steps, output), settings)[1]
    assert row["error"] is None, row
    return row


def planned(folder: Path, bfl: FakeBfl, steps: str) -> list[str]:
    settings = Settings(endpoint=bfl.url, key="k", store=str(folder / "store"))
    found = plan(recipe(folder, steps).compiled, settings=settings)
    assert all(warning in str(found) for warning in found.warned)
    return found.warned


def warnings_of(row: dict[str, Any]) -> list[str]:
    told = [warning for step in row["steps"] for warning in step.get("warnings", [])]
    return [warning for warning in told if "results are best between" not in warning]


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image.copy()


def logo(mode: str) -> Image.Image:
    image = Image.new("RGBA", (160, 120), (0, 0, 0, 0))
    image.paste((220, 40, 40, 255), (40, 40, 120, 80))
    if mode == "P":
        found = image.convert("RGB").quantize(2)
        found.info["transparency"] = found.getpixel((0, 0))
        return found
    if mode in ("RGB", "L"):
        found = image.convert("RGB").convert(mode)
        found.info["transparency"] = (0, 0, 0) if mode == "RGB" else 0
        return found
    return image.convert(mode)


# -- alpha ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
@pytest.mark.parametrize("steps", ["  - resize: {width: 80}", "  - resize: {width: 80}\n    when: width < 10"])
def test_transparent_parts_are_white_in_a_jpeg_output(mode: str, steps: str, tmp_path: Path, bfl: FakeBfl) -> None:
    put(tmp_path, encoded(logo(mode)))
    row = run(
        tmp_path,
        bfl,
        f"{steps}\n    save: 'SAVED/{{{{ stem }}}}.jpg'".replace("SAVED", f"{tmp_path}/s"),
        "o/{{ stem }}.jpg",
    )
    assert row["outcome"] in ("done", "skipped")
    written = [tmp_path / "o" / "apple.jpg", *(tmp_path / "s").glob("*.jpg")]
    for path in written:
        image = opened(path).convert("RGB")
        assert min(image.getpixel((4, 4))) > 245
        assert min(image.getpixel((image.width // 2, image.height // 2))) < 120


def test_lost_transparency_is_said_in_plan_and_run_and_again_from_the_store(tmp_path: Path, bfl: FakeBfl) -> None:
    put(tmp_path, encoded(logo("RGBA")))
    steps = f"  - {ERASE}"
    assert planned(tmp_path, bfl, steps) == [f"apple: erase: {LOST_ALPHA}"]
    for _ in range(2):
        assert warnings_of(run(tmp_path, bfl, steps)) == [LOST_ALPHA]
    assert bfl.jobs == 1
    kept = f"{steps}\n    preserve: true"
    assert planned(tmp_path, bfl, kept) == []
    assert warnings_of(run(tmp_path, bfl, kept)) == []
    assert opened(tmp_path / "out" / "apple.png").getpixel((150, 110))[3] == 0


def test_a_result_that_has_lost_its_transparency_has_not_the_same_pixels(
    tmp_path: Path, bfl: FakeBfl, monkeypatch: pytest.MonkeyPatch
) -> None:
    alike = Image.new("RGBA", (96, 80), (9, 9, 9, 0))
    alike.paste((9, 90, 9, 255), (0, 0, 96, 40))
    put(tmp_path, encoded(alike))
    monkeypatch.setattr(FakeBfl, "_work", staticmethod(lambda body: encoded(alike.convert("RGB"))))
    assert warnings_of(run(tmp_path, bfl, f"  - {ERASE}")) == [LOST_ALPHA]
    monkeypatch.setattr(FakeBfl, "_work", staticmethod(lambda body: encoded(alike)))
    assert warnings_of(run(tmp_path, bfl, f"  - {ERASE[:-1]}, dilate_pixels: 3}}")) == [
        "the result has the same pixels as its input"
    ]


# -- profiles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", [P3, SRGB])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_preserve_keeps_the_profile_of_the_pixels_that_it_puts_back(
    profile: bytes, kind: str, tmp_path: Path, bfl: FakeBfl
) -> None:
    photo = encoded(noise((96, 80)), kind, icc_profile=profile)
    put(tmp_path, photo)
    row = run(tmp_path, bfl, f"  - {ERASE}\n    preserve: true")
    written = opened(tmp_path / "out" / "apple.png")
    assert written.info["icc_profile"] == profile
    with Image.open(io.BytesIO(photo)) as original:
        assert written.crop((70, 0, 96, 80)).tobytes() == original.convert("RGB").crop((70, 0, 96, 80)).tobytes()
    assert warnings_of(row) == []


def test_a_preserved_grey_keeps_its_profile(tmp_path: Path, bfl: FakeBfl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeBfl, "_work", staticmethod(lambda body: encoded(Image.new("L", (96, 80), 30))))
    put(tmp_path, encoded(noise((96, 80), "L"), icc_profile=GREY_PROFILE))
    run(tmp_path, bfl, f"  - {ERASE}\n    preserve: true")
    written = opened(tmp_path / "out" / "apple.png")
    assert (written.mode, written.info["icc_profile"]) == ("L", GREY_PROFILE)


@pytest.mark.parametrize("extension", ["png", "jpg", "webp"])
@pytest.mark.parametrize("steps", ["  - resize: {width: 48}", "  - resize: {width: 48}\n    when: width < 10"])
def test_an_output_keeps_the_profile_of_its_picture(steps: str, extension: str, tmp_path: Path, bfl: FakeBfl) -> None:
    put(tmp_path, encoded(noise((96, 80)), "TIFF", icc_profile=P3), "apple.tif")
    run(tmp_path, bfl, steps, "out/{{ stem }}." + extension)
    assert opened(tmp_path / "out" / f"apple.{extension}").info["icc_profile"] == P3


def test_a_profile_for_cmyk_is_in_no_output_of_a_skipped_item(tmp_path: Path, bfl: FakeBfl) -> None:
    put(
        tmp_path, encoded(noise((96, 80)).convert("CMYK"), "TIFF", icc_profile=SRGB[:16] + b"CMYK" + SRGB[20:]), "a.tif"
    )
    run(tmp_path, bfl, "  - resize: {width: 48}\n    when: width < 10")
    written = opened(tmp_path / "out" / "a.png")
    assert (written.mode, written.info.get("icc_profile")) == ("RGB", None)


def test_a_delivery_without_the_profile_of_its_input_is_said(
    tmp_path: Path, bfl: FakeBfl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeBfl, "_work", staticmethod(lambda body: encoded(noise((96, 80), seed=5))))
    put(tmp_path, encoded(noise((96, 80)), icc_profile=P3))
    for _ in range(2):
        assert warnings_of(run(tmp_path, bfl, f"  - {ERASE}")) == [LOST_PROFILE]
    put(tmp_path, encoded(noise((96, 80)), icc_profile=SRGB))
    assert warnings_of(run(tmp_path, bfl, f"  - {ERASE}")) == [], "a picture without a profile is taken for sRGB"


# -- frames and pages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
@pytest.mark.parametrize(
    "steps", ["  - resize: {width: 48}", f"  - {ERASE.replace('erase: {', 'erase: {fit: downscale, ')}"]
)
def test_frames_and_pages_that_are_left_out_are_said(kind: str, steps: str, tmp_path: Path, bfl: FakeBfl) -> None:
    more = {"save_all": True, "append_images": [noise((96, 80), seed=1)]}
    put(tmp_path, encoded(noise((96, 80)), kind, **more), f"apple.{kind.lower()}")
    assert any(warning.endswith(FRAMES) for warning in planned(tmp_path, bfl, steps))
    assert [warning for warning in warnings_of(run(tmp_path, bfl, steps)) if warning.endswith(FRAMES)]


def test_frames_that_an_output_of_a_skipped_item_leaves_out_are_said(
    tmp_path: Path, bfl: FakeBfl, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, encoded(noise((96, 80)), "GIF", save_all=True, append_images=[noise((96, 80), seed=1)]), "apple.gif")
    run(tmp_path, bfl, "  - resize: {width: 48}\n    when: width < 10")
    assert "apple.gif: it has several frames or pages" in caplog.text


def test_the_summary_of_a_run_counts_and_names_what_was_lost(tmp_path: Path, bfl: FakeBfl) -> None:
    put(tmp_path, encoded(logo("RGBA")))
    settings = Settings(endpoint=bfl.url, key="k", store=str(tmp_path / "store"))
    summary = perform(recipe(tmp_path, f"  - {ERASE}"), settings)[0].summary
    assert (summary.warnings, summary.warned) == (1, [f"apple: erase: {LOST_ALPHA}"])


@pytest.mark.parametrize(
    ("steps", "said_of"),
    [
        (f"  - {ERASE[:-1]}, fit: downscale}}", 1),
        ("  - resize: {width: 40}", 1),
        ("  - resize: {width: 96}", 0),  # the file stays as it is
        ("  - load_image: {file: FOLDER/in/apple.gif}\n  - resize: {width: 40}\n    from: load_image", 1),
        ("  - load_mask: {file: FOLDER/mask.tif}\n  - cutout: {mask: {step: load_mask}}\n    from: still", 1),
        ("  - cutout: {mask: FOLDER/mask.tif}\n    from: still", 1),
        ("  - erase: {mask: FOLDER/mask.tif}\n    from: still", 1),
        ("  - edit: {prompt: x, fit: downscale, references: [FOLDER/in/apple.gif]}\n    from: still", 1),
    ],
)
def test_frames_and_pages_that_are_not_used_are_said_once_wherever_the_file_comes_in(
    steps: str, said_of: int, tmp_path: Path, bfl: FakeBfl
) -> None:
    put(tmp_path, encoded(noise((96, 80)), "GIF", save_all=True, append_images=[noise((96, 80), seed=2)]), "apple.gif")
    (tmp_path / "still.png").write_bytes(encoded(noise((96, 80))))
    white = Image.new("L", (96, 80), 255)
    (tmp_path / "mask.tif").write_bytes(encoded(white, "TIFF", save_all=True, append_images=[white]))
    before = "  - load_image: {file: FOLDER/still.png}\n    id: still\n" if "from: still" in steps else ""
    text = (before + steps).replace("FOLDER", str(tmp_path))
    foreseen = planned(tmp_path, bfl, text)
    assert len([warning for warning in foreseen if FRAMES in warning]) == said_of
    assert len([warning for warning in warnings_of(run(tmp_path, bfl, text)) if FRAMES in warning]) == said_of
