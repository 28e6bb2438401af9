"""`--sample`: a few items that stand for all, what all are expected to cost, and the rest that pays for none again."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from command_line import Here
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded
from PIL import Image, ImageFilter
from recipes import Painter, Place, age, perform, place

from flux_tasks.errors import RecipeError
from pipelines.recipe import Recipe
from pipelines.run.estimate import Estimate


@cache
def pictures() -> list[bytes]:
    """Forty pictures: four sizes, and of each ten from blurred to sharp."""
    noise = Image.effect_noise((160, 160), 90)
    sides = [72 + 24 * (number % 4) for number in range(40)]
    blurs = [ImageFilter.GaussianBlur(number // 4 / 3) for number in range(40)]
    found = [noise.resize((side, side)).filter(blur) for side, blur in zip(sides, blurs, strict=True)]
    return [encoded(picture.convert("RGB")) for picture in found]


@pytest.fixture
def here(painter: Painter) -> Iterator[Place]:
    with place(painter, 0) as made:
        for number, data in enumerate(pictures()):
            (made.folder / "photos" / f"p{number:02d}.png").write_bytes(data)
        age(made.folder)
        yield made


def recipe(here: Place, steps: str = "deblur: {}", source: str = "") -> Recipe:
    head = f"name: s\nsource: {{images: 'FOLDER/photos/*'{source}}}\nsteps:\n  - {steps}\n"
    return Recipe.parse(f"{head}output: 'FOLDER/out/{{{{ stem }}}}.png'\n".replace("FOLDER", str(here.folder)))


def test_a_sample_has_every_size_and_in_each_blurred_and_sharp_pictures(here: Place) -> None:
    run, rows = perform(recipe(here), here.settings, sample=16)
    numbers = [int(row["item"][1:]) for row in rows]
    assert len(numbers) == 16
    assert run.summary.total == 16
    for size in range(4):
        of_size = [number // 4 for number in numbers if number % 4 == size]
        assert len(of_size) == 4
        assert min(of_size) <= 3
        assert max(of_size) >= 6


def test_the_same_items_and_seed_give_the_same_sample_whatever_was_known_before(here: Place) -> None:
    chosen = [[row["item"] for row in perform(recipe(here), here.settings, sample=5)[1]] for _ in range(2)]
    with place(here.bfl, 0) as other:
        for path in (here.folder / "photos").iterdir():
            path.rename(other.folder / "photos" / path.name)
        _, rows = perform(recipe(other, source=", seed: 7"), other.settings, sample=5)
    assert chosen[0] == chosen[1]
    assert len(rows) == 5


def test_the_rest_pays_for_nothing_of_the_sample_again(here: Place) -> None:
    perform(recipe(here, "edit: {prompt: 'number {{ index }}'}"), here.settings, sample=12)
    assert here.jobs == 12
    run, _ = perform(recipe(here, "edit: {prompt: 'number {{ index }}'}"), here.settings)
    assert (dict(run.summary.counts), run.summary.jobs, here.jobs) == ({"cached": 12, "done": 28}, 28, 40)
    assert run.summary.sample is None


def test_the_price_of_all_is_told_by_what_the_sample_has_cost(here: Place) -> None:
    conditional = "edit: {model: flux-2-pro, prompt: x}\n    when: width > 100"
    for _ in range(2):  # the second time, all of it is in the store
        run, _ = perform(recipe(here, conditional), here.settings, sample=16)
        estimate = run.summary.sample
        assert estimate is not None
        assert estimate.credits == pytest.approx(here.spent * 2.5)
        low, high = estimate.range or (0, 0)
        assert low < estimate.credits < high
    told = "\n".join(estimate.lines())
    assert "sample: 16 of 40 items, chosen by size and sharpness among 40" in told
    assert f"price of all 40 items: about {estimate.credits:.2f} credits" in told
    assert "the other 24: about" in told
    assert estimate.to_dict()["of"] == 40
    before = here.spent
    perform(recipe(here, conditional), here.settings)
    assert here.spent == pytest.approx(before * 2.5)


def test_items_that_are_settled_cost_nothing_more_whatever_the_sample_has_cost(here: Place) -> None:
    perform(recipe(here), here.settings, limit=10)
    run, _ = perform(recipe(here), here.settings, sample=8)
    estimate = run.summary.sample
    assert estimate is not None
    others, new = 32, 40 - here.jobs
    price = estimate.credits / 40
    assert estimate.left == estimate.to_dict()["left"] == pytest.approx(price * new)
    assert f"the other 32: about {price * new:.2f} credits" in "\n".join(estimate.lines())
    assert f"for the {new} that no earlier run has settled" in "\n".join(estimate.lines())
    perform(recipe(here), here.settings)
    before = here.jobs
    again, _ = perform(recipe(here), here.settings, sample=8)
    assert again.summary.sample is not None
    assert again.summary.sample.left == 0
    told = "\n".join(again.summary.sample.lines())
    assert f"the other {others}: nothing more, because earlier runs have settled them" in told
    assert here.jobs == before


def test_what_no_item_of_the_sample_needed_is_said(here: Place) -> None:
    two = "deblur: {}\n  - edit: {prompt: x}\n    id: rare\n    when: stem == 'nobody'"
    run, _ = perform(recipe(here, two), here.settings, sample=3)
    assert "not in that price: jobs of rare, which no item of the sample needed" in [
        *(run.summary.sample or []).lines()
    ]


def test_a_sample_of_more_items_than_there_are_is_all_of_them_at_their_price(here: Place) -> None:
    run, _ = perform(recipe(here), here.settings, sample=100)
    estimate = run.summary.sample
    assert estimate is not None
    assert run.summary.total == 40
    assert estimate.range == (pytest.approx(here.spent), pytest.approx(here.spent))


def test_duplicates_are_left_out_before_a_sample_is_taken(here: Place) -> None:
    for number in range(40, 80):
        Image.open(here.folder / "photos" / "p00.png").save(here.folder / "photos" / f"p{number}.png")
    age(here.folder)
    run, rows = perform(recipe(here, source=", dedupe: exact"), here.settings, sample=10)
    assert (run.summary.sample.total, len(rows), run.summary.duplicates) == (40, 10, 0)  # type: ignore[union-attr]


def test_pictures_that_cannot_be_read_stand_for_themselves(here: Place) -> None:
    for number in range(40, 60):
        (here.folder / "photos" / f"p{number}.png").write_bytes(b"none")
    run, _ = perform(recipe(here), here.settings, sample=30)
    assert run.summary.counts["invalid"] == 10
    assert run.summary.sample.credits == pytest.approx(40 * here.spent / here.jobs)  # type: ignore[union-attr]


def test_of_many_items_few_are_looked_at(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.execution.sampling._LEAST", 6)
    run, _ = perform(recipe(here), here.settings, sample=2)
    assert "sample: 2 of 40 items, chosen by size and sharpness among 10" in [*run.summary.sample.lines()]  # type: ignore[union-attr]


def row(index: int, cost: float | None, outcome: str = "done", job: str = "") -> Any:
    step = {"id": "a", "task": "deblur", "outcome": "done", "is_paid": True, "cost": cost, "job_id": job or f"j{index}"}
    return {"index": index, "outcome": outcome, "steps": [step] if outcome != "held" else []}


@settings(max_examples=50)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=30), st.integers(0, 1_000))
def test_the_range_lies_around_the_mean_and_never_below_what_was_paid(costs: list[float], more: int) -> None:
    estimate = Estimate(len(costs) + more, len(costs), ["a"])
    for number, cost in enumerate(costs):
        estimate.add(row(number, cost))
    assert estimate.credits == pytest.approx(mean(costs) * (len(costs) + more))
    if estimate.range is None:
        assert len(costs) == 1
    else:
        assert sum(costs) - 1e-6 <= estimate.range[0] <= estimate.credits + 1e-6
        assert estimate.credits <= estimate.range[1] + 1e-6
    assert [*estimate.lines()]


def test_held_items_jobs_of_unknown_cost_and_shared_jobs_are_no_part_of_the_mean() -> None:
    estimate = Estimate(10, 10, ["a"])
    for one in (row(0, 4.0), row(1, 4.0, job="j0"), row(2, None), row(3, 0, "held")):
        estimate.add(one)
    assert estimate.costs == [4.0, 0.0, 0.0]
    assert [*estimate.lines()][-1] == "not in that price: 1 item that is held; 1 job of unknown cost"


# -- command line -----------------------------------------------------------------------------------------------------


@pytest.fixture
def program(here: Place, monkeypatch: pytest.MonkeyPatch) -> Here:
    (here.folder / "s.yaml").write_text(recipe(here).to_yaml())
    return Here(here.folder, monkeypatch)


def ask(program: Here, here: Place, *options: str) -> Any:
    return program("run", str(here.folder / "s.yaml"), "--endpoint", here.bfl.url, *options, key="k")


def test_summary_report_and_plan_tell_of_the_sample(here: Place, program: Here) -> None:
    page = here.folder / "page.html"
    done = ask(program, here, "--sample", "4", "--report", str(page))
    assert done.returncode == 0
    assert "sample: 4 of 40 items, chosen by size and sharpness among 40\nprice of all 40 items: about" in done.stdout
    assert "price of all 40 items: about" in page.read_text()
    planned = program("plan", str(here.folder / "s.yaml"), "--sample", "4", "--endpoint", here.bfl.url)
    assert "sample: these are 4 of 40 items, chosen by size and sharpness among 40" in planned.stdout
    assert "no job to pay for" in planned.stdout
    command = ("plan", str(here.folder / "s.yaml"), "--sample", "4", "--json", "--endpoint", here.bfl.url)
    assert json.loads(program(*command).stdout)["sample_of"] == 40


def test_limit_and_sample_exclude_each_other_before_anything_is_looked_at(here: Place, program: Here) -> None:
    for command in ("run", "plan"):
        done = program(
            command, str(here.folder / "s.yaml"), "--sample", "4", "--limit", "2", "--endpoint", here.bfl.url, key="k"
        )
        assert done.returncode == 2
        assert "limit takes the first items, and sample takes some of all: give one of them" in done.stderr
    with pytest.raises(RecipeError, match="0 is not a number of items"):
        perform(recipe(here), here.settings, sample=0)
    assert here.jobs == 0


@pytest.mark.parametrize(("answer", "jobs"), [("y\n", 40), ("\n", 4), ("", 4)])
def test_after_the_sample_somebody_may_let_all_of_them_run(
    here: Place, program: Here, monkeypatch: pytest.MonkeyPatch, answer: str, jobs: int
) -> None:
    import io

    typed = io.StringIO(answer)
    monkeypatch.setattr(typed, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", typed)
    done = ask(program, here, "--sample", "4", "--then-ask")
    assert "Run all items now? [y/N]" in done.stdout
    assert (done.returncode, here.jobs) == (0, jobs)


def test_nobody_is_asked_without_a_terminal_or_a_sample(here: Place, program: Here) -> None:
    assert "--then-ask: needs --sample" in ask(program, here, "--then-ask").stderr
    assert "--then-ask: needs a terminal" in ask(program, here, "--then-ask", "--sample", "2").stderr
    assert here.jobs == 0


def test_python_gets_the_estimate_as_data(here: Place) -> None:
    made = recipe(here).run(sample=4, endpoint=here.bfl.url, key="k", store=here.settings.store, prefect="off")
    assert made["sample"]["items"] == 4
    assert made["sample"]["of"] == 40
    assert made["sample"]["credits"] == pytest.approx(10 * here.spent)
    planned = recipe(here).plan(sample=4, endpoint=here.bfl.url, key="k", store=here.settings.store)
    assert (planned.items, planned.sample_of, planned.jobs) == (4, 40, 0)
    assert Path(made["manifest"]).is_file()
