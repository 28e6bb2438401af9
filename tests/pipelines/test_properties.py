"""What holds of every recipe: the plan is what is paid, order does not matter, only our own errors are raised."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recipes import Painter, Place, as_yaml, perform, place, recipes

from flux_tasks.errors import FluxError, RecipeError
from pipelines.plan.planner import plan
from pipelines.recipe import Recipe

pytestmark = pytest.mark.early

slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def nothing_is_paid_twice(place: Place, recipe: Recipe) -> None:
    paid = place.jobs
    again = plan(recipe.compiled, settings=place.settings)
    assert (again.jobs, again.total("undecided").jobs) == (0, 0)
    run, _ = perform(recipe, place.settings)
    assert (run.summary.jobs, place.jobs) == (0, paid)


@given(recipes(), st.integers(1, 3))
@settings(deadline=None, max_examples=30, suppress_health_check=slow)
def test_the_plan_says_how_many_jobs_the_run_pays_for_exactly(
    shared_painter: Painter, data: dict[str, Any], pictures: int
) -> None:
    with place(shared_painter, pictures) as here:
        recipe = here.recipe(data)
        planned = plan(recipe.compiled, settings=here.settings)
        assert not (here.folder / "store").exists()
        run, rows = perform(recipe, here.settings)
        assert planned.total("undecided").jobs == 0
        assert planned.jobs == here.jobs == run.summary.jobs
        assert planned.items == len(rows) == pictures
        assert planned.problems == sum(len(row["errors"]) or bool(row["error"]) for row in rows)
        nothing_is_paid_twice(here, recipe)


@given(recipes(doubtful=True), st.integers(1, 2))
@settings(deadline=None, max_examples=18, suppress_health_check=slow)
def test_what_cannot_be_decided_beforehand_is_told_apart_and_bounds_what_is_paid(
    shared_painter: Painter, data: dict[str, Any], pictures: int
) -> None:
    with place(shared_painter, pictures) as here:
        recipe = here.recipe(data)
        planned = plan(recipe.compiled, settings=here.settings)
        run, _ = perform(recipe, here.settings)
        doubts = planned.total("undecided").jobs + planned.total("retries").jobs
        assert planned.jobs <= here.jobs <= planned.jobs + doubts
        assert run.summary.jobs == here.jobs
        nothing_is_paid_twice(here, recipe)


@given(recipes(), st.integers(0, 30), st.integers(1, 4))
@settings(deadline=None, max_examples=18, suppress_health_check=slow)
def test_a_run_that_the_budget_stops_halfway_is_planned_and_finished_for_what_is_left(
    shared_painter: Painter, data: dict[str, Any], cap: int, at_a_time: int
) -> None:
    with place(shared_painter, 2, max_jobs=at_a_time) as here:
        recipe = here.recipe(data)
        whole = plan(recipe.compiled, settings=here.settings)
        run, rows = perform(recipe, here.settings, budget=cap)
        first = here.jobs
        assert here.spent <= cap + shared_painter.unknown * any("deblur" in step for step in data["steps"])
        assert (first < whole.jobs) == bool(run.summary.stopped)
        assert bool(run.summary.stopped) == any(row["outcome"] == "held" for row in rows)
        left = plan(recipe.compiled, settings=here.settings)
        assert left.jobs == whole.jobs - first
        perform(recipe, here.settings)
        assert here.jobs == whole.jobs
        nothing_is_paid_twice(here, recipe)


@given(recipes(), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=30, suppress_health_check=slow)
def test_the_order_of_the_steps_in_the_file_changes_neither_digest_nor_plan(
    shared_painter: Painter, data: dict[str, Any], chance: Any
) -> None:
    other = copy.deepcopy(data)
    chance.shuffle(other["steps"])
    chance.shuffle(other["output"])
    with place(shared_painter, 1) as here:
        one, another = here.recipe(data), here.recipe(other)
        assert one.digest == another.digest == Recipe.parse(one.to_yaml()).digest == Recipe(**one.to_data()).digest
        plans = [plan(recipe.compiled, settings=here.settings) for recipe in (one, another)]
        assert plans[0].jobs == plans[1].jobs
        assert plans[0].credits == pytest.approx(plans[1].credits)
        nodes = another.graph.nodes
        rank = {"source": -1, **{node.id: number for number, node in enumerate(nodes)}}
        assert all(rank[fed] < rank[node.id] for node in nodes for fed in node.dependencies)


# -- odd recipes ------------------------------------------------------------------------------------------------------

WORDS = (
    "erase",
    "deblur",
    "source",
    "s0",
    "s1",
    "{{ stem }}",
    "{{ mask }}",
    "{{",
    "{% if %}",
    "{{ 1/0 }}",
    "keep",
    "",
    "~",
)
KEYS = (
    *("id", "from", "when", "matrix", "vars", "expect", "on_failure", "preserve", "save", "with", "call", "recipe"),
    *("erase", "edit", "generate", "resize", "mask_union", "composite", "step", "mask", "boxes", "dilate", "alpha"),
    *("seed", "model", "variant", "fit", "prompt", "references", "garment", "image", "width", "images", "table"),
    *("columns", "filter", "sample", "limit", "path", "budget", "env", "retry_with", "then", "feather", "solid"),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 5),
    st.integers(),
    st.floats(),
    st.sampled_from(WORDS),
    st.text(max_size=4),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)),
    max_leaves=5,
)


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value within ``data``."""
    for key, inner in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield (*path, key)
        yield from places(inner, (*path, key))


def within(data: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        data = data[key]
    return data


@st.composite
def odd_recipes(draw: Any) -> dict[str, Any]:
    """A recipe with one to three things that are otherwise than they should be."""
    data = copy.deepcopy(draw(recipes()))
    for _ in range(draw(st.integers(1, 3))):
        ways = list(places(data))
        path = draw(st.sampled_from(ways))
        parent = within(data, path[:-1])
        match draw(st.sampled_from(("value", "value", "leave out", "add", "copy"))):
            case "value":
                parent[path[-1]] = draw(values)
            case "leave out" if len(ways) > 1:
                parent.pop(path[-1])
            case "add" if isinstance(parent, dict):
                parent[draw(st.sampled_from(KEYS))] = draw(values)
            case _:
                parent[path[-1]] = copy.deepcopy(within(data, draw(st.sampled_from(ways))))
    return data


@given(odd_recipes())
@settings(deadline=None, max_examples=250, suppress_health_check=slow)
def test_whatever_is_written_makes_a_recipe_or_problems_with_a_place_and_a_remedy(data: dict[str, Any]) -> None:
    try:
        recipe = Recipe.parse(as_yaml(data))
    except RecipeError as error:
        assert all(problem.what for problem in error.problems)
        assert all(a <= b for a, b in pairwise(problem.line or 0 for problem in error.problems))
    else:
        assert Recipe.parse(recipe.to_yaml()).digest == recipe.digest


@given(odd_recipes(), st.integers(1, 2))
@settings(deadline=None, max_examples=80, suppress_health_check=slow)
def test_an_odd_recipe_that_is_accepted_is_planned_and_ends_every_item_in_a_row(
    shared_painter: Painter, data: dict[str, Any], pictures: int
) -> None:
    with place(shared_painter, pictures) as here:
        try:
            recipe = here.recipe(data)
            planned = plan(recipe.compiled, settings=here.settings)
        except FluxError:
            return
        run, rows = perform(recipe, here.settings)
        assert len(rows) == planned.items
        told = [error for row in rows for error in row["errors"] or filter(None, [row["error"]])]
        assert {error["kind"] for error in told} <= {"InvalidRequest", "InvalidImage", "CheckFailed"}
        open_ends = planned.total("undecided").jobs + planned.total("retries").jobs
        assert planned.jobs <= here.jobs <= planned.jobs + open_ends
        assert run.summary.jobs == here.jobs
