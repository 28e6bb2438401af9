"""Sizes, money, durations and tables as text."""

from __future__ import annotations

import pytest

from flux_tasks import units


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (39.2, "40 s"), (91, "2 min"), (7_100, "119 min"), (12_600, "3.5 h"), (345_600, "4.0 d")],
)
def test_a_duration_is_given_in_the_unit_that_people_use(seconds: float, text: str) -> None:
    assert units.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.004, "under 0.01 s"), (0.05, "0.05 s"), (1.24, "1.2 s"), (65, "1 min 05 s"), (7_800, "2 h 10 min")],
)
def test_a_measured_duration_is_given_as_exactly_as_people_read_it(seconds: float, text: str) -> None:
    assert units.measured_duration(seconds) == text


def test_a_price_is_given_in_credits_and_dollars() -> None:
    assert units.price(1_250) == "1,250.00 credits ($12.50)"
    assert units.price(0.5) == "0.50 credits ($0.01)"


def test_the_columns_of_a_table_are_aligned_whatever_the_cells_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "10")
    monkeypatch.setenv("FORCE_COLOR", "1")
    rows = [("step", "does", "credits"), ("[b]x", "日本語", "1.00"), ("a\x1b[2J", "w" * 300, "12.00")]
    head, first, second = units.table_text(rows, right=(2,)).splitlines()
    assert first.split() == ["[b]x", "日本語", "1.00"], "brackets are text, not a style"
    assert second.split() == [r"a\x1b[2J", "w" * 300, "12.00"], "nothing is cut and nothing steers the terminal"
    assert head.endswith("credits")
    assert len(head) == len(second) == len(first) + 3, "a wide sign takes two columns"


def test_only_the_widest_column_of_a_table_is_folded_and_only_where_a_width_is_given() -> None:
    rows = [("name", "says"), ("dilate_pixels", "word " * 20)]
    folded = units.table_text(rows, width=40).splitlines()
    assert max(map(len, folded)) <= 40
    assert sum(line.count("word") for line in folded) == 20
    assert folded[1].startswith("dilate_pixels  word")
    assert units.table_text(rows, width=30) == units.table_text(rows), "too narrow to fold"
    assert units.table_text([]) == ""
