"""What a settled item depends on besides its files: whatever else decides a result, a change of it settles nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from recipes import HEAD, OUTPUT, Place, age, perform

from flux_tasks import files
from flux_tasks.images.reference import ImageRef
from flux_tasks.store.records import Store
from pipelines.data.settled import SettledItems
from pipelines.plan.planner import plan
from pipelines.recipe import Recipe

RECIPE = """
env: [FLUX_TEST_STYLE]
vars: {{words: oil}}
source: {{table: "{folder}/items.csv", image: "{folder}/photos/{{{{ file }}}}"}}
steps:
  - edit: {{prompt: "{{{{ words }}}} {{{{ env.FLUX_TEST_STYLE }}}} {{{{ title }}}}"}}
    when: wanted == 1
output: {{path: "{folder}/out/{{{{ stem }}}}.png"}}
"""
PICTURES = 3


def write_table(here: Place, *rows: str) -> None:
    (here.folder / "items.csv").write_text("\n".join(["file,title,wanted", *rows, ""]))


def recipe(here: Place, **variables: str) -> Recipe:
    return Recipe.parse(RECIPE.format(folder=here.folder), variables=variables)


@pytest.fixture
def settled(here: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A place with a table whose rows are settled."""
    monkeypatch.setenv("FLUX_TEST_STYLE", "red")
    write_table(here, "p0.png,hens,1", "p1.png,barn,1", "p2.png,tree,0")
    age(here.folder)
    perform(recipe(here), here.settings)
    return here


def jobs_of_next_run(here: Place, made: Recipe) -> int:
    """The jobs of a run, which its plan predicts."""
    predicted, before = plan(made.compiled, settings=here.settings).jobs, here.jobs
    perform(made, here.settings)
    assert here.jobs - before == predicted
    return predicted


def test_a_cell_that_has_changed_is_seen_in_its_own_item_only(settled: Place) -> None:
    assert jobs_of_next_run(settled, recipe(settled)) == 0
    write_table(settled, "p0.png,hens,1", "p1.png,a red barn,1", "p2.png,tree,0")
    assert jobs_of_next_run(settled, recipe(settled)) == 1
    write_table(settled, "p0.png,hens,1", "p1.png,a red barn,1", "p2.png,tree,1")
    assert jobs_of_next_run(settled, recipe(settled)) == 1


def test_a_row_that_is_inserted_is_one_new_item(settled: Place) -> None:
    Image.new("RGB", (80, 80), "teal").save(settled.folder / "photos" / "new.png")
    write_table(settled, "new.png,new,1", "p0.png,hens,1", "p1.png,barn,1", "p2.png,tree,0")
    assert jobs_of_next_run(settled, recipe(settled)) == 1


def test_a_variable_and_the_environment_count(settled: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    assert jobs_of_next_run(settled, recipe(settled, words="ink")) == 2
    monkeypatch.setenv("FLUX_TEST_STYLE", "blue")
    assert jobs_of_next_run(settled, recipe(settled)) == 2
    monkeypatch.setenv("FLUX_TEST_STYLE", "red")
    assert jobs_of_next_run(settled, recipe(settled)) == 0


@pytest.mark.parametrize(
    "changes", [{}, {"engine": "bfl"}, {"engine": "local:classical@1"}, {"seed": 7}, {"text": "true and "}]
)
def test_another_engine_seed_or_recipe_has_settled_items_of_its_own(settled: Place, changes: dict[str, Any]) -> None:
    text = RECIPE.format(folder=settled.folder).replace("when: wanted", f"when: {changes.get('text', '')}wanted")
    made = Recipe.parse(text).compiled
    engine, seed = changes.get("engine", "custom:loopback"), changes.get("seed")
    found = SettledItems(Store(settled.settings.store), made, engine, seed, is_trusted=True)
    assert bool(found) is not bool(changes)
    found.close()


def test_a_mask_whose_name_differs_in_case_is_warned_of_though_the_item_was_settled(here: Place) -> None:
    (here.folder / "masks" / "p0.png").rename(here.folder / "other.png")
    age(here.folder)
    steps = "  - erase: {mask: '{{ mask }}'}\n    when: mask_exists"
    made = Recipe.parse(f"{HEAD}{steps}\noutput: {OUTPUT}\n".replace("FOLDER", str(here.folder)))
    run, _ = perform(made, here.settings)
    assert not [text for text in run.summary.warned if "P0.png" in text]
    (here.folder / "other.png").rename(here.folder / "masks" / "P0.png")
    run, _ = perform(made, here.settings)
    looked_at, _ = perform(made, here.settings, verify=True)
    assert run.summary.warned == looked_at.summary.warned
    assert any("P0.png" in text for text in run.summary.warned)


ORDERS = {
    "columns of a table": (
        "{{ row | join(' ') }}",
        ("csv", "file,sky,sea\np0.png,1,2\n", "file,sea,sky\np0.png,2,1\n"),
    ),
    "names in a cell": (
        "{{ parts | join(' ') }}",
        ("jsonl", '{"file": "p0.png", "parts": {"a": 1, "b": 2}}', '{"file": "p0.png", "parts": {"b": 2, "a": 1}}'),
    ),
}


def over_a_table(here: Place, kind: str, prompt: str, variables: str = "{}") -> Recipe:
    source = f"{{table: '{here.folder}/t.{kind}', image: '{here.folder}/photos/{{{{ file }}}}'}}"
    steps = f'- edit: {{prompt: "{prompt}"}}'
    output = OUTPUT.replace("FOLDER", str(here.folder))
    return Recipe.parse(f"vars: {variables}\nsource: {source}\nsteps:\n  {steps}\noutput: {output}\n")


@pytest.mark.parametrize("case", ORDERS)
def test_an_order_that_a_prompt_can_show_counts(here: Place, case: str) -> None:
    prompt, (kind, *texts) = ORDERS[case]
    for text in texts:
        (here.folder / f"t.{kind}").write_text(text)
        time.sleep(0.03)
        assert jobs_of_next_run(here, over_a_table(here, kind, prompt)) == 1
        assert jobs_of_next_run(here, over_a_table(here, kind, prompt)) == 0


def test_the_order_of_names_in_a_variable_counts(here: Place) -> None:
    (here.folder / "t.csv").write_text("file\np0.png\n")
    time.sleep(0.03)
    for variables in ("{colours: {red: 1, blue: 2}}", "{colours: {blue: 2, red: 1}}"):
        made = over_a_table(here, "csv", "{{ colours | join(' ') }}", variables)
        assert jobs_of_next_run(here, made) == 1
        assert jobs_of_next_run(here, made) == 0


@pytest.mark.parametrize("moment", ["write", "item"])
def test_what_another_program_writes_over_an_output_before_its_item_has_ended_is_seen(
    here: Place, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    outputs = "[{path: 'FOLDER/a/{{ stem }}.png'}, {path: 'FOLDER/b/{{ stem }}.png'}]"
    text = f"source: {{images: 'FOLDER/photos/p0.png'}}\nsteps:\n  - resize: {{width: 40}}\noutput: {outputs}\n"
    made, first = Recipe.parse(text.replace("FOLDER", str(here.folder))), here.folder / "a" / "p0.png"
    os.utime(here.folder / "photos" / "p0.png", (time.time() - 60, time.time() - 60))
    time.sleep(0.03)
    write, mine = files.write, b"another program was here"

    def with_another(location: Any, data: bytes) -> Any:
        if moment == "item" and "/b/" in str(location):
            first.write_bytes(mine)
        state = write(location, data)
        if moment == "write" and "/a/" in str(location):
            other = first.with_name("other")
            other.write_bytes(mine)
            other.replace(first)
        return state

    monkeypatch.setattr(files, "write", with_another)
    perform(made, here.settings)
    assert first.read_bytes() == mine
    monkeypatch.setattr(files, "write", write)
    perform(made, here.settings)
    assert first.read_bytes() != mine
    assert first.read_bytes() == (here.folder / "b" / "p0.png").read_bytes()


def pay_anew(here: Place, colour: str) -> str:
    """Let the first job's result be another picture, as a refresh does; returns its digest."""
    store = Store(here.settings.store)
    key = store.records("copies")[0]
    image = store.put_image(ImageRef.of(Image.new("RGB", (80, 80), colour)))
    facts = {name: fact for name, fact in (store.record("results", key) or {}).items() if name not in ("image", "key")}
    store.put_result(key, image, facts, is_paid=True)
    return image.digest


def test_a_result_that_is_paid_anew_reaches_the_output(settled: Place) -> None:
    for colour in ("purple", "olive"):
        digest = pay_anew(settled, colour)
        assert jobs_of_next_run(settled, recipe(settled)) == 0
        found = {ImageRef.of(str(path)).digest for path in (settled.folder / "out").iterdir()}
        assert digest in found


def test_a_result_that_is_written_again_as_it_was_settles_what_it_settled(settled: Place) -> None:
    def scopes() -> set[str]:
        perform(recipe(settled), settled.settings)
        return {path.name for path in (settled.folder / settled.settings.store / "settled").iterdir() if path.is_dir()}

    pay_anew(settled, "purple")
    before = scopes()
    pay_anew(settled, "purple")
    assert scopes() == before


@pytest.mark.parametrize("is_cut", [False, True])
@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_paid_picture_that_the_store_has_lost_is_put_back_from_the_output_or_asked_for(
    here: Place, kind: str, is_cut: bool
) -> None:
    for path in here.folder.rglob("*.png"):
        os.utime(path, (time.time() - 60, time.time() - 60))
    time.sleep(0.03)
    output = OUTPUT.replace("FOLDER", str(here.folder)).replace(".png", f".{kind}")
    made = Recipe.parse(f"source: {{images: '{here.folder}/photos/*.png'}}\nsteps: [deblur]\noutput: {output}\n")
    perform(made, here.settings)
    blobs, jobs = Path(here.settings.store, "blobs"), here.jobs
    before = {path: path.read_bytes() for path in blobs.rglob("*.*")}
    for path, data in before.items():
        path.write_bytes(data[:-9]) if is_cut else path.unlink()
    found = plan(made.compiled, settings=here.settings).to_dict()
    assert [path for path, data in before.items() if path.exists() and path.read_bytes() == data] == []
    run, rows = perform(made, here.settings)
    assert here.jobs == jobs
    if kind == "png":
        assert {row["outcome"] for row in rows} == {"cached"}
        assert {path: path.read_bytes() for path in blobs.rglob("*.*")} == before
        assert found == plan(made.compiled, settings=here.settings, verify=True).to_dict()
    else:
        assert {row["outcome"] for row in rows} == {"held"}
        assert ("is damaged" if is_cut else "is missing") in rows[0]["error"]["message"]
        assert found == plan(made.compiled, settings=here.settings, verify=True).to_dict()
