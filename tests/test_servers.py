"""The servers of the tests end with those who use them, also when these are killed; a test's own time is not theirs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest
from virtual_time import run_in_virtual_time
from waiting import wait_until

from flux_tasks.local import LocalServer

SUPPORT = Path(__file__).parent / "support"

SERVER = """
import http.server, socket, sys
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler, bind_and_activate=False)
server.socket = socket.socket(fileno=int(sys.argv[1]))
server.serve_forever()
"""

USER = f"""
import sys, time
from pathlib import Path
from servers import running, shared, unused_port
folder = Path(sys.argv[1])
if sys.argv[2] == "shared":
    server = shared(folder / "server", lambda descriptor: [sys.executable, "-c", {SERVER!r}, str(descriptor)], "/")
else:
    port = unused_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    server = running(command, folder / "log", f"http://127.0.0.1:{{port}}")
with server as address:
    print(address, flush=True)
    time.sleep(3600)
"""


def user(stack: ExitStack, folder: Path, kind: str) -> tuple[subprocess.Popen[str], str]:
    """A process that uses a server, and the server's address."""
    process = subprocess.Popen(
        [sys.executable, "-c", USER, str(folder), kind],
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={"PYTHONPATH": str(SUPPORT)},
    )
    stack.enter_context(process)
    stack.callback(process.kill)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address).close()
    except OSError:
        return False
    return True


def test_a_server_ends_when_the_process_that_started_it_is_killed(tmp_path: Path) -> None:
    with ExitStack() as stack:
        process, address = user(stack, tmp_path, "own")
        assert answers(address)
        process.kill()
        wait_until(lambda: not answers(address))


def test_a_shared_server_ends_with_its_last_user_and_leaves_nothing(tmp_path: Path) -> None:
    with ExitStack() as stack:
        first, address = user(stack, tmp_path, "shared")
        second, same = user(stack, tmp_path, "shared")
        assert same == address
        first.kill()
        first.wait()
        assert answers(address)
        second.kill()
        wait_until(lambda: not answers(address))
        wait_until(lambda: not (tmp_path / "server").exists())
        third, another = user(stack, tmp_path, "shared")
        assert answers(another)
        third.kill()


def test_a_server_in_another_thread_still_stops_after_a_test_in_virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its loop has looked at the time meanwhile; the machine's own runs far ahead of the test's."""

    async def let_the_server_look() -> None:
        await asyncio.to_thread(time.sleep, 0.5)  # its loop wakes every 0.1 s

    with LocalServer() as server:
        urllib.request.urlopen(f"{server.url}/openapi.json").close()
        run_in_virtual_time(let_the_server_look(), monkeypatch)
