"""The table of what the seed documents say: complete, true about its tests, and written to ``docs/seeds.md``."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cases import Cases

from flux_tasks.catalog import SOURCES

ROOT = Path(__file__).parents[2]
MADE = runpy.run_path(str(ROOT / "docs" / "make" / "seeds.py"))
SEEDS: list[dict[str, Any]] = MADE["seeds"]()
STATEMENTS = {
    f"{seed['number']}.{number}": statement for seed in SEEDS for number, statement in enumerate(seed["statement"], 1)
}


def test_all_five_documents_are_in_the_table() -> None:
    assert [seed["number"] for seed in SEEDS] == [0, 1, 2, 3, 4]
    assert [seed["source"] for seed in SEEDS] == [f"SEED-{number}" for number in range(5)]
    assert {seed["source"] for seed in SEEDS} <= set(SOURCES)
    said = [(seed["number"], s["says"]) for seed in SEEDS for s in seed["statement"]]
    assert len(said) == len(set(said))


def test_a_statement_is_shown_by_a_test_or_says_why_it_is_not(cases: Cases) -> None:
    for name, statement in STATEMENTS.items():
        with cases.case(name):
            assert set(statement) <= {"says", "where", "tests", "reason"}
            assert statement["says"].endswith(".")
            assert statement["tests"] or statement.get("reason")
            assert statement["where"] or statement.get("reason")
            assert statement.get("reason", "-").strip()


def test_every_test_of_the_table_exists_and_is_collected(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    named = {test for seed in SEEDS for statement in seed["statement"] for test in statement["tests"]}
    # xdist writes the group of a test behind its name.
    named -= {re.split(r"[\[@]", item.nodeid)[0].removeprefix("tests/") for item in request.session.items}
    if not named:
        return
    files = sorted({f"tests/{test.partition('::')[0]}" for test in named})  # of a run of some of the tests only
    options = ["--collect-only", "-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'collected'}"]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", *options, *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=alone)
    assert done.returncode == 0, done.stdout[-2000:]
    found = {line.partition("[")[0].removeprefix("tests/") for line in done.stdout.splitlines() if "::" in line}
    assert named - found == set()


def test_the_page_is_fresh() -> None:
    assert (ROOT / "docs" / "seeds.md").read_text("utf-8") == MADE["page"](), "run: make docs"
