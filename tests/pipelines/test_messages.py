"""Messages repeat at most 80 characters of what they refuse, on one line for each problem, whatever was written."""

from __future__ import annotations

import copy
import csv
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import Here
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st
from PIL import Image
from recipes import as_yaml

from flux_tasks.errors import FluxError, InvalidRequest, RecipeError
from flux_tasks.settings import Settings
from pipelines import steps
from pipelines.cli.main import main
from pipelines.execution.precheck import check_items
from pipelines.plan.planner import plan
from pipelines.recipe import Recipe

pytestmark = pytest.mark.early

LONG = "Zq" * 300  # more than a name may have
BINARY = "\x1b[2J\x07\u202e\x9f" * 100
TEXTS = {
    "long": LONG,
    "binary": BINARY,
    "lines": "Zq\r\n" * 200,
    "template": f"{{{{ {LONG} }}}}",
    "damaged template": f"{{{{ {LONG} +",
    "condition": f"{LONG} > 3 and {LONG}a < 2",
    "path": f"{LONG}.png",
    "folders": "Zq/" * 500 + "{{ stem }}.png",
    "list": [LONG] * 12,
    "mapping": {f"{LONG}{n}": LONG for n in range(12)},
    "deep mapping": {"step": {"step": {LONG: [LONG]}}},
}

STEPS: list[Any] = [
    {"auto_orient": {}},
    {"deblur": {"seed": 1}, "id": "sharp", "when": "sharpness < 500", "vars": {"few": 3}},
    {"erase": {"mask": "{{ mask }}", "dilate_pixels": 12}, "preserve": True, "require_mask": True},
    {"erase": {"mask": {"boxes": [[1, 1, 9, 9]], "dilate": 2}}, "expect": {"solid": False, "condition": "width > 8"}},
    {
        "edit": {"prompt": "in {{ tone }}", "model": "flux-2-pro", "references": ["b.png"]},
        "matrix": {"seed": [1, 2]},
        "expect": {"solid": False},
        "on_failure": {"retry_with": [{"seed": 3}], "then": "keep"},
        "id": "edited",
    },
    {"resize": {"max_side": 64}, "from": "sharp", "id": "small", "save": "s/{{ stem }}-small.png"},
    {"call": "my_module:grain", "with": {"amount": 3}, "save": "s/{{ stem }}-grain.png"},
    {"recipe": "other.yaml", "with": {"tone": "warm"}, "id": "again"},
    {"outpaint": {"expand": {"left": 16}, "fit": "downscale"}},
]
WHOLE: dict[str, Any] = {
    "name": "whole",
    "vars": {"tone": "warm"},
    "env": ["HOME"],
    "source": {"images": ["a/*.jpg"], "columns": {"mask": "m/{{ stem }}.png"}, "filter": "index < 3", "limit": 3},
    "steps": STEPS,
    "output": [
        {"path": "o/{{ stem }}-{{ variant }}.png", "from": "edited"},
        {"path": "p/{{ stem }}.webp"},
    ],
    "budget": {"credits": 30},
}
TABLE = {"table": "items.csv", "image": "{{ file }}", "columns": {"caption": "{{ text }}"}, "sample": 2, "seed": 1}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value, and with None at its end the way to every key."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key, None)
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*path, index))


def changed(data: Any, path: tuple[Any, ...], text: Any) -> Any:
    """``data`` with ``text`` in one place."""
    found = copy.deepcopy(data)
    *way, last = path
    is_key = last is None
    if is_key:
        *way, last = way
    inner = found
    for key in way:
        inner = inner[key]
    if is_key:
        inner[text if isinstance(text, str) else json.dumps(text)] = inner.pop(last)
    else:
        inner[last] = text
    return found


def check_message(error: Exception | str, problems: int | None = None) -> None:
    """Nothing is repeated at length, each problem is on one line or two, and no character steers the terminal."""
    lines = str(error).split("\n")
    if problems is not None:
        assert len(lines) <= 2 * problems
    for line in lines:
        assert line.isprintable(), ascii(line[:300])
        assert max(map(len, re.findall(r"[Zq]+", line)), default=0) <= 80, line[:300]
        assert len(line) <= 1_000, line[:1_500]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with what the whole recipe names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_module", raising=False)  # of an earlier test's folder
    for name in ("a", "m"):
        Path(name).mkdir()
    for name in ("a/p.jpg", "m/p.png", "b.png"):
        Image.linear_gradient("L").save(name)
    Path("items.csv").write_text("file,text\na/p.jpg,one\n")
    marked = "from pipelines import operation\n\n\n@operation\ndef grain(image, amount=1):\n    return image\n"
    Path("my_module.py").write_text(marked)
    inner = {
        "vars": {"tone": "x"},
        "source": "a/*.jpg",
        "steps": [{"edit": {"prompt": "{{ tone }}"}}],
        "output": "o/{{ stem }}.png",
    }
    Path("other.yaml").write_text(yaml.safe_dump(inner))


def refuse(data: Any) -> bool:
    """Read, check and plan a recipe, and check what is said of it; False if nothing was."""
    try:
        recipe = Recipe.parse(as_yaml(data, width=100_000, allow_unicode=True), file="r.yaml")
        check_items(recipe.compiled)
        found = plan(recipe.compiled, settings=Settings(endpoint="local", store="store"))
    except (RecipeError, InvalidRequest) as error:
        check_message(error, len(error.problems))
        return True
    for text in (*found.invalid, *found.warned):
        check_message(text)
    return bool(found.problems)


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("source", ["images", "table"])
def test_whatever_is_written_anywhere_in_a_recipe_is_repeated_in_part_only(kind: str, source: str) -> None:
    whole = WHOLE if source == "images" else {**WHOLE, "source": TABLE, "steps": STEPS[:1] + STEPS[5:6]}
    if source == "table":
        whole["steps"] = [{"edit": {"prompt": "{{ caption }}"}}]
        whole["output"] = "o/{{ stem }}.png"
    ways = [way for way in places(whole) if source == "images" or way[0] in ("source", "output")]
    assert sum(refuse(changed(whole, way, TEXTS[kind])) for way in ways) > len(ways) // 3


def test_the_recipe_that_is_changed_here_is_right_as_it_stands() -> None:
    assert not refuse(WHOLE)


@pytest.mark.parametrize("text", [LONG, "Zq\x1b[2J" * 500, "Zq/" * 800])
def test_what_stands_in_a_table_is_repeated_in_part_only(text: str) -> None:
    cells = {"file": "a/p.jpg", "text": "x", text: "y", "no": "no"}
    for name in ("file", "text", "no"):
        for image, condition, prompt in (
            ("{{ file }}", "no", "{{ text }}"),
            ("{{ file }}", "text > 3", "{{ text }}"),
            ("{{ filee }}", "true", "{{ nothing_like_it }}"),
            ("{{ row }}", "true", "x"),
            ("{{ file }}", "true", "{{ row.nothing }}"),
        ):
            with Path("items.csv").open("w", newline="") as file:
                csv.writer(file).writerows([cells, {**cells, name: text}.values()])
            source = {"table": "items.csv", "image": image, "filter": condition}
            step = {"edit": {"prompt": prompt, "seed": "{{ text }}"}}
            refuse({"source": source, "steps": [step], "output": "o/{{ stem }}.png"})


@pytest.mark.parametrize("text", [LONG, BINARY, "Zq\n" * 2_000], ids=["long", "binary", "lines"])
@pytest.mark.parametrize(
    "command",
    [
        "TEXT",
        "run TEXT",
        "run r.yaml TEXT",
        "run r.yaml --TEXT",
        "run r.yaml --TEXT=1",
        "plan r.yaml --limit TEXT",
        "plan r.yaml --limit=TEXT",
        "plan r.yaml --budget TEXT",
        "plan r.yaml --region TEXT",
        "plan r.yaml --endpoint TEXT",
        "plan r.yaml --set TEXT",
        "plan r.yaml --set TEXT=1",
        "plan r.yaml --set tone=TEXT",
        "validate TEXT",
        "init TEXT/TEXT",
        "graph TEXT",
        "tools TEXT",
        "retry TEXT",
        "retry last --only TEXT",
        "retry last --seed TEXT",
        "store TEXT",
        "store held --drop TEXT",
        "store explain TEXT",
        "store explain TEXT --recipe r.yaml --item TEXT",
        "local --latency TEXT",
        "local --port TEXT",
        "local --faults TEXT",
        "--show-completion TEXT",
    ],
)
def test_whatever_is_written_on_the_command_line_is_repeated_in_part_only(
    here_cli: Here, command: str, text: str
) -> None:
    Path("r.yaml").write_text(yaml.safe_dump(WHOLE))
    done = here_cli(*(word.replace("TEXT", text) for word in command.split()))
    assert done.returncode in (0, 2, 3)
    lines = done.stderr.splitlines()
    assert len(lines) <= 4
    for line in lines:
        check_message(line)


@given(st.text(min_size=81), st.sampled_from(["prompt", "name", "value", "from_", "when"]))
@trials(deadline=None, max_examples=100)
def test_whatever_python_code_gives_to_a_step_is_repeated_in_part_only(text: str, place: str) -> None:
    given_: dict[str, Any] = {
        "prompt": {"prompt": 3, "seed": text},
        "name": {"prompt": "x", text: 1},
        "value": {"prompt": [text]},
        "from_": {"prompt": "x", "from_": text},
        "when": {"prompt": "x", "when": text},
    }[place]
    try:
        Recipe(source="a/*.jpg", steps=[steps.edit(**given_)], output="o/{{ stem }}.png").check()
    except FluxError as error:
        for line in str(error).split("\n"):
            assert line.isprintable()
            assert len(line) <= 1_000


def test_a_usage_message_still_names_what_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rnu", LONG]) == 2
    assert 'Unknown command "rnu". Did you mean "run"?' in capsys.readouterr().err
