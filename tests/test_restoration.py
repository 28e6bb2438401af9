"""The main job, whole: the restoration recipe over sample photos, offline; real HTTP, Prefect, engine and store."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from forked import run
from PIL import Image, ImageChops, ImageFilter, ImageStat

from flux_tasks import ImageRef
from flux_tasks.images.encoding import inspect

pytestmark = pytest.mark.early

ROOT = Path(__file__).parent.parent


class Restored:
    """Two runs of the recipe, one after the other."""

    def __init__(self, folder: Path, prefect_server: str) -> None:
        (folder / "examples").symlink_to(ROOT / "examples")
        environment = {n: v for n, v in os.environ.items() if not n.startswith(("BFL_", "FLUX_"))}
        arguments = ["run", str(ROOT / "configs" / "restore.yaml"), "--endpoint", "local", "--store", "store"]
        self.folder = folder
        self.runs = [
            run(
                [
                    sys.executable,
                    "-m",
                    "pipelines.cli",
                    *arguments,
                    "--manifest",
                    f"{n}.jsonl",
                    "--report",
                    f"{n}.html",
                ],
                cwd=folder,
                env={**environment, "PREFECT_API_URL": prefect_server, "PYTHONPATH": str(ROOT)},
            )
            for n in ("first", "second")
        ]

    def rows(self, name: str = "first") -> dict[str, dict[str, Any]]:
        lines = (self.folder / f"{name}.jsonl").read_text().splitlines()
        return {row["item"]: row for row in map(json.loads, lines)}


@pytest.fixture(scope="module")
def restored(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> Restored:
    return Restored(tmp_path_factory.mktemp("restore"), prefect_server)


def step(row: dict[str, Any], name: str) -> dict[str, Any]:
    return next(s for s in row["steps"] if s["id"] == name)


def before(row: dict[str, Any], name: str) -> dict[str, Any]:
    """The picture that a step worked on: of the nearest step before it that was not skipped, else the item's own."""
    earlier = row["steps"][: [s["id"] for s in row["steps"]].index(name)]
    return next((s["image"] for s in reversed(earlier) if "image" in s), row["input"])


def picture(described: dict[str, Any]) -> Image.Image:
    return ImageRef.from_dict(described).open().convert("RGB")


def sharpness(image: Image.Image) -> float:
    """Mean gradient of the luminance."""
    return float(ImageStat.Stat(image.convert("L").filter(ImageFilter.FIND_EDGES)).mean[0])


def test_every_sample_photo_is_restored_without_key_and_network(restored: Restored) -> None:
    first = restored.runs[0]
    assert first.returncode == 0, first.stderr
    rows = restored.rows()
    assert set(rows) == {p.stem for p in (ROOT / "examples" / "photos").glob("*.jpg")}
    assert {row["outcome"] for row in rows.values()} == {"done"}
    for row in rows.values():
        with Image.open(restored.folder / row["output_path"]) as image:
            assert abs(image.width / image.height - 16 / 9) < 0.05


def test_blurred_photos_come_out_sharper(restored: Restored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(restored.folder)
    for name in ("hens", "camels", "wine-table"):
        row = restored.rows()[name]
        assert sharpness(picture(step(row, "deblur")["image"])) > 1.15 * sharpness(picture(row["input"]))


def test_photos_that_are_sharp_already_are_not_paid_for_to_be_sharpened(restored: Restored) -> None:
    skipped = {name for name, row in restored.rows().items() if step(row, "deblur")["outcome"] == "skipped"}
    assert skipped == {"mont-saint-michel", "mountain-path"}


def test_erasing_changes_what_the_mask_covers_and_nothing_else(restored: Restored) -> None:
    for row in restored.rows().values():
        erased = step(row, "erase")
        if erased["outcome"] == "skipped":
            continue
        original, after = picture(before(row, "erase")), picture(erased["image"])
        mask = picture(erased["mask"]).convert("L")
        grown = mask.filter(ImageFilter.MaxFilter(2 * 10 + 1))  # dilate_pixels: 10
        difference = ImageChops.difference(original, after).convert("L")
        assert ImageStat.Stat(difference, ImageChops.invert(grown)).extrema[0][1] == 0
        assert ImageStat.Stat(difference, mask).mean[0] > 8


def test_outpainting_keeps_the_picture_it_extends(restored: Restored) -> None:
    for row in restored.rows().values():
        wide = step(row, "outpaint")
        if wide["outcome"] == "unchanged":
            assert row["item"] == "camels"  # it has the shape already
            continue
        original = picture(before(row, "outpaint"))
        left, top = wide["parameters"]["reference_offset_x"], wide["parameters"]["reference_offset_y"]
        kept = picture(wide["image"]).crop((left, top, left + original.width, top + original.height))
        assert ImageChops.difference(kept, original).getbbox() is None


def test_everything_says_that_it_is_a_local_preview(restored: Restored) -> None:
    assert "local preview: made on this machine" in restored.runs[0].stdout
    assert "nothing was paid" in restored.runs[0].stdout
    report = (restored.folder / "first.html").read_text()
    assert "not by FLUX" in report
    for row in restored.rows().values():
        assert row["preview"] is True
        assert inspect((restored.folder / row["output_path"]).read_bytes()).preview == "local:classical@1"


def test_a_second_run_makes_no_job_and_says_so(restored: Restored) -> None:
    second = restored.runs[1]
    assert second.returncode == 0, second.stderr
    assert "no job was made and nothing was paid" in second.stdout
    assert "Prefect" not in second.stderr.replace("no flow run in Prefect: no job was left to make", "")
    assert {row["outcome"] for row in restored.rows("second").values()} == {"cached"}


def test_nothing_is_left_in_the_journal(restored: Restored) -> None:
    assert list((restored.folder / "store" / "journal").glob("*")) == []
