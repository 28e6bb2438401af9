"""Prefect's server goes for good in the middle of a run: what was done is told all the same, and in few words."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from command_line import Cli
from fake_bfl import FakeBfl
from forked import Forked
from PIL import Image
from prefect.client.orchestration import get_client
from waiting import PATIENCE, children, wait_until

from flux_tasks.store.owner import is_process_alive

PROGRAM = """
import sys
from pipelines.flows import recipe_flow
recipe_flow.LAST_WORDS = 1.0
from pipelines.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
pytestmark = pytest.mark.early

ENVIRONMENT = {"BFL_API_KEY": "k", "PREFECT_RUNNER_POLL_FREQUENCY": "1"}

ITEMS = 60
"""Each has an event that Prefect wants to send; for each it would try for eight seconds: longer than ``PATIENCE``."""


class Gate:
    """Passes connections on to a server until it is shut; then it is as if that had gone, or as if it had hung."""

    def __init__(self, address: str, port: int) -> None:
        place = urlsplit(address)
        self._target = (str(place.hostname), place.port or 80)
        self._listener = socket.create_server(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{port}{place.path}"
        self._ends: list[socket.socket] = []
        self._is_hung = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._ends += [client, server]
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not self._is_hung.is_set():
                    target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def hang(self) -> None:
        self._is_hung.set()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for end in (self._listener, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A port that nobody else gets: with one address, one nursery forks the programs of all tests."""
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        yield kept.getsockname()[1]


@pytest.fixture
def gate(prefect_server: str, port: int) -> Iterator[Gate]:
    gate = Gate(prefect_server, port)
    yield gate
    gate.close()


SERVE = """
import sys
from pipelines.flows.served import serving
serving.GRACE = serving.LAST_WORDS = 1.0
from pipelines.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("end", ["close", "hang"])
def test_serve_and_its_run_end_at_a_signal_though_the_prefect_server_has_gone(
    bfl: FakeBfl, gate: Gate, folder: Path, end: str
) -> None:
    cli, name = Cli(folder, gate.url), f"gone-{end}"
    bfl.hold = True
    environment = ENVIRONMENT | {"FLUX_ENDPOINT": bfl.url}
    command = [sys.executable, "-c", SERVE, "serve", str(folder / "recipe.yaml"), "--name", name, "--limit", "1"]
    options: Any = {"env": cli.environment | environment, "stdout": -1, "stderr": -1, "text": True}
    with Forked(command, **options) as served, get_client(sync_client=True) as client:
        assert served.stdout is not None
        assert "serving run-recipe/" in served.stdout.readline()
        client.create_flow_run_from_deployment(client.read_deployment_by_name(f"run-recipe/{name}").id)
        wait_until(lambda: bfl.jobs)
        [run] = children(served.pid)
        getattr(gate, end)()
        served.send_signal(signal.SIGTERM)
        out, err = served.communicate(timeout=PATIENCE)
    wait_until(lambda: not is_process_alive(run))
    assert served.returncode == 0, err
    assert "ending: 1 run in work is cancelled" in out
    assert "the Prefect server did not take all of it" in out
    assert "Traceback" not in err


@pytest.mark.parametrize("end", ["close", "hang"])
def test_a_run_whose_prefect_server_goes_for_good_ends_with_its_summary_and_report_and_no_dump(
    bfl: FakeBfl, gate: Gate, tmp_path: Path, end: str
) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(ITEMS):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(tmp_path / "photos" / f"p{number}.png")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"source: '{tmp_path}/photos/*.png'\nsteps: [deblur]\noutput: '{tmp_path}/out/{{{{ stem }}}}.png'\n"
    )
    cli = Cli(tmp_path, gate.url)
    bfl.hold = True
    running = Forked(
        [sys.executable, "-c", PROGRAM, "run", str(recipe), "--endpoint", bfl.url],
        env=cli.environment | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: bfl.jobs > 4)
        getattr(gate, end)()
        bfl.hold = False
        out, err = running.communicate(timeout=PATIENCE)
    finally:
        running.kill()
        running.communicate()
    assert running.returncode == 0, err
    assert f"{ITEMS} of {ITEMS} items" in out
    [report] = (tmp_path / "store").rglob("report.html")
    assert str(report) in out
    assert err.count("Prefect's server did not take the end of the flow run") == 1
    assert "prefect._internal" not in err
    assert "Event(" not in err
    assert "Traceback" not in err
    assert len(err) < 2_000
