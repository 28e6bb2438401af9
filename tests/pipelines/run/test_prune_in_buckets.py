"""`--prune` and `dedupe` where source, store and outputs are in a bucket."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from object_stores import fake_gcs, moto_s3, new_bucket_name, reach_gcs, reach_s3
from recipes import Place, perform

from flux_tasks import files
from flux_tasks.store.records import Store
from pipelines.recipe import Recipe
from pipelines.run.prune import Prune


@pytest.fixture(params=["s3", "gs"])
def bucket(here: Place, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    is_s3 = request.param == "s3"
    with moto_s3() if is_s3 else fake_gcs(tmp_path) as endpoint, (reach_s3 if is_s3 else reach_gcs)(endpoint):
        address = f"{request.param}://{new_bucket_name()}"
        files.exists(f"{address}/any")
        fsspec.filesystem(request.param).mkdir(address.partition("://")[2])
        here.settings = replace(here.settings, store=f"{address}/store")
        yield address


def test_what_is_gone_from_a_bucket_is_removed_there_and_duplicates_are_paid_for_once(here: Place, bucket: str) -> None:
    data = [(here.folder / "photos" / f"p{number}.png").read_bytes() for number in range(2)]
    for name, content in (("a", data[0]), ("b", data[1]), ("ü again", data[1])):
        files.write(f"{bucket}/photos/{name}.png", content)
    outputs = [
        {"path": f"{bucket}/out/{{{{ stem }}}}.png", "provenance": True},
        {"dataset": f"{bucket}/rows", "format": "parquet"},
        {"dataset": f"{bucket}/folder", "format": "imagefolder"},
    ]
    source = {"images": f"{bucket}/photos/*.png", "dedupe": {"near": 2}}
    recipe = Recipe("buckets", source=source, steps=[{"deblur": {}}], output=outputs)
    run, rows = perform(recipe, here.settings)
    assert (here.jobs, run.summary.duplicates, rows[2]["duplicate_of"]) == (2, 1, f"{bucket}/photos/b.png")
    files.remove(f"{bucket}/photos/a.png")
    prune = Prune(recipe.compiled, Store(here.settings.store), may_be_empty=False)
    prune.collect()
    perform(recipe, here.settings)
    stale = prune.stale()
    assert [one.path.removeprefix(bucket) for one in stale] == ["/folder/train/a", "/out/a.png", "/rows/train/a"]
    assert [*prune.remove(stale)] == []
    assert files.listing(f"{bucket}/out") == ["b.png", "b.png.json"]
    assert files.listing(f"{bucket}/folder/train") == ["b.png", "metadata.jsonl"]
    assert files.listing(f"{bucket}/rows/data") == ["train-00002.parquet"]
    assert here.jobs == 2
