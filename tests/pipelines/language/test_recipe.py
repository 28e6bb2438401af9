"""Recipes: what is read, what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_tasks.errors import RecipeError
from pipelines.recipe import Recipe

GOOD = """
name: restore
source:
  images: "photos/*.jpg"
  columns: {mask: "masks/{{ stem }}.png"}
steps:
  - deblur: {}
  - erase: {mask: "{{ mask }}", dilate_pixels: 12}
    when: mask_exists and width > 100
  - fill: {mask: "{{ mask }}", prompt: "a {{ stem }}"}
    id: paint
  - outpaint: {aspect_ratio: "16:9"}
output: {path: "out/{{ stem }}.png"}
"""


def problems(text: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        Recipe.parse(text, file="r.yaml")
    return str(caught.value).splitlines()


def steps(text: str) -> str:
    return f"source: {{images: a/*.jpg}}\nsteps:\n{text}\noutput: {{path: 'out/{{{{ stem }}}}.png'}}\n"


def test_a_recipe_is_read_with_its_steps_in_order() -> None:
    recipe = Recipe.parse(GOOD)
    assert [s.id for s in recipe.steps] == ["deblur", "erase", "paint", "outpaint"]
    assert [s.tool.name for s in recipe.steps] == ["deblur-v1", "erase-v1", "flux-pro-1.0-fill", "outpainting-v1"]
    assert recipe.source.columns == {"mask": "masks/{{ stem }}.png"}


def test_layout_and_comments_do_not_change_the_digest_but_meaning_does() -> None:
    other = GOOD.replace('columns: {mask: "masks/{{ stem }}.png"}', "columns:\n    mask: masks/{{ stem }}.png  # here")
    assert Recipe.parse(GOOD).digest == Recipe.parse(other).digest
    assert Recipe.parse(GOOD).digest != Recipe.parse(GOOD.replace("12", "13")).digest


def test_steps_may_be_named_by_tool_or_by_a_short_name() -> None:
    recipe = Recipe.parse(steps("  - flux-kontext: {prompt: make it night}\n  - edit: {model: flux-2-max, prompt: x}"))
    assert [s.tool.name for s in recipe.steps] == ["flux-kontext-pro", "flux-2-max"]
    assert [s.task for s in recipe.steps] == ["edit", "edit"]


def test_equal_steps_get_ids_of_their_own() -> None:
    recipe = Recipe.parse(steps("  - deblur\n  - deblur: {seed: 2}"))
    assert [s.id for s in recipe.steps] == ["deblur", "deblur_2"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "r.yaml: the file is empty"),
        ("a: [", "r.yaml:1: not valid YAML: expected the node content, but found '<stream end>'"),
        ("just text", "r.yaml:1: 'just text' is not a mapping"),
        (steps("  - deblr: {}"), "r.yaml:3: steps.0.deblr: there is no tool 'deblr' (did you mean 'deblur'?)"),
        (
            steps("  - erase: {mask: m.png, dilate_pixels: 140}"),
            "r.yaml:3: steps.0.erase.dilate_pixels: 140 is above 100",
        ),
        (steps("  - erase: {}"), "r.yaml:3: steps.0.erase: needs mask: write the path of a mask"),
        (
            steps("  - erase: {mask: m.png, dilate_pixles: 3}"),
            "r.yaml:3: steps.0.erase.dilate_pixles: erase has no such parameter (did you mean 'dilate_pixels'?)",
        ),
        (steps("  - deblur: {seed: two}"), "r.yaml:3: steps.0.deblur.seed: 'two' is not a whole number"),
        (
            steps("  - deblur: {image: x.png}"),
            "r.yaml:3: steps.0.deblur.image: comes from the step before: leave it out",
        ),
        (
            steps("  - deblur: {webhook_url: 'https://x.example'}"),
            "r.yaml:3: steps.0.deblur.webhook_url: a recipe waits for its jobs: leave the webhook out",
        ),
        (
            steps("  - outpaint: {}"),
            "r.yaml:3: steps.0.outpaint: has no canvas: write aspect_ratio, expand, or width and height",
        ),
        (
            steps("  - outpaint: {aspect_ratio: wide}"),
            "r.yaml:3: steps.0.outpaint.aspect_ratio: 'wide' is not a ratio such as 16:9",
        ),
        (
            steps("  - outpaint: {expand: {lft: 3}}"),
            "r.yaml:3: steps.0.outpaint.expand.lft: unknown key",
        ),
        (
            steps("  - edit: {model: flux-2-por, prompt: x}"),
            "r.yaml:3: steps.0.edit.model: 'flux-2-por' is not a model of edit (did you mean 'flux-2-pro'?)",
        ),
        (steps("  - edit: {}"), "r.yaml:3: steps.0.edit.prompt: is required: write a value for it"),
        (
            steps("  - deblur: {}\n    wen: width > 3"),
            "r.yaml:4: steps.0.wen: a step has one tool; its other keys are id, from, when, matrix, vars, expect, "
            "on_failure, preserve, align, match_colour, require_mask, save, transport, with (did you mean 'when'?)",
        ),
        (
            steps("  - deblur: {}\n    when: widht > 3"),
            "r.yaml:4: steps.0.when: 'widht > 3': nothing is called 'widht' (did you mean 'width'?)",
        ),
        (steps("  - deblur: {}\n    when: 'width >'"), "r.yaml:4: steps.0.when: 'width >' is not understood"),
        (
            steps("  - deblur: {}\n  - deblur: {}\n    id: deblur"),
            "r.yaml:5: steps.1.id: 'deblur' is the id of an earlier step, too: choose another",
        ),
        (
            steps("  - fill: {mask: '{{ msk }}', prompt: x}"),
            "r.yaml:3: steps.0.fill.mask: '{{ msk }}': nothing is called 'msk'",
        ),
        (
            "source: {images: a/*.jpg}\nsteps: [deblur]\noutput: {path: out/x}\n",
            "r.yaml:3: output.path: 'out/x' must end in .png, .jpg, .jpeg or .webp",
        ),
        ("source: {images: a/*.jpg}\nsteps: [deblur]\n", "r.yaml:1: 'output' is missing"),
        (
            steps("  - fill: {prompt: x}"),
            "r.yaml:3: steps.0.fill: needs mask: write the path of a mask, or {alpha: true}",
        ),
        (
            steps("  - erase: {mask: {boxes: [[1, 2, 3]]}}"),
            "r.yaml:3: steps.0.erase.mask.boxes: each box is four whole numbers: left, top, right, bottom",
        ),
        (
            steps("  - erase: {mask: {flie: m.png}}"),
            "steps.0.erase.mask.flie: unknown key (did you mean 'file'?)",
        ),
        (steps("  - deblur: {variant: x}"), "r.yaml:3: steps.0.deblur.variant: 'x' is not a whole number"),
        (steps("  - outpaint: {aspect_ratio: 16:9}"), "969 is not text: write it in quotes (YAML takes 16:9 without"),
        (
            "source: {images: a/*.jpg}\nsteps: [deblur]\noutput: {path: 'file:///o/{{ stem }}.png'}",
            "r.yaml:3: output.path: write a plain path, without file://",
        ),
        (
            "source: {images: a/*.jpg}\nsteps: [deblur]\noutput: {path: out/x.png}",
            "r.yaml:3: output.path: 'out/x.png' is one file for all items",
        ),
        (
            "source: {images: a/*.jpg}\nsteps: [deblur]\noutput: {path: 'out/{{ stem | bogus }}.png'}",
            "r.yaml:3: output.path: 'out/{{ stem | bogus }}.png' is not understood: No filter named 'bogus'",
        ),
        ("source:\n\timages: a\n", "indent with spaces, not with tabs"),
        ("source: {images: a}\noutput: {path: {{ stem }}.png}\n", 'put templates in quotes: "{{ stem }}"'),
        ("source:\n  images: a\n   columns: {}\n", "check the indentation of this line and the one above"),
        ("a: " + "[" * 5000, "nested too deeply to be a recipe"),
        ("soruce: {}\nsteps: [deblur]\n", "r.yaml:1: soruce: unknown key (did you mean 'source'?)"),
        ("source: {images: a}\nsource: {images: b}\n", "r.yaml:2: source: is written twice: keep one"),
        ("source: &a {images: a}\nsteps: *a\n", "aliases (*name) are not supported"),
        ("source: !!python/object:os.system {}\n", "r.yaml:1: "),
        (
            "source: {images: a/*.jpg, columns: {stem: x}}\nsteps: [deblur]\noutput: {path: 'o/{{ stem }}.png'}",
            "r.yaml:1: source.columns.stem: 'stem' cannot be a name here",
        ),
    ],
)
def test_a_broken_recipe_says_where_what_and_what_to_write_instead(text: str, expected: str) -> None:
    assert any(expected in line for line in problems(text)), problems(text)


def test_all_problems_of_a_recipe_are_told_at_once_in_order_of_lines() -> None:
    text = steps("  - deblr: {}\n  - erase: {dilate_pixels: 140}\n  - outpaint: {}\n    when: wdth")
    lines = [int(line.split(":")[1]) for line in problems(text)]
    assert len(lines) >= 5
    assert lines == sorted(lines)


def test_a_missing_recipe_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no such recipe file"):
        Recipe.load(str(tmp_path / "none.yaml"))


@given(st.text(max_size=200))
def test_no_text_makes_anything_but_a_recipe_or_a_recipe_error(text: str) -> None:
    try:
        Recipe.parse(text)
    except RecipeError as error:
        assert error.problems


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.sampled_from(["source", "steps", "output", "images", "columns", "path", "deblur", "erase", "when"]),
                inner,
                max_size=4,
            ),
        ),
        max_leaves=12,
    )
)
def test_no_document_makes_anything_but_a_recipe_or_a_recipe_error(data: object) -> None:
    import yaml

    try:
        Recipe.parse(yaml.safe_dump(data))
    except RecipeError as error:
        assert error.problems


def test_templates_are_sandboxed() -> None:
    from flux_tasks.errors import InvalidRequest
    from pipelines.language import templates

    for hostile in (
        "{{ ''.__class__.__mro__ }}",
        "{{ x.__init__.__globals__ }}",
        "{{ cycler.__init__ }}",
        "{{ range(10**9) | list }}",
        "{% for i in range(10**9) %}x{% endfor %}",
    ):
        with pytest.raises(InvalidRequest):
            templates.render(hostile, {"x": 1}, "here")


def test_a_template_that_is_one_expression_keeps_its_type() -> None:
    from pipelines.language import templates

    assert templates.render("{{ seed }}", {"seed": 7}, "here") == 7
    assert templates.render("n{{ seed }}", {"seed": 7}, "here") == "n7"
    assert templates.render({"a": ["{{ seed + 1 }}"]}, {"seed": 7}, "here") == {"a": [8]}


def test_a_missing_name_says_what_is_known() -> None:
    from flux_tasks.errors import InvalidRequest
    from pipelines.language import templates

    with pytest.raises(InvalidRequest, match="'sead' is undefined; known here: seed"):
        templates.render("x {{ sead }}", {"seed": 7}, "here")
