"""Results in datasets: what the libraries that people use read back, and what a run adds to a dataset that is there."""

from __future__ import annotations

import errno
import gc
import hashlib
import io
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import forked
import killed_writers
import pytest
import yaml
from command_line import Here
from object_stores import moto_s3, new_bucket_name, reach_s3
from PIL import Image
from recipes import Place, age, perform

from flux_tasks import files
from flux_tasks.errors import RecipeError, StoreUnavailable
from flux_tasks.images.reference import ImageRef
from pipelines.data.writers.verify import verify
from pipelines.plan.planner import plan
from pipelines.recipe import Recipe
from pipelines.run.run import Run

PICTURES = 4  # the last one has no mask: its item fails
FORMATS = ("imagefolder", "parquet", "webdataset")
TABLE = "file,caption,score,note\np0,a cat,1,\np1,a dog,2.5,\np2,hens,3,\np3,no mask,4,\n"


def recipe(here: Place, kind: str, **output: Any) -> Recipe:
    """Deblur and erase by a table; the results go into a dataset."""
    if not (here.folder / "t.csv").exists():
        (here.folder / "t.csv").write_text(TABLE)
        age(here.folder, "*")
    data = {
        "name": "clean",
        "source": {
            "table": "FOLDER/t.csv",
            "image": "FOLDER/photos/{{ file }}.png",
            "columns": {"where": "FOLDER/masks/{{ file }}.png"},
        },
        "steps": [{"deblur": {}}, {"erase": {"mask": "{{ where }}"}}],
        "output": {"dataset": "FOLDER/out", "format": kind, **output},
    }
    return here.recipe(data)


def over_photos(here: Place, kind: str, **output: Any) -> Recipe:
    """Deblur every picture that has a mask."""
    data = {
        "source": {"images": "FOLDER/photos/*.png"},
        "steps": [{"deblur": {}}],
        "output": {"dataset": "FOLDER/out", "format": kind, **output},
    }
    return here.recipe(data)


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """When each file was written, and its bytes."""
    return {
        str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()
    }


def load(folder: Path, **options: Any) -> Any:
    """The dataset as ``datasets.load_dataset`` reads it, its pictures as they are stored."""
    import datasets

    datasets.disable_progress_bars()
    found = datasets.load_dataset(str(folder), cache_dir=str(folder.parent / "cache"), **options)
    for split in found.values():
        for name, feature in list(split.features.items()):
            if isinstance(feature, datasets.Image):
                found = found.cast_column(name, datasets.Image(decode=False))
    return found


def stored(value: dict[str, Any]) -> bytes:
    """The bytes of a picture that ``datasets`` gives undecoded."""
    return value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()


@pytest.mark.parametrize("kind", FORMATS)
def test_load_dataset_reads_the_delivered_bytes_and_every_column(here: Place, kind: str) -> None:
    run, rows = perform(recipe(here, kind, split={"train": 0.5, "test": 0.5}, provenance=True), here.settings)
    assert run.summary.counts == {"done": 3, "invalid": 1}
    found = load(here.folder / "out")
    assert {name: len(split) for name, split in found.items()} == {"train": 2, "test": 1}
    is_tar = kind == "webdataset"
    names = {"image": "png", "original": "original.png", "mask": "mask.png"} if is_tar else {}
    done = {row["item"]: row for row in rows if row["outcome"] == "done"}
    for row in (row for split in found.values() for row in split):
        columns = row["json"] if is_tar else row
        made = done.pop(columns["id"])
        image, original, mask = (stored(row[names.get(name, name)]) for name in ("image", "original", "mask"))
        assert hashlib.sha256(image).hexdigest() == made["output"]["digest"] == columns["digest"]
        assert image == ImageRef.from_dict(made["output"]).read()
        assert original == Path(made["source"]).read_bytes()
        assert Image.open(io.BytesIO(mask)).size == Image.open(io.BytesIO(image)).size
        line = next(line for line in TABLE.splitlines() if line.startswith(f"{columns['id']},"))
        assert (columns["caption"], columns["score"]) == (line.split(",")[1], float(line.split(",")[2]))
        step = made["steps"][-1]
        assert (columns["tool"], columns["job_id"], columns["outcome"]) == ("erase-v1", step["job_id"], "done")
        assert columns["cost"] == pytest.approx(sum(step["cost"] for step in made["steps"]))
        assert columns["original_digest"] == hashlib.sha256(original).hexdigest()
        text = columns["provenance"] if kind != "imagefolder" else Path(f"{row['image']['path']}.json").read_text()
        provenance = json.loads(text)
        assert provenance["digest"] == columns["digest"]
        assert [step["job_id"] for step in provenance["steps"]] == [step["job_id"] for step in made["steps"]]
        assert provenance["recipe"]["digest"] == run.recipe.digest
    assert not done, "every item that ended well has a row"
    assert not [name for name in state(here.folder / "out") if "p3" in name], "the failed item has none"


@pytest.mark.filterwarnings("ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_the_tars(here: Place) -> None:
    import webdataset

    _, rows = perform(recipe(here, "webdataset"), here.settings)
    shard = here.folder / "out" / "data" / "train-00000.tar"
    found = list(webdataset.WebDataset(str(shard), shardshuffle=False, empty_check=False))
    gc.collect()  # it leaves the closing of the tar to the collector
    assert [sample["__key__"] for sample in found] == ["p0", "p1", "p2"]
    for sample, row in zip(found, rows, strict=False):
        assert sample["png"] == ImageRef.from_dict(row["output"]).read()
        assert sample["original.png"] == Path(row["source"]).read_bytes()
        assert json.loads(sample["json"])["caption"] in TABLE
    figures = json.loads((shard.parent / "train-00000_stats.json").read_text())
    assert (figures["rows"], figures["bytes"]) == (3, shard.stat().st_size)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_second_run_writes_nothing_and_what_is_added_is_all_that_is_written(
    here: Place, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here.folder / "photos" / "p3.png").rename(here.folder / "p3.png")
    age(here.folder)
    perform(over_photos(here, kind), here.settings)
    before, jobs = state(here.folder / "out"), here.jobs
    reads: list[str] = []
    read = files.access.read
    monkeypatch.setattr(
        "flux_tasks.images.loading.files.read", lambda place, **more: reads.append(place) or read(place)
    )
    run, _ = perform(over_photos(here, kind), here.settings)
    assert (state(here.folder / "out"), here.jobs) == (before, jobs)
    assert not [place for place in reads if place.endswith((".png", ".parquet", ".tar", ".jsonl"))]
    assert run.summary.counts == {"cached": 3}
    assert plan(over_photos(here, kind).compiled, settings=here.settings).jobs == 0

    (here.folder / "p3.png").rename(here.folder / "photos" / "a-new.png")
    run, rows = perform(over_photos(here, kind), here.settings)
    after = state(here.folder / "out")
    assert (here.jobs, run.summary.counts) == (jobs + 1, {"cached": 3, "done": 1})
    steady = [name for name in before if name not in ("README.md", "_SUCCESS") and not name.endswith("metadata.jsonl")]
    assert {name: after[name] for name in steady} == {name: before[name] for name in steady}
    found = load(here.folder / "out")["train"]
    ids = [row["id"] for row in (found if kind != "webdataset" else found["json"])]
    assert ids == ["p0", "p1", "p2", "a-new"]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_changed_picture_replaces_its_row(here: Place, kind: str) -> None:
    perform(over_photos(here, kind), here.settings)
    Image.new("RGB", (64, 64), "red").save(here.folder / "photos" / "p1.png")
    run, rows = perform(over_photos(here, kind), here.settings)
    assert run.summary.counts == {"cached": 3, "done": 1}
    found = load(here.folder / "out")["train"]
    digests = {row["id"]: row["digest"] for row in (found if kind != "webdataset" else found["json"])}
    assert digests == {row["item"]: row["output"]["digest"] for row in rows}
    assert len(found) == 4
    data = state(here.folder / "out")
    run, _ = perform(over_photos(here, kind), here.settings)
    assert run.summary.counts == {"cached": 4}
    assert state(here.folder / "out") == data


def test_shards_end_at_their_size_and_rows_keep_the_order_of_the_source(here: Place) -> None:
    for number in range(8):
        noise = Image.frombytes("RGB", (360, 360), os.urandom(360 * 360 * 3))
        noise.save(here.folder / "photos" / f"q{number}.png")
    data = over_photos(here, "parquet", shard_size="1 MB").to_data()
    data["steps"] = [{"crop": {"box": [0, 0, 300, 300]}}]
    data["source"] = {"images": f"{here.folder}/photos/q*.png"}
    data["output"][0].pop("from")
    run, _ = perform(Recipe.parse(yaml.safe_dump(data)), here.settings)
    assert not run.summary.problem
    shards = sorted((here.folder / "out" / "data").iterdir())
    assert len(shards) == 8
    assert all(shard.stat().st_size < 1_000_000 for shard in shards)
    assert [row["id"] for row in load(here.folder / "out")["train"]] == [f"q{number}" for number in range(8)]


def test_what_was_paid_is_kept_when_the_disk_is_full_and_the_next_run_writes_it(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    made = over_photos(here, "parquet")
    with monkeypatch.context() as patch:
        patch.setattr("flux_tasks.files.staging.Staging.publish", full)
        run, _ = perform(made, here.settings)
    assert "No space left on device" in run.summary.problem
    assert not (here.folder / "out" / "_SUCCESS").exists()
    jobs = here.jobs
    run, _ = perform(made, here.settings)
    assert (here.jobs, run.summary.problem) == (jobs, "")
    assert len(load(here.folder / "out")["train"]) == 4


@pytest.mark.parametrize("kind", FORMATS)
def test_a_killed_writer_leaves_whole_shards_and_the_next_run_finishes_the_same_dataset(
    tmp_path: Path, kind: str
) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(8):
        noise = Image.frombytes("RGB", (220, 220), os.urandom(220 * 220 * 3))
        noise.save(tmp_path / "photos" / f"p{number}.png")
    command = [sys.executable, killed_writers.__file__, str(tmp_path), kind, "2", "3"]
    found = forked.run(command)
    assert found.returncode == 0, found.stderr
    figures = json.loads(found.stdout)
    assert (figures["killed"], figures["halves"], figures["different"]) == (2, 0, 0)


def test_what_a_process_that_was_killed_at_its_very_end_has_left_goes_with_the_next_run(here: Place) -> None:
    made = over_photos(here, "webdataset")
    perform(made, here.settings)
    whole = state(here.folder / "out")
    place = here.folder / "out" / ".flux" / "writer.json"
    with subprocess.Popen([sys.executable, "-c", ""]) as other:
        from flux_tasks.store.owner import this_process

        owner = this_process().replace(f":{os.getpid()} ", f":{other.pid} ")
    place.write_text(json.dumps({"owner": owner, "time": time.time()}))
    perform(made, here.settings)
    assert state(here.folder / "out") == whole


def test_only_one_process_writes_a_dataset_at_a_time(here: Place) -> None:
    made = over_photos(here, "parquet")
    place = here.folder / "out" / ".flux" / "writer.json"
    place.parent.mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        from flux_tasks.store.owner import this_process

        owner = this_process().replace(f":{os.getpid()} ", f":{other.pid} ")
        place.write_text(json.dumps({"owner": owner, "time": time.time()}))
        with pytest.raises(StoreUnavailable, match=r"is being written by"):
            perform(made, here.settings)
        assert here.jobs == 0
        other.communicate(b"\n")
    run, _ = perform(made, here.settings)  # the owner has ended
    assert not run.summary.problem
    assert not place.exists()


def test_pictures_are_encoded_anew_only_where_the_output_asks(here: Place) -> None:
    made = recipe(here, "imagefolder", convert={"format": "jpeg", "quality": 90, "size": 64})
    run, _ = perform(made, here.settings)
    for row in load(here.folder / "out")["train"]:
        with Image.open(row["image"]["path"]) as image, Image.open(row["original"]["path"]) as original:
            assert (image.format, max(image.size), original.format, max(original.size)) == ("JPEG", 64, "PNG", 64)
        assert row["digest"] == hashlib.sha256(Path(row["image"]["path"]).read_bytes()).hexdigest()


def test_the_card_is_never_written_over_what_somebody_else_wrote(here: Place) -> None:
    (here.folder / "out").mkdir()
    (here.folder / "out" / "README.md").write_text("mine")
    run, _ = perform(over_photos(here, "parquet"), here.settings)
    assert not run.summary.problem
    assert (here.folder / "out" / "README.md").read_text() == "mine"


def test_the_card_says_licence_counts_costs_and_recipe_and_shows_pictures(here: Place) -> None:
    made = recipe(here, "parquet", license="cc-by-4.0", tags=["inpainting"])
    run, _ = perform(made, here.settings)
    text = (here.folder / "out" / "README.md").read_text()
    header = yaml.safe_load(text.split("---")[1])
    assert (header["license"], header["configs"][0]["data_files"][0]["split"]) == ("cc-by-4.0", "train")
    assert {"inpainting", "erase-v1"} <= set(header["tags"])
    for told in ("| train | 3 |", run.recipe.digest, "Without a row in the last run: 1 item.", "deblur"):
        assert told in text
    shown = sorted(path.name for path in (here.folder / "out" / "card").iterdir())
    assert shown == [f"{n}-{kind}.jpg" for n in (1, 2, 3) for kind in ("image", "mask", "original")]


def test_a_column_that_does_not_fit_the_rows_that_are_there_is_told_before_anything_is_spent(here: Place) -> None:
    perform(recipe(here, "parquet"), here.settings)
    jobs = here.jobs
    (here.folder / "t.csv").write_text(TABLE.replace("note", "note,extra").replace("hens,3,", "hens,many,,x"))
    with pytest.raises(RecipeError) as told:
        plan(recipe(here, "parquet").compiled, settings=here.settings)
    assert "the column score has float64 there, and 'many' in" in str(told.value)
    assert "the column extra is new" in str(told.value)
    with pytest.raises(RecipeError, match="are split by 'train', and would be in two splits"):
        Run(recipe(here, "parquet", split={"train": 0.9, "test": 0.1}).compiled, here.settings)
    with pytest.raises(RecipeError, match="is a dataset of the format parquet"):
        Run(recipe(here, "webdataset").compiled, here.settings)
    assert here.jobs == jobs


def test_two_items_with_one_name_are_told_apart_before_anything_is_spent(here: Place) -> None:
    run, rows = perform(over_photos(here, "webdataset", name="{{ stem[0] }}"), here.settings)
    assert here.jobs == 1
    assert run.summary.counts == {"done": 1, "invalid": 3}
    assert "output.name" in rows[1]["error"]["message"]


@pytest.mark.parametrize("kind", FORMATS)
def test_what_somebody_has_changed_in_a_dataset_is_written_again(here: Place, kind: str) -> None:
    perform(over_photos(here, kind, provenance=True), here.settings)
    jobs, out = here.jobs, here.folder / "out"
    changed = next((out / ("train" if kind == "imagefolder" else "data")).glob("*.[pt][na][grq]*"))
    changed.write_bytes(changed.read_bytes()[:-9] + b"changed!!")
    for path in out.glob("train/p1.png.json"):
        path.unlink()
    run, _ = perform(over_photos(here, kind, provenance=True), here.settings)
    assert (here.jobs, run.summary.problem) == (jobs, "")
    assert [finding for finding in verify(str(out)) if finding] == []
    assert len(load(out)["train"]) == 4
    assert len(list(out.glob("train/*.json"))) == (4 if kind == "imagefolder" else 0)


@pytest.mark.parametrize("kind", FORMATS)
def test_rows_that_are_gone_come_back_without_a_payment(here: Place, kind: str) -> None:
    perform(over_photos(here, kind), here.settings)
    jobs, whole = here.jobs, state(here.folder / "out")
    for path in (here.folder / "out" / ("train" if kind == "imagefolder" else "data")).rglob("*.*"):
        path.unlink() if path.is_file() else None
    run, _ = perform(over_photos(here, kind), here.settings)
    assert (here.jobs, run.summary.problem) == (jobs, "")
    again = state(here.folder / "out")
    seen = [name for name in whole if not name.startswith(".flux")]
    assert {name: again[name][1] for name in seen} == {name: whole[name][1] for name in seen}
    if kind == "imagefolder":
        (here.folder / "out" / "train" / "metadata.jsonl").unlink()
        perform(over_photos(here, kind), here.settings)
        assert len(load(here.folder / "out")["train"]) == 4


def test_variants_of_one_picture_are_rows_of_one_split_beside_files(here: Place) -> None:
    data = {
        "source": "FOLDER/photos/*.png",
        "steps": [{"edit": {"model": "flux-2-klein-4b", "prompt": "oil"}, "matrix": {"seed": [1, 2]}}],
        "output": [
            {"dataset": "FOLDER/out", "split": {"train": 0.5, "test": 0.5}},
            {"path": "FOLDER/looks/{{ stem }}-{{ variant }}.png"},
        ],
    }
    run, rows = perform(here.recipe(data), here.settings)
    assert not run.summary.problem
    assert len(list((here.folder / "looks").iterdir())) == 8
    splits: dict[str, set[str]] = {}
    for name, split in load(here.folder / "out").items():
        for row in split:
            splits.setdefault(row["source"], set()).add(name)
            assert row["id"].endswith(f"seed-{row['seed']}")
    assert len(splits) == 4
    assert all(len(names) == 1 for names in splits.values())
    assert set().union(*splits.values()) == {"train", "test"}


def test_a_column_names_the_split_and_a_name_that_cannot_be_one_is_its_items_error(here: Place) -> None:
    (here.folder / "t.csv").write_text("file,split\np0,val\np1,train\np2,no/name\n")
    age(here.folder, "*")
    run, rows = perform(recipe(here, "webdataset", split="{{ split }}"), here.settings)
    assert run.summary.counts == {"done": 2, "invalid": 1}
    assert "'no/name' is not the name of a split" in rows[2]["error"]["message"]
    assert {name: len(split) for name, split in load(here.folder / "out").items()} == {"train": 1, "val": 1}


def test_no_row_is_written_out_of_its_dataset(here: Place) -> None:
    (here.folder / "t.csv").write_text("file,place\np0,../up\np1,far/p1\np2,original/p2\np3,no-mask\n")
    age(here.folder, "*")
    made = recipe(here, "imagefolder", name="{{ place }}")
    run, rows = perform(made, here.settings)
    assert [row["outcome"] for row in rows] == ["invalid", "done", "invalid", "invalid"]
    assert "cannot be the name of a row" in rows[0]["error"]["message"]
    assert "is where the pictures beside are" in rows[2]["error"]["message"]
    (here.folder / "elsewhere").mkdir()
    (here.folder / "out" / "train" / "linked").symlink_to(here.folder / "elsewhere")
    (here.folder / "t.csv").write_text("file,place\np0,linked/p0\n")
    run, rows = perform(made, here.settings)
    assert "leads out of" in rows[0]["error"]["message"]
    assert not list((here.folder / "elsewhere").iterdir())


def test_a_folder_with_other_things_in_it_is_refused_before_anything_is_spent(here: Place, here_cli: Here) -> None:
    (here.folder / "out" / "train").mkdir(parents=True)
    (here.folder / "recipe.yaml").write_text(over_photos(here, "parquet").to_yaml())
    told = here_cli("validate", str(here.folder / "recipe.yaml"))
    assert told.returncode == 2
    assert "has folders (train), and is no dataset of this program" in told.stderr + told.stdout


@pytest.mark.parametrize("kind", FORMATS)
def test_the_labels_of_results_are_a_column_of_objects(here: Place, kind: str) -> None:
    images = [{"id": n, "file_name": f"p{n}.png", "width": (80, 96)[n % 2], "height": 80} for n in range(PICTURES)]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [10, 20, 30, 40]} for n in range(1, PICTURES)]
    labels = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "hen"}]}
    (here.folder / "labels.json").write_text(json.dumps(labels))
    data = {
        "source": {"images": "FOLDER/photos/*.png", "annotations": "FOLDER/labels.json"},
        "steps": [{"crop": {"box": [10, 0, 74, 64]}}],
        "output": {"dataset": "FOLDER/out", "format": kind, "convert": {"size": 32}},
    }
    run, _ = perform(here.recipe(data), here.settings)
    assert not run.summary.problem
    found = load(here.folder / "out")["train"]
    objects = {row["id"]: row["objects"] for row in (found if kind != "webdataset" else found["json"])}
    hen = {"bbox": [[0.0, 10.0, 15.0, 20.0]], "category": ["hen"]}  # moved by the crop, and half as large
    assert objects == {"p0": {"bbox": [], "category": []}, "p1": hen, "p2": hen, "p3": hen}


def test_a_dataset_in_a_bucket_is_written_and_added_to(here: Place) -> None:
    import fsspec

    with moto_s3() as endpoint, reach_s3(endpoint):
        bucket = new_bucket_name()
        files.exists(f"s3://{bucket}/any")
        store = fsspec.filesystem("s3")
        store.mkdir(bucket)
        here.settings = replace(here.settings, store=f"s3://{bucket}/store")
        data = over_photos(here, "parquet").to_data()
        data["output"] = {"dataset": f"s3://{bucket}/out", "format": "parquet"}
        made = Recipe.parse(yaml.safe_dump(data))
        (here.folder / "photos" / "p3.png").rename(here.folder / "p3.png")
        perform(made, here.settings)
        shard = f"{bucket}/out/data/train-00000.parquet"
        etag = store.info(shard)["ETag"]
        (here.folder / "p3.png").rename(here.folder / "photos" / "p3.png")
        run, _ = perform(made, here.settings)
        assert (here.jobs, run.summary.problem) == (4, "")
        assert store.info(shard)["ETag"] == etag
        names = sorted(name.removeprefix(f"{bucket}/out/") for name in store.find(f"{bucket}/out"))
        assert [name for name in names if name.startswith("data/")] == [
            "data/train-00000.parquet",
            "data/train-00001.parquet",
        ]
        assert "_SUCCESS" in names
        assert not [name for name in names if "tmp" in name or "writer" in name]


def test_a_table_and_masks_in_a_bucket_become_a_dataset_there_and_what_is_added_costs_its_own_jobs(here: Place) -> None:
    import fsspec
    import pyarrow as pa
    from pyarrow import parquet

    with moto_s3() as endpoint, reach_s3(endpoint):
        root = f"s3://{new_bucket_name()}"
        files.exists(f"{root}/any")
        store = fsspec.filesystem("s3")
        store.mkdir(root)
        here.settings = replace(here.settings, store=f"{root}/store")
        made = Recipe.parse(
            f"source: {{table: '{root}/meta/rows.parquet', image: '{root}/photos/{{{{ photo }}}}'}}\n"
            "steps:\n  - deblur: {}\n  - erase: {mask: '{{ mask }}'}\n"
            "  - fill: {mask: '{{ mask }}', prompt: '{{ prompt }}'}\n"
            f"  - outpaint: {{aspect_ratio: '16:9'}}\noutput: {{dataset: '{root}/out', format: imagefolder}}\n"
        )

        def put(count: int) -> None:
            rows = []
            for number in range(count):
                for kind, place in (("photos", "photos"), ("masks", "meta/masks")):
                    data = (here.folder / kind / f"p{number}.png").read_bytes()
                    files.write(f"{root}/{place}/p{number}.png", data)
                rows.append(
                    {"photo": f"p{number}.png", "mask": f"{root}/meta/masks/p{number}.png", "prompt": f"sky {number}"}
                )
            table = io.BytesIO()
            parquet.write_table(pa.Table.from_pylist(rows), table)
            files.write(f"{root}/meta/rows.parquet", table.getvalue())

        for count, jobs in ((2, 8), (2, 8), (3, 12)):
            put(count)
            run, rows = perform(made, here.settings)
            assert (here.jobs, run.summary.problem) == (jobs, "")
        store.get(f"{root}/out", str(here.folder / "copy"), recursive=True)
        found = {row["id"]: row for row in load(here.folder / "copy")["train"]}
        assert sorted(found) == ["p0", "p1", "p2"]
        for row in rows:
            result, photo = files.read(row["outputs"][0]["path"]), files.read(row["source"])
            for image, data in (("image", result), ("original", photo)):
                assert Path(found[row["item"]][image]["path"]).read_bytes() == data
            assert found[row["item"]]["prompt"] == f"sky {row['item'][1]}"
            assert found[row["item"]]["digest"] == hashlib.sha256(result).hexdigest()
