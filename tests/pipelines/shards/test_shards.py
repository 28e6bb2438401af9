"""A run in shards comes to what one process comes to: its rows, its files, its charges, its budget, its end."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st
from in_shards import Threads, alike, perform_in_shards
from labelled import Scene
from PIL import Image
from recipes import Painter, Place, age, perform, place, recipes

from flux_tasks.errors import BudgetReached, Interrupted, OutOfCredits, RecipeError
from flux_tasks.store.records import Store
from pipelines.recipe import Recipe
from pipelines.run.run import Run
from pipelines.run.shard import MOST_SHARDS, Shard, ShardFolder, shard_of
from pipelines.run.state import read_states
from pipelines.shards.coordinator import finish_in_shards

pytestmark = pytest.mark.early

PICTURES = 6
STEPS = [{"deblur": {}}, {"erase": {"mask": "FOLDER/masks/{{ stem }}.png"}, "when": "mask_exists"}]


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard is begun again at once."""
    monkeypatch.setattr("pipelines.shards.coordinator._PAUSE", 0.01)


def recipe(here: Place, **more: Any) -> Recipe:
    data = {
        "name": "clean",
        "source": {"images": "FOLDER/photos/*.png", "columns": {"mask": "FOLDER/masks/{{ stem }}.png"}},
        "steps": [{"deblur": {}}, {"erase": {"mask": "{{ mask }}"}, "when": "mask_exists"}, {"resize": {"width": 64}}],
        "output": "FOLDER/out/{{ stem }}.png",
        **more,
    }
    return here.recipe(data)


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def both(painter: Painter, make: Any, count: int = 3, pictures: int = PICTURES, **options: Any) -> tuple[Any, Any]:
    """The same recipe in one process and in shards, each with a store of its own: rows, jobs, credits, files, sums."""
    found = []
    with place(painter, pictures) as here:
        made = make(here)
        for how in (perform, partial(perform_in_shards, count=count)):
            jobs, spent = here.jobs, here.spent
            settings = replace(here.settings, store=str(here.folder / f"store-{len(found)}"))
            run, rows = how(made, settings, **options)
            summary = run.summary
            sums = (
                summary.counts,
                summary.jobs,
                round(summary.cost, 6),
                summary.cached,
                summary.tools,
                summary.warnings,
            )
            written = sorted(files_in(here.folder / "out")) if (here.folder / "out").exists() else []
            found.append((alike(rows, settings.store), here.jobs - jobs, round(here.spent - spent, 6), written, sums))
            shutil.rmtree(here.folder / "out", ignore_errors=True)
    return found[0], found[1]


# -- what belongs to which shard ---------------------------------------------------------------------------------------


def test_the_shard_of_an_item_is_the_same_in_every_version() -> None:
    found = [shard_of(source, 8) for source in ("photos/apple.png", "s3://bucket/ä.png", "row-000012")]
    assert found == [3, 6, 7]


@given(st.lists(st.text(), unique=True, max_size=50), st.integers(1, MOST_SHARDS))
def test_every_item_belongs_to_one_shard(sources: list[str], count: int) -> None:
    assert all(1 <= shard_of(source, count) <= count for source in sources)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/3", "1/1001", ""])
def test_what_is_no_shard_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(RecipeError, match="such as 2/4"):
        Shard.parse(text)


# -- the same as one process -------------------------------------------------------------------------------------------


def test_a_run_in_shards_has_the_manifest_the_charges_and_the_sums_of_one_process(painter: Painter) -> None:
    one, many = both(painter, recipe)
    assert many == one
    assert one[1] == 11


@trials(max_examples=3)
@given(recipes(), st.integers(1, 4))
def test_any_recipe_comes_to_the_same_in_shards(shared_painter: Painter, data: dict[str, Any], count: int) -> None:
    one, many = both(shared_painter, lambda here: here.recipe(data), count, 2)
    assert many[1:3] == one[1:3]
    outcomes = [Counter(row["outcome"] for row in rows) for rows in (one[0], many[0])]
    assert outcomes[0] == outcomes[1]


def test_a_limit_counts_the_items_of_the_source_and_not_those_of_a_shard(painter: Painter) -> None:
    one, many = both(painter, recipe, limit=4)
    assert many == one
    assert len(many[0]) == 4


def test_a_sample_is_the_one_of_the_whole_source(painter: Painter) -> None:
    one, many = both(painter, recipe, sample=3)
    assert many == one


@pytest.mark.parametrize("dedupe", [None, "exact"])
def test_some_of_the_items_with_another_seed_are_worked_on_as_in_one_process(
    painter: Painter, dedupe: str | None
) -> None:
    """As ``retry`` does it: of equal pictures, one that was not chosen is no reason to leave another one out."""

    def doubled(here: Place) -> Recipe:
        for number in (1, 3) if dedupe else ():
            data = (here.folder / "photos" / f"p{number}.png").read_bytes()
            (here.folder / "photos" / f"z{number}.png").write_bytes(data)
        source = {"images": "FOLDER/photos/*.png", **({"dedupe": dedupe} if dedupe else {})}
        return recipe(here, source=source, steps=[{"edit": {"model": "flux-2-pro", "prompt": "x"}}])

    chosen = ("p2.png", "p3.png", *(("z1.png", "z3.png") if dedupe else ()))
    one, many = both(painter, doubled, only=lambda item: Path(item.source).name in chosen, seed=7)
    assert many == one
    assert [Path(row["source"]).name for row in many[0]] == [*chosen]
    assert sum("duplicate_of" in row for row in many[0]) == (1 if dedupe else 0)


def test_equal_pictures_are_left_out_as_in_one_process(painter: Painter) -> None:
    def doubled(here: Place) -> Recipe:
        data = (here.folder / "photos" / "p1.png").read_bytes()
        for name in ("a1.png", "z1.png"):
            (here.folder / "photos" / name).write_bytes(data)
        return recipe(here, source={"images": "FOLDER/photos/*.png", "dedupe": "exact"}, steps=[{"deblur": {}}])

    one, many = both(painter, doubled)
    assert many == one
    assert sum("duplicate_of" in row for row in many[0]) == 2


def test_equal_calls_of_two_shards_are_paid_once_and_by_one_item(painter: Painter) -> None:
    with place(painter, 0) as here:
        for number in range(6):
            Image.new("RGB", (80, 80), "teal").save(here.folder / "photos" / f"p{number}.png")
        run, rows = perform_in_shards(recipe(here, steps=[{"deblur": {}}]), here.settings, 3)
        assert (here.jobs, run.summary.jobs, run.summary.cached, run.summary.cost) == (1, 1, 5, here.spent)
        assert [row["outcome"] for row in rows] == ["done", *["cached"] * 5]
        assert [row["cost"] for row in rows] == [here.spent, *[0.0] * 5]


def test_two_items_of_two_shards_that_go_to_one_place_are_told_as_in_one_process(painter: Painter) -> None:
    one, many = both(painter, lambda here: recipe(here, output="FOLDER/out/{{ index // 2 }}.png"))
    assert many == one
    assert sum(row["outcome"] == "invalid" for row in many[0]) == 3


def test_a_dataset_is_written_from_the_store_when_all_shards_have_ended(painter: Painter) -> None:
    output = {"dataset": "FOLDER/out", "format": "parquet"}
    one, many = both(painter, lambda here: recipe(here, output=output))
    assert many == one
    assert one[3]


class Named(Painter):
    """Names a job after its request."""

    def _submit(self, path: str, request: Any) -> Any:
        self._ids = iter([int(hashlib.sha256(request.body).hexdigest()[:8], 16)])  # type: ignore[assignment]
        return super()._submit(path, request)


@pytest.mark.parametrize("kind", ["parquet", "webdataset", "imagefolder"])
def test_a_dataset_of_a_sample_without_duplicates_is_byte_for_byte_that_of_one_process(kind: str) -> None:
    output = {"dataset": "FOLDER/out", "format": kind, "split": {"train": 0.5, "test": 0.5}}
    with Named() as painter, place(painter, 8) as here:
        for number in (1, 3):
            data = (here.folder / "photos" / f"p{number}.png").read_bytes()
            (here.folder / "photos" / f"z{number}.png").write_bytes(data)
        source = {"images": "FOLDER/photos/*.png", "dedupe": "exact"}
        made, found = recipe(here, source=source, steps=[{"deblur": {}}], output=output), []
        for how in (perform, partial(perform_in_shards, count=3)):
            run, _ = how(made, replace(here.settings, store=str(here.folder / f"store-{len(found)}")), sample=5)
            assert run.summary.is_fine, run.summary.stopped
            found.append(files_in(here.folder / "out"))
            shutil.rmtree(here.folder / "out")
    assert found[1] == found[0]
    assert len(found[0]) > 1


def test_results_that_go_to_a_dataset_and_to_files_are_in_both(painter: Painter) -> None:
    outputs = ["FOLDER/out/{{ stem }}.png", {"from": "deblur", "dataset": "FOLDER/out/set", "format": "imagefolder"}]
    one, many = both(painter, lambda here: recipe(here, output=outputs))
    assert many == one


def test_labels_of_all_shards_are_in_the_files_that_one_process_writes(painter: Painter) -> None:
    with place(painter, 0) as here:
        Scene(here.folder).fill(6).coco()
        places = [{"path": "FOLDER/out/coco", "format": "coco"}, {"path": "FOLDER/out/labels", "format": "yolo"}]
        made = recipe(
            here,
            source={"images": "FOLDER/photos/*.png", "annotations": "FOLDER/labels/instances.json"},
            steps=[{"resize": {"width": 80}}],
            output={"path": "FOLDER/out/images/{{ stem }}.png", "annotations": places},
        )
        perform(made, here.settings)
        one = files_in(here.folder / "out")
        shutil.rmtree(here.folder / "out")
        perform_in_shards(made, replace(here.settings, store=str(here.folder / "another")), 3)
        assert files_in(here.folder / "out") == one
        assert "coco/instances.json" in one


# -- a run again -------------------------------------------------------------------------------------------------------


def test_what_is_settled_starts_no_shard_and_a_new_picture_only_its_own(here: Place) -> None:
    made = recipe(here)
    age(here.folder)
    perform_in_shards(made, here.settings, 3)
    engine = Threads()
    run, rows = perform_in_shards(made, here.settings, 3, engine)
    assert (engine.begun, run.summary.jobs, dict(run.summary.counts)) == ([], 0, {"cached": PICTURES})
    Image.new("RGB", (80, 80), "teal").save(here.folder / "photos" / "new.png")
    run, rows = perform_in_shards(made, here.settings, 3, engine)
    assert engine.begun == [shard_of(str(here.folder / "photos" / "new.png"), 3)]
    assert (run.summary.jobs, dict(run.summary.counts)) == (1, {"cached": PICTURES, "done": 1})
    assert [row["index"] for row in rows] == list(range(PICTURES + 1))


def test_one_run_of_the_store_has_one_folder_and_one_manifest(here: Place) -> None:
    run, _ = perform_in_shards(recipe(here), here.settings, 3)
    store = Path(here.settings.store)
    assert [path.name for path in (store / "runs").iterdir()] == [run.summary.run_id]
    assert sorted(path.name for path in (store / "runs" / run.summary.run_id).iterdir()) == [
        "manifest.jsonl",
        "run.json",
        "state.json",
    ]
    [state], _ = read_states(Store(here.settings.store), [run.summary.run_id])
    assert (state.state, state.counts, state.total) == ("fine", {"done": PICTURES}, PICTURES)
    assert not list((store / "begun").rglob("*.json"))


# -- budgets and stops -------------------------------------------------------------------------------------------------


def test_a_budget_holds_for_the_sum_of_the_shards_and_counts_until_a_run_ends_by_itself(here: Place) -> None:
    made = recipe(here, steps=[{"edit": {"model": "flux-2-pro", "prompt": "x"}}])  # 4.5 credits each
    run, rows = perform_in_shards(made, here.settings, 3, budget=14)
    assert isinstance(run.stopped, BudgetReached)
    assert (here.spent, run.summary.cost, len(rows)) == (13.5, 13.5, PICTURES)
    assert "13.50 are spent, and a job of" in run.summary.stopped
    again, _ = perform_in_shards(made, here.settings, 3, budget=14)
    assert (here.spent, again.summary.jobs) == (13.5, 0)
    assert "13.50 are spent, 13.50 of them in earlier runs" in again.summary.stopped
    whole, _ = perform_in_shards(made, here.settings, 3, budget=27)
    assert (here.spent, dict(whole.summary.counts)) == (27, {"cached": 3, "done": 3})
    assert not list((Path(here.settings.store) / "budgets").rglob("*.json"))


def test_a_shard_by_hand_counts_for_the_budget_of_the_next_one(here: Place) -> None:
    made = recipe(here, steps=[{"edit": {"model": "flux-2-pro", "prompt": "x"}}])
    for number in (1, 2, 3):
        perform(made, here.settings, budget=9, shard=Shard(number, 3))
    assert here.spent == 9


def test_a_shard_that_the_account_cannot_pay_stops_all(here: Place, painter: Painter) -> None:
    from scripted import Answer

    painter.on("POST /v1/flux-tools/deblur-v1", Answer(402, {"detail": "Insufficient credits"}))
    run, rows = perform_in_shards(recipe(here), here.settings, 3)
    assert isinstance(run.stopped, OutOfCredits)
    assert {row["outcome"] for row in rows} == {"held"}
    assert len(rows) == PICTURES


def test_a_run_that_is_stopped_stops_its_shards_and_holds_what_is_left(here: Place) -> None:
    made, stopped = recipe(here), list[Any]()

    def stop(task: Any) -> None:
        stopped[0].stop(Interrupted("interrupted (Ctrl-C)"))

    with Run(made.compiled, here.settings) as run:
        stopped.append(run)
        asyncio.run(finish_in_shards(run, engine=Threads(stop), count=3, on="threads"))
    assert {row["outcome"] for row in run.rows()} <= {"held", "done"}
    assert len(list(run.rows())) == PICTURES
    assert run.summary.stopped == "interrupted (Ctrl-C)"
    again, _ = perform_in_shards(made, here.settings, 3)
    assert again.summary.is_fine
    assert here.jobs == 11


# -- workers that are lost ---------------------------------------------------------------------------------------------


def test_a_shard_whose_worker_is_lost_is_begun_again(here: Place) -> None:
    first = shard_of(str(here.folder / "photos" / "p0.png"), 3)
    lost = {first}

    def lose(task: Any) -> None:
        if task.shard.number in lost:
            lost.discard(task.shard.number)
            raise EOFError("the node was drained")

    warnings: list[str] = []
    run, _ = perform_in_shards(
        recipe(here), here.settings, 3, Threads(lose), on_event=lambda event: warnings.append(event.text)
    )
    assert run.summary.is_fine
    assert here.jobs == 11
    assert f"shard {first}/3 is begun again where it was left: the node was drained" in warnings


def test_a_shard_that_loses_every_worker_is_told_with_the_reason_and_the_others_are_collected(
    here: Place,
) -> None:
    first = shard_of(str(here.folder / "photos" / "p0.png"), 3)

    def lose(task: Any) -> None:
        if task.shard.number == first:
            raise EOFError("no memory was left")

    engine = Threads(lose)
    run, rows = perform_in_shards(recipe(here), here.settings, 3, engine)
    assert Counter(engine.begun)[first] == 5
    assert run.summary.stopped == f"shard {first}/3: no memory was left"
    assert len(rows) == PICTURES
    assert {row["outcome"] for row in rows if shard_of(row["source"], 3) == first} == {"held"}
    again, _ = perform_in_shards(recipe(here), here.settings, 3)
    assert again.summary.is_fine
    assert here.jobs == 11


def test_what_a_lost_worker_has_paid_for_is_told_as_paid_by_the_run(here: Place, painter: Painter) -> None:
    """Its rows are gone, as on an object store; what it has made is in the store."""
    begun: list[int] = []

    def lose(task: Any) -> None:
        begun.append(task.shard.number)
        if begun.count(task.shard.number) == 2:
            for place in ShardFolder(Store(here.settings.store), task.shard.of, task.shard.number).manifests():
                Path(place).unlink()

    class Twice(Threads):
        """Loses each worker when it has done all."""

        async def run(self, task: Any, on_event: Any) -> str:
            said = await super().run(task, on_event)
            if begun.count(task.shard.number) == 1:
                ShardFolder(Store(here.settings.store), task.shard.of, task.shard.number).forget_end()
            return said

    age(here.folder)
    run, rows = perform_in_shards(recipe(here), here.settings, 3, Twice(lose))
    assert (run.summary.jobs, run.summary.cost, here.jobs) == (11, here.spent, 11)
    assert {row["outcome"] for row in rows} == {"done"}


def test_a_worker_that_sees_another_store_says_so(here: Place) -> None:
    engine = Threads()
    elsewhere = str(here.folder / "elsewhere")
    plain = engine.run

    async def run(task: Any, on_event: Any) -> str:
        said = await plain(replace(task, settings=replace(task.settings, store=elsewhere)), on_event)
        end = ShardFolder(Store(elsewhere), task.shard.of, task.shard.number).ending()
        ShardFolder(Store(here.settings.store), task.shard.of, task.shard.number).end(**end)
        return said

    engine.run = run  # type: ignore[method-assign]
    run, _ = perform_in_shards(recipe(here), here.settings, 2, engine)
    assert "name a store that every machine reaches" in run.summary.stopped
    assert here.jobs == 0


def test_a_worker_for_which_the_recipe_means_something_else_makes_no_job(here: Place) -> None:
    other = recipe(here, steps=[{"deblur": {}}]).text
    engine = Threads()
    plain = engine.run
    engine.run = lambda task, on_event: plain(replace(task, recipe=other), on_event)  # type: ignore[method-assign]
    run, rows = perform_in_shards(recipe(here), here.settings, 2, engine)
    assert "the same version of flux-pipelines" in run.summary.stopped
    assert here.jobs == 0
    assert {row["outcome"] for row in rows} == {"held"}


# -- a source that is changed meanwhile --------------------------------------------------------------------------------


class Changed(Threads):
    """Changes the source when the coordinator has seen it, and before any shard has; or before the last one begins."""

    def __init__(self, here: Place, change: Any, *, is_late: bool) -> None:
        super().__init__()
        numbers = {shard_of(str(here.folder / "photos" / f"p{number}.png"), 3) for number in range(PICTURES)}
        self._change, self._waits_for = change, len(numbers) - 1 if is_late else 0
        self._others = asyncio.Semaphore(0)

    async def run(self, task: Any, on_event: Any) -> str:
        if not self.begun:
            self.begun.append(task.shard.number)
            for _ in range(self._waits_for):
                await self._others.acquire()
            self._change()
        said = await super().run(task, on_event)
        self._others.release()
        return said


def paint(path: Path, color: str = "teal") -> None:
    Image.new("RGB", (80, 80), color).save(path)


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("dataset", [False, True])
def test_pictures_that_come_in_meanwhile_belong_to_the_next_run(here: Place, *, is_late: bool, dataset: bool) -> None:
    photos = here.folder / "photos"

    def add() -> None:
        for name in ("a.png", "p0b.png", "z.png"):
            paint(photos / name)

    output: Any = {"dataset": "FOLDER/out", "name": "{{ index }}"} if dataset else "FOLDER/out/{{ index }}.png"
    made = recipe(here, output=output, steps=[{"deblur": {}}])
    run, rows = perform_in_shards(made, here.settings, 3, Changed(here, add, is_late=is_late))
    assert run.summary.is_fine, run.summary.stopped
    assert [(row["index"], Path(row["source"]).name) for row in rows] == [(n, f"p{n}.png") for n in range(PICTURES)]
    assert len({row["output_path"] for row in rows}) == PICTURES
    again, rows = perform_in_shards(made, here.settings, 3)
    assert (again.summary.is_fine, len(rows)) == (True, PICTURES + 3)


@pytest.mark.parametrize("is_late", [False, True])
def test_a_picture_that_is_removed_meanwhile_fails_and_the_others_keep_their_index(
    here: Place, *, is_late: bool
) -> None:
    made = recipe(here, output="FOLDER/out/{{ index }}.png", steps=[{"deblur": {}}])
    gone = here.folder / "photos" / "p0.png"
    run, rows = perform_in_shards(made, here.settings, 3, Changed(here, gone.unlink, is_late=is_late))
    assert [row["index"] for row in rows] == list(range(PICTURES))
    assert {row["outcome"] for row in rows[1:]} == {"done"}
    assert rows[0]["outcome"] in ("invalid", "failed", "done")
    assert run.stopped is None


@pytest.mark.parametrize("order", [[5, 3, 1], [5, 4, 3, 2, 1, 0], [0, 1, 2], [0, 1, 2, 3, 4, 5, 0], []])
@pytest.mark.parametrize("is_late", [False, True])
def test_a_table_that_is_rewritten_meanwhile_is_told_and_no_result_takes_the_place_of_another(
    here: Place, order: list[int], *, is_late: bool
) -> None:
    table = here.folder / "t.csv"

    def write(numbers: list[int]) -> None:
        table.write_text("".join(["photo\n", *(f"{here.folder}/photos/p{number}.png\n" for number in numbers)]))

    write([*range(PICTURES)])
    source = {"table": str(table), "image": "{{ photo }}"}
    made = recipe(here, source=source, output="FOLDER/out/{{ index }}.png", steps=[{"deblur": {}}])
    run, rows = perform_in_shards(made, here.settings, 3, Changed(here, partial(write, order), is_late=is_late))
    assert all(Path(row["source"]).name == f"p{row['index']}.png" for row in rows)
    assert len(rows) == len({row["index"] for row in rows})
    places = [row["output_path"] for row in rows if row["output_path"]]
    assert len(places) == len({*places})
    if order[:PICTURES] == [*range(PICTURES)]:  # a row came in: it belongs to the next run
        assert run.summary.is_fine, run.summary.stopped
        assert len(rows) == PICTURES
    elif not is_late:
        assert "source" in run.summary.stopped
        assert "was changed meanwhile" in run.summary.stopped or "has no rows" in run.summary.stopped
    if order:
        again, rows = perform_in_shards(made, here.settings, 3)
        assert (again.summary.is_fine, len(rows)) == (True, len(order))
        assert here.jobs <= PICTURES


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_shards_by_hand_share_the_items_and_one_run_without_a_shard_makes_one_of_them(here: Place) -> None:
    made = recipe(here, output={"dataset": "FOLDER/out", "format": "imagefolder"})
    sources: list[str] = []
    for number in (1, 2):
        _, rows = perform(made, here.settings, shard=Shard(number, 2))
        sources += [row["source"] for row in rows]
    assert len(sources) == len(set(sources)) == PICTURES
    assert here.jobs == 11
    assert not (here.folder / "out").exists()
    run, _ = perform(made, here.settings)
    assert (here.jobs, run.summary.jobs) == (11, 0)
    assert (here.folder / "out" / "train").is_dir()


def test_a_shard_by_hand_is_refused_where_equal_pictures_are_looked_for(here: Place) -> None:
    made = recipe(here, source={"images": "FOLDER/photos/*.png", "dedupe": "exact"}, steps=[{"deblur": {}}])
    with pytest.raises(RecipeError, match=r"dedupe looks at all items.*write --shards"):
        perform(made, here.settings, shard=Shard(1, 2))
