"""Cutouts, and pictures that are loaded beside the item's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_bfl import FakeBfl
from PIL import Image
from recipes import perform as perform_recipe

from flux_tasks.errors import InvalidImage
from flux_tasks.images.reference import ImageRef
from flux_tasks.settings import Settings
from pipelines.operations.registry import OPERATIONS
from pipelines.recipe import Recipe


def ref(image: Image.Image) -> ImageRef:
    return ImageRef.of(image, name="apple")


def test_a_cutout_is_transparent_where_its_mask_is_black_and_keeps_its_pixels_where_it_is_white() -> None:
    picture = Image.new("RGB", (8, 6), (200, 30, 90))
    mask = Image.new("L", (8, 6))
    mask.paste(255, (0, 0, 4, 6))
    made = OPERATIONS["cutout"].perform({}, {"image": ref(picture), "mask": ref(mask)}).open()
    assert made.mode == "RGBA"
    assert made.getpixel((1, 1)) == (200, 30, 90, 255)
    assert made.getpixel((6, 1)) == (200, 30, 90, 0)
    half = Image.new("RGBA", (8, 6), (1, 2, 3, 100))
    assert OPERATIONS["cutout"].perform({}, {"image": ref(half), "mask": ref(mask)}).open().getpixel((1, 1))[3] == 100


def test_a_cutout_with_a_mask_of_another_size_says_both_sizes() -> None:
    pictures = {"image": ref(Image.new("RGB", (8, 6))), "mask": ref(Image.new("L", (6, 8)))}
    with pytest.raises(InvalidImage, match="the mask is 6×8 px but the image is 8×6 px"):
        OPERATIONS["cutout"].perform({}, pictures)


def test_a_loaded_picture_keeps_its_own_bytes_and_a_loaded_mask_is_black_and_white() -> None:
    picture = ref(Image.new("RGB", (8, 6), "teal"))
    assert OPERATIONS["load_image"].perform({}, {"file": picture}).digest == picture.digest
    painted = Image.linear_gradient("L").resize((8, 6))
    loaded = OPERATIONS["load_mask"].perform({}, {"file": ref(painted)}).open()
    assert {value for _, value in loaded.getcolors()} <= {0, 255}


def run_montage(folder: Path, bfl: FakeBfl) -> dict[str, Any]:
    for name, colour in (("front", "red"), ("back", "blue")):
        Image.new("RGB", (64, 48), colour).save(folder / f"{name}.png")
    mask = Image.new("L", (64, 48))
    mask.paste(255, (0, 0, 32, 48))
    mask.save(folder / "mask.png")
    (folder / "items.csv").write_text(f"file,below,mask\n{folder}/front.png,{folder}/back.png,{folder}/mask.png\n")
    recipe = Recipe.parse(f"""
source: {{table: "{folder}/items.csv", image: "{{{{ file }}}}"}}
steps:
  - load_image: {{file: "{{{{ below }}}}"}}
    id: ground
  - load_mask: {{file: "{{{{ mask }}}}"}}
    id: shape
  - cutout: {{mask: {{step: shape}}}}
    from: source
  - composite: {{over: {{step: ground}}}}
output: "{folder}/out/{{{{ stem }}}}.png"
""")
    run, [row] = perform_recipe(recipe, Settings(endpoint=bfl.url, key="k", store=str(folder / "store")))
    assert run.summary.is_fine, row
    return row


def test_a_picture_of_a_column_is_loaded_cut_out_and_put_together_for_free(tmp_path: Path) -> None:
    with FakeBfl() as bfl:
        row = run_montage(tmp_path, bfl)
        assert [step["outcome"] for step in row["steps"]] == ["done", "done", "done", "done"]
        again = run_montage(tmp_path, bfl)
        assert bfl.jobs == 0
    with Image.open(tmp_path / "out" / "front.png") as image:
        assert image.convert("RGB").getpixel((5, 5)) == (255, 0, 0)
        assert image.convert("RGB").getpixel((60, 5)) == (0, 0, 255)
    assert row["outcome"] == "done"
    assert again["output"] == row["output"]
    blobs = {path.stem for path in (tmp_path / "store" / "blobs").rglob("*.png")}
    assert ImageRef.of(tmp_path / "back.png").digest not in blobs, "what is only read is not copied into the store"
