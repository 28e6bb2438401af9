"""``validate``: a recipe is checked, and nothing is spent."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Cli, Here


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


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("none/*.jpg", "out"),
        ("{table: none.csv, image: '{{ path }}'}", "out"),
        ("s3://no-such-bucket-of-ours/*.jpg", "s3://no-such-bucket-of-ours/out"),
        ("gs://no-such-bucket-of-ours/*.jpg", "gs://no-such-bucket-of-ours/out"),
    ],
)
def test_offline_a_recipe_is_checked_without_its_files_and_without_the_network(
    here_cli: Here, folder: Path, source: str, output: str
) -> None:
    (folder / "r.yaml").write_text(f"source: {source}\nsteps: [deblur: {{}}]\noutput: '{output}/{{{{ stem }}}}.png'\n")
    done = here_cli("validate", str(folder / "r.yaml"), "--offline")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{folder}/r.yaml: OK: recipe, its files were not looked for, deblur\n"


def test_offline_mistakes_of_the_recipe_are_found_all_the_same(here_cli: Here, folder: Path) -> None:
    (folder / "r.yaml").write_text("source: none/*.jpg\nsteps: [deblurr: {}]\noutput: 'out/{{ stm }}.png'\n")
    done = here_cli("validate", str(folder / "r.yaml"), "--offline")
    assert done.returncode == 2
    assert "did you mean 'deblur'?" in done.stderr
    assert "did you mean 'stem'?" in done.stderr


def test_a_recipe_whose_pictures_are_not_there_yet_is_told_what_to_do(
    here_cli: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert here_cli("init").returncode == 0
    done = here_cli("validate", "recipe.yaml")
    assert done.returncode == 2
    assert "no file matches photos/*.jpg: put pictures there, or write another glob" in done.stderr
    assert "validate --offline checks what is written in the recipe, and does not look for its files" in done.stderr
    assert here_cli("validate", "recipe.yaml", "--offline").returncode == 0
