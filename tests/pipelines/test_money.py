"""Money that is known earlier: megapixels that explain a cost, prices learned from settled jobs, refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from recipes import Painter, Place, perform, place
from scripted import Answer, Request

from flux_tasks import catalog
from flux_tasks.errors import Moderated
from flux_tasks.jobs.call import prepare
from flux_tasks.store.records import Store
from pipelines.data.history import LearnedPrices
from pipelines.data.manifest import read_manifest
from pipelines.plan.planner import plan
from pipelines.recipe import Recipe
from pipelines.report.page import RunSummary, render
from pipelines.run.budget import RunBudget


class Charging(Painter):
    """Says which megapixels it charges for, and keeps what the journal has of a job while it is polled."""

    def __init__(self) -> None:
        super().__init__()
        self.journal: Path | None = None
        self.seen: list[dict[str, Any]] = []

    def _submit(self, path: str, request: Request) -> Answer:
        answer = super()._submit(path, request)
        if answer.status == 200 and isinstance(answer.body, dict):
            answer.body |= {"input_mp": 2.25, "output_mp": 1.98}
        return answer

    def _poll(self, job_id: str) -> Answer:
        if self.journal is not None:
            self.seen += [json.loads(path.read_text()) for path in self.journal.glob("*.json")]
        return super()._poll(job_id)


@pytest.fixture
def bfl() -> Iterator[Charging]:
    with Charging() as server:
        yield server


@pytest.fixture
def here(bfl: Charging) -> Iterator[Place]:
    with place(bfl, 4) as found:
        yield found


def recipe(here: Place, steps: str = "  - deblur: {}") -> Recipe:
    text = f"source: 'FOLDER/photos/*.png'\nsteps:\n{steps}\noutput: 'FOLDER/out/{{{{ stem }}}}.png'\n"
    return Recipe.parse(text.replace("FOLDER", str(here.folder)))


# -- megapixels -------------------------------------------------------------------------------------------------------


def test_what_the_service_charges_for_is_in_journal_record_manifest_and_report(here: Place) -> None:
    here.bfl.journal = here.folder / "store" / "journal"
    _, rows = perform(recipe(here), here.settings, limit=1)
    assert {(entry["input_mp"], entry["output_mp"]) for entry in here.bfl.seen} == {(2.25, 1.98)}
    results = [json.loads(path.read_text()) for path in (here.folder / "store" / "results").glob("*.json")]
    assert {(r["input_mp"], r["output_mp"], r["delivery_host"]) for r in results} == {(2.25, 1.98, here.bfl.url[7:])}
    [step] = rows[0]["steps"]
    assert (step["input_mp"], step["output_mp"], step["delivery_host"]) == (2.25, 1.98, here.bfl.url[7:])
    _, rows = perform(recipe(here), here.settings, limit=1)
    assert (rows[0]["steps"][0]["outcome"], rows[0]["steps"][0]["input_mp"]) == ("cached", 2.25)


def test_the_report_says_what_was_charged_for_where_a_cost_differs_from_its_estimate(here: Place) -> None:
    run, _ = perform(recipe(here, "  - edit: {model: flux-2-pro, prompt: x}"), here.settings)
    rows = list(read_manifest(run.summary.manifest))
    for row in rows:
        row["steps"][0]["cost"] = 9.0
    page = render(RunSummary.of(run.summary), rows)
    assert "estimated 4.5; charged for 2.25 MP in and 1.98 MP out" in page


# -- learned prices ---------------------------------------------------------------------------------------------------


def test_a_tool_without_a_published_price_takes_the_mean_of_what_the_store_has_settled(here: Place) -> None:
    before = plan(recipe(here).compiled, settings=here.settings)
    assert (before.unpriced, before.learned) == (4, {})
    perform(recipe(here), here.settings, limit=1)
    here.bfl.unknown = 4.0
    perform(recipe(here), here.settings, limit=3)
    after = plan(recipe(here, "  - deblur: {seed: 7}").compiled, settings=here.settings)
    assert (after.unpriced, after.jobs) == (0, 4)
    assert after.credits == pytest.approx(4 * (2 + 4 + 4) / 3, abs=0.001)
    assert after.learned == {"deblur-v1": {"credits": 3.3333, "jobs": 3}}
    words = (
        "price: that of deblur-v1 is published nowhere; 3.33 credits ($0.03) is the mean of the 3 jobs that this store"
    )
    assert words in str(after)
    assert after.to_dict()["learned"] == after.learned


def test_prices_of_one_tool_are_learned_apart_where_its_parameters_decide(here: Place) -> None:
    perform(recipe(here, "  - outpaint: {expand: {left: 16}, mode: fast}"), here.settings)
    perform(recipe(here, "  - outpaint: {expand: {left: 32}}"), here.settings)
    [learned] = (here.folder / "store" / "prices").iterdir()
    assert learned.name == "outpainting-v1-fast.json"
    found = plan(recipe(here, "  - outpaint: {expand: {top: 16}, mode: fast}").compiled, settings=here.settings)
    assert found.learned == {"outpainting-v1 fast": {"credits": 2.0, "jobs": 4}}


def test_a_budget_reckons_with_a_learned_price(here: Place) -> None:
    perform(recipe(here), here.settings)
    run, rows = perform(recipe(here, "  - deblur: {seed: 7}"), here.settings, budget=5)
    assert sorted(row["outcome"] for row in rows) == ["done", "done", "held", "held"]
    assert run.summary.cost == 4.0


def test_what_one_engine_charges_says_nothing_of_another_and_a_local_one_is_told_bfls(here: Place) -> None:
    store = Store(here.settings.store)
    call = prepare(catalog.TOOLS["deblur-v1"], {"image": here.folder / "photos" / "p0.png"})
    for engine, cost in (("bfl", 3.0), ("custom:example", 7.0), ("local:classical@1", 1.0), ("bfl", 4.0)):
        prices = LearnedPrices(store, engine)
        prices.add(call, cost)
        prices.close()
    assert LearnedPrices(store, "bfl").estimate(call) == LearnedPrices(store, "local:classical@1").estimate(call) == 3.5
    assert LearnedPrices(store, "custom:example").estimate(call) == 7.0
    assert LearnedPrices(store, "custom:other").estimate(call) is None
    assert LearnedPrices(store, "bfl").price(call).state == "learned"
    assert call.price.state == "unknown"
    assert catalog.TOOLS["erase-v1"].price.state == "published"


DAMAGED = ["", "[]", '{"bfl": 3}', '{"bfl": {"credits": "x", "jobs": 1}}', '{"bfl": {"credits": 1, "jobs": 0}}']


@pytest.mark.parametrize("damaged", DAMAGED)
def test_a_record_of_prices_that_cannot_be_used_is_passed_over(here: Place, damaged: str) -> None:
    folder = here.folder / "store" / "prices"
    folder.mkdir(parents=True)
    (folder / "deblur-v1.json").write_text(damaged)
    call = prepare(catalog.TOOLS["deblur-v1"], {"image": here.folder / "photos" / "p0.png"})
    prices = LearnedPrices(Store(here.settings.store), "bfl")
    assert prices.estimate(call) is None
    prices.add(call, 2.0)
    prices.close()
    assert prices.estimate(call) == 2.0


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("charged", "spent"), [("no", 0.0), ("yes", 3.0), ("unknown", 3.0)])
async def test_a_refused_job_counts_as_spent_unless_it_is_known_to_be_free(
    here: Place, charged: Any, spent: float
) -> None:
    budget = RunBudget(10.0, Store(here.settings.store), "recipe")
    with pytest.raises(Moderated, match={"no": "not charged", "yes": "charged all the", "unknown": "may be"}[charged]):
        async with budget.pay("deblur-v1", 3.0):
            raise Moderated("content", charged=charged)
    assert budget.spent == spent


def test_every_tool_says_whether_a_refused_job_is_charged() -> None:
    assert {tool.charged_when_refused for tool in catalog.TOOLS.values()} <= {"yes", "no", "unknown"}
    assert "HELP-MOD" in catalog.SOURCES
    tool = replace(catalog.TOOLS["deblur-v1"], charged_when_refused="unknown")
    assert tool.charged_when_refused == "unknown"
