"""The bars that a person sees during a run."""

from __future__ import annotations

import threading
from queue import SimpleQueue

import pytest
from waiting import PATIENCE

from pipelines.cli import progress
from pipelines.cli.progress import Display
from pipelines.data.manifest import StepOutcome
from pipelines.recipe import Recipe
from pipelines.run.context import Event, EventKind

RECIPE = Recipe.parse(
    '{name: "[red]mine", source: {images: "*.jpg"}, steps: [deblur: {}], output: {path: "{{ stem }}.png"}}'
)


def test_what_a_service_writes_cannot_steer_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with Display(RECIPE.compiled) as display:
        display.begin(2)
        display.show(Event(EventKind.WARNING, "", text="slow \x1b[2J[bold]down"))
    printed = capsys.readouterr().err
    assert r"slow \x1b[2J[bold]down" in printed
    assert "[red]mine" in printed


def test_no_bar_is_drawn_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(RECIPE.compiled) as display:
        display.begin(2)
        display.note("starting …")
    assert capsys.readouterr() == ("", "starting …\n")


def test_where_nobody_watches_a_line_says_now_and_then_how_far_the_run_is(monkeypatch: pytest.MonkeyPatch) -> None:
    said = SimpleQueue[str]()
    monkeypatch.setattr(progress, "INTERVAL", 0.01)
    monkeypatch.setattr(Display, "note", lambda _, text: said.put(text))
    with Display(RECIPE.compiled) as display:
        display.begin(3)
        display.show(Event(EventKind.STEP, "a", "deblur", StepOutcome.DONE, cost=4.5))
        display.show(Event(EventKind.ITEM, "a", outcome="done"))
        display.show(Event(EventKind.ITEM, "b", outcome="invalid"))
        display.show(Event(EventKind.ACTIVE, "c", "deblur"))
        line = "[red]mine: 2 of 3 items, 1 not fine; active jobs: 1, 4.50 credits ($0.05) so far"
        while said.get(timeout=PATIENCE) != line:
            pass


def test_credits_of_previews_are_shown_neither_in_lines_nor_at_bars(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = SimpleQueue[str]()
    monkeypatch.setattr(progress, "INTERVAL", 0.01)
    note = Display.note
    monkeypatch.setattr(Display, "note", lambda _, text: said.put(text))
    step = Event(EventKind.STEP, "a", "deblur", StepOutcome.DONE, cost=4.5)
    with Display(RECIPE.compiled, lambda: True) as display:
        display.begin(3)
        display.show(step)
        while said.get(timeout=PATIENCE) != (
            "[red]mine: 0 of 3 items, 0 not fine; active jobs: 0, a preview: nothing is paid"
        ):
            pass
    monkeypatch.setattr(Display, "note", note)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    for is_preview, shown in ((True, "preview"), (False, "4.5 credits")):
        with Display(RECIPE.compiled, lambda is_preview=is_preview: is_preview) as display:
            display.begin(3)
            display.show(step)
        printed = capsys.readouterr().err
        assert shown in printed
        assert ("credits" in printed) is not is_preview


def test_the_line_stops_with_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.01)
    with pytest.raises(RuntimeError), Display(RECIPE.compiled):
        raise RuntimeError
    assert "progress" not in {thread.name for thread in threading.enumerate()}
