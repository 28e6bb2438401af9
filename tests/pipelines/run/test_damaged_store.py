"""A store with much damage: one run heals or names all of it, and is charged nothing."""

from __future__ import annotations

import json
import random
from pathlib import Path

from pictures import noise
from recipes import Painter, perform

from flux_tasks.images import byte_cache
from flux_tasks.settings import Settings
from pipelines.plan.planner import plan
from pipelines.recipe import Recipe

PICTURES = 200


def damage(place: Path, choice: random.Random) -> None:
    data = place.read_bytes()
    at = choice.randrange(len(data))
    flipped = data[:at] + bytes([data[at] ^ 1 << choice.randrange(8)]) + data[at + 1 :]
    way = choice.choice([b"", data[:at], flipped, None])
    place.unlink() if way is None else place.write_bytes(way)


def test_a_store_of_200_results_with_every_tenth_record_and_blob_damaged_is_healed_or_named_and_costs_nothing(
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
    for folder in ("results", "blobs"):
        for place in choice.sample(sorted(path for path in (tmp_path / "store" / folder).rglob("*.*")), PICTURES // 10):
            damage(place, choice)
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    byte_cache.shared._entries.clear()
    foreseen = plan(recipe.compiled, settings=settings)
    run, rows = perform(recipe, settings)
    assert painter.jobs == charged, "a job was paid for again"
    assert foreseen.credits == 0
    problems = [row for row in rows if row["error"]]
    healed = [
        row for row in rows if any("from its copy" in w for step in row["steps"] for w in step.get("warnings", []))
    ]
    assert len(rows) == PICTURES
    assert 10 <= len(problems) <= 20, [row["error"]["message"] for row in problems]
    assert 10 <= len(healed) <= 20
    assert all("blobs/" in row["error"]["message"] for row in problems)
    for row in rows:
        if row["error"] is None:
            assert row["output"]["digest"] == whole[row["item"]]
            assert Path(row["output_path"]).read_bytes()
    assert "Traceback" not in json.dumps(rows)
