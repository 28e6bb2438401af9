"""Advice on recipes that are valid: a step that comes after one it should come before, with the document's reason."""

from __future__ import annotations

import pytest

from pipelines.language.advice import advice
from pipelines.language.reading import loader

REASON = "deblur before upscaling, outpainting and export (SEED-0)"


def warnings(steps: str, output: str = "'out/{{ stem }}{{ variant }}.png'") -> list[str]:
    recipe = loader.parse(f"source: {{images: '*.png'}}\nsteps:\n{steps}\noutput: {output}")
    return [str(problem) for problem in advice(recipe)]


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("outpaint: {aspect_ratio: '16:9'}", "outpaint"),
        ("expand: {left: 16}", "expand"),
        ("fill: {mask: {boxes: [[0, 0, 9, 9]]}}", "fill"),
        ("fill_finetuned: {finetune_id: mine, mask: {alpha: true}}", "fill_finetuned"),
        ("convert: {format: jpeg}", "convert, which gives a JPEG"),
        ("erase: {mask: {boxes: [[0, 0, 9, 9]]}, output_format: jpeg}", "erase, which gives a JPEG"),
        ("edit: {model: flux-2-pro, prompt: x}", "edit, which gives a JPEG"),
        ("resize: {max_side: 4000, upscale: true}", "resize, which enlarges its picture"),
    ],
)
def test_a_deblur_after_what_it_should_come_before_is_warned_of(before: str, words: str) -> None:
    found = warnings(f"  - {before}\n  - auto_orient: {{}}\n  - deblur: {{}}")
    assert found == [f"deblur: comes after {words}: {REASON}"]
    assert warnings(f"  - deblur: {{}}\n  - {before}") == []


@pytest.mark.parametrize(
    "before",
    [
        "erase: {mask: {boxes: [[0, 0, 9, 9]]}}",
        "resize: {max_side: 1024}",
        "convert: {format: png}",
        "edit: {model: flux-2-pro, prompt: x, output_format: png}",
    ],
)
def test_a_deblur_after_anything_else_is_not(before: str) -> None:
    assert warnings(f"  - {before}\n  - deblur: {{}}") == []


def test_a_step_with_a_name_of_its_own_is_named_and_a_matrix_is_warned_of_once() -> None:
    steps = (
        "  - outpaint: {aspect_ratio: '{{ shape }}'}\n    id: wide\n    matrix: {shape: ['16:9', '1:1']}\n"
        "  - deblur: {}\n    id: sharp"
    )
    assert warnings(steps) == [f"sharp: comes after outpaint (wide): {REASON}"]


def test_only_the_main_picture_counts() -> None:
    wide = "  - outpaint: {aspect_ratio: '16:9'}\n    save: 'w/{{ stem }}.png'\n"
    assert warnings(f"{wide}  - deblur: {{}}\n    from: source") == []
