"""The public doors: what users import, run and load stays where it is, whatever moves inside the house."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import pytest

DOORS = {
    "flux_tasks": "deblur aerase Mask ImageRef Store Settings FluxError RecipeError use verify_webhook",
    "flux_tasks.catalog": "TOOLS TASKS Tool find tool",
    "flux_tasks.errors": "FluxError ItemError Problem RunStopped Transient",
    "flux_tasks.files": "read write create remove",
    "flux_tasks.images": "ImageRef",
    "flux_tasks.local": "LocalServer serve",
    "flux_tasks.local.server": "LocalServer serve",
    "flux_tasks.settings": "Settings current from_environment use",
    "flux_tasks.store": "Store",
    "flux_tasks.tasks": "deblur adeblur generate",
    "pipelines": "Recipe operation step",
    "pipelines.cli": "main",
    "pipelines.flows": "arun_recipe deployed_recipe restore run_recipe",
    "pipelines.plan": "Plan plan",
    "pipelines.recipe": "Recipe",
    "pipelines.report": "write_report",
    "pipelines.run": "Run Summary",
    "pipelines.steps": "call deblur erase outpaint recipe resize step",
}


@pytest.mark.parametrize("module", DOORS)
def test_what_users_import_is_where_it_was(module: str) -> None:
    found = import_module(module)
    assert [name for name in DOORS[module].split() if not hasattr(found, name)] == []


def test_the_command_line_is_reached_by_its_name_and_as_a_module() -> None:
    (script,) = entry_points(group="console_scripts", name="flux-pipelines")
    assert script.value == "flux_pipelines:main"
    done = subprocess.run([sys.executable, "-m", "pipelines.cli", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_works_where_a_project_has_folders_of_the_same_names(tmp_path: Path) -> None:
    for name in ("pipelines", "flux_tasks"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('this is the project's own')")
    done = subprocess.run(
        [str(Path(sys.executable).parent / "flux-pipelines"), "tools", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert '"deblur-v1"' in done.stdout


def test_pytest_loads_the_plugin_by_its_entry_point() -> None:
    (plugin,) = entry_points(group="pytest11", name="flux_pipelines")
    assert plugin.value == "flux_tasks.local.fixtures"
    assert hasattr(plugin.load(), "bfl_server")
