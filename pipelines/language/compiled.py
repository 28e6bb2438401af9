"""The checked recipe: what plan, run, report and drawings work with."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import yaml

from flux_tasks.errors import Problem, RecipeError
from flux_tasks.settings import StorageOptions
from pipelines.language.document.fields import Transport, as_data
from pipelines.language.document.on_end import OnEnd
from pipelines.language.document.output import Output
from pipelines.language.document.recipe import Budget, Source
from pipelines.language.graph import Graph
from pipelines.language.model import Step
from pipelines.operations.user_function import UserFunction

Path = tuple[str | int, ...]

_NOT_IN_DIGEST = ("budget", "storage_options", "transport", "on_end")
"""What a recipe says besides what it does."""


@dataclass(frozen=True)
class ColumnReference:
    """A template's mention of a name that may be a column of the source's table."""

    name: str
    text: str
    where: str
    line: int | None


@dataclass(frozen=True)
class CompiledRecipe:
    """A recipe that has been read and checked.

    Attributes:
        vars: its variables, with the caller's values.
        env: names of the environment variables that its templates may read.
        wanted: mentions of names that only the source's table can have; checked when the table is opened.
        own: mentions of an item's own name, stem and path, where a column of the table may be meant.
        file, yaml: where it was read, and its text; empty for a recipe in Python.
        written: the document as it was written.
        lines: the line of each value in its file, by its path in the document.
        variables: the values of ``vars`` that the caller has set.
        transport: how pictures are sent; None for the setting.
        storage_options: accounts of buckets by URL prefix, as written; see ``pipelines.language.places``.
        on_end: who is told when a run ends.
        no_code: why it may call no function of Python; empty if it may.
    """

    name: str
    source: Source
    steps: tuple[Step, ...]
    outputs: tuple[Output, ...]
    vars: Mapping[str, Any] = field(default_factory=dict)
    env: tuple[str, ...] = ()
    budget: Budget | None = None
    wanted: tuple[ColumnReference, ...] = ()
    own: tuple[ColumnReference, ...] = ()
    file: str = ""
    written: Mapping[str, Any] = field(default_factory=dict)
    lines: Mapping[Path, int] = field(default_factory=dict, repr=False, compare=False)
    yaml: str = ""
    variables: Mapping[str, Any] = field(default_factory=dict)
    storage_options: StorageOptions = field(default_factory=dict)
    transport: Transport | None = None
    on_end: tuple[OnEnd, ...] = ()
    no_code: str = field(default="", compare=False)

    def placed(self, problems: Iterable[Problem]) -> list[Problem]:
        """Return problems with the lines of what they are about."""
        return [problem if problem.line else replace(problem, line=self._line(problem.where)) for problem in problems]

    def _line(self, where: str) -> int | None:
        parts = where.split(".")
        paths = (tuple(int(p) if p.isdigit() else p for p in parts[:length]) for length in range(len(parts), 0, -1))
        return next((self.lines[path] for path in paths if path in self.lines), None)

    @property
    def constants(self) -> dict[str, Any]:
        """What templates know besides the item: variables, and the listed part of the environment."""
        return {**self.vars, **({"env": {name: os.environ.get(name, "") for name in self.env}} if self.env else {})}

    @property
    def functions(self) -> dict[str, UserFunction]:
        """The user's functions that it calls, by ``package.module:function``."""
        actions = (step.action for step in self.steps)
        return {action.reference: action for action in actions if isinstance(action, UserFunction)}

    @cached_property
    def graph(self) -> Graph:
        """Its steps as a graph, with a node for each combination of a matrix."""
        return Graph.of(self.steps, self.outputs)

    @property
    def text(self) -> str:
        """Its YAML: as it was written, or as ``to_yaml`` writes it."""
        return self.yaml or self.to_yaml()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what the recipe does.

        Layout, comments, budget, storage options, transport and who is told at the end do not change it, nor does the
        order of steps with the same inputs.
        """
        data = {name: value for name, value in self.to_data().items() if name not in _NOT_IN_DIGEST}
        steps = ({name: value for name, value in step.items() if name != "transport"} for step in data["steps"])
        data["steps"] = {step["id"]: step for step in steps}
        data["output"] = sorted(data["output"], key=lambda output: str(output.get("path") or output["dataset"]))
        data["functions"] = {s.id: s.action.source for s in self.steps if isinstance(s.action, UserFunction)}
        return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()

    def to_data(self) -> dict[str, Any]:
        """Return the recipe as plain data, everything written out: ids, inputs, models."""
        names: tuple[str, ...] = ("name", "vars", "env", "source", "steps", "outputs", "budget", "transport")
        names = (*names, "storage_options", "on_end")
        found = {name.replace("outputs", "output"): getattr(self, name) for name in names}
        return {name: as_data(value) for name, value in found.items() if value not in ({}, (), None)}

    def to_yaml(self) -> str:
        """Return the recipe as YAML that is read back to the same digest."""
        return yaml.safe_dump(self.to_data(), sort_keys=False, allow_unicode=True, width=110)

    def as_steps(self) -> tuple[list[dict[str, Any]], str]:
        """Return its steps as plain data for another recipe, and the id of the step whose result is its output."""
        if len(self.outputs) != 1:
            what = f"has {len(self.outputs)} outputs: a recipe that is used as a step has one"
            raise RecipeError([Problem("output", what)], file=self.file)
        steps = [step.to_data() for step in self.steps]
        for step in steps:
            step["vars"] = {**self.vars, **step.get("vars", {})}
        return steps, self.outputs[0].step


class HasCompiled(Protocol):
    """A value that a recipe can be compiled from, such as the public ``Recipe``."""

    @property
    def compiled(self) -> CompiledRecipe:
        """The checked recipe."""
