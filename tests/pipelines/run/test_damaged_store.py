"""A store with much damage: one run heals or names all of it, and is charged nothing."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from pictures import noise
from recipes import Painter, perform

from flux_tasks.errors import RecipeError
from flux_tasks.images import byte_cache
from flux_tasks.settings import Settings
from flux_tasks.store.records import Store
from pipelines.data.history import PastRun
from pipelines.plan.planner import plan
from pipelines.recipe import Recipe
from pipelines.report.page import RunSummary, write_report

PICTURES = 80


def damage(place: Path, choice: random.Random) -> None:
    data = place.read_bytes()
    at = choice.randrange(len(data))
    flipped = data[:at] + bytes([data[at] ^ 1 << choice.randrange(8)]) + data[at + 1 :]
    way = choice.choice([b"", data[:at], flipped, None])
    place.unlink() if way is None else place.write_bytes(way)


def test_a_store_of_80_results_with_every_fourth_record_and_blob_damaged_is_healed_or_named_and_costs_nothing(
    painter: Painter, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(PICTURES):
        noise((64, 64), seed=number).save(tmp_path / "photos" / f"p{number:03}.png")
    settings = Settings(endpoint=painter.url, key="k", store=str(tmp_path / "store"), poll_interval=0.002, max_jobs=24)
    recipe = Recipe.parse(
        f"source: '{tmp_path}/photos/*.png'\n"
        "steps:\n  - edit: {model: flux-2-pro, prompt: x}\n"
        f"output: '{tmp_path}/out/{{{{ stem }}}}.png'\n"
    )
    _, first = perform(recipe, settings)
    assert {row["outcome"] for row in first} == {"done"}
    whole = {row["item"]: row["output"]["digest"] for row in first}
    charged, choice = painter.jobs, random.Random(7)
    store, harmed = Store(settings.store), dict[str, set[str]]()
    item_of = {digest: item for item, digest in whole.items()}
    for folder in ("results", "blobs"):
        chosen = choice.sample(sorted(path for path in (tmp_path / "store" / folder).rglob("*.*")), PICTURES // 4)
        digests = [store.result(path.stem)["image"].digest if folder == "results" else path.stem for path in chosen]
        harmed[folder] = {item_of[digest] for digest in digests}
        for path in chosen:
            damage(path, choice)
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    byte_cache.shared._entries.clear()
    foreseen = plan(recipe.compiled, settings=settings)
    run, rows = perform(recipe, settings)
    assert painter.jobs == charged, "a job was paid for again"
    assert foreseen.credits == 0
    problems = [row for row in rows if row["error"]]
    healed = {
        row["item"]
        for row in rows
        if any("from its copy" in w for step in row["steps"] for w in step.get("warnings", []))
    }
    assert len(rows) == PICTURES
    assert {row["item"] for row in problems} == harmed["blobs"]
    assert all("blobs/" in row["error"]["message"] for row in problems)
    assert harmed["results"] - harmed["blobs"] <= healed <= harmed["results"]
    for row in rows:
        if row["error"] is None:
            assert row["output"]["digest"] == whole[row["item"]]
            assert Path(row["output_path"]).read_bytes()
    assert "Traceback" not in json.dumps(rows)


EVERY_KIND = """\
source: 'FOLDER/photos/*.png'
steps:
  - edit: {model: flux-2-pro, prompt: x}
    when: sharpness >= 0
  - resize: {width: 72, height: 72}
  - deblur: {}
output: 'FOLDER/out/{{ stem }}.png'
"""

KINDS = (
    "results",
    "copies",
    "blobs",
    "facts",
    "prices",
    "timings",
    "runs/*/run.json",
    "runs/*/manifest.jsonl",
    "budgets",
)


@pytest.mark.parametrize("kind", KINDS)
def test_any_byte_of_any_kind_of_record_may_change_without_a_payment_a_traceback_or_a_wrong_picture(
    painter: Painter, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "photos").mkdir()
    noise((96, 96)).save(tmp_path / "photos" / "a.png")
    settings = Settings(endpoint=painter.url, key="k", store=str(tmp_path / "store"), poll_interval=0.002)
    recipe = Recipe.parse(EVERY_KIND.replace("FOLDER", str(tmp_path)))
    _, [row] = perform(recipe, settings)
    whole = row["output"]["digest"]
    store = Store(settings.store)
    store.put_record(
        "budgets", f"{recipe.compiled.digest}/old", {"spent": 9.0, "held": 0.0, "cap": 10, "is_over": True}
    )
    charged, choice = painter.jobs, random.Random(kind)
    pattern = kind if "*" in kind else f"{kind}/**/*.*"
    shutil.copytree(settings.store, tmp_path / "backup")
    names = sorted(path.relative_to(tmp_path / "backup") for path in (tmp_path / "backup").glob(pattern))
    assert names, "the store has nothing of this kind"
    for _ in range(12):
        shutil.rmtree(settings.store)
        shutil.copytree(tmp_path / "backup", settings.store)
        damage(Path(settings.store) / choice.choice(names), choice)
        (tmp_path / "out" / "a.png").unlink(missing_ok=True)
        byte_cache.shared._entries.clear()
        plan(recipe.compiled, settings=settings, budget=10)
        with suppress(RecipeError):
            PastRun.find("last", settings.store).items(["done"])
        again, [row] = perform(recipe, settings, budget=10)
        assert painter.jobs == charged
        assert again.summary.items == 1
        if row["error"] is None:
            assert row["output"]["digest"] == whole
            assert hashlib.sha256(Path(row["output_path"]).read_bytes()).hexdigest() == whole
        else:
            assert kind in ("blobs", "results"), row["error"]
            assert "blobs/" in row["error"]["message"]
        page = write_report(str(tmp_path / "report.html"), RunSummary.of(again.summary), again.rows())
        assert Path(page).stat().st_size
