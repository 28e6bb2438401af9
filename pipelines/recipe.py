"""The recipe: where images come from, what is done to each, where results go.

YAML::

    name: restore
    source: {images: "photos/*.jpg", columns: {mask: "masks/{{ stem }}.png"}}
    steps:
      - deblur: {}
        when: sharpness < 120
      - erase: {mask: "{{ mask }}", dilate_pixels: 12}
        when: mask_exists
      - outpaint: {aspect_ratio: "16:9"}
    output: {path: "out/{{ stem }}.png"}

and the same in Python::

    Recipe(
        name="restore",
        source={"images": "photos/*.jpg", "columns": {"mask": "masks/{{ stem }}.png"}},
        steps=[
            deblur(when="sharpness < 120"),
            erase(mask="{{ mask }}", dilate_pixels=12, when="mask_exists"),
            outpaint(aspect_ratio="16:9"),
        ],
        output="out/{{ stem }}.png",
    )

A step is named by a task (``erase``), by a tool or one of its short names (``flux-kontext``), by a local operation
(``resize``), or it is a function of one's own (``call: package.module:function``) or another recipe (``recipe:
other.yaml``). Its picture is the one of the step before, or of the step that ``from`` names; every further picture may
be a path or ``{step: id}``. Paths are relative to the folder you are in. Everything that can be known without looking
at an image is checked when the recipe is read, and all problems are told at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import yaml

from flux_tasks import files
from flux_tasks.catalog import Tool
from flux_tasks.errors import Problem, RecipeError
from pipelines.language.graph import Graph
from pipelines.language.model import Budget, Output, Source, Step
from pipelines.language.python.draft import StepSpec, ids_of, name_of, plain_data
from pipelines.language.reading import reader
from pipelines.language.reading import yaml as documents
from pipelines.operations.user_function import UserFunction

if TYPE_CHECKING:
    from pipelines.plan.result import Plan

__all__ = ["Recipe"]

_Read: TypeAlias = dict[str, tuple[list[dict[str, Any]], str] | RecipeError]
"""Recipes that are used as steps, by location: their steps, or what is wrong with them."""


class Recipe:
    """A recipe; read it with ``load`` or ``parse``, or write it in Python.

    What is written in Python is checked when it is first used; ``check`` does so at once. A recipe with further steps
    is ``recipe | deblur() | outpaint(aspect_ratio="16:9")``; a recipe in the place of a step does what its steps do.

    Args:
        name: what people call it.
        source: a glob, several, or what ``source:`` has in YAML.
        steps: of ``pipelines.steps``, or mappings as in YAML, or recipes.
        output: a path template, or what ``output:`` has in YAML.
        vars, env, budget: as in YAML; a number of credits will do for ``budget``.
    """

    def __init__(
        self,
        name: str = "recipe",
        *,
        source: str | Sequence[str] | Mapping[str, Any],
        output: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
        steps: Sequence[StepSpec | Mapping[str, Any] | Recipe] = (),
        vars: Mapping[str, Any] | None = None,  # noqa: A002 - its name in YAML
        env: Sequence[str] = (),
        budget: float | Mapping[str, Any] | None = None,
    ) -> None:
        self._given: dict[str, Any] = {"name": name, "source": source, "steps": list(steps), "output": output}
        further = {"vars": dict(vars or {}), "env": list(env), "budget": budget}
        self._given |= {key: value for key, value in further.items() if value not in ({}, [], None)}
        self._text = ""
        self._file = ""
        self._changes: dict[str, Any] = {}
        self._document: documents.Document | None = None

    def __repr__(self) -> str:
        if "_parts" in self.__dict__:
            name, steps = self.name, [step.id for step in self.steps]
        else:
            name = self._given.get("name", self._file)
            steps = [
                s._given.get("name", s._file) if isinstance(s, Recipe) else name_of(s)
                for s in self._given.get("steps", ())
            ]
        return f"<Recipe {name!r}: {', '.join(map(str, steps)) or 'no steps'}>"

    def __or__(self, step: StepSpec | Mapping[str, Any] | Recipe) -> Recipe:
        """This recipe with ``step`` at its end."""
        data = self._given
        if self._document is not None:  # as it was written, so that an output without from is the new step's
            data = {name: value for name, value in self._document.data.items() if value is not None}
            data["vars"] = {**data.get("vars", {}), **self._changes}
        return Recipe(**{**data, "steps": [*data["steps"], step]})

    @classmethod
    def load(cls, location: str | Path, variables: Mapping[str, Any] | None = None) -> Recipe:
        """Read and check a YAML file on any location.

        Args:
            variables: values for its ``vars`` that replace those in the file.

        Raises:
            RecipeError: with every problem, its line and what to write instead.
        """
        return cls.parse(_text_of(str(location)), file=str(location), variables=variables)

    @classmethod
    def parse(cls, text: str, *, file: str = "", variables: Mapping[str, Any] | None = None) -> Recipe:
        """Check the text of a recipe; see ``load``."""
        return cls._parse(text, file, variables or {}, (), {})

    @classmethod
    def _parse(
        cls,
        text: str,
        file: str,
        variables: Mapping[str, Any],
        within: tuple[str, ...],
        known: _Read,
    ) -> Recipe:
        recipe = cls(source="", output="")
        recipe._text, recipe._file, recipe._changes = text, file, dict(variables)
        recipe._document = documents.load(text)
        recipe._given = {}
        recipe.__dict__["_parts"] = recipe._read(within, known)
        return recipe

    def _read(
        self,
        within: tuple[str, ...] = (),
        known: _Read | None = None,
    ) -> reader.Parts:
        included: dict[str, Recipe] = {}
        read: _Read = {} if known is None else known

        def include(location: str) -> tuple[list[dict[str, Any]], str]:
            if location in included:
                return included[location].as_steps()
            here = (*within, self._file)
            if location in here:
                raise RecipeError([Problem("", f"uses itself: {' → '.join((*filter(None, here), location))}")])
            if location not in read:  # a recipe that is used often is read once
                try:
                    read[location] = Recipe._parse(_text_of(location), location, {}, here, read).as_steps()
                except RecipeError as error:
                    read[location] = error
            found = read[location]
            if isinstance(found, RecipeError):
                raise found
            return found

        document = self._document
        if document is None:
            ids = ids_of(self._given["steps"])
            steps = [_written(step, included, ids) for step in self._given["steps"]]
            data = plain_data({**self._given, "steps": steps}, ids)
            for output in data["output"] if isinstance(data["output"], list) else [data["output"]]:
                if isinstance(output, dict) and isinstance(output.get("from"), dict):  # a step that was named itself
                    output["from"] = output["from"].get("step")
            document = documents.Document(data)
        parts, problems = reader.read(document, include, self._changes)
        if parts is None:
            raise RecipeError(problems, file=self._file)
        return parts

    @cached_property
    def _parts(self) -> reader.Parts:
        return self._read()

    def check(self) -> Recipe:
        """This recipe, checked.

        Raises:
            RecipeError: with every problem and what to write instead.
        """
        _ = self._parts
        return self

    # -- what it says ---------------------------------------------------------------------------------------------

    @property
    def parts(self) -> reader.Parts:
        """All of it, checked."""
        return self._parts

    @property
    def name(self) -> str:
        """What people call it."""
        return self._parts.name

    @property
    def source(self) -> Source:
        """Where its items come from."""
        return self._parts.source

    @property
    def steps(self) -> tuple[Step, ...]:
        """Its steps, as written."""
        return self._parts.steps

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Where results go."""
        return self._parts.outputs

    @property
    def budget(self) -> Budget | None:
        """The most that a run may spend."""
        return self._parts.budget

    @cached_property
    def graph(self) -> Graph:
        """Its steps as a graph, matrices spread out."""
        return Graph.of(self._parts.steps, self._parts.outputs)

    @property
    def text(self) -> str:
        """Its YAML: as it was written, or as ``to_yaml`` writes it."""
        return self._text or self.to_yaml()

    @property
    def file(self) -> str:
        """Where it was read, or an empty string."""
        return self._file

    @property
    def variables(self) -> Mapping[str, Any]:
        """Values of its ``vars`` that the caller has set."""
        return dict(self._changes)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what the recipe means: layout, comments, budget, and the order of steps that feed one another all
        the same do not matter."""
        data = self.to_data()
        data.pop("budget", None)
        data["steps"] = {step["id"]: step for step in data["steps"]}
        data["output"] = sorted(data["output"], key=lambda output: str(output["path"]))
        data["functions"] = {s.id: s.action.source for s in self.steps if isinstance(s.action, UserFunction)}
        return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()

    def to_data(self) -> dict[str, Any]:
        """The recipe as plain data, with everything spelt out: ids, where pictures come from, models."""
        parts = self._parts
        source = {name: value for name, value in asdict(parts.source).items() if value not in ("", (), {}, None, 0)}
        data: dict[str, Any] = {"name": parts.name}
        if parts.vars:
            data["vars"] = dict(parts.vars)
        if parts.env:
            data["env"] = list(parts.env)
        data["source"] = plain_data(source)
        data["steps"] = [_data_of(step) for step in parts.steps]
        data["output"] = [{"path": output.path, "from": output.step} for output in parts.outputs]
        if parts.budget is not None:
            data["budget"] = {"credits": parts.budget.credits}
        return data

    def to_yaml(self) -> str:
        """The recipe as YAML that ``parse`` reads back to the same digest."""
        return yaml.safe_dump(self.to_data(), sort_keys=False, allow_unicode=True, width=110)

    def as_steps(self) -> tuple[list[dict[str, Any]], str]:
        """Its steps as plain data for another recipe, and the id of the one whose result its output is.

        Raises:
            RecipeError: it has several outputs.
        """
        if len(self.outputs) != 1:
            what = f"has {len(self.outputs)} outputs: a recipe that is used as a step has one"
            raise RecipeError([Problem("output", what)], file=self._file)
        steps = [_data_of(step) for step in self._parts.steps]
        for step in steps:
            step["vars"] = {**self._parts.vars, **step.get("vars", {})}
        return steps, self.outputs[0].step

    # -- what can be done with it ---------------------------------------------------------------------------------

    def plan(self, **settings: Any) -> Plan:
        """What a run would do and cost; spends nothing and writes nothing. Settings as for ``flux_tasks.use``."""
        from pipelines.plan.planner import plan

        return plan(self, **settings)

    def run(self, **settings: Any) -> dict[str, Any]:
        """Run it; see ``pipelines.flows.run_recipe``."""
        from pipelines.flows.recipe_flow import run_recipe

        return run_recipe(self, **settings)

    async def arun(self, **settings: Any) -> dict[str, Any]:
        """Run it; see ``pipelines.flows.arun_recipe``."""
        from pipelines.flows.recipe_flow import arun_recipe

        return await arun_recipe(self, **settings)


def _text_of(location: str) -> str:
    try:
        return files.read(location, limit=10_000_000).decode()
    except FileNotFoundError:
        raise RecipeError([Problem("", "there is no such recipe file")], file=location) from None
    except UnicodeDecodeError:
        raise RecipeError([Problem("", "is not a recipe: it is not text")], file=location) from None
    except OSError as error:
        raise RecipeError([Problem("", f"cannot be read: {error}")], file=location) from None


def _written(
    step: StepSpec | Mapping[str, Any] | Recipe, included: dict[str, Recipe], ids: Mapping[StepSpec, str]
) -> Any:
    """A step of a recipe in Python as it would be in YAML; a recipe is named, and remembered under its name."""
    data = step.data(ids) if isinstance(step, StepSpec) else {"recipe": step} if isinstance(step, Recipe) else step
    if not isinstance(data, Mapping) or not isinstance(data.get("recipe"), Recipe):
        return data
    recipe = data["recipe"]
    name, number = recipe.name, 2
    while name in included:
        name, number = f"{recipe.name}_{number}", number + 1
    included[name] = recipe
    return {**data, "recipe": name}


def _data_of(step: Step) -> dict[str, Any]:
    """A step as plain data, with everything spelt out."""
    if isinstance(step.action, UserFunction):
        data: dict[str, Any] = {"call": step.action.reference, "with": dict(step.parameters)}
    elif isinstance(step.action, Tool) and "model" not in step.matrix and "model" not in step.parameters:
        data = {step.action.name: dict(step.parameters)}
    else:
        data = {step.task: dict(step.parameters)}
    data["id"] = step.id
    data["from"] = list(step.inputs)
    if step.when:
        data["when"] = step.when
    if step.matrix:
        data["matrix"] = {name: list(values) for name, values in step.matrix.items()}
    if step.vars:
        data["vars"] = dict(step.vars)
    if step.expect is not None:
        data["expect"] = step.expect.model_dump(exclude_none=True, mode="json")
        failure = step.on_failure
        if failure.retries:
            data["on_failure"] = {"retry_with": [dict(tried) for tried in failure.retries], "then": failure.then}
        else:
            data["on_failure"] = failure.then
    if step.preserve is not None:
        data["preserve"] = {"feather": step.preserve.feather}
    if step.save:
        data["save"] = step.save
    found: dict[str, Any] = plain_data(data)
    return found
