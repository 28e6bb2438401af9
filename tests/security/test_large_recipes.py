"""Recipes that are too large, too deep or in each other: each ends soon, with a line that says what is too much."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked import run

HERE = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
HEAD = "source: 'p/*'\noutput: 'o/{{ stem }}.png'\n"
SECONDS, MEMORY = 15, 400 * 1024**2


def validated(folder: Path) -> list[str]:
    """What is said of ``r.yaml`` by a process that is killed when it takes too long or too much."""
    command = [sys.executable, "-m", "pipelines.cli", "validate", "r.yaml"]
    environment = {**os.environ, "PYTHONPATH": HERE}
    done = run(command, cwd=folder, env=environment, limits={"CPU": SECONDS, "AS": MEMORY})
    assert done.returncode == 2, (done.returncode, done.stderr[:1_000])
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()


def step(condition: str) -> str:
    return f"{HEAD}steps:\n  - deblur: {{}}\n    when: '{condition}'\n"


LARGE: dict[str, tuple[str, str]] = {
    "a condition of 300 factors": (step("*".join(["width"] * 300) + " > 1"), "r.yaml:5: steps.0.when: is nested too"),
    "a condition of 150 brackets": (step("(" * 150 + "1" + ")" * 150), "r.yaml:5: steps.0.when: is nested too"),
    "a condition of a megabyte": (step("1" + " " * 1_000_000), "r.yaml:5: steps.0.when: '1"),
    "a prompt of 300 sums": (
        f"{HEAD}steps:\n  - edit: {{prompt: 'x {{{{ {'+'.join(['index'] * 300)} }}}}'}}\n",
        "r.yaml:4: steps.0.edit.prompt: is nested too",
    ),
    "200,000 variables": (
        f"{HEAD}steps: [deblur]\nvars:\n" + "".join(f"  v{n}: {n}\n" for n in range(200_000)),
        "has more than 50,000 values: put them into a table",
    ),
    "2,000 variables": (
        f"{HEAD}steps: [deblur]\nvars:\n" + "".join(f"  v{n}: {n}\n" for n in range(2_000)),
        "vars has 2,000 entries, and a mapping at most 1,000",
    ),
    "2,000 columns": (
        "output: 'o/{{ stem }}.png'\nsteps: [deblur]\nsource:\n  images: 'p/*'\n  columns:\n"
        + "".join(f"    v{n}: x\n" for n in range(2_000)),
        "source.columns has 2,000 entries, and a mapping at most 1,000",
    ),
    "3,000 steps": (f"{HEAD}steps: [{'deblur, ' * 3_000}]\n", "r.yaml:3: steps: has 3,000 steps, and a recipe at most"),
}


@pytest.mark.parametrize("what", LARGE)
def test_what_is_too_large_is_said_in_one_line(tmp_path: Path, what: str) -> None:
    text, expected = LARGE[what]
    (tmp_path / "r.yaml").write_text(text)
    (line,) = validated(tmp_path)
    assert expected in line
    assert len(line) < 300


def nest(folder: Path, levels: int, width: int, name: Callable[[int, int], str]) -> None:
    """Write recipes of which each uses the next ``width`` times."""
    for level in range(levels):
        steps = "".join(f"  - recipe: {name(level + 1, n)}\n    id: s{n}\n" for n in range(width))
        (folder / f"r{level or ''}.yaml").write_text(f"{HEAD}steps:\n{steps}")
    (folder / f"r{levels}.yaml").write_text(f"{HEAD}steps: [deblur]\n")


@pytest.mark.parametrize(("levels", "width"), [(12, 10), (15, 3), (19, 2)])
@pytest.mark.parametrize("alias", [False, True])
def test_recipes_in_recipes_end_at_the_first_that_is_too_large(
    tmp_path: Path, levels: int, width: int, alias: bool
) -> None:
    nest(tmp_path, levels, width, lambda level, n: f"{'./' * n if alias else ''}r{level}.yaml")
    (line,) = validated(tmp_path)
    assert line.endswith("makes more than 1,000 steps in all: use fewer recipes as steps")


def test_recipes_nest_so_deep_and_no_deeper(tmp_path: Path) -> None:
    nest(tmp_path, 400, 1, lambda level, _: f"r{level}.yaml")
    (line,) = validated(tmp_path)
    assert line.endswith("lies more than 20 recipes deep: nest fewer")


def test_a_recipe_that_uses_itself_by_another_name_is_found(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f"{HEAD}steps: [{{recipe: ./r.yaml}}]\n")
    (line,) = validated(tmp_path)
    assert "is a step of itself: take it out: r.yaml → ./r.yaml" in line


SECRETS = {
    "lines of colons": "root:x:0:0:hunter2:/root:/bin/sh\nbin:x:1:1:hunter2:/bin:/bin/sh\n",
    "a word": "hunter2",
    "ini": "[default]\nkey = hunter2\n",
    "a mapping": "password: hunter2\nhunter2: 3\n",
    "a mapping with steps": "steps: [hunter2]\nhunter2: 1\n",
    "a list": "- hunter2\n",
    "a tag": "!hunter2 x\n",
    "an anchor": "*hunter2\n",
    "broken": "a: [hunter2\nb: @hunter2\n\t'hunter2",
    "a private key": "-----BEGIN hunter2-----\nhunter2: @\n",
}


@pytest.mark.parametrize("what", SECRETS)
def test_nothing_is_printed_of_a_file_that_is_no_recipe(cli: Any, tmp_path: Path, what: str) -> None:
    (tmp_path / "other").write_text(SECRETS[what])
    (tmp_path / "r.yaml").write_text(f"{HEAD}steps: [{{recipe: other}}]\n")
    told = cli("validate", "r.yaml")
    (line,) = told.err.splitlines()
    assert (told.code, told.out) == (2, "")
    assert "r.yaml:3: steps.0.recipe: other" in line
    assert "is not a recipe" in line
    assert "hunter2" not in line
