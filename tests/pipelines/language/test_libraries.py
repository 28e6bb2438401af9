"""Optional libraries that a recipe needs: named all at once, with one command that installs them."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from flux_tasks.errors import RecipeError
from pipelines.language.reading.loader import compile_data
from pipelines.plan.planner import plan

RECIPE = """\
name: several
source: {table: items.parquet, image: "s3://photos/{{ row.id }}.png", dedupe: {near: 4}}
steps:
  - deblur: {}
    align: true
output:
  - {dataset: "gs://sets/out", format: parquet}
  - {path: "az://copies/{{ row.id }}.png"}
"""


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Libraries that cannot be found."""
    names: set[str] = set()
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in names else find(name, *more))
    return names


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "several.yaml"
    place.write_text(RECIPE)
    return place


ALL = {
    "ImageHash": (2, "source.dedupe: near needs {}, or write dedupe: exact"),
    "pyarrow": (2, "source.table: .parquet needs {}"),
    "s3fs": (2, "source.image: s3:// needs {}"),
    "NumPy": (4, "steps.0: align, match_colour and shift need {}"),
    "gcsfs": (7, "output.0.dataset: gs:// needs {}"),
    "adlfs": (8, "output.1.path: az:// needs {}"),
}
REMEDY = "not installed here: pip install 'flux-pipelines[azure,dedupe,fidelity,gcs,parquet,s3]'"


@pytest.mark.parametrize("command", ["plan", "run", "validate"])
def test_all_missing_libraries_are_named_at_once_before_anything_is_read(
    recipe: Path, absent: set[str], here_cli: Any, command: str
) -> None:
    absent |= {name.lower() for name in ALL}
    said = here_cli(command, str(recipe), *([] if command == "validate" else ["--endpoint", "http://127.0.0.1:9"]))
    for name, (line, what) in ALL.items():
        assert f"several.yaml:{line}: {what.format(f'{name}, {REMEDY}')}" in said.stderr
    assert said.returncode == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"output": {"dataset": "out", "format": "parquet"}},
        {"source": {"dataset": ["train.parquet", "more.arrow"]}},
        {"source": {"dataset": "tar://*.tar::s3://bucket/set"}},
        {"steps": [{"deblur": {}, "expect": {"shift": 2}}]},
        {"steps": [{"deblur": {}, "save": "gcs://bucket/{{ stem }}.png"}]},
    ],
)
def test_each_part_of_a_recipe_that_needs_a_library_is_known(absent: set[str], changes: Mapping[str, Any]) -> None:
    plain = {"name": "one", "source": "photos/*.png", "steps": [{"deblur": {}}], "output": "out/{{ stem }}.png"}
    absent |= {"pyarrow", "s3fs", "numpy", "gcsfs"}
    with pytest.raises(RecipeError, match="not installed here: pip install 'flux-pipelines"):
        plan(compile_data({**plain, **changes}), endpoint="local")


def test_what_is_no_place_needs_nothing(absent: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    absent |= {"pyarrow", "s3fs", "numpy", "gcsfs"}
    steps = [{"generate": {"prompt": "a sign that reads s3://bucket, in neon"}}]
    source = {"table": "items.csv"}
    (tmp_path / "items.csv").write_text("id\n1\n")
    recipe = {"name": "one", "source": source, "steps": steps, "output": "out/{{ row.id }}.png"}
    assert plan(compile_data(recipe), endpoint="local").items == 1
