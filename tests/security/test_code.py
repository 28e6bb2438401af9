"""A recipe is no shell script, and a store chooses neither what runs here nor who gets the key."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from fake_bfl import FakeBfl

from flux_tasks.errors import RecipeError
from flux_tasks.store.records import Store
from pipelines import Recipe
from pipelines.data.history import PastRun
from pipelines.steps import call

_numbers = count()

Write = Callable[..., str]

RECIPE = """source: 'photos/*.png'
steps:
  - call: '{}'
    with: {{{}}}
output: 'out/{{{{ stem }}}}.png'
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a module into ``installed``, which is on the path, or into another folder; gives its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    before = set(sys.modules)

    def write(text: str, folder: str = "installed") -> str:
        name = f"hostile_ops_{next(_numbers)}"
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}.py").write_text(text)
        return name

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("hostile_ops"):
            del sys.modules[name]


def refusal(text: str, **options: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        Recipe.parse(text, **options).check()
    return str(caught.value)


# -- what a recipe may call -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["plan", "validate", "run", "graph"])
@pytest.mark.parametrize(
    ("reference", "given"),
    [
        ("pydoc:pipepager", "cmd: 'touch owned; echo'"),
        ("os:system", ""),
        ("os.path:join", ""),
        ("builtins:exec", ""),
        ("subprocess:Popen", ""),
        ("timeit:main", ""),
        ("PIL.ImageOps:mirror", ""),
        ("pipelines.cli.main:main", ""),
    ],
)
def test_what_is_installed_is_not_called_unless_it_is_marked(
    cli: Any, photos: Path, tmp_path: Path, command: str, reference: str, given: str
) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE.format(reference, given))
    said = cli(command, "r.yaml", *(["--endpoint", "local"] if command in ("plan", "run") else []))
    assert said.code == 2
    assert f"r.yaml:3: steps.0.call: {reference}" in said.err.replace(
        f"{reference.partition(':')[0]} is", f"{reference} is"
    )
    assert "is not for recipes to call: mark the function with @operation" in said.err
    assert not (tmp_path / "owned").exists()


def test_a_module_that_marks_nothing_is_not_even_imported(module: Write, tmp_path: Path) -> None:
    name = module("from pathlib import Path\nPath('owned').touch()\ndef f(image): return image\n")
    package = tmp_path / "installed" / f"{name}_pkg"
    package.mkdir()
    (package / "__init__.py").write_text("from pathlib import Path\nPath('owned').touch()\n")
    for reference in (f"{name}:f", f"{name}:g", f"{name}_pkg:f", f"{name}_pkg.inner:f", f"{name}_pkg.inner.more:f"):
        said = refusal(RECIPE.format(reference, ""))
        assert "is not for recipes to call" in said or "there is no module" in said
    assert not (tmp_path / "owned").exists()


def test_an_installed_function_is_called_if_it_is_marked_and_no_other_of_its_module(module: Write) -> None:
    name = module(
        "from pipelines import operation\n@operation\ndef a(image): return image\ndef b(image): return image\n"
    )
    Recipe.parse(RECIPE.format(f"{name}:a", ""))
    assert f"{name}:b is not for recipes to call" in refusal(RECIPE.format(f"{name}:b", ""))
    assert f"{name}:operation is not for recipes to call" in refusal(RECIPE.format(f"{name}:operation", ""))


def test_an_object_that_answers_to_every_name_is_not_marked(module: Write) -> None:
    name = module("import pipelines\nfrom unittest.mock import MagicMock\nanything = MagicMock()\n")
    assert "anything is not for recipes to call" in refusal(RECIPE.format(f"{name}:anything", ""))


def test_a_function_written_beside_the_recipe_needs_no_mark_and_what_its_module_imports_does(
    module: Write, tmp_path: Path
) -> None:
    name = module("from os import system\nfrom subprocess import Popen\ndef f(image): return image\n", ".")
    (tmp_path / "r.yaml").write_text(RECIPE.format(f"{name}:f", ""))
    assert [*Recipe.load("r.yaml").compiled.functions] == [f"{name}:f"]
    for imported in ("system", "Popen"):
        assert f"{name}:{imported} is not for recipes to call" in refusal(RECIPE.format(f"{name}:{imported}", ""))


def test_a_module_of_the_current_folder_is_not_beside_a_recipe_of_another(module: Write, tmp_path: Path) -> None:
    name = module("def f(image): return image\n", ".")
    (tmp_path / "downloads").mkdir()
    text = RECIPE.format(f"{name}:f", "")
    (tmp_path / "downloads" / "r.yaml").write_text(text)
    assert "is not for recipes to call" in refusal(text, file="downloads/r.yaml")
    assert "is not for recipes to call" in refusal(text, file="memory://downloads/r.yaml")
    Recipe.parse(text, file="r.yaml")


def test_a_recipe_used_as_a_step_calls_what_lies_beside_itself(module: Write, tmp_path: Path) -> None:
    name = module("def f(image): return image\n", "pieces")
    (tmp_path / "pieces" / "inner.yaml").write_text(RECIPE.format(f"pieces.{name}:f", ""))
    outer = Recipe.parse("source: 'photos/*'\nsteps: [{recipe: pieces/inner.yaml}]\noutput: 'o/{{ stem }}.png'\n")
    assert [*outer.compiled.functions] == [f"pieces.{name}:f"]


def test_a_function_that_a_program_gives_itself_needs_no_mark(module: Write) -> None:
    name = module("def f(image): return image\n")
    recipe = Recipe("r", source="photos/*", steps=[call(__import__(name).f)], output="o/{{ stem }}.png")
    assert [*recipe.compiled.functions] == [f"{name}:f"]
    assert Recipe.parse(recipe.to_yaml()).digest == recipe.digest


def test_all_that_may_not_be_called_is_said_at_once_with_its_line() -> None:
    said = refusal(
        "source: 'p/*'\nsteps:\n  - call: os:system\n  - call: pydoc:pager\n  - deblurr\noutput: 'o/{{ stem }}.png'\n",
        file="r.yaml",
    )
    assert ["3: steps.0.call" in said, "4: steps.1.call" in said, "5: steps.2" in said] == [True] * 3


@pytest.mark.parametrize("command", ["plan", "validate", "run", "graph"])
def test_no_code_refuses_every_function(cli: Any, photos: Path, module: Write, command: str) -> None:
    name = module("from pathlib import Path\nPath('owned').touch()\ndef f(image): return image\n", ".")
    Path("r.yaml").write_text(RECIPE.format(f"{name}:f", ""))
    said = cli(command, "r.yaml", "--no-code")
    assert (said.code, f"r.yaml:3: steps.0.call: {name}:f is not called: --no-code" in said.err) == (2, True)
    assert "code=False" in refusal(RECIPE.format(f"{name}:f", ""), code=False)
    assert not Path("owned").exists()


def test_plan_and_validate_say_what_they_call(cli: Any, photos: Path, module: Write) -> None:
    name = module("def f(image): return image\n", ".")
    Path("r.yaml").write_text(RECIPE.format(f"{name}:f", ""))
    assert f"r.yaml: calls {name}:f" in cli("validate", "r.yaml").out
    assert f"calls: {name}:f; a plan calls them, too" in cli("plan", "r.yaml", "--endpoint", "local").out
    assert json.loads(cli("plan", "r.yaml", "--endpoint", "local", "--json").out)["calls"] == [f"{name}:f"]


# -- what comes out of a store ----------------------------------------------------------------------------------------


def ran(cli: Any, tmp_path: Path, reference: str) -> Path:
    """Run a recipe of which an item fails; gives the record of its run."""
    (tmp_path / "photos" / "bad.png").write_bytes(b"no picture")
    Path("r.yaml").write_text(RECIPE.format(reference, ""))
    assert cli("run", "r.yaml", "--endpoint", "local").code == 1
    (record,) = (tmp_path / "store" / "runs").glob("*/run.json")
    return record


def changed(record: Path, **values: Any) -> None:
    """Write other values, with the checksum that belongs to them: whoever may write to a store knows how."""
    store, folder = Store(str(record.parents[2])), f"runs/{record.parent.name}"
    store.put_record(folder, "run", {**(store.record(folder, "run") or {}), **values})


def test_retry_calls_what_the_recipe_here_calls(cli: Any, photos: Path, tmp_path: Path, module: Write) -> None:
    ran(cli, tmp_path, f"{module('def f(image): return image', '.')}:f")
    assert cli("retry", "last", "--only", "invalid").code == 1
    assert "--no-code" in cli("retry", "last", "--only", "invalid", "--no-code").err


@pytest.mark.parametrize("where", ["the record", "the file", "no file", "in the store", "gone"])
def test_retry_imports_nothing_for_a_recipe_whose_text_is_not_here(
    cli: Any, photos: Path, tmp_path: Path, module: Write, where: str
) -> None:
    record = ran(cli, tmp_path, f"{module('def f(image): return image', '.')}:f")
    evil = module("from pathlib import Path\nPath('owned').touch()\nfrom pipelines import operation\n", ".")
    text = RECIPE.format(f"{evil}:f", "")
    if where == "the record":
        changed(record, recipe=text)
    elif where == "the file":
        Path("r.yaml").write_text(Path("r.yaml").read_text() + "# changed\n")
    elif where == "no file":
        changed(record, recipe=text, file="")
    elif where == "in the store":
        (tmp_path / "store" / "evil.yaml").write_text(text)
        changed(record, recipe=text, file=str(tmp_path / "store" / "evil.yaml"))
    else:
        Path("r.yaml").unlink()
    said = cli("retry", "last", "--only", "invalid")
    assert said.code == 2
    assert "is not called: the recipe was read from the store" in said.err
    assert "run the recipe itself again" in said.err
    assert not Path("owned").exists()


@pytest.mark.parametrize(
    "endpoint", ["{url}", "{url}/", "https://evil.example", "https://api.bfl.ai.evil.example", "BFL"]
)
def test_retry_takes_no_address_from_the_store(
    cli: Any, bfl: FakeBfl, photos: Path, tmp_path: Path, module: Write, endpoint: str
) -> None:
    record = ran(cli, tmp_path, f"{module('def f(image): return image', '.')}:f")
    changed(record, endpoint=endpoint.format(url=bfl.url))
    said = cli("retry", "last", "--only", "invalid")
    assert (said.code, "give it again with --endpoint" in said.err) == (2, True)
    assert bfl.requests == []
    assert cli("retry", "last", "--only", "invalid", "--endpoint", "local").code == 1


@pytest.mark.parametrize("endpoint", ["bfl", "eu", "us", "local"])
def test_retry_takes_a_named_endpoint_from_the_store(
    cli: Any, photos: Path, tmp_path: Path, module: Write, endpoint: str
) -> None:
    record = ran(cli, tmp_path, f"{module('def f(image): return image', '.')}:f")
    changed(record, endpoint=endpoint)
    from flux_tasks.settings import from_environment

    settings = from_environment()
    assert PastRun.find("last", settings.store).endpoint_for(settings) == endpoint


@pytest.mark.parametrize("damage", [{"endpoint": ["local"]}, {"recipe": None}, {"folder": 3}, {"manifest": {}}])
def test_a_damaged_record_of_a_run_is_said(
    cli: Any, photos: Path, tmp_path: Path, module: Write, damage: dict[str, Any]
) -> None:
    changed(ran(cli, tmp_path, f"{module('def f(image): return image', '.')}:f"), **damage)
    said = cli("retry", "last")
    assert (said.code, "run.json is damaged: run the recipe itself again" in said.err) == (2, True)
