"""The recipe: where images come from, what is done to each, where results go.

YAML::

    name: restore
    source: {images: "photos/*.jpg", columns: {mask: "masks/{{ stem }}.png"}}
    steps:
      - deblur: {}
      - erase: {mask: "{{ mask }}", dilate_pixels: 12}
        when: mask_exists
      - outpaint: {aspect_ratio: "16:9"}
    output: {path: "out/{{ stem }}.png"}

A step is named by a task (``erase``), by a tool or one of its short names (``flux-kontext``), with its parameters. Its
picture is the one of the step before. Paths are relative to the folder you are in. Everything that can be known
without looking at an image is checked when the recipe is loaded, and all problems are told at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from flux_tasks import catalog, files
from flux_tasks.catalog import Tool
from flux_tasks.errors import InvalidRequest, Problem, RecipeError, nearest
from flux_tasks.masks import Mask
from flux_tasks.preflight import mask_problems
from pipelines import documents, templates

__all__ = ["IMAGE_FACTS", "ITEM_NAMES", "Output", "Recipe", "Source", "Step"]

ITEM_NAMES = ("stem", "name", "path", "index")
"""What every item has: file name without and with extension, location, and its number from 0."""

IMAGE_FACTS = ("width", "height", "aspect", "megapixels")
"""What a ``when`` knows of the picture that the step would get. Pixels; width over height; MP of 1,048,576 px."""

_CALL_OPTIONS = ("fit", "variant")
_STEP_KEYS = ("id", "when")


@dataclass(frozen=True)
class Source:
    """Where items come from.

    Attributes:
        images: globs, each a path or any fsspec URL.
        columns: templates, filled in for each item.
        limit: so many items at most.
    """

    images: tuple[str, ...]
    columns: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None


@dataclass(frozen=True)
class Step:
    """One call of a tool.

    Attributes:
        id: unique in the recipe.
        task: the Python task that does it.
        tool: the endpoint behind it.
        parameters: as written; templates not yet filled in.
        when: condition, or an empty string.
    """

    id: str
    task: str
    tool: Tool
    parameters: Mapping[str, Any] = field(default_factory=dict)
    when: str = ""

    def arguments(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters with templates filled in; an empty text for an optional parameter means not given.

        Raises:
            InvalidRequest: a template cannot be filled in.
        """
        filled = templates.render(dict(self.parameters), context, self.id)
        return {name: value for name, value in filled.items() if value is not None and value != ""}


@dataclass(frozen=True)
class Output:
    """Where results go: a template of a path or fsspec URL. Its extension decides the file type."""

    path: str

    @property
    def root(self) -> str:
        """The folder that no item's path may leave: everything before the first template."""
        fixed = self.path.split("{{", 1)[0].split("{%", 1)[0]
        return fixed.rsplit("/", 1)[0] if "/" in fixed else "."


@dataclass(frozen=True)
class Recipe:
    """A checked recipe. ``text`` is the YAML it came from, for the report."""

    name: str
    source: Source
    steps: tuple[Step, ...]
    output: Output
    text: str = field(default="", compare=False)

    @classmethod
    def load(cls, location: str) -> Recipe:
        """Read and check a YAML file on any location.

        Raises:
            RecipeError: with every problem, its line and what to write instead.
        """
        try:
            text = files.read(location, limit=10_000_000).decode()
        except FileNotFoundError:
            raise RecipeError([Problem("", "there is no such recipe file")], file=location) from None
        except UnicodeDecodeError:
            raise RecipeError([Problem("", "is not a recipe: it is not text")], file=location) from None
        except OSError as error:
            raise RecipeError([Problem("", f"cannot be read: {error}")], file=location) from None
        return cls.parse(text, file=location)

    @classmethod
    def parse(cls, text: str, *, file: str = "") -> Recipe:
        """Check the text of a recipe; see ``load``."""
        document = documents.load(text)
        reader = _Reader(document)
        recipe = reader.recipe(text) if document.data is not None else None
        problems = sorted((*document.problems, *reader.problems), key=lambda p: p.line or 0)
        if problems or recipe is None:
            raise RecipeError(problems, file=file)
        return recipe

    @property
    def digest(self) -> str:
        """SHA-256 of what the recipe means; layout and comments do not matter."""
        meaning = {
            "name": self.name,
            "source": {"images": self.source.images, "columns": self.source.columns, "limit": self.source.limit},
            "steps": [
                {"id": s.id, "tool": s.tool.name, "parameters": s.parameters, "when": s.when} for s in self.steps
            ],
            "output": {"path": self.output.path},
        }
        return hashlib.sha256(json.dumps(meaning, sort_keys=True, default=str).encode()).hexdigest()


class _Reader:
    """Turns a document into a recipe and gathers every problem on the way."""

    def __init__(self, document: documents.Document) -> None:
        self._document = document
        self.problems: list[Problem] = []

    def _say(self, path: tuple[str | int, ...], what: str, shown: str | None = None) -> None:
        where = ".".join(map(str, path)) if shown is None else shown
        self.problems.append(Problem(where, what, self._document.line(path)))

    def _mapping(self, data: Any, path: tuple[str | int, ...], known: Iterable[str]) -> dict[str, Any]:
        known = tuple(known)
        if not isinstance(data, dict):
            self._say(path, f"{data!r} is not a mapping: write {', '.join(f'{k}: …' for k in known)}")
            return {}
        for key in data:
            if key not in known:
                self._say(
                    (*path, key), f"is not known here{nearest(str(key), known) or '; known: ' + ', '.join(known)}"
                )
        return data

    def recipe(self, text: str) -> Recipe | None:
        data = self._mapping(self._document.data, (), ("name", "source", "steps", "output"))
        for required in ("source", "steps", "output"):
            if required not in data and isinstance(self._document.data, dict):
                self._say((), f"'{required}' is missing: a recipe has source, steps and output", "")
        name = data.get("name", "recipe")
        if not isinstance(name, str) or not name:
            self._say(("name",), f"{name!r} is not a name: write some text")
        source = self._source(data["source"]) if "source" in data else None
        known = {*ITEM_NAMES, *(source.columns if source else ())}
        steps = self._steps(data["steps"], known) if "steps" in data else ()
        output = self._output(data["output"], known) if "output" in data else None
        if source is None or output is None or not steps:
            return None
        return Recipe(str(name), source, steps, output, text)

    def _source(self, data: Any) -> Source | None:
        found = self._mapping(data, ("source",), ("images", "columns", "limit"))
        images = found.get("images")
        globs = (images,) if isinstance(images, str) else tuple(images) if isinstance(images, list) else ()
        if not globs or not all(isinstance(g, str) and g for g in globs):
            if isinstance(data, dict):
                self._say(("source", "images"), "is missing: write a glob such as 'photos/*.jpg'")
            globs = ()
        columns: dict[str, str] = {}
        given = found.get("columns") or {}
        if not isinstance(given, dict):
            self._say(("source", "columns"), f"{given!r} is not a mapping of names to templates")
            given = {}
        for name, template in given.items():
            path = ("source", "columns", name)
            if name in (*ITEM_NAMES, *IMAGE_FACTS) or not str(name).isidentifier():
                self._say(path, f"'{name}' cannot be a column's name: it is taken, or not a plain word")
            elif not isinstance(template, str):
                self._say(path, f"{template!r} is not text: write a template in quotes")
            else:
                self._template(template, path, {*ITEM_NAMES, *columns})
                columns[name] = template
        limit = found.get("limit")
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            self._say(("source", "limit"), f"{limit!r} is not a whole number above 0")
            limit = None
        return Source(globs, columns, limit) if globs else None

    def _output(self, data: Any, known: set[str]) -> Output | None:
        found = self._mapping(data, ("output",), ("path",))
        path = found.get("path")
        if not isinstance(path, str) or not path:
            if isinstance(data, dict):
                self._say(("output", "path"), "is missing: write a template such as 'out/{{ stem }}.png'")
            return None
        self._template(path, ("output", "path"), known)
        if path.startswith("file://"):
            self._say(("output", "path"), "write a plain path, without file://")
        if not templates.is_template(path):
            self._say(
                ("output", "path"), f"'{path}' is one file for all items: write a template such as '{{{{ stem }}}}'"
            )
        extension = path.rsplit(".", 1)[-1].lower() if "." in path.rsplit("/", 1)[-1] else ""
        if extension not in ("png", "jpg", "jpeg", "webp"):
            self._say(("output", "path"), f"'{path}' must end in .png, .jpg, .jpeg or .webp")
        return Output(path)

    def _template(self, text: str, path: tuple[str | int, ...], known: set[str]) -> None:
        problem = templates.syntax_problem(text, ".".join(map(str, path)))
        if problem is not None:
            self._say(path, problem.what)
            return
        for name in sorted(templates.names_in(text) - known):
            self._say(path, f"'{text}': nothing is called '{name}'{nearest(name, known) or _known(known)}")

    def _steps(self, data: Any, known: set[str]) -> tuple[Step, ...]:
        if not isinstance(data, list) or not data:
            self._say(("steps",), "is not a list of steps: write '- deblur: {}' and so on")
            return ()
        steps: list[Step] = []
        for index, given in enumerate(data):
            step = self._step(given, index, known, {s.id for s in steps})
            if step is not None:
                steps.append(step)
        return tuple(steps)

    def _step(self, data: Any, index: int, known: set[str], taken: set[str]) -> Step | None:
        path: tuple[str | int, ...] = ("steps", index)
        if isinstance(data, str):
            data = {data: {}}
        names = [key for key in data if key not in _STEP_KEYS] if isinstance(data, dict) else []
        if not isinstance(data, dict) or not names:
            self._say(path, f"{data!r} is not a step: write a tool and its parameters, such as 'deblur: {{}}'")
            return None
        name, extra = names[0], names[1:]
        for key in extra:
            hint = nearest(str(key), _STEP_KEYS)
            self._say((*path, key), f"a step has one tool, and id and when beside it{hint}; indent parameters below it")
        given = data[name] if data[name] is not None else {}
        if not isinstance(given, dict):
            self._say((*path, name), f"{given!r} is not a mapping of parameters")
            return None
        parameters = dict(given)
        tool = self._tool(str(name), parameters, path)
        if tool is None:
            return None
        self._parameters(tool, parameters, (*path, name), known)
        task = str(name).replace("-", "_") if str(name).replace("-", "_") in catalog.TASKS else tool.task
        if task in catalog.MODELS:
            parameters["model"] = tool.name
        step_id = data.get("id", task if task not in taken else f"{task}_{index}")
        if not isinstance(step_id, str) or not step_id.replace("-", "_").isidentifier():
            self._say((*path, "id"), f"{step_id!r} is not an id: write a plain word")
            step_id = f"step_{index}"
        elif step_id in taken:
            self._say((*path, "id"), f"'{step_id}' is the id of an earlier step, too: choose another")
        return Step(step_id, task, tool, parameters, self._when(data.get("when"), path, known))

    def _tool(self, name: str, parameters: Mapping[str, Any], path: tuple[str | int, ...]) -> Tool | None:
        try:
            return catalog.tool(name, parameters.get("model"), where=".".join(map(str, (*path, name))))
        except InvalidRequest as error:
            for problem in error.problems:
                named = (*path, name, "model") if problem.where.endswith(".model") else (*path, name)
                self._say(named, problem.what)
            return None

    def _parameters(
        self, tool: Tool, parameters: Mapping[str, Any], path: tuple[str | int, ...], known: set[str]
    ) -> None:
        fixed: dict[str, Any] = {}
        images = {*tool.image_fields, "image", "references"}
        for name, value in parameters.items():
            self._templates_within(value, (*path, name), known)
            if name in ("webhook_url", "webhook_secret"):
                self._say((*path, name), "a recipe waits for its jobs: leave the webhook out")
            elif name == tool.image_field or name == "image":
                self._say((*path, name), "comes from the step before: leave it out")
            elif name not in images and name not in (*_CALL_OPTIONS, "model"):
                fixed[name] = value
        dynamic = {name for name, value in fixed.items() if templates.is_template(value)}
        where = ".".join(map(str, path))
        shapes = {"width", "height"} if tool.options.model_fields else set()
        has_canvas = bool(shapes & fixed.keys()) or any(n in fixed for n in ("aspect_ratio", "expand"))
        if shapes and not has_canvas:
            self._say(path, "says no canvas: write aspect_ratio, expand, or width and height")
        for problem in tool.check(fixed, where=where):
            name = problem.where.removeprefix(f"{where}.").split(".")[0]
            missing_canvas = name in shapes and name not in fixed and not (shapes & fixed.keys())
            if name not in dynamic and not missing_canvas:
                rest = problem.where.removeprefix(f"{where}.").split(".")
                self._say((*path, *rest), problem.what)
        for name, mark in tool.image_fields.items():
            required = tool.request.model_fields[name].is_required()
            if mark.role == "mask" and name not in parameters:
                alpha = "" if required else ", or {alpha: true} for the transparent part of the image"
                self._say(path, f"needs {name}: write the path of a mask{alpha}")
            elif required and name != tool.image_field and name not in parameters:
                self._say(path, f"needs {name}: write the path of an image")
            elif mark.role == "mask" and isinstance(parameters[name], dict):
                self._mask(parameters[name], (*path, name))
        variant = parameters.get("variant", 0)
        if not templates.is_template(variant) and (isinstance(variant, bool) or not isinstance(variant, int)):
            self._say((*path, "variant"), f"{variant!r} is not a whole number")
        if parameters.get("fit", "error") not in ("error", "downscale"):
            self._say((*path, "fit"), f"{parameters['fit']!r} is not one of error, downscale")

    def _mask(self, data: dict[str, Any], path: tuple[str | int, ...]) -> None:
        try:
            Mask.of({name: value for name, value in data.items() if not templates.is_template(value) or name == "file"})
        except ValidationError as error:
            where = ".".join(map(str, path))
            for problem in mask_problems(error, where):
                self._say(
                    (*path, *problem.where.removeprefix(where).strip(".").split(".")), problem.what, problem.where
                )

    def _templates_within(self, value: Any, path: tuple[str | int, ...], known: set[str]) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                self._templates_within(inner, (*path, name), known)
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                self._templates_within(inner, (*path, index), known)
        elif templates.is_template(value):
            self._template(value, path, known)

    def _when(self, data: Any, path: tuple[str | int, ...], known: set[str]) -> str:
        if data is None:
            return ""
        text = data if isinstance(data, str) else str(data).lower() if isinstance(data, bool) else ""
        if not text:
            self._say((*path, "when"), f"{data!r} is not a condition: write one such as 'width > 800'")
            return ""
        problem = templates.syntax_problem(text, "", expression=True)
        if problem is not None:
            self._say((*path, "when"), problem.what)
            return ""
        facts = {*known, *IMAGE_FACTS, *(f"{name}_exists" for name in known)}
        for name in sorted(templates.names_in_expression(text) - facts):
            self._say((*path, "when"), f"'{text}': nothing is called '{name}'{nearest(name, facts) or _known(facts)}")
        return text


def _known(names: Iterable[str]) -> str:
    return f"; known here: {', '.join(sorted(names))}"
