"""The bars that a person sees during a run."""

from __future__ import annotations

import pytest

from pipelines.cli.progress import Display
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
