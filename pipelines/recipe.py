"""The recipe: where images come from, what is done to each, where results go.

::

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

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from pipelines.language.compiled import CompiledRecipe
from pipelines.language.names import numbered
from pipelines.language.python.step_spec import StepSpec, ids_of, name_of, plain_data
from pipelines.language.reading import loader

if TYPE_CHECKING:
    from pipelines.flows.recipe_run import RunResult
    from pipelines.language.document.output import Output
    from pipelines.language.document.recipe import Budget, Source
    from pipelines.language.graph import Graph
    from pipelines.language.model import Step
    from pipelines.plan.planner import PlanOptions
    from pipelines.plan.result import Plan
    from pipelines.shards.sharding import ShardedOptions

__all__ = ["Recipe"]


_NO_CODE = "code=False is given: leave it out to let the recipe call it"


class Recipe:
    """A recipe; read it with ``load`` or ``parse``, or write it in Python.

    What is written in Python is checked when it is first used; ``check`` does so at once. A recipe with further steps
    is ``recipe | deblur() | outpaint(aspect_ratio="16:9")``; a recipe in the place of a step does what its steps do.

    Args:
        name: what people call it.
        source: a glob, several, or what ``source:`` has in YAML.
        steps: of ``pipelines.steps``, or mappings as in YAML, or recipes.
        output: a path template, or what ``output:`` has in YAML.
        vars: constants for templates, as in YAML.
        env: names of environment variables that templates may read.
        budget: the most credits that a run may spend, or a mapping as in YAML.
        storage_options: accounts of buckets by URL prefix, as in YAML.
        transport: how pictures are sent: ``bytes``, ``auto`` or ``url``; the setting if left out.
        on_end: who is told when a run ends, as in YAML.
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
        storage_options: Mapping[str, Mapping[str, Any]] | None = None,
        transport: str = "",
        on_end: Mapping[str, Any] | Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._written: dict[str, Any] = {"name": name, "source": source, "steps": list(steps), "output": output}
        further: dict[str, Any] = {"vars": dict(vars or {}), "env": list(env), "budget": budget}
        further |= {"transport": transport, "on_end": on_end or None}
        further["storage_options"] = {prefix: dict(options) for prefix, options in (storage_options or {}).items()}
        self._written |= {key: value for key, value in further.items() if value not in ({}, [], None, "")}
        self._compiled: CompiledRecipe | None = None

    def __repr__(self) -> str:
        name = self._written.get("name", "recipe" if self._compiled is None else self._compiled.name)
        written = self._written["steps"] if self._compiled is None else self._compiled.steps
        steps = [s._written["name"] if isinstance(s, Recipe) else getattr(s, "id", "") or name_of(s) for s in written]
        return f"<Recipe {name!r}: {', '.join(map(str, steps)) or 'no steps'}>"

    def __or__(self, step: StepSpec | Mapping[str, Any] | Recipe) -> Recipe:
        """Return this recipe with ``step`` at its end."""
        return Recipe(**{**self._written, "steps": [*self._written["steps"], step]})

    @classmethod
    def load(cls, location: str | Path, variables: Mapping[str, Any] | None = None, *, code: bool = True) -> Recipe:
        """Read and check a YAML file on any location.

        Args:
            variables: values for its ``vars`` that replace those in the file.
            code: whether it may call functions: those marked with ``@operation``, and those in modules beside it.

        Raises:
            RecipeError: with every problem, its line and what to write instead.
        """
        return cls._of(loader.load(location, variables, no_code="" if code else _NO_CODE))

    @classmethod
    def parse(
        cls, text: str, *, file: str = "", variables: Mapping[str, Any] | None = None, code: bool = True
    ) -> Recipe:
        """Check the text of a recipe; see ``load``."""
        return cls._of(loader.parse(text, file=file, variables=variables, no_code="" if code else _NO_CODE))

    @classmethod
    def _of(cls, compiled: CompiledRecipe) -> Recipe:
        # As it was written: an output without ``from`` is that of a step that is added.
        written = {name: value for name, value in compiled.written.items() if value is not None}
        if compiled.variables:
            written["vars"] = {**written.get("vars", {}), **compiled.variables}
        recipe = cls(**written)
        recipe._compiled = compiled
        return recipe

    @property
    def compiled(self) -> CompiledRecipe:
        """The checked recipe.

        Raises:
            RecipeError: with every problem and what to write instead.
        """
        if self._compiled is None:
            included: dict[str, CompiledRecipe] = {}
            ids = ids_of(self._written["steps"])
            steps = [_named(step, included, ids) for step in self._written["steps"]]
            data = plain_data({**self._written, "steps": steps}, ids)
            for output in data["output"] if isinstance(data["output"], list) else [data["output"]]:
                if isinstance(output, dict) and isinstance(output.get("from"), dict):  # a step that was named itself
                    output["from"] = output["from"].get("step")
            self._compiled = loader.compile_data(data, included)
        return self._compiled

    def check(self) -> Recipe:
        """Return this recipe, checked.

        Raises:
            RecipeError: with every problem and what to write instead.
        """
        _ = self.compiled
        return self

    @property
    def name(self) -> str:
        """The recipe's name, for reports."""
        return self.compiled.name

    @property
    def source(self) -> Source:
        """Where its items come from."""
        return self.compiled.source

    @property
    def steps(self) -> tuple[Step, ...]:
        """Its steps, as written."""
        return self.compiled.steps

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Where results go."""
        return self.compiled.outputs

    @property
    def budget(self) -> Budget | None:
        """The most that a run may spend."""
        return self.compiled.budget

    @property
    def graph(self) -> Graph:
        """Its steps as a graph, matrices spread out."""
        return self.compiled.graph

    @property
    def digest(self) -> str:
        """SHA-256 of the recipe's meaning; see ``CompiledRecipe.digest``."""
        return self.compiled.digest

    @property
    def text(self) -> str:
        """Its YAML: as it was written, or as ``to_yaml`` writes it."""
        return self.compiled.text

    def to_data(self) -> dict[str, Any]:
        """Return the recipe as plain data, everything written out: ids, inputs, models."""
        return self.compiled.to_data()

    def to_yaml(self) -> str:
        """Return the recipe as YAML that ``parse`` reads back to the same digest."""
        return self.compiled.to_yaml()

    def plan(self, **settings: Unpack[PlanOptions]) -> Plan:
        """Return what a run would do and cost; it spends nothing and writes nothing.

        Settings as for ``flux_tasks.use``, and ``limit``, ``sample``, ``budget`` and ``verify``.
        """
        from pipelines.plan.planner import plan

        return plan(self.compiled, **settings)

    def run(self, *, raise_on: bool | str | Iterable[str] = False, **settings: Unpack[ShardedOptions]) -> RunResult:
        """Run it; see ``pipelines.flows.run_recipe``. With ``shards``, many processes work on it::

            recipe.run(shards=8, on="dask:tcp://10.0.0.5:8786", store="s3://bucket/store")

        ``shards``, ``on``, ``folder`` and ``shard`` are those of the command line; see ``pipelines.shards.sharding``.

        Raises:
            RecipeError: as for ``run_recipe``; or the shards cannot be had, or not with this recipe or these settings.
            ItemsFailed, RunStopped: as for ``run_recipe``.
        """
        from pipelines.flows.recipe_run import run_recipe
        from pipelines.shards.sharding import with_sharding

        return run_recipe(self, raise_on=raise_on, **with_sharding(settings))

    async def arun(
        self, *, raise_on: bool | str | Iterable[str] = False, **settings: Unpack[ShardedOptions]
    ) -> RunResult:
        """Run it; the async form of ``run``."""
        from pipelines.flows.recipe_run import arun_recipe
        from pipelines.shards.sharding import with_sharding

        return await arun_recipe(self, raise_on=raise_on, **with_sharding(settings))


def _named(
    step: StepSpec | Mapping[str, Any] | Recipe, included: dict[str, CompiledRecipe], ids: Mapping[StepSpec, str]
) -> Any:
    """Return a step as it would be in YAML; a recipe gets a name, and is put into ``included`` under it."""
    data = step.data(ids) if isinstance(step, StepSpec) else {"recipe": step} if isinstance(step, Recipe) else step
    if not isinstance(data, Mapping) or not isinstance(data.get("recipe"), Recipe):
        return data
    recipe = data["recipe"].compiled
    name = numbered(recipe.name, included)
    included[name] = recipe
    return {**data, "recipe": name}
