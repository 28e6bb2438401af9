"""`erase`, `deblur` and the other tools over a folder of photos, without a recipe."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from command_line import Here
from recipes import Place

from pipelines.cli.commands.one_tool import ABOUT
from pipelines.recipe import Recipe


@pytest.fixture
def program(here: Place, monkeypatch: pytest.MonkeyPatch) -> Here:
    made = Here(here.folder, monkeypatch)
    monkeypatch.setenv("FLUX_ENDPOINT", here.settings.endpoint)
    monkeypatch.chdir(here.folder)
    return made


def test_a_folder_of_photos_and_one_of_masks_are_enough_and_nothing_is_paid_twice(here: Place, program: Here) -> None:
    words = ("erase", "photos/*.png", "--masks", "masks/", "--out", "clean/", "--with", "dilate_pixels=4")
    first = program(*words, key="k")
    assert "1 done" in first.stdout, first.stdout + first.stderr
    assert (here.folder / "clean" / "p0.png").exists()
    assert "no mask" in first.stdout + first.stderr or first.returncode == 1, "the last photo has no mask"
    jobs = here.jobs
    program(*words, key="k")
    assert here.jobs == jobs == 1


def test_the_recipe_that_it_is_can_be_printed_and_run(here: Place, program: Here) -> None:
    words = ("erase", "photos/*.png", "--masks", "masks", "--out", "clean", "--with", "when=mask_exists")
    printed = program(*words, "--print")
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout == (
        "name: erase\n"
        "source:\n  images: photos/*.png\n  columns:\n    mask: masks/{{ stem }}.png\n"
        "steps:\n- erase:\n    mask: '{{ mask }}'\n  when: mask_exists\n"
        "output: clean/{{ stem }}.png\n"
    )
    assert here.jobs == 0
    (here.folder / "recipe.yaml").write_text(printed.stdout)
    assert program("run", "recipe.yaml", key="k").returncode == 0
    jobs = here.jobs
    assert program(*words, key="k").returncode == 0
    assert here.jobs == jobs


@pytest.mark.parametrize("step", ABOUT)
def test_the_example_of_each_help_is_a_recipe(here: Place, program: Here, step: str) -> None:
    (here.folder / "coat.png").write_bytes((here.folder / "photos" / "p0.png").read_bytes())
    shown = program(step.replace("_", "-"), "--help").stdout
    [example] = re.findall(r"^  flux-pipelines (.*--out.*)", shown, re.MULTILINE)
    words = [word if word != "photos/" else "photos/*.png" for word in shlex.split(example)]
    printed = program(*words, "--print")
    assert printed.returncode == 0, printed.stderr
    assert Recipe.parse(printed.stdout).name == step


def test_what_is_wrong_is_said_at_once_and_nothing_is_spent(here: Place, program: Here) -> None:
    done = program("fill", "photos/*.png", "--out", "o", "--with", "prompt", "--with", "=3", key="k")
    assert done.returncode == 2
    assert "--masks: is missing" in done.stderr
    assert "'prompt' is not NAME=VALUE" in done.stderr
    assert "'=3' is not NAME=VALUE" in done.stderr
    wrong = program("deblur", "photos/*.png", "--out", "o", "--with", "strenght=2", key="k")
    assert (wrong.returncode, "deblur has no such parameter" in wrong.stderr) == (2, True)
    option = program("outpaint", "photos/*.png", "--out", "o", "--aspect-ratio", "16:9", key="k")
    assert (option.returncode, "written --with aspect_ratio=…" in option.stderr) == (2, True)
    assert here.jobs == 0


def test_masks_of_several_kinds_need_a_template(here: Place, program: Here) -> None:
    (here.folder / "masks" / "p9.jpg").write_bytes(b"")
    wrong = program("erase", "photos/*.png", "--masks", "masks", "--out", "o", "--print")
    assert wrong.returncode == 2
    assert "several kinds (jpg, png): write a template, such as 'masks/{{ stem }}.png'" in wrong.stderr
    right = program("erase", "photos/*.png", "--masks", "masks/{{ stem }}.png", "--out", "o", "--print")
    assert right.returncode == 0
    none = program("erase", "photos/*.png", "--masks", "nowhere", "--out", "o", "--print")
    assert (none.returncode, "nowhere has no masks" in none.stderr) == (2, True)


def test_a_value_is_text_unless_it_is_a_number_a_truth_value_or_a_list(here: Place, program: Here) -> None:
    given = ["aspect_ratio=16:9", "safety_tolerance=2", "auto_crop=true", "prompt=12 hens"]
    words = [word for text in given for word in ("--with", text)]
    printed = program("outpaint", "photos/*.png", "--out", "o/{{ stem }}-{{ index }}.png", *words, "--print").stdout
    for line in ("aspect_ratio: '16:9'", "safety_tolerance: 2", "auto_crop: true", "prompt: 12 hens"):
        assert line in printed
    assert Path("o").exists() is False
