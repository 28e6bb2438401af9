"""Schedules of faults that the service was seen to have, or may have.

A schedule is ``{seed: 7, faults: [{fault: submit.cut, tool: deblur-v1, every: 10}]}``: in YAML, in Python, or as JSON
over HTTP (``PUT /local/faults``). A rule chooses submissions: those of its tools, after the first ``after``, each
``every``-th, at most ``count`` of them, with ``probability``. Rules for a later phase act on the jobs of the
submissions that they chose, on the first ``times`` polls, fetches or call-backs of each (0: on all). Of several rules
for one phase, the first that matches acts. Chance depends on the seed, the rule and the request, not on the order in
which requests arrive: a schedule gives the same faults again however many jobs are in flight.
"""

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flux_tasks import catalog
from flux_tasks.errors import Problem, RecipeError, nearest, reason_of, shown
from flux_tasks.local.faults.kinds import KINDS, Phase, Rule

_LATER: tuple[Phase, ...] = ("job", "poll", "delivery", "webhook")
_SINGLE: tuple[Phase, ...] = ("submit", "job", "webhook")


class Armed:
    """The faults that wait for one job, by their number in the schedule.

    ``acting`` receives the number of each rule that is to act, and is false if its schedule was replaced meanwhile.
    """

    def __init__(self, rules: Mapping[int, Rule], acting: Callable[[int], bool]) -> None:
        self._rules = rules
        self._left = {number: rule.times or -1 for number, rule in rules.items()}
        self._acting = acting

    def take(self, phase: Phase) -> Rule | None:
        """Return the fault for this occasion of ``phase``, if there is one."""
        for number, rule in self._rules.items():
            if rule.phase == phase and self._left[number]:
                self._left[number] -= 1
                return rule if self._acting(number) else None
        return None


class Faults:
    """A schedule, and how often each of its rules has acted. May be changed from any thread.

    Args:
        schedule: a list of rules as mappings, ``{"seed": …, "faults": […]}``, or the path of a YAML file with either.

    Raises:
        RecipeError: with every problem of the schedule.
    """

    def __init__(self, schedule: Any = ()) -> None:
        self._lock = threading.Lock()
        self.set(schedule)

    def set(self, schedule: Any) -> None:
        """Replace the schedule, also for jobs that are running, and begin all counts at 0.

        Raises:
            RecipeError: with every problem of the schedule; the old one holds on.
        """
        seed, rules = _read(schedule)
        with self._lock:
            self._seed, self._rules = seed, rules
            self._seen: Counter[int] = Counter()
            self._chosen: Counter[int] = Counter()
            self._acted: Counter[int] = Counter()
            self._occasions: Counter[tuple[int, str]] = Counter()

    def clear(self) -> None:
        """Produce no faults from now on."""
        self.set(())

    def submission(self, tool: str, key: str) -> Rule | None:
        """Return the fault for a submission of ``tool`` whose request has the key ``key``."""
        with self._lock:
            for index in self._choose(tool, key, ("submit",)):
                self._acted[index] += 1
                return self._rules[index]
        return None

    def job(self, tool: str, key: str, *, note: Callable[[Rule], None] | None = None) -> Armed:
        """Return the faults of all later phases for a new job; ``note`` receives each that happens."""
        with self._lock:
            chosen = {index: self._rules[index] for index in self._choose(tool, key, _LATER)}
            counts = self._acted

        def acting(number: int) -> bool:
            with self._lock:
                if counts is not self._acted:  # the schedule was replaced meanwhile
                    return False
                counts[number] += 1
            if note is not None:
                note(chosen[number])
            return True

        return Armed(chosen, acting)

    def _choose(self, tool: str, key: str, phases: tuple[Phase, ...]) -> list[int]:
        """Return the rules that act: for phases that happen once the first, for polls and fetches all."""
        chosen: list[int] = []
        taken: set[Phase] = set()
        for index, rule in enumerate(self._rules):
            if rule.phase not in phases or (rule.tool and tool not in rule.tool):
                continue
            number = self._seen[index]
            self._seen[index] += 1  # also where another rule acts: `after` and `every` count submissions
            if rule.phase not in taken and self._chooses(index, rule, number, key):
                chosen.append(index)
                if rule.phase in _SINGLE:
                    taken.add(rule.phase)
        return chosen

    def _chooses(self, index: int, rule: Rule, number: int, key: str) -> bool:
        if number < rule.after or (number - rule.after + 1) % rule.every:
            return False
        if rule.count is not None and self._chosen[index] >= rule.count:
            return False
        if rule.probability < 1:
            occasion = self._occasions[index, key]
            self._occasions[index, key] += 1
            drawn = hashlib.sha256(f"{self._seed}:{index}:{key}:{occasion}".encode()).digest()
            if int.from_bytes(drawn[:8], "big") >= rule.probability * 2**64:
                return False
        self._chosen[index] += 1
        return True

    def to_dict(self) -> dict[str, Any]:
        """Return the schedule, and how often each rule has acted; JSON-ready."""
        with self._lock:
            faults = [
                {"fault": rule.name, **rule.model_dump(exclude_defaults=True), "acted": self._acted[index]}
                for index, rule in enumerate(self._rules)
            ]
            return {"seed": self._seed, "faults": faults}


def _read(schedule: Any) -> tuple[int, list[Rule]]:
    """Return seed and rules of a schedule, or raise a RecipeError with everything that is wrong with it."""
    where = ""
    if isinstance(schedule, (str, Path)):
        where, schedule = f"{schedule}: ", _load(schedule)
    seed: Any = 0
    rules: list[Rule] = []
    problems: list[Problem] = []
    if isinstance(schedule, Mapping):
        for name in schedule:
            if name not in ("seed", "faults"):
                hint = nearest(str(name), ["seed", "faults"]) or "; a schedule has seed and faults"
                problems.append(Problem(f"{where}{name}", f"unknown key{hint}"))
        seed, schedule = schedule.get("seed", 0), schedule.get("faults", [])
    if isinstance(seed, bool) or not isinstance(seed, int):
        problems.append(Problem(f"{where}seed", f"{shown(seed)} is not a whole number"))
    if not isinstance(schedule, (list, tuple)):
        raise RecipeError([*problems, Problem(f"{where}faults", "is not a list of faults")])
    for index, given in enumerate(schedule):
        try:
            rules.append(_rule(given, f"{where}faults.{index}"))
        except RecipeError as error:
            problems += error.problems
    if problems:
        raise RecipeError(problems)
    return seed, rules


def _load(file: str | Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(Path(file).read_text(encoding="utf-8")) or []
    except (OSError, UnicodeDecodeError) as error:
        problem = f"cannot be read ({reason_of(error)})"
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark is not None else ""
        problem = f"is not YAML: {line}{getattr(error, 'problem', error) or 'it cannot be parsed'}"
    raise RecipeError([Problem(str(file), problem)])


def _rule(given: Any, where: str) -> Rule:
    if isinstance(given, Rule):
        return given
    if isinstance(given, str):
        given = {"fault": given}
    if not isinstance(given, Mapping):
        what = f"{shown(given)} is not a fault: write fault: {next(iter(KINDS))}, and what it needs"
        raise RecipeError([Problem(where, what)])
    name = given.get("fault")
    kind = KINDS.get(str(name))
    if kind is None:
        hint = nearest(str(name), KINDS) or f"; they are {', '.join(KINDS)}"
        raise RecipeError([Problem(f"{where}.fault", f"there is no fault {shown(name)}{hint}")])
    problems: list[Problem] = []
    try:
        rule = kind.model_validate({option: value for option, value in given.items() if option != "fault"})
    except ValidationError as error:
        known = ["fault", *kind.model_fields]
        for e in error.errors(include_url=False):
            message = f"{shown(e['input'])}: {e['msg'][:1].lower()}{e['msg'][1:]}"
            if e["type"] == "extra_forbidden":
                message = (
                    f"{name} has no such option{nearest(str(e['loc'][0]), known) or '; it has ' + ', '.join(known)}"
                )
            problems.append(Problem(f"{where}.{'.'.join(map(str, e['loc']))}", message))
        raise RecipeError(problems) from None
    tools: list[str] = []
    for tool in rule.tool:
        named = [t.name for t in catalog.TOOLS.values() if t.task == tool or t is catalog.find(tool)]
        tools += named
        if not named:
            hint = nearest(tool, [*catalog.TASKS, *catalog.TOOLS])
            what = catalog.contested(tool) or f"there is no tool {shown(tool)}{hint}"
            problems.append(Problem(f"{where}.tool", what))
    if problems:
        raise RecipeError(problems)
    return rule.model_copy(update={"tool": tools})
