"""Recipes as graphs: how steps are spread out, in which order, what feeds what, and what becomes of it in a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image, ImageChops
from recipes import HEAD, OUTPUT, Painter, Place, perform
from scripted import Answer

from flux_tasks import ImageRef
from pipelines.language.graph import NodeRef
from pipelines.recipe import Recipe


def recipe(here: Place | None, steps: str, output: str = OUTPUT) -> Recipe:
    """A recipe with these steps over ``FOLDER``, which is that of ``here``."""
    text = f"{HEAD}{steps}\noutput: {output}\n"
    return Recipe.parse(text.replace("FOLDER", str(here.folder) if here else "f"))


def outcomes(row: dict[str, Any]) -> dict[str, str]:
    return {step["id"]: step["outcome"] for step in row["steps"]}


# -- spreading out ----------------------------------------------------------------------------------------------------


def test_a_matrix_makes_a_node_of_every_combination_and_so_does_every_step_that_it_feeds() -> None:
    steps = "  - edit: {prompt: '{{ take }}'}\n    id: paint\n    matrix: {seed: [1, 2], take: [a, b]}\n  - deblur: {}"
    graph = recipe(None, steps).graph
    assert [node.id for node in graph.nodes] == [
        *(f"paint[seed={seed},take={take}]" for seed in (1, 2) for take in ("a", "b")),
        *(f"deblur[seed={seed},take={take}]" for seed in (1, 2) for take in ("a", "b")),
    ]
    assert [node.parameters.get("seed") for node in graph.nodes[:4]] == [1, 1, 2, 2]
    assert "take" not in graph.nodes[0].parameters
    assert graph.node("deblur[seed=2,take=a]").image == "paint[seed=2,take=a]"
    variants = [target.names["variant"] for target in graph.targets]
    assert variants == ["seed-1_take-a", "seed-1_take-b", "seed-2_take-a", "seed-2_take-b"]


def test_values_that_are_no_plain_words_are_numbered_in_paths() -> None:
    graph = recipe(None, "  - edit: {}\n    matrix: {prompt: [a red house, 'a/b']}").graph
    assert [target.names["variant"] for target in graph.targets] == ["prompt-1", "prompt-2"]
    assert [node.parameters["prompt"] for node in graph.nodes] == ["a red house", "a/b"]


PICTURES = 1
FORK = """\
  - edit: {prompt: x}
    id: paint
    matrix: {seed: [1, 2]}
  - deblur: {}
    id: sharp
  - erase: {mask: "{{ mask }}"}
    id: clean
    from: paint
"""


def test_branches_that_meet_keep_the_combinations_they_share_apart() -> None:
    graph = recipe(None, FORK + "  - edit: {prompt: join}\n    id: join\n    from: [sharp, clean]").graph
    joined = [node for node in graph.nodes if node.step.id == "join"]
    assert [(node.image, node.parameters["references"]) for node in joined] == [
        (f"sharp[seed={seed}]", [NodeRef(f"clean[seed={seed}]")]) for seed in (1, 2)
    ]


def test_branches_that_meet_combine_what_each_varies_by_itself() -> None:
    steps = (
        "  - edit: {prompt: x}\n    id: one\n    matrix: {seed: [1, 2]}\n"
        "  - edit: {prompt: y}\n    id: two\n    from: source\n    matrix: {model: [flux-2-pro, flux-2-max]}\n"
        "  - edit: {prompt: join}\n    from: [one, two]"
    )
    graph = recipe(None, steps).graph
    joined = [node for node in graph.nodes if node.step.id == "edit"]
    assert [node.variant for node in joined] == [
        f"seed-{seed}_model-{model}" for seed in (1, 2) for model in ("flux-2-pro", "flux-2-max")
    ]
    assert {node.tool.name for node in graph.nodes if node.step.id == "two"} == {"flux-2-pro", "flux-2-max"}


def test_steps_come_after_what_feeds_them_and_otherwise_as_they_are_written() -> None:
    steps = (
        "  - erase: {mask: {step: hole}}\n    from: sharp\n"
        "  - mask_dilate: {pixels: 2}\n    id: hole\n    from: box\n"
        "  - deblur: {}\n    id: sharp\n    from: source\n"
        "  - mask_from_boxes: {boxes: [[1, 1, 9, 9]]}\n    id: box\n    from: source"
    )
    found = recipe(None, steps, "{path: 'o/{{ stem }}.png', from: erase}")
    assert [node.id for node in found.graph.nodes] == ["sharp", "box", "hole", "erase"]


def test_an_operation_on_a_mask_may_be_written_before_the_mask() -> None:
    steps = (
        "  - resize: {max_side: 40}\n    id: small\n    from: box\n"
        "  - mask_from_boxes: {boxes: [[1, 1, 9, 9]]}\n    id: box\n    from: source\n"
        "  - erase: {mask: {step: small, resize: true}}\n    from: source"
    )
    assert [node.id for node in recipe(None, steps).graph.nodes] == ["box", "small", "erase"]


def test_without_from_a_step_takes_the_nearest_step_before_that_gives_what_is_due() -> None:
    steps = (
        "  - deblur: {}\n  - mask_from_boxes: {boxes: [[1, 1, 9, 9]]}\n  - mask_invert: {}\n"
        "  - erase: {mask: {step: mask_invert}}\n    save: 'c/{{ stem }}.png'\n  - generate: {prompt: x}\n"
        "  - outpaint: {aspect_ratio: '16:9'}"
    )
    feeds = {step.id: step.inputs for step in recipe(None, steps).steps}
    assert feeds == {
        "deblur": ("source",),
        "mask_from_boxes": ("deblur",),
        "mask_invert": ("mask_from_boxes",),
        "erase": ("deblur",),
        "generate": (),
        "outpaint": ("generate",),
    }


def test_a_recipe_as_a_step_gets_the_picture_before_it_and_its_variables_from_with(tmp_path: Path) -> None:
    other = tmp_path / "tone.yaml"
    other.write_text(
        "vars: {tone: warm}\nsource: 'a/*.jpg'\nsteps:\n  - deblur: {}\n  - edit: {prompt: '{{ tone }} {{ stem }}'}\n"
        "output: 'o/{{ stem }}.png'\n"
    )
    steps = (
        "  - resize: {max_side: 64}\n"
        f"  - recipe: {other}\n    with: {{tone: cold}}\n"
        f"  - recipe: {other}\n    id: again\n    from: tone\n"
        "  - edit: {prompt: join}\n    from: [again, tone]"
    )
    found = recipe(None, steps)
    assert {step.id: step.inputs for step in found.steps} == {
        "resize": ("source",),
        "tone_deblur": ("resize",),
        "tone_edit": ("tone_deblur",),
        "again_deblur": ("tone_edit",),
        "again_edit": ("again_deblur",),
        "edit": ("again_edit", "tone_edit"),
    }
    assert [dict(step.vars) for step in found.steps if step.vars][::2] == [{"tone": "cold"}, {"tone": "warm"}]
    assert Recipe.parse(found.to_yaml()).digest == found.digest


def test_a_variable_that_is_set_from_outside_is_a_number_where_it_was_one() -> None:
    text = (
        "vars: {take: 1, style: '1'}\nsource: 'a/*.jpg'\nsteps:\n  - deblur: {seed: '{{ take }}'}\n"
        "output: 'o/{{ stem }}.png'\n"
    )
    found = Recipe.parse(text, variables={"take": "3", "style": "3"})
    assert found.compiled.vars == {"take": 3, "style": "3"}


# -- in a run ---------------------------------------------------------------------------------------------------------


def test_one_branch_that_fails_does_not_keep_another_from_delivering(here: Place, painter: Painter) -> None:
    steps = (
        "  - deblur: {}\n    id: sharp\n"
        "  - erase: {mask: nowhere.png}\n    id: clean\n    from: source\n"
        "  - outpaint: {expand: {left: 16}}\n    id: wide"
    )
    outputs = "[{path: 'FOLDER/a/{{ stem }}.png', from: sharp}, {path: 'FOLDER/b/{{ stem }}.png', from: wide}]"
    _, [row] = perform(recipe(here, steps, outputs), here.settings)
    assert (row["outcome"], row["error"]["step"]) == ("invalid", "clean")
    assert [Path(output["path"]).parent.name for output in row["outputs"]] == ["a"]
    assert not (here.folder / "b").exists()
    assert here.jobs == 1


def test_every_output_and_every_saved_step_is_a_file_of_its_own(here: Place) -> None:
    steps = "  - deblur: {}\n    save: 'FOLDER/sharp/{{ stem }}.png'\n  - crop: {width: 64, height: 64}\n    id: small"
    outputs = "[{path: 'FOLDER/o/{{ stem }}.jpg'}, {path: 'FOLDER/in/{{ stem }}.png', from: source}]"
    _, [row] = perform(recipe(here, steps, outputs), here.settings)
    assert [output["from"] for output in row["outputs"]] == ["small", "source", "deblur"]
    files = [path for path in here.folder.glob("*/p0.*") if path.parent.name != "masks"]
    sizes = {path.parent.name: ImageRef.of(path).upright_size for path in files}
    assert sizes == {"photos": (80, 80), "o": (64, 64), "in": (80, 80), "sharp": (80, 80)}
    assert (here.folder / "in" / "p0.png").read_bytes() == (here.folder / "photos" / "p0.png").read_bytes()
    assert row["output_path"].endswith("o/p0.jpg")


def test_a_step_that_does_not_apply_passes_its_picture_on(here: Place) -> None:
    steps = "  - deblur: {}\n    when: width > 1000\n  - erase: {mask: '{{ mask }}'}"
    _, [row] = perform(recipe(here, steps), here.settings)
    assert outcomes(row) == {"deblur": "skipped", "erase": "done"}
    assert here.jobs == 1


def test_an_image_is_never_taken_for_the_mask_that_was_not_made_of_it(here: Place) -> None:
    steps = (
        "  - mask_from_boxes: {boxes: [[1, 1, 9, 9]]}\n    id: hole\n    when: width > 1000\n"
        "  - erase: {mask: {step: hole}}"
    )
    _, [row] = perform(recipe(here, steps), here.settings)
    assert outcomes(row) == {"hole": "skipped", "erase": "skipped"}
    assert row["steps"][1]["reason"] == "a picture that it needs was not made"
    assert (row["outcome"], here.jobs) == ("skipped", 0)


def test_when_sees_what_is_varied_so_that_a_combination_can_be_left_out(here: Place) -> None:
    steps = "  - edit: {prompt: x, seed: '{{ take }}'}\n    matrix: {take: [1, 2, 3]}\n    when: take != 2"
    _, [row] = perform(recipe(here, steps), here.settings)
    assert outcomes(row) == {"edit[take=1]": "done", "edit[take=2]": "skipped", "edit[take=3]": "done"}
    assert here.jobs == 2


def test_words_alone_make_a_picture_of_rows_without_one(here: Place) -> None:
    (here.folder / "words.csv").write_text("prompt\na lake\na hill\n")
    text = (
        f"source: {{table: {here.folder}/words.csv}}\nsteps:\n  - generate: {{prompt: '{{{{ prompt }}}}'}}\n"
        f"output: '{here.folder}/out/{{{{ stem }}}}.png'\n"
    )
    _, rows = perform(Recipe.parse(text), here.settings)
    assert [row["outcome"] for row in rows] == ["done", "done"]
    assert sorted(path.name for path in (here.folder / "out").iterdir()) == ["row-000000.png", "row-000001.png"]


def test_preserve_puts_every_pixel_outside_the_mask_back(here: Place) -> None:
    steps = "  - erase: {mask: {boxes: [[10, 10, 30, 30]]}, dilate_pixels: 4}\n    preserve: true"
    _, [row] = perform(recipe(here, steps), here.settings)
    before, after = (Image.open(here.folder / name / "p0.png").convert("RGB") for name in ("photos", "out"))
    assert ImageChops.difference(before, after).getbbox() == (6, 6, 34, 34)
    assert row["outcome"] == "done"


def test_a_job_that_two_steps_share_is_made_and_counted_once(here: Place) -> None:
    steps = "  - deblur: {seed: 4}\n    id: one\n  - deblur: {seed: 4}\n    id: two\n    from: source"
    outputs = "[{path: 'FOLDER/a/{{ stem }}.png', from: one}, {path: 'FOLDER/b/{{ stem }}.png', from: two}]"
    run, [row] = perform(recipe(here, steps, outputs), here.settings)
    assert sorted(outcomes(row).values()) == ["cached", "done"]
    assert (here.jobs, run.summary.jobs, run.summary.cost, row["cost"]) == (1, 1, 2.0, 2.0)


def checked(here: Place, expect: str, failure: str) -> tuple[Any, dict[str, Any]]:
    steps = f"  - deblur: {{seed: 1}}\n    expect: {{{expect}}}\n    on_failure: {failure}"
    run, [row] = perform(recipe(here, steps), here.settings)
    return run, row


def test_a_result_that_is_not_as_expected_fails_the_item_and_is_paid_for_once(here: Place) -> None:
    for _ in range(2):
        _, row = checked(here, "min_side: 4000", "fail")
        assert (row["outcome"], row["error"]["kind"]) == ("failed", "CheckFailed")
        assert "min_side: 80×80 px, below 4000 px" in row["error"]["message"]
        assert here.jobs == 1
    assert not (here.folder / "out").exists()


def test_a_result_that_is_not_as_expected_is_kept_if_so_wanted_with_a_warning(here: Place) -> None:
    _, row = checked(here, "min_side: 4000", "keep")
    assert row["outcome"] == "done"
    assert row["steps"][0]["warnings"][-1].startswith("kept, though min_side")
    assert (here.folder / "out" / "p0.png").exists()


def test_each_further_try_is_a_job_of_its_own_and_the_last_one_counts(here: Place) -> None:
    run, row = checked(here, "min_side: 4000", "{retry_with: [{seed: 2}, {seed: 3}], then: keep}")
    assert (here.jobs, run.summary.jobs, len(row["steps"])) == (3, 3, 3)
    assert [step["parameters"]["seed"] for step in row["steps"]] == [1, 2, 3]
    again, _ = checked(here, "min_side: 4000", "{retry_with: [{seed: 2}, {seed: 3}], then: keep}")
    assert (here.jobs, again.summary.jobs) == (3, 0)


def test_no_further_try_is_made_of_a_result_that_is_as_expected(here: Place) -> None:
    _, row = checked(here, "min_side: 40", "{retry_with: {seed: 2}}")
    assert (row["outcome"], here.jobs) == ("done", 1)


def test_a_refused_branch_is_told_and_what_needs_it_is_not_paid_for(here: Place, painter: Painter) -> None:
    refusal = Answer(200, {"id": "x", "status": "Request Moderated", "details": {"Moderation Reasons": ["Nudity"]}})
    plain = painter._poll
    painter._poll = lambda job_id: refusal if painter.bodies[-1].get("seed") == 9 else plain(job_id)  # type: ignore[method-assign]
    try:
        steps = "  - deblur: {seed: 9}\n    id: one\n  - edit: {prompt: x}\n    from: one"
        _, [row] = perform(recipe(here, steps), here.settings)
    finally:
        del painter._poll  # type: ignore[method-assign]
    assert (row["outcome"], here.jobs) == ("moderated", 1)
    assert [step["id"] for step in row["steps"]] == []
