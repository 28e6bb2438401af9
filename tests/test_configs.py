"""Every recipe in `configs/` and `examples/` over the sample data, offline: what its plan says is what it does."""

from __future__ import annotations

import hashlib
import os
import runpy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat
from pyarrow import parquet
from recipes import perform

from flux_tasks.images.encoding import inspect
from flux_tasks.local.server import LocalServer
from flux_tasks.settings import Settings
from pipelines.plan.result import Plan
from pipelines.recipe import Recipe
from pipelines.run.run import Run

ROOT = Path(__file__).parent.parent
FOLDERS = ("configs", "examples")
RECIPES = sorted(f"{folder}/{path.name}" for folder in FOLDERS for path in ROOT.glob(f"{folder}/*.yaml"))
LIMITS = {"configs/restore.yaml": 1}  # the whole of it is run by test_restoration


@dataclass
class Ran:
    """A recipe that was planned, run, planned again and run again in a folder of its own.

    Attributes:
        charged: jobs in the server's charge log after each run.
    """

    folder: Path
    recipe: Recipe
    plans: list[Plan] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    charged: list[int] = field(default_factory=list)
    credits: float = 0.0

    @property
    def rows(self) -> list[dict[str, Any]]:
        return list(self.runs[0].rows())

    def picture(self, path: str) -> Image.Image:
        with Image.open(self.folder / path) as image:
            return image.convert("RGB")


def ran(file: str, folder: Path) -> Ran:
    for name in ("configs", "examples"):
        (folder / name).symlink_to(ROOT / name)
    limit = LIMITS.get(file)
    with pytest.MonkeyPatch.context() as patch, LocalServer() as server:
        for name in [name for name in os.environ if name.startswith(("BFL_", "FLUX_"))]:
            patch.delenv(name)
        patch.chdir(folder)
        settings = Settings(endpoint=server.url, store=str(folder / "store"), poll_interval=0.03)
        done = Ran(folder, Recipe.load(file))
        for _ in range(2):
            done.plans.append(done.recipe.plan(settings=settings, limit=limit))
            done.runs.append(perform(done.recipe, settings, limit=limit)[0])
            done.charged.append(len(server.charges))
        done.credits = server.charges.charged
    return done


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ran]:
    known: dict[str, Ran] = {}

    def find(file: str) -> Ran:
        if file not in known:
            known[file] = ran(file, tmp_path_factory.mktemp("recipe"))
        return known[file]

    return find


@pytest.fixture(scope="module", params=RECIPES)
def done(request: pytest.FixtureRequest, once: Callable[[str], Ran]) -> Ran:
    return once(request.param)


def test_every_item_ends_well(done: Ran) -> None:
    assert done.runs[0].summary.is_fine, [row["error"] for row in done.rows]
    assert done.plans[0].items == len(done.rows) == done.runs[0].summary.total


def test_the_plan_tells_how_many_jobs_are_paid_for_and_their_price(done: Ran) -> None:
    plan = done.plans[0]
    assert plan.jobs == done.runs[0].summary.jobs == done.charged[0] > 0
    assert plan.total("undecided").jobs == 0
    assert plan.invalid == []
    stand_in = 1.0  # what the local server charges where nobody knows the price
    assert done.credits == pytest.approx(plan.credits + plan.unpriced * stand_in)


def test_the_budget_is_enough_for_the_sample_data_and_not_much_more(done: Ran) -> None:
    budget, needed = done.recipe.budget, done.plans[0].credits + 5 * done.plans[0].unpriced
    assert budget is not None
    assert needed <= budget.credits
    assert budget.credits <= 5 * needed or done.recipe.compiled.file in LIMITS


def test_a_second_run_pays_for_nothing(done: Ran) -> None:
    assert done.plans[1].jobs == 0
    assert done.runs[1].summary.jobs == 0
    assert done.charged[1] == done.charged[0]


def dataset_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet dataset, each with its picture."""
    rows = [row for shard in sorted(folder.glob("data/*.parquet")) for row in parquet.read_table(shard).to_pylist()]
    for row in rows:
        assert hashlib.sha256(row["image"]["bytes"]).hexdigest() == row["digest"]
        assert (inspect(row["image"]["bytes"]).preview or "") == (row["engine"] or "")
    return rows


def test_every_result_is_where_the_recipe_says_and_is_marked_as_a_preview(done: Ran) -> None:
    folders = {done.folder / output.root for output in done.recipe.outputs if not output.dataset}
    written = [path for folder in folders for path in folder.glob("*.*")]
    rows = [row for output in done.recipe.outputs if output.dataset for row in dataset_rows(done.folder / output.root)]
    assert len(written) + len(rows) >= len(done.rows)
    assert {row["engine"] for row in rows if row["outcome"] == "done"} <= {"local:classical@1"}
    made = {row["output_path"] for row in done.rows if row["outcome"] == "done" and not rows}
    for path in made:
        assert inspect((done.folder / path).read_bytes()).preview == "local:classical@1"


@pytest.mark.parametrize("file", RECIPES)
def test_every_recipe_begins_with_what_editors_need_and_how_it_is_run(file: str) -> None:
    first, *lines = (ROOT / file).read_text().splitlines()
    schema = first.removeprefix("# yaml-language-server: $schema=")
    assert ((ROOT / file).parent / schema).resolve() == ROOT / "configs" / "recipe.schema.json"
    assert any(f"flux-pipelines run {file} --endpoint local" in line for line in lines if line.startswith("#"))


# -- what each of them is for -----------------------------------------------------------------------------------------


def test_product_photos_become_square_and_their_background_is_cleaned(once: Callable[[str], Ran]) -> None:
    done = once("configs/products.yaml")
    for name in ("bottle", "drum", "grinder"):
        large, small = done.picture(f"out/products/{name}.jpg"), done.picture(f"out/products/thumbnails/{name}.jpg")
        assert abs(large.width / large.height - 1) < 0.02
        assert max(small.size) == 200
    erased = {row["item"]: outcomes(row)["erase"] for row in done.rows}
    assert erased == {"bottle": "done", "drum": "done", "grinder": "skipped"}


def test_the_privacy_recipe_changes_what_is_marked_and_no_other_pixel(once: Callable[[str], Ran]) -> None:
    done = once("configs/privacy.yaml")
    boxes = {"wine-table": (352, 312, 456, 472), "drums": (412, 492, 516, 558)}
    assert {row["item"] for row in done.rows} == {
        *boxes,
        "hens",
        "mont-saint-michel",
    }  # not camels
    for name, (left, top, right, bottom) in boxes.items():
        before, after = done.picture(f"examples/photos/{name}.jpg"), done.picture(f"out/privacy/{name}.png")
        difference = ImageChops.difference(before, after).convert("L")
        within = difference.crop((left, top, right, bottom)).point(lambda value: 255 * (value > 0))
        assert within.histogram()[255] > 0.8 * within.width * within.height
        corner = (0, 0, 200, 150)  # far from everything that is marked
        assert difference.crop(corner).getbbox() is None
    unmarked = ImageChops.difference(
        done.picture("examples/photos/mont-saint-michel.jpg"), done.picture("out/privacy/mont-saint-michel.png")
    )
    assert unmarked.getbbox() is None


def test_boxes_remove_things_without_a_mask_and_what_is_kept_stays(once: Callable[[str], Ran]) -> None:
    done = once("configs/erase_by_boxes.yaml")
    assert {row["item"]: row["steps"][0]["tool"] for row in done.rows} == dict.fromkeys(
        ("hens", "wine-table"), "flux-3-image"
    )
    places = {"hens": ((0.05, 0.25, 0.2, 0.7), (0.36, 0.11, 0.97, 0.89)), "wine-table": ((0.23, 0.4, 0.33, 0.8), None)}
    for name, (removed, kept) in places.items():
        after = done.picture(f"out/erase-by-boxes/{name}.png")
        assert 0.5 < after.width * after.height / 1_048_576 < 0.6  # the megapixels of its tier
        before = done.picture(f"examples/photos/{name}.jpg").resize(after.size, Image.Resampling.LANCZOS)
        difference = ImageChops.difference(before, after).convert("L")
        sides = (after.width, after.height) * 2
        within, beside = (
            difference.crop(tuple(round(share * side) for share, side in zip(place, sides, strict=True)))
            for place in (removed, kept or (0.5, 0.1, 0.9, 0.9))
        )
        assert ImageStat.Stat(within).mean[0] > 5
        assert beside.getbbox() is None


def test_augmentation_makes_four_pictures_of_each_chosen_training_photo(once: Callable[[str], Ran]) -> None:
    done = once("configs/augment.yaml")
    names = {path.stem for path in (done.folder / "out" / "augment").glob("*.jpg")}
    chosen = {row["item"] for row in done.rows}
    assert names == {f"{stem}-{sky}-{seed}" for stem in chosen for sky in ("foggy", "snowy") for seed in (1, 2)}
    assert len(chosen) == 3
    assert not chosen & {"mont-saint-michel", "wine-table"}  # the test set
    assert {done.picture(f"out/augment/{name}.jpg").size for name in names} == {(640, 448)}


def test_composition_joins_three_branches_one_of_them_free(once: Callable[[str], Ran]) -> None:
    done = once("configs/compose.yaml")
    for row in done.rows:
        joined = next(step for step in row["steps"] if step["id"] == "picture")
        assert joined["from"] == ["montage", "packshot", "study"]
    montage = done.picture("out/compose/montages/bottle.png")
    ground = done.picture("examples/scenes/meadow.jpg")
    left, _, right, bottom = ImageChops.difference(montage, ground).getbbox() or (0, 0, 0, 0)
    assert abs((left + right) / 2 - 320) < 5
    assert 430 <= bottom <= 440


def test_every_look_of_the_table_is_tried_on(once: Callable[[str], Ran]) -> None:
    done = once("configs/try-on.yaml")
    looks = {path.stem for path in (done.folder / "out" / "try-on").glob("*.jpg")}
    assert looks == {"ada-jumper", "ada-coat", "ben-jumper", "ben-coat"}


def test_only_drafts_that_were_chosen_are_made_large(once: Callable[[str], Ran]) -> None:
    done = once("configs/prompts.yaml")
    sizes = {path.stem: done.picture(str(path)).size for path in (done.folder / "out" / "prompts").glob("*.jpg")}
    assert sizes == {"lighthouse": (1024, 768), "market": (512, 384), "tram": (1024, 768)}


def test_an_operation_of_ones_own_is_a_step_among_others(once: Callable[[str], Ran]) -> None:
    done = once("examples/own_operation.yaml")
    photo, darkened = done.picture("examples/photos/camels.jpg"), done.picture("out/own/camels.png")
    corner, middle = (0, 0, 20, 20), (500, 280, 520, 300)
    assert brightness(darkened, corner) < 0.6 * brightness(photo, corner)
    assert brightness(darkened, middle) > 0.8 * brightness(photo, middle)


def test_the_recipe_in_python_is_the_one_in_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    namespace = runpy.run_path("examples/recipe_in_python.py", run_name="example")
    assert namespace["recipe"].digest == Recipe.load("configs/compose.yaml").digest


def outcomes(row: dict[str, Any]) -> dict[str, str]:
    """How each step ended."""
    return {step["id"]: step["outcome"] for step in row["steps"]}


def brightness(image: Image.Image, box: tuple[int, int, int, int]) -> float:
    """Mean luminance of a part."""
    return ImageStat.Stat(image.crop(box).convert("L")).mean[0]
