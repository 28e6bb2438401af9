"""The steps of a document, parsed one by one: what each does, its parameters and its options."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from flux_tasks import catalog
from flux_tasks.errors import InvalidRequest, Problem, cut, nearest, quote, shown
from pipelines.language.document.fields import name_problem
from pipelines.language.document.options import FunctionStep, StepOptions
from pipelines.language.model import Action
from pipelines.language.names import SOURCE, numbered
from pipelines.language.reading.includes import MAX_STEPS, Include, expand_recipes
from pipelines.language.reading.problems import Path, ProblemCollector, read_part
from pipelines.operations.registry import OPERATIONS
from pipelines.operations.user_function import UserFunction

OPTIONS = (*StepOptions.fields(),)
"""The names of all options beside a step."""


@dataclass(frozen=True)
class ParsedStep:
    """A step as it is written; which steps feed it is not known yet.

    Attributes:
        data: the whole mapping.
        name: what it is called by, as written.
        included_by: the id of the recipe that stands in the place of a step and has it, or an empty string.
    """

    data: Mapping[str, Any]
    name: str
    path: Path
    included_by: str
    task: str
    action: Action
    parameters: Mapping[str, Any]
    options: StepOptions
    id: str

    @property
    def at(self) -> Path:
        """Where its parameters are written."""
        return (*self.path, "with" if self.name == "call" else self.name)


LoadFunction: TypeAlias = Callable[[str], UserFunction]


class _Call(NamedTuple):
    task: str
    action: Action
    parameters: dict[str, Any]


@dataclass(frozen=True)
class ParsedSteps:
    """The steps of a document, those of included recipes among them; for ``stands_for`` see ``Expansion``."""

    steps: tuple[ParsedStep, ...] = ()
    stands_for: Mapping[str, str] = field(default_factory=dict)
    broken: frozenset[str] = frozenset()
    """Ids of steps and recipes that are not understood."""
    is_whole: bool = False
    """Every step is understood, and what feeds it."""


def parse_steps(
    data: Any, names: frozenset[str], include: Include, function: LoadFunction, problems: ProblemCollector
) -> ParsedSteps:
    """Parse the list of steps; a matrix cannot use ``names``, which templates of an item know."""
    if not isinstance(data, list) or not data:
        problems.add(("steps",), "is not a list of steps: write '- deblur: {}' and so on")
        return ParsedSteps()
    if len(data) > MAX_STEPS:
        problems.add(
            ("steps",), f"has {len(data):,} steps, and a recipe at most {MAX_STEPS:,}: use a matrix or a table"
        )
        return ParsedSteps()
    expansion = expand_recipes(data, include, problems)
    parser = _Parser(names, expansion.stands_for, function, problems)
    broken = set(expansion.broken)
    for given, path, included_by in expansion.steps:
        if not parser.parse(given, path, included_by) and isinstance(given, dict) and "id" in given:
            broken.add(str(given["id"]))
    is_whole = not expansion.broken and len(parser.steps) == len(expansion.steps)
    is_whole = is_whole and not any((*step.path, "from") in problems.paths for step in parser.steps)
    return ParsedSteps(tuple(parser.steps), expansion.stands_for, frozenset(broken), is_whole)


@dataclass(frozen=True)
class _Parser:
    names: frozenset[str]
    stands_for: Mapping[str, str]
    function: LoadFunction
    problems: ProblemCollector
    steps: list[ParsedStep] = field(default_factory=list)

    def parse(self, data: Any, path: Path, included_by: str) -> bool:
        """Add a step to ``steps``; return False if it is not understood."""
        if isinstance(data, str):
            data = {data: {}}
        names = [key for key in data if key not in OPTIONS] if isinstance(data, dict) else []
        if not names:
            what = f"{shown(data)} is not a step: write a tool and its parameters, such as 'deblur: {{}}'"
            self.problems.add(path, what)
            return False
        name, *extra = names
        for key in extra:
            what = f"a step has one tool; its other keys are {', '.join(OPTIONS)}{nearest(str(key), OPTIONS)}"
            self.problems.add((*path, key), f"{what}; indent parameters below it")
        options = self._options(name, data, path)
        found = self._call(data, options, path) if name == "call" else self._named(str(name), data, path)
        if found is None:
            return False
        step_id = self._id(options.id, found, path)
        self.steps.append(ParsedStep(data, str(name), path, included_by, *found, options, step_id))
        return True

    def _options(self, name: str, data: Mapping[str, Any], path: Path) -> StepOptions:
        if "with" in data and name != "call":
            tool = cut(str(name))
            what = f"is for call and recipe only: write the parameters of {tool} after its name, {tool}: {{…}}"
            self.problems.add((*path, "with"), what)
        if data.get("on_failure") is not None and data.get("expect") is None:
            what = "has no meaning without expect: write expect, too, such as {solid: false}"
            self.problems.add((*path, "on_failure"), what)
        written = {key: data[key] for key in OPTIONS if key in data}
        options = read_part(StepOptions, written, path, self.problems) or StepOptions()
        for varied in self.names & options.matrix.keys():
            self.problems.add((*path, "matrix", varied), name_problem(varied))
        return options

    def _named(self, name: str, data: Mapping[str, Any], path: Path) -> _Call | None:
        """Return what a step does that is called by a name."""
        given = data[name] if data[name] is not None else {}
        if not isinstance(given, dict):
            self.problems.add((*path, name), f"{shown(given)} is not a mapping of parameters")
            return None
        word = name.replace("-", "_")
        if word in OPERATIONS:
            return _Call(word, OPERATIONS[word], dict(given))
        varied = data.get("matrix")
        models = varied.get("model") if isinstance(varied, dict) else None
        models = models if isinstance(models, list) else []
        at = (*path, name)
        try:
            tool = catalog.tool(name, models[0] if models else given.get("model"), where=".".join(map(str, at)))
        except InvalidRequest as error:
            self._report(error, word, at, (*path, "matrix", "model", 0) if models else (*at, "model"))
            if word not in catalog.MODELS:
                return None
            tool = catalog.tool(word)  # so that what else is wrong is found, too
        task = word if word in catalog.TASKS else tool.task
        is_varied = isinstance(varied, dict) and "model" in varied
        chosen = {"model": tool.name} if task in catalog.MODELS and not is_varied else {}
        return _Call(task, tool, {**given, **chosen})

    def _report(self, error: InvalidRequest, word: str, at: Path, at_model: Path) -> None:
        hint = nearest(word, OPERATIONS) or f"; there are {', '.join((*catalog.TASKS, *OPERATIONS, 'call, recipe'))}"
        for problem in error.problems:
            is_model = problem.where.endswith(".model")
            is_complete = "did you mean" in problem.what or is_model or bool(catalog.contested(word))
            self.problems.add(at_model if is_model else at, problem.what + ("" if is_complete else hint))

    def _call(self, data: Mapping[str, Any], options: StepOptions, path: Path) -> _Call | None:
        """Return what a step does that calls a user's own function."""
        step = read_part(FunctionStep, {"call": data["call"]}, path, self.problems)
        if step is None:
            return None
        try:
            return _Call("call", self.function(step.call), dict(options.arguments))
        except InvalidRequest as error:
            for problem in error.problems or (Problem("", str(error)),):
                self.problems.add((*path, "call"), problem.what)
            return None

    def _id(self, chosen: str, call: _Call, path: Path) -> str:
        taken = {step.id for step in self.steps}
        if chosen in taken or chosen in self.stands_for:
            self.problems.add((*path, "id"), f"{quote(chosen)} is the id of an earlier step, too: choose another")
        elif chosen:
            return chosen
        base = call.task
        if isinstance(call.action, UserFunction):
            base = call.action.reference.rpartition(":")[2].rpartition(".")[2]
        return numbered(base, taken | {SOURCE})
