"""How long a job takes, by tool and with jitter."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from flux_tasks import catalog
from flux_tasks.errors import Problem, RecipeError, nearest

LatencySpec: TypeAlias = float | tuple[float, float]
"""Seconds, or a pair of mean and jitter."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds a job takes at least: ``mean``, give or take ``jitter``."""

    mean: float = 0.0
    jitter: float = 0.0

    def draw(self, key: str) -> float:
        """Return seconds between ``mean - jitter`` and ``mean + jitter``; the same for the same request."""
        share = random.Random(key).uniform(-1.0, 1.0)  # noqa: S311 - no secret
        return max(0.0, self.mean + self.jitter * share)


def latencies(spec: LatencySpec | Mapping[str, LatencySpec]) -> dict[str, Latency]:
    """Return latencies by the API's tool names; ``*`` for all others.

    Raises:
        RecipeError: no such tool, or not a number of seconds.
    """
    by_tool = spec if isinstance(spec, Mapping) else {"*": spec}
    found: dict[str, Latency] = {}
    problems: list[Problem] = []
    for name, value in by_tool.items():
        named = [t.name for t in catalog.TOOLS.values() if t.task == name or t is catalog.find(name)]
        if name != "*" and not named:
            what = catalog.contested(name) or f"there is no tool '{name}'{nearest(name, catalog.TOOLS)}"
            problems.append(Problem("latency", what))
        mean, jitter = value if isinstance(value, tuple) else (value, 0.0)
        if not all(isinstance(part, (int, float)) and math.isfinite(part) and part >= 0 for part in (mean, jitter)):
            problems.append(Problem("latency", f"{value!r} is not a number of seconds, nor a pair of mean and jitter"))
        else:
            found |= dict.fromkeys(named or [name], Latency(mean, jitter))
    if problems:
        raise RecipeError(problems)
    return found


def parse(text: str) -> dict[str, LatencySpec]:
    """Parse the text of a command line: ``2``, ``2~0.5``, ``deblur-v1=3~1,*=2``.

    Raises:
        ValueError: it has another form.
    """
    found: dict[str, LatencySpec] = {}
    for part in text.split(","):
        tool, _, seconds = part.rpartition("=")
        mean, _, jitter = seconds.partition("~")
        found[tool.strip() or "*"] = (float(mean), float(jitter or 0))
    return found
