"""The README, the other pages and the examples are true."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fake_bfl import FakeBfl
from forked import run
from PIL import Image

from flux_tasks import catalog, use
from pipelines.recipe import Recipe

pytestmark = pytest.mark.early

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Prefect's own client's connections
def test_the_flow_in_the_readme_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    flow_code, result_code, client_code = blocks("python")
    compile(client_code, "README.md", "exec")
    result_code = result_code.replace("s3://bucket", "memory://bucket")
    with FakeBfl() as bfl, use(endpoint=bfl.url, store=str(tmp_path / "store"), poll_interval=0.005):
        namespace: dict[str, object] = {"__name__": "readme"}
        exec(compile(flow_code + result_code, "README.md", "exec"), namespace)
        assert bfl.jobs == 4


def test_the_recipe_in_the_readme_is_valid() -> None:
    [recipe] = [Recipe.parse(text) for text in blocks("yaml")]
    assert [step.id for step in recipe.steps] == ["deblur", "erase", "outpaint"]


def test_every_recipe_in_configs_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for path in sorted(Path("configs").glob("*.yaml")):
        assert Recipe.load(str(path)).steps


def test_every_file_the_readme_links_to_is_there() -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_step_and_setting_the_readme_names_exists() -> None:
    for task in catalog.TASKS:
        assert f"`{task}`" in README
    modules = ("flux_tasks/settings", "flux_tasks/store/spool", "flux_tasks/api/telemetry/exporters")
    modules += ("pipelines/report/ending",)
    settings_docs = "".join((ROOT / f"{name}.py").read_text() for name in modules)
    for name in re.findall(r"`((?:FLUX|BFL)_[A-Z_]+)`", README):
        assert name in settings_docs


def test_every_command_the_readme_shows_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    from pipelines.cli.main import main

    shown = set(re.findall(r"flux-pipelines ([a-z]+) ", README))
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = capsys.readouterr().out
    for command in shown:
        assert command in listed


def shown_by(command: str) -> list[str]:
    """The lines of the one block of commands in the README that has ``command``."""
    [found] = [block for block in blocks("console") if f"$ {command}" in block]
    return [line.removeprefix("$ ") for line in found.splitlines()]


def carried_out(lines: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Carry out lines of a shell in ``folder``, up to the first that fails, with a store of its own and no key."""
    environment = {n: v for n, v in os.environ.items() if not n.startswith(("BFL_", "FLUX_", "PREFECT_"))}
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    settings = {"PATH": paths, "PYTHONPATH": str(ROOT), "FLUX_STORE": str(folder / "store"), "FLUX_PREFECT": "off"}
    command = ["bash", "-e", "-c", "\n".join(lines)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**environment, **settings})


def test_the_first_recipe_of_the_readme_is_written_checked_and_planned_in_a_checkout(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    lines = shown_by("flux-pipelines init")
    done = carried_out([line for line in lines if "flux-pipelines run" not in line], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "recipe.yaml: OK: my-photos, 7 items" in done.stdout
    assert "7 items, 16 jobs to pay for" in done.stdout
    assert [line for line in lines if "flux-pipelines run" in line]


def test_the_readme_asks_about_the_demo_in_the_store_that_the_demo_has() -> None:
    makefile = (ROOT / "Makefile").read_text()
    demo = re.search(r"^DEMO := (.*)$", makefile, re.M)[1]
    first, *others = shown_by("export FLUX_STORE")
    assert "run configs/restore.yaml --endpoint local --prefect off --store $(DEMO)/store " in makefile
    assert first == f"export FLUX_STORE={demo}/store"
    [output] = Recipe.load(str(ROOT / "configs" / "restore.yaml")).compiled.outputs
    assert f"{output.root}/hens.png" in " ".join(others)


def test_the_faults_that_the_readme_writes_are_a_schedule(tmp_path: Path) -> None:
    from flux_tasks.local.faults.schedule import Faults

    [written] = [line for line in shown_by("flux-pipelines local --latency") if line.startswith("echo")]
    assert carried_out([written], tmp_path).returncode == 0
    [fault] = Faults(tmp_path / "faults.yaml").to_dict()["faults"]
    assert (fault["fault"], fault["status"], fault["every"]) == ("submit.answer", 429, 5)


def test_the_page_on_the_local_server_is_true(tmp_path: Path) -> None:
    from flux_tasks.local.faults.schedule import Faults
    from pipelines.cli.fault_table import ROWS

    page = (ROOT / "docs" / "local-server.md").read_text()
    [schedule] = re.findall(r"```yaml\n(.*?)```", page, re.S)
    (tmp_path / "faults.yaml").write_text(schedule)
    assert len(Faults(tmp_path / "faults.yaml").to_dict()["faults"]) == 5
    helped = run([sys.executable, "-m", "pipelines.cli", "local", "--help"]).stdout
    for option in set(re.findall(r"`[^`]*?(--[a-z][a-z-]+)", page)):
        assert option in helped or option == "--measure", option
    [table] = re.findall(r"```text\n(.*?)```", page, re.S)
    assert {line[:38].strip() for line in table.splitlines()[1:]} <= {row.name for row in ROWS}
    [example] = re.findall(r"```python\n(.*?)```", page, re.S)
    (tmp_path / "test_page.py").write_text(example)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_page.py"],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert "1 passed" in ran.stdout, ran.stdout


def test_the_page_on_paying_once_names_commands_variables_and_classes_that_exist() -> None:
    page = (ROOT / "docs" / "paid-once.md").read_text()
    sources = "".join(
        (ROOT / "flux_tasks" / f"{name}.py").read_text() for name in ("settings", "store/spool", "store/journal")
    )
    for name in re.findall(r"`((?:FLUX|BFL)_[A-Z_]+)[=`]", page):
        assert name in sources
    for command in ("store held", "retry"):
        helped = run([sys.executable, "-m", "pipelines.cli", *command.split(), "--help"]).stdout
        for line in re.findall(rf"^\$ flux-pipelines {command}(.*?)(?:#.*)?$", page, re.M):
            assert all(option in helped for option in re.findall(r"--[a-z]+", line)), line


HOUSE = ("CONTRIBUTING.md", "docs/architecture.md")


@pytest.mark.parametrize("page", HOUSE)
def test_every_path_that_the_pages_on_the_house_name_exists(page: str) -> None:
    folders = [ROOT / name for name in ("flux_pipelines.py", "flux_tasks", "pipelines", "tests")]
    places = [place for folder in folders for place in (folder, *folder.rglob("*"))]
    names = [f"/{place.relative_to(ROOT).as_posix()}{'/' * place.is_dir()}" for place in places]
    for path in re.findall(r"`([\w./]+(?:\.pyi?|/))`", (ROOT / page).read_text()):
        assert any(name.endswith(f"/{path}") for name in names), path


def test_the_pages_on_the_house_name_the_layers_in_the_order_of_the_contract() -> None:
    contract = (ROOT / ".importlinter").read_text()
    layers = [
        re.split(r"\s*\|\s*", line.strip())
        for package in ("pipelines", "flux_tasks")
        for line in re.search(rf"containers = {package}\nlayers =\n(.*?)exhaustive", contract, re.S)[1].splitlines()
    ]
    picture = re.search(r"```text\n(.*?)```", (ROOT / "docs" / "architecture.md").read_text(), re.S)[1]
    drawn = [line[1:38].strip().split(" │ ") for line in picture.splitlines() if line.startswith("│")]
    assert drawn == layers
    table = (ROOT / "CONTRIBUTING.md").read_text().split("## How to add")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    found = [next(n for n, row in enumerate(rows) if f"/{name}" in row or f"`{name}" in row) for [name, *_] in layers]
    assert found == sorted(found)


def test_architecture_lists_everything_that_importing_changes() -> None:
    rows = (ROOT / "docs" / "architecture.md").read_text().splitlines()
    effects = re.compile(
        r"os\.environ\.(setdefault|update)|atexit\.register|register_at_fork|addFilter|server\.subprocess ="
    )
    for package in ("flux_tasks", "pipelines"):
        for path in (ROOT / package).rglob("*.py"):
            if effects.search(path.read_text()):
                folder = path.parent.relative_to(ROOT).as_posix()
                assert any(f"{path.name}`" in row and f"`{folder}/" in row for row in rows), path


@pytest.mark.parametrize("example", sorted(p.name for p in (ROOT / "examples").glob("[!t]*.py")))
def test_every_example_runs_offline_as_it_stands(example: str, tmp_path: Path, prefect_server: str) -> None:
    for name in ("configs", "examples", "flux_tasks", "pipelines"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = {n: v for n, v in os.environ.items() if not n.startswith(("BFL_", "FLUX_"))}
    if "flow" in (ROOT / "examples" / example).read_text():  # a flow without a server would start one of its own
        environment["PREFECT_API_URL"] = prefect_server
    command = [sys.executable, f"examples/{example}"]
    done = run(command, cwd=tmp_path, env={**environment, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    printed = [line.split() for line in done.stdout.splitlines() if "×" in line]
    assert printed
    for path, size, engine in printed:
        with Image.open(tmp_path / path) as image:
            assert f"{image.width}×{image.height}" == size
        assert engine.startswith("local:")
