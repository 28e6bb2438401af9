"""Hundreds of calls, cancelled calls and calls that run out of time: nothing is left running or open."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_bfl import FakeBfl
from pictures import encoded, noise
from scripted import Answer, ScriptedServer
from waiting import PATIENCE, wait_until, wait_until_still

from flux_tasks import background, catalog
from flux_tasks.api.client import BflClient
from flux_tasks.errors import DeliveryFailed, FluxError, ServerUnavailable, SubmissionUncertain
from flux_tasks.jobs import endpoint, job
from flux_tasks.jobs.addresses import Addresses
from flux_tasks.jobs.call import Call, prepare
from flux_tasks.local import LocalServer
from flux_tasks.settings import Settings
from flux_tasks.store.journal import Journal
from flux_tasks.store.records import Store

pytestmark = pytest.mark.early

CALLS = 300
"""What one call in a hundred leaves behind is seen; ``make memory`` makes 10,000."""

PHOTO = encoded(noise((96, 80)))


@pytest.fixture
def bfl() -> Iterator[FakeBfl]:
    with FakeBfl(pending_polls=0) as server:
        yield server


def settings_for(url: str, folder: Path, **options: Any) -> Settings:
    return Settings(endpoint=url, key="k", store=str(folder / "store"), **{"poll_interval": 0.002, **options})


def generate(prompt: str) -> Call:
    return prepare(catalog.TOOLS["flux-2-pro"], {"prompt": prompt, "width": 64, "height": 64})


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def tasks() -> int:
    async def count() -> int:
        return len(asyncio.all_tasks()) - 1

    return background.run(count())


async def all_of(settings: Settings, prompts: list[str], at_once: int = 40) -> list[str]:
    """Outcomes of one call a prompt."""
    turn = asyncio.Semaphore(at_once)

    async def one(prompt: str) -> str:
        async with turn:
            try:
                return (await job.execute(generate(prompt), settings)).outcome
            except FluxError as error:
                return type(error).__name__

    return await asyncio.gather(*(one(prompt) for prompt in prompts))


def test_hundreds_of_calls_leave_no_connection_task_or_file(bfl: FakeBfl, tmp_path: Path) -> None:
    settings = settings_for(bfl.url, tmp_path)
    background.run(all_of(settings, ["warm up"]))
    background.run(endpoint.close(settings))
    files, running, threads = open_files(), tasks(), threading.active_count()
    outcomes = background.run(all_of(settings, [f"lake {n}" for n in range(CALLS)]))
    assert outcomes == ["done"] * CALLS
    assert bfl.jobs == CALLS + 1
    assert bfl.connections < CALLS / 3, "connections are used again"
    background.run(endpoint.close(settings))
    wait_until(lambda: open_files() <= files + 2)
    wait_until(lambda: tasks() <= running)
    assert threading.active_count() <= threads + 33, "the pool for store traffic is all that grew"
    assert not list((tmp_path / "store").rglob("*.tmp*"))
    assert Journal(Store(settings.store)).entries() == []


def test_connections_that_nobody_uses_are_closed_and_opened_again(
    bfl: FakeBfl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "IDLE", 0.05)
    settings = settings_for(bfl.url, tmp_path)
    background.run(all_of(settings, ["warm up"]))
    background.run(endpoint.close(settings))
    files, running = open_files(), tasks()
    for part in ("lake", "river"):
        outcomes = background.run(all_of(settings, [f"{part} {n}" for n in range(24)]))
        assert outcomes == ["done"] * 24
        wait_until(lambda: open_files() <= files and tasks() == running)
    background.run(endpoint.close(settings))


def test_hundreds_of_calls_through_every_kind_of_trouble_leave_nothing_either(tmp_path: Path) -> None:
    schedule = {
        "seed": 4,
        "faults": [
            {"fault": "submit.answer", "status": 429, "retry_after": 0.01, "probability": 0.1},
            {"fault": "submit.answer", "status": 422, "probability": 0.05},
            {"fault": "submit.cut", "probability": 0.05},
            {"fault": "job.moderated", "probability": 0.05},
            {"fault": "job.error", "probability": 0.05},
            {"fault": "poll.cut", "probability": 0.1},
            {"fault": "poll.answer", "status": 503, "probability": 0.1},
            {"fault": "delivery.cut", "probability": 0.1},
            {"fault": "delivery.garbage", "probability": 0.1},
        ],
    }
    with LocalServer(faults=schedule, credits=1e6, cap=100) as server:
        settings = settings_for(server.url, tmp_path)
        background.run(all_of(settings, ["warm up"]))
        background.run(endpoint.close(settings))
        files, running = open_files(), tasks()
        outcomes = background.run(all_of(settings, [f"lake {n}" for n in range(150)], at_once=16))
        background.run(endpoint.close(settings))
        wait_until(lambda: open_files() <= files + 20)  # some are the server's own ends, closed a moment later
        wait_until(lambda: tasks() == running)
        acted = {f["fault"]: f["acted"] for f in server.faults.to_dict()["faults"]}
        keys = [entry.key for entry in server.charges.entries]
    assert all(acted.values()), acted
    assert {"done", "Moderated", "JobFailed", "SubmissionUncertain", "InvalidRequest"} >= set(outcomes)
    assert outcomes.count("SubmissionUncertain") == acted["submit.cut"]
    assert len(keys) == len(set(keys)), "a job was paid twice"


async def test_hundreds_of_exchanges_use_a_handful_of_connections_and_leave_none(bfl: FakeBfl) -> None:
    files = open_files()
    async with BflClient(bfl.url, "k", poll_interval=0.001) as client:
        turn = asyncio.Semaphore(8)

        async def one(number: int) -> int:
            async with turn:
                submission = await client.submit(catalog.TOOLS["flux-2-pro"], {"prompt": str(number)})
                return len(await client.fetch(await client.wait(submission.id, submission.polling_url)))

        sizes = await asyncio.gather(*(one(number) for number in range(CALLS)))
    assert min(sizes) > 0
    assert bfl.connections * 20 < len(bfl.requests)  # one that is idle for long, on a busy machine, is opened anew
    await asyncio.to_thread(wait_until, lambda: open_files() <= files)
    assert len(asyncio.all_tasks()) == 1


async def test_a_cancelled_call_leaves_nothing_running_and_its_job_in_the_journal(bfl: FakeBfl, tmp_path: Path) -> None:
    bfl.hold = True
    settings = settings_for(bfl.url, tmp_path)
    running = tasks()
    calls = [asyncio.create_task(background.arun(job.execute(generate(f"lake {n}"), settings))) for n in range(10)]
    await asyncio.to_thread(wait_until, lambda: bfl.jobs == 10)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await asyncio.to_thread(wait_until, lambda: tasks() == running)
    await asyncio.to_thread(wait_until_still, lambda: len(bfl.requests))
    assert {entry.phase for entry in Journal(Store(settings.store)).entries()} == {"submitted"}
    bfl.hold = False
    again = await background.arun(all_of(settings, [f"lake {n}" for n in range(10)]))
    assert (again, bfl.jobs) == (["collected"] * 10, 10)
    await background.arun(endpoint.close(settings))


# -- deadlines --------------------------------------------------------------------------------------------------------


def test_every_tool_has_a_deadline_and_the_settings_can_say_another(bfl: FakeBfl, tmp_path: Path) -> None:
    assert all(60 <= tool.deadline <= 3600 for tool in catalog.TOOLS.values())
    bfl.hold = True
    settings = settings_for(bfl.url, tmp_path, deadline=0.2)
    with pytest.raises(ServerUnavailable, match=r"still running after 0\.2 s"):
        background.run(job.execute(generate("lake"), settings))
    background.run(endpoint.close(settings))


@pytest.mark.parametrize(
    ("phase", "error"), [("submit", SubmissionUncertain), ("poll", ServerUnavailable), ("delivery", DeliveryFailed)]
)
async def test_no_answer_is_waited_for_longer_than_the_time_out_however_it_drips(
    phase: str, error: type[FluxError]
) -> None:
    async def call(server: LocalServer) -> bytes:
        async with BflClient(server.url, timeout=0.2) as impatient, BflClient(server.url) as patient:
            clients = {"submit": patient, "poll": patient, "delivery": patient, phase: impatient}
            submission = await clients["submit"].submit(catalog.TOOLS["flux-2-pro"], {"prompt": "a"})
            deadline = 0.6 if phase == "poll" else PATIENCE
            finished = await clients["poll"].wait(submission.id, submission.polling_url, deadline=deadline)
            return await clients["delivery"].fetch(finished)

    faults = [{"fault": f"{phase}.drip", "seconds": 3600, "times": 0}]
    with LocalServer(faults=faults) as server, pytest.raises(error):
        await call(server)


# -- addresses as inputs ----------------------------------------------------------------------------------------------


@pytest.fixture
def web() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        server.on("GET /photo.png", Answer(200, PHOTO))
        yield server


def sent(bfl: FakeBfl) -> dict[str, Any]:
    return bfl.bodies[-1]


def test_an_input_given_as_an_address_is_sent_as_base64_unless_it_is_wanted_otherwise(
    bfl: FakeBfl, web: ScriptedServer, tmp_path: Path
) -> None:
    settings = settings_for(bfl.url, tmp_path)
    background.run(job.execute(prepare(catalog.TOOLS["deblur-v1"], {"image": f"{web.url}/photo.png"}), settings))
    assert base64.b64decode(sent(bfl)["image"]) == PHOTO
    background.run(endpoint.close(settings))


def test_with_send_urls_the_address_itself_is_sent_where_the_tool_takes_one(
    web: ScriptedServer, tmp_path: Path
) -> None:
    photo = f"{web.url}/photo.png"
    with LocalServer() as server:
        settings = settings_for(server.url, tmp_path, send_urls=True)
        deblurred = background.run(job.execute(prepare(catalog.TOOLS["deblur-v1"], {"image": photo}), settings))
        assert deblurred.outcome == "done"
        assert len(web.seen("GET /photo.png")) == 2, "once for the digest, once by the service"
        background.run(endpoint.close(settings))
    mask = encoded(noise((96, 80), "L").point(lambda level: 255 * (level > 127)))
    fill = prepare(catalog.TOOLS["flux-pro-1.0-fill"], {"image": photo, "mask": mask, "prompt": "a"})
    assert background.run(Addresses().of(fill, settings)) == {}, "fill takes base64 alone"
    deblur = prepare(catalog.TOOLS["deblur-v1"], {"image": photo})
    assert deblur.body(background.run(Addresses().of(deblur, settings))) == {"image": photo}
    assert deblur.key("bfl") == prepare(catalog.TOOLS["deblur-v1"], {"image": PHOTO}).key("bfl")
