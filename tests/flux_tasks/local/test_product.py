"""The local server as a product of its own: the pytest fixture, the command line, recording and replaying a session."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from fake_bfl import FakeBfl
from forked import Forked, run
from waiting import PATIENCE

from flux_tasks.errors import RecipeError
from flux_tasks.local import LocalServer
from pipelines.cli.main import main

ROOT = Path(__file__).parents[3]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BFL_", "FLUX_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **more}


@contextmanager
def program(*arguments: str, **variables: str) -> Iterator[tuple[str, str]]:
    """``flux-pipelines local`` as a program; its address and what it said."""
    process = Forked(
        [sys.executable, "-m", "pipelines.cli", "local", "--port", "0", *arguments],
        env=environment(**variables),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        said = process.stdout.readline() + process.stdout.readline()
        yield re.findall(r"http://[\d.:]+", said)[0], said
    finally:
        process.send_signal(signal.SIGTERM)
        process.stdout.close()
        assert process.wait(PATIENCE) == 0


def submit_and_fetch(url: str, key: str = "") -> bytes:
    """What any program of a user's does."""
    with httpx.Client(base_url=url, headers={"x-key": key}) as http:
        submitted = http.post("/v1/flux-2-pro", json={"prompt": "a lake", "seed": 3})
        submitted.raise_for_status()
        while (answer := http.get(submitted.json()["polling_url"]).json())["status"] != "Ready":
            pass
        return httpx.get(answer["result"]["sample"]).content


# -- the fixture ------------------------------------------------------------------------------------------------------


def pytest_run(folder: Path, text: str, **variables: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_app.py").write_text(text)
    off = [f"no:{name}" for name in ("cacheprovider", "schemathesis", "randomly", "xdist")]  # others that are there
    plugins = [word for name in off for word in ("-p", name)]
    command = [sys.executable, "-m", "pytest", "-q", *plugins, "--strict-markers", "test_app.py"]
    return run(command, cwd=folder, env=environment(**variables))


def test_a_tool_outside_a_flow_leaves_the_end_of_the_session_clean(tmp_path: Path) -> None:
    text = (
        "from PIL import Image\n"
        "from flux_tasks import deblur, use\n"
        "def test_it(bfl_server, tmp_path):\n"
        "    Image.effect_noise((96, 80), 90).save(tmp_path / 'a.png')\n"
        "    with use(endpoint=bfl_server.url, store=str(tmp_path / 'store')):\n"
        "        assert deblur(tmp_path / 'a.png').media_type == 'image/png'\n"
    )
    ran = pytest_run(tmp_path, text, PREFECT_HOME=str(tmp_path / "home"))
    assert ran.returncode == 0, ran.stdout
    assert "1 passed" in ran.stdout.splitlines()[-1]
    assert "Logging error" not in ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_example_of_the_fixture_passes_as_it_is(tmp_path: Path) -> None:
    ran = pytest_run(tmp_path, (ROOT / "examples" / "test_with_local_server.py").read_text())
    assert ran.returncode == 0, ran.stdout
    assert "4 passed" in ran.stdout


def test_pytest_finds_the_fixture_and_a_marker_gives_it_arguments(tmp_path: Path) -> None:
    ran = pytest_run(
        tmp_path,
        "import httpx, pytest\n"
        "@pytest.mark.bfl_server(credits=2, key='k')\n"
        "def test_it(bfl_server):\n"
        "    answer = httpx.get(f'{bfl_server.url}/v1/credits', headers={'x-key': 'k'})\n"
        "    assert answer.json() == {'credits': 2}\n"
        "def test_each_test_has_a_server_of_its_own(bfl_server):\n"
        "    assert bfl_server.charges.credits == 1000\n",
    )
    assert "2 passed" in ran.stdout, ran.stdout


# -- the command line -------------------------------------------------------------------------------------------------


def test_the_program_takes_faults_latency_and_a_book(tmp_path: Path) -> None:
    faults, charges = tmp_path / "faults.yaml", tmp_path / "charges.jsonl"
    faults.write_text("faults: [{fault: submit.answer, status: 429, count: 1}]\n")
    options = (
        "--faults",
        str(faults),
        "--charges",
        str(charges),
        "--latency",
        "flux-2-pro=5",
        "--virtual-time",
        "--strict",
    )
    with program(*options) as (url, said):
        assert "serves the BFL API" in said
        assert httpx.post(f"{url}/v1/flux-2-pro", json={"prompt": "a"}).status_code == 429
        job = httpx.post(f"{url}/v1/flux-2-pro", json={"prompt": "a"}).json()["id"]
        assert httpx.get(f"{url}/v1/get_result", params={"id": job}).json()["status"] == "Pending"
        assert json.loads(charges.read_text())["id"] == job
        assert httpx.get(f"{url}/local").json()["requests"] == {"submit": 2, "poll": 1}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--latency", "fast"], "'fast' is not seconds"),
        (["--latency", "derase=2"], "there is no tool 'derase'"),
        (["--faults", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["--upstream", "eu"], "--upstream: belongs to --record"),
        (["--record", "a", "--replay", "b"], "cannot be used together with --replay"),
        (["--replay", "b", "--credits", "5", "--charges", "c"], "charges: means nothing with replay"),
        (["--credits", "nan"], "credits: nan is not a number"),
        (["--expiry", "-1"], "expiry: -1.0 is not a number"),
        (["--key", ""], "key: is empty"),
        (["--record", "a"], "no key for BFL"),
        (["--replay", "."], "."),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BFL_API_KEY", raising=False)
    try:
        code = main(["local", "--port", "0", *arguments])
    except SystemExit as stop:  # argparse
        code = int(stop.code or 0)
    assert code in (2, 3)
    assert says in capsys.readouterr().err


def test_the_faults_are_listed_with_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["faults"]) == 0
    assert "submit.cut" in capsys.readouterr().out


# -- record and replay ------------------------------------------------------------------------------------------------


def test_one_real_session_becomes_an_offline_test(tmp_path: Path) -> None:
    pairs, key = tmp_path / "pairs", "bfl-7d0c-the-key-of-the-test"
    with FakeBfl(key=key) as service:
        with program("--record", str(pairs), "--upstream", service.url, BFL_API_KEY=key) as (url, said):
            assert "Jobs are paid for" in said
            recorded = submit_and_fetch(url)
        assert service.jobs == 1
    with program("--replay", str(pairs)) as (url, said):
        assert "answers from the recordings" in said
        assert submit_and_fetch(url) == recorded
        other = httpx.post(f"{url}/v1/flux-2-pro", json={"prompt": "a hill", "seed": 3})
        assert (other.status_code, "not recorded" in other.json()["detail"]) == (404, True)
        assert httpx.get(f"{url}/local").json()["engine"] == "local:replay@1"
    assert all(key.encode() not in file.read_bytes() for file in pairs.iterdir())


def test_recordings_are_replayed_inside_a_test(tmp_path: Path) -> None:
    with FakeBfl() as service, LocalServer(record=tmp_path / "pairs", upstream=service.url) as recorder:
        recorded = submit_and_fetch(recorder.url)
    with LocalServer(replay=tmp_path / "pairs") as replay:
        assert submit_and_fetch(replay.url) == recorded
    with pytest.raises(RecipeError, match="no recordings"):
        LocalServer(replay=tmp_path).start()
