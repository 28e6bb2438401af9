"""The manifest: what is written is read again, also what earlier versions have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flux_tasks import errors
from pipelines.data.manifest import (
    Manifest,
    StepOutcome,
    errors_of,
    outcome_of,
    paid_steps,
    read_manifest,
)
from pipelines.run.summary import Summary

EARLIER = Path(__file__).parents[2] / "data" / "manifest_of_68a6cf4.jsonl"
"""Three pictures and a file that is none: jobs paid for, one collected, an empty mask, local steps new and stored."""


def test_a_row_is_read_as_it_was_written(tmp_path: Path) -> None:
    [*rows] = read_manifest(str(EARLIER))
    with Manifest(str(tmp_path / "m.jsonl")) as manifest:
        for row in rows:
            manifest.add(row)
    assert list(read_manifest(str(tmp_path / "m.jsonl"))) == rows


def test_a_row_of_an_earlier_version_is_read_in_the_words_of_today() -> None:
    rows = {row["item"]: row for row in read_manifest(str(EARLIER))}
    outcomes = {name: [(step["id"], step["outcome"], step["is_paid"]) for step in rows[name]["steps"]] for name in rows}
    oriented, small = ("auto_orient", "unchanged", False), ("small", "done", False)
    assert outcomes == {
        "p0": [oriented, ("small", "cached", False), ("deblur", "collected", True), ("erase", "done", True)],
        "p1": [oriented, small, ("deblur", "done", True), ("erase", "unchanged", True)],
        "p2": [oriented, small, ("deblur", "done", True), ("erase", "skipped", True)],
        "p9": [],
    }
    assert {name: row["outcome"] for name, row in rows.items()} == {
        "p0": "done",
        "p1": "done",
        "p2": "done",
        "p9": "invalid",
    }


def test_rows_are_read_in_the_order_of_the_items_whatever_their_texts_are(tmp_path: Path) -> None:
    names = ["a", '"index": 0', "b\\", '\\"index": 1', "caf\udce9", '{"index": 2}', "日本"]
    rows: list[Any] = [{"item": name, "index": n, "steps": [{"index": 0}], "cost": 1.5} for n, name in enumerate(names)]
    with Manifest(str(tmp_path / "m.jsonl")) as manifest:
        for row in [rows[5], *rows[:2], rows[6], *rows[4:1:-1]]:
            manifest.add(row)
        manifest.add_line("no row")
    read = [(row["item"], row["index"]) for row in read_manifest(str(tmp_path / "m.jsonl"), in_order=True)]
    assert read == [(name, n) for n, name in enumerate(names)]


def test_an_earlier_run_is_summed_up_as_it_was_then() -> None:
    summary = Summary("earlier", "", "", "", "")
    for row in read_manifest(str(EARLIER)):
        summary.add(row)
    assert (dict(summary.counts), summary.jobs, summary.collected, summary.cached) == (
        {"done": 3, "invalid": 1},
        3,
        1,
        0,
    )
    assert summary.cost == pytest.approx(7.4)
    assert {name: total.jobs for name, total in summary.tools.items()} == {"deblur-v1": 2, "erase-v1": 1}


def test_lines_that_are_no_rows_are_left_as_they_are_and_one_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    lines: list[Any] = [1, None, [], {}, {"steps": 3}, {"steps": [1, {"outcome": []}, {"outcome": "kept"}]}]
    text = "\n".join(json.dumps(line) for line in lines)
    (tmp_path / "m.jsonl").write_text(f'{text}\n{{"item": "cut')
    read: list[Any] = list(read_manifest(str(tmp_path / "m.jsonl")))
    assert read[:5] == lines[:5]
    assert read[5] == {"steps": [1, {"outcome": [], "is_paid": False}, {"outcome": "cached", "is_paid": False}]}
    assert len(read) == len(lines)


def test_errors_and_paid_steps_are_found_in_a_row() -> None:
    rows = {row["item"]: row for row in read_manifest(str(EARLIER))}
    assert [error["kind"] for error in errors_of(rows["p9"])] == ["InvalidImage"]
    assert errors_of(rows["p0"]) == []
    assert [step["id"] for step in paid_steps(rows["p0"], StepOutcome.DONE)] == ["erase"]
    assert paid_steps(rows["p1"], StepOutcome.UNCHANGED)[0]["id"] == "erase"


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        (errors.BudgetReached, "held"),
        (errors.StoreUnavailable, "held"),
        (errors.SubmissionUncertain, "held"),
        (errors.Moderated, "moderated"),
        (errors.InvalidImage, "invalid"),
        (errors.InvalidRequest, "invalid"),
        (errors.CheckFailed, "failed"),
        (errors.DeliveryFailed, "failed"),
        (OSError, "failed"),
    ],
)
def test_an_error_decides_the_outcome_by_its_class_or_by_the_name_of_it(kind: type[Exception], outcome: str) -> None:
    assert outcome_of(kind) == outcome_of(kind.__name__) == outcome
    assert outcome_of("Problem") == outcome_of("no such class") == "failed"
