"""Check what holds for all steps together: what is varied, how often, and which steps lead to an output."""

from collections.abc import Collection, Mapping, Sequence
from math import prod

from flux_tasks.errors import nearest
from pipelines.language import templates
from pipelines.language.actions import parameter_types
from pipelines.language.graph import ancestors, dependencies_of, is_parameter
from pipelines.language.model import Step
from pipelines.language.reading.links import Links
from pipelines.language.reading.problems import Path, ProblemCollector

MAX_NODES = 10_000
"""Combinations that the matrices of one recipe may make of its steps."""


def axes_of(step: str, steps: Mapping[str, Step]) -> list[str]:
    """Return the names that are varied by a step and by all steps that feed it."""
    return [name for found in (step, *ancestors(step, steps)) if found in steps for name in steps[found].matrix]


def check_matrices(links: Links) -> None:
    """Check that no name is varied twice on one way, and that there are not too many combinations."""
    steps, total = links.by_id, 0
    for linked in links.steps:
        step, path = linked.step, linked.parsed.path
        lineage = {step.id, *ancestors(step.id, steps)}
        varying = [other for other in steps.values() if other.id in lineage]
        by_name: dict[str, list[str]] = {}
        for other in varying:
            for name in other.matrix:
                by_name.setdefault(name, []).append(other.id)
        before = [{fed, *ancestors(fed, steps)} for fed in dependencies_of(step)]
        for name, ids in by_name.items():
            if len(ids) > 1 and not any(len(set(ids) & way) > 1 for way in before):  # reported where they meet
                what = f"'{name}' is varied by {' and '.join(ids)}: give one of them another name, "
                example = f'such as matrix: {{take: […]}} and the parameter {name}: "{{{{ take }}}}"'
                links.problems.add((*path, "matrix", name) if name in step.matrix else path, what + example)
        total += prod(len(values) for other in varying for values in other.matrix.values())
        if total > MAX_NODES:
            links.problems.add(
                path, f"the matrices make more than {MAX_NODES:,} combinations of steps: shorten their lists"
            )
            return


def check_unused(links: Links, outputs: Sequence[str]) -> None:
    """Check that every step leads to an output, or is saved, and that every name that is varied is used.

    Args:
        outputs: ids of the steps whose results are outputs.
    """
    steps = links.by_id
    used: set[str] = set()
    for end in (*outputs, *(step.id for step in steps.values() if step.save)):
        used |= {end, *ancestors(end, steps)}
    for linked in links.steps:
        step, path = linked.step, linked.parsed.path
        if step.id not in used and links.is_whole and all(outputs):
            remedy = "name it in output, in another step's from, or save it"
            links.problems.add(path, f"'{step.id}' is used by no output: {remedy}")
        for name in step.matrix:
            if name not in links.problems.used and not is_parameter(step, name):
                hint = nearest(name, parameter_types(step.action))
                what = f"is no parameter of {linked.parsed.name}, and no template uses it{hint}"
                links.problems.add((*path, "matrix", name), f"{what}: every value would give the same result")


def check_variants(template: str, axes: Collection[str], path: Path, problems: ProblemCollector) -> None:
    """Check that a path is another one for every combination of what is varied."""
    if templates.syntax_problem(template, "") is not None:
        return
    used = templates.names_in(template)
    missing = sorted(set(axes) - used)
    if missing and "variant" not in used:
        what = f"'{template}' is one file for every {', '.join(missing)}: write {{{{ variant }}}} into it"
        problems.add(path, what)
