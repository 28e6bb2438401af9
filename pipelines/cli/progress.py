"""What a person sees during a run: a bar for each step, the cost so far, the time that is left."""

import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from flux_tasks.units import credits, escape_controls, price
from pipelines.cli.terminal import open_terminal, print_line
from pipelines.data.manifest import FINE, StepOutcome
from pipelines.language.compiled import CompiledRecipe
from pipelines.run.context import Event, EventKind

INTERVAL = 30.0
"""Seconds between two lines where there is no terminal."""


class Display:
    """Progress bars on standard error when it is a terminal; otherwise a line every ``INTERVAL`` seconds.

    Args:
        is_preview: asked once the run has begun: whether its jobs are previews, which cost nothing.
    """

    def __init__(self, recipe: CompiledRecipe, is_preview: Callable[[], bool] = lambda: False) -> None:
        self._recipe, self._is_preview = recipe, is_preview
        self._console = open_terminal(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._bars: dict[str, TaskID] = {}
        self._items: TaskID | None = None
        self._paid: dict[str, float] = {}
        self._active: dict[str, int] = {}
        self._total = 0
        self._ended: Counter[str] = Counter()
        self._over = threading.Event()
        self._lines = threading.Thread(target=self._print_lines, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._progress.start()
        if not self._console.is_terminal:
            self._lines.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._over.set()
        if self._lines.is_alive():
            self._lines.join()

    def _print_lines(self) -> None:
        while not self._over.wait(INTERVAL):
            ended = self._ended.copy()
            bad = sum(n for outcome, n in ended.items() if outcome not in FINE)
            active = sum(self._active.copy().values())
            if not self._total:
                self.note(f"{self._recipe.name}: looking at the items before anything is paid")
                continue
            self.note(
                f"{self._recipe.name}: {ended.total()} of {self._total} items, {bad} not fine; "
                f"active jobs: {active}, {self._cost()}"
            )

    def _cost(self) -> str:
        if self._is_preview():
            return "a preview: nothing is paid"
        return f"{price(sum(self._paid.copy().values()))} so far"

    def _note(self, paid: float) -> str:
        return "" if not paid else "preview" if self._is_preview() else f"{credits(paid)} credits"

    def begin(self, items: int) -> None:
        """Draw the bars for a run over ``items``."""
        self._total = items
        for step in self._recipe.steps:
            self._bars[step.id] = self._progress.add_task(f"  {escape_controls(step.id)}", total=items, note="")
        self._items = self._progress.add_task(escape_controls(self._recipe.name), total=items, note="")

    def note(self, text: str) -> None:
        """Print one line on standard error, above the bars."""
        if self._console.is_terminal:
            self._console.print(Text(escape_controls(text), style="dim"))
        else:
            print_line(text, file=sys.stderr)

    def show(self, event: Event) -> None:
        """Bring the bars up to date."""
        if event.kind is EventKind.WARNING:
            self.note(event.text)
            return
        if event.kind is EventKind.ITEM and self._items is not None:
            self._ended[event.outcome] += 1
            self._progress.update(self._items, advance=1, note=self._note(sum(self._paid.values())))
            return
        bar = self._bars.get(event.step)
        if bar is None:
            return
        active = self._active.get(event.step, 0) + {EventKind.ACTIVE: 1, EventKind.END: -1}.get(event.kind, 0)
        self._active[event.step] = active
        if event.kind is EventKind.STEP and event.outcome == StepOutcome.DONE:
            self._paid[event.step] = self._paid.get(event.step, 0.0) + event.cost
        paid = self._note(self._paid.get(event.step, 0.0))
        note = ", ".join(filter(None, (paid, f"{active} active" if active else "")))
        self._progress.update(bar, advance=1 if event.kind is EventKind.STEP else 0, note=note)
