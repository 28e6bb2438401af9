"""Runs that are called back: by ``receive``, inside ``run`` and inside ``serve``; nothing is polled but once."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from command_line import Cli, Here
from waiting import PATIENCE

from flux_tasks.local import LocalServer
from flux_tasks.store.records import Store

SECRET = "a-secret-of-the-tests"
FAULTS = [{"fault": "webhook.duplicate", "tool": "deblur-v1"}, {"fault": "webhook.forged", "tool": "erase-v1"}]


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with LocalServer(latency=0.05, faults=FAULTS) as started:
        yield started


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def closing_with(end: Callable[[], None]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        end()
        raise


def polls(server: LocalServer) -> int:
    return int(httpx.get(f"{server.url}/local", trust_env=False).json()["requests"]["poll"])


def jobs(server: LocalServer) -> int:
    return int(httpx.get(f"{server.url}/local", trust_env=False).json()["requests"]["submit"])


@pytest.fixture
def unpolled(here_cli: Here, monkeypatch: pytest.MonkeyPatch) -> Here:
    monkeypatch.setenv("FLUX_POLLING", "off")
    return here_cli


def test_a_run_that_takes_its_own_callbacks_polls_each_job_once_whatever_else_comes(
    unpolled: Here, server: LocalServer, folder: Path, port: int
) -> None:
    called = ["--webhook-url", f"http://127.0.0.1:{port}/x", "--webhook-listen", str(port)]
    done = unpolled("run", str(folder / "recipe.yaml"), "--endpoint", server.url, *called)
    assert done.returncode == 0, done.stderr
    assert polls(server) == jobs(server) == 4
    assert not [name for name in os.environ if name.startswith("FLUX_WEBHOOK")], "in force no more"
    assert Store(str(folder / "store")).records("callbacks") == []


def test_a_receiver_wakes_the_jobs_of_another_process_and_ends_at_a_signal(
    unpolled: Here, cli: Cli, server: LocalServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.environment["FLUX_WEBHOOK_SECRET"] = SECRET
    with cli.start("receive", "--port", "0", key="") as receiving, closing_with(receiving.kill):
        assert receiving.stdout is not None
        line = receiving.stdout.readline()
        assert line.startswith("taking call-backs on http://127.0.0.1:"), line
        monkeypatch.setenv("FLUX_WEBHOOK_SECRET", SECRET)
        monkeypatch.setenv("FLUX_WEBHOOK_URL", line.split()[3])
        done = unpolled("run", str(folder / "recipe.yaml"), "--endpoint", server.url)
        assert done.returncode == 0, done.stderr
        receiving.send_signal(signal.SIGTERM)
        out, err = receiving.communicate(timeout=PATIENCE)
    assert receiving.returncode == 0, err
    assert "refused" in out
    assert SECRET not in out + err + done.stdout + done.stderr
    assert polls(server) == jobs(server) == 4


async def test_serve_takes_the_callbacks_of_the_runs_that_it_starts(
    cli: Cli, server: LocalServer, folder: Path, port: int
) -> None:
    cli.environment |= {"FLUX_POLLING": "off"}
    called = ["--webhook-url", f"http://127.0.0.1:{port}/x", "--webhook-listen", str(port)]
    watched = ["--prefect", "off", "--watch", str(folder / "photos"), "--every", "0.1", "--endpoint", server.url]
    with (
        cli.start("serve", str(folder / "recipe.yaml"), *watched, *called, key="k") as served,
        closing_with(served.kill),
    ):
        assert served.stdout is not None
        for line in iter(served.stdout.readline, ""):
            if "the run ended with exit code" in line:
                break
        served.send_signal(signal.SIGTERM)
        _, err = await asyncio.to_thread(served.communicate, timeout=PATIENCE)
    assert line.rstrip().endswith("exit code 0"), err
    assert polls(server) == jobs(server) == 4


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["receive"], "FLUX_WEBHOOK_SECRET: is missing: set it to a random text"),
        (["run", "r.yaml", "--webhook-listen", "8787"], "--webhook-listen: needs the public address"),
        (["run", "r.yaml", "--webhook-listen", "x"], "'x' is not a port, nor HOST:PORT"),
        (["run", "RECIPE", "--webhook-url", "https://flux.example.org/"], "FLUX_WEBHOOK_SECRET: is missing"),
        (["run", "RECIPE", "--webhook-url", "ftp://x"], "flux-pipelines: --webhook-url: 'ftp://x' is not an address"),
        (["receive", "--public-url", "ftp://x"], "flux-pipelines: --public-url: 'ftp://x' is not an address"),
        (["run", "RECIPE", "--webhook-url", "http://flux.example.org/"], "--webhook-url: the secret is not sent over"),
        (["run", "RECIPE", "--webhook-url", "https://localhost/"], "--webhook-url: 'https://localhost/' is this"),
    ],
)
def test_callbacks_that_cannot_come_are_refused(
    arguments: list[str], told: str, here_cli: Here, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [str(folder / "recipe.yaml") if word == "RECIPE" else word for word in arguments]
    if "missing" not in told:
        monkeypatch.setenv("FLUX_WEBHOOK_SECRET", SECRET)
    done = here_cli(*given, key="a-key-of-the-tests")
    assert done.returncode == 2
    assert told in done.stderr


def test_a_port_that_is_taken_is_told_by_the_option_that_names_it(
    here_cli: Here, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUX_WEBHOOK_SECRET", SECRET)
    recipe = str(folder / "recipe.yaml")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        called = ["--webhook-url", "http://127.0.0.1/", "--webhook-listen", port, "--endpoint", "local"]
        watched = ["--prefect", "off", "--watch", str(folder / "photos")]
        done = {
            "--port": here_cli("receive", "--port", port),
            "--webhook-listen": here_cli("run", recipe, *called),
            "--webhook-listen ": here_cli("serve", recipe, *called, *watched),
        }
    for option, ended in done.items():
        assert ended.returncode == 2
        assert f"flux-pipelines: {option.strip()}: 127.0.0.1:{port} cannot be listened on" in ended.stderr


def test_a_variable_that_is_wrong_is_told_by_its_name_and_a_key_of_a_recipe_by_that(
    here_cli: Here, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUX_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("FLUX_WEBHOOK_URL", "https://localhost/")
    done = here_cli("run", str(folder / "recipe.yaml"), key="a-key-of-the-tests")
    assert done.stderr.startswith("flux-pipelines: FLUX_WEBHOOK_URL: 'https://localhost/' is this machine")
    recipe = folder / "recipe.yaml"
    recipe.write_text(f"port: 80\n{recipe.read_text()}")
    done = here_cli("run", str(recipe), "--webhook-url", "http://127.0.0.1/", "--webhook-listen", "0")
    assert "recipe.yaml:1: port: " in done.stderr


def test_a_recipe_may_not_name_where_it_is_called_back(here_cli: Here, folder: Path) -> None:
    recipe = folder / "recipe.yaml"
    for name in ("webhook_url", "webhook_secret"):
        step = f"deblur: {{{name}: 'https://evil.example/'}}"
        recipe.write_text(f"source: '{folder}/photos/*'\nsteps: [{{{step}}}]\noutput: out/x.png\n")
        done = here_cli("validate", str(recipe))
        assert done.returncode == 2
        assert name in done.stderr + done.stdout
