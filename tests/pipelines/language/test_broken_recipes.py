"""Broken recipes, each with every line that is said of it: where, what was found, and what to write instead.

They stand in ``broken_recipes.txt``, to be read aloud: a title, the recipe, and after ``---`` what is said.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from cases import Cases
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_tasks import catalog
from flux_tasks.errors import RecipeError
from pipelines.execution.precheck import check_items
from pipelines.language.reading import yaml
from pipelines.operations.registry import OPERATIONS
from pipelines.recipe import Recipe

TEXT = Path(__file__).with_name("broken_recipes.txt").read_text(encoding="utf-8")
CASES = [
    pytest.param(recipe, said.strip().splitlines(), id=title)
    for section in TEXT.split("=== ")[1:]
    for title, _, rest in [section.partition("\n")]
    for recipe, _, said in [rest.partition("---\n")]
]

SEPIA = """\
name: sepia
vars: {tone: warm}
source: {images: "a/*.jpg"}
steps:
  - edit: {prompt: "{{ tone }}"}
output: "o/{{ stem }}.png"
"""

TWO_OUTPUTS = """\
source: {images: "a/*.jpg"}
steps: [deblur]
output: ["o/{{ stem }}.png", {path: "p/{{ stem }}.png", from: source}]
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with recipes and a table that the broken ones name."""
    (tmp_path / "one.yaml").write_text(SEPIA)
    (tmp_path / "two.yaml").write_text(TWO_OUTPUTS)
    (tmp_path / "broken.yaml").write_text(SEPIA.replace("edit:", "edti:"))
    (tmp_path / "items.csv").write_text("file,caption\na.png,one\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLUX_NOT_THERE", raising=False)
    monkeypatch.setenv("BFL_API_KEY", "no-such-key")


def said_of(text: str, **variables: str) -> list[str]:
    """What is said of a recipe in ``r.yaml``, and of its table's columns."""
    Path("r.yaml").write_text(text, encoding="utf-8")
    try:
        check_items(Recipe.load("r.yaml", variables).compiled)
    except RecipeError as error:
        return str(error).splitlines()
    return []


def test_everything_that_is_wrong_is_said_with_its_line_and_what_to_write_instead(cases: Cases) -> None:
    for broken in CASES:
        recipe, expected = broken.values
        with cases.case(broken.id):
            assert said_of(str(recipe)) == expected


def test_there_are_at_least_thirty_broken_recipes_and_no_two_are_alike() -> None:
    assert len({case.id for case in CASES}) == len({case.values[0] for case in CASES}) == len(CASES) >= 30


def test_no_message_holds_the_name_of_a_class_or_the_value_of_a_secret() -> None:
    for case in CASES:
        for line in said_of(str(case.values[0])):
            assert "Error" not in line, case.id
            assert "no-such-key" not in line, case.id


def test_a_value_for_a_variable_that_the_recipe_has_not_is_said_with_those_that_it_has() -> None:
    assert said_of(SEPIA, tune="cold", x="1") == [
        "r.yaml:2: variables.tune: there is no variable 'tune' to be set (did you mean 'tone'?)",
        "r.yaml:2: variables.x: there is no variable 'x' to be set; it has tone",
    ]


def test_a_variable_that_is_set_is_checked_where_it_is_used() -> None:
    text = SEPIA.replace('{prompt: "{{ tone }}"}', '{prompt: x, seed: "{{ tone }}"}').replace("warm", "1")
    assert said_of(text, tone="cold") == [
        "r.yaml:5: steps.0.edit.seed: 'cold' is not a whole number: write one without quotes"
    ]


def test_a_step_that_is_not_understood_makes_no_further_problem_of_those_that_name_it() -> None:
    steps = "  - deblr: {}\n    id: sharp\n  - deblur: {}\n    from: sharp"
    text = SEPIA.replace('  - edit: {prompt: "{{ tone }}"}', steps)
    assert said_of(text) == ["r.yaml:5: steps.0.deblr: there is no tool 'deblr' (did you mean 'deblur'?)"]


def test_a_recipe_that_uses_another_that_uses_the_first_says_the_way_round() -> None:
    step = '  - edit: {prompt: "{{ tone }}"}'
    Path("other.yaml").write_text(SEPIA.replace(step, "  - recipe: r.yaml"))
    assert said_of(SEPIA.replace(step, "  - recipe: other.yaml")) == [
        "r.yaml:5: steps.0.recipe: other.yaml:5: steps.0.recipe: "
        "is a step of itself: take it out: r.yaml → other.yaml → r.yaml"
    ]


def test_a_step_that_is_nothing_like_any_is_told_with_all_that_there_are() -> None:
    [line] = said_of(SEPIA.replace("edit: {prompt", "zigzag: {prompt"))
    assert line.startswith("r.yaml:5: steps.0.zigzag: there is no tool 'zigzag'; there are deblur, erase, ")
    assert all(f"{name}, " in line for name in (*catalog.TASKS, *OPERATIONS))
    assert line.endswith(", call, recipe")


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_libyaml_reads_what_python_reads_and_says_of_damaged_text_the_same(data: st.DataObject) -> None:
    recipe = data.draw(st.sampled_from([case.values[0] for case in CASES]))
    place = data.draw(st.integers(0, len(recipe)))
    damage = data.draw(st.text("\t \n:-{}[]'\"#&*!|>%@`,x1\r\u2028\x85é🌊", max_size=3))
    text = recipe[:place] + damage + recipe[place + data.draw(st.integers(0, 2)) :]
    quick = yaml.load(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("yaml.__with_libyaml__", False)
        assert quick == yaml.load(text)
