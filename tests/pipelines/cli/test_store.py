"""`store explain` and `store migrate` over a store that 68a6cf4 has written, and its recipe run again."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from command_line import Here

from flux_tasks.store import journal
from flux_tasks.store.journal import Entry, Journal
from flux_tasks.store.records import Store

OLD = Path(__file__).parents[2] / "data" / "store_of_68a6cf4"
CALLS = json.loads((OLD / "calls.json").read_text())

Program = Callable[..., "CompletedProcess[str]"]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """The program, in a copy of the folder that the store was written in."""
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Here(tmp_path, monkeypatch)


def old_keys() -> list[str]:
    return sorted(Store(str(OLD / "store")).records("results"))


@pytest.mark.parametrize("is_migrated", [False, True], ids=["as it is", "migrated"])
def test_a_recipe_of_68a6cf4_is_planned_and_run_again_without_a_job(program: Program, is_migrated: bool) -> None:
    if is_migrated:
        assert program("store", "migrate", "--yes").returncode == 0
        assert not set(Store("store").records("results")) & set(old_keys())
    planned = json.loads(program("plan", "recipe.yaml", "--endpoint", "local", "--json").stdout)
    assert [(step["cached"], step["paid"]["jobs"]) for step in planned["steps"]] == [(3, 0)] * 3
    done = program("run", "recipe.yaml", "--endpoint", "local", "--no-report")
    assert done.returncode == 0
    assert "no job was made and nothing was paid: 9 results came from the store" in done.stdout
    assert len(Store("store").records("results")) == len(old_keys())


def test_a_held_job_of_68a6cf4_is_listed_and_a_plan_holds_its_item(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = (
        "name: h\nsource: {images: inputs/a.png}\nsteps: [{deblur: {seed: 99}}]\noutput: {path: 'o/{{ stem }}.png'}\n"
    )
    Path("held.yaml").write_text(recipe)
    assert "45c5c206" in program("store", "held").stdout
    planned = json.loads(program("plan", "held.yaml", "--endpoint", "local", "--json", "--budget", "10").stdout)
    assert (planned["steps"][0]["held"], planned["steps"][0]["paid"]["jobs"]) == (1, 0)
    monkeypatch.setattr(journal, "clock", lambda: time.monotonic() + journal.LEASE)  # first seen a minute ago
    done = program("run", "held.yaml", "--endpoint", "local", "--no-report", "--budget", "10")
    assert "1 held" in done.stdout
    assert len(Store("store").records("results")) == len(old_keys())


# -- migrate ----------------------------------------------------------------------------------------------------------


def test_migrate_says_what_it_would_do_and_why_and_does_it_only_when_told(program: Program) -> None:
    said = program("store", "migrate").stdout.splitlines()
    assert said[0] == (
        "28 results have a key of September 2026, made of a date and every default, and would get the key of today:"
    )
    assert "  deblur-v1          5" in said
    assert said[-1] == "nothing was changed: write --yes to do it"
    assert sorted(Store("store").records("results")) == old_keys()
    done = program("store", "migrate", "--yes").stdout
    assert "28 results have a key of September 2026, made of a date and every default, and got the key of today" in done
    assert not set(Store("store").records("results")) & set(old_keys())
    again = program("store", "migrate").stdout
    assert again.startswith("no result has a key of September 2026\nwith the key of today: 28;")
    assert "unsettled jobs (1) keep their keys" in again


def test_migrate_names_what_it_leaves(program: Program) -> None:
    store = Store("store")
    store.put_record("results", "a" * 64, {"tool": "flux-0"})
    for arguments in (["--yes"], []):
        done = program("store", "migrate", *arguments)
        assert f"left: results/{'a' * 64}.json: it does not say which call" in done.stdout
    assert store.record("results", "a" * 64) == {"tool": "flux-0"}


# -- explain ----------------------------------------------------------------------------------------------------------


def test_explain_says_what_identifies_an_output(program: Program) -> None:
    program("run", "recipe.yaml", "--endpoint", "local", "--no-report")
    said = program("store", "explain", "out/a.png").stdout
    assert "the result of outpainting-v1" in said
    assert "  width               144" in said
    assert "store migrate" in said
    program("store", "migrate", "--yes")
    assert "store migrate" not in program("store", "explain", "out/a.png").stdout


def test_explain_says_that_pixels_were_put_back_and_not_that_the_record_was_changed(program: Program) -> None:
    steps = "[{erase: {mask: {boxes: [[10, 10, 30, 30]]}, dilate_pixels: 4}, preserve: {feather: 2}}]"
    Path("kept.yaml").write_text(
        f"source: {{images: inputs/a.png}}\nsteps: {steps}\noutput: {{path: '{{{{ stem }}}}.out.png'}}\n"
    )
    program("run", "kept.yaml", "--endpoint", "local", "--no-report")
    said = program("store", "explain", "a.out.png").stdout
    assert "a result made on this machine, free" in said
    assert "Outside the mask, it is the picture that the step got; inside, what the tool made (preserve)." in said
    assert "  grown    4\n" in said
    assert "  feather  2.0\n" in said
    assert "boxes [[10, 10, 30, 30]]" in said
    assert "another version wrote it" not in said


def test_explain_says_why_the_call_of_a_recipe_is_no_hit(program: Program) -> None:
    sharp = next(key for key in old_keys() if key.startswith("3b89210e"))  # deblur of a with seed 4
    options = ("--recipe", "recipe.yaml", "--item", "a")
    same = program("store", "explain", sharp[:8], *options, "--endpoint", "local").stdout
    assert "  deblur: this is its result" in same
    assert "  erase: its result is in the store, and is another one" in same
    text = Path("recipe.yaml").read_text()
    Path("recipe.yaml").write_text(text.replace("seed: 4", "seed: 8"))
    said = program("store", "explain", sharp[:8], *options, "--endpoint", "bfl").stdout.splitlines()
    assert said[-5:] == [
        "  deblur: the store has no result: a run would pay for a job",
        "    engine: local:classical@1 → bfl",
        "    seed: 4 → 8",
        "  erase: the store has no result: a run would pay for a job",
        "  outpaint: the store has no result: a run would pay for a job",
    ]


def test_explain_compares_two_results(program: Program) -> None:
    first, second = CALLS[2]["key"], CALLS[3]["key"]
    said = program("store", "explain", first, second).stdout.splitlines()
    assert said[-3:] == [f"Compared with {second}:", "  dilate_pixels: 10 (the default) → 12", "  seed: not set → 3"]
    assert program("store", "explain", first, first[:10]).stdout.endswith("  the same call\n")
    assert "does not say what identifies its call" in program("store", "explain", first, "45c5c206").stdout


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["nowhere.png"], "nowhere.png: is no file, no job, and not the beginning of a key"),
        (["inputs/a.png"], "inputs/a.png: is not a picture that the store "),
        (["3b89210e", "--recipe", "recipe.yaml"], "--item: is missing"),
        (["3b89210e", "--item", "a"], "--recipe: is missing"),
        (["3b89210e", "--recipe", "recipe.yaml", "--item", "x"], "item: the recipe has no item 'x'"),
    ],
)
def test_what_explain_cannot_find_is_said(program: Program, arguments: list[str], what: str) -> None:
    done = program("store", "explain", *arguments, "--endpoint", "local")
    assert done.returncode == 2
    assert what in done.stderr


def test_explain_prints_nothing_secret_and_nothing_that_steers_a_terminal(program: Program) -> None:
    store, key = Store("store"), CALLS[5]["key"]
    record = store.record("results", key) or {}
    entry = store.record("journal", "45c5c206a73bfa811e18b0e27de518a5d80ecd9040d1c432aa0c309dbdca4ad0") or {}
    store.put_record("results", key, {**record, "job_id": "\x1b[31mred"})
    store.put_record("journal", "f" * 64, {**entry, "id": "j", "polling_url": "https://x/?token=hush"})
    for one in (key, "f" * 64):
        said = program("store", "explain", one, key="top-secret").stdout
        assert "\x1b" not in said
        assert "hush" not in said
        assert "top-secret" not in said


def test_a_job_whose_record_is_damaged_is_listed_with_the_file(program: Program) -> None:
    store = Store("store")
    entry = Entry("d" * 64, "deblur-v1", "intent", "hens", 3.0, owner="", reason="results/dd.json is damaged")
    Journal(store).put(entry)
    done = program("store", "held")
    assert "the answer" in done.stdout
    assert f"{'d' * 12}: results/dd.json is damaged\n" in done.stdout


def test_damaged_records_of_68a6cf4_which_have_no_copy_are_named_and_held_by_a_plan(program: Program) -> None:
    for record in Path("store", "results").iterdir():
        record.write_bytes(record.read_bytes()[:200])
    planned = program("plan", "recipe.yaml", "--endpoint", "local", "--json")
    found = json.loads(planned.stdout)
    first = found["steps"][0]
    assert (first["held"], first["paid"]["jobs"]) == (3, 0)
    assert len(found["invalid"]) == 3
    assert all("is damaged; its job may be paid for: put the file back" in problem for problem in found["invalid"])
