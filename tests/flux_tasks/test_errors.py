"""Errors: each keeps its words through pickle, lists all that is wrong, and stands where the tree says."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
from pictures import encoded, noise

import flux_tasks
from flux_tasks import catalog, errors
from flux_tasks.errors import (
    FluxError,
    InvalidRequest,
    ItemsFailed,
    Moderated,
    Problem,
    RateLimited,
    RecipeError,
    nearest,
)
from flux_tasks.jobs.call import prepare
from flux_tasks.local import LocalServer
from flux_tasks.settings import Settings

PROBLEMS = (Problem("erase.mask", "is required", line=3), Problem("", "the rest", line=None))

EXAMPLES: list[FluxError] = [
    InvalidRequest.of(PROBLEMS),
    InvalidRequest("the server's own words"),
    Moderated("request", ["Violence"], job_id="job-1"),
    Moderated("content"),
    RateLimited("too many", retry_after=2.5),
    RecipeError(PROBLEMS, file="recipe.yaml"),
    RecipeError(PROBLEMS),
    ItemsFailed("1 of 4 items did not end well: 1 failed", {"counts": {"failed": 1}}),
]

CLASSES = [c for c in vars(errors).values() if inspect.isclass(c) and issubclass(c, FluxError)]
PLAIN = [c for c in CLASSES if c not in (ItemsFailed, Moderated, RecipeError)]


@pytest.mark.parametrize(
    "error", [*EXAMPLES, *(c("what happened – 港") for c in PLAIN)], ids=lambda e: type(e).__name__
)
def test_an_error_keeps_its_class_its_message_and_its_facts_through_pickle(error: FluxError) -> None:
    error.add_note("a note")
    for copied in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(copied) is type(error)
        assert str(copied) == str(error) != ""
        facts = {k: v for k, v in vars(error).items() if k != "__notes__"}
        assert {k: v for k, v in vars(copied).items() if k != "__notes__"} == facts


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ([│├└─ ]*)([A-Z]\w+)(?:\s|$)", line)
        if found:
            depth = len(found[1]) // 4
            path = [*path[:depth], found[2]]
            if depth:
                drawn[found[2]] = path[depth - 1]
    assert drawn == {c.__name__: c.__bases__[0].__name__ for c in CLASSES if c is not FluxError}


def test_every_error_is_a_public_name_of_the_package() -> None:
    for kind in CLASSES:
        assert getattr(flux_tasks, kind.__name__) is kind
        assert kind.__name__ in flux_tasks.__all__


def test_a_request_with_several_problems_says_each_on_a_line() -> None:
    error = InvalidRequest.of(PROBLEMS)
    assert str(error) == "erase.mask: is required\nthe rest"
    assert error.problems == PROBLEMS


def test_a_recipes_problems_are_said_with_file_and_line() -> None:
    assert RecipeError(PROBLEMS, file="recipe.yaml").lines() == [
        "recipe.yaml:3: erase.mask: is required",
        "recipe.yaml: the rest",
    ]
    assert str(RecipeError(PROBLEMS)) == "erase.mask: is required\nthe rest"
    assert RecipeError([]).lines() == []


def test_moderation_says_what_was_refused_why_and_that_it_costs_nothing() -> None:
    request = Moderated("request", ["Violence", "Derivative Works Filter"])
    assert str(request) == (
        "the request was refused by moderation (Violence, Derivative Works Filter); it is not charged"
    )
    assert str(Moderated("content")) == "the result was withheld by moderation; it is not charged"


def test_a_transient_error_knows_when_to_try_again_if_the_server_said_so() -> None:
    assert RateLimited("too many", retry_after=2.5).retry_after == 2.5
    assert RateLimited("too many").retry_after is None


@pytest.mark.parametrize(
    ("name", "hint"),
    [("stor", " (did you mean 'store'?)"), ("Key", " (did you mean 'key'?)"), ("xyzzy", ""), ("", "")],
)
def test_the_nearest_name_is_offered_when_one_is_near(name: str, hint: str) -> None:
    assert nearest(name, iter(["store", "key", "endpoint"])) == hint
    assert nearest(name, []) == ""


LONG = "wrong " * 2_000
PICTURE = encoded(noise((96, 80)))

REFUSALS: dict[str, Callable[[Any], object]] = {
    "endpoint": lambda value: Settings(endpoint=value),
    "max_jobs": lambda value: Settings(max_jobs=value),
    "timeout": lambda value: Settings(timeout=value),
    "region": lambda value: Settings(region=value),
    "on_uncertain": lambda value: Settings(on_uncertain=value),
    "tool": catalog.tool,
    "model": lambda value: catalog.tool("edit", value),
    "fit": lambda value: prepare(catalog.TOOLS["deblur-v1"], {"image": PICTURE}, fit=value),
    "variant": lambda value: prepare(catalog.TOOLS["deblur-v1"], {"image": PICTURE}, variant=value),
    "image": lambda value: prepare(catalog.TOOLS["deblur-v1"], {"image": value}),
    "seed": lambda value: prepare(catalog.TOOLS["deblur-v1"], {"image": PICTURE, "seed": value}),
    "mode": lambda value: prepare(catalog.tool("outpaint"), {"image": PICTURE, "aspect_ratio": "1:1", "mode": value}),
    "ratio": lambda value: prepare(catalog.tool("outpaint"), {"image": PICTURE, "aspect_ratio": value}),
    "anchor": lambda value: prepare(
        catalog.tool("outpaint"), {"image": PICTURE, "aspect_ratio": "1:1", "anchor": value}
    ),
    "dilate": lambda value: prepare(
        catalog.tool("erase"), {"image": PICTURE, "mask": {"boxes": [[0, 0, 9, 9]], "dilate": value}}
    ),
    "fault": lambda value: LocalServer(faults=[{"fault": value}]),
    "faults": lambda value: LocalServer(faults=[value]),
    "fault option": lambda value: LocalServer(faults=[{"fault": "submit.slow", "seconds": value}]),
}


@pytest.mark.parametrize("where", REFUSALS)
def test_a_message_quotes_little_of_what_it_refuses_and_stays_on_two_lines(where: str) -> None:
    with pytest.raises(FluxError) as caught:
        REFUSALS[where](LONG)
    for line in str(caught.value).splitlines():
        assert line.count("wrong") <= 14, "more than 80 characters of it"
        assert len(line) <= 700
    assert len(str(caught.value).splitlines()) <= 2
