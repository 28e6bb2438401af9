"""What runs beside and inside a run: Prefect's server, and functions of the user."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_bfl import FakeBfl
from scripted import Answer
from waiting import wait_until

from flux_tasks import catalog
from pipelines.flows import recipe_flow

HERE = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])

PARENT = """
import time
from flux_tasks.tasks.embedded import EmbeddedServer
server = EmbeddedServer()
print(server._process.pid, flush=True)
time.sleep(600)
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_prefects_server_gets_no_key_and_ends_with_a_run_that_is_killed(tmp_path: Path, key: str) -> None:
    secrets = {"BFL_API_KEY": key, "AWS_SECRET_ACCESS_KEY": "aws-secret-1", "HF_TOKEN": "hf-secret-1"}
    own = {"PREFECT_API_KEY": "prefects-own", "PREFECT_HOME": str(tmp_path), "PYTHONPATH": HERE}
    environment = {**os.environ, **secrets, **own}
    parent = subprocess.Popen([sys.executable, "-c", PARENT], env=environment, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        try:
            pid = int(parent.stdout.readline())
            environment_of = Path(f"/proc/{pid}/environ")
            wait_until(lambda: environment_of.read_text() or not is_alive(pid))  # empty while it becomes the server
            given = environment_of.read_text()
            assert not any(name in given for name in secrets)
            assert "PREFECT_API_KEY=prefects-own" in given
            assert is_alive(pid)
        finally:
            parent.send_signal(signal.SIGKILL)
            parent.wait()
    wait_until(lambda: not is_alive(pid))


RECIPE = "source: 'photos/*.png'\nsteps: [{call: 'hostile_function:f'}]\noutput: 'out/{{ stem }}.png'\n"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("import os; os._exit(0)", "SystemExit: os._exit(0)"),
        ("import os; os.waitpid(os.fork() or os._exit(3), 0); raise ValueError('forked')", "ValueError: forked"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise BaseException('odd')", "BaseException: odd"),
        ("import asyncio; raise asyncio.CancelledError", "CancelledError"),
        ("import os; raise ValueError('x ' + os.environ['BFL_API_KEY'])", "ValueError: x <key>"),
    ],
)
def test_whatever_a_function_raises_is_the_trouble_of_its_item_and_shows_no_key(
    cli: Any, photos: Path, key: str, body: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "hostile_function", raising=False)
    Path("hostile_function.py").write_text(f"def f(image):\n    {body}\n")
    Path("r.yaml").write_text(RECIPE)
    told = cli("run", "r.yaml", "--endpoint", "local", "--no-report")
    monkeypatch.delitem(sys.modules, "hostile_function")
    assert told.code == 1
    assert set(told.outcomes.values()) == {"invalid"}
    assert {row["error"]["message"] for row in told.rows.values()} == {f"hostile_function:f: {said}"}
    assert key not in told.all + told.file("manifest").read_text()


def test_a_module_that_ends_the_program_while_it_is_imported_is_an_error_of_the_recipe(
    cli: Any, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("ending_function.py").write_text("import os\nos._exit(0)\n")
    Path("r.yaml").write_text(RECIPE.replace("hostile", "ending"))
    told = cli("plan", "r.yaml", "--endpoint", "local")
    monkeypatch.delitem(sys.modules, "ending_function", raising=False)
    assert told.code == 2
    assert "ending_function cannot be imported: SystemExit: os._exit(0)" in told.err


IDS: dict[str, Callable[[str], str]] = {
    "the key": lambda key: key,
    "a longer word": lambda key: f"job-{key}-1",
    "escaped": lambda key: "".join(f"%{ord(sign):02x}" for sign in key),
}


@pytest.mark.parametrize("what", IDS)
def test_an_id_that_holds_the_key_is_refused_and_shown_nowhere(
    cli: Any, bfl: FakeBfl, photos: Path, tmp_path: Path, key: str, what: str
) -> None:
    given = IDS[what](key)
    bfl.on(
        f"POST {catalog.TOOLS['deblur-v1'].path}",
        Answer(200, {"id": given, "polling_url": f"{bfl.url}/v1/get_result?id={given}"}),
    )
    Path("r.yaml").write_text("source: 'photos/good0.png'\nsteps: [deblur]\noutput: 'out/{{ stem }}.png'\n")
    told = cli("run", "r.yaml", "--endpoint", bfl.url)
    assert told.outcomes == {"good0": "held"}
    assert "the id in the answer is the key; it may be charged" in told.rows["good0"]["error"]["message"]
    everything = told.all + "".join(p.read_text(errors="replace") for p in tmp_path.rglob("*") if p.is_file())
    assert key not in everything
    assert given not in everything


@pytest.fixture
def loggers() -> Iterator[None]:
    """Give Prefect's loggers their levels back."""
    names = ["prefect", *(name for name in logging.Logger.manager.loggerDict if name.startswith("prefect."))]
    before = {name: logging.getLogger(name).level for name in names}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


async def silent() -> None:
    await asyncio.sleep(3_600)


async def deaf() -> None:
    try:
        await asyncio.sleep(3_600)
    except asyncio.CancelledError:
        raise ConnectionError("All connection attempts failed\n{'event': 'a dump'}") from None


async def broken() -> None:
    raise ConnectionError("All connection attempts failed\n{'event': 'a dump'}")


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("end", [silent, deaf, broken])
@pytest.mark.parametrize("is_fine", [True, False])
def test_what_became_of_the_items_is_told_when_prefect_goes_for_good(
    cli: Any, bfl: FakeBfl, photos: Path, loggers: None, monkeypatch: pytest.MonkeyPatch, end: Any, is_fine: bool
) -> None:
    async def advance(recipe: str, endpoint: str) -> None:
        run = recipe_flow._current_run.get()
        assert run is not None
        await run.run_remaining(recipe_flow.call_task)
        recipe_flow._is_over.get().set()
        logging.getLogger("prefect.events").error("before")
        await end()

    monkeypatch.setattr(recipe_flow, "_advance", advance)
    monkeypatch.setattr(recipe_flow, "LAST_WORDS", 0.1)
    if not is_fine:
        (photos / "bad.png").write_bytes(b"no picture")
    Path("r.yaml").write_text("source: 'photos/*.png'\nsteps: [deblur]\noutput: 'out/{{ stem }}.png'\n")
    told = cli("run", "r.yaml", "--endpoint", bfl.url)
    assert told.code == (0 if is_fine else 1)
    assert "2 done" in told.out
    assert told.file("report").exists()
    assert "Prefect's server did not take the end of the flow run" in told.err
    assert "a dump" not in told.all
    assert not logging.getLogger("prefect.events").isEnabledFor(logging.CRITICAL)


@pytest.mark.usefixtures("recorded")
def test_a_prefect_that_fails_before_the_items_are_finished_still_stops_the_run(
    cli: Any, bfl: FakeBfl, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def advance(recipe: str, endpoint: str) -> None:
        await broken()

    monkeypatch.setattr(recipe_flow, "_advance", advance)
    Path("r.yaml").write_text("source: 'photos/*.png'\nsteps: [deblur]\noutput: 'out/{{ stem }}.png'\n")
    told = cli("run", "r.yaml", "--endpoint", bfl.url)
    assert (told.code, bfl.jobs) == (3, 0)
    assert "Prefect failed: ConnectionError" in told.err
