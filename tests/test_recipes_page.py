"""The pages on recipes: the recipes are read, the Python runs, the commands are true, the reference is up to date."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
from forked import run

from pipelines.language.names import IMAGE_FACTS
from pipelines.language.reading.steps import OPTIONS
from pipelines.operations.registry import OPERATIONS
from pipelines.recipe import Recipe

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "recipes.md").read_text()
REFERENCE = (ROOT / "docs" / "recipe-reference.md").read_text()
DATASETS = (ROOT / "docs" / "datasets.md").read_text()


def blocks(language: str, text: str = PAGE) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


WHOLE = [*blocks("yaml"), *(text for text in blocks("yaml", DATASETS) if text.startswith("name:"))]


@pytest.mark.parametrize("text", WHOLE, ids=lambda text: re.search(r"name: (\S+)", text)[1])
def test_every_recipe_on_the_page_is_valid_and_reads_back_to_the_same_digest(text: str) -> None:
    recipe = Recipe.parse(text)
    assert Recipe.parse(recipe.to_yaml()).digest == recipe.digest


def test_the_python_on_the_page_runs_and_makes_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    function, recipe = blocks("python")
    namespace: dict[str, object] = {"__name__": "my_ops"}
    exec(compile(function, "recipes.md", "exec"), namespace)
    exec(compile(recipe, "recipes.md", "exec"), namespace)
    assert Recipe.parse(capsys.readouterr().out).digest == namespace["recipe"].digest  # type: ignore[attr-defined]


def test_every_operation_fact_and_step_key_is_on_the_page() -> None:
    for name in (*OPERATIONS, *IMAGE_FACTS, *OPTIONS):
        assert f"`{name}`" in REFERENCE, name
    for name in (*IMAGE_FACTS, *OPTIONS):
        assert re.search(rf"\b{name}\b", PAGE), name


def test_the_reference_is_what_make_docs_writes() -> None:
    written = runpy.run_path(str(ROOT / "docs" / "make" / "reference.py"))["page"]()
    assert written == REFERENCE, "run `make docs`"


def test_every_command_on_the_page_takes_the_options_that_are_shown() -> None:
    for line in re.findall(r"^\$ flux-pipelines (.*?)(?:#.*)?$", PAGE, re.M):
        command = line.split()[0]
        helped = run([sys.executable, "-m", "pipelines.cli", command, "--help"]).stdout
        assert helped, command
        assert all(option in helped for option in re.findall(r"--[a-z]+", line)), line
