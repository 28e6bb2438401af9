"""Ctrl-C, SIGTERM and what else stops a run: no new job, those in flight collected, nothing lost, exit 3."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import threading
import uuid
from pathlib import Path
from typing import Any, cast

import pytest
from command_line import Here
from fake_bfl import FakeBfl
from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from scripted import Answer
from waiting import PATIENCE, wait_until

from flux_tasks import background
from flux_tasks.jobs import submission
from flux_tasks.store.journal import Journal
from flux_tasks.store.records import Store
from pipelines.cli import signals


def running(cli: Any, bfl: FakeBfl, folder: Path, *options: str) -> subprocess.Popen[str]:
    """A run whose two first jobs are submitted and do not end yet."""
    bfl.hold = True
    recipe = str(folder / "recipe.yaml")
    program: subprocess.Popen[str] = cli.start("run", recipe, "--endpoint", bfl.url, *options, key="right-key")
    journal = Journal(Store(str(folder / "store")))

    def submitted() -> bool:
        assert program.poll() is None, "the run ended by itself"
        return sum(entry.phase == "submitted" for entry in journal.entries()) == 2

    wait_until(submitted)
    return program


def wait_for_the_word(program: subprocess.Popen[str]) -> str:
    """Return the line that says that the signal has come."""
    assert program.stderr is not None
    while "no new job is begun" not in (said := program.stderr.readline()):
        assert said, "the run ended without a word"
    return said


def manifest_of(said: str) -> list[dict[str, Any]]:
    [path] = [line.split()[1] for line in said.splitlines() if line.startswith("manifest:")]
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_begins_no_new_job_and_collects_those_in_flight(
    prefect_cli: Any, bfl: FakeBfl, folder: Path, number: signal.Signals
) -> None:
    program = running(prefect_cli, bfl, folder)
    os.killpg(program.pid, number) if number == signal.SIGINT else program.send_signal(number)
    said = wait_for_the_word(program)
    assert ("Ctrl-C" if number == signal.SIGINT else "SIGTERM") in said
    assert "30 s at most" in said
    bfl.hold = False
    out, err = program.communicate(timeout=PATIENCE)
    assert program.returncode == 3, err
    assert "Traceback" not in out + err
    assert "stopped: interrupted" in err
    assert bfl.jobs == 2, "the second steps are not begun"
    rows = manifest_of(out)
    assert [row["outcome"] for row in rows] == ["held", "held"]
    assert [row["steps"][0]["outcome"] for row in rows] == ["done", "done"]
    assert all("not begun, because the run was stopped" in row["error"]["message"] for row in rows)
    again = prefect_cli("run", str(folder / "recipe.yaml"), "--endpoint", bfl.url, key="right-key")
    assert (again.returncode, bfl.jobs) == (0, 4)


def test_when_the_grace_is_over_the_rest_stays_in_the_journal_for_the_next_run(
    cli: Any, bfl: FakeBfl, folder: Path
) -> None:
    program = running(cli, bfl, folder, "--grace", "0.5")
    os.killpg(program.pid, signal.SIGINT)
    _, err = program.communicate(timeout=PATIENCE)
    assert program.returncode == 3
    assert "interrupted: what was submitted is in the journal; run again to go on" in err
    assert "Traceback" not in err
    bfl.hold = False
    assert cli("run", str(folder / "recipe.yaml"), "--endpoint", bfl.url, key="right-key").returncode == 0
    assert bfl.jobs == 4


def test_a_second_ctrl_c_leaves_at_once_nothing_is_lost_and_the_flow_run_ends_as_cancelled(
    prefect_cli: Any, cli: Any, bfl: FakeBfl, folder: Path
) -> None:
    name = f"clean-{uuid.uuid4().hex[:8]}"
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("name: clean", f"name: {name}"))
    program = running(prefect_cli, bfl, folder, "--grace", "600")
    os.killpg(program.pid, signal.SIGINT)
    wait_for_the_word(program)
    os.killpg(program.pid, signal.SIGINT)
    _, err = program.communicate(timeout=PATIENCE)
    assert program.returncode == 3
    assert "Traceback" not in err
    with get_client(sync_client=True) as client:
        [flow_run] = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[name])))
    assert flow_run.state is not None
    assert flow_run.state.is_cancelled()
    bfl.hold = False
    assert cli("run", str(recipe), "--endpoint", bfl.url, key="right-key").returncode == 0
    assert bfl.jobs == 4


def test_credits_that_run_out_stop_the_run_and_the_next_one_goes_on(cli: Any, bfl: FakeBfl, folder: Path) -> None:
    first = bfl._submit
    bfl._submit = lambda path, request: first(path, request) if bfl.jobs < 2 else Answer(402, {"detail": "empty"})  # type: ignore[method-assign]
    done = cli("run", str(folder / "recipe.yaml"), "--endpoint", bfl.url, key="right-key")
    assert done.returncode == 3
    assert "stopped: " in done.stderr
    assert "out of credits (empty); top up, then run again" in done.stderr
    assert bfl.jobs == 2
    assert {row["outcome"] for row in manifest_of(done.stdout)} == {"held"}
    assert Journal(Store(str(folder / "store"))).entries() == []
    bfl._submit = first  # type: ignore[method-assign]
    again = cli("run", str(folder / "recipe.yaml"), "--endpoint", bfl.url, key="right-key")
    assert (again.returncode, bfl.jobs) == (0, 4)


def test_a_second_signal_waits_for_a_post_that_begins_while_the_run_is_being_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events: list[str] = []
    is_busy, is_free = threading.Event(), threading.Event()

    async def begin() -> None:  # the loop is busy when the signals come, and begins a POST before it hears of them
        is_busy.set()
        is_free.wait(PATIENCE)
        post = asyncio.create_task(answer())
        submission._posting.add(post)
        post.add_done_callback(submission._posting.discard)

    async def answer() -> None:
        await asyncio.sleep(0.1)
        events.append("answered")

    class Stopping:
        def stop(self, reason: Exception) -> None:
            background.start(asyncio.sleep(0))
            threading.Timer(0.1, is_free.set).start()

    monkeypatch.setattr(signals.os, "_exit", lambda code: events.append(f"exit {code}"))
    handler = signals.SignalHandler(cast(Any, Stopping()), grace=600)
    begun = background.start(begin())
    assert is_busy.wait(PATIENCE)
    handler._second.set()
    handler._wind_down("SIGTERM")
    begun.result(PATIENCE)
    assert events == ["answered", "exit 3"]


def test_after_a_command_its_process_handles_signals_as_before(
    bfl: FakeBfl, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever calls the command line in a process of their own is not ended by it later."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    during = []
    enter = signals.SignalHandler.__enter__
    monkeypatch.setattr(
        signals.SignalHandler, "__enter__", lambda handler: (enter(handler), during.append(signal.getsignal(15)))
    )
    done = Here(folder, monkeypatch)("run", str(folder / "recipe.yaml"), "--endpoint", bfl.url, key="right-key")
    assert done.returncode == 0, done.stderr
    assert during
    assert handlers[signal.SIGTERM] not in during
    assert {number: signal.getsignal(number) for number in handlers} == handlers
