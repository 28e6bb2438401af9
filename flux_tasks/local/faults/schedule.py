"""Schedules of faults that the service was seen to have, or may have.

A schedule is a seed and a list of rules, in YAML, as JSON over HTTP (``PUT /local/faults``) or in Python::

    seed: 7
    faults:
      - {fault: submit.answer, status: 429, retry_after: 2, count: 3}
      - {fault: submit.cut, charged: true, tool: deblur-v1, probability: 0.05}
      - {fault: delivery.garbage, every: 10}

A rule chooses submissions: those of its tools, after the first ``after``, each ``every``-th, at most ``count`` of them,
with ``probability``. Rules for a later phase act on the jobs of the submissions that they chose, on the first ``times``
polls, fetches or call-backs of each (0: on all). Of several rules for one phase, the first that matches acts. Chance
depends on the seed, the rule and the request, not on the order in which requests arrive, so that a schedule gives the
same faults again however many jobs are in flight.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flux_tasks import catalog
from flux_tasks.errors import Problem, RecipeError, nearest
from flux_tasks.local.faults.kinds import KINDS, Phase, Rule

__all__ = ["Armed", "Faults"]


_LATER: tuple[Phase, ...] = ("job", "poll", "delivery", "webhook")
_SINGLE: tuple[Phase, ...] = ("submit", "job", "webhook")


class Armed:
    """The faults that wait for one job.

    Args:
        rules: in the order of the schedule.
        acting: receives each rule when it is to act; false if its schedule was replaced meanwhile.
    """

    def __init__(self, rules: Sequence[Rule] = (), *, acting: Callable[[Rule], bool] = lambda _: True) -> None:
        self._rules = tuple(rules)
        self._left = [rule.times or -1 for rule in rules]
        self._acting = acting

    def take(self, phase: Phase) -> Rule | None:
        """Return the fault for this occasion of ``phase``, if there is one."""
        for index, rule in enumerate(self._rules):
            if rule.phase == phase and self._left[index]:
                self._left[index] -= 1
                return rule if self._acting(rule) else None
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
        seed, rules, problems = _read(schedule)
        if problems:
            raise RecipeError(problems)
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
        numbers = {id(rule): index for index, rule in chosen.items()}

        def acting(rule: Rule) -> bool:
            with self._lock:
                if counts is not self._acted:  # the schedule was replaced meanwhile
                    return False
                counts[numbers[id(rule)]] += 1
            if note is not None:
                note(rule)
            return True

        return Armed(list(chosen.values()), acting=acting)

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
            return {
                "seed": self._seed,
                "faults": [
                    {"fault": rule.name, **rule.model_dump(exclude_defaults=True), "acted": self._acted[index]}
                    for index, rule in enumerate(self._rules)
                ],
            }


def _read(schedule: Any) -> tuple[int, list[Rule], list[Problem]]:
    """Return seed and rules of a schedule, and everything that is wrong with it."""
    where = ""
    if isinstance(schedule, (str, Path)):
        where = f"{schedule}: "
        try:
            schedule = _load(Path(schedule))
        except (OSError, UnicodeDecodeError) as error:
            return 0, [], [Problem(str(schedule), f"cannot be read ({error})")]
        except ValueError as error:
            return 0, [], [Problem(str(schedule), f"is not YAML: {error}")]
    seed: Any = 0
    problems: list[Problem] = []
    if isinstance(schedule, Mapping):
        for name in schedule:
            if name not in ("seed", "faults"):
                hint = nearest(str(name), ["seed", "faults"]) or "; a schedule has seed and faults"
                problems.append(Problem(f"{where}{name}", f"is not known here{hint}"))
        seed, schedule = schedule.get("seed", 0), schedule.get("faults", [])
    if isinstance(seed, bool) or not isinstance(seed, int):
        problems.append(Problem(f"{where}seed", f"{seed!r} is not a whole number"))
    if not isinstance(schedule, (list, tuple)):
        return 0, [], [*problems, Problem(f"{where}faults", "is not a list of faults")]
    rules: list[Rule] = []
    for index, given in enumerate(schedule):
        rule, wrong = _rule(given, f"{where}faults.{index}")
        problems += wrong
        if rule is not None:
            rules.append(rule)
    return (seed, rules, problems) if not problems else (0, [], problems)


def _load(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) or []
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark is not None else ""
        raise ValueError(f"{line}{getattr(error, 'problem', None) or 'it cannot be parsed'}") from None


def _rule(given: Any, where: str) -> tuple[Rule | None, list[Problem]]:
    if isinstance(given, Rule):
        return given, []
    if isinstance(given, str):
        given = {"fault": given}
    if not isinstance(given, Mapping):
        return None, [Problem(where, f"{given!r} is not a fault: write fault: {next(iter(KINDS))}, and what it needs")]
    name = given.get("fault")
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        hint = nearest(str(name), KINDS) or f"; they are {', '.join(KINDS)}"
        return None, [Problem(f"{where}.fault", f"there is no fault {name!r}{hint}")]
    problems: list[Problem] = []
    try:
        rule = kind.model_validate(dict(given))
    except ValidationError as error:
        for e in error.errors(include_url=False):
            place = str(e["loc"][0])
            if e["type"] == "extra_forbidden":
                known = list(kind.model_fields)
                message = f"{name} has no such option{nearest(place, known) or '; it has ' + ', '.join(known)}"
            else:
                message = f"{e['input']!r}: {e['msg'][:1].lower()}{e['msg'][1:]}"
            problems.append(Problem(f"{where}.{'.'.join(str(p) for p in e['loc'])}", message))
        return None, problems
    tools: list[str] = []
    for tool in rule.tool:
        named = [t.name for t in catalog.TOOLS.values() if t.task == tool] or [
            t.name for t in [catalog.find(tool)] if t
        ]
        tools += named
        if not named:
            known = [*catalog.TASKS, *catalog.TOOLS]
            problems.append(
                Problem(f"{where}.tool", catalog.contested(tool) or f"there is no tool '{tool}'{nearest(tool, known)}")
            )
    return rule.model_copy(update={"tool": tools}), problems
