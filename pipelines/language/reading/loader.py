"""Load a recipe: from a file, from text, or from plain data; every problem that it has is reported at once."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flux_tasks import files
from flux_tasks.errors import InvalidRequest, Problem, RecipeError, cut, listed, nearest, quote, reason_of
from flux_tasks.files.remote.rules import option_problems
from flux_tasks.settings import is_secret
from pipelines.language.compiled import CompiledRecipe
from pipelines.language.document.fields import name_problem
from pipelines.language.document.on_end import OnEnd
from pipelines.language.document.output import Output
from pipelines.language.document.recipe import REQUIRED, TABLE_TYPES, RecipeDocument, Source
from pipelines.language.names import ITEM_NAMES, LABEL_NAMES, SOURCE
from pipelines.language.reading import yaml
from pipelines.language.reading.includes import MAX_DEPTH, Include, IncludedSteps
from pipelines.language.reading.links import Links, axes_of, check_matrices, check_unused, link_steps
from pipelines.language.reading.outputs import check_output
from pipelines.language.reading.parameters import check_step
from pipelines.language.reading.problems import ProblemCollector, read_part
from pipelines.language.reading.scope import Scope, check_condition, check_template
from pipelines.language.reading.steps import LoadFunction, ParsedSteps, parse_steps
from pipelines.operations import user_function
from pipelines.operations.user_function import UserFunction


def load(location: str | Path, variables: Mapping[str, Any] | None = None, *, no_code: str = "") -> CompiledRecipe:
    """Read and check a YAML file on any location.

    Args:
        variables: values for its ``vars`` that replace those in the file.
        no_code: why it may call no function of Python, and what to do instead; empty if it may.

    Raises:
        RecipeError: with every problem, its line and what to write instead.
    """
    return parse(_text_of(str(location)), file=str(location), variables=variables, no_code=no_code)


def parse(
    text: str, *, file: str = "", variables: Mapping[str, Any] | None = None, no_code: str = ""
) -> CompiledRecipe:
    """Check the text of a recipe; see ``load``."""
    return replace(_Loader(file, no_code=no_code).compile(yaml.load(text), variables or {}), yaml=text)


def compile_data(data: Mapping[str, Any], included: Mapping[str, CompiledRecipe] | None = None) -> CompiledRecipe:
    """Check a recipe that is given as plain data; ``included`` has recipes that it uses as steps, by their names."""
    return _Loader("", included=included or {}).compile(yaml.Document(data), {})


@dataclass
class _Loader:
    """Reads one recipe and the recipes that it uses as steps; each of these is read once.

    For ``no_code`` see ``load``.
    """

    file: str
    within: tuple[str, ...] = ()
    """The recipes that use it, the outermost first."""
    known: dict[str, IncludedSteps | RecipeError] = field(default_factory=dict)
    included: Mapping[str, CompiledRecipe] = field(default_factory=dict)
    functions: dict[str, UserFunction] = field(default_factory=dict)
    """What the recipes that are read call, each by the rules of its own place."""
    no_code: str = ""

    def compile(self, document: yaml.Document, variables: Mapping[str, Any]) -> CompiledRecipe:
        problems = ProblemCollector(document)
        compiled = None
        if document.data is not None:
            compiled = _compile(document.data, self._include, self._function, variables, problems)
            _check_calls(compiled.on_end if compiled else (), self._no_commands(document), problems)
        if compiled is None or problems.problems:
            in_order = sorted(dict.fromkeys(problems.problems), key=lambda problem: problem.line or 0)
            raise RecipeError(in_order, file=self.file)
        read = {"file": self.file, "written": document.data, "lines": document.lines, "no_code": self.no_code}
        return replace(compiled, **read, variables=dict(variables))

    def _no_commands(self, document: yaml.Document) -> str:
        """Return why the recipe may run no command at its end; empty if it may: if it is a file here, or Python."""
        is_python = not self.file and not self.within and not document.lines
        if self.no_code or is_python or (self.file and files.is_local(self.file)):
            return self.no_code
        return "only a run of a recipe file on this machine runs commands: take it out, and name it in FLUX_ON_END"

    def _include(self, location: str) -> IncludedSteps:
        if location in self.included:
            self.functions |= self.included[location].functions
            return self.included[location].as_steps()
        place = _place(location)
        if place not in self.known:
            users = (*self.within, self.file)
            if place in map(_place, filter(None, users)):
                way = " → ".join((*filter(None, users), location))
                raise RecipeError([Problem("", f"is a step of itself: take it out: {way}")])
            if len(users) > MAX_DEPTH:
                raise RecipeError([Problem("", f"lies more than {MAX_DEPTH} recipes deep: nest fewer")])
            try:
                inner = _Loader(location, users, self.known, functions=self.functions, no_code=self.no_code)
                self.known[place] = inner.compile(_included(location), {}).as_steps()
            except RecipeError as error:
                self.known[place] = error
        found = self.known[place]
        if isinstance(found, RecipeError):
            raise found
        return found

    def _function(self, reference: str) -> UserFunction:
        if self.no_code:
            raise InvalidRequest.of([Problem("call", f"{cut(reference)} is not called: {self.no_code}")])
        if reference not in self.functions:
            is_here = files.is_local(self.file)
            folder = files.local_path(self.file).absolute().parent if self.file and is_here else Path.cwd()
            self.functions[reference] = user_function.load(reference, folder=folder if is_here else None)
        return self.functions[reference]


def _place(location: str) -> str:
    """Return a location such that a file on this machine has one, however it is written."""
    return str(files.local_path(location).resolve()) if files.is_local(location) else location


def _included(location: str) -> yaml.Document:
    """Read a recipe that another one names; nothing is said of the text of a file that is none.

    Raises:
        RecipeError: it is no recipe.
    """
    document = yaml.load(_text_of(location))
    given = document.data if isinstance(document.data, dict) else {}
    if missing := [name for name in REQUIRED if name not in given]:
        line = next((problem.line for problem in document.problems if problem.line), None)
        lacks = (
            f"it has no {' and no '.join(missing)}" if given else "it is not valid YAML" if line else "it is no mapping"
        )
        raise RecipeError([Problem("", f"is not a recipe: {lacks}", line)], file=location)
    return document


def _text_of(location: str) -> str:
    try:
        return files.read(location, limit=10_000_000).decode()
    except FileNotFoundError:
        raise RecipeError([Problem("", "there is no such recipe file")], file=files.quoted(location)) from None
    except UnicodeDecodeError:
        raise RecipeError([Problem("", "is not a recipe: it is not text")], file=files.quoted(location)) from None
    except OSError as error:
        raise RecipeError([Problem("", f"cannot be read: {reason_of(error)}")], file=files.quoted(location)) from None


def _compile(
    data: Any,
    include: Include,
    function: LoadFunction,
    changes: Mapping[str, Any],
    problems: ProblemCollector,
) -> CompiledRecipe | None:
    head = {name: value for name, value in data.items() if name != "output"} if isinstance(data, dict) else data
    written = read_part(RecipeDocument, head, (), problems)
    if written is None:
        return None
    for required in REQUIRED:
        if required not in data:
            problems.add((), f"'{required}' is missing: a recipe has {', '.join(REQUIRED[:-1])} and {REQUIRED[-1]}", "")
    variables = _variables(written.vars, changes, problems)
    _check_env(written.env, problems)
    for place, what in option_problems(written.storage_options, is_recipe=True):
        problems.add(("storage_options", *place), what)
    env = {"env": {name: os.environ.get(name, "") for name in written.env}} if written.env else {}
    constants = {**variables, **env}
    has_table = bool(written.source and written.source.has_rows)
    given = Source.expand(data.get("source"))
    has_labels = isinstance(given, dict) and given.get("annotations") is not None  # be they right or wrong
    scope = Scope(frozenset(constants), constants, has_table, has_labels)
    source = written.source and _checked_source(written.source, Source.expand(data["source"]), scope, problems)
    own = (*ITEM_NAMES, *(("row",) if has_table else ()), *(LABEL_NAMES if has_labels else ()))
    scope = scope.plus((*own, *(source.columns if source else ())))
    parsed = parse_steps(data["steps"], scope.names, include, function, problems) if "steps" in data else ParsedSteps()
    links = link_steps(parsed, problems)
    for linked in links.steps:
        check_step(linked, links, scope, source)
    if not links.is_circular:
        check_matrices(links)
    steps = tuple(linked.step for linked in links.steps)
    outputs = _outputs(data["output"], links, scope) if "output" in data else ()
    _check_label_files(outputs, scope, problems)
    if steps and outputs:
        check_unused(links, [output.step for output in outputs])
    if source is None or not steps or not outputs:
        return None
    return CompiledRecipe(
        name=written.name,
        source=source,
        steps=steps,
        outputs=outputs,
        vars=variables,
        env=written.env,
        budget=written.budget,
        storage_options=written.storage_options,
        on_end=written.on_end,
        transport=written.transport,
        wanted=tuple(problems.wanted),
        own=tuple(problems.own),
    )


def _variables(given: Mapping[str, Any], changes: Mapping[str, Any], problems: ProblemCollector) -> dict[str, Any]:
    """Return the variables, with the caller's values."""
    found = dict(given)
    for name, value in changes.items():
        if name in found:
            found[name] = _read_as(value, found[name])
        else:
            hint = nearest(name, found) or f"; it has {listed(sorted(found)) or 'none'}"
            problems.add(("vars",), f"there is no variable {quote(name)} to be set{hint}", f"variables.{name}")
    return found


def _check_env(names: Sequence[str], problems: ProblemCollector) -> None:
    for index, name in enumerate(names):
        at = ("env", index)
        if is_secret(name):
            problems.add(at, f"{cut(name)} sounds like a secret, which has no place in a prompt or a path: take it out")
        elif name not in os.environ:
            problems.add(at, f"the environment has no {cut(name)}: set it, or take it out of the list")


def _check_calls(calls: Sequence[OnEnd], no_commands: str, problems: ProblemCollector) -> None:
    for index, call in enumerate(calls):
        at = ("on_end", *((index,) if len(calls) > 1 else ()))
        if call.problem:
            problems.add(at, call.problem)
        elif call.command and no_commands:
            problems.add((*at, "command"), f"{cut(call.name)} is refused: {no_commands}")
        elif call.webhook.startswith("http://"):
            problems.add((*at, "webhook"), "is plain http: write https, or name it in FLUX_ON_END")


_FROM = {"images": "globs", "table": "a table", "dataset": "a dataset"}


def _checked_source(source: Source, data: Mapping[str, Any], scope: Scope, problems: ProblemCollector) -> Source:
    """Return the source, after checking what no single field of ``data``, as it is written, says."""
    at = ("source",)
    given = [name for name in ("dataset", "table", "images") if data.get(name) is not None or name == "table" in data]
    for name in given[1:]:
        what = f"cannot be used together with {given[0]}: keep one, because items come from {_FROM[name]} or from "
        problems.add((*at, name), f"{what}{_FROM[given[0]]}")
        source = source.model_copy(update={name: type(source).model_fields[name].default})
    if not given:
        problems.add((*at, "images"), "is missing: write a glob such as 'photos/*.jpg', a table or a dataset")
    for name in ("format", "split", "config") if "dataset" not in given else ():
        if data.get(name):
            problems.add((*at, name), "belongs to a dataset: write dataset, a folder or its files, or take it out")
    for pattern in source.images:
        ending = files.extension(pattern)
        if ending in ("tar", "parquet", "arrow") and pattern.lower().endswith(f".{ending}"):
            problems.add(
                (*at, "images"),
                f"{quote(pattern)}: a .{ending} file has many pictures: write dataset in place of images",
            )
    if source.table and files.extension(source.table) not in TABLE_TYPES:
        *others, last = (f".{name}" for name in TABLE_TYPES)
        problems.add((*at, "table"), f"{quote(source.table)} must end in {', '.join(others)} or {last}")
    if source.image and not source.has_rows:
        problems.add((*at, "image"), "belongs to a table or a dataset: write images, a glob, or add table")
    elif source.image:
        check_template(source.image, (*at, "image"), scope.plus(("index", "row")), problems)
    if source.dedupe is not None and not source.has_pictures and given:
        problems.add((*at, "dedupe"), "compares pictures, and these items have none: add image, or take it out")
    label_names = LABEL_NAMES if scope.has_labels else ()
    for name in sorted(scope.constants.keys() & set(label_names)):
        problems.add(("vars", name), f"{name_problem(name)}: annotations of the source give it one")
    known = scope.plus((*ITEM_NAMES, *(("row",) if source.has_rows else ()), *label_names))
    for name, template in source.columns.items():
        place = (*at, "columns", name)
        if name in scope.names or name in label_names:
            problems.add(place, name_problem(name))
        check_template(template, place, known, problems)
        known = known.plus((name,))
    if source.filter:
        check_condition(source.filter, (*at, "filter"), known, problems)
    return source


def _outputs(data: Any, links: Links, scope: Scope) -> tuple[Output, ...]:
    """Return the outputs, each with the step whose result it is; without an id if that is not known."""
    steps, problems = links.by_id, links.problems
    last = next(reversed(steps), SOURCE)
    found: list[Output] = []
    if data == []:
        problems.add(("output",), "is empty: write {path: 'out/{{ stem }}.png'}")
    for index, given in enumerate(data if isinstance(data, list) else [data]):
        at = ("output", *((index,) if isinstance(data, list) else ()))
        output = read_part(Output, given, at, problems)
        if output is None:
            continue
        step = links.find(output.step, (*at, "from")) if output.step else last
        axes = axes_of(step, links)
        output = check_output(output, given, at, axes, scope, problems)
        place = (*at, "dataset" if output.dataset else "path")
        if any(other.place == output.place for other in found if output.path):
            problems.add(place, f"{quote(output.path)} is the path of another output, too: choose another")
        elif output.dataset and any(_is_in(output.dataset, other) for other in found):
            problems.add(place, f"{quote(output.dataset)} is another output's, too: a dataset has a folder of its own")
        elif output.path and any(other.save == output.path for other in steps.values()):
            problems.add(place, f"{quote(output.path)} is where a step is saved, too: choose another path")
        found.append(output.model_copy(update={"step": "" if (*at, "from") in problems.paths else step}))
    return tuple(found)


def _check_label_files(outputs: Sequence[Output], scope: Scope, problems: ProblemCollector) -> None:
    """Check that there are labels to be written."""
    for index, output in enumerate(outputs):
        at = ("output", *((index,) if len(outputs) > 1 else ()), "annotations")
        if output.annotations and not scope.has_labels:
            what = "the source has no annotations: write source.annotations, the path of its labels, or leave this out"
            problems.add(at, what)


def _is_in(dataset: str, other: Output) -> bool:
    """Check whether the folder of a dataset has another output in it, or is in another dataset."""
    place = other.dataset or other.root
    return f"{place}/".startswith(f"{dataset}/") or (bool(other.dataset) and f"{dataset}/".startswith(f"{place}/"))


def _read_as(value: Any, default: Any) -> Any:
    """Read a text as YAML would if it replaces something that is no text: ``--set take=3`` sets a number."""
    if not isinstance(value, str) or isinstance(default, str):
        return value
    return yaml.load(value).data if value.strip() and not yaml.load(value).problems else value
