"""Polls, delay and slots as numbers: whole jobs against a timed service, in virtual time."""

from __future__ import annotations

import asyncio
import functools
import io
import math
import random
import statistics
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timed_service import TimedService
from virtual_time import run_in_virtual_time, set_time

from flux_tasks import catalog
from flux_tasks.api.client import BflClient
from flux_tasks.api.polling import Watch
from flux_tasks.api.slots import Hold
from flux_tasks.images.reference import ImageRef
from flux_tasks.jobs.call import Call, prepare
from flux_tasks.jobs.endpoint import endpoint_for, save_durations
from flux_tasks.jobs.job import execute
from flux_tasks.settings import Settings
from flux_tasks.store.durations import Duration, Durations, size_class
from flux_tasks.store.records import Store

pytestmark = pytest.mark.early

TOOL = catalog.tool("deblur")


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 40).save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = picture()


def normal(mean: float, spread: float = 0.15) -> Callable[[], float]:
    draw = random.Random(4)
    return lambda: max(0.05, draw.gauss(mean, spread * mean))


def a_call(seed: int) -> Call:
    return prepare(TOOL, {"image": ImageRef.of(PICTURE, name="p"), "seed": seed})


class Desk:
    """Makes jobs at a timed service and keeps it to itself."""

    def __init__(self, service: TimedService, store: Path, patch: pytest.MonkeyPatch, **options: Any) -> None:
        self.service, self._patch = service, patch
        self.settings = Settings(endpoint=service.url, key="k", store=str(store), **options)

    def run(self, work: Callable[[], Awaitable[None]]) -> TimedService:
        async def whole() -> None:
            endpoint = endpoint_for(self.settings)
            endpoint.engine = "custom:loopback"
            endpoint.client = BflClient(
                self.service.url, transport=self.service, poll_interval=self.settings.poll_interval
            )
            try:
                await work()
            finally:
                await save_durations(self.settings)

        with self._patch.context() as patch:
            patch.setattr("flux_tasks.jobs.endpoint._endpoints", {})  # of this loop alone
            run_in_virtual_time(whole(), self._patch)
        return self.service

    def make(self, count: int) -> TimedService:
        """Make so many jobs, all asked for at once."""

        async def work() -> None:
            results = await asyncio.gather(*(execute(a_call(seed), self.settings) for seed in range(count)))
            assert len({result.key for result in results}) == count

        return self.run(work)

    def teach(self, duration: Callable[[], float], count: int = 128) -> None:
        """Let the store know jobs from before."""
        known = Durations(Store(self.settings.store), "custom:loopback")
        known.load(TOOL.name)
        for seconds in (duration() for _ in range(count)):
            known.add(TOOL.name, size_class("", (64, 64)), seconds * 0.98, seconds * 1.02)
        asyncio.run(known.save())


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Desk]:
    def made(duration: Callable[[], float], *, trip: float = 0.005, cap: int = 24, **options: Any) -> Desk:
        return Desk(TimedService(duration, PICTURE, trip=trip, cap=cap), tmp_path / "store", monkeypatch, **options)

    return made


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], TimedService]:
    """The service after 240 jobs of durations that were known; several tests look at the same jobs."""

    @functools.cache
    def made(mean: float) -> TimedService:
        with pytest.MonkeyPatch.context() as patch:
            here = Desk(
                TimedService(normal(mean), PICTURE, trip=0.005), tmp_path_factory.mktemp("known") / "store", patch
            )
            here.teach(normal(mean))
            return here.make(240)

    return made


@pytest.mark.parametrize("mean", [1.0, 3.0, 12.0])
def test_three_polls_a_job_and_five_percent_of_delay_where_durations_are_known(
    known: Callable[[float], TimedService], mean: float
) -> None:
    jobs = list(known(mean).jobs.values())
    assert statistics.median(job.polls for job in jobs) <= 3
    assert statistics.mean(job.polls for job in jobs) <= 3.25
    assert statistics.median(job.delay for job in jobs) <= 0.05 * mean
    assert statistics.mean(job.delay for job in jobs) <= 0.06 * mean


def test_jobs_that_take_the_same_time_need_two_polls_and_have_no_delay(desk: Callable[..., Desk]) -> None:
    here = desk(lambda: 3.0)
    here.teach(lambda: 3.0)
    jobs = list(here.make(120).jobs.values())
    assert statistics.median(job.polls for job in jobs) <= 2
    assert statistics.mean(job.delay for job in jobs) <= 0.02 * 3


def test_an_unknown_tool_is_learned_within_its_first_jobs(desk: Callable[..., Desk]) -> None:
    jobs = list(desk(normal(3.0)).make(200).jobs.values())
    assert max(job.polls for job in jobs[:24]) <= 32
    assert statistics.mean(job.polls for job in jobs[48:]) <= 3.5
    assert statistics.mean(job.delay for job in jobs[48:]) <= 0.075 * 3


@pytest.mark.parametrize(("mean", "share"), [(1.0, 0.93), (3.0, 0.94)])
def test_slots_are_in_use_though_a_jobs_end_is_seen_late(
    known: Callable[[float], TimedService], mean: float, share: float
) -> None:
    service = known(mean)
    assert share_in_use(service) >= share
    assert service.most <= 24
    assert service.refused <= 0.1 * 240


def share_in_use(service: TimedService) -> float:
    """The share of the slots that was in use for as long as jobs waited for one."""
    jobs = list(service.jobs.values())
    begin, end = min(job.begun for job in jobs), max(job.begun for job in jobs)
    return sum(min(job.ends, end) - job.begun for job in jobs) / ((end - begin) * service.cap)


def test_letting_jobs_in_early_is_what_hides_the_delay(
    desk: Callable[..., Desk], known: Callable[[float], TimedService]
) -> None:
    here = desk(normal(3.0), overbook=0)
    here.teach(normal(3.0))
    punctual, early = here.make(240), known(3.0)  # 3 of them early, as long as nothing else is said
    assert (bool(punctual.refused), bool(early.refused)) == (False, True)
    assert share_in_use(early) > share_in_use(punctual) + 0.005


def test_fetching_and_storing_hold_no_slot(desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    here = desk(lambda: 1.0)
    here.teach(lambda: 1.0)
    fetch = BflClient.fetch

    async def slowly(self: BflClient, finished: Any) -> bytes:
        await asyncio.sleep(30)
        return await fetch(self, finished)

    monkeypatch.setattr(BflClient, "fetch", slowly)
    assert share_in_use(here.make(96)) > 0.9


@pytest.mark.parametrize("absurd", [0, -5.0, math.nan, math.inf, 365 * 86_400.0, 86_400.0, 1e-9, "soon", None])
def test_no_result_is_lost_however_absurd_what_was_learned_is(desk: Callable[..., Desk], absurd: Any) -> None:
    here = desk(lambda: 2.0)
    size = size_class("", (64, 64))
    Store(here.settings.store).put_record(
        "timings", TOOL.name, {"custom:loopback": {size: [[1.0 + n, absurd] for n in range(128)]}}
    )
    jobs = here.make(30).jobs.values()
    assert len(jobs) == 30
    assert max(job.seen - job.begun for job in jobs) <= 31


def test_a_deadline_before_the_expected_end_still_asks_once(desk: Callable[..., Desk]) -> None:
    here = desk(lambda: 1.0, deadline=5.0)
    here.teach(lambda: 60.0)
    here.make(3)


def test_engines_are_told_apart_in_what_was_learned(desk: Callable[..., Desk]) -> None:
    here = desk(lambda: 2.0)
    here.make(12)

    other = Durations(Store(here.settings.store), "bfl")
    other.load(TOOL.name)
    assert other.of(TOOL.name) is None
    own = Durations(Store(here.settings.store), "custom:loopback")
    own.load(TOOL.name)
    known = own.of(TOOL.name)
    assert known is not None
    assert known.seconds == pytest.approx(2.0, rel=0.15)


@given(
    st.floats(1e-12, 86_400),
    st.floats(0.02, 50),
    st.floats(0, 600),
    st.integers(0, 40),
    st.sampled_from([0.0, 0.1, 60.0]),
)
def test_the_first_poll_comes_within_half_a_minute_and_each_further_one_within_ten_seconds(
    seconds: float, spread: float, trip: float, polls: int, begun: float
) -> None:
    now = [1000.0]
    with pytest.MonkeyPatch.context() as patch:
        set_time(patch, lambda: now[0])
        watch = Watch(lambda: Duration(seconds, spread), begun=1000.0 - begun)
        pause = watch.next_poll(trip)
        assert 0 <= pause <= 30
        for _ in range(polls):
            now[0] += pause
            watch.note_poll()
            watch.note_running()
            assert 0 <= watch.chance_ended() <= 1
            pause = watch.next_poll(trip)
            assert 0 < pause <= 10


@pytest.mark.parametrize(
    ("endpoint", "overbook", "early"),
    [
        ("bfl", None, 3),
        ("eu", None, 3),
        ("local", None, 3),
        ("http://127.0.0.1:8000", None, 3),
        ("https://gateway.example", None, 0),
        ("https://gateway.example", 2, 2),
        ("bfl", 0, 0),
    ],
)
def test_jobs_are_let_in_early_only_where_a_429_is_known_to_be_free(
    endpoint: str, overbook: int | None, early: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        slots = endpoint_for(Settings(endpoint=endpoint, overbook=overbook)).slots
        held: list[Hold] = []

        async def one() -> None:
            async with slots.hold("account") as hold:
                hold.chance = lambda: 1.0
                held.append(hold)
                await asyncio.Event().wait()

        tasks = [asyncio.create_task(one()) for _ in range(40)]
        await asyncio.sleep(1)
        assert len(held) == 24 + early
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    monkeypatch.setattr("flux_tasks.jobs.endpoint._endpoints", {})
    run_in_virtual_time(scenario(), monkeypatch)
