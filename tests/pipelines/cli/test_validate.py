"""``validate``: a recipe is checked, and nothing is spent."""

from __future__ import annotations

from pathlib import Path

from command_line import Cli


def test_validate_says_what_a_good_recipe_would_do(cli: Cli, folder: Path) -> None:
    done = cli("validate", str(folder / "recipe.yaml"))
    assert done.returncode == 0
    assert "clean, 2 items, deblur → erase" in done.stdout


def test_validate_warns_of_a_recipe_that_goes_against_a_tools_documents(cli: Cli, folder: Path) -> None:
    recipe = folder / "late.yaml"
    steps = "steps:\n  - outpaint: {aspect_ratio: '16:9'}\n  - deblur: {}\n"
    recipe.write_text(f"source: '{folder}/photos/*'\n{steps}output: '{folder}/out/{{{{ stem }}}}.png'\n")
    done = cli("validate", str(recipe))
    assert done.returncode == 0
    reason = "deblur before upscaling, outpainting and export (SEED-0)"
    assert f"warning: deblur: comes after outpaint: {reason}" in done.stdout
    assert "2 items, outpaint → deblur" in done.stdout
