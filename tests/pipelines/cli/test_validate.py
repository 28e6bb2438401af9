"""``validate``: a recipe is checked, and nothing is spent."""

from __future__ import annotations

from pathlib import Path

from command_line import Cli


def test_validate_says_what_a_good_recipe_would_do(cli: Cli, folder: Path) -> None:
    done = cli("validate", str(folder / "recipe.yaml"))
    assert done.returncode == 0
    assert "clean, 2 items, deblur → erase" in done.stdout
