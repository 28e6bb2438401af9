"""From a document to the checked recipe, with every problem found on the way."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from typing import Any

from flux_tasks.errors import Problem, nearest
from pipelines.language import templates
from pipelines.language.compiled import CompiledRecipe
from pipelines.language.graph import ancestors
from pipelines.language.model import Budget, Output, Source, Step
from pipelines.language.names import ITEM_NAMES, RESERVED, SOURCE
from pipelines.language.reading import yaml
from pipelines.language.reading.includes import Include
from pipelines.language.reading.problems import ProblemCollector
from pipelines.language.reading.steps import StepReader

__all__ = ["read"]

KEYS = ("name", "vars", "env", "source", "steps", "output", "budget")
SOURCE_KEYS = ("images", "table", "image", "columns", "filter", "sample", "seed", "limit")

_SECRET = re.compile(r"key|token|secret|passw|credential", re.IGNORECASE)


def read(
    document: yaml.Document, include: Include, changes: Mapping[str, Any] | None = None
) -> tuple[CompiledRecipe | None, list[Problem]]:
    """Return the checked recipe, or None, and everything that is wrong with it in order of lines.

    Args:
        include: reads another recipe that is used as a step.
        changes: variables with values of the caller's.
    """
    findings = ProblemCollector(document)
    compiled = _Reader(findings, include, changes or {}).recipe(document.data) if document.data is not None else None
    problems = sorted(dict.fromkeys(findings.problems), key=lambda p: p.line or 0)
    return (None if problems else compiled), problems


class _Reader:
    def __init__(self, findings: ProblemCollector, include: Include, changes: Mapping[str, Any]) -> None:
        self._findings = findings
        self._say = findings.say
        self._include = include
        self._changes = changes

    def recipe(self, given: Any) -> CompiledRecipe | None:
        data = self._findings.mapping(given, (), KEYS)
        for required in ("source", "steps", "output"):
            if required not in data and isinstance(given, dict):
                self._say((), f"'{required}' is missing: a recipe has source, steps and output", "")
        name = data.get("name", "recipe")
        if not isinstance(name, str) or not name:
            self._say(("name",), f"{name!r} is not a name: write some text")
        variables = self._vars(data.get("vars"))
        env = self._env(data.get("env"))
        shared = {*variables, *(("env",) if env else ())}
        self._findings.constants = {
            **variables,
            **({"env": {name: os.environ.get(name, "") for name in env}} if env else {}),
        }
        source = self._source(data["source"], shared) if "source" in data else None
        names = {*ITEM_NAMES, *shared, *(source.columns if source else ())}
        if self._findings.has_table:
            names.add("row")
        reader = StepReader(self._findings, names, source, self._include)
        steps = reader.steps(data["steps"]) if "steps" in data else ()
        outputs = self._outputs(data["output"], names, steps, reader) if "output" in data else ()
        if steps and outputs:
            reader.unused([output.step for output in outputs])
            reader.idle()
        budget = self._budget(data.get("budget"))
        if source is None or not outputs or not steps:
            return None
        return CompiledRecipe(
            str(name),
            source,
            steps,
            outputs,
            variables,
            env,
            budget,
            tuple(self._findings.wanted),
            tuple(self._findings.own),
        )

    def _vars(self, data: Any) -> dict[str, Any]:
        if data is None:
            data = {}
        if not isinstance(data, dict):
            self._say(("vars",), f"{data!r} is not a mapping of names to values")
            data = {}
        found: dict[str, Any] = {}
        for name, value in data.items():
            path = ("vars", name)
            if name in RESERVED or not str(name).isidentifier():
                self._say(
                    path,
                    f"'{name}' cannot be a variable's name, because it is taken or not a plain word: choose another",
                )
            elif templates.is_template(value):
                self._say(path, "a variable has one value for all items: write this template as a column of the source")
            else:
                found[str(name)] = value
        for name, value in self._changes.items():
            if name not in found:
                hint = nearest(name, found) or f"; it has {', '.join(sorted(found)) or 'none'}"
                self._say(("vars",), f"there is no variable '{name}' to be set{hint}", f"--set {name}")
            else:
                found[name] = _read_as(value, found[name])
        return found

    def _env(self, data: Any) -> tuple[str, ...]:
        if data is None:
            return ()
        if not isinstance(data, list) or not all(isinstance(name, str) for name in data):
            self._say(("env",), f"{data!r} is not a list of names of environment variables")
            return ()
        for index, name in enumerate(data):
            if _SECRET.search(name):
                self._say(
                    ("env", index),
                    f"{name} sounds like a secret, which has no place in a prompt or a path: take it out",
                )
            elif name not in os.environ:
                self._say(("env", index), f"the environment has no {name}: set it, or take it out of the list")
        return tuple(data)

    # -- source ---------------------------------------------------------------------------------------------------

    def _source(self, data: Any, shared: set[str]) -> Source | None:
        if isinstance(data, (str, list)):
            data = {"images": data}
        found = self._findings.mapping(data, ("source",), SOURCE_KEYS)
        if not isinstance(data, dict):
            return None
        table = found.get("table", "")
        globs = self._globs(found, table)
        if "table" in found:
            table = self._findings.text(table, ("source", "table"), "the path of a .csv, .tsv, .jsonl or .parquet file")
            if table and table.rsplit(".", 1)[-1].lower() not in ("csv", "tsv", "jsonl", "ndjson", "parquet"):
                self._say(("source", "table"), f"'{table}' must end in .csv, .tsv, .jsonl, .ndjson or .parquet")
        self._findings.has_table = bool(table)
        own = {*ITEM_NAMES, *shared}
        if table:
            own.add("row")
        image = ""
        if "image" in found:
            image = self._findings.text(found["image"], ("source", "image"), "a template such as 'photos/{{ file }}'")
            if image and not table:
                self._say(("source", "image"), "belongs to a table: write images, a glob, or add table")
            elif image:
                self._findings.template(image, ("source", "image"), {*shared, "index", "row"})
        columns = self._columns(found.get("columns"), own)
        known = {*own, *columns}
        return Source(
            globs,
            str(table or ""),
            image,
            columns,
            self._findings.expression(found.get("filter"), ("source", "filter"), known),
            self._sample(found.get("sample")),
            self._whole(found, "seed", 0) or 0,
            self._whole(found, "limit", 1),
        )

    def _whole(self, found: Mapping[str, Any], name: str, least: int) -> int | None:
        value = found.get(name)
        return None if value is None else self._findings.whole(value, ("source", name), least=least)

    def _globs(self, found: Mapping[str, Any], table: Any) -> tuple[str, ...]:
        images = found.get("images")
        globs = (images,) if isinstance(images, str) else tuple(images) if isinstance(images, list) else ()
        is_fine = bool(globs) and all(isinstance(g, str) and g for g in globs)
        if "table" in found:
            if images is not None:
                self._say(
                    ("source", "images"), "excludes table: keep one, because items come from globs or from a table"
                )
            return ()
        if not is_fine:
            self._say(("source", "images"), "is missing: write a glob such as 'photos/*.jpg', or a table")
            return ()
        return globs

    def _columns(self, given: Any, own: set[str]) -> dict[str, str]:
        columns: dict[str, str] = {}
        if given is not None and not isinstance(given, dict):
            self._say(("source", "columns"), f"{given!r} is not a mapping of names to templates")
            return {}
        for name, template in (given or {}).items():
            path = ("source", "columns", name)
            if name in RESERVED or name in self._findings.constants or not str(name).isidentifier():
                self._say(
                    path, f"'{name}' cannot be a column's name, because it is taken or not a plain word: choose another"
                )
            elif not isinstance(template, str):
                self._say(path, f"{template!r} is not text: write a template in quotes")
            else:
                self._findings.template(template, path, {*own, *columns})
                columns[str(name)] = template
        return columns

    def _sample(self, value: Any) -> int | float | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
            self._say(("source", "sample"), f"{value!r} is neither a share such as 0.1 nor a number of items")
            return None
        if isinstance(value, float) and value >= 1:
            self._say(("source", "sample"), f"{value!r} is neither a share below 1 nor a whole number of items")
            return None
        return value

    # -- outputs and budget ---------------------------------------------------------------------------------------

    def _outputs(self, data: Any, names: set[str], steps: tuple[Step, ...], reader: StepReader) -> tuple[Output, ...]:
        listed = data if isinstance(data, list) else [data]
        if not listed:
            self._say(("output",), "is empty: write {path: 'out/{{ stem }}.png'}")
        found: list[Output] = []
        for index, given in enumerate(listed):
            path = ("output", index) if isinstance(data, list) else ("output",)
            output = self._output({"path": given} if isinstance(given, str) else given, path, names, steps, reader)
            if output is not None:
                if any(o.path == output.path for o in found):
                    self._say((*path, "path"), f"'{output.path}' is the path of another output, too: choose another")
                elif any(step.save == output.path for step in steps):
                    self._say((*path, "path"), f"'{output.path}' is where a step is saved, too: choose another path")
                found.append(output)
        return tuple(found)

    def _output(
        self, data: Any, path: tuple[str | int, ...], names: set[str], steps: tuple[Step, ...], reader: StepReader
    ) -> Output | None:
        found = self._findings.mapping(data, path, ("path", "from"))
        template = found.get("path")
        if not isinstance(template, str) or not template:
            if isinstance(data, dict):
                self._say((*path, "path"), "is missing: write a template such as 'out/{{ stem }}.png'")
            return None
        by_id = {step.id: step for step in steps}
        if "from" in found:
            step = reader.known_id(found["from"], (*path, "from"), {*by_id, SOURCE})
        else:
            step = steps[-1].id if steps else SOURCE
        axes = [name for s in {step, *ancestors(step, by_id)} if s in by_id for name in by_id[s].matrix]
        self._findings.template(template, (*path, "path"), {*names, *axes, "variant"})
        reader.checks.path(template, (*path, "path"))
        reader.checks.covers(template, axes, (*path, "path"))
        return Output(template, step)

    def _budget(self, data: Any) -> Budget | None:
        if data is None:
            return None
        if isinstance(data, (int, float)) and not isinstance(data, bool):
            data = {"credits": data}
        if not isinstance(data, dict):
            self._say(("budget",), f"{data!r} is not a number of credits (1 credit is 0.01 USD): write, for one, 200")
            return None
        given = self._findings.mapping(data, ("budget",), ("credits",))
        if "credits" not in given and given:
            return None  # told as unknown
        credits = given.get("credits")
        if isinstance(credits, bool) or not isinstance(credits, (int, float)) or not 0 <= credits < math.inf:
            what = f"{credits!r} is not a number of credits (1 credit is 0.01 USD): write 0 or more"
            self._say(("budget", "credits"), what)
            return None
        return Budget(float(credits))


def _read_as(value: Any, default: Any) -> Any:
    """A text that is to replace something that is no text, as YAML would read it: ``--set take=3`` sets a number."""
    if not isinstance(value, str) or isinstance(default, str):
        return value
    return yaml.load(value).data if value.strip() and not yaml.load(value).problems else value
