"""The verdict sees what it is there to see: its words on a round in good order, and on the same one tampered with."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evidence import Evidence
from processes import Zygote
from rounds import SECRET, Leg, Round
from verdict import judge
from watched import Post

from flux_tasks.local.faults.kinds import SubmitCut
from flux_tasks.store.journal import Entry, Journal
from flux_tasks.store.records import Store


@pytest.fixture(scope="module")
def quiet(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """What a round without faults and kills has left."""
    folder = tmp_path_factory.mktemp("quiet") / "round"
    played = Round(Leg("quiet", kills=0, items=2, faults=()), "quiet", folder, zygote)
    assert not played.play().wrong
    return played.evidence(is_over=True)


@pytest.fixture
def evidence(quiet: Evidence, tmp_path: Path) -> Evidence:
    """The same with a store that the test may tamper with."""
    shutil.copytree(quiet.store, tmp_path / "store")
    return replace(quiet, store=str(tmp_path / "store"))


def kinds(evidence: Evidence) -> list[str]:
    return sorted({words.partition(":")[0] for words in judge(evidence).wrong})


def results(evidence: Evidence) -> list[Path]:
    return sorted(Path(evidence.store, "results").iterdir())


def intent(evidence: Evidence, **more: Any) -> Entry:
    """A result is taken away, and its job, the first one, is said to have been begun and no more."""
    first = next(entry.id for entry in evidence.charges if entry.key == evidence.posts[0].key)
    taken = next(path for path in results(evidence) if first in path.read_text())
    entry = Entry(key=taken.stem, tool="deblur-v1", phase="intent", **more)
    taken.unlink()
    Journal(Store(evidence.store)).put(entry)
    return entry


def sent_by(pid: int, post: Post, **more: Any) -> Post:
    """The same POST of another process, which has not asked for its job yet."""
    return replace(post, pid=pid, polled=None, **more)


def test_nothing_is_wrong_with_a_round_in_good_order(evidence: Evidence) -> None:
    found = judge(evidence)
    assert found.wrong == []
    assert (found.counts["charges"], found.counts["results"], found.counts["held"]) == (6, 6, 0)


def test_a_second_charge_for_the_same_request_is_a_duplicate(evidence: Evidence) -> None:
    again = replace(evidence.charges[0], id="another")
    assert "duplicate" in kinds(replace(evidence, charges=[*evidence.charges, again]))


@pytest.mark.parametrize("status", ["Request Moderated", "Error"])
def test_a_second_charge_is_none_if_the_first_was_given_back(evidence: Evidence, status: str) -> None:
    first = replace(evidence.charges[0], id="another", status=status, settled=0.0)
    assert kinds(replace(evidence, charges=[first, *evidence.charges])) == []


def test_paying_again_for_a_job_that_the_service_has_lost_is_counted_apart(evidence: Evidence) -> None:
    lost = replace(evidence.charges[0], id="another", faults=("poll.unknown",) * 6)
    found = judge(replace(evidence, charges=[lost, *evidence.charges]))
    assert (found.wrong, found.counts["resubmitted: lost by the service"]) == ([], 1)
    early = replace(lost, faults=("poll.unknown",) * 5)
    assert "duplicate" in kinds(replace(evidence, charges=[early, *evidence.charges]))


def paid_again(evidence: Evidence, **more: Any) -> Evidence:
    """The first job was paid for once more, by process 4194305: under this policy an intent of the dead is repeated."""
    first = next(post for post in evidence.posts if post.job == evidence.charges[0].id)
    again = sent_by(4194305, replace(first, job="another"), **more)
    charges = [replace(evidence.charges[0], id="another"), *evidence.charges]
    return replace(evidence, policy="resubmit", charges=charges, posts=[again, *evidence.posts])


def test_a_post_that_the_server_reads_long_after_its_sender_was_killed_may_be_repeated(evidence: Evidence) -> None:
    seen = paid_again(evidence)
    read = seen.posts[0].arrived
    assert kinds(seen) == ["duplicate", "lost"]
    for seconds in (0.01, 0.7, 30, 3000):
        found = judge(replace(seen, kills={4194305: read - seconds}))
        assert (found.wrong, found.counts["resubmitted: uncertain"]) == ([], 1)
        assert kinds(replace(seen, kills={4194306: read - seconds})) == ["duplicate", "lost"], "another one's death"


def test_a_job_that_was_polled_may_not_be_repeated_whoever_was_killed(evidence: Evidence) -> None:
    seen = paid_again(evidence)
    answered = seen.posts[0].answered
    assert answered is not None
    killed = replace(seen, kills={4194305: answered + 0.2})
    assert kinds(killed) == []
    polled = [replace(seen.posts[0], polled=answered + 0.1), *seen.posts[1:]]
    assert kinds(replace(killed, posts=polled)) == ["duplicate", "lost"]


def test_a_post_that_left_its_process_long_before_the_server_read_it_may_be_repeated(evidence: Evidence) -> None:
    seen = paid_again(evidence)
    early = replace(seen.posts[0], sent=seen.posts[0].arrived - 0.6 * evidence.timeout)
    assert kinds(replace(seen, posts=[early, *seen.posts[1:]])) == []


def test_a_charge_without_a_result_is_lost(evidence: Evidence) -> None:
    results(evidence)[0].unlink()
    assert "lost" in kinds(evidence)


def test_a_result_is_on_its_way_while_its_id_is_known_and_the_round_is_not_over(evidence: Evidence) -> None:
    taken = results(evidence)[0]
    job_id = json.loads(taken.read_text())["job_id"]
    taken.unlink()
    Journal(Store(evidence.store)).put(Entry(key=taken.stem, tool="deblur-v1", phase="submitted", id=job_id))
    found = judge(replace(evidence, is_over=False, manifests={}))
    assert (found.wrong, found.counts["on the way"]) == ([], 1)
    assert kinds(replace(evidence, manifests={})) == ["lost"]


def test_a_result_whose_picture_is_damaged_is_lost(evidence: Evidence) -> None:
    blob = next(Path(evidence.store, "blobs").rglob("*.png"))
    blob.write_bytes(blob.read_bytes()[:-9] + b"123456789")
    assert "lost" in kinds(evidence)


def test_a_held_job_needs_somebody_to_blame(evidence: Evidence) -> None:
    entry = intent(evidence, owner="host:4194305", at=evidence.posts[0].arrived)
    asked = replace(evidence, manifests={}, posts=[sent_by(4194305, evidence.posts[0]), *evidence.posts[1:]])
    assert kinds(asked) == ["held without a cause"]
    answered = evidence.posts[0].answered
    assert answered is not None
    killed = judge(replace(asked, kills={4194305: answered + 0.1}))
    assert (killed.wrong, killed.counts["charged and held"]) == ([], 1)
    assert kinds(replace(asked, kills={4194305: answered + evidence.writing + 1})) == ["held without a cause"]
    polled = [replace(asked.posts[0], polled=answered + 0.05), *asked.posts[1:]]
    assert kinds(replace(asked, posts=polled, kills={4194305: answered + 0.1})) == ["held without a cause"]
    store = judge(replace(asked, store_failures=[(1, "create", "after", f"/s/journal/{entry.key}.json")]))
    assert (store.wrong, store.counts["held: store"]) == ([], 1)


def test_a_fault_that_leaves_a_submission_uncertain_is_to_blame(evidence: Evidence) -> None:
    intent(evidence)
    cut = [replace(post, rule=SubmitCut()) for post in evidence.posts]
    found = judge(replace(evidence, posts=cut, manifests={}))
    assert (found.wrong, found.counts["held: fault"]) == ([], 1)


def test_a_machine_that_had_no_time_is_to_blame_for_an_answer_that_did_not_go_out(evidence: Evidence) -> None:
    intent(evidence, owner="")
    sent = evidence.posts[0].sent
    cut = sent_by(7, evidence.posts[0], answered=None, over=sent + 0.1)
    asked = replace(evidence, posts=[cut, *evidence.posts[1:]], manifests={})
    assert kinds(asked) == ["held without a cause"], "its sender gave up too early"
    waited = replace(cut, over=sent + evidence.timeout)
    assert judge(replace(asked, posts=[waited, *evidence.posts[1:]])).counts["held: fault"] == 1
    asked = replace(asked, posts=[replace(cut, over=None), *evidence.posts[1:]])
    lags = [(sent + 0.1 * number, sent + 0.1 * number + 0.06) for number in range(10)]
    assert judge(replace(asked, lags=lags)).counts["held: fault"] == 1
    assert kinds(replace(asked, lags=lags[:5])) == ["held without a cause"]


def test_an_entry_that_stays_in_the_journal_when_all_is_done_is_told(evidence: Evidence) -> None:
    done = results(evidence)[0]
    Journal(Store(evidence.store)).put(Entry(key=done.stem, tool="deblur-v1", phase="submitted", id="x"))
    assert kinds(evidence) == ["stale"]
    elsewhere = "one-name:7 boot-1/pid:[1] 0123456789abcdef"
    Journal(Store(evidence.store)).put(Entry(key=done.stem, tool="deblur-v1", phase="intent", owner=elsewhere))
    assert kinds(evidence) == [], "nobody can know yet that its owner is dead"


def test_every_row_of_a_manifest_needs_what_it_says(evidence: Evidence) -> None:
    code, rows = evidence.manifests[1]

    def with_row(**changes: Any) -> Evidence:
        return replace(evidence, manifests={1: (1, [rows[0] | changes, *rows[1:]])})

    def failed(kind: str, outcome: str = "failed") -> Evidence:
        return with_row(outcome=outcome, error={"step": "deblur", "kind": kind, "message": "because"})

    assert code == 0
    for kind, outcome in (
        ("StillRunning", "failed"),
        ("DeliveryFailed", "failed"),
        ("JobFailed", "failed"),
        ("Moderated", "moderated"),
        ("InvalidRequest", "invalid"),
        ("SubmissionUncertain", "held"),
        ("KeyRefused", "held"),
        ("StoreUnavailable", "held"),
        ("KeyError", "failed"),
    ):
        assert kinds(failed(kind, outcome)) == ["outcome"], kind
    assert kinds(with_row(output_path="/nowhere")) == ["outcome"]
    assert kinds(replace(evidence, manifests={1: (1, rows[1:])})) == ["outcome"]
    assert kinds(replace(evidence, manifests={1: (70, rows)})) == ["exit code"]


def test_a_job_is_given_up_while_it_runs_only_by_a_process_that_was_stopped(evidence: Evidence) -> None:
    code, rows = evidence.manifests[1]
    error = {"step": "deblur", "kind": "StillRunning", "message": "no answer (TimeoutError) after 3 s"}
    given_up = [rows[0] | {"outcome": "failed", "error": error}, *rows[1:]]
    seen = replace(evidence, manifests={1: (1, given_up)}, pids={1: 4194305})
    assert code == 0
    assert kinds(seen) == ["outcome"]
    assert kinds(replace(seen, stops=[(4194305, 100.0, 109.0)])) == []
    assert kinds(replace(seen, stops=[(4194306, 100.0, 109.0)])) == ["outcome"]
    assert kinds(replace(seen, lags=[(100.0, 109.0)])) == []
    assert kinds(replace(seen, lags=[(100.0, 100.2)])) == ["outcome"]


def test_a_traceback_and_the_key_are_found_wherever_they_are_written(evidence: Evidence, tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text("Traceback (most recent call last):\n  …\nKeyError: 'x'\n")
    assert kinds(replace(evidence, logs=[log])) == ["output"]
    log.write_text(f"POST with x-key {SECRET}\n")
    assert kinds(replace(evidence, written=[log])) == ["key"]
