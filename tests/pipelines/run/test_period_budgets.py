"""Budgets for days and months, of a recipe and of a store, by the server's book; and ``spend``, which adds it up."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pytest
from command_line import Here
from object_stores import moto_s3, new_bucket_name, reach_s3
from recipes import Place, perform
from schedules import play
from waiting import PATIENCE, wait_until

from flux_tasks import ImageRef, aoutpaint, files, outpaint, use
from flux_tasks.errors import BudgetReached, RecipeError
from flux_tasks.local import LocalServer
from flux_tasks.store.account.calls import check_call
from flux_tasks.store.account.periods import Limit, PeriodBudget, read_limits, write_limits
from flux_tasks.store.account.spending import NOT_NOTED, all_charges
from flux_tasks.store.charges import Charge, add_charges
from flux_tasks.store.journal import Entry, Journal
from flux_tasks.store.records import Store
from pipelines.plan.planner import plan
from pipelines.recipe import Recipe

DEAD = "elsewhere:1 gone word"
PICTURES = 4
PROMPT = "  - edit: {model: flux-2-pro, prompt: PROMPT}\n"
"""4.5 credits for each of 4 pictures."""


def recipe(here: Place, more: str = "", *, prompt: str = "x", name: str = "nightly") -> Recipe:
    text = f"name: {name}\nsource: 'FOLDER/photos/*.png'\nsteps:\n{PROMPT.replace('PROMPT', prompt)}"
    text += f"output: 'FOLDER/out/{prompt}/{{{{ stem }}}}.png'\n{more}"
    return Recipe.parse(text.replace("FOLDER", str(here.folder)))


def store(here: Place) -> Store:
    return Store(here.settings.store)


def engine_of_jobs(here: Place) -> str:
    return all_charges(store(here))[0][0].engine


# -- the cap ----------------------------------------------------------------------------------------------------------


def test_all_runs_of_a_recipe_stay_within_its_day_and_the_message_says_when_it_opens_again(here: Place) -> None:
    first, _ = perform(recipe(here, "budget: {day: 30}\n"), here.settings)
    assert (first.summary.stopped, here.spent) == ("", 18)
    edited, rows = perform(recipe(here, "budget: {day: 30}\n", prompt="y"), here.settings)
    assert here.spent == 27, "a recipe that was edited goes on with what is left"
    assert isinstance(edited.stopped, BudgetReached)
    assert edited.summary.stopped.startswith(
        "the budget of nightly of 30 credits a day is reached: 27.00 are spent, and a job of flux-2-pro costs 4.50; "
        "it opens again at 20"
    )
    assert edited.summary.stopped.endswith(" 00:00 UTC")
    assert sorted(row["outcome"] for row in rows) == ["done", "done", "held", "held"]
    assert store(here).records("reserves") == [], "a run that has ended reserves nothing"


def test_the_smallest_of_several_budgets_holds(here: Place) -> None:
    run, _ = perform(recipe(here, "budget: {credits: 100, day: 100, month: 10}\n"), here.settings)
    assert here.spent == 9
    assert "10 credits a month" in run.summary.stopped
    again, _ = perform(recipe(here, "budget: {credits: 5, day: 100}\n", prompt="y"), here.settings)
    assert here.spent == 13.5
    assert "the budget of 5 credits is reached" in again.summary.stopped


def test_the_budget_of_a_store_holds_for_every_recipe_and_counts_calls_of_any_program(here: Place) -> None:
    write_limits(store(here), 30.0, None, "UTC")
    with use(here.settings, prefect="off"):
        outpaint(here.folder / "photos" / "p0.png", expand={"left": 16})
    assert here.spent == 10
    perform(recipe(here, name="a"), here.settings)
    assert here.spent == 28
    run, _ = perform(recipe(here, name="b", prompt="y"), here.settings)
    assert here.spent == 28
    assert "the budget of the store of 30 credits a day is reached: 28.00 are spent" in run.summary.stopped


def test_a_call_from_python_that_does_not_fit_into_the_budget_of_the_store_is_refused_before_it_is_sent(
    here: Place,
) -> None:
    write_limits(store(here), 15.0, None, "UTC")
    photo = here.folder / "photos" / "p0.png"
    with use(here.settings, prefect="off"):
        first = outpaint(photo, expand={"left": 16})
        with pytest.raises(BudgetReached) as refused:
            outpaint(photo, expand={"left": 32})
        assert str(refused.value).startswith(
            "the budget of the store of 15 credits a day is reached: 10.00 are spent, and a job of outpainting-v1 "
            "costs 10.00; it opens again at 20"
        )
        assert (here.jobs, here.spent, Journal(store(here)).entries()) == (1, 10, [])
        assert outpaint(photo, expand={"left": 16}).digest == first.digest, "what is in the store is free"
        write_limits(store(here), None, 20.0, "UTC")
        outpaint(photo, expand={"left": 32})
    assert here.spent == 20


async def test_calls_from_python_at_one_moment_never_spend_more_than_the_budget_of_the_store(here: Place) -> None:
    write_limits(store(here), 25.0, None, "UTC")
    photo = here.folder / "photos" / "p0.png"
    with use(here.settings, prefect="off"):
        calls = (aoutpaint(photo, expand={"left": 16 * number}) for number in range(1, 9))
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert here.spent <= 25
        assert {type(one) for one in ended} <= {ImageRef, BudgetReached}
        while here.spent < 20:
            await aoutpaint(photo, expand={"right": 16 + 16 * here.jobs})
        with pytest.raises(BudgetReached):
            await aoutpaint(photo, expand={"top": 16})
    assert here.spent == 20


def test_a_job_counts_in_the_period_of_its_submission(here: Place) -> None:
    day = 86_400.0
    perform(recipe(here), here.settings)
    engine, now = engine_of_jobs(here), time.time()
    limit = Limit(30.0, "day")
    yesterday = limit.begin(now) - 1
    for number, at in enumerate([yesterday, yesterday - 40 * day]):
        charge = Charge(f"old-{number}", f"key-{number}", "flux-2-pro", at, 100.0, engine, "r", "nightly")
        add_charges(store(here), [charge])
    # One that was submitted yesterday, and that nobody has collected yet.
    entry = Entry("k" * 64, "flux-2-pro", "submitted", id="late", cost=50.0, engine=engine, begun=yesterday, owner=DEAD)
    Journal(store(here)).put(entry)
    budget = PeriodBudget(store(here), [limit, Limit(1.0, "month")], "me", "nightly", engine)
    budget.read()
    assert budget.spent(limit) == 18
    is_new_month = datetime.fromtimestamp(now).astimezone().day == 1
    if not is_new_month:
        assert budget.spent(budget.limits[1]) == 168


@pytest.mark.parametrize(
    ("period", "zone", "now", "begin", "end"),
    [
        ("day", "UTC", "2026-11-29T23:59:00+00:00", "2026-11-29T00:00:00+00:00", "2026-11-30T00:00:00+00:00"),
        ("day", "Asia/Kolkata", "2026-11-29T19:00:00+00:00", "2026-11-29T18:30:00+00:00", "2026-11-30T18:30:00+00:00"),
        ("day", "Europe/Berlin", "2026-10-25T12:00:00+00:00", "2026-10-24T22:00:00+00:00", "2026-10-25T23:00:00+00:00"),
        ("day", "America/Havana", "2026-11-01T05:10:00Z", "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"),
        ("month", "America/Havana", "2026-11-01T06:10:00Z", "2026-11-01T04:00:00Z", "2026-12-01T05:00:00Z"),
        ("day", "Atlantic/Azores", "2026-10-25T01:10:00Z", "2026-10-25T00:00:00Z", "2026-10-26T01:00:00Z"),
        ("day", "Asia/Beirut", "2026-03-29T12:00:00Z", "2026-03-28T22:00:00Z", "2026-03-29T21:00:00Z"),
        ("month", "UTC", "2026-12-31T12:00:00+00:00", "2026-12-01T00:00:00+00:00", "2027-01-01T00:00:00+00:00"),
        ("month", "UTC", "2024-02-29T12:00:00+00:00", "2024-02-01T00:00:00+00:00", "2024-03-01T00:00:00+00:00"),
    ],
)
def test_days_and_months_begin_in_the_time_zone_that_is_named(
    period: Any, zone: str, now: str, begin: str, end: str
) -> None:
    limit = Limit(1.0, period, timezone=zone)
    at = datetime.fromisoformat(now).timestamp()
    assert limit.begin(at) == datetime.fromisoformat(begin).timestamp()
    assert limit.end(at).timestamp() == datetime.fromisoformat(end).timestamp()


def test_what_another_run_has_reserved_counts_until_it_has_ended(tmp_path: Path) -> None:
    place, limit = Store(str(tmp_path)), Limit(30.0, "day", "nightly")
    one, two = (PeriodBudget(place, [limit], name, "nightly", "bfl") for name in ("one", "two"))
    other = PeriodBudget(place, [limit], "three", "another recipe", "bfl")
    preview = PeriodBudget(place, [limit], "four", "nightly", "local:classical@1")
    one.add(5.0)
    for budget, reserved in ((one, 12.0), (other, 7.0), (preview, 9.0)):
        budget.exchange(partial(float, reserved))
    two.exchange(float)
    assert two.spent(limit) == 17, "of the same recipe, and of the same engine"
    record = place.record("reserves", "one")
    assert record is not None
    place.put_record("reserves", "one", {**record, "owner": ""})  # it was killed
    two.exchange(float)
    assert two.spent(limit) == 0, "what it has paid for is in pages and journal, and there is nothing"
    assert "one" not in place.records("reserves")


def test_many_pages_add_up_and_a_job_on_several_of_them_counts_once(tmp_path: Path) -> None:
    place, limit, now = Store(str(tmp_path)), Limit(1e6, "month"), time.time()
    budget = PeriodBudget(place, [limit], "me", "nightly", "bfl")
    begin = limit.begin(now)
    for many in (150, 40, 64):
        before = budget.spent(limit)
        charges = [
            Charge(f"{many}-{n}", f"k{n}", "t", max(begin, now - n), 2.0, "bfl", "r", "nightly") for n in range(many)
        ]
        add_charges(place, charges)
        add_charges(place, [replace(charge, part="other") for charge in charges[-80:]])
        add_charges(place, [Charge(f"preview-{many}", "k", "t", now, 50.0, "local:classical@1")])
        budget.read()
        assert budget.spent(limit) == before + 2.0 * many
    fresh = PeriodBudget(place, [limit], "me", "nightly", "bfl")
    fresh.read()
    assert fresh.spent(limit) == 2.0 * 254 == sum(c.credits for c in all_charges(place)[0] if c.engine == "bfl")


def test_a_budget_of_the_store_that_is_damaged_lets_nothing_be_spent(here: Place, here_cli: Here) -> None:
    write_limits(store(here), 30.0, None, "UTC")
    place = Path(store(here).location("budgets", "store.json"))
    place.write_bytes(place.read_bytes().replace(b"30", b"99"))
    with pytest.raises(BudgetReached, match=r"the store's budget is unknown .* damaged.*: set it again with"):
        perform(recipe(here), here.settings)
    assert here.spent == 0
    with pytest.raises(BudgetReached, match="set it again"):
        plan(recipe(here).compiled, settings=here.settings)
    done = here_cli("store", "budget", "--day", "30", "--month", "none", "--store", store(here).url)
    assert done.returncode == 0, done.stderr
    assert [(limit.credits, limit.period) for limit in read_limits(store(here))] == [(30, "day")]


@pytest.mark.parametrize("seed", [3])
def test_runs_at_once_that_are_killed_at_random_stay_within_their_budget(tmp_path: Path, seed: int) -> None:
    played = play(tmp_path / "here", seed, runs=4)
    assert played.charged <= played.cap
    assert played.noted - played.uncertain <= played.charged <= played.noted


# -- words and plan ---------------------------------------------------------------------------------------------------


def test_wrong_words_of_a_budget_are_found_before_anything_is_spent() -> None:
    text = "source: x.png\nsteps: [deblur: {}]\noutput: '{{ stem }}.png'\nbudget: "
    for wrong, told in {
        "{}": "write credits, day or month",
        "{timezone: UTC}": "write credits, day or month",
        "{day: -1}": "budget.day",
        "{month: many}": "budget.month",
        "{day: 5, timezone: Mars/Crater}": "write a time zone such as UTC or Europe/Berlin",
        "{day: 5, timezone: localtime}": "write a time zone such as UTC or Europe/Berlin",
        "{week: 5}": "week",
    }.items():
        with pytest.raises(RecipeError) as found:
            Recipe.parse(text + wrong)
        assert told in str(found.value), wrong


def test_a_budget_changes_no_digest_and_is_written_as_it_was() -> None:
    text = "source: x.png\nsteps: [deblur: {}]\noutput: '{{ stem }}.png'\n"
    plain, credits, day = (Recipe.parse(text + more) for more in ("", "budget: 5\n", "budget: {day: 7}\n"))
    assert plain.digest == credits.digest == day.digest
    assert credits.compiled.to_data()["budget"] == {"credits": 5}
    assert day.compiled.to_data()["budget"] == {"day": 7}
    assert Recipe.parse(day.compiled.to_yaml()).compiled.budget == day.compiled.budget


def test_a_plan_and_the_store_show_what_is_left_of_each_budget(here: Place, here_cli: Here) -> None:
    write_limits(store(here), None, 100.0, "UTC")
    perform(recipe(here), here.settings)
    with use(here.settings, prefect="off"):
        outpaint(here.folder / "photos" / "p0.png", expand={"left": 16})
    found = plan(recipe(here, "budget: {day: 20}\n", prompt="y").compiled, settings=here.settings)
    assert [(p["recipe"], p["period"], p["credits"], p["spent"]) for p in found.periods] == [
        ("nightly", "day", 20, 18),
        ("", "month", 100, 28),
    ]
    assert "budget of nightly: 2.00 of 20 credits a day are left: too few, the run would stop" in str(found)
    assert "budget of the whole store: 72.00 of 100 credits a month are left" in str(found)
    assert here_cli("store", "budget", "--day", "5", "--store", str(here.folder / "new")).stderr == "", "it is made"
    shows = json.loads(here_cli("store", "budget", "--store", here.settings.store, "--json").stdout)
    assert shows["month"] == {"credits": 100, "spent": 28}


def test_what_is_spent_at_bfl_and_by_previews_is_counted_apart_and_both_are_told(here: Place, here_cli: Here) -> None:
    write_limits(store(here), 20.0, None, "UTC")
    previews = replace(here.settings, endpoint="local", key="")
    made, _ = perform(recipe(here), previews)
    assert made.summary.stopped == ""
    shows = here_cli("store", "budget", "--store", here.settings.store).stdout
    assert shows.splitlines()[1].split() == ["day", "20", "0", "20"], "nothing was paid"
    assert "previews of a local engine have the same budget, counted apart" in shows
    planned = str(plan(recipe(here, prompt="y").compiled, settings=previews))
    assert "2.00 of 20 credits a day are left to previews, which are counted apart: too few" in planned
    stopped, _ = perform(recipe(here, prompt="y"), previews)
    assert "20 credits a day is reached: 18.00 are spent by previews, which are counted apart, and" in (
        stopped.summary.stopped
    )


def test_credits_that_a_run_of_another_machine_has_reserved_are_named_and_can_be_released(
    here: Place, here_cli: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUX_ENDPOINT", "local")
    place = store(here)
    write_limits(place, 20.0, None, "UTC")
    about = {"recipe": "nightly", "engine": "bfl", "reserved": 9.0, "spent": []}
    place.put_record("reserves", "gone", {**about, "owner": DEAD, "at": time.time() - 3600})
    PeriodBudget(place, read_limits(place), "alive", "nightly", "bfl").exchange(partial(float, 5.0))
    command = ("store", "budget", "--store", place.url)
    shows = here_cli(*command).stdout
    assert shows.splitlines()[1].split() == ["day", "20", "14", "6"]
    assert "reserved: 9 credits by gone (nightly) on elsewhere:1; nothing was heard for 6" in shows
    assert "if it died: flux-pipelines store budget --release gone" in shows
    asked = json.loads(here_cli("doctor", "--store", place.url, "--json").stdout)
    [found] = [one for one in asked if one["what"] == "reserved"]
    assert "store budget --release gone" in found["remedy"]
    for wrong, told in (
        ("x", "--release: 'x' has reserved nothing; these have: alive, gone"),
        ("alive", "goes on in the process"),
    ):
        refused = here_cli(*command, "--release", wrong)
        assert (refused.returncode, told in refused.stderr) == (2, True), refused.stderr
    released = here_cli(*command, "--release", "gone").stdout
    assert released.startswith("released: 9 credits of gone\n")
    assert [one["run"] for one in json.loads(here_cli(*command, "--json").stdout)["reserved"]] == ["alive"]


# -- spend ------------------------------------------------------------------------------------------------------------


def shown(here_cli: Here, here: Place, *arguments: str) -> Any:
    done = here_cli("spend", "--store", here.settings.store, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_spend_adds_up_to_the_book_of_the_server_whatever_became_of_the_jobs(folder: Path, here_cli: Here) -> None:
    text = f"name: night\nsource: {folder}/photos/*\nsteps:\n{PROMPT}    matrix: {{seed: [1, 2, 3, 4, 5]}}\n"
    (folder / "r.yaml").write_text(f"{text}output: '{folder}/out/{{{{ stem }}}}-{{{{ variant }}}}.png'\n")
    with LocalServer(faults=[{"fault": "job.moderated", "times": 1}]) as server:
        given = ("--endpoint", server.url, "--no-report", "--prefect", "off")
        assert here_cli("run", f"{folder}/r.yaml", *given, key="k" * 20).returncode == 1
        server.faults.set([{"fault": "job.error", "refund": False, "times": 1}])
        sharp = ("deblur", f"{folder}/photos", "--out", f"{folder}/sharp")
        assert here_cli(*sharp, *given, key="k" * 20).returncode == 1
        server.faults.set([])
        (folder / "s.yaml").write_text((folder / "r.yaml").read_text().replace("PROMPT", "another"))
        assert here_cli("run", f"{folder}/s.yaml", *given, key="k" * 20).returncode == 0
        book = server.charges
        by_tool: dict[str, float] = {}
        for entry in book.entries:
            by_tool[entry.tool] = by_tool.get(entry.tool, 0.0) + (entry.settled or 0.0)
        found = json.loads(here_cli("spend", "--json").stdout)
        assert {row["tool"]: row["credits"] for row in found["rows"]} == by_tool == {"flux-2-pro": 45, "deblur-v1": 2}
        assert (found["preview"]["credits"], found["preview"]["uncertain"]) == (book.charged, 2.0)
        assert here_cli("run", f"{folder}/r.yaml", *given, key="k" * 20).returncode == 1, "refused once and for all"
        assert json.loads(here_cli("spend", "--json").stdout)["preview"]["credits"] == book.charged
    rows = json.loads(here_cli("spend", "--by", "recipe,day", "--json").stdout)["rows"]
    assert {row["recipe"] for row in rows} == {"night", "deblur"}
    assert sum(row["credits"] for row in rows) == book.charged
    assert json.loads(here_cli("spend", "--until", "2020-01-01", "--json").stdout)["rows"] == []
    assert "which are made up" in here_cli("spend", "--by", "run").stdout


def test_results_of_an_earlier_version_are_shown_under_an_honest_word_and_count_in_a_budget(
    here: Place, here_cli: Here
) -> None:
    perform(recipe(here), here.settings)
    for day in Path(store(here).location("charges")).iterdir():
        for page in day.iterdir():
            page.unlink()
    found = shown(here_cli, here, "--by", "recipe")
    assert found["rows"] == [{"recipe": NOT_NOTED, "jobs": 4, "credits": 18, "uncertain": 0}]
    run, _ = perform(recipe(here, "budget: {day: 20}\n", prompt="y"), here.settings)
    assert here.spent == 18
    assert "18.00 are spent" in run.summary.stopped


def test_a_charge_that_is_noted_twice_or_is_still_in_the_journal_counts_once(tmp_path: Path) -> None:
    place = Store(str(tmp_path))
    entry = Entry("k" * 64, "flux-2-pro", "submitted", id="job-1", cost=4.5, engine="bfl", recipe="nightly")
    Journal(place).put(entry)
    assert [c.credits for c in all_charges(place)[0]] == [4.5]
    add_charges(place, [entry.charge(4.0)])
    add_charges(place, [entry.charge(4.0)])
    assert [c.credits for c in all_charges(place)[0]] == [4.0], "what the service said at its end"
    Journal(place).settle(entry.key)
    lost = replace(entry, id="", phase="intent", key="l" * 64, estimate=3.0, cost=None)
    Journal(place).put(lost)
    assert [(c.credits, c.is_certain) for c in all_charges(place)[0]] == [(4.0, True), (3.0, False)]


def test_the_jobs_of_a_damaged_page_are_counted_by_their_results(here: Place, here_cli: Here) -> None:
    perform(recipe(here), here.settings)
    (day,) = Path(store(here).location("charges")).iterdir()
    (page,) = day.iterdir()
    page.write_text("{")
    done = here_cli("spend", "--store", here.settings.store)
    assert f"charges/{day.name}/{page.name} is damaged: its jobs are counted by their results" in done.stderr
    assert shown(here_cli, here)["paid"]["credits"] == here.spent == 18
    run, _ = perform(recipe(here, "budget: {day: 20}\n", prompt="y"), here.settings)
    assert here.spent == 18
    assert "18.00 are spent" in run.summary.stopped


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--by", "colour"), "'colour' is not one of tool, day, month, recipe, run"),
        (("--since", "yesterday"), "'yesterday' is not a day such as 2026-11-29"),
    ],
)
def test_wrong_words_of_spend_are_named(here_cli: Here, arguments: tuple[str, str], told: str) -> None:
    done = here_cli("spend", *arguments)
    assert done.returncode == 2
    assert told in done.stderr


class Book(list[str]):
    """Requests to a server, which answers none that lists what the runs of one store have reserved until it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = threading.Event()

    def append(self, request: str) -> None:
        super().append(request)
        if request.startswith("GET") and "held%2Freserves" in request:
            assert self.may_answer.wait(PATIENCE)

    def count_of(self, part: str) -> int:
        return sum(part in request for request in self)


def test_calls_on_one_store_share_what_is_read_of_its_budget_and_hold_up_none_on_another_store() -> None:
    book = Book()
    with moto_s3(book) as endpoint, reach_s3(endpoint), ThreadPoolExecutor() as pool:
        bucket = new_bucket_name()
        held, other = (Store(f"s3://{bucket}/{name}") for name in ("held", "other"))
        files.exists(held.url)
        fsspec.filesystem("s3").mkdir(bucket)
        for one in (held, other):
            write_limits(one, 9.0, None, "UTC")
        calls = [pool.submit(check_call, held, "bfl", "flux-2-pro", 4.5)]
        try:
            wait_until(lambda: book.count_of("held%2Freserves") == 1)
            check_call(other, "bfl", "flux-2-pro", 4.5)
            calls += [pool.submit(check_call, held, "bfl", "flux-2-pro", 4.5) for _ in range(5)]
            wait_until(lambda: book.count_of("GET /" + bucket + "/held/budgets/store.json") == 6)
        finally:
            book.may_answer.set()
        for call in calls:
            call.result()
    assert book.count_of("held%2Freserves") < 6
