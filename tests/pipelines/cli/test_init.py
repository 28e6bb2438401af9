"""The recipe that ``init`` writes: it is valid, it can be planned at once, and nothing is written over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from command_line import Here
from jsonschema import Draft202012Validator
from PIL import Image

from pipelines.cli.commands.recipe.init import SCHEMA, STARTER
from pipelines.language.schema import schema, text
from pipelines.recipe import Recipe


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with nothing in it but two small photos; it is the current one."""
    folder = tmp_path / "mine"
    (folder / "photos").mkdir(parents=True)
    for name in ("a", "b"):
        Image.linear_gradient("L").resize((96, 80)).convert("RGB").save(folder / "photos" / f"{name}.jpg")
    monkeypatch.chdir(folder)
    return folder


def test_the_starting_recipe_is_a_recipe_and_keeps_to_the_schema() -> None:
    recipe = Recipe.parse(STARTER)
    assert [s.id for s in recipe.steps] == ["auto_orient", "deblur", "erase", "outpaint"]
    assert Recipe.parse(recipe.to_yaml()).digest == recipe.digest
    Draft202012Validator(schema()).validate(yaml.safe_load(STARTER))


def test_every_part_of_it_has_a_word_of_explanation() -> None:
    blocks = STARTER.split("\n\n")
    assert all("# " in block for block in blocks if "name:" not in block)
    assert max(map(len, STARTER.splitlines())) <= 120


def test_it_is_written_checked_and_planned_in_a_folder_with_two_photos(here_cli: Here, empty: Path) -> None:
    written = here_cli("init")
    assert written.returncode == 0
    assert "flux-pipelines plan recipe.yaml --endpoint local" in written.stdout
    checked = here_cli("validate", "recipe.yaml")
    assert (checked.returncode, "2 items, auto_orient → deblur → erase → outpaint" in checked.stdout) == (0, True)
    planned = here_cli("plan", "recipe.yaml", "--endpoint", "local", "--json")
    assert planned.returncode == 0
    assert json.loads(planned.stdout)["items"] == 2


def test_the_schema_that_its_first_line_names_is_beside_it(here_cli: Here, empty: Path) -> None:
    assert here_cli("init", "deep/other.yaml").returncode == 0
    first, *rest = (empty / "deep" / "other.yaml").read_text(encoding="utf-8").splitlines()
    assert first == f"# yaml-language-server: $schema={SCHEMA}"
    assert (empty / "deep" / SCHEMA).read_text(encoding="utf-8") == text()
    assert any("flux-pipelines run deep/other.yaml" in line for line in rest)


def test_a_recipe_that_is_there_is_left_as_it_is(here_cli: Here, empty: Path) -> None:
    (empty / "recipe.yaml").write_text("mine")
    refused = here_cli("init")
    assert (refused.returncode, "already exists and was not changed" in refused.stderr) == (2, True)
    assert (empty / "recipe.yaml").read_text() == "mine"
    assert not (empty / SCHEMA).exists()
