"""What a recipe is made of, once it has been read: source, steps, outputs, budget. Nothing is checked here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.language.actions import Action, HasAction
from pipelines.language.expect import Expect
from pipelines.language.options import OnFailure, Preserve

__all__ = ["Budget", "Output", "Source", "Step"]


@dataclass(frozen=True)
class Source:
    """Where items come from: globs of pictures, or a table with one item a row.

    Attributes:
        images: globs, each a path or any fsspec URL.
        table: CSV, TSV, JSONL or Parquet on any location; a glob of several is allowed.
        image: with a table: template of the picture's location; empty if rows have no picture.
        columns: templates, filled in for each item, in order.
        filter: expression; items for which it is false are left out.
        sample: so many items (a whole number), or that share of them (below 1).
        seed: of the sample.
        limit: so many items at most, after ``filter`` and ``sample``.
    """

    images: tuple[str, ...] = ()
    table: str = ""
    image: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    filter: str = ""
    sample: int | float | None = None
    seed: int = 0
    limit: int | None = None

    @property
    def has_pictures(self) -> bool:
        """Whether its items come with a picture."""
        return bool(self.images or self.image)


@dataclass(frozen=True)
class Step(HasAction):
    """One node of a recipe, as written.

    Attributes:
        id: unique in the recipe.
        task: what it is called by: a task (``erase``), an operation (``resize``), or ``call``.
        action: what does it; with a ``model`` in the matrix the first of them.
        parameters: as written; templates not filled in, pictures of other steps as ``{"step": id}``.
        inputs: ids of the steps whose pictures it gets, its main picture first; ``source`` for the item's own.
        when: condition, or an empty string.
        matrix: values by name; the step runs for every combination.
        vars: names that only its templates know.
        expect: what its result has to be.
        save: path template for its result, or an empty string.
        position: its place in the file, for messages.
    """

    id: str
    task: str
    action: Action
    parameters: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    when: str = ""
    matrix: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    vars: Mapping[str, Any] = field(default_factory=dict)
    expect: Expect | None = None
    on_failure: OnFailure = field(default_factory=OnFailure)
    preserve: Preserve | None = None
    save: str = ""
    position: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Output:
    """Where results go: a template of a path or fsspec URL. Its extension decides the file type."""

    path: str
    step: str = ""

    @property
    def root(self) -> str:
        """The folder that no item's path may leave: everything before the first template."""
        fixed = self.path.split("{{", 1)[0].split("{%", 1)[0]
        return fixed.rsplit("/", 1)[0] if "/" in fixed else "."


@dataclass(frozen=True)
class Budget:
    """The most that a run may spend, in credits (1 credit = 0.01 USD)."""

    credits: float
