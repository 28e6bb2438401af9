"""One call from key to stored result, against an independent server that keeps a log of its charges."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from fake_bfl import FakeBfl
from forked import Forked
from PIL import Image
from scripted import Answer, Request
from waiting import PATIENCE

from flux_tasks import background, catalog, files
from flux_tasks.errors import (
    InvalidRequest,
    JobFailed,
    KeyRefused,
    Moderated,
    OutOfCredits,
    ServerUnavailable,
    SubmissionUncertain,
)
from flux_tasks.jobs import job
from flux_tasks.jobs.call import Call, prepare
from flux_tasks.jobs.known import lookup
from flux_tasks.jobs.result import JobResult
from flux_tasks.settings import Settings
from flux_tasks.store.journal import Entry, Journal
from flux_tasks.store.owner import this_process
from flux_tasks.store.records import Store


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    Image.effect_noise((96, 80), 50).convert("RGB").save(path)
    return path


def deblur(photo: Path, **parameters: object) -> Call:
    return prepare(catalog.TOOLS["deblur-v1"], {"image": photo, **parameters})


def run(call: Call, settings: Settings) -> JobResult:
    return background.run(job.execute(call, settings))


def entries(settings: Settings) -> list[Entry]:
    return Journal(Store(settings.store)).entries()


def test_a_job_is_paid_once_and_its_delivered_bytes_are_kept_untouched(
    bfl: FakeBfl, settings: Settings, photo: Path
) -> None:
    result = run(deblur(photo), settings)
    assert (result.outcome, result.cost, result.job_id) == ("done", 3.0, "job-1")
    assert result.image.read() == bfl.known["job-1"]["data"]
    assert result.image.name == "cat"
    assert bfl.jobs == 1
    assert entries(settings) == []


def test_the_same_call_again_comes_from_the_store_and_asks_nobody(
    bfl: FakeBfl, settings: Settings, photo: Path
) -> None:
    first = run(deblur(photo), settings)
    before = len(bfl.requests)
    second = run(deblur(photo), settings)
    assert second.outcome == "cached"
    assert second.image == first.image
    assert second.cost == 3.0
    assert len(bfl.requests) == before


def test_equal_images_under_other_names_are_one_job(bfl: FakeBfl, settings: Settings, photo: Path) -> None:
    run(deblur(photo), settings)
    other = photo.with_name("other.png")
    other.write_bytes(photo.read_bytes())
    result = run(prepare(catalog.TOOLS["deblur-v1"], {"image": other.read_bytes()}), settings)
    assert result.outcome == "cached"
    assert bfl.jobs == 1


def test_a_default_written_out_is_the_same_job_as_a_default_left_out(
    bfl: FakeBfl, settings: Settings, photo: Path
) -> None:
    run(deblur(photo), settings)
    assert run(deblur(photo, safety_tolerance=2, output_format="png", seed=None), settings).outcome == "cached"
    assert run(deblur(photo, seed=1), settings).outcome == "done"


def test_another_variant_is_another_job(bfl: FakeBfl, settings: Settings, photo: Path) -> None:
    run(deblur(photo), settings)
    again = prepare(catalog.TOOLS["deblur-v1"], {"image": photo}, variant=1)
    assert run(again, settings).outcome == "done"
    assert bfl.jobs == 2


def test_the_same_call_many_times_at_once_is_one_job(bfl: FakeBfl, settings: Settings, photo: Path) -> None:
    async def together() -> list[JobResult]:
        return await asyncio.gather(*(job.execute(deblur(photo), settings) for _ in range(20)))

    results = background.run(together())
    assert len({r.image.digest for r in results}) == 1
    assert bfl.jobs == 1


def test_a_hit_whose_blob_has_gone_is_not_a_hit_and_is_paid_again_only_if_a_person_says_so(
    bfl: FakeBfl, settings: Settings, photo: Path
) -> None:
    first = run(deblur(photo), settings)
    files.remove(first.image.uri)
    with pytest.raises(SubmissionUncertain, match=r"blobs/\S+\.png, is missing"):
        run(deblur(photo), settings)
    assert bfl.jobs == 1
    again = run(deblur(photo), replace(settings, on_uncertain="resubmit"))
    assert again.outcome == "done"
    assert "is missing" in again.warnings[0]
    assert bfl.jobs == 2


def test_unset_parameters_are_not_sent(bfl: FakeBfl, settings: Settings, photo: Path) -> None:
    run(deblur(photo, seed=5), settings)
    [body] = bfl.bodies
    assert set(body) == {"image", "seed"}


def test_an_all_black_mask_means_nothing_to_do_and_nothing_to_pay(
    bfl: FakeBfl, settings: Settings, photo: Path
) -> None:
    mask = Image.new("L", (96, 80))
    result = run(prepare(catalog.TOOLS["erase-v1"], {"image": photo, "mask": mask}), settings)
    assert result.outcome == "unchanged"
    assert result.image.read() == photo.read_bytes()
    assert bfl.jobs == 0


def test_a_refused_key_leaves_nothing_in_the_journal(bfl: FakeBfl, settings: Settings, photo: Path) -> None:
    bfl.key = "another"
    with pytest.raises(KeyRefused):
        run(deblur(photo), settings)
    assert (bfl.jobs, entries(settings)) == (0, [])


@pytest.mark.parametrize(("code", "error"), [(402, OutOfCredits), (422, InvalidRequest)])
def test_a_job_that_was_provably_not_made_leaves_nothing_in_the_journal(
    bfl: FakeBfl, settings: Settings, photo: Path, code: int, error: type[Exception]
) -> None:
    bfl.submit_answer = Answer(code, {"detail": "no"})
    with pytest.raises(error):
        run(deblur(photo), settings)
    assert entries(settings) == []


@pytest.mark.parametrize("answer", [Answer(500, {"detail": "oops"}), Answer(200, cut=0)])
def test_an_uncertain_submission_is_held_and_never_repeated_by_itself(
    bfl: FakeBfl, settings: Settings, photo: Path, answer: Answer
) -> None:
    bfl.submit_answer = answer
    with pytest.raises(SubmissionUncertain):
        run(deblur(photo), settings)
    posts = len([r for r in bfl.requests if r.method == "POST"])
    bfl.submit_answer = None
    with pytest.raises(SubmissionUncertain, match="held"):
        run(deblur(photo), settings)
    assert len([r for r in bfl.requests if r.method == "POST"]) == posts == 1
    assert [e.phase for e in entries(settings)] == ["intent"]
    resubmitted = run(deblur(photo), replace(settings, on_uncertain="resubmit"))
    assert resubmitted.outcome == "done"
    assert entries(settings) == []


def test_a_moderated_job_is_settled_and_says_why(bfl: FakeBfl, settings: Settings, photo: Path) -> None:
    moderated = {"id": "x", "status": "Content Moderated", "details": {"Moderation Reasons": ["Violence"]}}
    bfl.on("GET /v1/get_result", Answer(200, moderated))
    with pytest.raises(Moderated, match="Violence"):
        run(deblur(photo), settings)
    assert entries(settings) == []


def test_a_failed_job_is_not_kept_as_a_result(bfl: FakeBfl, settings: Settings, photo: Path) -> None:
    bfl.on("GET /v1/get_result", Answer(500, {"id": "x", "status": "Error"}))
    with pytest.raises(JobFailed):
        run(deblur(photo), settings)
    assert background.run(lookup(deblur(photo), settings)) is None


def test_a_job_that_outlives_its_deadline_is_collected_by_the_next_attempt(
    bfl: FakeBfl, settings: Settings, photo: Path
) -> None:
    bfl.hold = True
    call = deblur(photo)
    impatient = replace(call, tool=replace(call.tool, deadline=0.05))
    with pytest.raises(ServerUnavailable):
        run(impatient, settings)
    assert [e.id for e in entries(settings)] == ["job-1"]
    bfl.hold = False
    result = run(call, settings)
    assert (result.outcome, result.job_id) == ("collected", "job-1")
    assert (result.is_submitted_here, result.seconds) == (True, None)
    assert bfl.jobs == 1


def test_a_result_names_seconds_and_submission_of_the_call_that_paid_only(
    bfl: FakeBfl, settings: Settings, photo: Path
) -> None:
    paid = run(deblur(photo), settings)
    assert paid.seconds is not None
    assert (paid.outcome, paid.is_submitted_here) == ("done", True)
    cached = run(deblur(photo), settings)
    assert (cached.outcome, cached.is_submitted_here, cached.seconds) == ("cached", False, None)
    bfl.known["elsewhere"] = bfl.known["job-1"]
    call = deblur(photo, seed=2)
    entry = Entry(key=call.key("custom:loopback"), tool="deblur-v1", phase="submitted", id="elsewhere", owner="")
    Journal(Store(settings.store)).put(entry)
    collected = run(call, settings)
    assert (collected.outcome, collected.is_submitted_here, collected.seconds) == ("collected", False, None)


def test_a_delivery_that_fails_once_is_fetched_again_from_a_fresh_address(
    bfl: FakeBfl, settings: Settings, photo: Path
) -> None:
    run(deblur(photo), settings)
    data = bfl.known["job-1"]["data"]
    bfl.on("GET /files/job-2.png", Answer(403, b"expired"), Answer(200, data))
    result = run(deblur(photo, seed=9), settings)
    assert result.image.read() == data
    assert bfl.jobs == 2


def test_a_lost_job_is_submitted_anew(bfl: FakeBfl, settings: Settings, photo: Path) -> None:
    call = deblur(photo)
    key = call.key("custom:loopback")
    journal = Journal(Store(settings.store))
    journal.intend(Entry(key=key, tool="deblur-v1", phase="intent"))
    journal.put(Entry(key=key, tool="deblur-v1", phase="intent").with_id("forgotten", polling_url="", cost=3.0))
    result = run(call, settings)
    assert (result.outcome, result.job_id) == ("done", "job-1")


def test_cancelling_during_the_submission_never_loses_the_job(bfl: FakeBfl, settings: Settings, photo: Path) -> None:
    bfl.hold = True

    async def begin_and_cancel() -> None:
        task = asyncio.create_task(job.execute(deblur(photo), settings))
        while not any(r.method == "POST" for r in bfl.requests):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while [e.phase for e in entries(settings)] != ["submitted"]:
            await asyncio.sleep(0.005)

    background.run(begin_and_cancel())
    bfl.hold = False
    assert run(deblur(photo), settings).outcome == "collected"
    assert bfl.jobs == 1


def test_a_process_killed_while_its_job_runs_leaves_a_job_that_the_next_process_collects(
    bfl: FakeBfl, settings: Settings, photo: Path
) -> None:
    bfl.hold = True
    program = textwrap.dedent(
        f"""
        from flux_tasks import background, catalog
        from flux_tasks.jobs import job
        from flux_tasks.jobs.known import lookup
        from flux_tasks.jobs.call import prepare
        from flux_tasks.settings import Settings
        settings = Settings(endpoint={bfl.url!r}, key="k", store={settings.store!r}, poll_interval=0.01)
        background.run(job.execute(prepare(catalog.TOOLS["deblur-v1"], {{"image": {str(photo)!r}}}), settings))
        """
    )
    process = Forked([sys.executable, "-c", program])
    try:
        while not any(r.path.startswith("/v1/get_result") for r in list(bfl.requests)):
            assert process.poll() is None, "the program ended before it polled"
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert [e.phase for e in entries(settings)] == ["submitted"]
    bfl.hold = False
    result = run(deblur(photo), settings)
    assert (result.outcome, result.job_id, bfl.jobs) == ("collected", "job-1", 1)
    assert entries(settings) == []


def test_several_processes_on_one_store_pay_for_each_job_once(bfl: FakeBfl, settings: Settings, photo: Path) -> None:
    program = textwrap.dedent(
        f"""
        import asyncio
        from flux_tasks import background, catalog
        from flux_tasks.jobs import job
        from flux_tasks.jobs.known import lookup
        from flux_tasks.jobs.call import prepare
        from flux_tasks.settings import Settings
        settings = Settings(endpoint={bfl.url!r}, key="k", store={settings.store!r}, poll_interval=0.002, max_jobs=3)
        calls = [prepare(catalog.TOOLS["deblur-v1"], {{"image": {str(photo)!r}, "seed": n}}) for n in range(25)]
        async def all_of_them():
            await asyncio.gather(*(job.execute(call, settings) for call in calls))
        background.run(all_of_them())
        """
    )
    processes = [Forked([sys.executable, "-c", program]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert bfl.jobs == 25
    assert entries(settings) == []


def test_an_intent_of_a_process_that_is_gone_is_held_at_once(bfl: FakeBfl, settings: Settings, photo: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    call = deblur(photo)
    owner = this_process().replace(f":{os.getpid()} ", f":{gone.pid} ")
    Journal(Store(settings.store)).intend(
        Entry(key=call.key("custom:loopback"), tool="deblur-v1", phase="intent", owner=owner)
    )
    with pytest.raises(SubmissionUncertain, match="held"):
        run(call, settings)
    assert bfl.jobs == 0


def test_a_program_that_is_interrupted_while_submitting_waits_for_the_id(
    bfl: FakeBfl, settings: Settings, photo: Path
) -> None:
    import threading

    bfl.hold = True
    arrived, answer = threading.Event(), threading.Event()

    def slow(request: Request) -> Answer:
        arrived.set()
        answer.wait()
        return bfl._submit("/v1/flux-tools/deblur-v1", request)

    bfl.on("POST /v1/flux-tools/deblur-v1", call=slow)
    program = textwrap.dedent(
        f"""
        from flux_tasks import background, catalog
        from flux_tasks.jobs import job
        from flux_tasks.jobs.known import lookup
        from flux_tasks.jobs.call import prepare
        from flux_tasks.settings import Settings
        settings = Settings(endpoint={bfl.url!r}, key="k", store={settings.store!r}, poll_interval=0.01)
        try:
            background.run(job.execute(prepare(catalog.TOOLS["deblur-v1"], {{"image": {str(photo)!r}}}), settings))
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """
    )
    with Forked([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert arrived.wait(PATIENCE)
            process.send_signal(signal.SIGINT)
            assert select.select([process.stdout], [], [], PATIENCE)[0], "the interruption went unnoticed"
            assert process.stdout.readline() == "interrupted\n"
            answer.set()
            process.communicate(timeout=PATIENCE)
        finally:
            answer.set()
            process.kill()
    assert [e.phase for e in entries(settings)] == ["submitted"]
    bfl.hold = False
    assert run(deblur(photo), settings).outcome == "collected"
    assert bfl.jobs == 1


def test_a_forked_process_works_on_its_own(bfl: FakeBfl, settings: Settings, photo: Path) -> None:
    run(deblur(photo), settings)
    child = os.fork()
    if child == 0:
        try:
            outcome = run(deblur(photo, seed=4), settings).outcome
        except BaseException:
            os._exit(2)
        os._exit(0 if outcome == "done" else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert bfl.jobs == 2


def test_a_call_made_again_while_its_cancellation_is_under_way_gets_its_result(
    bfl: FakeBfl, settings: Settings, photo: Path
) -> None:
    bfl.hold = True

    async def cancel_and_repeat() -> JobResult:
        first = asyncio.create_task(job.execute(deblur(photo), settings))
        while not bfl.jobs:
            await asyncio.sleep(0.001)
        first.cancel()
        await asyncio.sleep(0)
        bfl.hold = False
        return await job.execute(deblur(photo), settings)

    assert background.run(cancel_and_repeat()).image.digest
    assert bfl.jobs == 1


def test_a_store_that_cannot_be_written_for_a_moment_after_the_submission_loses_nothing(
    bfl: FakeBfl, settings: Settings, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = Journal.put, iter([OSError("disk full")] * 3)

    def failing(self: Journal, entry: Entry) -> None:
        for error in failures:
            raise error
        real(self, entry)

    monkeypatch.setattr(Journal, "put", failing)
    monkeypatch.setattr(files.access, "PAUSES", (0.01, 0.01, 0.01))
    assert run(deblur(photo), settings).outcome == "done"
    assert list(failures) == []
    assert bfl.jobs == 1
    assert entries(settings) == []


def test_no_more_than_the_allowed_number_of_jobs_is_active_at_once(
    bfl: FakeBfl, settings: Settings, photo: Path
) -> None:
    narrow = replace(settings, max_jobs=3)

    async def many() -> None:
        tasks = [asyncio.create_task(job.execute(deblur(photo, seed=n), narrow)) for n in range(9)]
        bfl.hold = True
        while bfl.jobs < 3:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        assert bfl.jobs == 3
        bfl.hold = False
        await asyncio.gather(*tasks)

    background.run(many())
    assert bfl.jobs == 9


def test_no_key_reaches_anything_that_is_written(bfl: FakeBfl, settings: Settings, photo: Path) -> None:
    secret = replace(settings, key="very-secret-key")
    run(deblur(photo), secret)
    written = [p for p in Path(settings.store).rglob("*") if p.is_file()]
    assert written
    assert not [p for p in written if b"very-secret-key" in p.read_bytes()]
    assert "very-secret-key" not in repr(secret)


def test_bfl_without_a_key_is_refused_before_anything_is_sent(photo: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyRefused, match="BFL_API_KEY"):
        run(deblur(photo), Settings(endpoint="bfl", store=str(tmp_path / "store")))
