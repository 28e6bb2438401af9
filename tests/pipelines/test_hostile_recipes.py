"""What a hostile reader of recipes found, and does not find any more: plans that said less than was paid, and more."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from recipes import Place, perform

from flux_tasks.errors import RecipeError
from pipelines.execution.precheck import check_items
from pipelines.recipe import Recipe


def parsed(here: Place, steps: str, output: str = "{folder}/out/{{{{ stem }}}}.png") -> Recipe:
    text = f"source: '{here.folder}/photos/*.png'\nsteps:\n{steps}\noutput: '{output.format(folder=here.folder)}'\n"
    return Recipe.parse(text)


@pytest.mark.parametrize(
    "condition",
    [
        *("sharpness|int > 1", "sharpness is number", "(sharpness|round) > 5", "-sharpness < 0", "sharpness // 2 > 1"),
        *("sharpness % 2 < 3", "sharpness ** 2 > 1", "brightness|abs > 1", "'%d'|format(sharpness) != 'x'"),
        *("sharpness ~ '' != ''", "has_alpha|int == 0", "brightness.real > 1", "[sharpness] != []"),
    ],
)
def test_whatever_is_asked_of_a_picture_that_is_not_made_yet_stays_undecided(here: Place, condition: str) -> None:
    recipe = parsed(
        here,
        f"""  - edit: {{prompt: x}}
  - outpaint: {{expand: {{left: 16}}}}
    when: "{condition}"
""",
    )
    plan = recipe.plan(settings=here.settings)
    assert (plan.jobs, plan.total("undecided").jobs, plan.invalid) == (2, 2, [])


def test_a_condition_that_another_part_decides_is_decided(here: Place) -> None:
    steps = "  - edit: {prompt: x}\n  - deblur: {}\n    when: width > 100000 and sharpness > 3"
    plan = parsed(here, steps).plan(settings=here.settings)
    assert (plan.jobs, plan.total("undecided").jobs) == (2, 0)


def test_edits_that_are_put_back_with_different_edges_are_different_pictures_in_the_plan(here: Place) -> None:
    boxes = "mask: {boxes: [[2, 2, 20, 20]]}"
    recipe = parsed(
        here,
        f"""  - erase: {{{boxes}}}
    id: hard
    from: source
    preserve: true
  - erase: {{{boxes}}}
    id: soft
    from: source
    preserve: {{feather: 3}}
  - edit: {{prompt: x}}
    id: one
    from: hard
    save: "{here.folder}/one/{{{{ stem }}}}.png"
  - edit: {{prompt: x}}
    from: soft
""",
    )
    plan = recipe.plan(settings=here.settings)
    perform(recipe, here.settings)
    assert plan.jobs == here.jobs


def test_what_follows_a_retry_that_changes_the_size_is_undecided(here: Place) -> None:
    recipe = parsed(
        here,
        """  - outpaint: {expand: {left: 16}}
    expect: {condition: "width > 9000"}
    on_failure: {retry_with: [{expand: {left: 160}}], then: keep}
  - edit: {prompt: x}
    when: width > 200
""",
    )
    plan = recipe.plan(settings=here.settings)
    perform(recipe, here.settings)
    uncertain = plan.total("undecided").jobs + plan.total("retries").jobs
    assert plan.jobs <= here.jobs <= plan.jobs + uncertain


@pytest.mark.parametrize(
    ("step", "column"),
    [
        ('erase: {mask: "{{ m }}"}', "{folder}/masks/{{{{ stem }}}}.png"),
        ('load_image: {file: "{{ m }}"}', "{folder}/masks/{{{{ stem }}}}.png"),
        ("edit: {prompt: x, references: ['{folder}/masks/p0.png']}", "x"),
    ],
)
def test_results_are_not_written_over_masks_and_references(here: Place, step: str, column: str) -> None:
    folder = here.folder
    (folder / "masks").mkdir(exist_ok=True)
    for photo in sorted((folder / "photos").glob("*.png")):
        with Image.open(photo) as image:
            Image.new("L", image.size, 255).save(folder / "masks" / photo.name)
    first = sorted((folder / "photos").glob("*.png"))[0].name
    text = f"""
source: {{images: '{folder}/photos/*.png', columns: {{m: '{column.format(folder=folder)}'}}}}
steps:
  - {step.replace("{folder}", str(folder)).replace("p0.png", first)}
output: '{folder}/masks/{{{{ stem }}}}.png'
"""
    with pytest.raises(RecipeError, match="is also a picture that the run reads"):
        check_items(Recipe.parse(text).compiled)


def test_a_run_over_a_part_of_the_items_does_not_refill_the_purse(here: Place) -> None:
    recipe = parsed(here, "  - edit: {model: flux-2-pro, prompt: x}")
    price = recipe.plan(settings=here.settings).credits / 2
    first, _ = perform(recipe, here.settings, budget=price)
    assert first.stopped is not None
    perform(recipe, here.settings, budget=price, limit=1)
    perform(recipe, here.settings, budget=price, only=lambda item: item.index == 0)
    again, _ = perform(recipe, here.settings, budget=price)
    assert again.stopped is not None
    assert here.jobs == 1


def test_a_budget_that_is_no_number_of_credits_is_refused_in_python_too(here: Place) -> None:
    for odd in (float("nan"), -1, float("inf")):
        with pytest.raises(RecipeError, match="is not a number of credits"):
            perform(parsed(here, "  - deblur: {}"), here.settings, budget=odd)


def test_a_saved_result_of_another_recipe_has_its_variables_filled_in(here: Place, tmp_path: Path) -> None:
    inner = tmp_path / "inner.yaml"
    inner.write_text(f"""
vars: {{kind: a}}
source: 'x/*.png'
steps:
  - resize: {{max_side: 16}}
    save: '{here.folder}/s-{{{{ kind }}}}-{{{{ stem }}}}.png'
output: 'o/{{{{ stem }}}}.png'
""")
    recipe = parsed(here, f"  - recipe: {inner}\n    with: {{kind: '{{{{ index + 1 }}}}'}}")
    perform(recipe, here.settings)
    saved = sorted(path.name for path in here.folder.glob("s-*.png"))
    assert [name.split("-")[1] for name in saved] == ["1", "2"]


def test_recipes_that_use_one_another_twice_are_read_quickly_and_end_at_a_limit(tmp_path: Path) -> None:
    for depth in range(18):
        below = f"{tmp_path}/d{depth + 1}.yaml"
        step = (
            "  - resize: {max_side: 16}\n"
            if depth == 17
            else f"  - recipe: {below}\n    id: a\n  - recipe: {below}\n    id: b\n"
        )
        (tmp_path / f"d{depth}.yaml").write_text(f"source: 'x/*.png'\nsteps:\n{step}output: 'o/{{{{ stem }}}}.png'\n")
    with pytest.raises(RecipeError, match="makes more than 1,000 steps in all"):
        Recipe.load(tmp_path / "d0.yaml")


def test_a_join_is_not_made_when_one_of_its_pictures_is_missing(here: Place) -> None:
    recipe = parsed(
        here,
        """  - generate: {prompt: a lake, width: 64, height: 64}
    id: lake
    when: index == 0
  - deblur: {}
    id: sharp
    from: source
  - edit: {prompt: "image 1 before image 2, lit as image 3", model: flux-2-pro}
    from: [source, lake, sharp]
""",
    )
    plan = recipe.plan(settings=here.settings)
    _, rows = perform(recipe, here.settings)
    assert (plan.jobs, here.jobs) == (4, 4)
    assert [step["outcome"] for step in rows[1]["steps"]] == ["skipped", "done", "skipped"]
    assert rows[1]["steps"][2]["reason"] == "a picture that it needs was not made"
