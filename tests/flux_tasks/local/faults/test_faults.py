"""Fault schedules: which submissions a rule chooses, how a schedule is given, and what is said of a wrong one."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_tasks.errors import RecipeError
from flux_tasks.local import LocalServer
from flux_tasks.local.faults.kinds import KINDS
from flux_tasks.local.faults.schedule import Faults

PRO = {"prompt": "a lake"}


def chosen(schedule: Any, submissions: list[tuple[str, str]]) -> list[bool]:
    """Which submissions, as pairs of tool and key, a schedule acts on."""
    faults = Faults(schedule)
    return [faults.submission(tool, key) is not None for tool, key in submissions]


def test_a_rule_acts_on_every_submission_unless_it_says_otherwise() -> None:
    assert chosen(["submit.cut"], [("deblur-v1", "a"), ("erase-v1", "b")]) == [True, True]


def test_a_rule_chooses_by_tool_under_any_of_its_names_or_by_task() -> None:
    submissions = [("deblur-v1", "a"), ("erase-v1", "a"), ("flux-2-max", "a")]
    assert chosen([{"fault": "submit.cut", "tool": "deblur"}], submissions) == [True, False, False]
    assert chosen([{"fault": "submit.cut", "tool": ["flux-erase", "edit"]}], submissions) == [False, True, True]


def test_a_rule_chooses_by_count_after_some_and_every_so_many() -> None:
    rule = {"fault": "submit.cut", "after": 2, "every": 3, "count": 2}
    assert [n for n, hit in enumerate(chosen([rule], [("deblur-v1", str(n)) for n in range(20)])) if hit] == [4, 7]


def test_two_rules_for_one_phase_take_turns_and_each_keeps_its_count() -> None:
    faults = Faults([{"fault": "job.moderated", "count": 1}, {"fault": "job.error", "count": 1}])
    names = [getattr(faults.job("deblur-v1", "a").take("job"), "name", None) for _ in range(3)]
    assert names == ["job.moderated", "job.error", None]


def test_after_counts_submissions_that_another_rule_took() -> None:
    schedule = [{"fault": "submit.cut", "count": 2}, {"fault": "submit.no_id", "after": 2}]
    faults = Faults(schedule)
    names = [getattr(faults.submission("deblur-v1", "a"), "name", None) for _ in range(3)]
    assert names == ["submit.cut", "submit.cut", "submit.no_id"]


def test_the_first_rule_that_matches_acts() -> None:
    faults = Faults([{"fault": "submit.cut", "count": 1}, "submit.no_id"])
    assert [getattr(faults.submission("deblur-v1", "a"), "name", None) for _ in range(2)] == [
        "submit.cut",
        "submit.no_id",
    ]


@given(st.integers(0, 2**32), st.floats(0, 1), st.randoms(use_true_random=False))
def test_chance_depends_on_the_request_and_not_on_the_order_of_arrival(
    seed: int, probability: float, shuffle: random.Random
) -> None:
    schedule = {"seed": seed, "faults": [{"fault": "submit.cut", "probability": probability}]}
    keys = [f"key-{n}" for n in range(40)]
    there = dict(zip(keys, chosen(schedule, [("deblur-v1", key) for key in keys]), strict=True))
    shuffle.shuffle(keys)
    again = dict(zip(keys, chosen(schedule, [("deblur-v1", key) for key in keys]), strict=True))
    assert there == again


def test_probability_is_the_share_of_submissions_that_is_chosen() -> None:
    hits = chosen(
        {"seed": 3, "faults": [{"fault": "submit.cut", "probability": 0.2}]},
        [("deblur-v1", str(n)) for n in range(2000)],
    )
    assert 0.17 < sum(hits) / 2000 < 0.23


def test_a_repeated_request_may_fare_otherwise_than_the_first_time() -> None:
    rule = {"fault": "submit.cut", "probability": 0.5}
    assert set(chosen([rule], [("deblur-v1", "same")] * 30)) == {True, False}


def test_rules_of_later_phases_act_on_the_first_polls_of_the_jobs_they_chose() -> None:
    faults = Faults([{"fault": "poll.unknown", "times": 2, "count": 1}, {"fault": "poll.cut", "times": 0}])
    first, second = faults.job("deblur-v1", "a"), faults.job("deblur-v1", "b")
    names = [getattr(first.take("poll"), "name", None) for _ in range(4)]
    assert names == ["poll.unknown", "poll.unknown", "poll.cut", "poll.cut"]
    assert [getattr(second.take("poll"), "name", None) for _ in range(2)] == ["poll.cut", "poll.cut"]
    assert first.take("delivery") is None


def test_what_has_acted_is_counted_and_a_new_schedule_begins_anew() -> None:
    faults = Faults({"seed": 5, "faults": [{"fault": "submit.cut", "count": 1}, "poll.cut"]})
    faults.submission("deblur-v1", "a")
    faults.submission("deblur-v1", "a")
    running = faults.job("deblur-v1", "a")
    assert running.take("poll") is not None
    assert faults.to_dict() == {
        "seed": 5,
        "faults": [{"fault": "submit.cut", "count": 1, "acted": 1}, {"fault": "poll.cut", "acted": 1}],
    }
    running = faults.job("deblur-v1", "b")
    faults.clear()
    assert running.take("poll") is None, "a schedule that was taken away must not act on running jobs"
    assert faults.to_dict() == {"seed": 0, "faults": []}


def test_a_schedule_is_read_from_yaml(tmp_path: Path) -> None:
    file = tmp_path / "faults.yaml"
    file.write_text(
        "seed: 7\nfaults:\n  - {fault: submit.answer, status: 429, retry_after: 2, count: 3}\n  - poll.cut\n"
    )
    found = Faults(file).to_dict()
    assert found["seed"] == 7
    assert [f["fault"] for f in found["faults"]] == ["submit.answer", "poll.cut"]


WRONG: dict[str, tuple[Any, list[str]]] = {
    "several": (
        {
            "sed": 1,
            "faults": [
                {"fault": "submit.cutt"},
                {"fault": "poll.slow", "secnds": 3},
                {"fault": "submit.cut", "count": 0},
            ],
        },
        [
            "sed: unknown key (did you mean 'seed'?)",
            "did you mean 'submit.cut'",
            "'seconds'",
            "faults.2.count: 0",
        ],
    ),
    "tool": ([{"fault": "poll.cut", "tool": "deblurr"}], ["faults.0.tool: there is no tool 'deblurr'"]),
    "seed": ({"seed": "x", "faults": []}, ["seed: 'x' is not a whole number"]),
    "number": ([4], ["faults.0: 4 is not a fault"]),
    "text": ({"faults": "submit.cut"}, ["faults: is not a list"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_schedule_is_told_with_all_its_problems(name: str) -> None:
    schedule, parts = WRONG[name]
    with pytest.raises(RecipeError) as caught:
        Faults(schedule)
    for part in parts:
        assert part in str(caught.value)


def test_a_file_that_is_no_schedule_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nowhere\.yaml: cannot be read"):
        Faults(tmp_path / "nowhere.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("faults:\n  - {fault: [}\n")
    with pytest.raises(RecipeError, match=r"broken\.yaml: is not YAML: line 2"):
        Faults(broken)


def test_a_wrong_schedule_changes_nothing(serving: Callable[..., Any], gate: Any) -> None:
    api = serving(faults=["poll.cut"])
    answer = api.http.put("/local/faults", json={"faults": [{"fault": "pol.cut"}]})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["faults.0.fault"]
    for content in (b"{", b'"/etc/passwd"', b"7", b"[" * 100_000):
        assert api.http.put("/local/faults", content=content).status_code == 422
    assert [f["fault"] for f in api.get("/local/faults").json()["faults"]] == ["poll.cut"]


def test_the_schedule_is_shown_replaced_and_ended_over_http(serving: Callable[..., Any], gate: Any) -> None:
    api = serving()
    assert api.get("/local/faults").json() == {"seed": 0, "faults": []}
    api.http.put("/local/faults", json={"seed": 2, "faults": [{"fault": "submit.answer", "status": 402, "count": 1}]})
    assert api.post("flux-2-pro", PRO).status_code == 402
    assert api.post("flux-2-pro", PRO).status_code == 200
    assert api.get("/local/faults").json()["faults"][0]["acted"] == 1
    assert api.http.delete("/local/faults").json() == {"seed": 0, "faults": []}


def test_a_request_that_is_wrong_itself_is_told_so_whatever_the_schedule(
    serving: Callable[..., Any], gate: Any
) -> None:
    api = serving(key="k", faults=["submit.cut"])
    assert api.post("flux-2-pro", PRO).status_code == 403
    assert api.post("flux-2-pro", {}, headers={"x-key": "k"}).status_code == 422


def test_the_book_says_which_faults_happened_to_a_job(serving: Callable[..., Any], gate: Any) -> None:
    api = serving(faults=["submit.no_polling_url", {"fault": "poll.unknown", "times": 1}, "job.moderated"])
    submitted = api.post("flux-2-pro", PRO).json()
    assert api.http.get("/v1/get_result", params={"id": submitted["id"]}).status_code == 404
    api.finish(submitted["id"])
    [entry] = api.server.charges.entries
    assert sorted(entry.faults) == ["job.moderated", "poll.unknown", "submit.no_polling_url"]
    assert (entry.status, entry.settled) == ("Content Moderated", 0.0)


def test_an_error_may_be_charged_all_the_same(serving: Callable[..., Any], gate: Any) -> None:
    api = serving(faults=[{"fault": "job.error", "refund": False, "says": "Failed"}])
    answer = api.finish(api.post("flux-2-pro", PRO))
    assert (answer["status"], answer["cost"]) == ("Failed", 3.0)
    assert api.server.charges.charged == 3.0


def test_two_servers_with_one_schedule_behave_alike(gate: Any) -> None:
    schedule = {"seed": 11, "faults": [{"fault": "submit.answer", "status": 503, "probability": 0.4}]}
    seen = []
    for order in (1, -1):
        with LocalServer(engine="gate", faults=schedule) as server, httpx.Client(base_url=server.url) as http:
            codes = {n: http.post("/v1/flux-2-pro", json={"prompt": str(n)}).status_code for n in range(30)[::order]}
            seen.append(json.dumps(codes, sort_keys=True))
    assert seen[0] == seen[1]
    assert {"200", "503"} <= {code for code in seen[0].replace(",", " ").replace("}", " ").split() if code.isdigit()}


def test_every_kind_says_what_it_does_and_belongs_to_the_phase_of_its_name() -> None:
    for name, kind in KINDS.items():
        assert kind.summary
        assert name.startswith(f"{kind.phase}.")
        assert kind().name == name
    assert len(list(itertools.chain(KINDS))) == len(set(KINDS))
