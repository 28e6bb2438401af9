"""A stop is of one run: all of its jobs heed it, and nobody else's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_bfl import FakeBfl
from PIL import Image

from flux_tasks import deblur
from flux_tasks.errors import RunStopped
from flux_tasks.settings import Settings, use
from flux_tasks.tasks import direct
from pipelines.recipe import Recipe
from pipelines.run.run import Run


def begun(folder: Path, name: str, settings: Settings, *, pictures: int, **options: Any) -> Run:
    (folder / name).mkdir()
    for number in range(pictures):
        Image.new("RGB", (80, 64), (number, len(name), ord(name[0]))).save(folder / name / f"{number}.png")
    source, output = folder / name / "*.png", folder / "out" / name / "{{ stem }}.png"
    text = f"name: {name}\nsource: '{source}'\nsteps:\n  - deblur: {{}}\noutput: '{output}'\n"
    return Run(Recipe.parse(text).compiled, settings, **options)


async def directly(run: Run) -> None:
    await run.run_remaining(direct.call_task)


async def as_flow(run: Run) -> None:
    from pipelines.flows.recipe_flow import advance

    await advance(run)


async def finish(run: Run, how: Callable[[Run], Awaitable[None]] = directly) -> None:
    with use(run.settings), run:
        if not await run.answer_from_store():
            await how(run)


async def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("how", [directly, as_flow])
def test_a_run_that_is_stopped_stops_its_own_jobs_and_not_those_of_a_run_begun_meanwhile(
    bfl: FakeBfl, tmp_path: Path, settings: Settings, how: Callable[[Run], Awaitable[None]]
) -> None:
    settings = replace(settings, max_jobs=1, overbook=0)
    bfl.hold = True

    async def scenario() -> tuple[Run, Run]:
        first = begun(tmp_path, "first", settings, pictures=4)
        second = begun(tmp_path, "second", settings, pictures=2)
        work = [asyncio.create_task(finish(first, how))]
        await until(lambda: bfl.jobs == 1)
        work.append(asyncio.create_task(finish(second)))
        await until(lambda: bool(second.context.engine))
        await asyncio.sleep(0.2)
        first.stop(RunStopped("a person said so"))
        bfl.hold = False
        await asyncio.gather(*work)
        return first, second

    first, second = asyncio.run(scenario())
    assert (first.summary.counts, first.summary.jobs) == ({"done": 1, "held": 3}, 1)
    assert (second.summary.counts, second.summary.stopped) == ({"done": 2}, "")
    assert bfl.jobs == 3


@pytest.mark.parametrize("problem", [None, KeyboardInterrupt()])
def test_a_call_after_a_run_that_was_stopped_is_made_however_the_run_ended(
    bfl: FakeBfl, tmp_path: Path, settings: Settings, problem: BaseException | None
) -> None:
    settings = replace(settings, prefect="off")
    run = begun(tmp_path, "first", settings, pictures=1)

    def cut_short() -> None:
        with run:
            run.stop(RunStopped("a person said so"))
            if problem is not None:
                raise problem

    if problem is None:
        cut_short()
    else:
        with pytest.raises(type(problem)):
            cut_short()
    with use(settings):
        assert deblur(tmp_path / "first" / "0.png").width == 80
    assert bfl.jobs == 1


def test_a_call_made_while_a_run_is_stopped_is_not_stopped(bfl: FakeBfl, tmp_path: Path, settings: Settings) -> None:
    settings = replace(settings, prefect="off", max_jobs=1, overbook=0)
    bfl.hold = True

    async def scenario() -> Run:
        run = begun(tmp_path, "first", settings, pictures=2)
        Image.new("RGB", (80, 64), "teal").save(tmp_path / "other.png")
        work = asyncio.create_task(finish(run))
        await until(lambda: bfl.jobs == 1)
        with use(settings):
            other = asyncio.create_task(asyncio.to_thread(deblur, tmp_path / "other.png"))
        await asyncio.sleep(0.2)
        run.stop(RunStopped("a person said so"))
        bfl.hold = False
        await work
        assert (await other).width == 80
        return run

    assert asyncio.run(scenario()).summary.counts == {"done": 1, "held": 1}
    assert bfl.jobs == 2
