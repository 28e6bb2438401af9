"""The budget: a cap that holds by the server's charge log; a run goes on when it is raised."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fake_bfl import FakeBfl
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st
from PIL import Image
from recipes import Painter, Place, perform, place
from scripted import Answer, Request
from waiting import PATIENCE, wait_until

from flux_tasks import outpaint, use
from flux_tasks.errors import BudgetReached, Interrupted, JobFailed, SubmissionUncertain
from flux_tasks.store.journal import Journal
from flux_tasks.store.records import Store
from pipelines.data.history import spent_before
from pipelines.plan.planner import plan
from pipelines.recipe import Recipe
from pipelines.run.budget import RunBudget

PICTURES = 4
EDIT = "  - edit: {model: flux-2-pro, prompt: x}\n  - outpaint: {expand: {left: 16}}"
"""4.5 and 10 credits for each picture."""


def recipe(here: Place, steps: str = EDIT, more: str = "") -> Recipe:
    text = f"source: 'FOLDER/photos/*.png'\nsteps:\n{steps}\noutput: 'FOLDER/out/{{{{ stem }}}}.png'\n{more}"
    return Recipe.parse(text.replace("FOLDER", str(here.folder)))


def is_paid_once(bfl: FakeBfl) -> bool:
    return len({json.dumps(body, sort_keys=True) for body in bfl.bodies}) == len(bfl.bodies)


# -- the cap ----------------------------------------------------------------------------------------------------------


def test_a_run_with_a_cap_below_its_estimate_stays_within_it_and_holds_the_rest(here: Place) -> None:
    assert plan(recipe(here).compiled, settings=here.settings).credits == pytest.approx(58)
    run, rows = perform(recipe(here, more="budget: 30\n"), here.settings)
    assert 0 < here.spent <= 30
    assert here.spent == pytest.approx(run.summary.cost)
    assert isinstance(run.stopped, BudgetReached)
    assert run.summary.stopped.startswith("the budget of 30 credits is reached: ")
    assert "run again with a larger one (--budget) to go on" in run.summary.stopped
    assert run.summary.counts["held"] > 0
    assert {row["outcome"] for row in rows} <= {"done", "held"}


def test_the_same_cap_again_pays_for_nothing_and_a_larger_one_completes_the_run_without_paying_twice(
    here: Place, painter: Painter
) -> None:
    perform(recipe(here), here.settings, budget=30)
    spent = here.spent
    again, _ = perform(recipe(here), here.settings, budget=30)
    assert (here.spent, again.summary.jobs, bool(again.summary.stopped)) == (spent, 0, True)
    assert "in earlier runs" in again.summary.stopped
    left = plan(recipe(here).compiled, settings=here.settings)
    assert left.credits == pytest.approx(58 - spent)
    last, rows = perform(recipe(here), here.settings, budget=58)
    assert here.spent == pytest.approx(58)
    assert (last.summary.stopped, here.jobs) == ("", 8)
    assert {row["outcome"] for row in rows} <= {"done", "cached"}
    assert is_paid_once(painter)


def test_a_cap_of_nothing_pays_for_nothing(here: Place) -> None:
    run, rows = perform(recipe(here, "  - deblur: {}"), here.settings, budget=0)
    assert (here.jobs, run.summary.counts) == (0, {"held": 4})
    assert len(rows) == 4


def test_a_cap_of_exactly_the_estimate_is_enough(here: Place) -> None:
    run, _ = perform(recipe(here), here.settings, budget=58)
    assert (run.summary.stopped, here.jobs) == ("", 8)


def test_jobs_in_flight_are_reserved_for(here: Place, painter: Painter) -> None:
    painter.pending_polls = 5
    _, rows = perform(recipe(here, "  - edit: {model: flux-2-pro, prompt: x}"), here.settings, budget=10)
    assert (here.jobs, here.spent) == (2, 9)
    assert sorted(row["outcome"] for row in rows) == ["done", "done", "held", "held"]


def test_a_call_of_the_same_program_is_made_after_a_run_that_its_budget_has_stopped(here: Place) -> None:
    run, _ = perform(recipe(here), here.settings, budget=5)
    assert isinstance(run.stopped, BudgetReached)
    jobs = here.jobs
    with use(here.settings, prefect="off"):
        outpaint(here.folder / "photos" / "p0.png", expand={"left": 8})
    assert here.jobs == jobs + 1


def test_what_one_run_has_completed_leaves_the_next_one_its_whole_budget(here: Place) -> None:
    perform(recipe(here), here.settings, budget=58)
    Image.new("RGB", (80, 80), "teal").save(here.folder / "photos" / "new.png")
    run, _ = perform(recipe(here), here.settings, budget=20)
    assert (run.summary.stopped, here.jobs) == ("", 10)


def test_a_run_without_a_cap_that_completes_what_a_cap_had_stopped_forgets_what_was_spent(here: Place) -> None:
    perform(recipe(here), here.settings, budget=30)
    perform(recipe(here), here.settings)
    Image.new("RGB", (80, 80), "teal").save(here.folder / "photos" / "new.png")
    run, _ = perform(recipe(here), here.settings, budget=20)
    assert (run.summary.stopped, here.jobs) == ("", 10)


def test_what_a_run_that_was_stopped_otherwise_has_spent_counts_for_the_next_one(here: Place, painter: Painter) -> None:
    submit = painter._submit

    def until_empty(path: str, request: Request) -> Answer:
        return submit(path, request) if painter.jobs < 3 else Answer(402, {"detail": "empty"})

    painter._submit = until_empty  # type: ignore[method-assign]
    perform(recipe(here), here.settings, budget=50)
    spent = here.spent
    assert spent > 0
    painter._submit = submit  # type: ignore[method-assign]
    run, _ = perform(recipe(here), here.settings, budget=50)
    assert run.context.budget.earlier == pytest.approx(spent)
    assert here.spent <= 50


def test_a_run_over_some_items_that_ends_by_itself_leaves_the_next_one_its_whole_budget(here: Place) -> None:
    first, _ = perform(recipe(here), here.settings, budget=20, limit=1)
    assert (first.summary.stopped, here.spent) == ("", pytest.approx(14.5))
    assert "are spent" not in str(plan(recipe(here).compiled, settings=here.settings, budget=44))
    last, _ = perform(recipe(here), here.settings, budget=44)
    assert (last.summary.stopped, last.context.budget.earlier, here.jobs) == ("", 0, 8)


def test_a_run_over_some_items_does_not_forget_what_a_run_that_was_stopped_has_spent(here: Place) -> None:
    stopped, _ = perform(recipe(here), here.settings, budget=30)
    spent = here.spent
    some, _ = perform(recipe(here), here.settings, budget=58, limit=3)
    assert (some.summary.stopped, here.spent > spent) == ("", True)
    before = here.spent
    again, _ = perform(recipe(here), here.settings, budget=30)
    assert again.context.budget.earlier == pytest.approx(spent)
    assert spent + here.spent - before <= 30


def test_a_plan_says_which_runs_have_spent_how_much_of_the_budget(here: Place) -> None:
    first, _ = perform(recipe(here), here.settings, budget=20)
    second, _ = perform(recipe(here), here.settings, budget=40)
    spent = {run.summary.run_id: run.summary.cost for run in (first, second)}
    planned = plan(recipe(here).compiled, settings=here.settings, budget=58)
    assert planned.spent_by == pytest.approx(spent)
    assert planned.to_dict()["spent"] == pytest.approx(here.spent)
    said = f"{here.spent:.2f} of them are spent, by runs of this recipe that were stopped: "
    runs = ", ".join(f"{run} {credits:.2f}" for run, credits in reversed(spent.items()))
    assert said + runs in str(planned)
    assert max(map(len, str(planned).splitlines())) < 200


def test_what_an_earlier_version_has_noted_as_spent_still_counts(here: Place) -> None:
    Store(here.settings.store).put_record("budgets", recipe(here).digest, {"spent": 20.0, "held": 4.5, "cap": 30.0})
    planned = plan(recipe(here).compiled, settings=here.settings, budget=30)
    assert planned.spent == pytest.approx(24.5)
    assert "earlier ones 24.50" in str(planned)
    run, _ = perform(recipe(here), here.settings, budget=30)
    assert run.context.budget.earlier == pytest.approx(24.5)
    assert here.spent <= 5.5


# -- what is free, what has no price ----------------------------------------------------------------------------------


def test_what_moderation_refuses_takes_nothing_out_of_the_budget(here: Place, painter: Painter) -> None:
    refusal = Answer(200, {"id": "x", "status": "Content Moderated", "details": {"Moderation Reasons": ["Nudity"]}})
    painter._poll = lambda job_id: refusal  # type: ignore[method-assign]
    run, _ = perform(recipe(here), here.settings, budget=5)
    assert (run.summary.stopped, run.summary.counts, run.context.budget.spent) == ("", {"moderated": 4}, 0)


def test_jobs_without_a_published_price_go_one_at_a_time_until_the_service_names_it(
    here: Place, painter: Painter
) -> None:
    painter.pending_polls = 3
    waiting: list[int] = []
    submit = painter._submit

    def counted(path: str, request: Request) -> Answer:
        waiting.append(sum(job["polls"] <= painter.pending_polls for job in painter.known.values()))
        return submit(path, request)

    painter._submit = counted  # type: ignore[method-assign]
    run, _ = perform(recipe(here, "  - deblur: {}"), here.settings, budget=100)
    assert (run.summary.stopped, len(waiting)) == ("", 4)
    assert waiting[:2] == [0, 0], "the second one waited for the first one's price"
    assert max(waiting) > 0, "the others did not wait for one another"


def test_only_the_one_job_that_tries_an_unknown_price_can_exceed_the_cap(here: Place) -> None:
    run, _ = perform(recipe(here, "  - deblur: {}"), here.settings, budget=1)
    assert (here.jobs, here.spent) == (1, 2)
    assert "the budget of 1 credits is reached: 2.00 are spent" in run.summary.stopped


def test_a_warning_comes_once_when_four_fifths_are_spent_or_in_flight(here: Place) -> None:
    for cap, expected in ((58, 1), (90, 0)):
        with place(here.bfl, 4) as other:
            words: list[str] = []
            perform(
                recipe(other),
                other.settings,
                budget=cap,
                on_event=lambda event, words=words: words.append(event.text) if event.kind == "warning" else None,
            )
            assert len(words) == expected
            assert all("of the budget's 58 credits are spent or in flight" in word for word in words)


# -- processes --------------------------------------------------------------------------------------------------------


def test_the_command_line_ends_with_3_when_the_budget_is_reached_and_with_0_when_it_was_enough(
    here_cli: Any, bfl: FakeBfl, folder: Path
) -> None:
    arguments = ("run", str(folder / "recipe.yaml"), "--endpoint", bfl.url)
    stopped = here_cli(*arguments, "--budget", "7", key="right-key")
    assert (stopped.returncode, bfl.jobs) == (3, 2)
    assert (
        "stopped: the budget of 7 credits is reached: 6.00 are spent, and a job of erase-v1 costs 3.40"
        in stopped.stderr
    )
    again = here_cli(*arguments, "--budget", "7", key="right-key")
    assert (again.returncode, bfl.jobs) == (3, 2)
    enough = here_cli(*arguments, "--budget", "13", key="right-key")
    assert (enough.returncode, bfl.jobs) == (0, 4)
    assert is_paid_once(bfl)


def test_what_a_killed_run_has_spent_and_had_in_flight_counts_for_the_next_one(
    cli: Any, bfl: FakeBfl, folder: Path
) -> None:
    plain = bfl._poll
    pending = Answer(200, {"id": "x", "status": "Pending"})
    bfl._poll = lambda job_id: plain(job_id) if job_id == "job-1" else pending  # type: ignore[method-assign]
    arguments = ("run", str(folder / "recipe.yaml"), "--endpoint", bfl.url, "--budget", "9.4")
    program = cli.start(*arguments, key="right-key")
    journal = Journal(Store(str(folder / "store")))

    def two_are_in_flight() -> bool:
        assert program.poll() is None, "the run ended by itself"
        waiting = [entry.phase for entry in journal.entries() if entry.id != "job-1"]
        return waiting == ["submitted"] * 2

    try:
        wait_until(two_are_in_flight)
    finally:
        os.killpg(program.pid, signal.SIGKILL)
        program.communicate()
    assert bfl.jobs == 3, "6.4 credits in flight beside the 3 that are spent leave nothing for a fourth"
    bfl._poll = plain  # type: ignore[method-assign]
    again = cli(*arguments, key="right-key")
    assert (again.returncode, bfl.jobs) == (3, 3), again.stderr
    assert "2 collected from an earlier run" in again.stdout
    enough = cli(*arguments[:-1], "12.9", key="right-key")
    assert (enough.returncode, bfl.jobs) == (0, 4), enough.stderr
    assert is_paid_once(bfl)


def test_submissions_that_may_have_been_charged_count_once_however_often_the_run_is_repeated(
    here: Place, painter: Painter
) -> None:
    painter.submit_answer = Answer(200, cut=0)
    first, _ = perform(recipe(here), here.settings, budget=50)
    painter.submit_answer = None
    assert (first.context.budget.spent, here.jobs) == (pytest.approx(18), 4)
    for _ in range(3):
        run, rows = perform(recipe(here), here.settings, budget=50)
        assert {row["outcome"] for row in rows} == {"held"}
        assert run.context.budget.spent <= 18
        assert here.jobs == 4


# -- the purse by itself ----------------------------------------------------------------------------------------------


def purse(folder: Path, cap: float) -> RunBudget:
    return RunBudget(cap, Store(str(folder / "store")), "r")


prices = st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.1, 9).map(lambda n: round(n, 2))), max_size=25)


@given(prices, st.floats(0, 60), st.integers(1, 8))
@trials(deadline=None, max_examples=150)
def test_however_prices_add_up_every_job_is_made_or_refused_and_the_cap_holds(
    tmp_path_factory: pytest.TempPathFactory, jobs: list[tuple[str, float]], cap: float, at_a_time: int
) -> None:
    made: list[float] = []
    refused: list[float] = []

    async def work(purse: RunBudget, queue: Iterator[tuple[str, float]]) -> None:
        for tool, price in queue:
            try:
                async with purse.pay(tool, price) as bill:
                    await asyncio.sleep(0)
                    bill.cost = price
                    made.append(price)
            except BudgetReached:
                refused.append(price)

    async def all_of_them() -> None:
        found = purse(tmp_path_factory.mktemp("purse"), cap)
        queue = iter(jobs)
        await asyncio.wait_for(asyncio.gather(*(work(found, queue) for _ in range(at_a_time))), PATIENCE)
        assert found.reserved == 0
        assert found.spent == pytest.approx(sum(made))

    asyncio.run(all_of_them())
    assert len(made) + len(refused) == len(jobs)
    assert sum(made) <= cap + 1e-4
    if not refused:
        assert len(made) == len(jobs)


@pytest.mark.parametrize(
    ("error", "spent"),
    [(SubmissionUncertain("no answer"), 4.0), (JobFailed("it failed"), 4.0), (Interrupted("stop"), 0.0)],
)
def test_what_may_have_been_charged_counts_as_spent_and_what_was_not_does_not(
    tmp_path: Path, error: Exception, spent: float
) -> None:
    async def one(purse: RunBudget) -> None:
        with pytest.raises(type(error)):
            async with purse.pay("a", 4.0):
                raise error

    found = purse(tmp_path, 10)
    asyncio.run(one(found))
    assert (found.spent, found.reserved) == (spent, 0)


def test_a_tool_that_is_dearer_than_its_price_is_reserved_for_at_what_it_cost(tmp_path: Path) -> None:
    async def two(purse: RunBudget) -> None:
        async with purse.pay("a", 2.0) as bill:
            bill.cost = 6.0
        async with purse.pay("a", 2.0) as bill:
            bill.cost = 6.0

    with pytest.raises(BudgetReached, match=r"a job of a costs 6\.00"):
        asyncio.run(two(purse(tmp_path, 11)))


# -- several runs at once ---------------------------------------------------------------------------------------------


def counted(folder: Path) -> float:
    """The credits that count against the budget of the next run."""
    return sum(spent_before(Store(str(folder / "store")), "r").values())


@pytest.mark.parametrize("cap", [15, 36, 100])
def test_runs_at_once_on_one_store_stay_within_the_cap_together(tmp_path: Path, cap: float) -> None:
    made: list[float] = []

    async def work(budget: RunBudget, jobs: int) -> None:
        await budget.open()
        with suppress(BudgetReached):
            for _ in range(jobs):
                async with budget.pay("a", 3.0) as bill:
                    await asyncio.sleep(0.01)
                    bill.cost = 3.0
                    made.append(3.0)
        await budget.close(is_stopped=True, is_whole=True)

    async def all_of_them() -> None:
        await asyncio.wait_for(asyncio.gather(*(work(purse(tmp_path, cap), 5) for _ in range(3))), 60)

    asyncio.run(all_of_them())
    assert sum(made) <= cap
    assert sum(made) >= min(cap, 45) - 3, "credits were left though jobs could have used them"
    assert counted(tmp_path) == sum(made)


def test_a_run_that_ends_well_removes_its_own_record_and_that_of_no_run_that_still_works(tmp_path: Path) -> None:

    async def one(budget: RunBudget, *, is_complete: bool | None) -> None:
        await budget.open()
        async with budget.pay("a", 4.0) as bill:
            bill.cost = 4.0
        if is_complete is not None:
            await budget.close(is_stopped=not is_complete, is_whole=True)

    asyncio.run(one(purse(tmp_path, 100), is_complete=None))
    asyncio.run(one(purse(tmp_path, 100), is_complete=True))
    assert counted(tmp_path) == 4
    asyncio.run(one(purse(tmp_path, 100), is_complete=False))
    assert counted(tmp_path) == 8
    asyncio.run(one(purse(tmp_path, 100), is_complete=True))
    assert counted(tmp_path) == 4, "the record of the one that was stopped goes, that of the live one stays"


def test_the_record_of_an_earlier_version_counts_and_a_damaged_one_lets_nothing_be_spent(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    store.put_record("budgets", "r", {"spent": 6.0, "held": 3.0, "cap": 10})

    async def one() -> None:
        budget = purse(tmp_path, 10)
        await budget.open()
        async with budget.pay("a", 3.0):
            raise AssertionError("it was begun")

    with pytest.raises(BudgetReached, match=r"9\.00 are spent, 9\.00 of them in earlier runs"):
        asyncio.run(one())
    place = Path(store.location("budgets", "r.json"))
    whole = place.read_bytes()
    for damaged in (b"", whole[:30], whole.replace(b"6.0", b"0.0")):
        place.write_bytes(damaged)
        with pytest.raises(BudgetReached, match=r"what earlier runs have spent is unknown, because .* is damaged"):
            asyncio.run(one())
